import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgsearch.bootstrap import Interval
from imgsearch.errors import GateError, UsageError
from imgsearch.evaluation.compare import GUARDED, MIN_LOSS, Gate, compare, failed_gates, parse_gate, require_measured
from imgsearch.evaluation.record import EvaluationRecord

FIGURES = {
    name: Interval(mean, mean, mean)
    for name, mean in {
        "count": 638.0,
        "queries": 638.0,
        "hit_rate@1": 0.742,
        "hit_rate@10": 0.9,
        "map": 0.98999,
        "latency_p95": 0.004,
        "calibration_error": 0.03,
    }.items()
}
SETUP = {"kind": "self-test", "label": "product", "seed": 0}


def record(count=None, setup=SETUP, **per_query):
    """Make a record; `hit_rate_1` stands for hit_rate@1, and arrays for queries called 0000, 0001, ..."""
    named = {name.replace("_1", "@1"): values for name, values in per_query.items()}
    figures = {} if count is None else {"count": Interval(count, count, count)}
    return EvaluationRecord(
        setup,
        figures,
        {
            name: values if isinstance(values, dict) else {f"{row:04}": float(x) for row, x in enumerate(values)}
            for name, values in named.items()
        },
    )


def some(name, values, rows):
    return record(**{name: {f"{row:04}": float(values[row]) for row in rows}})


@pytest.mark.parametrize(
    ("text", "gate"),
    [
        ("hit_rate@1=0.8", Gate("hit_rate@1", 0.8)),
        (" map = .5 ", Gate("map", 0.5)),
        ("count=600", Gate("count", 600)),
        ("hit_rate@1[a=b]=1e-1", Gate("hit_rate@1[a=b]", 0.1)),
    ],
)
def test_a_gate_is_a_name_and_a_number(text, gate):
    assert parse_gate(text) == gate


@pytest.mark.parametrize("text", ["", "map", "map=", "=0.5", " =0.5", "map=high", "map=nan", "map=inf", "map=0.5%"])
def test_anything_else_is_no_gate(text):
    with pytest.raises(UsageError, match="--min must be NAME=NUMBER, got") as caught:
        parse_gate(text)

    assert caught.value.hint == "for example --min hit_rate@1=0.8"


def test_a_gate_error_has_an_exit_code_of_its_own():
    assert GateError("hit_rate@1 is 0.742, 0.058 below 0.8").exit_code == 10


def test_gates_that_are_not_met_say_by_how_much():
    gates = [Gate("hit_rate@1", 0.8), Gate("hit_rate@10", 0.9), Gate("map", 0.99), Gate("count", 1000)]

    assert failed_gates(gates, FIGURES) == [
        "hit_rate@1 is 0.742, 0.058 below 0.8",
        "map is 0.98999, 0.00001 below 0.99",
        "count is 638, 362 below 1000",
    ]


@given(st.floats(0, 1), st.floats(0, 1))
def test_a_gate_is_met_where_the_mean_is_as_large(mean, least):
    lines = failed_gates([Gate("map", least)], {"map": Interval(mean, mean, mean)})

    assert bool(lines) == (least - mean > 1e-9)
    assert all(float(line.split()[3]) > 0 for line in lines)  # by how much


def test_a_mean_that_is_a_rounding_error_short_is_enough():
    mean = float(np.mean([0.1, 0.7, 0.4]))  # 0.39999999999999997

    assert mean < 0.4
    assert failed_gates([Gate("map", 0.4)], {"map": Interval(mean, mean, mean)}) == []


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("hit_rate@2", "did you mean hit_rate@1?"),
        ("recall@10", "--labels, --queries, --self-test or --text measures it"),
        ("mrr", "--labels, --queries, --self-test or --text measures it"),
        ("index_recall@10", "--recall measures it"),
        ("queries_per_second", "--recall measures it"),
    ],
)
def test_a_gate_on_what_was_not_measured_is_an_error(name, hint):
    with pytest.raises(UsageError, match="no figure of that name was measured") as caught:
        failed_gates([Gate(name, 0.5)], FIGURES)

    assert caught.value.hint == hint


