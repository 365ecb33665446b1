"""A process that cuts items out of catalog images; its answer is height and width (`<II`) and so many RGBA pixels."""

import struct

import numpy as np

from imgsearch.errors import ImageError
from imgsearch.images.decode import Pixels
from imgsearch.images.foreground import crop_transparent, without_background
from imgsearch.images.policy import FilePolicy
from imgsearch.images.workers.decoders import DECODE_SECONDS
from imgsearch.images.workers.process import Part, WorkerProcess, run
from imgsearch.synthetic.augment import reduce_rgba
from imgsearch.synthetic.variant_worker import decode_item

# The longer side of an item at most. It takes up to 80 % of a scene of 320 pixels.
LONGEST = 256

# An item with a side below this, or with less than this share of its rectangle opaque, teaches nothing.
_SHORTEST = 6
_MIN_SHARE = 0.02

# Cause of a refusal.
NO_ITEM = "no_item"

_OPAQUE = 127
_SIDES = struct.Struct("<II")


class ItemWorker(WorkerProcess):
    """Does `cut_out` in a process."""

    def __init__(self, policy: FilePolicy) -> None:
        super().__init__(__name__, policy, DECODE_SECONDS, {})

    def item(self, data: bytes) -> Pixels:
        """Return the item, or raise ImageError, as `cut_out`."""
        answer = self._ask(data, _SIDES.size + 4 * LONGEST * LONGEST)
        height, width = _SIDES.unpack_from(answer.data)
        return answer[_SIDES.size :].reshape(height, width, 4)


def _answer(data: bytes, policy: FilePolicy) -> list[Part]:
    item = cut_out(data, policy)
    return [_SIDES.pack(*item.shape[:2]), item.reshape(-1).data]


def cut_out(data: bytes, policy: FilePolicy) -> Pixels:
    """Cut an item out of its image: RGBA, uint8, without a border, its longer side at most `LONGEST`."""
    item = crop_transparent(without_background(decode_item(data, policy, 4 * LONGEST)))
    if item.size:
        item = reduce_rgba(item, LONGEST)
    if min(item.shape[:2]) < _SHORTEST or np.mean(item[:, :, 3] > _OPAQUE) < _MIN_SHARE:
        raise ImageError(NO_ITEM, "too small, or transparent")
    return np.ascontiguousarray(item)


if __name__ == "__main__":
    run(_answer)
