"""Files that the decoder should not be asked to decode, and what happens when it dies of one."""

import contextlib
import json
import os
import signal
import time
from pathlib import Path

import pytest

from imgsearch.errors import ImageError
from imgsearch.images.decode import decode
from imgsearch.images.workers.decoders import DecodeWorker

BUILD = ("build-index", "catalog", "--index", "idx", "--backend", "exact", "--report", "report.json")
NEW = ("--backbone", "handcrafted")
MIB = 1 << 20


def refusal(worker: DecodeWorker, data: bytes) -> ImageError:
    with pytest.raises(ImageError) as refused:
        worker.decode(data)
    return refused.value


def lay_out(folder: Path, make, count: int, *, first: int = 0) -> None:
    folder.mkdir(exist_ok=True)
    for number in range(first, first + count):
        (folder / f"{number:03d}.jpg").write_bytes(make.jpeg(number))


def test_more_pixels_than_the_limit_are_refused_at_once_and_without_memory(make):
    worker = DecodeWorker(224, "pad")
    try:
        worker.decode(make.jpeg())  # now the process is up
        for name, (cause, data) in make.bombs().items():
            before = make.processor_seconds(worker._process.pid)
            assert (name, refusal(worker, data).cause) == (name, cause)
            assert len(data) < 100_000
            assert (name, make.processor_seconds(worker._process.pid) - before < 0.2) == (name, True)
        status = Path(f"/proc/{worker._process.pid}/status").read_text()
        assert int(status.partition("VmHWM:")[2].split()[0]) * 1024 < 100 * MIB
    finally:
        worker.close()


def test_the_refusal_names_width_and_height(make):
    with pytest.raises(ImageError, match="65535 x 65535 pixels, more than the limit of 178,956,970"):
        decode(make.bombs()["little.tif"][1])


@pytest.mark.parametrize("seed", range(8))
def test_a_jpeg_that_ends_early_or_has_no_such_code_is_corrupt_though_it_can_be_decoded(make, seed):
    whole = make.encoded(".jpg", make.grained(seed))

    decode(whole)
    with pytest.raises(ImageError, match="premature end of data segment") as early:
        decode(make.with_a_gap(whole))
    with pytest.raises(ImageError, match="bad Huffman code") as bad:
        decode(make.with_a_bad_code(whole))

    assert early.value.cause == bad.value.cause == "corrupt"


def test_a_jpeg_with_a_zeroed_middle_is_corrupt(make):
    accepted = []
    for seed in range(20):
        with contextlib.suppress(ImageError):
            decode(make.zeroed(make.encoded(".jpg", make.grained(seed))))
            accepted.append(seed)

    assert accepted == []


@pytest.mark.parametrize("damage", ["with_a_gap", "with_a_bad_code"])
def test_stray_bytes_before_a_table_do_not_hide_damage_behind_it(make, damage):
    data = getattr(make, damage)(make.encoded(".jpg", make.grained(0)))
    start = data.index(b"\xff\xdb")

    with pytest.raises(ImageError):
        decode(data[:start] + b"\0\0" + data[start:])


def test_a_jpeg_of_thousands_of_scans_is_ended_by_the_clock(make):
    bomb = make.scan_bomb(3000)  # some 17 seconds; test_catalog has one for the program's own clock
    worker = DecodeWorker(224, "pad")
    try:
        worker.decode(make.jpeg())  # now the process is up
        worker._seconds = 0.5
        started = time.monotonic()
        assert refusal(worker, bomb).cause == "timeout"
        assert time.monotonic() - started >= 0.5

        assert len(bomb) < 500_000
        worker._seconds = 30
        assert worker.decode(make.jpeg())[0].shape == (224, 224, 3)
    finally:
        worker.close()


