"""`imgsearch evaluate`, through the real program."""

import json
import math
import shutil
import subprocess
import sys

import numpy as np
import pytest

from imgsearch import build_index, embed
from imgsearch.bootstrap import Interval
from imgsearch.cli import main
from imgsearch.errors import UsageError
from imgsearch.evaluation.compare import compare
from imgsearch.evaluation.evaluate import evaluate
from imgsearch.evaluation.record import EvaluationRecord
from imgsearch.store import generations


@pytest.fixture
def run(capsys):
    """Evaluate in this process; gives exit code, standard output and standard error."""

    def evaluated(index, *options):
        capsys.readouterr()
        code = main(["evaluate", "--index", str(index), *map(str, options)])
        told = capsys.readouterr()
        return code, told.out, told.err

    return evaluated


@pytest.fixture(scope="module")
def vectors(unit):
    return unit(np.random.default_rng(0).normal(size=(120, 12)))


@pytest.fixture
def index(tmp_path, store_index, vectors):
    """120 items in four categories, every two of them a product."""
    return store_index(
        tmp_path / "index",
        vectors,
        products=[f"product {row // 2}" for row in range(120)],
        categories=["abcd"[row % 4] for row in range(120)],
    )


def record(text):
    return json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


# --- what is measured


def test_without_options_it_is_recall_and_categories(index, run):
    code, out, err = run(index)

    assert (code, err) == (0, "")
    assert "index recall: of the k nearest of 120 items" in out
    assert "120 items, each asked for by itself; right: the same category" in out


def test_recall_alone_judges_no_answers(index, run):
    code, out, _ = run(index, "--recall", "--format", "json")

    data = record(out)
    assert code == 0
    assert {"index_recall@1", "index_recall@10", "index_recall@100", "queries_per_second"} < set(data)
    assert {"latency_p50_ms", "latency_p95_ms", "latency_p99_ms"} < set(data)
    assert "hit_rate@1" not in data
    assert data["setup.kind"] == "none"


def test_a_sample_limits_both(index, run):
    data = record(run(index, "--recall", "--labels", "category", "--sample", "7", "--format", "json")[1])

    assert data["queries"] == 7
    assert {len(values) for values in data["per_query"].values()} == {7}


@pytest.mark.parametrize("options", [("--recall",), ("--labels", "product"), ("--recall", "--labels", "category")])
def test_the_table_names_every_figure_of_the_file(options, index, run, tmp_path):
    code, out, err = run(index, *options, "--json", tmp_path / "found.json")

    assert (code, err) == (0, "")
    for name in record((tmp_path / "found.json").read_text())["per_query"]:
        assert name in out or name.startswith("index_recall")


# --- odd indexes


def test_an_index_without_categories_measures_recall_alone(tmp_path, store_index, vectors, run):
    code, out, err = run(store_index(tmp_path / "index", vectors))

    assert (code, err) == (0, "")
    assert "index recall" in out
    assert "retrieval" not in out


def test_labels_that_are_not_there_are_refused_with_a_way_out(tmp_path, store_index, vectors, run):
    index = store_index(tmp_path / "index", vectors)
    for column in ("category", "product", "brand"):
        code, out, err = run(index, "--labels", column)
        assert (code, out) == (2, "")
        assert column in err
        assert "hint: " in err


def test_one_category_is_no_reason_to_judge_but_can_be_asked_for(tmp_path, store_index, vectors, run):
    index = store_index(tmp_path / "index", vectors, categories=["only"] * 120)

    assert "retrieval" not in run(index)[1]
    data = record(run(index, "--labels", "category", "--format", "json")[1])
    assert data["map"] == data["hit_rate@1"] == 1  # whatever is found is right
    assert list(data["per_category"]) == ["only"]


@pytest.mark.parametrize("options", [(), ("--recall",), ("--labels", "category"), ("--labels", "product")])
def test_one_item_is_refused_with_a_reason(options, tmp_path, store_index, vectors, run):
    index = store_index(tmp_path / "index", vectors[:1], categories=["only"])
    code, out, err = run(index, *options)

    assert (code, out) == (2, "")
    assert "recall needs an index of at least two items" in err or "no two items have the same" in err


def test_one_item_can_be_asked_for_by_its_variant(tmp_path, shop, run):
    (tmp_path / "catalog").mkdir()
    shutil.copy(shop / "catalog/fish/fish-00.png", tmp_path / "catalog")
    build_index(tmp_path / "catalog", tmp_path / "index", backbone="handcrafted")

    code, out, _ = run(tmp_path / "index", "--self-test", "--format", "json")
    assert code == 0
    assert record(out)["hit_rate@1"] == 1


