"""Hits put in order by what they have in common with the query."""

import hashlib
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from imgsearch import Hit, Index, build_index
from imgsearch.images.boxes import Box
from imgsearch.images.photo import Photo, open_photo
from imgsearch.images.policy import FilePolicy
from imgsearch.regions.geometric import find_points
from imgsearch.search import rerank
from imgsearch.search.rerank import CANDIDATES, as_indexed, part_of, rerank_hits
from imgsearch.store import generations
from imgsearch.store.manifest import Manifest

COUNT = 24


def textured(seed, height=150, width=200):
    """An image of soft spots: no two seeds have one in common."""
    coarse = np.random.default_rng(seed).integers(0, 256, (height // 10, width // 10, 3), np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


@dataclass(frozen=True)
class Shop:
    """A catalog, and hits of all its images in the order of their names; `sha256` stands for the items."""

    catalog: Path
    cache: Path
    manifest: Manifest
    sha256: dict[str, bytes]
    hits: list[Hit]

    def sha256_by_path(self, paths):
        return {path: self.sha256[path] for path in paths if path in self.sha256}


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shop")
    (folder / "catalog").mkdir()
    for number in range(COUNT):
        cv2.imwrite(str(folder / f"catalog/{number:02d}.png"), textured(number))
    build_index(folder / "catalog", folder / "index", backbone="handcrafted", backend="exact")
    return folder


@pytest.fixture
def shop(built, tmp_path, monkeypatch):
    monkeypatch.setenv("IMGSEARCH_CACHE", str(tmp_path / "cache"))
    catalog = Path(shutil.copytree(built / "catalog", tmp_path / "catalog"))
    sha256 = {path.name: hashlib.sha256(path.read_bytes()).digest() for path in sorted(catalog.iterdir())}
    hits = [Hit(rank, path, 1 - rank / 100, rank / 100, path, "", {}) for rank, path in enumerate(sha256, start=1)]
    manifest = replace(generations.read_manifest(built / "index"), catalog=str(catalog))
    return Shop(catalog, tmp_path / "cache/points-1", manifest, sha256, hits)


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
    return rerank_hits(shop.manifest, shop, photo, shop.hits if hits is None else hits)


def paths(hits):
    return [hit.path for hit in hits]


def test_what_is_proved_comes_first_and_the_others_keep_their_order(shop):
    found = asked(shop, turned(17))

    others = [hit.path for hit in shop.hits if hit.path != "17.png"]
    assert paths(found) == ["17.png", *others]
    assert [hit.rank for hit in found] == [*range(1, COUNT + 1)]
    assert found[0].inliers >= 10
    assert found[0] == replace(shop.hits[17], rank=1, inliers=found[0].inliers)
    assert [hit.inliers for hit in found[1:CANDIDATES]] == [0] * (CANDIDATES - 1)


def test_what_comes_after_the_candidates_is_not_compared(shop):
    found = asked(shop, turned(CANDIDATES + 1))

    assert paths(found) == [hit.path for hit in shop.hits]
    assert [hit.inliers for hit in found[CANDIDATES:]] == [None] * (COUNT - CANDIDATES)


def test_more_inliers_come_before_fewer_and_the_order_of_the_hits_decides_between_equals(shop):
    half = textured(3)
    half[:, 100:] = 255
    cv2.imwrite(str(shop.catalog / "00.png"), half)
    for path in ("05.png", "06.png"):
        shutil.copy(shop.catalog / "03.png", shop.catalog / path)
    sha256 = {path: hashlib.sha256((shop.catalog / path).read_bytes()).digest() for path in shop.sha256}

    found = asked(shop, photo_of(textured(3)), sha256=sha256)

    assert paths(found)[:5] == ["03.png", "05.png", "06.png", "00.png", "01.png"]
    inliers = [hit.inliers for hit in found]
    assert inliers[0] == inliers[1] == inliers[2] > inliers[3] >= 5 > inliers[4]


def test_no_hits_stay_none(shop):
    assert asked(shop, turned(1), []) == []


@dataclass(frozen=True)
class Backwards:
    """An order that has last what was first."""

    candidates: int

    def __call__(self, hits, views):
        assert len(hits) == max(self.candidates, CANDIDATES)
        assert all(view.vector.ndim == 1 for view in views)
        return [replace(hit, rank=rank) for rank, hit in enumerate(reversed(hits), start=1)]


def test_an_order_has_the_last_word_and_what_was_compared_is_told(built, tmp_path):
    cv2.imwrite(str(tmp_path / "photo.png"), turned(17).pixels)
    compared = []
    with Index.open(built / "index") as index:
        plain = index.search(tmp_path / "photo.png", COUNT, rerank=True)
        order = Backwards(CANDIDATES + 2)
        found = index.search(tmp_path / "photo.png", 3, rerank=True, compared=compared.extend, order=order)

    assert compared == plain[:CANDIDATES]
    assert paths(found) == [hit.path for hit in plain[CANDIDATES + 1 : CANDIDATES - 2 : -1]]
    assert [(hit.rank, hit.inliers is None) for hit in found] == [(1, True), (2, True), (3, False)]


# --- the cache of points


def test_the_answer_is_the_same_with_the_points_that_were_cached(shop):
    cold = asked(shop, turned(9))
    assert len(list(shop.cache.iterdir())) == CANDIDATES
    shutil.rmtree(shop.catalog)  # so that they must come from the cache

    assert asked(shop, turned(9)) == cold


def test_a_cache_that_cannot_be_written_is_done_without(shop):
    shop.cache.parent.write_bytes(b"")  # so that no folder can be made there, not even by root

    assert asked(shop, turned(9))[0].path == "09.png"


def damage_of(shop, whole):
    points = find_points(textured(9))
    arrays = {"positions": points.positions, "descriptors": points.descriptors}
    yield b""
    yield b"garbage"
    yield whole[:-30]
    yield whole[:1000] + bytes([whole[1000] ^ 1]) + whole[1001:]
    for wrong in (
        {"positions": points.positions + 1},
        {"positions": points.positions * np.float32("nan")},
        {"positions": points.positions[:-1]},
        {"positions": points.positions.astype(np.float64)},
        {"positions": np.float32(0)},
        {"descriptors": points.descriptors[:, :-1]},
        {"descriptors": np.array(["code"], object)},
    ):
        np.savez(shop.catalog / "wrong.npz", allow_pickle=True, **arrays | wrong)
        yield (shop.catalog / "wrong.npz").read_bytes()


def test_a_cached_file_that_is_damaged_or_foreign_is_not_believed_and_made_anew(shop):
    good = asked(shop, turned(9))
    file = shop.cache / f"{shop.sha256['09.png'].hex()}.npz"
    whole = file.read_bytes()

    for damaged in damage_of(shop, whole):
        file.write_bytes(damaged)
        assert asked(shop, turned(9)) == good
        assert rerank._read_points(file) is not None


def test_the_oldest_files_make_room_when_there_are_too_many(shop, monkeypatch):
    monkeypatch.setattr(rerank, "MAX_CACHED", 10)

    asked(shop, turned(9))

    names = {path.name for path in shop.cache.iterdir()}
    assert len(names) <= 10
    assert f"{shop.sha256['19.png'].hex()}.npz" in names
    assert f"{shop.sha256['00.png'].hex()}.npz" not in names


# --- what can be compared


def vanish(path):
    path.unlink()


def change(path):
    path.write_bytes(path.read_bytes() + b"\0")


def link(path):
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


@pytest.mark.parametrize("make", [vanish, change, link])
def test_an_image_that_is_not_there_as_it_was_indexed_proves_nothing(shop, make):
    make(shop.catalog / "09.png")

    found = asked(shop, turned(9))

    assert paths(found) == [hit.path for hit in shop.hits]
    assert [hit.path for hit in found[:CANDIDATES] if hit.inliers is None] == ["09.png"]


def test_a_link_is_followed_where_the_catalog_lets_it_in(shop):
    link(shop.catalog / "09.png")
    manifest = replace(shop.manifest, policy=FilePolicy(follow_links=True))

    assert paths(asked(shop, turned(9), manifest=manifest))[0] == "09.png"


def test_a_hit_whose_content_is_not_known_is_not_compared(shop):
    sha256 = {path: content for path, content in shop.sha256.items() if path != "09.png"}

    found = asked(shop, turned(9), sha256=sha256)

    assert paths(found) == [hit.path for hit in shop.hits]
    assert found[9].inliers is None


def test_a_hit_is_compared_with_the_part_of_the_photo_that_its_box_shows(shop):
    scene = textured(1000, 400, 600)
    scene[20:170, 30:230] = textured(4)
    scene[220:370, 350:550] = textured(8)
    photo = photo_of(scene)
    left, right = Box(30, 20, 200, 150), Box(350, 220, 200, 150)

    here = asked(shop, photo, [replace(hit, box=left) for hit in shop.hits])
    there = asked(shop, photo, [replace(hit, box=right) for hit in shop.hits])
    crossed = asked(shop, photo, [replace(hit, box=right if hit.path == "04.png" else left) for hit in shop.hits])

    assert (here[0].path, there[0].path) == ("04.png", "08.png")
    assert (here[1].inliers, there[1].inliers, crossed[0].inliers) == (0, 0, 0)


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


def test_an_image_that_only_a_process_of_its_own_may_decode_is_not_compared(shop):
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
