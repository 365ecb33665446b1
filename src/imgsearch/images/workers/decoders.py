"""Decode images to the squares that encoders see: here, or in a process that a bad file may kill or stall."""

import json
import math

import numpy as np

from imgsearch.images import MAX_PIXELS, Fit
from imgsearch.images.decode import WHITE, Decoded, Pixels, Remarks, decode_image, within_memory
from imgsearch.images.headers import checked_size, image_format
from imgsearch.images.main_colors import MainColor, main_colors
from imgsearch.images.policy import FilePolicy
from imgsearch.images.steps import NO_STEPS, Steps
from imgsearch.images.transform import fit as fit_square
from imgsearch.images.transform import fitted_box, reduce
from imgsearch.images.workers.process import Part, WorkerProcess, run

DECODE_SECONDS = 30.0

# The longer side of what steps are applied to, and variants made of. No encoder sees more, and time stays bounded.
WORKED_SIDE = 1024
# An item that is only to be trimmed may fill half of its image and still be as sharp as its encoder sees it. The
# decoder can then leave out much of a large JPEG.
_TRIMMED = 2
_TRIM = Steps(crop_foreground=True)

# Room for remarks: of each kind one, of so many characters at most.
_LONGEST_TEXT = 4096
_LONGEST_REMARK = 200

# No channel of an image that is blank differs by more: JPEG's noise, and a scanner's, on one color.
_BLANK_RANGE = 8

# A progressive JPEG has about ten scans. Each costs time, and no limit but a clock helps against thousands.
_JPEG_START = b"\xff\xd8\xff"
_SCAN = b"\xff\xda"
_MANY_SCANS = 100


class DecodeWorker(WorkerProcess):
    """Does `decode_square` in a process, whose answer is the pixels, then remarks and colors, if any, in JSON."""

    def __init__(
        self,
        size: int,
        fit: Fit,
        policy: FilePolicy | None = None,
        *,
        seconds: float = DECODE_SECONDS,
        steps: Steps = NO_STEPS,
        colors: bool = False,
    ) -> None:
        task = {"size": size, "fit": fit, "steps": str(steps), "colors": colors}
        super().__init__(__name__, policy or FilePolicy(), seconds, task)
        self._shape = (size, size, 3)

    def decode(self, data: bytes) -> tuple[Pixels, Remarks]:
        """Return the square, RGB, and remarks on it; or raise ImageError, as `decode.decode_image`."""
        return self.decode_with_colors(data)[:2]

    def decode_with_colors(self, data: bytes) -> tuple[Pixels, Remarks, list[MainColor]]:
        """Return what `decode` does, and the item's main colors, if the worker was made to find them."""
        count = math.prod(self._shape)
        answer = self._ask(data, count + _LONGEST_TEXT)
        told = json.loads(answer[count:].tobytes() or b"{}")
        colors = [MainColor(*color) for color in told.get("colors", ())]
        return answer[:count].reshape(self._shape), told.get("remarks", {}), colors


def _answer(data: bytes, policy: FilePolicy, size: int, fit: Fit, steps: str, *, colors: bool = False) -> list[Part]:
    square, remarks, found = decode_with_colors(data, policy, size, fit, Steps.parse(steps), colors=colors)
    short = {kind: message[:_LONGEST_REMARK] for kind, message in remarks.items()}
    said = {"remarks": short, "colors": [(color.rgb, color.share) for color in found]}
    told = {name: value for name, value in said.items() if value}
    return [square.reshape(-1).data, json.dumps(told).encode() if told else b""]


def decode_square(data: bytes, policy: FilePolicy, size: int, fit: Fit, steps: Steps) -> tuple[Pixels, Remarks]:
    """Decode an image file to an encoder's square, with remarks; `blank` if all the encoder sees is of one color."""
    return decode_with_colors(data, policy, size, fit, steps, colors=False)[:2]


