"""Signals to a build, and to what it has started: nothing is lost, nothing is left."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

FAST = ("--backbone", "handcrafted", "--backend", "exact")

CODES = {signal.SIGHUP: 129, signal.SIGINT: 130, signal.SIGTERM: 143}

NEW_IMAGES = 100 * len(os.sched_getaffinity(0))  # enough for half a second where nothing else runs


def session_of(process_id: int) -> dict[int, str]:
    """Processes of a session, with their command lines; those that have ended but for their parent's knowing not."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            state, _, _, session = (folder / "stat").read_text().rpartition(")")[2].split()[:4]
            if int(session) == process_id and state != "Z":
                found[int(folder.name)] = (folder / "cmdline").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def wait_until(happened: Callable[[], object], seconds: float = 300) -> None:
    """Wait; the limit is for programs that hang."""
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.01)


def workers_of(process_id: int) -> set[int]:
    """Decoder processes of a session."""
    return {
        one for one, command in session_of(process_id).items() if "-m\0imgsearch.images.workers.decoders" in command
    }


class Build:
    """A build that takes seconds, over an index of 24 images; a session of its own."""

    def __init__(self, folder: Path, prefix: tuple[str, ...] = ()) -> None:
        self.folder = folder
        command = [*prefix, sys.executable, "-m", "imgsearch", "build-index", "catalog", "--index", "idx"]
        self.process = subprocess.Popen(
            command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
        )

    def is_decoding(self) -> bool:
        assert self.process.poll() is None
        return bool(workers_of(self.process.pid))

    def is_prepared(self) -> bool:
        """Whether it has got as far as to handle signals itself."""
        assert self.process.poll() is None
        caught = re.search(r"^SigCgt:\s*(\w+)", Path(f"/proc/{self.process.pid}/status").read_text(), re.MULTILINE)
        return bool(int(caught[1], 16) >> (signal.SIGHUP - 1) & 1)

    def end(self) -> tuple[int, str]:
        """Wait for it; exit code and standard error."""
        _, errors = self.process.communicate(timeout=300)
        return self.process.returncode, errors

    def kill(self) -> None:
        for process_id in session_of(self.process.pid):
            os.kill(process_id, signal.SIGKILL)
        self.process.communicate()


@pytest.fixture
def shop(imgsearch, catalog, tmp_path) -> Path:
    """A catalog that has grown by many images since it was indexed."""
    assert imgsearch("build-index", catalog, "--index", "idx", *FAST).returncode == 0
    image = next(catalog.rglob("*.png")).read_bytes()
    (catalog / "new").mkdir()
    for number in range(NEW_IMAGES):
        (catalog / "new" / f"{number}.png").write_bytes(image + number.to_bytes(2))
    return tmp_path


@pytest.fixture
def start(shop):
    builds = []

    def started(*prefix: str) -> Build:
        builds.append(Build(shop, prefix))
        return builds[-1]

    yield started
    for build in builds:
        build.kill()


def answer(imgsearch) -> str:
    done = imgsearch("query", "catalog/cups/cups-01.png", "--index", "idx", "--format", "csv", "-k", 3)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.mark.parametrize(
    ("number", "send"),
    [
        pytest.param(signal.SIGINT, os.killpg, id="Ctrl-C in a terminal"),
        pytest.param(signal.SIGHUP, os.killpg, id="terminal closed", marks=pytest.mark.slow),
        pytest.param(signal.SIGTERM, os.kill, id="kill", marks=pytest.mark.slow),
        pytest.param(signal.SIGTERM, os.killpg, id="systemctl stop", marks=pytest.mark.slow),
        pytest.param(signal.SIGINT, os.kill, id="kill -INT", marks=pytest.mark.slow),
        pytest.param(signal.SIGHUP, os.kill, id="kill -HUP", marks=pytest.mark.slow),
    ],
)
def test_a_signal_ends_a_build_cleanly_and_the_next_goes_on(imgsearch, shop, start, number, send):
    before = answer(imgsearch)
    build = start()
    wait_until(build.is_decoding)
    send(build.process.pid, number)

    code, errors = build.end()

    assert (code, errors) == (CODES[number], "")
    assert session_of(build.process.pid) == {}
    assert {path.name for path in (shop / "idx").iterdir()} - {"partial.sqlite"} == {
        *("manifest.json", "lock", "encoders", "gen-000001")
    }
    assert answer(imgsearch) == before
    again = imgsearch("build-index", "catalog", "--index", "idx", "--report", "report.json")
    counts = json.loads((shop / "report.json").read_text())["counts"]
    assert (again.returncode, again.stderr) == (0, "")
    assert (counts["seen"], counts["embedded"], counts["rejected"]) == (24 + NEW_IMAGES, NEW_IMAGES, 0)
    assert not (shop / "idx" / "partial.sqlite").exists()


@pytest.mark.slow
def test_a_signal_at_any_moment_ends_a_build_cleanly(imgsearch, shop, start):
    before = answer(imgsearch)
    chance = random.Random(0)
    whole = start()
    wait_until(whole.is_prepared)
    started = time.monotonic()
    assert whole.end() == (0, "")
    seconds = time.monotonic() - started
    assert imgsearch("rollback", "--index", "idx").returncode == 0
    codes, published = [], 3
    for _ in range(60):
        build = start()
        number = chance.choice(list(CODES))
        wait_until(build.is_prepared)
        time.sleep(chance.uniform(0, seconds))
        os.killpg(build.process.pid, number)
        code, errors = build.end()
        codes.append(code)

        # As its last act Python gives signals back to the system; a shell does not see the difference.
        assert (code, errors) in ((CODES[number], ""), (-number, ""), (0, ""))
        assert session_of(build.process.pid) == {}
        assert imgsearch("check", "--deep", "--index", "idx").returncode == 0
        generation = json.loads((shop / "idx" / "manifest.json").read_text())["generation"]
        assert code or generation == published + 1
        if generation > published:  # it was done when the signal came: begin again
            assert imgsearch("rollback", "--index", "idx").returncode == 0
            published = generation + 1
        assert answer(imgsearch) == before
    assert any(codes)


