"""Options of a training: what has no effect, contradicts itself or is out of range is refused before anything else."""

from pathlib import Path

import pytest

from imgsearch import train
from imgsearch.cli import main
from imgsearch.errors import MissingComponentError, UsageError
from imgsearch.training import options as module
from imgsearch.training.options import (
    OPTIONS,
    TrainOptions,
    check_options,
    resolve_adaptation,
    resolve_detector,
    resolve_labeled,
)

# Of each option a value that would be all right if the objective took it, and how it is written.
VALUES = {
    "architecture": ("efficientnet-lite0", ["--architecture", "efficientnet-lite0"]),
    "loss": ("triplet", ["--loss", "triplet"]),
    "labels": ("labels.csv", ["--labels", "labels.csv"]),
    "backgrounds": ("rooms", ["--backgrounds", "rooms"]),
    "size": (64, ["--size", "64"]),
    "dims": (16, ["--dims", "16"]),
    "weights": ("w.h5", ["--weights", "w.h5"]),
    "validation": (0.0, ["--validation", "0"]),
    "epochs": (2, ["--epochs", "2"]),
    "batch_size": (4, ["--batch-size", "4"]),
    "learning_rate": (0.1, ["--learning-rate", "0.1"]),
    "unfreeze": (0, ["--unfreeze", "0"]),
    "augment": (False, ["--no-augment"]),
    "class_weights": (True, ["--class-weights"]),
    "seed": (0, ["--seed", "0"]),
    "resume": (True, ["--resume"]),
    "tensorboard": ("board", ["--tensorboard", "board"]),
    "plots": (True, ["--plots"]),
    "max_bytes": (100_000_000, ["--max-bytes", "100000000"]),
    "max_pixels": (178_956_970, ["--max-pixels", "178956970"]),
    "follow_links": (True, ["--follow-links"]),
}

# What has an effect only together with another option.
TUNING = {("adapt", name) for name in ("epochs", "batch_size", "learning_rate", "seed", "resume")}


def test_every_option_is_taken_by_an_objective_or_refused_by_name(tmp_path, monkeypatch, capsys):
    """In the library and on the command line; what is taken comes to the next check: the output's name."""
    assert VALUES.keys() | {"objective"} == TrainOptions.__annotations__.keys() == set().union(*OPTIONS.values())
    monkeypatch.chdir(tmp_path)

    for objective, taken in OPTIONS.items():
        for name, (value, arguments) in VALUES.items():
            flag = f"--{name.replace('_', '-')}"
            expected = "must end in .keras" if name in taken else f"{flag} has no effect on --objective {objective}"
            others, more = ({"unfreeze": 1}, ["--unfreeze", "1"]) if (objective, name) in TUNING else ({}, [])
            with pytest.raises(UsageError, match=expected):
                train("cat", "m.h5", objective=objective, **{name: value}, **others)
            assert main(["train", "cat", "-o", "m.h5", "--objective", objective, *arguments, *more]) == 2
            assert expected in capsys.readouterr().err, (objective, name)
            train_options = check_options({name: None, "objective": objective})
            assert train_options == {"objective": objective}
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("unfreeze", [None, 0])
def test_what_needs_tuned_blocks_to_adapt_is_refused_without_them(unfreeze):
    for _, name in TUNING:
        message = f"--{name.replace('_', '-')} has no effect on --objective adapt without --unfreeze"
        with pytest.raises(UsageError, match=message):
            check_options({"objective": "adapt", "unfreeze": unfreeze, name: VALUES[name][0]})


