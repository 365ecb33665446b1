"""The Keras graphs: uint8 RGB (N, size, size, 3) in, unit float32 (N, dims) out, preprocessing included."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from imgsearch.encoders.model_file import load_model
from imgsearch.encoders.spec import DEFAULT_BACKBONE, TABLE, EncoderSpec
from imgsearch.encoders.weights import Arrays, downloaded, lite0_arrays, require_download
from imgsearch.errors import MissingComponentError

# Exponent of generalized-mean pooling; 3 is where Radenovic et al. start, and 3 to 6 measured alike here.
GEM_EXPONENT = 3.0

# EfficientNet-Lite0: repeats, kernel, stride of the first, expansion, channels (TensorFlow's lite release).
_LITE0_STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)


@keras.saving.register_keras_serializable("imgsearch")
class GeneralizedMean(layers.Layer):  # type: ignore[misc]  # Keras has no types
    """GeM pooling: the p-th root of the mean of p-th powers, channel by channel.

    Radenovic, Tolias, Chum: Fine-tuning CNN Image Retrieval with No Human Annotation (2018), equation 3.
    (N, H, W, C) in, (N, C) out.
    """

    def __init__(self, exponent: float = GEM_EXPONENT, **options: Any) -> None:
        super().__init__(**options)
        self.exponent = exponent

    def call(self, features: Any) -> Any:
        """Pool over height and width; the floor keeps the root's slope finite at zero."""
        if self.exponent == 1:
            return ops.mean(features, axis=(1, 2))
        powers = ops.power(ops.maximum(features, 1e-6), self.exponent)
        return ops.power(ops.mean(powers, axis=(1, 2)), 1.0 / self.exponent)

    def get_config(self) -> dict[str, Any]:
        """Return what rebuilds the layer."""
        return {**super().get_config(), "exponent": self.exponent}


def build_network(spec: EncoderSpec, weights: Path | None = None) -> keras.Model:
    """Build an encoder with its weights.

    Args:
        spec: A network of the table, or a `.keras` file.
        weights: File with the weights, where `spec` names one by its sha256; Keras' own are downloaded if they are not
            there yet.

    Returns:
        uint8 (N, size, size, 3) to float32 (N, dims) of unit length; to probabilities, for a classifier; to what
        `model_file.save_model` says, for a detector.

    Raises:
        MissingComponentError: The weights are not available or do not fit.
        UsageError: The `.keras` file is not what it should be.
    """
    has_own_file = spec.weights.startswith("sha256:") and spec.name != DEFAULT_BACKBONE
    if weights is None and has_own_file:
        raise MissingComponentError(
            f"{spec.name} was used with a file of weights ({spec.weights})",
            hint="give that file with "
            + {"network": "--weights", "detector": "--detector"}.get(spec.kind, "--backbone"),
        )
    if spec.kind != "network":
        assert weights is not None
        model = load_model(weights)
        if spec.kind == "detector":
            return model
        return keras.Model(model.inputs, model.outputs[0 if spec.kind == "model" else 1], name="encoder")
    images = keras.Input((spec.size, spec.size, 3), dtype="uint8", name="images")
    scaled = ops.cast(images, "float32")
    if spec.name == DEFAULT_BACKBONE:
        features, exponent = lite0_features(lite0_scaled(scaled)), GEM_EXPONENT
    else:
        features, exponent = _application(spec, scaled, weights), APPLICATIONS[spec.name].exponent
    embeddings = layers.UnitNormalization(name="embeddings")(GeneralizedMean(exponent, name="gem")(features))
    network = keras.Model(images, embeddings, name=spec.name.replace("-", "_"))
    if spec.name == DEFAULT_BACKBONE:
        assign_lite0(network, lite0_arrays())
    return network


def with_map(network: keras.Model) -> keras.Model:
    """Let a network give a feature map beside its embedding, so that one pass says what an image shows, and where.

    It is the last map of twice the side of the very last: that one is what is pooled, but its cells are as large as
    many an item (docs/benchmarks.md, "Find the product in the photo").

    Args:
        network: As from `build_network`.

    Returns:
        The network with a second output, float32 (N, height, width, channels); without one if it has no such map.
    """
    outputs = [layer.output for layer in network.layers]
    maps = [output for output in outputs if not isinstance(output, list) and len(output.shape) == 4]
    finer = [each for each in maps if each.shape[1] == 2 * maps[-1].shape[1]]
    if not finer or finer[-1] is network.inputs[0]:
        return network
    return keras.Model(network.inputs, [network.outputs[0], finer[-1]], name=network.name)


