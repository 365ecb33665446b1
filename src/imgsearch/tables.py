"""CSV files as spreadsheets write them, read as they are, or refused by the place of their fault."""

import codecs
import csv
import re
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import TextIOWrapper
from itertools import chain, zip_longest
from pathlib import Path

from imgsearch.errors import UsageError
from imgsearch.files import open_regular

UTF8 = "utf-8"
_BYTE_ORDER_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
# What spreadsheets put between cells: with a decimal comma it is a semicolon.
_DELIMITERS = (",", ";", "\t")
LARGEST_CELL = 1_000_000  # characters
LARGEST_LINE = 16 * LARGEST_CELL  # also of a cell: one whose quotation mark is not closed takes in all the rest

# What bytes that are no UTF-8 become, as of `os.fsdecode`.
_RAW_BYTE = re.compile("[\udc80-\udcff]")


def known_encoding(name: str) -> str:
    """Return Python's name for an encoding of text; `UsageError` if there is none."""
    try:
        "path".encode(name)
        return codecs.lookup(name).name
    except (LookupError, ValueError) as error:
        raise UsageError(
            f"expected the name of an encoding, found {name!r}", hint="such as utf-8, cp1252 or shift_jis"
        ) from error


@dataclass(frozen=True, slots=True)
class Table:
    """A CSV file that is read by `rows`.

    Attributes:
        path: The file.
        required: Columns that its header must have: of each group one.
        names_of_files: Columns that may hold bytes that are no text, as of `os.fsdecode`.
        encoding: Of the file, unless it begins with a byte order mark.
        hint: What to do about another encoding.
    """

    path: Path
    required: Sequence[Sequence[str]]
    names_of_files: Collection[str] = ()
    encoding: str = UTF8
    hint: str = "save it as UTF-8"

    def rows(self) -> Iterator[tuple[int, dict[str, str]]]:
        """Yield each row's line, from 1, and its cells by column; `UsageError` for what is not such a file.

        Cells are separated by commas, semicolons or tabs. Left out are empty rows, and empty cells in columns without
        a name.
        """
        with open_text(self.path, self.encoding, self.hint, raw_bytes=True) as (lines, encoding), _large_cells():
            yield from self._rows(lines, encoding)

    def _rows(self, lines: Iterator[str], encoding: str) -> Iterator[tuple[int, dict[str, str]]]:
        begin, names, width = 1, None, 0
        try:
            first = next(lines, "")
            delimiter = max(_DELIMITERS, key=lambda mark: self._found(next(csv.reader([first], delimiter=mark), [])))
            reader = csv.reader(chain([first], lines), delimiter=delimiter, strict=True)
            for cells in reader:
                if names is None:
                    names = self._names(cells, encoding)
                    width = len(names) if all(names) else 0
                elif (whole := "".join(cells)).strip():
                    # Looking at each cell would take most of the time; nearly all rows are as plain as this.
                    plain = len(cells) == width and len(whole) <= LARGEST_CELL and "\0" not in whole
                    if plain and not _has_raw_bytes(whole):
                        yield begin, dict(zip(names, cells, strict=True))
                    else:
                        yield begin, self._row(begin, names, cells, encoding)
                begin = reader.line_num + 1
        except csv.Error as error:
            said = str(error)
            is_open = "unexpected end" in said or "field larger" in said
            raise self._wrong(begin, f"not CSV: {'a quotation mark is not closed' if is_open else said}") from error
        if names is None:
            self._names([], encoding)

    def _found(self, cells: Sequence[str]) -> int:
        return sum(any(name in cells for name in group) for group in self.required)

    def _names(self, cells: Sequence[str], encoding: str) -> list[str]:
        """Check the header; columns without a name at its end are none."""
        found = ", ".join(map(repr, cells)) or "nothing"
        if any("\0" in cell for cell in cells):
            raise self._wrong(1, f"expected the names of columns, found NUL bytes: {_brief(found)}", self.hint)
        if any(map(_has_raw_bytes, cells)):
            raise not_text(self.path, encoding, self.hint)
        if self._found(cells) < len(self.required):
            wanted = " and ".join(" or ".join(group) for group in self.required)
            first = self.required[0]
            alike = next((cell for cell in cells if cell not in first and cell.strip().casefold() in first), "")
            hint = f"rename {alike!r}" if alike else "its first line must name the columns"
            raise self._wrong(
                1, f"expected the column{'s' * (len(self.required) > 1)} {wanted}, found {_brief(found)}", hint
            )
        known: dict[str, str] = {}
        for name in filter(None, cells):
            # SQL does not tell letter cases of names apart.
            if (other := known.setdefault(name.casefold(), name)) != name or cells.count(name) > 1:
                raise self._wrong(1, f"two columns have the same name: {other!r} and {name!r}", "rename one of them")
        return list(cells[: max(place for place, name in enumerate(cells) if name) + 1])

    def _row(self, line: int, names: Sequence[str], cells: Sequence[str], encoding: str) -> dict[str, str]:
        if len(cells) < len(names):
            raise self._wrong(line, f"expected {len(names)} cells, as the header has, found {len(cells)}")
        row = {}
        for name, cell in zip_longest(names, cells, fillvalue=""):
            if name:
                row[name] = cell
            elif cell.strip():
                problem = f"{_brief(repr(cell))} stands in a column without a name"
                raise self._wrong(line, problem, "is it part of a cell whose quotation marks are missing?")
            if len(cell) > LARGEST_CELL:
                raise self._wrong(line, f"column {name!r} has {len(cell):,} characters, more than {LARGEST_CELL:,}")
            if "\0" in cell:
                raise self._wrong(line, f"column {name!r} has a NUL byte")
            if name not in self.names_of_files and _has_raw_bytes(cell):
                raise not_text(self.path, encoding, self.hint, line)
        return row

    def _wrong(self, line: int, problem: str, hint: str = "") -> UsageError:
        return UsageError(f"{self.path}, line {line}: {problem}", hint=hint)


