"""Builds on a disk that fails, or in a machine whose power does, at a call of one's choice.

This is a process of its own: `python faulty.py`. It reads tasks, a JSON object a line, does each in a fork of
itself, so that each starts fast and may die, and answers with a line. `Task` has the keys of a task and `Answer` those
of an answer. What forks have in common is done before: the images are described, and libraries set themselves up.

Calls are counted where Python makes them. What SQLite and Annoy write in C goes by unseen; `largest` and a small disk
reach it. Images are decoded, and Annoy is tried, in the process itself: what is tried here is the disk.
"""

import builtins
import errno
import functools
import importlib
import io
import json
import os
import resource
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypedDict

import numpy as np

from here_annoy import run_here
from here_decoder import HereDecoder
from imgsearch.build import build, generation, pipeline, words  # noqa: F401  # for all forks
from imgsearch.build import options as build_options
from imgsearch.encoders import projection
from imgsearch.errors import ImgsearchError
from imgsearch.search import check
from imgsearch.search.backends import annoy
from imgsearch.search.index import Index
from imgsearch.store import rollback  # noqa: F401
from remembered import describe_images, descriptions_remembered

DIED = 77
SECONDS = 60


class Task(TypedDict, total=False):
    """What to do, and what shall go wrong."""

    do: str  # module:function
    arguments: list[Any]
    options: dict[str, Any]
    home: str  # the folder to do it in, whose calls are counted; the cache lies in it, too
    at: int  # which call fails; 0 for none
    for_ever: bool  # so do all after it
    number: int  # the error it fails with; 0 ends the process
    largest: int  # how many bytes a file may have; -1 for no limit
    sudden: bool  # whether the disk fills only after the build has looked whether there is room
    memory: str  # where to keep what a power cut could bring back; empty for no power cut


class Answer(TypedDict, total=False):
    """What came of it."""

    code: int  # of the process: 0, `DIED`, or what it should not be
    calls: int
    struck: bool
    failed: list[str]  # name and path of the first call that failed
    result: Any  # of the function, if JSON can say it
    error: str  # name of the exception
    ours: bool  # whether it is an ImgsearchError
    exit_code: int
    message: str
    traceback: str
    durable: dict[str, Any]  # what would be left after a power cut; see `Memory`
    synced: dict[str, Any]


class Memory:
    """What survives a power cut: of each folder the names when it was last synced, of each file the synced content.

    Files and folders go by their inodes, so that renaming one changes nothing about it. Each file that a synced folder
    has named is given a second name here, so that it can come back though it was removed or replaced since.
    """

    def __init__(self, folder: str, home: str) -> None:
        self._folder = folder
        self.durable: dict[str, Any] = {}
        self.synced: dict[str, Any] = {}
        for path, _, names in os.walk(home):
            self._keep_folder(path)
            for name in names:
                self._keep_file(os.lstat(os.path.join(path, name)))

    def made(self, path: str) -> None:
        """A new folder has nothing in it, though its inode may have been another's."""
        self.durable[str(os.lstat(path).st_ino)] = {}

    def fsync(self, descriptor: int, path: str) -> None:
        if os.path.isdir(path):
            self._keep_folder(path)
        else:
            self._keep_file(os.fstat(descriptor))

    def _keep_file(self, status: os.stat_result) -> None:
        self.synced[str(status.st_ino)] = [status.st_size, status.st_mtime_ns]

    def _keep_folder(self, path: str) -> None:
        names = self.durable[str(os.lstat(path).st_ino)] = {}
        with _REAL["scandir"](path) as entries:
            for entry in entries:
                kind = "link" if entry.is_symlink() else "folder" if entry.is_dir() else "file"
                names[entry.name] = [kind, entry.inode(), str(Path(entry.path).readlink()) if kind == "link" else ""]
                kept = os.path.join(self._folder, str(entry.inode()))
                if kind == "file" and not os.path.exists(kept):
                    _REAL["link"](entry.path, kept)


_REAL: dict[str, Callable[..., Any]] = {}


