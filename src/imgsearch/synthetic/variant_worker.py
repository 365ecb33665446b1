"""A process that makes variants of catalog images: photos, drawings and screenshots that are sent, and scenes."""

import itertools
import math
from collections.abc import Iterator

import numpy as np

from imgsearch.images import Fit
from imgsearch.images.decode import Pixels, decode_rgba
from imgsearch.images.foreground import crop_transparent, without_background
from imgsearch.images.headers import image_format
from imgsearch.images.policy import FilePolicy
from imgsearch.images.steps import NO_STEPS, Steps
from imgsearch.images.workers import decoders
from imgsearch.images.workers.process import Part, WorkerProcess, run
from imgsearch.synthetic.augment import generator_for, photo_like, reduce_rgba, screenshot_like
from imgsearch.synthetic.backgrounds import draw_background
from imgsearch.synthetic.compose import Style, compose
from imgsearch.synthetic.restyle import drawing_like

# Mostly what customers send; drawings among them, lest photos alone teach that the style of an image says what it is.
_VARIANT_KINDS = (photo_like, drawing_like, screenshot_like, photo_like, photo_like, drawing_like)
# How an item stands in a scene.
_SCENE = Style((0.4, 0.85), quality=(30, 95))


class VariantWorker(WorkerProcess):
    """Decodes an image to its square, and makes so many variants of it, and so many scenes with its item."""

    def __init__(
        self,
        size: int,
        fit: Fit,
        policy: FilePolicy | None = None,
        *,
        variants: int,
        scenes: int = 0,
        seed: int = 0,
        steps: Steps = NO_STEPS,
        seconds: float = decoders.DECODE_SECONDS,
    ) -> None:
        task = {"size": size, "fit": fit, "steps": str(steps), "variants": variants, "scenes": scenes, "seed": seed}
        super().__init__(__name__, policy or FilePolicy(), seconds, task)
        self._shape = (1 + variants + scenes, size, size, 3)

    def decode_variants(self, data: bytes) -> Pixels:
        """Return RGB, uint8 (1 + variants + scenes, size, size, 3), which depends on content and seed alone."""
        return self._ask(data, math.prod(self._shape)).reshape(self._shape)


def _answer(
    data: bytes, policy: FilePolicy, size: int, fit: Fit, steps: str, variants: int, scenes: int, seed: int
) -> list[Part]:
    square, _ = decoders.decode_square(data, policy, size, fit, Steps.parse(steps))
    generator = generator_for(data, seed)
    item = decode_item(data, policy)
    makers = itertools.islice(itertools.cycle(_VARIANT_KINDS), variants)
    files = (make(item, generator) for make in makers)
    squares = [square, *(decoders.decode_and_fit(file, size, fit, steps=Steps.parse(steps)) for file in files)]
    squares += _scenes(item, size, scenes, generator)
    return [pixels.reshape(-1).data for pixels in squares]


def decode_item(data: bytes, policy: FilePolicy, longest: int = decoders.WORKED_SIDE) -> Pixels:
    """Decode an image with its transparency, the longer side brought down to so many pixels: RGBA, uint8."""
    if image_format(data) == "jpeg":  # which knows no transparency
        image = decoders.decode_by_policy(data, policy, longest).pixels
        item = np.dstack([image, np.full(image.shape[:2], 255, np.uint8)])
    else:
        item = decode_rgba(data, max_pixels=policy.max_pixels)
    return reduce_rgba(item, longest)


def _scenes(item: Pixels, size: int, count: int, generator: np.random.Generator) -> Iterator[Pixels]:
    alone = crop_transparent(without_background(item)) if count else item
    for _ in range(count):
        yield compose(draw_background((size, size), generator), [alone] if alone.size else [], _SCENE, generator).photo


if __name__ == "__main__":
    run(_answer)
