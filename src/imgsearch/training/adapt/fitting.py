"""Tune the last blocks of a backbone without labels, and mix them with what they were before."""

from dataclasses import dataclass, replace
from typing import Any

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

from imgsearch.encoders.adaptation import HELD_OUT, VARIANTS, learn_adaptation, measure_gain
from imgsearch.encoders.projection import SMALLEST_CATALOG, AdaptationGain, Projection, learn_projection
from imgsearch.encoders.runtime import Embeddings
from imgsearch.training import networks
from imgsearch.training.adapt.data import LEARNED, VIEWS, number_of_batches, pairs
from imgsearch.training.batches import Batches, in_order
from imgsearch.training.keras_backend import jit_compile
from imgsearch.training.loop import Loop, Stage, adamw
from imgsearch.training.losses import nt_xent
from imgsearch.training.options import AdaptSettings

# Shares of the tuned weights in those that are mixed; what is held out decides among them, and on none at all.
MIXES = (0.25, 0.5, 0.75, 1.0)

# Share of all steps that the moving average of the weights reaches back.
_AVERAGED = 0.1
_EVALUATION_BATCH = 256

# The views that an adaptation is learned from, as in a build (the image and its variants), and those held out.
_EMBEDDED = np.r_[0, LEARNED - VARIANTS : VIEWS]


@dataclass(frozen=True, slots=True)
class Outcome:
    """The projection to put behind a network, whose weights are mixed; how much of the tuned ones; what is gained."""

    projection: Projection
    mix: float
    gain: AdaptationGain


class AveragingAdamW(keras.optimizers.AdamW):  # type: ignore[misc]  # Keras has no types
    """AdamW with a moving average of the weights, which they are given when all epochs are over, not after each."""

    def finalize_variable_values(self, var_list: list[Any]) -> None:
        """Leave the weights as they are: Keras calls this after each of our epochs, and the next goes on from them."""

    def average(self, variables: list[Any]) -> None:
        """Give the weights their average."""
        super().finalize_variable_values(variables)


@dataclass(frozen=True, slots=True)
class _Adapted:
    """The closed-form adaptation of a network, and what it gains."""

    projection: Projection
    gain: AdaptationGain

    @property
    def found(self) -> float:
        """The share of held-out variants that find their own image, summed over both kinds."""
        return self.gain.after + (self.gain.drawings_after or 0)


def fit(settings: AdaptSettings, tuned: keras.Model, maps: NDArray[np.float16], loop: Loop) -> Outcome:
    """Tune the last part of a network, which takes maps (images, `VIEWS`, numbers); its weights are then the mixed.

    Wortsman et al.: Robust fine-tuning of zero-shot models (2022): a mean of weights from before and after fine-tuning
    keeps more of what is not in the images that were learned from, and costs nothing when it is used.
    """
    keras.utils.set_random_seed(settings.seed)
    count, _, numbers = maps.shape
    inputs = maps.reshape(count * VIEWS, numbers)
    variables = tuned.trainable_variables
    old = _arrays(variables)
    before = _adapted(tuned, inputs)
    _tune(settings, tuned, before.projection, inputs, loop)
    new = _arrays(variables)
    mix, best = 0.0, before
    for share in MIXES:
        _assign(variables, old, new, share)
        candidate = _adapted(tuned, inputs)
        over_before = replace(
            candidate.gain, before=before.gain.after, drawings_before=before.gain.drawings_after
        )  # what the adaptation alone gains
        if over_before.helps and candidate.found > best.found:
            mix, best = share, candidate
    _assign(variables, old, new, mix)
    gain = replace(best.gain, before=before.gain.before, drawings_before=before.gain.drawings_before)
    return Outcome(best.projection, mix, gain)


def _arrays(variables: list[Any]) -> list[NDArray[np.float32]]:
    return [np.array(ops.convert_to_numpy(variable)) for variable in variables]


def _assign(variables: list[Any], old: list[NDArray[np.float32]], new: list[NDArray[np.float32]], mix: float) -> None:
    for variable, first, last in zip(variables, old, new, strict=True):
        variable.assign((1 - mix) * first + mix * last)


def _adapted(tuned: keras.Model, inputs: NDArray[np.float16]) -> _Adapted:
    embedded = _embed(tuned, inputs)
    originals = embedded[:, 0]
    projection = learn_adaptation(originals, embedded[:, :-HELD_OUT])
    plain = learn_projection(originals) if len(originals) >= SMALLEST_CATALOG else None
    return _Adapted(projection, measure_gain(plain, projection, originals, embedded[:, -HELD_OUT:]))


def _embed(tuned: keras.Model, inputs: NDArray[np.float16]) -> Embeddings:
    """Embed what an adaptation is learned from, and what is held out: (images, views, D)."""
    images = np.arange(len(inputs) // VIEWS)
    rows = (images[:, None] * VIEWS + _EMBEDDED).reshape(-1)
    batches = Batches(inputs, in_order(rows, _EVALUATION_BATCH), np.zeros(len(inputs), np.float32))
    embedded = np.asarray(tuned.predict(batches, verbose=0), np.float32)
    return embedded.reshape(len(images), len(_EMBEDDED), -1)


def _tune(
    settings: AdaptSettings, tuned: keras.Model, adapted: Projection, inputs: NDArray[np.float16], loop: Loop
) -> None:
    """Bring views of an image together, and apart from those of others, by what the adaptation leaves of them."""
    count = len(inputs) // VIEWS
    model = networks.with_adaptation(tuned, adapted)
    steps = settings.epochs * number_of_batches(count, settings.batch_size)
    optimizer = adamw(
        settings.learning_rate,
        steps,
        AveragingAdamW,
        use_ema=True,
        ema_momentum=max(0.0, 1 - 1 / max(1.0, _AVERAGED * steps)),
    )
    model.compile(optimizer, nt_xent, jit_compile=jit_compile())
    owners = np.repeat(np.arange(count), VIEWS)

    def batches(epoch: int) -> Batches:
        generator = np.random.default_rng([settings.seed, epoch])
        return Batches(inputs, pairs(count, settings.batch_size, generator), owners)

    # The last epoch is taken. What is held out decides but once, on how much of it is mixed in.
    loop.run(Stage("blocks", model, settings.epochs, batches, evaluate=dict, score=lambda _: ()))
    optimizer.average(model.trainable_variables)
