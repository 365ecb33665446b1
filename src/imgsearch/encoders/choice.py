"""From what a user writes after --backbone to an encoder's description, and the files it is made of."""

import functools
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path

from imgsearch.encoders.export import onnx_dims
from imgsearch.encoders.joint_model import find_joint_model
from imgsearch.encoders.model_file import SUFFIX, read_card
from imgsearch.encoders.onnx_file import ONNX_SUFFIX, read_onnx
from imgsearch.encoders.onnx_input import preprocessing_of
from imgsearch.encoders.spec import EncoderSpec, Part, Precision
from imgsearch.encoders.table import TABLE
from imgsearch.errors import MissingComponentError, UsageError
from imgsearch.files import sha256_of
from imgsearch.images.steps import Steps

MAX_PARTS = 8


@dataclass(frozen=True, slots=True)
class Choice:
    """An encoder that can be made."""

    spec: EncoderSpec
    files: Mapping[str, Path] = field(default_factory=dict)  # where the weights are that it names by their sha256


def choose_encoder(
    backbone: str,
    weights: Path | None = None,
    precision: Precision = "f32",
    steps: str = "",
    onnx_input: str = "",
) -> Choice:
    """Describe the encoder of `vgg16`, a file, or several of these joined: `vgg16+handcrafted:color=0.3`.

    Args:
        backbone: Names of the table, `.keras` and `.onnx` files, or the folder of a joint image-text model.
        weights: Of the one encoder of keras.applications.
        precision: What networks compute in.
        steps: What is done to images first.
        onnx_input: How images become the input of an ONNX network; see `onnx_file.preprocessing_of`.
    """
    named = [(backbone, 1.0)] if os.path.exists(backbone) else [_name_and_weight(part) for part in backbone.split("+")]
    if len(named) > MAX_PARTS:
        raise UsageError(f"expected at most {MAX_PARTS} encoders joined by +, found {len(named)}")
    chosen = [(_choose_part(name, precision, onnx_input), weight) for name, weight in named]
    files = {name: file for choice, _ in chosen for name, file in choice.files.items()}
    parts = [Part(choice.spec, weight) for choice, weight in chosen]
    if onnx_input and all(part.spec.kind != "onnx" for part in parts):
        raise UsageError(f"--onnx-input has no effect on {backbone}", hint="it is for --backbone FILE.onnx")
    if weights is not None:
        takers = [part for part in parts if part.spec.weights.startswith("keras:")]
        if len(takers) != 1:
            raise UsageError(
                f"--weights is for one encoder of keras.applications; {backbone} has {len(takers)} of them"
            )
        digest = _sha256(weights, "--weights takes a .weights.h5 or .h5 file of Keras")
        files[digest] = weights
        parts = [
            replace(part, spec=replace(part.spec, weights=digest)) if part is takers[0] else part for part in parts
        ]
    return Choice(_combined(parts, str(Steps.parse(steps))), files)


def choose_detector(file: Path, encoder: EncoderSpec) -> Choice:
    """Describe the detector that `imgsearch train --objective detect` wrote, for an index of this encoder."""
    card = read_card(file)
    if not card.is_detector:
        raise UsageError(
            f"expected a detector, found a model for {card.objective}: {file}",
            hint="imgsearch train CATALOG --objective detect makes one",
        )
    sees_alike = (card.size, card.fit, card.dims) == (encoder.size, encoder.fit, encoder.dims)
    if encoder.kind == "onnx":
        raise UsageError(
            f"expected an encoder of Keras beside --detector, found {encoder.name}",
            hint="a detector is trained with its encoder, and an ONNX file cannot be trained: leave out --detector",
        )
    if card.encoder != encoder.identity or not sees_alike:
        raise UsageError(
            f"expected a detector for {encoder.name}, found one for {card.backbone}, or for other weights: {file}",
            hint=f"train one for this index: imgsearch train CATALOG --objective detect --architecture {encoder.name}",
        )
    weights = _sha256(file, "imgsearch train makes one")
    spec = EncoderSpec(file.name, "detector", card.size, card.fit, card.dims, weights, encoder.precision)
    return Choice(spec, {weights: file})


def with_precision(spec: EncoderSpec, precision: Precision) -> EncoderSpec:
    """Return an encoder whose networks compute in `precision`; one without networks stays as it is."""
    if not spec.uses_openvino or spec.precision == precision:
        return spec
    parts = tuple(replace(part, spec=with_precision(part.spec, precision)) for part in spec.parts)
    return replace(spec, precision=precision, quantized="", parts=parts)


def with_quantized(spec: EncoderSpec, number: int, digest: str) -> EncoderSpec:
    """Return an encoder that names the graph in int8 of one of its parts, by its place in `all_parts`."""
    if not spec.parts:
        return replace(spec, quantized=digest)
    parts = list(spec.parts)  # by place, for two files in different folders may have the same name
    parts[number] = replace(parts[number], spec=replace(parts[number].spec, quantized=digest))
    return replace(spec, parts=tuple(parts))


