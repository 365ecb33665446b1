"""Recall against queries a second, annoy and exact beside other libraries: python benchmarks/ann.py FOLDER.

Three data sets, all compared by cosine, as imgsearch does: the index that large_index.py makes; where
examples/fashion_mnist.py has left them in FOLDER/fashion, embeddings of Fashion-MNIST, with its test images as
queries; and the raw pixels of Fashion-MNIST, which ann-benchmarks compares by Euclidean distance.

Libraries propose candidates, and these are scored again from the vectors, as backends of imgsearch are: the time of
both counts. One query at a time, one thread for queries and for builds. Each build, and each opened file, has a process
of its own, so that memory is that of one library. Seconds are the processor's: others may use the machine.
"""

import hashlib
import importlib
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Protocol, TypeVar

import cv2
import numpy as np

import large_index
from fashion_mnist import embedded, fill
from imgsearch.encoders.projection import Projection
from imgsearch.encoders.runtime import Embeddings, unit_rows
from imgsearch.search.backends.annoy import AnnoyBackend
from imgsearch.search.backends.exact import ExactCandidates
from imgsearch.search.backends.protocol import Rows, scores_of
from imgsearch.store import generations
from imgsearch.store.arrays import open_array
from imgsearch.store.search_settings import BackendSettings

K = 10
QUERIES = 1000
SEED = 0
# A hit is a score that the k-th exact one exceeds by no more than this.
EPSILON = 1e-6
# Builds that are compared with one another, byte by byte, are of this many rows: it takes a minute, not an hour.
PART = 5000
GOALS = (0.95, 0.99)
# Nobody needs to know what comes after.
ENOUGH = 0.999

WIDTHS = (10, 20, 30, 40, 60, 80, 120, 160, 240, 320, 640)

R = TypeVar("R")
Search = Callable[[Embeddings], Rows]


class Engine(Protocol):
    """A library and the settings of its build."""

    # Its name is that of its module.
    library: ClassVar[str]
    # What its search parameter is called, and the values to try, ascending.
    parameter: ClassVar[str]
    efforts: ClassVar[Sequence[int]]

    def build(self, vectors: Embeddings, file: Path) -> None:
        """Build an index with one thread, and save it.

        Args:
            vectors: float32 (count, d), unit rows.
            file: Not there yet.
        """
        ...

    def open(self, file: Path, vectors: Embeddings) -> Callable[[int], Search]:
        """Open a saved index, mapped if the library can.

        Returns:
            A function from a value of the search parameter to a search: from a query, unit float32 (d,), to rows.
        """
        ...


@dataclass(frozen=True)
class Exact:
    """All vectors, as imgsearch does; its file is the vectors themselves."""

    library: ClassVar[str] = "numpy"
    parameter: ClassVar[str] = "-"
    efforts: ClassVar[Sequence[int]] = (0,)

    def build(self, vectors: Embeddings, file: Path) -> None:
        """See `Engine`."""
        with file.open("wb") as opened:
            np.save(opened, vectors)

    def open(self, file: Path, vectors: Embeddings) -> Callable[[int], Search]:  # noqa: ARG002 - they are the file
        """See `Engine`."""
        backend = ExactCandidates(vectors)
        return lambda _: lambda query: backend.candidates(query, K)


@dataclass(frozen=True)
class Annoy:
    """Random projection trees, as imgsearch builds them; the search parameter is swept."""

    library: ClassVar[str] = "annoy"
    parameter: ClassVar[str] = "search_k"
    efforts: ClassVar[Sequence[int]] = (1000, 2000, 3500, 5000, 7500, 10_000, 15_000, 20_000, 30_000, 50_000)
    trees: int

    def build(self, vectors: Embeddings, file: Path) -> None:
        """See `Engine`."""
        AnnoyBackend().build(file.parent, vectors, BackendSettings("annoy", self.trees, SEED, 2000))
        (file.parent / AnnoyBackend.file).rename(file)

    def open(self, file: Path, vectors: Embeddings) -> Callable[[int], Search]:
        """See `Engine`."""
        from annoy import AnnoyIndex

        forest = AnnoyIndex(vectors.shape[1], "angular")
        forest.load(str(file))
        # As AnnoyBackend asks: trees rank by float32 angles, scores may rank otherwise.
        wanted = 2 * K + 10
        return lambda search_k: lambda query: np.asarray(forest.get_nns_by_vector(query, wanted, search_k), np.int64)


