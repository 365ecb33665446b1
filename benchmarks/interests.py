"""Ways to say how much items are like a history, on its last weeks: python benchmarks/interests.py INDEX EVENTS.csv.

Of half of the people, by a hash of their names, ways were chosen; the other half decided nothing.
"""

import csv
import sys
import zlib
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from imgsearch import Index
from imgsearch.bootstrap import mean_interval
from imgsearch.personal.events import DEFAULT_WEIGHTS, Event
from imgsearch.personal.recommend import profile
from imgsearch.personal.recommend.history import History, history_of

DAY = 86_400_000_000
DAYS, HALF_LIFE, LEAST, K = 45, 30.0, 5, 10
MOST_PEOPLE = 500  # of each half

Floats = NDArray[np.float64]
Way = Callable[[NDArray[np.float32], Floats], Floats]


def main() -> None:
    directory, log = map(Path, sys.argv[1:])
    with Index.open(directory) as index:
        vectors = np.asarray(index.nearest.vectors[:])
        for half, people in enumerate(people_of(index, log)):
            print(f"{('tuning', 'other')[half]} half, {len(people)} people, {len(vectors)} products", flush=True)
            first: NDArray[np.float64] | None = None
            for name, way in ways(vectors).items():
                found = np.array([judged(vectors, way, *person) for person in people])
                first = found if first is None else first
                means = found.mean(axis=0)
                shown = f"  {name:<22} nDCG@{K} {means[0]:.4f}, mean rank {means[1]:.4f}"
                for place, figure in enumerate(("nDCG", "rank")):
                    change = mean_interval(found[:, place] - first[:, place])
                    shown += f"; {figure} {change.mean:+.4f} ({change.low:+.4f} to {change.high:+.4f})"
                print(shown, flush=True)


def ways(vectors: NDArray[np.float32]) -> Mapping[str, Way]:
    """Return the ways by their names; all weights count as their roots."""

    def by_interests(most: int, merge: Callable[[Floats, Floats], Floats]) -> Way:
        def scores(liked: NDArray[np.float32], weights: Floats) -> Floats:
            centers, shares = profile.interests(liked, weights**0.5, most)
            return merge((vectors @ centers.T).astype(np.float64), shares)

        return scores

    def soft(softness: float) -> Callable[[Floats, Floats], Floats]:
        return lambda cosines, shares: softness * np.log(np.exp(cosines / softness) @ shares)

    return {
        "mean": lambda liked, weights: (vectors @ (weights**0.5 @ liked)).astype(np.float64),
        "5 interests, maximum": by_interests(5, lambda cosines, _: cosines.max(axis=1)),
        "5 interests, shares": by_interests(5, lambda cosines, shares: cosines @ shares),
        "5 interests, soft 0.1": by_interests(5, soft(0.1)),
        "5 interests, soft 0.2": by_interests(5, soft(0.2)),
        "5 interests, soft 0.4": by_interests(5, soft(0.4)),
        "5 interests, soft 1.0": by_interests(5, soft(1.0)),
        "2 interests, soft 0.2": by_interests(2, soft(0.2)),
        "10 interests, soft 0.2": by_interests(10, soft(0.2)),
    }


def people_of(index: Index, log: Path) -> tuple[list[tuple[History, NDArray[np.int64]]], ...]:
    """Return, of both halves, histories and the other products that were wanted in the last days."""
    events: dict[str, list[Event]] = {}
    with log.open(newline="") as file:
        for row in csv.DictReader(file):
            time = round(datetime.fromisoformat(row["time"]).timestamp() * 1_000_000)
            if not row["position"]:
                events.setdefault(row["user"], []).append(Event(time, row["event"], row["product"]))  # type: ignore[arg-type]  # of a log of ours
    end = max(event.time for each in events.values() for event in each) - DAYS * DAY
    halves: tuple[list[tuple[History, NDArray[np.int64]]], ...] = ([], [])
    for user, each in sorted(events.items()):
        half = halves[zlib.crc32(user.encode()) % 2]
        history = history_of([one for one in each if one.time < end], index.items, DEFAULT_WEIGHTS, HALF_LIFE, end)
        later = [one.product for one in each if one.time >= end and DEFAULT_WEIGHTS[one.kind] > 0]
        wanted = {*index.items.first_rows_named(later).values()} - {*history.rows.tolist()}
        if wanted and (history.weights > 0).sum() >= LEAST and len(half) < MOST_PEOPLE:
            half.append((history, np.array(sorted(wanted))))
    return halves


def judged(vectors: NDArray[np.float32], way: Way, history: History, wanted: NDArray[np.int64]) -> tuple[float, float]:
    """Return nDCG@10, and the mean share of products that come after one that was wanted; known ones are left out."""
    is_liked = history.weights > 0
    scores = way(vectors[history.rows[is_liked]], history.weights[is_liked])
    scores[history.rows] = -np.inf
    order = np.argsort(-scores, kind="stable")[: len(scores) - len(history)]
    discounts = 1 / np.log2(np.arange(2, K + 2))
    gain = (np.isin(order[:K], wanted) * discounts).sum() / discounts[: len(wanted)].sum()
    places = np.flatnonzero(np.isin(order, wanted))
    return float(gain), float(1 - places.mean() / len(order))


if __name__ == "__main__":
    main()
