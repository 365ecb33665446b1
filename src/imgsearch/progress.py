"""How long work tells its caller how far it is."""

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")

# Told (stage, done, total); total is 0 where it is not known.
Progress = Callable[[str, int, int], None]


def no_progress(_stage: str, _done: int, _total: int) -> None:
    """Tell nobody."""


def counted(found: Iterable[T], progress: Progress) -> Iterator[T]:
    """Pass on what a scan finds, and tell its number now and then."""
    for number, each in enumerate(found, start=1):
        if number % 1000 == 0:
            progress("scan", number, 0)
        yield each
