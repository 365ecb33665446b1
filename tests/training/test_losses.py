import keras
import numpy as np
import pytest

from imgsearch.training import losses

# Keras' variables do not know NumPy 2's keyword yet; Keras itself copies them when it saves a model.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


GENERATOR = np.random.default_rng(0)
LABELS = np.array([0, 0, 1, 1, 1, 2, 3, 3, 2, 0])
EMBEDDINGS = unit(GENERATOR.normal(size=(10, 6)))
COSINES = EMBEDDINGS @ unit(GENERATOR.normal(size=(4, 6))).T


# Written apart from the library, one pair at a time in float64, so that an error cannot be in both.


def contrastive(labels, rows):
    found = []
    for i in range(len(rows)):
        distances = [float(np.linalg.norm(rows[i] - row)) for row in rows]
        pull = [d**2 for j, d in enumerate(distances) if j != i and labels[j] == labels[i]]
        push = [max(0.0, losses.CONTRASTIVE_MARGIN - d) ** 2 for j, d in enumerate(distances) if labels[j] != labels[i]]
        found.append((sum(pull) / max(len(pull), 1) + sum(push) / max(len(push), 1)) / 2)
    return found


def triplet(labels, rows):
    found = []
    for i in range(len(rows)):
        distances = [float(np.linalg.norm(rows[i] - row)) for row in rows]
        farthest = max([d for j, d in enumerate(distances) if j != i and labels[j] == labels[i]], default=0.0)
        nearest = min([d for j, d in enumerate(distances) if labels[j] != labels[i]], default=4.0)
        found.append(max(0.0, farthest - nearest + losses.TRIPLET_MARGIN))
    return found


def nt_xent(labels, rows):
    found = []
    for i in range(len(rows)):
        likes = np.exp(rows @ rows[i] / losses.TEMPERATURE)
        of_class = [j for j in range(len(rows)) if j != i and labels[j] == labels[i]]
        others = likes.sum() - likes[i]
        found.append(-sum(np.log(likes[j] / others) for j in of_class) / max(len(of_class), 1))
    return found


def arcface(labels, cosines):
    found = []
    for label, row in zip(labels, cosines, strict=True):
        angle = np.arccos(row[label])
        logits = losses.ARCFACE_SCALE * row
        logits[label] = losses.ARCFACE_SCALE * np.cos(angle + losses.ARCFACE_MARGIN)
        found.append(np.log(np.exp(logits - logits.max()).sum()) - (logits[label] - logits.max()))
    return found


SECOND = {"arcface": arcface, "contrastive": contrastive, "nt-xent": nt_xent, "triplet": triplet}


def said(name: str, labels: np.ndarray, outputs: np.ndarray) -> np.ndarray:
    given = keras.ops.convert_to_tensor(outputs.astype(np.float32))
    return keras.ops.convert_to_numpy(losses.METRIC_LOSSES[name](keras.ops.convert_to_tensor(labels), given))


def given_to(name: str) -> np.ndarray:
    return COSINES if name == "arcface" else EMBEDDINGS


@pytest.mark.parametrize("name", losses.METRIC_LOSSES)
def test_a_loss_agrees_with_a_second_one_written_for_one_pair_at_a_time(name):
    assert np.allclose(said(name, LABELS, given_to(name)), SECOND[name](LABELS, given_to(name)), atol=1e-4)


@pytest.mark.parametrize("name", losses.METRIC_LOSSES)
def test_a_batch_without_pairs_of_a_class_has_a_finite_loss(name):
    labels = np.arange(4)

    assert np.isfinite(said(name, labels, given_to(name)[:4])).all()


@pytest.mark.parametrize("name", ["contrastive", "nt-xent", "triplet"])
def test_classes_that_are_apart_lose_less_than_classes_that_are_mixed(name):
    corners = unit(np.array([[1, 0.02, 0], [1, -0.02, 0], [-1, 0.02, 0], [-1, -0.02, 0.0]]))

    apart = said(name, np.array([0, 0, 1, 1]), corners).mean()
    mixed = said(name, np.array([0, 1, 0, 1]), corners).mean()

    assert apart < 0.1 < mixed


def test_arcface_asks_for_more_than_a_softmax_of_the_same_cosines():
    plain = keras.losses.sparse_categorical_crossentropy(
        LABELS, (losses.ARCFACE_SCALE * COSINES).astype(np.float32), from_logits=True
    )

    assert (said("arcface", LABELS, COSINES) > keras.ops.convert_to_numpy(plain) - 1e-4).all()


def test_arcface_goes_on_rising_where_angle_and_margin_are_more_than_half_a_turn():
    cosines = np.stack([[cosine, 0.0] for cosine in (-0.9, -0.96, -0.99, -1.0)])

    lost = said("arcface", np.zeros(4, int), cosines)

    assert (np.diff(lost) > 0).all()


@pytest.mark.parametrize("name", losses.METRIC_LOSSES)
def test_the_slope_is_finite_even_where_embeddings_are_the_same(name):
    same = unit(np.repeat(EMBEDDINGS[:2], 2, axis=0)).astype(np.float32)
    labels = np.array([0, 0, 1, 1])
    classes = 2
    inputs = keras.Input((6,))
    outputs = keras.layers.Dense(6, use_bias=False, kernel_initializer="identity")(inputs)
    if name == "arcface":
        same = np.tile(np.eye(2, 6, dtype=np.float32), (2, 1))  # cosines of exactly 1 and 0
        outputs = outputs[:, :classes]
    model = keras.Model(inputs, outputs)
    model.compile(keras.optimizers.SGD(0.1), losses.METRIC_LOSSES[name], jit_compile=False)

    model.train_on_batch(same, labels)

    assert np.isfinite(model.get_weights()[0]).all()
