"""`partial.sqlite`: what a build knows so far; on disk, so that a million files need no more memory than a hundred.

Vectors, by the sha256 of the image's bytes, outlive an interruption; everything else is started afresh by each build.
"""

import contextlib
import itertools
import logging
import sqlite3
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from imgsearch.build.loss import compare_items
from imgsearch.build.products import SCHEMA as PRODUCTS_SCHEMA
from imgsearch.build.products import Products, sql_text
from imgsearch.colors import lab_of, names_of
from imgsearch.encoders.runtime import Embeddings
from imgsearch.errors import UsageError
from imgsearch.files import check_database, is_of_system
from imgsearch.images.decode import Remarks
from imgsearch.images.main_colors import COLORS_VERSION, MainColor
from imgsearch.images.scan import FoundFile, Reject
from imgsearch.search.backends.protocol import Rows
from imgsearch.store.arrays import stored_rows
from imgsearch.store.colors import MIN_SHARE, entries_of, packed, repacked
from imgsearch.store.columns import write_columns
from imgsearch.store.database import connect, database_uri
from imgsearch.store.items import ITEMS_VERSION, SCHEMA, default_names, without_indexes
from imgsearch.store.manifest import Manifest, WordsFacts
from imgsearch.store.words import NO_COLUMNS, text_columns, write_words
from imgsearch.text.lexical import has_full_text

logger = logging.getLogger(__name__)

_SCHEMA = f"""
CREATE TABLE IF NOT EXISTS encoder (fingerprint TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS vectors (
    sha256 BLOB PRIMARY KEY, vector BLOB NOT NULL, crc32 INTEGER NOT NULL, damage TEXT NOT NULL,
    resumed INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS remarks (
    sha256 BLOB NOT NULL, kind TEXT NOT NULL, message TEXT NOT NULL, PRIMARY KEY (sha256, kind)
);
CREATE TABLE IF NOT EXISTS colors (
    sha256 BLOB NOT NULL, place INTEGER NOT NULL, rgb TEXT, share REAL, name TEXT, version INTEGER NOT NULL,
    PRIMARY KEY (sha256, place)
);
DROP TABLE IF EXISTS files;
CREATE TABLE files (
    id INTEGER PRIMARY KEY, path TEXT NOT NULL UNIQUE, product TEXT NOT NULL, category TEXT NOT NULL,
    size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL,
    sha256 BLOB, cause TEXT NOT NULL, message TEXT NOT NULL DEFAULT ''
);
{PRODUCTS_SCHEMA}"""

# Of each of the three files, in KiB: SQLite's 2 MB are soon read again and again where rows come in any order.
_CACHE_SIZE = -32_000

# Stands for the published items where there are none, so that every question below has an answer.
_NO_PREVIOUS = """
CREATE TABLE old.items (row, path, size, mtime_ns, sha256);
CREATE TABLE old.rejected (path, size, mtime_ns, cause, message, first_seen);
CREATE TABLE old.damaged (sha256, message);
CREATE TABLE old.remarks (sha256, kind, message);
"""

