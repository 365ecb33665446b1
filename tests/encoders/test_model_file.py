import contextlib
import functools
import json
import os
import shutil
import zipfile
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from any_names import FILE_NAMES, LABELS
from imgsearch.encoders import model_file
from imgsearch.encoders.model_file import CARD, ModelCard, load_model, read_card, save_model
from imgsearch.errors import MissingComponentError, OutputError, UsageError

# What TensorFlow's tensors have to say to NumPy while Keras saves them.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

CARD_OF_TINY = ModelCard(32, "pad", "", 24, ("boots", "hats", "gloves"), "classify", "cnn")
CONFIGURATION = "config.json"
WEIGHTS = "model.weights.h5"


def network(*, size=32, dims=4, classes=3, dtype="uint8"):
    """As small as a model of Keras can be."""
    import keras

    from imgsearch.encoders.layers import GeneralizedMean

    images = keras.Input((size, size, 3), dtype=dtype)
    pooled = GeneralizedMean(2.0)(keras.layers.Rescaling(1 / 255)(images))
    embeddings = keras.layers.UnitNormalization()(keras.layers.Dense(dims)(pooled))
    outputs = [embeddings, keras.layers.Dense(classes, activation="softmax")(embeddings)] if classes else [embeddings]
    return keras.Model(images, outputs)


CARD_OF_SMALL = replace(CARD_OF_TINY, dims=4)


@pytest.fixture
def tiny(tiny_models, tmp_path) -> Path:
    return Path(shutil.copy(tiny_models / "classes.keras", tmp_path / "tiny.keras"))


def rewritten(path: Path, change: dict[str, bytes | None], compression: int = zipfile.ZIP_STORED) -> Path:
    """The archive with entries replaced, added, or left out."""
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()} | change
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in entries.items():
            if data is not None:
                archive.writestr(name, data)
    return path


def with_card(path: Path, **change: object) -> Path:
    """The model with another card; a value of `...` is left out."""
    with zipfile.ZipFile(path) as archive:
        card = json.loads(archive.read(CARD)) | change
    card = {name: value for name, value in card.items() if value is not ...}
    return rewritten(path, {CARD: json.dumps(card).encode()})


def with_layer(path: Path, **change: object) -> Path:
    """The model with another third layer, which was an AveragePooling2D."""
    with zipfile.ZipFile(path) as archive:
        configuration = json.loads(archive.read(CONFIGURATION))
    layer = configuration["config"]["layers"][2]
    assert layer["class_name"] == "AveragePooling2D"
    layer |= change
    return rewritten(path, {CONFIGURATION: json.dumps(configuration).encode()})


# --- there and back


@pytest.mark.parametrize(
    "card",
    [
        CARD_OF_SMALL,
        replace(CARD_OF_SMALL, labels=(), objective="metric", steps="grayscale,binarize=otsu", fit="stretch"),
        replace(CARD_OF_SMALL, labels=("Äpfel", "=1+1", "\x1b[31m\n\u202e"), fit="crop", backbone="vgg16+cnn"),
    ],
)
def test_a_model_is_saved_and_loaded_with_its_card_and_gives_the_same_numbers(tmp_path, card):
    model = network(classes=len(card.labels))
    save_model(network(dims=5), tmp_path / "model.keras", replace(CARD_OF_SMALL, dims=5))
    save_model(model, tmp_path / "model.keras", card)  # which replaces the one before

    again = load_model(tmp_path / "model.keras")

    images = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), np.uint8)
    for ours, theirs in zip(model.predict_on_batch(images), again.predict_on_batch(images), strict=True):
        assert np.array_equal(ours, theirs)
    assert read_card(tmp_path / "model.keras") == card
    assert [file.name for file in tmp_path.iterdir()] == ["model.keras"]


def test_keras_itself_loads_what_was_saved(keras, tiny):
    assert keras.saving.load_model(tiny, compile=False).output_shape == [(None, 24), (None, 3)]


def test_a_model_is_loaded_that_was_saved_when_its_layer_lived_in_another_module(tiny):
    with zipfile.ZipFile(tiny) as archive:
        configuration = archive.read(CONFIGURATION)
    assert b"imgsearch.encoders.layers" in configuration
    rewritten(
        tiny, {CONFIGURATION: configuration.replace(b"imgsearch.encoders.layers", b"imgsearch.encoders.networks")}
    )

    assert read_card(tiny) == CARD_OF_TINY
    assert load_model(tiny).output_shape == [(None, 24), (None, 3)]


