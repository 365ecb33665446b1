"""Invent customers of a shop and write what they did as an event log, with a truth that is known.

python examples/simulated_shop.py INDEX -o EVENTS.csv [--users N] [--events N] [--days N] [--seed S] [--truth DIR]

Products are those of an index. What their pictures say are its vectors; each also has a style that no picture shows
(in part that of its category, and of its `brand`, if it has one), an attractiveness with a long tail, a day on which it
was launched (`added`, if it has that), a season and a price (`price`). Customers have one to four tastes, each for a
region of products around a point of the vectors' space, of which they now follow one and now another; and a style, a
usual price and an activity with a long tail.

They browse, or search. Who browses takes the best of some products: `liking` with chance added. Who searches asks with
a product of the index or, where it has words, with a title, sees 20 hits in the index's order with some noise, looks
at place k with probability 1 / k ** ETA, and clicks what was looked at with a probability that is its `relevance`. So
clicks lie about position, and how much is known. `Truth.read` reads what was invented, for evaluations.
"""

import argparse
import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from imgsearch import Index, UsageError
from imgsearch.store.items import Item

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]

KINDS = ("view", "click", "cart", "buy", "like", "dislike", "return")
COLUMNS = ("time", "user", "event", "product", "query", "position", "session")
LAST_DAY = np.datetime64("2025-06-30")
MS_A_DAY = 86_400_000

ETA = 1.0  # how fast people look less at later places
PLACES = 20  # of an answer
MOST_QUESTIONS, MOST_TITLES = 2_000, 200
IN_SEARCHES = 0.4  # share of the events that are about answers
STYLE_DIMS = 8
MOST_TASTES = 4
NEW_DAYS = 14  # in which a product counts as new; a twentieth of all are launched in the last so many days

# How much each thing counts for what a customer likes, and liking beside likeness for what is clicked in an answer.
TASTE, STYLE, ATTRACTION, SEASON, PRICE, NOVELTY = 1.5, 1.3, 0.7, 0.5, 0.4, 0.6
LIKENESS, LIKING, LEVEL = 0.6, 0.8, -1.2


