"""`train`: from labeled images to one file that is a whole encoder."""

import contextlib
import importlib.util
import json
import logging
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imgsearch.encoders.choice import Choice
from imgsearch.encoders.model_file import SUFFIX, ModelCard, save_model
from imgsearch.errors import MissingComponentError, UsageError
from imgsearch.files import writing
from imgsearch.images.policy import FilePolicy
from imgsearch.progress import Progress, no_progress
from imgsearch.training.dataset import Dataset, hold_out, read_dataset, require_enough
from imgsearch.training.material import FIT, gather
from imgsearch.training.report import TrainReport, history, history_file
from imgsearch.training.settings import (
    DEFAULT_ARCHITECTURE,
    DEFAULT_VALIDATION,
    MetricLoss,
    Objective,
    Settings,
    settle,
)
from imgsearch.training.workplace import Workplace, replacing

if TYPE_CHECKING:
    from imgsearch.training.fitting import Outcome

logger = logging.getLogger(__name__)


def train(
    folder: Path,
    output: Path,
    *,
    architecture: str = DEFAULT_ARCHITECTURE,
    objective: Objective = "classify",
    loss: MetricLoss | None = None,
    labels: Path | None = None,
    size: int | None = None,
    dims: int | None = None,
    weights: Path | None = None,
    validation: float = DEFAULT_VALIDATION,
    epochs: int | None = None,
    batch_size: int | None = None,
    learning_rate: float | None = None,
    unfreeze: int = 0,
    augment: bool = True,
    class_weights: bool = False,
    seed: int = 0,
    resume: bool = False,
    tensorboard: Path | None = None,
    plots: bool = False,
    policy: FilePolicy | None = None,
    progress: Progress = no_progress,
) -> TrainReport:
    """Train an encoder on labeled images.

    The model is written when it is whole, and beside it what was measured (`MODEL.history.json`). Until then a
    checkpoint (`MODEL.keras.checkpoint`) keeps every epoch.

    Args:
        folder: Labeled images, as `dataset.read_dataset` takes them.
        output: The model, ending in `.keras`.
        architecture: `cnn`, or a network of the table of encoders, which gets a new head.
        objective: `classify` tells classes from one another; `metric` brings images of a class together.
        loss: Of `metric`; arcface by default.
        labels: A CSV file with the columns `path` and `label`, in place of a folder for each class.
        size: Side of the images; by default that of the backbone, or 96 for `cnn`.
        dims: Length of the embedding; 256 by default, 512 for `cnn`.
        weights: File with the weights of a backbone of keras.applications.
        validation: Share of each class to hold out, where there is no `val/`; 0 for none.
        epochs: How many at most; 40 by default, 30 for `cnn`.
        batch_size: Images in a batch; 64 by default, 128 for `cnn`.
        learning_rate: At its height; 0.001 by default.
        unfreeze: How many of a backbone's last blocks are tuned when its head is trained.
        augment: Whether images are changed a little while it learns; a frozen backbone is shown each image and
            its mirror image.
        class_weights: Whether all classes count the same, however many images they have.
        seed: Source of all chance.
        resume: Go on where a training with the same options was interrupted, if one was.
        tensorboard: Folder for TensorBoard's files.
        plots: Whether to draw learning curves, a confusion matrix and some predictions beside the model.
        policy: Which files are let in.
        progress: Told ("decode" or "train", done, total).

    Returns:
        What was done.

    Raises:
        LockedError: Another training writes this model.
        MissingComponentError: Keras, an architecture, its weights, or a library that an option needs is missing.
        OutputError: The model, or what is needed on the way to it, cannot be written.
        RefusedError: The decoder died of one image after another.
        UsageError: The dataset or the options are not what they should be, or the training diverged.
    """
    started = time.monotonic()
    settings, choice = settle(
        architecture,
        weights,
        objective=objective,
        loss=loss,
        size=size,
        dims=dims,
        validation=validation,
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        unfreeze=unfreeze,
        augment=augment,
        class_weights=class_weights,
        seed=seed,
    )
    policy = policy or FilePolicy()
    require_output(output, folder)
    dataset = hold_out(read_dataset(folder, labels=labels, policy=policy), validation, seed)
    require_enough(dataset, settings.batch_size)
    _require_components(tensorboard is not None, plots)
    with contextlib.closing(Workplace(output)) as workplace:
        if not resume:
            if workplace.has_checkpoint:
                logger.warning("a training that was interrupted is forgotten: --resume would have gone on with it")
            workplace.clear()
        identity = _identity(settings, choice, dataset)
        begun = workplace.load(identity)
        material = gather(dataset, settings, choice, workplace, policy, progress)
        gathered = time.monotonic()
        with silence():
            fitting, loops = import_keras()
        loop = loops.Loop(workplace, identity, begun, progress, tensorboard)
        outcome = fitting.fit(settings, choice, material, loop)
        fitted = time.monotonic()
        report = TrainReport(
            output,
            settings,
            material.dataset,
            tuple(loop.epochs),
            loop.best,
            outcome.metrics,
            outcome.device,
            {"decode": gathered - started, "train": fitted - gathered, "total": time.monotonic() - started},
        )
        if plots:
            _draw(report, outcome, policy)
        _write(report, outcome)
        workplace.clear()
    return report


