"""What the shop's data cost a build: python benchmarks/metadata.py FOLDER.

A CSV file of a million rows is read into the journal of a build that has as many files, in a process of its own. Then
a catalog of 100,000 files, hard links to 100 images, is built with and without data, and again with nothing changed,
as every night, with one cell changed, and with a file of which nine of ten rows have no image.
"""

import csv
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import cv2
import numpy as np

from imgsearch import build_index
from imgsearch.build.journal import Journal
from imgsearch.build.metadata import read_products
from imgsearch.build.report import peak_memory
from imgsearch.images.scan import FoundFile
from imgsearch.store.generations import read_manifest

ROWS = 1_000_000
FILES = 100_000
IMAGES = 100
ROUNDS = 3
CATEGORIES = ("shoes", "hats", "bags", "mugs", "lamps")
COLUMNS = ("path", "product", "category", "title", "price", "stock", "brand", "color", "added", "sku")


def main(folder: Path) -> None:
    folder = folder / "metadata"
    folder.mkdir(exist_ok=True)
    everything = write_rows(folder / f"products-{ROWS}.csv", ROWS)
    catalog = make_catalog(folder / "catalog")
    index = folder / "index"
    shutil.rmtree(index, ignore_errors=True)
    build(catalog, index)

    print(f"  {ROWS} rows, {everything.stat().st_size / 1e6:.0f} MB, 3 rounds in processes of their own")
    for what in ("DictReader", "journal"):
        command = [sys.executable, __file__, str(folder), what]
        runs = [json.loads(subprocess.check_output(command)) for _ in range(ROUNDS)]
        seconds = [run["seconds"] for run in runs]
        megabytes = max(run["bytes"] for run in runs) / 1e6
        print(f"  {what:<12} {median(seconds):5.1f} s ({min(seconds):.1f} to {max(seconds):.1f}), {megabytes:.0f} MB")

    print(f"  builds of {FILES} files, seconds: the first that publishes, then the median of {ROUNDS} without changes")
    for what, options in (
        ("no data", {"metadata": "none"}),
        ("a row each", {"metadata": write_rows(folder / f"products-{FILES}.csv", FILES)}),
        ("ten rows each", {"metadata": everything}),
    ):
        first = build(catalog, index, **options)
        nights = [build(catalog, index) for _ in range(ROUNDS)]
        print(f"  {what:<14} {first:5.1f} {median(nights):6.2f} ({min(nights):.2f} to {max(nights):.2f})")
    changed = write_rows(folder / f"products-{FILES}.csv", FILES)
    build(catalog, index, metadata=changed)
    with changed.open("a", newline="") as file:
        csv.writer(file).writerow([f"{CATEGORIES[0]}/{0:07d}.png", *["changed"] * (len(COLUMNS) - 1)])
    print(f"  one row changed {build(catalog, index):5.1f}")


def row(number: int, generator: random.Random) -> list[object]:
    """Return a row like those that shops write; three images show a product."""
    category, product = CATEGORIES[number % 5], number // 3
    color = generator.choice(["Red", "Blue", "Green"])
    return [
        f"{category}/{number:07d}.png",
        f"P{product:07d}",
        category,
        f'{color} {category} number {product}, "new"',
        f"{generator.randrange(100, 99_999) / 100:.2f}",
        generator.randrange(500),
        generator.choice(["Acme", "Größe", "Zed"]),
        generator.choice([color.lower(), ""]),
        f"2026-{number % 12 + 1:02d}-{number % 28 + 1:02d}",
        f"{number:08d}",
    ]


def write_rows(file: Path, count: int) -> Path:
    generator = random.Random(0)  # noqa: S311  # the same rows every time
    with file.open("w", newline="", encoding="utf-8") as opened:
        writer = csv.writer(opened)
        writer.writerow(COLUMNS)
        writer.writerows(row(number, generator) for number in range(count))
    return file


def make_catalog(folder: Path) -> Path:
    if folder.exists():
        return folder
    generator = np.random.default_rng(0)
    with tempfile.TemporaryDirectory(dir=folder.parent) as images:
        for number in range(IMAGES):
            pixels = cv2.resize(generator.integers(0, 256, (4, 4, 3), np.uint8), (64, 64))
            cv2.imwrite(f"{images}/{number}.png", pixels)
        for category in CATEGORIES:
            (folder / category).mkdir(parents=True)
        for number in range(FILES):
            os.link(f"{images}/{number % IMAGES}.png", folder / f"{CATEGORIES[number % 5]}/{number:07d}.png")
    return folder


def build(catalog: Path, index: Path, **options: object) -> float:
    options = {"backbone": "handcrafted", "backend": "exact", **options}
    return build_index(catalog, index, **options).seconds["total"]  # type: ignore[arg-type]


def read_with_dict_reader(file: Path) -> None:
    """Read and write as JSON what the baseline does: nothing is checked, found or kept."""
    with file.open(newline="", encoding="utf-8") as opened:
        for cells in csv.DictReader(opened):
            json.dumps(cells)


def read_into_journal(file: Path, index: Path) -> float:
    """Return the seconds that it takes beside the scan of as many files."""
    manifest = read_manifest(index)
    with tempfile.TemporaryDirectory(dir=index.parent) as place:
        journal = Journal(Path(place) / "partial.sqlite", manifest, None, None)
        with journal.transaction():
            journal.add_files(found_files())
            started = time.monotonic()
            journal.products.add(read_products(file), str(file), [manifest.catalog])
            seconds = time.monotonic() - started
        counts = journal.products.counts()
        assert (counts.count, counts.stray, counts.images_without_row) == (ROWS, 0, 0)
        journal.close(done=True)
    return seconds


def found_files() -> Iterator[FoundFile]:
    return (FoundFile(f"{CATEGORIES[number % 5]}/{number:07d}.png", 1000, 1) for number in range(ROWS))


def measure(folder: Path, what: str) -> None:
    file = folder / f"products-{ROWS}.csv"
    started = time.monotonic()
    if what == "journal":
        seconds = read_into_journal(file, folder / "index")
    else:
        read_with_dict_reader(file)
        seconds = time.monotonic() - started
    print(json.dumps({"seconds": seconds, "bytes": peak_memory()}))


if __name__ == "__main__":
    if len(sys.argv) > 2:
        measure(Path(sys.argv[1]), sys.argv[2])
    else:
        main(Path(sys.argv[1]))
