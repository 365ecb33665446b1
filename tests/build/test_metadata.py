"""The shop's data: every CSV file that a spreadsheet writes is read as it is, or refused by the place of its fault."""

import csv
import io
import json
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imgsearch import Index, build_index, embed
from imgsearch.build.metadata import read_products
from imgsearch.errors import RefusedError, UsageError
from imgsearch.store.columns import NUMBER
from imgsearch.store.generations import read_manifest
from index_fixtures import rows_where
from shop_files import items, refusal, rows

# --- what is read


def test_products_categories_and_other_columns_are_applied(build, index, products):
    table = products(
        "path,product,category,price,code,size,note\r\n"
        'a/0000.png,Red mug,mugs,4.50,00123,12,"a ""good"" one,\nreally"\r\n'
        "b/0001.png,,,-3,1e5,,=1+1\r\n"
        "gone.png,Gone,gone,1,1,1,\r\n"
    )
    build(metadata=table)

    first, second, third = (items(index)[path] for path in ("a/0000.png", "b/0001.png", "c/0002.png"))
    assert (first.product, first.category) == ("Red mug", "mugs")
    assert first.metadata == {"price": 4.5, "code": "00123", "size": 12, "note": 'a "good" one,\nreally'}
    assert (second.product, second.category) == ("b/0001", "b")
    assert second.metadata == {"price": -3, "code": "1e5", "size": None, "note": "=1+1"}
    assert (third.product, third.category, third.metadata) == ("c/0002", "c", {})
    with Index.open(index) as opened:
        assert rows_where(opened.items, "metadata->>'price' < 4.6") == [0, 4]


def test_a_number_keeps_the_text_that_it_is_written_with(build, index, products):
    build(metadata=products("path,version\na/0000.png,1.10\nb/0001.png,1.1\n"))

    with Index.open(index) as opened:
        assert rows_where(opened.items, "metadata->'version' = '1.10'") == [0]
        assert rows_where(opened.items, "metadata->>'version' = 1.1") == [0, 4]
        assert list(opened.items.column("version"))[:5:4] == ["1.10", "1.1"]


ENCODED = "path,note\na.png,Größe\n"


@pytest.mark.parametrize("given", ["utf-8", "cp1252"])
@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])  # with a byte order mark
def test_a_byte_order_mark_says_what_the_encoding_is(products, encoding, given):
    assert rows(products(ENCODED.encode(encoding)), given) == {"a.png": (2, None, None, {"note": "Größe"})}


def test_utf16_of_either_byte_order_is_read(products):
    for mark, encoding in ((b"\xff\xfe", "utf-16-le"), (b"\xfe\xff", "utf-16-be")):
        assert rows(products(mark + ENCODED.encode(encoding)))["a.png"][3] == {"note": "Größe"}


def test_a_named_encoding_is_used_and_remembered_for_that_file(build, index, products, small):
    text = "path,product\na/0000.png,Café 5 €\n"
    build(metadata=products(text.encode("cp1252")), metadata_encoding="CP1252")
    assert items(index)["a/0000.png"].product == "Café 5 €"

    products(text.replace("5", "6").encode("cp1252"))
    build_index(small, index)
    assert items(index)["a/0000.png"].product == "Café 6 €"

    build_index(small, index, metadata=products(text, "other.csv"))
    assert items(index)["a/0000.png"].product == "Café 5 €"


def test_a_file_that_has_become_utf8_is_not_read_in_the_encoding_of_before(products):
    assert "is UTF-8, expected cp1252" in refusal(products("path,note\na.png,Größe\n"), "cp1252").message
    assert rows(products("path,note\na.png,Größe\nb.png,Ã¼\n".encode("cp1252")), "cp1252")["a.png"][3] == {
        "note": "Größe"
    }


@pytest.mark.parametrize("name", ["klingon", "base64", "rot13", "a\0b"])
def test_an_encoding_nobody_knows_is_a_usage_error(build, products, name):
    with pytest.raises(UsageError, match="expected the name of an encoding"):
        build(metadata=products("path\n"), metadata_encoding=name)


