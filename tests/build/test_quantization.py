"""Builds in int8: the graph is made once, measured before it is published, and belongs to the index.

NNCF itself is in tests/encoders/test_int8.py, and in the slow test here; others make graphs in its place.
"""

import contextlib
import functools
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from here_decoder import HereDecoder
from here_variants import HereVariants
from imgsearch import Index, build_index, check, embed
from imgsearch.build import quantization
from imgsearch.cli import main
from imgsearch.encoders.int8 import Int8Loss
from imgsearch.encoders.runtime import import_openvino
from imgsearch.errors import GateError, MissingComponentError, UsageError
from imgsearch.store.generations import read_manifest


def copy_graph(_, graph: Path, __, target: Path) -> None:
    """What loses nothing."""
    for suffix in (".xml", ".bin"):
        shutil.copyfile(graph.with_suffix(suffix), target.with_suffix(suffix))


def spoil_graph(noise: float):
    """Make what adds noise to the embeddings of a graph, another to each dimension."""

    def spoil(spec, graph: Path, _, target: Path) -> None:
        openvino = import_openvino()
        from openvino import opset13 as opset

        model = openvino.Core().read_model(graph)
        added = np.random.default_rng(0).normal(0, noise, (1, spec.dims)).astype(np.float32)
        embedding = model.get_results()[0].input(0)
        embedding.replace_source_output(opset.add(embedding.get_source_output(), added).output(0))
        openvino.save_model(model, target, compress_to_fp16=False)

    return spoil


