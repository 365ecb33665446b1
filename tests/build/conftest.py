"""Builds of these tests decode in their own process."""

import pytest

from here_decoder import HereDecoder


@pytest.fixture(autouse=True)
def decoding_here(monkeypatch):
    monkeypatch.setattr("imgsearch.build.pipeline.DecodeWorker", HereDecoder)
    monkeypatch.setattr("imgsearch.build.vocabulary.DecodeWorker", HereDecoder)
