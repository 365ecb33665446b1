"""No filter selects nothing, or everything, because it was understood otherwise."""

import contextlib
import json
import os
from contextlib import closing

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imgsearch.errors import DamagedIndexError, UsageError
from imgsearch.store.columns import NUMBER, Column, folded, write_columns
from imgsearch.store.conditions import Conditions, Range
from imgsearch.store.database import connect
from imgsearch.store.expressions import parse
from imgsearch.store.items import SCHEMA, Items
from index_fixtures import rows_where

SHOP = {
    "sku": ["12345", "00123", '"AB-1"', "1.10", "1.1", "null"],
    "price": ["4.50", "50", "-3", '"n/a"', "100", "null"],
    "gross": ['"12,50"', '"9,90"', '"100,00"', "null", "null", "null"],
    "added": ['"2024-01-05"', '"2023-12-31"', '"2024-02-01"', "null", "7", '"soon"'],
    "color": ['"red"', '"M\\udcf6bel"', '"red"', '"blue"', "null", "null"],
    "Größe (cm)": ["1", "2", "3", "4", "5", "6"],
    "incl. VAT": ["1", "2", "3", "4", "5", "6"],
    "2024": ["1", "2", "3", "4", "5", "6"],
    "it's": ["1", "2", "3", "4", "5", "6"],
    "empty": ["null"] * 6,
    "stock": ["3", "0", "10", "null", "7", "1"],
    "new": ['"TRUE"', "false", "true", "null", '"false"', '"True"'],
    "day": ['"2024-01-05"', '"2023-12-31"', '"2024-02-01T10:30:00"', "null", '"2024-01-31"', '"2024-02-01"'],
    "tags": ['["summer", "sale"]', '["sale"]', "[]", "null", '["Summer"]', '["sale", 5]'],
    "Size": ['"XL"', '"S"', '"M"', '"XL"', "null", "null"],
    "order": ["1", "2", "3", "4", "5", "6"],
    'a"b': ["1", "2", "3", "4", "5", "6"],
    "row": ["60", "50", "40", "30", "20", "10"],
    "rank": ["6", "5", "4", "3", "2", "1"],
    "in cells": ['"[\\"a\\", 1]"', '"[]"', "null", "null", "null", '"[\\"a\\"]"'],
    "names": ['"[new] shoe"', '"[\\"a\\"]"', '"2024-01-01"', "null", "null", '"true"'],
    "path2|materials": ['"wood|steel"', '"steel"', '"wood | glass"', "null", "null", "null"],
}
CATEGORIES = ["box", "box", "M\udcf6bel", "12345", "1.10", ""]


def store(path, rows, metadata, categories, *, has_columns=True):
    with closing(connect(path)) as connection:
        connection.executescript(f"PRAGMA synchronous = off; {SCHEMA}; BEGIN")
        for row in range(rows):
            connection.execute(
                "INSERT INTO items VALUES (?, ?, 10, 2, ?, 'p', CAST(? AS TEXT), ?)",
                (row, f"a/{row}.png", bytes([row]) * 32, os.fsencode(categories[row]), metadata[row]),
            )
        if has_columns:
            write_columns(connection, "main", "main")
        else:
            connection.execute("PRAGMA user_version = 0")
        connection.execute("COMMIT")
    return path


@pytest.fixture(scope="module", params=["columns", "an index of before there were columns"])
def items(request, tmp_path_factory):
    metadata = [
        "{" + ", ".join(f"{json.dumps(name)}: {cells[row].lstrip('+')}" for name, cells in SHOP.items()) + "}"
        for row in range(6)
    ]
    metadata = [text.replace(": 00123", ': "00123"') for text in metadata]
    file = tmp_path_factory.mktemp("shop") / "items.sqlite"
    opened = Items(store(file, 6, metadata, CATEGORIES, has_columns=request.param == "columns"))
    yield opened
    opened.close()


