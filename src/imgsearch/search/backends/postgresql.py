"""PostgreSQL with pgvector: a table for each index, searched by a graph (HNSW) or, where few items match, row by row.

A table has B-tree indexes of the values of `fields`, of numbers and of texts apart, so that a search with conditions
counts what matches, as far as `_COMPARED`, and takes the faster of the two ways; the graph alone misses what a rare
condition asks for.
"""

import contextlib
import hashlib
import json
import logging
import os
import re
import struct
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, LiteralString, TypeVar

import numpy as np

from imgsearch.encoders.runtime import Embeddings
from imgsearch.errors import MissingComponentError, ServerError, UsageError
from imgsearch.search.backends.protocol import Rows
from imgsearch.search.backends.pushed import Comparison
from imgsearch.search.backends.server import WITHOUT, one_line, require_collection_name

if TYPE_CHECKING:
    from psycopg import Connection, Cursor
    from psycopg.sql import Composable, Composed

# hnsw.ef_search: how many of the nearest a search of the graph keeps in view; pgvector takes no more than 1,000.
EFFORTS: Sequence[int] = (10, 14, 20, 28, 40, 57, 80, 113, 160, 226, 320, 453, 640, 905, 1000)

CONNECTING_SECONDS = 5
QUESTION_SECONDS = 30
# A put of 4,096 vectors into a graph; the graph of a whole collection.
LOADING_SECONDS = 600
INDEXING_SECONDS = 86_400

# So many matching items are compared one by one in the time that the graph takes to come across enough of them.
_COMPARED = 5000
# As many as items.sqlite has; each takes time whenever an item is put.
_MOST_INDEXES = 32
_MOST_DIMS = 2000  # of a graph of pgvector
# With pgvector's own 64 a graph is made in a third of the time, and needs eight times the effort for the same recall.
_GRAPH: LiteralString = "WITH (ef_construction = 200)"
_BYTES_OF_LINKS = 800  # of an item, while a graph is made
_MOST_MEMORY = 1 << 30  # for making a graph, where the server's own setting is not more
_DELETED_AT_ONCE = 10_000

_LEAST_VERSION = (0, 8)  # which searches a graph on until enough is found
_COPY_HEADER = b"PGCOPY\n\xff\r\n\0" + bytes(8)
_COPY_END = b"\xff\xff"
_COPIED_ID = np.dtype([("columns", ">i2"), ("size", ">i4"), ("id", ">i8")])

_SILENT = logging.NullHandler()  # what psycopg warns of, it raises too
# With the last one libpq would write secrets, to a file that the manifest of any index could name.
_SECRETS = ("password", "sslpassword", "oauth_client_secret", "sslkeylogfile")
_DOWN = f"is it running, and the password in PGPASSWORD or ~/.pgpass? {WITHOUT}"
_ANSWERED = f"see docs/servers.md and the server's log; {WITHOUT}"

R = TypeVar("R")


def open_server(address: str, collection: str, dims: int) -> "PostgresServer":
    """Connect to a database for a collection, which need not be there yet.

    Args:
        address: `postgresql://[USER@]HOST[:PORT]/DB`, or another that libpq knows; without a password.
        collection: `imgsearch_` and 16 hexadecimal digits.
        dims: Of its vectors.

    Raises:
        ServerError: The server is down, slow, or lacks pgvector.
        MissingComponentError: psycopg is not installed.
        UsageError: It is no address, or has a password in it.
    """
    require_collection_name(collection)
    server = PostgresServer(_parameters(address), collection, dims)
    try:
        server.require_pgvector()
    except ServerError:
        server.close()
        raise
    return server


