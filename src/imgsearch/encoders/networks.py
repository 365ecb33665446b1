"""The Keras graphs: uint8 RGB (N, size, size, 3) in, unit float32 (N, dims) out, preprocessing included."""

from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from imgsearch.encoders.spec import TABLE, EncoderSpec
from imgsearch.encoders.weights import Arrays, lite0_arrays
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
        powers = ops.power(ops.maximum(features, 1e-6), self.exponent)
        return ops.power(ops.mean(powers, axis=(1, 2)), 1.0 / self.exponent)

    def get_config(self) -> dict[str, Any]:
        """Return what rebuilds the layer."""
        return {**super().get_config(), "exponent": self.exponent}


def build_network(spec: EncoderSpec, weights: Path | None = None) -> keras.Model:
    """Build an encoder with its weights.

    Args:
        spec: A network of the table.
        weights: File with the weights, where `spec` names one; else its usual weights are used, which Keras
            may download.

    Returns:
        uint8 (N, size, size, 3) to float32 (N, dims) of unit length.

    Raises:
        MissingComponentError: The weights are not available or do not fit.
    """
    if weights is None and spec.weights not in ("", TABLE[spec.name].spec.weights):
        raise MissingComponentError(
            f"{spec.name} was used with a file of weights ({spec.weights})",
            hint="give that file with --weights",
        )
    pictures = keras.Input((spec.size, spec.size, 3), dtype="uint8", name="pictures")
    scaled = ops.cast(pictures, "float32")
    builder = {"efficientnet-lite0": _lite0, "vgg16": _vgg16}[spec.name]
    features = builder(scaled, weights)
    embeddings = layers.UnitNormalization(name="embeddings")(GeneralizedMean(name="gem")(features))
    network = keras.Model(pictures, embeddings, name=spec.name.replace("-", "_"))
    if spec.name == "efficientnet-lite0":
        assign_lite0(network, lite0_arrays())
    return network


def lite0_features(scaled: Any) -> Any:
    """Lay out EfficientNet-Lite0 up to its last convolution.

    Tan and Le (2019) without squeeze-and-excite and with ReLU6, as in TensorFlow's lite release; layers carry
    the names of the PyTorch port whose weights we read.

    Args:
        scaled: (N, H, W, 3) in about -1 to 1.

    Returns:
        (N, H / 32, W / 32, 1280), in 0 to 6.
    """

    def normalised(tensor: Any, name: str, *, active: bool = True) -> Any:
        tensor = layers.BatchNormalization(epsilon=1e-3, name=name)(tensor)
        return layers.ReLU(6.0)(tensor) if active else tensor

    def convolved(tensor: Any, channels: int, kernel: int, name: str, strides: int = 1) -> Any:
        return layers.Conv2D(channels, kernel, strides, "same", use_bias=False, name=name)(tensor)

    tensor = normalised(convolved(scaled, 32, 3, "_conv_stem", strides=2), "_bn0")
    channels, block = 32, 0
    for repeats, kernel, first_stride, expansion, out_channels in _LITE0_STAGES:
        for repeat in range(repeats):
            prefix = f"_blocks.{block}."
            stride = first_stride if repeat == 0 else 1
            inner = tensor
            if expansion != 1:
                inner = convolved(inner, channels * expansion, 1, prefix + "_expand_conv")
                inner = normalised(inner, prefix + "_bn0")
            depthwise = layers.DepthwiseConv2D(kernel, stride, "same", use_bias=False, name=prefix + "_depthwise_conv")
            inner = normalised(depthwise(inner), prefix + "_bn1")
            inner = convolved(inner, out_channels, 1, prefix + "_project_conv")
            inner = normalised(inner, prefix + "_bn2", active=False)
            tensor = layers.Add()([tensor, inner]) if stride == 1 and channels == out_channels else inner
            channels, block = out_channels, block + 1
    return normalised(convolved(tensor, 1280, 1, "_conv_head"), "_bn1")


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


def lite0_scaled(pictures: Any) -> Any:
    """Scale 0..255 to what EfficientNet-Lite0 was trained on."""
    return (pictures - 127.0) / 128.0


def _lite0(pictures: Any, _: Path | None) -> Any:
    return lite0_features(lite0_scaled(pictures))


def _vgg16(pictures: Any, weights: Path | None) -> Any:
    # "caffe" preprocessing: BGR, less ImageNet's mean (keras.applications.imagenet_utils).
    centred = ops.flip(pictures, axis=-1) - ops.convert_to_tensor([103.939, 116.779, 123.68])
    try:
        base = keras.applications.VGG16(
            weights="imagenet" if weights is None else str(weights), include_top=False, input_tensor=centred
        )
    # Keras raises a bare Exception where a download fails, and ValueError or OSError where a file does not fit.
    except Exception as error:
        raise MissingComponentError(
            f"the weights of vgg16 are not available: {str(error).splitlines()[0] if str(error) else error!r}",
            hint="get Keras' file vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5 and pass it with --weights",
        ) from error
    return base.get_layer("block5_conv3").output
