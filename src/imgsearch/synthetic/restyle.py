"""Redraw images of the catalog in another style. The same state of a random generator gives the same bytes."""

import cv2
import numpy as np
from numpy.typing import NDArray

from imgsearch.images.decode import Pixels
from imgsearch.synthetic.augment import FRAME, encode_jpeg, premultiply, reduce_rgba


def drawing_like(item: Pixels, generator: np.random.Generator) -> bytes:
    """Make an image of an item, RGBA, that somebody else might have drawn: a JPEG file of 320 x 320 pixels at most."""
    paper = _on_paper(reduce_rgba(item, FRAME), generator)
    style = _STYLES[generator.integers(len(_STYLES))]
    return encode_jpeg(style(paper, generator), int(generator.integers(70, 96)))


def _on_paper(item: Pixels, generator: np.random.Generator) -> Pixels:
    """Lay an item on light paper, a little wider or narrower than it is, with a margin."""
    layer = premultiply(item)
    paper = generator.uniform(235, 255, 3)
    flat = np.round(layer[:, :, :3] + paper * (1 - layer[:, :, 3:] / 255)).astype(np.uint8)
    stretch = generator.uniform(0.85, 1.0, 2)
    height, width = (max(1, round(side * by)) for side, by in zip(flat.shape[:2], stretch, strict=True))
    flat = np.asarray(cv2.resize(flat, (width, height), interpolation=cv2.INTER_AREA), np.uint8)
    above, below, left, right = (generator.uniform(0, 0.12, 4) * max(flat.shape[:2])).astype(int)
    return np.asarray(
        cv2.copyMakeBorder(flat, above, below, left, right, cv2.BORDER_CONSTANT, value=paper.round().tolist()), np.uint8
    )


def _painted(image: Pixels, generator: np.random.Generator) -> Pixels:
    """Even out the colors between edges, change them a little, and draw the edges dark."""
    smooth = cv2.edgePreservingFilter(image, flags=cv2.RECURS_FILTER, sigma_s=40, sigma_r=generator.uniform(0.3, 0.6))
    inked = _recolored(np.asarray(smooth, np.uint8), generator) * (1 - generator.uniform(0.3, 1) * _edges(image, 1))
    return np.asarray(inked, np.uint8)


def _outlined(image: Pixels, generator: np.random.Generator) -> Pixels:
    """Leave nothing but the edges, in dark ink or pencil on white."""
    ink = generator.uniform(0, 90, 3)
    edges = np.minimum(1, _edges(image, generator.uniform(0.8, 1.6)) * generator.uniform(1, 2))
    return np.asarray(255 - edges * (255 - ink), np.uint8)


def _posterized(image: Pixels, generator: np.random.Generator) -> Pixels:
    """Leave a few levels of each color."""
    smooth = _recolored(np.asarray(cv2.medianBlur(image, 5), np.uint8), generator)
    step = 255 / generator.integers(2, 6)
    return np.asarray(np.round(smooth / step) * step, np.uint8)


def _gray(image: Pixels, generator: np.random.Generator) -> Pixels:
    """Take the colors away, and some contrast."""
    gray = np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), np.float32) / 255
    darkest = generator.uniform(0, 80)
    changed = darkest + gray ** generator.uniform(0.6, 1.6) * (255 - darkest)
    return np.repeat(np.asarray(changed, np.uint8)[:, :, None], 3, axis=2)


_STYLES = (_painted, _outlined, _posterized, _gray)


def _recolored(image: Pixels, generator: np.random.Generator) -> NDArray[np.float32]:
    """Turn hues by a few degrees, and change how strong and how light colors are."""
    tones = np.asarray(cv2.cvtColor(np.asarray(image, np.float32) / 255, cv2.COLOR_RGB2HSV), np.float32)
    tones[:, :, 0] = (tones[:, :, 0] + generator.uniform(-15, 15)) % 360
    tones[:, :, 1] = np.minimum(1, tones[:, :, 1] * generator.uniform(0.6, 1.5))
    tones[:, :, 2] **= generator.uniform(0.7, 1.4)
    return np.asarray(cv2.cvtColor(tones, cv2.COLOR_HSV2RGB), np.float32) * 255


def _edges(image: Pixels, width: float) -> NDArray[np.float32]:
    """Return how much of an edge each pixel is, 0 to 1: (height, width, 1); `width` is that of lines, 1 for thin."""
    blur = width * max(image.shape[:2]) / FRAME
    gray = np.asarray(cv2.GaussianBlur(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), (0, 0), blur), np.float32)
    slope = cv2.magnitude(cv2.Sobel(gray, cv2.CV_32F, 1, 0), cv2.Sobel(gray, cv2.CV_32F, 0, 1))
    return np.asarray(np.clip(slope / 100, 0, 1), np.float32)[:, :, None]
