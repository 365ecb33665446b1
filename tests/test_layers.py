"""The table of imports in docs/architecture.md, held to the code."""

import ast
from pathlib import Path

import pytest

import imgsearch

ROOT = Path(imgsearch.__file__).parent
ORDER = ("cli", "evaluation", "training", "index", "regions", "encoders", "images", "charts", "errors")
# Rooms that are not below one another, though one comes after the other.
APART = {("evaluation", "training"), ("training", "index")}
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
    below = {there for there in ORDER[ORDER.index(here) :] if (here, there) not in APART} | {"__version__"}

    rooms = {room(name) for name in imported(file) if name.startswith("imgsearch.")}

    assert rooms <= below


def test_errors_import_nothing_of_ours():
    assert not any(name.startswith("imgsearch") for name in imported(ROOT / "errors.py"))


def test_no_file_imports_tensorflow():
    assert not [file for file in FILES if any(room(name) == "tensorflow" for name in imported(file))]


def test_only_networks_their_files_and_their_training_import_keras():
    with_keras = {file for file in FILES if any(room(name) == "keras" for name in imported(file))}

    encoders = {file for file in with_keras if file.parent == ROOT / "encoders"}
    assert {file.name for file in encoders} == {"networks.py", "model_file.py"}
    assert {file.parent.name for file in with_keras - encoders} <= {"training"}


def test_keras_is_imported_where_it_is_needed_and_not_at_the_door_of_a_room():
    from_the_start = {
        file.name
        for file in FILES
        if file.parent != ROOT / "training"
        for node in ast.parse(file.read_text()).body
        if isinstance(node, ast.Import | ast.ImportFrom) and "keras" in ast.unparse(node).replace(".", " ").split()
    }

    assert from_the_start == {"networks.py"}


def test_the_library_never_prints_and_never_exits():
    for file in FILES:
        if file.relative_to(ROOT).parts[0] in ("cli", "__main__.py") or file.name in ("workers.py", "export.py"):
            continue
        for node in ast.walk(ast.parse(file.read_text())):
            called = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
            assert called not in ("print", "sys.exit", "exit", "os._exit"), f"{file}:{node.lineno}"
