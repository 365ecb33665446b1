"""Care with files, for all: no device read by mistake, atomic and synced writes, errors that name the place."""

import contextlib
import errno
import hashlib
import os
import shutil
import sqlite3
import stat
from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path
from typing import BinaryIO

from imgsearch.errors import DamagedIndexError, OutputError, ResourceError, UsageError
from imgsearch.system import refusal_of, unreadable, words_of


def as_path(location: str | os.PathLike[str]) -> Path:
    """Return a location as a path; `UsageError` for an empty one, which would stand for the working directory."""
    if not os.fspath(location):
        raise UsageError("expected a path, found an empty one", hint="is a variable not set?")
    return Path(location)


def open_regular(path: Path) -> BufferedReader:
    """Open a file for reading, but no FIFO or device, which might never answer."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.ENXIO, "not a regular file", os.fspath(path))
    return open(descriptor, "rb")


def sha256_of(path: Path) -> str:
    """Return the sha256 of a regular file's content, in hex."""
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def require_space(
    folder: Path, needed: int, *, user: str = "a build", hint: str = "free some space and run it again"
) -> None:
    """Raise `OutputError` if a disk has no room for so many bytes, so that `user` does not find out after hours."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise OutputError(
            f"{folder} has {free / 1e6:,.0f} MB free, {user} may need {needed / 1e6:,.0f} MB; nothing was changed",
            hint=hint,
        )


def require_image_folder(path: Path) -> None:
    """Raise `UsageError` unless a path is that of a folder."""
    if not os.path.isdir(path):
        found = "a file" if os.path.exists(path) else "nothing"
        raise UsageError(f"expected a folder of images, found {found}: {path}")


def check_database(connection: sqlite3.Connection) -> None:
    """Raise `sqlite3.DatabaseError` if a page of the file was damaged."""
    (verdict,) = connection.execute("PRAGMA integrity_check(1)").fetchone()
    if verdict != "ok":
        raise sqlite3.DatabaseError(verdict)


# Something else is where a file should be, or no file can have such a name.
_NO_FILE = {errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENXIO, errno.ENAMETOOLONG}

_SQLITE_CODES = {
    *(sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY),
    *(sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_NOMEM, sqlite3.SQLITE_PERM),
}


@contextlib.contextmanager
def reading(path: Path, repair: str) -> Iterator[None]:
    """Turn errors on reading a file of an index into what `read_error` says; a missing file stays FileNotFoundError."""
    try:
        yield
    except FileNotFoundError:  # a writer may have swept it
        raise
    except (OSError, sqlite3.DatabaseError, UnicodeDecodeError) as error:  # SQLite's messages quote damaged bytes
        if isinstance(reason := reason_of(error, path), FileNotFoundError):
            raise reason from error
        raise read_error(error, path, repair) from error


def read_error(error: Exception, path: Path, repair: str) -> DamagedIndexError | ResourceError:
    """Return whose fault an error on reading is: the file's, which `repair` says how to mend, or the system's."""
    reason = reason_of(error, path)
    number = getattr(reason, "errno", None)
    if number in _NO_FILE or (number is None and not is_of_system(error)):
        return DamagedIndexError(f"{path} is damaged: {words_of(reason)}", hint=repair)
    return unreadable(path, reason)


def is_of_system(error: Exception) -> bool:
    """Return whether SQLite speaks of the disk, the folder or the memory, and not of the file's content."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in _SQLITE_CODES


def reason_of(error: Exception, place: Path) -> Exception:
    """Return the system's own reason where SQLite, which keeps it to itself, could not open a file."""
    if is_of_system(error):
        with contextlib.ExitStack() as opened:
            try:
                for _ in range(3):  # as many as SQLite may need: the file, its journal and their folder
                    opened.callback(os.close, os.open(place, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC))
            except OSError as reason:
                return reason
    return error


@contextlib.contextmanager
def writing(place: Path, assurance: str = "") -> Iterator[None]:
    """Turn write errors, SQLite's too, into `OutputError`, which may add what is safe all the same.

    Where the system lacks memory or open files they are `ResourceError`s.
    """
    try:
        yield
    except (OSError, sqlite3.OperationalError) as error:
        cause = reason_of(error, place)
        if refusal := refusal_of(cause):
            raise refusal from error
        reason = words_of(cause)
        lacks_space = "full" in reason or getattr(cause, "errno", 0) in (errno.ENOSPC, errno.EDQUOT)
        raise OutputError(
            f"cannot write to {getattr(error, 'filename2', None) or place}: {reason}"
            + (f"; {assurance}" if assurance else ""),
            hint="free some space and run it again" if lacks_space else "is it a folder you may write to?",
        ) from error


def sync(path: Path) -> None:
    """Make a file's content survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(path: Path) -> None:
    """Make a folder's list of names survive a power cut, where its file system can do that."""
    # Some network and USB file systems cannot, nor can a user in a folder where one may write, but not read.
    # PostgreSQL passes over the same errors (fsync_fname), SQLite over all.
    try:
        sync(path)
    except OSError as error:
        if error.errno not in _CANNOT_SYNC_FOLDERS:
            raise


_CANNOT_SYNC_FOLDERS = {
    *(errno.EINVAL, errno.EBADF, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EISDIR),
    *(errno.EACCES, errno.EPERM),
}


@contextlib.contextmanager
def replaced(path: Path, draft: Path | None = None) -> Iterator[Path]:
    """Yield the path of a draft to write; it takes the file's place, synced, unless the block fails.

    Whoever looks, even after a crash, finds the file as it was before or the whole new one. A file that was there
    before keeps its mode, and its owner where that can be given.
    """
    draft = draft or path.with_name(f".{path.stem}.{os.getpid()}.tmp{path.suffix}")
    draft.unlink(missing_ok=True)
    before = _regular_file(path)
    try:
        if before is not None:  # until it is whole, nobody else reads what only some may read
            os.close(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        yield draft
        if before is not None:
            _give(draft, before)
        sync(draft)
        draft.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            draft.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def _regular_file(path: Path) -> os.stat_result | None:
    with contextlib.suppress(OSError):
        status = path.lstat()
        return status if stat.S_ISREG(status.st_mode) else None
    return None


def _give(path: Path, like: os.stat_result) -> None:
    """Give a file the owner, the group and the mode of another, as far as we may and the disk knows of them."""
    for owner, group in ((like.st_uid, -1), (-1, like.st_gid)):
        with contextlib.suppress(OSError):
            os.chown(path, owner, group)
    with contextlib.suppress(OSError):
        path.chmod(like.st_mode & 0o777)


@contextlib.contextmanager
def replaced_file(path: Path, draft: Path | None = None) -> Iterator[BinaryIO]:
    """Open a file for writing, as `replaced` does."""
    with replaced(path, draft) as name, name.open("wb") as file:
        yield file


def user_cache(name: str) -> Path:
    """Return a folder in the user's cache, which may not exist, or may not be written."""
    chosen = os.environ.get("IMGSEARCH_CACHE")
    if chosen:
        return Path(chosen) / name
    import platformdirs

    cache = platformdirs.user_cache_path("imgsearch") / name
    # For a user without a home it is "~/.cache", which would be made in the working directory.
    return cache if cache.is_absolute() else Path(os.devnull) / name
