"""The nearest others of every item or product of a catalog, for pages that show what is similar."""

import contextlib
import json
import os
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from imgsearch.catalog.generation import Catalog, open_catalog
from imgsearch.catalog.lists import DIGITS, Lists, block_count, merged, nearest_lists
from imgsearch.errors import UsageError
from imgsearch.files import as_path, writing
from imgsearch.locks import exclusive_lock
from imgsearch.progress import Progress, no_progress
from imgsearch.store.database import connect
from imgsearch.store.generations import read_manifest

By = Literal["item", "product"]

MAX_TOP_K = 1000

_WORK_SCHEMA = """
CREATE TABLE IF NOT EXISTS work (settings TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS blocks (
    number INTEGER PRIMARY KEY, first INTEGER NOT NULL, others BLOB NOT NULL, scores BLOB NOT NULL
);
"""
# Raise it when the same settings would give other blocks.
_WORK_VERSION = 1


@dataclass(frozen=True, slots=True)
class Neighbor:
    """One of the nearest others: the path of an item, or the name of a product, and the cosine."""

    name: str
    score: float


@dataclass(frozen=True, slots=True)
class Neighbors:
    """What an item or a product is nearest to, best first; equal scores in the order of names."""

    name: str
    neighbors: tuple[Neighbor, ...]


def neighbors(
    index: str | os.PathLike[str],
    *,
    top_k: int = 10,
    by: By = "item",
    since: int | None = None,
    work: str | os.PathLike[str] | None = None,
    progress: Progress = no_progress,
) -> Iterator[Neighbors]:
    """Yield the nearest others of every item, by path, or of every product, by name.

    Every pair is compared, whatever the backend. Two products are as near as their nearest pictures. An item is not
    among its own neighbors; copies of it are.

    Args:
        index: The index directory.
        top_k: How many neighbors, 1 to 1,000.
        by: `item` or `product`.
        since: Only those whose list differs from what this generation gives: other neighbors, another order or other
            scores (by more than 0.000001), and those that were not there.
        work: A file for what has been computed, so that an interrupted run goes on; it is removed at the end, and one
            process at a time has it.
        progress: Told of `compare`.

    Raises:
        NoIndexError: There is none, or no generation `since`.
        DamagedIndexError: It is damaged.
        UsageError: `top_k` makes no sense.
        LockedError: Another process has `work`.
        OutputError: `work` cannot be written.
        ResourceError: The system does not let a file be read.
    """
    if not 1 <= top_k <= MAX_TOP_K:
        raise UsageError(f"top_k must be 1 to {MAX_TOP_K:,}, got {top_k:,}")
    directory, file = as_path(index), None if work is None else as_path(work)
    number = read_manifest(directory).generation
    with contextlib.ExitStack() as opened:
        if file is not None:
            opened.enter_context(_held(file))
        catalog = opened.enter_context(open_catalog(directory, number, by))
        if since is None:
            for found in _computed(catalog, top_k, file, progress):
                yield from _named(catalog, found)
        else:
            before = opened.enter_context(open_catalog(directory, since, by))
            for now, _ in changed_lists(catalog, before, top_k, file, progress):
                yield now
        if file is not None:  # both, whichever of them an interrupted run with other options has left
            _remove(file)
            _remove(_work_file_of_before(file))


def changed_lists(
    catalog: Catalog, before: Catalog, top_k: int, work: Path | None = None, progress: Progress = no_progress
) -> Iterator[tuple[Neighbors, Neighbors | None]]:
    """Yield lists that differ from those of an earlier generation, each with that one, None where it has none."""
    if before.sha256 == catalog.sha256:
        return
    of_before = None if work is None else _work_file_of_before(work)
    earlier = (each for part in _computed(before, top_k, of_before, progress) for each in _named(before, part))
    then = next(earlier, None)
    for part in _computed(catalog, top_k, work, progress):
        for now in _named(catalog, part):
            while then is not None and Catalog.key(then.name) < Catalog.key(now.name):
                then = next(earlier, None)
            same = then if then is not None and then.name == now.name else None
            if same is None or not _is_same(now, same):
                yield now, same