@pytest.mark.parametrize(
    ("content", "encoding", "place"),
    [
        ("path,note\na.png,é\nb.png,Café\n".encode("latin-1"), "utf-8", "line 2: byte 16 (0xe9)"),
        ("path,note\na.png,ok\nb.png,Café\n".encode("latin-1"), "utf-8", "line 3: byte 28 (0xe9)"),
        ("path,größe\n".encode("latin-1"), "utf-8", "line 1: byte 7 (0xf6)"),
        (b"path,note\n\xe9.png,ok\nb.png,\xe9\n", "utf-8", "line 3: byte 25 (0xe9)"),  # a path may be of any bytes
        (b"path,note\na.png,\x81\n", "cp1252", "line 2: byte 16 (0x81)"),
        (b"path,note\ra.png,x\rb.png,\x8a\r", "utf-8", "byte 24 (0x8a)"),  # as a Mac of old writes it
        (b"path,note\n" + b"a.png,x\n" * 9000 + b"b.png,\xc3\n", "utf-8", "line 9002: byte 72016 (0xc3)"),
        (b"path,note\n" + b"a.png,x\n" * 9000 + b"b.png,\x81\n", "cp1252", "line 9002: byte 72016 (0x81)"),
        (b"\xff\xfe" + "path\n".encode("utf-16-le") + b"a", "utf-8", "ends within a character"),
    ],
)
def test_text_of_another_encoding_is_refused_by_its_first_byte(products, content, encoding, place):
    error = refusal(products(content), encoding)

    assert place in error.message
    assert "--metadata-encoding" in error.hint


def test_products_of_images_whose_names_are_not_utf8_are_applied(build, index, products, small, painted):
    (small / "caf\udce9.png").write_bytes(painted(80))
    build(metadata=products(b"path,product\ncaf\xe9.png,Coffee\n"))

    assert items(index)["caf\udce9.png"].product == "Coffee"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("path;price\na.png;1,50\n", {"a.png": (2, None, None, {"price": "1,50"})}),
        ("path\tnote\na.png\tx,y\n", {"a.png": (2, None, None, {"note": "x,y"})}),
        ('"path";"a;b"\n"a.png";"1"\n', {"a.png": (2, None, None, {"a;b": 1})}),
        ("path,n\r\na.png,1\r\n,\r\n,\r\n", {"a.png": (2, None, None, {"n": 1})}),  # what was deleted in a spreadsheet
        ("path,n\ra.png,1\r", {"a.png": (2, None, None, {"n": 1})}),
        ("path,n\n\n\na.png,1\n\n", {"a.png": (4, None, None, {"n": 1})}),
        ("path,n,,\na.png,1,,\nb.png,2\n", {"a.png": (2, None, None, {"n": 1}), "b.png": (3, None, None, {"n": 2})}),
        ("path,,n\na.png, ,1\n", {"a.png": (2, None, None, {"n": 1})}),
        ("path,n\na.png,1,,,\n", {"a.png": (2, None, None, {"n": 1})}),
        ('path,n\n"a\n.png",1\nb.png,2\n', {"a\n.png": (2, None, None, {"n": 1}), "b.png": (4, None, None, {"n": 2})}),
        ("path,n\na.png,٣\n", {"a.png": (2, None, None, {"n": "٣"})}),
        ("path,n\na.png,-0.50\n", {"a.png": (2, None, None, {"n": -0.5})}),
        ("path\n", {}),
    ],
)
def test_what_spreadsheets_write_is_read(products, text, found):
    assert rows(products(text)) == found


def test_rows_without_a_path_are_left_out_and_counted(products, caplog):
    assert list(rows(products("path,n\n,1\na.png,2\n,3\n"))) == ["a.png"]
    assert "2 rows of" in caplog.text


