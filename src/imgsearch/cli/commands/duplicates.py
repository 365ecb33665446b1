"""`imgsearch duplicates`."""

import os
from typing import TYPE_CHECKING, Annotated

import typer

from imgsearch.cli import options

if TYPE_CHECKING:
    from imgsearch.catalog.duplicates import Duplicate, DuplicateGroup, Duplicates
    from imgsearch.cli.answers import Section, TextTable
    from imgsearch.cli.listing import Listing


def duplicates(
    index: options.IndexOption = options.DEFAULT_INDEX,
    min_score: Annotated[
        float | None,
        typer.Option(
            metavar="S",
            min=-1,
            max=1,
            help="Compare the pixels of pairs with at least this cosine. [default: by the calibration, or 0.3]",
        ),
    ] = None,
    fail_if_any: Annotated[bool, typer.Option("--fail-if-any", help="Exit 10 if there are duplicates.")] = False,
    format_: options.ListingFormatOption = "table",
    output_file: options.OutputOption = None,
    preview: options.PreviewOption = False,
    null: options.NullOption = False,
    quiet: options.QuietOption = False,
    verbose: options.VerboseOption = False,
) -> None:
    """Find equal and near-equal images, and say which to keep.

    Near-equal are images that were resized, recompressed, cropped a little, mirrored, or laid on another background.
    In each group the one to keep comes first: that with the most pixels, then the most bytes. The format paths lists
    the others, one a line; html shows them side by side.

    Examples:

      imgsearch duplicates

      imgsearch duplicates --format html -o duplicates.html

      imgsearch duplicates --fail-if-any --quiet

    Exit codes: 0 done, 10 there are duplicates and --fail-if-any was given.
    """
    from imgsearch.catalog import duplicates as library
    from imgsearch.cli.listing import write_listing
    from imgsearch.cli.output import progress_bar, refuse_to_harm, require_writable, say, set_up_logging
    from imgsearch.errors import GateError
    from imgsearch.store.generations import read_manifest

    set_up_logging(quiet=quiet, verbose=verbose)
    if preview:
        from imgsearch.cli.terminal import require_preview

        require_preview(format_, output_file)
    manifest = read_manifest(index)
    refuse_to_harm(output_file, index, manifest.catalog, manifest.metadata_file)
    if output_file is not None:
        require_writable(output_file)
    with progress_bar(quiet=quiet) as progress:
        found = library.duplicates(index, min_score=min_score, progress=progress)
    write_listing(_listing(found, manifest.catalog), format_, output_file, null=null, preview=preview)
    if found.unverified and not quiet:
        say(
            f"{found.unverified} of {found.candidates} pairs were not compared: an image is not in {manifest.catalog}"
            " as it was indexed, or is of a kind that cannot be compared"
        )
    if fail_if_any and found.groups:
        raise GateError(_summary(found), hint="imgsearch duplicates --format html -o duplicates.html shows them")


def _summary(found: "Duplicates") -> str:
    others = sum(len(group.items) - 1 for group in found.groups)
    shared = sum(group.products_differ for group in found.groups)
    return f"{others} duplicates in {len(found.groups)} groups" + (
        f", {shared} of them of several products" if shared else ""
    )


def _listing(found: "Duplicates", catalog: str) -> "Listing":
    from imgsearch.cli.listing import Listing

    columns = ("group", "path", "how", "score", "width", "height", "bytes", "product", "category", "products_differ")
    return Listing(
        {
            "min_score": round(found.min_score, 6),
            "candidates": found.candidates,
            "unverified": found.unverified,
            "groups": [_facts(group) for group in found.groups],
        },
        columns,
        (
            (
                *(number, item.path, item.how, f"{item.score:.6f}", item.width, item.height, item.bytes),
                *(item.product, item.category, int(group.products_differ)),
            )
            for number, group in enumerate(found.groups, start=1)
            for item in group.items
        ),
        (_table(number, group) for number, group in enumerate(found.groups, start=1)),
        (item.path for group in found.groups for item in group.items[1:]),
        ((os.path.join(catalog, group.items[0].path), _section(group, catalog)) for group in found.groups),
        _summary(found),
        "duplicates",
    )


def _facts(group: "DuplicateGroup") -> dict[str, object]:
    from dataclasses import asdict

    items = [{**asdict(item), "score": round(item.score, 6)} for item in group.items]
    return {"products_differ": group.products_differ, "items": items}


def _table(number: int, group: "DuplicateGroup") -> "TextTable":
    from imgsearch.cli.answers import TextTable

    note = "  (products differ)" if group.products_differ else ""
    rows = [(item.path, item.how, f"{item.score:.3f}", _size(item), str(item.bytes)) for item in group.items]
    return TextTable(f"group {number}{note}", ("image", "like", "score", "pixels", "bytes"), rows)


def _section(group: "DuplicateGroup", catalog: str) -> "Section":
    from imgsearch.cli.answers import Entry, Section

    entries = [
        Entry(item.how, item.path, note=f"{_size(item)} ", file=os.path.join(catalog, item.path))
        for item in group.items[1:]
    ]
    return Section((), entries, "products differ" if group.products_differ else "", role="kept")


def _size(item: "Duplicate") -> str:
    return f"{item.width} x {item.height}" if item.width else "unknown"
