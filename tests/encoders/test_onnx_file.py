"""Encoders from ONNX files: what is let in, what is fed to them, and that an index is built with one."""

import contextlib
import json
import os
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from imgsearch.encoders.choice import choose_encoder
from imgsearch.encoders.export import onnx_dims
from imgsearch.encoders.onnx_file import read_onnx
from imgsearch.encoders.onnx_graph import export_onnx, measured_dims
from imgsearch.encoders.onnx_input import PREPROCESSOR_FILE, preprocessing_of, read_preprocessor
from imgsearch.encoders.runtime import GRAPH_FILE, Encoder, encode, open_encoder
from imgsearch.encoders.spec import EncoderSpec, Preprocessing
from imgsearch.errors import ImgsearchError, MissingComponentError, UsageError
from onnx_models import DIMS, IMAGES, SIDE, embeddings_of, network, node, saved, saved_apart, tensor, toy

pytestmark = pytest.mark.usefixtures("quick_builds")

CLIP = {
    "do_resize": True,
    "size": {"shortest_edge": SIDE},
    "do_center_crop": True,
    "crop_size": {"height": SIDE, "width": SIDE},
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [0.48, 0.46, 0.41],
    "image_std": [0.27, 0.26, 0.28],
}


def configured(folder: Path, **facts: object) -> Path:
    (folder / PREPROCESSOR_FILE).write_text(json.dumps(CLIP | facts))
    return folder / PREPROCESSOR_FILE


def exported(file: Path, given: str, folder: Path) -> Encoder:
    """An encoder of a file, exported in this process."""
    read = read_onnx(file)
    facts = preprocessing_of(read, given)
    dims = measured_dims(read, facts)
    spec = EncoderSpec(file.name, "onnx", facts.fitted, facts.fit, dims, f"sha256:{read.sha256}", preprocessing=facts)
    export_onnx(read, spec, folder / GRAPH_FILE)
    return open_encoder(spec, folder, with_map=True)


def pixels(count: int = 3, side: int = SIDE) -> np.ndarray:
    return np.random.default_rng(2).integers(0, 256, (count, side, side, 3), np.uint8)


# --- what it computes


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [
        *((IMAGES, np.float32), (("n", SIDE, SIDE, 3), np.float32), ((1, 3, SIDE, SIDE), np.float32)),
        *((("n", "c", "h", "w"), np.float32), (IMAGES, np.float16)),
    ],
)
def test_an_encoder_gives_what_numpy_computes(tmp_path, shape, dtype):
    file = saved(toy(shape, dtype=dtype), tmp_path / "toy.onnx")
    configured(tmp_path)
    mean, std = CLIP["image_mean"], CLIP["image_std"]

    encoder = exported(file, "", tmp_path)

    expected = embeddings_of((pixels() / 255 - mean) / std)
    assert np.abs(encode(encoder, pixels()) - expected).max() < (1e-4 if dtype is np.float32 else 2e-3)
    assert encoder.spec.fit == "crop"
    one = encoder.encode_with_features(pixels()[1])
    assert one.features is None
    assert np.abs(one.embedding - expected[1]).max() < 2e-3


def test_of_a_larger_square_the_middle_is_seen(tmp_path):
    file = saved(toy(), tmp_path / "toy.onnx")
    configured(tmp_path, size={"shortest_edge": SIDE + 7}, rescale_factor=0.5, image_mean=4, image_std=3)

    encoder = exported(file, "", tmp_path)

    assert encoder.spec.size == SIDE + 7
    large = pixels(side=SIDE + 7)
    middle = large[:, 3 : 3 + SIDE, 3 : 3 + SIDE]
    assert np.abs(encode(encoder, large) - embeddings_of((middle * 0.5 - 4) / 3)).max() < 1e-4


def test_a_network_of_bytes_gets_pixels_as_they_are(tmp_path):
    file = saved(toy(dtype=np.uint8), tmp_path / "toy.onnx")

    encoder = exported(file, "fit=stretch", tmp_path)

    assert np.abs(encode(encoder, pixels()) - embeddings_of(pixels())).max() < 1e-4
    with pytest.raises(UsageError, match="as they are"):
        preprocessing_of(read_onnx(file), "mean=0,std=1")


