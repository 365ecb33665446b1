import math
import re
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import pytrec_eval
from hypothesis import given, settings
from hypothesis import strategies as st

from imgsearch.evaluation.metrics import hit_rate, measures, precision_at_recall

RANKS = st.lists(st.none() | st.integers(1, 50), min_size=1)
# The name of each measure in trec_eval. MAP@R it does not have.
TREC = {
    "hit_rate@1": "success_1",
    "hit_rate@5": "success_5",
    "hit_rate@10": "success_10",
    "recall@10": "recall_10",
    "recall@100": "recall_100",
    "precision@1": "P_1",
    "precision@10": "P_10",
    "r_precision": "Rprec",
    "map": "map",
    "mrr": "recip_rank",
    "ndcg@10": "ndcg_cut_10",
}


@st.composite
def queries(draw):
    """Draw a ranking (whether each place is right) and how many right answers it lacks; there is one at least."""
    ranking = draw(st.lists(st.booleans(), min_size=1, max_size=150))
    missing = draw(st.integers(0 if any(ranking) else 1, 20))
    return ranking, missing


def ranks_of(ranking):
    return np.flatnonzero(ranking) + 1


def values_of(ranking, missing=0):
    return measures(ranks_of(ranking), sum(ranking) + missing)


def by_trec_eval(ranking, missing, names):
    # Distinct scores: trec_eval puts equal ones in the order of their names.
    run = {f"item{place}": float(len(ranking) - place) for place in range(len(ranking))}
    relevant = {f"item{place}": int(right) for place, right in enumerate(ranking)}
    relevant |= {f"missing{number}": 1 for number in range(missing)}
    return pytrec_eval.RelevanceEvaluator({"q": relevant}, names).evaluate({"q": run})["q"]


def test_hit_rate_of_a_hand_worked_case():
    ranks = [1, 3, None, 2]

    assert [hit_rate(ranks, k) for k in (1, 2, 3, 10)] == [0.25, 0.5, 0.75, 0.75]


@given(RANKS, st.integers(1, 50))
def test_hit_rate_grows_with_k_and_stays_a_share(ranks, k):
    assert 0 <= hit_rate(ranks, k) <= hit_rate(ranks, k + 1) <= 1


@given(RANKS)
def test_with_k_large_enough_only_missing_answers_count_against_it(ranks):
    assert hit_rate(ranks, 50) == pytest.approx(1 - ranks.count(None) / len(ranks))


@pytest.mark.parametrize(("ranks", "k"), [([], 1), ([1], 0), ([1], -3)])
def test_no_queries_or_no_answers_is_an_error(ranks, k):
    with pytest.raises(ValueError, match="must be at least 1"):
        hit_rate(ranks, k)


def test_every_measure_of_a_hand_worked_query():
    # Right at 2, 3 and 12; a fourth right answer was never found. So R = 4.
    ranks = np.array([2, 3, 12])

    assert measures(ranks, 4) == pytest.approx(
        {
            "hit_rate@1": 0,
            "hit_rate@5": 1,
            "hit_rate@10": 1,
            "recall@10": 2 / 4,
            "recall@100": 3 / 4,
            "precision@1": 0,
            "precision@10": 2 / 10,
            "r_precision": 2 / 4,  # 2 and 3 are among the first 4
            "map": (1 / 2 + 2 / 3 + 3 / 12) / 4,
            "map@r": (1 / 2 + 2 / 3) / 4,  # 12 is beyond 4
            "mrr": 1 / 2,
            # Ideal: right at 1, 2, 3 and 4.
            "ndcg@10": (1 / math.log2(3) + 1 / math.log2(4))
            / (1 / math.log2(2) + 1 / math.log2(3) + 1 / math.log2(4) + 1 / math.log2(5)),
        }
    )


def test_the_example_of_the_metric_learning_reality_check():
    # Its toy example, R = 10: right at 1 only; at 1 and 10; at 1 and 2; at all ten.
    found = {places: measures(np.array(places), 10) for places in [(1,), (1, 10), (1, 2), tuple(range(1, 11))]}

    assert [values["precision@1"] for values in found.values()] == [1, 1, 1, 1]
    assert [round(values["r_precision"], 3) for values in found.values()] == [0.1, 0.2, 0.2, 1]
    assert [round(values["map@r"], 3) for values in found.values()] == [0.1, 0.12, 0.2, 1]


def test_measures_come_in_one_order_whatever_was_found():
    names = list(measures(np.array([1]), 1))

    assert names == list(measures(np.array([], np.int64), 3))
    assert set(names) == {*TREC, "map@r"}


@given(queries())
def test_measures_are_those_of_trec_eval(query):
    ranking, missing = query
    expected = by_trec_eval(
        ranking, missing, {"success.1,5,10", "recall.10,100", "P.1,10", "Rprec", "map", "recip_rank", "ndcg_cut.10"}
    )

    found = values_of(ranking, missing)

    assert {TREC[name]: found[name] for name in TREC} == pytest.approx(expected)


