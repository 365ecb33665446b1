"""What `-o`, `--report` and `--json` must not cost: images, the index, the metadata, the mode of a file."""

import os
import shutil
import stat
from pathlib import Path

import pytest

from imgsearch import build_index

pytestmark = pytest.mark.usefixtures("quick_builds")


IMAGE = "catalog/cups/cups-00.png"


@pytest.fixture
def shop(drawn, small, tmp_path, monkeypatch) -> Path:
    """A folder with a catalog, its index with metadata, and a photo under three names."""
    shutil.copytree(drawn, tmp_path / "catalog")
    shutil.copytree(small, tmp_path / "idx")
    (tmp_path / "metadata.csv").write_text("path,price\ncups/cups-00.png,5\n")
    build_index(tmp_path / "catalog", tmp_path / "idx", metadata=tmp_path / "metadata.csv")
    shutil.copy(tmp_path / IMAGE, tmp_path / "photo.png")
    os.link(tmp_path / "photo.png", tmp_path / "linked.png")
    (tmp_path / "symlinked.png").symlink_to("photo.png")
    (tmp_path / "list.txt").write_text("catalog/fish/fish-00.png\nphoto.png\n")
    return tmp_path


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


QUERY = ("query", "--index", "idx", "-k", "1", "--format")


@pytest.mark.parametrize("form", ["table", "json", "csv", "paths", "html"])
@pytest.mark.parametrize(("output", "image"), [("photo.png", "photo.png"), ("photo.png", "./catalog/../photo.png")])
def test_an_output_that_would_replace_a_query_is_refused(imgsearch, shop, form, output, image):
    before = contents(shop)

    done = imgsearch(*QUERY, form, "catalog/fish/fish-00.png", image, "-o", output)

    assert (done.returncode, done.stdout) == (2, "")
    assert "expected a file of its own for the output, found one of the images: photo.png" in done.stderr
    assert contents(shop) == before


@pytest.mark.parametrize(
    ("asked", "what"),
    [
        (("photo.png", "-o", "linked.png"), "one of the images"),
        (("linked.png", "-o", "photo.png"), "one of the images"),
        (("photo.png", "-o", "symlinked.png"), "one of the images"),
        (("symlinked.png", "-o", "photo.png"), "one of the images"),
        (("photo.png", "-o", IMAGE), "an image of the catalog"),
        (("photo.png", "-o", "metadata.csv"), "the metadata"),
        (("photo.png", "-o", "idx/manifest.json"), "outside of the index"),
        (("photo.png", "-o", "idx/answers.json"), "outside of the index"),
    ],
    ids=str,
)
def test_so_is_one_by_another_name_and_one_that_would_cost_the_catalog_or_the_index(imgsearch, shop, asked, what):
    before = contents(shop)

    done = imgsearch(*QUERY, "paths", *asked)

    assert (done.returncode, done.stdout, what in done.stderr) == (2, "", True)
    assert contents(shop) == before


@pytest.mark.parametrize("end", [(), ("-0",)])
def test_a_listed_image_is_refused_when_it_is_read_and_the_list_itself_at_once(imgsearch, shop, end):
    before = contents(shop)
    names = b"catalog/fish/fish-00.png\nphoto.png\n".replace(b"\n", b"\0" if end else b"\n")

    with (shop / "list.txt").open("rb") as listed:
        of_list = imgsearch(*QUERY, "paths", "-", *end, "-o", "list.txt", stdin=listed)
    of_image = imgsearch(*QUERY, "paths", "-", *end, "-o", "photo.png", input=names.decode())

    assert (of_list.returncode, of_image.returncode) == (2, 2)
    assert "found the list of images: list.txt" in of_list.stderr
    assert "found one of the images: photo.png" in of_image.stderr
    assert contents(shop) == before


def test_a_model_is_not_replaced_by_what_it_answers(imgsearch, tiny_models, photo, tmp_path):
    model = Path(shutil.copy(tiny_models / "classes.keras", tmp_path / "classes.keras"))
    before = model.read_bytes()

    done = imgsearch("classify", photo, "--model", model, "-o", model)

    assert (done.returncode, "found the model" in done.stderr) == (2, True)
    assert model.read_bytes() == before


@pytest.mark.parametrize(
    ("asked", "what"),
    [
        (("build-index", "catalog", "--index", "idx", "--report", IMAGE), "an image of the catalog"),
        (("build-index", "catalog", "--index", "idx", "--report", "idx/manifest.json"), "outside of the index"),
        (("build-index", "catalog", "--index", "idx", "--report", "m.csv", "--metadata", "m.csv"), "the metadata"),
        (("evaluate", "--index", "idx", "--json", IMAGE), "an image of the catalog"),
        (("evaluate", "--index", "idx", "--json", "metadata.csv"), "the metadata"),
        (("evaluate", "--index", "idx", "--queries", "catalog", "--truth", "m.csv", "--json", "m.csv"), "the ground"),
    ],
    ids=str,
)
def test_reports_replace_nothing_of_value_either(imgsearch, shop, asked, what):
    shutil.copy(shop / "metadata.csv", shop / "m.csv")
    before = contents(shop)

    done = imgsearch(*asked)

    assert (done.returncode, what in done.stderr) == (2, True), done.stderr
    assert contents(shop) == before


def test_other_files_in_the_catalog_are_written_and_new_ones_too(imgsearch, shop):
    for name in ("catalog/answers.html", "catalog/answers.html", "catalog/new.svg", "photo.csv"):
        assert imgsearch(*QUERY, "html", "photo.png", "-o", name).returncode == 0
        assert (shop / name).stat().st_size > 0


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o664, 0o444, 0o755])
def test_a_file_that_is_replaced_keeps_its_mode_by_its_name_and_through_a_link(imgsearch, shop, mode):
    (shop / "answers").write_text("before")
    (shop / "answers").chmod(mode)
    (shop / "link").symlink_to("answers")

    for name in ("answers", "link"):
        assert imgsearch(*QUERY, "paths", "photo.png", "-o", name).returncode == 0

    assert stat.S_IMODE((shop / "answers").stat().st_mode) == mode
    assert (shop / "link").is_symlink()
    assert (shop / "answers").read_text() == "cups/cups-00.png\n"


def test_standard_output_by_its_name_a_pipe_and_a_device_are_written_to_as_before(imgsearch, shop):
    reader = os.open(shop / "fifo", os.O_RDONLY | os.O_NONBLOCK) if os.mkfifo(shop / "fifo") is None else 0

    assert imgsearch(*QUERY, "paths", "photo.png", "-o", "/dev/stdout").stdout == "cups/cups-00.png\n"
    assert imgsearch(*QUERY, "paths", "photo.png", "-o", "/dev/null").returncode == 0
    assert imgsearch(*QUERY, "paths", "photo.png", "-o", "fifo").returncode == 0

    assert os.read(reader, 100) == b"cups/cups-00.png\n"
    os.close(reader)
    assert stat.S_ISFIFO((shop / "fifo").stat().st_mode)
