"""What is written is read back, whatever things are called: answers, evaluations, journals, embeddings, reports."""

import contextlib
import csv
import io
import json
import os
import tempfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from any_names import FILE_NAMES, LABELS
from imgsearch import ClassProbability, Hit, Index, build_index, embed
from imgsearch.bootstrap import Interval
from imgsearch.cli.answers import Answer, Call, FoundClasses, FoundHits
from imgsearch.cli.formats import FORMATS, render
from imgsearch.cli.output import write
from imgsearch.evaluation.record import as_record, read_record
from imgsearch.evaluation.results import Evaluation, QueryResult, Retrieval
from imgsearch.images.scan import FoundFile
from imgsearch.preprocessing.journal import open_journal
from index_fixtures import painted

# --- answers


def written(form: str, answer: Answer, end: str = "\n") -> bytes:
    file = io.BytesIO()
    for text in render([answer], FORMATS[form](answer.call.columns, end)):
        write(file, text)
    return file.getvalue()


def rows_of(text: bytes) -> list[list[str]]:
    return list(csv.reader(io.StringIO(text.decode("utf-8", "surrogateescape"), newline=""), strict=True))


def unprotected(cell: str) -> str:
    """Take away the apostrophe that keeps a spreadsheet from running a cell."""
    return cell[1:] if cell.startswith("'") and cell[1:].lstrip(" ").startswith(tuple("=+-@\t\r\n")) else cell


@given(query=FILE_NAMES, labels=st.lists(LABELS, min_size=1, max_size=3, unique=True))
@example(query="M\udcf6bel.png", labels=["M\udcf6bel", "\ufffe", "\u202e", '"', "\r\n", "x" * 100_000])
def test_classes_are_read_back_from_each_format(query, labels):
    classes = [ClassProbability(rank, label, 0.5) for rank, label in enumerate(labels, start=1)]
    answer = Answer(Call(FoundClasses.COLUMNS, lambda _: None), query, 0.1, FoundClasses(classes))

    for form in ("json", "jsonl"):
        found = json.loads(written(form, answer))
        (found,) = found if form == "json" else [found]
        assert (found["query"], [each["class"] for each in found["classes"]]) == (query, labels)
    rows = rows_of(written("csv", answer))
    assert [list(map(unprotected, (row[0], row[2]))) for row in rows[1:]] == [
        [unprotected(query), unprotected(label)] for label in labels
    ]
    assert written("paths", answer, "\0") == labels[0].encode("utf-8", "surrogateescape") + b"\0"
    for form in ("table", "html"):
        written(form, answer).decode()  # for people, in UTF-8 whatever the names are


@given(path=FILE_NAMES, category=LABELS, product=LABELS)
def test_hits_are_read_back_from_each_format(path, category, product):
    hit = Hit(1, path, 0.9, 0.1, product, category, {"name": product})
    manifest = SimpleNamespace(catalog="/nowhere", calibration=None)
    call = Call(("query", "rank", "path", "score", "distance", "product", "category"), lambda _: None)
    answer = Answer(call, path, 0.1, FoundHits([hit], manifest, lambda _: None, SimpleNamespace(photo=None)))

    (found,) = json.loads(written("json", answer))[0]["hits"]
    assert found == {
        "rank": 1,
        "path": path,
        "score": 0.9,
        "distance": 0.1,
        "product": product,
        "category": category,
        "metadata": {"name": product},
    }
    _, row = rows_of(written("csv", answer))
    expected = [path, "1", path, "0.900000", "0.100000", product, category]
    assert list(map(unprotected, row)) == list(map(unprotected, expected))
    assert written("paths", answer, "\0") == os.fsencode(path) + b"\0"
    for form in ("table", "html"):
        written(form, answer).decode()


# --- files


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(queries=st.lists(FILE_NAMES, min_size=1, max_size=4, unique=True), category=LABELS, column=LABELS)
def test_an_evaluation_is_read_back(tmp_path, queries, category, column):
    hits = np.ones(len(queries))
    results = tuple(QueryResult(query, category, category, 1, ()) for query in queries)
    retrieval = Retrieval("labels", column, results, {"map": hits}, np.zeros(11), 0, ())
    figures = {"map": Interval(1.0, 0.5, 1.0)}
    found = Evaluation({"count": 1}, {"label": column}, None, retrieval, None, figures, {category: figures})
    file = tmp_path / "evaluation.json"
    file.write_text(json.dumps(as_record(found), allow_nan=False))

    read = read_record(file)

    assert read.per_query == {"map": dict.fromkeys(queries, 1.0)}
    assert read.setup == {"label": column}
    assert read.figures == figures
    assert list(json.loads(file.read_bytes())["per_category"]) == [category]


@settings(max_examples=30, deadline=None)
@given(names=st.lists(FILE_NAMES, min_size=1, max_size=4, unique=True))
def test_a_journal_of_preprocessing_knows_its_files_again(names):
    found = [(FoundFile(f"{name}.png", 1, 2), name) for name in names]
    with tempfile.TemporaryDirectory() as folder:
        for known in (None, ""):
            with open_journal(Path(folder) / "journal", "settings") as journal:
                journal.add_found(found)
                sources = list(journal.sources())
                for source in sources:
                    journal.record(source, 1, 2, [(f"{source.name}.jpg", 3)])

            assert [(source.path, source.name) for source in sources] == [(file.path, name) for file, name in found]
            assert [source.known for source in sources] == [known] * len(names)


@settings(max_examples=3, deadline=None, suppress_health_check=list(HealthCheck))
@given(names=st.lists(FILE_NAMES, min_size=4, max_size=12, unique=True))
def test_embeddings_an_index_and_its_report_name_every_file_of_a_catalog(imgsearch, names):
    names = [name for name in names if not name.startswith(".")]
    assume(len(names) > 2)
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        for number, name in enumerate(names):
            Path("catalog", name).mkdir(parents=True)
            Path("catalog", name, f"{name[:40]}.png").write_bytes(painted(number))
            Path("catalog", name, "broken.png").write_bytes(b"no image")

        embed("catalog", "embedded", backbone="handcrafted")
        build_index("embedded", "of-embeddings", backend="exact")
        done = imgsearch(
            *("build-index", "catalog", "--index", "idx", "--backbone", "handcrafted", "--backend", "exact"),
            *("--report", "report.json", "-q"),
            cwd=Path(folder),
        )

        assert done.returncode == 3
        paths, broken = {f"{name}/{name[:40]}.png" for name in names}, {f"{name}/broken.png" for name in names}
        report = json.loads(Path("report.json").read_bytes())
        assert {each["path"] for each in report["rejected"]} == broken
        for directory in ("idx", "of-embeddings"):
            with Index.open(directory) as index:
                items = index.items.fetch(range(len(index)))
                found = index.search(Path("catalog", names[0], f"{names[0][:40]}.png"), 1)
                assert {item.path for item in items} == paths
                assert {item.category for item in items} == set(names)
                assert {each.path for each in index.items.rejected()} == broken
                assert found[0].path == f"{names[0]}/{names[0][:40]}.png"
