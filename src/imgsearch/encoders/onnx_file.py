"""ONNX files, checked before OpenVINO sees them.

An ONNX file is a message of protobuf: a graph whose nodes name operators, and its weights. Weights may lie in other
files, wherever the file says, and operators may be anybody's: only files beside it and the usual operators are let in.
"""

import hashlib
import math
import mmap
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from imgsearch.encoders.protobuf import Budget, Fields, Part
from imgsearch.errors import MissingComponentError, UsageError
from imgsearch.files import open_regular, sha256_of

ONNX_SUFFIX = ".onnx"

# Operators of ONNX itself, by both its names, and those of ONNX Runtime, of which OpenVINO knows some.
_DOMAINS = ("", "ai.onnx", "ai.onnx.ml", "com.microsoft")

_MOST_BYTES = 4_000_000_000  # of a network, with its weights in other files; a message of protobuf has at most 2 GiB
_MOST_FIELDS = 500_000  # a network of a thousand layers has a hundred thousand
_DEEPEST_GRAPH = 8  # of graphs in nodes of graphs
_MOST_SIDES = 16  # of a tensor

_IMAGE_KINDS = ("float32", "float16", "uint8")
# Of tensors, by their numbers in onnx.proto.
_KINDS = {
    **dict(enumerate(("float32", "uint8", "int8", "uint16", "int16", "int32", "int64", "text", "bool"), start=1)),
    **dict(enumerate(("float16", "float64", "uint32", "uint64"), start=10)),
}
_EXTERNAL = 1
# The numbers of fields in onnx.proto that hold a tensor's numbers.
_DATA = (4, 5, 6, 7, 9, 10, 11)


@dataclass(frozen=True, slots=True)
class OnnxTensor:
    """An input or an output of a graph, as the file declares it."""

    name: str
    kind: str  # such as `float32` or `int64`; empty where it is not said
    shape: tuple[int | None, ...] | None  # None for a side of any length, or for a shape that is not said

    def __str__(self) -> str:
        shape = "?" if self.shape is None else ", ".join("?" if side is None else str(side) for side in self.shape)
        return f"{self.name!r} {self.kind or '?'} ({shape})"


@dataclass(frozen=True, slots=True)
class OnnxFile:
    """An ONNX file that was checked.

    Attributes:
        path: Where it is.
        sha256: In hex, of the file; where it has weights in other files, of the sums of all of them.
        size: In bytes, with what it takes of other files.
        inputs: Of the graph, without its weights.
        outputs: Of the graph.
        weights: Names of other files with weights, in its folder.
    """

    path: Path
    sha256: str
    size: int
    inputs: tuple[OnnxTensor, ...]
    outputs: tuple[OnnxTensor, ...]
    weights: tuple[str, ...]


@dataclass(slots=True)
class _Weights:
    """What weights a file has been found to have elsewhere."""

    onnx: Path
    names: set[str] = field(default_factory=set)
    size: int = 0  # of all tensors; several may be the same part of a file


def read_onnx(path: Path) -> OnnxFile:
    """Read what an ONNX file takes and gives, and refuse one that is damaged, or that could do more than compute.

    Raises:
        MissingComponentError: There is no such file, or one with its weights is not there, or it cannot be read.
        UsageError: It is no ONNX file, is damaged or too large, has weights outside of its folder, or operators that
            are not ONNX's own.
    """
    if not os.path.isfile(path):  # nor a FIFO, which might never answer
        raise MissingComponentError(f"there is no ONNX file {path}")
    try:
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:  # an empty one is a ValueError
                found = _read_model(Part(content, 0, size, Budget(_MOST_FIELDS)), path)
        own, *others = [sha256_of(each) for each in (path, *(path.parent / name for name in found.weights))]
    except OSError as error:
        raise MissingComponentError(f"{error.filename or path} cannot be read: {error.strerror}") from error
    except ValueError as error:  # a text that is not UTF-8, too
        raise UsageError(f"{path} is not an ONNX file, or is damaged: {error}") from error
    listed = "\n".join([own, *(f"{digest} {name}" for digest, name in zip(others, found.weights, strict=True))])
    return replace(found, sha256=hashlib.sha256(listed.encode()).hexdigest() if others else own)


def _read_model(content: Part, path: Path) -> OnnxFile:
    if content.size >= 1 << 31:
        raise ValueError(f"it has {content.size:,} bytes, and a message of protobuf less than 2 GiB")
    model = content.fields()
    part = model.part(7)
    if part is None or not model.parts(8):
        raise ValueError("it has no graph, or does not say of which version its operators are")
    if 25 in model:
        raise UsageError(
            f"expected a graph of ONNX's operators, found functions: {path}",
            hint="export it again with its functions inlined (onnx.inliner)",
        )
    graph, weights = part.fields(), _Weights(path)
    _check_graph(graph, weights, depth=1)
    constants = {tensor.fields().text(8) for tensor in graph.parts(5)}
    inputs, outputs = ([_read_tensor(each.fields()) for each in graph.parts(number)] for number in (11, 12))
    return OnnxFile(
        path,
        "",
        content.size + weights.size,
        tuple(tensor for tensor in inputs if tensor.name not in constants),  # old files list weights there, too
        tuple(outputs),
        tuple(sorted(weights.names)),
    )


