import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from imgsearch.locks import exclusive_lock

pytestmark = pytest.mark.usefixtures("quick_preprocessing", "quick_builds")


LOCK = ".imgsearch-preprocess.lock"


def outputs(folder: Path) -> list[Path]:
    """Files under names that a user sees."""
    found = (path for path in folder.rglob("*") if not any(part[0] == "." for part in path.relative_to(folder).parts))
    return sorted(path for path in found if path.is_file())


def read(path: Path) -> np.ndarray:
    return cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_UNCHANGED)


def test_a_run_without_a_terminal_says_one_line(imgsearch, catalog, snapshot):
    first = imgsearch("preprocess", catalog, "out", "--size", 64)
    second = imgsearch("preprocess", catalog, "out", "--size", 64)
    next(catalog.rglob("*.png")).unlink()
    third = imgsearch("preprocess", catalog, "out", "--size", 64)

    assert [(done.returncode, done.stderr) for done in (first, second, third)] == [(0, "")] * 3
    snapshot("preprocess.txt", first.stdout + second.stdout + third.stdout)


def test_all_options_at_once(imgsearch, catalog, tmp_path):
    done = imgsearch(
        *("preprocess", catalog, "out", "--size", 48, "--fit", "crop", "--grayscale", "--binarize", "otsu"),
        *("--denoise", "--equalize", "--deskew", "--rotate", -90, "--crop-foreground", "--augment", 2),
        *("--to", "png", "--jobs", 2, "--seed", 7, "--strict", "-v"),
    )

    assert (done.returncode, done.stderr) == (0, "")
    files = outputs(tmp_path / "out")
    assert len(files) == 72
    for file in files:
        assert read(file).shape == (48, 48)
        assert set(np.unique(read(file))) <= {0, 255}


@pytest.mark.parametrize("ending", ["jpg", "webp", "npy"])
def test_every_format_can_be_written(imgsearch, catalog, tmp_path, ending):
    imgsearch("preprocess", catalog, "out", "--size", 40, "--to", ending, "--jobs", 1)

    files = outputs(tmp_path / "out")
    assert {file.suffix for file in files} == {f".{ending}"}
    assert (np.load(files[0]) if ending == "npy" else read(files[0])).shape == (40, 40, 3)


def test_what_it_writes_is_a_catalog_in_which_the_original_is_found(imgsearch, catalog):
    imgsearch("preprocess", catalog, "out", "--size", 128)
    built = imgsearch("build-index", "out", "--index", "idx", "--backbone", "handcrafted")
    asked = imgsearch("query", catalog / "cups" / "cups-01.png", "--index", "idx", "-k", 1, "--format", "paths")

    assert (built.returncode, asked.stdout) == (0, "cups/cups-01.png\n")


def test_bad_files_are_named_with_their_cause_once_and_exit_3(imgsearch, catalog):
    (catalog / "empty.png").touch()
    (catalog / "te\x1bxt.jpg").write_text("this is not an image")
    os.mkfifo(catalog / "fifo.png")

    first = imgsearch("preprocess", catalog, "out", "--size", 32)
    second = imgsearch("preprocess", catalog, "out", "--size", 32)
    strict = imgsearch("preprocess", catalog, "out", "--size", 32, "--strict")
    quiet = imgsearch("preprocess", catalog, "quiet", "--size", 32, "-q")

    assert first.returncode == 3
    assert sorted(line.split(" (")[0] for line in first.stderr.splitlines()) == [
        "imgsearch: rejected empty.png: empty",
        "imgsearch: rejected fifo.png: not_regular_file",
        r"imgsearch: rejected te\x1bxt.jpg: not_an_image",
    ]
    assert "24 made, 0 unchanged, 3 rejected" in first.stdout
    assert (second.returncode, second.stderr) == (0, "")
    assert "0 made, 24 unchanged, 3 rejected" in second.stdout
    assert (strict.returncode, quiet.returncode, quiet.stdout, quiet.stderr) == (3, 3, "", "")


def test_thousands_of_files_of_one_bad_kind_do_not_fill_a_mailbox(imgsearch, catalog):
    for number in range(50):
        (catalog / f"{number}.svg").write_text("<svg/>")

    done = imgsearch("preprocess", catalog, "out", "--size", 32)

    assert done.returncode == 3
    assert len(done.stderr.splitlines()) == 21
    assert "rejected 30 more: unsupported_format" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["nowhere", "out"], 2, "expected a folder of images, found nothing"),
        (["catalog", "catalog/out"], 2, "neither in the other"),
        (["catalog", "."], 2, "neither in the other"),
        (["catalog", "a_file"], 2, "expected a folder to write to, found a file"),
        (["catalog", "other"], 2, "found other files"),
        (["catalog", "out", "--to", "gif"], 2, "--to"),
        (["catalog", "out", "--fit", "none"], 2, "--fit"),
        (["catalog", "out", "--size", "0"], 2, "size must be 1 to"),
        (["catalog", "out", "--rotate", "200"], 2, "expected to rotate by -180 to 180 degrees"),
        (["catalog", "out", "--rotate", "nan"], 2, "found nan"),
        (["catalog", "out", "--binarize", "300"], 2, "a threshold of 0 to 255, found '300'"),
        (["catalog", "out", "--jobs", "0"], 2, "jobs must be 1"),
        (["catalog", "a_file/out"], 11, "cannot write"),
        (["empty", "out"], 9, "no image"),
    ],
)
def test_each_kind_of_failure_has_its_exit_code_and_one_line(imgsearch, catalog, tmp_path, arguments, code, said):
    (tmp_path / "a_file").touch()
    (tmp_path / "empty").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "mine.txt").touch()

    done = imgsearch("preprocess", *arguments)

    assert done.returncode == code
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_second_run_at_the_same_time_leaves_with_7(imgsearch, catalog, tmp_path):
    imgsearch("preprocess", catalog, "out", "--size", 32)
    with exclusive_lock(tmp_path / "out" / LOCK, "held by"):
        done = imgsearch("preprocess", catalog, "out", "--size", 32)

    assert (done.returncode, "another preprocess holds" in done.stderr) == (7, True)


