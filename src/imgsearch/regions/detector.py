"""Find items with a detector that a catalog has taught (`imgsearch train --objective detect`)."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from imgsearch.encoders.runtime import Embeddings, EncodedImage, OpenVinoEncoder, unit_rows
from imgsearch.encoders.spec import EncoderSpec
from imgsearch.errors import DamagedIndexError
from imgsearch.images.decode import Pixels


@dataclass(frozen=True, slots=True, eq=False)
class Detected:
    """What a detector makes of one image."""

    embedding: Embeddings  # float32 (dims,), that of the encoder it shares, of unit length or NaN
    scores: NDArray[np.float32]  # (anchors,), 0 to 1
    boxes: NDArray[np.float32]  # (anchors, 4): left, top, right, bottom, as shares of the square's side
    mask: NDArray[np.float32]  # (side, side), stretched over the square: 0 for background, 1 for an item


class Detector(OpenVinoEncoder):
    """An encoder that also says where items are, in the same pass."""

    def __init__(self, spec: EncoderSpec, graph: Path) -> None:
        super().__init__(spec, graph, for_one=True, with_map=True)
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
        request = self._requests[0]
        request.infer([image[None]])
        outputs = [np.array(request.get_output_tensor(number).data, np.float32) for number in range(4)]
        embedding, scores, boxes, mask = outputs
        return Detected(unit_rows(embedding)[0], scores[0], boxes[0], mask[0])