def with_outputs(*outputs: tuple[str, str]) -> onnx.ModelProto:
    """A network with outputs of the kinds `row`, `map` and `tokens`."""
    made = {"row": node("Flatten", "fields", "row"), "map": node("Identity", "fields", "map")}
    made["tokens"] = node("Reshape", "fields shape", "tokens")
    nodes = [node("AveragePool", "images", "fields", kernel_shape=[8, 8], strides=[8, 8])]
    nodes += [each for kind, each in made.items() if kind in {kind for _, kind in outputs}]
    nodes += [node("Identity", kind, name) for name, kind in outputs]
    shape = np.array([-1, 3, 16])
    return network(nodes, [tensor("images", *IMAGES)], [tensor(name) for name, _ in outputs], shape=shape)


@pytest.mark.parametrize(
    ("outputs", "dims"),
    [
        *(((("last_hidden_state", "tokens"), ("pooler_output", "row")), 48), ((("logits", "row"),), 48)),
        *(((("other", "row"), ("image_embeds", "row")), 48), ((("features", "map"),), 3)),
        *(((("features", "map"), ("any", "row")), 48), ((("pooler_output", "map"), ("any", "row")), 3)),
    ],
)
def test_of_several_outputs_the_embedding_is_taken(tmp_path, outputs, dims):
    read = read_onnx(saved(with_outputs(*outputs), tmp_path / "toy.onnx"))

    assert measured_dims(read, preprocessing_of(read, "mean=0,std=1")) == dims


@pytest.mark.parametrize("outputs", [(("last_hidden_state", "tokens"),), (("first", "row"), ("second", "row"))])
def test_outputs_that_are_no_embedding_or_several_are_named(tmp_path, outputs):
    read = read_onnx(saved(with_outputs(*outputs), tmp_path / "toy.onnx"))

    with pytest.raises(UsageError, match=rf"expected an embedding \(N, dims\).*found '{outputs[0][0]}'"):
        measured_dims(read, preprocessing_of(read, "mean=0,std=1"))


@pytest.mark.parametrize(
    ("nodes", "words"),
    [
        ([node("Reshape", "images one", "embedding")], "several images at once|cannot read|for each image"),
        (
            [node("Flatten", "images", "f"), node("ReduceMax", "f", "m", axes=[0]), node("Sub", "f m", "embedding")],
            "own",
        ),
        ([node("Gelu", "images", "embedding", domain="com.microsoft.none")], "'Gelu'"),
        ([node("Unheard", "images", "embedding", domain="com.microsoft")], "OpenVINO cannot read.*Unheard"),
    ],
)
def test_a_network_that_gives_no_embedding_of_each_image_is_refused(tmp_path, nodes, words):
    model = network(nodes, [tensor("images", *IMAGES)], [tensor("embedding")], one=np.array([1, -1]))
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    file = saved(model, tmp_path / "toy.onnx")

    with pytest.raises(UsageError, match=words):
        exported(file, "mean=0,std=1", tmp_path)


def test_a_network_that_asks_for_a_terabyte_is_refused_in_a_process_of_its_own(tmp_path):
    nodes = [
        node("Flatten", "images", "flat"),
        node("ReduceMean", "flat", "one", keepdims=0),
        node("Expand", "one sides", "huge"),
        node("ReduceMax", "huge", "most", keepdims=0),
        node("Mul", "flat most", "embedding"),
    ]
    model = network(nodes, [tensor("images", *IMAGES)], [tensor("embedding")], sides=np.array([1 << 19, 1 << 19]))
    read = read_onnx(saved(model, tmp_path / "toy.onnx"))

    with pytest.raises(ImgsearchError):
        onnx_dims(read, preprocessing_of(read, "mean=0,std=1"))


# --- which files are let in


def test_what_a_file_takes_and_gives_is_read(tmp_path):
    read = read_onnx(saved(toy(), tmp_path / "toy.onnx"))

    assert read.weights == ()
    assert [str(each) for each in (*read.inputs, *read.outputs)] == [
        f"'images' float32 (?, 3, {SIDE}, {SIDE})",
        "'embedding' float32 (?, ?)",
    ]


