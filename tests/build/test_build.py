import datetime as dt
import os
import random
import shutil
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from imgsearch import Index, build_index, embed
from imgsearch.build import generation
from imgsearch.encoders import projection, runtime
from imgsearch.encoders.projection import Projection
from imgsearch.encoders.table import TABLE
from imgsearch.errors import (
    DamagedIndexError,
    MissingComponentError,
    NoIndexError,
    OutputError,
    RefusedError,
    UsageError,
)
from imgsearch.images import PIXELS_VERSION
from imgsearch.images.workers.decoders import decode_and_fit
from imgsearch.search.backends.annoy import AnnoyBackend
from imgsearch.store import generations, integrity
from imgsearch.store.generations import read_manifest
from imgsearch.store.search_settings import BackendSettings

pytestmark = pytest.mark.usefixtures("annoy_here")

DIMS = TABLE["handcrafted"].spec.dims


def done(report):
    return {
        name: getattr(report, name)
        for name in ("unchanged", "renamed", "embedded", "rejected", "removed")
        if getattr(report, name)
    }


def rejected(directory):
    with Index.open(directory) as opened:
        return {bad.path: (bad.cause, bad.first_seen) for bad in opened.items.rejected()}


def items(directory):
    with Index.open(directory) as opened:
        return {item.path: item for item in opened.items.fetch(range(len(opened)))}


def later(file, seconds=10):
    """Give a file another time."""
    status = file.stat()
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns + seconds * 10**9))


def test_a_first_build_embeds_everything_and_publishes_generation_one(build, index, leftovers):
    report = build()

    assert done(report) == {"embedded": 12}
    assert (report.generation, report.published, report.encoder) == (1, True, "handcrafted")
    assert leftovers(index) == []


def test_a_second_build_does_nothing_and_opens_no_encoder(build, index, no_encoder):
    build()
    before = {path: path.stat().st_mtime_ns for path in index.rglob("*") if path.name != generations.LOCK}
    no_encoder()

    report = build()

    assert done(report) == {"unchanged": 12}
    assert (report.generation, report.published) == (1, False)
    after = {path: path.stat().st_mtime_ns for path in index.rglob("*") if path.name != generations.LOCK}
    assert after == before


def test_one_new_and_one_changed_file_are_all_that_is_embedded(build, small, painted, index, contents):
    build()
    before = contents(index)
    (small / "a" / "new.png").write_bytes(painted(100))
    (small / "a" / "0000.png").write_bytes(painted(101, side=64))
    (small / "b" / "0001.png").rename(small / "c" / "renamed.png")
    (small / "b" / "0004.png").unlink()

    report = build()

    assert done(report) == {"unchanged": 9, "renamed": 1, "embedded": 2, "removed": 2}
    after = contents(index)
    assert after["c/renamed.png"] == before["b/0001.png"]
    assert after["a/0000.png"] != before["a/0000.png"]
    assert "b/0004.png" not in after


def test_copies_are_items_of_their_own_with_the_same_vector(build, small, index, contents, no_encoder):
    build()
    for number in range(3):
        shutil.copyfile(small / "a" / "0000.png", small / "b" / f"copy-{number}.png")
    no_encoder()

    assert done(build()) == {"unchanged": 12, "renamed": 3}
    after = contents(index)
    assert after["b/copy-0.png"] == after["b/copy-2.png"] == after["a/0000.png"]


def test_copies_in_a_first_build_are_all_items(build, tmp_path, painted, index, contents):
    for number in range(90):
        (tmp_path / "same").mkdir(exist_ok=True)
        (tmp_path / "same" / f"{number:02d}.png").write_bytes(painted(1))

    report = build(tmp_path / "same")

    assert report.count == 90
    assert len(set(contents(index).values())) == 1


def test_a_touched_file_keeps_its_vector_and_is_unchanged_from_then_on(build, small, no_encoder):
    build()
    later(small / "a" / "0000.png")
    no_encoder()

    touched, again = build(), build()

    assert (done(touched), touched.published) == ({"unchanged": 11, "renamed": 1}, True)
    assert (done(again), again.published) == ({"unchanged": 12}, False)


def test_other_content_with_the_same_size_and_time_counts_as_unchanged(build, small, painted, index, contents):
    # The documented price of not reading every file every night.
    file = small / "a" / "0000.png"
    build()
    before, status = contents(index), file.stat()
    data = bytearray(file.read_bytes())
    data[-20] ^= 1
    file.write_bytes(data)
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))

    assert done(build()) == {"unchanged": 12}
    assert contents(index) == before


