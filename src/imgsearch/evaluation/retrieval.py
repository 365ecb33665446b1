"""How good the answers are: every query against every item."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from imgsearch.bootstrap import Interval, exact_result, mean_interval
from imgsearch.encoders.vectors import Vectors
from imgsearch.evaluation.metrics import measures, precision_at_recall
from imgsearch.evaluation.queries import LabeledQuery, Labels, QuerySet
from imgsearch.evaluation.results import Kind, QueryResult, RankedHit, Retrieval
from imgsearch.progress import Progress
from imgsearch.search.backends.protocol import Rows
from imgsearch.search.index import Index
from imgsearch.search.ranking import Scores
from imgsearch.store.arrays import blocks_of

# Measures that are taken for each category.
OF_CATEGORIES = ("hit_rate@1", "hit_rate@10", "map")

_HITS = 10
# Scores of a block of queries with all items take at most so much memory.
_BYTES = 64_000_000


def rank_all(
    index: Index, query_set: QuerySet, kind: Kind, labels: Labels, progress: Progress, *, by_label: bool = False
) -> Retrieval:
    """Rank all items for every query by exact search, and measure where the relevant ones are.

    With `by_label` labels are ranked, each by its best item, as `Index.search` does it for distinct hits.
    """
    queries = query_set.queries
    results: list[QueryResult] = []
    values: list[Mapping[str, float]] = []
    curves = []
    for number, (query, scores) in enumerate(_scores(index.nearest.vectors, queries), start=1):
        progress("rank", number, len(queries))
        if query.own_row is not None:
            scores[query.own_row] = -np.inf
        ranking = np.argsort(-scores, kind="stable")
        ranking = ranking[scores[ranking] > -np.inf]
        relevant, count = query.relevant[query.relevant != query.own_row], query.relevant_count
        if by_label:
            ranking, kinds = _best_of_labels(ranking, labels), np.unique(labels.codes[relevant])
            count += len(kinds) - len(relevant)
            relevant = ranking[np.isin(labels.codes[ranking], kinds)]
        places = np.zeros(len(labels.codes), np.int64)
        places[ranking] = np.arange(1, len(ranking) + 1)
        ranks = np.sort(places[relevant])
        ranks = ranks[ranks > 0]  # words say nothing about some items
        values.append(measures(ranks, count))
        curves.append(precision_at_recall(ranks, count))
        first = ranking[:_HITS]
        found = set(relevant.tolist())
        hits = tuple(
            RankedHit(item.path, labels.of(item.row), float(score), item.row in found, item.category)
            for item, score in zip(index.items.fetch(first.tolist()), scores[first], strict=True)
        )
        results.append(QueryResult(query.path, query.label, query.category, count, hits, query.column))
    return Retrieval(
        kind=kind,
        label=labels.column,
        results=tuple(results),
        measures={name: np.array([value[name] for value in values]) for name in values[0]},
        precision_at_recall=np.mean(curves, axis=0),
        without_relevant=query_set.without_relevant,
        unusable=query_set.unusable,
    )


def _best_of_labels(ranking: Rows, labels: Labels) -> Rows:
    """Keep the best row of each label; rows without one stand alone."""
    codes = labels.codes[ranking].astype(np.int64)
    codes = np.where(codes < 0, len(labels.names) + ranking, codes)
    _, first = np.unique(codes, return_index=True)
    return ranking[np.sort(first)]


def _scores(vectors: Vectors, queries: tuple[LabeledQuery, ...]) -> Iterator[tuple[LabeledQuery, Scores]]:
    """Yield each query with its scores of all rows; -inf of what is no hit.

    What is equal to six digits, which are all that answers show, is equal, and comes in the order of rows: the last
    digits of a product depend on its place in a block.
    """
    by_vectors = [(query, query.vectors) for query in queries if query.vectors is not None]
    views = max((len(asked) for _, asked in by_vectors), default=1)
    at_once = max(1, _BYTES // (4 * len(vectors) * views))
    for start in range(0, len(by_vectors), at_once):
        block = by_vectors[start : start + at_once]
        vectors_of_block = np.concatenate([asked for _, asked in block])
        starts = np.cumsum([0, *(len(asked) for _, asked in block[:-1])])
        scores = np.concatenate(
            [np.maximum.reduceat(vectors_of_block @ rows.T, starts, axis=0) for rows in blocks_of(vectors)], axis=1
        )
        yield from zip((query for query, _ in block), np.clip(scores.round(6), -1, 1), strict=True)
    yield from ((query, query.ranking().scores.round(6)) for query in queries if query.ranking is not None)


def per_category(retrieval: Retrieval) -> Mapping[str, Mapping[str, Interval]]:
    """Return, by category, some of the measures of its queries and the number of its `queries`."""
    return _by([result.category for result in retrieval.results], retrieval)


def per_column(retrieval: Retrieval) -> Mapping[str, Mapping[str, Interval]]:
    """Return the same by the column that queries in words were read from; nothing if none was."""
    columns = [result.column for result in retrieval.results]
    return _by(columns, retrieval) if any(columns) else {}


def _by(names: Sequence[str], retrieval: Retrieval) -> Mapping[str, Mapping[str, Interval]]:
    of_results = np.array(names, dtype=object)
    found: dict[str, Mapping[str, Interval]] = {}
    for name in sorted(set(names)):
        chosen = np.flatnonzero(of_results == name)
        figures = {measure: mean_interval(retrieval.measures[measure][chosen]) for measure in OF_CATEGORIES}
        found[name] = {"queries": exact_result(float(len(chosen))), **figures}
    return found
