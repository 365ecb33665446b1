"""Decode in processes of their own: a file that kills or stalls the decoder costs that file, not the build.

A worker is this module, run by the same interpreter with a task, and speaks as `worker_process` says. A request is an
image file. The answer is the pixels of one fitted square, of variants of it and of scenes where the task asks for
them, after which it may say what is damaged; or, of a task with an ending, image files, each after its length (`<Q`).
"""

import json
import math
import sys

import cv2

from imgsearch.images import MAX_PIXELS
from imgsearch.images.decode import Pixels, within_memory
from imgsearch.images.headers import checked_size, image_format
from imgsearch.images.policy import MAX_BYTES, FilePolicy
from imgsearch.images.steps import NO_STEPS, Steps
from imgsearch.images.transform import Fit
from imgsearch.images.workers.process import Part, WorkerProcess, limit_resources, serve
from imgsearch.images.workers.tasks import LENGTH, LONGEST_TEXT, Ending, Task, decode_and_fit, files, squares

DECODE_SECONDS = 30.0

_MODULE = "imgsearch.images.workers.decoders"

# Of address space, which is what can be limited. OpenCV holds an image twice; 16-bit RGBA takes 8 bytes a pixel.
# At the default limit of pixels all but the deepest images fit, and no bomb does.
_LEAST_MEMORY = 2 << 30
_BYTES_A_PIXEL = 8

# What a length in an answer can say; the memory that a worker may take is less.
_LONGEST_ANSWER = 2**32 - 1

# A progressive JPEG has about ten scans. Each costs time, and no limit but a clock helps against thousands.
_JPEG_START = b"\xff\xd8\xff"
_SCAN = b"\xff\xda"
_MANY_SCANS = 100


def decode_and_fit_guarded(data: bytes, size: int, how: Fit, policy: FilePolicy, *, steps: Steps = NO_STEPS) -> Pixels:
    """Do `decode_and_fit` here; or in a process if it is a JPEG that needs a clock, or larger than OpenCV admits here.

    Args:
        data: The file.
        size: As for `decode_and_fit`.
        how: As for `decode_and_fit`.
        policy: What is let in; nothing less than by default.
        steps: As for `decode_and_fit`.

    Returns:
        As `decode_and_fit`.

    Raises:
        ImageError: As for `DecodeWorker.decode`.
    """
    if not needs_process(data, policy):
        return decode_and_fit(data, size, how, steps=steps)
    max_pixels = max(MAX_PIXELS, policy.max_pixels)
    worker = DecodeWorker(size, how, FilePolicy(policy.max_bytes, max_pixels), steps=steps)
    try:
        return worker.decode(data)[0]
    finally:
        worker.close()


def needs_process(data: bytes, policy: FilePolicy) -> bool:
    """Say whether a file is a JPEG that needs a clock, or larger than OpenCV admits in this process.

    Raises:
        ImageError: `too_large` or `corrupt`, as for `checked_size`.
    """
    dimensions = checked_size(data, image_format(data), max(MAX_PIXELS, policy.max_pixels)) or (0, 0)
    has_many_scans = data.startswith(_JPEG_START) and data.count(_SCAN) >= _MANY_SCANS
    return has_many_scans or dimensions[0] * dimensions[1] > MAX_PIXELS


def _settings(policy: FilePolicy) -> dict[str, str]:
    # One process a core is all the parallelism there is to have, and each thread would take address space.
    return {
        "OPENCV_IO_MAX_IMAGE_PIXELS": str(policy.max_pixels),
        "OPENBLAS_NUM_THREADS": "1",
        "OMP_NUM_THREADS": "1",
    }


