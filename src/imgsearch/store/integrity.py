"""Whether the files of an index are what was published: their sizes, and their sha256."""

import hashlib
import logging
from io import BufferedReader
from pathlib import Path

from imgsearch.errors import DamagedIndexError
from imgsearch.files import open_regular
from imgsearch.store.generations import ANEW, EMBEDDINGS, ITEMS, problem_of_copy
from imgsearch.store.manifest import FileRecord, Manifest

logger = logging.getLogger(__name__)

_REBUILD = f"run imgsearch rollback; or {ANEW}"


def check_sizes(directory: Path, manifest: Manifest) -> None:
    """Look whether every file is there with the size it should have. Cheap: no file is read.

    Raises:
        FileNotFoundError: A file is missing: the generation may have been swept while it was opened.
        DamagedIndexError: A file has another size.
    """
    for name, record in manifest.files.items():
        try:
            size = (directory / name).stat().st_size
        except FileNotFoundError:
            raise
        except OSError as error:
            raise DamagedIndexError(f"{directory / name} cannot be read: {error.strerror}", hint=_REBUILD) from error
        if size != record.size:
            raise DamagedIndexError(
                f"{directory / name} is damaged: {size} bytes, expected {record.size}", hint=remedy(name)
            )


def check_content(directory: Path, manifest: Manifest, name: str) -> None:
    """Read a file and compare its sha256 with the manifest.

    Raises:
        FileNotFoundError: It is missing.
        DamagedIndexError: It is not the file that was published.
    """
    expected = manifest.files.get(name)
    try:
        whole = expected is not None and file_record(directory / name) == expected
    except FileNotFoundError:
        raise
    except OSError as error:
        raise DamagedIndexError(f"{directory / name} cannot be read: {error.strerror}", hint=remedy(name)) from error
    if not whole:
        raise DamagedIndexError(f"{directory / name} is damaged: its content has changed", hint=remedy(name))


def check_opened(file: BufferedReader, path: Path, expected: FileRecord | None) -> None:
    """Do `check_content` for a file that is open, so that it may be swept in the meantime; and close it.

    Raises:
        DamagedIndexError: It is not the file that was published.
    """
    with file:
        try:
            found = _record(file)
        except OSError as error:
            raise DamagedIndexError(f"{path} cannot be read: {error.strerror}", hint=remedy(path.name)) from error
        if found != expected:
            raise DamagedIndexError(f"{path} is damaged: its content has changed", hint=remedy(path.name))


def remedy(name: str) -> str:
    """Say what helps against damage: all but the truth is made anew by the next build."""
    truth = name.endswith((EMBEDDINGS, ITEMS))
    return _REBUILD if truth else "run imgsearch build-index again: it makes this file anew"


def check_truth(directory: Path, manifest: Manifest, name: str) -> None:
    """Do `check_content` for a file that cannot be derived from others.

    Raises:
        DamagedIndexError: It is missing, or not the file that was published.
    """
    try:
        check_content(directory, manifest, name)
    except FileNotFoundError as error:
        raise DamagedIndexError(f"{error.filename} is missing", hint=_REBUILD) from error


def is_whole(directory: Path, manifest: Manifest) -> bool:
    """Say whether all files are there as they were published, and log what is not. Reads every file."""
    try:
        check_sizes(directory, manifest)
        for name in manifest.files:
            check_content(directory, manifest, name)
    except (DamagedIndexError, FileNotFoundError) as error:
        problem = str(error)
    else:
        problem = problem_of_copy(directory, manifest)
    if problem:
        logger.warning("%s; building it anew", problem)
    return not problem


def try_record(path: Path) -> FileRecord | str:
    """Do `file_record`, or say why that is impossible: nothing is there, a device, or what cannot be read."""
    try:
        return file_record(path)
    except FileNotFoundError:
        return "it is missing"
    except OSError as error:
        return f"it cannot be read: {error.strerror}"


def file_record(path: Path) -> FileRecord:
    """Take size and sha256 of a file.

    Raises:
        OSError: It cannot be read, or is a FIFO, a folder or a device.
    """
    with open_regular(path) as file:
        return _record(file)


def _record(file: BufferedReader) -> FileRecord:
    digest = hashlib.file_digest(file, "sha256").hexdigest()
    return FileRecord(file.tell(), digest)
