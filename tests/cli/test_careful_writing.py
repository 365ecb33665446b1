import os
import shutil

import pytest

ENCODER = ("--backbone", "handcrafted")
FAST = (*ENCODER, "--backend", "annoy")


def test_a_directory_with_other_things_in_it_is_refused_and_left_alone(imgsearch, catalog, tmp_path):
    for name in ("project/encoders/mine/a", "project/gen-000007/b", "project/embeddings.npy"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("precious")

    built = imgsearch("build-index", catalog, "--index", "project", *FAST)
    embedded = imgsearch("embed", catalog, "-o", "project", *ENCODER)

    assert (built.returncode, embedded.returncode) == (2, 2)
    assert "expected an index or an empty directory" in built.stderr
    kept = sorted(path.relative_to(tmp_path).as_posix() for path in (tmp_path / "project").rglob("*") if path.is_file())
    assert kept == ["project/embeddings.npy", "project/encoders/mine/a", "project/gen-000007/b"]


def test_files_of_the_same_name_size_and_time_in_another_folder_are_not_taken_for_the_same(imgsearch, drawn, tmp_path):
    ones, others = sorted(drawn.glob("*/*-00.png")), sorted(drawn.glob("*/*-01.png"))
    size = max(file.stat().st_size for file in [*ones, *others]) + 1
    for folder, files in (("a", ones), ("b", others)):
        (tmp_path / folder).mkdir()
        for number, file in enumerate(files):
            copy = tmp_path / folder / f"{number}.png"
            copy.write_bytes(file.read_bytes().ljust(size, b"\0"))
            os.utime(copy, ns=(1, 1))

    imgsearch("build-index", "a", "--index", "idx", *FAST)
    second = imgsearch("build-index", "b", "--index", "idx", "--force")
    found = imgsearch("query", "b/3.png", "--index", "idx", "-k", 1, "--format", "csv").stdout

    assert "12 embedded" in second.stdout
    assert "3.png,1.000000" in found


@pytest.mark.parametrize("name", ["annoy.ann", "vectors.npy"])
def test_the_next_build_mends_a_damaged_derived_file(imgsearch, catalog, tmp_path, name):
    imgsearch("build-index", catalog, "--index", "idx", *FAST)
    before = imgsearch("query", catalog / "fish/fish-00.png", "--index", "idx", "--format", "csv").stdout
    file = next((tmp_path / "idx").rglob(name))
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 0x80
    file.write_bytes(data)

    done = imgsearch("build-index", catalog, "--index", "idx")

    assert (done.returncode, "0 embedded" in done.stdout, "rebuilding it" in done.stderr) == (0, True, True)
    assert imgsearch("query", catalog / "fish/fish-00.png", "--index", "idx", "--format", "csv").stdout == before


def test_a_damaged_encoder_is_not_published_again_as_a_good_one(imgsearch, catalog, tmp_path):
    imgsearch("embed", catalog, "-o", "embeddings", *ENCODER)
    imgsearch("build-index", "embeddings", "--index", "idx")
    spec = next((tmp_path / "idx").rglob("spec.json"))
    good = spec.read_text()
    spec.write_text("garbage")

    done = imgsearch("build-index", "embeddings", "--index", "idx")

    assert done.returncode == 0
    assert next((tmp_path / "idx").rglob("spec.json")).read_text() == good


def test_embeddings_of_a_shrunken_catalog_are_refused_as_images_are(imgsearch, catalog, tmp_path):
    imgsearch("build-index", catalog, "--index", "idx", *FAST)
    shutil.copytree(catalog / "cups", tmp_path / "few")
    imgsearch("embed", "few", "-o", "embeddings", *ENCODER)

    refused = imgsearch("build-index", "embeddings", "--index", "idx")
    forced = imgsearch("build-index", "embeddings", "--index", "idx", "--force")

    assert (refused.returncode, forced.returncode) == (9, 0)


def test_a_refused_build_leaves_no_work_file(imgsearch, tmp_path):
    (tmp_path / "empty").mkdir()

    assert imgsearch("build-index", "empty", "--index", "idx", *FAST).returncode == 9
    assert not (tmp_path / "idx" / "partial.sqlite").exists()


def test_rejected_files_are_listed_though_the_forest_is_lost(imgsearch, catalog, tmp_path):
    (catalog / "empty.png").touch()
    imgsearch("build-index", catalog, "--index", "idx", *FAST)
    next((tmp_path / "idx").rglob("annoy.ann")).unlink()

    assert "empty.png" in imgsearch("info", "--index", "idx", "--rejected").stdout


def test_an_output_file_is_written_with_care(imgsearch, small, drawn, tmp_path):
    ask = ("query", drawn / "cups/cups-00.png", "--index", small, "--format", "paths", "-o")
    (tmp_path / "answers.tmp").write_text("precious")
    (tmp_path / "real").write_text("")
    (tmp_path / "link").symlink_to("real")

    assert imgsearch(*ask, "answers").returncode == 0
    assert imgsearch(*ask, "link").returncode == 0
    for nowhere in (".", "/", "missing/answers"):
        done = imgsearch(*ask, nowhere)
        assert (done.returncode, "Traceback" in done.stderr) == (11, False)
    assert imgsearch(*ask, "failed", "--where", "(").returncode == 2
    assert imgsearch(*ask, "/dev/null").returncode == 0

    assert (tmp_path / "answers.tmp").read_text() == "precious"
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_text() == (tmp_path / "answers").read_text() != ""
    assert not os.path.isfile("/dev/null")
    assert {path.name for path in tmp_path.iterdir()} == {"answers", "answers.tmp", "real", "link"}


@pytest.mark.parametrize("how", ["json", "jsonl", "csv"])
def test_an_error_of_the_whole_call_leaves_nothing_on_standard_output(imgsearch, small, drawn, how):
    done = imgsearch("query", drawn / "cups/cups-00.png", "--index", small, "--format", how, "--where", "(")

    assert (done.returncode, done.stdout) == (2, "")


@pytest.mark.parametrize("start", ["\ufeff", "\ufeff\n", "\ufeff\r\n"])
def test_a_byte_order_mark_before_a_list_is_no_part_of_a_name(imgsearch, small, drawn, start):
    ask = ("query", "-", "-k", 1, "--index", small, "--format", "paths")

    done = imgsearch(*ask, cwd=drawn, input=f"{start}cups/cups-00.png\nfish/fish-01.png\n")

    assert (done.returncode, done.stdout, done.stderr) == (0, "cups/cups-00.png\nfish/fish-01.png\n", "")


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32-le"])
def test_a_list_in_utf_16_is_refused_by_its_name(imgsearch, small, drawn, encoding):
    listed = "\ufeffcups/cups-00.png\r\nfish/fish-01.png\r\n".encode(encoding)

    done = imgsearch("query", "-", "--index", small, cwd=drawn, input=listed)

    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("imgsearch: expected a list of names in UTF-8 on standard input, found UTF-16\n")


def test_names_that_begin_like_utf_16_or_with_a_mark_are_found(imgsearch, small, drawn, tmp_path):
    for name in (os.fsdecode(b"\xff\xfe.png"), "\ufeff.png"):
        (tmp_path / name).write_bytes((drawn / "cups/cups-00.png").read_bytes())
    ask = ("query", "-", "-k", 1, "--index", small, "--format", "paths")

    assert imgsearch(*ask, input=b"\xff\xfe.png\n\xef\xbb\xbf.png\n").returncode == 0
    assert imgsearch(*ask, "-0", input=b"\xef\xbb\xbf.png\0").returncode == 0


def test_lists_with_blank_lines_and_line_ends_of_another_system_are_read(imgsearch, small, drawn):
    done = imgsearch(
        "query", "-", "-k", 1, "--index", small, "--format", "paths", cwd=drawn, input="cups/cups-00.png\r\n\r\n\n"
    )

    assert (done.returncode, done.stdout, done.stderr) == (0, "cups/cups-00.png\n", "")
