"""Which image each row of the shop's data is about, and what is said of rows without one and images without a row."""

import json
import re
import sqlite3
import unicodedata
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imgsearch import build_index, embed
from imgsearch.build import generation, journal
from imgsearch.build.metadata import Product, comparable_name
from imgsearch.build.products import SCHEMA, Products
from imgsearch.cli import main
from imgsearch.store.info import info
from shop_files import items

UMLAUT = "a/Größe 1.png"


@pytest.fixture
def report(small, index, tmp_path):
    """Build from the command line, and give the exit code and the report."""

    def run(*options):
        arguments = ["build-index", str(small), "--index", str(index), "--report", str(tmp_path / "report.json"), "-q"]
        code = main([*arguments, "--backbone", "handcrafted", "--backend", "exact", *map(str, options)])
        return code, json.loads((tmp_path / "report.json").read_text())

    return run


# --- names that differ between systems


@pytest.mark.parametrize(
    "written",
    [
        "A/GRÖSSE 1.PNG",
        unicodedata.normalize("NFD", UMLAUT),
        unicodedata.normalize("NFD", ".\\A\\größe 1.Png"),
    ],
)
def test_a_path_may_differ_by_letter_case_and_unicode_form(build, index, products, small, painted, written):
    (small / UMLAUT).write_bytes(painted(70))
    build(metadata=products(f"path,product\n{written},Large\n"))

    assert items(index)[UMLAUT].product == "Large"


def test_an_image_whose_name_is_decomposed_is_found_too(build, index, products, small, painted):
    (small / unicodedata.normalize("NFD", UMLAUT)).write_bytes(painted(70))
    build(metadata=products(f"path,product\n{UMLAUT},Large\n"))

    assert items(index)[unicodedata.normalize("NFD", UMLAUT)].product == "Large"


def test_what_may_be_one_of_two_images_is_none(build, index, products, small, painted):
    for name in ("Red.png", "red.png"):
        (small / name).write_bytes(painted(70))
    build(metadata=products("path,product\nRED.png,Red\na/0000.png,Mug\n"))

    assert {items(index)[name].product for name in ("Red.png", "red.png")} == {"Red", "red"}
    assert info(index, unmatched=9).rows_without_image == ((2, "RED.png"),)


def test_a_row_for_an_image_as_it_is_called_is_taken_before_one_for_nearly_that(build, index, products):
    build(metadata=products("path,product\na/0000.png,Right\nA/0000.PNG,Wrong\n"))

    assert items(index)["a/0000.png"].product == "Right"
    assert info(index, unmatched=9).rows_without_image == ((3, "A/0000.PNG"),)


# --- several images of a row


def test_images_of_a_row_belong_together(build, index, products):
    build(metadata=products("images,product,n\n./C/0002.png|a/0000.png|gone.png,,1\nb/0001.png|a/0003.png,Mug,2\n"))

    found = items(index)
    assert [found[path].product for path in ("c/0002.png", "a/0000.png")] == ["c/0002", "c/0002"]
    assert [found[path].product for path in ("b/0001.png", "a/0003.png")] == ["Mug", "Mug"]
    assert [found[path].metadata for path in ("c/0002.png", "b/0001.png")] == [{"n": 1}, {"n": 2}]
    assert info(index, unmatched=9).rows_without_image == ((2, "gone.png"),)


def test_a_row_whose_first_image_is_in_a_later_row_is_still_called_by_it(build, index, products, caplog):
    build(metadata=products("images,n\na/0000.png|b/0001.png,1\na/0000.png,2\n"))

    found = items(index)
    assert (found["b/0001.png"].product, found["b/0001.png"].metadata) == ("a/0000", {"n": 1})
    assert (found["a/0000.png"].product, found["a/0000.png"].metadata) == ("a/0000", {"n": 2})
    assert "1 rows of" in caplog.text


# --- what is left over


