"""Links of a catalog: left alone unless they are asked for; then each folder is listed once."""

import os
import socket
import stat
from pathlib import Path

import pytest

from imgsearch.images.scan import FoundFile, Scan, file_time


def write(root: Path, *names: str, content: bytes = b"x") -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def scanned(root: Path, **options) -> tuple[list[str], dict[str, int]]:
    scan = Scan(str(root), follow_links=True, **options)
    return [found.path for found in scan], dict(scan.left_out)


def causes(root: Path) -> dict[str, str]:
    return {found.path: found.cause for found in Scan(str(root), follow_links=True)}


def test_links_to_files_are_files(tmp_path):
    write(tmp_path, "outside/b.jpg", "outside/b.txt", content=b"12345")
    write(tmp_path, "root/a.jpg")
    os.utime(tmp_path / "outside/b.jpg", ns=(0, 77))
    (tmp_path / "root/inside.jpg").symlink_to("a.jpg")
    (tmp_path / "root/outside.jpg").symlink_to(tmp_path / "outside/b.jpg")
    (tmp_path / "root/other.txt").symlink_to(tmp_path / "outside/b.txt")
    (tmp_path / "root/named.jpg").symlink_to(tmp_path / "outside/b.txt")

    scan = Scan(str(tmp_path / "root"), follow_links=True)
    found = {one.path: one for one in scan}

    assert sorted(found) == ["a.jpg", "inside.jpg", "named.jpg", "outside.jpg"]
    assert found["outside.jpg"] == FoundFile("outside.jpg", 5, 77)
    assert scan.left_out == {"other": 1}


def test_links_to_folders_are_folders_that_come_last(tmp_path):
    write(tmp_path, "outside/x.jpg", "outside/deep/y.jpg", "root/m.jpg", "root/z/n.jpg")
    (tmp_path / "root/b").symlink_to(tmp_path / "outside")

    assert scanned(tmp_path / "root") == (["m.jpg", "z/n.jpg", "b/x.jpg", "b/deep/y.jpg"], {})


def test_a_folder_of_the_catalog_is_listed_under_its_own_name_however_links_lead_to_it(tmp_path):
    write(tmp_path, "root/zz/deep/x.jpg", "root/m/y.jpg")
    for link, target in (("a", "zz"), ("b", "zz/deep"), ("m/c", "../zz"), ("zz/again", "."), ("zz/up", "..")):
        (tmp_path / "root" / link).symlink_to(target)

    assert scanned(tmp_path / "root") == (["m/y.jpg", "zz/deep/x.jpg"], {"link": 5})


def test_a_folder_elsewhere_is_listed_once_under_the_first_link(tmp_path):
    write(tmp_path, "outside/x.jpg", "outside/deep/y.jpg")
    (tmp_path / "root").mkdir()
    for link, target in (("b", "outside"), ("a", "outside/deep"), ("c", "outside")):
        (tmp_path / "root" / link).symlink_to(tmp_path / target)

    assert scanned(tmp_path / "root") == (["a/y.jpg", "b/x.jpg"], {"link": 2})


def test_links_that_lead_round_in_circles_end(tmp_path):
    write(tmp_path, "root/one/a.jpg", "root/two/b.jpg", "outside/c.jpg")
    (tmp_path / "root/one/to-two").symlink_to("../two")
    (tmp_path / "root/two/to-one").symlink_to("../one")
    (tmp_path / "root/out").symlink_to(tmp_path / "outside")
    (tmp_path / "outside/back").symlink_to(tmp_path / "root")
    (tmp_path / "outside/higher").symlink_to(tmp_path)

    files, left_out = scanned(tmp_path / "root")

    assert files == ["one/a.jpg", "two/b.jpg", "out/c.jpg"]
    assert left_out == {"link": 5}  # `higher` was listed: it holds the two folders that had been


def test_a_link_to_itself_or_to_nothing_costs_itself(tmp_path):
    write(tmp_path, "a.jpg")
    for name, target in (("loop.jpg", "loop.jpg"), ("loop", "loop"), ("x.jpg", "y.jpg"), ("y.jpg", "x.jpg")):
        (tmp_path / name).symlink_to(target)
    (tmp_path / "nothing.jpg").symlink_to("not/there.jpg")
    (tmp_path / "nothing").symlink_to("not/there")

    assert causes(tmp_path) == {
        "a.jpg": "",
        "loop.jpg": "unreadable",
        "x.jpg": "unreadable",
        "y.jpg": "unreadable",
        "nothing.jpg": "vanished",
    }
    assert scanned(tmp_path)[1] == {"other": 2}


