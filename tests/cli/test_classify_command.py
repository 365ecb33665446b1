import csv
import io
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile

import pytest

FORMATS = ("table", "json", "jsonl", "csv", "paths", "html")


@pytest.fixture
def ask(imgsearch, drawn, tiny_models):
    """Run classify in the drawn catalog, so that names are short."""

    def run(*arguments: object, model: str = "classes.keras", **options: object):
        return imgsearch("classify", "--model", tiny_models / model, *arguments, cwd=drawn, **options)

    return run


@pytest.mark.parametrize("how", ["table", "csv", "paths"])
def test_classes_look_as_they_did(ask, snapshot, how):
    done = ask("cups/cups-00.png", "fish/fish-00.png", "--format", how)

    assert (done.returncode, done.stderr) == (0, "")
    # Later digits are another processor's, or another library's.
    snapshot(f"classify.{how}.txt", re.sub(r"(\d\.\d\d)\d+", r"\1", done.stdout))


def test_json_is_an_array_and_jsonl_a_line_an_image_with_the_same_objects(ask):
    images = ("cups/cups-00.png", "fish/fish-00.png")

    array = json.loads(ask(*images, "--format", "json").stdout)
    lines = [json.loads(line) for line in ask(*images, "--format", "jsonl").stdout.splitlines()]

    for answers in (array, lines):
        for answer in answers:
            assert answer.pop("seconds") >= 0
    assert array == lines
    assert [answer["query"] for answer in array] == list(images)
    assert list(array[0]) == ["query", "model", "classes"]
    assert array[0]["model"] == "classes.keras"
    assert [found["rank"] for found in array[0]["classes"]] == [1, 2, 3]
    assert sum(found["probability"] for found in array[0]["classes"]) == pytest.approx(1, abs=1e-5)


def test_top_k_limits_the_classes(ask):
    answers = json.loads(ask("cups/cups-00.png", "-k", 1, "--format", "json").stdout)

    assert len(answers[0]["classes"]) == 1


@pytest.mark.parametrize("how", FORMATS)
def test_a_bad_image_exits_4_and_the_others_are_answered(ask, tmp_path, how):
    (tmp_path / "text.jpg").write_text("no image")

    done = ask("none.jpg", "cups/cups-00.png", tmp_path / "text.jpg", "--format", how, "-k", 1)

    assert done.returncode == 4
    assert "Traceback" not in done.stderr
    assert len(re.findall("boots|hats|gloves", done.stdout)) == 1
    if how in ("json", "jsonl"):
        assert done.stderr == ""
        assert done.stdout.count('"error": {"code": 4, "message": ') == 2
    else:
        assert [line.split(": ")[1] for line in done.stderr.splitlines()] == ["none.jpg", str(tmp_path / "text.jpg")]


def test_paths_come_from_standard_input(ask):
    done = ask("-", "--format", "csv", "-k", 1, input="cups/cups-00.png\nfish/fish-00.png\n")

    assert [row["query"] for row in csv.DictReader(io.StringIO(done.stdout))] == [
        "cups/cups-00.png",
        "fish/fish-00.png",
    ]


def test_hostile_class_names_reach_no_terminal_spreadsheet_or_page(ask):
    def shown(how: str) -> str:
        done = ask("cups/cups-00.png", "--format", how, model="two.keras")
        assert done.returncode == 0
        return done.stdout

    table, page = shown("table"), shown("html")
    for text in (table, page):
        assert re.search(r"[\x00-\x08\x0b-\x1f\x7f\u202e]", text) is None
    assert r"\x1b[31m\n\u202e" in table
    assert page.count("<script") == 1  # our own
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    rows = list(csv.DictReader(io.StringIO(shown("csv"))))
    assert {row["class"][:2] for row in rows} == {"'=", "<s"}
    assert len(rows) == 2
    assert {found["class"][0] for found in json.loads(shown("json"))[0]["classes"]} == {"=", "<"}


def test_the_page_shows_the_image_and_loads_nothing(ask):
    page = ask("cups/cups-00.png", "--format", "html").stdout

    assert page.count("<img ") == 1
    assert "default-src 'none'" in page
    assert re.findall(r'src="([^,"]*),', page) == ["data:image/jpeg;base64"]
    assert "boots" in page


