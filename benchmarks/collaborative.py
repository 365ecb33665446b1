"""How well what the same people want tells what they want next, beside what is popular.

python benchmarks/collaborative.py EVENTS.csv --index DIR   (a log of examples/simulated_shop.py)
python benchmarks/collaborative.py ml-100k.inter            (of MovieLens-100k: inside the wheel of recbole)

Parts of the log are held out, by time: of a shop its last six weeks, of MovieLens the later half in tenths. No
constant was chosen by the last two, though figures of them were seen meanwhile. A hit is a product that the person had
done nothing with before.
"""

import argparse
import csv
import resource
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from imgsearch import Index
from imgsearch.personal.recommend import collaborative
from imgsearch.personal.recommend.collaborative import collaborative_scores, learn_similar

WEIGHTS = {"view": 1, "click": 2, "cart": 4, "buy": 8, "like": 4, "dislike": -4, "return": -8}
DISCOUNTS = 1 / np.log2(np.arange(10) + 2)
MOST_USERS = 1_500


def shop_events(file: Path, index: Path) -> tuple[list[tuple[float, str, str, float]], dict[str, NDArray[np.float32]]]:
    """Return time in days, user, product and weight of events that are no impressions, and vectors of products."""
    with Index.open(index) as opened:
        items = opened.items.fetch([*opened.items.first_of_products()])
        vectors = {item.product: np.asarray(opened.nearest.vectors[item.row], np.float32) for item in items}
    with file.open(newline="") as lines:
        found = [
            (
                datetime.fromisoformat(row["time"]).timestamp() / 86_400,
                row["user"],
                row["product"],
                WEIGHTS[row["event"]],
            )
            for row in csv.DictReader(lines)
            if not (row["event"] == "view" and row["position"])
        ]
    return [(when, user, product, float(weight)) for when, user, product, weight in sorted(found)], vectors


def film_events(file: Path) -> tuple[list[tuple[float, str, str, float]], dict[str, NDArray[np.float32]]]:
    """Return the same of ratings; films have no vectors."""
    rows = [line.split("\t") for line in file.read_text().splitlines()[1:]]
    found = sorted((float(when), user, film, float(rating)) for user, film, rating, when in rows)
    return found, {film: np.ones(1, np.float32) for _, _, film, _ in found}


def parts(times: NDArray[np.float64], *, are_days: bool) -> Iterator[tuple[str, int, int]]:
    """Yield what was looked at when, and where a held-out part begins and ends."""
    for number in (6, 5, 4, 3, 2, 1):
        if are_days:
            start, stop = np.searchsorted(times, times[-1] - 7 * np.array([number, number - 1]), side="right")
        else:
            start, stop = (int(len(times) * (1 - (number - 1 + ahead) / 10)) for ahead in (1, 0))
        if number != 6 or are_days:
            yield ("chosen on" if number > 2 else "measured on"), int(start), int(stop)


def measure(users, products, weights, vectors, start: int, stop: int):  # type: ignore[no-untyped-def]
    """Return nDCG@10 by what is popular and by what was learned, of each person of a held-out part."""
    count = len(vectors)
    pairs, inverse = np.unique(users[:start] * count + products[:start], return_inverse=True)
    sums = np.bincount(inverse, weights[:start]).astype(float)
    pairs, sums = pairs[sums > 0], sums[sums > 0]
    known_users, known_products = pairs // count, pairs % count
    similar, learner = learn_similar(known_users, known_products, sums, vectors)
    popular = np.bincount(known_products, minlength=count).astype(float)
    is_wanted = weights[start:stop] >= 2
    later_users, later_products = users[start:stop][is_wanted], products[start:stop][is_wanted]
    of_row = np.arange(count, dtype=np.int32)
    found = []
    for user in np.intersect1d(known_users, later_users)[:MOST_USERS]:
        own = known_users == user
        relevant = np.zeros(count, bool)
        relevant[later_products[later_users == user]] = True
        relevant[known_products[own]] = False
        if relevant.any():
            learned = collaborative_scores(similar, of_row, vectors, known_products[own], sums[own])
            found.append([gain(scores, known_products[own], relevant) for scores in (popular, learned)])
    return learner, np.array(found).reshape(-1, 2)


def gain(scores: NDArray[np.float64], seen: NDArray[np.integer], relevant: NDArray[np.bool_]) -> float:
    """Return nDCG@10 of a person."""
    scores = scores.copy()
    scores[seen] = -np.inf
    hits = relevant[np.argsort(-scores, kind="stable")[:10]]
    return float(hits @ DISCOUNTS[: len(hits)] / DISCOUNTS[: min(relevant.sum(), 10)].sum())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("events", type=Path)
    parser.add_argument("--index", type=Path)
    parser.add_argument("--core", type=int, default=collaborative.CORE)
    parser.add_argument("--largest", type=int, default=collaborative.LARGEST_CLOSED_FORM, help="0: always ALS")
    parser.add_argument("--last", action="store_true", help="the last part only")
    options = parser.parse_args()
    collaborative.CORE, collaborative.LARGEST_CLOSED_FORM = options.core, options.largest
    events, by_name = shop_events(options.events, options.index) if options.index else film_events(options.events)
    places = {name: place for place, name in enumerate(by_name)}
    times, names, wanted, weights = (np.array(column) for column in zip(*events, strict=True))
    users = np.unique(names, return_inverse=True)[1]
    products = np.array([places[name] for name in wanted.tolist()])
    for name, start, stop in list(parts(times, are_days=options.index is not None))[-1 if options.last else 0 :]:
        began = time.perf_counter()
        learner, found = measure(users, products, weights, np.stack([*by_name.values()]), start, stop)
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
        popular, learned = found.mean(axis=0) if len(found) else (np.nan, np.nan)
        print(
            f"{name} {start}-{stop}: {len(found)} people, nDCG@10 popular {popular:.4f}, {learner} {learned:.4f},"
            f" {time.perf_counter() - began:.0f} s, {memory:.0f} MB",
            flush=True,
        )


if __name__ == "__main__":
    main()
