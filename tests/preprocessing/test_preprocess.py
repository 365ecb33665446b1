import functools
import hashlib
import os
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from imgsearch.errors import LockedError, OutputError, RefusedError, UsageError
from imgsearch.images.decode import decode
from imgsearch.images.policy import FilePolicy
from imgsearch.images.steps import Steps
from imgsearch.images.workers.decoders import decode_and_fit
from imgsearch.images.workers.process import WorkerProcess
from imgsearch.locks import exclusive_lock
from imgsearch.preprocessing import preprocess as module
from imgsearch.preprocessing.file_worker import FileWorker
from imgsearch.preprocessing.preprocess import JOURNAL, LOCK

pytestmark = pytest.mark.usefixtures("quick_preprocessing")


# For a few images a process would take longer to start than to be of use.
preprocess = functools.partial(module.preprocess, jobs=1)


def image(height: int = 40, width: int = 60, seed: int = 0) -> np.ndarray:
    colors = np.random.default_rng(seed).integers(0, 256, (4, 4, 3)).astype(np.uint8)
    return cv2.resize(colors, (width, height))


def save(path: Path, seed: int = 0, height: int = 40, width: int = 60) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(path.suffix.lower() or ".png", image(height, width, seed))[1].tobytes())
    return path


@pytest.fixture
def source(tmp_path) -> Path:
    """Three images in two folders."""
    for number, name in enumerate(("red.png", "shoes/blue.jpg", "shoes/green.png")):
        save(tmp_path / "source" / name, number)
    return tmp_path / "source"


@pytest.fixture
def destination(tmp_path) -> Path:
    return tmp_path / "destination"


def names(folder: Path) -> list[str]:
    """All files of a folder but for the record, and nothing else that is hidden."""
    found = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir())
    assert found.count(JOURNAL) == 1
    return [name for name in found if name not in (JOURNAL, LOCK)]


