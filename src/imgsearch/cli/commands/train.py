"""`imgsearch train`."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from imgsearch.cli import options

if TYPE_CHECKING:
    from imgsearch.personal.event_files import ImportReport
    from imgsearch.personal.ranking.train import RankingReport
    from imgsearch.personal.recommend.train import RecommendReport
    from imgsearch.training.report import TrainReport

# What is learned from events goes into an index. Of each such objective the options that it takes, and no other.
_FROM_EVENTS = {"recommend": ("index", "wait_lock", "seed"), "rank": ("index", "learner", "wait_lock", "seed")}
_OF_INDEX = ("index", "learner", "wait_lock")
_OF_ALL = ("dataset", "objective", "quiet", "verbose")


def train(
    context: typer.Context,
    dataset: Annotated[
        Path | None,
        typer.Argument(
            metavar="[DATASET|EVENTS]",
            help="A folder per class; or train/ and val/ with these. To recommend and to rank: a log that is imported"
            " first.",
            show_default=False,
        ),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="MODEL.keras", help="The model to write.")
    ] = None,
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
        Literal["classify", "metric", "adapt", "detect", "recommend", "rank"],
        typer.Option(
            help="Tell classes apart, bring images of a class together, adapt to unlabeled images, find items in"
            " photos, or learn from events what to recommend, or in which order hits should be."
        ),
    ] = "classify",
    index: Annotated[
        Path,
        typer.Option(
            "--index",
            metavar="DIR",
            envvar="IMGSEARCH_INDEX",
            help="Index directory, for --objective recommend and rank.",
        ),
    ] = options.DEFAULT_INDEX,
    learner: Annotated[
        Literal["lambdamart", "linear"],
        typer.Option(help="What --objective rank learns: trees, or a weight for each feature."),
    ] = "lambdamart",
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
    wait_lock: options.WaitLockOption = 0,
    quiet: options.QuietOption = False,
    verbose: options.VerboseOption = False,
) -> None:
    """Train an encoder or a detector, or learn from events.

    The model goes into build-index --backbone and classify. A network of imgsearch models keeps what it knows and
    gets a new head, which takes seconds to train; cnn is trained from scratch. MODEL.history.json beside the model
    has what was measured.

    With --objective detect a detector learns what the items of a catalog look like, without labels, and finds them
    in photos, for build-index --detector and detect. Its encoder must be the one of the index.

    With --objective recommend, what people want is learned from the events in the index, and published as its next
    generation, for imgsearch recommend. The last week is held out to choose how.

    With --objective rank, the order of hits is learned from what people clicked in answers, in the events and the
    feedback of the service, for imgsearch query --rank learned. It is published if it is better on the last fifth of
    these answers.

    Examples:

      imgsearch train ./labeled -o shop.keras

      imgsearch train ./labeled -o shop.keras --unfreeze 2 -v

      imgsearch train ./labeled -o small.keras --architecture cnn --size 64

      imgsearch train ./photos --labels labels.csv -o shop.keras --objective metric --loss triplet

      imgsearch train ./catalog -o shop.keras --objective adapt

      imgsearch train ./catalog -o shop.keras --objective adapt --unfreeze 3

      imgsearch train ./catalog -o detector.keras --objective detect --backgrounds ./rooms

      imgsearch train --objective recommend

      imgsearch train events.csv --objective recommend --index /srv/shop.idx

      imgsearch train --objective rank --learner linear

    Exit codes: 0 done, 3 done but some images or events cannot be used, 2 the dataset, the events or an option are
    not as they should be, or the training diverged, 8 a library is missing, 10 an adaptation or an order does
    not help, 11 no space, 130 interrupted: --resume continues. To recommend and to rank also 5 no index, 6 it is
    damaged, 7 another writer holds it, 9 it was rebuilt meanwhile.
    """
    from imgsearch.cli.output import set_up_logging

    set_up_logging(quiet=quiet, verbose=verbose)
    _require_fitting(context, objective)
    if objective == "recommend":
        raise typer.Exit(_recommend(index, dataset, seed or 0, wait_lock, quiet=quiet))
    if objective == "rank":
        raise typer.Exit(_rank(index, dataset, learner, seed or 0, wait_lock, quiet=quiet))
    raise typer.Exit(_train_network(context, dataset, output, quiet=quiet))


def _require_fitting(context: typer.Context, objective: str) -> None:
    """Refuse options of objectives that learn from events with the others, and the other way around, by name.

    What the others take is said by `training.options`.
    """
    from imgsearch.errors import UsageError

    sources = {name: context.get_parameter_source(name) for name in context.params}
    given = [name for name, source in sources.items() if source is not None and source.name == "COMMANDLINE"]
    if objective in _FROM_EVENTS:
        taken = _FROM_EVENTS[objective]
        wrong = [name for name in given if name not in (*taken, *_OF_ALL)]
        hint = f"it takes {', '.join(map(_flag, taken))}"
    else:
        wrong = [name for name in given if name in _OF_INDEX]
        takers = [each for each, taken in _FROM_EVENTS.items() if not {*wrong[:1]}.difference(taken)]
        hint = f"it is for {' and '.join(takers)}"
    if wrong:
        raise UsageError(f"{_flag(wrong[0])} has no effect on --objective {objective}", hint=hint)


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _recommend(index: Path, events: Path | None, seed: int, wait_lock: float, *, quiet: bool) -> int:
    from imgsearch.cli.output import print_text, progress_bar
    from imgsearch.personal.recommend.train import train_recommend

    with progress_bar(quiet=quiet) as progress:
        report = train_recommend(index, events, seed=seed, wait_lock=wait_lock, progress=progress)
    code = _say_imported(report.imported, quiet=quiet)
    if not quiet:
        print_text(f"{_learned(report, index)}\n")
    return code


def _rank(
    index: Path,
    events: Path | None,
    learner: Literal["lambdamart", "linear"],
    seed: int,
    wait_lock: float,
    *,
    quiet: bool,
) -> int:
    from imgsearch.cli.output import print_text, progress_bar
    from imgsearch.personal.ranking.train import train_ranking

    with progress_bar(quiet=quiet) as progress:
        report = train_ranking(index, events, learner=learner, seed=seed, wait_lock=wait_lock, progress=progress)
    code = _say_imported(report.imported, quiet=quiet)
    if not quiet:
        print_text(f"{_ranked(report, index)}\n")
    return code


def _say_imported(imported: "ImportReport | None", *, quiet: bool) -> int:
    """Say what of a log was refused, if one was imported, and return the exit code for that."""
    from imgsearch.cli.output import REJECTED_EXIT_CODE, say

    refused = sum(imported.refused.values()) if imported else 0
    if refused and not quiet:
        say(f"{refused:,} rows of the log are no events (imgsearch events import names them)")
    return REJECTED_EXIT_CODE if refused else 0


def _ranked(report: "RankingReport", index: Path) -> str:
    from imgsearch.cli.output import printable

    facts, gain = report.facts, report.gain
    places = (
        f"clicks are weighed by their places (eta {facts.eta:g})"
        if report.has_places
        else "clicks count alike wherever they were, since too few events say at which place a product was shown"
    )
    return (
        f"{printable(os.fspath(index))}: learned from {facts.answers:,} answers with clicks: nDCG@10"
        f" {report.before + gain.mean:.3f}, by scores {report.before:.3f} ({gain.low:+.3f} to {gain.high:+.3f}), of the"
        f" last {facts.queries:,}; {places}; generation {report.generation} ({report.seconds:.1f} s)"
    )


def _learned(report: "RecommendReport", index: Path) -> str:
    from imgsearch.cli.learned_words import blend_in_words
    from imgsearch.cli.output import printable

    facts = report.facts
    worth = (
        f"nDCG@10 {report.ndcg:.3f}, popular {report.ndcg - facts.gain:.3f}, of {facts.queries:,} people in the"
        " held-out week"
        if facts.queries
        else "too few people came back in the last week to choose by"
    )
    return (
        f"{printable(os.fspath(index))}: learned from {facts.events:,} events of {facts.users:,} people:"
        f" {worth}; {blend_in_words(facts)}; generation {report.generation} ({report.seconds:.1f} s)"
    )


def _train_network(context: typer.Context, dataset: Path | None, output: Path | None, *, quiet: bool) -> int:
    from imgsearch.cli.output import REJECTED_EXIT_CODE, print_text, progress_bar, say_rejects
    from imgsearch.errors import UsageError
    from imgsearch.training.options import TrainOptions
    from imgsearch.training.train import train

    if dataset is None or output is None:
        missing = "a DATASET" if dataset is None else "--output MODEL.keras"
        raise UsageError(f"expected {missing}, found none", hint="see imgsearch train --help")
    with progress_bar(quiet=quiet) as progress:
        report = train(dataset, output, progress=progress, **options.options_of(context, TrainOptions))
    if not quiet:
        say_rejects(report.rejected, " (the history names them)")
        print_text(f"{_summary(report)}\n")
    return REJECTED_EXIT_CODE if report.rejected else 0


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
