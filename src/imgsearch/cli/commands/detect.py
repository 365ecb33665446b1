"""`imgsearch detect`."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

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
    from imgsearch.cli.boxes import BoxAnswer
    from imgsearch.search.index import Index


def detect(
    images: ImagesArgument,
    index: IndexOption = DEFAULT_INDEX,
    min_score: Annotated[
        float, typer.Option(metavar="S", min=0, max=1, help="Only boxes that are at least so sure, 0 to 1.")
    ] = 0.3,
    format_: AnswerFormatOption = "table",
    output_file: OutputOption = None,
    null: NullOption = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Say where in each image items are, with the detector of an index; html draws them.

    The detector is one that imgsearch train --objective detect has taught with the catalog, and that build-index
    --detector has put into the index. An image that cannot be read is reported, the others are answered, and the exit
    code is 4. The format paths names the images in which there are items.

    Examples:

      imgsearch detect photo.jpg

      imgsearch detect *.jpg --format html -o boxes.html

      imgsearch detect photo.jpg --format json | jq -c '.[0].boxes[].box'
    """
    from imgsearch.cli.boxes import render_boxes
    from imgsearch.cli.commands.query import paths_of, report_unusable
    from imgsearch.cli.render import output, write
    from imgsearch.cli.terminal import set_up_logging
    from imgsearch.search.index import Index

    set_up_logging(quiet=quiet, verbose=verbose)
    exit_code = 0

    def answers(opened: Index) -> Iterator["BoxAnswer"]:
        nonlocal exit_code
        for image in paths_of(images, b"\0" if null else b"\n"):
            answer = _answer(opened, image, min_score)
            exit_code = report_unusable(answer.query, answer.error, format_) or exit_code
            yield answer

    with Index.open(index) as opened, output(output_file) as file:
        for text in render_boxes(answers(opened), format_, "\0" if null else "\n"):
            write(file, text)
    raise typer.Exit(exit_code)


def _answer(index: "Index", image: str, min_score: float) -> "BoxAnswer":
    import time

    from imgsearch.cli.boxes import BoxAnswer
    from imgsearch.errors import ImageError

    started = time.perf_counter()
    try:
        found = index.detections(image, min_score)
    except ImageError as error:
        return BoxAnswer(image, time.perf_counter() - started, [], error)
    return BoxAnswer(image, time.perf_counter() - started, found)
