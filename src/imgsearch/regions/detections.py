"""Find items with a detector that a catalog has taught (`imgsearch train --objective detect`)."""

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from imgsearch.encoders.runtime import Embeddings, EncodedImage, OpenVinoEncoder, unit_rows
from imgsearch.encoders.spec import EncoderSpec
from imgsearch.errors import DamagedIndexError
from imgsearch.images.boxes import Box
from imgsearch.images.decode import Pixels

MIN_SCORE = 0.3  # below it an anchor counts for nothing
MAX_BOXES = 200

# A box that overlaps with a better one by more than this is the same item once more.
_SAME = 0.5
# Only so many of the best anchors count: what is left over is what these overlap with.
_MAX_ANCHORS = 2000
# A box with a side below this share of the square's is an artifact.
_SHORTEST = 0.004


@dataclass(frozen=True, slots=True)
class Detection:
    """An item in an image.

    Attributes:
        box: Where, in pixels of the image.
        score: How sure the detector is, 0 to 1.
    """

    box: Box
    score: float


@dataclass(frozen=True, slots=True, eq=False)
class Detected:
    """What a detector makes of one image."""

    embedding: Embeddings  # float32 (dims,), that of the encoder it shares, of unit length or NaN
    scores: NDArray[np.float32]  # (anchors,), 0 to 1
    boxes: NDArray[np.float32]  # (anchors, 4): left, top, right, bottom, as shares of the square's side
    mask: NDArray[np.float32]  # (side, side), stretched over the square: 0 for background, 1 for an item


class Detector(OpenVinoEncoder):
    """An encoder that also says where items are, in the same pass."""

    def __init__(self, spec: EncoderSpec, graph: Path, *, for_one: bool = True) -> None:
        super().__init__(spec, graph, for_one=for_one, with_map=True)
        # Keras' export may add outputs that say nothing.
        sides = [output.partial_shape for output in self._model.outputs[1:4]]
        fits = (
            len(sides) == 3
            and [len(side) for side in sides] == [2, 3, 3]
            and sides[0][1] == sides[1][1]
            and sides[1][2] == 4
            and sides[2][1] == sides[2][2]
        )
        if not fits:
            found = ", ".join(side.to_string() for side in sides)
            raise DamagedIndexError(f"{graph} is no detector: beside an embedding it gives {found or 'nothing'}")

    def encode_with_features(self, image: Pixels) -> EncodedImage:
        """Encode one image; without a map, for `detect` says more."""
        return EncodedImage(next(self.encode_stream([image[None]]))[0], None)

    def detect(self, image: Pixels) -> Detected:
        """Detect what is in one image, RGB, uint8 (size, size, 3), fitted."""
        embedding, scores, boxes, mask, *_ = self._infer(image)
        return Detected(unit_rows(embedding)[0], scores[0], boxes[0], mask[0])


def decode_detections(
    scores: NDArray[np.float32],
    boxes: NDArray[np.float32],
    width: int,
    height: int,
    *,
    least_score: float = MIN_SCORE,
    most: int = MAX_BOXES,
) -> list[Detection]:
    """Return the items in an image of so many pixels, the surest first, after greedy non-maximum suppression.

    `scores` (anchors,) and `boxes` (anchors, 4) are a detector's: left, top, right, bottom, as shares of the side of
    the square to which the image was brought by `transform.fit` with `pad`.
    """
    longest = max(width, height)
    shift = np.array([longest - width, longest - height] * 2, np.float64) / 2
    with np.errstate(all="ignore"):  # a comparison with what is no number is false
        usable = np.isfinite(boxes).all(axis=1) & (scores >= least_score) & (scores <= 1)
        usable[usable] &= (boxes[usable, 2:] - boxes[usable, :2] >= _SHORTEST).all(axis=1)
    rows = np.flatnonzero(usable)
    rows = rows[np.argsort(-scores[rows], kind="stable")[:_MAX_ANCHORS]]
    limits = np.array([width, height] * 2)
    placed = np.clip(np.clip(boxes[rows].astype(np.float64), -1, 2) * longest - shift, 0, limits)
    has_area = (placed[:, 2:] - placed[:, :2] >= _SHORTEST * longest).all(axis=1)
    rows, placed = rows[has_area], placed[has_area]
    # By their ranks: they are sorted already, and OpenCV drops a score of zero.
    ranks = np.arange(len(rows), 0, -1, dtype=np.float32)
    sides = np.hstack([placed[:, :2], placed[:, 2:] - placed[:, :2]])
    detections = []
    for row in np.asarray(cv2.dnn.NMSBoxes(sides.tolist(), ranks.tolist(), 0.0, _SAME), int)[: min(most, MAX_BOXES)]:
        edges = np.rint(placed[row]).astype(int)
        x, y = np.minimum(edges[:2], (width - 1, height - 1)).tolist()
        box = Box(x, y, max(1, int(edges[2]) - x), max(1, int(edges[3]) - y))
        detections.append(Detection(box, float(scores[rows[row]])))
    return detections