@pytest.mark.parametrize("options", [(), ("--recall",), ("--labels", "category"), ("--self-test",), ("--calibrate",)])
def test_an_empty_index_is_refused(options, tmp_path, store_index, vectors, run):
    code, out, err = run(store_index(tmp_path / "index", vectors[:0]), *options)

    assert (code, out) == (2, "")
    assert "there are no items in" in err


@pytest.mark.parametrize("count", [2, 5, 11])
def test_figures_beyond_the_size_of_the_index_are_left_out_or_harmless(count, tmp_path, store_index, vectors, run):
    index = store_index(tmp_path / "index", vectors[:count], categories=["only"] * count)
    code, out, _ = run(index, "--recall", "--labels", "category", "--format", "json")

    data = record(out)
    assert code == 0
    assert data["index_recall@1"] == 1
    assert "index_recall@100" not in data
    assert ("index_recall@10" in data) == (count > 10)
    assert data["recall@100"] == 1
    assert data["precision@10"] == pytest.approx(min(10, count - 1) / 10)


def test_no_index_and_embeddings_alone_have_their_own_exit_code(tmp_path, shop, run):
    embed(shop / "catalog/fish", tmp_path / "embeddings", backbone="handcrafted")

    for directory in (tmp_path / "nowhere", tmp_path / "embeddings"):
        code, out, err = run(directory)
        assert (code, out) == (5, "")
        assert "imgsearch build-index" in err


# --- contradictions


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--truth", "t.csv"), "--queries DIR"),
        (("--self-test", "--labels", "category"), "--self-test cannot be combined"),
        (("--self-test", "--queries", "photos"), "--self-test cannot be combined"),
        (("--queries", "photos"), "no folder of query images: photos"),
        (("--labels", "brand"), "column 'brand'"),
        (("--labels", ""), "--labels"),
        (("--recall", "--labels", ""), "--labels"),
        (("--recall", "--min", "recall"), "--min must be NAME=NUMBER, got 'recall'"),
        (("--recall", "--min", "index_recall@10=high"), "must be NAME=NUMBER"),
        (("--recall", "--min", "index_recal@10=0.9"), "did you mean index_recall@10?"),
        (("--recall", "--min", "hit_rate@1=0.9"), "--labels, --queries, --self-test or --text measures it"),
        (("--labels", "category", "--min", "index_recall@10=0.9"), "--recall measures it"),
        (("--recall", "--min", "latency_p95_ms=5"), "queries_per_second"),
        (("--recall", "--against", "gone.json"), "gone.json cannot be read"),
        (("--recall", "--sample", "0"), "0"),
    ],
)
def test_what_makes_no_sense_is_refused_with_a_message_that_helps(options, said, index, run):
    code, out, err = run(index, *options)

    assert (code, out) == (2, "")
    assert said in err


def test_the_library_refuses_a_sample_of_nothing(index):
    with pytest.raises(UsageError, match="sample must be at least 1, got 0"):
        evaluate(index, sample=0)


# --- gates


def test_a_gate_that_is_met_says_nothing(index, run):
    code, _, err = run(index, "--recall", "--min", "index_recall@10=0.99", "--min", "index_recall@1=1")

    assert (code, err) == (0, "")


def test_gates_that_are_not_met_are_all_named_and_the_figures_are_there_still(index, run, tmp_path):
    code, out, err = run(
        *(index, "--labels", "category", "--json", tmp_path / "found.json"),
        *("--min", "map=0.99", "--min", "count=120", "--min", "hit_rate@1=1"),
    )

    assert code == 10
    assert "map is 0." in err
    assert "hit_rate@1 is 0." in err
    assert "below 0.99" in err
    assert "count" not in err
    assert "retrieval: 120 items" in out
    assert (tmp_path / "found.json").exists()


def test_a_gate_on_speed_can_be_met_and_missed(index, run):
    assert run(index, "--recall", "--sample", 20, "--min", "queries_per_second=1")[0] == 0
    assert run(index, "--recall", "--sample", 20, "--min", "queries_per_second=1e9")[0] == 10


# --- files


def test_the_file_has_flat_keys_and_finite_numbers(index, run, tmp_path):
    run(index, "--recall", "--labels", "category", "--json", tmp_path / "found.json")

    data = record((tmp_path / "found.json").read_text())
    for name, value in data.items():
        assert name in ("per_query", "per_category") or isinstance(value, str | int | float | bool), name
        assert not isinstance(value, float) or math.isfinite(value), name
    for name, values in data["per_query"].items():
        assert len(values) == 120
        assert data[name] == pytest.approx(np.mean(list(values.values())), abs=2e-6)
        assert data[f"{name}.low"] <= data[name] <= data[f"{name}.high"]
    assert data["count"] == data["queries"] == 120
    assert data["index.generation"] == 1


