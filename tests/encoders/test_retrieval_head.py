"""The head of the default encoder; what the encoder gives is in test_networks.py."""

import numpy as np
import pytest

from imgsearch.encoders import weights
from imgsearch.encoders.spec import DEFAULT_BACKBONE
from imgsearch.encoders.table import TABLE
from imgsearch.encoders.weights import retrieval_head
from imgsearch.errors import MissingComponentError

SPEC = TABLE[DEFAULT_BACKBONE].spec


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
