import contextlib
import gc
import io
import os
import re
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imgsearch.encoders import projection
from imgsearch.encoders.projection import DIMS, SMALLEST_CATALOG, Projection, learn_projection
from imgsearch.errors import DamagedIndexError


def sample(rows: int = 600, dims: int = 40, seed: int = 0) -> np.ndarray:
    """Unit rows that vary a lot in few directions and a little in the others, around a mean."""
    generator = np.random.default_rng(seed)
    spread = 1.0 / np.arange(1, dims + 1)
    turn, _ = np.linalg.qr(generator.normal(size=(dims, dims)))
    rows_ = generator.normal(size=(rows, dims)) * spread @ turn + generator.normal(size=dims) * 0.5
    return (rows_ / np.linalg.norm(rows_, axis=1, keepdims=True)).astype(np.float32)


def by_hand(rows: np.ndarray, dims: int, exponent: float) -> np.ndarray:
    """Project with an eigen-decomposition of the covariance, in float64."""
    centered = rows.astype(np.float64) - rows.mean(axis=0, dtype=np.float64)
    variances, directions = np.linalg.eigh(centered.T @ centered / (len(rows) - 1))
    order = np.argsort(variances)[::-1][:dims]
    projected = centered @ directions[:, order] / variances[order] ** (exponent / 2)
    return projected / np.linalg.norm(projected, axis=1, keepdims=True)


def cosines(rows: np.ndarray) -> np.ndarray:
    return rows @ rows.T


def test_projected_rows_have_unit_length():
    rows = sample()

    projected = learn_projection(rows).apply(rows)

    assert (projected.shape, projected.dtype) == ((600, 40), np.float32)
    assert np.allclose(np.linalg.norm(projected, axis=1), 1, atol=1e-5)


def test_many_dimensions_become_256():
    rows = sample(600, 300)

    learned = learn_projection(rows)

    assert learned.components.shape == (DIMS, 300) == (256, 300)
    assert learned.apply(rows).shape == (600, 256)


def test_few_dimensions_stay_as_many():
    assert learn_projection(sample(600, 10)).components.shape == (10, 10)


# Full whitening is left out for many dimensions: it divides by what float32 leaves of the smallest variances.
@pytest.mark.parametrize(
    ("exponent", "rows", "dims"), [(0.0, 600, 40), (0.25, 600, 40), (1.0, 600, 40), (0.0, 600, 300), (0.25, 600, 300)]
)
def test_it_agrees_with_an_eigen_decomposition_by_hand(monkeypatch, exponent, rows, dims):
    monkeypatch.setattr(projection, "WHITENING", exponent)
    data = sample(rows, dims)

    found = cosines(learn_projection(data).apply(data))

    assert np.abs(found - cosines(by_hand(data, min(dims, 256), exponent))).max() < 2e-3


def test_the_whitening_in_use_is_the_partial_one_that_was_measured():
    data = sample()

    found = cosines(learn_projection(data).apply(data))

    assert projection.WHITENING == 0.5
    assert np.abs(found - cosines(by_hand(data, 40, 0.5))).max() < 2e-3
    assert np.abs(found - cosines(by_hand(data, 40, 0.0))).max() > 0.02
    assert np.abs(found - cosines(by_hand(data, 40, 1.0))).max() > 0.02


def test_without_whitening_distances_around_the_mean_are_kept(monkeypatch):
    monkeypatch.setattr(projection, "WHITENING", 0.0)
    data = sample()
    centered = data - data.mean(axis=0)
    centered /= np.linalg.norm(centered, axis=1, keepdims=True)

    assert np.abs(cosines(learn_projection(data).apply(data)) - cosines(centered)).max() < 1e-3


def test_a_sample_smaller_than_its_dimensions_can_be_learned_from():
    data = sample(SMALLEST_CATALOG, 800)

    projected = learn_projection(data).apply(data)

    assert projected.shape == (512, 256)
    assert np.allclose(np.linalg.norm(projected, axis=1), 1, atol=1e-5)


def test_a_constant_dimension_does_no_harm():
    data = sample()
    data[:, 3] = 0.125
    data[:, 7] = 0

    learned = learn_projection(data)

    assert np.isfinite(learned.components).all()
    assert np.isfinite(learned.apply(data)).all()


def test_a_catalog_of_one_image_over_and_over_teaches_no_projection():
    assert learn_projection(np.repeat(sample(1, 40), 600, axis=0)) is None


