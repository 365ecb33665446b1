"""Measure an index: what it finds, how good that is, how fast, and how sure that is."""

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from imgsearch.errors import UsageError
from imgsearch.evaluation.bootstrap import Interval, mean_interval
from imgsearch.evaluation.calibrate import calibrate as fitted
from imgsearch.evaluation.index_recall import index_recall
from imgsearch.evaluation.labels import Labels, labels_of
from imgsearch.evaluation.questions import Questions, from_folder, from_items, from_variants
from imgsearch.evaluation.results import Evaluation, IndexRecall, Kind, Reliability, Retrieval
from imgsearch.evaluation.retrieval import judge, per_category
from imgsearch.progress import Progress, no_progress
from imgsearch.search.index import Index
from imgsearch.search.views import Regions
from imgsearch.store.plan import BackendSettings

Location = str | os.PathLike[str]

SAMPLE = 1000


def evaluate(
    index: Location = ".imgsearch",
    *,
    recall: bool = False,
    labels: str | None = None,
    queries: Location | None = None,
    truth: Location | None = None,
    self_test: bool = False,
    calibrate: bool = False,
    sample: int = SAMPLE,
    regions: Regions = "auto",
    progress: Progress = no_progress,
) -> Evaluation:
    """Measure how good an index is, and how good its answers are.

    Where neither `recall` nor any queries are asked for, it is recall, and categories if there are any.

    Args:
        index: The index directory.
        recall: Measure how many of the truly nearest the index finds, and how fast.
        labels: Ask for items, and count others with the same `category`, `product` or other column as right; with
            `queries`, the column that says what is right, `product` if None.
        queries: Ask with the images in this folder, which lie in a folder for each label, or are named by `truth`.
        truth: CSV file with the columns `query` and `path`, or `query` and the column of the labels.
        self_test: Ask for photo-like variants of the catalog's own images.
        calibrate: Learn which probability of being right belongs to which score; `keep_calibration` stores it.
        sample: How many items are asked for at most.
        regions: Where to look in queries that are photos, as for `Index.search`.
        progress: Told (stage, done, total).

    Returns:
        What was measured.

    Raises:
        UsageError: What is asked for contradicts itself, or the index has not what it takes.
        ImageError, NoIndexError, DamagedIndexError: As for `Index.search`.
    """
    if truth is not None and queries is None:
        raise UsageError("expected the folder of the queries that --truth speaks of: --queries DIR")
    if labels == "":
        raise UsageError("expected the name of a column, found nothing", hint="for example --labels category")
    if self_test and (queries is not None or labels is not None):
        raise UsageError("expected one kind of queries, found --self-test with --queries or --labels")
    if sample < 1:
        raise UsageError(f"expected to ask for at least 1 item, found {sample}")
    self_test = self_test or (calibrate and labels is None and queries is None)
    with Index.open(index) as opened:
        if not len(opened):
            raise UsageError(f"expected an index with items, found none in {index}")
        if not (recall or self_test or labels or queries):
            recall = True
            labels = "category" if _has_categories(opened) else None
        found = index_recall(opened, sample, progress) if recall else None
        retrieval = reliability = None
        kind: Kind | None = None
        if queries is not None or self_test or labels is not None:
            kind = "queries" if queries is not None else "self-test" if self_test else "labels"
            by = labels_of(opened.items, labels or "product", len(opened))
            questions = _questions(opened, kind, by, queries, truth, sample, regions, progress)
            retrieval = judge(opened, questions, kind, by, progress)
        manifest = opened.manifest
    if calibrate:
        assert retrieval is not None
        reliability = fitted(retrieval)
    assert manifest.backend is not None
    return Evaluation(
        facts={
            "generation": manifest.generation,
            "count": manifest.count,
            "encoder": manifest.encoder.name,
            "fingerprint": manifest.fingerprint,
            "dims": manifest.dims,
            "plan": manifest.backend.name,
            **_settings(manifest.backend),
        },
        setup={
            "kind": kind or "none",
            "label": retrieval.label if retrieval else "none",
            "sample": sample,
            "recall": recall,
            "regions": "whole" if kind in (None, "labels") else regions,
        },
        recall=found,
        retrieval=retrieval,
        reliability=reliability,
        figures=_figures(manifest.count, found, retrieval, reliability),
        categories=per_category(retrieval) if retrieval else {},
    )


def _settings(backend: BackendSettings) -> Mapping[str, int]:
    """Name the settings that belong to a backend; the others are 0."""
    settings = {name: getattr(backend, name) for name in ("trees", "search_k", "lists", "probes")}
    return {name: value for name, value in settings.items() if value}


def _has_categories(index: Index) -> bool:
    codes = labels_of(index.items, "category", len(index)).codes
    sizes = np.bincount(codes[codes >= 0])
    return len(sizes) > 1 and bool((sizes > 1).any())


def _questions(
    index: Index,
    kind: Kind,
    by: Labels,
    queries: Location | None,
    truth: Location | None,
    sample: int,
    regions: Regions,
    progress: Progress,
) -> Questions:
    categories = by if by.column == "category" else labels_of(index.items, "category", len(index))
    if kind == "labels":
        return from_items(index, by, categories, sample)
    if kind == "self-test":
        return from_variants(index, by, categories, sample, regions, progress)
    assert queries is not None
    return from_folder(index, Path(queries), Path(truth) if truth else None, by, categories, regions, progress)


def _figures(
    count: int, recall: IndexRecall | None, retrieval: Retrieval | None, reliability: Reliability | None
) -> Mapping[str, Interval]:
    figures = {"count": _plain(count)}
    if recall is not None:
        figures |= {f"index_recall@{k}": mean_interval(values) for k, values in recall.recall.items()}
        latency = recall.latency[10 if 10 in recall.latency else max(recall.latency)]
        figures |= {f"latency_{name}_ms": _plain(1000 * getattr(latency, name)) for name in ("p50", "p95", "p99")}
        figures["queries_per_second"] = _plain(latency.per_second)
    if retrieval is not None:
        figures["queries"] = _plain(len(retrieval.judged))
        figures |= {name: mean_interval(values) for name, values in retrieval.measures.items()}
    if reliability is not None:
        figures["calibration_error"] = _plain(reliability.error)
        figures["calibration_error@1"] = _plain(reliability.error_at_1)
    return figures


def _plain(value: float) -> Interval:
    return Interval(value, value, value)
