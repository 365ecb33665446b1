"""`imgsearch neighbors`."""

import itertools
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from imgsearch.cli import options

if TYPE_CHECKING:
    from imgsearch.catalog.neighbors import Neighbors
    from imgsearch.cli.answers import Section

_SHOWN = 5


def neighbors(
    output_file: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", help="Where to write: .jsonl, .csv or .sqlite.")
    ],
    index: options.IndexOption = options.DEFAULT_INDEX,
    top_k: Annotated[
        int, typer.Option("--top-k", "-k", metavar="N", min=1, max=1000, help="How many neighbors each.")
    ] = 10,
    by: Annotated[
        Literal["item", "product"], typer.Option(help="Whose neighbors: of every item, or of every product.")
    ] = "item",
    since: Annotated[
        int | None,
        typer.Option(
            metavar="GENERATION", min=1, help="Write only the lists that differ from those of this generation."
        ),
    ] = None,
    preview: Annotated[
        bool, typer.Option("--preview", help=f"Also show the first {_SHOWN} lists, of items, in the terminal.")
    ] = False,
    quiet: options.QuietOption = False,
    verbose: options.VerboseOption = False,
) -> None:
    """Write the neighbors of every item, or product, to a file.

    Every pair is compared, in bounded memory. The file appears when it is whole. A run that was interrupted goes on
    where it was: what it has computed is in a file beside the output until then.

    Examples:

      imgsearch neighbors -o neighbors.sqlite

      imgsearch neighbors --top-k 50 --by product -o similar.jsonl

      imgsearch neighbors --since 41 -o changed.jsonl
    """
    from imgsearch.catalog import neighbors as library
    from imgsearch.cli.neighbor_files import require_kind, write_neighbors
    from imgsearch.cli.output import (
        print_text,
        printable,
        progress_bar,
        refuse_to_harm,
        require_writable,
        set_up_logging,
    )
    from imgsearch.errors import UsageError
    from imgsearch.store.generations import read_manifest

    set_up_logging(quiet=quiet, verbose=verbose)
    require_kind(output_file)
    if preview:
        from imgsearch.cli.terminal import require_colors

        if by == "product":
            raise UsageError("--preview and --by product cannot be combined", hint="it shows images, so lists of items")
        require_colors("imgsearch query --item PATH --format html -o answers.html makes a page with the images in it")
    manifest = read_manifest(index)
    refuse_to_harm(output_file, index, manifest.catalog, manifest.metadata_file)
    require_writable(output_file)
    with progress_bar(quiet=quiet) as progress:
        work = library.work_file(output_file)
        found = library.neighbors(index, top_k=top_k, by=by, since=since, work=work, progress=progress)
        first = list(itertools.islice(found, _SHOWN if preview else 0))
        count = write_neighbors(output_file, itertools.chain(first, found), by)
    if not quiet:
        print_text(f"{printable(str(output_file))}: {count} lists\n")
    if preview:
        from imgsearch.cli.terminal import section, this_terminal

        for each in first:
            image = os.path.join(manifest.catalog, each.name)
            print_text(section(image, _section(each, manifest.catalog), this_terminal()))


def _section(found: "Neighbors", catalog: str) -> "Section":
    from imgsearch.cli.answers import Entry, Section

    return Section(
        entries=[
            Entry(f"{other.score:.3f}", other.name, rank, file=os.path.join(catalog, other.name))
            for rank, other in enumerate(found.neighbors, start=1)
        ],
        role="item",
    )
