"""Searches by threads that share one open index: python benchmarks/threads.py FOLDER."""

import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import cv2
import numpy as np

from drawn_catalog import draw_catalog
from imgsearch import Index, build_index
from imgsearch.images.decode import decode, decode_rgba
from imgsearch.search.hits import Filter
from imgsearch.synthetic.augment import photo_like

ROUNDS = 5
COUNTS = (1, 2, 4)
SIDE = 1000  # of photos, in pixels


def main(folder: Path) -> None:
    catalog = folder / "drawn"
    files = draw_catalog(catalog)
    index = folder / "threads.imgsearch"
    build_index(catalog, index, backend="annoy")
    photos = []
    for number, file in enumerate(files[::12]):
        photo = decode(photo_like(decode_rgba(file.read_bytes()), np.random.default_rng(number)))
        enlarged = cv2.resize(photo[:, :, ::-1], (SIDE, SIDE), interpolation=cv2.INTER_CUBIC)
        photos.append(folder / f"photo-{number:02d}.jpg")
        photos[-1].write_bytes(cv2.imencode(".jpg", enlarged)[1].tobytes())
    with Index.open(index) as opened:
        compare(opened, f"{len(photos)} photos of {SIDE} pixels", photos, Filter())
        compare(opened, "catalog images", files * 4, Filter())
        compare(opened, "catalog images, filtered", files * 4, Filter(where="category != 'cups'"))


def compare(index: Index, name: str, images: Sequence[Path], asked: Filter) -> None:
    """Search for images with more and more threads, in turn, and print rates, ratios to one thread, and latencies."""
    expected: list[object] = [index.search(image, filter=asked) for image in images]
    rates: dict[int, list[float]] = {count: [] for count in COUNTS}
    latencies: dict[int, list[float]] = {count: [] for count in COUNTS}
    for _ in range(ROUNDS):
        for count in COUNTS:
            seconds, each = search_all(index, images, asked, count, expected)
            rates[count].append(len(images) / seconds)
            latencies[count] += each
    for count in COUNTS:
        ratio = median(mine / one for mine, one in zip(rates[count], rates[1], strict=True))
        low, high = np.quantile(latencies[count], [0.5, 0.95]) * 1000
        print(
            f"  {name}, {count} threads: {median(rates[count]):.0f} a second, ratio {ratio:.2f},"
            f" latency {low:.1f} ms, 95 % within {high:.1f} ms",
            flush=True,
        )


def search_all(
    index: Index, images: Sequence[Path], asked: Filter, count: int, expected: list[object]
) -> tuple[float, list[float]]:
    """Share images out among threads; returns the seconds for all, and for each."""
    latencies = [0.0] * len(images)
    others: list[Path] = []
    start = threading.Barrier(count + 1)

    def work(first: int) -> None:
        start.wait()
        for number in range(first, len(images), count):
            begun = time.perf_counter()
            found = index.search(images[number], filter=asked)
            latencies[number] = time.perf_counter() - begun
            if found != expected[number]:
                others.append(images[number])

    threads = [threading.Thread(target=work, args=(first,)) for first in range(count)]
    for thread in threads:
        thread.start()
    start.wait()
    begun = time.perf_counter()
    for thread in threads:
        thread.join()
    seconds = time.perf_counter() - begun
    assert not others, others
    return seconds, latencies


if __name__ == "__main__":
    main(Path(sys.argv[1]))
