"""How EfficientNet-Lite0 (Tan and Le, 2019) is laid out: what its graphs in Keras and in OpenVINO have in common."""

from collections.abc import Iterator
from dataclasses import dataclass

# Repeats, kernel, stride of the first, expansion, channels (TensorFlow's lite release).
_STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
STEM_CHANNELS = 32
CHANNELS = 1280
# Of batch normalization.
EPSILON = 1e-3
# What it was trained on: pixels, 0 to 255, less the mean, divided by the spread.
MEAN = 127.0
SPREAD = 128.0

# What the head for retrieval pools: the features, what the last block's depthwise convolution gives, and what the sixth
# stage begins with. Earlier maps tell apart what is much alike, and mind less in which style it is drawn.
HEAD_MAPS = ("_bn1_relu", "_blocks.15._bn1_relu", "_blocks.11._bn0_relu")
# What stands for places of an image, with cells as large as many an item; `networks.with_map` finds the same.
PLACES_MAP = "_blocks.11._bn0_relu"


@dataclass(frozen=True, slots=True)
class Block:
    """An inverted residual: expanded, convolved by channels, projected."""

    prefix: str  # of the names of its weights
    kernel: int
    stride: int
    expanded: int | None  # channels; None if as many as come in are convolved
    channels: int  # that come out
    is_residual: bool  # whether what came in is added


def blocks() -> Iterator[Block]:
    """Yield the 16 blocks between stem and head."""
    number, coming_in = 0, STEM_CHANNELS
    for repeats, kernel, first_stride, expansion, channels in _STAGES:
        for repeat in range(repeats):
            stride = 1 if repeat else first_stride
            yield Block(
                f"_blocks.{number}.",
                kernel,
                stride,
                coming_in * expansion if expansion > 1 else None,
                channels,
                stride == 1 and channels == coming_in,
            )
            number, coming_in = number + 1, channels
