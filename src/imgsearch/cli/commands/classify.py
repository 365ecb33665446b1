"""`imgsearch classify`."""

from pathlib import Path
from typing import Annotated

import typer

from imgsearch.cli import options


def classify(
    images: options.ImagesArgument,
    model: Annotated[Path, typer.Option("--model", "-m", metavar="MODEL.keras", help="A model by imgsearch train.")],
    top_k: Annotated[int, typer.Option("--top-k", "-k", metavar="K", min=1, help="Maximum number of classes.")] = 5,
    format_: options.AnswerFormatOption = "table",
    output_file: options.OutputOption = None,
    null: options.NullOption = False,
    quiet: options.QuietOption = False,
    verbose: options.VerboseOption = False,
) -> None:
    """Predict the class of each image with a trained model.

    The first call with a model exports it, which takes some seconds; later ones do not need Keras. An image that
    cannot be read is reported, the others are answered, and the exit code is 4. Without a model, query --vote
    predicts the category of an image from its neighbors in the index.

    Examples:

      imgsearch classify photo.jpg --model shoes.keras

      imgsearch classify *.jpg --model shoes.keras --top-k 1 --format csv
    """
    from imgsearch.cli.answers import Call, FoundClasses
    from imgsearch.cli.loop import answer_images
    from imgsearch.cli.output import refuse_to_replace, set_up_logging
    from imgsearch.encoders import classifier as library

    set_up_logging(quiet=quiet, verbose=verbose)
    refuse_to_replace(output_file, "the model", model)
    opened = library.Classifier.open(model)
    call = Call(
        FoundClasses.COLUMNS,
        lambda image: FoundClasses(library.classify(image, opened, top_k)),
        facts={"seconds": 0, "model": model.name},
        command="classify",
    )
    raise typer.Exit(answer_images(call, images, format_, output_file, null=null))
