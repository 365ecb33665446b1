"""What requests hold: read from JSON, forms and query strings, and refused in the words of the program."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgsearch.errors import UsageError
from imgsearch.images.boxes import Box
from imgsearch.search.hits import Filter
from imgsearch.service.requests import (
    FeedbackRequest,
    RecognizeRequest,
    SearchRequest,
    SimilarRequest,
    parsed,
    read_form,
    read_json,
)
from imgsearch.store.conditions import Range

ANSWER = "0123456789abcdef" * 2


def test_a_form_says_the_same_as_json():
    form = [("k", "7"), ("range", "price=1..2"), ("range", "stock=3.."), ("box", "1, 2,3,4"), ("min_score", "0.5")]
    form += [("exact", "true"), ("by", "product"), ("feedback", "false"), ("category", "shoes")]
    data = {"k": 7, "range": ["price=1..2", "stock=3.."], "box": [1, 2, 3, 4], "min_score": 0.5}
    data |= {"exact": True, "by": "product", "feedback": False, "category": "shoes"}

    request = read_json(SearchRequest, data, has_image=True)

    assert read_form(SearchRequest, form, has_image=True) == request
    ranges = (Range("price", "1", "2"), Range("stock", "3", None))
    assert request.filter == Filter("", "shoes", "", ranges, min_score=0.5)
    assert request.limited_to == Box(1, 2, 3, 4)
    assert request.limits == {"filter": request.filter, "exact": True, "diverse": None, "distinct": "product"}


def test_what_is_not_given_is_what_the_program_does_by_default():
    request = read_json(SearchRequest, {"item": "a.png"})

    assert (request.k, request.filter, request.parts, request.limited_to) == (5, Filter(), "auto", None)
    assert request.weight == 0.5
    assert read_json(SearchRequest, {"regions": "3"}, has_image=True).parts == 3
    assert read_json(RecognizeRequest, {"item": "a.png"}).k == 20


@pytest.mark.parametrize(
    ("data", "has_image", "said"),
    [
        ({}, False, "expected an image, item or text, found none"),
        ({"item": "a"}, True, "expected an image or item, found both"),
        ({"item": "a", "box": [1, 2, 3, 4]}, False, "item and box cannot be combined"),
        ({"item": "a", "objects": True}, False, "item and objects cannot be combined"),
        ({"item": "a", "regions": "whole"}, False, "item and regions cannot be combined"),
        ({"item": "a", "rerank": "geometric"}, False, "item and rerank cannot be combined"),
        ({"text": ["a"], "box": [1, 2, 3, 4]}, True, "text and box cannot be combined"),
        ({"text": ["a"], "objects": True}, True, "text and objects cannot be combined"),
        ({"text": ["a"], "rerank": "geometric"}, False, "text and rerank cannot be combined"),
        ({"box": [1, 2, 3, 4], "objects": True}, True, "box and objects cannot be combined"),
        ({"rerank": "geometric", "diverse": 0}, True, "rerank and diverse cannot be combined"),
        ({"by": "product", "distinct": "color"}, True, "by and distinct cannot be combined"),
        ({"text_weight": 0.3}, True, "text_weight has no effect without text"),
        ({"text": ["a"], "text_weight": 0}, False, "text_weight has no effect without image"),
        ({"text": ["a"], "regions": "whole"}, False, "regions has no effect without image"),
        ({"text": ["a"], "feedback": True}, False, "feedback has no effect without image"),
        ({"range": ["price"]}, True, "range must be COLUMN=LOW..HIGH, got 'price'"),
        ({"regions": "201"}, True, "expected regions to be auto, whole or 1 to 200, found '201'"),
        ({"box": [1, 2, 3]}, True, "expected box to be [x, y, width, height]"),
        ({"box": [1, 2, 0, 3]}, True, "expected box to be [x, y, width, height]"),
        ({"k": 0}, True, "expected k to be from 1 to 200, found 0"),
        ({"k": 201}, True, "expected k to be from 1 to 200, found 201"),
        ({"k": True}, True, "expected k to be a whole number, found True"),
        ({"min_score": float("nan")}, True, "expected min_score to be from -1 to 1, found nan"),
        ({"min_score": 10**400}, True, "holds a number or a nesting too large"),
        ({"item": "\ud800"}, False, "expected item to be text without NUL and lone surrogates"),
        ({"where": "a\0"}, True, "expected where to be text without NUL"),
        ({"text": ["a" * 1001]}, False, "expected text to be at most 1,000 characters"),
        ({"text": ["a"] * 21}, False, "expected text to be at most 20 texts"),
        ({"rerank": "yes"}, True, "expected rerank to be one of geometric, found 'yes'"),
        ({"regoins": "auto"}, True, "expected a field of the request, found 'regoins'"),
        ([], True, "expected the request to be an object, found []"),
    ],
    ids=repr,
)
def test_what_makes_no_sense_is_refused(data, has_image, said):
    with pytest.raises(UsageError) as refused:
        read_json(SearchRequest, data, has_image=has_image)

    assert said in refused.value.message


@pytest.mark.parametrize(
    ("form", "said"),
    [
        ([("k", "x")], "expected k to be a whole number, found 'x'"),
        ([("k", "")], "expected k to be a whole number, found ''"),
        ([("k", "1"), ("k", "2")], "expected k once, found it more than once"),
        ([("box", "1,2,3")], "box must be X,Y,W,H in whole pixels, got '1,2,3'"),
        ([("exact", "yes")], "expected exact to be true or false, found 'yes'"),
        ([("min_score", "nan")], "expected min_score to be from -1 to 1, found nan"),
        ([("<b>", "")], "expected a field of the request, found '<b>'"),
    ],
)
def test_what_makes_no_sense_in_a_form_is_refused(form, said):
    with pytest.raises(UsageError) as refused:
        read_form(SearchRequest, form, has_image=True)

    assert said in refused.value.message


def test_an_unknown_field_is_answered_with_the_nearest_or_with_all():
    with pytest.raises(UsageError) as near:
        read_form(SimilarRequest, [("categroy", "a")])
    with pytest.raises(UsageError) as far:
        read_json(RecognizeRequest, {"xyz": 1})

    assert near.value.hint == "did you mean category"
    assert far.value.hint == "the fields are item, k, box"


def test_an_item_that_is_recognized_has_no_box():
    with pytest.raises(UsageError, match="item and box cannot be combined"):
        read_json(RecognizeRequest, {"item": "a", "box": [1, 2, 3, 4]})
    with pytest.raises(UsageError, match="expected an image or item, found none"):
        read_json(RecognizeRequest, {})


def test_feedback_names_an_answer_a_hit_and_a_verdict():
    request = read_json(FeedbackRequest, {"answer": ANSWER, "path": "a.png", "verdict": None})

    assert request == FeedbackRequest(ANSWER, "a.png", None)
    for wrong in ({"answer": "x"}, {"verdict": "good"}, {"path": 3}):
        with pytest.raises(UsageError):
            read_json(FeedbackRequest, {"answer": ANSWER, "path": "a.png", "verdict": "chosen", **wrong})
    with pytest.raises(UsageError, match="verdict is missing"):
        read_json(FeedbackRequest, {"answer": ANSWER, "path": "a.png"})


@pytest.mark.parametrize(
    "body", [b"", b"{", b"\xff", b"[" * 100_000, b"1" * 5_000, b'{"a": 1,}'], ids=lambda body: body[:3]
)
def test_a_body_that_is_no_json_is_refused(body):
    with pytest.raises(UsageError, match="expected JSON"):
        parsed(body)


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(), lambda each: st.lists(each, max_size=4)
)
NAMES = ("k", "box", "text", "item", "regions", "by", "min_score", "diverse", "range", "exact", "unknown")


@given(st.dictionaries(st.sampled_from(NAMES), ANYTHING, max_size=4), st.booleans())
def test_whatever_json_holds_is_read_or_refused(data, has_image):
    with contextlib.suppress(UsageError):
        assert 1 <= read_json(SearchRequest, data, has_image=has_image).k <= 200


@given(st.lists(st.tuples(st.sampled_from(NAMES), st.text(max_size=20)), max_size=4))
def test_whatever_a_form_holds_is_read_or_refused(form):
    with contextlib.suppress(UsageError):
        assert 1 <= read_form(SearchRequest, form, has_image=True).k <= 200
