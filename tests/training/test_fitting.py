import keras
import numpy as np
import pytest

from imgsearch.encoders.choice import choose_encoder
from imgsearch.encoders.keras_encoder import device_name
from imgsearch.training import fitting, networks
from imgsearch.training.data import TrainingData
from imgsearch.training.dataset import Dataset
from imgsearch.training.fitting import Inputs, Trainer, _run_stages
from imgsearch.training.keras_backend import has_fast_bfloat16
from imgsearch.training.options import check_options, resolve_labeled

LABELS = np.repeat([0, 1, 2], [30, 20, 10])
DATASET = Dataset("", tuple(f"{row}.png" for row in range(60)), LABELS, ("a", "b", "c"), np.arange(60) % 5 == 0)
SMALL = {"architecture": "cnn", "size": 16, "dims": 8, "epochs": 4, "batch_size": 12, "learning_rate": 0.01}


def trainer_for(loss: str, **options: object) -> Trainer:
    objective = {"objective": "metric", "loss": loss} if loss else {"objective": "classify"}
    settings, _ = resolve_labeled(check_options({**SMALL, **objective, **options}))
    return Trainer(settings, TrainingData(DATASET, None, None))


def staged(trainer: Trainer, *, of_features: bool):
    settings = trainer.settings
    if of_features:
        encoder = networks.build_head(6, settings.dims)
        inputs = Inputs(np.zeros((120, 6), np.float32), 2)
    else:
        encoder = networks.build_cnn(settings.size, settings.dims)
        inputs = Inputs(np.zeros((60, 16, 16, 3), np.uint8), 1)
    return trainer.stage("stage", encoder, inputs, 4, 0.01)[0]


@pytest.mark.parametrize(
    ("loss", "augment", "of_features"),
    [
        *((loss, True, False) for loss in ("", "arcface", "contrastive", "nt-xent", "triplet")),
        *(("", augment, True) for augment in (True, False)),
        *(("triplet", augment, True) for augment in (True, False)),
        ("arcface", False, False),
    ],
)
def test_every_stage_has_the_optimizer_and_the_rate_that_were_meant(loss, augment, of_features):
    optimizer = staged(trainer_for(loss, augment=augment), of_features=of_features).model.optimizer

    rates = [float(optimizer._learning_rate(step)) for step in range(17)]  # 48 to learn from: 4 batches, 4 epochs
    assert isinstance(optimizer, keras.optimizers.AdamW)
    assert max(rates) == pytest.approx(0.01)
    assert rates[0] < rates[-1] * 10
    assert rates[-1] == pytest.approx(0.0001, rel=0.01)


@pytest.mark.parametrize(("begins_with", "decay"), [("pixels", 0.1), ("features", 0.0001)])
def test_only_a_network_that_is_trained_from_the_beginning_has_much_weight_decay(begins_with, decay):
    class Loop:
        def is_past(self, _):
            return False

        def run(self, stage):
            self.stage = stage

    settings, choice = resolve_labeled(check_options(SMALL))
    arrays = {"pixels": np.zeros((60, 16, 16, 3), np.uint8), "features": np.zeros((60, 2, 6), np.float32)}
    data = TrainingData(DATASET, **{"pixels": None, "features": None, begins_with: arrays[begins_with]})
    loop = Loop()

    _run_stages(Trainer(settings, data), choice, loop)

    assert loop.stage.model.optimizer.weight_decay == decay


def test_batches_of_features_take_one_of_the_views_of_each_image_that_is_learned_from():
    stage = staged(trainer_for(""), of_features=True)

    rows = np.concatenate([stage.batches(epoch)._rows for epoch in range(20)]).ravel()

    assert set(rows // 2) == set(DATASET.training_rows.tolist())
    assert set(rows % 2) == {0, 1}


def test_without_augmentation_features_are_of_the_images_as_they_are():
    stage = staged(trainer_for("", augment=False), of_features=True)

    assert set(stage.batches(0)._rows.ravel() % 2) == {0}


def test_an_epoch_is_the_same_whenever_it_comes_and_another_epoch_is_another():
    stage = staged(trainer_for(""), of_features=False)

    assert np.array_equal(stage.batches(3)._rows, stage.batches(3)._rows)
    assert not np.array_equal(stage.batches(3)._rows, stage.batches(4)._rows)
    other = staged(trainer_for("", seed=1), of_features=False)
    assert not np.array_equal(stage.batches(3)._rows, other.batches(3)._rows)


def test_class_weights_let_all_classes_count_the_same():
    trainer = trainer_for("", class_weights=True)
    weights = trainer.class_weights()
    stage = staged(trainer, of_features=True)

    sums = [weights[DATASET.training_rows][LABELS[DATASET.training_rows] == label].sum() for label in range(3)]
    assert np.allclose(sums, sums[0])
    assert weights[DATASET.training_rows].mean() == pytest.approx(1)
    batches = stage.batches(0)
    assert np.array_equal(batches[0][2], weights[batches._rows[0] // 2])
    assert len(staged(trainer_for(""), of_features=True).batches(0)[0]) == 2


@pytest.mark.parametrize(
    ("flags", "expected"), [("fpu avx512_bf16 amx_bf16 amx_tile", True), ("fpu avx512_bf16", False), (None, False)]
)
def test_a_processor_is_fast_in_bfloat16_if_it_has_matrix_units(tmp_path, flags, expected):
    if flags:
        (tmp_path / "proc").mkdir()
        (tmp_path / "proc/cpuinfo").write_text(f"processor\t: 0\nflags\t\t: {flags}\n\n" * 2)

    assert has_fast_bfloat16(tmp_path) == (expected and keras.backend.backend() == "tensorflow")


def test_on_a_gpu_a_network_without_a_past_is_trained_in_mixed_precision(monkeypatch):
    monkeypatch.setattr(fitting, "device_name", lambda: "gpu:0")

    assert fitting.uses_mixed_precision(None)
    assert not fitting.uses_mixed_precision(choose_encoder("lite0-retrieval"))


def test_the_device_is_named_in_one_word():
    assert device_name().split(":")[0] in ("cpu", "gpu", "cuda")
