"""What the operating system refuses is said to be its doing: no file is called damaged, and none is changed."""

import _thread
import ctypes
import errno
import hashlib
import itertools
import os
import resource
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import imgsearch.encoders.runtime
from imgsearch import Index, build_index, evaluate
from imgsearch.encoders.choice import choose_encoder
from imgsearch.encoders.runtime import open_encoder
from imgsearch.errors import DamagedIndexError, MissingComponentError, ResourceError, UsageError
from imgsearch.system import refusal_of

pytestmark = pytest.mark.usefixtures("quick_builds")


REFUSALS = [
    *(errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN, errno.EACCES, errno.EPERM, errno.EIO, errno.ESTALE),
    *(errno.ETIMEDOUT, errno.ENODEV, errno.ENOTCONN, errno.EREMOTEIO, errno.EINVAL),
]
# Words of advice after which somebody might delete a good index.
DANGEROUS = ("damaged", "rebuil", "move the directory", "build-index", "it makes this file anew", "Traceback")


@pytest.fixture(scope="module")
def published(tmp_path_factory, lay_out) -> Path:
    """A catalog, and its index in the second generation. Not to be changed."""
    folder = tmp_path_factory.mktemp("published")
    folder.chmod(0o755)  # for another user
    lay_out(folder / "catalog", 12)
    build_index(folder / "catalog", folder / "index", backbone="handcrafted", backend="annoy", trees=3)
    build_index(folder / "catalog", folder / "index", relearn=True)
    return folder


@pytest.fixture
def index(published, tmp_path, monkeypatch) -> Path:
    """A copy of the index, in the working directory."""
    monkeypatch.setenv("IMGSEARCH_INDEX", "index")
    return Path(shutil.copytree(published / "index", tmp_path / "index"))


def held(index: Path) -> dict[str, bytes]:
    """All files of an index but for the lock and what an interrupted build has left to go on from."""
    files = (path for path in index.rglob("*") if path.is_file())
    names = {str(path.relative_to(index)): path for path in files}
    return {name: path.read_bytes() for name, path in names.items() if not name.startswith(("lock", "partial"))}


def assert_system_is_blamed(done, code=13):
    said = done.stdout + done.stderr
    assert done.returncode == code, said
    assert [word for word in DANGEROUS if word in said] == [], said
    assert "hint: " in done.stderr, said


# What is run, and the files of the index that it opens.
COMMANDS = {
    "query": (("query", "PHOTO"), ("manifest", "vectors", "items", "annoy", "spec")),
    "check": (("check",), ("manifest", "gen-000002", "spec")),
    "deep check": (("check", "--deep"), ("gen-000001",)),
    "info": (("info", "--rejected"), ("manifest", "items")),
    "rollback": (("rollback",), ("manifest", "gen-000001", "spec")),
    "unchanged build": (("build-index", "CATALOG"), ("manifest", "gen-000002", "spec")),
    "build": (("build-index", "CATALOG", "--relearn"), ("manifest", "items", "embeddings", "spec")),
    "evaluate": (("evaluate", "--recall"), ("manifest", "vectors", "annoy")),
}


def opened_by(name: str, index: Path) -> list[str]:
    """Find the files that a command opens, by the start of their names or that of a generation's folder."""
    current = [file for file in held(index) if not file.startswith("gen-000001")]
    return [
        file
        for word in COMMANDS[name][1]
        for file in (held(index) if word.startswith("gen-") else current)
        if file.startswith(word) or (word != "manifest" and Path(file).name.startswith(word))
    ]


@pytest.fixture
def run(imgsearch, published, photo):
    """Run one of the commands."""

    def run(name, *more):
        places = {"PHOTO": photo, "CATALOG": published / "catalog"}
        return imgsearch(*(places.get(word, word) for word in (*COMMANDS[name][0], *more)))

    return run


@pytest.mark.parametrize("name", COMMANDS)
def test_a_file_that_the_system_does_not_open_is_not_called_damaged_and_nothing_is_changed(
    run, monkeypatch, index, figure, name
):
    before, files = held(index), opened_by(name, index)
    real = os.open
    # Each command meets another error at each file.
    numbers = itertools.islice(itertools.cycle(REFUSALS), list(COMMANDS).index(name), None)

    for file, number in zip(files, numbers, strict=False):

        def refuse(path, *arguments, file=file, number=number, **options):
            if str(path).endswith(f"index/{file}"):
                raise OSError(number, os.strerror(number), path)
            return real(path, *arguments, **options)

        with monkeypatch.context() as patch:
            patch.setattr(os, "open", refuse)
            done = run(name)
        assert_system_is_blamed(done)
        assert held(index) == before

    figure(name, len(files))
    assert len(files) >= 2


