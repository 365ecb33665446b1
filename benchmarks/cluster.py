"""What embedding on a cluster costs beside one machine: python benchmarks/cluster.py FOLDER [PICTURES].

The same JPEGs, by turns on this machine and on two workers of Dask that share its processors, which are started
before, as a cluster's are. Of the workers each has half of the threads. The embeddings are compared, too.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from typing import Any

from imgsearch import embed
from imgsearch.processors import processor_count
from imgsearch.store.generations import EMBEDDINGS, read_manifest
from throughput import COUNT, make_copies, make_images

PICTURES = 2000
ROUNDS = 3


def main(folder: Path, pictures: int) -> None:
    images = make_copies(make_images(folder / "photographs"), folder / f"photographs-{pictures}", pictures // COUNT)
    rates: dict[str, list[float]] = {"local": [], "dask": []}
    with cluster(folder) as scheduler:
        engines: dict[str, dict[str, Any]] = {"local": {}, "dask": {"engine": "dask", "scheduler": scheduler}}
        for options in engines.values():  # exports and sends the encoder, and brings files into the page cache
            run(images, folder, options)
        for _ in range(ROUNDS):
            found = {}
            for name, options in engines.items():
                rate, found[name] = run(images, folder, options)
                rates[name].append(rate)
            assert found["local"] == found["dask"]
    for name, values in rates.items():
        print(f"  {name:<6} {median(values):6.1f} images/s (of {ROUNDS}: {min(values):.1f} to {max(values):.1f})")
    ratios = [local / dask for local, dask in zip(rates["local"], rates["dask"], strict=True)]
    print(
        f"  time on a cluster / time here: {median(ratios):.3f} (of {ROUNDS}: {min(ratios):.3f} to {max(ratios):.3f})"
    )
    print(f"  {pictures // COUNT * COUNT} pictures, the same embeddings")


def run(images: Path, folder: Path, options: dict[str, Any]) -> tuple[float, bytes]:
    """Embed; images for each second of that stage, which has the connecting in it, and the embeddings."""
    output = folder / "cluster-embeddings"
    shutil.rmtree(output, ignore_errors=True)
    rate = embed(images, output, **options).images_per_second
    return rate, (output / read_manifest(output).folder / EMBEDDINGS).read_bytes()


@contextmanager
def cluster(folder: Path) -> Iterator[str]:
    """Start a scheduler and two workers on loopback; yields the address."""
    threads = max(1, processor_count() // 2)
    with ExitStack() as stack:
        scheduler = start(stack, "scheduler", "Scheduler at:", "--port", "0")
        for number in range(2):
            folders = ("--local-directory", os.fspath(folder / f"dask-{number}"))
            start(stack, "worker", "Registered to:", scheduler, "--no-nanny", "--nthreads", str(threads), *folders)
        yield scheduler


def start(stack: ExitStack, name: str, words: str, *arguments: str) -> str:
    """Start a process of Dask, and return the address that it says after certain words."""
    command = [sys.executable, "-P", "-m", f"distributed.cli.dask_{name}", "--host", "127.0.0.1", "--no-dashboard"]
    process = subprocess.Popen([*command, *arguments], stderr=subprocess.PIPE, text=True)
    stack.callback(process.wait)
    stack.callback(process.kill)
    assert process.stderr is not None
    for line in process.stderr:
        if words in line and (address := re.search(r"tcp://\S+", line)):
            return address[0]
    raise SystemExit(f"Dask's {name} has not started")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else PICTURES)
