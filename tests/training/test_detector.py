import json
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import ops

from imgsearch import train
from imgsearch.encoders.choice import choose_encoder
from imgsearch.encoders.model_file import CARD, ModelCard, load_model, read_card, save_model
from imgsearch.encoders.networks import build_network
from imgsearch.errors import UsageError
from imgsearch.regions.anchors import anchor_boxes
from imgsearch.training.detector.fitting import detection_loss, generalized_overlap, mask_loss
from imgsearch.training.detector.network import build_detector
from imgsearch.training.report import history_file
from training_options import DETECTOR

# Keras' variables do not know NumPy 2's keyword yet; Keras itself copies them when it saves a model.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")

SIZE = 64


@pytest.fixture(scope="module")
def trained(detector):
    return detector, load_model(detector.output)


@pytest.fixture(scope="module")
def encoder(architecture):
    choice = choose_encoder(architecture)
    spec = replace(choice.spec, size=SIZE)
    return spec, build_network(spec, choice.files.get(spec.weights))


@pytest.fixture(scope="module")
def squares():
    return np.random.default_rng(0).integers(0, 256, (3, SIZE, SIZE, 3), dtype=np.uint8)


def numbers(outputs) -> list[np.ndarray]:
    return [np.asarray(ops.convert_to_numpy(output)) for output in outputs]


def test_a_detector_gives_embeddings_scores_boxes_and_a_mask(trained, encoder, squares):
    report, model = trained
    spec, _ = encoder
    anchors = len(anchor_boxes(SIZE))

    embeddings, scores, boxes, mask = numbers(model.predict_on_batch(squares))

    assert [each.shape for each in (embeddings, scores, boxes, mask)] == [
        (3, spec.dims),
        (3, anchors),
        (3, anchors, 4),
        (3, 16, 16),
    ]
    assert {each.dtype for each in (embeddings, scores, boxes, mask)} == {np.dtype(np.float32)}
    for each in (scores, boxes, mask):
        assert np.all((each >= 0) & (each <= 1))
    assert np.all(boxes[:, :, 2:] >= boxes[:, :, :2])
    assert set(report.metrics) == {"average_precision", "recall", "mask_overlap"}


def test_its_encoder_is_the_one_it_shares_bit_by_bit(trained, encoder, squares):
    _, model = trained
    _, network = encoder

    assert (
        np.abs(numbers(model.predict_on_batch(squares))[0] - numbers([network.predict_on_batch(squares)])[0]).max()
        < 1e-5
    )
    for layer in network.layers:
        same = model.get_layer(layer.name) if layer.weights else layer
        for weight, other in zip(layer.get_weights(), same.get_weights(), strict=True):
            assert np.array_equal(weight, other)


def test_the_card_says_which_encoder_it_shares(trained, encoder):
    report, _ = trained
    spec, _ = encoder
    card = read_card(report.output)

    assert (card.objective, card.backbone, card.dims, card.size) == ("detect", spec.name, spec.dims, SIZE)
    assert (card.labels, card.fit, card.steps) == ((), "pad", "")
    assert card.encoder == spec.fingerprint
    assert card.is_detector


def test_what_openvino_makes_of_it_gives_the_same_numbers(trained, squares, tmp_path):
    import openvino

    _, model = trained
    model.export(str(tmp_path / "detector.xml"), format="openvino", verbose=False)
    compiled = openvino.Core().compile_model(tmp_path / "detector.xml", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})

    outputs = compiled([squares])

    for number, expected in enumerate(numbers(model.predict_on_batch(squares))):
        assert np.abs(outputs[number] - expected).max() < 1e-3


def test_the_history_beside_it_says_how_it_was_made(trained, architecture):
    report, _ = trained
    history = json.loads(history_file(report.output).read_text())

    assert history["settings"] == {
        "architecture": Path(architecture).name,
        "objective": "detect",
        "size": SIZE,
        "epochs": 2,
        "batch_size": 4,
        "learning_rate": 0.002,
        "seed": 0,
    }
    assert history.keys() == {
        *("version", "settings", "items", "backgrounds", "skipped", "rejected", "epochs", "best", "metrics"),
        *("device", "seconds", "versions"),
    }
    assert history["items"] == {"training": 9, "validation": 1}
    assert history["metrics"] == report.metrics
    assert [epoch["epoch"] for epoch in history["epochs"]] == [1, 2]
    assert not report.output.with_name("detector.keras.checkpoint").exists()


@pytest.mark.slow
def test_an_interrupted_training_goes_on_to_what_an_unbroken_one_gives(trained, architecture, items, tmp_path):
    report, model = trained
    output = tmp_path / "detector.keras"

    def stop(stage: str, done: int, _: int) -> None:
        if stage == "train" and done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(items, output, architecture=architecture, **DETECTOR, progress=stop)
    assert not output.exists()
    again = train(items, output, architecture=architecture, **DETECTOR, resume=True)

    assert again.epochs[0]["loss"] == report.epochs[0]["loss"]
    for weight, other in zip(model.get_weights(), load_model(output).get_weights(), strict=True):
        assert np.allclose(weight, other, atol=1e-5)