def test_a_large_cell_is_read_up_to_a_million_characters(products):
    limit = csv.field_size_limit()
    text = "path,note\na.png,{}\n"

    assert len(rows(products(text.format("x" * 1_000_000)))["a.png"][3]["note"]) == 1_000_000
    error = refusal(products(text.format("x" * 1_000_001)))

    assert "line 2: column 'note' has 1,000,001 characters" in error.message
    assert csv.field_size_limit() == limit


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected the column path or image or images, found nothing"),
        ("name,price\na,1\n", "line 1: expected the column path or image or images, found 'name', 'price'"),
        ("sep=;\npath;n\n", "found 'sep=;'"),
        ("Path,price\na,1\n", "found 'Path', 'price'"),
        ("path,price,price\n", "two columns have the same name: 'price' and 'price'"),
        ("path,price,Price\n", "two columns have the same name: 'price' and 'Price'"),
        ("path,PATH\n", "two columns have the same name"),
        ("path,price\na/0000.png\n", "line 2: expected 2 cells, as the header has, found 1"),
        ("path,price\nb/0001.png,1\na/0000.png,1,2\n", "line 3: '2' stands in a column without a name"),
        ("path,,n\na.png,x,1\n", "line 2: 'x' stands in a column without a name"),
        ('path,price\na/0000.png,"open\n', "line 2: not CSV: a quotation mark is not closed"),
        ('path,price\nb.png,1\na/0000.png,"open\n' + "x,1\n" * 100, "line 3: not CSV: a quotation mark is not closed"),
        ('path,price\na.png,"5" tall\n', "line 2: not CSV"),
        ("path,price\na.png,\0\n", "line 2: column 'price' has a NUL byte"),
        ("path\na\0.png\n", "line 2: column 'path' has a NUL byte"),
        ("path,price\n".encode("utf-16-le"), "NUL bytes"),
        (b"PNG\x89\0\r\r\n" * 50, "NUL bytes"),
        ("path," + "x" * 17_000_000, "line 1: a line has more than"),
    ],
)
def test_a_file_that_cannot_be_understood_is_refused_by_the_line_of_its_fault(products, text, message):
    assert message in refusal(products(text)).message


def test_a_letter_case_that_is_wrong_is_said(products):
    assert "rename ' Path'" in refusal(products(" Path,price\n")).hint


cells = st.text(st.characters(exclude_characters="\0\r", exclude_categories=["Cs"]), max_size=12)
names = st.lists(
    cells.filter(lambda name: name.casefold() not in ("", "path", "product", "category")),
    unique_by=str.casefold,
    max_size=4,
)
numbers = st.from_regex(NUMBER, fullmatch=True)
tables = names.flatmap(lambda names: st.tuples(st.just(names), st.lists(st.tuples(*[cells | numbers for _ in names]))))


@given(
    tables,
    st.sampled_from([",", ";", "\t"]),
    st.sampled_from(["\n", "\r\n"]),
    st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
)
@settings(deadline=None, max_examples=150)
def test_whatever_a_csv_writer_writes_comes_back(tmp_path_factory, table, delimiter, ending, encoding):
    given_names, lines = table
    text = io.StringIO(newline="")
    writer = csv.writer(text, delimiter=delimiter, lineterminator=ending)
    writer.writerow(["path", *given_names])
    writer.writerows([f"{number}.png", *line] for number, line in enumerate(lines))
    file = tmp_path_factory.getbasetemp() / "any.csv"
    file.write_bytes(text.getvalue().encode(encoding))

    found = [json.loads(each.metadata, parse_int=str, parse_float=str) for each in read_products(file)]

    assert found == [{name: cell or None for name, cell in zip(given_names, line, strict=True)} for line in lines]


@given(
    st.binary(max_size=60) | st.binary(max_size=40).map(lambda rest: b"path,n\n" + rest),
    st.sampled_from(["utf-8", "cp1252", "utf-16", "shift_jis"]),
)
@settings(deadline=None, max_examples=200)
def test_no_bytes_raise_anything_but_a_usage_error(tmp_path_factory, content, encoding):
    file = tmp_path_factory.getbasetemp() / "bytes.csv"
    file.write_bytes(content)
    try:
        for each in read_products(file, encoding):
            json.loads(each.metadata)
    except UsageError as error:
        assert str(file) in error.message  # noqa: PT017  # either outcome is right


# --- whose images they are of


def written_otherwise(path, small):
    """How shops write the path of an image."""
    return {
        "dot": f"./{path}",
        "absolute": str(small / path),
        "backslashes": path.replace("/", "\\"),
        "all of it": ".\\" + path.replace("/", "\\"),
    }


@pytest.mark.parametrize("way", ["dot", "absolute", "backslashes", "all of it"])
def test_a_path_below_the_catalog_may_be_written_otherwise(build, index, products, small, way):
    build(metadata=products(f"path,product\n{written_otherwise('a/0000.png', small)[way]},Red\n"))

    assert items(index)["a/0000.png"].product == "Red"


