"""Annoy in a process of its own, where what it does to the process is no harm.

Annoy is compiled for the processor it is installed on, and dies of SIGILL on one that lacks its instructions. Its
files have neither header nor checksum. So before a build relies on Annoy it is tried, and a forest is opened by
another process (`annoy_child`) before it is published.
"""

import json
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from imgsearch.encoders.runtime import Embeddings
from imgsearch.errors import DamagedIndexError, MissingComponentError
from imgsearch.store.plan import BackendSettings

# A forest with flipped bits may send Annoy round in circles.
_SECONDS = 120
_SAMPLE = 20


def require_annoy() -> None:
    """Try Annoy.

    Raises:
        MissingComponentError: This processor cannot run it, or it is not installed.
    """
    done = _run({})
    if done.returncode:
        raise unusable_annoy(done.returncode, done.stderr)


def unusable_annoy(returncode: int, said: str = "") -> MissingComponentError:
    """Describe an Annoy that does not work here.

    Args:
        returncode: Of the process that tried it.
        said: What that wrote on standard error.
    """
    return MissingComponentError(
        f"Annoy does not run on this machine: {_reason(returncode, said)}",
        hint="use --backend exact, or compile it here: pip install --force-reinstall --no-cache-dir annoy",
    )


def check_forest(path: Path, vectors: Embeddings, settings: BackendSettings) -> None:
    """Open a forest, and look whether it is the one that belongs to these vectors.

    Args:
        path: The file.
        vectors: float32 (count, d), unit rows, count at least 1.
        settings: What it was built with.

    Raises:
        DamagedIndexError: It cannot be opened, or is another one.
        MissingComponentError: This processor cannot run Annoy.
    """
    rows = np.unique(np.linspace(0, len(vectors) - 1, _SAMPLE).astype(int)).tolist()
    # Its folder is where it runs: Annoy takes no name that is not UTF-8.
    task = {"file": path.name, "dims": vectors.shape[1], "rows": rows, "search_k": settings.search_k}
    done = _run(task, folder=path.parent)
    if done.returncode:
        require_annoy()  # if it does not run here at all, the file is not at fault
        raise DamagedIndexError(f"{path} is damaged: Annoy cannot open it ({_reason(done.returncode, done.stderr)})")
    found = json.loads(done.stdout)
    if found["items"] != len(vectors):
        raise DamagedIndexError(f"{path} is damaged: {found['items']} items, expected {len(vectors)}")
    if found["trees"] < settings.trees:  # of a small forest Annoy counts some twice
        raise DamagedIndexError(f"{path} is damaged: {found['trees']} trees, expected {settings.trees}")
    if not np.array_equal(np.asarray(found["vectors"], np.float32), vectors[rows]):
        raise DamagedIndexError(f"{path} is damaged: it was built from other vectors")
    missed = sum(not _are_equal(vectors, row, nearest) for row, nearest in zip(rows, found["nearest"], strict=True))
    if missed > len(rows) / 2:
        raise DamagedIndexError(f"{path} is damaged: it does not find {missed} of {len(rows)} items by themselves")


def _are_equal(vectors: Embeddings, row: int, nearest: int | None) -> bool:
    """Say whether the nearest item is the item itself, or one just like it."""
    return (
        nearest is not None
        and 0 <= nearest < len(vectors)
        and float(np.linalg.norm(vectors[row] - vectors[nearest])) < 0.05
    )


def _run(task: Mapping[str, Any], folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", "-m", "imgsearch.search.backends.annoy_child", json.dumps(task)]
    try:
        return subprocess.run(
            command,
            cwd=folder,
            stdin=subprocess.DEVNULL,  # were it closed, Annoy's file would be descriptor 0, which Annoy takes for none
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(command, 1, "", f"not done in {_SECONDS} s")
    except OSError as error:
        raise MissingComponentError(f"cannot start a process: {error}") from error


def _reason(returncode: int, said: str) -> str:
    if returncode < 0:
        return f"it died of {signal.Signals(-returncode).name}"
    return (said.strip().splitlines() or ["it did not say why"])[-1]