# A file rejected for a passing cause may be fine the next time though its size and time are the same.
_TAKE_OVER_REJECTED = """
UPDATE files SET cause = r.cause, message = r.message FROM old.rejected r
WHERE r.path = files.path AND r.size = files.size AND r.mtime_ns = files.mtime_ns AND files.cause = ''
AND r.cause NOT IN ('unreadable', 'vanished', 'changed', 'timeout', 'decoder_crashed',
    'out_of_memory', 'bad_embedding')
"""
# The parameters are the largest size let in, and whether damaged images are.
_TAKE_OVER_UNCHANGED = """
UPDATE files SET sha256 = o.sha256 FROM old.items o
WHERE o.path = files.path AND o.size = files.size AND o.mtime_ns = files.mtime_ns AND files.cause = ''
AND o.size <= ? AND (? OR o.sha256 NOT IN (SELECT sha256 FROM known_damaged))
"""
_IS_PUBLISHED = """
SELECT 1 FROM old.items o WHERE o.sha256 = ? AND (? OR o.sha256 NOT IN (SELECT sha256 FROM known_damaged))
"""
_NEW_REJECTS = """
SELECT path, cause, message FROM files
WHERE cause != '' AND path NOT IN (SELECT path FROM known_rejected) ORDER BY path
"""
_OTHER_REJECTS = """
SELECT 1 FROM files f WHERE cause != '' AND NOT EXISTS (
    SELECT 1 FROM known_rejected r
    WHERE r.path = f.path AND r.size = f.size AND r.mtime_ns = f.mtime_ns AND r.cause = f.cause
) LIMIT 1
"""
# The items to be; one whose file was not read yet has no sha256.
_COMING = """
CREATE TEMP VIEW coming AS
SELECT f.path, f.size, f.mtime_ns, f.sha256, coalesce(p.product, f.product) AS product,
    coalesce(p.category, f.category) AS category, coalesce(p.metadata, '{}') AS metadata
FROM files f LEFT JOIN products p ON p.path = f.path WHERE f.cause = ''
"""
_WRITE_ITEMS = """
INSERT INTO new.items
SELECT row_number() OVER (ORDER BY path) - 1, path, size, mtime_ns, sha256, product, category, metadata
FROM coming WHERE sha256 IS NOT NULL
"""
_WRITE_REJECTED = """
INSERT INTO new.rejected
SELECT f.path, f.size, f.mtime_ns, f.cause, f.message,
    coalesce((SELECT r.first_seen FROM known_rejected r WHERE r.path = f.path), ?)
FROM files f WHERE f.cause != ''
"""
_WRITE_DAMAGED = """
INSERT INTO new.damaged
SELECT sha256, message FROM (
    SELECT sha256, damage AS message FROM vectors WHERE damage != '' UNION ALL SELECT sha256, message FROM known_damaged
) d WHERE EXISTS (SELECT 1 FROM new.items i WHERE i.sha256 = d.sha256) GROUP BY sha256
"""
# A content that this build has embedded has the remarks of this build.
_ALL_REMARKS = """
CREATE TEMP VIEW all_remarks AS
SELECT sha256, kind, message FROM remarks UNION ALL
SELECT sha256, kind, message FROM known_remarks WHERE sha256 NOT IN (SELECT sha256 FROM vectors)
"""
_WRITE_REMARKS = """
INSERT INTO new.remarks SELECT * FROM all_remarks r WHERE EXISTS (SELECT 1 FROM new.items i WHERE i.sha256 = r.sha256)
"""
# Of each content once, though it may be that of many items. Colors of another version are none: they are found anew.
_KNOWN_COLORS = """
CREATE TEMP VIEW known_colors AS
SELECT o.sha256, c.place, c.rgb, c.share, c.name, c.version
FROM (SELECT sha256, min(row) AS row FROM old.items GROUP BY sha256) o JOIN old.colors c ON c.row = o.row
WHERE c.version = {version}
"""
# A file whose content is known, but not its colors; of what was looked at and has none, that is known.
_LACKS_COLORS = """
cause = '' AND sha256 IS NOT NULL AND sha256 NOT IN (SELECT sha256 FROM known_colors WHERE place <= 0)
"""
# That the colors of every published item are known is seen by counting, in a fraction of the time.
_COLORLESS_ITEMS = f"""
SELECT (SELECT count(*) FROM old.items)
    - (SELECT count(*) FROM old.colors WHERE place <= 0 AND version = {COLORS_VERSION})
"""  # noqa: S608
_VECTORS_WITHOUT_COLORS = "SELECT EXISTS (SELECT 1 FROM vectors WHERE sha256 NOT IN (SELECT sha256 FROM colors))"
_LIST_COLORLESS = f"""
CREATE TEMP TABLE colorless AS
SELECT min(id), path, size, mtime_ns, sha256 FROM files
WHERE {_LACKS_COLORS} AND sha256 NOT IN (SELECT sha256 FROM colors) GROUP BY sha256 ORDER BY path
"""  # noqa: S608
# Most items are where they were: looked up by path, in the order of the paths, rows are read one after the other.
_PUBLISHED_ROW = """
coalesce(
    (SELECT o.row FROM old.items o WHERE o.path = {0}.path AND o.sha256 = {0}.sha256),
    (SELECT min(o.row) FROM old.items o WHERE o.sha256 = {0}.sha256)
)
"""
_WRITE_COLORS = """
INSERT INTO new.colors
SELECT i.row, c.place, c.rgb, c.share, c.name, c.version FROM new.items i CROSS JOIN colors c ON c.sha256 = i.sha256
ORDER BY i.row, c.place
"""
_COPY_COLORS = f"""
INSERT INTO new.colors
SELECT i.row, c.place, c.rgb, c.share, c.name, c.version
FROM new.items i CROSS JOIN old.colors c ON c.row = {_PUBLISHED_ROW.format("i")}
WHERE c.version = {COLORS_VERSION} AND i.sha256 NOT IN (SELECT sha256 FROM colors)
ORDER BY i.row, c.place
"""  # noqa: S608
_NEWLY_COLORED_ROWS = (
    "SELECT i.row FROM (SELECT DISTINCT sha256 FROM colors) c CROSS JOIN new.items i ON i.sha256 = c.sha256"
)
_COLORS_THAT_COUNT = f"""
SELECT row, rgb, name FROM new.colors WHERE place = 0 OR share >= {MIN_SHARE} ORDER BY row, place
"""  # noqa: S608
_NEW_COLORS_THAT_COUNT = f"""
SELECT row, rgb, name FROM new.colors
WHERE (place = 0 OR share >= {MIN_SHARE}) AND row IN ({_NEWLY_COLORED_ROWS}) ORDER BY row, place
"""  # noqa: S608
_READ_PUBLISHED_ROWS = f"""
SELECT coalesce({_PUBLISHED_ROW.format("f")}, -1) FROM files f
WHERE f.sha256 IS NOT NULL AND f.cause = '' ORDER BY f.path
"""  # noqa: S608
# Of items by row; the parameter is whether those are left out whose content was published.
_READ_VECTORS = """
SELECT v.vector FROM files f CROSS JOIN vectors v ON v.sha256 = f.sha256
WHERE f.cause = '' AND NOT (? AND EXISTS (SELECT 1 FROM old.items o WHERE o.sha256 = f.sha256)) ORDER BY f.path
"""


