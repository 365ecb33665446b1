"""`imgsearch train`."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from imgsearch.cli.options import QuietOption, VerboseOption, WeightsOption

if TYPE_CHECKING:
    from imgsearch.training.detector.train import DetectReport
    from imgsearch.training.report import TrainReport


def train(
    dataset: Annotated[
        Path, typer.Argument(metavar="DATASET", help="A folder per class; or train/ and val/ with these.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="MODEL.keras", help="The model to write.")],
    architecture: Annotated[
        str,
        typer.Option("--architecture", "-a", metavar="NAME", help="cnn, or an encoder of imgsearch models."),
    ] = "efficientnet-lite0",
    objective: Annotated[
        Literal["classify", "metric", "adapt", "detect"],
        typer.Option(
            help="Tell classes apart, bring images of a class together, adapt to unlabeled ones, or find them in"
            " photos."
        ),
    ] = "classify",
    loss: Annotated[
        Literal["arcface", "contrastive", "nt-xent", "triplet"] | None,
        typer.Option(help="Of --objective metric. [default: arcface]"),
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option(metavar="FILE.csv", help="Columns path and label, in place of a folder per class."),
    ] = None,
    backgrounds: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Of --objective detect: photos of places. [default: drawn ones]"),
    ] = None,
    size: Annotated[
        int | None,
        typer.Option(metavar="N", help="Side of the images. [default: the backbone's, or 96]"),
    ] = None,
    dims: Annotated[
        int | None,
        typer.Option(metavar="N", help="Length of the embedding. [default: 256, or 512 for cnn]"),
    ] = None,
    weights: WeightsOption = None,
    validation: Annotated[
        float, typer.Option(metavar="SHARE", help="Of each class to hold out, where there is no val/.")
    ] = 0.1,
    epochs: Annotated[
        int | None, typer.Option(metavar="N", help="At most. [default: 40; 30 for cnn; 16 for detect]")
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(metavar="N", help="Images in a batch. [default: 64; 128 for cnn; 16 for detect]")
    ] = None,
    learning_rate: Annotated[
        float | None, typer.Option(metavar="RATE", help="At its height. [default: 0.001; 0.002 for detect]")
    ] = None,
    unfreeze: Annotated[int, typer.Option(metavar="N", help="Then tune the last N blocks of the backbone.")] = 0,
    augment: Annotated[
        bool, typer.Option("--augment/--no-augment", help="Change images a little while it learns.")
    ] = True,
    class_weights: Annotated[bool, typer.Option("--class-weights", help="Let all classes count the same.")] = False,
    seed: Annotated[int, typer.Option(metavar="N", help="Source of all chance.")] = 0,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on where this training was interrupted, if it was.")
    ] = False,
    tensorboard: Annotated[Path | None, typer.Option(metavar="DIR", help="Write TensorBoard's files there.")] = None,
    plots: Annotated[
        bool, typer.Option("--plots", help="Draw curves, confusion and predictions beside the model.")
    ] = False,
    max_bytes: Annotated[
        int | None, typer.Option(metavar="N", help="Reject larger files unread. [default: 100000000]")
    ] = None,
    max_pixels: Annotated[
        int | None, typer.Option(metavar="N", help="Reject larger images undecoded. [default: 178956970]")
    ] = None,
    follow_links: Annotated[bool, typer.Option("--follow-links", help="Follow links.")] = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Train an encoder on labeled images: one file, for build-index --backbone and for classify.

    Or, with --objective detect, teach a detector what the items of a catalog look like, without labels: it finds them
    in photos, for build-index --detector and for detect. Its encoder is the one that the index has.

    A network of imgsearch models keeps what it knows and gets a new head, which takes seconds to train; cnn is
    trained from the beginning. What was measured is in MODEL.history.json beside the model.

    Examples:

      imgsearch train ./labeled -o shop.keras

      imgsearch train ./labeled -o shop.keras --unfreeze 2 -v

      imgsearch train ./labeled -o small.keras --architecture cnn --size 64

      imgsearch train ./photos --labels labels.csv -o shop.keras --objective metric --loss triplet

      imgsearch train ./catalog -o shop.keras --objective adapt

      imgsearch train ./catalog -o detector.keras --objective detect --backgrounds ./rooms

    Exit codes: 0 done, 3 done but some images cannot be used, 2 the dataset is not as it should be, or the
    training diverged, 8 a library is missing, 11 no space, 130 interrupted: --resume goes on.
    """
    from imgsearch.cli.build_report import gain_in_words
    from imgsearch.cli.terminal import REJECTED_EXIT_CODE, printable, progress_bar, say_rejects, set_up_logging
    from imgsearch.images import MAX_PIXELS
    from imgsearch.images.policy import MAX_BYTES, FilePolicy
    from imgsearch.training.adapt import adapt
    from imgsearch.training.detector.train import detect
    from imgsearch.training.train import train

    set_up_logging(quiet=quiet, verbose=verbose)
    policy = FilePolicy(
        MAX_BYTES if max_bytes is None else max_bytes,
        MAX_PIXELS if max_pixels is None else max_pixels,
        follow_links=follow_links,
    )
    of_labels: dict[str, object] = {
        "loss": loss,
        "labels": labels,
        "dims": dims,
        "unfreeze": unfreeze,
        "class-weights": class_weights,
        "tensorboard": tensorboard,
        "plots": plots,
    }
    of_epochs: dict[str, object] = {
        "size": size,
        "epochs": epochs,
        "batch-size": batch_size,
        "learning-rate": learning_rate,
        "resume": resume,
    }
    if objective != "detect":
        _refuse({"backgrounds": backgrounds}, f"--objective {objective}")
    if objective == "detect":
        _refuse(of_labels, "--objective detect, which has neither classes nor pairs")
        with progress_bar(quiet=quiet) as progress:
            detected = detect(
                dataset,
                output,
                backgrounds=backgrounds,
                architecture=architecture,
                weights=weights,
                size=size,
                epochs=epochs,
                batch_size=batch_size,
                learning_rate=learning_rate,
                seed=seed,
                resume=resume,
                policy=policy,
                progress=progress,
            )
        if not quiet:
            say_rejects(detected.rejected, " (the history names them)")
            _tell(_detector_in_words(detected))
        raise typer.Exit(REJECTED_EXIT_CODE if detected.rejected else 0)
    if objective == "adapt":
        _refuse(of_labels | of_epochs, "--objective adapt, which has neither classes nor epochs")
        with progress_bar(quiet=quiet) as progress:
            adapted = adapt(
                dataset, output, architecture=architecture, weights=weights, policy=policy, progress=progress
            )
        if not quiet:
            _tell(f"{printable(os.fspath(output))}: {gain_in_words(adapted.gain)} ({adapted.seconds:.1f} s)")
        return
    with progress_bar(quiet=quiet) as progress:
        report = train(
            dataset,
            output,
            architecture=architecture,
            objective=objective,
            loss=loss,
            labels=labels,
            size=size,
            dims=dims,
            weights=weights,
            validation=validation,
            epochs=epochs,
            batch_size=batch_size,
            learning_rate=learning_rate,
            unfreeze=unfreeze,
            augment=augment,
            class_weights=class_weights,
            seed=seed,
            resume=resume,
            tensorboard=tensorboard,
            plots=plots,
            policy=policy,
            progress=progress,
        )
    if not quiet:
        say_rejects(report.dataset.rejected, " (the history names them)")
        _tell(_summary(report))
    raise typer.Exit(REJECTED_EXIT_CODE if report.dataset.rejected else 0)