def test_what_has_no_match_is_counted_and_listed(report, index, products, capsys):
    file = products("path,n\na/0000.png,1\ngone.png,2\n,3\nb/0001.png,4\n")

    for published in (True, False):
        code, said = report("--metadata", file)
        assert (code, said["published"]) == (0, published)
        assert (said["counts"]["rows_without_image"], said["counts"]["images_without_row"]) == (2, 10)
        assert said["rows_without_image"] == [{"line": 3, "path": "gone.png"}, {"line": 4, "path": ""}]
        assert (len(said["images_without_row"]), said["images_without_row"][0]) == (10, "a/0003.png")

    capsys.readouterr()
    assert main(["info", "--index", str(index), "--unmatched", "--format", "json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert listed == {name: said[name] for name in ("rows_without_image", "images_without_row")}
    assert main(["info", "--index", str(index), "--unmatched"]) == 0
    assert capsys.readouterr().out.splitlines()[:3] == [
        "no image  line 3          gone.png",
        "no image  line 4          ",
        "no row                    a/0003.png",
    ]
    assert main(["info", "--index", str(index), "--unmatched", "--rejected"]) == 2


def test_names_that_match_nothing_do_not_reach_a_terminal_as_they_are(build, index, products, capsys):
    build(metadata=products("path\na/0000.png\n\x1b[31m.png\n"))

    assert main(["info", "--index", str(index), "--unmatched"]) == 0
    assert "\x1b" not in capsys.readouterr().out


def test_an_image_that_cannot_be_used_is_none(report, products, small):
    (small / "bad.png").touch()

    _, said = report("--metadata", products("path\nbad.png\na/0000.png\n"))

    assert said["rows_without_image"] == [{"line": 2, "path": "bad.png"}]
    assert said["counts"]["images_without_row"] == 11


def test_without_data_nothing_is_without_a_match(report, index):
    _, said = report()

    assert (said["counts"]["rows_without_image"], said["counts"]["images_without_row"]) == (0, 0)
    assert info(index, unmatched=9).images_without_row == ()


def test_data_that_are_taken_back_leave_nothing_without_a_match(report, index, products):
    report("--metadata", products("path\na/0000.png\n"))
    _, said = report("--metadata", "none")

    assert (said["published"], said["counts"]["images_without_row"]) == (True, 0)
    assert info(index, unmatched=9).images_without_row == ()


def test_embeddings_say_what_matches_nothing(small, products, tmp_path):
    embed(small, tmp_path / "vectors", backbone="handcrafted", metadata=products("path\na/0000.png\ngone.png\n"))
    built = build_index(tmp_path / "vectors", tmp_path / "index", backend="exact")

    assert (built.rows_without_image, built.images_without_row) == (1, 11)
    assert info(tmp_path / "index", unmatched=2).images_without_row == ("a/0003.png", "a/0006.png")


@pytest.fixture
def build_before(build, monkeypatch):
    """Build as an imgsearch did that had no such lists."""

    def run(**options):
        with monkeypatch.context() as before:
            schema = re.sub(r"CREATE TABLE (rows_without_image|images_without_row) \([^;]*;", "", journal.SCHEMA)
            before.setattr(journal, "SCHEMA", f"{schema} PRAGMA user_version = 0;")
            before.setattr(Products, "write_unmatched", lambda _: None)
            build(**options)

    return run


def test_an_index_of_before_gains_the_lists_with_its_next_build_and_without_an_encoder(
    build_before, index, small, products, no_encoder
):
    build_before(metadata=products("path,n\na/0000.png,1\ngone.png,2\n"))
    assert info(index, unmatched=9).images_without_row == ()
    no_encoder()

    assert build_index(small, index).published
    assert len(info(index, unmatched=99).images_without_row) == 11
    assert not build_index(small, index).published


# --- whatever paths there are

parts = st.sampled_from(["a", "A", "b", "é", unicodedata.normalize("NFD", "é"), "É", "\udce9", "ß", "SS"])
paths = st.lists(parts, min_size=1, max_size=2).map("/".join) | st.lists(parts, min_size=2, max_size=2).map("\\".join)


rows_of_paths = st.lists(st.tuples(st.sampled_from(["", "./"]), paths).map("".join), max_size=6)


@given(st.lists(paths, unique=True, max_size=5), rows_of_paths)
@settings(deadline=None, max_examples=200)
def test_rows_go_to_the_images_that_they_name(images, written):
    """Each path as it is, else without dot and backslashes, else that of the only image alike; the last row wins."""
    alike = Counter(map(comparable_name, images))
    called, meant = {}, {}
    for line, path in enumerate(written):
        below = path.replace("\\", "/").removeprefix("./")
        if path in images or below in images:
            called[path if path in images else below] = line
        elif alike[comparable_name(below)] == 1:
            meant[next(image for image in images if comparable_name(image) == comparable_name(below))] = line

    assert matched(images, written) == meant | called


def matched(images, written):
    """Return the line of each image's row."""
    connection = sqlite3.connect(":memory:", isolation_level=None)
    connection.text_factory = lambda data: data.decode("utf-8", "surrogateescape")
    connection.executescript(SCHEMA + "CREATE TABLE files (path TEXT NOT NULL UNIQUE);")
    encoded = [(path.encode("utf-8", "surrogateescape"),) for path in images]
    connection.executemany("INSERT INTO files VALUES (CAST(? AS TEXT))", encoded)
    given_rows = [Product(line, (path,), None, None, "{}") for line, path in enumerate(written)]
    Products(connection).add(given_rows, "products.csv", [])
    found = dict(connection.execute("SELECT path, line FROM products JOIN files USING (path)"))
    connection.close()
    return found


def test_the_projection_is_learned_from_one_image_of_each_product(build, index, small, products, monkeypatch):
    learned = []
    monkeypatch.setattr(generation, "SMALLEST_CATALOG", 4)
    monkeypatch.setattr(generation, "learn_projection", learned.append)
    paths = sorted(path.relative_to(small).as_posix() for path in small.rglob("*.png"))

    build(metadata=products("path,product\n" + "".join(f"{path},{n // 2}\n" for n, path in enumerate(paths))))

    embeddings = np.load(index / "gen-000001" / "embeddings.npy")
    assert len(learned) == 1
    assert np.array_equal(learned[0], embeddings[::2])