@pytest.mark.parametrize(
    ("condition", "rows"),
    [
        # a number in quotes is the number that a cell would be
        ("metadata->>'sku' = '12345'", [0]),
        ("metadata->>'sku' = 12345", [0]),
        ("'12345' = metadata->>'sku'", [0]),
        ("metadata->>'sku' == '00123'", [1]),
        ("metadata->>'sku' = 'AB-1'", [2]),
        ("metadata->>'sku' IN ('12345', '00123', 'AB-1')", [0, 1, 2]),
        ("metadata->>'sku' NOT IN ('12345', '00123')", [2, 3, 4]),
        ("metadata->>'sku' IS '12345'", [0]),
        ("metadata->>'sku' IS NOT '12345'", [1, 2, 3, 4, 5]),
        ("metadata->>'sku' IS NOT DISTINCT FROM '12345'", [0]),
        ("metadata->>'sku' != '12345'", [1, 2, 3, 4]),  # where there is nothing, nothing is other than it
        ("metadata->>'sku' = '1.10'", [3, 4]),
        ("metadata->'sku' = '1.10'", [3]),
        ("metadata->>'sku' LIKE '123%'", [0]),
        ("metadata->>'sku' GLOB '*23*'", [0, 1]),
        ("json_extract(metadata, '$.sku') = '12345'", [0]),
        ("json_extract(metadata, '$.\"sku\"') = '12345'", [0]),
        ("(metadata->>'sku') = '12345'", [0]),
        ("((metadata ->> 'sku')) = ('12345')", [0]),
        ("items.metadata->>'sku' = '12345'", [0]),
        ("metadata->>'sku' IN ('12345', lower('AB-1'), '1.1')", [0, 3, 4]),
        ("'red' = '' OR metadata->>'color' = 'red'", [0, 2]),  # as of a template
        ("items.metadata->>'price' > '5'", [1, 4]),
        ('metadata->>"sku" = 12345', [0]),
        ("\"metadata\"->>'sku' = '12345'", [0]),
        ("METADATA->>'sku' = '12345'", [0]),
        ("lower(metadata->>'sku') = 'ab-1'", [2]),
        ("substr(metadata->>'sku', 1, 3) = '123'", [0]),
        # order is that of numbers, or of texts
        ("metadata->>'price' < '5'", [0, 2]),
        ("metadata->>'price' < 5", [0, 2]),
        ("metadata->>'price' > '5'", [1, 4]),
        ("metadata->>'price' > 5", [1, 4]),
        ("'5' < metadata->>'price'", [1, 4]),
        ("-1 >= metadata->>'price'", [2]),
        ("metadata->>'price' >= -3 AND metadata->>'price' <= '50'", [0, 1, 2]),
        ("metadata->>'price' BETWEEN '4' AND '50' AND category = 'box'", [0, 1]),
        ("metadata->>'price' NOT BETWEEN 4 AND 50", [2, 4]),
        ("metadata->>'price' * 2 > '99'", [1, 4]),
        ("coalesce(metadata->>'price', 0) < '5'", [0, 2, 5]),
        ("abs(metadata->>'price') = '3'", [2]),
        ("NOT metadata->>'price' < '5'", [1, 4]),
        ("metadata->>'price' > 5 OR metadata->>'price' = 'n/a'", [1, 3, 4]),
        ("metadata->>'added' >= '2024-01-01'", [0, 2, 5]),
        ("metadata->>'added' < '2024'", [4]),  # a number
        ("metadata->>'price' > 5 -- '5' < 'x'", [1, 4]),
        ("metadata->>'price' /* in EUR */ > '5'", [1, 4]),
        ("CASE WHEN metadata->>'price' > '5' THEN 1 END", [1, 4]),
        # names of any kind
        ("metadata->>'Größe (cm)' > '4'", [4, 5]),
        ("metadata->>'incl. VAT' = 2", [1]),
        ("metadata->>'2024' = 2", [1]),
        ("metadata->>'it''s' = 2", [1]),
        ("metadata->>'empty' > 2", []),
        ("Category = 'box'", [0, 1]),
        ("\"category\" = 'box'", [0, 1]),
        ("[category] = 'box' AND `path` LIKE 'a/1%'", [1]),
        ("category == 'box'", [0, 1]),
        # texts of the catalog stay texts
        ("category = '12345'", [3]),
        ("category = '1.10'", [4]),
        ("category = 12345", [3]),
        ("category || '0' = '123450'", [3]),
        ("category = ''", [5]),
        ("mtime_ns < '2'", []),
        ("category IN ('12345', 'box')", [0, 1, 3]),
        # which need not be UTF-8
        ("category = 'M\udcf6bel'", [2]),
        ("category IN ('box', 'M\udcf6bel')", [0, 1, 2]),
        ("category != 'M\udcf6bel'", [0, 1, 3, 4, 5]),
        ("metadata->>'color' = 'M\udcf6bel'", [1]),
        # columns are asked for as a person writes them
        ("price < 50 and stock > 0", [0, 2]),
        ("PRICE < 50 AND Stock > '0'", [0, 2]),
        ("stock BETWEEN 3 AND '7'", [0, 4]),
        ("stock IN ('3', 10)", [0, 2]),
        ("-stock < -5", [2, 4]),
        ("stock", [0, 2, 4, 5]),
        ("not stock", [1]),
        ("max(stock, row) = row", [0, 1, 2, 4, 5]),
        ("new", [0, 2, 5]),
        ("new = 'true'", [0, 2, 5]),
        ("new = TRUE and stock >= 3", [0, 2]),
        ("new != 'TRUE'", [1, 4]),
        ("day >= '2024-01-31'", [2, 4, 5]),
        ("day < '2024'", [1]),
        ("day > 2024", [0, 2, 4, 5]),
        ("day BETWEEN '2024-01' AND '2024-02'", [0, 4]),
        ("has(tags, 'sale')", [0, 1, 5]),
        ("not has(tags, 'sale')", [2, 3, 4]),
        ("has(tags, 5)", [5]),
        ('has("in cells", \'a\') and not has("in cells", 1)', [5]),
        ("names = '[new] shoe' or names = 'true'", [0, 5]),
        ("tags LIKE '%summer%'", [0, 4]),
        ("EXISTS (SELECT 1 FROM json_each(tags) WHERE value = 'sale')", [0, 1, 5]),
        ("has(\"path2|materials\", 'wood')", [0, 2]),
        ("size = 'XL'", [0, 3]),  # the shop's, not that of the file
        ("order > 4", [4, 5]),
        ("items.order > 4", [4, 5]),
        ("(order) > 4 and (stock) IN (7, 1)", [4, 5]),
        ('"a""b" = 2', [1]),
        ("metadata->>'a\"b' = 2", [1]),
        ("row > 40", [0, 1]),
        ("rank < 3 AND path LIKE 'a/5%'", [5]),
        ("gross = '12,50'", [0]),
        ("gross IN ('12,50', '9,90')", [0, 1]),
        ("\"Größe (cm)\" > '4'", [4, 5]),
        ("metadata->>'Price' < 5", [0, 2]),
        ("price < '5' OR sku = '00123'", [0, 1, 2]),
        ("sku IN ('12345', '00123')", [0, 1]),
        ("price IS NULL", [5]),
        # and what is no comparison is left alone
        ("stock IN (SELECT max(stock) FROM items WHERE metadata->>'price' < '5')", [2]),
        ("'box' IN (category, product)", [0, 1]),
        ("'box' = category", [0, 1]),
        ("metadata->>'color' IS NULL", [4, 5]),
        ("date('2024-01-05') = metadata->>'added'", [0]),
        ("length(metadata->>'sku') = '5'", [0, 1]),
        ("length(metadata->>'color') = 3", [0, 2]),
        ("instr(metadata->>'color', 'ed') > 1", [0, 2]),
        ("ifnull(metadata->>'color' = 'red', 0) = 0", [1, 3, 4, 5]),
        ("CAST(metadata->>'color' AS INTEGER) = 0", [0, 1, 2, 3]),
    ],
)
def test_a_condition_selects_what_it_says(items, condition, rows):
    assert rows_where(items, condition) == rows


