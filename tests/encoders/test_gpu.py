"""Encoding on a GPU: by a process that stands for Keras with one, by Keras on the CPU, and on a GPU where one is."""

import logging
import signal
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from imgsearch.build.options import resolve_encoder
from imgsearch.encoders import gpu, keras_encoder
from imgsearch.encoders.choice import choose_encoder, with_precision
from imgsearch.encoders.export import exported_encoder
from imgsearch.encoders.gpu import TOLERANCE, ComparedEncoder, open_for_build
from imgsearch.encoders.keras_encoder import KerasEncoder
from imgsearch.encoders.runtime import OpenVinoEncoder, best_precision, encode, has_openvino_gpu, open_encoder
from imgsearch.encoders.spec import DEFAULT_BACKBONE
from imgsearch.errors import MissingComponentError, UsageError
from imgsearch.images.decode import decode
from imgsearch.images.transform import fit

STANDS_FOR_KERAS = Path(__file__).with_name("here_gpu.py")


@pytest.fixture(scope="module")
def model():
    """The default encoder: what it is, its exported folder, and files of weights, of which it has none."""
    spec = with_precision(choose_encoder(DEFAULT_BACKBONE).spec, "f32")
    return spec, exported_encoder(spec), {}


@pytest.fixture(scope="module")
def images(drawn, model):
    size = model[0].size
    return np.stack([fit(decode(file.read_bytes()), size) for file in sorted(drawn.rglob("*.png"))[:12]])


@pytest.fixture
def keras_is(monkeypatch, model):
    """Let another process stand for Keras, and return one of its encoders."""

    def start(mode: str, *, batch: int = 4) -> None:
        monkeypatch.setattr(keras_encoder, "_COMMAND", (sys.executable, "-P", str(STANDS_FOR_KERAS), mode))
        monkeypatch.setattr(keras_encoder, "_IMAGES", batch)
        monkeypatch.setattr(KerasEncoder, "batch_size", batch)
        monkeypatch.setattr(gpu, "_DRIVERS", ("proc/self",))
        monkeypatch.setattr(gpu, "_FEW_IMAGES", 1)

    return start


def weights_of(model) -> Path | None:
    spec, _, files = model
    return files.get(spec.weights)


def test_the_process_gives_the_embeddings_of_all_images_in_order_and_ends_with_its_encoder(model, images, keras_is):
    keras_is("right")
    encoder = KerasEncoder(model[0], weights_of(model))
    process = encoder.close.peek()[2][0]
    expected = encode(open_encoder(model[0], model[1]), images)

    rows = list(encoder.encode_stream([images[:4], images[4:6], images[6:]]))  # the last as three

    assert encoder.device == "gpu:0"
    assert [len(batch) for batch in rows] == [4, 2, 6]
    assert np.allclose(np.concatenate(rows), expected, atol=1e-6)
    assert np.allclose(encoder.encode_with_features(images[3]).embedding, expected[3], atol=1e-6)
    del encoder
    assert process.returncode is not None


@pytest.mark.parametrize(
    ("mode", "message"),
    [
        ("cpu", "Keras sees no GPU"),
        ("missing", "Keras failed: No module named 'keras'"),
        ("crashes", "the process of Keras ended: libcuda.so.1: cannot open shared object file"),
        ("silent", "Keras has not answered in 1 s"),
    ],
)
def test_what_keeps_keras_from_a_gpu_is_said(model, keras_is, monkeypatch, mode, message):
    keras_is(mode)
    if mode == "silent":
        monkeypatch.setattr(keras_encoder, "_SECONDS_TO_START", 1.0)

    with pytest.raises(MissingComponentError) as raised:
        KerasEncoder(model[0], weights_of(model))

    assert raised.value.message == message


@pytest.mark.parametrize(
    ("mode", "message"),
    [
        ("too few", "Keras gave 6144 bytes for 4 images"),
        ("dies later", "the process of Keras ended: CUDA_ERROR_ECC_UNCORRECTABLE"),
        ("stops later", "Keras has not answered in 1 s"),
    ],
)
def test_a_process_that_fails_later_is_told_and_left(model, images, keras_is, monkeypatch, mode, message):
    keras_is(mode)
    if mode == "stops later":
        monkeypatch.setattr(keras_encoder, "_SECONDS", 1.0)
    encoder = KerasEncoder(model[0], weights_of(model))

    with pytest.raises(MissingComponentError) as raised:
        list(encoder.encode_stream([images[:4], images[4:8]]))
    with pytest.raises(MissingComponentError, match="has ended"):
        encode(encoder, images[:1])

    assert raised.value.message == message