def test_every_truncated_file_is_refused(tmp_path):
    content = toy().SerializeToString()
    file = tmp_path / "toy.onnx"
    for length in (*range(200), *range(200, len(content), 97), len(content) - 1):
        file.write_bytes(content[:length])
        with pytest.raises(UsageError, match="not an ONNX file, or is damaged"):
            read_onnx(file)


@given(data=st.data())
def test_bytes_of_any_kind_are_read_or_refused(data, tmp_path_factory):
    content = bytearray(toy().SerializeToString())
    for place, byte in data.draw(st.lists(st.tuples(st.integers(0, len(content) - 1), st.integers(0, 255)))):
        content[place] = byte
    file = tmp_path_factory.getbasetemp() / "any.onnx"
    file.write_bytes(data.draw(st.sampled_from([bytes(content), bytes(content[:40])]) | st.binary()))
    with contextlib.suppress(UsageError, MissingComponentError):
        read_onnx(file)


def test_weights_beside_the_file_count_as_part_of_it(tmp_path):
    file = saved_apart(toy(), tmp_path / "a" / "toy.onnx")
    before = read_onnx(file)
    assert before.weights == ("weights.bin",)
    assert before.size > WEIGHT_BYTES

    changed = bytearray((tmp_path / "a" / "weights.bin").read_bytes())
    changed[0] ^= 1
    (tmp_path / "a" / "weights.bin").write_bytes(changed)

    assert read_onnx(file).sha256 != before.sha256


WEIGHT_BYTES = 4 * 48 * DIMS


@pytest.mark.parametrize(
    "location", ["../weights.bin", "{tmp}/weights.bin", "inner/weights.bin", "link.bin", "*/_ORT_MEM_ADDR_/*", ".", ""]
)
def test_weights_elsewhere_are_refused(tmp_path, location):
    folder = tmp_path / "model"
    file = saved_apart(toy(), folder / "toy.onnx", location.format(tmp=tmp_path))
    for elsewhere in (tmp_path, folder / "inner", folder / "*/_ORT_MEM_ADDR_"):
        elsewhere.mkdir(parents=True, exist_ok=True)
        shutil.copy(folder / "weights.bin", elsewhere)
    (folder / "*/_ORT_MEM_ADDR_/weights.bin").rename(folder / "*/_ORT_MEM_ADDR_/*")
    (folder / "link.bin").symlink_to(tmp_path / "weights.bin")

    with pytest.raises(UsageError, match="in files beside it"):
        read_onnx(file)


def test_weights_that_are_missing_or_too_short_are_named(tmp_path):
    file = saved_apart(toy(), tmp_path / "toy.onnx")
    os.truncate(tmp_path / "weights.bin", WEIGHT_BYTES - 1)
    with pytest.raises(UsageError, match=rf"'weights.bin' has {WEIGHT_BYTES - 1:,} bytes, expected {WEIGHT_BYTES:,}"):
        read_onnx(file)
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(MissingComponentError, match=r"'weights\.bin', which is not beside it"):
        read_onnx(file)
    (tmp_path / "weights.bin").mkdir()
    with pytest.raises(MissingComponentError, match=r"'weights\.bin'"):
        read_onnx(file)


def test_weights_in_a_file_larger_than_any_network_are_refused(tmp_path):
    file = saved_apart(toy(), tmp_path / "toy.onnx")
    os.truncate(tmp_path / "weights.bin", 5_000_000_000)

    with pytest.raises(UsageError, match="weights of more than"):
        read_onnx(file)


