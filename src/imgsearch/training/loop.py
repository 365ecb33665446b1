"""The epochs of a training: fit, evaluate, remember the best, save a checkpoint, know when to stop."""

import logging
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

from imgsearch.errors import UsageError
from imgsearch.progress import Progress
from imgsearch.training.workspace import Checkpoint, Workspace

logger = logging.getLogger(__name__)

# Epochs without a better one after which a stage ends.
PATIENCE = 10
# Share of a stage's steps in which the learning rate rises to its peak.
_WARM_UP = 0.05
# What the learning rate falls to, as a share of its peak.
_LAST_RATE = 0.01
_WEIGHT_DECAY = 1e-4

Metrics = dict[str, float]


@dataclass(frozen=True, slots=True)
class Stage:
    """A part of a training that has its own compiled model and learning rate."""

    name: str
    model: keras.Model
    epochs: int
    batches: Callable[[int], keras.utils.PyDataset]  # of an epoch, from 0
    evaluate: Callable[[], Metrics]  # on what is held out; nothing where nothing is
    score: Callable[[Mapping[str, Any]], tuple[float, ...]]  # of what was measured in an epoch: more is better


class Loop:
    """Runs the stages of a training one after another, from a checkpoint on; has all epochs and which was the best."""

    def __init__(
        self, workspace: Workspace, checkpoint: Checkpoint | None, progress: Progress, tensorboard: Path | None = None
    ) -> None:
        self._workspace, self._checkpoint = workspace, checkpoint
        self._progress, self._tensorboard = progress, tensorboard
        self.epochs: list[Mapping[str, Any]] = list(checkpoint.epochs) if checkpoint else []
        self.best = checkpoint.best if checkpoint else -1

    def is_past(self, stage: str) -> bool:
        """Return whether the interrupted training had reached a later stage."""
        return self._checkpoint is not None and bool(self.epochs) and self.epochs[-1]["stage"] != stage

    def run(self, stage: Stage) -> None:
        """Train; the model then has the weights of the best epoch, or those it came with if none was better."""
        model = stage.model
        model.optimizer.build(model.trainable_variables)
        first, weights = len([epoch for epoch in self.epochs if epoch["stage"] == stage.name]), model.get_weights()
        if first and self._checkpoint is not None:
            saved = self._checkpoint
            _restore([*model.variables, *model.optimizer.variables], [*saved.variables, *saved.optimizer])
            weights = list(saved.weights)
            logger.info("continuing after epoch %d of %d", first, stage.epochs)
        board = _tensorboard(self._tensorboard / stage.name, model) if self._tensorboard else None
        for number in range(first, stage.epochs):
            if min(number, len(self.epochs) - 1 - self.best) >= PATIENCE:
                break
            metrics = self._run_epoch(stage, number)
            # A later stage must better the one before; of equals the later is taken.
            if self.best < 0 or stage.score(self.epochs[-1]) >= stage.score(self.epochs[self.best]):
                self.best, weights = len(self.epochs) - 1, model.get_weights()
            text = ", ".join(f"{name} {value:.4f}" for name, value in metrics.items())
            logger.info("epoch %d of %d: %s", number + 1, stage.epochs, text)
            if board:
                board.on_epoch_end(number, metrics)
            variables, optimizer = _arrays(model.variables), _arrays(model.optimizer.variables)
            self._workspace.save(Checkpoint(tuple(self.epochs), self.best, variables, optimizer, weights))
        if board:
            board.on_train_end()
        model.set_weights(weights)

    def _run_epoch(self, stage: Stage, number: int) -> Metrics:
        started = time.monotonic()
        batches = stage.batches(number)
        before, total = number * len(batches), stage.epochs * len(batches)
        watch = _Watch(lambda done: self._progress("train", before + done, total))
        # The batches come shuffled, by a generator of their own: what is resumed must not depend on Keras' order.
        fit = stage.model.fit(
            batches, initial_epoch=number, epochs=number + 1, shuffle=False, verbose=0, callbacks=[watch]
        )
        metrics = {name: float(values[0]) for name, values in fit.history.items()} | stage.evaluate()
        _require_finite(metrics)
        seconds = round(time.monotonic() - started, 3)
        self.epochs.append({"stage": stage.name, "epoch": number + 1, "seconds": seconds, **metrics})
        return metrics


class _Watch(keras.callbacks.Callback):  # type: ignore[misc]  # Keras has no types
    def __init__(self, report_progress: Callable[[int], None]) -> None:
        super().__init__()
        self._report_progress = report_progress

    def on_train_batch_end(self, batch: int, logs: Metrics | None = None) -> None:
        _require_finite(logs or {})
        self._report_progress(batch + 1)


def adamw(peak: float, steps: int, kind: type = keras.optimizers.AdamW, **options: Any) -> Any:
    """Return AdamW whose rate rises to a peak, then falls along a cosine (Loshchilov and Hutter: SGDR, 2017)."""
    rising = max(1, int(_WARM_UP * steps))
    rate = keras.optimizers.schedules.CosineDecay(
        peak / 20, max(1, steps - rising), alpha=_LAST_RATE, warmup_target=peak, warmup_steps=rising
    )
    optimizer = kind(rate, **{"weight_decay": _WEIGHT_DECAY, **options})
    optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta", "centers"])
    return optimizer


def _require_finite(metrics: Mapping[str, float]) -> None:
    for name, value in metrics.items():
        if not math.isfinite(value):
            raise UsageError(
                f"the training diverged: {name} is {value}; no model was written",
                hint="try a smaller --learning-rate",
            )


def _arrays(variables: list[Any]) -> list[NDArray[Any]]:
    return [np.asarray(ops.convert_to_numpy(variable)) for variable in variables]


def _restore(variables: list[Any], arrays: list[Any]) -> None:
    if [tuple(variable.shape) for variable in variables] != [np.shape(array) for array in arrays]:
        raise UsageError("the checkpoint is of another network", hint="run it without --resume")
    for variable, array in zip(variables, arrays, strict=True):
        variable.assign(array)


def _tensorboard(folder: Path, model: keras.Model) -> Any:
    board = keras.callbacks.TensorBoard(str(folder), write_graph=False)
    board.set_model(model)
    board.on_train_begin()
    return board
