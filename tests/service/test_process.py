"""The real program on a loopback port: killed while it keeps feedback, and asked while generations are published."""

import contextlib
import itertools
import json
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from imgsearch import build_index


@contextlib.contextmanager
def program(folder: Path) -> Iterator[tuple[subprocess.Popen, int]]:
    """Run `imgsearch serve` for the index of a folder: the process, and its port."""
    command = [sys.executable, "-m", "imgsearch", "serve", "--index", str(folder / "index"), "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            found = re.search(r"http://127\.0\.0\.1:(\d+)", process.stderr.readline())
            yield process, int(found[1])
        finally:
            process.kill()


def test_feedback_that_was_acknowledged_survives_a_server_that_is_killed(own_shop, jpeg, imgsearch, client_of):
    acknowledged = {}
    with program(own_shop) as (process, port):
        client = client_of(port)
        answer = client.post("/search", data={"k": 20}, files={"image": ("x", jpeg)}).json()

        def judge() -> None:
            paths = itertools.cycle(hit["path"] for hit in answer["hits"])
            for number, path in enumerate(paths):
                verdict = ("chosen", "rejected")[number // len(answer["hits"]) % 2]
                body = {"answer": answer["id"], "path": path, "verdict": verdict}
                unsure.add(path)
                with contextlib.suppress(OSError, ValueError):
                    if client.post("/feedback", json=body, headers={"Imgsearch-Session": "7" * 32}).status_code == 204:
                        acknowledged[path] = verdict
                        unsure.discard(path)
                        continue
                return

        unsure = set()
        judging = threading.Thread(target=judge)
        judging.start()
        while len(acknowledged) < 5:
            pass
        process.send_signal(signal.SIGKILL)
        judging.join()

    listed = imgsearch("feedback", "list", "--index", own_shop / "index", "--format", "json")
    kept = {each["path"]: each["verdict"] for each in json.loads(listed.stdout)}
    assert {path: kept.get(path) for path in acknowledged if path not in unsure} == {
        path: verdict for path, verdict in acknowledged.items() if path not in unsure
    }


@pytest.mark.slow
def test_no_request_fails_while_ten_generations_are_published(own_shop, jpeg, client_of, figure):
    failures, generations = [], set()
    answered = itertools.count()
    with program(own_shop) as (process, port):
        is_over = threading.Event()
        seconds = 60

        def ask() -> None:
            client = client_of(port)
            while not is_over.is_set():
                answer = client.post("/search", data={"k": 1 + next(answered) % 50}, files={"image": ("x", jpeg)})
                if answer.status_code != 200:
                    failures.append(answer)
                else:
                    generations.add(answer.json()["index"]["generation"])

        clients = [threading.Thread(target=ask) for _ in range(32)]
        for each in clients:
            each.start()
        end = time.monotonic() + seconds
        pictures = sorted((own_shop / "catalog").rglob("*.png"))
        for number in range(10):
            shutil.copy(pictures[number], own_shop / f"catalog/new-{number}.png")
            build_index(own_shop / "catalog", own_shop / "index", metadata=own_shop / "products.csv")
            threading.Event().wait(max(0, (end - time.monotonic()) / (10 - number)))
        is_over.set()
        for each in clients:
            each.join()
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0

    figure("requests", next(answered))
    assert failures == []
    assert len(generations) == 11
