"""The guards around an application, asked as a server asks: each case is one request."""

import asyncio
import base64
import hmac
import json
import logging
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from imgsearch.errors import ImgsearchError, NoIndexError
from imgsearch.service import guards
from imgsearch.service.guards import Limits, guarded
from imgsearch.service.metrics import Metrics
from imgsearch.service.problems import problem
from imgsearch.service.settings import Settings

TOKEN = "a token of this shop"
FOREVER = None  # of a body: no more comes
CUT_OFF = object()  # of a body: the client has gone


@dataclass
class Answer:
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    is_whole: bool = False

    @property
    def problem(self) -> dict[str, object]:
        assert self.headers["content-type"] == "application/problem+json"
        return json.loads(self.body)


async def fixed(_: Request) -> Response:
    return PlainTextResponse("found", headers={"Cache-Control": "max-age=60"})


async def count(request: Request) -> Response:
    return PlainTextResponse(str(len(await request.body())))


APP = Starlette(
    routes=[
        *(Route(path, fixed) for path in ("/", "/items/{path:path}", "/healthz", "/readyz")),
        Route("/search", count, methods=["POST"]),
    ]
).router


def settings(**given) -> Settings:
    return Settings(Path("idx"), **given)


def asker(app=APP, *, limits=None, metrics=None, **given):
    """Return a way to ask an application behind its guards."""
    whole = guarded(app, settings(**given), metrics or Metrics(), limits)

    def ask(path="/", method="GET", body=(b"",), client="192.0.2.1", takes_answer=True, **headers) -> Answer:
        named = {"host": "localhost:8000", **{name.replace("_", "-"): value for name, value in headers.items()}}
        return asyncio.run(exchange(whole, path, method, body, client, takes_answer, named))

    return ask


async def exchange(app, path, method, body, client, takes_answer, headers) -> Answer:
    answer, pieces = Answer(), list(body)

    async def receive():
        piece = pieces.pop(0) if pieces else CUT_OFF
        if piece is FOREVER:
            await asyncio.Event().wait()
        if piece is CUT_OFF:
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": piece, "more_body": bool(pieces)}

    async def send(message):
        if message["type"] == "http.response.start":
            answer.status = message["status"]
            answer.headers = {name.decode(): value.decode() for name, value in message["headers"]}
            return
        if not takes_answer:
            await asyncio.Event().wait()
        answer.body += message.get("body", b"")
        answer.is_whole = not message.get("more_body", False)

    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "query_string": b"",
        "client": (client, 1),
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
    }
    await app(scope, receive, send)
    return answer


def test_every_answer_has_a_number_of_its_own_and_tells_browsers_to_be_careful():
    ask = asker()
    first, refused = ask("/items/a.png"), ask(host="evil.example")

    assert first.headers["x-request-id"] != refused.headers["x-request-id"]
    for answer in (first, refused):
        assert answer.headers["content-security-policy"].startswith("default-src 'none'; script-src 'self';")
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert answer.headers["cross-origin-resource-policy"] == "same-origin"
    assert (first.headers["cache-control"], refused.headers["cache-control"]) == ("max-age=60", "no-store")


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1", "127.0.0.1:8000", "[::1]:8000"])
def test_this_machine_is_asked_by_its_own_names(host):
    assert asker()(host=host).status == 200


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example:80", "", "[::2]"])
def test_another_host_name_is_refused_on_loopback_alone(host):
    assert asker()(host=host).problem["status"] == 421
    assert asker(allow_any_host=True)(host=host).status == 200


@pytest.mark.parametrize(
    ("method", "headers", "status"),
    [
        ("POST", {"sec_fetch_site": "cross-site", "origin": "https://evil.example"}, 403),
        ("POST", {"origin": "https://evil.example"}, 403),
        ("POST", {"origin": "null"}, 403),
        ("POST", {"origin": "http://[bad"}, 403),
        ("POST", {"origin": "http://localhost:8000.evil.example"}, 403),
        ("POST", {"origin": "http://localhost:9000", "sec_fetch_site": "same-site"}, 403),
        ("POST", {"origin": "http://localhost:8000"}, 200),
        ("POST", {"origin": "https://shown.example", "sec_fetch_site": "same-origin"}, 200),
        ("POST", {"origin": "https://shop.example", "sec_fetch_site": "cross-site"}, 200),
        ("POST", {}, 200),
        ("GET", {"sec_fetch_site": "cross-site", "sec_fetch_dest": "image"}, 403),
        ("GET", {"sec_fetch_site": "cross-site", "sec_fetch_dest": "document"}, 200),
    ],
)
def test_pages_of_other_sites_may_not_ask_but_lead_here(method, headers, status):
    ask = asker(cors_origins=("https://shop.example",))

    assert ask("/search" if method == "POST" else "/", method, **headers).status == status


