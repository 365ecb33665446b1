"""A served index: the application in this process, and a catalog with names that are hostile."""

import contextlib
import csv
import http.client
import json
import os
import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from functools import partialmethod
from json import dumps
from pathlib import Path
from typing import NamedTuple

import cv2
import pytest
import uvicorn
from urllib3 import encode_multipart_formdata

from imgsearch import build_index
from imgsearch.images.decode import decode_image
from imgsearch.service.app import make_app
from imgsearch.service.settings import Settings

# What is in the catalog beside drawn products.
SCRIPT = "<img src=x onerror=alert(1)>.png"
NOT_UTF8 = os.fsdecode(b"caf\xe9.png")
ODD_NAMES = (SCRIPT, NOT_UTF8, "100% #1?.png", "image", "\u5973\u4eba.png")


@pytest.fixture(scope="session")
def shop(shared, drawn) -> Path:
    """A folder with a catalog, its data and an index of handcrafted vectors. Not to be changed: copy it."""

    def fill(folder: Path) -> None:
        catalog = Path(shutil.copytree(drawn, folder / "catalog"))
        files = sorted(catalog.rglob("*.png"))
        odd = catalog / "odd"
        odd.mkdir()
        for number, name in enumerate(ODD_NAMES):
            if name != "image":
                shutil.copy(files[number], odd / name)
                with (odd / name).open("ab") as file:
                    file.write(bytes([number]))  # other bytes, the same pixels
        with (folder / "products.csv").open("w", newline="", encoding="utf-8") as file:
            rows = csv.writer(file)
            rows.writerow(["path", "title", "price"])
            for number, path in enumerate(sorted(set(catalog.rglob("*.png")) - {odd / NOT_UTF8})):
                title = "<b>hostile</b> & co" if path.name == SCRIPT else f"{path.parent.name} {path.stem}"
                rows.writerow([path.relative_to(catalog).as_posix(), title, 10 + number])
        build_index(
            catalog, folder / "index", backbone="handcrafted", backend="exact", metadata=folder / "products.csv"
        )

    return shared("shop", fill)


@pytest.fixture
def own_shop(shop, tmp_path) -> Path:
    """A copy of `shop` that a test may change, built again so that it names its own catalog."""
    folder = Path(shutil.copytree(shop, tmp_path / "shop"))
    build_index(folder / "catalog", folder / "index", metadata=folder / "products.csv")
    return folder


class Answer(NamedTuple):
    """What the service answered."""

    status_code: int
    headers: dict[str, str]  # names in lower case
    content: bytes

    @property
    def text(self) -> str:
        return self.content.decode("utf-8", "replace")

    def json(self):
        return json.loads(self.content)


class Client:
    """Asks a server on loopback; addresses are sent as they are, also those that a library would mend."""

    def __init__(self, port: int) -> None:
        self.port = port

    def request(self, method: str, path: str, *, json=None, data=(), files=None, headers=()) -> Answer:
        body, kind = None, {}
        if files is not None:
            fields = {
                name: value if isinstance(value, str) else str(value).lower() for name, value in dict(data).items()
            }
            body, media = encode_multipart_formdata({**fields, **files})
            kind = {"Content-Type": media}
        elif json is not None:
            body, kind = dumps(json), {"Content-Type": "application/json"}
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)) as connection:
            connection.request(method, path, body, {**kind, **dict(headers)})
            response = connection.getresponse()
            found = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, found, response.read())

    get = partialmethod(request, "GET")
    post = partialmethod(request, "POST")
    delete = partialmethod(request, "DELETE")


@contextlib.contextmanager
def running(app) -> Iterator[Client]:
    """Serve an application in a thread."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="on", ws="none"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        client = Client(listener.getsockname()[1])
        try:
            while client.get("/readyz").status_code == 503:
                pass
            yield client
        finally:
            server.should_exit = True
            thread.join()


@pytest.fixture(scope="session", name="running")
def running_fixture() -> Callable[..., contextlib.AbstractContextManager[Client]]:
    """Serve an application in a thread: with running(app) as client."""
    return running


@pytest.fixture(scope="session")
def client(shop) -> Iterator[Client]:
    """A client of the service of `shop`, which no test changes."""
    with running(make_app(Settings(shop / "index"))) as opened:
        yield opened


@pytest.fixture
def serve() -> Iterator[Callable[..., Client]]:
    """Serve the index of a folder in a thread: serve(folder, token="...") is a client."""
    with contextlib.ExitStack() as opened:
        yield lambda folder, **settings: opened.enter_context(running(make_app(Settings(folder / "index", **settings))))


@pytest.fixture(scope="session")
def client_of() -> type[Client]:
    """Make a client of the server at a port of this machine."""
    return Client


@pytest.fixture(scope="session")
def jpeg(shop) -> bytes:
    """A photo of the first product, which is not in the index."""
    image = decode_image(min((shop / "catalog").rglob("*.png")).read_bytes()).pixels[:, :, ::-1]
    return cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes()
