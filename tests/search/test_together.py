import shutil

import numpy as np
import pytest

from imgsearch import Filter, ImageError, Index, UsageError, build_index
from imgsearch.search import index as search_index
from imgsearch.search.diversity import diverse_order
from imgsearch.search.views import Indexed

PRODUCTS = {"a/0000.png": "rug", "b/0001.png": "rug", "c/0002.png": "mat"}


@pytest.fixture(scope="module")
def shop(tmp_path_factory, lay_out):
    """Twenty-four images, two of which show one product, and a copy of one of these."""
    folder = tmp_path_factory.mktemp("shop")
    lay_out(folder / "catalog", 24)
    shutil.copy(folder / "catalog/a/0000.png", folder / "catalog/c/copy.png")
    rows = [f"{path},{product}" for path, product in PRODUCTS.items()]
    (folder / "shop.csv").write_text("\n".join(["path,product", *rows, ""]))
    options = {"backbone": "handcrafted", "metadata": folder / "shop.csv"}
    for backend, trees in (("exact", {}), ("annoy", {"trees": 8})):
        build_index(folder / "catalog", folder / backend, backend=backend, **options, **trees)
    return folder


@pytest.fixture(params=["exact", "annoy"])
def index(shop, request):
    with Index.open(shop / request.param) as opened:
        yield opened


@pytest.fixture
def vectors(index):
    paths = list(index.items.column("path"))
    return dict(zip(paths, np.array(index.nearest.vectors), strict=True))


def ranked(vectors, query, *left_out):
    """Paths and scores of all but some, best first."""
    scores = {path: float(vector @ query) for path, vector in vectors.items() if path not in left_out}
    return sorted(scores.items(), key=lambda each: (-round(each[1], 5), each[0]))


def found(hits):
    return [(hit.path, pytest.approx(hit.score, abs=1e-5)) for hit in hits]


def unit(vector):
    return vector / np.linalg.norm(vector)


def test_an_item_finds_what_is_near_it_but_not_itself(index, vectors):
    for path in ("b/0004.png", "./b/0004.png", "b//0004.png", f"{index.manifest.catalog}/b/0004.png"):
        hits = index.search_item(path, k=40)

        assert ranked(vectors, vectors["b/0004.png"], "b/0004.png") == found(hits)
        assert [hit.rank for hit in hits] == list(range(1, 25))


def test_a_copy_of_an_item_is_another_item_and_comes_first(index):
    assert index.search_item("a/0000.png")[0].path == "c/copy.png"


def test_a_product_asks_with_all_its_images_and_finds_none_of_them(index, vectors):
    best = {
        path: max(float(vector @ vectors["a/0000.png"]), float(vector @ vectors["b/0001.png"]))
        for path, vector in vectors.items()
        if path not in ("a/0000.png", "b/0001.png")
    }

    hits = index.search_item("rug", k=40)

    assert {hit.path: pytest.approx(hit.score, abs=1e-5) for hit in hits} == best
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)


def test_an_item_finds_k_that_satisfy_a_filter(index, vectors):
    hits = index.search_item("b/0004.png", k=3, filter=Filter("category = 'b'"))
    of_b = {path: vector for path, vector in vectors.items() if path.startswith("b/")}

    assert found(hits) == ranked(of_b, vectors["b/0004.png"], "b/0004.png")[:3]


def test_an_item_needs_neither_viewer_nor_files(index, monkeypatch):
    monkeypatch.setattr(search_index.Index, "viewer", property(lambda _: pytest.fail("a viewer was made")))
    monkeypatch.setattr(search_index, "as_query", lambda *_: pytest.fail("a file was read"))

    assert len(index.search_item("mat", diverse=0.5)) == 5
    assert len(index.search_together([Indexed("rug"), Indexed("b/0004.png")], without=[Indexed("mat")])) == 5


@pytest.mark.parametrize(
    ("name", "similar"),
    [("b/0O04.png", "b/0004.png"), ("rugs", "rug"), ("b", ""), ("\0", ""), ("caf\udce9", ""), ("'; DROP", "")],
)
def test_what_is_not_there_is_an_error_that_names_the_nearest(index, name, similar):
    with pytest.raises(UsageError, match="no image and no product") as raised:
        index.search_item(name)

    assert raised.value.hint == (
        f"did you mean {similar!r}?" if similar else "imgsearch query FILE asks with an image file"
    )


def test_a_product_of_very_many_images_is_refused(index, monkeypatch):
    monkeypatch.setattr(search_index, "_MOST_OF_A_PRODUCT", 1)

    with pytest.raises(UsageError, match="'rug' has 2 images, more than the 1"):
        index.search_item("rug")


def test_the_mean_of_items_and_files_is_one_query(shop, index, vectors, photo):
    of_photo = index.viewer.whole(photo.read_bytes()).vector
    mean = unit(vectors["b/0004.png"] + vectors["c/0005.png"] + of_photo)

    hits = index.search_together(
        [photo, Indexed("b/0004.png"), shop / "catalog/c/0005.png"], k=40, fuse="mean", regions="whole"
    )

    assert found(hits) == ranked(vectors, mean, "b/0004.png")


