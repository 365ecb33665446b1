"""Serves a small application as `imgsearch serve` does, in a process of its own: prints the URL, and what ended it."""

import sys
from pathlib import Path

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from imgsearch.cli.output import set_up_logging
from imgsearch.service.guards import guarded
from imgsearch.service.metrics import Metrics
from imgsearch.service.server import serve
from imgsearch.service.settings import Settings


async def count(request: Request) -> Response:
    return PlainTextResponse(str(len(await request.body())))


set_up_logging(quiet=False, verbose=True)
app = guarded(Starlette(routes=[Route("/count", count, methods=["POST"])]), Settings(Path("idx")), Metrics())
ended_by = serve(app, "127.0.0.1", 0, "", "--access-log" in sys.argv, lambda url: print(url, flush=True))  # noqa: T201
print(ended_by.name)  # noqa: T201
