"""A folder that somebody changes all the time while it is indexed."""

import contextlib
import hashlib
import json
import os
import shutil
import sqlite3
import threading
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

NAMES = [*(f"{number:02d}.png" for number in range(40)), *(f"sub/{number:02d}.png" for number in range(20))]
BUILD = ("build-index", "root", "--index", "idx", "--report", "report.json", "--force")
CAUSES = {"vanished", "changed", "not_regular_file", "unreadable", "corrupt", "empty"}


class Mutator(threading.Thread):
    """Changes a random file in a random way, again and again, and knows what each should be in the end.

    Attributes:
        whole: The sha256 of every image that ever lay there whole.
        fates: What a build should make of each file, if nothing changes any more.
        changes: How often it did what.
    """

    def __init__(self, root: Path, secret: Path, contents: list[bytes]) -> None:
        super().__init__()
        self.whole: set[bytes] = set()
        self.fates: dict[str, str] = {}
        self.changes: Counter[str] = Counter()
        self.failure: Exception | None = None
        self._root = root
        self._secret = secret
        self._contents = contents
        self._generator = np.random.default_rng(0)
        self._ended = threading.Event()
        (root / "sub").mkdir(parents=True)
        for name in NAMES:
            self._replace(name)

    def run(self) -> None:
        ways = [
            *(self._replace, self._replace, self._replace, self._overwrite, self._truncate, self._empty, self._grow),
            *(self._remove, self._fifo, self._link, self._folder, self._touch, self._move_folder),
        ]
        try:
            while not self._ended.wait(0.002):
                way = ways[self._generator.integers(len(ways))]
                way(NAMES[self._generator.integers(len(NAMES))])
                self.changes[way.__name__] += 1
        except Exception as error:  # noqa: BLE001  # a test asks for it
            self.failure = error

    def end(self) -> None:
        self._ended.set()
        self.join()
        assert self.failure is None

    def _content(self) -> bytes:
        content = self._contents[self._generator.integers(len(self._contents))]
        self.whole.add(hashlib.sha256(content).digest())
        return content

    def _clear(self, name: str) -> Path:
        path = self._root / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
        self.fates.pop(name, None)
        self.fates.pop(f"{name}/inner.png", None)
        return path

    def _replace(self, name: str) -> None:
        draft = self._root / ".draft"
        draft.write_bytes(self._content())
        if (self._root / name).is_dir():
            self._clear(name)
        draft.replace(self._root / name)
        self.fates[name] = "indexed"

    def _overwrite(self, name: str) -> None:
        content = self._content()
        path = self._clear(name) if self.fates.get(name) == "not_regular_file" else self._root / name
        if path.is_symlink() or path.is_dir():
            path = self._clear(name)
        with open(os.open(path, os.O_WRONLY | os.O_CREAT, 0o644), "wb", buffering=0) as file:
            file.write(content[: len(content) // 2])
            time.sleep(0.001)
            file.write(content[len(content) // 2 :])
            file.truncate()
        self.fates[name] = "indexed"

    def _truncate(self, name: str) -> None:
        if self.fates.get(name) == "indexed":
            os.truncate(self._root / name, (self._root / name).stat().st_size // 2)
            self.fates[name] = "corrupt"

    def _empty(self, name: str) -> None:
        self._clear(name).touch()
        self.fates[name] = "empty"

    def _grow(self, name: str) -> None:
        if self.fates.get(name) == "indexed":
            content = (self._root / name).read_bytes()
            for _ in range(3):
                content += b"more"
                self.whole.add(hashlib.sha256(content).digest())
                with (self._root / name).open("ab") as file:
                    file.write(b"more")

    def _remove(self, name: str) -> None:
        self._clear(name)

    def _fifo(self, name: str) -> None:
        os.mkfifo(self._clear(name))
        self.fates[name] = "not_regular_file"

    def _link(self, name: str) -> None:
        self._clear(name).symlink_to(self._secret)

    def _folder(self, name: str) -> None:
        path = self._clear(name)
        path.mkdir()
        (path / "inner.png").write_bytes(self._content())
        self.fates[f"{name}/inner.png"] = "indexed"

    def _touch(self, name: str) -> None:
        seconds = int(self._generator.integers(-(2**33), 2**33))
        if name in self.fates:
            os.utime(self._root / name, (seconds, seconds))

    def _move_folder(self, _: str) -> None:
        (self._root / "sub").rename(self._root / "moved")
        time.sleep(0.001)
        (self._root / "moved").rename(self._root / "sub")


def contents_of(index: Path) -> set[bytes]:
    manifest = json.loads((index / "manifest.json").read_bytes())
    items = index / f"gen-{manifest['generation']:06d}" / "items.sqlite"
    with contextlib.closing(sqlite3.connect(f"file:{items}?mode=ro", uri=True)) as connection:
        return {sha256 for (sha256,) in connection.execute("SELECT sha256 FROM items")}


@pytest.mark.parametrize("seconds", [1, pytest.param(60, marks=pytest.mark.slow)])
def test_a_folder_that_changes_all_the_time_gives_an_index_of_whole_images(
    make, run, report, outcomes, tmp_path, seconds
):
    secret = tmp_path / "secret.png"
    secret.write_bytes(make.encoded(".png", make.painted(999)))
    mutator = Mutator(tmp_path / "root", secret, [make.encoded(".png", make.grained(seed)) for seed in range(30)])
    run(*BUILD, "--backbone", "handcrafted", "--backend", "exact", cwd=tmp_path)
    seen: Counter[str] = Counter()
    mutator.start()
    try:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            done = run(*BUILD, cwd=tmp_path, process=True)

            assert done.code in (0, 3), done.err
            assert b"Traceback" not in done.err
            facts = report(tmp_path / "report.json")
            assert set(facts["counts"]["rejected_by_cause"]) <= CAUSES
            assert contents_of(tmp_path / "idx") <= mutator.whole
            seen.update(facts["counts"]["rejected_by_cause"])
    finally:
        mutator.end()
    last = run(*BUILD, cwd=tmp_path)
    again = run(*BUILD, cwd=tmp_path)

    assert last.code in (0, 3)
    assert outcomes(tmp_path / "idx") == mutator.fates
    assert (again.code, report(tmp_path / "report.json")["published"]) == (0, False)
    assert len(mutator.changes) == 11
    assert {"not_regular_file", "corrupt", "empty"} <= set(seen)
