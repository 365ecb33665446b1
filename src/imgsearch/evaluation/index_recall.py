"""How many of the true nearest neighbors the index finds, and how fast."""

import contextlib
import functools
import logging
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from imgsearch.encoders.runtime import Embeddings
from imgsearch.errors import MissingComponentError, UsageError
from imgsearch.evaluation.results import CurvePoint, IndexRecall
from imgsearch.progress import Progress
from imgsearch.search.backends import backend_of
from imgsearch.search.backends.protocol import Candidates
from imgsearch.search.hits import Hit
from imgsearch.search.index import Index
from imgsearch.search.recall import Sample, SearchFunction, measure, sampled
from imgsearch.search.search import Search
from imgsearch.search.tuning import AUTOMATIC, TUNED_K, timed_exact
from imgsearch.search.views import View
from imgsearch.store.search_settings import AUTO, BackendSettings

logger = logging.getLogger(__name__)

KS = (1, 10, 100)
# Of the effort in use: enough to see where more no longer helps, and where less begins to harm.
_EFFORTS = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1, 2, 4)
_CURVE_QUERIES = 300
# A forest of so many items is built in a few seconds.
_MAX_TRIAL_COUNT = 100_000


def index_recall(index: Index, sample: int, progress: Progress) -> IndexRecall:
    """Search for items, `sample` at most, as a query does, and compare with every vector."""
    if len(index) < 2:
        raise UsageError(f"recall needs an index of at least two items, but it has {len(index)}")
    chosen = [place for place, _ in zip(index.items.shuffled(), range(sample), strict=False)]
    rows = np.array([row for row, _ in chosen])
    truth = sampled(index.nearest.vectors, rows, KS)
    assert index.manifest.backend is not None

    recall, latency = {}, {}
    for done, k in enumerate(truth.last_scores):
        progress("recall", done, len(truth.last_scores) + 1)
        recall[k], latency[k] = measure(_scores(index.search_vector), truth, k)
    k = TUNED_K if TUNED_K in truth.last_scores else max(truth.last_scores)
    exact = _scores(functools.partial(index.search_vector, exact=True))
    _, exact_latency = measure(exact, truth.first(timed_exact(len(index)), k), k)
    progress("recall", len(recall), len(recall) + 1)
    curve = _curve(index, truth.first(_CURVE_QUERIES, k), k)
    progress("recall", len(recall) + 1, len(recall) + 1)
    return IndexRecall(
        index.manifest.backend.name, tuple(path for _, path in chosen), recall, latency, exact_latency, curve
    )


def _curve(index: Index, sample: Sample, k: int) -> tuple[CurvePoint, ...]:
    """Measure the backend at several efforts; a small index that needs no forest is given one for the purpose."""
    backend, search = index.manifest.backend, index.manifest.search
    assert backend is not None
    if backend_of(backend).file:
        return tuple(_points(index, index.nearest.backend_with_effort, backend, sample, k))
    if search is None or search.backend != AUTO or len(index) > _MAX_TRIAL_COUNT:
        return ()
    _, trial = AUTOMATIC
    try:
        trial.ensure_available()
    except MissingComponentError:
        return ()
    settings = trial.trials(search, len(index))[0]
    vectors = index.nearest.vectors
    with contextlib.ExitStack() as stack:
        try:
            scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            trial.build(scratch, vectors, settings)
        except OSError as error:
            logger.warning("no curve: a forest cannot be written to a temporary folder: %s", error.strerror or error)
            return ()

        def opened(effort: int) -> Candidates:
            return trial.open(scratch, vectors, settings.with_effort(effort))

        return tuple(_points(index, opened, settings, sample, k))


def _points(
    index: Index, opened: Callable[[int], Candidates], settings: BackendSettings, sample: Sample, k: int
) -> Iterator[CurvePoint]:
    lowest, highest = backend_of(settings).effort_range(settings, k + 1, len(index))
    for tried in sorted({min(highest, max(lowest, round(settings.effort * share))) for share in _EFFORTS}):
        found, latency = measure(_scores(functools.partial(_search_with, index, opened(tried))), sample, k)
        yield CurvePoint(settings.effort_name, tried, float(found.mean()), latency)


def _search_with(index: Index, backend: Candidates, vector: Embeddings, k: int) -> list[Hit]:
    return Search(index.nearest, k, backend=backend).hits([View(vector)])


def _scores(search: Callable[[Embeddings, int], list[Hit]]) -> SearchFunction:
    """Measure the whole search, with everything that an answer holds, and not the backend alone."""

    def scores(vector: Embeddings, k: int) -> Embeddings:
        return np.array([hit.score for hit in search(vector, k)], np.float32)

    return scores