@dataclass(frozen=True)
class Hnswlib:
    """The graph of Malkov and Yashunin (HNSW, 2016), by its authors; it reads its file into memory."""

    library: ClassVar[str] = "hnswlib"
    parameter: ClassVar[str] = "ef"
    efforts: ClassVar[Sequence[int]] = WIDTHS
    links: int
    width: int

    def build(self, vectors: Embeddings, file: Path) -> None:
        """See `Engine`."""
        import hnswlib

        graph = hnswlib.Index("ip", vectors.shape[1])
        graph.init_index(len(vectors), self.links, self.width, SEED)
        graph.add_items(vectors, num_threads=1)
        graph.save_index(str(file))

    def open(self, file: Path, vectors: Embeddings) -> Callable[[int], Search]:
        """See `Engine`."""
        import hnswlib

        graph = hnswlib.Index("ip", vectors.shape[1])
        graph.load_index(str(file))

        def at(width: int) -> Search:
            graph.set_ef(width)
            return lambda query: graph.knn_query(query, K, num_threads=1)[0][0].astype(np.int64)

        return at


@dataclass(frozen=True)
class FaissGraph:
    """The same graph, by Faiss, mapped."""

    library: ClassVar[str] = "faiss"
    parameter: ClassVar[str] = "efSearch"
    efforts: ClassVar[Sequence[int]] = WIDTHS
    links: int
    width: int

    def build(self, vectors: Embeddings, file: Path) -> None:
        """See `Engine`."""
        import faiss

        faiss.omp_set_num_threads(1)
        graph = faiss.IndexHNSWFlat(vectors.shape[1], self.links, faiss.METRIC_INNER_PRODUCT)
        graph.hnsw.efConstruction = self.width
        graph.add(vectors)
        faiss.write_index(graph, str(file))

    def open(self, file: Path, vectors: Embeddings) -> Callable[[int], Search]:  # noqa: ARG002 - the file has them
        """See `Engine`."""
        import faiss

        faiss.omp_set_num_threads(1)
        graph = faiss.read_index(str(file), faiss.IO_FLAG_MMAP_IFC)

        def at(width: int) -> Search:
            graph.hnsw.efSearch = width
            return lambda query: graph.search(query[None], K)[1][0]

        return at


@dataclass(frozen=True)
class FaissLists:
    """Inverted lists of full vectors (IVF-flat), by Faiss, mapped."""

    library: ClassVar[str] = "faiss"
    parameter: ClassVar[str] = "nprobe"
    efforts: ClassVar[Sequence[int]] = (1, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128)
    lists: int

    def build(self, vectors: Embeddings, file: Path) -> None:
        """See `Engine`."""
        import faiss

        faiss.omp_set_num_threads(1)
        dims = vectors.shape[1]
        inverted = faiss.IndexIVFFlat(faiss.IndexFlatIP(dims), dims, self.lists, faiss.METRIC_INNER_PRODUCT)
        inverted.cp.seed = SEED
        inverted.cp.min_points_per_centroid = 1  # it warns of few: `PART` rows are
        inverted.train(vectors)
        inverted.add(vectors)
        faiss.write_index(inverted, str(file))

    def open(self, file: Path, vectors: Embeddings) -> Callable[[int], Search]:  # noqa: ARG002 - the file has them
        """See `Engine`."""
        import faiss

        faiss.omp_set_num_threads(1)
        inverted = faiss.read_index(str(file), faiss.IO_FLAG_MMAP_IFC)

        def at(nprobe: int) -> Search:
            inverted.nprobe = nprobe
            return search

        def search(query: Embeddings) -> Rows:
            rows: Rows = inverted.search(query[None], K)[1][0]
            return rows[rows >= 0]  # -1 where the lists hold fewer

        return at


