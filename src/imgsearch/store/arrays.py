"""The `.npy` files of an index: written as a stream, read as a map."""

import os
import tokenize
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from imgsearch.encoders.runtime import Embeddings
from imgsearch.errors import DamagedIndexError
from imgsearch.files import open_regular, reading, sync
from imgsearch.store.integrity import repair_hint

BLOCK_ROWS = 4096


def write_array(path: Path, count: int, dims: int, blocks: Iterable[Embeddings]) -> None:
    """Write a float32 array of shape (count, dims) block by block, and sync it."""
    # Plain writes, not a writable map: on a full disk a map dies of SIGBUS where a write raises OSError.
    written = 0
    with path.open("wb") as file:
        header = {"descr": "<f4", "fortran_order": False, "shape": (count, dims)}
        np.lib.format.write_array_header_1_0(file, header)
        for block in blocks:
            assert block.shape[1:] == (dims,), (block.shape, dims)
            file.write(np.ascontiguousarray(block, "<f4").data)
            written += len(block)
    assert written == count, (written, count)
    sync(path)


def open_array(path: Path, count: int, dims: int) -> Embeddings:
    """Map a read-only float32 array of shape (count, dims); FileNotFoundError if the file is missing."""
    hint = repair_hint(path.name)
    with reading(path, hint), open_regular(path) as file:
        try:
            np.lib.format.read_magic(file)
            shape, is_fortran, dtype = np.lib.format.read_array_header_1_0(file)
        # NumPy reads the header as Python, and lets out whatever Python's parser has to say about a damaged one.
        except (
            *(ValueError, EOFError, MemoryError, OverflowError),
            *(SyntaxError, TypeError, RecursionError, tokenize.TokenError),
        ) as error:
            raise DamagedIndexError(f"{path} is damaged: {error}", hint=hint) from error
        found, expected = f"{dtype} {shape}{' by columns' * is_fortran}", f"float32 {(count, dims)}"
        if found != expected:
            raise DamagedIndexError(f"{path} is damaged: {found}, expected {expected}", hint=hint)
        size = os.fstat(file.fileno()).st_size - file.tell()
        if size != 4 * count * dims:
            raise DamagedIndexError(
                f"{path} is damaged: {size} bytes of numbers, expected {4 * count * dims}", hint=hint
            )
        if not size:  # what has no rows cannot be mapped
            return np.empty((count, dims), np.float32)
        # A plain array over the same map: np.memmap's own class makes every slice slower.
        return np.asarray(np.memmap(file, np.float32, "r", file.tell(), (count, dims)))


def blocks_of(array: Embeddings) -> Iterator[Embeddings]:
    """Yield an array in blocks of `BLOCK_ROWS` rows."""
    for start in range(0, len(array), BLOCK_ROWS):
        yield array[start : start + BLOCK_ROWS]
