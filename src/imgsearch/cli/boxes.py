"""Boxes in the output formats: of `detect`."""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from imgsearch.cli.render import Format, box_facts, csv_line, error_facts, framed, plain_lines
from imgsearch.cli.terminal import printable
from imgsearch.errors import ImgsearchError
from imgsearch.regions.detections import Detection

CSV_COLUMNS = ("query", "rank", "x", "y", "width", "height", "score")


@dataclass(frozen=True, slots=True)
class BoxAnswer:
    """What became of one image: its boxes, the surest first, or the error that kept it from having any."""

    query: str
    seconds: float
    boxes: Sequence[Detection]
    error: ImgsearchError | None = None


def render_boxes(answers: Iterable[BoxAnswer], how: Format, path_end: str = "\n") -> Iterator[str]:
    """Render answers one by one, as they come; as `render.render` does.

    Args:
        answers: Of one call.
        how: The output format. `paths` names the images that have boxes.
        path_end: What follows each path in the format `paths`.

    Yields:
        Text.
    """
    yield from framed((_piece(answer, how, path_end) for answer in answers), how, CSV_COLUMNS)


def _piece(answer: BoxAnswer, how: Format, path_end: str) -> str:
    if how in ("json", "jsonl"):
        return json.dumps(_as_json(answer))
    if how == "csv":
        return "".join(
            csv_line((answer.query, rank, *box_facts(found.box), f"{found.score:.6f}"))
            for rank, found in enumerate(answer.boxes, start=1)
        )
    if how == "paths":
        return answer.query + path_end if answer.boxes else ""
    if how == "html":
        from imgsearch.cli import html

        return html.box_section(answer)
    return _table(answer) if answer.error is None else ""


def _as_json(answer: BoxAnswer) -> dict[str, Any]:
    facts = {"query": answer.query, "seconds": round(answer.seconds, 6)}
    if answer.error is not None:
        return {**facts, **error_facts(answer.error)}
    boxes = [
        {"rank": rank, "box": box_facts(found.box), "score": round(found.score, 6)}
        for rank, found in enumerate(answer.boxes, start=1)
    ]
    return {**facts, "boxes": boxes}


def _table(answer: BoxAnswer) -> str:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    head = f"{printable(answer.query)}  ({answer.seconds * 1000:.0f} ms)"
    if not answer.boxes:
        return f"{head}\n  no item is in it\n"
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for name in ("#", "score", "x", "y", "width", "height"):
        table.add_column(name, justify="right")
    for rank, found in enumerate(answer.boxes, start=1):
        table.add_row(str(rank), f"{found.score:.3f}", *map(str, box_facts(found.box)))
    return plain_lines(head, table)