def test_times_before_1970_and_far_ahead_are_times_like_others(build, small):
    os.utime(small / "a" / "0000.png", ns=(0, -(10**18)))
    os.utime(small / "b" / "0001.png", ns=(0, 9 * 10**18))

    assert (build().count, done(build())) == (12, {"unchanged": 12})


@pytest.mark.parametrize("change", [{"backend": "annoy"}, {"seed": 5}])
def test_a_changed_setting_publishes_anew_without_embedding(build, index, no_encoder, change, contents):
    build()
    before = contents(index)
    no_encoder()

    report = build(**change)

    assert (done(report), report.published) == ({"unchanged": 12}, True)
    assert contents(index) == before
    (name, value), *_ = change.items()
    assert getattr(read_manifest(index).search, name) == value


def test_a_moved_catalog_publishes_anew_without_embedding(build, small, index, no_encoder):
    build()
    no_encoder()

    report = build(small.rename(small.with_name("moved")))

    assert (done(report), report.published) == ({"renamed": 12}, True)
    assert read_manifest(index).catalog == str(small.with_name("moved"))


def test_a_run_without_options_keeps_encoder_backend_and_products(build, small, index, tmp_path):
    table = tmp_path / "products.csv"
    table.write_text("path,product\na/0000.png,Red\n")
    build(backend="annoy", trees=7, seed=9, metadata=table)
    (small / "a" / "0000.png").rename(small / "a" / "moved.png")
    table.write_text("path,product\na/moved.png,Blue\n")

    report = build_index(small, index)

    manifest = read_manifest(index)
    assert (report.encoder, manifest.backend) == ("handcrafted", BackendSettings("annoy", 7, 9, 2000))
    assert items(index)["a/moved.png"].product == "Blue"  # the table is read again
    assert build_index(small, index).published is False


def test_another_backbone_embeds_everything_again(build, index, monkeypatch, contents):
    build()
    before = contents(index)
    row = TABLE["handcrafted"]
    other = replace(row, spec=replace(row.spec, name="coarse", size=64))
    monkeypatch.setitem(TABLE, "coarse", other)

    report = build(backbone="coarse")

    assert done(report) == {"embedded": 12}
    assert all(after != before[path] for path, after in contents(index).items())
    assert done(build(backbone=None)) == {"unchanged": 12}
    assert done(build()) == {"embedded": 12}  # and back
    assert contents(index) == before


def test_a_new_version_of_the_same_encoder_embeds_everything_again(build, index, monkeypatch):
    row = TABLE["handcrafted"]
    with monkeypatch.context() as patch:  # of long ago
        patch.setitem(TABLE, "handcrafted", replace(row, spec=replace(row.spec, dims=640, version=1)))
        build()
    assert read_manifest(index).encoder.dims == 640

    assert done(build(backbone=None)) == {"unchanged": 12}  # which cron says: the index keeps the version it has
    assert done(build()) == {"embedded": 12}
    assert len(list((index / "encoders").iterdir())) == 2
    spec = replace(row.spec, steps="crop-foreground", pixels=PIXELS_VERSION)
    assert read_manifest(index).fingerprint == spec.fingerprint


def test_an_encoder_nobody_knows_is_a_missing_component(build):
    with pytest.raises(MissingComponentError, match="handcraftd") as caught:
        build(backbone="handcraftd")
    assert "handcrafted" in caught.value.hint


@pytest.mark.parametrize(
    "options", [{"backend": "hnsw"}, {"trees": 0}, {"trees": 10_001}, {"seed": -1}, {"seed": 2**31}, {"weights": "w"}]
)
def test_a_setting_that_makes_no_sense_is_a_usage_error_and_publishes_nothing(build, index, options):
    with pytest.raises(UsageError):
        build(**options)
    with pytest.raises(NoIndexError):
        Index.open(index)


# --- files that cannot be used


