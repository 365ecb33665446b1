"""The `.npy` files of an index: written as a stream, read as a map, as float32 whatever numbers they hold."""

import io
import os
import tokenize
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from imgsearch.encoders.runtime import Embeddings
from imgsearch.encoders.vectors import RowKey, Vectors
from imgsearch.errors import DamagedIndexError
from imgsearch.files import open_regular, reading, sync
from imgsearch.store.integrity import repair_hint
from imgsearch.store.search_settings import Numbers

BLOCK_ROWS = 4096

# NumPy reads the header as Python, and lets out whatever Python's parser has to say about a damaged one.
HEADER_ERRORS = (
    *(ValueError, EOFError, MemoryError, OverflowError),
    *(SyntaxError, TypeError, RecursionError, tokenize.TokenError),
)


class HalfVectors:
    """Mapped float16 rows of unit length, or zeros; NumPy hardly computes with them, so they are read as float32."""

    def __init__(self, halves: NDArray[np.float16]) -> None:
        self._halves = halves

    @property
    def shape(self) -> tuple[int, ...]:
        """How many rows there are, and their length."""
        return self._halves.shape

    def __len__(self) -> int:
        """Return how many rows there are."""
        return len(self._halves)

    def __getitem__(self, rows: RowKey, /) -> Embeddings:
        """Read a row, or some, of unit length again: rounding changed that."""
        read = self.stored(rows)
        lengths = np.sqrt(np.vecdot(read, read))
        read /= np.where(lengths > 0, lengths, 1)[..., None]
        return read

    def stored(self, rows: RowKey) -> Embeddings:
        """Read rows as they were rounded: written again, they are the same bits."""
        return self._halves[rows].astype(np.float32)


def stored_rows(vectors: Vectors, rows: NDArray[np.int64]) -> Embeddings:
    """Read rows to be copied to another file of the same numbers, bit for bit; a run of them is mapped, not copied."""
    key: RowKey = rows
    if len(rows) and np.array_equal(rows, np.arange(rows[0], rows[0] + len(rows))):
        key = slice(int(rows[0]), int(rows[0]) + len(rows))
    return vectors.stored(key) if isinstance(vectors, HalfVectors) else vectors[key]


def write_array(path: Path, count: int, dims: int, blocks: Iterable[Embeddings], numbers: Numbers = "float32") -> None:
    """Write an array of shape (count, dims) block by block, and sync it."""
    # Plain writes, not a writable map: on a full disk a map dies of SIGBUS where a write raises OSError.
    written = 0
    kind = np.dtype(numbers).newbyteorder("<")
    with path.open("wb") as file:
        header = {"descr": kind.str, "fortran_order": False, "shape": (count, dims)}
        np.lib.format.write_array_header_1_0(file, header)
        for block in blocks:
            assert block.shape[1:] == (dims,), (block.shape, dims)
            file.write(np.ascontiguousarray(block, kind).data)
            written += len(block)
    assert written == count, (written, count)
    sync(path)


@overload
def open_array(path: Path, count: int, dims: int) -> Embeddings: ...
@overload
def open_array(path: Path, count: int, dims: int, numbers: Numbers) -> Vectors: ...
def open_array(path: Path, count: int, dims: int, numbers: Numbers = "float32") -> Vectors:
    """Map a read-only array of shape (count, dims); FileNotFoundError if the file is missing."""
    kind = np.dtype(numbers)
    hint = repair_hint(path.name)
    with reading(path, hint), open_regular(path) as file:
        try:
            np.lib.format.read_magic(file)
            shape, is_fortran, dtype = np.lib.format.read_array_header_1_0(file)
        except HEADER_ERRORS as error:
            raise DamagedIndexError(f"{path} is damaged: {error}", hint=hint) from error
        found, expected = f"{dtype} {shape}{' by columns' * is_fortran}", f"{numbers} {(count, dims)}"
        if found != expected:
            raise DamagedIndexError(f"{path} is damaged: {found}, expected {expected}", hint=hint)
        size = os.fstat(file.fileno()).st_size - file.tell()
        if size != (expected_size := kind.itemsize * count * dims):
            raise DamagedIndexError(f"{path} is damaged: {size} bytes of numbers, expected {expected_size}", hint=hint)
        if not size:  # what has no rows cannot be mapped
            return np.empty((count, dims), np.float32)
        # A plain array over the same map: np.memmap's own class makes every slice slower.
        mapped = np.asarray(np.memmap(file, kind, "r", file.tell(), (count, dims)))
    return mapped if numbers == "float32" else HalfVectors(mapped)


def stored_arrays(path: Path, kinds: Mapping[str, tuple[str, int]]) -> dict[str, NDArray[Any]]:
    """Read arrays of an uncompressed `.npz` file, which may be damaged or hostile: no larger than the file.

    Args:
        path: The file.
        kinds: The names of the arrays, each with its type, such as `<f4`, and the number of its dimensions.

    Raises:
        FileNotFoundError: The file is missing.
        DamagedIndexError: It is no such file, or lacks such an array.
        ResourceError: The system does not let it be read.
    """
    with reading(path, repair_hint(path.name)), open_regular(path) as file:
        content = file.read()  # zipfile takes a disk that fails for an archive that is damaged
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            return {name: _member(archive, f"{name}.npy", *kind) for name, kind in kinds.items()}
    except (OSError, KeyError, RuntimeError, zipfile.BadZipFile, *HEADER_ERRORS) as error:
        raise DamagedIndexError(f"{path} cannot be read: {error}", hint=repair_hint(path.name)) from error


def _member(archive: zipfile.ZipFile, name: str, kind: str, dimensions: int) -> NDArray[Any]:
    if archive.getinfo(name).compress_type != zipfile.ZIP_STORED:
        raise ValueError(f"{name} is compressed")
    return parsed_array(archive.read(name), kind, dimensions)


def parsed_array(data: bytes, kind: str, dimensions: int) -> NDArray[Any]:
    """Return the array of a `.npy` file; raises one of `HEADER_ERRORS` if it is none of that type and dimensions."""
    content = io.BytesIO(data)
    if np.lib.format.read_magic(content) != (1, 0):
        raise ValueError("an array has another version")
    shape, is_transposed, dtype = np.lib.format.read_array_header_1_0(content)
    if dtype.str != kind or len(shape) != dimensions or is_transposed:
        raise ValueError(f"found {dtype.str} of shape {shape}, expected {kind} of {dimensions} dimensions")
    return np.frombuffer(content.getbuffer()[content.tell() :], dtype).reshape(shape)


def blocks_of(array: Vectors) -> Iterator[Embeddings]:
    """Yield an array in blocks of `BLOCK_ROWS` rows."""
    for start in range(0, len(array), BLOCK_ROWS):
        yield array[start : start + BLOCK_ROWS]
