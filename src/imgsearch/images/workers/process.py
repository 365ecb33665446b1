"""A child process that turns image files into answers, within limits of time and memory.

The parent sends `<Q` length and so many bytes; the process answers `<BI` status and length, then the answer (status
0), or a JSON object with `cause`, `message` and `hint` (status 1). (`multiprocessing` would run the caller's main
module again in each worker, and has no clock for a single task.)
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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import IO, cast

import cv2
import numpy as np

from imgsearch.errors import ImageError, MissingComponentError
from imgsearch.images.decode import Pixels, within_memory
from imgsearch.images.policy import MAX_BYTES, FilePolicy
from imgsearch.system import refusal_of

# Of address space, which is what can be limited. OpenCV holds an image twice; 16-bit RGBA takes 8 bytes a pixel.
# At the default limit of pixels all but the deepest images fit, and no bomb does.
_MIN_MEMORY = 2 << 30
_BYTES_A_PIXEL = 8

# A fitted image, and most images in a file, go through in one piece. Linux allows a user 64 MiB of pipes.
_PIPE_BYTES = 1 << 18

Part = bytes | memoryview

_REQUEST = struct.Struct("<Q")
_ANSWER = struct.Struct("<BI")


class WorkerProcess:
    """A process, started when needed, that runs `module`, which calls `run`. For one thread at a time."""

    def __init__(self, module: str, policy: FilePolicy, seconds: float, task: Mapping[str, str | int]) -> None:
        argument = json.dumps({"policy": asdict(policy), "seconds": seconds, "task": task})
        # -P: a catalog that holds a file called numpy.py must not be able to run it from here.
        self._command = [sys.executable, "-P", "-m", module, argument]
        # One process a core is all the parallelism there is to have, and each thread would take address space.
        self._settings = {
            "OPENCV_IO_MAX_IMAGE_PIXELS": str(policy.max_pixels),
            "OPENBLAS_NUM_THREADS": "1",
            "OMP_NUM_THREADS": "1",
        }
        self._seconds = seconds
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()
        self._ended = False

    def kill(self) -> None:
        """End the process for good, from any thread: whoever waits for it is told `decoder_crashed`."""
        with self._lock:
            self._ended = True
            process = self._process  # which the thread that waits for it may be taking away
            if process is not None:
                process.kill()

    def close(self) -> None:
        """End the process, whatever it is doing."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def _ask(self, data: bytes, longest: int) -> Pixels:
        """Send a request, and return up to `longest` bytes of the answer, or raise ImageError."""
        with self._lock:
            if self._ended:
                raise ImageError("decoder_crashed", "the decoder was ended")
            process = self._process or self._start()
        deadline = time.monotonic() + self._seconds
        try:
            write_all(_stream(process.stdin).fileno(), [_REQUEST.pack(len(data)), data], deadline)
            answers = _stream(process.stdout).fileno()
            status, length = _ANSWER.unpack(read_exactly(answers, _ANSWER.size, deadline).data)
            answer = read_exactly(answers, min(length, longest), deadline)
        except TimeoutError:
            self.close()
            raise ImageError("timeout", f"not decoded in {self._seconds:g} s") from None
        except (EOFError, BrokenPipeError):
            self.close()
            raise ImageError("decoder_crashed", "the decoder crashed on this file") from None
        if status:
            refusal = json.loads(answer.tobytes())
            raise ImageError(refusal["cause"], refusal["message"], hint=refusal["hint"])
        return answer

    def _start(self) -> subprocess.Popen[bytes]:
        try:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env={**os.environ, **self._settings},
            )
        except OSError as error:
            raise refusal_of(error) or MissingComponentError(f"cannot start a decoder process: {error}") from error
        for pipe in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError):  # the system may grant no more; it is only slower then
                fcntl.fcntl(_stream(pipe).fileno(), fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        os.set_blocking(_stream(self._process.stdin).fileno(), False)
        return self._process


def run(answer: Callable[..., Sequence[Part]]) -> None:
    """Be the process that a `WorkerProcess` starts: send `answer(data, policy, **task)` for each request."""
    argument = json.loads(sys.argv[1])
    policy = FilePolicy(**argument["policy"])
    cv2.setNumThreads(1)
    _limit_resources(max(_MIN_MEMORY, _BYTES_A_PIXEL * policy.max_pixels) + max(0, policy.max_bytes - MAX_BYTES))
    # Ctrl-C, and what systemd sends to all processes of a service, are for the parent, which ends this one when it
    # needs it no more.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    requests = sys.stdin.buffer
    answers = os.dup(1)
    os.dup2(2, 1)  # whatever a library prints must not be read as an answer
    while len(header := requests.read(_REQUEST.size)) == _REQUEST.size:
        (length,) = _REQUEST.unpack(header)
        # The parent's clock strikes first, if it was not killed.
        signal.setitimer(signal.ITIMER_REAL, argument["seconds"] + 1)
        data = requests.read(length)
        try:
            with within_memory():
                status, parts = 0, answer(data, policy, **argument["task"])
        except ImageError as error:
            refusal = {"cause": error.cause, "message": error.message, "hint": error.hint}
            status, parts = 1, [json.dumps(refusal).encode()]
        signal.setitimer(signal.ITIMER_REAL, 0)
        write_all(answers, [_ANSWER.pack(status, sum(map(len, parts))), *parts])


def _limit_resources(memory: int) -> None:
    """Let this process fail where the machine would suffer: it may have so many bytes of address space."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    if most == resource.RLIM_INFINITY or memory < most:
        resource.setrlimit(resource.RLIMIT_AS, (memory, most))
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")  # when the machine is out of memory, this process goes, not the build


def _stream(pipe: IO[bytes] | None) -> IO[bytes]:
    return cast("IO[bytes]", pipe)


def write_all(descriptor: int, parts: Sequence[Part], deadline: float | None = None) -> None:
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


def read_exactly(descriptor: int, length: int, deadline: float) -> Pixels:
    """Read just so many bytes, or raise TimeoutError or EOFError."""
    answer = np.empty(length, np.uint8)
    got = 0
    while got < length:
        _wait_for(descriptor, select.POLLIN, deadline)
        part = os.readv(descriptor, [answer.data[got:]])
        if not part:
            raise EOFError
        got += part
    return answer


def _wait_for(descriptor: int, event: int, deadline: float) -> None:
    poll = select.poll()
    poll.register(descriptor, event)
    if not poll.poll(max(0.0, 1000 * (deadline - time.monotonic()))):
        raise TimeoutError
