"""How good the answers are: every query against every item."""

from collections.abc import Iterator, Mapping

import numpy as np

from imgsearch.encoders.runtime import Embeddings
from imgsearch.evaluation.bootstrap import Interval, mean_interval
from imgsearch.evaluation.labels import Labels
from imgsearch.evaluation.metrics import measures, precision_at_recall
from imgsearch.evaluation.questions import Question, Questions
from imgsearch.evaluation.results import Judged, JudgedHit, Kind, Retrieval
from imgsearch.progress import Progress
from imgsearch.search.backends.backends import Rows
from imgsearch.search.index import Index
from imgsearch.store.arrays import blocks_of

# Measures that are taken for each category.
OF_CATEGORIES = ("hit_rate@1", "hit_rate@10", "map")

_HITS = 10
# Scores of a block of queries with all items take at most so much memory.
_BYTES = 64_000_000


def judge(index: Index, questions: Questions, kind: Kind, labels: Labels, progress: Progress) -> Retrieval:
    """Rank all items for every query, and compare with what is right.

    The ranking is that of exact search; how much of it the index finds is `index_recall`'s matter.

    Args:
        index: What is asked.
        questions: At least one.
        kind: Where they come from.
        labels: Say what is right.
        progress: Told ("rank", done, total).
    """
    asked = questions.asked
    judged: list[Judged] = []
    values: list[Mapping[str, float]] = []
    curves = []
    for number, (question, ranking, scores) in enumerate(_rankings(index.nearest.vectors, asked), start=1):
        progress("rank", number, len(asked))
        places = np.empty(len(ranking), np.int64)
        places[ranking] = np.arange(1, len(ranking) + 1)
        right = question.right[question.right != question.own]
        ranks = np.sort(places[right])
        values.append(measures(ranks, question.right_answers))
        curves.append(precision_at_recall(ranks, question.right_answers))
        answers = len(ranking) - (question.own is not None)
        first = ranking[: min(_HITS, answers)]
        judged.append(_judged(index, question, first, scores[first], set(right.tolist()), labels))
    return Retrieval(
        kind=kind,
        label=labels.column,
        judged=tuple(judged),
        measures={name: np.array([value[name] for value in values]) for name in values[0]},
        precision_at_recall=np.mean(curves, axis=0),
        without_right_answer=questions.without_right_answer,
        unusable=questions.unusable,
    )


def _rankings(vectors: Embeddings, asked: tuple[Question, ...]) -> Iterator[tuple[Question, Rows, Embeddings]]:
    """Yield each query with all rows, best first, and the score of each row; its own row comes last."""
    views = max(len(question.vectors) for question in asked)
    at_once = max(1, _BYTES // (4 * len(vectors) * views))
    for start in range(0, len(asked), at_once):
        block = asked[start : start + at_once]
        queries = np.concatenate([question.vectors for question in block])
        starts = np.cumsum([0, *(len(question.vectors) for question in block[:-1])])
        scores = np.concatenate(
            [np.maximum.reduceat(queries @ rows.T, starts, axis=0) for rows in blocks_of(vectors)], axis=1
        )
        # What is equal to six digits, which are all that answers show, is equal, and comes in the order of rows: the
        # last digits of a product depend on its place in a block.
        scores = np.clip(scores.round(6), -1, 1)
        for question, row in zip(block, scores, strict=True):
            if question.own is not None:
                row[question.own] = -np.inf
            yield question, np.argsort(-row, kind="stable"), row


def _judged(
    index: Index, question: Question, rows: Rows, scores: Embeddings, right: set[int], labels: Labels
) -> Judged:
    hits = tuple(
        JudgedHit(item.path, labels.of(item.row), float(score), item.row in right, item.category)
        for item, score in zip(index.items.at(rows.tolist()), scores, strict=True)
    )
    return Judged(question.query, question.label, question.category, question.right_answers, hits)


def per_category(retrieval: Retrieval) -> Mapping[str, Mapping[str, Interval]]:
    """Take some measures of each category by itself.

    Returns:
        Category -> name of a measure -> its mean and interval, and the number of its `queries`; sorted by category.
    """
    categories = np.array([one.category for one in retrieval.judged], dtype=object)
    found: dict[str, Mapping[str, Interval]] = {}
    for category in sorted(set(categories.tolist())):
        chosen = np.flatnonzero(categories == category)
        figures = {name: mean_interval(retrieval.measures[name][chosen]) for name in OF_CATEGORIES}
        count = float(len(chosen))
        found[category] = {"queries": Interval(count, count, count), **figures}
    return found
