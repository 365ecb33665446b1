import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imgsearch.encoders.choice import choose_encoder
from imgsearch.encoders.spec import DEFAULT_BACKBONE, EncoderSpec, Part, Preprocessing
from imgsearch.encoders.table import LITE0_SHA256, RETRIEVAL_HEAD_SHA256, TABLE

DEFAULT = TABLE[DEFAULT_BACKBONE].spec
GOLDEN = Path(__file__).parents[1] / "store" / "golden" / "v1"
ONNX = EncoderSpec("a.onnx", "onnx", 256, "crop", 8, "sha256:0", preprocessing=Preprocessing(256, "crop", 224))
HYBRID = EncoderSpec(
    name="handcrafted+handcrafted:color=0.3",
    kind="hybrid",
    size=128,
    fit="pad",
    dims=30,
    weights="",
    parts=(
        Part(replace(TABLE["handcrafted"].spec, dims=20), 1.0),
        Part(replace(TABLE["handcrafted:color"].spec, dims=10), 0.3),
    ),
)


# Of each row, plain and without its border, as indexes were built with. A row changes with PIXELS_VERSION and with its
# own version, and with nothing else by accident: every image would be embedded again.
FINGERPRINTS = {
    "lite0-retrieval": ("964b92249b4abf78", "386a83aacba49634"),
    "efficientnet-lite0": ("58133ef528dc90e2", "2f7066cc8e194569"),
    "vgg16": ("98175580ed9ab97c", "cb6b7b2caddd7163"),
    "vgg19": ("7a9cefea17663b40", "2eb71726eae04a6f"),
    "resnet50": ("c2a39f6eb0de55c0", "623b1a64194feb25"),
    "mobilenet_v3_large": ("211c225ed0e97799", "7c89e08c1349c016"),
    "efficientnetv2-b0": ("d9aa692c4593d22f", "eb9319ce179252e6"),
    "convnext_tiny": ("41a2f0d199ba24e8", "f525bc5557ad6c47"),
    "handcrafted": ("922e06f74ded6636", "2ae18eee035f096c"),
    "handcrafted:color": ("c206dfd158af30c1", "85f771c57224a784"),
    "handcrafted:texture": ("3792e050080550fd", "4b38486c6f13bc8e"),
    "handcrafted:shape": ("dcf37b4f54c74cb4", "700e80f7f7b30f4e"),
    "visual-words": ("ca4fe37d88df16fa", "7f426529498ba158"),
}
FINGERPRINTS_OF_HYBRIDS = {
    ("efficientnet-lite0+handcrafted:color=0.3", "f32", "crop-foreground"): ("53242fa14e281764", "60c3f67e0cb734e2"),
    ("efficientnet-lite0+handcrafted:color=0.3", "bf16", "crop-foreground"): ("627ba7dbcb4bbe64", "cf22212b3c54f34d"),
    ("visual-words+vgg16=2", "f32", "grayscale,binarize=otsu"): ("c9a65bf9ee91c739", "af9cd39f54fa5050"),
    ("visual-words+vgg16=2", "bf16", "grayscale,binarize=otsu"): ("f9bc2cd849af79f2", "37dfdf8f275c96e7"),
}


def test_fingerprints_are_those_that_indexes_were_built_with():
    found = {
        name: (row.spec.fingerprint, replace(row.spec, steps="crop-foreground").fingerprint)
        for name, row in TABLE.items()
    }
    hybrids = {}
    for backbone, precision, steps in FINGERPRINTS_OF_HYBRIDS:
        spec = choose_encoder(backbone, precision=precision, steps=steps).spec
        hybrids[backbone, precision, steps] = spec.fingerprint, spec.identity

    assert (found, hybrids) == (FINGERPRINTS, FINGERPRINTS_OF_HYBRIDS)


@pytest.mark.parametrize("backend", ["exact", "annoy"])
def test_an_encoder_of_an_index_of_long_ago_is_read_unchanged(backend):
    stored = json.loads((GOLDEN / backend / "manifest.json").read_text())["encoder"]

    spec = EncoderSpec.from_json(stored)

    assert (spec.version, spec.steps, spec.parts) == (1, "", ())
    assert spec.to_json() == {name: value for name, value in stored.items() if name != "fingerprint"}
    assert spec.fingerprint == stored["fingerprint"]


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
        ("version", 2),
        ("steps", "grayscale"),
        ("pixels", 2),
    ],
)
def test_the_fingerprint_changes_with_every_field(field, value):
    assert replace(DEFAULT, **{field: value}).fingerprint != DEFAULT.fingerprint


