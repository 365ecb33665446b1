"""The networks that are trained: an encoder and, sharing its layers, augmentation before it and classes after it."""

import math
import re
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import layers

from imgsearch.encoders.networks import build_network
from imgsearch.encoders.projection import Projection
from imgsearch.encoders.spec import EncoderSpec

# Of the running means of batch normalization: with Keras' 0.99 those of a small dataset would lag behind.
_MOMENTUM = 0.9
# By how much of its side an image is shifted at most.
SHIFT = 0.05

# How the layers of a block are called, in our network and in those of keras.applications.
_BLOCK = re.compile(r"_blocks\.\d+|block\d+[a-z]?(?=_)|conv\d_block\d+|expanded_conv(_\d+)?(?=_)|stage_\d+_block_\d+")


def build_cnn(size: int, dims: int) -> keras.Model:
    """Build a small residual network to be trained from scratch, of images (N, size, size, 3), size at least 8."""
    images = keras.Input((size, size, 3), dtype="uint8", name="images")
    tensor = layers.Rescaling(1 / 127.5, -1.0, name="scaled")(images)
    for number, channels in enumerate((32, 96, 192), 1):
        # Pooled first, there is a quarter left to normalize; the largest is the same before and after ReLU.
        tensor = _convolution(tensor, channels, f"{number}a", pooled=True)
        if number > 1:  # the first sees only edges, on the largest map
            change = _convolution(_convolution(tensor, channels, f"{number}b"), channels, f"{number}c")
            tensor = layers.Add(name=f"sum_{number}")([tensor, change])
    tensor = layers.Dropout(0.2, name="dropout")(layers.GlobalAveragePooling2D(name="average")(tensor))
    return keras.Model(images, _unit(layers.Dense(dims, name="dense")(tensor), "embeddings"), name="cnn")


def build_head(features: int, dims: int) -> keras.Model:
    """Build what is put on a backbone, for features (N, features) of unit length that are already computed."""
    inputs = keras.Input((features,), name="features")
    return keras.Model(inputs, _head(inputs, dims), name="head")


def build_with_head(spec: EncoderSpec, weights: Path | None, dims: int) -> keras.Model:
    """Build a backbone with its weights, and a head without."""
    backbone = build_network(spec, weights)
    features = _unit(backbone.get_layer("embeddings").input, "features")
    return keras.Model(backbone.inputs, _head(features, dims), name="with_head")


def unfreeze(encoder: keras.Model, blocks: int) -> None:
    """Let the last blocks of a backbone be trained, and the head if there is one, and nothing else."""
    names = [layer.name for layer in encoder.layers]
    backbone = names[: names.index("features")] if "features" in names else names
    of_layer = [match.group() if (match := _BLOCK.search(name)) else "" for name in backbone]
    found = list(dict.fromkeys(name for name in of_layer if name))
    first = of_layer.index(found[-blocks])
    for number, layer in enumerate(encoder.layers[: len(backbone)]):
        # Small batches of a shop's images would spoil the means that were learned from a million.
        layer.trainable = number >= first and not isinstance(layer, layers.BatchNormalization)


def split(network: keras.Model) -> tuple[keras.Model, keras.Model]:
    """Split a network where training begins: images to maps in a row (N, numbers), and these to its first output."""
    later: set[int] = set()  # the tensors that training changes
    maps: dict[int, Any] = {}  # those that they are made of
    for operation in network.operations:  # each comes after those it depends on
        if isinstance(operation, layers.InputLayer):
            continue
        inputs = keras.tree.flatten(operation.input)
        if later.isdisjoint(map(id, inputs)) and not getattr(operation, "trainable_weights", ()):
            continue
        maps |= {id(tensor): tensor for tensor in inputs if id(tensor) not in later}
        later.update(map(id, keras.tree.flatten(operation.output)))
    shapes = [tensor.shape[1:] for tensor in maps.values()]
    ends = np.cumsum([math.prod(shape) for shape in shapes]).tolist()
    flat = [layers.Flatten()(tensor) for tensor in maps.values()]
    frozen = keras.Model(network.inputs, layers.Concatenate()(flat) if len(flat) > 1 else flat[0], name="frozen")
    row = keras.Input((ends[-1],), name="maps")
    parts = [
        layers.Reshape(shape)(row[:, end - math.prod(shape) : end]) for shape, end in zip(shapes, ends, strict=True)
    ]
    last = keras.Model(list(maps.values()), network.outputs[0], name="last")
    return frozen, keras.Model(row, last(parts if len(parts) > 1 else parts[0]), name="tuned")


