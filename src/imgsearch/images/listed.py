"""A catalog that is a list of URLs: its common folder, and which of its files could be images."""

import itertools
import logging
import os
import re
import sqlite3
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from imgsearch.errors import ImageError, RefusedError, ResourceError, UsageError
from imgsearch.images.scan import IMAGE_SUFFIXES, FoundFile, found_file, is_hidden
from imgsearch.images.stores import (
    LIBRARIES,
    READERS,
    end_if_unreachable,
    is_url,
    object_status,
    statuses_below,
    store_of,
)
from imgsearch.images.workers.pool import bounded_map
from imgsearch.images.workers.threads import Threads

logger = logging.getLogger(__name__)

_LONGEST_LINE = 8192  # more is not read of one
_LONGEST_URL = 4096
_BOM = b"\xef\xbb\xbf"
_URL = re.compile(rb"([a-z0-9]+)://([^/]*)/(.+)", re.DOTALL)
_NOT_A_PATH = re.compile(rb"\0|(?:^|/)\.{0,2}(?:/|\Z)")
_BUCKET = re.compile(rb"[A-Za-z0-9][A-Za-z0-9._-]*")
_EXPECTED = "s3://BUCKET/KEY, gs://BUCKET/KEY or file:///FOLDER/FILE"
# From so many files of a folder on, the folder is listed: a store gives 1000 names in one answer.
_WORTH_A_LIST = 8


