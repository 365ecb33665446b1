import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from imgsearch.images.scan import IMAGE_SUFFIXES, FoundFile, Scan, hint_for_unused, unused_in_words


def write(root, *names: str, content: bytes = b"x") -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def paths(root, **options) -> list[str]:
    return [found.path for found in Scan(str(root), **options)]


def test_folders_are_walked_to_any_depth(tmp_path):
    deep = "/".join(["d"] * 40) + "/x.jpg"
    write(tmp_path, "a.jpg", "b/c.png", deep)

    assert paths(tmp_path) == ["a.jpg", "b/c.png", deep]


def test_files_come_by_name_before_the_folders_beside_them(tmp_path):
    write(tmp_path, "b/z.jpg", "b/a.jpg", "a/y.jpg", "a/b/c.jpg", "z.jpg", "A.jpg", "\u00e9.jpg", "c.jpg")

    assert paths(tmp_path) == [
        *("A.jpg", "c.jpg", "z.jpg", "\u00e9.jpg"),
        *("a/y.jpg", "a/b/c.jpg", "b/a.jpg", "b/z.jpg"),
    ]


def test_the_order_does_not_depend_on_the_order_of_creation(tmp_path):
    names = [f"{letter}/{number}.jpg" for letter in "qwerty" for number in (10, 9, 1)]
    write(tmp_path / "one", *names)
    write(tmp_path / "two", *reversed(names))

    assert paths(tmp_path / "one") == paths(tmp_path / "two")
    assert sorted(names) == sorted(paths(tmp_path / "one"))


def test_hidden_files_and_folders_and_thumbnails_of_a_nas_are_left_out(tmp_path):
    write(tmp_path, "a.jpg", ".b.jpg", "._a.jpg", ".git/c.jpg", "@eaDir/d.jpg", "e/@eaDir/f.jpg", "e/.g/h.jpg")

    assert paths(tmp_path) == ["a.jpg"]


@pytest.mark.parametrize(
    "folder",
    [
        *("#recycle", "@Recycle", "$RECYCLE.BIN", "$Recycle.Bin", ".Trash-1000", "Network Trash Folder"),
        *("~snapshot", ".snapshot", "#snapshot", "@Recently-Snapshot", "lost+found", "System Volume Information"),
    ],
)
def test_what_was_deleted_and_snapshots_are_left_out_and_counted(tmp_path, folder):
    write(tmp_path, "a.jpg", f"{folder}/a.jpg", f"{folder}/hourly.0/a.jpg", f"shoes/{folder}/b.jpg", "shoes/c.jpg")

    scan = Scan(str(tmp_path))

    assert [file.path for file in scan] == ["a.jpg", "shoes/c.jpg"]
    assert scan.left_out == {"hidden": 2}


@pytest.mark.parametrize("folder", ["recycle", "recycled bags", "@home", "#1", "$", "~", "snapshot", "lost", "Trash"])
def test_folders_of_a_shop_that_are_called_alike_are_walked(tmp_path, folder):
    write(tmp_path, f"{folder}/a.jpg")

    assert paths(tmp_path) == [f"{folder}/a.jpg"]


def test_a_link_to_a_file_is_not_followed(tmp_path):
    write(tmp_path, "outside.jpg", "root/a.jpg")
    (tmp_path / "root/link.jpg").symlink_to(tmp_path / "outside.jpg")

    assert paths(tmp_path / "root") == ["a.jpg"]


def test_a_link_to_a_folder_is_not_followed(tmp_path):
    write(tmp_path, "outside/b.jpg", "root/a.jpg")
    (tmp_path / "root/link").symlink_to(tmp_path / "outside")
    (tmp_path / "root/link.jpg").symlink_to(tmp_path / "outside")

    assert paths(tmp_path / "root") == ["a.jpg"]


