"""What several tests need: images, a cache of their own, and the program itself."""

import fcntl
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from drawn_catalog import draw_catalog

pytest_plugins = ["index_fixtures"]


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


@pytest.fixture(scope="session")
def drawn(shared) -> Path:
    """A catalog of 24 drawn products in 12 categories. Not to be changed: copy it."""
    return shared("drawn", lambda folder: draw_catalog(folder, per_kind=2))


@pytest.fixture
def catalog(drawn, tmp_path) -> Path:
    """A catalog of 24 drawn products that a test may change."""
    return Path(shutil.copytree(drawn, tmp_path / "catalog"))


Program = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def imgsearch(tmp_path) -> Program:
    """Run the real program in a process of its own, in `tmp_path` unless told otherwise."""

    def run(*arguments: object, cwd: Path = tmp_path, **options: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "imgsearch", *map(str, arguments)]
        settings = {"capture_output": True, "text": True, "timeout": 120, **options}
        return subprocess.run(command, cwd=cwd, check=False, **settings)

    return run


@pytest.fixture(scope="session")
def tiny_models(shared) -> Path:
    """A folder of small models that Keras has saved, as `tiny_models.py` describes them. Not to be changed: copy it."""

    def fill(folder: Path) -> None:
        script = Path(__file__).with_name("tiny_models.py")
        subprocess.run([sys.executable, script, folder], check=True, capture_output=True, timeout=300)

    return shared("models", fill)
