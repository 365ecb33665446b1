"""What the tests of an index need: small pictures, a built index to copy, and ways to look into one."""

import builtins
import errno
import io
import os
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import cv2
import numpy as np
import pytest

from imgsearch import Index, build_index
from imgsearch.index import store
from imgsearch.index.manifest import generation_folder


def painted(seed: int, side: int = 32) -> bytes:
    """A PNG of sixteen coloured fields; each seed paints another."""
    fields = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), np.uint8)
    pixels = np.kron(fields, np.ones((side // 4, side // 4, 1), np.uint8))
    return cv2.imencode(".png", pixels)[1].tobytes()


def lay_out(folder: Path, count: int, *, first: int = 0) -> Path:
    """A catalogue of painted pictures in three folders."""
    for number in range(first, first + count):
        file = folder / "abc"[number % 3] / f"{number:04d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(painted(number))
    return folder


def contents(directory: Path) -> dict[str, tuple[bytes, bytes]]:
    """Path -> (embedding, searched vector) of what is published, read without imgsearch's own readers."""
    manifest = store.read_manifest(directory)
    folder = directory / manifest.folder
    with closing(sqlite3.connect(folder / store.ITEMS)) as connection:
        connection.text_factory = os.fsdecode
        rows = connection.execute("SELECT path, row FROM items ORDER BY row").fetchall()
    embeddings, vectors = np.load(folder / store.EMBEDDINGS), np.load(folder / store.VECTORS)
    assert len(rows) == len(embeddings) == len(vectors) == manifest.count
    return {path: (embeddings[row].tobytes(), vectors[row].tobytes()) for path, row in rows}


def leftovers(directory: Path) -> list[str]:
    """What an index directory holds beyond a manifest, a lock, encoders and two generations."""
    current = store.read_manifest(directory).generation
    kept = {store.MANIFEST, store.LOCK, "encoders", *(generation_folder(current - back) for back in (0, 1))}
    return sorted(path.name for path in directory.iterdir() if path.name not in kept) + sorted(
        path.name for path in directory.rglob("*.tmp")
    )


class Faults:
    """Makes the n-th call that changes the disk fail with ENOSPC, once or from then on."""

    def __init__(self, patch: pytest.MonkeyPatch, *, at: int, for_ever: bool) -> None:
        self.calls = 0
        self._at = at
        self._for_ever = for_ever
        for name in ("fsync", "replace", "rename", "mkdir", "symlink", "truncate"):
            patch.setattr(os, name, self._failing(getattr(os, name)))
        patch.setattr(io, "open", self._failing(io.open, writes=True))
        patch.setattr(builtins, "open", self._failing(builtins.open, writes=True))

    @property
    def struck(self) -> bool:
        return self.calls >= self._at

    def _failing(self, real: Callable, *, writes: bool = False) -> Callable:
        def call(*arguments, **options):
            mode = str(options.get("mode", arguments[1] if len(arguments) > 1 else "r"))
            if not writes or (not isinstance(arguments[0], int) and set(mode) & set("wax+")):
                self.calls += 1
                if self.calls == self._at or (self._for_ever and self.calls > self._at):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return real(*arguments, **options)

        return call


@pytest.fixture(scope="session", name="painted")
def painted_fixture() -> Callable[..., bytes]:
    """Paint a picture: painted(seed) gives the bytes of a PNG."""
    return painted


@pytest.fixture(scope="session", name="lay_out")
def lay_out_fixture() -> Callable[..., Path]:
    """Paint a catalogue: lay_out(folder, count)."""
    return lay_out


@pytest.fixture(scope="session", name="contents")
def contents_fixture() -> Callable[[Path], dict[str, tuple[bytes, bytes]]]:
    """Look what an index holds."""
    return contents


@pytest.fixture(scope="session", name="leftovers")
def leftovers_fixture() -> Callable[[Path], list[str]]:
    """Look what does not belong into an index."""
    return leftovers


@pytest.fixture(scope="session")
def faults() -> type[Faults]:
    """The class of faults."""
    return Faults


@pytest.fixture
def small(tmp_path) -> Path:
    """A catalogue of twelve painted pictures that a test may change."""
    return lay_out(tmp_path / "small", 12)


@pytest.fixture(scope="session")
def built(tmp_path_factory) -> Path:
    """A catalogue of forty painted pictures with an index of each backend beside it. Not to be changed: copy it."""
    folder = tmp_path_factory.mktemp("built")
    lay_out(folder / "catalogue", 40)
    for backend in ("exact", "annoy"):
        build_index(folder / "catalogue", folder / backend, backbone="handcrafted", backend=backend, trees=8)
    return folder


@pytest.fixture
def copied(built, tmp_path) -> Callable[[str], Path]:
    """Copy one of the built indexes: copied("annoy")."""

    def copy(backend: str) -> Path:
        return Path(shutil.copytree(built / backend, tmp_path / f"copy-{backend}"))

    return copy


@pytest.fixture(scope="session")
def answers() -> Callable[..., list[tuple[str, float]]]:
    """Ask an index for the five best of a picture."""

    def ask(directory: Path, picture: Path, **options: object) -> list[tuple[str, float]]:
        with Index.open(directory) as index:
            return [(hit.path, hit.score) for hit in index.search(picture, **options)]

    return ask


@pytest.fixture(scope="session")
def photo(tmp_path_factory) -> Path:
    """A picture that no catalogue has."""
    file = tmp_path_factory.mktemp("photo") / "photo.png"
    file.write_bytes(painted(999_999))
    return file