def test_an_encoder_that_is_closed_does_not_wait_for_its_process(model, images, keras_is):
    keras_is("stops later")
    encoder = KerasEncoder(model[0], weights_of(model))
    process = encoder.close.peek()[2][0]
    encode(encoder, images[:4])

    encoder.close()

    assert process.returncode == -signal.SIGKILL


class Toy:
    """Stands for an encoder on a GPU: gives what the CPU gives, changed."""

    batch_size = 3

    def __init__(self, cpu, change):
        self.spec, self.cpu, self.change, self.asked = cpu.spec, cpu, change, 0

    def encode_stream(self, batches):
        for batch in batches:
            self.asked += 1
            yield self.change(self.asked, encode(self.cpu, batch))


def fail(batch: int, rows):
    if batch == 3:
        raise RuntimeError("[GPU] out of resources\nCL_OUT_OF_RESOURCES")
    return rows


def lose(_: int, rows):
    return np.full_like(rows, np.nan)


@pytest.mark.parametrize(
    ("change", "asked", "warning"),
    [
        (lambda batch, rows: rows, 4, ""),
        (lambda batch, rows: rows + np.float32(0.5 * TOLERANCE), 4, ""),
        (
            lambda batch, rows: rows + np.float32(0.002 * (batch == 2)),
            2,
            "an embedding differs from the CPU's by 0.002,",
        ),
        (lambda batch, rows: rows[::-1], 1, "an embedding differs from the CPU's by "),
        (lose, 1, "an embedding differs from the CPU's by "),
        (fail, 3, "CL_OUT_OF_RESOURCES"),
    ],
    ids=["right", "nearly", "wrong later", "in another order", "nothing", "fails later"],
)
def test_a_gpu_is_used_as_long_as_it_gives_the_embeddings_of_the_cpu(model, images, caplog, change, asked, warning):
    cpu = open_encoder(model[0], model[1])
    toy = Toy(cpu, change)
    compared = ComparedEncoder(toy, cpu)
    batches = [images[start : start + 3] for start in range(0, 12, 3)]

    rows = list(compared.encode_stream(batches))

    assert [len(batch) for batch in rows] == [3] * 4
    assert np.abs(np.concatenate(rows) - encode(cpu, images)).max() <= TOLERANCE
    assert toy.asked == asked
    said = [record.message for record in caplog.records if record.levelno >= logging.WARNING]
    assert [warning in message for message in said] == ([True] if warning else [])
    assert compared.batch_size == 3
    features = compared.encode_with_features(images[0])
    assert np.allclose(features.embedding, encode(cpu, images[:1])[0], atol=1e-6)


def test_images_from_which_neither_gets_anything_do_not_part_them(images, model):
    class Blank(OpenVinoEncoder):
        def encode_stream(self, batches):
            for rows in super().encode_stream(batches):
                rows[:] = np.nan
                yield rows

    cpu = Blank(model[0], model[1] / "encoder.xml")
    toy = Toy(cpu, lambda batch, rows: rows)
    rows = list(ComparedEncoder(toy, cpu).encode_stream([images[:3], images[:3]]))
    assert toy.asked == 2
    assert np.isnan(np.concatenate(rows)).all()


def test_what_comes_wrong_with_the_images_themselves_is_not_taken_for_the_gpus_fault(model, images):
    cpu = open_encoder(model[0], model[1])

    def batches():
        yield images[:3]
        raise RuntimeError("of the images")

    with pytest.raises(RuntimeError, match="of the images"):
        list(ComparedEncoder(Toy(cpu, lambda batch, rows: rows), cpu).encode_stream(batches()))


def opened(model, caplog, *, device="gpu", count=10_000, spec=None, root=Path("/nowhere")):
    """What a build gets, and what it is warned of."""
    encoder = open_for_build(spec or model[0], model[1], model[2], device, count, root)
    return encoder, [record.message for record in caplog.records if record.levelno >= logging.WARNING]