def test_links_to_what_is_no_file_are_reported_without_being_opened(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(tmp_path / "socket"))
        for name, target in (("a.jpg", tmp_path / "fifo"), ("b.jpg", tmp_path / "socket"), ("c.jpg", "/dev/zero")):
            (tmp_path / name).symlink_to(target)

        assert causes(tmp_path) == dict.fromkeys(("a.jpg", "b.jpg", "c.jpg"), "not_regular_file")


def test_hidden_links_stay_hidden_but_a_link_to_what_is_hidden_is_followed(tmp_path):
    write(tmp_path, ".cache/a.jpg", ".b.jpg")
    (tmp_path / ".link").symlink_to(".cache")
    (tmp_path / "@eaDir").symlink_to(".cache")
    (tmp_path / "shown").symlink_to(".cache")
    (tmp_path / "shown.jpg").symlink_to(".b.jpg")

    assert scanned(tmp_path) == (["shown.jpg", "shown/a.jpg"], {"hidden": 4})


def test_an_index_that_a_link_leads_to_is_left_out(tmp_path):
    write(tmp_path, "outside/idx/x.jpg", "root/a.jpg")
    (tmp_path / "root/link").symlink_to(tmp_path / "outside/idx")

    files, left_out = scanned(tmp_path / "root", leave_out=lambda path: os.path.realpath(path).endswith("/idx"))

    assert (files, left_out) == (["a.jpg"], {"index": 1})


def test_names_that_are_not_utf_8_are_followed_both_ways(tmp_path):
    write(tmp_path, "outside/caf\udce9/x\udcff.jpg")
    (tmp_path / "root").mkdir()
    (tmp_path / "root/l\udcfe").symlink_to(tmp_path / "outside/caf\udce9")

    assert scanned(tmp_path / "root")[0] == ["l\udcfe/x\udcff.jpg"]


def test_the_root_may_be_a_link_itself(tmp_path):
    write(tmp_path, "real/a.jpg", "real/b/c.jpg")
    (tmp_path / "root").symlink_to("real")
    (tmp_path / "real/b/back").symlink_to(tmp_path / "root")

    assert scanned(tmp_path / "root") == (["a.jpg", "b/c.jpg"], {"link": 1})


def test_a_long_chain_of_links_is_followed_as_far_as_the_system_goes(tmp_path):
    write(tmp_path, "real/x.jpg", "y.jpg")
    previous = {"real": "real", "y.jpg": "y.jpg"}
    for number in range(50):  # Linux follows 40
        for start, target in previous.items():
            name = f"{number:02d}.jpg" if start == "y.jpg" else f"{number:02d}"
            (tmp_path / name).symlink_to(target)
            previous[start] = name

    found = causes(tmp_path)

    assert (found["39.jpg"], found["40.jpg"]) == ("", "unreadable")
    assert "real/x.jpg" in found


@pytest.mark.parametrize("follow", [False, True])
def test_what_is_left_out_is_counted_by_kind(tmp_path, follow):
    write(tmp_path, "a.jpg", "notes.txt", "README", ".hidden.jpg", ".git/x.jpg", "@eaDir/y.jpg", "idx/z.jpg", "b/c.doc")
    (tmp_path / "file.jpg").symlink_to("a.jpg")
    (tmp_path / "folder").symlink_to("b")

    scan = Scan(str(tmp_path), leave_out=lambda path: path.endswith("/idx"), follow_links=follow)
    files = [found.path for found in scan]

    assert files == (["a.jpg", "file.jpg"] if follow else ["a.jpg"])
    assert scan.left_out == {"hidden": 3, "index": 1, "link": 1 if follow else 2, "other": 3}


@pytest.mark.parametrize(
    ("time_ns", "known"),
    [
        (0, 0),
        (-1, -1),
        (-(10**18), -(10**18)),
        (2**63 - 1, 2**63 - 1),
        (2**63, 2**63 - 1),
        (-(2**63), -(2**63) + 1),
        (10**30, 2**63 - 1),
    ],
)
def test_a_time_is_what_fits_into_a_database(time_ns, known):
    class Status:
        st_mtime_ns = time_ns

    assert file_time(Status()) == known


@pytest.mark.parametrize("time_ns", [-(10**18), -1, 9_214_646_400 * 10**9, 2**63, 15 * 10**18])
def test_a_file_from_before_1970_or_after_2262_has_its_time_or_the_nearest_that_fits(tmp_path, time_ns):
    write(tmp_path, "a.jpg")
    os.utime(tmp_path / "a.jpg", ns=(0, time_ns))
    kept = (tmp_path / "a.jpg").stat().st_mtime_ns  # a file system may not go so far

    (found,) = Scan(str(tmp_path))

    assert found.mtime_ns == min(kept, 2**63 - 1)
    assert stat.S_ISREG((tmp_path / "a.jpg").stat().st_mode)
    assert found.cause == ""
