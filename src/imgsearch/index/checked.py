"""Values of a file that somebody may have changed."""


def count_of(value: object) -> int:
    """Take a whole number, 0 or more.

    Raises:
        ValueError: It is something else.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(f"expected a count, found {value!r}")
    return value


def number_of(value: object, least: float, most: float) -> float:
    """Take a number in a range.

    Raises:
        ValueError: It is something else.
    """
    if not isinstance(value, int | float) or isinstance(value, bool) or not least <= value <= most:
        raise ValueError(f"expected a number from {least:g} to {most:g}, found {value!r}")
    return float(value)
