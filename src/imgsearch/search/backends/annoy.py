"""Annoy: a forest of random projections.

Compiled for another processor it dies of SIGILL, and a damaged file, which has no checksum, crashes the process. So
before a build relies on Annoy it is tried, and a forest is opened by another process (`annoy_child`).
"""

import itertools
import json
import os
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from imgsearch.encoders.runtime import Embeddings
from imgsearch.encoders.vectors import Vectors
from imgsearch.errors import DamagedIndexError, MissingComponentError
from imgsearch.files import open_regular, reading, sync
from imgsearch.search.backends.protocol import Rows, require_mappable, utf8_name
from imgsearch.store.arrays import blocks_of
from imgsearch.store.integrity import repair_hint
from imgsearch.store.search_settings import BackendSettings, Numbers, SearchOptions
from imgsearch.system import refusal_of

if TYPE_CHECKING:
    from subprocess import CompletedProcess

# How many candidates a search asks for, for k results.
CANDIDATES_FOR_EACH = 2
MORE_CANDIDATES = 10
# Nodes that are visited for each of the k results, if that is more than what was tuned for ten.
NODES_FOR_EACH = 40

# Below this nothing is saved: a search takes a quarter of a millisecond.
MIN_SEARCH_K = 2000
_STEP = 2**0.5
# Forests that are tried. It is search_k that decides what is found, hardly the number of trees, which takes memory.
FORESTS = (10, 20, 40)

# A forest with flipped bits may send Annoy round in circles.
_SECONDS = 120
_SAMPLE = 20


class AnnoyBackend:
    """Searches a forest; see `Backend`."""

    name = "annoy"
    file = "annoy.ann"
    numbers: Numbers = "float32"

    def ensure_available(self, *, by_fork: bool = False) -> None:
        if by_fork:
            from imgsearch.search.backends.annoy_child import returncode_of_fork

            try:
                returncode, said = returncode_of_fork(), ""
            except OSError as error:
                raise refusal_of(error) or _no_process(error) from error
        else:
            done = _run({})
            returncode, said = done.returncode, done.stderr
        if returncode:
            raise MissingComponentError(
                f"Annoy does not run on this machine: {_reason(returncode, said)}",
                hint="use --backend exact, or compile it here: pip install --force-reinstall --no-cache-dir annoy",
            )

    def estimated_bytes(self, count: int, vector_bytes: int, options: SearchOptions) -> int:
        return count * (vector_bytes + 20 * (options.trees or max(FORESTS)))  # measured: 16 bytes a tree and item

    def trials(self, options: SearchOptions, count: int) -> Sequence[BackendSettings]:  # noqa: ARG002
        forests = (options.trees,) if options.trees else FORESTS
        return [BackendSettings(self.name, trees, options.seed, MIN_SEARCH_K) for trees in forests]

    def build(self, folder: Path, vectors: Vectors, settings: BackendSettings) -> None:
        from annoy import AnnoyIndex

        forest = AnnoyIndex(vectors.shape[1], "angular")
        forest.set_seed(settings.seed)
        for row, vector in enumerate(itertools.chain.from_iterable(blocks_of(vectors))):
            forest.add_item(row, vector)
        forest.build(settings.trees, n_jobs=1)  # with more threads two builds differ
        with utf8_name(folder) as name:
            forest.save(f"{name}/{self.file}")
        sync(folder / self.file)

    def take_over(
        self,
        folder: Path,
        vectors: Vectors,
        settings: BackendSettings,
        before: Path,  # noqa: ARG002
        new_rows: Rows,  # noqa: ARG002
    ) -> bool:
        # Annoy adds nothing to a forest that is built. Another of as many trees finds as much with the same effort:
        # to try forests and efforts, and to compare with every vector, takes several times as long as to plant it.
        self.build(folder, vectors, settings)
        return True

    def check(self, folder: Path, vectors: Vectors, settings: BackendSettings) -> None:
        path = folder / self.file
        require_mappable(path)
        rows = np.unique(np.linspace(0, len(vectors) - 1, _SAMPLE).astype(int)).tolist()
        # Its folder is where the process runs: Annoy takes no name that is not UTF-8.
        task = {"file": self.file, "dims": vectors.shape[1], "rows": rows, "search_k": settings.search_k}
        done = _run(task, folder)
        if done.returncode:
            self.ensure_available()  # if it does not run here at all, the file is not at fault
            reason = _reason(done.returncode, done.stderr)
            raise DamagedIndexError(f"{path} is damaged: Annoy cannot open it ({reason})")
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

    def open(self, folder: Path, vectors: Vectors, settings: BackendSettings) -> "AnnoyCandidates":
        return AnnoyCandidates(folder / self.file, len(vectors), vectors.shape[1], settings.search_k)

    def efforts(self, settings: BackendSettings, count: int) -> Iterator[int]:
        search_k = MIN_SEARCH_K
        while search_k < count * settings.trees:
            yield search_k
            search_k = round(search_k * _STEP)
        yield search_k

    def effort_range(self, settings: BackendSettings, k: int, count: int) -> tuple[int, int]:  # noqa: ARG002
        return NODES_FOR_EACH * k, sys.maxsize

    def describe(self, settings: BackendSettings) -> str:
        return f"annoy, {settings.trees} trees, search_k {settings.search_k}, seed {settings.seed}"


