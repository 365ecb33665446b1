"""`imgsearch query`."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from imgsearch.cli.options import DEFAULT_INDEX, IndexOption, QuietOption, VerboseOption

if TYPE_CHECKING:
    from imgsearch.cli.render import Answer
    from imgsearch.index.search import Index


def query(
    images: Annotated[
        list[str],
        typer.Argument(metavar="IMAGE...", help="Pictures; - reads one path a line from standard input."),
    ],
    index: IndexOption = DEFAULT_INDEX,
    top_k: Annotated[int, typer.Option("--top-k", "-k", metavar="K", min=1, help="How many hits at most.")] = 5,
    format_: Annotated[
        Literal["table", "json", "jsonl", "csv", "paths"],
        typer.Option("--format", help="Form of the answer."),
    ] = "table",
    output_file: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="Write there, not to standard output."),
    ] = None,
    where: Annotated[
        str,
        typer.Option(metavar="SQL", help="Only pictures for which this holds: path, product, category, metadata."),
    ] = "",
    min_score: Annotated[
        float | None, typer.Option(metavar="S", help="Only hits with at least this score (cosine, -1 to 1).")
    ] = None,
    exact: Annotated[bool, typer.Option("--exact", help="Compare with every picture; slower, never misses.")] = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Find the catalogue pictures most similar to each picture.

    Several pictures share one start. One that cannot be read is reported, the others are answered, and the exit
    code is 4.

    Examples:

      imgsearch query photo.jpg --top-k 5

      imgsearch query photo.jpg --format json | jq -r '.[0].hits[].path'

      imgsearch query photo.jpg --where "category LIKE 'shoes%' AND metadata->>'price' < 50"

      find new -name '*.jpg' | imgsearch query - --format csv -o answers.csv
    """
    from imgsearch.cli.render import output, render, write
    from imgsearch.cli.terminal import printable, say, set_up_logging
    from imgsearch.index.search import Index

    set_up_logging(quiet=quiet, verbose=verbose)
    exit_code = 0

    def answers(opened: Index) -> Iterator["Answer"]:
        nonlocal exit_code
        for image in _paths(images):
            answer = _answer(opened, image, top_k, where, min_score, exact=exact)
            if answer.error is not None:
                exit_code = answer.error.exit_code
                if format_ not in ("json", "jsonl"):
                    hint = f" ({answer.error.hint})" if answer.error.hint else ""
                    say(printable(f"{image}: {answer.error.message}{hint}"))
            yield answer

    with Index.open(index) as opened, output(output_file) as file:
        for text in render(answers(opened), opened.manifest, format_):
            write(file, text)
    raise typer.Exit(exit_code)


def _answer(index: "Index", image: str, k: int, where: str, min_score: float | None, *, exact: bool) -> "Answer":
    import time

    from imgsearch.cli.render import Answer
    from imgsearch.errors import PictureError

    plan = index.plan(where=where, exact=exact)
    started = time.perf_counter()
    try:
        hits = index.search(image, k, where=where, min_score=min_score, exact=exact)
    except PictureError as error:
        return Answer(image, plan, time.perf_counter() - started, [], error)
    return Answer(image, plan, time.perf_counter() - started, hits)


def _paths(images: list[str]) -> Iterator[str]:
    import os
    import sys

    for image in images:
        if image == "-":
            for line in sys.stdin.buffer:
                if name := line.rstrip(b"\r\n"):
                    yield os.fsdecode(name)
        else:
            yield image
