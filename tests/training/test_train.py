import json
import os
import shutil
from pathlib import Path

import keras
import numpy as np
import pytest

from imgsearch.encoders.model_file import load_model, read_card
from imgsearch.errors import MissingComponentError, OutputError, UsageError
from imgsearch.images.workers.decoders import decode_and_fit
from imgsearch.training import train as module
from imgsearch.training.losses import METRIC_LOSSES
from imgsearch.training.report import history_file
from imgsearch.training.train import train

# Keras' variables do not know NumPy 2's keyword yet; Keras itself copies them when it saves a model.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")

SMALL = {"architecture": "cnn", "size": 32, "dims": 32, "batch_size": 18, "epochs": 4, "validation": 0.25}


def quick(folder: Path, output: Path, **options):
    return train(folder, output, **{**SMALL, **options})


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def measured(report) -> list[dict[str, object]]:
    return [{name: value for name, value in epoch.items() if name != "seconds"} for epoch in report.epochs]


def squares(folder: Path, size: int, kinds: tuple[str, ...]) -> np.ndarray:
    files = [folder / kind / f"{kind}-{number:02}.png" for kind in kinds for number in range(20)]
    return np.stack([decode_and_fit(file.read_bytes(), size, "pad") for file in files])


@pytest.fixture(scope="module")
def trained(shapes, tmp_path_factory):
    """A small network that was trained on the shapes until it knows them."""
    output = tmp_path_factory.mktemp("trained") / "shapes.keras"
    return quick(shapes, output, epochs=16), load_model(output)


def test_a_small_network_learns_to_tell_shapes_that_it_has_not_seen(trained):
    report, _ = trained

    assert len(report.dataset.validation_rows) == 15
    assert report.metrics["val_accuracy"] > 0.9
    assert report.metrics["val_hit"] > 0.9
    assert report.epochs[-1]["loss"] < 0.5 * report.epochs[0]["loss"]


def test_the_saved_file_is_a_whole_encoder_and_names_its_classes(trained, shapes):
    report, model = trained
    card = read_card(report.output)

    embeddings, probabilities = model.predict_on_batch(squares(shapes, 32, card.labels))

    assert (card.size, card.fit, card.steps, card.dims) == (32, "pad", "", 32)
    assert (card.labels, card.objective, card.backbone) == (("balls", "stars", "tents"), "classify", "cnn")
    assert np.allclose(np.linalg.norm(embeddings, axis=1), 1, atol=1e-5)
    assert np.allclose(probabilities.sum(axis=1), 1, atol=1e-5)
    assert np.mean(np.argmax(probabilities, axis=1) == np.repeat([0, 1, 2], 20)) > 0.9


def test_the_saved_file_has_nothing_but_layers_of_keras(trained):
    _, model = trained

    assert {type(layer).__module__.split(".")[0] for layer in model.layers} == {"keras"}
    assert not [layer for layer in model.layers if layer.name in ("augmentation", "centers")]


def test_the_history_beside_it_says_how_it_was_made(trained):
    report, _ = trained
    history = json.loads(history_file(report.output).read_text())

    assert history["settings"]["architecture"] == "cnn"
    assert history["settings"]["seed"] == 0
    assert history["classes"] == ["balls", "stars", "tents"]
    assert history["counts"] == {
        "training": {"balls": 15, "stars": 15, "tents": 15},
        "validation": {"balls": 5, "stars": 5, "tents": 5},
    }
    assert [epoch["epoch"] for epoch in history["epochs"]] == list(range(1, len(history["epochs"]) + 1))
    assert set(history["epochs"][0]) == {
        *("stage", "epoch", "seconds", "loss", "accuracy", "val_loss", "val_accuracy"),
    }
    best = history["epochs"][history["best"]]
    assert best["val_accuracy"] == max(epoch["val_accuracy"] for epoch in history["epochs"])
    assert best["val_accuracy"] == pytest.approx(history["metrics"]["val_accuracy"], abs=1e-6)
    assert history["versions"]["keras"] == keras.__version__


def test_nothing_is_left_beside_the_model_but_its_history(trained):
    report, _ = trained

    assert names(report.output.parent) == ["shapes.history.json", "shapes.keras"]


