"""Make the golden index: an index of format version 1 that every later imgsearch must open and answer from.

python tests/index/make_golden.py

It is made once for each version of the format and then never again: a difference is a broken promise to those who
have such an index, not a reason to run this.
"""

import json
import shutil
import sys
import tempfile
from pathlib import Path

import cv2
import numpy as np

from imgsearch import Index, build_index
from imgsearch.build import generation
from imgsearch.encoders import projection
from imgsearch.store import generations
from imgsearch.store.manifest import VERSION

GOLDEN = Path(__file__).parent / "golden" / f"v{VERSION}"
IMAGES = 12


def drawn(seed: int) -> bytes:
    """A small PNG of colored fields."""
    fields = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), np.uint8)
    return cv2.imencode(".png", np.kron(fields, np.ones((8, 8, 1), np.uint8)))[1].tobytes()


def make(directory: Path, backend: str, catalog: Path, table: Path) -> None:
    """Build one index, and let nothing of this machine stay in it."""
    build_index(catalog, directory, backbone="handcrafted", backend=backend, trees=2, metadata=table)
    (directory / generations.LOCK).unlink()
    manifest = json.loads((directory / generations.MANIFEST).read_text())
    manifest["catalogue"] = "/catalog"
    manifest["metadata"]["file"] = "/products.csv"
    (directory / generations.MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")


def main() -> None:
    """Make both indexes, the queries and the answers."""
    if GOLDEN.exists():
        sys.exit(f"{GOLDEN} is there already, and is to stay as it is")
    GOLDEN.mkdir(parents=True)
    # Small sizes, so that a dozen images have a projection too, and the whole is small.
    generation.SMALLEST_CATALOG = IMAGES
    projection.DIMS = 8
    with tempfile.TemporaryDirectory() as scratch:
        catalog = Path(scratch) / "catalog"
        for number in range(IMAGES):
            file = catalog / ("fruit", "vegetables")[number % 2] / f"{number:02d}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(drawn(number))
        (catalog / "caf\udce9.png").write_bytes(drawn(0))  # a name that is not UTF-8, and a copy
        (catalog / "empty.jpg").write_bytes(b"")
        table = Path(scratch) / "products.csv"
        table.write_text("path,product,price,code\nfruit/00.png,Apple,1.5,007\n")
        for backend in ("exact", "annoy"):
            make(GOLDEN / backend, backend, catalog, table)
        shutil.copyfile(catalog / "fruit" / "02.png", GOLDEN / "known.png")
    (GOLDEN / "photo.png").write_bytes(drawn(99))
    answers = {}
    for query in ("known.png", "photo.png"):
        with Index.open(GOLDEN / "exact") as index:
            answers[query] = [
                {"path": hit.path, "score": hit.score, "product": hit.product, "metadata": hit.metadata}
                for hit in index.search(GOLDEN / query, k=IMAGES + 1)
            ]
    (GOLDEN / "answers.json").write_text(json.dumps(answers, indent=1) + "\n")


if __name__ == "__main__":
    main()
