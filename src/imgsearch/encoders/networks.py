"""The Keras graphs: uint8 RGB (N, size, size, 3) in, unit float32 (N, dims) out, preprocessing included."""

from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from imgsearch.encoders import lite0
from imgsearch.encoders.layers import GeneralizedMean
from imgsearch.encoders.model_file import load_model
from imgsearch.encoders.spec import EncoderSpec
from imgsearch.encoders.table import GEM_EXPONENT, TABLE, Application
from imgsearch.encoders.weights import Arrays, downloaded, lite0_arrays, require_download, retrieval_head
from imgsearch.errors import MissingComponentError
from imgsearch.system import refusal_of

_OPTION_OF_WEIGHTS = {"network": "--weights", "detector": "--detector"}


def build_network(spec: EncoderSpec, weights: Path | None = None) -> keras.Model:
    """Build what `model_file.save_model` says; `weights` is the file that `spec` names by its sha256."""
    row = TABLE.get(spec.name)
    if weights is None and spec.weights.startswith("sha256:") and (row is None or spec.weights != row.spec.weights):
        raise MissingComponentError(
            f"{spec.name} was used with a file of weights ({spec.weights})",
            hint=f"give that file with {_OPTION_OF_WEIGHTS.get(spec.kind, '--backbone')}",
        )
    if spec.kind != "network":
        assert weights is not None
        model = load_model(weights)
        if spec.kind == "detector":
            return model
        return keras.Model(model.inputs, model.outputs[0 if spec.kind == "model" else 1], name="encoder")
    assert row is not None
    application = row.application
    images = keras.Input((spec.size, spec.size, 3), dtype="uint8", name="images")
    pixels = ops.cast(images, "float32")
    features = _features(spec, application, pixels, weights) if application else lite0_features(lite0_scaled(pixels))
    exponent = 1.0 if application and application.pooling == "mean" else GEM_EXPONENT
    if row.head:
        described = _projected(keras.Model(images, features))
    else:
        described = GeneralizedMean(exponent, name="gem")(features)
    embeddings = layers.UnitNormalization(name="embeddings")(described)
    network = keras.Model(images, embeddings, name=spec.name.replace("-", "_"))
    if application is None:
        assign_lite0(network, lite0_arrays())
    return network


def pooled_maps(network: keras.Model) -> Any:
    """Pool `lite0.HEAD_MAPS` of EfficientNet-Lite0, each to unit length, side by side: (N, 3104)."""
    maps = {name: network.get_layer(name).output for name in lite0.HEAD_MAPS}
    parts = [
        layers.UnitNormalization(name=f"unit_{name}")(GeneralizedMean(name=f"gem_{name}")(each))
        for name, each in maps.items()
    ]
    return layers.Concatenate(name="pooled_maps")(parts)


def _projected(network: keras.Model) -> Any:
    """Put the head for retrieval on EfficientNet-Lite0: (N, 512)."""
    kernel, bias = retrieval_head()
    projection = layers.Dense(len(bias), name="projection")
    projected = projection(pooled_maps(network))
    projection.set_weights([kernel, bias])
    return projected


def with_map(network: keras.Model) -> keras.Model:
    """Let a network give a feature map, float32 (N, height, width, channels), beside its embedding, if it has one."""
    outputs = [layer.output for layer in network.layers]
    maps = [output for output in outputs if not isinstance(output, list) and len(output.shape) == 4]
    # Of the pooled map, the very last, cells are as large as many an item: docs/benchmarks.md.
    finer = [each for each in maps if each.shape[1] == 2 * maps[-1].shape[1]]
    if not finer or finer[-1] is network.inputs[0]:
        return network
    return keras.Model(network.inputs, [network.outputs[0], finer[-1]], name=network.name)


def lite0_features(scaled: Any) -> Any:
    """Lay out EfficientNet-Lite0: (N, H, W, 3) to (N, H / 32, W / 32, 1280), in 0 to 6."""

    def normalized(tensor: Any, name: str, *, active: bool = True) -> Any:
        tensor = layers.BatchNormalization(epsilon=lite0.EPSILON, name=name)(tensor)
        return layers.ReLU(6.0, name=f"{name}_relu")(tensor) if active else tensor

    def convolved(tensor: Any, channels: int, kernel: int, name: str, strides: int = 1) -> Any:
        return layers.Conv2D(channels, kernel, strides, "same", use_bias=False, name=name)(tensor)

    tensor = normalized(convolved(scaled, lite0.STEM_CHANNELS, 3, "_conv_stem", strides=2), "_bn0")
    for block in lite0.blocks():
        inner, prefix = tensor, block.prefix
        if block.expanded is not None:
            inner = normalized(convolved(inner, block.expanded, 1, prefix + "_expand_conv"), prefix + "_bn0")
        depthwise = layers.DepthwiseConv2D(
            block.kernel, block.stride, "same", use_bias=False, name=prefix + "_depthwise_conv"
        )
        inner = normalized(depthwise(inner), prefix + "_bn1")
        inner = normalized(convolved(inner, block.channels, 1, prefix + "_project_conv"), prefix + "_bn2", active=False)
        tensor = layers.Add()([tensor, inner]) if block.is_residual else inner
    return normalized(convolved(tensor, lite0.CHANNELS, 1, "_conv_head"), "_bn1")


def assign_lite0(network: keras.Model, arrays: Arrays) -> None:
    """Give the layers of an EfficientNet-Lite0 their weights from PyTorch's layout."""
    for layer in network.layers:
        name = layer.name
        if isinstance(layer, layers.BatchNormalization):
            parts = ("weight", "bias", "running_mean", "running_var")
            layer.set_weights([arrays[f"{name}.{part}"] for part in parts])
        elif isinstance(layer, layers.DepthwiseConv2D):
            layer.set_weights([np.transpose(arrays[name + ".weight"], (2, 3, 0, 1))])
        elif isinstance(layer, layers.Conv2D):
            layer.set_weights([np.transpose(arrays[name + ".weight"], (2, 3, 1, 0))])


def lite0_scaled(images: Any) -> Any:
    """Scale 0..255 to what EfficientNet-Lite0 was trained on."""
    return (images - lite0.MEAN) / lite0.SPREAD


def _features(spec: EncoderSpec, application: Application, images: Any, weights: Path | None) -> Any:
    """Lay out a network of keras.applications up to the features that are pooled."""
    if application.preprocessing == "caffe":  # keras.applications.imagenet_utils
        images = ops.flip(images, axis=-1) - ops.convert_to_tensor([103.939, 116.779, 123.68])
    if weights is None and (weights := downloaded(spec)) is None:
        require_download(spec)
    try:
        base = getattr(keras.applications, application.builder)(
            weights="imagenet" if weights is None else str(weights), include_top=False, input_tensor=images
        )
    # Keras raises a bare Exception where a download fails, and ValueError or OSError where a file does not fit.
    except Exception as error:
        raise refusal_of(error) or MissingComponentError(
            f"the weights of {spec.name} are not available: {str(error).splitlines()[0] if str(error) else error!r}",
            hint=f"get Keras' file {application.keras_file} and pass it with --weights",
        ) from error
    return base.get_layer(application.layer).output if application.layer else base.output
