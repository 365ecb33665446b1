"""Send requests over connections that are kept, from a process of its own: python benchmarks/load.py.

Standard input is a JSON object with the fields of `Load`; standard output, what came back: statuses, how many answers
came from the service's cache, seconds for all, milliseconds of each.
"""

import itertools
import json
import socket
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

_BOUNDARY = b"photo-of-a-customer"
_FAILED = "no answer"


@dataclass(frozen=True)
class Load:
    """What is sent.

    Attributes:
        port: Of the service, on this machine.
        clients: How many connections, each of which waits for an answer before it asks again.
        mix: What is asked for in turn: "search" a photo that was never sent before, "again" always the same photo, or
            an address.
        photos: JPEG files.
        count: How many requests, if it is not 0.
        seconds: For how long, otherwise.
        first: Number of the first photo, so that it differs from those of loads before.
    """

    port: int
    clients: int
    mix: list[str]
    photos: list[str]
    count: int = 0
    seconds: float = 0.0
    first: int = 0


def main(load: Load) -> dict[str, object]:
    """Send all; requests are shared out among the clients as they are ready for one."""
    photos = [Path(photo).read_bytes() for photo in load.photos]
    addresses = sum(each not in ("search", "again") for each in load.mix)
    assert addresses or photos
    numbers = iter(range(load.count)) if load.count else itertools.count()
    lock = threading.Lock()
    statuses: Counter[str] = Counter()
    latencies: list[float] = []
    cached = 0
    started = time.perf_counter()

    def work() -> None:
        nonlocal cached
        client = Client(load.port)
        while True:
            with lock:
                number = next(numbers, None)
            if number is None or (load.seconds and time.perf_counter() - started > load.seconds):
                return
            request = request_of(load, photos, number)
            begun = time.perf_counter()
            status, from_cache = client.ask(request)
            taken = time.perf_counter() - begun
            with lock:
                statuses[status] += 1
                cached += from_cache
                latencies.append(1000 * taken)

    threads = [threading.Thread(target=work) for _ in range(load.clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = time.perf_counter() - started
    return {"statuses": statuses, "cached": cached, "seconds": seconds, "latencies": latencies}


def request_of(load: Load, photos: list[bytes], number: int) -> bytes:
    """Return the bytes of a request."""
    what = load.mix[number % len(load.mix)]
    if what == "search":
        place = load.first + number
        return upload(unlike_others(photos[place % len(photos)], place))
    if what == "again":
        return upload(photos[0])
    return b"GET %s HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" % what.encode("ascii")


def unlike_others(photo: bytes, number: int) -> bytes:
    """Put a comment into a JPEG: a file that no cache knows, and that takes as long to decode."""
    comment = b"%016d" % number
    return photo[:2] + b"\xff\xfe" + (len(comment) + 2).to_bytes(2, "big") + comment + photo[2:]


def upload(photo: bytes) -> bytes:
    """Return the request of a search by a photo, as a browser sends it."""
    body = (
        b'--%s\r\nContent-Disposition: form-data; name="image"; filename="photo.jpg"\r\n'
        b"Content-Type: image/jpeg\r\n\r\n%s\r\n--%s--\r\n" % (_BOUNDARY, photo, _BOUNDARY)
    )
    head = (
        b"POST /search HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: multipart/form-data; boundary=%s\r\n"
        b"Content-Length: %d\r\n\r\n" % (_BOUNDARY, len(body))
    )
    return head + body


class Client:
    """A connection, made anew when it has failed: http.client would take as long as a fast answer."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._socket: socket.socket | None = None

    def ask(self, request: bytes) -> tuple[str, bool]:
        """Return the status, and whether the answer came from the cache."""
        try:
            if self._socket is None:
                self._socket = socket.create_connection(("127.0.0.1", self._port), timeout=60)
                self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._socket.sendall(request)
            head, body = b"", b""
            while not body:
                head += self._received()
                head, end, body = head.partition(b"\r\n\r\n")
                if end:
                    break
            lines = head.lower().split(b"\r\n")
            headers = dict(line.split(b": ", 1) for line in lines[1:])
            missing = int(headers[b"content-length"]) - len(body)
            while missing > 0:
                missing -= len(self._received())
        except OSError:
            self._close()
            return _FAILED, False
        if headers.get(b"connection") == b"close":
            self._close()
        return lines[0].split()[1].decode(), headers.get(b"cache-status") == b"imgsearch; hit"

    def _received(self) -> bytes:
        assert self._socket is not None
        data = self._socket.recv(1 << 16)
        if not data:
            raise ConnectionResetError
        return data

    def _close(self) -> None:
        if self._socket is not None:
            self._socket.close()
        self._socket = None


if __name__ == "__main__":
    json.dump(main(Load(**json.load(sys.stdin))), sys.stdout)
