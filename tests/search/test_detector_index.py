"""A detector in an index: it comes, stays, is left out, and is whole or said not to be."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from imgsearch import Index, build_index, check, embed, rollback
from imgsearch.build.adapt import item_embedder
from imgsearch.encoders import export
from imgsearch.encoders.adaptation import MIN_IMAGES, SCENE_VIEWS
from imgsearch.encoders.choice import choose_detector, choose_encoder
from imgsearch.encoders.projection import AdaptationGain
from imgsearch.encoders.runtime import GRAPH_FILE, encode, files_of, open_encoder
from imgsearch.errors import DamagedIndexError, MissingComponentError, UsageError
from imgsearch.images.boxes import Box
from imgsearch.images.photo import Photo
from imgsearch.regions.detections import MIN_SCORE, Detection, Detector
from imgsearch.search.views import QueryImage
from imgsearch.store import generations
from imgsearch.store.generations import read_manifest
from imgsearch.store.manifest import _digest

# What is built of the same two models every time.
SETTINGS = {"precision": "f32", "backend": "exact"}
# Where it does not matter what the catalog teaches: to look into that takes a second.
UNTAUGHT = {**SETTINGS, "adapt": False}


@pytest.fixture
def models(tiny_models, tmp_path) -> Path:
    return Path(shutil.copytree(tiny_models, tmp_path / "models"))


@pytest.fixture(scope="session")
def shop(tiny_models, lay_out, tmp_path_factory) -> Path:
    """A catalog, and an index of it with a detector. Not to be changed: copy it."""
    folder = tmp_path_factory.mktemp("shop")
    lay_out(folder / "catalog", 12)
    models = tiny_models / "metric.keras", tiny_models / "detector.keras"
    build_index(folder / "catalog", folder / "index", backbone=str(models[0]), detector=models[1], **UNTAUGHT)
    return folder


@pytest.fixture(scope="session")
def teaching(lay_out, tmp_path_factory) -> Path:
    """A catalog that is just large enough to learn from. Not to be changed."""
    return lay_out(tmp_path_factory.mktemp("teaching"), MIN_IMAGES)


@pytest.fixture
def catalog(shop, tmp_path) -> Path:
    return Path(shutil.copytree(shop / "catalog", tmp_path / "catalog"))


@pytest.fixture
def index(shop, tmp_path) -> Path:
    return Path(shutil.copytree(shop / "index", tmp_path / "index"))


@pytest.fixture(scope="session")
def two_items(tmp_path_factory) -> Path:
    """A bright photo of 400 x 200 pixels, of which the detector finds two fields of 100 x 100 dark."""
    image = np.random.default_rng(0).integers(150, 256, (200, 400, 3), np.uint8)
    image[0:100, 300:400] = 5
    image[100:200, 100:200] = 20
    file = tmp_path_factory.mktemp("photo") / "two.png"
    file.write_bytes(cv2.imencode(".png", image)[1].tobytes())
    return file


BOXES = {Box(300, 0, 100, 100), Box(100, 100, 100, 100)}


def detections(opened: Index, image: Path, least_score: float = MIN_SCORE) -> list[Detection]:
    return opened.viewer.detections(QueryImage.read(image, opened.manifest.policy), least_score)


def boxes_of(index: Path, image: Path) -> set[Box]:
    with Index.open(index) as opened:
        return {found.box for found in detections(opened, image)}


def detector_files(index: Path) -> list[Path]:
    return sorted((index / read_manifest(index).detector_folder).iterdir())


def encoders(index: Path) -> set[str]:
    return {folder.name for folder in (index / "encoders").iterdir()}


def test_a_build_puts_it_in_and_it_finds_what_is_there(index, two_items):
    manifest = read_manifest(index)

    assert manifest.detector.name == "detector.keras"
    assert manifest.detector.kind == "detector"
    assert encoders(index) == {manifest.fingerprint, manifest.detector_fingerprint}
    assert len(manifest.fingerprints) == 2
    assert check(index) == []
    assert boxes_of(index, two_items) == BOXES
    with Index.open(index) as opened:
        found = detections(opened, two_items)
        assert [each.score for each in found] == sorted([each.score for each in found], reverse=True)
        assert detections(opened, two_items, 1) == []
        assert len(detections(opened, two_items, 0)) == 8  # half of the sixteen fields are padding


def test_objects_are_those_of_the_detector_in_reading_order_with_their_scores(index, two_items):
    with Index.open(index) as opened:
        objects = opened.search_objects(two_items, k=3)

        assert [found.box for found in objects] == [Box(300, 0, 100, 100), Box(100, 100, 100, 100)]
        for found in objects:
            assert 0.3 <= found.score <= 1
            assert [hit.rank for hit in found.hits] == [1, 2, 3]
            assert all(hit.box is not None for hit in found.hits)


def test_a_query_is_answered_with_it_and_its_vectors_are_the_encoders_own(index, catalog, two_items, tmp_path):
    image = sorted(catalog.rglob("*.png"))[3]
    (tmp_path / "again.png").write_bytes(image.read_bytes() + b"\0")

    with Index.open(index) as opened:
        hits = opened.search(tmp_path / "again.png", k=3)
        regions = opened.search(two_items, k=12)

    assert hits[0].path == image.relative_to(catalog).as_posix()
    assert hits[0].score > 0.999
    assert len({hit.path for hit in regions}) == 12
    assert [hit.score for hit in regions] == sorted([hit.score for hit in regions], reverse=True)


def test_a_nightly_build_keeps_it_without_its_file(index, catalog, lay_out, two_items, monkeypatch, tmp_path):
    monkeypatch.setenv("IMGSEARCH_CACHE", str(tmp_path / "no cache"))
    lay_out(catalog, 2, first=50)

    build_index(catalog, index)

    assert read_manifest(index).generation == 2
    assert read_manifest(index).detector.name == "detector.keras"
    assert check(index) == []
    assert boxes_of(index, two_items) == BOXES


def test_a_build_of_the_same_again_publishes_nothing_and_none_takes_it_out(index, catalog, two_items):
    build_index(catalog, index)  # the catalog has moved
    generation = read_manifest(index).generation
    build_index(catalog, index)
    assert read_manifest(index).generation == generation

    build_index(catalog, index, detector="none")

    manifest = read_manifest(index)
    assert manifest.generation == generation + 1
    assert manifest.detector is None
    assert manifest.detector_fingerprint == ""
    assert check(index) == []
    with Index.open(index) as opened, pytest.raises(MissingComponentError, match="has no detector") as missing:
        detections(opened, two_items)
    assert "--detector" in missing.value.hint
    build_index(catalog, index)
    assert read_manifest(index).detector is None


def test_it_is_swept_when_two_generations_do_without_it(index, catalog, lay_out):
    fingerprint = read_manifest(index).detector_fingerprint

    build_index(catalog, index, detector="none")
    assert fingerprint in encoders(index)  # for the generation before, to be rolled back to
    lay_out(catalog, 1, first=60)
    build_index(catalog, index)

    assert encoders(index) == {read_manifest(index).fingerprint}


def test_rollback_returns_to_the_generation_with_it_and_to_the_one_without(index, catalog, two_items):
    build_index(catalog, index, detector="none")

    assert rollback(index).detector.name == "detector.keras"
    assert boxes_of(index, two_items) == BOXES
    assert check(index) == []
    assert rollback(index).detector is None
    assert check(index) == []


def test_it_can_come_later_and_only_it_is_new(catalog, models, tmp_path, two_items):
    index = tmp_path / "late"
    build_index(catalog, index, backbone=str(models / "metric.keras"), **SETTINGS)
    folder = read_manifest(index).folder
    before = (index / folder / generations.EMBEDDINGS).read_bytes()

    report = build_index(catalog, index, detector=models / "detector.keras", adapt=False)

    assert read_manifest(index).generation == 2
    assert (index / read_manifest(index).folder / generations.EMBEDDINGS).read_bytes() == before
    assert boxes_of(index, two_items) == BOXES
    assert report.published


@pytest.mark.slow
def test_with_one_the_catalog_teaches_the_projection_unless_that_is_not_wanted(teaching, models, tmp_path):
    files = {"backbone": str(models / "metric.keras"), "detector": models / "detector.keras"}
    build_index(teaching, tmp_path / "taught", **files, **SETTINGS)
    build_index(teaching, tmp_path / "plain", adapt=False, **files, **SETTINGS)
    taught, plain = (read_manifest(tmp_path / name) for name in ("taught", "plain"))
    assert taught.adaptation is not None
    assert plain.adaptation is None

    for name, published in (("taught", taught), ("plain", plain)):
        build_index(teaching, tmp_path / name)
        build_index(teaching, tmp_path / name, detector=models / "detector.keras")
        assert read_manifest(tmp_path / name) == published


def test_a_projection_is_taught_when_a_detector_comes_and_again_when_another_does(
    teaching, models, tiny_models, tmp_path, monkeypatch
):
    index = tmp_path / "index"
    looks = []
    monkeypatch.setattr("imgsearch.build.adapt.Adapter.learn", _adapting_to(looks))
    monkeypatch.setattr(export, "_export_elsewhere", _exported_before(tiny_models))
    build_index(teaching, index, backbone=str(models / "metric.keras"), adapt=True, **SETTINGS)
    assert looks == [None]

    build_index(teaching, index, detector=models / "detector.keras")
    assert len(looks) == 2
    assert looks[1] is not None
    build_index(teaching, index, detector=models / "detector.keras")
    assert len(looks) == 2
    (models / "detector.keras").rename(models / "another.keras")
    build_index(teaching, index, detector=models / "another.keras")
    assert len(looks) == 3
    build_index(teaching, index, detector="none")

    assert len(looks) == 3
    assert read_manifest(index).adaptation is not None


def test_too_few_images_to_learn_from_are_no_error_where_nobody_asked_for_it(catalog, models, tmp_path, caplog):
    files = {"backbone": str(models / "metric.keras"), "detector": models / "detector.keras"}
    for image in sorted(catalog.rglob("*.png"))[3:]:
        image.unlink()

    build_index(catalog, tmp_path / "small", **files, **SETTINGS)

    assert "is not adapted to the catalog: expected at least 20 different images" in caplog.text
    assert read_manifest(tmp_path / "small").adaptation is None
    generation = read_manifest(tmp_path / "small").generation
    build_index(catalog, tmp_path / "small", detector=models / "detector.keras")
    assert read_manifest(tmp_path / "small").generation == generation
    with pytest.raises(UsageError, match="found 3"):
        build_index(catalog, tmp_path / "asked", adapt=True, **files, **SETTINGS)


def test_items_in_scenes_are_seen_as_queries_are_and_scenes_without_one_as_a_whole(index):
    manifest = read_manifest(index)
    spec, folder = manifest.encoder, index / manifest.encoder_folder
    encoder = open_encoder(spec, folder, for_one=True)
    look = item_embedder(Detector(manifest.detector, index / manifest.detector_folder / GRAPH_FILE), encoder)
    scene = np.random.default_rng(0).integers(150, 256, (spec.size, spec.size, 3), np.uint8)
    scene[8:24, 16:24] = 5

    seen = look(scene)

    assert (seen.shape, seen.dtype) == ((SCENE_VIEWS, spec.dims), np.float32)
    with Index.open(index) as opened:
        regions = [
            view.vector for view in opened.viewer.views_of_photo(Photo(scene, scene.shape[:2]), "auto") if view.box
        ]
    assert len(regions) in (1, 2)
    assert np.allclose(seen[: len(regions)], regions, atol=1e-5)
    bright = np.full_like(scene, 240)
    assert np.allclose(look(bright), encode(encoder, bright[None]), atol=1e-5)


def test_one_for_another_encoder_is_refused_and_nothing_is_changed(index, catalog, models):
    before = (index / generations.MANIFEST).read_bytes()

    for name in ("detector-of-gray.keras", "detector-of-40.keras", "metric.keras", "classes.keras"):
        with pytest.raises(UsageError, match="expected"):
            build_index(catalog, index, detector=models / name)
    with pytest.raises(UsageError, match="expected an encoder, found a detector"):
        build_index(catalog, index, backbone=str(models / "detector.keras"))
    for name in ("missing.keras", ""):
        with pytest.raises((MissingComponentError, UsageError)):
            build_index(catalog, index, detector=models / name)

    assert (index / generations.MANIFEST).read_bytes() == before
    assert check(index) == []


def test_a_file_that_is_no_model_is_refused(index, catalog, models):
    for content in (b"", b"garbage", (models / "detector.keras").read_bytes()[:2000]):
        (models / "broken.keras").write_bytes(content)
        with pytest.raises((MissingComponentError, UsageError)):
            build_index(catalog, index, detector=models / "broken.keras")


def test_another_encoder_leaves_it_out_and_says_so(index, catalog, caplog):
    build_index(catalog, index, backbone="handcrafted")

    assert read_manifest(index).detector is None
    assert "the detector detector.keras is dropped" in caplog.text
    assert check(index) == []


def test_the_same_encoder_with_other_steps_keeps_it(catalog, models, tmp_path, caplog):
    # Identity is of the network alone; a model keeps its steps, so that only trimming can differ.
    index = tmp_path / "trimmed"
    settings = {"backbone": str(models / "metric.keras"), **UNTAUGHT}
    build_index(catalog, index, detector=models / "detector.keras", **settings)

    build_index(catalog, index, trim=True, **settings)

    assert read_manifest(index).encoder.steps == "crop-foreground"
    assert read_manifest(index).detector is not None
    assert "is dropped" not in caplog.text
    assert check(index) == []


def test_another_precision_needs_no_file_of_it(index, catalog, models, two_items, monkeypatch, tmp_path):
    monkeypatch.setenv("IMGSEARCH_CACHE", str(tmp_path / "no cache"))
    encoder = str(models / "metric.keras")

    (models / "detector.keras").unlink()

    build_index(catalog, index, backbone=encoder, precision="bf16", adapt=False)

    assert read_manifest(index).detector.precision == "bf16"
    assert boxes_of(index, two_items) == BOXES


@pytest.mark.parametrize("name", ["encoder.xml", "encoder.bin", "spec.json"])
@pytest.mark.parametrize("damage", ["garbage", "missing"])
def test_damage_of_it_is_found_and_said_and_a_build_mends_it(index, catalog, two_items, name, damage):
    (file,) = (file for file in detector_files(index) if file.name == name)
    if damage == "missing":
        file.unlink()
    else:
        content = file.read_bytes()
        file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))

    assert [Path(finding.file).name for finding in check(index)] == [name]
    with pytest.raises(DamagedIndexError), Index.open(index) as opened:
        detections(opened, two_items)
    with pytest.raises(DamagedIndexError), Index.open(index) as opened:
        opened.search(two_items)

    build_index(catalog, index)  # the cache still has it

    assert check(index) == []
    assert boxes_of(index, two_items) == BOXES


def test_images_of_the_catalog_need_neither_encoder_nor_detector(index, catalog):
    for file in (*detector_files(index), *(index / read_manifest(index).encoder_folder).iterdir()):
        size = file.stat().st_size
        file.write_bytes(bytes(size))
    image = min(catalog.rglob("*.png"))

    with Index.open(index) as opened:
        hit = opened.search(image, k=1)[0]

    assert (hit.path, round(hit.score, 5), hit.box) == (image.relative_to(catalog).as_posix(), 1.0, None)


def test_embeddings_become_an_index_with_a_detector(catalog, models, tmp_path, two_items, caplog):
    embed(catalog, tmp_path / "embeddings", backbone=str(models / "metric.keras"), precision="f32")
    index = tmp_path / "of embeddings"

    build_index(tmp_path / "embeddings", index, detector=models / "detector.keras", backend="exact")
    assert boxes_of(index, two_items) == BOXES
    assert check(index) == []

    build_index(tmp_path / "embeddings", index)
    assert read_manifest(index).detector is not None
    assert check(index) == []

    build_index(tmp_path / "embeddings", index, detector="none")
    assert read_manifest(index).detector is None
    with pytest.raises(UsageError):
        build_index(tmp_path / "embeddings", index, detector=models / "detector-of-gray.keras")
    embed(catalog, tmp_path / "embeddings", backbone="handcrafted")
    build_index(tmp_path / "embeddings", index)
    assert check(index) == []


def test_a_manifest_of_before_detectors_opens(index, catalog, two_items):
    build_index(catalog, index, detector="none")
    data = json.loads((index / generations.MANIFEST).read_text())
    assert data.pop("detector") is None
    _write(index, data)

    with Index.open(index) as opened:
        assert opened.manifest.detector is None
        assert len(opened.search(two_items, k=4)) == 4
    assert check(index) == []


@pytest.mark.parametrize(
    "changes",
    [
        {"fingerprint": "../../../../etc"},
        {"fingerprint": 7},
        {"fingerprint": "0" * 16},
        {"size": 40},
        {"size": -1},
        {"dims": 23},
        {"kind": "handcrafted"},
        {"kind": "model"},
        {"kind": "hybrid"},
        {"fit": "crop"},
        {"precision": "f64"},
        {"name": None},
        "garbage",
        [1],
        7,
    ],
    ids=str,
)
def test_a_manifest_that_lies_about_it_is_said_to_be_damaged_or_answered(index, two_items, changes):
    data = json.loads((index / generations.MANIFEST).read_text())
    data["detector"] = {**data["detector"], **changes} if isinstance(changes, dict) else changes
    _write(index, data)

    for ask in (detections, Index.search, Index.search_objects):
        try:
            with Index.open(index) as opened:
                assert isinstance(ask(opened, two_items), list)
        except (DamagedIndexError, MissingComponentError):
            pass
    assert isinstance(check(index), list) if _opens(index) else True


def _adapting_to(looks: list[object]):
    def learn(adapter, draft, sample, plain):
        looks.append(draft.detector)
        return plain, AdaptationGain(len(sample), 0.5, 0.6)

    return learn


def _exported_before(tiny_models: Path):
    """Export nothing anew, which would import Keras: the detector has another name, and the graph that it had."""

    def copy(spec, weights, directory):
        models = tiny_models / "detector.keras", choose_encoder(str(tiny_models / "metric.keras")).spec
        exported = export.exported_encoder(replace(choose_detector(*models).spec, precision=spec.precision))
        for name in files_of(spec):
            shutil.copy(exported / name, directory)

    return copy


def _write(index: Path, data: dict[str, object]) -> None:
    """Write a manifest that says it is whole."""
    data["sha256"] = _digest(data)
    (index / generations.MANIFEST).write_text(json.dumps(data))


def _opens(index: Path) -> bool:
    try:
        read_manifest(index)
    except DamagedIndexError:
        return False
    return True