@pytest.fixture(scope="module", autouse=True)
def in_this_process():
    """Decode here, and take a copy of the graph for the one in int8; few variants of each image are enough."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(quantization, "DecodeWorker", HereDecoder)
        patch.setattr(quantization, "VariantWorker", functools.partial(HereVariants, scenes=0))
        patch.setattr(quantization.VariantWorker, "decode_variants", HereVariants.decode_variants, raising=False)
        patch.setattr(quantization, "quantized_graph", copy_graph)
        patch.setattr(quantization, "_VARIANTS", (3, 3))
        yield patch


@pytest.fixture(scope="module")
def shop(lay_out, tmp_path_factory) -> Path:
    """A catalog of 24 painted images. Not to be changed: copy it."""
    return lay_out(tmp_path_factory.mktemp("shop") / "catalog", 24)


@pytest.fixture(scope="module")
def options(tiny_models) -> dict:
    return {"backbone": str(tiny_models / "metric.keras"), "precision": "int8", "backend": "exact"}


@pytest.fixture(scope="module")
def built(shop, options, in_this_process) -> Path:
    """An index of it in int8. Not to be changed: copy it."""
    build_index(shop, shop.parent / "index", **options)
    return shop.parent / "index"


@pytest.fixture
def int8(built, index) -> Path:
    return Path(shutil.copytree(built, index, symlinks=True))


def test_an_index_in_int8_holds_its_graph_and_says_what_it_loses(int8, shop, options, capsysbinary):
    manifest = read_manifest(int8)

    assert (manifest.encoder.precision, manifest.encoder.quantized[:7]) == ("int8", "sha256:")
    assert manifest.version == 2  # a program that knows no int8 is to say so, and not that the manifest is damaged
    assert (manifest.int8.images, manifest.int8.queries) == (24, 72)
    assert manifest.int8.before == manifest.int8.after > 0.5
    assert check(int8, deep=True) == []
    assert json.loads((int8 / "manifest.json").read_text())["int8"]["cosine"] == pytest.approx(1, abs=1e-5)
    assert main(["info", "--index", str(int8)]) == 0
    assert b"int8            of 72 variants of images" in capsysbinary.readouterr().out


def test_the_graph_is_made_once_and_needs_neither_nncf_nor_a_cache_later(
    int8, shop, options, tmp_path, monkeypatch, painted
):
    monkeypatch.setenv("IMGSEARCH_CACHE", str(tmp_path / "none"))
    monkeypatch.setattr(quantization, "quantized_graph", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    before = read_manifest(int8)
    catalog = Path(shutil.copytree(shop, tmp_path / "catalog", copy_function=shutil.copy2))
    (catalog / "new.png").write_bytes(painted(77))

    report = build_index(catalog, int8, **options)  # as cron says it each night
    again = build_index(catalog, int8)

    assert (report.embedded, report.int8, again.published) == (1, before.int8, False)
    assert read_manifest(int8).encoder == before.encoder
    moved = int8.rename(tmp_path / "moved")
    with Index.open(moved) as index:
        assert index.search(catalog / "new.png", k=1)[0].path == "new.png"


def test_relearn_and_another_precision_make_another_encoder_of_it(int8, shop, options, monkeypatch):
    first = read_manifest(int8).encoder
    monkeypatch.setattr(quantization, "quantized_graph", spoil_graph(1e-4))

    relearned = build_index(shop, int8, relearn=True)
    second = read_manifest(int8).encoder
    plain = build_index(shop, int8, precision="f32")

    assert (relearned.embedded, plain.embedded, plain.int8) == (24, 24, None)
    assert first.fingerprint != second.fingerprint
    assert read_manifest(int8).encoder.quantized == ""


def test_what_gives_other_vectors_than_in_f32_is_not_published(shop, options, index, monkeypatch):
    monkeypatch.setattr(quantization, "quantized_graph", spoil_graph(1))

    with pytest.raises(GateError, match="does not give on this machine what it gives in f32: of 24 images") as raised:
        build_index(shop, index, **options)

    assert raised.value.hint == "build it with --precision auto"
    assert not (index / "manifest.json").exists()


def test_what_loses_too_much_is_not_published(shop, options, index, monkeypatch, contents):
    build_index(shop, index, **{**options, "precision": "f32"})
    before = contents(index)
    monkeypatch.setattr(quantization, "measure_loss", lambda *_, **__: Int8Loss(24, 72, 0.9, 0.88, 0.01, 0.97))

    with pytest.raises(GateError, match=r"loses more than 0\.5 points of its hit rate in int8: of 72") as raised:
        build_index(shop, index, **options)

    assert raised.value.hint == "build it with --precision auto"
    assert contents(index) == before
    assert read_manifest(index).encoder.precision == "f32"


class Said:
    """An encoder whose embedding is a row of its table, by the first value of an image."""

    def __init__(self, *rows: tuple[float, float]) -> None:
        self._rows = np.array(rows, np.float32)

    def encode_stream(self, batches):
        for batch in batches:
            yield self._rows[batch[:, 0, 0, 0]]


def test_a_loss_is_the_difference_on_the_same_queries(monkeypatch):
    """Of two images, 0 and 1, with two variants each, 2 to 5; a third has no embedding in one of the two encoders."""
    monkeypatch.setattr(quantization, "_LEAST", 2)
    images = np.array([[0, 2, 3], [1, 4, 5], [6, 6, 6]], np.uint8)[:, :, None, None, None]
    right, wrong = [(1, 0), (0, 1)], [(0, 1), (1, 0)]
    before = Said(*right, right[0], right[0], right[1], right[1], (1, 0))
    after = Said(*right, right[0], wrong[0], right[1], right[1], (np.nan, 0))

    loss = quantization.measure_loss((before, after), iter(images), images=300, cosine=0.97)

    assert (loss.queries, loss.before, loss.after) == (4, 1, 0.75)
    assert loss.error == pytest.approx(np.std([0, 1, 0, 0]) / 2)
    assert not loss.is_small


def test_a_network_beside_others_is_in_int8_alone(shop, options, index, monkeypatch, tmp_path):
    build_index(shop, index, **{**options, "backbone": f"{options['backbone']}+handcrafted:color=0.3"})

    manifest = read_manifest(index)
    assert [part.precision for part in manifest.encoder.all_parts()] == ["int8", "f32"]
    assert f"{manifest.encoder_folder}/0-encoder.xml" in manifest.files
    assert manifest.int8.after == manifest.int8.before
    assert not build_index(shop, index).published
    (index / manifest.encoder_folder / "0-encoder.bin").write_bytes(b"")
    monkeypatch.setenv("IMGSEARCH_CACHE", str(tmp_path / "none"))
    with pytest.raises(MissingComponentError, match="is lost"):
        build_index(shop, index)


def test_too_few_images_are_refused(lay_out, options, index, tmp_path):
    with pytest.raises(UsageError, match="expected at least 20 usable images to calibrate int8 on, found 19"):
        build_index(lay_out(tmp_path / "few", 19), index, **options)
    assert not (index / "manifest.json").exists()


def test_without_nncf_nothing_is_begun(shop, options, index, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)

    with pytest.raises(MissingComponentError, match="--precision int8 needs NNCF"):
        build_index(shop, index, **options)


@pytest.mark.parametrize("backbone", ["handcrafted", "visual-words", "handcrafted:color+handcrafted:shape"])
def test_encoders_without_a_network_are_refused(shop, index, backbone):
    with pytest.raises(UsageError, match="--precision int8 has no effect on"):
        build_index(shop, index, backbone=backbone, precision="int8")


def test_a_detector_is_refused_whether_new_or_known(shop, tiny_models, options, index):
    detector = str(tiny_models / "detector.keras")
    refused = pytest.raises(UsageError, match="--precision int8 is not for an index with a detector")
    with refused:
        build_index(shop, index, **options, detector=detector)
    build_index(shop, index, **{**options, "precision": "f32"}, detector=detector, adapt=False)
    with refused:
        build_index(shop, index, precision="int8")


def test_embeddings_in_int8_become_an_index_in_int8(shop, options, index, tmp_path):
    kept = {name: options[name] for name in ("backbone", "precision")}
    embed(shop, tmp_path / "embeddings", **kept)

    report = build_index(tmp_path / "embeddings", index, **options)

    assert report.int8 == read_manifest(tmp_path / "embeddings").int8
    assert read_manifest(index).encoder == read_manifest(tmp_path / "embeddings").encoder


def test_a_report_says_what_is_lost(int8, shop, tmp_path):
    with contextlib.redirect_stdout(None):
        main(["build-index", str(shop), "--index", str(int8), "--report", str(tmp_path / "report.json"), "--quiet"])

    assert json.loads((tmp_path / "report.json").read_text())["int8"]["queries"] == 72


@pytest.mark.slow
def test_the_default_encoder_in_int8_answers_as_in_f32(drawn, index, tmp_path, in_this_process):
    """And elsewhere the same catalog gives the same graph."""
    in_this_process.undo()  # as the last test of this file
    build_index(drawn, index, precision="int8", backend="exact")
    build_index(drawn, tmp_path / "again", precision="int8", backend="exact")

    manifest = read_manifest(index)
    assert manifest.fingerprint == read_manifest(tmp_path / "again").fingerprint
    assert manifest.int8.is_small
    assert manifest.int8.cosine > 0.85
    image = next(drawn.rglob("*.png"))
    (tmp_path / "photo.png").write_bytes(image.read_bytes() + b"\0")
    with Index.open(index.rename(tmp_path / "moved")) as opened:
        assert opened.search(tmp_path / "photo.png", k=1)[0].path == image.relative_to(drawn).as_posix()
