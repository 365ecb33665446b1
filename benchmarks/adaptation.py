"""What a catalog teaches itself with --adapt: python benchmarks/adaptation.py FOLDER.

The stamps, asked for by photo-like images and by crops and screenshots, with a seed that nothing was adapted to or
chosen on; and by images that are turned, sheared, shifted and mirrored, a kind that the adaptation has never seen.
"""

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from catalogs import stamps
from demo import ask, rank_of
from imgsearch import build_index
from imgsearch.evaluation.metrics import hit_rate
from imgsearch.images.decode import Pixels, decode, decode_rgba
from imgsearch.synthetic.augment import augment, photo_like, screenshot_like

SEEDS = (3,)
# Fewer than half of what comes later, so that the projection is kept.
FIRST = 330


def main(folder: Path) -> None:
    catalog = folder / "stamps"
    if not stamps(catalog):
        sys.exit("the stamps cannot be had here")
    images = sorted(catalog.rglob("*.png"))
    plain, adapted, half = (folder / f"adaptation-{name}.imgsearch" for name in ("plain", "adapted", "half"))
    build_index(catalog, plain)
    report = build_index(catalog, adapted, adapt=True)
    print(f"  adapted to {report.count} images in {report.seconds['index']:.0f} s: {report.adaptation}", flush=True)
    known, later = split(images, catalog, folder / "adaptation-half")
    build_index(known, half, adapt=True, relearn=True)
    for image in later:
        os.link(image, placed(image, catalog, known))
    build_index(known, half)
    for kind, make in KINDS.items():
        for seed in SEEDS:
            queries = make_queries(images, catalog, folder / f"adaptation-{kind}-{seed}", make, seed)
            unseen = {name: queries[name] for name in (path.relative_to(catalog).as_posix() for path in later)}
            print(
                f"  {kind}, seed {seed}: plain {rates(plain, queries)}; adapted {rates(adapted, queries)}", flush=True
            )
            print(
                f"  {kind}, seed {seed}, items not adapted on ({len(unseen)}): plain {rates(plain, unseen)};"
                f" adapted {rates(half, unseen)}",
                flush=True,
            )


def split(images: list[Path], catalog: Path, folder: Path) -> tuple[Path, list[Path]]:
    """Link a part of the catalog, chosen by lot, into a folder; return it and the images that are not in it."""
    shutil.rmtree(folder, ignore_errors=True)
    chosen = set(np.random.default_rng(0).permutation(len(images))[:FIRST].tolist())
    for number in chosen:
        os.link(images[number], placed(images[number], catalog, folder))
    return folder, [image for number, image in enumerate(images) if number not in chosen]


def placed(image: Path, catalog: Path, folder: Path) -> Path:
    """Name the place of an image of the catalog in another folder, which is made."""
    place = folder / image.relative_to(catalog)
    place.parent.mkdir(parents=True, exist_ok=True)
    return place


def make_queries(
    images: list[Path],
    catalog: Path,
    folder: Path,
    make: Callable[[Path, np.random.Generator], bytes],
    seed: int,
) -> dict[str, Path]:
    """Make one query of each image; returns its file by the image's path."""
    folder.mkdir(exist_ok=True)
    queries = {}
    for number, image in enumerate(images):
        query = folder / f"{number:04d}.img"
        query.write_bytes(make(image, np.random.default_rng([seed, number])))
        queries[image.relative_to(catalog).as_posix()] = query
    return queries


def rates(index: Path, queries: dict[str, Path]) -> str:
    """Show hit rates at 1 and 10."""
    ranks = [rank_of(name, hits) for name, hits in ask(index, queries).items()]
    return f"@1 {hit_rate(ranks, 1):.3f} @10 {hit_rate(ranks, 10):.3f}"


def _photo(image: Path, generator: np.random.Generator) -> bytes:
    return photo_like(decode_rgba(image.read_bytes()), generator)


def _screenshot(image: Path, generator: np.random.Generator) -> bytes:
    return screenshot_like(decode_rgba(image.read_bytes()), generator)


def _shaken(image: Path, generator: np.random.Generator) -> bytes:
    changed: Pixels = augment(decode(image.read_bytes()), generator)
    _, png = cv2.imencode(".png", cv2.cvtColor(changed, cv2.COLOR_RGB2BGR))
    return png.tobytes()


KINDS = {"photo": _photo, "screenshot": _screenshot, "shaken": _shaken}


if __name__ == "__main__":
    main(Path(sys.argv[1]))
