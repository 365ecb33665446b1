"""Write the small models that several tests need, and export them to the cache of the tests.

A process of its own, as Keras takes seconds to import, and each export would take a process more.

python tests/tiny_models.py FOLDER
"""

import sys
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np

from imgsearch.encoders import export
from imgsearch.encoders.choice import choose_detector, choose_encoder
from imgsearch.encoders.layers import GeneralizedMean
from imgsearch.encoders.model_file import ModelCard, read_card, save_model
from imgsearch.images import Fit

SIDE = 32
DIMS = 24

# Names that attack terminals, spreadsheets and pages.
HOSTILE = ("=cmd|' /C calc'!A0", "<script>alert(1)</script>\x1b[31m\n\u202e")


def build(classes: int, *, seed: int, sharpness: float = 9.0) -> keras.Model:
    """Sixteen fields of an image, turned at random; unlike an untrained network it tells images apart."""
    images = keras.Input((SIDE, SIDE, 3), dtype="uint8", name="images")
    scaled = keras.layers.Rescaling(1 / 255)(images)
    fields = keras.layers.Reshape((16, 3))(keras.layers.AveragePooling2D(SIDE // 4)(scaled))
    pooled = GeneralizedMean(2.0)(keras.layers.Reshape((4, 4, 3))(fields))
    joined = keras.layers.Concatenate()([keras.layers.Flatten()(fields), pooled])
    turned = keras.layers.Dense(
        DIMS, kernel_initializer=keras.initializers.Orthogonal(seed=seed), bias_initializer="zeros"
    )(keras.layers.Rescaling(1.0, offset=-0.5)(joined))
    embeddings = keras.layers.UnitNormalization(name="embeddings")(turned)
    if not classes:
        return keras.Model(images, [embeddings])
    start = keras.initializers.Orthogonal(gain=sharpness, seed=seed + 1)
    probabilities = keras.layers.Dense(classes, activation="softmax", kernel_initializer=start)(embeddings)
    return keras.Model(images, [embeddings, probabilities])


def write(file: Path, labels: tuple[str, ...] = (), *, seed: int = 0, steps: str = "", fit: Fit = "pad") -> None:
    """Write one model."""
    card = ModelCard(SIDE, fit, steps, DIMS, labels, "classify" if labels else "metric", "cnn")
    save_model(build(len(labels), seed=seed), file, card)


def write_detector(file: Path, encoder: Path, *, side: int = SIDE) -> None:
    """Write a detector that finds each of sixteen fields of an image which is darker than a quarter of white.

    Args:
        file: The model.
        encoder: A model of no classes and of seed 0, whose detector it says it is.
        side: Of the square it takes; other than `SIDE` for one that lies.
    """
    network = build(0, seed=0)
    images = keras.Input((side, side, 3), dtype="uint8", name="images")
    embeddings = network(images if side == SIDE else keras.layers.CenterCrop(SIDE, SIDE)(images))
    scaled = keras.layers.Rescaling(1 / 255)(images)
    fields = keras.layers.Reshape((16, 3))(keras.layers.AveragePooling2D(side // 4)(scaled))
    judge = keras.layers.Dense(1, activation="sigmoid", name="judge")
    scores = keras.layers.Reshape((16,), name="scores")(judge(fields))
    placer = keras.layers.Dense(64, name="placer")
    boxes = keras.layers.Reshape((16, 4), name="boxes")(placer(scores))
    mask = keras.layers.Reshape((4, 4), name="mask")(scores)
    model = keras.Model(images, [embeddings, scores, boxes, mask])
    judge.set_weights([np.full((3, 1), -20.0), np.full(1, 15.0)])
    rows, columns = np.divmod(np.arange(16), 4)
    corners = np.stack([columns, rows, columns + 1, rows + 1], axis=1) / 4
    placer.set_weights([np.zeros((16, 64)), corners.reshape(-1)])
    spec = choose_encoder(str(encoder)).spec
    save_model(model, file, ModelCard(side, "pad", "", DIMS, (), "detect", encoder.name, spec.identity))


def export_all(folder: Path) -> None:
    """Export the models here, as encoders, classifiers and detectors; what computes in bf16 has the same graph."""
    export._export_elsewhere = export.export_graph
    for file in folder.glob("*.keras"):
        if read_card(file).is_detector:
            continue
        choice = choose_encoder(str(file))
        plain = replace(choice.spec, steps="")
        export.exported_encoder(plain, choice.files)
        if labels := read_card(file).labels:
            export.exported_encoder(replace(plain, kind="classifier", dims=len(labels)), choice.files)
    for name, encoder in (("detector.keras", "metric.keras"), ("detector-of-gray.keras", "gray.keras")):
        choice = choose_detector(folder / name, choose_encoder(str(folder / encoder)).spec)
        export.exported_encoder(choice.spec, choice.files)


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    write(folder / "classes.keras", ("boots", "hats", "gloves"))
    write(folder / "two.keras", HOSTILE)
    write(folder / "metric.keras")
    write(folder / "again.keras", ("boots", "hats", "gloves"), seed=7)
    write(folder / "metric-again.keras", seed=7)
    write(folder / "gray.keras", steps="grayscale")
    write_detector(folder / "detector.keras", folder / "metric.keras")
    write_detector(folder / "detector-of-gray.keras", folder / "gray.keras")
    write_detector(folder / "detector-of-40.keras", folder / "metric.keras", side=40)
    export_all(folder)