class PostgresServer:
    """A table in a database; see `VectorServer`. Threads that ask at the same time have a connection each."""

    def __init__(self, parameters: Mapping[str, Any], collection: str, dims: int) -> None:
        self._parameters = parameters
        self._name = collection
        self._dims = dims
        self._idle: list[Connection] = []
        self._lock = threading.Lock()

    def require_pgvector(self) -> None:
        """Connect, and raise `ServerError` if the database has no pgvector that will do."""

        def ask(connection: "Connection") -> tuple[str | None, str]:
            version, encoding = _row(
                connection.execute(
                    "SELECT (SELECT extversion FROM pg_extension WHERE extname = 'vector'),"
                    " current_setting('server_encoding')"
                )
            )
            return version, encoding

        version, encoding = self._run(ask, QUESTION_SECONDS)
        if version is None:
            raise ServerError(
                f"{self._where} has no extension vector",
                hint="install pgvector 0.8 or newer; then its administrator runs there: CREATE EXTENSION vector",
            )
        if tuple(map(int, re.findall(r"\d+", version)[:2])) < _LEAST_VERSION:
            raise ServerError(
                f"{self._where} has pgvector {version}, expected 0.8 or newer",
                hint="install a newer one; then its administrator runs there: ALTER EXTENSION vector UPDATE",
            )
        if encoding != "UTF8":
            raise ServerError(
                f"{self._where} stores text in {encoding}, expected UTF8",
                hint="make another database: createdb --encoding UTF8 --template template0 NAME",
            )

    def ids(self) -> Rows:
        def ask(connection: "Connection") -> Rows:
            if not self._is_there(connection):
                return np.empty(0, np.int64)
            with connection.cursor().copy(self._sql("COPY (SELECT id FROM {table}) TO STDOUT (FORMAT BINARY)")) as copy:
                copied = b"".join(copy)
            rows = np.frombuffer(copied[len(_COPY_HEADER) : -len(_COPY_END)], _COPIED_ID)
            return rows["id"].astype(np.int64)

        return self._run(ask, LOADING_SECONDS)

    def put(self, ids: Rows, vectors: Embeddings, fields: Sequence[Mapping[str, str | int | float]]) -> None:
        def ask(connection: "Connection") -> None:
            columns = "(id bigint PRIMARY KEY, vector vector({dims}) NOT NULL, fields jsonb NOT NULL)"
            connection.execute(self._sql("CREATE TABLE IF NOT EXISTS {table} " + columns))
            connection.execute(self._sql("DELETE FROM {table} WHERE id = ANY(%s)"), (ids.tolist(),))
            with connection.cursor().copy(self._sql("COPY {table} FROM STDIN (FORMAT BINARY)")) as copy:
                copy.write(_COPY_HEADER)
                for row in _rows(ids, vectors, fields):
                    copy.write(row)
                copy.write(_COPY_END)
            self._index_values(connection, fields)

        self._run(ask, LOADING_SECONDS)

    def settle(self) -> None:
        def ask(connection: "Connection") -> None:
            if not self._is_there(connection):
                return
            graph = f"{self._name}_graph"
            if self._dims <= _MOST_DIMS and graph not in self._indexes(connection):
                (count,) = _row(connection.execute(self._sql("SELECT count(*) FROM {table}")))
                needed = min(count * (4 * self._dims + _BYTES_OF_LINKS), _MOST_MEMORY)
                connection.execute(
                    "SELECT set_config('maintenance_work_mem', %(kilobytes)s || 'kB', true)"
                    " WHERE pg_size_bytes(current_setting('maintenance_work_mem')) < 1024 * %(kilobytes)s::bigint",
                    {"kilobytes": str(needed >> 10)},
                )
                made = "CREATE INDEX {name} ON {table} USING hnsw (vector vector_ip_ops) " + _GRAPH
                connection.execute(self._sql(made, name=_identifier(graph)))
            connection.execute(self._sql("ANALYZE {table}"))

        self._run(ask, INDEXING_SECONDS)

    def delete(self, ids: Rows) -> None:
        def ask(connection: "Connection") -> None:
            if self._is_there(connection):
                for first in range(0, len(ids), _DELETED_AT_ONCE):
                    some = ids[first : first + _DELETED_AT_ONCE].tolist()
                    connection.execute(self._sql("DELETE FROM {table} WHERE id = ANY(%s)"), (some,))

        self._run(ask, LOADING_SECONDS)

    def drop(self) -> None:
        def ask(connection: "Connection") -> None:
            connection.execute(self._sql("DROP TABLE IF EXISTS {table}"))

        self._run(ask, LOADING_SECONDS)

    def nearest(self, vector: Embeddings, k: int, effort: int, where: Sequence[Comparison]) -> Rows:
        holds, parameters = _conditions(where)
        parameters |= {"vector": f"[{','.join(map(str, vector.tolist()))}]", "k": k, "most": _COMPARED + 1}
        # The graph is searched on until k are found. It would not be used where a condition is taken for rare.
        settings = {"effort": str(min(max(effort, k), EFFORTS[-1])), "sort": "off" if where else "on"}

        def ask(connection: "Connection") -> list[int]:
            few = False
            if where:
                counted = "SELECT count(*) FROM (SELECT FROM {table} WHERE {holds} LIMIT %(most)s) AS matching"
                (count,) = _row(connection.execute(self._sql(counted, holds=holds), parameters))
                few = count <= _COMPARED
            if not few:
                connection.execute(
                    "SELECT set_config('hnsw.ef_search', %(effort)s, true), set_config('enable_sort', %(sort)s, true),"
                    " set_config('hnsw.iterative_scan', 'relaxed_order', true)",
                    settings,
                )
                by_graph = "SELECT id FROM {table} WHERE {holds} ORDER BY vector <#> %(vector)s::vector LIMIT %(k)s"
                found = connection.execute(self._sql(by_graph, holds=holds), parameters).fetchall()
                if len(found) == k:
                    return [row for (row,) in found]
            # A sum is nothing that the graph is sorted by.
            one_by_one = "SELECT id FROM {table} WHERE {holds} ORDER BY 0 + (vector <#> %(vector)s::vector) LIMIT %(k)s"
            return [row for (row,) in connection.execute(self._sql(one_by_one, holds=holds), parameters)]

        return np.asarray(self._run(ask, QUESTION_SECONDS, pipelined=True), np.int64)

    def close(self) -> None:
        with self._lock:
            while self._idle:
                self._idle.pop().close()

    @property
    def _where(self) -> str:
        shown = ("service", "host", "hostaddr", "port", "dbname")
        return " ".join(
            ["PostgreSQL at", *(f"{name}={self._parameters[name]}" for name in shown if name in self._parameters)]
        )

    def _sql(self, text: LiteralString, **parts: "Composable") -> "Composed":
        from psycopg.sql import SQL, Literal

        return SQL(text).format(table=_identifier(self._name), dims=Literal(self._dims), **parts)

    def _is_there(self, connection: "Connection") -> bool:
        (found,) = _row(connection.execute("SELECT to_regclass(%s) IS NOT NULL", (self._name,)))
        return bool(found)

    def _indexes(self, connection: "Connection") -> set[str]:
        found = connection.execute(
            "SELECT relname FROM pg_index JOIN pg_class ON oid = indexrelid WHERE indrelid = to_regclass(%s)",
            (self._name,),
        )
        return {name for (name,) in found}

    def _index_values(self, connection: "Connection", fields: Iterable[Mapping[str, object]]) -> None:
        """Make the B-trees for what is put for the first time, and let the planner know how often each value is."""
        from psycopg.sql import Literal

        there = self._indexes(connection)
        found = {(key, isinstance(value, str)): None for each in fields for key, value in each.items()}
        for key, is_text in found:
            name = f"{self._name}_{hashlib.sha256(f'{is_text}{key}'.encode()).hexdigest()[:16]}"
            if name in there or len(there) >= _MOST_INDEXES:
                continue
            there.add(name)
            for suffix, made in (_OF_TEXTS if is_text else _OF_NUMBERS).items():
                connection.execute(self._sql(made, name=_identifier(name + suffix), key=Literal(key)))

    def _run(self, ask: "Callable[[Connection], R]", seconds: float, *, pipelined: bool = False) -> R:
        """Ask in a transaction; once more if the server was started again since it was asked last."""
        import psycopg

        while True:
            connection, is_new = self._take()
            try:
                answer = self._ask(connection, ask, seconds, pipelined=pipelined, is_new=is_new)
            except psycopg.Error:
                self.close()  # the others were opened no later
            else:
                with self._lock:
                    self._idle.append(connection)
                return answer

    def _ask(
        self,
        connection: "Connection",
        ask: "Callable[[Connection], R]",
        seconds: float,
        *,
        pipelined: bool,
        is_new: bool,
    ) -> R:
        """Ask by a connection, which is closed if that fails; psycopg's own error says that it was lost before."""
        import psycopg

        with contextlib.ExitStack() as unless_answered:
            unless_answered.callback(connection.close)
            with _ended_after(connection, seconds) as is_late:
                try:
                    with connection.pipeline() if pipelined else contextlib.nullcontext(), connection.transaction():
                        connection.execute(_SETTINGS, (f"{1000 * seconds:.0f}",))
                        answer = ask(connection)
                except psycopg.Error as error:
                    if is_late.is_set() or isinstance(error, psycopg.errors.QueryCanceled):
                        raise ServerError(f"{self._where} did not answer in {seconds:g} s", hint=_DOWN) from error
                    if connection.closed and not is_new:
                        raise
                    raise self._answered(error) from error
            unless_answered.pop_all()
        return answer

    def _take(self) -> "tuple[Connection, bool]":
        """Return a connection, and whether it is new."""
        import psycopg

        with self._lock:
            if self._idle:
                return self._idle.pop(), False
        try:
            return psycopg.connect(**self._parameters, autocommit=True, prepare_threshold=None), True
        except psycopg.Error as error:
            raise ServerError(f"{self._where} cannot be asked: {one_line(error)}", hint=_DOWN) from error

    def _answered(self, error: Exception) -> ServerError:
        import psycopg

        if isinstance(error, psycopg.errors.UndefinedTable):
            return ServerError(
                f"{self._where} has no collection {self._name}", hint=f"build-index puts it there again; {WITHOUT}"
            )
        return ServerError(f"{self._where} refuses: {one_line(error)}", hint=_ANSWERED)


