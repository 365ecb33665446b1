"""Colors in CIELAB: how different two are (CIEDE2000), and which of the eleven basic color terms one is called.

NumPy alone: a query by color decodes no image.
"""

import re
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from imgsearch.errors import UsageError

Lab = NDArray[np.float64]  # (..., 3): L* from 0 to 100, a* and b*; of sRGB with its white point, D65

# Basic color terms (Berlin and Kay, 1969).
NAMES = ("black", "white", "gray", "red", "orange", "yellow", "green", "blue", "purple", "pink", "brown")

# What each name stands for in CIELAB; a color is called as the nearest of them by CIEDE2000. They are the means of five
# clusters a name, learned from one half of the colors that people named in the XKCD color survey (CC0), and four more
# by hand: a dark red, a vivid brown as of leather, a pale yellow as of ivory, and the green of apples.
# benchmarks/colors.py holds them to the other half.
_PROTOTYPES = {
    "red": ((34, 51, 45), (53, 78, 37), (33, 57, 8), (52, 71, 60), (47, 56, 26), (25, 46, 32)),
    "orange": ((58, 65, 69), (75, 27, 56), (57, 26, 63), (50, 43, 58), (76, 21, 78)),
    "yellow": ((92, -10, 63), (94, -25, 86), (72, -9, 73), (87, -8, 84), (78, 16, 80), (92, -12, 24)),
    "green": ((76, -37, 65), (44, -27, 36), (79, -31, 30), (76, -59, 42), (88, -79, 78), (58, -14, 38)),
    "blue": ((32, 68, -95), (48, -3, -30), (49, 29, -69), (85, -24, -10), (16, 13, -36)),
    "purple": ((63, 46, -44), (43, 21, -11), (42, 57, -72), (28, 52, -29), (46, 85, -75)),
    "pink": ((62, 55, -14), (62, 60, 32), (69, 35, 7), (58, 72, -41), (57, 84, -10)),
    "brown": ((52, 5, 57), (58, 8, 30), (34, 5, 39), (51, 29, 59), (24, 35, 32), (40, 28, 42)),
}
_CHROMATIC = tuple(_PROTOTYPES)

# Colors of little chroma have no hue that one would name: white, black and gray are decided first. A cool gray may have
# a little less chroma than a warm one.
_DARK, _BLACK_CHROMA, _DARK_GRAY = 14, 18, 20
_LIGHT, _WHITE_CHROMA = 88, 13
_COOL_HUES, _COOL_GRAY_CHROMA, _GRAY_CHROMA = (150, 300), 14, 11

_HEX = re.compile(r"#?([0-9a-f]{6})", re.IGNORECASE)

# sRGB (IEC 61966-2-1) to XYZ, divided by the white point.
_TO_XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
)
_TO_XYZ = _TO_XYZ / _TO_XYZ.sum(axis=1, keepdims=True)


@dataclass(frozen=True, slots=True)
class AskedColor:
    """A color that a user asks for: by one of the `NAMES`, or else a certain one."""

    name: str  # empty where it is a certain one
    lab: tuple[float, float, float]  # zeros for a name


def parse_color(text: str) -> AskedColor:
    """Read `#1e6fb8`, `1e6fb8` or one of the `NAMES` (`grey`, too); UsageError for anything else."""
    name = text.strip().lower().replace("grey", "gray")
    if name in NAMES:
        return AskedColor(name, (0.0, 0.0, 0.0))
    if not (found := _HEX.fullmatch(name)):
        raise UsageError(
            f"expected a color, found {text!r}", hint=f"write one as #1e6fb8, or one of {', '.join(NAMES)}"
        )
    lightness, a, b = lab_of(np.frombuffer(bytes.fromhex(found[1]), np.uint8)).tolist()
    return AskedColor("", (lightness, a, b))


def lab_of(rgb: ArrayLike) -> Lab:
    """Bring sRGB colors, from 0 to 255, to CIELAB: (..., 3) to (..., 3)."""
    levels = np.asarray(rgb, np.float64) / 255
    linear = np.where(levels <= 0.04045, levels / 12.92, ((levels + 0.055) / 1.055) ** 2.4)
    xyz = linear @ _TO_XYZ.T
    x, y, z = np.moveaxis(np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz / (3 * (6 / 29) ** 2) + 4 / 29), -1, 0)
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)


