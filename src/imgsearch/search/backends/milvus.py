"""Milvus: a collection for each index, in inverted lists of whole vectors (IVF_FLAT).

With a condition all lists are searched, which takes time for what matches only, and misses nothing. Milvus' graphs
(HNSW) find a bit faster what is asked for without a condition, but with one that a tenth of the items satisfy they
missed one in ten of the nearest, whatever the effort, and at times found none at all.
"""

import contextlib
import importlib
import logging
import math
import os
import re
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from imgsearch.encoders.runtime import Embeddings
from imgsearch.errors import MissingComponentError, ServerError, UsageError
from imgsearch.search.backends.protocol import Rows
from imgsearch.search.backends.pushed import Comparison
from imgsearch.search.backends.server import WITHOUT, one_line, require_collection_name

# Lists of each segment (512 MB of vectors); of small ones Milvus makes fewer.
_LISTS = 1024
# nprobe: how many of the lists are searched.
EFFORTS: Sequence[int] = (8, 11, 16, 23, 32, 45, 64, 91, 128, 181, 256, 362, 512, 724, _LISTS)

CONNECTING_SECONDS = 5
QUESTION_SECONDS = 30
# What takes longer in a large collection; that the server is there is asked every few seconds all the while.
LOADING_SECONDS = 600
INDEXING_SECONDS = 86_400
_INDEXED_YET_SECONDS = 0.1

_MOST_FOUND = 16_384  # which is all that Milvus answers with
# A message has 64 MB at most. An item has 4 bytes for each dimension, and at most 64 KB of fields.
_PUT_AT_ONCE = 500
_DELETED_AT_ONCE = 10_000
# Whole numbers up to here are the same number in floating point.
_LARGEST_EXACT = 2**53

_ADDRESS = re.compile(r"milvus(?P<tls>\+tls)?://(?P<host>[\w.-]+):(?P<port>\d{1,5})(?:/(?P<database>\w*))?", re.ASCII)
_EXPECTED = "milvus://HOST:PORT[/DB], or milvus+tls://HOST:PORT[/DB]"
_PLAIN_KEY = re.compile("(?!x_)[a-z_][a-z0-9_]*", re.ASCII)
_SIGNS = {"=": "==", "<": "<", "<=": "<=", ">": ">", ">=": ">="}

_DOWN = f"is it running, and a token in MILVUS_TOKEN if it wants one? {WITHOUT}"
_ANSWERED = f"see docs/servers.md and the server's log; {WITHOUT}"

_IMPORTING = threading.Lock()


def open_server(address: str, collection: str, dims: int) -> "MilvusServer":
    """Connect to a collection in Milvus, whether it is there yet or not.

    Args:
        address: `milvus://HOST:PORT[/DB]`, or `milvus+tls://` for a connection by TLS.
        collection: `imgsearch_` and 16 hexadecimal digits.
        dims: Of its vectors.

    Raises:
        ServerError: The server is down, slow, or does not let us in.
        MissingComponentError: pymilvus is not installed.
        UsageError: It is no address, or has a password in it.
    """
    require_collection_name(collection)
    parts = _ADDRESS.fullmatch(address)
    if parts is None:
        # Which is not shown: whatever is in it may be a secret.
        raise UsageError(
            f"expected an address such as {_EXPECTED}, found another",
            hint="NAME:PASSWORD, or a token, belongs into MILVUS_TOKEN",
        )
    place = f"{parts['host']}:{parts['port']}"
    with _answers(f"Milvus at {address}"):
        client = _import_client()(
            uri=f"{'https' if parts['tls'] else 'http'}://{place}",
            db_name=parts["database"] or "",
            token=os.environ.get("MILVUS_TOKEN", ""),
            timeout=CONNECTING_SECONDS,
            dedicated=True,  # a connection that is shared is known by its address alone, and never closed
            grpc_options={"grpc.use_local_subchannel_pool": 1},  # otherwise what failed a moment ago is not tried again
        )
    server = MilvusServer(client, f"Milvus at {address}", collection, dims)
    try:
        server.require_database()
    except ServerError:
        server.close()
        raise
    return server


