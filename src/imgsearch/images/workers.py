"""Decode in processes of their own: a file that kills or stalls the decoder costs that file, not the build.

A worker is this module, run by the same interpreter, and speaks over two pipes. The parent sends a picture file
as `<Q` length and bytes; the worker answers `<BI` status and length, then the pixels of one fitted square, after
which it may say what is damaged (status 0), or a JSON object with `cause`, `message` and `hint` (status 1).

A worker's memory is limited, and it dumps no core. It ends when its standard input does, and its own alarm ends it
should its parent be killed while it is stuck. (`multiprocessing` would run the caller's main module again in each
worker, and has no clock for a single task.)
"""

import contextlib
import fcntl
import json
import os
import resource
import select
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from typing import IO, Any, cast, get_args

import numpy as np

from imgsearch.errors import MissingComponentError, PictureError
from imgsearch.images import MAX_PIXELS
from imgsearch.images.decode import Pixels, decode, salvage, within_memory
from imgsearch.images.headers import checked_size, picture_format
from imgsearch.images.policy import MAX_BYTES, FilePolicy
from imgsearch.images.transform import Fit, fit

DECODE_SECONDS = 30.0

# Of address space, which is what can be limited. OpenCV holds a picture twice; 16-bit RGBA takes 8 bytes a pixel.
# At the default limit of pixels all but the deepest pictures fit, and no bomb does.
_LEAST_MEMORY = 2 << 30
_BYTES_A_PIXEL = 8

# A fitted picture, and most pictures in a file, go through in one piece. Linux allows a user 64 MiB of pipes.
_PIPE_BYTES = 1 << 18

# Room for a cause, a message and a hint, or for what the decoder said.
_LONGEST_TEXT = 4096

# A progressive JPEG has about ten scans. Each costs time, and no limit but a clock helps against thousands.
_JPEG_START = b"\xff\xd8\xff"
_SCAN = b"\xff\xda"
_MANY_SCANS = 100

_Bytes = bytes | memoryview

_REQUEST = struct.Struct("<Q")
_ANSWER = struct.Struct("<BI")


def decode_and_fit(data: bytes, size: int, how: Fit, *, max_pixels: int = MAX_PIXELS) -> Pixels:
    """Decode a picture file and bring it to an encoder's size.

    Args:
        data: The file.
        size: Side of the square in pixels.
        how: As for `transform.fit`.
        max_pixels: As for `decode.decode`.

    Returns:
        RGB, uint8 of shape (size, size, 3).

    Raises:
        PictureError: As for `decode.decode`.
    """
    with within_memory():
        return fit(decode(data, shrink_to=_shrink_to(size, how), max_pixels=max_pixels), size, how)


def decode_and_fit_guarded(data: bytes, size: int, how: Fit, policy: FilePolicy) -> Pixels:
    """Do `decode_and_fit` here; or in a process if it is a JPEG that needs a clock, or larger than OpenCV admits here.

    Args:
        data: The file.
        size: As for `decode_and_fit`.
        how: As for `decode_and_fit`.
        policy: What is let in; nothing less than by default.

    Returns:
        As `decode_and_fit`.

    Raises:
        PictureError: As for `DecodeWorker.decode`.
    """
    max_pixels = max(MAX_PIXELS, policy.max_pixels)
    dimensions = checked_size(data, picture_format(data), max_pixels) or (0, 0)
    has_many_scans = data.startswith(_JPEG_START) and data.count(_SCAN) >= _MANY_SCANS
    if not has_many_scans and dimensions[0] * dimensions[1] <= MAX_PIXELS:
        return decode_and_fit(data, size, how)
    worker = DecodeWorker(size, how, FilePolicy(policy.max_bytes, max_pixels))
    try:
        return worker.decode(data)[0]
    finally:
        worker.close()


def _shrink_to(size: int, how: Fit) -> int:
    # A crop shows the middle only, so there the shorter side decides what may be thrown away; the decoder knows
    # the longer one. Only `pad` lets it shrink.
    return size if how == "pad" else 0