def test_a_file_of_train_can_be_the_encoder(encoder, squares, tmp_path):
    spec, network = encoder
    file = tmp_path / "shop.keras"
    save_model(network, file, ModelCard(SIZE, "pad", "", spec.dims, (), "metric", spec.name))
    choice = choose_encoder(str(file))
    again = build_network(choice.spec, choice.files[choice.spec.weights])

    detector = build_detector(again, 0).detector

    # Called as they are: to trace them would take longer.
    (embeddings, *_), expected = detector([squares], training=False), network([squares], training=False)
    assert np.array_equal(*numbers([embeddings, expected]))


def test_an_encoder_without_a_fine_map_is_refused(items, few_scenes, tmp_path):
    images = keras.Input((SIZE, SIZE, 3), dtype="uint8")
    coarse = keras.layers.AveragePooling2D(16)(keras.layers.Rescaling(1 / 255)(images))
    embeddings = keras.layers.UnitNormalization()(keras.layers.Flatten()(coarse))
    model = keras.Model(images, [embeddings])
    file = tmp_path / "coarse.keras"
    save_model(model, file, ModelCard(SIZE, "pad", "", embeddings.shape[-1], (), "metric", "coarse"))

    with pytest.raises(UsageError, match=r"needs an encoder with a map at stride 8, got \[16\]"):
        train(items, tmp_path / "other.keras", objective="detect", architecture=str(file), epochs=1)

    assert list(tmp_path.iterdir()) == [file]


def test_a_model_without_boxes_is_no_detector(encoder, tmp_path):
    spec, network = encoder
    card = ModelCard(SIZE, "pad", "", spec.dims, (), "detect", spec.name, spec.fingerprint)

    with pytest.raises(UsageError, match="expected images of"):
        save_model(network, tmp_path / "detector.keras", card)


def test_only_a_detector_names_an_encoder():
    for objective, shared in (("detect", ""), ("metric", "0123456789abcdef")):
        with pytest.raises(ValueError, match="name its encoder"):
            ModelCard(SIZE, "pad", "", 24, (), objective, "cnn", shared)


def test_a_card_of_before_detectors_still_loads(tiny_models, tmp_path):
    file = Path(shutil.copy(tiny_models / "metric.keras", tmp_path / "old.keras"))
    with zipfile.ZipFile(file) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    card = json.loads(entries[CARD])
    del card["encoder"]
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in (entries | {CARD: json.dumps(card).encode()}).items():
            archive.writestr(name, data)

    assert read_card(file) == read_card(tiny_models / "metric.keras")
    assert read_card(file).encoder == ""


def test_too_few_items_are_refused(items, tmp_path):
    few = tmp_path / "few"
    shutil.copytree(next(path for path in items.iterdir() if list(path.iterdir())), few)
    (few / "broken.png").write_bytes(b"nothing")

    with pytest.raises(UsageError, match="needs at least 10 images with an item, got 1"):
        train(few, tmp_path / "detector.keras", objective="detect")


def test_generalized_overlap_is_one_for_the_same_box_and_falls_with_distance():
    box = np.array([[0.2, 0.2, 0.4, 0.4]], np.float32)
    overlaps = [
        float(ops.convert_to_numpy(generalized_overlap(box, box + np.float32(shift)))[0])
        for shift in (0, 0.05, 0.3, 0.5)
    ]

    assert overlaps[0] == pytest.approx(1, abs=1e-4)
    assert overlaps == sorted(overlaps, reverse=True)
    assert overlaps[1] == pytest.approx(0.15**2 / (0.08 - 0.15**2) - 0.005 / 0.0625, abs=1e-3)
    assert -1 < overlaps[3] < overlaps[2] < 0


def test_the_loss_of_anchors_asks_nothing_of_those_that_stand_for_neither():
    truth = np.zeros((1, 3, 5), np.float32)
    truth[0, :, 0] = (1, 0, -1)
    truth[0, 0, 1:] = (0.1, 0.1, 0.5, 0.5)
    right = truth.copy()
    right[0, :, 0] = (9, -9, 9)
    wrong = right.copy()
    wrong[0, 1, 0] = 9

    def loss(predictions):
        return float(ops.convert_to_numpy(detection_loss(truth, predictions)))

    assert loss(right) == pytest.approx(0, abs=1e-3)
    assert loss(wrong) > 5
    right[0, 2, 0] = -9
    assert loss(right) == pytest.approx(0, abs=1e-3)


def test_the_loss_of_masks_is_least_for_the_truth():
    truth = np.zeros((1, 8, 8), np.float32)
    truth[0, 2:6, 2:6] = 1

    def loss(shares):
        return float(ops.convert_to_numpy(mask_loss(truth, np.float32(20) * (shares - np.float32(0.5)))))

    assert loss(truth) == pytest.approx(0, abs=1e-2)
    assert loss(truth) < loss(np.roll(truth, 1, axis=1)) < loss(1 - truth)


def test_heads_are_the_same_for_the_same_seed():
    images = keras.Input((SIZE, SIZE, 3), dtype="uint8")
    maps = keras.layers.AveragePooling2D(8)(keras.layers.Rescaling(1 / 255)(images))
    network = keras.Model(images, [keras.layers.UnitNormalization()(keras.layers.Flatten()(maps))])

    first, again, other = (build_detector(network, seed).detector for seed in (5, 5, 6))

    kernels = [model.get_layer("mask_first_conv").get_weights()[0] for model in (first, again, other)]
    assert np.array_equal(kernels[0], kernels[1])
    assert not np.array_equal(kernels[0], kernels[2])
