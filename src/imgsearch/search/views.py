"""What a query is compared as: the whole image, and regions of it, each a vector of the searched space."""

import hashlib
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

from imgsearch.encoders.runtime import Embeddings
from imgsearch.errors import UsageError
from imgsearch.images.boxes import Box
from imgsearch.images.policy import MAX_BYTES, FilePolicy
from imgsearch.images.reading import read_file

if TYPE_CHECKING:
    from imgsearch.images.decode import Pixels
    from imgsearch.images.photo import Photo

# `auto`: regions of what is no plain product image; `whole`: none; a number: so many, of any image.
Regions = Literal["auto", "whole"] | int

MAX_REGIONS = 200


class Decoders(Protocol):
    """Decodes images for a process that must not do so itself; see `images.workers.query_decoders`."""

    def photo(self, data: bytes) -> "Photo | None":
        """Decode a photo as `open_photo`."""
        ...

    def square(self, data: bytes) -> "Pixels":
        """Decode an image to the square that the encoder of the index sees."""
        ...


class QueryImage:
    """An image file that is asked with: read once, and decoded once, when its pixels are first needed.

    Attributes:
        data: The file's bytes.
        path: Its name, if it has one.
        sha256: Of its bytes.
        decoders: What decodes it; None for this process.
    """

    def __init__(self, data: bytes, policy: FilePolicy, path: str = "", decoders: Decoders | None = None) -> None:
        self.data = data
        self.path = path
        self.decoders = decoders
        self.sha256 = hashlib.sha256(data).digest()
        self._policy = policy
        self._decoded: tuple[Photo | None] | None = None

    @classmethod
    def read(cls, path: str | os.PathLike[str], policy: FilePolicy) -> "QueryImage":
        """Read a file; raises `ImageError`."""
        data, _ = read_file(os.fspath(path), max_bytes=max(MAX_BYTES, policy.max_bytes))
        return cls(data, policy, os.fspath(path))

    @property
    def photo(self) -> "Photo | None":
        """The decoded image; None for one that only a process of its own may decode (`open_photo`)."""
        # Not a cached_property, which in Python 3.11 has one lock for all images.
        if self._decoded is None:
            if self.decoders is not None:
                self._decoded = (self.decoders.photo(self.data),)
            else:
                from imgsearch.images.photo import open_photo

                self._decoded = (open_photo(self.data, self._policy),)
        return self._decoded[0]


@dataclass(frozen=True, slots=True)
class Indexed:
    """What is in the index, to ask with: its vectors are there, and no image is read.

    Attributes:
        name: Path of an image below the catalog, or a product, which asks with all of its images.
    """

    name: str


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """A query, or a region of it, as a vector."""

    vector: Embeddings  # unit (d,), in the searched space
    box: Box | None = None  # the region, in pixels of the file, upright; None for the whole image
    row: int | None = None  # the item whose file the query is, byte for byte


def require_regions(regions: Regions) -> None:
    """Raise `UsageError` unless `regions` is `auto`, `whole` or a number in range."""
    is_known = regions in ("auto", "whole") if isinstance(regions, str) else 1 <= regions <= MAX_REGIONS
    if not is_known:
        raise UsageError(f"regions must be auto, whole or a number from 1 to {MAX_REGIONS}, got {regions!r}")
