"""Indexes to ask, built once by the real program."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from drawn_catalog import draw_catalog


def build(catalog: Path, index: Path, *options: str) -> None:
    command = [sys.executable, "-m", "imgsearch", "build-index", str(catalog), "--index", str(index), *options]
    subprocess.run(command, check=True, capture_output=True, timeout=300)


@pytest.fixture(scope="session")
def small(drawn, tmp_path_factory) -> Path:
    """An index of the drawn catalog by the hand-crafted encoder. Not to be changed."""
    index = tmp_path_factory.mktemp("small") / "idx"
    build(drawn, index, "--backbone", "handcrafted", "--backend", "annoy")
    return index


@pytest.fixture(scope="session")
def network(drawn, tmp_path_factory) -> Path:
    """An index of the drawn catalog by the default encoder. Not to be changed."""
    index = tmp_path_factory.mktemp("network") / "idx"
    build(drawn, index, "--precision", "f32")
    return index


@pytest.fixture
def odd_catalog(tmp_path) -> Path:
    """Images whose names are attacks on terminals, spreadsheets and parsers."""
    drawn = draw_catalog(tmp_path / "scratch", per_kind=1)
    folder = tmp_path / "odd"
    folder.mkdir()
    names = ("=cmd().png", "@sum.png", "caf\udce9.png", "line\nbreak.png", "\x1b[31mred.png", "abc\u202egnp.png")
    for name, image in zip(names, drawn, strict=False):
        (folder / name).write_bytes(image.read_bytes())
    return folder


@pytest.fixture
def snapshot(request):
    """Compare text with a file beside the tests; `pytest --update-snapshots` writes the files anew."""

    def compare(name: str, text: str) -> None:
        steady = re.sub(r"\d+ ms", "N ms", re.sub(r"\(\d+\.\d s\)", "(N s)", text))
        file = Path(__file__).parent / "snapshots" / name
        if request.config.getoption("--update-snapshots"):
            file.parent.mkdir(exist_ok=True)
            file.write_text(steady)
        stored = file.read_text()
        assert _DECIMALS.sub("N", steady) == _DECIMALS.sub("N", stored)
        # By one in the last decimal processors differ.
        found, expected = (list(map(float, _DECIMALS.findall(each))) for each in (steady, stored))
        assert found == pytest.approx(expected, abs=1.5e-6)

    return compare


_DECIMALS = re.compile(r"-?\d+\.\d{6}\b")