@pytest.fixture
def bad(small, painted):
    """Five bad files beside the twelve good ones, and a good one whose name is not UTF-8."""
    jpeg = cv2.imencode(".jpg", cv2.imdecode(np.frombuffer(painted(50), np.uint8), cv2.IMREAD_COLOR))[1].tobytes()
    (small / "empty.jpg").write_bytes(b"")
    (small / "text.jpg").write_text("<html>not found</html>")
    (small / "truncated.jpg").write_bytes(jpeg[: len(jpeg) // 2])
    (small / "truncated.png").write_bytes(painted(51)[:-20])
    os.mkfifo(small / "fifo.jpg")
    (small / "caf\udce9.png").write_bytes(painted(52))
    return {
        "empty.jpg": "empty",
        "text.jpg": "not_an_image",
        "truncated.jpg": "corrupt",
        "truncated.png": "corrupt",
        "fifo.jpg": "not_regular_file",
    }


def test_bad_files_are_named_with_their_causes_once_and_the_rest_is_published(build, index, bad, small, no_encoder):
    first = build()

    assert done(first) == {"embedded": 13, "rejected": 5}
    assert {reject.path: reject.cause for reject in first.new_rejects} == bad
    assert all(reject.message for reject in first.new_rejects if reject.cause != "not_regular_file")
    assert {path: cause for path, (cause, _) in rejected(index).items()} == bad
    assert "caf\udce9.png" in items(index)

    no_encoder()
    second = build()
    assert (done(second), second.published, second.new_rejects) == ({"unchanged": 13, "rejected": 5}, False, ())


def test_a_repaired_file_is_embedded_and_a_removed_one_forgotten(build, index, bad, small, painted):
    build()
    (small / "text.jpg").write_bytes(painted(60))
    (small / "empty.jpg").unlink()

    report = build()

    assert (done(report), report.new_rejects) == ({"unchanged": 13, "embedded": 1, "rejected": 3}, ())
    assert rejected(index).keys() == bad.keys() - {"text.jpg", "empty.jpg"}
    assert "text.jpg" in items(index)


def test_a_good_file_that_went_bad_is_a_new_reject(build, index, small):
    build()
    (small / "a" / "0000.png").write_bytes(b"")

    report = build()

    assert [(reject.path, reject.cause) for reject in report.new_rejects] == [("a/0000.png", "empty")]
    assert "a/0000.png" not in items(index)


class LaterClock:
    """Stands for the module datetime, in the year 2999."""

    UTC = dt.UTC

    class datetime:  # noqa: N801  # the name it has there
        @staticmethod
        def now(zone):
            return dt.datetime(2999, 1, 1, tzinfo=zone)


def test_the_day_a_file_was_first_rejected_is_kept(build, index, bad, small, painted, monkeypatch):
    build()
    before = rejected(index)
    (small / "new.png").write_bytes(painted(61))
    (small / "text.jpg").write_text("still no image")  # changed, and as bad as before
    (small / "also.jpg").write_bytes(b"")

    monkeypatch.setattr("imgsearch.build.update.dt", LaterClock)
    report = build()

    assert [reject.path for reject in report.new_rejects] == ["also.jpg"]
    after = rejected(index)
    assert after.pop("also.jpg")[1].startswith("2999")
    assert after == before


def test_an_image_in_which_the_encoder_finds_nothing_is_rejected_not_indexed(build, index, small, monkeypatch):
    real = runtime.HandcraftedEncoder.encode_stream

    def blind(self, batches):
        for rows in real(self, batches):
            rows[0] = np.nan
            yield rows

    monkeypatch.setattr(runtime.HandcraftedEncoder, "encode_stream", blind)

    report = build()

    assert done(report) == {"embedded": 11, "rejected": 1}
    assert [reject.cause for reject in report.new_rejects] == ["bad_embedding"]


def test_a_file_that_stays_bad_publishes_nothing_new(build, small, monkeypatch):
    real = runtime.HandcraftedEncoder.encode_stream

    def blind(self, batches):
        for rows in real(self, batches):
            rows[0] = np.nan
            yield rows

    monkeypatch.setattr(runtime.HandcraftedEncoder, "encode_stream", blind)
    build()

    report = build()

    assert (done(report), report.new_rejects) == ({"unchanged": 11, "rejected": 1}, ())
    assert not report.published


def test_a_catalog_of_bad_files_only_is_refused_and_nothing_published(build, tmp_path, index):
    (tmp_path / "bad").mkdir()
    for number in range(5):
        (tmp_path / "bad" / f"{number}.jpg").write_bytes(b"x" * number)

    with pytest.raises(
        RefusedError, match=r"no image that can be used \(rejected: 1 empty, 4 not_an_image\)"
    ) as refused:
        build(tmp_path / "bad")
    assert "mounted" not in refused.value.hint
    with pytest.raises(NoIndexError):
        Index.open(index)


def test_an_empty_catalog_is_refused(build, tmp_path, index):
    (tmp_path / "nothing").mkdir()

    with pytest.raises(RefusedError, match=r"no image that can be used$") as refused:
        build(tmp_path / "nothing")
    assert "is its disk mounted?" in refused.value.hint
    with pytest.raises(NoIndexError):
        Index.open(index)


def test_a_catalog_of_names_that_are_no_images_is_refused_and_says_how_many_were_left_out(
    build, small, tmp_path, index
):
    build()
    for number, file in enumerate(sorted(small.rglob("*.png"))):
        file.rename(file.with_name(f"{number}.png?v=1"))

    with pytest.raises(RefusedError, match=r"nothing was changed \(left out: 12 without an image's ending\)"):
        build()
    with pytest.raises(RefusedError, match=r"\(left out: 12 without an image's ending\)") as refused:
        build(small, tmp_path / "another")
    assert "mounted" not in refused.value.hint


def test_a_catalog_of_which_most_has_gone_bad_is_refused_and_the_old_index_answers(build, small, index, contents):
    build()
    before = contents(index)
    for file in sorted(small.rglob("*.png"))[5:]:
        file.write_bytes(b"")

    with pytest.raises(RefusedError, match="has 5 usable images, the index has 12"):
        build()

    assert contents(index) == before


@pytest.mark.parametrize("left", [0, 5])
def test_a_catalog_that_lost_more_than_half_is_refused_and_the_old_index_answers(build, small, index, left, contents):
    build()
    before = contents(index)
    for file in sorted(small.rglob("*.png"))[left:]:
        file.rename(file.with_suffix(".away"))

    with pytest.raises(RefusedError, match=rf"has {left} usable images, the index has 12") as caught:
        build()
    assert "--force" in caught.value.hint
    assert contents(index) == before
    forced = {"unchanged": 5, "removed": 7} if left else {"removed": 12}
    assert done(build(force=True)) == forced
    assert len(contents(index)) == left


def test_a_catalog_that_lost_just_half_is_believed(build, small):
    build()
    for file in sorted(small.rglob("*.png"))[6:]:
        file.unlink()

    assert done(build()) == {"unchanged": 6, "removed": 6}


def resized(folder, sizes):
    """Give every file the size of another, by bytes behind the image that nobody reads."""
    for file, size in zip(sorted(folder.rglob("*.png")), sizes, strict=False):
        with file.open("ab") as image:
            image.write(bytes(max(0, size - file.stat().st_size)))


def test_another_folder_is_refused_before_it_is_read_and_the_old_index_answers(build, small, index, lay_out, contents):
    build()
    before = contents(index)
    other = lay_out(small.with_name("other"), 20, first=300)
    resized(other, [5000] * 20)  # no file has the size of one of before

    with pytest.raises(RefusedError, match="has 0 of the 12 images") as caught:
        build(other)
    assert "--force" in caught.value.hint
    assert "--index" in caught.value.hint
    assert contents(index) == before
    assert not (index / generations.PARTIAL).exists()
    assert done(build(other, force=True)) == {"embedded": 20, "removed": 12}


def test_another_folder_whose_files_have_the_same_sizes_is_refused_once_they_are_read(
    build, small, index, lay_out, contents
):
    resized(small, [5000] * 12)
    build()
    before = contents(index)
    other = lay_out(small.with_name("other"), 12, first=300)
    resized(other, [5000] * 12)

    with pytest.raises(RefusedError, match="has 0 of the 12 images"):
        build(other)
    assert contents(index) == before
    assert build(other, force=True).resumed == 12  # what was embedded in vain is not embedded again


@pytest.mark.parametrize(("kept", "is_refused"), [(5, True), (6, False)])
def test_a_folder_with_half_of_the_images_is_believed(build, small, lay_out, kept, is_refused):
    build()
    other = lay_out(small.with_name("other"), 20, first=300)
    for file in sorted(small.rglob("*.png"))[:kept]:
        shutil.copyfile(file, other / file.name)  # under another path and time

    if is_refused:
        with pytest.raises(RefusedError, match="has 5 of the 12 images of the index, and 20 others"):
            build(other)
    else:
        assert done(build(other)) == {"renamed": 6, "embedded": 20, "removed": 12}


def copied(small):
    return Path(shutil.copytree(small, small.with_name("copy"), copy_function=shutil.copyfile))


def moved(small):
    return small.rename(small.with_name("moved"))


def parent(small):
    shutil.copytree(small, small.parent / "parent" / "shop")
    return small.parent / "parent"


def flat(small):
    folder = small.with_name("flat")
    folder.mkdir()
    for file in small.rglob("*.png"):
        shutil.copy(file, folder)
    return folder


@pytest.mark.parametrize("root", [copied, moved, parent, flat])
def test_the_same_images_in_another_folder_are_believed(build, small, root):
    build()

    assert build(root(small)).renamed == 12


def test_new_images_under_the_names_of_before_are_believed_in_the_same_folder_only(build, small, painted):
    build()
    for number, file in enumerate(sorted(small.rglob("*.png"))):
        file.write_bytes(painted(300 + number, side=64))
    elsewhere = copied(small)

    with pytest.raises(RefusedError, match="has 0 of the 12 images"):
        build(elsewhere)
    assert done(build()) == {"embedded": 12}


def test_a_catalog_that_grows_threefold_is_believed(build, small, lay_out):
    build()
    lay_out(small, 30, first=100)

    assert done(build()) == {"unchanged": 12, "embedded": 30}


def test_embeddings_of_another_folder_are_refused(small, index, lay_out, tmp_path, contents):
    for name, folder in (("one", small), ("two", lay_out(tmp_path / "other", 12, first=300))):
        embed(folder, tmp_path / name, backbone="handcrafted")
    build_index(tmp_path / "one", index)
    before = contents(index)

    with pytest.raises(RefusedError, match="has 0 of the 12 images"):
        build_index(tmp_path / "two", index)
    assert contents(index) == before
    assert build_index(tmp_path / "two", index, force=True).published


@pytest.mark.parametrize("kind", ["missing", "file"])
def test_a_catalog_that_is_no_folder_is_a_usage_error(build, tmp_path, index, kind):
    if kind == "file":
        (tmp_path / "no folder").write_text("and no list\n")

    with pytest.raises(UsageError, match="expected a folder of images"):
        build(tmp_path / "no folder")
    assert not index.exists()


@pytest.mark.parametrize("name", [".imgsearch", "visible", "deep/er"])
def test_an_index_inside_the_catalog_is_no_part_of_it(build, small, painted, name):
    directory = small / name
    build(directory=directory)
    (directory / "in-the-index.png").write_bytes(painted(70))

    assert done(build(directory=directory)) == {"unchanged": 12}
    assert done(build(directory=small.with_name("second"))) == {"embedded": 12}


def test_the_rest_of_an_interrupted_build_inside_the_catalog_is_no_part_of_it(build, small, painted):
    (small / "rest").mkdir()
    (small / "rest" / generations.PARTIAL).write_bytes(b"")
    (small / "rest" / "image.png").write_bytes(painted(70))

    assert build().seen == 12


# --- what is written


def test_rows_of_all_three_files_belong_to_the_same_image(build, small, index, contents):
    build()
    encoder = runtime.HandcraftedEncoder(TABLE["handcrafted"].spec)

    for path, (embedding, vector) in contents(index).items():
        pixels = decode_and_fit((small / path).read_bytes(), 128, "pad")
        expected = runtime.encode(encoder, pixels[None])[0]
        assert embedding == vector == expected.tobytes()
    assert list(contents(index)) == sorted(contents(index), key=os.fsencode)


def test_every_file_of_a_generation_is_in_the_manifest_with_its_true_record(build, index):
    build(backend="annoy")
    manifest = read_manifest(index)

    assert manifest.files == {
        str(path.relative_to(index)): integrity.file_record(path)
        for folder in (manifest.folder, manifest.encoder_folder)
        for path in (index / folder).iterdir()
        if path.name != generations.MANIFEST  # it cannot hold its own sha256
    }


@pytest.mark.parametrize("seed", range(3))
def test_after_any_changes_the_index_equals_one_built_from_nothing(
    build, small, index, tmp_path, painted, contents, leftovers, seed
):
    generator = random.Random(seed)
    fresh_seed = 1000 * (seed + 1)
    build()
    generations = [1]
    for _ in range(6):
        for _ in range(generator.randint(1, 4)):
            files = sorted(small.rglob("*.png"))
            file = generator.choice(files)
            target = small / generator.choice("abcd") / f"{generator.randrange(10**6)}.png"
            target.parent.mkdir(exist_ok=True)
            fresh_seed += 1
            match generator.choice(["add", "change", "rename", "delete", "copy", "swap", "spoil"]):
                case "add":
                    target.write_bytes(painted(fresh_seed))
                case "change":
                    file.write_bytes(painted(fresh_seed))
                    later(file, fresh_seed)
                case "rename":
                    file.rename(target)
                case "delete":
                    file.unlink()
                case "copy":
                    shutil.copyfile(file, target)
                case "swap":
                    other = generator.choice(files)
                    one, two = file.read_bytes(), other.read_bytes()
                    file.write_bytes(two)
                    other.write_bytes(one)
                    later(file, fresh_seed)
                    later(other, fresh_seed)
                case "spoil":
                    target.write_bytes(b"")
        report = build()
        generations.append(report.generation)
        shutil.rmtree(tmp_path / "fresh", ignore_errors=True)
        build(directory=tmp_path / "fresh")
        assert contents(index) == contents(tmp_path / "fresh")
        assert rejected(index).keys() == rejected(tmp_path / "fresh").keys()
        assert leftovers(index) == []
    assert generations == sorted(generations)
    assert build().published is False


# --- the projection


@pytest.fixture
def early(monkeypatch):
    """Let a projection be learned on twelve images already."""
    monkeypatch.setattr(generation, "SMALLEST_CATALOG", 12)
    monkeypatch.setattr(projection, "DIMS", 8)


def projection_of(index):
    manifest = read_manifest(index)
    return Projection.load(str(index / manifest.folder / generations.PROJECTION), DIMS, manifest.dims)


def test_a_small_catalog_has_no_projection(build, index):
    build()
    manifest = read_manifest(index)

    assert (manifest.projection_count, manifest.dims) == (0, DIMS)
    assert not (index / manifest.folder / generations.PROJECTION).exists()


def test_a_projection_is_learned_and_applied_when_there_is_enough(build, index, early, contents, small, painted, photo):
    build()
    manifest, learned = read_manifest(index), projection_of(index)

    assert (manifest.projection_count, manifest.dims, len(learned.components)) == (12, 8, 8)
    for embedding, vector in contents(index).values():
        expected = learned.apply(np.frombuffer(embedding, "<f4")[None])[0]
        np.testing.assert_allclose(np.frombuffer(vector, "<f4"), expected, atol=1e-5)
    with Index.open(index) as opened:
        assert opened.search(small / "b" / "0004.png", k=1)[0].path == "b/0004.png"
        assert len(opened.search(photo, k=12)) == 12


def test_a_projection_is_kept_until_the_catalog_has_doubled(build, index, early, small, lay_out, contents):
    build()
    first, before = projection_of(index), contents(index)
    lay_out(small, 11, first=100)
    build()
    kept, after = projection_of(index), contents(index)
    lay_out(small, 1, first=200)
    build()
    doubled = projection_of(index)

    np.testing.assert_array_equal(first.components, kept.components)
    assert read_manifest(index).projection_count == 24
    for path, (_, vector) in before.items():  # scores do not drift
        np.testing.assert_allclose(np.frombuffer(after[path][1], "<f4"), np.frombuffer(vector, "<f4"), atol=1e-6)
    assert (doubled.mean != kept.mean).any()


def test_a_projection_is_learned_anew_on_request(build, index, early, small, lay_out):
    build()
    lay_out(small, 3, first=100)
    build()
    assert read_manifest(index).projection_count == 12

    report = build(relearn=True)

    assert (done(report), report.published) == ({"unchanged": 15}, True)
    assert read_manifest(index).projection_count == 15


def test_only_a_sample_of_a_large_catalog_is_learned_from(build, index, early, small, lay_out, monkeypatch):
    lay_out(small, 20, first=100)
    monkeypatch.setattr(generation, "LARGEST_SAMPLE", 10)
    build()
    first = projection_of(index)
    build(directory=index.with_name("second"))

    assert read_manifest(index).projection_count == 32
    np.testing.assert_array_equal(first.components, projection_of(index.with_name("second")).components)


# --- damage


@pytest.mark.parametrize("name", [generations.VECTORS, AnnoyBackend.file, generations.PROJECTION, "spec.json"])
@pytest.mark.parametrize("damage", ["lost", "cut"])
def test_a_derived_file_that_is_lost_or_cut_is_made_anew(build, index, early, name, damage, contents, photo, answers):
    build(backend="annoy")
    before, said = contents(index), answers(index, photo)
    (file,) = [path for path in index.rglob(name) if path.is_file()]
    if damage == "lost":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:-7])

    report = build(backend=None)

    assert (done(report), report.published) == ({"unchanged": 12}, True)
    after = contents(index)
    assert {path: one for path, (one, _) in after.items()} == {path: one for path, (one, _) in before.items()}
    assert [path for path, _ in answers(index, photo)] == [path for path, _ in said]