@pytest.mark.parametrize(
    ("name", "hint"),
    [("latency_p95", "--min queries_per_second=NUMBER asks for speed"), ("calibration_error@1", "")],
)
def test_a_gate_on_what_should_be_small_is_an_error(name, hint):
    with pytest.raises(UsageError, match="less of that is better") as caught:
        parse_gate(f"{name}=0.5")

    assert caught.value.hint == hint


@pytest.mark.parametrize(
    ("name", "asked", "hint"),
    [
        ("index_recall@10", {"recall": False, "retrieval": True}, "--recall measures it"),
        ("map", {"recall": True, "retrieval": False}, "--labels, --queries, --self-test or --text measures it"),
    ],
)
def test_a_gate_on_what_is_not_asked_for_is_an_error_before_anything_is_measured(name, asked, hint):
    with pytest.raises(UsageError, match="that is not measured") as caught:
        require_measured([Gate("count", 1), Gate(name, 0.5)], **asked)

    assert caught.value.hint == hint
    require_measured([Gate("count", 1), Gate(name, 0.5)], recall=True, retrieval=True)


def test_the_same_again_is_no_problem():
    random = np.random.default_rng(0)
    once = record(638, hit_rate_1=random.random(638) < 0.8, map=random.random(638), mrr=random.random(638))

    comparison = compare(once, once)

    assert comparison.problems == ()
    assert [change.name for change in comparison.changes] == ["hit_rate@1", "map", "mrr"]
    assert all(change.difference == Interval(0, 0, 0) for change in comparison.changes)
    assert [change.queries for change in comparison.changes] == [638] * 3


def test_a_loss_is_told_with_its_size():
    before, after = np.ones(100), np.ones(100)
    after[:20] = 0

    comparison = compare(record(hit_rate_1=before), record(hit_rate_1=after))

    (change,) = comparison.changes
    assert change.worse
    assert (change.before, change.after, change.difference.mean) == (1, 0.8, pytest.approx(-0.2))
    # 0.2 give or take 2.58 times 0.04 is 0.097 to 0.303; a hundred queries make steps of 0.01.
    assert comparison.problems == (
        "hit_rate@1 is 0.800 where it was 1.000 on the same 100 queries, 0.200 less (99 % interval: 0.110 to 0.300)",
    )


@pytest.mark.parametrize("name", GUARDED)
def test_a_loss_of_a_guarded_measure_is_a_problem(name):
    before = record(**{name: np.ones(200)})

    comparison = compare(before, record(**{name: np.ones(200) * 0.9}))

    assert [problem.split()[0] for problem in comparison.problems] == [name]


def test_a_loss_of_another_measure_is_told_and_no_problem():
    comparison = compare(record(mrr=np.ones(200)), record(mrr=np.ones(200) * 0.9))

    assert [change.worse for change in comparison.changes] == [True]
    assert comparison.problems == ()


def test_a_gain_is_no_problem():
    assert compare(record(map=np.ones(200) * 0.5), record(map=np.ones(200) * 0.9)).problems == ()


def test_a_loss_too_small_to_count_is_no_problem_however_sure():
    before = np.ones(500)

    small, large = (compare(record(map=before), record(map=before - loss)) for loss in (MIN_LOSS * 0.9, MIN_LOSS * 1.1))

    assert small.changes[0].difference.high < 0
    assert small.problems == ()
    assert len(large.problems) == 1


@pytest.mark.parametrize("queries", [60, 638])
def test_changes_that_go_both_ways_raise_no_alarm(queries):
    random = np.random.default_rng(queries)
    alarms = 0
    for _ in range(50):
        hits, precision = random.random(queries) < 0.8, random.random(queries)
        # One answer in twenty is another one now; every precision is a little different.
        other = np.where(random.random(queries) < 0.05, random.random(queries) < 0.8, hits)
        moved = precision + random.normal(0, 0.05, queries)
        alarms += bool(compare(record(hit_rate_1=hits, map=precision), record(hit_rate_1=other, map=moved)).problems)

    # Two measures, each with half of 1 % on this side: 0.5 are expected.
    assert alarms <= 2


def test_a_real_loss_in_the_same_noise_raises_the_alarm():
    random = np.random.default_rng(7)
    alarms = 0
    for _ in range(20):
        hits = random.random(638) < 0.8
        worse = np.where(random.random(638) < 0.1, random.random(638) < 0.2, hits)
        alarms += bool(compare(record(hit_rate_1=hits), record(hit_rate_1=worse)).problems)

    assert alarms == 20


