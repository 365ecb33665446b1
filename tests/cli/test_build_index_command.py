import os
import re
import shutil
import socket
import subprocess
import sys

import pytest

from drawn_catalog import draw_catalog

pytestmark = pytest.mark.usefixtures("quick_builds")


FAST = ("--backbone", "handcrafted")


def test_the_two_commands_of_the_readme_work_as_written(imgsearch, catalog, tmp_path):
    catalog.rename(tmp_path / "catalog")
    shutil.copy(tmp_path / "catalog" / "cups" / "cups-01.png", tmp_path / "photo.png")

    built = imgsearch("build-index", "./catalog")
    asked = imgsearch("query", "photo.png", "--top-k", "5")

    assert (built.returncode, built.stderr) == (0, "")
    assert (asked.returncode, asked.stderr) == (0, "")
    first = asked.stdout.splitlines()[3].split()
    assert first == ["1", "1.000", "cups/cups-01.png", "cups"]
    assert len(re.findall(r"^ \d ", asked.stdout, re.MULTILINE)) == 5


def test_a_run_without_a_terminal_says_one_line(imgsearch, catalog, snapshot):
    first = imgsearch("build-index", catalog, "--index", "idx", *FAST)
    second = imgsearch("build-index", catalog, "--index", "idx")

    assert first.stderr == second.stderr == ""
    snapshot("build.txt", first.stdout + second.stdout)


def test_quiet_says_nothing_and_verbose_says_more(imgsearch, catalog):
    (catalog / "empty.png").touch()
    (catalog / "link.png").symlink_to(catalog / "empty.png")

    quiet = imgsearch("build-index", catalog, "--index", "idx", "-q", *FAST)
    verbose = imgsearch("build-index", catalog, "--index", "other", "-v", *FAST)

    assert (quiet.returncode, quiet.stdout, quiet.stderr) == (3, "", "")
    assert "link not followed" in verbose.stderr


def test_bad_files_are_named_with_their_cause_once_and_exit_3(imgsearch, catalog):
    whole = next(catalog.rglob("*.png"))
    jpeg = draw_jpeg(whole)
    (catalog / "cut.jpg").write_bytes(jpeg[: len(jpeg) // 2])
    (catalog / "empty.png").touch()
    (catalog / "text.jpg").write_text("this is not an image")
    os.mkfifo(catalog / "fifo.png")
    whole.rename(catalog / "caf\udce9.png")

    first = imgsearch("build-index", catalog, "--index", "idx", *FAST)
    second = imgsearch("build-index", catalog, "--index", "idx")
    strict = imgsearch("build-index", catalog, "--index", "idx", "--strict")

    assert first.returncode == 3
    assert sorted(line.split(" (")[0] for line in first.stderr.splitlines()) == [
        "imgsearch: rejected cut.jpg: corrupt",
        "imgsearch: rejected empty.png: empty",
        "imgsearch: rejected fifo.png: not_regular_file",
        "imgsearch: rejected text.jpg: not_an_image",
    ]
    assert "24 embedded" in first.stdout
    assert (second.returncode, second.stderr) == (0, "")
    assert strict.returncode == 3
    listed = imgsearch("info", "--index", "idx", "--rejected").stdout
    assert [line.split()[0] for line in listed.splitlines()] == ["corrupt", "empty", "not_regular_file", "not_an_image"]


def test_thousands_of_files_of_one_bad_kind_do_not_fill_a_mailbox(imgsearch, catalog):
    for number in range(50):
        (catalog / f"{number}.svg").write_text("<svg/>")

    done = imgsearch("build-index", catalog, "--index", "idx", *FAST)

    assert done.returncode == 3
    assert len(done.stderr.splitlines()) == 21
    assert "rejected 30 more: unsupported_format" in done.stderr


def test_a_changed_catalog_embeds_only_what_is_new(imgsearch, catalog):
    imgsearch("build-index", catalog, "--index", "idx", *FAST)
    others = draw_catalog(catalog.parent / "others", per_kind=1, seed=9)
    shutil.copy(others[0], catalog / "new.png")
    shutil.copy(others[1], catalog / "cups" / "cups-00.png")
    (catalog / "fish" / "fish-00.png").rename(catalog / "renamed.png")
    (catalog / "tents" / "tents-00.png").unlink()

    done = imgsearch("build-index", catalog, "--index", "idx")

    assert "2 embedded, 1 renamed or copied, 2 removed, 21 unchanged" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["nowhere"], 2, "expected a folder of images, found nothing"),
        (["catalog", "--backend", "none"], 2, "backend must be one of auto, annoy, faiss, faiss-codes, exact"),
        (["catalog", "--trees", "0"], 2, "trees must be 1 to 10,000"),
        (["catalog", "--metadata", "none.csv"], 2, "expected a file of products"),
        (["catalog", "--backbone", "resnet"], 8, "did you mean resnet50?"),
        (["catalog", "--backbone", "vgg16", "--weights", "none.h5"], 8, "cannot be read"),
        (["catalog", "--index", "a_file/idx"], 11, "cannot write"),
        (["empty"], 9, "no image that can be used"),
    ],
)
def test_each_kind_of_failure_has_its_exit_code_and_one_line(imgsearch, catalog, tmp_path, arguments, code, said):
    (tmp_path / "a_file").touch()
    (tmp_path / "empty").mkdir()

    done = imgsearch("build-index", *arguments, *(() if "--backbone" in arguments else FAST))

    assert done.returncode == code
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / ".imgsearch" / "manifest.json").exists()