def _check_graph(graph: Fields, weights: _Weights, depth: int) -> None:
    """Refuse operators that are not ONNX's own, and tensors that are not what they say, also in graphs of nodes."""
    if depth > _DEEPEST_GRAPH:
        raise ValueError(f"it has graphs in graphs, more than {_DEEPEST_GRAPH} deep")
    if 15 in graph:
        raise ValueError("it has sparse tensors")
    _check_tensors(graph.parts(5), weights)
    for node in (part.fields() for part in graph.parts(1)):
        if node.text(7) not in _DOMAINS:
            raise UsageError(
                f"expected operators of ONNX, found {node.text(4)!r} of {node.text(7)!r}: {weights.onnx}",
                hint="OpenVINO runs no operators that come with a model; export it without them",
            )
        for attribute in (part.fields() for part in node.parts(5)):
            if 22 in attribute or 23 in attribute:
                raise ValueError("it has sparse tensors")
            _check_tensors([*attribute.parts(5), *attribute.parts(10)], weights)
            for inner in (*attribute.parts(6), *attribute.parts(11)):
                _check_graph(inner.fields(), weights, depth + 1)


def _check_tensors(tensors: Sequence[Part], weights: _Weights) -> None:
    for tensor in (part.fields() for part in tensors):
        sides = tensor.numbers(1)
        if len(sides) > _MOST_SIDES:
            raise ValueError(f"it has a tensor of {len(sides)} sides")
        if tensor.number(14) == _EXTERNAL or 13 in tensor:
            size = _external_size(tensor, weights)
        else:
            size = sum(part.size if isinstance(part, Part) else 1 for n in _DATA for part in tensor.values.get(n, ()))
        if math.prod(sides) > 2 * size:  # two of four bits lie in a byte
            raise ValueError(f"it has a tensor of {math.prod(sides):,} numbers in {size:,} bytes: {tensor.text(8)!r}")


def _external_size(tensor: Fields, weights: _Weights) -> int:
    """Return the size of a tensor in another file; it must lie there, beside the ONNX file."""
    said = {entry.text(1): entry.text(2) for entry in (part.fields() for part in tensor.parts(13))}
    name, folder = said.get("location", ""), weights.onnx.parent
    # A plain name: OpenVINO takes some paths for addresses in its memory.
    is_name = name not in ("", ".", "..") and not set(name) & set("/\\*\0")
    if not is_name or Path(os.path.realpath(folder / name)).parent != Path(os.path.realpath(folder)):
        raise UsageError(
            f"expected weights in the file, or in files beside it, found {name!r}: {weights.onnx}",
            hint="copy the file with the weights, no link to it, into the folder of the ONNX file",
        )
    if not os.path.isfile(folder / name):
        raise MissingComponentError(f"{weights.onnx} has its weights in {name!r}, which is not beside it")
    whole = (folder / name).stat().st_size
    offset, length = (said.get(key, "0") for key in ("offset", "length"))
    if not (offset.isdecimal() and length.isdecimal() and len(offset + length) <= 32):
        raise ValueError(f"it has weights at {offset!r}, {length!r} bytes of {name!r}")
    size = int(length) or whole - int(offset)
    if size < 0 or int(offset) + size > whole:
        raise ValueError(f"{name!r} has {whole:,} bytes, expected {int(offset) + max(0, size):,}")
    weights.names.add(name)
    weights.size += size
    if max(weights.size, whole) > _MOST_BYTES:  # all of it is hashed
        raise ValueError(f"it has weights of more than {_MOST_BYTES:,} bytes")
    return size


def _read_tensor(declared: Fields) -> OnnxTensor:
    kind, shape = "", None
    outer = declared.part(2)
    tensor = outer.fields().part(1) if outer else None
    if tensor:
        fields = tensor.fields()
        kind = _KINDS.get(fields.number(1), "")
        if sides := fields.part(2):
            shape = tuple(_side(part.fields()) for part in sides.fields().parts(1))
    return OnnxTensor(declared.text(1), kind, shape)


def _side(dimension: Fields) -> int | None:
    side = dimension.number(1)
    return side if 0 < side < 1 << 32 else None  # some exporters write 0 or -1 for any


def image_input(file: OnnxFile) -> OnnxTensor:
    """Return the only input of a network of images, `UsageError` if it is another network."""
    if len(file.inputs) != 1:
        found = ", ".join(map(str, file.inputs)) or "none"
        raise UsageError(
            f"expected a network with one input, of images, found {len(file.inputs)}: {found}; {file.path}",
            hint="of a model of images and texts take the part for images, such as vision_model.onnx",
        )
    (given,) = file.inputs
    is_image = given.kind in _IMAGE_KINDS and (given.shape is None or len(given.shape) == 4)
    colors, height, width = sides_of(given.shape) if is_image else (0, 0, 0)
    if colors not in (3, None):
        raise UsageError(
            f"expected an input of RGB images, {' or '.join(_IMAGE_KINDS)} (N, 3, height, width) or"
            f" (N, height, width, 3), found {given}: {file.path}"
        )
    if height and width and height != width:
        raise UsageError(f"expected an input of square images, found {given}: {file.path}")
    return given


def is_channels_last(shape: Sequence[int | None] | None) -> bool:
    """Whether an input has its colors last; where the shape leaves that open they are first, as nearly always."""
    return shape is not None and shape[3] == 3 and shape[1] != 3


def sides_of(shape: Sequence[int | None] | None) -> tuple[int | None, int | None, int | None]:
    """Return colors, height and width of an input of images, None for what it leaves open."""
    _, first, second, third = shape or (None,) * 4
    return (third, first, second) if is_channels_last(shape) else (first, second, third)
