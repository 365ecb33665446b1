"""Annoy for builds and checks whose point is not a process that may crash: what those are for, tests/search proves."""

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from imgsearch.search.backends import annoy_child
from imgsearch.search.backends.protocol import utf8_name


def run_here(task: Mapping[str, Any], folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Do a task of Annoy in this process: to start another takes longer than the rest of a small check."""
    with utf8_name(folder or Path()) as name:
        if "file" in task:
            task = {**task, "file": f"{name}/{task['file']}"}
        return subprocess.CompletedProcess([], 0, json.dumps(annoy_child.answer(task)), "")