@dataclass(frozen=True, slots=True, eq=False)
class Truth:
    """All that was invented. P products, U customers, K tastes, Q queries.

    Attributes:
        names: (P,) of products, as the index has them.
        style: (P, 8).
        attraction: (P,), the logarithm of how attractive a product is.
        launch: (P,), the day, from 0; that of the column `added` where there is one.
        phase: (P,), part of the year at which it is in season.
        price: (P,), its logarithm, standardized.
        fit: (K, P), how well products fit a taste: 1 at its center, 0 at the edge of its region, -1 far outside.
        tastes: (U, 4) numbers of tastes; those who have fewer have the first again.
        shares: (U, 4) how much each counts, 0 of those that are there again.
        peaks: (U, 4) the day on which each counts most.
        own_style: (U, 8).
        own_price: (U,).
        activity: (U,), adds up to 1.
        questions: (Q,) names or words.
        shown: (Q, 40) products that answer each, best first.
        scores: (Q, 40) of these in the index.
        near: (K, 8) queries that are asked by those who follow a taste.
    """

    names: NDArray[np.str_]
    style: Floats
    attraction: Floats
    launch: Floats
    phase: Floats
    price: Floats
    fit: Floats
    tastes: Ints
    shares: Floats
    peaks: Floats
    own_style: Floats
    own_price: Floats
    activity: Floats
    questions: NDArray[np.str_]
    shown: Ints
    scores: Floats
    near: Ints

    def save(self, folder: Path) -> None:
        """Write `truth.npz`."""
        folder.mkdir(parents=True, exist_ok=True)
        np.savez(folder / "truth.npz", **{each.name: getattr(self, each.name) for each in fields(self)})

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read what `save` has written."""
        with np.load(folder / "truth.npz", allow_pickle=False) as arrays:
            return cls(**{each.name: arrays[each.name] for each in fields(cls)})

    def liking(self, users: Ints, tastes: Ints, products: Ints, day: float) -> Floats:
        """Say how much customers (n,), with tastes (n, t), like products (n, m) on a day."""
        fit = self.fit[tastes[:, :, None], products[:, None, :]].max(axis=1)
        style = np.einsum("nd,nmd->nm", self.own_style[users], self.style[products]) / np.sqrt(STYLE_DIMS)
        season = np.cos(2 * np.pi * (day / 365 - self.phase[products]))
        is_new = np.abs(day - self.launch[products]) < NEW_DAYS
        found = TASTE * fit + STYLE * style + ATTRACTION * self.attraction[products] + SEASON * season
        found += NOVELTY * is_new - PRICE * np.abs(self.price[products] - self.own_price[users][:, None])
        return np.asarray(found, np.float32)

    def relevance(self, users: Ints, queries: Ints, scores: Floats, products: Ints, day: float) -> Floats:
        """Say how probably customers (n,) click products (n, m) that have these scores for queries (n,), once seen."""
        usual = self.scores[queries]
        likeness = (scores - usual.mean(axis=1, keepdims=True)) / (usual.std(axis=1, keepdims=True) + 1e-6)
        return _sigmoid(LEVEL + LIKENESS * likeness + LIKING * self.liking(users, self.tastes[users], products, day))

    def draw_searches(self, generator: np.random.Generator, count: int, day: float) -> tuple[Ints, Ints]:
        """Draw who searches on a day, and for what: numbers of customers (n,) and of queries (n,)."""
        users, tastes = self.draw_customers(generator, count, day)
        return users, self.near[tastes, generator.integers(0, self.near.shape[1], count)]

    def draw_customers(self, generator: np.random.Generator, count: int, day: float) -> tuple[Ints, Ints]:
        """Draw who comes on a day (n,), and the taste each then follows (n,)."""
        users = _draw(generator, self.activity, count)
        width = max(7.0, float(np.ptp(self.peaks)) / 5)
        shares = self.shares[users] * (0.05 + np.exp(-0.5 * ((day - self.peaks[users]) / width) ** 2))
        parts = np.cumsum(shares, axis=1)
        chosen = (parts < generator.random((count, 1)) * parts[:, -1:]).sum(axis=1)
        return users, self.tastes[users, chosen]


def _sigmoid(values: Floats) -> Floats:
    return np.asarray(1 / (1 + np.exp(-values)), np.float32)


def _draw(generator: np.random.Generator, weights: Floats, size: int | tuple[int, int]) -> Ints:
    """Draw numbers of what has weights, with replacement."""
    sums = np.cumsum(weights, dtype=np.float64)
    return np.asarray(np.searchsorted(sums, generator.random(size) * sums[-1]).clip(max=len(weights) - 1), np.int64)


def invent(index: Index, users: int, days: int, generator: np.random.Generator) -> Truth:
    """Invent what pictures do not say of the products of an index, and customers.

    Raises:
        UsageError: There are too few products for answers.
    """
    rows = [*index.items.first_of_products()]
    items = index.items.fetch(rows)
    vectors = np.asarray(index.nearest.vectors[np.array(rows)], np.float32)
    count = len(rows)
    if count <= 2 * PLACES:
        raise UsageError(f"expected an index of more than {2 * PLACES} products, found {count}")

    centers = vectors[generator.choice(count, min(800, max(1, count // 4)), replace=False)]
    centers = centers + generator.normal(0, 0.2 / np.sqrt(vectors.shape[1]), centers.shape).astype(np.float32)
    fit = centers @ vectors.T
    for row in fit:  # in place, one by one: there are megabytes of them
        edge = np.partition(row, -_region(count))[-_region(count)]
        row[:] = ((row - edge) / (row.max() - edge + 1e-6)).clip(-1, 1)

    categories = [item.category for item in items]
    if len(set(categories)) < 2:
        categories = [str(number) for number in (vectors @ centers[:64].T).argmax(axis=1)]
    brands = [str(item.metadata.get("brand", "")) for item in items]
    of_category, of_brand = (np.unique(names, return_inverse=True)[1] for names in (categories, brands))
    normal = generator.standard_normal
    shared = 0.5 * normal((max(of_category) + 1, STYLE_DIMS))[of_category]
    shared += 0.6 * normal((max(of_brand) + 1, STYLE_DIMS))[of_brand]
    prices = [item.metadata.get("price") for item in items]
    logs = np.array([np.log(x) if isinstance(x, int | float) and x > 0 else normal() for x in prices])
    launch = launch_days(count, days, generator)
    for number, item in enumerate(items):
        if added := item.metadata.get("added"):
            launch[number] = (np.datetime64(str(added), "D") - LAST_DAY).astype(int) + days - 1

    tastes = generator.integers(0, len(fit), (users, MOST_TASTES))
    has = np.arange(MOST_TASTES) < generator.integers(1, MOST_TASTES + 1, (users, 1))
    activity = np.minimum(generator.pareto(1.2, users) + 0.3, users * 0.05)
    questions, shown, scores = _answers(index, items, vectors, generator)
    return Truth(
        names=np.array([item.product for item in items]),
        style=np.asarray(shared + 0.6 * normal((count, STYLE_DIMS)), np.float32),
        attraction=np.asarray(normal(count) * 1.2, np.float32),
        launch=np.asarray(launch, np.float32),
        phase=np.asarray(generator.random(max(of_category) + 1)[of_category], np.float32),
        price=np.asarray((logs - logs.mean()) / (logs.std() + 1e-6), np.float32),
        fit=np.asarray(fit, np.float32),
        tastes=np.where(has, tastes, tastes[:, :1]),
        shares=np.asarray(has * generator.dirichlet(np.ones(MOST_TASTES), users), np.float32),
        peaks=np.asarray(generator.uniform(0, days, (users, MOST_TASTES)), np.float32),
        own_style=np.asarray(normal((users, STYLE_DIMS)), np.float32),
        own_price=np.asarray(normal(users), np.float32),
        activity=np.asarray(activity / activity.sum(), np.float32),
        questions=questions,
        shown=shown,
        scores=scores,
        near=np.argsort(-fit[:, shown[:, 0]], axis=1, kind="stable")[:, :8],
    )


def launch_days(count: int, days: int, generator: np.random.Generator) -> NDArray[np.float64]:
    """Draw when products are launched: most within ten years before the first day, a fifth later, some just now."""
    launch = generator.uniform(-3650, 0, count)
    late = generator.permutation(count)[: count // 5]
    launch[late] = generator.uniform(0, max(1, days - NEW_DAYS), len(late))
    new = late[: count // 20]
    launch[new] = generator.uniform(max(0, days - NEW_DAYS), days, len(new))
    return launch


def _region(count: int) -> int:
    """Return how many products are in the region of a taste."""
    return min(count, max(20, count // 50))


def _answers(
    index: Index, items: Sequence[Item], vectors: Floats, generator: np.random.Generator
) -> tuple[NDArray[np.str_], Ints, Floats]:
    """Choose what is asked, and ask the index: questions, the products that answer each, and their scores."""
    asked = generator.permutation(len(items))[:MOST_QUESTIONS]
    most = 2 * PLACES
    questions, shown, scores = [], [], []
    # By product or by path; the index leaves out what it is asked with.
    for start in range(0, len(asked), 100):
        part = asked[start : start + 100]
        likeness = vectors[part] @ vectors.T
        likeness[np.arange(len(part)), part] = -np.inf
        best = np.argsort(-likeness, axis=1, kind="stable")[:, :most].copy()  # the rest of it takes megabytes
        questions += [items[one].product if one % 2 else items[one].path for one in part]
        shown += [*best]
        scores += [*np.take_along_axis(likeness, best, axis=1)]
    if index.manifest.words is not None and index.manifest.words.own:
        number_of = {item.product: number for number, item in enumerate(items)}
        titles = {str(items[one].metadata.get("title") or "") for one in asked[:MOST_TITLES]}
        for title in sorted(titles - {""}):
            hits = index.search_together(text=[title], k=most, distinct="product")
            if len(hits) == most:
                questions.append(title)
                shown.append(np.array([number_of[hit.product] for hit in hits]))
                scores.append(np.array([hit.score for hit in hits]))
    return np.array(questions), np.array(shown), np.asarray(scores, np.float32)


@dataclass(slots=True, eq=False)
class Rows:
    """Rows of the log: one array a column, numbers for names, -1 for no query, 0 for no position."""

    time: Ints  # milliseconds since the first day
    user: Ints
    kind: Ints
    product: Ints
    query: Ints
    position: Ints
    session: Ints

    def __getitem__(self, chosen: slice | Ints | NDArray[np.bool_]) -> "Rows":
        """Choose some rows."""
        return Rows(*(getattr(self, each.name)[chosen] for each in fields(self)))

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self.time)


def _together(parts: Sequence[Rows]) -> Rows:
    return Rows(*(np.concatenate([getattr(part, each.name) for part in parts]) for each in fields(Rows)))


def simulate(truth: Truth, events: int, days: int, generator: np.random.Generator) -> Iterator[Rows]:
    """Yield the rows of one day after the other, in the order of time, as many as asked for in all."""
    size = _region(len(truth.names))
    regions = np.array([np.argpartition(-row, size - 1)[:size].copy() for row in truth.fit])
    later: list[Rows] = []  # what is given back in the days to come
    written = sessions = 0
    day = 0
    while written < events:
        is_last = day >= days - 1
        wanted = (events * (day + 1)) // days - written if not is_last else 2 * (events - written) + 100
        new = [
            _searches(truth, generator, max(0, round(wanted * IN_SEARCHES / (PLACES + 2))), day),
            _visits(truth, generator, regions, max(0, round(wanted * (1 - IN_SEARCHES) / 6)), day),
        ]
        for part in new:
            part.session += sessions
            sessions = int(part.session.max(initial=sessions - 1)) + 1
        bought = _together(new)
        bought = bought[(bought.kind == KINDS.index("buy")) & (generator.random(len(bought)) < 0.08)]
        bought.time += generator.integers(3 * MS_A_DAY, 14 * MS_A_DAY, len(bought))
        bought.kind[:], bought.query[:], bought.position[:] = KINDS.index("return"), -1, 0
        later.append(bought)
        waiting = _together(later)
        is_due = waiting.time < (day + 1) * MS_A_DAY
        later = [waiting[~is_due]]
        rows = _together([*new, waiting[is_due]])
        # The last day takes what is missing, from its beginning.
        rows = rows[np.lexsort((rows.position, rows.product, rows.user, rows.time))][: events - written]
        written += len(rows)
        yield rows
        day = min(day + 1, days - 1)


def _visits(truth: Truth, generator: np.random.Generator, regions: Ints, count: int, day: int) -> Rows:
    """Let customers browse: a session takes the best of some products, a few times."""
    users, tastes = truth.draw_customers(generator, count, day)
    steps = np.minimum(generator.geometric(0.35, count), 12)
    session = np.repeat(np.arange(count), steps)
    number = np.arange(len(session)) - np.repeat(np.cumsum(steps) - steps, steps)
    users_of, tastes_of = users[session], tastes[session][:, None]

    # What they come across: the region of their taste, and what is attractive.
    near = regions[tastes_of, generator.integers(0, regions.shape[1], (len(session), 16))]
    popular = _draw(generator, np.exp(truth.attraction), (len(session), 8))
    met = np.concatenate([near, popular], axis=1)
    liking = truth.liking(users_of, tastes_of, met, day)
    is_there = truth.launch[met] <= day
    best = np.where(is_there, liking + generator.gumbel(size=met.shape), -np.inf).argmax(axis=1)[:, None]
    product, liked = np.take_along_axis(met, best, axis=1)[:, 0], np.take_along_axis(liking, best, axis=1)[:, 0]
    is_there = truth.launch[product] <= day

    chance = _sigmoid(liked - 1)
    draws = generator.random((5, len(session)))
    has_clicked = draws[0] < chance
    has_put = has_clicked & (draws[1] < 0.5 * chance)
    does = [
        is_there,
        is_there & has_clicked,
        is_there & has_put,
        is_there & has_put & (draws[2] < 0.6),
        is_there & (draws[3] < 0.06 * chance),
        is_there & (draws[4] < 0.06 * (1 - chance)),
    ]
    start = _times_of_day(generator, count, day)[session] + number * 60_000
    return _together(
        [
            Rows(
                start[done] + kind * 7_000 + generator.integers(0, 7_000, done.sum()),
                users_of[done],
                np.full(done.sum(), kind),
                product[done],
                np.full(done.sum(), -1),
                np.zeros(done.sum(), np.int64),
                session[done],
            )
            for kind, done in enumerate(does)
        ]
    )


def _searches(truth: Truth, generator: np.random.Generator, count: int, day: int) -> Rows:
    """Let customers search: they see places one after the other, and click some of what they look at."""
    users, queries = truth.draw_searches(generator, count, day)
    shown, scores = truth.shown[queries], truth.scores[queries]
    noisy = scores + generator.normal(0, 0.5, scores.shape) * scores.std(axis=1, keepdims=True)
    order = np.argsort(np.where(truth.launch[shown] <= day, -noisy, np.inf), axis=1, kind="stable")[:, :PLACES]
    shown, scores = np.take_along_axis(shown, order, axis=1), np.take_along_axis(scores, order, axis=1)
    is_there = truth.launch[shown] <= day
    places = np.arange(1, shown.shape[1] + 1)
    looks = is_there & (generator.random(shown.shape) < places**-ETA)
    clicks = looks & (generator.random(shown.shape) < truth.relevance(users, queries, scores, shown, day))
    carts = clicks & (generator.random(shown.shape) < 0.3)
    buys = carts & (generator.random(shown.shape) < 0.5)
    start = _times_of_day(generator, count, day)
    parts = []
    for kind, done in enumerate((is_there, clicks, carts, buys)):
        session, column = np.nonzero(done)
        after = 0 if kind == 0 else places[column] * 9_000 + kind * 2_000
        parts.append(
            Rows(
                start[session] + after,
                users[session],
                np.full(len(session), kind),
                shown[session, column],
                queries[session],
                places[column],
                session,
            )
        )
    return _together(parts)


def _times_of_day(generator: np.random.Generator, count: int, day: int) -> Ints:
    """Draw when sessions begin: most in the evening, and so that none goes on past midnight."""
    return day * MS_A_DAY + (generator.beta(4, 2, count) * 23.5 * 3_600_000).astype(np.int64)


def write(truth: Truth, days: Iterator[Rows], first_day: np.datetime64, file: Path) -> None:
    """Write the log as CSV."""
    questions = [*truth.questions.tolist(), ""]  # the last, by number -1, for none
    names = truth.names.tolist()
    with file.open("w", encoding="utf-8", newline="") as opened:
        log = csv.writer(opened, lineterminator="\n")
        log.writerow(COLUMNS)
        for rows in days:
            times = (first_day.astype("datetime64[ms]") + rows.time).astype(str)
            log.writerows(
                (f"{time}Z", f"customer-{user}", KINDS[kind], names[product], questions[query], place or "", session)
                for time, user, kind, product, query, place, session in zip(
                    times.tolist(),
                    *(getattr(rows, each.name).tolist() for each in fields(Rows)[1:]),
                    strict=True,
                )
            )


def main() -> None:
    parser = argparse.ArgumentParser(description="Invent customers of a shop and write what they did.")
    parser.add_argument("index", type=Path, help="an index of imgsearch")
    parser.add_argument("-o", "--output", type=Path, required=True, help="the event log, as CSV")
    parser.add_argument("--users", type=int, default=2_000)
    parser.add_argument("--events", type=int, default=80_000)
    parser.add_argument("--days", type=int, default=180)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--truth", type=Path, help="a folder for what was invented")
    given = parser.parse_args()
    make_log(given.index, given.output, given.users, given.events, given.days, given.seed, given.truth)


def make_log(
    index: Path, file: Path, users: int, events: int, days: int = 180, seed: int = 0, folder: Path | None = None
) -> Truth:
    """Invent customers of the shop that has an index, and write a log of what they did.

    Args:
        index: Whose products they see.
        file: The log.
        users: How many customers there are. Some may have no events.
        events: How many there are.
        days: In how many, the last of them `LAST_DAY`.
        seed: Source of all chance.
        folder: Where the truth is kept, if anywhere.
    """
    generator = np.random.default_rng(seed)
    with Index.open(index) as opened:
        truth = invent(opened, users, days, generator)
    if folder:
        truth.save(folder)
    write(truth, simulate(truth, events, days, generator), LAST_DAY - (days - 1), file)
    return truth


if __name__ == "__main__":
    main()
