"""ONNX files, checked before OpenVINO sees them, and what `preprocessor_config.json` says of their input.

An ONNX file is a message of protobuf: a graph whose nodes name operators, and its weights. Weights may lie in other
files, wherever the file says, and operators may be anybody's: only files beside it and the usual operators are let in.
"""

import hashlib
import json
import math
import mmap
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from reprlib import repr as shortened
from typing import Any, get_args

from imgsearch.encoders.protobuf import Budget, Fields, Part
from imgsearch.errors import MissingComponentError, UsageError
from imgsearch.files import open_regular, sha256_of
from imgsearch.images import Fit

ONNX_SUFFIX = ".onnx"
PREPROCESSOR_FILE = "preprocessor_config.json"

# Operators of ONNX itself, by both its names, and those of ONNX Runtime, of which OpenVINO knows some.
_DOMAINS = ("", "ai.onnx", "ai.onnx.ml", "com.microsoft")

_MOST_BYTES = 4_000_000_000  # of a network, with its weights in other files; a message of protobuf has at most 2 GiB
_MOST_FIELDS = 2_000_000  # a network of a thousand layers has a hundred thousand
_DEEPEST_GRAPH = 8  # of graphs in nodes of graphs
_MOST_SIDES = 16  # of a tensor
_LARGEST_IMAGE = 4096
_MOST_JSON = 1_000_000