@pytest.mark.parametrize(
    ("condition", "message", "hint"),
    [
        ("\"catagory\" = 'box'", "no such column: catagory", "did you mean category"),
        ('"prise" > 50', "no such column: prise (character 2)", "did you mean price"),
        ("category = 'box' and Prise > 50", "no such column: Prise (character 22)", "did you mean price"),
        ("items.catagory = 'box'", "no such column", "category"),
        ('category = "box"', "no such column: box", "texts stand in single quotes"),
        ("[catagory] = 'box'", "no such column: catagory", "did you mean category"),
        ('`a"c` = 1', 'no such column: a"c (character 2)', 'did you mean "a""b"'),
        ("zzz = 1", "no such column: zzz (character 1)", "columns: path, product, category"),
        ("metadata->>'prise' < 5", "no image has data called 'prise'", "did you mean price"),
        ("metadata->'prise' < '5'", "no image has data called 'prise'", "did you mean price"),
        ("metadata->>'$.prise' < 5", "no image has data called 'prise'", "did you mean price"),
        ("metadata->>'$.price[0]' < 5", "no image has data called '$.price[0]'", "did you mean price"),
        ("metadata->>'$.shop.price' < 5", "no image has data called '$.shop.price'", "columns: "),
        ("json_extract(metadata, '$.prise') < 5", "no image has data called 'prise'", "did you mean price"),
        ("category = 'box' OR metadata->>'zzz' = 1", "no image has data called 'zzz'", "columns: "),
        ("metadata->>'gross' < 50", "'gross' has texts only, such as '100,00'", "12.50"),
        ("metadata->>'gross' > '50'", "'gross' has texts only", "12.50"),
        ("metadata->>'gross' = 50", "'gross' has texts only", "12.50"),
        ("metadata->>'color' IN (1, 2)", "'color' has texts only", "12.50"),
        ("'category' = 'box'", "'category' is a text, not a column", "single quotes"),
        ("category = 'box' AND 'price' > 50", "'price' is a text, not a column", "columns stand alone"),
        ("'category' LIKE 'b%'", "'category' is a text, not a column", "single quotes"),
        ("'category' IN ('box', 'bag')", "'category' is a text, not a column", "single quotes"),
        ("NOT 'price' BETWEEN 1 AND 2", "'price' is a text, not a column", "single quotes"),
        ("gross < 50", "'gross' has texts only, such as '100,00'", "12.50"),
        ("coalesce(gross, 0) > 5", "'gross' has texts only", "12.50"),
        ("product BETWEEN 50 AND 200", "'product' has texts only, such as 'p'", "12.50"),
        ("day > '31.1.2024'", "'day' holds dates such as '2023-12-31', found '31.1.2024'", "'2024-01-31'"),
        ("day = 7", "'day' holds dates", "'2024-01-31'"),
        ("stock = 'none'", "'stock' holds numbers, found 'none'", "stock IS NULL"),
        ("tags = 'summer'", "'tags' holds lists", "has(tags, 'value')"),
        ("\"in cells\" = 'a'", "'in cells' holds lists", "has(\"in cells\", 'value')"),
        ("\"incl. VAT\" = 'x'", "'incl. VAT' holds numbers", '"incl. VAT" IS NULL'),
        ("10 < metadata->>'price' < 60", "two comparisons in a row", "put and between them"),
        ("category = product = 'box'", "two comparisons in a row", "put and between them"),
    ],
)
def test_a_condition_on_what_is_not_there_is_refused_and_what_was_meant_is_named(items, condition, message, hint):
    with pytest.raises(UsageError) as caught:
        rows_where(items, condition)
    assert message in caught.value.message
    assert hint in caught.value.hint


