"""The simulated shop keeps its promises, on a small index."""

import csv
from collections import Counter

import numpy as np
import pytest

from simulated_shop import COLUMNS, ETA, KINDS, LAST_DAY, NEW_DAYS, Truth, make_log

USERS, EVENTS, DAYS = 400, 8_000, 40


@pytest.fixture(scope="module")
def made(large, tmp_path_factory):
    """A log of the large index, its rows, and its truth."""
    folder = tmp_path_factory.mktemp("simulated")
    truth = make_log(large / "index", folder / "events.csv", USERS, EVENTS, DAYS, seed=3, folder=folder)
    with (folder / "events.csv").open(newline="") as file:
        return folder / "events.csv", list(csv.DictReader(file)), truth


def test_the_log_has_as_many_events_as_asked_for_in_the_order_of_time(made):
    _, rows, truth = made
    times = [row["time"] for row in rows]
    assert len(rows) == EVENTS
    assert times == sorted(times)
    assert str(LAST_DAY - (DAYS - 1)) <= times[0][:10]
    assert times[-1][:10] == str(LAST_DAY)
    assert tuple(rows[0]) == COLUMNS
    assert {row["event"] for row in rows} == set(KINDS)
    assert {row["product"] for row in rows} <= set(truth.names.tolist())
    assert len({tuple(row.values()) for row in rows}) == EVENTS


def test_the_same_seed_writes_the_same_bytes_and_another_does_not(large, made, tmp_path):
    file, _, _ = made
    for seed in (3, 4):
        make_log(large / "index", tmp_path / "again.csv", USERS, EVENTS, DAYS, seed=seed)
        assert ((tmp_path / "again.csv").read_bytes() == file.read_bytes()) == (seed == 3)


def test_few_products_and_few_customers_have_most_events(made):
    _, rows, truth = made
    chosen = [row for row in rows if not row["position"]]
    for column, count in (("product", len(truth.names)), ("user", USERS)):
        counts = sorted(Counter(row[column] for row in chosen).values(), reverse=True)
        assert sum(counts[: count // 10]) > 0.25 * len(chosen)


def test_clicks_fall_with_the_place_as_much_as_is_said(made):
    _, rows, _ = made
    shown, clicked = (
        Counter(int(r["position"]) for r in rows if r["position"] and r["event"] == kind) for kind in KINDS[:2]
    )
    first, late = (
        sum(clicked[place] for place in places) / sum(shown[place] for place in places)
        for places in ((1,), range(11, 21))
    )
    # What stands first is also more relevant.
    looked = np.mean([place**-ETA for place in range(11, 21)])
    assert 0 < late < 2 * looked * first
    assert first > 0.25


def test_what_is_new_has_no_events_before_its_day_and_some_after(made):
    _, rows, truth = made
    launch = dict(zip(truth.names.tolist(), truth.launch.tolist(), strict=True))
    new = {name for name, day in launch.items() if day > DAYS - NEW_DAYS}
    assert len(new) == len(truth.names) // 20
    first_day = LAST_DAY - (DAYS - 1)
    days = [(np.datetime64(row["time"][:10]) - first_day).astype(int) for row in rows]
    assert all(day >= np.floor(launch[row["product"]]) for day, row in zip(days, rows, strict=True))
    assert new & {row["product"] for row in rows}


def test_the_truth_is_kept(made):
    file, _, truth = made
    kept = Truth.read(file.parent)
    generator = np.random.default_rng(0)
    users, queries = kept.draw_searches(generator, 50, DAYS - 1)
    found = kept.relevance(users, queries, kept.scores[queries], kept.shown[queries], DAYS - 1)
    expected = truth.relevance(users, queries, truth.scores[queries], truth.shown[queries], DAYS - 1)
    assert np.array_equal(found, expected)
    assert 0 < found.min() < found.max() < 1
    assert abs(found.mean() - 0.25) < 0.2