def nested(depth: int) -> onnx.GraphProto:
    inner = [node("If", "x", "y", then_branch=nested(depth - 1))] if depth else [node("Foo", "x", "y", domain="evil")]
    return helper.make_graph(inner, "graph", [], [])


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda model: model.graph.node.append(node("Run", "x", "y", domain="evil")), "found 'Run' of 'evil'"),
        (lambda model: model.graph.CopyFrom(nested(3)), "found 'Foo' of 'evil'"),
        (lambda model: model.graph.CopyFrom(nested(30)), "more than 8 deep"),
        (lambda model: model.functions.add(name="Run", domain="evil"), "functions"),
        (lambda model: model.graph.initializer[0].dims.append(1 << 40), "numbers in 4,608 bytes: 'weights'"),
        (lambda model: model.graph.initializer[0].dims.append(-1), "numbers in 4,608 bytes"),
        (lambda model: model.graph.initializer[0].dims.extend([1] * 20), "22 sides"),
        (lambda model: model.graph.sparse_initializer.add(), "sparse"),
        (lambda model: model.ClearField("opset_import"), "version"),
    ],
)
def test_a_file_that_could_do_more_than_compute_is_refused(tmp_path, spoil, words):
    model = toy()
    spoil(model)

    with pytest.raises(UsageError, match=words):
        read_onnx(saved(model, tmp_path / "toy.onnx"))


def test_a_file_of_too_many_fields_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("imgsearch.encoders.onnx_file._MOST_FIELDS", 1000)
    file = tmp_path / "toy.onnx"
    file.write_bytes(b"\x08\x01" * 1001)
    with pytest.raises(UsageError, match="too many fields"):
        read_onnx(file)


def test_what_is_no_file_is_missing(tmp_path):
    os.mkfifo(tmp_path / "pipe.onnx")
    for name in ("pipe.onnx", "nothing.onnx", "."):
        with pytest.raises(MissingComponentError, match="there is no ONNX file"):
            read_onnx(tmp_path / name)


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ([tensor("input_ids", "n", "t", kind=TensorProto.INT64)], "RGB images.*found 'input_ids' int64"),
        ([tensor("input_ids", "n", "t", kind=TensorProto.INT64), tensor("images", *IMAGES)], "found 2: 'input_ids'"),
        ([tensor("images", "n", 1, SIDE, SIDE)], "RGB images"),
        ([tensor("images", "n", SIDE, SIDE, "c")], "RGB images"),
        ([tensor("images", "n", 3, SIDE, 2 * SIDE)], "square"),
        ([], "found 0: none"),
    ],
)
def test_a_network_of_something_else_than_images_is_refused(tmp_path, inputs, words):
    model = toy()
    del model.graph.input[:]
    model.graph.input.extend(inputs)
    read = read_onnx(saved(model, tmp_path / "toy.onnx"))

    with pytest.raises(UsageError, match=words):
        preprocessing_of(read, "mean=0,std=1")


# --- what is fed to them


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        ({}, (SIDE, "crop", SIDE)),
        ({"size": SIDE, "crop_size": SIDE}, (SIDE, "crop", SIDE)),
        ({"size": {"shortest_edge": 40}, "crop_size": 32}, (40, "crop", 32)),
        ({"size": {"height": 40, "width": 40}}, (40, "stretch", SIDE)),
        ({"size": {"height": 40, "width": 40}, "do_center_crop": False}, (40, "stretch", 40)),
        ({"size": 40, "do_center_crop": None, "crop_size": None, "do_resize": None}, (40, "stretch", 40)),
        ({"size": {"longest_edge": 40}, "do_center_crop": False}, (40, "pad", 40)),
        ({"size": {"shortest_edge": 224}, "do_center_crop": False, "crop_pct": 0.875}, (256, "crop", 224)),
        ({"size": {"shortest_edge": 384}, "do_center_crop": False, "crop_pct": 0.875}, (384, "stretch", 384)),
        ({"size": None}, (SIDE, "stretch", SIDE)),
    ],
)
def test_sizes_of_usual_image_processors_are_read(tmp_path, facts, expected):
    found = read_preprocessor(configured(tmp_path, **facts))

    assert (found.fitted, found.fit, found.size) == expected


