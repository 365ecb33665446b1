"""Measure an index: what it finds, how good that is, how fast, and how certain that is."""

import os
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Literal, TypedDict, Unpack

import numpy as np

from imgsearch.bootstrap import Interval, exact_result, mean_interval
from imgsearch.errors import UsageError, require_installed
from imgsearch.evaluation.calibrate import calibrate
from imgsearch.evaluation.index_recall import index_recall
from imgsearch.evaluation.personal import figures_of, personalized
from imgsearch.evaluation.queries import Labels, QuerySet, from_folder, from_items, from_variants, labels_of
from imgsearch.evaluation.results import (
    IN_WORDS,
    Evaluation,
    IndexRecall,
    Kind,
    Personal,
    PictureAndWord,
    Reliability,
    Retrieval,
)
from imgsearch.evaluation.retrieval import per_category, per_column, rank_all
from imgsearch.evaluation.words import from_columns, from_own_words, own_words, picture_and_word, require_meaning
from imgsearch.files import as_path
from imgsearch.progress import Progress, no_progress
from imgsearch.search.index import Index
from imgsearch.search.views import Regions

Location = str | os.PathLike[str]


class EvaluateOptions(TypedDict, total=False):
    """What to measure. Without `recall` or any queries: recall, and categories if there are any."""

    recall: bool  # how many of the true nearest neighbors the index finds, and how fast
    labels: str | None  # column that says what is relevant, as `category`; without `queries`, search for items
    by: (
        Literal["product"] | None
    )  # rank products, each by its best image, as distinct hits; for labels that are products
    queries: Location | None  # search for the images in this folder: a folder for each label, or see `truth`
    truth: Location | None  # CSV file with the columns `query` and `path`, or `query` and the column of the labels
    self_test: bool  # search for photo-like variants of the catalog's own images
    text: bool  # search for items by their own words, which are withheld
    text_columns: str | None  # search by what these columns of the shop's data say, joined by commas, instead
    calibrate: bool  # learn which probability belongs to which score; `keep_calibration` stores it
    events: Location | None  # a log of events: measure recommendations to its people; `stored`: the index's own events
    exposure: str | None  # column that makes groups of products, whose exposure to these people is measured, too
    sample: int  # search for so many items at most, or recommend to so many people
    regions: Regions  # where to search in queries that are photos, as for `Index.search`


_DEFAULTS = EvaluateOptions(
    recall=False,
    labels=None,
    by=None,
    queries=None,
    truth=None,
    self_test=False,
    text=False,
    text_columns=None,
    calibrate=False,
    events=None,
    exposure=None,
    sample=1000,
    regions="auto",
)


def evaluate(
    index: Location = ".imgsearch", *, progress: Progress = no_progress, **options: Unpack[EvaluateOptions]
) -> Evaluation:
    """Measure how good an index is, and how good its answers are.

    Args:
        index: The index directory.
        progress: Told (stage, done, total).
        **options: What to measure, as `EvaluateOptions` describes it.

    Raises:
        UsageError: Options contradict each other, or the index lacks what they need.
        ImageError, NoIndexError, DamagedIndexError: As for `Index.search`.
    """
    chosen = _checked(options)
    if chosen["calibrate"]:
        require_installed("sklearn", "--calibrate", "scikit-learn")
    with Index.open(index) as opened:
        if not len(opened):
            raise UsageError(f"there are no items in {index}")
        if not (chosen["recall"] or _kind(chosen) or chosen["events"]):
            chosen["recall"] = True
            chosen["labels"] = "category" if _has_categories(opened) else None
        kind = _kind(chosen)
        recall = index_recall(opened, chosen["sample"], progress) if chosen["recall"] else None
        retrieval = None
        if kind in IN_WORDS and chosen["calibrate"]:
            require_meaning(opened)
        if kind is not None:
            column = chosen["labels"] or "product"
            labels = own_words(opened) if kind == "text" else labels_of(opened.items, column, len(opened))
            query_set = _queries(opened, kind, labels, chosen, progress)
            retrieval = rank_all(opened, query_set, kind, labels, progress, by_label=chosen["by"] is not None)
        changes = None
        if kind in IN_WORDS:
            categories = labels_of(opened.items, "category", len(opened))
            changes = picture_and_word(opened, categories, chosen["sample"], progress)
        personal = None
        if chosen["events"] is not None:
            log, exposure = as_path(chosen["events"]), chosen["exposure"]
            personal = personalized(opened, log, sample=chosen["sample"], exposure=exposure, progress=progress)
        manifest = opened.manifest
    reliability = calibrate(retrieval) if chosen["calibrate"] and retrieval else None
    backend = manifest.backend
    assert backend is not None
    return Evaluation(
        facts={
            "generation": manifest.generation,
            "count": manifest.count,
            "encoder": manifest.encoder.name,
            "fingerprint": manifest.fingerprint,
            "dims": manifest.dims,
            "plan": backend.name,
            # The settings of other backends are 0.
            **{name: value for name in ("trees", "search_k", "lists", "probes") if (value := getattr(backend, name))},
        },
        setup=_setup(chosen, retrieval, personal),
        recall=recall,
        retrieval=retrieval,
        reliability=reliability,
        figures=_figures(manifest.count, recall, retrieval, changes, reliability) | figures_of(personal),
        categories=per_category(retrieval) if retrieval else {},
        columns=per_column(retrieval) if retrieval else {},
        picture_and_word=changes,
        personal=personal,
    )


