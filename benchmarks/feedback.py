"""What is feedback worth? Ten simulated rounds: python benchmarks/feedback.py FOLDER [--choose].

Queries are pictures of what the catalog has, by category: photos of the stamps, other vendors' drawings of the emoji,
test images of Fashion-MNIST. Half of the queries give feedback: in each round each of them sees its ten first hits,
chooses those of its category, and rejects the others, through the store and the refinement of the program. The other
half gives none. The constants of `personal.rocchio` were chosen on the stamps (`--choose`); the others decide nothing.
"""

import argparse
import hashlib
import json
import secrets
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from answers import CATALOG_VENDOR, emoji_files, is_tuned_on
from catalogs import stamps
from demo import make_queries
from fashion_mnist import fill
from imgsearch import Index, build_index
from imgsearch.bootstrap import mean_interval, paired_interval
from imgsearch.encoders.runtime import Embeddings
from imgsearch.personal.feedback import FeedbackStore, Shown, space_of
from imgsearch.personal.rocchio import MOVING, Moving, refine_views
from imgsearch.search.views import View

K = 10
ROUNDS = 10
SEED = 4  # of the photos
SHOWN = (0, 1, 3, 10)
MOST = 150  # queries of a kind that give feedback, and as many that give none
# Near, toward, away.
CHOICES = (
    *((near, 0.7, 0.2) for near in (0.1, 0.2, 0.3, 0.4, 0.5, 0.6)),
    *((0.5, toward, away) for toward in (0.2, 0.4, 0.7) for away in (0.0, 0.1, 0.2)),
)


@dataclass(frozen=True, slots=True)
class Task:
    """Queries with a category each, and an index whose items have one.

    Attributes:
        kind: What the table calls it.
        index: Opened.
        labels: Of the items, by row.
        wanted: Of the queries.
        vectors: Of the queries, unit float32 (n, d).
        give: The queries that give feedback.
        others: Those that give none.
    """

    kind: str
    index: Index
    labels: Sequence[str]
    wanted: Sequence[str]
    vectors: Embeddings
    give: Sequence[int]
    others: Sequence[int]


def main(folder: Path, *, choose: bool) -> None:
    """Print a table for each catalog, or the figures of all choices for the first."""
    tasks = made(folder)
    if choose:
        for near, toward, away in CHOICES:
            gave, others = rounds(tasks[0], Moving(near, toward, away), 3)
            print(
                f"  near {near}, toward {toward}, away {away}: {gave[-1].mean():.3f} {others[-1].mean():.3f}",
                flush=True,
            )
        return
    for task in tasks:
        gave, others = rounds(task, MOVING, ROUNDS)
        print(f"  {task.kind}: {len(task.index)} items, {len(task.give)} queries gave, {len(task.others)} did not")
        for number in SHOWN:
            print(f"    round {number:>2}   {changed(gave, number)}   {changed(others, number)}", flush=True)


def changed(precisions: Sequence[Embeddings], number: int) -> str:
    """Show precision after a round with its interval, and its change since before all."""
    now = mean_interval(precisions[number])
    change = paired_interval(precisions[0], precisions[number])
    return (
        f"{now.mean:.3f} ({now.low:.3f}-{now.high:.3f}), {change.mean:+.3f} ({change.low:+.3f} to {change.high:+.3f})"
    )


