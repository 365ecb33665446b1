import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from imgsearch import Index, build_index, check
from imgsearch.encoders.choice import choose_encoder
from imgsearch.encoders.export import exported_encoder, exported_files
from imgsearch.encoders.runtime import HandcraftedEncoder, HybridEncoder, encode, open_encoder
from imgsearch.encoders.spec import EncoderSpec
from imgsearch.errors import DamagedIndexError
from imgsearch.images.decode import decode
from imgsearch.images.transform import fit
from imgsearch.store import generations
from imgsearch.store.generations import read_manifest


def spec_of(backbone: str, *arguments: object, **options: object) -> EncoderSpec:
    return choose_encoder(backbone, *arguments, **options).spec


COLOR, TEXTURE, SHAPE = (spec_of(f"handcrafted:{part}") for part in ("color", "texture", "shape"))


@pytest.fixture(scope="module")
def files(drawn) -> list[bytes]:
    return [file.read_bytes() for file in sorted(drawn.rglob("*.png"))[:10]]


@pytest.fixture(scope="module")
def images(files):
    return np.stack([fit(decode(file), 128) for file in files])


@pytest.fixture(scope="module")
def with_model(tiny_models):
    """A hybrid of a network of 32 pixels and colors of 128, exported."""
    choice = choose_encoder(f"{tiny_models / 'classes.keras'}=2+handcrafted:color=0.5")
    return choice, exported_encoder(choice.spec, choice.files)


def by_hand(parts: list[tuple[np.ndarray, float]]) -> np.ndarray:
    joined = np.concatenate([rows * weight for rows, weight in parts], axis=1)
    return joined / np.linalg.norm(joined, axis=1, keepdims=True)


def test_an_embedding_is_the_parts_in_a_row_each_times_its_weight(images, tmp_path):
    spec = spec_of("handcrafted:color=0.3+handcrafted:shape+handcrafted:texture=2")

    rows = encode(open_encoder(spec, tmp_path), images)

    color, shape, texture = (encode(HandcraftedEncoder(part), images) for part in (COLOR, SHAPE, TEXTURE))
    assert (rows.shape, rows.dtype) == ((10, spec.dims), np.float32)
    assert np.allclose(rows, by_hand([(color, 0.3), (shape, 1), (texture, 2)]), atol=1e-6)
    # The cosine is the mean of the parts' cosines by the squares of their weights.
    cosines = (0.09 * color @ color.T + shape @ shape.T + 4 * texture @ texture.T) / 5.09
    assert np.allclose(rows @ rows.T, cosines, atol=1e-5)


def test_parts_of_other_sizes_see_the_image_resized(with_model, images, tiny_models):
    choice, folder = with_model
    alone = choose_encoder(str(tiny_models / "classes.keras"))

    rows = encode(open_encoder(choice.spec, folder), images)

    small = np.stack([fit(image, 32, "stretch") for image in images])
    model = open_encoder(alone.spec, exported_encoder(alone.spec, alone.files))
    assert choice.spec.size == 128
    assert np.allclose(
        rows, by_hand([(encode(model, small), 2), (encode(HandcraftedEncoder(COLOR), images), 0.5)]), atol=1e-5
    )


@pytest.mark.parametrize("for_one", [False, True])
def test_a_stream_of_many_batches_keeps_its_order(with_model, images, for_one):
    choice, folder = with_model
    encoder = open_encoder(choice.spec, folder, for_one=for_one)
    together = encode(encoder, images)
    bounds = [(0, 1), (1, 6), (6, 7), (7, 10), (0, 10), *((row, row + 1) for row in range(10))] * 3

    batches = list(encoder.encode_stream(images[start:end] for start, end in bounds))

    assert list(encoder.encode_stream([])) == []
    for (start, end), batch in zip(bounds, batches, strict=True):
        assert np.allclose(batch, together[start:end], atol=1e-5)


def test_images_are_asked_for_as_they_are_needed_and_not_all_at_once(with_model, images):
    asked = 0

    def batches() -> Iterator[np.ndarray]:
        nonlocal asked
        for _ in range(500):
            asked += 1
            yield images[:1]

    stream = open_encoder(with_model[0].spec, with_model[1]).encode_stream(batches())
    next(stream)

    assert asked < 50
    stream.close()


def test_a_stream_may_be_left_before_its_end_and_another_begun(with_model, images):
    encoder = open_encoder(with_model[0].spec, with_model[1])
    expected = encode(encoder, images[:1])
    stream = encoder.encode_stream(images[row : row + 1] for row in range(10))
    next(stream)
    stream.close()

    for _ in range(5):
        assert np.array_equal(encode(encoder, images[:1]), expected)


def test_an_error_in_the_images_comes_through(with_model, images):
    def batches() -> Iterator[np.ndarray]:
        yield images[:1]
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        list(open_encoder(with_model[0].spec, with_model[1]).encode_stream(batches()))


class Blind(HandcraftedEncoder):
    """Finds nothing in the images of these numbers of each batch."""

    blind_for: tuple[int, ...] = ()

    def encode_stream(self, batches):
        for rows in super().encode_stream(batches):
            rows[list(self.blind_for)] = np.nan
            yield rows


def test_a_part_that_finds_nothing_leaves_zeros_and_all_that_find_nothing_nan(images):
    spec = spec_of("handcrafted:color+handcrafted:shape=0.5")
    first, second = Blind(COLOR), Blind(SHAPE)
    first.blind_for, second.blind_for = (1, 3), (2, 3)

    rows = encode(HybridEncoder(spec, [first, second]), images[:4])

    shape, color = (encode(HandcraftedEncoder(part), images) for part in (SHAPE, COLOR))
    assert np.allclose(rows[1], np.concatenate([np.zeros(COLOR.dims), shape[1]]), atol=1e-6)
    assert np.allclose(rows[2], np.concatenate([color[2], np.zeros(SHAPE.dims)]), atol=1e-6)
    assert np.isnan(rows[3]).all()
    assert np.allclose(rows[:1], by_hand([(color[:1], 1), (shape[:1], 0.5)]), atol=1e-6)


