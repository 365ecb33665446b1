"""Words in an index of 100,000 items with titles: time and memory: python benchmarks/words_speed.py FOLDER.

The items are those of large_index.py with a title and a price each, at random: things of some colors,
materials and people that many have, a made-up brand that twenty have, and a number of its own.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from cold_query import compare
from imgsearch import Index, Indexed
from imgsearch.search.hits import NO_FILTER, Filter
from large_index import COUNT, make_index

SEED = 0
QUERIES = 100
K = 10
COLORS = "red blue green black white yellow orange purple pink brown gray beige"
MATERIALS = "leather cotton wool silk linen denim velvet plastic wooden steel"
THINGS = "dress shirt skirt coat jacket shoes boots sandals hat scarf bag belt lamp chair table cup plate clock"
PEOPLE = "women men girls boys children babies"
SYLLABLES = "ba ke lo mi nu ra se ti vo xa zu pe do gi fa"


def titles(generator: np.random.Generator, count: int) -> list[str]:
    """Make different titles of things."""
    brands = " ".join("".join(generator.choice(SYLLABLES.split(), 4)).title() for _ in range(max(1, count // 20)))
    words = (generator.choice(each.split(), count).tolist() for each in (COLORS, MATERIALS, THINGS, PEOPLE, brands))
    return [
        f"{color} {material} {thing} for {person} {brand} {row:06d}"
        for row, (color, material, thing, person, brand) in enumerate(zip(*words, strict=True))
    ]


def main(folder: Path) -> None:
    generator = np.random.default_rng(SEED)
    all_titles = titles(generator, COUNT)
    prices = generator.permutation(COUNT) / (COUNT / 1000)
    directory = folder / "words.imgsearch"
    described = zip(all_titles, prices.tolist(), strict=True)
    metadata = [json.dumps({"title": title, "price": price}) for title, price in described]
    seconds = make_index(folder, directory, metadata=metadata, has_words=True)
    asked = [all_titles[row] for row in generator.choice(COUNT, QUERIES, replace=False)]
    texts = {
        "a word of 8 %": [title.split()[0] for title in asked],
        "two words, one of all": [" ".join(title.split()[3:5]) for title in asked],
        "five words": [" ".join(title.split()[:5]) for title in asked],
        "a brand": [title.split()[5] for title in asked],
        "a number": [title.split()[6] for title in asked],
        "German": [f"etwas für {person}" for person in ("Frauen", "Männer", "Mädchen", "Kinder")] * (QUERIES // 4),
    }
    items = [[Indexed(f"{row:06d}.jpg")] for row in generator.choice(COUNT, QUERIES, replace=False)]
    beside_words: dict[str, list[list[Indexed]]] = {"": [[]] * QUERIES, "an item and ": items}
    with Index.open(directory) as index:
        print(f"  {COUNT:,} items, {index.manifest.dims} and 512 dimensions; derived in {seconds:.0f} s")
        query = np.array(index.nearest.text[0])
        measure("NumPy: vectors of words @ vector", [partial(np.matmul, index.nearest.text, query)] * QUERIES)
        for name, filter_ in {"": NO_FILTER, ", 2 % of the items": Filter("price < 20")}.items():
            for about, of_kind in texts.items():
                for beside, asked_with in beside_words.items():
                    searches = [
                        partial(index.search_together, asked_with[query], K, text=[text], filter=filter_)
                        for query, text in enumerate(of_kind)
                    ]
                    measure(f"{beside}{about}{name}", searches)
    program = [sys.executable, "-m", "imgsearch", "query", "--index", os.fspath(directory)]
    compare(
        {
            "import keras": [sys.executable, "-c", "import keras"],
            "query --item": [*program, "--item", "000000.jpg"],
            "query --text": [*program, "--text", "red leather shoes"],
            "query --item --text": [*program, "--item", "000000.jpg", "--text", "red leather shoes"],
        }
    )


def measure(name: str, searches: Sequence[Callable[[], object]]) -> None:
    """Print times of searches, after one; processor time as well, which other programs change less."""
    searches[0]()
    times = []
    for search in searches:
        started = time.perf_counter(), time.process_time()
        search()
        times.append((time.perf_counter() - started[0], time.process_time() - started[1]))
    (p50, cpu50), (p95, cpu95) = np.quantile(times, [0.5, 0.95], axis=0) * 1000
    print(f"  {name:<50} p50 {p50:5.1f} p95 {p95:5.1f} ms; of a processor {cpu50:5.1f} {cpu95:5.1f} ms", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
