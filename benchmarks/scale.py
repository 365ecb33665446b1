"""Build, update, query, memory and disk from 1,000 to 1,000,000 items: python benchmarks/scale.py FOLDER.

The files are tiny, and real: each run walks through them. Their embeddings and main colors are drawn, not computed,
and go through the journal as those of images do; all else is the program itself. The one new picture is embedded.

--pictures N: N drawn JPEGs, decoded and embedded, instead. --counts and --backend: others than all. --plot FILE.svg:
draw what FOLDER/scale.json has by now, and print the exponent of each curve.
"""

import argparse
import hashlib
import itertools
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import cv2
import numpy as np
from numpy.typing import NDArray

from imgsearch import Index, build_index
from imgsearch.build.journal import Journal
from imgsearch.build.pipeline import EmbedCounts
from imgsearch.encoders.runtime import Embeddings, Encoder, unit_rows
from imgsearch.images.main_colors import MainColor
from imgsearch.progress import Progress
from imgsearch.store import generations
from imgsearch.store.arrays import BLOCK_ROWS
from imgsearch.store.manifest import Manifest
from large_index import blend, drawn_embeddings

COUNTS = (1_000, 10_000, 100_000, 1_000_000)
SEED = 0
QUERIES = 200
COLD_QUERIES = 5
K = 10
IN_A_FOLDER = 1000
RESULTS = "scale.json"
SECONDS = "processor seconds; p50 and p95: seconds"
BITMAP_HEADER = b"BM\xf6\0\0\0\0\0\0\0\x36\0\0\0\x28\0\0\0\x08\0\0\0\x08\0\0\0\x01\0\x18\0" + bytes(24)
CURVES = {
    "build, without the network [s]": ("build", "processor"),
    "nothing changed [s]": ("unchanged", "processor"),
    "one new picture [s]": ("one_new", "processor"),
    "cold query [s]": ("cold_query", "processor"),
    "query, p50 [s]": ("query", "p50"),
    "query, p95 [s]": ("query", "p95"),
    "a generation on disk [GB]": ("disk", "generation"),
    "build, peak memory [GB]": ("build", "peak"),
    "one new picture, peak memory [GB]": ("one_new", "peak"),
    "cold query, peak memory [GB]": ("cold_query", "peak"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--counts", type=int, nargs="+", default=COUNTS)
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--pictures", type=int)
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--build", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    folder = given.folder
    if given.build is not None:
        base, _ = drawn_embeddings(folder)
        with patch("imgsearch.build.update.embed_pending", partial(record_drawn, base)):
            build_index(files_of(folder, given.build), index_of(folder, given.build), backend=given.backend)
    elif given.plot is not None:
        draw(read_results(folder), given.plot)
    elif given.pictures is not None:
        catalog = folder / f"pictures-{given.pictures}"
        make(catalog, given.pictures, ".jpg", drawn_jpeg)
        index = folder / f"pictures-{given.pictures}.imgsearch"
        shutil.rmtree(index, ignore_errors=True)
        build = ["build-index", str(catalog), "--index", str(index), "--backend", given.backend]
        keep(folder, "pictures", given.pictures, measure_all(catalog, index, [*program(), *build], folder))
    else:
        for count in given.counts:
            catalog, index = files_of(folder, count), index_of(folder, count)
            make(catalog, count, ".bmp", bitmap)
            shutil.rmtree(index, ignore_errors=True)
            build = [str(folder), "--backend", given.backend, "--build", str(count)]
            found = measure_all(catalog, index, [sys.executable, __file__, *build], folder)
            keep(folder, given.backend, count, found)


def files_of(folder: Path, count: int) -> Path:
    return folder / f"files-{count}"


def index_of(folder: Path, count: int) -> Path:
    return folder / f"files-{count}.imgsearch"


def program() -> list[str]:
    return [sys.executable, "-m", "imgsearch"]


def make(catalog: Path, count: int, suffix: str, content: Callable[[int], bytes]) -> None:
    """Write `count` different files into folders of 1,000, unless they are there."""
    if catalog.is_dir():
        return
    draft = catalog.with_suffix(".tmp")
    shutil.rmtree(draft, ignore_errors=True)
    for number in range(count):
        place = draft / f"{number // IN_A_FOLDER:04d}"
        if not number % IN_A_FOLDER:
            place.mkdir(parents=True)
        (place / f"{number:07d}{suffix}").write_bytes(content(number))
    draft.rename(catalog)


def bitmap(number: int) -> bytes:
    """Return a bitmap of 8 x 8 pixels."""
    return BITMAP_HEADER + hashlib.sha256(number.to_bytes(8, "big")).digest() * 6


def drawn_jpeg(number: int) -> bytes:
    """Draw a few shapes on a plain ground, 64 to 200 pixels."""
    generator = np.random.default_rng([SEED, number])
    height, width = (int(side) for side in generator.integers(64, 201, 2))
    canvas = np.full((height, width, 3), generator.integers(160, 256, 3), np.uint8)
    for _ in range(generator.integers(2, 7)):
        center = [int(value) for value in generator.integers(0, (width, height))]
        axes = [int(value) for value in generator.integers(6, 60, 2)]
        color = [int(value) for value in generator.integers(0, 256, 3)]
        if generator.random() < 0.5:
            cv2.ellipse(canvas, center, axes, float(generator.uniform(0, 180)), 0, 360, color, -1)
        else:
            cv2.rectangle(canvas, center, [center[0] + axes[0], center[1] + axes[1]], color, -1)
    return bytes(cv2.imencode(".jpg", canvas, [cv2.IMWRITE_JPEG_QUALITY, 85])[1])


def record_drawn(
    base: Embeddings,
    journal: Journal,
    draft: Manifest,
    open_encoder: Callable[[], Encoder],  # noqa: ARG001
    progress: Progress,  # noqa: ARG001
    *,
    tolerant: bool = False,  # noqa: ARG001
) -> EmbedCounts:
    """Stand in for `embed_pending`: read and hash each file, and draw its embedding and its main colors."""
    generator = np.random.default_rng(SEED)
    counts, pending = EmbedCounts(), journal.pending()
    with journal.transaction():
        while page := list(itertools.islice(pending, BLOCK_ROWS)):
            vectors = blend(base, len(page), generator)
            rgb = generator.integers(0, 256, (len(page), 2, 3), np.uint8)
            digests = [hashlib.sha256(Path(draft.catalog, file.path).read_bytes()).digest() for file in page]
            journal.add_vectors((digest, vector, {}) for digest, vector in zip(digests, vectors, strict=True))
            journal.add_colors(zip(digests, map(colors_of, rgb), strict=True))
            for file, digest in zip(page, digests, strict=True):
                journal.set_content(file, digest, file.size, file.mtime_ns)
            journal.commit()
            counts.embedded += len(page)
    return counts


def colors_of(rgb: NDArray[np.uint8]) -> list[MainColor]:
    return [MainColor(f"#{bytes(color).hex()}", share) for color, share in zip(rgb, (0.7, 0.3), strict=True)]


def measure_all(catalog: Path, index: Path, build: list[str], folder: Path) -> dict[str, Any]:
    """Measure a build, what comes the nights after, and queries."""
    found: dict[str, Any] = {}
    new = catalog / "0000" / "new.jpg"
    new.unlink(missing_ok=True)
    photo = folder / "photo.jpg"
    photo.write_bytes(drawn_jpeg(10**9))
    report = folder / "report.json"
    update = [*program(), "build-index", str(catalog), "--index", str(index), "--report", str(report)]
    found["build"] = run(build)
    found["unchanged"] = run(update) | {"stages": json.loads(report.read_text())["seconds"]}
    new.write_bytes(drawn_jpeg(10**9 + 1))
    found["one_new"] = run(update)
    done = json.loads(report.read_text())
    found["one_new"]["stages"] = done["seconds"]
    assert (done["counts"]["embedded"], done["published"]) == (1, True), done
    query = [*program(), "query", str(photo), "--index", str(index)]
    cold = [run(query) for _ in range(1 + COLD_QUERIES)][1:]
    found["cold_query"] = {name: float(np.median([one[name] for one in cold])) for name in cold[0]}
    found |= ask(index)
    manifest = generations.read_manifest(index)
    found["files"] = {name.rpartition("/")[2]: record.size / 1e9 for name, record in manifest.files.items()}
    found["disk"] = {"generation": sum(file.lstat().st_size for file in (index / manifest.folder).iterdir()) / 1e9}
    new.unlink()
    return found


# Run from a process as small as Python gets: a child's peak counts what its parent held when it was started.
MEASURE = """
import os, sys, time
started = time.perf_counter()
nowhere = os.open(os.devnull, os.O_RDWR)
actions = [(os.POSIX_SPAWN_DUP2, nowhere, 1)]
_, status, usage = os.wait4(os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ, file_actions=actions), 0)
print(time.perf_counter() - started, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1e6 * 1.024)
sys.exit(os.waitstatus_to_exitcode(status))
"""


def run(command: Sequence[str]) -> dict[str, float]:
    """Run a command: its wall and processor seconds, and its peak memory in GB, with what it mapped."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    measure = [sys.executable, "-I", "-S", "-c", MEASURE, *command]
    done = subprocess.run(measure, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return dict(zip(("seconds", "processor", "peak"), map(float, done.stdout.split()), strict=True))


def ask(index: Path) -> dict[str, Any]:
    """Ask an open index for items and for what is near them; compare with all vectors."""
    generator = np.random.default_rng(SEED + 1)
    with Index.open(index) as opened:
        vectors = opened.nearest.vectors[:]
        rows = np.sort(generator.choice(len(opened), QUERIES, replace=False))
        noise = generator.normal(0, 0.3 / np.sqrt(opened.manifest.dims), (QUERIES, opened.manifest.dims))
        queries = unit_rows(np.asarray(vectors[rows] + noise, np.float32))
        seconds, right = [], 0
        opened.search_vector(queries[0], K)
        for query in queries:
            started = time.perf_counter()
            hits = opened.search_vector(query, K)
            seconds.append(time.perf_counter() - started)
            right += sum(hit.score >= kth_score(vectors, query) - 1e-6 for hit in hits)
        p50, p95 = np.quantile(seconds, [0.5, 0.95])
        backend = str(opened.manifest.backend)
    return {"query": {"p50": p50, "p95": p95}, "recall": right / (QUERIES * K), "plan": backend}


def kth_score(vectors: Embeddings, query: Embeddings) -> float:
    return float(np.partition(vectors @ query, -K)[-K])


def read_results(folder: Path) -> dict[str, dict[str, Any]]:
    file = folder / RESULTS
    return dict(json.loads(file.read_text())) if file.is_file() else {}


def keep(folder: Path, kind: str, count: int, found: Mapping[str, Any]) -> None:
    """Print what was measured, and add it to the results."""
    print(json.dumps({"kind": kind, "count": count, **found}, indent=1), flush=True)
    results = read_results(folder)
    results.setdefault(kind, {})[str(count)] = found
    (folder / RESULTS).write_text(json.dumps(results, indent=1))


def draw(results: Mapping[str, Mapping[str, Any]], file: Path) -> None:
    """Draw all curves of the drawn embeddings, and name the exponent of each."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    kinds = [kind for kind, points in results.items() if kind != "pictures" and points]
    with mpl.rc_context({"svg.hashsalt": "imgsearch", "font.size": 9}):
        figure = Figure(figsize=(9, 7), layout="constrained")
        for axes, unit in zip(figure.subplots(1, 2), ("[s]", "[GB]"), strict=True):
            curves = [(label, keys) for label, keys in CURVES.items() if label.endswith(unit)]
            for kind, style in zip(kinds, ("-", "--", ":"), strict=False):
                for number, (label, keys) in enumerate(curves):
                    name = f"{kind}: {label.removesuffix(unit).strip()}"
                    draw_curve(axes, name, results[kind], keys, {"linestyle": style, "color": f"C{number}"})
            axes.set(xscale="log", yscale="log", xlabel="items", ylabel="GB" if unit == "[GB]" else SECONDS)
            axes.grid(alpha=0.3)
            axes.legend(fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.1))
        figure.savefig(file, metadata={"Date": None} if file.suffix == ".svg" else None)


def draw_curve(axes: Any, name: str, points: Mapping[str, Any], keys: tuple[str, str], look: Mapping[str, str]) -> None:
    """Draw one curve, with the exponent that the last three points fit best."""
    counts = sorted(map(int, points))
    values = [points[str(count)][keys[0]][keys[1]] for count in counts]
    last = slice(-3, None)
    exponent = f"{np.polyfit(np.log(counts[last]), np.log(values[last]), 1)[0]:.2f}" if len(counts) > 1 else "-"
    axes.plot(counts, values, marker="o", markersize=4, label=f"{name}: n^{exponent}", **look)
    print(f"  {name:<52} n^{exponent}  {', '.join(f'{value:.3g}' for value in values)}")


if __name__ == "__main__":
    main()
