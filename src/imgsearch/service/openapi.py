"""The OpenAPI document, made from the classes of requests and answers and one table of what can be asked."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

from imgsearch.records import schema_of
from imgsearch.service import responses
from imgsearch.service.problems import PROBLEM_TYPE
from imgsearch.service.requests import Asked, FeedbackRequest, RecognizeRequest, SearchRequest, SimilarRequest

SESSION_HEADER = "Imgsearch-Session"

_ALWAYS = (400, 401, 403, 421, 429, 500, 503)
_BODY = (408, 413, 415, 504)
_CHANGED = {"ETag": "Changes with the image; sent back in `If-None-Match`, spares sending the image again."}
_CACHED = {"Cache-Status": "`imgsearch; hit` for an answer from the cache, otherwise `imgsearch; fwd=miss`."}
_HEADERS = {
    401: {"WWW-Authenticate": "How to authorize."},
    429: {"Retry-After": "In how many seconds to ask again."},
    503: {"Retry-After": "In how many seconds to ask again, where that would help."},
}


@dataclass(frozen=True, slots=True)
class Endpoint:
    """What can be asked of the service.

    Attributes:
        method: Of HTTP.
        path: Its address; `{path}` is that of an item.
        summary: What it does.
        answer: The class of its answer in JSON, or the media type of one that is none; None for none.
        request: The class of its body, or of its query string where it has none.
        takes_image: Whether the body may be a form with an image.
        problems: Statuses of what else may become of it, beside those of all.
        headers: Of its answer, and what they say.
        for_session: Whether it is about what a session has said.
        is_open: Whether it is answered without a token, too.
    """

    method: str
    path: str
    summary: str
    answer: type | str | None
    request: type[Asked] | None = None
    takes_image: bool = False
    problems: tuple[int, ...] = ()
    headers: Mapping[str, str] = field(default_factory=dict)
    for_session: bool = False
    is_open: bool = False


ENDPOINTS = (
    Endpoint(
        "POST",
        "/search",
        "Find images like an image or item, about words, or both.",
        responses.SearchAnswer,
        request=SearchRequest,
        takes_image=True,
        problems=(*_BODY, 422),
        headers=_CACHED,
    ),
    Endpoint(
        "GET",
        "/similar/{path}",
        "Find images like one of the index.",
        responses.SearchAnswer,
        request=SimilarRequest,
        problems=(404, 504),
        headers=_CACHED,
    ),
    Endpoint(
        "POST",
        "/recognize",
        "Name the product and category of an image or item.",
        responses.RecognizeAnswer,
        request=RecognizeRequest,
        takes_image=True,
        problems=(*_BODY, 422),
    ),
    Endpoint("GET", "/items/{path}", "Say what the index has of an image.", responses.ItemAnswer, problems=(404, 504)),
    Endpoint(
        "GET",
        "/items/{path}/image",
        "Send an image as it is in the catalog.",
        "image/*",
        problems=(404, 504),
        headers=_CHANGED,
    ),
    Endpoint(
        "GET",
        "/items/{path}/thumbnail",
        "Send an image made small: its longer side is at most 320 pixels.",
        "image/jpeg",
        problems=(404, 422, 504),
        headers=_CHANGED,
    ),
    Endpoint("GET", "/index", "Say what the index holds.", responses.IndexAnswer, problems=(504,)),
    Endpoint(
        "POST",
        "/feedback",
        "Keep what somebody thinks of a hit: it is on the disk when this is answered.",
        None,
        request=FeedbackRequest,
        problems=(*_BODY, 410, 507),
        for_session=True,
    ),
    Endpoint(
        "DELETE",
        "/feedback/session",
        "Delete all that a session has said.",
        responses.Forgotten,
        problems=(504, 507),
        for_session=True,
    ),
    Endpoint("GET", "/healthz", "Say that the server runs.", responses.State, is_open=True),
    Endpoint("GET", "/readyz", "Say that the encoder is loaded.", responses.State, is_open=True),
    Endpoint("GET", "/metrics", "Send figures for Prometheus.", "text/plain"),
    Endpoint("GET", "/openapi.json", "Describe this API.", "application/json"),
)


def document(version: str, root_path: str) -> dict[str, Any]:
    """Return the OpenAPI 3.1 document.

    Args:
        version: Of imgsearch.
        root_path: Where a proxy shows the service; empty for the root.
    """
    paths: dict[str, dict[str, Any]] = {}
    for endpoint in ENDPOINTS:
        paths.setdefault(endpoint.path, {})[endpoint.method.lower()] = _operation(endpoint)
    kinds = [kind for each in ENDPOINTS for kind in (each.request, each.answer) if isinstance(kind, type)]
    statuses = sorted({status for endpoint in ENDPOINTS for status in (*_ALWAYS, *endpoint.problems)})
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "imgsearch",
            "version": version,
            "description": "Image search in the catalog of a shop. Addresses in answers are relative to the service.",
        },
        "servers": [{"url": root_path or "/"}],
        "security": [{}, {"bearer": []}, {"basic": []}],
        "paths": paths,
        "components": {
            "schemas": {kind.__name__: _schema(kind) for kind in (*kinds, responses.Problem)},
            "responses": {HTTPStatus(status).name: _problem(status) for status in statuses},
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer", "description": "The token, if the server has one."},
                "basic": {"type": "http", "scheme": "basic", "description": "Any name, and the token as password."},
            },
        },
    }


def _operation(endpoint: Endpoint) -> dict[str, Any]:
    """Describe what can be asked at one address by one method."""
    found: dict[str, Any] = {"summary": endpoint.summary}
    if endpoint.is_open:
        found["security"] = []
    if parameters := list(_parameters(endpoint)):
        found["parameters"] = parameters
    if endpoint.request and endpoint.method == "POST":
        found["requestBody"] = {
            "required": True,
            "content": _bodies(endpoint.request, takes_image=endpoint.takes_image),
        }
    answers: dict[str, Any] = (
        {"204": {"description": "Done."}} if endpoint.answer is None else {"200": _answer(endpoint)}
    )
    if "ETag" in endpoint.headers:
        answers["304"] = {"description": "The image is still the one of `If-None-Match`."}
    for status in sorted((*_ALWAYS, *endpoint.problems)):
        answers[str(status)] = {"$ref": f"#/components/responses/{HTTPStatus(status).name}"}
    return {**found, "responses": answers}


def _parameters(endpoint: Endpoint) -> Iterator[dict[str, Any]]:
    if "{path}" in endpoint.path:
        said = "Path of an image, relative to the catalog. A slash in it may be sent as it is or as `%2F`."
        schema = {"type": "string", "minLength": 1}
        yield {"name": "path", "in": "path", "required": True, "description": said, "schema": schema}
    if endpoint.request and endpoint.method == "GET":
        for name, schema in _form(endpoint.request)["properties"].items():
            yield {"name": name, "in": "query", "description": schema.pop("description"), "schema": schema}
    if "ETag" in endpoint.headers:
        yield {"name": "If-None-Match", "in": "header", "description": "An `ETag`.", "schema": {"type": "string"}}
    if endpoint.for_session:
        said = "32 hex digits, drawn by chance and kept by whoever gives feedback: nothing else tells one from another."
        schema = {"type": "string", "pattern": "^[0-9a-f]{32}$"}
        yield {"name": SESSION_HEADER, "in": "header", "required": True, "description": said, "schema": schema}


def _bodies(kind: type[Asked], *, takes_image: bool) -> dict[str, Any]:
    bodies: dict[str, Any] = {"application/json": {"schema": _reference(kind)}}
    if takes_image:
        image = {"type": "string", "format": "binary", "description": "The file of an image."}
        form = _form(kind)
        form["properties"] = {"image": image, **form["properties"]}
        bodies["multipart/form-data"] = {"schema": form, "encoding": {"image": {"contentType": "image/*"}}}
    return bodies


def _answer(endpoint: Endpoint) -> dict[str, Any]:
    kind = endpoint.answer
    if isinstance(kind, type):
        said, content = schema_of(kind)["description"], {"application/json": {"schema": _reference(kind)}}
    else:
        said, content = endpoint.summary, {str(kind): {}}
    return {"description": said, "content": content, **_headers(endpoint.headers)}


def _problem(status: int) -> dict[str, Any]:
    content = {PROBLEM_TYPE: {"schema": _reference(responses.Problem)}}
    return {"description": HTTPStatus(status).phrase, "content": content, **_headers(_HEADERS.get(status, {}))}


def _headers(said: Mapping[str, str]) -> dict[str, Any]:
    headers = {name: {"description": text, "schema": {"type": "string"}} for name, text in said.items()}
    return {"headers": headers} if headers else {}


def _reference(kind: type) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{kind.__name__}"}


def _schema(kind: type) -> dict[str, Any]:
    """Return the schema of a class; requests have no other fields than these."""
    return {**schema_of(kind), **({"additionalProperties": False} if issubclass(kind, Asked) else {})}


def _form(kind: type[Asked]) -> dict[str, Any]:
    """Return the schema of a form or query string: nothing is null there, and a box is text."""
    found = _schema(kind)
    for name, schema in found["properties"].items():
        for part in schema.pop("anyOf", ())[:1]:
            schema.update(part)
        if name == "box":
            found["properties"][name] = {
                "type": "string",
                "description": schema["description"].replace(":", " as `X,Y,W,H`:", 1),
                "pattern": r"^[0-9]{1,9},[0-9]{1,9},[1-9][0-9]{0,8},[1-9][0-9]{0,8}$",
            }
    return found
