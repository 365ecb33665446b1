import os
from pathlib import Path

import pytest

from imgsearch.errors import ImageError
from imgsearch.images.reading import read_file


def cause_of(path, **options) -> str:
    with pytest.raises(ImageError) as refused:
        read_file(str(path), **options)
    return refused.value.cause


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_bytes_and_status_are_those_of_the_file(tmp_path):
    path = tmp_path / "a.jpg"
    path.write_bytes(b"some bytes")
    os.utime(path, ns=(5, 1_700_000_000_000_000_007))

    data, status = read_file(str(path))

    assert data == b"some bytes"
    assert (status.size, status.mtime_ns) == (10, 1_700_000_000_000_000_007)


def test_a_fifo_is_refused_without_a_wait(tmp_path):
    os.mkfifo(tmp_path / "x.jpg")

    assert cause_of(tmp_path / "x.jpg") == "not_regular_file"


def test_a_device_is_refused():
    assert cause_of("/dev/zero") == "not_regular_file"


def test_a_folder_is_refused(tmp_path):
    (tmp_path / "dir.jpg").mkdir()

    assert cause_of(tmp_path / "dir.jpg") == "not_regular_file"


def test_a_missing_file_has_vanished(tmp_path):
    assert cause_of(tmp_path / "nothing.jpg") == "vanished"
    assert cause_of(tmp_path / "no/such/folder.jpg") == "vanished"


def test_an_empty_file_is_refused(tmp_path):
    (tmp_path / "empty.jpg").touch()

    assert cause_of(tmp_path / "empty.jpg") == "empty"


def test_a_sparse_file_of_six_gibibytes_is_refused_by_its_size(tmp_path):
    with (tmp_path / "sparse.jpg").open("wb") as file:
        file.truncate(6 << 30)

    assert cause_of(tmp_path / "sparse.jpg") == "too_many_bytes"


def test_the_limit_itself_is_not_too_much(tmp_path):
    (tmp_path / "ten").write_bytes(b"0123456789")
    (tmp_path / "eleven").write_bytes(b"0123456789a")

    assert read_file(str(tmp_path / "ten"), max_bytes=10)[0] == b"0123456789"
    with pytest.raises(ImageError) as refused:
        read_file(str(tmp_path / "eleven"), max_bytes=10)
    assert refused.value.cause == "too_many_bytes"


def test_a_link_is_read_unless_links_are_refused(tmp_path):
    (tmp_path / "real.jpg").write_bytes(b"real")
    (tmp_path / "link.jpg").symlink_to("real.jpg")

    assert read_file(str(tmp_path / "link.jpg"), follow_links=True)[0] == b"real"
    assert cause_of(tmp_path / "link.jpg", follow_links=False) == "unreadable"
    assert read_file(str(tmp_path / "real.jpg"), follow_links=False)[0] == b"real"


def test_a_link_to_itself_is_unreadable(tmp_path):
    (tmp_path / "loop.jpg").symlink_to("loop.jpg")

    assert cause_of(tmp_path / "loop.jpg") == "unreadable"


def test_a_name_that_is_not_utf_8_is_read(tmp_path):
    name = os.path.join(os.fsencode(tmp_path), b"caf\xe9\xff.jpg")
    with open(name, "wb") as file:
        file.write(b"latin")

    assert read_file(os.fsdecode(name))[0] == b"latin"


def test_a_name_that_no_file_can_have_is_unreadable(tmp_path):
    assert cause_of(tmp_path / "a\0b.jpg") == "unreadable"
    assert cause_of(tmp_path / ("n" * 300)) == "unreadable"


def append_after_reading(monkeypatch, path, times: int, *, keep_time: bool = False) -> None:
    """Let the file grow between its being read and the second look at it, `times` times."""
    look, looks = os.fstat, []

    def grow_and_look(descriptor: int) -> os.stat_result:
        looks.append(descriptor)
        if len(looks) % 2 == 0 and len(looks) <= 2 * times:
            before = path.stat()
            with path.open("ab") as file:
                file.write(b"more")
            os.utime(path, ns=(0, before.st_mtime_ns + (0 if keep_time else 1)))
        return look(descriptor)

    monkeypatch.setattr(os, "fstat", grow_and_look)


def test_a_file_that_changes_once_while_it_is_read_is_read_again(tmp_path, monkeypatch):
    (tmp_path / "grows.jpg").write_bytes(b"some")
    append_after_reading(monkeypatch, tmp_path / "grows.jpg", times=1)

    data, status = read_file(str(tmp_path / "grows.jpg"))

    assert data == b"somemore"
    assert status.size == 8


def test_a_file_that_keeps_changing_is_refused(tmp_path, monkeypatch):
    (tmp_path / "grows.jpg").write_bytes(b"some")
    append_after_reading(monkeypatch, tmp_path / "grows.jpg", times=9)

    assert cause_of(tmp_path / "grows.jpg") == "changed"


def test_growth_is_seen_even_where_the_clock_of_the_file_system_has_not_ticked(tmp_path, monkeypatch):
    (tmp_path / "grows.jpg").write_bytes(b"some")
    append_after_reading(monkeypatch, tmp_path / "grows.jpg", times=1, keep_time=True)

    data, status = read_file(str(tmp_path / "grows.jpg"))

    assert len(data) == status.size


def test_no_descriptor_is_left_open(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "empty").touch()
    (tmp_path / "good").write_bytes(b"good")
    before = open_descriptors()

    for _ in range(5):
        cause_of(tmp_path / "fifo")
        cause_of(tmp_path / "empty")
        read_file(str(tmp_path / "good"))

    assert open_descriptors() == before


def test_a_refused_folder_leaves_no_descriptor_open(tmp_path):
    before = open_descriptors()

    for _ in range(5):
        cause_of(tmp_path)

    assert open_descriptors() == before
