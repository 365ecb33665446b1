"""Files that cannot be used, named on standard error."""

from collections import Counter
from collections.abc import Sequence

from imgsearch.cli.terminal import printable, say
from imgsearch.images.reject import Reject

# A folder with thousands of files of one bad kind should not fill a mailbox with them.
_SHOWN_OF_A_CAUSE = 20

REJECTED_EXIT_CODE = 3


def say_rejects(rejects: Sequence[Reject], elsewhere: str) -> None:
    """Name rejected files, and count those of a cause that has many.

    Args:
        rejects: The files.
        elsewhere: Where all of them are named.
    """
    shown: Counter[str] = Counter()
    for reject in rejects:
        shown[reject.cause] += 1
        if shown[reject.cause] <= _SHOWN_OF_A_CAUSE:
            detail = f" ({printable(reject.message)})" if reject.message else ""
            say(f"rejected {printable(reject.path)}: {reject.cause}{detail}")
    for cause, count in shown.items():
        if count > _SHOWN_OF_A_CAUSE:
            say(f"rejected {count - _SHOWN_OF_A_CAUSE} more: {cause}{elsewhere}")