@pytest.mark.slow
def test_under_nohup_a_build_outlives_its_terminal(start):
    build = start("nohup")
    wait_until(build.is_decoding)
    os.killpg(build.process.pid, signal.SIGHUP)

    code, errors = build.end()

    assert (code, errors.replace("nohup: ignoring input\n", "")) == (0, "")
    manifest = json.loads((build.folder / "idx" / "manifest.json").read_text())
    assert (manifest["generation"], manifest["count"], manifest["rejected"]) == (2, 24 + NEW_IMAGES, 0)


def test_a_killed_build_takes_its_workers_with_it(imgsearch, start):
    before = answer(imgsearch)
    build = start()
    wait_until(build.is_decoding)
    build.process.kill()
    build.process.wait()

    wait_until(lambda: session_of(build.process.pid) == {})
    assert answer(imgsearch) == before


def processor_seconds(process_id: int) -> float:
    """How long a process has computed: more than its start takes once it decodes."""
    user, system = Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def endless() -> bytes:
    """A progressive JPEG whose last scan is repeated: it takes a minute to decode, and changes nothing."""
    done, data = cv2.imencode(".jpg", np.zeros((4096, 4096, 3), np.uint8), [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])
    assert done
    jpeg = data.tobytes()
    last = jpeg.rindex(b"\xff\xda")
    return jpeg[:last] + jpeg[last:-2] * 12_000 + b"\xff\xd9"


DECODE_AN_ENDLESS_FILE = """
import sys
from pathlib import Path
from imgsearch.images.workers.decoders import DecodeWorker
DecodeWorker(8, "pad", seconds=2).decode(Path(sys.argv[1]).read_bytes())
"""


@pytest.mark.parametrize(
    "number",
    [pytest.param(signal.SIGKILL, id="killed"), pytest.param(signal.SIGSTOP, id="stopped", marks=pytest.mark.slow)],
)
def test_a_worker_that_is_stuck_ends_itself_when_its_parent_cannot(tmp_path, number):
    (tmp_path / "endless.jpg").write_bytes(endless())
    parent = subprocess.Popen(
        [sys.executable, "-c", DECODE_AN_ENDLESS_FILE, "endless.jpg"], cwd=tmp_path, start_new_session=True
    )

    try:
        wait_until(lambda: any(processor_seconds(worker) > 0.5 for worker in workers_of(parent.pid)))
        parent.send_signal(number)

        wait_until(lambda: not workers_of(parent.pid), seconds=45)  # much less than the file takes
    finally:
        parent.kill()
        parent.wait()


@pytest.mark.parametrize("ignored", [False, True])
def test_a_query_whose_reader_goes_away_ends_quietly_whether_or_not_sigpipe_is_ignored(small, drawn, ignored):
    ask = [
        sys.executable,
        "-m",
        "imgsearch",
        "query",
        *[drawn / "cups/cups-00.png"] * 100,
        "--index",
        str(small),
        "-k",
        "24",
    ]
    process = subprocess.Popen(
        [*ask, "--format", "jsonl"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, restore_signals=not ignored
    )
    process.stdout.readline()
    process.stdout.close()
    errors = process.stderr.read()
    process.stderr.close()

    assert (process.wait(), errors) == (0, b"")


def test_a_signal_during_a_query_is_quiet(small, drawn, tmp_path):
    reading, writing = os.pipe()
    ask = [sys.executable, "-m", "imgsearch", "query", "-", "--index", str(small), "--format", "jsonl"]
    for number, code in CODES.items():
        process = subprocess.Popen(
            ask, cwd=tmp_path, stdin=reading, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        os.write(writing, os.fsencode(drawn / "cups/cups-00.png") + b"\n")
        process.stdout.readline()  # it has answered, and waits for more
        process.send_signal(number)
        _, errors = process.communicate(timeout=300)

        assert (process.returncode, errors) == (code, "")
    os.close(reading)
    os.close(writing)


# The handler is called with a frame of Python's import, as it is by a signal that comes then.
SIGNALED_WHILE_IMPORTING = """
import contextlib, importlib, sys, time
from imgsearch import cli

class Finder:
    def find_spec(self, *_):
        frames.append(sys._getframe(1))

cli._SOON = 0.2
frames = []
sys.meta_path.insert(0, Finder())
with contextlib.suppress(ImportError):
    importlib.import_module("imgsearch.no_such_module")
del sys.meta_path[0]
try:
    cli._end(int(sys.argv[1]), frames[0])
    print("the import goes on", flush=True)
    time.sleep(60)
except KeyboardInterrupt:
    sys.exit(130)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_that_comes_while_python_imports_is_neither_lost_nor_leaves_a_lock_taken(number):
    command = [sys.executable, "-c", SIGNALED_WHILE_IMPORTING, str(int(number))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)

    assert (done.returncode, done.stdout, done.stderr) == (CODES[number], "the import goes on\n", "")
