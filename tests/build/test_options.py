"""Options of a build: each is remembered, can be taken back, and is refused where it would have no effect."""

import inspect
from dataclasses import replace
from typing import get_type_hints

import pytest

from imgsearch import build_index, embed
from imgsearch.build.generation import Job
from imgsearch.build.options import BuildOptions, EmbedOptions, ImageOptions, IndexOptions, check_options
from imgsearch.build.update import _plan
from imgsearch.cli import main
from imgsearch.cli.commands import build_index as build_index_command
from imgsearch.cli.commands import embed as embed_command
from imgsearch.encoders.choice import Choice
from imgsearch.encoders.projection import AdaptationGain
from imgsearch.encoders.spec import DEFAULT_BACKBONE
from imgsearch.encoders.table import TABLE
from imgsearch.errors import UsageError
from imgsearch.images.policy import MAX_BYTES, MAX_PIXELS
from imgsearch.progress import no_progress
from onnx_models import DIMS, saved, toy

STICKY = (*get_type_hints(ImageOptions), *get_type_hints(IndexOptions))

# What an index is built with at first, what is then given, and what takes that back.
ROUND_TRIPS = {
    "backbone": ({}, {"backbone": "handcrafted"}, [{"backbone": DEFAULT_BACKBONE}]),
    "onnx_input": (
        {"backbone": "toy.onnx", "onnx_input": "mean=0,std=1"},
        {"backbone": "toy.onnx", "onnx_input": "mean=0.5,std=0.5"},
        [{"backbone": "toy.onnx", "onnx_input": "mean=0,std=1"}],
    ),
    "weights": ({"backbone": "vgg16"}, {"weights": "vgg16.h5"}, [{"weights": "none"}]),
    "precision": ({}, {"precision": "f32"}, [{"precision": "bf16"}, {"precision": "auto"}]),
    "metadata": ({}, {"metadata": "products.csv"}, [{"metadata": "none"}]),
    "metadata_encoding": (
        {"metadata": "products.csv"},
        {"metadata_encoding": "CP1252"},
        [{"metadata_encoding": "utf8"}],
    ),
    "text": ({}, {"text": "title,sku"}, [{"text": "auto"}]),
    "max_bytes": ({}, {"max_bytes": 5}, [{"max_bytes": MAX_BYTES}]),
    "max_pixels": ({}, {"max_pixels": 5}, [{"max_pixels": MAX_PIXELS}]),
    "damaged": ({}, {"damaged": "keep"}, [{"damaged": "skip"}]),
    "follow_links": ({}, {"follow_links": True}, [{"follow_links": False}]),
    "preprocess": ({}, {"preprocess": "grayscale"}, [{"preprocess": ""}, {"preprocess": "none"}]),
    "trim": ({}, {"trim": False}, [{"trim": True}]),
    "detector": ({"adapt": False}, {"detector": "detector.keras", "adapt": False}, [{"detector": "none"}]),
    "adapt": ({}, {"adapt": True}, [{"adapt": False}]),
    "backend": ({}, {"backend": "exact"}, [{"backend": "auto"}]),
    "trees": ({"backend": "annoy"}, {"trees": 7}, [{"backend": "annoy"}]),
    "seed": ({}, {"seed": 7}, [{"seed": 0}]),
    "memory_budget": ({}, {"memory_budget": "1.5 GB"}, [{"memory_budget": "none"}]),
    "target_recall": ({}, {"target_recall": 0.9}, [{"target_recall": 0.99}]),
}


@pytest.fixture
def plan(tmp_path, monkeypatch):
    """Plan a build, as far as it is planned before the catalog is scanned, and take it for published."""
    monkeypatch.chdir(tmp_path)
    for name in ("products.csv", "vgg16.h5"):
        (tmp_path / name).write_text("path\n")
    saved(toy(), tmp_path / "toy.onnx")
    monkeypatch.setattr("imgsearch.encoders.choice._dims", lambda *_: DIMS)
    spec = replace(TABLE[DEFAULT_BACKBONE].spec, name="detector.keras", kind="detector", weights="sha256:00")
    monkeypatch.setattr("imgsearch.build.options.best_precision", lambda: "bf16")
    monkeypatch.setattr(
        "imgsearch.build.options.choose_detector",
        lambda file, encoder: Choice(replace(spec, precision=encoder.precision)),
    )

    def run(previous=None, **options):
        given = check_options("build_index", BuildOptions, options)
        planned = _plan(Job(tmp_path, tmp_path / "index", given, no_progress), tmp_path, previous)
        gain = AdaptationGain(24, 0.5, 0.6) if planned.adapt else None
        return replace(planned.draft, generation=1, adaptation=gain)

    return run


def test_every_sticky_option_is_set_and_kept_and_taken_back(plan):
    assert sorted(ROUND_TRIPS) == sorted(STICKY)  # a new option needs a row
    for name, (first, given, ways_back) in ROUND_TRIPS.items():
        assert name in given
        start = plan(**first)
        changed = plan(start, **given)
        assert changed != start, name
        assert plan(changed) == changed, name
        assert plan(changed, **dict.fromkeys(STICKY)) == changed, name  # None is not given
        for back in ways_back:
            assert plan(changed, **back) == start, (name, back)
            assert plan(changed, **given) == changed, name


