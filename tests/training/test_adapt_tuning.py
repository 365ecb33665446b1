"""`train --objective adapt --unfreeze N`: blocks are tuned without labels, and mixed with what they were."""

import json
from dataclasses import replace

import keras
import numpy as np
import pytest

from here_variants import HereVariants
from imgsearch import GateError, UsageError, train
from imgsearch.cli import main
from imgsearch.encoders import networks as encoders
from imgsearch.encoders.model_file import load_model, read_card
from imgsearch.training import options
from imgsearch.training.adapt import data, fitting
from imgsearch.training.adapt.data import LEARNED, VIEWS, pairs
from imgsearch.training.adapt.fitting import AveragingAdamW, fit
from imgsearch.training.loop import Loop
from imgsearch.training.losses import nt_xent
from imgsearch.training.options import check_options, resolve_adaptation
from imgsearch.training.report import history_file
from imgsearch.training.workspace import Workspace

# Keras' variables do not know NumPy 2's keyword yet; Keras itself copies them when it saves a model.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")

SIDE, DIMS = 32, 24
TUNED = {"objective": "adapt", "unfreeze": 1, "epochs": 2, "batch_size": 8, "learning_rate": 0.01}
FIRST, LAST = "_blocks.0._project_conv", "_blocks.15._project_conv"


def build(spec, weights=None) -> keras.Model:
    """In place of a backbone, which takes minutes: two blocks with names like its own."""
    images = keras.Input((SIDE, SIDE, 3), dtype="uint8")
    tensor = keras.layers.Rescaling(1 / 255, offset=-0.5)(images)
    for block, name in enumerate((FIRST, LAST)):
        start = keras.initializers.GlorotUniform(seed=block)
        tensor = keras.layers.Conv2D(DIMS, 4, 4, kernel_initializer=start, name=name)(tensor)
    return keras.Model(images, keras.layers.UnitNormalization()(keras.layers.GlobalAveragePooling2D()(tensor)))


@pytest.fixture
def small(monkeypatch, untraced):
    """A small backbone, and few images."""
    choose = options.choose_network
    chosen = replace(choose(TUNED), spec=replace(choose(TUNED).spec, size=SIDE, dims=DIMS))
    monkeypatch.setattr(options, "choose_network", lambda _: chosen)
    monkeypatch.setattr(encoders, "build_network", build)
    monkeypatch.setattr(data, "VariantWorker", HereVariants)
    monkeypatch.setattr(data, "MIN_IMAGES", 10)
    monkeypatch.setattr(fitting, "MIXES", (0.5,))


@pytest.mark.slow
def test_the_last_blocks_are_tuned_and_an_interrupted_training_goes_on_as_if_it_had_not_been(
    small, items, tmp_path, monkeypatch, capsys
):
    whole = train(items, tmp_path / "whole.keras", **TUNED)

    card, model, backbone = read_card(whole.output), load_model(whole.output), build(None)
    assert (card.objective, card.backbone, card.dims, card.size) == ("adapt", "lite0-retrieval", DIMS, SIDE)
    kernels = [[each.get_layer(name).get_weights()[0] for each in (model, backbone)] for name in (FIRST, LAST)]
    assert np.array_equal(*kernels[0])
    assert np.array_equal(*kernels[1]) == (whole.mix == 0)
    assert whole.gain.helps
    mixed = "0.50 of the tuned weights" if whole.mix else "the tuned weights do not help and are left out"
    history = json.loads(history_file(whole.output).read_text())
    assert (history["images"], history["mix"], history["settings"]["unfreeze"]) == (10, whole.mix, 1)
    assert history["metrics"].keys() == {"before", "after", "drawings_before", "drawings_after"}
    assert [(epoch["stage"], epoch["epoch"]) for epoch in history["epochs"]] == [("blocks", 1), ("blocks", 2)]

    def interrupt(stage: str, done: int, _: int) -> None:
        if stage == "train" and done == 3:  # two epochs of two batches: the second has begun
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(items, tmp_path / "broken.keras", progress=interrupt, **TUNED)
    with pytest.raises(UsageError, match=r"has learning_rate 0\.01, not 0\.02"):
        train(items, tmp_path / "broken.keras", resume=True, **{**TUNED, "learning_rate": 0.02})
    monkeypatch.chdir(tmp_path)
    told = [part for name, value in TUNED.items() for part in (f"--{name.replace('_', '-')}", str(value))]
    assert main(["train", str(items), "-o", "broken.keras", "--resume", *told]) == 0
    resumed = json.loads(history_file(tmp_path / "broken.keras").read_text())
    assert [epoch["loss"] for epoch in resumed["epochs"]] == [epoch["loss"] for epoch in whole.epochs]
    assert {**history, **resumed}.keys() == history.keys()
    assert (resumed["mix"], resumed["metrics"]) == (history["mix"], history["metrics"])
    printed = capsys.readouterr().out
    assert printed.startswith(f"broken.keras: 2 epochs; {mixed}; of held-out variants of 10 images")
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *("broken.history.json", "broken.keras", "whole.history.json", "whole.keras")
    ]


