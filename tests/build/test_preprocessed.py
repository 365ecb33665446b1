"""build-index --preprocess: what is done to every image of the catalog is done to every query."""

import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from imgsearch import Index, build_index, check, embed
from imgsearch.cli import main
from imgsearch.encoders.choice import choose_encoder
from imgsearch.encoders.runtime import HandcraftedEncoder, encode
from imgsearch.errors import UsageError
from imgsearch.images.decode import decode
from imgsearch.images.steps import Steps
from imgsearch.images.transform import fit
from imgsearch.store import generations
from imgsearch.store.generations import read_manifest

COLOR = {"backbone": "handcrafted:color", "backend": "exact", "trim": False}


@pytest.fixture
def index(small, tmp_path) -> Path:
    """The small catalog by its colors, of which preprocessing leaves none."""
    build_index(small, tmp_path / "index", preprocess="grayscale", **COLOR)
    return tmp_path / "index"


def gray(file: Path, target: Path) -> Path:
    """The same image without its colors."""
    pixels = Steps(grayscale=True).apply(decode(file.read_bytes()))
    target.write_bytes(cv2.imencode(".png", pixels[:, :, ::-1])[1].tobytes())
    return target


@pytest.mark.parametrize(
    "steps", ["grayscale", "binarize=otsu", "rotate=90", "denoise,equalize", "deskew,crop-foreground"]
)
def test_images_are_embedded_as_they_are_after_the_steps(small, tmp_path, steps):
    build_index(small, tmp_path / "index", preprocess=steps, **(COLOR | {"trim": "crop-foreground" in steps}))

    rows = np.load(tmp_path / "index/gen-000001" / generations.EMBEDDINGS)
    encoder = HandcraftedEncoder(choose_encoder("handcrafted:color").spec)
    expected = [
        fit(Steps.parse(steps).apply(decode(file.read_bytes())), encoder.spec.size)
        for file in sorted(small.rglob("*.png"))
    ]
    likeness = rows @ encode(encoder, np.stack(expected)).T
    assert np.allclose(np.sort(likeness.max(axis=1)), 1, atol=1e-5)
    assert check(tmp_path / "index", deep=True) == []


def test_a_query_goes_through_the_same_steps(small, index, tmp_path):
    file = sorted(small.rglob("*.png"))[4]
    photo = gray(file, tmp_path / "photo.png")
    (tmp_path / "colors.png").write_bytes(file.read_bytes() + b"\0")

    with Index.open(index) as opened:
        for query in (photo, tmp_path / "colors.png"):
            best = opened.search(query, k=1)[0]
            assert (best.path, best.score) == (str(file.relative_to(small)), pytest.approx(1, abs=1e-5))


def test_steps_stick_and_their_order_does_not_matter(small, index, painted):
    assert not build_index(small, index).published
    assert not build_index(small, index, preprocess=" grayscale ").published
    (small / "new.png").write_bytes(painted(77))

    report = build_index(small, index)

    assert (report.embedded, report.unchanged) == (1, 12)
    assert read_manifest(index).encoder.steps == "grayscale"
    report = build_index(small, index, preprocess="binarize=otsu,grayscale")
    assert report.embedded == 13
    assert not build_index(small, index, preprocess="grayscale,binarize=otsu").published


def test_steps_are_taken_back_by_saying_none(small, index, tmp_path, contents):
    build_index(small, tmp_path / "plain", **COLOR)

    report = build_index(small, index, preprocess="")

    assert report.embedded == 12
    assert read_manifest(index).encoder.steps == ""
    assert contents(index) == contents(tmp_path / "plain")
    assert read_manifest(index).fingerprint == read_manifest(tmp_path / "plain").fingerprint


def test_steps_stick_to_an_index_of_another_encoder_too(small, index):
    build_index(small, index, backbone="handcrafted:shape+handcrafted:texture")

    encoder = read_manifest(index).encoder
    assert (encoder.steps, [part.spec.steps for part in encoder.parts]) == ("grayscale", ["", ""])
    assert check(index, deep=True) == []


def test_a_step_that_does_not_exist_is_a_usage_error_and_changes_nothing(small, index):
    before = read_manifest(index)

    for steps in ("paint", "rotate", "rotate=nan", "grayscale,grayscale", "binarize=300", ",", "grayscale;deskew"):
        with pytest.raises(UsageError) as refused:
            build_index(small, index, preprocess=steps)
        assert "crop-foreground" in refused.value.hint
    assert read_manifest(index) == before