@pytest.mark.parametrize("at", ["save", "replace"])
def test_a_model_that_cannot_be_saved_leaves_the_one_before(tmp_path, tiny, monkeypatch, at):
    before = tiny.read_bytes()
    model = network()

    def fail(*_, **__):
        raise OSError(28, "No space left on device")

    if at == "replace":
        monkeypatch.setattr(Path, "replace", fail)
    else:
        monkeypatch.setattr(zipfile.ZipFile, "writestr", fail)
    with pytest.raises(OutputError, match="No space"):
        save_model(model, tiny, CARD_OF_SMALL)

    assert tiny.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == [tiny.name]


def test_a_folder_that_is_not_there_is_an_output_error(tmp_path):
    with pytest.raises(OutputError, match="nowhere"):
        save_model(network(), tmp_path / "nowhere" / "model.keras", CARD_OF_SMALL)


# --- a model that is not what its card says


@pytest.mark.parametrize(
    "wrong", [{"dtype": "float32"}, {"size": 33}, {"dims": 5}, {"classes": 4}, {"classes": 0}], ids=str
)
def test_a_model_that_is_not_what_its_card_says_is_neither_saved_nor_loaded(tmp_path, wrong):
    file = tmp_path / "model.keras"
    with pytest.raises(UsageError, match="expected images"):
        save_model(network(**wrong), file, CARD_OF_SMALL)
    assert list(tmp_path.iterdir()) == []

    network(**wrong).save(file)
    rewritten(file, {CARD: json.dumps({"version": 1, **asdict(CARD_OF_SMALL)}).encode()})

    with pytest.raises(UsageError, match="expected images"):
        load_model(file)


def test_a_layer_that_is_no_model_is_not_loaded(keras, tiny):
    dense = json.dumps(keras.saving.serialize_keras_object(keras.layers.Flatten()))
    rewritten(tiny, {CONFIGURATION: dense.encode()})

    with pytest.raises(UsageError):
        load_model(tiny)


@pytest.mark.filterwarnings("ignore:You are saving a model that has not yet been built:UserWarning")
def test_a_model_without_an_input_is_not_loaded(keras, tmp_path):
    file = tmp_path / "model.keras"
    keras.Sequential([keras.layers.Flatten()]).save(file)
    rewritten(file, {CARD: json.dumps({"version": 1, **asdict(CARD_OF_SMALL)}).encode()})

    with pytest.raises(UsageError):
        load_model(file)


def test_a_model_of_damaged_weights_or_none_is_not_loaded(tiny, tmp_path):
    import h5py

    with h5py.File(tmp_path / "empty.h5", "w"):
        pass
    with zipfile.ZipFile(tiny) as archive:
        whole = archive.read(WEIGHTS)
    for weights in (None, b"", b"garbage" * 100, (tmp_path / "empty.h5").read_bytes(), whole[:5000]):
        rewritten(tiny, {WEIGHTS: weights})

        with pytest.raises(UsageError, match="Keras cannot load"):
            load_model(tiny)


# --- what is refused before Keras sees it


def test_a_file_of_hdf5_is_refused_by_its_content(tmp_path):
    import h5py

    with h5py.File(tmp_path / "model.keras", "w") as file:
        file["x"] = 1

    with pytest.raises(UsageError, match="HDF5") as refused:
        read_card(tmp_path / "model.keras")
    assert "--weights" in refused.value.hint


def test_a_model_that_keras_saved_without_a_card_is_refused_with_a_way_out(tmp_path):
    network().save(tmp_path / "model.keras")

    with pytest.raises(UsageError, match=r"no imgsearch\.json") as refused:
        read_card(tmp_path / "model.keras")
    assert "docs" in refused.value.hint


def test_a_file_that_is_no_model_is_refused(tmp_path):
    for data in (b"", b"P", b"PK\x03\x04", b"garbage" * 1000, b"PK\x05\x06" + bytes(18), b"\x89PNG\r\n\x1a\n"):
        (tmp_path / "model.keras").write_bytes(data)

        with pytest.raises(UsageError, match=r"model\.keras"):
            read_card(tmp_path / "model.keras")


def test_a_file_that_is_not_there_and_a_folder_are_missing_components(tmp_path):
    for path in (tmp_path / "none.keras", tmp_path, tmp_path / "none" / "model.keras"):
        with pytest.raises(MissingComponentError):
            read_card(path)


def test_a_model_that_was_cut_short_is_refused(tiny):
    size = tiny.stat().st_size
    for share in (0.999, 0.9, 0.5, 0.1):
        os.truncate(tiny, int(size * share))

        with pytest.raises(UsageError, match="damaged"):
            read_card(tiny)


def test_a_model_with_an_entry_that_no_model_has_is_refused(tiny_models, tmp_path):
    for name in ("evil.py", "../config.json", "/etc/passwd", "assets/vocabulary.txt", "Config.json"):
        file = rewritten(Path(shutil.copy(tiny_models / "classes.keras", tmp_path / "model.keras")), {name: b"x"})

        with pytest.raises(UsageError, match="no model holds"):
            read_card(file)


