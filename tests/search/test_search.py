import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from imgsearch import Filter, Index, build_index
from imgsearch.build import generation
from imgsearch.encoders import projection
from imgsearch.errors import DamagedIndexError, ImageError, NoIndexError, UsageError
from imgsearch.search import nearest, viewer
from imgsearch.search.search import Search
from imgsearch.search.views import QueryImage, View
from imgsearch.store import generations, integrity
from imgsearch.store.generations import read_manifest

BOTH = pytest.mark.parametrize("backend", ["exact", "annoy"])


@pytest.fixture
def opened(built):
    indexes = {backend: Index.open(built / backend) for backend in ("exact", "annoy")}
    yield indexes
    for index in indexes.values():
        index.close()


def vector_of(index, image):
    return index.viewer.whole(image.read_bytes()).vector


@BOTH
def test_an_image_of_the_catalog_finds_itself_without_an_encoder(built, opened, backend, monkeypatch):
    monkeypatch.setattr(viewer, "open_encoder", lambda *_, **__: pytest.fail("an encoder was opened"))

    for file in sorted((built / "catalog").rglob("*.png")):
        best = opened[backend].search(file, k=3)[0]
        assert best.path == file.relative_to(built / "catalog").as_posix()
        assert (best.rank, best.distance) == (1, 0.0)
        assert best.score == pytest.approx(1, abs=1e-6)


class FindsNothing:
    """A forest that proposes no candidate."""

    def candidates(self, _vector, _k):
        return np.zeros(0, np.int64)


def test_an_image_of_the_catalog_is_found_even_where_the_forest_does_not_propose_it(built, opened, photo):
    file = sorted((built / "catalog").rglob("*.png"))[5]
    index = opened["annoy"]

    def ask(image, where=""):
        search = Search(index.nearest, 3, Filter(where), backend=FindsNothing())
        return search.hits(search.views_of(QueryImage.read(image, index.manifest.policy), lambda: index.viewer))

    (hit,) = ask(file)

    assert hit.path == file.relative_to(built / "catalog").as_posix()
    assert hit.score == pytest.approx(1, abs=1e-6)
    assert ask(file, "1") == []
    assert ask(photo) == []


def test_scores_equal_brute_force_and_are_the_same_for_both_backends(built, opened, photo, contents):
    vectors = {path: np.frombuffer(vector, "<f4") for path, (_, vector) in contents(built / "exact").items()}
    query = vector_of(opened["exact"], photo)
    expected = sorted(vectors, key=lambda path: -float(vectors[path].astype(float) @ query))[:10]

    exact, annoy = (opened[backend].search(photo, k=10) for backend in ("exact", "annoy"))

    assert [hit.path for hit in annoy] == expected
    assert [hit.path for hit in exact] == expected
    assert [hit.rank for hit in exact] == list(range(1, 11))
    for hit in exact:
        assert hit.score == pytest.approx(float(vectors[hit.path] @ query), abs=1e-6)
        assert hit.distance == pytest.approx(float(np.linalg.norm(vectors[hit.path] - query)), abs=1e-6)
        assert hit.distance == pytest.approx(np.sqrt(2 - 2 * hit.score), abs=1e-3)


def test_hits_are_the_same_to_the_last_digit_for_both_backends(built, opened, photo):
    for image in (photo, *(built / "catalog").rglob("*.png")):
        for k in (1, 2, 5, 7, 10):
            exact, annoy = (opened[backend].search(image, k=k) for backend in ("exact", "annoy"))
            assert exact == annoy


@BOTH
def test_where_gives_as_many_results_as_match(opened, photo, backend):
    hits = opened[backend].search(photo, k=10, filter=Filter("category = 'b'"))

    assert len(hits) == 10
    assert {hit.category for hit in hits} == {"b"}
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    assert len(opened[backend].search(photo, k=99, filter=Filter("category = 'b'"))) == 13
    assert opened[backend].search(photo, filter=Filter("category = 'nothing'")) == []
    everything = opened[backend].search(photo, k=40)
    assert [hit.path for hit in hits] == [hit.path for hit in everything if hit.category == "b"][:10]


def test_a_wrong_expression_is_a_usage_error(opened, photo):
    with pytest.raises(UsageError, match="--where"):
        opened["exact"].search(photo, filter=Filter("color = 1"))


