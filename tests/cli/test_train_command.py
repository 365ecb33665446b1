"""`imgsearch train`."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from drawn_catalog import draw_catalog
from imgsearch.cli import main
from training_options import draw_kinds

# Keras' variables do not know NumPy 2's keyword yet; Keras itself copies them when it saves a model.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")

SMALL = ("--architecture", "cnn", "--size", 16, "--dims", 8, "--batch-size", 8, "--epochs", 2)


@pytest.fixture(scope="module")
def labeled(tmp_path_factory) -> Path:
    """Eight drawn images of each of three kinds. Not to be changed."""
    return draw_kinds(tmp_path_factory.mktemp("labeled"), 8)


@pytest.fixture
def train(tmp_path, monkeypatch, capfd):
    """Run the command in `tmp_path`; return exit code, standard output and what imgsearch says on standard error."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> tuple[int, str, list[str]]:
        code = main(["train", *map(str, arguments)])
        printed = capfd.readouterr()
        assert "Traceback" not in printed.err
        return (
            code,
            printed.out,
            [line for line in printed.err.splitlines() if line.startswith(("imgsearch", "  hint"))],
        )

    return run


@pytest.mark.slow
def test_a_training_writes_a_model_and_its_history_and_says_one_line(train, labeled, tmp_path):
    code, printed, said = train(labeled, "-o", "shop.keras", *SMALL, "-v")

    history = json.loads((tmp_path / "shop.history.json").read_text())
    assert code == 0
    assert len(printed.splitlines()) == 1
    assert printed.startswith("shop.keras: 3 classes, 21 images, 2 epochs; of 3 held out accuracy ")
    assert [line.split(":")[1] for line in said] == [" epoch 1 of 2", " epoch 2 of 2"]
    assert "val_accuracy" in said[0]
    assert (len(history["epochs"]), history["rejected"]) == (2, [])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["shop.history.json", "shop.keras"]


@pytest.mark.slow
def test_images_that_cannot_be_used_are_named_and_make_it_3(train, labeled, tmp_path):
    table, photos = ["path,label"], tmp_path / "photos"
    for kind in ("balls", "stars"):
        (photos / kind).mkdir(parents=True)
        for file in (labeled / kind).iterdir():
            (photos / kind / file.name).write_bytes(file.read_bytes())
            table.append(f"{kind}/{file.name},{kind}")
    (photos / "balls" / "\x1b[31m.png").write_bytes(b"no image")
    table.append("balls/\x1b[31m.png,balls")
    (tmp_path / "labels.csv").write_text("\n".join(table) + "\n")
    arguments = ("photos", "--labels", "labels.csv", "-o", "two.keras", *SMALL, "--epochs", 1)

    code, printed, said = train(*arguments)

    assert code == 3
    assert said[0].startswith(r"imgsearch: rejected balls/\x1b[31m.png: not_an_image")
    assert "; 1 rejected (" in printed
    assert train(*arguments, "--quiet") == (3, "", [])


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("missing", "-o", "m.keras"), 2, "expected a folder of images"),
        (("{labeled}/balls", "-o", "m.keras"), 2, "expected every image in the folder of a class"),
        (("{labeled}", "-o", "m.h5"), 2, "the model must end in .keras"),
        (("{labeled}", "-o", "m.keras"), 2, "expected at least a batch of 64"),
        (("{labeled}", "-o", "m.keras", "--architecture", "vgg61"), 8, "no encoder is called 'vgg61'"),
    ],
)
def test_what_cannot_be_is_refused_at_once_and_leaves_nothing(train, labeled, tmp_path, arguments, code, message):
    found, printed, said = train(*(argument.format(labeled=labeled) for argument in arguments))

    assert (found, printed) == (code, "")
    assert message in said[0]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ((), 2, "expected a DATASET, found none"),
        (("photos",), 2, "expected --output MODEL.keras, found none"),
        (("photos", "-o", "m.keras", "--index", "i"), 2, "--index has no effect on --objective classify"),
        (("photos", "-o", "m.keras", "--wait-lock", 1), 2, "--wait-lock has no effect on --objective classify"),
        (("--objective", "recommend", "-o", "m.keras"), 2, "--output has no effect on --objective recommend"),
        (("--objective", "recommend", "--no-augment"), 2, "--augment has no effect on --objective recommend"),
        (("log.csv", "--objective", "recommend", "--epochs", 40), 2, "--epochs has no effect on --objective recommend"),
        (("--objective", "recommend", "--index", "missing", "--seed", 1), 5, "no index in missing"),
    ],
)
def test_what_belongs_to_another_objective_is_refused_by_name(train, tmp_path, arguments, code, message):
    found, printed, said = train(*arguments)

    assert (found, printed) == (code, "")
    assert message in said[0]
    assert list(tmp_path.iterdir()) == []


def test_an_index_that_the_environment_names_is_no_option_of_an_objective_without_one(train, monkeypatch):
    monkeypatch.setenv("IMGSEARCH_INDEX", "shop.idx")

    _, _, said = train("missing", "-o", "m.keras")

    assert "expected a folder of images" in said[0]


@pytest.mark.slow
def test_a_detector_is_trained_on_a_catalog_without_labels(train, tmp_path_factory, tmp_path):
    catalog = tmp_path_factory.mktemp("catalog")
    draw_catalog(catalog, per_kind=1)
    (catalog / "broken.jpg").write_bytes(b"nothing")
    options = ("--objective", "detect", "--epochs", 2, "--size", 96, "--batch-size", 8)

    code, printed, said = train(catalog, "-o", "d.keras", *options)

    history = json.loads((tmp_path / "d.history.json").read_text())
    assert code == 3
    assert said[0].startswith("imgsearch: rejected broken.jpg: not_an_image")
    assert printed.startswith("d.keras: 11 items, 2 epochs; on scenes of 1 held-out items AP50 ")
    assert [epoch["epoch"] for epoch in history["epochs"]] == [1, 2]
    assert history["epochs"][1]["loss"] < history["epochs"][0]["loss"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["d.history.json", "d.keras"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGTERM, 143), (signal.SIGINT, 130)],
)
def test_a_signal_ends_a_training_cleanly_and_resume_goes_on(train, labeled, tmp_path, number, code):
    arguments = [*map(str, (labeled, "-o", "shop.keras", *SMALL, "--epochs", 400))]
    before = signal.signal(number, signal.SIG_DFL)  # a test run in the background would have it ignored
    try:
        process = subprocess.Popen(
            [sys.executable, "-m", "imgsearch", "train", *arguments], cwd=tmp_path, stderr=subprocess.PIPE, text=True
        )
    finally:
        signal.signal(number, before)
    deadline = time.monotonic() + 300
    while not (tmp_path / "shop.keras.checkpoint" / "state.npz").exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)

    process.send_signal(number)
    _, errors = process.communicate(timeout=300)

    assert (process.returncode, errors) == (code, "")
    assert [path.name for path in tmp_path.iterdir()] == ["shop.keras.checkpoint"]
    assert [path.name for path in (tmp_path / "shop.keras.checkpoint").iterdir()] == ["state.npz"]
    other, _, said = train(*arguments, "--seed", 5, "--resume")
    assert (other, "has seed 0, not 5" in said[0]) == (2, True)
