"""The table of imports in docs/architecture.md, held to the code."""

import ast
from pathlib import Path

import pytest

import imgsearch

ROOT = Path(imgsearch.__file__).parent
ORDER = ("cli", "evaluation", "index", "encoders", "images", "errors")
FILES = sorted(ROOT.rglob("*.py"))


def imported(file: Path) -> set[str]:
    """Every module that a file imports, anywhere in it."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def room(name: str) -> str:
    return name.removeprefix("imgsearch.").partition(".")[0]


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_imports_point_down_only(file):
    here = file.relative_to(ROOT).parts[0].removesuffix(".py")
    if here not in ORDER:
        pytest.skip("the package's own door imports from every room")
    below = set(ORDER[ORDER.index(here) :]) | {"__version__"}

    rooms = {room(name) for name in imported(file) if name.startswith("imgsearch.")}

    assert rooms <= below


def test_errors_import_nothing_of_ours():
    assert not any(name.startswith("imgsearch") for name in imported(ROOT / "errors.py"))


def test_no_file_imports_tensorflow():
    assert not [file for file in FILES if any(room(name) == "tensorflow" for name in imported(file))]


def test_only_the_networks_import_keras():
    assert {file.name for file in FILES if any(room(name) == "keras" for name in imported(file))} == {"networks.py"}


def test_the_library_never_prints_and_never_exits():
    for file in FILES:
        if file.relative_to(ROOT).parts[0] in ("cli", "__main__.py") or file.name in ("workers.py", "export.py"):
            continue
        for node in ast.walk(ast.parse(file.read_text())):
            called = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
            assert called not in ("print", "sys.exit", "exit", "os._exit"), f"{file}:{node.lineno}"