def test_a_long_text_is_not_all_shown(tmp_path):
    opened = Items(store(tmp_path / "items.sqlite", 1, ['{"description": "%s"}' % ("very " * 1000)], ["a"]))

    with pytest.raises(UsageError, match="has texts only") as caught:
        rows_where(opened, "metadata->>'description' > 5")
    assert len(caught.value.message) < 200
    opened.close()


def test_where_there_are_no_data_a_condition_on_them_says_so(tmp_path):
    opened = Items(store(tmp_path / "items.sqlite", 2, ["{}", "{}"], ["a", "b"]))

    with pytest.raises(UsageError, match="no image has data called 'price'"):
        rows_where(opened, "metadata->>'price' < 5")
    opened.close()


texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=6)
cells = texts | st.from_regex(NUMBER, fullmatch=True) | st.sampled_from(["0", "00", "1.0", "-1", "1e5", "'", "n/a"])


def quoted(text):
    return "'" + text.replace("'", "''") + "'"


def as_cell(cell):
    """What the reader of the shop's data makes of a cell."""
    return float(cell) if NUMBER.fullmatch(cell) else cell


@given(
    st.lists(st.tuples(cells, texts), min_size=1, max_size=6),
    texts.filter(
        lambda key: not key.startswith("$") and folded(key) not in ("path", "product", "category", "metadata")
    ),
)
@settings(deadline=None, max_examples=100)
def test_a_filter_by_any_value_returns_exactly_the_items_with_it(tmp_path_factory, rows, key):
    file = tmp_path_factory.getbasetemp() / "any.sqlite"
    file.unlink(missing_ok=True)
    values = [cell for cell, _ in rows]
    metadata = [f"{{{json.dumps(key)}: {each if NUMBER.fullmatch(each) else json.dumps(each)}}}" for each in values]
    opened = Items(store(file, len(rows), metadata, [category for _, category in rows]))
    with closing(opened):
        for cell, category in rows:
            same = [row for row, value in enumerate(values) if as_cell(value) == as_cell(cell)]
            assert rows_where(opened, f"metadata->>{quoted(key)} = {quoted(cell)}") == same
            assert rows_where(opened, f"metadata->>{quoted(key)} IN ({quoted(cell)}, 'no such text')") == same
            below = [
                r for r, v in enumerate(values) if type(as_cell(v)) is type(as_cell(cell)) and order(v) < order(cell)
            ]
            assert rows_where(opened, f"metadata->>{quoted(key)} < {quoted(cell)}") == below
            named = [row for row, (_, name) in enumerate(rows) if name == category]
            assert rows_where(opened, f"category = {quoted(category)}") == named


