"""The service: which address does what."""

import asyncio
import contextlib
import json
import logging
import os
import re
import secrets
import threading
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import fields
from functools import partial
from importlib import resources
from typing import Any, BinaryIO, TypeVar
from urllib.parse import unquote_to_bytes

from starlette.applications import Starlette
from starlette.concurrency import iterate_in_threadpool
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp

from imgsearch._version import __version__
from imgsearch.encoders.classifier import Classifier
from imgsearch.errors import ImgsearchError, UsageError
from imgsearch.images.policy import FilePolicy
from imgsearch.images.steps import Steps
from imgsearch.images.workers.query_decoders import QueryDecoders
from imgsearch.personal.feedback import FEEDBACK_FILE, FeedbackStore
from imgsearch.processors import processor_count
from imgsearch.search.views import QueryImage
from imgsearch.service import answers, files, openapi
from imgsearch.service.bounded import Bounded
from imgsearch.service.guards import guarded
from imgsearch.service.metrics import Metrics
from imgsearch.service.opened import Generation, Published, Seen
from imgsearch.service.problems import HttpError, problem
from imgsearch.service.requests import (
    Asked,
    FeedbackRequest,
    RecognizeRequest,
    SearchRequest,
    SimilarRequest,
    parsed,
    read_form,
    read_json,
)
from imgsearch.service.settings import Settings
from imgsearch.service.stages import Stages
from imgsearch.service.work import Work
from imgsearch.system import refusal_of

logger = logging.getLogger(__name__)

Kind = TypeVar("Kind", bound=Asked)

# A new generation is seen within about this time, and that of opening it.
_REFRESH_SECONDS = 0.5

# Of answers that feedback can be given to: thousands, for each takes some kilobytes.
_REMEMBERED_BYTES = 64_000_000

# A request without an image is small, and to parse JSON takes many times as much memory as it has bytes.
_JSON_BYTES = 1_000_000

_THUMBNAILS_BYTES = 64_000_000

_SESSION = "[0-9a-f]{32}"

# The page's files, which belong to the program: nothing else is sent from its folder.
_PAGE = {
    "icon.svg": "image/svg+xml",
    "index.html": "text/html",
    "page.css": "text/css",
    "page.js": "text/javascript",
    "en.json": "application/json",
    "zh.json": "application/json",
}


def make_app(settings: Settings) -> ASGIApp:
    """Open an index, and return the service of it.

    Raises:
        NoIndexError, DamagedIndexError, ResourceError: The index cannot be opened.
        MissingComponentError, UsageError: The model cannot.
    """
    service = _Service(settings)
    routes = [
        Route("/search", service.search, methods=["POST"]),
        Route("/similar/{path:path}", service.similar, methods=["GET"]),
        Route("/recognize", service.recognize, methods=["POST"]),
        Route("/items/{path:path}/image", service.image, methods=["GET"]),
        Route("/items/{path:path}/thumbnail", service.thumbnail, methods=["GET"]),
        Route("/items/{path:path}", service.item, methods=["GET"]),
        Route("/index", service.index, methods=["GET"]),
        Route("/feedback", service.feedback, methods=["POST"]),
        Route("/feedback/session", service.forget, methods=["DELETE"]),
        Route("/healthz", service.health, methods=["GET"]),
        Route("/readyz", service.ready, methods=["GET"]),
        Route("/metrics", service.metrics, methods=["GET"]),
        Route("/openapi.json", service.openapi, methods=["GET"]),
        Route("/page/{name}", service.page, methods=["GET"]),
        Route("/", service.page, methods=["GET"]),
    ]
    handlers: dict[Any, Any] = dict.fromkeys((ImgsearchError, HTTPException, Exception), _on_error)
    app = Starlette(routes=routes, exception_handlers=handlers, lifespan=service.lifespan)
    return guarded(app, settings, service.counted)


async def _on_error(request: Request, error: Exception) -> Response:
    refusal = error if isinstance(error, ImgsearchError) else refusal_of(error)
    answer = problem(refusal or error)
    if answer.status_code >= 500 and refusal and not isinstance(refusal, HttpError):
        logger.error("request %s: %s", request.scope.get("request_id", ""), refusal)  # which strangers are not told
    return answer