def test_an_absolute_path_may_lead_through_a_link_to_the_catalog(build, index, products, small):
    link = small.with_name("link")
    link.symlink_to(small)

    build(link, metadata=products(f"path,product\n{small}/a/0000.png,Red\n{link}/b/0001.png,Blue\n"))

    assert [items(index)[path].product for path in ("a/0000.png", "b/0001.png")] == ["Red", "Blue"]


def test_a_name_with_a_backslash_is_that_file(build, index, products, small, painted):
    (small / "a\\b.png").write_bytes(painted(70))

    build(metadata=products("path,product\na\\b.png,Odd\n"))

    assert items(index)["a\\b.png"].product == "Odd"


@pytest.mark.parametrize(
    "written",
    [
        "/mnt/shop/a/Größe 1.png",
        "C:\\shop\\a\\Größe 1.png",
        "https://shop.example/i/Gr%C3%B6%C3%9Fe%201.png?v=2",
        "Größe 1.png",
        "x/a/Größe 1.png",
    ],
)
def test_paths_of_no_image_are_refused_beside_one_that_was_meant(build, index, products, small, painted, written):
    (small / "a" / "Größe 1.png").write_bytes(painted(70))

    with pytest.raises(RefusedError) as caught:
        build(metadata=products(f"path,price\nother.png,1\n{written},1\n"))

    assert "none of the 2 paths" in caught.value.message
    assert repr(written) in caught.value.message
    assert "'a/Größe 1.png'" in caught.value.message
    assert not (index / "manifest.json").exists()
    assert build(metadata=products(f"path,price\n{written},1\n"), force=True).published


def test_where_few_paths_are_those_of_images_that_is_said(build, products, caplog):
    build(metadata=products("path,price\na/0000.png,1\n" + "".join(f"gone/{n}.png,1\n" for n in range(30))))

    assert "30 of 31 products of" in caplog.text
    assert "'gone/0.png'" in caplog.text


@pytest.mark.parametrize("again", ["a/0000.png", "./a/0000.png", "a\\0000.png", "A/0000.PNG"])
def test_of_rows_about_one_image_the_last_is_taken_and_that_is_said(build, index, products, caplog, again):
    build(metadata=products(f"path,price\nb/0001.png,3\n{again},1\n\n{again},2\n{again},4\n"))

    assert items(index)["a/0000.png"].metadata == {"price": 4}
    assert "2 rows of" in caplog.text
    assert f"such as {'a/0000.png' if again[0] != 'A' else again!r} in lines 3 and 6" in caplog.text


# --- what is not lost

PRICES = "path,price\n" + "".join(f"{'abc'[n % 3]}/{n:04d}.png,{n}.50\n" for n in range(12))
NAMES = "path,product\n" + "".join(f"{'abc'[n % 3]}/{n:04d}.png,Mug {n}\n" for n in range(12))


def first_rows(text, count):
    return "".join(text.splitlines(keepends=True)[: count + 1])


@pytest.mark.parametrize("text", [PRICES, NAMES])
@pytest.mark.parametrize("left", [0, 5])
def test_data_cut_to_less_than_half_are_refused_until_forced(build, index, products, small, text, left):
    build(metadata=products(text))
    before = items(index)
    products(first_rows(text, left))

    with pytest.raises(RefusedError, match=f"has data for {left} images, the index has them for 12") as caught:
        build_index(small, index)
    assert "--force" in caught.value.hint
    assert items(index) == before

    assert build_index(small, index, force=True).published
    assert not build_index(small, index).published  # and is the measure from then on


@pytest.mark.parametrize(
    "after",
    [
        first_rows(PRICES, 6),
        PRICES.replace(".50", ".75"),
        "path,stock\n" + "".join(f"{'abc'[n % 3]}/{n:04d}.png,1\n" for n in range(12)),
    ],
)
def test_data_that_change_are_taken(build, index, products, small, after):
    build(metadata=products(PRICES))
    products(after)

    assert build_index(small, index).published


def test_data_of_empty_cells_are_none(build, index, products, small):
    build(metadata=products(PRICES))
    products("path,price\n" + "".join(f"{'abc'[n % 3]}/{n:04d}.png,\n" for n in range(12)))

    with pytest.raises(RefusedError, match="has data for 0 images"):
        build_index(small, index)