def lite0_features(scaled: Any) -> Any:
    """Lay out EfficientNet-Lite0 up to its last convolution.

    Tan and Le (2019) without squeeze-and-excite and with ReLU6, as in TensorFlow's lite release; layers carry
    the names of the PyTorch port whose weights we read.

    Args:
        scaled: (N, H, W, 3) in about -1 to 1.

    Returns:
        (N, H / 32, W / 32, 1280), in 0 to 6.
    """

    def normalized(tensor: Any, name: str, *, active: bool = True) -> Any:
        tensor = layers.BatchNormalization(epsilon=1e-3, name=name)(tensor)
        return layers.ReLU(6.0)(tensor) if active else tensor

    def convolved(tensor: Any, channels: int, kernel: int, name: str, strides: int = 1) -> Any:
        return layers.Conv2D(channels, kernel, strides, "same", use_bias=False, name=name)(tensor)

    tensor = normalized(convolved(scaled, 32, 3, "_conv_stem", strides=2), "_bn0")
    channels, block = 32, 0
    for repeats, kernel, first_stride, expansion, out_channels in _LITE0_STAGES:
        for repeat in range(repeats):
            prefix = f"_blocks.{block}."
            stride = first_stride if repeat == 0 else 1
            inner = tensor
            if expansion != 1:
                inner = convolved(inner, channels * expansion, 1, prefix + "_expand_conv")
                inner = normalized(inner, prefix + "_bn0")
            depthwise = layers.DepthwiseConv2D(kernel, stride, "same", use_bias=False, name=prefix + "_depthwise_conv")
            inner = normalized(depthwise(inner), prefix + "_bn1")
            inner = convolved(inner, out_channels, 1, prefix + "_project_conv")
            inner = normalized(inner, prefix + "_bn2", active=False)
            tensor = layers.Add()([tensor, inner]) if stride == 1 and channels == out_channels else inner
            channels, block = out_channels, block + 1
    return normalized(convolved(tensor, 1280, 1, "_conv_head"), "_bn1")


def assign_lite0(network: keras.Model, arrays: Arrays) -> None:
    """Give the layers of an EfficientNet-Lite0 their weights, from PyTorch's layout to Keras'.

    Args:
        network: Holds the layers of `lite0_features`, and perhaps a dense layer `_fc` on top.
        arrays: What `weights.lite0_arrays` returned.
    """
    for layer in network.layers:
        name = layer.name
        if isinstance(layer, layers.BatchNormalization):
            parts = ("weight", "bias", "running_mean", "running_var")
            layer.set_weights([arrays[f"{name}.{part}"] for part in parts])
        elif isinstance(layer, layers.DepthwiseConv2D):
            layer.set_weights([np.transpose(arrays[name + ".weight"], (2, 3, 0, 1))])
        elif isinstance(layer, layers.Conv2D):
            layer.set_weights([np.transpose(arrays[name + ".weight"], (2, 3, 1, 0))])
        elif isinstance(layer, layers.Dense):
            layer.set_weights([np.transpose(arrays[name + ".weight"]), arrays[name + ".bias"]])


def lite0_scaled(images: Any) -> Any:
    """Scale 0..255 to what EfficientNet-Lite0 was trained on."""
    return (images - 127.0) / 128.0


@dataclass(frozen=True, slots=True)
class Application:
    """How an encoder is made of one of keras.applications.

    Attributes:
        builder: Its name there.
        layer: Whose output is pooled; empty for the last one.
        preprocessing: `caffe` (BGR, less ImageNet's mean), or empty where the network scales images itself.
        exponent: Of GeM pooling; 1, the mean, for features that may be negative.
    """

    builder: str
    layer: str = ""
    preprocessing: str = ""
    exponent: float = GEM_EXPONENT


APPLICATIONS = {
    "vgg16": Application("VGG16", "block5_conv3", "caffe"),
    "vgg19": Application("VGG19", "block5_conv4", "caffe"),
    "resnet50": Application("ResNet50", "", "caffe"),
    "mobilenet_v3_large": Application("MobileNetV3Large"),
    "efficientnetv2-b0": Application("EfficientNetV2B0"),
    "convnext_tiny": Application("ConvNeXtTiny", exponent=1.0),
}


def _application(spec: EncoderSpec, images: Any, weights: Path | None) -> Any:
    """Lay out a network of keras.applications up to the features that are pooled."""
    row = APPLICATIONS[spec.name]
    if row.preprocessing == "caffe":  # keras.applications.imagenet_utils
        images = ops.flip(images, axis=-1) - ops.convert_to_tensor([103.939, 116.779, 123.68])
    if weights is None and (weights := downloaded(spec)) is None:
        require_download(spec)
    try:
        base = getattr(keras.applications, row.builder)(
            weights="imagenet" if weights is None else str(weights), include_top=False, input_tensor=images
        )
    # Keras raises a bare Exception where a download fails, and ValueError or OSError where a file does not fit.
    except Exception as error:
        raise MissingComponentError(
            f"the weights of {spec.name} are not available: {str(error).splitlines()[0] if str(error) else error!r}",
            hint=f"get Keras' file {TABLE[spec.name].keras_file} and pass it with --weights",
        ) from error
    return base.get_layer(row.layer).output if row.layer else base.output