def test_of_an_entry_that_comes_twice_the_one_that_keras_would_read_is_looked_at(tiny):
    with zipfile.ZipFile(tiny, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr(CONFIGURATION, archive.read(CONFIGURATION).replace(b'"AveragePooling2D"', b'"Lambda"'))

    with pytest.raises(UsageError, match="'Lambda'"):
        read_card(tiny)


@pytest.mark.parametrize("name", [CARD, CONFIGURATION])
def test_a_text_that_grows_beyond_measure_is_refused_without_being_read(tiny, name):
    rewritten(tiny, {name: b" " * 65_000_000}, zipfile.ZIP_DEFLATED)

    with pytest.raises(UsageError, match="65,000,000"):
        read_card(tiny)


def test_weights_that_grow_beyond_measure_are_refused(tiny, monkeypatch):
    monkeypatch.setattr(model_file, "_MOST_BYTES", 1_000_000)
    rewritten(tiny, {WEIGHTS: bytes(1_000_000)}, zipfile.ZIP_DEFLATED)

    with pytest.raises(UsageError, match="too large"):
        read_card(tiny)


@pytest.mark.parametrize("compression", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
@pytest.mark.parametrize("place", [30, 100])
def test_an_entry_that_cannot_be_unpacked_is_refused(tiny, compression, place):
    rewritten(tiny, {}, compression)
    with zipfile.ZipFile(tiny) as archive:
        entry = archive.getinfo(CARD)
        start = entry.header_offset + 30 + len(entry.filename)
    data = bytearray(tiny.read_bytes())
    data[start + place : start + place + 8] = b"\xff\xfe\xfd\xfc\xfb\xfa\xf9\xf8"
    tiny.write_bytes(data)

    with pytest.raises(UsageError, match=r"damaged|what no model holds"):
        read_card(tiny)


@pytest.mark.parametrize(
    "layer",
    [
        {"class_name": "Lambda"},
        {"class_name": "TFSMLayer"},
        {"class_name": "TorchModuleWrapper"},
        {"class_name": "JaxLayer"},
        {"class_name": "FlaxLayer"},
        {"module": "os", "class_name": "system"},
        {"module": "evil.keras", "class_name": "Layer"},
        {"module": "kerasx.layers", "class_name": "Layer"},
        {"module": "imgsearch.build.build", "class_name": "build_index", "registered_name": "Custom>build_index"},
        {"module": "builtins", "class_name": "function", "config": "eval", "registered_name": "function"},
        {"module": None, "class_name": "Mine", "registered_name": "mine>Mine"},
        {"module": "os", "class_name": "system", "registered_name": "imgsearch>system"},
    ],
    ids=str,
)
def test_a_layer_that_could_run_code_of_its_own_is_refused(tiny, layer):
    with_layer(tiny, **layer)

    with pytest.raises(UsageError, match="code of its own"):
        read_card(tiny)


@pytest.mark.parametrize("where", ["activation", "kernel_initializer", "dtype"])
def test_code_is_found_wherever_a_configuration_hides_it(tiny, where):
    evil = {"module": "builtins", "class_name": "__lambda__", "config": {"value": ["x", None, None]}}
    with_layer(tiny, config={"name": "pooling", "pool_size": [8, 8], where: [{"deep": [evil]}]})

    with pytest.raises(UsageError, match="code of its own"):
        read_card(tiny)


def test_a_real_lambda_layer_is_refused(keras, tmp_path):
    images = keras.Input((32, 32, 3), dtype="uint8")
    rows = keras.layers.Lambda(lambda x: x * 2)(keras.layers.GlobalAveragePooling2D()(images))
    file = tmp_path / "model.keras"
    keras.Model(images, [rows]).save(file)
    card = replace(CARD_OF_SMALL, dims=3, labels=())
    rewritten(file, {CARD: json.dumps({"version": 1, **asdict(card)}).encode()})

    with pytest.raises(UsageError, match="'Lambda'"):
        load_model(file)


def test_a_model_of_somebody_s_own_layer_is_refused(keras, tmp_path):
    @keras.saving.register_keras_serializable("theirs")
    class Own(keras.layers.Layer):
        def call(self, rows):
            return rows

    images = keras.Input((32, 32, 3), dtype="uint8")
    file = tmp_path / "model.keras"
    keras.Model(images, [Own()(keras.layers.GlobalAveragePooling2D()(images))]).save(file)
    rewritten(file, {CARD: json.dumps({"version": 1, **asdict(replace(CARD_OF_SMALL, dims=3, labels=()))}).encode()})

    with pytest.raises(UsageError, match="Own"):
        read_card(file)


@pytest.mark.parametrize("depth", [10, 300, 700, 900, 960, 970, 975, 980, 985, 990, 995, 2000, 100_000])
@pytest.mark.parametrize("opening", ["[", '{"a":'])
def test_a_configuration_nested_ever_so_deep_is_read_or_refused(tiny, depth, opening):
    closing = "]" if opening == "[" else "}"
    deep = opening * depth + "1" + closing * depth
    rewritten(tiny, {CONFIGURATION: deep.encode()})

    with contextlib.suppress(UsageError):
        assert read_card(tiny) == CARD_OF_TINY


# --- cards


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(labels=st.lists(LABELS, min_size=2, max_size=8, unique=True), backbone=FILE_NAMES)
@example(labels=["M\udcf6bel", "St\udcfchle\n"], backbone="M\udcf6bel.keras")
@example(
    labels=['"', "\\", "\u202eabc", "\ufffe", "\0", "\udcf0\udc9f\udc98\udc80", "\U0001f600"], backbone="x" * 100_000
)
def test_a_card_is_read_as_it_was_written_whatever_the_classes_are_called(tiny, labels, backbone):
    card = replace(CARD_OF_TINY, labels=tuple(labels), backbone=backbone)
    rewritten(tiny, {CARD: None})

    model_file._add_card(tiny, card)

    assert read_card(tiny) == card


@pytest.mark.parametrize("label", ["\ud83d", "\ud83d\ude00", "a\udfff"])
def test_a_class_whose_name_could_not_be_written_out_has_no_card(label):
    with pytest.raises(ValueError, match="surrogates not allowed"):
        replace(CARD_OF_TINY, labels=("boots", "hats", label))


def test_a_model_that_would_be_refused_is_not_saved(tmp_path, monkeypatch):
    monkeypatch.setattr(model_file, "_MOST_BYTES", 1000)

    with pytest.raises(UsageError, match="too large"):
        save_model(network(), tmp_path / "model.keras", CARD_OF_SMALL)

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "change",
    [
        *({name: ...} for name in ("version", "size", "fit", "steps", "dims", "labels", "objective", "backbone")),
        *({"size": value} for value in (0, -1, 4097, 32.0, "32", None, True, [32])),
        *({"dims": value} for value in (0, 65_537, "24", None)),
        *({"fit": value} for value in ("squash", "", None, 1, ["pad"])),
        *({"steps": value} for value in ("paint", None, 1, "rotate=1000")),
        *({"labels": value} for value in (None, 3, ["one"], ["a", "a"], ["a", 1], [["a"], ["b"]], [None, None])),
        *({"version": value} for value in (None, "1", 1.0, [1])),
        {"objective": 1},
        {"backbone": None},
    ],
    ids=str,
)
def test_a_damaged_card_is_refused(tiny, change):
    with_card(tiny, **change)

    with pytest.raises(UsageError):
        read_card(tiny)


@pytest.mark.parametrize("labels", ["abc", {"a": 1, "b": 2, "c": 3}], ids=str)
def test_labels_that_are_no_list_are_refused(tiny, labels):
    with_card(tiny, labels=labels)

    with pytest.raises(UsageError):
        read_card(tiny)


@pytest.mark.parametrize(
    "card", [b"", b"{", b"null", b"[]", b"1", b'"card"', b"\xff\xfe", b'{"version": NaN}', b"[" * 100_000]
)
def test_a_card_that_is_none_is_refused(tiny, card):
    rewritten(tiny, {CARD: card})

    with pytest.raises(UsageError):
        read_card(tiny)


def test_what_a_card_says_besides_is_passed_over(tiny):
    with_card(tiny, comment="made by hand", size_was=64)

    assert read_card(tiny) == CARD_OF_TINY


@pytest.mark.parametrize("version", [0, 2, 99])
def test_a_card_of_another_version_is_refused_by_its_version(tiny, version):
    with_card(tiny, version=version)

    with pytest.raises(UsageError, match=f"newer imgsearch.*version {version}"):
        read_card(tiny)


def test_a_card_of_a_newer_version_is_refused_by_its_version_though_it_is_of_another_form(tiny):
    with_card(tiny, version=2, labels={"boots": 0}, objective=...)

    with pytest.raises(UsageError, match=r"newer imgsearch.*version 2"):
        read_card(tiny)


# --- whatever a file holds


@functools.cache
def _content(path: Path) -> bytes:
    return path.read_bytes()


@settings(deadline=None, max_examples=250, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_whatever_is_changed_in_a_file_it_is_read_or_refused(tiny_models, tmp_path, data):
    content = bytearray(_content(tiny_models / "classes.keras"))
    central = len(content) - 500  # where the archive's own table is
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(content) - 1) | st.integers(central, len(content) - 1))
        content[place] = data.draw(st.integers(0, 255))
    file = tmp_path / "model.keras"
    file.write_bytes(content)

    with contextlib.suppress(UsageError, MissingComponentError):
        assert read_card(file).size <= 4096