@pytest.mark.slow
def test_a_jpeg_of_thousands_of_scans_as_the_query_is_refused_in_half_a_minute(make, run, tmp_path):
    lay_out(tmp_path / "catalog", make, 3)
    run(*BUILD, *NEW, cwd=tmp_path)
    (tmp_path / "bomb.jpg").write_bytes(make.scan_bomb(12_000))

    done = run("query", "bomb.jpg", "--index", "idx", cwd=tmp_path, timeout=60)

    assert (done.code, done.err) == (4, b"imgsearch: bomb.jpg: not decoded in 30 s\n")
    assert done.seconds < 40


def test_a_decoder_that_is_killed_over_a_file_costs_that_file(make, run, report, outcomes, tmp_path):
    lay_out(tmp_path / "catalog", make, 30)
    (tmp_path / "catalog/015-killer.jpg").write_bytes(make.scan_bomb(5000))

    def kill_when_busy(process_id: int, seconds: float) -> None:
        if seconds > 1.5:  # no other file takes as long
            os.kill(process_id, signal.SIGKILL)

    done = run(*BUILD, *NEW, cwd=tmp_path, on_worker=kill_when_busy)

    plain = {f"{number:03d}.jpg": "indexed" for number in range(30)}
    assert outcomes(tmp_path / "idx") == plain | {"015-killer.jpg": "decoder_crashed"}
    assert done.code == 3
    assert done.err.startswith(b"imgsearch: rejected 015-killer.jpg: decoder_crashed")
    assert report(tmp_path / "report.json")["counts"]["rejected_by_cause"] == {"decoder_crashed": 1}


class Killer:
    """Kills decoder processes as they appear, so many at most."""

    def __init__(self, most: int) -> None:
        self.killed: set[int] = set()
        self._most = most

    def __call__(self, process_id: int, _: float) -> None:
        if len(self.killed) < self._most and process_id not in self.killed:
            self.killed.add(process_id)
            os.kill(process_id, signal.SIGKILL)


def test_a_decoder_that_dies_of_one_file_after_another_ends_the_build(make, run, tmp_path):
    lay_out(tmp_path / "catalog", make, 30)

    done = run(*BUILD, *NEW, cwd=tmp_path, on_worker=Killer(1000))

    assert done.code == 9
    assert done.err.startswith(b"imgsearch: the decoder died of 5 files in a row\n")
    assert b"--force" in done.err
    assert b"Traceback" not in done.err
    assert json.loads((tmp_path / "report.json").read_bytes())["exit_code"] == 9
    assert [path.name for path in (tmp_path / "idx").iterdir() if path.name.startswith(("manifest", "gen-"))] == []


def test_what_was_published_still_answers_after_a_decoder_died_again_and_again(make, run, tmp_path):
    lay_out(tmp_path / "catalog", make, 10)
    run(*BUILD, *NEW, cwd=tmp_path)
    before = (tmp_path / "idx/manifest.json").read_bytes()
    lay_out(tmp_path / "catalog", make, 20, first=10)

    done = run(*BUILD, cwd=tmp_path, on_worker=Killer(1000))
    asked = run("query", "catalog/003.jpg", "--index", "idx", "--format", "paths", "-k", 1, cwd=tmp_path)

    assert (done.code, asked.code, asked.out) == (9, 0, b"003.jpg\n")
    assert (tmp_path / "idx/manifest.json").read_bytes() == before


@pytest.mark.slow
def test_with_force_the_build_goes_on_and_the_next_one_tries_again(make, run, report, outcomes, tmp_path):
    lay_out(tmp_path / "catalog", make, 60)
    killer = Killer(7)

    forced = run(*BUILD, *NEW, "--force", cwd=tmp_path, on_worker=killer)
    counts = report(tmp_path / "report.json")["counts"]
    again = run(*BUILD, cwd=tmp_path)

    assert len(killer.killed) == 7
    assert (forced.code, counts["rejected_by_cause"], counts["embedded"]) == (3, {"decoder_crashed": 7}, 53)
    assert (again.code, set(outcomes(tmp_path / "idx").values())) == (0, {"indexed"})
