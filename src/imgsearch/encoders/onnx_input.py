"""How images become the input of an ONNX network: `preprocessor_config.json` beside it, and `--onnx-input`."""

import contextlib
import json
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from reprlib import repr as shortened
from typing import Any, get_args

from imgsearch.encoders.onnx_file import OnnxFile, image_input, sides_of
from imgsearch.encoders.spec import Preprocessing
from imgsearch.errors import MissingComponentError, UsageError
from imgsearch.files import open_regular
from imgsearch.images import Fit

PREPROCESSOR_FILE = "preprocessor_config.json"

_INPUT_OPTION = "--onnx-input"
_LARGEST_IMAGE = 4096
_MOST_JSON = 1_000_000


def preprocessing_of(file: OnnxFile, given: str = "") -> Preprocessing:
    """Find out how images become the input of a network.

    Args:
        file: Its input has a size, if that is not to be any.
        given: What `preprocessor_config.json`, in its folder, does not say, or says otherwise: `size=224`,
            `fit=pad|crop|stretch`, `mean=0.5` or `mean=0.48/0.46/0.41`, `std` likewise, `scale=1`; any of them,
            separated by commas. With size, fit, mean and std the file is not read.

    Raises:
        MissingComponentError: The file of that name cannot be read.
        UsageError: It is unclear, or another size than that of the input.
    """
    tensor, asked = image_input(file), _parse_input(given)
    said = None if {"size", "fit", "mean", "std"} <= asked.keys() else _beside(file.path)
    _, height, width = sides_of(tensor.shape)
    side = height or width
    size = asked.get("size") or (said.size if said else side)
    if not size:
        raise UsageError(
            f"expected the size of images, which {tensor} leaves open: {file.path}", hint=f"{_INPUT_OPTION} size=224"
        )
    if side and size != side:
        raise UsageError(
            f"expected images of {side} pixels, which {tensor} takes, found a size of {size}: {file.path}",
            hint=f"{_INPUT_OPTION} size={side}",
        )
    # What is asked for is all of the square.
    fitted = said.fitted if said and not {"size", "fit"} & asked.keys() else size
    facts = {"fit": said.fit if said else "pad"} | asked | {"fitted": fitted, "size": size}
    if tensor.kind == "uint8":
        if {"scale", "mean", "std"} & asked.keys():
            raise UsageError(
                f"expected no scale, mean or std for {tensor}, which takes pixels as they are: {file.path}"
            )
        facts |= {"scale": 1.0}
    elif said:
        facts = {"scale": said.scale, "mean": said.mean, "std": said.std} | facts
    elif not {"mean", "std"} <= asked.keys():
        raise UsageError(
            f"expected {PREPROCESSOR_FILE} beside {file.path}, or {_INPUT_OPTION} with mean and std, found neither",
            hint=f"what it was trained with, such as {_INPUT_OPTION} mean=0.485/0.456/0.406,std=0.229/0.224/0.225",
        )
    try:
        return Preprocessing(**facts)
    except ValueError as error:
        raise UsageError(f"{_INPUT_OPTION} {given}: {error}") from error


def _beside(onnx: Path) -> Preprocessing | None:
    """Read the file that says how images become the input: in the folder of an ONNX file, or that of its folder."""
    folders = (onnx.parent, *([onnx.absolute().parents[1]] if onnx.absolute().parent.name == "onnx" else []))
    found = next((folder for folder in folders if os.path.lexists(folder / PREPROCESSOR_FILE)), None)
    return read_preprocessor(found / PREPROCESSOR_FILE) if found else None


def _parse_input(given: str) -> dict[str, Any]:
    """Read what `--onnx-input` says, by the names of the fields of `Preprocessing`."""
    found: dict[str, Any] = {}
    for part in given.split(",") if given.strip() else ():
        name, _, value = (piece.strip() for piece in part.partition("="))
        if name in _INPUT_READERS and name not in found:
            with contextlib.suppress(ValueError):
                found[name] = _INPUT_READERS[name](value)
                continue
        raise UsageError(
            f"expected size, fit, mean, std or scale, each once and with a value, found {part.strip()!r}",
            hint=f"such as {_INPUT_OPTION} size=224,fit=pad,mean=0.5,std=0.5; three values as 0.48/0.46/0.41",
        )
    return found


