import hashlib
from dataclasses import asdict, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imgsearch.encoders.spec import DEFAULT_BACKBONE, LITE0_SHA256, TABLE, EncoderSpec, choose_spec
from imgsearch.errors import MissingComponentError, UsageError

DEFAULT = TABLE[DEFAULT_BACKBONE].spec


def test_the_fingerprint_of_the_default_encoder_is_the_one_that_indexes_were_built_with():
    # It changes with ENCODER_VERSION and PIXELS_VERSION, and with nothing else by accident.
    assert choose_spec("efficientnet-lite0").fingerprint == "58133ef528dc90e2"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", "other"),
        ("kind", "handcrafted"),
        ("size", 225),
        ("fit", "crop"),
        ("dims", 1281),
        ("weights", "sha256:0"),
        ("precision", "bf16"),
    ],
)
def test_the_fingerprint_changes_with_every_field(field, value):
    assert replace(DEFAULT, **{field: value}).fingerprint != DEFAULT.fingerprint


def test_the_fingerprint_changes_with_the_version_of_pixels_and_of_encoders(monkeypatch):
    before = DEFAULT.fingerprint
    monkeypatch.setattr("imgsearch.images.decode.PIXELS_VERSION", 999)
    after_pixels = DEFAULT.fingerprint
    monkeypatch.setattr("imgsearch.encoders.spec.ENCODER_VERSION", 999)

    assert len({before, after_pixels, DEFAULT.fingerprint}) == 3


def test_a_fingerprint_is_sixteen_hex_digits_and_the_same_for_equal_specs():
    assert len(DEFAULT.fingerprint) == 16
    assert int(DEFAULT.fingerprint, 16) >= 0
    assert replace(DEFAULT).fingerprint == DEFAULT.fingerprint


def test_every_row_of_the_table_has_a_fingerprint_of_its_own():
    assert len({row.spec.fingerprint for row in TABLE.values()}) == len(TABLE)


@pytest.mark.parametrize("name", TABLE)
def test_every_row_of_the_table_is_chosen_by_its_name_and_described(name):
    spec = choose_spec(name)

    assert spec == TABLE[name].spec
    assert spec.name == name
    assert TABLE[name].about
    assert EncoderSpec.from_json(spec.to_json()) == spec


specs = st.builds(
    EncoderSpec,
    name=st.text(max_size=20),
    kind=st.sampled_from(["network", "handcrafted"]),
    size=st.integers(1, 4096),
    fit=st.sampled_from(["pad", "crop", "stretch"]),
    dims=st.integers(1, 65_536),
    weights=st.text(max_size=20),
    precision=st.sampled_from(["f32", "bf16"]),
)


@settings(deadline=None, max_examples=60)
@given(specs)
def test_what_to_json_wrote_from_json_reads(spec):
    again = EncoderSpec.from_json(spec.to_json())

    assert again == spec
    assert again.fingerprint == spec.fingerprint


@settings(deadline=None, max_examples=60)
@given(specs, st.sampled_from(list(asdict(DEFAULT))))
def test_a_missing_field_is_refused(spec, field):
    data = spec.to_json()
    del data[field]

    with pytest.raises(ValueError, match=field):
        EncoderSpec.from_json(data)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("kind", "magic"),
        ("fit", "squash"),
        ("precision", "f16"),
        ("size", 0),
        ("size", -224),
        ("size", 4097),
        ("size", "many"),
        ("size", None),
        ("size", [224]),
        ("dims", 0),
        ("dims", 65_537),
        ("dims", {}),
    ],
)
def test_a_value_out_of_range_is_refused(field, value):
    with pytest.raises(ValueError, match=r"expected|range|description"):
        EncoderSpec.from_json({**DEFAULT.to_json(), field: value})


values = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_infinity=False),
    st.text(max_size=8),
    st.lists(st.integers()),
)


@settings(deadline=None, max_examples=60)
@given(st.dictionaries(st.sampled_from([*asdict(DEFAULT), "other"]), values))
def test_arbitrary_data_is_a_description_or_refused_with_a_value_error(changes):
    try:
        spec = EncoderSpec.from_json({**DEFAULT.to_json(), **changes})
    except ValueError:
        return
    assert EncoderSpec.from_json(spec.to_json()) == spec
    assert 0 < spec.size <= 4096


def test_infinity_which_json_may_hold_is_refused():
    with pytest.raises(ValueError, match="description"):
        EncoderSpec.from_json({**DEFAULT.to_json(), "size": float("inf")})


@settings(deadline=None, max_examples=60)
@given(st.dictionaries(st.text(max_size=8), values, max_size=8))
def test_arbitrary_dictionaries_are_refused_with_a_value_error(data):
    with pytest.raises(ValueError, match="description"):
        EncoderSpec.from_json(data)


@pytest.mark.parametrize(
    ("wrong", "meant"),
    [("efficientnet_lite0", "efficientnet-lite0"), ("vgg-16", "vgg16"), ("hand-crafted", "handcrafted")],
)
def test_an_encoder_that_is_nearly_called_so_is_suggested(wrong, meant):
    with pytest.raises(MissingComponentError) as refused:
        choose_spec(wrong)

    assert repr(wrong) in refused.value.message
    assert meant in refused.value.hint


def test_an_encoder_that_is_like_no_other_gets_the_list():
    with pytest.raises(MissingComponentError) as refused:
        choose_spec("xyz")

    assert all(name in refused.value.hint for name in TABLE)


@pytest.mark.parametrize("backbone", ["efficientnet-lite0", "handcrafted"])
def test_weights_are_refused_for_encoders_that_bring_their_own(tmp_path, backbone):
    (tmp_path / "weights.h5").write_bytes(b"weights")

    with pytest.raises(UsageError, match=backbone):
        choose_spec(backbone, tmp_path / "weights.h5")


def test_weights_enter_the_fingerprint_by_their_content(tmp_path):
    one, same, other = (tmp_path / name for name in ("one.h5", "same.h5", "other.h5"))
    one.write_bytes(b"weights")
    same.write_bytes(b"weights")
    other.write_bytes(b"other weights")

    spec = choose_spec("vgg16", one)

    assert spec.weights == "sha256:" + hashlib.sha256(b"weights").hexdigest()
    assert spec.fingerprint == choose_spec("vgg16", same).fingerprint
    assert len({spec.fingerprint, choose_spec("vgg16", other).fingerprint, choose_spec("vgg16").fingerprint}) == 3


def test_weights_that_cannot_be_read_are_a_missing_component(tmp_path):
    with pytest.raises(MissingComponentError, match="cannot be read"):
        choose_spec("vgg16", tmp_path / "nothing.h5")
    with pytest.raises(MissingComponentError, match="cannot be read"):
        choose_spec("vgg16", tmp_path)


def test_precision_is_for_networks_only():
    assert choose_spec("efficientnet-lite0", precision="bf16").precision == "bf16"
    assert choose_spec("handcrafted", precision="bf16") == choose_spec("handcrafted")


def test_the_default_weights_are_named_by_their_sha256():
    assert DEFAULT.weights == f"sha256:{LITE0_SHA256}"
