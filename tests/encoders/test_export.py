"""Exports in the cache: made once, made again where they are damaged, and by one process of many."""

import errno
import fcntl
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
import types
from pathlib import Path

import pytest

from imgsearch.encoders import export
from imgsearch.encoders.choice import choose_encoder
from imgsearch.encoders.export import SPEC_FILE, exported_encoder, exported_files
from imgsearch.encoders.spec import EncoderSpec
from imgsearch.encoders.table import TABLE
from imgsearch.errors import MissingComponentError, OutputError, ResourceError, UsageError

HANDCRAFTED = TABLE["handcrafted"].spec
CHECKSUMS = "sha256.json"


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("IMGSEARCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "encoders"


def folders(cache: Path) -> list[str]:
    return [path.name for path in cache.iterdir() if path.suffix != ".lock"]


def test_an_export_is_complete_says_what_it_is_and_is_found_again_without_a_process(tiny_models, monkeypatch):
    choice = choose_encoder(str(tiny_models / "metric.keras"))
    folder = exported_encoder(choice.spec, choice.files)
    monkeypatch.setattr(subprocess, "Popen", lambda *arguments, **_: pytest.fail(f"{arguments} was started"))

    assert exported_encoder(choice.spec, choice.files) == folder
    assert sorted(file.name for file in folder.iterdir()) == sorted([*exported_files(choice.spec), CHECKSUMS])
    assert EncoderSpec.from_json(json.loads((folder / SPEC_FILE).read_text())) == choice.spec


def test_a_handcrafted_encoder_is_exported_without_a_process(cache, monkeypatch):
    monkeypatch.setattr(subprocess, "Popen", lambda *arguments, **_: pytest.fail(f"{arguments} was started"))

    folder = exported_encoder(HANDCRAFTED)

    assert {file.name for file in folder.iterdir()} == {SPEC_FILE, CHECKSUMS}
    assert folder.name.startswith(HANDCRAFTED.fingerprint)
    assert folder.parent == cache


def test_a_half_exported_encoder_is_exported_again(cache):
    half = cache / f"{HANDCRAFTED.fingerprint}-4"
    half.mkdir(parents=True)
    (half / "litter").touch()

    assert exported_encoder(HANDCRAFTED) == half
    assert {file.name for file in half.iterdir()} == {SPEC_FILE, CHECKSUMS}
    assert folders(cache) == [half.name]


@pytest.mark.parametrize("damage", [b"", b"{}", b"garbage"], ids=["emptied", "another", "garbage"])
def test_a_damaged_export_is_made_again(cache, caplog, damage):
    folder = exported_encoder(HANDCRAFTED)
    good = (folder / "spec.json").read_bytes()
    (folder / "spec.json").write_bytes(damage)

    assert (exported_encoder(HANDCRAFTED) / "spec.json").read_bytes() == good
    assert "damaged" in caplog.text


def test_where_the_cache_cannot_be_written_the_export_is_for_this_run_only(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    (tmp_path / "passing").mkdir()
    monkeypatch.setenv("IMGSEARCH_CACHE", str(tmp_path / "file"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "passing"))

    folder = exported_encoder(HANDCRAFTED)

    assert (folder / "spec.json").is_file()
    assert folder.is_relative_to(tmp_path / "passing")


def test_where_nothing_can_be_written_the_export_is_an_output_error(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("IMGSEARCH_CACHE", str(tmp_path / "file"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))

    with pytest.raises(OutputError) as refused:
        exported_encoder(HANDCRAFTED)

    assert "IMGSEARCH_CACHE" in refused.value.hint


SAID = {"message": "vgg16: no good", "hint": "--weights"}


@pytest.mark.parametrize(
    ("script", "kind", "message", "hint"),
    [
        (f"echo '{json.dumps(SAID)}'; exit 8", MissingComponentError, "vgg16: no good", "--weights"),
        (f"echo '{json.dumps(SAID)}'; exit 2", UsageError, "vgg16: no good", "--weights"),
        (f"echo '{json.dumps(SAID)}'; exit 11", OutputError, "vgg16: no good", "--weights"),
        (f"echo '{json.dumps(SAID)}'; exit 13", ResourceError, "vgg16: no good", "--weights"),
        ("echo MemoryError >&2; exit 1", ResourceError, "memory", "free memory, or raise its limit"),
        ("echo last words >&2; exit 1", MissingComponentError, r"(?s)exit code 1.*last words", ""),
        ("kill -9 $$", MissingComponentError, "exit code -9", ""),
    ],
)
def test_what_the_exporting_process_says_is_what_the_user_is_told(
    cache, tmp_path, monkeypatch, script, kind, message, hint
):
    program = tmp_path / "python"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))

    with pytest.raises(kind, match=message) as refused:
        exported_encoder(TABLE["efficientnet-lite0"].spec)

    assert refused.value.hint.startswith(hint)
    assert bool(refused.value.hint) == bool(hint)
    assert folders(cache) == []


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EIO])
def test_a_cache_without_room_costs_an_export_for_this_run_only(cache, tmp_path, monkeypatch, number):
    fill = export._fill

    def full(staging, *arguments):
        fill(staging, *arguments)
        if staging.is_relative_to(cache):
            raise OSError(number, os.strerror(number), str(staging))

    monkeypatch.setattr(export, "_fill", full)

    folder = exported_encoder(HANDCRAFTED)

    assert {file.name for file in folder.iterdir()} == {SPEC_FILE, CHECKSUMS}
    assert not folder.is_relative_to(cache)
    assert folders(cache) == []


