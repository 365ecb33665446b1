"""What recommendations were learned, as a file."""

import io
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imgsearch.errors import DamagedIndexError
from imgsearch.personal.recommend.collaborative import Similar
from imgsearch.personal.recommend.model import RecommendModel, load_model

NAMES = ("shoe", "latin1-caf\udce9", "utf8 é日本", "line\nbreak", "a/b", "=1+1")


def model_of(names=NAMES, dims: int = 4) -> RecommendModel:
    generator = np.random.default_rng(0)
    count = len(names)
    others = np.array([np.delete(np.arange(count), place) for place in range(count)], np.int32).reshape(
        count, max(count - 1, 0)
    )
    if count > 1:
        others[0, -1] = -1
    weights = generator.normal(size=others.shape).astype(np.float32)
    translation = generator.normal(size=(count, dims)).astype(np.float32)
    return RecommendModel(tuple(names), Similar(others, weights, translation), np.arange(count, dtype=np.float32))


def bytes_of(model: RecommendModel) -> bytes:
    file = io.BytesIO()
    model.save(file)
    return file.getvalue()


def arrays_of(model: RecommendModel) -> dict[str, np.ndarray]:
    with np.load(io.BytesIO(bytes_of(model))) as arrays:
        return dict(arrays)


NAME = st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)) | st.just("\udcff"), min_size=1)


@settings(max_examples=10, deadline=None)
@given(st.lists(NAME, max_size=6, unique=True))
def test_what_is_saved_is_read(tmp_path_factory, names):
    model = model_of(names)
    path = tmp_path_factory.getbasetemp() / "saved.npz"
    path.write_bytes(bytes_of(model))

    found = load_model(path, 4)

    assert found.names == model.names
    np.testing.assert_array_equal(found.similar.others, model.similar.others)
    np.testing.assert_allclose(found.similar.weights, model.similar.weights, rtol=1e-3)
    np.testing.assert_allclose(found.similar.translation, model.similar.translation, rtol=1e-3)
    np.testing.assert_array_equal(found.popularity, model.popularity)


def test_a_name_that_no_item_can_have_is_nobodys(tmp_path):
    path = tmp_path / "recommend.npz"
    path.write_bytes(bytes_of(model_of(("a", "b\0c", "d"))))

    assert load_model(path, 4).names == ("a", "", "d")


def test_huge_weights_stay_finite(tmp_path):
    model = model_of()
    model.similar.translation[0, 0] = 1e30
    path = tmp_path / "recommend.npz"
    path.write_bytes(bytes_of(model))

    assert np.isfinite(load_model(path, 4).similar.translation).all()


def test_a_cut_or_changed_file_is_refused_or_still_fits(tmp_path):
    """The checksum of the manifest tells the others; nothing else than DamagedIndexError is raised."""
    path = tmp_path / "recommend.npz"
    content = bytes_of(model_of())
    generator = np.random.default_rng(0)
    refused = 0
    for place in generator.choice(len(content), 50, replace=False):
        changed = bytearray(content)
        changed[place] ^= 1 << int(generator.integers(8))
        for damaged in (bytes(changed), content[:place]):
            path.write_bytes(damaged)
            try:
                model = load_model(path, 4)
            except DamagedIndexError:
                refused += 1
            else:
                assert len(model.names) == len(model.similar.others) == 6
    assert refused > 60  # all that are cut, and some


@pytest.mark.parametrize(
    "changed",
    [
        {"others": np.full((6, 5), 6, np.int32)},
        {"others": np.full((6, 5), -2, np.int32)},
        {"others": np.zeros((6, 5))},
        {"others": np.zeros((6, 4), np.int32)},
        {"weights": np.full((6, 5), np.nan, np.float16)},
        {"weights": np.zeros((6, 5), np.float32)},
        {"translation": np.full((6, 4), np.inf, np.float16)},
        {"translation": np.zeros((6, 5), np.float16)},
        {"translation": np.zeros((4, 6), np.float16).T},
        {"popularity": np.full(6, -1, np.float32)},
        {"popularity": np.full(6, np.nan, np.float32)},
        {"popularity": np.zeros(5, np.float32)},
        {"names": np.frombuffer(b"a\0b", np.uint8)},
        {"names": np.array(list(NAMES), object)},
    ],
    ids=str,
)
def test_arrays_that_do_not_go_together_are_refused(changed, tmp_path):
    path = tmp_path / "recommend.npz"
    np.savez(path, **{**arrays_of(model_of()), **changed})

    with pytest.raises(DamagedIndexError, match=r"recommend\.npz") as raised:
        load_model(path, 4)
    assert "train --objective recommend" in str(raised.value.hint)


def test_a_missing_array_is_named(tmp_path):
    arrays = arrays_of(model_of())
    del arrays["popularity"]
    np.savez(tmp_path / "recommend.npz", **arrays)

    with pytest.raises(DamagedIndexError, match="popularity"):
        load_model(tmp_path / "recommend.npz", 4)


def test_nothing_compressed_is_unpacked(tmp_path):
    np.savez_compressed(tmp_path / "recommend.npz", **arrays_of(model_of()))

    with pytest.raises(DamagedIndexError, match="compressed"):
        load_model(tmp_path / "recommend.npz", 4)


def test_arrays_larger_than_their_file_are_not_made(tmp_path):
    path = tmp_path / "recommend.npz"
    with zipfile.ZipFile(io.BytesIO(bytes_of(model_of()))) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            if name == "translation.npy":
                content = content.replace(b"(6, 4), }      ", b"(6, 400000000)}")
            new.writestr(name, content)

    with pytest.raises(DamagedIndexError, match=r"recommend\.npz cannot be read"):
        load_model(path, 4)


def test_a_missing_file_is_no_damage(tmp_path):
    with pytest.raises(FileNotFoundError):
        load_model(tmp_path / "none.npz", 4)
