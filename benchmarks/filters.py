"""Filters over an index of 100,000 items: time, results, what the plan finds: python benchmarks/filters.py FOLDER.

The items are those of large_index.py with a price, a stock, a color and a date each, at random.
"""

import json
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from imgsearch import Index
from imgsearch.encoders.runtime import Embeddings, unit_rows
from imgsearch.search.hits import Filter
from imgsearch.store import generations
from imgsearch.store.arrays import open_array
from imgsearch.store.conditions import Range
from large_index import COUNT, make_index

SEED = 7
QUERIES = 100
K = 10
COLORS = ("red", "green", "blue", "black", "white")
FILTERS = {
    "none": Filter(),
    "0 items": Filter("price < 0"),
    "3 items": Filter("row_number IN (5, 50000, 99999)"),
    "2 %": Filter("price < 20"),
    "2 %, --range": Filter(ranges=(Range("price", high=19.99),)),
    "2 %, two columns": Filter("price < 40 AND stock > 49"),
    "2 %, metadata->>": Filter("metadata->>'price' < 20"),
    "10 %": Filter("price < 100"),
    "20 %, a text": Filter("color = 'blue'"),
    "50 %": Filter("stock >= 50"),
    "99 %": Filter("stock > 0"),
    "all items": Filter("price >= 0"),
}


def metadata(generator: np.random.Generator) -> list[str]:
    prices = generator.permutation(COUNT) / (COUNT / 1000)
    stock, color = generator.integers(0, 100, COUNT), generator.integers(0, len(COLORS), COUNT)
    return [
        json.dumps({"price": round(price, 2), "stock": int(stock[row]), "color": COLORS[color[row]], "row_number": row})
        for row, price in enumerate(prices.tolist())
    ]


def main(folder: Path) -> None:
    generator = np.random.default_rng(SEED)
    directory = folder / "filters.imgsearch"
    make_index(folder, directory, metadata=metadata(generator))
    with Index.open(directory) as index:
        path = index.directory / index.manifest.folder / generations.VECTORS
        vectors = open_array(path, len(index), index.manifest.dims)
        noise = generator.normal(0, 0.3 / np.sqrt(index.manifest.dims), (QUERIES, index.manifest.dims))
        rows = generator.choice(len(index), QUERIES, replace=False)
        queries = unit_rows(np.asarray(vectors[rows] + noise, np.float32))
        print(f"  {COUNT:,} items, {index.manifest.dims} dimensions; {QUERIES} queries, k = {K}")
        for name, filter_ in FILTERS.items():
            measure(name, filter_, index, vectors, queries)


def measure(name: str, filter_: Filter, index: Index, vectors: Embeddings, queries: Embeddings) -> None:
    matching = np.array(index.items.selector.rows(filter_.conditions), np.int64)
    index.search_vector(queries[0], K, filter=filter_)
    seconds: list[float] = []
    first: list[float] = []
    found = wanted = 0
    for number, query in enumerate(queries):
        # A condition that was not asked before, and one that was.
        new = replace(filter_, where=f"{filter_.where or 1} -- {number}")
        for asked, times in ((new, first), (filter_, seconds)):
            started = time.perf_counter()
            hits = index.search_vector(query, K, filter=asked)
            times.append(1000 * (time.perf_counter() - started))
        scores = np.sort(vectors[matching] @ query)[::-1][:K]
        assert len(hits) == len(scores)
        found += sum(hit.score >= scores[-1] - 1e-6 for hit in hits)
        wanted += len(scores)
    plan = index.plan(filter=filter_)
    for label, of in (("new", first), ("again", seconds)):
        name = f"{name}  {label} p50 {np.median(of):.2f} p95 {np.quantile(of, 0.95):.2f} ms"
    print(f"  {len(matching):>7,} match, {plan:<6} recall {found / max(1, wanted):.4f}  {name}", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
