"""The shop's own data about its images, from a CSV file."""

import codecs
import csv
import json
import logging
import re
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import TextIOBase
from itertools import chain, zip_longest
from pathlib import Path
from urllib.parse import unquote

from imgsearch.errors import UsageError
from imgsearch.store.conditions import NUMBER

logger = logging.getLogger(__name__)

DEFAULT_ENCODING = "utf-8"
_BYTE_ORDER_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
# What spreadsheets put between cells: with a decimal comma it is a semicolon.
_DELIMITERS = (",", ";", "\t")
_LARGEST_CELL = 1_000_000  # characters
_LARGEST_LINE = 16 * _LARGEST_CELL  # also of a cell: one whose quotation mark is not closed takes in all the rest
_RAW_BYTES = re.compile("[\udc80-\udcff]")  # as of `os.fsdecode`
_SAVE_AS_UTF8 = "save it as UTF-8, or name its encoding: --metadata-encoding cp1252"


@dataclass(frozen=True, slots=True)
class Product:
    """One row of the shop's data."""

    line: int  # of the file, from 1
    path: str  # of the image, as it is written; bytes that are not UTF-8 as of `os.fsdecode`
    product: str | None  # None where the file has none
    category: str | None
    metadata: str  # the other columns, a JSON object


def known_encoding(name: str) -> str:
    """Return Python's name for an encoding of text; `UsageError` if there is none."""
    try:
        "path".encode(name)
        return codecs.lookup(name).name
    except (LookupError, ValueError) as error:
        raise UsageError(
            f"expected the name of an encoding, found {name!r}", hint="such as utf-8, cp1252 or shift_jis"
        ) from error


def read_products(path: Path, encoding: str = DEFAULT_ENCODING) -> Iterator[Product]:
    """Read a CSV file with a header line and a column `path`; `UsageError` for any other, naming the place.

    A byte order mark says what the encoding is, whatever was given. Cells are separated by commas, semicolons or tabs.
    Left out are empty rows, rows without a path, and empty cells in columns without a name.
    """
    try:
        with path.open("rb") as file:
            start = file.read(4)
        encoding = next((name for mark, name in _BYTE_ORDER_MARKS.items() if start.startswith(mark)), encoding)
        # Names of files may be of any bytes, so the column `path` may; others may not.
        errors = "surrogateescape" if encoding in ("utf-8", "utf-8-sig") else "strict"
        with path.open(encoding=encoding, errors=errors, newline="") as text, _large_cells():
            yield from _Table(path, encoding).products(text)
    except UnicodeError as error:
        raise _Table(path, encoding).not_text() from error
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error


@contextmanager
def _large_cells() -> Iterator[None]:
    before = csv.field_size_limit(_LARGEST_LINE)
    try:
        yield
    finally:
        csv.field_size_limit(before)