_KINDS = {
    **{1: "float32", 2: "uint8", 3: "int8", 4: "uint16", 5: "int16", 6: "int32", 7: "int64", 8: "text", 9: "bool"},
    **{10: "float16", 11: "float64", 12: "uint32", 13: "uint64", 16: "bfloat16"},
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
        opset: Version of the operators.
        inputs: Of the graph, without its weights.
        outputs: Of the graph.
        weights: Names of other files with weights, in its folder.
    """

    path: Path
    sha256: str
    opset: int
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
            if not 0 < size < 1 << 31:
                raise ValueError(f"it has {size:,} bytes, expected up to 2 GiB")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                found = _read_model(Part(content, 0, size, Budget(_MOST_FIELDS)).fields(), path)
        own, *others = [sha256_of(each) for each in (path, *(path.parent / name for name in found.weights))]
    except OSError as error:
        raise MissingComponentError(f"{error.filename or path} cannot be read: {error.strerror}") from error
    except ValueError as error:  # a text that is not UTF-8, too
        raise UsageError(f"{path} is not an ONNX file, or is damaged: {error}") from error
    listed = "\n".join([own, *(f"{digest} {name}" for digest, name in zip(others, found.weights, strict=True))])
    return replace(found, sha256=hashlib.sha256(listed.encode()).hexdigest() if others else own)


def _read_model(model: Fields, path: Path) -> OnnxFile:
    opsets = {opset.text(1): opset.number(2) for opset in (part.fields() for part in model.parts(8))}
    part = model.part(7)
    if part is None or not opsets:
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
        max(opsets.get(domain, 0) for domain in ("", "ai.onnx")),
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
    is_beside = name not in ("", ".", "..") and not set(name) & set("/\\*\0")
    if not is_beside or os.path.dirname(os.path.realpath(folder / name)) != os.path.realpath(folder):
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
        raise ValueError(f"{name!r} has {whole:,} bytes, expected {int(offset) + size:,}")
    weights.names.add(name)
    weights.size += size
    if weights.size > _MOST_BYTES:
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


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """How an image becomes the input of a network.

    Attributes:
        fitted: Side of the square that an image is brought to.
        fit: How it is brought there.
        size: Side of the middle of that square, which is what the network sees.
        scale: What pixels, 0 to 255, are multiplied by.
        mean: Then subtracted, for red, green and blue.
        std: What the rest is divided by.
    """

    fitted: int
    fit: Fit
    size: int
    scale: float = 1 / 255
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)

    def __post_init__(self) -> None:
        if not 1 <= self.size <= self.fitted <= _LARGEST_IMAGE:
            raise ValueError(
                f"expected the middle of at most {_LARGEST_IMAGE} pixels, found {self.size} of {self.fitted}"
            )
        if self.fit not in get_args(Fit):
            raise ValueError(f"expected fit to be one of {', '.join(get_args(Fit))}, found {self.fit!r}")
        numbers = (self.scale, *self.mean, *self.std)
        if not (len(self.mean) == len(self.std) == 3 and all(map(math.isfinite, numbers)) and all(self.std)):
            raise ValueError(f"expected three numbers each, std other than 0, found mean {self.mean}, std {self.std}")


def read_preprocessor(path: Path) -> Preprocessing:
    """Read a `preprocessor_config.json` of Hugging Face's image processors.

    Raises:
        MissingComponentError: It cannot be read.
        UsageError: It is not such a file, or asks for what is not done here.
    """
    try:
        with open_regular(path) as file:
            data = json.loads(file.read(_MOST_JSON))
        if not isinstance(data, Mapping):
            raise ValueError(f"expected an object, found {type(data).__name__}")
        return _preprocessing(data)
    except OSError as error:
        raise MissingComponentError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError, OverflowError) as error:
        raise UsageError(f"{path} does not say how images become the input of a network: {error}") from error


def _preprocessing(data: Mapping[str, Any]) -> Preprocessing:
    for key in ("do_flip_channel_order", "do_grayscale", "rescale_offset"):
        if data.get(key):
            raise ValueError(f"{key} is not supported")
    fitted, fit, size = _squares(data)
    scale = _number(data.get("rescale_factor", 1 / 255), "rescale_factor") if _flag(data, "do_rescale") else 1.0
    if not _flag(data, "do_normalize"):
        return Preprocessing(fitted, fit, size, scale)
    mean, std = (_three_numbers(data.get(key), key) for key in ("image_mean", "image_std"))
    return Preprocessing(fitted, fit, size, scale, mean, std)


def _squares(data: Mapping[str, Any]) -> tuple[int, Fit, int]:
    """Return the side of the square that images are brought to, how, and the side of its middle that is seen."""
    is_cropped = _flag(data, "do_center_crop", default="crop_size" in data)
    size = data.get("size" if "size" in data and _flag(data, "do_resize") else "crop_size")
    crop = data.get("crop_size", size) if is_cropped else None
    fit: Fit = "stretch"
    if isinstance(size, Mapping) and "longest_edge" in size and len(size) == 1:
        fitted, fit = _side_of(size["longest_edge"], "size"), "pad"
    elif isinstance(size, Mapping) and "shortest_edge" in size:
        fitted, fit = _side_of(size["shortest_edge"], "size"), "crop"
        if "crop_pct" in data:  # of ConvNeXt's processor, which cuts smaller images, and warps larger ones
            if fitted >= 384:
                return fitted, "stretch", fitted
            return int(fitted / _number(data["crop_pct"], "crop_pct")), "crop", fitted
    else:
        fitted = _square(size, "size")
        if is_cropped and not isinstance(size, Mapping):  # processors that crop take a number for the shorter side
            fit = "crop"
    return fitted, fit, fitted if crop is None or crop is size else _square(crop, "crop_size")


def _square(size: Any, key: str) -> int:
    """Return the side of a square, given as a number or as height and width."""
    if not isinstance(size, Mapping):
        return _side_of(size, key)
    height, width = (_side_of(size.get(name), f"{name} of {key}") for name in ("height", "width"))
    if height != width:
        raise ValueError(f"expected a square, found {key} {height} x {width}")
    return height


def _side_of(value: Any, key: str) -> int:
    if type(value) is not int or not 1 <= value <= _LARGEST_IMAGE:
        raise ValueError(f"expected {key} to be from 1 to {_LARGEST_IMAGE:,} pixels, found {shortened(value)}")
    return value


def _flag(data: Mapping[str, Any], key: str, *, default: bool = True) -> bool:
    value = data.get(key)
    if value is not None and type(value) is not bool:
        raise ValueError(f"expected {key} to be true or false, found {shortened(value)}")
    return default if value is None else value


def _number(value: Any, key: str) -> float:
    if type(value) not in (int, float) or not 0 < value < math.inf:
        raise ValueError(f"expected {key} to be a number above 0, found {shortened(value)}")
    return float(value)


def _three_numbers(value: Any, key: str) -> tuple[float, ...]:
    values = value if isinstance(value, list) else [value] * 3
    if len(values) != 3 or any(type(each) not in (int, float) for each in values):
        raise ValueError(f"expected {key} to be a number, or three, found {shortened(value)}")
    return tuple(map(float, values))
