import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from imgsearch.errors import DamagedIndexError
from imgsearch.store import arrays
from imgsearch.store.arrays import blocks_of, open_array, stored_rows, write_array

shapes = st.tuples(st.integers(0, 30), st.integers(1, 20))
floats = st.floats(width=32, allow_nan=False)


@given(hnp.arrays(np.float32, shapes, elements=floats), st.integers(1, 7))
@settings(deadline=None, max_examples=60)
def test_what_is_written_in_blocks_is_read_back_as_one_array(tmp_path_factory, array, rows):
    path = tmp_path_factory.mktemp("a") / "a.npy"
    blocks = [array[start : start + rows] for start in range(0, len(array), rows)]

    write_array(path, *array.shape, blocks)

    read = open_array(path, *array.shape)
    np.testing.assert_array_equal(read, array)
    assert read.dtype == np.float32
    assert type(read) is np.ndarray
    np.testing.assert_array_equal(np.load(path), array)  # NumPy's own reader agrees


@given(hnp.arrays(np.float32, shapes, elements=floats), st.integers(1, 7))
@settings(deadline=None, max_examples=30)
def test_the_blocks_of_an_array_are_the_array(array, rows):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(arrays, "BLOCK_ROWS", rows)
        blocks = list(blocks_of(array))

    assert all(0 < len(block) <= rows for block in blocks)
    np.testing.assert_array_equal(np.concatenate([array[:0], *blocks]), array)


def test_an_opened_array_cannot_be_written_to(tmp_path):
    write_array(tmp_path / "a.npy", 2, 3, [np.ones((2, 3), np.float32)])

    with pytest.raises(ValueError, match="read-only"):
        open_array(tmp_path / "a.npy", 2, 3)[0, 0] = 5


def test_fewer_or_more_rows_than_were_announced_are_a_bug_that_shows(tmp_path):
    with pytest.raises(AssertionError):
        write_array(tmp_path / "a.npy", 3, 3, [np.ones((2, 3), np.float32)])


def test_a_missing_array_is_file_not_found(tmp_path):
    with pytest.raises(FileNotFoundError):
        open_array(tmp_path / "a.npy", 2, 3)


@pytest.mark.parametrize(
    "array",
    [
        np.ones((3, 2), np.float32),
        np.ones((2, 4), np.float32),
        np.ones((6,), np.float32),
        np.ones((2, 3, 1), np.float32),
        np.ones((2, 3), np.float64),
        np.ones((2, 3), np.int32),
        np.ones((2, 3), ">f4"),
        np.array([["a"] * 3] * 2, object),
    ],
    ids=lambda array: f"{array.dtype.str}-{array.shape}",
)
def test_an_array_of_another_kind_is_refused(tmp_path, array):
    np.save(tmp_path / "a.npy", array)

    with pytest.raises(DamagedIndexError, match=r"a\.npy is damaged"):
        open_array(tmp_path / "a.npy", 2, 3)


def test_a_pickle_is_refused_and_never_run(tmp_path):
    trap = b"cos\nsystem\n(S'touch " + bytes(tmp_path / "pwned") + b"'\ntR."
    (tmp_path / "a.npy").write_bytes(trap)

    with pytest.raises(DamagedIndexError):
        open_array(tmp_path / "a.npy", 2, 3)
    assert not (tmp_path / "pwned").exists()


def test_an_array_cut_anywhere_is_refused(tmp_path):
    path = tmp_path / "a.npy"
    write_array(path, 5, 3, [np.ones((5, 3), np.float32)])
    whole = path.read_bytes()

    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(DamagedIndexError):
            open_array(path, 5, 3)


@given(st.binary(max_size=300))
@settings(deadline=None, max_examples=80)
def test_garbage_is_refused(tmp_path_factory, garbage):
    path = tmp_path_factory.mktemp("a") / "a.npy"
    path.write_bytes(garbage)

    with pytest.raises(DamagedIndexError):
        open_array(path, 5, 3)


def test_a_header_that_declares_more_than_the_disk_holds_is_refused(tmp_path):
    with (tmp_path / "a.npy").open("wb") as file:
        header = {"descr": "<f4", "fortran_order": False, "shape": (10**11, 256)}
        np.lib.format.write_array_header_1_0(file, header)

    with pytest.raises(DamagedIndexError):
        open_array(tmp_path / "a.npy", 10**11, 256)


@pytest.mark.filterwarnings("ignore")  # NumPy and the compiler remark on odd headers
def test_one_changed_byte_of_the_header_is_refused_or_means_the_same(tmp_path):
    path = tmp_path / "a.npy"
    array = np.arange(15, dtype=np.float32).reshape(5, 3)
    write_array(path, 5, 3, [array])
    whole = path.read_bytes()

    for position in range(128):
        for flipped in {whole[position] ^ 1 << position % 8, 0, *b"-('9"}:
            path.write_bytes(whole[:position] + bytes([flipped]) + whole[position + 1 :])
            try:
                read = open_array(path, 5, 3)
            except DamagedIndexError:
                continue
            assert read.shape == (5, 3)


@given(hnp.arrays(np.float32, shapes, elements=st.floats(-1, 1, width=32)))
@settings(deadline=None, max_examples=40)
def test_float16_is_read_as_float32_rows_of_unit_length_however_it_is_asked_for(tmp_path_factory, array):
    lengths = np.linalg.norm(array, axis=1, keepdims=True)
    array = np.where(lengths > 0.01, array / np.where(lengths > 0.01, lengths, 1), 0).astype(np.float32)
    path = tmp_path_factory.mktemp("a") / "a.npy"

    write_array(path, *array.shape, [array], "float16")

    read = open_array(path, *array.shape, "float16")
    assert (read.shape, len(read), np.load(path).dtype) == (array.shape, len(array), np.float16)
    found = np.concatenate([np.empty((0, array.shape[1]), np.float32), *blocks_of(read)])
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, array, atol=1e-3)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), array.any(axis=1), atol=1e-6)
    for rows in (slice(1, None), np.arange(len(array))[::-1], list(range(len(array))), -1)[: 4 if len(array) else 3]:
        np.testing.assert_array_equal(read[rows], found[rows])


def test_float16_is_cut_or_not_as_float32_is(tmp_path):
    write_array(tmp_path / "a.npy", 5, 3, [np.ones((5, 3), np.float32)], "float16")
    (tmp_path / "a.npy").write_bytes((tmp_path / "a.npy").read_bytes()[:-2])

    with pytest.raises(DamagedIndexError, match="28 bytes of numbers, expected 30"):
        open_array(tmp_path / "a.npy", 5, 3, "float16")


@pytest.mark.parametrize("numbers", ["float32", "float16"])
def test_rows_are_copied_from_file_to_file_bit_for_bit(tmp_path, unit, numbers):
    """As every night does: of float16, brought to unit length and rounded again, a few would change each time."""
    array = unit(np.random.default_rng(0).normal(size=(2000, 8)))
    write_array(tmp_path / "a.npy", *array.shape, [array], numbers)

    rows = stored_rows(open_array(tmp_path / "a.npy", *array.shape, numbers), np.arange(len(array)))
    write_array(tmp_path / "b.npy", *array.shape, [rows], numbers)

    assert (tmp_path / "b.npy").read_bytes() == (tmp_path / "a.npy").read_bytes()
