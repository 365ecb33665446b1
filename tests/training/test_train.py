import importlib.util
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest

from imgsearch import classify, train
from imgsearch.encoders.choice import choose_encoder
from imgsearch.encoders.export import exported_encoder
from imgsearch.encoders.model_file import load_model, read_card
from imgsearch.encoders.runtime import encode, open_encoder
from imgsearch.errors import OutputError, UsageError
from imgsearch.images.policy import FilePolicy
from imgsearch.images.workers.decoders import decode_and_fit
from imgsearch.training import data, fitting, networks
from imgsearch.training.losses import METRIC_LOSSES
from imgsearch.training.report import history_file
from training_options import HEAD, KINDS, SMALL

# Keras' variables do not know NumPy 2's keyword yet; Keras itself copies them when it saves a model.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")


def quick(folder: Path, output: Path, **options):
    return train(folder, output, **{**SMALL, **options})


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def measured(report) -> list[dict[str, object]]:
    return [{name: value for name, value in epoch.items() if name != "seconds"} for epoch in report.epochs]


def squares(folder: Path, size: int, kinds: tuple[str, ...]) -> np.ndarray:
    files = [folder / kind / f"{kind}-{number:02}.png" for kind in kinds for number in range(20)]
    return np.stack([decode_and_fit(file.read_bytes(), size, "pad") for file in files])


def same_weights(file: Path, other: Path) -> bool:
    weights = [load_model(each).get_weights() for each in (file, other)]
    return all(np.array_equal(*pair) for pair in zip(*weights, strict=True))


def test_a_small_network_learns_to_tell_shapes_that_it_has_not_seen(classifier):
    assert len(classifier.dataset.validation_rows) == 15
    assert classifier.metrics["val_accuracy"] > 0.9
    assert classifier.metrics["val_hit"] > 0.9
    assert classifier.epochs[-1]["loss"] < 0.5 * classifier.epochs[0]["loss"]


def test_the_saved_file_is_a_whole_encoder_of_plain_layers_and_names_its_classes(classifier, shapes):
    card, model = read_card(classifier.output), load_model(classifier.output)

    embeddings, probabilities = model.predict_on_batch(squares(shapes, 32, card.labels))

    assert (card.size, card.fit, card.steps, card.dims) == (32, "pad", "", 32)
    assert (card.labels, card.objective, card.backbone) == (KINDS, "classify", "cnn")
    assert np.allclose(np.linalg.norm(embeddings, axis=1), 1, atol=1e-5)
    assert np.allclose(probabilities.sum(axis=1), 1, atol=1e-5)
    assert np.mean(np.argmax(probabilities, axis=1) == np.repeat([0, 1, 2], 20)) > 0.9
    assert {type(layer).__module__.split(".")[0] for layer in model.layers} == {"keras"}
    assert not [layer for layer in model.layers if layer.name in ("augmentation", "centers")]


def test_the_history_beside_it_says_how_it_was_made(classifier):
    history = json.loads(history_file(classifier.output).read_text())

    assert history["settings"] == {
        "architecture": "cnn",
        "objective": "classify",
        "loss": "",
        "size": 32,
        "dims": 32,
        "validation": 0.25,
        "epochs": 6,
        "batch_size": 9,
        "learning_rate": 0.005,
        "unfreeze": 0,
        "augment": True,
        "class_weights": False,
        "seed": 0,
    }
    assert history["classes"] == list(KINDS)
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
    assert history.keys() == {
        *("version", "settings", "dataset", "classes", "counts", "rejected", "rejected_by_cause", "epochs", "best"),
        *("metrics", "device", "seconds", "versions"),
    }


def test_nothing_is_left_beside_the_model_but_its_history_and_what_was_asked_for(classifier):
    expected = ["shapes.history.json", "shapes.keras"]
    if importlib.util.find_spec("matplotlib"):
        expected += [f"shapes.{name}.png" for name in ("confusion", "curves", "predictions")]
    if importlib.util.find_spec("tensorboard"):
        expected.append("board")
        assert list((classifier.output.parent / "board").rglob("events.out.tfevents.*"))

    assert names(classifier.output.parent) == sorted(expected)


