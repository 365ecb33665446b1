"""Read the arrays of an `.npz` file that may be damaged, or hostile."""

import zipfile
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imgsearch.errors import DamagedIndexError


def read_arrays(path: str, *names: str) -> list[NDArray[Any]]:
    """Read arrays by name, without pickle.

    Args:
        path: The file.
        names: Of the arrays.

    Raises:
        FileNotFoundError: It is missing.
        DamagedIndexError: It cannot be read, or lacks one of them.
    """
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as arrays:
            return [arrays[name] for name in names]
    except FileNotFoundError:
        raise
    # zipfile and NumPy raise many kinds for a damaged file, and all of them mean the same here.
    except (
        OSError,
        ValueError,
        KeyError,
        EOFError,
        RuntimeError,
        TypeError,
        zlib.error,
        MemoryError,
        zipfile.BadZipFile,
    ) as error:
        raise DamagedIndexError(f"{path} cannot be read: {error}") from error
