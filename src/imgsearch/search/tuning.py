"""Choose how an index is searched: as fast as the recall and the memory that the user wants allow."""

import logging
import math
from dataclasses import replace
from pathlib import Path

import numpy as np

from imgsearch.encoders.runtime import Embeddings
from imgsearch.encoders.vectors import Vectors
from imgsearch.errors import UsageError
from imgsearch.search.backends import BACKENDS
from imgsearch.search.backends.annoy import AnnoyBackend
from imgsearch.search.backends.exact import ExactBackend, ExactCandidates
from imgsearch.search.backends.faiss import FaissBackend
from imgsearch.search.backends.faiss_codes import FaissCodesBackend
from imgsearch.search.backends.protocol import Backend, Candidates, Rows, scores_of
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
# So many comparisons with every vector are timed, or fewer, at least five, that look at so many vectors.
_TIMED_EXACT = 50
_TIMED_VECTORS = 10_000_000

# Where a search takes more effort than this share of the catalog, the backend's next trial is built.
_LARGE_SHARE = 8

# What a process takes that answers queries, with the default encoder, beside vectors and the backend's file.
PROGRAM_BYTES = 250_000_000

# An index is tuned anew when more than one in so many vectors has changed since.
_LARGEST_CHANGE = 20


def chosen_backend(options: SearchOptions, count: int, dims: int) -> Backend:
    """Return the backend that may come to search so many vectors of this length; nothing is searched exactly.

    Raises:
        UsageError: Not within the memory that the user allows.
    """
    exact, automatic = AUTOMATIC
    if not count:
        return exact
    backend = (exact if count <= SMALL else automatic) if options.backend == AUTO else BACKENDS[options.backend]
    if options.memory_budget is None or _resident_bytes(backend, options, count, dims) <= options.memory_budget:
        return backend
    if options.backend in (AUTO, FaissBackend.name):
        backend = BACKENDS[FaissCodesBackend.name]
    least = _resident_bytes(backend, options, count, dims)
    if least <= options.memory_budget:
        return backend
    raise UsageError(
        f"the memory budget of {options.memory_budget / 1e6:,.0f} MB is too small: {count:,} vectors of {dims} numbers,"
        f" searched by {backend.name}, need {math.ceil(least / 1e6):,} MB",
        hint="--memory-budget none: no limit",
    )


def _resident_bytes(backend: Backend, options: SearchOptions, count: int, dims: int) -> int:
    """Estimate what a process may come to hold that answers queries, mapped files too."""
    vectors = count * dims * np.dtype(backend.numbers).itemsize
    return PROGRAM_BYTES + vectors + backend.estimated_bytes(count, 4 * dims, options)


def timed_exact(count: int) -> int:
    """Return how many comparisons with so many vectors are timed."""
    return min(_TIMED_EXACT, max(5, _TIMED_VECTORS // count))


def make_search(backend: Candidates, vectors: Vectors) -> SearchFunction:
    """Make a search of a backend: candidates, scored exactly."""

    def search(vector: Embeddings, k: int) -> Embeddings:
        scores = scores_of(vectors[backend.candidates(vector, min(k, len(vectors)))], vector)
        return np.sort(scores)[::-1][:k]

    return search


def tune(
    folder: Path, vectors: Vectors, options: SearchOptions, collection: str = "", place: str = ""
) -> tuple[BackendSettings, Measured | None]:
    """Choose how (count, d) unit rows are searched, write what that needs, and measure what it finds.

    `collection` and `place` are those of `BackendSettings`, for a backend with a server.
    """
    exact, automatic = AUTOMATIC
    backend = chosen_backend(options, *vectors.shape)
    measured = sample = None
    k = min(TUNED_K, len(vectors) - 1)
    if k > 0:
        rows = np.random.default_rng(options.seed).permutation(len(vectors))[:_QUERIES]
        sample = sampled(vectors, rows, [k])
        search = make_search(ExactCandidates(vectors), vectors)
        recall, latency = measure(search, sample.first(timed_exact(len(vectors)), k), k)
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
    is_slow = 1000 * latency.p50 >= measured.exact_p50_ms
    # What a budget for memory asks for is kept though it misses a little: it is for catalogs that take long to compare.
    if options.backend == AUTO and (is_slow or (not reached and backend.name == automatic.name)):
        (folder / backend.file).unlink()
        return exact_result
    if not reached:
        name = settings.name.capitalize()
        logger.warning("%s finds %.4f of the nearest, less than %g", name, recall.mean(), options.target_recall)
    return settings, _measured(recall, latency, measured.exact_p50_ms)


def take_over(
    folder: Path, vectors: Vectors, settings: BackendSettings, before: Path, new_rows: Rows
) -> BackendSettings | None:
    """Write what a search needs from that of the generation before, if few vectors have changed since it was tuned.

    Args:
        folder: Of the new generation.
        vectors: Of the new generation, in numbers of the same kind.
        settings: How the generation before is searched.
        before: Its folder, in which the backend's file is whole.
        new_rows: The new row of each row before, (count before,); -1 for a vector that is gone.

    Returns:
        How the new generation is searched; None if that is to be built and tuned anew.
    """
    kept = int(np.count_nonzero(new_rows >= 0))
    changed = settings.changed + len(new_rows) + len(vectors) - 2 * kept
    backend = BACKENDS[settings.name]
    if _LARGEST_CHANGE * changed > len(vectors) or not backend.take_over(folder, vectors, settings, before, new_rows):
        return None
    settings = replace(settings, changed=changed)
    backend.check(folder, vectors, settings)
    return settings


def _build(backend: Backend, folder: Path, vectors: Vectors, settings: BackendSettings) -> None:
    backend.build(folder, vectors, settings)
    backend.check(folder, vectors, settings)


def _with_min_effort(
    folder: Path, vectors: Vectors, settings: BackendSettings, sample: Sample, target: float
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