class Disk:
    """Counts the calls that touch a folder and what is in it, and lets the one that was asked for fail."""

    def __init__(self, task: Task, died: Callable[[], None]) -> None:
        self.calls = 0
        self.failed: list[str] = []
        self._home = os.path.realpath(task["home"])
        self._at = task.get("at", 0)
        self._for_ever = task.get("for_ever", False)
        self._number = task.get("number", 0)
        self._died = died
        self._lock = threading.Lock()
        one_path = ("mkdir", "rmdir", "unlink", "remove", "truncate", "scandir", "listdir", "open")
        for name in (*one_path, "write", "fsync", "ftruncate", "sendfile", "rename", "replace", "symlink", "link"):
            _REAL[name] = getattr(os, name)
        memory = task.get("memory", "")
        self.memory = Memory(memory, self._home) if memory else None
        for name in (*one_path, "write", "ftruncate", "sendfile"):
            setattr(os, name, self._failing(name, 0))
        for name in ("rename", "replace", "symlink", "link"):
            setattr(os, name, self._failing(name, 1))
        os.fsync = os.fdatasync = self._fsync
        os.mkdir = self._mkdir
        builtins.open = io.open = functools.partial(self._open, io.open)

    def call(self, name: str, path: str) -> None:
        """Count a call; raise or die if it is its turn. Python retries an interrupted read or write for ever."""
        with self._lock:
            self.calls += 1
            for_ever = self._for_ever and (self._number != errno.EINTR or name not in ("read", "write"))
            if not self._at or self.calls < self._at or (self.calls > self._at and not for_ever):
                return
            self.failed = self.failed or [name, path]
            if not self._number:
                self._died()
        raise OSError(self._number, os.strerror(self._number), path)

    def path(self, argument: Any, dir_fd: int | None = None) -> str:
        """Name the file that is meant."""
        if isinstance(argument, int):
            return str(Path(f"/proc/self/fd/{argument}").readlink())
        folder = Path.cwd() if dir_fd is None else Path(f"/proc/self/fd/{dir_fd}").readlink()
        return os.path.normpath(os.path.join(folder, os.fsdecode(argument)))

    def counts(self, path: str) -> bool:
        """Say whether a file lies where calls are counted."""
        return path == self._home or path.startswith(self._home + "/")

    def _failing(self, name: str, which: int) -> Callable[..., Any]:
        real = _REAL[name]

        def call(*arguments: Any, **options: Any) -> Any:
            argument = arguments[which] if len(arguments) > which else options.get("path", ".")
            path = self.path(argument, options.get("dir_fd"))
            if self.counts(path):
                creates = name == "open" and arguments[1] & (os.O_CREAT | os.O_WRONLY | os.O_RDWR)
                self.call("create" if creates else name, path)
            return real(*arguments, **options)

        return call

    def _fsync(self, descriptor: int) -> None:
        """Nobody pulls the plug of this machine, so that noting it will do."""
        path = self.path(descriptor)
        if self.counts(path):
            self.call("fsync", path)
            if self.memory:
                self.memory.fsync(descriptor, path)

    def _mkdir(self, path: Any, mode: int = 0o777, *, dir_fd: int | None = None) -> None:
        full = self.path(path, dir_fd)
        if self.counts(full):
            self.call("mkdir", full)
        _REAL["mkdir"](path, mode, dir_fd=dir_fd)
        if self.memory and self.counts(full):
            self.memory.made(full)

    def _open(
        self, real, file, mode="r", buffering=-1, encoding=None, errors=None, newline=None, *rest, **options
    ):  # as open() has them
        path = self.path(file)
        if not self.counts(path):
            return real(file, mode, buffering, encoding, errors, newline, *rest, **options)
        if not isinstance(file, int):
            self.call("open" if set(mode) <= set("rbt") else "create", path)
        raw = _FaultyFile(self, file, "".join(letter for letter in mode if letter not in "bt"), **options)
        if buffering == 0:
            return raw
        kind = io.BufferedRandom if "+" in mode else io.BufferedReader if "r" in mode else io.BufferedWriter
        return kind(raw) if "b" in mode else io.TextIOWrapper(kind(raw), encoding, errors, newline)


