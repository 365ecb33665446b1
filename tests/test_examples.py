"""The examples run, on a small part of what they are for."""

import csv
import functools
import gzip
import re
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

import find_in_photos
from catalogs import titles_of
from drawn_catalog import PATTERNS, SHAPES, draw_catalog
from fashion_mnist import CLASSES, average_precisions, fill, read_idx, write_classes
from imgsearch.images.decode import decode

EXAMPLES = Path(__file__).parent.parent / "examples"


def idx_file(path: Path, array) -> Path:
    header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
    path.write_bytes(gzip.compress(header + array.tobytes()))
    return path


def drawn_split(folder: Path, per_kind: int, seed: int) -> None:
    """Draw class folders of the size and the colors of Fashion-MNIST."""
    for file in draw_catalog(folder, per_kind=per_kind, seed=seed):
        drawn = cv2.imdecode(np.frombuffer(file.read_bytes(), np.uint8), cv2.IMREAD_UNCHANGED)
        _, png = cv2.imencode(".png", cv2.resize(drawn[:, :, 3], (28, 28), interpolation=cv2.INTER_AREA))
        file.write_bytes(png.tobytes())


def test_an_idx_file_is_read_as_it_was_written(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (7, 28, 28), np.uint8)
    assert np.array_equal(read_idx(idx_file(tmp_path / "images.gz", images)), images)
    assert np.array_equal(read_idx(idx_file(tmp_path / "labels.gz", images[:, 0, 0])), images[:, 0, 0])


def test_each_image_lies_in_the_folder_of_its_class(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (30, 28, 28), np.uint8)
    labels = np.arange(30, dtype=np.uint8) % 10
    write_classes(tmp_path / "all", images, labels)
    assert sorted(folder.name for folder in (tmp_path / "all").iterdir()) == sorted(CLASSES)
    for number, label in enumerate(labels):
        file = tmp_path / "all" / CLASSES[label] / f"{number:05d}.png"
        written = cv2.imdecode(np.frombuffer(file.read_bytes(), np.uint8), cv2.IMREAD_UNCHANGED)
        assert np.array_equal(written, images[number])


def test_a_part_has_the_first_images_of_each_class(tmp_path):
    labels = np.arange(30, dtype=np.uint8) % 10
    write_classes(tmp_path / "part", np.zeros((30, 28, 28), np.uint8), labels, part=2)
    assert sorted(file.name for file in (tmp_path / "part" / "Coat").iterdir()) == ["00004.png", "00014.png"]
    assert sum(1 for _ in (tmp_path / "part").rglob("*.png")) == 20


def test_the_titles_of_a_stamp_are_read_by_language(tmp_path):
    (tmp_path / "owl.txt").write_text("An owl.\nde.utf8=Eine Eule.\nzh_CN.utf8=猫头鹰。\nde.utf8=Noch eine.\n\n")
    titles = {"": "An owl.", "de": "Eine Eule.", "zh_CN": "猫头鹰。"}
    assert titles.items() <= titles_of(tmp_path / "owl.png").items()
    assert titles_of(tmp_path / "owl_mirror.png") == titles_of(tmp_path / "owl.png")
    assert titles_of(tmp_path / "crow.png") == {}


def test_the_drawn_catalog_says_what_it_draws(tmp_path):
    files = draw_catalog(tmp_path / "catalog", per_kind=2, products=tmp_path / "products.csv")
    with (tmp_path / "products.csv").open(newline="", encoding="utf-8") as table:
        titles = {row["path"]: row["title"] for row in csv.DictReader(table)}
    assert list(titles) == [file.relative_to(tmp_path / "catalog").as_posix() for file in files]
    for number, (path, title) in enumerate(titles.items()):
        words = title.lower().replace(",", "").split()
        assert words[1] == {"boxes": "box", "fish": "fish"}.get(path.split("/")[0], path.split("/")[0].rstrip("s"))
        assert set(words) & PATTERNS.keys() == ({"stripes"} if number % 2 else set())
    assert len(titles) == 2 * len(SHAPES)


def test_images_that_are_there_are_not_fetched_again(tmp_path):
    for split in ("train", "test"):
        (tmp_path / split).mkdir()
    fill(tmp_path)
    assert sorted(tmp_path.rglob("*")) == [tmp_path / "test", tmp_path / "train"]


def test_average_precision_is_that_of_its_definition():
    generator = np.random.default_rng(0)
    queries, items = (generator.normal(size=(count, 8)).astype(np.float32) for count in (250, 90))
    classes = [f"class {number % 4}" for number in range(90)]
    wanted = [f"class {number}" for number in generator.integers(0, 4, 250)]
    found = average_precisions(queries, wanted, items, classes)
    for query, name, precision in zip(queries, wanted, found, strict=True):
        ranking = sorted(range(90), key=lambda item, query=query: -float(query @ items[item]))
        places = [place for place, item in enumerate(ranking, 1) if classes[item] == name]
        assert precision == pytest.approx(np.mean([number / place for number, place in enumerate(places, 1)]), abs=1e-6)


@pytest.mark.slow
def test_fashion_mnist_trains_indexes_and_evaluates(tmp_path):
    drawn_split(tmp_path / "train", per_kind=60, seed=0)
    drawn_split(tmp_path / "test", per_kind=5, seed=1)
    command = [sys.executable, str(EXAMPLES / "fashion_mnist.py"), str(tmp_path), "--epochs", "12"]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=600)
    accuracy, at_1, at_5, at_10, mean = re.search(
        r"accuracy on 60 test images: (\S+)\n"
        r"hit rate of their classes in the index: (\S+) at 1, (\S+) at 5, (\S+) at 10\n"
        r"mean average precision of their embeddings: (\S+)\n",
        done.stdout,
    ).groups()
    assert float(accuracy) > 0.8
    assert 0.8 < float(at_1) <= float(at_5) <= float(at_10) <= 1
    assert 0.6 < float(mean) <= 1
    assert (tmp_path / "cnn.keras").is_file()


def test_products_are_found_in_scenes_and_shown_with_their_boxes(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(find_in_photos, "draw_catalog", functools.partial(draw_catalog, per_kind=2))

    find_in_photos.main(tmp_path)

    sheet = tmp_path / "find-in-photos.png"
    assert str(sheet) in capsys.readouterr().out
    pixels = decode(sheet.read_bytes())
    assert pixels.shape == (812, 876, 3)
    orange = np.abs(pixels[:, :160].astype(int) - (255, 140, 0)).max(axis=2) < 60
    assert orange.sum() > 200
