"""Points of catalog images, kept in the index."""

import hashlib
import os
import shutil
import sqlite3
import subprocess
import sys
import zlib
from contextlib import closing

import numpy as np
import pytest

from imgsearch import Index, build_index, check
from imgsearch.regions.geometric import DESCRIPTOR_LENGTH, MOST_POINTS, POINTS_VERSION, Points
from imgsearch.search import descriptors
from imgsearch.search.descriptors import DESCRIPTORS, cache_points, cached_points


def sha256_of(number):
    return hashlib.sha256(b"%d" % number).digest()


def points_of(number, count=50):
    generator = np.random.default_rng(number)
    positions = generator.uniform(0, 1, (count, 2)).astype(np.float32)
    return Points(positions, generator.integers(0, 256, (count, DESCRIPTOR_LENGTH), np.uint8))


def same(found, expected):
    return (
        (found.positions == expected.positions).all()
        and (found.descriptors == expected.descriptors).all()
        and (found.positions.dtype, found.descriptors.dtype) == (np.float32, np.uint8)
    )


def works(folder):
    """Whether points that are kept now are found again."""
    cached_points(folder, [sha256_of(0)])  # as a query does first; what is of no use is thrown away here
    cache_points(folder, {sha256_of(7): points_of(7)})
    found = cached_points(folder, [sha256_of(7)])
    return list(found) == [sha256_of(7)] and same(found[sha256_of(7)], points_of(7))


def put(folder, content, data, crc32=None):
    """Write a row as a liar would, with the right checksum if he knows how."""
    crc32 = zlib.crc32(data, zlib.crc32(content)) if crc32 is None else crc32
    with closing(sqlite3.connect(folder / DESCRIPTORS)) as connection, connection:
        values = (content, data, crc32)
        connection.execute("INSERT OR REPLACE INTO points (sha256, points, crc32) VALUES (?, ?, ?)", values)


def test_what_is_kept_is_found_again(tmp_path):
    kept = {sha256_of(number): points_of(number, count) for number, count in enumerate((0, 1, 50, MOST_POINTS))}

    cache_points(tmp_path, kept)
    found = cached_points(tmp_path, [*kept, sha256_of(99)])

    assert set(found) == set(kept)
    assert all(same(found[content], points) for content, points in kept.items())


def test_nothing_is_found_and_nothing_is_made_where_nothing_was_kept(tmp_path):
    assert cached_points(tmp_path, [sha256_of(1)]) == {}
    assert list(tmp_path.iterdir()) == []


def test_the_same_image_is_kept_once(tmp_path):
    cache_points(tmp_path, {sha256_of(1): points_of(1)})
    cache_points(tmp_path, {sha256_of(1): points_of(2)})

    with closing(sqlite3.connect(tmp_path / DESCRIPTORS)) as connection:
        assert connection.execute("SELECT count(*) FROM points").fetchone() == (1,)
    assert same(cached_points(tmp_path, [sha256_of(1)])[sha256_of(1)], points_of(2))


def test_the_oldest_make_room(tmp_path, monkeypatch):
    one = 50 * (8 + DESCRIPTOR_LENGTH)
    monkeypatch.setattr(descriptors, "LIMIT", 20 * one)

    for number in range(50):
        cache_points(tmp_path, {sha256_of(number): points_of(number)})

    assert list(cached_points(tmp_path, map(sha256_of, range(50)))) == [*map(sha256_of, range(30, 50))]
    assert (tmp_path / DESCRIPTORS).stat().st_size < 1.5 * 20 * one


def test_the_file_takes_no_more_than_64_megabytes(tmp_path, monkeypatch):
    monkeypatch.setattr(descriptors, "LIMIT", descriptors.LIMIT // 10)
    for start in range(0, 240, 20):
        numbers = range(start, start + 20)
        cache_points(tmp_path, {sha256_of(number): points_of(number, MOST_POINTS - number) for number in numbers})

    assert 5_000_000 < (tmp_path / DESCRIPTORS).stat().st_size < 6_400_000


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"\0" * (8 + DESCRIPTOR_LENGTH - 1), id="not whole"),
        pytest.param(np.array([np.nan, 0], "<f4").tobytes() + bytes(DESCRIPTOR_LENGTH), id="not a number"),
        pytest.param(np.array([np.inf, 0], "<f4").tobytes() + bytes(DESCRIPTOR_LENGTH), id="infinite"),
        pytest.param(np.array([0, 1e9], "<f4").tobytes() + bytes(DESCRIPTOR_LENGTH), id="outside"),
        pytest.param(np.array([0, -0.1], "<f4").tobytes() + bytes(DESCRIPTOR_LENGTH), id="before"),
        pytest.param(bytes((MOST_POINTS + 1) * (8 + DESCRIPTOR_LENGTH)), id="too many"),
    ],
)
def test_a_row_that_is_no_set_of_points_is_not_believed(tmp_path, data):
    cache_points(tmp_path, {sha256_of(number): points_of(number) for number in (1, 2)})
    put(tmp_path, sha256_of(1), data)

    assert list(cached_points(tmp_path, [sha256_of(1), sha256_of(2)])) == [sha256_of(2)]


