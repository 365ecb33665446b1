import sqlite3

import numpy as np
import pytest

from imgsearch import Index, NoIndexError, UsageError, build_index, info, neighbors
from imgsearch.catalog import lists
from imgsearch.catalog import neighbors as module
from imgsearch.errors import LockedError

pytestmark = pytest.mark.usefixtures("quick_builds")


def as_lists(found):
    return {each.name: [(other.name, other.score) for other in each.neighbors] for each in found}


def test_they_are_what_a_search_by_every_item_finds(cared):
    found = as_lists(neighbors(cared / "index", top_k=3))

    with Index.open(cared / "index") as index:
        assert len(found) == len(index)
        for row, path in enumerate(index.items.column("path")):
            hits = [hit for hit in index.search_vector(np.array(index.nearest.vectors[row]), 5) if hit.path != path]
            assert [score for _, score in found[path]] == pytest.approx([hit.score for hit in hits[:3]], abs=2e-6)


def test_a_copy_is_a_neighbor_and_the_item_itself_is_not(cared):
    found = as_lists(neighbors(cared / "index", top_k=2))

    assert ("more/equal.png", pytest.approx(1, abs=2e-6)) in found["fish/fish-01.png"]
    assert all(name not in [other for other, _ in near] for name, near in found.items())


def test_products_are_as_near_as_their_nearest_images(own):
    folder = own()
    (folder / "products.csv").write_text("path,product\nmore/equal.png,fish\nmore/cropped.png,fish\n")
    build_index(folder / "catalog", folder / "index", metadata=folder / "products.csv")

    found = as_lists(neighbors(folder / "index", top_k=1, by="product"))

    assert found["fish"] == [("fish/fish-01", pytest.approx(1, abs=2e-6))]
    assert found["fish/fish-01"][0][0] == "fish"


def test_more_neighbors_than_there_are_items(cared):
    found = as_lists(neighbors(cared / "index", top_k=1000))

    assert {len(near) for near in found.values()} == {len(found) - 1}


def test_since_gives_the_lists_that_differ(own):
    folder = own()
    before = as_lists(neighbors(folder / "index", top_k=2))
    (folder / "catalog" / "more" / "equal.png").unlink()
    (folder / "catalog" / "new.png").write_bytes((folder / "catalog" / "cups" / "cups-00.png").read_bytes())
    build_index(folder / "catalog", folder / "index")
    now = as_lists(neighbors(folder / "index", top_k=2))

    found = as_lists(neighbors(folder / "index", top_k=2, since=2))

    assert found == {name: near for name, near in now.items() if before.get(name) != near}
    assert "new.png" in found
    assert 0 < len(found) < len(now)


def test_a_generation_that_is_gone_is_named_with_those_that_are_there(cared):
    with pytest.raises(NoIndexError, match="no generation 7") as caught:
        list(neighbors(cared / "index", since=7))

    assert caught.value.hint == "there is 1"


@pytest.mark.parametrize("top_k", [0, 1001])
def test_too_few_or_too_many_are_refused(cared, top_k):
    with pytest.raises(UsageError, match="top_k must be 1 to 1,000"):
        list(neighbors(cared / "index", top_k=top_k))


def test_an_interrupted_run_goes_on(cared, tmp_path, monkeypatch):
    monkeypatch.setattr(lists, "_ROWS", 3)
    expected = as_lists(neighbors(cared / "index"))
    work, done = tmp_path / "work", []

    def stop(_stage, number, _total):
        done.append(number)
        if number == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(neighbors(cared / "index", work=work, progress=stop))
    again = as_lists(neighbors(cared / "index", work=work, progress=lambda _stage, number, _total: done.append(number)))

    assert again == expected
    assert done == [1, 2, 3, 3, 4, 5]
    assert list(tmp_path.iterdir()) == []


def test_a_run_leaves_no_work_file_of_an_interrupted_one_with_since(cared, tmp_path):
    (tmp_path / "work-before").write_bytes(b"of an earlier generation")

    list(neighbors(cared / "index", work=tmp_path / "work"))

    assert list(tmp_path.iterdir()) == []


def test_one_process_at_a_time_has_a_work_file(cared, tmp_path):
    first = neighbors(cared / "index", work=tmp_path / "work")
    next(first)

    with pytest.raises(LockedError, match="another neighbors holds"):
        next(neighbors(cared / "index", work=tmp_path / "work"))

    first.close()
    assert [path.name for path in tmp_path.iterdir()] == ["work"]
    assert as_lists(neighbors(cared / "index", work=tmp_path / "work")) == as_lists(neighbors(cared / "index"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [b"garbage" * 1000, b""])
def test_a_work_file_of_something_else_is_made_anew(cared, tmp_path, content):
    work = tmp_path / "work"
    work.write_bytes(content)

    assert as_lists(neighbors(cared / "index", work=work)) == as_lists(neighbors(cared / "index"))


def test_a_work_file_of_other_settings_is_made_anew(cared, tmp_path):
    work = tmp_path / "work"
    module._open_work(work, "[1]").close()
    with sqlite3.connect(work) as connection:
        connection.execute("INSERT INTO blocks VALUES (0, 0, x'00', x'00')")

    assert as_lists(neighbors(cared / "index", work=work)) == as_lists(neighbors(cared / "index"))
    assert info(cared / "index").manifest.generation == 1
