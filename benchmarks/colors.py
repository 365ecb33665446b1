"""Main colors, their names, and search by them: python benchmarks/colors.py FOLDER.

Names are compared with those that people gave colors: the half of the XKCD color survey that the prototypes were not
learned from, and the named colors of CSS; matplotlib has both. Then products are drawn in known colors, each shape in
each of the eleven, shaded, with a camera's noise, as JPEGs, on plain backgrounds and on one that falls off.
"""

import contextlib
import shutil
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from matplotlib.colors import CSS4_COLORS, XKCD_COLORS, to_rgb
from numpy.typing import NDArray

from drawn_catalog import SHAPES, SIDE
from imgsearch import Index, build_index
from imgsearch.colors import NAMES, lab_of, names_of, parse_color
from imgsearch.images.decode import decode_image
from imgsearch.images.main_colors import main_colors
from imgsearch.store.colors import packed
from imgsearch.store.database import connect
from imgsearch.store.items import SCHEMA, Items

SEED = 0
ITEMS = 100_000

# What a shop calls so, each in a few tones; drawn with a little chance added.
TONES = {
    "black": ((12, 12, 14), (28, 27, 30), (20, 24, 22)),
    "white": ((250, 250, 250), (245, 243, 238), (240, 243, 247)),
    "gray": ((128, 128, 128), (160, 163, 165), (95, 96, 100)),
    "red": ((200, 25, 30), (170, 20, 40), (225, 40, 40)),
    "orange": ((245, 140, 20), (250, 165, 50), (235, 115, 25)),
    "yellow": ((250, 220, 40), (245, 235, 110), (235, 200, 30)),
    "green": ((30, 140, 50), (90, 170, 70), (20, 85, 45)),
    "blue": ((30, 80, 190), (20, 35, 90), (110, 170, 225)),
    "purple": ((115, 40, 150), (150, 100, 190), (85, 30, 110)),
    "pink": ((250, 130, 180), (245, 175, 195), (235, 80, 150)),
    "brown": ((120, 75, 40), (90, 55, 30), (160, 110, 65)),
}
BACKGROUNDS = {"white": (255, 255, 255), "light gray": (214, 214, 216), "beige": (226, 214, 190)}

Image = NDArray[np.uint8]


def main(folder: Path) -> None:
    names_of_people()
    truth = draw(folder / "colored", SEED)
    first_colors(folder / "colored", truth)
    searches(folder, truth)
    speed(folder, truth)


