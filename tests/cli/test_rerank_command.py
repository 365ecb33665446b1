"""What `query --rerank geometric` says of hits that it could not compare."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from imgsearch import Index, build_index


def draw(file: Path, seed: int) -> None:
    """Draw soft spots, in which there are points to compare."""
    coarse = np.random.default_rng(seed).integers(0, 256, (12, 12, 3), np.uint8)
    cv2.imwrite(str(file), cv2.resize(coarse, (120, 120), interpolation=cv2.INTER_CUBIC))


@pytest.fixture
def shop(tmp_path, monkeypatch):
    """Three images with an index, and a photo; no points are cached."""
    monkeypatch.setenv("IMGSEARCH_CACHE", str(tmp_path / "cache"))
    (tmp_path / "catalog").mkdir()
    for seed in range(3):
        draw(tmp_path / "catalog" / f"{seed}.png", seed)
    draw(tmp_path / "photo.png", 9)
    build_index(tmp_path / "catalog", tmp_path / "idx", backbone="handcrafted", backend="exact")
    return tmp_path


def answers(done) -> list[dict]:
    assert done.returncode == 0
    return json.loads(done.stdout)


ASK = ("query", "--index", "idx", "--rerank", "geometric", "--format", "json")


@pytest.mark.parametrize("how", [(), ("--vote",), ("--objects",), ("-k", 1), ("--min-score", "-1")])
def test_with_the_catalog_away_each_answer_says_that_it_was_not_re_ranked_and_one_line_warns(imgsearch, shop, how):
    (shop / "catalog").rename(shop / "elsewhere")

    done = imgsearch(*ASK, *how, "photo.png", "photo.png", "elsewhere/1.png")

    assert {answer["rerank"] for answer in answers(done)} == {"skipped"}
    assert done.stderr == (
        f"imgsearch: 3 of 3 hits were not re-ranked: their images cannot be read in {shop}/catalog as they were"
        " indexed\n"
    )


def test_one_image_that_was_moved_makes_it_partial_though_it_is_not_among_the_hits(imgsearch, shop):
    (shop / "catalog" / "2.png").unlink()

    done = imgsearch(*ASK, "-k", 1, "catalog/0.png")

    (answer,) = answers(done)
    assert (answer["rerank"], answer["hits"][0]["path"]) == ("partial", "0.png")
    assert done.stderr.startswith("imgsearch: 1 of 3 hits were not re-ranked")


def test_an_image_that_was_replaced_since_is_not_compared(imgsearch, shop):
    for seed in range(3):
        draw(shop / "catalog" / f"{seed}.png", seed + 20)

    assert answers(imgsearch(*ASK, "photo.png"))[0]["rerank"] == "skipped"


def test_what_was_compared_says_so_and_without_the_option_nothing_is_said(imgsearch, shop):
    compared, plain = imgsearch(*ASK, "photo.png"), imgsearch(*ASK[:3], *ASK[5:], "photo.png")

    assert (answers(compared)[0]["rerank"], compared.stderr) == ("done", "")
    assert "rerank" not in answers(plain)[0]
    # Nor is there anything to say where nothing was found.
    assert answers(imgsearch(*ASK, "photo.png", "--where", "path = 'none'"))[0]["rerank"] == "done"


def test_a_query_that_only_a_process_of_its_own_may_decode_is_not_compared(imgsearch, shop):
    draw(shop / "photo.jpg", 9)
    with (shop / "photo.jpg").open("ab") as file:
        file.write(b"\xff\xda" * 100)  # a hundred scans, as it seems

    done = imgsearch(*ASK, "photo.jpg")

    assert answers(done)[0]["rerank"] == "skipped"
    assert done.stderr == "imgsearch: 3 of 3 hits were not re-ranked: a query of this kind cannot be compared\n"


def test_other_formats_warn_too_and_quiet_does_not(imgsearch, shop):
    (shop / "catalog").rename(shop / "elsewhere")
    ask = ("query", "--index", "idx", "--rerank", "geometric", "photo.png")

    for how in ("table", "csv", "paths", "html"):
        assert imgsearch(*ask, "--format", how).stderr.count("not re-ranked") == 1
    assert imgsearch(*ask, "-q").stderr == ""


def test_the_library_warns_once_for_an_index_and_leaves_inliers_out(shop, caplog):
    (shop / "catalog").rename(shop / "elsewhere")
    with Index.open(shop / "idx") as index:
        hits = [index.search(shop / "photo.png", rerank=True) for _ in range(2)]

    assert [hit.inliers for hit in hits[0] + hits[1]] == [None] * 6
    assert caplog.text.count("not re-ranked") == 1
