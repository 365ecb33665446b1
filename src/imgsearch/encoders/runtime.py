"""Run an encoder: a network on OpenVINO, hand-crafted, or several side by side."""

import functools
import itertools
import os
import pkgutil
import sys
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from imgsearch.encoders.spec import EncoderSpec, Kind, Precision
from imgsearch.encoders.table import OLD_ROWS, TABLE
from imgsearch.errors import DamagedIndexError, MissingComponentError, OutputError, UsageError
from imgsearch.files import open_regular, reading
from imgsearch.processors import processor_count
from imgsearch.system import refusal_of, require_address_space

if TYPE_CHECKING:
    from imgsearch.images.decode import Pixels

Embeddings = NDArray[np.float32]

# Of address space, for its libraries and the default encoder on one processor: short of it OpenVINO may abort.
_OPENVINO_BYTES = 400_000_000

# Images that OpenVINO gives a GPU at once.
_GPU_BATCH = 32

GRAPH_FILE = "encoder.xml"
VOCABULARY_FILE = "vocabulary.npz"
# Of a joint image-text model: its network for texts, and their tokenizer.
TEXT_GRAPH_FILE = "text.xml"
TOKENIZER_FILE = "tokenizer.json"
TEXT_FILES = (TEXT_GRAPH_FILE, "text.bin", TOKENIZER_FILE)


@dataclass(frozen=True, slots=True, eq=False)
class EncodedImage:
    """What an encoder makes of one image."""

    embedding: Embeddings  # float32 (dims,), as `Encoder.encode_stream` yields it
    features: NDArray[np.float32] | None  # (height, width, channels) of the fitted square; None from one without a map


class Encoder(Protocol):
    """Turns fitted images into embeddings.

    Attributes:
        spec: What it is.
        batch_size: How many images to give it at once.
    """

    spec: EncoderSpec
    batch_size: int

    def encode_stream(self, batches: Iterable["Pixels"]) -> Iterator[Embeddings]:
        """Encode batches, several at once where that is faster.

        Args:
            batches: RGB, uint8, each of shape (n, size, size, 3).

        Yields:
            For each batch, in order, float32 of shape (n, dims). Rows have unit length, but a row is NaN where
            the encoder gave nothing that has a direction.
        """
        ...

    def encode_with_features(self, image: "Pixels") -> EncodedImage:
        """Encode one image, uint8 (size, size, 3), in one pass with its feature map where the encoder has one."""
        ...


def encode(encoder: Encoder, images: "Pixels") -> Embeddings:
    """Encode one batch, uint8 (n, size, size, 3), to float32 (n, dims), as `Encoder.encode_stream` yields it."""
    return next(iter(encoder.encode_stream([images])))


def files_of(spec: EncoderSpec) -> tuple[str, ...]:
    """Name the files that an encoder is run from; a hybrid has those of its parts, each with the part's number."""
    if spec.parts:
        return tuple(part_file(number, name) for number, part in enumerate(spec.parts) for name in files_of(part.spec))
    return OPENERS[spec.kind].files + (TEXT_FILES if spec.has_text_tower else ())


def part_file(number: int, name: str) -> str:
    """Name a file of a part of a hybrid."""
    return f"{number}-{name}"


def open_encoder(
    spec: EncoderSpec, directory: Path, *, for_one: bool = False, with_map: bool = False, on_gpu: bool = False
) -> Encoder:
    """Open an exported encoder whose files were checked.

    Args:
        spec: What it is.
        directory: Where its files are.
        for_one: For single images, each soon, rather than for many.
        with_map: To give feature maps.
        on_gpu: Its networks on OpenVINO's GPU, which `has_openvino_gpu` finds.
    """
    prefix = f"{directory}{os.sep}"
    return OPENERS[spec.kind].open(spec, prefix, for_one=for_one, with_map=with_map, on_gpu=on_gpu)


_FIRST_USE = threading.Lock()
_PROCESS: list[int] = []  # the one that OpenVINO has its threads in, once they are started


