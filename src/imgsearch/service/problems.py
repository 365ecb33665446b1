"""Errors as the service answers them: RFC 9457, with the words of the program."""

import json
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from starlette.exceptions import HTTPException
from starlette.responses import Response

from imgsearch.errors import (
    DamagedIndexError,
    ImageError,
    ImgsearchError,
    LockedError,
    MissingComponentError,
    NoIndexError,
    OutputError,
    ResourceError,
    ServerError,
    UsageError,
)

PROBLEM_TYPE = "application/problem+json"

_STATUSES: tuple[tuple[type[ImgsearchError], int], ...] = (
    (UsageError, 400),
    (ImageError, 422),
    (NoIndexError, 503),
    (DamagedIndexError, 503),
    (LockedError, 503),
    (MissingComponentError, 503),
    (ResourceError, 503),
    (ServerError, 503),
    (OutputError, 507),
)

_OF_MACHINE = "the server cannot answer this now: something is wrong with its index, its files or its memory"


class HttpError(ImgsearchError):
    """What only a server has to refuse: nothing found, too large, too many requests.

    Args:
        status: Of the answer.
        message: One line: what was expected and what was found.
        hint: One line: what to do about it. May be empty.
        headers: Of the answer, such as `Retry-After`.
    """

    def __init__(self, status: int, message: str, *, hint: str = "", headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message, hint=hint)
        self.status = status
        self.headers = dict(headers or {})


def problem(error: Exception) -> Response:
    """Answer an error. Of a bug, and of what is wrong with this machine, nothing is told but that it is there."""
    if isinstance(error, HttpError):
        return _answer(error.status, error.message, {"hint": error.hint}, error.headers)
    if isinstance(error, HTTPException):
        return _answer(error.status_code, error.detail, {}, error.headers)
    status = next((status for kind, status in _STATUSES if isinstance(error, kind)), 500)
    if status == 500 or not isinstance(error, ImgsearchError):
        return _answer(500, "the server failed: a bug", {"hint": "its log says more"})
    if status > 500:  # its message names files of this machine
        return _answer(status, _OF_MACHINE, {"hint": "its log says more", "code": error.exit_code})
    cause = error.cause if isinstance(error, ImageError) else ""
    return _answer(status, error.message, {"hint": error.hint, "code": error.exit_code, "cause": cause})


def _answer(status: int, detail: str, facts: Mapping[str, Any], headers: Mapping[str, str] | None = None) -> Response:
    told = {name: fact for name, fact in facts.items() if fact}
    body = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status, "detail": detail, **told}
    # ASCII, for a name that is not UTF-8 may be in the words.
    return Response(json.dumps(body), status, headers, PROBLEM_TYPE)