@pytest.mark.parametrize(("data", "crc32"), [("x" * 136, 0), (17, 0), (bytes(136), 1), (bytes(136), "x"), (b"", 5)])
def test_a_row_of_other_types_or_with_another_checksum_is_not_believed(tmp_path, data, crc32):
    cache_points(tmp_path, {sha256_of(2): points_of(2)})
    put(tmp_path, sha256_of(1), data, crc32)

    assert list(cached_points(tmp_path, [sha256_of(1), sha256_of(2)])) == [sha256_of(2)]


def other_version(path):
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA user_version = {POINTS_VERSION + 1}")


def endless_view(path):
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(
            "DROP TABLE points; CREATE VIEW points AS WITH RECURSIVE n(id) AS (SELECT 1 UNION ALL SELECT id FROM n)"
            " SELECT id, x'00' AS sha256, x'00' AS points, 0 AS crc32 FROM n"
        )


def trigger(path):
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TRIGGER t AFTER INSERT ON points BEGIN DELETE FROM points; END")


def other_columns(path):
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript("DROP TABLE points; CREATE TABLE points (sha256, points)")


def wrong_pages(path):
    data = bytearray(path.read_bytes())
    data[4096:] = b"\x7f" * (len(data) - 4096)
    path.write_bytes(data)


def huge(path):
    with path.open("r+b") as file:
        file.truncate(3 * descriptors.LIMIT)


@pytest.mark.parametrize(
    "damage",
    [
        other_version,
        endless_view,
        trigger,
        other_columns,
        wrong_pages,
        huge,
        pytest.param(lambda path: path.write_bytes(b""), id="empty"),
        pytest.param(lambda path: path.write_bytes(b"SQLite format 3\0" + b"\xff" * 5000), id="head only"),
        pytest.param(lambda path: path.write_text("these are not points"), id="text"),
        pytest.param(lambda path: path.write_bytes(path.read_bytes()[:10_000]), id="cut short"),
    ],
)
def test_a_file_that_is_of_no_use_is_made_anew(tmp_path, damage):
    cache_points(tmp_path, {sha256_of(number): points_of(number) for number in range(1, 6)})
    damage(tmp_path / DESCRIPTORS)

    found = cached_points(tmp_path, map(sha256_of, range(1, 6)))

    assert all(
        same(points, points_of(list(map(sha256_of, range(6))).index(content))) for content, points in found.items()
    )
    assert works(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [DESCRIPTORS]
    assert (tmp_path / DESCRIPTORS).stat().st_size < 1_000_000


def test_points_of_another_version_are_not_believed(tmp_path):
    cache_points(tmp_path, {sha256_of(1): points_of(1)})
    other_version(tmp_path / DESCRIPTORS)

    assert cached_points(tmp_path, [sha256_of(1)]) == {}


@pytest.mark.parametrize("place", range(0, 60_000, 1_777))
def test_no_changed_byte_gives_other_points(tmp_path, place):
    kept = {sha256_of(number): points_of(number) for number in range(8)}
    cache_points(tmp_path, kept)
    path = tmp_path / DESCRIPTORS
    data = bytearray(path.read_bytes())
    data[place % len(data)] ^= 0xFF
    path.write_bytes(data)

    found = cached_points(tmp_path, kept)

    assert all(same(points, kept[content]) for content, points in found.items())
    assert works(tmp_path)


def test_a_link_is_not_followed_out_of_the_index(tmp_path):
    (tmp_path / "index").mkdir()
    for target in (tmp_path / "missing", tmp_path / "there"):
        link = tmp_path / "index" / DESCRIPTORS
        link.symlink_to(target)
        if target.name == "there":
            target.write_bytes(b"")

        cache_points(tmp_path / "index", {sha256_of(1): points_of(1)})

        assert cached_points(tmp_path / "index", [sha256_of(1)]) == {}
        assert not target.exists() or target.read_bytes() == b""
        assert link.is_symlink()
        link.unlink()


def test_neither_a_device_nor_a_folder_is_waited_for(tmp_path):
    for make in (os.mkfifo, os.mkdir):
        make(tmp_path / DESCRIPTORS)

        cache_points(tmp_path, {sha256_of(1): points_of(1)})

        assert cached_points(tmp_path, [sha256_of(1)]) == {}
        assert (tmp_path / DESCRIPTORS).exists()
        (tmp_path / DESCRIPTORS).rmdir() if make is os.mkdir else (tmp_path / DESCRIPTORS).unlink()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_an_index_that_cannot_be_written_is_read_only(tmp_path, caplog):
    cache_points(tmp_path, {sha256_of(1): points_of(1)})
    (tmp_path / DESCRIPTORS).chmod(0o444)
    tmp_path.chmod(0o555)
    try:
        with caplog.at_level("DEBUG"):
            cache_points(tmp_path, {sha256_of(2): points_of(2)})
            found = cached_points(tmp_path, [sha256_of(1), sha256_of(2)])
    finally:
        tmp_path.chmod(0o755)

    assert list(found) == [sha256_of(1)]
    assert [record.levelname for record in caplog.records] == ["DEBUG"]


def test_a_folder_that_is_not_there_costs_the_points_only(tmp_path, caplog):
    with caplog.at_level("DEBUG"):
        cache_points(tmp_path / "missing", {sha256_of(1): points_of(1)})

    assert [record.levelname for record in caplog.records] == ["DEBUG"]
    assert not (tmp_path / "missing").exists()


def test_a_full_disk_costs_the_points_only(tmp_path, caplog):
    folder = shutil.which("prlimit") and tmp_path
    if not folder:
        pytest.skip("there is no prlimit")
    script = (
        "import sys, signal, numpy as np, pathlib\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "from imgsearch.search.descriptors import cache_points, cached_points\n"
        "from imgsearch.regions.geometric import Points\n"
        "folder = pathlib.Path(sys.argv[1])\n"
        "points = Points(np.zeros((400, 2), np.float32), np.zeros((400, 128), np.uint8))\n"
        "for number in range(20):\n"
        "    cache_points(folder, {bytes([number]) * 32: points})\n"
        "print(len(cached_points(folder, [bytes([number]) * 32 for number in range(20)])))\n"
    )
    command = ["prlimit", "--fsize=500000", sys.executable, "-c", script, str(tmp_path)]

    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)

    assert 0 < int(done.stdout) < 20
    assert works(tmp_path)


