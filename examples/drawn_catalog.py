"""Draw a catalog: 240 products in 12 categories, for demos and tests that need images of nobody else's.

python examples/drawn_catalog.py FOLDER
"""

import colorsys
import csv
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from imgsearch.colors import lab_of, names_of

Mask = NDArray[np.uint8]
Image = NDArray[np.uint8]

SIDE = 256
PRODUCTS_OF_A_KIND = 20


def draw_catalog(
    folder: Path, *, per_kind: int = PRODUCTS_OF_A_KIND, seed: int = 0, products: Path | None = None
) -> list[Path]:
    """Draw a catalog.

    Args:
        folder: Where; made if it is missing. Each category is a folder in it.
        per_kind: Products of each of the 12 categories.
        seed: Source of all chance: the same seed draws the same images.
        products: A CSV file that gets their titles, for `build-index --metadata`.

    Returns:
        The files, in order.
    """
    files: list[Path] = []
    titles: list[str] = []
    for kind in SHAPES:
        (folder / kind).mkdir(parents=True, exist_ok=True)
        for number in range(per_kind):
            generator = np.random.default_rng([seed, len(files)])
            file = folder / kind / f"{kind}-{number:02d}.png"
            image, title = _drawn(kind, number, generator)
            file.write_bytes(_encoded(image))
            files.append(file)
            titles.append(title)
    if products:
        with products.open("w", encoding="utf-8", newline="") as table:
            rows = csv.writer(table)
            rows.writerow(["path", "title"])
            rows.writerows(zip((file.relative_to(folder) for file in files), titles, strict=True))
    return files


def _drawn(kind: str, number: int, generator: np.random.Generator) -> tuple[Image, str]:
    """Fill a shape with a pattern in two colors and put an emblem on it; RGBA, transparent around it; and its title."""
    shape = SHAPES[kind]
    mask = _placed(shape, generator.uniform(0.6, 1.0, 2), (0, 0))
    pattern_name = list(PATTERNS)[number % len(PATTERNS)]
    pattern = PATTERNS[pattern_name](generator)
    first, second, third = _colors(generator)
    color = first + (second - first) * pattern[:, :, None]
    emblem_name = list(SHAPES)[int(generator.integers(len(SHAPES)))]
    emblem = SHAPES[emblem_name]
    offset = (int(generator.integers(-25, 26)), int(generator.integers(-20, 41)))
    on_it = _placed(emblem, generator.uniform(0.22, 0.42, 2), offset)
    color = np.where(_outlined(on_it), 250.0, np.where(on_it[:, :, None] > 128, third, color))
    shade = np.linspace(1.1, 0.8, SIDE)[:, None, None]  # light from above
    color = np.where(_outlined(mask), 40.0, color * shade)
    own, other, on_top = names_of(lab_of(np.array([first, second, third])))
    pattern_words = "" if pattern_name == "plain" else f" with {other} {pattern_name}"
    title = f"{own} {NOUNS[kind]}{pattern_words}, {on_top} {NOUNS[emblem_name]} on it".capitalize()
    return np.dstack([np.clip(color, 0, 255).astype(np.uint8), mask]), title


def _placed(shape: Callable[[Mask], None], scale: NDArray[np.float64], offset: tuple[int, int]) -> Mask:
    mask = np.zeros((SIDE, SIDE), np.uint8)
    shape(mask)
    width, height = scale
    middle = SIDE / 2
    squeeze = np.array(
        [
            [width, 0, middle * (1 - width) + offset[0]],
            [0, height, middle * (1 - height) + offset[1]],
        ]
    )
    return np.asarray(cv2.warpAffine(mask, squeeze, (SIDE, SIDE), flags=cv2.INTER_AREA), np.uint8)


def _outlined(mask: Mask) -> NDArray[np.bool_]:
    edge = cv2.morphologyEx(mask, cv2.MORPH_GRADIENT, np.ones((5, 5), np.uint8))
    return np.asarray(edge)[:, :, None] > 128


def _colors(generator: np.random.Generator) -> list[NDArray[np.float64]]:
    hue = generator.uniform()
    return [
        np.array(colorsys.hsv_to_rgb((hue + turn) % 1, generator.uniform(0.3, 1), generator.uniform(0.3, 1))) * 255
        for turn in (0, generator.uniform(0.15, 0.45), generator.uniform(0.5, 0.85))
    ]


def _encoded(rgba: Image) -> bytes:
    _, data = cv2.imencode(".png", cv2.cvtColor(rgba, cv2.COLOR_RGBA2BGRA))
    return data.tobytes()


def _grid(generator: np.random.Generator) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Coordinates turned by some angle, in units of a pattern's period."""
    angle, period = generator.uniform(0, np.pi), generator.uniform(18, 48)
    down, across = np.mgrid[:SIDE, :SIDE] / period
    return across * np.cos(angle) + down * np.sin(angle), down * np.cos(angle) - across * np.sin(angle)


def _plain(_: np.random.Generator) -> NDArray[np.float64]:
    return np.zeros((SIDE, SIDE))


def _stripes(generator: np.random.Generator) -> NDArray[np.float64]:
    across, _ = _grid(generator)
    return (across % 1 < 0.5).astype(float)


def _checks(generator: np.random.Generator) -> NDArray[np.float64]:
    across, down = _grid(generator)
    return ((across % 1 < 0.5) ^ (down % 1 < 0.5)).astype(float)


