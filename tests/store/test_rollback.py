import json
import os
import random
import resource
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from imgsearch import Index, build_index, check, embed, rollback
from imgsearch.errors import DamagedIndexError, LockedError, NoIndexError
from imgsearch.search.backends.annoy import AnnoyBackend
from imgsearch.store import generations
from imgsearch.store.generations import read_manifest
from imgsearch.store.locking import writer_lock
from imgsearch.store.manifest import generation_folder

GOLDEN = Path(__file__).parent / "golden" / "v1"
TWICE = pytest.mark.parametrize("backend", ["exact", "annoy"])


def tree(directory: Path) -> dict[str, bytes | None]:
    """What is in an index, but for the text in its lock."""
    return {
        str(path.relative_to(directory)): path.read_bytes() if path.is_file() else None
        for path in directory.rglob("*")
        if path.name != generations.LOCK
    }


@pytest.fixture
def nights(tmp_path, small, painted):
    """An index after two nights: in the second, half of the images were replaced and one was added."""

    def make(backend: str = "exact") -> Path:
        directory = tmp_path / "index"
        build_index(small, directory, backbone="handcrafted", backend=backend)
        for number, file in enumerate(sorted(small.rglob("*.png"))[::2]):
            file.write_bytes(painted(5000 + number))
        (small / "new.png").write_bytes(painted(6000))
        return directory

    return make


# --- there and back


@TWICE
def test_rollback_returns_to_the_generation_before_and_twice_to_where_one_was(
    nights, small, photo, answers, contents, leftovers, backend
):
    directory = nights(backend)
    first = (answers(directory, photo, k=20), contents(directory))
    build_index(small, directory)
    second = (answers(directory, photo, k=20), contents(directory))
    assert second != first

    for generation in range(3, 6):
        manifest = rollback(directory)

        expected = first if generation % 2 else second
        assert (answers(directory, photo, k=20), contents(directory)) == expected
        assert manifest == read_manifest(directory)
        assert (manifest.generation, manifest.count) == (generation, len(expected[1]))
        kept = {generation_folder(generation - 1), generation_folder(generation)}
        assert {path.name for path in directory.glob("gen-*")} == kept
        assert leftovers(directory) == []
        assert check(directory, deep=True) == []


def test_the_next_build_goes_on_from_what_was_returned_to(nights, small, leftovers, contents):
    directory = nights()
    build_index(small, directory)
    newest = contents(directory)
    rollback(directory)

    report = build_index(small, directory)

    assert (report.generation, report.unchanged, report.embedded, report.published) == (4, 6, 7, True)
    assert contents(directory) == newest
    assert leftovers(directory) == []
    assert build_index(small, directory).published is False
    assert rollback(directory).count == 12


def test_settings_return_too_and_stick(nights, small):
    directory = nights("annoy")
    build_index(small, directory, backend="exact", max_bytes=10_000, seed=5)

    back = rollback(directory)
    build_index(small, directory)

    assert (back.backend.name, back.backend.seed, back.policy.max_bytes) == ("annoy", 0, 100_000_000)
    assert read_manifest(directory).has_settings_of(back)


def test_rollback_undoes_a_build_that_was_forced_to_empty_the_index(nights, small, photo, answers):
    directory = nights()
    before = answers(directory, photo)
    for file in small.rglob("*.png"):
        file.unlink()
    build_index(small, directory, force=True)
    assert answers(directory, photo) == []

    rollback(directory)

    assert answers(directory, photo) == before


