from pathlib import Path

import pytest

import imgsearch
from imgsearch.cli import app
from imgsearch.errors import ImgsearchError


def test_every_public_name_is_there_and_documented():
    for name in imgsearch.__all__:
        assert getattr(imgsearch, name) is not None
        assert name == "__version__" or getattr(imgsearch, name).__doc__


def test_dir_lists_the_public_names_and_nothing_else():
    assert dir(imgsearch) == sorted(imgsearch.__all__)


def test_each_command_is_a_public_function_but_query_and_recommend_methods_and_serve_a_process():
    commands = {command.callback.__name__ for command in app.registered_commands} - {"query", "recommend", "serve"}

    assert commands <= set(imgsearch.__all__)


@pytest.mark.parametrize("kind", [str, Path])
def test_paths_may_be_str_or_path(kind, drawn, tiny_models, tmp_path):
    catalog, index, image = kind(drawn), kind(tmp_path / "idx"), kind(drawn / "cups" / "cups-00.png")
    fast = {"backbone": "handcrafted:color", "backend": "exact"}

    imgsearch.preprocess(catalog, kind(tmp_path / "small"), size=32)
    imgsearch.embed(kind(tmp_path / "small"), kind(tmp_path / "embeddings"), backbone="handcrafted:color")
    imgsearch.build_index(kind(tmp_path / "embeddings"), kind(tmp_path / "staged"))
    (tmp_path / "products.csv").write_text("path,product\ncups/cups-00.png,Cup\n")
    imgsearch.build_index(catalog, index, **fast)
    imgsearch.build_index(catalog, index, metadata=kind(tmp_path / "products.csv"))
    assert imgsearch.check(index, deep=True) == []
    assert imgsearch.info(index).manifest.generation == 2
    with imgsearch.Index.open(index) as opened:
        assert opened.search(image, 1)[0].product == "Cup"
    assert imgsearch.evaluate(index, recall=True).recall is not None
    assert imgsearch.rollback(index).generation == 3
    with pytest.raises(imgsearch.MissingComponentError, match="no detector"):
        imgsearch.detect(index, image)
    assert len(imgsearch.classify(image, kind(tiny_models / "classes.keras"), k=2)) == 2


def test_an_unknown_name_is_an_attribute_error():
    assert not hasattr(imgsearch, "nonsense")


def test_every_error_has_an_exit_code_of_its_own():
    kinds = [kind for kind in ImgsearchError.__subclasses__() if kind.__module__ == ImgsearchError.__module__]

    assert sorted(kind.exit_code for kind in kinds) == [2, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13]


def test_the_api_of_the_readme_works(catalog, tmp_path):
    imgsearch.build_index(catalog, tmp_path / "idx", backbone="handcrafted")

    hits = imgsearch.Index.open(tmp_path / "idx").search(catalog / "cups" / "cups-00.png", k=5)

    assert [hit.rank for hit in hits] == [1, 2, 3, 4, 5]
    assert (hits[0].path, hits[0].score) == ("cups/cups-00.png", pytest.approx(1, abs=1e-6))
