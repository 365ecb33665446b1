"""Is it worth it to take away, to diversify, to expand a query? python benchmarks/combining.py FOLDER.

- `--not`: an image of a class, and the first hit of another class taken away (Rocchio, 1971): Fashion-MNIST by class,
  stamps by their folder. How many of the ten first hits are of the class?
- `--diverse`: photos of 638 products with three pictures each: does the right product stay among the first five hits,
  and how many products are there among ten?
- average query expansion (Chum et al., 2007): the query is searched again as the mean of its vector and those of its
  first hits that are right with a probability of at least so much.

Each has two halves, as in `answers.py`: constants are chosen on the tuning half, and the other decides nothing.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from answers import Half, is_tuned_on, questions
from imgsearch import EvaluateOptions, Index, build_index, evaluate, keep_calibration
from imgsearch.encoders.runtime import Embeddings
from imgsearch.images.decode import decode_rgba
from imgsearch.search.backends.protocol import Rows
from imgsearch.search.diversity import POOL, diverse_order
from imgsearch.search.fusion import mean_view, take_away
from imgsearch.search.views import View
from imgsearch.store.items import Item
from imgsearch.synthetic.augment import photo_like

WEIGHTS = (0.0, 0.25, 0.5, 0.75, 1.0)
LAMBDAS = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.3)
LEAST = (1.1, 0.9, 0.7, 0.5)  # probabilities; none is above 1
MOST = (3, 10)
HALVES: tuple[Half, Half] = ("tuning", "deciding-nothing")
PICTURES = 3
SAMPLE = 200  # items that are searched for to calibrate


@dataclass(frozen=True, slots=True)
class Task:
    """Queries as vectors, and an index that answers them.

    Attributes:
        kind: What the tables call it.
        index: Opened.
        labels: Of the items: what makes one right.
        names: Of the queries.
        wanted: The right label of each.
        vectors: Of the queries, unit float32 (n, d).
    """

    kind: str
    index: Index
    labels: Sequence[str]
    names: Sequence[str]
    wanted: Sequence[str]
    vectors: Embeddings

    def half(self, half: Half) -> "Task":
        """Return the task with the queries of a half."""
        kept = [place for place, name in enumerate(self.names) if is_tuned_on(name) == (half == "tuning")]
        names, wanted = [self.names[place] for place in kept], [self.wanted[place] for place in kept]
        return Task(self.kind, self.index, self.labels, names, wanted, self.vectors[kept])

    def order(self, vector: Embeddings) -> Rows:
        """Return all rows, the nearest first."""
        return np.argsort(-(self.index.nearest.vectors[:] @ vector), kind="stable")

    def is_right(self, rows: Rows, query: int) -> NDArray[np.bool_]:
        """Return which rows have the right label."""
        return np.array([self.labels[row] == self.wanted[query] for row in rows])


def main(folder: Path) -> None:
    """Print the tables of all three."""
    tasks = {task.kind: task for task in made(folder)}
    for half in HALVES:
        print(f"  {half} half")
        for task in tasks.values():
            part = task.half(half)
            if task.kind == "products over time":
                table("--not, precision at 10, and of how many", part, without, WEIGHTS)
            if task.kind.startswith("three pictures"):
                table("--diverse, hit rate at 1, 5, 10, products among 5, 10", part, diversified, LAMBDAS)
            settings = [(p, n) for p in LEAST for n in MOST][1:]
            table("expansion, hit rate at 1 and 5, precision at 10, mAP", part, expanded, settings)


def made(folder: Path) -> list[Task]:
    """Make the tasks; vectors of queries are kept in the folder."""
    asked: dict[str, tuple[Path, dict[str, Path]]] = {}
    for half in HALVES:
        for each in questions(folder, half):
            asked.setdefault(each.kind, (each.catalog, {}))[1].update(each.files)
    stamps, photos = asked["easy photos"]
    fashion, worn = asked["products over time"]
    by_path, by_class = (lambda item: item.path), (lambda item: item.category)
    kinds: list[tuple[str, Path, dict[str, Path], Callable[[Item], str]]] = [
        ("one picture a product", stamps, photos, by_path),
        ("three pictures a product", pictured(folder, stamps), photos, by_class),
        ("products over time", fashion, worn, by_class),
    ]
    tasks = []
    for kind, catalog, files, label in kinds:
        index, names = opened(folder, catalog), sorted(files)
        labels = [label(item) for item in items_of(index)]
        wanted = [name.partition("/")[0] if kind == "products over time" else name for name in names]
        tasks.append(Task(kind, index, labels, names, wanted, vectors_of(folder, kind, index, files, names)))
    return tasks


def pictured(folder: Path, stamps: Path) -> Path:
    """Make a catalog of three pictures a product, each in a folder of its name: the image, and two like photos."""
    catalog = folder / "three-pictures"
    for file in sorted(stamps.rglob("*.png")):
        product = catalog / file.relative_to(stamps)
        if (product / f"{PICTURES - 1}.jpg").exists():
            continue
        product.mkdir(parents=True, exist_ok=True)
        (product / "0.png").write_bytes(file.read_bytes())
        pixels = decode_rgba(file.read_bytes())
        for number in range(1, PICTURES):
            (product / f"{number}.jpg").write_bytes(photo_like(pixels, np.random.default_rng(100 + number)))
    return catalog


def opened(folder: Path, catalog: Path) -> Index:
    """Build and calibrate an index: by its products, or its classes."""
    directory = folder / f"combining-{catalog.name}.imgsearch"
    build_index(catalog, directory)
    with Index.open(directory) as index:
        is_calibrated = index.manifest.calibration is not None
    if not is_calibrated:
        is_alone = catalog.name == "stamps"
        options = EvaluateOptions(
            self_test=is_alone, labels=None if is_alone else "category", calibrate=True, sample=SAMPLE
        )
        keep_calibration(directory, evaluate(directory, **options))
    return Index.open(directory)


def items_of(index: Index) -> Sequence[Item]:
    """Fetch all items, by row."""
    return index.items.fetch(range(len(index)))


def vectors_of(folder: Path, kind: str, index: Index, files: Mapping[str, Path], names: Sequence[str]) -> Embeddings:
    """Embed queries as a whole."""
    kept = folder / f"combining-{kind.replace(' ', '-')}.npy"
    if not kept.exists():
        np.save(kept, np.stack([index.viewer.whole(files[name].read_bytes()).vector for name in names]))
    return np.asarray(np.load(kept), np.float32)


def table(title: str, task: Task, measure: Callable[[Task, Any], Sequence[float]], settings: Sequence[Any]) -> None:
    """Print a row for each setting."""
    print(f"  {title}; {task.kind}, {len(task.names)} queries", flush=True)
    for setting in settings:
        print(f"    {setting!s:<12} {'  '.join(f'{figure:.3f}' for figure in measure(task, setting))}", flush=True)


def without(task: Task, weight: float) -> list[float]:
    """Take away the first wrong hit; return the share of right ones among ten, of queries with a wrong one there."""
    shares = []
    for query, vector in enumerate(task.vectors):
        first = task.order(vector)[:10]
        wrong = first[~task.is_right(first, query)]
        if not len(wrong):
            continue
        (asked,) = take_away([View(vector)], [View(task.index.nearest.vectors[wrong[0]])], weight)
        found = task.order(asked.vector)
        shares.append(task.is_right(found[found != wrong[0]][:10], query).mean())
    return [float(np.mean(shares)), float(len(shares))]


def diversified(task: Task, relevance: float) -> list[float]:
    """Return hit rates at 1, 5 and 10, and how many products there are among five and ten hits."""
    figures = []
    for query, vector in enumerate(task.vectors):
        products: list[float] = []
        for k in (5, 10):
            pool = task.order(vector)[: POOL * k]
            near = task.index.nearest.vectors[pool]
            chosen = pool[diverse_order((near @ vector).tolist(), near, k, relevance)]
            right = task.is_right(chosen, query)
            products += [float(right[:1].any()), float(right.any()), float(len({task.labels[row] for row in chosen}))]
        figures.append(products)
    return [float(figure) for figure in np.mean(figures, axis=0)[[0, 1, 4, 2, 5]]]


def expanded(task: Task, setting: tuple[float, int]) -> list[float]:
    """Expand with the first hits that are probably right; hit rates at 1 and 5, precision at 10, and mAP."""
    least, most = setting
    calibration = task.index.manifest.calibration
    assert calibration is not None
    figures = []
    for query, vector in enumerate(task.vectors):
        found = task.order(vector)[:most]
        scores = (task.index.nearest.vectors[found] @ vector).tolist()
        sure = [row for row, p in zip(found, calibration.of_answer(scores), strict=True) if p >= least]
        views = [View(vector), *(View(task.index.nearest.vectors[row]) for row in sure)]
        right = task.is_right(task.order(mean_view(views).vector), query)
        places = np.flatnonzero(right) + 1
        precision = float(np.mean(np.arange(1, len(places) + 1) / places)) if len(places) else 0.0
        figures.append([right[:1].any(), right[:5].any(), right[:10].mean(), precision])
    return [float(figure) for figure in np.mean(figures, axis=0)]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