@TWICE
def test_the_encoder_of_the_generation_before_is_kept_and_returned_to(
    nights, small, photo, answers, leftovers, monkeypatch, backend
):
    directory = nights(backend)
    before, old = answers(directory, photo), read_manifest(directory)
    with monkeypatch.context() as patch:
        # So that it is another encoder, though as fast as this one.
        patch.setattr("imgsearch.build.options.PIXELS_VERSION", 1000)
        build_index(small, directory)
        new = read_manifest(directory)
        after = answers(directory, photo)
        assert new.fingerprint != old.fingerprint

    for expected, manifest in ((before, old), (after, new), (before, old)):
        assert rollback(directory).fingerprint == manifest.fingerprint
        assert answers(directory, photo) == expected
        assert {path.name for path in (directory / "encoders").iterdir()} == {old.fingerprint, new.fingerprint}
        assert check(directory, deep=True) == []
    build_index(small, directory)
    build_index(small, directory, relearn=True)
    assert {path.name for path in (directory / "encoders").iterdir()} == {old.fingerprint}
    assert leftovers(directory) == []


@pytest.mark.slow
def test_rollback_returns_from_a_network_to_another_encoder_and_back(nights, small, photo, answers):
    directory = nights("annoy")
    before = answers(directory, photo)
    build_index(small, directory, backbone="efficientnet-lite0", precision="f32")
    after = answers(directory, photo)
    assert after != before

    for expected in (before, after, before, after):
        rollback(directory)
        assert answers(directory, photo) == expected
        assert check(directory, deep=True) == []


def test_an_open_index_answers_from_its_generation_while_others_are_returned_to(nights, small, photo):
    directory = nights("annoy")
    build_index(small, directory)
    with Index.open(directory) as index:
        expected = index.search(photo, k=20)
        for _ in range(3):
            rollback(directory)
        assert not (directory / index.manifest.folder).exists()

        assert index.search(photo, k=20) == expected


def test_a_damaged_index_is_mended_by_rollback(nights, small, photo, answers):
    directory = nights()
    before = answers(directory, photo)
    build_index(small, directory)
    for name in (generations.EMBEDDINGS, generations.ITEMS, generations.VECTORS):
        (directory / "gen-000002" / name).write_bytes(b"x")

    rollback(directory)

    assert answers(directory, photo) == before
    assert check(directory) == []
    assert build_index(small, directory).published
    assert check(directory, deep=True) == []


def test_what_an_interrupted_build_left_is_no_hindrance(nights, small, photo, answers):
    directory = nights()
    before = answers(directory, photo)
    build_index(small, directory)
    (directory / "gen-000003" / "deep").mkdir(parents=True)
    (directory / "gen-000003" / generations.ITEMS).write_bytes(b"half")
    (directory / f"{generations.MANIFEST}.tmp").write_text("{")
    (directory / generations.PARTIAL).write_bytes(b"")

    assert rollback(directory).generation == 3

    assert answers(directory, photo) == before
    assert sorted(path.name for path in (directory / "gen-000003").iterdir()) == [
        *(generations.EMBEDDINGS, generations.ITEMS, generations.MANIFEST, generations.VECTORS),
    ]


def test_what_embed_wrote_is_returned_to_and_its_links_follow(tmp_path, small, painted):
    directory = tmp_path / "embeddings"
    embed(small, directory, backbone="handcrafted")
    first = {name: (directory / name).read_bytes() for name in (generations.EMBEDDINGS, generations.ITEMS)}
    (small / "new.png").write_bytes(painted(6000))
    embed(small, directory)
    assert (directory / generations.EMBEDDINGS).read_bytes() != first[generations.EMBEDDINGS]

    rollback(directory)

    assert {name: (directory / name).read_bytes() for name in first} == first
    assert check(directory, deep=True) == []


def test_the_program_says_what_is_published_again_or_nothing(imgsearch, nights, small):
    directory = nights()
    build_index(small, directory)

    loud = imgsearch("rollback", "--index", directory)
    quiet = imgsearch("rollback", "--index", directory, "--quiet")

    assert (loud.returncode, loud.stdout, loud.stderr) == (0, f"{directory}: 12 images again, generation 3\n", "")
    assert (quiet.returncode, quiet.stdout, quiet.stderr) == (0, "", "")
    assert read_manifest(directory).generation == 4


