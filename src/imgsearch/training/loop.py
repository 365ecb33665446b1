"""The epochs of a training: fit, evaluate, remember the best, keep a checkpoint, know when to stop."""

import logging
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

from imgsearch.errors import UsageError
from imgsearch.training.batches import Batches
from imgsearch.training.workplace import Checkpoint, Workplace

logger = logging.getLogger(__name__)

# Epochs without a better one after which a stage ends.
PATIENCE = 10
# Of a stage's steps, in which the learning rate rises to its full height.
_WARM_UP = 0.05
# What the learning rate falls to, of its full height.
_LAST_RATE = 0.01

Metrics = dict[str, float]


@dataclass(frozen=True, slots=True)
class Stage:
    """A part of a training that has its own model and learning rate.

    Attributes:
        name: Of the stage.
        model: Compiled.
        epochs: How many at most.
        batches: Makes the batches of an epoch, which is counted from 0.
        evaluate: Measures the model on what is held out; nothing where nothing is.
        score: Of what was measured in an epoch; more is better, and the same for all where nothing is held out.
    """

    name: str
    model: keras.Model
    epochs: int
    batches: Callable[[int], Batches]
    evaluate: Callable[[], Metrics]
    score: Callable[[Mapping[str, Any]], tuple[float, ...]]


class Loop:
    """Runs the stages of a training one after another.

    Args:
        workplace: Where checkpoints are kept.
        settings: What must be the same for a training to go on.
        begun: Where an interrupted training was.
        progress: Told ("train", done, total) in batches, of each stage.
        tensorboard: Folder for TensorBoard's files; None for none.

    Attributes:
        epochs: What was measured in each epoch so far, those of all stages.
        best: Which of them was the best.
    """

    def __init__(
        self,
        workplace: Workplace,
        settings: Mapping[str, Any],
        begun: Checkpoint | None,
        progress: Callable[[str, int, int], None],
        tensorboard: Path | None,
    ) -> None:
        self._workplace, self._settings, self._begun = workplace, settings, begun
        self._progress, self._tensorboard = progress, tensorboard
        self.epochs: list[Mapping[str, Any]] = list(begun.epochs) if begun else []
        self.best = begun.best if begun else -1

    def is_past(self, stage: str) -> bool:
        """Say whether the interrupted training had gone on from a stage to another."""
        return bool(self.epochs) and self._begun is not None and self.epochs[-1]["stage"] != stage

    def run(self, stage: Stage) -> None:
        """Train; the model then has the weights of the best epoch, or those it came with if none was better.

        Raises:
            UsageError: The loss is no longer a number, or the checkpoint is of another model.
            OutputError: A checkpoint cannot be written.
        """
        model = stage.model
        model.optimizer.build(model.trainable_variables)
        first, weights = len([epoch for epoch in self.epochs if epoch["stage"] == stage.name]), model.get_weights()
        if first and self._begun is not None:
            _restore([*model.variables, *model.optimizer.variables], [*self._begun.variables, *self._begun.optimizer])
            weights = list(self._begun.weights)
            logger.info("going on after epoch %d of %d", first, stage.epochs)
        board = _board(self._tensorboard and self._tensorboard / stage.name, model)
        for number in range(first, stage.epochs):
            if min(number, len(self.epochs) - 1 - self.best) >= PATIENCE:
                break
            started = time.monotonic()
            batches = stage.batches(number)
            watch = _Watch(partial(self._tell, number, stage.epochs, len(batches)))
            # The batches come shuffled, by a generator of their own: what is resumed must not depend on Keras' order.
            fit = model.fit(
                batches, initial_epoch=number, epochs=number + 1, shuffle=False, verbose=0, callbacks=[watch]
            )
            metrics = {name: float(values[0]) for name, values in fit.history.items()} | stage.evaluate()
            _require_numbers(metrics)
            seconds = round(time.monotonic() - started, 3)
            self.epochs.append({"stage": stage.name, "epoch": number + 1, "seconds": seconds, **metrics})
            # A later stage must better the one before; of equals the later is taken.
            if self.best < 0 or stage.score(self.epochs[-1]) >= stage.score(self.epochs[self.best]):
                self.best, weights = len(self.epochs) - 1, model.get_weights()
            logger.info(
                "epoch %d of %d: %s", number + 1, stage.epochs, ", ".join(f"{k} {v:.4f}" for k, v in metrics.items())
            )
            if board:
                board.on_epoch_end(number, metrics)
            checkpoint = Checkpoint(
                tuple(self.epochs), self.best, _arrays(model.variables), _arrays(model.optimizer.variables), weights
            )
            self._workplace.save(checkpoint, self._settings)
        if board:
            board.on_train_end()
        model.set_weights(weights)

    def _tell(self, epoch: int, epochs: int, batches: int, done: int) -> None:
        self._progress("train", epoch * batches + done, epochs * batches)


class _Watch(keras.callbacks.Callback):  # type: ignore[misc]  # Keras has no types
    def __init__(self, tell: Callable[[int], None]) -> None:
        super().__init__()
        self._tell = tell

    def on_train_batch_end(self, batch: int, logs: Metrics | None = None) -> None:
        _require_numbers(logs or {})
        self._tell(batch + 1)


def cosine_rate(peak: float, steps: int) -> Any:
    """Let the learning rate rise for a moment, then fall along a cosine (Loshchilov and Hutter: SGDR, 2017).

    Args:
        peak: Its full height.
        steps: Batches in all.
    """
    rising = max(1, int(_WARM_UP * steps))
    return keras.optimizers.schedules.CosineDecay(
        peak / 20, max(1, steps - rising), alpha=_LAST_RATE, warmup_target=peak, warmup_steps=rising
    )


def _require_numbers(metrics: Mapping[str, float]) -> None:
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


def _board(folder: Path | None, model: keras.Model) -> Any:
    if folder is None:
        return None
    board = keras.callbacks.TensorBoard(str(folder), write_graph=False)
    board.set_model(model)
    board.on_train_begin()
    return board