def _json(data: object) -> Response:
    """Answer in JSON, in ASCII: a name may be no UTF-8."""
    return Response(json.dumps(data), media_type="application/json")


class _InMemory(MultiPartParser):
    """Never writes an upload to disk; the body's size is limited."""

    spool_max_size = 1 << 62


class _Service:
    """What requests share."""

    def __init__(self, settings: Settings) -> None:
        count = processor_count()
        self._settings = settings
        self.counted = Metrics()
        self._published = Published(
            settings.index,
            count,
            settings.fallback,
            lambda opened: self.counted.generation(opened.index.manifest.generation),
        )
        self._model = _open_model(settings, count)
        # Has Python's lock nearly all of the time, or NumPy's threads: in several of its own it would take longer.
        self._quick = Work(1, self.counted)
        # Images; half of the threads wait for a decoder, for the encoder, or for Python's lock.
        self._work = Work(2 * count, self.counted)
        # Conditions in SQL may take seconds: who sends one waits for others that do, and nobody else.
        self._conditions = Work(count, self.counted)
        self._thumbnails: Bounded[bytes, bytes] = Bounded(_THUMBNAILS_BYTES, len)
        self._seen: Bounded[str, Seen] = Bounded(_REMEMBERED_BYTES, lambda seen: seen.bytes)
        self._store: FeedbackStore | None = None
        self._store_lock = threading.Lock()
        self._is_ready = False

    @contextlib.asynccontextmanager
    async def lifespan(self, _: Starlette) -> AsyncIterator[None]:
        """Watch the index from start to end."""
        watch = asyncio.create_task(self._watch())
        try:
            yield
        finally:
            watch.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await watch
            await asyncio.to_thread(self._close)

    def _close(self) -> None:
        for work in (self._quick, self._work, self._conditions):
            work.close()
        self._published.close()
        if self._model is not None:
            self._model.close()
        if self._store is not None:
            self._store.close()

    async def _watch(self) -> None:
        while True:
            self._is_ready = self._is_ready or await asyncio.to_thread(self._published.warm)
            await asyncio.sleep(_REFRESH_SECONDS)
            # A newer generation answers only once it is warm.
            self._is_ready = await asyncio.to_thread(self._published.refresh) or self._is_ready

    async def search(self, request: Request) -> Response:
        """Answer an image, an item or words."""
        asked, image = await self._read(request, SearchRequest)
        return await self._answer(asked, image)

    async def similar(self, request: Request) -> Response:
        """Answer an item that a path names."""
        asked = read_form(SimilarRequest, request.query_params.multi_items())
        path = _path_in(request, "/similar/")
        search = SearchRequest(item=path, **{field.name: getattr(asked, field.name) for field in fields(asked)})
        return await self._answer(search, None, is_path=True)

    async def _answer(self, asked: SearchRequest, image: bytes | None, *, is_path: bool = False) -> Response:
        started = time.perf_counter()
        work = self._conditions if asked.where else self._quick if image is None else self._work
        body, is_cached = await work.run(partial(self._find, asked, image, is_path=is_path))
        self.counted.observe("total", time.perf_counter() - started)
        state = "imgsearch; hit" if is_cached else "imgsearch; fwd=miss"
        return Response(body, media_type="application/json", headers={"Cache-Status": state})

    def _find(self, asked: SearchRequest, image: bytes | None, *, is_path: bool) -> tuple[bytes, bool]:
        with self._published.current() as generation:
            if is_path:
                files.item_at(generation.index, asked.item)  # no product, nor a file of this machine
            stages, query = self._begin(generation, image)
            key = answers.key_of(generation.index, asked, query)
            found = generation.answers.get(key) if key else None
            self.counted.cache(hit=found is not None)
            is_cached = found is not None
            if found is None:
                refine = None
                if asked.feedback and (store := self._feedback()) is not None:
                    refine = generation.refine(store)
                found = answers.answer(generation, asked, query, stages, refine)
                if key:
                    generation.answers.put(key, found)
        name = secrets.token_hex(16)
        if found.seen:
            self._seen.put(name, found.seen)
        return answers.with_id(found, name), is_cached

    def _begin(self, generation: Generation, image: bytes | None) -> tuple[Stages, QueryImage | None]:
        """Return what times a request, and the image that was sent, which is decoded in a process of its own."""
        stages = Stages(generation.decoders, self.counted)
        if image is None:
            return stages, None
        return stages, QueryImage(image, generation.index.manifest.policy, decoders=stages)

    async def recognize(self, request: Request) -> Response:
        """Name what an image shows."""
        asked, image = await self._read(request, RecognizeRequest)

        def find() -> dict[str, Any]:
            with self._published.current() as generation:
                _, query = self._begin(generation, image)
                return answers.recognize(generation, asked, query, self._model)

        return _json(await (self._quick if image is None else self._work).run(find))

    async def item(self, request: Request) -> Response:
        """Say what the index has of an item."""
        path = _path_in(request, "/items/")

        def find() -> dict[str, Any]:
            with self._published.current() as generation:
                item, _ = files.item_at(generation.index, path)
            names = {"path": item.path, "product": item.product, "category": item.category}
            return {**names, "metadata": item.metadata, "url": answers.url_of(item.path)}

        return _json(await self._quick.run(find))

    async def image(self, request: Request) -> Response:
        """Send the image of an item."""
        path = _path_in(request, "/items/", "/image")
        known = request.headers.get("if-none-match", "")

        def find() -> tuple[str, tuple[BinaryIO, int, str] | None]:
            with self._published.current() as generation:
                item, sha256 = files.item_at(generation.index, path)
                tag = f'"{sha256.hex()}"'
                return tag, None if tag in known else files.open_image(generation.index, item, sha256)

        tag, opened = await self._work.run(find)
        headers = {"ETag": tag, "Cache-Control": "private, no-cache"}
        if opened is None:
            return Response(status_code=304, headers=headers)
        file, length, kind = opened
        headers["Content-Length"] = str(length)
        return StreamingResponse(iterate_in_threadpool(_pieces(file)), headers=headers, media_type=kind)

    async def thumbnail(self, request: Request) -> Response:
        """Send a small picture of an item."""
        path = _path_in(request, "/items/", "/thumbnail")
        known = request.headers.get("if-none-match", "")

        def find() -> tuple[str, bytes | None]:
            with self._published.current() as generation:
                item, sha256 = files.item_at(generation.index, path)
                tag = f'"{sha256.hex()}-small"'
                if tag in known:
                    return tag, None
                small = self._thumbnails.get(sha256)
                if small is None:
                    small = generation.decoders.thumbnail(files.read_image(generation.index, item, sha256))
                    self._thumbnails.put(sha256, small)
                return tag, small

        tag, small = await self._work.run(find)
        headers = {"ETag": tag, "Cache-Control": "private, no-cache"}
        if small is None:
            return Response(status_code=304, headers=headers)
        return Response(small, headers=headers, media_type="image/jpeg")

    async def index(self, _: Request) -> Response:
        """Say what a page needs to know of the index."""

        def find() -> dict[str, Any]:
            with self._published.current() as generation:
                facts = generation.facts()
            can_keep = os.access(self._settings.index, os.W_OK)
            return {**facts, "feedback": can_keep, "model": self._model is not None}

        return _json(await self._quick.run(find))

    async def feedback(self, request: Request) -> Response:
        """Keep what somebody says of a hit."""
        session = _session_of(request)
        asked, _ = await self._read(request, FeedbackRequest)
        seen = self._seen.get(asked.answer)
        if seen is None:
            raise HttpError(410, "this answer is not remembered any more", hint="ask again, and judge the new answer")

        def keep() -> None:
            with self._published.current() as generation:
                shown = answers.shown_of(seen, asked.answer, generation.index, asked.path)
            store = self._feedback(create=True)
            assert store is not None
            store.judge(shown, asked.path, asked.verdict, session)

        await self._work.run(keep)
        return Response(status_code=204)

    async def forget(self, request: Request) -> Response:
        """Delete what a session has said."""
        session = _session_of(request)

        def forget() -> int:
            store = self._feedback()
            return 0 if store is None else store.forget(session=session)

        return _json({"forgotten": await self._work.run(forget)})

    def _feedback(self, *, create: bool = False) -> FeedbackStore | None:
        """Open what feedback is kept in, once it is there, or is to be made."""
        with self._store_lock:
            if self._store is None and (create or os.path.lexists(self._settings.index / FEEDBACK_FILE)):
                self._store = FeedbackStore(self._settings.index)
            return self._store

    async def health(self, _: Request) -> Response:
        """Say that the process is alive."""
        return _json({"status": "ok"})

    async def ready(self, _: Request) -> Response:
        """Say whether the first answer need not wait for anything."""
        if not self._is_ready:
            raise HttpError(503, "the encoder is not ready yet", headers={"Retry-After": "1"})
        return _json({"status": "ok"})

    async def metrics(self, _: Request) -> Response:
        """Send figures for Prometheus."""
        return Response(self.counted.text(), media_type="text/plain; version=0.0.4")

    async def openapi(self, _: Request) -> Response:
        """Describe this API."""
        return _json(openapi.document(__version__, self._settings.root_path))

    async def page(self, request: Request) -> Response:
        """Send the page, or a file of it."""
        name = request.path_params.get("name", "index.html")
        if name not in _PAGE:
            raise HttpError(404, "no such page")
        content = (resources.files("imgsearch.service") / "page" / name).read_bytes()
        return Response(content, media_type=_PAGE[name], headers={"Cache-Control": "no-cache"})

    async def _read(self, request: Request, kind: type[Kind]) -> tuple[Kind, bytes | None]:
        """Read the body of a request: JSON, or a form that may hold an image."""
        started = time.perf_counter()
        media = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        image: bytes | None = None
        try:
            if media == "application/json":
                asked = read_json(kind, parsed(await _json_body(request)))
            elif media == "multipart/form-data":
                given, image = await _read_form(request)
                asked = read_form(kind, given, has_image=image is not None)
            else:
                raise HttpError(415, "expected multipart/form-data or application/json", hint="see /openapi.json")
        except ClientDisconnect as error:
            raise UsageError("the request was cut off") from error
        self.counted.observe("read", time.perf_counter() - started)
        return asked, image


