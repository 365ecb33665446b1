"""Items are found by their colors."""

import contextlib
import sqlite3

import numpy as np
import pytest

from imgsearch.colors import NAMES, differences, lab_of, names_of, parse_color
from imgsearch.errors import DamagedIndexError, UsageError
from imgsearch.store import colors
from imgsearch.store.colors import color_differences, packed
from imgsearch.store.items import SCHEMA, Items


def many(count, seed=0):
    """Random colors, many of them nearly gray or dark, as those of photos are: rows, RGB."""
    generator = np.random.default_rng(seed)
    rgb = generator.integers(0, 256, (count, 3))
    rgb[::3] = np.clip(rgb[::3, :1] + generator.integers(-9, 10, (len(rgb[::3]), 3)), 0, 255)
    rgb[::4] //= 4
    return np.sort(generator.integers(0, count // 2, count)), rgb


def blocks_of(rows, rgb):
    written = ["#{:02x}{:02x}{:02x}".format(*color) for color in rgb]
    return list(packed(zip(rows.tolist(), written, names_of(lab_of(rgb)), strict=True)))


def test_nothing_is_missed_and_the_nearest_color_of_an_item_counts(monkeypatch):
    """Also across the blocks that colors are kept in."""
    monkeypatch.setattr(colors, "_BLOCK", 2500)
    rows, rgb = many(6000)
    blocks = blocks_of(rows, rgb)
    assert len(blocks) == 3
    for number, most in enumerate((1, 5, 10, 20, 30) * 4):
        asked = parse_color("{:02x}{:02x}{:02x}".format(*many(20, 1)[1][number]))
        apart = differences(lab_of(rgb), np.array(asked.lab))
        expected = np.full(rows.max() + 1, np.inf)
        np.minimum.at(expected, rows, apart)

        found, difference = color_differences(blocks, asked, most)

        assert found.tolist() == np.flatnonzero(expected <= most).tolist()
        assert difference == pytest.approx(expected[found])


@pytest.mark.parametrize("name", NAMES)
def test_by_name_items_have_a_color_or_not(name):
    rows, rgb = many(3000)
    named = np.array(names_of(lab_of(rgb)))

    found, difference = color_differences(blocks_of(rows, rgb), parse_color(name), 10)

    assert found.tolist() == np.unique(rows[named == name]).tolist()
    assert not difference.any()


def test_an_index_without_items_has_no_colors():
    for asked in ("red", "#ff0000"):
        found, difference = color_differences([], parse_color(asked), 10)
        assert (found.tolist(), difference.tolist()) == ([], [])


@pytest.fixture
def file(tmp_path):
    with contextlib.closing(sqlite3.connect(tmp_path / "items.sqlite")) as connection:
        connection.executescript(SCHEMA)
    return tmp_path / "items.sqlite"


def change(file, statement, *values):
    with contextlib.closing(sqlite3.connect(file, isolation_level=None)) as connection:
        connection.execute(statement, values)


def test_an_index_from_before_there_were_colors_says_how_it_gains_them(file):
    change(file, "DROP TABLE color_blocks")
    with contextlib.closing(Items(file)) as items, pytest.raises(UsageError) as refused:
        items.color_differences(parse_color("red"), 10)

    assert "build-index once more" in refused.value.hint


@pytest.mark.parametrize("entries", [b"1234567", "text", 1, bytes(8)[:7] + b"\xff" * 8])
def test_damaged_blocks_are_damage(file, entries):
    change(file, "INSERT INTO color_blocks VALUES (0, ?)", entries)
    with contextlib.closing(Items(file)) as items, pytest.raises(DamagedIndexError):
        items.color_differences(parse_color("red"), 10)


def test_blocks_of_another_generation_with_items_in_other_rows_are_those_made_anew(monkeypatch):
    monkeypatch.setattr(colors, "_BLOCK", 300)
    rows, rgb = many(2000)
    names = names_of(lab_of(rgb))
    there = [
        (row, "#{:02x}{:02x}{:02x}".format(*color), name) for row, color, name in zip(rows, rgb, names, strict=True)
    ]
    generator = np.random.default_rng(1)
    before = generator.permutation(1000)[:700]  # of each item its row there; the others are gone
    before[generator.random(700) < 0.2] = -1
    before[5:8] = 12  # what was one item is three
    new = {row for row in np.flatnonzero(before < 0).tolist() if row % 3}  # some new items have no color
    now = [
        (row, rgb, name)
        for row, old in enumerate(before.tolist())
        for rgb, name in ([("#102030", "blue")] if row in new else [each[1:] for each in there if each[0] == old])
    ]

    blocks = list(
        colors.repacked(colors.entries_of(packed(iter(there))), before, [each for each in now if each[0] in new])
    )

    assert blocks == list(packed(iter(now)))
    assert len(blocks) > 1
