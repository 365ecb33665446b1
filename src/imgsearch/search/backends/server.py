"""Candidates from a server of vectors, which an index that outgrows one machine keeps them in.

The files of the index stay the truth, and scores are computed from them. The server has a collection for each index: an
entity for each version of an item, by an id that its path, its content and its data decide. A generation knows its ids;
those of other generations in the collection are skipped. A build puts what the server lacks, publishes, and only then
deletes what neither of the last two generations has, so that readers of both find all of theirs.
"""

import contextlib
import hashlib
import json
import logging
import os
import re
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

import numpy as np

from imgsearch.encoders.runtime import Embeddings
from imgsearch.encoders.vectors import Vectors
from imgsearch.errors import DamagedIndexError, MissingComponentError, ServerError
from imgsearch.files import open_regular, reading, sync
from imgsearch.search.backends.exact import ExactCandidates
from imgsearch.search.backends.protocol import Rows, missed_items
from imgsearch.search.backends.pushed import Comparison
from imgsearch.store import generations, integrity
from imgsearch.store.arrays import BLOCK_ROWS
from imgsearch.store.items import Items
from imgsearch.store.manifest import Manifest
from imgsearch.store.search_settings import BackendSettings, Numbers, SearchOptions

logger = logging.getLogger(__name__)

# Of hints: what helps whoever asks.
WITHOUT = "query --fallback exact answers without it"
_LONGEST_REASON = 400

Fields = Mapping[str, str | int | float]


class VectorServer(Protocol):
    """One collection in a server, connected; threads share it.

    Every method raises `ServerError` where the server is down, slow, or says what was not expected.
    """

    def ids(self) -> Rows:
        """Return all ids in the collection, in any order; none if there is no collection."""
        ...

    def put(self, ids: Rows, vectors: Embeddings, fields: Sequence[Fields]) -> None:
        """Insert entities, or replace them, and make the collection where it is missing.

        Args:
            ids: int64 of shape (n,), 0 or more, n at most `BLOCK_ROWS`.
            vectors: Unit float32 of shape (n, d).
            fields: Of each, what conditions may ask for.
        """
        ...

    def settle(self) -> None:
        """Return once all that was put is durable, indexed, and seen by every reader."""
        ...

    def delete(self, ids: Rows) -> None:
        """Delete entities, as far as they are there."""
        ...

    def drop(self) -> None:
        """Delete the collection, if it is there."""
        ...

    def nearest(self, vector: Embeddings, k: int, effort: int, where: Sequence[Comparison]) -> Rows:
        """Return the ids of at most `k` entities that are near a vector and for which all comparisons hold."""
        ...

    def close(self) -> None:
        """End the connection."""
        ...


