"""Writes the picture of the page of `imgsearch serve` in the README, of the index that `make demo` makes.

imgsearch serve --index demo/stamps.imgsearch &
.venv/bin/python docs/page_picture.py http://127.0.0.1:8000/ demo/stamps-queries docs/page.png
"""

import argparse
import tempfile
from pathlib import Path

import cv2
import numpy as np
from playwright.sync_api import sync_playwright

from imgsearch.images.decode import decode_image

# Photo-like images of a bird and a mushroom, by their numbers.
SHOWN = ("0010.jpg", "0330.jpg")


def main(url: str, queries: Path, picture: Path) -> None:
    """Ask the page with a photo of two products, and write what it shows."""
    photo = np.hstack([decode_image((queries / name).read_bytes()).pixels for name in SHOWN])
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        file = Path(folder) / "photo.png"
        file.write_bytes(cv2.imencode(".png", photo[:, :, ::-1])[1].tobytes())
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 800})
        page.goto(url)
        page.set_input_files("#pick", file)
        page.locator(".found").first.wait_for()
        page.wait_for_load_state("networkidle")
        page.screenshot(path=picture)
        browser.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Write the picture of the page.")
    parser.add_argument("url")
    parser.add_argument("queries", type=Path)
    parser.add_argument("picture", type=Path)
    main(**vars(parser.parse_args()))
