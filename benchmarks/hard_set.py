"""Photos that are hard: one catalogue item somewhere in a scene, small, askew, partly covered, on a busy ground.

The grounds are parts of real photographs and of pictures that come with desktops, and parts of other catalogue
pictures. Photographs are the two that scikit-learn ships and those of Debian's package gnome-backgrounds (CC BY-SA 3.0
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

# Of the grounds, how many are photographs.
_PHOTOGRAPHS = 0.6
# A part of a catalogue picture that serves as ground has these sides, so that it is not a product itself.
_PARTS = (0.3, 0.6)


@dataclass(frozen=True, slots=True)
class Query:
    """One photo.

    Attributes:
        photo: Its file.
        name: The catalogue picture that it shows, below the catalogue.
        box: Where.
    """

    photo: Path
    name: str
    box: Box


def hard_set(catalogue: Path, photographs: list[Path], folder: Path, seed: int) -> list[Query]:
    """Make one photo of every picture of a catalogue; nothing is made that is there.

    Args:
        catalogue: Of PNG files, cut out of their grounds.
        photographs: What `grounds` returned.
        folder: Where the photos go.
        seed: Of all chance.
    """
    pictures = sorted(catalogue.rglob("*.png"))
    truth = folder / "truth.csv"
    if not truth.exists():
        folder.mkdir(parents=True, exist_ok=True)
        scenery = [decode(path.read_bytes()) for path in photographs]
        rows = []
        for number, picture in enumerate(pictures):
            generator = np.random.default_rng([seed, number])
            back = ground(scenery, pictures, number, generator)
            scene = compose(back, [trimmed(picture)], STYLE, generator)
            (box,) = scene.boxes
            name = f"{number:04d}.png"
            cv2.imwrite(str(folder / name), scene.photo[:, :, ::-1])
            rows.append((name, picture.relative_to(catalogue).as_posix(), box.x, box.y, box.width, box.height))
        with truth.open("w", newline="") as file:
            csv.writer(file).writerows(rows)
    with truth.open(newline="") as file:
        return [Query(folder / photo, name, Box(*map(int, sides))) for photo, name, *sides in csv.reader(file)]


def grounds(folder: Path) -> list[Path]:
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
        for path, picture in zip(samples.filenames, samples.images, strict=True):
            cv2.imwrite(str(draft / Path(path).with_suffix(".png").name), picture[:, :, ::-1])
        with tempfile.TemporaryDirectory() as scratch:
            if unpack_package(PACKAGE, Path(scratch)):
                for picture in sorted(Path(scratch).rglob("*.webp")):
                    if picture.stat().st_size > 10_000:  # smaller ones are a plain colour
                        reduced = _reduced(decode(picture.read_bytes()))
                        cv2.imwrite(str(draft / f"{picture.stem}.png"), reduced[:, :, ::-1])
        draft.rename(folder)
    return sorted(folder.iterdir())


def trimmed(picture: Path) -> Pixels:
    """Read a picture without the transparent border around its item: RGBA."""
    item = decode_rgba(picture.read_bytes())
    x, y, width, height = cv2.boundingRect((item[:, :, 3] > 16).astype(np.uint8))
    return item[y : y + height, x : x + width]


def ground(scenery: list[Pixels], pictures: list[Path], number: int, generator: np.random.Generator) -> Pixels:
    """Take a square part of a photograph, or of a catalogue picture other than `number`."""
    if generator.random() < _PHOTOGRAPHS:
        whole = scenery[int(generator.integers(len(scenery)))]
        share = generator.uniform(0.4, 1.0)
    else:
        other = int(generator.integers(len(pictures) - 1))
        whole = decode(pictures[other + (other >= number)].read_bytes())
        share = generator.uniform(*_PARTS)
    side = max(1, round(share * min(whole.shape[:2])))
    top, left = (int(generator.integers(length - side + 1)) for length in whole.shape[:2])
    part = whole[top : top + side, left : left + side]
    how = cv2.INTER_AREA if side > FRAME else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(part, (FRAME, FRAME), interpolation=how), np.uint8)


def _reduced(picture: Pixels) -> Pixels:
    scale = min(1.0, 1200 / min(picture.shape[:2]))
    return np.asarray(cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA), np.uint8)
