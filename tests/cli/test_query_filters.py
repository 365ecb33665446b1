"""`query` with the short filters and with products: what each format shows of them, and what is refused."""

import csv
import io
import json
from functools import partial

import cv2
import numpy as np
import pytest

from imgsearch import build_index
from remembered import building_here

SHOP = {
    "shoes/blue.png": ("Sneaker", "shoes", 49.9, 3, (30, 60, 200)),
    "shoes/navy.png": ("Sneaker", "shoes", 59.9, 0, (30, 60, 180)),
    "shoes/red.png": ("=Boot", "shoes/boots", 80, 5, (200, 30, 30)),
    "hats/green.png": ("<Hat>", "hats", 20, 7, (30, 140, 40)),
}


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """Squares on white, two of them of one product, with the shop's data, and their index."""
    folder = tmp_path_factory.mktemp("shop")
    lines = ["path,product,category,price,stock"]
    for path, (*facts, color) in SHOP.items():
        image = np.full((60, 60, 3), 255, np.uint8)
        image[15:45, 15:45] = color[::-1]
        (folder / "catalog" / path).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / "catalog" / path), image)
        lines.append(",".join(map(str, (path, *facts))))
    (folder / "products.csv").write_text("\n".join(lines))
    with building_here():
        build_index(
            *(folder / "catalog", folder / "index"),
            backbone="handcrafted:color",
            backend="exact",
            metadata=folder / "products.csv",
        )
    return folder


@pytest.fixture
def answer(shop, imgsearch):
    """What is printed for an image, the blue shoe unless told otherwise."""

    def ask(*options, image="shoes/blue.png"):
        done = imgsearch("query", shop / "catalog" / image, "--index", shop / "index", *options)
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    return ask


@pytest.mark.parametrize(
    ("options", "found"),
    [
        (("--color", "blue"), ["shoes/blue.png", "shoes/navy.png"]),
        (("--color", "#c81e1e"), ["shoes/red.png"]),
        (("--category", "shoes"), ["shoes/blue.png", "shoes/navy.png", "shoes/red.png"]),
        (("--category", "shoes/boots"), ["shoes/red.png"]),
        (("--category", "shoe"), []),
        (("--price", "..50"), ["hats/green.png", "shoes/blue.png"]),
        (("--price", "59.9..80"), ["shoes/navy.png", "shoes/red.png"]),
        (("--range", "stock=1..", "--range", "price=..49.9", "--category", "shoes"), ["shoes/blue.png"]),
    ],
    ids=str,
)
def test_short_filters_say_which_images_are_found(answer, options, found):
    assert sorted(answer("--format", "paths", *options).splitlines()) == found


def test_a_color_is_in_table_and_json_and_orders_every_format(answer):
    red = partial(answer, image="shoes/red.png")  # which is itself left out
    options = ("--color", "#1e3cb4")
    expected = ["shoes/navy.png", "shoes/blue.png"]

    (found,) = json.loads(red(*options, "--format", "json"))
    assert [hit["path"] for hit in found["hits"]] == expected
    differences = [hit["color_difference"] for hit in found["hits"]]
    assert differences == sorted(differences)
    assert differences[0] < 1
    table = red(*options).splitlines()
    assert table[1].split()[:4] == ["#", "score", "color", "image"]
    assert table[3].split()[2] == "0"
    rows = list(csv.reader(io.StringIO(red(*options, "--format", "csv"))))
    assert rows[0] == ["query", "rank", "path", "score", "distance", "product", "category"]
    assert [row[2] for row in rows[1:]] == expected
    page = red(*options, "--format", "html")
    assert page.index('alt="shoes/navy.png') < page.index('alt="shoes/blue.png')
    assert 'alt="shoes/red.png' not in page


def test_a_name_of_a_color_leaves_the_order_to_the_scores(answer):
    (found,) = json.loads(answer("--color", "blue", "--format", "json"))

    assert [hit["path"] for hit in found["hits"]] == ["shoes/blue.png", "shoes/navy.png"]
    assert all("color_difference" not in hit for hit in found["hits"])


def test_products_have_their_others_in_every_format(answer):
    rows = list(csv.reader(io.StringIO(answer("--by", "product", "--format", "csv"))))
    assert rows[0][-1] == "others"
    assert {row[5]: row[-1] for row in rows[1:]} == {"Sneaker": "1", "'=Boot": "0", "<Hat>": "0"}
    (found,) = json.loads(answer("--by", "product", "--format", "json"))
    assert {hit["product"]: hit["others"] for hit in found["hits"]} == {"Sneaker": 1, "=Boot": 0, "<Hat>": 0}
    table = answer("--by", "product").splitlines()
    assert table[1].split() == ["#", "score", "image", "product", "category", "others"]
    assert table[3].split()[-1] == "1"
    page = answer("--by", "product", "--format", "html")
    assert page.count("+1 ") == 1
    assert "&lt;Hat&gt;" in page
    assert "<Hat>" not in page
    assert len(answer("--by", "product", "--top-k", 2, "--format", "paths").splitlines()) == 2


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--price", "10"), "price must be LOW..HIGH, got '10'"),
        (("--price", ".."), "price must be LOW..HIGH, got '..'"),
        (("--price", "cheap..50"), "expected a number for 'price', found 'cheap'"),
        (("--range", "stock"), "range must be COLUMN=LOW..HIGH, got 'stock'"),
        (("--range", "=1..2"), "range must be COLUMN=LOW..HIGH, got '=1..2'"),
        (("--range", "stok=1..2"), "did you mean stock"),
        (("--range", "category=1..2"), "expected a column of numbers or dates, found 'category'"),
        (("--color", "bleu"), "expected a color, found 'bleu'"),
        (("--distinct", "prize"), "did you mean price"),
        (("--by", "product", "--distinct", "price"), "--by and --distinct cannot be combined"),
        (("--by", "category"), "'category' is not one of 'product'"),
    ],
    ids=str,
)
def test_filters_that_make_no_sense_exit_2(shop, imgsearch, options, said):
    done = imgsearch("query", shop / "catalog/shoes/blue.png", "--index", shop / "index", *options)

    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
    assert "Traceback" not in done.stderr
