"""Whole cold queries beside `import keras`, in turn: python benchmarks/cold_query.py FOLDER."""

import os
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

import numpy as np

from drawn_catalog import draw_catalog
from imgsearch import build_index
from imgsearch.images.augment import photo_like
from imgsearch.images.decode import decode_rgba

ROUNDS = 9


def main(folder: Path) -> None:
    catalogue = folder / "drawn"
    files = draw_catalog(catalogue)
    index = folder / "cold.imgsearch"
    build_index(catalogue, index)
    photo = folder / "photo.jpg"
    photo.write_bytes(photo_like(decode_rgba(files[0].read_bytes()), np.random.default_rng(0)))
    program = [sys.executable, "-m", "imgsearch"]
    commands = {
        "import keras": [sys.executable, "-c", "import keras"],
        "query, a new photo": [*program, "query", str(photo), "--index", str(index)],
        "query, a catalogue picture": [*program, "query", str(files[0]), "--index", str(index)],
        "build-index, nothing changed": [*program, "build-index", str(catalogue), "--index", str(index)],
        "--help": [*program, "--help"],
    }
    compare(commands)
    listing = "import sys, imgsearch.cli as c; c.main(sys.argv[1:]); print(*sorted(sys.modules), file=sys.stderr)"
    done = subprocess.run(
        [sys.executable, "-c", listing, *commands["query, a new photo"][3:]], capture_output=True, text=True, check=True
    )
    heavy = {"cv2", "numpy", "openvino", "annoy", "rich", "sqlite3", "tensorflow", "keras", "sklearn", "matplotlib"}
    print(f"  imported by a query: {', '.join(sorted(heavy & set(done.stderr.split())))}")


def compare(commands: dict[str, list[str]]) -> None:
    """Time commands in turn, after a warm-up, and print medians, ratios to the first, and peak memory."""
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    mebibytes: dict[str, float] = {}
    for counted in [False] + [True] * ROUNDS:
        for name, command in commands.items():
            started = time.perf_counter()
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            assert process.returncode == 0, command
            if counted:
                seconds[name].append(time.perf_counter() - started)
                mebibytes[name] = max(mebibytes.get(name, 0), usage.ru_maxrss / 1024)
    first = next(iter(seconds.values()))
    for name, values in seconds.items():
        ratios = [value / base for value, base in zip(values, first, strict=True)]
        print(
            f"  {name:<30} {median(values):.3f} s (of {ROUNDS}), ratio {median(ratios):.3f}, {mebibytes[name]:.0f} MiB"
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
