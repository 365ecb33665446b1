"""How good the answers are: every query against every item."""

from collections.abc import Iterator, Mapping

import numpy as np

from imgsearch.encoders.runtime import Embeddings
from imgsearch.evaluation.bootstrap import Interval, exact_result, mean_interval
from imgsearch.evaluation.metrics import measures, precision_at_recall
from imgsearch.evaluation.queries import LabeledQuery, Labels, QuerySet
from imgsearch.evaluation.results import Kind, QueryResult, RankedHit, Retrieval
from imgsearch.progress import Progress
from imgsearch.search.backends.protocol import Rows
from imgsearch.search.index import Index
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
    for number, (query, ranked, scores) in enumerate(_rankings(index.nearest.vectors, queries), start=1):
        progress("rank", number, len(queries))
        relevant = query.relevant[query.relevant != query.own_row]
        ranking, count = ranked if query.own_row is None else ranked[:-1], query.relevant_count
        if by_label:
            ranking, kinds = _best_of_labels(ranking, labels), np.unique(labels.codes[relevant])
            count += len(kinds) - len(relevant)
            relevant = ranking[np.isin(labels.codes[ranking], kinds)]
        places = np.empty(len(labels.codes), np.int64)
        places[ranking] = np.arange(1, len(ranking) + 1)
        ranks = np.sort(places[relevant])
        values.append(measures(ranks, count))
        curves.append(precision_at_recall(ranks, count))
        first = ranking[:_HITS]
        found = set(relevant.tolist())
        hits = tuple(
            RankedHit(item.path, labels.of(item.row), float(score), item.row in found, item.category)
            for item, score in zip(index.items.fetch(first.tolist()), scores[first], strict=True)
        )
        results.append(QueryResult(query.path, query.label, query.category, count, hits))
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


def _rankings(
    vectors: Embeddings, queries: tuple[LabeledQuery, ...]
) -> Iterator[tuple[LabeledQuery, Rows, Embeddings]]:
    """Yield each query with all rows, best first, and the score of each row; its own row comes last."""
    views = max(len(query.vectors) for query in queries)
    at_once = max(1, _BYTES // (4 * len(vectors) * views))
    for start in range(0, len(queries), at_once):
        block = queries[start : start + at_once]
        vectors_of_block = np.concatenate([query.vectors for query in block])
        starts = np.cumsum([0, *(len(query.vectors) for query in block[:-1])])
        scores = np.concatenate(
            [np.maximum.reduceat(vectors_of_block @ rows.T, starts, axis=0) for rows in blocks_of(vectors)], axis=1
        )
        # What is equal to six digits, which are all that answers show, is equal, and comes in the order of rows: the
        # last digits of a product depend on its place in a block.
        scores = np.clip(scores.round(6), -1, 1)
        for query, row in zip(block, scores, strict=True):
            if query.own_row is not None:
                row[query.own_row] = -np.inf
            yield query, np.argsort(-row, kind="stable"), row


def per_category(retrieval: Retrieval) -> Mapping[str, Mapping[str, Interval]]:
    """Return, by category, some of the measures of its queries and the number of its `queries`."""
    categories = np.array([result.category for result in retrieval.results], dtype=object)
    found: dict[str, Mapping[str, Interval]] = {}
    for category in sorted(set(categories.tolist())):
        chosen = np.flatnonzero(categories == category)
        figures = {name: mean_interval(retrieval.measures[name][chosen]) for name in OF_CATEGORIES}
        found[category] = {"queries": exact_result(float(len(chosen))), **figures}
    return found
