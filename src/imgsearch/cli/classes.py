"""Classes in the output formats: of `classify`, and of `query --vote`."""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from imgsearch.cli.render import Format, csv_line, error_facts, framed, plain_lines
from imgsearch.cli.terminal import printable
from imgsearch.encoders.classifier import ClassProbability
from imgsearch.errors import ImgsearchError

CSV_COLUMNS = ("query", "rank", "class", "probability")


@dataclass(frozen=True, slots=True)
class ClassAnswer:
    """What became of one image: its classes, or the error that kept it from having any.

    Attributes:
        query: As the user gave it.
        seconds: How long it took.
        classes: Best first.
        error: What went wrong, if anything.
        facts: What formats for programs say besides.
    """

    query: str
    seconds: float
    classes: Sequence[ClassProbability]
    error: ImgsearchError | None = None
    facts: dict[str, Any] = field(default_factory=dict)


def render_classes(answers: Iterable[ClassAnswer], how: Format, path_end: str = "\n") -> Iterator[str]:
    """Render answers one by one, as they come; as `render.render` does.

    Args:
        answers: Of one call.
        how: The output format. `paths` gives the first class of each image.
        path_end: What follows each class in the format `paths`.

    Yields:
        Text.
    """
    yield from framed((_piece(answer, how, path_end) for answer in answers), how, CSV_COLUMNS)


def _piece(answer: ClassAnswer, how: Format, path_end: str) -> str:
    if how in ("json", "jsonl"):
        return json.dumps(_as_json(answer))
    if how == "csv":
        return "".join(
            csv_line((answer.query, found.rank, found.label, f"{found.probability:.6f}")) for found in answer.classes
        )
    if how == "paths":
        return "".join(found.label + path_end for found in answer.classes[:1])
    if how == "html":
        from imgsearch.cli import html

        return html.class_section(answer)
    return _table(answer) if answer.error is None else ""


def _as_json(answer: ClassAnswer) -> dict[str, Any]:
    facts = {"query": answer.query, "seconds": round(answer.seconds, 6), **answer.facts}
    if answer.error is not None:
        return {**facts, **error_facts(answer.error)}
    classes = [
        {"rank": found.rank, "class": found.label, "probability": round(found.probability, 6)}
        for found in answer.classes
    ]
    return {**facts, "classes": classes}


def _table(answer: ClassAnswer) -> str:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    head = f"{printable(answer.query)}  ({answer.seconds * 1000:.0f} ms)"
    if not answer.classes:
        return f"{head}\n  no image fits\n"
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("#", justify="right")
    table.add_column("probability", justify="right")
    table.add_column("class", overflow="fold")
    for found in answer.classes:
        table.add_row(str(found.rank), f"{found.probability:.3f}", Text(printable(found.label)))
    return plain_lines(head, table)
