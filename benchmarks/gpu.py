"""A GPU beside the CPU, in one run: python benchmarks/gpu.py FOLDER; ends at once where there is none.

Pictures a second of the default encoder by OpenVINO on the CPU in f32 and on the GPU as a build uses it, which compares
some of each batch with the CPU; the largest difference of a component; a whole `embed` either way; and the
epochs of `train --architecture cnn` in float32 and in mixed precision.
"""

import logging
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from statistics import median
from unittest.mock import patch

import numpy as np

from imgsearch import embed, train
from imgsearch.encoders import gpu
from imgsearch.encoders.choice import choose_encoder
from imgsearch.encoders.export import exported_encoder
from imgsearch.encoders.gpu import ComparedEncoder, Device, open_for_build
from imgsearch.encoders.runtime import Embeddings, Encoder
from imgsearch.encoders.spec import DEFAULT_BACKBONE
from imgsearch.images.decode import Pixels, decode
from imgsearch.images.transform import fit
from imgsearch.training.report import LabeledReport
from throughput import COPIES, COUNT, make_copies, make_images

ROUNDS = 5
TIMES = 8  # each picture is encoded in a round
EPOCHS = 6


def main(folder: Path) -> None:
    choice = choose_encoder(DEFAULT_BACKBONE)
    exported = exported_encoder(choice.spec, choice.files)
    encoders: dict[Device, Encoder] = {
        device: open_for_build(choice.spec, exported, choice.files, device, 1_000_000) for device in ("cpu", "gpu")
    }
    if not isinstance(encoders["gpu"], ComparedEncoder):
        print("  no GPU here: nothing is measured")
        return
    folder.mkdir(parents=True, exist_ok=True)
    images = make_images(folder / "photographs")
    files = sorted(images.glob("*.jpg"))
    pixels = np.stack([fit(decode(file.read_bytes()), choice.spec.size) for file in files])
    found = {device: encoded(encoder, pixels) for device, encoder in encoders.items()}
    difference = float(np.abs(found["cpu"] - found["gpu"]).max())
    cosine = float(np.sum(found["cpu"] * found["gpu"], axis=1).min())
    print(
        f"  largest difference of a component {difference:.1e} (at most {gpu.TOLERANCE:g}), least cosine {cosine:.7f}"
    )
    compare("encoding alone", {device: partial(pace, each, pixels) for device, each in encoders.items()})
    copies = make_copies(images, folder / "photographs-1600")
    compare("embed", {device: partial(build, copies, folder, device) for device in encoders})
    labeled = folder / "labeled"
    for file in files:
        (labeled / str(int(file.stem) % 4)).mkdir(parents=True, exist_ok=True)
        shutil.copy(file, labeled / str(int(file.stem) % 4))
    compare(
        "train cnn",
        {"float32": partial(epochs, labeled, folder, mixed=False), "mixed": partial(epochs, labeled, folder)},
    )


def compare(what: str, paces: Mapping[str, Callable[[], float]]) -> None:
    """Measure in turn, and print each beside the first."""
    measured: dict[str, list[float]] = {name: [] for name in paces}
    for _ in range(ROUNDS):
        for name, measure in paces.items():
            measured[name].append(measure())
    first = next(iter(measured.values()))
    for name, values in measured.items():
        ratio = median(value / base for value, base in zip(values, first, strict=True))
        spread = f"of {ROUNDS}: {min(values):.1f} to {max(values):.1f}"
        print(f"  {what}, {name:<8} {median(values):8.1f} pictures/s ({spread}), ratio {ratio:.2f}")


def encoded(encoder: Encoder, pixels: Pixels, times: int = 1) -> Embeddings:
    size = encoder.batch_size
    starts = [start for _ in range(times) for start in range(0, len(pixels), size)]
    return np.concatenate(list(encoder.encode_stream(pixels[start : start + size] for start in starts)))


def pace(encoder: Encoder, pixels: Pixels) -> float:
    started = time.perf_counter()
    return len(encoded(encoder, pixels, TIMES)) / (time.perf_counter() - started)


def build(images: Path, folder: Path, device: Device) -> float:
    output = folder / "embeddings"
    shutil.rmtree(output, ignore_errors=True)
    report = embed(images, output, precision="f32", device=device)
    assert report.embedded == COUNT * COPIES
    return report.embedded / report.seconds["total"]


def epochs(labeled: Path, folder: Path, *, mixed: bool = True) -> float:
    """Pictures a second of the epochs after the first, in which networks are compiled."""
    with patch("imgsearch.training.fitting.uses_mixed_precision", lambda _: mixed):
        report = train(labeled, folder / "cnn.keras", architecture="cnn", size=128, epochs=EPOCHS)
    assert isinstance(report, LabeledReport)
    return len(report.dataset.training_rows) / median(float(epoch["seconds"]) for epoch in report.epochs[1:])


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="  %(message)s")
    main(Path(sys.argv[1]))
