"""Requests to `imgsearch serve`, beside the same searches in this process: python benchmarks/service.py FOLDER.

--soak N: memory over so many requests of all kinds. --generations: ten published while 32 clients ask.
"""

import argparse
import contextlib
import http.client
import json
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any
from urllib.parse import quote

import cv2
import numpy as np

from catalogs import stamps_or_drawn
from imgsearch import Index, build_index
from imgsearch.images.decode import decode_rgba
from imgsearch.images.policy import FilePolicy
from imgsearch.processors import processor_count
from imgsearch.search.views import QueryImage
from imgsearch.synthetic.backgrounds import draw_background
from imgsearch.synthetic.compose import Style, compose
from load import Load, unlike_others

SEED = 0
PHOTOS = 48
FRAME = (900, 1200)
PHOTO_BYTES = 200_000
STYLE = Style(sides=(0.55, 0.85), quality=(95, 96))
ROUNDS = 3
CLIENTS = (1, 8, 32)
GENERATIONS = 10
GENERATIONS_SECONDS = 60
# Of an answer, for /similar: other numbers of hits are other requests, so that there are enough that differ.
KS = range(5, 15)


def main(folder: Path, *, seconds: float, soak: int, generations: bool) -> None:
    """Measure, print, and write `service.json`."""
    catalog, index = make_index(folder)
    photos = make_photos(catalog, folder / "service-photos")
    files = sorted(file.relative_to(catalog).as_posix() for file in catalog.rglob("*.png"))
    sizes = [photo.stat().st_size for photo in photos]
    print(f"  {len(files)} items; {len(photos)} photos of {min(sizes):,} to {max(sizes):,} bytes", flush=True)
    found: dict[str, Any] = {}
    with serving(index) as server:
        asked = Asked(server.port, [str(photo) for photo in photos])
        found["search"] = compare(index, photos, asked, seconds)
        similar = [f"/similar/{quote(file)}?k={k}" for k in KS for file in files]
        found["similar"] = show("/similar, 8 clients", asked.all_of(similar, clients=8))
        asked.all_of(["again"], clients=1)
        found["cached"] = show("/search, repeated, 1 client", asked.all_of(["again"] * 1000, clients=1))
        found["memory"] = {"start": server.memory()}
        if soak:
            found["memory"] |= soaked(server, asked, similar, soak)
        found["generation"] = seen_after(server, catalog, index, found_file=files[0])
        if generations:
            found["generations"] = published_under_load(asked, catalog, index, files)
    (folder / "service.json").write_text(json.dumps(found, indent=2) + "\n")


def make_index(folder: Path) -> tuple[Path, Path]:
    """Copy a catalog, which will be changed, and index it."""
    original, about = stamps_or_drawn(folder)
    catalog, index = folder / "service-catalog", folder / "service.imgsearch"
    print(f"  {about}", flush=True)
    shutil.copytree(original, catalog, dirs_exist_ok=True)
    build_index(catalog, index)
    return catalog, index


def make_photos(catalog: Path, folder: Path) -> list[Path]:
    """Put a product before a drawn background, in JPEGs of about 200 KB, as a page sends them; each once."""
    folder.mkdir(exist_ok=True)
    files = sorted(catalog.rglob("*.png"))
    photos = []
    for number in range(PHOTOS):
        photos.append(folder / f"{number:03d}.jpg")
        if photos[-1].exists():
            continue
        generator = np.random.default_rng([SEED, number])
        item = decode_rgba(files[int(generator.integers(len(files)))].read_bytes())
        photo = compose(draw_background(FRAME, generator), [item], STYLE, generator).photo
        # What a camera adds; without it plain backgrounds would not come to so many bytes.
        noisy = np.clip(photo + generator.normal(0, 4, photo.shape), 0, 255).astype(np.uint8)[:, :, ::-1]
        encoded = [cv2.imencode(".jpg", noisy, [cv2.IMWRITE_JPEG_QUALITY, quality])[1] for quality in range(50, 100, 2)]
        photos[-1].write_bytes(min(encoded, key=lambda each: abs(len(each) - PHOTO_BYTES)).tobytes())
    return photos


