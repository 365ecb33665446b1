import contextlib
import hashlib
import json
import os
import zipfile
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from imgsearch.encoders.choice import MAX_PARTS, choose_detector, choose_encoder, with_precision, with_weights
from imgsearch.encoders.model_file import CARD
from imgsearch.encoders.spec import EncoderSpec, Preprocessing
from imgsearch.encoders.table import TABLE
from imgsearch.errors import MissingComponentError, UsageError

CARD_OF_A_MODEL = {
    "version": 1,
    "size": 96,
    "fit": "pad",
    "steps": "",
    "dims": 24,
    "labels": ["boots", "hats"],
    "objective": "classify",
    "backbone": "cnn",
}


def model_of(path: Path, **card: object) -> Path:
    """A file that says what a model says: what is chosen is read from its card, and nobody runs it here."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", json.dumps({"module": "keras", "class_name": "Functional", "config": {}}))
        archive.writestr(CARD, json.dumps(CARD_OF_A_MODEL | card))
    return path


def sha256_of(path: Path) -> str:
    return "sha256:" + hashlib.sha256(path.read_bytes()).hexdigest()


def spec_of(backbone: str, *arguments: object, **options: object) -> EncoderSpec:
    return choose_encoder(backbone, *arguments, **options).spec


def test_every_row_of_the_table_is_chosen_by_its_name():
    for name, row in TABLE.items():
        choice = choose_encoder(name)
        assert (choice.spec, choice.files) == (row.spec, {})


@pytest.mark.parametrize(
    ("wrong", "meant"),
    [
        *(("efficientnet_lite0", "efficientnet-lite0"), ("vgg-16", "vgg16"), ("hand-crafted", "handcrafted")),
        *(("handcrafted:colour", "handcrafted:color"), ("visualwords", "visual-words"), ("resnet", "resnet50")),
        ("VGG16", "vgg16"),
    ],
)
def test_an_encoder_that_is_nearly_called_so_is_suggested(wrong, meant):
    for frame in ("{}", "handcrafted+{}", "{}=0.5", "{}+vgg16=2"):
        with pytest.raises(MissingComponentError, match=repr(wrong)) as refused:
            spec_of(frame.format(wrong))
        assert refused.value.hint == f"did you mean {meant}?"


def test_an_encoder_that_is_like_no_other_gets_the_list():
    with pytest.raises(MissingComponentError) as refused:
        spec_of("xyz")

    assert all(name in refused.value.hint for name in TABLE)


# --- hybrids


def test_a_hybrid_is_its_parts_in_a_row():
    spec = spec_of("efficientnet-lite0+handcrafted:color=0.3")

    first, second = spec.parts
    assert (first.weight, second.weight) == (1, 0.3)
    assert (first.spec, second.spec) == (TABLE["efficientnet-lite0"].spec, TABLE["handcrafted:color"].spec)
    assert (spec.name, spec.kind, spec.weights) == ("efficientnet-lite0+handcrafted:color=0.3", "hybrid", "")
    assert spec.dims == first.spec.dims + second.spec.dims
    assert spec.size == 224
    assert EncoderSpec.from_json(spec.to_json()) == spec


def test_the_same_hybrid_may_be_spelled_in_several_ways_and_its_name_chooses_it_again():
    expected = spec_of("handcrafted:color+vgg16=2")

    for text in (" handcrafted:color + vgg16=2.0 ", "handcrafted:color=1+vgg16=2e0"):
        assert spec_of(text) == expected
    for text in ("handcrafted+vgg16=0.25", "handcrafted=3+handcrafted=0.001", "vgg16+vgg19", "vgg16+vgg19=0.123456789"):
        assert spec_of(spec_of(text).name) == spec_of(text)
    assert spec_of("handcrafted=0.3") == spec_of("handcrafted")


@pytest.mark.parametrize(
    "text",
    [
        *("handcrafted=0", "handcrafted=-1", "handcrafted=nan", "handcrafted=inf", "handcrafted=1001", "vgg16=much"),
        *("", " ", "+", "handcrafted+", "+handcrafted", "a++b", "=", "=0.5", "vgg16==2", "vgg16=1=2", "vgg16=1e400"),
        *("handcrafted+vgg16=0", "handcrafted=1e-400+vgg16", "handcrafted+vgg16=0x10", "handcrafted+vgg16=None"),
    ],
)
def test_what_is_no_encoder_with_its_weight_is_a_usage_error(text):
    with pytest.raises(UsageError, match="found"):
        choose_encoder(text)


def test_a_hybrid_has_at_most_eight_parts():
    assert len(spec_of("+".join(["handcrafted"] * MAX_PARTS)).parts) == 8
    with pytest.raises(UsageError, match="9"):
        spec_of("+".join(["handcrafted"] * 9))


def test_no_detector_is_for_an_onnx_network(tmp_path):
    detector = model_of(tmp_path / "d.keras", labels=[], objective="detect", encoder="0" * 16)
    encoder = EncoderSpec("a.onnx", "onnx", 96, "pad", 24, "sha256:0", preprocessing=Preprocessing(96, "pad", 96))

    with pytest.raises(UsageError, match=r"encoder of Keras beside --detector, found a\.onnx"):
        choose_detector(detector, encoder)


def test_precision_is_for_networks_only():
    spec = spec_of("vgg16+handcrafted", precision="bf16")

    assert [part.spec.precision for part in spec.parts] == ["bf16", "f32"]
    assert spec.precision == "bf16"
    assert with_precision(spec, "f32") == spec_of("vgg16+handcrafted")
    for name in ("handcrafted+visual-words", "handcrafted"):
        assert spec_of(name, precision="bf16") == spec_of(name)
    assert spec_of("efficientnet-lite0", precision="bf16").precision == "bf16"


def test_weights_are_given_to_all_parts_of_a_name_and_to_no_other():
    spec = with_weights(spec_of("visual-words+handcrafted+visual-words=2"), "visual-words", "sha256:1")

    assert [part.spec.weights for part in spec.parts] == ["sha256:1", "", "sha256:1"]
    assert with_weights(spec_of("vgg16"), "vgg19", "sha256:1") == spec_of("vgg16")
    assert with_weights(spec_of("vgg16"), "vgg16", "sha256:1").weights == "sha256:1"


# --- weights of the user's


@pytest.mark.parametrize(
    "backbone",
    [
        "efficientnet-lite0",
        "handcrafted",
        "visual-words",
        "handcrafted+efficientnet-lite0",
        "vgg16+vgg19",
        "vgg16+vgg16",
    ],
)
def test_weights_are_refused_where_no_encoder_or_more_than_one_could_take_them(tmp_path, backbone):
    (tmp_path / "weights.h5").write_bytes(b"weights")

    with pytest.raises(UsageError) as refused:
        spec_of(backbone, tmp_path / "weights.h5")

    assert backbone in refused.value.message


def test_weights_are_for_the_one_part_that_can_take_them(tmp_path):
    file = tmp_path / "weights.h5"
    file.write_bytes(b"weights")

    choice = choose_encoder("handcrafted+vgg16=0.5", file)

    assert [part.spec.weights for part in choice.spec.parts] == ["", sha256_of(file)]
    assert choice.spec.parts[1].weight == 0.5
    assert choice.files == {sha256_of(file): file}


def test_weights_enter_the_fingerprint_by_their_content(tmp_path):
    one, same, other = (tmp_path / name for name in ("one.h5", "same.h5", "other.h5"))
    one.write_bytes(b"weights")
    same.write_bytes(b"weights")
    other.write_bytes(b"other weights")

    spec = spec_of("vgg16", one)

    assert spec.weights == sha256_of(one)
    assert spec.fingerprint == spec_of("vgg16", same).fingerprint
    assert len({spec.fingerprint, spec_of("vgg16", other).fingerprint, spec_of("vgg16").fingerprint}) == 3


def test_weights_that_cannot_be_read_are_a_missing_component(tmp_path):
    for path in (tmp_path / "nothing.h5", tmp_path, Path("\0")):
        with pytest.raises(MissingComponentError, match="cannot be read"):
            spec_of("vgg16", path)


# --- models


def test_a_model_is_what_its_card_says_and_its_content(tmp_path):
    file = model_of(tmp_path / "shoes.keras", fit="crop", steps="grayscale")

    choice = choose_encoder(str(file), precision="bf16")

    assert choice.spec == EncoderSpec(
        "shoes.keras", "model", 96, "crop", 24, sha256_of(file), precision="bf16", steps="grayscale"
    )
    assert choice.files == {sha256_of(file): file}


def test_a_model_that_was_trained_again_is_another_and_one_that_was_moved_the_same(tmp_path):
    file = model_of(tmp_path / "shoes.keras")
    before = spec_of(str(file))
    (tmp_path / "folder").mkdir()

    assert spec_of(str(file.rename(tmp_path / "folder" / "shoes.keras"))) == before
    after = spec_of(str(model_of(file, objective="metric", labels=[])))
    assert after.name == before.name
    assert after.fingerprint != before.fingerprint


@pytest.mark.parametrize(
    "name", ["a+b.keras", "a=0.3.keras", "+.keras", "vgg16+handcrafted=2.keras", "caf\udce9.keras"]
)
def test_a_file_whose_name_has_a_plus_in_it_is_that_file(tmp_path, monkeypatch, name):
    model_of(tmp_path / name)
    monkeypatch.chdir(tmp_path)

    for backbone in (name, str(tmp_path / name)):
        assert spec_of(backbone).name == name
        assert spec_of(backbone).kind == "model"


def test_a_model_goes_into_a_hybrid_with_its_weight(tmp_path):
    file = model_of(tmp_path / "shoes.keras")

    choice = choose_encoder(f"{file}=0.5+handcrafted:color")

    assert choice.spec.name == "shoes.keras=0.5+handcrafted:color"
    assert [(part.spec.kind, part.weight) for part in choice.spec.parts] == [("model", 0.5), ("handcrafted", 1)]
    assert choice.spec.size == 128
    assert choice.files == {sha256_of(file): file}


def test_a_model_that_is_not_there_is_a_missing_component(tmp_path):
    for backbone in (tmp_path / "none.keras", f"handcrafted+{tmp_path / 'none.keras'}"):
        with pytest.raises(MissingComponentError) as refused:
            choose_encoder(str(backbone))
        assert "none.keras" in refused.value.message
        assert "train" in refused.value.hint


def test_a_folder_or_a_fifo_in_the_place_of_a_model_is_a_missing_component_and_not_waited_for(tmp_path):
    (tmp_path / "folder.keras").mkdir()
    os.mkfifo(tmp_path / "fifo.keras")

    for name in ("folder.keras", "fifo.keras"):
        with pytest.raises(MissingComponentError, match=name):
            choose_encoder(str(tmp_path / name))


def test_weights_beside_a_model_are_refused(tmp_path):
    file = model_of(tmp_path / "shoes.keras")

    with pytest.raises(UsageError, match="--weights"):
        choose_encoder(str(file), file)


# --- what is done to images first


def test_steps_are_spelled_in_one_way():
    spec = choose_encoder("handcrafted", steps=" binarize=otsu , grayscale ").spec

    assert spec.steps == "grayscale,binarize=otsu"
    assert spec.fingerprint != spec_of("handcrafted").fingerprint


def test_steps_of_a_hybrid_are_the_whole_s_and_not_its_parts():
    spec = choose_encoder("handcrafted+vgg16", steps="grayscale").spec

    assert spec.steps == "grayscale"
    assert [part.spec.steps for part in spec.parts] == ["", ""]


def test_a_model_brings_its_steps_with_it(tmp_path):
    file = model_of(tmp_path / "shoes.keras", steps="grayscale")

    assert choose_encoder(str(file)).spec.steps == "grayscale"
    assert choose_encoder(str(file), steps="grayscale").spec.steps == "grayscale"
    assert choose_encoder(f"{file}+handcrafted").spec.steps == "grayscale"


@pytest.mark.parametrize("steps", ["deskew", "grayscale,deskew"])
def test_a_model_and_other_steps_than_its_own_do_not_go_together(tmp_path, steps):
    file = model_of(tmp_path / "shoes.keras", steps="grayscale")

    with pytest.raises(UsageError) as refused:
        choose_encoder(str(file), steps=steps)

    assert "grayscale" in refused.value.message
    assert "trained" in refused.value.hint


def test_models_of_other_steps_or_another_fit_do_not_go_together(tmp_path):
    plain = model_of(tmp_path / "plain.keras")
    gray = model_of(tmp_path / "gray.keras", steps="grayscale")
    black = model_of(tmp_path / "black.keras", steps="binarize=otsu")
    cropped = model_of(tmp_path / "cropped.keras", fit="crop")

    for backbone in (f"{gray}+{black}", f"{plain}+{cropped}", f"{cropped}+handcrafted"):
        with pytest.raises(UsageError, match="alike"):
            choose_encoder(backbone)


@pytest.mark.parametrize("steps", ["paint", "rotate", "rotate=1000", "grayscale,grayscale", "binarize=256"])
def test_steps_that_do_not_exist_are_a_usage_error(steps):
    with pytest.raises(UsageError):
        choose_encoder("handcrafted", steps=steps)


# --- whatever is asked for


words = st.sampled_from([*TABLE, "+", "=", "=0.3", "=-1", " ", "\0", ".keras", "/", "..", "~", "\udce9", "\ud800", "é"])
texts = st.lists(words | st.text(max_size=5), max_size=12).map("".join)


@settings(deadline=None, max_examples=300)
@given(texts, st.none() | st.just(Path("no.weights.h5")), texts)
@example("a" * 5000 + ".keras", None, "")
@example("\0.keras", None, "")
@example("\ud800.keras", None, "")
@example("handcrafted", None, "=,=")
def test_whatever_is_asked_for_is_an_encoder_or_one_of_two_errors(backbone, weights, steps):
    with contextlib.suppress(UsageError, MissingComponentError):
        choice = choose_encoder(backbone, weights, steps=steps)
        assert EncoderSpec.from_json(choice.spec.to_json()) == choice.spec
        assert choice.spec == choose_encoder(backbone, weights, steps=choice.spec.steps).spec