def test_charts_are_drawn_whatever_classes_are_called(classifier, tmp_path):
    pytest.importorskip("matplotlib")
    from imgsearch.training.plots import draw

    hostile = ("balls", "stars", "$te_{nts\x1b\u202e 帐篷 and a name that does not end")
    report = replace(classifier, output=tmp_path / "drawn.keras", dataset=replace(classifier.dataset, classes=hostile))

    draw(report, report.dataset.labels[report.dataset.validation_rows][::-1], FilePolicy())

    for name in ("curves", "confusion", "predictions"):
        image = report.output.with_suffix(f".{name}.png").read_bytes()
        assert decode_and_fit(image, 64, "pad").std() > 5


class Interruption:
    """Interrupts a training, as Ctrl-C does, when so much of a stage is done."""

    def __init__(self, share: float) -> None:
        self._share = share

    def __call__(self, stage: str, done: int, total: int) -> None:
        if stage == "train" and done > self._share * total:
            raise KeyboardInterrupt


class Stop:
    """Interrupts a training before it begins."""

    def __call__(self, stage: str, _: int, __: int) -> None:
        raise KeyboardInterrupt


@pytest.mark.slow  # test_detector.py and test_adapt_tuning.py interrupt one in each run
def test_a_training_that_was_interrupted_goes_on_as_if_it_had_not_been(
    classifier, shapes, own_shapes, tmp_path, caplog
):
    output = tmp_path / "broken.keras"
    with pytest.raises(KeyboardInterrupt):
        quick(shapes, output, progress=Interruption(0.6))
    checkpoint = tmp_path / "broken.keras.checkpoint"
    assert names(checkpoint) == ["state.npz"]
    assert not output.exists()

    # With other options or images it does not go on.
    with pytest.raises(UsageError, match="has batch_size 9, not 5"):
        quick(shapes, output, batch_size=5, resume=True)
    (own_shapes / "balls/balls-00.png").unlink()
    with pytest.raises(UsageError, match="has dataset"):
        quick(own_shapes, output, resume=True)
    kept = shutil.copytree(checkpoint, tmp_path / "other.keras.checkpoint")
    resumed = quick(shapes, output, resume=True)

    assert measured(resumed) == measured(classifier)
    assert (resumed.best, resumed.metrics) == (classifier.best, classifier.metrics)
    assert same_weights(classifier.output, output)
    assert not checkpoint.exists()

    # Without --resume a training starts over, and says so.
    with pytest.raises(KeyboardInterrupt):
        quick(shapes, tmp_path / "other.keras", progress=Stop())
    assert "--resume" in caplog.text
    assert not kept.exists()


@pytest.mark.slow
def test_another_seed_trains_another_model(classifier, shapes, tmp_path):
    other = quick(shapes, tmp_path / "other.keras", seed=1)

    assert measured(other)[0]["loss"] != measured(classifier)[0]["loss"]
    assert not same_weights(classifier.output, other.output)


def test_a_loss_that_is_no_number_ends_the_training_and_leaves_the_old_model(shapes, untraced, tmp_path, monkeypatch):
    output = tmp_path / "old.keras"
    output.write_bytes(b"the model of yesterday")
    # Embeddings of unit length are hard to drive there by a learning rate.
    monkeypatch.setitem(METRIC_LOSSES, "triplet", lambda _, embeddings: keras.ops.sqrt(embeddings[:, 0] - 2))

    with pytest.raises(UsageError, match="diverged: loss is nan") as refusal:
        quick(shapes, output, objective="metric", loss="triplet", size=8)

    assert "--learning-rate" in refusal.value.hint
    assert output.read_bytes() == b"the model of yesterday"
    assert names(tmp_path) == ["old.keras"]


