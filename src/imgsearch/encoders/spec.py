"""The table of encoders, and what makes two of them the same. Strings and numbers only: nothing is loaded here."""

import hashlib
import json
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

from imgsearch.errors import UsageError
from imgsearch.images.steps import Steps
from imgsearch.images.transform import Fit
from imgsearch.records import Check, Key, Missing, as_json, between, read

Precision = Literal["f32", "bf16"]
Kind = Literal["network", "model", "classifier", "detector", "handcrafted", "visual-words", "hybrid"]

DEFAULT_BACKBONE = "efficientnet-lite0"


@dataclass(frozen=True, slots=True)
class EncoderSpec:
    """What an encoder is; two with the same fingerprint give the same vectors.

    Attributes:
        name: Row of the table, name of a `.keras` file, or the parts of a hybrid joined by `+`.
        kind: `network` (a Keras graph of the table), `model` (a `.keras` file), `classifier` (its second output, the
            probabilities of its classes), `detector` (a `.keras` file that also says where items are), `handcrafted`
            (no weights), `visual-words` (a vocabulary learned on the catalog) or `hybrid` (several of these).
        size: Side of the square image it takes, in pixels.
        fit: How an image is brought to that square.
        dims: Length of its embedding.
        weights: Which weights: `sha256:...` of a file, `keras:NAME:HASH` for Keras' own download, or empty. A
            vocabulary that is still to be learned is empty, too.
        precision: What networks compute in.
        version: Of its description, where a later imgsearch describes images otherwise under the same name.
        steps: What is done to an image before it is fitted, as `images.steps.Steps` spells it.
        parts: Of a hybrid, whose embedding is theirs in a row, each times its weight.
    """

    name: str
    kind: Kind
    size: Annotated[int, between(1, 4096)]
    fit: Fit
    dims: Annotated[int, between(1, 65_536)]
    weights: str
    precision: Precision = "f32"
    version: Annotated[int, Missing(1)] = 1
    steps: Annotated[str, Missing("")] = ""
    parts: Annotated[tuple["Part", ...], Missing(())] = ()

    def __post_init__(self) -> None:
        if any(part.spec.parts for part in self.parts):
            raise ValueError("a part is a hybrid itself")
        whole = sum(part.spec.dims for part in self.parts)
        if (self.kind == "hybrid") != bool(self.parts) or (self.parts and whole != self.dims):
            raise ValueError(f"{len(self.parts)} parts of {whole} dims in all do not make {self.dims}")
        try:
            Steps.parse(self.steps)
        except UsageError as error:
            raise ValueError(error.message) from error

    @property
    def fingerprint(self) -> str:
        """Sixteen hex digits that stand for everything that changes a vector."""
        # Imported here: the table is read by commands that never decode, and OpenCV costs a tenth of a second.
        from imgsearch.images.decode import PIXELS_VERSION

        facts = self.to_json() | {"encoder_version": self.version, "pixels_version": PIXELS_VERSION}
        facts.pop("version", None)
        if self.steps == "crop-foreground":  # on which alone the decoder shrinks large images more than it once did
            facts["trim_version"] = 2
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]

    @property
    def identity(self) -> str:
        """Sixteen hex digits for the network alone, whatever it computes in and whatever is done to images before."""
        return replace(self, precision="f32", steps="").fingerprint

    @property
    def uses_openvino(self) -> bool:
        """Whether it, or a part of it, is a network, which OpenVINO runs in f32 or bf16."""
        return any(part.kind not in ("handcrafted", "visual-words") for part in self.all_parts())

    def all_parts(self) -> tuple["EncoderSpec", ...]:
        """Return the encoders that a hybrid is made of; an encoder that is none is its own only part."""
        return tuple(part.spec for part in self.parts) or (self,)

    def to_json(self) -> dict[str, Any]:
        """Return the fields as plain data; the last three only where they say something."""
        data: dict[str, Any] = as_json(self)
        for name, nothing in (("version", 1), ("steps", ""), ("parts", [])):
            if data[name] == nothing:
                del data[name]
        if self.parts:
            data["parts"] = [{"weight": part.weight, "encoder": part.spec.to_json()} for part in self.parts]
        return data

    @classmethod
    def from_json(cls, data: object) -> "EncoderSpec":
        """Read what `to_json` wrote.

        Raises:
            ValueError: A field is missing or not what it should be.
        """
        try:
            return read(cls, data)
        except ValueError as error:
            raise ValueError(f"not an encoder's description: {error}") from error


