"""The process that serves: its address, its connections, and how signals end it."""

import asyncio
import contextlib
import errno
import logging
import signal
import socket
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from imgsearch.errors import ResourceError, UsageError
from imgsearch.service.guards import places_of
from imgsearch.system import refusal_of, words_of

logger = logging.getLogger(__name__)

# Seconds until a connection has sent the whole head of a request, and until a client has taken some of its answer.
HEAD_SECONDS = 10.0
WRITE_SECONDS = 60.0
# What is neither the head of a request nor its body, such as a head without an end.
HEAD_BYTES = 65_536
# Of one request, and requests that a connection sends before the answer to the first: in one read of the system there
# may be thousands of both, and of each an object is made.
HEADERS = 100
PIPELINED = 16
# At once. Each may hold as much as the system reads in one go, before the guards see it.
CONNECTIONS = 512
# Seconds that requests under way have after a signal: as long as a request may take.
DRAIN_SECONDS = 60
KEEP_ALIVE_SECONDS = 5
# Connections that wait to be accepted, which are accepted in one go before anything else is done.
BACKLOG = 128

_ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def serve(
    app: ASGIApp, host: str, port: int, root_path: str, access_log: bool, say: Callable[[str], None]
) -> signal.Signals:
    """Serve until a signal comes, then finish the requests under way; a second signal ends the process at once.

    Args:
        app: The application.
        host: An address of this machine.
        port: The port; 0 for any that is free.
        root_path: Where a proxy shows the service, such as `/search`.
        access_log: Whether addresses and paths are logged, by `uvicorn.access`.
        say: Called once requests are answered, with the URL.

    Returns:
        The signal.

    Raises:
        UsageError: There is no such address here, or another program has it.
        ResourceError: The system does not let this user have the port.
    """
    started = _Started(app)
    with _listen(host, port) as listener:
        config = uvicorn.Config(
            started,
            loop="asyncio",
            http=_Connection,
            ws="none",
            lifespan="on",
            log_config=None,
            log_level="critical",  # the guards log what matters; what uvicorn logs may hold names of files
            access_log=access_log,
            server_header=False,
            root_path=root_path,
            backlog=BACKLOG,
            limit_concurrency=CONNECTIONS,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=DRAIN_SECONDS,
        )
        if access_log:
            accesses = logging.getLogger("uvicorn.access")
            accesses.handlers, accesses.propagate = logging.getLogger("imgsearch").handlers, False
            accesses.setLevel(logging.INFO)
        server = _Server(config, lambda: say(_url_of(listener)))
        try:
            server.run(sockets=[listener])
        except SystemExit:  # the application did not start
            if started.error is None:
                raise
            raise started.error from None
    return server.ended_by


def _listen(host: str, port: int) -> socket.socket:
    """Take an address before anything is loaded; who connects meanwhile waits."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address[:2], family=family, backlog=BACKLOG)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise UsageError(
                f"expected a free port, found another program at port {port} of {host}", hint="choose another: --port"
            ) from error
        if error.errno in (errno.EACCES, errno.EPERM):
            raise ResourceError(
                f"port {port} cannot be opened: {words_of(error)}",
                hint="ports below 1024 are for root: choose another with --port, and let a proxy have that one",
            ) from error
        if isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL:
            raise UsageError(f"expected an address of this machine for --host, found {host}") from error
        raise ResourceError(f"port {port} of {host} cannot be opened: {words_of(error)}") from error


def _url_of(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if listener.family == socket.AF_INET6 else f"http://{host}:{port}"


class _Started:
    """Keeps why an application did not start, for uvicorn would log it and say no more."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self.error: Exception | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            await self._app(scope, receive, send)
            return
        try:
            await self._app(scope, receive, send)
        except Exception as error:
            self.error = error
            raise


def _log_error(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Log what no request is there to answer for, such as a connection that cannot be accepted."""
    if error := context.get("exception"):
        refusal = refusal_of(error)
        logger.error("a connection: %s", refusal.message if refusal else " < ".join(places_of(error)))


class _Server(uvicorn.Server):
    """Ends by our signals: those of uvicorn would be raised again when it has ended."""

    def __init__(self, config: uvicorn.Config, is_ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._is_ready = is_ready
        self.ended_by = signal.SIGTERM

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        asyncio.get_running_loop().set_exception_handler(_log_error)
        await super().startup(sockets)
        self._is_ready()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        before = {number: signal.getsignal(number) for number in _ENDING}
        taken = [number for number in _ENDING if before[number] is not signal.SIG_IGN]  # nohup
        for number in taken:
            signal.signal(number, self.handle_exit)
        try:
            yield
        finally:
            for number in taken:
                signal.signal(number, before[number])

    def handle_exit(self, sig: int, _frame: FrameType | None) -> None:
        if self.should_exit:
            signal.signal(sig, signal.SIG_DFL)
            signal.raise_signal(sig)
        self.should_exit = True
        self.ended_by = signal.Signals(sig)


class _Connection(HttpToolsProtocol):
    """A connection with limits that uvicorn lacks: clients that send no head, or take no answer, are cut."""

    _head_timer: asyncio.TimerHandle | None = None
    _write_timer: asyncio.TimerHandle | None = None
    _loose_bytes = 0  # received since a head or a piece of a body was whole

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's
        super().connection_made(transport)
        # The system cuts who takes nothing; it also does that once a connection is closed and not yet empty.
        connection = transport.get_extra_info("socket")
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(1000 * WRITE_SECONDS))
        # asyncio leaves this out for connections of a listener made by socket.create_server, whose proto is 0: a body
        # would wait for the client to acknowledge its head, which takes it 40 ms.
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end_head()
        self._end_write()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        # What is left of a body whose request is answered is not read, and delays nothing.
        if self._head_timer is None and (self.cycle is None or self.cycle.response_complete):
            self._await_head()
        self._loose_bytes += len(data)
        super().data_received(data)
        if self._loose_bytes > HEAD_BYTES:
            self.transport.abort()

    def on_header(self, name: bytes, value: bytes) -> None:
        if len(self.headers) == HEADERS:
            raise ValueError(f"more than {HEADERS} headers")  # which ends the parser: status 400
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        if len(self.pipeline) == PIPELINED:
            self.transport.abort()
            raise ValueError(f"more than {PIPELINED} requests in a row")
        self._end_head()
        self._loose_bytes = 0
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._loose_bytes = 0
        super().on_body(body)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._write_timer = self.loop.call_later(WRITE_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._end_write()

    def _await_head(self) -> None:
        self._head_timer = self.loop.call_later(HEAD_SECONDS, self.transport.abort)

    def _end_head(self) -> None:
        if self._head_timer:
            self._head_timer.cancel()
            self._head_timer = None

    def _end_write(self) -> None:
        if self._write_timer:
            self._write_timer.cancel()
            self._write_timer = None
