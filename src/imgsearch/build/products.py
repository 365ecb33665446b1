"""The shop's data in the journal of a build: which image each row is about, and how the rows fit the catalog."""

import logging
import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from imgsearch.build.loss import ShopData, shop_data
from imgsearch.build.metadata import Product, comparable_name, comparable_names, relative_path
from imgsearch.store.columns import Column, Columns, folded
from imgsearch.store.items import default_names

logger = logging.getLogger(__name__)

# `path` is that of the image, or as it is written if there is none, or NULL; `relative` is what else it may mean, and
# `first` the first path of a row of several that has no product. What is large comes last: most questions are about
# the rest.
SCHEMA = """
DROP TABLE IF EXISTS products;
CREATE TABLE products (
    id INTEGER PRIMARY KEY, path TEXT, relative TEXT, first TEXT, line INTEGER NOT NULL,
    product TEXT, category TEXT, metadata TEXT NOT NULL
);
CREATE UNIQUE INDEX products_path ON products (path);
"""
_ADD = """
INSERT INTO products VALUES (
    NULL, CAST(? AS TEXT), CAST(? AS TEXT), CAST(? AS TEXT), ?, CAST(? AS TEXT), CAST(? AS TEXT), ?
)
"""
_USE_RELATIVE = """
UPDATE products SET path = relative WHERE relative IS NOT NULL
AND path NOT IN (SELECT path FROM files) AND relative IN (SELECT path FROM files)
"""
_INDEX = "CREATE UNIQUE INDEX products_path ON products (path)"
_FIND_REPEATED = """
INSERT INTO repeated SELECT id, last FROM (
    SELECT id, max(id) OVER (PARTITION BY path) AS last FROM products WHERE path IS NOT NULL
) WHERE id != last
"""
# Rows whose path is that of no image, by what is comparable of it; and the images that have that, if one alone does.
_FIND_STRAYS = """
INSERT INTO strays SELECT id, comparable_name(CAST(coalesce(relative, path) AS BLOB))
FROM products WHERE path NOT IN (SELECT path FROM files)
"""
_FIND_MEANT = """
INSERT INTO meant SELECT names.name, min(files.path) FROM files
CROSS JOIN (SELECT DISTINCT name FROM strays) AS names ON names.name = comparable_name(CAST(files.path AS BLOB))
GROUP BY names.name HAVING count(*) = 1
"""
# Of several rows the last; none for an image that another row has a name for as it is written.
_FIND_RESPELLED = """
INSERT INTO respelled SELECT strays.id, meant.path, max(strays.id) OVER (PARTITION BY meant.path)
FROM strays JOIN meant USING (name) WHERE meant.path NOT IN (SELECT path FROM products WHERE path IS NOT NULL)
"""
_USE_RESPELLED = "UPDATE products SET path = respelled.path FROM respelled WHERE respelled.id = products.id"
_NAME_PRODUCTS = """
UPDATE products SET product = CAST(default_product(CAST(coalesce(
    (SELECT path FROM files WHERE path = first),
    (SELECT path FROM meant WHERE name = comparable_name(CAST(first AS BLOB))),
    first
) AS BLOB)) AS TEXT) WHERE first IS NOT NULL
"""
_TEMPORARY = """
CREATE TEMP TABLE repeated (id INTEGER PRIMARY KEY, last INTEGER);
CREATE TEMP TABLE strays (id INTEGER PRIMARY KEY, name BLOB);
CREATE TEMP TABLE meant (name BLOB PRIMARY KEY, path TEXT);
CREATE TEMP TABLE respelled (id INTEGER PRIMARY KEY, path TEXT, last INTEGER);
"""
_COUNT = """
SELECT (SELECT count(path) FROM products), count(path), coalesce(min(path), ''), count(*),
    (SELECT count(*) FROM coming c WHERE NOT EXISTS (SELECT 1 FROM products p WHERE p.path = c.path))
FROM products WHERE path IS NULL OR path NOT IN (SELECT path FROM coming)
"""
_WRITE_UNMATCHED = (
    """
    INSERT INTO new.rows_without_image SELECT line, coalesce(path, '') FROM products
    WHERE path IS NULL OR path NOT IN (SELECT path FROM new.items) ORDER BY id
    """,
    """
    INSERT INTO new.images_without_row SELECT row FROM new.items i
    WHERE NOT EXISTS (SELECT 1 FROM products p WHERE p.path = i.path)
    """,
)


@dataclass(frozen=True, slots=True)
class ProductCounts:
    """How the shop's data fit the catalog."""

    count: int = 0  # paths
    stray: int = 0  # of these, without an image in the catalog
    example: str = ""  # path of one of these; empty for none
    rows_without_image: int = 0  # these, and rows without a path
    images_without_row: int = 0


