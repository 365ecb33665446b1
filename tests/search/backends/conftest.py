"""Servers that the tests of this folder share; a kind of server is a line of `SERVERS`.

It is a context manager that starts one, ends it whatever happens, and yields an object with

- `backend`: the module that talks to it, `address`, `port`, and `address_at(port)` of one that may not be there,
- `start()` and `stop()`, `kill()`, which ends it as a crash does, and `hanging()`, while it answers nobody.
"""

import pytest

from search.backends import milvus_server, postgresql_server

SERVERS = {"postgresql": postgresql_server.running, "milvus": milvus_server.running}


@pytest.fixture(scope="session", params=SERVERS.values(), ids=SERVERS)
def server(request):
    with request.param() as started:
        yield started
