"""What the surface of an item is like, whatever its colors."""

import cv2
import numpy as np
from numpy.typing import NDArray

from imgsearch.encoders.vectors import concatenate
from imgsearch.images.foreground import SIDE, Item, pooling

# Local binary patterns: distance to the eight neighbors in pixels, and cells a side.
_RADII = (1, 2, 4)
_PATTERN_CELLS = 2
_PATTERNS = 59
# A neighbor counts as lighter from this many gray levels on, so that noise makes no pattern.
_LIGHTER = 2.0

# Gabor energy: octaves from a quarter of a cycle a pixel down, orientations, and cells a side.
_OCTAVES = 4
_ORIENTATIONS = 4
_ENERGY_CELLS = 3
# Standard deviations of a filter: in octaves, and in steps of orientation.
_OCTAVE_SPREAD = 0.55
_ORIENTATION_SPREAD = 0.6


def describe_item(item: Item) -> NDArray[np.float32]:
    """Describe an item's surface by local binary patterns (Ojala et al., 2002) and log-Gabor energy (Field, 1987)."""
    gray = cv2.cvtColor(item.pixels, cv2.COLOR_RGB2GRAY).astype(np.float32)
    patterns = [_pattern_counts(gray, item.weights, radius) for radius in _RADII]
    return concatenate([concatenate([np.sqrt(counts) for counts in patterns]), np.sqrt(_energy(gray)).ravel()])


def _pattern_counts(gray: NDArray[np.float32], weights: NDArray[np.float32], radius: int) -> NDArray[np.float64]:
    """Count patterns by cell: (cells x cells x patterns,)."""
    if radius > 1:
        gray = np.asarray(cv2.GaussianBlur(gray, (0, 0), radius / 2), np.float32)
    inner = slice(radius, SIDE - radius)
    least = gray[inner, inner] + _LIGHTER
    code = np.zeros(least.shape, np.int64)
    for bit, (down, across) in enumerate(_RING):
        rows = slice(radius + radius * down, SIDE - radius + radius * down)
        columns = slice(radius + radius * across, SIDE - radius + radius * across)
        code |= (gray[rows, columns] >= least).astype(np.int64) << bit
    cell = np.arange(SIDE)[inner] * _PATTERN_CELLS // SIDE
    bins = (cell[:, None] * _PATTERN_CELLS + cell) * _PATTERNS + _PATTERN_OF_CODE[code]
    counts = np.bincount(bins.ravel(), weights[inner, inner].ravel(), _PATTERN_CELLS**2 * _PATTERNS)
    return np.asarray(counts, np.float64)


# Neighbors in the order of their direction.
_RING = ((0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1), (-1, 0), (-1, 1))


def _pattern_of_code() -> NDArray[np.int64]:
    """Number the codes with at most two changes around the ring; all others share the last number."""
    changes = [(code ^ (code >> 1 | (code & 1) << 7)).bit_count() for code in range(256)]
    uniform = np.array(changes) <= 2
    return np.where(uniform, np.cumsum(uniform) - 1, _PATTERNS - 1)


_PATTERN_OF_CODE = _pattern_of_code()


def _energy(gray: NDArray[np.float32]) -> NDArray[np.float32]:
    """Measure the strength of each filter by cell: (filters, cells, cells)."""
    # In the frequency domain, where 16 filters cost less than one large one does among pixels.
    answers = np.fft.ifft2(np.fft.fft2(gray) * _FILTERS)
    pool = pooling(_ENERGY_CELLS)
    return pool @ np.abs(answers).astype(np.float32) @ pool.T


def _filters() -> NDArray[np.float32]:
    """Make the filters, each on one side of the spectrum, so that an answer's absolute value is its strength."""
    down, across = np.meshgrid(np.fft.fftfreq(SIDE), np.fft.fftfreq(SIDE), indexing="ij")
    frequency = np.hypot(down, across)
    frequency[0, 0] = 1.0  # any, as it is set to nothing below
    angle = np.arctan2(down, across)
    filters = []
    for octave in range(_OCTAVES):
        ring = np.exp(-((np.log2(frequency / (0.25 / 2**octave)) / _OCTAVE_SPREAD) ** 2) / 2)
        ring[0, 0] = 0.0
        for orientation in range(_ORIENTATIONS):
            turn = np.angle(np.exp(1j * (angle - orientation * np.pi / _ORIENTATIONS)))
            filters.append(ring * np.exp(-((turn * _ORIENTATIONS / np.pi / _ORIENTATION_SPREAD) ** 2) / 2))
    return np.stack(filters).astype(np.float32)


_FILTERS = _filters()