class MilvusServer:
    """A collection; see `VectorServer`."""

    def __init__(self, client: Any, where: str, collection: str, dims: int) -> None:
        self._client = client
        self._where = where
        self._name = collection
        self._dims = dims

    def require_database(self) -> None:
        """Raise `ServerError` if there is no such database, or we may not use it."""
        with _answers(self._where):  # asked for a collection it would say that there is none
            self._client.list_collections(timeout=QUESTION_SECONDS)

    def ids(self) -> Rows:
        if not self._is_usable():
            return np.empty(0, np.int64)
        with _answers(self._where):
            # Somebody may have released it, and only what is loaded can be asked.
            self._client.load_collection(self._name, timeout=LOADING_SECONDS)
            self._catch_up()
            pages = self._client.query_iterator(
                self._name,
                batch_size=_MOST_FOUND,
                filter="id >= 0",  # all but 2**63 - 1, which it never lists: if an item has it, that is put again
                output_fields=["id"],
                timeout=QUESTION_SECONDS,  # to ask for a consistency has no effect here
            )
            try:
                found = [[row["id"] for row in page] for page in iter(pages.next, [])]
            finally:
                pages.close()
        return np.unique(np.fromiter((each for page in found for each in page), np.int64))

    def put(self, ids: Rows, vectors: Embeddings, fields: Sequence[Mapping[str, str | int | float]]) -> None:
        if not self._is_usable():
            self._make()
        rows = [
            {"id": each, "vector": vector, "fields": {_key(key): _value(value) for key, value in values.items()}}
            for each, vector, values in zip(ids.tolist(), vectors, fields, strict=True)
        ]
        with _answers(self._where):
            for first in range(0, len(rows), _PUT_AT_ONCE):
                self._client.upsert(self._name, rows[first : first + _PUT_AT_ONCE], timeout=QUESTION_SECONDS)

    def settle(self) -> None:
        if not self._is_usable():
            return
        with _answers(self._where):
            self._client.flush(self._name, timeout=LOADING_SECONDS)
            self._wait_for_index()
            if self._is_loaded():
                # Until this is done, what was put is searched by a makeshift index, which misses one in ten.
                self._client.refresh_load(self._name, timeout=LOADING_SECONDS)
            else:
                self._client.load_collection(self._name, timeout=LOADING_SECONDS)
            self._catch_up()

    def delete(self, ids: Rows) -> None:
        if not self._is_usable():
            return
        with _answers(self._where):
            for first in range(0, len(ids), _DELETED_AT_ONCE):
                some = ids[first : first + _DELETED_AT_ONCE].tolist()
                self._client.delete(self._name, ids=some, timeout=QUESTION_SECONDS)

    def drop(self) -> None:
        with _answers(self._where):
            self._client.drop_collection(self._name, timeout=QUESTION_SECONDS)

    def nearest(self, vector: Embeddings, k: int, effort: int, where: Sequence[Comparison]) -> Rows:
        expression = _expression(where)
        with _answers(self._where):
            (hits,) = self._client.search(
                self._name,
                [vector],
                filter=expression,
                limit=min(k, _MOST_FOUND),
                search_params={
                    "metric_type": "IP",
                    "params": {"nprobe": _LISTS if expression else min(effort, _LISTS)},
                },
                output_fields=[],
                # With Strong each search waits for a tick of the server's clock, 200 ms; see `settle`.
                consistency_level="Bounded",
                timeout=QUESTION_SECONDS,
            )
        return np.asarray([hit["id"] for hit in hits], np.int64)

    def close(self) -> None:
        self._client.close()

    def _is_usable(self) -> bool:
        """Return whether there is a collection; raise `ServerError` if it is of other vectors."""
        with _answers(self._where):
            if not self._client.has_collection(self._name, timeout=QUESTION_SECONDS):
                return False
            found = self._client.describe_collection(self._name, timeout=QUESTION_SECONDS)["fields"]
        dims = next((each["params"].get("dim") for each in found if each["name"] == "vector"), None)
        if dims != self._dims:
            raise ServerError(
                f"{self._where} has a collection {self._name} of {dims} dimensions, expected {self._dims}",
                hint="if no other index needs it, delete it there, and run imgsearch build-index again",
            )
        return True

    def _make(self) -> None:
        from pymilvus import DataType

        schema = self._client.create_schema(auto_id=False, enable_dynamic_field=False)
        schema.add_field("id", DataType.INT64, is_primary=True)
        schema.add_field("vector", DataType.FLOAT_VECTOR, dim=self._dims)
        schema.add_field("fields", DataType.JSON)
        index = self._client.prepare_index_params()
        index.add_index(
            "vector", index_type="IVF_FLAT", index_name="vector", metric_type="IP", params={"nlist": _LISTS}
        )
        with _answers(self._where):
            # With the index it would be loaded at once, and indexed as it is filled, each time in a makeshift way.
            self._client.create_collection(self._name, schema=schema, timeout=QUESTION_SECONDS)
            self._client.create_index(self._name, index, timeout=QUESTION_SECONDS, sync=False)

    def _catch_up(self) -> None:
        """Wait for those that answer, who may be behind by some seconds: whoever has answered this is not."""
        self._client.query(self._name, output_fields=["count(*)"], consistency_level="Strong", timeout=QUESTION_SECONDS)

    def _is_loaded(self) -> bool:
        return "Loaded" in str(self._client.get_load_state(self._name, timeout=QUESTION_SECONDS)["state"])

    def _wait_for_index(self) -> None:
        end = time.monotonic() + INDEXING_SECONDS
        while True:
            index = self._client.describe_index(self._name, "vector", timeout=QUESTION_SECONDS)
            if index["state"] == "Failed":
                raise ServerError(f"{self._where} could not index {self._name}", hint=_ANSWERED)
            if not index["pending_index_rows"]:
                return
            if time.monotonic() > end:
                raise ServerError(f"{self._where} did not index {self._name} in a day", hint=_ANSWERED)
            time.sleep(_INDEXED_YET_SECONDS)