def test_the_format_json_is_what_the_file_holds(index, run, tmp_path):
    code, out, err = run(index, "--labels", "category", "--format", "json", "--json", tmp_path / "found.json")

    assert (code, err) == (0, "")
    assert record(out) == record((tmp_path / "found.json").read_text())


def test_the_same_index_is_not_worse_than_itself(index, run, tmp_path):
    options = ("--recall", "--labels", "product")
    assert run(index, *options, "--json", tmp_path / "found.json")[0] == 0
    code, out, err = run(index, *options, "--against", tmp_path / "found.json")

    assert (code, err) == (0, "")
    assert "against the earlier evaluation, on the same queries" in out


@pytest.mark.parametrize(
    "options", [("--labels", "product"), ("--recall", "--labels", "category"), ("--labels", "category", "--sample", 9)]
)
def test_evaluations_that_were_set_up_otherwise_are_not_compared(options, index, run, tmp_path):
    run(index, "--labels", "category", "--json", tmp_path / "found.json")
    code, out, err = run(index, *options, "--against", tmp_path / "found.json")

    assert code == 2
    assert out == ""
    assert "evaluations differ in" in err


@pytest.mark.parametrize(("kind", "alarms"), [("labels", 0), ("queries", 1)])
def test_images_of_the_user_do_not_give_way_to_a_catalog_that_has_grown(kind, alarms):
    """Only a sample of items does: 6 of 10 queries are left, of a catalog twice as large."""

    def evaluated(count, queries):
        setup = {"kind": kind, "label": "product", "sample": 5, "recall": False}
        return EvaluationRecord(setup, {"count": Interval(count, count, count)}, {"map": dict.fromkeys(queries, 1.0)})

    found = compare(evaluated(1000, "abcdefghij"), evaluated(2000, "abcdef"))

    assert len(found.problems) == alarms


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"format": "imgsearch-evaluation", "version": 9}', "\x00"])
def test_a_file_that_is_no_evaluation_is_refused_before_anything_is_measured(content, index, run, tmp_path):
    (tmp_path / "other.json").write_text(content)
    code, out, err = run(index, "--recall", "--against", tmp_path / "other.json")

    assert (code, out) == (2, "")
    assert "is not the file of an evaluation" in err


def test_a_file_that_cannot_be_written_is_found_out_before_anything_is_measured(index, run, tmp_path):
    code, out, _ = run(index, "--recall", "--json", tmp_path / "no/such/folder/found.json")

    assert (code, out) == (11, "")


def test_a_file_may_be_compared_with_and_replaced_in_one_run(index, run, tmp_path):
    file = tmp_path / "found.json"
    run(index, "--labels", "category", "--json", file)
    code, _, err = run(index, "--labels", "category", "--against", file, "--json", file)

    assert (code, err) == (0, "")
    assert record(file.read_text())["count"] == 120


def test_quiet_keeps_the_answer_and_says_nothing_else(index, run):
    code, out, err = run(index, "--labels", "category", "-q")

    assert (code, err) == (0, "")
    assert "retrieval" in out


# --- the program


def modules_of(index, *options):
    """Evaluate in a process of its own, and name the modules that it has imported."""
    code = (
        "import json, sys\nfrom imgsearch.cli import main\n"
        "code = main(sys.argv[1:])\nsys.stderr.write(json.dumps([code, sorted(sys.modules)]))"
    )
    command = [sys.executable, "-c", code, "evaluate", "--index", str(index), *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return json.loads(done.stderr)


def test_evaluating_imports_no_framework(shop):
    code, modules = modules_of(shop / "index", "--recall", "--self-test", "--sample", "6")

    assert code == 0
    heavy = {"tensorflow", "keras", "torch", "jax", "sklearn", "matplotlib", "scipy"}
    assert not heavy & {name.partition(".")[0] for name in modules}


def test_calibrating_alone_imports_scikit_learn(shop, tmp_path, imgsearch):
    shutil.copytree(shop / "index", tmp_path / "index")
    code, modules = modules_of(tmp_path / "index", "--labels", "category", "--calibrate")

    assert code == 0
    assert "sklearn" in modules
    assert not {"tensorflow", "keras", "matplotlib"} & set(modules)
    assert generations.read_manifest(tmp_path / "index").calibration is not None
    assert "of the same category" in imgsearch("info", "--index", tmp_path / "index").stdout
    assert imgsearch("check", "--index", tmp_path / "index", "--deep").returncode == 0