def differences(first: ArrayLike, second: ArrayLike) -> NDArray[np.float64]:
    """Return the color differences CIEDE2000 of CIELAB colors (..., 3), broadcast against one another.

    After Sharma, Wu and Dalal, "The CIEDE2000 color-difference formula: implementation notes, supplementary test data,
    and mathematical observations" (2005), with all weights 1. About 1 can just be seen, 10 at a glance.
    """
    lightness1, a1, b1 = np.moveaxis(np.asarray(first, np.float64), -1, 0)
    lightness2, a2, b2 = np.moveaxis(np.asarray(second, np.float64), -1, 0)
    # Stretch a* of grayish colors.
    stretch = 1 + 0.5 * (1 - _saturation((np.hypot(a1, b1) + np.hypot(a2, b2)) / 2))
    a1, a2 = stretch * a1, stretch * a2
    chroma1, chroma2 = np.hypot(a1, b1), np.hypot(a2, b2)
    hue1, hue2 = np.arctan2(b1, a1), np.arctan2(b2, a2)
    has_no_hue = chroma1 * chroma2 == 0
    turn = np.where(has_no_hue, 0, (hue2 - hue1 + np.pi) % (2 * np.pi) - np.pi)
    by_hue = 2 * np.sqrt(chroma1 * chroma2) * np.sin(turn / 2)

    lightness, chroma = (lightness1 + lightness2) / 2, (chroma1 + chroma2) / 2
    hue = np.where(has_no_hue, hue1 + hue2, hue1 + turn / 2)
    factor = (
        1
        - 0.17 * np.cos(hue - np.radians(30))
        + 0.24 * np.cos(2 * hue)
        + 0.32 * np.cos(3 * hue + np.radians(6))
        - 0.20 * np.cos(4 * hue - np.radians(63))
    )
    rotation = np.radians(30) * np.exp(-(((np.degrees(hue) % 360 - 275) / 25) ** 2))
    from_middle = (lightness - 50) ** 2
    by_lightness = (lightness2 - lightness1) / (1 + 0.015 * from_middle / np.sqrt(20 + from_middle))
    by_chroma = (chroma2 - chroma1) / (1 + 0.045 * chroma)
    by_hue = by_hue / (1 + 0.015 * chroma * factor)
    mixed = -np.sin(2 * rotation) * 2 * _saturation(chroma) * by_chroma * by_hue
    # Rounding may bring a sum of nothing below zero.
    return np.asarray(np.sqrt(np.maximum(0, by_lightness**2 + by_chroma**2 + by_hue**2 + mixed)), np.float64)


def names_of(lab: Lab) -> list[str]:
    """Return which of the `NAMES` CIELAB colors (n, 3) have."""
    prototypes, owners = _prototypes()
    nearest = owners[differences(lab[:, None], prototypes).argmin(axis=1)]
    lightness, chroma = lab[:, 0], np.hypot(lab[:, 1], lab[:, 2])
    hue = np.degrees(np.arctan2(lab[:, 2], lab[:, 1])) % 360
    is_cool = (hue > _COOL_HUES[0]) & (hue < _COOL_HUES[1])
    is_gray = chroma < np.where(is_cool, _COOL_GRAY_CHROMA, _GRAY_CHROMA)
    is_black = ((lightness < _DARK) & (chroma < _BLACK_CHROMA)) | ((lightness < _DARK_GRAY) & is_gray)
    is_white = (lightness > _LIGHT) & (chroma < _WHITE_CHROMA)
    return [
        "black" if black else "white" if white else "gray" if gray else _CHROMATIC[owner]
        for black, white, gray, owner in zip(is_black, is_white, is_gray, nearest, strict=True)
    ]


def _saturation(chroma: NDArray[np.float64]) -> NDArray[np.float64]:
    power = chroma * chroma * chroma
    power = power * power * chroma  # several times as fast as chroma**7
    return np.asarray(np.sqrt(power / (power + 25.0**7)), np.float64)


@cache
def _prototypes() -> tuple[Lab, NDArray[np.int64]]:
    """Return all prototypes, and of each the position of its name in `_CHROMATIC`."""
    counts = [len(colors) for colors in _PROTOTYPES.values()]
    colors = np.array([color for colors in _PROTOTYPES.values() for color in colors], np.float64)
    return colors, np.repeat(np.arange(len(counts)), counts)
