"""What a training is asked for: options, the objectives that take them, their defaults and ranges."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypedDict, get_args

from imgsearch.encoders.choice import Choice, choose_encoder
from imgsearch.encoders.onnx_file import ONNX_SUFFIX
from imgsearch.encoders.spec import DEFAULT_BACKBONE
from imgsearch.encoders.table import TABLE
from imgsearch.errors import UsageError, require_between
from imgsearch.files import as_path
from imgsearch.images import MAX_PIXELS
from imgsearch.images.policy import MAX_BYTES, FilePolicy

Objective = Literal["classify", "metric", "adapt", "detect"]
MetricLoss = Literal["arcface", "contrastive", "nt-xent", "triplet"]
Location = str | os.PathLike[str]
# The options that are given, by name.
Given = Mapping[str, Any]

CNN = "cnn"
# What a trained head is put on; adapting and detecting begin with the encoder that indexes have.
BACKBONE = "efficientnet-lite0"
VALIDATION = 0.1

# Scenes of an epoch of a detector. Every scene is new, so this only says how often progress is measured and saved.
SCENES = 1024

# How many blocks a backbone has that can be unfrozen; `networks.unfreeze` knows them by their names.
BLOCKS = {name: row.blocks for name, row in TABLE.items() if row.blocks}


class TrainOptions(TypedDict, total=False):
    """Options of `train`. None or missing: the default, which is named after a semicolon.

    Objectives: `classify` tells classes apart, `metric` brings images of a class together, `adapt` learns from
    unlabeled images which differences are noise, `detect` finds items in photos.
    """

    objective: Objective | None  # one of the four; classify
    architecture: str | None  # `cnn`, a network or, to detect, a `.keras` file; see `imgsearch train --help`
    loss: MetricLoss | None  # of `metric`; arcface
    labels: Location | None  # CSV file with the columns `path` and `label`, in place of a folder for each class
    backgrounds: Location | None  # to detect: a folder of photos without items; drawn ones
    size: int | None  # side of the images in pixels; that of the backbone, or 96 for `cnn`
    dims: int | None  # length of the embedding; 256
    weights: Location | None  # weights of a backbone of keras.applications
    validation: float | None  # share of each class to hold out where there is no `val/`, 0 for none; 0.1
    epochs: int | None  # how many at most; 40, 24 for `cnn`, 16 (of 1,024 scenes) to detect, 15 to adapt
    batch_size: int | None  # images in a batch; 64, 128 for `cnn` and to adapt, 16 to detect
    learning_rate: float | None  # at its peak; 0.001, 0.003 for `cnn`, 0.002 to detect, 0.0003 to adapt
    unfreeze: int | None  # how many of a backbone's last blocks are tuned: after its head, or to adapt; 0
    augment: bool | None  # whether images are flipped and shifted (for a frozen backbone: flipped); True
    class_weights: bool | None  # whether all classes weigh the same, however many images they have; False
    seed: int | None  # random seed; 0
    resume: bool | None  # continue where a training with the same options was interrupted, if one was; False
    tensorboard: Location | None  # folder for TensorBoard's files
    plots: bool | None  # draw learning curves, a confusion matrix and predictions beside the model; False
    max_bytes: int | None  # larger files are rejected without being read
    max_pixels: int | None  # larger images are rejected without being decoded
    follow_links: bool | None  # whether to follow links to files and folders, also out of the dataset


# Which options have an effect, by objective; any other is refused.
_ALL = {"objective", "architecture", "weights", "max_bytes", "max_pixels", "follow_links"}
_TUNING = {"epochs", "batch_size", "learning_rate", "seed", "resume"}
_IN_EPOCHS = _TUNING | {"size"}
_LABELED = {"labels", "dims", "validation", "unfreeze", "augment", "tensorboard", "plots"}
OPTIONS: dict[Objective, set[str]] = {
    "classify": _ALL | _IN_EPOCHS | _LABELED | {"class_weights"},
    "metric": _ALL | _IN_EPOCHS | _LABELED | {"loss"},
    "adapt": _ALL | _TUNING | {"unfreeze"},
    "detect": _ALL | _IN_EPOCHS | {"backgrounds"},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What decides, with the images, what a training in epochs makes; fields are as in `TrainOptions`."""

    architecture: str
    objective: Objective
    size: int
    epochs: int
    batch_size: int
    learning_rate: float
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LabeledSettings(Settings):
    """Settings of a training with labels; `loss` is empty to classify."""

    loss: str
    dims: int
    validation: float
    unfreeze: int
    augment: bool
    class_weights: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class AdaptSettings(Settings):
    """Settings of an adaptation that tunes the last blocks."""

    unfreeze: int


def check_options(options: TrainOptions) -> Given:
    """Return the options that are given, and the objective; refuse an option that has no effect on it."""
    given: Given = {"objective": "classify"} | {name: value for name, value in options.items() if value is not None}
    if unknown := given.keys() - TrainOptions.__annotations__.keys():
        raise TypeError(f"train() got an unexpected keyword argument {min(unknown)!r}")
    _require_one_of(given["objective"], "--objective", Objective)
    for name in given:
        if name not in OPTIONS[given["objective"]]:
            takers = [objective for objective, names in OPTIONS.items() if name in names]
            raise UsageError(
                f"{_option(name)} has no effect on --objective {given['objective']}",
                hint=f"it is for {' and '.join(takers)}",
            )
        if given["objective"] == "adapt" and name in _TUNING and not given.get("unfreeze"):
            raise UsageError(
                f"{_option(name)} has no effect on --objective adapt without --unfreeze",
                hint="--unfreeze N tunes the last N blocks of the backbone",
            )
    return given