# --- nothing to return to


@pytest.mark.parametrize("kind", ["nothing", "an empty folder", "a first generation", "an old index", "embeddings"])
def test_rollback_is_refused_where_there_is_nothing_to_return_to(imgsearch, tmp_path, nights, small, kind):
    directory = tmp_path / "index"
    match kind:
        case "an empty folder":
            directory.mkdir()
        case "a first generation":
            nights()
        case "an old index":
            shutil.copytree(GOLDEN / "annoy", directory)
        case "embeddings":
            embed(small, directory, backbone="handcrafted")
            build_index(directory, directory, backend="exact")
    before = tree(directory)

    done = imgsearch("rollback", "--index", directory)

    assert (done.returncode, done.stdout) == (5, ""), done.stderr
    assert done.stderr.startswith("imgsearch: ")
    assert "Traceback" not in done.stderr
    if kind == "a first generation":
        assert done.stderr == "imgsearch: nothing to roll back to: this is the first generation\n"
    assert tree(directory) == before
    assert directory.exists() == (kind != "nothing")
    assert kind != "an empty folder" or list(directory.iterdir()) == []


def test_one_cannot_return_past_an_index_that_was_made_before_rollback(tmp_path, nights, small):
    directory = nights()
    (directory / "gen-000001" / generations.MANIFEST).unlink()
    build_index(small, directory)

    with pytest.raises(NoIndexError, match="no generation 1"):
        rollback(directory)


# --- a damaged generation before

NAMES = (
    generations.MANIFEST,
    generations.EMBEDDINGS,
    generations.ITEMS,
    generations.VECTORS,
    AnnoyBackend.file,
    "spec.json",
)


def flip(path: Path) -> None:
    data = path.read_bytes()
    middle = len(data) // 2
    path.write_bytes(data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :])


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1500])


def put_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def put_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.fixture(scope="module")
def two_nights(tmp_path_factory, lay_out) -> Path:
    """An index in its second generation. Not to be changed: copy it."""
    folder = tmp_path_factory.mktemp("nights")
    catalog = lay_out(folder / "catalog", 12)
    build_index(catalog, folder / "index", backbone="handcrafted", trees=3)
    build_index(lay_out(catalog, 1, first=12), folder / "index")
    return folder / "index"


@pytest.mark.parametrize("damage", [flip, cut, Path.unlink, put_fifo, put_folder])
@pytest.mark.parametrize("name", NAMES)
def test_a_damaged_generation_before_is_not_returned_to_and_nothing_is_changed(two_nights, tmp_path, name, damage):
    directory = Path(shutil.copytree(two_nights, tmp_path / "index"))
    old = generations.read_generation(directory, 1)
    file = directory / (old.encoder_folder if name == "spec.json" else old.folder) / name
    damage(file)
    before = tree(directory)

    # To open a FIFO that nobody writes to is to wait for ever.
    previous = signal.signal(signal.SIGALRM, lambda *_: pytest.fail("it hangs"))
    signal.alarm(10)
    try:
        with pytest.raises((DamagedIndexError, NoIndexError)) as refused:
            rollback(directory)
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, previous)

    if (name, damage) == (generations.MANIFEST, Path.unlink):  # as in the first indexes of this format
        assert (refused.type, refused.value.message) == (NoIndexError, f"{directory} has no generation 1")
    else:
        assert (refused.type, str(file) in refused.value.message) == (DamagedIndexError, True)
    assert tree(directory) == before


def test_the_program_refuses_a_damaged_generation_before(imgsearch, two_nights, tmp_path):
    directory = Path(shutil.copytree(two_nights, tmp_path / "index"))
    flip(directory / "gen-000001" / generations.EMBEDDINGS)

    done = imgsearch("rollback", "--index", directory)

    assert (done.returncode, done.stdout) == (6, "")
    said, hint = done.stderr.splitlines()
    assert said.startswith(f"imgsearch: generation 1 cannot be rolled back to: {directory}/gen-000001/embeddings.npy ")
    assert hint == "  hint: nothing was changed: the index answers as before"


