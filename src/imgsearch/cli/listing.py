"""What commands that look after a catalog found, in each of their formats (docs/output-format.md)."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from imgsearch.cli.answers import TextTable
from imgsearch.cli.formats import csv_line, end_of_path
from imgsearch.cli.output import draw_table, output, printable, write

if TYPE_CHECKING:
    from imgsearch.cli.answers import Section

ListingFormat = Literal["table", "json", "csv", "paths", "html"]

_TEXT_HEADS = ("image", "like", "product", "category", "looks like")


@dataclass(frozen=True, slots=True)
class Listing:
    """What was found, for all formats.

    Attributes:
        facts: The JSON object.
        columns: Of CSV.
        rows: Of CSV.
        tables: For people.
        paths: For scripts.
        sections: Of a page for people, each with the image that it begins with.
        summary: The last line of tables and of the page.
        command: Whose listing it is.
    """

    facts: Mapping[str, Any]
    columns: Sequence[str]
    rows: Iterable[Sequence[object]]
    tables: Iterable[TextTable]
    paths: Iterable[str]
    sections: Iterable[tuple[str, "Section"]]
    summary: str
    command: str


def write_listing(
    listing: Listing, form: ListingFormat, path: Path | None, *, null: bool = False, preview: bool = False
) -> None:
    """Write what was found to a file, or to standard output; with `preview` a table with its images below."""
    with output(path) as file:
        for text in _previewed(listing) if preview else _rendered(listing, form, end_of_path(null=null)):
            write(file, text)


def _previewed(listing: Listing) -> Iterator[str]:
    from imgsearch.cli import terminal

    for table, (image, section) in zip(listing.tables, listing.sections, strict=True):
        yield _drawn(table)
        yield terminal.section(image, section, terminal.this_terminal())
    yield printable(listing.summary) + "\n"


def _rendered(listing: Listing, form: ListingFormat, end: str) -> Iterator[str]:
    if form == "json":
        yield json.dumps(listing.facts, indent=1) + "\n"
    elif form == "csv":
        yield csv_line(listing.columns)
        yield from map(csv_line, listing.rows)
    elif form == "paths":
        yield from (path + end for path in listing.paths)
    elif form == "html":
        from imgsearch.cli import html

        yield html.opening(f"imgsearch {listing.command}")
        for image, section in listing.sections:
            yield html.section(image, section)
        yield f"<p>{html.shown(listing.summary)}</p>\n{html.CLOSING}"
    else:
        for table in listing.tables:
            yield _drawn(table)
        yield printable(listing.summary) + "\n"


def _drawn(table: TextTable) -> str:
    return draw_table(printable(table.title), table.heads, table.rows, _TEXT_HEADS)
