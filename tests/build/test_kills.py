"""Builds that are killed or told to end at any moment: the real program, on a catalog that changes."""

import functools
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest

from imgsearch import Index, build_index, check
from imgsearch.cli import main
from imgsearch.errors import LockedError, NoIndexError
from imgsearch.store import generations
from imgsearch.store.generations import read_manifest


def paths(catalog):
    return {file.relative_to(catalog).as_posix() for file in catalog.rglob("*.png")}


def usual_signals():
    """In the background, or under nohup, a program would inherit that it ignores these."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


@pytest.fixture
def begin():
    """Start a build; `wait_for_orphans` waits until no process is left that it has started."""
    marks = []

    def start(*arguments, **options):
        marks.append(f"IMGSEARCH_TEST={uuid.uuid4()}")
        environment = os.environ | dict([marks[-1].split("=")])
        command = [sys.executable, "-m", "imgsearch", "build-index", *arguments]
        settings = {"env": environment, "stdin": subprocess.DEVNULL, "preexec_fn": usual_signals}
        return subprocess.Popen(command, **settings, **options)

    def orphans():
        """Name the processes that carry the mark of the last build."""
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            try:
                if marks[-1].encode() in (process / "environ").read_bytes():
                    found.append((process / "cmdline").read_bytes())
            except OSError:  # it has ended, or is another's
                continue
        return [line for line in found if line]  # one that has ended but is still listed has no command line

    start.orphans = orphans
    yield start
    assert orphans() == []


@pytest.fixture
def vary(lay_out):
    """Replace forty images of a catalog, so that it stays as large as it is."""
    count = 0

    def replace(catalog):
        nonlocal count
        count += 1
        lay_out(catalog, 40, first=1000 * count)
        for file in sorted(catalog.rglob("*.png"))[:40]:
            file.unlink()

    return replace


@pytest.fixture
def strike(work, begin, vary):
    """Send a signal to a build: as soon as it has begun, or at a moment until after it has published."""
    generator = random.Random(1)

    @functools.cache
    def seconds():
        vary(work / "catalog")
        started = time.monotonic()
        with begin(work / "catalog", "--index", work / "index", "--quiet") as process:
            process.wait()
        return time.monotonic() - started

    def send(process, number, *, at_once):
        if at_once:  # whatever else this machine is doing, it is far from its end then
            while not (work / "index" / generations.PARTIAL).exists() and process.poll() is None:
                time.sleep(0.005)
            process.send_signal(number)
            return
        while f"pid {process.pid} " not in (work / "index" / generations.LOCK).read_text() and process.poll() is None:
            time.sleep(0.005)
        try:
            process.wait(generator.uniform(0, 0.8) * seconds())
        except subprocess.TimeoutExpired:
            process.send_signal(number)

    send.prepare = seconds
    return send


@pytest.mark.parametrize("rounds", [1, pytest.param(200, marks=pytest.mark.slow)])
def test_a_build_killed_at_any_moment_leaves_the_old_or_the_new_index_and_no_litter(
    work, begin, vary, strike, look, contents, leftovers, figure, rounds
):
    catalog, directory = work / "catalog", work / "index"
    kills = {"before": 0, "after": 0}
    at_once = max(1, rounds // 3)
    strike.prepare()
    for number in range(rounds):
        generation, before = read_manifest(directory).generation, look(directory)
        vary(catalog)
        with begin(catalog, "--index", directory, "--quiet") as process:
            strike(process, signal.SIGKILL, at_once=number < at_once)
            process.wait()

        after = look(directory)
        published = read_manifest(directory).generation - generation
        assert after == before or published == 1
        if process.returncode == -signal.SIGKILL:
            kills["after" if published else "before"] += 1
        build_index(catalog, directory)
        if published:
            assert look(directory) == after
        assert set(contents(directory)) == paths(catalog)
        assert leftovers(directory) == []
        end_of_orphans(begin)
    build_index(catalog, work / "fresh", backbone="handcrafted", backend="exact")
    assert {path: embedding for path, (embedding, _) in contents(directory).items()} == {
        path: embedding for path, (embedding, _) in contents(work / "fresh").items()
    }
    figure("kills", kills)
    assert kills["before"] >= at_once


def end_of_orphans(begin):
    """Wait for the decoders of a killed build to see that they are alone."""
    deadline = time.monotonic() + 10
    while begin.orphans() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert begin.orphans() == []


@pytest.mark.slow  # test_crashes.py has one that dies at any call
def test_a_first_build_that_is_killed_leaves_no_index_and_the_next_goes_on(work, begin, tmp_path, contents, leftovers):
    directory = tmp_path / "first"
    with begin(work / "catalog", "--index", directory, "--backbone", "handcrafted", "--quiet") as process:
        while not (directory / generations.PARTIAL).exists() and process.poll() is None:
            time.sleep(0.01)
        process.kill()

    if process.returncode != -signal.SIGKILL:
        pytest.skip("the build was done before it could be killed")
    end_of_orphans(begin)
    with pytest.raises(NoIndexError):
        Index.open(directory)
    report = build_index(work / "catalog", directory, backbone="handcrafted")
    assert (report.count, leftovers(directory)) == (200, [])
    assert contents(directory) == contents(work / "index")


@pytest.mark.parametrize("rounds", [1, pytest.param(10, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "number",
    [
        signal.SIGHUP,
        # Fast tests of these are in tests/cli/test_signals.py.
        *(pytest.param(number, marks=pytest.mark.slow) for number in (signal.SIGINT, signal.SIGTERM)),
    ],
    ids=lambda number: number.name,
)
def test_a_build_told_to_end_at_any_moment_does_so_with_its_code_and_no_worker_or_litter(
    work, begin, vary, strike, look, unpublished, leftovers, figure, number, rounds
):
    catalog, directory = work / "catalog", work / "index"
    codes = []
    if rounds > 1:
        strike.prepare()
    for count in range(rounds):
        vary(catalog)
        before = look(directory)
        with begin(catalog, "--index", directory, "--quiet", stderr=subprocess.PIPE, text=True) as process:
            strike(process, number, at_once=count == 0)
            _, errors = process.communicate(timeout=60)

        after = look(directory)
        codes.append(process.returncode)
        # -number: the program was done, and Python was taking itself down.
        assert process.returncode in (0, 128 + number) or (process.returncode == -number and after != before)
        assert "Traceback" not in errors
        assert begin.orphans() == []
        assert unpublished(directory) == []
        build_index(catalog, directory)
        assert leftovers(directory) == []
        if after == before:
            assert process.returncode == 128 + number
        else:
            assert look(directory) == after
    figure("codes", codes)
    assert 128 + number in codes


def held(directory, process):
    """Wait until a build holds the lock, and stop it there."""
    while f"pid {process.pid} " not in (directory / generations.LOCK).read_text():
        assert process.poll() is None
        time.sleep(0.005)
    process.send_signal(signal.SIGSTOP)


def test_of_two_builds_at_once_the_second_leaves_with_7_unless_it_is_told_to_wait(
    work, begin, vary, capsys, contents, leftovers
):
    catalog, directory = work / "catalog", work / "index"
    vary(catalog)
    with begin(catalog, "--index", directory, "--quiet") as first:
        held(directory, first)
        try:
            command = ["build-index", str(catalog), "--index", str(directory)]
            assert main(command) == 7
            refused = capsys.readouterr()
            assert main([*command, "--wait-lock", "0.1"]) == 7
            with pytest.raises(LockedError):
                build_index(catalog, directory)
            with begin(catalog, "--index", directory, "--wait-lock", "30", stdout=subprocess.PIPE, text=True) as second:
                with pytest.raises(subprocess.TimeoutExpired):
                    second.wait(1)
                first.send_signal(signal.SIGCONT)
                waited, _ = second.communicate(timeout=60)
        finally:
            first.send_signal(signal.SIGCONT)

    assert refused.out == ""
    assert f"pid {first.pid} on " in refused.err
    assert (first.returncode, second.returncode) == (0, 0)
    assert "nothing changed" in waited
    assert set(contents(directory)) == paths(catalog)
    assert (check(directory, deep=True), leftovers(directory)) == ([], [])


def test_an_interrupted_build_whose_changes_are_undone_leaves_no_litter_either(
    work, begin, vary, look, leftovers, tmp_path
):
    catalog, directory = work / "catalog", work / "index"
    before = look(directory)
    shutil.copytree(catalog, tmp_path / "as it was")
    vary(catalog)
    with begin(catalog, "--index", directory, "--quiet") as process:
        while not (directory / generations.PARTIAL).exists():
            time.sleep(0.005)
        process.kill()
    shutil.rmtree(catalog)
    (tmp_path / "as it was").rename(catalog)

    assert build_index(catalog, directory).published is False
    assert (look(directory), leftovers(directory)) == (before, [])
    end_of_orphans(begin)
