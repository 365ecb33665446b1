"""Where a training writes until its model is whole: mapped files, and a checkpoint from which it can continue."""

import contextlib
import fcntl
import json
import logging
import math
import os
import tempfile
import zipfile
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from imgsearch.errors import LockedError, UsageError
from imgsearch.files import replaced_file, require_space, writing

logger = logging.getLogger(__name__)

_FILE = "state.npz"
_FACTS = "facts"
_GROUPS = ("variables", "optimizer", "weights")

Arrays = Sequence[NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Where a training is."""

    epochs: tuple[Mapping[str, Any], ...]
    best: int
    variables: Arrays  # of the model, as they are now
    optimizer: Arrays
    weights: Arrays  # of the model in its best epoch, or as it came


class Workspace:
    """A folder beside the model to be, locked against other trainings: the checkpoint, and room for mapped files."""

    def __init__(self, output: Path) -> None:
        self.folder = output.with_name(f"{output.name}.checkpoint")
        self._identity: Mapping[str, Any] = {}
        with writing(output.parent):
            self.folder.mkdir(exist_ok=True)
            self._lock = os.open(self.folder, os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._lock)
            raise LockedError(f"another training writes {output}", hint="wait for it, or name another output") from None
        except OSError as error:  # as on some network disks
            logger.warning("%s cannot be locked (%s): keep two trainings of it apart", self.folder, error.strerror)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):  # there is a checkpoint in it
            self.folder.rmdir()
        os.close(self._lock)

    def begin(self, identity: Mapping[str, Any], *, resume: bool) -> Checkpoint | None:
        """Return the checkpoint to continue from, if it is of the same settings, weights and images; else clear."""
        self._identity = identity
        if resume:
            return self._load()
        if (self.folder / _FILE).exists():
            logger.warning("starting over: --resume would have continued an interrupted training")
        self.clear()
        return None

    def clear(self) -> None:
        """Remove the checkpoint."""
        with writing(self.folder):
            (self.folder / _FILE).unlink(missing_ok=True)

    def store(self, rows: Iterable[NDArray[Any]], count: int, shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
        """Write arrays of one shape, `count` at most, to a file without a name and map it read-only: (rows, *shape)."""
        needed = count * math.prod(shape) * np.dtype(dtype).itemsize
        hint = "free some space, or give a smaller --size or --unfreeze"
        require_space(self.folder.parent, needed, user="the training", hint=hint)
        found = 0
        # It is written, not mapped, while it grows: a full disk is then an error, not the end of the process.
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

    def save(self, checkpoint: Checkpoint) -> None:
        """Write a checkpoint; the one before is there until this one is whole."""
        facts = json.dumps({"settings": self._identity, "epochs": checkpoint.epochs, "best": checkpoint.best})
        arrays = {_FACTS: np.frombuffer(facts.encode(), np.uint8)}
        for name in _GROUPS:
            arrays |= {f"{name}-{number:05}": array for number, array in enumerate(getattr(checkpoint, name))}
        with writing(self.folder), replaced_file(self.folder / _FILE) as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]  # typed as if one of the names were allow_pickle

    def _load(self) -> Checkpoint | None:
        hint = "run it without --resume"
        try:
            with (self.folder / _FILE).open("rb") as file, np.load(file, allow_pickle=False) as archive:
                arrays = dict(archive)
            facts = json.loads(arrays.pop(_FACTS).tobytes())
            groups = {name: [arrays[key] for key in sorted(arrays) if key.startswith(f"{name}-")] for name in _GROUPS}
            checkpoint = Checkpoint(tuple(facts["epochs"]), int(facts["best"]), **groups)
            before = dict(facts["settings"])
        except FileNotFoundError:
            return None
        # zipfile and NumPy raise many kinds for a damaged file, and all of them mean the same here.
        except (
            *(OSError, ValueError, KeyError, EOFError, RuntimeError, TypeError, MemoryError),
            *(zlib.error, zipfile.BadZipFile),
        ) as error:
            raise UsageError(f"the checkpoint in {self.folder} is damaged: {error}", hint=hint) from error
        for name, value in self._identity.items():
            if before.get(name) != value:
                raise UsageError(
                    f"the checkpoint in {self.folder} has {name} {before.get(name)!r}, not {value!r}",
                    hint=f"give the same options and images as before, or {hint}",
                )
        return checkpoint
