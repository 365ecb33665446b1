"""`imgsearch embed`."""

from pathlib import Path
from typing import Annotated

import typer

from imgsearch.cli import options


def embed(
    context: typer.Context,
    catalog: Annotated[Path, typer.Argument(metavar="CATALOG", help="Folder of images, or a list of URLs.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Directory to write.")],
    backbone: options.BackboneOption = None,
    onnx_input: options.OnnxInputOption = None,
    weights: options.WeightsOption = None,
    precision: options.PrecisionOption = None,
    device: options.DeviceOption = None,
    metadata: options.MetadataOption = None,
    metadata_encoding: options.MetadataEncodingOption = None,
    text: options.TextOption = None,
    max_bytes: options.MaxBytesOption = None,
    max_pixels: options.MaxPixelsOption = None,
    damaged: options.DamagedOption = None,
    follow_links: options.FollowLinksOption = None,
    preprocess: options.PreprocessOption = None,
    trim: options.TrimOption = None,
    force: options.ForceOption = False,
    keep_pixels: options.KeepPixelsOption = False,
    max_skipped: options.MaxSkippedOption = None,
    wait_lock: options.WaitLockOption = 0,
    engine: options.EngineOption = "local",
    scheduler: options.SchedulerOption = None,
    quiet: options.QuietOption = False,
    verbose: options.VerboseOption = False,
) -> None:
    """Compute embeddings without building an index.

    Works like build-index: a later run embeds only what is new, an interrupted one goes on. build-index takes
    the directory in place of a folder of images. With --engine dask the workers of a cluster do it, with the same
    result; docs/cluster.md says how to start them.

    A list is a file with one s3://, gs:// or file:// URL a line. Paths are those below the folder that all have in
    common. Stores need the extra urls, and s3fs or gcsfs.

    Examples:

      imgsearch embed ./catalog -o embeddings

      python -c "import numpy; print(numpy.load('embeddings/embeddings.npy').shape)"

      imgsearch build-index embeddings

      imgsearch embed /mnt/catalog -o embeddings --engine dask --scheduler tcp://10.0.0.5:8786

      imgsearch embed urls.txt -o embeddings
    """
    from imgsearch.build import build
    from imgsearch.build.options import EmbedOptions
    from imgsearch.cli.build_report import report_build
    from imgsearch.cli.output import progress_bar, set_up_logging

    set_up_logging(quiet=quiet, verbose=verbose)
    with progress_bar(quiet=quiet) as progress:
        report = build.embed(catalog, output, **options.options_of(context, EmbedOptions), progress=progress)
    raise typer.Exit(report_build(report, output, quiet=quiet, strict=False))
