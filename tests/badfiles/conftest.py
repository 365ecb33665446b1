"""Makers of bad and odd image files, by OpenCV's encoders where they can and by hand where they cannot.

A test gets them as `make`, this module: `make.png(4, 4)`, `make.truncated(data, 0.5)`.
"""

import contextlib
import json
import os
import re
import shutil
import sqlite3
import struct
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType, ModuleType, SimpleNamespace
from typing import NamedTuple

import cv2
import numpy as np
import pytest

SIDE = 96
LOSSLESS_WEBP = (cv2.IMWRITE_WEBP_QUALITY, 101)
FINE_AVIF = (cv2.IMWRITE_AVIF_QUALITY, 95)
FINE_JPEG = (cv2.IMWRITE_JPEG_QUALITY, 98)


def painted(seed: int, height: int = SIDE, width: int = SIDE, channels: int = 3) -> np.ndarray:
    """Paint twelve fields of color, which a turn or a mirror puts elsewhere."""
    fields = np.random.default_rng(seed).integers(0, 256, (4, 3, channels)).astype(np.uint8)
    return np.asarray(cv2.resize(fields, (width, height), interpolation=cv2.INTER_NEAREST), np.uint8)


def smooth(seed: int, height: int = SIDE, width: int = SIDE) -> np.ndarray:
    """Paint colors that run into each other, which formats with loss hardly change."""
    colors = np.random.default_rng(seed).integers(0, 256, (4, 4, 3)).astype(np.uint8)
    return np.asarray(cv2.resize(colors, (width, height), interpolation=cv2.INTER_LINEAR), np.uint8)


def grained(seed: int) -> np.ndarray:
    """Paint fields with grain, so that a file of them is long."""
    noise = np.random.default_rng(seed).normal(0, 12, (SIDE, SIDE, 3))
    return np.clip(painted(seed) + noise, 0, 255).astype(np.uint8)


def encoded(suffix: str, image: np.ndarray, *options: int) -> bytes:
    """Encode gray, BGR or BGRA."""
    done, data = cv2.imencode(suffix, np.ascontiguousarray(image), list(options))
    assert done
    return data.tobytes()


def jpeg(seed: int = 0, *options: int, side: int = SIDE) -> bytes:
    return encoded(".jpg", painted(seed, side, side), *options)


def with_exif(suffix: str, image: np.ndarray, content: bytes, *options: int) -> bytes:
    done, data = cv2.imencodeWithMetadata(
        suffix,
        np.ascontiguousarray(image),
        [cv2.IMAGE_METADATA_EXIF],
        [np.frombuffer(content, np.uint8)],
        list(options),
    )
    assert done
    return data.tobytes()


def exif(orientation: int) -> bytes:
    return b"II*\0" + struct.pack("<IHHHIHHI", 8, 1, 0x0112, 3, 1, orientation, 0, 0)


BROKEN_EXIF = {
    "loop": exif(1)[:-4] + struct.pack("<I", 8),
    "loop-inside": b"II*\0" + struct.pack("<IHHHII", 8, 1, 0x8769, 4, 1, 8) + bytes(4),
    "behind-the-end": b"II*\0" + struct.pack("<I", 0x7FFFFFFF),
    "too-many-entries": b"II*\0" + struct.pack("<IH", 8, 65535) + bytes(30),
    "no-byte-order": b"XX" + exif(6)[2:],
    "value-0": exif(0),
    "value-9": exif(9),
    "value-65535": exif(65535),
}


def stored(image: np.ndarray, orientation: int) -> np.ndarray:
    """Turn an image to how a camera stores it that then says `orientation` (Exif 2.32, tag 274)."""
    if orientation >= 5:
        image = image.swapaxes(0, 1)
    mirrored, flipped = orientation in (2, 3, 7, 8), orientation in (3, 4, 6, 7)
    return np.ascontiguousarray(image[:: -1 if flipped else 1, :: -1 if mirrored else 1])