def import_openvino() -> Any:
    """Import OpenVINO without its telemetry, which otherwise reports each import to its makers."""
    if _PROCESS and _PROCESS[0] != os.getpid():
        raise UsageError(
            f"OpenVINO was started in another process (pid {_PROCESS[0]}) and does not run in a fork of it",
            hint="fork before the first image is encoded, or start processes with multiprocessing's method spawn",
        )
    # None forbids the import, and OpenVINO falls back to a stub.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    if "openvino" not in sys.modules:
        require_address_space(_OPENVINO_BYTES, "OpenVINO")
    import openvino

    # It sets up its types when an array is first used. Two threads that come to that at once wait for each other
    # forever, the one with Python's global lock, the other with that of a static variable.
    with _FIRST_USE:
        _ = openvino.Tensor(np.zeros(1, np.uint8), shared_memory=True).data
        _PROCESS[:] = [os.getpid()]
    return openvino


def best_precision() -> Precision:
    """Return `bf16` where this processor computes in it, which is twice as fast, and `f32` elsewhere."""
    capabilities = import_openvino().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return "bf16" if "BF16" in capabilities else "f32"


def has_openvino_gpu() -> bool:
    """Return whether OpenVINO can run networks on a GPU."""
    return any(device.startswith("GPU") for device in import_openvino().Core().available_devices)


def _keep_in_fork() -> None:
    """Never free, in a fork, what OpenVINO runs: it would wait forever for its threads, which are not there."""
    import ctypes

    for encoder in OPENED:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(encoder))


OPENED: "weakref.WeakSet[Any]" = weakref.WeakSet()  # what holds a compiled graph
os.register_at_fork(after_in_child=_keep_in_fork)


class OpenVinoEncoder:
    """A graph that Keras exported, run by OpenVINO; `for_one` compiles it for latency rather than for throughput."""

    batch_size = 4  # fewer calls than one by one; larger batches keep the decoders waiting

    def __init__(
        self, spec: EncoderSpec, graph: Path, *, for_one: bool = False, with_map: bool = False, on_gpu: bool = False
    ) -> None:
        self.spec = spec
        openvino = import_openvino()
        core = openvino.Core()
        count = processor_count()
        settings = {
            "PERFORMANCE_HINT": "LATENCY" if for_one else "THROUGHPUT",
            # A graph in int8 says itself what is; the rest is the same on every processor in f32.
            "INFERENCE_PRECISION_HINT": "f32" if spec.precision == "int8" else spec.precision,
        }
        if on_gpu:
            self.batch_size = _GPU_BATCH
        elif count < (os.cpu_count() or 1):
            # OpenVINO does not know of quotas; where it may use all, it chooses itself.
            settings["INFERENCE_NUM_THREADS"] = str(count)
        if not for_one and not on_gpu:
            # One stream a core: OpenVINO's own choice leaves cores to themselves that our decoders do not fill.
            settings["NUM_STREAMS"] = str(count)
        model = read_graph(core, graph)
        if not with_map:
            model = openvino.Model([model.output(0)], model.get_parameters(), "encoder")
        self._model = compile_graph(core, model, settings, spec.name, "GPU" if on_gpu else "CPU")
        outputs = self._model.output(0).partial_shape[1].get_length()
        if outputs != spec.dims:
            raise DamagedIndexError(f"the encoder in {graph.parent} gives {outputs} numbers, expected {spec.dims}")
        # Twice what runs at once, so that no core waits while we fetch results and fill the next request.
        self._most_running = 1 if for_one else 2 * self._model.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS")
        # A request is for one thread at a time. There are never more than threads have run at once.
        self._free_requests: deque[Any] = deque()
        OPENED.add(self)

    def encode_stream(self, batches: Iterable["Pixels"]) -> Iterator[Embeddings]:
        running: deque[tuple[Any, Pixels]] = deque()
        for batch in batches:
            if len(running) == self._most_running:
                yield self._finish(running)
            request = self._take_request()
            # Shared, not copied: the batch is kept until its request is done.
            request.start_async([batch], share_inputs=True)
            running.append((request, batch))
        while running:
            yield self._finish(running)

    def encode_with_features(self, image: "Pixels") -> EncodedImage:
        embedding, *features = self._infer(image)
        return EncodedImage(unit_rows(embedding)[0], features[0][0] if features else None)

    def _infer(self, image: "Pixels") -> list[NDArray[np.float32]]:
        """Run the encoder on one image; returns copies of its outputs."""
        request = self._take_request()
        # Shared, as in a stream: to copy it would be to write into the batch that the request shared before.
        request.infer([image[None]], share_inputs=True)
        outputs = [np.array(tensor.data, np.float32) for tensor in request.output_tensors]
        self._free_requests.append(request)
        return outputs

    def _take_request(self) -> Any:
        try:
            return self._free_requests.pop()
        except IndexError:
            return self._model.create_infer_request()

    def _finish(self, running: deque[tuple[Any, "Pixels"]]) -> Embeddings:
        request, _ = running.popleft()
        request.wait()
        rows = np.array(request.get_output_tensor(0).data, np.float32)
        self._free_requests.append(request)
        return rows if self.spec.kind == "classifier" else unit_rows(rows)


