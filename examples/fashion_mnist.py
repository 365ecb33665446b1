"""Train an encoder on Fashion-MNIST, index the training images, and ask for those of the test split.

python examples/fashion_mnist.py FOLDER [--part N] [--epochs N]

Fashion-MNIST (Xiao, Rasul and Vollgraf, 2017; MIT) has 70,000 gray images of 28 x 28 pixels in ten classes. It comes
from the Debian package dataset-fashion-mnist, or by Keras' own download where there is none. Nothing of it stands in
this repository.
"""

import argparse
import contextlib
import gzip
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from debian import unpack_package
from imgsearch import Index
from imgsearch.evaluation.metrics import hit_rate, measures
from imgsearch.store.generations import EMBEDDINGS, ITEMS, read_manifest
from imgsearch.store.items import Items

PACKAGE = "dataset-fashion-mnist"
CLASSES = ("T-shirt", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle-boot")
SIDE = 28
SEED = 0
EPOCHS = 24
# Enough to see which epoch is best: the more there is to learn from, the better.
HELD_OUT = 0.02

# What the package calls our splits.
FILES = {"train": "train", "test": "t10k"}

# Comparing a block of this many queries with 60,000 images, and ranking these, takes about 150 MB.
QUERIES_AT_ONCE = 100

Bytes = NDArray[np.uint8]
Embeddings = NDArray[np.float32]


def main(folder: Path, *, part: int | None = None, epochs: int = EPOCHS) -> None:
    """Train, index and evaluate in a folder, which keeps images, model and index.

    Args:
        folder: Its `train/` and `test/` are filled if they are missing, and `cnn.keras` is trained if it is.
        part: As for `fill`.
        epochs: Of the training, at most.
    """
    fill(folder, part)
    train, test, model = folder / "train", folder / "test", folder / "cnn.keras"
    index, asked = folder / "train.imgsearch", folder / "test.embeddings"
    if not model.exists():
        options = ["--size", SIDE, "--seed", SEED, "--validation", HELD_OUT, "--epochs", epochs]
        _run("train", train, "-o", model, "--architecture", "cnn", *options)
    _run("build-index", train, "--index", index, "--backbone", model)
    _run("embed", test, "-o", asked, "--backbone", model)

    queries = sorted(test.rglob("*.png"))
    predicted = classify(model, queries, folder / "test.classes.jsonl")
    correct = [name == query.parent.name for query, name in predicted.items()]
    print(f"accuracy on {len(queries)} test images: {np.mean(correct):.4f}")
    ranks = ask(index, queries)
    rates = ", ".join(f"{hit_rate(ranks, k):.4f} at {k}" for k in (1, 5, 10))
    print(f"hit rate of their classes in the index: {rates}")
    precisions = average_precisions(*embedded(asked), *embedded(index))
    print(f"mean average precision of their embeddings: {precisions.mean():.4f}")


def fill(folder: Path, part: int | None = None) -> None:
    """Make `train/<class>/<number>.png` and `test/<class>/<number>.png`, unless they are there.

    Args:
        folder: Made if it is missing.
        part: How many images of each class a split gets; None for all.
    """
    if all((folder / split).is_dir() for split in FILES):
        return
    for split, (images, labels) in _fetched().items():
        draft = folder / f"{split}.tmp"
        shutil.rmtree(draft, ignore_errors=True)
        write_classes(draft, images, labels, part)
        shutil.rmtree(folder / split, ignore_errors=True)
        draft.rename(folder / split)


def write_classes(folder: Path, images: Bytes, labels: Bytes, part: int | None = None) -> None:
    """Write images as PNG, each into the folder of its class.

    Args:
        folder: Made if it is missing.
        images: uint8 (N, 28, 28), gray; their place is their number and their name.
        labels: uint8 (N,), places in `CLASSES`.
        part: As for `fill`.
    """
    for label, name in enumerate(CLASSES):
        (folder / name).mkdir(parents=True)
        for number in np.flatnonzero(labels == label)[:part]:
            _, png = cv2.imencode(".png", images[number])
            (folder / name / f"{number:05d}.png").write_bytes(png.tobytes())


def read_idx(file: Path) -> Bytes:
    """Read an array of bytes in the format of MNIST, compressed with gzip.

    Its header is big-endian: 0, 0, 8 for bytes, the number of dimensions, and the length of each in 32 bits.
    """
    data = gzip.decompress(file.read_bytes())
    dimensions = data[3]
    shape = np.frombuffer(data, ">u4", dimensions, offset=4)
    return np.frombuffer(data, np.uint8, offset=4 + 4 * dimensions).reshape(shape)


def classify(model: Path, images: Sequence[Path], output: Path) -> dict[Path, str]:
    """Ask the program for the class of each image; its answers stay in a file, a JSON object a line."""
    names = b"".join(os.fsencode(image) + b"\n" for image in images)
    _run("classify", "-", "--model", model, "--top-k", 1, "--format", "jsonl", "-o", output, given=names)
    answers = map(json.loads, output.read_text().splitlines())
    return {image: answer["classes"][0]["class"] for image, answer in zip(images, answers, strict=True)}


def ask(directory: Path, queries: Sequence[Path], k: int = 10) -> list[int | None]:
    """Ask an index, through the library, for images of the class of each query; returns the rank of the first."""
    ranks = []
    with Index.open(directory) as index:
        for query in queries:
            hits = index.search(query, k)
            ranks.append(next((hit.rank for hit in hits if hit.category == query.parent.name), None))
    return ranks


def embedded(directory: Path) -> tuple[Embeddings, list[str]]:
    """Open what an index, or `imgsearch embed`, says of its images.

    Returns:
        Unit float32 (N, D), mapped; and the class of each.
    """
    manifest = read_manifest(directory)
    folder = directory / manifest.folder
    with contextlib.closing(Items(folder / ITEMS)) as items:
        classes = [item.category for item in items.fetch(range(manifest.count))]
    return np.load(folder / EMBEDDINGS, mmap_mode="r"), classes


def average_precisions(
    queries: Embeddings, wanted: Sequence[str], items: Embeddings, classes: Sequence[str]
) -> NDArray[np.float64]:
    """Rank all items by their cosine with each query, and say how far ahead those of its class are.

    Args:
        queries: Unit float32 (N, D).
        wanted: The class of each query; there are items of it.
        items: Unit float32 (M, D).
        classes: The class of each item.

    Returns:
        (N,): the average precision of each query, 0 to 1.
    """
    numbers = {name: number for number, name in enumerate(dict.fromkeys(classes))}
    of_items = np.array([numbers[name] for name in classes])
    of_queries = np.array([numbers[name] for name in wanted])
    found: list[float] = []
    for start in range(0, len(queries), QUERIES_AT_ONCE):
        block = slice(start, start + QUERIES_AT_ONCE)
        ranking = np.argsort(-(queries[block] @ items.T), axis=1)
        relevant = of_items[ranking] == of_queries[block, None]
        found += [measures(np.flatnonzero(row) + 1, int(row.sum()))["map"] for row in relevant]
    return np.array(found)


def _fetched() -> Mapping[str, tuple[Bytes, Bytes]]:
    """Fetch images (N, 28, 28) and labels (N,) of both splits."""
    with tempfile.TemporaryDirectory() as scratch:
        if unpack_package(PACKAGE, Path(scratch)):
            unpacked = Path(scratch) / "usr/share/datasets/fashion-mnist"
            return {
                split: (
                    read_idx(unpacked / f"{name}-images-idx3-ubyte.gz"),
                    read_idx(unpacked / f"{name}-labels-idx1-ubyte.gz"),
                )
                for split, name in FILES.items()
            }
    import keras

    train, test = keras.datasets.fashion_mnist.load_data()
    return {"train": train, "test": test}


def _run(*arguments: object, given: bytes = b"") -> None:
    command = ["imgsearch", *map(str, arguments)]
    print(f"$ {' '.join(command)}", flush=True)
    subprocess.run([sys.executable, "-m", *command], check=True, input=given)
    print(flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Train, index and evaluate on Fashion-MNIST.")
    parser.add_argument("folder", type=Path, help="keeps images, model and index")
    parser.add_argument("--part", type=int, metavar="N", help="only N images of each class, training and test")
    parser.add_argument("--epochs", type=int, default=EPOCHS, metavar="N", help="of the training, at most")
    given = parser.parse_args()
    main(given.folder, part=given.part, epochs=given.epochs)