@pytest.mark.parametrize(
    ("model", "exit_code", "said"),
    [
        ("none.keras", 8, "there is no model"),
        ("metric.keras", 2, "has no classes"),
        ("bad.keras", 2, "is not a .keras file, or is damaged"),
        ("hdf5.keras", 2, "found one of HDF5"),
        ("classes.zip", 8, "no encoder is called"),
    ],
)
def test_a_model_that_cannot_be_used_has_its_exit_code_one_line_and_a_hint(
    imgsearch, tiny_models, drawn, tmp_path, model, exit_code, said
):
    shutil.copytree(tiny_models, tmp_path, dirs_exist_ok=True)
    shutil.copy(tmp_path / "classes.keras", tmp_path / "classes.zip")
    (tmp_path / "bad.keras").write_bytes((tmp_path / "classes.keras").read_bytes()[:5000])
    (tmp_path / "hdf5.keras").write_bytes(b"\x89HDF\r\n\x1a\n")

    done = imgsearch("classify", drawn / "cups/cups-00.png", "--model", model)

    assert (done.returncode, done.stdout) == (exit_code, "")
    assert done.stderr.startswith("imgsearch: ")
    assert said in done.stderr
    assert len(done.stderr.splitlines()) <= 2


def test_an_error_of_the_whole_call_is_json_where_that_is_asked_for(imgsearch, drawn):
    done = imgsearch("classify", drawn / "cups/cups-00.png", "--model", "none.keras", "--format", "json")

    assert json.loads(done.stderr)["error"]["code"] == 8


@pytest.mark.parametrize("arguments", [[], ["--top-k", "0"], ["--format", "xml"]])
def test_a_usage_error_exits_2(imgsearch, drawn, tiny_models, arguments):
    model = ["--model", tiny_models / "classes.keras"] if arguments else []

    done = imgsearch("classify", drawn / "cups/cups-00.png", *model, *arguments)

    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_answers_can_be_written_to_a_file(ask, tmp_path):
    done = ask("cups/cups-00.png", "--format", "paths", "-o", tmp_path / "answers.txt")
    failed = ask("cups/cups-00.png", "-o", tmp_path / "nowhere/answers.txt")

    assert (done.returncode, done.stdout) == (0, "")
    assert (tmp_path / "answers.txt").read_text().strip() in {"boots", "hats", "gloves"}
    assert (failed.returncode, "cannot write" in failed.stderr) == (11, True)


def test_names_may_be_ended_by_nul(ask):
    done = ask("-", "-0", "--format", "paths", input="cups/cups-00.png\0fish/fish-00.png\0")

    assert done.stdout.count("\0") == 2


def test_a_name_that_is_not_utf_8_can_be_asked_for(ask, drawn, tmp_path):
    shutil.copy(drawn / "cups/cups-00.png", tmp_path / "caf\udce9.png")

    done = ask(os.fsencode(tmp_path / "caf\udce9.png").decode(errors="surrogateescape"), "--format", "json")

    assert done.returncode == 0
    assert json.loads(done.stdout)[0]["query"].endswith("caf\udce9.png")


def test_classifying_imports_no_training_library(ask, drawn, tiny_models):
    assert ask("cups/cups-00.png").returncode == 0  # so that it is exported
    program = (
        "import sys\nfrom imgsearch.cli import main\nmain(sys.argv[1:])\n"
        "print({'tensorflow', 'keras', 'sklearn', 'matplotlib', 'scipy', 'openvino_telemetry'}"
        " & {name for name, module in sys.modules.items() if module is not None}, file=sys.stderr)"
    )
    command = [sys.executable, "-c", program, "classify", "cups/cups-00.png", "--model", tiny_models / "classes.keras"]

    done = subprocess.run(command, cwd=drawn, capture_output=True, text=True, check=True)

    assert done.stderr == "set()\n"


def test_a_class_that_no_text_can_name_is_refused_or_shown(imgsearch, tiny_models, drawn, tmp_path):
    with zipfile.ZipFile(tiny_models / "classes.keras") as old, zipfile.ZipFile(tmp_path / "odd.keras", "w") as new:
        for name in old.namelist():
            new.writestr(name, old.read(name).replace(b'"boots"', rb'"\ud800"'))

    done = imgsearch("classify", drawn / "cups/cups-00.png", "--model", "odd.keras", "--format", "csv")

    assert done.returncode in (0, 2)
