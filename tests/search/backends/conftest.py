"""Servers that the tests of this folder share; a kind of server is a line of `SERVERS`.

It is a context manager that starts one, ends it whatever happens, and yields an object with

- `backend`: the module that talks to it, `address`, `port`, and `address_at(port)` of one that may not be there,
- `start()` and `stop()`, `kill()`, which ends it as a crash does, and `hanging()`, while it answers nobody.
"""

import pytest

from search.backends import milvus_server, postgresql_server

SERVERS = {"postgresql": postgresql_server.running, "milvus": milvus_server.running}

# What makes Milvus settle, or start, again and again, which takes seconds each time; those that use `work` do so, too.
_SLOW_WITH_MILVUS = (
    "test_a_collection_holds_what_a_dict_would",
    "test_a_server_that_is_down_is_an_error_that_names_it_and_says_what_to_do",
    "test_a_server_that_was_killed_and_started_again_answers_as_before",
)


def pytest_collection_modifyitems(items):
    for item in items:
        name, _, parameters = item.name.partition("[")
        if parameters.startswith("milvus") and (name in _SLOW_WITH_MILVUS or "work" in item.fixturenames):
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session", params=SERVERS.values(), ids=SERVERS)
def server(request):
    with request.param() as started:
        yield started
