"""Tiny ONNX networks, made with the package `onnx`, and what they compute in NumPy."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SIDE = 32
DIMS = 24
IMAGES = ("n", 3, SIDE, SIDE)
WEIGHTS = np.random.default_rng(5).standard_normal((DIMS, 48)).astype(np.float32)


def node(kind: str, inputs: str, outputs: str, **attributes: Any) -> onnx.NodeProto:
    """A node with the names of its inputs and outputs, separated by spaces."""
    return helper.make_node(kind, inputs.split(), outputs.split(), **attributes)


def tensor(name: str, *shape: Any, kind: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape or None)


def network(
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
    **weights: Any,
) -> onnx.ModelProto:
    """A network whose weights are NumPy's arrays."""
    arrays = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    graph = helper.make_graph(nodes, "graph", inputs, outputs, arrays)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def toy(shape: Sequence[Any] = IMAGES, *, name: str = "embedding", dims: int = DIMS, dtype: Any = np.float32) -> Any:
    """Sixteen fields of an image, by their means, times `WEIGHTS`; of colors last where the shape says so."""
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    start = [node("Transpose", "images", "first", perm=[0, 3, 1, 2])] if shape[3] == 3 else []
    start = [*start, node("Cast", "first" if start else "images", "wide", to=TensorProto.FLOAT)]
    nodes = [
        *start,
        node("AveragePool", "wide", "fields", kernel_shape=[SIDE // 4] * 2, strides=[SIDE // 4] * 2),
        node("Flatten", "fields", "flat"),
        node("Gemm", "flat weights", name, transB=1),
    ]
    return network(nodes, [tensor("images", *shape, kind=kind)], [tensor(name, "n", "d")], weights=WEIGHTS[:dims])


def embeddings_of(inputs: np.ndarray, dims: int = DIMS) -> np.ndarray:
    """What `toy` gives for its input, (n, SIDE, SIDE, 3), as unit rows."""
    fields = inputs.reshape(-1, 4, SIDE // 4, 4, SIDE // 4, 3).mean(axis=(2, 4)).transpose(0, 3, 1, 2)
    rows = fields.reshape(len(inputs), -1) @ WEIGHTS[:dims].T
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def saved(model: onnx.ModelProto, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(model.SerializeToString())
    return path


def saved_apart(model: onnx.ModelProto, path: Path, location: str = "weights.bin") -> Path:
    """Save a network with its weights in another file, which is written where a network may not say that it is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    if location != "weights.bin":
        content = onnx.load(path, load_external_data=False)
        for weights in content.graph.initializer:
            for entry in weights.external_data:
                entry.value = location if entry.key == "location" else entry.value
        saved(content, path)
    return path
