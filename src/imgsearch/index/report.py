"""What a build did."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class NewReject:
    """A file that this build rejected and the one before did not: path, cause in one word, message for people."""

    path: str
    cause: str
    message: str


@dataclass(frozen=True, slots=True)
class BuildReport:
    """What a build did. seen = unchanged + renamed + embedded + rejected.

    Attributes:
        generation: What is published now.
        published: Whether this build published it; False if nothing had changed.
        seen: Files with a picture's name.
        unchanged: Of these, published before with the same size and time.
        renamed: Known content under another name (renamed or copied files).
        embedded: New or changed pictures.
        rejected: Files that cannot be used.
        removed: Published before, gone now.
        new_rejects: The rejected files that were not rejected before.
        encoder: Name of the encoder.
        seconds: Wall time.
    """

    generation: int
    published: bool
    seen: int
    unchanged: int
    renamed: int
    embedded: int
    rejected: int
    removed: int
    new_rejects: tuple[NewReject, ...]
    encoder: str
    seconds: float

    @property
    def count(self) -> int:
        """Items in the published generation."""
        return self.seen - self.rejected
