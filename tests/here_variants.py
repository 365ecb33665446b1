"""In place of `VariantWorker`: variants made in the process of the tests, and those of an image once."""

import functools

import numpy as np

from imgsearch.images.steps import NO_STEPS
from imgsearch.synthetic import variant_worker


class HereVariants:
    """Makes variants, which depend on an image's content and these settings alone."""

    def __init__(self, size, fit, policy, *, variants, scenes, steps=NO_STEPS, seed=0) -> None:
        self._settings = (policy, size, fit, str(steps), variants, scenes, seed)

    def decode_variants(self, data: bytes) -> np.ndarray:
        return made_variants(data, *self._settings)

    def kill(self) -> None:
        pass

    def close(self) -> None:
        pass


@functools.cache
def made_variants(data: bytes, *settings: object) -> np.ndarray:
    _, size, *_ = settings
    return np.stack([np.reshape(part, (size, size, 3)) for part in variant_worker._answer(data, *settings)])
