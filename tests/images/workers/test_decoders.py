import contextlib
import json
import os
import resource
import signal
import struct
import subprocess
import sys
import threading
import time
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest

from imgsearch.errors import ImageError
from imgsearch.images.decode import decode
from imgsearch.images.policy import FilePolicy
from imgsearch.images.steps import Steps
from imgsearch.images.transform import fit as fit_square
from imgsearch.images.workers.decoders import DecodeWorker, decode_and_fit, decode_and_fit_guarded

SIZE = 64
FITS = ("pad", "crop", "stretch")


def encoded(suffix: str, height: int = 90, width: int = 130, seed: int = 0) -> bytes:
    colors = np.random.default_rng(seed).integers(0, 256, (4, 4, 3)).astype(np.uint8)
    done, data = cv2.imencode(suffix, cv2.resize(colors, (width, height)))
    assert done
    return data.tobytes()


def new_worker(*arguments: object, **options: object) -> contextlib.closing[DecodeWorker]:
    return contextlib.closing(DecodeWorker(SIZE, *(arguments or ("pad",)), **options))


@pytest.fixture(scope="module")
def shared_worker():
    with new_worker() as opened:
        yield opened


@pytest.fixture
def worker(shared_worker):
    """A worker that is running; a test may end its process."""
    shared_worker.decode(encoded(".png"))
    return shared_worker


def cause_of(worker: DecodeWorker, data: bytes) -> str:
    with pytest.raises(ImageError) as refused:
        worker.decode(data)
    return refused.value.cause


