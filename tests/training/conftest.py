"""Small sets of labeled images, and one trained model for each objective."""

import contextlib
import importlib.util
import os
import warnings
from collections.abc import Iterator

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import shutil
from pathlib import Path

import pytest

from drawn_catalog import draw_catalog
from training_options import DETECTOR, HEAD, SMALL, draw_kinds


@contextlib.contextmanager
def untraced() -> Iterator[None]:
    """Let Keras train step by step in Python."""
    import tensorflow as tf  # noqa: TID251  # Keras has no switch of its own for all models

    tf.config.run_functions_eagerly(True)
    try:
        with warnings.catch_warnings():  # that tf.data is traced anyway, and that a model's input is named
            warnings.simplefilter("ignore", UserWarning)
            yield
    finally:
        tf.config.run_functions_eagerly(False)


@pytest.fixture(name="untraced")
def untraced_fixture() -> Iterator[None]:
    """Do not trace what Keras trains: that takes seconds, and pays only after some dozen steps."""
    with untraced():
        yield


@pytest.fixture(scope="session")
def shapes(tmp_path_factory) -> Path:
    """Twenty drawn images of each of three kinds, a folder for each. Not to be changed."""
    return draw_kinds(tmp_path_factory.mktemp("shapes"), 20)


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
    return train(str(shapes), output, **SMALL, tensorboard=board, plots=plots)


@pytest.fixture(scope="session")
def exporting_here():
    """Export encoders in this process, which has Keras already; tests/encoders/test_export.py does it in another."""
    from imgsearch.encoders import export

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export, "_export_elsewhere", export.export_graph)
        yield


@pytest.fixture(scope="session")
def head(shapes, exporting_here, tmp_path_factory):
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


@pytest.fixture(scope="session", params=["cnn.keras", pytest.param("efficientnet-lite0", marks=pytest.mark.slow)])
def architecture(request, tmp_path_factory) -> str:
    """The encoder of a detector; a small one is traced in a fraction of the time of the default one."""
    from imgsearch.encoders.model_file import ModelCard, save_model
    from imgsearch.training.networks import build_cnn

    if request.param != "cnn.keras":
        return request.param
    file = tmp_path_factory.mktemp("architecture") / request.param
    save_model(build_cnn(DETECTOR["size"], 16), file, ModelCard(DETECTOR["size"], "pad", "", 16, (), "metric", "cnn"))
    return str(file)


@pytest.fixture(scope="session")
def detector(items, few_scenes, architecture, tmp_path_factory):
    """The report of a detector. The small one is not traced, which takes longer than its four steps."""
    from imgsearch import train

    output = tmp_path_factory.mktemp("detector") / "detector.keras"
    with untraced() if architecture.endswith(".keras") else contextlib.nullcontext():
        return train(items, output, architecture=architecture, **DETECTOR)