def read_graph(core: Any, graph: Path) -> Any:
    """Read a graph of an exported encoder; `DamagedIndexError` if it is none."""
    # OpenVINO does not say why it cannot open a file.
    try:
        with reading(graph, ""), open_regular(graph), open_regular(graph.with_suffix(".bin")):
            pass
    except FileNotFoundError as error:
        raise DamagedIndexError(f"{error.filename} is missing") from error
    try:
        return core.read_model(graph)
    except RuntimeError as error:
        raise refusal_of(error) or DamagedIndexError(
            f"the encoder in {graph.parent} is damaged: {last_line(error)}"
        ) from error


def save_graph(model: Any, graph: Path) -> None:
    """Write a model of OpenVINO as it is; `OutputError` if it cannot be written."""
    try:
        import_openvino().save_model(model, os.fspath(graph), compress_to_fp16=False)
    except RuntimeError as error:
        raise refusal_of(error) or OutputError(
            f"cannot write to {graph.parent}: {last_line(error)}", hint="is there room?"
        ) from error
    require_whole(graph)


def require_whole(graph: Path) -> None:
    """Raise `OutputError` unless a graph that was just written can be read."""
    try:
        import_openvino().Core().read_model(graph)  # the last bytes may be lost on a full disk without a word
    except RuntimeError as error:
        raise refusal_of(error) or OutputError(
            f"{graph} was not written whole: {last_line(error)}", hint="is there room?"
        ) from error


def compile_graph(core: Any, model: Any, settings: Mapping[str, str], name: str, device: str = "CPU") -> Any:
    """Compile a graph of the encoder `name` for a device; `MissingComponentError` if that does not run here."""
    try:
        return core.compile_model(model, device, settings)
    except RuntimeError as error:
        raise refusal_of(error) or MissingComponentError(
            f"OpenVINO cannot compile the encoder {name} on this machine: {last_line(error)}",
            hint="is executable memory forbidden here (systemd: MemoryDenyWriteExecute=no allows it)?"
            " An index of --backbone handcrafted needs none",
        ) from error


def last_line(error: Exception) -> str:
    """Return what OpenVINO says after the places in its source."""
    return (str(error).strip().splitlines() or [repr(error)])[-1].strip()


class _ImageByImage:
    """Describes one image after another."""

    batch_size = 32
    spec: EncoderSpec
    _describe: Callable[["Pixels"], Embeddings]

    def encode_stream(self, batches: Iterable["Pixels"]) -> Iterator[Embeddings]:
        for batch in batches:
            yield unit_rows(np.stack([self._describe(image) for image in batch]))

    def encode_with_features(self, image: "Pixels") -> EncodedImage:
        return EncodedImage(encode(self, image[None])[0], None)


class HandcraftedEncoder(_ImageByImage):
    """What a row of the table describes without weights, by its name and version."""

    def __init__(self, spec: EncoderSpec) -> None:
        self.spec = spec
        for row in (*OLD_ROWS, *TABLE.values()):
            known = (row.spec.name, row.spec.version, row.spec.dims)
            if row.describe and known == (spec.name, spec.version, spec.dims):
                break
        else:
            raise DamagedIndexError(
                f"the index was built with {spec.name}, version {spec.version}, of {spec.dims} dimensions,"
                " which this imgsearch does not have",
                hint="is it of a newer imgsearch? Else build the index again: --backbone handcrafted",
            )
        self._describe = pkgutil.resolve_name(row.describe)


