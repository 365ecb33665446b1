"""What requirements-runtime.txt installs is enough: for builds, queries, evaluations and the service."""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# Of the core dependencies those that only these need: networks of Keras and training; visual words and calibration.
LEFT_OUT = {"keras", "tensorflow", "scikit-learn"}
# Processes that the program starts lack them, too.
WITHOUT_THEM = "import sys\nsys.modules.update(dict.fromkeys(('keras', 'tensorflow', 'sklearn', 'scipy', 'h5py')))\n"
# Runs each command, and says how it ended.
RUN = """
import contextlib, io, json, sys
from imgsearch.cli import main
import imgsearch.service.app, imgsearch.service.server
said = []
for command in json.loads(sys.argv[1]):
    streams = [io.TextIOWrapper(io.BytesIO(), write_through=True) for _ in range(2)]
    with contextlib.redirect_stdout(streams[0]), contextlib.redirect_stderr(streams[1]):
        code = main(command)
    said.append([code, *(stream.buffer.getvalue().decode() for stream in streams)])
print(json.dumps(said))
"""


def plain(requirement: str) -> str:
    """The name of a requirement as package indexes spell it."""
    name = re.match(r"[\w.-]+", requirement)
    return re.sub(r"[-_.]+", "-", name[0]).lower()


@pytest.fixture(scope="module")
def required() -> set[str]:
    lines = (ROOT / "requirements-runtime.txt").read_text().splitlines()
    return {line for line in lines if line and not line.startswith("#")}


def test_the_requirements_are_those_of_the_program_and_of_its_service_but_for_what_is_said_to_be_left_out(required):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    core, serve = (
        {plain(each) for each in group}
        for group in (project["dependencies"], project["optional-dependencies"]["serve"])
    )

    assert core >= LEFT_OUT
    assert required == (core - LEFT_OUT) | serve


def test_each_requirement_is_a_name_whose_version_is_pinned(required):
    pinned = {plain(line) for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line}

    assert {plain(each) for each in required} == required <= pinned


@pytest.fixture(scope="module")
def run(drawn, tmp_path_factory):
    """Run commands in a process that lacks what is left out, with a cache of its own."""
    work = tmp_path_factory.mktemp("lean")
    (work / "sitecustomize.py").write_text(WITHOUT_THEM)
    for file in sorted(drawn.rglob("*.png"))[:3]:
        (work / "catalog").mkdir(exist_ok=True)
        shutil.copy(file, work / "catalog")
    (work / "photo.png").write_bytes(next((work / "catalog").iterdir()).read_bytes() + b"\0")  # other bytes
    environment = os.environ | {"PYTHONPATH": str(work), "IMGSEARCH_CACHE": str(work / "cache")}

    def run(*commands: str) -> list[tuple[int, str, str]]:
        given = [command.split() for command in commands]
        process = [sys.executable, "-c", RUN, json.dumps(given)]
        done = subprocess.run(process, cwd=work, env=environment, capture_output=True, text=True, check=True)
        return json.loads(done.stdout)

    return run


def test_without_keras_and_scikit_learn_an_index_is_built_asked_and_evaluated_and_the_rest_says_what_to_install(run):
    wanted = {
        "build-index catalog --index idx": (0, "3 embedded"),
        "query photo.png -k 1 --index idx --format csv": (0, "photo.png,1,"),
        "evaluate --recall --index idx": (0, "1.0000"),
        "evaluate --self-test --calibrate --index idx": (8, "pip install scikit-learn"),
        "build-index catalog --index other --backbone visual-words": (8, "pip install scikit-learn"),
        "build-index catalog --index other --backbone vgg16": (8, "pip install keras tensorflow"),
        "embed catalog -o embedded --backbone resnet50": (8, "pip install keras tensorflow"),
        "models fetch vgg19": (8, "pip install keras tensorflow"),
        "train catalog -o mine.keras": (8, "pip install keras tensorflow"),
        "train catalog -o mine.keras --objective adapt": (8, "pip install keras tensorflow"),
        "train catalog -o mine.keras --objective detect": (8, "pip install keras tensorflow"),
    }

    answers = dict(zip(wanted, run(*wanted), strict=True))

    for command, (code, words) in wanted.items():
        found, out, err = answers[command]
        assert (found, words in out + err, "Traceback" in err) == (code, True, False), (command, out, err)
