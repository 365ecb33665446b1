"""What the tests of an evaluation need: indexes of given vectors, and indexes that a bug of ours has signed."""

import csv
import json
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from drawn_catalog import draw_catalog
from imgsearch import build_index
from imgsearch.store import generations, integrity
from imgsearch.store.manifest import Manifest


def sign(directory: Path, **changes: object) -> Manifest:
    """Sign an index as it lies there, as a bug of ours would have done."""
    manifest = generations.read_manifest(directory)
    files = {name: integrity.file_record(directory / name) for name in manifest.files}
    manifest = replace(manifest, files=files, **changes)
    for path in (directory / generations.MANIFEST, directory / manifest.folder / generations.MANIFEST):
        path.write_text(json.dumps(manifest.to_json()))
    return manifest


def write_csv(file: Path, columns: Sequence[str], rows: Iterable[Sequence[str]], encoding: str = "utf-8") -> Path:
    with file.open("w", encoding=encoding, newline="", errors="surrogateescape") as lines:
        csv.writer(lines).writerows([columns, *rows])
    return file


@pytest.fixture(scope="session", name="sign")
def sign_fixture() -> Callable[..., Manifest]:
    """Sign an index that was changed: sign(directory)."""
    return sign


@pytest.fixture(scope="session", name="write_csv")
def write_csv_fixture() -> Callable[..., Path]:
    """Write a CSV file: write_csv(file, columns, rows)."""
    return write_csv


@pytest.fixture
def shop_copy(shop, tmp_path) -> Path:
    """The drawn catalog and its index, to be changed."""
    shutil.copytree(shop / "catalog", tmp_path / "catalog")
    shutil.copytree(shop / "index", tmp_path / "index")
    sign(tmp_path / "index", catalog=str(tmp_path / "catalog"))
    return tmp_path


@pytest.fixture(scope="session")
def shop(tmp_path_factory) -> Path:
    """A catalog of 48 drawn products in 12 categories with an index beside it. Not to be changed: copy it."""
    folder = tmp_path_factory.mktemp("shop")
    draw_catalog(folder / "catalog", per_kind=4)
    build_index(folder / "catalog", folder / "index", backbone="handcrafted")
    return folder
