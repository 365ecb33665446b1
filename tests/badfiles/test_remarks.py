"""Images of one color, and color profiles of no use: indexed, counted and listed."""

import contextlib
import shutil
import struct
import zlib

import cv2
import numpy as np
import pytest

from imgsearch import Filter, Index, build_index, embed, info

pytestmark = pytest.mark.usefixtures("quick_builds")


OPTIONS = {"backbone": "handcrafted:color", "backend": "exact"}


def image(color: int | None, seed: int = 0, *, profile: bytes = b"") -> bytes:
    """A PNG of one gray, or of sixteen fields of color for None; each seed gives other bytes."""
    fields = np.random.default_rng(seed).integers(0, 256, (4, 4, 3)) if color is None else np.full((4, 4, 3), color)
    data = cv2.imencode(".png", np.kron(fields, np.ones((8 + seed, 8, 1))).astype(np.uint8))[1].tobytes()
    chunk = b"iCCP" + b"odd\0\0" + zlib.compress(profile) if profile else b""
    framed = struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) if chunk else b""
    return data[:33] + framed + data[33:]


@pytest.fixture
def catalog(tmp_path):
    files = {
        "black.png": image(0),
        "good.png": image(None),
        "odd.png": image(None, 1, profile=b"no profile" * 20),
        "white.png": image(255),
        "white-again.png": image(255),
        "white-too.png": image(255, 1),
    }
    (tmp_path / "catalog").mkdir()
    for name, data in files.items():
        (tmp_path / "catalog" / name).write_bytes(data)
    return tmp_path / "catalog"


BLANK = [("black.png", "#000000"), *((f"white{end}.png", "#ffffff") for end in ("-again", "-too", ""))]


def test_they_are_counted_and_listed_in_report_and_info(catalog, run, report, tmp_path):
    done = run(
        "build-index",
        catalog,
        "--index",
        "idx",
        "--report",
        "report.json",
        "--backbone",
        "handcrafted:color",
        cwd=tmp_path,
    )
    told = run("info", "--index", "idx", cwd=tmp_path)

    facts, found = report(tmp_path / "report.json"), info(tmp_path / "idx", rejected=True)
    assert done.code == 0
    assert b"4 of one color, 1 with a color profile of no use" in done.out
    assert (facts["counts"]["blank"], facts["counts"]["ignored_profiles"]) == (4, 1)
    assert [(one["path"], one["color"]) for one in facts["blank"]] == list(found.blank) == BLANK
    assert facts["ignored_profiles"] == [{"path": "odd.png", "message": found.ignored_profiles[0][1]}]
    assert "not a color profile" in facts["ignored_profiles"][0]["message"]
    assert b"of one color" in told.out


def test_they_are_known_still_when_files_come_go_and_change_their_names(catalog, tmp_path):
    build_index(catalog, tmp_path / "idx", **OPTIONS)
    (catalog / "white.png").rename(catalog / "zebra.png")
    (catalog / "black.png").unlink()
    (catalog / "new.png").write_bytes(image(128))

    second = build_index(catalog, tmp_path / "idx", **OPTIONS)
    third = build_index(catalog, tmp_path / "idx", **OPTIONS)

    found = info(tmp_path / "idx", rejected=True)
    assert [path for path, _ in found.blank] == ["new.png", "white-again.png", "white-too.png", "zebra.png"]
    assert (second.blank, third.blank, third.published, found.manifest.blank) == (4, 4, False, 4)
    assert found.ignored_profiles[0][0] == "odd.png"


def test_a_content_that_another_encoder_sees_otherwise_is_judged_anew(catalog, tmp_path):
    faint = np.full((64, 64, 3), 200, np.uint8)
    faint[20:40, 20:40] = 250
    (catalog / "faint.png").write_bytes(cv2.imencode(".png", faint)[1].tobytes())
    first = build_index(catalog, tmp_path / "idx", **OPTIONS)
    black_and_white = build_index(catalog, tmp_path / "idx", preprocess="binarize=100", **OPTIONS)
    again = build_index(catalog, tmp_path / "idx", preprocess="none", **OPTIONS)

    assert (first.blank, black_and_white.blank, again.blank) == (4, 5, 4)


def test_embeddings_hand_them_on_to_an_index(catalog, tmp_path):
    embed(catalog, tmp_path / "made", backbone="handcrafted:color")
    report = build_index(tmp_path / "made", tmp_path / "idx")

    assert report.blank == 4
    assert list(info(tmp_path / "idx", rejected=True).blank) == BLANK


# Blank images have one vector.


def first_hits(directory, file, k=1, **options):
    with contextlib.closing(Index.open(directory)) as index:
        return [hit.path for hit in index.search(file, k=k, **options)]


@pytest.mark.parametrize("backend", ["exact", "annoy"])
def test_an_image_of_the_catalog_finds_itself_before_others_with_its_vector(catalog, tmp_path, backend):
    build_index(catalog, tmp_path / "idx", backbone="handcrafted:color", backend=backend)

    for name in ("white.png", "white-again.png", "white-too.png", "good.png"):
        assert first_hits(tmp_path / "idx", catalog / name) == [name]
        assert first_hits(tmp_path / "idx", catalog / name, filter=Filter("path != ''")) == [name]


def test_copies_of_an_image_come_before_others_with_its_vector(catalog, tmp_path):
    build_index(catalog, tmp_path / "idx", **OPTIONS)
    shutil.copy(catalog / "white.png", tmp_path / "elsewhere.png")

    assert first_hits(tmp_path / "idx", catalog / "white.png", 3) == ["white.png", "white-again.png", "white-too.png"]
    assert first_hits(tmp_path / "idx", tmp_path / "elsewhere.png", 2) == ["white-again.png", "white.png"]


def test_an_image_finds_itself_through_a_link_to_the_catalog_and_from_within(catalog, tmp_path, monkeypatch):
    build_index(catalog, tmp_path / "idx", **OPTIONS)
    (tmp_path / "link").symlink_to(catalog)
    monkeypatch.chdir(catalog)

    assert first_hits(tmp_path / "idx", tmp_path / "link/white.png") == ["white.png"]
    assert first_hits("../idx", "white.png") == ["white.png"]