def test_every_field_is_tried_above_and_parts_below():
    assert set(asdict(DEFAULT)) == {
        *("name", "kind", "size", "fit", "dims", "weights", "precision", "version", "steps", "pixels", "parts"),
        *("preprocessing", "text_weights", "quantized"),
    }


@pytest.mark.parametrize(
    ("field", "value"),
    [("size", 200), ("scale", 1.0), ("mean", (0.5, 0.5, 0.4)), ("std", (0.5, 0.5, 0.6))],
)
def test_the_fingerprint_of_an_onnx_network_changes_with_what_feeds_it(field, value):
    changed = replace(ONNX, preprocessing=replace(ONNX.preprocessing, **{field: value}))

    assert len({ONNX.fingerprint, changed.fingerprint, replace(ONNX, weights="sha256:1").fingerprint}) == 3
    assert EncoderSpec.from_json(changed.to_json()) == changed


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"kind": "network"}, "of kind network"),
        ({"preprocessing": None}, "None is not that of an encoder of kind onnx"),
        ({"size": 224}, "224 pixels, crop"),
        ({"fit": "pad"}, "256 pixels, pad"),
    ],
)
def test_an_onnx_network_is_fitted_as_its_preprocessing_says(fields, words):
    with pytest.raises(ValueError, match=words):
        replace(ONNX, **fields)


def test_the_identity_of_a_network_depends_on_nothing_that_is_done_to_images_before():
    assert replace(DEFAULT, precision="bf16", steps="grayscale", pixels=2).identity == DEFAULT.identity
    assert replace(DEFAULT, weights="sha256:0").identity != DEFAULT.identity


def test_encoders_are_fed_otherwise_only_where_nothing_else_differs():
    assert replace(DEFAULT, pixels=2).is_fed_otherwise_than(DEFAULT)
    assert not DEFAULT.is_fed_otherwise_than(DEFAULT)
    assert not replace(DEFAULT, pixels=2, precision="bf16").is_fed_otherwise_than(DEFAULT)
    assert not replace(DEFAULT, pixels=2, steps="grayscale").is_fed_otherwise_than(DEFAULT)


def test_the_fingerprint_of_a_hybrid_changes_with_its_parts_their_weights_and_their_order():
    first, second = HYBRID.parts
    others = [
        replace(HYBRID, parts=(first, replace(second, weight=0.4))),
        replace(HYBRID, parts=(second, first)),
        replace(HYBRID, parts=(first, replace(second, spec=replace(second.spec, weights="sha256:0")))),
        replace(HYBRID, parts=(first, replace(second, spec=replace(second.spec, version=3)))),
    ]

    assert len({HYBRID.fingerprint, *(other.fingerprint for other in others)}) == 5


def test_every_row_of_the_table_is_described_under_its_own_name():
    for name, row in TABLE.items():
        assert row.spec.name == name
        assert row.about
        assert EncoderSpec.from_json(row.spec.to_json()) == row.spec
        assert not {"+", "="} & set(name)
        assert bool(row.describe) == (row.spec.kind == "handcrafted")


def test_encoders_of_keras_name_their_file_its_size_its_license_and_its_checksum():
    for name, row in TABLE.items():
        if row.application:
            scheme, _, digest = row.spec.weights.partition(f":{name}-imagenet-notop:")
            assert (scheme, len(digest) in (32, 64), int(digest, 16) > 0) == ("keras", True, True)
            assert row.application.keras_file.endswith(".h5")
            assert row.license
            assert 0 < row.megabytes < 1000
            assert row.blocks > 0


def test_an_encoder_that_is_no_hybrid_is_its_own_only_part():
    assert DEFAULT.all_parts() == (DEFAULT,)
    assert HYBRID.all_parts() == tuple(part.spec for part in HYBRID.parts)


