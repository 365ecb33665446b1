"""What holds for Milvus alone; what holds for every server is tried in `test_servers`."""

import contextlib
import math
import os
import subprocess
import sys

import numpy as np
import pytest

from imgsearch.errors import MissingComponentError, ServerError, UsageError
from imgsearch.search.backends import milvus
from imgsearch.search.backends.pushed import Comparison
from search.backends import milvus_server

NAME = f"imgsearch_{1:016x}"


alone = pytest.mark.parametrize("server", [milvus_server.running], indirect=True, ids=["milvus"])


@pytest.mark.parametrize(
    "text", ['"', "\\", "' or id > 0 or '", 'a" or "" == "', "%_", "{x}", "\0", "\n", "🥾", "\udcff"]
)
def test_no_text_and_no_name_of_a_column_ends_its_literal(text):
    for each in (Comparison("path", "=", text), Comparison(text, "=", "a"), Comparison("path", "below", text)):
        said = milvus._expression([each])

        assert said.isascii()
        assert said.isprintable()
        assert len(said.split('"')) in {5, 13}  # no quotes but those around names and texts
        assert "or id" not in said


def test_numbers_that_milvus_could_take_for_others_are_left_out():
    left_out = [Comparison("a", "<", value) for value in (math.inf, -math.inf, math.nan, 2**53 + 2, -1e300)]

    assert milvus._expression(left_out) == ""
    said = milvus._expression([*left_out, Comparison("a", ">=", 2.0), Comparison("b", "=", -0.5)])
    assert said == 'fields["a"] >= 2 and fields["b"] == -0.5'


def test_texts_that_differ_stay_different_and_what_they_begin_with_stays():
    texts = ["a", "a/b", "a\x01", "a\x010001", "\udcff", "\x01dcff", "a\udcff/b"]
    stored = [milvus._value(text) for text in texts]

    assert len(set(stored)) == len(texts)
    for text, one in zip(texts, stored, strict=True):
        one.encode()
        assert [other.startswith(one) for other in stored] == [other.startswith(text) for other in texts]
    keys = [milvus._key(text) for text in ["price", "Price", "x_61", "a", "x_", "größe", "\udcff", ""]]
    assert len(set(keys)) == 8
    assert keys[0] == "price"


@pytest.mark.parametrize(
    "address",
    [
        "milvus://h",
        "milvus://h:1/a/b",
        "milvus://h:1/a;b",
        "milvus://h:1?x=1",
        "milvus+http://h:1",
        "milvus://:1",
        "h:1",
    ],
)
def test_another_address_is_a_usage_error(address):
    with pytest.raises(UsageError, match="HOST:PORT"):
        milvus.open_server(address, NAME, 8)


def test_without_pymilvus_an_error_says_what_to_install(monkeypatch):
    monkeypatch.delitem(sys.modules, "pymilvus", raising=False)
    monkeypatch.setitem(sys.modules, "dotenv", None)

    with pytest.raises(MissingComponentError) as caught:
        milvus.open_server("milvus://127.0.0.1:1", NAME, 8)

    assert "imgsearch-toolkit[milvus]" in caught.value.hint


@pytest.mark.servers
def test_files_called_env_set_nothing_and_nothing_is_printed(tmp_path):
    (tmp_path / ".env").write_text("MILVUS_URI=http://elsewhere:1\nPLANTED=1\n")
    script = """
import os
from imgsearch.errors import ServerError
from imgsearch.search.backends import milvus
try:
    milvus.open_server("milvus://127.0.0.1:1", "imgsearch_0000000000000001", 8)
except ServerError as error:
    assert "127.0.0.1:1" in error.message
    print("PLANTED" in os.environ, "MILVUS_URI" in os.environ)
"""
    variables = {name: value for name, value in os.environ.items() if not name.startswith("MILVUS")}

    # Of a program given by -c, python-dotenv looks into the working directory.
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, check=False, cwd=tmp_path, env=variables, capture_output=True, text=True)

    assert (done.returncode, done.stdout, done.stderr) == (0, "False False\n", "")


@alone
@pytest.mark.servers
def test_a_wrong_token_and_a_database_that_is_not_there_are_errors_that_show_no_token(server, monkeypatch):
    with pytest.raises(ServerError, match="nowhere"):
        milvus.open_server(f"{server.address}/nowhere", NAME, 8)

    monkeypatch.setenv("MILVUS_TOKEN", "root:hunter2")
    with pytest.raises(ServerError) as caught:
        milvus.open_server(server.address, NAME, 8)

    assert "hunter2" not in f"{caught.value.message} {caught.value.hint}"
    assert "MILVUS_TOKEN" in caught.value.hint


@alone
@pytest.mark.servers
def test_what_was_just_put_or_deleted_is_known_at_once(server):
    ids = np.arange(2000)
    with contextlib.closing(milvus.open_server(server.address, NAME, 64)) as one:
        for kept in (2000, 1000, 0):
            one.put(ids, np.eye(64, dtype=np.float32)[ids % 64], [{}] * len(ids))
            one.delete(ids[kept:])
            assert len(one.ids()) == kept
        one.drop()


@alone
@pytest.mark.servers
def test_a_full_put_of_long_vectors_fits_into_the_messages_of_the_server(server):
    vectors = np.zeros((4096, 1536), np.float32)
    vectors[:, 0] = 1
    long = {f"column_{number}": "ü" * 200 for number in range(150)}  # 62 KB
    fields = [long] * milvus._PUT_AT_ONCE + [{}] * (4096 - milvus._PUT_AT_ONCE)

    with contextlib.closing(milvus.open_server(server.address, NAME, 1536)) as one:
        one.put(np.arange(4096), vectors, fields)

        assert len(one.ids()) == 4096
        one.drop()
