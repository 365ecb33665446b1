import shutil
from pathlib import Path

import numpy as np
import pytest

from imgsearch.encoders import export
from imgsearch.encoders.choice import choose_encoder
from imgsearch.encoders.classifier import Classifier
from imgsearch.encoders.export import exported_encoder
from imgsearch.encoders.model_file import load_model
from imgsearch.encoders.runtime import encode, open_encoder
from imgsearch.errors import ImageError, MissingComponentError, UsageError
from imgsearch.images.decode import decode
from imgsearch.images.transform import fit

LABELS = ("boots", "hats", "gloves")


@pytest.fixture(scope="module")
def classifier(tiny_models):
    return Classifier.open(tiny_models / "classes.keras")


@pytest.fixture(scope="module")
def images(drawn) -> list[Path]:
    return sorted(drawn.rglob("*.png"))


def test_embeddings_and_probabilities_are_those_of_keras(keras, classifier, tiny_models, images):
    squares = np.stack([fit(decode(file.read_bytes()), 32) for file in images])
    model = tiny_models / "classes.keras"
    rows, probabilities = load_model(model).predict_on_batch(squares)
    choice = choose_encoder(str(model))

    assert np.allclose(encode(open_encoder(choice.spec, exported_encoder(choice.spec)), squares), rows, atol=1e-3)
    for file, row in zip(images, probabilities, strict=True):
        found = {one.label: one.probability for one in classifier.classify(file)}
        assert [found[label] for label in LABELS] == pytest.approx(row.tolist(), abs=1e-3)


def test_classes_are_ranked_and_add_up_to_one(classifier, images):
    seen = set()
    for file in images:
        found = classifier.classify(file)
        seen.add(found[0].label)
        assert [one.rank for one in found] == [1, 2, 3]
        assert {one.label for one in found} == set(LABELS) == set(classifier.labels)
        probabilities = [one.probability for one in found]
        assert probabilities == sorted(probabilities, reverse=True)
        assert sum(probabilities) == pytest.approx(1, abs=1e-5)
    assert len(seen) > 1


@pytest.mark.parametrize(("k", "count"), [(1, 1), (2, 2), (3, 3), (100, 3)])
def test_at_most_so_many_classes_are_named_as_were_asked_for(classifier, images, k, count):
    assert classifier.classify(images[0], k) == classifier.classify(images[0])[:count]


def test_a_model_of_two_classes_has_two_probabilities(tiny_models, images):
    first, second = Classifier.open(tiny_models / "two.keras").classify(images[0])

    assert first.probability + second.probability == pytest.approx(1, abs=1e-5)


def test_a_model_without_classes_is_a_usage_error_with_a_way_out(tiny_models):
    with pytest.raises(UsageError, match="has no classes: it was trained for metric") as refused:
        Classifier.open(tiny_models / "metric.keras")

    assert "query --vote" in refused.value.hint


@pytest.mark.parametrize("name", ["none.keras", "folder.keras"])
def test_a_model_that_is_not_there_is_a_missing_component(tmp_path, name):
    (tmp_path / "folder.keras").mkdir()

    with pytest.raises(MissingComponentError, match=name):
        Classifier.open(tmp_path / name)


def test_a_file_of_another_name_is_no_model(tiny_models, tmp_path):
    shutil.copy(tiny_models / "classes.keras", tmp_path / "classes.zip")

    with pytest.raises((MissingComponentError, UsageError), match=r"classes\.zip"):
        Classifier.open(tmp_path / "classes.zip")


@pytest.mark.parametrize(
    ("data", "cause"),
    [(b"", "empty"), (b"text", "not_an_image"), (None, "vanished"), (b"\x89PNG\r\n\x1a\n", "corrupt")],
)
def test_an_image_that_cannot_be_used_is_an_image_error(classifier, tmp_path, data, cause):
    if data is not None:
        (tmp_path / "image.png").write_bytes(data)

    with pytest.raises(ImageError) as refused:
        classifier.classify(tmp_path / "image.png")
    assert (refused.value.exit_code, refused.value.cause) == (4, cause)


def test_a_model_that_was_trained_again_is_exported_again(keras, tiny_models, tmp_path, images, monkeypatch):
    monkeypatch.setattr(export, "_export_elsewhere", export.export_graph)  # Keras is here already
    file = Path(shutil.copy(tiny_models / "classes.keras", tmp_path))  # by that name it has been exported
    before = Classifier.open(file).classify(images[0])
    shutil.copy(tiny_models / "again.keras", file)

    after = Classifier.open(file).classify(images[0])

    assert [one.probability for one in after] != [one.probability for one in before]


def test_the_class_of_an_image_is_the_same_as_whichever_file_it_is(classifier, images, tmp_path):
    shutil.copy(images[3], tmp_path / "another name.jpg")  # a PNG all the same

    assert classifier.classify(str(tmp_path / "another name.jpg")) == classifier.classify(images[3])
