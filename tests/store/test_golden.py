"""An index of format version 1 answers for ever; make_golden.py beside this file made it, and is not run again."""

import json
import os
import shutil
from pathlib import Path

import pytest

from imgsearch import Filter, Index
from imgsearch.store import generations, integrity
from imgsearch.store.plan import BackendSettings

GOLDEN = Path(__file__).parent / "golden" / "v1"
ANSWERS = json.loads((GOLDEN / "answers.json").read_text())
BOTH = pytest.mark.parametrize("backend", ["exact", "annoy"])


@BOTH
@pytest.mark.parametrize("query", sorted(ANSWERS))
def test_an_index_of_version_1_gives_its_stored_answers(backend, query):
    with Index.open(GOLDEN / backend) as index:
        hits = index.search(GOLDEN / query, k=13)

    assert [(hit.path, hit.product, hit.metadata) for hit in hits] == [
        (hit["path"], hit["product"], hit["metadata"]) for hit in ANSWERS[query]
    ]
    # The query is decoded and encoded here and now, by whatever OpenCV there is.
    assert [hit.score for hit in hits] == pytest.approx([hit["score"] for hit in ANSWERS[query]], abs=1e-3)


@BOTH
def test_an_index_of_version_1_says_what_it_holds(backend):
    with Index.open(GOLDEN / backend) as index:
        manifest = index.manifest
        assert (len(index), manifest.generation, manifest.rejected, manifest.dims) == (13, 1, 1, 8)
        assert (manifest.catalog, manifest.metadata_file) == ("/catalogue", "/products.csv")
        assert manifest.backend == BackendSettings(backend, 2, 0, 20_000)
        assert manifest.encoder.name == "handcrafted"
        assert [(bad.path, bad.cause) for bad in index.items.rejected()] == [("empty.jpg", "empty")]
        assert [item.path for item in index.items.at(index.items.rows_where("metadata->>'price' > 1"))] == [
            "fruit/00.png"
        ]
        assert "caf\udce9.png" in [item.path for item in index.items.at(range(13))]


@BOTH
def test_an_index_of_version_1_is_whole(backend):
    manifest = generations.read_manifest(GOLDEN / backend)

    for name in manifest.files:
        integrity.check_content(GOLDEN / backend, manifest, name)
    on_disk = {str(path.relative_to(GOLDEN / backend)) for path in (GOLDEN / backend).rglob("*") if path.is_file()}
    assert on_disk == {*manifest.files, generations.MANIFEST}


@BOTH
def test_reading_an_index_changes_nothing_in_it(backend, tmp_path):
    shutil.copytree(GOLDEN / backend, tmp_path / "index")
    before = {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in (tmp_path / "index").rglob("*")}

    with Index.open(tmp_path / "index") as index:
        index.search(GOLDEN / "photo.png", filter=Filter("category = 'fruit'"))
        index.search(GOLDEN / "photo.png")

    after = {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in (tmp_path / "index").rglob("*")}
    assert after == before


def test_the_golden_index_holds_nothing_of_the_machine_that_made_it():
    for path in GOLDEN.rglob("*.json"):
        text = path.read_text()
        assert "/tmp" not in text
        assert os.path.expanduser("~") not in text  # noqa: PTH111  # as text
