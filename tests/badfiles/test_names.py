"""Names that are attacks on terminals, spreadsheets, shells, parsers and file systems."""

import csv
import io
import json
import os
import unicodedata
from collections import Counter
from types import SimpleNamespace

import pytest

NOT_UTF_8 = [b"caf\xe9.jpg", b"\xff\xfe\x80.png", "写真".encode("euc-jp") + b".jpg", b"cut-\xe2\x82.jpg"]
CONTROLS = [
    *(
        "new\nline.jpg",
        "carriage\rreturn.jpg",
        "tab\there.jpg",
        "\x1b[31mred.jpg",
        "\x1b]0;title\x07.jpg",
        "\x9b1m.jpg",
    ),
    *("abc\u202egpj.png", "\u2066isolate\u2069.jpg", "line\u2028break.jpg", "zero\u200bwidth.jpg", "\ufeffbom.jpg"),
    *("back\x08space.jpg", "delete\x7f.jpg", "imgsearch: rejected\nimgsearch: x.jpg: empty.jpg"),
]
OPTIONS = ["-rf.jpg", "--help.jpg", "--.jpg", "-.jpg", "--index=x.jpg", "~.jpg", "@list.jpg"]
FORMULAS = ["=cmd().jpg", "+1+1.jpg", "-2+3.jpg", "@sum(1).jpg", "\t=1.jpg", " =1.jpg", "\n=1.jpg", '=a,"b".jpg']
MARKUP = [
    *("<img src=x onerror=alert(1)>.jpg", "javascript:alert(1).jpg", "{{7*7}}.jpg", "it's.jpg", 'say "hi".jpg'),
    *("&amp;.jpg", "[red]x[/red].jpg", "[link=x]y.jpg", "semi;colon,comma.jpg", "back\\slash.jpg", "up\\..\\up.jpg"),
]
SHELL = [
    *("$(touch pwned).jpg", "`touch pwned`.jpg", "; touch pwned ;.jpg", "| touch pwned.jpg", "$HOME.jpg", "*.jpg"),
    *("%s%n%d.jpg", "%(x)s.jpg", "{0.__class__}.jpg", "{}.jpg", "__import__('os').system('touch pwned').jpg"),
    *("'; DROP TABLE items; --.jpg", "a?b#c%2e.jpg", "?mode=rw.jpg"),
]
ALIKE = [
    *("photo.jpg", "photo.png", "sub/photo.jpg", "sub_photo.jpg", "Case.jpg", "case.jpg", "CASE.JPG"),
    *("caf\u00e9.jpg", "cafe\u0301.jpg", " leading.jpg", "trailing .jpg", "two  spaces.jpg", "x.jpg.jpg"),
]
LONG = ["n" * 251 + ".jpg", "\u00e9" * 125 + "x.jpg", "d" * 255 + "/x.jpg", "fold\ner\x1b/x.jpg"]
INFO = ("info", "--index", "idx", "--rejected")
NAMES = [*map(os.fsdecode, NOT_UTF_8), *CONTROLS, *OPTIONS, *FORMULAS, *MARKUP, *SHELL, *ALIKE, *LONG]


@pytest.fixture(scope="module")
def built(make, run, report, tmp_path_factory) -> SimpleNamespace:
    """Of each name, an image in `good` and a text in `bad`; an index of both."""
    place = tmp_path_factory.mktemp("names")
    for number, name in enumerate(NAMES):
        for folder, data in (("good", make.encoded(".png", make.painted(number))), ("good/bad", b"no image")):
            (place / folder / name).parent.mkdir(parents=True, exist_ok=True)
            (place / folder / name).write_bytes(data)
    done = run(
        *("build-index", "good", "--index", "idx", "--backbone", "handcrafted", "--report", "report.json"),
        cwd=place,
        process=True,
    )
    return SimpleNamespace(place=place, run=done, report=report(place / "report.json"))


def is_harmless(text: bytes) -> bool:
    """Whether nothing in it moves the cursor, changes the direction of text or is not UTF-8."""
    lines = text.decode().split("\n")
    return all(
        unicodedata.category(character)[0] not in "CZ" or character == " " for line in lines for character in line
    )


def test_each_name_is_indexed_or_rejected_as_it_is(built, outcomes):
    expected = dict.fromkeys(NAMES, "indexed") | {f"bad/{name}": "not_an_image" for name in NAMES}

    assert outcomes(built.place / "idx") == expected
    assert built.run.code == 3


def test_the_report_has_the_names_as_they_are(built):
    named = [os.fsencode(reject["path"]) for reject in built.report["rejected"]]

    assert named == sorted(os.fsencode(f"bad/{name}") for name in NAMES)


