"""What every writer relies on: whole files or none, errors that name the place, no device that never answers."""

import errno
import os
import shutil
import sqlite3
from pathlib import Path

import pytest

from imgsearch.errors import OutputError
from imgsearch.files import open_regular, replaced, replaced_file, require_space, sha256_of, writing


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_sha256_of_a_file_is_taken_and_a_fifo_is_not_waited_for(tmp_path):
    (tmp_path / "abc").write_bytes(b"abc")
    os.mkfifo(tmp_path / "fifo")

    assert sha256_of(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    for name, reason in (("fifo", "not a regular file"), (".", "not a regular file"), ("gone", "No such file")):
        with pytest.raises(OSError, match=reason):
            open_regular(tmp_path / name)


@pytest.mark.parametrize("draft", [None, "file.tmp"])
def test_a_file_is_replaced_when_it_is_whole_or_not_at_all(tmp_path, draft):
    path, draft = tmp_path / "file", draft and tmp_path / draft
    path.write_bytes(b"before")

    def fail() -> None:
        with replaced_file(path, draft) as file:
            file.write(b"half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert (path.read_bytes(), names(tmp_path)) == (b"before", ["file"])

    if draft:
        draft.symlink_to(path)  # what a killed process left is not written through
    with replaced_file(path, draft) as file:
        file.write(b"whole")
        file.flush()
        assert path.read_bytes() == b"before"
    assert (path.read_bytes(), names(tmp_path)) == (b"whole", ["file"])


def test_a_draft_is_a_sibling_with_the_same_ending_and_a_block_that_writes_none_fails(tmp_path):
    with pytest.raises(FileNotFoundError), replaced(tmp_path / "model.keras") as draft:
        assert (draft.parent, draft.suffix, draft.exists()) == (tmp_path, ".keras", False)

    assert names(tmp_path) == []


def test_a_new_file_has_the_rights_that_the_user_wants_of_new_files(tmp_path):
    before = os.umask(0o027)
    try:
        with replaced_file(tmp_path / "file"):
            pass
    finally:
        os.umask(before)

    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o640


def test_a_draft_of_a_file_that_only_its_owner_reads_is_read_by_nobody_else(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"secret")
    path.chmod(0o640)

    with replaced(path) as draft:
        assert draft.stat().st_mode & 0o777 == 0o600
        draft.write_bytes(b"also secret")

    assert path.stat().st_mode & 0o777 == 0o640


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")
def test_a_file_that_root_replaces_keeps_its_owner(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"before")
    os.chown(path, 1234, 2345)

    with replaced_file(path) as file:
        file.write(b"after")

    assert (path.stat().st_uid, path.stat().st_gid, path.read_bytes()) == (1234, 2345, b"after")


@pytest.mark.parametrize(
    ("number", "hint"), [(errno.ENOSPC, "free some space"), (errno.EDQUOT, "free some space"), (errno.EROFS, "write")]
)
def test_a_write_error_becomes_an_output_error_with_fitting_advice(tmp_path, number, hint):
    with pytest.raises(OutputError) as caught, writing(tmp_path, "all is well"):
        raise OSError(number, os.strerror(number))

    assert caught.value.message == f"cannot write to {tmp_path}: {os.strerror(number)}; all is well"
    assert hint in caught.value.hint
    assert caught.value.exit_code == 11


def test_an_output_error_names_the_file_that_could_not_be_replaced(tmp_path):
    (tmp_path / "target").mkdir()

    with (
        pytest.raises(OutputError, match=r"target: Is a directory$"),
        writing(tmp_path),
        replaced_file(tmp_path / "target"),
    ):
        pass

    assert names(tmp_path) == ["target"]


def test_a_full_disk_under_sqlite_is_an_output_error_that_asks_for_space(tmp_path):
    connection = sqlite3.connect(tmp_path / "db")
    connection.execute("PRAGMA max_page_count = 2")
    connection.execute("CREATE TABLE t (x)")

    with pytest.raises(OutputError) as caught, writing(tmp_path):
        connection.execute("INSERT INTO t VALUES (zeroblob(100000))")

    assert "free some space" in caught.value.hint
    connection.close()


def test_a_full_disk_while_a_file_is_written_is_said_to_be_full():
    with pytest.raises(OutputError) as refusal, writing(Path("/dev")), open("/dev/full", "wb", 0) as file:
        file.write(b"x")

    assert "free some space" in refusal.value.hint


def test_a_disk_without_room_is_found_out_beforehand(tmp_path):
    require_space(tmp_path, 1)
    with pytest.raises(OutputError, match="MB free, a build may need") as caught:
        require_space(tmp_path, shutil.disk_usage(tmp_path).total + 1)

    assert caught.value.hint == "free some space and run it again"