def contents(folder: Path) -> dict[str, tuple[str, int]]:
    """Digest and time of each file."""
    return {
        str(path.relative_to(folder)): (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file() and path.name not in (JOURNAL, LOCK)
    }


def counts(report) -> tuple[int, int, int, int]:
    return report.seen, report.written, report.unchanged, report.rejected


def test_the_tree_of_folders_is_kept_and_the_source_only_read(source, destination):
    before = contents(source)

    report = preprocess(source, destination)

    assert counts(report) == (3, 3, 0, 0)
    assert names(destination) == ["red.png", "shoes/blue.png", "shoes/green.png"]
    assert np.array_equal(decode((destination / "red.png").read_bytes()), decode((source / "red.png").read_bytes()))
    assert contents(source) == before


@pytest.mark.parametrize("fit", ["pad", "crop", "stretch"])
def test_images_get_their_size_and_their_steps_as_in_an_index(source, destination, fit):
    steps = Steps.parse("rotate=90,grayscale")

    preprocess(source, destination, size=32, fit=fit, steps=steps)

    for name in ("red.png", "shoes/green.png"):
        expected = decode_and_fit((source / name).read_bytes(), 32, fit, steps=steps)
        assert np.array_equal(decode((destination / name).read_bytes()), expected)


@pytest.mark.parametrize("ending", ["png", "jpg", "webp", "npy"])
def test_outputs_are_in_the_format_asked_for(source, destination, ending):
    preprocess(source, destination, to=ending)

    output = destination / f"red.{ending}"
    found = np.load(output, allow_pickle=False) if ending == "npy" else decode(output.read_bytes())
    assert (found.shape, found.dtype) == ((40, 60, 3), np.uint8)
    assert np.abs(found.astype(int) - image()[:, :, ::-1]).mean() < 3


def test_augmented_copies_lie_beside_the_image(source, destination):
    report = preprocess(source, destination, augment=2)

    assert report.written == 3
    assert names(destination) == [
        *("red.augmented-1.png", "red.augmented-2.png", "red.png"),
        *("shoes/blue.augmented-1.png", "shoes/blue.augmented-2.png", "shoes/blue.png"),
        *("shoes/green.augmented-1.png", "shoes/green.augmented-2.png", "shoes/green.png"),
    ]
    assert len({digest for digest, _ in contents(destination).values()}) == 9


def test_the_same_seed_gives_the_same_copies_however_many_processes_work(source, tmp_path):
    for folder, jobs, seed in (("one", 1, 5), ("three", 3, 5), ("other", 1, 6)):
        preprocess(source, tmp_path / folder, augment=2, jobs=jobs, seed=seed)

    one, three, other = (
        {name: digest for name, (digest, _) in contents(tmp_path / folder).items()}
        for folder in ("one", "three", "other")
    )
    assert one == three
    assert {name for name in one if one[name] != other[name]} == {name for name in one if "augmented" in name}


def test_what_is_up_to_date_is_not_made_again(source, destination):
    preprocess(source, destination, augment=1)
    before = contents(destination)

    report = preprocess(source, destination, augment=1)

    assert counts(report) == (3, 0, 3, 0)
    assert contents(destination) == before


def test_only_new_and_changed_files_are_made(source, destination):
    preprocess(source, destination)
    before = contents(destination)
    save(source / "red.png", seed=9)
    save(source / "hats" / "new.png", seed=8)

    report = preprocess(source, destination)

    assert counts(report) == (4, 2, 2, 0)
    after = contents(destination)
    assert {name for name in after if after[name] != before.get(name)} == {"red.png", "hats/new.png"}
    assert np.array_equal(decode((destination / "red.png").read_bytes()), image(seed=9)[:, :, ::-1])


@pytest.mark.parametrize("time_ns", [0, 2**62, -1])
def test_a_file_that_changes_its_time_alone_is_made_again(source, destination, time_ns):
    preprocess(source, destination)
    os.utime(source / "red.png", ns=(time_ns, time_ns))

    assert counts(preprocess(source, destination)) == (3, 1, 2, 0)


@pytest.mark.parametrize(
    "changed",
    [
        {"size": 17},
        {"size": 16, "fit": "crop"},
        {"steps": Steps(grayscale=True)},
        {"augment": 2},
        {"seed": 4},
        {"to": "webp"},
        {"policy": FilePolicy(keep_damaged=True)},
    ],
    ids=str,
)
def test_other_settings_make_everything_again_and_leave_nothing_of_the_former(source, destination, changed):
    settings = {"size": 16, "augment": 3}
    preprocess(source, destination, **settings)

    report = preprocess(source, destination, **settings | changed)

    assert counts(report) == (3, 3, 0, 0)
    expected = preprocess(source, destination.with_name("fresh"), **settings | changed)
    assert counts(expected) == (3, 3, 0, 0)
    found, fresh = (contents(folder) for folder in (destination, destination.with_name("fresh")))
    assert {name: digest for name, (digest, _) in found.items()} == {
        name: digest for name, (digest, _) in fresh.items()
    }


@pytest.mark.parametrize(("first", "then"), [({"seed": 1}, {"seed": 2}), ({}, {"jobs": 2})])
def test_settings_that_change_no_output_make_nothing_again(source, destination, first, then):
    preprocess(source, destination, **first)

    assert counts(preprocess(source, destination, **then)) == (3, 0, 3, 0)


@pytest.mark.parametrize(
    "harm", [Path.unlink, lambda path: path.write_bytes(b"cut"), lambda path: path.write_bytes(b"")]
)
def test_an_output_that_is_lost_or_cut_is_made_again(source, destination, harm):
    preprocess(source, destination, augment=1)
    before = contents(destination)
    harm(destination / "shoes" / "blue.augmented-1.png")

    assert counts(preprocess(source, destination, augment=1)) == (3, 1, 2, 0)
    assert {name: digest for name, (digest, _) in contents(destination).items()} == {
        name: digest for name, (digest, _) in before.items()
    }


def test_names_that_differ_by_their_ending_keep_it(tmp_path, destination):
    source = tmp_path / "source"
    files = {
        "a.png": "a.png.png",
        "a.jpg": "a.jpg.png",
        "A.png": "A.png",
        "a.jpg.webp": "a.jpg.webp.png",
        "a.png.png": "a.png.png.png",
        "b.v2.png": "b.v2.png",
        "c.png": "c.png",
        "c.augmented-1.png": "c.augmented-1.png.png",
        "folder/a.png": "folder/a.png",
    }
    for seed, name in enumerate(files):
        save(source / name, seed)

    report = preprocess(source, destination, augment=2)

    assert counts(report) == (9, 9, 0, 0)
    assert set(files.values()) <= set(names(destination))
    assert len(names(destination)) == 27
    for seed, (name, output) in enumerate(files.items()):
        if not name.endswith((".jpg", ".webp")):
            assert np.array_equal(decode((destination / output).read_bytes()), image(seed=seed)[:, :, ::-1])


def test_a_second_file_of_a_name_takes_nothing_from_the_first(source, destination):
    preprocess(source, destination)
    save(source / "red.bmp", seed=7)

    report = preprocess(source, destination)

    assert counts(report) == (4, 2, 2, 0)
    assert names(destination) == ["red.bmp.png", "red.png.png", "shoes/blue.png", "shoes/green.png"]
    assert counts(preprocess(source, destination)) == (4, 0, 4, 0)
    (source / "red.png").unlink()
    report = preprocess(source, destination)
    assert (counts(report), report.left_over) == ((3, 1, 2, 0), 1)
    assert names(destination) == ["red.png", "red.png.png", "shoes/blue.png", "shoes/green.png"]
    assert np.array_equal(decode((destination / "red.png").read_bytes()), image(seed=7)[:, :, ::-1])


def test_outputs_of_files_that_are_gone_are_left_and_counted(source, destination):
    preprocess(source, destination, augment=1)
    (source / "shoes" / "blue.jpg").unlink()

    reports = [preprocess(source, destination, augment=1) for _ in range(2)]

    assert [report.left_over for report in reports] == [2, 2]
    assert counts(reports[0]) == (2, 0, 2, 0)
    assert "shoes/blue.png" in names(destination)
    (destination / "shoes" / "blue.png").unlink()
    assert preprocess(source, destination, augment=1).left_over == 1
    save(source / "shoes" / "blue.jpg", seed=1)
    report = preprocess(source, destination, augment=1)
    assert (counts(report), report.left_over) == ((3, 1, 2, 0), 0)


def test_files_that_cannot_be_used_are_rejected_with_their_cause_once(source, destination):
    whole = (source / "shoes" / "blue.jpg").read_bytes()
    (source / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (source / "empty.png").touch()
    (source / "text.png").write_text("not an image")
    os.mkfifo(source / "fifo.png")
    (source / "link.png").symlink_to(source / "red.png")
    (source / "notes.txt").touch()

    first, second = preprocess(source, destination), preprocess(source, destination)

    assert counts(first) == (7, 3, 0, 4)
    assert {reject.path: reject.cause for reject in first.new_rejects} == {
        "cut.jpg": "corrupt",
        "empty.png": "empty",
        "fifo.png": "not_regular_file",
        "text.png": "not_an_image",
    }
    assert all(reject.message for reject in first.new_rejects if reject.cause != "not_regular_file")
    assert first.left_out == {"link": 1, "other": 1}
    assert (counts(second), second.new_rejects) == ((7, 0, 3, 4), ())
    assert names(destination) == ["red.png", "shoes/blue.png", "shoes/green.png"]


def test_a_rejected_file_that_is_mended_is_used_and_one_that_breaks_is_news(source, destination):
    good = (source / "red.png").read_bytes()
    (source / "red.png").write_bytes(good[:-30])
    assert counts(preprocess(source, destination)) == (3, 2, 0, 1)

    (source / "red.png").write_bytes(good)
    assert counts(preprocess(source, destination)) == (3, 1, 2, 0)

    (source / "red.png").write_bytes(good[:-30])
    report = preprocess(source, destination)
    assert ([reject.path for reject in report.new_rejects], report.left_over) == (["red.png"], 1)
    assert decode((destination / "red.png").read_bytes()).shape == (40, 60, 3)


def test_a_rejected_file_is_tried_again_with_other_settings_and_is_no_news(source, destination):
    save(source / "large.png", height=300, width=300)
    first = preprocess(source, destination, policy=FilePolicy(max_pixels=10_000))
    second = preprocess(source, destination, policy=FilePolicy(max_pixels=20_000))
    third = preprocess(source, destination)

    assert [reject.cause for reject in first.new_rejects] == ["too_large"]
    assert (counts(second), second.new_rejects) == ((4, 3, 0, 1), ())
    assert counts(third) == (4, 4, 0, 0)


def test_links_are_followed_where_that_is_wanted(source, destination, tmp_path):
    elsewhere = save(tmp_path / "elsewhere" / "far.png", seed=5)
    (source / "link.png").symlink_to(elsewhere)
    (source / "folder").symlink_to(elsewhere.parent)

    report = preprocess(source, destination, policy=FilePolicy(follow_links=True))

    assert counts(report) == (5, 5, 0, 0)
    assert {"folder/far.png", "link.png"} <= set(names(destination))


def test_a_link_to_the_destination_is_not_followed_into_it(source, destination):
    destination.mkdir()
    (source / "done").symlink_to(destination)
    policy = FilePolicy(follow_links=True)

    assert [counts(preprocess(source, destination, policy=policy)) for _ in range(2)] == [(3, 3, 0, 0), (3, 0, 3, 0)]


def test_names_that_are_not_utf_8_and_odd_ones_survive(tmp_path, destination):
    source = tmp_path / "source"
    odd = ["caf\udce9.png", "a\nb.png", "-rf.png", "*.png", " .png", "x" * 200 + ".png", "ordner\udcff/é漢.png"]
    for name in odd:
        save(source / name)

    assert counts(preprocess(source, destination, augment=1)) == (7, 7, 0, 0)
    assert set(odd) <= set(names(destination))
    assert counts(preprocess(source, destination, augment=1)) == (7, 0, 7, 0)


def test_a_name_too_long_for_its_copies_is_rejected_and_nothing_of_it_is_left(source, destination):
    save(source / ("y" * 250 + ".png"))

    report = preprocess(source, destination, augment=1)

    assert (counts(report), report.new_rejects[0].cause) == ((4, 3, 0, 1), "path_too_long")
    assert not [name for name in names(destination) if "y" in name]


def test_a_name_that_a_folder_has_is_rejected(source, destination):
    save(source / "red" / "a.png")
    save(source / "red.webp" / "b.png")
    save(source / "hat.webp")
    save(source / "hat.png" / "c.png")

    report = preprocess(source, destination)

    assert {reject.path: reject.cause for reject in report.new_rejects} == {"hat.png/c.png": "name_taken"}
    assert "red.webp/b.png" in names(destination)


def test_the_source_and_the_destination_are_two_folders_apart(source, tmp_path):
    (tmp_path / "link").symlink_to(source)
    before = contents(tmp_path)

    for start, end in (
        (source, source),
        (source, source / "out"),
        (source, source / "a" / "b" / ".." / "c"),
        (source / "shoes", source),
        (source, tmp_path),
        (source, tmp_path / "link"),
        (source, tmp_path / "link" / "shoes" / "new"),
        (tmp_path / "link", source / "shoes"),
    ):
        with pytest.raises(UsageError, match="two folders, neither in the other"):
            preprocess(start, end)

    assert contents(tmp_path) == before
    assert sorted(path.name for path in source.iterdir()) == ["red.png", "shoes"]


def test_a_link_in_the_destination_does_not_lead_into_the_source(source, destination):
    preprocess(source, destination)
    shutil.rmtree(destination / "shoes")
    (destination / "shoes").symlink_to(source / "shoes")
    before = contents(source)

    with pytest.raises(OutputError, match="leads out of"):
        preprocess(source, destination)

    assert contents(source) == before


def test_a_folder_with_files_of_somebody_else_is_not_written_to(source, destination):
    save(destination / "red.png", seed=77)
    before = contents(destination)

    with pytest.raises(UsageError, match="found other files"):
        preprocess(source, destination)

    assert contents(destination) == before
    assert not (destination / JOURNAL).exists()


def test_an_empty_or_unmounted_source_is_refused_and_nothing_is_made(tmp_path, source, destination):
    (tmp_path / "empty").mkdir()
    with pytest.raises(RefusedError, match="no image"):
        preprocess(tmp_path / "empty", destination)
    assert not destination.exists()

    preprocess(source, destination)
    before = contents(destination)
    shutil.rmtree(source)
    source.mkdir()
    with pytest.raises(RefusedError, match="no image"):
        preprocess(source, destination)
    source.rmdir()
    with pytest.raises(UsageError, match="found nothing"):
        preprocess(source, destination)
    assert contents(destination) == before


def test_a_source_of_names_that_are_no_images_is_refused_and_says_how_many_were_left_out(tmp_path, destination):
    (tmp_path / "source").mkdir()
    for name in ("a.jpg?v=1", "b.jpg_large", ".c.jpg"):
        (tmp_path / "source" / name).write_bytes(b"x")

    with pytest.raises(RefusedError, match=r"\(left out: 2 without an image's ending, 1 hidden\)") as refused:
        preprocess(tmp_path / "source", destination)
    assert "mounted" not in refused.value.hint
    assert not destination.exists()


def test_a_source_of_nothing_that_can_be_opened_is_refused(tmp_path, destination):
    (tmp_path / "source").mkdir()
    os.mkfifo(tmp_path / "source" / "a.png")

    with pytest.raises(RefusedError, match="not_regular_file"):
        preprocess(tmp_path / "source", destination)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"size": 0}, "size must be 1 to 16,383, got 0"),
        ({"size": 16_384}, "got 16,384"),
        ({"augment": -1}, "augment must be 0 to 1,000, got -1"),
        ({"jobs": 0}, "jobs must be 1 to 1,000, got 0"),
        ({"seed": -1}, "got -1"),
        ({"fit": "crop"}, "fit has no effect without a size"),
    ],
)
def test_numbers_out_of_range_are_refused(source, destination, options, said):
    with pytest.raises(UsageError, match=said):
        preprocess(source, destination, **options)

    assert not destination.exists()


