"""`descriptors.sqlite`: points of catalog images, so that each is looked at once.

A cache beside what is published, which the manifest does not know. It may be deleted at any time, is made anew when it
is damaged, and an index that cannot be written answers without it. Points are kept by the sha256 of the image's
bytes, the oldest make room for new ones, and nothing that is read is believed.
"""

import contextlib
import errno
import logging
import os
import sqlite3
import stat
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np

from imgsearch.regions.geometric import DESCRIPTOR_LENGTH, MOST_POINTS, POINTS_VERSION, Points
from imgsearch.store.generations import DESCRIPTORS
from imgsearch.store.items import connect

logger = logging.getLogger(__name__)

# Bytes of all points, of which an image has 30,000; the file is a tenth larger.
LIMIT = 58_000_000

_TABLE = """CREATE TABLE points (
    id INTEGER PRIMARY KEY, sha256 BLOB NOT NULL UNIQUE, points BLOB NOT NULL, crc32 INTEGER NOT NULL
)"""

_READ = "SELECT points, crc32 FROM points WHERE sha256 = ? AND typeof(points) = 'blob' AND length(points) <= ?"

# The oldest, all that come before the newest that fit.
_EVICT = """
DELETE FROM points WHERE id <= (
    SELECT max(id) FROM (SELECT id, sum(length(points)) OVER (ORDER BY id DESC) AS total FROM points) WHERE total > ?
)
"""

# Each point is two float32 and its descriptor.
_POINT_BYTES = 8 + DESCRIPTOR_LENGTH
_LONGEST = MOST_POINTS * _POINT_BYTES

# For so long another process may write; to look for points anew takes no longer.
_WAIT_MS = 500


# What SQLite says of a file that is not such a database, or not whole; all else is the fault of disk, folder or load.
_USELESS = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR}


class _ForeignFileError(Exception):
    """The file is not ours, not of this version, or far too large."""


def cached_points(directory: Path, contents: Iterable[bytes]) -> dict[bytes, Points]:
    """Read the points of images.

    Args:
        directory: The index.
        contents: sha256 of each image's bytes.

    Returns:
        sha256 -> points, of those that are known.
    """
    path = directory / DESCRIPTORS
    found: dict[bytes, Points] = {}
    if not os.path.lexists(path):
        return found
    with _doing_without(path), _opened(path) as connection:
        if _has_table(connection):
            for content in contents:
                for data, crc32 in connection.execute(_READ, (content, _LONGEST)):
                    points = _unpacked(data) if crc32 == _crc32(content, data) else None
                    if points is not None:
                        found[content] = points
    return found


def cache_points(directory: Path, found: Mapping[bytes, Points]) -> None:
    """Keep the points of images, if that is possible.

    Args:
        directory: The index.
        found: sha256 of an image's bytes -> its points.
    """
    path = directory / DESCRIPTORS
    with _doing_without(path), _opened(path) as connection:
        connection.execute("BEGIN IMMEDIATE")
        if not _has_table(connection):
            connection.execute(_TABLE)
            connection.execute(f"PRAGMA user_version = {POINTS_VERSION}")
        rows = [(content, data, _crc32(content, data)) for content, data in _packed(found)]
        connection.execute(_EVICT, (LIMIT - sum(len(data) for _, data, _ in rows),))
        connection.executemany("INSERT OR REPLACE INTO points (sha256, points, crc32) VALUES (?, ?, ?)", rows)
        connection.execute("COMMIT")


@contextlib.contextmanager
def _doing_without(path: Path) -> Iterator[None]:
    """End the block where the file fails, and throw the file away where it is at fault."""
    try:
        yield
    except (OSError, sqlite3.Error, UnicodeDecodeError, _ForeignFileError) as error:
        logger.debug("%s is of no use: %s", path, error)
        is_disk_at_fault = isinstance(error, OSError) or (
            isinstance(error, sqlite3.Error) and error.sqlite_errorcode & 0xFF not in _USELESS
        )
        if not is_disk_at_fault:
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
                path.with_name(path.name + "-journal").unlink(missing_ok=True)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[sqlite3.Connection]:
    with contextlib.suppress(FileNotFoundError):
        status = path.lstat()
        # SQLite would follow a link out of the index, and wait for a device.
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "not a regular file", os.fspath(path))
        if status.st_size > 2 * LIMIT:
            raise _ForeignFileError(f"{status.st_size} bytes")
    with contextlib.closing(connect(path)) as connection:
        connection.execute(f"PRAGMA busy_timeout = {_WAIT_MS}")
        # A power cut may damage it, and then it is made anew; to wait for the disk would cost every query.
        connection.execute("PRAGMA synchronous = OFF")
        yield connection


def _has_table(connection: sqlite3.Connection) -> bool:
    """Say whether there is a table of points; an empty file has none.

    Raises:
        _ForeignFileError: There is something else, a view that never ends maybe.
    """
    found = connection.execute("SELECT type, sql FROM sqlite_master LIMIT 3").fetchall()
    if not found:
        return False
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    # The index is that of the column that is unique.
    if version != POINTS_VERSION or found != [("table", _TABLE), ("index", None)]:
        raise _ForeignFileError(f"version {version}, {len(found)} tables and indexes")
    return True


def _crc32(content: bytes, data: bytes) -> int:
    return zlib.crc32(data, zlib.crc32(content))


def _packed(found: Mapping[bytes, Points]) -> Iterator[tuple[bytes, bytes]]:
    for content, points in found.items():
        yield content, points.positions.astype("<f4").tobytes() + points.descriptors.tobytes()


def _unpacked(data: bytes) -> Points | None:
    """Read what `_packed` made; None if it is not such."""
    count, rest = divmod(len(data), _POINT_BYTES)
    if rest:
        return None
    positions = np.frombuffer(data, "<f4", 2 * count).reshape(count, 2).astype(np.float32)
    if not ((positions >= 0) & (positions <= 1)).all():  # what is not a number is not within either
        return None
    return Points(positions, np.frombuffer(data, np.uint8, offset=8 * count).reshape(count, DESCRIPTOR_LENGTH))
