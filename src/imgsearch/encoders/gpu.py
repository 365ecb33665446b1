"""Encode a build's images on a GPU, which is believed only as far as it gives the CPU's embeddings."""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from imgsearch.encoders.keras_encoder import KerasEncoder
from imgsearch.encoders.runtime import (
    Embeddings,
    EncodedImage,
    Encoder,
    encode,
    has_openvino_gpu,
    last_line,
    open_encoder,
)
from imgsearch.encoders.spec import EncoderSpec
from imgsearch.errors import MissingComponentError

if TYPE_CHECKING:
    from imgsearch.images.decode import Pixels

logger = logging.getLogger(__name__)

Device = Literal["cpu", "gpu"]

# What components of a unit embedding may differ by. In float32, devices differ in the sixth digit.
TOLERANCE = 1e-3

# Images of each batch that the CPU encodes, too.
_COMPARED = 4

# Fewer images have been encoded before a GPU has been set up.
_FEW_IMAGES = 500

# Drivers of GPUs that Keras' backends may compute on: NVIDIA's, AMD's, and that of Windows below Linux.
_DRIVERS = ("dev/nvidia0", "dev/kfd", "dev/dxg")


def open_for_build(
    spec: EncoderSpec, folder: Path, files: Mapping[str, Path], device: Device, count: int, root: Path = Path("/")
) -> Encoder:
    """Open an encoder for a build, on a GPU if that is asked for and can be had, else on the CPU, with a warning.

    Args:
        spec: What it is.
        folder: Its exported files.
        files: Files of weights, by their sha256.
        device: What to encode on.
        count: How many images, about.
        root: Where `dev` is.
    """
    encoder = open_encoder(spec, folder)
    if device == "cpu":
        return encoder
    if count < _FEW_IMAGES:
        logger.info("%d images are encoded on the CPU: a GPU would take longer to set up", count)
        return encoder
    try:
        return ComparedEncoder(_open_on_gpu(spec, folder, files, root), encoder)
    except MissingComponentError as error:
        logger.warning("no GPU is used, but the CPU: %s", error)
        return encoder


def _open_on_gpu(spec: EncoderSpec, folder: Path, files: Mapping[str, Path], root: Path) -> Encoder:
    if spec.precision != "f32":
        raise MissingComponentError(
            f"the index is in {spec.precision}, and a GPU computes in f32 (--precision f32 embeds all images again)"
        )
    ways: list[Callable[[], Encoder]] = []
    # First, for a GPU that OpenVINO has is most often the small one in a processor.
    if any((root / driver).exists() for driver in _DRIVERS):
        ways.append(lambda: _open_keras(spec, files))
    if has_openvino_gpu():
        ways.append(lambda: open_encoder(spec, folder, on_gpu=True))
    reasons = []
    for way in ways:
        try:
            return way()
        except MissingComponentError as error:
            reasons.append(error.message)
    raise MissingComponentError("; ".join(reasons) or "none was found")


def _open_keras(spec: EncoderSpec, files: Mapping[str, Path]) -> Encoder:
    if spec.kind not in ("network", "model"):
        raise MissingComponentError(f"Keras does not run {spec.name}")
    encoder = KerasEncoder(spec, files.get(spec.weights))
    logger.info("Keras encodes on %s", encoder.device)
    return encoder


class ComparedEncoder:
    """An encoder on a GPU; the CPU encodes some images of each batch, too, and all once they come out otherwise."""

    def __init__(self, gpu: Encoder, cpu: Encoder) -> None:
        self.spec = cpu.spec
        self.batch_size = gpu.batch_size
        self._gpu: Encoder | None = gpu
        self._cpu = cpu

    def encode_stream(self, batches: Iterable["Pixels"]) -> Iterator[Embeddings]:
        """See `Encoder.encode_stream`."""
        for batch in batches:
            rows = None if self._gpu is None else self._encode_on_gpu(self._gpu, batch)
            yield self._encode_on_cpu(batch, self._cpu.batch_size) if rows is None else rows

    def encode_with_features(self, image: "Pixels") -> EncodedImage:
        """See `Encoder.encode_with_features`."""
        return self._cpu.encode_with_features(image)

    def _encode_on_gpu(self, gpu: Encoder, batch: "Pixels") -> Embeddings | None:
        """Return embeddings, or None, and leave the GPU for good, if they are not the CPU's or there are none."""
        try:
            rows = encode(gpu, batch)
        except (MissingComponentError, RuntimeError) as error:  # the latter is OpenVINO's
            problem = last_line(error)
        else:
            places = np.linspace(0, len(batch) - 1, min(_COMPARED, len(batch))).astype(np.intp)
            expected = self._encode_on_cpu(batch[places], 1)
            # A row of NaN is one from which nothing came; on both, that is the same.
            difference = float(np.abs(np.nan_to_num(rows[places]) - np.nan_to_num(expected)).max(initial=0))
            if difference <= TOLERANCE:
                return rows
            problem = f"an embedding differs from the CPU's by {difference:.2g}, expected at most {TOLERANCE:g}"
        logger.warning("the GPU is not used any more, but the CPU: %s", problem)
        self._gpu = None
        return None

    def _encode_on_cpu(self, images: "Pixels", size: int) -> Embeddings:
        batches = (images[start : start + size] for start in range(0, len(images), size))
        return np.concatenate(list(self._cpu.encode_stream(batches)))
