"""What a training did, for callers and for the file beside the model."""

import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from imgsearch._version import __version__
from imgsearch.training.dataset import Dataset
from imgsearch.training.settings import Settings


@dataclass(frozen=True, slots=True)
class TrainReport:
    """What a training did.

    Attributes:
        output: The model.
        settings: How it was trained.
        dataset: What it was trained on, and the images that cannot be used.
        epochs: What was measured in each epoch.
        best: Which of them gave the model.
        metrics: Of the model, on what was held out: `val_accuracy` and `val_hit`, the share of images whose
            nearest among those it learned from is of their class. Empty where nothing was held out.
        device: What it was trained on.
        seconds: Wall time of each stage, and of all under `total`.
    """

    output: Path
    settings: Settings
    dataset: Dataset
    epochs: tuple[Mapping[str, Any], ...]
    best: int
    metrics: Mapping[str, float]
    device: str
    seconds: Mapping[str, float]


def history_file(output: Path) -> Path:
    """Name the file beside a model that says how it was trained."""
    return output.with_suffix(".history.json")


def history(report: TrainReport) -> dict[str, Any]:
    """Return what is written beside a model; docs/training.md describes it."""
    dataset = report.dataset
    counts = {
        name: {
            classname: int(np.sum(dataset.labels[rows] == number)) for number, classname in enumerate(dataset.classes)
        }
        for name, rows in (("training", dataset.training_rows), ("validation", dataset.validation_rows))
    }
    return {
        "version": 1,
        "settings": report.settings.to_json(),
        "dataset": dataset.root,
        "classes": list(dataset.classes),
        "counts": counts,
        "rejected": [
            {"path": reject.path, "cause": reject.cause, "message": reject.message} for reject in dataset.rejected
        ],
        "rejected_by_cause": dict(Counter(reject.cause for reject in dataset.rejected)),
        "epochs": list(report.epochs),
        "best": report.best,
        "metrics": dict(report.metrics),
        "device": report.device,
        "seconds": {name: round(seconds, 3) for name, seconds in report.seconds.items()},
        "versions": versions(),
    }


def versions() -> dict[str, str]:
    """Say what a model was trained with; Keras is imported."""
    import keras

    return {
        "imgsearch": __version__,
        "python": sys.version.split()[0],
        "keras": keras.__version__,
        "backend": keras.backend.backend(),
        "numpy": np.__version__,
    }
