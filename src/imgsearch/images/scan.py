"""Walk a catalogue: which files could be pictures, and which of them cannot even be opened."""

import logging
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass

logger = logging.getLogger(__name__)

# What OpenCV reads, and what it does not: shops also keep HEIC and PSD files, and want to be told that these
# are not searched rather than miss them in silence.
PICTURE_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".dib", ".tif", ".tiff", ".gif", ".avif"),
    *(".heic", ".heif", ".jxl", ".jp2", ".j2k", ".psd", ".svg"),
)


@dataclass(frozen=True, slots=True)
class FoundFile:
    """One file of the catalogue that has a picture's name.

    Attributes:
        path: POSIX path below the catalogue's root. Bytes of a name that are not UTF-8 are kept as lone
            surrogates (`os.fsdecode`), so every name survives the round trip.
        size: Length in bytes.
        mtime_ns: Time of the last change in nanoseconds.
        cause: Why it cannot be opened (`not_regular_file`, `unreadable`), or empty.
    """

    path: str
    size: int
    mtime_ns: int
    cause: str = ""


def scan(root: str, *, leave_out: Callable[[str], bool] = lambda _: False) -> Iterator[FoundFile]:
    """Walk a catalogue in a fixed order, files by name before the folders beside them.

    Links are not followed and hidden files and folders (a leading dot, and NAS thumbnails in `@eaDir`) are left
    out. A folder that cannot be listed is yielded itself, with cause `unreadable`: nothing is lost in silence.

    Args:
        root: Folder of pictures.
        leave_out: Says of a folder's path whether it is no part of the catalogue (an index that lies in it).

    Yields:
        A `FoundFile` for each file with a picture's suffix and each folder that cannot be listed.
    """
    pending = [""]
    while pending:
        folder = pending.pop()
        try:
            with os.scandir(os.path.join(root, folder)) as listing:
                entries = sorted(listing, key=lambda entry: os.fsencode(entry.name))
        except OSError as error:
            logger.info("cannot list %r: %s", folder, error)
            yield FoundFile(folder or ".", 0, 0, "unreadable")
            continue
        folders = []
        for entry in entries:
            if entry.name.startswith(".") or entry.name == "@eaDir":
                continue
            path = f"{folder}/{entry.name}" if folder else entry.name
            if entry.is_dir(follow_symlinks=False):
                if not leave_out(entry.path):
                    folders.append(path)
            elif entry.is_symlink():
                logger.info("link not followed: %r", path)
            elif entry.name.lower().endswith(PICTURE_SUFFIXES):
                yield _found_file(entry, path)
        pending.extend(reversed(folders))


def _found_file(entry: os.DirEntry[str], path: str) -> FoundFile:
    try:
        status = entry.stat(follow_symlinks=False)
    except OSError as error:
        logger.info("cannot look at %r: %s", path, error)
        return FoundFile(path, 0, 0, "unreadable")
    cause = "" if stat.S_ISREG(status.st_mode) else "not_regular_file"
    return FoundFile(path, status.st_size, status.st_mtime_ns, cause)