@contextmanager
def open_text(path: Path, encoding: str, hint: str, *, raw_bytes: bool = False) -> Iterator[tuple[Iterator[str], str]]:
    """Open a file of text: yields its lines, and its encoding, which a byte order mark decides.

    Args:
        path: The file.
        encoding: Of the file, unless it begins with a byte order mark.
        hint: What to do about another encoding.
        raw_bytes: Whether bytes that are no UTF-8 are let through, as of `os.fsdecode`.

    Raises:
        UsageError: It cannot be read, or is not of the encoding; also from what is done inside.
    """
    try:
        with open_regular(path) as data:
            start = data.peek(4)
            encoding = next((name for mark, name in _BYTE_ORDER_MARKS.items() if start.startswith(mark)), encoding)
            errors = "surrogateescape" if raw_bytes and encoding.startswith(UTF8) else "strict"
            with TextIOWrapper(data, encoding=encoding, errors=errors, newline="") as text:
                yield _lines(path, text), encoding
    except UnicodeError as error:
        raise not_text(path, encoding, hint) from error
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error


def _lines(path: Path, text: TextIOWrapper) -> Iterator[str]:
    encoding = text.encoding
    is_utf8: set[bool] = set()  # whether what is not ASCII would be UTF-8, too
    number = 0
    while line := text.readline(LARGEST_LINE):
        number += 1
        if len(line) == LARGEST_LINE:
            raise UsageError(f"{path}, line {number}: a line has more than {LARGEST_LINE:,} characters")
        if not line.isascii() and not encoding.startswith("utf"):
            is_utf8.add(_is_utf8(line.encode(encoding)))
        yield line
    if is_utf8 == {True}:  # no other text happens to be
        raise UsageError(f"{path} is UTF-8, expected {encoding}", hint="name its encoding, utf-8")


def not_text(path: Path, encoding: str, hint: str, begin: int = 1) -> UsageError:
    """Return an error that names the first byte of a file, from a line on, that is not of the encoding."""
    decoder = codecs.getincrementaldecoder(encoding)()
    line, offset = 1, 0
    first: UsageError | None = None  # where lines end in CR alone, all are the first one
    with open_regular(path) as file:
        while part := file.readline(1 << 16):
            try:
                decoder.decode(part)
            except UnicodeDecodeError as error:
                # The decoder may have kept the beginning of a character from the part before.
                place = offset + len(part) - len(error.object) + error.start
                byte = error.object[error.start]
                problem = f"{path}, line {line}: byte {place} (0x{byte:02x}) is not {encoding}"
                first = first or UsageError(problem, hint=hint)
                if line >= begin:
                    return UsageError(problem, hint=hint)
                decoder.reset()
            except UnicodeError as error:  # of UTF-16 without a byte order mark
                return UsageError(f"{path}, line {line}: not {encoding}: {error}", hint=hint)
            line += part.endswith(b"\n")
            offset += len(part)
    return first or UsageError(f"{path} is not {encoding}: it ends within a character", hint=hint)


@contextmanager
def _large_cells() -> Iterator[None]:
    before = csv.field_size_limit(LARGEST_LINE)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _is_utf8(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


def _has_raw_bytes(cell: str) -> bool:
    return not cell.isascii() and _RAW_BYTE.search(cell) is not None


def _brief(text: str) -> str:
    return text if len(text) <= 200 else f"{text[:200]}..."
