"""Tables for people: laid out in cells, as a terminal counts them."""

import io
import sys
from unicodedata import category

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from imgsearch.cli.output import draw_table

HEADS = ("#", "score", "image")


def test_columns_are_as_wide_as_what_is_in_them_and_numbers_stand_to_the_right():
    rows = [("1", "0.9", "a.png"), ("10", "0.25", "日本/é😀.png")]

    assert draw_table("title", HEADS, rows, ("image",)) == (
        "title\n  #   score   image\n ─────────────────────────\n  1     0.9   a.png\n 10    0.25   日本/é😀.png\n\n"
    )


def test_what_is_too_long_for_a_line_is_folded_and_nothing_of_it_is_lost():
    text = draw_table("title", HEADS, [("1", "0.9", "x" * 250), ("2", "0.8", "b.png")], ("image",)).splitlines()

    assert [len(line) for line in text[1:7]] == [18, 119, 119, 119, 51, 18]
    assert "".join(text[3:6]).count("x") == 250
    assert text[6] == " 2     0.8   b.png"


def test_the_widest_columns_give_way_first():
    (line,) = draw_table("", ("image", "product", "n"), [("i" * 200, "p" * 40, "5")], ("image",)).splitlines()[3:4]

    assert line.split() == ["i" * 71, "p" * 40, "5"]


@pytest.mark.parametrize("columns", ["1", "20", "200"])
def test_on_a_terminal_a_table_is_as_wide_as_that(monkeypatch, columns):
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setenv("COLUMNS", columns)

    text = draw_table("", HEADS, [("1", "0.9", "x" * 150)], ("image",))

    assert text.count("x") == 150
    assert max(map(len, text.splitlines())) <= max(13, int(columns))


@given(st.lists(st.tuples(st.text(max_size=90), st.text(max_size=90), st.text(max_size=90)), min_size=1, max_size=4))
def test_no_text_breaks_a_line_or_makes_it_too_long(rows):
    lines = draw_table("title", HEADS, rows, ("image",)).split("\n")

    assert lines[-2:] == ["", ""]
    assert max(map(cell_len, lines)) <= 120
    assert not {category(character) for line in lines for character in line} & {"Cc", "Cf", "Cs", "Zl", "Zp"}
