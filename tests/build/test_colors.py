"""Builds find the main colors of items; an index from before there were any gains them by one decode each."""

import contextlib
import json
import shutil
import sqlite3
from dataclasses import replace

import cv2
import numpy as np
import pytest

from imgsearch import Index, build_index, embed
from imgsearch.build import pipeline
from imgsearch.colors import parse_color
from imgsearch.errors import ImageError
from imgsearch.images import main_colors
from imgsearch.images.workers.decoders import DecodeWorker
from imgsearch.store import generations, integrity
from imgsearch.store.generations import read_manifest

COLORS = {"blue.png": (30, 60, 200), "green.png": (30, 140, 40), "red.png": (200, 30, 30)}


def square(color):
    image = np.full((60, 60, 3), 255, np.uint8)
    image[15:45, 15:45] = color[::-1]
    return cv2.imencode(".png", image)[1].tobytes()


@pytest.fixture
def shop(tmp_path):
    (tmp_path / "shop").mkdir()
    for name, color in COLORS.items():
        (tmp_path / "shop" / name).write_bytes(square(color))
    shutil.copy(tmp_path / "shop/red.png", tmp_path / "shop/red-again.png")
    return tmp_path / "shop"


@pytest.fixture
def update(shop, index):
    return lambda **options: build_index(
        shop, index, **{"backbone": "handcrafted:color", "backend": "exact", **options}
    )


def colors_of(directory):
    """Path -> what the table says, read by SQLite alone."""
    items = directory / read_manifest(directory).folder / generations.ITEMS
    with contextlib.closing(sqlite3.connect(items)) as connection:
        rows = connection.execute("SELECT path, place, rgb, share, name FROM items LEFT JOIN colors USING (row)")
        return {path: color for path, *color in rows}


def with_color(directory, color):
    with Index.open(directory) as index:
        rows, _ = index.items.color_differences(parse_color(color), 10)
        return [item.path for item in index.items.fetch(rows.tolist())]


EXPECTED = {name: [0, "#{:02x}{:02x}{:02x}".format(*color), 1.0, name[:-4]] for name, color in COLORS.items()}
EXPECTED["red-again.png"] = EXPECTED["red.png"]


def make_older(directory, statement="DROP TABLE colors"):
    """Change the items of an index as another imgsearch would have written them."""
    manifest = read_manifest(directory)
    name = f"{manifest.folder}/{generations.ITEMS}"
    with contextlib.closing(sqlite3.connect(directory / name, isolation_level=None)) as connection:
        connection.execute(statement)
    if statement.startswith("DROP"):
        with contextlib.closing(sqlite3.connect(directory / name, isolation_level=None)) as connection:
            connection.execute("DROP TABLE color_blocks")
    record = integrity.file_record(directory / name)
    text = json.dumps(replace(manifest, files={**manifest.files, name: record}).to_json())
    for copy in (directory / generations.MANIFEST, directory / manifest.folder / generations.MANIFEST):
        copy.write_text(text)


def test_items_have_colors_and_are_found_by_them(update, index):
    update()

    assert colors_of(index) == EXPECTED
    assert with_color(index, "red") == ["red-again.png", "red.png"]
    assert with_color(index, "#1f3dc6") == ["blue.png"]
    assert with_color(index, "pink") == []


def test_colors_stay_with_content_from_build_to_build(update, index, shop, no_encoder, monkeypatch):
    update()
    no_encoder()
    monkeypatch.setattr(pipeline.DecodeWorker, "decode_with_colors", None)  # nothing is decoded
    (shop / "green.png").rename(shop / "grass.png")
    (shop / "blue.png").unlink()
    shutil.copy(shop / "red.png", shop / "another.png")

    assert update(force=True).published
    assert not update().published
    assert colors_of(index) == {
        "another.png": EXPECTED["red.png"],
        "grass.png": EXPECTED["green.png"],
        "red-again.png": EXPECTED["red.png"],
        "red.png": EXPECTED["red.png"],
    }
    assert with_color(index, "green") == ["grass.png"]