def test_the_same_seed_gives_the_same_and_another_seed_another(shapes, tmp_path):
    first = quick(shapes, tmp_path / "first.keras", epochs=2)
    second = quick(shapes, tmp_path / "second.keras", epochs=2)
    other = quick(shapes, tmp_path / "other.keras", epochs=2, seed=1)

    assert measured(first) == measured(second)
    assert measured(first) != measured(other)
    weights = [load_model(tmp_path / f"{name}.keras").get_weights() for name in ("first", "second")]
    assert all(np.array_equal(*pair) for pair in zip(*weights, strict=True))


class Interruption:
    """Interrupts a training, as Ctrl-C does, when so much of a stage is done."""

    def __init__(self, share: float) -> None:
        self._share = share

    def __call__(self, stage: str, done: int, total: int) -> None:
        if stage == "train" and done > self._share * total:
            raise KeyboardInterrupt


def test_a_training_that_was_interrupted_goes_on_as_if_it_had_not_been(shapes, tmp_path):
    # Nine batches in an epoch, so that their order is not the same by chance.
    whole = quick(shapes, tmp_path / "whole.keras", batch_size=5)
    with pytest.raises(KeyboardInterrupt):
        quick(shapes, tmp_path / "broken.keras", batch_size=5, progress=Interruption(0.6))
    assert names(tmp_path / "broken.keras.checkpoint") == ["state.npz"]
    assert not (tmp_path / "broken.keras").exists()

    resumed = quick(shapes, tmp_path / "broken.keras", batch_size=5, resume=True)

    assert measured(resumed) == measured(whole)
    assert (resumed.best, resumed.metrics) == (whole.best, whole.metrics)
    weights = [load_model(tmp_path / f"{name}.keras").get_weights() for name in ("whole", "broken")]
    assert all(np.array_equal(*pair) for pair in zip(*weights, strict=True))
    assert not (tmp_path / "broken.keras.checkpoint").exists()


@pytest.fixture
def interrupted(shapes, tmp_path) -> Path:
    output = tmp_path / "broken.keras"
    with pytest.raises(KeyboardInterrupt):
        quick(shapes, output, progress=Interruption(0.4))
    return output


def test_a_training_does_not_go_on_with_other_options_or_images(shapes, own_shapes, interrupted):
    with pytest.raises(UsageError, match="has batch_size 18, not 9"):
        quick(shapes, interrupted, batch_size=9, resume=True)
    (own_shapes / "balls/balls-00.png").unlink()
    with pytest.raises(UsageError, match="has dataset"):
        quick(own_shapes, interrupted, resume=True)


def test_without_resume_a_training_begins_anew(shapes, interrupted, caplog):
    report = quick(shapes, interrupted, epochs=1)

    assert [epoch["epoch"] for epoch in report.epochs] == [1]
    assert "--resume" in caplog.text
    assert not interrupted.with_name("broken.keras.checkpoint").exists()


def test_resume_without_anything_to_go_on_with_begins(shapes, tmp_path):
    assert len(quick(shapes, tmp_path / "new.keras", epochs=1, resume=True).epochs) == 1


def test_a_loss_that_is_no_number_ends_the_training_and_leaves_the_old_model(shapes, tmp_path, monkeypatch):
    output = tmp_path / "old.keras"
    output.write_bytes(b"the model of yesterday")
    # Embeddings of unit length are hard to drive there by a learning rate.
    monkeypatch.setitem(METRIC_LOSSES, "triplet", lambda _, embeddings: keras.ops.sqrt(embeddings[:, 0] - 2))

    with pytest.raises(UsageError, match="diverged: loss is nan") as refusal:
        quick(shapes, output, objective="metric", loss="triplet")

    assert "--learning-rate" in refusal.value.hint
    assert output.read_bytes() == b"the model of yesterday"
    assert names(tmp_path) == ["old.keras"]


def test_two_classes_have_one_sigmoid_and_still_two_probabilities(own_shapes, tmp_path):
    shutil.rmtree(own_shapes / "tents")

    report = quick(own_shapes, tmp_path / "two.keras", epochs=15, batch_size=10)

    model = load_model(report.output)
    _, probabilities = model.predict_on_batch(squares(own_shapes, 32, ("balls", "stars")))
    assert report.metrics["val_accuracy"] >= 0.9
    assert np.allclose(probabilities.sum(axis=1), 1, atol=1e-5)
    assert np.mean(np.argmax(probabilities, axis=1) == np.repeat([0, 1], 20)) > 0.9


