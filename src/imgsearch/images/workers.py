"""Decode in processes of their own: a file that kills or stalls the decoder costs that file, not the build.

A worker is this module, run by the same interpreter, and speaks over two pipes. The parent sends a picture file
as `<Q` length and bytes; the worker answers `<BI` status and length, then the pixels of one fitted square
(status 0) or a JSON object with `cause`, `message` and `hint` (status 1). It ends when its standard input does, so no
worker outlives its parent. (`multiprocessing` would run the caller's main module again in each worker, and has
no clock for a single task.)
"""

import json
import os
import selectors
import signal
import struct
import subprocess
import sys
import time
from typing import IO, cast, get_args

import numpy as np

from imgsearch.errors import MissingComponentError, PictureError
from imgsearch.images.decode import Pixels, decode
from imgsearch.images.transform import Fit, fit

DECODE_SECONDS = 30.0

# A fitted picture, and most pictures in a file, go through in one piece. Linux allows a user 64 MiB of pipes.
_PIPE_BYTES = 1 << 18

_REQUEST = struct.Struct("<Q")
_ANSWER = struct.Struct("<BI")


def decode_and_fit(data: bytes, size: int, how: Fit) -> Pixels:
    """Decode a picture file and bring it to an encoder's size.

    Args:
        data: The file.
        size: Side of the square in pixels.
        how: As for `transform.fit`.

    Returns:
        RGB, uint8 of shape (size, size, 3).

    Raises:
        PictureError: As for `decode.decode`.
    """
    # A crop shows the middle only, so there the shorter side decides what may be thrown away; the decoder knows
    # the longer one. Only `pad` lets it shrink.
    return fit(decode(data, shrink_to=size if how == "pad" else 0), size, how)


class DecodeWorker:
    """One worker process, started when first needed and again after it died. For one thread at a time.

    Args:
        size: Side of the squares in pixels.
        how: As for `transform.fit`.
        seconds: How long one file may take.
    """

    def __init__(self, size: int, how: Fit, *, seconds: float = DECODE_SECONDS) -> None:
        self._size = size
        self._how = how
        self._seconds = seconds
        self._process: subprocess.Popen[bytes] | None = None

    def decode(self, data: bytes) -> Pixels:
        """Do `decode_and_fit` in the worker.

        Args:
            data: A picture file.

        Returns:
            RGB, uint8 of shape (size, size, 3).

        Raises:
            PictureError: As for `decode.decode`; also `decoder_crashed` and `timeout`.
        """
        process = self._process or self._start()
        deadline = time.monotonic() + self._seconds
        try:
            _write(process, _REQUEST.pack(len(data)) + data, deadline)
            status, length = _ANSWER.unpack(_read(process, _ANSWER.size, deadline))
            answer = _read(process, length, deadline)
        except TimeoutError:
            self.close()
            raise PictureError("timeout", f"not decoded in {self._seconds:g} s") from None
        except (EOFError, BrokenPipeError):
            self.close()
            raise PictureError("decoder_crashed", "the decoder crashed on this file") from None
        if status:
            refusal = json.loads(answer)
            raise PictureError(refusal["cause"], refusal["message"], hint=refusal["hint"])
        return np.frombuffer(answer, np.uint8).reshape(self._size, self._size, 3)

    def close(self) -> None:
        """End the process, whatever it is doing."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def _start(self) -> subprocess.Popen[bytes]:
        # -P: a catalogue that holds a file called numpy.py must not be able to run it from here.
        command = [sys.executable, "-P", "-m", "imgsearch.images.workers", str(self._size), self._how]
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                pipesize=_PIPE_BYTES,
            )
        except OSError as error:
            raise MissingComponentError(f"cannot start a decoder process: {error}") from error
        os.set_blocking(_stream(self._process.stdin).fileno(), False)
        return self._process


def _stream(pipe: IO[bytes] | None) -> IO[bytes]:
    return cast("IO[bytes]", pipe)


def _write(process: subprocess.Popen[bytes], data: bytes, deadline: float) -> None:
    """Send all of `data` to the worker, or raise TimeoutError: one that is stuck may not even read."""
    descriptor = _stream(process.stdin).fileno()
    left = memoryview(data)
    with selectors.DefaultSelector() as selector:
        selector.register(descriptor, selectors.EVENT_WRITE)
        while left:
            if not selector.select(max(0.0, deadline - time.monotonic())):
                raise TimeoutError
            left = left[os.write(descriptor, left) :]


def _read(process: subprocess.Popen[bytes], length: int, deadline: float) -> bytes:
    """Read just `length` bytes of the worker's answer, or raise TimeoutError or EOFError."""
    descriptor = _stream(process.stdout).fileno()
    answer = bytearray()
    with selectors.DefaultSelector() as selector:
        selector.register(descriptor, selectors.EVENT_READ)
        while len(answer) < length:
            if not selector.select(max(0.0, deadline - time.monotonic())):
                raise TimeoutError
            part = os.read(descriptor, min(length - len(answer), 1 << 20))
            if not part:
                raise EOFError
            answer += part
    return bytes(answer)


def _serve(size: int, how: Fit) -> None:
    """Answer requests on standard input until it ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which then ends this process
    requests = sys.stdin.buffer
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a library prints must not be read as pixels
    while len(header := requests.read(_REQUEST.size)) == _REQUEST.size:
        (length,) = _REQUEST.unpack(header)
        try:
            status, answer = 0, decode_and_fit(requests.read(length), size, how).tobytes()
        except PictureError as error:
            status, answer = 1, _refusal(error)
        except MemoryError:
            status, answer = 1, _refusal(PictureError("too_large", "needs too much memory"))
        answers.write(_ANSWER.pack(status, len(answer)) + answer)
        answers.flush()


def _refusal(error: PictureError) -> bytes:
    return json.dumps({"cause": error.cause, "message": error.message, "hint": error.hint}).encode()


if __name__ == "__main__":
    import cv2

    cv2.setNumThreads(1)  # one process a core is all the parallelism there is to have
    chosen = sys.argv[2]
    assert chosen in get_args(Fit)
    _serve(int(sys.argv[1]), cast("Fit", chosen))