@BOTH
def test_hits_below_the_least_score_are_left_out(opened, photo, backend):
    hits = opened[backend].search(photo, k=10)
    least = hits[4].score

    assert opened[backend].search(photo, k=10, filter=Filter(min_score=least)) == hits[:5]
    assert opened[backend].search(photo, k=10, filter=Filter(min_score=1.0)) == []
    assert opened[backend].search(photo, k=10, filter=Filter(min_score=-1)) == hits


@BOTH
@pytest.mark.parametrize("k", [0, -1, -(10**9)])
def test_less_than_one_result_is_a_usage_error(opened, photo, backend, k):
    with pytest.raises(UsageError, match=f"k must be at least 1, got {k}"):
        opened[backend].search(photo, k=k)


@BOTH
@pytest.mark.parametrize("k", [40, 41, 10**12])
def test_asking_for_more_than_there_is_gives_all_there_is(opened, photo, backend, k):
    assert len({hit.path for hit in opened[backend].search(photo, k=k)}) == 40


@BOTH
def test_an_index_of_one_image_answers(tmp_path, lay_out, photo, backend):
    build_index(lay_out(tmp_path / "one", 1), tmp_path / "index", backbone="handcrafted", backend=backend)

    with Index.open(tmp_path / "index") as index:
        assert len(index) == 1
        assert [hit.path for hit in index.search(photo)] == ["a/0000.png"]
        assert index.search(tmp_path / "one/a/0000.png")[0].distance == 0


@BOTH
@pytest.mark.parametrize("copies", [*(pytest.param(copies, marks=pytest.mark.slow) for copies in (7, 30)), 61])
def test_equal_images_come_in_the_order_of_their_paths_but_the_one_asked_with_comes_first(
    tmp_path, lay_out, painted, photo, backend, copies
):
    catalog = lay_out(tmp_path / "catalog", 9)
    for number in range(copies):
        (catalog / "abc"[number % 3] / f"copy-{number:02d}.png").write_bytes(painted(500))
    build_index(catalog, tmp_path / "index", backbone="handcrafted", backend=backend)

    with Index.open(tmp_path / "index") as index:
        for image in (catalog / "a/copy-00.png", photo, catalog / "a/0000.png"):
            for k in (3, 10, copies + 9):
                hits = [hit for hit in index.search(image, k=k) if "copy" in hit.path]
                assert [hit.path for hit in hits] == sorted(hit.path for hit in hits)
                assert len({hit.score for hit in hits}) <= 1
        for regions in ("auto", "whole", 2):
            first = index.search(catalog / "c/copy-02.png", k=3, regions=regions)
            assert [hit.path for hit in first] == ["c/copy-02.png", "a/copy-00.png", "a/copy-03.png"]


@BOTH
def test_a_better_score_never_comes_after_a_worse_one(opened, built, backend):
    for file in sorted((built / "catalog").rglob("*.png"))[:10]:
        scores = [hit.score for hit in opened[backend].search(file, k=40)]
        assert scores == sorted(scores, reverse=True)
        assert all(-1 <= score <= 1 for score in scores)


@pytest.mark.parametrize(
    ("kind", "cause"),
    [
        ("missing", "vanished"),
        ("folder", "not_regular_file"),
        ("fifo", "not_regular_file"),
        ("empty", "empty"),
        ("text", "not_an_image"),
        ("cut", "corrupt"),
        ("a\0b", "unreadable"),
        ("x" * 5000, "unreadable"),
    ],
)
def test_a_query_that_is_no_image_says_why(opened, tmp_path, painted, kind, cause):
    file = tmp_path / kind if "\0" not in kind else kind
    match kind:
        case "folder":
            file.mkdir()
        case "fifo":
            os.mkfifo(file)
        case "empty":
            file.write_bytes(b"")
        case "text":
            file.write_text("hello")
        case "cut":
            file.write_bytes(painted(1)[:-30])

    with pytest.raises(ImageError) as caught:
        opened["exact"].search(file)
    assert (caught.value.cause, caught.value.exit_code) == (cause, 4)


def test_a_query_whose_name_is_not_utf8_is_answered(opened, tmp_path, painted):
    file = tmp_path / "caf\udce9.png"
    file.write_bytes(painted(3))

    assert opened["exact"].search(file)[0].path == "a/0003.png"


