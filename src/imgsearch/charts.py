"""What drawings of a training and of an evaluation share: a sheet to draw on, and names that can be drawn."""

import importlib.util
from typing import Any

from imgsearch.errors import MissingComponentError

_LONGEST_NAME = 24


def require_matplotlib(what: str) -> None:
    """Look for what draws before anything long begins, without importing it.

    Args:
        what: Option that needs it.

    Raises:
        MissingComponentError: It is not installed.
    """
    if importlib.util.find_spec("matplotlib") is None:
        raise MissingComponentError(f"{what} needs matplotlib", hint="pip install 'imgsearch-toolkit[plots]'")


def drawable(name: str) -> str:
    """Make a name fit to be drawn: in the letters that Matplotlib's own font has, and not too long."""
    plain = "".join(character if character.isprintable() and ord(character) < 0x250 else "?" for character in name)
    return plain if len(plain) <= _LONGEST_NAME else f"{plain[: _LONGEST_NAME - 3]}..."


def blank(width: float, height: float) -> Any:
    """Return a Matplotlib figure of a width and a height in inches, with nothing on it."""
    from matplotlib.figure import Figure  # not pyplot, which keeps figures and looks for a screen

    return Figure(figsize=(width, height), layout="constrained")
