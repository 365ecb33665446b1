"""How good recommendations are: learned from all of a log but its last week, and judged by what people wanted then."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from imgsearch.bootstrap import LEVEL, Interval, exact_result, mean_interval, paired_interval
from imgsearch.evaluation.exposure import Exposure, exposure_of
from imgsearch.evaluation.metrics import measures, recall
from imgsearch.evaluation.queries import Labels, labels_of
from imgsearch.evaluation.results import Recommendations
from imgsearch.personal.events import EventArrays, Kind
from imgsearch.personal.recommend.choice import Candidates, Person, people_of
from imgsearch.personal.recommend.history import History
from imgsearch.personal.recommend.recommender import Method, blended, personal_scores
from imgsearch.personal.recommend.train import Learned, learn_recommend
from imgsearch.personal.recommend.wants import Deeds, wants_of
from imgsearch.progress import Progress
from imgsearch.search.index import Index
from imgsearch.search.ranking import Scores
from imgsearch.store.learned_products import rows_of_products

METHODS: tuple[Method, ...] = ("popular", "content", "collaborative", "hybrid")
# Which methods are compared person by person: the first with the second.
PAIRS: tuple[tuple[Method, Method], ...] = (
    ("content", "popular"),
    ("collaborative", "popular"),
    ("hybrid", "popular"),
    ("hybrid", "content"),
    ("hybrid", "collaborative"),
)
# Of each person; the last of those alone who wanted a product that is new.
MEASURES = ("ndcg@10", "recall@20", "map@100", "novelty@10", "new_share@10", "new_ndcg@10")
COVERAGE = "coverage@10"
PEOPLE = ("people", "new_people")
NAMES = (
    *PEOPLE,
    *(f"{method}_{name}" for method in METHODS for name in (*MEASURES, COVERAGE)),
    *(f"{method}_over_{other}_{name}" for method, other in PAIRS for name in MEASURES),
)

# Whose exposure of groups is measured.
_COMPARED: tuple[Method, ...] = ("hybrid", "popular")

_SHOWN = 10
_RANKED = 100

Products = NDArray[np.int64]


def recommendations(
    index: Index,
    events: EventArrays,
    weights: Mapping[Kind, float],
    before: Deeds,
    after: Deeds,
    *,
    sample: int,
    exposure: str | None,
    progress: Progress,
    seed: int = 0,
) -> Recommendations | None:
    """Learn from what is before the held-out week, and let each method answer people who came back in it.

    Each ranks all products but those that the person had before. Right are products that they wanted in that week.

    Args:
        index: What is recommended from; its own learned files play no part.
        events: Of all people, before the held-out week.
        weights: How much an event of each kind says.
        before: What people did, of `events`.
        after: What they did in the held-out week.
        sample: How many people at most, chosen at random.
        exposure: A column that makes groups of products, whose exposure is compared with their relevance.
        progress: Told (stage, done, total).
        seed: Of who is chosen, and of what learning draws.

    Returns:
        None if too few people came back.

    Raises:
        UsageError: Nothing can be learned, or there is no such column.
        MissingComponentError: As for `learn_recommend`.
    """
    rows = np.fromiter(index.items.first_of_products(), np.int64)
    groups = labels_of(index.items, exposure, len(index)) if exposure else None
    people = people_of(before, after, 1, seed, most=sample)
    if not people:
        return None
    learned = learn_recommend(index, events, weights, seed=seed, progress=progress)
    judged = _Judged(index, rows, before, learned)
    for done, person in enumerate(people, start=1):
        judged.add(person)
        progress("evaluate", done, len(people))
    return Recommendations(
        products=len(rows),
        new=int(judged.are_new.sum()),
        people=judged.people,
        measures={name: np.array(values) for name, values in judged.values.items()},
        new_people=judged.new_people,
        coverage={method: len(np.unique(np.concatenate(shown))) / len(rows) for method, shown in judged.shown.items()},
        exposure=None if groups is None else _exposure(groups, rows, judged),
    )


def _exposure(groups: Labels, rows: Products, judged: "_Judged") -> Exposure:
    of_products = Labels(groups.column, groups.names, groups.codes[rows])
    return exposure_of(of_products, {method: judged.shown[method] for method in _COMPARED}, judged.wanted)


class _Judged:
    """What each method recommends to people, one after the other, and how right it is."""

    def __init__(self, index: Index, rows: Products, before: Deeds, learned: Learned) -> None:
        places = rows_of_products(index.items, learned.model.names, len(index))[rows]
        vectors = index.nearest.vectors if len(rows) == len(index) else np.asarray(index.nearest.vectors[rows])
        of_product = np.searchsorted(rows, before.rows)
        self._candidates = Candidates(vectors, of_product, places, learned.model.similar)
        self._popularity = np.append(np.log1p(learned.model.popularity.astype(np.float64)), np.nan)[places]
        self._blend, self._half_life, self._newest = learned.facts.blend, learned.facts.half_life, int(before.times[-1])
        pairs = np.unique(before.users * len(before.rows) + before.products)
        had = np.bincount(of_product[pairs % len(before.rows)], minlength=len(rows))
        people = len(np.unique(before.users))
        # As if one person more had had each product: what nobody had is not infinitely novel.
        self._novelty = -np.log2((had + 1) / (people + 1))
        self.are_new = had == 0
        self.people: list[str] = []
        self.new_people: list[str] = []
        self.wanted: list[Products] = []
        self.shown: dict[Method, list[Products]] = {method: [] for method in METHODS}
        self.values: dict[str, list[float]] = {f"{method}_{name}": [] for method in METHODS for name in MEASURES}

    def add(self, person: Person) -> None:
        """Let each method answer a person."""
        of_product = self._candidates.of_product
        wanted = np.sort(of_product[person.wanted])
        may_be = np.ones(len(self.are_new), bool)
        may_be[of_product[person.had]] = False
        new_wanted = wanted[self.are_new[wanted]]
        number = f"{int(person.before.users[0])}"
        self.people.append(number)
        self.wanted.append(wanted)
        if len(new_wanted):
            self.new_people.append(number)
        for method, scores in self._scores(person).items():
            ranked = _best(scores, may_be, _RANKED)
            shown = ranked[:_SHOWN]
            self.shown[method].append(shown)
            found = {
                **_rightness(ranked, wanted),
                "novelty@10": float(self._novelty[shown].mean()),
                "new_share@10": float(self.are_new[shown].mean()),
            }
            if len(new_wanted):
                new = _rightness(_best(scores, may_be & self.are_new, _RANKED), new_wanted)
                found["new_ndcg@10"] = new["ndcg@10"]
            for name, value in found.items():
                self.values[f"{method}_{name}"].append(value)

    def _scores(self, person: Person) -> dict[Method, Scores]:
        """Score all products by each method, as `Recommender` does; by popularity where one has nothing to say."""
        wants = wants_of(person.before, self._half_life, self._newest)
        of, history = self._candidates, History(self._candidates.of_product[wants.products], wants.weights)
        parts = {**personal_scores(history, of.vectors, of.places, of.similar), "popular": self._popularity}
        alone: dict[Method, Scores] = {
            method: np.nan_to_num(parts.get(method, self._popularity)) for method in METHODS if method != "hybrid"
        }
        return {**alone, "hybrid": blended(parts, self._blend)}


def _best(scores: Scores, may_be: NDArray[np.bool_], most: int) -> Products:
    """Return the places of the highest scores among those that may be, best first; of equal ones the first."""
    places = np.flatnonzero(may_be)
    least = -np.partition(-scores[places], most - 1)[most - 1] if len(places) > most else -np.inf
    places = places[scores[places] >= least]
    return places[np.argsort(-scores[places], kind="stable")[:most]]


def _rightness(ranked: Products, wanted: Products) -> dict[str, float]:
    ranks = np.flatnonzero(np.isin(ranked, wanted)) + 1
    found = measures(ranks, len(wanted))
    return {"ndcg@10": found["ndcg@10"], "recall@20": recall(ranks, len(wanted), 20), "map@100": found["map"]}


def recommendation_figures(found: Recommendations) -> dict[str, Interval]:
    """Return all measures by their flat names, and how one method differs from another, person by person."""
    figures = {"people": exact_result(len(found.people)), "new_people": exact_result(len(found.new_people))}
    for method in METHODS:
        for name in MEASURES:
            values = found.measures[f"{method}_{name}"]
            if len(values):
                figures[f"{method}_{name}"] = mean_interval(values)
        figures[f"{method}_{COVERAGE}"] = exact_result(found.coverage[method])
    for method, other in PAIRS:
        for name in MEASURES:
            values, others = (found.measures[f"{each}_{name}"] for each in (method, other))
            if len(values):
                figures[f"{method}_over_{other}_{name}"] = paired_interval(others, values, level=LEVEL)
    return figures
