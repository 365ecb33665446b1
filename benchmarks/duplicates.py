"""Find 500 planted duplicates among the stamps: python benchmarks/duplicates.py FOLDER.

A hundred each of five kinds: resized, recompressed, cropped by 5 %, mirrored, on another background. The changed images
are those of one half of the catalog, by a hash of the name. Thresholds were chosen with the half `tuning`; `report`
decided nothing. A copy is found if it is in a group with its source, or with the catalog's own copy of that: the same
file in another folder, or a mirrored one, which is named so.
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

SEEDS = {"tuning": (0, 1, 2), "report": (0, 1)}
OF_A_KIND = 100
PLANTED = "planted"
# No image is made smaller than this: its longer side.
SMALLEST = 48


def main(folder: Path) -> None:
    if not stamps(folder / "stamps"):
        sys.exit("the stamps cannot be had here")
    for half, seeds in SEEDS.items():
        for seed in seeds:
            catalog, index = folder / f"duplicates-{half}", folder / f"duplicates-{half}.imgsearch"
            sources = plant(folder / "stamps", catalog, half, seed)
            build_index(catalog, index)
            report(index, sources, pictures(folder / "stamps"), f"{half}, seed {seed}")


def half_of(name: str) -> str:
    """Name the half of the catalog that an image is in."""
    return ("tuning", "report")[hashlib.sha256(name.encode()).digest()[0] % 2]


def plant(stamps_folder: Path, catalog: Path, half: str, seed: int) -> dict[str, str]:
    """Copy the stamps, and beside them 100 changed ones of each kind of one half; returns their sources, by path."""
    shutil.rmtree(catalog, ignore_errors=True)
    shutil.copytree(stamps_folder, catalog)
    names = [path.relative_to(catalog).as_posix() for path in sorted(catalog.rglob("*.png"))]
    chosen = [name for name in names if half_of(name) == half]
    sources = {}
    for number, (kind, change) in enumerate(KINDS.items()):
        generator = np.random.default_rng([seed, number, half == "report"])
        for name in generator.choice(chosen, OF_A_KIND, replace=False):
            changed = catalog / PLANTED / kind / f"{name.replace('/', '_').removesuffix('.png')}.jpg"
            changed.parent.mkdir(parents=True, exist_ok=True)
            changed.write_bytes(change(decode_rgba((catalog / name).read_bytes()), generator))
            sources[changed.relative_to(catalog).as_posix()] = str(name)
    return sources


def pictures(stamps_folder: Path) -> dict[str, str]:
    """Name what each stamp shows: the sha256 of it, or of what it is the mirrored copy of."""
    shown = {}
    for path in stamps_folder.rglob("*.png"):
        original = path.with_stem(path.stem.removesuffix("_mirror"))
        data = (original if original.exists() else path).read_bytes()
        shown[path.relative_to(stamps_folder).as_posix()] = hashlib.sha256(data).hexdigest()
    return shown


def report(index: Path, sources: dict[str, str], shown: dict[str, str], name: str) -> None:
    found = duplicates(index)
    print(f"  {name}: {found.candidates} candidates, {len(found.groups)} groups, {found.unverified} not verified")
    picture = shown | {path: shown[source] for path, source in sources.items()}
    groups = [[item.path for item in group.items] for group in found.groups]
    right = {
        path
        for group in groups
        for path in group
        if picture[path] in {shown[other] for other in group if other in shown}
    }
    missed = [path for path in sources if path not in right]
    count = Counter(path.split("/")[1] for path in sources if path in right)
    print(f"    found of {OF_A_KIND} each: " + ", ".join(f"{kind} {count[kind]}" for kind in KINDS))
    for path in missed:
        print(f"    missed {path}")
    pairs = [(group[0], path) for group in groups for path in group[1:]]
    others = [(kept, path) for kept, path in pairs if picture[path] != picture[kept]]
    print(f"    precision, all others being wrong: {1 - len(others) / len(pairs):.4f} of {len(pairs)}")
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
