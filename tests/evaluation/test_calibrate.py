"""What a score means: learned from queries, stored in the index, shown beside hits, kept while scores mean the same."""

import dataclasses
import json
import logging
from itertools import pairwise

import numpy as np
import pytest

from imgsearch import Filter, Index, build_index, check
from imgsearch.build import generation
from imgsearch.encoders import projection
from imgsearch.errors import DamagedIndexError, LockedError, RefusedError, UsageError
from imgsearch.evaluation.calibrate import MIN_QUERIES, calibrate, keep_calibration
from imgsearch.evaluation.evaluate import evaluate
from imgsearch.evaluation.results import QueryResult, RankedHit, Retrieval
from imgsearch.records import as_json, read
from imgsearch.store import generations
from imgsearch.store.calibration import Calibration, Curve
from imgsearch.store.locking import writer_lock
from imgsearch.store.manifest import _digest
from imgsearch.store.rollback import rollback


def of_first(score):
    return 1 / (1 + np.exp(-14 * (score - 0.5)))


def of_later(score):
    return 0.6 / (1 + np.exp(-10 * (score - 0.7)))


def simulated(queries, seed=0, first=of_first, later=of_later):
    """Queries of ten hits, which are right with a known probability, given their score."""
    random = np.random.default_rng(seed)
    judged = []
    for number in range(queries):
        scores = np.sort(random.uniform(0, 1, 10))[::-1] * random.uniform(0.3, 1)
        chances = [(first if place == 0 else later)(score) for place, score in enumerate(scores)]
        rights = random.uniform(size=10) < chances
        hits = [
            RankedHit(f"{place}.png", "", round(float(score), 6), bool(right))
            for place, (score, right) in enumerate(zip(scores, rights, strict=True))
        ]
        judged.append(QueryResult(f"{number}.jpg", "", "", 1, tuple(hits)))
    return Retrieval("queries", "product", tuple(judged), {}, np.zeros(11), 0, ())


def error_of(calibration, retrieval):
    """Compute the expected calibration error of a calibration once more, on queries of our choice."""
    bins = {}
    for one in retrieval.results:
        for rank, hit in enumerate(one.hits, start=1):
            probability = calibration.probability(hit.score, rank)
            bins.setdefault(min(14, int(probability * 15)), []).append((probability, hit.relevant))
    count = sum(map(len, bins.values()))
    return sum(abs(sum(p for p, _ in found) - sum(right for _, right in found)) for found in bins.values()) / count


# --- the fit


@pytest.mark.parametrize("queries", [300, 3000])
def test_a_known_probability_is_found_again(queries):
    calibration = calibrate(simulated(queries)).calibration

    for score in np.linspace(0.2, 0.9, 15):
        assert calibration.probability(score, 1) == pytest.approx(of_first(score), abs=0.12)
        assert calibration.probability(score, 2) == pytest.approx(of_later(score), abs=0.12)


@pytest.mark.parametrize("queries", [300, 3000])
def test_the_error_is_small_on_queries_that_nothing_was_learned_from(queries):
    found = calibrate(simulated(queries))
    unseen = error_of(found.calibration, simulated(1500, seed=1))

    assert unseen <= 0.05
    assert found.error <= 0.05
    assert found.error == pytest.approx(unseen, abs=0.03)
    assert found.calibration.error == pytest.approx(found.error, abs=1e-6)


def test_the_error_of_cross_validation_is_that_of_queries_held_out():
    """Scores that mean nothing: what is fitted on them can only give the mean."""
    found = calibrate(simulated(400, first=lambda _: 0.5, later=lambda _: 0.5))

    assert found.error < 0.05
    assert found.calibration.probability(0.2, 1) == pytest.approx(0.5, abs=0.12)
    assert found.calibration.probability(0.9, 2) == pytest.approx(0.5, abs=0.12)


@pytest.mark.parametrize(
    ("queries", "methods"), [(50, ("platt", "platt")), (400, ("platt", "isotonic")), (1000, ("isotonic", "isotonic"))]
)
def test_few_hits_are_fitted_by_platt_and_many_by_isotonic_regression(queries, methods):
    calibration = calibrate(simulated(queries)).calibration

    assert (calibration.first.method, calibration.later.method) == methods
    assert calibration.queries == queries


