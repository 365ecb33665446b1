import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import json
import shutil
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from imgsearch.encoders.choice import choose_encoder, choose_spec
from imgsearch.encoders.export import SPEC_FILE, exported_encoder, exported_files
from imgsearch.encoders.runtime import (
    GRAPH_FILE,
    GRAPH_WEIGHTS_FILE,
    HandcraftedEncoder,
    KerasEncoder,
    OpenVinoEncoder,
    best_precision,
    encode,
    import_openvino,
    open_encoder,
    unit_rows,
)
from imgsearch.encoders.spec import EncoderSpec
from imgsearch.errors import DamagedIndexError, MissingComponentError
from imgsearch.images.decode import decode
from imgsearch.images.transform import fit

LITE0 = choose_spec("efficientnet-lite0")
CHECKSUMS = "sha256.json"
HANDCRAFTED = choose_spec("handcrafted")


@pytest.fixture(scope="module")
def graph(own_cache) -> Path:
    import_openvino()
    return exported_encoder(LITE0)


@pytest.fixture(scope="module")
def openvino_encoder(graph):
    return open_encoder(LITE0, graph)


@pytest.fixture(scope="module")
def keras_encoder(graph):
    return KerasEncoder(LITE0)


@pytest.fixture(scope="module", params=["handcrafted", "openvino", "openvino for one", "keras"])
def encoder(request, graph):
    if request.param == "handcrafted":
        return open_encoder(HANDCRAFTED, graph)
    if request.param == "openvino for one":
        return open_encoder(LITE0, graph, for_one=True)
    return request.getfixturevalue(f"{request.param}_encoder")


@pytest.fixture(scope="module")
def files(drawn) -> list[bytes]:
    return [file.read_bytes() for file in sorted(drawn.rglob("*.png"))[:12]]


@pytest.fixture(scope="module")
def images(files):
    """Eleven drawn images and one of a single color, at an encoder's size."""

    def at_size(size: int) -> np.ndarray:
        fitted = [fit(decode(file), size) for file in files]
        return np.stack([*fitted[:11], np.full((size, size, 3), 128, np.uint8)])

    return at_size


def test_rows_are_unit_vectors_of_float32(encoder, images):
    rows = encode(encoder, images(encoder.spec.size))

    assert (rows.shape, rows.dtype) == ((12, encoder.spec.dims), np.float32)
    assert np.allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)


def test_the_same_image_gives_the_same_vector(encoder, images):
    image = images(encoder.spec.size)[:1]

    assert np.array_equal(encode(encoder, image), encode(encoder, image.copy()))


def test_different_images_give_different_vectors(encoder, images):
    rows = encode(encoder, images(encoder.spec.size))

    assert np.all((rows @ rows.T)[~np.eye(12, dtype=bool)] < 0.999)


def test_a_stream_of_many_batches_keeps_its_order(encoder, images):
    all_images = images(encoder.spec.size)
    together = encode(encoder, all_images)
    order = np.random.default_rng(0).permutation(np.repeat(np.arange(12), 3))

    batches = list(encoder.encode_stream(all_images[row : row + 1] for row in order))

    assert [batch.shape for batch in batches] == [(1, encoder.spec.dims)] * 36
    assert np.argmax(np.concatenate(batches) @ together.T, axis=1).tolist() == order.tolist()


def test_batches_of_different_sizes_are_answered_with_as_many_rows(encoder, images):
    all_images = images(encoder.spec.size)
    together = encode(encoder, all_images)
    bounds = [(0, 1), (1, 6), (6, 7), (7, 12), (0, 12), (3, 5)]

    batches = list(encoder.encode_stream(all_images[start:end] for start, end in bounds))

    for (start, end), batch in zip(bounds, batches, strict=True):
        assert batch.shape == (end - start, encoder.spec.dims)
        assert np.allclose(batch, together[start:end], atol=1e-4)


def test_an_empty_stream_gives_nothing(encoder):
    assert list(encoder.encode_stream([])) == []


def test_a_stream_may_be_left_before_its_end_and_another_begun(encoder, images):
    all_images = images(encoder.spec.size)
    expected = encode(encoder, all_images[:1])
    stream = encoder.encode_stream(all_images[row : row + 1] for row in range(1, 12))
    next(stream)
    stream.close()

    for _ in range(12):
        assert np.array_equal(encode(encoder, all_images[:1]), expected)