class Products:
    """The table `products` of a journal, beside its `files` and the views `coming` and `kept`."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._has_data = False
        for function in (comparable_name, default_product):
            connection.create_function(function.__name__, 1, _of_bytes(function), deterministic=True)

    def add(self, products: Iterable[Product], file: str, roots: Sequence[str]) -> None:
        """Take in the shop's data of a file; `roots` are names of the catalog that paths may begin with.

        Of several rows about an image the last is taken.
        """
        run = self._connection.execute
        self._has_data = True
        run("DROP INDEX products_path")
        self._connection.executemany(_ADD, _rows(products, roots))
        for statement in _TEMPORARY.split(";"):  # a script would commit the transaction
            run(statement)
        run(_USE_RELATIVE)
        try:
            run(_INDEX)
        except sqlite3.IntegrityError:
            run(_FIND_REPEATED)
            self._drop_repeated(file)
            run(_INDEX)
        if run(_FIND_STRAYS).rowcount:
            run(_FIND_MEANT)
            run(_FIND_RESPELLED)
            if run("INSERT INTO repeated SELECT id, last FROM respelled WHERE id != last").rowcount:
                run("DELETE FROM respelled WHERE id != last")
                self._drop_repeated(file)
            run(_USE_RESPELLED)
        run(_NAME_PRODUCTS)
        for table in ("repeated", "strays", "meant", "respelled"):
            run(f"DROP TABLE {table}")

    def _drop_repeated(self, file: str) -> None:
        run = self._connection.execute
        (count,) = run("SELECT count(*) FROM repeated").fetchone()
        path, *lines = run(
            "SELECT p.path, p.line, l.line FROM repeated JOIN products p USING (id) JOIN products l ON l.id = last"
            " ORDER BY p.id LIMIT 1"
        ).fetchone()
        logger.warning(
            "%d rows of %s are about the image of a later row, which is taken, such as %r in lines %d and %d",
            *(count, file, path, *lines),
        )
        run("DELETE FROM products WHERE id IN (SELECT id FROM repeated)")
        run("DELETE FROM repeated")

    def counts(self) -> ProductCounts:
        """Count the shop's products, and find one whose image is not in the catalog; none where no data were added."""
        if not self._has_data:
            return ProductCounts()
        return ProductCounts(*self._connection.execute(_COUNT).fetchone())

    def write_unmatched(self) -> None:
        """Write which rows have no image, and which images no row, to the database `new` and for its items."""
        if self._has_data:
            for statement in _WRITE_UNMATCHED:
                self._connection.execute(statement)

    def find_similar(self) -> tuple[str, str]:
        """Return the path of a product, one of the first rows, and that of an image, as like as there are."""
        query = "SELECT path FROM products WHERE path IS NOT NULL ORDER BY id LIMIT 1000"
        rows = self._connection.execute(query).fetchall()
        products = {name: path for (path,) in reversed(rows) for name in comparable_names(path)}
        best = 0, rows[0][0], ""
        for (image,) in self._connection.execute("SELECT path FROM coming ORDER BY path"):
            names = comparable_names(image)
            like = next((number for number, name in enumerate(names) if name in products), len(names))
            if len(names) - like > best[0] or not best[2]:
                product = products[names[like]] if like < len(names) else best[1]
                best = len(names) - like, product, image
        return best[1:]

    def columns(self) -> Columns:
        """Return the shop's columns, by their names alone."""
        keys = self._connection.execute("SELECT DISTINCT key FROM products, json_each(metadata)")
        return {folded(name): Column(name, "text") for (name,) in keys}

    def compare(self) -> tuple[ShopData, ShopData]:
        """Count what the shop said of the published items that are kept, and what it says of those to be."""
        return shop_data(self._connection, "kept"), shop_data(self._connection, "coming")


def default_product(path: str) -> str:
    """Return the product of an image that the shop's data name none for."""
    return default_names(path)[0]


def sql_text(text: str | None) -> str | bytes | None:
    """Return text for a statement that casts it: names that are not UTF-8 cannot be bound otherwise."""
    return text if text is None or text.isascii() else text.encode("utf-8", "surrogateescape")


def _rows(products: Iterable[Product], roots: Sequence[str]) -> Iterator[tuple[object, ...]]:
    for each in products:
        rest = each.line, sql_text(each.product), sql_text(each.category), each.metadata
        first = None
        if len(each.paths) > 1 and each.product is None:
            first = sql_text(relative_path(each.paths[0], roots))
        for path in each.paths:
            relative = relative_path(path, roots)
            yield sql_text(path), None if relative == path else sql_text(relative), first, *rest
        if not each.paths:
            yield None, None, None, *rest


def _of_bytes(function: Callable[[str], str]) -> Callable[[bytes], bytes]:
    """Return a function of paths for SQL, which has them as bytes."""
    return lambda path: function(os.fsdecode(path)).encode("utf-8", "surrogateescape")