def test_only_queries_asked_both_times_count():
    values = np.linspace(0, 1, 100)
    before, after = some("map", values, range(95)), some("map", np.append(values[:95], np.zeros(5)), range(5, 100))

    comparison = compare(before, after)

    (change,) = comparison.changes
    assert change.queries == 90
    assert change.before == change.after == pytest.approx(values[5:95].mean())
    assert comparison.problems == ()


def test_half_of_the_queries_gone_is_a_problem_though_the_rest_are_answered_as_before():
    values = np.ones(638)
    before = EvaluationRecord(SETUP, {}, {name: record(map=values).per_query["map"] for name in ("map", "hit_rate@1")})
    after = EvaluationRecord(
        SETUP, {}, {name: some("map", values, range(319)).per_query["map"] for name in before.per_query}
    )

    comparison = compare(before, after)

    assert comparison.problems == ("of 638 earlier queries only 319 are left",)
    assert not any(change.worse for change in comparison.changes)


@pytest.mark.parametrize(("kept", "problems"), [(90, 0), (89, 1), (0, 1)])
def test_a_tenth_of_the_queries_may_be_gone(kept, problems):
    before = record(map=np.ones(100))

    assert len(compare(before, some("map", np.ones(100), range(kept))).problems) == problems


def sampled(catalog, sample):
    """Ask for a sample of items by a fixed lot, as an evaluation does."""
    asked = sorted(catalog, key=lambda item: item * 2654435761 % 2**32)[:sample]
    return record(len(catalog), SETUP | {"sample": sample}, map={f"{item}": 1.0 for item in asked})


def test_a_sample_of_a_catalog_that_has_grown_raises_no_alarm():
    before, after = sampled(range(10_000), 1000), sampled(range(13_000), 1000)

    comparison = compare(before, after)

    assert comparison.changes[0].queries < 850  # new images have taken the places of others in the sample
    assert comparison.problems == ()


@pytest.mark.parametrize("later", [range(5000), range(5000, 15_000), range(5000, 18_000)])
def test_half_of_a_sampled_catalog_gone_raises_the_alarm_even_if_others_have_come(later):
    problems = compare(sampled(range(10_000), 1000), sampled(later, 1000)).problems

    assert any("earlier queries only" in problem for problem in problems)


def test_half_of_a_small_catalog_gone_raises_the_alarm_however_many_others_have_come():
    (problem,) = compare(sampled(range(100), 1000), sampled(range(50, 900), 1000)).problems

    assert problem == "of 100 earlier queries only 50 are left"


@pytest.mark.parametrize(
    ("count", "problems"),
    [
        (638, ()),
        (700, ()),
        (580, ()),
        (560, ("the index holds 560 items where it held 638: 12 % less",)),
        (None, ()),
    ],
)
def test_a_tenth_of_the_items_may_be_gone(count, problems):
    queries = np.ones(50)

    assert compare(record(638, map=queries), record(count, map=queries)).problems == problems


@pytest.mark.parametrize(
    ("changed", "difference"),
    [
        ({"label": "category"}, "label: it was 'product' and is 'category'"),
        ({"seed": 1}, "seed: it was 0 and is 1"),
        ({"photos": "outdoors"}, "photos: it was None and is 'outdoors'"),
    ],
)
def test_evaluations_that_were_set_up_differently_are_not_compared(changed, difference):
    queries = np.ones(50)

    with pytest.raises(UsageError, match=f"differ in {difference}") as caught:
        compare(record(map=queries), record(setup=SETUP | changed, map=queries))

    assert "write a new file with --json" in caught.value.hint


def test_evaluations_without_a_measure_in_common_are_not_compared():
    with pytest.raises(UsageError, match="no measure in common"):
        compare(record(map=np.ones(5)), record(mrr=np.ones(5)))


def test_the_order_of_queries_in_a_file_makes_no_difference():
    random = np.random.default_rng(8)
    before, after = ({f"{row}": float(x) for row, x in enumerate(random.random(40))} for _ in range(2))
    turned = dict(reversed(before.items()))

    assert compare(record(map=before), record(map=after)) == compare(record(map=turned), record(map=after))