@pytest.mark.parametrize("name", [generations.EMBEDDINGS, generations.ITEMS])
@pytest.mark.parametrize("damage", ["lost", "cut", "flipped"])
def test_damaged_truth_is_reported_and_never_published_on(build, index, small, painted, name, damage):
    build()
    (file,) = index.rglob(name)
    data = file.read_bytes()
    if damage == "lost":
        file.unlink()
    elif damage == "cut":
        file.write_bytes(data[: len(data) // 2])
    else:
        file.write_bytes(data[:-9] + bytes([data[-9] ^ 4]) + data[-8:])
    (small / "new.png").write_bytes(painted(90))

    with pytest.raises(DamagedIndexError, match=name):
        build()
    assert read_manifest(index).generation == 1


def test_a_damaged_manifest_is_reported_and_left_alone(build, index):
    build()
    (index / generations.MANIFEST).write_text('{"format": "imgsearch"')

    with pytest.raises(DamagedIndexError):
        build_index(index.with_name("small"), index)
    assert (index / generations.MANIFEST).read_text() == '{"format": "imgsearch"'


# --- embeddings first, an index of them later


@pytest.fixture
def embedded(small, tmp_path):
    report = embed(small, tmp_path / "embedded", backbone="handcrafted")
    assert done(report) == {"embedded": 12}
    return tmp_path / "embedded"


def test_embed_writes_the_embeddings_and_their_items_where_people_find_them(embedded, build, index, contents):
    build()
    array = np.load(embedded / generations.EMBEDDINGS)
    with closing(sqlite3.connect(embedded / generations.ITEMS)) as connection:
        paths = [path for (path,) in connection.execute("SELECT path FROM items ORDER BY row")]

    assert {path: row.tobytes() for path, row in zip(paths, array, strict=True)} == {
        path: embedding for path, (embedding, _) in contents(index).items()
    }


def test_embeddings_alone_cannot_be_searched_and_say_what_to_do(embedded):
    with pytest.raises(NoIndexError, match="embeddings but no index") as caught:
        Index.open(embedded)
    assert "build-index" in caught.value.hint


def test_embed_goes_on_from_where_it_was(embedded, small, lay_out, no_encoder):
    assert done(embed(small, embedded)) == {"unchanged": 12}
    lay_out(small, 2, first=100)

    assert done(embed(small, embedded)) == {"unchanged": 12, "embedded": 2}
    assert np.load(embedded / generations.EMBEDDINGS).shape == (14, DIMS)


@pytest.mark.parametrize("backend", ["exact", "annoy"])
def test_an_index_of_embeddings_equals_an_index_of_the_images(
    embedded, build, index, tmp_path, contents, backend, answers, photo
):
    build(backend=backend)
    report = build_index(embedded, tmp_path / "of", backend=backend)

    assert (report.published, report.count, report.embedded) == (True, 12, 0)
    assert contents(tmp_path / "of") == contents(index)
    assert answers(tmp_path / "of", photo) == answers(index, photo)
    assert build_index(embedded, tmp_path / "of").published is False


def test_an_index_of_embeddings_follows_them(embedded, small, lay_out, tmp_path, leftovers):
    build_index(embedded, tmp_path / "of", backend="exact")
    lay_out(small, 2, first=100)
    embed(small, embedded)

    report = build_index(embedded, tmp_path / "of")

    assert (report.published, report.count, report.generation) == (True, 14, 2)
    assert read_manifest(tmp_path / "of").backend.name == "exact"
    assert leftovers(tmp_path / "of") == []


def test_an_index_of_embeddings_is_kept_up_to_date_from_the_images_too(embedded, small, lay_out, tmp_path):
    build_index(embedded, tmp_path / "of")
    lay_out(small, 1, first=100)

    assert done(build_index(small, tmp_path / "of")) == {"unchanged": 12, "embedded": 1}


def test_embeddings_become_an_index_in_place(embedded, small, photo, answers, leftovers):
    report = build_index(embedded, embedded, backend="exact")

    assert (report.published, report.count) == (True, 12)
    assert len(answers(embedded, photo)) == 5
    assert leftovers(embedded) == []  # the links are gone
    assert build_index(embedded, embedded).published is False
    with pytest.raises(UsageError, match="holds an index"):
        embed(small, embedded)


def test_embed_into_an_index_is_refused(build, small, index):
    build()

    with pytest.raises(UsageError, match="holds an index"):
        embed(small, index)


def test_options_of_embed_are_refused_when_embeddings_are_there_and_named_as_typed(embedded, index, tmp_path):
    (tmp_path / "table.csv").write_text("path\n")
    refused = {
        "--backbone": {"backbone": "handcrafted:color"},
        "--metadata": {"metadata": tmp_path / "table.csv"},
        "--max-bytes": {"max_bytes": 1},
        "--damaged": {"damaged": "keep"},
        "--no-trim": {"trim": False},
        "--preprocess, --no-trim": {"preprocess": "grayscale", "trim": False},
        "--adapt": {"adapt": True},
        "--weights": {"weights": "w.h5"},
        "--precision": {"precision": "bf16"},
    }
    for named, options in refused.items():
        with pytest.raises(UsageError, match=f"(^|[^-a-z]){named}([^-a-z]|$)"):
            build_index(embedded, index, **options)
    assert not (index / generations.MANIFEST).exists()


def test_options_that_embeddings_have_already_are_accepted(embedded, index):
    same = {"backbone": "handcrafted", "precision": "f32", "metadata": "none", "max_bytes": 100_000_000, "trim": True}
    off = {"adapt": False, "follow_links": False, "damaged": "skip", "preprocess": "none", "weights": "none"}

    assert build_index(embedded, index, **same, **off).published
    assert not build_index(embedded, index, **same, **off).published


def test_damaged_embeddings_are_refused(embedded, index):
    file = next(embedded.glob("gen-*")) / generations.EMBEDDINGS
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)

    with pytest.raises(DamagedIndexError, match=r"embeddings\.npy"):
        build_index(embedded, index)


def test_lost_embeddings_are_damage_not_a_write_error(embedded, index):
    (next(embedded.glob("gen-*")) / generations.EMBEDDINGS).unlink()

    with pytest.raises(DamagedIndexError, match=r"embeddings\.npy"):
        build_index(embedded, index)


def test_embeddings_of_a_moved_catalog_tell_the_index_its_new_place(embedded, small, tmp_path):
    build_index(embedded, tmp_path / "of")
    moved = small.rename(small.with_name("moved"))
    embed(moved, embedded)

    build_index(embedded, tmp_path / "of")

    assert read_manifest(tmp_path / "of").catalog == str(moved)


def test_the_catalog_itself_is_refused_as_the_index_directory(small):
    with pytest.raises(UsageError):
        build_index(small, small, backbone="handcrafted")


# --- odd places


@pytest.mark.parametrize(
    ("name", "backend"),
    [
        *((name, backend) for name in ("a?b#c%41 d", "line\nbreak") for backend in ("exact", "annoy")),
        ("caf\udce9", "exact"),
        ("caf\udce9", "annoy"),
    ],
)
def test_an_index_lies_in_a_folder_of_any_name(build, small, tmp_path, name, backend, answers, photo):
    catalog = small.rename(tmp_path / f"catalog {name}")
    directory = tmp_path / name / "index"

    build(catalog, directory, backend=backend)

    assert build(catalog, directory, backend=None).published is False
    assert len(answers(directory, photo)) == 5


def test_progress_ends_at_the_total(build):
    told = []
    build(progress=lambda *what: told.append(what))

    assert told[-2:] == [("index", 0, 12), ("index", 12, 12)]
    assert ("embed", 12, 12) in told


def test_a_place_that_cannot_be_written_is_an_output_error(build):
    with pytest.raises(OutputError, match="/proc/self/index"):
        build(directory=Path("/proc/self/index"))
