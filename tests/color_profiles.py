"""Color profiles (ICC.1:2022), made by hand, and images whose pixels mean the colors of one: the truth is sRGB."""

import struct

import numpy as np

# x and y of red, green and blue, of white, and the exponent of the curve.
D65, D50 = (0.3127, 0.3290), (0.3457, 0.3585)
SPACES = {
    "Adobe RGB": ((0.64, 0.33), (0.21, 0.71), (0.15, 0.06), D65, 563 / 256),
    "Display P3": ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060), D65, 0.0),
    "ProPhoto": ((0.7347, 0.2653), (0.1596, 0.8404), (0.0366, 0.0001), D50, 1.8),
    "sRGB": ((0.64, 0.33), (0.30, 0.60), (0.15, 0.06), D65, 0.0),
    "exchanged": ((0.30, 0.60), (0.64, 0.33), (0.15, 0.06), D65, 0.0),
    "linear": ((0.64, 0.33), (0.30, 0.60), (0.15, 0.06), D65, 1.0),
}
BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
# How much of red, green and blue light, as logarithms, full cyan, magenta and yellow take away.
INKS = np.array([[1.9, 0.15, 0.05], [0.5, 1.8, 0.2], [0.15, 0.6, 1.7]])
BLACK = 4.0
GRID = 9


def expand(encoded: np.ndarray, exponent: float) -> np.ndarray:
    """Encoded values to linear light; an exponent of 0 stands for sRGB's curve."""
    if exponent:
        return encoded**exponent
    return np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)


def compress(light: np.ndarray, exponent: float) -> np.ndarray:
    light = np.clip(light, 0, 1)
    if exponent:
        return light ** (1 / exponent)
    return np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055)


def colorants(name: str) -> np.ndarray:
    """Red, green and blue as columns of XYZ, seen in the light of D50."""
    *primaries, white, _ = SPACES[name]
    columns, (white_xyz, paper) = np.array([xyz(at) for at in primaries]).T, map(xyz, (white, D50))
    adapt = np.linalg.inv(BRADFORD) @ np.diag((BRADFORD @ paper) / (BRADFORD @ white_xyz)) @ BRADFORD
    return adapt @ (columns * np.linalg.solve(columns, white_xyz))


def xyz(at: tuple[float, float]) -> np.ndarray:
    return np.array([at[0] / at[1], 1, (1 - at[0] - at[1]) / at[1]])


def in_space(srgb: np.ndarray, name: str) -> np.ndarray:
    """What the colors of an sRGB image, uint8, are in another space, from 0 to 1."""
    light = expand(srgb / 255, 0) @ colorants("sRGB").T @ np.linalg.inv(colorants(name)).T
    return compress(light, SPACES[name][4])


def profile(space: bytes, device: bytes, pcs: bytes, tags: dict[bytes, bytes]) -> bytes:
    start, table, body = 132 + 12 * len(tags), b"", b""
    for tag, content in tags.items():
        table += struct.pack(">4sII", tag, start + len(body), len(content))
        body += content + bytes(-len(content) % 4)
    head = struct.pack(">I4xI4s4s4s12x4s28x", start + len(body), 0x02400000, device, space, pcs, b"acsp")
    return head + fixed(0.9642, 1, 0.8249) + bytes(48) + struct.pack(">I", len(tags)) + table + body


def fixed(*numbers: float) -> bytes:
    return struct.pack(f">{len(numbers)}i", *(round(number * 65536) for number in numbers))


def curve(exponent: float) -> bytes:
    samples = np.rint(65535 * expand(np.linspace(0, 1, 1024), exponent)).astype(int).tolist()
    return b"curv" + struct.pack(f">4xI{len(samples)}H", len(samples), *samples)


def rgb_profile(name: str) -> bytes:
    tags = {b"wtpt": b"XYZ " + bytes(4) + fixed(0.9642, 1, 0.8249)}
    for channel, column in zip(b"rgb", colorants(name).T, strict=True):
        tags[b"%cXYZ" % channel] = b"XYZ " + bytes(4) + fixed(*column)
        tags[b"%cTRC" % channel] = curve(SPACES[name][4])
    return profile(b"RGB ", b"mntr", b"XYZ ", tags)


def gray_profile(exponent: float) -> bytes:
    tags = {b"wtpt": b"XYZ " + bytes(4) + fixed(0.9642, 1, 0.8249), b"kTRC": curve(exponent)}
    return profile(b"GRAY", b"mntr", b"XYZ ", tags)


def printed(inks: np.ndarray) -> np.ndarray:
    """The sRGB colors of inks, from 0 to 1: cyan, magenta, yellow and black."""
    return np.exp(-(inks[..., :3] @ INKS.T + BLACK * inks[..., 3:]))


def inks_for(srgb: np.ndarray) -> np.ndarray:
    """Inks, uint8, for an sRGB image, without black, and as near to its colors as they come."""
    needed = -np.log(np.clip(srgb / 255, 0.01, 1)) @ np.linalg.inv(INKS).T
    levels = np.rint(255 * np.clip(needed, 0, 1)).astype(np.uint8)
    return np.concatenate([levels, np.zeros_like(levels[..., :1])], axis=-1)


def cmyk_profile() -> bytes:
    steps = np.linspace(0, 1, GRID)
    inks = np.stack(np.meshgrid(steps, steps, steps, steps, indexing="ij"), axis=-1)
    seen = expand(printed(inks), 0) @ colorants("sRGB").T / xyz(D50)
    root = np.where(seen > 216 / 24389, np.cbrt(seen), (24389 / 27 * seen + 16) / 116)
    x, y, z = np.moveaxis(root, -1, 0)
    lab = np.stack([(116 * y - 16) * 652.8, (500 * (x - y) + 128) * 256, (200 * (y - z) + 128) * 256], axis=-1)
    straight = struct.pack(">2H", 0, 65535)
    table = b"mft2" + struct.pack(">4x4B", 4, 3, GRID, 0) + fixed(1, 0, 0, 0, 1, 0, 0, 0, 1) + struct.pack(">2H", 2, 2)
    cells = np.rint(np.clip(lab, 0, 65535)).astype(">u2").tobytes()
    tags = {b"wtpt": b"XYZ " + bytes(4) + fixed(0.9642, 1, 0.8249)}
    return profile(b"CMYK", b"prtr", b"Lab ", {**tags, b"A2B0": table + straight * 4 + cells + straight * 3})
