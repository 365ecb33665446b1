"""Cut items out of catalog images, in processes of their own.

A worker is this module, run by the same interpreter with a task, and speaks as `images.worker_process` says. A request
is an image file; the answer is height and width (`<II`) and so many RGBA pixels.
"""

import json
import struct
import sys
from typing import Any

import cv2
import numpy as np

from imgsearch.errors import ImageError
from imgsearch.images.decode import Pixels, decode, decode_rgba, within_memory
from imgsearch.images.foreground import without_background, without_border
from imgsearch.images.headers import image_format
from imgsearch.images.policy import FilePolicy
from imgsearch.images.workers.process import Part, WorkerProcess, limit_resources, serve
from imgsearch.synthetic.augment import reduce_rgba

# The longer side of an item at most. It takes up to 80 % of a scene of 320 pixels.
LONGEST = 256

# An item with a side below this, or with less than this share of its rectangle opaque, teaches nothing.
_SHORTEST = 6
_LEAST_SHARE = 0.02

# Cause of a refusal.
NO_ITEM = "no_item"

_SECONDS = 30.0
_MEMORY = 2 << 30
_BYTES_A_PIXEL = 8
_OPAQUE = 127
_SIDES = struct.Struct("<II")


class ItemWorker(WorkerProcess):
    """One worker process. For one thread at a time.

    Args:
        policy: What is let in.
    """

    def __init__(self, policy: FilePolicy) -> None:
        settings = {
            "OPENCV_IO_MAX_IMAGE_PIXELS": str(policy.max_pixels),
            "OPENBLAS_NUM_THREADS": "1",
            "OMP_NUM_THREADS": "1",
        }
        super().__init__("imgsearch.training.item_worker", policy.to_json(), settings, _SECONDS)

    def item(self, data: bytes) -> Pixels:
        """Do `cut_out` in the worker.

        Args:
            data: An image file.

        Raises:
            ImageError: As for `cut_out`; also `decoder_crashed` and `timeout`.
        """
        answer = self._ask(data, _SIDES.size + 4 * LONGEST * LONGEST)
        height, width = _SIDES.unpack_from(answer.data)
        return answer[_SIDES.size :].reshape(height, width, 4)


def cut_out(data: bytes, max_pixels: int) -> Pixels:
    """Cut an item out of its image, by its transparency or by the plain background it stands on.

    Args:
        data: An image file.
        max_pixels: As for `decode.decode`.

    Returns:
        RGBA, uint8, without a border, its longer side at most `LONGEST`; the whole image, opaque, where nothing
        stands out.

    Raises:
        ImageError: As for `decode.decode`; also `no_item` where what stands out is tiny.
    """
    if image_format(data) == "jpeg":  # which knows no transparency
        image = decode(data, shrink_to=4 * LONGEST, max_pixels=max_pixels)
        item = np.dstack([image, np.full(image.shape[:2], 255, np.uint8)])
    else:
        item = decode_rgba(data, max_pixels=max_pixels)
    item = reduce_rgba(item, 4 * LONGEST)
    item = without_border(without_background(item))
    if item.size:
        item = reduce_rgba(item, LONGEST)
    if min(item.shape[:2]) < _SHORTEST or np.mean(item[:, :, 3] > _OPAQUE) < _LEAST_SHARE:
        raise ImageError(NO_ITEM, "too small, or transparent")
    return np.ascontiguousarray(item)


def _main(task: dict[str, Any]) -> None:
    cv2.setNumThreads(1)
    policy = FilePolicy.from_json(task)
    limit_resources(max(_MEMORY, _BYTES_A_PIXEL * policy.max_pixels) + policy.max_bytes)

    def answer(data: bytes) -> list[Part]:
        with within_memory():
            item = cut_out(data, policy.max_pixels)
        return [_SIDES.pack(*item.shape[:2]), item.reshape(-1).data]

    serve(answer, _SECONDS)


if __name__ == "__main__":
    _main(json.loads(sys.argv[1]))
