"""A `.keras` file that is a whole encoder: what Keras saves, checked without Keras, and in it a card, `imgsearch.json`.

The card says what Keras does not, such as how images are fitted and what the classes are called.
"""

import json
import os
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

from imgsearch.errors import MissingComponentError, UsageError
from imgsearch.files import as_path, replaced, writing
from imgsearch.images import Fit
from imgsearch.images.steps import Steps
from imgsearch.records import Missing, between, read
from imgsearch.system import refusal_of

CARD = "imgsearch.json"
SUFFIX = ".keras"
_VERSION = 1
_CONFIGURATION = "config.json"
_COMPRESSIONS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_ENTRIES = {"metadata.json", _CONFIGURATION, "model.weights.h5", CARD}

# A configuration of a thousand layers has about a megabyte; a large network's weights have half a gigabyte.
_MAX_TEXT = 64_000_000
_MOST_BYTES = 4_000_000_000

DETECT = "detect"  # what a detector was trained for

# Layers of our own that a model may have, those of `layers.py`.
_OURS = {"imgsearch>GeneralizedMean"}

# What brings code or files of its own with it, also under Keras' names.
_FORBIDDEN = {"Lambda", "TorchModuleWrapper", "FlaxLayer", "JaxLayer", "TFSMLayer"}


@dataclass(frozen=True, slots=True)
class ModelCard:
    """What a `.keras` file says of itself."""

    size: Annotated[int, between(1, 4096)]  # side of the square image it takes, in pixels
    fit: Fit  # how an image is brought to that square
    steps: str  # done to an image before, as `images.steps.Steps` spells them
    dims: Annotated[int, between(1, 65_536)]  # length of its embedding, which is its first output
    labels: tuple[str, ...]  # in the order of its second output; empty if it has none
    objective: str  # what it was trained for
    backbone: str  # what it was trained from
    encoder: Annotated[str, Missing("")] = ""  # of a detector, the `identity` of the encoder it shares

    def __post_init__(self) -> None:
        if len(self.labels) == 1 or len(set(self.labels)) < len(self.labels):
            raise ValueError(f"expected several different labels or none, found {len(self.labels)}")
        if self.is_detector != bool(self.encoder) or (self.is_detector and self.labels):
            raise ValueError(f"expected a detector without labels to name its encoder, found {self.encoder!r}")
        # Names of folders need not be UTF-8; their lone surrogates survive JSON, and are written out as their bytes.
        # No other surrogate does both.
        "".join((*self.labels, self.objective, self.backbone, self.encoder)).encode("utf-8", "surrogateescape")

    @property
    def is_detector(self) -> bool:
        """Whether it says where items are."""
        return self.objective == DETECT


def save_model(model: Any, path: str | os.PathLike[str], card: ModelCard) -> None:
    """Write a Keras model as an encoder; the file, ending in `.keras`, appears when it is whole.

    Args:
        model: uint8 (N, size, size, 3) to a list of outputs: embeddings, float32 (N, dims) of unit length, and
            probabilities (N, classes) if there are labels. Of a detector float32 embeddings (N, dims), scores (N, A),
            boxes (N, A, 4) and mask (N, M, M).
        path: The file.
        card: What it says of itself.

    Raises:
        OutputError: It cannot be written.
        UsageError: The model is not what the card says.
    """
    file = as_path(path)
    require_shapes(model, card, file)
    with writing(file), replaced(file) as draft:
        model.save(draft)
        _add_card(draft, card)
        read_card(draft)  # what would be refused later is not kept


def _add_card(path: Path, card: ModelCard) -> None:
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(CARD, json.dumps({"version": _VERSION, **asdict(card)}, indent=1) + "\n")


