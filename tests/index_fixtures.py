"""What the tests of an index need: small images, a built index to copy, and ways to look into one."""

import json
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from imgsearch import Index, build_index, check
from imgsearch.errors import NoIndexError
from imgsearch.store import generations
from imgsearch.store.conditions import Conditions
from imgsearch.store.items import Items
from imgsearch.store.manifest import generation_folder
from remembered import building_here, making_files_here


@pytest.fixture(scope="module")
def quick_builds():
    """Let builds of a file of tests decode in this process, and describe each image once."""
    with building_here():
        yield


@pytest.fixture(scope="module")
def quick_preprocessing():
    """Let `preprocess` make its files in this process."""
    with making_files_here():
        yield


def painted(seed: int, side: int = 32) -> bytes:
    """A PNG of sixteen colored fields; each seed paints another."""
    fields = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), np.uint8)
    pixels = np.kron(fields, np.ones((side // 4, side // 4, 1), np.uint8))
    return cv2.imencode(".png", pixels)[1].tobytes()


def lay_out(folder: Path, count: int, *, first: int = 0) -> Path:
    """A catalog of painted images in three folders."""
    for number in range(first, first + count):
        file = folder / "abc"[number % 3] / f"{number:04d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(painted(number))
    return folder


def contents(directory: Path) -> dict[str, tuple[bytes, bytes]]:
    """Path -> (embedding, searched vector) of what is published, read without imgsearch's own readers."""
    manifest = generations.read_manifest(directory)
    folder = directory / manifest.folder
    with closing(sqlite3.connect(folder / generations.ITEMS)) as connection:
        connection.text_factory = os.fsdecode
        rows = connection.execute("SELECT path, row FROM items ORDER BY row").fetchall()
    embeddings = np.load(folder / generations.EMBEDDINGS)
    vectors = np.load(folder / generations.VECTORS) if manifest.backend else embeddings
    assert len(rows) == len(embeddings) == len(vectors) == manifest.count
    return {path: (embeddings[row].tobytes(), vectors[row].tobytes()) for path, row in rows}


def rows_where(items: Items, expression: str) -> list[int]:
    """The rows of the items that an expression selects."""
    return items.selector.rows(Conditions(where=expression))


def leftovers(directory: Path) -> list[str]:
    """What an index directory holds beyond a manifest, a lock, encoders, two generations and links into the last."""
    manifest = generations.read_manifest(directory)
    kept = {generations.MANIFEST, generations.LOCK, "encoders"}
    kept |= {generation_folder(manifest.generation - back) for back in (0, 1)}
    if manifest.backend is None:
        kept |= {
            name
            for name in (generations.EMBEDDINGS, generations.ITEMS)
            if (directory / name).is_symlink() and str((directory / name).readlink()) == f"{manifest.folder}/{name}"
        }
    return sorted(path.name for path in directory.iterdir() if path.name not in kept) + sorted(
        path.name for path in directory.rglob("*.tmp")
    )


@pytest.fixture(scope="session", name="painted")
def painted_fixture() -> Callable[..., bytes]:
    """Paint an image: painted(seed) gives the bytes of a PNG."""
    return painted


@pytest.fixture(scope="session", name="lay_out")
def lay_out_fixture() -> Callable[..., Path]:
    """Paint a catalog: lay_out(folder, count)."""
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
def figure() -> Callable[[str, object], object]:
    """Say how much a test has tried: figure("faults", 700). `pytest -rP` shows it."""
    return lambda name, number: sys.stdout.write(f"{name}: {number}\n")


@pytest.fixture
def small(tmp_path) -> Path:
    """A catalog of twelve painted images that a test may change."""
    return lay_out(tmp_path / "small", 12)


@pytest.fixture(scope="session")
def built(shared) -> Path:
    """A catalog of forty painted images with an index of each backend beside it. Not to be changed: copy it."""

    def fill(folder: Path) -> None:
        lay_out(folder / "catalog", 40)
        for backend in ("exact", "annoy"):
            trees = {"trees": 8} if backend == "annoy" else {}
            build_index(folder / "catalog", folder / backend, backbone="handcrafted", backend=backend, **trees)

    return shared("built", fill)


@pytest.fixture(scope="session")
def large(shared) -> Path:
    """A catalog of two hundred images with a good index. Not to be changed: copy it."""

    def fill(folder: Path) -> None:
        lay_out(folder / "catalog", 200)
        build_index(folder / "catalog", folder / "index", backbone="handcrafted", backend="annoy", trees=5)

    return shared("large", fill)


@pytest.fixture
def work(large, tmp_path) -> Path:
    """The large catalog and its index, to be changed."""
    shutil.copytree(large, tmp_path / "work")
    build_index(tmp_path / "work/catalog", tmp_path / "work/index")  # it has moved
    return tmp_path / "work"


@pytest.fixture
def copied(built, tmp_path) -> Callable[[str], Path]:
    """Copy one of the built indexes: copied("annoy")."""

    def copy(backend: str) -> Path:
        return Path(shutil.copytree(built / backend, tmp_path / f"copy-{backend}"))

    return copy


@pytest.fixture(scope="session")
def answers() -> Callable[..., list[tuple[str, float]]]:
    """Ask an index for the five best of an image."""

    def ask(directory: Path, image: Path, **options: object) -> list[tuple[str, float]]:
        with Index.open(directory) as index:
            return [(hit.path, hit.score) for hit in index.search(image, **options)]

    return ask


@pytest.fixture(scope="session")
def photo(tmp_path_factory) -> Path:
    """An image that no catalog has."""
    file = tmp_path_factory.mktemp("photo") / "photo.png"
    file.write_bytes(painted(999_999))
    return file


def unpublished(directory: Path) -> list[str]:
    """What a build that failed has left of a generation, or of a file it was about to rename."""
    published = generations.published(directory)
    last = published.generation if published else 0
    folders = [folder.name for folder in directory.glob("gen-*") if int(folder.name[4:]) > last]
    return folders + [path.name for path in directory.rglob("*.tmp")]


@pytest.fixture(scope="session", name="unpublished")
def unpublished_fixture() -> Callable[[Path], list[str]]:
    """Look what a build that failed has left."""
    return unpublished


EncodedImage = Callable[[Path], tuple[list[str], object, object]]


@pytest.fixture(scope="session")
def look(photo, answers) -> EncodedImage:
    """Look what an index says of itself, what it answers, and what it holds; three times nothing where none is."""

    def look(directory: Path) -> tuple[list[str], object, object]:
        try:
            found = [f"{finding.file}: {finding.problem}" for finding in check(directory)]
        except NoIndexError:
            return [], None, None
        if found:
            return found, None, None
        searchable = generations.read_manifest(directory).backend
        return [], answers(directory, photo, k=50) if searchable else None, contents(directory)

    return look


# --- builds on a disk that fails


@pytest.fixture(scope="session")
def memory_disk(tmp_path_factory) -> Iterator[Path]:
    """A folder on a disk that is memory, where there is one: thousands of indexes are written to it."""
    shared = Path("/dev/shm")
    if os.access(shared, os.W_OK) and shutil.disk_usage(shared).free > 1_000_000_000:
        with tempfile.TemporaryDirectory(dir=shared) as folder:
            yield Path(folder)
    else:
        yield tmp_path_factory.mktemp("disk")


Disturbed = Callable[..., dict[str, Any]]


@contextmanager
def faulty_process(*before: object) -> Iterator[tuple[int, Disturbed]]:
    """Start `faulty.py`, by another program if one is given; yields its number and a way to give it tasks."""
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = str(Path(__file__).parent)
    command = [*map(str, before), sys.executable, str(Path(__file__).parent / "build" / "faulty.py")]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:

        def run(do: str, home: Path, *arguments: object, options: dict[str, Any] | None = None, **wrong: object) -> Any:
            task = {"do": do, "home": str(home), "arguments": list(map(str, arguments)), "options": options or {}}
            process.stdin.write(json.dumps(task | wrong) + "\n")
            process.stdin.flush()
            return json.loads(process.stdout.readline())

        yield process.pid, run


@pytest.fixture(scope="session")
def disturbed() -> Iterator[Disturbed]:
    """Do something to an index while something goes wrong: disturbed(do, home, *arguments, **wrong).

    See `faulty.py`. `do` is a function as `module:name`, `home` the folder it is done in, the rest what `Task` says.
    """
    with faulty_process() as (_, run):
        yield run


@dataclass(frozen=True)
class SmallDisk:
    """A small disk of memory, and a process that sees it.

    Attributes:
        inside: Its name for that process.
        outside: Its name for others. SQLite cannot use it: copy what is to be looked at.
        disturbed: As the fixture, for that process.
        resize: Makes it larger, smaller, or read-only: resize(bytes, "ro").
    """

    inside: Path
    outside: Path
    disturbed: Disturbed
    resize: Callable[..., None]


@pytest.fixture(scope="session")
def small_disk(tmp_path_factory) -> Iterator[SmallDisk]:
    """Mount a disk that only one process and its children see, so that nothing is left of it after them."""
    disk = tmp_path_factory.mktemp("disk")
    alone = ("unshare", "--user", "--map-root-user", "--mount")
    mount = ("sh", "-c", 'mount -t tmpfs -o size=64m none "$0" && exec "$@"', disk)
    if shutil.which("unshare") is None or subprocess.run([*alone, *mount, "true"], check=False).returncode:
        pytest.skip("this machine does not let us mount a disk of our own")
    with faulty_process(*alone, *mount) as (number, run):

        def resize(size: int, how: str = "rw") -> None:
            done = run("faulty:resize", disk.parent, disk, size, how)
            assert "error" not in done, done["traceback"]

        resize(64 << 20)  # which is answered when the disk is mounted
        yield SmallDisk(disk, Path(f"/proc/{number}/root{disk}"), run, resize)


@dataclass(frozen=True)
class Scene:
    """Something that is done to an index.

    Attributes:
        start: A folder that holds `index`, if there is one before, and `cache`. Not to be changed: copy it.
        do: What is done, for `disturbed`.
        again: What brings the index up to date afterwards.
        before: What `look` says at first.
        after: What it says when all went well.
        final: What it says when it is up to date.
    """

    start: Path
    do: tuple[str, ...]
    again: tuple[str, ...]
    options: dict[str, Any] = field(default_factory=dict)
    before: object = None
    after: object = None
    final: object = None


BUILD, EMBED, ROLLBACK = "imgsearch:build_index", "imgsearch:embed", "imgsearch:rollback"


def change(catalog: Path) -> None:
    """Two images more, one less, one changed, one renamed, and one that is none."""
    lay_out(catalog, 2, first=500)
    (catalog / "a" / "0003.png").unlink()
    (catalog / "b" / "0004.png").write_bytes(painted(600))
    (catalog / "c" / "0005.png").rename(catalog / "c" / "renamed.png")
    (catalog / "c" / "empty.png").touch()


@pytest.fixture(scope="session")
def scene(memory_disk, disturbed, look) -> Callable[[str], Scene]:
    """Set a scene, once: scene("update")."""
    scenes: dict[str, Scene] = {}

    def prepare(name: str) -> Scene:
        folder = memory_disk / "scenes" / name
        catalog, home = lay_out(folder / "catalog", 12), folder / "home"
        home.mkdir()
        exact = name in ("index of embeddings", "mending")
        search = {"backend": "exact"} if exact else {} if name == "embed" else {"trees": 3}
        options = {"backbone": "handcrafted"} | search
        first = BUILD if name != "embed" else EMBED
        build, embeddings = (first, str(catalog), "index"), (BUILD, str(folder / "source/index"), "index")

        def done(*do: str, home: Path = home, options: dict[str, Any] | None = None) -> None:
            answer = disturbed(do[0], home, *do[1:], options=options)
            assert (answer["code"], answer.get("error")) == (0, None), answer

        def embed_elsewhere() -> None:
            (folder / "source").mkdir(exist_ok=True)
            done(EMBED, str(catalog), "index", home=folder / "source", options={"backbone": "handcrafted"})

        if name == "first build":
            shutil.rmtree(home)
            home.mkdir()
            made = Scene(home, build, build, options)
        elif name == "index of embeddings":
            embed_elsewhere()
            done(*embeddings, options=search)
            change(catalog)
            embed_elsewhere()
            made = Scene(home, embeddings, embeddings)
        else:
            done(*build, options=options)
            lay_out(catalog, 2, first=400)
            done(*build)
            made = Scene(home, build, build)
            if name == "rollback":
                made = Scene(home, (ROLLBACK, "index"), build)
            elif name == "mending":
                manifest = generations.read_manifest(home / "index")
                (home / "index" / manifest.folder / generations.VECTORS).unlink()
                (home / "index" / manifest.encoder_folder / "spec.json").write_text("garbage")
            else:
                change(catalog)
        before = look(home / "index")
        copy = Path(shutil.copytree(home, folder / "copy", symlinks=True))
        done(*made.do, home=copy, options=made.options)
        after = look(copy / "index")
        done(*made.again, home=copy)
        return Scene(home, made.do, made.again, made.options, before, after, look(copy / "index"))

    def get(name: str) -> Scene:
        if name not in scenes:
            scenes[name] = prepare(name)
        return scenes[name]

    return get