# Only if it is not durable by itself is a commit made so.
_SETTINGS = (
    "SELECT set_config('statement_timeout', %s, true), set_config('synchronous_commit',"
    " replace(current_setting('synchronous_commit'), 'off', 'on'), true)"
)

_SIGNS: Mapping[str, LiteralString] = {"=": "=", "<": "<", "<=": "<=", ">": ">", ">=": ">="}
# What an index holds, and what a search asks for, must be written alike.
_TYPES: LiteralString = "CREATE STATISTICS {name} ON (jsonb_typeof(fields -> {key})) FROM {table}"
# Of an index that leaves out other types the planner takes no statistics.
_OF_NUMBERS: Mapping[str, LiteralString] = {
    "": "CREATE INDEX {name} ON {table} ((fields -> {key})) WHERE jsonb_typeof(fields -> {key}) = 'number'",
    "_values": "CREATE STATISTICS {name} ON (fields -> {key}) FROM {table}",
    "_types": _TYPES,
}
_OF_TEXTS: Mapping[str, LiteralString] = {
    "": """CREATE INDEX {name} ON {table} ((fields ->> {key}) COLLATE "C")
        WHERE jsonb_typeof(fields -> {key}) = 'string'""",
    "_values": "CREATE STATISTICS {name} ON (fields ->> {key}) FROM {table}",
    "_types": _TYPES,
}
_NUMBER = "jsonb_typeof(fields -> {key}) = 'number' AND fields -> {key} {sign} {value}::jsonb"
_TEXT = """jsonb_typeof(fields -> {key}) = 'string' AND (fields ->> {key}) COLLATE "C" = {value}"""
# Of texts in the order of their bytes those that begin with `below` are before `after`.
_BELOW = """jsonb_typeof(fields -> {key}) = 'string' AND ((fields ->> {key}) COLLATE "C" = {value}
    OR ((fields ->> {key}) COLLATE "C" >= {below} AND (fields ->> {key}) COLLATE "C" < {after}))"""


