"""Indexes of format version 1 answer for ever; make_golden.py beside this file says how they were made."""

import importlib.util
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from imgsearch import Filter, Index, build_index, check
from imgsearch.cli import main
from imgsearch.images import PIXELS_VERSION
from imgsearch.store import generations, integrity
from imgsearch.store.arrays import open_array
from imgsearch.store.manifest import WordsFacts
from imgsearch.store.search_settings import BackendSettings
from imgsearch.text import sentences
from imgsearch.text.lexical import match_expression
from index_fixtures import rows_where

GOLDEN = Path(__file__).parent / "golden"
OLDEST = GOLDEN / "v1"
ANSWERS = json.loads((OLDEST / "answers.json").read_text())
BOTH = pytest.mark.parametrize("backend", ["exact", "annoy"])
NEWER = GOLDEN / "v1-2026-11"
NEWER_ANSWERS = json.loads((NEWER / "answers.json").read_text())
RETRIEVAL = GOLDEN / "v1-lite0-retrieval"
PRODUCTS = GOLDEN / "v1-products" / "products"
WORDS = GOLDEN / "v1-words" / "words"
ALL = pytest.mark.parametrize("name", sorted(NEWER_ANSWERS))


@pytest.fixture(scope="module")
def maker():
    spec = importlib.util.spec_from_file_location("make_golden", Path(__file__).with_name("make_golden.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# --- the oldest, of which today's code need know no more than it has


@BOTH
def test_the_oldest_index_gives_its_stored_answers_and_is_whole_and_is_not_changed(backend, tmp_path):
    directory = Path(shutil.copytree(OLDEST / backend, tmp_path / "index"))
    with Index.open(directory) as index:
        manifest = index.manifest
        assert (len(index), manifest.generation, manifest.rejected, manifest.dims) == (13, 1, 1, 8)
        assert (manifest.catalog, manifest.metadata_file) == ("/catalogue", "/products.csv")
        assert manifest.backend == BackendSettings(backend, 2, 0, 20_000)
        assert manifest.encoder.name == "handcrafted"
        assert [(bad.path, bad.cause) for bad in index.items.rejected()] == [("empty.jpg", "empty")]
        assert list(index.items.damaged()) == []
        assert [item.path for item in index.items.fetch(rows_where(index.items, "metadata->>'price' > 1"))] == [
            "fruit/00.png"
        ]
        assert "caf\udce9.png" in [item.path for item in index.items.fetch(range(13))]
        for query, expected in ANSWERS.items():
            hits = index.search(OLDEST / query, k=13)
            assert [(hit.path, hit.product, hit.metadata) for hit in hits] == [
                (hit["path"], hit["product"], hit["metadata"]) for hit in expected
            ]
            # The query is decoded and encoded here and now, by whatever OpenCV there is.
            assert [hit.score for hit in hits] == pytest.approx([hit["score"] for hit in expected], abs=1e-3)
        index.search(OLDEST / "photo.png", filter=Filter("category = 'fruit'"))

    for name in manifest.files:
        integrity.check_content(directory, manifest, name)
    on_disk = {path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file()}
    assert on_disk == {*manifest.files, generations.MANIFEST}
    for name in on_disk:
        assert (directory / name).read_bytes() == (OLDEST / backend / name).read_bytes()


# --- those that have what there is in 2026-11


@ALL
def test_a_newer_index_gives_its_stored_answers_and_is_whole(maker, tmp_path, name):
    with Index.open(NEWER / name) as index:
        for number, expected in NEWER_ANSWERS[name].items():
            (tmp_path / "photo.bmp").write_bytes(maker.drawn(int(number)))
            hits = index.search(tmp_path / "photo.bmp", k=5)
            boxes = [hit.box and [hit.box.x, hit.box.y, hit.box.width, hit.box.height] for hit in hits]
            assert [(hit.path, hit.product, hit.metadata) for hit in hits] == [
                (hit["path"], hit["product"], hit["metadata"]) for hit in expected
            ]
            assert boxes == [hit["box"] for hit in expected]
            for field in ("score", "probability"):
                values = [getattr(hit, field) for hit in hits]
                assert values == pytest.approx([hit[field] for hit in expected], abs=1e-3)

    assert check(NEWER / name, deep=True) == []


@ALL
def test_a_build_that_keeps_pixels_embeds_nothing_anew_and_keeps_all_options(maker, tmp_path, name):
    directory = Path(shutil.copytree(NEWER / name, tmp_path / "index"))
    before = generations.read_manifest(directory)
    maker.lay_out(tmp_path / "catalog", NEWER / "damaged.jpg")
    (tmp_path / "products.csv").write_text(maker.PRODUCTS)
    metadata = tmp_path / "products.csv" if before.metadata_file else None

    report = build_index(tmp_path / "catalog", directory, metadata=metadata, keep_pixels=True)

    after = generations.read_manifest(directory)
    assert (report.embedded, report.published, after.generation) == (0, True, 2)  # the catalog lies elsewhere now
    for field in ("encoder", "fingerprint", "detector", "detector_fingerprint", "policy", "search", "adaptation"):
        assert getattr(after, field) == getattr(before, field), field
    assert (after.count, after.rejected, after.damaged) == (before.count, before.rejected, before.damaged)
    assert after.calibration == before.calibration
    assert not build_index(tmp_path / "catalog", directory, metadata=metadata, keep_pixels=True).published
    assert check(directory, deep=True) == []


def test_a_build_says_once_that_another_decoder_embeds_all_again_and_for_how_long(maker, tmp_path, caplog):
    directory = Path(shutil.copytree(NEWER / "adapted", tmp_path / "index"))
    before = generations.read_manifest(directory)
    maker.lay_out(tmp_path / "catalog", NEWER / "damaged.jpg")

    reports = [build_index(tmp_path / "catalog", directory) for _ in range(2)]

    after = generations.read_manifest(directory)
    said = [record.getMessage() for record in caplog.records if "--keep-pixels" in record.getMessage()]
    assert len(said) == 1
    assert f"all {before.count + before.rejected} are embedded again" in said[0]
    assert "minute" in said[0]
    assert [(report.embedded, report.published) for report in reports] == [(before.count, True), (0, False)]
    assert after.encoder == replace(before.encoder, pixels=PIXELS_VERSION)
    assert (after.adaptation, after.projection_count) == (before.adaptation, before.projection_count)
    assert check(directory, deep=True) == []


def test_a_build_does_not_say_that_nothing_is_embedded_again(tmp_path, caplog, monkeypatch):
    (tmp_path / "catalog").mkdir()
    with monkeypatch.context() as patch:
        patch.setattr("imgsearch.build.options.PIXELS_VERSION", 1)
        build_index(tmp_path / "catalog", tmp_path / "index", backbone="handcrafted", force=True)

    assert build_index(tmp_path / "catalog", tmp_path / "index").published
    assert caplog.messages == []


def test_an_index_of_the_default_encoder_answers_as_it_did_when_a_build_has_put_the_encoder_back(maker, tmp_path):
    directory = Path(shutil.copytree(RETRIEVAL / "retrieval", tmp_path / "index"))
    expected = json.loads((RETRIEVAL / "answers.json").read_text())["retrieval"]
    maker.lay_out(tmp_path / "catalog", RETRIEVAL / "damaged.jpg")

    def assert_answers(number, within):
        (tmp_path / "photo.bmp").write_bytes(maker.drawn(int(number)))
        with Index.open(directory) as index:
            hits = index.search(tmp_path / "photo.bmp", k=5)
        assert [hit.path for hit in hits] == [hit["path"] for hit in expected[number]]
        assert [hit.score for hit in hits] == pytest.approx([hit["score"] for hit in expected[number]], abs=within)

    report = build_index(tmp_path / "catalog", directory)
    assert (report.embedded, report.encoder) == (0, "lite0-retrieval")
    assert_answers("2", 1e-5)  # which it knows
    assert_answers("99", 1e-3)
    assert check(directory, deep=True) == []


def test_an_index_with_columns_colors_and_unmatched_rows_answers_by_them(maker, tmp_path):
    expected = json.loads(PRODUCTS.with_name("answers.json").read_text())["products"]
    with Index.open(PRODUCTS) as index:
        for number, hits in expected.items():
            (tmp_path / "photo.bmp").write_bytes(maker.drawn(int(number)))
            found = index.search(tmp_path / "photo.bmp", k=5)
            assert [(hit.path, hit.product, hit.metadata) for hit in found] == [
                (hit["path"], hit["product"], hit["metadata"]) for hit in hits
            ]
            assert [hit.score for hit in found] == pytest.approx([hit["score"] for hit in hits], abs=1e-3)

        def paths(filter_, **options):
            vector = index.nearest.vectors[1]
            return [hit.path for hit in index.search_vector(vector, 30, filter=filter_, **options)]

        assert paths(Filter("price < 2 and stock > 5")) == ["vegetables/01.bmp"]
        assert set(paths(Filter("new and has(tags, 'sweet')"))) == {"fruit/00.bmp", "fruit/02.bmp"}
        assert paths(Filter("added >= '2024-02'")) == ["fruit/04.bmp"]
        assert paths(Filter("note > 5")) == paths(Filter(category="fruit", where="product = 'Apple'"))
        assert len(paths(Filter("product = 'Apple'"), distinct="product")) == 1
        assert "fruit/00.bmp" in paths(Filter(color="blue"))
        assert 0 < len(paths(Filter(color="#363e8d"))) < len(index)
        assert list(index.items.rows_without_image(9)) == [(5, "gone.bmp")]
        assert index.items.unmatched_counts() == (1, 21)
    assert check(PRODUCTS, deep=True) == []


def test_an_index_with_words_finds_items_by_them_and_keeps_their_vectors(maker, tmp_path):
    expected = json.loads(WORDS.with_name("answers.json").read_text())["words"]
    with Index.open(WORDS) as index:
        (tmp_path / "photo.bmp").write_bytes(maker.drawn(2))
        found = index.search(tmp_path / "photo.bmp", k=5)
        assert [(hit.path, hit.metadata) for hit in found] == [(hit["path"], hit["metadata"]) for hit in expected["2"]]
        for question, path in {
            "APPLE ab-1234": "fruit/00.bmp",
            "4006381333931": "fruit/02.bmp",
            "Grune": "fruit/04.bmp",
            "辣椒": "vegetables/01.bmp",
            "caf": "caf\udce9.bmp",
        }.items():
            rows, scores = index.items.matches(match_expression(question))
            assert index.items.fetch([rows[scores.argmax()]])[0].path == path
        own = index.items.own_words()
        assert set(index.items.texts(own).values()) == {"A red apple", "Eine grüne Birne", "红色的辣椒"}
        words, count = index.manifest.words, index.manifest.count
    assert words == WordsFacts(("title",), sentences.IDENTITY, 4, 0, None)
    texts = open_array(WORDS / "gen-000001" / generations.TEXT, count, sentences.DIMS)
    assert np.flatnonzero(texts.any(axis=1)).tolist() == own.tolist()
    assert check(WORDS, deep=True) == []


def test_each_newer_index_has_what_it_is_named_for():
    manifests = {name: generations.read_manifest(NEWER / name) for name in NEWER_ANSWERS}

    assert {name for name, manifest in manifests.items() if manifest.adaptation and manifest.projection_count} == {
        "adapted"
    }
    assert {name for name, manifest in manifests.items() if manifest.calibration} == {"calibrated"}
    assert {name for name, manifest in manifests.items() if manifest.detector} == {"detector"}
    assert {name for name, manifest in manifests.items() if manifest.encoder.parts} == {"hybrid"}
    assert {name for name, manifest in manifests.items() if manifest.damaged and manifest.policy.follow_links} == {
        "policy"
    }
    assert {manifest.backend.name for manifest in manifests.values()} == {"annoy", "exact", "faiss"}


def test_golden_indexes_are_small_and_hold_nothing_of_the_machine_that_made_them():
    sizes = {path: path.stat().st_size for path in GOLDEN.rglob("*") if path.is_file()}

    assert max(sizes.values()) < 500_000
    assert sum(sizes.values()) < 3_000_000
    for path in sizes:
        data = path.read_bytes()
        assert b"/tmp" not in data
        assert os.fsencode(Path.home()) not in data


def test_info_claims_nothing_of_colors_that_an_older_decoder_read(capsys):
    assert main(["info", "--index", str(NEWER / "adapted")]) == 0

    said = capsys.readouterr().out
    assert "color profiles  not applied: an older imgsearch read the images\n" in said
    assert "of one color    not counted\n" in said
