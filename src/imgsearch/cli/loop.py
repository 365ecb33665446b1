"""The one loop of commands that answer: read the names of images, answer each, report the unusable, write."""

import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from imgsearch.cli.answers import Answer, Call
from imgsearch.cli.formats import FORMATS, render
from imgsearch.cli.output import output, printable, say, write
from imgsearch.errors import BoxError, ImageError, ImgsearchError


def answer_images(
    call: Call, images: Sequence[str], format_name: str, output_file: Path | None, *, null: bool = False
) -> int:
    """Answer images, `-` for names on standard input; returns the highest exit code of those that cannot be used."""
    end = "\0" if null else "\n"  # of the names that are read and the paths that are written
    form = FORMATS[format_name](call.columns, end)
    exit_code = 0

    def answers() -> Iterator[Answer]:
        nonlocal exit_code
        for image in _names(images, end.encode()):
            answer = _answer(call, image)
            if isinstance(answer.result, ImgsearchError):
                exit_code = max(exit_code, answer.result.exit_code)
                if not form.carries_errors:
                    hint = f" ({answer.result.hint})" if answer.result.hint else ""
                    say(printable(f"{image}: {answer.result.message}{hint}"))
            yield answer

    with output(output_file) as file:
        for text in render(answers(), form):
            write(file, text)
    return exit_code


def _answer(call: Call, image: str) -> Answer:
    started = time.perf_counter()
    try:
        result = call.find(image)
    except (ImageError, BoxError) as error:
        return Answer(call, image, time.perf_counter() - started, error)
    return Answer(call, image, time.perf_counter() - started, result)


def _names(images: Sequence[str], end: bytes) -> Iterator[str]:
    """Yield names as they are given, and in place of `-` those on standard input, as `os.fsdecode` gives them."""
    for image in images:
        if image != "-":
            yield image
            continue
        rest = b""
        while part := os.read(0, 1 << 16):
            *whole, rest = (rest + part).split(end)
            yield from _decoded(whole, end)
        yield from _decoded([rest], end)


def _decoded(names: Sequence[bytes], end: bytes) -> Iterator[str]:
    for name in names:
        if exact := name if end == b"\0" else name.removesuffix(b"\r"):
            yield os.fsdecode(exact)
