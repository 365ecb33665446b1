from dataclasses import replace

import keras
import numpy as np
import pytest

from imgsearch.encoders.choice import choose_encoder
from imgsearch.encoders.projection import Projection
from imgsearch.encoders.table import TABLE
from imgsearch.regions.anchors import anchor_boxes
from imgsearch.training import networks
from imgsearch.training.detector.network import build_detector
from imgsearch.training.options import BLOCKS

# Keras' variables do not know NumPy 2's keyword yet; Keras itself copies them when it saves a model.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")

IMAGES = np.random.default_rng(0).integers(0, 256, (4, 28, 28, 3), dtype=np.uint8)
LITE0 = replace(choose_encoder("efficientnet-lite0").spec, size=64)


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("size", [8, 33])
def test_the_small_network_takes_bytes_of_any_size_and_gives_unit_rows(size):
    network = networks.build_cnn(size, 16)

    rows = network.predict_on_batch(np.random.default_rng(0).integers(0, 256, (3, size, size, 3), dtype=np.uint8))

    assert (network.input_shape, network.inputs[0].dtype) == ((None, size, size, 3), "uint8")
    assert rows.shape == (3, 16)
    assert np.allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)
    filters = [layer.filters for layer in network.layers if isinstance(layer, keras.layers.Conv2D)]
    assert filters == [32, 96, 96, 96, 192, 192, 192]
    assert [layer.units for layer in network.layers if isinstance(layer, keras.layers.Dense)] == [16]


@pytest.fixture(scope="module")
def with_head():
    return networks.build_with_head(LITE0, None, 8)


def test_a_backbone_with_a_head_computes_the_head_of_the_backbones_features(with_head):
    images = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
    backbone = keras.Model(with_head.inputs, with_head.get_layer("features").output)
    head = networks.build_head(1280, 8)
    networks.copy_weights(with_head, head)

    # Called as they are: to trace them, as `predict` does, takes seconds.
    apart = head(backbone([images], training=False), training=False)

    assert np.allclose(with_head([images], training=False), apart, atol=1e-5)


def trainable(model: keras.Model) -> set[str]:
    return {layer.name for layer in model.layers if layer.trainable_weights}


def test_unfreezing_leaves_the_first_blocks_and_all_normalization_of_the_backbone_as_they_are(with_head):
    networks.unfreeze(with_head, 2)

    assert trainable(with_head) == {
        *(f"_blocks.{block}.{part}" for block in (14, 15) for part in ("_expand_conv", "_depthwise_conv")),
        *(f"_blocks.{block}._project_conv" for block in (14, 15)),
        "_conv_head",
        "head_normalization",
        "head_dense",
    }
    networks.unfreeze(with_head, BLOCKS["efficientnet-lite0"])
    assert "_blocks.0._depthwise_conv" in trainable(with_head)
    assert "_conv_stem" not in trainable(with_head)


def test_a_network_in_two_parts_computes_what_it_computes_whole():
    """Also where it pools maps of several blocks, of which only the last is trained."""
    images = keras.Input((16, 16, 3), dtype="uint8")
    maps = [keras.ops.cast(images, "float32") / 255.0]
    for block in range(3):
        maps.append(keras.layers.Conv2D(4, 3, 2, "same", activation="relu", name=f"_blocks.{block}._conv")(maps[-1]))
    pooled = [keras.layers.GlobalAveragePooling2D()(each) for each in maps[1:]]
    whole = keras.Model(images, keras.layers.UnitNormalization()(keras.layers.Concatenate()(pooled)))
    networks.unfreeze(whole, 1)
    squares = IMAGES[:, :16, :16]

    frozen, tuned = networks.split(whole)

    assert trainable(tuned) == {"last"}
    assert [tuple(variable.shape) for variable in tuned.trainable_variables] == [(3, 3, 4, 4), (4,)]
    assert frozen.trainable_variables == []
    assert frozen.output_shape == (None, 4 * 4 * 4 + 4 + 4)  # the map that is gone on from, and what is pooled before
    assert np.allclose(tuned(frozen([squares])), whole(squares), atol=1e-5)