class UrlList:
    """The URLs in a file, one a line; sorted, without repetitions, and on disk where they are many.

    `root` is their longest common folder: an absolute path if they begin with file://, else a URL.

    Raises:
        UsageError: A line is no URL, or not of the same store as the first.
        RefusedError: There is no URL.
        MissingComponentError: What reaches the store is not installed.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._place: tuple[bytes, bytes] | None = None  # scheme and bucket
        self._common: list[bytes] = []
        self._connection = sqlite3.connect("")  # a file that SQLite removes
        try:
            self._connection.execute(
                "CREATE TABLE urls (folder BLOB, name BLOB, PRIMARY KEY (folder, name)) WITHOUT ROWID"
            )
            self._connection.executemany("INSERT OR IGNORE INTO urls VALUES (?, ?)", self._parsed())
            self.root = self._found_root()
        except BaseException as error:
            self.close()
            if isinstance(error, sqlite3.OperationalError):
                hint = "is there room for temporary files, in /tmp or TMPDIR?"
                raise ResourceError(f"{file} cannot be sorted: {error}", hint=hint) from error
            raise

    def close(self) -> None:
        """Remove what was sorted."""
        self._connection.close()

    def folders(self) -> Iterator[tuple[str, list[str]]]:
        """Yield folders below the root, as POSIX paths, and the names of the files in each."""
        above = len(b"/".join(self._common)) + bool(self._common)
        rows = self._connection.execute("SELECT folder, name FROM urls ORDER BY folder, name")
        for folder, files in itertools.groupby(rows, lambda row: row[0]):
            yield os.fsdecode(folder[above:]), [os.fsdecode(name) for _, name in files]

    def _found_root(self) -> str:
        if self._place is None:
            raise RefusedError(f"{self._file} lists no file; nothing was changed", hint="was it written to its end?")
        scheme, bucket = map(bytes.decode, self._place)
        folder = os.fsdecode(b"/".join(self._common))
        if scheme not in LIBRARIES:
            return os.path.realpath(f"/{folder}")
        store_of(scheme)  # before all are asked for
        return f"{scheme}://{bucket}/{folder}".rstrip("/")

    def _parsed(self) -> Iterator[tuple[bytes, bytes]]:
        try:
            with open(self._file, "rb") as lines:
                for number, line in enumerate(iter(partial(lines.readline, _LONGEST_LINE), b""), start=1):
                    url = (line.removeprefix(_BOM) if number == 1 else line).rstrip(b"\r\n")
                    if url.strip():
                        *folders, name = self._parts(number, url)
                        while self._common != folders[: len(self._common)]:
                            self._common.pop()
                        yield b"/".join(folders), name
        except OSError as error:
            raise UsageError(f"{self._file} cannot be read: {error.strerror}") from error

    def _parts(self, number: int, url: bytes) -> list[bytes]:
        """Take a URL apart: the names of its folders and of the file; the first says what all have in common."""
        found = _URL.fullmatch(url)
        if not found or found[1].decode() not in ("file", *LIBRARIES):
            raise self._unexpected(f"a folder of images, or a list of URLs ({_EXPECTED})", number, url)
        scheme, bucket, parts = found[1], found[2], found[3].split(b"/")
        is_local = scheme == b"file"
        if bool(bucket) == is_local or (bucket and not _BUCKET.fullmatch(bucket)):
            raise self._unexpected(_EXPECTED, number, url)
        if _NOT_A_PATH.search(found[3]) or len(url) > _LONGEST_URL:
            what = f"a URL without empty parts, '.', '..' and NUL, of {_LONGEST_URL} bytes at most"
            raise self._unexpected(what, number, url)
        if not is_local:
            try:
                url.decode()
            except UnicodeDecodeError:
                raise self._unexpected("UTF-8", number, url) from None
        if self._place is None:
            self._place, self._common = (scheme, bucket), parts[:-1]
        elif self._place != (scheme, bucket):
            first = "://".join(map(bytes.decode, self._place))
            raise self._unexpected(f"a URL that begins with {first}/ as the first does", number, url)
        return parts

    def _unexpected(self, expected: str, number: int, url: bytes) -> UsageError:
        shown = "one with '@'" if b"@" in url else repr(os.fsdecode(url[:80]))  # before which a password may be
        return UsageError(f"expected {expected}, found {shown} in line {number} of {self._file}")


class ListedScan:
    """Look at what a list names; as `Scan`, and with its kinds of `left_out`."""

    def __init__(self, urls: UrlList, *, follow_links: bool = False) -> None:
        self.left_out: Counter[str] = Counter()
        self._urls = urls
        self._follow_links = follow_links

    def __iter__(self) -> Iterator[FoundFile]:
        if not is_url(self._urls.root):
            for folder, names in self._images():
                yield from self._files(folder, names)
            return
        with Threads(READERS) as threads:
            for found in bounded_map(threads, self._objects, self._images(), 2 * READERS):
                yield from found

    def _images(self) -> Iterator[tuple[str, Sequence[str]]]:
        for folder, names in self._urls.folders():
            is_seen = not any(map(is_hidden, folder.split("/")))
            seen = [name for name in names if is_seen and not is_hidden(name)]
            images = [name for name in seen if name.lower().endswith(IMAGE_SUFFIXES)]
            self.left_out["hidden"] += len(names) - len(seen)
            self.left_out["other"] += len(seen) - len(images)
            if images:
                yield folder, images

    def _files(self, folder: str, names: Sequence[str]) -> Iterator[FoundFile]:
        place = os.path.join(self._urls.root, folder) if folder else self._urls.root
        is_linked = not self._follow_links and os.path.realpath(place) != place
        for name in names:
            file = os.path.join(place, name)
            if is_linked or (not self._follow_links and os.path.islink(file)):  # noqa: PTH114  # raises nothing
                self.left_out["link"] += 1
                logger.info("link not followed: %r", file)
            else:
                yield found_file(_joined(folder, name), partial(os.stat, file))

    def _objects(self, given: tuple[str, Sequence[str]]) -> list[FoundFile]:
        folder, names = given
        place = _joined(self._urls.root, folder) if folder else self._urls.root
        known = statuses_below(place) if len(names) >= _WORTH_A_LIST else {}
        found = []
        for name in names:
            cause = ""
            try:
                size, mtime_ns = known.get(name) or object_status(_joined(place, name))
            except ImageError as error:
                end_if_unreachable(error)
                size, mtime_ns, cause = 0, 0, error.cause
            found.append(FoundFile(_joined(folder, name), size, mtime_ns, cause))
        return found


def _joined(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name