def with_adaptation(network: keras.Model, adapted: Projection) -> keras.Model:
    """Put an adaptation, which is not trained, behind the first output of a network."""
    dims = len(adapted.components)
    projection = layers.Dense(dims, trainable=False, name="adaptation")
    embeddings = layers.UnitNormalization(name="adapted_embeddings")(projection(network.outputs[0]))
    projection.set_weights([adapted.components.T, -(adapted.components @ adapted.mean)])
    return keras.Model(network.inputs, [embeddings], name="encoder")


def augmentation(size: int) -> keras.Model:
    """Return layers that flip and shift images while a network is trained, and nothing else."""
    # By whole pixels: half ones would blur, which is much to a small image.
    options = {"fill_mode": "nearest", "interpolation": "nearest", "dtype": "float32"}
    return keras.Sequential(
        [
            keras.Input((size, size, 3), dtype="uint8"),
            layers.RandomFlip("horizontal", dtype="float32"),
            layers.RandomTranslation(SHIFT, SHIFT, **options),
        ],
        name="augmentation",
    )


def class_scale(classes: int) -> float:
    """Return what cosines with the centers of so many classes are multiplied by before the softmax."""
    # The more classes, the larger, for one of them to be sure (Wang et al.: CosFace, 2018, equation 6).
    return 5.0 + math.log(max(classes, 10) / 10)


def with_centers(encoder: keras.Model, count: int, scale: float) -> keras.Model:
    """Put scaled cosines with `count` trained centers after an encoder (Zhai and Wu: normalized softmax, 2018)."""
    centers = layers.Dense(
        count,
        use_bias=False,
        kernel_constraint=keras.constraints.UnitNorm(axis=0),
        dtype="float32",
        name="centers",
    )
    logits = layers.Rescaling(scale, dtype="float32", name="scale")(centers(encoder.output))
    return keras.Model(encoder.inputs, logits, name="with_centers")


def augmented(model: keras.Model, change: keras.Model) -> keras.Model:
    """Put augmentation before a model that takes images."""
    images = keras.Input(model.input_shape[1:], dtype="uint8", name="images")
    return keras.Model(images, model(change(images)), name="augmented")


def finish(encoder: keras.Model, centers: np.ndarray | None, scale: float) -> keras.Model:
    """Return the model to save: images to embeddings and, with centers (dims, classes), probabilities; plain layers."""
    if centers is None:
        return keras.Model(encoder.inputs, [encoder.output], name="encoder")
    kernel = scale * centers
    if kernel.shape[1] == 1:
        kernel = np.hstack([np.zeros_like(kernel), kernel])  # softmax of 0 and z is the sigmoid of -z and z
    classes = layers.Dense(kernel.shape[1], activation="softmax", use_bias=False, name="probabilities")
    model = keras.Model(encoder.inputs, [encoder.output, classes(encoder.output)], name="encoder")
    classes.set_weights([kernel])
    return model


def copy_weights(source: keras.Model, target: keras.Model) -> None:
    """Give the layers of a model the weights of those of the same name in another; the others keep theirs."""
    weights = {layer.name: layer.get_weights() for layer in source.layers if layer.weights}
    for layer in target.layers:
        if layer.name in weights:
            layer.set_weights(weights[layer.name])


def _head(features: Any, dims: int) -> Any:
    # Features of a network are positive and much alike; centered, their differences show.
    tensor = layers.BatchNormalization(momentum=_MOMENTUM, name="head_normalization")(features)
    return _unit(layers.Dense(dims, name="head_dense")(tensor), "embeddings")


def _convolution(tensor: Any, channels: int, name: str, *, pooled: bool = False) -> Any:
    tensor = layers.Conv2D(channels, 3, padding="same", use_bias=False, name=f"convolution_{name}")(tensor)
    if pooled:
        tensor = layers.MaxPooling2D(name=f"pooling_{name}")(tensor)
    tensor = layers.BatchNormalization(momentum=_MOMENTUM, name=f"normalization_{name}")(tensor)
    return layers.ReLU(name=f"relu_{name}")(tensor)


def _unit(tensor: Any, name: str) -> Any:
    # A sum of squares does not fit into the half precision that the layers before may compute in.
    return layers.UnitNormalization(dtype="float32", name=name)(tensor)