def test_a_page_of_a_named_origin_may_read_answers_also_those_that_refuse():
    ask = asker(cors_origins=("https://shop.example",), token=TOKEN)
    asked = {"access_control_request_method": "POST", "access_control_request_headers": "authorization,content-type"}

    first = ask("/search", "OPTIONS", origin="https://shop.example", **asked)
    refused = ask("/search", "POST", origin="https://shop.example")
    foreign = ask("/search", "OPTIONS", origin="https://evil.example", **asked)

    assert (first.status, refused.status, foreign.status) == (200, 401, 403)
    assert [each.headers.get("access-control-allow-origin") for each in (first, refused, foreign)] == [
        *["https://shop.example"] * 2,
        None,
    ]
    assert "access-control-allow-origin" not in asker()(origin="http://localhost:8000").headers


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


@pytest.mark.parametrize(
    ("given", "status"),
    [
        (f"Bearer {TOKEN}", 200),
        (f"bearer {TOKEN}", 200),
        (basic("", TOKEN), 200),
        (basic("anna", TOKEN), 200),
        (f"Bearer {TOKEN}x", 401),
        (f"Bearer {TOKEN[:-1]}", 401),
        ("Bearer ", 401),
        ("Bearer caf\xe9", 401),
        (basic(TOKEN, ""), 401),
        ("Basic %%%", 401),
        (f"Digest {TOKEN}", 401),
        (TOKEN, 401),
    ],
)
def test_the_token_opens_and_nothing_else_does(given, status):
    answer = asker(token=TOKEN)(authorization=given)

    assert answer.status == status
    if status == 401:
        assert answer.headers["www-authenticate"].startswith("Basic ")
        assert TOKEN not in answer.body.decode()


def test_the_token_is_compared_in_constant_time(monkeypatch):
    compared = []
    monkeypatch.setattr(hmac, "compare_digest", lambda *given: compared.append(given) or given[0] == given[1])

    asker(token=TOKEN)(authorization="Bearer a guess")

    assert compared == [(b"a guess", TOKEN.encode())]


def test_health_is_told_to_those_without_a_token():
    ask = asker(token=TOKEN, rate=1)

    assert [ask(path).status for path in ("/healthz", "/readyz", "/healthz", "/readyz", "/")] == [200] * 4 + [401]


def test_a_client_has_its_requests_a_minute_and_is_told_when_to_come_again():
    now = 0.0
    paced = guards._Paced(APP, 3, clock=lambda: now)

    def ask(client="192.0.2.1"):
        return asyncio.run(exchange(paced, "/", "GET", [b""], client, takes_answer=True, headers={}))

    assert [ask().status for _ in range(4)] == [200, 200, 200, 429]
    assert int(ask().headers["retry-after"]) == 20
    assert ask("192.0.2.2").status == 200
    now += 20
    assert [ask().status for _ in range(2)] == [200, 429]
    now += 3600
    assert [ask().status for _ in range(4)] == [200, 200, 200, 429]


def test_one_client_with_many_addresses_is_one_client_and_clients_are_forgotten(monkeypatch):
    monkeypatch.setattr(guards, "_MOST_CLIENTS", 2)
    paced = guards._Paced(APP, 1, clock=lambda: 0.0)

    def ask(client):
        return asyncio.run(exchange(paced, "/", "GET", [b""], client, takes_answer=True, headers={})).status

    assert [ask("2001:db8::1"), ask("2001:db8::2"), ask("2001:db8:0:1::1")] == [200, 429, 200]
    assert [ask("192.0.2.1"), ask("odd" * 1000), ask("2001:db8::1")] == [200, 200, 200]
    assert len(paced._free_at) == 2


@pytest.mark.parametrize("headers", [{}, {"content_length": "11"}])
def test_a_body_too_large_is_refused_by_what_comes_and_by_what_is_said(headers):
    ask = asker(limits=Limits(body_bytes=10))

    assert ask("/search", "POST", body=[b"12345", b"67890"]).body == b"10"
    assert ask("/search", "POST", body=[b"12345", b"678901", FOREVER], **headers).problem["status"] == 413


