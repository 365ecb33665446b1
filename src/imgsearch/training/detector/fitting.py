"""A detector's training: batches of scenes made on the way, and what is measured on scenes that are held out."""

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

from imgsearch.images.boxes import Box
from imgsearch.images.workers.pool import processors
from imgsearch.regions.anchors import ITEM, anchor_boxes, cells, matched
from imgsearch.regions.detections import average_precision, found, recall_of_boxes
from imgsearch.synthetic.scenes import Example, Stock, make_example
from imgsearch.training.detector.losses import detection_loss, mask_loss
from imgsearch.training.detector.network import MASK_STRIDE, Networks
from imgsearch.training.detector.plan import SCENES, Plan
from imgsearch.training.fitting import device_name, jit_for
from imgsearch.training.loop import Loop, Metrics, Stage, cosine_rate

# Scenes that are measured after each epoch, and in the end.
_MEASURED = 100
_MEASURED_LAST = 300

_WEIGHT_DECAY = 1e-4
# Threads that make scenes at most: most of their time is spent in OpenCV and NumPy, but not all.
_MOST_THREADS = 8
# Not that of the training: scenes to learn from must be others.
_VALIDATION_SEED = 2016
# A box below this score is no news, but precision at full recall is measured down to it.
_LEAST_SCORE = 0.02


class SceneBatches(keras.utils.PyDataset):  # type: ignore[misc]  # Keras has no types
    """Batches of scenes, each made when it is asked for, on threads beside the training; the same for the same seed.

    Args:
        stock: What scenes are made of.
        plan: Their size, and how many there are in a batch.
        epoch: Which scenes.
    """

    def __init__(self, stock: Stock, plan: Plan, epoch: int) -> None:
        threads = min(_MOST_THREADS, processors())
        super().__init__(workers=threads, max_queue_size=2 * threads)
        self._stock, self._plan, self._epoch = stock, plan, epoch
        self._anchors = anchor_boxes(plan.size)

    def __len__(self) -> int:
        return max(1, SCENES // self._plan.batch_size)

    def __getitem__(self, index: int) -> tuple[NDArray[np.uint8], dict[str, NDArray[np.float32]]]:
        plan = self._plan
        examples = [
            _example(self._stock, plan.size, [plan.seed, self._epoch, index, number])
            for number in range(plan.batch_size)
        ]
        return np.stack([each.square for each in examples]), {
            "predictions": np.stack([_targets(self._anchors, each) for each in examples]),
            "mask": np.stack([each.mask for each in examples]),
        }


def _example(stock: Stock, size: int, seed: list[int]) -> Example:
    return make_example(stock, size, cells(size, MASK_STRIDE), np.random.default_rng(seed))


def _targets(anchors: NDArray[np.float32], scene: Example) -> NDArray[np.float32]:
    kinds, nearest = matched(anchors, scene.boxes)
    boxes = scene.boxes[nearest] if len(scene.boxes) else np.zeros_like(anchors)
    return np.concatenate([kinds[:, None], np.where(kinds[:, None] == ITEM, boxes, 0)], axis=1, dtype=np.float32)


def fit(networks: Networks, plan: Plan, kept: Stock, held_out: Stock, loop: Loop) -> Metrics:
    """Train the heads of a detector.

    Args:
        networks: What `build_detector` returned; its weights are those of the best epoch in the end.
        plan: How.
        kept: What it learns from.
        held_out: What it is measured on.
        loop: Runs the epochs.

    Returns:
        What `measured` says of 300 scenes.

    Raises:
        UsageError: The training diverged.
        OutputError: A checkpoint cannot be written.
    """
    model = networks.training
    steps = plan.epochs * max(1, SCENES // plan.batch_size)
    optimizer = keras.optimizers.AdamW(
        cosine_rate(plan.learning_rate, steps), weight_decay=_WEIGHT_DECAY, global_clipnorm=10.0
    )
    optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    model.compile(
        optimizer=optimizer,
        loss={"predictions": detection_loss, "mask": mask_loss},
        jit_compile=jit_for(device_name()),
    )

    def evaluate() -> Metrics:
        found_out = measured(networks.detector, plan.size, held_out, _MEASURED)
        return {f"val_{name}": value for name, value in found_out.items()}

    def score(epoch: Mapping[str, Any]) -> tuple[float, ...]:
        return (epoch["val_average_precision"] + epoch["val_mask_overlap"],)

    loop.run(Stage("detector", model, plan.epochs, lambda epoch: SceneBatches(kept, plan, epoch), evaluate, score))
    return measured(networks.detector, plan.size, held_out, _MEASURED_LAST)


def measured(detector: keras.Model, size: int, stock: Stock, count: int) -> Metrics:
    """Measure a detector on scenes that are the same whatever it learned.

    Args:
        detector: The network.
        size: Side of the square that it sees.
        stock: What the scenes are made of.
        count: How many scenes.

    Returns:
        `average_precision` at an IoU of 0.5, `recall` of items in the five surest boxes, and `mask_overlap`: the IoU
        of all items of all scenes with the mask at one half.
    """
    images = []
    shared = joined = 0.0
    for start in range(0, count, 20):
        scenes = [_example(stock, size, [_VALIDATION_SEED, number]) for number in range(start, min(count, start + 20))]
        outputs = detector.predict_on_batch(np.stack([scene.square for scene in scenes]))
        _, scores, boxes, mask = (np.asarray(ops.convert_to_numpy(output)) for output in outputs)
        truth = np.stack([scene.mask for scene in scenes]) > 0.5
        shared += float(np.sum((mask > 0.5) & truth))
        joined += float(np.sum((mask > 0.5) | truth))
        for row, scene in enumerate(scenes):
            detections = found(scores[row], boxes[row], size, size, least_score=_LEAST_SCORE)
            images.append((detections, [_pixels(box, size) for box in scene.boxes]))
    return {
        "average_precision": average_precision(images),
        "recall": recall_of_boxes(images),
        "mask_overlap": shared / max(1.0, joined),
    }


def _pixels(box: NDArray[np.float32], size: int) -> Box:
    left, top, right, bottom = (round(float(edge) * size) for edge in box)
    return Box(left, top, max(1, right - left), max(1, bottom - top))
