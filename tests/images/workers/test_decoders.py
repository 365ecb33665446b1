import io
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

from imgsearch.errors import ImageError
from imgsearch.images.decode import decode
from imgsearch.images.policy import FilePolicy
from imgsearch.images.steps import NO_STEPS, Steps
from imgsearch.images.transform import fit
from imgsearch.images.workers.decoders import DecodeWorker, FileWorker, decode_and_fit, decode_and_fit_guarded

SIZE = 64


def encoded(suffix: str, height: int = 90, width: int = 130, seed: int = 0) -> bytes:
    colors = np.random.default_rng(seed).integers(0, 256, (4, 4, 3)).astype(np.uint8)
    done, data = cv2.imencode(suffix, cv2.resize(colors, (width, height)))
    assert done
    return data.tobytes()


@pytest.fixture
def worker():
    opened = DecodeWorker(SIZE, "pad")
    yield opened
    opened.close()


def cause_of(worker: DecodeWorker, data: bytes) -> str:
    with pytest.raises(ImageError) as refused:
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


def test_images_larger_than_a_pipe_holds_go_through(worker):
    noise = np.random.default_rng(0).integers(0, 256, (1500, 1500, 3), dtype=np.uint8)
    _, data = cv2.imencode(".png", noise)

    assert len(data) > 5_000_000
    assert np.array_equal(worker.decode(data.tobytes())[0], decode_and_fit(data.tobytes(), SIZE, "pad"))


def test_one_process_serves_many_images(worker):
    worker.decode(encoded(".png"))
    first = worker._process.pid

    for seed in range(20):
        data = encoded(".png", seed=seed)
        assert np.array_equal(worker.decode(data)[0], decode_and_fit(data, SIZE, "pad"))

    assert worker._process.pid == first


def test_no_process_is_started_before_the_first_image():
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
    with pytest.raises(ImageError) as here:
        decode_and_fit(data, SIZE, "pad")

    with pytest.raises(ImageError) as there:
        worker.decode(data)

    assert there.value.cause == here.value.cause == cause
    assert there.value.message == here.value.message


def test_the_hint_of_a_refusal_comes_across_the_process_boundary(worker):
    with pytest.raises(ImageError) as refused:
        worker.decode(b"8BPS" + bytes(40))

    assert "convert" in refused.value.hint


def test_a_refused_image_does_not_end_the_process(worker):
    worker.decode(encoded(".png"))
    first = worker._process.pid

    assert cause_of(worker, b"nothing") == "not_an_image"
    worker.decode(encoded(".png"))

    assert worker._process.pid == first


def test_a_killed_process_costs_one_image_and_no_more(worker):
    data = encoded(".png")
    worker.decode(data)
    killed = worker._process
    killed.send_signal(signal.SIGKILL)
    killed.wait()

    assert cause_of(worker, data) == "decoder_crashed"
    assert np.array_equal(worker.decode(data)[0], decode_and_fit(data, SIZE, "pad"))
    assert worker._process.pid != killed.pid


def test_a_process_killed_while_a_large_file_is_sent_costs_one_image(worker):
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
from imgsearch.errors import ImageError
from imgsearch.images.workers.decoders import DecodeWorker
worker = DecodeWorker(64, "pad", seconds=20)
try:
    worker.decode(b"nothing")
except ImageError:
    pass
os.kill(worker._process.pid, signal.SIGSTOP)
worker._seconds = 0.5
signal.alarm(4)
try:
    worker.decode(bytes(3_000_000))
except ImageError as error:
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
        [sys.executable, "-P", "-m", "imgsearch.images.workers.decoders", json.dumps(TASK)],
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
        "import os, signal; from imgsearch.errors import ImageError;"
        "from imgsearch.images.workers.decoders import DecodeWorker; worker = DecodeWorker(8, 'pad'); worker._start();"
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


