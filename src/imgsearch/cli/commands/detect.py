"""`imgsearch detect`."""

from typing import Annotated

import typer

from imgsearch.cli import options


def detect(
    images: options.ImagesArgument,
    index: options.IndexOption = options.DEFAULT_INDEX,
    min_score: Annotated[float, typer.Option(metavar="S", min=0, max=1, help="Minimum score of a box, 0 to 1.")] = 0.3,
    format_: options.AnswerFormatOption = "table",
    output_file: options.OutputOption = None,
    null: options.NullOption = False,
    quiet: options.QuietOption = False,
    verbose: options.VerboseOption = False,
) -> None:
    """Find the items in each image with the index's detector.

    The detector is one that imgsearch train --objective detect has trained on the catalog and that build-index
    --detector has put into the index. An image that cannot be read is reported, the others are answered, and the exit
    code is 4. The format html draws the boxes; paths lists the images in which there are items.

    Examples:

      imgsearch detect photo.jpg

      imgsearch detect *.jpg --format html -o boxes.html

      imgsearch detect photo.jpg --format json | jq -c '.[0].boxes[].box'
    """
    from imgsearch.cli.answers import Call, FoundBoxes
    from imgsearch.cli.loop import answer_images
    from imgsearch.cli.output import refuse_to_harm, set_up_logging
    from imgsearch.search import detect as library
    from imgsearch.search.index import Index
    from imgsearch.search.views import QueryImage

    set_up_logging(quiet=quiet, verbose=verbose)
    with Index.open(index) as opened:
        refuse_to_harm(output_file, index, opened.manifest.catalog, opened.manifest.metadata_file)

        def find(image: str) -> FoundBoxes:
            query = QueryImage.read(image, opened.manifest.policy)
            return FoundBoxes(library.detect(opened, query, min_score=min_score), query)

        call = Call(FoundBoxes.COLUMNS, find, command="detect")
        raise typer.Exit(answer_images(call, images, format_, output_file, null=null))