def test_numbers_of_usual_image_processors_are_read(tmp_path):
    def numbers(**facts: object) -> tuple[object, ...]:
        found = read_preprocessor(configured(tmp_path, **facts))
        return found.scale, found.mean, found.std

    assert numbers() == (1 / 255, (0.48, 0.46, 0.41), (0.27, 0.26, 0.28))
    assert numbers(do_rescale=False, image_mean=100, image_std=[1, 2, 3]) == (1, (100,) * 3, (1, 2, 3))
    assert numbers(do_normalize=False) == (1 / 255, (0,) * 3, (1,) * 3)


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({"size": {"height": 40, "width": 20}}, "square"),
        ({"size": {"shortest_edge": 20}}, "middle"),
        ({"size": 10**400}, "from 1 to 4,096"),
        ({"size": None, "crop_size": None, "do_center_crop": None}, "size"),
        ({"size": {"shortest_edge": "224"}}, "size"),
        ({"image_mean": None}, "image_mean"),
        ({"image_mean": [1, 2]}, "image_mean"),
        ({"image_mean": [1, 2, float("nan")]}, "finite"),
        ({"image_mean": [10**400, 1, 1]}, "too large"),
        ({"image_std": 0}, "std"),
        ({"rescale_factor": "1/255"}, "rescale_factor"),
        ({"do_rescale": 1}, "do_rescale"),
        ({"do_flip_channel_order": True}, "do_flip_channel_order=True, which is not supported"),
        ({"do_resize": False}, "do_resize=False, which is not supported"),
        ({"crop_pct": 1e-300}, "size / crop_pct"),
    ],
)
def test_what_no_image_processor_says_is_refused(tmp_path, facts, words):
    with pytest.raises(UsageError, match=words):
        read_preprocessor(configured(tmp_path, **facts))


@pytest.mark.parametrize("content", [b"", b"[]", b"\xff", b"{", b"[" * 100_000, b'"text"'])
def test_a_config_that_is_none_is_refused(tmp_path, content):
    (tmp_path / PREPROCESSOR_FILE).write_bytes(content)
    with pytest.raises(UsageError, match="does not say how images become the input"):
        read_preprocessor(tmp_path / PREPROCESSOR_FILE)


def test_options_say_what_the_config_does_not(tmp_path):
    read = read_onnx(saved(toy(), tmp_path / "onnx" / "toy.onnx"))
    usual = Preprocessing(SIDE, "pad", SIDE, 1 / 255, (0.5,) * 3, (0.4, 0.5, 0.6))
    assert preprocessing_of(read, " mean=0.5, std=0.4/0.5/0.6") == usual

    configured(tmp_path, size={"shortest_edge": 40})  # in the folder above

    of_config = Preprocessing(40, "crop", SIDE, 1 / 255, (0.48, 0.46, 0.41), (0.27, 0.26, 0.28))
    assert preprocessing_of(read) == of_config
    assert preprocessing_of(read, "mean=0.5,std=0.4/0.5/0.6,fit=pad,size=32") == usual
    assert preprocessing_of(read, "scale=1").scale == 1
    configured(tmp_path, do_flip_channel_order=True)
    assert preprocessing_of(read, "mean=0.5,std=0.4/0.5/0.6,fit=pad,size=32") == usual


@pytest.mark.parametrize(
    "given",
    [
        *("mean", "mean=", "mean=x,std=1", "mean=1/2,std=1", "mean=1,mean=1", "size=0,mean=0,std=1", "fit=round"),
        *("size=1e3", "weights=3", "mean=nan,std=1", "mean=0,std=0", "mean=0,std=-1", "mean=0,std=1,scale=inf", ","),
        *("size=64,mean=0,std=1", "mean=0", ""),
    ],
)
def test_options_that_say_nothing_of_use_are_refused(tmp_path, given):
    read = read_onnx(saved(toy(), tmp_path / "toy.onnx"))
    with pytest.raises(UsageError, match="expected"):
        preprocessing_of(read, given)


