"""Networks in int8: which parts of a graph are, what names it, and what a loss says."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from imgsearch.encoders import int8
from imgsearch.encoders.choice import choose_encoder, keep_quantized, with_precision, with_quantized
from imgsearch.encoders.export import exported_encoder, quantized_graph
from imgsearch.encoders.int8 import Int8Loss, graph_digest, quantize, require_nncf
from imgsearch.encoders.lite0_graph import build_graph
from imgsearch.encoders.runtime import GRAPH_FILE, encode, import_openvino, open_encoder
from imgsearch.encoders.spec import DEFAULT_BACKBONE, EncoderSpec
from imgsearch.encoders.table import TABLE
from imgsearch.errors import DamagedIndexError, MissingComponentError
from imgsearch.records import as_json, read

DEFAULT = TABLE[DEFAULT_BACKBONE].spec
IN_INT8 = replace(DEFAULT, precision="int8", quantized="sha256:1")
HYBRID = choose_encoder("lite0-retrieval+handcrafted:color=0.3").spec
SIDE = 16


@pytest.fixture(scope="module")
def opset():
    import_openvino()
    from openvino import opset13

    return opset13


def network(opset, folder: Path) -> Path:
    """A convolution, its map with channels last and back again, another, and a generalized mean: a small encoder."""
    generator = np.random.default_rng(0)
    images = opset.parameter([-1, SIDE, SIDE, 3], np.uint8, "images")
    scaled = opset.divide(opset.convert(images, np.float32), np.float32(255))
    first = opset.convolution(
        opset.transpose(scaled, [0, 3, 1, 2]), weights(generator, 8, 3), [2, 2], [1, 1], [1, 1], [1, 1], name="first"
    )
    channels_last = opset.transpose(opset.relu(first, name="relu"), [0, 2, 3, 1], name="map")
    second = opset.convolution(
        opset.transpose(channels_last, [0, 3, 1, 2], name="back"),
        *(weights(generator, 24, 8), [2, 2], [1, 1], [1, 1], [1, 1]),
        name="second",
    )
    cubes = opset.power(opset.relu(second), np.float32(3), name="cubes")
    pooled = opset.reduce_mean(cubes, [2, 3], name="pooled")
    embedding = opset.matmul(pooled, generator.normal(size=(24, 24)).astype(np.float32), False, False, name="learned")
    openvino = import_openvino()
    folder.mkdir(exist_ok=True)
    model = openvino.Model([embedding, channels_last], [images], "encoder")
    openvino.save_model(model, folder / GRAPH_FILE, compress_to_fp16=False)
    return folder / GRAPH_FILE


def weights(generator, *channels: int) -> np.ndarray:
    return generator.normal(size=(*channels, 3, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def graph(opset, tmp_path_factory) -> Path:
    return network(opset, tmp_path_factory.mktemp("network"))


def test_what_comes_after_the_last_convolution_is_not_quantized(graph):
    head = int8._head_of(import_openvino().Core().read_model(graph))

    assert {"cubes", "pooled", "learned"} <= set(head)
    assert not {"first", "relu", "map", "back", "second"} & set(head)


def test_products_of_tokens_take_time_and_those_of_one_vector_an_image_do_not(opset):
    kernel = np.ones((4, 4), np.float32)
    tokens, vector = (opset.parameter(shape, np.float32) for shape in ([-1, 9, 4], [-1, 4]))

    found = [int8._takes_time(opset.matmul(each, kernel, False, False)) for each in (tokens, vector)]

    assert found == [True, False]


def test_transpositions_that_undo_each_other_are_taken_out_and_the_vectors_stay(graph, tmp_path):
    openvino = import_openvino()
    model = openvino.Core().read_model(graph)
    images = np.random.default_rng(1).integers(0, 256, (2, SIDE, SIDE, 3), np.uint8)
    before = [np.array(each) for each in openvino.compile_model(model, "CPU")(images).values()]

    int8._join_transposes(model)

    second = next(node for node in model.get_ops() if node.get_friendly_name() == "second")
    assert second.input_value(0).get_node().get_friendly_name() == "relu"
    after = openvino.compile_model(model, "CPU")(images).values()
    for one, other in zip(before, after, strict=True):
        assert np.allclose(one, other, rtol=1e-3, atol=1e-3)


def test_a_digest_is_of_the_graph_and_of_its_weights(tmp_path):
    graph = tmp_path / GRAPH_FILE
    digests = set()
    for content, numbers in ((b"a", b"b"), (b"ab", b""), (b"a", b"c")):
        graph.write_bytes(content)
        graph.with_suffix(".bin").write_bytes(numbers)
        digests.add(graph_digest(graph))

    assert len(digests) == 3
    assert all(digest.startswith("sha256:") for digest in digests)


@pytest.mark.parametrize(
    ("before", "after", "is_small"),
    [(0.9, 0.9, True), (0.9, 0.895, True), (0.9, 0.8949, False), (0.8, 0.9, True), (0.005, 0.0, True)],
)
def test_up_to_half_a_point_may_be_lost(before, after, is_small):
    assert Int8Loss(300, 1800, before, after, 0.002, 0.97).is_small is is_small


def test_a_loss_is_said_with_what_it_was_measured_on_and_stored_as_it_is():
    loss = Int8Loss(300, 1800, 0.9, 0.897, 0.002, 0.97)

    assert loss.in_words() == (
        "of 1800 variants of images 0.897 find theirs first, 0.900 in f32 (standard error of the difference 0.002);"
        " calibrated on 300 images"
    )
    assert read(Int8Loss, json.loads(json.dumps(as_json(loss)))) == loss


def test_without_nncf_it_is_said_what_to_install(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)

    with pytest.raises(MissingComponentError) as raised:
        require_nncf()

    assert "imgsearch-toolkit[int8]" in raised.value.hint


def test_a_spec_in_int8_is_read_back_and_another_graph_is_another_encoder():
    assert EncoderSpec.from_json(json.loads(json.dumps(IN_INT8.to_json()))) == IN_INT8
    others = (DEFAULT, replace(IN_INT8, quantized="sha256:2"), replace(IN_INT8, quantized=""))
    assert len({spec.fingerprint for spec in (IN_INT8, *others)}) == 4
    assert IN_INT8.identity == DEFAULT.identity


@pytest.mark.parametrize("precision", ["f32", "bf16"])
def test_no_other_precision_has_a_graph_in_int8(precision):
    with pytest.raises(ValueError, match="not for an encoder that computes in"):
        replace(IN_INT8, precision=precision)
    assert with_precision(IN_INT8, precision) == replace(DEFAULT, precision=precision)


def test_a_network_of_a_hybrid_names_its_graph_itself():
    hybrid = with_quantized(with_precision(HYBRID, "int8"), 0, "sha256:1")

    assert [(part.precision, part.quantized) for part in hybrid.all_parts()] == [("int8", "sha256:1"), ("f32", "")]
    assert with_precision(hybrid, "f32") == HYBRID


def test_networks_of_the_same_name_each_name_their_own_graph():
    """As `a/shoes.keras+b/shoes.keras` have it."""
    twins = replace(HYBRID, parts=(HYBRID.parts[0], HYBRID.parts[0]), dims=2 * DEFAULT.dims)
    for number in (0, 1):
        twins = with_quantized(with_precision(twins, "int8"), number, f"sha256:{number}")

    assert [part.quantized for part in twins.all_parts()] == ["sha256:0", "sha256:1"]


@pytest.mark.parametrize("known", [IN_INT8, with_quantized(with_precision(HYBRID, "int8"), 0, "a:1")])
def test_a_graph_is_kept_while_all_else_is_the_same(known):
    chosen = with_precision(with_precision(known, "f32"), "int8")

    assert keep_quantized(known, chosen) == known
    assert keep_quantized(known, replace(chosen, pixels=9)) == replace(known, pixels=9)
    assert keep_quantized(known, replace(known, steps="grayscale")) == replace(chosen, steps="grayscale")
    assert keep_quantized(None, known) == chosen
    assert keep_quantized(with_precision(known, "bf16"), chosen) == chosen
    assert keep_quantized(known, with_precision(known, "bf16")) == with_precision(known, "bf16")


def test_an_encoder_in_int8_is_exported_from_the_graph_that_it_names_or_not_at_all(graph):
    spec = EncoderSpec("a.keras", "model", SIDE, "pad", 24, "sha256:0", "int8", quantized=graph_digest(graph))

    with pytest.raises(MissingComponentError, match="in int8 that the index was built with is lost") as raised:
        exported_encoder(spec)
    folder = exported_encoder(spec, {spec.quantized: graph})

    assert "--relearn" in raised.value.hint
    assert graph_digest(folder / GRAPH_FILE) == spec.quantized
    assert open_encoder(spec, folder).spec == spec


def test_a_graph_that_is_none_is_said_to_be_damaged(tmp_path):
    (tmp_path / GRAPH_FILE).write_text("<net")
    (tmp_path / "encoder.bin").touch()

    with pytest.raises(DamagedIndexError, match="is damaged"):
        read_and_quantize(tmp_path / GRAPH_FILE, tmp_path)


def read_and_quantize(graph: Path, folder: Path) -> Path:
    np.save(folder / "images.npy", np.zeros((1, SIDE, SIDE, 3), np.uint8))
    quantize(graph, folder / "images.npy", SIDE, folder / "int8.xml")
    return folder / "int8.xml"


@pytest.mark.slow
def test_a_network_in_int8_is_the_same_each_time_and_nothing_is_left_behind(graph, tmp_path, monkeypatch):
    """It has vectors near those in f32, one image at a time and many, with its map."""
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(home)
    generator = np.random.default_rng(2)
    fields = generator.integers(0, 256, (30, 4, 4, 3), np.uint8)
    images = np.kron(fields, np.ones((1, 8, 8, 1), np.uint8))  # twice the size that the network takes
    np.save(tmp_path / "images.npy", images)
    plain = EncoderSpec("a.keras", "model", SIDE, "pad", 24, "sha256:0")
    digests = set()

    for number in range(2):
        target = tmp_path / str(number) / GRAPH_FILE
        target.parent.mkdir()
        quantized_graph(plain, graph, tmp_path / "images.npy", target)
        digests.add(graph_digest(target))

    (digest,) = digests
    assert list(home.iterdir()) == []
    assert target.with_suffix(".bin").stat().st_size < graph.with_suffix(".bin").stat().st_size / 2
    spec = replace(plain, precision="int8", quantized=digest)
    small = np.ascontiguousarray(images[:, ::2, ::2])
    expected = encode(open_encoder(plain, graph.parent), small)
    many = encode(open_encoder(spec, target.parent), small)
    one = open_encoder(spec, target.parent, for_one=True, with_map=True)
    assert (many * expected).sum(axis=1).min() > 0.97
    assert np.allclose(many[:1], encode(one, small[:1]), atol=1e-3)
    assert one.encode_with_features(small[0]).features.shape == (8, 8, 8)


def test_what_is_added_to_maps_of_the_default_network_has_their_rank():
    """NNCF corrects only such, and ends with an error at others."""
    model = build_graph(DEFAULT, head=True)
    added = [node for node in model.get_ordered_ops() if node.get_type_name() == "Add"]
    shifts = [node.input_value(1).get_node() for node in added if len(node.output(0).get_partial_shape()) == 4]
    constants = [list(node.output(0).shape) for node in shifts if node.get_type_name() == "Constant"]

    assert len(constants) == 49  # convolutions
    assert all(shape == [1, shape[1], 1, 1] for shape in constants)
