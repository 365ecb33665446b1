"""Embedding on workers of Dask: real ones, in processes of their own."""

import contextlib
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFileSystem

import killed_decoder
from imgsearch import embed
from imgsearch.build import cluster, pipeline
from imgsearch.errors import MissingComponentError, RefusedError, ServerError, UsageError
from imgsearch.images import listed, stores
from imgsearch.images.workers.decoders import DecodeWorker
from imgsearch.store import generations
from imgsearch.store.generations import read_manifest
from killed_decoder import BUG, KILLER, decode_or_die
from onnx_models import saved, toy

IMAGES = 48
COMMIT = 4
ENCODER = "handcrafted:color"


def start(name, *arguments, **environment):
    command = [sys.executable, "-P", "-m", f"distributed.cli.dask_{name}", "--no-dashboard", "--host", "127.0.0.1"]
    return subprocess.Popen(
        [*command, *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=os.environ | environment,
        text=True,
        start_new_session=True,
    )


def first_line_with(words, process):
    """Read what a process says until it says this; then let it say what it likes."""
    found = next(line for line in process.stderr if words in line)
    process.rest = threading.Thread(target=process.stderr.read)
    process.rest.start()
    return found


def end(process):
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    process.rest.join()
    process.stderr.close()


@pytest.fixture(scope="module")
def scheduler():
    process = start("scheduler", "--port", 0)
    try:
        yield first_line_with("Scheduler at:", process).split()[-1]
    finally:
        end(process)


@pytest.fixture(scope="module")
def start_worker(scheduler, own_cache, tmp_path_factory):
    """Start a worker with a cache of its own; returns process and address. They end with the tests."""
    with contextlib.ExitStack() as stack:

        def start_one(*arguments):
            folder = tmp_path_factory.mktemp("worker")
            given = ("--no-nanny", "--nthreads", 1, "--local-directory", folder / "dask", *arguments)
            process = start("worker", scheduler, *given, IMGSEARCH_CACHE=str(folder / "cache"))
            stack.callback(end, process)
            address = first_line_with("Start worker at:", process).split()[-1]
            return process, address

        yield start_one


@pytest.fixture(scope="module")
def workers(start_worker):
    """Two workers; each kills its decoder over certain files."""
    preload = ("--preload", killed_decoder.__file__)
    return [start_worker(*preload) for _ in range(2)]


@pytest.fixture
def client(scheduler):
    """A client that looks on."""
    from distributed import Client

    with Client(scheduler, set_as_default=False) as opened:
        yield opened


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr(pipeline, "COMMIT_IMAGES", COMMIT)
    monkeypatch.setattr(cluster, "COMMIT_IMAGES", COMMIT)


@pytest.fixture(scope="module")
def painted(tmp_path_factory, lay_out):
    """A catalog that is not to be changed."""
    return lay_out(tmp_path_factory.mktemp("painted"), IMAGES)


@pytest.fixture(scope="module")
def expected(painted, tmp_path_factory):
    """What this machine makes of it."""
    folder = tmp_path_factory.mktemp("local")
    embed(painted, folder, backbone=ENCODER)
    return published(folder)


def published(directory):
    """The bytes of all embeddings, and all rows of what there is about the items but when they were first seen."""
    folder = directory / read_manifest(directory).folder
    with contextlib.closing(sqlite3.connect(folder / generations.ITEMS)) as connection:
        connection.text_factory = bytes
        tables = [name.decode() for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type='table'")]
        rows = {
            name: sorted(connection.execute(f"SELECT * FROM {name}"), key=repr)
            for name in tables
            if name in ("items", "damaged", "remarks", "colors")
        }
        rows["rejected"] = sorted(connection.execute("SELECT path, size, mtime_ns, cause, message FROM rejected"))
    return (folder / generations.EMBEDDINGS).read_bytes(), rows


@pytest.mark.servers
def test_a_cluster_embeds_as_one_machine_does_bit_for_bit(painted, expected, scheduler, workers, tmp_path):
    report = embed(painted, tmp_path / "out", backbone=ENCODER, engine="dask", scheduler=scheduler)
    again = embed(painted, tmp_path / "out", engine="dask", scheduler=scheduler)

    assert (report.embedded, report.published, again.unchanged, again.published) == (IMAGES, True, IMAGES, False)
    assert published(tmp_path / "out") == expected


@pytest.mark.servers
def test_a_list_of_local_files_is_embedded_as_their_folder_is(painted, expected, scheduler, workers, tmp_path):
    urls = [f"file://{file}" for file in painted.rglob("*.png")]
    (tmp_path / "paths.txt").write_text("\n".join(urls))

    embed(tmp_path / "paths.txt", tmp_path / "out", backbone=ENCODER, engine="dask", scheduler=scheduler)

    assert published(tmp_path / "out") == expected


@pytest.mark.servers
def test_a_worker_that_cannot_reach_the_store_says_what_it_lacks(scheduler, workers, tmp_path, monkeypatch):
    store = MemoryFileSystem()
    monkeypatch.setattr(listed, "store_of", lambda _: store)
    monkeypatch.setattr(stores, "store_of", lambda _: store)
    (tmp_path / "paths.txt").write_text("s3://shop/a.png")
    store.pipe_file("shop/a.png", b"not empty")

    with pytest.raises(MissingComponentError, match=r"worker tcp://.* s3:// needs the libraries fsspec and s3fs"):
        embed(tmp_path / "paths.txt", tmp_path / "out", backbone=ENCODER, engine="dask", scheduler=scheduler)


@pytest.mark.servers
def test_a_network_goes_to_workers_that_do_not_have_it_once(painted, scheduler, workers, client, tmp_path, monkeypatch):
    saved(toy(), tmp_path / "toy.onnx")
    options = {"backbone": str(tmp_path / "toy.onnx"), "onnx_input": "mean=0,std=1"}
    sent = []
    monkeypatch.setattr(cluster._Cluster, "_send_encoder", counting(sent, cluster._Cluster._send_encoder))
    embed(painted, tmp_path / "local", **options)

    embed(painted, tmp_path / "out", engine="dask", scheduler=scheduler, **options)
    first = len(sent)
    embed(painted, tmp_path / "other", engine="dask", scheduler=scheduler, **options)

    assert published(tmp_path / "out") == published(tmp_path / "local")
    assert (first > 0, len(sent)) == (True, first)


def counting(calls, function):
    def call(*arguments):
        calls.append(arguments)
        return function(*arguments)

    return call


@pytest.mark.servers
def test_what_is_wrong_with_files_is_found_alike(scheduler, workers, lay_out, tmp_path, monkeypatch):
    monkeypatch.setattr(pipeline, "DecodeWorker", DecodeWorker)
    monkeypatch.setattr(DecodeWorker, "decode_with_colors", decode_or_die)
    catalog = lay_out(tmp_path / "catalog", 12)
    whole = (catalog / "a/0000.png").read_bytes()
    (catalog / "a/killer.png").write_bytes(whole + KILLER)
    (catalog / "b/cut.png").write_bytes(whole[:-30])
    (catalog / "b/empty.jpg").write_bytes(b"")
    (catalog / "b/text.jpg").write_bytes(b"<html>")
    (catalog / "c/copy.png").write_bytes(whole)
    (catalog / "c/\udcff\n.png").write_bytes(whole + b"!")
    os.mkfifo(catalog / "c/pipe.png")

    locally = embed(catalog, tmp_path / "local", backbone=ENCODER)
    report = embed(catalog, tmp_path / "out", backbone=ENCODER, engine="dask", scheduler=scheduler)

    assert published(tmp_path / "out") == published(tmp_path / "local")
    assert report.causes == locally.causes
    assert report.causes["decoder_crashed"] == 1


@pytest.mark.servers
def test_an_update_takes_over_what_was_renamed_and_embeds_only_what_is_new(
    scheduler, workers, lay_out, tmp_path, monkeypatch
):
    catalog = lay_out(tmp_path / "catalog", 12)
    embed(catalog, tmp_path / "out", backbone=ENCODER)
    shutil.copytree(tmp_path / "out", tmp_path / "local")
    (catalog / "a/0000.png").rename(catalog / "a/other.png")
    shutil.copy(catalog / "b/0001.png", catalog / "b/copy.png")
    lay_out(catalog, 5, first=100)
    (catalog / "c/0002.png").unlink()

    locally = embed(catalog, tmp_path / "local")
    report = embed(catalog, tmp_path / "out", engine="dask", scheduler=scheduler)

    assert (report.embedded, report.renamed, report.removed) == (5, 2, 2)
    assert (locally.embedded, locally.renamed, locally.removed) == (5, 2, 2)
    assert published(tmp_path / "out") == published(tmp_path / "local")


@pytest.mark.servers
def test_a_worker_that_is_killed_midway_changes_nothing(
    painted, expected, scheduler, workers, start_worker, client, tmp_path
):
    victim, address = start_worker()
    client.wait_for_workers(3)
    killed = []

    def kill_when_busy(stage, done, total):
        if stage == "embed" and done and not killed and client.processing().get(address):
            killed.append((done, total))
            victim.kill()
            victim.wait()

    report = embed(
        painted, tmp_path / "out", backbone=ENCODER, engine="dask", scheduler=scheduler, progress=kill_when_busy
    )

    ((done, total),) = killed
    assert 0 < done < total
    assert report.embedded == IMAGES
    assert published(tmp_path / "out") == expected


_KILLED_CLIENT = """
import os, signal, sys
from imgsearch import embed
from imgsearch.build import cluster, pipeline

pipeline.COMMIT_IMAGES = cluster.COMMIT_IMAGES = 4

def end(stage, done, total):
    if stage == "embed" and done >= total // 2:
        os.kill(os.getpid(), signal.SIGKILL)

embed(sys.argv[1], sys.argv[2], backbone="handcrafted:color", engine="dask", scheduler=sys.argv[3], progress=end)
"""


@pytest.mark.servers
def test_after_its_client_was_killed_the_next_one_goes_on(painted, expected, scheduler, workers, client, tmp_path):
    command = [sys.executable, "-c", _KILLED_CLIENT, painted, tmp_path / "out", scheduler]
    ended = subprocess.run(command, check=False, capture_output=True)

    report = embed(painted, tmp_path / "out", engine="dask", scheduler=scheduler, backbone=ENCODER)

    assert ended.returncode == -signal.SIGKILL
    assert report.resumed >= IMAGES // 2
    assert (report.embedded, report.renamed) == (IMAGES, 0)
    assert published(tmp_path / "out") == expected


@pytest.mark.servers
def test_a_picture_that_kills_workers_ends_with_an_error_that_names_it(
    painted, scheduler, workers, client, tmp_path, monkeypatch
):
    import distributed

    def die(self):
        class Last:
            address = "tcp://10.0.0.1:1"

        raise distributed.KilledWorker("task", Last, 3)

    monkeypatch.setattr(distributed.Future, "result", die)

    with pytest.raises(
        ServerError, match=r"4 workers died one after another of 4 files, from 'a/\d+.png' to"
    ) as raised:
        embed(painted, tmp_path / "out", backbone=ENCODER, engine="dask", scheduler=scheduler)

    assert "logs" in raised.value.hint


@pytest.mark.servers
def test_decoders_that_keep_dying_end_the_build(painted, scheduler, workers, tmp_path):
    catalog = Path(shutil.copytree(painted, tmp_path / "catalog"))
    for file in catalog.rglob("*.png"):
        file.write_bytes(file.read_bytes() + KILLER)

    with pytest.raises(RefusedError, match="the decoder died of 5 files in a row"):
        embed(catalog, tmp_path / "out", backbone=ENCODER, engine="dask", scheduler=scheduler)


@pytest.mark.servers
def test_a_bug_in_a_worker_is_said_as_one(scheduler, workers, lay_out, tmp_path):
    catalog = lay_out(tmp_path / "catalog", 12)
    (catalog / "b/bug.png").write_bytes((catalog / "a/0000.png").read_bytes() + BUG)

    with pytest.raises(Exception, match=r"(?s)worker tcp://.*decode_or_die.*RecursionError"):
        embed(catalog, tmp_path / "out", backbone=ENCODER, engine="dask", scheduler=scheduler)


@pytest.mark.servers
def test_a_worker_that_does_not_see_the_catalog_rejects_nothing(painted, scheduler, workers, tmp_path, monkeypatch):
    real = cluster.Setup
    monkeypatch.setattr(cluster, "Setup", lambda version, root, *rest: real(version, f"{root}-elsewhere", *rest))
    with pytest.raises(ServerError, match=r"worker tcp://.* expected to find the catalog .*-elsewhere, found nothing"):
        embed(painted, tmp_path / "out", backbone=ENCODER, engine="dask", scheduler=scheduler)

    (tmp_path / "mount").mkdir()
    monkeypatch.setattr(cluster, "Setup", lambda version, _, *rest: real(version, str(tmp_path / "mount"), *rest))
    monkeypatch.setattr(cluster, "read_content", lambda _, *rest: pipeline.read_content(str(painted), *rest))
    with pytest.raises(ServerError, match=r"worker tcp://.* finds that '.*.png' is vanished, which can be read here"):
        embed(painted, tmp_path / "out", backbone=ENCODER, engine="dask", scheduler=scheduler)


@pytest.mark.servers
def test_another_version_is_refused(painted, scheduler, workers, tmp_path, monkeypatch):
    monkeypatch.setattr(cluster, "__version__", "7.0.0")

    with pytest.raises(MissingComponentError, match=r"expected imgsearch 7.0.0 on tcp://.*, found 0"):
        embed(painted, tmp_path / "out", backbone=ENCODER, engine="dask", scheduler=scheduler)

    monkeypatch.setattr(cluster._Cluster, "require_same_version", lambda _: None)  # such a worker comes later
    with pytest.raises(MissingComponentError, match=r"worker tcp://.*: expected imgsearch 7.0.0, found 0"):
        embed(painted, tmp_path / "out", backbone=ENCODER, engine="dask", scheduler=scheduler)


@pytest.mark.servers
def test_without_a_scheduler_or_workers_that_is_said(painted, tmp_path, monkeypatch):
    process = start("scheduler", "--port", 0)
    try:
        address = first_line_with("Scheduler at:", process).split()[-1]
        monkeypatch.setattr(cluster, "_WORKERLESS_SECONDS", 0.5)
        with pytest.raises(ServerError, match="has no workers"):
            embed(painted, tmp_path / "out", backbone=ENCODER, engine="dask", scheduler=address)

        paused = start("worker", address, "--no-nanny", "--memory-limit", "1MB", "--local-directory", tmp_path / "dask")
        try:
            first_line_with("Pausing worker", paused)
            monkeypatch.setattr(cluster, "_LOOK_SECONDS", 0.1)
            with pytest.raises(ServerError, match="has no workers that take tasks"):
                embed(painted, tmp_path / "out", backbone=ENCODER, engine="dask", scheduler=address)
        finally:
            end(paused)
    finally:
        end(process)

    monkeypatch.setattr(cluster, "_CONNECT_SECONDS", 0.5)
    with pytest.raises(ServerError, match=f"expected a Dask scheduler at {address}, found none"):
        embed(painted, tmp_path / "out", backbone=ENCODER, engine="dask", scheduler=address)

    assert not list((tmp_path / "out").glob("gen-*"))


@pytest.mark.servers
def test_a_scheduler_that_is_lost_midway_is_said_and_what_is_done_is_kept(painted, expected, tmp_path):
    process = start("scheduler", "--port", 0)
    address = first_line_with("Scheduler at:", process).split()[-1]
    given = ("--no-nanny", "--nthreads", 1, "--local-directory", tmp_path / "dask")
    worker = start("worker", address, *given)
    first_line_with("Start worker at:", worker)

    def kill(stage, done, total):
        if stage == "embed" and done:
            process.kill()

    try:
        with pytest.raises(ServerError, match="the Dask scheduler was lost"):
            embed(painted, tmp_path / "out", backbone=ENCODER, engine="dask", scheduler=address, progress=kill)
    finally:
        end(worker)
        end(process)

    report = embed(painted, tmp_path / "out", backbone=ENCODER)
    assert report.resumed >= COMMIT
    assert published(tmp_path / "out") == expected


@pytest.mark.servers
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_worker_of_this_machine_ends_with_the_program_that_is_told_to(painted, expected, tmp_path, number):
    """The program and all that it has started is told, as by Ctrl-C."""
    program = f"""
import sys
from imgsearch.cli import run
from imgsearch.build import build, cluster, pipeline
import os
pipeline.COMMIT_IMAGES = cluster.COMMIT_IMAGES = 4
real = pipeline.record_embedded
def record(embedded, journal, counts, progress, total):
    def end(stage, done, total):
        if done >= total // 2:
            os.killpg(0, {int(number)})
    real(embedded, journal, counts, end, total)
cluster.record_embedded = record
if __name__ == "__main__":
    sys.argv = ["imgsearch", "embed", {os.fspath(painted)!r}, "-o", {os.fspath(tmp_path / "out")!r},
                "--backbone", {ENCODER!r}, "--engine", "dask"]
    run()
"""
    (tmp_path / "program.py").write_text(program)
    process = subprocess.Popen(
        [sys.executable, tmp_path / "program.py"], stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    _, said = process.communicate()  # which waits for all who have its standard error open
    report = embed(painted, tmp_path / "out", backbone=ENCODER)

    assert process.returncode == {signal.SIGINT: 130, signal.SIGTERM: 143}[number], said
    assert said == ""
    assert report.resumed >= IMAGES // 2
    assert published(tmp_path / "out") == expected


@pytest.mark.servers
def test_a_program_that_is_interrupted_while_its_worker_starts_says_nothing_and_leaves_no_process(painted, tmp_path):
    program = f"""
import os, signal, sys
import distributed
from imgsearch.cli import run
real = distributed.Nanny.instantiate
async def instantiate(self):
    os.kill(os.getpid(), signal.SIGINT)
    return await real(self)
distributed.Nanny.instantiate = instantiate
if __name__ == "__main__":
    sys.argv = ["imgsearch", "embed", {os.fspath(painted)!r}, "-o", {os.fspath(tmp_path / "out")!r},
                "--backbone", {ENCODER!r}, "--engine", "dask"]
    run()
"""
    (tmp_path / "program.py").write_text(program)
    process = subprocess.Popen([sys.executable, tmp_path / "program.py"], stderr=subprocess.PIPE, text=True)
    _, said = process.communicate()  # which waits for all who have its standard error open

    assert process.returncode == 130, said
    assert said == ""


def test_options_of_the_engine_are_checked_first(painted, tmp_path, monkeypatch):
    with pytest.raises(UsageError, match="--scheduler has no effect without --engine dask"):
        embed(painted, tmp_path / "out", scheduler="tcp://127.0.0.1:8786")
    for address in ("127.0.0.1:8786", "http://a:1", "tcp://a", "tcp://user:secret@a:1", "tcp://a:1/x", ""):
        with pytest.raises(UsageError, match="scheduler"):
            embed(painted, tmp_path / "out", engine="dask", scheduler=address)
    with pytest.raises(UsageError, match="engine must be one of local, dask"):
        embed(painted, tmp_path / "out", engine="ray")


def test_without_dask_it_says_what_to_install(painted, imgsearch, tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)

    done = imgsearch("embed", painted, "-o", tmp_path / "out", "--engine", "dask")

    assert done.returncode == 8
    assert "pip install 'imgsearch-toolkit[dask]'" in done.stderr
    assert not (tmp_path / "out").exists()


def test_one_machine_needs_no_dask(painted, tmp_path):
    program = "import sys; from imgsearch import embed; embed(*sys.argv[1:], backbone='handcrafted:color');"
    program += "print([name for name in ('dask', 'distributed', 'fsspec') if name in sys.modules])"
    command = [sys.executable, "-c", program, painted, tmp_path / "out"]

    assert subprocess.run(command, check=True, capture_output=True, text=True).stdout == "[]\n"
    assert np.load(tmp_path / "out/gen-000001/embeddings.npy").shape[0] == IMAGES
