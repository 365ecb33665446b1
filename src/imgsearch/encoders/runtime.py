"""Run an encoder: through OpenVINO, through Keras itself, hand-crafted, or several side by side."""

import functools
import itertools
import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from imgsearch.encoders.spec import EncoderSpec, Precision
from imgsearch.errors import DamagedIndexError, MissingComponentError
from imgsearch.images.decode import Pixels
from imgsearch.images.transform import fit

Embeddings = NDArray[np.float32]

GRAPH_FILE = "encoder.xml"
GRAPH_WEIGHTS_FILE = "encoder.bin"
VOCABULARY_FILE = "vocabulary.npz"


FeatureMap = NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class EncodedImage:
    """What an encoder makes of one image.

    Attributes:
        embedding: float32 (dims,), as `Encoder.encode_stream` yields it.
        features: float32 (height, width, channels), a map of the fitted square; None from an encoder without one.
    """

    embedding: Embeddings
    features: FeatureMap | None


class Encoder(Protocol):
    """Turns fitted images into embeddings.

    Attributes:
        spec: What it is.
        batch_size: How many images it likes to be given at once.
    """

    spec: EncoderSpec
    batch_size: int

    def encode_stream(self, batches: Iterable[Pixels]) -> Iterator[Embeddings]:
        """Encode batches, several at once where that is faster.

        Args:
            batches: RGB, uint8, each of shape (n, size, size, 3).

        Yields:
            For each batch, in order, float32 of shape (n, dims). Rows have unit length, but a row is NaN where
            the encoder gave nothing that can be brought to unit length.
        """
        ...


def encode(encoder: Encoder, images: Pixels) -> Embeddings:
    """Encode one batch.

    Args:
        encoder: Any encoder.
        images: RGB, uint8 of shape (n, size, size, 3).

    Returns:
        float32 of shape (n, dims), as `Encoder.encode_stream` yields them.
    """
    return next(iter(encoder.encode_stream([images])))


def encode_with_features(encoder: Encoder, image: Pixels) -> EncodedImage:
    """Encode one image, in one pass with its feature map where the encoder has one.

    Args:
        encoder: Any encoder.
        image: RGB, uint8 of shape (size, size, 3).
    """
    if isinstance(encoder, OpenVinoEncoder | HybridEncoder):
        return encoder.encode_with_features(image)
    return EncodedImage(encode(encoder, image[None])[0], None)


def files_of(spec: EncoderSpec) -> tuple[str, ...]:
    """Name the files that an encoder is run from; a hybrid has those of its parts, each with the part's number."""
    if spec.kind == "hybrid":
        return tuple(part_file(number, name) for number, part in enumerate(spec.parts) for name in files_of(part.spec))
    if spec.kind == "visual-words":
        return (VOCABULARY_FILE,)
    return () if spec.kind == "handcrafted" else (GRAPH_FILE, GRAPH_WEIGHTS_FILE)


def part_file(number: int, name: str) -> str:
    """Name a file of a part of a hybrid."""
    return f"{number}-{name}"


def open_encoder(spec: EncoderSpec, directory: Path, *, for_one: bool = False, with_map: bool = False) -> Encoder:
    """Open an encoder that was exported.

    Args:
        spec: What it is.
        directory: Folder with the files that `files_of` names. Check their hashes first.
        for_one: Whether it is for a single image soon rather than for many.
        with_map: Whether `encode_with_features` is to give feature maps, which take time to hand out.

    Returns:
        The encoder, networks on OpenVINO.

    Raises:
        DamagedIndexError: A file cannot be read, or is not what `spec` says.
    """
    return _open(spec, lambda name: directory / name, for_one=for_one, with_map=with_map)


def _open(spec: EncoderSpec, locate: Callable[[str], Path], *, for_one: bool, with_map: bool) -> Encoder:
    if spec.kind == "handcrafted":
        return HandcraftedEncoder(spec)
    if spec.kind == "visual-words":
        return VisualWordsEncoder(spec, locate(VOCABULARY_FILE))
    if spec.kind == "hybrid":
        parts = [
            _open(part.spec, functools.partial(_located, locate, number), for_one=for_one, with_map=with_map)
            for number, part in enumerate(spec.parts)
        ]
        return HybridEncoder(spec, parts)
    return OpenVinoEncoder(spec, locate(GRAPH_FILE), for_one=for_one, with_map=with_map)


def _located(locate: Callable[[str], Path], number: int, name: str) -> Path:
    return locate(part_file(number, name))