@pytest.mark.slow
def test_two_classes_have_one_sigmoid_and_still_two_probabilities(own_shapes, tmp_path):
    """An image that cannot be used is left out and named."""
    shutil.rmtree(own_shapes / "tents")
    (own_shapes / "balls/broken.png").write_bytes((own_shapes / "balls/balls-00.png").read_bytes()[:500])

    report = quick(own_shapes, tmp_path / "two.keras", epochs=12)

    _, probabilities = load_model(report.output).predict_on_batch(squares(own_shapes, 32, ("balls", "stars")))
    assert report.metrics["val_accuracy"] >= 0.9
    assert np.allclose(probabilities.sum(axis=1), 1, atol=1e-5)
    assert np.mean(np.argmax(probabilities, axis=1) == np.repeat([0, 1], 20)) > 0.9
    history = json.loads(history_file(report.output).read_text())
    assert [(reject.path, reject.cause) for reject in report.rejected] == [("balls/broken.png", "corrupt")]
    assert history["rejected"][0]["path"] == "balls/broken.png"
    assert history["rejected_by_cause"] == {"corrupt": 1}


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["triplet", "arcface", "contrastive", "nt-xent"])
def test_metric_learning_brings_images_of_a_class_together(shapes, tmp_path, loss):
    report = quick(shapes, tmp_path / "metric.keras", objective="metric", loss=loss)

    assert report.metrics["val_hit"] > 0.8
    assert read_card(report.output).labels == ()
    (output,) = load_model(report.output).outputs
    assert output.shape == (None, 32)


@pytest.mark.slow
def test_without_anything_held_out_the_last_epoch_is_taken(shapes, untraced, tmp_path):
    """With arcface, whose centers are no part of the model; there is nothing to resume, which does no harm."""
    options = {"objective": "metric", "size": 8, "validation": 0, "epochs": 2, "batch_size": 30, "resume": True}

    report = quick(shapes, tmp_path / "all.keras", **options)

    assert (report.best, dict(report.metrics)) == (1, {})
    assert len(report.dataset.training_rows) == 60
    assert [output.shape for output in load_model(report.output).outputs] == [(None, 32)]


def test_the_head_of_a_frozen_backbone_is_trained(head, shapes):
    # Called as it is: to trace it, as `predict` does, takes seconds.
    embeddings, probabilities = load_model(head.output)([squares(shapes, 64, KINDS)], training=False)

    assert head.metrics["val_accuracy"] > 0.8
    assert {epoch["stage"] for epoch in head.epochs} == {"head"}
    assert embeddings.shape == (60, 16)
    assert np.mean(np.argmax(probabilities, axis=1) == np.repeat([0, 1, 2], 20)) > 0.9


TUNED = {**HEAD, "size": 32}


@pytest.fixture
def tiny_backbone(monkeypatch):
    """In place of the network, which takes a minute to tune, two blocks with names like its own."""

    def build(spec, weights=None) -> keras.Model:
        images = keras.Input((spec.size, spec.size, 3), dtype="uint8")
        tensor = keras.layers.Rescaling(1 / 255)(images)
        for block, filters in ((0, 16), (15, spec.dims)):
            start = keras.initializers.GlorotUniform(seed=block)
            name = f"_blocks.{block}._project_conv"
            convolution = keras.layers.Conv2D(filters, 4, 4, activation="relu", kernel_initializer=start, name=name)
            tensor = convolution(tensor)
        pooled = keras.layers.GlobalMaxPooling2D()(tensor)
        return keras.Model(images, keras.layers.UnitNormalization(name="embeddings")(pooled))

    class Encoder:
        def __init__(self, spec, _) -> None:
            self._model = build(spec)

        def encode_stream(self, batches):
            for batch in batches:
                features = np.asarray(self._model.predict_on_batch(batch))
                yield features / np.linalg.norm(features, axis=1, keepdims=True)

    monkeypatch.setattr(networks, "build_network", build)
    monkeypatch.setattr(data, "exported_encoder", lambda *_: None)
    monkeypatch.setattr(data, "open_encoder", Encoder)


