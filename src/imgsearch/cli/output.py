"""Where output goes: standard output or a file that appears when it is whole; messages, tables and progress."""

import contextlib
import itertools
import logging
import os
import re
import shutil
import sys
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from imgsearch.errors import OutputError, UsageError
from imgsearch.files import replaced_file
from imgsearch.images.scan import IMAGE_SUFFIXES
from imgsearch.progress import Progress, no_progress

if TYPE_CHECKING:
    from imgsearch.images.scan import Reject

REJECTED_EXIT_CODE = 3

# A folder with thousands of files of one bad kind should not fill a mailbox with them.
_MAX_REJECTS_OF_A_CAUSE = 20

# Of tables that are not on a terminal, in cells.
_FILE_WIDTH = 120


@contextlib.contextmanager
def output(path: Path | None) -> Iterator[BinaryIO]:
    """Open a file for results, standard output for None; a reader that has closed the pipe is no error."""
    if path is None and sys.stdout is None:
        raise OutputError("cannot write to standard output: it is closed")
    try:
        if path is None:
            yield sys.stdout.buffer
            sys.stdout.buffer.flush()
        elif (descriptor := _descriptor(path)) is not None:
            with open(os.dup(descriptor), "wb") as file:
                yield file
        elif os.path.exists(path) and not os.path.isfile(path):
            with path.open("wb") as file:  # a pipe or a device is written to, not replaced
                yield file
        else:
            with replaced_file(Path(os.path.realpath(path))) as file:
                yield file
    except OSError as error:
        _discard_buffer()
        if path is None and isinstance(error, BrokenPipeError):
            return  # its reader has seen enough
        raise OutputError(f"cannot write {path or 'to standard output'}: {error.strerror}") from error


def write(file: BinaryIO, text: str) -> None:
    """Write text as UTF-8, and file names that are not UTF-8 as the bytes they are."""
    file.write(text.encode("utf-8", "surrogateescape"))
    file.flush()


def print_text(text: str, path: Path | None = None) -> None:
    """Write text to a file, or to standard output."""
    with output(path) as file:
        write(file, text)


def require_writable(path: Path) -> None:
    """Raise OutputError unless `output` could write to the file."""
    if _descriptor(path) is not None:
        return
    if os.path.isdir(path):
        raise OutputError(f"cannot write {path}: it is a folder")
    if os.path.exists(path) and not os.path.isfile(path):
        writable = os.access(path, os.W_OK)
    else:
        writable = os.access(Path(os.path.realpath(path)).parent, os.W_OK | os.X_OK)
    if not writable:
        raise OutputError(f"cannot write {path}: {path.absolute().parent} is no folder that may be written to")


def refuse_to_replace(path: Path | None, what: str, other: str | os.PathLike[str]) -> None:
    """Raise `UsageError` if `output` would replace another file, whatever links lead to it."""
    if path is None or _descriptor(path) is not None or not os.path.isfile(path):
        return
    with contextlib.suppress(OSError, ValueError):  # there is no such other file
        if path.samefile(other):
            raise UsageError(f"expected a file of its own for the output, found {what}: {path}")


def refuse_to_harm(path: Path | None, index: Path, catalog: str | Path, metadata: str | Path | None) -> None:
    """Raise `UsageError` if `output` would write into an index, or replace an image of its catalog, or its metadata."""
    if path is None or _descriptor(path) is not None:
        return
    place = Path(os.path.realpath(path))
    if place.is_relative_to(os.path.realpath(index)):
        raise UsageError(
            f"expected a file outside of the index for the output, found {path}",
            hint="an index has its directory to itself",
        )
    if place.is_relative_to(os.path.realpath(catalog)) and place.name.lower().endswith(IMAGE_SUFFIXES):
        refuse_to_replace(path, "an image of the catalog", place)
    refuse_to_replace(path, "the catalog", catalog)
    if metadata:
        refuse_to_replace(path, "the metadata", metadata)


def _discard_buffer() -> None:
    """Keep what standard output did not take from raising again when the interpreter closes it."""
    if sys.stdout is not None:
        try:
            sys.stdout.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _descriptor(path: Path) -> int | None:
    """Return the descriptor of ours that a name stands for; `/dev/stdout` may be a log that is appended to."""
    standard = {"/dev/stdin": 0, "/dev/stdout": 1, "/dev/stderr": 2}
    found = re.fullmatch(r"/(?:dev|proc/self)/fd/(\d+)", os.fspath(path))
    return int(found[1]) if found else standard.get(os.fspath(path))


