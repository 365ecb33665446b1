"""How the head of lite0-retrieval was learned: python benchmarks/retrieval_head.py FOLDER.

Writes `FOLDER/retrieval_head.npz`, which `src/imgsearch/encoders/` holds. EfficientNet-Lite0 stays as it is: what is
learned, in closed form, is which directions of its pooled maps are noise (learned whitening: Mikolajczyk and Matas,
2007). It needs the extra `bench`. What it is learned from:

- clip art: Debian's openclipart-png (public domain), without what is a sign, a shape, an ornament or a program's icon;
- emoji of two vendors in three styles: npm's @lobehub/fluent-emoji-3d and -flat (Microsoft, MIT) and
  emoji-datasource-google (Apache-2.0): of the code points on which choices may be made (answers.py), no others.
"""

import hashlib
import json
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import cv2
import keras
import numpy as np
import resvg_py  # type: ignore[import-not-found]  # needed here only
from numpy.typing import NDArray

from answers import EMOJI_VERSION, is_tuned_on
from debian import unpack_package
from imgsearch.encoders.networks import build_network, pooled_maps
from imgsearch.encoders.table import TABLE
from imgsearch.errors import ImageError
from imgsearch.images.boxes import Box
from imgsearch.images.decode import Pixels, decode_rgba
from imgsearch.images.foreground import crop_transparent, without_background
from imgsearch.images.steps import Steps
from imgsearch.images.transform import fit
from imgsearch.images.workers.decoders import decode_and_fit
from imgsearch.regions.propose import crop_and_cutout
from imgsearch.synthetic.augment import generator_for, photo_like, screenshot_like
from imgsearch.synthetic.backgrounds import draw_background, enlarge_part
from imgsearch.synthetic.compose import Style, compose
from npm import unpack_package as unpack_npm

Rows = NDArray[np.float64]
Owners = NDArray[np.int64]

SIZE = 224
DRAWINGS = 160  # pixels of a side that vector drawings are drawn with
LARGEST = 400_000  # bytes of a file of clip art: larger ones are large scenes rather than things
LEFT_OUT = ("computer", "decorations", "geography", "logos", "shapes", "signs_and_symbols", "special")
VENDORS = {"fluent-3d": "@lobehub/fluent-emoji-3d", "fluent-flat": "@lobehub/fluent-emoji-flat"}
VENDOR_VERSION = "1.1.0"

# How many things are learned from as photos show them, and the dimensions of the projection.
THINGS, DIMS = 1800, 512
SCENES_EACH = 2
FRAME = (480, 480)
STYLE = Style((0.3, 0.8), quality=(30, 95))
# How far a box is from where an item is, as a share of its sides: that of a photo is a guess, too.
JITTER = 0.08
# What changes of a photo and what changes of a style count, and how much of an even spread is added to both: what was
# best on the tuning halves of hard photos and other drawings (docs/benchmarks.md).
PHOTOS, EVEN, WHITENING = 0.6, 0.1, 0.25


def learn(folder: Path) -> None:
    """Learn from photos, and from drawings in other styles, of one thing; write the projection."""
    things = folder / "things"
    fill_things(folder, things)
    lite0 = build_network(TABLE["efficientnet-lite0"].spec)
    pooling = keras.Model(lite0.input, pooled_maps(lite0))
    files = sorted(things.rglob("*.png"), key=lambda file: hashlib.sha256(file.name.encode()).digest())
    photos, of_photos = embed(pooling, changed(files[:THINGS]))
    drawings, of_drawings = embed(pooling, styles(things))
    for rows, owners, kind in ((photos, of_photos, "photos"), (drawings, of_drawings, "drawings")):
        print(f"  {len(rows)} {kind} of {len(set(owners))} things", flush=True)
    kernel, bias = projection(photos, of_photos, drawings, of_drawings)
    np.savez(folder / "retrieval_head.npz", kernel=kernel.astype(np.float16), bias=bias.astype(np.float16))


def projection(photos: Rows, of_photos: Owners, drawings: Rows, of_drawings: Owners) -> tuple[Rows, Rows]:
    """Whiten what differs within a thing, then keep what differs most between things: kernel and bias."""
    noise = [scatter(photos, of_photos), scatter(drawings, of_drawings)]
    mixed = PHOTOS * noise[0] / np.trace(noise[0]) + (1 - PHOTOS) * noise[1] / np.trace(noise[1])
    spread, directions = np.linalg.eigh(mixed + EVEN * np.eye(len(mixed)) / len(mixed))
    quiet = (directions / np.sqrt(spread)) @ directions.T
    catalog = np.concatenate([photos[np.flatnonzero(np.diff(of_photos, prepend=-1))], drawings])
    mean = catalog.mean(axis=0)
    centered = (catalog - mean) @ quiet
    variance, axes = np.linalg.eigh(centered.T @ centered / len(centered))
    strongest = np.argsort(variance)[::-1][:DIMS]
    kernel = quiet @ (axes[:, strongest] * variance[strongest] ** (-WHITENING / 2))
    kernel /= np.abs(kernel).max()  # half precision has its limits, and lengths mean nothing
    return kernel, -mean @ kernel


