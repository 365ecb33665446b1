"""One SQLite file of items: which image each row of the arrays is, and what the shop says of it.

Paths are the bytes of the file name, as SQL text, UTF-8 or not; in Python they are `str` as of `os.fsdecode`.
"""

import contextlib
import itertools
import json
import os
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imgsearch.colors import AskedColor, parse_color
from imgsearch.errors import DamagedIndexError, ResourceError, UsageError
from imgsearch.files import read_error, reading
from imgsearch.store.colors import MIN_SHARE, MOST_DIFFERENCE, color_differences
from imgsearch.store.columns import NUMERIC, SURROGATES, row_number
from imgsearch.store.database import Reader
from imgsearch.store.expressions import NAMES_OF_ITEMS
from imgsearch.store.full_text import best_matches, damping_of
from imgsearch.store.integrity import repair_hint
from imgsearch.store.selector import Selector
from imgsearch.text.lexical import require_full_text

# Colors whose items stay known, for the next query by the same one.
_COLORS_KEPT = 8

# Of `Items.fields`. Longer texts are looked into, not compared.
LONGEST_FIELD = 200
_FIELDS = (*NUMERIC, "text")
_UNLIKE_JSON = re.compile(f"\0|{SURROGATES.pattern}")

# Which tables there are beside those that every index has. (The first indexes have version 0.)
ITEMS_VERSION = 2

SCHEMA = f"""
PRAGMA user_version = {ITEMS_VERSION};
CREATE TABLE items (
    row INTEGER PRIMARY KEY,
    path TEXT NOT NULL UNIQUE,
    size INTEGER NOT NULL,
    mtime_ns INTEGER NOT NULL,
    sha256 BLOB NOT NULL,
    product TEXT NOT NULL,
    category TEXT NOT NULL,
    metadata TEXT NOT NULL
);
CREATE INDEX items_sha256 ON items (sha256);
CREATE INDEX items_product ON items (product);
CREATE INDEX items_category ON items (category);
CREATE TABLE rejected (
    path TEXT PRIMARY KEY,
    size INTEGER NOT NULL,
    mtime_ns INTEGER NOT NULL,
    cause TEXT NOT NULL,
    message TEXT NOT NULL,
    first_seen TEXT NOT NULL
);
CREATE TABLE damaged (
    sha256 BLOB PRIMARY KEY,
    message TEXT NOT NULL
);
CREATE TABLE remarks (
    sha256 BLOB NOT NULL,
    kind TEXT NOT NULL,
    message TEXT NOT NULL,
    PRIMARY KEY (sha256, kind)
);
CREATE TABLE rows_without_image (
    line INTEGER NOT NULL,
    path TEXT NOT NULL
);
CREATE TABLE images_without_row (
    row INTEGER PRIMARY KEY
);
CREATE TABLE colors (
    row INTEGER NOT NULL,
    place INTEGER NOT NULL,
    rgb TEXT,
    share REAL,
    name TEXT,
    version INTEGER NOT NULL,
    PRIMARY KEY (row, place)
) WITHOUT ROWID;
CREATE TABLE color_blocks (
    block INTEGER PRIMARY KEY,
    entries BLOB NOT NULL
);
"""


@dataclass(frozen=True, slots=True)
class Item:
    """One image of the catalog."""

    row: int  # in the arrays
    path: str  # POSIX, below the catalog's root
    product: str  # the path without its ending unless the shop's data says otherwise
    category: str  # the folder it lies in, unless the shop's data says otherwise
    metadata: dict[str, Any]  # the other columns of the shop's data


@dataclass(frozen=True, slots=True)
class Rejected:
    """One file that could not be used: cause in one word for scripts, message in one line for people."""

    path: str
    cause: str
    message: str
    first_seen: str  # date and time (UTC, ISO 8601) of the build that first rejected it


def without_indexes(schema: str) -> tuple[str, list[str]]:
    """Part a schema into a script that makes the tables, and the statements that index them once they are full."""
    statements = [each.strip() for each in schema.split(";")]
    indexes = [each for each in statements if each.startswith("CREATE INDEX")]
    return ";\n".join(each for each in statements if each not in indexes), indexes


def default_names(path: str) -> tuple[str, str]:
    """Return the product (a path without its ending) and the category (its folder) of an image by default."""
    folder, slash, name = path.rpartition("/")
    stem, dot, _ = name.rpartition(".")
    return folder + slash + (stem if dot and stem else name), folder


