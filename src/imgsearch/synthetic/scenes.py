"""Scenes that a detector learns from: catalog items on backgrounds, and where they are."""

from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from imgsearch.images.decode import Pixels
from imgsearch.images.transform import fit
from imgsearch.synthetic.backgrounds import from_item, generated, of_patches, strewn
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
    """What scenes are made of.

    Attributes:
        items: uint8 (n, longest, longest, 4), RGBA, mapped: each in the upper left corner of its square.
        sides: int64 (n, 2): height and width of each.
        backgrounds: uint8 (m, side, side, 3), RGB, mapped, of the user; m may be 0.
        item_rows: Which of the items are used.
        background_rows: Which of the backgrounds are used.
    """

    items: NDArray[np.uint8]
    sides: NDArray[np.int64]
    backgrounds: NDArray[np.uint8]
    item_rows: NDArray[np.int64]
    background_rows: NDArray[np.int64]

    def item(self, row: int) -> Pixels:
        """Return an item: RGBA, uint8."""
        height, width = self.sides[row]
        return self.items[row, :height, :width]

    def parted(self, share: float, seed: int) -> tuple["Stock", "Stock"]:
        """Hold out a share of the items and of the backgrounds, by lot, but at least one.

        Returns:
            What scenes to learn from are made of, and scenes to measure with.
        """
        generator = np.random.default_rng([seed, 1])
        items = _parted(self.item_rows, share, generator)
        backgrounds = _parted(self.background_rows, share, generator)
        kept, held_out = (replace(self, item_rows=items[part], background_rows=backgrounds[part]) for part in range(2))
        return kept, held_out


@dataclass(frozen=True, slots=True)
class Example:
    """A scene as a detector sees it.

    Attributes:
        square: RGB, uint8 (size, size, 3).
        boxes: float32 (items, 4): left, top, right, bottom, as shares of the square's side.
        mask: float32 (cells, cells): how much of each cell is item.
    """

    square: Pixels
    boxes: NDArray[np.float32]
    mask: NDArray[np.float32]


def example(stock: Stock, size: int, cells: int, generator: np.random.Generator) -> Example:
    """Make a scene, and fit it to a detector's square as photos are.

    Args:
        stock: What it is made of.
        size: Side of the square in pixels.
        cells: Side of the mask in cells.
        generator: Source of all chance: the same state gives the same scene.
    """
    scene = _scene(stock, generator)
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


def _scene(stock: Stock, generator: np.random.Generator) -> Scene:
    frame = _frame(generator)
    background = _background(stock, frame, generator)
    if generator.random() < _STREWN:
        rows = generator.choice(stock.item_rows, int(generator.integers(5, 30)))
        background = strewn(background, [stock.item(row) for row in rows], generator)
    count = 0 if generator.random() < _EMPTY else int(generator.choice(_COUNTS))
    most = _SMALL if generator.random() < _ALL_SMALL else _LARGEST.get(count, _SMALL)
    least = _SMALLEST * max(frame) / min(frame)
    style = Style((least, max(least, most)), turn=30.0, perspective=0.1, quality=(30, 95))
    chosen = generator.choice(stock.item_rows, min(count, len(stock.item_rows)), replace=False)
    items = [_mirrored(stock.item(row), generator) for row in chosen]
    return compose(background, items, style, generator)


def _mirrored(item: Pixels, generator: np.random.Generator) -> Pixels:
    return np.ascontiguousarray(item[:, ::-1]) if generator.random() < 0.5 else item


def _frame(generator: np.random.Generator) -> tuple[int, int]:
    longest = int(generator.integers(_SIDES[0], _SIDES[1] + 1))
    if generator.random() >= _OBLONG:
        return longest, longest
    shorter = round(longest * generator.uniform(_SHORTEST, 1))
    return (longest, shorter) if generator.random() < 0.5 else (shorter, longest)


def _background(stock: Stock, frame: tuple[int, int], generator: np.random.Generator) -> Pixels:
    if len(stock.background_rows) and generator.random() < _USERS:
        return _part(stock.backgrounds[generator.choice(stock.background_rows)], frame, generator)
    if generator.random() < _PARTS:
        make = of_patches if generator.random() < _PATCHES else from_item
        return make(stock.item(generator.choice(stock.item_rows)), frame, generator)
    return generated(frame, generator)


def _part(background: Pixels, frame: tuple[int, int], generator: np.random.Generator) -> Pixels:
    """Take a part of a photo, as large as half of it or more, mirrored every other time."""
    scale = generator.uniform(0.5, 1) * len(background) / max(frame)
    height, width = (max(1, int(side * scale)) for side in frame)
    top, left = (int(generator.integers(len(background) - side + 1)) for side in (height, width))
    part = background[top : top + height, left : left + width]
    if generator.random() < 0.5:
        part = part[:, ::-1]
    how = cv2.INTER_AREA if scale > 1 else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(part, frame[::-1], interpolation=how), np.uint8)


def _parted(
    rows: NDArray[np.int64], share: float, generator: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    rows = generator.permutation(rows)
    held_out = min(len(rows) - 1, max(1, round(share * len(rows)))) if len(rows) else 0
    return np.sort(rows[held_out:]), np.sort(rows[:held_out])
