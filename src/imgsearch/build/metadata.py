"""The shop's own data about its images, from a CSV file."""

import json
import logging
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from imgsearch.store.conditions import NUMBER
from imgsearch.tables import UTF8, Table

logger = logging.getLogger(__name__)

# By which paths are compared to find what was meant by one that names no image.
_MAX_FOLDERS = 8


@dataclass(frozen=True, slots=True)
class Product:
    """One row of the shop's data."""

    line: int  # of the file, from 1
    path: str  # of the image, as it is written; bytes that are not UTF-8 as of `os.fsdecode`
    product: str | None  # None where the file has none
    category: str | None
    metadata: str  # the other columns, a JSON object


def read_products(path: Path, encoding: str = UTF8) -> Iterator[Product]:
    """Read a CSV file with a column `path`; `UsageError` for any other. Rows without a path are left out."""
    hint = "save it as UTF-8, or name its encoding: --metadata-encoding cp1252"
    without_path = 0
    for line, row in Table(path, [["path"]], names_of_files=["path"], encoding=encoding, hint=hint).rows():
        image, product, category = row.pop("path"), row.pop("product", None), row.pop("category", None)
        if image:
            data = ", ".join(f"{json.dumps(name)}: {_value(cell)}" for name, cell in row.items())
            yield Product(line, image, product or None, category or None, f"{{{data}}}")
        else:
            without_path += 1
    if without_path:
        logger.warning("%d rows of %s have no path and are left out", without_path, path)


def _value(cell: str) -> str:
    """Return a cell as JSON."""
    if not cell:
        return "null"  # compares with nothing; as text it would be more than any number
    return cell if NUMBER.fullmatch(cell) else json.dumps(cell)  # a number as it is written: 1.10


def relative_path(path: str, roots: Sequence[str]) -> str:
    """Return the path below the catalog that may be meant by one that names no image as it is written."""
    path = path.replace("\\", "/")
    for root in roots:
        path = path.removeprefix(root.rstrip("/") + "/")
    while path.startswith("./"):
        path = path[2:].lstrip("/")
    return path


def comparable_names(path: str) -> list[str]:
    """Return a path, and it with ever fewer of its last few folders, without what else makes paths differ.

    That is letter case, backslashes, Unicode's forms, and the escapes and questions of URLs.
    """
    plain = unquote(path.partition("?")[0], errors="surrogateescape").replace("\\", "/")
    parts = unicodedata.normalize("NFC", plain).casefold().strip().split("/")
    return ["/".join(parts[start:]) for start in range(max(0, len(parts) - _MAX_FOLDERS), len(parts))]
