"""`imgsearch outliers`."""

import os
from typing import TYPE_CHECKING, Annotated

import typer

from imgsearch.cli import options

if TYPE_CHECKING:
    from imgsearch.catalog.outliers import Outliers
    from imgsearch.cli.answers import Section
    from imgsearch.cli.listing import Listing


def outliers(
    index: options.IndexOption = options.DEFAULT_INDEX,
    top_k: Annotated[int, typer.Option("--top-k", "-k", metavar="N", min=1, help="How many at most.")] = 50,
    format_: options.ListingFormatOption = "table",
    output_file: options.OutputOption = None,
    null: options.NullOption = False,
    quiet: options.QuietOption = False,
    verbose: options.VerboseOption = False,
) -> None:
    """Find images that look like those of another category.

    A shoe under hats, for example; the most suspicious first. The nearest neighbors of each image vote for their
    categories. The score says how much more of the votes another category has than its own, and the last column which
    one. Some are no mistakes: look at them.

    Examples:

      imgsearch outliers

      imgsearch outliers --top-k 100 --format html -o outliers.html
    """
    from imgsearch.catalog import outliers as library
    from imgsearch.cli.listing import write_listing
    from imgsearch.cli.output import printable, progress_bar, refuse_to_harm, require_writable, say, set_up_logging
    from imgsearch.store.generations import read_manifest

    set_up_logging(quiet=quiet, verbose=verbose)
    manifest = read_manifest(index)
    refuse_to_harm(output_file, index, manifest.catalog, manifest.metadata_file)
    if output_file is not None:
        require_writable(output_file)
    with progress_bar(quiet=quiet) as progress:
        found = library.outliers(index, top_k=top_k, progress=progress)
    write_listing(_listing(found, manifest.catalog), format_, output_file, null=null)
    if found.alone and not quiet:
        shown = ", ".join(map(printable, found.alone[:10])) + (", ..." if len(found.alone) > 10 else "")
        say(f"not judged: {len(found.alone)} categories with a single image: {shown}")
    if found.without_category and not quiet:
        say(f"not judged: {found.without_category} images without a category")


def _listing(found: "Outliers", catalog: str) -> "Listing":
    from dataclasses import asdict

    from imgsearch.cli.answers import TextTable
    from imgsearch.cli.listing import Listing

    ranked = list(enumerate(found.items, start=1))
    items = [{"rank": rank, **asdict(item)} for rank, item in ranked]
    facts = {"judged": found.judged, "alone": list(found.alone), "without_category": found.without_category}
    rows = [(str(rank), f"{each.score:.3f}", each.path, each.category, each.looks_like) for rank, each in ranked]
    return Listing(
        {**facts, "items": items},
        ("rank", "path", "score", "share", "category", "looks_like", "product"),
        (
            (rank, each.path, f"{each.score:.6f}", f"{each.share:.6f}", each.category, each.looks_like, each.product)
            for rank, each in ranked
        ),
        [TextTable("", ("#", "score", "image", "category", "looks like"), rows)],
        (each.path for each in found.items),
        _sections(found, catalog),
        f"{len(found.items)} of {found.judged} images, the most suspicious first",
        "outliers",
    )


def _sections(found: "Outliers", catalog: str) -> "list[tuple[str, Section]]":
    from imgsearch.cli.answers import Section

    return [
        (
            os.path.join(catalog, item.path),
            Section(message=f"{item.score:.3f}: in {item.category}, looks like {item.looks_like}"),
        )
        for item in found.items
    ]