@dataclass(frozen=True)
class Server:
    """A running service."""

    process: subprocess.Popen[str]
    port: int

    def get(self, path: str) -> tuple[int, bytes]:
        """Ask, over a connection of its own."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def generation(self) -> int:
        """Return which generation answers."""
        return int(json.loads(self.get("/index")[1])["generation"])

    def memory(self) -> dict[str, float]:
        """Return the MB that the service and its decoders have in memory now."""
        children = Path(f"/proc/{self.process.pid}/task").glob("*/children")
        decoders = [int(number) for file in children for number in file.read_text().split()]
        return {"service": resident(self.process.pid), "decoders": sum(map(resident, decoders))}


def resident(number: int) -> float:
    """Return the MB that a process has in memory; 0 if it has ended."""
    with contextlib.suppress(FileNotFoundError):
        found = re.search(r"^VmRSS:\s+(\d+) kB", Path(f"/proc/{number}/status").read_text(), re.MULTILINE)
        return int(found[1]) / 1000 if found else 0.0
    return 0.0


@contextlib.contextmanager
def serving(index: Path) -> Iterator[Server]:
    """Start the service on any free port; yields when its encoder is warm."""
    command = [sys.executable, "-m", "imgsearch", "serve", "--index", str(index), "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if address := re.search(r"http://[^ ]*:(\d+)", line):
                break
        else:
            raise SystemExit("the service did not start")
        # What it has to say later must not fill the pipe.
        threading.Thread(target=shutil.copyfileobj, args=(process.stderr, sys.stderr), daemon=True).start()
        server = Server(process, int(address[1]))
        try:
            while server.get("/readyz")[0] != 200:
                time.sleep(0.05)
            yield server
        finally:
            process.terminate()


class Asked:
    """Loads, each by a process of its own, that never send a photo twice."""

    def __init__(self, port: int, photos: list[str]) -> None:
        self._port, self._photos, self._first = port, photos, 0

    def all_of(self, mix: list[str], clients: int) -> dict[str, Any]:
        """Send each request once."""
        return self._done(Load(self._port, clients, mix, self._photos, count=len(mix), first=self._first))

    def for_seconds(self, seconds: float, clients: int) -> dict[str, Any]:
        """Search for photos, for so long."""
        return self._done(Load(self._port, clients, ["search"], self._photos, seconds=seconds, first=self._first))

    def _done(self, load: Load) -> dict[str, Any]:
        command = [sys.executable, str(Path(__file__).with_name("load.py"))]
        done = subprocess.run(command, input=json.dumps(asdict(load)), stdout=subprocess.PIPE, text=True, check=True)
        answers: dict[str, Any] = json.loads(done.stdout)
        latencies = answers.pop("latencies")
        self._first += len(latencies)
        low, high = np.quantile(latencies, [0.5, 0.95]).tolist()
        return {**answers, "a second": len(latencies) / answers["seconds"], "p50": low, "p95": high}


def show(name: str, found: dict[str, Any]) -> dict[str, Any]:
    """Print what came of a load; return it."""
    others = {status: count for status, count in found["statuses"].items() if status != "200"}
    print(
        f"  {name}: {found['a second']:.1f} a second, p50 {found['p50']:.1f} ms, p95 {found['p95']:.1f} ms"
        + (f", {found['cached']} from the cache" if found["cached"] else "")
        + (f", FAILED: {others}" if others else ""),
        flush=True,
    )
    return found


def compare(index: Path, photos: list[Path], asked: Asked, seconds: float) -> dict[str, Any]:
    """Search for photos here and through the service, in turn; print medians of the rounds, and ratios."""
    here: dict[str, list[dict[str, Any]]] = {}
    contents = [photo.read_bytes() for photo in photos]
    with Index.open(index, for_many=True) as opened:
        here_for(opened, contents, 1, 1.0)  # the encoder waits for the first
        for _ in range(ROUNDS):
            for count in sorted({1, processor_count()}):
                found = here_for(opened, contents, count, seconds)
                here.setdefault(f"in process, {count} thread{'s' * (count > 1)}", []).append(found)
            for clients in CLIENTS:
                found = asked.for_seconds(seconds, clients)
                here.setdefault(f"/search, {clients} client{'s' * (clients > 1)}", []).append(found)
    bound = f"in process, {processor_count()} thread{'s' * (processor_count() > 1)}"
    summary: dict[str, Any] = {}
    for name, rounds in here.items():
        middle: dict[str, Any] = {key: median(each[key] for each in rounds) for key in ("a second", "p50", "p95")}
        middle["statuses"] = {
            status: sum(each["statuses"].get(status, 0) for each in rounds)
            for status in {status for each in rounds for status in each["statuses"]}
        }
        middle["cached"] = sum(each["cached"] for each in rounds)
        middle["ratio"] = median(
            each["a second"] / most["a second"] for each, most in zip(rounds, here[bound], strict=True)
        )
        summary[name] = show(f"{name} (ratio {middle['ratio']:.2f})", middle)
    return summary


def here_for(index: Index, photos: list[bytes], count: int, seconds: float) -> dict[str, Any]:
    """Decode, encode and search in this process, with threads; as many figures as of a load."""
    latencies: list[float] = []
    started = time.perf_counter()

    def work(first: int) -> None:
        number = first
        while time.perf_counter() - started < seconds:
            photo = unlike_others(photos[number % len(photos)], number)
            begun = time.perf_counter()
            index.search(QueryImage(photo, FilePolicy()))
            latencies.append(1000 * (time.perf_counter() - begun))
            number += count

    threads = [threading.Thread(target=work, args=(first,)) for first in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    low, high = np.quantile(latencies, [0.5, 0.95]).tolist()
    rate = len(latencies) / (time.perf_counter() - started)
    return {"statuses": {"200": len(latencies)}, "cached": 0, "a second": rate, "p50": low, "p95": high}


def soaked(server: Server, asked: Asked, similar: list[str], count: int) -> dict[str, Any]:
    """Send many requests of all kinds; return memory after a thousand, every tenth of all, and at the end."""
    sizes: list[tuple[int, dict[str, float]]] = []
    sent = 0
    for more in (1000, *[max(1, (count - 1000) // 10)] * 10):
        requests = []
        for number in range(sent, sent + more):
            address = similar[number % len(similar)]
            item = address.replace("/similar/", "/items/").partition("?")[0]
            kinds = ("again", "/index", f"{item}/thumbnail", item, *[address] * 4)
            # A search takes as long as dozens of others.
            requests.append(kinds[number % len(kinds)] if number % 64 else "search")
        found = asked.all_of(requests, clients=8)
        sent += more
        sizes.append((sent, server.memory()))
        show(f"soak, {sent:,} requests, {sizes[-1][1]['service']:.0f} MB", found)
    return {"requests": sent, "by requests": sizes}


def change(catalog: Path, file: str) -> None:
    """Turn an item's image upside down."""
    path = catalog / file
    image = decode_rgba(path.read_bytes())[::-1]
    path.write_bytes(cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGBA2BGRA))[1].tobytes())


