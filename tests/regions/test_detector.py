"""A detector as an index has it: run by OpenVINO."""

import shutil
from dataclasses import replace

import numpy as np
import pytest

from imgsearch.encoders.choice import choose_detector, choose_encoder
from imgsearch.encoders.export import exported_encoder
from imgsearch.encoders.runtime import GRAPH_FILE, encode, open_encoder
from imgsearch.errors import DamagedIndexError, MissingComponentError, UsageError
from imgsearch.regions.detections import Detector


@pytest.fixture(scope="module")
def encoder(tiny_models):
    return choose_encoder(str(tiny_models / "metric.keras"))


@pytest.fixture(scope="module")
def choice(tiny_models, encoder):
    return choose_detector(tiny_models / "detector.keras", encoder.spec)


@pytest.fixture(scope="module")
def folder(choice):
    return exported_encoder(choice.spec, choice.files)


@pytest.fixture(scope="module")
def detector(choice, folder):
    return Detector(choice.spec, folder / GRAPH_FILE)


@pytest.fixture
def square():
    """A bright image with two dark fields."""
    image = np.random.default_rng(0).integers(150, 256, (32, 32, 3), np.uint8)
    image[8:16, 16:24] = 5
    image[24:, :8] = 20
    return image


def test_it_finds_items_where_they_are_and_nothing_elsewhere(detector, square):
    found = detector.detect(square)

    assert np.flatnonzero(found.scores > 0.5).tolist() == [6, 12]
    assert np.allclose(found.boxes[[6, 12]], [[0.5, 0.25, 0.75, 0.5], [0, 0.75, 0.25, 1]])
    assert found.mask.shape == (4, 4)
    assert np.flatnonzero(found.mask.reshape(-1) > 0.5).tolist() == [6, 12]
    assert {each.dtype for each in (found.embedding, found.scores, found.boxes, found.mask)} == {np.dtype(np.float32)}


def test_its_embedding_is_that_of_the_encoder_it_shares(detector, encoder, square):
    alone = open_encoder(encoder.spec, exported_encoder(encoder.spec, encoder.files), for_one=True)

    (expected,) = encode(alone, square[None])
    assert np.allclose(detector.detect(square).embedding, expected, atol=1e-4)
    assert np.allclose(encode(detector, square[None]), [expected], atol=1e-4)
    assert np.allclose(detector.encode_with_features(square).embedding, expected, atol=1e-4)


def test_it_encodes_many_at_once_too(detector, square):
    several = np.stack([square, square[::-1], square[:, ::-1]])

    rows = encode(detector, several)

    assert np.allclose(rows, [detector.detect(each).embedding for each in several], atol=1e-4)


def test_answers_are_not_overwritten_by_the_next(detector, square):
    first = detector.detect(square)
    before = [np.copy(each) for each in (first.embedding, first.scores, first.boxes, first.mask)]

    detector.detect(255 - square)

    for each, copy in zip((first.embedding, first.scores, first.boxes, first.mask), before, strict=True):
        assert (each == copy).all()


def test_an_encoder_is_no_detector(encoder, choice):
    graph = exported_encoder(encoder.spec, encoder.files) / GRAPH_FILE

    with pytest.raises(DamagedIndexError, match="is no detector: beside an embedding it gives nothing"):
        Detector(choice.spec, graph)


@pytest.mark.parametrize("content", [b"", b"garbage", b"<net></net>"])
def test_a_damaged_graph_is_said_to_be_one(choice, folder, tmp_path, content):
    copy = shutil.copytree(folder, tmp_path / "copy")
    (copy / GRAPH_FILE).write_bytes(content)

    with pytest.raises(DamagedIndexError):
        Detector(choice.spec, copy / GRAPH_FILE)


def test_a_detector_is_for_its_own_encoder_whatever_that_computes_in_or_is_shown(tiny_models, encoder):
    file = tiny_models / "detector.keras"

    for spec in (replace(encoder.spec, precision="bf16"), replace(encoder.spec, steps="crop-foreground")):
        assert choose_detector(file, spec).spec.precision == spec.precision
    for name in ("again.keras", "gray.keras"):
        with pytest.raises(UsageError, match="expected a detector for"):
            choose_detector(file, choose_encoder(str(tiny_models / name)).spec)
    with pytest.raises(UsageError, match="expected a detector for handcrafted"):
        choose_detector(file, choose_encoder("handcrafted").spec)


def test_a_detector_that_lies_about_its_encoder_is_refused(tiny_models, encoder):
    # It names the encoder, but takes images of 40 pixels a side where that one takes 32.
    with pytest.raises(UsageError):
        choose_detector(tiny_models / "detector-of-40.keras", encoder.spec)


def test_an_encoder_is_refused_as_a_detector_and_a_detector_as_an_encoder(tiny_models, encoder, tmp_path):
    with pytest.raises(UsageError, match="expected a detector, found a model for metric") as refused:
        choose_detector(tiny_models / "metric.keras", encoder.spec)
    assert "--objective detect" in refused.value.hint
    with pytest.raises(UsageError, match="expected an encoder, found a detector") as refused:
        choose_encoder(str(tiny_models / "detector.keras"))
    assert "--detector" in refused.value.hint
    with pytest.raises(MissingComponentError):
        choose_detector(tmp_path / "nothing.keras", encoder.spec)
