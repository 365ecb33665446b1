"""Hits put in order by what they have in common with the query."""

import hashlib
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from imgsearch import Hit, build_index
from imgsearch.images.boxes import Box
from imgsearch.images.photo import Photo, open_photo
from imgsearch.images.policy import FilePolicy
from imgsearch.search.descriptors import DESCRIPTORS
from imgsearch.search.rerank import CANDIDATES, as_indexed, part_of, rerank
from imgsearch.store import generations
from imgsearch.store.manifest import Manifest

COUNT = 24


def textured(seed, height=150, width=200):
    """An image of soft spots: no two seeds have one in common."""
    coarse = np.random.default_rng(seed).integers(0, 256, (height // 10, width // 10, 3), np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


@dataclass(frozen=True)
class Shop:
    """A catalog with its index, and hits of all its images in the order of their names."""

    catalog: Path
    index: Path
    manifest: Manifest
    contents: dict[str, bytes]
    hits: list[Hit]


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shop")
    (folder / "catalog").mkdir()
    for number in range(COUNT):
        cv2.imwrite(str(folder / f"catalog/{number:02d}.png"), textured(number))
    build_index(folder / "catalog", folder / "index", backbone="handcrafted", backend="exact")
    return folder


@pytest.fixture
def shop(built, tmp_path):
    shutil.copytree(built, tmp_path / "shop")
    catalog, index = tmp_path / "shop/catalog", tmp_path / "shop/index"
    contents = {path.name: hashlib.sha256(path.read_bytes()).digest() for path in sorted(catalog.iterdir())}
    hits = [Hit(rank, path, 1 - rank / 100, rank / 100, path, "", {}) for rank, path in enumerate(contents, start=1)]
    return Shop(catalog, index, replace(generations.read_manifest(index), catalog=str(catalog)), contents, hits)


def photo_of(image):
    return Photo(image, image.shape[:2])


def turned(number):
    """A photo of a catalog image, turned by 15 degrees and smaller, on another background."""
    background = textured(1000, 300, 300)
    turn = cv2.getRotationMatrix2D((100, 75), 15, 0.8) + np.array([[0, 0, 50], [0, 0, 70]])
    size = background.shape[1::-1]
    return photo_of(cv2.warpAffine(textured(number), turn, size, background, borderMode=cv2.BORDER_TRANSPARENT))


def asked(shop, photo, hits=None, **changes):
    shop = replace(shop, **changes)
    return rerank(shop.index, shop.manifest, shop.contents, photo, shop.hits if hits is None else hits)


def paths(pairs):
    return [hit.path for hit, _ in pairs]


def test_what_is_proved_comes_first_and_the_others_keep_their_order(shop):
    found = asked(shop, turned(17))

    others = [hit.path for hit in shop.hits if hit.path != "17.png"]
    assert paths(found) == ["17.png", *others]
    assert [hit.rank for hit, _ in found] == [*range(1, COUNT + 1)]
    first, match = found[0]
    assert first.inliers == match.inliers >= 10
    assert first == replace(shop.hits[17], rank=1, inliers=match.inliers)
    assert [hit.inliers for hit, _ in found[1:CANDIDATES]] == [0] * (CANDIDATES - 1)


def test_what_comes_after_the_candidates_is_not_compared(shop):
    found = asked(shop, turned(CANDIDATES + 1))

    assert paths(found) == [hit.path for hit in shop.hits]
    assert [(hit.inliers, match) for hit, match in found[CANDIDATES:]] == [(None, None)] * (COUNT - CANDIDATES)


def test_more_inliers_come_before_fewer_and_the_order_of_the_hits_decides_between_equals(shop):
    half = textured(3)
    half[:, 100:] = 255
    cv2.imwrite(str(shop.catalog / "00.png"), half)
    for path in ("05.png", "06.png"):
        shutil.copy(shop.catalog / "03.png", shop.catalog / path)
    contents = {path: hashlib.sha256((shop.catalog / path).read_bytes()).digest() for path in shop.contents}

    found = asked(shop, photo_of(textured(3)), contents=contents)

    assert paths(found)[:5] == ["03.png", "05.png", "06.png", "00.png", "01.png"]
    inliers = [hit.inliers for hit, _ in found]
    assert inliers[0] == inliers[1] == inliers[2] > inliers[3] >= 5 > inliers[4]


def test_no_hits_stay_none(shop):
    assert asked(shop, turned(1), []) == []


def test_the_answer_is_the_same_with_the_points_that_were_kept(shop):
    cold = asked(shop, turned(9))
    assert (shop.index / DESCRIPTORS).exists()
    kept = (shop.index / DESCRIPTORS).read_bytes()
    shutil.rmtree(shop.catalog)  # so that they must come from the index

    warm = asked(shop, turned(9))

    assert [hit for hit, _ in warm] == [hit for hit, _ in cold]
    assert all((one.query == other.query).all() for (_, one), (_, other) in zip(warm[:20], cold[:20], strict=True))
    assert (shop.index / DESCRIPTORS).read_bytes() == kept


def test_an_index_that_cannot_be_written_answers_the_same(shop):
    written = asked(shop, turned(9))
    (shop.index / DESCRIPTORS).unlink()
    (shop.index / DESCRIPTORS).mkdir()  # so that no file can be written there, not even by root

    assert [hit for hit, _ in asked(shop, turned(9))] == [hit for hit, _ in written]


def vanish(path):
    path.unlink()


def change(path):
    path.write_bytes(path.read_bytes() + b"\0")


def link(path):
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


@pytest.mark.parametrize("make", [vanish, change, link])
def test_a_image_that_is_not_there_as_it_was_indexed_proves_nothing(shop, make):
    make(shop.catalog / "09.png")

    found = asked(shop, turned(9))

    assert paths(found) == [hit.path for hit in shop.hits]
    assert [hit.path for hit, match in found[:CANDIDATES] if match is None] == ["09.png"]
    assert found[9][0].inliers is None


def test_a_link_is_followed_where_the_catalog_lets_it_in(shop):
    link(shop.catalog / "09.png")
    manifest = replace(shop.manifest, policy=FilePolicy(follow_links=True))

    assert paths(asked(shop, turned(9), manifest=manifest))[0] == "09.png"


def test_a_hit_whose_content_is_not_known_is_not_compared(shop):
    contents = {path: content for path, content in shop.contents.items() if path != "09.png"}

    found = asked(shop, turned(9), contents=contents)

    assert paths(found) == [hit.path for hit in shop.hits]
    assert found[9] == (replace(shop.hits[9], inliers=None), None)


def test_a_hit_is_compared_with_the_part_of_the_photo_that_its_box_shows(shop):
    scene = textured(1000, 400, 600)
    scene[20:170, 30:230] = textured(4)
    scene[220:370, 350:550] = textured(8)
    photo = photo_of(scene)
    left, right = Box(30, 20, 200, 150), Box(350, 220, 200, 150)

    here = asked(shop, photo, [replace(hit, box=left) for hit in shop.hits])
    there = asked(shop, photo, [replace(hit, box=right) for hit in shop.hits])
    crossed = asked(shop, photo, [replace(hit, box=right if hit.path == "04.png" else left) for hit in shop.hits])

    assert (here[0][0].path, there[0][0].path) == ("04.png", "08.png")
    assert (here[1][0].inliers, there[1][0].inliers, crossed[0][0].inliers) == (0, 0, 0)


@pytest.mark.parametrize(
    ("box", "shape"),
    [
        (None, (100, 200)),
        (Box(200, 100, 100, 60), (40, 60)),
        (Box(0, 0, 400, 200), (100, 200)),
        (Box(399, 199, 1, 1), (1, 1)),
        (Box(0, 0, 1, 1), (1, 1)),
    ],
)
def test_the_part_of_a_photo_has_a_margin_where_there_is_room(box, shape):
    photo = Photo(textured(5, 100, 200), (200, 400))

    assert part_of(photo, box).shape == (*shape, 3)


def test_the_part_of_a_photo_lies_about_the_box():
    photo = Photo(textured(5, 100, 200), (200, 400))

    assert (part_of(photo, Box(200, 100, 100, 60)) == photo.pixels[45:85, 95:155]).all()


def test_a_image_that_only_a_process_of_its_own_may_decode_is_not_compared(shop):
    _, encoded = cv2.imencode(".jpg", textured(1))
    data = encoded.tobytes() + b"\xff\xda" * 100
    (shop.catalog / "odd.jpg").write_bytes(data)

    assert open_photo(data, FilePolicy()) is None
    assert as_indexed(shop.manifest, "odd.jpg", hashlib.sha256(data).digest()) is None


def test_a_file_that_is_no_image_is_not_compared(shop):
    (shop.catalog / "odd.png").write_bytes(b"no image")

    assert as_indexed(shop.manifest, "odd.png", hashlib.sha256(b"no image").digest()) is None


def test_a_catalog_image_is_read_small(shop):
    large = textured(6, 1500, 3000)
    cv2.imwrite(str(shop.catalog / "large.png"), large)
    content = hashlib.sha256((shop.catalog / "large.png").read_bytes()).digest()

    assert as_indexed(shop.manifest, "large.png", content).shape == (120, 240, 3)
