"""Visual words: a vocabulary that is learned on the catalog goes with the index."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from drawn_catalog import draw_catalog
from imgsearch import Index, build_index, check
from imgsearch.encoders.table import TABLE
from imgsearch.errors import MissingComponentError, UsageError
from imgsearch.store.generations import read_manifest

WORDS = {"backbone": "visual-words", "backend": "exact"}


@pytest.fixture(scope="module", autouse=True)
def few_words():
    """So that two dozen images are enough to learn them on."""
    row = TABLE["visual-words"]
    TABLE["visual-words"] = replace(row, spec=replace(row.spec, dims=64))
    yield
    TABLE["visual-words"] = row


@pytest.fixture(scope="module")
def learned(tmp_path_factory) -> Path:
    """A catalog of drawn images and an index of it by visual words. Not to be changed: copy it."""
    folder = tmp_path_factory.mktemp("words")
    draw_catalog(folder / "catalog", per_kind=2)
    build_index(folder / "catalog", folder / "index", **WORDS)
    return folder


@pytest.fixture
def shop(learned, tmp_path) -> Path:
    """The catalog and its index, to be changed; the cache knows nothing of it."""
    shutil.copytree(learned, tmp_path / "shop", copy_function=shutil.copy2)
    build_index(tmp_path / "shop/catalog", tmp_path / "shop/index")  # it has moved
    return tmp_path / "shop"


@pytest.fixture
def empty_cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("IMGSEARCH_CACHE", str(tmp_path / "empty"))
    return tmp_path / "empty"


def vocabulary(index: Path) -> bytes:
    return (index / read_manifest(index).encoder_folder / "vocabulary.npz").read_bytes()


def test_an_index_holds_its_vocabulary_and_names_it_by_its_content(learned):
    manifest = read_manifest(learned / "index")

    assert manifest.encoder.weights.startswith("sha256:")
    assert f"{manifest.encoder_folder}/vocabulary.npz" in manifest.files
    assert check(learned / "index", deep=True) == []
    assert manifest.encoder.dims == 64


def test_an_image_of_the_catalog_is_found_by_its_words(shop, empty_cache):
    file = shop / "catalog/cups/cups-00.png"
    (shop / "photo.png").write_bytes(file.read_bytes() + b"\0")

    with Index.open(shop / "index") as index:
        best = index.search(shop / "photo.png", k=1)[0]

    assert (best.path, best.score) == ("cups/cups-00.png", pytest.approx(1, abs=1e-4))


def test_the_same_catalog_teaches_the_same_words_elsewhere(learned, tmp_path, empty_cache):
    shutil.copytree(learned / "catalog", tmp_path / "elsewhere")

    build_index(tmp_path / "elsewhere", tmp_path / "index", **WORDS)

    assert vocabulary(tmp_path / "index") == vocabulary(learned / "index")


@pytest.mark.parametrize("backbone", [None, "visual-words"])
def test_the_vocabulary_is_kept_from_night_to_night(shop, painted, empty_cache, backbone):
    before = vocabulary(shop / "index")
    (shop / "catalog" / "new.png").write_bytes(painted(5, side=128))
    stages = set()

    report = build_index(
        shop / "catalog", shop / "index", backbone=backbone, progress=lambda stage, *_: stages.add(stage)
    )

    assert (report.embedded + report.rejected, report.unchanged) == (1, 24)
    assert vocabulary(shop / "index") == before
    assert "vocabulary" not in stages


def test_relearn_learns_new_words_from_new_images(shop):
    before = vocabulary(shop / "index")
    draw_catalog(shop / "catalog/more", per_kind=1, seed=9)

    report = build_index(shop / "catalog", shop / "index", relearn=True)

    assert report.embedded == 36
    assert vocabulary(shop / "index") != before
    assert check(shop / "index", deep=True) == []


def test_relearning_on_the_same_images_learns_the_same(shop):
    before = vocabulary(shop / "index")

    report = build_index(shop / "catalog", shop / "index", relearn=True)

    assert report.embedded == 0
    assert vocabulary(shop / "index") == before


def test_too_few_images_to_learn_words_on_are_a_usage_error(tmp_path, painted):
    (tmp_path / "catalog").mkdir()
    (tmp_path / "catalog/one.png").write_bytes(painted(1))

    with pytest.raises(UsageError):
        build_index(tmp_path / "catalog", tmp_path / "index", **WORDS)
    assert not (tmp_path / "index/manifest.json").exists()


def test_images_that_cannot_be_read_are_not_learned_from(learned, tmp_path, caplog):
    shutil.copytree(learned / "catalog", tmp_path / "catalog")
    (tmp_path / "catalog/bad.png").write_bytes(b"no image")
    (tmp_path / "catalog/empty.png").touch()

    report = build_index(tmp_path / "catalog", tmp_path / "index", **WORDS)

    assert (report.embedded, report.rejected) == (24, 2)
    assert vocabulary(tmp_path / "index") == vocabulary(learned / "index")


def test_a_lost_vocabulary_is_asked_for_and_learned_again_on_request(shop, empty_cache):
    file = shop / "index" / read_manifest(shop / "index").encoder_folder / "vocabulary.npz"
    file.unlink()
    (shop / "catalog/cups/cups-00.png").unlink()

    with pytest.raises(MissingComponentError, match="vocabulary") as refused:
        build_index(shop / "catalog", shop / "index")
    assert "--relearn" in refused.value.hint
    lost = read_manifest(shop / "index").encoder_folder
    build_index(shop / "catalog", shop / "index", relearn=True)
    assert {finding.file for finding in check(shop / "index", deep=True)} == {f"{lost}/vocabulary.npz"}  # for rollback
    assert vocabulary(shop / "index")


def test_words_go_into_a_hybrid(learned, tmp_path):
    build_index(learned / "catalog", tmp_path / "index", backbone="handcrafted:color+visual-words=0.5", backend="exact")

    manifest = read_manifest(tmp_path / "index")
    assert (manifest.encoder.dims, manifest.encoder.size) == (TABLE["handcrafted:color"].spec.dims + 64, 256)
    assert f"{manifest.encoder_folder}/1-vocabulary.npz" in manifest.files
    assert check(tmp_path / "index", deep=True) == []


LOST = "the vocabulary is looked for in the cache, and not in the index that has it"


def test_other_steps_are_done_with_the_vocabulary_that_the_index_has_or_another(shop, empty_cache):
    report = build_index(shop / "catalog", shop / "index", preprocess="grayscale")

    assert report.embedded == 24


def test_words_of_an_index_go_into_a_hybrid(shop, empty_cache):
    report = build_index(shop / "catalog", shop / "index", backbone="visual-words+handcrafted:color")

    assert report.embedded == 24


def test_words_are_learned_where_the_cache_cannot_be_written(learned, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("IMGSEARCH_CACHE", str(tmp_path / "file"))

    report = build_index(learned / "catalog", tmp_path / "index", **WORDS)

    assert report.embedded == 24