@pytest.mark.parametrize("number", [errno.ENOMEM, errno.ENODEV, errno.EACCES])
@pytest.mark.parametrize("name", ["query", "check", "deep check", "build", "evaluate"])
def test_a_file_that_cannot_be_mapped_is_not_called_damaged(run, monkeypatch, index, name, number):
    def refuse(*_, **__):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("numpy.memmap", refuse)
    monkeypatch.setattr("mmap.mmap", refuse)
    before = held(index)

    assert_system_is_blamed(run(name))
    assert held(index) == before


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (sqlite3.SQLITE_CANTOPEN, "unable to open database file"),
        (sqlite3.SQLITE_IOERR, "disk I/O error"),
        (sqlite3.SQLITE_IOERR_READ, "disk I/O error"),
        (sqlite3.SQLITE_BUSY, "database is locked"),
        (sqlite3.SQLITE_PERM, "access permission denied"),
    ],
)
@pytest.mark.parametrize("name", ["query", "deep check", "info"])
def test_what_sqlite_says_of_the_disk_is_not_called_damage(run, monkeypatch, index, name, code, words):
    error = sqlite3.OperationalError(words)
    error.sqlite_errorcode = code

    def refuse(*_, **__):
        raise error

    monkeypatch.setattr("imgsearch.store.database.connect", refuse)
    monkeypatch.setattr("imgsearch.search.check.connect", refuse)

    done = run(name)

    assert_system_is_blamed(done)
    assert words in done.stderr


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOMEM])
@pytest.mark.parametrize(("function", "name"), [("scandir", "catalog/b"), ("open", "0004.png")])
def test_images_are_not_lost_for_want_of_open_files_or_memory(
    run, monkeypatch, published, index, function, name, number
):
    real = getattr(os, function)

    def refuse(path, *given, **options):
        if str(path).endswith(name):
            raise OSError(number, os.strerror(number), path)
        return real(path, *given, **options)

    before = held(index)
    monkeypatch.setattr(os, function, refuse)

    done = run("unchanged build", *(() if function == "scandir" else ("--backbone", "handcrafted:color")))

    assert_system_is_blamed(done)
    assert before.items() <= held(index).items()  # and perhaps the encoder that the next run goes on with


def refuse_threads(monkeypatch):
    def start(*_):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    monkeypatch.setattr(_thread, "start_new_thread", start)  # which the threads of a build are started by


def refuse_processes(monkeypatch):
    def start(*_, **__):
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    monkeypatch.setattr(subprocess, "Popen", start)
    monkeypatch.setattr(os, "fork", start)


def refuse_memory(monkeypatch):
    def allocate(*_, **__):
        raise MemoryError

    for module in ("search.nearest", "search.check", "build.generation"):
        monkeypatch.setattr(f"imgsearch.{module}.open_array", allocate)


@pytest.mark.parametrize("refuse", [refuse_threads, refuse_processes, refuse_memory])
@pytest.mark.parametrize("name", ["query", "check", "build"])
def test_too_few_threads_processes_or_bytes_are_no_bug_and_no_damage(run, monkeypatch, index, name, refuse):
    if (name, refuse) in (("check", refuse_threads), ("build", refuse_processes)):
        pytest.skip("needs none")
    before = held(index)
    refuse(monkeypatch)

    assert_system_is_blamed(run(name))
    assert held(index) == before


def test_where_no_process_may_be_started_a_query_says_how_to_go_without(run, monkeypatch, index):
    def fork():
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "fork", fork)

    done = run("query")

    assert (done.returncode, "query --exact" in done.stderr) == (8, True)
    assert run("query", "--exact").returncode == 0


def test_without_a_temporary_folder_there_is_no_curve_and_everything_else(monkeypatch, published, tmp_path, caplog):
    build_index(published / "catalog", tmp_path / "index", backbone="handcrafted:color", backend="auto")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))

    assert evaluate(tmp_path / "index", recall=True).recall.recall
    assert "no curve: " in caplog.text