def test_loops_of_links_end(tmp_path):
    write(tmp_path, "a/b.jpg")
    (tmp_path / "a/parent").symlink_to("..")
    (tmp_path / "a/self").symlink_to(".")
    (tmp_path / "one.jpg").symlink_to("two.jpg")
    (tmp_path / "two.jpg").symlink_to("one.jpg")

    assert paths(tmp_path) == ["a/b.jpg"]


def test_dangling_links_are_passed_over(tmp_path):
    write(tmp_path, "a.jpg")
    (tmp_path / "gone.jpg").symlink_to(tmp_path / "nothing.jpg")

    assert paths(tmp_path) == ["a.jpg"]


def test_a_fifo_with_an_images_name_is_reported_without_being_opened(tmp_path):
    os.mkfifo(tmp_path / "x.jpg")

    (found,) = Scan(str(tmp_path))

    assert (found.path, found.cause) == ("x.jpg", "not_regular_file")


def test_a_socket_with_an_images_name_is_reported(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the address of a socket is at most 108 bytes
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("x.png")

        (found,) = Scan(str(tmp_path))

    assert (found.path, found.cause) == ("x.png", "not_regular_file")


def test_a_folder_with_an_images_name_is_walked_and_not_reported(tmp_path):
    write(tmp_path, "dir.jpg/inner.png")

    assert paths(tmp_path) == ["dir.jpg/inner.png"]


def test_names_that_are_not_utf_8_survive_the_round_trip(tmp_path):
    names = [b"caf\xe9.jpg", b"\xff\xfe/\x80.png", "日本.jpg".encode("euc-jp") + b".jpg"]
    for name in names:
        write(tmp_path, os.fsdecode(name), content=b"1234")

    found = list(Scan(str(tmp_path)))

    assert sorted(os.fsencode(one.path) for one in found) == sorted(names)
    assert all((tmp_path / one.path).stat().st_size == one.size == 4 for one in found)


def test_names_with_newlines_escapes_and_leading_dashes_are_kept(tmp_path):
    names = ["-rf.jpg", "a\nb.jpg", "a\x1b[31m.jpg", "$(pwned).jpg", "{0}%s.jpg", " .jpg", "=cmd().jpg"]
    write(tmp_path, *names)

    assert paths(tmp_path) == sorted(names)


def test_a_folder_that_cannot_be_listed_is_reported_and_the_rest_is_found(tmp_path):
    write(tmp_path, "a.jpg", "closed/b.jpg", "open/c.jpg")
    (tmp_path / "closed").chmod(0)
    # The temporary folder is for its owner only, so whoever gives up root's rights must be let through.
    for folder in (tmp_path, *tmp_path.parents):
        if folder == tmp_path or folder.name.startswith(("pytest-", "popen-")):
            folder.chmod(0o755)
    code = (
        "import os, sys; from imgsearch.images.scan import Scan; listing = os.getcwd();"
        "os.geteuid() == 0 and os.setuid(65534);"
        "print([(found.path, found.cause) for found in Scan(listing)])"
    )
    try:
        done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    finally:
        (tmp_path / "closed").chmod(0o755)

    assert done.stdout.strip() == str([("a.jpg", ""), ("closed", "unreadable"), ("open/c.jpg", "")]), done.stderr


def test_a_root_that_does_not_exist_is_reported_as_a_folder_that_cannot_be_listed(tmp_path):
    assert list(Scan(str(tmp_path / "missing"))) == [FoundFile(".", 0, 0, "vanished")]


def test_a_path_longer_than_the_system_allows_is_reported_by_name(tmp_path, monkeypatch):
    folder = "d" * 200
    monkeypatch.chdir(tmp_path)
    for _ in range(25):  # 5,000 bytes; the limit is 4,096
        Path(folder).mkdir()
        os.chdir(folder)
    os.chdir(tmp_path)

    (found,) = Scan(str(tmp_path))

    assert found.cause == "path_too_long"
    assert set(found.path.split("/")) == {folder}


def test_an_empty_folder_holds_nothing(tmp_path):
    (tmp_path / "a/b").mkdir(parents=True)

    assert paths(tmp_path) == []


def test_the_caller_may_leave_out_a_folder_with_all_below_it(tmp_path):
    write(tmp_path, "a.jpg", "index/b.jpg", "index/deep/c.jpg", "d/index/e.jpg")
    asked = []

    def leave_out(path: str) -> bool:
        asked.append(path)
        return path == str(tmp_path / "index")

    assert paths(tmp_path, leave_out=leave_out) == ["a.jpg", "d/index/e.jpg"]
    assert str(tmp_path / "index/deep") not in asked


@pytest.mark.parametrize("suffix", IMAGE_SUFFIXES)
def test_suffixes_of_images_are_known_in_upper_and_lower_case(tmp_path, suffix):
    write(tmp_path, f"a{suffix}", f"b{suffix.upper()}", f"c{suffix.title()}")

    assert paths(tmp_path) == [f"a{suffix}", f"b{suffix.upper()}", f"c{suffix.title()}"]


def test_files_without_an_images_suffix_are_passed_over(tmp_path):
    write(tmp_path, "a.txt", "b", "jpg", "c.jpg.part", "d.jpg~", "Thumbs.db", "e.pdf", "f.npy")

    assert paths(tmp_path) == []


@pytest.mark.parametrize("name", ["a.mpo", "a.pjpeg", "a.pjp", "a.apng"])
def test_names_that_cameras_and_browsers_give_to_images_are_images(tmp_path, name):
    write(tmp_path, name)

    assert paths(tmp_path) == [name]


def test_what_was_left_out_and_rejected_is_said_in_words(tmp_path):
    write(tmp_path, "a.jpg?v=1", "b.jpg_large", "C.JPG.tmp", "d", ".hidden.jpg")
    (tmp_path / "link.jpg").symlink_to("d")
    scan = Scan(str(tmp_path))

    assert list(scan) == []
    assert unused_in_words(scan.left_out, {}) == " (left out: 4 without an image's ending, 1 hidden, 1 linked)"
    assert unused_in_words({}, {"corrupt": 1200, "empty": 1}) == " (rejected: 1,200 corrupt, 1 empty)"
    assert unused_in_words({"index": 1}, {"empty": 2}) == " (left out: 1 of an index; rejected: 2 empty)"
    assert unused_in_words({}, {}) == ""


@pytest.mark.parametrize(
    ("left_out", "causes", "hint"),
    [
        ({}, {}, "is its disk mounted?"),
        ({"index": 1}, {}, "is its disk mounted?"),
        ({"other": 3, "link": 1}, {}, "an image's ending"),
        ({"link": 1, "hidden": 2}, {}, "--follow-links"),
        ({"hidden": 2}, {}, "begin with a dot"),
        ({"other": 3}, {"unsupported_format": 2}, "docs/formats.md"),
    ],
)
def test_only_a_folder_of_nothing_may_be_a_disk_that_is_not_mounted(left_out, causes, hint):
    assert hint in hint_for_unused(left_out, causes)


def test_size_and_time_of_change_are_those_of_the_file(tmp_path):
    write(tmp_path, "a.jpg", content=b"12345")
    os.utime(tmp_path / "a.jpg", ns=(1, 1_234_567_890_123_456_789))
    write(tmp_path, "before-1970.jpg", content=b"")
    os.utime(tmp_path / "before-1970.jpg", ns=(0, -1_000_000_001))

    assert list(Scan(str(tmp_path))) == [
        FoundFile("a.jpg", 5, 1_234_567_890_123_456_789),
        FoundFile("before-1970.jpg", 0, -1_000_000_001),
    ]


def test_names_that_differ_in_case_or_normal_form_are_different_files(tmp_path):
    names = ["photo.jpg", "Photo.jpg", "photo.png", "e\u0301.jpg", "\u00e9.jpg"]
    write(tmp_path, *names)

    assert sorted(paths(tmp_path)) == sorted(names)
