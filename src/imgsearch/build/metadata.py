"""The shop's own data about its images: the rows of its file, whichever format that has."""

import json
import logging
import math
import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from json.encoder import encode_basestring_ascii
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote

from imgsearch.build.json_lines import json_rows
from imgsearch.build.parquet import parquet_rows
from imgsearch.errors import UsageError
from imgsearch.store.columns import LONGEST_NAME, NUMBER
from imgsearch.tables import LARGEST_CELL, UTF8, Table

logger = logging.getLogger(__name__)

# Columns that name the images of a row, of which a file has one.
IMAGE_COLUMNS = ("path", "image", "images")
_OWN_COLUMNS = {*IMAGE_COLUMNS, "product", "category"}

# What SQLite can keep: 2,000 columns in a table, one of which is needed for the row; names in statements of a megabyte.
_MOST_COLUMNS = 1_999
_LARGEST_ROW = 16 * LARGEST_CELL  # characters of the JSON of a row
_MOST_IMAGES = 1_000  # of a row, each of which gets all its data
_MOST_LEVELS = 101  # the row itself, and of lists and objects in one another; JSON in SQLite may have 1,000

_LONE_SURROGATE = re.compile("[\ud800-\udfff]")
_RAW_BYTE = re.compile("[\udc80-\udcff]")
_as_json = json.JSONEncoder(allow_nan=False).encode
_quoted = encode_basestring_ascii
_is_number = NUMBER.fullmatch

# By which paths are compared to find what was meant by one that names no image.
_MAX_FOLDERS = 8


class Product(NamedTuple):
    """One row of the shop's data."""

    line: int  # of the file, from 1; the row in a format that has no lines
    paths: tuple[str, ...]  # of its images, as they are written; bytes that are not UTF-8 as of `os.fsdecode`
    product: str | None  # None where the file has none
    category: str | None
    metadata: str  # the other columns, a JSON object


@dataclass(frozen=True, slots=True)
class _Format:
    """How files of a format are read.

    Attributes:
        rows: Yields the line of each row of a file, and its values by column; takes the encoding of text, too.
        product: Makes of a line, its row and the file's columns what is kept; `ValueError` for what cannot be.
        unit: What rows are counted in.
    """

    rows: Callable[[Path, str], Iterator[tuple[int, dict[str, Any]]]]
    product: Callable[[int, dict[str, Any], "_Columns"], Product]
    unit: str = "line"


def read_products(path: Path, encoding: str = UTF8) -> Iterator[Product]:
    """Read a file with a column `path`, `image` or `images`; `UsageError` for any other."""
    format_ = _format_of(path)
    columns = _Columns()
    without_path = 0
    for line, row in format_.rows(path, encoding):
        try:
            if not row.keys() <= columns.names.keys():
                columns.add(row)
            found = format_.product(line, row, columns)
            if len(found.metadata) > _LARGEST_ROW:
                raise ValueError(f"the row has more than {_LARGEST_ROW:,} characters")  # noqa: TRY301
        except ValueError as error:
            raise UsageError(f"{path}, {format_.unit} {line}: {error}") from error
        without_path += not found.paths
        yield found
    if columns.names and not columns.image:
        names = ", ".join(map(repr, list(columns.names)[:10]))
        raise UsageError(
            f"{path}: expected the column {' or '.join(IMAGE_COLUMNS)}, found {names}", hint="name the images of a row"
        )
    if without_path:
        logger.warning("%d rows of %s have no path and are left out", without_path, path)


def has_encoding(path: Path) -> bool:
    """Return whether a file of the shop's data is text, by its name."""
    return _format_of(path) is not _PARQUET


class _Columns:
    """The columns that a file was found to have so far, checked."""

    def __init__(self) -> None:
        self.names: dict[str, str] = {}  # with what JSON has before the value
        self.image = ""  # the one of `IMAGE_COLUMNS`
        self._folded: dict[str, str] = {}

    def add(self, row: dict[str, Any]) -> None:
        """Take in the columns of a row; `ValueError` for those that cannot be kept."""
        for name in row:
            if not name:
                raise ValueError(f"a column without a name has {str(row[name])[:50]!r}")
            if "\0" in name or _LONE_SURROGATE.search(name):
                raise ValueError(f"expected the name of a column, found {name[:50]!r}, which is no text")
            if len(name) > LONGEST_NAME:
                raise ValueError(f"the column {name[:50]!r}... has a name of more than {LONGEST_NAME} characters")
            # SQL does not tell letter cases of names apart.
            if (other := self._folded.setdefault(name.casefold(), name)) != name:
                raise ValueError(f"two columns have the same name: {other!r} and {name!r}")
            if name not in _OWN_COLUMNS and name.casefold() in _OWN_COLUMNS:
                logger.warning("the column %r is one of your own: only %r is read as such", name, name.casefold())
            self.names[name] = f"{_as_json(name)}: "
        if len(self.names.keys() - _OWN_COLUMNS) > _MOST_COLUMNS:
            raise ValueError(f"expected at most {_MOST_COLUMNS:,} columns beside the product and its image, found more")
        found = [name for name in IMAGE_COLUMNS if name in self.names]
        if len(found) > 1:
            raise ValueError(f"expected one of the columns path, image and images, found {' and '.join(found)}")
        self.image = "".join(found)