def test_the_copy_of_another_generations_manifest_is_damage(nights, small):
    directory = nights()
    build_index(small, directory)
    shutil.copy(directory / "gen-000002" / generations.MANIFEST, directory / "gen-000001" / generations.MANIFEST)

    with pytest.raises(DamagedIndexError, match="expected generation 1, found 2"):
        rollback(directory)


def test_a_damaged_manifest_is_not_rolled_back_over(nights, small):
    directory = nights()
    build_index(small, directory)
    (directory / generations.MANIFEST).write_text("{}")
    before = tree(directory)

    with pytest.raises(DamagedIndexError, match=r"manifest\.json is damaged"):
        rollback(directory)

    assert tree(directory) == before


# --- locked, full, killed; test_faults.py lets every call of a rollback fail


def test_rollback_during_a_build_leaves_at_once_or_waits(imgsearch, nights, small):
    directory = nights()
    build_index(small, directory)
    with writer_lock(directory):
        with pytest.raises(LockedError, match=f"pid {os.getpid()} "):
            rollback(directory)
        started = time.monotonic()
        done = imgsearch("rollback", "--index", directory, "--wait-lock", "0.5")
        waited = time.monotonic() - started
        assert (done.returncode, read_manifest(directory).generation) == (7, 2)
        assert waited >= 0.5

    waiting = subprocess.Popen(
        [sys.executable, "-m", "imgsearch", "rollback", "--index", directory, "--wait-lock", "60"]
    )
    with writer_lock(directory):
        with pytest.raises(subprocess.TimeoutExpired):
            waiting.wait(1)
        assert read_manifest(directory).generation == 2
    assert waiting.wait(60) == 0
    assert read_manifest(directory).generation == 3


def test_a_full_disk_is_an_output_error_and_nothing_is_published(nights, small, photo, answers):
    directory = nights("annoy")
    build_index(small, directory)
    before, listed = answers(directory, photo), tree(directory)

    def fill() -> None:
        # The largest file of the generation does not fit any more.
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))

    done = subprocess.run(
        [sys.executable, "-m", "imgsearch", "rollback", "--index", directory],
        preexec_fn=fill,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 11, done.stderr
    assert str(directory) in done.stderr
    assert (answers(directory, photo), tree(directory)) == (before, listed)


# It rolls back again and again, and never stops by itself.
FOR_EVER = """
import sys
from imgsearch import rollback
rollback(sys.argv[1])
print("ready", flush=True)
while True:
    rollback(sys.argv[1])
"""


@pytest.mark.parametrize("kills", [3, pytest.param(100, marks=pytest.mark.slow)])
def test_rollback_killed_at_any_moment_leaves_one_of_the_two_generations_whole(
    nights, small, photo, answers, leftovers, kills
):
    directory = nights("annoy")
    first = answers(directory, photo)
    build_index(small, directory)
    second = answers(directory, photo)
    generator = random.Random(3)
    left = []
    for _ in range(kills):
        before = read_manifest(directory).generation
        with subprocess.Popen(
            [sys.executable, "-c", FOR_EVER, directory], stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout.readline() == "ready\n"
            select.select([], [], [], generator.uniform(0, 0.05))
            process.kill()
        assert process.returncode == -signal.SIGKILL

        manifest = read_manifest(directory)
        assert manifest.generation > before
        assert manifest.count == (13 if manifest.generation % 2 == 0 else 12)
        assert answers(directory, photo) == (second if manifest.count == 13 else first)
        assert check(directory, deep=True) == []
        left += leftovers(directory)
        assert json.loads((directory / generations.MANIFEST).read_text())["generation"] == manifest.generation
    rollback(directory)
    assert leftovers(directory) == []
    assert kills < 50 or left != []  # else no kill met a rollback at work
