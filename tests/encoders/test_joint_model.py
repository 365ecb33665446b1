"""A joint image-text model of two ONNX files: from its folder into an index, and what is wrong with it found early."""

import json
import shutil
from dataclasses import replace

import cv2
import numpy as np
import onnx
import pytest
from onnx import external_data_helper

from imgsearch import build_index
from imgsearch.build import generation
from imgsearch.encoders.choice import choose_encoder
from imgsearch.encoders.joint_model import export_text_tower, find_joint_model
from imgsearch.encoders.spec import EncoderSpec, Preprocessing
from imgsearch.errors import ImgsearchError, UsageError
from imgsearch.store import generations
from imgsearch.text.tower import check_text_tower, open_text_tower
from tiny_joint import SIDE, TOKENIZER, VOCABULARY, write_joint

pytestmark = pytest.mark.usefixtures("quick_builds")

COLORS = {"red": (0, 0, 255), "green": (0, 255, 0), "blue": (255, 0, 0)}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A joint model. Not to be changed: copy it."""
    return write_joint(tmp_path_factory.mktemp("models") / "tiny-clip")


@pytest.fixture(scope="module")
def built(tmp_path_factory, model):
    """A folder with a catalog and an index of it by the model. Not to be changed: copy it."""
    folder = tmp_path_factory.mktemp("built")
    for number in range(12):
        name = list(COLORS)[number % 3]
        color = np.array(COLORS[name]) * (0.7 + 0.02 * number)
        paint(folder / "catalog" / f"{name}-{number}.png", color)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(generation, "SMALLEST_CATALOG", 4)  # others would learn a projection of so many
        build_index(folder / "catalog", folder / "index", backbone=str(model))
    return folder


def paint(file, color):
    file.parent.mkdir(exist_ok=True)
    cv2.imwrite(str(file), np.broadcast_to(color, (20, 20, 3)).astype(np.uint8))


def tower_of(index):
    manifest = generations.read_manifest(index)
    return open_text_tower(manifest.encoder, index / manifest.encoder_folder)


def found_by(index, text, contents):
    """The paths of an index from the nearest to a text."""
    rows = {path: np.frombuffer(vector, np.float32) for path, (_, vector) in contents(index).items()}
    (asked,) = tower_of(index).encode([text])
    return sorted(rows, key=lambda path: -float(asked @ rows[path]))


def test_words_find_the_pictures_they_name_in_an_index_that_was_moved_and_whose_model_is_gone(
    built, tmp_path, model, contents, imgsearch
):
    index = shutil.move(shutil.copytree(built / "index", tmp_path / "index"), tmp_path / "elsewhere")

    assert all(path.startswith("red-") for path in found_by(index, "a red one", contents)[:4])
    assert all(path.startswith("blue-") for path in found_by(index, "Blue", contents)[:4])
    manifest = generations.read_manifest(index)
    assert (manifest.encoder.name, manifest.encoder.has_text_tower) == ("tiny-clip", True)
    assert {"text.xml", "text.bin", "tokenizer.json"} <= {
        file.name for file in (index / manifest.encoder_folder).iterdir()
    }
    assert imgsearch("check", "--index", index).returncode == 0


def test_words_are_compared_with_pictures_though_items_have_none(built, tmp_path, imgsearch):
    index = shutil.copytree(built / "index", tmp_path / "index")
    assert imgsearch("build-index", built / "catalog", "--index", index, "--text", "none").returncode == 0

    asked = imgsearch("query", "--text", "red", "--index", index, "-k", "4", "--format", "json")

    assert (asked.returncode, asked.stderr) == (0, "")
    hits = json.loads(asked.stdout)[0]["hits"]
    assert all(hit["path"].startswith("red-") and set(hit["matched"]) == {"text"} for hit in hits)


def test_images_are_searched_in_the_space_of_the_model_so_that_texts_lie_in_it_too(built):
    manifest = generations.read_manifest(built / "index")

    assert (manifest.dims, manifest.projection_count, manifest.adaptation) == (3, 0, None)


def test_an_index_of_a_joint_model_is_asked_updated_checked_and_rolled_back(built, tmp_path, imgsearch, contents):
    shutil.copytree(built, tmp_path, dirs_exist_ok=True)
    index, catalog = tmp_path / "index", tmp_path / "catalog"
    before = contents(index)

    asked = imgsearch("query", catalog / "blue-2.png", "--index", index, "-k", "1", "--format", "paths")
    assert (asked.returncode, asked.stdout) == (0, "blue-2.png\n")
    paint(catalog / "red-new.png", (10, 10, 250))
    assert imgsearch("build-index", catalog, "--index", index).returncode == 0
    assert "red-new.png" in found_by(index, "red", contents)[:5]
    assert imgsearch("check", "--index", index).returncode == 0
    assert imgsearch("rollback", "--index", index).returncode == 0
    assert contents(index) == before


def test_texts_get_unit_vectors_whatever_they_hold(built):
    tower = tower_of(built / "index")
    texts = ["", "red", "\x00", "\ud800", "🟥", "red" * 4000, "\u202e أحمر", '" OR *', "<|endoftext|>"]

    vectors = tower.encode(texts)

    assert (vectors.shape, vectors.dtype) == ((len(texts), 3), np.float32)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1)
    assert tower.encode([]).shape == (0, 3)
    assert (tower.encode(["RED"]) == tower.encode(["red"])).all()


def exported(folder, target):
    """Export the part for texts of a joint model, as for images of three numbers."""
    model = find_joint_model(folder)
    preprocessing = Preprocessing(SIDE, "stretch", SIDE)
    spec = EncoderSpec(
        "tiny", "onnx", SIDE, "stretch", 3, "", preprocessing=preprocessing, text_weights=model.text_weights
    )
    target.mkdir()
    export_text_tower(model, spec, target)
    return spec


@pytest.mark.parametrize("length", [4, 40])
def test_a_network_that_takes_so_many_tokens_gets_so_many(tmp_path, length):
    spec = exported(write_joint(tmp_path / "model", length=length), tmp_path / "out")

    red, cut = open_text_tower(spec, tmp_path / "out").encode(["red", "x y z red"])

    assert red[0] > 0 > red[1]
    assert (cut[1] > 0) == (length == 4)  # the word was beyond what it takes


def test_a_network_that_does_not_take_tokens_alone_is_refused(tmp_path):
    folder = write_joint(tmp_path / "model", length=2)
    spec = exported(folder, tmp_path / "out")

    with pytest.raises(UsageError, match=r"expected a text tower that takes input_ids .* found .*input_ids \[\?,2\]"):
        check_text_tower(spec, tmp_path / "out")


def test_ids_beyond_the_table_of_the_network_are_refused(tmp_path):
    spec = exported(write_joint(tmp_path / "model", tokens=400), tmp_path / "out")

    with pytest.raises(UsageError, match=f"knows 400 tokens, its tokenizer ids up to {len(VOCABULARY) - 1}"):
        check_text_tower(spec, tmp_path / "out")


def test_another_tokenizer_is_refused_and_named(tmp_path):
    folder = write_joint(tmp_path / "model")
    (folder / "tokenizer.json").write_text(json.dumps({**TOKENIZER, "model": {"type": "WordPiece", "vocab": {}}}))
    spec = exported(folder, tmp_path / "out")

    with pytest.raises(UsageError, match=r"expected model\.type to be BPE, found 'WordPiece'"):
        check_text_tower(spec, tmp_path / "out")


def test_parts_of_other_dimensions_end_a_build_before_it_begins(built, tmp_path, imgsearch):
    folder = write_joint(tmp_path / "model", dims=5)

    done = imgsearch("build-index", built / "catalog", "--index", tmp_path / "index", "--backbone", folder)

    assert done.returncode == 2
    assert "expected an embedding of texts of 3 numbers, as of images, found [?,5]" in done.stderr
    assert not (tmp_path / "index" / "manifest.json").exists()


def without(name):
    return lambda folder: (folder / name).unlink()


def cut(name):
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:-20])


def with_weights_outside(folder):
    (folder.parent / "secret").write_bytes(bytes(100_000))
    file = folder / "onnx" / "text_model.onnx"
    network = onnx.load(file)
    for tensor in network.graph.initializer:
        external_data_helper.set_external_data(tensor, "../../secret")
        tensor.ClearField("raw_data")
    file.write_bytes(network.SerializeToString())


@pytest.mark.parametrize(
    ("change", "code", "words"),
    [
        (without("onnx/text_model.onnx"), 8, "found no onnx/text_model.onnx"),
        (without("onnx/vision_model.onnx"), 8, "found no onnx/vision_model.onnx"),
        (without("tokenizer.json"), 8, "found no tokenizer.json"),
        (without("preprocessor_config.json"), 2, "preprocessor_config.json"),
        (cut("onnx/text_model.onnx"), 2, "text_model.onnx is not an ONNX file, or is damaged"),
        (cut("onnx/vision_model.onnx"), 2, "vision_model.onnx is not an ONNX file, or is damaged"),
        (with_weights_outside, 2, "text_model.onnx"),
    ],
)
def test_what_is_missing_damaged_or_reaches_out_of_its_folder_is_refused_before_anything_runs(
    tmp_path, model, change, code, words
):
    folder = shutil.copytree(model, tmp_path / "model")
    change(folder)

    with pytest.raises(ImgsearchError) as caught:
        choose_encoder(str(folder))

    assert caught.value.exit_code == code
    assert words in caught.value.message


def test_what_openvino_says_in_bytes_that_are_no_text_is_refused_too(tmp_path):
    folder = write_joint(tmp_path / "model")
    network = folder / "onnx" / "text_model.onnx"
    spec = exported(folder, tmp_path / "before")
    network.write_bytes(network.read_bytes().replace(b"Gather", b"Gat\xff\xfer"))

    with pytest.raises(UsageError, match=r"OpenVINO cannot read .*text_model\.onnx"):
        export_text_tower(
            model := find_joint_model(folder), replace(spec, text_weights=model.text_weights), tmp_path / "before"
        )


def test_files_may_lie_in_the_folder_itself_and_any_change_of_one_makes_another_encoder(tmp_path, model):
    folder = shutil.copytree(model, tmp_path / "tiny-clip")
    for file in (folder / "onnx").iterdir():
        file.rename(folder / file.name)
    before = find_joint_model(folder).text_weights
    assert before == find_joint_model(model).text_weights

    with (folder / "tokenizer.json").open("a") as file:
        file.write("\n")

    assert find_joint_model(folder).text_weights != before


def test_a_folder_of_the_name_of_an_encoder_does_not_stand_for_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "handcrafted").mkdir()

    assert choose_encoder("handcrafted").spec.kind == "handcrafted"


def test_a_folder_whose_name_ends_as_that_of_a_file_is_a_joint_model(tmp_path):
    assert choose_encoder(str(write_joint(tmp_path / "a+b=0.3.onnx"))).spec.has_text_tower


def test_a_joint_model_stands_by_itself_and_is_not_adapted(built, model, tmp_path, imgsearch):
    with pytest.raises(UsageError, match="a model of images and texts stands by itself"):
        choose_encoder(f"{model}+handcrafted")

    done = imgsearch("build-index", built / "catalog", "--index", tmp_path / "i", "--backbone", model, "--adapt")

    assert (done.returncode, "--adapt is not for tiny-clip" in done.stderr) == (2, True)


def test_only_networks_have_a_text_tower_and_what_an_index_says_of_it_is_read_again():
    preprocessing = Preprocessing(SIDE, "stretch", SIDE)
    spec = EncoderSpec("tiny", "onnx", SIDE, "stretch", 3, "", preprocessing=preprocessing, text_weights="sha256:1")

    assert EncoderSpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec
    assert replace(spec, text_weights="sha256:2").fingerprint != spec.fingerprint
    assert not choose_encoder("handcrafted").spec.has_text_tower
    with pytest.raises(ValueError, match="has no text tower"):
        EncoderSpec("x", "handcrafted", SIDE, "pad", 3, "", text_weights="sha256:1")
