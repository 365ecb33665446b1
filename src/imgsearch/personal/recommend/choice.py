"""Choose how recommendations are made by what would have been right in the last week, which nothing is learned from."""

from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass

import numpy as np
from numpy.typing import NDArray

from imgsearch.encoders.vectors import Vectors
from imgsearch.personal.recommend.collaborative import Similar
from imgsearch.personal.recommend.history import DAY, MOST_EVENTS, History
from imgsearch.personal.recommend.recommender import DEFAULT_HALF_LIFE, blended, personal_scores
from imgsearch.personal.recommend.wants import EVER, Deeds, popularity_of, wants_of
from imgsearch.progress import Progress, no_progress
from imgsearch.store.learned import Blend

# What is taken where too few people came back to choose by: good on MovieLens-100k and on a simulated shop, though best
# on neither.
DEFAULT_BLEND = Blend(0.2, 0.1, 0.7)

_HALF_LIVES = (DEFAULT_HALF_LIFE, 7.0, 90.0, 365.0)
_WEEK = 7 * DAY
_STEPS = 10  # of each share
_LEAST_PEOPLE = 50
_MOST_PEOPLE = 2000
_MOST_FOR_HALF_LIFE = 400
# Of people and products: in a larger catalog fewer people are asked.
_MOST_SCORES = 40_000_000
_PLACES = 10

# See `_within_reach`.
_OF_EACH = 50
_ROUNDING = 1e-3

_CONTENT, _COLLABORATIVE, _POPULAR = Blend(1, 0, 0), Blend(0, 1, 0), Blend(0, 0, 1)

Values = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Candidates:
    """What may be recommended: each product of the catalog, in the order of their first images.

    Attributes:
        vectors: (C, d), of the first images.
        of_product: (P,) which candidate each product of `Deeds` is.
        places: (C,) of each candidate its place among the products of `similar`, -1 for those without events.
        similar: What was learned from the events before the held-out week.
    """

    vectors: Vectors
    of_product: NDArray[np.int64]
    places: NDArray[np.int32]
    similar: Similar


@dataclass(frozen=True, slots=True)
class Choice:
    """What was chosen; where too few people came back, `people` is 0.

    Attributes:
        gain: nDCG@10 of the blend, less that of the most popular products.
        ndcg: nDCG@10 of the blend.
    """

    blend: Blend = DEFAULT_BLEND
    half_life: float = DEFAULT_HALF_LIFE
    people: int = 0
    gain: float = 0.0
    ndcg: float = 0.0


@dataclass(frozen=True, slots=True, eq=False)
class Person:
    """Somebody who came back in the held-out week; products are those of `Deeds`.

    Attributes:
        before: What they did before, the newest of it.
        had: Products that this was about.
        wanted: Others that they wanted in that week.
    """

    before: Deeds
    had: NDArray[np.int64]
    wanted: NDArray[np.int64]


