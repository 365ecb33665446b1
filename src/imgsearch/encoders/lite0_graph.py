"""Build the encoders of EfficientNet-Lite0 for OpenVINO from their weights, without Keras.

`networks.py` lays out the same for Keras, which training needs; a test holds the two to the same numbers.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from imgsearch.encoders import lite0
from imgsearch.encoders.runtime import import_openvino
from imgsearch.encoders.spec import EncoderSpec
from imgsearch.encoders.table import GEM_EXPONENT, GEM_FLOOR
from imgsearch.encoders.weights import Arrays, lite0_arrays, retrieval_head

# Of height and width, where channels come before them.
_PLACES = np.array([2, 3])


def build_graph(spec: EncoderSpec, *, head: bool) -> Any:
    """Build an OpenVINO model: uint8 RGB (N, size, size, 3) to unit float32 (N, dims) and a feature map.

    Args:
        spec: A row of the table.
        head: Whether it has the head for retrieval.

    Returns:
        The model. Its second output is float32 (N, size / 16, size / 16, channels).

    Raises:
        MissingComponentError: The weights are not installed, or are not the expected ones.
    """
    openvino = import_openvino()
    ops = openvino.opset13
    images = ops.parameter(openvino.PartialShape([-1, spec.size, spec.size, 3]), np.uint8, name="images")
    maps = _feature_maps(ops, images, lite0_arrays())
    if head:
        kernel, bias = retrieval_head()
        parts = [_unit(ops, _generalized_mean(ops, maps[name])) for name in lite0.HEAD_MAPS]
        described = ops.add(ops.matmul(ops.concat(parts, 1), kernel, transpose_a=False, transpose_b=False), bias)
    else:
        described = _generalized_mean(ops, maps[lite0.HEAD_MAPS[0]])
    places = ops.transpose(maps[lite0.PLACES_MAP], np.array([0, 2, 3, 1]))
    outputs = []
    for node, name in ((_unit(ops, described), "embeddings"), (places, "map")):
        node.output(0).set_names({name})
        outputs.append(ops.result(node))
    images.output(0).set_names({"images"})
    return openvino.Model(outputs, [images], spec.name.replace("-", "_"))


def _feature_maps(ops: Any, images: Any, arrays: Arrays) -> dict[str, Any]:
    """Lay out the network; what its activations give, by their names: (N, C, H, W), in 0 to 6."""
    maps = {}

    def convolved(node: Any, name: str, norm: str, stride: int = 1, *, active: bool = True) -> Any:
        """Convolve and normalize, by weights of which the normalization is a part."""
        kernel, shift = _with_normalization(arrays, name, norm)
        edges, auto = np.array([0, 0]), "same_upper"
        if name.endswith("_depthwise_conv"):
            kernel = kernel[:, None]  # (groups, out, in, height, width)
            node = ops.group_convolution(node, kernel, [stride] * 2, edges, edges, [1, 1], auto)
        else:
            node = ops.convolution(node, kernel, [stride] * 2, edges, edges, [1, 1], auto)
        node = ops.add(node, shift[None, :, None, None])
        if active:
            node = maps[f"{norm}_relu"] = ops.clamp(node, 0, 6)
        return node

    pixels = ops.transpose(ops.convert(images, "f32"), np.array([0, 3, 1, 2]))
    scaled = ops.multiply(ops.subtract(pixels, np.float32(lite0.MEAN)), np.float32(1 / lite0.SPREAD))
    node = convolved(scaled, "_conv_stem", "_bn0", 2)
    for block in lite0.blocks():
        inner, prefix = node, block.prefix
        if block.expanded is not None:
            inner = convolved(inner, prefix + "_expand_conv", prefix + "_bn0")
        inner = convolved(inner, prefix + "_depthwise_conv", prefix + "_bn1", block.stride)
        inner = convolved(inner, prefix + "_project_conv", prefix + "_bn2", active=False)
        node = ops.add(node, inner) if block.is_residual else inner
    convolved(node, "_conv_head", "_bn1")
    return maps


def _with_normalization(arrays: Arrays, name: str, norm: str) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the kernel of a convolution times the factor of its normalization, and what is added to each channel."""
    parts = ("weight", "bias", "running_mean", "running_var")
    weight, bias, mean, variance = (arrays[f"{norm}.{part}"].astype(np.float64) for part in parts)
    factor = weight / np.sqrt(variance + lite0.EPSILON)
    kernel = arrays[f"{name}.weight"].astype(np.float64) * factor[:, None, None, None]
    return kernel.astype(np.float32), (bias - mean * factor).astype(np.float32)


def _generalized_mean(ops: Any, features: Any) -> Any:
    """Pool as `layers.GeneralizedMean` does: (N, C, H, W) to (N, C)."""
    powers = ops.power(ops.maximum(features, np.float32(GEM_FLOOR)), np.float32(GEM_EXPONENT))
    return ops.power(ops.reduce_mean(powers, _PLACES, keep_dims=False), np.float32(1 / GEM_EXPONENT))


def _unit(ops: Any, rows: Any) -> Any:
    return ops.normalize_l2(rows, np.array([1]), 1e-24, "max")
