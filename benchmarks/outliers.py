"""Find 100 images in a wrong category: python benchmarks/outliers.py FOLDER.

Images are moved to another category, both chosen at random; those of the stamps are their top folders. The number of
voters and their weights were chosen on Fashion-MNIST's training images with seed 0. The other sets were looked at with
20 voters, too, before 50 were kept. Which images are moved changes the count by some, so there are ten seeds.
Some of what comes first besides is in a wrong category, too, or in one that hardly differs, such as shirts and
pullovers.
"""

import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from catalogs import stamps
from fashion_mnist import fill
from imgsearch import build_index, outliers
from imgsearch.cli.formats import csv_line

PLANTED = 100
FIRST = 150
PART = 500
SEEDS = range(1, 11)
SMALLEST = 5  # of categories that images are taken from


def main(folder: Path) -> None:
    fill(folder / f"fashion-{PART}", PART)
    if stamps(folder / "stamps"):
        report(folder, folder / "stamps")
    for split in ("test", "train"):
        report(folder, folder / f"fashion-{PART}" / split)


def report(folder: Path, catalog: Path) -> None:
    truth = {
        path.relative_to(catalog).as_posix(): path.relative_to(catalog).parts[0] for path in catalog.rglob("*.png")
    }
    index = folder / f"outliers-{catalog.name}.imgsearch"
    counts, named = np.transpose([find(catalog, index, truth, seed) for seed in SEEDS])
    print(f"  {catalog.name} ({len(truth)}), {len(set(truth.values()))} categories, seeds {SEEDS[0]} to {SEEDS[-1]}:")
    print(f"    of {PLANTED} in the first {FIRST}: {', '.join(map(str, counts))}; mean {counts.mean():.1f}")
    print(f"    with their category named: mean {named.mean():.1f}", flush=True)


def find(catalog: Path, index: Path, truth: Mapping[str, str], seed: int) -> tuple[int, int]:
    """Return how many planted mistakes come first, and of how many the category is named."""
    planted = plant(truth, np.random.default_rng(seed))
    table = index.with_suffix(".csv")
    lines = (csv_line((path, planted.get(path, category))) for path, category in truth.items())
    table.write_text(csv_line(("path", "category")) + "".join(lines), encoding="utf-8")
    build_index(catalog, index, metadata=table)
    found = [item for item in outliers(index, top_k=FIRST).items if item.path in planted]
    return len(found), sum(item.looks_like == truth[item.path] for item in found)


def plant(truth: Mapping[str, str], generator: np.random.Generator) -> dict[str, str]:
    """Choose images, and a wrong category for each."""
    categories = sorted(set(truth.values()))
    sizes = {category: list(truth.values()).count(category) for category in categories}
    paths = sorted(path for path, category in truth.items() if sizes[category] >= SMALLEST)
    return {
        str(path): str(generator.choice([name for name in categories if name != truth[path]]))
        for path in generator.choice(paths, PLANTED, replace=False)
    }


if __name__ == "__main__":
    main(Path(sys.argv[1]))
