"""Images a second: build-index beside a plain Keras loop, in one run: python benchmarks/throughput.py FOLDER.

400 JPEGs, 1000 pixels on the longer side. Both sides are given what they need only once: the loop its imports,
its model and a first batch before the clock starts, the build its exported encoder. The build's clock runs over
all of it, from the scan to the published index.
"""

import shutil
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

import cv2
import numpy as np

from drawn_catalog import draw_catalog
from imgsearch import build_index
from imgsearch.encoders.choice import choose_encoder
from imgsearch.encoders.networks import build_network
from imgsearch.encoders.spec import DEFAULT_BACKBONE, Precision
from imgsearch.images.decode import decode
from words_speed import titles

COUNT = 400
COPIES = 4
ROUNDS = 5
SEED = 0


def main(folder: Path) -> None:
    images = make_images(folder / "photographs")
    files = sorted(images.glob("*.jpg"))
    size = sum(file.stat().st_size for file in files) / len(files)
    print(f"  {len(files)} JPEGs of 1000 x 750 pixels, {size / 1000:.0f} kB each")
    network = build_network(choose_encoder(DEFAULT_BACKBONE).spec)
    keras_loop(network, files[:32])
    rates: dict[str, list[float]] = {"plain Keras loop": [], "build-index f32": [], "build-index auto": []}
    for _ in range(ROUNDS):
        rates["plain Keras loop"].append(keras_loop(network, files))
        rates["build-index f32"].append(build(images, folder, "f32"))
        rates["build-index auto"].append(build(images, folder, None))
    for name, ratio in words_ratios(images, folder).items():
        print(f"  {name}: {ratio:.3f} of the images a second without words")
    images = make_copies(images, folder / "photographs-1600")
    rates["build-index auto, 1600"] = [build(images, folder, None) for _ in range(ROUNDS)]
    for name, values in rates.items():
        ratios = [value / loop for value, loop in zip(values, rates["plain Keras loop"], strict=True)]
        print(
            f"  {name:<22} {median(values):6.1f} images/s (of {ROUNDS}: {min(values):.1f} to {max(values):.1f}),"
            f" ratio {median(ratios):.2f}"
        )


def make_images(folder: Path) -> Path:
    """Draw scenes with noise, as a camera gives them, so that the JPEGs have a photograph's size."""
    if folder.is_dir():
        return folder
    draft = folder.with_suffix(".tmp")
    shutil.rmtree(draft, ignore_errors=True)
    items = draw_catalog(draft / "items")
    for number in range(COUNT):
        generator = np.random.default_rng([SEED, number])
        item = decode(items[number % len(items)].read_bytes())
        large = np.asarray(cv2.resize(item, (1000, 750), interpolation=cv2.INTER_CUBIC), np.float32)
        texture = cv2.GaussianBlur(generator.normal(0, 60, large.shape), (0, 0), 1.5)
        scene = large * 0.8 + texture + generator.normal(0, 3, large.shape)
        _, data = cv2.imencode(".jpg", np.clip(scene, 0, 255).astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, 85])
        (draft / f"{number:03d}.jpg").write_bytes(data.tobytes())
    shutil.rmtree(draft / "items")
    draft.rename(folder)
    return folder


def make_copies(images: Path, folder: Path, copies: int = COPIES) -> Path:
    """Copy images several times, each copy with other bytes behind its end, so that none is known."""
    folder.mkdir(exist_ok=True)
    for copy in range(copies):
        for file in images.glob("*.jpg"):
            (folder / f"{copy}-{file.name}").write_bytes(file.read_bytes() + bytes([copy]))
    return folder


def keras_loop(network: Any, files: list[Path]) -> float:
    """What a first script does; returns images a second."""
    started = time.perf_counter()
    rows = []
    for start in range(0, len(files), 32):
        batch = [
            cv2.resize(np.asarray(cv2.imread(str(file)))[:, :, ::-1], (224, 224))  # noqa: TID251  # what is measured
            for file in files[start : start + 32]
        ]
        rows.append(network.predict(np.stack(batch), verbose=0))
    assert len(np.concatenate(rows)) == len(files)
    return len(files) / (time.perf_counter() - started)


def words_ratios(images: Path, folder: Path) -> dict[str, float]:
    """Build with a title for each image, for half of them, and with the same data and no words."""
    described = titles(np.random.default_rng(SEED), COUNT)
    ratios = {}
    for about, count in (("a title for each image", COUNT), ("for half of them, others predicted", COUNT // 2)):
        table = folder / "photographs.csv"
        rows = [f"{number:03d}.jpg,{title}\n" for number, title in enumerate(described[:count])]
        table.write_text(f"path,title\n{''.join(rows)}", encoding="utf-8")
        pairs = [
            [build(images, folder, None, metadata=table, text=text) for text in ("title", "none")]
            for _ in range(ROUNDS)
        ]
        ratios[about] = median(with_words / without for with_words, without in pairs)
    return ratios


def build(images: Path, folder: Path, precision: Precision | None, **options: Any) -> float:
    index = folder / "throughput.imgsearch"
    shutil.rmtree(index, ignore_errors=True)
    report = build_index(images, index, precision=precision, **options)
    assert report.embedded in (COUNT, COUNT * COPIES)
    return report.embedded / report.seconds["total"]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
