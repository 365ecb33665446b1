"""The default encoder: EfficientNet-Lite0 with a head for retrieval."""

import cv2
import numpy as np
import pytest

from imgsearch.encoders import weights
from imgsearch.encoders.export import exported_encoder
from imgsearch.encoders.runtime import encode, open_encoder
from imgsearch.encoders.spec import DEFAULT_BACKBONE
from imgsearch.encoders.table import TABLE
from imgsearch.encoders.weights import retrieval_head
from imgsearch.errors import MissingComponentError

SPEC = TABLE[DEFAULT_BACKBONE].spec


@pytest.fixture(scope="module")
def exported():
    return exported_encoder(SPEC)


@pytest.fixture(scope="module")
def networks():
    from imgsearch.encoders import networks

    return networks


def scene(seed=0):
    """A thing with colored parts on an uneven background: RGB (224, 224, 3)."""
    coarse = np.random.default_rng(seed).integers((90, 110, 90), (140, 160, 140), (7, 7, 3)).astype(np.uint8)
    square = cv2.resize(coarse, (224, 224), interpolation=cv2.INTER_CUBIC)
    cv2.circle(square, (140, 130), 40, (200, 40, 30), -1)
    cv2.circle(square, (126, 120), 10, (250, 220, 60), -1)
    cv2.rectangle(square, (140, 135), (165, 150), (30, 40, 120), -1)
    return square


def test_embeddings_are_of_unit_length_and_openvino_agrees_with_keras(networks, exported):
    network = networks.build_network(SPEC)
    squares = np.stack([scene(), scene()[:, ::-1], np.roll(scene(1), 40, axis=0)])

    rows = np.asarray(network(squares, training=False))

    assert (network.inputs[0].dtype, network.output_shape) == ("uint8", (None, SPEC.dims))
    assert np.allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)
    assert np.sum(rows * encode(open_encoder(SPEC, exported), squares), axis=1).min() >= 0.9999


def test_weights_of_the_head_are_those_that_the_encoder_names():
    kernel, bias = retrieval_head()

    assert SPEC.weights == f"sha256:{weights.RETRIEVAL_HEAD_SHA256}"
    assert (kernel.shape, bias.shape) == ((1280 + 1152 + 672, SPEC.dims), (SPEC.dims,))
    assert kernel.dtype == bias.dtype == np.float32
    assert np.isfinite(kernel).all()
    assert np.isfinite(bias).all()


def test_a_changed_file_of_the_head_is_a_missing_component(monkeypatch):
    monkeypatch.setattr(weights, "RETRIEVAL_HEAD_SHA256", "0" * 64)

    with pytest.raises(MissingComponentError, match="not the expected file") as refused:
        retrieval_head()

    assert refused.value.hint == "install imgsearch-toolkit again"
