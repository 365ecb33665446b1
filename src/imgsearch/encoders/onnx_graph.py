"""Make an encoder of an ONNX file that was checked: pixels in, embeddings out, by OpenVINO.

OpenVINO's reader may crash on a hostile file, so this runs in the process of its own that `export.py` starts.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from imgsearch.encoders.onnx_file import OnnxFile, image_input, is_channels_last
from imgsearch.encoders.runtime import import_openvino, last_line, save_graph
from imgsearch.encoders.spec import EncoderSpec, Preprocessing
from imgsearch.errors import UsageError
from imgsearch.system import refusal_of

# What exporters call the output that is an embedding, where there are several; the first that is there is taken.
_EMBEDDINGS = ("image_embeds", "image_embeddings", "image_features", "embeddings", "embedding", "pooler_output")

_MOST_DIMS = 65_536


def measured_dims(file: OnnxFile, preprocessing: Preprocessing) -> int:
    """Run a network on two images of noise, and return the length of their embeddings.

    Raises:
        UsageError: OpenVINO cannot run it, or it does not give each image an embedding of its own.
    """
    network = _network(file, preprocessing)
    side = preprocessing.fitted
    images = np.random.default_rng(0).integers(0, 256, (2, side, side, 3), np.uint8)
    try:
        compiled = import_openvino().Core().compile_model(network, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        both, alone = (np.array(compiled([batch])[0]) for batch in (images, images[1:]))
    except (RuntimeError, UnicodeDecodeError) as error:
        raise refusal_of(error) or UsageError(
            f"OpenVINO cannot run {file.path} on several images at once: {last_line(error)}",
            hint="export it with a batch of any size (dynamic axes)",
        ) from error
    if both.ndim != 2 or alone.shape != (1, both.shape[1]) or len(both) != 2 or not 0 < both.shape[1] <= _MOST_DIMS:
        raise UsageError(f"expected an embedding for each image, found {both.shape} for two, {alone.shape} for one")
    if not np.allclose(both[1], alone[0], rtol=1e-2, atol=1e-2 * np.abs(alone).max(), equal_nan=True):
        raise UsageError(
            f"expected an embedding that depends on its own image alone, found another beside others: {file.path}"
        )
    return int(both.shape[1])


def export_onnx(file: OnnxFile, spec: EncoderSpec, graph: Path) -> None:
    """Write a network as an encoder in OpenVINO's format."""
    assert spec.preprocessing is not None
    save_graph(_network(file, spec.preprocessing, spec.dims), graph)


def _network(file: OnnxFile, preprocessing: Preprocessing, dims: int | None = None) -> Any:
    """Read a network, and give it uint8 (N, fitted, fitted, 3) for input and float32 (N, dims) for output."""
    openvino = import_openvino()
    try:
        network = openvino.Core().read_model(file.path)
        declared = image_input(file)
        is_last = is_channels_last(declared.shape)
        side = preprocessing.size
        network.reshape({declared.name: openvino.PartialShape([-1, side, side, 3] if is_last else [-1, 3, side, side])})
        output = _embedding(network, file, is_last=is_last)
        if dims:
            output = openvino.opset13.reshape(output, np.array([-1, dims]), special_zero=False).output(0)
        pixels = _feed(network.input(declared.name), preprocessing, is_last=is_last)
        return openvino.Model([openvino.opset13.result(output)], [pixels], "encoder")
    except (RuntimeError, UnicodeDecodeError) as error:  # the latter of a message that quotes the file
        raise refusal_of(error) or UsageError(
            f"OpenVINO cannot read {file.path}: {last_line(error)}",
            hint="export it for images of this size, with a batch of any size (dynamic axes)",
        ) from error


def _feed(given: Any, preprocessing: Preprocessing, *, is_last: bool) -> Any:
    """Put pixels, uint8 (N, fitted, fitted, 3), in place of an input; return their node."""
    openvino = import_openvino()
    ops = openvino.opset13
    side, edge = preprocessing.fitted, (preprocessing.fitted - preprocessing.size) // 2
    pixels = ops.parameter(openvino.PartialShape([-1, side, side, 3]), np.uint8, name="pixels")
    node = pixels
    if edge or preprocessing.size != side:
        end = edge + preprocessing.size
        node = ops.slice(node, np.array([edge, edge]), np.array([end, end]), np.array([1, 1]), np.array([1, 2]))
    kind = given.get_element_type()
    if kind != openvino.Type.u8:
        scale, mean, std = (
            np.array(x, np.float32) for x in (preprocessing.scale, preprocessing.mean, preprocessing.std)
        )
        node = ops.convert(node, "f32")
        node = ops.subtract(ops.multiply(node, ops.constant(scale / std)), ops.constant(mean / std))
        node = ops.convert(node, kind.to_string()) if kind != openvino.Type.f32 else node
    if not is_last:
        node = ops.transpose(node, np.array([0, 3, 1, 2]))
    for taker in given.get_target_inputs():
        taker.replace_source_output(node.output(0))
    return pixels


def _embedding(network: Any, file: OnnxFile, *, is_last: bool) -> Any:
    """Return float32 (N, dims): the output that is one, or the mean of a feature map, which the graph then gains."""
    openvino = import_openvino()
    outputs = [output.get_node().input_value(0) for output in network.outputs]
    names = [output.get_names() for output in network.outputs]
    output = _only([each for name in _EMBEDDINGS for each, own in zip(outputs, names, strict=True) if name in own][:1])
    ranks = [each.get_partial_shape().rank for each in outputs]
    of_rank = {n: [each for each, rank in zip(outputs, ranks, strict=True) if rank == n] for n in (2, 4)}
    output = output or _only(of_rank[2]) or (None if of_rank[2] else _only(of_rank[4]))
    rank = output.get_partial_shape().rank if output else None
    if rank not in (2, 4):
        raise UsageError(
            f"expected an embedding (N, dims), or a feature map (N, channels, height, width), as the only output or"
            f" named {_EMBEDDINGS[0]} or {_EMBEDDINGS[-1]}, found {', '.join(map(str, file.outputs))}: {file.path}",
            hint="export it with its pooling layer",
        )
    if rank == 4:
        output = openvino.opset13.reduce_mean(output, np.array([1, 2] if is_last else [2, 3]), keep_dims=False).output(
            0
        )
    return openvino.opset13.convert(output, "f32").output(0)


def _only(outputs: Sequence[Any]) -> Any:
    return outputs[0] if len(outputs) == 1 else None
