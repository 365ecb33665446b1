"""The shop's data as JSON lines and Parquet: values keep their types, and what cannot be kept is refused by its row."""

import datetime as dt
import decimal
import json
import sys

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from imgsearch import build_index
from imgsearch.build.metadata import read_products
from imgsearch.cli import main
from imgsearch.errors import UsageError
from shop_files import items, refusal, rows


@pytest.fixture
def lines(products):
    """Write a file with a line for each object, or text."""

    def write(*objects):
        return products(
            "".join(f"{each if isinstance(each, str) else json.dumps(each)}\n" for each in objects), "p.jsonl"
        )

    return write


@pytest.fixture
def arrow(tmp_path):
    """Write a Parquet file."""

    def write(**columns):
        parquet.write_table(pa.table(columns), tmp_path / "p.parquet")
        return tmp_path / "p.parquet"

    return write


# --- JSON lines


def test_values_of_json_lines_keep_their_types(lines):
    data = {"n": 3, "r": -1.5, "t": "00123", "b": True, "none": None, "l": ["a", 1], "o": {"w": {"cm": 3}}}

    assert rows(lines({"path": "a.png", "product": "Mug", "category": 7, **data}, "", {"path": "b.png"})) == {
        "a.png": (1, "Mug", "7", data),
        "b.png": (3, None, None, {}),
    }


def test_json_lines_are_read_in_the_encodings_of_tables(products):
    text = '{"path": "a.png", "note": "Größe"}\r\n\r\n'

    for encoding, given_name in (("utf-8-sig", "utf-8"), ("utf-16", "utf-8"), ("cp1252", "cp1252")):
        assert rows(products(text.encode(encoding), "p.ndjson"), given_name)["a.png"][3] == {"note": "Größe"}
    error = refusal(products(text.encode("cp1252"), "p.jsonl"))
    assert "line 1: byte 29 (0xf6) is not utf-8" in error.message
    assert "--metadata-encoding" in error.hint


def test_names_that_are_not_utf8_are_written_as_halves_of_surrogate_pairs(build, index, lines, small, painted):
    (small / "caf\udce9.png").write_bytes(painted(80))
    build(metadata=lines({"path": "caf\udce9.png", "product": "Coffee"}))

    assert items(index)["caf\udce9.png"].product == "Coffee"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected one JSON object a line, found nothing"),
        ('{"path": "a.png"}\n[1]\n', "line 2: expected a JSON object, found '[1]'"),
        ('[\n{"path": "a.png"}]\n', "line 1: not JSON"),
        ('{"path": "a.png"}\n\n{"path": "b.png",}\n', "line 3: not JSON: "),
        ('{"path": "a.png", "n": NaN}', "line 1: NaN is not a number"),
        ('{"path": "a.png", "n": -Infinity}', "line 1: -Infinity is not a number"),
        ('{"path": "a.png", "n": 1e999}', "line 1: the number 1e999 is too large"),
        ('{"path": "a.png", "n": 1' + "0" * 5000 + "}", "line 1: the number 10000000000000000000... is too large"),
        ('{"path": "a.png", "n": 1, "n": 2}', "line 1: an object has the key 'n' twice"),
        ('{"path": "a.png", "o": {"n": 1, "n": 2}}', "line 1: an object has the key 'n' twice"),
        ('{"path": "a.png", "n": 1}\n{"path": "b.png", "N": 2}', "line 2: two columns have the same name: 'n' and 'N'"),
        ('{"path": "a.png", "": 1}', "line 1: a column without a name has '1'"),
        ('{"path": "a.png", "n": "\\u0000"}', "line 1: '\\x00' has a NUL byte"),
        ('{"path": "a\\u0000.png"}', "line 1: 'a\\x00.png' has a NUL byte"),
        ('{"path": "a.png", "n\\u0000": 1}', "line 1: expected the name of a column, found 'n\\x00'"),
        ('{"path": "a.png", "n": ["\\udce9"]}', "line 1: '\\udce9' is no text"),
        ('{"path": "a.png", "product": "\\ud800"}', "line 1: '\\ud800' is no text"),
        ('{"path": "\\ud800.png"}', "line 1: '\\ud800.png' is no text"),
        ('{"path": "a.png", "o": {"\\ud800": 1}}', "line 1: '\\ud800' is no text"),
        ('{"path": "a.png", "\\ud800": 1}', "line 1: expected the name of a column"),
        ('{"path": 7}', "line 1: column 'path': expected text, found '7'"),
        ('{"path": ["a.png"]}', "line 1: column 'path': expected text, found"),
        ('{"images": ["a.png", 7]}', "line 1: column 'images': expected text, found '7'"),
        ('{"path": "a.png", "product": ["x"]}', "line 1: expected one text as product and category"),
        ('{"image": "a.png"}\n{"path": "a.png"}', "line 2: expected one of the columns path, image and images"),
        ('{"name": "a"}\n{"price": 1}', "expected the column path or image or images, found 'name', 'price'"),
        ('{"path": "a.png", "' + "x" * 251 + '": 1}', "has a name of more than 250 characters"),
        ('{"path": "a.png", "n": "' + "x" * 1_000_001 + '"}', "line 1: a value has 1,000,001 characters"),
        ('{"path": "a.png", "n": "' + "x" * 17_000_000 + '"}', "line 1: a line has more than 16,000,000 characters"),
        ('{"path": "a.png", "n": ' + "[" * 100_000 + "]" * 100_000 + "}", "line 1: lists and objects are nested"),
        ('{"path": "a.png", "n": ' + "[" * 101 + "]" * 101 + "}", "line 1: lists and objects are nested in more than"),
        ('{"images": "' + "x|" * 1_001 + '"}', "line 1: expected at most 1,000 images, found 1,001"),
    ],
)
def test_json_that_cannot_be_kept_is_refused_by_its_line(products, text, message):
    if text.startswith('{"images": "x|'):
        text = json.dumps({"images": [f"{number}.png" for number in range(1001)]})
    assert message in refusal(products(text, "p.jsonl")).message


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)
objects = st.dictionaries(st.sampled_from(["path", "images", "product", "n", "N", ""]), json_values, max_size=4)


