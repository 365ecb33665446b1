"""What an encoder is, and what makes two of them the same. Strings and numbers only: nothing is loaded here."""

import hashlib
import json
import math
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

from imgsearch.errors import UsageError
from imgsearch.images import Fit
from imgsearch.images.steps import Steps
from imgsearch.records import Check, Key, Missing, as_json, between, read

Precision = Literal["f32", "bf16", "int8"]
Kind = Literal[
    "network",  # a Keras graph of the table
    "model",  # a `.keras` file
    "onnx",  # an `.onnx` file, or the one for images of a joint image-text model
    "classifier",  # its second output, the probabilities of its classes
    "detector",  # a `.keras` file that also says where items are
    "handcrafted",  # no weights
    "visual-words",  # a vocabulary that is learned on the catalog
    "hybrid",  # several of these
]

DEFAULT_BACKBONE = "lite0-retrieval"


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """How an image becomes the input of an ONNX network.

    Attributes:
        fitted: Side of the square that an image is brought to.
        fit: How it is brought there.
        size: Side of the middle of that square, which is what the network sees.
        scale: What pixels, 0 to 255, are multiplied by.
        mean: What is then subtracted, from red, green and blue.
        std: What that is divided by.
    """

    fitted: Annotated[int, between(1, 4096)]
    fit: Fit
    size: Annotated[int, between(1, 4096)]
    scale: float = 1 / 255
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)

    def __post_init__(self) -> None:
        if self.size > self.fitted:
            raise ValueError(f"expected the middle of {self.fitted} pixels, found {self.size}")
        if not (len(self.mean) == len(self.std) == 3 and all(map(math.isfinite, (self.scale, *self.mean)))):
            raise ValueError(f"expected scale and mean to be finite, found {self.scale} and {self.mean}")
        if not all(0 < deviation < math.inf for deviation in self.std):
            raise ValueError(f"expected std to be above 0, found {self.std}")


@dataclass(frozen=True, slots=True)
class EncoderSpec:
    """What an encoder is; two with the same fingerprint give the same vectors."""

    name: str  # row of the table, name of a `.keras` or `.onnx` file, or the parts of a hybrid joined by `+`
    kind: Kind
    size: Annotated[int, between(1, 4096)]  # side of the square image it takes, in pixels
    fit: Fit  # how an image is brought to that square
    dims: Annotated[int, between(1, 65_536)]  # length of its embedding
    # `sha256:...` of a file, `keras:NAME:HASH` for Keras' own download, or empty: none, or still to be learned.
    weights: str
    precision: Precision = "f32"  # what networks compute in
    version: Annotated[int, Missing(1)] = 1  # a later imgsearch may describe images otherwise under the same name
    steps: Annotated[str, Missing("")] = ""  # done to an image before it is fitted, as `images.steps.Steps` spells them
    pixels: Annotated[int, Missing(1)] = 1  # version of the decoder, `images.PIXELS_VERSION`, that fed it
    # Of a hybrid, whose embedding is theirs in a row, each times its weight.
    parts: Annotated[tuple["Part", ...], Missing(())] = ()
    preprocessing: Annotated[Preprocessing | None, Missing(None)] = None  # of an ONNX network; others know theirs
    # `sha256:...` of the network for texts and the tokenizer of a joint image-text model.
    text_weights: Annotated[str, Missing("")] = ""
    # `sha256:...` of the graph that a network has in int8, which its calibration decides; empty: still to be made.
    quantized: Annotated[str, Missing("")] = ""

    def __post_init__(self) -> None:
        if any(part.spec.parts for part in self.parts):
            raise ValueError("a part is a hybrid itself")
        whole = sum(part.spec.dims for part in self.parts)
        if (self.kind == "hybrid") != bool(self.parts) or (self.parts and whole != self.dims):
            raise ValueError(f"{len(self.parts)} parts of {whole} dims in all do not make {self.dims}")
        said = self.preprocessing
        if (self.kind == "onnx") != bool(said) or (said and (said.fitted, said.fit) != (self.size, self.fit)):
            raise ValueError(f"{said} is not that of an encoder of kind {self.kind}, {self.size} pixels, {self.fit}")
        if self.text_weights and self.kind != "onnx":
            raise ValueError(f"an encoder of kind {self.kind} has no text tower")
        if self.quantized and self.precision != "int8":
            raise ValueError(f"a graph in int8 is not for an encoder that computes in {self.precision}")
        try:
            Steps.parse(self.steps)
        except UsageError as error:
            raise ValueError(error.message) from error

    @property
    def fingerprint(self) -> str:
        """Sixteen hex digits that stand for everything that changes a vector."""
        facts = self.to_json() | {"encoder_version": self.version, "pixels_version": self.pixels}
        facts.pop("version", None)
        facts.pop("pixels", None)
        if self.steps == "crop-foreground":  # on which alone the decoder shrinks large images more than it once did
            facts["trim_version"] = 2
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]

    @property
    def identity(self) -> str:
        """Sixteen hex digits for the network alone, whatever it computes in and whatever is done to images before."""
        return replace(self, precision="f32", quantized="", steps="", pixels=1).fingerprint

    def is_fed_otherwise_than(self, other: "EncoderSpec") -> bool:
        """Whether two encoders differ in nothing but the version of the decoder that fed them."""
        return self != other and replace(self, pixels=other.pixels) == other

    @property
    def uses_openvino(self) -> bool:
        """Whether it, or a part of it, is a network, which OpenVINO runs in f32, bf16 or int8."""
        return any(part.kind not in ("handcrafted", "visual-words") for part in self.all_parts())

    @property
    def has_text_tower(self) -> bool:
        """Whether it is a joint image-text model, which has embeddings for texts, too."""
        return bool(self.text_weights)

    def all_parts(self) -> tuple["EncoderSpec", ...]:
        """Return the encoders that a hybrid is made of; an encoder that is none is its own only part."""
        return tuple(part.spec for part in self.parts) or (self,)

    def to_json(self) -> dict[str, Any]:
        """Return the fields as plain data; the last seven only where they say something."""
        data: dict[str, Any] = as_json(self)
        for name, nothing in (
            ("version", 1),
            ("steps", ""),
            ("pixels", 1),
            ("parts", []),
            ("preprocessing", None),
            ("text_weights", ""),
            ("quantized", ""),
        ):
            if data[name] == nothing:
                del data[name]
        if self.parts:
            data["parts"] = [{"weight": part.weight, "encoder": part.spec.to_json()} for part in self.parts]
        return data

    @classmethod
    def from_json(cls, data: object) -> "EncoderSpec":
        """Read what `to_json` wrote, or raise ValueError."""
        try:
            return read(cls, data)
        except ValueError as error:
            raise ValueError(f"not an encoder's description: {error}") from error


@dataclass(frozen=True, slots=True)
class Part:
    """One encoder of a hybrid, and what its unit embedding is multiplied by."""

    spec: Annotated[EncoderSpec, Key("encoder")]
    weight: Annotated[float, Check("above 0 and below 1,000,000", lambda weight: 0 < weight < 1e6)]