def test_a_destination_that_cannot_be_written_is_an_output_error(source, tmp_path):
    (tmp_path / "file").touch()

    with pytest.raises(UsageError, match="found a file"):
        preprocess(source, tmp_path / "file")
    with pytest.raises(OutputError, match="cannot write"):
        preprocess(source, tmp_path / "file" / "below")


def test_two_runs_do_not_write_to_one_folder(source, destination):
    preprocess(source, destination)
    with exclusive_lock(destination / LOCK, "held by"), pytest.raises(LockedError, match="another preprocess"):
        preprocess(source, destination)
    assert counts(preprocess(source, destination)) == (3, 0, 3, 0)


@pytest.mark.parametrize("content", [b"", b"no database" * 500, b"SQLite format 3\0" + bytes(4000)])
def test_a_damaged_record_is_begun_anew(source, destination, content):
    preprocess(source, destination)
    (destination / JOURNAL).write_bytes(content)

    assert counts(preprocess(source, destination)) == (3, 3, 0, 0)
    assert counts(preprocess(source, destination)) == (3, 0, 3, 0)


def test_what_a_killed_run_left_half_done_is_cleared_away(source, destination):
    preprocess(source, destination)
    scratch = destination / ".imgsearch-preprocess.tmp"
    scratch.mkdir()
    (scratch / "1-0").write_bytes(b"half")

    preprocess(source, destination)

    assert not scratch.exists()


def test_decoders_that_die_one_after_another_end_the_run(source, destination, monkeypatch):
    for number in range(12):
        save(source / f"{number}.png", number)
    monkeypatch.setattr(FileWorker, "_ask", WorkerProcess._ask)
    monkeypatch.setattr(FileWorker, "_start", dying(FileWorker._start))

    with pytest.raises(RefusedError, match="5 files in a row"):
        preprocess(source, destination, jobs=1)

    assert names(destination) == []
    monkeypatch.undo()
    assert counts(preprocess(source, destination)) == (15, 15, 0, 0)


def dying(start):
    def started(self):
        process = start(self)
        process.kill()
        return process

    return started


def test_progress_is_told_of_all_files(source, destination):
    told = []
    preprocess(source, destination, progress=lambda *stage: told.append(stage))

    assert told[-1] == ("preprocess", 3, 3)


def test_an_output_in_an_index_is_an_image_and_the_record_is_not(source, destination):
    from imgsearch.images.scan import Scan

    preprocess(source, destination)
    scan = Scan(os.fspath(destination))

    assert [file.path for file in scan] == ["red.png", "shoes/blue.png", "shoes/green.png"]
    assert scan.left_out == {"hidden": 2}  # and its lock