@pytest.mark.parametrize("queries", [20, 60, 400, 2000])
@pytest.mark.parametrize("first", [of_first, lambda score: 1 - of_first(score), lambda _: 0.03, lambda _: 0.99])
def test_probabilities_never_fall_and_are_never_certain(queries, first):
    calibration = calibrate(simulated(queries, first=first)).calibration

    for curve in (calibration.first, calibration.later):
        assert all(earlier <= later for earlier, later in pairwise(curve.probabilities))
        assert all(earlier <= later for earlier, later in pairwise(curve.scores))
        assert all(0 < probability < 1 for probability in curve.probabilities)


@pytest.mark.parametrize("width", [0.2, 0.01, 0.001, 0.0001])
def test_scores_that_tell_right_from_wrong_without_fail_are_not_certain_either(width):
    """Right at a score above 0.95, wrong below it, and nothing in between."""
    random = np.random.default_rng(0)
    judged = []
    for number in range(60):
        right = number % 2 == 0
        score = 0.95 + (width if right else -width) * random.uniform(0.2, 0.25)
        judged.append(QueryResult(f"{number}.jpg", "", "", 1, (RankedHit("a.png", "", round(score, 6), right),)))
    calibration = calibrate(dataclasses.replace(simulated(0), results=tuple(judged))).calibration

    assert 0 < calibration.probability(0.95 - width / 4, 1) < 0.1
    assert 0.9 < calibration.probability(0.95 + width / 4, 1) < 1
    assert all(0 < probability < 1 for probability in calibration.first.probabilities)


@pytest.mark.parametrize("width", [0.1, 0.01, 0.001])
def test_scores_that_lie_close_together_are_told_apart(width):
    """As those of an encoder whose embeddings all point in nearly the same direction."""
    retrieval = simulated(400)
    judged = tuple(
        dataclasses.replace(
            one,
            hits=tuple(dataclasses.replace(hit, score=round(0.99 - width + width * hit.score, 6)) for hit in one.hits),
        )
        for one in retrieval.results
    )
    calibration = calibrate(dataclasses.replace(retrieval, results=judged)).calibration

    for score in np.linspace(0.2, 0.9, 15):
        assert calibration.probability(0.99 - width + width * score, 1) == pytest.approx(of_first(score), abs=0.12)


def test_the_reliability_diagram_is_of_all_hits():
    found = calibrate(simulated(400))

    assert found.hits.sum() == 4000
    assert len(found.hits) == len(found.probability) == len(found.accuracy) == 15
    right = sum(hit.relevant for one in simulated(400).results for hit in one.hits)
    assert (found.accuracy * found.hits).sum() == pytest.approx(right)
    weights = found.hits / found.hits.sum()
    assert found.error == pytest.approx((weights * np.abs(found.probability - found.accuracy)).sum())
    for place in np.flatnonzero(found.hits):
        assert place / 15 <= found.probability[place] + 1e-9 <= (place + 1) / 15 + 1e-6


def test_too_few_queries_are_refused():
    calibrate(simulated(MIN_QUERIES))

    with pytest.raises(UsageError, match="at least 20 queries, got 19"):
        calibrate(simulated(MIN_QUERIES - 1))


@pytest.mark.parametrize(("chance", "kind"), [(1.1, "right"), (-0.1, "wrong")])
def test_hits_that_are_all_right_or_all_wrong_are_refused(chance, kind):
    with pytest.raises(UsageError, match=f"but all hits are {kind}"):
        calibrate(simulated(50, first=lambda _: chance, later=lambda _: chance))


def test_first_hits_that_are_all_right_are_nearly_certain():
    calibration = calibrate(simulated(100, first=lambda _: 1.1)).calibration

    assert 0.98 <= calibration.probability(0.9, 1) == calibration.probability(0.1, 1) < 1


def test_queries_with_one_hit_each_have_no_later_ones():
    """An index of one item, and images of which some are right."""
    retrieval = simulated(60)
    judged = tuple(dataclasses.replace(one, hits=one.hits[:1]) for one in retrieval.results)
    found = calibrate(dataclasses.replace(retrieval, results=judged))

    assert found.error == found.error_at_1
    assert 0 < found.calibration.probability(0.5, 2) < 1


