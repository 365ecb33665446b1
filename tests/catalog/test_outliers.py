import shutil

import pytest

from imgsearch import UsageError, build_index, outliers
from imgsearch.catalog import outliers as module

pytestmark = pytest.mark.usefixtures("quick_builds")


@pytest.fixture(scope="module")
def mixed(lay_out, tmp_path_factory, drawn):
    """Two categories of which one image is in the other's, one category with a single image, and one image in none."""
    folder = tmp_path_factory.mktemp("mixed")
    catalog = folder / "catalog"
    for name in ("fish", "cups"):
        for number in range(4):
            (catalog / name).mkdir(parents=True, exist_ok=True)
            shutil.copy(drawn / name / f"{name}-00.png", catalog / name / f"{number}.png")
    shutil.copy(drawn / "cups" / "cups-01.png", catalog / "fish" / "lost.png")
    (catalog / "one").mkdir()
    shutil.copy(drawn / "fish" / "fish-01.png", catalog / "one" / "one.png")
    shutil.copy(drawn / "fish" / "fish-01.png", catalog / "nowhere.png")
    build_index(catalog, folder / "index", backbone="handcrafted", backend="exact")
    return folder / "index"


def test_what_is_in_the_wrong_category_comes_first(mixed):
    found = outliers(mixed)

    assert (found.items[0].path, found.items[0].category, found.items[0].looks_like) == (
        *("fish/lost.png", "fish", "cups"),
    )
    assert [item.score for item in found.items] == sorted((item.score for item in found.items), reverse=True)


def test_what_cannot_be_judged_is_said(mixed):
    found = outliers(mixed)

    assert (found.judged, found.alone, found.without_category) == (9, ("one",), 1)
    assert len(found.items) == 9


def test_what_has_no_neighbor_of_another_category_is_not_suspected(mixed, monkeypatch):
    monkeypatch.setattr(module, "_VOTERS", 1)

    found = outliers(mixed)

    assert [(item.path, item.looks_like) for item in found.items] == [("fish/lost.png", "cups")]
    assert found.judged == 9


def test_no_more_than_are_asked_for(mixed):
    assert len(outliers(mixed, top_k=2).items) == 2
    with pytest.raises(UsageError, match="top_k must be at least 1"):
        outliers(mixed, top_k=0)


def test_a_catalog_without_categories_is_refused(drawn, tmp_path):
    shutil.copytree(drawn / "fish", tmp_path / "catalog")
    build_index(tmp_path / "catalog", tmp_path / "index", backbone="handcrafted:color", backend="exact")

    with pytest.raises(UsageError, match="at least two categories, found 0"):
        outliers(tmp_path / "index")
