"""Numbers that are none: no option takes them for a limit that everything, or nothing, meets."""

import pytest
import typer

from imgsearch.cli import app

# What each command needs beside the option.
GIVEN = {
    "query": ["catalog/cups/cups-00.png", "--index", "idx"],
    "detect": ["catalog/cups/cups-00.png", "--index", "idx"],
    "recommend": ["--items", "cups/cups-00", "--index", "idx"],
    "evaluate": ["--index", "idx"],
    "build-index": ["catalog", "--index", "idx"],
    "duplicates": ["--index", "idx"],
    "rollback": ["--index", "idx"],
    "embed": ["catalog", "--output", "embedded"],
    "preprocess": ["catalog", "prepared"],
    "train": ["catalog", "--output", "model.keras"],
}
COMMANDS = typer.main.get_command(app).commands
FLOATS = [
    (name, max(parameter.opts, key=len))
    for name, command in COMMANDS.items()
    for parameter in command.params
    if parameter.type.name.startswith("float")
]


@pytest.mark.parametrize(("command", "option"), FLOATS, ids=str)
def test_an_option_refuses_what_is_no_finite_number(imgsearch, small, catalog, tmp_path, command, option):
    (tmp_path / "idx").symlink_to(small)

    for number in ("nan", "inf", "-inf"):
        done = imgsearch(command, *GIVEN[command], f"{option}={number}")

        assert (done.returncode, done.stdout, "Traceback" in done.stderr) == (2, "", False), number
        assert number in done.stderr or "has no effect" in done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"idx", "catalog"}


def test_all_kinds_of_limits_are_among_them():
    assert {"--min-score", "--min-probability", "--target-recall", "--wait-lock", "--validation"} <= {
        option for _, option in FLOATS
    }
