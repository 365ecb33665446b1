import json
import os
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from imgsearch import __version__
from imgsearch.bootstrap import Interval, mean_interval
from imgsearch.errors import UsageError
from imgsearch.evaluation.record import as_record, parse_record, read_record
from imgsearch.evaluation.results import Evaluation, IndexRecall, QueryResult, Retrieval
from imgsearch.evaluation.retrieval import per_category
from imgsearch.search.recall import Latency

LATENCY = Latency(0.001, 0.002, 0.003, 900.0)
HIT = np.array([1.0, 0.0, 1.0])
RECALL = np.array([0.9, 1.0])
EVALUATION = Evaluation(
    facts={"generation": 7, "count": 638, "encoder": "efficientnet-lite0", "plan": "annoy"},
    setup={"kind": "labels", "label": "category", "sample": None, "seed": 0},
    recall=IndexRecall("annoy", ("a.png", "b.png"), {1: RECALL, 10: RECALL}, {10: LATENCY}, LATENCY, ()),
    retrieval=Retrieval(
        "labels",
        "category",
        tuple(QueryResult(path, "x", "x", 2, ()) for path in ("a.png", "b.png", "caf\udce9.png")),
        {"hit_rate@1": HIT, "hit_rate@10": HIT, "map": np.array([1 / 3, 0.25, 1.0])},
        np.zeros(11),
        0,
        (),
    ),
    reliability=None,
    figures={
        "count": Interval(638, 638, 638),
        "latency_p95": Interval(0.0012345678, 0.0012345678, 0.0012345678),
        "hit_rate@1": mean_interval(HIT),
        "map": Interval(1.0, 1.0, 1.0),
        "index_recall@1": Interval(0.95, 0.9, 1.0),
    },
)
EVALUATION = replace(EVALUATION, categories=per_category(EVALUATION.retrieval))
RECORD = as_record(EVALUATION)
NOTHING = {"format": "imgsearch-evaluation", "version": 1, "per_query": {}}


def written(tmp_path, content):
    path = tmp_path / "evaluation.json"
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content, allow_nan=False).encode())
    return path


def test_keys_are_flat_but_for_categories_and_queries():
    nested = [key for key, value in RECORD.items() if isinstance(value, dict | list)]

    assert nested == ["per_category", "per_query"]
    assert list(RECORD)[:4] == ["format", "version", "tool", "index.generation"]
    assert (RECORD["tool"], RECORD["index.count"], RECORD["setup.label"]) == (__version__, 638, "category")
    assert RECORD["per_query"]["hit_rate@1"] == {"a.png": 1, "b.png": 0, "caf\udce9.png": 1}
    assert RECORD["per_query"]["index_recall@10"] == {"a.png": 0.9, "b.png": 1}
    assert list(RECORD["per_query"]) == ["hit_rate@1", "hit_rate@10", "map", "index_recall@1", "index_recall@10"]


def test_each_category_has_its_figures_and_their_intervals():
    (figures,) = RECORD["per_category"].values()

    assert figures["queries"] == 3
    assert (figures["hit_rate@1"], figures["map"]) == (0.666667, 0.527778)
    assert 0 <= figures["map.low"] < figures["map"] < figures["map.high"] <= 1


def test_numbers_have_six_digits():
    assert RECORD["latency_p95"] == 0.001235
    assert RECORD["per_query"]["map"]["a.png"] == 0.333333


def test_what_is_measured_query_by_query_has_an_interval_and_nothing_else_has():
    ends = {key.rpartition(".")[0] for key in RECORD if key.endswith((".low", ".high"))}

    assert ends == {"hit_rate@1", "map", "index_recall@1"}  # map is 1 for certain, and has its ends all the same
    assert (RECORD["map.low"], RECORD["map.high"]) == (1, 1)


def test_what_was_written_is_read(tmp_path):
    found = read_record(written(tmp_path, RECORD))

    assert found == parse_record(RECORD)
    assert found.setup == EVALUATION.setup
    assert found.figures.keys() == EVALUATION.figures.keys()
    assert found.figures["index_recall@1"] == Interval(0.95, 0.9, 1.0)
    assert found.figures["count"] == Interval(638, 638, 638)
    assert found.per_query == RECORD["per_query"]