def is_alive(process_id: int) -> bool:
    """Whether a process is there, and no zombie."""
    try:
        return Path(f"/proc/{process_id}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.parametrize("fit", FITS)
def test_a_worker_gives_the_same_pixels_as_decoding_here_with_and_without_steps(fit):
    steps = Steps.parse("crop-foreground,rotate=90,grayscale,binarize=adaptive")
    with new_worker(fit) as worker, new_worker(fit, steps=steps) as stepping:
        for data in (encoded(".jpg"), encoded(".png", 7, 400), encoded(".jpg", 1200, 900), encoded(".webp")):
            found, _ = worker.decode(data)
            assert np.array_equal(found, decode_and_fit(data, SIZE, fit))
            assert (found.shape, found.dtype) == ((SIZE, SIZE, 3), np.uint8)
        data = encoded(".png", 300, 200)
        expected = fit_square(steps.apply(decode(data)), SIZE, fit)

        assert np.array_equal(stepping.decode(data)[0], expected)
        assert np.array_equal(decode_and_fit(data, SIZE, fit, steps=steps), expected)
        assert np.array_equal(decode_and_fit_guarded(data, SIZE, fit, FilePolicy(), steps=steps), expected)


def test_images_larger_than_a_pipe_holds_go_through(worker):
    noise = np.random.default_rng(0).integers(0, 256, (1500, 1500, 3), dtype=np.uint8)
    _, data = cv2.imencode(".png", noise)

    assert len(data) > 5_000_000
    assert np.array_equal(worker.decode(data.tobytes())[0], decode_and_fit(data.tobytes(), SIZE, "pad"))


def test_one_process_serves_many_images_and_is_not_ended_by_a_refusal(worker):
    first = worker._process.pid

    for seed in range(20):
        data = encoded(".png", seed=seed)
        assert np.array_equal(worker.decode(data)[0], decode_and_fit(data, SIZE, "pad"))
        assert cause_of(worker, b"nothing") == "not_an_image"

    assert worker._process.pid == first


def test_no_process_is_started_before_the_first_image():
    with new_worker() as worker:
        assert worker._process is None


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
def test_a_refusal_comes_across_the_process_boundary(worker, data, cause):
    with pytest.raises(ImageError) as here:
        decode_and_fit(data, SIZE, "pad")
    with pytest.raises(ImageError) as there:
        worker.decode(data)

    assert there.value.cause == here.value.cause == cause
    assert (there.value.message, there.value.hint) == (here.value.message, here.value.hint)
    assert ("convert" in there.value.hint) == (cause == "unsupported_format")


def test_a_killed_process_costs_one_image_and_no_more(worker):
    data = encoded(".png")
    killed = worker._process
    killed.kill()
    killed.wait()

    assert cause_of(worker, data) == "decoder_crashed"
    assert np.array_equal(worker.decode(data)[0], decode_and_fit(data, SIZE, "pad"))
    assert worker._process.pid != killed.pid

    os.kill(worker._process.pid, signal.SIGKILL)

    assert cause_of(worker, data + bytes(3_000_000)) == "decoder_crashed"  # while it is sent
    assert worker.decode(data)[0].shape == (SIZE, SIZE, 3)


@pytest.mark.parametrize("length", [0, 3_000_000], ids=["after it was sent a file", "while it is sent a file"])
def test_a_process_that_stalls_is_ended_after_its_time(worker, length):
    data, stalled, seconds = encoded(".png"), worker._process.pid, worker._seconds
    os.kill(stalled, signal.SIGSTOP)
    worker._seconds = 0.2
    watchdog = threading.Timer(60, os.kill, (stalled, signal.SIGKILL))  # without a clock, it would be waited for
    watchdog.start()
    try:
        assert cause_of(worker, data + bytes(length)) == "timeout"
    finally:
        watchdog.cancel()
        worker._seconds = seconds

    assert not is_alive(stalled)
    assert np.array_equal(worker.decode(data)[0], decode_and_fit(data, SIZE, "pad"))


def test_modules_in_the_current_directory_are_not_imported(tmp_path, monkeypatch):
    for module in ("numpy.py", "cv2.py", "json.py", "selectors.py", "imgsearch.py"):
        (tmp_path / module).write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\nraise SystemExit(1)\n")
    monkeypatch.chdir(tmp_path)

    with new_worker() as worker:
        assert worker.decode(encoded(".png"))[0].shape == (SIZE, SIZE, 3)
    assert not (tmp_path / "ran").exists()


def test_close_leaves_no_process_even_of_a_stopped_one_and_the_worker_may_be_used_again(worker):
    first = worker._process.pid
    worker.close()
    worker.close()

    assert worker._process is None
    assert not is_alive(first)

    worker.decode(encoded(".png"))
    second = worker._process.pid
    os.kill(second, signal.SIGSTOP)
    worker.close()

    assert not is_alive(second)


ARGUMENT = json.dumps({"policy": {}, "seconds": 60, "task": {"size": 8, "fit": "pad", "steps": ""}})


def run_by_hand(*files: bytes, command: tuple[str, ...] = ("-P", "-m", "imgsearch.images.workers.decoders")) -> bytes:
    """Send files to the process as documented; its answers."""
    done = subprocess.run(
        [sys.executable, *command, ARGUMENT],
        input=b"".join(struct.pack("<Q", len(data)) + data for data in files),
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    return done.stdout


def test_an_answer_is_a_status_a_length_and_pixels_as_documented_and_the_process_ends_with_its_input():
    data = encoded(".png")

    output = run_by_hand(data, b"?")

    assert struct.unpack_from("<BI", output) == (0, 8 * 8 * 3)
    assert output[5 : 5 + 192] == decode_and_fit(data, 8, "pad").tobytes()
    status, length = struct.unpack_from("<BI", output, 5 + 192)
    assert (status, length) == (1, len(output) - 5 - 192 - 5)
    assert b"not_an_image" in output


def test_no_worker_outlives_its_parent():
    code = (
        "import os, signal; from imgsearch.images.workers.decoders import DecodeWorker;"
        "worker = DecodeWorker(8, 'pad'); worker._start();"
        "print(worker._process.pid, flush=True); os.kill(os.getpid(), signal.SIGKILL)"
    )
    parent = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60, check=False)
    deadline = time.monotonic() + 60
    while is_alive(int(parent.stdout)) and time.monotonic() < deadline:
        time.sleep(0.02)

    assert parent.returncode == -signal.SIGKILL
    assert not is_alive(int(parent.stdout))


def test_an_interrupt_from_the_keyboard_does_not_end_a_worker(worker):
    os.kill(worker._process.pid, signal.SIGINT)
    first = worker._process.pid

    assert worker.decode(encoded(".png"))[0].shape == (SIZE, SIZE, 3)
    assert worker._process.pid == first


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
    before = [resource.getrlimit(which) for which in (resource.RLIMIT_AS, resource.RLIMIT_CORE)]
    with new_worker("pad", policy) as worker:
        cause_of(worker, b"nothing")  # it has started, and set its limits
        limits = limits_of(worker._process.pid)

        assert limits["Max address space"][0] == str(memory)
        assert limits["Max core file size"] == ("0", "0")
        assert Path(f"/proc/{worker._process.pid}/oom_score_adj").read_text() == "1000\n"
    assert [resource.getrlimit(which) for which in (resource.RLIMIT_AS, resource.RLIMIT_CORE)] == before


def test_the_environment_of_a_worker_says_how_many_pixels_and_threads_it_may_have(monkeypatch):
    monkeypatch.setenv("OPENCV_IO_MAX_IMAGE_PIXELS", "5")
    monkeypatch.setenv("OMP_NUM_THREADS", "64")
    monkeypatch.setenv("LANG", "C.UTF-8")
    with new_worker("pad", FilePolicy(max_pixels=12_345)) as worker:
        cause_of(worker, b"nothing")
        told = Path(f"/proc/{worker._process.pid}/environ").read_bytes().split(b"\0")
        threads = len(list(Path(f"/proc/{worker._process.pid}/task").iterdir()))

    assert {b"OPENCV_IO_MAX_IMAGE_PIXELS=12345", b"OMP_NUM_THREADS=1", b"OPENBLAS_NUM_THREADS=1"} <= set(told)
    assert b"LANG=C.UTF-8" in told
    assert threads == 1
    assert os.environ["OMP_NUM_THREADS"] == "64"


def test_a_limit_of_pixels_holds_in_a_worker_to_the_pixel():
    with new_worker("pad", FilePolicy(max_pixels=90 * 130)) as worker:
        for suffix in (".png", ".jpg", ".webp", ".tif"):
            assert worker.decode(encoded(suffix, 90, 130))[0].shape == (SIZE, SIZE, 3)
            assert cause_of(worker, encoded(suffix, 90, 131)) == "too_large"
            assert worker.decode(encoded(suffix, 130, 90))[0].shape == (SIZE, SIZE, 3)


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


def test_an_image_that_needs_more_memory_than_there_is_is_out_of_memory_and_the_next_is_decoded():
    # A hard limit that is lower than ours stands.
    program = (
        "import json, resource, runpy, sys; resource.setrlimit(resource.RLIMIT_AS, (900 << 20,) * 2);"
        "runpy.run_module('imgsearch.images.workers.decoders', run_name='__main__')"
    )
    small = encoded(".png")

    output = run_by_hand(small, deep_png(7000), small, command=("-c", program))

    pixels = struct.pack("<BI", 0, 8 * 8 * 3) + decode_and_fit(small, 8, "pad").tobytes()
    assert output.startswith(pixels)
    assert output.endswith(pixels)
    status, length = struct.unpack_from("<BI", output, len(pixels))
    refusal = json.loads(output[len(pixels) + 5 :][:length])
    assert (status, refusal["cause"]) == (1, "out_of_memory")
    assert len(output) == 2 * len(pixels) + 5 + length


def test_damage_is_told_where_it_is_let_in_and_refused_where_it_is_not(worker):
    cut = encoded(".jpg", 400, 300)[:-2000]
    with new_worker("pad", FilePolicy(keep_damaged=True)) as lenient:
        pixels, remarks = lenient.decode(cut)
        whole, no_remarks = lenient.decode(encoded(".jpg", 400, 300))

    assert cause_of(worker, cut) == "corrupt"
    assert pixels.shape == whole.shape == (SIZE, SIZE, 3)
    assert "remature end" in remarks["damaged"]
    assert no_remarks == {}


def test_a_worker_started_without_standard_streams_decodes_all_the_same(tmp_path):
    program = (
        "import sys; from pathlib import Path; from imgsearch.images.workers.decoders import DecodeWorker\n"
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


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
@pytest.mark.parametrize("fit", FITS)
def test_what_steps_are_done_to_is_not_larger_than_1024_pixels(monkeypatch, suffix, fit):
    sides = []
    monkeypatch.setattr(Steps, "apply", lambda _, image: sides.append(image.shape[:2]) or image)

    for height, width in ((3000, 2000), (1024, 700), (90, 60), (1, 5000)):
        decode_and_fit(encoded(suffix, height, width), SIZE, fit, steps=Steps(grayscale=True))

    assert sides == [(1024, 683), (1024, 700), (90, 60), (1, 1024)]


def test_an_image_that_needs_a_process_gets_its_steps_there():
    data, policy = encoded(".png", 400, 300), FilePolicy(max_pixels=10**9)
    many_scans = cv2.imencode(".jpg", decode(data), [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])[1].tobytes()
    last = many_scans.rindex(b"\xff\xda")
    many_scans = many_scans[:last] + many_scans[last:-2] * 120 + b"\xff\xd9"

    found = decode_and_fit_guarded(many_scans, SIZE, "pad", policy, steps=Steps(rotate=90, grayscale=True))

    assert np.array_equal(found, decode_and_fit(many_scans, SIZE, "pad", steps=Steps(rotate=90, grayscale=True)))
