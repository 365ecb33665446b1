"""Readers while an index is rebuilt and rolled back: none fails, and each sees one whole generation."""

import json
import shutil
import subprocess
import sys

import pytest

from imgsearch import build_index, rollback
from imgsearch.store.generations import read_manifest

# It asks until it is told to stop and has asked often enough, and writes what each generation answered.
READ = """
import json, select, sys
from imgsearch import Index
directory, known, unknown, least = sys.argv[1:]
answers, count = {}, 0
print("reading", flush=True)
while not select.select([sys.stdin], [], [], 0)[0] or count < int(least):
    with Index.open(directory) as index:
        hits = index.search(known)
        assert hits[0].path == "a/0003.png", hits
        found = [(hit.path, hit.score) for hit in index.search(unknown, k=100)]
        generation = index.manifest.generation
        assert len(found) == len(index), (len(found), len(index))
        assert answers.setdefault(generation, found) == found, generation
        count += 2
print(json.dumps([count, answers]))
"""

CHECK = """
import json, select, sys
from imgsearch import check
directory, *_, least = sys.argv[1:]
found, count = [], 0
print("checking", flush=True)
while not select.select([sys.stdin], [], [], 0)[0]:
    found += [f"{finding.file}: {finding.problem}" for finding in check(directory, deep=True)]
    count += 1
print(json.dumps([count, found]))
"""


@pytest.mark.parametrize("backend", [pytest.param("exact", marks=pytest.mark.slow), "annoy"])
@pytest.mark.parametrize(
    ("rebuilds", "readers", "queries"), [(2, 2, 20), pytest.param(20, 4, 1000, marks=pytest.mark.slow)]
)
def test_readers_of_an_index_that_is_rebuilt_and_rolled_back_never_fail_and_see_whole_generations(
    built, tmp_path, painted, photo, answers, leftovers, figure, backend, rebuilds, readers, queries
):
    catalog, directory = tmp_path / "catalog", tmp_path / "index"
    shutil.copytree(built / "catalog", catalog)
    build_index(catalog, directory, backbone="handcrafted", backend=backend)
    expected = {1: answers(directory, photo, k=100)}
    arguments = [directory, catalog / "a/0003.png", photo, str(queries // readers)]
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", script, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for script in [READ] * readers + [CHECK]
    ]
    try:
        assert [process.stdout.readline() for process in processes] == ["reading\n"] * readers + ["checking\n"]
        for number in range(rebuilds):
            if number % 5 == 4:
                rollback(directory)
            else:
                (catalog / "a" / f"{8000 + number // 2}.png").write_bytes(painted(8000 + number))
                assert build_index(catalog, directory).published
            expected[read_manifest(directory).generation] = answers(directory, photo, k=100)
    finally:
        outcomes = [(*process.communicate("stop\n"), process.returncode) for process in processes]

    assert [(errors, code) for _, errors, code in outcomes] == [("", 0)] * (readers + 1)
    *read, (checks, findings) = [json.loads(output) for output, _, _ in outcomes]
    assert len(expected) == rebuilds + 1
    for count, seen in read:
        assert count >= queries // readers
        assert seen == {generation: list(map(list, expected[int(generation)])) for generation in seen}
    assert findings == []
    assert leftovers(directory) == []
    figure("queries", sum(count for count, _ in read))
    figure("generations seen", sum(len(seen) for _, seen in read))
    figure("checks", checks)
