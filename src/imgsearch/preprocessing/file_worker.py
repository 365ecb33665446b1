"""A process that makes image files of image files; its answer holds them one after another, each after its length."""

import io
import itertools
import struct
from typing import Literal

import cv2
import numpy as np

from imgsearch.errors import ImageError
from imgsearch.images import Fit
from imgsearch.images.decode import Pixels
from imgsearch.images.policy import FilePolicy
from imgsearch.images.steps import Steps
from imgsearch.images.transform import binarize
from imgsearch.images.workers.decoders import DECODE_SECONDS, decode_by_policy, decode_square
from imgsearch.images.workers.process import Part, WorkerProcess, run
from imgsearch.synthetic.augment import augment as augment_image
from imgsearch.synthetic.augment import generator_for

Ending = Literal["png", "jpg", "webp", "npy"]

_LENGTH = struct.Struct("<Q")
# What a length in an answer can say; the memory that a worker may take is less.
_LONGEST_ANSWER = 2**32 - 1

_LONGEST_SIDE = {"jpg": 65_500, "webp": 16_383}
_QUALITY = {"jpg": (cv2.IMWRITE_JPEG_QUALITY, 95), "webp": (cv2.IMWRITE_WEBP_QUALITY, 95)}


class FileWorker(WorkerProcess):
    """Decodes an image, does the steps, fits it if there is a size, and encodes it and so many augmented copies."""

    def __init__(
        self, size: int, fit: Fit, policy: FilePolicy, *, steps: Steps, augment: int, seed: int, ending: Ending
    ) -> None:
        task = {"size": size, "fit": fit, "steps": str(steps), "augment": augment, "seed": seed, "ending": ending}
        super().__init__(__name__, policy, DECODE_SECONDS * (1 + augment), task)

    def files(self, data: bytes) -> list[Part]:
        """Return the image and its copies as files, which depend on content and seed alone; or raise ImageError."""
        answer = self._ask(data, _LONGEST_ANSWER).data
        found: list[Part] = []
        start = 0
        while start < len(answer):
            (length,) = _LENGTH.unpack_from(answer, start)
            start += _LENGTH.size
            found.append(answer[start : start + length])
            start += length
        return found


def _answer(
    data: bytes, policy: FilePolicy, size: int, fit: Fit, steps: str, augment: int, seed: int, ending: Ending
) -> list[Part]:
    parsed = Steps.parse(steps)
    if size:
        image, _ = decode_square(data, policy, size, fit, parsed)
    else:
        image = parsed.apply(decode_by_policy(data, policy).pixels)
    generator = generator_for(data, seed)
    copies = (augment_image(image, generator) for _ in range(augment))
    files = [_encode(pixels, parsed, ending) for pixels in itertools.chain([image], copies)]
    return [part for file in files for part in (_LENGTH.pack(len(file)), file)]


def _encode(image: Pixels, steps: Steps, ending: Ending) -> Part:
    if steps.binarize:  # fitting and augmenting have made grays between black and white
        image = binarize(image, "127")
    if ending == "npy":
        file = io.BytesIO()
        np.save(file, image, allow_pickle=False)
        return file.getbuffer()
    is_gray = steps.grayscale or bool(steps.binarize)
    native = image[:, :, 0] if is_gray else cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    longest = max(image.shape)
    if longest > _LONGEST_SIDE.get(ending, longest):
        raise ImageError("too_large", f"a side of {longest:,} pixels, more than a file of {ending} can hold")
    done, encoded = cv2.imencode(f".{ending}", native, _QUALITY.get(ending, ()))
    if not done:
        raise MemoryError  # there is no other reason left
    return encoded.data


if __name__ == "__main__":
    run(_answer)
