"""Charts of a training, beside the model: learning curves, a confusion matrix, a grid of predictions."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from imgsearch.charts import blank, drawable
from imgsearch.errors import ImageError
from imgsearch.files import replaced_file, writing
from imgsearch.images.policy import FilePolicy
from imgsearch.progress import no_progress
from imgsearch.training.data import decode_images
from imgsearch.training.report import LabeledReport

_COLUMNS, _ROWS = 5, 5
_TILE = 128
# With more classes than this their names do not fit beside the matrix.
_NAMED_CLASSES = 40


def draw(report: LabeledReport, predicted: NDArray[np.int64], policy: FilePolicy) -> None:
    """Draw `MODEL.curves.png` and, of what is held out, `MODEL.confusion.png` and `MODEL.predictions.png`."""
    figures = {"curves": _curves(report)}
    if len(predicted):
        figures |= {"confusion": _confusion(report, predicted), "predictions": _predictions(report, predicted, policy)}
    for name, figure in figures.items():
        path = report.output.with_suffix(f".{name}.png")
        with writing(path.parent), replaced_file(path) as file:
            figure.savefig(file, format="png", dpi=100)


def _curves(report: LabeledReport) -> Any:
    names = [name for name in report.epochs[0] if name not in ("stage", "epoch", "seconds")]
    kinds = list(dict.fromkeys(name.removeprefix("val_") for name in names))
    figure = blank(5 * len(kinds), 4)
    epochs = np.arange(1, len(report.epochs) + 1)
    for axes, kind in zip(np.ravel(figure.subplots(1, len(kinds))), kinds, strict=True):
        for name, label in ((kind, "training"), (f"val_{kind}", "validation")):
            if name in names:
                axes.plot(epochs, [epoch[name] for epoch in report.epochs], label=label)
        axes.axvline(report.best + 1, color="gray", linestyle=":", label="the model")
        axes.set(title=kind, xlabel="epoch")
        axes.legend(loc="center right")  # losses end low, accuracies high
    return figure


def _confusion(report: LabeledReport, predicted: NDArray[np.int64]) -> Any:
    dataset = report.dataset
    count = len(dataset.classes)
    matrix = np.zeros((count, count))
    np.add.at(matrix, (dataset.labels[dataset.validation_rows], predicted), 1)
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    side = 4 + 0.25 * min(count, _NAMED_CLASSES)
    figure = blank(side + 1, side)
    axes = figure.subplots()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set(title="share of each class (row) taken for another (column)")
    if count <= _NAMED_CLASSES:
        names = [drawable(name) for name in dataset.classes]
        # Dollar signs in names are no formulas.
        axes.set_xticks(range(count), names, rotation=90, parse_math=False)
        axes.set_yticks(range(count), names, parse_math=False)
    figure.colorbar(image)
    return figure


def _predictions(report: LabeledReport, predicted: NDArray[np.int64], policy: FilePolicy) -> Any:
    dataset = report.dataset
    shown = np.random.default_rng(0).permutation(len(predicted))[: _COLUMNS * _ROWS]
    rows = dataset.validation_rows[shown]
    paths = [dataset.paths[row] for row in rows]
    images = decode_images(dataset.root, paths, _TILE, policy, no_progress)
    figure = blank(2.4 * _COLUMNS, 2.4 * _ROWS)
    grid = np.ravel(figure.subplots(_ROWS, _COLUMNS))
    for axes in grid:
        axes.axis("off")
    for axes, row, guess, image in zip(grid, rows, predicted[shown], images, strict=False):
        if isinstance(image, ImageError):  # it has changed since it was learned from
            continue
        truth = int(dataset.labels[row])
        text = drawable(dataset.classes[guess])
        if guess != truth:
            text += f"\nis {drawable(dataset.classes[truth])}"
        axes.imshow(image)
        axes.set_title(text, color="black" if guess == truth else "firebrick", fontsize=9, parse_math=False)
    return figure
