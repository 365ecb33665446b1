"""A backend is one class in the table: this one is in no other module, and everything works with it."""

import numpy as np
import pytest

from imgsearch import Index, build_index, check, evaluate, info
from imgsearch.cli import main
from imgsearch.errors import DamagedIndexError
from imgsearch.search.backends import BACKENDS
from imgsearch.store.search_settings import BackendSettings


class ToyBackend:
    """Keeps a copy of the vectors, and looks at the first `search_k` thousandths of them."""

    name = "toy"
    file = "toy.npy"
    numbers = "float32"

    def ensure_available(self, *, by_fork=False):
        pass

    def estimated_bytes(self, count, vector_bytes, options):
        return count * vector_bytes

    def trials(self, options, count):
        return [BackendSettings(self.name, 0, options.seed, 125)]

    def build(self, folder, vectors, settings):
        np.save(folder / self.file, vectors)

    def take_over(self, folder, vectors, settings, before, new_rows):
        return False

    def check(self, folder, vectors, settings):
        if not np.array_equal(np.load(folder / self.file), vectors):
            raise DamagedIndexError("other vectors")

    def open(self, folder, vectors, settings):
        toy = ToyCandidates()
        toy.vectors = np.load(folder / self.file)[: max(1, len(vectors) * settings.effort // 1000)]
        return toy

    def efforts(self, settings, count):
        yield from (125, 250, 500, 1000)

    def effort_range(self, settings, k, count):
        return 1, 1000

    def describe(self, settings):
        return f"toy, {settings.effort} of 1000"


class ToyCandidates:
    def candidates(self, vector, k):
        return np.argsort(-(self.vectors @ vector))[:k]


@pytest.fixture
def toy(monkeypatch):
    monkeypatch.setitem(BACKENDS, "toy", ToyBackend())


def test_a_backend_in_the_table_is_built_searched_evaluated_described_and_checked(toy, built, tmp_path, photo, capfd):
    index = tmp_path / "index"

    build_index(built / "catalog", index, backbone="handcrafted", backend="toy")

    manifest = info(index).manifest
    assert (manifest.backend.name, manifest.backend.effort, manifest.measured.recall) == ("toy", 1000, 1)
    assert f"{manifest.folder}/toy.npy" in manifest.files
    with Index.open(index) as opened, Index.open(built / "exact") as exact:
        assert opened.plan() == "toy"
        assert opened.search(photo, k=7) == exact.search(photo, k=7)
    recall = evaluate(index, recall=True).recall
    assert recall.plan == "toy"
    assert recall.recall[10].mean() == 1
    assert [point.effort for point in recall.curve] == [62, 125, 250, 500, 1000]
    assert main(["info", "--index", str(index)]) == 0
    assert "toy, 1000 of 1000" in capfd.readouterr().out
    assert main(["query", str(photo), "--index", str(index), "--format", "paths"]) == 0
    assert check(index, deep=True) == []

    (index / manifest.folder / "toy.npy").write_bytes(b"damaged")
    assert [finding.file for finding in check(index)] == [f"{manifest.folder}/toy.npy"]


def test_an_index_of_an_unknown_backend_is_refused_by_its_name(toy, built, tmp_path, monkeypatch):
    build_index(built / "catalog", tmp_path / "index", backbone="handcrafted", backend="toy")
    monkeypatch.delitem(BACKENDS, "toy")

    with pytest.raises(DamagedIndexError, match="'toy'"):
        Index.open(tmp_path / "index")
    assert ["'toy'" in finding.problem for finding in check(tmp_path / "index")] == [True]