def test_a_body_that_is_slow_is_refused():
    slow = asker(limits=Limits(body_seconds=0))("/search", "POST", body=[b"1", FOREVER])

    assert slow.problem["status"] == 408


def test_a_body_that_is_cut_off_is_no_bug_and_not_taken_for_whole(caplog):
    answer = asker()("/search", "POST", body=[b"1", CUT_OFF])

    assert (answer.status, caplog.records) == (0, [])


def test_a_refusal_that_comes_once_an_answer_has_begun_is_no_bug(caplog):
    async def begin(_):
        async def pieces():
            yield b"begun"
            await asyncio.Event().wait()

        return StreamingResponse(pieces())

    async def refuse(_, error):
        return problem(error)

    app = Starlette(routes=[Route("/", begin)], exception_handlers={ImgsearchError: refuse})

    answer = asker(app, limits=Limits(body_bytes=1))(body=[b"12"])

    assert (answer.status, answer.is_whole, caplog.records) == (200, False, [])


def test_bodies_together_are_limited_and_what_has_ended_counts_no_more():
    ask = asker(limits=Limits(bytes_together=10))

    for _ in range(3):
        assert ask("/search", "POST", body=[b"1234567890"]).status == 200
    full = ask("/search", "POST", body=[b"12345678901"])
    assert (full.problem["status"], full.headers["retry-after"]) == (503, "1")
    assert ask("/search", "POST", body=[b"1234567890"]).status == 200


def test_a_request_that_takes_too_long_is_told_so():
    async def stuck(scope, receive, send):
        await asyncio.Event().wait()

    assert asker(stuck, limits=Limits(seconds=0))().problem["status"] == 504


def test_an_answer_that_is_not_taken_ends():
    answer = asker(limits=Limits(seconds=0))(takes_answer=False)

    assert (answer.status, answer.is_whole) == (200, False)


def test_a_timeout_of_the_application_is_a_bug_of_its_own():
    async def failing(scope, receive, send):
        raise TimeoutError

    assert asker(failing)().problem["status"] == 500


def test_a_bug_is_logged_by_the_number_of_its_request_without_its_words(caplog):
    async def failing(scope, receive, send):
        try:
            {}["name-of-a-file.png"]
        except KeyError as error:
            raise ValueError("another secret") from error

    answer = asker(failing)("/items/name-of-a-file.png")

    assert answer.problem["status"] == 500
    assert caplog.records[-1].levelno == logging.ERROR
    logged = caplog.text
    assert answer.headers["x-request-id"] in logged
    assert "ValueError < test_guards.py:" in logged
    assert "KeyError" in logged
    for secret in ("name-of-a-file", "another secret", "192.0.2.1"):
        assert secret not in logged + answer.body.decode()


def test_errors_of_ours_and_of_the_system_are_no_bugs(caplog):
    async def without_index(scope, receive, send):
        raise NoIndexError("there is no index")

    async def without_memory(scope, receive, send):
        raise MemoryError

    for failing, status, words in ((without_index, 503, "there is no index"), (without_memory, 503, "memory")):
        answer = asker(failing)()
        assert (answer.problem["status"], words in answer.problem["detail"]) == (status, words == "memory")
        assert answer.headers["x-request-id"] in caplog.text
        assert words in caplog.text
    assert "bug" not in caplog.text


def test_an_answer_that_has_begun_is_not_begun_again():
    async def failing(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise ValueError

    answer = asker(failing)()

    assert (answer.status, answer.is_whole) == (200, False)


def test_log_and_metrics_name_routes_and_no_paths(caplog):
    caplog.set_level(logging.INFO)
    metrics = Metrics()
    ask = asker(metrics=metrics)
    for path, method in [("/items/secret.png", "GET"), ("/nothing/secret", "GET"), ("/items/secret", "SECRET")]:
        ask(path, method)
    metrics.observe("search", 0.003)
    metrics.cache(hit=True)
    metrics.generation(7)

    text = metrics.text().decode()

    assert 'imgsearch_requests_total{method="GET",route="/items/{path:path}",status="200"} 1.0' in text
    assert 'imgsearch_requests_total{method="GET",route="none",status="404"} 1.0' in text
    assert 'imgsearch_stage_seconds_bucket{le="0.005",stage="search"} 1.0' in text
    assert 'imgsearch_cache_total{result="hit"} 1.0' in text
    assert "imgsearch_generation 7.0" in text
    assert "process_resident_memory_bytes" in text
    assert "GET /items/{path:path} 200 in" in caplog.text
    assert "secret" not in (text + caplog.text).lower()