def _paths(column: str, value: object) -> tuple[str, ...]:
    """Return the paths in a value of the column that names images."""
    if not value:
        return ()
    found: list[str] = []
    for each in value if column == "images" and isinstance(value, list) else [value]:
        if not isinstance(each, str):
            raise ValueError(f"column {column!r}: expected text, found {str(each)[:50]!r}")  # noqa: TRY004
        found += filter(None, map(str.strip, each.split("|"))) if column == "images" else [each]
    if len(found) > _MOST_IMAGES:
        raise ValueError(f"expected at most {_MOST_IMAGES:,} images, found {len(found):,}")
    for path in found:
        # Bytes that are not UTF-8 are halves of surrogate pairs, as of `os.fsdecode`; other halves mean nothing.
        _require_text(path if path.isascii() else _RAW_BYTE.sub("", path))
    return tuple(dict.fromkeys(found)) if len(found) > 1 else tuple(found)


def _name(value: object) -> str | None:
    """Return a value of `product` or `category`."""
    if value is None or value == "":
        return None
    if isinstance(value, list | dict):
        raise ValueError(f"expected one text as product and category, found {str(value)[:50]!r}")  # noqa: TRY004
    text = value if isinstance(value, str) else _as_json(value)
    _require_text(text)
    return text


def _of_cells(line: int, row: dict[str, str], columns: _Columns) -> Product:
    """Make a product of cells, which are text and no larger than they may be: a million rows should take seconds."""
    names = columns.names
    image = row.pop(columns.image)
    paths = _paths("images", image) if columns.image == "images" else (image,) if image else ()
    product, category = row.pop("product", None) or None, row.pop("category", None) or None
    # An empty cell compares with nothing; as text it would be more than any number. A number stays as it is written.
    values = [
        names[name] + ("null" if not cell else cell if cell[0] in "-0123456789" and _is_number(cell) else _quoted(cell))
        for name, cell in row.items()
    ]
    return Product(line, paths, product, category, f"{{{', '.join(values)}}}")


def _of_values(line: int, row: dict[str, Any], columns: _Columns) -> Product:
    """Make a product of values of any type."""
    paths = _paths(columns.image, row.pop(columns.image, None))
    product, category = _name(row.pop("product", None)), _name(row.pop("category", None))
    _require_plain(row)
    values = [columns.names[name] + _as_json(value) for name, value in row.items()]
    return Product(line, paths, product, category, f"{{{', '.join(values)}}}")


def _require_plain(value: object, level: int = 1) -> None:
    if isinstance(value, str):
        _require_text(value)
    elif isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{value} is not a number")
    elif isinstance(value, list | dict):
        if level > _MOST_LEVELS:
            raise ValueError(f"lists and objects are nested in more than {_MOST_LEVELS - 1} levels")
        for name, each in value.items() if isinstance(value, dict) else enumerate(value):
            _require_plain(each, level + 1)
            if isinstance(name, str):
                _require_text(name)


def _require_text(text: str) -> None:
    """Raise `ValueError` for text that SQLite could not give back."""
    if len(text) > LARGEST_CELL:
        raise ValueError(f"a value has {len(text):,} characters, more than {LARGEST_CELL:,}")
    if "\0" in text:
        raise ValueError(f"{text[:50]!r} has a NUL byte")
    if not text.isascii() and _LONE_SURROGATE.search(text):
        raise ValueError(f"{text[:50]!r} is no text: it has half of a surrogate pair")


def _table_rows(path: Path, encoding: str) -> Iterator[tuple[int, dict[str, Any]]]:
    return Table(path, [IMAGE_COLUMNS], names_of_files=IMAGE_COLUMNS, encoding=encoding, hint=_HINT).rows()


def _json_rows(path: Path, encoding: str) -> Iterator[tuple[int, dict[str, Any]]]:
    return json_rows(path, encoding, _HINT)


def _format_of(path: Path) -> _Format:
    return _FORMATS.get(path.suffix.casefold(), _TABLE)


_HINT = "save it as UTF-8, or name its encoding: --metadata-encoding cp1252"
_TABLE = _Format(_table_rows, _of_cells)
_JSON = _Format(_json_rows, _of_values)
_PARQUET = _Format(lambda path, _: parquet_rows(path), _of_values, "row")
_FORMATS = {".jsonl": _JSON, ".ndjson": _JSON, ".parquet": _PARQUET}


def relative_path(path: str, roots: Sequence[str]) -> str:
    """Return the path below the catalog that may be meant by one that names no image as it is written."""
    if path[0] not in "./\\" and "\\" not in path:
        return path
    path = path.replace("\\", "/")
    for root in roots:
        path = path.removeprefix(root.rstrip("/") + "/")
    while path.startswith("./"):
        path = path[2:].lstrip("/")
    return path


def comparable_name(path: str) -> str:
    """Return a path without what makes the same path differ between systems: letter case, backslashes, Unicode's forms.

    Case folding may take a text out of its form, so that is done last.
    """
    folded = unicodedata.normalize("NFC", path.replace("\\", "/")).casefold()
    return unicodedata.normalize("NFC", folded)


def comparable_names(path: str) -> list[str]:
    """Return a path, and it with ever fewer of its last few folders, without what else makes paths differ.

    Beside what `comparable_name` leaves out, that is the escapes and questions of URLs.
    """
    parts = comparable_name(unquote(path.partition("?")[0], errors="surrogateescape")).strip().split("/")
    return ["/".join(parts[start:]) for start in range(max(0, len(parts) - _MAX_FOLDERS), len(parts))]