def order(cell):
    value = as_cell(cell)
    return value.encode() if isinstance(value, str) else value


def shop(path, *rows, categories=None):
    metadata = [json.dumps(row) for row in rows]
    return closing(Items(store(path / "items.sqlite", len(rows), metadata, categories or CATEGORIES)))


@pytest.mark.parametrize("condition", ["1) OR (1", "price < 5) OR (price > 5", "(price < 5", "price < 5)", ")("])
def test_a_condition_that_reaches_out_of_its_parentheses_is_refused(tmp_path, condition):
    with shop(tmp_path, {"price": 1}, {"price": 9}, categories=["hats", "shoes"]) as opened:
        with pytest.raises(UsageError, match=r"is not closed|closes no parenthesis"):
            opened.selector.rows(Conditions(where=condition, category="hats"))
        assert opened.selector.rows(Conditions(where="product < ')('", category="hats")) == []


@pytest.mark.parametrize("condition", ["name = 'red", 'name = "red', "name = `red", "[name = 1"])
def test_a_quotation_mark_that_is_not_closed_is_said_to_be(tmp_path, condition):
    with shop(tmp_path, {"name": "red"}) as opened, pytest.raises(UsageError, match="is not closed"):
        rows_where(opened, condition)


@pytest.mark.parametrize(
    ("condition", "rows"),
    [
        ("sku = '4711'", [0]),
        ("sku IN (4711, '4712')", [0, 1]),
        ("sku > 4711", [1]),
        ("sku = '00123'", [2]),
        ("has(sizes, '38')", [0, 1, 2]),
        ("has(sizes, 38)", [0, 1, 2]),
        ("has(sizes, 'S')", [1]),
        ("(SELECT count(name) FROM items) > 2", [0, 1, 2]),
    ],
)
def test_a_number_is_one_whether_it_stands_in_quotes_in_the_data_or_not(tmp_path, condition, rows):
    data = [
        {"sku": "4711", "sizes": [38, 39], "name": "a"},
        {"sku": 4712, "sizes": ["38", "S"], "name": "b"},
        {"sku": "00123", "sizes": "38|40", "name": "c"},
    ]
    with shop(tmp_path, *data) as opened:
        assert rows_where(opened, condition) == rows


def test_columns_called_as_those_of_the_items_are_found_in_the_metadata(tmp_path):
    data = [{"Category": "hats", "Product": 5, "metadata": "x"}, {"Category": "it's", "Product": 7}]
    with shop(tmp_path, *data) as opened:
        assert rows_where(opened, "metadata->>'Category' = 'hats'") == [0]
        assert rows_where(opened, "json_extract(metadata, '$.category') = 'it''s'") == [1]
        assert rows_where(opened, "metadata->>'metadata' = 'x'") == [0]
        assert rows_where(opened, "metadata->>'Product' > '5'") == [1]
        assert rows_where(opened, "category = 'box'") == [0, 1]
        with pytest.raises(UsageError, match="no image has data called 'path'"):
            rows_where(opened, "metadata->>'path' = 'a'")


def test_no_name_of_a_column_stands_for_anything_else(tmp_path):
    names = [
        "row",
        "true",
        "true ",
        "false",
        "NULL",
        "rowid",
        "oid",
        "row of the arrays",
        " ",
        "i.row",
        "items",
        "data",
    ]
    rows = [{name: 10 * row + place for place, name in enumerate(names)} for row in range(3)]
    with shop(tmp_path, *rows) as opened:
        for place, name in enumerate(names):
            assert rows_where(opened, f'"{name}" > {10 + place}') == [2]
            assert rows_where(opened, " AND ".join(f'"{other}" >= {10 + at}' for at, other in enumerate(names))) == [
                1,
                2,
            ]
            assert opened.selector.values(name, [1, 2]) == {1: 10 + place, 2: 20 + place}
            assert opened.selector.rows(Conditions(ranges=(Range(name, place, place),))) == [0]


