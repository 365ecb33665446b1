"""Fitting a ranking: what NumPy answers is what LightGBM does, what is planted is found, and places do not mislead."""

from dataclasses import replace

import numpy as np
import pytest

from imgsearch.errors import MissingComponentError
from imgsearch.personal.ranking.clicks import click_weights
from imgsearch.personal.ranking.fitting import fit, require_learner, trees_of
from imgsearch.personal.ranking.groups import Groups, gains_at_10


def planted(count: int = 400, eta: float = 1.0, seed: int = 0) -> tuple[Groups, np.ndarray]:
    """Answers of 12 hits, ordered by the first feature; half as much depends on it as on the second, the rest is noise.

    Returns:
        What was clicked, weighed by the places, and how relevant each hit truly is.
    """
    random = np.random.default_rng(seed)
    features = random.normal(size=(count, 12, 4)).astype(np.float32)
    order = np.argsort(-features[..., 0], axis=1)
    features = np.take_along_axis(features, order[..., None], axis=1)
    relevance = 1 / (1 + np.exp(1 - 0.6 * features[..., 0] - 1.2 * features[..., 1]))
    places = np.arange(1, 13)
    clicks = random.random((count, 12)) < relevance * places**-eta
    features[..., 3] = np.nan
    kept = clicks.any(axis=1) & ~clicks.all(axis=1)
    size = int(kept.sum())
    shown = np.tile(places, size)
    gains = clicks[kept].ravel() * click_weights(shown, eta)
    starts = np.arange(size + 1) * 12
    found = Groups(features[kept].reshape(-1, 4), starts, gains, shown, np.arange(size))
    return found, relevance[kept].ravel()


def true_ndcg(groups: Groups, relevance: np.ndarray, scores: np.ndarray) -> float:
    gained, best = gains_at_10(replace(groups, gains=relevance), scores)
    return float(gained.sum() / best.sum())


@pytest.mark.parametrize("learner", ["lambdamart", "linear"])
def test_clicks_weighed_by_their_places_teach_the_true_order_and_others_less_of_it(learner):
    groups, _ = planted()
    judged, relevance = planted(200, seed=1)
    biased = replace(groups, gains=(groups.gains > 0).astype(float))

    found = {
        name: true_ndcg(judged, relevance, fit(each, learner, 0).scores(judged.features))
        for name, each in {"weighed": groups, "biased": biased}.items()
    }
    by_hits = true_ndcg(judged, relevance, judged.hit_order())

    assert found["weighed"] > found["biased"] > by_hits
    assert found["weighed"] > 0.95


def test_the_same_clicks_and_seed_teach_the_same():
    groups, _ = planted(100)

    first, second = (fit(groups, "lambdamart", 3).scores(groups.features) for _ in range(2))

    assert np.array_equal(first, second)


@pytest.mark.parametrize("share_unknown", [0.0, 0.3])
def test_numpy_answers_as_lightgbm_does_to_the_ninth_place(share_unknown):
    import lightgbm  # which takes its time, in each process that looks for tests

    random = np.random.default_rng(0)
    x = random.normal(size=(500, 6)).astype(np.float32)
    x[:, 4] = np.round(x[:, 4])
    x[random.random(x.shape) < share_unknown] = np.nan
    y = (np.nan_to_num(x[:, 0]) * np.nan_to_num(x[:, 1]) + random.normal(size=500) > 0).astype(int)
    settings = {"objective": "lambdarank", "verbose": -1, "num_threads": 1, "min_data_in_leaf": 5, "num_leaves": 20}
    booster = lightgbm.train(settings, lightgbm.Dataset(x, y, group=[20] * 25), 20)
    # What was known of all in training may be unknown later.
    asked = np.where(random.random((300, 6)) < 0.3, np.nan, random.normal(size=(300, 6))).astype(np.float32)

    trees = trees_of(booster)

    expected = booster.predict(asked, raw_score=True)
    assert np.abs(trees.scores(asked) - expected).max() < 1e-9
    constant = expected - trees.contributions(asked).sum(axis=1)
    assert np.ptp(constant) < 1e-9
    assert trees.problem(6) == ""


def test_ndcg_of_weighed_clicks_is_one_for_the_best_order_and_heeds_the_first_ten():
    gains = np.zeros(24)
    gains[[3, 23]] = 1, 5  # of the first answer the fourth, of the second the last
    groups = Groups(np.zeros((24, 1), np.float32), np.array([0, 12, 24]), gains, np.zeros(24, int), np.arange(2))

    gained, best = gains_at_10(groups, groups.hit_order())

    assert gained == pytest.approx([1 / np.log2(5), 0])
    assert best == pytest.approx([1, 5])
    assert gains_at_10(groups, gains)[0] == pytest.approx(best)


def test_without_lightgbm_trees_are_refused_by_the_name_of_what_installs_it(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)

    require_learner("linear")
    with pytest.raises(MissingComponentError) as raised:
        require_learner("lambdamart")
    assert "'imgsearch-toolkit[personal]'" in str(raised.value.hint)
