import io
import os
import re
import subprocess
import sys
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imgsearch.encoders import visual_words
from imgsearch.encoders.visual_words import Vocabulary, describe, learn_vocabulary
from imgsearch.errors import DamagedIndexError, UsageError
from imgsearch.images.decode import decode, decode_rgba
from imgsearch.images.transform import fit
from imgsearch.synthetic.augment import photo_like

SIZE = 256
WORDS = 128


@pytest.fixture(scope="module")
def files(drawn):
    return [file.read_bytes() for file in sorted(drawn.rglob("*.png"))]


@pytest.fixture(scope="module")
def images(files):
    return [fit(decode(file), SIZE) for file in files]


@pytest.fixture(scope="module")
def vocabulary(images):
    return learn_vocabulary(images, words=WORDS)


@pytest.fixture(scope="module")
def vectors(images, vocabulary):
    return np.stack([describe(image, vocabulary) for image in images])


def test_a_vocabulary_has_as_many_words_as_were_asked_for(vocabulary):
    assert (vocabulary.centers.shape, vocabulary.idf.shape) == ((WORDS, 256), (WORDS,))
    assert {vocabulary.centers.dtype, vocabulary.idf.dtype} == {np.dtype("f4")}
    assert np.isfinite(vocabulary.centers).all()
    assert (vocabulary.idf >= 0).all()


def test_an_image_is_a_unit_vector_of_as_many_numbers_as_there_are_words(vectors):
    assert (vectors.shape, vectors.dtype) == ((24, WORDS), np.float32)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    assert (vectors >= 0).all()


def test_a_rare_word_counts_for_more_by_the_logarithm_of_how_rare_it_is(vectors, vocabulary):
    weighty = vocabulary.idf > 0  # a word that every image has shows in none
    images_with = (vectors > 0).sum(axis=0)

    assert weighty.sum() > WORDS / 2
    assert np.allclose(vocabulary.idf[weighty], np.log(25 / (1 + images_with[weighty])), atol=1e-5)


def test_the_same_images_and_seed_give_the_same_vocabulary(images, vocabulary):
    again, other = learn_vocabulary(iter(images), words=WORDS), learn_vocabulary(images, words=WORDS, seed=1)

    assert saved(again) == saved(vocabulary)
    assert saved(other) != saved(vocabulary)


def test_the_same_image_gives_the_same_vector(images, vectors, vocabulary):
    assert np.array_equal(describe(images[0].copy(), vocabulary), vectors[0])


def test_an_image_turned_by_quarters_is_nearest_to_itself(images, vectors, vocabulary):
    for row, image in enumerate(images):
        for quarters in (1, 2, 3):
            turned = np.ascontiguousarray(np.rot90(image, quarters))
            assert int(np.argmax(vectors @ describe(turned, vocabulary))) == row


def test_words_hardly_ask_for_light(images, vectors, vocabulary):
    for row, image in enumerate(images):
        darker = np.where(image >= 248, image, image * 0.8).astype(np.uint8)
        assert int(np.argmax(vectors @ describe(darker, vocabulary))) == row


def test_most_products_are_found_by_a_photo_like_image(files, vectors, vocabulary):
    photos = [photo_like(decode_rgba(file), np.random.default_rng([5, row])) for row, file in enumerate(files)]

    found = [int(np.argmax(vectors @ describe(fit(decode(photo), SIZE), vocabulary))) for photo in photos]

    assert np.mean(np.array(found) == np.arange(len(files))) >= 0.75


@settings(max_examples=30, deadline=None)
@given(st.tuples(*[st.integers(0, 255)] * 3), st.sampled_from([32, 96, 256]))
def test_an_image_of_one_color_has_no_words(vocabulary, color, size):
    image = np.empty((size, size, 3), np.uint8)
    image[:] = color

    assert np.array_equal(describe(image, vocabulary), np.zeros(WORDS, np.float32))


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(32, 300))
def test_noise_is_described_without_nan(vocabulary, seed, size):
    image = np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)

    length = np.linalg.norm(describe(image, vocabulary))

    assert length == pytest.approx(1, abs=1e-6) or length == 0


def test_images_are_looked_at_one_by_one_and_no_more_than_needed(monkeypatch, images):
    monkeypatch.setattr(visual_words, "_IMAGES", 10)
    seen = 0

    def stream():
        nonlocal seen
        for image in images:
            seen += 1
            yield image

    assert learn_vocabulary(stream(), words=16).idf.max() <= np.log(11)
    assert seen == 10


@pytest.mark.parametrize("count", [0, 1, 5])
def test_too_few_images_are_refused_with_a_hint(images, count):
    with pytest.raises(UsageError, match=f"{count} images") as refused:
        learn_vocabulary(images[:count], words=1024)

    assert "more images" in refused.value.hint


def test_images_without_features_are_refused():
    plain = np.full((SIZE, SIZE, 3), 128, np.uint8)

    with pytest.raises(UsageError, match="0 local features"):
        learn_vocabulary([plain] * 20, words=4)


def test_copies_of_one_image_teach_words_that_say_nothing(images):
    learned = learn_vocabulary([images[0]] * 12, words=16)

    assert np.isfinite(learned.centers).all()
    assert set(np.unique(learned.idf)) <= {np.float32(0), np.float32(np.log(13))}


