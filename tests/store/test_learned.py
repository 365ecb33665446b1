"""Files that were learned from events belong to a generation: published, kept by builds, rolled back, dropped."""

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from imgsearch import Index, build_index, check, rollback
from imgsearch.errors import DamagedIndexError
from imgsearch.store import generations
from imgsearch.store.generations import RANKING, RECOMMEND, RECOMMEND_ROWS, read_manifest
from imgsearch.store.integrity import file_record
from imgsearch.store.learned import Blend, RankingFacts, RecommendFacts
from imgsearch.store.learned_products import NAMES, names_array, product_names, read_rows, rows_of_products, write_rows
from imgsearch.store.publishing import amend, publish_learned

pytestmark = pytest.mark.usefixtures("quick_builds")

FACTS = RecommendFacts("ease", Blend(0.5, 0.25, 0.25), 30.0, 1_700_000_000_000_000, 7, 2, 2, 0, 0.0)
ORDER = RankingFacts("linear", 1_700_000_000_000_000, 100, 20, 0.01, 1.0)
# A product that left, and one whose name is not UTF-8.
NAMES_LEARNED = ("b/0004", "c/0777", "a/0000", "caf\udce9")


def learn(directory, names=NAMES_LEARNED):
    """Publish what might have been learned for the products of these names."""
    current = read_manifest(directory)
    rows = np.full(current.count, -1, np.int32)
    files = {
        RECOMMEND: lambda file: np.savez(file, **{NAMES: names_array(names)}),
        RECOMMEND_ROWS: lambda file: write_rows(file, rows),
        RANKING: lambda file: file.write(b"an order"),
    }
    return publish_learned(directory, current, files, recommend=FACTS, ranking=ORDER)


@pytest.fixture
def learned(tmp_path, small):
    """An index with learned files."""
    directory = tmp_path / "index"
    build_index(small, directory, backbone="handcrafted", backend="exact")
    learn(directory)
    return directory


def learned_files(directory):
    manifest = read_manifest(directory)
    return {Path(name).name for name in manifest.files} & {RECOMMEND, RECOMMEND_ROWS, RANKING}


def test_what_is_learned_is_published_as_a_generation_of_its_own(learned, contents):
    manifest = read_manifest(learned)

    assert (manifest.generation, manifest.recommend, manifest.ranking) == (2, FACTS, ORDER)
    assert learned_files(learned) == {RECOMMEND, RECOMMEND_ROWS, RANKING}
    assert check(learned, deep=True) == []
    before = contents(learned)
    rollback(learned)
    assert contents(learned) == before
    assert read_manifest(learned).recommend is None
    assert learned_files(learned) == set()
    rollback(learned)
    assert read_manifest(learned).recommend == FACTS
    assert check(learned, deep=True) == []


def test_a_build_keeps_what_was_learned_and_finds_the_products_in_their_new_rows(learned, small, painted):
    (small / "a" / "0000.png").unlink()
    (small / "c" / "0777.png").write_bytes(painted(70))

    build_index(small, learned)

    manifest = read_manifest(learned)
    rows = np.load(learned / manifest.folder / RECOMMEND_ROWS)
    with_products = {int(place): path for path, place in zip(paths(learned), rows, strict=True) if place >= 0}
    assert with_products == {0: "b/0004.png", 1: "c/0777.png"}
    assert (manifest.recommend, manifest.ranking) == (FACTS, ORDER)
    assert check(learned, deep=True) == []


def paths(directory):
    with Index.open(directory) as index:
        return list(index.items.column("path"))


def test_a_build_drops_what_was_learned_for_other_vectors(learned, small, caplog):
    build_index(small, learned, preprocess="grayscale")

    manifest = read_manifest(learned)
    assert (manifest.recommend, manifest.ranking, learned_files(learned)) == (None, None, set())
    assert "imgsearch train --objective recommend again" in caplog.text


@pytest.mark.parametrize("name", [RECOMMEND, RANKING])
def test_a_build_drops_a_damaged_file_and_keeps_the_rest(learned, small, name):
    file = learned / read_manifest(learned).folder / name
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(DamagedIndexError, match="is damaged") as refused:
        paths(learned)
    assert "imgsearch train --objective" in refused.value.hint

    build_index(small, learned)

    assert learned_files(learned) == {RECOMMEND, RECOMMEND_ROWS, RANKING} - {name} - (
        {RECOMMEND_ROWS} if name == RECOMMEND else set()
    )
    assert check(learned) == []


def test_nothing_is_learned_for_a_damaged_generation(learned):
    """Publishing would sweep the last whole one."""
    vectors = learned / read_manifest(learned).folder / generations.VECTORS
    content = bytearray(vectors.read_bytes())
    content[-1] ^= 1
    vectors.write_bytes(content)

    with pytest.raises(DamagedIndexError, match="its content has changed"):
        learn(learned)

    assert read_manifest(learned).generation == 2
    assert (learned / "gen-000001").is_dir()


def test_names_of_products_survive_whatever_bytes_they_have(tmp_path):
    names = ("a", "caf\udce9", "日本", "x" * 300)
    with (tmp_path / RECOMMEND).open("wb") as file:
        np.savez(file, **{NAMES: names_array(names)})

    assert product_names(tmp_path / RECOMMEND) == names


def test_a_build_drops_a_file_that_is_as_published_and_cannot_be_read(learned, small, caplog):
    """Else no build would end any more."""
    manifest = read_manifest(learned)
    file = learned / manifest.folder / RECOMMEND
    file.write_bytes(b"no archive")
    files = {**manifest.files, f"{manifest.folder}/{RECOMMEND}": file_record(file)}
    amend(learned, replace(manifest, files=files))
    (small / "a" / "0000.png").unlink()

    build_index(small, learned)

    assert learned_files(learned) == {RANKING}
    assert "train --objective recommend again" in caplog.text


@pytest.mark.parametrize(
    "header", [b"{'shape': (999999999999,), ", b"{'shape': ((((((((((((((", b"{'shape': (4, 4), 'descr': '<i4'}"]
)
def test_rows_with_a_damaged_header_are_damaged(tmp_path, header):
    file = tmp_path / RECOMMEND_ROWS
    with file.open("wb") as opened:
        write_rows(opened, np.zeros(4, np.int32))
    content = file.read_bytes()
    file.write_bytes(content[:10] + header.ljust(117) + content[127:])

    with pytest.raises(DamagedIndexError, match=f"{RECOMMEND_ROWS} is damaged"):
        read_rows(file, 4, 1)


@pytest.mark.parametrize("arrays", [{}, {NAMES: np.zeros((2, 2), np.uint8)}, {NAMES: np.zeros(3, np.int64)}])
def test_a_file_without_names_is_damaged(tmp_path, arrays):
    with (tmp_path / RECOMMEND).open("wb") as file:
        np.savez(file, **arrays)

    with pytest.raises(DamagedIndexError, match="cannot be read"):
        product_names(tmp_path / RECOMMEND)


def test_a_product_of_several_images_has_all_their_rows():
    class Items:
        def column(self, name):
            assert name == "product"
            return iter(["shoe", "lamp", "shoe", "new"])

    file = io.BytesIO()
    write_rows(file, rows_of_products(Items(), ("lamp", "shoe"), 4))

    assert np.load(io.BytesIO(file.getvalue())).tolist() == [1, 0, 1, -1]