class DecodeWorker:
    """One worker process, started when first needed and again after it died. For one thread at a time.

    Args:
        size: Side of the squares in pixels.
        how: As for `transform.fit`.
        policy: What is let in.
        seconds: How long one file may take.
    """

    def __init__(
        self, size: int, how: Fit, policy: FilePolicy | None = None, *, seconds: float = DECODE_SECONDS
    ) -> None:
        self._size = size
        self._how = how
        self._policy = policy or FilePolicy()
        self._seconds = seconds
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()
        self._ended = False

    def decode(self, data: bytes) -> tuple[Pixels, str]:
        """Do `decode_and_fit` in the worker.

        Args:
            data: A picture file.

        Returns:
            RGB, uint8 of shape (size, size, 3); what is damaged, if damaged pictures are kept, else empty.

        Raises:
            PictureError: As for `decode.decode`; also `decoder_crashed` and `timeout`.
        """
        with self._lock:
            if self._ended:
                raise PictureError("decoder_crashed", "the decoder was ended")
            process = self._process or self._start()
        deadline = time.monotonic() + self._seconds
        count = 3 * self._size * self._size
        try:
            _write(_stream(process.stdin).fileno(), [_REQUEST.pack(len(data)), data], deadline)
            status, answer = _read_answer(process, count + _LONGEST_TEXT, deadline)
        except TimeoutError:
            self.close()
            raise PictureError("timeout", f"not decoded in {self._seconds:g} s") from None
        except (EOFError, BrokenPipeError):
            self.close()
            raise PictureError("decoder_crashed", "the decoder crashed on this file") from None
        if status:
            refusal = json.loads(answer.tobytes())
            raise PictureError(refusal["cause"], refusal["message"], hint=refusal["hint"])
        return answer[:count].reshape(self._size, self._size, 3), answer[count:].tobytes().decode()

    def kill(self) -> None:
        """End the process for good, from any thread: whoever waits for it is told `decoder_crashed`."""
        with self._lock:
            self._ended = True
            if self._process is not None:
                self._process.kill()

    def close(self) -> None:
        """End the process, whatever it is doing."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def _start(self) -> subprocess.Popen[bytes]:
        task = {"size": self._size, "how": self._how, "policy": self._policy.to_json(), "seconds": self._seconds}
        # -P: a catalogue that holds a file called numpy.py must not be able to run it from here.
        command = [sys.executable, "-P", "-m", "imgsearch.images.workers", json.dumps(task)]
        # One process a core is all the parallelism there is to have, and each thread would take address space.
        settings = {
            "OPENCV_IO_MAX_IMAGE_PIXELS": str(self._policy.max_pixels),
            "OPENBLAS_NUM_THREADS": "1",
            "OMP_NUM_THREADS": "1",
        }
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=os.environ | settings,
            )
        except OSError as error:
            raise MissingComponentError(f"cannot start a decoder process: {error}") from error
        for pipe in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError):  # the system may grant no more; it is only slower then
                fcntl.fcntl(_stream(pipe).fileno(), fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        os.set_blocking(_stream(self._process.stdin).fileno(), False)
        return self._process


def _stream(pipe: IO[bytes] | None) -> IO[bytes]:
    return cast("IO[bytes]", pipe)


def _write(descriptor: int, parts: Sequence[_Bytes], deadline: float | None = None) -> None:
    """Write all parts, or raise TimeoutError: a worker that is stuck may not even read."""
    left = [memoryview(part) for part in parts]
    while left:
        if deadline is not None:
            _wait_for(descriptor, select.POLLOUT, deadline)
        written = os.writev(descriptor, left)
        while left and written >= len(left[0]):
            written -= len(left.pop(0))
        if left:
            left[0] = left[0][written:]


def _read_answer(process: subprocess.Popen[bytes], longest: int, deadline: float) -> tuple[int, Pixels]:
    """Read status and content of the worker's answer, or raise TimeoutError or EOFError."""
    descriptor = _stream(process.stdout).fileno()
    answer = np.empty(_ANSWER.size + longest, np.uint8)
    view = answer.data
    got, expected, status = 0, _ANSWER.size, 0
    while got < expected:
        _wait_for(descriptor, select.POLLIN, deadline)
        part = os.readv(descriptor, [view[got:]])
        if not part:
            raise EOFError
        got += part
        if expected == _ANSWER.size <= got:
            status, length = _ANSWER.unpack_from(view)
            expected += min(length, longest)
    return status, answer[_ANSWER.size : expected]


def _wait_for(descriptor: int, event: int, deadline: float) -> None:
    poll = select.poll()
    poll.register(descriptor, event)
    if not poll.poll(max(0.0, 1000 * (deadline - time.monotonic()))):
        raise TimeoutError


def _serve(size: int, how: Fit, policy: FilePolicy, seconds: float) -> None:
    """Answer requests on standard input until it ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which then ends this process
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    requests = sys.stdin.buffer
    answers = os.dup(1)
    os.dup2(2, 1)  # whatever a library prints must not be read as pixels
    while len(header := requests.read(_REQUEST.size)) == _REQUEST.size:
        (length,) = _REQUEST.unpack(header)
        signal.setitimer(signal.ITIMER_REAL, seconds + 1)  # the parent's clock strikes first, if there is a parent
        try:
            status, answer = 0, _square(requests.read(length), size, how, policy)
        except PictureError as error:
            status, answer = 1, [_refusal(error)]
        signal.setitimer(signal.ITIMER_REAL, 0)
        _write(answers, [_ANSWER.pack(status, sum(map(len, answer))), *answer])


def _square(data: bytes, size: int, how: Fit, policy: FilePolicy) -> list[_Bytes]:
    if not policy.keep_damaged:
        return [decode_and_fit(data, size, how, max_pixels=policy.max_pixels).reshape(-1).data]
    with within_memory():
        picture, damage = salvage(data, shrink_to=_shrink_to(size, how), max_pixels=policy.max_pixels)
        return [fit(picture, size, how).reshape(-1).data, damage.encode()[:_LONGEST_TEXT]]


def _refusal(error: PictureError) -> bytes:
    return json.dumps({"cause": error.cause, "message": error.message, "hint": error.hint}).encode()


def _limit_resources(policy: FilePolicy) -> None:
    """Let this process fail where the machine would suffer."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    memory = max(_LEAST_MEMORY, _BYTES_A_PIXEL * policy.max_pixels) + max(0, policy.max_bytes - MAX_BYTES)
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    if most == resource.RLIM_INFINITY or memory < most:
        resource.setrlimit(resource.RLIMIT_AS, (memory, most))
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")  # when the machine is out of memory, this process goes, not the build


def _main(task: Mapping[str, Any]) -> None:
    import cv2

    cv2.setNumThreads(1)
    policy = FilePolicy.from_json(task["policy"])
    _limit_resources(policy)
    assert task["how"] in get_args(Fit)
    _serve(task["size"], task["how"], policy, task["seconds"])


if __name__ == "__main__":
    _main(json.loads(sys.argv[1]))
