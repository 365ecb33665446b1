"""`imgsearch query`."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from imgsearch.cli.options import (
    DEFAULT_INDEX,
    AnswerFormatOption,
    ImagesArgument,
    IndexOption,
    NullOption,
    OutputOption,
    QuietOption,
    VerboseOption,
)

if TYPE_CHECKING:
    from imgsearch.cli.classes import ClassAnswer
    from imgsearch.cli.render import Answer
    from imgsearch.errors import ImgsearchError
    from imgsearch.images.boxes import Box
    from imgsearch.search.index import Index
    from imgsearch.search.views import Regions


def query(
    images: ImagesArgument,
    index: IndexOption = DEFAULT_INDEX,
    top_k: Annotated[int, typer.Option("--top-k", "-k", metavar="K", min=1, help="How many hits at most.")] = 5,
    format_: AnswerFormatOption = "table",
    output_file: OutputOption = None,
    where: Annotated[
        str,
        typer.Option(metavar="SQL", help="Only images for which this holds: path, product, category, metadata."),
    ] = "",
    min_score: Annotated[
        float | None, typer.Option(metavar="S", help="Only hits with at least this score (cosine, -1 to 1).")
    ] = None,
    min_probability: Annotated[
        float | None,
        typer.Option(
            metavar="P",
            min=0,
            max=1,
            help="Only hits that are right with at least this probability; see evaluate --calibrate.",
        ),
    ] = None,
    exact: Annotated[bool, typer.Option("--exact", help="Compare with every image; slower, never misses.")] = False,
    regions: Annotated[
        str,
        typer.Option(
            metavar="auto|whole|N",
            help="Look at parts of a photo, too: at what stands out, at none, or at N of them.",
        ),
    ] = "auto",
    box: Annotated[
        str | None, typer.Option(metavar="X,Y,W,H", help="Look at this part alone, in pixels of the image.")
    ] = None,
    objects: Annotated[
        bool, typer.Option("--objects", help="Answer for each item in the image by itself, in reading order.")
    ] = False,
    rerank: Annotated[
        Literal["geometric"] | None,
        typer.Option(help="Put first what has the same points in the same places; slower, and sure of itself."),
    ] = None,
    vote: Annotated[
        bool,
        typer.Option("--vote", help="Say the category: the hits vote, the nearer with more weight. Try --top-k 20."),
    ] = False,
    null: NullOption = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Find the catalog images most similar to each image.

    Several images share one start. One that cannot be read is reported, the others are answered, and the exit
    code is 4. So is one that the box does not lie in; the exit code is 2 then.

    Examples:

      imgsearch query photo.jpg --top-k 5

      imgsearch query *.jpg --format html -o answers.html

      imgsearch query photo.jpg --format json | jq -r '.[0].hits[].path'

      imgsearch query photo.jpg --where "category LIKE 'shoes%' AND metadata->>'price' < 50"

      imgsearch query photo.jpg --vote --top-k 20

      imgsearch query table.jpg --objects --format html -o table.html

      imgsearch query photo.jpg --box 120,80,300,300

      find new -name '*.jpg' -print0 | imgsearch query - -0 --format csv -o answers.csv
    """
    from imgsearch.cli.backend_trial import require_backend

    require_backend(index, exact=exact or bool(where))

    from imgsearch.cli.classes import render_classes
    from imgsearch.cli.render import output, render, write
    from imgsearch.cli.terminal import set_up_logging
    from imgsearch.search.index import Index

    set_up_logging(quiet=quiet, verbose=verbose)
    question = Question(
        top_k,
        where=where,
        min_score=min_score,
        min_probability=min_probability,
        exact=exact,
        regions=_regions(regions),
        box=_box(box),
        objects=objects,
        rerank=rerank is not None,
        draws=format_ == "html",
    )
    _refuse_what_contradicts(question, regions, vote=vote)
    exit_code = 0

    def answers(opened: Index) -> Iterator["Answer"]:
        nonlocal exit_code
        for image in paths_of(images, b"\0" if null else b"\n"):
            answer = _answer(opened, image, question)
            exit_code = max(exit_code, report_unusable(image, answer.error, format_))
            yield answer

    with Index.open(index) as opened, output(output_file) as file:
        end = "\0" if null else "\n"
        if vote:
            texts = render_classes((_voted(answer, opened) for answer in answers(opened)), format_, end)
        else:
            texts = render(answers(opened), opened.manifest, format_, end, with_boxes=objects)
        for text in texts:
            write(file, text)
    raise typer.Exit(exit_code)


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked of each image: the parameters of `Index.search`, and how it is to be shown."""

    k: int
    where: str
    min_score: float | None
    min_probability: float | None
    exact: bool
    regions: "Regions"
    box: "Box | None"
    objects: bool
    rerank: bool
    draws: bool


def _regions(text: str) -> "Regions":
    from imgsearch.errors import UsageError
    from imgsearch.search.views import MOST_REGIONS

    if text == "auto":
        return "auto"
    if text == "whole":
        return "whole"
    if text.isascii() and text.isdecimal() and len(text) < 10:
        return int(text)
    raise UsageError(f"expected --regions auto, whole or 1 to {MOST_REGIONS}, found {text!r}")


def _box(text: str | None) -> "Box | None":
    from imgsearch.errors import UsageError
    from imgsearch.images.boxes import Box

    if text is None:
        return None
    numbers = text.split(",")
    if len(numbers) == 4 and all(
        number.strip().isascii() and number.strip().isdecimal() and len(number) < 10 for number in numbers
    ):
        box = Box(*map(int, numbers))
        if box.area:
            return box
    raise UsageError(f"expected --box X,Y,W,H in whole pixels, found {text!r}", hint="for example --box 120,80,300,300")


def _refuse_what_contradicts(question: Question, regions: str, *, vote: bool) -> None:
    from imgsearch.errors import UsageError

    chosen = {
        "--regions": regions != "auto",
        "--box": question.box is not None,
        "--objects": question.objects,
    }
    given = [name for name, is_given in chosen.items() if is_given]
    if len(given) > 1:
        raise UsageError(f"expected one of {' and '.join(given)}, for each says where to look")
    if vote and question.objects:
        raise UsageError("expected --vote or --objects, found both", hint="a vote is about an image as a whole")


def _answer(index: "Index", image: str, question: Question) -> "Answer":
    import time

    from imgsearch.cli.render import Answer
    from imgsearch.errors import BoxError, ImageError

    plan = index.plan(where=question.where, exact=question.exact)
    started = time.perf_counter()
    conditions: Any = {
        name: getattr(question, name) for name in ("where", "min_score", "min_probability", "exact", "rerank")
    }
    hits, objects = [], None
    try:
        if question.objects:
            objects = index.search_objects(image, question.k, **conditions)
        else:
            hits = index.search(image, question.k, regions=question.regions, box=question.box, **conditions)
        seconds = time.perf_counter() - started
        answer = Answer(image, plan, seconds, hits, objects=objects)
        if question.draws and question.rerank:
            matches = {(hit.path, hit.box): index.drawn_matches(image, hit) for _, hit in answer.all_hits}
            answer = replace(answer, matches={place: drawn for place, drawn in matches.items() if drawn is not None})
    except (ImageError, BoxError) as error:
        return Answer(image, plan, time.perf_counter() - started, [], error)
    return answer


def _voted(answer: "Answer", index: "Index") -> "ClassAnswer":
    from imgsearch.cli.classes import ClassAnswer
    from imgsearch.cli.render import as_json
    from imgsearch.search.vote import vote

    return ClassAnswer(
        answer.query, answer.seconds, vote(answer.hits), answer.error, facts=as_json(answer, index.manifest)
    )


def report_unusable(image: str, error: "ImgsearchError | None", how: str) -> int:
    """Name an image that cannot be used on standard error, unless the format names it itself.

    Args:
        image: As the user gave it.
        error: What is wrong with it, if anything.
        how: The output format.

    Returns:
        The exit code for it; 0 if nothing is wrong.
    """
    from imgsearch.cli.terminal import printable, say

    if error is None:
        return 0
    if how not in ("json", "jsonl"):
        hint = f" ({error.hint})" if error.hint else ""
        say(printable(f"{image}: {error.message}{hint}"))
    return error.exit_code


def paths_of(images: list[str], end: bytes) -> Iterator[str]:
    """Yield the images that are asked for: as they are, and those named on standard input where there is `-`.

    Args:
        images: What the user gave.
        end: What ends each name on standard input.

    Yields:
        File names; bytes that are not UTF-8 as `os.fsdecode` gives them.
    """
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
