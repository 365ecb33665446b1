"""The stages of a training with labels: which model learns from what, and what is measured."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from imgsearch.encoders.choice import Choice
from imgsearch.encoders.keras_encoder import device_name
from imgsearch.encoders.runtime import Embeddings
from imgsearch.training import networks
from imgsearch.training.batches import Batches, Rows, balanced, in_order, shuffled
from imgsearch.training.data import TrainingData
from imgsearch.training.keras_backend import has_fast_bfloat16, jit_compile
from imgsearch.training.loop import Loop, Metrics, Stage, adamw
from imgsearch.training.losses import METRIC_LOSSES
from imgsearch.training.options import LabeledSettings

# Of a network that is trained from the beginning.
_WEIGHT_DECAY = 0.1

# The last blocks of a backbone know a lot already.
_TUNING_RATE = 0.1
_TUNING_EPOCHS = 0.25

# Images that those held out are compared with after each epoch, to see how many find one of their own class.
_GALLERY = 2000

_EVALUATION_BATCH = 256


@dataclass(frozen=True, slots=True)
class Outcome:
    """The model to save, what it reached on what is held out, and the class it predicts for each held-out image."""

    model: keras.Model
    metrics: Metrics
    predicted: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Inputs:
    """An array as Keras takes it, with `views` rows for each image: pixels, or features."""

    array: NDArray[Any]
    views: int

    def first(self, images: Rows) -> Rows:
        """Return the rows of images as they are."""
        return images * self.views

    def random(self, images: Rows, generator: np.random.Generator) -> Rows:
        """Return a random row of each image."""
        return images * self.views + generator.integers(self.views, size=images.shape)


def fit(settings: LabeledSettings, choice: Choice | None, data: TrainingData, loop: Loop) -> Outcome:
    """Train; the outcome has the weights of the best epoch."""
    keras.utils.set_random_seed(settings.seed)
    policy = keras.config.dtype_policy()
    trainer = Trainer(settings, data)
    try:
        if uses_mixed_precision(choice):
            # Not float16, whose largest number is smaller than the cubes that are pooled.
            keras.config.set_dtype_policy("mixed_bfloat16")
        encoder, centers, inputs = _run_stages(trainer, choice, loop)
    finally:
        keras.config.set_dtype_policy(policy)
    metrics, predicted = trainer.measure(encoder, centers, inputs)
    plain = _build_encoder(settings, choice)  # in float32
    networks.copy_weights(encoder, plain)
    is_classifier = settings.objective == "classify"
    scale = networks.class_scale(len(data.dataset.classes))
    return Outcome(networks.finish(plain, centers if is_classifier else None, scale), metrics, predicted)


def uses_mixed_precision(choice: Choice | None) -> bool:
    """Return whether layers compute in bfloat16: those of `cnn` (no choice), where that is faster.

    Not those of a backbone: a head subtracts what its features have in common, and bfloat16 leaves little of the rest.
    """
    return choice is None and (device_name() != "cpu" or has_fast_bfloat16())


def _run_stages(
    trainer: "Trainer", choice: Choice | None, loop: Loop
) -> tuple[keras.Model, NDArray[np.float32] | None, Inputs]:
    """Return the trained encoder, its centers if it has any, and what it takes."""
    settings, data = trainer.settings, trainer.data
    pixels = None if data.pixels is None else Inputs(data.pixels, 1)
    if data.features is None:
        assert pixels is not None
        encoder = _build_encoder(settings, choice)
        epochs, rate = settings.epochs, settings.learning_rate
        network, inner = trainer.stage("network", encoder, pixels, epochs, rate, weight_decay=_WEIGHT_DECAY)
        loop.run(network)
        return encoder, _centers(inner), pixels
    count, views, dims = data.features.shape
    features = Inputs(data.features.reshape(count * views, dims), views)
    encoder = networks.build_head(dims, settings.dims)
    head, inner = trainer.stage("head", encoder, features, settings.epochs, settings.learning_rate)
    if not loop.is_past(head.name):
        loop.run(head)
    if pixels is None:
        return encoder, _centers(inner), features
    whole = _build_encoder(settings, choice)
    networks.unfreeze(whole, settings.unfreeze)
    epochs, rate = max(1, round(_TUNING_EPOCHS * settings.epochs)), _TUNING_RATE * settings.learning_rate
    blocks, outer = trainer.stage("blocks", whole, pixels, epochs, rate)
    for trained, tuned in ((encoder, whole), (inner, outer)):
        networks.copy_weights(trained, tuned)
    loop.run(blocks)
    return whole, _centers(outer), pixels


def _build_encoder(settings: LabeledSettings, choice: Choice | None) -> keras.Model:
    if choice is None:
        return networks.build_cnn(settings.size, settings.dims)
    return networks.build_with_head(choice.spec, choice.files.get(choice.spec.weights), settings.dims)


class Trainer:
    """Makes the stages of a training, and measures encoders on what is held out."""

    def __init__(self, settings: LabeledSettings, data: TrainingData) -> None:
        self.settings, self.data = settings, data
        self._dataset = data.dataset
        self._is_classifier = settings.objective == "classify"

    def stage(
        self, name: str, encoder: keras.Model, inputs: Inputs, epochs: int, rate: float, **options: Any
    ) -> tuple[Stage, keras.Model]:
        """Compile a stage, with the optimizer's options; return it and, not augmented, encoder and centers if any."""
        settings, dataset = self.settings, self._dataset
        classes = len(dataset.classes)
        inner = encoder
        if self._is_classifier:  # two classes share a center
            inner = networks.with_centers(encoder, classes if classes > 2 else 1, networks.class_scale(classes))
        elif settings.loss == "arcface":
            inner = networks.with_centers(encoder, classes, 1.0)
        model = inner
        if settings.augment and len(encoder.input_shape) == 4:
            model = networks.augmented(inner, networks.augmentation(settings.size))
        steps = epochs * (len(dataset.training_rows) // settings.batch_size)
        encoder.compile(jit_compile=jit_compile())  # first, as it may be the model itself
        loss, metrics = self._loss()
        model.compile(adamw(rate, steps, **options), loss, metrics=metrics, jit_compile=jit_compile())
        targets = np.repeat(dataset.labels, inputs.views)
        if self._is_classifier and classes == 2:  # one sigmoid
            targets = targets[:, None].astype(np.float32)
        weights = np.repeat(self.class_weights(), inputs.views) if settings.class_weights else None

        def batches(epoch: int) -> Batches:
            generator = np.random.default_rng([settings.seed, epoch])
            rows = dataset.training_rows
            if self._is_classifier:
                images = shuffled(rows, settings.batch_size, generator)
            else:
                images = balanced(rows, dataset.labels[rows], settings.batch_size, generator)
            chosen = inputs.random(images, generator) if settings.augment else inputs.first(images)
            return Batches(inputs.array, chosen, targets, weights)

        def evaluate() -> Metrics:
            rows = inputs.first(dataset.validation_rows)
            if not len(rows):
                return {}
            if not self._is_classifier:
                nearest = self._nearest(encoder, inputs)
                return {"val_hit": self._share_right(nearest)}
            held_out = Batches(inputs.array, in_order(rows, _EVALUATION_BATCH), targets)
            found = model.evaluate(held_out, verbose=0, return_dict=True)
            return {f"val_{name}": float(value) for name, value in found.items()}

        return Stage(name, model, epochs, batches, evaluate, self._score), inner

    def class_weights(self) -> NDArray[np.float32]:
        """Weight images so that all classes count the same, and an image 1 on average."""
        dataset = self._dataset
        counts = np.bincount(dataset.labels[dataset.training_rows], minlength=len(dataset.classes))
        return np.asarray((counts.sum() / (len(counts) * counts))[dataset.labels], np.float32)

    def measure(
        self, encoder: keras.Model, centers: NDArray[np.float32] | None, inputs: Inputs
    ) -> tuple[Metrics, NDArray[np.int64]]:
        """Measure an encoder on what is held out; return the class that it predicts for each image too."""
        rows = self._dataset.validation_rows
        if not len(rows):
            return {}, rows
        nearest = self._nearest(encoder, inputs)
        metrics = {"val_hit": self._share_right(nearest)}
        if centers is None:
            return metrics, nearest
        cosines = _embed(encoder, inputs, rows) @ centers
        predicted = np.argmax(cosines, axis=1) if centers.shape[1] > 1 else (cosines[:, 0] > 0).astype(np.int64)
        return {"val_accuracy": self._share_right(predicted), **metrics}, predicted

    def _loss(self) -> tuple[Any, list[Any]]:
        if not self._is_classifier:
            return METRIC_LOSSES[self.settings.loss], []
        if len(self._dataset.classes) == 2:
            accuracy = keras.metrics.BinaryAccuracy("accuracy", threshold=0.0)
            return keras.losses.BinaryCrossentropy(from_logits=True), [accuracy]
        accuracy = keras.metrics.SparseCategoricalAccuracy("accuracy")
        return keras.losses.SparseCategoricalCrossentropy(from_logits=True), [accuracy]

    def _score(self, epoch: Mapping[str, Any]) -> tuple[float, ...]:
        if not self._dataset.held_out.any():
            return ()
        if self._is_classifier:
            return epoch["val_accuracy"], -epoch["val_loss"]
        return epoch["val_hit"], -epoch["loss"]

    def _nearest(self, encoder: keras.Model, inputs: Inputs) -> NDArray[np.int64]:
        """Return for each held-out image the class of the most similar of (a sample of) the training images."""
        dataset = self._dataset
        sample = np.random.default_rng(self.settings.seed).permutation(dataset.training_rows)[:_GALLERY]
        gallery = np.sort(sample)
        queries, known = (_embed(encoder, inputs, rows) for rows in (dataset.validation_rows, gallery))
        nearest = [np.argmax(queries[start : start + 1000] @ known.T, axis=1) for start in range(0, len(queries), 1000)]
        return np.asarray(dataset.labels[gallery[np.concatenate(nearest)]], np.int64)

    def _share_right(self, predicted: NDArray[np.int64]) -> float:
        return float(np.mean(predicted == self._dataset.labels[self._dataset.validation_rows]))


def _centers(model: keras.Model) -> NDArray[np.float32] | None:
    if "centers" not in [layer.name for layer in model.layers]:
        return None
    (kernel,) = model.get_layer("centers").get_weights()
    return np.asarray(kernel / np.linalg.norm(kernel, axis=0), np.float32)


def _embed(encoder: keras.Model, inputs: Inputs, images: Rows) -> Embeddings:
    targets = np.zeros(len(inputs.array), np.float32)  # Keras wants targets here too, and ignores them
    batches = Batches(inputs.array, in_order(inputs.first(images), _EVALUATION_BATCH), targets)
    return np.asarray(encoder.predict(batches, verbose=0), np.float32)
