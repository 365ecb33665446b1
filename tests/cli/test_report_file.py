"""`build-index --report FILE`: what it says is what happened."""

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from drawn_catalog import draw_catalog
from imgsearch.cli import main

pytestmark = pytest.mark.usefixtures("quick_builds")


FAST = ("--backbone", "handcrafted", "--backend", "exact")
# Stopped by permissions as others are: root gives up the capabilities that let it pass them by.
NO_PRIVILEGES = ("setpriv", "--bounding-set=-dac_override,-dac_read_search") if os.geteuid() == 0 else ()
NOTHING = {"embedded": 0, "renamed": 0, "removed": 0, "resumed": 0, "rejected_new": 0, "forgotten": 0}


@pytest.fixture
def build(imgsearch, tmp_path):
    """Build, and give exit code and report; a report from before must not be taken for it."""

    def run(*arguments: object, **options: object) -> tuple[int, dict]:
        (tmp_path / "report.json").write_text('{"exit_code": "stale"}')
        done = imgsearch("build-index", *arguments, "--index", "idx", "--report", "report.json", **options)
        assert "Traceback" not in (done.stderr or "")
        return done.returncode, json.loads((tmp_path / "report.json").read_text())

    return run


def add_up(report: dict, index: Path) -> dict:
    """Check what must hold for every report of a run that went well; return its counts."""
    counts = report["counts"]
    manifest = json.loads((index / "manifest.json").read_text())
    assert counts["seen"] == counts["unchanged"] + counts["renamed"] + counts["embedded"] + counts["rejected"]
    assert counts["seen"] - counts["rejected"] == manifest["count"]
    assert counts["rejected"] == manifest["rejected"] == sum(counts["rejected_by_cause"].values())
    assert counts["rejected"] == len(report["rejected"]) >= counts["rejected_new"]
    assert counts["damaged"] == manifest["damaged"] == len(report["damaged"])
    assert counts["resumed"] <= counts["embedded"]
    assert report["generation"] == manifest["generation"]
    *stages, total = report["seconds"].values()
    assert min(report["seconds"].values()) >= 0
    assert 0 <= total - sum(stages) + 0.01 < 1
    return counts


