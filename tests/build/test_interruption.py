import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing

import numpy as np
import pytest

from imgsearch import build_index
from imgsearch.build import pipeline
from imgsearch.encoders import runtime
from imgsearch.encoders.table import TABLE
from imgsearch.errors import OutputError
from imgsearch.store import generations
from imgsearch.store.generations import read_manifest
from imgsearch.store.manifest import generation_folder

IMAGES = 48
BATCH = 8
DIMS = TABLE["handcrafted"].spec.dims


@pytest.fixture(scope="module", autouse=True)
def small_batches():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runtime.HandcraftedEncoder, "batch_size", BATCH)
        patch.setattr(pipeline, "COMMIT_IMAGES", 2 * BATCH)
        yield


@pytest.fixture(scope="module")
def shop(tmp_path_factory, lay_out, small_batches):
    """A catalog with a good index. Not to be changed: `work` is a copy."""
    folder = tmp_path_factory.mktemp("shop")
    lay_out(folder / "catalog", IMAGES)
    build_index(folder / "catalog", folder / "index", backbone="handcrafted", backend="exact")
    return folder


@pytest.fixture
def work(shop, tmp_path):
    shutil.copytree(shop, tmp_path / "work")
    build_index(tmp_path / "work/catalog", tmp_path / "work/index")  # it has moved
    return tmp_path / "work"


@pytest.fixture
def given_to_encoder(monkeypatch):
    """Count the images that are given to the encoder; `stop_after` interrupts it after so many batches."""

    class Count:
        images = 0
        stop_after: int | None = None

    count = Count()
    real = runtime.HandcraftedEncoder.encode_stream

    def counting(encoder, batches):
        for number, rows in enumerate(real(encoder, batches)):
            if number == count.stop_after:
                raise KeyboardInterrupt
            count.images += len(rows)
            yield rows

    monkeypatch.setattr(runtime.HandcraftedEncoder, "encode_stream", counting)
    return count


def embeddings_of(read):
    return {path: embedding for path, (embedding, _) in read.items()}


@pytest.fixture
def interrupted(shop, given_to_encoder, tmp_path):
    """A first build that was interrupted after four batches."""
    given_to_encoder.stop_after = 4
    with pytest.raises(KeyboardInterrupt):
        build_index(shop / "catalog", tmp_path / "partly", backbone="handcrafted", backend="exact")
    assert given_to_encoder.images == 4 * BATCH
    given_to_encoder.stop_after = None
    given_to_encoder.images = 0
    return tmp_path / "partly"


def test_an_interrupted_build_goes_on_where_it_was(shop, interrupted, given_to_encoder, contents, leftovers):
    assert (interrupted / generations.PARTIAL).exists()

    report = build_index(shop / "catalog", interrupted, backbone="handcrafted", backend="exact")

    done_before = 4 * BATCH
    again = given_to_encoder.images - (IMAGES - done_before)
    assert 0 <= again <= pipeline.COMMIT_IMAGES + BATCH
    assert (report.embedded, report.renamed, report.published) == (IMAGES, 0, True)
    assert leftovers(interrupted) == []
    assert embeddings_of(contents(interrupted)) == embeddings_of(contents(shop / "index"))


def test_a_build_that_is_interrupted_time_and_again_comes_to_its_end(shop, given_to_encoder, tmp_path, contents):
    given_to_encoder.stop_after = 1
    for _ in range(20):
        try:
            report = build_index(shop / "catalog", tmp_path / "partly", backbone="handcrafted", backend="exact")
        except KeyboardInterrupt:
            continue
        break

    assert report.published
    assert given_to_encoder.images == IMAGES
    assert embeddings_of(contents(tmp_path / "partly")) == embeddings_of(contents(shop / "index"))


def test_an_interrupted_update_is_not_seen_by_readers_and_goes_on(
    work, lay_out, given_to_encoder, photo, answers, leftovers
):
    catalog, directory = work / "catalog", work / "index"
    before = answers(directory, photo)
    lay_out(catalog, 24, first=5000)
    given_to_encoder.stop_after = 2
    with pytest.raises(KeyboardInterrupt):
        build_index(catalog, directory)
    assert answers(directory, photo) == before
    given_to_encoder.stop_after, given_to_encoder.images = None, 0

    report = build_index(catalog, directory)

    assert (report.embedded, report.unchanged) == (24, IMAGES)
    assert given_to_encoder.images == 24 - 2 * BATCH
    assert leftovers(directory) == []


def test_what_an_interrupted_build_left_is_swept_though_nothing_has_changed_any_more(
    work, lay_out, given_to_encoder, leftovers
):
    catalog, directory = work / "catalog", work / "index"
    lay_out(catalog, 20, first=5000)
    given_to_encoder.stop_after = 1
    with pytest.raises(KeyboardInterrupt):
        build_index(catalog, directory)
    (directory / generation_folder(read_manifest(directory).generation + 1)).mkdir()
    for file in catalog.rglob("50[0-9][0-9].png"):
        file.unlink()

    assert build_index(catalog, directory).published is False
    assert leftovers(directory) == []


# --- a work file that is damaged, or another's


