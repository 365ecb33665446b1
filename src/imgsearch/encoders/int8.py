"""A network in 8-bit integers: its graph, made by NNCF on images of a catalog, and what that costs in answers."""

import hashlib
import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np

from imgsearch.encoders.runtime import import_openvino, read_graph, resized
from imgsearch.errors import MissingComponentError
from imgsearch.records import Count, Share, between

# What may be lost of the hit rate at 1.
MOST_LOSS = 0.005


@dataclass(frozen=True, slots=True)
class Int8Loss:
    """What an encoder in int8 loses against the same in f32, on variants of a catalog's images."""

    images: Count  # that it was calibrated on
    queries: Count  # variants of images
    before: Share  # of these, whose own image was nearest, in f32
    after: Share  # the same in int8
    error: Share  # standard error of the difference, as the same queries are asked
    cosine: Annotated[float, between(-1, 1)]  # of the embeddings in f32 and in int8, on average

    @property
    def is_small(self) -> bool:
        """Whether answers are as good, within what may be lost."""
        return self.before - self.after <= MOST_LOSS + 1e-9

    def in_words(self) -> str:
        """Return it in words, without a verdict."""
        return (
            f"of {self.queries} variants of images {self.after:.3f} find theirs first, {self.before:.3f} in f32"
            f" (standard error of the difference {self.error:.3f}); calibrated on {self.images} images"
        )


def require_nncf() -> None:
    """Raise `MissingComponentError` unless NNCF is installed."""
    if importlib.util.find_spec("nncf") is None:
        raise MissingComponentError("--precision int8 needs NNCF", hint="pip install 'imgsearch-toolkit[int8]'")


def quantize(graph: Path, images: Path, size: int, target: Path) -> None:
    """Write a graph in int8, in this process, which imports NNCF for it.

    Args:
        graph: Of the network in f32.
        images: `.npy` file of those to calibrate on, RGB, uint8 (n, side, side, 3).
        size: Side of the square that the network takes.
        target: The graph to write, whose name ends in `.xml`.
    """
    openvino = import_openvino()  # before NNCF imports it with its telemetry, which is NNCF's, too
    model = read_graph(openvino.Core(), graph)
    import nncf

    _join_transposes(model)
    rows = np.load(images, mmap_mode="r", allow_pickle=False)
    quantized = nncf.quantize(
        model,
        nncf.Dataset(range(len(rows)), lambda row: next(resized([np.asarray(rows[row : row + 1])], size))),
        subset_size=len(rows),
        ignored_scope=nncf.IgnoredScope(names=_head_of(model)),
        # Processors without VNNI add products of 8 bits up in 16 bits, where weights of 8 bits overflow: the same
        # graph would give other vectors there (cosine 0.97 on average). Weights of 7 bits do not.
        advanced_parameters=nncf.AdvancedQuantizationParameters(overflow_fix=nncf.OverflowFix.ENABLE),
    )
    openvino.save_model(quantized, target, compress_to_fp16=False)


def graph_digest(graph: Path) -> str:
    """Return `sha256:...` of a graph and its weights, which stands for all that its vectors depend on."""
    digest = hashlib.sha256()
    for file in (graph, graph.with_suffix(".bin")):
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    return f"sha256:{digest.hexdigest()}"


def _join_transposes(model: Any) -> None:
    """Take out pairs of transpositions that undo each other, as those around a feature map that is an output.

    NNCF takes the second axis for the channels, which between the two it is not, and OpenVINO then refuses the graph.
    """
    for second in model.get_ordered_ops():
        first = second.input_value(0).get_node() if second.get_type_name() == "Transpose" else None
        if first is None or first.get_type_name() != "Transpose":
            continue
        orders = [node.input_value(1).get_node() for node in (first, second)]
        if all(order.get_type_name() == "Constant" for order in orders):
            before, after = (np.asarray(order.data) for order in orders)
            if np.array_equal(before[after], np.arange(len(before))):
                for target in second.output(0).get_target_inputs():
                    target.replace_source_output(first.input_value(0))


def _head_of(model: Any) -> list[str]:
    """Name what comes after the last layer that takes time: pooling, norms, and what is learned on pooled features.

    It is computed once an image, so that int8 gains nothing there; and it would lose: the powers of a generalized mean
    do not fit into 256 steps.
    """
    body: set[str] = set()
    head = []
    for node in reversed(model.get_ordered_ops()):
        name, kind = node.get_friendly_name(), node.get_type_name()
        targets = (target.get_node() for output in node.outputs() for target in output.get_target_inputs())
        if _takes_time(node) or any(target.get_friendly_name() in body for target in targets):
            body.add(name)
        elif kind not in ("Constant", "Parameter", "Result"):
            head.append(name)
    return head


def _takes_time(node: Any) -> bool:
    if node.get_type_name() == "MatMul":  # of tokens, not of one vector an image
        return len(node.output(0).get_partial_shape()) > 2
    return node.get_type_name() in ("Convolution", "GroupConvolution")