def test_an_evaluation_of_nothing_is_read(tmp_path):
    empty = replace(EVALUATION, recall=None, retrieval=None, figures={})

    found = read_record(written(tmp_path, as_record(empty)))

    assert (found.figures, found.per_query) == ({}, {})


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "Expecting value"),
        (b"\x89PNG\r\n\x1a\n\xff\xfe", "can't decode"),
        (b"[" * 200_000, "recursion"),
        (b'{"a":' * 200_000, "recursion"),
        (b'{"a": NaN}', "found NaN"),
        (b'{"a": -Infinity}', "found -Infinity"),
        (b'{"a": ' + b"9" * 5000 + b"}", "digits"),
        ([1, 2], r"found \[1, 2\]"),
        ("text", "found 'text'"),
        ({"format": "imgsearch", "version": 1}, "expected an object with the format 'imgsearch-evaluation'"),
        ({**NOTHING, "version": 2}, "expected version 1, found 2; did a newer imgsearch"),
        ({**NOTHING, "version": "1"}, "expected version 1, found '1'"),
        ({"format": "imgsearch-evaluation", "version": 1}, "expected an object for 'per_query', found None"),
        ({**NOTHING, "per_query": []}, "expected an object for 'per_query'"),
        ({**NOTHING, "per_query": {"map": [1]}}, "expected an object of queries for 'map'"),
        ({**NOTHING, "per_query": {"map": {"a": "1"}}}, "expected a number for 'a', found '1'"),
        ({**NOTHING, "per_query": {"map": {"a": True}}}, "expected a number for 'a', found True"),
        ({**NOTHING, "per_query": {"map": {"a": 1.5}}}, "expected a value of 0 to 1 for 'a', found 1.5"),
        ({**NOTHING, "per_query": {"map": {"a": 10**400}}}, "expected a number for 'a'"),
        ({**NOTHING, "map": "high"}, "expected a number for 'map', found 'high'"),
        ({**NOTHING, "map": None}, "expected a number for 'map', found None"),
        ({**NOTHING, "map": {"x": 1}}, "expected a number for 'map'"),
        ({**NOTHING, "map.low": False}, "expected a number for 'map.low'"),
        ({**NOTHING, "setup.kind": ["labels"]}, r"expected a number for 'setup.kind', found \['labels'\]"),
        (json.dumps({**NOTHING, "map": 0}).replace("0", "1e999").encode(), "expected a number for 'map', found inf"),
    ],
    ids=range(25),
)
def test_another_file_is_an_error_that_says_what_was_found(tmp_path, content, reason):
    with pytest.raises(UsageError, match=reason) as caught:
        read_record(written(tmp_path, content))

    assert "is not the file of an evaluation" in caught.value.message
    assert caught.value.hint == "evaluate --json writes one"
    assert len(caught.value.message) < 500


def test_a_file_that_cannot_be_read_is_an_error(tmp_path):
    os.mkfifo(tmp_path / "fifo")

    for name, reason in [("missing", "No such file"), ("", "not a regular file"), ("fifo", "not a regular file")]:
        with pytest.raises(UsageError, match=f"cannot be read: {reason}"):
            read_record(tmp_path / name)


def test_a_huge_file_is_refused_unread(tmp_path):
    path = tmp_path / "huge.json"
    with path.open("wb") as file:
        file.truncate(10**12)

    with pytest.raises(UsageError, match=r"at most 100 MB, but .* has 1,000,000 MB"):
        read_record(path)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda values: st.lists(values, max_size=3) | st.dictionaries(st.text(), values, max_size=3),
    max_leaves=8,
)


@settings(max_examples=50, suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(st.sampled_from([*RECORD, "x", "x.low", "setup.y"]), JSON))
def test_whatever_stands_in_a_file_it_is_read_or_it_is_a_value_error(changes):
    try:
        found = parse_record({**RECORD, **changes})
    except ValueError:
        return
    assert all(np.isfinite([one.mean, one.low, one.high]).all() for one in found.figures.values())
    assert all(0 <= value <= 1 for values in found.per_query.values() for value in values.values())
