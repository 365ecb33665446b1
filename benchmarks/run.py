"""Run all benchmarks, one process each, and say on what machine: python benchmarks/run.py FOLDER."""

import importlib.metadata
import os
import platform
import subprocess
import sys
from pathlib import Path

BENCHMARKS = (
    "answers",
    "colors",
    "quality",
    "encoders",
    "adaptation",
    "regions",
    "calibration",
    "combining",
    "feedback",
    "personal",
    "text",
    "throughput",
    "int8",
    "isolation",
    "cold_query",
    "threads",
    "service",
    "large_index",
    "scale",
    "filters",
    "products",
    "metadata",
    "full_text",
    "duplicates",
    "neighbors",
    "outliers",
    "sentences",
    "words_speed",
)
LIBRARIES = ("keras", "tensorflow", "openvino", "opencv-python-headless", "numpy", "annoy")


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    processor = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        platform.processor(),
    )
    print(f"machine: {processor}, {len(os.sched_getaffinity(0))} processors, {platform.system()}")
    print(f"versions: Python {platform.python_version()}, ", end="")
    print(", ".join(f"{name} {importlib.metadata.version(name)}" for name in LIBRARIES))
    here = Path(__file__).parent
    environment = {**os.environ, "PYTHONPATH": str(here.parent / "examples"), "TF_CPP_MIN_LOG_LEVEL": "3"}
    for name in BENCHMARKS:
        print(f"\n{name}", flush=True)
        subprocess.run([sys.executable, here / f"{name}.py", folder], env=environment, check=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