@contextlib.contextmanager
def _answers(where: str) -> Iterator[None]:
    """Turn errors of pymilvus, and of gRPC below it, into our own."""
    _import_client()
    from grpc import FutureTimeoutError, RpcError, StatusCode
    from pymilvus.exceptions import ErrorCode, MilvusException

    start = time.monotonic()
    try:
        yield
    except MilvusException as error:
        if error.code == ErrorCode.COLLECTION_NOT_FOUND:
            hint = f"build-index puts it there again; {WITHOUT}"
            raise ServerError(f"{where} has no such collection: {_one_line(error)}", hint=hint) from error
        raise ServerError(f"{where} cannot be asked: {_one_line(error)}", hint=_DOWN) from error
    except (RpcError, FutureTimeoutError) as error:
        reason = f"cannot be asked: {_one_line(error)}"
        if isinstance(error, FutureTimeoutError) or error.code() is StatusCode.DEADLINE_EXCEEDED:
            reason = f"did not answer in {time.monotonic() - start:.0f} s"
        raise ServerError(f"{where} {reason}", hint=_DOWN) from error


def _import_client() -> Any:
    """Import pymilvus, without the settings it would take from files called `.env`, and without its messages."""
    with _IMPORTING:
        if "pymilvus" not in sys.modules:
            os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # so says gRPC, of certificates
            try:
                import dotenv

                read = dotenv.load_dotenv
                dotenv.load_dotenv = lambda *_, **__: False
                try:
                    importlib.import_module("pymilvus")
                finally:
                    dotenv.load_dotenv = read
            except ImportError as error:
                raise MissingComponentError(
                    f"an index in Milvus needs a library that cannot be imported: {error}",
                    hint=f"pip install 'imgsearch-toolkit[milvus]'; {WITHOUT}",
                ) from error
            # What it says on standard error, it raises as well.
            for name in ("pymilvus", "pymilvus.milvus_client", "pymilvus.bulk_writer"):
                logging.getLogger(name).handlers[:] = [logging.NullHandler()]
        from pymilvus import MilvusClient
    return MilvusClient


def _expression(where: Sequence[Comparison]) -> str:
    """Return comparisons as Milvus reads them, but for those that it may take for others."""
    return " and ".join(_said(each) for each in where if isinstance(each.value, str) or _is_exact(each.value))


def _said(comparison: Comparison) -> str:
    field, value = f'fields["{_key(comparison.field)}"]', _value(comparison.value)
    if not isinstance(value, str):
        number = int(value) if value == int(value) else value  # with a whole number Milvus compares whole ones exactly
        return f"{field} {_SIGNS[comparison.sign]} {number!r}"
    if comparison.sign == "below":
        # Texts are in the order of their bytes, and 0 comes after /. In a pattern (`like`) % and _ have a meaning.
        return (
            f"({field} == {_quoted(value)} or ({field} >= {_quoted(f'{value}/')} and {field} < {_quoted(f'{value}0')}))"
        )
    return f"{field} == {_quoted(value)}"


def _is_exact(number: float) -> bool:
    return math.isfinite(number) and abs(number) <= _LARGEST_EXACT


def _quoted(text: str) -> str:
    """Return a literal; what is not a letter or a digit of ASCII is written as its number, so nothing ends it."""
    return '"' + re.sub("[^a-zA-Z0-9]", lambda found: f"\\U{ord(found[0]):08x}", text) + '"'


def _key(name: str) -> str:
    """Return what a field is called in the collection: the name, or its bytes if Milvus could not read it there."""
    return name if _PLAIN_KEY.fullmatch(name) else f"x_{name.encode('utf-8', 'surrogatepass').hex()}"


def _value(value: str | float) -> str | float:
    """Return a value as JSON has it; other texts, and what texts begin with, stay other."""
    if isinstance(value, str):
        return re.sub("[\x01\ud800-\udfff]", lambda found: f"\x01{ord(found[0]):04x}", value)
    if math.isinf(value):  # it is only compared with what is far less
        return math.copysign(sys.float_info.max, value)
    return value


def _one_line(error: Exception) -> str:
    details = getattr(error, "details", None)  # of gRPC
    text = details() if callable(details) else getattr(error, "message", error)
    return one_line(text)