def test_a_vanished_catalog_is_refused_unless_forced(imgsearch, catalog):
    imgsearch("build-index", catalog, "--index", "idx", *FAST)
    for image in sorted(catalog.rglob("*.png"))[:20]:
        image.unlink()

    refused = imgsearch("build-index", catalog, "--index", "idx")
    forced = imgsearch("build-index", catalog, "--index", "idx", "--force")

    assert refused.returncode == 9
    assert "is the disk mounted?" in refused.stderr
    assert (forced.returncode, forced.stdout.count("20 removed")) == (0, 1)


def test_a_second_build_at_the_same_time_leaves_with_7(imgsearch, catalog, tmp_path):
    holder = (
        "import fcntl, os, time; os.makedirs('idx'); f = open('idx/lock', 'w'); fcntl.flock(f, fcntl.LOCK_EX);"
        "f.write('pid 1 on elsewhere'); f.flush(); print('held', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", holder], cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "held\n"
        done = imgsearch("build-index", catalog, "--index", "idx", *FAST)
    finally:
        process.kill()
        process.communicate()

    assert done.returncode == 7
    assert "pid 1 on elsewhere" in done.stderr


def test_a_build_opens_no_connection(catalog, tmp_path):
    program = (
        "import socket, sys\n"
        "def refuse(*_, **__): raise SystemExit('a connection was opened')\n"
        "socket.socket.connect = socket.create_connection = refuse\n"
        "from imgsearch.cli import main\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    command = [sys.executable, "-c", program, "build-index", str(catalog), "--index", "idx", *FAST]

    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)

    assert hasattr(socket.socket, "connect")
    assert (done.returncode, done.stderr) == (0, "")


def test_embed_then_build_index_answers_like_build_index_alone(imgsearch, catalog, tmp_path):
    query = next(catalog.rglob("stars-00.png"))
    imgsearch("build-index", catalog, "--index", "direct", *FAST)

    embedded = imgsearch("embed", catalog, "-o", "embeddings", *FAST)
    unasked = imgsearch("query", query, "--index", "embeddings")
    built = imgsearch("build-index", "embeddings", "--index", "staged")

    assert (embedded.returncode, built.returncode) == (0, 0)
    assert (unasked.returncode, "embeddings but no index" in unasked.stderr) == (5, True)
    assert (tmp_path / "embeddings" / "embeddings.npy").is_file()
    direct, staged = (
        imgsearch("query", query, "--index", index, "--format", "csv").stdout for index in ("direct", "staged")
    )
    assert direct == staged


def draw_jpeg(image):
    import cv2
    import numpy as np

    pixels = cv2.imdecode(np.frombuffer(image.read_bytes(), np.uint8), cv2.IMREAD_COLOR)
    return cv2.imencode(".jpg", pixels)[1].tobytes()
