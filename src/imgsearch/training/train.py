"""`train`: from images to one file that is a whole encoder, or a detector."""

import time
from dataclasses import asdict
from pathlib import Path
from typing import Unpack

from imgsearch.charts import require_matplotlib
from imgsearch.encoders.keras_encoder import device_name
from imgsearch.encoders.model_file import SUFFIX, ModelCard
from imgsearch.errors import UsageError
from imgsearch.files import as_path
from imgsearch.progress import Progress, no_progress
from imgsearch.training.adapt.train import adapt
from imgsearch.training.data import FIT, load_data
from imgsearch.training.dataset import hold_out, read_dataset, require_enough
from imgsearch.training.detector.train import train_detector
from imgsearch.training.keras_backend import require_keras, start_keras
from imgsearch.training.options import (
    Given,
    Location,
    TrainOptions,
    check_options,
    file_policy,
    path_option,
    resolve_labeled,
)
from imgsearch.training.report import LabeledReport, TrainReport, write_model
from imgsearch.training.workspace import Workspace


def train(
    dataset: Location, output: Location, *, progress: Progress = no_progress, **options: Unpack[TrainOptions]
) -> TrainReport:
    """Train an encoder on labeled images, adapt one to images without labels, or teach a detector.

    The model is written when it is whole, and beside it what was measured (`MODEL.history.json`). Until then a
    checkpoint (`MODEL.keras.checkpoint`) holds the last epoch.

    Args:
        dataset: A folder with a folder for each class, or with `train/` and `val/` that have these; or any folder of
            images, with `labels` or for an objective that needs none.
        output: The model, ending in `.keras`.
        progress: Called with ("decode", "train" or "adapt"; done; total).
        **options: See `TrainOptions`.

    Returns:
        What was done.

    Raises:
        GateError: An adaptation does not help; no model was written.
        LockedError: Another training writes this model.
        MissingComponentError: Keras, an architecture, its weights, or a library that an option needs is missing.
        OutputError: The model, or what is needed on the way to it, cannot be written.
        RefusedError: The decoder died of one image after another.
        UsageError: The dataset or the options are not as they should be, or the training diverged.
    """
    given = check_options(options)
    folder, model = as_path(dataset), as_path(output)
    _require_output(model, folder)
    run = {"adapt": adapt, "detect": train_detector}.get(given["objective"], _train_labeled)
    return run(folder, model, given, progress)


def _train_labeled(folder: Path, output: Path, options: Given, progress: Progress) -> LabeledReport:
    started = time.monotonic()
    settings, choice = resolve_labeled(options)
    policy, tensorboard, plots = file_policy(options), path_option(options.get("tensorboard")), options.get("plots")
    require_keras(tensorboard=tensorboard is not None)
    if plots:
        require_matplotlib("--plots")
    dataset = read_dataset(folder, labels=path_option(options.get("labels")), policy=policy)
    if "validation" in options and dataset.held_out.any():
        raise UsageError(f"--validation has no effect: {folder} has val/", hint="leave it out")
    dataset = hold_out(dataset, settings.validation, settings.seed)
    require_enough(dataset, settings.batch_size)
    labels = dataset.classes if settings.objective == "classify" else ()
    card = ModelCard(settings.size, FIT, "", settings.dims, labels, settings.objective, settings.architecture)
    weights = choice.spec.weights if choice else ""
    identity = {**asdict(settings), "weights": weights, "dataset": dataset.fingerprint()}
    with Workspace(output) as workspace:
        checkpoint = workspace.begin(identity, resume=options.get("resume", False))
        data = load_data(dataset, settings, choice, workspace, policy, progress)
        require_enough(data.dataset, settings.batch_size)
        decoded = time.monotonic()
        start_keras()
        from imgsearch.training import fitting
        from imgsearch.training.loop import Loop

        loop = Loop(workspace, checkpoint, progress, tensorboard)
        outcome = fitting.fit(settings, choice, data, loop)
        trained = time.monotonic()
        report = LabeledReport(
            output=output,
            settings=settings,
            dataset=data.dataset,
            rejected=data.dataset.rejected,
            epochs=tuple(loop.epochs),
            best=loop.best,
            metrics=outcome.metrics,
            device=device_name(),
            seconds={"decode": decoded - started, "train": trained - decoded, "total": time.monotonic() - started},
        )
        if plots:
            from imgsearch.training.plots import draw

            draw(report, outcome.predicted, policy)
        write_model(report, outcome.model, card)
        workspace.clear()
    return report


def _require_output(output: Path, folder: Path) -> None:
    if output.suffix != SUFFIX:
        raise UsageError(f"the model must end in {SUFFIX}, got {output}", hint=f"-o {output.stem}{SUFFIX}")
    if output.is_dir() or not output.parent.is_dir():
        raise UsageError(f"the model must be a file in a folder that exists, got {output}")
    if output.parent.resolve().is_relative_to(folder.resolve()):
        raise UsageError(f"the model must be outside of the dataset, got {output} in {folder}")
