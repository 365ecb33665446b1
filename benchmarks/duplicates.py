"""Find 500 planted duplicates among the stamps: python benchmarks/duplicates.py FOLDER.

A hundred each of five kinds: resized, recompressed, cropped by 5 %, mirrored, on another background. The changed images
are those of one half of the catalog, by a hash of the name. Thresholds were chosen with the half `tuning`; `report`
decided nothing.
"""

import hashlib
import shutil
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from catalogs import stamps
from imgsearch import build_index, duplicates
from imgsearch.images.decode import Pixels, decode_rgba
from imgsearch.synthetic.augment import encode_jpeg

SEED = 0
OF_A_KIND = 100
PLANTED = "planted"
# No image is made smaller than this: its longer side.
SMALLEST = 48


def main(folder: Path) -> None:
    if not stamps(folder / "stamps"):
        sys.exit("the stamps cannot be had here")
    for half in ("tuning", "report"):
        catalog, index = folder / f"duplicates-{half}", folder / f"duplicates-{half}.imgsearch"
        sources = plant(folder / "stamps", catalog, half)
        build_index(catalog, index)
        report(index, sources, half)


def half_of(name: str) -> str:
    """Name the half of the catalog that an image is in."""
    return ("tuning", "report")[hashlib.sha256(name.encode()).digest()[0] % 2]


def plant(stamps_folder: Path, catalog: Path, half: str) -> dict[str, str]:
    """Copy the stamps, and beside them 100 changed ones of each kind of one half; returns their sources, by path."""
    shutil.rmtree(catalog, ignore_errors=True)
    shutil.copytree(stamps_folder, catalog)
    names = [path.relative_to(catalog).as_posix() for path in sorted(catalog.rglob("*.png"))]
    chosen = [name for name in names if half_of(name) == half]
    sources = {}
    for number, (kind, change) in enumerate(KINDS.items()):
        generator = np.random.default_rng([SEED, number, half == "report"])
        for name in generator.choice(chosen, OF_A_KIND, replace=False):
            changed = catalog / PLANTED / kind / f"{name.replace('/', '_').removesuffix('.png')}.jpg"
            changed.parent.mkdir(parents=True, exist_ok=True)
            changed.write_bytes(change(decode_rgba((catalog / name).read_bytes()), generator))
            sources[changed.relative_to(catalog).as_posix()] = str(name)
    return sources


def report(index: Path, sources: dict[str, str], half: str) -> None:
    found = duplicates(index)
    print(f"  {half}: {found.candidates} candidates, {len(found.groups)} groups, {found.unverified} not verified")
    missed: Counter[str] = Counter(dict.fromkeys(KINDS, 0))
    group_of = {item.path: number for number, group in enumerate(found.groups) for item in group.items}
    for path, source in sources.items():
        if path not in group_of or group_of[path] != group_of.get(source):
            missed[path.split("/")[1]] += 1
            print(f"    missed {path}")
    origin = {**{path: path for path in group_of}, **sources}
    members = [(origin[group.items[0].path], item.path) for group in found.groups for item in group.items[1:]]
    others = [(kept, path) for kept, path in members if origin[path] != kept]
    right = len(members) - len(others)
    print(
        f"    found of {OF_A_KIND} each: " + ", ".join(f"{kind} {OF_A_KIND - count}" for kind, count in missed.items())
    )
    print(f"    precision, all others being wrong: {right / len(members):.4f} of {len(members)}")
    for kept, path in others:
        print(f"    other pair: {kept}, {path}")


def resized(item: Pixels, generator: np.random.Generator) -> bytes:
    scale = generator.uniform(0.35, 0.8)
    scale = max(scale, min(1, SMALLEST / max(item.shape[:2])))
    height, width = (max(1, round(side * scale)) for side in item.shape[:2])
    return encode_jpeg(
        np.asarray(cv2.resize(on(item, 255), (width, height), interpolation=cv2.INTER_AREA), np.uint8), 92
    )


def recompressed(item: Pixels, generator: np.random.Generator) -> bytes:
    return encode_jpeg(on(item, 255), int(generator.integers(25, 75)))


def cropped(item: Pixels, generator: np.random.Generator) -> bytes:
    height, width = item.shape[:2]
    top, left = (round(0.05 * side * generator.uniform()) for side in (height, width))
    part = on(item, 255)[top : top + round(0.95 * height), left : left + round(0.95 * width)]
    return encode_jpeg(part, 92)


def mirrored(item: Pixels, generator: np.random.Generator) -> bytes:  # noqa: ARG001
    return encode_jpeg(np.ascontiguousarray(on(item, 255)[:, ::-1]), 92)


def recolored(item: Pixels, generator: np.random.Generator) -> bytes:
    return encode_jpeg(on(item, generator.integers(0, 256, 3)), 92)


KINDS: dict[str, Callable[[Pixels, np.random.Generator], bytes]] = {
    "resized": resized,
    "recompressed": recompressed,
    "cropped": cropped,
    "mirrored": mirrored,
    "background": recolored,
}


def on(item: Pixels, background: NDArray[np.int64] | float) -> Pixels:
    """Lay an item, RGBA, on a color."""
    opacity = item[:, :, 3:] / 255
    return np.asarray(np.round(item[:, :, :3] * opacity + background * (1 - opacity)), np.uint8)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
