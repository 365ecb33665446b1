"""The service does what /openapi.json says: for whatever schemathesis makes of it, and for real questions."""

import ast
import inspect
import re
from typing import Any
from urllib.parse import quote

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.generation.modes import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from imgsearch.records import as_json, read
from imgsearch.service import app
from imgsearch.service.openapi import ENDPOINTS, SESSION_HEADER, document
from imgsearch.service.responses import IndexAnswer, ItemAnswer, RecognizeAnswer, SearchAnswer

SESSION = "7" * 32
ITEM = "odd/100% #1?.png"
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]


@pytest.fixture(scope="session")
def api(client):
    """The API as it describes itself."""
    return schemathesis.openapi.from_url(f"http://127.0.0.1:{client.port}/openapi.json")


def test_the_description_names_what_the_service_answers_and_nothing_else():
    (routes,) = (
        node.value
        for node in ast.walk(ast.parse(inspect.getsource(app.make_app).lstrip()))
        if isinstance(node, ast.Assign) and ast.unparse(node.targets) == "routes"
    )
    found = set()
    for route in routes.elts:
        (methods,) = (keyword.value for keyword in route.keywords if keyword.arg == "methods")
        path = route.args[0].value.replace("{path:path}", "{path}")
        found |= {(method, path) for method in ast.literal_eval(methods)}

    assert found - {("GET", "/"), ("GET", "/page/{name}")} == {(each.method, each.path) for each in ENDPOINTS}


@pytest.mark.parametrize("endpoint", ENDPOINTS, ids=lambda each: f"{each.method} {each.path}")
@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], ids=["right", "wrong"])
def test_whatever_is_asked_is_answered_as_described(api, endpoint, mode):
    if mode is GenerationMode.NEGATIVE and endpoint.request is None:
        return

    @given(case=api[endpoint.path][endpoint.method].as_strategy(generation_mode=mode))
    @settings(
        max_examples=10,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    def ask(case):
        # In a form all is text: what is wrong as a list may be right as words.
        is_known_wrong = mode is GenerationMode.NEGATIVE and case.media_type != "multipart/form-data"
        case.call_and_validate(checks=[*CHECKS, negative_data_rejection] if is_known_wrong else CHECKS)

    ask()


def require_described(kind: type, answer: dict) -> None:
    """Hold an answer to the class that describes it: all of its fields, and no others."""
    assert without_none(as_json(read(kind, answer))) == answer


def without_none(data: Any) -> Any:
    if isinstance(data, dict):
        return {name: without_none(value) for name, value in data.items() if value is not None}
    return [without_none(value) for value in data] if isinstance(data, list) else data


@pytest.mark.parametrize(
    "body",
    [
        {"item": ITEM},
        {"item": ITEM, "by": "product", "color": "#808080"},
        {"item": ITEM, "where": "price > 10", "diverse": 0.5},
        {"text": ["cups"]},
        {"item": ITEM, "text": ["cups", "blue"], "text_weight": 0.3},
    ],
    ids=str,
)
def test_answers_without_an_image_hold_what_is_described_and_nothing_else(api, body):
    answer = api["/search"]["POST"].Case(body=body, media_type="application/json").call_and_validate(checks=CHECKS)

    assert answer.json()["hits"]
    require_described(SearchAnswer, answer.json())


@pytest.mark.parametrize(
    "fields",
    [{}, {"rerank": "geometric", "k": "3"}, {"objects": "true"}, {"regions": "4"}, {"text": "cups"}],
    ids=str,
)
def test_answers_to_an_image_hold_what_is_described_and_nothing_else(client, jpeg, fields):
    answer = client.post("/search", data=fields, files={"image": ("a.jpg", jpeg, "image/jpeg")}).json()

    assert answer.get("hits") or answer["objects"]
    require_described(SearchAnswer, answer)


def test_all_other_answers_hold_what_is_described_and_nothing_else(client, api):
    path_of = {"path_parameters": {"path": quote(ITEM, safe="")}}

    for path, kind in (("/similar/{path}", SearchAnswer), ("/items/{path}", ItemAnswer)):
        answer = api[path]["GET"].Case(**path_of).call_and_validate(checks=CHECKS)
        require_described(kind, answer.json())
    require_described(IndexAnswer, api["/index"]["GET"].Case().call_and_validate(checks=CHECKS).json())
    require_described(RecognizeAnswer, client.post("/recognize", json={"item": ITEM}).json())
    for path, kind in (("/items/{path}/image", "image/png"), ("/items/{path}/thumbnail", "image/jpeg")):
        answer = api[path]["GET"].Case(**path_of).call_and_validate(checks=CHECKS)
        assert answer.headers["content-type"] == [kind]
        headers = {"If-None-Match": answer.headers["etag"][0]}
        again = api[path]["GET"].Case(**path_of, headers=headers)
        assert again.call_and_validate(checks=CHECKS).status_code == 304


def test_feedback_is_answered_as_described(api, client):
    shown = client.post("/search", json={"item": ITEM}).json()
    body = {"answer": shown["id"], "path": shown["hits"][0]["path"], "verdict": "chosen"}
    headers = {SESSION_HEADER: SESSION}

    judged = api["/feedback"]["POST"].Case(body=body, media_type="application/json", headers=headers)
    assert judged.call_and_validate(checks=CHECKS).status_code == 204
    forgotten = api["/feedback/session"]["DELETE"].Case(headers=headers).call_and_validate(checks=CHECKS)
    assert forgotten.json() == {"forgotten": 1}


def test_the_description_says_where_the_service_is_and_how_a_form_spells_a_box():
    described = document("1.0", "/search")

    assert described["servers"] == [{"url": "/search"}]
    assert described["info"]["version"] == "1.0"
    bodies = described["paths"]["/search"]["post"]["requestBody"]["content"]
    pattern = bodies["multipart/form-data"]["schema"]["properties"]["box"]["pattern"]
    assert re.fullmatch(pattern, "1,2,3,4")
    assert not re.fullmatch(pattern, "1,2,0,4")
