"""Run Milvus and pass on to it what arrives at a socket; `milvus_server` starts this in a network of its own.

    python milvus_relay.py SOCKET PORT HEALTH_PORT COMMAND...

SOCKET is a descriptor, bound and not listening yet; PORT is where Milvus listens, on all interfaces there are. When
Milvus is up this listens and says "ready". It ends when its standard input does, or Milvus.
"""

import contextlib
import fcntl
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import urllib.request

_SIOCSIFFLAGS = 0x8914
_UP_AND_RUNNING = 0x41


def main(descriptor: str, port: str, health_port: str, *command: str) -> None:
    """Do what the module says."""
    with contextlib.suppress(PermissionError), socket.socket(type=socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, struct.pack("16sh22x", b"lo", _UP_AND_RUNNING))
    server = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=sys.stderr)
    threading.Thread(target=lambda: (server.wait(), _end()), daemon=True).start()
    threading.Thread(target=lambda: (sys.stdin.read(), _end()), daemon=True).start()
    while not _is_up(health_port):
        time.sleep(0.05)
    with socket.socket(fileno=int(descriptor)) as listener:
        listener.listen()
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        while True:
            client, _ = listener.accept()
            with contextlib.suppress(OSError):
                passed_on = socket.create_connection(("127.0.0.1", int(port)))
                for pair in ((client, passed_on), (passed_on, client)):
                    threading.Thread(target=_pump, args=pair, daemon=True).start()


def _is_up(health_port: str) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{health_port}/healthz", timeout=10) as answer:
            return b"OK" in answer.read()
    except OSError:
        return False


def _pump(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(1 << 16):
            target.sendall(data)
    for each in (source, target):
        with contextlib.suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)


def _end() -> None:
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    main(*sys.argv[1:])
