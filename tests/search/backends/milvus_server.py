"""A Milvus server for tests: the standalone server that the package milvus carries."""

import contextlib
import lzma
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import milvus as package
import psutil
import pytest
import yaml

from imgsearch.search.backends import milvus

TOKEN = "root:Milvus"  # what every new server has
# Whatever waits for one of these ticks would make tests wait; most are in milliseconds.
FASTER = {
    "proxy": {"timeTickInterval": 20},
    "queryCoord": dict.fromkeys(
        ("checkInterval", "checkHandoffInterval", "checkSegmentInterval", "checkChannelInterval", "checkIndexInterval"),
        50,
    )
    | {"distPullInterval": 50, "updateNextTargetInterval": 1},
    "dataCoord": {"segment": {"assignmentExpiration": 100}},
    "indexCoord": {"scheduler": {"interval": 50}},
    "common": {"session": {"ttl": 3}},  # seconds until a server that was killed may be followed by another
}


class MilvusServer:
    """A server on a port of its own of the loopback interface, which wants a token.

    Milvus listens on all interfaces, and no setting changes that. So it runs in a network of its own, where there is
    the loopback interface alone, and `milvus_relay` passes on what arrives here. Where the system does not let us make
    a network, it runs in that of the machine.
    """

    backend = milvus

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        (folder / "bin").mkdir()
        for packed in (Path(package.__file__).parent / "data/bin").glob("*.lzma"):
            with lzma.open(packed) as source, (folder / "bin" / packed.stem).open("wb") as target:
                shutil.copyfileobj(source, target)
            (folder / "bin" / packed.stem).chmod(0o755)
        config = package.MilvusServerConfig(data_dir=str(folder))
        config.resolve()
        self._inner_port = config.get("proxy_port")
        self._write_settings(folder / "configs/milvus.yaml")
        own_network = ["unshare", "--map-root-user", "--net", "--"]
        can_have = (
            shutil.which("unshare")
            and not subprocess.run([*own_network, "true"], check=False, capture_output=True).returncode
        )
        self._network = own_network if can_have else []
        self.port = _free_port()
        self.address = self.address_at(self.port)
        self.start()

    @staticmethod
    def address_at(port: int) -> str:
        return f"milvus://127.0.0.1:{port}"

    def start(self) -> None:
        with socket.socket() as bound, (self._folder / "said").open("ab") as said:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind(("127.0.0.1", self.port))
            relay = [sys.executable, str(Path(__file__).with_name("milvus_relay.py")), str(bound.fileno())]
            health_port = _free_port()
            command = [str(self._folder / "bin/milvus"), "run", "standalone"]
            variables = {
                "DEPLOY_MODE": "STANDALONE",
                "METRICS_PORT": str(health_port),
                "MILVUS_RUN_DIR": str(self._folder / "run"),
                "LD_LIBRARY_PATH": str(self._folder / "bin"),
            }
            self._process = subprocess.Popen(
                [*self._network, *relay, str(self._inner_port), str(health_port), *command],
                cwd=self._folder,
                env={**os.environ, **variables},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=said,
                pass_fds=[bound.fileno()],
                start_new_session=True,
            )
        assert self._process.stdout.readline() == b"ready\n", (self._folder / "said").read_bytes()[-3000:]

    def kill(self) -> None:
        """End all processes at once."""
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(60)
        self._process.stdin.close()
        self._process.stdout.close()

    stop = kill

    @contextlib.contextmanager
    def hanging(self) -> Iterator[None]:
        """Let nobody be answered meanwhile."""
        (server,) = psutil.Process(self._process.pid).children()
        server.suspend()
        try:
            yield
        finally:
            server.resume()

    @staticmethod
    def _write_settings(path: Path) -> None:
        settings = yaml.safe_load(path.read_text())
        for part, values in FASTER.items():
            for name, value in values.items():
                if isinstance(value, dict):
                    settings[part].setdefault(name, {}).update(value)
                else:
                    settings[part][name] = value
        for part in settings.values():
            if isinstance(part, dict) and "ip" in part:
                part["ip"] = "127.0.0.1"
        settings["common"]["security"]["authorizationEnabled"] = True
        path.write_text(yaml.safe_dump(settings))


@contextlib.contextmanager
def running() -> Iterator[MilvusServer]:
    """Start a server in a folder of its own; it ends whatever happens."""
    with tempfile.TemporaryDirectory(prefix="milvus-") as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("MILVUS_TOKEN", TOKEN)
        server = MilvusServer(Path(folder))
        try:
            yield server
        finally:
            server.kill()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])
