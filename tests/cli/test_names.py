"""Hostile and odd file names, through the real program: exact where programs read, harmless where people do."""

import csv
import io
import json
import os
import re
import subprocess
import sys
import unicodedata
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote_to_bytes, urlsplit

import pytest

from drawn_catalog import draw_catalog

FAST = ("--backbone", "handcrafted", "--backend", "exact")

NAMES = [
    *("latin-\udce9.png", "\udcff\udcfe.png", "utf-8 cut short \udce6\udcbc.png", "caf\u00e9.png", "cafe\u0301.png"),
    *("line\nbreak.png", "\nfirst.png", "carriage\rreturn.png", "folder\r/x.png", "folder\n/x.png", "tab\there.png"),
    *("\x1b[31mred.png", "\x1b]0;title\x07.png", "\x7f\x01.png", "\x85\x9b2J.png", "\u2028\u2029.png"),
    *("abc\u202egnp.png", "zero\u200bwidth.png", "\ufeffbom.png", "\U0001f40d.png", "\U000e0041tag.png"),
    *("-rf.png", "--help.png", "--index=evil.png", "-.png", "-0.png"),
    *(
        "=cmd().png",
        "+1.png",
        "-1+2.png",
        "@sum.png",
        "\t=1.png",
        "\r=1.png",
        "\n=1.png",
        "x\r=1.png",
        "x\n=1.png",
        "  =1.png",
        "-inf.png",
    ),
    *('"double".png', "'single'.png", "a,b;c.png", "=1,2.png", '"=1".png'),
    *("$(touch pwned).png", "`touch pwned`.png", "; touch pwned;.png", "| touch pwned.png", "&& touch pwned.png"),
    *("%s%n%d.png", "{0.__class__}.png", "{}.png", "%(name)s.png", "{{7*7}}.png", "${HOME}.png", "~.png", "*?[a].png"),
    *('<img src=x onerror="alert(1)">.png', "javascript:alert(1).png", "&lt;b&gt;.png", "--><script>.png", "%41.png"),
    *("'; DROP TABLE items; --.png", "photo.png", "sub/photo.png", "sub_photo.png", "Photo.png", "photo.jpg.png"),
    *("back\\slash.png", "question?a=1#b.png", "http:/x.png", "[bold]markup[/].png", "n" * 251 + ".png"),
]


@pytest.fixture(scope="module")
def odd(tmp_path_factory) -> Path:
    """A folder with an image under each name, and an index beside it."""
    folder = tmp_path_factory.mktemp("odd")
    drawn = draw_catalog(folder / "scratch", per_kind=1 + len(NAMES) // 12)
    for name, image in zip(NAMES, drawn, strict=False):
        file = folder / "catalog" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        image.rename(file)
    command = [sys.executable, "-m", "imgsearch", "build-index", "catalog", "--index", "idx", *FAST]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr, f"{len(NAMES)} embedded" in done.stdout) == (0, "", True)
    return folder


@pytest.fixture
def ask(imgsearch, odd):
    """Ask in the folder of the images; all is bytes."""

    def run(*arguments: object, **options: object):
        done = imgsearch("query", "--index", "../idx", *arguments, cwd=odd / "catalog", text=False, **options)
        assert (done.returncode, done.stderr) == (0, b"")
        return done.stdout

    return run


def test_names_ended_by_nul_are_exact_in_both_directions(ask):
    given = b"".join(os.fsencode(name) + b"\0" for name in NAMES)

    assert ask("-", "-0", "-k", 1, "--format", "paths", input=given) == given
    assert ask("-", "-0", "-k", 1, "--format", "paths", input=given[:-1]) == given


def test_every_name_can_be_given_as_an_argument_behind_two_dashes(ask):
    given = b"".join(os.fsencode(name) + b"\0" for name in NAMES)

    assert ask("-k", 1, "--format", "paths", "-0", "--", *NAMES) == given


def test_names_with_a_leading_dash_are_safe_behind_a_dot_and_a_slash_too(ask):
    names = [name for name in NAMES if name.startswith("-")]

    assert len(names) > 5
    found = ask(*(f"./{name}" for name in names), "-k", 1, "--format", "paths", "-0")
    assert found.split(b"\0")[:-1] == list(map(os.fsencode, names))