def test_another_encoder_and_embeddings_hand_them_on(update, index, shop, tmp_path):
    update()
    update(backbone="handcrafted:shape")
    embed(shop, tmp_path / "made", backbone="handcrafted:color")
    build_index(tmp_path / "made", tmp_path / "copy")

    assert colors_of(index) == colors_of(tmp_path / "copy") == EXPECTED
    assert with_color(tmp_path / "copy", "blue") == ["blue.png"]


@pytest.mark.parametrize("older", ["DROP TABLE colors", "UPDATE colors SET version = 0, name = 'black'"])
def test_an_index_of_before_gains_them_once_without_an_encoder_and_says_so(
    update, index, contents, no_encoder, caplog, older
):
    update()
    make_older(index, older)
    before = contents(index)
    no_encoder()

    gained, again = update(), update()

    assert (gained.published, gained.unchanged, gained.embedded) == (True, 4, 0)
    assert not again.published
    assert [record.getMessage() for record in caplog.records if "main colors" in record.getMessage()] == [
        "the index gains the main colors of its items: 3 images are decoded once, which takes about a minute"
    ]
    assert (colors_of(index), contents(index)) == (EXPECTED, before)


def test_an_item_that_can_no_longer_be_decoded_stays_without_and_is_not_tried_again(
    update, index, shop, no_encoder, monkeypatch
):
    update()
    make_older(index)
    no_encoder()
    decode = pipeline.DecodeWorker.decode_with_colors

    def fail(worker, data):
        if data == (shop / "green.png").read_bytes():
            raise ImageError("corrupt", "cut short or damaged")
        return decode(worker, data)

    monkeypatch.setattr(pipeline.DecodeWorker, "decode_with_colors", fail)
    assert (update().count, update().published) == (4, False)
    (shop / "blue.png").unlink()
    update()

    assert colors_of(index) == {
        "green.png": [-1, None, None, None],
        "red-again.png": EXPECTED["red.png"],
        "red.png": EXPECTED["red.png"],
    }
    assert with_color(index, "green") == []


def test_another_content_under_the_same_name_size_and_time_lends_no_color(update, index, shop, monkeypatch):
    update()
    make_older(index)
    read = pipeline.read_file

    def other(path, **options):
        data, status = read(path, **options)
        return (square((0, 0, 0)) if path.endswith("green.png") else data), status

    monkeypatch.setattr(pipeline, "read_file", other)
    update()

    assert colors_of(index)["green.png"] == [-1, None, None, None]


def test_an_interruption_keeps_the_colors_that_were_found(update, index, monkeypatch):
    monkeypatch.setattr(pipeline, "COMMIT_IMAGES", 1)
    update()
    make_older(index)
    decode, calls = pipeline.DecodeWorker.decode_with_colors, []

    def count(worker, data):
        calls.append(data)
        return decode(worker, data)

    def stop(stage, done, _):
        if (stage, done) == ("colors", 2):
            raise KeyboardInterrupt

    monkeypatch.setattr(pipeline.DecodeWorker, "decode_with_colors", count)
    with pytest.raises(KeyboardInterrupt):
        update(progress=stop)
    calls.clear()
    update()

    assert len(calls) == 1
    assert colors_of(index) == EXPECTED


def test_a_decoder_process_hands_colors_over_if_it_was_made_to(shop):
    data = (shop / "red.png").read_bytes()
    for wanted in (True, False):
        with contextlib.closing(DecodeWorker(32, "pad", colors=wanted)) as worker:
            pixels, remarks, colors = worker.decode_with_colors(data)
        assert (pixels.shape, remarks) == ((32, 32, 3), {})
        assert colors == ([main_colors.MainColor("#c81e1e", 1.0)] if wanted else [])