def rounds(task: Task, moving: Moving, count: int) -> tuple[list[Embeddings], list[Embeddings]]:
    """Return the precision of each query before all rounds and after each: those that gave feedback, and others."""
    precisions: tuple[list[Embeddings], list[Embeddings]] = ([], [])
    with tempfile.TemporaryDirectory() as folder, FeedbackStore(Path(folder)) as store:
        refine = refine_views(task.index, store, moving)
        space = space_of(task.index.manifest)
        known: set[tuple[int, int]] = set()
        for number in range(count + 1):
            if number:
                answers = {query: answer(task, refine([View(task.vectors[query])])[0]) for query in task.give}
                for query, rows in answers.items():
                    new = [row for row in rows if (query, row) not in known]
                    known |= {(query, row) for row in new}
                    paths = [item.path for item in task.index.items.fetch(rows)]
                    shown = Shown(secrets.token_hex(16), 1, space, task.vectors[query], tuple(paths))
                    for row, path in zip(rows, paths, strict=True):
                        if row in new:
                            is_right = task.labels[row] == task.wanted[query]
                            store.judge(shown, path, "chosen" if is_right else "rejected")
            for queries, figures in zip((task.give, task.others), precisions, strict=True):
                moved = refine([View(task.vectors[query]) for query in queries])
                figures.append(np.array([precision(task, *each) for each in zip(queries, moved, strict=True)]))
    return precisions


def answer(task: Task, view: View) -> list[int]:
    """Return the rows of the first hits; of a query the vector is compared with all."""
    return [int(row) for row in np.argsort(-(task.index.nearest.vectors[:] @ view.vector), kind="stable")[:K]]


def precision(task: Task, query: int, view: View) -> float:
    """Return the share of the right category among the first hits."""
    return float(np.mean([task.labels[row] == task.wanted[query] for row in answer(task, view)]))


def made(folder: Path) -> list[Task]:
    """Make the tasks; the vectors of queries are kept in the folder."""
    catalog, tasks = folder / "stamps", []
    if stamps(catalog):
        photos = make_queries(catalog, folder / f"stamps-queries-{SEED}", SEED)
        categories = {name: name.partition("/")[0] for name in photos}
        tasks.append(task("photos of stamps, by folder", folder, catalog, photos, categories, categories))
    if emoji := emoji_files(folder):
        data = json.loads((folder / f"emoji-{CATALOG_VENDOR}" / "package" / "emoji.json").read_text())
        groups = {each["image"]: each["subcategory"] for each in data}
        tasks.append(task("other drawings of emoji, by group", folder, *emoji, groups, groups))
    fashion = folder / "fashion-500"
    fill(fashion, 500)
    files = {
        image.relative_to(fashion / "test").as_posix(): image
        for of_class in sorted((fashion / "test").iterdir())
        for image in sorted(of_class.iterdir())[: 4 * MOST // 10]
    }
    classes = {name: name.partition("/")[0] for name in files}
    tasks.append(task("products over time, by class", folder, fashion / "train", files, classes, None))
    return tasks


def task(
    kind: str,
    folder: Path,
    catalog: Path,
    files: Mapping[str, Path],
    wanted: Mapping[str, str],
    labels: Mapping[str, str] | None,
) -> Task:
    """Build an index, embed queries, and share them out; without `labels` an item's is the folder it lies in."""
    index_folder = folder / f"feedback-{kind.partition(',')[0].replace(' ', '-')}.imgsearch"
    build_index(catalog, index_folder)
    index = Index.open(index_folder)
    items = index.items.fetch(range(len(index)))
    # By a hash of the name, so that those that are left out are of all categories.
    names = sorted(files, key=lambda name: hashlib.sha256(name.encode()).digest()[1:])
    give = [name for name in names if is_tuned_on(name)][:MOST]
    others = [name for name in names if not is_tuned_on(name)][:MOST]
    asked = [*give, *others]
    kept = index_folder.with_suffix(".npy")
    if not kept.exists():
        np.save(kept, np.stack([index.viewer.whole(files[name].read_bytes()).vector for name in asked]))
    return Task(
        kind,
        index,
        [item.category if labels is None else labels[item.path] for item in items],
        [wanted[name] for name in asked],
        np.asarray(np.load(kept), np.float32),
        range(len(give)),
        range(len(give), len(asked)),
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--choose", action="store_true", help="compare constants on the first catalog")
    given = parser.parse_args()
    main(given.folder, choose=given.choose)