@given(queries())
def test_map_at_r_is_that_of_a_loop(query):
    ranking, missing = query
    relevant_count = sum(ranking) + missing
    total = 0.0
    for place in range(1, relevant_count + 1):
        if place <= len(ranking) and ranking[place - 1]:
            total += sum(ranking[:place]) / place

    assert values_of(ranking, missing)["map@r"] == pytest.approx(total / relevant_count)


@settings(deadline=None)  # the first call imports scikit-learn
@given(st.lists(st.booleans(), min_size=2, max_size=40).filter(any))
def test_map_and_ndcg_are_those_of_scikit_learn_where_everything_is_ranked(ranking):
    from sklearn.metrics import average_precision_score, ndcg_score

    scores = -np.arange(len(ranking))

    found = values_of(ranking)

    assert found["map"] == pytest.approx(average_precision_score(ranking, scores))
    assert found["ndcg@10"] == pytest.approx(ndcg_score([ranking], [scores], k=10))


@given(queries())
def test_measures_keep_their_order(query):
    found = values_of(*query)

    assert all(0 <= value <= 1 for value in found.values())
    assert found["hit_rate@1"] <= found["hit_rate@5"] <= found["hit_rate@10"]
    assert found["recall@10"] <= found["recall@100"]
    assert found["hit_rate@1"] == found["precision@1"] <= found["mrr"]
    assert found["map@r"] <= min(found["r_precision"], found["map"])


@given(queries(), st.data())
def test_no_measure_falls_when_a_right_answer_moves_up(query, data):
    ranking, missing = query
    swaps = [place for place in range(1, len(ranking)) if ranking[place] and not ranking[place - 1]]
    if not swaps:
        return
    place = data.draw(st.sampled_from(swaps))
    better = [*ranking[: place - 1], True, False, *ranking[place + 1 :]]

    before, after = values_of(ranking, missing), values_of(better, missing)

    assert all(after[name] >= before[name] for name in before)
    assert after["map"] > before["map"]


@pytest.mark.parametrize("relevant_count", [1, 3, 30])
def test_all_relevant_count_first_is_perfect(relevant_count):
    found = measures(np.arange(1, relevant_count + 1), relevant_count)

    limited = {"recall@10": min(1, 10 / relevant_count), "precision@10": min(1, relevant_count / 10)}
    assert found == pytest.approx(dict.fromkeys(found, 1.0) | limited)


def test_where_no_right_answer_was_found_every_measure_is_zero():
    assert set(measures(np.array([], np.int64), 2).values()) == {0.0}
    assert precision_at_recall(np.array([], np.int64), 2).tolist() == [0] * 11


@pytest.mark.parametrize("function", [measures, precision_at_recall])
@pytest.mark.parametrize(
    ("ranks", "relevant_count", "reason"),
    [
        ([], 0, "must be at least 1, got 0"),
        ([1, 2], 1, "must be at least 2, got 1"),
        ([0, 1], 2, "must ascend from 1"),
        ([3, 2], 2, "must ascend from 1"),
        ([2, 2], 2, "must ascend from 1"),
    ],
)
def test_what_cannot_be_is_an_error(function, ranks, relevant_count, reason):
    with pytest.raises(ValueError, match=reason):
        function(np.array(ranks, np.int64), relevant_count)


def test_precision_at_recall_of_a_hand_worked_query():
    # Right at 1, 3 and 4 of 4 right answers: precision 1/1, 2/3, 3/4 at recall 0.25, 0.5, 0.75.
    # The best from there on: 1, 3/4, 3/4. Recall 0.8 is never reached.
    found = precision_at_recall(np.array([1, 3, 4]), 4)

    assert found.tolist() == [1, 1, 1, 0.75, 0.75, 0.75, 0.75, 0.75, 0, 0, 0]


@given(queries())
def test_precision_at_recall_is_that_of_the_definition(query):
    ranking, missing = query
    ranks, relevant_count = ranks_of(ranking), sum(ranking) + missing
    points = [(Fraction(found, relevant_count), found / rank) for found, rank in enumerate(ranks, start=1)]

    levels = precision_at_recall(ranks, relevant_count)

    expected = [max((p for recall, p in points if recall >= Fraction(tenth, 10)), default=0) for tenth in range(11)]
    assert levels.tolist() == pytest.approx(expected)


@given(st.permutations([True] * 8 + [False] * 20), st.just(2))
def test_precision_at_recall_is_that_of_trec_eval(ranking, missing):
    # Ten right answers: trec_eval's own rounding of recall levels does not come into it.
    expected = by_trec_eval(ranking, missing, {"iprec_at_recall"})

    assert precision_at_recall(ranks_of(ranking), 10).tolist() == pytest.approx(
        [expected[name] for name in sorted(expected)]
    )


def test_every_measure_is_in_the_documentation():
    page = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text()
    table = page.partition("\n## Retrieval\n")[2].partition("\n## ")[0]
    cells = re.findall(r"^- ((?:`[^`]+`(?:, )?)+):", table, re.MULTILINE)
    # An entry such as `hit_rate@1`, `@5`, `@10` names three.
    stems = [re.findall(r"`([^`]+)`", cell) for cell in cells]
    named = {name if not name.startswith("@") else row[0].partition("@")[0] + name for row in stems for name in row}

    assert named == set(measures(np.array([1]), 1))
