"""A detector's training: scenes made on the fly, losses, and what is measured on scenes that are held out."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

from imgsearch.images.boxes import Box
from imgsearch.processors import processor_count
from imgsearch.regions.anchors import ITEM, anchor_boxes, cells, match_anchors
from imgsearch.regions.detections import decode_detections
from imgsearch.synthetic.scenes import Example, Stock, make_example
from imgsearch.training.detector.metrics import average_precision, recall_of_boxes
from imgsearch.training.detector.network import MASK_STRIDE, Networks
from imgsearch.training.keras_backend import jit_compile
from imgsearch.training.loop import Loop, Metrics, Stage, adamw
from imgsearch.training.options import SCENES, Settings

# Scenes that are measured after each epoch, and in the end.
_MEASURED = 100
_MEASURED_LAST = 300

# Threads that make scenes at most: most of their time is spent in OpenCV and NumPy, but not all.
_MAX_THREADS = 8
# Not that of the training: scenes to learn from must be others.
_VALIDATION_SEED = 2016
# A box below this score is no news, but precision at full recall is measured down to it.
_MIN_SCORE = 0.02

# What the losses of boxes and of the mask are multiplied by.
_BOXES = 3.0
_MASK = 3.0


class SceneBatches(keras.utils.PyDataset):  # type: ignore[misc]  # Keras has no types
    """Batches of an epoch, each made when it is needed, on threads beside the training; the same for the same seed."""

    def __init__(self, stock: Stock, settings: Settings, epoch: int) -> None:
        threads = min(_MAX_THREADS, processor_count())
        super().__init__(workers=threads, max_queue_size=2 * threads)
        self._stock, self._settings, self._epoch = stock, settings, epoch
        self._anchors = anchor_boxes(settings.size)

    def __len__(self) -> int:
        return _steps(self._settings)

    def __getitem__(self, index: int) -> tuple[NDArray[np.uint8], dict[str, NDArray[np.float32]]]:
        settings = self._settings
        scenes = [
            _scene(self._stock, settings.size, [settings.seed, self._epoch, index, number])
            for number in range(settings.batch_size)
        ]
        return np.stack([scene.square for scene in scenes]), {
            "predictions": np.stack([_targets(self._anchors, scene) for scene in scenes]),
            "mask": np.stack([scene.mask for scene in scenes]),
        }


def fit(networks: Networks, settings: Settings, training: Stock, held_out: Stock, loop: Loop) -> Metrics:
    """Train the heads of a detector, which then has the weights of the best epoch; return what it reached."""
    model = networks.training
    model.compile(
        optimizer=adamw(settings.learning_rate, settings.epochs * _steps(settings), global_clipnorm=10.0),
        loss={"predictions": detection_loss, "mask": mask_loss},
        jit_compile=jit_compile(),
    )

    def evaluate() -> Metrics:
        metrics = measure(networks.detector, settings.size, held_out, _MEASURED)
        return {f"val_{name}": value for name, value in metrics.items()}

    def score(epoch: Mapping[str, Any]) -> tuple[float, ...]:
        return (epoch["val_average_precision"] + epoch["val_mask_overlap"],)

    batches = partial(SceneBatches, training, settings)
    loop.run(Stage("detector", model, settings.epochs, batches, evaluate, score))
    return measure(networks.detector, settings.size, held_out, _MEASURED_LAST)


def measure(detector: keras.Model, size: int, stock: Stock, count: int) -> Metrics:
    """Measure a detector on so many scenes, which are the same whatever it learned; see `report.DetectReport`."""
    images = []
    intersection = union = 0.0
    for start in range(0, count, 20):
        scenes = [_scene(stock, size, [_VALIDATION_SEED, number]) for number in range(start, min(count, start + 20))]
        outputs = detector.predict_on_batch(np.stack([scene.square for scene in scenes]))
        _, scores, boxes, mask = (np.asarray(ops.convert_to_numpy(output)) for output in outputs)
        truth = np.stack([scene.mask for scene in scenes]) > 0.5
        intersection += float(np.sum((mask > 0.5) & truth))
        union += float(np.sum((mask > 0.5) | truth))
        for row, scene in enumerate(scenes):
            detections = decode_detections(scores[row], boxes[row], size, size, least_score=_MIN_SCORE)
            images.append((detections, [_pixels(box, size) for box in scene.boxes]))
    return {
        "average_precision": average_precision(images),
        "recall": recall_of_boxes(images),
        "mask_overlap": intersection / max(1.0, union),
    }


def detection_loss(truth: Any, predictions: Any) -> Any:
    """Compare scores and boxes (N, anchors, 5) with the truth: 1 for an item, 0 background, -1 neither; and its box.

    Focal loss of scores that are to be overlaps (Li et al.: Generalized Focal Loss, 2020, equation 7), so that the best
    of several boxes on one item scores highest, and generalized IoU loss (Rezatofighi et al., 2019).
    """
    kind, logit = truth[:, :, 0], predictions[:, :, 0]
    is_item = ops.cast(kind > 0.5, "float32")
    counts = ops.cast(kind > -0.5, "float32")
    items = ops.maximum(1.0, ops.sum(is_item))
    overlap = generalized_overlap(truth[:, :, 1:], predictions[:, :, 1:])
    target = is_item * ops.clip(ops.stop_gradient(overlap), 0.0, 1.0)
    focal = ops.sum(counts * ops.square(ops.sigmoid(logit) - target) * _entropy(target, logit))
    return (focal + _BOXES * ops.sum(is_item * (1 - overlap))) / items


def generalized_overlap(boxes: Any, others: Any) -> Any:
    """Return the generalized IoU, -1 to 1, of boxes (..., 4) pair by pair: left, top, right, bottom."""
    start, end = ops.maximum(boxes[..., :2], others[..., :2]), ops.minimum(boxes[..., 2:], others[..., 2:])
    intersection = ops.prod(ops.maximum(end - start, 0.0), axis=-1)
    areas = [ops.prod(each[..., 2:] - each[..., :2], axis=-1) for each in (boxes, others)]
    union = areas[0] + areas[1] - intersection
    reach = ops.maximum(boxes[..., 2:], others[..., 2:]) - ops.minimum(boxes[..., :2], others[..., :2])
    hull = ops.prod(reach, axis=-1)
    return intersection / (union + 1e-7) - (hull - union) / (hull + 1e-7)


def mask_loss(truth: Any, logits: Any) -> Any:
    """Compare masks (N, M, M): cross-entropy of every cell, and Dice loss (Milletari et al., 2016) of the batch."""
    share = ops.sigmoid(logits)
    dice = 1 - (2 * ops.sum(share * truth) + 1) / (ops.sum(share) + ops.sum(truth) + 1)
    return _MASK * (ops.mean(_entropy(truth, logits)) + dice)


def _entropy(truth: Any, logits: Any) -> Any:
    """Return the cross-entropy of each, without overflow."""
    return ops.maximum(logits, 0) - logits * truth + ops.log1p(ops.exp(-ops.abs(logits)))


def _steps(settings: Settings) -> int:
    return max(1, SCENES // settings.batch_size)


def _scene(stock: Stock, size: int, seed: list[int]) -> Example:
    return make_example(stock, size, cells(size, MASK_STRIDE), np.random.default_rng(seed))


def _targets(anchors: NDArray[np.float32], scene: Example) -> NDArray[np.float32]:
    kinds, nearest = match_anchors(anchors, scene.boxes)
    boxes = scene.boxes[nearest] if len(scene.boxes) else np.zeros_like(anchors)
    return np.concatenate([kinds[:, None], np.where(kinds[:, None] == ITEM, boxes, 0)], axis=1, dtype=np.float32)


def _pixels(box: NDArray[np.float32], size: int) -> Box:
    left, top, right, bottom = (round(float(edge) * size) for edge in box)
    return Box(left, top, max(1, right - left), max(1, bottom - top))
