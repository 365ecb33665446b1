"""The output formats: one class each, and a line in `FORMATS`. docs/output-format.md says what scripts may rely on."""

import csv
import io
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from imgsearch.errors import ImgsearchError

if TYPE_CHECKING:
    from imgsearch.cli.answers import Answer, Result

# Columns of text in tables; the others are numbers.
_TEXT_COLUMNS = ("image", "product", "category", "class")


@dataclass(frozen=True, slots=True)
class Format:
    """How answers are written."""

    columns: Sequence[str] = ()  # of CSV
    path_end: str = "\n"  # of the format `paths`
    title: str = "imgsearch"  # of a page

    # Whether answers say what is wrong with their images, so that standard error need not.
    carries_errors: ClassVar[bool] = False

    def opening(self) -> str:
        """Return what is written before the first answer; it waits for that one, or for the end."""
        return ""

    def piece(self, answer: "Answer", *, is_first: bool) -> str:  # noqa: ARG002
        """Return one answer."""
        return "" if isinstance(answer.result, ImgsearchError) else self.found(answer, answer.result)

    def found(self, answer: "Answer", result: "Result") -> str:
        """Return what was found for one image, in a format that leaves out what cannot be used."""
        raise NotImplementedError

    def closing(self, *, is_empty: bool) -> str:  # noqa: ARG002
        """Return what is written after the last answer, or where there was none."""
        return ""


class Table(Format):
    """For people at a terminal."""

    def found(self, answer: "Answer", result: "Result") -> str:
        from imgsearch.cli.output import draw_table, printable

        return "".join(
            draw_table(table.title, table.heads, table.rows, _TEXT_COLUMNS)
            if table.rows
            else f"{table.title}\n" + (f"  {table.empty}\n" if table.empty else "")
            for table in result.tables(printable(answer.title))
        )


class Preview(Table):
    """A table, and below it the images: not in `FORMATS`, for only a terminal shows it."""

    def found(self, answer: "Answer", result: "Result") -> str:
        from imgsearch.cli import terminal

        here = terminal.this_terminal()
        images = "".join(terminal.section(answer.query, part, here) for part in result.sections())
        return super().found(answer, result) + images


class Json(Format):
    """One array of objects."""

    carries_errors = True

    def opening(self) -> str:
        return "["

    def piece(self, answer: "Answer", *, is_first: bool) -> str:
        return ("\n " if is_first else ",\n ") + json.dumps(answer.to_json())

    def closing(self, *, is_empty: bool) -> str:
        return "]\n" if is_empty else "\n]\n"


class JsonLines(Format):
    """One object a line."""

    carries_errors = True

    def piece(self, answer: "Answer", *, is_first: bool) -> str:  # noqa: ARG002
        return json.dumps(answer.to_json()) + "\n"


class Csv(Format):
    """A line for each thing that was found, under the names of the columns."""

    def opening(self) -> str:
        return csv_line(self.columns)

    def found(self, answer: "Answer", result: "Result") -> str:
        return "".join(csv_line((answer.query, *row)) for row in result.rows())


class Paths(Format):
    """A path for each thing that was found, or its name."""

    def found(self, answer: "Answer", result: "Result") -> str:
        return "".join(path + self.path_end for path in result.paths(answer.query))


class Html(Format):
    """One page that holds its images."""

    def opening(self) -> str:
        from imgsearch.cli import html

        return html.opening(self.title)

    def piece(self, answer: "Answer", *, is_first: bool) -> str:  # noqa: ARG002
        from imgsearch.cli import html

        return "".join(html.section(answer.query, part) for part in answer.sections())

    def closing(self, *, is_empty: bool) -> str:  # noqa: ARG002
        from imgsearch.cli import html

        return html.CLOSING


FORMATS: dict[str, type[Format]] = {
    "table": Table,
    "json": Json,
    "jsonl": JsonLines,
    "csv": Csv,
    "paths": Paths,
    "html": Html,
}


def render(answers: Iterable["Answer"], form: Format) -> Iterator[str]:
    """Render answers one by one; an error that comes after the first is raised when what was begun is closed."""
    is_empty, failed = True, None
    try:
        for answer in answers:
            yield (form.opening() if is_empty else "") + form.piece(answer, is_first=is_empty)
            is_empty = False
    except ImgsearchError as error:
        if is_empty:
            raise
        failed = error
    yield (form.opening() if is_empty else "") + form.closing(is_empty=is_empty)
    if failed:
        raise failed


def end_of_path(*, null: bool) -> str:
    """Return the end of names that are read and paths that are written."""
    return "\0" if null else "\n"


def csv_line(cells: Iterable[object]) -> str:
    """Write one line of CSV that a spreadsheet does not run."""
    text = io.StringIO()
    # Only what is in the line's end is put in quotes: a lone carriage return, too, would begin a line, and a cell.
    csv.writer(text, lineterminator="\r\n").writerow([_csv_cell(str(cell)) for cell in cells])
    return text.getvalue().removesuffix("\r\n") + "\n"


def _csv_cell(cell: str) -> str:
    """Keep a spreadsheet from running a cell as a formula (OWASP, CSV injection); numbers stay numbers."""
    if re.fullmatch(r"[+-]?\d+(\.\d+)?", cell, re.ASCII):
        return cell
    return "'" + cell if cell.lstrip(" ").startswith(("=", "+", "-", "@", "\t", "\r", "\n")) else cell