def build(catalog: Path, index: Path) -> None:
    """Build as cron does: by a process of its own."""
    command = [sys.executable, "-m", "imgsearch", "build-index", str(catalog), "--index", str(index), "--quiet"]
    subprocess.run(command, check=True)


def seen_after(server: Server, catalog: Path, index: Path, found_file: str) -> float:
    """Publish a generation; return the seconds until it answers."""
    before = server.generation()
    change(catalog, found_file)
    builder = threading.Thread(target=build, args=(catalog, index))
    builder.start()
    while server.generation() == before:
        time.sleep(0.01)
    seconds = time.time() - (index / "manifest.json").stat().st_mtime
    builder.join()
    print(f"  a new generation answers after {seconds:.2f} s", flush=True)
    return seconds


def published_under_load(asked: Asked, catalog: Path, index: Path, files: list[str]) -> dict[str, Any]:
    """Publish ten generations while 32 clients search."""
    published: list[float] = []

    def publish() -> None:
        started = time.monotonic()
        for number in range(GENERATIONS):
            change(catalog, files[number])
            build(catalog, index)
            published.append(time.monotonic() - started)

    builder = threading.Thread(target=publish)
    builder.start()
    found = asked.for_seconds(GENERATIONS_SECONDS, 32)
    in_time = len(published)
    builder.join()
    show(f"/search, 32 clients, {in_time} generations published meanwhile", found)
    return {**found, "published": in_time}


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seconds", type=float, default=10, help="of each round and number of clients")
    parser.add_argument("--soak", type=int, default=0, help="how many requests of all kinds, for memory")
    parser.add_argument("--generations", action="store_true", help="publish ten while 32 clients ask")
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    main(given.folder, seconds=given.seconds, soak=given.soak, generations=given.generations)
