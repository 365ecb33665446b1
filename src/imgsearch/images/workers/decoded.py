"""Decode many image files, one process a core."""

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from imgsearch.errors import ImageError, RefusedError
from imgsearch.images.decode import read_file
from imgsearch.images.policy import FilePolicy
from imgsearch.images.workers.decoders import DecodeWorker
from imgsearch.images.workers.pool import map_with_workers

# One file may kill the decoder. When these do one after another, it is the decoder or the machine.
CRASHES_IN_A_ROW = 5

Result = TypeVar("Result")


def processors() -> int:
    """Count the processors that this process may use."""
    return len(os.sched_getaffinity(0))


def decoded_files(
    root: str,
    paths: Iterable[str],
    policy: FilePolicy,
    make: Callable[[], DecodeWorker],
    ask: Callable[[DecodeWorker, bytes], Result],
) -> Iterator[Result | ImageError]:
    """Read files and have them decoded.

    Args:
        root: The folder that paths are relative to.
        paths: The files.
        policy: Which of them are let in.
        make: Makes a decoder.
        ask: What is asked of it, with the content of a file.

    Yields:
        For each path, in order, what `ask` returned, or why there is nothing.

    Raises:
        RefusedError: The decoder died of one file after another.
    """

    def decode(worker: DecodeWorker, path: str) -> Result | ImageError:
        try:
            name = os.path.join(root, path)
            data, _ = read_file(name, follow_links=policy.follow_links, max_bytes=policy.max_bytes)
            return ask(worker, data)
        except ImageError as error:
            return error

    workers = [make() for _ in range(processors())]
    with contextlib.closing(map_with_workers(decode, paths, workers)) as results:
        yield from while_decoder_works(results, lambda result: result if isinstance(result, ImageError) else None)


def while_decoder_works(results: Iterable[Result], error_of: Callable[[Result], ImageError | None]) -> Iterator[Result]:
    """Pass results on, but stop when the decoder dies of one file after another: then the files are not at fault.

    Args:
        results: Of decoding.
        error_of: What went wrong with one, if anything.

    Yields:
        The results.

    Raises:
        RefusedError: It died of five in a row.
    """
    crashes = 0
    for result in results:
        error = error_of(result)
        crashes = crashes + 1 if error is not None and error.cause == "decoder_crashed" else 0
        if crashes == CRASHES_IN_A_ROW:
            raise RefusedError(
                f"the decoder died of {crashes} files in a row",
                hint="is there memory enough, and is OpenCV whole? build-index can go on all the same: --force",
            )
        yield result