def test_a_disk_that_is_full_leaves_whole_files_and_says_11(imgsearch, catalog, tmp_path):
    def small_files_only() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, resource.RLIM_INFINITY))

    done = imgsearch("preprocess", catalog, "out", "--size", 512, "--to", "npy", preexec_fn=small_files_only)

    assert (done.returncode, "cannot write to" in done.stderr) == (11, True)
    assert "Traceback" not in done.stderr
    assert outputs(tmp_path / "out") == []
    assert not (tmp_path / "out" / ".imgsearch-preprocess.tmp").exists()
    assert imgsearch("preprocess", catalog, "out", "--size", 64).returncode == 0


@pytest.fixture
def large_catalog(catalog, tmp_path) -> Path:
    """150 images, enough for seconds."""
    (tmp_path / "large").mkdir()
    images = [path.read_bytes() for path in sorted(catalog.rglob("*.png"))]
    for number in range(150):
        content = images[number % len(images)] + number.to_bytes(2)
        (tmp_path / "large" / f"{number}.png").write_bytes(content)
    return tmp_path / "large"


def heed_signals() -> None:
    """Undo what a test run in the background hands down: there, interrupts are ignored."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def start(folder: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "imgsearch", "preprocess", "large", "out", "--size", "400", "--jobs", "2"]
    return subprocess.Popen(
        command,
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=heed_signals,  # noqa: PLW1509  # no thread runs here
    )


def wait_for_outputs(process: subprocess.Popen[str], folder: Path, count: int) -> None:
    while process.poll() is None and len(outputs(folder)) < count:
        time.sleep(0.01)
    assert process.poll() is None, "it was done too soon"


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (signal.SIGTERM, 143),
        *(pytest.param(number, 128 + number, marks=pytest.mark.slow) for number in (signal.SIGINT, signal.SIGHUP)),
    ],
)
def test_an_interrupted_run_leaves_whole_files_and_no_worker_and_the_next_goes_on(
    imgsearch, large_catalog, tmp_path, number, code
):
    process = start(tmp_path)
    wait_for_outputs(process, tmp_path / "out", 10)
    process.send_signal(number)
    _, errors = process.communicate(timeout=300)

    assert (process.returncode, errors) == (code, "")
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)
    done = outputs(tmp_path / "out")
    assert 10 <= len(done) < 150
    assert not (tmp_path / "out" / ".imgsearch-preprocess.tmp").exists()
    assert {read(file).shape for file in done} == {(400, 400, 3)}
    again = imgsearch("preprocess", large_catalog, "out", "--size", 400)
    made, unchanged = (int(again.stdout.split(word)[0].split()[-1]) for word in (" made", " unchanged"))
    assert (made + unchanged, again.returncode) == (150, 0)
    assert unchanged >= len(done) - 1


@pytest.mark.slow
def test_a_killed_run_leaves_whole_files_only_and_the_next_goes_on(imgsearch, large_catalog, tmp_path):
    for count in (1, 80):
        process = start(tmp_path)
        wait_for_outputs(process, tmp_path / "out", count)
        process.kill()
        process.communicate()

        whole = outputs(tmp_path / "out")
        assert len(whole) >= count
        assert {read(file).shape for file in whole} == {(400, 400, 3)}

    again = imgsearch("preprocess", large_catalog, "out", "--size", 400)
    assert (again.returncode, again.stderr) == (0, "")
    assert len(outputs(tmp_path / "out")) == 150
    unchanged = int(again.stdout.split(" unchanged")[0].split()[-1])
    assert unchanged >= 64
    assert "0 made, 150 unchanged" in imgsearch("preprocess", large_catalog, "out", "--size", 400).stdout


def test_it_runs_from_cron_without_home_locale_or_input_and_with_names_that_are_not_utf_8(catalog, tmp_path):
    next(catalog.rglob("*.png")).rename(catalog / "caf\udce9.png")
    command = [sys.executable, "-m", "imgsearch", "preprocess", str(catalog), "out", "--size", "32"]
    settings = {"PATH": "/usr/bin:/bin", "PYTHONPATH": os.environ.get("PYTHONPATH", ""), "LC_ALL": "C"}

    done = subprocess.run(
        command, cwd=tmp_path, env=settings, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )

    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout.splitlines()) == 1
    assert (tmp_path / "out" / "caf\udce9.png").is_file()


def test_it_imports_no_library_of_networks(catalog, tmp_path):
    program = (
        "import json, sys; from imgsearch.cli import main; code = main(sys.argv[1:]);"
        "print(json.dumps([code, sorted({'tensorflow', 'keras', 'sklearn', 'openvino', 'annoy'} & set(sys.modules))]))"
    )
    command = [sys.executable, "-c", program, "preprocess", str(catalog), "out", "--size", "32"]

    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)

    assert json.loads(done.stdout.splitlines()[-1]) == [0, []]