def test_a_image_that_needs_more_memory_than_there_is_is_out_of_memory_and_the_next_is_decoded():
    # A hard limit that is lower than ours stands.
    program = (
        "import json, resource, runpy, sys; resource.setrlimit(resource.RLIMIT_AS, (900 << 20,) * 2);"
        "runpy.run_module('imgsearch.images.workers.decoders', run_name='__main__')"
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


STEPS = "crop-foreground,rotate=90,grayscale,binarize=adaptive"


@pytest.mark.parametrize("how", ["pad", "crop", "stretch"])
def test_steps_are_done_between_decoding_and_fitting_here_and_in_a_worker(how):
    data, steps = encoded(".png", 300, 200), Steps.parse(STEPS)
    worker = DecodeWorker(SIZE, how, steps=steps)
    try:
        expected = fit(steps.apply(decode(data)), SIZE, how)

        assert np.array_equal(worker.decode(data)[0], expected)
        assert np.array_equal(decode_and_fit(data, SIZE, how, steps=steps), expected)
        assert np.array_equal(decode_and_fit_guarded(data, SIZE, how, FilePolicy(), steps=steps), expected)
    finally:
        worker.close()


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
@pytest.mark.parametrize("how", ["pad", "crop", "stretch"])
def test_what_steps_are_done_to_is_not_larger_than_1024_pixels(monkeypatch, suffix, how):
    sides = []
    monkeypatch.setattr(Steps, "apply", lambda _, image: sides.append(image.shape[:2]) or image)

    for height, width in ((3000, 2000), (1024, 700), (90, 60), (1, 5000)):
        decode_and_fit(encoded(suffix, height, width), SIZE, how, steps=Steps(grayscale=True))

    assert sides == [(1024, 683), (1024, 700), (90, 60), (1, 1024)]


def test_a_image_too_large_for_here_gets_its_steps_in_a_process():
    data, policy = encoded(".png", 400, 300), FilePolicy(max_pixels=10**9)
    many_scans = cv2.imencode(".jpg", decode(data), [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])[1].tobytes()
    last = many_scans.rindex(b"\xff\xda")
    many_scans = many_scans[:last] + many_scans[last:-2] * 120 + b"\xff\xd9"

    found = decode_and_fit_guarded(many_scans, SIZE, "pad", policy, steps=Steps(rotate=90, grayscale=True))

    assert np.array_equal(found, decode_and_fit(many_scans, SIZE, "pad", steps=Steps(rotate=90, grayscale=True)))


@pytest.fixture
def variant_worker():
    opened = DecodeWorker(SIZE, "pad", variants=5, seed=3)
    yield opened
    opened.close()


def cut_out(side: int = 200, suffix: str = ".png") -> bytes:
    """A red disc, on nothing where the format knows nothing."""
    image = np.zeros((side, side, 4), np.uint8)
    cv2.circle(image, (side // 2, side // 2), side * 2 // 5, (20, 20, 230, 255), -1)
    return cv2.imencode(suffix, image if suffix != ".jpg" else image[:, :, :3])[1].tobytes()


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp"])
def test_variants_come_after_the_image_itself(variant_worker, suffix):
    data = cut_out(suffix=suffix)

    found = variant_worker.decode_variants(data)

    assert (found.shape, found.dtype) == ((6, SIZE, SIZE, 3), np.uint8)
    assert np.array_equal(found[0], decode_and_fit(data, SIZE, "pad"))
    assert np.array_equal(found[0], variant_worker.decode(data)[0])
    assert len({variant.tobytes() for variant in found}) == 6


def test_variants_are_two_photos_of_the_item_on_another_background_to_each_screenshot(variant_worker):
    found = variant_worker.decode_variants(cut_out()).astype(int)

    corners = found[:, [0, 0, -1, -1], [0, -1, 0, -1]].min(axis=(1, 2))
    assert np.flatnonzero(corners > 220).tolist() == [0, 3]
    middles = found[:, SIZE // 2 - 4 : SIZE // 2 + 4, SIZE // 2 - 4 : SIZE // 2 + 4].mean(axis=(1, 2))
    assert np.all(middles[:, 0] > 3 * middles[:, 1:].max(axis=1))


def test_variants_depend_on_content_and_seed_and_not_on_what_came_before(variant_worker):
    first, second = cut_out(200), cut_out(201)
    found = [variant_worker.decode_variants(data) for data in (first, second, first)]
    others = [DecodeWorker(SIZE, "pad", variants=5, seed=3), DecodeWorker(SIZE, "pad", variants=5, seed=4)]
    try:
        same, different = (worker.decode_variants(first) for worker in others)
    finally:
        for worker in others:
            worker.close()

    assert np.array_equal(found[0], found[2])
    assert np.array_equal(found[0], same)
    assert not np.array_equal(found[0][1:], found[1][1:])
    assert not np.array_equal(found[0][1:], different[1:])


def test_the_first_variants_are_the_same_however_many_there_are(variant_worker):
    one = DecodeWorker(SIZE, "pad", variants=1, seed=3)
    try:
        assert np.array_equal(one.decode_variants(cut_out()), variant_worker.decode_variants(cut_out())[:2])
    finally:
        one.close()


def in_scenes(data: bytes, *, scenes: int = 3, variants: int = 2) -> np.ndarray:
    worker = DecodeWorker(96, "pad", variants=variants, scenes=scenes, seed=3)
    try:
        return worker.decode_variants(data)
    finally:
        worker.close()


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp"])
def test_scenes_come_last_and_have_the_item_without_its_background(suffix):
    found = in_scenes(cut_out(suffix=suffix))

    assert (found.shape, found.dtype) == ((6, 96, 96, 3), np.uint8)
    assert np.array_equal(found[:3], in_scenes(cut_out(suffix=suffix), scenes=0))
    for scene in found[3:].astype(int):
        red = (scene[:, :, 0] > 90) & (scene[:, :, 0] > 3 * scene[:, :, 1:].max(axis=2))
        assert 0.05 < red.mean() < 0.6
        assert scene[~red].std() > 5


def test_scenes_depend_on_content_alone_and_are_all_different():
    first, again, other = (in_scenes(cut_out(side)) for side in (200, 200, 201))

    assert np.array_equal(first, again)
    assert not np.array_equal(first[3:], other[3:])
    assert len({scene.tobytes() for scene in first[3:]}) == 3


def test_scenes_are_made_of_a_image_of_which_nothing_shows():
    nothing = cv2.imencode(".png", np.zeros((40, 60, 4), np.uint8))[1].tobytes()

    assert len({scene.tobytes() for scene in in_scenes(nothing)[3:]}) == 3


def test_variants_get_the_steps_that_a_query_would():
    worker = DecodeWorker(SIZE, "pad", steps=Steps(grayscale=True), variants=2)
    try:
        found = worker.decode_variants(cut_out())
    finally:
        worker.close()

    assert np.array_equal(found, found[..., :1].repeat(3, axis=-1))


def test_a_worker_without_variants_gives_the_image_alone(worker):
    data = encoded(".jpg")

    assert np.array_equal(worker.decode_variants(data), decode_and_fit(data, SIZE, "pad")[np.newaxis])


def test_variants_of_a_damaged_image_are_made_where_damage_is_kept(variant_worker):
    cut = encoded(".jpg", 400, 300)[:-2000]
    lenient = DecodeWorker(SIZE, "pad", FilePolicy(keep_damaged=True), variants=2)
    try:
        assert lenient.decode_variants(cut).shape == (3, SIZE, SIZE, 3)
    finally:
        lenient.close()
    with pytest.raises(ImageError, match="cut short"):
        variant_worker.decode_variants(cut)


@pytest.mark.slow
def test_variants_of_a_very_large_image_are_made_within_the_worker_s_memory():
    data = cut_out(11_000)  # as float32 it would fill all of it
    worker = DecodeWorker(SIZE, "pad", variants=3, seconds=200)
    try:
        found = worker.decode_variants(data)
    finally:
        worker.close()

    middle = found[:, SIZE // 2, SIZE // 2].astype(int)
    assert np.all(middle[:, 0] > 3 * middle[:, 1:].max(axis=1))


def files_of(data: bytes, **options: object) -> list[bytes]:
    given = {"steps": NO_STEPS, "augment": 0, "seed": 0, "ending": "png"} | options
    worker = FileWorker(given.pop("size", 0), given.pop("how", "pad"), given.pop("policy", FilePolicy()), **given)
    try:
        return [bytes(file) for file in worker.files(data)]
    finally:
        worker.close()


@pytest.mark.parametrize("ending", ["png", "npy"])
def test_files_without_a_size_hold_the_very_pixels_after_the_steps(ending):
    data, steps = encoded(".png", 300, 200), Steps.parse("rotate=90,denoise")

    (file,) = files_of(data, steps=steps, ending=ending)

    found = decode(file) if ending == "png" else np.load(io.BytesIO(file), allow_pickle=False)
    assert np.array_equal(found, steps.apply(decode(data)))


@pytest.mark.parametrize(("ending", "start"), [("jpg", b"\xff\xd8\xff"), ("webp", b"RIFF")])
def test_files_in_formats_with_loss_look_alike(ending, start):
    data = encoded(".png", 300, 200)

    (file,) = files_of(data, ending=ending)

    assert file.startswith(start)
    assert np.abs(decode(file).astype(int) - decode(data)).mean() < 3


def test_files_with_a_size_are_what_an_index_would_see():
    data, steps = encoded(".jpg", 1500, 1200), Steps.parse("deskew,grayscale")

    (file,) = files_of(data, size=96, how="crop", steps=steps)

    assert np.array_equal(decode(file), decode_and_fit(data, 96, "crop", steps=steps))


def test_files_of_black_and_white_images_hold_no_gray_whatever_was_done_after():
    files = files_of(encoded(".png", 300, 200), size=50, steps=Steps(binarize="otsu"), augment=3)

    for file in files:
        assert np.unique(decode(file)).tolist() == [0, 255]
        assert cv2.imdecode(np.frombuffer(file, np.uint8), cv2.IMREAD_UNCHANGED).ndim == 2


def test_augmented_files_depend_on_content_and_seed_alone():
    data = encoded(".png", 60, 80)

    files = files_of(data, augment=3, seed=1)

    assert len({*files}) == 4
    assert {decode(file).shape for file in files} == {(60, 80, 3)}
    assert files_of(data, augment=1, seed=1) == files[:2]
    assert files_of(data, augment=1, seed=2)[1] not in files


def test_files_longer_than_a_megabyte_go_through():
    noise = np.random.default_rng(0).integers(0, 256, (1500, 1000, 3), dtype=np.uint8)

    found = files_of(cv2.imencode(".png", noise)[1].tobytes(), augment=2, ending="npy")

    assert np.array_equal(np.load(io.BytesIO(found[0])), noise[:, :, ::-1])
    assert [len(file) for file in found] == [4_500_128] * 3


@pytest.mark.parametrize(("ending", "side"), [("webp", 16_384), ("jpg", 65_501)])
def test_a_image_that_a_format_cannot_hold_is_too_large(ending, side):
    data = encoded(".png", 2, side)

    with pytest.raises(ImageError) as refused:
        files_of(data, ending=ending)

    assert (refused.value.cause, ending in refused.value.message) == ("too_large", True)
    assert decode(files_of(data, ending="png")[0]).shape == (2, side, 3)


@pytest.mark.slow
def test_files_that_need_more_memory_than_there_is_are_out_of_memory():
    with pytest.raises(ImageError) as refused:
        files_of(encoded(".png", 9000, 9000), augment=10, ending="npy")

    assert refused.value.cause == "out_of_memory"
