"""What recommendations were learned, as a file of a generation: arrays without pickle, checked when they are read."""

import io
import os
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from imgsearch.errors import DamagedIndexError
from imgsearch.files import open_regular, reading
from imgsearch.personal.recommend.collaborative import Similar
from imgsearch.store.learned_products import names_array

# What to do about a file whose sha256 is right, and which is wrong.
TRAIN_HINT = "learn it again: imgsearch train --objective recommend --index DIR"

# Of each array its type and its dimensions.
_ARRAYS = {
    "names": ("|u1", 1),
    "others": ("<i4", 2),
    "weights": ("<f2", 2),
    "translation": ("<f2", 2),
    "popularity": ("<f4", 1),
}


@dataclass(frozen=True, slots=True, eq=False)
class RecommendModel:
    """What was learned of P products that there were events of.

    Attributes:
        names: Of the products, as the items have them.
        similar: What those who want one want, too.
        popularity: float32 (P,), the sum of the weights of its events, older ones less; at least 0.
    """

    names: tuple[str, ...]
    similar: Similar
    popularity: NDArray[np.float32]

    def save(self, file: BinaryIO) -> None:
        """Write as `.npz`, uncompressed."""
        # Nobody can ask for a product whose name has a NUL in it: it is the end of a name.
        names = ["" if "\0" in name else name for name in self.names]
        np.savez(
            file,
            names=names_array(names),
            others=np.ascontiguousarray(self.similar.others, "<i4"),
            weights=_halved(self.similar.weights),
            translation=_halved(self.similar.translation),
            popularity=np.ascontiguousarray(self.popularity, "<f4"),
        )


def _halved(values: NDArray[np.floating]) -> NDArray[np.float16]:
    most = float(np.finfo(np.float16).max)
    return np.ascontiguousarray(np.clip(values, -most, most), "<f2")


def _are_finite(values: NDArray[np.float16]) -> bool:
    # np.isfinite takes four times as long: processors do not calculate with halves.
    return not ((values.view(np.uint16) & 0x7C00) == 0x7C00).any()


def load_model(path: Path, d: int) -> RecommendModel:
    """Read what `RecommendModel.save` wrote.

    Args:
        path: The file.
        d: The length of the vectors of the index.

    Raises:
        FileNotFoundError: It is missing.
        DamagedIndexError: It is no such file, or not of such vectors.
        ResourceError: The system does not let it be read.
    """
    arrays = stored_arrays(path, _ARRAYS, TRAIN_HINT)
    others, weights, popularity = arrays["others"], arrays["weights"], arrays["popularity"]
    count = len(others)
    names = os.fsdecode(arrays["names"].tobytes()).split("\0") if count else []
    fits = len(names) == len(popularity) == count and weights.shape == others.shape
    if not fits or arrays["translation"].shape != (count, d):
        shapes = {name: array.shape for name, array in arrays.items()}
        problem = f"{path} holds arrays {shapes} and {len(names)} names, which do not go together"
        raise DamagedIndexError(problem, hint=TRAIN_HINT)
    are_finite = _are_finite(weights) and _are_finite(arrays["translation"]) and np.isfinite(popularity).all()
    if not are_finite or (others.size and not -1 <= others.min() <= others.max() < count) or (popularity < 0).any():
        raise DamagedIndexError(f"{path} is damaged: it holds numbers that cannot be", hint=TRAIN_HINT)
    return RecommendModel(tuple(names), Similar(others, weights, arrays["translation"]), popularity)


def stored_arrays(path: Path, kinds: Mapping[str, tuple[str, int]], hint: str) -> dict[str, NDArray[Any]]:
    """Read arrays of an uncompressed `.npz` file, which may be damaged or hostile: no larger than the file.

    Args:
        path: The file.
        kinds: The names of the arrays, each with its type, such as `<f4`, and the number of its dimensions.
        hint: What to do about a damaged one.

    Raises:
        FileNotFoundError: The file is missing.
        DamagedIndexError: It is no such file, or lacks such an array.
        ResourceError: The system does not let it be read.
    """
    with reading(path, ""), open_regular(path) as file:
        content = file.read()  # zipfile takes a disk that fails for an archive that is damaged
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            return {name: _member(archive, f"{name}.npy", *kind) for name, kind in kinds.items()}
    # zipfile and NumPy raise many kinds for a damaged file, and all of them mean the same here.
    except (OSError, ValueError, KeyError, EOFError, RuntimeError, TypeError, SyntaxError, zipfile.BadZipFile) as error:
        raise DamagedIndexError(f"{path} cannot be read: {error}", hint=hint) from error


def _member(archive: zipfile.ZipFile, name: str, kind: str, dimensions: int) -> NDArray[Any]:
    if archive.getinfo(name).compress_type != zipfile.ZIP_STORED:
        raise ValueError(f"{name} is compressed")
    content = io.BytesIO(archive.read(name))
    if np.lib.format.read_magic(content) != (1, 0):
        raise ValueError(f"{name} has another version")
    shape, is_transposed, dtype = np.lib.format.read_array_header_1_0(content)
    if dtype.str != kind or len(shape) != dimensions or is_transposed:
        raise ValueError(f"{name} is {dtype.str} of shape {shape}, expected {kind} of {dimensions} dimensions")
    return np.frombuffer(content.getbuffer()[content.tell() :], dtype).reshape(shape)