def test_where_there_is_no_index_there_is_no_answer(tmp_path):
    with pytest.raises(NoIndexError) as caught:
        Index.open(tmp_path / "nowhere")
    assert caught.value.exit_code == 5


def test_the_plan_says_how_a_query_is_answered(opened):
    assert [opened["annoy"].plan(), opened["annoy"].plan(filter=Filter("1")), opened["annoy"].plan(exact=True)] == [
        *("annoy", "exact", "exact"),
    ]
    assert opened["exact"].plan() == "exact"


def test_an_index_moved_elsewhere_answers_the_same(built, copied, photo, answers):
    assert answers(copied("annoy"), photo) == answers(built / "annoy", photo)


# --- readers and writers


def rebuild_twice(catalog, directory, painted):
    for number in (1, 2):
        (catalog / f"new-{number}.png").write_bytes(painted(7000 + number))
        build_index(catalog, directory)


@pytest.fixture
def living(built, tmp_path):
    """A catalog with an index that a test may rebuild."""

    def make(backend):
        catalog = shutil.copytree(built / "catalog", tmp_path / "catalog")
        return catalog, shutil.copytree(built / backend, tmp_path / "index")

    return make


@pytest.mark.parametrize(
    ("backend", "asked_before"),
    [
        ("exact", True),
        pytest.param("exact", False, marks=pytest.mark.slow),
        pytest.param("annoy", True, marks=pytest.mark.slow),
        ("annoy", False),
    ],
)
def test_an_open_index_answers_from_its_generation_while_two_newer_ones_are_published(
    living, painted, photo, backend, asked_before
):
    catalog, directory = living(backend)
    with Index.open(directory) as index, Index.open(directory) as same:
        expected = same.search(photo, k=45)
        if asked_before:
            index.search(photo)
        rebuild_twice(catalog, directory, painted)
        assert not (directory / "gen-000001").exists()

        assert index.search(photo, k=45) == expected
        assert index.manifest.generation == 1
    with Index.open(directory) as index:
        assert len(index) == 42


def test_an_open_index_with_a_projection_answers_a_first_photo_after_two_newer_generations(
    small, tmp_path, painted, photo, monkeypatch
):
    directory, catalog = tmp_path / "index", small
    monkeypatch.setattr(generation, "SMALLEST_CATALOG", 10)
    monkeypatch.setattr(projection, "DIMS", 8)
    build_index(catalog, directory, backbone="handcrafted", trees=4)
    assert read_manifest(directory).dims == 8
    with Index.open(directory) as index, Index.open(directory) as same:
        expected = same.search(photo, exact=True)
        rebuild_twice(catalog, directory, painted)

        assert index.search(photo, exact=True) == expected


@pytest.mark.parametrize("stage", ["check_sizes", "open_array", "Items"])
def test_a_generation_swept_while_it_is_opened_is_followed_by_the_new_one(living, painted, photo, monkeypatch, stage):
    catalog, directory = living("exact")
    owner = {"check_sizes": integrity, "open_array": nearest, "Items": nearest}[stage]
    real, calls = getattr(owner, stage), []

    def swept_before(*arguments):
        calls.append(1)
        if len(calls) == 1:
            with monkeypatch.context() as patch:
                patch.setattr(owner, stage, real)
                rebuild_twice(catalog, directory, painted)
        return real(*arguments)

    monkeypatch.setattr(owner, stage, swept_before)

    with Index.open(directory) as index:
        assert index.manifest.generation == 3
        assert len(index.search(photo, k=99)) == 42


def test_an_index_whose_files_stay_away_is_damage_after_some_looks(copied):
    directory = copied("exact")
    (directory / read_manifest(directory).folder / generations.VECTORS).unlink()

    with pytest.raises(DamagedIndexError, match=r"vectors\.npy is missing") as caught:
        Index.open(Path(directory))
    assert "build-index" in caught.value.hint


def test_no_view_is_asked_for_twice(opened, photo):
    index, asked = opened["annoy"], []

    class Counts:
        def candidates(self, vector, k):
            asked.append(k)
            return np.arange(k)

    views = [View(vector_of(index, photo)), View(index.nearest.vectors[3])]
    search = Search(index.nearest, 5, backend=Counts())

    for count in (1, 2, 2):
        search.hits(views[:count])

    assert asked == [5, 5]