def test_paths_are_the_bytes_of_the_names(ask):
    found = ask("photo.png", "-k", 1000, "--format", "paths", "-0").split(b"\0")

    assert found.pop() == b""
    assert sorted(found) == sorted(map(os.fsencode, NAMES))


@pytest.mark.parametrize("how", ["json", "jsonl"])
def test_every_name_survives_the_round_trip_through_json(ask, how):
    text = ask("-k", 2, "--format", how, "--", *NAMES)

    answers = json.loads(text) if how == "json" else [json.loads(line) for line in text.split(b"\n")[:-1]]
    assert text.isascii()
    assert [answer["query"] for answer in answers] == NAMES
    assert [answer["hits"][0]["path"] for answer in answers] == NAMES
    assert [answer["hits"][0]["category"] for answer in answers] == [os.path.dirname(name) for name in NAMES]  # noqa: PTH120  # text, not a place


def test_a_spreadsheet_runs_no_cell_and_loses_no_name(ask):
    text = ask("-k", 2, "--format", "csv", "--", *NAMES)

    rows = list(csv.DictReader(io.StringIO(text.decode("utf-8", "surrogateescape"), newline=""), strict=True))
    assert len(rows) == 2 * len(NAMES)
    assert {None} & {name for row in rows for name in row} == set()
    for row in rows:
        for cell in row.values():
            assert not re.match(r"\s*[=@]|\s*[+-](?!\d+(\.\d+)?$)", cell), cell
    first = [row for row in rows if row["rank"] == "1"]
    assert [unprotected(row["path"]) for row in first] == NAMES
    assert [unprotected(row["query"]) for row in first] == NAMES
    assert [unprotected(row["product"]) for row in first] == [name.removesuffix(".png") for name in NAMES]


def unprotected(cell: str) -> str:
    """Take away the apostrophe that keeps a spreadsheet from running a cell."""
    return cell[1:] if re.match(r"' *[=+\-@\t\r\n]", cell) else cell


def controls(text: str) -> set[str]:
    return {one for one in text if unicodedata.category(one) in ("Cc", "Cf", "Cs", "Zl", "Zp")} - {"\n"}


def test_nothing_in_a_table_steers_a_terminal_and_every_hit_has_its_line(ask):
    text = ask("photo.png", "-k", 1000).decode()

    assert controls(text) == set()
    names = [name for name in NAMES if len(name) < 80]
    assert len(re.findall(r"^ *\d+ +-?[01]\.\d{3} ", text, re.MULTILINE)) == len(NAMES)
    for escaped in (
        *(r"latin-\xe9.png", r"line\nbreak.png", r"carriage\rreturn.png", r"tab\there.png", r"\x1b[31mred.png"),
        *(r"abc\u202egnp.png", r"\x7f\x01.png", r"\x85\x9b2J.png", r"\u2028\u2029.png", r"\U000e0041tag.png"),
    ):
        assert escaped in text
    for plain in (
        "caf\u00e9.png",
        "{0.__class__}.png",
        "%s%n%d.png",
        "[bold]markup[/].png",
        "-rf.png",
        "\U0001f40d.png",
    ):
        assert plain in text
    assert len(names) == len(NAMES) - 1