@pytest.mark.parametrize(
    ("index", "given", "named"),
    [
        ({"backend": "faiss"}, {"trees": 5}, "--trees"),
        ({"backend": "exact"}, {"trees": 5}, "--trees"),
        ({}, {"backend": "exact", "trees": 5}, "--trees"),
        ({}, {"backend": "faiss", "trees": 5}, "--trees"),
        ({}, {"backend": "exact", "target_recall": 0.5}, "--target-recall"),
        ({"backend": "exact"}, {"target_recall": 0.5}, "--target-recall"),
        ({"backbone": "handcrafted"}, {"precision": "bf16"}, "--precision"),
        ({"backbone": "handcrafted"}, {"weights": "vgg16.h5"}, "--weights"),
        ({}, {"weights": "vgg16.h5"}, "--weights"),
        ({"backbone": "toy.onnx", "onnx_input": "mean=0,std=1"}, {"weights": "vgg16.h5"}, "--weights"),
        ({"backbone": "toy.onnx", "onnx_input": "mean=0,std=1"}, {"onnx_input": "mean=0,std=1"}, "--onnx-input"),
        ({}, {"trim": False, "preprocess": "crop-foreground"}, "--no-trim"),
    ],
)
def test_an_option_without_effect_is_a_usage_error_that_names_it(plan, index, given, named):
    start = plan(**index)

    with pytest.raises(UsageError, match=named):
        plan(start, **given)


def test_an_option_that_says_what_is_so_anyway_is_accepted(plan):
    for index, given in (
        ({"backend": "faiss"}, {"backend": "annoy", "trees": 5}),
        ({"backend": "exact"}, {"target_recall": 0.99}),
        ({"backbone": "handcrafted"}, {"precision": "f32"}),
        ({"backbone": "handcrafted"}, {"precision": "auto"}),
        ({"backbone": "handcrafted"}, {"weights": "none", "metadata": "none", "detector": "none"}),
    ):
        plan(plan(**index), **given)
    assert plan(plan(), trees=5).search.backend == "annoy"  # who gives trees wants a forest


def test_an_encoder_keeps_its_old_pixels_only_when_asked_and_only_where_nothing_else_changes(plan):
    now = plan()
    old = replace(now, encoder=replace(now.encoder, pixels=1))
    old = replace(old, fingerprint=old.encoder.fingerprint)

    assert plan(old) == plan(now)
    assert plan(old, keep_pixels=True) == old
    assert plan(now, keep_pixels=True) == now
    assert plan(old, keep_pixels=True, trim=False) == plan(now, trim=False)
    assert plan(keep_pixels=True) == now


@pytest.mark.parametrize(
    "wrong",
    [
        *({"precision": "f64"}, {"damaged": "maybe"}, {"backend": "hnsw"}, {"trees": 0}, {"trees": 10_001}),
        {"metadata_encoding": "cp1252"},  # without metadata
        *({"seed": -1}, {"seed": 2**31}, {"target_recall": 0}, {"target_recall": 1.1}, {"max_bytes": 0}),
    ],
)
def test_a_value_out_of_range_is_a_usage_error(plan, wrong):
    with pytest.raises(UsageError):
        plan(**wrong)


def test_an_option_nobody_knows_is_a_type_error(tmp_path):
    with pytest.raises(TypeError, match=r"build_index\(\) got an unexpected keyword argument 'tree'"):
        build_index(tmp_path, tmp_path / "index", tree=5)
    with pytest.raises(TypeError, match=r"embed\(\) got an unexpected keyword argument 'trees'"):
        embed(tmp_path, tmp_path / "index", trees=5)


def test_commands_have_every_option():
    for command, kind in ((build_index_command.build_index, BuildOptions), (embed_command.embed, EmbedOptions)):
        assert get_type_hints(kind).keys() <= inspect.signature(command).parameters.keys()


def test_the_program_says_it_with_exit_code_2_and_changes_nothing(small, tmp_path, capsys):
    index = tmp_path / "index"
    command = ["build-index", str(small), "--index", str(index)]
    assert main([*command, "--backbone", "handcrafted", "--backend", "exact", "-q"]) == 0
    before = (index / "manifest.json").read_bytes()

    for options in (["--trees", "5"], ["--precision", "bf16"], ["--target-recall", "0.5"]):
        assert main([*command, *options]) == 2
        assert options[0] in capsys.readouterr().err
    assert (index / "manifest.json").read_bytes() == before
    assert main([*command, "--trees", "5", "--backend", "annoy", "-q"]) == 0


def test_paths_are_text_or_paths(small, tmp_path):
    (tmp_path / "table.csv").write_text("path,price\na/0000.png,1\n")
    options = {"backbone": "handcrafted", "backend": "exact"}

    assert build_index(str(small), str(tmp_path / "index"), metadata=str(tmp_path / "table.csv"), **options).published
    assert not build_index(small, tmp_path / "index", metadata=tmp_path / "table.csv", **options).published