class AnnoyCandidates:
    """A forest of `count` vectors, mapped; a search visits `search_k` of its nodes at least."""

    def __init__(self, path: Path, count: int, dims: int, search_k: int) -> None:
        # Imported where it is used: a processor that cannot run it still searches with `exact`.
        from annoy import AnnoyIndex

        require_mappable(path)
        self._search_k = search_k
        self._forest = AnnoyIndex(dims, "angular")
        # By its descriptor: Annoy takes no name that is not UTF-8, and says on standard error if there is no such file,
        # which a newer generation may have swept by now.
        with reading(path, repair_hint(path.name)), open_regular(path) as file:
            try:
                self._forest.load(f"/proc/self/fd/{file.fileno()}")
            except OSError as error:
                raise DamagedIndexError(f"{path} is damaged: {error}") from error
        if self._forest.get_n_items() != count:
            raise DamagedIndexError(f"{path} is damaged: {self._forest.get_n_items()} items, expected {count}")

    def candidates(self, vector: Embeddings, k: int) -> Rows:
        wanted = CANDIDATES_FOR_EACH * k + MORE_CANDIDATES
        search_k = max(self._search_k, NODES_FOR_EACH * k)
        return np.asarray(self._forest.get_nns_by_vector(vector, wanted, search_k), np.int64)


def _are_equal(vectors: Vectors, row: int, nearest: int | None) -> bool:
    """Whether the nearest item is the item itself, or one just like it."""
    if nearest is None or not 0 <= nearest < len(vectors):
        return False
    return float(np.linalg.norm(vectors[row] - vectors[nearest])) < 0.05


def _run(task: Mapping[str, Any], folder: Path | None = None) -> "CompletedProcess[str]":
    import subprocess

    # As a file, not as a module: what the package imports would take longer than the task.
    command = [sys.executable, "-P", os.fspath(Path(__file__).with_name("annoy_child.py")), json.dumps(task)]
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
        raise refusal_of(error) or _no_process(error) from error


def _no_process(error: OSError) -> MissingComponentError:
    return MissingComponentError(
        f"no process can be started, in which Annoy is tried: {error.strerror}",
        hint="go without Annoy: query --exact, build-index --backend exact",
    )


def _reason(returncode: int, said: str) -> str:
    if returncode < 0:
        return f"it died of {signal.Signals(-returncode).name}"
    return (said.strip().splitlines() or ["it did not say why"])[-1]
