"""What stands between strangers and the service: who may ask, how much, and for how long.

Each guard is an ASGI application around another. What they refuse is answered as problem details, like all errors.
"""

import asyncio
import base64
import binascii
import hmac
import ipaddress
import logging
import math
import re
import secrets
import time
import traceback
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from imgsearch.errors import ImgsearchError
from imgsearch.service.metrics import Metrics
from imgsearch.service.openapi import SESSION_HEADER
from imgsearch.service.problems import HttpError, problem
from imgsearch.service.settings import Settings
from imgsearch.system import refusal_of

logger = logging.getLogger(__name__)

_POLICY = (
    b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    b"base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
# Of every answer, unless the application says otherwise.
_HEADERS = (
    (b"content-security-policy", _POLICY),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cache-control", b"no-store"),
)

# Others are counted and logged as one, for they may be any word.
_METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"))

# Those who look after the service ask these, and know no token.
_FREE = frozenset(("/healthz", "/readyz"))

_THIS_MACHINE = re.compile(r"(localhost|127\.0\.0\.1|\[::1\])(:\d+)?", re.ASCII | re.IGNORECASE)

# Clients whose requests are counted: of more, those that asked longest ago are forgotten.
_MOST_CLIENTS = 10_000


@dataclass(frozen=True, slots=True)
class Limits:
    """How much a request may take.

    Attributes:
        body_bytes: Of one body.
        body_seconds: Until a body has arrived as a whole.
        seconds: Until a request is answered, and the answer is sent.
        bytes_together: Of the bodies of all requests under way.
    """

    body_bytes: int = 20_000_000
    body_seconds: float = 20
    seconds: float = 60
    bytes_together: int = 256_000_000


def guarded(app: ASGIApp, settings: Settings, metrics: Metrics, limits: Limits | None = None) -> ASGIApp:
    """Put all guards around an application."""
    app = _Limited(app, limits or Limits())
    if settings.token:
        app = _Authorized(app, settings.token)
    if settings.rate:
        app = _Paced(app, settings.rate)
    if settings.cors_origins:
        app = CORSMiddleware(
            app,
            allow_origins=settings.cors_origins,
            allow_methods=("GET", "POST", "DELETE"),
            allow_headers=("Authorization", SESSION_HEADER),
            expose_headers=("X-Request-Id", "Retry-After", "Cache-Status"),
        )
    app = _OfThisSite(app, settings.cors_origins)
    if not settings.allow_any_host:
        app = _OfThisMachine(app)
    return _Observed(app, metrics)


class _Observed:
    """Numbers, counts and logs requests, and answers for bugs."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        request_id = scope["request_id"] = secrets.token_hex(8)
        status = 0

        async def send_on(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = list(message.get("headers", ()))
                names = {name.lower() for name, _ in headers}
                headers += [header for header in _HEADERS if header[0] not in names]
                message = {**message, "headers": [*headers, (b"x-request-id", request_id.encode())]}
            await send(message)

        try:
            await self._app(scope, receive, send_on)
        except ClientDisconnect:
            pass  # nobody is there to be answered
        except Exception as error:  # noqa: BLE001  # a bug of ours: said as one, and the service goes on
            # Starlette raises another error from one that comes when an answer has begun.
            said = error.__cause__ if status else error
            refusal = said if isinstance(said, ImgsearchError) else refusal_of(error)
            if refusal is None:
                logger.error(  # noqa: TRY400
                    "request %s: a bug in imgsearch: %s", request_id, " < ".join(places_of(error))
                )
            elif not status and not isinstance(refusal, HttpError):
                logger.error("request %s: %s", request_id, refusal)  # noqa: TRY400
            if not status:  # otherwise the server ends the connection, for the answer is not whole
                await problem(refusal or error)(scope, receive, send_on)
        finally:
            route = getattr(scope.get("route"), "path", "none")
            method = scope["method"] if scope["method"] in _METHODS else "other"
            self._metrics.request(method, route, status)
            seconds = time.perf_counter() - started
            logger.info("request %s: %s %s %d in %.3f s", request_id, method, route, status, seconds)


def places_of(error: BaseException) -> Iterator[str]:
    """Yield the type of an exception and where it was raised, innermost first; then those of what it came from.

    Not its message, which may hold the name of a file.
    """
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        yield type(cause).__qualname__
        for frame in reversed(traceback.extract_tb(cause.__traceback__)):
            yield f"{Path(frame.filename).name}:{frame.lineno} {frame.name}"
        cause = cause.__cause__ or cause.__context__


class _Guard:
    """A guard that looks at the head of a request and lets it pass or not."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and (error := self.refuse(scope)):
            await problem(error)(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def refuse(self, scope: Scope) -> HttpError | None:
        """Return why a request is refused; None where it is not."""
        raise NotImplementedError


class _OfThisMachine(_Guard):
    """Refuses names of other hosts: a page may have its own name resolved to this machine, to be of the same origin."""

    def refuse(self, scope: Scope) -> HttpError | None:
        if _THIS_MACHINE.fullmatch(Headers(scope=scope).get("host", "")):
            return None
        return HttpError(
            421,
            "expected localhost, 127.0.0.1 or [::1] in the header Host",
            hint="a proxy must pass the address that it asks, as proxies do by default",
        )


class _OfThisSite(_Guard):
    """Refuses what pages of other sites send, but for those that are named."""

    def __init__(self, app: ASGIApp, origins: tuple[str, ...]) -> None:
        super().__init__(app)
        self._origins = frozenset(origins)

    def refuse(self, scope: Scope) -> HttpError | None:
        headers = Headers(scope=scope)
        origin, site = headers.get("origin"), headers.get("sec-fetch-site")
        if origin in self._origins or site in ("same-origin", "none"):  # the browser's word, which no page can change
            return None
        is_link = scope["method"] == "GET" and headers.get("sec-fetch-dest") == "document"
        host = headers.get("host", "").lower()
        is_foreign = origin is not None and origin.lower().partition("://")[2] != host
        if not is_foreign and (site != "cross-site" or is_link):
            return None
        return HttpError(
            403, "pages of other sites may not ask", hint="imgsearch serve --cors-origin names those that may"
        )


class _Paced(_Guard):
    """Lets each client send so many requests a minute, at once or one by one."""

    def __init__(self, app: ASGIApp, rate: int, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(app)
        self._interval = 60 / rate
        self._clock = clock
        # When a client that sends no more will have its whole minute again.
        self._free_at: OrderedDict[str, float] = OrderedDict()

    def refuse(self, scope: Scope) -> HttpError | None:
        if _route_of(scope) in _FREE:
            return None
        client, now = _network_of(scope), self._clock()
        free_at = max(now, self._free_at.pop(client, now)) + self._interval
        wait = free_at - now - 60
        self._free_at[client] = free_at if wait <= 1e-9 else free_at - self._interval
        if len(self._free_at) > _MOST_CLIENTS:
            self._free_at.popitem(last=False)
        if wait <= 1e-9:
            return None
        return HttpError(429, "too many requests a minute", headers={"Retry-After": str(math.ceil(wait))})


def _network_of(scope: Scope) -> str:
    """Return the address of a client; of IPv6 the network, for one client has all addresses of it."""
    address: str = (scope.get("client") or ("",))[0][:50]  # a proxy may say anything
    try:
        return str(ipaddress.IPv6Network((address, 64), strict=False)) if ":" in address else address
    except ValueError:
        return address


class _Authorized(_Guard):
    """Asks for the token: `Bearer TOKEN`, or as the password of `Basic`, which a browser asks people for."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        super().__init__(app)
        self._token = token.encode()

    def refuse(self, scope: Scope) -> HttpError | None:
        if _route_of(scope) in _FREE or hmac.compare_digest(_token_in(Headers(scope=scope)), self._token):
            return None
        challenge = {"WWW-Authenticate": 'Basic realm="imgsearch", charset="UTF-8"'}  # for a browser to ask
        return HttpError(
            401, "expected the token of this service", hint="Authorization: Bearer TOKEN", headers=challenge
        )


def _token_in(headers: Headers) -> bytes:
    scheme, _, given = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return given.strip().encode()
    if scheme.lower() == "basic":
        try:
            return base64.b64decode(given.strip().encode(), validate=True).partition(b":")[2]
        except binascii.Error:
            return b""
    return b""


def _route_of(scope: Scope) -> str:
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", ""))


class _Limited:
    """Limits the bytes of bodies, and the time that requests take."""

    def __init__(self, app: ASGIApp, limits: Limits) -> None:
        self._app = app
        self._limits = limits
        self._bytes = 0  # of all bodies under way

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        body = _Body(receive, self._limits, self._take)
        has_started = False

        async def send_on(message: Message) -> None:
            nonlocal has_started
            has_started = True
            await send(message)

        try:
            async with asyncio.timeout(self._limits.seconds) as clock:
                if error := body.refuse(Headers(scope=scope)):
                    await problem(error)(scope, receive, send)
                else:
                    await self._app(scope, body.receive, send_on)
        except TimeoutError:
            if not clock.expired():
                raise
            if not has_started:  # otherwise the server ends the connection, for the answer is not whole
                late = HttpError(504, f"a request may take {self._limits.seconds:g} seconds")
                await problem(late)(scope, receive, send)
        finally:
            self._bytes -= body.bytes

    def _take(self, count: int) -> bool:
        self._bytes += count
        return self._bytes <= self._limits.bytes_together


class _Body:
    """The body of a request, as it arrives."""

    def __init__(self, receive: Receive, limits: Limits, take: Callable[[int], bool]) -> None:
        self._receive = receive
        self._limits = limits
        self._take = take
        self._deadline = asyncio.get_running_loop().time() + limits.body_seconds
        self._is_whole = False
        self.bytes = 0

    def refuse(self, headers: Headers) -> HttpError | None:
        """Return why not even the first byte is read."""
        said = headers.get("content-length", "0")
        # The server has refused what is no number.
        return self._too_large() if int(said) > self._limits.body_bytes else None

    async def receive(self) -> Message:
        if self._is_whole:
            return await self._receive()
        try:
            async with asyncio.timeout_at(self._deadline):
                message = await self._receive()
        except TimeoutError as error:
            raise HttpError(
                408, f"the body of a request must arrive within {self._limits.body_seconds:g} seconds"
            ) from error
        count = len(message.get("body", b""))
        self.bytes += count
        has_room = self._take(count)
        if self.bytes > self._limits.body_bytes:
            raise self._too_large()
        if not has_room:
            raise HttpError(503, "too many bodies are arriving", headers={"Retry-After": "1"})
        self._is_whole = not message.get("more_body", False)  # or the client has gone, which the application sees
        return message

    def _too_large(self) -> HttpError:
        return HttpError(413, f"the body of a request may have {self._limits.body_bytes:,} bytes")
