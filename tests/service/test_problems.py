"""Errors as the service answers them."""

import json

import pytest
from starlette.exceptions import HTTPException

from imgsearch.errors import (
    BoxError,
    DamagedIndexError,
    GateError,
    ImageError,
    LockedError,
    MissingComponentError,
    NoIndexError,
    OutputError,
    ResourceError,
    UsageError,
)
from imgsearch.service.problems import HttpError, problem


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (UsageError("no"), 400, 2),
        (BoxError("no"), 400, 2),
        (ImageError("corrupt", "no"), 422, 4),
    ],
)
def test_an_error_has_the_words_and_the_exit_code_of_the_program(error, status, code):
    answer = problem(error)
    told = json.loads(answer.body)

    assert answer.status_code == told["status"] == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert (told["type"], told["detail"], told["code"]) == ("about:blank", "no", code)
    assert told.get("cause") == ("corrupt" if status == 422 else None)
    assert "hint" not in told


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (NoIndexError("/srv/shop", hint="/srv"), 503, 5),
        (DamagedIndexError("/srv/shop", hint="/srv"), 503, 6),
        (LockedError("/srv/shop", hint="/srv"), 503, 7),
        (MissingComponentError("/srv/shop", hint="/srv"), 503, 8),
        (OutputError("/srv/shop", hint="/srv"), 507, 11),
        (ResourceError("/srv/shop", hint="/srv"), 503, 13),
    ],
)
def test_what_is_wrong_with_the_machine_is_told_without_names_of_its_files(error, status, code):
    answer = problem(error)

    assert (answer.status_code, json.loads(answer.body)["code"]) == (status, code)
    assert b"srv" not in answer.body


def test_a_hint_and_a_name_that_is_not_utf8_are_told():
    told = json.loads(problem(UsageError("no item '\udce9'", hint="ask for another")).body)

    assert (told["detail"], told["hint"]) == ("no item '\udce9'", "ask for another")


@pytest.mark.parametrize("error", [ValueError("/srv/shop"), KeyError("/srv/shop"), GateError("/srv/shop")])
def test_of_a_bug_nothing_is_told(error):
    answer = problem(error)

    assert answer.status_code == 500
    assert b"srv" not in answer.body
    assert "code" not in json.loads(answer.body)


def test_what_only_a_server_refuses_has_its_status_and_headers():
    answer = problem(HttpError(503, "full", hint="wait", headers={"Retry-After": "2"}))
    told = json.loads(answer.body)

    assert (answer.status_code, answer.headers["retry-after"]) == (503, "2")
    assert (told["title"], told["detail"], told["hint"]) == ("Service Unavailable", "full", "wait")
    assert "code" not in told


def test_what_the_framework_refuses_keeps_its_headers():
    answer = problem(HTTPException(405, headers={"Allow": "POST"}))

    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
    assert json.loads(answer.body)["detail"] == "Method Not Allowed"
