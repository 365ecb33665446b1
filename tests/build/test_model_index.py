"""An index by a model of one's own: what train wrote goes into build-index and answers without Keras."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from imgsearch import build_index, check
from imgsearch.encoders.choice import choose_encoder
from imgsearch.encoders.export import exported_encoder
from imgsearch.encoders.runtime import encode, open_encoder
from imgsearch.errors import UsageError
from imgsearch.images.decode import decode
from imgsearch.images.transform import fit
from imgsearch.store import generations
from imgsearch.store.generations import read_manifest


@pytest.fixture
def model(tiny_models, tmp_path) -> Path:
    return Path(shutil.copy(tiny_models / "classes.keras", tmp_path))  # by that name it has been exported


@pytest.fixture
def index(small, model, tmp_path) -> Path:
    build_index(small, tmp_path / "index", backbone=str(model), precision="f32", backend="exact")
    return tmp_path / "index"


ASK = """
import json, sys
from imgsearch import Index
from imgsearch.search.views import QueryImage
with Index.open(sys.argv[1]) as index:
    (view,) = index.viewer.views(QueryImage.read(sys.argv[2], index.manifest.policy), "whole")
    hits = index.search(sys.argv[2], k=1)
heavy = {"keras", "tensorflow", "sklearn", "h5py"} & set(sys.modules)
print(json.dumps([view.vector.tolist(), hits[0].path, sorted(heavy)]))
"""


def test_an_index_answers_without_keras_and_with_the_numbers_of_the_export(small, model, index, tmp_path):
    """Which are those of Keras: tests/encoders/test_classifier.py."""
    file = sorted(small.rglob("*.png"))[5]
    (tmp_path / "photo.png").write_bytes(file.read_bytes() + b"\0")  # other bytes, the same image
    choice = choose_encoder(str(model))
    encoder = open_encoder(choice.spec, exported_encoder(choice.spec, choice.files))
    (expected,) = encode(encoder, fit(decode(file.read_bytes()), 32)[None])
    model.unlink()

    asked = [sys.executable, "-c", ASK, index, tmp_path / "photo.png"]
    environment = os.environ | {"IMGSEARCH_CACHE": str(tmp_path / "none")}
    done = subprocess.run(asked, env=environment, capture_output=True, text=True, check=True)

    vector, path, heavy = json.loads(done.stdout)
    assert (path, heavy) == (file.relative_to(small).as_posix(), [])
    assert np.allclose(vector, expected, atol=1e-5)
    assert check(index, deep=True) == []


def test_a_build_at_night_needs_neither_the_model_nor_its_name(small, index, model, painted, tmp_path, monkeypatch):
    model.unlink()
    (small / "new.png").write_bytes(painted(50))
    monkeypatch.setenv("IMGSEARCH_CACHE", str(tmp_path / "another cache"))

    report = build_index(small, index)

    assert (report.embedded, report.unchanged) == (1, 12)
    assert read_manifest(index).encoder.name == "classes.keras"
    assert not build_index(small, index).published


@pytest.mark.slow
def test_a_model_that_was_trained_again_and_has_no_classes_embeds_everything_again(
    small, index, model, tiny_models, contents
):
    before = contents(index)
    assert not build_index(small, index, backbone=str(model)).published
    shutil.copy(tiny_models / "metric-again.keras", model)

    report = build_index(small, index, backbone=str(model))

    assert report.embedded == 12
    assert all(contents(index)[path] != before[path] for path in before)
    assert read_manifest(index).encoder.name == "classes.keras"


def test_a_model_that_is_refused_leaves_the_index_as_it_was(small, index, model):
    before = read_manifest(index)
    model.write_bytes(model.read_bytes()[:-100])

    with pytest.raises(UsageError, match=r"classes\.keras"):
        build_index(small, index, backbone=str(model))

    assert read_manifest(index) == before
    assert not (index / generations.PARTIAL).exists()
    assert not build_index(small, index).published


def test_another_precision_or_other_steps_need_neither_the_model_nor_keras(small, index, model, monkeypatch, tmp_path):
    first = read_manifest(index)
    model.unlink()
    monkeypatch.setenv("IMGSEARCH_CACHE", str(tmp_path / "another cache"))

    assert build_index(small, index, precision="bf16").embedded == 12
    assert (read_manifest(index).encoder.precision, check(index, deep=True)) == ("bf16", [])
    assert not build_index(small, index).published
    assert build_index(small, index, precision="f32").embedded == 12
    assert read_manifest(index).fingerprint == first.fingerprint
    assert check(index, deep=True) == []
