import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from imgsearch.encoders.choice import choose_encoder
from imgsearch.encoders.export import exported_encoder
from imgsearch.encoders.runtime import (
    GRAPH_FILE,
    OPENERS,
    HandcraftedEncoder,
    best_precision,
    encode,
    open_encoder,
    unit_rows,
)
from imgsearch.encoders.spec import Kind
from imgsearch.encoders.table import TABLE
from imgsearch.errors import DamagedIndexError
from imgsearch.images.decode import decode
from imgsearch.images.transform import fit

HANDCRAFTED = TABLE["handcrafted"].spec


@pytest.fixture(scope="module")
def network(tiny_models):
    """A small network: what it is, and the folder that it was exported to."""
    choice = choose_encoder(str(tiny_models / "metric.keras"))
    return choice.spec, exported_encoder(choice.spec, choice.files)


@pytest.fixture(scope="module", params=["handcrafted", "network", "network for one"])
def encoder(request, network):
    if request.param == "handcrafted":
        return open_encoder(HANDCRAFTED, Path("/nothing"))  # which needs no folder
    return open_encoder(*network, for_one=request.param.endswith("one"))


@pytest.fixture(scope="module")
def images(drawn, encoder):
    """Eleven drawn images and one of a single color, at the encoder's size."""
    size = encoder.spec.size
    fitted = [fit(decode(file.read_bytes()), size) for file in sorted(drawn.rglob("*.png"))[:11]]
    return np.stack([*fitted, np.full((size, size, 3), 128, np.uint8)])


def test_rows_are_unit_vectors_of_float32_the_same_for_the_same_image_and_others_for_others(encoder, images):
    rows = encode(encoder, images)

    assert (rows.shape, rows.dtype) == ((12, encoder.spec.dims), np.float32)
    assert np.allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)
    assert np.array_equal(encode(encoder, images[:1]), encode(encoder, images[:1].copy()))
    assert np.all((rows @ rows.T)[~np.eye(12, dtype=bool)] < 0.999)


def test_a_stream_answers_each_batch_in_order_with_as_many_rows(encoder, images):
    together = encode(encoder, images)
    order = np.random.default_rng(0).permutation(np.repeat(np.arange(12), 3))
    bounds = [(0, 1), (1, 6), (6, 7), (7, 12), (0, 12), (3, 5), *((row, row + 1) for row in order.tolist())]

    batches = list(encoder.encode_stream(images[start:end] for start, end in bounds))

    for (start, end), batch in zip(bounds, batches, strict=True):
        assert batch.shape == (end - start, encoder.spec.dims)
        assert np.allclose(batch, together[start:end], atol=1e-4)
    assert list(encoder.encode_stream([])) == []


def test_a_stream_may_be_left_before_its_end_and_another_begun(encoder, images):
    expected = encode(encoder, images[:1])
    stream = encoder.encode_stream(images[row : row + 1] for row in range(1, 12))
    next(stream)
    stream.close()

    for _ in range(12):
        assert np.array_equal(encode(encoder, images[:1]), expected)


def test_rows_that_were_yielded_are_not_changed_by_later_ones(encoder, images):
    rows, copies = [], []
    for row in encoder.encode_stream(images[row : row + 1] for row in range(12)):
        rows.append(row)
        copies.append(row.copy())

    assert np.array_equal(np.concatenate(rows), np.concatenate(copies))


@pytest.mark.parametrize("for_one", [True, False])
def test_a_network_uses_no_more_threads_than_there_are_processors_to_use(network, monkeypatch, for_one):
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8)
    usual = encode(open_encoder(*network, for_one=for_one), images)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(os, "cpu_count", lambda: 64)

    limited = open_encoder(*network, for_one=for_one)

    found = [limited._model.get_property(name) for name in ("INFERENCE_NUM_THREADS", "NUM_STREAMS")]
    assert found == [1, 1]
    assert np.allclose(encode(limited, images), usual, atol=1e-5)