def images_in(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*.png") if path.is_file() and not path.is_symlink()]


def test_the_counts_of_a_first_build_an_update_and_a_run_without_changes_add_up(build, catalog, tmp_path):
    (catalog / "notes.txt").write_text("x")
    (catalog / ".hidden.png").touch()
    (catalog / "link.png").symlink_to("notes.txt")
    (catalog / "caf\udce9.png").write_text("no image")

    code, first = build(catalog, *FAST)

    counts = add_up(first, tmp_path / "idx")
    assert (code, first["exit_code"], first["published"]) == (3, 3, True)
    assert counts["seen"] == len(images_in(catalog)) - 1 == 25
    assert (counts["embedded"], counts["rejected"], counts["rejected_new"]) == (24, 1, 1)
    assert counts["left_out"] == {"hidden": 1, "link": 1, "other": 1}
    (rejected,) = first["rejected"]
    assert (rejected["path"], rejected["cause"]) == ("caf\udce9.png", "not_an_image")

    added, changed = draw_catalog(tmp_path / "others", per_kind=1, seed=9)[:2]
    shutil.copy(added, catalog / "added.png")
    shutil.copy(changed, catalog / "cups" / "cups-00.png")
    (catalog / "fish" / "fish-00.png").rename(catalog / "renamed.png")
    shutil.copy(catalog / "rings" / "rings-00.png", catalog / "copied.png")
    shutil.copy(catalog / "rings" / "rings-00.png", catalog / "copied-too.png")
    (catalog / "tents" / "tents-00.png").unlink()
    (catalog / "empty.png").touch()

    code, update = build(catalog)

    counts = add_up(update, tmp_path / "idx")
    assert (code, update["exit_code"], update["published"], update["generation"]) == (3, 3, True, 2)
    assert counts["seen"] == len(images_in(catalog)) - 1
    assert (counts["unchanged"], counts["embedded"], counts["renamed"], counts["removed"]) == (21, 2, 3, 2)
    assert counts["rejected_by_cause"] == {"empty": 1, "not_an_image": 1}
    assert [reject["path"] for reject in update["rejected"]] == ["caf\udce9.png", "empty.png"]
    assert update["rejected"][0] == rejected

    code, unchanged = build(catalog)

    counts = add_up(unchanged, tmp_path / "idx")
    assert (code, unchanged["exit_code"], unchanged["published"], unchanged["generation"]) == (0, 0, False, 2)
    assert {name: counts[name] for name in NOTHING} == NOTHING
    assert (counts["unchanged"], counts["rejected"], unchanged["images_per_second"]) == (26, 2, 0)

    code, strict = build(catalog, "--strict")

    assert (code, strict["exit_code"], strict["counts"]["rejected_new"]) == (3, 3, 0)


def test_what_a_build_had_done_that_published_nothing_is_counted_as_resumed(build, catalog, tmp_path):
    (catalog / "empty.png").touch()
    assert build(catalog, *FAST, "--max-skipped", 0)[0] == 9
    image = (catalog / "cups" / "cups-00.png").read_bytes()
    for number in range(6):
        (catalog / f"{number}.png").write_bytes(image + number.to_bytes(2))

    code, report = build(catalog, *FAST)

    counts = add_up(report, tmp_path / "idx")
    assert code == 3
    assert (counts["seen"], counts["embedded"], counts["resumed"]) == (31, 30, 24)
    rate = (counts["embedded"] - counts["resumed"]) / report["seconds"]["embed"]
    assert report["images_per_second"] == pytest.approx(rate, rel=0.02)


@pytest.mark.slow
def test_embeddings_as_a_catalog_have_a_report_too(build, imgsearch, catalog, tmp_path):
    (catalog / "empty.png").touch()
    imgsearch("embed", catalog, "-o", "embeddings", *FAST[:2])

    code, first = build("embeddings", "--backend", "exact")
    again_code, again = build("embeddings")

    for report in (first, again):
        counts = add_up(report, tmp_path / "idx")
        assert (counts["seen"], counts["unchanged"], counts["embedded"], counts["rejected"]) == (25, 24, 0, 1)
    assert (code, first["exit_code"], first["published"]) == (0, 0, True)
    assert (again_code, again["exit_code"], again["published"]) == (0, 0, False)


@pytest.mark.slow
def test_damaged_images_that_are_kept_are_named(build, catalog, tmp_path):
    import cv2
    import numpy as np

    pixels = cv2.imdecode(np.frombuffer(next(catalog.rglob("*.png")).read_bytes(), np.uint8), cv2.IMREAD_COLOR)
    jpeg = cv2.imencode(".jpg", pixels)[1].tobytes()
    (catalog / "cut.jpg").write_bytes(jpeg[: len(jpeg) // 2])

    code, report = build(catalog, "--damaged", "keep", *FAST)

    counts = add_up(report, tmp_path / "idx")
    assert (code, counts["embedded"], counts["damaged"], counts["rejected"]) == (0, 25, 1, 0)
    assert [one["path"] for one in report["damaged"]] == ["cut.jpg"]
    assert report["damaged"][0]["message"]


def test_time_and_memory_are_those_of_the_run(catalog, tmp_path):
    command = [sys.executable, "-m", "imgsearch", "build-index", str(catalog), "--index", "idx", *FAST]
    started = time.monotonic()
    process = subprocess.Popen([*command, "--report", "report.json", "-q"], cwd=tmp_path)
    _, status, used = os.wait4(process.pid, 0)
    seconds = time.monotonic() - started
    process.returncode = os.waitstatus_to_exitcode(status)

    report = json.loads((tmp_path / "report.json").read_text())
    assert process.returncode == 0
    assert set(report["seconds"]) == {"encoder", "scan", "check", "embed", "index", "total"}
    assert 0 < report["seconds"]["embed"] < report["seconds"]["total"] < seconds
    assert 20e6 < report["peak_rss_bytes"] <= 1024 * used.ru_maxrss


def hold_the_lock(tmp_path) -> int:
    (tmp_path / "idx").mkdir()
    descriptor = os.open(tmp_path / "idx" / "lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    return descriptor


def damage_the_index(tmp_path) -> None:
    (tmp_path / "idx").mkdir()
    (tmp_path / "idx" / "manifest.json").write_text('{"format": "imgsearch", "version": 99}')


FAILURES = {
    2: (["nowhere"], None),
    6: (["catalog"], damage_the_index),
    7: (["catalog"], hold_the_lock),
    8: (["catalog", "--backbone", "vgg61"], None),
    9: (["empty", *FAST], None),
    11: (["catalog"], lambda folder: (folder / "idx").symlink_to("/proc/nowhere")),
}


@pytest.mark.parametrize(("expected", "arguments", "prepare"), [(code, *how) for code, how in FAILURES.items()])
def test_a_run_that_fails_reports_its_exit_code_and_what_it_said(
    build, imgsearch, catalog, tmp_path, expected, arguments, prepare
):
    (tmp_path / "empty").mkdir()
    held = prepare(tmp_path) if prepare else None

    code, report = build(*arguments)
    said = imgsearch("build-index", *arguments, "--index", "idx").stderr

    if held:
        os.close(held)
    assert (code, report["exit_code"]) == (expected, expected)
    assert report["error"]["message"] in said
    assert report["error"]["hint"] in said
    assert set(report) == {"exit_code", "error"}


def test_a_bug_is_reported_as_one(monkeypatch, catalog, tmp_path, capsys):
    def broken(*_, **__):
        raise ZeroDivisionError

    monkeypatch.setattr("imgsearch.build.build.build_index", broken)
    report = tmp_path / "report.json"
    report.write_text('{"exit_code": "stale"}')

    assert main(["build-index", str(catalog), "--index", str(tmp_path / "idx"), "--report", str(report)]) == 1
    assert "ZeroDivisionError" in capsys.readouterr().err
    assert json.loads(report.read_text())["exit_code"] == 1


@pytest.mark.parametrize(
    "number",
    [signal.SIGTERM, *(pytest.param(number, marks=pytest.mark.slow) for number in (signal.SIGHUP, signal.SIGINT))],
)
def test_a_run_that_a_signal_ends_reports_that(catalog, tmp_path, number):
    image = (catalog / "cups" / "cups-00.png").read_bytes()
    for extra in range(300):
        (catalog / f"{extra}.png").write_bytes(image + extra.to_bytes(2))
    command = [sys.executable, "-m", "imgsearch", "build-index", str(catalog), "--index", "idx", *FAST]
    process = subprocess.Popen([*command, "--report", "report.json"], cwd=tmp_path, stderr=subprocess.PIPE)
    while not (tmp_path / "idx" / "partial.sqlite").exists():
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(number)
    _, errors = process.communicate(timeout=300)

    assert (process.returncode, errors) == (128 + number, b"")
    assert json.loads((tmp_path / "report.json").read_text())["exit_code"] == 128 + number


def test_a_lost_summary_is_the_exit_code_of_the_report_too(build, catalog):
    with open("/dev/full", "w") as full:
        options = {"capture_output": False, "stdout": full, "stderr": subprocess.PIPE}
        code, report = build(catalog, *FAST, **options)

    assert (code, report["exit_code"]) == (11, 11)


@pytest.mark.parametrize("place", ["missing/report.json", "a_file/report.json", "a_folder", "read_only/report.json"])
def test_a_report_that_cannot_be_written_is_found_out_before_anything_is_built(catalog, tmp_path, place):
    (tmp_path / "a_file").touch()
    (tmp_path / "a_folder").mkdir()
    (tmp_path / "read_only").mkdir(mode=0o500)
    command = [*NO_PRIVILEGES, sys.executable, "-m", "imgsearch", "build-index", catalog, "--index", "idx"]

    done = subprocess.run(
        [*command, "--report", place, *FAST], cwd=tmp_path, capture_output=True, text=True, check=False
    )

    assert done.returncode == 11
    assert len(done.stderr.splitlines()) == 1
    assert place in done.stderr
    assert not (tmp_path / "idx").exists()


def test_who_may_not_write_to_dev_may_still_report_to_a_device(tmp_path):
    program = (
        "import os, sys, imgsearch.cli, imgsearch.cli.build_report, imgsearch.build.build\n"
        "if os.geteuid() == 0: os.setuid(65534)\n"
        "sys.exit(imgsearch.cli.main(['build-index', '/nowhere', '--report', '/dev/null']))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)

    assert (done.returncode, "expected a folder of images" in done.stderr) == (2, True)


def test_a_report_may_go_to_a_fifo(imgsearch, catalog, tmp_path):
    os.mkfifo(tmp_path / "fifo")
    received = []
    reader = threading.Thread(target=lambda: received.append((tmp_path / "fifo").read_text()))
    reader.start()

    done = imgsearch("build-index", catalog, "--index", "idx", "--report", "fifo", *FAST)
    reader.join(timeout=300)

    assert done.returncode == 0
    assert json.loads(received[0])["counts"]["seen"] == 24
    assert (tmp_path / "fifo").is_fifo()


def test_a_report_on_standard_output_is_all_there_is_on_it_in_a_quiet_run(imgsearch, catalog):
    done = imgsearch("build-index", catalog, "--index", "idx", "-q", "--report", "/dev/stdout", *FAST)

    assert (done.returncode, json.loads(done.stdout)["counts"]["seen"]) == (0, 24)


@pytest.mark.parametrize(
    "name", ["/dev/stdout", *(pytest.param(name, marks=pytest.mark.slow) for name in ("/dev/fd/1", "/proc/self/fd/1"))]
)
def test_a_report_on_standard_output_is_added_to_a_log_that_is_appended_to(imgsearch, catalog, tmp_path, name):
    (tmp_path / "log").write_text("yesterday\n")
    arguments = ("build-index", catalog, "--index", "idx", "-q", "--report", name, *FAST)

    with (tmp_path / "log").open("a") as log:
        done = imgsearch(*arguments, capture_output=False, stdout=log)

    before, report = (tmp_path / "log").read_text().split("\n", 1)
    assert (done.returncode, before) == (0, "yesterday")
    assert json.loads(report)["counts"]["seen"] == 24


def test_a_reader_never_sees_half_a_report(imgsearch, catalog, tmp_path):
    for number in range(1500):
        (catalog / f"{number}.png").touch()
    seen, over = [], threading.Event()
    (tmp_path / "report.json").write_text('{"exit_code": "stale"}')

    def read() -> None:
        while not over.is_set():
            seen.append((tmp_path / "report.json").read_bytes())

    reader = threading.Thread(target=read)
    reader.start()
    codes = []
    for options in ((), ("--max-skipped", 2), ("--strict",)):
        (catalog / f"{len(codes)}.jpg").touch()  # news
        arguments = ("build-index", catalog, "--index", "idx", "--report", "report.json", *FAST, *options)
        codes.append(imgsearch(*arguments).returncode)
    over.set()
    reader.join()
    seen.append((tmp_path / "report.json").read_bytes())  # which the thread may have had no time for

    assert codes == [3, 9, 3]
    assert len(seen) > 100
    reports = [json.loads(text) for text in dict.fromkeys(seen)]
    assert [report["exit_code"] for report in reports] == ["stale", 3, 9, 3]
    assert len(reports[1]["rejected"]) == 1501
    assert sorted(path.name for path in tmp_path.iterdir()) == ["catalog", "idx", "report.json"]


def test_an_old_report_is_replaced_whatever_may_be_done_with_it_and_a_link_stays_one(imgsearch, catalog, tmp_path):
    (tmp_path / "real.json").write_text("old")
    (tmp_path / "real.json").chmod(0o444)
    (tmp_path / "link.json").symlink_to("real.json")

    done = imgsearch("build-index", catalog, "--index", "idx", "--report", "link.json", *FAST)

    assert done.returncode == 0
    assert (tmp_path / "link.json").is_symlink()
    assert json.loads((tmp_path / "real.json").read_text())["counts"]["seen"] == 24
