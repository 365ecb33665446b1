"""Choose how an index is searched: as fast as the recall that the user wants allows."""

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np

from imgsearch.encoders.runtime import Embeddings
from imgsearch.search.backends import BACKENDS
from imgsearch.search.backends.annoy import AnnoyBackend
from imgsearch.search.backends.exact import ExactBackend, ExactCandidates
from imgsearch.search.backends.protocol import Backend, Candidates, scores_of
from imgsearch.search.recall import Latency, Sample, SearchFunction, Values, measure, sampled
from imgsearch.store.search_settings import AUTO, BackendSettings, Measured, SearchOptions

logger = logging.getLogger(__name__)

# What `auto` chooses from: the second for a catalog of more than `SMALL` images, if it proves to be faster. So few are
# compared in about the time in which Annoy visits `MIN_SEARCH_K` nodes.
AUTOMATIC: tuple[Backend, Backend] = (ExactBackend(), AnnoyBackend())
SMALL = 4000

# The recall of so many neighbors is tuned. docs/benchmarks.md has what that gives for fewer and for more.
TUNED_K = 10
_QUERIES = 500
TIMED_EXACT = 50

# Where a search takes more effort than this share of the catalog, the backend's next trial is built.
_LARGE_SHARE = 8


def chosen_backend(options: SearchOptions, count: int) -> Backend:
    """Return the backend that may come to search so many vectors; nothing is searched exactly."""
    exact, automatic = AUTOMATIC
    if not count or (options.backend == AUTO and count <= SMALL):
        return exact
    return automatic if options.backend == AUTO else BACKENDS[options.backend]


def make_search(backend: Candidates, vectors: Embeddings) -> SearchFunction:
    """Make a search of a backend: candidates, scored exactly."""

    def search(vector: Embeddings, k: int) -> Embeddings:
        scores = scores_of(vectors[backend.candidates(vector, min(k, len(vectors)))], vector)
        return np.sort(scores)[::-1][:k]

    return search


def tune(
    folder: Path, vectors: Embeddings, options: SearchOptions, collection: str = "", place: str = ""
) -> tuple[BackendSettings, Measured | None]:
    """Choose how float32 (count, d) unit rows are searched, write what that needs, and measure what it finds.

    `collection` and `place` are those of `BackendSettings`, for a backend with a server.
    """
    exact, _ = AUTOMATIC
    backend = chosen_backend(options, len(vectors))
    measured = sample = None
    k = min(TUNED_K, len(vectors) - 1)
    if k > 0:
        rows = np.random.default_rng(options.seed).permutation(len(vectors))[:_QUERIES]
        sample = sampled(vectors, rows, [k])
        search = make_search(ExactCandidates(vectors), vectors)
        recall, latency = measure(search, sample.first(TIMED_EXACT, k), k)
        measured = _measured(recall, latency, 1000 * latency.p50)
    exact_result = exact.trials(options, len(vectors))[0], measured
    if not backend.file:
        return exact_result
    trials = [replace(each, collection=collection, place=place) for each in backend.trials(options, len(vectors))]
    if sample is None or measured is None:
        _build(backend, folder, vectors, trials[0])
        return trials[0], None
    for trial in trials:
        _build(backend, folder, vectors, trial)
        settings, recall, latency = _with_min_effort(folder, vectors, trial, sample, options.target_recall)
        if settings.effort <= max(trial.effort, len(vectors) / _LARGE_SHARE):
            break
    reached = recall.mean() >= options.target_recall
    if options.backend == AUTO and (not reached or 1000 * latency.p50 >= measured.exact_p50_ms):
        (folder / backend.file).unlink()
        return exact_result
    if not reached:
        name = settings.name.capitalize()
        logger.warning("%s finds %.4f of the nearest, less than %g", name, recall.mean(), options.target_recall)
    return settings, _measured(recall, latency, measured.exact_p50_ms)


def _build(backend: Backend, folder: Path, vectors: Embeddings, settings: BackendSettings) -> None:
    backend.build(folder, vectors, settings)
    backend.check(folder, vectors, settings)


def _with_min_effort(
    folder: Path, vectors: Embeddings, settings: BackendSettings, sample: Sample, target: float
) -> tuple[BackendSettings, Values, Latency]:
    """Find the least effort that reaches the target, for certain and not by luck with the sample."""
    (k,) = sample.last_scores
    backend = BACKENDS[settings.name]
    for effort in backend.efforts(settings, len(vectors)):
        settings = settings.with_effort(effort)
        search = make_search(backend.open(folder, vectors, settings), vectors)
        recall, latency = measure(search, sample, k)
        error = recall.std() / np.sqrt(len(recall)) if len(recall) < len(vectors) else 0.0
        # Twice the standard error below the mean: another sample would show as much in 97 of 100 cases.
        if recall.mean() - 2 * error >= target:
            break
    return settings, recall, latency


def _measured(recall: Values, latency: Latency, exact_p50_ms: float) -> Measured:
    return Measured(
        len(recall),
        round(float(recall.mean()), 6),
        round(1000 * latency.p50, 4),
        round(1000 * latency.p95, 4),
        round(exact_p50_ms, 4),
    )