@dataclass(frozen=True, slots=True)
class _Table:
    """A CSV file that is being read, and what is wrong with it."""

    path: Path
    encoding: str

    def products(self, text: TextIOBase) -> Iterator[Product]:
        begin, names, without_path = 1, None, 0
        try:
            lines = self._lines(text)
            first = next(lines, "")
            delimiter = max(_DELIMITERS, key=lambda mark: "path" in next(csv.reader([first], delimiter=mark), []))
            reader = csv.reader(chain([first], lines), delimiter=delimiter, strict=True)
            for cells in reader:
                if names is None:
                    names = self._names(cells)
                elif any(cell.strip() for cell in cells):
                    row = self._row(begin, names, cells)
                    if row["path"]:
                        yield _product(begin, row)
                    else:
                        without_path += 1
                begin = reader.line_num + 1
        except csv.Error as error:
            raise self._broken(begin, error) from error
        if names is None:
            self._names([])
        if without_path:
            logger.warning("%d rows of %s have no path and are left out", without_path, self.path)

    def _lines(self, text: TextIOBase) -> Iterator[str]:
        while line := text.readline(_LARGEST_LINE):
            if len(line) == _LARGEST_LINE:
                raise csv.Error(f"a line has more than {_LARGEST_LINE:,} characters")
            yield line

    def _names(self, cells: Sequence[str]) -> list[str]:
        """Check the header; columns without a name at its end are none."""
        found = ", ".join(map(repr, cells)) or "nothing"
        if any("\0" in cell for cell in cells):
            raise self.wrong(1, f"expected the names of columns, found NUL bytes: {_brief(found)}", _SAVE_AS_UTF8)
        if any(map(_RAW_BYTES.search, cells)):
            raise self.not_text()
        if "path" not in cells:
            alike = next((cell for cell in cells if cell.strip().casefold() == "path"), None)
            hint = f"rename {alike!r}" if alike else "its first line must name the columns, with commas between them"
            raise self.wrong(1, f"expected a column called path, found {_brief(found)}", hint)
        known: dict[str, str] = {}
        for name in filter(None, cells):
            # SQL does not tell letter cases of names apart.
            if (other := known.setdefault(name.casefold(), name)) != name or cells.count(name) > 1:
                raise self.wrong(1, f"two columns have the same name: {other!r} and {name!r}", "rename one of them")
        return list(cells[: max(place for place, name in enumerate(cells) if name) + 1])

    def _row(self, line: int, names: Sequence[str], cells: Sequence[str]) -> dict[str, str]:
        if len(cells) < len(names):
            raise self.wrong(line, f"expected {len(names)} cells, as the header has, found {len(cells)}")
        row = {}
        for name, cell in zip_longest(names, cells, fillvalue=""):
            if name:
                row[name] = cell
            elif cell.strip():
                raise self.wrong(
                    line, f"{_brief(repr(cell))} stands in a column without a name", "is a comma not quoted?"
                )
            if len(cell) > _LARGEST_CELL:
                raise self.wrong(line, f"column {name!r} has {len(cell):,} characters, more than {_LARGEST_CELL:,}")
            if "\0" in cell:
                raise self.wrong(line, f"column {name!r} has a NUL byte")
            if name != "path" and not cell.isascii() and _RAW_BYTES.search(cell):
                raise self.not_text(line)
        return row

    def _broken(self, line: int, error: csv.Error) -> UsageError:
        said = str(error)
        is_open = "unexpected end" in said or "field larger" in said
        return self.wrong(line, f"not CSV: {'a quotation mark is not closed' if is_open else said}")

    def wrong(self, line: int, problem: str, hint: str = "") -> UsageError:
        return UsageError(f"{self.path}, line {line}: {problem}", hint=hint)

    def not_text(self, begin: int = 1) -> UsageError:
        """Name the first byte, from a line on, that is not of the encoding."""
        decoder = codecs.getincrementaldecoder(self.encoding)()
        line, offset = 1, 0
        with self.path.open("rb") as file:
            while part := file.readline(1 << 16):
                try:
                    decoder.decode(part)
                except UnicodeDecodeError as error:
                    # The decoder may have kept the beginning of a character from the part before.
                    place = offset + len(part) - len(error.object) + error.start
                    byte = error.object[error.start]
                    if line >= begin:
                        return self.wrong(line, f"byte {place} (0x{byte:02x}) is not {self.encoding}", _SAVE_AS_UTF8)
                    decoder.reset()
                except UnicodeError as error:  # of UTF-16 without a byte order mark
                    return self.wrong(line, f"not {self.encoding}: {error}", _SAVE_AS_UTF8)
                line += part.endswith(b"\n")
                offset += len(part)
        return UsageError(f"{self.path} is not {self.encoding}: it ends within a character", hint=_SAVE_AS_UTF8)


def _brief(text: str) -> str:
    return text if len(text) <= 200 else f"{text[:200]}..."


def _product(line: int, row: dict[str, str]) -> Product:
    path, product, category = row.pop("path"), row.pop("product", None), row.pop("category", None)
    data = ", ".join(f"{json.dumps(name)}: {_value(cell)}" for name, cell in row.items())
    return Product(line, path, product or None, category or None, f"{{{data}}}")


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


def comparable_name(path: str) -> str:
    """Return a file's name without what makes paths differ: folders, letter case, Unicode's forms, escapes in URLs."""
    name = re.split(r"[/\\]", unquote(path.partition("?")[0], errors="surrogateescape"))[-1]
    return unicodedata.normalize("NFC", name).casefold().strip()
