"""What goes to a person's terminal: escaped text, log lines, the progress bar."""

import contextlib
import logging
import sys
import unicodedata
from collections.abc import Iterator
from typing import Any

from imgsearch.progress import Progress, no_progress


def printable(text: str) -> str:
    r"""Escape what must not reach a terminal: control characters, bidirectional overrides, bytes not in UTF-8.

    Args:
        text: Any text, a file name most of all; lone surrogates stand for bytes that are not UTF-8.

    Returns:
        The text on one line, such characters as `\n`, `\x1b`, `\u202e`, `\xff`.
    """
    return "".join(_escaped(character) for character in text)


def _escaped(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:
        return f"\\x{code - 0xDC00:02x}"
    if unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp"):
        return character.encode("unicode_escape").decode("ascii")
    return character


def say(text: str) -> None:
    """Write one line to standard error."""
    sys.stderr.write(f"imgsearch: {text}\n")


def set_up_logging(*, quiet: bool, verbose: bool) -> None:
    """Show the library's log on standard error: warnings, more with `verbose`, nothing with `quiet`."""
    logger = logging.getLogger("imgsearch")
    logger.handlers = [_StandardError()]
    logger.setLevel(logging.CRITICAL if quiet else logging.INFO if verbose else logging.WARNING)
    logger.propagate = False


class _StandardError(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        say(printable(record.getMessage()))


@contextlib.contextmanager
def progress_bar(*, quiet: bool) -> Iterator["Progress"]:
    """Show a progress bar on standard error if that is a terminal, and nothing otherwise."""
    if quiet or not sys.stderr.isatty():
        yield no_progress
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        tasks: dict[str, Any] = {}

        def show(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bar.add_task(stage, total=total or None)
            bar.update(tasks[stage], completed=done, total=total or None)

        yield show