def test_the_fingerprint_knows_the_network_and_what_it_is_fed(tmp_path, monkeypatch):
    monkeypatch.setattr("imgsearch.encoders.choice._dims", measured_dims)  # in this process

    def chosen(name: str, **options: object) -> EncoderSpec:
        return choose_encoder(os.fspath(tmp_path / name), **options).spec

    saved(toy(), tmp_path / "toy.onnx")
    configured(tmp_path)
    spec = chosen("toy.onnx")

    assert EncoderSpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec
    assert chosen("toy.onnx").fingerprint == spec.fingerprint
    assert chosen("toy.onnx", onnx_input="fit=pad").fingerprint != spec.fingerprint
    configured(tmp_path, image_std=0.25)
    assert chosen("toy.onnx").fingerprint != spec.fingerprint
    configured(tmp_path)
    saved(toy(dims=DIMS - 1), tmp_path / "toy.onnx")
    assert (chosen("toy.onnx").dims, chosen("toy.onnx").fingerprint != spec.fingerprint) == (DIMS - 1, True)


# --- an index


def test_an_index_is_built_asked_updated_checked_and_rolled_back(imgsearch, catalog, tmp_path):
    saved(toy(("n", "c", "h", "w")), tmp_path / "toy.onnx")
    configured(tmp_path)
    photo = shutil.copy(catalog / "cups/cups-00.png", tmp_path / "photo.png")
    with open(photo, "ab") as file:
        file.write(b"\0")  # so that its sha256 is not in the index, and it is encoded

    def hits() -> list[str]:
        asked = imgsearch("query", "photo.png", "--format", "json", "--top-k", 3)
        assert asked.returncode == 0, asked.stderr
        return [hit["path"] for hit in json.loads(asked.stdout)[0]["hits"]]

    built = imgsearch("build-index", "catalog", "--backbone", "toy.onnx", "--precision", "f32")
    assert (built.returncode, "24 embedded" in built.stdout) == (0, True), built.stderr
    assert hits()[0] == "cups/cups-00.png"

    (catalog / "cups/cups-00.png").unlink()
    (tmp_path / "toy.onnx").unlink()  # the index has its copy
    for options in ((), ("--precision", "bf16")):
        updated = imgsearch("build-index", "catalog", *options)
        assert (updated.returncode, "23 images" in updated.stdout) == (0, True), updated.stderr
    assert "cups/cups-00.png" not in hits()
    assert imgsearch("check").returncode == 0

    saved(toy(dims=DIMS - 4), tmp_path / "toy.onnx")  # of another dimension: all is embedded again
    again = imgsearch(
        "build-index", "catalog", "--backbone", "toy.onnx+handcrafted:color=0.3", "--onnx-input", "fit=pad"
    )
    assert (again.returncode, "23 embedded" in again.stdout) == (0, True), again.stderr
    assert len(hits()) == 3
    assert imgsearch("rollback").returncode == 0
    assert len(hits()) == 3
    assert "toy.onnx, bf16" in imgsearch("info").stdout


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (("--backbone", "nothing.onnx"), 8, "there is no ONNX file"),
        (("--backbone", "cut.onnx"), 2, "is not an ONNX file, or is damaged"),
        (("--backbone", "toy.onnx"), 2, "expected preprocessor_config.json beside toy.onnx, or --onnx-input"),
        (("--backbone", "toy.onnx", "--onnx-input", "size=64,mean=0,std=1"), 2, "takes, found a size of 64"),
        (("--backbone", "handcrafted", "--onnx-input", "size=64"), 2, "--onnx-input has no effect on handcrafted"),
        (("--onnx-input", "size=64"), 2, "--onnx-input has no effect without --backbone"),
        (("--backbone", "handcrafted", "--onnx-input", ""), 2, "expected a value for --onnx-input"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_done(imgsearch, drawn, tmp_path, options, code, words):
    content = saved(toy(), tmp_path / "toy.onnx").read_bytes()
    (tmp_path / "cut.onnx").write_bytes(content[:-100])

    refused = imgsearch("build-index", drawn, *options)

    assert (refused.returncode, words in refused.stderr) == (code, True), refused.stderr
    assert not list((tmp_path / ".imgsearch").glob("[!l]*"))  # a lock at most


def test_a_network_of_onnx_is_not_trained(imgsearch, drawn):
    for objective in ("metric", "adapt", "detect"):
        refused = imgsearch("train", drawn, "-o", "out.keras", "--objective", objective, "--architecture", "toy.onnx")
        assert (refused.returncode, "must be a network of Keras" in refused.stderr) == (2, True), refused.stderr
