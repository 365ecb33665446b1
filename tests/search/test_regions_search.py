"""What an index answers to photos: regions, boxes, objects, and proof by geometry."""

import json
import shutil
from dataclasses import asdict, replace

import cv2
import numpy as np
import pytest

from drawn_catalog import draw_catalog
from imgsearch import Filter, Index, build_index
from imgsearch.cli import main
from imgsearch.errors import ImageError, UsageError
from imgsearch.images import photo as photo_module
from imgsearch.images.boxes import Box, in_reading_order, overlaps
from imgsearch.images.decode import decode, decode_rgba
from imgsearch.images.workers import decoders
from imgsearch.search import rerank as reranking
from imgsearch.search import search as search_module
from imgsearch.search import viewer
from imgsearch.search.backends.exact import ExactCandidates
from imgsearch.search.rerank import CANDIDATES, draw_hit
from imgsearch.search.search import Search
from imgsearch.search.views import QueryImage
from imgsearch.store.calibration import Calibration, Curve
from imgsearch.synthetic.compose import Style, compose

ITEM = "cups/cups-00.png"


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shop")
    draw_catalog(folder / "catalog", per_kind=2)
    build_index(folder / "catalog", folder / "index", precision="f32", backend="exact")
    return folder


@pytest.fixture(scope="module")
def index(shop):
    with Index.open(shop / "index") as opened:
        yield opened


