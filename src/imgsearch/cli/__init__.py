"""The program: one thin file a command, one place that turns errors into text and exit codes."""

import io
import itertools
import json
import os
import re
import signal
import sys
import traceback
from collections.abc import Callable
from types import FrameType
from typing import Annotated, Any

import typer
from typer.exceptions import TyperException

from imgsearch._version import __version__
from imgsearch.cli.commands.build_index import build_index
from imgsearch.cli.commands.check import check
from imgsearch.cli.commands.classify import classify
from imgsearch.cli.commands.detect import detect
from imgsearch.cli.commands.duplicates import duplicates
from imgsearch.cli.commands.embed import embed
from imgsearch.cli.commands.evaluate import evaluate
from imgsearch.cli.commands.events import COMMANDS as EVENTS_COMMANDS
from imgsearch.cli.commands.events import events
from imgsearch.cli.commands.feedback import COMMANDS as FEEDBACK_COMMANDS
from imgsearch.cli.commands.feedback import feedback
from imgsearch.cli.commands.info import info
from imgsearch.cli.commands.models import models
from imgsearch.cli.commands.neighbors import neighbors
from imgsearch.cli.commands.outliers import outliers
from imgsearch.cli.commands.preprocess import preprocess
from imgsearch.cli.commands.query import query
from imgsearch.cli.commands.recommend import recommend
from imgsearch.cli.commands.rollback import rollback
from imgsearch.cli.commands.serve import serve
from imgsearch.cli.commands.train import train
from imgsearch.errors import ImgsearchError, ResourceError, UsageError
from imgsearch.processors import limit_libraries
from imgsearch.system import refusal_of, require_address_space

COMMANDS = (
    *(preprocess, train, embed, build_index, query, recommend, detect, evaluate, classify),
    *(events, feedback, duplicates, neighbors, outliers),
    *(serve, info, check, rollback, models),
)
# Commands that have commands of their own.
GROUPS: dict[Callable[..., None], tuple[Callable[..., None], ...]] = {
    events: EVENTS_COMMANDS,
    feedback: FEEDBACK_COMMANDS,
}


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"imgsearch {__version__}")
        raise typer.Exit