def _refuse(options: Mapping[str, object], what: str) -> None:
    from imgsearch.errors import UsageError

    for name, value in options.items():
        if value:
            raise UsageError(f"--{name} is not for {what}")


def _detector_in_words(report: "DetectReport") -> str:
    from imgsearch.cli.terminal import printable

    metrics = report.metrics
    return (
        f"{printable(os.fspath(report.output))}: {report.items[0]} items, {len(report.epochs)} epochs; on scenes of"
        f" {report.items[1]} held-out items AP50 {metrics['average_precision']:.3f}, recall in 5 boxes"
        f" {metrics['recall']:.3f}, IoU of the mask {metrics['mask_overlap']:.3f}"
        + (f"; {report.skipped} images without an item" if report.skipped else "")
        + (f"; {len(report.rejected)} rejected" if report.rejected else "")
        + f" ({report.seconds['total']:.1f} s)"
    )


def _summary(report: "TrainReport") -> str:
    from imgsearch.cli.terminal import printable

    names = {"val_accuracy": "accuracy", "val_hit": "nearest is of its class"}
    held_out = ", ".join(f"{names[name]} {value:.3f}" for name, value in report.metrics.items())
    dataset = report.dataset
    return (
        f"{printable(os.fspath(report.output))}: {len(dataset.classes)} classes,"
        f" {len(dataset.training_rows)} images, {len(report.epochs)} epochs"
        + (f"; of {len(dataset.validation_rows)} held out {held_out}" if held_out else "")
        + (f"; {len(dataset.rejected)} rejected" if dataset.rejected else "")
        + f" ({report.seconds['total']:.1f} s)"
    )


def _tell(summary: str) -> None:
    from imgsearch.cli.output import print_text

    print_text(f"{summary}\n")
