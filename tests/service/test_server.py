"""The process that serves: connections on loopback, and signals to it."""

import asyncio
import contextlib
import errno
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvicorn
from uvicorn.server import ServerState

from imgsearch.errors import NoIndexError, ResourceError, UsageError
from imgsearch.service import server as library

PROGRAM = Path(__file__).with_name("serve_for_tests.py")


class Served:
    """A process that serves, and the address that it said."""

    def __init__(self, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, PROGRAM, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        self.url = self.process.stdout.readline().strip()

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", int(self.url.rpartition(":")[2])), timeout=60)

    def begin(self, size: int) -> socket.socket:
        """Begin a request with a body, and wait until it is being answered."""
        connection = self.connect()
        head = (
            f"POST /count?secret HTTP/1.1\r\nHost: localhost\r\nContent-Length: {size}\r\nExpect: 100-continue\r\n\r\n"
        )
        connection.sendall(head.encode())
        assert connection.recv(1000).startswith(b"HTTP/1.1 100 ")
        return connection

    def end(self, number: int) -> None:
        """Send a signal, and wait until connections on which nothing is asked are closed."""
        with self.connect() as idle:
            self.process.send_signal(number)
            assert idle.recv(1) == b""

    def wait(self) -> tuple[int, str, str]:
        written, errors = self.process.communicate(timeout=60)
        return self.process.returncode, written, errors


@pytest.fixture
def served(request) -> Iterator[Served]:
    found = Served(*getattr(request, "param", ()))
    yield found
    found.process.kill()
    found.process.communicate()


def read_all(connection: socket.socket) -> bytes:
    return b"".join(iter(lambda: connection.recv(65536), b""))


@pytest.mark.parametrize(
    ("served", "number"), [((), signal.SIGTERM), (("--access-log",), signal.SIGINT)], indirect=["served"]
)
def test_a_signal_lets_requests_under_way_finish_and_addresses_are_logged_on_demand(served, number):
    with served.begin(10) as connection:
        served.end(number)
        with pytest.raises(ConnectionRefusedError):
            served.connect()
        connection.sendall(b"x" * 10)
        answer = read_all(connection)
    code, written, errors = served.wait()

    assert answer.startswith(b"HTTP/1.1 200 ")
    assert answer.endswith(b"\r\n\r\n10")
    assert b"server:" not in answer
    assert (code, written) == (0, f"{number.name}\n")
    logged = re.sub(r"[0-9a-f]{16}|127\.0\.0\.1:\d+|\d+\.\d{3} s", "N", errors).splitlines()
    access = ['imgsearch: N - "POST /count?secret HTTP/1.1" 200'] if number == signal.SIGINT else []
    assert logged == [*access, "imgsearch: request N: POST /count 200 in N"]


def test_a_second_signal_ends_at_once(served):
    with served.begin(10):
        served.end(signal.SIGTERM)
        served.process.send_signal(signal.SIGTERM)

        assert served.wait()[0] == -signal.SIGTERM


async def nothing(scope, receive, send):
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body"})


def talk(client, app=nothing):
    """Run a client against connections of ours; what it returns."""

    async def run():
        config = uvicorn.Config(app, http=library._Connection, ws="none", lifespan="off", log_config=None)
        config.load()
        listening = await asyncio.get_running_loop().create_server(
            lambda: library._Connection(config, ServerState(), {}), "127.0.0.1", 0
        )
        async with listening:
            reader, writer = await asyncio.open_connection(*listening.sockets[0].getsockname())
            try:
                return await asyncio.wait_for(client(reader, writer), 60)
            finally:
                writer.close()
                with contextlib.suppress(ConnectionError):
                    await writer.wait_closed()

    return asyncio.run(run())


async def rest_of(reader) -> bytes:
    received = b""
    with contextlib.suppress(ConnectionError):
        while piece := await reader.read(65536):
            received += piece
    return received


HEAD = b"GET / HTTP/1.1\r\nHost: localhost\r\n"


def test_who_sends_no_whole_head_is_cut(monkeypatch):
    monkeypatch.setattr(library, "HEAD_SECONDS", 0.0)

    async def client(reader, writer):
        return await rest_of(reader)

    assert talk(client) == b""


def test_who_begins_another_head_and_goes_no_further_is_cut(monkeypatch):
    async def client(reader, writer):
        writer.write(HEAD + b"\r\n")
        answer = await reader.readuntil(b"\r\n\r\n")
        monkeypatch.setattr(library, "HEAD_SECONDS", 0.0)
        writer.write(HEAD)
        return answer, await rest_of(reader)

    answer, rest = talk(client)

    assert answer.startswith(b"HTTP/1.1 204 ")
    assert rest == b""


@pytest.mark.parametrize(
    "endless",
    [
        b"GET /" + b"a" * 1000,
        HEAD + b"X: " + b"a" * 1000,
        b"\r\n" * 500,
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\nX: " + b"a" * 1000,
    ],
    ids=["path", "header", "empty lines", "trailer"],
)
def test_a_head_without_an_end_takes_no_memory(endless):
    async def client(reader, writer):
        with contextlib.suppress(ConnectionError):
            writer.write(endless)
            while True:
                writer.write(endless[-2:] * 10_000)
                await writer.drain()
        return True

    assert talk(client)


def test_headers_and_requests_in_a_row_are_limited():
    async def stuck(scope, receive, send):
        await asyncio.Event().wait()

    def send(data):
        async def client(reader, writer):
            writer.write(data)
            return await rest_of(reader)

        return client

    assert talk(send(HEAD + b"X: y\r\n" * 99 + b"Connection: close\r\n\r\n")).startswith(b"HTTP/1.1 400 ")
    assert talk(send(HEAD + b"X: y\r\n" * 98 + b"Connection: close\r\n\r\n")).startswith(b"HTTP/1.1 204 ")
    assert talk(send((HEAD + b"\r\n") * 1000), stuck) == b""


def test_who_takes_no_answer_is_cut(monkeypatch):
    monkeypatch.setattr(library, "WRITE_SECONDS", 0.001)
    ended = asyncio.Event()

    async def endless(scope, receive, send):
        await receive()
        leaves = asyncio.ensure_future(receive())
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while not leaves.done():
            await send({"type": "http.response.body", "body": b"x" * 1_000_000, "more_body": True})
            await asyncio.sleep(0)
        assert leaves.result() == {"type": "http.disconnect"}
        ended.set()

    async def client(reader, writer):
        writer.write(HEAD + b"\r\n")
        return await ended.wait()

    assert talk(client, endless)


async def without_index(scope, receive, send):
    raise NoIndexError("there is no index")


def serve(app=without_index, host="127.0.0.1", port=0):
    return library.serve(app, host, port, "", access_log=False, say=lambda _: None)


def test_why_an_application_does_not_start_is_told():
    before = signal.getsignal(signal.SIGTERM)

    with pytest.raises(NoIndexError):
        serve()
    assert signal.getsignal(signal.SIGTERM) is before


def test_an_address_that_is_taken_or_not_of_this_machine_is_named():
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(UsageError, match=f"found another program at port {port} of 127.0.0.1"):
            serve(port=port)
    for host in ("192.0.2.1", "no such host"):
        with pytest.raises(UsageError, match="expected an address of this machine for --host"):
            serve(host=host)


def test_a_port_that_is_for_root_is_named(monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(socket, "create_server", refuse)

    with pytest.raises(ResourceError, match="port 80 cannot be opened: Permission denied"):
        serve(port=80)


def test_urls_have_brackets_around_addresses_of_ipv6():
    with library._listen("::1", 0) as listener:
        assert re.fullmatch(r"http://\[::1\]:\d+", library._url_of(listener))