def test_a_cache_that_cannot_be_opened_for_want_of_descriptors_is_no_reason_to_go_without(cache, monkeypatch):
    def mkdtemp(**_):
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(tempfile, "mkdtemp", mkdtemp)

    with pytest.raises(ResourceError, match="Too many open files"):
        exported_encoder(HANDCRAFTED)


def test_what_killed_exports_have_left_goes_after_a_day(cache, monkeypatch):
    old, young, kept = (cache / name for name in ("staging-old", "staging-young", f"{'0' * 16}-4"))
    for folder in (old, young, kept):
        folder.mkdir(parents=True)
        (folder / "encoder.bin").write_bytes(bytes(1000))
    for folder in (old, kept):
        os.utime(folder, (time.time() - 25 * 3600,) * 2)
    (cache / "staging-link").symlink_to(kept)

    exported_encoder(HANDCRAFTED)

    assert sorted(folders(cache)) == sorted([kept.name, young.name, "staging-link", f"{HANDCRAFTED.fingerprint}-4"])
    assert (kept / "encoder.bin").exists()


class _Network:
    """A network whose export does what it is told."""

    def __init__(self, does) -> None:
        self.export = does


def cut_short(path, **_):
    Path(path).write_text("<net>")


def without_room(path, **_):
    raise RuntimeError("basic_ios::clear: iostream error")


@pytest.mark.parametrize("does", [cut_short, without_room])
def test_an_export_that_a_full_disk_cuts_short_is_a_write_error(monkeypatch, tmp_path, does):
    module = types.SimpleNamespace(build_network=lambda *_: _Network(does), with_map=lambda network: network)
    monkeypatch.setitem(sys.modules, "imgsearch.encoders.networks", module)

    with pytest.raises(OutputError, match=str(tmp_path)):
        export.export_graph(TABLE["vgg16"].spec, None, tmp_path)


@pytest.mark.slow
def test_an_export_that_fails_is_a_missing_component_and_leaves_no_litter(cache, tmp_path):
    weights = tmp_path / "mine.weights.h5"
    weights.write_bytes(b"garbage " * 100)
    choice = choose_encoder("vgg16", weights)

    with pytest.raises(MissingComponentError) as refused:
        exported_encoder(choice.spec, choice.files)

    assert "vgg16" in refused.value.message
    assert "--weights" in refused.value.hint
    assert folders(cache) == []


def export_slowly(work: Path, start: "multiprocessing.synchronize.Barrier") -> None:
    """Export once all are ready, and leave a file for each time that the work is done."""
    fill = export._fill

    def slow(*arguments: object) -> None:
        tempfile.mkstemp(dir=work)
        time.sleep(0.3)  # long enough for the others to come by
        fill(*arguments)

    export._fill = slow
    start.wait()
    exported_encoder(HANDCRAFTED)


def test_of_several_processes_that_need_an_export_at_once_one_makes_it(cache, tmp_path):
    (tmp_path / "work").mkdir()
    context = multiprocessing.get_context("fork")
    start = context.Barrier(3)
    processes = [context.Process(target=export_slowly, args=(tmp_path / "work", start)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()

    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert len(list((tmp_path / "work").iterdir())) == 1
    assert len(folders(cache)) == 1


def test_a_cache_without_locks_is_used_all_the_same(cache, monkeypatch):
    def refuse(*_):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)

    assert exported_encoder(HANDCRAFTED).parent == cache
