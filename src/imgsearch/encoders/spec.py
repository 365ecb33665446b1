"""The table of encoders, and what makes two of them the same. Strings and numbers only: nothing is loaded here."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Literal, cast, get_args

from imgsearch.errors import MissingComponentError, UsageError
from imgsearch.images.transform import Fit

Precision = Literal["f32", "bf16"]
Kind = Literal["network", "handcrafted"]

DEFAULT_BACKBONE = "efficientnet-lite0"

# Raise it when an encoder of the same description would give other vectors (graph, pooling, hand-crafted parts).
ENCODER_VERSION = 1


@dataclass(frozen=True, slots=True)
class EncoderSpec:
    """What an encoder is; two with the same fingerprint give the same vectors.

    Attributes:
        name: Row of the table.
        kind: `network` (a Keras graph) or `handcrafted` (no weights).
        size: Side of the square picture it takes, in pixels.
        fit: How a picture is brought to that square.
        dims: Length of its embedding.
        weights: Which weights: `sha256:...` of a file, `keras:NAME` for Keras' own download, or empty.
        precision: What the network computes in.
    """

    name: str
    kind: Kind
    size: int
    fit: Fit
    dims: int
    weights: str
    precision: Precision = "f32"

    @property
    def fingerprint(self) -> str:
        """Sixteen hex digits that stand for everything that changes a vector."""
        # Imported here: the table is read by commands that never decode, and OpenCV costs a tenth of a second.
        from imgsearch.images.decode import PIXELS_VERSION

        facts = {**asdict(self), "encoder_version": ENCODER_VERSION, "pixels_version": PIXELS_VERSION}
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]

    def to_json(self) -> dict[str, object]:
        """Return the fields as plain data."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, object]) -> "EncoderSpec":
        """Read what `to_json` wrote.

        Raises:
            ValueError: A field is missing or not what it should be.
        """
        try:
            texts = {key: str(data[key]) for key in ("name", "kind", "fit", "weights", "precision")}
            numbers = {key: int(cast("int", data[key])) for key in ("size", "dims")}
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise ValueError(f"not an encoder's description: {error!r}") from error
        allowed = {"kind": Kind, "fit": Fit, "precision": Precision}
        for key, choices in allowed.items():
            if texts[key] not in get_args(choices):
                raise ValueError(f"expected {key} to be one of {get_args(choices)}, found {texts[key]!r}")
        if not (0 < numbers["size"] <= 4096 and 0 < numbers["dims"] <= 65_536):
            raise ValueError(f"size {numbers['size']} or dims {numbers['dims']} out of range")
        return cls(**texts, **numbers)  # type: ignore[arg-type]  # checked just above


@dataclass(frozen=True, slots=True)
class TableRow:
    """One encoder of the table.

    Attributes:
        spec: What it is, with its usual weights.
        about: One line for `imgsearch models`.
        licence: Licence of the weights, or empty.
    """

    spec: EncoderSpec
    about: str
    licence: str


# Keras names its file and checks this md5 of it (keras.applications.vgg16).
VGG16_KERAS_WEIGHTS = "keras:vgg16-imagenet-notop:6d6bbae143d832006294945121d1f1fc"
LITE0_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"

TABLE: dict[str, TableRow] = {
    row.spec.name: row
    for row in (
        TableRow(
            EncoderSpec("efficientnet-lite0", "network", 224, "pad", 1280, f"sha256:{LITE0_SHA256}"),
            "EfficientNet-Lite0, GeM pooling; the weights are installed with imgsearch",
            "Apache-2.0",
        ),
        TableRow(
            EncoderSpec("vgg16", "network", 224, "pad", 512, VGG16_KERAS_WEIGHTS),
            "VGG16, GeM over the last convolution; Keras downloads the weights on first use, or --weights FILE",
            "CC-BY-4.0",
        ),
        TableRow(
            EncoderSpec("handcrafted", "handcrafted", 128, "pad", 640, ""),
            "colour histograms and oriented gradients; no weights, very fast, for drawings and plain goods",
            "",
        ),
    )
}


def choose_spec(backbone: str, weights: Path | None = None, precision: Precision = "f32") -> EncoderSpec:
    """Describe the encoder that a user asked for.

    Args:
        backbone: Name of a row of the table.
        weights: Weights to use instead of the usual ones; read here to take their sha256.
        precision: What a network computes in.

    Returns:
        The description, weights and precision included.

    Raises:
        MissingComponentError: No such encoder, or the weights cannot be read.
        UsageError: Weights were given for an encoder that takes none.
    """
    row = TABLE.get(backbone)
    if row is None:
        near = get_close_matches(backbone, TABLE, n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are: {', '.join(TABLE)}"
        raise MissingComponentError(f"no encoder is called {backbone!r}", hint=hint)
    spec = row.spec
    if spec.kind == "handcrafted":
        precision = "f32"
    if weights is not None:
        if not spec.weights.startswith("keras:"):
            raise UsageError(f"--weights is for encoders of keras.applications; {backbone} brings its own")
        try:
            with weights.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise MissingComponentError(
                f"the weights cannot be read: {error}",
                hint="--weights takes a .weights.h5 or .h5 file of Keras",
            ) from error
        spec = replace(spec, weights=f"sha256:{digest}")
    return replace(spec, precision=precision)
