import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from pathlib import Path

import keras
import numpy as np
import pytest
import sklearn.datasets

from imgsearch.encoders.choice import choose_encoder
from imgsearch.encoders.layers import GEM_EXPONENT, GeneralizedMean
from imgsearch.encoders.networks import (
    assign_lite0,
    build_network,
    lite0_features,
    lite0_scaled,
)
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
    file = Path(sklearn.datasets.__file__).parent / "images" / name
    return fit(decode(file.read_bytes()), 224, "crop")


@pytest.fixture(scope="module")
def logits():
    images = keras.Input((224, 224, 3), dtype="uint8")
    features = lite0_features(lite0_scaled(keras.ops.cast(images, "float32")))
    pooled = keras.layers.GlobalAveragePooling2D()(features)
    classifier = keras.Model(images, keras.layers.Dense(1000, name="_fc")(pooled))
    assign_lite0(classifier, lite0_arrays())
    rows = classifier.predict_on_batch(np.stack([photo(name) for name in REFERENCE_TOP]))
    return dict(zip(REFERENCE_TOP, rows, strict=True))


def test_the_port_as_a_classifier_says_daisy_of_the_flower(logits):
    assert int(np.argmax(logits["flower.jpg"])) == DAISY


def test_the_port_as_a_classifier_sees_a_palace_in_china(logits):
    assert PALACES & set(np.argsort(logits["china.jpg"])[-5:].tolist())


@pytest.mark.parametrize("name", REFERENCE_TOP)
def test_its_logits_agree_with_a_reference_made_by_pytorch(logits, name):
    top = np.argsort(logits[name])[::-1][:5]

    assert top.tolist() == list(REFERENCE_TOP[name])
    assert np.abs(logits[name][top] - list(REFERENCE_TOP[name].values())).max() < 1e-3
    assert np.abs(logits[name][:16] - REFERENCE_FIRST[name]).max() < 1e-3


@pytest.fixture(scope="module")
def encoder():
    return build_network(choose_encoder("efficientnet-lite0").spec)


@pytest.mark.parametrize("name", REFERENCE_EMBEDDING)
def test_its_embeddings_agree_with_the_reference(encoder, name):
    (embedding,) = encoder.predict_on_batch(photo(name)[None])

    assert np.abs(embedding[:16] - REFERENCE_EMBEDDING[name]).max() < 1e-4


def test_the_network_takes_bytes_of_a_image_and_gives_unit_rows(encoder):
    assert encoder.input_shape == (None, 224, 224, 3)
    assert encoder.inputs[0].dtype == "uint8"
    assert encoder.output_shape == (None, 1280)
    rows = encoder.predict_on_batch(np.stack([photo(name) for name in REFERENCE_TOP]))
    assert np.allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)


def test_a_image_does_not_depend_on_its_neighbors_in_the_batch(encoder):
    both = encoder.predict_on_batch(np.stack([photo(name) for name in REFERENCE_TOP]))
    alone = encoder.predict_on_batch(photo("china.jpg")[None])

    assert np.allclose(both[1], alone[0], atol=1e-5)


FEATURES = np.random.default_rng(0).uniform(0, 6, (2, 5, 7, 3)).astype(np.float32)


@pytest.mark.parametrize("exponent", [1.0, 2.0, 3.0, 5.5])
def test_the_generalized_mean_is_the_root_of_the_mean_of_powers(exponent):
    pooled = np.asarray(GeneralizedMean(exponent)(FEATURES))

    by_hand = np.mean(FEATURES.astype(np.float64) ** exponent, axis=(1, 2)) ** (1 / exponent)
    assert np.allclose(pooled, by_hand, rtol=1e-4)


def test_the_generalized_mean_of_exponent_1_is_the_mean():
    assert np.allclose(np.asarray(GeneralizedMean(1.0)(FEATURES)), FEATURES.mean(axis=(1, 2)), rtol=1e-5)


def test_the_generalized_mean_of_a_large_exponent_is_near_the_maximum():
    features = FEATURES / 6

    pooled = np.asarray(GeneralizedMean(60.0)(features))

    assert np.all(pooled <= features.max(axis=(1, 2)) + 1e-5)
    assert np.all(pooled > 0.9 * features.max(axis=(1, 2)))


def test_the_generalized_mean_of_zeros_and_of_negative_numbers_is_finite_and_nearly_zero():
    for features in (np.zeros((1, 4, 4, 2), np.float32), np.full((1, 4, 4, 2), -3, np.float32)):
        pooled = np.asarray(GeneralizedMean()(features))
        assert np.all((pooled >= 0) & (pooled < 1e-3))


def test_the_generalized_mean_is_rebuilt_from_its_configuration():
    layer = GeneralizedMean(4.5, name="gem")

    again = GeneralizedMean.from_config(layer.get_config())

    assert (again.exponent, again.name) == (4.5, "gem")
    assert GeneralizedMean().exponent == GEM_EXPONENT == 3.0


def test_weights_that_were_a_users_file_are_asked_for_again(tmp_path):
    (tmp_path / "weights.h5").write_bytes(b"weights")
    spec = choose_encoder("vgg16", tmp_path / "weights.h5").spec

    with pytest.raises(MissingComponentError) as refused:
        build_network(spec)

    assert "--weights" in refused.value.hint


@pytest.mark.parametrize("name", ["weights.h5", "mine.weights.h5", "weights.keras", "weights"])
def test_a_file_that_holds_no_weights_is_a_missing_component(tmp_path, name):
    (tmp_path / name).write_bytes(b"garbage " * 100)
    spec = choose_encoder("vgg16", tmp_path / name).spec

    with pytest.raises(MissingComponentError, match="vgg16"):
        build_network(spec, tmp_path / name)