def _setup(chosen: EvaluateOptions, retrieval: Retrieval | None, personal: Personal | None) -> Mapping[str, Any]:
    """Return what makes two evaluations comparable."""
    kind = _kind(chosen)
    setup: dict[str, Any] = {
        "kind": kind or "none",
        "label": retrieval.label if retrieval else "none",
        "sample": chosen["sample"],
        "recall": chosen["recall"],
        "regions": chosen["regions"] if kind in ("queries", "self-test") else "whole",
    }
    if kind == "text-columns":
        setup["text_columns"] = chosen["text_columns"]
    if chosen["by"]:
        setup["by"] = chosen["by"]
    if personal is not None:
        # The people of another log are not the same, though their numbers may be.
        newest = datetime.fromtimestamp(personal.newest / 1e6, UTC).isoformat(" ")
        setup |= {"kind": "events", "newest": newest, "events": personal.before + personal.held_out}
    return setup


def _checked(options: EvaluateOptions) -> EvaluateOptions:
    if unknown := options.keys() - _DEFAULTS.keys():
        raise TypeError(f"evaluate() got an unexpected keyword argument {min(unknown)!r}")
    chosen: EvaluateOptions = {**_DEFAULTS, **options}
    _check_events(chosen)
    if chosen["truth"] is not None and chosen["queries"] is None:
        raise UsageError("--truth needs the folder of its queries: --queries DIR")
    if chosen["labels"] == "":
        raise UsageError("--labels needs the name of a column", hint="for example --labels category")
    if chosen["self_test"] and (chosen["queries"] is not None or chosen["labels"] is not None):
        raise UsageError("--self-test cannot be combined with --queries or --labels")
    in_words = chosen["text"] or chosen["text_columns"] is not None
    if in_words and (chosen["queries"] is not None or chosen["labels"] is not None or chosen["self_test"]):
        raise UsageError("--text cannot be combined with --queries, --labels or --self-test")
    if chosen["text_columns"] is not None and not all(_columns(chosen["text_columns"])):
        raise UsageError(
            f"expected names of columns between commas for --text-columns, found {chosen['text_columns']!r}",
            hint="for example --text-columns title_de,title_zh",
        )
    if in_words and chosen["calibrate"] and chosen["text_columns"] is None:
        raise UsageError(
            "--calibrate takes words that items are asked for by, and --text withholds them",
            hint="--text-columns COLUMN asks in other words: in another language, or in customers' own",
        )
    if chosen["by"] is not None and (_kind(chosen) in (None, "text") or chosen["labels"] not in (None, "product")):
        raise UsageError(
            "--by product ranks products, so queries must be labeled by them",
            hint="use it with --labels product, --self-test, --queries or --text-columns",
        )
    if chosen["by"] is not None and chosen["calibrate"]:
        raise UsageError("--by product cannot be combined with --calibrate, which is about each hit")
    if chosen["sample"] < 1:
        raise UsageError(f"sample must be at least 1, got {chosen['sample']}")
    if chosen["sample"] != _DEFAULTS["sample"] and chosen["queries"] is not None and not chosen["recall"]:
        raise UsageError("--sample has no effect on --queries", hint="all images in that folder are searched for")
    if chosen["calibrate"] and _kind(chosen) is None:
        chosen["self_test"] = True
    return chosen


