"""Which files a catalog lets in."""

from dataclasses import dataclass

from imgsearch.errors import UsageError
from imgsearch.images import MAX_PIXELS

MAX_BYTES = 100_000_000


@dataclass(frozen=True, slots=True)
class FilePolicy:
    """Which files a catalog lets in.

    Attributes:
        max_bytes: Larger files are not read.
        max_pixels: Images that say of themselves that they are larger are not decoded.
        keep_damaged: Whether of a damaged JPEG that which can be decoded stands for it, and is flagged; otherwise
            it is rejected.
        follow_links: Whether links to files and folders are followed, also out of the catalog.
    """

    max_bytes: int = MAX_BYTES
    max_pixels: int = MAX_PIXELS
    keep_damaged: bool = False
    follow_links: bool = False

    def __post_init__(self) -> None:
        for name, value in (("bytes", self.max_bytes), ("pixels", self.max_pixels)):
            if not 1 <= value < 2**40:
                raise UsageError(f"expected a limit of 1 to {2**40 - 1:,} {name}, found {value:,}")
