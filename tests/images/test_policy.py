import json

import pytest

from imgsearch.errors import UsageError
from imgsearch.images import MAX_PIXELS
from imgsearch.images.policy import MAX_BYTES, FilePolicy
from imgsearch.records import as_json, read

WISHES = {"max_bytes": 5, "max_pixels": 7, "keep_damaged": True, "follow_links": True}


def test_the_defaults_are_those_of_the_documentation():
    assert FilePolicy() == FilePolicy(100_000_000, 178_956_970, keep_damaged=False, follow_links=False)
    assert (MAX_BYTES, MAX_PIXELS) == (100_000_000, 178_956_970)


@pytest.mark.parametrize("options", [{}, WISHES, *({name: value} for name, value in WISHES.items())])
def test_a_policy_survives_the_round_trip_through_json(options):
    policy = FilePolicy(**options)

    assert read(FilePolicy, json.loads(json.dumps(as_json(policy)))) == policy


def test_what_a_newer_manifest_says_besides_is_passed_over():
    assert read(FilePolicy, {**WISHES, "max_frames": 3}) == FilePolicy(**WISHES)


@pytest.mark.parametrize("name", ["max_bytes", "max_pixels"])
@pytest.mark.parametrize("value", [1, 2, 2**40 - 1])
def test_limits_within_the_range_are_taken(name, value):
    assert getattr(FilePolicy(**{name: value}), name) == value


@pytest.mark.parametrize("name", ["max_bytes", "max_pixels"])
@pytest.mark.parametrize("value", [0, -1, 2**40, 2**70])
def test_limits_out_of_the_range_are_refused_with_the_value(name, value):
    for make in (lambda: FilePolicy(**{name: value}), lambda: read(FilePolicy, {**WISHES, name: value})):
        with pytest.raises(UsageError, match=f"{value:,}"):
            make()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("max_bytes", value) for value in (True, 5.0, "5", None, [5], float("nan"))),
        *(("max_pixels", value) for value in (False, 5.0, "5", None)),
        *(("keep_damaged", value) for value in (0, 1, "yes", None)),
        *(("follow_links", value) for value in (0, 1, "", None)),
    ],
)
def test_values_of_another_kind_are_refused(name, value):
    with pytest.raises(ValueError, match="expected"):
        read(FilePolicy, {**WISHES, name: value})