def _check_events(chosen: EvaluateOptions) -> None:
    if chosen["events"] is None:
        if chosen["exposure"] is not None:
            raise UsageError("--exposure COLUMN is about what people are recommended: give their log, --events FILE")
        return
    others = ("labels", "by", "queries", "truth", "self_test", "text", "text_columns", "calibrate", "regions")
    for name in others:
        if chosen[name] != _DEFAULTS[name]:  # type: ignore[literal-required]
            raise UsageError(
                f"--events cannot be combined with --{name.replace('_', '-')}",
                hint="that is about answers to queries; run evaluate once for each",
            )
    if chosen["exposure"] == "":
        raise UsageError("--exposure needs the name of a column", hint="for example --exposure brand")


def _kind(options: EvaluateOptions) -> Kind | None:
    if options["queries"] is not None:
        return "queries"
    if options["self_test"]:
        return "self-test"
    if options["text_columns"] is not None:
        return "text-columns"
    if options["text"]:
        return "text"
    return "labels" if options["labels"] is not None else None


def _queries(index: Index, kind: Kind, labels: Labels, options: EvaluateOptions, progress: Progress) -> QuerySet:
    categories = labels if labels.column == "category" else labels_of(index.items, "category", len(index))
    if kind == "labels":
        return from_items(index, labels, categories, options["sample"])
    if kind == "text":
        return from_own_words(index, labels, categories, options["sample"], progress)
    if kind == "text-columns":
        columns = _columns(options["text_columns"] or "")
        return from_columns(index, columns, labels, categories, options["sample"])
    if kind == "self-test":
        return from_variants(index, labels, categories, options["sample"], options["regions"], progress)
    assert options["queries"] is not None
    truth = as_path(options["truth"]) if options["truth"] is not None else None
    return from_folder(index, as_path(options["queries"]), truth, labels, categories, options["regions"], progress)


def _columns(text: str) -> list[str]:
    """Read names of columns that are joined by commas, each once; an empty one if that is not what it is."""
    return list(dict.fromkeys(name.strip() for name in text.split(",")))


def _has_categories(index: Index) -> bool:
    codes = labels_of(index.items, "category", len(index)).codes
    sizes = np.bincount(codes[codes >= 0])
    return len(sizes) > 1 and bool((sizes > 1).any())


def _figures(
    count: int,
    recall: IndexRecall | None,
    retrieval: Retrieval | None,
    changes: PictureAndWord | None,
    reliability: Reliability | None,
) -> dict[str, Interval]:
    figures = {"count": exact_result(count)}
    if recall is not None:
        figures |= {f"index_recall@{k}": mean_interval(values) for k, values in recall.recall.items()}
        latency = recall.latency[10 if 10 in recall.latency else max(recall.latency)]
        figures |= {f"latency_{name}_ms": exact_result(1000 * getattr(latency, name)) for name in ("p50", "p95", "p99")}
        figures["queries_per_second"] = exact_result(latency.per_second)
    if retrieval is not None:
        figures["queries"] = exact_result(len(retrieval.results))
        figures |= {name: mean_interval(values) for name, values in retrieval.measures.items()}
    if changes is not None:
        figures |= {name: mean_interval(values) for name, values in changes.measures.items()}
    if reliability is not None:
        figures["calibration_error"] = exact_result(reliability.error)
        figures["calibration_error@1"] = exact_result(reliability.error_at_1)
    return figures