@dataclass(frozen=True, slots=True)
class Part:
    """One encoder of a hybrid, and what its unit embedding is multiplied by."""

    spec: Annotated[EncoderSpec, Key("encoder")]
    weight: Annotated[float, Check("above 0 and below 1,000,000", lambda weight: 0 < weight < 1e6)]


@dataclass(frozen=True, slots=True)
class TableRow:
    """One encoder of the table.

    Attributes:
        spec: What it is, with its usual weights.
        about: One line for `imgsearch models`.
        license: License of the weights, or empty.
        keras_file: What Keras calls the file of its weights, or empty.
        megabytes: Of that file, or of the package with the weights; 0 for none.
    """

    spec: EncoderSpec
    about: str
    license: str = ""
    keras_file: str = ""
    megabytes: int = 0


LITE0_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"


def _application(
    name: str, dims: int, file: str, digest: str, megabytes: int, about: str, license_name: str
) -> TableRow:
    """Describe an encoder of keras.applications; `digest` is the one that Keras checks its file with."""
    spec = EncoderSpec(name, "network", 224, "pad", dims, f"keras:{name}-imagenet-notop:{digest}")
    return TableRow(spec, about, license_name, file, megabytes)


def _handcrafted(part: str, dims: int, about: str) -> TableRow:
    name = f"handcrafted:{part}" if part else "handcrafted"
    return TableRow(EncoderSpec(name, "handcrafted", 128, "pad", dims, "", version=2), about)


TABLE: dict[str, TableRow] = {
    row.spec.name: row
    for row in (
        TableRow(
            EncoderSpec(DEFAULT_BACKBONE, "network", 224, "pad", 1280, f"sha256:{LITE0_SHA256}"),
            "EfficientNet-Lite0; its weights are installed with imgsearch",
            "Apache-2.0",
            megabytes=17,
        ),
        _application(
            "vgg16",
            512,
            "vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5",
            "6d6bbae143d832006294945121d1f1fc",
            59,
            "VGG16, pooled over its last convolution",
            "CC-BY-4.0",
        ),
        _application(
            "vgg19",
            512,
            "vgg19_weights_tf_dim_ordering_tf_kernels_notop.h5",
            "253f8cb515780f3b799900260a226db6",
            80,
            "VGG19, pooled over its last convolution",
            "CC-BY-4.0",
        ),
        _application(
            "resnet50",
            2048,
            "resnet50_weights_tf_dim_ordering_tf_kernels_notop.h5",
            "4d473c1dd8becc155b73f8504c6f6626",
            95,
            "ResNet-50",
            "MIT",
        ),
        _application(
            "mobilenet_v3_large",
            960,
            "weights_mobilenet_v3_large_224_1.0_float_no_top_v2.h5",
            "07fb09a5933dd0c8eaafa16978110389",
            13,
            "MobileNetV3-Large",
            "Apache-2.0",
        ),
        _application(
            "efficientnetv2-b0",
            1280,
            "efficientnetv2-b0_notop.h5",
            "893217f2bb855e2983157299931e43ff",
            24,
            "EfficientNetV2-B0",
            "Apache-2.0",
        ),
        _application(
            "convnext_tiny",
            768,
            "convnext_tiny_notop.h5",
            "d547c096cabd03329d7be5562c5e14798aa39ed24b474157cef5e85ab9e49ef1",
            111,
            "ConvNeXt-Tiny",
            "MIT",
        ),
        _handcrafted("", 1543, "color, texture and shape, without a network: for plain goods and drawings"),
        _handcrafted("color", 360, "its colors alone"),
        _handcrafted("texture", 852, "its texture alone"),
        _handcrafted("shape", 331, "its shape alone"),
        TableRow(
            EncoderSpec("visual-words", "visual-words", 256, "pad", 1024, ""),
            "local features counted by a vocabulary that is learned on the catalog",
        ),
    )
}
