"""What several tests need: images, a cache of their own, and the program itself."""

import logging
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from drawn_catalog import draw_catalog

pytest_plugins = ["index_fixtures"]


def pytest_addoption(parser):
    parser.addoption("--update-snapshots", action="store_true", help="write the snapshots anew; then read the diff")


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory):
    """No test reads or writes the user's cache; exported encoders are shared by the whole session."""
    folder = tmp_path_factory.mktemp("cache")
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
def drawn(tmp_path_factory) -> Path:
    """A catalog of 24 drawn products in 12 categories. Not to be changed: copy it."""
    folder = tmp_path_factory.mktemp("drawn")
    draw_catalog(folder, per_kind=2)
    return folder


@pytest.fixture
def catalog(drawn, tmp_path) -> Path:
    """A catalog of 24 drawn products that a test may change."""
    folder = tmp_path / "catalog"
    draw_catalog(folder, per_kind=2)
    return folder


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
def tiny_models(tmp_path_factory) -> Path:
    """A folder of small models that Keras has saved, as `tiny_models.py` describes them. Not to be changed: copy it."""
    folder = tmp_path_factory.mktemp("models")
    script = Path(__file__).with_name("tiny_models.py")
    subprocess.run([sys.executable, script, folder], check=True, capture_output=True, timeout=300)
    return folder