def _conditions(where: Sequence[Comparison]) -> "tuple[Composed, dict[str, object]]":
    """Return comparisons in SQL, with the parameters in it."""
    from psycopg.sql import SQL, Placeholder

    parts: list[Composed] = []
    parameters: dict[str, object] = {}
    for number, each in enumerate(where):
        values = {"key": each.field}
        if not isinstance(each.value, str):
            text, sign = _NUMBER, each.sign
            values["value"] = json.dumps(each.value)
        else:
            text, sign = _BELOW if each.sign == "below" else _TEXT, "="
            # What follows / among characters is 0.
            values |= {"value": each.value, "below": f"{each.value}/", "after": f"{each.value}0"}
        marks = {name: SQL("{}::text").format(Placeholder(f"{name}{number}")) for name in values}
        parts.append(SQL(text).format(**marks, sign=SQL(_SIGNS[sign])))
        parameters |= {f"{name}{number}": value for name, value in values.items()}
    return SQL(" AND ").join(parts) if parts else SQL("true").format(), parameters


def _rows(ids: Rows, vectors: Embeddings, fields: Sequence[Mapping[str, object]]) -> Iterator[bytes]:
    """Yield rows in the binary format of COPY."""
    dims = vectors.shape[1]
    for row, vector, values in zip(ids.tolist(), vectors.astype(">f4"), fields, strict=True):
        text = json.dumps(values).encode()
        yield b"".join(
            (
                struct.pack(">hiqihh", 3, 8, row, 4 + 4 * dims, dims, 0),
                vector.tobytes(),
                struct.pack(">ib", 1 + len(text), 1),
                text,
            )
        )


