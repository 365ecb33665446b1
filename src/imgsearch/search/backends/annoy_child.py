"""The process that `annoy` starts: it imports Annoy and nothing else, so that it starts fast.

It reads a task as a JSON object from its command line: `{}` to try Annoy, or `{"file", "dims", "rows", "search_k"}`
to open a forest. It answers with `{"items", "trees", "vectors", "nearest"}`: of each row the vector, and the nearest
item.
"""

import json
import os
import sys
from collections.abc import Mapping
from typing import Any


def answer(task: Mapping[str, Any]) -> dict[str, Any]:
    """Do a task."""
    from annoy import AnnoyIndex

    forest = AnnoyIndex(task.get("dims", 8), "angular")
    if "file" in task:
        forest.load(task["file"])
    else:
        for row in range(16):
            forest.add_item(row, [float(row >> bit & 1) + 0.5 for bit in range(8)])
        forest.build(2, n_jobs=1)
    count = forest.get_n_items()  # beyond which Annoy reads whatever is there
    rows = [row for row in task.get("rows", [0]) if row < count]
    found = [forest.get_nns_by_item(row, 1, task.get("search_k", 16)) for row in rows]
    return {
        "items": count,
        "trees": forest.get_n_trees(),
        "vectors": [forest.get_item_vector(row) for row in rows],
        "nearest": [neighbors[0] if neighbors else None for neighbors in found],
    }


def returncode_of_fork() -> int:
    """Try Annoy in a fork of this process, of one thread: it takes a millisecond, a new process far more."""
    child = os.fork()
    if child == 0:
        try:
            answer({})
            os._exit(0)
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


if __name__ == "__main__":
    sys.stdout.write(json.dumps(answer(json.loads(sys.argv[1]))))
