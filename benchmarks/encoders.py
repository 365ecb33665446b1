"""All encoders beside one another: python benchmarks/encoders.py FOLDER [--weights NAME=FILE]...

Photo-like queries of the stamps, with a seed that no choice has seen, and Fashion-MNIST: 1,500 images of its training
split, and 300 of its test split to ask with. Networks whose weights are not here, nor given, are run with weights of
chance: their speed and size are as they will be, and nothing is said of their answers.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from catalogs import stamps
from demo import ask, make_queries, rank_of
from fashion_mnist import ask as ask_for_class
from fashion_mnist import average_precisions, embedded, fill
from imgsearch import build_index, embed
from imgsearch.build.report import BuildReport
from imgsearch.encoders.available import models
from imgsearch.encoders.table import TABLE
from imgsearch.errors import UsageError
from imgsearch.evaluation.metrics import hit_rate

SEED = 3
PART = 150
ASKED = 30
HYBRIDS = ("lite0-retrieval+handcrafted:color=0.3", "lite0-retrieval+visual-words=0.5")

# Keras' own names of the networks, to save weights of chance.
_RANDOM = """
import os, sys
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
import keras
from imgsearch.encoders.table import TABLE
builder = getattr(keras.applications, TABLE[sys.argv[1]].application.builder)
builder(weights=None, include_top=False, input_shape=(224, 224, 3)).save_weights(sys.argv[2])
"""


def main(folder: Path, weights: Mapping[str, Path]) -> None:
    """Measure every encoder.

    Args:
        folder: Keeps catalogs, queries and indexes.
        weights: Files with the weights of networks of keras.applications.
    """
    catalog = folder / "stamps"
    if not stamps(catalog):
        sys.exit("the stamps cannot be had here")
    queries = make_queries(catalog, folder / f"stamps-queries-{SEED}", SEED)
    fashion = folder / f"fashion-{PART}"
    fill(fashion, PART)
    asked = some_of(fashion / "test", folder / f"fashion-asked-{ASKED}")
    known = {encoder.row.spec.name for encoder in models() if encoder.here}

    print(f"  {'encoder':<42} {' dims   MB  images/s':<20}   stamps @1 @5 @10    fashion @1 @5 @10  mAP")
    for name in (*TABLE, *HYBRIDS):
        with tempfile.TemporaryDirectory() as scratch:
            file, is_chance = weights.get(name), False
            if file is None and name in TABLE and name not in known:
                file, is_chance = chance_weights(name, Path(scratch)), True
            index = Path(scratch) / "stamps.imgsearch"
            report = build_index(catalog, index, backbone=name, weights=file)
            words = f"  {name:<42} {row_of(index, report)}"
            if is_chance:
                print(f"{words}   no weights here", flush=True)
                continue
            ranks = [rank_of(asked_for, hits) for asked_for, hits in ask(index, queries).items()]
            print(
                f"{words}   {rates(ranks)}   {fashion_figures(fashion, asked, name, file, Path(scratch))}", flush=True
            )


def row_of(index: Path, report: BuildReport) -> str:
    """Show what an encoder costs: dimensions, megabytes of what is run, images embedded in a second."""
    (folder,) = (index / "encoders").iterdir()
    size = sum(file.stat().st_size for file in folder.iterdir()) / 1e6
    embeddings = np.load(index / f"gen-{report.generation:06d}" / "embeddings.npy", mmap_mode="r")
    return f"{embeddings.shape[1]:>5} {size:>4.0f} {report.images_per_second:>9.1f}"


def rates(ranks: list[int | None]) -> str:
    """Show hit rates."""
    return " ".join(f"{hit_rate(ranks, k):.3f}" for k in (1, 5, 10))


def fashion_figures(fashion: Path, asked: Path, name: str, weights: Path | None, scratch: Path) -> str:
    """Ask for the classes of Fashion-MNIST."""
    index, queries = scratch / "fashion.imgsearch", scratch / "asked"
    try:
        build_index(fashion / "train", index, backbone=name, weights=weights)
    except UsageError as error:  # 28 gray pixels have few local features
        return error.message
    ranks = ask_for_class(index, sorted(asked.rglob("*.png")))
    if "visual-words" in name:  # the vocabulary belongs to the index
        return f"{rates(ranks)}      -"
    embed(asked, queries, backbone=name, weights=weights)
    precisions = average_precisions(*embedded(queries), *embedded(index))
    return f"{rates(ranks)}  {precisions.mean():.3f}"


def some_of(split: Path, folder: Path) -> Path:
    """Link the first images of each class into a folder of their own."""
    for category in sorted(split.iterdir()):
        (folder / category.name).mkdir(parents=True, exist_ok=True)
        for image in sorted(category.iterdir())[:ASKED]:
            link = folder / category.name / image.name
            if not link.exists():
                os.link(image, link)
    return folder


def chance_weights(name: str, folder: Path) -> Path:
    """Save a network's weights as they are before any training."""
    file = folder / f"{name}.weights.h5"
    subprocess.run([sys.executable, "-c", _RANDOM, name, file], check=True, capture_output=True)
    return file


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--weights", action="append", default=[], metavar="NAME=FILE")
    given = parser.parse_args()
    main(given.folder, {name: Path(file) for name, _, file in (pair.partition("=") for pair in given.weights)})