def import_openvino() -> Any:
    """Import OpenVINO without its telemetry, which otherwise reports each import to its makers.

    OpenVINO falls back to a stub when the package `openvino_telemetry` cannot be imported.
    """
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # None forbids the import
    import openvino

    return openvino


def best_precision() -> Precision:
    """Return `bf16` where this processor computes in it, which is twice as fast, and `f32` elsewhere."""
    capabilities = import_openvino().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return "bf16" if "BF16" in capabilities else "f32"


class OpenVinoEncoder:
    """A graph that Keras exported, run by OpenVINO.

    Args:
        spec: What it is.
        graph: The file `encoder.xml`; `encoder.bin` is beside it.
        for_one: Compile for the shortest time to one answer rather than for throughput.
        with_map: Keep all that the graph gives beside the embedding.

    Raises:
        DamagedIndexError: The graph cannot be read, or is not what `spec` says.
    """

    batch_size = 4  # fewer calls than one by one; larger batches keep the decoders waiting

    def __init__(self, spec: EncoderSpec, graph: Path, *, for_one: bool = False, with_map: bool = False) -> None:
        self.spec = spec
        openvino = import_openvino()
        core = openvino.Core()
        settings = {
            "PERFORMANCE_HINT": "LATENCY" if for_one else "THROUGHPUT",
            "INFERENCE_PRECISION_HINT": spec.precision,
        }
        if not for_one:
            # One stream a core: OpenVINO's own choice leaves cores to themselves that our decoders do not fill.
            settings["NUM_STREAMS"] = str(len(os.sched_getaffinity(0)))
        try:
            model = core.read_model(graph)
            if not with_map:
                model = openvino.Model([model.output(0)], model.get_parameters(), "encoder")
            self._model = core.compile_model(model, "CPU", settings)
            outputs = self._model.output(0).partial_shape[1].get_length()
        except RuntimeError as error:
            raise DamagedIndexError(f"the encoder in {graph.parent} cannot be read: {error}") from error
        if outputs != spec.dims:
            raise DamagedIndexError(f"the encoder in {graph.parent} gives {outputs} numbers, expected {spec.dims}")
        # Twice what runs at once, so that no core waits while we fetch results and fill the next request.
        count = 1 if for_one else 2 * self._model.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS")
        self._requests = [self._model.create_infer_request() for _ in range(count)]

    def encode_stream(self, batches: Iterable[Pixels]) -> Iterator[Embeddings]:
        """Encode batches; see `Encoder`."""
        free = deque(self._requests)
        running: deque[tuple[Any, Pixels]] = deque()
        for batch in batches:
            if not free:
                yield self._finish(running, free)
            request = free.popleft()
            # Shared, not copied: the batch is kept until its request is done.
            request.start_async([batch], share_inputs=True)
            running.append((request, batch))
        while running:
            yield self._finish(running, free)

    def encode_with_features(self, image: Pixels) -> EncodedImage:
        """Encode one image; see `encode_with_features`."""
        request = self._requests[0]
        request.infer([image[None]])
        embedding = unit_rows(np.array(request.get_output_tensor(0).data, np.float32))[0]
        has_map = len(self._model.outputs) > 1
        return EncodedImage(embedding, np.array(request.get_output_tensor(1).data[0], np.float32) if has_map else None)

    def _finish(self, running: deque[tuple[Any, Pixels]], free: deque[Any]) -> Embeddings:
        request, _ = running.popleft()
        request.wait()
        free.append(request)
        rows = np.array(request.get_output_tensor(0).data, np.float32)
        return rows if self.spec.kind == "classifier" else unit_rows(rows)


class KerasEncoder:
    """An encoder run by Keras on whatever backend it has: the reference, and the way to a GPU.

    Args:
        spec: What it is.
        weights: File with the weights, where `spec` names one.

    Raises:
        MissingComponentError: The weights are not available.
    """

    batch_size = 32

    def __init__(self, spec: EncoderSpec, weights: Path | None = None) -> None:
        from imgsearch.encoders.networks import build_network

        if spec.kind not in ("network", "model"):
            raise MissingComponentError(f"{spec.name} is not a Keras network")
        self.spec = spec
        self._network = build_network(spec, weights)

    def encode_stream(self, batches: Iterable[Pixels]) -> Iterator[Embeddings]:
        """Encode batches; see `Encoder`."""
        for batch in batches:
            yield unit_rows(np.asarray(self._network.predict_on_batch(batch), np.float32))


