"""What a training did: for callers, and in the file beside the model."""

import json
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from imgsearch._version import __version__
from imgsearch.encoders.model_file import ModelCard, save_model
from imgsearch.encoders.projection import AdaptationGain
from imgsearch.files import replaced_file, writing
from imgsearch.images.scan import Reject
from imgsearch.training.dataset import Dataset
from imgsearch.training.options import Settings

if TYPE_CHECKING:
    import keras


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainReport:
    """What a training did.

    Attributes:
        output: The model.
        seconds: Wall time of each stage, and of all under `total`.
        metrics: Of the model, on what was held out; docs/training.md has their names. Empty where nothing was.
        rejected: Images that cannot be used.
    """

    output: Path
    seconds: Mapping[str, float]
    metrics: Mapping[str, float]
    rejected: tuple[Reject, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class AdaptReport(TrainReport):
    """What an adaptation to images without labels did.

    Attributes:
        gain: What the adaptation is worth, on variants that it was not learned from.
    """

    gain: AdaptationGain


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochsReport(TrainReport):
    """What a training in epochs did."""

    settings: Settings
    epochs: tuple[Mapping[str, Any], ...]
    best: int
    device: str

    def data_to_json(self) -> dict[str, Any]:
        """Return what the history says of the data."""
        raise NotImplementedError

    def to_json(self) -> dict[str, Any]:
        """Return the history that is written beside a model; docs/training.md describes it."""
        return {
            "version": 1,
            "settings": asdict(self.settings),
            **self.data_to_json(),
            "rejected": [asdict(reject) for reject in self.rejected],
            "epochs": list(self.epochs),
            "best": self.best,
            "metrics": dict(self.metrics),
            "device": self.device,
            "seconds": {name: round(seconds, 3) for name, seconds in self.seconds.items()},
            "versions": _versions(),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class LabeledReport(EpochsReport):
    """What a training with labels did; metrics are `val_accuracy` and `val_hit`.

    Attributes:
        dataset: What it was trained on, without the images that cannot be used.
    """

    dataset: Dataset

    def data_to_json(self) -> dict[str, Any]:
        """Return the classes and how many images of each there are."""
        dataset = self.dataset
        rows = {"training": dataset.training_rows, "validation": dataset.validation_rows}
        counts = {
            name: np.bincount(dataset.labels[part], minlength=len(dataset.classes)) for name, part in rows.items()
        }
        return {
            "dataset": dataset.root,
            "classes": list(dataset.classes),
            "counts": {name: dict(zip(dataset.classes, part.tolist(), strict=True)) for name, part in counts.items()},
            "rejected_by_cause": dict(Counter(reject.cause for reject in self.rejected)),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectReport(EpochsReport):
    """What a detector's training did.

    `metrics` are measured on 300 scenes of held-out items: `average_precision` at an IoU of 0.5, `recall` of items in
    the five boxes with the highest scores, and `mask_overlap`, the IoU of items and mask.

    Attributes:
        items: How many items it learned from, and how many were held out.
        backgrounds: The same of the user's backgrounds.
        skipped: How many images show nothing that is large enough to be an item.
    """

    items: tuple[int, int]
    backgrounds: tuple[int, int]
    skipped: int

    def data_to_json(self) -> dict[str, Any]:
        """Return how many items and backgrounds there are."""
        parts = ("training", "validation")
        return {
            "items": dict(zip(parts, self.items, strict=True)),
            "backgrounds": dict(zip(parts, self.backgrounds, strict=True)),
            "skipped": self.skipped,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class TunedReport(EpochsReport):
    """What an adaptation with `unfreeze` did.

    Attributes:
        gain: What it is worth, on variants that it was not learned from.
        mix: The share of the tuned weights in those of the model; 0 if those from before did not find less.
    """

    gain: AdaptationGain
    mix: float

    def data_to_json(self) -> dict[str, Any]:
        """Return how many images there are, and how the weights were mixed."""
        return {"images": self.gain.images, "mix": self.mix}


def gain_metrics(gain: AdaptationGain) -> dict[str, float]:
    """Return what an adaptation gains as the metrics of its report."""
    named = {name: getattr(gain, name) for name in ("before", "after", "drawings_before", "drawings_after")}
    return {name: value for name, value in named.items() if value is not None}


def history_file(output: Path) -> Path:
    """Return the file beside a model that says how it was trained."""
    return output.with_suffix(".history.json")


def write_model(report: EpochsReport, model: "keras.Model", card: ModelCard) -> None:
    """Write the history, then the model."""
    with writing(report.output.parent), replaced_file(history_file(report.output)) as file:
        file.write((json.dumps(report.to_json(), indent=1) + "\n").encode())
    save_model(model, report.output, card)


def _versions() -> dict[str, str]:
    import keras

    return {
        "imgsearch": __version__,
        "python": sys.version.split()[0],
        "keras": keras.__version__,
        "backend": keras.backend.backend(),
        "numpy": np.__version__,
    }
