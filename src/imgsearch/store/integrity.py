"""Whether the files of an index are those that were published: their sizes and their sha256."""

import hashlib
import logging
from collections.abc import Iterable
from functools import partial
from io import BufferedReader
from pathlib import Path

from imgsearch.errors import DamagedIndexError
from imgsearch.files import open_regular, reading
from imgsearch.images.workers.threads import Threads
from imgsearch.processors import processor_count
from imgsearch.store.generations import (
    EMBEDDINGS,
    ITEMS,
    RANKING,
    REBUILD_HINT,
    RECOMMEND,
    RECOMMEND_ROWS,
    find_copy_problem,
)
from imgsearch.store.manifest import FileRecord, Manifest

logger = logging.getLogger(__name__)

_REBUILD = f"run imgsearch rollback; or {REBUILD_HINT}"


def check_sizes(directory: Path, manifest: Manifest) -> None:
    """Check the size of every file; FileNotFoundError, too: a generation may be swept while it is opened."""
    for name, record in manifest.files.items():
        path = directory / name
        with reading(path, _REBUILD):
            size = path.stat().st_size
        if size != record.size:
            raise DamagedIndexError(f"{path} is damaged: {size} bytes, expected {record.size}", hint=repair_hint(name))


def check_content(directory: Path, manifest: Manifest, name: str) -> None:
    """Check a file's size and sha256; FileNotFoundError if it is missing."""
    path, expected = directory / name, manifest.files.get(name)
    with reading(path, repair_hint(name)):
        whole = expected is not None and file_record(path) == expected
    if not whole:
        raise _changed(path)


def _changed(path: Path) -> DamagedIndexError:
    return DamagedIndexError(f"{path} is damaged: its content has changed", hint=repair_hint(path.name))


def check_opened(file: BufferedReader, path: Path, expected: FileRecord | None) -> None:
    """Check the size and sha256 of an open file, which may be swept meanwhile, and close it once they are right."""
    with reading(path, repair_hint(path.name)):
        file.seek(0)
        found = _record(file)
    if found != expected:
        raise _changed(path)
    file.close()


def repair_hint(name: str) -> str:
    """Return what repairs a damaged file: most are derived from embeddings and items by the next build."""
    if name.endswith((RECOMMEND, RECOMMEND_ROWS, RANKING)):
        objective = "rank" if name.endswith(RANKING) else "recommend"
        return f"run imgsearch build-index, which leaves it out, and then imgsearch train --objective {objective}"
    truth = name.endswith((EMBEDDINGS, ITEMS))
    return _REBUILD if truth else "run imgsearch build-index again: it makes this file anew"


def check_truth(directory: Path, manifest: Manifest, name: str) -> None:
    """Check a file that cannot be derived from others: if it is missing, that is damage, too."""
    try:
        check_content(directory, manifest, name)
    except FileNotFoundError as error:
        raise DamagedIndexError(f"{error.filename} is missing", hint=_REBUILD) from error


def is_whole(directory: Path, manifest: Manifest) -> bool:
    """Read every file and return whether all are as they were published; log the first that is not.

    Raises `ResourceError` where the system does not let a file be read, which says nothing of it.
    """
    try:
        check_sizes(directory, manifest)
        for name, record in file_records(directory, manifest.files).items():
            if record != manifest.files[name]:
                raise _changed(directory / name)
    except FileNotFoundError as error:
        problem = f"{error.filename} is missing"
    except DamagedIndexError as error:
        problem = str(error)
    else:
        problem = find_copy_problem(directory, manifest)
    if problem:
        logger.warning("%s; rebuilding it", problem)
    return not problem


def try_record(path: Path) -> FileRecord | str:
    """Return `file_record`, or why there is none; raise `ResourceError` where the system does not let it be read."""
    try:
        with reading(path, ""):
            return file_record(path)
    except FileNotFoundError:
        return "it is missing"
    except DamagedIndexError as error:
        return error.message


def file_records(directory: Path, names: Iterable[str]) -> dict[str, FileRecord]:
    """Do `file_record` for files of an index, as many at a time as there are processors."""

    def read(name: str) -> FileRecord:
        with reading(directory / name, repair_hint(name)):
            return file_record(directory / name)

    with Threads(processor_count()) as threads:
        results = {name: threads.submit(partial(read, name)) for name in sorted(names)}
        return {name: result() for name, result in results.items()}


def file_record(path: Path) -> FileRecord:
    """Return size and sha256 of a regular file."""
    with open_regular(path) as file:
        return _record(file)


def _record(file: BufferedReader) -> FileRecord:
    digest = hashlib.file_digest(file, "sha256").hexdigest()
    return FileRecord(file.tell(), digest)