def printable(text: str) -> str:
    r"""Escape control characters, bidirectional overrides and bytes not in UTF-8 as `\n`, `\x1b`, `\u202e`, `\xff`."""
    return text if text.isprintable() else "".join(_escaped(character) for character in text)


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


def say_rejects(rejects: Sequence["Reject"], elsewhere: str) -> None:
    """Name rejected files on standard error, and count those of a cause that has many; `elsewhere` names them all."""
    named: Counter[str] = Counter()
    for reject in rejects:
        named[reject.cause] += 1
        if named[reject.cause] <= _MAX_REJECTS_OF_A_CAUSE:
            detail = f" ({printable(reject.message)})" if reject.message else ""
            say(f"rejected {printable(reject.path)}: {reject.cause}{detail}")
    for cause, count in named.items():
        if count > _MAX_REJECTS_OF_A_CAUSE:
            say(f"rejected {count - _MAX_REJECTS_OF_A_CAUSE} more: {cause}{elsewhere}")


def columns(rows: Iterable[tuple[str, str]]) -> str:
    """Lay out names and values in two columns."""
    pairs = [(name, printable(value)) for name, value in rows]
    width = max(len(name) for name, _ in pairs)
    return "".join(f"{name:<{width}}  {value}\n" for name, value in pairs)


def draw_table(title: str, heads: Sequence[str], rows: Iterable[Sequence[str]], left: Sequence[str] = ()) -> str:
    """Draw a table under a title: columns named in `left` are text, the others numbers, which stand to the right."""
    # Not by rich, which takes 2 ms for a table: of ten thousand queries that is longer than all searches.
    from rich.cells import cell_len, chop_cells

    lines = [list(heads), *([printable(cell) for cell in row] for row in rows)]
    # Into a pipe or a file wide enough that a path stays on its line.
    room = (shutil.get_terminal_size().columns if sys.stdout.isatty() else _FILE_WIDTH) - 2 - 3 * (len(heads) - 1)
    widths = _fitted([max(map(cell_len, column)) for column in zip(*lines, strict=True)], room)
    drawn = [title]
    for number, line in enumerate(lines):
        folded = [
            [cell] if cell_len(cell) <= width else chop_cells(cell, width)
            for cell, width in zip(line, widths, strict=True)
        ]
        for parts in itertools.zip_longest(*folded, fillvalue=""):
            cells = []
            for part, width, head in zip(parts, widths, heads, strict=True):
                space = " " * (width - cell_len(part))
                cells.append(part + space if head in left else space + part)
            drawn.append((" " + "   ".join(cells)).rstrip())
        if number == 0:
            drawn.append(" " + "\N{BOX DRAWINGS LIGHT HORIZONTAL}" * (sum(widths) + 3 * (len(heads) - 1)))
    return "\n".join(drawn) + "\n\n"


def _fitted(widths: Sequence[int], room: int) -> list[int]:
    """Narrow the widest columns until all fit, but none to less than two cells, which one character may take."""
    most = next(
        (most for most in range(min(room, max(widths)), 2, -1) if sum(min(width, most) for width in widths) <= room), 2
    )
    return [min(width, most) for width in widths]


def set_up_logging(*, quiet: bool, verbose: bool) -> None:
    """Send the library's log to standard error: warnings, more with `verbose`, nothing with `quiet`."""
    logger = logging.getLogger("imgsearch")
    logger.handlers = [_StandardError()]
    logger.setLevel(logging.CRITICAL if quiet else logging.INFO if verbose else logging.WARNING)
    logger.propagate = False


class _StandardError(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        say(printable(record.getMessage()))


@contextlib.contextmanager
def progress_bar(*, quiet: bool) -> Iterator["Progress"]:
    """Draw a progress bar on standard error if that is a terminal, and nothing otherwise."""
    if quiet or not sys.stderr.isatty():
        yield no_progress
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    parts = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Bar(*parts, console=Console(stderr=True), transient=True) as bar:
        tasks: dict[str, Any] = {}

        def advance(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bar.add_task(stage, total=total or None)
            bar.update(tasks[stage], completed=done, total=total or None)

        yield advance