@pytest.mark.parametrize("limit", [2024, 2024.5])
def test_a_range_of_dates_takes_no_number(tmp_path, limit):
    with shop(tmp_path, {"day": "2024-05-01"}) as opened, pytest.raises(UsageError, match="expected a date"):
        opened.selector.rows(Conditions(ranges=(Range("day", limit, None),)))


def test_a_list_that_is_not_utf8_is_text_as_others_are(tmp_path):
    with shop(tmp_path, {"tags": '["\udcf6l"]'}, {"tags": '["a"]'}) as opened:
        assert rows_where(opened, "typeof(tags) = 'text'") == [0, 1]


def test_a_range_may_begin_beyond_all_integers_of_sqlite(tmp_path):
    with shop(tmp_path, {"n": 10**20}, {"n": 1}) as opened:
        assert opened.selector.rows(Conditions(ranges=(Range("n", 10**19, None),))) == [0]


def test_what_is_not_the_users_expression_takes_as_long_as_it_needs(tmp_path, monkeypatch):
    monkeypatch.setattr("imgsearch.store.selector.MOST_SECONDS", 1e-9)
    monkeypatch.setattr("imgsearch.store.database._INSTRUCTIONS", 1)
    with shop(tmp_path, *({"price": row} for row in range(6))) as opened:
        selector = opened.selector
        assert selector.rows(Conditions(category="box", ranges=(Range("price", 1, None),))) == [1]
        assert selector.counts(Conditions(), "price", [1]) == {1: 1}
        with pytest.raises(UsageError, match="took more than"):
            rows_where(opened, "price > 0")


def test_values_are_counted_however_many_they_are(tmp_path, monkeypatch):
    monkeypatch.setattr("imgsearch.store.selector._MOST_VALUES", 2)
    with shop(tmp_path, *({"n": row % 5} for row in range(6))) as opened:
        assert opened.selector.counts(Conditions(), "n", [0, 1, 2, 3, 4]) == {0: 2, 1: 1, 2: 1, 3: 1, 4: 1}


@pytest.mark.parametrize(
    ("harm", "read"),
    [
        ("DELETE FROM data WHERE rowid = 1", lambda selector: selector.values("price", [0, 1])),
        (
            "DROP TABLE data; CREATE VIEW data AS SELECT 'x' AS rowid, 5 AS price",
            lambda selector: selector.rows(Conditions("price > 0")),
        ),
        ("DROP TABLE data; CREATE VIEW data AS SELECT y FROM x", lambda selector: selector.values("product", [0, 1])),
    ],
)
def test_damaged_columns_are_said_to_be(tmp_path, harm, read):
    file = store(tmp_path / "items.sqlite", 2, ['{"price": 1}', '{"price": 2}'], CATEGORIES)
    with closing(connect(file)) as connection:
        connection.executescript(harm)
    with closing(Items(file)) as opened, pytest.raises(DamagedIndexError):
        read(opened.selector)


PRICE = {"price": Column("price", "mixed")}


@given(
    st.lists(
        st.sampled_from(
            [
                *(
                    "metadata",
                    "->>",
                    "->",
                    "'price'",
                    "'5'",
                    "5",
                    '"price"',
                    "(",
                    ")",
                    "<",
                    "=",
                    "IN",
                    "NOT",
                    "IS",
                    "-",
                ),
                *(
                    "BETWEEN",
                    "AND",
                    ",",
                    "json_extract",
                    "'$.price'",
                    "items",
                    ".",
                    "CASE",
                    "WHEN",
                    "END",
                    "'",
                    '"',
                    "`",
                ),
            ]
        ),
        max_size=10,
    ).map(" ".join)
    | st.text(max_size=20)
    | st.text(st.sampled_from("'\ud800\udc80a"), max_size=6)
)
@settings(deadline=None, max_examples=300)
def test_any_text_is_read_and_what_is_no_comparison_of_data_is_kept(condition):
    with contextlib.suppress(UsageError):  # of two comparisons in a row, or a parenthesis that is not closed
        parse(condition, PRICE, str)
        if not any(character in condition for character in '"`[') and "metadata" not in condition.lower():
            kept = parse(condition, {}, str)
            if not any("\ud800" <= character <= "\udfff" for character in condition):
                assert (kept.sql, kept.mentioned) == (condition, frozenset())
