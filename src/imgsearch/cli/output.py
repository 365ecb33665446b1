"""Where results go: standard output, or a file that appears when it is whole."""

import contextlib
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from imgsearch.errors import OutputError
from imgsearch.files import replaced_file


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


def print_text(text: str) -> None:
    """Write text to standard output."""
    with output(None) as file:
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
