"""Queries whose right answers are known: by labels, in a folder, and from the catalog itself."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from imgsearch import Index, build_index
from imgsearch.cli import main
from imgsearch.errors import UsageError
from imgsearch.evaluation.evaluate import evaluate
from imgsearch.evaluation.queries import from_items, labels_of


@pytest.fixture(scope="module")
def vectors(unit):
    return unit(np.random.default_rng(0).normal(size=(400, 8)))


@pytest.fixture
def labeled(tmp_path, store_index, vectors):
    """Eight items: two products of two and four that are alone; two brands, one item without."""
    return store_index(
        tmp_path / "index",
        vectors[:8],
        products=["cup", "cup", "pot", "pot", "a", "b", "c", "d"],
        categories=["kitchen"] * 7 + [""],
        metadata=[{"brand": brand} for brand in ("X", "X", "X", "Y", "Y", "Z", None)] + [{}],
    )


def asked(directory, **options):
    found = evaluate(directory, **options)
    return found.retrieval, {one.query: one for one in found.retrieval.results}


# --- labels


@pytest.mark.parametrize(
    ("column", "relevant_count", "left_out"),
    [
        ("product", {0: 1, 1: 1, 2: 1, 3: 1}, 4),
        ("category", dict.fromkeys(range(7), 6), 1),
        ("brand", {0: 2, 1: 2, 2: 2, 3: 1, 4: 1}, 3),
    ],
)
def test_others_of_the_same_label_are_right_and_items_without_are_left_out(column, relevant_count, left_out, labeled):
    retrieval, found = asked(labeled, labels=column)

    assert {name: one.relevant_count for name, one in found.items()} == {
        f"{row:05d}.png": count for row, count in relevant_count.items()
    }
    assert retrieval.without_relevant == left_out
    assert (retrieval.kind, retrieval.label, retrieval.unusable) == ("labels", column, ())


def test_items_keep_their_category_whatever_they_are_judged_by(labeled):
    _, found = asked(labeled, labels="product")

    assert {one.category for one in found.values()} == {"kitchen"}
    assert found["00002.png"].label == "pot"


@pytest.mark.parametrize("column", ["color", "BRAND", "'; DROP TABLE items; --", "path'"])
def test_a_column_that_no_item_has_is_refused(column, labeled):
    with pytest.raises(UsageError, match="no item has a column") as caught:
        evaluate(labeled, labels=column)

    assert "product, category, and the columns of --metadata" in caught.value.hint


def test_labels_that_no_two_items_share_are_refused(tmp_path, store_index, vectors):
    with pytest.raises(UsageError, match="no two items have the same product") as caught:
        evaluate(store_index(tmp_path / "index", vectors[:5]), labels="product")

    assert "--self-test" in caught.value.hint


def test_a_sample_is_of_items_that_have_relevant_count(tmp_path, store_index, vectors):
    products = [f"pair {row // 2}" if row % 4 < 2 else f"alone {row}" for row in range(400)]
    retrieval, found = asked(store_index(tmp_path / "index", vectors, products=products), labels="product", sample=50)

    assert len(found) == 50
    assert all(one.label.startswith("pair") for one in found.values())
    assert retrieval.without_relevant == 200


def test_a_sample_stays_mostly_the_same_when_images_come_and_go(tmp_path, store_index, vectors):
    def sample(name, rows):
        paths = [f"{row:05d}.png" for row in rows]
        directory = store_index(tmp_path / name, vectors[rows], paths=paths, categories=["one"] * len(rows))
        return set(asked(directory, labels="category", sample=100)[1])

    before = sample("before", list(range(380)))
    after = sample("after", [row for row in range(400) if row % 25])

    assert len(before & after) >= 85
    assert sample("again", list(range(380))) == before


def test_the_same_item_is_never_its_own_answer(labeled):
    with Index.open(labeled) as index:
        labels = labels_of(index.items, "category", len(index))
        query_set = from_items(index, labels, labels, 100)

    assert all(index.manifest.count > query.own_row in query.relevant for query in query_set.queries)
    assert all(query.relevant_count == len(query.relevant) - 1 for query in query_set.queries)


# --- images in a folder


def photos(shop_copy, names):
    """Put images of the catalog into a folder of queries: {name there: path in the catalog}."""
    for name, source in names.items():
        file = shop_copy / "photos" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(shop_copy / "catalog" / source, file)
    return shop_copy / "photos"


def test_the_folder_of_an_image_is_its_label(shop_copy):
    folder = photos(shop_copy, {"balls/x.png": "balls/balls-00.png", "cups/y.png": "fish/fish-01.png"})
    retrieval, found = asked(shop_copy / "index", queries=folder, labels="category")

    assert {name: one.label for name, one in found.items()} == {"balls/x.png": "balls", "cups/y.png": "cups"}
    assert {one.relevant_count for one in found.values()} == {4}
    assert found["balls/x.png"].hits[0].path == "balls/balls-00.png"
    assert [one.hits[0].relevant for one in retrieval.results] == [True, False]


def test_without_labels_the_folder_is_the_product(shop_copy):
    folder = photos(shop_copy, {"balls/balls-00/front.png": "balls/balls-00.png"})
    _, found = asked(shop_copy / "index", queries=folder)

    one = found["balls/balls-00/front.png"]
    assert (one.label, one.category, one.relevant_count, one.hits[0].relevant) == ("balls/balls-00", "balls", 1, True)


def test_a_folder_of_no_label_of_the_index_counts_as_a_miss(shop_copy):
    folder = photos(shop_copy, {"balls/x.png": "balls/balls-00.png", "unicorns/y.png": "fish/fish-01.png"})
    retrieval, found = asked(shop_copy / "index", queries=folder, labels="category")

    assert found["unicorns/y.png"].relevant_count == 1
    assert retrieval.measures["map"][1] == 0
    assert retrieval.unusable == ()


def test_folders_that_no_label_of_the_index_is_like_are_refused_with_an_example(shop_copy):
    folder = photos(shop_copy, {"unicorns/y.png": "fish/fish-01.png", "loose.png": "balls/balls-00.png"})

    with pytest.raises(UsageError, match="has a category that is in the index") as caught:
        evaluate(shop_copy / "index", queries=folder, labels="category")
    assert "'balls'" in caught.value.hint


@pytest.mark.parametrize("make", [False, True])
def test_a_folder_without_images_is_refused(make, shop_copy):
    if make:
        (shop_copy / "photos").mkdir()

    with pytest.raises(UsageError, match=r"no folder of query images|no query images in"):
        evaluate(shop_copy / "index", queries=shop_copy / "photos")


def test_a_file_says_which_image_is_right(shop_copy, write_csv):
    folder = photos(shop_copy, {"x.png": "balls/balls-00.png", "deep/y.png": "fish/fish-01.png"})
    rows = [("x.png", "balls/balls-00.png"), ("./deep/y.png", "./fish/fish-00.png")]
    retrieval, found = asked(
        shop_copy / "index", queries=folder, truth=write_csv(shop_copy / "t.csv", ("query", "path"), rows)
    )

    assert retrieval.measures["hit_rate@1"].tolist() == [0, 1]  # deep/y.png, x.png
    assert {one.relevant_count for one in found.values()} == {1}
    assert found["x.png"].label == "balls/balls-00"
    assert found["x.png"].category == "balls"


@pytest.mark.parametrize("labels", ["category", "product", None])
def test_a_file_says_which_label_is_right(labels, shop_copy, write_csv):
    folder = photos(shop_copy, {"x.png": "balls/balls-00.png"})
    right = "balls" if labels == "category" else "balls/balls-00"
    truth = write_csv(shop_copy / "t.csv", ("query", labels or "product", "note"), [("x.png", right, "blue")])
    _, found = asked(shop_copy / "index", queries=folder, truth=truth, labels=labels)

    assert found["x.png"].relevant_count == (4 if labels == "category" else 1)
    assert found["x.png"].hits[0].relevant


def test_a_query_may_have_several_relevant_count_and_one_that_is_lacking_is_a_miss(shop_copy, write_csv):
    folder = photos(shop_copy, {"x.png": "balls/balls-00.png"})
    rows = [("x.png", name) for name in ("balls/balls-00.png", "balls/balls-01.png", "sold-out.png", "sold-out.png")]
    retrieval, found = asked(
        shop_copy / "index", queries=folder, truth=write_csv(shop_copy / "t.csv", ("query", "path"), rows)
    )

    assert found["x.png"].relevant_count == 3  # named twice is once
    assert retrieval.measures["recall@100"][0] == pytest.approx(2 / 3)


def test_images_that_are_not_named_or_not_there_are_unusable(shop_copy, write_csv):
    folder = photos(shop_copy, {"x.png": "balls/balls-00.png", "new.png": "balls/balls-01.png"})
    (folder / "broken.png").write_bytes(b"no image")
    rows = [(name, "balls/balls-00.png") for name in ("x.png", "gone.png", "broken.png", "../catalog/fish/fish-00.png")]
    retrieval, found = asked(
        shop_copy / "index", queries=folder, truth=write_csv(shop_copy / "t.csv", ("query", "path"), rows)
    )

    assert set(found) == {"x.png"}
    reasons = dict(retrieval.unusable)
    assert set(reasons) == {"new.png", "gone.png", "broken.png", "../catalog/fish/fish-00.png"}
    assert "does not say what is right" in reasons["new.png"]
    assert "it is not there" in reasons["gone.png"]
    assert "it is not there" in reasons["../catalog/fish/fish-00.png"]


def test_unusable_images_are_named_and_the_exit_code_is_4(shop_copy, capsys):
    folder = photos(shop_copy, {"balls/x.png": "balls/balls-00.png"})
    (folder / "balls/bro\x1bken.png").write_bytes(b"no image")

    code = main(["evaluate", "--index", str(shop_copy / "index"), "--queries", str(folder), "--labels", "category"])

    told = capsys.readouterr()
    assert code == 4
    assert "balls/bro\\x1bken.png: " in told.err
    assert "1 images of yours" in told.out


def test_a_file_from_a_spreadsheet_begins_with_a_mark(shop_copy, write_csv):
    folder = photos(shop_copy, {"x.png": "balls/balls-00.png"})
    truth = write_csv(shop_copy / "t.csv", ("query", "path"), [("x.png", "balls/balls-00.png")], encoding="utf-8-sig")

    assert asked(shop_copy / "index", queries=folder, truth=truth)[0].measures["hit_rate@1"].tolist() == [1]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "expected the columns query and path or product, found nothing"),
        (b"photo,path\nx.png,balls/balls-00.png\n", "found 'photo', 'path'"),
        (b"query,category\nx.png,balls\n", "found 'query', 'category'"),
        (b"query,path\nx.png\n", "line 2: expected 2 cells"),
        (b"query,path\nx.png,\n", "line 2: a query and its path must be given"),
        (b"query,path\n,balls/balls-00.png\n", "line 2: a query and its path must be given"),
        (b"query,path\nx.png,a,b\n", "line 2: 'b' stands in a column without a name"),
        (b'query,path\nx.png,"balls\n', "line 2: not CSV"),
        (b'query,path\n"x.png"y,balls\n', "line 2: not CSV"),
        (b"query,path\nx.png," + b"a" * 1_000_001 + b"\n", "line 2: column 'path' has 1,000,001 characters"),
        (None, "cannot be read: No such file"),
    ],
)
def test_a_file_that_does_not_say_what_is_right_is_refused(content, said, shop_copy):
    folder = photos(shop_copy, {"x.png": "balls/balls-00.png"})
    if content is not None:
        (shop_copy / "t.csv").write_bytes(content)

    with pytest.raises(UsageError, match=said):
        evaluate(shop_copy / "index", queries=folder, truth=shop_copy / "t.csv")


def test_hostile_names_are_names_like_others(shop_copy, write_csv):
    names = ["=cmd().png", "line\nbreak.png", "caf\udce9.png", '"quoted",.png', "\x1b[31m.png", "abc\u202egnp.png"]
    folder = photos(shop_copy, dict.fromkeys(names, "balls/balls-00.png"))
    rows = [(name, "balls/balls-00.png") for name in names]
    retrieval, found = asked(
        shop_copy / "index", queries=folder, truth=write_csv(shop_copy / "t.csv", ("query", "path"), rows)
    )

    assert set(found) == set(names)
    assert retrieval.unusable == ()
    assert retrieval.measures["hit_rate@1"].all()


# --- variants of the catalog's own images


def test_a_self_test_searches_for_variants_of_items_the_same_every_time(shop):
    retrieval, found = asked(shop / "index", self_test=True, sample=12)
    _, again = asked(shop / "index", self_test=True, sample=4)

    assert (retrieval.kind, retrieval.label, len(found)) == ("self-test", "product", 12)
    assert all((shop / "catalog" / path).is_file() for path in found)
    assert retrieval.measures["hit_rate@10"].mean() > 0.5
    assert not any(hit.score > 0.9999 for one in found.values() for hit in one.hits)  # not the images themselves
    assert {path: found[path] for path in again} == again


@pytest.fixture
def few(shop_copy) -> Path:
    """A copy of the shop in which eight images are left."""
    for folder in (shop_copy / "catalog").iterdir():
        if folder.name not in ("balls", "fish"):
            shutil.rmtree(folder)
    build_index(shop_copy / "catalog", shop_copy / "index", force=True)
    return shop_copy


def test_copies_of_an_image_are_right_too(few):
    for name in ("copy.png", "other/copy.png"):
        file = few / "catalog" / name
        file.parent.mkdir(exist_ok=True)
        shutil.copy(few / "catalog/balls/balls-00.png", file)
    build_index(few / "catalog", few / "index")
    _, found = asked(few / "index", self_test=True)

    assert {one.relevant_count for path, one in found.items() if "copy" in path or path == "balls/balls-00.png"} == {3}
    assert found["balls/balls-01.png"].relevant_count == 1


def test_a_self_test_of_a_catalog_that_has_moved_says_so(shop_copy):
    (shop_copy / "catalog").rename(shop_copy / "elsewhere")

    with pytest.raises(UsageError, match=r"none of 48 images of the index can be read in .*/catalog") as caught:
        evaluate(shop_copy / "index", self_test=True)
    assert "build-index with the folder's new place" in caught.value.hint


def test_a_self_test_names_the_images_that_are_gone(few, capsys):
    (few / "catalog/balls/balls-00.png").unlink()
    (few / "catalog/fish/fish-00.png").write_bytes(b"no image")
    code = main(["evaluate", "--index", str(few / "index"), "--self-test"])

    told = capsys.readouterr().err
    assert code == 4
    assert "balls/balls-00.png: " in told
    assert "fish/fish-00.png: " in told
    assert told.count("\n") == 2


def test_the_setup_says_where_photos_were_looked_at(shop):
    looked = [
        evaluate(shop / "index", **options).setup["regions"]
        for options in (
            {"self_test": True, "sample": 1},
            {"self_test": True, "sample": 1, "regions": "whole"},
            {"labels": "category", "sample": 1},
        )
    ]

    assert looked == ["auto", "whole", "whole"]
