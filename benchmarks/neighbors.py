"""The 50 nearest of each of 100,000 items: python benchmarks/neighbors.py FOLDER.

The vectors, 256 numbers each, are of 2,000 Gaussian clusters. The baseline is the product of all pairs alone, without
finding the best. Memory is the peak of the process, mapped vectors (102 MB) and names
included. Processor time counts all threads.
"""

import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

import large_index
from imgsearch import Index, neighbors
from imgsearch.cli import main as program
from imgsearch.encoders.runtime import Embeddings, unit_rows
from imgsearch.store.search_settings import SearchOptions

K = 50


def main(folder: Path) -> None:
    index = folder / "neighbors.imgsearch"
    if not index.exists():
        large_index.blends = clusters
        large_index.make_index(folder, index, SearchOptions("exact"))
    for ending in ("jsonl", "csv", "sqlite"):
        # A process of its own, whose peak is its own.
        subprocess.run([sys.executable, __file__, str(folder), ending], check=True)
    baseline(index)


def clusters(base: Embeddings, generator: np.random.Generator) -> Iterator[Embeddings]:
    """Make vectors in place of `large_index.blends`."""
    centers = generator.normal(size=(2000, base.shape[1]))
    for _ in range(0, large_index.COUNT, 1000):
        chosen = centers[generator.integers(len(centers), size=1000)]
        yield unit_rows(np.asarray(chosen + generator.normal(0, 0.7, chosen.shape), np.float32))


def write(folder: Path, ending: str) -> None:
    index, output = folder / "neighbors.imgsearch", folder / f"neighbors.{ending}"
    started = time.perf_counter()
    program(["neighbors", "--index", str(index), "-k", str(K), "-o", str(output), "-q"])
    seconds = time.perf_counter() - started
    used, size = time.process_time(), output.stat().st_size / 1e6
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    print(f"  {ending}: {seconds:.1f} s, processor {used:.1f} s, peak {peak:.0f} MB, file {size:.0f} MB", flush=True)


def baseline(index: Path) -> None:
    with Index.open(index) as opened:
        vectors = opened.nearest.vectors
        started = time.perf_counter()
        for start in range(0, len(vectors), 1024):
            for other in range(0, len(vectors), 8192):
                vectors[start : start + 1024] @ vectors[other : other + 8192].T
        used = time.process_time()
        print(f"  all products alone: {time.perf_counter() - started:.1f} s, processor {used:.1f} s", flush=True)
    started = time.perf_counter()
    found = sum(1 for _ in neighbors(index, top_k=K))
    print(f"  lists alone, from Python: {time.perf_counter() - started:.1f} s, {found} lists", flush=True)


if __name__ == "__main__":
    if len(sys.argv) > 2:
        write(Path(sys.argv[1]), sys.argv[2])
    else:
        main(Path(sys.argv[1]))