def test_no_name_reaches_the_terminal_unescaped(built, run):
    listed = run(*INFO, cwd=built.place)
    all_hits = run("query", "--index", "../idx", "-k", 1000, "--", "photo.jpg", cwd=built.place / "good")
    all_names = run("query", "--index", "../idx", "-k", 1, "--", *NAMES, cwd=built.place / "good")
    refused = run("query", "--index", "../../idx", "--", *NAMES, cwd=built.place / "good/bad")
    verbose = run("build-index", "good", "--index", "idx", "-v", cwd=built.place)

    assert [done.code for done in (listed, all_hits, all_names, refused, verbose)] == [0, 0, 0, 4, 0]
    assert len(listed.out.splitlines()) == len(refused.err.splitlines()) == len(NAMES)
    for done in (built.run, listed, all_hits, all_names, refused, verbose):
        assert is_harmless(done.out)
        assert is_harmless(done.err)


def test_each_image_is_found_by_its_own_name(built, run):
    options = ("--index", "../idx", "-k", 1, "--format", "jsonl")

    given = run("query", *options, "--", *NAMES, cwd=built.place / "good")
    read = run("query", *options, "-0", "-", cwd=built.place / "good", told=b"\0".join(map(os.fsencode, NAMES)))

    for done in (given, read):
        answers = [json.loads(line) for line in done.out.splitlines()]
        assert [answer["query"] for answer in answers] == NAMES
        assert [answer["hits"][0]["path"] for answer in answers] == NAMES
        assert min(answer["hits"][0]["score"] for answer in answers) > 0.9999


def test_a_name_with_a_dash_is_an_option_only_without_its_folder(built, run):
    options = ("query", "--index", "../idx", "-k", 1, "--format", "paths")

    beside = run(*options, *(f"./{name}" for name in OPTIONS), cwd=built.place / "good")
    bare = run(*options, "-rf.jpg", cwd=built.place / "good")

    assert (beside.code, beside.out.decode().splitlines()) == (0, OPTIONS)
    assert (bare.code, bare.out) == (2, b"")
    assert b"No such option" in bare.err


def test_paths_that_end_in_nul_are_exact(built, run):
    options = ("--index", "../idx", "-k", 1000, "--exact", "--format", "paths")

    done = run("query", *options, "-0", "photo.jpg", cwd=built.place / "good")

    assert sorted(done.out.split(b"\0")[:-1]) == sorted(map(os.fsencode, NAMES))


def test_no_cell_of_a_csv_file_is_a_formula_and_none_is_lost(built, run):
    options = ("--index", "../idx", "-k", 1000, "--exact", "--format", "csv")

    done = run("query", *options, "--", "=cmd().jpg", "-2+3.jpg", cwd=built.place / "good")

    rows = list(csv.DictReader(io.StringIO(done.out.decode("utf-8", "surrogateescape"), newline=""), strict=True))
    cells = [cell for row in rows for name, cell in row.items() if name not in ("rank", "score", "distance")]
    assert not [cell for cell in cells if cell.lstrip(" ").startswith(("=", "+", "-", "@", "\t", "\r", "\n"))]
    first = [row["path"] for row in rows if row["query"] == "'=cmd().jpg"]
    assert sorted(map(without_quote, first)) == sorted(NAMES)
    assert len(rows) == 2 * len(NAMES)


def without_quote(cell: str) -> str:
    marked = cell.removeprefix("'")
    return marked if marked.lstrip(" ").startswith(("=", "+", "-", "@", "\t", "\r", "\n")) else cell


def test_no_shell_and_no_formatting_sees_a_name(built):
    everything = [name for _, _, files in os.walk(built.place) for name in files]

    assert "report.json" in everything
    assert [name for name in everything if name.startswith("pwned")] == []


def test_names_that_differ_in_folder_ending_case_or_normal_form_are_different_products(built, run):
    done = run(
        *("query", "--index", "idx", "good/photo.jpg", "-k", 1000, "--exact", "--format", "json"), cwd=built.place
    )

    (answer,) = json.loads(done.out)
    hits = {hit["path"]: hit for hit in answer["hits"]}
    assert hits["photo.jpg"]["score"] > 0.9999
    assert max(hits[name]["score"] for name in ALIKE if name != "photo.jpg") < 0.99
    assert (hits["sub/photo.jpg"]["product"], hits["sub_photo.jpg"]["product"]) == ("sub/photo", "sub_photo")


@pytest.mark.slow  # tests/cli/test_environment.py has a fast one
def test_a_locale_changes_no_name(built, run):
    environment = {"LANG": "en_US.ISO-8859-1", "LC_ALL": "C", "PYTHONIOENCODING": "ascii:strict"}
    options = ("--index", "../idx", "-k", 1000, "--exact", "--format", "paths", "-0")

    listed = run(*INFO, "--format", "json", cwd=built.place, environment=environment)
    asked = run("query", *options, "--", *NAMES, cwd=built.place / "good", environment=environment)
    shown = run(*INFO, cwd=built.place, environment=environment)

    assert [reject["path"] for reject in json.loads(listed.out)] == [one["path"] for one in built.report["rejected"]]
    assert Counter(asked.out.split(b"\0")[:-1]) == dict.fromkeys(map(os.fsencode, NAMES), len(NAMES))
    assert (listed.code, asked.code, shown.code, len(shown.out.splitlines())) == (0, 0, 0, len(NAMES))
