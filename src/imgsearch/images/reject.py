"""A file that cannot be used, and why."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Reject:
    """A file that cannot be used: path below its folder, cause in one word, message for people."""

    path: str
    cause: str
    message: str
