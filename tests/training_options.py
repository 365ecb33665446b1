"""The small trainings that several tests share: what they learn from, and their options."""

from pathlib import Path

import numpy as np

import drawn_catalog

KINDS = ("balls", "stars", "tents")
# Each training costs seconds before its first epoch, in which Keras traces it; a high rate needs few epochs.
SMALL = {
    "architecture": "cnn",
    "size": 32,
    "dims": 32,
    "batch_size": 9,
    "epochs": 6,
    "learning_rate": 0.005,
    "validation": 0.25,
}
HEAD = {"batch_size": 18, "epochs": 8, "size": 64, "dims": 16, "validation": 0.25}
DETECTOR = {"objective": "detect", "size": 64, "epochs": 2, "batch_size": 4}


def draw_kinds(folder: Path, count: int) -> Path:
    """Draw so many images of each of `KINDS`, the same as `draw_catalog` draws among others; return the folder."""
    for kind in KINDS:
        (folder / kind).mkdir(parents=True)
        first = count * list(drawn_catalog.SHAPES).index(kind)
        for number in range(count):
            drawn, _ = drawn_catalog._drawn(kind, number, np.random.default_rng([0, first + number]))
            (folder / kind / f"{kind}-{number:02d}.png").write_bytes(drawn_catalog._encoded(drawn))
    return folder