# --- files


def test_an_exported_hybrid_has_the_files_of_its_parts(with_model):
    choice, folder = with_model

    assert exported_files(choice.spec) == ("spec.json", "0-encoder.xml", "0-encoder.bin")
    assert {file.name for file in folder.iterdir()} == {*exported_files(choice.spec), "sha256.json"}


def test_two_networks_in_a_hybrid_keep_their_files_apart(tiny_models, images):
    first, second = (choose_encoder(str(tiny_models / name)) for name in ("classes.keras", "again.keras"))
    choice = choose_encoder(f"{tiny_models / 'classes.keras'}+{tiny_models / 'again.keras'}")
    small = images[:, ::4, ::4]

    rows = encode(open_encoder(choice.spec, exported_encoder(choice.spec, choice.files)), small)

    alone = [encode(open_encoder(one.spec, exported_encoder(one.spec, one.files)), small) for one in (first, second)]
    assert np.allclose(rows, by_hand([(one, 1) for one in alone]), atol=1e-5)
    assert not np.allclose(*alone, atol=0.1)


@pytest.mark.parametrize("name", ["0-encoder.xml", "0-encoder.bin"])
def test_a_file_of_a_part_that_is_damaged_is_damage(with_model, tmp_path, name):
    choice, folder = with_model
    shutil.copytree(folder, tmp_path / "copy")
    (tmp_path / "copy" / name).write_bytes(b"garbage")

    with pytest.raises(DamagedIndexError):
        open_encoder(choice.spec, tmp_path / "copy")


def test_a_part_of_other_dimensions_than_promised_is_damage(with_model):
    choice, folder = with_model
    part = choice.spec.parts[0]
    parts = (replace(part, spec=replace(part.spec, dims=25)), choice.spec.parts[1])
    other = replace(choice.spec, dims=choice.spec.dims + 1, parts=parts)

    with pytest.raises(DamagedIndexError, match="24 numbers, expected 25"):
        open_encoder(other, folder)


# --- in an index


@pytest.fixture(scope="module")
def index(drawn, tiny_models, tmp_path_factory) -> Path:
    """An index by a hybrid with a network in it. Not to be changed: copy it."""
    folder = tmp_path_factory.mktemp("hybrid") / "index"
    build_index(drawn, folder, backbone=f"{tiny_models / 'classes.keras'}=2+handcrafted:color=0.5", backend="exact")
    return folder


def test_an_index_by_a_hybrid_is_whole_and_names_all_its_files(index):
    manifest = read_manifest(index)

    assert check(index, deep=True) == []
    named = {name for name in manifest.files if name.startswith("encoders/")}
    assert named == {f"{manifest.encoder_folder}/{name}" for name in exported_files(manifest.encoder)}
    assert manifest.encoder.name == "classes.keras=2+handcrafted:color=0.5"


@pytest.mark.parametrize("name", ["0-encoder.xml", "0-encoder.bin"])
def test_damage_of_a_part_is_found(index, tmp_path, photo, name):
    shutil.copytree(index, tmp_path / "copy")
    manifest = read_manifest(tmp_path / "copy")
    file = tmp_path / "copy" / manifest.encoder_folder / name
    file.write_bytes(file.read_bytes()[:-1] + b"\0")

    assert [finding.file for finding in check(tmp_path / "copy", deep=True)] == [f"{manifest.encoder_folder}/{name}"]
    with Index.open(tmp_path / "copy") as opened, pytest.raises(DamagedIndexError, match=name):
        opened.search(photo)


@pytest.fixture
def photo(drawn, tmp_path) -> Path:
    """A product of the catalog whose sha256 is not in it, so that it is encoded."""
    (tmp_path / "photo.png").write_bytes((drawn / "cups/cups-00.png").read_bytes() + b"\0")
    return tmp_path / "photo.png"


ASK = """
import json, sys
from imgsearch import Index
with Index.open(sys.argv[1]) as index:
    hits = index.search(sys.argv[2], k=3)
print(json.dumps([hits[0].path, hits[0].score, sorted({"keras", "tensorflow", "sklearn"} & set(sys.modules))]))
"""


def test_an_index_that_was_moved_answers_without_keras_model_and_cache(index, photo, tmp_path):
    shutil.copytree(index, tmp_path / "moved")
    environment = {"PATH": "/usr/bin:/bin", "IMGSEARCH_CACHE": str(tmp_path / "none"), "PYTHONPATH": ":".join(sys.path)}

    done = subprocess.run(
        [sys.executable, "-c", ASK, tmp_path / "moved", photo],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )

    path, score, heavy = json.loads(done.stdout)
    assert (path, heavy) == ("cups/cups-00.png", [])
    assert score > 0.999


def test_another_weight_embeds_everything_again(drawn, tmp_path):
    build_index(drawn, tmp_path / "index", backbone="handcrafted:color+handcrafted:shape", backend="exact")

    report = build_index(drawn, tmp_path / "index", backbone="handcrafted:color+handcrafted:shape=2")

    assert report.embedded == 24
    assert build_index(drawn, tmp_path / "index").published is False
    assert generations.published(tmp_path / "index").encoder.name == "handcrafted:color+handcrafted:shape=2"
