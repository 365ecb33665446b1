"""Descriptions of images by the hand-crafted encoders, remembered: hundreds of builds describe the same few images."""

import functools
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from here_decoder import HereDecoder
from imgsearch.build import pipeline, vocabulary
from imgsearch.encoders import handcrafted
from imgsearch.errors import ImgsearchError
from imgsearch.images.policy import FilePolicy
from imgsearch.images.steps import Steps
from imgsearch.images.workers.decoders import decode_square
from imgsearch.preprocessing import file_worker
from imgsearch.preprocessing.file_worker import FileWorker

Describe = Callable[[NDArray[np.uint8]], NDArray[np.float32]]

_DESCRIBING = ("describe_all", "describe_color", "describe_texture", "describe_shape")


@contextmanager
def descriptions_remembered() -> Iterator[None]:
    """Let the hand-crafted encoders describe each image once in this process; what they say of it is the same."""
    with ExitStack() as stack:
        for name in _DESCRIBING:
            describe = getattr(handcrafted, name)
            stack.callback(setattr, handcrafted, name, describe)
            setattr(handcrafted, name, _remembering(describe))
        yield


def describe_images(arguments: Iterable[str]) -> None:
    """Describe the images that a task names, or that lie in folders it names, so that a fork of this process need not.

    Only what an absolute path names, and only as builds with the encoder `handcrafted` do by default.
    """
    cv2.setNumThreads(1)  # a fork would wait for ever for threads that it does not have
    for path in map(Path, arguments):
        if path.is_absolute():
            for file in [path] if path.is_file() else path.rglob("*.png"):
                _describe(file.read_bytes())


@functools.cache
def _describe(data: bytes) -> None:
    with suppress(ImgsearchError):
        handcrafted.describe_all(decode_square(data, FilePolicy(), 128, "pad", Steps(crop_foreground=True))[0])


@contextmanager
def building_here() -> Iterator[None]:
    """Let builds in this process decode in it, too, and describe each image once."""
    with ExitStack() as stack:
        stack.enter_context(descriptions_remembered())
        for module in (pipeline, vocabulary):
            stack.callback(setattr, module, "DecodeWorker", module.DecodeWorker)
            module.DecodeWorker = HereDecoder
        yield


@contextmanager
def making_files_here() -> Iterator[None]:
    """Let `preprocess` make its files in this process; what its processes are for, test_file_worker.py proves."""

    def answer(worker: FileWorker, data: bytes, _: int) -> NDArray[np.uint8]:
        asked = json.loads(worker._command[-1])
        parts = file_worker._answer(data, FilePolicy(**asked["policy"]), **asked["task"])
        return np.frombuffer(b"".join(parts), np.uint8)

    with ExitStack() as stack:
        stack.callback(setattr, FileWorker, "_ask", FileWorker._ask)
        FileWorker._ask = answer
        yield


@functools.cache
def _remembering(describe: Describe) -> Describe:
    known: dict[tuple[tuple[int, ...], bytes], NDArray[np.float32]] = {}

    def remembered(image: NDArray[np.uint8]) -> NDArray[np.float32]:
        key = (image.shape, hashlib.sha256(np.ascontiguousarray(image)).digest())
        if key not in known:
            known[key] = describe(image)
            known[key].flags.writeable = False
        return known[key]

    return remembered
