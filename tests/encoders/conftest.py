"""What tests of encoders need: Keras, which takes seconds to import, only when a test runs that uses it."""

import os

import pytest


@pytest.fixture(scope="session")
def keras():
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import keras

    return keras
