import keras
import numpy as np
import pytest

from imgsearch.training import architectures, fitting
from imgsearch.training.dataset import Dataset
from imgsearch.training.settings import settle

LABELS = np.repeat([0, 1, 2], [30, 20, 10])
DATASET = Dataset("", tuple(f"{row}.png" for row in range(60)), LABELS, ("a", "b", "c"), np.arange(60) % 5 == 0)


def settings_for(loss: str, **options: object):
    given = {
        "objective": "metric" if loss else "classify",
        "loss": loss or None,
        "size": 16,
        "dims": 8,
        "validation": 0.1,
        "epochs": 4,
        "batch_size": 12,
        "learning_rate": 0.01,
        "unfreeze": 0,
        "augment": True,
        "class_weights": False,
        "seed": 0,
    }
    return settle("cnn", None, **{**given, **options})[0]


def staged(settings, *, of_features: bool):
    if of_features:
        encoder = architectures.build_head(6, settings.dims)
        array, views = np.zeros((120, 6), np.float32), 2
    else:
        encoder = architectures.build_cnn(settings.size, settings.dims)
        array, views = np.zeros((60, 16, 16, 3), np.uint8), 1
    inputs = fitting._Inputs(array, views, LABELS)
    stage, _ = fitting._stage(
        "stage", encoder, inputs, settings=settings, dataset=DATASET, device="cpu", epochs=4, rate=0.01
    )
    return stage


@pytest.mark.parametrize("of_features", [True, False])
@pytest.mark.parametrize("augment", [True, False])
@pytest.mark.parametrize("loss", ["", "arcface", "contrastive", "nt-xent", "triplet"])
def test_every_stage_has_the_optimizer_and_the_rate_that_were_meant(loss, augment, of_features):
    optimizer = staged(settings_for(loss, augment=augment), of_features=of_features).model.optimizer

    rates = [float(optimizer._learning_rate(step)) for step in range(17)]  # 48 to learn from: 4 batches, 4 epochs
    assert isinstance(optimizer, keras.optimizers.AdamW)
    assert max(rates) == pytest.approx(0.01)
    assert rates[0] < rates[-1] * 10
    assert rates[-1] == pytest.approx(0.0001, rel=0.01)


def test_batches_of_features_take_one_of_the_views_of_each_image_that_is_learned_from():
    stage = staged(settings_for(""), of_features=True)

    rows = np.concatenate([stage.batches(epoch)._rows for epoch in range(20)]).ravel()

    assert set(rows // 2) == set(DATASET.training_rows.tolist())
    assert set(rows % 2) == {0, 1}


def test_without_augmentation_features_are_of_the_images_as_they_are():
    stage = staged(settings_for("", augment=False), of_features=True)

    assert set(stage.batches(0)._rows.ravel() % 2) == {0}


def test_an_epoch_is_the_same_whenever_it_comes_and_another_epoch_is_another():
    stage = staged(settings_for(""), of_features=False)

    assert np.array_equal(stage.batches(3)._rows, stage.batches(3)._rows)
    assert not np.array_equal(stage.batches(3)._rows, stage.batches(4)._rows)


def test_class_weights_let_all_classes_count_the_same():
    weights = fitting._class_weights(DATASET)

    sums = [weights[DATASET.training_rows][LABELS[DATASET.training_rows] == label].sum() for label in range(3)]
    assert np.allclose(sums, sums[0])
    assert weights[DATASET.training_rows].mean() == pytest.approx(1)


def test_the_device_is_named_in_one_word():
    assert fitting.device_name().split(":")[0] in ("cpu", "gpu", "cuda")
