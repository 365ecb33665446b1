"""How long work tells its caller how far it is."""

from collections.abc import Callable

# Told (stage, done, total); total is 0 where it is not known.
Progress = Callable[[str, int, int], None]


def no_progress(_stage: str, _done: int, _total: int) -> None:
    """Tell nobody."""
