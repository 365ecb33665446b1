"""An encoder that Keras runs, on a GPU, in a process of its own: TensorFlow must not be in one that starts others.

The parent sends `<I` a number of images and their bytes; the process answers `<BI` status and length, then float32
embeddings (status 0) or a message (status 1). Its first answer, unasked, is the name of the device.
"""

import contextlib
import json
import os
import signal
import struct
import subprocess
import sys
import tempfile
import time
import weakref
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from imgsearch.encoders.runtime import Embeddings, EncodedImage, encode, unit_rows
from imgsearch.encoders.spec import EncoderSpec
from imgsearch.errors import ImgsearchError, MissingComponentError
from imgsearch.images.workers.process import read_exactly, write_all
from imgsearch.processors import limit_libraries
from imgsearch.system import refusal_of

if TYPE_CHECKING:
    from imgsearch.images.decode import Pixels

# Compiled once, for just so many images: fewer keep a large GPU waiting, more keep the decoders waiting.
_IMAGES = 128

# For the libraries, a network and its first batch, which some GPUs compile for minutes; then for each batch.
_SECONDS_TO_START = 900.0
_SECONDS = 120.0

# Of an answer, so that no length that is wrong takes all memory.
_MOST_BYTES = 1 << 28

_REQUEST = struct.Struct("<I")
_ANSWER = struct.Struct("<BI")

# -B: TensorFlow would leave bytecode of passing code behind.
_COMMAND = (sys.executable, "-B", "-P", "-m", "imgsearch.encoders.keras_encoder")
_SETTINGS = {
    "TF_CPP_MIN_LOG_LEVEL": "3",
    # Products of numbers cut to 10 bits would be faster, and not the CPU's. It holds for all of NVIDIA's libraries.
    "NVIDIA_TF32_OVERRIDE": "0",
    # As much of the GPU's memory as is needed, where others may compute, too, rather than all.
    "TF_FORCE_GPU_ALLOW_GROWTH": "true",
    "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
}


class KerasEncoder:
    """A network of Keras in a process of its own, which ends with this object; for one thread at a time.

    Args:
        spec: Of the kind `network` or `model`, in f32.
        weights: The file that it names by its sha256, if it does.
        require_gpu: Whether it is to be refused where Keras computes on the CPU.

    Raises:
        MissingComponentError: Keras or the weights are missing, there is no GPU, or the process ended.
    """

    batch_size = _IMAGES

    def __init__(self, spec: EncoderSpec, weights: Path | None, *, require_gpu: bool = True) -> None:
        self.spec = spec
        request = json.dumps({"spec": spec.to_json(), "weights": os.fspath(weights) if weights else None})
        self._said = tempfile.TemporaryFile()  # noqa: SIM115  # closed with the object
        try:
            process = subprocess.Popen(
                [*_COMMAND, request],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._said,
                env={**os.environ, **_SETTINGS},
            )
        except OSError as error:
            raise refusal_of(error) or MissingComponentError(f"cannot start a process for Keras: {error}") from error
        assert process.stdin is not None
        assert process.stdout is not None
        self.close = weakref.finalize(self, _end, process, self._said)
        self._requests, self._answers = process.stdin.fileno(), process.stdout.fileno()
        os.set_blocking(self._requests, False)  # so that a clock runs while it is written to
        self._seconds = _SECONDS_TO_START
        self.device = bytes(self._answer()).decode()
        if require_gpu and self.device == "cpu":
            self.close()
            raise MissingComponentError(
                "Keras sees no GPU",
                hint="is its backend installed with what this GPU needs, such as tensorflow[and-cuda]?",
            )

    def encode_stream(self, batches: Iterable["Pixels"]) -> Iterator[Embeddings]:
        """See `Encoder.encode_stream`; raises `MissingComponentError` once the process has failed, or takes long."""
        for batch in batches:
            parts = [self._encode(batch[start : start + _IMAGES]) for start in range(0, len(batch), _IMAGES)]
            yield np.concatenate([np.empty((0, self.spec.dims), np.float32), *parts])

    def encode_with_features(self, image: "Pixels") -> EncodedImage:
        """See `Encoder.encode_with_features`; it gives no feature map."""
        return EncodedImage(encode(self, image[None])[0], None)

    def _encode(self, images: "Pixels") -> Embeddings:
        answer = self._answer(images)
        self._seconds = _SECONDS
        try:
            rows = answer.view("<f4").reshape(len(images), self.spec.dims)
        except ValueError as error:
            self.close()
            raise MissingComponentError(f"Keras gave {len(answer)} bytes for {len(images)} images") from error
        return unit_rows(rows)

    def _answer(self, images: "Pixels | None" = None) -> "Pixels":
        """Return the bytes of the next answer, after sending images if there are any."""
        if not self.close.alive:
            raise MissingComponentError("the process of Keras has ended")
        deadline = time.monotonic() + self._seconds
        try:
            if images is not None:
                pixels = np.ascontiguousarray(images).data.cast("B")
                write_all(self._requests, [_REQUEST.pack(len(images)), pixels], deadline)
            status, length = _ANSWER.unpack(read_exactly(self._answers, _ANSWER.size, deadline).data)
            answer = read_exactly(self._answers, min(length, _MOST_BYTES), deadline)
        except TimeoutError:
            self.close()
            raise MissingComponentError(f"Keras has not answered in {self._seconds:g} s") from None
        except (EOFError, BrokenPipeError):
            raise MissingComponentError(f"the process of Keras ended: {self._last_words()}") from None
        if status:
            self.close()
            raise MissingComponentError(f"Keras failed: {bytes(answer).decode(errors='replace')}")
        return answer

    def _last_words(self) -> str:
        self._said.seek(0, os.SEEK_END)
        self._said.seek(max(0, self._said.tell() - 2000))
        lines = self._said.read().decode(errors="replace").strip().splitlines()
        self.close()
        return lines[-1] if lines else "it said nothing"