@pytest.mark.parametrize("place", ["spec.json", "vectors.npy", "items.sqlite", "annoy.ann"])
def test_an_open_index_answers_again_once_the_system_lets_it(monkeypatch, index, photo, place):
    """As in a service that had too many open files for a moment, or whose network disk was away."""
    real = hashlib.file_digest

    def refuse(file, *given):
        found = real(file, *given)
        if str(Path(f"/proc/self/fd/{file.fileno()}").readlink()).endswith(place):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return found

    with Index.open(index) as opened:
        with monkeypatch.context() as patch:
            patch.setattr(hashlib, "file_digest", refuse)
            for _ in range(2):
                with pytest.raises(ResourceError, match=place):
                    opened.search(photo)
        assert len(opened.search(photo)) == 5


# --- real limits


@pytest.mark.parametrize("files", [5, 8])
@pytest.mark.parametrize("name", ["query", "unchanged build"])
def test_few_open_files_are_said_to_be_few(imgsearch, run, published, photo, index, name, files):
    def limit():
        resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))

    before = held(index)
    places = {"PHOTO": photo, "CATALOG": published / "catalog"}

    done = imgsearch(*(places.get(word, word) for word in COMMANDS[name][0]), preexec_fn=limit)

    if files < 8 or done.returncode:
        assert_system_is_blamed(done)
        assert "Too many open files" in done.stderr
    assert held(index) == before


@pytest.mark.parametrize("megabytes", [90, 300])
def test_a_small_address_space_is_said_to_be_small(imgsearch, index, photo, megabytes):
    def limit():
        resource.setrlimit(resource.RLIMIT_AS, (megabytes << 20, megabytes << 20))

    done = imgsearch("query", photo, preexec_fn=limit)

    assert_system_is_blamed(done)
    assert "ulimit -v" in done.stderr


@pytest.mark.parametrize(("command", "megabytes"), [(("query", "PHOTO"), 550), (("check", "--deep"), 460)])
def test_an_address_space_too_small_for_openvino_is_said_to_be_small(imgsearch, network, photo, command, megabytes):
    def limit():
        resource.setrlimit(resource.RLIMIT_AS, (megabytes << 20, megabytes << 20))

    words = (photo if word == "PHOTO" else word for word in command)
    done = imgsearch(*words, "--index", network, preexec_fn=limit)

    assert_system_is_blamed(done)


def test_where_executable_memory_is_forbidden_the_encoder_is_said_not_to_run(imgsearch, network, photo):
    forbid, libc = 65, ctypes.CDLL(None)  # PR_SET_MDWE, as systemd's MemoryDenyWriteExecute

    def limit():
        libc.prctl(forbid, 1, 0, 0, 0)

    probe = "import ctypes; raise SystemExit(ctypes.CDLL(None).prctl(65, 1, 0, 0, 0))"
    if subprocess.run([sys.executable, "-c", probe], check=False).returncode:
        pytest.skip("the kernel has no PR_SET_MDWE")
    for command in (("query", photo), ("check", "--deep")):
        done = imgsearch(*command, "--index", network, preexec_fn=limit)

        assert done.returncode == 8, done.stderr
        assert "OpenVINO cannot compile the encoder lite0-retrieval on this machine" in done.stderr
        assert "MemoryDenyWriteExecute" in done.stderr
        assert (done.stdout, "damaged" in done.stderr) == ("", False)