def read_card(path: Path) -> ModelCard:
    """Read what a `.keras` file says of itself, and refuse one that could do more than compute; without Keras.

    Raises:
        MissingComponentError: There is no such file, or it cannot be read.
        UsageError: It is not such a file, it has layers that bring code of their own, or it is not for images.
    """
    if not os.path.isfile(path):  # nor a FIFO, which might never answer
        raise MissingComponentError(f"there is no model {path}", hint="imgsearch train makes one")
    try:
        with path.open("rb") as file:
            start = file.read(8)
        if start == b"\x89HDF\r\n\x1a\n":
            raise UsageError(
                f"expected a .keras file, found one of HDF5: {path}",
                hint="weights alone go with --weights; a whole model must be one that imgsearch train wrote",
            )
        with zipfile.ZipFile(path) as archive:
            entries = {entry.filename: entry.file_size for entry in archive.infolist()}
            is_plain = all(entry.compress_type in _COMPRESSIONS for entry in archive.infolist())
            if not (set(entries) <= _ENTRIES and is_plain and sum(entries.values()) <= _MOST_BYTES):
                raise UsageError(f"{path} holds what no model holds, or is too large: {len(entries)} entries")
            if _CONFIGURATION not in entries or CARD not in entries:
                raise UsageError(
                    f"{path} is not a model that imgsearch train wrote: it has no {CARD}",
                    hint="docs/training.md says how to make one of a Keras model of your own",
                )
            configuration, card = (_read_json(archive, name, entries[name]) for name in (_CONFIGURATION, CARD))
    except OSError as error:
        raise MissingComponentError(f"{path} cannot be read: {error.strerror}") from error
    # zipfile has many ways to say that a file is damaged, and all of them mean the same here.
    except (ValueError, RecursionError, RuntimeError, EOFError, zlib.error, zipfile.BadZipFile) as error:
        raise UsageError(f"{path} is not a .keras file, or is damaged: {error}") from error
    for kind, module in _classes(configuration):
        if kind in _FORBIDDEN or not (module == "imgsearch" or module.split(".")[0] == "keras"):
            raise UsageError(
                f"{path} has a layer {kind!r} of {module!r}, which would run code of its own",
                hint="only models of Keras' own layers are loaded",
            )
    return _read_card(card, path)


def load_model(path: Path) -> Any:
    """Load a model with Keras, as `save_model` was given it; `UsageError` if it cannot be, or is not what it says."""
    import keras

    import imgsearch.encoders.layers  # noqa: F401  # which Keras knows once they are imported

    card = read_card(path)
    try:
        model = keras.saving.load_model(path, compile=False, safe_mode=True)
    # Keras, h5py and NumPy each have their own ways to say that a file is not what it should be.
    except Exception as error:
        reason = str(error).strip().splitlines()
        raise refusal_of(error) or UsageError(
            f"Keras cannot load {path}: {reason[0] if reason else error!r}"
        ) from error
    require_shapes(model, card, path)
    return model


def require_shapes(model: Any, card: ModelCard, path: Path) -> None:
    """Raise `UsageError` where inputs or outputs of a Keras model are not of the shapes that its card says."""
    if not getattr(model, "inputs", None) or not getattr(model, "outputs", None):
        raise UsageError(f"{path}: expected a Keras model of images, found {type(model).__name__}")
    inputs = [(tuple(tensor.shape), str(tensor.dtype)) for tensor in model.inputs]
    outputs = [tuple(tensor.shape) for tensor in model.outputs]
    expected = [((None, card.size, card.size, 3), "uint8")]
    expected_outputs: list[tuple[int | None, ...]] = [(None, card.dims)]
    if card.labels:
        expected_outputs.append((None, len(card.labels)))
    if card.is_detector:
        # However many anchors and cells it has.
        anchors, side = (outputs[place][-1] if len(outputs) == 4 and outputs[place] else None for place in (1, 3))
        expected_outputs += [(None, anchors), (None, anchors, 4), (None, side, side)]
    if inputs != expected or outputs != expected_outputs:
        raise UsageError(
            f"{path}: expected images of {expected[0]} and outputs of {expected_outputs}, found {inputs} and {outputs}"
        )


def _read_json(archive: zipfile.ZipFile, name: str, size: int) -> Any:
    if size > _MAX_TEXT:
        raise ValueError(f"{name} has {size:,} bytes")
    return json.loads(archive.read(name))


def _read_card(data: Any, path: Path) -> ModelCard:
    version = data.get("version") if isinstance(data, Mapping) else None
    if type(version) is int and version != _VERSION:
        raise UsageError(f"{path} is of another, perhaps a newer imgsearch: its card has version {version}")
    try:
        card = read(ModelCard, data if type(version) is int else None)
    except ValueError as error:
        raise UsageError(f"the card in {path} is damaged: {error}") from error
    Steps.parse(card.steps)
    return card


def _classes(value: Any) -> Iterator[tuple[str, str]]:
    """Find every class that a configuration of Keras names, and the module it is to come from."""
    if isinstance(value, Mapping):
        if "class_name" in value:
            registered = str(value.get("registered_name") or "")
            if registered in _OURS and registered.endswith(f">{value['class_name']}"):
                yield str(value["class_name"]), "imgsearch"
            else:
                yield str(value["class_name"]), str(value.get("module") or registered.partition(">")[0] or "keras")
        for inner in value.values():
            yield from _classes(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _classes(inner)