@dataclass(frozen=True)
class Usearch:
    """The same graph, by USearch, mapped, with vectors of a chosen precision."""

    library: ClassVar[str] = "usearch"
    parameter: ClassVar[str] = "expansion"
    efforts: ClassVar[Sequence[int]] = WIDTHS
    links: int
    width: int
    precision: str

    def build(self, vectors: Embeddings, file: Path) -> None:
        """See `Engine`."""
        from usearch.index import Index

        graph = Index(
            ndim=vectors.shape[1],
            metric="ip",
            dtype=self.precision,
            connectivity=self.links,
            expansion_add=self.width,
        )
        graph.add(np.arange(len(vectors)), vectors, threads=1)
        graph.save(str(file))

    def open(self, file: Path, vectors: Embeddings) -> Callable[[int], Search]:  # noqa: ARG002 - the file has them
        """See `Engine`."""
        from usearch.index import Index

        graph = Index.restore(str(file), view=True)
        assert graph is not None
        # What was rounded is ranked again among more.
        wanted = K if self.precision == "f32" else 2 * K + 10

        def at(width: int) -> Search:
            graph.expansion_search = width
            return lambda query: graph.search(query, wanted, threads=1).keys.astype(np.int64)

        return at


@dataclass(frozen=True)
class Voyager:
    """The same graph, by Spotify, who wrote Annoy; it reads its file into memory."""

    library: ClassVar[str] = "voyager"
    parameter: ClassVar[str] = "query_ef"
    efforts: ClassVar[Sequence[int]] = WIDTHS
    links: int
    width: int

    def build(self, vectors: Embeddings, file: Path) -> None:
        """See `Engine`."""
        import voyager

        dims = vectors.shape[1]
        graph = voyager.Index(
            voyager.Space.InnerProduct,
            dims,
            M=self.links,
            ef_construction=self.width,
            random_seed=SEED,
            max_elements=len(vectors),
        )
        graph.add_items(vectors, num_threads=1)
        graph.save(str(file))

    def open(self, file: Path, vectors: Embeddings) -> Callable[[int], Search]:  # noqa: ARG002 - the file has them
        """See `Engine`."""
        import voyager

        graph = voyager.Index.load(str(file))
        return lambda width: lambda query: graph.query(query, K, query_ef=width)[0].astype(np.int64)


GRAPHS = ((16, 100), (32, 200))
ENGINES: Sequence[Engine] = (
    Exact(),
    *(Annoy(trees) for trees in (10, 20, 50)),
    *(Hnswlib(links, width) for links, width in GRAPHS),
    *(FaissGraph(links, width) for links, width in GRAPHS),
    *(FaissLists(lists) for lists in (256, 1024)),
    *(Usearch(links, width, "f32") for links, width in GRAPHS),
    *(Usearch(16, 100, precision) for precision in ("f16", "bf16")),
    *(Voyager(links, width) for links, width in GRAPHS),
)


@dataclass(frozen=True)
class Data:
    """A data set in a folder, for processes to map.

    Attributes:
        name: For people.
        vectors: float32 (count, d), unit rows, in a file.
        queries: float32 (`QUERIES`, d), unit rows, in a file.
        worst: float32 (`QUERIES`,), in a file: the score of each query's k-th best row.
    """

    name: str
    vectors: Path
    queries: Path
    worst: Path


@dataclass(frozen=True)
class Built:
    """What a build took: seconds, and megabytes at its peak beside the vectors themselves."""

    seconds: float
    peak: float


@dataclass(frozen=True)
class Point:
    """What a value of the search parameter gives."""

    effort: int
    recall: float
    rate: float