def test_rows_that_were_yielded_are_not_changed_by_later_ones(encoder, images):
    all_images = images(encoder.spec.size)
    rows, copies = [], []
    for row in encoder.encode_stream(all_images[row : row + 1] for row in range(12)):
        rows.append(row)
        copies.append(row.copy())

    assert np.array_equal(np.concatenate(rows), np.concatenate(copies))


def test_openvino_and_keras_agree(openvino_encoder, keras_encoder, images):
    ours = encode(openvino_encoder, images(224))
    reference = encode(keras_encoder, images(224))

    assert np.sum(ours * reference, axis=1).min() >= 0.9999


def test_bf16_stays_near_f32(graph, openvino_encoder, images):
    if best_precision() != "bf16":
        pytest.skip("this processor does not compute in bf16")
    # The image of a single color is left out: next to nothing in the network answers it, so rounding decides.
    drawn_ones = images(224)[:11]
    rows = encode(OpenVinoEncoder(replace(LITE0, precision="bf16"), graph / GRAPH_FILE), drawn_ones)

    assert np.sum(rows * encode(openvino_encoder, drawn_ones), axis=1).min() >= 0.99
    assert np.allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)


def test_the_best_precision_is_one_that_specs_know():
    assert choose_spec("efficientnet-lite0", precision=best_precision()).precision in {"f32", "bf16"}


def test_unit_rows_makes_rows_without_direction_nan():
    rows = np.array([[3, 4], [0, 0], [np.nan, 1], [np.inf, 1], [-np.inf, np.inf], [0, -2]], np.float32)

    found = unit_rows(rows)

    assert found.dtype == np.float32
    assert np.allclose(found[[0, 5]], [[0.6, 0.8], [0, -1]])
    assert np.isnan(found[1:5]).all()


@settings(max_examples=100, deadline=None)
@given(arrays(np.float32, (3, 4), elements=st.floats(-(2.0**20), 2.0**20, width=32)))
def test_unit_rows_are_unit_or_nan(rows):
    lengths = np.linalg.norm(unit_rows(rows), axis=1)

    assert np.all(np.isnan(lengths) | (np.abs(lengths - 1) < 1e-3))


def test_no_rows_stay_no_rows():
    assert unit_rows(np.empty((0, 5), np.float32)).shape == (0, 5)


def test_openvino_is_imported_without_its_telemetry(tmp_path):
    code = (
        "import sys; from imgsearch.encoders.runtime import import_openvino;"
        "import_openvino().Core(); print(sys.modules['openvino_telemetry'])"
    )

    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )

    assert done.stdout.strip() == "None"
    assert list(tmp_path.iterdir()) == []


def test_a_handcrafted_encoder_needs_no_folder():
    assert isinstance(open_encoder(HANDCRAFTED, Path("/nothing")), HandcraftedEncoder)


def test_keras_refuses_an_encoder_that_is_no_network():
    with pytest.raises(MissingComponentError, match="handcrafted"):
        KerasEncoder(HANDCRAFTED)


@pytest.fixture
def broken(graph, tmp_path) -> Path:
    shutil.copytree(graph, tmp_path / "encoder")
    return tmp_path / "encoder"


@pytest.mark.parametrize("content", [b"", b"garbage", b"<?xml version='1.0'?><net/>", b"<net name='x' version='11'>"])
def test_a_graph_that_cannot_be_read_is_damage(broken, content):
    (broken / GRAPH_FILE).write_bytes(content)

    with pytest.raises(DamagedIndexError):
        open_encoder(LITE0, broken)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_a_graph_that_was_cut_short_is_damage(broken, share):
    data = (broken / GRAPH_FILE).read_bytes()
    (broken / GRAPH_FILE).write_bytes(data[: int(len(data) * share)])

    with pytest.raises(DamagedIndexError):
        open_encoder(LITE0, broken)


@pytest.mark.parametrize("length", [0, 1000, 5_000_000])
def test_weights_of_a_graph_that_were_cut_short_are_damage(broken, length):
    os.truncate(broken / GRAPH_WEIGHTS_FILE, length)

    with pytest.raises(DamagedIndexError):
        open_encoder(LITE0, broken)


