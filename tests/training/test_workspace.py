import errno
import fcntl
import shutil
from pathlib import Path

import numpy as np
import pytest

from imgsearch.errors import LockedError, OutputError, UsageError
from imgsearch.training.workspace import Checkpoint, Workspace

SETTINGS = {"seed": 0, "architecture": "cnn"}

CHECKPOINT = Checkpoint(
    ({"stage": "network", "epoch": 1, "seconds": 0.5, "loss": 1.25},),
    0,
    [np.arange(6, dtype=np.float32).reshape(2, 3), np.array([1, 2], np.uint32)],
    [np.array(7)],
    [np.ones(3, np.float32)],
)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def place(tmp_path):
    with Workspace(tmp_path / "shop.keras") as place:
        place.begin(SETTINGS, resume=True)
        yield place


def test_a_checkpoint_is_read_as_it_was_written(place):
    place.save(CHECKPOINT)

    read = place.begin(SETTINGS, resume=True)

    assert (read.epochs, read.best) == (CHECKPOINT.epochs, 0)
    for name in ("variables", "optimizer", "weights"):
        for found, expected in zip(getattr(read, name), getattr(CHECKPOINT, name), strict=True):
            assert found.dtype == expected.dtype
            assert np.array_equal(found, expected)


def test_many_arrays_keep_their_order(place):
    arrays = [np.array(number) for number in range(1200)]

    place.save(Checkpoint((), -1, arrays, [], []))

    assert [int(array) for array in place.begin(SETTINGS, resume=True).variables] == list(range(1200))


def test_a_checkpoint_is_continued_from_only_if_asked_for(place, caplog):
    assert place.begin(SETTINGS, resume=True) is None
    place.save(CHECKPOINT)

    assert place.begin(SETTINGS, resume=False) is None

    assert "--resume would have continued" in caplog.text
    assert names(place.folder) == []


def test_a_checkpoint_of_other_settings_is_refused_with_what_is_other(place):
    place.save(CHECKPOINT)

    with pytest.raises(UsageError, match="has seed 0, not 1"):
        place.begin(SETTINGS | {"seed": 1}, resume=True)


@pytest.mark.parametrize("length", [0, 10, 200, -1])
def test_a_checkpoint_that_is_cut_short_or_scribbled_on_is_refused(place, length):
    place.save(CHECKPOINT)
    file = place.folder / "state.npz"
    file.write_bytes(file.read_bytes()[:length] if length >= 0 else b"PK" + b"\0" * 500)

    with pytest.raises(UsageError, match="is damaged") as refusal:
        place.begin(SETTINGS, resume=True)

    assert "--resume" in refusal.value.hint


def test_a_checkpoint_with_objects_in_it_is_refused(place):
    with (place.folder / "state.npz").open("wb") as file:
        np.savez(file, facts=np.array([print], object), allow_pickle=True)

    with pytest.raises(UsageError, match="is damaged"):
        place.begin(SETTINGS, resume=True)


def test_a_place_is_for_one_training_at_a_time(place, tmp_path):
    with pytest.raises(LockedError):
        Workspace(tmp_path / "shop.keras")


def test_on_a_disk_without_locks_a_training_only_warns(monkeypatch, tmp_path, caplog):
    def flock(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)

    with Workspace(tmp_path / "shop.keras"):
        assert "cannot be locked (No locks available)" in caplog.text


def test_a_place_that_holds_nothing_goes_away_and_one_with_a_checkpoint_stays(tmp_path):
    with Workspace(tmp_path / "empty.keras"), Workspace(tmp_path / "kept.keras") as kept:
        kept.save(CHECKPOINT)

    assert names(tmp_path) == ["kept.keras.checkpoint"]
    with Workspace(tmp_path / "kept.keras") as again:  # the lock is free
        again.clear()


def test_stored_rows_are_mapped_and_leave_no_file_behind(place):
    rows = np.random.default_rng(0).integers(0, 256, (5, 4, 4, 3), dtype=np.uint8)

    mapped = place.store((row[:, ::-1] for row in rows), 7, (4, 4, 3), np.uint8)

    assert np.array_equal(mapped, rows[:, :, ::-1])
    assert not mapped.flags.writeable
    assert names(place.folder) == []


def test_no_row_at_all_can_be_stored(place):
    assert place.store(iter(()), 3, (2, 2), np.float32).shape == (0, 2, 2)


def test_a_disk_without_room_is_found_out_before_anything_is_written(place):
    def rows():
        raise AssertionError("it was asked for rows")
        yield

    with pytest.raises(OutputError, match="MB free"):
        place.store(rows(), shutil.disk_usage(place.folder).total, (1000,), np.uint8)


def test_a_file_that_cannot_be_made_is_an_output_error(tmp_path):
    with pytest.raises(OutputError, match="cannot write to"):
        Workspace(tmp_path / "missing" / "shop.keras")