def test_embeddings_are_preprocessed_by_embed_and_an_index_of_them_knows(small, index, tmp_path, contents):
    embed(small, tmp_path / "embeddings", backbone="handcrafted:color", preprocess="grayscale", trim=False)
    build_index(tmp_path / "embeddings", tmp_path / "other", backend="exact")

    assert contents(tmp_path / "other") == contents(index)
    assert read_manifest(tmp_path / "other").encoder.steps == "grayscale"
    with pytest.raises(UsageError, match="give --preprocess to embed"):
        build_index(tmp_path / "embeddings", tmp_path / "other", preprocess="deskew")


def test_an_index_with_steps_that_was_moved_answers(small, index, tmp_path):
    shutil.move(index, tmp_path / "moved")
    file = min(small.rglob("*.png"))
    photo = gray(file, tmp_path / "photo.png")

    with Index.open(tmp_path / "moved") as opened:
        assert opened.search(photo, k=1)[0].path == str(file.relative_to(small))


def test_the_program_preprocesses_and_says_so(small, tmp_path, capsys):
    index = ["--index", str(tmp_path / "idx")]
    build = ["build-index", str(small), *index, "--backbone", "handcrafted:color", "--preprocess"]

    assert main([*build, "grayscale"]) == 0
    assert main([*build, "paint"]) == 2
    assert "hint: steps are" in capsys.readouterr().err
    assert main(["info", *index]) == 0
    assert "preprocessing   crop-foreground,grayscale" in capsys.readouterr().out


# --- models


def test_a_model_s_steps_are_the_index_s_and_cannot_be_others(small, tiny_models, tmp_path):
    build_index(small, tmp_path / "index", backbone=str(tiny_models / "gray.keras"), backend="exact")
    assert read_manifest(tmp_path / "index").encoder.steps == "grayscale"

    with pytest.raises(UsageError, match="alike"):
        build_index(small, tmp_path / "index", backbone=str(tiny_models / "gray.keras"), preprocess="deskew")


def test_a_model_s_own_steps_are_not_replaced_where_only_steps_are_given(small, tiny_models, tmp_path):
    build_index(small, tmp_path / "index", backbone=str(tiny_models / "gray.keras"), backend="exact")

    with pytest.raises(UsageError):
        build_index(small, tmp_path / "index", preprocess="deskew")


def test_a_model_takes_the_place_of_an_encoder_with_steps_only_if_they_are_named_or_its_own(small, index, tiny_models):
    build_index(small, index, backbone=str(tiny_models / "gray.keras"))
    assert read_manifest(index).encoder.steps == "grayscale"
    build_index(small, index, preprocess="", **COLOR)  # a model's steps go with the model
    assert read_manifest(index).encoder.steps == ""


def test_a_new_index_is_trimmed_and_one_of_before_is_not_unless_that_is_said(small, tmp_path):
    build_index(small, tmp_path / "new", backbone="handcrafted:color", backend="exact")
    build_index(small, tmp_path / "plain", **COLOR)

    assert not build_index(small, tmp_path / "new").published
    assert not build_index(small, tmp_path / "plain").published
    assert read_manifest(tmp_path / "new").encoder.steps == "crop-foreground"
    assert build_index(small, tmp_path / "new", preprocess="grayscale").embedded == 12
    assert read_manifest(tmp_path / "new").encoder.steps == "crop-foreground,grayscale"
    assert build_index(small, tmp_path / "new", preprocess="", trim=False).embedded == 12
    assert read_manifest(tmp_path / "new").fingerprint == read_manifest(tmp_path / "plain").fingerprint


def test_to_trim_and_not_to_trim_is_a_usage_error(small, tmp_path):
    with pytest.raises(UsageError, match="cannot be combined"):
        build_index(small, tmp_path / "index", preprocess="crop-foreground", trim=False)


def test_a_model_is_trimmed_only_if_that_is_said(small, tiny_models, tmp_path):
    build_index(small, tmp_path / "index", backbone=str(tiny_models / "classes.keras"), backend="exact")
    assert read_manifest(tmp_path / "index").encoder.steps == ""

    build_index(small, tmp_path / "index", backbone=str(tiny_models / "classes.keras"), trim=True)
    assert read_manifest(tmp_path / "index").encoder.steps == "crop-foreground"


def test_other_steps_than_those_of_a_model_ask_for_the_model_itself(small, tiny_models, tmp_path):
    model = Path(shutil.copy(tiny_models / "classes.keras", tmp_path))  # exported under its name
    build_index(small, tmp_path / "index", backbone=str(model), backend="exact")

    with pytest.raises(UsageError) as refused:
        build_index(small, tmp_path / "index", preprocess="grayscale")

    assert "--backbone" in refused.value.hint
    assert read_manifest(tmp_path / "index").generation == 1
