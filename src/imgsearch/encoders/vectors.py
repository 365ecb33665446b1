"""Vectors of unit length, and arrays that are read from a file which may be damaged, or hostile."""

import io
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from imgsearch.errors import DamagedIndexError
from imgsearch.files import open_regular, reading

# What reads a row of an array, or some.
RowKey = int | slice | Sequence[int] | NDArray[np.integer]


class Vectors(Protocol):
    """Rows that are float32 when they are read: an array, or what makes such of a file of float16."""

    @property
    def shape(self) -> tuple[int, ...]:
        """How many rows there are, and their length."""

    def __len__(self) -> int:
        """Return how many rows there are."""

    def __getitem__(self, rows: RowKey, /) -> NDArray[np.float32]:
        """Read a row, or some."""


def unit(vector: NDArray[np.floating]) -> NDArray[np.floating]:
    """Bring a vector to unit length; one of zeros stays as it is."""
    length = float(np.linalg.norm(vector))
    return vector / length if length else vector


def concatenate(parts: Sequence[NDArray[np.floating]], weights: Sequence[float] | None = None) -> NDArray[np.float32]:
    """Concatenate vectors, each of unit length times its weight: cosines are means, weighted by squares of weights."""
    scaled = [weight * unit(part) for weight, part in zip(weights or [1.0] * len(parts), parts, strict=True)]
    return unit(np.concatenate(scaled)).astype(np.float32)


def read_arrays(path: str, shapes: Mapping[str, tuple[int, ...]]) -> list[NDArray[np.float32]]:
    """Read float32 arrays of an `.npz` file by name, without pickle.

    Raises:
        FileNotFoundError: The file is missing.
        DamagedIndexError: It is no such file, or lacks an array of such a name, shape and type.
        ResourceError: The system does not let it be read.
    """
    with reading(Path(path), ""), open_regular(Path(path)) as file:
        content = file.read()  # zipfile takes a disk that fails for an archive that is damaged
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as archive:
            arrays: list[NDArray[Any]] = [archive[name] for name in shapes]
    # zipfile and NumPy raise many kinds for a damaged file, and all of them mean the same here.
    except (OSError, ValueError, KeyError, EOFError, RuntimeError, TypeError, zlib.error, zipfile.BadZipFile) as error:
        raise DamagedIndexError(f"{path} cannot be read: {error}") from error
    found = {name: (array.shape, array.dtype.str) for name, array in zip(shapes, arrays, strict=True)}
    if found != {name: (shape, "<f4") for name, shape in shapes.items()}:
        raise DamagedIndexError(f"{path} holds arrays {found}, expected float32 of shapes {dict(shapes)}")
    return arrays