def keep_quantized(known: EncoderSpec | None, spec: EncoderSpec) -> EncoderSpec:
    """Return an encoder in int8 with the graphs of `known`, of an index, if that is the same in all else, or none."""
    if spec.precision != "int8":
        return spec
    plain = with_precision(spec, "f32")
    if known and known.precision == "int8" and replace(with_precision(known, "f32"), pixels=spec.pixels) == plain:
        return replace(known, pixels=spec.pixels)
    return with_precision(plain, "int8")


def with_weights(spec: EncoderSpec, name: str, weights: str) -> EncoderSpec:
    """Return an encoder that names other weights, for itself or for the parts of that name."""
    if spec.name == name:
        return replace(spec, weights=weights)
    return replace(spec, parts=tuple(replace(part, spec=with_weights(part.spec, name, weights)) for part in spec.parts))


def _name_and_weight(part: str) -> tuple[str, float]:
    name, _, weight = part.strip().partition("=")
    try:
        number = float(weight or 1)
    except ValueError:
        number = math.nan
    if not (name and 0 < number <= 1000):  # NaN is not between them
        raise UsageError(
            f"expected an encoder, or encoders with weights up to 1000, found {part!r}",
            hint="for example lite0-retrieval+handcrafted:color=0.3",
        )
    return name, number


def _choose_part(name: str, precision: Precision, onnx_input: str) -> Choice:
    if name.endswith(SUFFIX):
        path = Path(name)
        card = read_card(path)
        if card.is_detector:
            raise UsageError(
                f"expected an encoder, found a detector: {path}",
                hint=f"an index of {card.backbone} takes it with --detector",
            )
        weights = _sha256(path, "imgsearch train makes one")
        spec = EncoderSpec(path.name, "model", card.size, card.fit, card.dims, weights, precision, steps=card.steps)
        return Choice(spec, {weights: path})
    if name.endswith(ONNX_SUFFIX) and not os.path.isdir(name):
        return _choose_onnx(Path(name), precision, onnx_input)
    row = TABLE.get(name)
    if row is None and os.path.isdir(name):
        return _choose_joint(Path(name), precision, onnx_input)
    if row is None:
        near = get_close_matches(name.lower(), TABLE, n=1)
        hint = (
            f"did you mean {near[0]}?"
            if near
            else f"there are: {', '.join(TABLE)}, any FILE.keras of train, any FILE.onnx, any DIR of a joint model"
        )
        raise MissingComponentError(f"no encoder is called {name!r}", hint=hint)
    return Choice(with_precision(row.spec, precision))


def _choose_onnx(path: Path, precision: Precision, onnx_input: str) -> Choice:
    file = read_onnx(path)
    preprocessing = preprocessing_of(file, onnx_input)
    weights = f"sha256:{file.sha256}"
    spec = EncoderSpec(
        path.name,
        "onnx",
        preprocessing.fitted,
        preprocessing.fit,
        _dims(file, preprocessing),
        weights,
        precision,
        preprocessing=preprocessing,
    )
    return Choice(spec, {weights: path})


def _choose_joint(folder: Path, precision: Precision, onnx_input: str) -> Choice:
    model = find_joint_model(folder)
    text_weights = model.text_weights
    choice = _choose_onnx(model.vision, precision, onnx_input)
    spec = replace(choice.spec, name=folder.resolve().name, text_weights=text_weights)
    return Choice(spec, {**choice.files, text_weights: folder})


_dims = functools.cache(onnx_dims)  # a build asks twice, and it takes a process


def _combined(parts: list[Part], steps: str) -> EncoderSpec:
    """Make one encoder of parts; every part sees the same image, fitted to the largest of their squares."""
    specs = [part.spec for part in parts]
    joint = next((spec for spec in specs if spec.has_text_tower), None)
    if joint and len(parts) > 1:
        raise UsageError(
            f"a model of images and texts stands by itself, found {joint.name} beside others",
            hint="its vision_model.onnx alone, for images, may stand beside others",
        )
    fits, wanted = {spec.fit for spec in specs}, {spec.steps for spec in specs} | {steps}
    wanted.discard("")
    if len(fits) > 1 or len(wanted) > 1:
        raise UsageError(
            f"expected encoders that see images alike, found {sorted(fits)} and steps {sorted(wanted)}",
            hint="a model keeps the fit and the steps that it was trained with; --preprocess '' asks for no others",
        )
    steps = "".join(wanted)
    if len(parts) == 1:
        return replace(specs[0], steps=steps)
    return EncoderSpec(
        name="+".join(map(_part_name, parts)),
        kind="hybrid",
        size=max(spec.size for spec in specs),
        fit=fits.pop(),
        dims=sum(spec.dims for spec in specs),
        weights="",
        precision=next((spec.precision for spec in specs if spec.precision != "f32"), "f32"),
        steps=steps,
        parts=tuple(replace(part, spec=replace(part.spec, steps="")) for part in parts),
    )


def _part_name(part: Part) -> str:
    return part.spec.name if part.weight == 1 else f"{part.spec.name}={part.weight!r}".removesuffix(".0")


def _sha256(path: Path, hint: str) -> str:
    try:
        return f"sha256:{sha256_of(path)}"
    except (OSError, ValueError) as error:  # a name with a zero byte is a ValueError
        reason = getattr(error, "strerror", None) or error
        raise MissingComponentError(f"{path} cannot be read: {reason}", hint=hint) from error
