import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing

import numpy as np
import pytest

from imgsearch import Index, build_index
from imgsearch.encoders import runtime
from imgsearch.errors import ImgsearchError, NoIndexError, OutputError
from imgsearch.index import pipeline, store
from imgsearch.index.manifest import generation_folder
from imgsearch.index.store import read_manifest

PICTURES = 200


@pytest.fixture(scope="module")
def large(tmp_path_factory, lay_out):
    """A catalogue of two hundred pictures with a good index. Not to be changed: copy it."""
    folder = tmp_path_factory.mktemp("large")
    lay_out(folder / "catalogue", PICTURES)
    build_index(folder / "catalogue", folder / "index", backbone="handcrafted", backend="annoy", trees=5)
    return folder


@pytest.fixture
def work(large, tmp_path):
    """The large catalogue and its index, to be changed."""
    shutil.copytree(large, tmp_path / "work")
    build_index(tmp_path / "work/catalogue", tmp_path / "work/index")  # it has moved
    return tmp_path / "work"


@pytest.fixture
def given_to_encoder(monkeypatch):
    """Count the pictures that are given to the encoder; `stop_after` interrupts it after so many batches."""

    class Count:
        pictures = 0
        stop_after: int | None = None

    count = Count()
    real = runtime.HandcraftedEncoder.encode_stream

    def counting(encoder, batches):
        for number, rows in enumerate(real(encoder, batches)):
            if number == count.stop_after:
                raise KeyboardInterrupt
            count.pictures += len(rows)
            yield rows

    monkeypatch.setattr(runtime.HandcraftedEncoder, "encode_stream", counting)
    return count


def fresh(catalogue, directory, contents):
    build_index(catalogue, directory, backbone="handcrafted", backend="exact")
    return contents(directory)


def embeddings_of(read):
    return {path: embedding for path, (embedding, _) in read.items()}


# --- killed