def test_every_kind_of_encoder_can_be_opened():
    assert set(OPENERS) == set(Kind.__args__)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("handcrafted:color", {"dims": 361}),
        ("handcrafted:color", {"name": "handcrafted:smell"}),
        ("handcrafted", {"version": 99}),
    ],
    ids=str,
)
def test_a_hand_crafted_encoder_that_this_imgsearch_does_not_have_is_damage(name, change):
    with pytest.raises(DamagedIndexError, match="does not have"):
        open_encoder(replace(TABLE[name].spec, **change), Path("/nothing"))


def test_a_hand_crafted_encoder_of_an_old_index_is_opened_by_its_version():
    old = HandcraftedEncoder(replace(HANDCRAFTED, version=1, dims=640))

    assert encode(old, np.full((1, 128, 128, 3), 77, np.uint8)).shape == (1, 640)


def test_the_best_precision_is_one_that_specs_know():
    assert best_precision() in {"f32", "bf16"}


def test_unit_rows_makes_rows_without_direction_nan():
    rows = np.array([[3, 4], [0, 0], [np.nan, 1], [np.inf, 1], [-np.inf, np.inf], [0, -2]], np.float32)

    found = unit_rows(rows)

    assert found.dtype == np.float32
    assert np.allclose(found[[0, 5]], [[0.6, 0.8], [0, -1]])
    assert np.isnan(found[1:5]).all()
    assert unit_rows(np.empty((0, 5), np.float32)).shape == (0, 5)


@settings(max_examples=100, deadline=None)
@given(arrays(np.float32, (3, 4), elements=st.floats(-(2.0**20), 2.0**20, width=32)))
def test_unit_rows_are_unit_or_nan(rows):
    lengths = np.linalg.norm(unit_rows(rows), axis=1)

    assert np.all(np.isnan(lengths) | (np.abs(lengths - 1) < 1e-3))


# In a process of its own, which has imported nothing before.
ALONE = """
import json, sys
from pathlib import Path
from imgsearch.encoders.available import models
from imgsearch.encoders.model_file import read_card
labels = read_card(Path(sys.argv[1])).labels
models()
early = sorted({"keras", "tensorflow", "openvino", "sklearn", "h5py"} & set(sys.modules))
from imgsearch.encoders.runtime import import_openvino
import_openvino().Core()
print(json.dumps([labels, early, sys.modules["openvino_telemetry"], "keras" in sys.modules]))
"""


def test_cards_and_the_list_need_no_heavy_import_and_openvino_comes_without_its_telemetry(tiny_models, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", ALONE, tiny_models / "classes.keras"],
        env={**os.environ, "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )

    assert json.loads(done.stdout) == [["boots", "hats", "gloves"], [], None, False]
    assert list(tmp_path.iterdir()) == []


# --- damage


@pytest.mark.parametrize(
    ("name", "content"),
    [
        *((GRAPH_FILE, content) for content in (b"", b"garbage", b"<?xml version='1.0'?><net/>", 0.1, 0.5, 0.99, None)),
        *(("encoder.bin", content) for content in (b"", 0.1, 0.9, None)),
    ],
)
def test_a_graph_that_is_garbage_cut_short_or_missing_is_damage(network, tmp_path, name, content):
    spec, folder = network
    broken = Path(shutil.copytree(folder, tmp_path / "encoder"))
    if isinstance(content, float):
        os.truncate(broken / name, int((broken / name).stat().st_size * content))
    elif content is None:
        (broken / name).unlink()
    else:
        (broken / name).write_bytes(content)

    with pytest.raises(DamagedIndexError):
        open_encoder(spec, broken)


def test_a_graph_with_other_dimensions_than_promised_is_damage_and_both_are_named(network):
    spec, folder = network

    with pytest.raises(DamagedIndexError, match=r"24 numbers, expected 512"):
        open_encoder(replace(spec, dims=512), folder)
