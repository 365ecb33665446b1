import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])


def test_the_command_reference_is_what_the_program_says():
    done = subprocess.run([sys.executable, ROOT / "docs" / "write_cli.py"], capture_output=True, text=True, check=True)

    assert done.stdout == (ROOT / "docs" / "cli.md").read_text(), "run make docs"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    targets = re.findall(r"\]\((?!http)([^)#]+)", page.read_text())

    assert [target for target in targets if not (page.parent / target).exists()] == []


def test_the_changelog_and_readme_name_every_command(imgsearch):
    named = (ROOT / "CHANGELOG.md").read_text() + (ROOT / "README.md").read_text()
    commands = re.findall(r"^  ([a-z-]+)  ", imgsearch("--help").stdout.partition("Commands:")[2], re.MULTILINE)

    assert len(commands) >= 5
    assert [name for name in commands if f"imgsearch {name}" not in named] == []


def test_every_dependency_has_its_reason_and_its_exact_version():
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = [re.match(r"[a-z0-9-]+", requirement)[0] for requirement in project["dependencies"]]
    constraints = (ROOT / "constraints.txt").read_text()

    reasons = (ROOT / "docs" / "architecture.md").read_text()
    assert [name for name in names if name not in reasons] == []
    assert [name for name in names if not re.search(rf"^{name}==", constraints, re.MULTILINE)] == []
    assert "://" not in constraints


def test_the_readme_s_python_runs(catalog, tmp_path, monkeypatch, capsys):
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    catalog.rename(tmp_path / "catalog")
    (tmp_path / "photo.jpg").write_bytes((tmp_path / "catalog" / "fish" / "fish-01.png").read_bytes())
    monkeypatch.chdir(tmp_path)

    exec(compile(code, "README.md", "exec"), {})

    assert capsys.readouterr().out.splitlines()[0] == "1 1.000 fish/fish-01.png"


def test_the_demo_runs_on_the_drawn_catalog_where_nothing_can_be_fetched(tmp_path, monkeypatch, capfd):
    specification = importlib.util.spec_from_file_location("demo", ROOT / "examples" / "demo.py")
    demo = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(demo)
    monkeypatch.setenv("PATH", str(tmp_path))  # no apt-get

    demo.main(tmp_path)

    said = capfd.readouterr().out
    assert "240 drawn images (tuxpaint-stamps-default cannot be had here)" in said
    (rate,) = re.findall(r"hit rate of 240 photo-like queries: ([\d.]+) at 1", said)
    assert 0.4 < float(rate) <= 1
    sheet = (tmp_path / "drawn-contact-sheet.png").read_bytes()
    assert sheet.startswith(b"\x89PNG")