class HandcraftedEncoder:
    """Color, texture and shape, or one of them; see `handcrafted`.

    Args:
        spec: What it is.

    Raises:
        DamagedIndexError: It is one that this imgsearch does not have.
    """

    batch_size = 32

    def __init__(self, spec: EncoderSpec) -> None:
        from imgsearch.encoders import handcrafted

        self.spec = spec
        _, colon, part = spec.name.partition(":")
        describe: Callable[[Pixels], Embeddings] = handcrafted.describe_all
        dims = sum(handcrafted.PARTS.values())
        if spec.version == 1:
            describe, dims = handcrafted.describe_version_1, handcrafted.DIMS_VERSION_1
        elif colon:
            describe, dims = functools.partial(handcrafted.describe_part, part=part), handcrafted.PARTS.get(part, 0)
        if spec.version not in (1, 2) or spec.dims != dims:
            raise DamagedIndexError(
                f"the index was built with {spec.name}, version {spec.version}, of {spec.dims} dimensions,"
                " which this imgsearch does not have",
                hint="is it of a newer imgsearch? Else build the index again: --backbone handcrafted",
            )
        self._describe = describe

    def encode_stream(self, batches: Iterable[Pixels]) -> Iterator[Embeddings]:
        """Encode batches; see `Encoder`."""
        for batch in batches:
            yield unit_rows(np.stack([self._describe(image) for image in batch]))


class VisualWordsEncoder:
    """Local features counted by a vocabulary; see `visual_words`.

    Args:
        spec: What it is.
        file: Its vocabulary.

    Raises:
        DamagedIndexError: The vocabulary cannot be read.
    """

    batch_size = 32

    def __init__(self, spec: EncoderSpec, file: Path) -> None:
        from imgsearch.encoders.visual_words import Vocabulary

        self.spec = spec
        self._vocabulary = Vocabulary.load(str(file), spec.dims)

    def encode_stream(self, batches: Iterable[Pixels]) -> Iterator[Embeddings]:
        """Encode batches; see `Encoder`."""
        from imgsearch.encoders.visual_words import describe

        for batch in batches:
            yield unit_rows(np.stack([describe(image, self._vocabulary) for image in batch]))


class HybridEncoder:
    """Several encoders side by side: their unit embeddings, each times its weight, in a row.

    A part that finds nothing in an image leaves zeros.

    Args:
        spec: What it is.
        parts: The encoders, in the order of `spec.parts`.
    """

    def __init__(self, spec: EncoderSpec, parts: Sequence[Encoder]) -> None:
        self.spec = spec
        self.batch_size = min(part.batch_size for part in parts)
        self._parts = parts

    def encode_stream(self, batches: Iterable[Pixels]) -> Iterator[Embeddings]:
        """Encode batches; see `Encoder`."""
        copies = itertools.tee(batches, len(self._parts))
        streams = [
            part.encode_stream(_resized(batches, part.spec.size))
            for part, batches in zip(self._parts, copies, strict=True)
        ]
        for rows in zip(*streams, strict=True):
            yield self._joined(rows)

    def encode_with_features(self, image: Pixels) -> EncodedImage:
        """Encode one image, with the feature map of the first part that has one; see `encode_with_features`."""
        looks = [
            encode_with_features(part, next(_resized(iter([image[None]]), part.spec.size))[0]) for part in self._parts
        ]
        features = next((each.features for each in looks if each.features is not None), None)
        return EncodedImage(self._joined([each.embedding[None] for each in looks])[0], features)

    def _joined(self, rows: Sequence[Embeddings]) -> Embeddings:
        weights = [part.weight for part in self.spec.parts]
        weighted = [np.nan_to_num(part) * weight for part, weight in zip(rows, weights, strict=True)]
        return unit_rows(np.concatenate(weighted, axis=1, dtype=np.float32))


def _resized(batches: Iterable[Pixels], size: int) -> Iterator[Pixels]:
    for batch in batches:
        same = batch.shape[1] == size
        yield batch if same else np.stack([fit(image, size, "stretch") for image in batch])


def unit_rows(rows: Embeddings) -> Embeddings:
    """Bring rows to unit length; a row that is zero or not finite becomes NaN.

    bf16 leaves lengths wrong in the third digit, which would show in scores.

    Args:
        rows: float32 of shape (n, d).

    Returns:
        float32 of shape (n, d).
    """
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    usable = np.isfinite(lengths) & (lengths > 0)
    return np.where(usable, rows / np.where(usable, lengths, 1), np.nan).astype(np.float32)
