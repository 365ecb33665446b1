"""What is remembered of files that cannot be used, and when they are tried again."""

import json
import os
import shutil
from pathlib import Path

import pytest

from imgsearch import Index, build_index, embed
from imgsearch.errors import DamagedIndexError, RefusedError
from imgsearch.store import generations
from imgsearch.store.items import Items


@pytest.fixture
def build(small, tmp_path):
    def run(**options):
        return build_index(small, tmp_path / "index", **{"backbone": "handcrafted", "backend": "exact", **options})

    return run


@pytest.fixture
def remembered(tmp_path):
    """Path -> cause of what the published index says it could not use."""

    def read():
        manifest = generations.read_manifest(tmp_path / "index")
        items = Items(tmp_path / "index" / manifest.folder / generations.ITEMS)
        rejected = {reject.path: reject.cause for reject in items.rejected()}
        items.close()
        assert len(rejected) == manifest.rejected
        return rejected

    return read


def test_a_rejected_file_that_is_rejected_otherwise_is_remembered_as_it_is_now(build, small, remembered):
    (small / "bad.png").write_bytes(b"no image")
    build()
    assert remembered() == {"bad.png": "not_an_image"}
    (small / "bad.png").write_bytes(b"")

    report = build()

    assert (report.published, report.new_rejects, remembered()) == (True, (), {"bad.png": "empty"})
    assert build().published is False


def test_a_file_found_empty_that_was_not_when_it_was_scanned_is_tried_again(build, small, remembered, monkeypatch):
    from imgsearch.build import pipeline

    real = pipeline.read_file

    def being_written(path, **options):
        if path.endswith("late.png"):
            status = Path(path).stat()
            os.truncate(path, 0)
            os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
        return real(path, **options)

    image = next(small.rglob("*.png"))
    (small / "late.png").write_bytes(image.read_bytes())
    status = (small / "late.png").stat()
    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "read_file", being_written)
        build()
    assert remembered() == {"late.png": "changed"}
    (small / "late.png").write_bytes(image.read_bytes())
    os.utime(small / "late.png", ns=(status.st_atime_ns, status.st_mtime_ns))

    build()

    assert remembered() == {}


def test_in_another_folder_the_same_bad_path_is_news(build, small, tmp_path):
    (small / "bad.png").write_bytes(b"no image")
    build()
    shutil.copytree(small, tmp_path / "other")

    report = build_index(tmp_path / "other", tmp_path / "index")

    assert [reject.path for reject in report.new_rejects] == ["bad.png"]


def test_what_an_interrupted_build_embedded_does_not_slip_past_a_lower_limit(build, small, tmp_path, painted):
    (small / "large.png").write_bytes(painted(77, side=64))
    partial = tmp_path / "index" / generations.PARTIAL
    (small / "bad.png").write_bytes(b"no image")
    with pytest.raises(RefusedError):  # after all is embedded
        build(max_skipped=0)
    assert partial.exists()

    report = build(max_pixels=32 * 32)

    assert report.causes == {"too_large": 1, "not_an_image": 1}
    assert report.resumed == 12


def test_a_lower_limit_of_pixels_costs_no_embedding(build, small, painted):
    (small / "large.png").write_bytes(painted(77, side=64))
    build()

    report = build(max_pixels=32 * 32)

    assert (report.causes, report.embedded, report.count) == ({"too_large": 1}, 0, 12)


# --- an index that lost its manifest; embeddings that change while one waits


def test_an_index_that_lost_its_manifest_is_not_built_over_and_says_how_to_bring_it_back(
    build, small, tmp_path, painted
):
    build()
    (small / "new.png").write_bytes(painted(99))
    build()
    manifest = tmp_path / "index" / generations.MANIFEST
    kept = manifest.read_bytes()
    manifest.unlink()

    with pytest.raises(DamagedIndexError, match="missing") as caught:
        build()
    with pytest.raises(DamagedIndexError, match="missing"):
        Index.open(tmp_path / "index")

    _, source, target = caught.value.hint.rsplit(" ", 2)
    shutil.copyfile(source, target)
    assert manifest.read_bytes() == kept
    assert build().published is False


def test_embeddings_that_grew_while_a_build_waited_for_the_lock_are_taken_as_they_are_now(
    small, tmp_path, painted, monkeypatch
):
    embed(small, tmp_path / "embeddings", backbone="handcrafted")
    real = generations.published

    def published_and_then_grown(directory):
        found = real(directory)
        monkeypatch.setattr(generations, "published", real)
        (small / "new.png").write_bytes(painted(99))
        embed(small, tmp_path / "embeddings")
        return found

    monkeypatch.setattr(generations, "published", published_and_then_grown)

    report = build_index(tmp_path / "embeddings", tmp_path / "index", backend="exact")

    assert report.count == 13


def test_six_hundred_times_the_same_image_is_an_index_that_finds_it(tmp_path, painted):
    (tmp_path / "catalog").mkdir()
    first = tmp_path / "catalog" / "000.png"
    first.write_bytes(painted(1))
    for number in range(1, 600):
        os.link(first, tmp_path / "catalog" / f"{number:03d}.png")

    build_index(tmp_path / "catalog", tmp_path / "index", backbone="handcrafted")

    with Index.open(tmp_path / "index") as index:
        assert [hit.score for hit in index.search(first, k=3)] == pytest.approx([1, 1, 1], abs=1e-6)


def test_an_index_may_not_lie_among_other_things_whatever_these_call_themselves(build, tmp_path):
    (tmp_path / "index").mkdir()
    (tmp_path / "index" / "manifest.json").write_text(json.dumps({"name": "a web application"}))

    with pytest.raises(Exception, match="expected an index or an empty directory"):
        build()

    assert [path.name for path in (tmp_path / "index").iterdir()] == ["manifest.json"]