@pytest.mark.slow
def test_the_last_blocks_are_tuned_after_the_head_and_only_for_the_better(tiny_backbone, shapes, tmp_path):
    """A tuning that was interrupted goes on as if it had not been."""
    both = train(shapes, tmp_path / "both.keras", **TUNED, unfreeze=1)

    assert [epoch["stage"] for epoch in both.epochs] == ["head"] * 8 + ["blocks"] * 2
    assert both.metrics["val_accuracy"] >= max(epoch["val_accuracy"] for epoch in both.epochs[:8]) - 1e-6
    backbone = networks.build_network(replace(choose_encoder("efficientnet-lite0").spec, size=TUNED["size"]))
    first, last = "_blocks.0._project_conv", "_blocks.15._project_conv"
    models = (backbone, load_model(both.output))
    assert np.array_equal(*(model.get_layer(first).get_weights()[0] for model in models))
    tuned = not np.array_equal(*(model.get_layer(last).get_weights()[0] for model in models))
    assert tuned == (both.best >= 8)

    def interrupt(stage: str, done: int, total: int) -> None:
        if stage == "train" and total == 4 and done == 3:  # two epochs of two batches: the second has begun
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(shapes, tmp_path / "broken.keras", progress=interrupt, **TUNED, unfreeze=1)
    resumed = train(shapes, tmp_path / "broken.keras", resume=True, **TUNED, unfreeze=1)
    assert measured(resumed) == measured(both)
    assert resumed.metrics == both.metrics


@pytest.mark.slow
def test_blocks_that_are_tuned_later_change_nothing_of_the_head(tiny_backbone, shapes, tmp_path):
    head = train(shapes, tmp_path / "head.keras", **TUNED)
    both = train(shapes, tmp_path / "both.keras", **TUNED, unfreeze=1)

    assert measured(both)[:8] == measured(head)


def test_too_few_images_that_can_be_used_are_refused_before_the_training(own_shapes, tmp_path):
    for file in (own_shapes / "tents").iterdir():
        file.write_bytes(b"no image")

    with pytest.raises(UsageError, match=r"in 'tents' \(20 cannot be used\)"):
        quick(own_shapes, tmp_path / "none.keras")

    assert names(tmp_path) == ["shapes"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_an_output_that_cannot_be_written_is_refused_at_once(shapes, tmp_path):
    tmp_path.chmod(0o500)

    with pytest.raises(OutputError):
        quick(shapes, tmp_path / "model.keras")

    tmp_path.chmod(0o700)


@pytest.mark.slow
def test_classes_of_any_name_are_learned_and_named(own_shapes, tmp_path):
    names = [os.fsdecode(b"M\xf6bel"), 'new\nline "quoted"', "\u202eright to left\ufffe"]
    for folder, name in zip(sorted(own_shapes.iterdir()), names, strict=True):
        folder.rename(own_shapes / name)

    report = quick(own_shapes, tmp_path / os.fsdecode(b"m\xf6bel.keras"), epochs=1)
    found = classify(next((own_shapes / names[0]).iterdir()), report.output)

    assert sorted(each.label for each in found) == sorted(names)
    assert json.loads(history_file(report.output).read_bytes())["classes"] == list(report.dataset.classes)


@pytest.mark.slow
def test_what_is_trained_in_mixed_precision_as_on_a_gpu_is_saved_in_float32(shapes, tmp_path, monkeypatch):
    policies = []
    monkeypatch.setattr(fitting, "uses_mixed_precision", lambda _: True)
    monkeypatch.setattr(
        fitting, "jit_compile", lambda: policies.append(keras.config.dtype_policy().name) or False
    )  # while a model is compiled

    report = train(shapes, tmp_path / "mixed.keras", **SMALL)

    assert set(policies) == {"mixed_bfloat16"}
    assert keras.config.dtype_policy().name == "float32"
    model = load_model(report.output)
    assert {layer.compute_dtype for layer in model.layers if layer.weights} == {"float32"}
    assert "bfloat16" not in json.dumps(model.get_config(), default=str)
    assert report.metrics["val_accuracy"] > 0.6
    choice = choose_encoder(str(report.output))
    images = squares(shapes, choice.spec.size, KINDS)
    rows = encode(open_encoder(choice.spec, exported_encoder(choice.spec, choice.files)), images)
    assert np.abs(rows - np.asarray(model.predict_on_batch(images)[0])).max() < 1e-3
