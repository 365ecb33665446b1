"""Encoders of keras.applications, with weights of chance: their layout, their preprocessing, and their export."""

import gc
import importlib.util
from pathlib import Path

import numpy as np
import pytest

from imgsearch.encoders.choice import choose_encoder
from imgsearch.encoders.export import exported_encoder
from imgsearch.encoders.runtime import encode, open_encoder, unit_rows
from imgsearch.encoders.table import TABLE
from imgsearch.errors import MissingComponentError
from imgsearch.images.decode import decode
from imgsearch.images.transform import fit

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

# Of each: its builder, its module, and the last layer that its features come from.
APPLICATIONS = {
    "vgg16": ("VGG16", "vgg16", "block5_conv3"),
    "vgg19": ("VGG19", "vgg19", "block5_conv4"),
    "resnet50": ("ResNet50", "resnet", "conv5_block3_out"),
    "mobilenet_v3_large": ("MobileNetV3Large", "mobilenet_v3", None),
    "efficientnetv2-b0": ("EfficientNetV2B0", "efficientnet_v2", "top_activation"),
    "convnext_tiny": ("ConvNeXtTiny", "convnext", None),
}
BIG = ("vgg19", "resnet50", "convnext_tiny", "efficientnetv2-b0", "vgg16")


@pytest.fixture(scope="module")
def images():
    folder = Path(importlib.util.find_spec("sklearn").origin).parent / "datasets" / "images"
    return np.stack([fit(decode((folder / name).read_bytes()), 224) for name in ("flower.jpg", "china.jpg")])


@pytest.fixture(
    scope="module",
    params=[pytest.param(name, marks=[pytest.mark.slow] if name in BIG else []) for name in APPLICATIONS],
)
def made(request, keras, tmp_path_factory):
    """Of one of them: its choice with weights of chance, our network, and Keras' own with the same weights."""
    from imgsearch.encoders.networks import build_network

    name = request.param
    builder, _, _ = APPLICATIONS[name]
    keras.utils.set_random_seed(1)
    theirs = getattr(keras.applications, builder)(weights=None, include_top=False, input_shape=(224, 224, 3))
    file = tmp_path_factory.mktemp("weights") / f"{name}.weights.h5"
    theirs.save_weights(file)
    choice = choose_encoder(name, file)
    yield choice, build_network(choice.spec, file), theirs
    file.unlink()
    gc.collect()


def test_every_encoder_of_keras_is_tried_here():
    assert set(APPLICATIONS) == {name for name, row in TABLE.items() if row.application}


def test_it_takes_bytes_of_images_and_agrees_with_keras_own_preprocessing_and_pooling_by_hand(keras, made, images):
    choice, network, theirs = made
    _, module, layer = APPLICATIONS[choice.spec.name]
    prepared = getattr(keras.applications, module).preprocess_input(images.astype(np.float32).copy())
    features = keras.Model(theirs.inputs, theirs.get_layer(layer).output if layer else theirs.output)

    # Called as they are: to trace them, as `predict` does, takes seconds.
    numbers = np.asarray(features([prepared], training=False), np.float64)

    exponent = 1.0 if choice.spec.name == "convnext_tiny" else 3.0
    floor = -np.inf if exponent == 1 else 1e-6
    pooled = np.mean(np.maximum(numbers, floor) ** exponent, axis=(1, 2)) ** (1 / exponent)
    assert np.allclose(network(images, training=False), unit_rows(pooled.astype(np.float32)), atol=2e-4)
    assert network.get_layer("gem").exponent == exponent
    assert (network.input_shape, network.inputs[0].dtype) == ((None, 224, 224, 3), "uint8")
    assert network.output_shape == (None, choice.spec.dims)


def test_its_weights_are_those_of_the_file(made, tmp_path):
    from imgsearch.encoders.networks import build_network

    choice, _, _ = made
    garbage = tmp_path / "garbage.weights.h5"
    garbage.write_bytes(b"garbage" * 1000)

    with pytest.raises(MissingComponentError, match=choice.spec.name) as refused:
        build_network(choice.spec, garbage)
    assert TABLE[choice.spec.name].application.keras_file in refused.value.hint


@pytest.mark.slow
def test_what_is_exported_agrees_with_keras(made, images):
    choice, network, _ = made

    rows = encode(open_encoder(choice.spec, exported_encoder(choice.spec, choice.files)), images)

    assert np.sum(rows * network.predict_on_batch(images), axis=1).min() >= 0.9999
