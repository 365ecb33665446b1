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
        Literal["table", "json", "jsonl", "csv", "paths", "html"],
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
    null: Annotated[
        bool, typer.Option("--null", "-0", help="End paths with NUL, not a line break: those read, and those written.")
    ] = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Find the catalogue pictures most similar to each picture.

    Several pictures share one start. One that cannot be read is reported, the others are answered, and the exit
    code is 4.

    Examples:

      imgsearch query photo.jpg --top-k 5

      imgsearch query *.jpg --format html -o answers.html

      imgsearch query photo.jpg --format json | jq -r '.[0].hits[].path'

      imgsearch query photo.jpg --where "category LIKE 'shoes%' AND metadata->>'price' < 50"

      find new -name '*.jpg' -print0 | imgsearch query - -0 --format csv -o answers.csv
    """
    _require_backend(index, exact=exact or bool(where))

    from imgsearch.cli.render import output, render, write
    from imgsearch.cli.terminal import printable, say, set_up_logging
    from imgsearch.index.search import Index

    set_up_logging(quiet=quiet, verbose=verbose)
    exit_code = 0

    def answers(opened: Index) -> Iterator["Answer"]:
        nonlocal exit_code
        for image in _paths(images, b"\0" if null else b"\n"):
            answer = _answer(opened, image, top_k, where, min_score, exact=exact)
            if answer.error is not None:
                exit_code = answer.error.exit_code
                if format_ not in ("json", "jsonl"):
                    hint = f" ({answer.error.hint})" if answer.error.hint else ""
                    say(printable(f"{image}: {answer.error.message}{hint}"))
            yield answer

    with Index.open(index) as opened, output(output_file) as file:
        for text in render(answers(opened), opened.manifest, format_, "\0" if null else "\n"):
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


def _require_backend(index: Path, *, exact: bool) -> None:
    """Try Annoy if the index needs it; before threads are started, which do not go with a fork."""
    from imgsearch.cli.self_test import require_annoy
    from imgsearch.index.store import read_manifest

    backend = read_manifest(index).backend
    if backend is not None and backend.name == "annoy" and not exact:
        require_annoy()


def _paths(images: list[str], end: bytes) -> Iterator[str]:
    import os

    for image in images:
        if image != "-":
            yield image
            continue
        rest = b""
        while part := os.read(0, 1 << 16):
            *whole, rest = (rest + part).split(end)
            yield from _named(whole, end)
        yield from _named([rest], end)


def _named(names: list[bytes], end: bytes) -> Iterator[str]:
    import os

    for name in names:
        if exact := name if end == b"\0" else name.removesuffix(b"\r"):
            yield os.fsdecode(exact)