class ServerBackend:
    """Asks a server; see `Backend`.

    Args:
        name: In addresses, and in the manifest.
        library: What it needs, as it is imported.
        extra: The extra of this package that has the library.
        open_server: Connects to the collection of an address, a name and a number of dimensions.
        efforts: To try, ascending.
    """

    file = "ids.npy"
    numbers: Numbers = "float32"

    def __init__(
        self,
        name: str,
        library: str,
        extra: str,
        open_server: Callable[[str, str, int], VectorServer],
        efforts: Sequence[int],
    ) -> None:
        self.name = name
        self._library = library
        self._extra = extra
        self._open_server = open_server
        self._efforts = efforts

    def ensure_available(self, *, by_fork: bool = False) -> None:  # noqa: ARG002
        if find_spec(self._library) is None:
            raise MissingComponentError(
                f"the backend {self.name} needs a library that is not installed: {self._library}",
                hint=f"pip install 'imgsearch-toolkit[{self._extra}]'; or go without: query --exact",
            )

    def estimated_bytes(self, count: int, vector_bytes: int, options: SearchOptions) -> int:  # noqa: ARG002
        return 16 * count

    def trials(self, options: SearchOptions, count: int) -> Sequence[BackendSettings]:  # noqa: ARG002
        return (BackendSettings(self.name, 0, options.seed, self._efforts[0], server=options.server),)

    def build(self, folder: Path, vectors: Vectors, settings: BackendSettings) -> None:
        with contextlib.closing(Items(folder / generations.ITEMS)) as items:
            ids = _unlike(np.fromiter((_id_of(*each) for each in items.fields()), np.int64, len(vectors)))
            with self._opened(settings, vectors.shape[1]) as server:
                is_missing = np.isin(ids, server.ids(), invert=True)
                at = f"{settings.server}, {settings.collection}"
                logger.info("%s: %d of %d vectors are new", at, is_missing.sum(), len(ids))
                for rows, fields in _blocks(items, is_missing):
                    server.put(ids[rows], vectors[rows], fields)
                server.settle()
        order = np.argsort(ids)
        with (folder / self.file).open("wb") as file:
            np.lib.format.write_array(file, np.stack([ids[order], order]), allow_pickle=False)
        sync(folder / self.file)

    def take_over(self, *_: object) -> bool:
        return False  # what is in the server already is kept anyway

    def check(self, folder: Path, vectors: Vectors, settings: BackendSettings) -> None:
        # With the least effort, as before it is tuned, a good graph misses some, too.
        opened = self.open(folder, vectors, replace(settings, search_k=self._efforts[-1]))
        missed, asked = missed_items(opened, vectors)
        if missed:
            raise ServerError(
                f"{settings.server} does not find {missed} of {asked} items by themselves",
                hint="run imgsearch build-index again: it puts what the server lacks",
            )

    def open(self, folder: Path, vectors: Vectors, settings: BackendSettings) -> "ServerCandidates":
        connection = _Connection(lambda: self._open_server(settings.server, settings.collection, vectors.shape[1]))
        ids = _open_ids(folder / self.file, len(vectors))
        return ServerCandidates(connection, folder, ids, vectors, settings.search_k)

    def efforts(self, settings: BackendSettings, count: int) -> Iterator[int]:  # noqa: ARG002
        yield from self._efforts

    def effort_range(self, settings: BackendSettings, k: int, count: int) -> tuple[int, int]:  # noqa: ARG002
        return _wanted(k), self._efforts[-1]

    def describe(self, settings: BackendSettings) -> str:
        return f"{self.name} at {settings.server}, {settings.collection}, effort {settings.search_k}"

    def reach(self, server: str) -> None:
        """Connect once, before the long part of a build; raises `ServerError`, or `UsageError` for a wrong address."""
        self._open_server(server, f"imgsearch_{0:016x}", 1).close()

    def is_whole(self, folder: Path, manifest: Manifest) -> bool:
        """Return whether the server has all that a generation needs."""
        settings = manifest.backend
        assert settings is not None
        ids = _open_ids(folder / self.file, manifest.count)[0]
        with self._opened(settings, manifest.dims) as server:
            missing = len(np.setdiff1d(ids, server.ids()))
        if missing:
            logger.warning("%s lacks %d of %d vectors; they are put there again", settings.server, missing, len(ids))
        return not missing

    def sweep(self, settings: BackendSettings, dims: int, needed: Rows | None) -> None:
        """Delete all but the ids that are needed; None: the collection is not needed at all."""
        with self._opened(settings, dims) as server:
            if needed is None:
                server.drop()
            elif len(old := np.setdiff1d(server.ids(), needed)):
                server.delete(old)

    @contextlib.contextmanager
    def _opened(self, settings: BackendSettings, dims: int) -> Iterator[VectorServer]:
        with contextlib.closing(self._open_server(settings.server, settings.collection, dims)) as server:
            yield server


class _Connection:
    """Connects when it is first needed, and again after that has failed."""

    def __init__(self, connect: Callable[[], VectorServer]) -> None:
        self._connect = connect
        self._lock = threading.Lock()
        self._server: VectorServer | None = None

    def server(self) -> VectorServer:
        with self._lock:
            if self._server is None:
                self._server = self._connect()
                weakref.finalize(self, self._server.close)
            return self._server


@dataclass(frozen=True, slots=True, eq=False)
class ServerCandidates:
    """The vectors of one generation in a server; `where` is asked of the server beside the query."""

    connection: _Connection
    folder: Path
    ids: Rows  # (2, count): ids, ascending, and the row of each
    vectors: Vectors
    effort: int
    where: tuple[Comparison, ...] = ()

    def narrowed(self, where: tuple[Comparison, ...]) -> "ServerCandidates":
        """Let the server propose only what comparisons hold for."""
        return replace(self, where=where)

    def candidates(self, vector: Embeddings, k: int) -> Rows:
        server, wanted = self.connection.server(), _wanted(k)
        while True:
            found = server.nearest(vector, wanted, max(self.effort, wanted), self.where)
            rows = self._rows_of(found)
            if len(rows) >= k or len(found) < wanted:
                break
            wanted *= 4
        # What neither of the last two generations has is deleted from the server, once its folder is removed.
        if not self.folder.exists():
            return ExactCandidates(self.vectors).candidates(vector, k)
        least = min(k, len(self.vectors))
        if len(rows) < least and not self.where:
            raise ServerError(
                f"the server of the index found {len(rows)} of its vectors, expected {least} or more",
                hint="run imgsearch build-index again: it puts what the server lacks; or query --fallback exact",
            )
        return rows

    def _rows_of(self, found: Rows) -> Rows:
        ids, rows = self.ids
        places = np.searchsorted(ids, found)
        places[places == len(ids)] = 0
        return np.asarray(np.unique(rows[places[ids[places] == found]]), np.int64)