@pytest.fixture
def for_all(published) -> Iterator[Path]:
    """A catalog and an index that every user may read and write; pytest's own folders are for one user alone."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(shutil.copytree(published, Path(folder, "shop")))
        build_index(copy / "catalog", copy / "index")  # it has moved
        for path in (Path(folder), copy, *copy.rglob("*")):
            path.chmod(0o777 if path.is_dir() else 0o666)
        yield copy


@pytest.mark.parametrize("name", ["manifest.json", "annoy.ann", "embeddings.npy", "gen-000003"])
def test_what_another_user_may_not_read_is_not_called_damaged(for_all, name):
    """In a process that first does all as root, for the interpreter may lie where only root is let through."""
    file = for_all / "index" / ("" if name in ("manifest.json", "gen-000003") else "gen-000003") / name
    before, mode = held(for_all / "index"), file.stat().st_mode
    code = (
        "import os, sys; from imgsearch.cli import main; catalog, index, file = sys.argv[1:];"
        "run = lambda: [main(['build-index', catalog, '--index', index]), main(['check', '--index', index])];"
        "run(); os.chmod(file, 0); os.geteuid() == 0 and os.setuid(65534); sys.exit(run() != [13, 13])"
    )

    command = [sys.executable, "-c", code, for_all / "catalog", for_all / "index", file]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    file.chmod(mode)

    assert done.returncode == 0, done.stderr
    assert [word for word in DANGEROUS if word in done.stderr] == [], done.stderr
    assert done.stderr.count("Permission denied") == 2
    assert held(for_all / "index") == before


# --- libraries


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        OSError(errno.EMFILE, "Too many open files"),
        RuntimeError("can't start new thread"),
        RuntimeError("Exception from plugin.cpp:54:\nstd::bad_alloc\n"),
        RuntimeError("[CPU] PowerStatic node with name 'Transpose' can't alloc"),
        RuntimeError("Failed to allocate 526848 bytes of memory"),
        ImportError("cv2.abi3.so: failed to map segment from shared object"),
        ImportError("libx.so: cannot open shared object file: Too many open files"),
    ],
)
def test_what_libraries_say_for_want_of_memory_is_a_refusal_of_the_system(error):
    assert refusal_of(error).exit_code == 13


@pytest.mark.parametrize("error", [RuntimeError("a bug"), ValueError("bad_alloc"), OSError(errno.ENOSPC, "full")])
def test_what_says_nothing_of_the_system_is_no_refusal(error):
    assert refusal_of(error) is None


class _Core:
    """OpenVINO, where it does not run."""

    def __init__(self, read: str, compiled: str) -> None:
        self._read, self._compiled = read, compiled

    def read_model(self, _):
        if self._read:
            raise RuntimeError(self._read)
        return self

    def compile_model(self, *_):
        raise RuntimeError(self._compiled)


@pytest.mark.parametrize(
    ("read", "compiled", "kind"),
    [
        ("Exception from frontend.cpp:1:\nCannot parse the model", "", DamagedIndexError),
        ("std::bad_alloc", "", ResourceError),
        ("", "Exception from core.cpp:117:\nException from plugin.cpp:54:\ncan't protect\n\n", MissingComponentError),
        ("", "Exception from plugin.cpp:54:\nstd::bad_alloc", ResourceError),
        ("", "Cannot load library libopenvino_intel_cpu_plugin.so: Too many open files", ResourceError),
    ],
)
def test_what_openvino_cannot_read_cannot_compile_and_has_no_memory_for_are_told_apart(
    monkeypatch, tmp_path, read, compiled, kind
):
    openvino = type("OpenVino", (), {"Core": lambda: _Core(read, compiled)})
    monkeypatch.setattr(imgsearch.encoders.runtime, "import_openvino", lambda: openvino)
    for name in ("encoder.xml", "encoder.bin"):
        (tmp_path / name).touch()
    spec = choose_encoder("efficientnet-lite0").spec

    with pytest.raises(kind):
        open_encoder(spec, tmp_path, with_map=True)


# --- what is the caller's doing


@pytest.mark.parametrize(
    "where",
    [
        "length(randomblob(2000000000)) > 0",
        "length(zeroblob(2000000000)) > 0",
        "length(hex(zeroblob(50000000))) > 0",
        "replace(hex(zeroblob(20000000)), '0', 'aaaa') > ''",
        "length(printf('%s', zeroblob(1)) || randomblob(70000000)) > 0",
        "(WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x FROM c) SELECT count(*) FROM c) > 0",
    ],
)
def test_a_condition_that_wants_more_memory_than_an_item_has_is_to_blame_itself(run, index, where):
    done = run("query", "--where", where)

    assert done.returncode == 2
    assert f"--where {where!r}: " in done.stderr
    assert "damaged" not in done.stderr


def test_a_closed_index_says_that_it_is_closed(index, photo):
    opened = Index.open(index)
    opened.close()

    for ask in (
        lambda: opened.search(photo),
        lambda: opened.search_objects(photo),
        lambda: opened.search_vector(opened.nearest._vectors[0]),
        lambda: opened.items.fetch([0]),
        lambda: opened.items.row_of_content(b""),
    ):
        with pytest.raises(UsageError, match="is closed"):
            ask()
