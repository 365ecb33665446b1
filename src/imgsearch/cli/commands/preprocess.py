"""`imgsearch preprocess`."""

import os
from pathlib import Path
from typing import Annotated, Literal

import typer

from imgsearch.cli import options


def preprocess(
    source: Annotated[Path, typer.Argument(metavar="SRC", help="Folder of images; never changed.")],
    destination: Annotated[
        Path, typer.Argument(metavar="DST", help="Output folder: new, empty, or of an earlier run.")
    ],
    size: Annotated[
        int | None,
        typer.Option(metavar="N", help="Side of the square output in pixels. [default: the size of each image]"),
    ] = None,
    fit: Annotated[
        Literal["pad", "crop", "stretch"],
        typer.Option(help="With --size: pad with white, crop to the center, or stretch."),
    ] = "pad",
    grayscale: Annotated[bool, typer.Option("--grayscale", help="Convert to grayscale.")] = False,
    binarize: Annotated[
        str,
        typer.Option(
            metavar="otsu|adaptive|0..255",
            help="Convert to black and white, with a method or a threshold.",
            show_default=False,
        ),
    ] = "",
    denoise: Annotated[bool, typer.Option("--denoise", help="Reduce noise, preserve edges.")] = False,
    equalize: Annotated[bool, typer.Option("--equalize", help="Equalize the contrast locally (CLAHE).")] = False,
    deskew: Annotated[bool, typer.Option("--deskew", help="Straighten images tilted by up to 20 degrees.")] = False,
    rotate: Annotated[
        float, typer.Option(metavar="DEG", help="Rotate by -180 to 180 degrees counterclockwise, on white.")
    ] = 0.0,
    crop_foreground: Annotated[
        bool, typer.Option("--crop-foreground", help="Crop the plain background around the item.")
    ] = False,
    augment: Annotated[int, typer.Option(metavar="N", help="Add N randomly augmented copies of each image.")] = 0,
    to: Annotated[
        Literal["png", "jpg", "webp", "npy"],
        typer.Option(help="Output format; npy: uint8 RGB of shape (height, width, 3)."),
    ] = "png",
    jobs: Annotated[
        int | None, typer.Option(metavar="N", help="Number of processes. [default: one per processor]")
    ] = None,
    seed: Annotated[int, typer.Option(metavar="N", help="Random seed of the copies.")] = 0,
    strict: options.StrictOption = False,
    quiet: options.QuietOption = False,
    verbose: options.VerboseOption = False,
) -> None:
    """Prepare a folder of images: resize, clean, augment.

    The folder tree is kept. Steps are done in a fixed order, whatever the order of the options: crop the foreground,
    deskew, rotate, denoise, equalize, grayscale, binarize, and then fit. A later run makes only what is new or
    changed, or everything if the options have changed. Outputs of files that are gone are counted, not deleted.

    Examples:

      imgsearch preprocess ./photos ./clean --size 512 --crop-foreground --to jpg

      imgsearch preprocess ./scans ./pages --deskew --denoise --binarize otsu

      imgsearch preprocess ./catalog ./training --size 96 --augment 5 --seed 1

    Exit codes: 0 done, 3 done but files were rejected that were not before, 7 another run writes to DST, 9 refused
    because there is no image in SRC, 11 no space. docs/cron.md has them all.
    """
    from imgsearch.cli.output import (
        REJECTED_EXIT_CODE,
        print_text,
        printable,
        progress_bar,
        say_rejects,
        set_up_logging,
    )
    from imgsearch.images.steps import Steps
    from imgsearch.preprocessing import preprocess as library

    set_up_logging(quiet=quiet, verbose=verbose)
    steps = Steps(crop_foreground, deskew, rotate, denoise, equalize, grayscale, binarize)
    with progress_bar(quiet=quiet) as progress:
        report = library.preprocess(
            source,
            destination,
            size=size,
            fit=fit,
            steps=steps,
            augment=augment,
            to=to,
            jobs=jobs,
            seed=seed,
            progress=progress,
        )
    if not quiet:
        say_rejects(report.new_rejects, "")
        rejected = f", {report.rejected} rejected" if report.rejected else ""
        left_over = f", {report.left_over} files left over from images that are gone" if report.left_over else ""
        print_text(
            f"{printable(os.fspath(destination))}: {report.written + report.unchanged} images: {report.written} made,"
            f" {report.unchanged} unchanged{rejected}{left_over} ({report.seconds:.1f} s)\n"
        )
    counts = report.rejected if strict else len(report.new_rejects)
    raise typer.Exit(REJECTED_EXIT_CODE if counts else 0)