def file_policy(options: Given) -> FilePolicy:
    """Return which files are let in."""
    return FilePolicy(
        options.get("max_bytes", MAX_BYTES),
        options.get("max_pixels", MAX_PIXELS),
        follow_links=options.get("follow_links", False),
    )


def path_option(path: Location | None) -> Path | None:
    """Return an option as a path, if it is given."""
    return None if path is None else as_path(path)


def choose_network(options: Given, kinds: tuple[str, ...] = ("network",)) -> Choice:
    """Choose the backbone, of one of the kinds of encoders, for images of the size that is asked for."""
    name = options.get("architecture", BACKBONE if options["objective"] in ("classify", "metric") else DEFAULT_BACKBONE)
    if name.endswith(ONNX_SUFFIX):
        raise UsageError(
            f"--architecture must be a network of Keras, got {name!r}",
            hint="an ONNX file is used as it is: build-index --backbone FILE.onnx",
        )
    choice = None if name == CNN else choose_encoder(name, path_option(options.get("weights")))
    if choice is None or choice.spec.kind not in kinds:
        raise UsageError(f"--architecture must be a network, got {name!r}", hint="imgsearch models lists the encoders")
    size = options.get("size", choice.spec.size)
    if size != choice.spec.size and choice.spec.kind == "model":
        raise UsageError(f"{name} takes images of {choice.spec.size} pixels; --size cannot change that")
    return replace(choice, spec=replace(choice.spec, size=size))


def resolve_labeled(options: Given) -> tuple[LabeledSettings, Choice | None]:
    """Complete the options of a training with labels; return its backbone too, which is None for `cnn`."""
    is_cnn = options.get("architecture") == CNN
    if "loss" in options:
        _require_one_of(options["loss"], "--loss", MetricLoss)
    for name in ("weights", "unfreeze"):
        if is_cnn and options.get(name):
            raise UsageError(f"{_option(name)} has no effect on --architecture cnn", hint="it is for backbones")
    choice = None if is_cnn else choose_network(options)
    settings = LabeledSettings(
        architecture=choice.spec.name if choice else CNN,
        objective=options["objective"],
        loss=options.get("loss", "arcface") if options["objective"] == "metric" else "",
        size=choice.spec.size if choice else options.get("size", 96),
        dims=options.get("dims", 256),
        validation=options.get("validation", VALIDATION),
        epochs=options.get("epochs", 24 if is_cnn else 40),
        batch_size=options.get("batch_size", 128 if is_cnn else 64),
        learning_rate=options.get("learning_rate", 3e-3 if is_cnn else 1e-3),
        unfreeze=options.get("unfreeze", 0),
        augment=options.get("augment", True),
        class_weights=options.get("class_weights", False),
        seed=options.get("seed", 0),
    )
    _require_ranges(
        settings,
        size=(8 if is_cnn else 32, 1024),  # the small network halves it three times
        dims=(2, 4096),
        batch_size=(4 if settings.loss else 2, 65_536),
        unfreeze=(0, BLOCKS.get(settings.architecture, 0)),
        validation=(0, 0.9),
    )
    return settings, choice


def resolve_adaptation(options: Given) -> tuple[AdaptSettings, Choice]:
    """Complete the options of an adaptation that tunes blocks; return the backbone too."""
    choice = choose_network(options)
    settings = AdaptSettings(
        architecture=choice.spec.name,
        objective="adapt",
        size=choice.spec.size,
        epochs=options.get("epochs", 15),
        batch_size=options.get("batch_size", 128),
        learning_rate=options.get("learning_rate", 3e-4),
        seed=options.get("seed", 0),
        unfreeze=options["unfreeze"],
    )
    _require_ranges(settings, batch_size=(4, 65_536), unfreeze=(1, BLOCKS[settings.architecture]))
    return settings, choice


def resolve_detector(options: Given) -> tuple[Settings, Choice]:
    """Complete the options of a detector's training; return the encoder that it shares too."""
    choice = choose_network(options, ("network", "model"))
    settings = Settings(
        architecture=choice.spec.name,
        objective="detect",
        size=choice.spec.size,
        epochs=options.get("epochs", 16),  # a quarter of an hour on two cores
        batch_size=options.get("batch_size", 16),
        learning_rate=options.get("learning_rate", 2e-3),
        seed=options.get("seed", 0),
    )
    _require_ranges(settings, size=(32, 1024), batch_size=(2, SCENES))
    return settings, choice


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _require_one_of(value: str, option: str, literal: Any) -> None:
    if value not in get_args(literal):
        raise UsageError(f"{option} must be one of {', '.join(get_args(literal))}, got {value!r}")


def _require_ranges(settings: Settings, **ranges: tuple[float, float]) -> None:
    ranges |= {"epochs": (1, 100_000), "learning_rate": (1e-9, 100), "seed": (0, 2**32 - 1)}
    for name, (least, most) in ranges.items():
        require_between(_option(name), getattr(settings, name), least, most)
