"""`imgsearch build-index`."""

from pathlib import Path
from typing import Annotated

import typer

from imgsearch.cli import options


def build_index(
    context: typer.Context,
    catalog: Annotated[
        Path, typer.Argument(metavar="CATALOG", help="Folder of images, list of URLs, or what embed wrote.")
    ],
    index: options.IndexOption = options.DEFAULT_INDEX,
    backbone: options.BackboneOption = None,
    detector: Annotated[
        str | None,
        typer.Option(
            metavar="FILE.keras",
            help="Detector that finds items in photos, made by train --objective detect; none: no detector."
            " [default: as the index, or none]",
        ),
    ] = None,
    onnx_input: options.OnnxInputOption = None,
    weights: options.WeightsOption = None,
    precision: options.PrecisionOption = None,
    device: options.DeviceOption = None,
    backend: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|ADDRESS",
            help="Search backend: annoy, exact, faiss or faiss-codes (an extra), auto, the faster of annoy and exact,"
            " or a server: postgresql://HOST/DB, milvus://HOST:PORT (extras). It resets --trees. [default: as the"
            " index, or auto]",
        ),
    ] = None,
    trees: Annotated[
        int | None,
        typer.Option(metavar="N", help="Trees of the Annoy forest. [default: as the index, or what tuning finds]"),
    ] = None,
    seed: Annotated[int | None, typer.Option(metavar="N", help="Random seed. [default: as the index, or 0]")] = None,
    target_recall: Annotated[
        float | None,
        typer.Option(
            metavar="R", help="Recall of the ten nearest to tune the search for. [default: as the index, or 0.99]"
        ),
    ] = None,
    memory_budget: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE",
            help="Memory that a process that answers queries by images may come to hold, such as 1GB: if that is too"
            " little for whole vectors, they are searched by codes (--backend faiss-codes); none: no limit."
            " [default: as the index, or none]",
        ),
    ] = None,
    metadata: options.MetadataOption = None,
    metadata_encoding: options.MetadataEncodingOption = None,
    text: options.TextOption = None,
    max_bytes: options.MaxBytesOption = None,
    max_pixels: options.MaxPixelsOption = None,
    damaged: options.DamagedOption = None,
    follow_links: options.FollowLinksOption = None,
    preprocess: options.PreprocessOption = None,
    trim: options.TrimOption = None,
    adapt: Annotated[
        bool | None,
        typer.Option(
            "--adapt/--no-adapt",
            help="Learn the projection from photo-like variants of the catalog's images, if that helps."
            " [default: as the index, or --adapt with a new detector]",
        ),
    ] = None,
    relearn: Annotated[
        bool,
        typer.Option("--relearn", help="Learn the projection, visual words and int8 again; scores change a little."),
    ] = False,
    strict: options.StrictOption = False,
    force: options.ForceOption = False,
    keep_pixels: options.KeepPixelsOption = False,
    max_skipped: options.MaxSkippedOption = None,
    wait_lock: options.WaitLockOption = 0,
    report_file: Annotated[
        Path | None, typer.Option("--report", metavar="FILE", help="Write a report to FILE, as a JSON object.")
    ] = None,
    quiet: options.QuietOption = False,
    verbose: options.VerboseOption = False,
) -> None:
    """Create or update the index of a folder of images.

    Only new and changed images are embedded; renamed ones keep their embedding, deleted ones leave. Options
    are remembered: a later run without them does the same again. Interrupt it whenever you like: the old index
    answers until the new one is whole, and the next run goes on.

    Examples:

      imgsearch build-index ./catalog

      imgsearch build-index ./catalog --index /srv/shop.idx --metadata products.csv

      imgsearch build-index ./catalog --adapt

      imgsearch build-index ./catalog --backbone vgg16 --weights vgg16_notop.h5

      imgsearch build-index ./catalog --backbone shoes.keras

      imgsearch build-index ./catalog --backbone dinov2/model.onnx

      imgsearch build-index ./catalog --detector items.keras

    Exit codes: 0 done, 3 done but files were rejected that were not before, 7 another build is running,
    9 refused because most of the catalog has vanished, 10 int8 would lose too much, 11 no space. docs/cron.md has
    them all.
    """
    from imgsearch.build import build
    from imgsearch.build.options import BuildOptions
    from imgsearch.cli.build_report import ReportFile, report_build
    from imgsearch.cli.output import progress_bar, refuse_to_harm, set_up_logging

    set_up_logging(quiet=quiet, verbose=verbose)
    refuse_to_harm(report_file, index, catalog, metadata)
    writer = ReportFile(report_file)
    with writer.of_failures():
        with progress_bar(quiet=quiet) as progress:
            report = build.build_index(catalog, index, **options.options_of(context, BuildOptions), progress=progress)
        exit_code = report_build(report, index, quiet=quiet, strict=strict)
        writer.write(report, index, exit_code)
    raise typer.Exit(exit_code)
