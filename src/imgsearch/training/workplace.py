"""Where a training writes: mapped files, a checkpoint from which it can go on, and what it has to say in the end."""

import contextlib
import fcntl
import json
import math
import os
import tempfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from imgsearch.errors import LockedError, UsageError
from imgsearch.files import replaced_file, require_space, writing

_FILE = "state.npz"
_FACTS = "facts"

Arrays = Sequence[NDArray[Any]]


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Write a file that appears when it is whole; the one before is there until then."""
    with writing(path.parent), replaced_file(path) as file:
        yield file


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Where a training is.

    Attributes:
        epochs: What was measured in each epoch so far, those of all stages.
        best: Which of them was the best so far.
        variables: Of the model, as they are now: weights, and the state of chance.
        optimizer: Variables of the optimizer.
        weights: Of the model in its best epoch, or as it came.
    """

    epochs: tuple[Mapping[str, Any], ...]
    best: int
    variables: Arrays
    optimizer: Arrays
    weights: Arrays


class Workplace:
    """A folder beside the model to be: the checkpoint, and room for mapped files. One training at a time holds it.

    Args:
        output: The model to be.

    Raises:
        LockedError: Another training holds it.
        OutputError: It cannot be made.
    """

    def __init__(self, output: Path) -> None:
        self.folder = output.with_name(f"{output.name}.checkpoint")
        with writing(output.parent):
            self.folder.mkdir(exist_ok=True)
            self._lock = os.open(self.folder, os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._lock)
            raise LockedError(f"another training writes {output}", hint="wait for it, or name another output") from None

    def close(self) -> None:
        """Give the folder free, and remove it if it holds no checkpoint."""
        with contextlib.suppress(OSError):
            self.folder.rmdir()
        os.close(self._lock)

    def clear(self) -> None:
        """Remove the checkpoint: what it was for is done, or begins anew."""
        with writing(self.folder):
            for path in self.folder.iterdir():
                path.unlink()

    def store(self, rows: Iterable[NDArray[Any]], count: int, shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
        """Write arrays of one shape to a file one after another, and map it.

        The file is written, not mapped, while it grows: a full disk is then an error, not the end of the process.
        It has no name, so that nothing is left of it however the process ends.

        Args:
            rows: The arrays.
            count: How many there are at most; whether the disk has room for so many is looked at first.
            shape: Of each.
            dtype: Of each.

        Returns:
            (number of rows, *shape), read-only.

        Raises:
            OutputError: The disk has no room, or cannot be written.
        """
        needed = count * math.prod(shape) * np.dtype(dtype).itemsize
        hint = "free some space, or give a smaller --size"
        require_space(self.folder.parent, needed, user="the training", hint=hint)
        found = 0
        with tempfile.TemporaryFile(dir=self.folder) as file:
            for row in rows:
                assert row.shape == shape
                with writing(self.folder):
                    file.write(np.ascontiguousarray(row, dtype).data)
                found += 1
            with writing(self.folder):
                file.flush()
            if not found:  # what is empty cannot be mapped
                return np.empty((0, *shape), dtype)
            # A plain array over the same map: np.memmap's own class makes every slice slower.
            return np.asarray(np.memmap(file, dtype, "r", shape=(found, *shape)))

    @property
    def has_checkpoint(self) -> bool:
        """Whether a training was interrupted here."""
        return (self.folder / _FILE).exists()

    def save(self, checkpoint: Checkpoint, settings: Mapping[str, Any]) -> None:
        """Write a checkpoint; the one before is there until this one is whole.

        Args:
            checkpoint: Where the training is.
            settings: What `load` compares.

        Raises:
            OutputError: It cannot be written.
        """
        facts = json.dumps({"settings": settings, "epochs": checkpoint.epochs, "best": checkpoint.best})
        arrays = {_FACTS: np.frombuffer(facts.encode(), np.uint8)}
        for name in ("variables", "optimizer", "weights"):
            arrays |= {f"{name}-{number:05}": array for number, array in enumerate(getattr(checkpoint, name))}
        with replacing(self.folder / _FILE) as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]  # typed as if one of the names were allow_pickle

    def load(self, settings: Mapping[str, Any]) -> Checkpoint | None:
        """Read the checkpoint, if there is one.

        Args:
            settings: Of the training that is to go on.

        Raises:
            UsageError: It is of a training with other settings, or is damaged.
        """
        try:
            with (self.folder / _FILE).open("rb") as file, np.load(file, allow_pickle=False) as archive:
                arrays = dict(archive)
            facts = json.loads(arrays.pop(_FACTS).tobytes())
            groups = {
                name: [arrays[key] for key in sorted(arrays) if key.startswith(f"{name}-")]
                for name in ("variables", "optimizer", "weights")
            }
            checkpoint = Checkpoint(tuple(facts["epochs"]), int(facts["best"]), **groups)
            before = dict(facts["settings"])
        except FileNotFoundError:
            return None
        # zipfile and NumPy raise many kinds for a damaged file, and all of them mean the same here.
        except (
            *(OSError, ValueError, KeyError, EOFError, RuntimeError, TypeError, MemoryError),
            *(zlib.error, zipfile.BadZipFile),
        ) as error:
            raise UsageError(
                f"the checkpoint in {self.folder} is damaged: {error}", hint="run it without --resume"
            ) from error
        for name, value in settings.items():
            if before.get(name) != value:
                raise UsageError(
                    f"the checkpoint in {self.folder} has {name} {before.get(name)!r}, not {value!r}",
                    hint="give the same options and images as before, or run it without --resume",
                )
        return checkpoint