@pytest.mark.parametrize("name", [GRAPH_FILE, GRAPH_WEIGHTS_FILE])
def test_a_missing_file_of_a_graph_is_damage(broken, name):
    (broken / name).unlink()

    with pytest.raises(DamagedIndexError):
        open_encoder(LITE0, broken)


def test_a_graph_with_other_dimensions_than_promised_is_damage_and_both_are_named(graph):
    with pytest.raises(DamagedIndexError) as refused:
        open_encoder(replace(LITE0, dims=512), graph)

    assert "1280" in refused.value.message
    assert "512" in refused.value.message


def forbid_processes(monkeypatch) -> None:
    def refuse(*arguments, **_):
        pytest.fail(f"a process was started: {arguments}")

    monkeypatch.setattr(subprocess, "Popen", refuse)


def test_an_exported_encoder_is_complete_and_says_what_it_is(graph):
    assert sorted(file.name for file in graph.iterdir()) == sorted([*exported_files(LITE0), CHECKSUMS])
    assert EncoderSpec.from_json(json.loads((graph / SPEC_FILE).read_text())) == LITE0


def test_an_exported_encoder_is_found_again_without_a_process(graph, monkeypatch):
    forbid_processes(monkeypatch)

    assert exported_encoder(LITE0) == graph


def test_a_handcrafted_encoder_is_exported_without_a_process(own_cache, monkeypatch):
    forbid_processes(monkeypatch)

    directory = exported_encoder(HANDCRAFTED)

    assert {file.name for file in directory.iterdir()} == {SPEC_FILE, CHECKSUMS}
    assert directory.name.startswith(HANDCRAFTED.fingerprint)
    assert directory.parent == own_cache / "encoders"


def test_a_half_exported_encoder_is_exported_again(tmp_path, monkeypatch):
    monkeypatch.setenv("IMGSEARCH_CACHE", str(tmp_path))
    half = tmp_path / "encoders" / f"{HANDCRAFTED.fingerprint}-2"
    half.mkdir(parents=True)
    (half / "litter").touch()

    assert exported_encoder(HANDCRAFTED) == half
    assert {file.name for file in half.iterdir()} == {SPEC_FILE, CHECKSUMS}
    assert [folder.name for folder in half.parent.iterdir()] == [half.name]


def test_where_the_cache_cannot_be_written_the_export_is_for_this_run_only(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    (tmp_path / "passing").mkdir()
    monkeypatch.setenv("IMGSEARCH_CACHE", str(tmp_path / "file"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "passing"))

    folder = exported_encoder(HANDCRAFTED)

    assert (folder / "spec.json").is_file()
    assert folder.is_relative_to(tmp_path / "passing")


def test_where_nothing_can_be_written_the_encoder_is_a_missing_component(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("IMGSEARCH_CACHE", str(tmp_path / "file"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))

    with pytest.raises(MissingComponentError) as refused:
        exported_encoder(HANDCRAFTED)

    assert "IMGSEARCH_CACHE" in refused.value.hint


@pytest.mark.parametrize("damage", [b"", b"{}", b"garbage"], ids=["emptied", "another", "garbage"])
def test_a_damaged_export_in_the_cache_is_made_again(tmp_path, monkeypatch, caplog, damage):
    monkeypatch.setenv("IMGSEARCH_CACHE", str(tmp_path))
    folder = exported_encoder(HANDCRAFTED)
    good = (folder / "spec.json").read_bytes()
    (folder / "spec.json").write_bytes(damage)

    assert (exported_encoder(HANDCRAFTED) / "spec.json").read_bytes() == good
    assert "damaged" in caplog.text


def test_an_export_that_fails_is_a_missing_component_and_leaves_no_litter(tmp_path, monkeypatch):
    monkeypatch.setenv("IMGSEARCH_CACHE", str(tmp_path / "cache"))
    weights = tmp_path / "mine.weights.h5"
    weights.write_bytes(b"garbage " * 100)

    choice = choose_encoder("vgg16", weights)
    with pytest.raises(MissingComponentError) as refused:
        exported_encoder(choice.spec, choice.files)

    assert "vgg16" in refused.value.message
    assert "--weights" in refused.value.hint
    assert list((tmp_path / "cache/encoders").iterdir()) == []