def test_a_build_killed_at_any_moment_leaves_the_old_or_the_new_index_and_no_litter(
    work, lay_out, painted, photo, answers, contents, leftovers
):
    catalogue, directory = work / "catalogue", work / "index"
    command = [sys.executable, "-m", "imgsearch", "build-index", catalogue, "--index", directory]
    generator = random.Random(1)
    started = time.monotonic()
    subprocess.run(command, check=True, capture_output=True)
    idle = time.monotonic() - started
    kills = 0
    for round_ in range(15):
        before = (read_manifest(directory), answers(directory, photo, k=20), embeddings_of(contents(directory)))
        lay_out(catalogue, 60, first=1000 * (round_ + 1))
        for file in sorted(catalogue.rglob("*.png"))[:60]:
            file.unlink()  # the catalogue stays as large as it is
        with subprocess.Popen(
            [*command, "--backbone", "handcrafted"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as process:
            try:
                # Early ones fall into the start, late ones into publishing or after the end.
                process.wait(idle * (0.2 + 2.5 * (round_ + generator.random()) / 15))
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                kills += 1
            process.wait()

        manifest, answer = read_manifest(directory), answers(directory, photo, k=20)
        if manifest == before[0]:
            assert answer == before[1]
            assert embeddings_of(contents(directory)) == before[2]
        else:
            assert manifest.generation == before[0].generation + 1
            assert set(contents(directory)) == paths(catalogue)
        report = build_index(catalogue, directory)
        assert report.count == len(paths(catalogue))
        assert leftovers(directory) == []
        assert set(contents(directory)) == paths(catalogue)
    assert embeddings_of(contents(directory)) == embeddings_of(fresh(catalogue, work / "fresh", contents))
    assert kills >= 1


def paths(catalogue):
    return {file.relative_to(catalogue).as_posix() for file in catalogue.rglob("*.png")}


def test_a_first_build_that_is_killed_leaves_no_index_and_the_next_goes_on(work, tmp_path, contents, leftovers):
    directory = tmp_path / "first"
    command = [sys.executable, "-m", "imgsearch", "build-index", work / "catalogue", "--index", directory]
    with subprocess.Popen([*command, "--backbone", "handcrafted"], stderr=subprocess.DEVNULL) as process:
        while not (directory / store.PARTIAL).exists() and process.poll() is None:
            time.sleep(0.01)
        process.kill()

    if process.returncode != -signal.SIGKILL:
        pytest.skip("the build was done before it could be killed")
    with pytest.raises(NoIndexError):
        Index.open(directory)
    report = build_index(work / "catalogue", directory, backbone="handcrafted", backend="exact")
    assert (report.count, leftovers(directory)) == (PICTURES, [])
    assert embeddings_of(contents(directory)) == embeddings_of(contents(work / "index"))


# --- interrupted, and gone on with


@pytest.fixture
def interrupted(work, given_to_encoder, tmp_path):
    """A first build that was interrupted after four batches."""
    given_to_encoder.stop_after = 4
    with pytest.raises(KeyboardInterrupt):
        build_index(work / "catalogue", tmp_path / "partly", backbone="handcrafted", backend="exact")
    assert given_to_encoder.pictures == 4 * runtime.HandcraftedEncoder.batch_size
    given_to_encoder.stop_after = None
    given_to_encoder.pictures = 0
    return tmp_path / "partly"


def test_an_interrupted_build_goes_on_where_it_was(work, interrupted, given_to_encoder, contents, leftovers):
    assert (interrupted / store.PARTIAL).exists()

    report = build_index(work / "catalogue", interrupted, backbone="handcrafted", backend="exact")

    done_before = 4 * runtime.HandcraftedEncoder.batch_size
    again = given_to_encoder.pictures - (PICTURES - done_before)
    assert 0 <= again <= pipeline.COMMIT_PICTURES + runtime.HandcraftedEncoder.batch_size
    assert (report.embedded, report.renamed, report.published) == (PICTURES, 0, True)
    assert leftovers(interrupted) == []
    assert embeddings_of(contents(interrupted)) == embeddings_of(contents(work / "index"))


def test_a_build_that_is_interrupted_time_and_again_comes_to_its_end(work, given_to_encoder, tmp_path, contents):
    given_to_encoder.stop_after = 1
    for _ in range(20):
        try:
            report = build_index(work / "catalogue", tmp_path / "partly", backbone="handcrafted", backend="exact")
        except KeyboardInterrupt:
            continue
        break

    assert report.published
    assert given_to_encoder.pictures == PICTURES
    assert embeddings_of(contents(tmp_path / "partly")) == embeddings_of(contents(work / "index"))


def test_an_interrupted_update_is_not_seen_by_readers_and_goes_on(
    work, lay_out, given_to_encoder, photo, answers, leftovers
):
    catalogue, directory = work / "catalogue", work / "index"
    before = answers(directory, photo)
    lay_out(catalogue, 100, first=5000)
    given_to_encoder.stop_after = 2
    with pytest.raises(KeyboardInterrupt):
        build_index(catalogue, directory)
    assert answers(directory, photo) == before
    given_to_encoder.stop_after, given_to_encoder.pictures = None, 0

    report = build_index(catalogue, directory)

    assert (report.embedded, report.unchanged) == (100, PICTURES)
    assert given_to_encoder.pictures == 100 - 2 * runtime.HandcraftedEncoder.batch_size
    assert leftovers(directory) == []


def test_what_an_interrupted_build_left_is_swept_though_nothing_has_changed_any_more(
    work, lay_out, given_to_encoder, leftovers
):
    catalogue, directory = work / "catalogue", work / "index"
    lay_out(catalogue, 60, first=5000)
    given_to_encoder.stop_after = 1
    with pytest.raises(KeyboardInterrupt):
        build_index(catalogue, directory)
    (directory / generation_folder(read_manifest(directory).generation + 1)).mkdir()
    for file in catalogue.rglob("50[0-9][0-9].png"):
        file.unlink()

    assert build_index(catalogue, directory).published is False
    assert leftovers(directory) == []


# --- a work file that is damaged, or another's


def change(directory, statement, *parameters):
    with closing(sqlite3.connect(directory / store.PARTIAL)) as connection:
        connection.execute(statement, parameters)
        connection.commit()


@pytest.mark.parametrize(
    ("damage", "begun_anew"),
    [
        (lambda folder: (folder / store.PARTIAL).write_bytes(b""), True),
        (lambda folder: (folder / store.PARTIAL).write_bytes(b"garbage" * 1000), True),
        (lambda folder: cut(folder / store.PARTIAL, 5000), True),
        (lambda folder: cut(folder / store.PARTIAL, 100_000), True),
        (lambda folder: change(folder, "UPDATE encoder SET fingerprint = 'another'"), True),
        (lambda folder: change(folder, "DELETE FROM encoder"), True),
        (lambda folder: change(folder, "DROP TABLE vectors"), True),
        (lambda folder: change(folder, "ALTER TABLE vectors RENAME COLUMN vector TO v"), True),
        (lambda folder: change(folder, "UPDATE vectors SET vector = x'0000'"), True),
        (lambda folder: change(folder, "UPDATE vectors SET vector = ?", bytes(2560)), True),
        (lambda folder: change(folder, "UPDATE vectors SET vector = ?", np.ones(640, "<f4").tobytes()), True),
        (lambda folder: change(folder, "UPDATE vectors SET vector = ?", np.full(640, np.nan, "<f4").tobytes()), True),
        (lambda folder: change(folder, "UPDATE vectors SET resumed = 1"), False),
        (lambda folder: (folder / (store.PARTIAL + "-journal")).write_bytes(b"garbage" * 100), False),
    ],
    ids=[
        *("emptied", "garbage", "cut early", "cut late", "another encoder", "no encoder", "no vectors", "other column"),
        *("too short", "zeros", "too long a vector", "not a number", "resumed twice", "odd journal"),
    ],
)
def test_a_damaged_work_file_costs_its_vectors_and_never_a_wrong_one(
    work, interrupted, given_to_encoder, contents, leftovers, damage, begun_anew
):
    damage(interrupted)

    report = build_index(work / "catalogue", interrupted, backbone="handcrafted", backend="exact")

    assert (report.embedded, leftovers(interrupted)) == (PICTURES, [])
    assert (given_to_encoder.pictures == PICTURES) == begun_anew
    assert embeddings_of(contents(interrupted)) == embeddings_of(contents(work / "index"))


def cut(file, size):
    file.write_bytes(file.read_bytes()[:size])


@pytest.mark.parametrize("value", ["x" * 2560, 5, 0.5], ids=["text", "number", "fraction"])
def test_vectors_that_are_no_bytes_are_forgotten(work, interrupted, contents, value):
    change(interrupted, "UPDATE vectors SET vector = ?", value)

    build_index(work / "catalogue", interrupted, backbone="handcrafted", backend="exact")

    assert embeddings_of(contents(interrupted)) == embeddings_of(contents(work / "index"))


def test_a_work_file_with_any_page_damaged_does_not_stop_builds_for_ever(work, interrupted, contents):
    whole = (interrupted / store.PARTIAL).read_bytes()
    pages = len(whole) // 4096
    generator = np.random.default_rng(0)
    failures = []
    for page in sorted({*range(7), *generator.choice(pages, 3).tolist(), pages - 1}):
        shutil.rmtree(interrupted)
        interrupted.mkdir()
        damaged = whole[: page * 4096] + generator.bytes(4096) + whole[(page + 1) * 4096 :]
        (interrupted / store.PARTIAL).write_bytes(damaged)
        try:
            build_index(work / "catalogue", interrupted, backbone="handcrafted", backend="exact")
        except Exception as error:  # noqa: BLE001  # any kind is what this looks for
            failures.append((page, repr(error)))
            continue
        if embeddings_of(contents(interrupted)) != embeddings_of(contents(work / "index")):
            failures.append((page, "wrong vectors"))

    assert failures == []


FULL = """
import resource, signal, sys
from imgsearch import build_index
from imgsearch.errors import OutputError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
try:
    build_index(sys.argv[1], sys.argv[2], backbone="handcrafted", backend="exact")
except OutputError as error:
    sys.exit(error.exit_code)
"""


def test_a_disk_that_is_full_at_the_start_does_not_cost_what_an_interrupted_build_has_done(
    work, interrupted, given_to_encoder
):
    done = subprocess.run(
        [sys.executable, "-c", FULL, work / "catalogue", interrupted], check=False, capture_output=True, text=True
    )
    assert done.returncode == OutputError.exit_code, done.stderr

    build_index(work / "catalogue", interrupted, backbone="handcrafted", backend="exact")

    assert given_to_encoder.pictures == PICTURES - 4 * runtime.HandcraftedEncoder.batch_size


# --- write errors


@pytest.mark.parametrize(("backend", "for_ever"), [("exact", False), ("annoy", True)], ids=["once", "for ever"])
def test_a_write_that_fails_at_any_point_leaves_an_index_that_answers(
    built, tmp_path, lay_out, photo, answers, contents, leftovers, faults, for_ever, backend
):
    catalogue, directory = tmp_path / "catalogue", tmp_path / "index"
    shutil.copytree(built / "catalogue", catalogue)
    build_index(catalogue, directory, backbone="handcrafted", backend=backend, trees=3)
    lay_out(catalogue, 2, first=900)
    expected = fresh(catalogue, tmp_path / "fresh", contents)
    old = answers(directory, photo, k=50)
    shutil.copytree(directory, tmp_path / "kept")
    new = None
    for at in range(1, 200):
        shutil.rmtree(directory)
        shutil.copytree(tmp_path / "kept", directory)
        with pytest.MonkeyPatch.context() as patch:
            fault = faults(patch, at=at, for_ever=for_ever)
            try:
                build_index(catalogue, directory)
            except ImgsearchError as error:
                assert isinstance(error, OutputError), error  # noqa: PT017  # a build that passes ends the loop
                assert str(directory) in error.message  # noqa: PT017
            else:
                if not fault.struck:
                    break
        answer = answers(directory, photo, k=50)
        if read_manifest(directory).generation == 1:
            assert answer == old
        else:
            # The fault struck after the commit: what is published is whole.
            new = new or answer
            assert answer == new
            assert contents(directory) == expected

        build_index(catalogue, directory)
        assert contents(directory) == expected
        assert leftovers(directory) == []
    assert 10 < at < 199


def test_a_first_build_that_cannot_be_written_leaves_no_index(built, tmp_path, faults):
    for at in range(1, 200):
        shutil.rmtree(tmp_path / "index", ignore_errors=True)
        with pytest.MonkeyPatch.context() as patch:
            fault = faults(patch, at=at, for_ever=True)
            try:
                build_index(built / "catalogue", tmp_path / "index", backbone="handcrafted", backend="exact")
            except ImgsearchError as error:
                assert isinstance(error, OutputError), error  # noqa: PT017  # a build that passes ends the loop
            else:
                assert not fault.struck
                break
        if (tmp_path / "index" / store.MANIFEST).exists():
            with Index.open(tmp_path / "index") as index:
                assert len(index) == 40
    assert 10 < at < 199


def test_a_disk_that_fills_while_the_forest_is_written_is_an_output_error(built, tmp_path, photo, answers):
    catalogue, directory = tmp_path / "catalogue", tmp_path / "index"
    shutil.copytree(built / "catalogue", catalogue)
    build_index(catalogue, directory, backbone="handcrafted", backend="exact")
    before = answers(directory, photo)
    # The forest of ten thousand trees is the only file over the limit.
    script = FULL.replace("(1000,", "(400_000,").replace('backend="exact"', 'backend="annoy", trees=10_000')

    done = subprocess.run([sys.executable, "-c", script, catalogue, directory], check=False, capture_output=True)

    assert done.returncode == OutputError.exit_code, done.stderr
    assert answers(directory, photo) == before
    assert build_index(catalogue, directory).published is False


# --- readers

READ = """
import select, sys
from imgsearch import Index
directory, known, unknown = sys.argv[1:]
seen, count = set(), 0
print("reading", flush=True)
while True:
    with Index.open(directory) as index:
        assert index.search(known)[0].path == "a/0003.png"
        hits = index.search(unknown, k=50)
        assert len(hits) == len(index), (len(hits), len(index))
        seen.add(index.manifest.generation)
        count += 1
    if select.select([sys.stdin], [], [], 0)[0]:
        break
print(count, *sorted(seen))
"""


@pytest.mark.parametrize("backend", ["exact", "annoy"])
def test_no_reader_fails_while_the_index_is_rebuilt_ten_times(built, tmp_path, painted, photo, backend):
    catalogue, directory = tmp_path / "catalogue", tmp_path / "index"
    shutil.copytree(built / "catalogue", catalogue)
    build_index(catalogue, directory, backbone="handcrafted", backend=backend, trees=3)
    with subprocess.Popen(
        [sys.executable, "-c", READ, directory, catalogue / "a/0003.png", photo],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as reader:
        assert reader.stdout.readline() == "reading\n"
        for number in range(10):
            toggled = catalogue / "a" / "toggled.png"
            if number % 2:
                toggled.unlink()
            else:
                toggled.write_bytes(painted(8000 + number))
            assert build_index(catalogue, directory).published
        output, errors = reader.communicate("stop\n")

    assert reader.returncode == 0, errors
    count, *generations = map(int, output.split())
    assert count >= len(generations) >= 1