def imgsearch(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Find similar products in a folder of images, offline.

    Start with two commands:

      imgsearch build-index ./catalog

      imgsearch query photo.jpg --top-k 5
    """


def program(*commands: Callable[..., None]) -> typer.Typer:
    """Make the program with some of its commands."""
    app = typer.Typer(
        name="imgsearch",
        no_args_is_help=True,
        # Plain help: the rich one takes twice as long to import as everything else the program needs to start.
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    )
    app.callback()(imgsearch)
    for command in commands:
        if command in GROUPS:
            group = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
            group.callback()(command)
            for each in GROUPS[command]:
                group.command(name_of(each))(each)
            app.add_typer(group, name=name_of(command))
        else:
            app.command(name_of(command))(command)
    return app


def name_of(command: Callable[..., None]) -> str:
    """Return what a command is called by those who use it."""
    return command.__name__.strip("_").replace("_", "-")


app = program(*COMMANDS)


def _program_for(arguments: list[str]) -> typer.Typer:
    """Return the program with the command that is asked for alone: the options of all take longer than a search."""
    by_name = {name_of(command): command for command in COMMANDS}
    return program(by_name[arguments[0]]) if arguments and arguments[0] in by_name else app


def main(arguments: list[str] | None = None) -> int:
    """Run the program with arguments, those of the process by default; returns the exit code."""
    given = sys.argv[1:] if arguments is None else arguments
    try:
        _refuse_empty(given)
        given = _with_optional_values(given)
        ended = _program_for(given)(args=given, prog_name="imgsearch", standalone_mode=False)
        return ended if isinstance(ended, int) else 0
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 0
    except TyperException as error:
        if _wants_json(given):
            context = getattr(error, "ctx", None)
            hint = f"see {context.command_path if context else 'imgsearch'} --help"
            _report(UsageError(error.format_message(), hint=hint), as_json=True)
        else:
            error.show()  # type: ignore[attr-defined]  # all of these are Click's, which Typer does not name
        return UsageError.exit_code
    except ImgsearchError as error:
        _report(error, as_json=_wants_json(given))
        return error.exit_code
    except Exception as error:  # noqa: BLE001  # a bug of ours: said as one, unless the system is at fault
        if refusal := refusal_of(error):
            _report(refusal, as_json=_wants_json(given))
            return refusal.exit_code
        traceback.print_exc()
        sys.stderr.write(f"imgsearch: this is a bug in imgsearch {__version__}; please report the lines above\n")
        return ImgsearchError.exit_code


# Options whose value may be left out, and what it is then, where no number comes after them.
_OPTIONAL_VALUES = {"--diverse": "0.5", "--changes": "previous"}
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)", re.ASCII)

_IMPORTING = "<frozen importlib._bootstrap>"
_SOON = 0.001  # seconds

# Of address space, for NumPy, OpenCV and their threads on one processor: short of it they may crash.
_LEAST_BYTES = 440_000_000


def run() -> None:
    """Run the program as a process."""
    _insist_on_utf8()
    limit_libraries()
    _open_standard_streams()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # inherited as ignored, it would hide how our children ended
    # Two of these end Python on the spot; as an exit they let a build commit what it has and end its workers.
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        if signal.getsignal(number) is not signal.SIG_IGN:  # nohup
            signal.signal(number, _end)
    try:
        require_address_space(_LEAST_BYTES, "imgsearch")
    except ResourceError as error:
        _report(error, as_json=_wants_json(sys.argv[1:]))
        sys.exit(error.exit_code)
    exit_code = main()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGALRM):
        signal.signal(number, signal.SIG_IGN)  # there is nothing left to stop
    sys.exit(exit_code)


def _insist_on_utf8() -> None:
    """Start again in UTF-8 mode under a locale of another encoding, where the same file name would be other text."""
    if sys.getfilesystemencoding() != "utf-8":
        os.environ["PYTHONUTF8"] = "1"  # for the processes that are started
        os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])  # noqa: S606  # no shell is wanted


def _end(number: int, frame: FrameType | None) -> None:
    if frame is not None and frame.f_code.co_filename == _IMPORTING:
        # Raised here it might be lost, or leave a lock taken that all who import wait for.
        signal.signal(signal.SIGALRM, lambda _, later: _end(number, later))
        signal.setitimer(signal.ITIMER_REAL, _SOON)
        return
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    sys.exit(128 + number)


def _open_standard_streams() -> None:
    """Open what the caller has closed, so that no file of the index comes to be standard output or error."""
    # What is read is then empty, and what is written to standard output is an error: it would be lost.
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR if descriptor == 2 else os.O_RDONLY)
            os.set_inheritable(descriptor, True)
    sys.stdin = sys.stdin or os.fdopen(0, encoding="utf-8")
    encoding = sys.stderr.encoding if sys.stderr else "utf-8"
    raw = _StandardError(2, "w", closefd=False)
    sys.stderr = io.TextIOWrapper(
        io.BufferedWriter(raw), encoding=encoding, errors="backslashreplace", line_buffering=True
    )


class _StandardError(io.FileIO):
    """Loses what cannot be written: the exit code says it too, and stays what it is."""

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except OSError:
            return len(data)


def _refuse_empty(arguments: list[str]) -> None:
    """Refuse what a variable that is not set becomes: as a path it would stand for the working directory."""
    for before, argument in itertools.pairwise(["", *arguments]):
        if not argument or (argument.startswith("--") and argument.find("=") == len(argument) - 1):
            name = argument.rstrip("=") or before
            place = f" for {name}" if name.strip("-") and name.startswith("-") else ""
            raise UsageError(f"expected a value{place}, found nothing", hint="is a variable not set?")


def _with_optional_values(arguments: list[str]) -> list[str]:
    """Fill in values that were left out (`_OPTIONAL_VALUES`), up to `--`."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    filled: list[str] = []
    for place, argument in enumerate(arguments):
        filled.append(argument)
        value = _OPTIONAL_VALUES.get(argument) if place < end else None
        following = arguments[place + 1] if place + 1 < end else ""
        if value is not None and following != value and not _NUMBER.fullmatch(following):
            filled.append(value)
    return filled


def _wants_json(arguments: list[str]) -> bool:
    """Return whether the last `--format` before `--` is a JSON one."""
    options = arguments[: arguments.index("--")] if "--" in arguments else arguments
    given = [option.removeprefix("--format=") for option in options if option.startswith("--format=")]
    given += [value for name, value in itertools.pairwise(options) if name == "--format"]
    return given[-1:] in (["json"], ["jsonl"])


def _report(error: ImgsearchError, *, as_json: bool) -> None:
    if as_json:
        facts = {"code": error.exit_code, "message": error.message, "hint": error.hint}
        sys.stderr.write(json.dumps({"error": facts}) + "\n")
        return
    from imgsearch.cli.output import printable

    sys.stderr.write(f"imgsearch: {printable(error.message)}\n")
    if error.hint:
        sys.stderr.write(f"  hint: {printable(error.hint)}\n")