@given(
    st.lists(objects.map(json.dumps) | st.text(max_size=20), max_size=4).map("\n".join).map(str.encode) | st.binary()
)
@settings(deadline=None, max_examples=150)
def test_no_lines_raise_anything_but_a_usage_error(tmp_path_factory, content):
    file = tmp_path_factory.getbasetemp() / "any.jsonl"
    file.write_bytes(content)
    try:
        for each in read_products(file):
            json.loads(each.metadata)
    except UsageError as error:
        assert str(file) in error.message  # noqa: PT017  # either outcome is right


# --- Parquet


def test_values_of_parquet_keep_their_types(arrow):
    zone = dt.timezone(dt.timedelta(hours=2))
    file = arrow(
        image=["a.png", "b.png"],
        product=pa.array(["Mug", None]).dictionary_encode(),
        price=[decimal.Decimal("1.10"), None],
        count=pa.array([1, 2**63], pa.uint64()),
        real=[1.5, float("nan")],
        new=[True, None],
        day=[dt.date(2026, 11, 29), None],
        at=pa.array([1_001, None], pa.timestamp("ns")),
        time=pa.array([1_001, None], pa.time64("ns")),
        there=pa.array([dt.datetime(2026, 1, 2, 3, tzinfo=zone), None], pa.timestamp("s", "+02:00")),
        tags=[["a", "b"], []],
        size=[{"cm": 3, "of": [dt.date(2026, 1, 2)]}, None],
        nothing=pa.nulls(2),
    )

    first, second = rows(file)["a.png"], rows(file)["b.png"]

    assert first[:3] == (1, "Mug", None)
    assert first[3] == {
        "price": 1.1,
        "count": 1,
        "real": 1.5,
        "new": True,
        "day": "2026-11-29",
        "at": "1970-01-01T00:00:00.000001",
        "time": "00:00:00.000001",
        "there": "2026-01-02T03:00:00+02:00",
        "tags": ["a", "b"],
        "size": {"cm": 3, "of": ["2026-01-02"]},
        "nothing": None,
    }
    assert second[:3] == (2, None, None)
    assert {name: value for name, value in second[3].items() if value is not None} == {"count": 2**63, "tags": []}


def test_parquet_is_read_in_batches(arrow):
    file = arrow(path=[f"{number}.png" for number in range(2_500)], n=list(range(2_500)))

    assert [(each.line, each.paths[0], each.metadata) for each in read_products(file)][::1200] == [
        (1, "0.png", '{"n": 0}'),
        (1201, "1200.png", '{"n": 1200}'),
        (2401, "2400.png", '{"n": 2400}'),
    ]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"path": ["a"], "raw": [b"\0"]}, "column 'raw' is of the type binary"),
        ({"path": ["a"], "raw": [[b"\0"]]}, "column 'raw' is of the type list<"),
        ({"path": ["a"], "far": [float("inf")]}, "row 1: inf is not a number"),
        (
            {"path": ["a"], "n": pa.array([2**62], pa.timestamp("us"))},
            "cannot be read as Parquet, after row 0",
        ),
        ({"path": ["a"], "n": pa.array([1], pa.timestamp("s", "No/Where"))}, "cannot be read as Parquet"),
        ({"name": ["a"]}, "expected the column path or image or images, found 'name'"),
        ({"path": ["a"], "n": [1], "N": [2]}, "two columns have the same name: 'n' and 'N'"),
    ],
)
def test_parquet_that_cannot_be_kept_is_refused(arrow, columns, message):
    assert message in refusal(arrow(**columns)).message


