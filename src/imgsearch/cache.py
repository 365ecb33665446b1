"""What takes long to make is made once, by one process of many, and kept in the user's cache; damage is found."""

import atexit
import contextlib
import fcntl
import json
import logging
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from imgsearch.errors import OutputError
from imgsearch.files import sha256_of, user_cache, writing
from imgsearch.system import refusal_of

logger = logging.getLogger(__name__)

_STAGING = "staging-"
_DAY = 24 * 60 * 60
_CHECKSUMS_FILE = "sha256.json"


def cached_folder(kind: str, name: str, files: Sequence[str], fill: Callable[[Path], None]) -> Path:
    """Return a folder in the user's cache; it is filled first unless it is there and its files are as they were made.

    Where the cache cannot be written, the folder is one for this run only.

    Args:
        kind: Name of the folder of the cache that it is in.
        name: Its own name, another one for another content.
        files: Names of the files that are compared with their sha256 whenever the folder is asked for.
        fill: Writes these files, and maybe others, into an empty folder.
    """
    cache = user_cache(kind)
    if _is_whole(cache / name, files):
        return cache / name
    try:
        with writing(cache):
            return _made(cache, name, files, fill)
    except OutputError as error:  # a user without a home, a disk that is full: it only takes longer the next time
        logger.info("%s; %s is made for this run only", error, cache / name)
    folder = folder_for_this_run()
    with writing(folder):
        return _made(folder, name, files, fill)


def discard(folder: Path) -> None:
    """Have a folder of the cache that turned out to be damaged made again when it is needed next."""
    with contextlib.suppress(OSError):  # of another user
        (folder / _CHECKSUMS_FILE).unlink()


def folder_for_this_run() -> Path:
    """Make a folder that is removed when the process ends."""
    import tempfile  # with much that a query does not need

    try:
        folder = Path(tempfile.mkdtemp(prefix="imgsearch-"))
    except OSError as error:
        raise refusal_of(error) or OutputError(
            f"there is no temporary folder: {error.strerror}",
            hint="set TMPDIR or IMGSEARCH_CACHE to a folder that can be written",
        ) from error
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _made(cache: Path, name: str, files: Sequence[str], fill: Callable[[Path], None]) -> Path:
    """Make a folder in a cache, unless another process does so meanwhile."""
    import tempfile

    cache.mkdir(parents=True, exist_ok=True)
    _sweep(cache)
    directory = cache / name
    staging = Path(tempfile.mkdtemp(prefix=_STAGING, dir=cache))
    try:
        with _lock(directory.with_suffix(".lock")) as has_waited:
            if has_waited and _is_whole(directory, files):
                return directory
            fill(staging)
            sums = {file: sha256_of(staging / file) for file in files}
            (staging / _CHECKSUMS_FILE).write_text(json.dumps(sums) + "\n")
            with contextlib.suppress(PermissionError):  # where a file system knows no modes
                staging.chmod(0o755)  # a cache may be shared
            return _put_in_place(staging, directory, files)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _sweep(cache: Path) -> None:
    """Remove what processes have left that were killed."""
    for folder in cache.glob(f"{_STAGING}*"):
        with contextlib.suppress(OSError):  # of another user, or gone
            if folder.lstat().st_mtime < time.time() - _DAY:
                shutil.rmtree(folder)


@contextlib.contextmanager
def _lock(file: Path) -> Iterator[bool]:
    """Hold a lock, which is never unlinked; yield whether another process had it before."""
    with contextlib.ExitStack() as stack:
        has_waited = False
        try:
            lock = stack.enter_context(file.open("w"))
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            logger.info("waiting for another process that makes %s", file.with_suffix(""))
            fcntl.flock(lock, fcntl.LOCK_EX)
            has_waited = True
        except OSError as error:  # of another user, or without locks: the work may be done twice, and both do it well
            logger.info("%s cannot be locked: %s", file, error.strerror)
        yield has_waited


def _put_in_place(staging: Path, directory: Path, files: Sequence[str]) -> Path:
    """Give a folder its place in the cache, unless another process was faster, and return where it is."""
    if not _is_whole(directory, files):
        shutil.rmtree(directory, ignore_errors=True)
        try:
            staging.rename(directory)
        except OSError:
            if not _is_whole(directory, files):  # a damaged one of another user, which we cannot remove
                return Path(shutil.move(staging, folder_for_this_run() / directory.name))
    return directory


def _is_whole(directory: Path, files: Sequence[str]) -> bool:
    """Return whether a folder is what it was when it was made: a disk may have filled, or have failed."""
    try:
        sums = json.loads((directory / _CHECKSUMS_FILE).read_text())
        if all(sha256_of(directory / file) == sums[file] for file in files):
            return True
        logger.warning("%s in the cache is damaged; it is made again", directory)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        pass
    except (OSError, ValueError, KeyError, TypeError) as error:
        logger.warning("%s in the cache is damaged (%s); it is made again", directory, error)
    return False