class _FaultyFile(io.FileIO):
    """A file whose reads and writes count."""

    def __init__(self, disk: Disk, file: Any, mode: str, **options: Any) -> None:
        super().__init__(file, mode, **options)
        self._disk = disk
        self._path = disk.path(self.fileno())

    def write(self, data: Any) -> int:
        self._disk.call("write", self._path)
        return super().write(data)

    def readinto(self, buffer: Any) -> int:
        self._disk.call("read", self._path)
        return super().readinto(buffer)

    def readall(self) -> bytes:
        self._disk.call("read", self._path)
        return super().readall()

    def read(self, size: int = -1) -> bytes:
        self._disk.call("read", self._path)
        return super().read(size)


def ask(directory: str, image: str) -> list[tuple[str, float]]:
    """Ask an index."""
    with Index.open(directory) as index:
        return [(hit.path, hit.score) for hit in index.search(image, k=50)]


def findings(directory: str) -> list[str]:
    """Check an index."""
    return [f"{finding.file}: {finding.problem}" for finding in check.check(directory, deep=True)]


def resize(disk: str, size: int, how: str = "rw") -> None:
    """Make a disk that is memory, mounted for this process alone, larger or smaller, or read-only."""
    subprocess.run(["mount", "-o", f"remount,{how},size={size}", disk], check=True)


def do(task: Task, tell: Callable[[Answer], None]) -> None:
    """Do a task in this process, and tell what came of it."""
    module, _, name = task["do"].partition(":")
    function = globals()[name] if module == "faulty" else getattr(importlib.import_module(module), name)
    os.chdir(task["home"])
    os.environ["IMGSEARCH_CACHE"] = os.path.join(task["home"], "cache")
    if task.get("largest", -1) >= 0:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (task["largest"], resource.RLIM_INFINITY))

    if task.get("sudden"):
        build_options.require_space = lambda *_: None

    def state() -> Answer:
        answer = Answer(calls=disk.calls, struck=bool(disk.failed), failed=disk.failed)
        if disk.memory:
            answer.update(durable=disk.memory.durable, synced=disk.memory.synced)
        return answer

    def died() -> None:
        tell(state())
        os._exit(DIED)

    disk = Disk(task, died)
    try:
        result = function(*task.get("arguments", []), **task.get("options", {}))
    except Exception as error:  # noqa: BLE001  # any kind is what this looks for
        tell(
            state()
            | Answer(
                error=type(error).__name__,
                ours=isinstance(error, ImgsearchError),
                exit_code=getattr(error, "exit_code", 1),
                message=str(error),
                traceback=traceback.format_exc(),
            )
        )
    else:
        tell(state() | Answer(result=result if isinstance(result, list) else None))


def _answer(write: Callable[..., int], descriptor: int, answer: Answer) -> None:
    _write_all(write, descriptor, json.dumps(answer).encode())


def prepare() -> None:
    """Do once what each fork would do again."""
    pipeline.DecodeWorker = HereDecoder
    # So that a dozen images have a projection.
    generation.SMALLEST_CATALOG = projection.DIMS = 8
    projection.learn_projection(np.eye(12, 16, dtype=np.float32))
    annoy._run = run_here
    run_here({})
    words._encoder()  # which would be prepared anew in the cache of each home


def main() -> None:
    """Do tasks until there are no more."""
    prepare()
    with descriptions_remembered():
        serve()


def serve() -> None:
    """Do each task in a fork."""
    for line in sys.stdin:
        task = json.loads(line)
        describe_images(task["arguments"])
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            signal.alarm(SECONDS)
            os.close(reading)
            write = os.write
            try:
                do(task, functools.partial(_answer, write, writing))
                os._exit(0)
            finally:
                traceback.print_exc()
                os._exit(99)
        os.close(writing)
        with open(reading, encoding="ascii") as pipe:
            answer = json.loads(pipe.read() or "{}")
        _, status = os.waitpid(child, 0)
        sys.stdout.write(json.dumps({**answer, "code": os.waitstatus_to_exitcode(status)}) + "\n")
        sys.stdout.flush()


def _write_all(write: Callable[[int, bytes], int], descriptor: int, data: bytes) -> None:
    while data:
        data = data[write(descriptor, data) :]


if __name__ == "__main__":
    main()
