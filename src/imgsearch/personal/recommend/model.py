"""What recommendations were learned, as a file of a generation: arrays without pickle, checked when they are read."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from imgsearch.errors import DamagedIndexError
from imgsearch.personal.recommend.collaborative import Similar
from imgsearch.store.arrays import stored_arrays
from imgsearch.store.integrity import repair_hint
from imgsearch.store.learned_products import names_array

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
    arrays = stored_arrays(path, _ARRAYS)
    others, weights, popularity = arrays["others"], arrays["weights"], arrays["popularity"]
    count = len(others)
    names = os.fsdecode(arrays["names"].tobytes()).split("\0") if count else []
    fits = len(names) == len(popularity) == count and weights.shape == others.shape
    if not fits or arrays["translation"].shape != (count, d):
        shapes = {name: array.shape for name, array in arrays.items()}
        problem = f"{path} holds arrays {shapes} and {len(names)} names, which do not go together"
        raise DamagedIndexError(problem, hint=repair_hint(path.name))
    are_finite = _are_finite(weights) and _are_finite(arrays["translation"]) and np.isfinite(popularity).all()
    if not are_finite or (others.size and not -1 <= others.min() <= others.max() < count) or (popularity < 0).any():
        raise DamagedIndexError(f"{path} is damaged: it holds numbers that cannot be", hint=repair_hint(path.name))
    return RecommendModel(tuple(names), Similar(others, weights, arrays["translation"]), popularity)
