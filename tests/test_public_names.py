import pytest

import imgsearch
from imgsearch.errors import ImgsearchError


def test_every_public_name_is_there_and_documented():
    for name in imgsearch.__all__:
        assert getattr(imgsearch, name) is not None
        assert name == "__version__" or getattr(imgsearch, name).__doc__


def test_an_unknown_name_is_an_attribute_error():
    assert not hasattr(imgsearch, "nonsense")


def test_every_error_has_an_exit_code_of_its_own():
    kinds = ImgsearchError.__subclasses__()

    assert sorted(kind.exit_code for kind in kinds) == [2, 4, 5, 6, 7, 8, 9, 10, 11]


def test_the_api_of_the_readme_works(catalog, tmp_path):
    imgsearch.build_index(catalog, tmp_path / "idx", backbone="handcrafted")

    hits = imgsearch.Index.open(tmp_path / "idx").search(catalog / "cups" / "cups-00.png", k=5)

    assert [hit.rank for hit in hits] == [1, 2, 3, 4, 5]
    assert (hits[0].path, hits[0].score) == ("cups/cups-00.png", pytest.approx(1, abs=1e-6))