def _dots(generator: np.random.Generator) -> NDArray[np.float64]:
    across, down = _grid(generator)
    return np.asarray(np.hypot(across % 1 - 0.5, down % 1 - 0.5) < 0.3, float)


def _waves(generator: np.random.Generator) -> NDArray[np.float64]:
    across, down = _grid(generator)
    return ((across + 0.4 * np.sin(down * 3)) % 1 < 0.4).astype(float)


def _rings(generator: np.random.Generator) -> NDArray[np.float64]:
    across, down = _grid(generator)
    return np.asarray(np.hypot(across - across.mean(), down - down.mean()) % 1 < 0.5, float)


def _lattice(generator: np.random.Generator) -> NDArray[np.float64]:
    across, down = _grid(generator)
    return ((across % 1 < 0.2) | (down % 1 < 0.2)).astype(float)


def _clouds(generator: np.random.Generator) -> NDArray[np.float64]:
    cells = int(generator.integers(4, 10))
    field = generator.uniform(0, 1, (cells, cells)).astype(np.float32)
    smooth = cv2.resize(field, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC)
    return np.asarray(np.clip(smooth, 0, 1), float)


PATTERNS: dict[str, Callable[[np.random.Generator], NDArray[np.float64]]] = {
    "plain": _plain,
    "stripes": _stripes,
    "checks": _checks,
    "dots": _dots,
    "waves": _waves,
    "rings": _rings,
    "lattice": _lattice,
    "clouds": _clouds,
}


def _polygon(*corners: tuple[int, int]) -> Callable[[Mask], None]:
    def draw(mask: Mask) -> None:
        cv2.fillPoly(mask, [np.array(corners, np.int32)], 255, cv2.LINE_AA)

    return draw


def _cup(mask: Mask) -> None:
    cv2.ellipse(mask, (190, 130), (45, 45), 0, 0, 360, 255, 18, cv2.LINE_AA)
    cv2.rectangle(mask, (50, 50), (185, 215), 255, -1)


def _bottle(mask: Mask) -> None:
    cv2.rectangle(mask, (105, 15), (150, 90), 255, -1)
    cv2.ellipse(mask, (128, 110), (55, 50), 0, 180, 360, 255, -1, cv2.LINE_AA)
    cv2.rectangle(mask, (73, 108), (183, 242), 255, -1)


def _ball(mask: Mask) -> None:
    cv2.circle(mask, (128, 128), 112, 255, -1, cv2.LINE_AA)


def _ring(mask: Mask) -> None:
    cv2.circle(mask, (128, 128), 88, 255, 44, cv2.LINE_AA)


def _star(mask: Mask) -> None:
    angles = np.arange(10) * np.pi / 5 - np.pi / 2
    reach = np.where(np.arange(10) % 2 == 0, 120, 52)
    corners = np.stack([128 + reach * np.cos(angles), 128 + reach * np.sin(angles)], axis=1)
    cv2.fillPoly(mask, [corners.astype(np.int32)], 255, cv2.LINE_AA)


def _heart(mask: Mask) -> None:
    cv2.circle(mask, (83, 90), 58, 255, -1, cv2.LINE_AA)
    cv2.circle(mask, (173, 90), 58, 255, -1, cv2.LINE_AA)
    cv2.fillPoly(mask, [np.array([(34, 122), (222, 122), (128, 240)], np.int32)], 255, cv2.LINE_AA)


def _fish(mask: Mask) -> None:
    cv2.ellipse(mask, (110, 128), (95, 60), 0, 0, 360, 255, -1, cv2.LINE_AA)
    cv2.fillPoly(mask, [np.array([(180, 128), (250, 60), (250, 196)], np.int32)], 255, cv2.LINE_AA)


def _lamp(mask: Mask) -> None:
    cv2.fillPoly(mask, [np.array([(90, 20), (166, 20), (220, 130), (36, 130)], np.int32)], 255, cv2.LINE_AA)
    cv2.rectangle(mask, (118, 130), (138, 220), 255, -1)
    cv2.ellipse(mask, (128, 228), (60, 16), 0, 0, 360, 255, -1, cv2.LINE_AA)


SHAPES: dict[str, Callable[[Mask], None]] = {
    "balls": _ball,
    "bottles": _bottle,
    "boxes": _polygon((40, 60), (216, 60), (216, 220), (40, 220)),
    "cups": _cup,
    "fish": _fish,
    "hearts": _heart,
    "kites": _polygon((128, 10), (216, 100), (128, 246), (40, 100)),
    "lamps": _lamp,
    "rings": _ring,
    "shirts": _polygon(
        *((80, 30), (110, 48), (146, 48), (176, 30), (246, 90), (212, 126)),
        *((186, 106), (186, 232), (70, 232), (70, 106), (44, 126), (10, 90)),
    ),
    "stars": _star,
    "tents": _polygon((128, 20), (244, 230), (160, 230), (128, 160), (96, 230), (12, 230)),
}

# What one of a category is called.
NOUNS = {kind: {"boxes": "box", "fish": "fish"}.get(kind, kind.removesuffix("s")) for kind in SHAPES}

if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit("usage: python examples/drawn_catalog.py FOLDER [PRODUCTS_OF_A_KIND]")
    count = int(sys.argv[2]) if len(sys.argv) == 3 else PRODUCTS_OF_A_KIND
    print(f"{len(draw_catalog(Path(sys.argv[1]), per_kind=count))} images in {sys.argv[1]}")
