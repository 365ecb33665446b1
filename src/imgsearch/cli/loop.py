"""The one loop of commands that answer: read the names of images, answer each, report the unusable, write."""

import codecs
import itertools
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path

from imgsearch.cli.answers import Answer, Call, Result
from imgsearch.cli.formats import FORMATS, Preview, end_of_path, render
from imgsearch.cli.output import output, printable, refuse_to_replace, say, write
from imgsearch.errors import BoxError, HistoryError, ImageError, ImgsearchError, ResourceError, UsageError

_GIVEN = "one of the images"


def answer_images(
    call: Call,
    images: Sequence[str],
    format_name: str,
    output_file: Path | None,
    *,
    null: bool = False,
) -> int:
    """Answer images, `-` for names on standard input; returns the highest exit code of those that cannot be used."""
    names = names_of(images, output_file, null=null)
    return answer_all(call, ((name, partial(call.find, name)) for name in names), format_name, output_file, null=null)


def names_of(images: Sequence[str], output_file: Path | None, *, null: bool = False) -> Iterator[str]:
    """Return the names of images, and in place of `-` those on standard input; no output file may replace one."""
    for image in images:
        if image == "-":
            refuse_to_replace(output_file, "the list of images", "/dev/stdin")
        else:
            refuse_to_replace(output_file, _GIVEN, image)

    def names() -> Iterator[str]:
        for image in listed_names(images, end_of_path(null=null).encode()):
            refuse_to_replace(output_file, _GIVEN, image)  # also one that is listed
            yield image

    return names()


def answer_all(
    call: Call,
    questions: Iterable[tuple[str, Callable[[], Result]]],
    format_name: str,
    output_file: Path | None,
    *,
    null: bool = False,
    preview: bool = False,
) -> int:
    """Answer questions, each a name and what finds its answer (see `_answer`); as `answer_images`."""
    title = f"imgsearch {call.command}".rstrip()
    form = (Preview if preview else FORMATS[format_name])(call.columns, end_of_path(null=null), title)
    exit_code = 0

    def answers() -> Iterator[Answer]:
        nonlocal exit_code
        for name, find in questions:
            answer = _answer(call, name, find)
            if isinstance(answer.result, ImgsearchError):
                exit_code = max(exit_code, answer.result.exit_code)
                if not form.carries_errors:
                    hint = f" ({answer.result.hint})" if answer.result.hint else ""
                    say(printable(f"{name}: {answer.result.message}{hint}"))
            yield answer

    with output(output_file) as file:
        for text in render(answers(), form):
            write(file, text)
    return exit_code


def _answer(call: Call, name: str, find: Callable[[], Result]) -> Answer:
    started = time.perf_counter()
    try:
        result = find()
    except (ImageError, BoxError, HistoryError) as error:
        return Answer(call, name, time.perf_counter() - started, error)
    return Answer(call, name, time.perf_counter() - started, result)


def listed_names(images: Sequence[str], end: bytes) -> Iterator[str]:
    """Yield names as they are given, and in place of `-` those on standard input, as `os.fsdecode` gives them."""
    for image in images:
        if image != "-":
            yield image
            continue
        listed = _parts_of_input(end) if end == b"\0" else _lines(_parts_of_input(end))
        yield from (os.fsdecode(name) for name in listed if name)


def _parts_of_input(end: bytes) -> Iterator[bytes]:
    rest = b""
    while part := _read_input():
        *whole, rest = (rest + part).split(end)
        yield from whole
    yield rest


def _read_input() -> bytes:
    try:
        return os.read(0, 1 << 16)
    except OSError as error:
        raise ResourceError(f"standard input cannot be read: {error.strerror}") from error


def _lines(parts: Iterator[bytes]) -> Iterator[bytes]:
    """Take away what editors of another system add to lines of text: carriage returns, and a byte order mark."""
    first = next(parts)
    # Only UTF-16 has zero bytes in a line; a name that is not UTF-8 may begin with the same two bytes.
    if first.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) and b"\0" in first:
        raise UsageError(
            "expected a list of names in UTF-8 on standard input, found UTF-16",
            hint="iconv -f UTF-16 -t UTF-8 makes one",
        )
    for line in itertools.chain([first.removeprefix(codecs.BOM_UTF8)], parts):
        yield line.removesuffix(b"\r")
