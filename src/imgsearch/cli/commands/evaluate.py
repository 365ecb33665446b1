"""`imgsearch evaluate`."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from imgsearch.cli import options

if TYPE_CHECKING:
    from imgsearch.cli.evaluation_sections import Section
    from imgsearch.evaluation.results import Evaluation


def evaluate(
    context: typer.Context,
    index: options.IndexOption = options.DEFAULT_INDEX,
    recall: Annotated[
        bool,
        typer.Option("--recall", help="Measure how many of the true nearest neighbors the index finds, and speed."),
    ] = False,
    labels: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMN", help="Search for items; right are others of the same category, product or other column."
        ),
    ] = None,
    by: Annotated[
        Literal["product"] | None,
        typer.Option(help="Rank products, each by its best image, as query --by does; for labels that are products."),
    ] = None,
    queries: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Search for these images: a folder for each product, or see --truth."),
    ] = None,
    truth: Annotated[
        Path | None,
        typer.Option(metavar="FILE.csv", help="Ground truth: columns query and path, or query and product."),
    ] = None,
    self_test: Annotated[
        bool, typer.Option("--self-test", help="Search for photo-like variants of the catalog's own images.")
    ] = False,
    text: Annotated[
        bool, typer.Option("--text", help="Search by items' own words, for the items as if these had none.")
    ] = False,
    text_columns: Annotated[
        str | None,
        typer.Option(
            metavar="NAME[,NAME]", help="Search by the words in these columns instead, such as title_de,title_zh."
        ),
    ] = None,
    events: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Recommend to people what they wanted in the last week of this log, learned from what is before; a"
            " file as events import reads it, or stored: the events of the index.",
        ),
    ] = None,
    exposure: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMN",
            help="With --events: how much of what people see is of each brand, seller or other group of products.",
        ),
    ] = None,
    sample: Annotated[
        int, typer.Option(metavar="N", min=1, help="Search for at most N items; recommend to at most N people.")
    ] = 1000,
    regions: Annotated[
        Literal["auto", "whole"], typer.Option(help="Search with parts of photos too, as query does, or with none.")
    ] = "auto",
    calibrate: Annotated[
        bool,
        typer.Option("--calibrate", help="Learn probabilities, which queries show then; with --self-test by default."),
    ] = False,
    minima: Annotated[
        list[str] | None,
        typer.Option("--min", metavar="NAME=X", help="Exit 10 if a figure is below X: --min hit_rate@1=0.8"),
    ] = None,
    against: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Exit 10 if it is worse than what --json wrote there.")
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write all figures there.")] = None,
    report: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write DIR/index.html with charts; needs the extra plots.")
    ] = None,
    format_: Annotated[Literal["table", "json"], typer.Option("--format", help="Format of the output.")] = "table",
    wait_lock: options.WaitLockOption = 0,
    quiet: options.QuietOption = False,
    verbose: options.VerboseOption = False,
) -> None:
    """Measure how good an index and its answers are.

    Without options it is --recall, and --labels category where there are categories. docs/metrics.md says what each
    figure means.

    Examples:

      imgsearch evaluate --recall

      imgsearch evaluate --labels category --report quality

      imgsearch evaluate --self-test --calibrate

      imgsearch evaluate --text

      imgsearch evaluate --text-columns title_de,title_zh --calibrate

      imgsearch evaluate --queries photos --truth photos.csv --json tonight.json --against good.json

      imgsearch evaluate --events log.csv --exposure brand --min hybrid_ndcg@10=0.1

      imgsearch evaluate --recall --min index_recall@10=0.99 --min queries_per_second=200

    Exit codes: 0 done and good enough, 10 a gate was not met or it is worse than before, 4 done but a query image
    could not be used, 2 what is asked for cannot be measured here.
    """
    from imgsearch.search.backends import require_backend

    require_backend(index)

    import json

    from imgsearch.cli.evaluation_sections import evaluation_text, sections
    from imgsearch.cli.output import print_text, printable, progress_bar, say, set_up_logging
    from imgsearch.errors import GateError, ImageError, UsageError
    from imgsearch.evaluation import evaluate as evaluation
    from imgsearch.evaluation.calibrate import keep_calibration
    from imgsearch.evaluation.compare import compare, failed_gates, parse_gate, require_measured
    from imgsearch.evaluation.record import as_record, parse_record, read_record
    from imgsearch.store.locking import require_writable as require_index

    set_up_logging(quiet=quiet, verbose=verbose)
    if wait_lock and not calibrate:
        raise UsageError("--wait-lock has no effect without --calibrate", hint="only that writes into the index")
    gates = [parse_gate(text) for text in minima or ()]
    in_words = text or text_columns is not None
    retrieval = labels is not None or queries is not None or self_test or in_words or calibrate
    if recall or retrieval or events is not None:
        require_measured(gates, recall=recall, retrieval=retrieval, text=in_words, events=events is not None)
    earlier = read_record(against) if against is not None else None
    # Fail now, before everything is measured, if what comes of it could not be written.
    _require_places(index, json_file, report, truth, events)
    if calibrate:
        require_index(index, wait_lock)
    with progress_bar(quiet=quiet) as progress:
        found = evaluation.evaluate(index, progress=progress, **options.options_of(context, evaluation.EvaluateOptions))
    record = as_record(found)
    problems = failed_gates(gates, found.figures)
    comparison = compare(earlier, parse_record(record)) if earlier is not None else None
    problems += comparison.problems if comparison else ()
    content = json.dumps(record, allow_nan=False, indent=1) + "\n"
    if json_file is not None:
        print_text(content, json_file)
    layout = sections(found, index, comparison)
    if report is not None:
        _write_report(report / "index.html", found, layout, index, queries)
    print_text(content if format_ == "json" else evaluation_text(layout))
    unusable = found.retrieval.unusable if found.retrieval else ()
    for path, reason in unusable:
        say(printable(f"{path}: {reason}"))
    if problems:  # an index that is not good enough is not calibrated
        raise GateError("; ".join(problems), hint="" if report else "--report DIR shows which queries went wrong")
    if calibrate:
        keep_calibration(index, found, wait_lock)
    raise typer.Exit(ImageError.exit_code if unusable else 0)


def _require_places(
    index: Path, json_file: Path | None, report: Path | None, truth: Path | None, events: Path | None
) -> None:
    from imgsearch.charts import require_matplotlib
    from imgsearch.cli.output import refuse_to_harm, refuse_to_replace, require_writable
    from imgsearch.errors import OutputError
    from imgsearch.store.generations import read_manifest

    manifest = read_manifest(index)
    refuse_to_harm(json_file, index, manifest.catalog, manifest.metadata_file)
    if truth is not None:
        refuse_to_replace(json_file, "the ground truth", truth)
    if events is not None:
        refuse_to_replace(json_file, "the log of events", events)
    if json_file is not None:
        require_writable(json_file)
    if report is not None:
        require_matplotlib("--report")
        try:
            report.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"cannot write {report}: {error.strerror}") from error
        require_writable(report / "index.html")


def _write_report(file: Path, found: "Evaluation", layout: "list[Section]", index: Path, queries: Path | None) -> None:
    import cv2

    from imgsearch.cli.evaluation_page import evaluation_page
    from imgsearch.cli.output import output, write
    from imgsearch.errors import ImageError
    from imgsearch.evaluation.queries import variant_of
    from imgsearch.evaluation.results import IN_WORDS, QueryResult
    from imgsearch.images.reading import read_file
    from imgsearch.search.index import Index

    with Index.open(index) as opened, output(file) as page:
        catalog = opened.manifest.catalog

        def image(query: QueryResult) -> bytes | None:
            if found.retrieval is not None and found.retrieval.kind == "self-test":
                pixels = variant_of(opened, query.query)
                return None if pixels is None else cv2.imencode(".png", pixels[:, :, ::-1])[1].tobytes()
            if found.retrieval is not None and found.retrieval.kind in IN_WORDS:
                return None
            try:
                return read_file(os.path.join(queries or catalog, query.query))[0]
            except ImageError:
                return None

        for text in evaluation_page(layout, catalog, image):
            write(page, text)