def test_an_adaptation_behind_a_network_is_its_projection_and_not_trained():
    network = networks.build_cnn(8, 6)
    generator = np.random.default_rng(0)
    adapted = Projection(*(generator.normal(size=shape).astype(np.float32) for shape in ((6,), (4, 6))))

    model = networks.with_adaptation(network, adapted)

    squares = IMAGES[:, :8, :8]
    rows = np.asarray(network(squares, training=False))
    (found,) = keras.tree.flatten(model([squares], training=False))
    assert np.allclose(found, adapted.apply(rows), atol=1e-5)
    assert len(model.trainable_variables) == len(network.trainable_variables)


@pytest.mark.parametrize(
    ("name", "builder", "first", "last"),
    [
        ("vgg16", "VGG16", "block1_conv1", "block5_conv1"),
        pytest.param("vgg19", "VGG19", "block1_conv1", "block5_conv1", marks=pytest.mark.slow),
        ("resnet50", "ResNet50", "conv2_block1_1_conv", "conv5_block3_1_conv"),
        ("mobilenet_v3_large", "MobileNetV3Large", "expanded_conv_depthwise", "expanded_conv_14_expand"),
        pytest.param(
            "efficientnetv2-b0",
            "EfficientNetV2B0",
            "block1a_project_conv",
            "block6h_expand_conv",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "convnext_tiny",
            "ConvNeXtTiny",
            "convnext_tiny_stage_0_block_0_depthwise_conv",
            "convnext_tiny_stage_3_block_2_depthwise_conv",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_networks_of_keras_have_blocks_with_known_names_and_maps_for_a_detector(name, builder, first, last):
    images = keras.Input((64, 64, 3), dtype="uint8")
    inputs = keras.ops.cast(images, "float32")
    base = getattr(keras.applications, builder)(weights=None, include_top=False, input_tensor=inputs)
    pooled = keras.layers.GlobalAveragePooling2D(name="features")(base.output)
    encoder = keras.Model(images, keras.layers.Dense(4, name="head_dense")(pooled))
    anchors = len(anchor_boxes(64))

    outputs = build_detector(encoder, 0).detector.outputs

    assert [tuple(output.shape[1:]) for output in outputs] == [(4,), (anchors,), (anchors, 4), (16, 16)]
    encoder.trainable = True

    for blocks, expected in ((1, last), (BLOCKS[name], first)):
        networks.unfreeze(encoder, blocks)

        tuned = [layer.name for layer in encoder.layers if layer.trainable_weights]
        assert (tuned[0], tuned[-1]) == (expected, "head_dense")


def test_the_blocks_of_every_network_of_the_table_are_known():
    assert set(BLOCKS) == {name for name, row in TABLE.items() if row.spec.kind == "network"}


def test_augmentation_changes_images_in_training_only_and_stays_within_their_range():
    change = networks.augmentation(28)

    changed, same = np.asarray(change(IMAGES, training=True)), np.asarray(change(IMAGES, training=False))

    assert not np.allclose(changed, IMAGES, atol=1)
    assert (changed.min() >= 0, changed.max() <= 255) == (True, True)
    assert np.array_equal(same, IMAGES)


@pytest.mark.parametrize("classes", [2, 5])
def test_the_finished_model_says_what_the_trained_one_said(classes):
    network = networks.build_cnn(28, 16)
    trained = networks.with_centers(network, classes if classes > 2 else 1, 10.0)
    (kernel,) = trained.get_layer("centers").get_weights()

    finished = networks.finish(network, kernel, 10.0)
    embeddings, probabilities = finished.predict_on_batch(IMAGES)

    assert [output.shape for output in networks.finish(network, None, 1.0).outputs] == [(None, 16)]
    logits = trained.predict_on_batch(IMAGES)
    if classes == 2:
        sigmoid = 1 / (1 + np.exp(-logits[:, 0]))
        expected = np.stack([1 - sigmoid, sigmoid], axis=1)
    else:
        expected = softmax(logits)
    assert probabilities.shape == (4, classes)
    assert np.allclose(probabilities, expected, atol=1e-5)
    assert np.allclose(embeddings, network.predict_on_batch(IMAGES), atol=1e-6)


def test_centers_are_of_unit_length_after_each_step():
    trained = networks.with_centers(networks.build_cnn(28, 16), 3, 10.0)
    trained.compile("sgd", keras.losses.CategoricalCrossentropy(from_logits=True), jit_compile=False)

    trained.train_on_batch(IMAGES, np.eye(3)[[0, 1, 2, 0]])

    (kernel,) = trained.get_layer("centers").get_weights()
    assert np.allclose(np.linalg.norm(kernel, axis=0), 1, atol=1e-5)
