"""A single-shot detector on the maps of a frozen encoder: for each anchor score and box, and a mask.

Its pyramid goes down (Lin et al.: Feature Pyramid Networks, 2017) and up (Liu et al.: Path Aggregation Network, 2018):
without the way up, boxes of large items are loose. The mask is sub-pixel convolution (Shi et al., 2016).
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import layers, ops
from keras.initializers import HeNormal, RandomNormal

from imgsearch.errors import UsageError
from imgsearch.regions.anchors import ANCHORS_OF_A_CELL, STRIDES, anchor_boxes, cells

# Pixels of the square to a cell of the mask along a side: half the finest stride.
MASK_STRIDE = STRIDES[0] // 2

# So few that the heads cost a third of the default encoder, with which they share every pass.
_CHANNELS = 48
_MASK_CHANNELS = 32
_HEAD_DEPTH = 2
# Of anchors only one in a hundred stands for an item; a head that says so from the start learns steadily (Lin et al.:
# Focal Loss for Dense Object Detection, 2017, section 3.3).
_FIRST_SCORE = 0.01
# No box is more than e^4 times as large as its anchor.
_LARGEST_STEP = 4.0


@dataclass(frozen=True, slots=True)
class Networks:
    """One set of layers as two models of images."""

    training: (
        keras.Model
    )  # to `predictions` (N, anchors, 5), a logit and a box not clipped, and `mask`, logits (N, M, M)
    detector: keras.Model  # to embeddings (N, D), scores (N, anchors), boxes (N, anchors, 4) and mask (N, M, M)


def build_detector(encoder: keras.Model, seed: int) -> Networks:
    """Put heads on an encoder, uint8 (N, size, size, 3) to embeddings (N, D), which is frozen."""
    encoder.trainable = False
    size = encoder.input_shape[1]
    seeds = itertools.count(1000 * seed + 1)  # each layer has one of its own
    pyramid = _pyramid(_maps(encoder, size), size, seeds)
    raw = _predictions(pyramid, seeds)
    logits = raw[:, :, 0]
    boxes = _decoded(raw[:, :, 1:], anchor_boxes(size))
    predictions = layers.Concatenate(name="predictions")([ops.expand_dims(logits, -1), boxes])
    mask = _mask(pyramid[STRIDES[0]], cells(size, MASK_STRIDE), seeds)
    outputs = [
        encoder.outputs[0],
        layers.Activation("sigmoid", name="scores")(logits),
        ops.clip(boxes, 0.0, 1.0),
        layers.Activation("sigmoid", name="mask_shares")(mask),
    ]
    return Networks(
        keras.Model(encoder.inputs, {"predictions": predictions, "mask": mask}, name="training"),
        keras.Model(encoder.inputs, outputs, name="detector"),
    )


def _maps(encoder: keras.Model, size: int) -> dict[int, Any]:
    found: dict[int, Any] = {}
    for layer in encoder.layers:
        shape = tuple(getattr(layer.output, "shape", ()))  # a list of outputs has none
        for stride in STRIDES:
            if len(shape) == 4 and shape[1:3] == (cells(size, stride),) * 2:
                found[stride] = layer.output
    if STRIDES[0] not in found:
        raise UsageError(
            f"a detector needs an encoder with a map at stride {STRIDES[0]}, got {sorted(found) or 'none'}",
            hint="lite0-retrieval has one",
        )
    return found


def _convolved(tensor: Any, channels: int, kernel: int, seeds: Iterator[int], name: str, strides: int = 1) -> Any:
    first = HeNormal(next(seeds))
    tensor = layers.Conv2D(
        channels, kernel, strides, "same", use_bias=False, kernel_initializer=first, name=f"{name}_conv"
    )(tensor)
    return layers.ReLU(name=f"{name}_relu")(layers.BatchNormalization(momentum=0.95, name=f"{name}_norm")(tensor))


def _pyramid(maps: dict[int, Any], size: int, seeds: Iterator[int]) -> dict[int, Any]:
    """Give every map the context of the coarser ones, and then the detail of the finer ones."""
    levels: dict[int, Any] = {}
    for stride in STRIDES:
        name = f"lateral{stride}"
        if stride in maps:
            levels[stride] = _convolved(maps[stride], _CHANNELS, 1, seeds, name)
        else:  # the encoder ends before
            levels[stride] = _convolved(levels[stride // 2], _CHANNELS, 3, seeds, name, strides=2)
    coarser = levels[STRIDES[-1]] = _convolved(levels[STRIDES[-1]], _CHANNELS, 3, seeds, "context")
    for stride in reversed(STRIDES[:-1]):
        above = layers.UpSampling2D(interpolation="bilinear", name=f"above{stride}")(coarser)
        if above.shape[1:3] != levels[stride].shape[1:3]:  # an odd number of cells was halved
            above = above[:, : cells(size, stride), : cells(size, stride)]
        coarser = levels[stride] = layers.Add(name=f"joined{stride}")([levels[stride], above])
    finer = levels[STRIDES[0]] = _convolved(coarser, _CHANNELS, 3, seeds, "finest")
    for stride in STRIDES[1:]:
        below = _convolved(finer, _CHANNELS, 3, seeds, f"below{stride}", strides=2)
        finer = levels[stride] = layers.Add(name=f"level{stride}")([levels[stride], below])
    return levels


def _predictions(pyramid: dict[int, Any], seeds: Iterator[int]) -> Any:
    """Predict (N, anchors, 5) with a head that all levels share; it reaches as far as the sides of its anchors."""
    inner = [
        layers.Conv2D(
            _CHANNELS, 3, 1, "same", activation="relu", kernel_initializer=HeNormal(next(seeds)), name=f"head{depth}"
        )
        for depth in range(_HEAD_DEPTH)
    ]
    last = layers.Conv2D(
        5 * ANCHORS_OF_A_CELL,
        3,
        padding="same",
        kernel_initializer=RandomNormal(stddev=0.01, seed=next(seeds)),
        name="head_last",
    )
    outputs = []
    for stride in STRIDES:
        tensor = pyramid[stride]
        for layer in inner:
            tensor = layer(tensor)
        outputs.append(layers.Reshape((-1, 5), name=f"anchors{stride}")(last(tensor)))
    kernel, _ = last.get_weights()
    bias = np.tile([np.log(_FIRST_SCORE / (1 - _FIRST_SCORE)), 0, 0, 0, 0], ANCHORS_OF_A_CELL)
    last.set_weights([kernel, bias.astype(np.float32)])
    return layers.Concatenate(axis=1, name="raw")(outputs)


def _decoded(steps: Any, anchors: Any) -> Any:
    """Move and scale anchors, as SSD does but without its variances: (N, anchors, 4)."""
    sides = anchors[:, 2:] - anchors[:, :2]
    middles = (anchors[:, 2:] + anchors[:, :2]) / 2
    middle = steps[:, :, :2] * sides + middles
    half = ops.exp(ops.clip(steps[:, :, 2:], -_LARGEST_STEP, _LARGEST_STEP)) * (sides / 2)
    return layers.Concatenate(name="corners")([middle - half, middle + half])


def _mask(finest: Any, side: int, seeds: Iterator[int]) -> Any:
    tensor = _convolved(finest, _MASK_CHANNELS, 3, seeds, "mask_first")
    tensor = layers.Conv2D(4, 3, padding="same", kernel_initializer=HeNormal(next(seeds)), name="mask_last")(tensor)
    coarse = tensor.shape[1]
    tensor = layers.Reshape((coarse, coarse, 2, 2), name="mask_quarters")(tensor)
    tensor = layers.Permute((1, 3, 2, 4), name="mask_rows")(tensor)
    logits = layers.Reshape((2 * coarse, 2 * coarse), name="mask_square")(tensor)
    return logits[:, :side, :side]
