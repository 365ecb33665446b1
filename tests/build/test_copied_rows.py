"""What a build copies from the generation before: it is what a build from nothing makes."""

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some

from imgsearch import Index, build_index
from imgsearch.build import generation
from imgsearch.encoders import projection
from imgsearch.encoders.projection import Projection
from imgsearch.store import generations
from imgsearch.store.generations import read_manifest

pytestmark = pytest.mark.usefixtures("annoy_here")

OPTIONS = {"backbone": "handcrafted"}


def folder_of(directory):
    return directory / read_manifest(directory).folder


def tables_of(directory):
    """All that `items.sqlite` says, but when files were first rejected."""
    with closing(sqlite3.connect(folder_of(directory) / generations.ITEMS)) as connection:
        names = connection.execute("SELECT name, sql FROM sqlite_master ORDER BY name").fetchall()
        tables = [name for name, sql in names if sql and sql.startswith("CREATE TABLE") and name != "rejected"]
        return names, {name: connection.execute(f"SELECT * FROM {name}").fetchall() for name in tables}


def arrays_of(directory):
    return [(folder_of(directory) / name).read_bytes() for name in (generations.EMBEDDINGS, generations.VECTORS)]


@pytest.fixture
def one_more(built, painted, tmp_path):
    """Copy an index of forty images and its catalog; the folder gains one image."""

    def copy(backend):
        catalog = Path(shutil.copytree(built / "catalog", tmp_path / "catalog"))
        index = Path(shutil.copytree(built / backend, tmp_path / "index"))
        build_index(catalog, index)  # it has moved
        (catalog / "b" / "0000-new.png").write_bytes(painted(777))
        return catalog, index

    return copy


CHANGES = some.lists(
    some.tuples(some.sampled_from(["add", "remove", "move", "copy", "change"]), some.integers(0, 11)),
    min_size=1,
    max_size=6,
)


@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=CHANGES)
def test_a_changed_catalog_gives_the_same_as_a_build_from_nothing(changes, lay_out, painted, tmp_path_factory):
    home = tmp_path_factory.mktemp("changed")
    catalog = lay_out(home / "catalog", 12)
    build_index(catalog, home / "index", **OPTIONS)

    for number, (change, which) in enumerate(changes):
        files = sorted(catalog.rglob("*.png"))
        file = files[which % len(files)]
        new = catalog / "abc"[which % 3] / f"{which}-{number}.png"
        if change == "add":
            new.write_bytes(painted(100 + number))
        elif change == "copy":
            shutil.copyfile(file, new)
        elif change == "move":
            file.rename(new)
        elif change == "remove":
            file.unlink()
        else:
            file.write_bytes(painted(200 + number))
    build_index(catalog, home / "index", force=True)
    build_index(catalog, home / "afresh", **OPTIONS)

    assert tables_of(home / "index") == tables_of(home / "afresh")
    assert arrays_of(home / "index") == arrays_of(home / "afresh")


def test_vectors_stay_as_they_are_while_the_projection_is_kept(small, tmp_path, painted, contents, monkeypatch):
    monkeypatch.setattr(generation, "SMALLEST_CATALOG", 12)
    monkeypatch.setattr(projection, "DIMS", 8)
    index = tmp_path / "index"
    build_index(small, index, **OPTIONS)
    before = contents(index)
    applied = []
    apply = Projection.apply
    monkeypatch.setattr(Projection, "apply", lambda self, rows: applied.append(len(rows)) or apply(self, rows))
    (small / "a" / "0000-new.png").write_bytes(painted(777))
    (small / "b" / "0001.png").unlink()

    build_index(small, index)

    after = contents(index)
    (new,) = after.keys() - before.keys()
    assert {path: after[path] for path in before.keys() & after.keys()} == {
        path: values for path, values in before.items() if path != "b/0001.png"
    }
    manifest = read_manifest(index)
    kept = Projection.load(str(index / manifest.folder / generations.PROJECTION), manifest.encoder.dims, manifest.dims)
    expected = apply(kept, np.frombuffer(after[new][0], np.float32)[None])[0]
    assert np.allclose(np.frombuffer(after[new][1], np.float32), expected, atol=1e-6)
    assert sum(applied) == 1


def test_vectors_that_were_damaged_are_made_again(small, tmp_path, painted, monkeypatch, caplog):
    monkeypatch.setattr(generation, "SMALLEST_CATALOG", 12)
    monkeypatch.setattr(projection, "DIMS", 8)
    index = tmp_path / "index"
    build_index(small, index, **OPTIONS)
    file = folder_of(index) / generations.VECTORS
    good = np.load(file)
    damaged = bytearray(file.read_bytes())
    damaged[-3] ^= 1
    file.write_bytes(damaged)
    (small / "c" / "9999.png").write_bytes(painted(777))

    build_index(small, index)

    assert "vectors.npy is damaged: its content has changed" in caplog.text
    assert np.allclose(np.load(folder_of(index) / generations.VECTORS)[:-1], good, atol=1e-6)


@pytest.mark.parametrize("backend", ["annoy", "exact"])
def test_a_search_is_not_tuned_again_for_one_image_in_forty(one_more, backend, monkeypatch, answers):
    catalog, index = one_more(backend)
    before = read_manifest(index)

    def refuse(*_):
        raise AssertionError("it was tuned")

    with monkeypatch.context() as strict:
        strict.setattr(generation, "tune", refuse)
        assert build_index(catalog, index).embedded == 1

    after = read_manifest(index)
    assert (after.measured, after.backend.effort) == (before.measured, before.backend.effort)
    assert after.backend.changed == 1
    for path in ("b/0000-new.png", "a/0039.png"):
        assert answers(index, catalog / path)[0][0] == path
    with Index.open(index) as opened:
        assert len(opened) == 41


def test_it_is_tuned_again_when_more_has_changed_since(one_more, painted, monkeypatch):
    catalog, index = one_more("annoy")
    tuned = []
    tune = generation.tune
    monkeypatch.setattr(generation, "tune", lambda *given: tuned.append(given) or tune(*given))

    for number in range(3):  # one of forty is little, three are not
        (catalog / f"more-{number}.png").write_bytes(painted(800 + number))
        build_index(catalog, index)
        assert len(tuned) == (number > 0), number
        if tuned:
            break

    assert read_manifest(index).backend.changed == 0


@pytest.mark.parametrize("options", [{"seed": 3}, {"target_recall": 0.5}])
def test_other_options_are_followed(one_more, options, monkeypatch):
    catalog, index = one_more("annoy")
    tuned = []
    tune = generation.tune
    monkeypatch.setattr(generation, "tune", lambda *given: tuned.append(given) or tune(*given))

    build_index(catalog, index, **options)

    assert tuned


def test_a_damaged_forest_is_built_and_tuned_again(one_more, caplog, answers):
    catalog, index = one_more("annoy")
    file = folder_of(index) / "annoy.ann"
    content = bytearray(file.read_bytes())
    content[100] ^= 1
    file.write_bytes(content)

    build_index(catalog, index)

    assert "annoy.ann is damaged" in caplog.text
    assert answers(index, catalog / "a/0039.png")[0][0] == "a/0039.png"
