"""Colors in CIELAB: CIEDE2000 against published pairs, names, and what users may write."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgsearch.colors import NAMES, differences, lab_of, names_of, parse_color
from imgsearch.errors import UsageError

# Of the test data of Sharma, Wu and Dalal (2005), those that catch what implementations get wrong: the blue rotation,
# colors without hue, the mean of two hues on either side of 0, large differences, dark colors.
PAIRS = [
    ((50, 2.6772, -79.7751), (50, 0, -82.7485), 2.0425),
    ((50, -1, 2), (50, 0, 0), 2.3669),
    ((50, 2.49, -0.001), (50, -2.49, 0.0009), 7.1792),
    ((50, 2.49, -0.001), (50, -2.49, 0.0011), 7.2195),
    ((50, -0.001, 2.49), (50, 0.0011, -2.49), 4.7461),
    ((50, 2.5, 0), (50, 0, -2.5), 4.3065),
    ((50, 2.5, 0), (73, 25, -18), 27.1492),
    ((60.2574, -34.0099, 36.2677), (60.4626, -34.1751, 39.4387), 1.2644),
    ((2.0776, 0.0795, -1.135), (0.9033, -0.0636, -0.5514), 0.9082),
]

LEVELS = st.tuples(*[st.integers(0, 255)] * 3)


def test_ciede2000_gives_the_published_differences():
    first, second, expected = (np.array(values) for values in zip(*PAIRS, strict=True))

    assert differences(first, second).round(4).tolist() == expected.tolist()
    assert differences(second, first).round(4).tolist() == expected.tolist()


@given(LEVELS, LEVELS)
def test_a_difference_is_the_same_both_ways_and_nothing_between_equals(first, second):
    one, other = lab_of(first), lab_of(second)

    assert differences(one, other) == pytest.approx(differences(other, one), abs=1e-9)
    assert differences(one, one) == 0
    assert (differences(one, other) > 0) == (first != second)


def test_srgb_comes_to_cielab_as_its_standard_says():
    assert lab_of([[255, 255, 255], [0, 0, 0], [255, 0, 0], [0, 0, 255]]).round(1).tolist() == [
        [100, 0, 0],
        [0, 0, 0],
        [53.2, 80.1, 67.2],
        [32.3, 79.2, -107.9],
    ]


def test_colors_have_the_names_that_people_give_them():
    named = {
        "black": ("000000", "1a1a1a"),
        "white": ("ffffff", "f5f2ea"),
        "gray": ("808080", "c0c0c0", "36454f"),
        "red": ("ff0000", "dc143c", "800000"),
        "orange": ("ffa500", "ff7f50"),
        "yellow": ("ffff00", "e1ad01", "fffdd0"),
        "green": ("00ff00", "013220", "98ff98", "6b8e23"),
        "blue": ("0000ff", "000080", "87ceeb", "1e6fb8"),
        "purple": ("800080", "8f00ff"),
        "pink": ("ffc0cb", "ff69b4"),
        "brown": ("8b4513", "d2b48c", "5a3a20"),
    }
    colors = [(name, bytes.fromhex(color)) for name, colors in named.items() for color in colors]

    assert names_of(lab_of([tuple(color) for _, color in colors])) == [name for name, _ in colors]
    assert tuple(named) == NAMES


@pytest.mark.parametrize("text", ["#1e6fb8", "1E6FB8", " #1e6fb8 "])
def test_a_certain_color_is_written_in_hexadecimal(text):
    asked = parse_color(text)

    assert asked.name == ""
    assert np.round(asked.lab, 1).tolist() == lab_of((0x1E, 0x6F, 0xB8)).round(1).tolist()


def test_a_color_is_asked_for_by_its_name():
    assert parse_color("Blue").name == "blue"
    assert parse_color("grey").name == "gray"


@pytest.mark.parametrize(
    "text", ["", "#1e6f", "navy", "#1e6fb8ff", "#gggggg", "blue; red", "\u0661\u0661\u0661\u0661\u0661\u0661"]
)
def test_anything_else_is_refused_with_the_names_that_are_known(text):
    with pytest.raises(UsageError) as refused:
        parse_color(text)

    assert repr(text) in refused.value.message
    assert "pink" in refused.value.hint
