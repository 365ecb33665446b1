"""The lock of an index directory: one writer at a time, and none in a directory with other files."""

import contextlib
import math
import os
import re
from collections.abc import Iterator
from pathlib import Path

from imgsearch.errors import UsageError
from imgsearch.files import sync_folder, writing
from imgsearch.locks import exclusive_lock
from imgsearch.store.generations import EVENTS, FEEDBACK, LOCK, PARTIAL, is_index, read_manifest


@contextlib.contextmanager
def writer_lock(directory: Path, wait: float = 0) -> Iterator[None]:
    """Hold the lock of an index directory, made if it is missing; write errors under it are `OutputError`s."""
    if not 0 <= wait < math.inf:
        raise UsageError(f"wait_lock must be a number of seconds, got {wait}")
    with writing(directory, "what was published before is whole"):
        _refuse_foreign(directory)
        _make_folder(directory)
        hint = "wait until it is done, or let this one wait: --wait-lock SECONDS"
        with exclusive_lock(directory / LOCK, "another build holds", wait, hint):
            yield


def require_writable(directory: Path, wait: float = 0) -> None:
    """Fail now, before long work for an index, if nothing could be stored in it."""
    read_manifest(directory)  # before a lock is left where no index is
    with writer_lock(directory, wait):
        pass


def _make_folder(directory: Path) -> None:
    """Make a folder and its parents, and sync each one's name in its own parent."""
    missing = [folder for folder in (directory, *directory.absolute().parents) if not os.path.isdir(folder)]
    directory.mkdir(parents=True, exist_ok=True)
    for folder in missing:
        sync_folder(folder.absolute().parent)


def _refuse_foreign(directory: Path) -> None:
    # An index removes what is old in its directory.
    if not os.path.isdir(directory) or os.path.lexists(directory / LOCK) or is_index(os.fspath(directory)):
        return
    found = next((path for path in directory.iterdir() if not _may_be_ours(path)), None)
    if found is not None:
        raise UsageError(
            f"expected an index or an empty directory, found {found.name!r} in {directory}",
            hint="choose a directory that does not exist yet",
        )


def _may_be_ours(path: Path) -> bool:
    """Return whether a file may be left of an index that lost its manifest and its lock."""
    live = [f"{name}{end}" for name in (FEEDBACK, EVENTS) for end in ("", "-wal", "-shm")]
    return path.name in (PARTIAL, "encoders", *live) or re.fullmatch(r"gen-\d{6,}", path.name) is not None