def test_a_column_that_is_lost_is_said(build, index, products, small, caplog):
    both = "".join(f"{line},{'' if n else 'note'}\n" for n, line in enumerate(PRICES.splitlines()))
    build(metadata=products(both.replace(",\n", ",x\n")))
    products(both)

    assert build_index(small, index).published
    assert "column note of" in caplog.text
    assert "values for 0 images, the index has them for 12" in caplog.text
    assert "price" not in caplog.text


def test_of_images_with_the_same_name_that_in_the_same_folder_is_shown(build, products, small, painted):
    for folder in "abc":
        (small / folder / "front.png").write_bytes(painted(70 + ord(folder)))

    with pytest.raises(RefusedError, match=r"it has '/mnt/C/front\.png', the catalog 'c/front\.png'"):
        build(metadata=products("path,price\n/mnt/front.png,1\n/mnt/C/front.png,1\n"))


def test_data_may_be_taken_back(build, index, products, small):
    build(metadata=products(PRICES))

    assert build_index(small, index, metadata="none").published
    assert items(index)["a/0000.png"].metadata == {}


def test_data_that_go_with_their_images_are_not_missed(build, index, products, small):
    build(metadata=products(first_rows(PRICES, 5)))
    for row in range(4):
        (small / f"{'abc'[row % 3]}/{row:04d}.png").unlink()

    assert build_index(small, index).removed == 4


def test_data_whose_images_have_moved_are_not_lost_with_them(build, index, products, small):
    build(metadata=products(PRICES))
    (small / "moved").mkdir()
    for folder in "abc":
        (small / folder).rename(small / "moved" / folder)

    with pytest.raises(RefusedError, match="none of the 12 paths"):
        build_index(small, index)


def test_embeddings_without_the_data_of_the_index_are_refused(products, small, tmp_path):
    for name, data in (("rich", {"metadata": products(PRICES)}), ("poor", {})):
        embed(small, tmp_path / name, backbone="handcrafted", **data)
    build_index(tmp_path / "rich", tmp_path / "index")

    with pytest.raises(RefusedError, match="has data for 0 images, the index has them for 12"):
        build_index(tmp_path / "poor", tmp_path / "index")
    assert build_index(tmp_path / "poor", tmp_path / "index", force=True).published


# --- files that come and go


def test_a_missing_table_is_a_usage_error_that_says_whose_it_is(build, small, index, products, tmp_path):
    with pytest.raises(UsageError, match="expected a file of products"):
        build(metadata=tmp_path / "gone.csv")
    table = products("path\n")
    build(metadata=table)
    table.unlink()

    with pytest.raises(UsageError) as caught:
        build_index(small, index)
    assert "the index remembers it" in caught.value.hint
    assert len(items(index)) == 12


def test_a_changed_table_publishes_anew_without_embedding(build, index, products, no_encoder):
    table = products("path,price\na/0000.png,1\n")
    build(metadata=table)
    no_encoder()
    assert build(metadata=table).published is False
    products("path,price\na/0000.png,2\n")

    assert build().unchanged == 12
    assert items(index)["a/0000.png"].metadata == {"price": 2}


def test_a_file_that_is_refused_publishes_nothing(build, index, products):
    build()

    with pytest.raises(UsageError, match="line 2"):
        build(metadata=products("path,price\na/0000.png\n"))
    assert read_manifest(index).generation == 1


def test_a_large_table_comes_back_row_by_row(build, index, products, small, tmp_path):
    names = [str(path.relative_to(small)) for path in small.rglob("*.png")]
    generator = random.Random(0)
    cells = {name: "".join(generator.choices("ab,\";\n\r\t 'é", k=12)) + "x" for name in names}
    with (tmp_path / "table.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("path", "cell"), *cells.items(), *((f"no/{row}.png", "x") for row in range(3000))])

    build(metadata=tmp_path / "table.csv")

    assert {path: item.metadata["cell"] for path, item in items(index).items()} == cells


def test_a_column_that_is_nearly_called_category_is_said_to_be_another(products, caplog):
    list(read_products(products("path,Category\na.png,shoes\n")))

    assert caplog.messages == ["the column 'Category' is one of your own: only 'category' is read as such"]