def test_processes_that_write_at_once_lose_no_points(tmp_path):
    script = (
        "import sys, hashlib, numpy as np, pathlib\n"
        "from imgsearch.search.descriptors import cache_points, cached_points\n"
        "from imgsearch.regions.geometric import Points\n"
        "points = Points(np.zeros((100, 2), np.float32), np.zeros((100, 128), np.uint8))\n"
        "first = int(sys.argv[2])\n"
        "for number in range(first, first + 15):\n"
        "    cached_points(pathlib.Path(sys.argv[1]), [b'x'])\n"
        "    cache_points(pathlib.Path(sys.argv[1]), {hashlib.sha256(b'%d' % number).digest(): points})\n"
    )
    commands = [[sys.executable, "-c", script, str(tmp_path), str(first)] for first in (0, 15, 30)]

    processes = [subprocess.Popen(command) for command in commands]

    assert [process.wait(60) for process in processes] == [0, 0, 0]
    assert len(cached_points(tmp_path, map(sha256_of, range(45)))) == 45


def test_another_process_that_writes_for_long_is_not_waited_for(tmp_path):
    cache_points(tmp_path, {sha256_of(1): points_of(1)})
    with closing(sqlite3.connect(tmp_path / DESCRIPTORS, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")

        cache_points(tmp_path, {sha256_of(2): points_of(2)})

        assert cached_points(tmp_path, [sha256_of(1)]) == {}
    assert list(cached_points(tmp_path, [sha256_of(1), sha256_of(2)])) == [sha256_of(1)]


def test_an_index_with_points_is_whole_and_can_be_built_again(work):
    cache_points(work / "index", {sha256_of(1): points_of(1)})

    assert check(work / "index", deep=True) == []
    (work / "catalog" / "a" / "0000.png").unlink()
    build_index(work / "catalog", work / "index")

    assert list(cached_points(work / "index", [sha256_of(1)])) == [sha256_of(1)]
    (work / "index" / DESCRIPTORS).unlink()
    assert check(work / "index") == []
    with Index.open(work / "index") as index:
        assert len(index) == 199
