"""What a catalogue teaches itself with --adapt: python benchmarks/adaptation.py FOLDER.

The stamps, asked for by photo-like pictures and by crops and screenshots, with a seed that nothing was adapted to or
chosen on; and by pictures that are turned, sheared, shifted and mirrored, a kind that the adaptation has never seen.
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
from imgsearch.synthetic.augment import photo_like, screenshot_like, shaken

SEEDS = (3,)
# Fewer than half of what comes later, so that the projection is kept.
FIRST = 330


def main(folder: Path) -> None:
    catalogue = folder / "stamps"
    if not stamps(catalogue):
        sys.exit("the stamps cannot be had here")
    pictures = sorted(catalogue.rglob("*.png"))
    plain, adapted, half = (folder / f"adaptation-{name}.imgsearch" for name in ("plain", "adapted", "half"))
    build_index(catalogue, plain)
    report = build_index(catalogue, adapted, adapt=True)
    print(f"  adapted to {report.count} pictures in {report.seconds['index']:.0f} s: {report.adaptation}", flush=True)
    known, later = split(pictures, catalogue, folder / "adaptation-half")
    build_index(known, half, adapt=True, relearn=True)
    for picture in later:
        os.link(picture, placed(picture, catalogue, known))
    build_index(known, half)
    for kind, make in KINDS.items():
        for seed in SEEDS:
            queries = make_queries(pictures, catalogue, folder / f"adaptation-{kind}-{seed}", make, seed)
            unseen = {name: queries[name] for name in (path.relative_to(catalogue).as_posix() for path in later)}
            print(
                f"  {kind}, seed {seed}: plain {rates(plain, queries)}; adapted {rates(adapted, queries)}", flush=True
            )
            print(
                f"  {kind}, seed {seed}, items not adapted on ({len(unseen)}): plain {rates(plain, unseen)};"
                f" adapted {rates(half, unseen)}",
                flush=True,
            )


def split(pictures: list[Path], catalogue: Path, folder: Path) -> tuple[Path, list[Path]]:
    """Link a part of the catalogue, chosen by lot, into a folder; return it and the pictures that are not in it."""
    shutil.rmtree(folder, ignore_errors=True)
    chosen = set(np.random.default_rng(0).permutation(len(pictures))[:FIRST].tolist())
    for number in chosen:
        os.link(pictures[number], placed(pictures[number], catalogue, folder))
    return folder, [picture for number, picture in enumerate(pictures) if number not in chosen]


def placed(picture: Path, catalogue: Path, folder: Path) -> Path:
    """Name the place of a picture of the catalogue in another folder, which is made."""
    place = folder / picture.relative_to(catalogue)
    place.parent.mkdir(parents=True, exist_ok=True)
    return place


def make_queries(
    pictures: list[Path],
    catalogue: Path,
    folder: Path,
    make: Callable[[Path, np.random.Generator], bytes],
    seed: int,
) -> dict[str, Path]:
    """Make one query of each picture; returns its file by the picture's path."""
    folder.mkdir(exist_ok=True)
    queries = {}
    for number, picture in enumerate(pictures):
        query = folder / f"{number:04d}.img"
        query.write_bytes(make(picture, np.random.default_rng([seed, number])))
        queries[picture.relative_to(catalogue).as_posix()] = query
    return queries


def rates(index: Path, queries: dict[str, Path]) -> str:
    """Show hit rates at 1 and 10."""
    ranks = [rank_of(name, hits) for name, hits in ask(index, queries).items()]
    return f"@1 {hit_rate(ranks, 1):.3f} @10 {hit_rate(ranks, 10):.3f}"


def _photo(picture: Path, generator: np.random.Generator) -> bytes:
    return photo_like(decode_rgba(picture.read_bytes()), generator)


def _screenshot(picture: Path, generator: np.random.Generator) -> bytes:
    return screenshot_like(decode_rgba(picture.read_bytes()), generator)


def _shaken(picture: Path, generator: np.random.Generator) -> bytes:
    changed: Pixels = shaken(decode(picture.read_bytes()), generator)
    _, png = cv2.imencode(".png", cv2.cvtColor(changed, cv2.COLOR_RGB2BGR))
    return png.tobytes()


KINDS = {"photo": _photo, "screenshot": _screenshot, "shaken": _shaken}


if __name__ == "__main__":
    main(Path(sys.argv[1]))