def test_damaged_parquet_is_a_usage_error_that_names_the_file(arrow):
    file = arrow(path=[f"{number}.png" for number in range(50)], note=["x" * number for number in range(50)])
    whole = file.read_bytes()

    for cut in (0, 3, 4, len(whole) // 2, len(whole) - 1):
        file.write_bytes(whole[:cut])
        assert str(file) in refusal(file).message
    for place in range(8, len(whole), 37):
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        try:
            list(read_products(file))
        except UsageError as error:
            assert str(file) in error.message  # noqa: PT017  # what the byte says may not matter


def test_parquet_without_its_library_is_a_missing_component(small, tmp_path, arrow, monkeypatch, capsys):
    file = arrow(path=["a/0000.png"])
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    command = ["build-index", str(small), "--index", str(tmp_path / "index"), "--backbone", "handcrafted"]

    assert main([*command, "--metadata", str(file)]) == 8
    assert "pip install 'imgsearch-toolkit[parquet]'" in capsys.readouterr().err


def test_an_encoding_of_parquet_is_refused(build, arrow):
    with pytest.raises(UsageError, match="--metadata-encoding has no effect on p"):
        build(metadata=arrow(path=["a/0000.png"]), metadata_encoding="cp1252")


# --- all formats


def test_all_formats_say_the_same(build, index, small, products, lines, arrow):
    path = ["a/0000.png", "b/0001.png"]
    product, price, note = ["Mug", None], [1.5, 2.25], ['5 "', "x"]
    lines_of = [
        dict(zip(("path", "product", "price", "note"), row, strict=True))
        for row in zip(path, product, price, note, strict=True)
    ]
    files = (
        products('path;product;price;note\na/0000.png;Mug;1.5;"5 """\nb/0001.png;;2.25;x\n', "p.txt"),
        lines(*lines_of),
        arrow(path=path, product=product, price=price, note=note),
    )
    build(metadata=files[0])
    said = items(index)

    for file in files[1:]:
        build_index(small, index, metadata=file)
        assert items(index) == said


@pytest.mark.parametrize("column", ["path", "image"])
def test_a_bar_is_part_of_a_path_that_stands_alone(products, lines, column):
    assert list(rows(products(f"{column}\na|b.png\n"))) == ["a|b.png"]
    assert list(rows(lines({column: "a|b.png"}))) == ["a|b.png"]


def test_several_images_of_a_row_are_in_a_list_or_between_bars(products, lines, arrow):
    wanted = {path: (number, None, None, {"n": 1}) for number in (1, 2) for path in ("a.png", "b.png")}

    assert rows(products("images,n\na.png | b.png||a.png,1\n")) == wanted
    assert rows(lines("", {"images": ["a.png", "b.png", ""], "n": 1})) == wanted
    assert list(rows(arrow(images=[["a.png", "b.png"], None], n=[1, 2]))) == ["a.png", "b.png"]


def test_two_columns_of_images_are_refused(products):
    assert "found path and image" in refusal(products("image,path\na.png,b.png\n")).message


def test_names_of_ours_and_of_sql_are_columns_like_others(build, index, products):
    names = ["row", "rank", "rowid", 'a"b', "'; DROP TABLE items; --", "[x]", "`y`", "select", "é", "sha256", "items"]
    header = ",".join('"' + name.replace('"', '""') + '"' for name in names)
    row = "a/0000.png" + ',"1); DELETE FROM items"' * len(names)
    build(metadata=products(f"path,{header}\n{row}\n"))

    assert items(index)["a/0000.png"].metadata == dict.fromkeys(names, "1); DELETE FROM items")
    assert len(items(index)) == 12


def test_as_many_columns_are_read_as_sqlite_has(products):
    def table(count):
        return products("path,product," + ",".join(f"c{n}" for n in range(count)) + "\na.png,P" + ",1" * count + "\n")

    assert len(rows(table(1_999))["a.png"][3]) == 1_999
    assert "expected at most 1,999 columns" in refusal(table(2_000)).message


def test_a_row_is_no_larger_than_an_index_can_give_back(products):
    cells = f",{'ü' * 999_000}" * 3

    assert "line 2: the row has more than 16,000,000" in refusal(products(f"path,a,b,c\na.png{cells}\n")).message
