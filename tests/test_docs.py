import functools
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

import catalogs

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])


@pytest.mark.parametrize("page", ["cli", "python"])
def test_the_reference_is_what_the_program_says(page):
    done = subprocess.run(
        [sys.executable, ROOT / "docs" / f"write_{page}.py"], capture_output=True, text=True, check=True
    )

    assert done.stdout == (ROOT / "docs" / f"{page}.md").read_text(), "run make docs"


def test_links_lead_somewhere():
    missing = []
    for page in PAGES:
        for target, anchor in re.findall(r"\]\((?!http)([^)#]*)#?([^)]*)\)", page.read_text()):
            file = page.parent / target if target else page
            if not file.exists() or (anchor and anchor not in anchors(file)):
                missing.append(f"{page.name}: {target}#{anchor}")

    assert missing == []


def anchors(page: Path) -> set[str]:
    """What the headings of a page are called in links."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_no_line_is_longer_than_120_columns():
    long = [
        f"{page.name}:{number}"
        for page in PAGES
        for number, line in enumerate(page.read_text().splitlines(), 1)
        if len(line) > 120
    ]

    assert long == []


def test_files_named_in_the_docs_are_there():
    """`tests/…`, `benchmarks/…` and the like from the root; `encoders/export.py` from the package."""
    package = ROOT / "src" / "imgsearch"
    tops = [path.name for path in (*ROOT.iterdir(), *package.iterdir()) if path.is_dir()]
    named = [
        (page.name, path)
        for page in PAGES
        for path in re.findall(r"`([\w.-]+/[\w./-]+)`", page.read_text())
        if path.partition("/")[0] in tops and not path.startswith(("encoders/<", "demo/"))
    ]

    assert len(named) > 30
    assert [each for each in named if not (ROOT / each[1]).exists() and not (package / each[1]).exists()] == []


def test_messages_of_the_troubleshooting_page_are_messages_of_the_program():
    source = "".join(file.read_text() for file in (ROOT / "src").rglob("*.py"))
    headings = re.findall(r"^### `(.*)`", (ROOT / "docs" / "troubleshooting.md").read_text(), re.MULTILINE)
    # N, M and digits stand for what the program fills in.
    pieces = [piece for heading in headings for piece in re.split(r"\b(?:N|M|\d+)\b", heading)]

    assert len(headings) >= 6
    assert [piece for piece in pieces if piece.strip(" ,;") not in source] == []


def test_the_changelog_and_readme_name_every_command(imgsearch):
    named = (ROOT / "CHANGELOG.md").read_text() + (ROOT / "README.md").read_text()
    commands = re.findall(r"^  ([a-z-]+)  ", imgsearch("--help").stdout.partition("Commands:")[2], re.MULTILINE)

    assert len(commands) >= 5
    assert [name for name in commands if not re.search(rf"imgsearch [a-z, -]*\b{name}\b", named)] == []


def test_every_dependency_has_its_reason_and_its_exact_version():
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = [re.match(r"[a-z0-9-]+", requirement)[0] for requirement in project["dependencies"]]
    constraints = (ROOT / "constraints.txt").read_text()

    reasons = (ROOT / "docs" / "architecture.md").read_text()
    assert [name for name in names if name not in reasons] == []
    assert [name for name in names if not re.search(rf"^{name}==", constraints, re.MULTILINE)] == []
    assert "://" not in constraints


def test_the_python_example_runs(catalog, tmp_path, monkeypatch, capsys):
    code = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "python.md").read_text(), re.DOTALL)[0]
    catalog.rename(tmp_path / "catalog")
    (tmp_path / "photo.jpg").write_bytes((tmp_path / "catalog" / "fish" / "fish-01.png").read_bytes())
    monkeypatch.chdir(tmp_path)

    exec(compile(code, "python.md", "exec"), {})

    assert capsys.readouterr().out.splitlines()[0] == "1 1.000 fish/fish-01.png"


def test_the_demo_runs_on_the_drawn_catalog_where_nothing_can_be_fetched(tmp_path, monkeypatch, capfd):
    specification = importlib.util.spec_from_file_location("demo", ROOT / "examples" / "demo.py")
    demo = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(demo)
    monkeypatch.setenv("PATH", str(tmp_path))  # no apt-get
    monkeypatch.setattr(catalogs, "draw_catalog", functools.partial(catalogs.draw_catalog, per_kind=2))

    demo.main(tmp_path)

    said = capfd.readouterr().out
    assert "24 drawn images (tuxpaint-stamps-default cannot be had here)" in said
    (rate,) = re.findall(r"hit rate of 24 photo-like queries: ([\d.]+) at 1", said)
    assert 0.4 < float(rate) <= 1
    sheet = (tmp_path / "drawn-contact-sheet.png").read_bytes()
    assert sheet.startswith(b"\x89PNG")


def facts() -> list[tuple[str, str, object]]:
    """Page, pattern of a number that it names, and the number in the code."""
    from imgsearch.build import pipeline, vocabulary
    from imgsearch.cli import _OPTIONAL_VALUES
    from imgsearch.encoders import adaptation, projection
    from imgsearch.encoders.table import TABLE
    from imgsearch.images import MAX_PIXELS
    from imgsearch.images.policy import MAX_BYTES
    from imgsearch.images.workers.decoders import DECODE_SECONDS
    from imgsearch.images.workers.pool import CRASHES_IN_A_ROW
    from imgsearch.regions import geometric
    from imgsearch.search import diversity, fusion, index, ranking, rerank, search, tuning, words
    from imgsearch.store import words as store_words
    from imgsearch.store.search_settings import SearchOptions
    from imgsearch.text import sentences
    from imgsearch.training import fitting, loop, networks
    from imgsearch.training.detector import data

    return [
        ("index-format.md", r"`--max-pixels` \(([\d,]+)\)", MAX_PIXELS),
        ("index-format.md", r"`--max-bytes` \(([\d,]+)\)", MAX_BYTES),
        ("index-format.md", r"up to ([\d,]+) characters", store_words._LONGEST_TEXT),
        ("index-format.md", r"took more than (\d+) s", DECODE_SECONDS),
        ("index-format.md", r"first has (\d+) images", projection.SMALLEST_CATALOG),
        ("architecture.md", r"busy for (\d+) seconds", DECODE_SECONDS),
        ("architecture.md", r"committed every (\d+) images", pipeline.COMMIT_IMAGES),
        ("architecture.md", r"(\w+) deaths in a row", {"Five": CRASHES_IN_A_ROW}),
        ("architecture.md", r"on (\d+) of the items", tuning._QUERIES),
        ("architecture.md", r"words mean, in (\d+) languages", len(sentences.LANGUAGES)),
        ("benchmarks.md", r"first ([\d,]+) characters", sentences.MAX_CHARACTERS),
        ("encoders.md", r"\(([\d,]+) words for ORB", TABLE["visual-words"].spec.dims),
        ("encoders.md", r"is embedded, from up to ([\d,]+) images", vocabulary._MAX_IMAGES),
        ("encoders.md", r"variants of up to ([\d,]+) images", adaptation.MAX_IMAGES),
        ("evaluation.md", r"that find ([\d.]+) of the ten nearest", SearchOptions().target_recall),
        ("regions.md", r"a margin of ([\d.]+) after the whole", search._MIN_MARGIN_WHOLE),
        ("regions.md", r"or ([\d.]+) after the region", search._MIN_MARGIN_PART),
        ("regions.md", r"those of the first (\d+) hits", rerank.CANDIDATES),
        ("regions.md", r"If at least (\w+) pairs", {"five": geometric._FEWEST}),
        ("searching.md", r"more than ([\d,]+) images cannot ask", index._MOST_OF_A_PRODUCT),
        ("searching.md", r"chooses from (\w+) times", {"five": diversity.POOL}),
        ("searching.md", r"`--diverse` alone is ([\d.]+)", float(_OPTIONAL_VALUES["--diverse"])),
        ("searching.md", r"asked with, (a \w+) of the mean", {"a quarter": 20 * fusion.UNWANTED_WEIGHT}),
        ("text.md", r"`--text-weight ([\d.]+)`\)", ranking.TEXT_WEIGHT),
        ("text.md", r"([\d.]+) times the spelling", words._SPELLING_WEIGHT),
        ("text.md", r"at least (\d+) letters and digits", words._SHORTEST_NUMBER),
        ("text.md", r"predicted words counts ([\d.]+) times", words._MEANING_WEIGHTS["predicted"]),
        ("text.md", r"and (\w+) the mean of words", {"half": 10 * words._UNWANTED_WEIGHT}),
        ("training.md", r"shifted by up to (\d+) %", 100 * networks.SHIFT),
        ("training.md", r"more than ([\d,]+) images a sample", data.MAX_ITEMS),
        ("training.md", r"up to ([\d,]+) of them", data.MAX_BACKGROUNDS),
        ("training.md", r"weight decay ([\d.]+);", loop._WEIGHT_DECAY),
        ("training.md", r"([\d.]+) for `cnn`\.", fitting._WEIGHT_DECAY),
        ("training.md", r"multiplied by (\d+)", int(networks.class_scale(10))),
    ]


def test_numbers_named_in_the_docs_are_those_of_the_code():
    wrong = []
    for page, pattern, value in facts():
        text = " ".join((ROOT / "docs" / page).read_text().split())
        found = re.findall(pattern, text)
        if isinstance(value, dict):
            named = [value.get(each) for each in found]
            expected = 5
        else:
            named, expected = [float(each.replace(",", "")) for each in found], value
        if named != [expected]:
            wrong.append((page, pattern, found, value))

    assert wrong == []