def test_class_weights_let_a_small_class_be_heard(own_shapes, tmp_path):
    for number in range(3, 20):
        (own_shapes / f"tents/tents-{number:02}.png").unlink()

    report = quick(own_shapes, tmp_path / "weighted.keras", epochs=1, class_weights=True)

    plain = quick(own_shapes, tmp_path / "plain.keras", epochs=1)
    assert report.epochs[0]["loss"] != plain.epochs[0]["loss"]


@pytest.mark.parametrize(
    "loss", ["arcface", "triplet", *(pytest.param(loss, marks=pytest.mark.slow) for loss in ("contrastive", "nt-xent"))]
)
def test_metric_learning_brings_images_of_a_class_together(shapes, tmp_path, loss):
    report = quick(shapes, tmp_path / "metric.keras", objective="metric", loss=loss, epochs=10)

    assert report.metrics["val_hit"] > 0.8
    assert read_card(report.output).labels == ()
    (output,) = load_model(report.output).outputs
    assert output.shape == (None, 32)


def test_the_head_of_a_frozen_backbone_is_trained(shapes, tmp_path):
    report = train(shapes, tmp_path / "head.keras", batch_size=18, epochs=8, size=64, dims=16)

    model = load_model(report.output)
    embeddings, probabilities = model.predict_on_batch(squares(shapes, 64, ("balls", "stars", "tents")))
    assert report.metrics["val_accuracy"] > 0.8
    assert embeddings.shape == (60, 16)
    assert np.mean(np.argmax(probabilities, axis=1) == np.repeat([0, 1, 2], 20)) > 0.9


def test_the_last_blocks_are_tuned_after_the_head_and_only_for_the_better(shapes, tmp_path):
    head = train(shapes, tmp_path / "head.keras", batch_size=18, epochs=4, size=64, dims=16)

    both = train(shapes, tmp_path / "both.keras", batch_size=18, epochs=4, size=64, dims=16, unfreeze=1)

    assert [epoch["stage"] for epoch in both.epochs] == ["head"] * 4 + ["blocks"]
    assert measured(both)[:4] == measured(head)
    assert both.metrics["val_accuracy"] >= head.metrics["val_accuracy"] - 1e-6
    before, after = (load_model(tmp_path / f"{name}.keras") for name in ("head", "both"))
    first, last = "_blocks.3._project_conv", "_blocks.15._project_conv"
    assert np.array_equal(*(model.get_layer(first).get_weights()[0] for model in (before, after)))
    tuned = not np.array_equal(*(model.get_layer(last).get_weights()[0] for model in (before, after)))
    assert tuned == (both.best == 4)


@pytest.mark.slow
def test_a_tuning_that_was_interrupted_goes_on_as_if_it_had_not_been(shapes, tmp_path):
    options = {"batch_size": 18, "epochs": 8, "size": 64, "dims": 16, "unfreeze": 1, "validation": 0.25}
    whole = train(shapes, tmp_path / "whole.keras", **options)

    def interrupt(stage: str, done: int, total: int) -> None:
        if stage == "train" and total == 4 and done == 3:  # two epochs of two batches: the second has begun
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(shapes, tmp_path / "broken.keras", progress=interrupt, **options)

    resumed = train(shapes, tmp_path / "broken.keras", resume=True, **options)

    assert measured(resumed) == measured(whole)
    assert resumed.metrics == whole.metrics


def test_a_image_that_cannot_be_used_is_left_out_and_named(own_shapes, tmp_path):
    (own_shapes / "balls/broken.png").write_bytes((own_shapes / "balls/balls-00.png").read_bytes()[:500])

    report = quick(own_shapes, tmp_path / "some.keras", epochs=1)

    history = json.loads(history_file(report.output).read_text())
    assert [(reject.path, reject.cause) for reject in report.dataset.rejected] == [("balls/broken.png", "corrupt")]
    assert history["rejected"][0]["path"] == "balls/broken.png"
    assert history["rejected_by_cause"] == {"corrupt": 1}