class DecodeWorker(WorkerProcess):
    """One worker process, started when first needed and again after it died. For one thread at a time.

    Args:
        size: Side of the squares in pixels.
        how: As for `transform.fit`.
        policy: What is let in.
        seconds: How long one file may take.
        steps: As for `decode_and_fit`.
        variants: How many variants it makes of each image: photos and screenshots that a customer might send.
        scenes: In how many scenes it puts the item of each image: on backgrounds that are drawn, somewhere, askew.
        seed: Of their chance.
    """

    def __init__(
        self,
        size: int,
        how: Fit,
        policy: FilePolicy | None = None,
        *,
        seconds: float = DECODE_SECONDS,
        steps: Steps = NO_STEPS,
        variants: int = 0,
        scenes: int = 0,
        seed: int = 0,
    ) -> None:
        policy = policy or FilePolicy()
        task = Task(size, how, policy, seconds, steps, variants, seed, scenes).to_json()
        super().__init__(_MODULE, task, _settings(policy), seconds)
        self._shape = (1 + variants + scenes, size, size, 3)

    def decode(self, data: bytes) -> tuple[Pixels, str]:
        """Do `decode_and_fit` in the worker.

        Args:
            data: An image file.

        Returns:
            RGB, uint8 of shape (size, size, 3); what is damaged, if damaged images are kept, else empty.

        Raises:
            ImageError: As for `decode.decode`; also `decoder_crashed` and `timeout`.
        """
        squares, damage = self._decode(data)
        return squares[0], damage

    def decode_variants(self, data: bytes) -> Pixels:
        """Do `decode_and_fit` in the worker, with the image and with variants of it, and put it into scenes.

        Args:
            data: An image file. The same content gives the same variants, whatever came before.

        Returns:
            RGB, uint8 of shape (1 + variants + scenes, size, size, 3), the image itself first, scenes last.

        Raises:
            ImageError: As for `decode`.
        """
        return self._decode(data)[0]

    def _decode(self, data: bytes) -> tuple[Pixels, str]:
        count = math.prod(self._shape)
        answer = self._ask(data, count + LONGEST_TEXT)
        return answer[:count].reshape(self._shape), answer[count:].tobytes().decode()


class FileWorker(WorkerProcess):
    """A worker process that makes image files of image files.

    Args:
        size: Side of the squares in pixels, or 0 to let images keep their size.
        how: As for `transform.fit`.
        policy: What is let in.
        steps: What is done to the images.
        augment: How many augmented copies of each it makes.
        seed: Of their chance.
        ending: What it writes: `png`, `jpg`, `webp` or `npy`.
    """

    def __init__(
        self, size: int, how: Fit, policy: FilePolicy, *, steps: Steps, augment: int, seed: int, ending: Ending
    ) -> None:
        seconds = DECODE_SECONDS * (1 + augment)
        task = Task(size, how, policy, seconds, steps, augment, seed, ending=ending).to_json()
        super().__init__(_MODULE, task, _settings(policy), seconds)

    def files(self, data: bytes) -> list[Part]:
        """Decode an image, do the steps, fit and augment it, and encode what comes of it.

        Args:
            data: An image file. The same content gives the same files, whatever came before.

        Returns:
            The files: the image, and its augmented copies.

        Raises:
            ImageError: As for `DecodeWorker.decode`; `too_large` also where the format cannot hold it.
        """
        answer = self._ask(data, _LONGEST_ANSWER).data
        found: list[Part] = []
        start = 0
        while start < len(answer):
            (length,) = LENGTH.unpack_from(answer, start)
            start += LENGTH.size
            found.append(answer[start : start + length])
            start += length
        return found


def _main(task: Task) -> None:
    cv2.setNumThreads(1)
    policy = task.policy
    limit_resources(max(_LEAST_MEMORY, _BYTES_A_PIXEL * policy.max_pixels) + max(0, policy.max_bytes - MAX_BYTES))

    def answer(data: bytes) -> list[Part]:
        with within_memory():
            return files(data, task) if task.ending else squares(data, task)

    serve(answer, task.seconds)


if __name__ == "__main__":
    _main(Task.from_json(json.loads(sys.argv[1])))
