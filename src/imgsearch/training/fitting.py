"""The stages of a training, put together: which model learns from what, and what is measured."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

from imgsearch.encoders.choice import Choice
from imgsearch.encoders.runtime import Embeddings
from imgsearch.training import architectures
from imgsearch.training.batches import Batches, in_order
from imgsearch.training.dataset import Dataset
from imgsearch.training.loop import Loop, Metrics, Stage, cosine_rate
from imgsearch.training.losses import METRIC_LOSSES
from imgsearch.training.material import Material
from imgsearch.training.sampler import Rows, several_of_a_class, shuffled
from imgsearch.training.settings import Settings

logger = logging.getLogger(__name__)

_WEIGHT_DECAY = 1e-4
# The last blocks of a backbone know a lot already.
_TUNING_RATE = 0.1
_TUNING_EPOCHS = 0.25

# Images that those held out are compared with after each epoch, to see how many find one of their own class.
_GALLERY = 2000

_EVALUATION_BATCH = 256


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came out of a training.

    Attributes:
        model: To be saved.
        metrics: Of the model, on what is held out.
        predicted: int64, the class that it takes each held-out image for.
        device: What it was trained on.
    """

    model: keras.Model
    metrics: Metrics
    predicted: NDArray[np.int64]
    device: str


@dataclass(frozen=True, slots=True)
class _Inputs:
    """Arrays as Keras takes them, where an image may have several rows."""

    array: NDArray[Any]
    views: int
    labels: NDArray[np.int64]

    def first(self, images: Rows) -> Rows:
        """Return the rows of images as they are."""
        return images * self.views

    def some(self, images: Rows, generator: np.random.Generator) -> Rows:
        """Return a row of each image by chance."""
        return images * self.views + generator.integers(self.views, size=images.shape)


def fit(settings: Settings, choice: Choice | None, material: Material, loop: Loop) -> Outcome:
    """Train.

    Args:
        settings: What, and how.
        choice: The backbone; None for `cnn`.
        material: What it learns from.
        loop: Runs the stages.

    Returns:
        The outcome, with the weights of the best epoch.

    Raises:
        MissingComponentError: The backbone's weights are not available.
        OutputError: A checkpoint cannot be written.
        UsageError: The training diverged.
    """
    keras.utils.set_random_seed(settings.seed)
    device = device_name()
    policy = keras.config.dtype_policy()
    try:
        if device != "cpu":
            # Not float16, whose largest number is smaller than the cubes that are pooled.
            keras.config.set_dtype_policy("mixed_bfloat16")
        encoder, centers, inputs = _trained(settings, choice, material, loop, device)
    finally:
        keras.config.set_dtype_policy(policy)
    metrics, predicted = _held_out(encoder, centers, inputs, material.dataset, settings.seed)
    plain = _encoder(settings, choice)
    architectures.assign(plain, architectures.weights_of(encoder))
    is_classifier = settings.objective == "classify"
    scale = architectures.class_scale(len(material.dataset.classes))
    model = architectures.finished(plain, centers if is_classifier else None, scale)
    return Outcome(model, metrics, predicted, device)


def device_name() -> str:
    """Say where this backend of Keras computes: `cpu`, or its name for something faster."""
    name = str(ops.convert_to_tensor(np.zeros(1, np.float32)).device).lower()
    return "cpu" if "cpu" in name else name.rpartition("device:")[2]


def jit_for(device: str) -> bool | str:
    """Say what Keras is to be told of `jit_compile` on a device."""
    # On a processor what XLA compiles is several times slower than TensorFlow without it. JAX cannot be without.
    return False if device == "cpu" and keras.backend.backend() != "jax" else "auto"


