"""Write docs/cli.md from the program's own help: make docs."""

import contextlib
import io
import os

from imgsearch.cli import COMMANDS, GROUPS, main, name_of

INTRODUCTION = """\
# Commands

This page is made by `make docs` from the program's own help; a test holds the two to each other.

Exit codes: 0 done; 1 a bug; 2 usage; 3 published, but files were rejected that were not before; 4 a query image is
missing or unreadable; 5 no index there; 6 the index is damaged or of a newer format; 7 another build is running;
8 an encoder, its weights or a library is missing; 9 refused because most of the catalog has vanished;
10 `evaluate`: not good enough; 11 no space, or another write error; 130 and 143 interrupted. Treat any other code as
a failure.

Results go to standard output, everything else to standard error.
"""


def reference() -> str:
    """Collect the help of the program and of each command."""
    names = [
        parts
        for command in COMMANDS
        for parts in ((name_of(command),), *((name_of(command), name_of(each)) for each in GROUPS.get(command, ())))
    ]
    sections = [f"## imgsearch\n\n```text\n{_help()}```\n"]
    sections += [f"## imgsearch {' '.join(name)}\n\n```text\n{_help(*name)}```\n" for name in names]
    return "\n".join([INTRODUCTION, *sections])


def _help(*command: str) -> str:
    os.environ["TERMINAL_WIDTH"] = os.environ["COLUMNS"] = "100"
    text = io.StringIO()
    with contextlib.redirect_stdout(text):
        main([*command, "--help"])
    return text.getvalue()


if __name__ == "__main__":
    print(reference(), end="")