@pytest.mark.parametrize("distinct", [2, 5])
def test_a_catalog_of_few_distinct_images_gives_no_nan(distinct):
    data = np.repeat(sample(distinct, 40), 600 // distinct, axis=0)

    learned = learn_projection(data)

    assert np.isfinite(learned.components).all()
    assert np.isfinite(learned.apply(data)).all()


def test_a_row_on_the_mean_stays_zero():
    learned = learn_projection(sample())

    assert np.array_equal(learned.apply(learned.mean[None]), np.zeros((1, 40), np.float32))


def test_no_rows_become_no_rows():
    assert learn_projection(sample()).apply(np.empty((0, 40), np.float32)).shape == (0, 40)


def test_rows_are_projected_one_by_one_as_they_are_together():
    data = sample()
    learned = learn_projection(data)

    assert np.allclose(learned.apply(data)[17], learned.apply(data[17:18])[0], atol=1e-6)


def test_learning_is_deterministic():
    one, other = learn_projection(sample()), learn_projection(sample())

    assert np.array_equal(one.components, other.components)
    assert np.array_equal(one.mean, other.mean)


def saved(learned: Projection) -> bytes:
    stream = io.BytesIO()
    learned.save(stream)
    return stream.getvalue()


SMALL = Projection(np.arange(3, dtype=np.float32), np.arange(6, dtype=np.float32).reshape(2, 3))


def test_what_was_saved_is_loaded(tmp_path):
    (tmp_path / "projection.npz").write_bytes(saved(SMALL))

    again = Projection.load(str(tmp_path / "projection.npz"), 3, 2)

    assert np.array_equal(again.mean, SMALL.mean)
    assert np.array_equal(again.components, SMALL.components)


def test_saving_gives_the_same_bytes_each_time():
    assert saved(SMALL) == saved(SMALL)


def refused(tmp_path, data: bytes, dims_in: int = 3, dims_out: int = 2) -> str:
    path = tmp_path / "projection.npz"
    path.write_bytes(data)
    with pytest.raises(DamagedIndexError) as error:
        Projection.load(str(path), dims_in, dims_out)
    assert str(path) in error.value.message
    return error.value.message


def test_a_missing_file_is_missing(tmp_path):
    with pytest.raises(FileNotFoundError):
        Projection.load(str(tmp_path / "nothing.npz"), 3, 2)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_file_cut_short_anywhere_is_damage(tmp_path):
    data = saved(SMALL)

    for cut in range(0, len(data), 3):
        refused(tmp_path, data[:cut])


def test_other_shapes_are_damage_and_both_are_named(tmp_path):
    message = refused(tmp_path, saved(SMALL), dims_in=4)

    assert "(2, 3)" in message
    assert "4" in message
    refused(tmp_path, saved(SMALL), dims_out=3)
    refused(tmp_path, saved(Projection(SMALL.mean, SMALL.components.T)))
    refused(tmp_path, saved(Projection(SMALL.mean[None], SMALL.components)))


@pytest.mark.parametrize("dtype", [np.float64, np.float16, np.int32, np.complex64, ">f4"])
def test_other_types_of_numbers_are_damage(tmp_path, dtype):
    refused(tmp_path, saved(Projection(SMALL.mean.astype(dtype), SMALL.components)))
    refused(tmp_path, saved(Projection(SMALL.mean, SMALL.components.astype(dtype))))


class Touch:
    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_pickled_objects_are_damage_and_nothing_runs(tmp_path):
    stream = io.BytesIO()
    objects = np.array([Touch(str(tmp_path / "ran"))] * 3, object)
    np.savez(stream, mean=objects, components=SMALL.components)

    refused(tmp_path, stream.getvalue())

    assert not (tmp_path / "ran").exists()


def test_a_file_of_other_arrays_is_damage(tmp_path):
    stream = io.BytesIO()
    np.savez(stream, mean=SMALL.mean)

    refused(tmp_path, stream.getvalue())


def test_a_plain_array_in_place_of_the_archive_is_damage(tmp_path):
    stream = io.BytesIO()
    np.save(stream, SMALL.components)

    refused(tmp_path, stream.getvalue())


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=200), st.sampled_from([b"", b"PK\x03\x04", b"\x93NUMPY\x01", b"\x80\x04"]))
def test_arbitrary_bytes_are_damage(tmp_path_factory, data, signature):
    refused(tmp_path_factory.getbasetemp(), signature + data)


def encryption_flags(archive: bytes) -> set[int]:
    return {found.start() + 8 for found in re.finditer(b"PK\x01\x02", archive)}


def test_an_archive_that_says_it_is_encrypted_is_damage(tmp_path):
    data = bytearray(saved(SMALL))
    data[min(encryption_flags(data))] = 1

    refused(tmp_path, bytes(data))


def test_a_refused_file_is_closed(tmp_path):
    (tmp_path / "cut.npz").write_bytes(saved(SMALL)[:100])

    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        with contextlib.suppress(DamagedIndexError):
            Projection.load(str(tmp_path / "cut.npz"), 3, 2)
        gc.collect()

    assert [warning for warning in seen if warning.category is ResourceWarning] == []


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@settings(max_examples=300, deadline=None)
@given(st.data())
def test_a_changed_byte_is_damage_or_does_no_harm_to_the_shapes(tmp_path_factory, data):
    content = bytearray(saved(SMALL))
    place = data.draw(st.integers(0, len(content) - 1))
    if place in encryption_flags(bytes(content)):
        return  # has a test of its own
    content[place] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "changed.npz"
    path.write_bytes(content)

    try:
        loaded = Projection.load(str(path), 3, 2)
    except DamagedIndexError:
        return
    assert (loaded.mean.shape, loaded.components.shape) == ((3,), (2, 3))