async def _json_body(request: Request) -> bytes:
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > _JSON_BYTES:
            raise HttpError(413, f"a request in JSON may have {_JSON_BYTES:,} bytes", hint="send an image as a form")
    return bytes(body)


async def _read_form(request: Request) -> tuple[list[tuple[str, str]], bytes | None]:
    """Return the fields of a form, and the image in it, if there is one."""
    parser = _InMemory(request.headers, request.stream(), max_files=1, max_fields=100, max_part_size=100_000)
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise UsageError(f"the body is no form: {error.message}") from error
    given: list[tuple[str, str]] = []
    image: bytes | None = None
    for name, value in form.multi_items():
        if isinstance(value, UploadFile):
            if name != "image":
                raise UsageError(f"expected a file called image, found {name!r}")
            image = await value.read()
        elif name == "image":
            raise UsageError("expected image to be a file with a name", hint="for example curl -F image=@photo.jpg")
        else:
            given.append((name, value))
    await form.close()
    return given, image


def _path_in(request: Request, before: str, after: str = "") -> str:
    """Return the path of an item in an address, byte for byte as it is sent: a name may be no UTF-8."""
    raw = request.scope["raw_path"].removeprefix(request.scope.get("root_path", "").encode())
    if not (raw.startswith(before.encode()) and raw.endswith(after.encode())):
        raise HttpError(404, "no such address")
    return os.fsdecode(unquote_to_bytes(raw[len(before) : len(raw) - len(after)]))


def _session_of(request: Request) -> str:
    session = request.headers.get(openapi.SESSION_HEADER, "")
    if not re.fullmatch(_SESSION, session):
        raise UsageError(f"expected a header {openapi.SESSION_HEADER} of 32 hex digits", hint="any random ones")
    return session


def _pieces(file: BinaryIO) -> Iterator[bytes]:
    with file:
        while piece := file.read(1 << 16):
            yield piece


def _open_model(settings: Settings, decoders: int) -> answers.Model | None:
    if settings.model is None:
        return None
    classifier = Classifier.open(settings.model)
    spec = classifier.spec
    return answers.Model(
        classifier, QueryDecoders(decoders, FilePolicy(), spec.size, spec.fit, Steps.parse(spec.steps))
    )