simple = st.builds(
    EncoderSpec,
    name=st.text(max_size=20),
    kind=st.sampled_from(["network", "model", "classifier", "handcrafted", "visual-words"]),
    size=st.integers(1, 4096),
    fit=st.sampled_from(["pad", "crop", "stretch"]),
    dims=st.integers(1, 8000),
    weights=st.text(max_size=20),
    precision=st.sampled_from(["f32", "bf16"]),
    version=st.integers(1, 99),
    steps=st.sampled_from(["", "grayscale", "deskew,rotate=-12.5,binarize=adaptive"]),
)
hybrids = st.builds(
    lambda whole, parts: replace(
        whole, kind="hybrid", parts=tuple(parts), dims=sum(part.spec.dims for part in parts), weights=""
    ),
    simple,
    st.lists(st.builds(Part, simple, st.floats(1e-6, 1000)), min_size=1, max_size=8),
)
specs = simple | hybrids


@settings(deadline=None, max_examples=60)
@given(specs)
def test_what_to_json_wrote_from_json_reads_also_out_of_a_file(spec):
    again = EncoderSpec.from_json(json.loads(json.dumps(spec.to_json())))

    assert again == spec
    assert again.fingerprint == spec.fingerprint


@settings(deadline=None, max_examples=60)
@given(specs, st.sampled_from(["name", "kind", "size", "fit", "dims", "weights", "precision"]))
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
        ("version", "new"),
        ("version", None),
        ("steps", "paint"),
        ("steps", "rotate=1000"),
        ("steps", ["grayscale"]),
        ("parts", None),
        ("parts", 1),
        ("parts", [1]),
        ("parts", [{}]),
        ("parts", {"encoder": 1}),
        ("kind", "hybrid"),
        ("parts", [{"encoder": DEFAULT.to_json(), "weight": 1}]),
    ],
)
def test_a_value_out_of_range_is_refused(field, value):
    with pytest.raises(ValueError, match=r"expected|range|description|parts"):
        EncoderSpec.from_json({**DEFAULT.to_json(), field: value})


@pytest.mark.parametrize("weight", [0, -1, "much", None, 1e6, float("nan"), float("inf"), 10**400])
def test_a_weight_of_a_part_that_is_none_is_refused(weight):
    data = HYBRID.to_json()
    data["parts"][1]["weight"] = weight

    with pytest.raises(ValueError, match=r"weight|description"):
        EncoderSpec.from_json(data)


def test_a_hybrid_within_a_hybrid_is_refused():
    data = HYBRID.to_json()
    data["parts"] = [{"encoder": HYBRID.to_json(), "weight": 1}]

    with pytest.raises(ValueError, match="hybrid itself"):
        EncoderSpec.from_json(data)


def test_parts_whose_dimensions_do_not_add_up_are_refused():
    with pytest.raises(ValueError, match="dims"):
        EncoderSpec.from_json({**HYBRID.to_json(), "dims": 31})


@pytest.mark.parametrize(
    "depth",
    [
        2,
        18,
        100_000,
    ],
)
def test_deep_nesting_is_refused_with_a_short_message(depth):
    level = HYBRID.to_json()
    data = innermost = {**level}
    for _ in range(depth):
        innermost["parts"] = [{"encoder": {**level}, "weight": 1}]
        innermost = innermost["parts"][0]["encoder"]

    with pytest.raises(ValueError, match=r".") as refused:
        EncoderSpec.from_json(data)

    assert len(str(refused.value)) < 2000


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


def test_the_default_weights_are_named_by_their_sha256():
    assert DEFAULT.weights == f"sha256:{RETRIEVAL_HEAD_SHA256}"
    assert TABLE["efficientnet-lite0"].spec.weights == f"sha256:{LITE0_SHA256}"


def test_networks_models_and_hybrids_of_them_run_on_openvino():
    hybrid = replace(HYBRID, parts=(*HYBRID.parts, Part(DEFAULT, 1.0)), dims=30 + DEFAULT.dims)

    assert all(row.spec.uses_openvino == (row.spec.kind == "network") for row in TABLE.values())
    assert (HYBRID.uses_openvino, hybrid.uses_openvino) == (False, True)
    assert replace(DEFAULT, kind="model").uses_openvino
