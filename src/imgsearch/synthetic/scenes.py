"""Scenes that a detector learns from: catalog items on backgrounds, and where they are."""

from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from imgsearch.images.decode import Pixels
from imgsearch.images.transform import fit, resize
from imgsearch.synthetic.backgrounds import draw_background, enlarge_part, strew, tile_part
from imgsearch.synthetic.compose import Scene, Style, compose

# Pixels of the longer side of a scene: the least and the most.
_SIDES = (224, 320)
# Of scenes, how many are not square, and the shorter side of these at least.
_OBLONG = 1 / 3
_SHORTEST = 0.5
# Of scenes, how many have nothing in them, and how many items the others have.
_EMPTY = 0.05
_COUNTS = (1, 1, 1, 2, 2, 3, 4, 5)
# Longer side of an item, as a share of the longer side of the scene at least, and of the shorter at most: that depends
# on how many there are, so that they find a place. In some scenes all are small.
_SMALLEST = 0.1
_LARGEST = {1: 0.8, 2: 0.6, 3: 0.5, 4: 0.42, 5: 0.38}
_SMALL = 0.25
_ALL_SMALL = 0.15
# Of backgrounds, how many are the user's, where there are some; of the others, how many are parts of items, and of
# these, how many are repeated. Items that are too small to be meant lie on some of all.
_USERS = 0.6
_PARTS = 0.5
_PATCHES = 0.35
_STREWN = 0.12


@dataclass(frozen=True, slots=True)
class Stock:
    """What scenes are made of."""

    items: NDArray[np.uint8]  # (n, longest, longest, 4), RGBA, mapped: each in the upper left corner of its square
    sides: NDArray[np.int64]  # (n, 2): height and width of each
    backgrounds: NDArray[np.uint8]  # (m, side, side, 3), RGB, mapped, of the user; m may be 0
    item_rows: NDArray[np.int64]  # which of the items are used
    background_rows: NDArray[np.int64]  # which of the backgrounds are used

    def item(self, row: int) -> Pixels:
        """Return an item: RGBA, uint8."""
        height, width = self.sides[row]
        return self.items[row, :height, :width]

    def split(self, share: float, seed: int) -> tuple["Stock", "Stock"]:
        """Split at random into what is learned from and what is measured with: this share, but at least one."""
        generator = np.random.default_rng([seed, 1])
        items = _split_rows(self.item_rows, share, generator)
        backgrounds = _split_rows(self.background_rows, share, generator)
        kept, held_out = (replace(self, item_rows=items[part], background_rows=backgrounds[part]) for part in range(2))
        return kept, held_out


@dataclass(frozen=True, slots=True)
class Example:
    """A scene as a detector sees it."""

    square: Pixels  # RGB (size, size, 3)
    boxes: NDArray[np.float32]  # (items, 4): left, top, right, bottom, as shares of the square's side
    mask: NDArray[np.float32]  # (cells, cells): how much of each cell is item


def make_example(stock: Stock, size: int, cells: int, generator: np.random.Generator) -> Example:
    """Make a scene, and fit it to a detector's square as photos are; the mask has so many cells a side."""
    scene = _make_scene(stock, generator)
    height, width = scene.photo.shape[:2]
    longest = max(height, width)
    top, left = (longest - height) // 2, (longest - width) // 2
    boxes = [(box.x + left, box.y + top, box.x + left + box.width, box.y + top + box.height) for box in scene.boxes]
    mask = cv2.copyMakeBorder(
        scene.mask, top, longest - height - top, left, longest - width - left, cv2.BORDER_CONSTANT, value=0
    )
    return Example(
        fit(scene.photo, size, "pad"),
        np.array(boxes, np.float32).reshape(-1, 4) / np.float32(longest),
        np.asarray(cv2.resize(mask, (cells, cells), interpolation=cv2.INTER_AREA), np.float32),
    )


def _make_scene(stock: Stock, generator: np.random.Generator) -> Scene:
    frame = _draw_frame(generator)
    background = _choose_background(stock, frame, generator)
    if generator.random() < _STREWN:
        rows = generator.choice(stock.item_rows, int(generator.integers(5, 30)))
        background = strew(background, [stock.item(row) for row in rows], generator)
    count = 0 if generator.random() < _EMPTY else int(generator.choice(_COUNTS))
    most = _SMALL if generator.random() < _ALL_SMALL else _LARGEST.get(count, _SMALL)
    least = _SMALLEST * max(frame) / min(frame)
    style = Style((least, max(least, most)), turn=30.0, perspective=0.1, quality=(30, 95))
    chosen = generator.choice(stock.item_rows, min(count, len(stock.item_rows)), replace=False)
    items = [_mirror(stock.item(row), generator) for row in chosen]
    return compose(background, items, style, generator)


def _mirror(item: Pixels, generator: np.random.Generator) -> Pixels:
    return np.ascontiguousarray(item[:, ::-1]) if generator.random() < 0.5 else item


def _draw_frame(generator: np.random.Generator) -> tuple[int, int]:
    longest = int(generator.integers(_SIDES[0], _SIDES[1] + 1))
    if generator.random() >= _OBLONG:
        return longest, longest
    shorter = round(longest * generator.uniform(_SHORTEST, 1))
    return (longest, shorter) if generator.random() < 0.5 else (shorter, longest)


def _choose_background(stock: Stock, frame: tuple[int, int], generator: np.random.Generator) -> Pixels:
    if len(stock.background_rows) and generator.random() < _USERS:
        return _take_part(stock.backgrounds[generator.choice(stock.background_rows)], frame, generator)
    if generator.random() < _PARTS:
        make = tile_part if generator.random() < _PATCHES else enlarge_part
        return make(stock.item(generator.choice(stock.item_rows)), frame, generator)
    return draw_background(frame, generator)


def _take_part(background: Pixels, frame: tuple[int, int], generator: np.random.Generator) -> Pixels:
    """Take a part of a photo, as large as half of it or more, mirrored every other time."""
    scale = generator.uniform(0.5, 1) * len(background) / max(frame)
    height, width = (max(1, int(side * scale)) for side in frame)
    top, left = (int(generator.integers(len(background) - side + 1)) for side in (height, width))
    part = background[top : top + height, left : left + width]
    if generator.random() < 0.5:
        part = part[:, ::-1]
    return resize(part, *frame)


def _split_rows(
    rows: NDArray[np.int64], share: float, generator: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    rows = generator.permutation(rows)
    held_out = min(len(rows) - 1, max(1, round(share * len(rows)))) if len(rows) else 0
    return np.sort(rows[held_out:]), np.sort(rows[:held_out])
