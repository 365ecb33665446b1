"""`imgsearch classify`."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from imgsearch.cli.options import (
    AnswerFormatOption,
    ImagesArgument,
    NullOption,
    OutputOption,
    QuietOption,
    VerboseOption,
)

if TYPE_CHECKING:
    from imgsearch.cli.classes import ClassAnswer
    from imgsearch.encoders.classifier import Classifier


def classify(
    images: ImagesArgument,
    model: Annotated[Path, typer.Option("--model", "-m", metavar="MODEL.keras", help="What imgsearch train wrote.")],
    top_k: Annotated[int, typer.Option("--top-k", "-k", metavar="K", min=1, help="How many classes at most.")] = 5,
    format_: AnswerFormatOption = "table",
    output_file: OutputOption = None,
    null: NullOption = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Say what class each image is of, with a model that imgsearch train wrote.

    The first call with a model exports it, which takes some seconds; later ones do not need Keras. An image that
    cannot be read is reported, the others are answered, and the exit code is 4. Without a model, query --vote names
    the category of an image by its neighbors in the index.

    Examples:

      imgsearch classify photo.jpg --model shoes.keras

      imgsearch classify *.jpg --model shoes.keras --top-k 1 --format csv
    """
    from imgsearch.cli.classes import render_classes
    from imgsearch.cli.commands.query import paths_of, report_unusable
    from imgsearch.cli.render import output, write
    from imgsearch.cli.terminal import set_up_logging
    from imgsearch.encoders.classifier import Classifier

    set_up_logging(quiet=quiet, verbose=verbose)
    exit_code = 0
    classifier = Classifier.open(model)

    def answers() -> Iterator["ClassAnswer"]:
        nonlocal exit_code
        for image in paths_of(images, b"\0" if null else b"\n"):
            answer = _answer(classifier, image, top_k, model)
            exit_code = report_unusable(answer.query, answer.error, format_) or exit_code
            yield answer

    with output(output_file) as file:
        for text in render_classes(answers(), format_, "\0" if null else "\n"):
            write(file, text)
    raise typer.Exit(exit_code)


def _answer(classifier: "Classifier", image: str, k: int, model: Path) -> "ClassAnswer":
    import time

    from imgsearch.cli.classes import ClassAnswer
    from imgsearch.errors import ImageError

    started = time.perf_counter()
    try:
        classes = classifier.classify(image, k)
    except ImageError as error:
        return ClassAnswer(image, time.perf_counter() - started, [], error, facts={"model": model.name})
    return ClassAnswer(image, time.perf_counter() - started, classes, facts={"model": model.name})