def turned(suffix: str, image: np.ndarray, orientation: int) -> bytes:
    """Write an image turned, with the note that turns it back."""
    content = exif(orientation)
    image = stored(image, orientation)
    if suffix == ".jpg":
        data = encoded(suffix, image, *FINE_JPEG)
        return data[:2] + segment(0xE1, b"Exif\0\0" + content) + data[2:]
    if suffix == ".png":
        data = encoded(suffix, image)
        return data[:33] + chunk(b"eXIf", content) + data[33:]
    if suffix == ".tif":
        return tiff(image, orientation)
    data = with_exif(suffix, image, content, *(LOSSLESS_WEBP if suffix == ".webp" else FINE_AVIF))
    # Of an AVIF, the encoder writes the turn twice; what is left of it here is in the boxes irot and imir.
    return data.replace(content, exif(1)) if suffix == ".avif" else data


def segment(marker: int, content: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(content) + 2) + content


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(
    width: int,
    height: int,
    depth: int = 8,
    color: int = 2,
    rows: bytes = b"",
    extra: bytes = b"",
    *,
    interlace: int = 0,
    packed: bytes = b"",
) -> bytes:
    """Write a PNG of unfiltered rows, or of `packed` ones; `extra` are chunks before them."""
    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, interlace)
    ends = chunk(b"IDAT", packed or zlib.compress(rows, 9)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + extra + ends


def rows(image: np.ndarray) -> bytes:
    """Lay out an image (RGB, gray...) as a PNG stores it before compression."""
    wide = image.astype(image.dtype.newbyteorder(">"))
    return b"".join(b"\0" + row.tobytes() for row in wide)


def interlaced_png(image: np.ndarray) -> bytes:
    passes = [(0, 8, 0, 8), (0, 8, 4, 8), (4, 8, 0, 4), (0, 4, 2, 4), (2, 4, 0, 2), (0, 2, 1, 2), (1, 2, 0, 1)]
    parts = (rows(np.ascontiguousarray(image[top::down, left::across])) for top, down, left, across in passes)
    return png(image.shape[1], image.shape[0], rows=b"".join(parts), interlace=1)


def zlib_bomb(megabytes: int) -> bytes:
    """Deflate zeros without going through them: after a full flush, each megabyte is the same bytes again."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    megabyte = packer.compress(bytes(1 << 20)) + packer.flush(zlib.Z_FULL_FLUSH)
    check = struct.pack(">HH", (megabytes << 20) % 65521, 1)  # Adler-32 of zeros
    return b"\x78\xda" + megabyte * megabytes + b"\x03\x00" + check


def tiff(image: np.ndarray, orientation: int = 1, *, order: str = "<", size: tuple[int, int] = (0, 0)) -> bytes:
    """Write a TIFF of one uncompressed strip (TIFF 6.0), little- or big-endian; `size` is what it claims."""
    height, width = image.shape[:2]
    channels = 1 if image.ndim == 2 else image.shape[2]
    samples = image if channels == 1 else image[:, :, ::-1]
    strip = samples.astype(image.dtype.newbyteorder(order)).tobytes()
    strip += bytes(len(strip) % 2)
    bits = len(strip) + 8
    start = bits + 2 * 4
    fields = {256: size[0] or width, 257: size[1] or height, 259: 1, 262: 1 if channels == 1 else 2}
    fields |= {273: 8, 274: orientation, 277: channels, 278: size[1] or height, 279: len(strip), 284: 1}
    entries = [(tag, struct.pack(order + "HHII", tag, 4, 1, value)) for tag, value in fields.items()]
    depth = 8 * image.itemsize
    short = struct.pack(order + "HH", depth, 0) if channels == 1 else struct.pack(order + "I", bits)
    entries.append((258, struct.pack(order + "HHI", 258, 3, channels) + short))
    return (
        (b"II*\0" if order == "<" else b"MM\0*")
        + struct.pack(order + "I", start)
        + strip
        + struct.pack(order + "4H", *[depth] * 4)
        + struct.pack(order + "H", len(entries))
        + b"".join(entry for _, entry in sorted(entries))
        + bytes(4)
    )


def big_tiff(width: int, height: int, order: str = "<") -> bytes:
    """Write the head and the directory of a BigTIFF, where offsets and counts have 8 bytes."""
    fields = {256: width, 257: height, 258: 8, 259: 1, 262: 1, 273: 16, 277: 1, 278: height, 279: 16}
    entries = b"".join(struct.pack(order + "HHQQ", tag, 16, 1, value) for tag, value in fields.items())
    head = (b"II+\0" if order == "<" else b"MM\0+") + struct.pack(order + "HHQ", 8, 0, 16)
    return head + struct.pack(order + "Q", len(fields)) + entries + bytes(24)


def gif(*frames: np.ndarray, palette: np.ndarray, transparent: int | None = None) -> bytes:
    """Write a GIF of palette numbers below 128; LZW without compression, cleared before its codes grow."""
    height, width = frames[0].shape
    colors = palette.astype(np.uint8).tobytes().ljust(384, b"\0")
    data = b"GIF89a" + struct.pack("<HHBBB", width, height, 0xF6, 0, 0) + colors
    for frame in frames:
        data += b"\x21\xf9\x04" + struct.pack("<BHB", transparent is not None, 10, transparent or 0) + b"\0"
        data += b"," + struct.pack("<HHHHB", 0, 0, width, height, 0) + b"\x07"
        numbers = frame.astype(np.uint8).tobytes()
        codes = b"".join(b"\x80" + numbers[start : start + 100] for start in range(0, len(numbers), 100)) + b"\x81"
        blocks = (codes[start : start + 255] for start in range(0, len(codes), 255))
        data += b"".join(bytes([len(block)]) + block for block in blocks) + b"\0"
    return data + b";"


def fields_gif(seed: int, *, frames: int = 1) -> bytes:
    """Paint twelve fields as a GIF; later frames show other colors."""
    numbers = np.asarray(cv2.resize(np.arange(12, dtype=np.uint8).reshape(4, 3), (SIDE, SIDE), interpolation=0))
    palette = np.random.default_rng(seed).integers(0, 256, (4, 3, 3)).reshape(12, 3)[:, ::-1]
    return gif(*((numbers + shift) % 12 for shift in range(frames)), palette=palette)


def animation(suffix: str, *frames: np.ndarray) -> bytes:
    options = {".webp": LOSSLESS_WEBP, ".avif": FINE_AVIF}.get(suffix, ())
    moving = cv2.Animation()
    moving.frames = list(frames)
    moving.durations = np.full(len(frames), 100, np.int32)
    done, data = cv2.imencodeanimation(suffix, moving, list(options))
    assert done
    return data.tobytes()


def deep_avif(image: np.ndarray, bits: int) -> bytes:
    samples = np.rint(image / 255 * (2**bits - 1)).astype(np.uint16)
    return encoded(".avif", samples, *FINE_AVIF, cv2.IMWRITE_AVIF_DEPTH, bits)


def cmyk_jpeg(inks: np.ndarray) -> bytes:
    """Write a CMYK JPEG of one color a block, inverted as Adobe's are: 255 is no ink.

    Only the mean of each block is coded, as the difference to the block before it.
    """
    height, width = inks.shape[:2]
    frame = struct.pack(">BHHB", 8, 8 * height, 8 * width, 4) + b"".join(bytes([n, 0x11, 0]) for n in range(4))
    sizes = bytes([0x00, 0, 0, 0, 12, *[0] * 12, *range(12)])  # every size of a difference is a code of 4 bits
    only_end_of_block = bytes([0x10, 1, *[0] * 15, 0])
    scan = bytes([4]) + b"".join(bytes([n, 0]) for n in range(4)) + bytes([0, 63, 0])
    means = (inks.reshape(-1, 4).astype(int) - 128) * 8
    bits = ""
    for difference in np.diff(means, axis=0, prepend=np.zeros((1, 4), int)).ravel().tolist():
        size = abs(difference).bit_length()
        bits += format(size, "04b")
        if size:
            bits += format(difference if difference > 0 else difference + (1 << size) - 1, f"0{size}b")
        bits += "0"
    bits += "1" * (-len(bits) % 8)
    coded = bytes(int(bits[start : start + 8], 2) for start in range(0, len(bits), 8)).replace(b"\xff", b"\xff\0")
    adobe = b"Adobe" + struct.pack(">HHHB", 100, 0, 0, 0)
    segments = [(0xEE, adobe), (0xDB, bytes([0] + [1] * 64)), (0xC0, frame), (0xC4, sizes), (0xC4, only_end_of_block)]
    head = b"".join(segment(*one) for one in segments)
    return b"\xff\xd8" + head + segment(0xDA, scan) + coded + b"\xff\xd9"


def truncated(data: bytes, share: float) -> bytes:
    return data[: int(len(data) * share)]


def zeroed(data: bytes) -> bytes:
    third = len(data) // 3
    return data[:third] + bytes(third) + data[2 * third :]


def flipped(data: bytes, seed: int = 0, *, start: int = 200) -> bytes:
    """Flip twelve bits behind the header."""
    changed = bytearray(data)
    generator = np.random.default_rng(seed)
    for place in generator.integers(min(start, len(data) // 2), len(data), 12):
        changed[place] ^= 1 << int(generator.integers(8))
    return bytes(changed)


def coded(data: bytes) -> tuple[int, int]:
    """Find where the coded part of a JPEG of one scan begins and ends."""
    start = data.index(b"\xff\xda")
    return start + 2 + int.from_bytes(data[start + 2 : start + 4], "big"), len(data) - 2


def with_a_gap(data: bytes) -> bytes:
    """Take bytes out of a JPEG, so that it ends before all blocks have come."""
    start, end = coded(data)
    middle = (start + end) // 2
    return data[:middle] + data[middle + (end - start) // 4 :]


def with_a_bad_code(data: bytes) -> bytes:
    """Put ones into a JPEG, which are no Huffman code (ITU-T T.81, C.2)."""
    start, end = coded(data)
    middle = (start + end) // 2
    return data[:middle] + b"\xff\0" * 40 + data[middle + 80 :]


def scan_bomb(scans: int, *, seed: int = 0) -> bytes:
    """Repeat the last scan of a progressive JPEG: each goes through 262,144 blocks to add nothing to them."""
    data = _progressive_jpeg(seed)
    last = data.rindex(b"\xff\xda")
    return data[:last] + data[last:-2] * scans + b"\xff\xd9"


@cache
def _progressive_jpeg(seed: int) -> bytes:
    return encoded(".jpg", np.full((4096, 4096, 3), seed, np.uint8), cv2.IMWRITE_JPEG_PROGRESSIVE, 1)


def bombs() -> dict[str, tuple[str, bytes]]:
    """Make files that promise far more pixels than they hold, and say why each is to be refused."""
    small, side = painted(0), struct.pack("<HH", 65535, 65535)
    large = {
        "little.tif": tiff(small, size=(65535, 65535)),
        "big.tif": tiff(small, size=(65535, 65535), order=">"),
        "wide.tif": tiff(small, size=(2**31, 2)),
        "little-big.tif": big_tiff(60_000, 60_000),
        "big-big.tif": big_tiff(60_000, 60_000, ">"),
        "65535.gif": b"GIF89a" + side + b"\x80\0\0" + bytes(6) + b"," + bytes(4) + side + b"\0\x02\x02\x4c\x01\0;",
        "65535.jpg": promising(jpeg(), 65535, 65535),
        "65535-progressive.jpg": promising(jpeg(0, cv2.IMWRITE_JPEG_PROGRESSIVE, 1), 65535, 65535),
        "32767.png": png(32767, 32767, 1, 0, bytes(1000)),
        "65535.png": png(65535, 65535),
        "wide.png": png(2**30, 1, 8, 0),
        "high.png": png(1, 2**30, 8, 0),
        "65535.bmp": bmp_head(65535, 65535),
        "upside-down.bmp": bmp_head(65535, -65535),
        "old.bmp": b"BM" + struct.pack("<IHHIIHHHH", 154, 0, 0, 26, 12, 65535, 65535, 1, 24) + bytes(128),
        "vp8.webp": webp(b"VP8 ", b"\x10\0\0\x9d\x01\x2a" + struct.pack("<HH", 16383, 16383) + bytes(40)),
        "vp8l.webp": webp(b"VP8L", b"\x2f" + struct.pack("<I", 0x3FFF | 0x3FFF << 14) + bytes(40)),
        "vp8x.webp": webp(b"VP8X", bytes(4) + (2**24 - 1).to_bytes(3, "little") * 2 + bytes(40)),
        "ispe.avif": avif_promising(65535, 65535),
    }
    return {name: ("too_large", data) for name, data in large.items()} | {
        "promises-too-much.jpg": ("corrupt", promising(jpeg(), 10_000, 10_000)),
    }


def promising(data: bytes, width: int, height: int) -> bytes:
    """Write another size into a JPEG's header."""
    (start,) = (found.end() for found in re.finditer(rb"\xff[\xc0\xc2]\0\x11\x08", data))
    return data[:start] + struct.pack(">HH", height, width) + data[start + 4 :]


def bmp_head(width: int, height: int) -> bytes:
    return b"BM" + struct.pack("<IHHIIiiHH", 154, 0, 0, 54, 40, width, height, 1, 24) + bytes(124)


def webp(kind: bytes, content: bytes) -> bytes:
    return b"RIFF" + struct.pack("<I", len(content) + 12) + b"WEBP" + kind + struct.pack("<I", len(content)) + content


def avif_promising(width: int, height: int) -> bytes:
    data = encoded(".avif", painted(0))
    start = data.index(b"ispe") + 8
    return data[:start] + struct.pack(">II", width, height) + data[start + 8 :]


@pytest.fixture(scope="session")
def make() -> ModuleType:
    """All the makers above."""
    return sys.modules[__name__]


class Who(NamedTuple):
    """Somebody to run the program as; `bound`: whom permissions hold back."""

    name: str
    command: tuple[str, ...]
    options: dict[str, object]
    bound: bool


SOMEBODY = {
    "whoever runs the tests": Who("self", (), {}, os.geteuid() != 0),
    "another user": Who("other", (), {"user": 65534, "group": 65534, "extra_groups": []}, True),
    "root without its rights": Who("bound", ("setpriv", "--bounding-set=-all", "--inh-caps=-all"), {}, True),
}


@cache
def can_be(somebody: str) -> bool:
    """Whether the program can be run as somebody here: only root can become somebody else."""
    who = SOMEBODY[somebody]
    if who.name == "self" or os.geteuid() != 0:
        return who.name == "self"
    command = [*who.command, sys.executable, "-c", "import imgsearch"]
    try:
        subprocess.run(command, cwd="/", check=True, capture_output=True, **who.options)
    except (OSError, subprocess.CalledProcessError):
        return False
    return True


@pytest.fixture(scope="module", params=SOMEBODY)
def who(request) -> Who:
    """Each of those as whom the program can be run here."""
    if not can_be(request.param):
        pytest.skip(f"{request.param} cannot run this interpreter here")
    return SOMEBODY[request.param]


@pytest.fixture(scope="module")
def most_bound() -> Who:
    """Whom permissions hold back, if the program can be run as such a one here, else whoever runs the tests."""
    return next(
        (who for name, who in SOMEBODY.items() if who.bound and can_be(name)), SOMEBODY["whoever runs the tests"]
    )


@pytest.fixture(scope="module")
def open_folder() -> Iterator[Path]:
    """A folder that every user can go through, unlike pytest's own."""
    folder = Path(tempfile.mkdtemp(prefix="badfiles-"))
    folder.chmod(0o755)
    mask = os.umask(0o022)
    yield folder
    os.umask(mask)
    for place, folders, _ in os.walk(folder):
        if "closed" in folders:
            Path(place, "closed").chmod(0o755)
    shutil.rmtree(folder)


class Run:
    """The program at work: its decoder processes are watched until it ends.

    Attributes:
        code, out, err: What it ended with.
        seconds: How long it took.
        workers: Of each decoder process, by its id, what was last seen: the most address space (`peak`) and memory
            (`resident`) it had, in bytes, its limits of address space and of core dumps, and its `oom_score_adj`.
    """

    def __init__(
        self,
        *arguments: object,
        cwd: Path,
        who: Who = SOMEBODY["whoever runs the tests"],
        told: bytes = b"",
        on_worker: Callable[[int, float], None] = lambda _process_id, _seconds: None,
        environment: Mapping[str, str] = MappingProxyType({}),
        timeout: float = 120,
    ) -> None:
        command = [*who.command, sys.executable, "-m", "imgsearch", *map(os.fspath, map(_argument, arguments))]
        self.workers: dict[int, dict[str, int]] = {}
        self._on_worker = on_worker
        self._ended = threading.Event()
        started = time.monotonic()
        with subprocess.Popen(
            command,
            cwd=cwd,
            # As little as cron gives, and less; but OpenBLAS's threads would wait in a loop, beside other tests.
            env={"PATH": os.environ["PATH"], "OPENBLAS_NUM_THREADS": "1", **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            **who.options,
        ) as process:
            watcher = threading.Thread(target=self._watch, args=[process.pid])
            if arguments[0] != "build-index":
                self._ended.set()  # no other command starts decoders that are of interest
            watcher.start()
            try:
                self.out, self.err = process.communicate(told, timeout)
            except BaseException:
                process.kill()
                raise
            finally:
                self._ended.set()
                watcher.join()
        self.code = process.returncode
        self.seconds = time.monotonic() - started

    def _watch(self, parent: int) -> None:
        while not self._ended.wait(0.02):
            for process_id in workers_of(parent):
                with contextlib.suppress(OSError, KeyError, ValueError):  # it has just ended, or not yet begun
                    status = dict(line.split(":", 1) for line in _read(process_id, "status").splitlines())
                    limits = re.findall(r"Max (\w+) .*?(\S+) +(\S+) +bytes", _read(process_id, "limits"))
                    soft, hard = ({kind: at[n] for kind, *at in limits} for n in (0, 1))
                    self.workers[process_id] = {
                        "peak": 1024 * int(status["VmPeak"].split()[0]),
                        "resident": 1024 * int(status["VmHWM"].split()[0]),
                        "limit": int(soft["address"].replace("unlimited", "-1")),
                        "core": int(hard["core"].replace("unlimited", "-1")),
                        "oom": int(_read(process_id, "oom_score_adj")),
                    }
                    self._on_worker(process_id, processor_seconds(process_id))


def _argument(argument: object) -> str | bytes | os.PathLike[str]:
    return argument if isinstance(argument, bytes | os.PathLike) else str(argument)


def _read(process_id: int, name: str) -> str:
    return Path(f"/proc/{process_id}/{name}").read_text(errors="replace")


def workers_of(parent: int) -> list[int]:
    """Find the decoder processes of a running program."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError):
                fields = _read(int(entry.name), "stat").rpartition(")")[2].split()
                if int(fields[1]) == parent and "imgsearch.images.workers.decoders" in _read(
                    int(entry.name), "cmdline"
                ):
                    found.append(int(entry.name))
    return found


def processor_seconds(process_id: int) -> float:
    """Say how much processor time a process has used."""
    fields = _read(process_id, "stat").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@pytest.fixture(scope="session")
def run(in_process) -> Callable[..., Run | SimpleNamespace]:
    """Run the program: run("info", cwd=folder); with an option of `Run`, or `process=True`, in a process of its own."""

    def run_it(
        *arguments: object, cwd: Path, told: bytes = b"", process: bool = False, **options: object
    ) -> Run | SimpleNamespace:
        if process or options.keys() - {"who"} or options.get("who", SOMEBODY["whoever runs the tests"]).name != "self":
            return Run(*arguments, cwd=cwd, told=told, **options)
        code, out, err = in_process([os.fsdecode(_argument(argument)) for argument in arguments], cwd, told)
        return SimpleNamespace(code=code, out=out, err=err)

    return run_it


@pytest.fixture(scope="session")
def outcomes() -> Callable[[Path], dict[str, str]]:
    """Say of each file that an index knows whether it was `indexed`, or why not; read without imgsearch."""

    def read(index: Path) -> dict[str, str]:
        manifest = json.loads((index / "manifest.json").read_bytes())
        items = index / f"gen-{manifest['generation']:06d}" / "items.sqlite"
        with contextlib.closing(sqlite3.connect(f"file:{items}?mode=ro", uri=True)) as connection:
            connection.text_factory = os.fsdecode
            indexed = {path: "indexed" for (path,) in connection.execute("SELECT path FROM items")}
            return indexed | dict(connection.execute("SELECT path, cause FROM rejected"))

    return read


def _no_such_number(text: str) -> None:
    raise ValueError(f"{text} is not JSON")


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    assert len(dict(pairs)) == len(pairs)
    return dict(pairs)


@pytest.fixture(scope="session")
def report() -> Callable[[Path], dict]:
    """Read a build's report as a strict parser does, and check that its counts add up."""

    def read(file: Path) -> dict:
        facts = json.loads(file.read_bytes().decode("ascii"), parse_constant=_no_such_number, object_pairs_hook=_once)
        counts = facts["counts"]
        settled = ("unchanged", "renamed", "embedded", "rejected")
        assert counts["seen"] == sum(counts[name] for name in settled)
        assert counts["rejected"] == sum(counts["rejected_by_cause"].values()) == len(facts["rejected"])
        assert counts["rejected_by_cause"] == Counter(reject["cause"] for reject in facts["rejected"])
        assert counts["damaged"] == len(facts["damaged"])
        return facts

    return read
