import json
import os
import resource
import signal
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest

from imgsearch.errors import PictureError
from imgsearch.images.policy import FilePolicy
from imgsearch.images.workers import DecodeWorker, decode_and_fit

SIZE = 64


def encoded(suffix: str, height: int = 90, width: int = 130, seed: int = 0) -> bytes:
    colours = np.random.default_rng(seed).integers(0, 256, (4, 4, 3)).astype(np.uint8)
    done, data = cv2.imencode(suffix, cv2.resize(colours, (width, height)))
    assert done
    return data.tobytes()


@pytest.fixture
def worker():
    opened = DecodeWorker(SIZE, "pad")
    yield opened
    opened.close()


def cause_of(worker: DecodeWorker, data: bytes) -> str:
    with pytest.raises(PictureError) as refused:
        worker.decode(data)
    return refused.value.cause


def is_alive(process_id: int) -> bool:
    try:
        os.kill(process_id, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize("how", ["pad", "crop", "stretch"])
def test_a_worker_gives_the_same_pixels_as_decoding_here(how):
    worker = DecodeWorker(SIZE, how)
    try:
        for data in (encoded(".jpg"), encoded(".png", 7, 400), encoded(".jpg", 1200, 900), encoded(".webp")):
            found, _ = worker.decode(data)
            assert np.array_equal(found, decode_and_fit(data, SIZE, how))
            assert (found.shape, found.dtype) == ((SIZE, SIZE, 3), np.uint8)
    finally:
        worker.close()


def test_pictures_larger_than_a_pipe_holds_go_through(worker):
    noise = np.random.default_rng(0).integers(0, 256, (1500, 1500, 3), dtype=np.uint8)
    _, data = cv2.imencode(".png", noise)

    assert len(data) > 5_000_000
    assert np.array_equal(worker.decode(data.tobytes())[0], decode_and_fit(data.tobytes(), SIZE, "pad"))


def test_one_process_serves_many_pictures(worker):
    worker.decode(encoded(".png"))
    first = worker._process.pid

    for seed in range(20):
        data = encoded(".png", seed=seed)
        assert np.array_equal(worker.decode(data)[0], decode_and_fit(data, SIZE, "pad"))

    assert worker._process.pid == first


def test_no_process_is_started_before_the_first_picture():
    worker = DecodeWorker(SIZE, "pad")

    assert worker._process is None
    worker.close()


@pytest.mark.parametrize(
    ("data", "cause"),
    [
        (b"", "empty"),
        (b"<html>", "not_an_image"),
        (b"8BPS" + bytes(40), "unsupported_format"),
        (encoded(".jpg")[:-20], "corrupt"),
        (b"\xff\xd8\xff\xc0\0\x11\x08\xff\xff\xff\xff\x03" + bytes(20), "too_large"),
    ],
)
def test_the_cause_of_a_refusal_comes_across_the_process_boundary(worker, data, cause):
    with pytest.raises(PictureError) as here:
        decode_and_fit(data, SIZE, "pad")

    with pytest.raises(PictureError) as there:
        worker.decode(data)

    assert there.value.cause == here.value.cause == cause
    assert there.value.message == here.value.message


def test_the_hint_of_a_refusal_comes_across_the_process_boundary(worker):
    with pytest.raises(PictureError) as refused:
        worker.decode(b"8BPS" + bytes(40))

    assert "convert" in refused.value.hint


def test_a_refused_picture_does_not_end_the_process(worker):
    worker.decode(encoded(".png"))
    first = worker._process.pid

    assert cause_of(worker, b"nothing") == "not_an_image"
    worker.decode(encoded(".png"))

    assert worker._process.pid == first


def test_a_killed_process_costs_one_picture_and_no_more(worker):
    data = encoded(".png")
    worker.decode(data)
    killed = worker._process
    killed.send_signal(signal.SIGKILL)
    killed.wait()

    assert cause_of(worker, data) == "decoder_crashed"
    assert np.array_equal(worker.decode(data)[0], decode_and_fit(data, SIZE, "pad"))
    assert worker._process.pid != killed.pid


def test_a_process_killed_while_a_large_file_is_sent_costs_one_picture(worker):
    worker.decode(encoded(".png"))
    os.kill(worker._process.pid, signal.SIGKILL)

    assert cause_of(worker, encoded(".png") + bytes(3_000_000)) == "decoder_crashed"
    assert worker.decode(encoded(".png"))[0].shape == (SIZE, SIZE, 3)


def test_a_process_that_stalls_is_ended_after_its_time():
    worker = DecodeWorker(SIZE, "pad", seconds=20)
    try:
        data = encoded(".png")
        worker.decode(data)
        stalled = worker._process.pid
        os.kill(stalled, signal.SIGSTOP)
        worker._seconds = 0.2

        assert cause_of(worker, data) == "timeout"
        assert not is_alive(stalled)
        worker._seconds = 20
        assert np.array_equal(worker.decode(data)[0], decode_and_fit(data, SIZE, "pad"))
    finally:
        worker.close()


SEND_MORE_THAN_A_PIPE_HOLDS_TO_A_STALLED_WORKER = """
import os, signal
from imgsearch.errors import PictureError
from imgsearch.images.workers import DecodeWorker
worker = DecodeWorker(64, "pad", seconds=20)
try:
    worker.decode(b"nothing")
except PictureError:
    pass
os.kill(worker._process.pid, signal.SIGSTOP)
worker._seconds = 0.5
signal.alarm(4)
try:
    worker.decode(bytes(3_000_000))
except PictureError as error:
    print(error.cause)
"""


def test_a_process_that_stalls_while_it_is_sent_a_large_file_is_ended_after_its_time():
    done = subprocess.run(
        [sys.executable, "-c", SEND_MORE_THAN_A_PIPE_HOLDS_TO_A_STALLED_WORKER],
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.stdout.strip() == "timeout"


@pytest.mark.parametrize("module", ["numpy.py", "cv2.py", "json.py", "selectors.py", "imgsearch.py"])
def test_a_module_in_the_current_directory_is_not_imported(tmp_path, monkeypatch, worker, module):
    (tmp_path / module).write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\nraise SystemExit(1)\n")
    monkeypatch.chdir(tmp_path)

    assert worker.decode(encoded(".png"))[0].shape == (SIZE, SIZE, 3)
    assert not (tmp_path / "ran").exists()


def test_close_leaves_no_process():
    worker = DecodeWorker(SIZE, "pad")
    worker.decode(encoded(".png"))
    process_id = worker._process.pid

    worker.close()

    assert worker._process is None
    assert not is_alive(process_id)


def test_close_may_be_called_twice_and_the_worker_used_again():
    worker = DecodeWorker(SIZE, "pad")
    worker.decode(encoded(".png"))
    worker.close()
    worker.close()

    assert worker.decode(encoded(".png"))[0].shape == (SIZE, SIZE, 3)
    worker.close()


def test_close_ends_a_process_that_is_stopped():
    worker = DecodeWorker(SIZE, "pad")
    worker.decode(encoded(".png"))
    process_id = worker._process.pid
    os.kill(process_id, signal.SIGSTOP)

    worker.close()

    assert not is_alive(process_id)


TASK = {"size": 8, "how": "pad", "policy": {}, "seconds": 5}


def start_by_hand() -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "imgsearch.images.workers", json.dumps(TASK)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def test_the_process_ends_when_its_input_does():
    process = start_by_hand()

    _, errors = process.communicate(timeout=30)

    assert (process.returncode, errors) == (0, b"")


def test_an_answer_is_a_status_a_length_and_pixels_as_documented():
    data = encoded(".png")
    process = start_by_hand()

    output, _ = process.communicate(struct.pack("<Q", len(data)) + data + struct.pack("<Q", 1) + b"?", timeout=30)

    assert struct.unpack_from("<BI", output) == (0, 8 * 8 * 3)
    assert output[5 : 5 + 192] == decode_and_fit(data, 8, "pad").tobytes()
    status, length = struct.unpack_from("<BI", output, 5 + 192)
    assert (status, length) == (1, len(output) - 5 - 192 - 5)
    assert b"not_an_image" in output


def test_no_worker_outlives_its_parent():
    code = (
        "import os, signal; from imgsearch.errors import PictureError;"
        "from imgsearch.images.workers import DecodeWorker; worker = DecodeWorker(8, 'pad'); worker._start();"
        "print(worker._process.pid, flush=True); os.kill(os.getpid(), signal.SIGKILL)"
    )
    # The worker holds our pipe for its errors open as long as it lives, so reading to the end waits for it.
    reading, writing = os.pipe()
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, pass_fds=[writing])
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        printed, _ = parent.communicate(timeout=30)
        pipe.read()

    assert parent.returncode == -signal.SIGKILL
    process_id = int(printed)
    for _ in range(200):
        if not is_alive(process_id) or "Z" in _state_of(process_id):
            break
        _wait_a_moment()
    else:
        pytest.fail("the worker is still there")


def _state_of(process_id: int) -> str:
    try:
        with open(f"/proc/{process_id}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return "Z"


def _wait_a_moment() -> None:
    signal.sigtimedwait([], 0.05)


def test_an_interrupt_from_the_keyboard_does_not_end_a_worker(worker):
    worker.decode(encoded(".png"))
    os.kill(worker._process.pid, signal.SIGINT)

    assert worker.decode(encoded(".png"))[0].shape == (SIZE, SIZE, 3)


def test_what_a_crop_shows_is_not_shrunken_below_its_size():
    data = encoded(".jpg", 64, 1024)

    crop, pad = decode_and_fit(data, 64, "crop"), decode_and_fit(data, 64, "pad")

    assert crop.shape == pad.shape == (64, 64, 3)
    whole = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[:, 480:544, ::-1]
    assert np.array_equal(crop, whole)


def limits_of(process_id: int) -> dict[str, tuple[str, str]]:
    """Soft and hard limit by name, as the kernel has them."""
    lines = Path(f"/proc/{process_id}/limits").read_text().splitlines()[1:]
    return {line[:26].strip(): (line[26:47].strip(), line[47:68].strip()) for line in lines}


@pytest.mark.parametrize(
    ("policy", "memory"),
    [(FilePolicy(), 2 << 30), (FilePolicy(max_pixels=1), 2 << 30), (FilePolicy(max_pixels=10**9), 8 * 10**9)],
)
def test_a_worker_has_limits_of_memory_by_the_pixels_let_in_and_dumps_no_core(policy, memory):
    worker = DecodeWorker(SIZE, "pad", policy)
    try:
        cause_of(worker, b"nothing")  # it has started, and set its limits
        limits = limits_of(worker._process.pid)

        assert limits["Max address space"][0] == str(memory)
        assert limits["Max core file size"] == ("0", "0")
        assert Path(f"/proc/{worker._process.pid}/oom_score_adj").read_text() == "1000\n"
    finally:
        worker.close()


def test_the_parent_keeps_its_own_limits(worker):
    before = [resource.getrlimit(which) for which in (resource.RLIMIT_AS, resource.RLIMIT_CORE)]

    cause_of(worker, b"nothing")

    assert [resource.getrlimit(which) for which in (resource.RLIMIT_AS, resource.RLIMIT_CORE)] == before


def test_the_environment_of_a_worker_says_how_many_pixels_and_threads_it_may_have(monkeypatch):
    monkeypatch.setenv("OPENCV_IO_MAX_IMAGE_PIXELS", "5")
    monkeypatch.setenv("OMP_NUM_THREADS", "64")
    monkeypatch.setenv("LANG", "C.UTF-8")
    worker = DecodeWorker(SIZE, "pad", FilePolicy(max_pixels=12_345))
    try:
        cause_of(worker, b"nothing")
        told = Path(f"/proc/{worker._process.pid}/environ").read_bytes().split(b"\0")
        threads = len(list(Path(f"/proc/{worker._process.pid}/task").iterdir()))
    finally:
        worker.close()

    assert {b"OPENCV_IO_MAX_IMAGE_PIXELS=12345", b"OMP_NUM_THREADS=1", b"OPENBLAS_NUM_THREADS=1"} <= set(told)
    assert b"LANG=C.UTF-8" in told
    assert threads == 1
    assert os.environ["OMP_NUM_THREADS"] == "64"


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tif"])
def test_a_limit_of_pixels_holds_in_a_worker_to_the_pixel(suffix):
    worker = DecodeWorker(SIZE, "pad", FilePolicy(max_pixels=90 * 130))
    try:
        assert worker.decode(encoded(suffix, 90, 130))[0].shape == (SIZE, SIZE, 3)
        assert cause_of(worker, encoded(suffix, 90, 131)) == "too_large"
        assert worker.decode(encoded(suffix, 130, 90))[0].shape == (SIZE, SIZE, 3)
    finally:
        worker.close()


def deep_png(side: int) -> bytes:
    """A PNG of black pixels of four times 16 bits: few bytes in the file, eight for each pixel in memory."""
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", side, side, 16, 6, 0, 0, 0)),
        (b"IDAT", zlib.compress(bytes((8 * side + 1) * side), 1)),
        (b"IEND", b""),
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )


def test_a_picture_that_needs_more_memory_than_there_is_is_out_of_memory_and_the_next_is_decoded():
    # A hard limit that is lower than ours stands.
    program = (
        "import json, resource, runpy, sys; resource.setrlimit(resource.RLIMIT_AS, (900 << 20,) * 2);"
        "runpy.run_module('imgsearch.images.workers', run_name='__main__')"
    )
    files = [encoded(".png"), deep_png(7000), encoded(".png")]

    done = subprocess.run(
        [sys.executable, "-c", program, json.dumps(TASK)],
        input=b"".join(struct.pack("<Q", len(data)) + data for data in files),
        capture_output=True,
        timeout=60,
        check=False,
    )

    assert (done.returncode, done.stderr) == (0, b"")
    pixels = struct.pack("<BI", 0, 8 * 8 * 3) + decode_and_fit(files[0], 8, "pad").tobytes()
    assert done.stdout.startswith(pixels)
    assert done.stdout.endswith(pixels)
    status, length = struct.unpack_from("<BI", done.stdout, len(pixels))
    refusal = json.loads(done.stdout[len(pixels) + 5 :][:length])
    assert (status, refusal["cause"]) == (1, "out_of_memory")
    assert len(done.stdout) == 2 * len(pixels) + 5 + length


def test_damage_is_told_where_it_is_kept_and_refused_where_it_is_not():
    cut = encoded(".jpg", 400, 300)[:-2000]
    strict, lenient = DecodeWorker(SIZE, "pad"), DecodeWorker(SIZE, "pad", FilePolicy(keep_damaged=True))
    try:
        assert cause_of(strict, cut) == "corrupt"
        pixels, damage = lenient.decode(cut)
        whole, no_damage = lenient.decode(encoded(".jpg", 400, 300))
    finally:
        strict.close()
        lenient.close()

    assert pixels.shape == whole.shape == (SIZE, SIZE, 3)
    assert "remature end" in damage
    assert no_damage == ""


def test_a_worker_started_without_standard_streams_decodes_all_the_same(tmp_path):
    program = (
        "import sys; from pathlib import Path; from imgsearch.images.workers import DecodeWorker\n"
        "worker = DecodeWorker(64, 'pad')\n"
        "Path('pixels').write_bytes(worker.decode(Path('a.png').read_bytes())[0].tobytes())\n"
        "worker.close()"
    )
    (tmp_path / "a.png").write_bytes(encoded(".png"))

    done = subprocess.run(
        ["/bin/sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", sys.executable, "-c", program], cwd=tmp_path, check=False
    )

    assert done.returncode == 0
    assert (tmp_path / "pixels").read_bytes() == decode_and_fit(encoded(".png"), 64, "pad").tobytes()
