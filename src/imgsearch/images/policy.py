"""Which files a catalog lets in."""

from dataclasses import dataclass

from imgsearch.errors import UsageError
from imgsearch.images import MAX_PIXELS

MAX_BYTES = 100_000_000


@dataclass(frozen=True, slots=True)
class FilePolicy:
    """Which files a catalog lets in."""

    max_bytes: int = MAX_BYTES  # larger files are not read
    max_pixels: int = MAX_PIXELS  # images whose headers say more are not decoded
    keep_damaged: bool = False  # use, and flag, what can be decoded of a damaged JPEG instead of rejecting it
    follow_links: bool = False  # to files and folders, also out of the catalog

    def __post_init__(self) -> None:
        for name, value in (("bytes", self.max_bytes), ("pixels", self.max_pixels)):
            if not 1 <= value < 2**40:
                raise UsageError(f"expected a limit of 1 to {2**40 - 1:,} {name}, found {value:,}")
