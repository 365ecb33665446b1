"""Walk a catalog: which files could be images, and which of them cannot even be opened."""

import errno
import hashlib
import heapq
import logging
import os
import stat
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from imgsearch.system import refusal_of

logger = logging.getLogger(__name__)

# What is decoded, and what is not: shops also keep HEIC and PSD files, and want to be told that these are not
# searched rather than miss them in silence.
IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".pjpeg", ".pjp", ".mpo", ".png", ".apng", ".webp", ".bmp", ".dib"),
    *(".tif", ".tiff", ".gif", ".avif"),
    *(".heic", ".heif", ".jxl", ".jp2", ".j2k", ".psd", ".svg"),
)

# What systems keep beside the files of their users, in lower case: thumbnails of Synology; what was deleted, on
# Synology, QNAP, Windows and macOS; snapshots of NetApp, Synology and QNAP; what repairs and indexes a disk. Other
# names of the kind (.Trash-1000, .snapshot, .@__thumb) begin with a dot.
_OF_THE_SYSTEM = {
    *("@eadir", "#recycle", "@recycle", "$recycle.bin", "network trash folder"),
    *("~snapshot", "#snapshot", "@recently-snapshot", "lost+found", "system volume information"),
}

_LARGEST_TIME = 2**63 - 1  # what SQLite can hold: a clock may have been wrong by centuries when a file was written

# The kinds of `Scan.left_out`, behind how many there are.
_LEFT_OUT = {"other": "without an image's ending", "hidden": "hidden", "link": "linked", "index": "of an index"}


@dataclass(frozen=True, slots=True)
class Reject:
    """A file that cannot be used: path below its folder, cause in one word, message for people."""

    path: str
    cause: str
    message: str


class FileStatus(NamedTuple):
    """What says whether a file is still the same, without reading it."""

    size: int  # in bytes
    mtime_ns: int


class FoundFile(NamedTuple):  # which is made in a third of the time of a frozen dataclass
    """One file of the catalog that has an image's name."""

    path: str  # POSIX, below the catalog's root, as `os.fsdecode` gives it: names that are not UTF-8 survive
    size: int  # in bytes
    mtime_ns: int
    cause: str = ""  # why it cannot be opened: `not_regular_file`, `unreadable`, `path_too_long`, `vanished`


class Scan:
    """A walk through a catalog in a fixed order, files by name before the folders beside them.

    A folder that cannot be listed is yielded itself, with its cause: nothing is lost in silence. With `follow_links`
    each folder is listed once, however many links lead to it, and under its own name if the catalog holds it.
    `left_out` counts `hidden` entries (see `is_hidden`), each `link`, `index` (what `leave_out`
    accepts), and `other` for files without an image's name.
    """

    def __init__(
        self, root: str, *, leave_out: Callable[[str], bool] = lambda _: False, follow_links: bool = False
    ) -> None:
        self.left_out: Counter[str] = Counter()
        self._root = root
        self._leave_out = leave_out
        self._follow_links = follow_links
        self._listed: set[tuple[int, int]] = set()

    def __iter__(self) -> Iterator[FoundFile]:
        links: deque[str] = deque()
        yield from self._walk("", links)
        while links:  # after all folders that lie in the catalog itself
            yield from self._walk(links.popleft(), links)

    def _walk(self, top: str, links: deque[str]) -> Iterator[FoundFile]:
        pending = [top]
        while pending:
            folder = pending.pop()
            try:
                if self._follow_links and not self._is_first_visit(folder):
                    continue
                with os.scandir(os.path.join(self._root, folder)) as listing:
                    entries = sorted(listing, key=lambda entry: os.fsencode(entry.name))
            except OSError as error:
                logger.info("cannot list %r: %s", folder, error)
                yield FoundFile(folder or ".", 0, 0, _cause(error))
                continue
            folders = []
            for entry in entries:
                path = f"{folder}/{entry.name}" if folder else entry.name
                if is_hidden(entry.name):
                    self.left_out["hidden"] += 1
                elif entry.is_symlink() and not self._follow_links:
                    self.left_out["link"] += 1
                    logger.info("link not followed: %r", path)
                elif _is_folder(entry):
                    if self._leave_out(entry.path):
                        self.left_out["index"] += 1
                    elif entry.is_symlink():
                        links.append(path)
                    else:
                        folders.append(path)
                elif entry.name.lower().endswith(IMAGE_SUFFIXES):
                    yield found_file(path, entry.stat)
                else:
                    self.left_out["other"] += 1
            pending.extend(reversed(folders))

    def _is_first_visit(self, folder: str) -> bool:
        status = Path(self._root, folder).stat()
        place = (status.st_dev, status.st_ino)
        if place in self._listed:
            self.left_out["link"] += 1
            return False
        self._listed.add(place)
        return True


