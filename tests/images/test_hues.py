"""One product in 24 hues, photographed in other color spaces, against a catalog of plain sRGB images."""

import io

import cv2
import numpy as np
import pytest
from PIL import Image

from color_profiles import SPACES, cmyk_profile, in_space, inks_for, rgb_profile
from imgsearch import Index, build_index

HUES = 24
# Encoders, and which of the hues are photographed: each, or each third.
TRIALS = [
    ("handcrafted:color", 3),
    pytest.param("handcrafted:color", 1, marks=pytest.mark.slow),
    pytest.param("efficientnet-lite0+handcrafted:color=0.3", 1, marks=pytest.mark.slow),
]


def product(hue: int) -> np.ndarray:
    """A bottle with a label and a cap, RGB; only the hue of the bottle differs."""
    color = cv2.cvtColor(np.uint8([[[180 * hue // HUES, 140, 190]]]), cv2.COLOR_HSV2RGB)[0, 0].tolist()
    image = np.full((320, 320, 3), 255, np.uint8)
    cv2.rectangle(image, (90, 90), (230, 300), color, -1, cv2.LINE_AA)
    cv2.ellipse(image, (160, 90), (70, 45), 0, 180, 360, color, -1, cv2.LINE_AA)
    cv2.rectangle(image, (142, 25), (178, 60), (70, 70, 75), -1, cv2.LINE_AA)
    cv2.rectangle(image, (130, 165), (190, 215), (235, 230, 215), -1, cv2.LINE_AA)
    cv2.circle(image, (160, 190), 16, color, -1, cv2.LINE_AA)
    return image


def photographed(hue: int, space: str, *, with_profile: bool = True) -> bytes:
    pixels = (
        inks_for(product(hue)) if space == "CMYK" else np.rint(255 * in_space(product(hue), space)).astype(np.uint8)
    )
    icc = cmyk_profile() if space == "CMYK" else rgb_profile(space)
    file = io.BytesIO()
    mode = "CMYK" if space == "CMYK" else "RGB"
    Image.fromarray(pixels, mode).save(
        file, "JPEG", quality=95, subsampling=0, icc_profile=icc if with_profile else None
    )
    return file.getvalue()


def found_first(index: Index, folder, hues: range, space: str, **options) -> int:
    found = 0
    for hue in hues:
        (folder / "photo.jpg").write_bytes(photographed(hue, space, **options))
        found += index.search(folder / "photo.jpg", k=1)[0].path == f"{hue:02d}.png"
    return found


@pytest.mark.parametrize(("encoder", "step"), TRIALS)
def test_hue_variants_are_found_whatever_color_space_they_come_in(encoder, step, tmp_path):
    (tmp_path / "catalog").mkdir()
    for hue in range(HUES):
        (tmp_path / f"catalog/{hue:02d}.png").write_bytes(cv2.imencode(".png", product(hue)[:, :, ::-1])[1].tobytes())
    build_index(tmp_path / "catalog", tmp_path / "idx", backbone=encoder, backend="exact")
    spaces = [*(name for name in SPACES if name != "linear"), "CMYK"]

    with Index.open(tmp_path / "idx") as index:
        hues = range(0, HUES, step)
        found = {space: found_first(index, tmp_path, hues, space) for space in spaces}
        if step == 1:
            unmanaged = {space: found_first(index, tmp_path, hues, space, with_profile=False) for space in spaces}
            print(f"{encoder}: with their profiles {found}, without {unmanaged}")  # noqa: T201  # for docs/benchmarks.md

    assert min(found.values()) >= 23 / 24 * len(hues)
