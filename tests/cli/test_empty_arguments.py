"""A variable that is not set is no folder: an empty path would stand for the working directory."""

from pathlib import Path

import pytest

import imgsearch
from imgsearch.cli import main
from imgsearch.errors import UsageError


@pytest.mark.parametrize(
    ("command", "name"),
    [
        (["build-index", ""], ""),
        (["build-index", "small", "--index", ""], " for --index"),
        (["build-index", "small", "--index="], " for --index"),
        (["build-index", "--index", "i", "--", ""], ""),
        (["build-index", "small", "--metadata", ""], " for --metadata"),
        (["build-index", "small", "--report", ""], " for --report"),
        (["build-index", "small", "--detector="], " for --detector"),
        (["build-index", "small", "--backbone", ""], " for --backbone"),
        (["embed", "", "-o", "x"], ""),
        (["embed", "small", "-o", ""], " for -o"),
        (["query", ""], ""),
        (["query", "a.jpg", ""], ""),
        (["query", "a.jpg", "--where", ""], " for --where"),
        (["query", "a.jpg", "-o", ""], " for -o"),
        (["detect", ""], ""),
        (["classify", "a.jpg", "-m", ""], " for -m"),
        (["preprocess", "", "out"], ""),
        (["preprocess", "small", ""], ""),
        (["train", "", "-o", "m.keras"], ""),
        (["train", "small", "-o", "m.keras", "--labels", ""], " for --labels"),
        (["evaluate", "--queries", ""], " for --queries"),
        (["evaluate", "--truth="], " for --truth"),
        (["info", "--index", ""], " for --index"),
        (["check", "--index", ""], " for --index"),
        (["rollback", "--index", ""], " for --index"),
    ],
)
def test_an_empty_argument_is_a_usage_error_and_nothing_is_done(small, monkeypatch, capsys, command, name):
    monkeypatch.chdir(small.parent)
    before = sorted(small.parent.rglob("*"))

    assert main(command) == 2
    assert f"expected a value{name}, found nothing" in capsys.readouterr().err
    assert sorted(small.parent.rglob("*")) == before


def test_an_empty_variable_for_the_index_is_one_that_is_not_set(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("IMGSEARCH_INDEX", "")

    assert main(["info"]) == 5
    assert "no index in .imgsearch" in capsys.readouterr().err


def test_an_argument_that_ends_in_an_equals_sign_is_none_of_these(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)

    assert main(["query", "a.jpg", "--where", "category ="]) == 5
    assert main(["query", "--where=category=", "--", "--a="]) == 2
    assert "for --a" in capsys.readouterr().err


@pytest.mark.parametrize(
    "use",
    [
        lambda: imgsearch.build_index(""),
        lambda: imgsearch.build_index("small", ""),
        lambda: imgsearch.build_index("small", "i", metadata=""),
        lambda: imgsearch.build_index("small", "i", detector=""),
        lambda: imgsearch.build_index("small", "i", backbone=""),
        lambda: imgsearch.build_index("small", "i", weights=""),
        lambda: imgsearch.embed("", "o"),
        lambda: imgsearch.embed("small", ""),
        lambda: imgsearch.Index.open(""),
        lambda: imgsearch.info(""),
        lambda: imgsearch.check(""),
        lambda: imgsearch.rollback(""),
        lambda: imgsearch.evaluate(""),
        lambda: imgsearch.preprocess("", "o"),
        lambda: imgsearch.preprocess("small", ""),
        lambda: imgsearch.train("", "m.keras"),
        lambda: imgsearch.train("small", ""),
        lambda: imgsearch.train("small", "m.keras", labels=""),
        lambda: imgsearch.Classifier.open(""),
        lambda: imgsearch.save_model(None, "", None),
    ],
)
def test_an_empty_path_is_a_usage_error_of_the_library_too(small, monkeypatch, use):
    monkeypatch.chdir(small.parent)
    before = sorted(small.parent.rglob("*"))

    with pytest.raises(UsageError, match=r"expected a (path|value)"):
        use()
    assert sorted(small.parent.rglob("*")) == before


def test_an_empty_image_is_a_usage_error_of_the_library_too(built):
    with imgsearch.Index.open(Path(built) / "exact") as index, pytest.raises(UsageError, match="path of an image"):
        index.search("")
