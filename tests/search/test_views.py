"""What a query is looked at as: the whole of it, and what may be an item in it."""

import cv2
import numpy as np
import pytest

from drawn_catalog import draw_catalog
from imgsearch import build_index
from imgsearch.errors import ImageError, UsageError
from imgsearch.images.boxes import Box, overlaps
from imgsearch.images.decode import decode_rgba
from imgsearch.images.photo import open_photo
from imgsearch.images.policy import FilePolicy
from imgsearch.regions import propose
from imgsearch.search.index import open_projection
from imgsearch.search.viewer import Viewer
from imgsearch.search.views import MAX_REGIONS, QueryImage
from imgsearch.store.generations import read_manifest
from imgsearch.synthetic.compose import Style, compose

POLICY = FilePolicy()


def png(pixels: np.ndarray) -> bytes:
    return cv2.imencode(".png", pixels)[1].tobytes()


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


class ByBytes(Viewer):
    """A viewer that is asked with the bytes of a file."""

    def views(self, data, *arguments, **options):
        return super().views(QueryImage(data, POLICY), *arguments, **options)

    def objects(self, data):
        return super().objects(QueryImage(data, POLICY))


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """A drawn catalog with an index by a network, and one by an encoder that has no feature map."""
    folder = tmp_path_factory.mktemp("shop")
    draw_catalog(folder / "catalog", per_kind=1)
    build_index(folder / "catalog", folder / "network", precision="f32", backend="exact")
    build_index(folder / "catalog", folder / "handcrafted", backbone="handcrafted", backend="exact")
    return folder


def opened(directory):
    manifest = read_manifest(directory)
    return ByBytes(directory, manifest, open_projection(directory, manifest))


@pytest.fixture(scope="module")
def viewer(shop):
    """Of the network; nothing that it is asked for changes it."""
    return opened(shop / "network")


@pytest.fixture(scope="module")
def without_map(shop):
    return opened(shop / "handcrafted")


@pytest.fixture(scope="module")
def scene(shop):
    """A photo of 480 x 640 pixels with an item on an uneven background, and where that is."""
    coarse = np.random.default_rng(3).integers((90, 90, 60), (190, 200, 150), (9, 9, 3)).astype(np.uint8)
    background = cv2.resize(coarse, (640, 480), interpolation=cv2.INTER_CUBIC)
    item = decode_rgba((shop / "catalog/cups/cups-00.png").read_bytes())
    made = compose(background, [item], Style(sides=(0.45, 0.5), covered=0), np.random.default_rng(5))
    return png(made.photo[:, :, ::-1]), made.boxes[0]


def test_a_plain_product_image_is_one_view_of_the_whole(viewer, shop):
    for file in sorted((shop / "catalog").rglob("*.png"))[:4]:
        (view,) = viewer.views(file.read_bytes() + b"\0")
        assert view.box is None
        assert abs(np.linalg.norm(view.vector) - 1) < 1e-5


def test_a_photo_of_an_item_is_the_whole_the_item_twice_and_where_else_it_may_be(viewer, scene):
    data, box = scene

    whole, *parts = viewer.views(data)

    assert whole.box is None
    assert 3 <= len(parts) <= 4
    assert max(overlaps([part.box for part in parts[:-2]], [box]).ravel()) > 0.5
    assert parts[-2].box.area <= parts[0].box.area
    middle = parts[-1].box
    assert (2 * middle.x + middle.width, 2 * middle.y + middle.height) == (640, 480)


@pytest.mark.parametrize("last", [1, 2])
def test_looks_are_taken_one_by_one_and_end_when_they_are_enough(viewer, scene, last, monkeypatch):
    monkeypatch.setattr(propose, "cut_out", lambda *_: pytest.fail("what nobody looks at was cut out"))
    asked = []

    def stop_when(views):
        asked.append(len(views))
        return len(views) == last

    views = viewer.views(scene[0], stop_when=stop_when)

    assert len(views) == last
    assert asked == list(range(1, last + 1))
    assert [view.box is None for view in views] == [True, False][:last]


def test_nobody_asks_whether_it_is_enough_where_the_caller_has_said_where_to_look(viewer, scene, shop):
    def stop_when(_views):
        pytest.fail("asked")

    assert len(viewer.views(scene[0], 5, stop_when=stop_when)) == 6
    assert len(viewer.views(scene[0], "whole", stop_when=stop_when)) == 1
    assert viewer.views(scene[0], box=Box(0, 0, 100, 100), stop_when=stop_when)
    assert len(viewer.views((shop / "catalog/cups/cups-00.png").read_bytes(), stop_when=stop_when)) == 1


def test_an_encoder_without_a_map_looks_at_the_whole_unless_told_otherwise(without_map, scene):
    (view,) = without_map.views(scene[0])

    assert view.box is None
    assert len(without_map.views(scene[0], 3)) == 4


@pytest.mark.parametrize("count", [1, 2, 7, 30, MAX_REGIONS])
def test_as_many_regions_as_were_asked_for_at_most_and_the_whole(viewer, scene, count):
    whole, *parts = viewer.views(scene[0], count)

    assert whole.box is None
    assert 1 <= len(parts) <= count
    assert len(parts) == count or count > 20
    for part in parts:
        assert 0 <= part.box.x < part.box.x + part.box.width <= 640
        assert 0 <= part.box.y < part.box.y + part.box.height <= 480


def test_regions_of_a_plain_image_are_looked_at_when_a_number_is_given(viewer, shop):
    data = (shop / "catalog/cups/cups-00.png").read_bytes()

    assert len(viewer.views(data, 4)) == 5


