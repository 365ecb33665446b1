import io
import re
import sys

import pytest

import imgsearch as package
from imgsearch.cli import COMMANDS, main
from imgsearch.cli.output import printable
from imgsearch.encoders.spec import DEFAULT_BACKBONE


def test_the_program_says_its_version_and_its_commands(imgsearch):
    assert imgsearch("--version").stdout == f"imgsearch {package.__version__}\n"
    helped = imgsearch("--help").stdout
    for name in ("build-index", "query", "embed", "info", "models"):
        assert f"  {name} " in helped


def test_each_command_has_a_summary_that_the_list_of_commands_shows_uncut(imgsearch, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERMINAL_WIDTH", "80")

    _, _, commands = imgsearch("--help").stdout.partition("Commands:\n")

    assert len(commands.splitlines()) == len(COMMANDS)
    for line in commands.splitlines():
        assert line.endswith("."), line
        assert not line.endswith("..."), line


@pytest.mark.parametrize("command", ["build-index", "embed"])
def test_help_names_the_default_encoder(imgsearch, command):
    helped = " ".join(imgsearch(command, "--help").stdout.split())

    assert f"[default: as the index, or {DEFAULT_BACKBONE}]" in helped


def test_info_looks_as_it_did(imgsearch, small, snapshot, drawn):
    facts = imgsearch("info", "--index", small).stdout
    steady = re.sub(r"[\d.]+ ms", "N ms", facts.replace(str(drawn), "CATALOG"))
    steady = "".join(line for line in steady.splitlines(keepends=True) if not line.startswith("size"))

    snapshot("info.txt", steady)


def test_completion_can_be_shown_for_a_shell(imgsearch):
    done = imgsearch(
        "--show-completion", "bash", env={"PATH": "/usr/bin:/bin", "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    )

    assert "_imgsearch_completion" in done.stdout


def test_a_bug_exits_1_with_a_traceback_and_says_so(monkeypatch, capsys, small):
    def broken(*_, **__):
        raise ZeroDivisionError

    monkeypatch.setattr("imgsearch.search.index.Index.open", broken)

    assert main(["query", "photo.jpg", "--index", str(small)]) == 1
    errors = capsys.readouterr().err
    assert "ZeroDivisionError" in errors
    assert "this is a bug in imgsearch" in errors


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain é 漢字", "plain é 漢字"),
        ("a\tb\r\n", r"a\tb\r\n"),
        ("\x1b[2J", r"\x1b[2J"),
        ("\u202eabc\u200b", r"\u202eabc\u200b"),
        ("caf\udce9", r"caf\xe9"),
        ("\x00\x7f\x85", r"\x00\x7f\x85"),
    ],
)
def test_nothing_that_steers_a_terminal_is_printed(text, shown):
    assert printable(text) == shown


def test_a_progress_bar_is_drawn_on_a_terminal_only(monkeypatch, catalog, tmp_path):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    plain, terminal = io.StringIO(), Terminal()
    for stream, index in ((plain, "one"), (terminal, "two")):
        monkeypatch.setattr(sys, "stderr", stream)
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO()))
        assert main(["build-index", str(catalog), "--index", str(tmp_path / index), "--backbone", "handcrafted"]) == 0

    assert plain.getvalue() == ""
    assert "embed" in terminal.getvalue()
