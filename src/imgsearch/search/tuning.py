"""Choose how an index is searched: as fast as the recall that the user wants allows."""

import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from imgsearch.encoders.runtime import Embeddings
from imgsearch.search.backends.annoy_process import check_forest
from imgsearch.search.backends.backends import Backend, ExactBackend, build_annoy, open_backend, scores_of
from imgsearch.search.backends.faiss_lists import build_faiss, check_lists, lists_for
from imgsearch.search.recall import Ask, Latency, Sample, Values, measure, sampled
from imgsearch.store.generations import ANNOY, BACKEND_FILES
from imgsearch.store.plan import BackendSettings, Measured, SearchOptions

logger = logging.getLogger(__name__)

# A catalog of so few is compared in about the time in which Annoy looks at `LEAST_SEARCH_K` nodes.
SMALL = 4000

# The recall of so many neighbors is tuned. docs/benchmarks.md has what that gives for fewer and for more.
TUNED_K = 10
_QUERIES = 500
TIMED_EXACT = 50

# Below this nothing is saved: a search takes a quarter of a millisecond.
LEAST_SEARCH_K = 2000
_STEP = 2**0.5
# Forests that are tried. It is search_k that decides what is found, hardly the number of trees, which takes memory; so
# larger ones are tried only where Annoy would have to look at more than an eighth of the catalog.
FORESTS = (10, 20, 40)
_LARGE_SHARE = 8
MOST_TREES = max(FORESTS)
# 1, 2, 3, 4, 6, 8, 12, ...: of the Faiss lists.
_PROBES = sorted(factor << power for factor in (1, 3) for power in range(32))


def may_need_forest(wish: SearchOptions, count: int) -> bool:
    """Say whether Annoy may come to search a catalog of so many images."""
    return count > 0 and (wish.backend == "annoy" or (wish.backend == "auto" and count > SMALL))


def search_with(backend: Backend, vectors: Embeddings) -> Ask:
    """Make a search of a backend: candidates, scored exactly.

    Args:
        backend: What proposes rows.
        vectors: float32 (count, d), unit rows.
    """

    def search(vector: Embeddings, k: int) -> Embeddings:
        scores = scores_of(vectors[backend.candidates(vector, min(k, len(vectors)))], vector)
        return np.sort(scores)[::-1][:k]

    return search


def tune(folder: Path, vectors: Embeddings, wish: SearchOptions) -> tuple[BackendSettings, Measured | None]:
    """Choose how an index is searched, and build what that needs.

    Args:
        folder: Of the generation in work; the forest or the lists are written into it if there are to be any.
        vectors: float32 (count, d), unit rows.
        wish: Of the user.

    Returns:
        The choice, and what it was measured to find; None where there is nothing to be found.

    Raises:
        OSError: The forest or the lists cannot be written.
        DamagedIndexError: What was written cannot be read.
        MissingComponentError: Faiss is wished for and not installed.
    """
    exact = BackendSettings("exact", 0, wish.seed, 0)
    if not len(vectors):
        return exact, None
    rows = np.random.default_rng(wish.seed).permutation(len(vectors))[:_QUERIES]
    k = min(TUNED_K, len(vectors) - 1)
    sample = sampled(vectors, rows, [k]) if k else None
    measured = _measured_exact(vectors, sample, k) if sample else None
    if wish.backend == "faiss":
        trials = [BackendSettings("faiss", 0, wish.seed, 0, lists_for(len(vectors)), 1)]
    elif may_need_forest(wish, len(vectors)):
        forests = (wish.trees,) if wish.trees else FORESTS
        trials = [BackendSettings("annoy", trees, wish.seed, LEAST_SEARCH_K) for trees in forests]
    else:
        return exact, measured
    if sample is None or measured is None:
        _build(folder, vectors, trials[0])
        return trials[0], None
    for trial in trials:
        _build(folder, vectors, trial)
        settings, recall, latency = _with_least_effort(folder, vectors, trial, sample, wish.target_recall)
        if settings.search_k <= max(LEAST_SEARCH_K, len(vectors) / _LARGE_SHARE):
            break
    reached = recall.mean() >= wish.target_recall
    if wish.backend == "auto" and (not reached or 1000 * latency.p50 >= measured.exact_p50_ms):
        (folder / ANNOY).unlink()
        return exact, measured
    if not reached:
        name = settings.name.capitalize()
        logger.warning("%s finds %.4f of the nearest, less than %g", name, recall.mean(), wish.target_recall)
    return settings, _measured(recall, latency, measured.exact_p50_ms)


def _build(folder: Path, vectors: Embeddings, settings: BackendSettings) -> None:
    """Build a forest or lists, and look whether they can be read: a forest in another process."""
    path = folder / BACKEND_FILES[settings.name]
    if settings.name == "faiss":
        build_faiss(folder, vectors, settings.lists, settings.seed)
        check_lists(path, vectors, settings)
    else:
        build_annoy(folder, vectors, settings.trees, settings.seed)
        check_forest(path, vectors, settings)


def _with_least_effort(
    folder: Path, vectors: Embeddings, settings: BackendSettings, sample: Sample, target: float
) -> tuple[BackendSettings, Values, Latency]:
    """Find the least search_k, or probes, that reaches the target, for certain and not by luck with the sample."""
    (k,) = sample.last_scores
    for effort in _efforts(settings, len(vectors)):
        settings = settings.with_effort(effort)
        backend = open_backend(folder, settings, *vectors.shape)
        recall, latency = measure(search_with(backend, vectors), sample, k)
        error = recall.std() / np.sqrt(len(recall)) if len(recall) < len(vectors) else 0.0
        # Twice the standard error below the mean: another sample would show as much in 97 of 100 cases.
        if recall.mean() - 2 * error >= target:
            break
    return settings, recall, latency


def _efforts(settings: BackendSettings, count: int) -> Iterator[int]:
    """Yield what to try, ascending; the last finds everything that the backend can find."""
    if settings.name == "faiss":
        yield from (probes for probes in _PROBES if probes < settings.lists)
        yield settings.lists
        return
    search_k = LEAST_SEARCH_K
    while search_k < count * settings.trees:
        yield search_k
        search_k = round(search_k * _STEP)
    yield search_k


def _measured_exact(vectors: Embeddings, sample: Sample, k: int) -> Measured:
    recall, latency = measure(search_with(ExactBackend(vectors), vectors), sample.first(TIMED_EXACT, k), k)
    return _measured(recall, latency, 1000 * latency.p50)


def _measured(recall: Values, latency: Latency, exact_p50_ms: float) -> Measured:
    return Measured(
        len(recall),
        round(float(recall.mean()), 6),
        round(1000 * latency.p50, 4),
        round(1000 * latency.p95, 4),
        round(exact_p50_ms, 4),
    )
