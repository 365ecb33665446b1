"""What decides, with the images, what detector comes out of a training."""

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from imgsearch.encoders.choice import Choice, choose_encoder
from imgsearch.errors import UsageError

# Scenes of an epoch. Every scene is new, so this only says how often progress is measured and kept.
SCENES = 1024

# On two cores this takes a quarter of an hour.
_EPOCHS = 16
_BATCH_SIZE = 16
_LEARNING_RATE = 2e-3
_KINDS = ("network", "model")


@dataclass(frozen=True, slots=True)
class Plan:
    """How a detector is trained.

    Attributes:
        architecture: Name of the encoder that it shares.
        size: Side of the square that it sees.
        epochs: Of `SCENES` scenes each.
        batch_size: Scenes in a batch.
        learning_rate: At its height.
        seed: Source of all chance.
    """

    architecture: str
    size: int
    epochs: int
    batch_size: int
    learning_rate: float
    seed: int

    def to_json(self) -> dict[str, Any]:
        """Return the fields as plain data."""
        return asdict(self)


def resolve_detector(
    architecture: str,
    weights: Path | None,
    *,
    size: int | None,
    epochs: int | None,
    batch_size: int | None,
    learning_rate: float | None,
    seed: int,
) -> tuple[Plan, Choice]:
    """Complete what was asked for, and refuse what does not go together.

    Args:
        architecture: A network of the table of encoders, or a `.keras` file.
        weights: File with its weights; None for its usual ones.
        size: As for `Plan`; None for that of the encoder.
        epochs: As for `Plan`; None for 16.
        batch_size: As for `Plan`; None for 16.
        learning_rate: As for `Plan`; None for 0.002.
        seed: As for `Plan`.

    Returns:
        The plan, and the encoder.

    Raises:
        MissingComponentError: There is no such encoder, or its weights cannot be read.
        UsageError: A number is out of range, or the encoder is no network.
    """
    choice = choose_encoder(architecture, weights)
    if choice.spec.kind not in _KINDS:
        raise UsageError(
            f"expected a network to put a detector on, found {architecture!r}", hint="imgsearch models lists them"
        )
    if size is not None and size != choice.spec.size:
        if choice.spec.kind == "model":
            raise UsageError(f"{architecture} sees images of {choice.spec.size} pixels: --size cannot change that")
        choice = replace(choice, spec=replace(choice.spec, size=size))
    plan = Plan(
        choice.spec.name,
        choice.spec.size,
        _EPOCHS if epochs is None else epochs,
        _BATCH_SIZE if batch_size is None else batch_size,
        _LEARNING_RATE if learning_rate is None else learning_rate,
        seed,
    )
    ranges: tuple[tuple[str, float, float, float], ...] = (
        ("--size", plan.size, 32, 1024),
        ("--epochs", plan.epochs, 1, 100_000),
        ("--batch-size", plan.batch_size, 2, SCENES),
        ("--learning-rate", plan.learning_rate, 1e-9, 100),
        ("--seed", plan.seed, 0, 2**32 - 1),
    )
    for option, value, least, most in ranges:
        if not least <= value <= most:
            raise UsageError(f"expected {option} of {least:,} to {most:,}, found {value:,}")
    return plan, choice
