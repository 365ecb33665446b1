"""`imgsearch train`."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from imgsearch.cli import options

if TYPE_CHECKING:
    from imgsearch.training.report import TrainReport


def train(
    context: typer.Context,
    dataset: Annotated[
        Path, typer.Argument(metavar="DATASET", help="A folder per class; or train/ and val/ with these.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="MODEL.keras", help="The model to write.")],
    architecture: Annotated[
        str | None,
        typer.Option(
            "--architecture",
            "-a",
            metavar="NAME",
            help="cnn, or an encoder of imgsearch models. [default: efficientnet-lite0; to adapt and to detect,"
            " lite0-retrieval]",
        ),
    ] = None,
    objective: Annotated[
        Literal["classify", "metric", "adapt", "detect"],
        typer.Option(
            help="Tell classes apart, bring images of a class together, adapt to unlabeled images, or find items in"
            " photos."
        ),
    ] = "classify",
    loss: Annotated[
        Literal["arcface", "contrastive", "nt-xent", "triplet"] | None,
        typer.Option(help="Loss for --objective metric. [default: arcface]"),
    ] = None,
    labels: Annotated[
        Path | None, typer.Option(metavar="FILE.csv", help="Columns path and label, in place of a folder per class.")
    ] = None,
    backgrounds: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Photos without items, for --objective detect. [default: drawn ones]"),
    ] = None,
    size: Annotated[
        int | None,
        typer.Option(metavar="N", help="Side of the images in pixels. [default: the backbone's, or 96 for cnn]"),
    ] = None,
    dims: Annotated[int | None, typer.Option(metavar="N", help="Length of the embedding. [default: 256]")] = None,
    weights: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Weights for a backbone of keras.applications, such as vgg16.")
    ] = None,
    validation: Annotated[
        float | None,
        typer.Option(metavar="SHARE", help="Share of each class to hold out if there is no val/. [default: 0.1]"),
    ] = None,
    epochs: Annotated[
        int | None,
        typer.Option(metavar="N", help="Maximum number. [default: 40; 24 for cnn; 16 for detect; 15 for adapt]"),
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(metavar="N", help="Images in a batch. [default: 64; 128 for cnn and adapt; 16 for detect]"),
    ] = None,
    learning_rate: Annotated[
        float | None,
        typer.Option(
            metavar="RATE",
            help="Peak learning rate. [default: 0.001; 0.003 for cnn; 0.002 for detect; 0.0003 for adapt]",
        ),
    ] = None,
    unfreeze: Annotated[
        int | None, typer.Option(metavar="N", help="Fine-tune the last N blocks of the backbone, too. [default: 0]")
    ] = None,
    augment: Annotated[
        bool | None,
        typer.Option("--augment/--no-augment", help="Flip and shift images while training. [default: augment]"),
    ] = None,
    class_weights: Annotated[
        bool | None, typer.Option("--class-weights", help="Give all classes the same weight.")
    ] = None,
    seed: Annotated[int | None, typer.Option(metavar="N", help="Random seed. [default: 0]")] = None,
    resume: Annotated[bool | None, typer.Option("--resume", help="Continue an interrupted training.")] = None,
    tensorboard: Annotated[Path | None, typer.Option(metavar="DIR", help="Write TensorBoard files there.")] = None,
    plots: Annotated[
        bool | None,
        typer.Option("--plots", help="Draw learning curves, a confusion matrix and predictions beside the model."),
    ] = None,
    max_bytes: Annotated[
        int | None, typer.Option(metavar="N", help="Reject larger files unread. [default: 100000000]")
    ] = None,
    max_pixels: Annotated[
        int | None, typer.Option(metavar="N", help="Reject larger images undecoded. [default: 178956970]")
    ] = None,
    follow_links: Annotated[bool | None, typer.Option("--follow-links", help="Follow links.")] = None,
    quiet: options.QuietOption = False,
    verbose: options.VerboseOption = False,
) -> None:
    """Train an encoder, or a detector, on your own images.

    The model goes into build-index --backbone and classify. A network of imgsearch models keeps what it knows and
    gets a new head, which takes seconds to train; cnn is trained from scratch. MODEL.history.json beside the model
    has what was measured.

    With --objective detect a detector learns what the items of a catalog look like, without labels, and finds them
    in photos, for build-index --detector and detect. Its encoder must be the one of the index.

    Examples:

      imgsearch train ./labeled -o shop.keras

      imgsearch train ./labeled -o shop.keras --unfreeze 2 -v

      imgsearch train ./labeled -o small.keras --architecture cnn --size 64

      imgsearch train ./photos --labels labels.csv -o shop.keras --objective metric --loss triplet

      imgsearch train ./catalog -o shop.keras --objective adapt

      imgsearch train ./catalog -o shop.keras --objective adapt --unfreeze 3

      imgsearch train ./catalog -o detector.keras --objective detect --backgrounds ./rooms

    Exit codes: 0 done, 3 done but some images cannot be used, 2 the dataset or an option is not as it should be,
    or the training diverged, 8 a library is missing, 10 an adaptation does not help, 11 no space, 130 interrupted:
    --resume continues.
    """
    from imgsearch.cli.output import REJECTED_EXIT_CODE, print_text, progress_bar, say_rejects, set_up_logging
    from imgsearch.training.options import TrainOptions
    from imgsearch.training.train import train

    set_up_logging(quiet=quiet, verbose=verbose)
    with progress_bar(quiet=quiet) as progress:
        report = train(dataset, output, progress=progress, **options.options_of(context, TrainOptions))
    if not quiet:
        say_rejects(report.rejected, " (the history names them)")
        print_text(f"{_summary(report)}\n")
    raise typer.Exit(REJECTED_EXIT_CODE if report.rejected else 0)


def _summary(report: "TrainReport") -> str:
    from imgsearch.cli.build_report import gain_in_words
    from imgsearch.cli.output import printable
    from imgsearch.training.report import AdaptReport, DetectReport, LabeledReport, TunedReport

    parts = []
    metrics = report.metrics
    if isinstance(report, AdaptReport):
        parts.append(gain_in_words(report.gain))
    elif isinstance(report, TunedReport):
        used = (
            f"{report.mix:.2f} of the tuned weights" if report.mix else "the tuned weights do not help and are left out"
        )
        parts += [f"{len(report.epochs)} epochs", used, gain_in_words(report.gain)]
    elif isinstance(report, DetectReport):
        others = f"recall in 5 boxes {metrics['recall']:.3f}, IoU of the mask {metrics['mask_overlap']:.3f}"
        parts += [
            f"{report.items[0]} items, {len(report.epochs)} epochs",
            f"on scenes of {report.items[1]} held-out items AP50 {metrics['average_precision']:.3f}, {others}",
            f"{report.skipped} images without an item" if report.skipped else "",
        ]
    elif isinstance(report, LabeledReport):
        dataset = report.dataset
        names = {"val_accuracy": "accuracy", "val_hit": "nearest is of its class"}
        held_out = ", ".join(f"{names[name]} {value:.3f}" for name, value in metrics.items())
        parts += [
            f"{len(dataset.classes)} classes, {len(dataset.training_rows)} images, {len(report.epochs)} epochs",
            f"of {len(dataset.validation_rows)} held out {held_out}" if held_out else "",
        ]
    parts.append(f"{len(report.rejected)} rejected" if report.rejected else "")
    text = "; ".join(part for part in parts if part)
    return f"{printable(os.fspath(report.output))}: {text} ({report.seconds['total']:.1f} s)"
