"""`imgsearch train --objective detect`, the real program."""

import json
import os
import subprocess
import sys

import pytest

from drawn_catalog import draw_catalog


@pytest.fixture(scope="module")
def catalog(tmp_path_factory):
    folder = tmp_path_factory.mktemp("catalog")
    draw_catalog(folder, per_kind=1)
    (folder / "broken.jpg").write_bytes(b"nothing")
    return folder


@pytest.fixture
def imgsearch(tmp_path):
    """Run the real program in a folder of its own."""

    def run(*arguments):
        command = [sys.executable, "-m", "imgsearch", *map(str, arguments)]
        return subprocess.run(
            command, cwd=tmp_path, env=dict(os.environ), capture_output=True, text=True, timeout=900, check=False
        )

    return run


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--loss", "triplet"), "--loss is not for --objective detect"),
        (("--dims", "64"), "--dims is not for --objective detect"),
        (("--unfreeze", "2"), "--unfreeze is not for --objective detect"),
        (("--plots",), "--plots is not for --objective detect"),
        (("--architecture", "cnn"), "no encoder is called 'cnn'"),
        (("--epochs", "0"), "expected --epochs of 1 to 100,000"),
    ],
)
def test_options_of_other_objectives_are_refused(imgsearch, catalog, tmp_path, options, message):
    done = imgsearch("train", catalog, "-o", "d.keras", "--objective", "detect", *options)

    assert done.returncode in (2, 8)
    assert message in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("objective", ["classify", "metric", "adapt"])
def test_backgrounds_are_for_detectors_only(imgsearch, catalog, tmp_path, objective):
    done = imgsearch("train", catalog, "-o", "d.keras", "--objective", objective, "--backgrounds", tmp_path)

    assert done.returncode == 2
    assert f"--backgrounds is not for --objective {objective}" in done.stderr


@pytest.mark.slow
def test_a_training_writes_a_detector_and_its_history_and_says_one_line(imgsearch, catalog, tmp_path):
    done = imgsearch(
        "train",
        catalog,
        "-o",
        "d.keras",
        "--objective",
        "detect",
        "--epochs",
        "2",
        "--size",
        "96",
        "--batch-size",
        "8",
    )

    history = json.loads((tmp_path / "d.history.json").read_text())
    assert done.returncode == 3
    assert done.stderr.splitlines()[0].startswith("imgsearch: rejected broken.jpg: not_an_image")
    assert done.stdout.startswith("d.keras: 11 items, 2 epochs; on scenes of 1 held-out items AP50 ")
    assert [epoch["epoch"] for epoch in history["epochs"]] == [1, 2]
    assert history["epochs"][1]["loss"] < history["epochs"][0]["loss"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["d.history.json", "d.keras"]