def names_of_people() -> None:
    """Print how often a color has the name that people gave it."""
    survey = [
        (_basic(name), name.removeprefix("xkcd:"), color)
        for name, color in XKCD_COLORS.items()
        if _basic(name) and not (name.endswith("grey") and f"{name[:-4]}gray" in XKCD_COLORS)
    ]
    order = np.random.default_rng(0).permutation(len(survey))
    halves = {"learned from": order[: len(survey) // 2], "held out": order[len(survey) // 2 :]}
    for half, places in halves.items():
        chosen = [survey[place] for place in sorted(places)]
        # Of "blue green" people mean both.
        plain = [each for each in chosen if not any(_basic(word) for word in each[1].split()[:-1])]
        print(f"  XKCD, {half}: {_agreeing(chosen):.3f} of {len(chosen)},", end=" ")
        print(f"{_agreeing(plain):.3f} of {len(plain)} without a second basic term")
    css = [(_ending(name), name, color) for name, color in CSS4_COLORS.items() if _ending(name) and "grey" not in name]
    print(f"  CSS: {_agreeing(css):.3f} of {len(css)}")


def _basic(name: str) -> str:
    word = name.rsplit(maxsplit=1)[-1].removeprefix("xkcd:").replace("grey", "gray")
    return word if word in NAMES else ""


def _ending(name: str) -> str:
    return next((each for each in NAMES if name.endswith(each)), "")


def _agreeing(named: list[tuple[str, str, str]]) -> float:
    found = names_of(lab_of(np.array([to_rgb(color) for *_, color in named]) * 255))
    return statistics.mean(name == expected for name, (expected, *_) in zip(found, named, strict=True))


def draw(folder: Path, seed: int) -> dict[str, str]:
    """Draw each shape in each color on each background; path -> name of the color."""
    shutil.rmtree(folder, ignore_errors=True)
    truth = {}
    for number, shape in enumerate(SHAPES):
        for place, color in enumerate(NAMES):
            for ground, background in enumerate(BACKGROUNDS):
                path = f"{shape}/{color}-{background.replace(' ', '-')}.jpg"
                (folder / shape).mkdir(parents=True, exist_ok=True)
                generator = np.random.default_rng([seed, number, place, ground])
                (folder / path).write_bytes(product(shape, color, background, generator))
                truth[path] = color
    return truth


def product(shape: str, color: str, background: str, generator: np.random.Generator) -> bytes:
    """Draw one product: a JPEG."""
    mask = np.zeros((SIDE, SIDE), np.uint8)
    SHAPES[shape](mask)
    scale = generator.uniform(0.6, 0.95)
    middle = SIDE / 2 * (1 - scale)
    mask = np.asarray(cv2.warpAffine(mask, np.array([[scale, 0, middle], [0, scale, middle]]), (SIDE, SIDE)), np.uint8)
    tone = np.array(TONES[color][int(generator.integers(3))]) + generator.uniform(-8, 8, 3)
    light = np.linspace(1.08, 0.82, SIDE)[:, None, None]  # from above
    # The light falls off on what is no white table.
    fall = 1.0 if background == "white" else np.linspace(1.02, 0.94, SIDE)[None, :, None]
    opacity = mask[:, :, None] / 255
    image = opacity * (tone * light) + (1 - opacity) * (np.array(BACKGROUNDS[background]) * fall)
    image = image + generator.normal(0, 4, image.shape) * np.maximum(opacity, background != "white")
    large = cv2.resize(np.clip(image, 0, 255).astype(np.uint8), (600, 600), interpolation=cv2.INTER_CUBIC)
    quality = [cv2.IMWRITE_JPEG_QUALITY, int(generator.integers(60, 95))]
    return cv2.imencode(".jpg", large[:, :, ::-1], quality)[1].tobytes()


def first_colors(folder: Path, truth: dict[str, str]) -> None:
    """Print how often the first main color of a product is the one that it was drawn in."""
    wrong: Counter[tuple[str, str]] = Counter()
    for path, color in truth.items():
        first = main_colors(decode_image((folder / path).read_bytes(), shrink_to=224))[0]
        (name,) = names_of(lab_of([tuple(bytes.fromhex(first.rgb[1:]))]))
        if name != color:
            wrong[color, name] += 1
    print(f"  first main color is the drawn one: {1 - wrong.total() / len(truth):.3f} of {len(truth)};", end=" ")
    print("wrong:", ", ".join(f"{color} as {name} {count}" for (color, name), count in wrong.most_common()) or "none")


def searches(folder: Path, truth: dict[str, str]) -> None:
    """Ask with each shape in one color for that shape in each other one; print how often the first hit has it."""
    build_index(folder / "colored", folder / "colored.imgsearch")
    right = shape_too = asked = 0
    with contextlib.closing(Index.open(folder / "colored.imgsearch")) as index:
        for number, shape in enumerate(SHAPES):
            for place, wanted in enumerate(NAMES):
                generator = np.random.default_rng([SEED + 1, number, place])
                given = NAMES[(place + 1 + int(generator.integers(10))) % 11]
                query = folder / "colored-query.jpg"
                query.write_bytes(product(shape, given, "light gray", generator))
                rows, _ = index.items.color_differences(parse_color(wanted), 0)
                admitted = {item.path for item in index.items.fetch(rows.tolist())}
                first = next((hit.path for hit in index.search(query, k=len(truth)) if hit.path in admitted), "")
                asked += 1
                right += truth.get(first) == wanted
                shape_too += truth.get(first) == wanted and first.startswith(f"{shape}/")
    print(f"  first hit has the named color: {right / asked:.3f} of {asked}; and the shape: {shape_too / asked:.3f}")


def speed(folder: Path, truth: dict[str, str]) -> None:
    """Print what finding colors takes beside decoding, and searching by them in a large index."""
    cv2.setNumThreads(1)  # as in a decoder process
    files = [(folder / "colored" / path).read_bytes() for path in list(truth)[:100]]
    decoded = [decode_image(file, shrink_to=224) for file in files]
    decoding = _fastest(lambda: [decode_image(file, shrink_to=224) for file in files]) / len(files)
    finding = _fastest(lambda: [main_colors(image) for image in decoded]) / len(files)
    print(f"  an image of 600 x 600: {1000 * decoding:.2f} ms to decode, {1000 * finding:.2f} ms for its colors")
    file = folder / "colors.sqlite"
    file.unlink(missing_ok=True)
    generator = np.random.default_rng(SEED)
    rgb = generator.integers(0, 256, (3 * ITEMS, 3))
    names = [name for start in range(0, len(rgb), 5000) for name in names_of(lab_of(rgb[start : start + 5000]))]
    hexes = (f"#{red:02x}{green:02x}{blue:02x}" for red, green, blue in rgb.tolist())
    with contextlib.closing(connect(file)) as connection:
        connection.executescript(SCHEMA)
        blocks = enumerate(packed(zip((place // 3 for place in range(len(rgb))), hexes, names, strict=True)))
        connection.executemany("INSERT INTO color_blocks VALUES (?, ?)", blocks)
    with contextlib.closing(Items(file)) as items:
        for text in ("blue", "#1e6fb8", "#c0c0c0"):
            asked = parse_color(text)
            seconds = _fastest(partial(items.color_differences, asked, 20))
            found = len(items.color_differences(asked, 20)[0])
            print(f"  {text} among {ITEMS:,} items of three colors: {found:,} found in {1000 * seconds:.1f} ms")


def _fastest(work: Callable[[], object], rounds: int = 5) -> float:
    best = float("inf")
    for _ in range(rounds):
        started = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - started)
    return best


if __name__ == "__main__":
    main(Path(sys.argv[1]))
