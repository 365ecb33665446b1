"""Careful ways with files: synced writes, errors that say what was written, no device read by mistake."""

import contextlib
import errno
import os
import shutil
import sqlite3
import stat
from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path

from imgsearch.errors import OutputError


@contextlib.contextmanager
def writing(directory: Path) -> Iterator[None]:
    """Turn write errors below a directory, SQLite's too, into `OutputError`.

    Raises:
        OutputError: Such an error reached this point.
    """
    try:
        yield
    except (OSError, sqlite3.OperationalError) as error:
        reason = (isinstance(error, OSError) and error.strerror) or str(error)
        lacks_space = "full" in reason or getattr(error, "errno", 0) in (errno.ENOSPC, errno.EDQUOT)
        raise OutputError(
            f"cannot write to {directory}: {reason}; what was published before is whole",
            hint="free some space and run it again" if lacks_space else "is it a folder you may write to?",
        ) from error


def require_space(directory: Path, needed: int) -> None:
    """Look whether a disk has room, so that a build does not find out after hours.

    Args:
        directory: Where it will write.
        needed: Bytes.

    Raises:
        OutputError: It has not.
    """
    free = shutil.disk_usage(directory).free
    if free < needed:
        raise OutputError(
            f"{directory} has {free / 1e6:,.0f} MB free, a build may need {needed / 1e6:,.0f} MB; nothing was changed",
            hint="free some space and run it again",
        )


def sync(path: Path) -> None:
    """Make a file's content, or a folder's list of names, survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def open_regular(path: Path) -> BufferedReader:
    """Open a file for reading, but no FIFO or device, which might never answer."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a regular file", os.fspath(path))
    return open(descriptor, "rb")
