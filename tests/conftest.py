"""What several tests need: images, a cache of their own, and the program itself."""

import contextlib
import fcntl
import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from drawn_catalog import draw_catalog
from imgsearch.cli import main

pytest_plugins = ["index_fixtures", "vector_indexes"]


def pytest_addoption(parser):
    parser.addoption("--update-snapshots", action="store_true", help="write the snapshots anew; then read the diff")


@pytest.fixture(scope="session")
def shared(tmp_path_factory) -> Callable[[str, Callable[[Path], None]], Path]:
    """Fill a folder once for all processes of a test run: shared(name, fill). Not to be changed: copy it."""
    base = tmp_path_factory.getbasetemp()
    root = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base

    def fill_once(name: str, fill: Callable[[Path], None]) -> Path:
        folder, done = root / f"shared-{name}", root / f"shared-{name}.done"
        with (root / f"shared-{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not done.exists():
                shutil.rmtree(folder, ignore_errors=True)  # of a process in which it failed
                folder.mkdir()
                fill(folder)
                done.touch()
        return folder

    return fill_once


@pytest.fixture(scope="session", autouse=True)
def own_cache(shared):
    """No test reads or writes the user's cache; exported encoders are shared by all processes of a test run."""
    folder = shared("cache", lambda _: None)
    previous = os.environ.get("IMGSEARCH_CACHE")
    os.environ["IMGSEARCH_CACHE"] = str(folder)
    yield folder
    if previous is None:
        del os.environ["IMGSEARCH_CACHE"]
    else:
        os.environ["IMGSEARCH_CACHE"] = previous


@pytest.fixture(autouse=True)
def own_logging():
    """What the program run in this process did to the log, which is for a process of its own, lasts for one test."""
    logger = logging.getLogger("imgsearch")
    logger.handlers, logger.propagate = [], True
    logger.setLevel(logging.NOTSET)


@pytest.fixture(autouse=True)
def usual_signals():
    """Where tests run in the background or under nohup, programs would ignore the signals that are sent to them."""
    numbers = (signal.SIGINT, signal.SIGHUP, signal.SIGTERM)
    ignored = [number for number in numbers if signal.getsignal(number) is signal.SIG_IGN]
    for number in ignored:
        signal.signal(number, signal.SIG_DFL)
    yield
    for number in ignored:
        signal.signal(number, signal.SIG_IGN)


@pytest.fixture(scope="session")
def drawn(shared) -> Path:
    """A catalog of 24 drawn products in 12 categories. Not to be changed: copy it."""
    return shared("drawn", lambda folder: draw_catalog(folder, per_kind=2))


@pytest.fixture
def catalog(drawn, tmp_path) -> Path:
    """A catalog of 24 drawn products that a test may change."""
    return Path(shutil.copytree(drawn, tmp_path / "catalog"))


Program = Callable[..., subprocess.CompletedProcess[Any]]


@pytest.fixture
def imgsearch(tmp_path) -> Program:
    """Run the program in `tmp_path`, unless told otherwise: in this process, as `main` does.

    With an option of subprocess.run (`env`, `stdout`, ...) it has a process of its own; so it has with `process=True`.
    """

    def run(
        *arguments: object, cwd: Path = tmp_path, text: bool = True, process: bool = False, **options: Any
    ) -> subprocess.CompletedProcess[Any]:
        given = list(map(str, arguments))
        if process or options.keys() - {"input", "errors"}:
            command = [sys.executable, "-m", "imgsearch", *given]
            settings = {"capture_output": True, "text": text, "timeout": 120, **options}
            return subprocess.run(command, cwd=cwd, check=False, **settings)
        code, *written = run_in_process(given, cwd, options.get("input", ""))
        if text:
            written = [each.decode("utf-8", options.get("errors", "strict")) for each in written]
        return subprocess.CompletedProcess(given, code, *written)

    return run


def run_in_process(arguments: list[str], cwd: Path, given: str | bytes) -> tuple[int, bytes, bytes]:
    """Call `main` with files for standard streams; exit code, and what was written."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(contextlib.chdir(cwd))
        files = [stack.enter_context(tempfile.TemporaryFile()) for _ in range(3)]
        files[0].write(given.encode() if isinstance(given, str) else given)
        files[0].seek(0)
        for number, (name, file) in enumerate(zip(("stdin", "stdout", "stderr"), files, strict=True)):
            saved = os.dup(number)
            stack.callback(os.close, saved)
            stack.callback(os.dup2, saved, number)
            os.dup2(file.fileno(), number)
            mode, errors = ("r" if number == 0 else "w"), ("backslashreplace" if number == 2 else "strict")
            stream = open(number, mode, encoding="utf-8", errors=errors, closefd=False)  # noqa: SIM115
            stack.callback(setattr, sys, name, getattr(sys, name))
            stack.callback(stream.close)
            setattr(sys, name, stream)
        code = main(arguments)
        sys.stdout.flush()
        sys.stderr.flush()
        for file in files:
            file.seek(0)
        return code, files[1].read(), files[2].read()


@pytest.fixture(scope="session")
def in_process() -> Callable[[list[str], Path, str | bytes], tuple[int, bytes, bytes]]:
    """`run_in_process`, for tests that have more to say of how the program is run than `imgsearch` takes."""
    return run_in_process


@pytest.fixture(scope="session")
def tiny_models(shared) -> Path:
    """A folder of small models that Keras has saved, as `tiny_models.py` describes them. Not to be changed: copy it."""

    def fill(folder: Path) -> None:
        script = Path(__file__).with_name("tiny_models.py")
        subprocess.run([sys.executable, script, folder], check=True, capture_output=True, timeout=300)

    return shared("models", fill)
