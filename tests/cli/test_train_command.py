"""`imgsearch train`, the real program."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

SMALL = ("--architecture", "cnn", "--size", 24, "--dims", 16, "--batch-size", 16, "--epochs", 2)


@pytest.fixture(scope="module")
def labeled(tmp_path_factory) -> Path:
    """Eight drawn images of each of three kinds. Not to be changed."""
    from drawn_catalog import draw_catalog

    everything, folder = tmp_path_factory.mktemp("everything"), tmp_path_factory.mktemp("labeled")
    draw_catalog(everything, per_kind=8)
    for kind in ("balls", "stars", "tents"):
        (everything / kind).rename(folder / kind)
    return folder


def test_a_training_writes_a_model_and_its_history_and_says_one_line(imgsearch, labeled, tmp_path):
    done = imgsearch("train", labeled, "-o", "shop.keras", *SMALL)

    history = json.loads((tmp_path / "shop.history.json").read_text())
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout.splitlines()) == 1
    assert done.stdout.startswith("shop.keras: 3 classes, 21 images, 2 epochs; of 3 held out accuracy ")
    assert (len(history["epochs"]), history["rejected"]) == (2, [])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["shop.history.json", "shop.keras"]


def test_quiet_says_nothing_and_verbose_a_line_an_epoch(imgsearch, labeled):
    quiet = imgsearch("train", labeled, "-o", "quiet.keras", *SMALL, "-q")
    verbose = imgsearch("train", labeled, "-o", "verbose.keras", *SMALL, "-v")

    assert (quiet.returncode, quiet.stdout, quiet.stderr) == (0, "", "")
    lines = verbose.stderr.splitlines()
    assert [line.split(":")[1] for line in lines] == [" epoch 1 of 2", " epoch 2 of 2"]
    assert "val_accuracy" in lines[0]


def test_images_that_cannot_be_used_are_named_and_make_it_3(imgsearch, labeled, tmp_path):
    table = ["path,label"]
    for kind in ("balls", "stars"):
        table += [f"{kind}/{file.name},{kind}" for file in sorted((labeled / kind).iterdir())]
    photos = tmp_path / "photos"
    for kind in ("balls", "stars"):
        (photos / kind).mkdir(parents=True)
        for file in (labeled / kind).iterdir():
            (photos / kind / file.name).write_bytes(file.read_bytes())
    (photos / "balls" / "\x1b[31m.png").write_bytes(b"no image")
    table.append("balls/\x1b[31m.png,balls")
    (tmp_path / "labels.csv").write_text("\n".join(table) + "\n")

    done = imgsearch("train", "photos", "--labels", "labels.csv", "-o", "two.keras", *SMALL, "--batch-size", 8)

    assert done.returncode == 3
    assert done.stderr.splitlines()[0].startswith(r"imgsearch: rejected balls/\x1b[31m.png: not_an_image")
    assert "; 1 rejected (" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("missing", "-o", "m.keras"), 2, "expected a folder of images"),
        (("{labeled}/balls", "-o", "m.keras"), 2, "expected every image in the folder of a class"),
        (("{labeled}", "-o", "m.h5"), 2, "expected an output that ends in .keras"),
        (("{labeled}", "-o", "m.keras"), 2, "expected at least a batch of 64"),
        (("{labeled}", "-o", "m.keras", "--objective", "sort"), 2, ""),
        (("{labeled}", "-o", "m.keras", "--architecture", "vgg61"), 8, "no encoder is called 'vgg61'"),
        (("{labeled}",), 2, ""),
    ],
)
def test_what_cannot_be_is_refused_at_once_and_leaves_nothing(imgsearch, labeled, tmp_path, arguments, code, message):
    done = imgsearch("train", *(argument.format(labeled=labeled) for argument in arguments))

    assert done.returncode == code
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_backend_that_is_not_installed_is_missed_before_anything_else(imgsearch, labeled, tmp_path):
    (tmp_path / "hide").mkdir()
    (tmp_path / "hide" / "sitecustomize.py").write_text("import sys; sys.modules['jax'] = None\n")
    settings = os.environ | {"KERAS_BACKEND": "jax", "PYTHONPATH": str(tmp_path / "hide")}

    done = imgsearch("train", labeled, "-o", "m.keras", *SMALL, env=settings)

    assert (done.returncode, "jax" in done.stderr) == (8, True)
    assert not (tmp_path / "m.keras").exists()


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGTERM, 143), pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow)],
)
def test_a_signal_ends_a_training_cleanly_and_resume_goes_on(imgsearch, labeled, tmp_path, number, code):
    arguments = [*map(str, ("train", labeled, "-o", "shop.keras", *SMALL, "--epochs", 400))]
    before = signal.signal(number, signal.SIG_DFL)  # a test run in the background would have it ignored
    process = subprocess.Popen(
        [sys.executable, "-m", "imgsearch", *arguments], cwd=tmp_path, stderr=subprocess.PIPE, text=True
    )
    signal.signal(number, before)
    deadline = time.monotonic() + 100
    while not (tmp_path / "shop.keras.checkpoint" / "state.npz").exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)

    process.send_signal(number)
    _, errors = process.communicate(timeout=60)

    assert (process.returncode, errors) == (code, "")
    assert [path.name for path in tmp_path.iterdir()] == ["shop.keras.checkpoint"]
    assert [path.name for path in (tmp_path / "shop.keras.checkpoint").iterdir()] == ["state.npz"]
    other = imgsearch(*arguments, "--seed", 5, "--resume")
    assert (other.returncode, "has seed 0, not 5" in other.stderr) == (2, True)