# --- in an index


def learned(index, **options):
    """Learn what the scores of an index mean, and store it."""
    found = evaluate(index, calibrate=True, **options)
    keep_calibration(index, found)
    return found


@pytest.fixture(scope="module")
def by_category(shop):
    """An evaluation of the shop's index with probabilities."""
    return evaluate(shop / "index", calibrate=True, labels="category")


@pytest.fixture(scope="module")
def by_self_test(shop):
    """An evaluation of the shop's index with probabilities of the same product."""
    return evaluate(shop / "index", calibrate=True, sample=24)


@pytest.fixture
def calibrated(shop_copy, by_category):
    keep_calibration(shop_copy / "index", by_category)
    return shop_copy


def calibration_in(folder):
    return generations.read_manifest(folder / "index").calibration


def test_what_was_learned_is_stored_in_the_index(shop_copy):
    before = generations.read_manifest(shop_copy / "index")
    found = learned(shop_copy / "index", labels="category")

    manifest = generations.read_manifest(shop_copy / "index")
    assert manifest.calibration == found.reliability.calibration
    assert dataclasses.replace(manifest, calibration=None) == before
    assert (manifest.calibration.meaning, manifest.calibration.queries) == ("category", 48)
    assert found.figures["calibration_error"].mean == found.reliability.error
    assert found.figures["calibration_error@1"].mean == found.reliability.error_at_1
    assert not check(shop_copy / "index", deep=True)


def test_without_labels_it_is_learned_from_a_self_test_and_replaces_what_was_learned(calibrated, by_self_test):
    first = calibration_in(calibrated)
    keep_calibration(calibrated / "index", by_self_test)

    assert by_self_test.setup["kind"] == "self-test"
    assert (first.meaning, calibration_in(calibrated).meaning) == ("category", "product")
    assert not check(calibrated / "index", deep=True)


def test_evaluating_alone_stores_nothing(shop_copy):
    before = (shop_copy / "index/manifest.json").read_bytes()
    evaluate(shop_copy / "index", recall=True, labels="category", calibrate=True)

    assert (shop_copy / "index/manifest.json").read_bytes() == before


def test_hits_have_the_probability_of_their_score_and_rank(calibrated):
    image = calibrated / "catalog/fish/fish-00.png"
    with Index.open(calibrated / "index") as index:
        hits = index.search(image, k=10)
        by_curves = [index.manifest.calibration.probability(hit.score, hit.rank) for hit in hits]
        assert [hit.probability for hit in hits] == pytest.approx(np.minimum.accumulate(by_curves).tolist())
        assert all(0 < hit.probability < 1 for hit in hits)
        later = [hit.probability for hit in hits[1:]]
        assert later == sorted(later, reverse=True)


def test_no_hit_is_surer_than_one_before_it_though_the_curves_cross():
    calibration = read(Calibration, {**GOOD, "first": {**CURVE, "probabilities": [0.1, 0.1, 0.1]}})

    assert calibration.of_answer([1.0, 0.9, -1.0]) == [0.1, 0.1, 0.1]
    assert calibration.of_answer([0.0, 0.0], is_first=False) == [0.2, 0.2]
    assert calibration.of_answer([]) == []


def test_a_hit_that_is_first_only_because_better_ones_were_left_out_is_none_that_nothing_has_beaten(calibrated):
    image = calibrated / "catalog/fish/fish-00.png"
    with Index.open(calibrated / "index") as index:
        manifest = index.manifest
        (best,) = index.search(image, k=1, filter=Filter("category = 'fish'"))
        (left,) = index.search(image, k=1, filter=Filter("category = 'cups'"))

    assert best.probability == manifest.calibration.probability(best.score, 1)
    assert left.probability == manifest.calibration.probability(left.score, 2)


@pytest.mark.parametrize("least", [-0.1, 1.1, float("nan")])
def test_a_least_probability_that_is_none_is_refused(calibrated, least):
    with Index.open(calibrated / "index") as index, pytest.raises(UsageError, match="0 to 1"):
        index.search(calibrated / "catalog/fish/fish-00.png", filter=Filter(min_probability=least))


