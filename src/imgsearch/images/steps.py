"""Preprocessing steps, as an encoder's fingerprint and a command line name them."""

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from imgsearch.errors import UsageError

if TYPE_CHECKING:
    from imgsearch.images.decode import Pixels

_ALLOWED = (
    "steps are crop-foreground, deskew, rotate=DEGREES (-180 to 180), denoise, equalize, grayscale,"
    " binarize=otsu, binarize=adaptive and binarize=0 to binarize=255, separated by commas"
)


@dataclass(frozen=True, slots=True)
class Steps:
    """What is done to an image before it is fitted: in this order, whatever the order on the command line.

    Each is the function of that name in `transform.py` or `foreground.py`; `rotate` is in degrees counterclockwise,
    -180 to 180; `binarize` is `otsu`, `adaptive` or a threshold, `0` to `255`.
    """

    crop_foreground: bool = False
    deskew: bool = False
    rotate: float = 0.0
    denoise: bool = False
    equalize: bool = False
    grayscale: bool = False
    binarize: str = ""

    def __post_init__(self) -> None:
        if not -180 <= self.rotate <= 180:  # nor is NaN
            raise UsageError(f"expected to rotate by -180 to 180 degrees, found {self.rotate}", hint=_ALLOWED)
        if self.binarize not in ("", "otsu", "adaptive") and self.binarize not in map(str, range(256)):
            raise UsageError(
                f"expected to binarize by otsu, adaptive or a threshold of 0 to 255, found {self.binarize!r}",
                hint=_ALLOWED,
            )

    @classmethod
    def parse(cls, text: str) -> "Steps":
        """Read what `str` writes, such as `grayscale,binarize=otsu,rotate=90`: steps in any order, each once."""
        asked: dict[str, Any] = {}
        names = {_name(field.name) for field in fields(cls)}
        for part in text.split(",") if text.strip() else ():
            name, _, value = (piece.strip() for piece in part.partition("="))
            if name not in names or name in asked or bool(value) != (name in _READERS):
                raise UsageError(f"expected a step, found {part.strip()!r} in {text!r}", hint=_ALLOWED)
            try:
                asked[name] = _READERS[name](value) if value else True
            except ValueError:
                raise UsageError(f"expected a number for {name}, found {value!r}", hint=_ALLOWED) from None
        return cls(**{name.replace("-", "_"): value for name, value in asked.items()})

    def __str__(self) -> str:
        return ",".join(
            name if value is True else f"{name}={str(value).removesuffix('.0')}"
            for name, value in ((_name(field.name), getattr(self, field.name)) for field in fields(self))
            if value
        )

    def __bool__(self) -> bool:
        return self != NO_STEPS

    @property
    def moves(self) -> bool:
        """Whether items stand elsewhere in an image afterwards, though all of it still shows."""
        return self.deskew or bool(self.rotate)

    def apply(self, image: "Pixels") -> "Pixels":
        """Do the steps to an RGB image of any size, which is not changed; some change the size."""
        from imgsearch.images import foreground, transform

        if self.crop_foreground:
            image = foreground.crop_foreground(image)
        if self.deskew:
            background = foreground.plain_background(image)
            image = transform.deskew(image, transform.WHITE if background is None else tuple(background.tolist()))
        if self.rotate:
            image = transform.rotate(image, self.rotate)
        if self.denoise:
            image = transform.denoise(image)
        if self.equalize:
            image = transform.equalize(image)
        if self.grayscale:
            image = transform.grayscale(image)
        if self.binarize:
            image = transform.binarize(image, self.binarize)
        return image


NO_STEPS = Steps()


def _name(field: str) -> str:
    return field.replace("_", "-")


# Steps that take a value, and what reads it; the others are taken or left.
_READERS: dict[str, Callable[[str], float | str]] = {"rotate": float, "binarize": str}
