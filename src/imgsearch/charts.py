"""What the charts of a training and of an evaluation share."""

from typing import Any

from imgsearch.errors import require_installed

_LONGEST_NAME = 24


def require_matplotlib(what: str) -> None:
    """Fail if Matplotlib, which the option `what` needs, is not installed; it is not imported."""
    require_installed("matplotlib", what, "'imgsearch-toolkit[plots]'")


def drawable(name: str) -> str:
    """Return a name, cut to 24 characters, in the letters that Matplotlib's own font has."""
    plain = "".join(character if character.isprintable() and ord(character) < 0x250 else "?" for character in name)
    return plain if len(plain) <= _LONGEST_NAME else f"{plain[: _LONGEST_NAME - 3]}..."


def blank(width: float, height: float) -> Any:
    """Return an empty Matplotlib figure; width and height in inches."""
    from matplotlib.figure import Figure  # not pyplot, which keeps figures and looks for a screen

    return Figure(figsize=(width, height), layout="constrained")