def decode_with_colors(
    data: bytes, policy: FilePolicy, size: int, fit: Fit, steps: Steps, *, colors: bool
) -> tuple[Pixels, Remarks, list[MainColor]]:
    """Do `decode_square`, and find the item's main colors, if they are wanted."""
    decoded = decode_by_policy(data, policy, _shrink_to(size, fit, steps))
    image = _apply_steps(decoded.pixels, size, steps)
    square = fit_square(image, size, fit, decoded.background)
    inner = fitted_box(image.shape, size, fit)
    shown = square[inner.y : inner.y + inner.height, inner.x : inner.x + inner.width]
    remarks = decoded.remarks
    # Most images are known not to be blank by the green of a few of their pixels.
    green = shown[::16, ::16, 1]
    if int(green.max()) - int(green.min()) <= _BLANK_RANGE and (np.ptp(shown, axis=(0, 1)) <= _BLANK_RANGE).all():
        remarks = {**remarks, "blank": "#{:02x}{:02x}{:02x}".format(*np.median(shown, axis=(0, 1)).astype(int))}
    # Of the image as it is in the file: what steps make of it is for the encoder.
    return square, remarks, main_colors(decoded) if colors else []


def decode_by_policy(data: bytes, policy: FilePolicy, shrink_to: int = 0) -> Decoded:
    """Decode an image as `decode.decode_image`, or what there is of a damaged one where that is let in."""
    return decode_image(data, shrink_to=shrink_to, max_pixels=policy.max_pixels, keep_damaged=policy.keep_damaged)


def decode_and_fit(data: bytes, size: int, fit: Fit, *, steps: Steps = NO_STEPS) -> Pixels:
    """Decode an image file, do the steps, and fit it to a square: RGB, uint8 (size, size, 3)."""
    with within_memory():
        return decode_square(data, FilePolicy(), size, fit, steps)[0]


def decode_and_fit_guarded(data: bytes, size: int, fit: Fit, policy: FilePolicy, *, steps: Steps = NO_STEPS) -> Pixels:
    """Do `decode_and_fit` here, or in a process if `needs_process`; the policy lets in no less than the default."""
    if not needs_process(data, policy):
        return decode_and_fit(data, size, fit, steps=steps)
    max_pixels = max(MAX_PIXELS, policy.max_pixels)
    worker = DecodeWorker(size, fit, FilePolicy(policy.max_bytes, max_pixels), steps=steps)
    try:
        return worker.decode(data)[0]
    finally:
        worker.close()


def needs_process(data: bytes, policy: FilePolicy) -> bool:
    """Return whether a file is a JPEG that needs a clock, or larger than OpenCV admits in this process."""
    dimensions = checked_size(data, image_format(data), max(MAX_PIXELS, policy.max_pixels)) or (0, 0)
    has_many_scans = data.startswith(_JPEG_START) and data.count(_SCAN) >= _MANY_SCANS
    return has_many_scans or dimensions[0] * dimensions[1] > MAX_PIXELS


def apply_steps_and_fit(image: Pixels, size: int, fit: Fit, steps: Steps, background: int = WHITE) -> Pixels:
    """Do to a decoded image what `decode_and_fit` does to one in a file."""
    return fit_square(_apply_steps(image, size, steps), size, fit, background)


def _apply_steps(image: Pixels, size: int, steps: Steps) -> Pixels:
    return steps.apply(reduce(image, _worked_side(size, steps))) if steps else image


def _worked_side(size: int, steps: Steps) -> int:
    return _TRIMMED * size if steps == _TRIM else max(size, WORKED_SIDE)


def _shrink_to(size: int, fit: Fit, steps: Steps) -> int:
    if steps:
        return _worked_side(size, steps)
    # A crop shows the middle only, so there the shorter side decides what may be thrown away; the decoder knows
    # the longer one. Only `pad` lets it shrink.
    return size if fit == "pad" else 0


if __name__ == "__main__":
    run(_answer)