@dataclass(frozen=True)
class Asked:
    """What opening and asking took.

    Attributes:
        seconds: To open.
        private: Megabytes of the process's own that it grew by, after all queries.
        mapped: Megabytes of mapped files, which processes share and the kernel may drop; the vectors' included.
        curve: Ascending in effort.
    """

    seconds: float
    private: float
    mapped: float
    curve: Sequence[Point]


def main(folder: Path) -> None:
    """Compare all libraries on all data sets.

    Args:
        folder: Keeps images and indexes; built files are removed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        for data in data_sets(folder, Path(scratch)):
            count, dims = np.load(data.vectors, mmap_mode="r").shape
            print(f"  {data.name}: {count:,} x {dims}, {data.vectors.stat().st_size / 1e6:.0f} MB", flush=True)
            print(f"    {'':48} build s peak MB file MB  same  load s  private  mapped")
            results = [(engine, compare(engine, data, Path(scratch))) for engine in ENGINES]
            for goal in GOALS:
                show_fastest(results, goal)


def data_sets(folder: Path, scratch: Path) -> Iterator[Data]:
    """Make one data set after the other."""
    fashion, large = folder / "fashion", folder / "large.imgsearch"
    if not large.is_dir():
        large_index.make_index(folder, large)
    vectors = vectors_of(large)
    yield saved(scratch, "blends of real embeddings", vectors, near(vectors))
    index, asked = fashion / "train.imgsearch", fashion / "test.embeddings"
    if index.is_dir() and asked.is_dir():
        yield saved(scratch, "embeddings of Fashion-MNIST", vectors_of(index), projected(asked, index))
    fill(fashion)
    yield saved(scratch, "pixels of Fashion-MNIST", pixels(fashion / "train"), pixels(fashion / "test")[:QUERIES])


def pixels(split: Path) -> Embeddings:
    """Read images in the order of the data set; float32 (N, 784), unit rows."""
    files = sorted(split.rglob("*.png"), key=lambda file: file.name)
    rows = np.empty((len(files), 28 * 28), np.float32)
    for row, file in zip(rows, files, strict=True):
        image = cv2.imdecode(np.fromfile(file, np.uint8), cv2.IMREAD_GRAYSCALE)
        assert image is not None, file
        row[:] = image.reshape(-1)
    return unit_rows(rows)


def vectors_of(index: Path) -> Embeddings:
    """Map the vectors of an index."""
    manifest = generations.read_manifest(index)
    return open_array(index / manifest.folder / generations.VECTORS, manifest.count, manifest.dims)


def near(vectors: Embeddings) -> Embeddings:
    """Draw rows and add noise, as large_index.py does."""
    generator = np.random.default_rng(large_index.SEED + 1)
    rows = generator.choice(len(vectors), QUERIES, replace=False)
    noise = generator.normal(0, 0.3 / np.sqrt(vectors.shape[1]), (QUERIES, vectors.shape[1]))
    return unit_rows(np.asarray(vectors[rows] + noise, np.float32))


def projected(asked: Path, index: Path) -> Embeddings:
    """Draw embeddings, and project them as the index does with a query's."""
    manifest = generations.read_manifest(index)
    embeddings, _ = embedded(asked)
    rows = np.random.default_rng(SEED).choice(len(embeddings), QUERIES, replace=False)
    file = index / manifest.folder / generations.PROJECTION
    return Projection.load(str(file), embeddings.shape[1], manifest.dims).apply(embeddings[rows])


def saved(scratch: Path, name: str, vectors: Embeddings, queries: Embeddings) -> Data:
    """Save a data set and its truth in place of the one before."""
    worst = np.concatenate(
        [np.partition(queries[start : start + 100] @ vectors.T, -K)[:, -K] for start in range(0, len(queries), 100)]
    )
    data = Data(name, scratch / "vectors.npy", scratch / "queries.npy", scratch / "worst.npy")
    for file, array in ((data.vectors, vectors), (data.queries, queries), (data.worst, worst)):
        np.save(file, array)
    return data