def _trained(
    settings: Settings, choice: Choice | None, material: Material, loop: Loop, device: str
) -> tuple[keras.Model, NDArray[np.float32] | None, _Inputs]:
    """Run the stages; return the trained encoder, its centers if it has any, and what it takes."""
    labels = material.dataset.labels
    stage = partial(_stage, settings=settings, dataset=material.dataset, device=device)
    if choice is None:
        assert material.pixels is not None
        encoder, inputs = _encoder(settings, choice), _Inputs(material.pixels, 1, labels)
        network, inner = stage("network", encoder, inputs, epochs=settings.epochs, rate=settings.learning_rate)
        loop.run(network)
        return encoder, _centers(inner), inputs
    assert material.features is not None
    count, views, dims = material.features.shape
    inputs = _Inputs(material.features.reshape(count * views, dims), views, labels)
    encoder = architectures.build_head(dims, settings.dims)
    head, inner = stage("head", encoder, inputs, epochs=settings.epochs, rate=settings.learning_rate)
    if not loop.is_past(head.name):
        loop.run(head)
    if not settings.unfreeze:
        return encoder, _centers(inner), inputs
    assert material.pixels is not None
    whole, pixels = _encoder(settings, choice), _Inputs(material.pixels, 1, labels)
    architectures.unfreeze(whole, settings.unfreeze)
    blocks, outer = stage(
        "blocks",
        whole,
        pixels,
        epochs=max(1, round(_TUNING_EPOCHS * settings.epochs)),
        rate=_TUNING_RATE * settings.learning_rate,
    )
    for trained, tuned in ((encoder, whole), (inner, outer)):
        architectures.assign(tuned, architectures.weights_of(trained))
    loop.run(blocks)
    return whole, _centers(outer), pixels


def _encoder(settings: Settings, choice: Choice | None) -> keras.Model:
    if choice is None:
        return architectures.build_cnn(settings.size, settings.dims)
    return architectures.build_with_head(choice.spec, choice.files.get(choice.spec.weights), settings.dims)


def _stage(
    name: str,
    encoder: keras.Model,
    inputs: _Inputs,
    *,
    settings: Settings,
    dataset: Dataset,
    device: str,
    epochs: int,
    rate: float,
) -> tuple[Stage, keras.Model]:
    """Compile a stage; return it and the encoder with its centers, if the loss has any, and nothing around it."""
    classes, is_classifier = len(dataset.classes), settings.objective == "classify"
    inner = encoder
    if is_classifier:
        inner = architectures.with_centers(encoder, classes if classes > 2 else 1, architectures.class_scale(classes))
    elif settings.loss == "arcface":
        inner = architectures.with_centers(encoder, classes, 1.0)
    is_of_images = len(encoder.input_shape) == 4
    model = inner
    if settings.augment and is_of_images:
        model = architectures.augmented(inner, architectures.augmentation(settings.size))
    encoder.compile(jit_compile=jit_for(device))  # first, as it may be the model itself
    model.compile(**_compilation(settings, classes, rate, epochs * _batches_in(settings, dataset), device))
    targets = np.repeat(dataset.labels, inputs.views)
    if is_classifier and classes == 2:  # one sigmoid
        targets = targets[:, None].astype(np.float32)
    weights = np.repeat(_class_weights(dataset), inputs.views) if settings.class_weights else None

    def batches(epoch: int) -> Batches:
        generator = np.random.default_rng([settings.seed, epoch])
        rows = dataset.training_rows
        if is_classifier:
            chosen = shuffled(rows, settings.batch_size, generator)
        else:
            chosen = several_of_a_class(rows, dataset.labels[rows], settings.batch_size, generator)
        chosen = inputs.some(chosen, generator) if settings.augment else inputs.first(chosen)
        return Batches(inputs.array, chosen, targets, weights)

    def evaluate() -> Metrics:
        rows = inputs.first(dataset.validation_rows)
        if not len(rows):
            return {}
        if not is_classifier:
            return {"val_hit": _hit(encoder, inputs, dataset, settings.seed)}
        held_out = Batches(inputs.array, in_order(rows, _EVALUATION_BATCH), targets)
        found = model.evaluate(held_out, verbose=0, return_dict=True)
        return {f"val_{name}": float(value) for name, value in found.items()}

    return Stage(name, model, epochs, batches, evaluate, _score(dataset, is_classifier=is_classifier)), inner


