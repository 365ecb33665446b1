"""Decode the images that strangers ask a server with: in worker processes, never in the process of the server."""

import contextlib
import struct
import threading
from collections.abc import Generator
from queue import LifoQueue

import cv2
import numpy as np

from imgsearch.errors import UsageError
from imgsearch.images import MAX_PIXELS, Fit
from imgsearch.images.decode import Pixels
from imgsearch.images.photo import LONGEST, Photo, open_photo
from imgsearch.images.policy import FilePolicy
from imgsearch.images.steps import Steps
from imgsearch.images.transform import reduce
from imgsearch.images.workers.decoders import DECODE_SECONDS, decode_by_policy, decode_square
from imgsearch.images.workers.process import Part, WorkerProcess, run

THUMBNAIL_SIDE = 320
_THUMBNAIL_QUALITY = 85
# JPEG takes less than one byte for each sample, and more only for its tables.
_LONGEST_THUMBNAIL = 3 * THUMBNAIL_SIDE**2 + 4096

# Before a file: what is wanted of it.
_PHOTO, _SQUARE, _THUMBNAIL = b"p", b"s", b"t"

# Before a photo's pixels: their height and width, those of the file's image, and the background.
_PHOTO_HEADER = struct.Struct("<5I")


class _Worker(WorkerProcess):
    """Answers with what is wanted of an image."""

    def ask(self, wanted: bytes, data: bytes, longest: int) -> Pixels:
        return self._ask(wanted + data, longest)


class QueryDecoders:
    """Worker processes that decode images, with a clock and a limit of memory; any number of threads share them.

    Each is started when it is first needed, and again after it died of an image. The methods raise `ImageError` for
    that image, as for others that cannot be used, and `UsageError` once the decoders are closed. A call waits while
    all processes are busy.
    """

    def __init__(
        self, count: int, policy: FilePolicy, size: int, fit: Fit, steps: Steps, *, seconds: float = DECODE_SECONDS
    ) -> None:
        """Prepare `count` processes.

        Args:
            count: How many images are decoded at once.
            policy: That of the index.
            size: Side of the encoder's squares.
            fit: How images are brought to them.
            steps: What is done to images before.
            seconds: How long an image may take.
        """
        # As `decode_and_fit_guarded`: a query may always have as many pixels as the default lets in.
        limits = FilePolicy(policy.max_bytes, max(MAX_PIXELS, policy.max_pixels), policy.keep_damaged)
        task = {"size": size, "fit": fit, "steps": str(steps)}
        self._side = size
        self._workers = [_Worker(__name__, limits, seconds, task) for _ in range(count)]
        # The last one first, so that a server with little to do keeps few processes.
        self._free: LifoQueue[_Worker] = LifoQueue()
        for worker in self._workers:
            self._free.put(worker)
        self._lock = threading.Lock()
        self._is_closed = False

    def photo(self, data: bytes) -> Photo | None:
        """Decode a photo; the same as `images.photo.open_photo` gives."""
        with self._worker() as worker:
            answer = worker.ask(_PHOTO, data, _PHOTO_HEADER.size + 3 * LONGEST**2)
        if not len(answer):
            return None
        *shape, height, width, background = _PHOTO_HEADER.unpack_from(answer.data)
        return Photo(answer[_PHOTO_HEADER.size :].reshape(*shape, 3), (height, width), background)

    def square(self, data: bytes) -> Pixels:
        """Decode an image to the encoder's square; the same as `decoders.decode_and_fit_guarded` gives."""
        with self._worker() as worker:
            return worker.ask(_SQUARE, data, 3 * self._side**2).reshape(self._side, self._side, 3)

    def thumbnail(self, data: bytes) -> bytes:
        """Make a small JPEG of an image that the policy lets in: upright, the longer side at most 320."""
        with self._worker() as worker:
            return worker.ask(_THUMBNAIL, data, _LONGEST_THUMBNAIL).tobytes()

    def close(self) -> None:
        """End all processes, whatever they are doing: who waits for one gets an `ImageError`."""
        with self._lock:
            if self._is_closed:
                return
            self._is_closed = True
        for worker in self._workers:
            worker.kill()
        # Each comes back at once, and goes back for those who still wait for one.
        for worker in [self._free.get() for _ in self._workers]:
            worker.close()
            self._free.put(worker)

    @contextlib.contextmanager
    def _worker(self) -> Generator[_Worker]:
        worker = self._free.get()
        try:
            if self._is_closed:
                raise UsageError("the decoders are closed")
            yield worker
        finally:
            self._free.put(worker)


def _answer(request: bytes, policy: FilePolicy, size: int, fit: Fit, steps: str) -> list[Part]:
    wanted, data = request[:1], request[1:]
    if wanted == _PHOTO:
        return _photo(open_photo(data, policy))
    if wanted == _SQUARE:
        # Damage is let in for catalogs only.
        whole = FilePolicy(policy.max_bytes, policy.max_pixels)
        return [decode_square(data, whole, size, fit, Steps.parse(steps))[0].reshape(-1).data]
    return [_thumbnail(data, policy)]


def _photo(photo: Photo | None) -> list[Part]:
    if photo is None:
        return []
    pixels = np.ascontiguousarray(photo.pixels)
    return [_PHOTO_HEADER.pack(*pixels.shape[:2], *photo.size, photo.background), pixels.reshape(-1).data]


def _thumbnail(data: bytes, policy: FilePolicy) -> bytes:
    pixels = reduce(decode_by_policy(data, policy, THUMBNAIL_SIDE).pixels, THUMBNAIL_SIDE)
    quality = [cv2.IMWRITE_JPEG_QUALITY, _THUMBNAIL_QUALITY]
    return cv2.imencode(".jpg", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), quality)[1].tobytes()


if __name__ == "__main__":
    run(_answer)