class VisualWordsEncoder(_ImageByImage):
    """Local features counted by a vocabulary; see `visual_words`."""

    def __init__(self, spec: EncoderSpec, file: Path) -> None:
        from imgsearch.encoders.visual_words import Vocabulary, describe

        self.spec = spec
        self._describe = functools.partial(describe, vocabulary=Vocabulary.load(str(file), spec.dims))


class HybridEncoder:
    """Several encoders side by side: unit embeddings in a row, each times its weight, zeros from one that has none."""

    def __init__(self, spec: EncoderSpec, parts: Sequence[Encoder]) -> None:
        self.spec = spec
        self.batch_size = min(part.batch_size for part in parts)
        self._parts = parts

    def encode_stream(self, batches: Iterable["Pixels"]) -> Iterator[Embeddings]:
        copies = itertools.tee(batches, len(self._parts))
        streams = [
            part.encode_stream(resized(batches, part.spec.size))
            for part, batches in zip(self._parts, copies, strict=True)
        ]
        for rows in zip(*streams, strict=True):
            yield self._concatenated(rows)

    def encode_with_features(self, image: "Pixels") -> EncodedImage:
        encoded = [part.encode_with_features(next(resized([image[None]], part.spec.size))[0]) for part in self._parts]
        features = next((each.features for each in encoded if each.features is not None), None)
        return EncodedImage(self._concatenated([each.embedding[None] for each in encoded])[0], features)

    def _concatenated(self, rows: Sequence[Embeddings]) -> Embeddings:
        weights = [part.weight for part in self.spec.parts]
        weighted = [np.nan_to_num(part) * weight for part, weight in zip(rows, weights, strict=True)]
        return unit_rows(np.concatenate(weighted, axis=1, dtype=np.float32))


def resized(batches: Iterable["Pixels"], size: int) -> Iterator["Pixels"]:
    """Bring batches of fitted images, uint8 (n, side, side, 3), to the size of one part of a hybrid."""
    from imgsearch.images.transform import fit

    for batch in batches:
        same = batch.shape[1] == size
        yield batch if same else np.stack([fit(image, size, "stretch") for image in batch])


def unit_rows(rows: Embeddings) -> Embeddings:
    """Bring rows, float32 (n, d), to unit length, which bf16 does not quite; a row that is zero or infinite to NaN."""
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    usable = np.isfinite(lengths) & (lengths > 0)
    return np.where(usable, rows / np.where(usable, lengths, 1), np.nan).astype(np.float32)


@dataclass(frozen=True, slots=True)
class Opener:
    """How encoders of one kind are opened, and the files that they are run from."""

    files: tuple[str, ...]
    # Takes the spec, what the paths of its files begin with, and the options of `open_encoder`.
    open: Callable[..., Encoder]


def _open_hybrid(spec: EncoderSpec, prefix: str, **options: bool) -> Encoder:
    parts = [
        OPENERS[part.spec.kind].open(part.spec, prefix + part_file(number, ""), **options)
        for number, part in enumerate(spec.parts)
    ]
    return HybridEncoder(spec, parts)


_GRAPH = Opener(
    (GRAPH_FILE, "encoder.bin"),
    lambda spec, prefix, **options: OpenVinoEncoder(spec, Path(prefix + GRAPH_FILE), **options),
)
OPENERS: Mapping[Kind, Opener] = {
    "network": _GRAPH,
    "model": _GRAPH,
    "onnx": _GRAPH,
    "classifier": _GRAPH,
    "detector": _GRAPH,
    "handcrafted": Opener((), lambda spec, *_, **__: HandcraftedEncoder(spec)),
    "visual-words": Opener(
        (VOCABULARY_FILE,), lambda spec, prefix, **_: VisualWordsEncoder(spec, Path(prefix + VOCABULARY_FILE))
    ),
    "hybrid": Opener((), _open_hybrid),
}
