"""The shop's data in the journal of a build: which image each row is about, and how the rows fit the catalog."""

import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from imgsearch.build.loss import ShopData, shop_data
from imgsearch.build.metadata import Product, comparable_names, relative_path
from imgsearch.errors import UsageError

_IS_FILE = "SELECT 1 FROM files WHERE path = CAST(? AS TEXT)"
_ADD_PRODUCT = "INSERT INTO products VALUES (CAST(? AS TEXT), ?, CAST(? AS TEXT), CAST(? AS TEXT), ?)"
_COUNT = """
SELECT (SELECT count(*) FROM products), count(*), coalesce(min(path), '')
FROM products WHERE path NOT IN (SELECT path FROM coming)
"""


@dataclass(frozen=True, slots=True)
class ProductCounts:
    """How the shop's data fit the catalog."""

    count: int  # rows
    stray: int  # of these, without an image in the catalog
    example: str  # path of one of these; empty for none


class Products:
    """The table `products` of a journal, beside its `files` and the views `coming` and `kept`."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def add(self, products: Iterable[Product], file: str, roots: Sequence[str]) -> None:
        """Take in the shop's data of a file; `roots` are names of the catalog that paths may begin with."""
        run = self._connection.execute
        for each in products:
            path, relative = sql_text(each.path), sql_text(relative_path(each.path, roots))
            if relative != path and run(_IS_FILE, (relative,)).fetchone() and not run(_IS_FILE, (path,)).fetchone():
                path = relative
            try:
                run(_ADD_PRODUCT, (path, each.line, sql_text(each.product), sql_text(each.category), each.metadata))
            except sqlite3.IntegrityError as error:
                (first,) = run("SELECT line FROM products WHERE path = CAST(? AS TEXT)", (path,)).fetchone()
                raise UsageError(
                    f"expected each path once in {file}, found {each.path!r} in lines {first} and {each.line}"
                ) from error

    def counts(self) -> ProductCounts:
        """Count the shop's products, and find one whose image is not in the catalog."""
        return ProductCounts(*self._connection.execute(_COUNT).fetchone())

    def find_similar(self) -> tuple[str, str]:
        """Return the path of a product, one of the first rows, and that of an image, as like as there are."""
        rows = self._connection.execute("SELECT path FROM products ORDER BY line LIMIT 1000").fetchall()
        products = {name: path for (path,) in reversed(rows) for name in comparable_names(path)}
        best = 0, rows[0][0], ""
        for (image,) in self._connection.execute("SELECT path FROM coming ORDER BY path"):
            names = comparable_names(image)
            like = next((number for number, name in enumerate(names) if name in products), len(names))
            if len(names) - like > best[0] or not best[2]:
                product = products[names[like]] if like < len(names) else best[1]
                best = len(names) - like, product, image
        return best[1:]

    def compare(self) -> tuple[ShopData, ShopData]:
        """Count what the shop said of the published items that are kept, and what it says of those to be."""
        return shop_data(self._connection, "kept"), shop_data(self._connection, "coming")


def sql_text(text: str | None) -> bytes | None:
    """Return text for a statement that casts it: names that are not UTF-8 cannot be bound otherwise."""
    return None if text is None else text.encode("utf-8", "surrogateescape")
