"""What a dataclass accepts out of JSON, and what it says of all else."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import pytest

from imgsearch.records import Check, Count, Key, Missing, Share, as_json, at_most, between, matching, read, schema_of


@dataclass(frozen=True)
class Inner:
    """A part.

    Attributes:
        even: What halves.
    """

    share: Share
    even: Annotated[int, between(0, 10), Check("even", lambda value: value % 2 == 0)] = 2

    def __post_init__(self) -> None:
        if self.even == 8:
            raise ValueError("eight is too much")


@dataclass(frozen=True)
class Outer:
    """A whole."""

    name: Annotated[str, Key("title"), matching("[a-z]+", "a word")]
    kind: Literal["one", "two"]
    color: Literal["red", "green"]
    flag: bool
    inner: Inner | None
    many: tuple[Inner, ...]
    named: Mapping[Annotated[str, matching("x+", "only x")], Count]
    late: Annotated[int, Missing(7)] = 0


GOOD = {
    "title": "abc",
    "kind": "one",
    "color": "red",
    "flag": True,
    "late": 1,
    "named": {"xx": 3},
    "inner": {"share": 1, "even": 4},
    "many": [{"share": 0.5, "even": 0}],
}


def test_a_record_is_read_as_it_was_written_and_unknown_keys_are_passed_over():
    outer = read(Outer, {**GOOD, "unknown": 1})

    assert outer == Outer("abc", "one", "red", True, Inner(1.0, 4), (Inner(0.5, 0),), {"xx": 3}, 1)
    assert type(outer.inner.share) is float
    assert as_json(outer) == GOOD
    assert read(Outer, {**GOOD, "inner": None}).inner is None


def test_only_what_is_said_to_may_be_missing_and_then_has_its_own_value():
    assert read(Outer, {key: value for key, value in GOOD.items() if key != "late"}).late == 7
    for key in GOOD.keys() - {"late"}:
        with pytest.raises(ValueError, match=f"^{key} is missing$"):
            read(Outer, {name: value for name, value in GOOD.items() if name != key})
    with pytest.raises(ValueError, match="even is missing"):  # a default is for those who call the class
        read(Inner, {"share": 1})


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"title": 1}, "expected title to be text, found 1"),
        ({"title": "A"}, "expected title to be a word, found 'A'"),
        ({"kind": "three"}, "expected kind to be one of one, two, found 'three'"),
        ({"kind": []}, "one of one, two"),
        ({"color": "blue"}, "expected color to be one of red, green, found 'blue'"),
        ({"flag": 1}, "expected flag to be true or false, found 1"),
        ({"late": True}, "expected late to be a whole number, found True"),
        ({"late": 1.0}, "expected late to be a whole number, found 1.0"),
        ({"late": None}, "expected late to be a whole number, found None"),
        ({"inner": []}, r"expected inner to be an object, found \[\]"),
        ({"inner": {"share": float("nan"), "even": 0}}, "expected share to be from 0 to 1, found nan"),
        ({"inner": {"share": True, "even": 0}}, "expected share to be a number, found True"),
        ({"inner": {"share": 10**400, "even": 0}}, "too large"),
        ({"inner": {"share": 0, "even": 12}}, "expected even to be from 0 to 10, found 12"),
        ({"inner": {"share": 0, "even": 3}}, "expected even to be even, found 3"),
        ({"inner": {"share": 0, "even": 8}}, "eight is too much"),
        ({"many": "ab"}, "expected many to be a list"),
        ({"many": {}}, "expected many to be a list"),
        ({"named": {"y": 1}}, "expected named to be only x, found 'y'"),
        ({"named": {"x": -1}}, "expected x to be at least 0, found -1"),
    ],
)
def test_all_else_is_refused_by_name(wrong, message):
    with pytest.raises(ValueError, match=message):
        read(Outer, {**GOOD, **wrong})


def test_what_is_no_object_is_refused_in_few_words():
    for data in (None, [], "text", 1, [0] * 1000):
        with pytest.raises(ValueError, match="expected Outer to be an object") as refused:
            read(Outer, data)
        assert len(str(refused.value)) < 200


@dataclass(frozen=True)
class Described(Inner):
    """Something with words.

    Attributes:
        words: What they are, in a text that
            goes on.
    """

    words: Annotated[tuple[Annotated[str, at_most(5, "characters")], ...], at_most(2, "words"), Missing(())] = ()
    anything: Annotated[Any, Missing(None)] = None


def test_a_schema_says_what_is_read():
    assert schema_of(Described) == {
        "type": "object",
        "description": "Something with words.",
        "properties": {
            "share": {"type": "number", "minimum": 0, "maximum": 1},
            "even": {"type": "integer", "minimum": 0, "maximum": 10, "description": "What halves."},
            "words": {
                "type": "array",
                "items": {"type": "string", "maxLength": 5},
                "maxItems": 2,
                "description": "What they are, in a text that goes on.",
            },
            "anything": {},
        },
        "required": ["share", "even"],
    }
    of_outer = schema_of(Outer)["properties"]
    assert of_outer["title"] == {"type": "string", "pattern": "^(?:[a-z]+)$"}
    assert of_outer["kind"] == {"enum": ["one", "two"]}
    assert of_outer["inner"]["anyOf"][1] == {"type": "null"}
    assert of_outer["named"] == {"type": "object", "additionalProperties": {"type": "integer", "minimum": 0}}
    assert of_outer["late"] == {"type": "integer", "default": 7}


@pytest.mark.parametrize(("words", "said"), [(["long text"], "at most 5 characters"), (["a"] * 3, "at most 2 words")])
def test_what_is_too_long_is_refused(words, said):
    with pytest.raises(ValueError, match=said):
        read(Described, {**GOOD["inner"], "words": words})