def require_collection_name(name: str) -> None:
    """Raise `DamagedIndexError` unless it is what `collection_of` calls a collection."""
    if not re.fullmatch("imgsearch_[0-9a-f]{16}", name):
        raise DamagedIndexError(f"expected a collection called imgsearch_ and 16 hex digits, found {name!r}")


def one_line(reason: object) -> str:
    """Return what a library says as one line that is not too long."""
    return " ".join(str(reason).split())[:_LONGEST_REASON]


def server_name(address: str) -> str:
    """Return the name of the backend that an address begins with."""
    return urlsplit(address).scheme.partition("+")[0]


def collection_of(directory: Path, draft: Manifest, previous: Manifest | None) -> tuple[str, str]:
    """Return the collection of an index, and its place: those of the generation before, or new ones.

    The first are taken if the server is the same, `previous` has vectors of the same space (None: it has not), and the
    index has not been copied or moved since.
    """
    if draft.search is None or not draft.search.server:
        return "", ""
    place = place_of(directory)
    before = previous.backend if previous else None
    if before is not None and (before.server, before.place) == (draft.search.server, place):
        return before.collection, place
    return f"imgsearch_{os.urandom(8).hex()}", place


def place_of(directory: Path) -> str:
    """Return what a directory has and no copy of it: a hash of its path, its number and the file system's."""
    # The folder that a file system begins with has the same number in each.
    facts = f"{os.statvfs(directory).f_fsid} {directory.stat().st_ino} {os.path.realpath(directory)}"
    return hashlib.sha256(os.fsencode(facts)).hexdigest()[:16]


def needed_ids(directory: Path, manifest: Manifest, collection: str) -> Rows:
    """Return the ids that a generation has in a collection."""
    settings = manifest.backend
    if settings is None or settings.collection != collection or not manifest.count:
        return np.empty(0, np.int64)
    name = f"{manifest.folder}/{ServerBackend.file}"
    integrity.check_content(directory, manifest, name)
    return np.asarray(_open_ids(directory / name, manifest.count)[0], np.int64)


def _wanted(k: int) -> int:
    return 2 * k + 10


def _id_of(sha256: bytes, fields: Fields) -> int:
    """Return 63 bits for a version of an item."""
    text = json.dumps(fields, sort_keys=True).encode()
    return int.from_bytes(hashlib.blake2b(sha256 + text, digest_size=8).digest()) >> 1


def _unlike(ids: Rows) -> Rows:
    """Move ids that are equal by chance (two of a hundred million items may be) to the next that are free."""
    while len(np.unique(ids)) < len(ids):
        _, first = np.unique(ids, return_index=True)
        again = np.setdiff1d(np.arange(len(ids)), first)
        ids[again] = (ids[again] + 1) & np.iinfo(np.int64).max
    return ids


def _blocks(items: Items, is_wanted: "np.typing.NDArray[np.bool_]") -> Iterator[tuple[Rows, list[Fields]]]:
    """Yield the rows that are wanted, and their fields, in blocks."""
    rows: list[int] = []
    fields: list[Fields] = []
    for row, (_, values) in enumerate(items.fields()):
        if is_wanted[row]:
            rows.append(row)
            fields.append(values)
        if len(rows) == BLOCK_ROWS:
            yield np.asarray(rows), fields
            rows, fields = [], []
    if rows:
        yield np.asarray(rows), fields


def _open_ids(path: Path, count: int) -> Rows:
    """Map the ids of a generation, whose sha256 has been checked."""
    hint = integrity.repair_hint(path.name)
    with reading(path, hint), open_regular(path):
        try:
            ids = np.load(path, mmap_mode="r", allow_pickle=False)
        except (ValueError, EOFError) as error:
            raise DamagedIndexError(f"{path} is damaged: {error}", hint=hint) from error
    if ids.shape != (2, count) or ids.dtype != np.int64:
        raise DamagedIndexError(f"{path} is damaged: {ids.dtype} {ids.shape}, expected int64 {(2, count)}", hint=hint)
    return np.asarray(ids, np.int64)