def test_a_query_imports_no_scikit_learn():
    code = "import sys; from imgsearch.encoders.visual_words import Vocabulary; print('sklearn' in sys.modules)"

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "False"


def saved(vocabulary: Vocabulary) -> bytes:
    stream = io.BytesIO()
    vocabulary.save(stream)
    return stream.getvalue()


SMALL = Vocabulary(np.arange(512, dtype=np.float32).reshape(2, 256), np.array([1, 2], np.float32))


def test_what_was_saved_is_loaded(tmp_path, images, vectors, vocabulary):
    (tmp_path / "vocabulary.npz").write_bytes(saved(vocabulary))

    again = Vocabulary.load(str(tmp_path / "vocabulary.npz"), WORDS)

    assert np.array_equal(again.centers, vocabulary.centers)
    assert np.array_equal(again.idf, vocabulary.idf)
    assert np.array_equal(describe(images[3], again), vectors[3])


def test_saving_gives_the_same_bytes_at_any_time():
    assert saved(SMALL) == saved(Vocabulary(SMALL.centers.copy(), SMALL.idf.copy()))
    with zipfile.ZipFile(io.BytesIO(saved(SMALL))) as archive:
        assert {member.date_time for member in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}


def refused(tmp_path, data: bytes, words: int = 2) -> str:
    path = tmp_path / "vocabulary.npz"
    path.write_bytes(data)
    with pytest.raises(DamagedIndexError) as error:
        Vocabulary.load(str(path), words)
    assert str(path) in error.value.message
    return error.value.message


def test_a_missing_file_is_missing(tmp_path):
    with pytest.raises(FileNotFoundError):
        Vocabulary.load(str(tmp_path / "nothing.npz"), 2)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_file_cut_short_anywhere_is_damage(tmp_path):
    data = saved(SMALL)

    for cut in range(0, len(data), 11):
        refused(tmp_path, data[:cut])


def test_other_shapes_are_damage_and_the_number_of_words_is_named(tmp_path):
    assert "(3, 256)" in refused(tmp_path, saved(SMALL), words=3)
    refused(tmp_path, saved(Vocabulary(SMALL.centers.T, SMALL.idf)))
    refused(tmp_path, saved(Vocabulary(SMALL.centers[:, :128], SMALL.idf)))
    refused(tmp_path, saved(Vocabulary(SMALL.centers, SMALL.idf[:1])))
    refused(tmp_path, saved(Vocabulary(SMALL.centers, SMALL.idf[None])))


@pytest.mark.parametrize("dtype", [np.float64, np.float16, np.int32, np.complex64, ">f4"])
def test_other_types_of_numbers_are_damage(tmp_path, dtype):
    refused(tmp_path, saved(Vocabulary(SMALL.centers.astype(dtype), SMALL.idf)))
    refused(tmp_path, saved(Vocabulary(SMALL.centers, SMALL.idf.astype(dtype))))


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_not_finite_are_damage(tmp_path, number):
    for place in ("centers", "idf"):
        arrays = {"centers": SMALL.centers.copy(), "idf": SMALL.idf.copy()}
        arrays[place].flat[1] = number
        assert "finite" in refused(tmp_path, saved(Vocabulary(**arrays)))


class Touch:
    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_pickled_objects_are_damage_and_nothing_runs(tmp_path):
    stream = io.BytesIO()
    np.savez(stream, centers=np.array([Touch(str(tmp_path / "ran"))] * 2, object), idf=SMALL.idf)

    refused(tmp_path, stream.getvalue())

    assert not (tmp_path / "ran").exists()


def test_a_file_of_other_arrays_is_damage(tmp_path):
    stream = io.BytesIO()
    np.savez(stream, centers=SMALL.centers)

    refused(tmp_path, stream.getvalue())


def test_a_plain_array_in_place_of_the_archive_is_damage(tmp_path):
    stream = io.BytesIO()
    np.save(stream, SMALL.centers)

    refused(tmp_path, stream.getvalue())


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200), st.sampled_from([b"", b"PK\x03\x04", b"\x93NUMPY\x01", b"\x80\x04"]))
def test_arbitrary_bytes_are_damage(tmp_path_factory, data, signature):
    refused(tmp_path_factory.getbasetemp(), signature + data)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@settings(max_examples=150, deadline=None)
@given(st.data())
def test_a_changed_byte_is_damage_or_does_no_harm_to_the_shapes(tmp_path_factory, data):
    content = bytearray(saved(SMALL))
    place = data.draw(st.integers(0, len(content) - 1))
    content[place] = data.draw(st.integers(0, 255))
    if {found.start() + 8 for found in re.finditer(b"PK\x01\x02", saved(SMALL))} & {place}:
        return  # says that it is encrypted, which zipfile answers by an error that is tested with the projection
    path = tmp_path_factory.getbasetemp() / "changed-vocabulary.npz"
    path.write_bytes(content)

    try:
        loaded = Vocabulary.load(str(path), 2)
    except DamagedIndexError:
        return
    assert (loaded.centers.shape, loaded.idf.shape) == ((2, 256), (2,))
