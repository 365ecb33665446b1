"""What is made of an image file: a fitted square, variants of it and scenes with it, or files."""

import hashlib
import io
import itertools
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

import cv2
import numpy as np

from imgsearch.errors import ImageError
from imgsearch.images import MAX_PIXELS
from imgsearch.images.decode import Pixels, decode, decode_rgba, salvage, within_memory
from imgsearch.images.foreground import without_background, without_border
from imgsearch.images.headers import image_format
from imgsearch.images.policy import FilePolicy
from imgsearch.images.steps import NO_STEPS, Steps
from imgsearch.images.transform import Fit, binarize, fit, reduce
from imgsearch.images.workers.process import Part
from imgsearch.synthetic.augment import augment, photo_like, reduce_rgba, screenshot_like
from imgsearch.synthetic.backgrounds import generated
from imgsearch.synthetic.compose import Style, compose

Ending = Literal["png", "jpg", "webp", "npy"]

# Before each file in an answer.
LENGTH = struct.Struct("<Q")

# Room for a cause, a message and a hint, or for what the decoder said.
LONGEST_TEXT = 4096

# The longer side of what steps are applied to, and variants made of. No encoder sees more, and time stays bounded.
_WORKED_SIDE = 1024
# An item that is only to be trimmed may fill half of its image and still be as sharp as its encoder sees it. The
# decoder can then leave out much of a large JPEG.
_TRIMMED = 2
_TRIM = Steps(crop_foreground=True)

# Two photos to each screenshot: what customers send.
_VARIANT_KINDS = (photo_like, photo_like, screenshot_like)
# How an item stands in a scene.
_SCENE = Style((0.4, 0.85), quality=(30, 95))

_LONGEST_SIDE = {"jpg": 65_500, "webp": 16_383}
_QUALITY = {"jpg": (cv2.IMWRITE_JPEG_QUALITY, 95), "webp": (cv2.IMWRITE_WEBP_QUALITY, 95)}