def held_out_from(deeds: Deeds) -> int:
    """Return the time that the last week begins at; the last quarter, where all is less than three weeks."""
    newest, span = int(deeds.times[-1]), int(deeds.times[-1] - deeds.times[0])
    return newest - (_WEEK if span >= 3 * _WEEK else span // 4)


def people_of(before: Deeds, after: Deeds, candidates: int, seed: int, *, most: int = _MOST_PEOPLE) -> list[Person]:
    """Return those who came back and wanted something new, some at random if they are many; none if too few.

    Args:
        before: What people did until the held-out week.
        after: What they did in it.
        candidates: How many products there are; of more, fewer people are asked.
        seed: Of the choice.
        most: How many at most, however few products there are.
    """
    if not len(before) or not len(after):
        return []
    wants = wants_of(after, EVER, int(after.times[-1]))
    had = wants_of(before, EVER, int(before.times[-1]))
    count = len(after.rows)
    is_new = ~np.isin(wants.users * count + wants.products, had.users * count + had.products)
    are_meant = (wants.weights > 0) & is_new & np.isin(wants.users, had.users)
    users = np.unique(wants.users[are_meant])
    most = min(most, max(_MOST_SCORES // max(1, candidates), _LEAST_PEOPLE))
    if len(users) < _LEAST_PEOPLE:
        return []
    if len(users) > most:
        users = np.sort(np.random.default_rng(seed).choice(users, most, replace=False))
    order = np.argsort(before.users, kind="stable")  # of each the oldest first
    sorted_users = before.users[order]
    people = []
    for user in users.tolist():
        start, end = np.searchsorted(sorted_users, (user, user + 1))
        then = wants.of(user)
        wanted = wants.products[then][are_meant[then]]
        people.append(Person(before.taken(order[start:end][-MOST_EVENTS:]), had.products[had.of(user)], wanted))
    return people


def choose(candidates: Candidates, before: Deeds, people: Sequence[Person], progress: Progress = no_progress) -> Choice:
    """Choose half-life and blend by nDCG@10, the mean over people who came back in the held-out week.

    Of equals the blend nearest to the default is taken. Among products without events before that week it must find no
    less than content alone.

    Args:
        candidates: With what was learned from `before`.
        before: What people did until the held-out week.
        people: As of `people_of`, at least one.
        progress: Called with ("recommend", done, total), of people.
    """
    few = people[:: -(-len(people) // _MOST_FOR_HALF_LIFE)]
    total = len(_HALF_LIVES) * len(few) + len(people)
    best, best_ndcg = DEFAULT_HALF_LIFE, -1.0
    for number, half_life in enumerate(_HALF_LIVES):
        ndcg = _best(*_judged(candidates, before, few, half_life, _told(progress, number * len(few), total)))[1]
        if ndcg > best_ndcg:
            best, best_ndcg = half_life, ndcg
    overall, of_new = _judged(candidates, before, people, best, _told(progress, total - len(people), total))
    place, ndcg = _best(overall, of_new)
    popular = float(overall[:, _BLENDS.index(_POPULAR)].mean())
    return Choice(_BLENDS[place], best, len(people), ndcg - popular, ndcg)


def _told(progress: Progress, start: int, total: int) -> Callable[[int], None]:
    return lambda done: progress("recommend", start + done, total)


def _best(overall: Values, of_new: Values) -> tuple[int, float]:
    """Return the place of the best blend, and its nDCG@10: the first of equals."""
    means = overall.mean(axis=0)
    if len(of_new) >= _LEAST_PEOPLE:
        means_of_new = of_new.mean(axis=0)
        means = np.where(means_of_new >= means_of_new[_BLENDS.index(_CONTENT)], means, -1.0)
    place = int(means.argmax())
    return place, float(means[place])


def _judged(
    candidates: Candidates, before: Deeds, people: Sequence[Person], half_life: float, told: Callable[[int], None]
) -> tuple[Values, Values]:
    """Return nDCG@10 of each person (n, blends), and of those who wanted new products among these alone."""
    newest = int(before.times[-1])
    sums = popularity_of(wants_of(before, half_life, newest), len(before.rows))
    popularity = np.full(len(candidates.vectors), np.nan)
    popularity[candidates.of_product] = np.log1p(sums)
    popularity[candidates.places < 0] = np.nan
    are_new = candidates.places < 0
    overall: list[Values] = []
    of_new: list[Values] = []
    for done, person in enumerate(people):
        told(done)
        wants = wants_of(person.before, half_life, newest)
        history = History(candidates.of_product[wants.products], wants.weights)
        parts = personal_scores(history, candidates.vectors, candidates.places, candidates.similar)
        parts["popular"] = popularity
        # Of parts that are there; what is not counts nothing, and the others in proportion.
        standard = np.zeros((3, len(popularity)), np.float32)
        for place, name in enumerate(("content", "collaborative", "popular")):
            if name in parts:
                standard[place] = blended({name: parts[name]}, _CONTENT)
        are_wanted = np.zeros(len(popularity), bool)
        are_wanted[candidates.of_product[person.wanted]] = True
        may_be = np.ones(len(popularity), bool)
        may_be[candidates.of_product[person.had]] = False
        for found, are_meant in ((overall, may_be), (of_new, may_be & are_new)):
            if are_wanted[are_meant].any():
                found.append(_of_all_blends(standard[:, are_meant], are_wanted[are_meant]))
    return np.array(overall).reshape(-1, len(_BLENDS)), np.array(of_new).reshape(-1, len(_BLENDS))


def _of_all_blends(standard: NDArray[np.float32], are_wanted: NDArray[np.bool_]) -> Values:
    """Return nDCG@10 of one person by all blends, of scores (3, n)."""
    near = _within_reach(standard)
    return ndcg(_SHARES @ standard[:, near], are_wanted[near], int(are_wanted.sum()))


def ndcg(scores: NDArray[np.floating], are_wanted: NDArray[np.bool_], count: int) -> Values:
    """Return nDCG@10 of several orders: (orders,).

    Args:
        scores: (orders, n); of equal scores the first counts as the higher.
        are_wanted: (n,), gains of 1; all others are 0.
        count: How many are wanted in all, those included that `scores` leaves out; at least 1.
    """
    most = min(_PLACES, scores.shape[1])
    least = -np.partition(-scores, most - 1, axis=1)[:, most - 1 : most]
    may_be = np.flatnonzero((scores >= least).any(axis=0))
    first = may_be[np.argsort(-scores[:, may_be], axis=1, kind="stable")[:, :most]]
    discounts = 1 / np.log2(np.arange(2, _PLACES + 2))
    best: float = discounts[:count].sum()
    return are_wanted[first] @ discounts[:most] / best


def _within_reach(standard: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Return which of the columns of (3, n) may be among the first ten by any blend: few, and all that are."""
    count = standard.shape[1]
    if count <= _OF_EACH:
        return np.ones(count, bool)
    best_of_each = np.unique(np.argpartition(-standard, _OF_EACH, axis=1)[:, :_OF_EACH])
    tenth = -np.partition(-(_SHARES @ standard[:, best_of_each]), _PLACES - 1, axis=1)[:, _PLACES - 1]
    # No blend gives more than the best of the three; and products of matrices are rounded.
    near: NDArray[np.bool_] = standard.max(axis=0) >= tenth.min() - _ROUNDING
    return near


def _blends() -> list[Blend]:
    """Return all blends in tenths, those nearest to the default first."""
    steps = range(_STEPS + 1)
    found = [
        Blend(content / _STEPS, collaborative / _STEPS, (_STEPS - content - collaborative) / _STEPS)
        for content in steps
        for collaborative in steps[: _STEPS + 1 - content]
    ]
    return sorted(found, key=lambda blend: float(np.abs(np.subtract(astuple(blend), astuple(DEFAULT_BLEND))).sum()))


_BLENDS = _blends()
_SHARES = np.array([astuple(blend) for blend in _BLENDS], np.float32)
