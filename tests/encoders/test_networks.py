import importlib.util
from pathlib import Path

import numpy as np
import pytest

from imgsearch.encoders import lite0
from imgsearch.encoders.choice import choose_encoder
from imgsearch.encoders.export import exported_encoder
from imgsearch.encoders.runtime import GRAPH_FILE, encode, import_openvino, open_encoder
from imgsearch.encoders.table import TABLE
from imgsearch.encoders.weights import lite0_arrays
from imgsearch.errors import MissingComponentError
from imgsearch.images.decode import decode
from imgsearch.images.transform import fit

DAISY = 985
# Bell cote, boathouse, castle, monastery, stupa: what ImageNet has for a Chinese palace.
PALACES = {442, 449, 483, 663, 832}

# Of flower.jpg and china.jpg from scikit-learn, `decode` and `fit(..., 224, "crop")`. Made with PyTorch 2.13.0 in
# float64 by a forward pass written apart from ours (torch.load of the same file; F.conv2d on tensors padded as
# TensorFlow's SAME does; F.batch_norm with eps 1e-3; relu6), so that an error in our port cannot be in both.
REFERENCE_TOP = {
    "flower.jpg": {985: 7.1154, 947: 6.3716, 309: 5.6103, 996: 5.5483, 738: 5.4797},
    "china.jpg": {698: 8.1213, 442: 7.8210, 663: 6.6781, 975: 6.3216, 483: 6.0874},
}
REFERENCE_FIRST = {
    "flower.jpg": [
        *(-1.7447, 1.3467, -0.9352, -1.5490, -0.1755, 0.2860, -1.0642, 0.6832),
        *(0.4653, 0.6694, 0.2409, 0.6493, 1.2264, -0.0749, 0.2423, 0.0562),
    ],
    "china.jpg": [
        *(1.3865, -0.2300, -1.7811, 0.2196, -0.9299, 1.0135, 1.3712, -2.7559),
        *(-1.3260, -0.1769, 0.7460, -0.2840, -0.2459, 1.6576, 0.7510, -0.1472),
    ],
}
# The same pass pooled with the cube root of the mean of cubes and brought to unit length: the first 16 of 1280.
REFERENCE_EMBEDDING = {
    "flower.jpg": [
        *(0.0, 0.01121, 0.00964, 0.0, 0.0, 0.0, 0.0, 0.10589),
        *(0.0, 0.00644, 0.0, 0.0, 0.01201, 0.00593, 0.0, 0.01846),
    ],
    "china.jpg": [
        *(0.0, 0.0, 0.00317, 0.0, 0.0, 0.0, 0.07047, 0.01479),
        *(0.02038, 0.01929, 0.02719, 0.0, 0.10107, 0.04068, 0.0, 0.0),
    ],
}


def photo(name: str) -> np.ndarray:
    file = Path(importlib.util.find_spec("sklearn").origin).parent / "datasets" / "images" / name
    return fit(decode(file.read_bytes()), 224, "crop")


@pytest.fixture(scope="module")
def networks(keras):
    from imgsearch.encoders import networks

    return networks


@pytest.fixture(scope="module")
def logits(keras, networks):
    images = keras.Input((224, 224, 3), dtype="uint8")
    features = networks.lite0_features(networks.lite0_scaled(keras.ops.cast(images, "float32")))
    pooled = keras.layers.GlobalAveragePooling2D()(features)
    classifier = keras.Model(images, keras.layers.Dense(1000, name="_fc")(pooled))
    arrays = lite0_arrays()
    networks.assign_lite0(classifier, arrays)
    classifier.get_layer("_fc").set_weights([arrays["_fc.weight"].T, arrays["_fc.bias"]])
    # Called as it is: to trace it, as `predict` does, takes seconds.
    rows = np.asarray(classifier(np.stack([photo(name) for name in REFERENCE_TOP]), training=False))
    return dict(zip(REFERENCE_TOP, rows, strict=True))


def test_the_port_as_a_classifier_says_daisy_of_the_flower_and_sees_a_palace_in_china(logits):
    assert int(np.argmax(logits["flower.jpg"])) == DAISY
    assert PALACES & set(np.argsort(logits["china.jpg"])[-5:].tolist())


@pytest.mark.parametrize("name", REFERENCE_TOP)
def test_its_logits_agree_with_a_reference_made_by_pytorch(logits, name):
    top = np.argsort(logits[name])[::-1][:5]

    assert top.tolist() == list(REFERENCE_TOP[name])
    assert np.abs(logits[name][top] - list(REFERENCE_TOP[name].values())).max() < 1e-3
    assert np.abs(logits[name][:16] - REFERENCE_FIRST[name]).max() < 1e-3


