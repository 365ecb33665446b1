"""The rooms of docs/architecture.md, held to the code: all imports are read once."""

import ast
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import imgsearch

ROOT = Path(imgsearch.__file__).parent
# From the top down: a room imports from those below it only.
ROOMS = (
    *("__main__", "cli", "service", "evaluation", "catalog", "personal", "build", "search", "store", "training"),
    *("regions", "text", "encoders", "preprocessing", "synthetic", "images", "colors", "charts", "tables"),
    *("locks", "bootstrap", "cache", "files", "system", "records", "progress", "processors", "forks", "errors"),
    "_version",
)
# What lies apart, though one comes after the other: the two meet in a file.
APART = {
    *((room, "training") for room in ("evaluation", "catalog", "personal", "build", "search", "store")),
    ("evaluation", "catalog"),
}


@cache
def trees() -> dict[str, ast.Module]:
    """Every module of the package, parsed."""
    return {name_of(file): ast.parse(file.read_text()) for file in ROOT.rglob("*.py")}


def name_of(file: Path) -> str:
    parts = file.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def imports() -> dict[str, set[str]]:
    """For each module, what it imports anywhere in it; of ours the module itself, also where a name of it is meant."""
    found = {}
    for module, tree in trees().items():
        names = set()
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{module}: relative import"
                whole = {f"{node.module}.{alias.name}" for alias in node.names}
                names |= {name if name in trees() else node.module for name in whole}
        found[module] = names
    return found


def ours(module: str) -> set[str]:
    return {name for name in imports()[module] if name.partition(".")[0] == "imgsearch"}


def room(module: str) -> str:
    return module.split(".")[1]


def test_imports_point_down_and_go_round_in_no_circle():
    """Of the package's own module only `__version__` and names for its users are there, so nothing imports it."""
    wrong = [
        f"{module} imports {name}"
        for module in trees()
        if module != "imgsearch"
        for name in sorted(ours(module))
        if name == "imgsearch"
        or (room(module) != room(name) and ROOMS.index(room(module)) > ROOMS.index(room(name)))
        or (room(module), room(name)) in APART
    ]
    circle = []
    try:
        tuple(TopologicalSorter({module: ours(module) - {"imgsearch"} for module in trees()}).static_order())
    except CycleError as error:
        circle = error.args[1]

    assert (wrong, circle) == ([], [])


def test_no_file_imports_tensorflow():
    assert not [module for module, names in imports().items() if any(name.startswith("tensorflow") for name in names)]


def imports_keras(names: set[str]) -> bool:
    return any(name.partition(".")[0] == "keras" for name in names)


def test_only_networks_their_files_and_their_training_import_keras():
    with_keras = {module for module, names in imports().items() if imports_keras(names)}

    assert {module for module in with_keras if room(module) != "training"} == {
        "imgsearch.encoders.keras_encoder",
        "imgsearch.encoders.layers",
        "imgsearch.encoders.networks",
        "imgsearch.encoders.model_file",
    }


def test_keras_is_imported_where_it_is_needed_and_not_when_a_room_is_entered():
    from_the_start = {
        module
        for module, tree in trees().items()
        for node in tree.body
        if isinstance(node, ast.Import | ast.ImportFrom) and "keras" in ast.unparse(node).replace(".", " ").split()
    }

    assert {module for module in from_the_start if room(module) != "training"} == {
        "imgsearch.encoders.layers",
        "imgsearch.encoders.networks",
    }


def test_the_library_never_prints_and_never_exits():
    """Child processes may, which are programs of their own."""
    programs = ("imgsearch.cli", "imgsearch.__main__", "imgsearch.images.workers", "imgsearch.encoders.export")
    programs += ("imgsearch.search.backends.annoy_child",)
    called = [
        f"{module}:{node.lineno}"
        for module, tree in trees().items()
        if not module.startswith(programs)
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("print", "sys.exit", "exit", "os._exit")
    ]

    assert called == []
