"""One pass says what an image shows, and where."""

import shutil
from dataclasses import replace

import numpy as np
import pytest

from imgsearch.encoders.choice import choose_encoder
from imgsearch.encoders.export import exported_encoder
from imgsearch.encoders.runtime import GRAPH_FILE, best_precision, encode, open_encoder
from imgsearch.images.decode import decode
from imgsearch.images.transform import fit


@pytest.fixture(scope="module")
def squares(drawn):
    files = sorted(drawn.rglob("*.png"))[:4]
    return np.stack([fit(decode(file.read_bytes()), 224) for file in files])


@pytest.fixture(scope="module")
def lite0():
    spec = choose_encoder("efficientnet-lite0").spec
    return spec, exported_encoder(spec)


def test_the_map_shows_where_something_is(lite0):
    square = np.full((224, 224, 3), 255, np.uint8)
    square[112:192, 112:192] = np.random.default_rng(0).integers(0, 256, (80, 80, 3), np.uint8)

    features = open_encoder(*lite0, for_one=True, with_map=True).encode_with_features(square).features

    assert (features.shape[:2], features.dtype) == ((14, 14), np.float32)  # of twice the side of the last
    unlike = np.linalg.norm(features - features[1, 1], axis=2)
    assert unlike[8:11, 8:11].min() > 2 * unlike[1:5, 1:5].max()


@pytest.mark.parametrize("precision", sorted({"f32", best_precision()}))
def test_an_embedding_is_the_same_alone_in_a_stream_and_beside_its_map(lite0, squares, precision):
    plain, folder = lite0
    spec = replace(plain, precision=precision)
    one, many = (open_encoder(spec, folder, for_one=for_one, with_map=for_one) for for_one in (True, False))

    rows = encode(many, squares)

    for square, row in zip(squares, rows, strict=True):
        seen = one.encode_with_features(square)
        assert seen.embedding.shape == (1280,)
        assert seen.embedding @ row > 0.9995
        assert seen.embedding @ encode(one, square[None])[0] > 0.9995
        assert abs(np.linalg.norm(seen.embedding) - 1) < 1e-5
    if precision != "f32":  # of drawn images, which the network has an answer to
        assert np.sum(rows * encode(open_encoder(*lite0), squares), axis=1).min() >= 0.99


def test_what_was_seen_stays_when_the_next_image_is_looked_at(lite0, squares):
    encoder = open_encoder(*lite0, for_one=True, with_map=True)
    first = encoder.encode_with_features(squares[0])
    before = first.embedding.copy(), first.features.copy()

    encoder.encode_with_features(squares[1])

    assert (first.embedding == before[0]).all()
    assert (first.features == before[1]).all()


def test_no_image_is_written_into(lite0, squares):
    encoder, given = open_encoder(*lite0, for_one=True, with_map=True), squares.copy()

    for _ in range(2):
        for row in range(len(given)):
            encode(encoder, given[row : row + 1])
            encoder.encode_with_features(given[row])

    assert np.array_equal(given, squares)


@pytest.mark.parametrize("name", ["handcrafted", "handcrafted:color+handcrafted:shape"])
def test_what_has_no_network_in_it_has_no_map(name, squares):
    spec = choose_encoder(name).spec
    encoder = open_encoder(spec, exported_encoder(spec), for_one=True, with_map=True)
    square = fit(squares[0], spec.size)

    seen = encoder.encode_with_features(square)

    assert seen.features is None
    assert np.allclose(seen.embedding, encode(encoder, square[None])[0])


@pytest.mark.parametrize(
    "name", ["handcrafted:color+efficientnet-lite0=0.5", "efficientnet-lite0+handcrafted:color=0.3"]
)
def test_a_hybrid_has_the_map_of_its_first_part_that_has_one(name, lite0, squares):
    spec = choose_encoder(name).spec
    encoder = open_encoder(spec, exported_encoder(spec), for_one=True, with_map=True)

    seen = encoder.encode_with_features(squares[0])

    assert np.allclose(
        seen.features,
        open_encoder(*lite0, for_one=True, with_map=True).encode_with_features(squares[0]).features,
        atol=1e-4,
    )
    assert seen.embedding @ encode(encoder, squares[:1])[0] > 0.9999


def test_a_model_without_a_finer_map_has_none(tiny_models):
    choice = choose_encoder(str(tiny_models / "classes.keras"))
    encoder = open_encoder(choice.spec, exported_encoder(choice.spec, choice.files), for_one=True, with_map=True)

    assert encoder.encode_with_features(np.full((32, 32, 3), 7, np.uint8)).features is None


def test_an_export_of_before_maps_works_and_has_none(lite0, squares, tmp_path):
    import openvino

    spec, folder = lite0
    shutil.copytree(folder, tmp_path / "old")
    graph = openvino.Core().read_model(folder / GRAPH_FILE)
    old = openvino.Model([graph.output(0)], graph.get_parameters(), "encoder")
    openvino.save_model(old, tmp_path / "old" / GRAPH_FILE, compress_to_fp16=False)

    for for_one in (True, False):
        encoder = open_encoder(spec, tmp_path / "old", for_one=for_one, with_map=for_one)
        seen = encoder.encode_with_features(squares[0])
        assert seen.features is None
        assert seen.embedding @ encode(open_encoder(spec, folder), squares[:1])[0] > 0.9999