def background(height=480, width=640, seed=3):
    coarse = np.random.default_rng(seed).integers((90, 90, 60), (190, 200, 150), (9, 9, 3)).astype(np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


def composed(shop, names, style, seed=5):
    items = [decode_rgba((shop / "catalog" / name).read_bytes()) for name in names]
    return compose(background(), items, style, np.random.default_rng(seed))


def write(folder, pixels, name="photo.png"):
    (folder / name).write_bytes(cv2.imencode("." + name.rpartition(".")[2], pixels[:, :, ::-1])[1].tobytes())
    return folder / name


@pytest.fixture(scope="module")
def photo(shop, tmp_path_factory):
    """A photo with an item on an uneven background, and where that is."""
    made = composed(shop, [ITEM], Style(sides=(0.45, 0.5), covered=0))
    return write(tmp_path_factory.mktemp("photo"), made.photo), made.boxes[0]


def lies_in(box, other):
    """How much of a box lies in another."""
    shared = overlaps([box], [other])[0, 0]
    return shared / (1 + shared) * (box.area + other.area) / box.area


def views_of(index, file, search=None):
    search = search or Search(index.nearest, 2)
    return search.views_of(QueryImage.read(file, index.manifest.policy), lambda: index.viewer)


def check_hits(hits, k):
    assert len(hits) == k
    assert len({hit.path for hit in hits}) == k
    assert [hit.rank for hit in hits] == [*range(1, k + 1)]
    assert [hit.score for hit in hits] == sorted([hit.score for hit in hits], reverse=True)
    for hit in hits:
        assert -1 <= hit.score <= 1
        assert hit.distance == pytest.approx(np.sqrt(max(0, 2 - 2 * hit.score)), abs=2e-3)


def test_a_photo_is_answered_by_the_part_of_it_that_shows_the_item(index, photo):
    file, box = photo

    hits = index.search(file, k=5)

    check_hits(hits, 5)
    assert hits[0].path == ITEM
    assert overlaps([hits[0].box], [box])[0, 0] > 0.5
    assert hits[0].score > next(hit.score for hit in index.search(file, k=24, regions="whole") if hit.path == ITEM)


def test_a_plain_image_is_answered_without_a_box(index, shop, tmp_path):
    (tmp_path / "again.png").write_bytes((shop / "catalog" / ITEM).read_bytes() + b"\0")

    hits = index.search(tmp_path / "again.png", k=24)

    assert (hits[0].path, round(hits[0].score, 3)) == (ITEM, 1)
    assert {hit.box for hit in hits} == {None}


@pytest.mark.parametrize("k", [1, 7, 24])
@pytest.mark.parametrize("regions", ["auto", "whole", 1, 9, pytest.param(40, marks=pytest.mark.slow)])
def test_every_way_of_looking_gives_as_many_hits_each_once_the_best_first(index, photo, k, regions):
    hits = index.search(photo[0], k=k, regions=regions)

    check_hits(hits, k)
    assert regions != "whole" or {hit.box for hit in hits} == {None}


def test_more_regions_lower_no_score(index, photo):
    few, many = ({hit.path: hit.score for hit in index.search(photo[0], k=24, regions=count)} for count in (1, 12))

    assert all(many[path] >= few[path] - 1e-6 for path in few)
    assert sum(many.values()) > sum(few.values())


def test_a_photo_is_looked_at_until_one_item_is_far_enough_ahead(index, photo, monkeypatch):
    file = photo[0]
    leads = []
    for whole, part in ((-1, -1), (2, -1), (2, 2)):
        monkeypatch.setattr(search_module, "_MIN_MARGIN_WHOLE", whole)
        monkeypatch.setattr(search_module, "_MIN_MARGIN_PART", part)
        search = Search(index.nearest, 2)
        views = views_of(index, file, search)
        first, second = search.hits(views)
        leads.append((len(views), first.score - second.score))

    assert [count for count, _ in leads] == [1, 2, 5]
    monkeypatch.setattr(search_module, "_MIN_MARGIN_WHOLE", leads[0][1] + 0.001)
    monkeypatch.setattr(search_module, "_MIN_MARGIN_PART", leads[1][1] - 0.001)
    assert len(views_of(index, file)) == 2
    monkeypatch.setattr(search_module, "_MIN_MARGIN_WHOLE", leads[0][1] - 0.001)
    assert len(views_of(index, file)) == 1


def test_what_is_ahead_is_looked_for_among_what_the_condition_lets_in(index, photo, monkeypatch):
    monkeypatch.setattr(search_module, "_MIN_MARGIN_WHOLE", 0.001)
    (among_all,) = index.search(photo[0], k=1)
    (alone,) = index.search(photo[0], k=1, filter=Filter(f"path = '{ITEM}'"))

    # Nothing is ahead of nothing: a single item has the best score of all looks.
    assert among_all.box is None
    assert alone.box is not None
    assert alone.score > next(hit.score for hit in index.search(photo[0], k=24) if hit.path == ITEM)


@pytest.mark.parametrize("conditions", [{}, {"filter": Filter("category != 'x'")}, {"exact": True}, {"rerank": True}])
@pytest.mark.parametrize("k", [1, 5])
def test_each_look_is_compared_with_the_items_once(index, photo, monkeypatch, k, conditions):
    monkeypatch.setattr(search_module, "_MIN_MARGIN_WHOLE", 3)
    monkeypatch.setattr(search_module, "_MIN_MARGIN_PART", 3)
    real, compared = ExactCandidates.candidates, []
    monkeypatch.setattr(ExactCandidates, "candidates", lambda *what: compared.append(1) or real(*what))

    index.search(photo[0], k=k, **conditions)

    assert len(compared) == 5


def test_a_condition_is_asked_anew_by_every_search(index, photo):
    condition = Filter("abs(random()) % 2 = 0")
    found = {index.search(photo[0], k=1, regions="whole", filter=condition)[0].path for _ in range(20)}

    assert len(found) > 1


def test_who_leaves_out_low_scores_gets_the_best_score_of_all_looks(index, photo, monkeypatch):
    best = index.search(photo[0], k=1)[0].score
    monkeypatch.setattr(search_module, "_MIN_MARGIN_WHOLE", -1)

    (hit,) = index.search(photo[0], k=1, filter=Filter(min_score=best - 0.001))

    assert hit.score >= best - 0.001
    assert index.search(photo[0], k=1)[0].score < best - 0.001


@pytest.mark.parametrize("regions", [0, 201, -1, "x"])
def test_regions_that_make_no_sense_are_refused_for_any_image(index, photo, shop, regions):
    for file in (photo[0], shop / "catalog" / ITEM):
        with pytest.raises(UsageError, match="regions"):
            index.search(file, regions=regions)


def test_an_image_of_the_catalog_needs_no_encoder_and_has_no_box(shop, tmp_path):
    copy = shutil.copytree(shop / "index", tmp_path / "index")
    for file in copy.glob("encoders/*/*"):
        file.write_bytes(bytes(file.stat().st_size))

    with Index.open(copy) as opened:
        hits = opened.search(shop / "catalog" / ITEM, k=24)

    check_hits(hits, 24)
    assert hits[0].path == ITEM
    assert {hit.box for hit in hits} == {None}


def test_an_image_of_the_catalog_is_looked_at_in_parts_when_a_number_is_given(index, shop):
    hits = index.search(shop / "catalog" / ITEM, k=24, regions=4)

    check_hits(hits, 24)
    assert hits[0].path == ITEM
    assert {hit.box for hit in hits} > {None}


def test_a_box_is_what_every_hit_is_like(index, photo):
    file, box = photo

    hits = index.search(file, k=5, box=box)

    check_hits(hits, 5)
    assert hits[0].path == ITEM
    assert {hit.box for hit in hits} == {box}


def test_a_box_of_one_pixel_in_the_corner_is_answered(index, photo):
    for box in (Box(639, 479, 1, 1), Box(0, 0, 1, 480), Box(0, 0, 640, 480)):
        assert {hit.box for hit in index.search(photo[0], box=box)} == {box}


def test_a_box_out_of_the_image_is_a_usage_error_with_both_sizes(index, photo):
    with pytest.raises(UsageError) as refused:
        index.search(photo[0], box=Box(600, 400, 41, 80))

    assert "640 x 480" in refused.value.message
    assert "600,400,41,80" in refused.value.message
    assert refused.value.exit_code == 2


def test_boxes_of_a_jpeg_that_was_shrunk_while_decoding_are_in_its_own_pixels(index, photo, tmp_path):
    file, box = photo
    large = cv2.resize(decode(file.read_bytes()), (640 * 5, 480 * 5))
    write(tmp_path, large, "large.jpg")

    hit = index.search(tmp_path / "large.jpg", k=1)[0]

    assert hit.path == ITEM
    assert overlaps([hit.box], [Box(5 * box.x, 5 * box.y, 5 * box.width, 5 * box.height)])[0, 0] > 0.5


def test_conditions_hold_for_regions_too(index, photo):
    hits = index.search(photo[0], k=24, filter=Filter("category IN ('cups', 'hearts')"), regions=5)
    check_hits(hits, 4)
    assert {hit.category for hit in hits} == {"cups", "hearts"}

    every = index.search(photo[0], k=24, regions=5)
    limit = every[6].score
    assert index.search(photo[0], k=24, regions=5, filter=Filter(min_score=limit)) == every[:7]
    assert index.search(photo[0], k=24, regions=5, filter=Filter(min_score=1)) == []
    with pytest.raises(UsageError, match="not calibrated"):
        index.search(photo[0], regions=5, filter=Filter(min_probability=0.5))


def test_a_calibrated_index_says_probabilities_of_regions_and_objects(shop, photo):
    curves = Curve("isotonic", (-1, 1), (0, 1)), Curve("isotonic", (-1, 1), (0, 0.5))
    with Index.open(shop / "index") as opened:
        opened.nearest.manifest = replace(opened.manifest, calibration=Calibration("category", 100, 0.1, *curves))
        hits = opened.search(photo[0], k=24, filter=Filter(min_probability=0))  # so that all looks are taken
        objects = opened.search_objects(photo[0], k=5)
        sure = opened.search(photo[0], k=24, filter=Filter(min_probability=hits[2].probability))

    for answer in (hits, *(found.hits for found in objects)):
        assert [hit.probability for hit in answer] == sorted([hit.probability for hit in answer], reverse=True)
        assert answer[0].probability == pytest.approx((1 + answer[0].score) / 2)
        assert answer[1].probability == pytest.approx((1 + answer[1].score) / 4)
    assert sure == hits[: len(sure)]
    assert len(sure) in (3, 4)


def test_reranking_asks_for_twenty_and_returns_what_was_asked_for_with_inliers(index, photo, monkeypatch):
    asked = []
    real = reranking.rerank_hits

    def counted(*arguments):
        asked.append(len(arguments[-1]))
        return real(*arguments)

    monkeypatch.setattr(reranking, "rerank_hits", counted)

    hits = index.search(photo[0], k=3, rerank=True)

    assert asked == [CANDIDATES]
    assert [hit.rank for hit in hits] == [1, 2, 3]
    assert hits[0].path == ITEM
    assert hits[0].inliers > 5
    assert [hit.inliers for hit in hits] == sorted([hit.inliers for hit in hits], reverse=True)
    assert len(index.search(photo[0], k=24, rerank=True)) == 24
    assert {hit.inliers for hit in index.search(photo[0], k=3)} == {None}


def test_a_hit_that_was_proved_can_be_drawn_and_another_cannot(index, photo):
    hits = index.search(photo[0], k=20, rerank=True)

    def draw(hit):
        return draw_hit(index.manifest, index.items, QueryImage.read(photo[0], index.manifest.policy), hit)

    drawing = draw(hits[0])
    assert drawing.dtype == np.uint8
    assert drawing.ndim == 3
    assert draw(replace(hits[0], inliers=0)) is None
    assert draw(replace(hits[0], inliers=None)) is None


def test_objects_of_a_photo_are_in_reading_order_each_with_its_hits(index, shop, tmp_path):
    names = ["cups/cups-00.png", "stars/stars-00.png", "hearts/hearts-01.png"]
    made = composed(shop, names, Style(sides=(0.35, 0.4), covered=0), seed=9)

    objects = index.search_objects(write(tmp_path, made.photo), k=3)

    assert [found.hits[0].path for found in objects] == names
    assert np.diag(overlaps([found.box for found in objects], made.boxes)).min() > 0.5
    assert in_reading_order([(found.box, found) for found in objects]) == [(found.box, found) for found in objects]
    for found in objects:
        assert found.score is None
        check_hits(found.hits, 3)
        assert all(lies_in(hit.box, found.box) > 0.5 for hit in found.hits)


def test_the_objects_of_nothing_are_none(index, tmp_path):
    for name, pixels in (
        ("even.png", np.full((200, 300, 3), 90, np.uint8)),
        ("dot.png", np.zeros((1, 1, 3), np.uint8)),
    ):
        assert index.search_objects(write(tmp_path, pixels, name)) == []


def test_reranked_objects_are_of_the_asked_number_with_ranks(index, photo):
    for found in index.search_objects(photo[0], k=2, rerank=True):
        assert [hit.rank for hit in found.hits] == [1, 2]
        assert all(hit.inliers is not None for hit in found.hits)


def test_k_that_makes_no_sense_is_refused_whatever_is_found(index, photo, tmp_path):
    for rerank in (False, True):
        with pytest.raises(UsageError, match="k must be at least 1, got 0"):
            index.search(photo[0], k=0, rerank=rerank)
        with pytest.raises(UsageError, match="k must be at least 1, got 0"):
            index.search_objects(photo[0], k=0, rerank=rerank)


def test_missing_images_are_said_to_be_missing(index, tmp_path):
    for ask in (index.search, index.search_objects):
        with pytest.raises(ImageError, match="no such file"):
            ask(tmp_path / "nothing.png")


def test_hits_with_boxes_can_be_written_as_json(index, photo):
    facts = asdict(index.search(photo[0], k=1)[0])

    assert set(json.loads(json.dumps(facts))["box"]) == {"x", "y", "width", "height"}


def test_a_viewer_opens_no_encoder_before_it_is_needed(shop, photo, monkeypatch):
    opened = []
    real = viewer.open_encoder
    monkeypatch.setattr(viewer, "open_encoder", lambda *what, **how: opened.append(1) or real(*what, **how))

    with Index.open(shop / "index") as index:
        index.search(shop / "catalog" / ITEM)
        assert opened == []
        index.search(photo[0])
        index.search(photo[0], regions=9)
        assert opened == [1]


@pytest.mark.parametrize("size", [(1, 1), (1, 500), (500, 1), (50, 1000), (1000, 50)])
@pytest.mark.parametrize("regions", ["auto", "whole", 8])
def test_odd_sizes_are_answered(index, tmp_path, size, regions):
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)

    check_hits(index.search(write(tmp_path, pixels), k=5, regions=regions), 5)


@pytest.mark.parametrize("options", [[], ["--objects"], ["--box", "0,0,640,480"], ["--vote"], ["--regions", "3"]])
def test_a_photo_is_decoded_once_with_reranking_and_a_page_too(shop, photo, tmp_path, monkeypatch, options):
    decoded = []
    for module in (photo_module, decoders):
        real = module.decode_image
        monkeypatch.setattr(
            module, "decode_image", lambda data, real=real, **more: decoded.append(data) or real(data, **more)
        )
    arguments = ["query", str(photo[0]), "--index", str(shop / "index"), *options, "--rerank", "geometric"]

    assert main([*arguments, "--format", "html", "--output", str(tmp_path / "page.html")]) == 0

    assert decoded.count(photo[0].read_bytes()) == 1
