"""Which files a catalog lets in."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

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

    def to_json(self) -> dict[str, Any]:
        """Return what is stored in a manifest."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "FilePolicy":
        """Read what `to_json` wrote; what is missing is as by default.

        Raises:
            TypeError, ValueError, UsageError: Something is of the wrong kind.
        """
        default = cls()
        numbers = [data.get(name, getattr(default, name)) for name in ("max_bytes", "max_pixels")]
        flags = [data.get(name, False) for name in ("keep_damaged", "follow_links")]
        for value, kind in (*((number, int) for number in numbers), *((flag, bool) for flag in flags)):
            if type(value) is not kind:
                raise ValueError(f"expected {kind.__name__}, found {value!r}")
        return cls(*numbers, *flags)