def test_without_a_calibration_hits_have_no_probability(shop_copy):
    with Index.open(shop_copy / "index") as index:
        hits = index.search(shop_copy / "catalog/fish/fish-00.png")
        assert [hit.probability for hit in hits] == [None] * 5
        with pytest.raises(UsageError, match="the index is not calibrated") as caught:
            index.search(shop_copy / "catalog/fish/fish-00.png", filter=Filter(min_probability=0.5))
    assert "evaluate --calibrate" in caught.value.hint


def test_hits_that_are_likely_enough_are_kept(calibrated):
    image = calibrated / "catalog/fish/fish-00.png"
    with Index.open(calibrated / "index") as index:
        everything = index.search(image, k=48)
        least = everything[20].probability
        for limit in (0.0, least, 0.9999999, 1.0):
            kept = index.search(image, k=48, filter=Filter(min_probability=limit))
            assert kept == [hit for hit in everything if hit.probability >= limit]
        assert 0 < len(index.search(image, k=48, filter=Filter(min_probability=least))) < 48


# --- while scores mean the same


@pytest.fixture
def projected(shop_copy, monkeypatch):
    """A calibrated index of a catalog that is large enough to learn a projection from."""
    monkeypatch.setattr(generation, "SMALLEST_CATALOG", 40)
    monkeypatch.setattr(projection, "DIMS", 16)
    build_index(shop_copy / "catalog", shop_copy / "index", relearn=True)
    assert generations.read_manifest(shop_copy / "index").projection_count == 48
    learned(shop_copy / "index", labels="category")
    return shop_copy


def more_images(folder):
    for number in range(2):
        pixels = (folder / f"catalog/balls/balls-0{number}.png").read_bytes()
        (folder / f"catalog/fish/new-{number}.png").write_bytes(pixels)


def test_a_night_with_new_images_keeps_it_and_the_projection(projected):
    before = generations.read_manifest(projected / "index")
    more_images(projected)
    build_index(projected / "catalog", projected / "index")

    after = generations.read_manifest(projected / "index")
    assert (after.count, after.generation) == (50, before.generation + 1)
    assert after.calibration == before.calibration is not None
    assert not check(projected / "index", deep=True)


def test_a_projection_that_is_learned_anew_drops_it_with_a_warning(projected, caplog):
    more_images(projected)
    with caplog.at_level(logging.WARNING, logger="imgsearch"):
        logging.getLogger("imgsearch").propagate = True
        build_index(projected / "catalog", projected / "index", relearn=True)

    assert calibration_in(projected) is None
    assert "scores mean something else now: run imgsearch evaluate --calibrate again" in caplog.text


def test_a_projection_that_is_learned_anew_and_is_the_same_keeps_it(projected):
    before = calibration_in(projected)
    build_index(projected / "catalog", projected / "index", relearn=True)

    assert calibration_in(projected) == before


def test_another_encoder_drops_it_with_a_warning(calibrated, caplog):
    with caplog.at_level(logging.WARNING, logger="imgsearch"):
        logging.getLogger("imgsearch").propagate = True
        build_index(calibrated / "catalog", calibrated / "index", backbone="handcrafted:color")

    assert calibration_in(calibrated) is None
    assert "run imgsearch evaluate --calibrate again" in caplog.text
    with Index.open(calibrated / "index") as index:
        assert index.search(calibrated / "catalog/fish/fish-00.png")[0].probability is None


def test_a_night_on_which_nothing_changed_leaves_it_alone(calibrated):
    before = (calibrated / "index/manifest.json").read_bytes()

    assert not build_index(calibrated / "catalog", calibrated / "index").published
    assert (calibrated / "index/manifest.json").read_bytes() == before


def test_rolling_back_carries_it_over(calibrated):
    before = calibration_in(calibrated)
    more_images(calibrated)
    build_index(calibrated / "catalog", calibrated / "index")
    rollback(calibrated / "index")

    manifest = generations.read_manifest(calibrated / "index")
    assert (manifest.generation, manifest.count) == (3, 48)
    assert manifest.calibration == before
    assert not check(calibrated / "index", deep=True)