def test_a_gpu_is_asked_for_first_and_used_for_many_images_only(model, caplog, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(gpu, "KerasEncoder", lambda *given: asked.append(given) or Toy(cpu, fail))
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/nvidia0").touch()
    cpu = open_encoder(model[0], model[1])
    monkeypatch.setattr(Toy, "device", "gpu:0", raising=False)

    for options in ({"device": "cpu"}, {"count": 499}):
        encoder, warnings = opened(model, caplog, root=tmp_path, **options)
        assert (type(encoder), warnings, asked) == (OpenVinoEncoder, [], [])
    encoder, warnings = opened(model, caplog, root=tmp_path, count=500)

    assert (type(encoder), warnings) == (ComparedEncoder, [])
    assert asked == [(model[0], weights_of(model))]


@pytest.mark.skipif(has_openvino_gpu(), reason="OpenVINO has a GPU here")
def test_without_a_gpu_the_cpu_is_used_with_a_warning(model, keras_is, caplog):
    encoder, warnings = opened(model, caplog)
    assert type(encoder) is OpenVinoEncoder
    assert warnings == ["no GPU is used, but the CPU: none was found"]
    caplog.clear()

    keras_is("cpu")
    encoder, warnings = opened(model, caplog, root=Path("/"))
    assert type(encoder) is OpenVinoEncoder
    assert warnings == ["no GPU is used, but the CPU: Keras sees no GPU"]
    caplog.clear()

    _, warnings = opened(model, caplog, spec=with_precision(model[0], "bf16"))
    assert ["index is in bf16, and a GPU computes in f32" in each for each in warnings] == [True]


@pytest.mark.parametrize("modes", [("dies later",), pytest.param(("right", "dies later"), marks=pytest.mark.slow)])
def test_a_build_with_a_gpu_has_the_embeddings_of_one_without(imgsearch, catalog, tmp_path, keras_is, modes):
    said = {}
    for mode in ("no GPU", *modes):
        keras_is(mode)
        command = ["embed", catalog, "-o", mode, "--precision", "f32"]
        done = imgsearch(*command, *(() if mode == "no GPU" else ("--device", "gpu")))
        assert done.returncode == 0
        said[mode] = done.stderr

    expected = np.load(tmp_path / "no GPU" / "embeddings.npy")
    for mode in modes:
        assert np.abs(np.load(tmp_path / mode / "embeddings.npy") - expected).max() < 1e-5
    assert [mode for mode, words in said.items() if "GPU" in words] == ["dies later"]
    assert "the GPU is not used any more, but the CPU: the process of Keras ended: CUDA_ERROR_ECC" in said["dies later"]


@pytest.mark.parametrize(
    ("options", "known", "expected"),
    [
        ({"device": "gpu"}, None, "f32"),
        ({"device": "gpu", "precision": "auto"}, "bf16", "f32"),
        ({"device": "gpu"}, "bf16", "bf16"),
        ({"device": "cpu"}, None, best_precision()),
        ({}, "f32", "f32"),
    ],
)
def test_what_is_built_anew_with_a_gpu_is_in_f32(options, known, expected):
    previous = known and SimpleNamespace(encoder=with_precision(choose_encoder("lite0-retrieval").spec, known))
    assert resolve_encoder(options, previous).spec.precision == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backbone": "handcrafted"}, "--device gpu has no effect on handcrafted, which has no network"),
        ({"precision": "bf16"}, "--device gpu and --precision bf16 cannot be combined: a GPU computes in f32"),
    ],
)
def test_what_has_no_effect_with_a_gpu_is_refused(options, message):
    with pytest.raises(UsageError) as raised:
        resolve_encoder({"device": "gpu", **options}, None)
    assert raised.value.message == message


@pytest.mark.slow
def test_the_default_encoder_gives_the_embeddings_of_openvino_when_keras_runs_it(drawn, monkeypatch):
    monkeypatch.setattr(keras_encoder, "_IMAGES", 8)  # which the process does not know
    choice = choose_encoder("lite0-retrieval")
    files = sorted(drawn.rglob("*.png"))[:12]
    images = np.stack([fit(decode(file.read_bytes()), choice.spec.size) for file in files])
    encoder = KerasEncoder(choice.spec, None, require_gpu=False)

    rows = encode(encoder, images)

    expected = encode(open_encoder(choice.spec, exported_encoder(choice.spec, choice.files)), images)
    assert np.abs(rows - expected).max() < 1e-4
    assert encoder.device == "cpu" or encoder.device.startswith(("gpu", "cuda"))


@pytest.mark.slow
def test_keras_runs_a_model_in_a_process_of_its_own_with_the_embeddings_of_openvino(model, images):
    encoder = KerasEncoder(model[0], weights_of(model), require_gpu=False)

    assert np.abs(encode(encoder, images) - encode(open_encoder(model[0], model[1]), images)).max() < 1e-5


@pytest.mark.skipif(
    not (has_openvino_gpu() or any((Path("/") / driver).exists() for driver in gpu._DRIVERS)),
    reason="there is no GPU here",
)
def test_a_gpu_gives_the_embeddings_of_the_cpu(drawn, caplog):
    choice = choose_encoder("lite0-retrieval")
    folder = exported_encoder(choice.spec, choice.files)
    files = sorted(drawn.rglob("*.png"))[:40]
    images = np.stack([fit(decode(file.read_bytes()), choice.spec.size) for file in files])
    encoder = open_for_build(choice.spec, folder, choice.files, "gpu", 10_000)

    rows = encode(encoder, images)

    assert [record.message for record in caplog.records if record.levelno >= logging.WARNING] == []
    assert np.abs(rows - encode(open_encoder(choice.spec, folder), images)).max() <= TOLERANCE