@dataclass(frozen=True, slots=True)
class Task:
    """What a worker does with each file: as for `DecodeWorker`, or with an ending as for `FileWorker`."""

    size: int
    how: Fit
    policy: FilePolicy
    seconds: float
    steps: Steps
    variants: int
    seed: int
    scenes: int = 0
    ending: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return what a worker is started with."""
        return {
            **{field.name: getattr(self, field.name) for field in fields(self)},
            "policy": self.policy.to_json(),
            "steps": str(self.steps),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Task":
        """Read what `to_json` wrote."""
        assert data["how"] in get_args(Fit)
        return cls(
            *(data["size"], data["how"], FilePolicy.from_json(data["policy"]), data["seconds"]),
            *(Steps.parse(data.get("steps", "")), data.get("variants", 0), data.get("seed", 0)),
            *(data.get("scenes", 0), data.get("ending", "")),
        )


def decode_and_fit(
    data: bytes, size: int, how: Fit, *, max_pixels: int = MAX_PIXELS, steps: Steps = NO_STEPS
) -> Pixels:
    """Decode an image file and bring it to an encoder's size.

    Args:
        data: The file.
        size: Side of the square in pixels.
        how: As for `transform.fit`.
        max_pixels: As for `decode.decode`.
        steps: What is done to the image before it is fitted, its longer side brought down to 1,024 pixels, or to
            twice `size` where it is only to be trimmed.

    Returns:
        RGB, uint8 of shape (size, size, 3).

    Raises:
        ImageError: As for `decode.decode`.
    """
    with within_memory():
        image = decode(data, shrink_to=_shrink_to(size, how, steps), max_pixels=max_pixels)
        return stepped_and_fitted(image, size, how, steps)


def squares(data: bytes, task: Task) -> list[Part]:
    """Make what `DecodeWorker` is asked for: the square, its variants, scenes, and what is damaged."""
    image, damage = _decoded(data, task, _shrink_to(task.size, task.how, task.steps))
    square = stepped_and_fitted(image, task.size, task.how, task.steps)
    variants = _variants(data, task) if task.variants or task.scenes else ()
    return [*(pixels.reshape(-1).data for pixels in (square, *variants)), damage.encode()[:LONGEST_TEXT]]


def _variants(data: bytes, task: Task) -> Iterator[Pixels]:
    chance = _chance(data, task)
    if image_format(data) == "jpeg":  # which knows no transparency
        image, _ = _decoded(data, task, _WORKED_SIDE)
        item = np.dstack([image, np.full(image.shape[:2], 255, np.uint8)])
    else:
        item = decode_rgba(data, max_pixels=task.policy.max_pixels)
    item = reduce_rgba(item, _WORKED_SIDE)
    for make in itertools.islice(itertools.cycle(_VARIANT_KINDS), task.variants):
        yield decode_and_fit(make(item, chance), task.size, task.how, steps=task.steps)
    alone = without_border(without_background(item)) if task.scenes else item
    for _ in range(task.scenes):
        background = generated((task.size, task.size), chance)
        yield compose(background, [alone] if alone.size else [], _SCENE, chance).photo


def files(data: bytes, task: Task) -> list[Part]:
    """Make what `FileWorker` is asked for: files, each after its length."""
    if task.size:
        image, _ = _decoded(data, task, _shrink_to(task.size, task.how, task.steps))
        image = stepped_and_fitted(image, task.size, task.how, task.steps)
    else:
        image = task.steps.apply(_decoded(data, task, 0)[0])
    chance = _chance(data, task)
    copies = (augment(image, chance) for _ in range(task.variants))
    files = [_encoded(pixels, task) for pixels in itertools.chain([image], copies)]
    return [part for file in files for part in (LENGTH.pack(len(file)), file)]


def _encoded(image: Pixels, task: Task) -> Part:
    if task.steps.binarize:  # fitting and shaking have made grays between black and white
        image = binarize(image, "127")
    if task.ending == "npy":
        file = io.BytesIO()
        np.save(file, image, allow_pickle=False)
        return file.getbuffer()
    is_gray = task.steps.grayscale or bool(task.steps.binarize)
    native = image[:, :, 0] if is_gray else cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    longest = max(image.shape)
    if longest > _LONGEST_SIDE.get(task.ending, longest):
        raise ImageError("too_large", f"a side of {longest:,} pixels, more than a file of {task.ending} can hold")
    done, encoded = cv2.imencode(f".{task.ending}", native, _QUALITY.get(task.ending, ()))
    if not done:
        raise MemoryError  # there is no other reason left
    return encoded.data


def _chance(data: bytes, task: Task) -> np.random.Generator:
    # Of the content, so that neither the name nor what came before it matters.
    return np.random.default_rng([task.seed, int.from_bytes(hashlib.sha256(data).digest()[:8])])


def _decoded(data: bytes, task: Task, shrink_to: int) -> tuple[Pixels, str]:
    if task.policy.keep_damaged:
        return salvage(data, shrink_to=shrink_to, max_pixels=task.policy.max_pixels)
    return decode(data, shrink_to=shrink_to, max_pixels=task.policy.max_pixels), ""


def stepped_and_fitted(image: Pixels, size: int, how: Fit, steps: Steps) -> Pixels:
    """Do to an image that is decoded what `decode_and_fit` does to one in a file."""
    if steps:
        image = steps.apply(reduce(image, _worked_side(size, steps)))
    return fit(image, size, how)


def _worked_side(size: int, steps: Steps) -> int:
    return _TRIMMED * size if steps == _TRIM else max(size, _WORKED_SIDE)


def _shrink_to(size: int, how: Fit, steps: Steps) -> int:
    if steps:
        return _worked_side(size, steps)
    # A crop shows the middle only, so there the shorter side decides what may be thrown away; the decoder knows
    # the longer one. Only `pad` lets it shrink.
    return size if how == "pad" else 0
