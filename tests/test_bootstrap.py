import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgsearch import bootstrap
from imgsearch.bootstrap import LEVEL, PAIRED_LEVEL, Interval, mean_interval, paired_interval, ratio_interval

SHARES = st.floats(0, 1)


def test_nineteen_of_twenty_intervals_hold_the_true_mean():
    random = np.random.default_rng(1)
    held = 0
    for seed in range(200):
        interval = mean_interval(random.random(150) < 0.8, seed)
        held += interval.low <= 0.8 <= interval.high

    # 200 tries of 0.95: 190, give or take 3.1. The percentile interval of a share is a little too narrow.
    assert 180 <= held <= 199


def test_the_interval_is_that_of_the_normal_distribution_where_there_are_many_queries():
    values = np.random.default_rng(2).random(5000)
    expected = 1.96 * values.std() / np.sqrt(len(values))

    interval = mean_interval(values)

    assert interval.mean == pytest.approx(values.mean())
    assert interval.mean - interval.low == pytest.approx(expected, rel=0.1)
    assert interval.high - interval.mean == pytest.approx(expected, rel=0.1)


def test_99_of_100_paired_intervals_hold_the_true_change():
    random = np.random.default_rng(3)
    held = 0
    for seed in range(200):
        before = random.random(150)
        interval = paired_interval(before, before + random.normal(-0.05, 0.1, 150), seed)
        held += interval.low <= -0.05 <= interval.high

    assert held >= 193


def test_pairing_finds_a_small_loss_among_queries_of_unlike_difficulty():
    random = np.random.default_rng(4)
    before = random.random(300)
    after = before - 0.01 + random.normal(0, 0.01, 300)

    difference = paired_interval(before, after)

    assert difference.mean == pytest.approx(-0.01, abs=0.002)
    assert difference.high < 0
    assert mean_interval(after).high > before.mean()  # not to be seen without


@given(st.lists(SHARES, min_size=1, max_size=30))
def test_an_interval_lies_within_the_values_and_comes_out_the_same_again(values):
    interval = mean_interval(values)

    assert min(values) - 1e-12 <= interval.low <= interval.high <= max(values) + 1e-12
    assert interval == mean_interval(values)


def test_another_seed_gives_nearly_the_same_interval():
    values = np.random.default_rng(5).random(500)

    first, second = (mean_interval(values, seed) for seed in (0, 1))

    assert first != second
    assert first.low == pytest.approx(second.low, abs=0.005)


def test_a_higher_level_is_a_wider_interval():
    values = np.arange(20) / 20

    usual, sure = (mean_interval(values, level=level) for level in (LEVEL, PAIRED_LEVEL))

    assert sure.low < usual.low < usual.high < sure.high


def test_the_usual_level_can_be_asked_for_of_pairs():
    before, after = np.arange(20) / 20, np.arange(20)[::-1] / 20

    assert paired_interval(before, after, level=LEVEL) == mean_interval(after - before)


def test_the_ratio_of_equal_wholes_is_the_mean_of_the_parts():
    parts = np.random.default_rng(7).random(400)

    ratio, mean = ratio_interval(parts, np.ones(400)), mean_interval(parts)

    assert ratio.mean == pytest.approx(mean.mean)
    assert (ratio.low, ratio.high) == pytest.approx((mean.low, mean.high), abs=0.01)


def test_memory_does_not_change_the_interval(monkeypatch):
    values = np.random.default_rng(6).random(70)
    at_once = mean_interval(values)

    monkeypatch.setattr(bootstrap, "_CHUNK", 1000)

    assert mean_interval(values) == at_once


def test_what_is_always_the_same_has_no_width():
    assert mean_interval([0.25]) == Interval(0.25, 0.25, 0.25)
    assert mean_interval([True] * 50) == Interval(1, 1, 1)
    assert paired_interval([0.5, 1.0], [0.5, 1.0]) == Interval(0, 0, 0)


def test_no_queries_or_not_the_same_queries_is_an_error():
    with pytest.raises(ValueError, match="at least one query, got none"):
        mean_interval([])
    with pytest.raises(ValueError, match="a whole above 0"):
        ratio_interval([0.0, 1.0], [0.0, 1.0])
    with pytest.raises(ValueError, match="2 before and 1 after"):
        paired_interval([0.0, 1.0], [0.0])