def changed(files: Sequence[Path]) -> Iterator[tuple[int, Pixels]]:
    """Yield squares of each thing: as it is, as photos and screenshots show it, and found in scenes."""
    trim = Steps.parse("crop-foreground")
    for number, file in enumerate(files):
        data = file.read_bytes()
        generator = generator_for(data, 0)
        try:
            item = decode_rgba(data)
            alone = crop_transparent(without_background(item))
            squares = [decode_and_fit(data, SIZE, "pad", steps=trim)]
            squares += [
                decode_and_fit(make(item, generator), SIZE, "pad", steps=trim) for make in (photo_like, screenshot_like)
            ]
        except ImageError:
            continue
        for _ in range(SCENES_EACH if alone.size else 0):
            other = decode_rgba(files[int(generator.integers(len(files)))].read_bytes())
            is_drawn = generator.random() < 0.5
            back = draw_background(FRAME, generator) if is_drawn else enlarge_part(other, FRAME, generator)
            scene = compose(back, [alone], STYLE, generator)
            if scene.boxes:
                regions = crop_and_cutout(scene.photo, shaken(scene.boxes[0], generator), scene.mask)
                squares += [fit(region.pixels, SIZE, "pad") for region in regions]
        yield from ((number, square) for square in squares)


def shaken(box: Box, generator: np.random.Generator) -> Box:
    """Move the edges of a box a little, within its scene."""
    steps = generator.uniform(-JITTER, JITTER, 4) * (box.width, box.height, box.width, box.height)
    edges = np.array([box.x, box.y, box.x + box.width, box.y + box.height]) + steps
    left, top, right, bottom = np.clip(np.rint(edges), 0, FRAME[0]).astype(int).tolist()
    return Box(left, top, max(1, right - left), max(1, bottom - top))


def styles(things: Path) -> Iterator[tuple[int, Pixels]]:
    """Yield the drawings of each emoji."""
    names = sorted({file.name for file in (things / "google").iterdir()})
    for number, name in enumerate(names):
        for vendor in ("google", *VENDORS):
            file = things / vendor / name
            if file.exists():
                yield number, decode_and_fit(file.read_bytes(), SIZE, "pad", steps=Steps.parse("crop-foreground"))


def embed(pooling: keras.Model, squares: Iterator[tuple[int, Pixels]]) -> tuple[Rows, Owners]:
    """Pool squares, a batch at a time; return unit rows, and which thing each shows."""
    rows, owners, batch = [], [], []
    for owner, square in squares:
        owners.append(owner)
        batch.append(square)
        if len(batch) == 32:
            rows.append(pooling.predict_on_batch(np.stack(batch)))
            batch = []
    if batch:
        rows.append(pooling.predict_on_batch(np.stack(batch)))
    return np.concatenate(rows).astype(np.float64), np.array(owners)


def scatter(rows: Rows, owners: Owners) -> Rows:
    """Return the covariance of rows about the mean of their thing."""
    _, places, counts = np.unique(owners, return_inverse=True, return_counts=True)
    means = np.zeros((len(counts), rows.shape[1]))
    np.add.at(means, places, rows)
    noise = rows - (means / counts[:, None])[places]
    return noise.T @ noise / len(rows)


def fill_things(folder: Path, things: Path) -> None:
    """Put clip art, and the emoji that may be learned from, into a folder each."""
    if things.is_dir():
        return
    draft = Path(tempfile.mkdtemp(dir=folder))
    unpacked = folder / "openclipart"
    unpacked.mkdir(exist_ok=True)
    if not unpack_package("openclipart-png", unpacked):
        raise SystemExit("openclipart-png cannot be had here")
    root = unpacked / "usr/share/openclipart/png"
    (draft / "clip-art").mkdir()
    for file in sorted(root.rglob("*.png")):
        parts = file.relative_to(root).parts
        usable = parts[0] not in LEFT_OUT and "duplicates" not in parts and file.is_file() and not file.is_symlink()
        if usable and file.stat().st_size < LARGEST:
            os.link(file, draft / "clip-art" / f"{'-'.join(parts)}")
    for vendor, package in (*VENDORS.items(), ("google", "emoji-datasource-google")):
        version = EMOJI_VERSION if vendor == "google" else VENDOR_VERSION
        if not unpack_npm(package, version, folder / f"npm-{vendor}"):
            raise SystemExit(f"{package} cannot be had here")
        (draft / vendor).mkdir()
    emoji = json.loads((folder / "npm-google/package/emoji.json").read_text())
    for each in emoji:
        name = each["image"]
        if is_tuned_on(name) and each["has_img_google"]:
            os.link(folder / "npm-google/package/img/google/64" / name, draft / "google" / name)
            for vendor in VENDORS:
                if png := drawing(folder / f"npm-{vendor}/package/assets", each):
                    (draft / vendor / name).write_bytes(png)
    draft.rename(things)


def drawing(assets: Path, emoji: Mapping[str, str]) -> bytes | None:
    """Return one vendor's drawing of an emoji as PNG, if there is one."""
    for code in (emoji["unified"], emoji["non_qualified"]):
        stem = (code or "").lower()
        if (assets / f"{stem}.svg").exists():
            svg = (assets / f"{stem}.svg").read_text()
            return bytes(resvg_py.svg_to_bytes(svg_string=svg, width=DRAWINGS, height=DRAWINGS))
        if (assets / f"{stem}.webp").exists():
            pixels = decode_rgba((assets / f"{stem}.webp").read_bytes())
            small = cv2.resize(pixels, (DRAWINGS, DRAWINGS), interpolation=cv2.INTER_AREA)
            return cv2.imencode(".png", cv2.cvtColor(small, cv2.COLOR_RGBA2BGRA))[1].tobytes()
    return None


if __name__ == "__main__":
    learn(Path(sys.argv[1]))