def _is_same(one: Neighbors, other: Neighbors) -> bool:
    return [each.name for each in one.neighbors] == [each.name for each in other.neighbors] and all(
        abs(ours.score - theirs.score) < 1.5 * 10.0**-DIGITS
        for ours, theirs in zip(one.neighbors, other.neighbors, strict=True)
    )


def _named(catalog: Catalog, lists: Lists) -> Iterator[Neighbors]:
    for number, (others, scores) in enumerate(
        zip(lists.others.tolist(), lists.scores.tolist(), strict=True), start=lists.first
    ):
        pairs = zip(others, scores, strict=True)
        # Rounded unit vectors may lead just past 1.
        found = (Neighbor(catalog.names[other], round(min(1.0, score), DIGITS)) for other, score in pairs if other >= 0)
        yield Neighbors(catalog.names[number], tuple(found))


def _computed(catalog: Catalog, top_k: int, work: Path | None, progress: Progress) -> Iterator[Lists]:
    """Compute all lists; with a work file, those that it does not have, which are all computed before the first."""
    total = block_count(len(catalog.vectors))

    def counted(blocks: Iterator[Lists], start: int) -> Iterator[Lists]:
        for number, block in enumerate(blocks, start=start + 1):
            progress("compare", number, total)
            yield block

    if work is None:
        yield from merged(counted(nearest_lists(catalog.vectors, catalog.grouping, top_k), 0))
        return
    settings = json.dumps([_WORK_VERSION, catalog.sha256, catalog.by, top_k])
    with writing(work), contextlib.closing(_open_work(work, settings)) as connection:
        (start,) = connection.execute("SELECT count(*) FROM blocks").fetchone()
        blocks = nearest_lists(catalog.vectors, catalog.grouping, top_k, start)
        for number, block in enumerate(counted(blocks, start), start=start):
            stored = (number, block.first, block.others.astype("<i4").tobytes(), block.scores.astype("<f4").tobytes())
            connection.execute("INSERT INTO blocks VALUES (?, ?, ?, ?)", stored)
    with contextlib.closing(connect(work)) as connection:
        yield from merged(_stored(connection, top_k))


def _stored(connection: sqlite3.Connection, top_k: int) -> Iterator[Lists]:
    for first, others, scores in connection.execute("SELECT first, others, scores FROM blocks ORDER BY number"):
        yield Lists(
            first,
            np.frombuffer(others, "<i4").reshape(-1, top_k).copy(),
            np.frombuffer(scores, "<f4").reshape(-1, top_k).copy(),
        )


def _open_work(path: Path, settings: str) -> sqlite3.Connection:
    """Open a work file, anew unless it is whole and of the same work."""
    try:
        connection = connect(path)
        connection.executescript(_WORK_SCHEMA)
        if connection.execute("SELECT settings FROM work").fetchall() == [(settings,)] and _has_all(connection):
            return connection
        connection.close()
    except sqlite3.DatabaseError as error:
        if isinstance(error, sqlite3.OperationalError):
            raise
    _remove(path)
    connection = connect(path)
    connection.executescript(_WORK_SCHEMA)
    connection.execute("INSERT INTO work VALUES (?)", (settings,))
    return connection


def _has_all(connection: sqlite3.Connection) -> bool:
    """Return whether blocks are there from the first one on, without a gap."""
    count, last = connection.execute("SELECT count(*), coalesce(max(number), -1) FROM blocks").fetchone()
    (verdict,) = connection.execute("PRAGMA integrity_check(1)").fetchone()
    return bool(last == count - 1 and verdict == "ok")


@contextlib.contextmanager
def _held(work: Path) -> Iterator[None]:
    """Keep other processes from a work file: `connect` takes none of SQLite's locks."""
    lock = work.with_name(work.name + ".lock")
    with contextlib.ExitStack() as held:
        with writing(lock):
            held.enter_context(exclusive_lock(lock, "another neighbors holds"))
        held.callback(lock.unlink, missing_ok=True)
        yield


def _remove(path: Path) -> None:
    for name in (path, path.with_name(path.name + "-journal")):
        name.unlink(missing_ok=True)


def _work_file_of_before(work: Path) -> Path:
    return work.with_name(work.name + "-before")


def work_file(output: Path) -> Path:
    """Name the work file of an output, beside it."""
    return output.with_name(f".{output.name}.work")
