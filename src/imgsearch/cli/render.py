"""Answers in the output formats. docs/format.md says what scripts may rely on."""

import contextlib
import csv
import io
import json
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal

from imgsearch.cli.terminal import printable
from imgsearch.errors import ImgsearchError, OutputError
from imgsearch.files import replaced_file
from imgsearch.images.boxes import Box
from imgsearch.search.hits import Hit, ObjectHits
from imgsearch.store.manifest import Manifest

if TYPE_CHECKING:
    from rich.table import Table

    from imgsearch.images.decode import Pixels

Format = Literal["table", "json", "jsonl", "csv", "paths", "html"]

CSV_COLUMNS = ("query", "rank", "path", "score", "distance", "product", "category")


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of one query: hits, hits of each item in it, or the error that kept it from having any.

    `matches` are drawings of points that hits have in common with it, by path and box of the hit.
    """

    query: str
    plan: str
    seconds: float
    hits: list[Hit]
    error: ImgsearchError | None = None
    objects: list[ObjectHits] | None = None
    matches: Mapping[tuple[str, Box | None], "Pixels"] = field(default_factory=dict)

    @property
    def all_hits(self) -> Iterator[tuple[Box | None, Hit]]:
        """Each hit, with the part of the query that it looks like."""
        for found in self.objects or ():
            yield from ((found.box, hit) for hit in found.hits)
        yield from ((hit.box, hit) for hit in self.hits)


def render(
    answers: Iterable[Answer], manifest: Manifest, how: Format, path_end: str = "\n", *, with_boxes: bool = False
) -> Iterator[str]:
    """Render answers one by one, as they come.

    Args:
        answers: Of one call.
        manifest: Of the index that answered.
        how: The output format.
        path_end: What follows each path in the format `paths`.
        with_boxes: Whether the format `csv` has a column for the part of the query.

    Yields:
        Text; in formats for programs, lone surrogates are left to the JSON escapes or to `write`.
    """
    csv_columns = CSV_COLUMNS + (("probability",) if manifest.calibration else ()) + (("box",) if with_boxes else ())
    pieces = (_piece(answer, manifest, how, path_end, with_boxes=with_boxes) for answer in answers)
    yield from framed(pieces, how, csv_columns)


def framed(pieces: Iterable[str], how: Format, csv_columns: Sequence[str]) -> Iterator[str]:
    """Put what opens, parts and closes an output around its pieces.

    Args:
        pieces: One an answer.
        how: The output format.
        csv_columns: Heads of the format `csv`.

    Yields:
        Text.

    Raises:
        ImgsearchError: As the pieces do. What was begun is closed before, so that programs can read what there is.
    """
    # What opens an array or a table waits for the first answer: an error of the whole call leaves nothing behind.
    opening = {"json": "[\n ", "csv": csv_line(csv_columns)}.get(how, "")
    tail = ""
    if how == "html":
        from imgsearch.cli import html

        opening, tail = html.HEAD, html.TAIL
    is_begun, failed = False, None
    try:
        for piece in pieces:
            yield opening
            opening, is_begun = ",\n " if how == "json" else "", True
            yield piece + ("\n" if how == "jsonl" else "")
    except ImgsearchError as error:
        if not is_begun:
            raise
        failed = error
    if how == "html":
        yield opening + tail
    if how == "json":
        yield "\n]\n" if is_begun else "[]\n"
    if failed:
        raise failed


def _piece(answer: Answer, manifest: Manifest, how: Format, path_end: str, *, with_boxes: bool) -> str:
    if how in ("json", "jsonl"):
        return json.dumps(as_json(answer, manifest))
    if how == "csv":
        return "".join(_csv_lines(answer, with_boxes=with_boxes))
    if how == "paths":
        return "".join(hit.path + path_end for _, hit in answer.all_hits)
    if how == "html":
        from imgsearch.cli import html

        return html.section(answer, manifest.catalog)
    return _table(answer, manifest) if answer.error is None else ""


@contextlib.contextmanager
def output(path: Path | None) -> Iterator[BinaryIO]:
    """Open where results go: standard output, or a file that appears when it is whole.

    Raises:
        OutputError: It cannot be written. A reader that closed the pipe is no error: it has seen enough.
    """
    if path is None and sys.stdout is None:
        raise OutputError("cannot write to standard output: it is closed")
    try:
        if path is None:
            yield sys.stdout.buffer
            sys.stdout.buffer.flush()
        elif (descriptor := _descriptor(path)) is not None:
            with open(os.dup(descriptor), "wb") as file:
                yield file
        elif os.path.exists(path) and not os.path.isfile(path):
            with path.open("wb") as file:  # a pipe or a device is written to, not replaced
                yield file
        else:
            with replaced_file(Path(os.path.realpath(path))) as file:
                yield file
    except OSError as error:
        _forget_what_is_buffered()
        if path is None and isinstance(error, BrokenPipeError):
            return  # its reader has seen enough
        raise OutputError(f"cannot write {path or 'to standard output'}: {error.strerror}") from error


def _forget_what_is_buffered() -> None:
    """Keep what standard output did not take from raising again when the interpreter closes it."""
    if sys.stdout is not None:
        try:
            sys.stdout.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _descriptor(path: Path) -> int | None:
    """Return which descriptor of ours a name stands for: what it leads to is written to, not replaced.

    `/dev/stdout` may be a log that is appended to.
    """
    standard = {"/dev/stdin": 0, "/dev/stdout": 1, "/dev/stderr": 2}
    found = re.fullmatch(r"/(?:dev|proc/self)/fd/(\d+)", os.fspath(path))
    return int(found[1]) if found else standard.get(os.fspath(path))


def require_writable(path: Path) -> None:
    """Look whether `output` could write a file.

    Raises:
        OutputError: It could not.
    """
    if _descriptor(path) is not None:
        return
    if os.path.isdir(path):
        raise OutputError(f"cannot write {path}: it is a folder")
    if os.path.exists(path) and not os.path.isfile(path):
        writable = os.access(path, os.W_OK)
    else:
        writable = os.access(Path(os.path.realpath(path)).parent, os.W_OK | os.X_OK)
    if not writable:
        raise OutputError(f"cannot write {path}: {path.absolute().parent} is no folder that may be written to")


def write(file: BinaryIO, text: str) -> None:
    """Write text as UTF-8, and file names that are not UTF-8 as the bytes they are."""
    file.write(text.encode("utf-8", "surrogateescape"))
    file.flush()


def columns(rows: Iterable[tuple[str, str]]) -> str:
    """Lay out names and values in two columns."""
    pairs = [(name, printable(value)) for name, value in rows]
    width = max(len(name) for name, _ in pairs)
    return "".join(f"{name:<{width}}  {value}\n" for name, value in pairs)


def as_json(answer: Answer, manifest: Manifest) -> dict[str, Any]:
    """Return an answer as the object that the format `json` shows."""
    facts: dict[str, Any] = {
        "query": answer.query,
        "plan": answer.plan,
        "seconds": round(answer.seconds, 6),
        "index": {
            "generation": manifest.generation,
            "count": manifest.count,
            "encoder": manifest.encoder.name,
        },
    }
    if answer.error is not None:
        return facts | error_facts(answer.error)
    if answer.objects is None:
        return facts | {"hits": [_hit_facts(hit) for hit in answer.hits]}
    return facts | {
        "objects": [
            {
                "box": box_facts(found.box),
                **({} if found.score is None else {"score": round(found.score, 6)}),
                "hits": [_hit_facts(hit) for hit in found.hits],
            }
            for found in answer.objects
        ]
    }


def box_facts(box: Box) -> list[int]:
    """Return a box as JSON shows it: left and upper edge, width and height in pixels of the query."""
    return [box.x, box.y, box.width, box.height]


def _hit_facts(hit: Hit) -> dict[str, Any]:
    facts = {**asdict(hit), "score": round(hit.score, 6), "distance": round(hit.distance, 6)}
    if hit.probability is not None:
        facts["probability"] = round(hit.probability, 6)
    if hit.box is not None:
        facts["box"] = box_facts(hit.box)
    return {name: fact for name, fact in facts.items() if fact is not None}


def error_facts(error: ImgsearchError) -> dict[str, Any]:
    """Return what stands in the place of an answer that there is not."""
    return {"error": {"code": error.exit_code, "message": error.message}}


def _csv_lines(answer: Answer, *, with_boxes: bool) -> Iterator[str]:
    for box, hit in answer.all_hits:
        score, distance = f"{hit.score:.6f}", f"{hit.distance:.6f}"
        more = [] if hit.probability is None else [f"{hit.probability:.6f}"]
        if with_boxes:
            more.append(" ".join(map(str, box_facts(box))) if box else "")
        yield csv_line((answer.query, hit.rank, hit.path, score, distance, hit.product, hit.category, *more))


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


def _table(answer: Answer, manifest: Manifest) -> str:
    head = f"{printable(answer.query)}  ({answer.plan}, {manifest.count} images, {answer.seconds * 1000:.0f} ms)"
    if answer.objects is None:
        return _hit_table(head, answer.hits, manifest)
    if not answer.objects:
        return f"{head}\n  no item stands out\n\n"
    parts = [f"{head}\n"]
    for number, found in enumerate(answer.objects, start=1):
        sure = "" if found.score is None else f", {found.score:.2f} sure"
        parts.append(
            _hit_table(f"item {number} of {len(answer.objects)}  {box_text(found.box)}{sure}", found.hits, manifest)
        )
    return "".join(parts)


def box_text(box: Box) -> str:
    """Say in words where a box is."""
    return f"{box.width} x {box.height} pixels at {box.x},{box.y}"


def _hit_table(head: str, hits: Sequence[Hit], manifest: Manifest) -> str:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    if not hits:
        return f"{head}\n  no image fits\n"
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    # A product's default name is its path without the ending: not worth a column of its own.
    named = any(not hit.path.startswith(hit.product + ".") for hit in hits)
    proved = any(hit.inliers is not None for hit in hits)
    table.add_column("#", justify="right")
    table.add_column("score", justify="right")
    calibrated = manifest.calibration is not None
    if calibrated:
        table.add_column("probability", justify="right")
    if proved:
        table.add_column("inliers", justify="right")
    table.add_column("image", overflow="fold")
    if named:
        table.add_column("product", overflow="fold")
    table.add_column("category", overflow="fold")
    for hit in hits:
        facts = [f"{hit.probability:.2f}"] if calibrated else []
        if proved:
            facts.append("" if hit.inliers is None else str(hit.inliers))
        product = [hit.product] if named else []
        cells = [str(hit.rank), f"{hit.score:.3f}", *facts, hit.path, *product, hit.category]
        table.add_row(*(Text(printable(cell)) for cell in cells))
    return plain_lines(head, table)


def plain_lines(head: str, table: "Table") -> str:
    """Draw a table under a line; with colors and the terminal's width only where there is a terminal."""
    from rich.console import Console

    # Into a pipe or a file: no colors, and wide enough that a path stays on its line.
    terminal = sys.stdout.isatty()
    console = Console(file=io.StringIO(), force_terminal=terminal, width=None if terminal else 120)
    console.print(table)
    assert isinstance(console.file, io.StringIO)
    lines = console.file.getvalue().splitlines()
    return "\n".join([head, *(line.rstrip() for line in lines if line.strip())]) + "\n\n"
