"""Options of build-index that say how careful it is to be: through the real program."""

import fcntl
import json
import os
import subprocess
import sys
import threading
import time

import cv2
import numpy as np
import pytest

from imgsearch.cli import main

pytestmark = pytest.mark.usefixtures("quick_builds")


FAST = ("--backbone", "handcrafted", "--backend", "exact")


@pytest.fixture
def manifest(tmp_path):
    """What is published now."""
    return lambda: json.loads((tmp_path / "idx" / "manifest.json").read_text())


@pytest.fixture
def build(imgsearch, catalog):
    def run(*options: object):
        return imgsearch("build-index", catalog, "--index", "idx", *options)

    return run


@pytest.fixture
def lock(tmp_path):
    """Hold the lock of the index; it is let go of when the descriptor is closed."""
    (tmp_path / "idx").mkdir()
    descriptor = os.open(tmp_path / "idx" / "lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    yield descriptor
    fcntl.flock(descriptor, fcntl.LOCK_UN)
    os.close(descriptor)


def test_a_build_that_waits_for_the_lock_goes_on_when_it_is_free(build, lock):
    release = threading.Timer(0.5, fcntl.flock, (lock, fcntl.LOCK_UN))
    started = time.monotonic()
    release.start()

    done = build("--wait-lock", 60, *FAST)

    assert (done.returncode, done.stderr) == (0, "")
    assert time.monotonic() - started > 0.5


@pytest.mark.parametrize(("options", "least"), [((), 0), (("--wait-lock", "0.5"), 0.5)])
def test_a_build_gives_up_waiting_for_the_lock_with_7_and_one_line(build, lock, tmp_path, options, least):
    started = time.monotonic()

    done = build(*options, *FAST)

    assert done.returncode == 7
    assert time.monotonic() - started > least
    assert len(done.stderr.splitlines()) == 2
    assert "hint: " in done.stderr
    assert [path.name for path in (tmp_path / "idx").iterdir()] == ["lock"]


@pytest.mark.slow
def test_embed_and_rollback_wait_for_the_lock_too(imgsearch, build, catalog, tmp_path):
    assert build(*FAST).returncode == 0
    assert build("--seed", 3).returncode == 0
    with (tmp_path / "idx" / "lock").open("r+") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert imgsearch("rollback", "--index", "idx").returncode == 7
        assert imgsearch("embed", catalog, "-o", "idx", *FAST[:2]).returncode == 7
        threading.Timer(1, fcntl.flock, (held, fcntl.LOCK_UN)).start()
        assert imgsearch("rollback", "--index", "idx", "--wait-lock", 30).returncode == 0


@pytest.mark.slow
def test_two_builds_at_once_that_wait_both_succeed_and_the_second_finds_nothing_to_do(catalog, tmp_path):
    command = [sys.executable, "-m", "imgsearch", "build-index", str(catalog), "--index", "idx", "--wait-lock", "60"]
    both = [subprocess.Popen([*command, *FAST], cwd=tmp_path, stdout=subprocess.PIPE, text=True) for _ in "ab"]

    said = sorted(process.communicate(timeout=300)[0] for process in both)

    assert [process.returncode for process in both] == [0, 0]
    assert "generation 1, nothing changed" in said[0] + said[1]
    assert "24 embedded" in said[0] + said[1]


def test_a_lock_left_by_a_dead_process_needs_no_hand(build, tmp_path):
    (tmp_path / "idx").mkdir()
    (tmp_path / "idx" / "lock").write_text("pid 4194303 on elsewhere\n")

    assert build(*FAST).returncode == 0


def test_more_unusable_files_than_expected_are_refused_and_nothing_is_lost(build, catalog, tmp_path, manifest):
    for number in range(3):
        (catalog / f"{number}.jpg").touch()

    refused = build("--max-skipped", 2, *FAST)

    assert refused.returncode == 9
    assert "3 files cannot be used, more than --max-skipped 2" in refused.stderr
    assert not (tmp_path / "idx" / "manifest.json").exists()
    assert [path for path in (tmp_path / "idx").iterdir() if path.name.startswith("gen-")] == []
    as_many = build("--max-skipped", 3, *FAST)
    assert (as_many.returncode, manifest()["rejected"]) == (3, 3)
    assert "24 embedded" in as_many.stdout


def test_after_a_refusal_the_next_run_publishes_without_embedding_anew(build, catalog, imgsearch, manifest, tmp_path):
    assert build(*FAST).returncode == 0
    (catalog / "new.png").write_bytes(next(catalog.rglob("*.png")).read_bytes() + b"\0")
    (catalog / "bad.png").write_text("bad")

    assert build("--max-skipped", 0).returncode == 9
    assert manifest()["generation"] == 1
    assert imgsearch("query", catalog / "cups/cups-00.png", "--index", "idx").returncode == 0
    done = build("--report", "report.json")

    counts = json.loads((tmp_path / "report.json").read_text())["counts"]
    assert (done.returncode, manifest()["generation"], manifest()["count"]) == (3, 2, 25)
    assert (counts["embedded"], counts["resumed"]) == (1, 1)


def test_strict_exits_3_for_every_rejected_file_and_otherwise_only_for_new_ones(build, catalog):
    (catalog / "old.png").touch()

    codes = [build(*FAST).returncode, build().returncode, build("--strict").returncode]
    (catalog / "old.png").unlink()
    codes += [build("--strict").returncode, build("--strict").returncode]

    assert codes == [3, 0, 3, 0, 0]


@pytest.mark.slow
def test_a_rejected_file_that_changes_and_is_rejected_again_is_no_news_but_one_that_comes_back_is(build, catalog):
    bad = catalog / "bad.png"
    bad.touch()
    codes = [build(*FAST).returncode]
    bad.write_text("still bad")
    codes.append(build().returncode)
    bad.unlink()
    codes.append(build().returncode)
    bad.touch()
    codes.append(build().returncode)

    assert codes == [3, 0, 0, 3]


def test_links_are_followed_when_asked_for_and_from_then_on(build, catalog, tmp_path, manifest):
    (tmp_path / "elsewhere").mkdir()
    image = next(catalog.rglob("*.png")).read_bytes()
    for number in range(2):
        (tmp_path / "elsewhere" / f"{number}.png").write_bytes(image + b"%d" % number)
    (catalog / "link").symlink_to(tmp_path / "elsewhere")
    (catalog / "round").symlink_to(catalog)
    (catalog / "link.png").symlink_to(tmp_path / "elsewhere" / "0.png")

    counts = []
    for options in (FAST, ("--follow-links",), (), ("--no-follow-links",), ()):
        assert build(*options).returncode == 0
        counts.append((manifest()["count"], manifest()["policy"]["follow_links"]))

    assert counts == [(24, False), (27, True), (27, True), (24, False), (24, False)]


def test_limits_are_remembered_by_later_builds(build, catalog, manifest, imgsearch):
    largest = max(path.stat().st_size for path in catalog.rglob("*.png"))
    wide, long = cv2.imencode(".png", np.zeros((300, 300, 3), np.uint8))[1].tobytes(), bytes(largest)

    first = build("--max-bytes", largest, "--max-pixels", 256 * 256, *FAST)
    (catalog / "wide.png").write_bytes(wide)
    (catalog / "long.png").write_bytes(long + b"\0")
    again = build()

    assert (first.returncode, again.returncode) == (0, 3)
    assert (manifest()["count"], manifest()["rejected"]) == (24, 2)
    assert (manifest()["policy"]["max_bytes"], manifest()["policy"]["max_pixels"]) == (largest, 256 * 256)
    causes = [line.split()[0] for line in imgsearch("info", "--index", "idx", "--rejected").stdout.splitlines()]
    assert causes == ["too_many_bytes", "too_large"]
    wider = build("--max-pixels", 300 * 300)
    assert (wider.returncode, manifest()["count"], manifest()["policy"]["max_bytes"]) == (0, 25, largest)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        *(("--max-bytes", value) for value in ("0", "-1", str(2**40), "many")),
        *(("--max-pixels", value) for value in ("0", str(2**40), "1.5")),
        *(("--max-skipped", value) for value in ("-1", "few")),
        *(("--wait-lock", value) for value in ("-1", "soon")),
        *(("--trees", value) for value in ("0", "10001")),
        *(("--seed", value) for value in ("-1", str(2**31))),
        ("--damaged", "maybe"),
    ],
)
def test_a_value_out_of_range_is_refused_before_anything_is_made(drawn, tmp_path, capsys, option, value):
    index = tmp_path / "idx"

    assert main(["build-index", str(drawn), "--index", str(index), f"{option}={value}", *FAST]) == 2
    assert "Traceback" not in capsys.readouterr().err
    assert not (index / "manifest.json").exists()


@pytest.mark.slow
def test_an_option_that_is_refused_changes_nothing_that_is_remembered(build, manifest):
    assert build(*FAST, "--max-bytes", 90_000_000).returncode == 0
    before = manifest()

    assert build("--max-bytes", 0).returncode == 2
    assert build("--max-pixels", 2**50).returncode == 2
    assert build().returncode == 0
    assert manifest() == before


def test_times_from_before_1970_and_far_in_the_future_are_times_like_others(build, catalog, manifest):
    images = sorted(catalog.rglob("*.png"))
    centuries = (-(10**18), -2_208_988_800 * 10**9, 7_258_118_400 * 10**9, 253_402_300_799 * 10**9)
    for image, time_ns in zip(images, (*centuries, -1, 0, 2**63 - 1, 2**63), strict=False):
        os.utime(image, ns=(0, time_ns))

    first, again = build(*FAST), build()
    os.utime(images[5], ns=(0, -(10**15)))  # a clock that was put back
    touched = build()

    assert [done.returncode for done in (first, again, touched)] == [0, 0, 0]
    assert "24 embedded" in first.stdout
    assert "nothing changed" in again.stdout
    assert "0 embedded, 1 renamed or copied, 0 removed, 23 unchanged" in touched.stdout