def require_output(output: Path, folder: Path) -> None:
    """Refuse a name that a model cannot have.

    Args:
        output: The model to be.
        folder: What it is to learn from.

    Raises:
        UsageError: It does not end in `.keras`, its folder is missing, or it lies in what it is to learn from.
    """
    if output.suffix != SUFFIX:
        raise UsageError(f"expected an output that ends in {SUFFIX}, found {output}", hint=f"-o {output.stem}{SUFFIX}")
    if output.is_dir() or not output.parent.is_dir():
        raise UsageError(f"expected a file in a folder that is there, found {output}")
    if output.parent.resolve().is_relative_to(folder.resolve()):
        raise UsageError(f"expected an output outside of the dataset, found {output} in {folder}")


def _require_components(tensorboard: bool, plots: bool) -> None:
    """Look for what is needed in the end before anything long begins, without importing it."""
    for wanted, module, what in (
        (True, "keras", "training"),
        (tensorboard, "tensorflow", "--tensorboard"),
        (tensorboard, "tensorboard", "--tensorboard"),
        (plots, "matplotlib", "--plots"),
        *((True, name, f"KERAS_BACKEND={name}") for name in _backend_asked_for()),
    ):
        if wanted and importlib.util.find_spec(module) is None:
            raise MissingComponentError(f"{what} needs {module}", hint=f"pip install {module}")


def _backend_asked_for() -> tuple[str, ...]:
    name = os.environ.get("KERAS_BACKEND", "")
    return (name,) if name in ("jax", "tensorflow", "torch") else ()


def _identity(settings: Settings, choice: Choice | None, dataset: Dataset) -> dict[str, Any]:
    """Say what must be the same for a training to go on where another ended."""
    weights = choice.spec.weights if choice else ""
    return {**settings.to_json(), "weights": weights, "dataset": dataset.fingerprint()}


def import_keras() -> tuple[Any, Any]:
    """Import the modules that import Keras, when nothing is left to be done without it.

    Returns:
        The modules `fitting` and `loop`.

    Raises:
        MissingComponentError: Keras or its backend cannot be imported.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    # TensorFlow leaves these kernels out on processors without AVX-512, where they halve a training's time, too.
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    try:
        from imgsearch.training import fitting, loop

        fitting.device_name()  # the backend has more to say when it first computes
        logging.getLogger("tensorflow").setLevel(logging.ERROR)  # and advice on how Keras should call it
    except (ImportError, ValueError) as error:
        raise MissingComponentError(f"Keras cannot be imported: {error}", hint="look at KERAS_BACKEND") from error
    return fitting, loop


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Keep what TensorFlow writes to standard error while it starts, which no option of its own does."""
    sys.stderr.flush()
    kept = os.dup(2)
    nothing = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nothing, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nothing)


def _draw(report: TrainReport, outcome: "Outcome", policy: FilePolicy) -> None:
    from imgsearch.training.plots import draw

    draw(report, outcome.predicted, policy)


def _write(report: TrainReport, outcome: "Outcome") -> None:
    with replacing(history_file(report.output)) as file:
        file.write((json.dumps(history(report), indent=1) + "\n").encode())
    settings = report.settings
    card = ModelCard(
        size=settings.size,
        fit=FIT,
        steps="",
        dims=settings.dims,
        labels=report.dataset.classes if settings.objective == "classify" else (),
        objective=settings.objective,
        backbone=settings.architecture,
    )
    with writing(report.output.parent):
        save_model(outcome.model, report.output, card)