def _parameters(address: str) -> dict[str, Any]:
    """Read an address, and add what makes a connection that ends when the server hangs."""
    try:
        import psycopg
        from psycopg.conninfo import conninfo_to_dict
    except ImportError as error:
        raise MissingComponentError(
            f"an index in PostgreSQL needs a library that cannot be imported: {error}",
            hint=f"pip install 'imgsearch-toolkit[postgres]'; {WITHOUT}",
        ) from error
    logging.getLogger("psycopg").addHandler(_SILENT)
    expected = "postgresql://[USER@]HOST[:PORT]/DB, or postgresql:///?service=NAME"
    try:
        given = conninfo_to_dict(address) if "://" in address else {}
    except psycopg.Error:  # which may show a password
        given = {}
    if not given:
        raise UsageError(f"expected an address such as {expected}, found one that PostgreSQL cannot read")
    secrets = [name for name in _SECRETS if given.get(name)]
    if secrets:
        raise UsageError(
            f"expected an address such as {expected}, found one with a {secrets[0]} in it",
            hint="put it into PGPASSWORD, ~/.pgpass, or a service file",
        )
    alive = {"keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 3}
    milliseconds = 1000 * QUESTION_SECONDS
    return {"connect_timeout": CONNECTING_SECONDS, **alive, "tcp_user_timeout": milliseconds, **given}


@contextlib.contextmanager
def _ended_after(connection: "Connection", seconds: float) -> Iterator[threading.Event]:
    """Shut a connection down when time is over: of a server that hangs libpq waits forever. Tells whether it was."""
    import socket  # not by every query of other indexes

    is_late = threading.Event()
    # A descriptor of its own, so that what is shut down is never another file that has got the number.
    with socket.socket(fileno=os.dup(connection.fileno())) as twin:

        def end() -> None:
            is_late.set()
            with contextlib.suppress(OSError):  # it is closed already
                twin.shutdown(socket.SHUT_RDWR)

        timer = threading.Timer(seconds, end)
        timer.daemon = True
        timer.start()
        try:
            yield is_late
        finally:
            timer.cancel()


def _identifier(name: str) -> "Composable":
    from psycopg.sql import Identifier

    return Identifier(name)


def _row(cursor: "Cursor[Any]") -> Any:
    """Return the one row of an answer."""
    (row,) = cursor.fetchall()
    return row
