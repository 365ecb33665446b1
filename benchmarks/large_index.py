"""An index of 100,000 items: recall, latency, memory of a query: python benchmarks/large_index.py FOLDER.

The items are embeddings of the drawn catalog, each blended with two others and with noise, so that they are as
unevenly spread as real ones; there are no image files behind them.
"""

import contextlib
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from cold_query import compare
from demo import make_queries
from drawn_catalog import draw_catalog
from imgsearch import Index, embed
from imgsearch.build.generation import Job, complete_generation
from imgsearch.encoders.runtime import Embeddings, unit_rows
from imgsearch.progress import no_progress
from imgsearch.store import generations, publishing
from imgsearch.store.arrays import open_array, write_array
from imgsearch.store.columns import write_columns
from imgsearch.store.database import connect
from imgsearch.store.items import SCHEMA
from imgsearch.store.locking import writer_lock
from imgsearch.store.manifest import Manifest
from imgsearch.store.search_settings import SearchOptions
from imgsearch.store.words import write_words

BACKENDS = ("auto", "faiss")
COUNT = 100_000
QUERIES = 1000
SEED = 0


def main(folder: Path) -> None:
    draw_catalog(folder / "drawn")
    photo = next(iter(make_queries(folder / "drawn", folder / "drawn-queries-0").values()))
    commands = {"import keras": [sys.executable, "-c", "import keras"]}
    for backend in BACKENDS:
        index = folder / f"large-{backend}.imgsearch"
        seconds = make_index(folder, index, SearchOptions(backend))
        with Index.open(index) as opened:
            size = sum(record.size for record in opened.manifest.files.values()) / 1e6
            print(f"  {COUNT:,} items, {opened.manifest.dims} dimensions, {size:.0f} MB; derived in {seconds:.1f} s")
            print(f"  chosen {opened.manifest.backend}, {opened.manifest.measured}", flush=True)
            recall(opened)
        query = [sys.executable, "-m", "imgsearch", "query", str(photo), "--index", str(index)]
        commands[f"query, a new photo, {backend}"] = query
    compare(commands)


def make_index(
    folder: Path,
    directory: Path,
    search: SearchOptions | None = None,
    metadata: Sequence[str] | None = None,
    *,
    has_words: bool = False,
    categories: Sequence[str] | None = None,
    vectors: Iterator[Embeddings] | None = None,
) -> float:
    """Make an index of `COUNT` items, or of as many as there are categories; those lie in folders of these names."""
    shutil.rmtree(directory, ignore_errors=True)
    base, given = drawn_embeddings(folder)
    generator = np.random.default_rng(SEED)
    count = len(categories) if categories else COUNT
    paths = [f"{categories[row]}/{row:06d}.jpg" if categories else f"{row:06d}.jpg" for row in range(count)]
    started = time.perf_counter()
    with writer_lock(directory), publishing.new_generation(directory, 1) as generation:
        with contextlib.closing(connect(generation / generations.ITEMS)) as items:
            items.executescript(SCHEMA)
            items.execute("BEGIN")
            items.executemany(
                "INSERT INTO items VALUES (?, ?, 0, 0, ?, ?, ?, ?)",
                (
                    (
                        *(row, path, row.to_bytes(32, "big"), f"{row:06d}"),
                        *(categories[row] if categories else "", metadata[row] if metadata else "{}"),
                    )
                    for row, path in enumerate(paths)
                ),
            )
            columns = write_columns(items, "main", "main")
            words = write_words(items, "main", (), columns) if has_words else None
            items.execute("COMMIT")
        write_array(generation / generations.EMBEDDINGS, count, given.encoder.dims, vectors or blends(base, generator))
        source = folder / "drawn-embeddings" / given.encoder_folder
        names = tuple(Path(name).name for name in given.files if name.startswith("encoders/"))
        publishing.install_encoder(directory, given.fingerprint, source, names)
        draft = replace(given, generation=1, count=count, search=search or SearchOptions(), words=words)
        complete_generation(Job(folder, directory, {}, no_progress), draft, None, adapt=None)
    return time.perf_counter() - started


def drawn_embeddings(folder: Path) -> tuple[Embeddings, Manifest]:
    """Embed the drawn catalog, unless that is done."""
    draw_catalog(folder / "drawn")
    embed(folder / "drawn", folder / "drawn-embeddings")
    given = generations.read_manifest(folder / "drawn-embeddings")
    return open_array(folder / "drawn-embeddings" / generations.EMBEDDINGS, given.count, given.encoder.dims), given


def blends(base: Embeddings, generator: np.random.Generator) -> Iterator[Embeddings]:
    for _ in range(0, COUNT, 1000):
        yield blend(base, 1000, generator)


def blend(base: Embeddings, count: int, generator: np.random.Generator) -> Embeddings:
    chosen = base[generator.integers(len(base), size=(3, count))]
    shares = generator.dirichlet([1, 0.5, 0.5], count).T[:, :, None]
    noise = generator.normal(0, 0.25 / np.sqrt(base.shape[1]), (count, base.shape[1]))
    return unit_rows(np.asarray((chosen * shares).sum(axis=0) + noise, np.float32))


def recall(index: Index) -> None:
    """Compare the ten nearest by Annoy with the ten nearest by all vectors, ties counted as right."""
    generator = np.random.default_rng(SEED + 1)
    rows = generator.choice(len(index), QUERIES, replace=False)
    vectors = open_array(index.directory / index.manifest.folder / generations.VECTORS, len(index), index.manifest.dims)
    noise = generator.normal(0, 0.3 / np.sqrt(index.manifest.dims), (QUERIES, index.manifest.dims))
    queries = unit_rows(np.asarray(vectors[rows] + noise, np.float32))
    for k in (1, 10, 100):
        found = 0
        seconds = []
        for query in queries:
            started = time.perf_counter()
            hits = index.search_vector(query, k)
            seconds.append(time.perf_counter() - started)
            worst = kth_score(vectors, query, k)
            found += sum(hit.score >= worst - 1e-6 for hit in hits)
        p50, p95 = np.quantile(seconds, [0.5, 0.95]) * 1000
        print(
            f"  index recall@{k:<3} {found / (QUERIES * k):.4f}, search p50 {p50:.2f} ms, p95 {p95:.2f} ms", flush=True
        )


def kth_score(vectors: Embeddings, query: Embeddings, k: int) -> float:
    return float(np.partition(vectors @ query, -k)[-k])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