def test_rolling_back_across_an_encoder_brings_back_what_belonged_to_it(calibrated):
    before = calibration_in(calibrated)
    build_index(calibrated / "catalog", calibrated / "index", backbone="handcrafted:color")
    rollback(calibrated / "index")

    assert calibration_in(calibrated) == before


def test_rolling_back_brings_back_what_was_learned_last(calibrated, by_self_test):
    keep_calibration(calibrated / "index", by_self_test)
    last = by_self_test.reliability.calibration  # of the product, where it was the category
    more_images(calibrated)
    build_index(calibrated / "catalog", calibrated / "index")
    rollback(calibrated / "index")

    assert calibration_in(calibrated) == last


def test_rolling_back_to_another_encoder_does_not_carry_it_over(shop_copy):
    build_index(shop_copy / "catalog", shop_copy / "index", backbone="handcrafted:color")
    learned(shop_copy / "index", labels="category")
    rollback(shop_copy / "index")

    manifest = generations.read_manifest(shop_copy / "index")
    assert (manifest.encoder.name, manifest.calibration) == ("handcrafted", None)


def test_a_build_that_publishes_in_between_makes_it_worthless(shop_copy, by_category):
    more_images(shop_copy)
    build_index(shop_copy / "catalog", shop_copy / "index")

    with pytest.raises(
        RefusedError, match=r"generation 1 of .* was evaluated, but it was rebuilt meanwhile and is generation 2"
    ):
        keep_calibration(shop_copy / "index", by_category)

    assert calibration_in(shop_copy) is None
    assert not check(shop_copy / "index", deep=True)


def test_a_build_that_runs_keeps_it_from_being_stored(shop_copy, by_category):
    with writer_lock(shop_copy / "index"), pytest.raises(LockedError, match="another build holds"):
        keep_calibration(shop_copy / "index", by_category)

    assert calibration_in(shop_copy) is None


CURVE = {"method": "platt", "scores": [-1.0, 0.0, 1.0], "probabilities": [0.1, 0.2, 0.9]}
GOOD = {"meaning": "product", "queries": 50, "error": 0.02, "first": CURVE, "later": CURVE}


def test_a_calibration_is_read_as_it_was_written():
    curve = Curve("platt", (-1.0, 0.0, 1.0), (0.1, 0.2, 0.9))

    assert read(Calibration, GOOD) == Calibration("product", 50, 0.02, curve, curve)
    assert read(Calibration, as_json(read(Calibration, GOOD))) == read(Calibration, GOOD)
    assert read(Calibration, GOOD).probability(0.5, 1) == pytest.approx(0.55)
    assert read(Calibration, GOOD).probability(1.0, 1) == 0.9


@pytest.mark.parametrize(
    "damage",
    [
        {"first": CURVE | {"probabilities": [0.1, float("nan"), 0.9]}},
        {"first": CURVE | {"probabilities": [0.1, 0.9, 0.2]}},
        {"later": CURVE | {"probabilities": [0.1, 0.2]}},
        {"later": CURVE | {"probabilities": [0.1, 0.2, 1.5]}},
        {"first": CURVE | {"scores": [1.0, 0.0, -1.0]}},
        {"first": CURVE | {"scores": [-1.0, float("nan"), 1.0]}},
        {"first": CURVE | {"scores": [-2.0, 0.0, 1.0]}},
        {"first": CURVE | {"scores": [-1.0, "0", 1.0]}},
        {"first": CURVE | {"scores": [], "probabilities": []}},
        {"first": CURVE | {"scores": None}},
        {"first": None},
        {"later": []},
        {"error": float("inf")},
        {"error": True},
        {"queries": -1},
        {"queries": 2.5},
    ],
)
def test_a_damaged_calibration_is_refused(damage, shop_copy):
    path = shop_copy / "index/manifest.json"
    data = json.loads(path.read_text())

    def signed(calibration):
        changed = {name: value for name, value in data.items() if name != "sha256"} | {"calibration": calibration}
        path.write_text(json.dumps(changed | {"sha256": _digest(changed)}))

    signed(GOOD)
    assert calibration_in(shop_copy).queries == 50
    signed(GOOD | damage)
    with pytest.raises(DamagedIndexError, match=r"manifest\.json is damaged"):
        Index.open(shop_copy / "index")
