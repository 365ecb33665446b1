"""Every error imgsearch raises on purpose, with the exit code the program gives for it.

Any other exception is a bug (exit code 1, with a traceback).
"""

import importlib.util


class ImgsearchError(Exception):
    """Base of all errors raised on purpose; never raised itself.

    Args:
        message: One line: what was expected and what was found.
        hint: One line: what to do about it. May be empty.
    """

    exit_code = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(ImgsearchError):
    """An argument, a folder or a file of settings is not what was expected."""

    exit_code = 2


class BoxError(UsageError):
    """A box does not lie in an image; it may lie in another."""


class HistoryError(UsageError):
    """Nothing says what one person likes, so there is nothing to recommend; there may be to another."""


class ImageError(ImgsearchError):
    """One image cannot be used; a build rejects it and goes on.

    Args:
        cause: One word for scripts, such as `empty`, `not_an_image` or `corrupt`; docs/index-format.md lists them.
        message: One line for people.
    """

    exit_code = 4

    def __init__(self, cause: str, message: str, *, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.cause = cause

    def __reduce__(self) -> tuple[object, ...]:  # by default with the message as the only argument
        return type(self), (self.cause, self.message), {"hint": self.hint}


class NoIndexError(ImgsearchError):
    """There is no index in the directory."""

    exit_code = 5


class DamagedIndexError(ImgsearchError):
    """The index is damaged, or written by a newer imgsearch."""

    exit_code = 6


class LockedError(ImgsearchError):
    """Another process is writing to the index."""

    exit_code = 7


class MissingComponentError(ImgsearchError):
    """An encoder, its weights, or a library is not available, or does not run here."""

    exit_code = 8


class RefusedError(ImgsearchError):
    """Too much of the catalog or of the shop's data is gone or cannot be used; nothing was changed."""

    exit_code = 9


class GateError(ImgsearchError):
    """A quality gate was not met: a figure is below what was asked for, or answers got worse."""

    exit_code = 10


class OutputError(ImgsearchError):
    """The output cannot be written, such as for want of disk space; nothing was published."""

    exit_code = 11


class ServerError(ImgsearchError):
    """A server, a cluster or a store of images is down, slow or wrong; the index is whole."""

    exit_code = 12


class ResourceError(ImgsearchError):
    """The system does not let a file be read, or has too little memory; no damage is known."""

    exit_code = 13


def require_between(name: str, value: float, least: float, most: float) -> None:
    """Raise `UsageError` unless a number lies in a range, ends included; NaN lies in none."""
    if not least <= value <= most:
        raise UsageError(f"{name} must be {least:,} to {most:,}, got {value:,}")


def require_installed(module: str, what: str, packages: str) -> None:
    """Raise `MissingComponentError` unless a module, which `what` needs, is there; it is not imported.

    Args:
        module: Its name.
        what: What needs it, such as an option.
        packages: What pip is to install where it is missing.
    """
    if importlib.util.find_spec(module) is None:
        raise MissingComponentError(f"{what} needs {module}", hint=f"pip install {packages}")
