"""What is to be trained, and how."""

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

from imgsearch.encoders.choice import Choice, choose_encoder
from imgsearch.encoders.spec import DEFAULT_BACKBONE
from imgsearch.errors import UsageError

Objective = Literal["classify", "metric"]
Number = TypeVar("Number", int, float)
MetricLoss = Literal["arcface", "contrastive", "nt-xent", "triplet"]

CNN = "cnn"
DEFAULT_ARCHITECTURE = DEFAULT_BACKBONE
DEFAULT_VALIDATION = 0.1

# How many blocks a backbone has that can be unfrozen; `architectures.unfreeze` knows them by their names.
BLOCKS = {
    "efficientnet-lite0": 16,
    "vgg16": 5,
    "vgg19": 5,
    "resnet50": 16,
    "mobilenet_v3_large": 15,
    "efficientnetv2-b0": 21,
    "convnext_tiny": 18,
}

_CNN_SIZE = 96
_SMALLEST_SIZE = 8  # three times halved


@dataclass(frozen=True, slots=True)
class Settings:
    """What decides, with the images, what comes out of a training.

    Attributes:
        architecture: `cnn`, or a network of the table of encoders.
        objective: `classify` or `metric`.
        loss: Of the objective `metric`; empty for `classify`.
        size: Side of the images.
        dims: Length of the embedding.
        validation: Share of each class that is held out, where there is no `val/`.
        epochs: How many at most; of the last blocks, if they are tuned, a quarter as many.
        batch_size: Images in a batch.
        learning_rate: At its height; for tuned blocks a tenth of it.
        unfreeze: How many of the last blocks of a backbone are tuned in the end.
        augment: Whether images are changed a little while it learns.
        class_weights: Whether all classes count the same, however many images they have.
        seed: Source of all chance.
    """

    architecture: str
    objective: Objective
    loss: str
    size: int
    dims: int
    validation: float
    epochs: int
    batch_size: int
    learning_rate: float
    unfreeze: int
    augment: bool
    class_weights: bool
    seed: int

    def to_json(self) -> dict[str, Any]:
        """Return the fields as plain data."""
        return asdict(self)


def settle(
    architecture: str,
    weights: Path | None,
    *,
    objective: Objective,
    loss: MetricLoss | None,
    size: int | None,
    dims: int | None,
    validation: float,
    epochs: int | None,
    batch_size: int | None,
    learning_rate: float | None,
    unfreeze: int,
    augment: bool,
    class_weights: bool,
    seed: int,
) -> tuple[Settings, Choice | None]:
    """Complete what was asked for, and refuse what does not go together.

    Args:
        architecture: As for `Settings`.
        weights: File with a backbone's weights; None for its usual ones.
        objective: As for `Settings`.
        loss: As for `Settings`; None for arcface.
        size: As for `Settings`; None for that of the backbone, or 96.
        dims: As for `Settings`; None for 256, or 512 of `cnn`.
        validation: As for `Settings`.
        epochs: As for `Settings`; None for 40, or 30 of `cnn`.
        batch_size: As for `Settings`; None for 64, or 128 of `cnn`.
        learning_rate: As for `Settings`; None for 0.001.
        unfreeze: As for `Settings`.
        augment: As for `Settings`.
        class_weights: As for `Settings`.
        seed: As for `Settings`.

    Returns:
        The settings, and the backbone; None for `cnn`.

    Raises:
        MissingComponentError: There is no such architecture, or its weights cannot be read.
        UsageError: A number is out of range, or options do not go together.
    """
    if objective not in get_args(Objective):
        raise UsageError(f"expected an objective of {', '.join(get_args(Objective))}, found {objective!r}")
    if loss is not None and loss not in get_args(MetricLoss):
        raise UsageError(f"expected a loss of {', '.join(get_args(MetricLoss))}, found {loss!r}")
    if objective == "classify" and loss is not None:
        raise UsageError(f"--loss {loss} is for --objective metric", hint="classify learns by cross-entropy")
    if objective == "metric" and class_weights:
        raise UsageError(
            "--class-weights is for --objective classify", hint="metric shows all classes equally often as it is"
        )
    is_cnn = architecture == CNN
    choice = None if is_cnn else _backbone(architecture, weights, size)
    if is_cnn and (weights is not None or unfreeze):
        option = "--weights" if weights is not None else "--unfreeze"
        raise UsageError(f"{option} is for backbones; cnn is trained from the beginning")
    settings = Settings(
        architecture=architecture,
        objective=objective,
        loss="" if objective == "classify" else loss or "arcface",
        size=choice.spec.size if choice else _given(size, _CNN_SIZE),
        dims=_given(dims, 512 if is_cnn else 256),
        validation=validation,
        epochs=_given(epochs, 30 if is_cnn else 40),
        batch_size=_given(batch_size, 128 if is_cnn else 64),
        learning_rate=_given(learning_rate, 1e-3),
        unfreeze=unfreeze,
        augment=augment,
        class_weights=class_weights,
        seed=seed,
    )
    _require_ranges(settings)
    return settings, choice


def _given(value: Number | None, default: Number) -> Number:
    return default if value is None else value


def _backbone(name: str, weights: Path | None, size: int | None) -> Choice:
    choice = choose_encoder(name, weights)
    if choice.spec.kind != "network":
        raise UsageError(
            f"expected cnn or a network of keras.applications to train, found {name!r}",
            hint="imgsearch models lists the encoders",
        )
    return choice if size is None else replace(choice, spec=replace(choice.spec, size=size))


def _require_ranges(settings: Settings) -> None:
    smallest = _SMALLEST_SIZE if settings.architecture == CNN else 32
    ranges: tuple[tuple[str, float, float, float], ...] = (
        ("--size", settings.size, smallest, 1024),
        ("--dims", settings.dims, 2, 4096),
        ("--epochs", settings.epochs, 1, 100_000),
        ("--batch-size", settings.batch_size, 4 if settings.objective == "metric" else 2, 65_536),
        ("--learning-rate", settings.learning_rate, 1e-9, 100),
        ("--unfreeze", settings.unfreeze, 0, BLOCKS.get(settings.architecture, 0)),
        ("--validation", settings.validation, 0, 0.9),
        ("--seed", settings.seed, 0, 2**32 - 1),
    )
    for option, value, least, most in ranges:
        if not least <= value <= most:
            raise UsageError(f"expected {option} of {least:,} to {most:,}, found {value:,}")