def test_whole_is_the_whole_alone_and_the_same_as_beside_regions(viewer, scene):
    (view,) = viewer.views(scene[0], "whole")

    assert view.box is None
    assert view.vector @ viewer.views(scene[0])[0].vector > 0.99
    assert (view.vector == viewer.whole(scene[0]).vector).all()


@pytest.mark.parametrize("regions", [0, -1, MAX_REGIONS + 1, 10**12, "x", "", "AUTO", "8"])
def test_regions_that_make_no_sense_are_refused(viewer, scene, shop, regions):
    for data in (scene[0], (shop / "catalog/cups/cups-00.png").read_bytes()):
        with pytest.raises(UsageError, match="regions"):
            viewer.views(data, regions)


def test_a_box_is_all_that_is_looked_at(viewer, scene):
    data, box = scene

    views = viewer.views(data, box=box)

    assert 1 <= len(views) <= 2
    assert {view.box for view in views} == {box}


@pytest.mark.parametrize(
    "box", [Box(0, 0, 641, 10), Box(0, 0, 10, 481), Box(-1, 0, 5, 5), Box(0, -1, 5, 5), Box(640, 0, 1, 1)]
)
def test_a_box_that_leaves_the_image_is_refused_with_both_sizes(viewer, scene, box):
    with pytest.raises(UsageError, match="640 x 480 pixels") as refused:
        viewer.views(scene[0], box=box)
    assert f"{box.x},{box.y},{box.width},{box.height}" in refused.value.message


@pytest.mark.parametrize("box", [Box(0, 0, 0, 5), Box(0, 0, 5, 0), Box(10, 10, -5, 5)])
def test_a_box_of_nothing_is_refused(viewer, scene, box):
    with pytest.raises(UsageError):
        viewer.views(scene[0], box=box)


def test_boxes_are_in_pixels_of_the_file_of_a_jpeg_that_was_shrunk(viewer, scene):
    small, box = cv2.imdecode(np.frombuffer(scene[0], np.uint8), cv2.IMREAD_COLOR), scene[1]
    large = cv2.resize(small, (640 * 5, 480 * 5))
    data = cv2.imencode(".jpg", large, [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes()
    assert max(open_photo(data, POLICY).pixels.shape) <= 1024

    parts = viewer.views(data)[1:]

    truth = Box(5 * box.x, 5 * box.y, 5 * box.width, 5 * box.height)
    assert max(overlaps([part.box for part in parts], [truth]).ravel()) > 0.5
    assert viewer.views(data, box=Box(0, 0, 3200, 2400))
    with pytest.raises(UsageError, match="3200 x 2400"):
        viewer.views(data, box=Box(0, 0, 3201, 2400))


ODD = {
    "one pixel": np.full((1, 1, 3), 77, np.uint8),
    "one line": noise(1, 500),
    "one column": noise(500, 1),
    "two pixels": noise(2, 2),
    "wide": noise(50, 1000),
    "tall": noise(1000, 50),
    "one color": np.full((200, 300, 3), (10, 120, 200), np.uint8),
    "black": np.zeros((200, 300, 3), np.uint8),
    "noise": noise(200, 300),
    "grey": noise(200, 300)[:, :, 0],
    "clear": np.zeros((200, 300, 4), np.uint8),
    "alpha": np.dstack([noise(200, 300), noise(200, 300)[:, :, :1]]),
    "16 bits": noise(200, 300).astype(np.uint16) * 257,
}


@pytest.mark.parametrize(
    ("encoder", "regions"),
    [
        *(("network", "auto"), ("network", "whole"), ("network", 8), ("handcrafted", "auto"), ("handcrafted", 8)),
        pytest.param("handcrafted", MAX_REGIONS, marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("name", ODD)
def test_odd_images_have_views_or_are_refused(viewer, without_map, name, encoder, regions):
    pixels = ODD[name]
    chosen = viewer if encoder == "network" else without_map

    views = chosen.views(png(pixels), regions)

    assert views[0].box is None
    for view in views:
        assert np.isfinite(view.vector).all()
        assert view.box is None or view.box.x + view.box.width <= pixels.shape[1]
        assert view.box is None or view.box.y + view.box.height <= pixels.shape[0]


@pytest.mark.parametrize("name", ODD)
def test_objects_of_odd_images_lie_in_them(viewer, name):
    pixels = ODD[name]

    for each_object in viewer.objects(png(pixels)):
        assert each_object.views
        assert each_object.box.x + each_object.box.width <= pixels.shape[1]
        assert each_object.box.y + each_object.box.height <= pixels.shape[0]
        assert each_object.score is None


@pytest.mark.parametrize("name", ["one color", "one pixel", "black", "clear"])
def test_where_nothing_stands_out_there_are_no_objects(viewer, name):
    assert viewer.objects(png(ODD[name])) == []


def test_the_object_of_a_photo_is_where_its_item_is(viewer, scene):
    data, box = scene

    objects = viewer.objects(data)

    assert max(overlaps([each_object.box for each_object in objects], [box]).ravel()) > 0.5


def test_what_must_be_decoded_in_a_process_of_its_own_is_looked_at_as_a_whole_and_has_no_parts(viewer, shop):
    plain = cv2.imencode(".jpg", noise(60, 80))[1].tobytes()
    data = plain[:-2] + b"\xff\xda\0\0" * 1000 + plain[-2:]

    with pytest.raises(ImageError, match="parts"):
        viewer.objects(data)
    with pytest.raises(ImageError, match="parts"):
        viewer.views(data, box=Box(0, 0, 5, 5))