def compare(engine: Engine, data: Data, scratch: Path) -> Asked:
    """Build, open and ask, each in a process of its own, and print what it took."""
    file = scratch / "built"
    built = alone(build, engine, data, file)
    size = file.stat().st_size / 1e6
    asked = alone(ask, engine, data, file)
    file.unlink()
    same = "yes" if alone(reproducible, engine, data, file) else "no"
    print(
        f"    {engine!s:48} {built.seconds:>7.1f} {built.peak:>7.0f} {size:>7.1f} {same:>5} "
        f"{asked.seconds:>7.3f} {asked.private:>8.0f} {asked.mapped:>7.0f}"
    )
    for point in asked.curve:
        effort = f"{engine.parameter} {point.effort:,}"
        print(f"        {effort:<20} recall@{K} {point.recall:.4f} {point.rate:>8,.0f} queries/s")
    sys.stdout.flush()
    return asked


def alone(function: Callable[[Engine, Data, Path], R], engine: Engine, data: Data, file: Path) -> R:
    """Call a function in a fresh process."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, engine, data, file).result()


def build(engine: Engine, data: Data, file: Path) -> Built:
    """Build with one thread."""
    importlib.import_module(engine.library)
    vectors = np.load(data.vectors)
    before = memory("VmRSS")
    started = time.process_time()
    engine.build(vectors, file)
    seconds = time.process_time() - started
    return Built(seconds, memory("VmHWM") - before)


def reproducible(engine: Engine, data: Data, file: Path) -> bool:
    """Build an index of some rows twice: are the files the same?"""
    vectors = np.load(data.vectors, mmap_mode="r")[:PART].copy()
    sums = set()
    for _ in range(2):
        engine.build(vectors, file)
        sums.add(hashlib.sha256(file.read_bytes()).digest())
        file.unlink()
    return len(sums) == 1


def ask(engine: Engine, data: Data, file: Path) -> Asked:
    """Open a file and ask all queries with more and more effort."""
    importlib.import_module(engine.library)
    vectors = np.asarray(np.load(data.vectors, mmap_mode="r"))
    queries, worst = np.load(data.queries), np.load(data.worst)
    private, mapped = memory("RssAnon"), memory("RssFile")
    started = time.perf_counter()
    at = engine.open(file, vectors)
    seconds = time.perf_counter() - started
    curve: list[Point] = []
    for effort in engine.efforts:
        curve.append(measure(at(effort), effort, vectors, queries, worst))
        if curve[-1].recall >= ENOUGH:
            break
    return Asked(seconds, memory("RssAnon") - private, memory("RssFile") - mapped, curve)


def measure(search: Search, effort: int, vectors: Embeddings, queries: Embeddings, worst: Embeddings) -> Point:
    """Ask all queries: twice if that is quick, and the faster time counts."""
    times: list[float] = []
    found = 0
    while len(times) < 2 and sum(times) < 2:
        scores = []
        started = time.process_time()
        for query in queries:
            candidates = scores_of(vectors[search(query)], query)
            scores.append(np.sort(candidates)[-K:])
        times.append(time.process_time() - started)
        found = sum(int((best >= least - EPSILON).sum()) for best, least in zip(scores, worst, strict=True))
    return Point(effort, found / (len(queries) * K), len(queries) / min(times))


def memory(name: str) -> float:
    """Say how many megabytes the kernel gives as one of its figures of this process's memory."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines[name].split()[0]) * 1024 / 1e6


def show_fastest(results: Iterable[tuple[Engine, Asked]], goal: float) -> None:
    """Print, for each kind of index, the setting that is the fastest to reach a recall."""
    fastest: dict[type[Engine], tuple[float, str]] = {}
    for engine, asked in results:
        for point in asked.curve:
            if point.recall >= goal:
                found = point.rate, f"{engine}, {engine.parameter} {point.effort:,}"
                fastest[type(engine)] = max(found, fastest.get(type(engine), found))
                break
    print(f"    fastest with recall@{K} of {goal} or more:")
    for rate, words in sorted(fastest.values(), reverse=True):
        print(f"        {rate:>8,.0f} queries/s  {words}")
    sys.stdout.flush()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
