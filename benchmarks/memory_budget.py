"""An index within a budget for memory: what it finds, how fast, and what a process comes to hold.

python benchmarks/memory_budget.py FOLDER [COUNT] [BUDGET] [TARGET_RECALL]

The items are those of large_index.py: 1,000,000 within 1GB at a recall of 0.97, if nothing else is said; that takes
6 GB of FOLDER. Queries are items with noise, asked by a process of its own, the baseline is a comparison with all.
"""

import dataclasses
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

import large_index
from demo import make_queries
from imgsearch import Index
from imgsearch.build.options import resolve_search
from imgsearch.encoders.runtime import Embeddings, unit_rows
from imgsearch.encoders.vectors import Vectors
from imgsearch.search.tuning import take_over
from imgsearch.store.arrays import blocks_of

KS = (1, 10, 100)
QUERIES = 1000
EXACT = 20
SEED = 1


def main(folder: Path, count: int = 1_000_000, budget: str = "1GB", target: float = 0.97) -> None:
    large_index.COUNT = count
    directory = folder / f"budget-{count}.imgsearch"
    search = resolve_search({"memory_budget": budget, "target_recall": target}, None)
    seconds = large_index.make_index(folder, directory, search)
    with Index.open(directory) as index:
        manifest, vectors = index.manifest, index.nearest.vectors
        print(f"  {count:,} items, {manifest.dims} dimensions, {manifest.numbers}; all derived in {seconds:.1f} s")
        print(f"  chosen {manifest.backend}, {manifest.measured}")
        for name, record in sorted(manifest.files.items()):
            print(f"  {record.size / 1e6:10.1f} MB {name}", flush=True)
        take_over_one(directory, index)
        generator = np.random.default_rng(SEED)
        rows = np.sort(generator.choice(count, QUERIES, replace=False))
        noise = generator.normal(0, 0.3 / np.sqrt(manifest.dims), (QUERIES, manifest.dims))
        queries = unit_rows(np.asarray(vectors[rows] + noise, np.float32))
        worst = last_scores(vectors, queries)
    photo = next(iter(make_queries(folder / "drawn", folder / "drawn-queries-0").values()))
    with tempfile.TemporaryDirectory() as scratch:
        np.save(Path(scratch) / "queries.npy", queries)
        subprocess.run([sys.executable, __file__, "--ask", directory, photo, scratch], check=True)
        for place, k in enumerate(KS):
            found = np.load(Path(scratch) / f"{k}.npy")
            print(f"  recall@{k:<3} {np.mean(found >= worst[:, place, None] - 1e-6):.4f}", flush=True)


def take_over_one(directory: Path, index: Index) -> None:
    """Drop one vector of the backend's file, and add it again."""
    folder, backend = directory / index.manifest.folder, index.manifest.backend
    assert backend is not None
    new_rows = np.arange(len(index))
    new_rows[0] = -1
    with tempfile.TemporaryDirectory(dir=directory.parent) as scratch:
        started = time.perf_counter()
        taken = take_over(Path(scratch), index.nearest.vectors, backend, folder, new_rows)
        assert taken == dataclasses.replace(backend, changed=2), taken
        print(f"  taken over with one vector changed in {time.perf_counter() - started:.1f} s", flush=True)


def last_scores(vectors: Vectors, queries: Embeddings) -> Embeddings:
    """Find the score of the k-th nearest of each query, for each k: (n, len(KS))."""
    best = np.full((len(queries), max(KS)), -np.inf, np.float32)
    for block in blocks_of(vectors):
        best = np.partition(np.concatenate([best, queries @ block.T], axis=1), -max(KS), axis=1)[:, -max(KS) :]
    best.sort(axis=1)
    return best[:, [-k for k in KS]]


def ask(directory: Path, photo: Path, scratch: Path) -> None:
    """Answer queries, as a service does, and say what that takes."""
    queries = np.load(scratch / "queries.npy")
    with Index.open(directory) as index:
        index.search(photo)
        print(f"  one photo asked: {resident()}", flush=True)
        for k in KS:
            seconds, scores = [], []
            for query in queries:
                started = time.perf_counter()
                hits = index.search_vector(query, k)
                seconds.append(time.perf_counter() - started)
                scores.append([hit.score for hit in hits])
            np.save(scratch / f"{k}.npy", np.array(scores, np.float32))
            p50, p95 = np.quantile(seconds, [0.5, 0.95]) * 1000
            print(f"  k = {k}: p50 {p50:.2f} ms, p95 {p95:.2f} ms; {resident()}", flush=True)
        started = time.perf_counter()
        for query in queries[:EXACT]:
            index.search_vector(query, 10, exact=True)
        each = (time.perf_counter() - started) / EXACT * 1000
        print(f"  exact, k = 10: {each:.0f} ms; all vectors read: {resident()}", flush=True)


def resident() -> str:
    """Say what this process holds: VmRSS, of which mapped files."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    total, mapped = (int(status[name].split()[0]) / 1024 for name in ("VmRSS", "RssFile"))
    return f"{total:.0f} MiB resident, {mapped:.0f} of files"


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    if sys.argv[1] == "--ask":
        ask(*map(Path, sys.argv[2:]))
    else:
        main(Path(sys.argv[1]), *(kind(text) for kind, text in zip((int, str, float), sys.argv[2:], strict=False)))