def _read_fit(value: str) -> str:
    if value not in get_args(Fit):
        raise ValueError(value)
    return value


def _read_three(value: str) -> tuple[float, ...]:
    return _three_numbers([float(number) for number in value.split("/")] if "/" in value else float(value), "")


_INPUT_READERS: Mapping[str, Callable[[str], Any]] = {
    "size": lambda value: _side_of(int(value), "size"),
    "fit": _read_fit,
    "mean": _read_three,
    "std": _read_three,
    "scale": float,
}


def read_preprocessor(path: Path) -> Preprocessing:
    """Read a `preprocessor_config.json` of Hugging Face's image processors.

    Raises:
        MissingComponentError: It cannot be read.
        UsageError: It is not such a file, or asks for what is not done here.
    """
    try:
        with open_regular(path) as file:
            data = json.loads(file.read(_MOST_JSON))
        return _preprocessing(data)
    except OSError as error:
        raise MissingComponentError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError, OverflowError) as error:
        raise UsageError(f"{path} does not say how images become the input of a network: {error}") from error


def _preprocessing(data: Any) -> Preprocessing:
    if not isinstance(data, Mapping):
        raise ValueError(f"expected an object, found {shortened(data)}")  # noqa: TRY004  # the file is at fault
    data = {key: value for key, value in data.items() if value is not None}
    for key, usual in (("do_resize", True), ("do_flip_channel_order", False), ("rescale_offset", False)):
        if _flag(data, key, default=usual) != usual:
            raise ValueError(f"it says {key}={data[key]}, which is not supported")
    fitted, fit, size = _squares(data)
    scale = _number(data.get("rescale_factor", 1 / 255), "rescale_factor") if _flag(data, "do_rescale") else 1.0
    if not _flag(data, "do_normalize"):
        return Preprocessing(fitted, fit, size, scale)
    mean, std = (_three_numbers(data.get(key), key) for key in ("image_mean", "image_std"))
    return Preprocessing(fitted, fit, size, scale, mean, std)


def _squares(data: Mapping[str, Any]) -> tuple[int, Fit, int]:
    """Return the side of the square that images are brought to, how, and the side of its middle that is seen."""
    is_cropped = _flag(data, "do_center_crop", default="crop_size" in data)
    size = data.get("size", data.get("crop_size"))
    crop = data.get("crop_size", size) if is_cropped else None
    fit: Fit = "stretch"
    if isinstance(size, Mapping) and "longest_edge" in size and len(size) == 1:
        fitted, fit = _side_of(size["longest_edge"], "size"), "pad"
    elif isinstance(size, Mapping) and "shortest_edge" in size:
        fitted, fit = _side_of(size["shortest_edge"], "size"), "crop"
        if "crop_pct" in data:  # of ConvNeXt's processor, which cuts smaller images, and warps larger ones
            if fitted >= 384:
                return fitted, "stretch", fitted
            return _side_of(int(fitted / _number(data["crop_pct"], "crop_pct")), "size / crop_pct"), "crop", fitted
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
    value = data.get(key, default)
    if type(value) is not bool:
        raise ValueError(f"expected {key} to be true or false, found {shortened(value)}")
    return value


def _number(value: Any, key: str) -> float:
    if type(value) not in (int, float) or not 0 < value < math.inf:
        raise ValueError(f"expected {key} to be a number above 0, found {shortened(value)}")
    return float(value)


def _three_numbers(value: Any, key: str) -> tuple[float, ...]:
    values = value if isinstance(value, list) else [value] * 3
    if len(values) != 3 or any(type(each) not in (int, float) for each in values):
        raise ValueError(f"expected {key} to be a number, or three, found {shortened(value)}")
    return tuple(map(float, values))