def _field(value: str | float) -> str | int | float:
    """Return a value as JSON can have it and a server may keep it: what differs holds for no less of `pushed`."""
    if isinstance(value, str):
        return _UNLIKE_JSON.sub("\ufffd", value[:LONGEST_FIELD])
    return max(-sys.float_info.max, min(sys.float_info.max, value)) if isinstance(value, float) else value


class Items:
    """The items of one published generation, in its `items.sqlite`; damage found at any time is `DamagedIndexError`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        path.stat()
        with reading(path, repair_hint(path.name)), contextlib.ExitStack() as opened:
            self._reader = opened.enter_context(contextlib.closing(Reader(path)))
            self._damping: NDArray[np.float64] | None = None
            self._usual: dict[str, int] = {}  # words that most items have, and how many
            self._colored: dict[str, tuple[NDArray[np.int64], NDArray[np.float64]]] = {}
            selector = Selector(path, lambda color: self.colored(color)[0].tolist())
            self.selector = opened.enter_context(contextlib.closing(selector))
            self._opened = opened.pop_all()

    def close(self) -> None:
        """Close the file, once what other threads are reading has been read."""
        self._opened.close()

    def sha256_by_path(self, paths: Iterable[str]) -> dict[str, bytes]:
        """Return the sha256 of images by their paths."""
        found: dict[str, bytes] = {}
        for path in paths:
            # Bound as bytes and cast in SQL: a str with lone surrogates cannot be bound as text.
            query = "SELECT sha256 FROM items WHERE path = CAST(? AS TEXT)"
            for (sha256,) in self._run(query, (os.fsencode(path),)):
                if isinstance(sha256, bytes):
                    found[path] = sha256
        return found

    def rows_of_paths(self, paths: Sequence[str]) -> dict[str, int]:
        """Return the rows of the images at these paths, of those that are there."""
        found: dict[str, int] = {}
        for start in range(0, len(paths), 500):  # SQLite takes a limited number of parameters
            part = [os.fsencode(path) for path in paths[start : start + 500]]
            # Bound as bytes and cast in SQL: a str with lone surrogates cannot be bound as text.
            marks = ",".join(["CAST(? AS TEXT)"] * len(part))
            for path, row in self._run(f"SELECT path, row FROM items WHERE path IN ({marks})", part):  # noqa: S608
                found[path] = self._row(row)
        return found

    def file_times(self, rows: Sequence[int]) -> dict[int, int]:
        """Return when the files of some rows were last changed: nanoseconds since 1970."""
        query = "SELECT row, mtime_ns FROM items WHERE row IN (SELECT value FROM json_each(?))"
        return {self._row(row): int(time) for row, time in self._run(query, (json.dumps([int(row) for row in rows]),))}

    def fetch(self, rows: Sequence[int]) -> list[Item]:
        """Fetch items by row, in the order of `rows`."""
        found: dict[int, Item] = {}
        for start in range(0, len(rows), 500):  # SQLite takes a limited number of parameters
            part = [int(row) for row in rows[start : start + 500]]
            marks = ",".join("?" * len(part))
            query = f"SELECT row, path, product, category, metadata FROM items WHERE row IN ({marks})"  # noqa: S608
            for row, path, product, category, metadata in self._run(query, part):
                try:
                    found[row] = Item(row, path, product, category, json.loads(metadata))
                except (ValueError, TypeError, RecursionError) as error:
                    raise self._failure(error) from error
        missing = [row for row in rows if row not in found]
        if missing:
            raise DamagedIndexError(f"{self._path} is damaged: row {missing[0]} is not there")
        return [found[row] for row in rows]

    def row_of_content(self, sha256: bytes, path: str = "") -> int | None:
        """Return the row whose image has these bytes: that of a path, if it is one of several, or the first."""
        # Bound as bytes and cast in SQL: a str with lone surrogates cannot be bound as text.
        query = "SELECT row FROM items WHERE sha256 = ? ORDER BY path = CAST(? AS TEXT) DESC, row LIMIT 1"
        for (row,) in self._run(query, (sha256, os.fsencode(path))):
            return self._row(row)
        return None

    def row_of_path(self, path: str) -> int | None:
        """Return the row of the image at just this path."""
        # Bound as bytes and cast in SQL: a str with lone surrogates cannot be bound as text.
        found = self._run("SELECT row FROM items WHERE path = CAST(? AS TEXT)", (os.fsencode(path),))
        return next((self._row(row) for (row,) in found), None)

    def rows_named(self, name: str) -> list[int]:
        """Return the row of the image at a path, or else those of all images of a product, ascending."""
        # Bound as bytes and cast in SQL: a str with lone surrogates cannot be bound as text.
        for column in ("path", "product"):
            query = f"SELECT row FROM items WHERE {column} = CAST(? AS TEXT) ORDER BY row"  # noqa: S608  # one of two
            if rows := [int(row) for (row,) in self._run(query, (os.fsencode(name),))]:
                return rows
        return []

    def first_rows_named(self, names: Iterable[str]) -> dict[str, int]:
        """Return, of those names that are there, the first row of the product: that at a path, or else of that name."""
        wanted = sorted(set(names))
        at_paths = dict(self._named("SELECT path, product FROM items WHERE path", wanted))
        product_of: dict[str, str] = {name: at_paths.get(name, name) for name in wanted}
        products = sorted(set(product_of.values()))
        first = dict(self._named("SELECT product, min(row) FROM items WHERE product", products, "GROUP BY product"))
        return {name: self._row(first[product]) for name, product in product_of.items() if product in first}

    def _named(self, query: str, names: Sequence[str], rest: str = "") -> Iterator[tuple[Any, ...]]:
        """Run a query for the rows where a column is one of some names."""
        for start in range(0, len(names), 500):  # SQLite takes a limited number of parameters
            # Bound as bytes and cast in SQL: a str with lone surrogates cannot be bound as text.
            part = [os.fsencode(name) for name in names[start : start + 500]]
            marks = ",".join(["CAST(? AS TEXT)"] * len(part))
            yield from self._run(f"{query} IN ({marks}) {rest}", part)

    def of_same_products(self, rows: Sequence[int]) -> list[int]:
        """Return the rows of all images of the products that some rows are of, ascending."""
        query = (
            "SELECT row FROM items WHERE product IN"
            " (SELECT product FROM items WHERE row IN (SELECT value FROM json_each(?))) ORDER BY row"
        )
        return [self._row(row) for (row,) in self._run(query, (json.dumps([int(row) for row in rows]),))]

    def similar_name(self, name: str) -> str:
        """Return the path or product most like a name, among those beside it in the alphabet and the first; or ""."""
        import difflib

        bound = (os.fsencode(name),)
        found = itertools.chain(
            self._run("SELECT path FROM items WHERE path >= CAST(? AS TEXT) ORDER BY path LIMIT 500", bound),
            self._run("SELECT path FROM items WHERE path < CAST(? AS TEXT) ORDER BY path DESC LIMIT 500", bound),
            self._run("SELECT path FROM items LIMIT 2000"),
            self._run("SELECT DISTINCT product FROM items LIMIT 2000"),
        )
        names = sorted({str(each) for (each,) in found})
        return next(iter(difflib.get_close_matches(name, names, 1)), "")

    def sample(self, most: int) -> list[str]:
        """Return the paths of a random but reproducible sample of different images: the first by sha256."""
        query = "SELECT min(path) FROM items GROUP BY sha256 ORDER BY sha256 LIMIT ?"
        return [str(path) for (path,) in self._run(query, (most,))]

    def shuffled(self) -> Iterator[tuple[int, str]]:
        """Yield rows and paths by sha256: at random, but the first stay nearly the same when images come and go."""
        yield from self._run("SELECT row, path FROM items ORDER BY sha256, path")

    def files(self) -> Iterator[tuple[bytes, int]]:
        """Yield sha256 and size in bytes of each item's file, by row."""
        for sha256, size in self._run("SELECT sha256, size FROM items ORDER BY row"):
            yield bytes(sha256), int(size)

    def fields(self) -> Iterator[tuple[bytes, dict[str, str | int | float]]]:
        """Yield of each item, by row, the sha256 of its file and its values, for a server that filters by them.

        They are path, product, category and the shop's columns of numbers or short texts, by their `folded` names.
        """
        columns = self.selector.columns()
        names = list(NAMES_OF_ITEMS)
        names += [
            key
            for key, column in columns.items()
            if column.kind in _FIELDS and key not in (*NAMES_OF_ITEMS, "metadata")
        ]
        selected = [f"i.{key}" for key in NAMES_OF_ITEMS]
        selected += [f"d.{columns[key].sql}" for key in names[len(NAMES_OF_ITEMS) :]]
        source = f"items i LEFT JOIN data d ON d.{row_number(columns)} = i.row" if columns else "items i"
        query = f"SELECT i.sha256, {', '.join(selected)} FROM {source} ORDER BY i.row"  # noqa: S608  # quoted names
        for sha256, *values in self._run(query):
            known = ((key, value) for key, value in zip(names, values, strict=True) if value is not None)
            yield bytes(sha256), {key: _field(value) for key, value in known}

    def categories(self, most: int) -> list[tuple[str, int]]:
        """Return the categories with the most items, and how many each has; by name."""
        query = "SELECT category, count(*) FROM items GROUP BY category ORDER BY 2 DESC, 1 LIMIT ?"
        return sorted((str(category), int(count)) for category, count in self._run(query, (most,)))

    def first_of_products(self) -> Iterator[int]:
        """Yield a row of each product, ascending."""
        query = "SELECT min(row) FROM items GROUP BY product ORDER BY 1"
        yield from (self._row(row) for (row,) in self._run(query))

    def duplicates_of(self, row: int) -> list[int]:
        """Return the rows whose images have the same bytes as that of a row, itself included."""
        query = "SELECT row FROM items WHERE sha256 = (SELECT sha256 FROM items WHERE row = ?) ORDER BY row"
        return [self._row(found) for (found,) in self._run(query, (row,))]

    def column(self, name: str) -> Iterator[str]:
        """Yield each item's value in a column, by row: `path`, `product`, `category` or metadata; empty for none."""
        if name in NAMES_OF_ITEMS:
            for (value,) in self._run(f"SELECT {name} FROM items ORDER BY row"):  # noqa: S608  # one of three words
                yield str(value)
            return
        for (text,) in self._run("SELECT metadata FROM items ORDER BY row"):
            try:
                value = json.loads(text, parse_float=str).get(name)  # 1.10 is another label than 1.1
            except (ValueError, TypeError, AttributeError, RecursionError) as error:
                raise self._failure(error) from error
            yield "" if value is None else str(value)

    def rejected(self) -> Iterator[Rejected]:
        """Yield the files that could not be used, by path."""
        for row in self._run("SELECT path, cause, message, first_seen FROM rejected ORDER BY path"):
            yield Rejected(*row)

    def damaged(self) -> Iterator[tuple[str, str]]:
        """Yield path and message of items of whose image only a part could be decoded, by path."""
        if self._has_table("damaged"):
            yield from self._run("SELECT path, message FROM items JOIN damaged USING (sha256) ORDER BY path")

    def remarks(self, kind: str) -> Iterator[tuple[str, str]]:
        """Yield path and message of items with a remark of a kind: `blank` or `ignored_profile`; by path."""
        if self._has_table("remarks"):
            query = "SELECT path, message FROM items JOIN remarks USING (sha256) WHERE kind = ? ORDER BY path"
            yield from self._run(query, (kind,))

    def unmatched_counts(self) -> tuple[int, int]:
        """Count the rows of the shop's data without an image, and the items without a row."""
        tables = ("rows_without_image", "images_without_row")
        counts = [next(self._run(f"SELECT count(*) FROM {each}"))[0] for each in tables if self._has_table(each)]  # noqa: S608
        return (counts[0], counts[1]) if len(counts) == 2 else (0, 0)

    def rows_without_image(self, most: int) -> Iterator[tuple[int, str]]:
        """Yield line and path, as it is written there, of the first rows of the shop's data that have no image."""
        if self._has_table("rows_without_image"):
            yield from self._run("SELECT line, path FROM rows_without_image ORDER BY line, path LIMIT ?", (most,))

    def images_without_row(self, most: int) -> Iterator[str]:
        """Yield the paths of the first items that the shop's data have no row for."""
        if self._has_table("images_without_row"):
            query = "SELECT path FROM items JOIN images_without_row USING (row) ORDER BY row LIMIT ?"
            for (path,) in self._run(query, (most,)):
                yield str(path)

    def _row(self, found: object) -> int:
        """Return what an index of the file says of a row, which may be no number where it is damaged."""
        if not isinstance(found, int):
            raise self._failure(TypeError(f"expected a row, found {found!r}"))
        return found

    def colored(self, color: str) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Do `color_differences` for a color as it is typed, once for many queries."""
        found = self._colored.get(color)
        if found is None:
            found = self.color_differences(parse_color(color), MOST_DIFFERENCE)
            while len(self._colored) >= _COLORS_KEPT:
                self._colored.pop(next(iter([*self._colored])), None)  # a copy: other threads add colors, too
            self._colored[color] = found
        return found

    def color_differences(
        self, asked: AskedColor, most_difference: float
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Find the items that have a color: rows, ascending, and the CIEDE2000 difference of each one's nearest color.

        Of a color asked for by its name, an item has it or not: all differences are 0. UsageError if the index was
        built before there were colors.
        """
        if not self._has_table("color_blocks"):
            raise UsageError(
                "the index knows no colors of its items",
                hint="it was built by an older imgsearch; run imgsearch build-index once more: it adds colors",
            )
        blocks = (entries for (entries,) in self._run("SELECT entries FROM color_blocks ORDER BY block"))
        try:
            return color_differences(blocks, asked, most_difference)
        except (ValueError, TypeError) as error:
            raise self._failure(error) from error

    def main_colors(self, rows: Sequence[int]) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
        """Return the colors of some rows that count: rows (n,), ascending, and sRGB (n, 3); an item's largest first."""
        nothing = np.empty(0, np.int64), np.empty((0, 3), np.uint8)
        if not self._has_table("colors"):
            return nothing
        # As texts of all: one by one they take three times as long.
        query = (
            "SELECT group_concat(row), group_concat(place), group_concat(rgb, '') FROM colors"
            " WHERE row IN (SELECT value FROM json_each(?)) AND (place = 0 OR share >= ?) AND rgb IS NOT NULL"
        )
        ((found, places, colors),) = self._run(query, (json.dumps([int(row) for row in rows]), MIN_SHARE))
        if not found:
            return nothing
        try:
            owners, order = (np.fromstring(each, np.int64, sep=",") for each in (found, places))
            rgb = np.frombuffer(bytes.fromhex(colors.replace("#", "")), np.uint8).reshape(len(owners), 3)
            order = np.lexsort((order, owners))
        except (ValueError, TypeError) as error:
            raise self._failure(error) from error
        return owners[order], rgb[order]

    def own_words(self) -> NDArray[np.int64]:
        """Return the rows of items with own words, ascending; none in an index from before there were any."""
        if not self._has_table("texts"):
            return np.empty(0, np.int64)
        return np.sort(self._rows_of("SELECT group_concat(row) FROM texts"))

    def texts(self, rows: Sequence[int]) -> dict[int, str]:
        """Return the own words of those of some rows that have any."""
        if not self._has_table("texts"):
            return {}
        among = "SELECT row, text FROM texts WHERE row IN (SELECT value FROM json_each(?))"
        found = self._run(among, (json.dumps([int(row) for row in rows]),))
        return {self._row(row): str(text) for row, text in found}

    def matches(self, expression: str, *, own_only: bool = False) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Find the items with words: rows, ascending, and the bm25 of each, as a share of the best there can be.

        Args:
            expression: As of `text.lexical.match_expression`; nothing matches an empty one.
            own_only: Whether items are found by their own words alone.

        Raises:
            UsageError: The index was built before there were words, or without them.
            MissingComponentError: The SQLite of this Python cannot search words.
        """
        if not self._has_table("words"):
            raise UsageError(
                "the index knows no words of its items",
                hint="run imgsearch build-index once more, which adds them; with --text auto if it was built without",
            )
        require_full_text()
        try:
            if self._damping is None:
                blocks = self._run("SELECT entries FROM word_counts ORDER BY block")
                self._damping = damping_of(entries for (entries,) in blocks)
            return best_matches(expression, self._damping, self._count_words, self._find_words, own_only=own_only)
        except (ValueError, TypeError, IndexError) as error:
            raise self._failure(error) from error

    def _count_words(self, expression: str) -> int:
        found = self._usual.get(expression)
        if found is None:
            found = int(next(self._run("SELECT count(*) FROM words WHERE words MATCH ?", (expression,)))[0])
            if self._damping is not None and 2 * found > len(self._damping):
                self._usual[expression] = found  # counting them takes long, and they are in many questions
        return found

    def _find_words(self, expression: str) -> NDArray[np.int64]:
        return self._rows_of("SELECT group_concat(rowid) FROM words WHERE words MATCH ?", (expression,))

    def _rows_of(self, query: str, parameters: Sequence[object] = ()) -> NDArray[np.int64]:
        """Return the rows that a query gives as one text: one by one they take four times as long."""
        ((found,),) = self._run(query, parameters)
        return np.fromstring(found, np.int64, sep=",") if found else np.empty(0, np.int64)

    def _has_table(self, name: str) -> bool:
        return any(True for _ in self._run("SELECT 1 FROM sqlite_master WHERE name = ?", (name,)))

    def _run(self, query: str, parameters: Sequence[object] = ()) -> Iterator[tuple[Any, ...]]:
        with reading(self._path, repair_hint(self._path.name)):
            yield from self._reader.run(query, parameters)

    def _failure(self, error: Exception) -> DamagedIndexError | ResourceError:
        return read_error(error, self._path, repair_hint(self._path.name))
