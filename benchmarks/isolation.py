"""What the isolation of the decoder costs: python benchmarks/isolation.py FOLDER.

The same build of the same clean JPEGs, once as it is (decoder processes with limits on memory and time, header
checks, standard error captured), once with nothing of all that: OpenCV called from threads of the building process.
"""

import contextlib
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from statistics import median
from unittest.mock import patch

import cv2
import numpy as np

from imgsearch import build_index
from imgsearch.encoders.spec import EncoderSpec
from imgsearch.images.policy import FilePolicy
from imgsearch.images.transform import fit
from throughput import COUNT, make_copies, make_images

COPIES = 16  # the processes take a quarter of a second to start, which is no cost of an image
ROUNDS = 3


def main(folder: Path) -> None:
    images = make_copies(make_images(folder / "photographs"), folder / "photographs-6400", COPIES)
    rates: dict[str, list[float]] = {"OpenCV in threads": [], "as it is": []}
    work: dict[str, list[float]] = {name: [] for name in rates}
    build(images, folder)  # exports the encoder, and brings the files into the page cache
    for _ in range(ROUNDS):
        for name, bare in (("OpenCV in threads", True), ("as it is", False)):
            with patch("imgsearch.build.pipeline._decoders", bare_decoders) if bare else contextlib.nullcontext():
                before = processor_seconds()
                rates[name].append(build(images, folder))
                work[name].append(processor_seconds() - before)
    for name, values in rates.items():
        print(f"  {name:<18} {median(values):6.1f} images/s (of {ROUNDS}: {min(values):.1f} to {max(values):.1f})")
    for what, measured in (("images a second", rates), ("processor time", work)):
        ratios = [mine / bare for bare, mine in zip(*measured.values(), strict=True)]
        print(f"  {what}: ratio {median(ratios):.3f} (of {ROUNDS}: {min(ratios):.3f} to {max(ratios):.3f})")


def processor_seconds() -> float:
    """Return the processor time of this process and of all its processes that have ended."""
    used = os.times()
    return used.user + used.system + used.children_user + used.children_system


def build(images: Path, folder: Path) -> float:
    """Build, and return images embedded for each second of that stage."""
    index = folder / "isolation.imgsearch"
    shutil.rmtree(index, ignore_errors=True)
    report = build_index(images, index)
    assert report.embedded == COUNT * COPIES
    return report.images_per_second


@contextlib.contextmanager
def bare_decoders(
    spec: EncoderSpec, _policy: FilePolicy, _count: int
) -> Iterator[tuple[Callable[..., object], Callable[[], None]]]:
    """Stand in for the decoder processes: the same work without a guard."""
    cv2.setNumThreads(1)

    def decode(content):  # type: ignore[no-untyped-def]
        # The images have 1000 pixels: a quarter is the least that the decoder may leave.
        image = cv2.imdecode(np.frombuffer(content.data, np.uint8), cv2.IMREAD_REDUCED_COLOR_4)
        pixels = np.asarray(cv2.cvtColor(np.asarray(image), cv2.COLOR_BGR2RGB), np.uint8)
        return replace(content, data=b"", pixels=fit(pixels, spec.size, spec.fit))

    yield decode, lambda: None


if __name__ == "__main__":
    main(Path(sys.argv[1]))
