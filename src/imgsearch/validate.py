"""Values of a file that somebody may have changed."""

from collections.abc import Sequence


def count_of(value: object, most: int | None = None) -> int:
    """Take a whole number, 0 or more.

    Raises:
        ValueError: It is something else, or more than it may be.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < 0 or (most is not None and value > most):
        raise ValueError(f"expected a count{'' if most is None else f' up to {most}'}, found {value!r}")
    return value


def one_of(value: object, words: Sequence[str]) -> str:
    """Take one of some words.

    Raises:
        ValueError: It is something else.
    """
    if value not in words:
        raise ValueError(f"expected one of {', '.join(words)}, found {value!r}")
    return str(value)


def number_of(value: object, least: float, most: float) -> float:
    """Take a number in a range.

    Raises:
        ValueError: It is something else.
    """
    if not isinstance(value, int | float) or isinstance(value, bool) or not least <= value <= most:
        raise ValueError(f"expected a number from {least:g} to {most:g}, found {value!r}")
    return float(value)
