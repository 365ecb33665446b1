"""Whole cold queries beside `import keras`, in turn: python benchmarks/cold_query.py FOLDER."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import numpy as np

from catalogs import products_of
from drawn_catalog import draw_catalog
from imgsearch import build_index
from imgsearch.images.decode import decode_rgba
from imgsearch.synthetic.augment import photo_like

ROUNDS = 9
WORDS = "eine blaue Tasse"


def main(folder: Path) -> None:
    catalog = folder / "drawn"
    products = products_of(catalog)
    files = draw_catalog(catalog, products=products)
    index = folder / "cold.imgsearch"
    build_index(catalog, index, metadata=products)
    photo = folder / "photo.jpg"
    photo.write_bytes(photo_like(decode_rgba(files[0].read_bytes()), np.random.default_rng(0)))
    program = [sys.executable, "-m", "imgsearch"]
    commands = {
        "import keras": [sys.executable, "-c", "import keras"],
        "query, a new photo": [*program, "query", str(photo), "--index", str(index)],
        "query, a catalog image": [*program, "query", str(files[0]), "--index", str(index)],
        "query --text": [*program, "query", "--text", WORDS, "--index", str(index)],
        "query, a new photo, --text": [*program, "query", str(photo), "--text", WORDS, "--index", str(index)],
        "query --item": [*program, "query", "--item", str(files[0].relative_to(catalog)), "--index", str(index)],
        "build-index, nothing changed": [*program, "build-index", str(catalog), "--index", str(index)],
        "--help": [*program, "--help"],
    }
    compare(commands)
    listing = "import sys, imgsearch.cli as c; c.main(sys.argv[1:]); print(*sorted(sys.modules), file=sys.stderr)"
    heavy = {"cv2", "numpy", "openvino", "annoy", "rich", "sqlite3", "tensorflow", "keras", "sklearn", "matplotlib"}
    for name in ("query, a new photo", "query --text", "query --item"):
        command = [sys.executable, "-c", listing, *commands[name][3:]]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        print(f"  imported by {name}: {', '.join(sorted(heavy & set(done.stderr.split())))}")


# Run from a process as small as Python gets: a child's peak counts what its parent held when it was started.
MEASURE = """
import os, sys, time
started = time.perf_counter()
output = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT | os.O_TRUNC)
actions = [(os.POSIX_SPAWN_DUP2, output, 1), (os.POSIX_SPAWN_DUP2, output, 2)]
_, status, usage = os.wait4(os.posix_spawn(sys.argv[2], sys.argv[2:], os.environ, file_actions=actions), 0)
print(time.perf_counter() - started, usage.ru_maxrss / 1024, usage.ru_utime + usage.ru_stime)
sys.exit(os.waitstatus_to_exitcode(status))
"""


def measured(command: Sequence[str], output: Path | str = os.devnull) -> tuple[float, float, float]:
    """Run a command, whose output goes into a file; return wall seconds, peak memory in MiB, processor seconds."""
    measure = [sys.executable, "-I", "-S", "-c", MEASURE, str(output), *command]
    done = subprocess.run(measure, capture_output=True, text=True, check=True)
    seconds, mebibytes, processor = map(float, done.stdout.split())
    return seconds, mebibytes, processor


def compare(commands: dict[str, list[str]]) -> None:
    """Run commands in turn, after a warm-up, and print median times, ratios to the first, and peak memory."""
    found: dict[str, list[tuple[float, float, float]]] = {name: [] for name in commands}
    for counted in [False] + [True] * ROUNDS:
        for name, command in commands.items():
            values = measured(command)
            if counted:
                found[name].append(values)
    first = next(iter(found.values()))
    for name, rounds in found.items():
        ratio = median(mine[0] / base[0] for mine, base in zip(rounds, first, strict=True))
        seconds, mebibytes = median(value[0] for value in rounds), max(value[1] for value in rounds)
        print(f"  {name:<30} {seconds:.3f} s (of {ROUNDS}), ratio {ratio:.3f}, {mebibytes:.0f} MiB", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
