"""Run an encoder: through OpenVINO, through Keras itself, or hand-crafted."""

import os
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from imgsearch.encoders.spec import EncoderSpec, Precision
from imgsearch.errors import DamagedIndexError, MissingComponentError
from imgsearch.images.decode import Pixels

Embeddings = NDArray[np.float32]

GRAPH_FILE = "encoder.xml"
GRAPH_WEIGHTS_FILE = "encoder.bin"


class Encoder(Protocol):
    """Turns fitted pictures into embeddings.

    Attributes:
        spec: What it is.
        batch_size: How many pictures it likes to be given at once.
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


def encode(encoder: Encoder, pictures: Pixels) -> Embeddings:
    """Encode one batch.

    Args:
        encoder: Any encoder.
        pictures: RGB, uint8 of shape (n, size, size, 3).

    Returns:
        float32 of shape (n, dims), as `Encoder.encode_stream` yields them.
    """
    return next(iter(encoder.encode_stream([pictures])))


def open_encoder(spec: EncoderSpec, directory: Path, *, for_one: bool = False) -> Encoder:
    """Open an encoder that was exported.

    Args:
        spec: What it is.
        directory: Folder with its graph; not looked at for a hand-crafted one. Check the files' hashes first.
        for_one: Whether it is for a single picture soon rather than for many.

    Returns:
        The encoder, on OpenVINO unless it is hand-crafted.

    Raises:
        DamagedIndexError: The graph cannot be read, or is not what `spec` says.
    """
    if spec.kind == "handcrafted":
        return HandcraftedEncoder(spec)
    return OpenVinoEncoder(spec, directory, for_one=for_one)


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
        directory: Folder with `encoder.xml` and `encoder.bin`.
        for_one: Compile for the shortest time to one answer rather than for throughput.

    Raises:
        DamagedIndexError: The graph cannot be read, or is not what `spec` says.
    """

    batch_size = 4  # fewer calls than one by one; larger batches keep the decoders waiting

    def __init__(self, spec: EncoderSpec, directory: Path, *, for_one: bool = False) -> None:
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
            graph = core.read_model(directory / GRAPH_FILE)
            self._model = core.compile_model(graph, "CPU", settings)
            outputs = self._model.output(0).partial_shape[1].get_length()
        except RuntimeError as error:
            raise DamagedIndexError(f"the encoder in {directory} cannot be read: {error}") from error
        if outputs != spec.dims:
            raise DamagedIndexError(f"the encoder in {directory} gives {outputs} numbers, expected {spec.dims}")
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

    @staticmethod
    def _finish(running: deque[tuple[Any, Pixels]], free: deque[Any]) -> Embeddings:
        request, _ = running.popleft()
        request.wait()
        free.append(request)
        return unit_rows(np.array(request.get_output_tensor(0).data, np.float32))


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

        if spec.kind != "network":
            raise MissingComponentError(f"{spec.name} is not a Keras network")
        self.spec = spec
        self._network = build_network(spec, weights)

    def encode_stream(self, batches: Iterable[Pixels]) -> Iterator[Embeddings]:
        """Encode batches; see `Encoder`."""
        for batch in batches:
            yield unit_rows(np.asarray(self._network.predict_on_batch(batch), np.float32))


class HandcraftedEncoder:
    """Colours and gradients; see `handcrafted.describe`."""

    batch_size = 32

    def __init__(self, spec: EncoderSpec) -> None:
        self.spec = spec

    def encode_stream(self, batches: Iterable[Pixels]) -> Iterator[Embeddings]:
        """Encode batches; see `Encoder`."""
        from imgsearch.encoders.handcrafted import describe

        for batch in batches:
            yield unit_rows(np.stack([describe(picture) for picture in batch]))


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