def is_hidden(name: str) -> bool:
    """Return whether an entry of a folder is not meant to be seen: a dot file, thumbnails of a NAS, a recycle bin."""
    return name.startswith(".") or name.lower() in _OF_THE_SYSTEM


def unused_in_words(left_out: Mapping[str, int], causes: Mapping[str, int]) -> str:
    """Say in brackets what a scan did not look at, and what of the rest was rejected; empty where all was used."""
    parts = (
        ("left out", [f"{left_out[kind]:,} {words}" for kind, words in _LEFT_OUT.items() if left_out.get(kind)]),
        ("rejected", [f"{count:,} {cause}" for cause, count in sorted(causes.items()) if count]),
    )
    words = "; ".join(f"{what}: {', '.join(counts)}" for what, counts in parts if counts)
    return f" ({words})" if words else ""


def hint_for_unused(left_out: Mapping[str, int], causes: Mapping[str, int]) -> str:
    """Say what to do where nothing can be used: about what there is, or about a folder that may be another."""
    if any(causes.values()):
        return "docs/formats.md says which files are read"
    if left_out.get("other"):
        return "give images an image's ending, such as .jpg"
    if left_out.get("link"):
        return "if the images are behind links, pass --follow-links"
    if left_out.get("hidden"):
        return "names that begin with a dot are not looked at: rename the images"
    return "is it the right folder, and is its disk mounted?"


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads round in a circle; or what cannot be looked at: to list it will say why
        return not entry.is_symlink()


def found_file(path: str, look: Callable[[], os.stat_result]) -> FoundFile:
    """Describe a file of the catalog by its status, or by what there is in place of one."""
    try:
        status = look()
    except OSError as error:
        logger.info("cannot read the status of %r: %s", path, error)
        return FoundFile(path, 0, 0, _cause(error))
    cause = "" if stat.S_ISREG(status.st_mode) else "not_regular_file"
    return FoundFile(path, status.st_size, file_time(status), cause)


def file_time(status: os.stat_result) -> int:
    """Return the time of a file's last change in nanoseconds, within what SQLite can hold."""
    return clamped_time(status.st_mtime_ns)


def clamped_time(time: int) -> int:
    """Bring a time in nanoseconds within what SQLite can hold."""
    return time if -_LARGEST_TIME <= time <= _LARGEST_TIME else max(-_LARGEST_TIME, min(_LARGEST_TIME, time))


def _cause(error: OSError) -> str:
    if refusal := refusal_of(error):  # the files are there: to go on without them would be to lose them
        raise refusal from error
    if error.errno == errno.ENAMETOOLONG:
        return "path_too_long"
    return "vanished" if error.errno == errno.ENOENT else "unreadable"


def sampled(found: Iterable[FoundFile], most: int) -> list[str]:
    """Choose at most so many paths by the hash of their names: a random sample, but always the same."""
    paths = (file.path for file in found)
    return heapq.nsmallest(most, paths, key=lambda path: hashlib.sha256(os.fsencode(path)).digest())