def test_a_page_for_people_holds_no_tag_attribute_or_address_of_a_name(ask, odd):
    class Page(HTMLParser):
        def __init__(self):
            super().__init__(convert_charrefs=True)
            self.tags, self.addresses, self.captions, self.in_caption = set(), [], [], False

        def handle_starttag(self, tag, attributes):
            self.tags.add((tag, *sorted(name for name, _ in attributes)))
            self.addresses += [value for name, value in attributes if name == "href"]
            if tag == "figcaption":
                self.captions.append("")
                self.in_caption = True

        def handle_endtag(self, tag):
            self.in_caption = self.in_caption and tag != "figcaption"

        def handle_data(self, data):
            if self.in_caption:
                self.captions[-1] += data

    text = ask("-k", 1, "--format", "html", "--", *NAMES).decode()
    page = Page()
    page.feed(text[text.index("<main") : text.index("</main>")])

    assert page.tags == {
        *(("main", "id", "tabindex"), ("section",), ("figure", "class"), ("a", "href"), ("img", "alt", "src")),
        *(("figcaption",), ("h2", "class"), ("b",), ("span", "class")),
    }
    assert text.count("<script") == 1  # our own
    assert "default-src 'none'" in text
    parts = [urlsplit(address) for address in page.addresses]
    assert {(part.scheme, part.netloc, part.query, part.fragment) for part in parts} == {("file", "", "", "")}
    found = [os.path.relpath(unquote_to_bytes(part.path), os.fsencode(odd / "catalog")) for part in parts]
    assert found == [os.fsencode(name) for name in NAMES for _ in "qh"]
    assert set().union(*map(controls, page.captions)) == set()
    assert '<img src=x onerror="alert(1)">.png' in page.captions


def test_rejected_files_are_named_on_a_line_each(imgsearch, tmp_path):
    folder = tmp_path / "catalog"
    for name in NAMES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("no image")
        if "/" not in name:
            (folder / name).with_name(f"link {name}"[:250]).symlink_to(name)

    done = imgsearch("build-index", folder, "--index", "idx", "--force", "-v", "--report", "report.json", *FAST)
    listed = imgsearch("info", "--index", "idx", "--rejected").stdout
    as_json = json.loads(imgsearch("info", "--index", "idx", "--rejected", "--format", "json").stdout)
    report = json.loads((tmp_path / "report.json").read_text())

    assert done.returncode == 3
    assert controls(done.stderr + done.stdout + listed) == set()
    lines = done.stderr.splitlines()
    assert [line for line in lines if not line.startswith("imgsearch: ")] == []
    assert sum("link not followed" in line for line in lines) == len([name for name in NAMES if "/" not in name])
    assert sum(line.startswith("imgsearch: rejected ") for line in lines) == 21
    assert len(listed.splitlines()) == len(NAMES)
    assert sorted(reject["path"] for reject in as_json) == sorted(NAMES)
    assert sorted(reject["path"] for reject in report["rejected"]) == sorted(NAMES)


def test_a_name_is_no_command_no_format_and_no_place(odd, ask):
    before = sorted(odd.rglob("*"))

    for how in ("table", "html"):
        ask("-v", "-k", 1, "--format", how, "--", *NAMES)

    assert sorted(odd.rglob("*")) == before
    assert not any(path.name.startswith("pwned") for path in before)


def test_a_missing_image_with_a_hostile_name_is_named_on_one_line(imgsearch, small):
    names = [f"missing {name}".replace("/", "|") for name in NAMES]

    done = imgsearch("query", "--index", small, "--", *names)

    assert done.returncode == 4
    assert controls(done.stderr) == set()
    assert len(done.stderr.splitlines()) == len(NAMES)


@pytest.mark.parametrize(
    "name",
    [
        "caf\udce9 \n",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in ("-x", "$(touch pwned)", "%s {0} ?mode=ro#", "\x1b[31m")
        ),
    ],
)
def test_catalog_and_index_may_have_any_name(imgsearch, drawn, tmp_path, name):
    catalog, index = tmp_path / name, tmp_path / f"{name}.idx"
    catalog.mkdir()
    (catalog / "a.png").write_bytes((drawn / "cups/cups-00.png").read_bytes())
    (catalog / "b.png").write_bytes((drawn / "fish/fish-00.png").read_bytes())

    # With Annoy, which opens files by their names itself.
    built = imgsearch("build-index", catalog, "--index", index, *FAST[:2])
    asked = imgsearch("query", catalog / "b.png", "--index", index, "--format", "paths", "-k", 1)
    whole = imgsearch("check", "--deep", "--index", index)
    known = imgsearch("info", "--index", index)

    assert (built.returncode, built.stderr, asked.stdout) == (0, "", "b.png\n")
    assert (whole.returncode, whole.stdout, known.returncode) == (0, "", 0)
    assert controls(built.stdout + known.stdout) == set()
    assert not list(tmp_path.rglob("pwned*"))
