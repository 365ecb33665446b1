"""Builds of these tests decode in their own process, and describe each image once."""

import pytest

from here_annoy import run_here
from imgsearch import build_index
from imgsearch.store.generations import read_manifest


@pytest.fixture(scope="module", autouse=True)
def quickly(quick_builds):
    """In all files of this folder."""


@pytest.fixture
def annoy_here(monkeypatch):
    """Annoy opens what it built in this process."""
    monkeypatch.setattr("imgsearch.search.backends.annoy._run", run_here)


@pytest.fixture
def index(tmp_path):
    return tmp_path / "index"


@pytest.fixture
def build(small, index):
    """Bring the index of the small catalog up to date, and hold its report to its own arithmetic."""

    def run(catalog=small, directory=index, **options):
        report = build_index(catalog, directory, **{"backbone": "handcrafted", "backend": "exact", **options})
        assert report.seen == report.unchanged + report.renamed + report.embedded + report.rejected
        manifest = read_manifest(directory)
        assert (report.count, report.rejected) == (manifest.count, manifest.rejected)
        assert report.generation == manifest.generation
        return report

    return run


@pytest.fixture
def no_encoder(monkeypatch):
    """Whoever opens an encoder fails."""

    def refuse(*_, **__):
        raise AssertionError("an encoder was opened")

    def forbid():
        monkeypatch.setattr("imgsearch.build.encoder_source.open_for_build", refuse)
        monkeypatch.setattr("imgsearch.build.encoder_source.exported_encoder", refuse)

    return forbid


@pytest.fixture
def products(tmp_path):
    """Write a file of the shop's data, CSV unless its name says otherwise."""

    def write(text, name="products.csv"):
        (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
        return tmp_path / name

    return write