def test_too_few_images_that_can_be_used_are_refused_before_the_training(own_shapes, tmp_path):
    for file in (own_shapes / "tents").iterdir():
        file.write_bytes(b"no image")

    with pytest.raises(UsageError, match=r"in 'tents' \(20 cannot be used\)"):
        quick(own_shapes, tmp_path / "none.keras")

    assert names(tmp_path) == ["shapes"]


def test_without_anything_held_out_the_last_epoch_is_taken(shapes, tmp_path):
    report = quick(shapes, tmp_path / "all.keras", validation=0, epochs=2)

    assert (report.best, dict(report.metrics)) == (1, {})
    assert len(report.dataset.training_rows) == 60


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"architecture": "vgg61"}, "no encoder is called 'vgg61'"),
        ({"architecture": "handcrafted"}, "expected cnn or a network"),
        ({"objective": "sort"}, "expected an objective"),
        ({"loss": "triplet"}, "is for --objective metric"),
        ({"objective": "metric", "class_weights": True}, "--class-weights is for"),
        ({"weights": Path("weights.h5")}, "--weights is for backbones"),
        ({"unfreeze": 2}, "--unfreeze is for backbones"),
        ({"architecture": "efficientnet-lite0", "unfreeze": 17}, "expected --unfreeze of 0 to 16, found 17"),
        ({"size": 4}, "expected --size of 8 to 1,024, found 4"),
        ({"dims": 0}, "expected --dims"),
        ({"epochs": 0}, "expected --epochs"),
        ({"batch_size": 1}, "expected --batch-size"),
        ({"learning_rate": float("nan")}, "expected --learning-rate"),
        ({"validation": 1.0}, "expected --validation"),
        ({"seed": -1}, "expected --seed"),
        ({"batch_size": 500}, "at least a batch of 500"),
    ],
)
def test_options_that_cannot_be_are_refused_before_a_image_is_opened(shapes, tmp_path, monkeypatch, options, message):
    monkeypatch.setattr(module, "gather", None)

    with pytest.raises((UsageError, MissingComponentError), match=message):
        quick(shapes, tmp_path / "never.keras", **options)

    assert names(tmp_path) == []


def test_an_output_that_is_no_keras_file_or_lies_in_the_dataset_is_refused(shapes, tmp_path):
    for output in (tmp_path / "model.h5", tmp_path / "missing" / "model.keras", shapes / "model.keras"):
        with pytest.raises(UsageError, match=r"expected an? (output|file)"):
            quick(shapes, output)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_an_output_that_cannot_be_written_is_refused_at_once(shapes, tmp_path):
    tmp_path.chmod(0o500)

    with pytest.raises(OutputError):
        quick(shapes, tmp_path / "model.keras")

    tmp_path.chmod(0o700)


@pytest.mark.parametrize(
    ("options", "missing"), [({"plots": True}, "matplotlib"), ({"tensorboard": Path("board")}, "tensorboard")]
)
def test_a_library_that_an_option_needs_is_missed_before_a_image_is_opened(
    shapes, tmp_path, monkeypatch, options, missing
):
    find = module.importlib.util.find_spec
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None if name == missing else find(name))
    monkeypatch.setattr(module, "gather", None)
    if missing == "tensorboard":
        monkeypatch.setenv("KERAS_BACKEND", "tensorflow")

    with pytest.raises(MissingComponentError, match=f"needs {missing}"):
        quick(shapes, tmp_path / "never.keras", **options)


def test_curves_confusion_and_predictions_are_drawn(own_shapes, tmp_path):
    pytest.importorskip("matplotlib")
    (own_shapes / "tents").rename(own_shapes / "$te_{nts\x1b\u202e 帐篷 and a name that does not end")

    report = quick(own_shapes, tmp_path / "drawn.keras", epochs=2, plots=True)

    for name in ("curves", "confusion", "predictions"):
        image = report.output.with_suffix(f".{name}.png").read_bytes()
        assert decode_and_fit(image, 64, "pad").std() > 5


def test_tensorboard_finds_its_files(shapes, tmp_path):
    pytest.importorskip("tensorboard")

    quick(shapes, tmp_path / "model.keras", epochs=1, tensorboard=tmp_path / "board")

    assert list((tmp_path / "board").rglob("events.out.tfevents.*"))