@pytest.fixture(scope="module")
def encoder(networks):
    return networks.build_network(TABLE["efficientnet-lite0"].spec)


def test_its_embeddings_agree_with_the_reference_and_openvino_with_it(encoder):
    assert (encoder.input_shape, encoder.inputs[0].dtype) == ((None, 224, 224, 3), "uint8")
    assert encoder.output_shape == (None, 1280)
    photos = np.stack([photo(name) for name in REFERENCE_EMBEDDING])

    rows = np.asarray(encoder(photos, training=False))

    assert np.allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)
    assert np.abs(rows[:, :16] - list(REFERENCE_EMBEDDING.values())).max() < 1e-4
    (alone,) = np.asarray(encoder(photos[1:], training=False))
    assert np.allclose(rows[1], alone, atol=1e-5)
    spec = TABLE["efficientnet-lite0"].spec
    assert np.sum(rows * encode(open_encoder(spec, exported_encoder(spec)), photos), axis=1).min() >= 0.9999


@pytest.mark.parametrize("name", ["lite0-retrieval", "efficientnet-lite0"])
def test_the_graph_that_is_built_without_keras_gives_what_keras_does_and_the_same_map(networks, name):
    spec = TABLE[name].spec
    network = networks.with_map(networks.build_network(spec))
    assert (network.inputs[0].dtype, network.outputs[0].shape) == ("uint8", (None, spec.dims))
    noise = np.random.default_rng(0).integers(0, 256, (224, 224, 3), np.uint8)
    squares = np.stack([*map(photo, REFERENCE_TOP), noise, np.zeros_like(noise), np.full_like(noise, 255)])
    graph = (
        import_openvino()
        .Core()
        .compile_model(exported_encoder(spec) / GRAPH_FILE, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    )

    rows, features = (np.array(output) for output in graph([squares]).values())
    their_rows, their_features = (np.asarray(output) for output in network([squares], training=False))

    ports = [(port.get_any_name(), port.partial_shape.to_string()) for port in (*graph.inputs, *graph.outputs)]
    assert ports == [("images", "[?,224,224,3]"), ("embeddings", f"[?,{spec.dims}]"), ("map", "[?,14,14,672]")]
    assert np.allclose(np.linalg.norm(their_rows, axis=1), 1, atol=1e-5)
    assert np.abs(rows - their_rows).max() < 5e-6  # of numbers up to 0.4
    assert np.abs(features - their_features).max() < 2e-4  # of numbers up to 6
    assert network.outputs[1] is network.get_layer(lite0.PLACES_MAP).output


FEATURES = np.random.default_rng(0).uniform(0, 6, (2, 5, 7, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def gem(keras):
    from imgsearch.encoders.layers import GeneralizedMean

    return GeneralizedMean


def test_the_generalized_mean_is_the_root_of_the_mean_of_powers(gem):
    for exponent in (1.0, 2.0, 3.0, 5.5):
        by_hand = np.mean(FEATURES.astype(np.float64) ** exponent, axis=(1, 2)) ** (1 / exponent)
        assert np.allclose(np.asarray(gem(exponent)(FEATURES)), by_hand, rtol=1e-4)
    features = FEATURES / 6  # a large exponent is near the maximum
    pooled, largest = np.asarray(gem(60.0)(features)), features.max(axis=(1, 2))
    assert np.all((pooled <= largest + 1e-5) & (pooled > 0.9 * largest))
    for features in (np.zeros((1, 4, 4, 2), np.float32), np.full((1, 4, 4, 2), -3, np.float32)):
        pooled = np.asarray(gem()(features))
        assert np.all((pooled >= 0) & (pooled < 1e-3))


def test_the_generalized_mean_is_rebuilt_from_its_configuration(gem):
    again = gem.from_config(gem(4.5, name="gem").get_config())

    assert (again.exponent, again.name) == (4.5, "gem")
    assert gem().exponent == 3.0


def test_weights_that_were_a_users_file_are_asked_for_again(networks, tmp_path):
    (tmp_path / "weights.h5").write_bytes(b"weights")
    spec = choose_encoder("vgg16", tmp_path / "weights.h5").spec

    with pytest.raises(MissingComponentError) as refused:
        networks.build_network(spec)

    assert "--weights" in refused.value.hint


@pytest.mark.parametrize("name", ["weights.h5", "mine.weights.h5", "weights"])
def test_a_file_that_holds_no_weights_is_a_missing_component(networks, tmp_path, name):
    (tmp_path / name).write_bytes(b"garbage " * 100)
    spec = choose_encoder("mobilenet_v3_large", tmp_path / name).spec

    with pytest.raises(MissingComponentError, match="mobilenet_v3_large"):
        networks.build_network(spec, tmp_path / name)