def test_the_best_of_several_is_kept_and_a_file_of_the_catalog_stays_first(shop, index, vectors):
    hits = index.search_together([shop / "catalog/c/0005.png", Indexed("b/0004.png")], k=40)

    assert (hits[0].path, hits[0].score) == ("c/0005.png", pytest.approx(1))
    assert {hit.path: pytest.approx(hit.score, abs=1e-5) for hit in hits} == {
        path: max(float(vector @ vectors["b/0004.png"]), float(vector @ vectors["c/0005.png"]))
        for path, vector in vectors.items()
        if path != "b/0004.png"
    }


@pytest.mark.parametrize("weight", [search_index.take_away.__defaults__[0]])
def test_what_is_taken_away_is_subtracted_and_left_out(shop, index, vectors, weight):
    away = np.mean([vectors["a/0003.png"], vectors["c/0002.png"]], axis=0)
    query = unit(vectors["b/0004.png"] - weight * away)
    expected = ranked(vectors, query, "b/0004.png", "a/0003.png", "c/0002.png")
    unwanted = [shop / "catalog/a/0003.png", Indexed("mat")]

    hits = index.search_together([Indexed("b/0004.png")], k=40, without=unwanted)

    assert found(hits) == expected
    made = [view for each in unwanted for view in index.views(each)]
    assert index.search_together([Indexed("b/0004.png")], k=40, without=made) == hits


def test_diverse_hits_are_those_of_five_times_as_many(index, vectors):
    pool = ranked(vectors, vectors["b/0004.png"], "b/0004.png")[:15]
    order = diverse_order([score for _, score in pool], np.stack([vectors[path] for path, _ in pool]), 3, 0.3)

    hits = index.search_item("b/0004.png", k=3, diverse=0.3)

    assert [hit.path for hit in hits] == [pool[place][0] for place in order]
    assert [hit.rank for hit in hits] == [1, 2, 3]
    assert index.search_item("b/0004.png", k=3, diverse=1) == index.search_item("b/0004.png", k=3)


def test_a_file_that_cannot_be_used_is_named(shop, index, tmp_path):
    (tmp_path / "text.jpg").write_text("not an image")
    good = shop / "catalog/a/0003.png"

    for asked, without in (([good, tmp_path / "text.jpg"], []), ([good], [tmp_path / "text.jpg"])):
        with pytest.raises(ImageError, match=r"^.*text\.jpg: ") as raised:
            index.search_together(asked, without=without)
        assert raised.value.cause == "not_an_image"


def test_senseless_questions_are_refused(index):
    item = Indexed("b/0004.png")
    for match, call in {
        "expected an image, an item or words": lambda: index.search_together([]),
        "expected words": lambda: index.search_together([item], text=[" "]),
        "text_weight must be": lambda: index.search_together([item], text=["cup"], text_weight=float("nan")),
        "weights are for a mean": lambda: index.search_together([item], weights=[1.0]),
        "expected 1 weights above 0": lambda: index.search_together([item], fuse="mean", weights=[1.0, 2.0]),
        "diverse must be": lambda: index.search_item("mat", diverse=1.5),
        "cannot be combined": lambda: index.search("x.png", rerank=True, diverse=0.5),
        "k must be at least 1": lambda: index.search_item("mat", k=0),
    }.items():
        with pytest.raises(UsageError, match=match):
            call()
    assert index.search_together([item], without=[item])  # half of it is left


def test_a_closed_index_makes_no_viewer(shop):
    with Index.open(shop / "exact") as index:
        pass

    for ask in (lambda: index.viewer, lambda: index.search_item("mat")):
        with pytest.raises(UsageError, match="closed"):
            ask()


def test_what_is_asked_with_is_not_counted_among_the_others(index):
    (rug, *_) = [hit for hit in index.search_item("a/0000.png", k=40, distinct="product") if hit.product == "rug"]
    (also,) = [hit for hit in index.search_item("c/0005.png", k=40, distinct="product") if hit.product == "rug"]

    assert (rug.path, rug.others, also.others) == ("b/0001.png", 0, 1)
    (filtered,) = index.search_item("a/0000.png", filter=Filter("path LIKE 'b/0001%'"), distinct="product")
    assert filtered.others == 0


def test_hits_of_a_color_are_ranked_by_it_when_they_are_diverse_too(index, monkeypatch):
    differences = np.random.default_rng(0).uniform(0, 20, len(index))
    monkeypatch.setattr(index.items, "colored", lambda _: (np.arange(len(index)), differences))
    filter_ = Filter(color="#102030")

    hits = index.search_item("b/0004.png", filter=filter_)

    assert index.search_item("b/0004.png", filter=filter_, diverse=1.0) == hits
    worth = [hit.score - hit.color_difference / 100 for hit in hits]
    assert worth == sorted(worth, reverse=True)
    assert index.search_item("b/0004.png", filter=filter_, diverse=0.2) != hits