def _end(process: subprocess.Popen[bytes], said: Any) -> None:
    process.kill()
    process.communicate()
    said.close()


def device_name() -> str:
    """Return where Keras computes: `cpu`, or its backend's name for something faster."""
    from keras import ops

    name = str(ops.convert_to_tensor(np.zeros(1, np.float32)).device).lower()
    return "cpu" if "cpu" in name else name.rpartition("device:")[2]


def _serve(options: Mapping[str, Any]) -> None:
    """Be the process that a `KerasEncoder` starts."""
    # Ctrl-C, and what systemd sends to all processes of a service, are for the parent, which ends this one.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    answers = os.dup(1)
    os.dup2(2, 1)  # whatever Keras prints must not be read as an answer

    def answer(status: int, data: bytes | memoryview) -> None:
        write_all(answers, [_ANSWER.pack(status, len(data)), data])

    limit_libraries()
    try:
        spec = EncoderSpec.from_json(options["spec"])
        network = _compiled(spec, Path(options["weights"]) if options["weights"] else None)
    except (ImportError, ImgsearchError) as error:
        answer(1, str(error).encode(errors="replace"))
        return
    answer(0, device_name().encode())
    image_bytes = spec.size * spec.size * 3
    batch = np.zeros((_IMAGES, spec.size, spec.size, 3), np.uint8)
    while len(header := sys.stdin.buffer.read(_REQUEST.size)) == _REQUEST.size:
        (count,) = _REQUEST.unpack(header)
        pixels = np.frombuffer(sys.stdin.buffer.read(count * image_bytes), np.uint8)
        batch[:count] = pixels.reshape(count, spec.size, spec.size, 3)
        rows = np.asarray(network.predict_on_batch(batch), "<f4")[:count]
        answer(0, np.ascontiguousarray(rows).data.cast("B"))


def _compiled(spec: EncoderSpec, weights: Path | None) -> Any:
    import keras

    from imgsearch.encoders.networks import build_network

    network = build_network(spec, weights)
    # TensorFlow's own kernels; XLA would make others, and JAX has nothing else.
    network.compile(jit_compile=keras.backend.backend() == "jax")
    return network


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError):  # the parent is gone
        _serve(json.loads(sys.argv[1]))
