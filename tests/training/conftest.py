"""Small sets of labeled images."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import shutil
from pathlib import Path

import pytest

from drawn_catalog import draw_catalog

KINDS = ("balls", "stars", "tents")


@pytest.fixture(scope="session")
def shapes(tmp_path_factory) -> Path:
    """Twenty drawn images of each of three kinds, a folder for each. Not to be changed."""
    everything = tmp_path_factory.mktemp("everything")
    folder = tmp_path_factory.mktemp("shapes")
    draw_catalog(everything, per_kind=20)
    for kind in KINDS:
        shutil.copytree(everything / kind, folder / kind)
    return folder


@pytest.fixture
def own_shapes(shapes, tmp_path) -> Path:
    """The same, for a test that changes it."""
    return Path(shutil.copytree(shapes, tmp_path / "shapes"))