def test_defaults_are_those_of_the_help():
    labeled, _ = resolve_labeled(check_options({}))
    small, choice = resolve_labeled(check_options({"architecture": "cnn", "objective": "metric"}))
    detector, _ = resolve_detector(check_options({"objective": "detect"}))
    tuned, _ = resolve_adaptation(check_options({"objective": "adapt", "unfreeze": 3}))

    found = (labeled.size, labeled.dims, labeled.epochs, labeled.batch_size, labeled.learning_rate)
    assert found == (224, 256, 40, 64, 0.001)
    assert (labeled.augment, labeled.class_weights, labeled.seed, labeled.unfreeze) == (True, False, 0, 0)
    assert (labeled.architecture, labeled.loss, labeled.validation) == ("efficientnet-lite0", "", 0.1)
    assert (small.size, small.dims, small.epochs, small.batch_size, small.learning_rate) == (96, 256, 24, 128, 0.003)
    assert (small.loss, choice) == ("arcface", None)
    assert (detector.size, detector.epochs, detector.batch_size, detector.learning_rate) == (224, 16, 16, 0.002)
    assert (tuned.size, tuned.epochs, tuned.batch_size, tuned.learning_rate) == (224, 15, 128, 0.0003)
    assert module.SCENES == 1024


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"architecture": "vgg61"}, "no encoder is called 'vgg61'"),
        ({"architecture": "handcrafted"}, "--architecture must be a network, got 'handcrafted'"),
        ({"objective": "sort"}, "--objective must be one of classify, metric, adapt, detect, got 'sort'"),
        ({"objective": "metric", "loss": "hinge"}, "--loss must be one of arcface"),
        ({"weights": Path("weights.h5")}, "--weights has no effect on --architecture cnn"),
        ({"unfreeze": 2}, "--unfreeze has no effect on --architecture cnn"),
        ({"architecture": "efficientnet-lite0", "unfreeze": 17}, "--unfreeze must be 0 to 16, got 17"),
        ({"size": 4}, "--size must be 8 to 1,024, got 4"),
        ({"dims": 0}, "--dims must be"),
        ({"epochs": 0}, "--epochs must be"),
        ({"batch_size": 1}, "--batch-size must be"),
        ({"learning_rate": float("nan")}, "--learning-rate must be"),
        ({"validation": 1.0}, "--validation must be"),
        ({"seed": -1}, "--seed must be"),
        ({"max_bytes": 0}, "expected a limit of"),
        ({"batch_size": 500}, "at least a batch of 500"),
        ({"objective": "adapt"}, "--architecture must be a network, got 'cnn'"),
        ({"objective": "adapt", "unfreeze": 1}, "--architecture must be a network, got 'cnn'"),
        ({"objective": "adapt", "architecture": None, "unfreeze": 17}, "--unfreeze must be 1 to 16, got 17"),
        ({"objective": "adapt", "architecture": None, "unfreeze": -1}, "--unfreeze must be 1 to 16, got -1"),
        ({"objective": "adapt", "architecture": None, "unfreeze": 1, "batch_size": 2}, "--batch-size must be 4"),
        ({"objective": "detect"}, "--architecture must be a network, got 'cnn'"),
        ({"objective": "detect", "architecture": "handcrafted"}, "--architecture must be a network"),
        ({"objective": "detect", "architecture": None, "epochs": 0}, "--epochs must be 1 to 100,000"),
        ({"objective": "detect", "architecture": None, "batch_size": 1}, "--batch-size must be 2 to 1,024"),
        ({"objective": "detect", "architecture": None, "size": 16}, "--size must be 32"),
        ({"objective": "detect", "architecture": None, "backgrounds": "empty"}, "no image in --backgrounds"),
        ({"objective": "detect", "architecture": None, "backgrounds": "missing"}, "expected a folder of images"),
    ],
)
def test_options_that_contradict_one_another_or_are_out_of_range_are_refused(
    shapes, tmp_path, monkeypatch, options, message
):
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)

    with pytest.raises((UsageError, MissingComponentError), match=message):
        train(shapes, tmp_path / "never.keras", **{"architecture": "cnn", **options})

    assert [path.name for path in tmp_path.iterdir()] == ["empty"]


def test_a_share_to_hold_out_contradicts_a_folder_of_what_is_held_out(tmp_path):
    for name in ("train/a/1.png", "train/b/2.png", "val/a/3.png"):
        (tmp_path / "data" / name).parent.mkdir(parents=True)
        (tmp_path / "data" / name).touch()

    with pytest.raises(UsageError, match=r"--validation has no effect: .*data has val/"):
        train(tmp_path / "data", tmp_path / "m.keras", validation=0.2)


def test_an_option_that_does_not_exist_is_a_mistake_in_the_program():
    with pytest.raises(TypeError, match="unexpected keyword argument 'epoch'"):
        train("cat", "m.keras", epoch=3)


def test_an_output_that_is_no_keras_file_or_lies_in_the_dataset_is_refused(shapes, tmp_path):
    for output in (tmp_path / "model.h5", tmp_path / "missing" / "model.keras", shapes / "model.keras"):
        with pytest.raises(UsageError, match="the model must"):
            train(shapes, output, architecture="cnn")


@pytest.mark.parametrize(
    ("options", "missing"),
    [
        ({"plots": True}, "matplotlib"),
        ({"tensorboard": Path("board")}, "tensorboard"),
        ({}, "jax"),
        ({"objective": "adapt", "architecture": None}, "jax"),
        ({"objective": "detect", "architecture": None}, "jax"),
    ],
)
def test_a_library_that_is_needed_is_missed_before_an_image_is_opened(shapes, tmp_path, monkeypatch, options, missing):
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == missing else find(name))
    monkeypatch.setenv("KERAS_BACKEND", "jax" if missing == "jax" else "tensorflow")

    with pytest.raises(MissingComponentError, match=f"needs {missing}"):
        train(shapes, tmp_path / "never.keras", **{"architecture": "cnn", **options})

    assert list(tmp_path.iterdir()) == []