@dataclass(frozen=True, slots=True)
class PendingFile:
    """A file whose content is not known yet, with the size and time it had when it was found."""

    id: int
    path: str
    size: int
    mtime_ns: int


@dataclass(frozen=True, slots=True)
class Changes:
    """How a catalog differs from the published generation."""

    seen: int  # files with an image's name
    unchanged: int  # of these, published before with the same size and time
    rejected: int  # of these, known to be unusable
    removed: int = 0  # published files that are gone
    rejected_gone: int = 0  # files rejected before that are gone
    forgotten: int = 0  # vectors of an interrupted build that were damaged, and are made again
    left_out: Mapping[str, int] = field(default_factory=dict)  # entries of the catalog that are no images, by kind


class Journal:
    """The working state of one build, at `path`, beside what the published `items.sqlite` knows already, if any."""

    def __init__(self, path: Path, draft: Manifest, previous: Manifest | None, items: Path | None) -> None:
        self._path = path
        self._dims = draft.encoder.dims
        self._policy = draft.policy
        self._forgotten = 0
        # Whether paths mean the same files as then: else size and time say nothing about them.
        same_root = previous is not None and previous.catalog == draft.catalog
        self._same_encoder = previous is not None and previous.fingerprint == draft.fingerprint
        # Under another policy rejected files are tried again.
        self._same_policy = previous is not None and previous.policy == draft.policy
        # How many pixels a published image has is not recorded: under a lower limit all headers are read again.
        lowered = previous is not None and draft.policy.max_pixels < previous.policy.max_pixels
        self._is_known_by_time = self._same_encoder and same_root and not lowered
        try:
            self._connection = self._open(draft.fingerprint)
        except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
            if is_of_system(error):  # which is no reason to throw the file away
                raise
            logger.warning("%s of an interrupted build is damaged (%s); starting afresh", path, error)
            self._remove()
            self._connection = self._open(draft.fingerprint)
        if items is None:
            self._connection.execute("ATTACH ':memory:' AS old")
            self._connection.executescript(_NO_PREVIOUS)
        else:
            self._connection.execute("ATTACH ? AS old", (database_uri(items),))
            self._connection.execute(f"PRAGMA old.cache_size = {_CACHE_SIZE}")
        for table, columns in (("damaged", "sha256, message"), ("remarks", "sha256, kind, message")):
            # The first indexes of version 1 have no such table.
            source = (
                f"{columns} FROM old.{table}"
                if self._was_published(table)
                else "NULL AS sha256, '' AS kind, '' AS message WHERE 0"
            )
            self._connection.execute(f"CREATE TEMP VIEW known_{table} AS SELECT {source}")
        self._connection.execute(_ALL_REMARKS)
        self._has_all_colors = False
        if self._was_published("colors"):
            self._connection.execute(_KNOWN_COLORS.format(version=COLORS_VERSION))
            self._has_all_colors = self._was_published("color_blocks") and not self._count(_COLORLESS_ITEMS)
        else:
            self._connection.execute("CREATE TEMP VIEW known_colors AS SELECT * FROM main.colors WHERE 0")
        # In another folder the same path is another file, and news if it cannot be used.
        self._connection.execute(
            f"CREATE TEMP VIEW known_rejected AS SELECT * FROM old.rejected WHERE {int(same_root)}"  # noqa: S608
        )
        self._connection.execute(_COMING)
        compare_items(self._connection, same_root=same_root)
        self.products = Products(self._connection)

    def close(self, *, done: bool) -> None:
        """Close the file, and remove it when the build is done, or when it holds nothing to go on from."""
        try:
            useless = done or not self._count("SELECT (SELECT count(*) FROM vectors) + (SELECT count(*) FROM colors)")
        finally:
            self._connection.close()
        if useless:
            self._remove()

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """Commit all changes inside together."""
        self._connection.execute("BEGIN")
        try:
            yield
        finally:
            if self._connection.in_transaction:
                self._connection.execute("COMMIT")

    def commit(self) -> None:
        """Commit in the middle of a transaction, and go on in another."""
        self._connection.execute("COMMIT")
        self._connection.execute("BEGIN")

    def add_files(self, found: Iterable[FoundFile]) -> None:
        """Take in what a scan found."""
        self._connection.executemany(
            "INSERT INTO files (path, product, category, size, mtime_ns, cause)"
            " VALUES (CAST(? AS TEXT), CAST(? AS TEXT), CAST(? AS TEXT), ?, ?, ?)",
            (
                (*map(sql_text, (file.path, *default_names(file.path))), file.size, file.mtime_ns, file.cause)
                for file in found
            ),
        )

    def compare(self, left_out: Mapping[str, int]) -> Changes:
        """Mark files that the published generation knows, and count the differences."""
        if self._is_known_by_time:
            self._connection.execute(_TAKE_OVER_UNCHANGED, (self._policy.max_bytes, self._policy.keep_damaged))
            if self._same_policy:
                self._connection.execute(_TAKE_OVER_REJECTED)
        return Changes(
            seen=self._count("SELECT count(*) FROM files"),
            unchanged=self._count("SELECT count(*) FROM files WHERE sha256 IS NOT NULL"),
            rejected=self._count("SELECT count(*) FROM files WHERE cause != ''"),
            removed=self._count("SELECT count(*) FROM old.items WHERE path NOT IN (SELECT path FROM files)"),
            rejected_gone=self._count("SELECT count(*) FROM old.rejected WHERE path NOT IN (SELECT path FROM files)"),
            forgotten=self._forgotten,
            left_out=dict(left_out),
        )

    def lacks_tables(self) -> bool:
        """Return whether an earlier imgsearch wrote the published items, without what this one would add."""
        return self._count("PRAGMA old.user_version") < ITEMS_VERSION

    def new_rejects(self) -> Iterator[Reject]:
        """Yield the files that were not rejected before, by path."""
        return (Reject(*row) for row in self._connection.execute(_NEW_REJECTS))

    def rejects_changed(self) -> bool:
        """Return whether a rejected file is not, or not so, among the published ones: then that must be remembered."""
        return self._connection.execute(_OTHER_REJECTS).fetchone() is not None

    def pending(self) -> Iterator[PendingFile]:
        """Yield the files whose content is not known yet; it may become known in the meantime."""
        query = (
            "SELECT id, path, size, mtime_ns FROM files WHERE id > ? AND sha256 IS NULL AND cause = ''"
            " ORDER BY id LIMIT 500"
        )
        last = 0
        while page := self._connection.execute(query, (last,)).fetchall():
            for row in page:
                yield PendingFile(*row)
            last = page[-1][0]

    def pending_count(self) -> int:
        """Count the files whose content is not known yet."""
        return self._count("SELECT count(*) FROM files WHERE sha256 IS NULL AND cause = ''")

    def resumed_count(self) -> int:
        """Count the vectors that an interrupted build left."""
        return self._count("SELECT count(*) FROM vectors WHERE resumed")

    def may_know_contents(self) -> bool:
        """Return whether any content has a vector already, which `vector_source` would find."""
        query = "SELECT EXISTS (SELECT 1 FROM vectors) OR (? AND EXISTS (SELECT 1 FROM old.items))"
        return bool(self._count(query, (self._same_encoder,)))

    def vector_source(self, sha256: bytes) -> str:
        """Return what has the vector of a content: `published`, `resumed` (an interrupted build), `copy` or empty."""
        run = self._connection.execute
        if self._same_encoder and run(_IS_PUBLISHED, (sha256, self._policy.keep_damaged)).fetchone():
            return "published"
        row = run("SELECT resumed FROM vectors WHERE sha256 = ?", (sha256,)).fetchone()
        return "" if row is None else "resumed" if row[0] else "copy"

    def set_content(self, file: PendingFile, sha256: bytes, size: int, mtime_ns: int) -> None:
        """Record the content of a file, and the size and time it had then."""
        self._connection.execute(
            "UPDATE files SET sha256 = ?, size = ?, mtime_ns = ? WHERE id = ?",
            (sha256, size, mtime_ns, file.id),
        )

    def reject(self, file: PendingFile, cause: str, message: str, size: int, mtime_ns: int) -> None:
        """Record that a file cannot be used, and the size and time of what could not be."""
        self._connection.execute(
            "UPDATE files SET cause = ?, message = ?, size = ?, mtime_ns = ? WHERE id = ?",
            (cause, message, size, mtime_ns, file.id),
        )

    def add_vectors(self, vectors: Iterable[tuple[bytes, Embeddings, Remarks]]) -> None:
        """Record embeddings by the sha256 of their images, each with the remarks on its image."""
        batch = list(vectors)
        self._connection.executemany(
            "INSERT OR REPLACE INTO vectors VALUES (?, ?, ?, ?, 0)",
            (
                (sha256, data, zlib.crc32(sha256 + data), remarks.get("damaged", ""))
                for sha256, vector, remarks in batch
                for data in (vector.astype("<f4").tobytes(),)
            ),
        )
        self._connection.executemany(
            "INSERT OR REPLACE INTO remarks VALUES (?, ?, ?)",
            (
                (sha256, kind, message)
                for sha256, _, remarks in batch
                for kind, message in remarks.items()
                if kind != "damaged"
            ),
        )

    def add_colors(self, found: Iterable[tuple[bytes, Sequence[MainColor]]]) -> None:
        """Record main colors by the sha256 of their images; that there are none, too, so that nobody looks again."""
        batch = list(found)
        colors = [bytes.fromhex(color.rgb[1:]) for _, colors in batch for color in colors]
        names = iter(names_of(lab_of(np.frombuffer(b"".join(colors), np.uint8).reshape(-1, 3))))
        rows: list[tuple[object, ...]] = []
        for sha256, colors_of_it in batch:
            for place, color in enumerate(colors_of_it):
                rows.append((sha256, place, color.rgb, color.share, next(names), COLORS_VERSION))
            if not colors_of_it:
                rows.append((sha256, -1, None, None, None, COLORS_VERSION))
        self._connection.executemany("INSERT OR REPLACE INTO colors VALUES (?, ?, ?, ?, ?, ?)", rows)

    def lacks_colors(self) -> bool:
        """Return whether the published generation lacks the colors of an image that is still there."""
        if self._has_all_colors:
            return False
        return bool(self._count(f"SELECT EXISTS (SELECT 1 FROM files WHERE {_LACKS_COLORS})"))  # noqa: S608

    def list_colorless(self) -> int:
        """List the contents whose colors nobody has looked for, for `colorless`, and count them."""
        if self._has_all_colors and not self._count(_VECTORS_WITHOUT_COLORS):
            return 0
        self._connection.execute("DROP TABLE IF EXISTS temp.colorless")
        self._connection.execute(_LIST_COLORLESS)
        return self._count("SELECT count(*) FROM colorless")

    def colorless(self) -> Iterator[tuple[PendingFile, bytes]]:
        """Yield what `list_colorless` listed: of each content one file, and its sha256."""
        last = 0
        query = "SELECT rowid, * FROM colorless WHERE rowid > ? ORDER BY rowid LIMIT 500"
        while page := self._connection.execute(query, (last,)).fetchall():
            for _, *file, sha256 in page:
                yield PendingFile(*file), sha256
            last = page[-1][0]

    def causes(self) -> dict[str, int]:
        """Count the rejected files by cause."""
        return dict(self._connection.execute("SELECT cause, count(*) FROM files WHERE cause != '' GROUP BY cause"))

    def damaged_count(self) -> int:
        """Count the items of whose image only a part could be decoded."""
        return self._count(
            "SELECT count(*) FROM files WHERE cause = '' AND sha256 IN"
            " (SELECT sha256 FROM vectors WHERE damage != '' UNION SELECT sha256 FROM known_damaged)"
        )

    def remark_counts(self) -> dict[str, int]:
        """Count the items with other remarks, by kind: `blank` and `ignored_profile`."""
        query = "SELECT kind, count(*) FROM files JOIN all_remarks USING (sha256) WHERE cause = '' GROUP BY kind"
        return dict(self._connection.execute(query))

    def count_kept(self) -> int:
        """Count the published items whose image is still in the catalog: at most, before all files were read."""
        return self._count("SELECT count(*) FROM kept")

    def item_count(self) -> int:
        """Count the files that will be items."""
        return self._count("SELECT count(*) FROM files WHERE sha256 IS NOT NULL AND cause = ''")

    def require_text_columns(self, asked: Sequence[str], *, remembered: bool) -> None:
        """Raise `UsageError` if columns that `--text` names are none of the shop's data; of remembered ones, warn."""
        if not asked or asked == NO_COLUMNS:
            return
        columns = self.products.columns()
        for name in asked:
            try:
                text_columns((name,), columns)
            except UsageError as error:
                if not remembered:
                    raise
                # As for any column that lost its values: the build of every night should not fail from now on.
                logger.warning(
                    "%s any more, so images have no words of it; --text names others, --text auto the usual ones",
                    error.message,
                )

    def write_items(self, path: Path, now: str, rows: Rows, text: Sequence[str] = ()) -> WordsFacts | None:
        """Write a generation's `items.sqlite`, rows in the order of the paths' bytes.

        `now` is for new rejects, `rows` are the `published_rows`, `text` names the columns with own words; returns what
        there is of words.
        """
        words = None
        tables, indexes = without_indexes(SCHEMA)
        with contextlib.closing(connect(path)) as connection:
            connection.executescript(tables)
        run = self._connection.execute
        run("ATTACH ? AS new", (database_uri(path, "?mode=rw&nolock=1"),))
        run(f"PRAGMA new.cache_size = {_CACHE_SIZE}")
        run("PRAGMA new.synchronous = OFF")  # the caller syncs what is finished
        try:
            with self.transaction():
                run(_WRITE_ITEMS)
                for statement in indexes:  # sorted once, where a million sha256 come in any order
                    run(statement.replace("CREATE INDEX ", "CREATE INDEX new.", 1))
                run(_WRITE_REJECTED, (now,))
                run(_WRITE_DAMAGED)
                run(_WRITE_REMARKS)
                columns = write_columns(self._connection, "new", "new")
                if text != NO_COLUMNS and has_full_text():
                    words = write_words(self._connection, "new", text, columns)
                self.products.write_unmatched()
                run(_WRITE_COLORS)
                if self._was_published("colors"):
                    run(_COPY_COLORS)
                blocks = enumerate(self._color_blocks(rows))
                self._connection.executemany("INSERT INTO new.color_blocks VALUES (?, ?)", blocks)
        finally:
            run("DETACH new")
        return words

    def _color_blocks(self, rows: Rows) -> Iterator[bytes]:
        """Make the blocks of the colors in `new`; most are known, and to read them back takes seconds of a million."""
        run = self._connection.execute
        if not self._has_all_colors or (rows < 0).all():
            return packed(run(_COLORS_THAT_COUNT))
        rows = rows.copy()
        rows[[row for (row,) in run(_NEWLY_COLORED_ROWS)]] = -1
        try:
            known = entries_of(block for (block,) in run("SELECT entries FROM old.color_blocks ORDER BY block"))
        except (TypeError, ValueError):  # the table of colors has the same
            return packed(run(_COLORS_THAT_COUNT))
        return repacked(known, rows, run(_NEW_COLORS_THAT_COUNT))

    def published_rows(self) -> Rows:
        """Return of each item the row of the previous generation that has the same content, or -1."""
        found = self._connection.execute(_READ_PUBLISHED_ROWS)
        return np.fromiter(itertools.chain.from_iterable(found), np.int64)

    def embeddings(self, published: Embeddings, rows: Rows, block_rows: int) -> Iterator[Embeddings]:
        """Yield all embeddings by item: those of `rows` of the `published` ones, and for -1 what was embedded."""
        vectors = self._connection.execute(_READ_VECTORS, (bool((rows >= 0).any()),))
        for start in range(0, len(rows), block_rows):
            part = rows[start : start + block_rows]
            block = stored_rows(published, part[part >= 0])
            if len(block) < len(part):
                copied, block = block, np.empty((len(part), self._dims), np.float32)
                block[part >= 0] = copied
                for position in np.flatnonzero(part < 0):
                    (vector,) = next(vectors)
                    block[position] = np.frombuffer(vector, "<f4")
            yield block
        assert vectors.fetchone() is None, "more vectors than items without one"

    def _open(self, fingerprint: str) -> sqlite3.Connection:
        connection = connect(self._path)
        try:
            connection.execute("PRAGMA synchronous = NORMAL")
            connection.execute(f"PRAGMA cache_size = {_CACHE_SIZE}")
            connection.executescript(_SCHEMA)
            check_database(connection)
            connection.execute("DELETE FROM colors WHERE version != ?", (COLORS_VERSION,))
            if connection.execute("SELECT fingerprint FROM encoder").fetchall() != [(fingerprint,)]:
                connection.execute("DELETE FROM vectors")
                connection.execute("DELETE FROM remarks")
                connection.execute("DELETE FROM encoder")
                connection.execute("INSERT INTO encoder VALUES (?)", (fingerprint,))
            self._forget_damaged_vectors(connection)
            if not self._policy.keep_damaged:
                connection.execute("DELETE FROM vectors WHERE damage != ''")
            connection.execute("UPDATE vectors SET resumed = 1")
        except BaseException:
            connection.close()
            raise
        return connection

    def _forget_damaged_vectors(self, connection: sqlite3.Connection) -> None:
        damaged = [
            sha256
            for sha256, vector, crc32 in connection.execute("SELECT sha256, vector, crc32 FROM vectors")
            if not isinstance(sha256, bytes)
            or not isinstance(vector, bytes)
            or len(vector) != 4 * self._dims
            or zlib.crc32(sha256 + vector) != crc32
        ]
        connection.executemany("DELETE FROM vectors WHERE sha256 = ?", ((sha256,) for sha256 in damaged))
        if damaged:
            logger.warning("%d embeddings of an interrupted build are damaged and are made again", len(damaged))
        self._forgotten = len(damaged)

    def _remove(self) -> None:
        for name in (self._path.name, self._path.name + "-journal"):
            self._path.with_name(name).unlink(missing_ok=True)

    def _was_published(self, table: str) -> bool:
        return self._count("SELECT count(*) FROM old.sqlite_master WHERE name = ?", (table,)) > 0

    def _count(self, query: str, parameters: Sequence[object] = ()) -> int:
        (count,) = self._connection.execute(query, parameters).fetchone()
        return int(count)
