"""A catalog of which each kind of duplicate, neighbor and outlier is known."""

import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import pytest

from imgsearch import build_index
from imgsearch.images.photo import open_photo
from imgsearch.images.policy import FilePolicy
from remembered import building_here


@pytest.fixture(scope="session")
def cared(shared, drawn) -> Path:
    """Drawn products with changed copies of one of them, and an index. Not to be changed: copy it."""

    def fill(folder: Path) -> None:
        catalog = folder / "catalog"
        for name in ("balls", "boxes", "cups", "fish", "rings"):
            shutil.copytree(drawn / name, catalog / name, dirs_exist_ok=True)
        source = catalog / "fish" / "fish-01.png"
        image = open_photo(source.read_bytes(), FilePolicy()).pixels[:, :, ::-1]
        height, width = image.shape[:2]
        (catalog / "more").mkdir()
        shutil.copy(source, catalog / "more" / "equal.png")
        smaller = cv2.resize(image, (width * 2 // 3, height * 2 // 3), interpolation=cv2.INTER_AREA)
        cv2.imwrite(str(catalog / "more" / "smaller.png"), smaller)
        cv2.imwrite(str(catalog / "more" / "mirrored.jpg"), image[:, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 60])
        cut = image[height // 40 : -height // 40, width // 40 : -width // 40]
        cv2.imwrite(str(catalog / "more" / "cropped.png"), cut)
        with building_here():
            build_index(catalog, folder / "index", backbone="handcrafted", backend="exact")

    return shared("cared", fill)


@pytest.fixture
def own(cared, tmp_path) -> Callable[[], Path]:
    """Copy the catalog and its index, which knows where it is now, to be changed."""

    def copy() -> Path:
        folder = Path(shutil.copytree(cared, tmp_path / "own"))
        with building_here():
            build_index(folder / "catalog", folder / "index")
        return folder

    return copy
