"""`train --objective adapt`; what an adaptation is, tests/encoders/test_adaptation.py says."""

import numpy as np
import pytest

from imgsearch import GateError, train
from imgsearch.cli import main
from imgsearch.encoders.model_file import read_card
from imgsearch.encoders.projection import AdaptationGain
from imgsearch.training.adapt import train as adapt

# Keras' variables do not know NumPy 2's keyword yet; Keras itself copies them when it saves a model.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")


@pytest.fixture
def variants(monkeypatch):
    """In place of variants of images, which take minutes: embeddings with much noise in eight directions."""
    generator = np.random.default_rng(0)
    own = generator.normal(size=(40, 1, 512)) * np.r_[np.zeros(8), np.full(504, 0.1)]
    noise = generator.normal(size=(40, 9, 512)) * np.r_[np.ones(8), np.full(504, 0.01)]
    rows = (own + noise).astype(np.float32)
    monkeypatch.setattr(adapt, "embedded_variants", lambda *_: rows / np.linalg.norm(rows, axis=2, keepdims=True))
    monkeypatch.setattr(adapt, "exported_encoder", lambda *_: None)
    monkeypatch.setattr(adapt, "open_encoder", lambda *_: None)


def test_an_adaptation_that_helps_is_an_encoder_of_its_own(variants, items, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    assert main(["train", str(items), "-o", "shop.keras", "--objective", "adapt"]) == 0

    printed = capsys.readouterr().out
    card = read_card(tmp_path / "shop.keras")
    assert printed.startswith("shop.keras: of held-out variants of 40 images 1.000 find theirs first, 0.")
    assert (card.objective, card.backbone, card.labels, card.dims) == ("adapt", "lite0-retrieval", (), 512)
    assert [path.name for path in tmp_path.iterdir()] == ["shop.keras"]


def test_an_adaptation_that_does_not_help_is_a_gate_that_is_not_met(variants, items, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(adapt, "learn_adaptation", lambda *_: None)
    monkeypatch.setattr(adapt, "measure_gain", lambda *_: AdaptationGain(40, 0.95, 0.9, 0.6, 0.6))
    monkeypatch.chdir(tmp_path)

    with pytest.raises(GateError, match="the adaptation does not help"):
        train(items, "shop.keras", objective="adapt")
    assert main(["train", str(items), "-o", "shop.keras", "--objective", "adapt"]) == 10

    assert "redrawn 0.600, 0.600 without; no model was written" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