def test_what_does_not_help_is_a_gate_that_is_not_met_and_nothing_is_left(small, items, tmp_path, monkeypatch):
    monkeypatch.setattr(fitting, "MIXES", ())
    measure = fitting.measure_gain
    monkeypatch.setattr(fitting, "measure_gain", lambda *parts: replace(measure(*parts), before=1.0, after=0.9))

    with pytest.raises(GateError, match=r"does not help: of held-out variants of 10 images 0\.900"):
        train(items, tmp_path / "never.keras", **TUNED)

    assert list(tmp_path.iterdir()) == []


def test_too_few_images_are_refused_before_the_training(small, items, tmp_path, monkeypatch):
    monkeypatch.setattr(data, "MIN_IMAGES", 11)

    with pytest.raises(UsageError, match="at least 11 images to adapt to, found 10"):
        train(items, tmp_path / "never.keras", **TUNED)

    assert list(tmp_path.iterdir()) == []


# --- what is learned from


def test_an_epoch_has_two_different_views_of_each_image_and_none_that_is_held_out():
    batches = pairs(10, 8, np.random.default_rng(0))

    rows = np.concatenate(batches).reshape(10, 2)
    assert [len(batch) for batch in batches] == [10, 10]
    assert sorted((rows // VIEWS)[:, 0]) == list(range(10))
    assert np.array_equal(*(rows // VIEWS).T)
    assert np.all(rows[:, 0] != rows[:, 1])
    assert (rows % VIEWS).max() < LEARNED


def test_pairs_are_others_in_each_epoch_and_all_views_have_their_turn():
    epochs = [np.concatenate(pairs(10, 20, np.random.default_rng(epoch))) for epoch in range(20)]

    assert len({rows.tobytes() for rows in epochs}) == 20
    assert set(np.concatenate(epochs) % VIEWS) == set(range(LEARNED))


# --- tuning and mixing


def noisy_maps(images: int) -> np.ndarray:
    """Maps of images whose views differ in noise that lies over what is their own, and once more beside it."""
    generator = np.random.default_rng(0)
    own = np.repeat(generator.normal(size=(images, 1, 8)), VIEWS, axis=1)
    noise = generator.normal(size=(images, VIEWS, 8))
    return np.concatenate([own + noise, noise], axis=2).astype(np.float16)


def tuned_by(tmp_path):
    """A dense layer that is tuned on these, and what came of it."""
    rows = keras.Input((16,), name="maps")
    start = keras.initializers.Orthogonal(seed=0)
    embedding = keras.layers.UnitNormalization()(keras.layers.Dense(6, kernel_initializer=start)(rows))
    network = keras.Model(rows, embedding)
    before = network.get_weights()
    settings, _ = resolve_adaptation(check_options({**TUNED, "epochs": 12, "batch_size": 20, "learning_rate": 0.02}))
    with Workspace(tmp_path / "model.keras") as workspace:
        workspace.begin({}, resume=False)
        loop = Loop(workspace, None, lambda *_: None)
        outcome = fit(settings, network, noisy_maps(100), loop)
        workspace.clear()
    return outcome, before, network.get_weights(), loop.epochs


@pytest.mark.slow
def test_what_tuning_finds_is_mixed_in_where_it_helps_both_kinds(tmp_path):
    outcome, before, after, epochs = tuned_by(tmp_path)

    assert epochs[-1]["loss"] < epochs[0]["loss"]
    assert outcome.mix > 0
    assert not np.array_equal(before[0], after[0])
    assert outcome.gain.after > outcome.gain.before + 0.1
    assert outcome.gain.drawings_after > outcome.gain.drawings_before + 0.1


@pytest.mark.slow
def test_where_tuning_does_harm_the_weights_are_those_from_before(tmp_path, monkeypatch):
    monkeypatch.setattr(fitting, "nt_xent", lambda *parts: -nt_xent(*parts))

    outcome, before, after, _ = tuned_by(tmp_path)

    assert outcome.mix == 0
    assert all(np.array_equal(*pair) for pair in zip(before, after, strict=True))


def test_weights_are_averaged_once_at_the_end_and_not_after_each_epoch():
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False, kernel_initializer="zeros")])
    model.compile(AveragingAdamW(0.1, use_ema=True, ema_momentum=0.5), "mse", jit_compile=False)
    seen = []

    for _ in range(3):
        model.fit(np.ones((1, 1)), np.ones((1, 1)), verbose=0)
        seen.append(float(model.get_weights()[0].item()))
    model.optimizer.average(model.trainable_variables)

    expected = seen[0]
    for weight in seen[1:]:
        expected = 0.5 * expected + 0.5 * weight
    assert seen == sorted(set(seen))
    assert model.get_weights()[0].item() == pytest.approx(expected, abs=1e-6)
