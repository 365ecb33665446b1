"""Photos that are hard: one catalog item somewhere in a scene, small, askew, partly covered, on a busy background.

The backgrounds are parts of real photographs and of images that come with desktops, and parts of other catalog
images. Photographs are the two that scikit-learn ships and those of Debian's package gnome-backgrounds (CC BY-SA 3.0
and others; see its copyright file), fetched by name.
"""

import csv
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from debian import unpack_package
from imgsearch.images.boxes import Box
from imgsearch.images.decode import Pixels, decode, decode_rgba
from imgsearch.synthetic.compose import Style, compose

FRAME = 480
STYLE = Style(sides=(0.30, 0.75))
PACKAGE = "gnome-backgrounds"

# Of the backgrounds, how many are photographs.
_PHOTOGRAPHS = 0.6
# A part of a catalog image that serves as background has these sides, so that it is not a product itself.
_PARTS = (0.3, 0.6)


@dataclass(frozen=True, slots=True)
class Query:
    """One photo.

    Attributes:
        photo: Its file.
        name: The catalog image that it shows, below the catalog.
        box: Where.
    """

    photo: Path
    name: str
    box: Box


def hard_set(catalog: Path, photographs: list[Path], folder: Path, seed: int) -> list[Query]:
    """Make one photo of every image of a catalog; nothing is made that is there.

    Args:
        catalog: Of PNG files, cut out of their backgrounds.
        photographs: What `backgrounds` returned.
        folder: Where the photos go.
        seed: Of all chance.
    """
    images = sorted(catalog.rglob("*.png"))
    truth = folder / "truth.csv"
    if not truth.exists():
        folder.mkdir(parents=True, exist_ok=True)
        scenery = [decode(path.read_bytes()) for path in photographs]
        rows = []
        for number, image in enumerate(images):
            generator = np.random.default_rng([seed, number])
            back = background(scenery, images, number, generator)
            scene = compose(back, [trimmed(image)], STYLE, generator)
            (box,) = scene.boxes
            name = f"{number:04d}.png"
            cv2.imwrite(str(folder / name), scene.photo[:, :, ::-1])
            rows.append((name, image.relative_to(catalog).as_posix(), box.x, box.y, box.width, box.height))
        with truth.open("w", newline="") as file:
            csv.writer(file).writerows(rows)
    with truth.open(newline="") as file:
        return [Query(folder / photo, name, Box(*map(int, sides))) for photo, name, *sides in csv.reader(file)]


def backgrounds(folder: Path) -> list[Path]:
    """Find real photographs.

    Args:
        folder: Made if it is missing; nothing is fetched if it is there.
    """
    if not folder.is_dir():
        draft = folder.with_name(folder.name + ".tmp")
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(parents=True)
        from sklearn.datasets import load_sample_images

        samples = load_sample_images()
        for path, image in zip(samples.filenames, samples.images, strict=True):
            cv2.imwrite(str(draft / Path(path).with_suffix(".png").name), image[:, :, ::-1])
        with tempfile.TemporaryDirectory() as scratch:
            if unpack_package(PACKAGE, Path(scratch)):
                for image in sorted(Path(scratch).rglob("*.webp")):
                    if image.stat().st_size > 10_000:  # smaller ones are a plain color
                        reduced = _reduced(decode(image.read_bytes()))
                        cv2.imwrite(str(draft / f"{image.stem}.png"), reduced[:, :, ::-1])
        draft.rename(folder)
    return sorted(folder.iterdir())


def trimmed(image: Path) -> Pixels:
    """Read an image without the transparent border around its item: RGBA."""
    item = decode_rgba(image.read_bytes())
    x, y, width, height = cv2.boundingRect((item[:, :, 3] > 16).astype(np.uint8))
    return item[y : y + height, x : x + width]


def background(scenery: list[Pixels], images: list[Path], number: int, generator: np.random.Generator) -> Pixels:
    """Take a square part of a photograph, or of a catalog image other than `number`."""
    if generator.random() < _PHOTOGRAPHS:
        whole = scenery[int(generator.integers(len(scenery)))]
        share = generator.uniform(0.4, 1.0)
    else:
        other = int(generator.integers(len(images) - 1))
        whole = decode(images[other + (other >= number)].read_bytes())
        share = generator.uniform(*_PARTS)
    side = max(1, round(share * min(whole.shape[:2])))
    top, left = (int(generator.integers(length - side + 1)) for length in whole.shape[:2])
    part = whole[top : top + side, left : left + side]
    how = cv2.INTER_AREA if side > FRAME else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(part, (FRAME, FRAME), interpolation=how), np.uint8)


def _reduced(image: Pixels) -> Pixels:
    scale = min(1.0, 1200 / min(image.shape[:2]))
    return np.asarray(cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA), np.uint8)