def change(directory, statement, *parameters):
    with closing(sqlite3.connect(directory / generations.PARTIAL)) as connection:
        connection.execute(statement, parameters)
        connection.commit()


@pytest.mark.parametrize(
    ("damage", "begun_anew"),
    [
        (lambda folder: (folder / generations.PARTIAL).write_bytes(b""), True),
        (lambda folder: (folder / generations.PARTIAL).write_bytes(b"garbage" * 1000), True),
        (lambda folder: cut(folder / generations.PARTIAL, 5000), True),
        (lambda folder: cut(folder / generations.PARTIAL, 50_000), True),
        (lambda folder: change(folder, "UPDATE encoder SET fingerprint = 'another'"), True),
        (lambda folder: change(folder, "DELETE FROM encoder"), True),
        (lambda folder: change(folder, "DROP TABLE vectors"), True),
        (lambda folder: change(folder, "ALTER TABLE vectors RENAME COLUMN vector TO v"), True),
        (lambda folder: change(folder, "UPDATE vectors SET vector = x'0000'"), True),
        (lambda folder: change(folder, "UPDATE vectors SET vector = ?", bytes(2560)), True),
        (lambda folder: change(folder, "UPDATE vectors SET vector = ?", "x" * 4 * DIMS), True),
        (lambda folder: change(folder, "UPDATE vectors SET vector = ?", 0.5), True),
        (lambda folder: change(folder, "UPDATE vectors SET vector = ?", np.ones(DIMS, "<f4").tobytes()), True),
        (lambda folder: change(folder, "UPDATE vectors SET vector = ?", np.full(DIMS, np.nan, "<f4").tobytes()), True),
        (lambda folder: change(folder, "UPDATE vectors SET resumed = 1"), False),
        (lambda folder: (folder / (generations.PARTIAL + "-journal")).write_bytes(b"garbage" * 100), False),
    ],
    ids=[
        *("emptied", "garbage", "cut early", "cut late", "another encoder", "no encoder", "no vectors", "other column"),
        *(
            "too short",
            "zeros",
            "text",
            "a number",
            "too long a vector",
            "not a number",
            "resumed twice",
            "odd journal",
        ),
    ],
)
def test_a_damaged_work_file_costs_its_vectors_and_never_a_wrong_one(
    shop, interrupted, given_to_encoder, contents, leftovers, damage, begun_anew
):
    damage(interrupted)

    report = build_index(shop / "catalog", interrupted, backbone="handcrafted", backend="exact")

    assert (report.embedded, leftovers(interrupted)) == (IMAGES, [])
    assert (given_to_encoder.images == IMAGES) == begun_anew
    assert embeddings_of(contents(interrupted)) == embeddings_of(contents(shop / "index"))


def cut(file, size):
    file.write_bytes(file.read_bytes()[:size])


@pytest.mark.parametrize(("place", "bit"), [(0, 0), (1279, 7), (4 * DIMS - 1, 7)])
def test_one_bit_flipped_in_a_vector_costs_that_vector_only(
    shop, interrupted, given_to_encoder, contents, leftovers, place, bit
):
    with closing(sqlite3.connect(interrupted / generations.PARTIAL)) as connection:
        sha256, vector = connection.execute("SELECT sha256, vector FROM vectors LIMIT 1 OFFSET 10").fetchone()
    flipped = bytearray(vector)
    flipped[place] ^= 1 << bit
    change(interrupted, "UPDATE vectors SET vector = ? WHERE sha256 = ?", bytes(flipped), sha256)

    report = build_index(shop / "catalog", interrupted, backbone="handcrafted", backend="exact")

    assert (report.embedded, report.forgotten) == (IMAGES, 1)
    assert given_to_encoder.images == IMAGES - 4 * BATCH + 1
    assert embeddings_of(contents(interrupted)) == embeddings_of(contents(shop / "index"))
    assert leftovers(interrupted) == []


@pytest.mark.slow
def test_a_work_file_with_any_page_damaged_does_not_stop_builds_for_ever(shop, interrupted, contents):
    whole = (interrupted / generations.PARTIAL).read_bytes()
    pages = len(whole) // 4096
    generator = np.random.default_rng(0)
    failures = []
    for page in sorted({*range(7), *generator.choice(pages, 3).tolist(), pages - 1}):
        shutil.rmtree(interrupted)
        interrupted.mkdir()
        damaged = whole[: page * 4096] + generator.bytes(4096) + whole[(page + 1) * 4096 :]
        (interrupted / generations.PARTIAL).write_bytes(damaged)
        try:
            build_index(shop / "catalog", interrupted, backbone="handcrafted", backend="exact")
        except Exception as error:  # noqa: BLE001  # any kind is what this looks for
            failures.append((page, repr(error)))
            continue
        if embeddings_of(contents(interrupted)) != embeddings_of(contents(shop / "index")):
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
    shop, interrupted, given_to_encoder
):
    done = subprocess.run(
        [sys.executable, "-c", FULL, shop / "catalog", interrupted], check=False, capture_output=True, text=True
    )
    assert done.returncode == OutputError.exit_code, done.stderr

    build_index(shop / "catalog", interrupted, backbone="handcrafted", backend="exact")

    assert given_to_encoder.images == IMAGES - 4 * BATCH