def _score(dataset: Dataset, *, is_classifier: bool) -> Callable[[Mapping[str, Any]], tuple[float, ...]]:
    if not dataset.held_out.any():
        return lambda _: ()
    if is_classifier:
        return lambda epoch: (epoch["val_accuracy"], -epoch["val_loss"])
    return lambda epoch: (epoch["val_hit"], -epoch["loss"])


def _batches_in(settings: Settings, dataset: Dataset) -> int:
    return len(dataset.training_rows) // settings.batch_size


def _compilation(settings: Settings, classes: int, rate: float, steps: int, device: str) -> dict[str, Any]:
    optimizer = keras.optimizers.AdamW(cosine_rate(rate, steps), weight_decay=_WEIGHT_DECAY)
    optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta", "centers"])
    loss: Any = METRIC_LOSSES.get(settings.loss)
    metrics: list[Any] = []
    if loss is None and classes == 2:
        loss = keras.losses.BinaryCrossentropy(from_logits=True)
        metrics = [keras.metrics.BinaryAccuracy("accuracy", threshold=0.0)]
    elif loss is None:
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        metrics = [keras.metrics.SparseCategoricalAccuracy("accuracy")]
    return {"optimizer": optimizer, "loss": loss, "metrics": metrics, "jit_compile": jit_for(device)}


def _class_weights(dataset: Dataset) -> NDArray[np.float32]:
    """Weigh images so that all classes count the same, and an image 1 on average."""
    counts = np.bincount(dataset.labels[dataset.training_rows], minlength=len(dataset.classes))
    return np.asarray((counts.sum() / (len(counts) * counts))[dataset.labels], np.float32)


def _centers(model: keras.Model) -> NDArray[np.float32] | None:
    if "centers" not in [layer.name for layer in model.layers]:
        return None
    (kernel,) = model.get_layer("centers").get_weights()
    return np.asarray(kernel / np.linalg.norm(kernel, axis=0), np.float32)


def _embedded(encoder: keras.Model, inputs: _Inputs, images: Rows) -> Embeddings:
    rows = inputs.first(images)
    nothing = np.zeros(len(inputs.array), np.float32)  # Keras wants targets here too, and looks at none
    batches = Batches(inputs.array, in_order(rows, _EVALUATION_BATCH), nothing)
    return np.asarray(encoder.predict(batches, verbose=0), np.float32)


def _nearest(encoder: keras.Model, inputs: _Inputs, dataset: Dataset, seed: int) -> NDArray[np.int64]:
    """Find for each held-out image the class of the most similar one of those that it learns from, or of some."""
    rows = dataset.training_rows
    gallery = np.sort(np.random.default_rng(seed).permutation(rows)[:_GALLERY])
    queries = _embedded(encoder, inputs, dataset.validation_rows)
    known = _embedded(encoder, inputs, gallery)
    nearest = [np.argmax(queries[start : start + 1000] @ known.T, axis=1) for start in range(0, len(queries), 1000)]
    return np.asarray(dataset.labels[gallery[np.concatenate(nearest)]], np.int64)


def _hit(encoder: keras.Model, inputs: _Inputs, dataset: Dataset, seed: int) -> float:
    nearest = _nearest(encoder, inputs, dataset, seed)
    return float(np.mean(nearest == dataset.labels[dataset.validation_rows]))


def _held_out(
    encoder: keras.Model, centers: NDArray[np.float32] | None, inputs: _Inputs, dataset: Dataset, seed: int
) -> tuple[Metrics, NDArray[np.int64]]:
    """Measure the best encoder on what is held out, and say which class it takes each image for."""
    truth = dataset.labels[dataset.validation_rows]
    if not len(truth):
        return {}, truth
    nearest = _nearest(encoder, inputs, dataset, seed)
    metrics = {"val_hit": float(np.mean(nearest == truth))}
    if centers is None:
        return metrics, nearest
    cosines = _embedded(encoder, inputs, dataset.validation_rows) @ centers
    predicted = np.argmax(cosines, axis=1) if centers.shape[1] > 1 else (cosines[:, 0] > 0).astype(np.int64)
    return {"val_accuracy": float(np.mean(predicted == truth)), **metrics}, predicted
