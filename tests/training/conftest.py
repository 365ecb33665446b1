"""Small sets of labeled images, and one trained model for each objective."""

import importlib.util
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import shutil
from pathlib import Path

import pytest

from drawn_catalog import draw_catalog
from training_options import DETECTOR, HEAD, KINDS, SMALL


@pytest.fixture(scope="session")
def shapes(tmp_path_factory) -> Path:
    """Twenty drawn images of each of three kinds, a folder for each. Not to be changed."""
    everything, folder = tmp_path_factory.mktemp("everything"), tmp_path_factory.mktemp("shapes")
    draw_catalog(everything, per_kind=20)
    for kind in KINDS:
        (everything / kind).rename(folder / kind)
    return folder


@pytest.fixture
def own_shapes(shapes, tmp_path) -> Path:
    """The same, for a test that changes it."""
    return Path(shutil.copytree(shapes, tmp_path / "shapes"))


@pytest.fixture(scope="session")
def classifier(shapes, tmp_path_factory):
    """The report of a small network that was trained on the shapes until it knows them; with all that can be added."""
    from imgsearch import train

    folder = tmp_path_factory.mktemp("classifier")
    board = str(folder / "board") if importlib.util.find_spec("tensorboard") else None
    plots = importlib.util.find_spec("matplotlib") is not None
    # As strings: paths may be either.
    output = str(folder / "shapes.keras")
    return train(str(shapes), output, **{**SMALL, "epochs": 16, "tensorboard": board, "plots": plots})


@pytest.fixture(scope="session")
def head(shapes, tmp_path_factory):
    """The report of a head that was trained on a frozen backbone."""
    from imgsearch import train

    return train(shapes, tmp_path_factory.mktemp("head") / "head.keras", **HEAD)


@pytest.fixture(scope="session")
def items(tmp_path_factory) -> Path:
    """Ten drawn images, each of another kind. Not to be changed."""
    folder = tmp_path_factory.mktemp("items")
    for file in draw_catalog(folder, per_kind=1)[10:]:
        file.unlink()
    return folder


@pytest.fixture(scope="session")
def few_scenes():
    """Let detectors learn from a few scenes only."""
    from imgsearch.training.detector import fitting

    with pytest.MonkeyPatch.context() as patch:
        for name, value in (("SCENES", 8), ("_MEASURED", 4), ("_MEASURED_LAST", 8)):
            patch.setattr(fitting, name, value)
        yield


@pytest.fixture(scope="session")
def detector(items, few_scenes, tmp_path_factory):
    """The report of a detector."""
    from imgsearch import train

    return train(items, tmp_path_factory.mktemp("detector") / "detector.keras", **DETECTOR)
