"""Indexes whose candidates are in a server, beside exact search: python benchmarks/servers.py FOLDER [COUNT [NAME...]].

The items are those of large_index.py with the data of filters.py. The servers are those of the tests, each started for
this alone: all that tests/search/backends/conftest.py has, or those that are named. A search is `Index.search_vector`;
of conditions that few items satisfy it asks no server, so the server is asked for these by itself, too.

A server that was just filled goes on putting its files in order, so it is left alone for half a minute. All questions
are asked in three rounds, and the median of the three is printed.
"""

import importlib
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

import filters
import large_index
from imgsearch import Index
from imgsearch.encoders.runtime import Embeddings, unit_rows
from imgsearch.search.backends.protocol import Rows
from imgsearch.search.backends.pushed import Comparison
from imgsearch.search.hits import Filter
from imgsearch.store import generations
from imgsearch.store.arrays import open_array
from imgsearch.store.search_settings import SearchOptions

QUERIES = 200
K = 10
WANTED = 2 * K + 10  # what a search for K asks a server for
SHARES = (100, 50, 10, 2, 1)
ROUNDS = 3
REST_SECONDS = 30


def main(folder: Path, count: int, names: list[str]) -> None:
    large_index.COUNT = count
    folder.mkdir(parents=True, exist_ok=True)
    sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
    servers = importlib.import_module("search.backends.conftest").SERVERS
    print(f"  {count:,} items, {QUERIES} queries, k = {K}")
    exact = measure(folder, "exact", SearchOptions("exact"))
    for name in names or servers:
        with servers[name]() as server:
            options = SearchOptions(name, server=server.address)
            p95 = measure(folder, name, options)
            print(f"  {name}: p95 without conditions {p95 / exact:.2f} of that of exact search", flush=True)
            alone(folder, name)


def measure(folder: Path, name: str, options: SearchOptions) -> float:
    """Make an index, and search it; return the 95th percentile of milliseconds without conditions."""
    directory = folder / f"servers-{name}.imgsearch"
    made = filters.metadata(np.random.default_rng(filters.SEED))
    seconds = large_index.make_index(folder, directory, options, made)
    with Index.open(directory) as index:
        vectors, queries = asked(index)
        print(f"  {name}: made in {seconds:.1f} s; {index.manifest.backend}, {index.manifest.measured}")
        if options.server:
            time.sleep(REST_SECONDS)

        def ask(query: Embeddings, share: int) -> Rows:
            where = Filter(f"price < {10 * share}") if share < 100 else Filter()
            hits = index.search_vector(query, K, filter=where)
            return np.asarray([int(hit.path[:6]) for hit in hits], np.int64)

        return print_rounds("", vectors, queries, ask, made)


def alone(folder: Path, name: str) -> None:
    """Ask a server itself for what a search would."""
    backend = importlib.import_module(f"imgsearch.search.backends.{name}")
    made = filters.metadata(np.random.default_rng(filters.SEED))
    with Index.open(folder / f"servers-{name}.imgsearch") as index:
        vectors, queries = asked(index)
        settings, dims = index.manifest.backend, index.manifest.dims
        assert settings is not None
        ids, rows = np.load(folder / f"servers-{name}.imgsearch" / index.manifest.folder / "ids.npy")
    opened = backend.open_server(settings.server, settings.collection, dims)
    effort = max(settings.search_k, WANTED)

    def ask(query: Embeddings, share: int) -> Rows:
        where = [Comparison("price", "<", 10.0 * share)] if share < 100 else []
        found = opened.nearest(query, WANTED, effort, where)
        return np.asarray(rows[np.searchsorted(ids, found)], np.int64)

    print_rounds("alone, ", vectors, queries, ask, made)
    opened.close()


def print_rounds(
    label: str, vectors: Embeddings, queries: Embeddings, ask: Callable[[Embeddings, int], Rows], made: list[str]
) -> float:
    """Ask in rounds, and print the median for each share that matches; return the p95 of the first share."""
    asks = [(share, lambda query, share=share: ask(query, share)) for share in SHARES]
    rounds = [[timed(vectors, queries, one, share, made) for share, one in asks] for _ in range(ROUNDS)]
    figures = np.median(rounds, axis=0)
    for share, (recall, p50, p95), all_p95 in zip(SHARES, figures, np.asarray(rounds)[:, :, 2].T, strict=True):
        print(
            f"    {label}{share:>3} % match: recall {recall:.4f}, p50 {p50:.2f}, p95 {p95:.2f} ms"
            f" (of {ROUNDS}: {all_p95.min():.2f} to {all_p95.max():.2f})",
            flush=True,
        )
    return float(figures[0][2])


def asked(index: Index) -> tuple[Embeddings, Embeddings]:
    """Return the vectors of an index, and queries near some of them."""
    path = index.directory / index.manifest.folder / generations.VECTORS
    vectors = open_array(path, len(index), index.manifest.dims)
    generator = np.random.default_rng(large_index.SEED + 1)
    rows = generator.choice(len(vectors), QUERIES, replace=False)
    noise = generator.normal(0, 0.3 / np.sqrt(vectors.shape[1]), (QUERIES, vectors.shape[1]))
    return vectors, unit_rows(np.asarray(vectors[rows] + noise, np.float32))


def timed(
    vectors: Embeddings,
    queries: Embeddings,
    ask: Callable[[Embeddings], Rows],
    share: int,
    made: list[str],
) -> tuple[float, float, float]:
    """Return recall, and the 50th and 95th percentile of milliseconds, of queries for what costs less."""
    prices = np.asarray([float(text.partition(":")[2].partition(",")[0]) for text in made[: len(vectors)]])
    matching = np.flatnonzero(prices < 10 * share) if share < 100 else np.arange(len(vectors))
    ask(queries[0])
    seconds, found = [], 0
    for query in queries:
        started = time.perf_counter()
        rows = ask(query)
        seconds.append(time.perf_counter() - started)
        assert np.isin(rows, matching).all()
        scores = vectors[matching] @ query
        found += int((vectors[rows] @ query >= np.partition(scores, -K)[-K] - 1e-6).sum().clip(max=K))
    p50, p95 = np.quantile(seconds, [0.5, 0.95]) * 1000
    return found / (K * len(queries)), p50, p95


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 100_000, sys.argv[3:])
