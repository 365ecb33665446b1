"""docs/tour.md is run, command by command; what it shows is what the program prints."""

import os
import re
import runpy
import shlex
import sys
from pathlib import Path

from imgsearch.cli import main

ROOT = Path(__file__).parent.parent
TOUR = ROOT / "docs" / "tour.md"


def run(command: str, monkeypatch, capfd) -> str:
    """Run one line of the tour in this process; returns what it printed."""
    program, *arguments = shlex.split(command)
    if program == "imgsearch":
        main(arguments)
    elif program == "python":
        monkeypatch.setattr(sys, "argv", arguments)
        runpy.run_path(str(ROOT / arguments[0]), run_name="__main__")
    else:
        assert program == "rm", f"the tour may not run {program}"
        Path(arguments[0]).unlink()
    printed = capfd.readouterr()
    return (printed.out + printed.err).replace(os.fspath(Path.cwd()), "/srv/shop")


def without_numbers(text: str) -> list[str]:
    """Mask what depends on the machine, the widths of columns with it, and leave out in which order lines come."""
    text = re.sub(r"(bf16|f32), [0-9a-f]{16}", "PRECISION, FINGERPRINT", text)
    return sorted(re.sub(r"[ ─]+", " ", re.sub(r"\d[\d,.]*", "#", text)).splitlines())


def test_the_tour_shows_what_the_commands_print(tmp_path, monkeypatch, capfd, request):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    page = TOUR.read_text()
    shown = re.findall(r"```console\n(.*?)```", page, re.DOTALL)

    printed = []
    for block in shown:
        commands = re.findall(r"^\$ (.*)$", block, re.MULTILINE)
        printed.append("".join(f"$ {command}\n{run(command, monkeypatch, capfd)}" for command in commands))

    if request.config.getoption("--update-snapshots"):
        for old, new in zip(shown, printed, strict=True):
            page = page.replace(f"```console\n{old}```", f"```console\n{new}```")
        TOUR.write_text(page)
    assert [without_numbers(text) for text in printed] == [without_numbers(text) for text in shown]
