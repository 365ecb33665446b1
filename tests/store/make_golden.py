"""Make golden indexes: indexes that every later imgsearch must open and answer from.

python tests/store/make_golden.py FOLDER MODELS [NAME...]

FOLDER, which holds a `damaged.jpg`, gets an index for each NAME, and `answers.json`; MODELS holds what
tests/tiny_models.py wrote. Each golden index is made once, by the imgsearch of its day, and then never again: a
difference is a broken promise to those who have such an index, not a reason to run this. `v1` is of the first
imgsearch; `v1-2026-11` was made by commit b0c7591, before rooms; `v1-lite0-retrieval` holds `retrieval`, of the first
imgsearch with that encoder; `v1-products` holds `products`, of the first with columns, colors and unmatched rows;
`v1-words` holds `words`, of the first with words, made with the extra `text`.

Only public functions are called here, so that this file can be run by another imgsearch than the one beside it.
"""

import hashlib
import json
import shutil
import struct
import sys
import tempfile
from pathlib import Path
from typing import Any

IMAGES = 24
PRODUCTS = "path,product,price,code\nfruit/00.bmp,Apple,1.5,007\n"
SHOP = """\
images,product,category,price,stock,added,new,tags,note
fruit/00.bmp|fruit/02.bmp,Apple,fruit,1.50,3,2024-01-31,true,"[""red"", ""sweet""]",12
fruit/04.bmp,Pear,fruit,2.25,0,2024-02-29,false,"[""green""]",on request
vegetables/01.bmp,Leek,vegetables,0.99,7,2023-12-31,true,[],
gone.bmp,Gone,fruit,9.99,1,2024-01-01,true,[],
"""
TITLES = """\
path,title,sku
fruit/00.bmp,A red apple,AB-1234
fruit/02.bmp,A red apple,4006381333931
fruit/04.bmp,Eine grüne Birne,
vegetables/01.bmp,红色的辣椒,
"""

# Name -> options of the build; models are named by their files.
GOLDEN: dict[str, dict[str, Any]] = {
    "adapted": {"backbone": "metric.keras", "backend": "exact", "adapt": True},
    "annoy": {"backbone": "handcrafted:shape", "backend": "annoy", "trees": 2, "seed": 3, "preprocess": "grayscale"},
    "calibrated": {"backbone": "metric.keras", "backend": "exact", "metadata": "products.csv"},
    "detector": {"backbone": "metric.keras", "backend": "exact", "detector": "detector.keras"},
    "faiss": {"backbone": "metric.keras", "backend": "faiss", "seed": 5, "target_recall": 0.9},
    "hybrid": {"backbone": "metric.keras=2+handcrafted:shape", "backend": "exact"},
    "policy": {
        "backbone": "metric.keras",
        "backend": "exact",
        "trim": True,
        "max_bytes": 5000,
        "max_pixels": 2000,
        "damaged": "keep",
        "follow_links": True,
    },
    "products": {"backbone": "handcrafted:color", "backend": "exact", "metadata": "shop.csv"},
    "retrieval": {"backbone": "lite0-retrieval", "backend": "exact", "precision": "f32"},
    "words": {"backbone": "handcrafted:color", "backend": "exact", "metadata": "titles.csv", "text": "title"},
}
# Their encoder is too large to be kept here; a build puts it back.
WITHOUT_ENCODER = ("retrieval",)


def drawn(seed: int) -> bytes:
    """A BMP of sixteen colored fields, 32 pixels wide and high; the same bytes on every machine for ever."""
    fields = hashlib.shake_256(b"%d" % seed).digest(48)
    rows = [b"".join(fields[12 * row + 3 * column :][:3] * 8 for column in range(4)) * 8 for row in range(4)]
    pixels = b"".join(rows)
    header = struct.pack("<IiiHHIIiiII", 40, 32, 32, 1, 24, 0, len(pixels), 2835, 2835, 0, 0)
    return struct.pack("<2sIHHI", b"BM", 54 + len(pixels), 0, 0, 54) + header + pixels


def lay_out(catalog: Path, damaged: Path) -> None:
    """Draw a catalog: also a copy, a name that is not UTF-8, a file that cannot be used and one that is damaged."""
    for number in range(IMAGES):
        file = catalog / ("fruit", "vegetables")[number % 2] / f"{number:02d}.bmp"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(drawn(number))
    (catalog / "caf\udce9.bmp").write_bytes(drawn(0))
    (catalog / "empty.jpg").write_bytes(b"")
    (catalog / "damaged.jpg").write_bytes(damaged.read_bytes())


def make(name: str, directory: Path, scratch: Path, models: Path) -> None:
    """Build one index, and let nothing of this machine stay in it."""
    from imgsearch import build_index, evaluate, keep_calibration

    options = {**GOLDEN[name]}
    options["backbone"] = options["backbone"].replace("metric.keras", str(models / "metric.keras"))
    for option, folder in (("detector", models), ("metadata", scratch)):
        if option in options:
            options[option] = folder / options[option]
    build_index(scratch / "catalog", directory, **options)
    if name == "calibrated":
        keep_calibration(directory, evaluate(directory, self_test=True, calibrate=True))
    for left_over in ("lock", "descriptors.sqlite"):
        (directory / left_over).unlink(missing_ok=True)
    for path in (directory / "manifest.json", directory / "gen-000001" / "manifest.json"):
        manifest = json.loads(path.read_text())
        manifest["catalogue"] = "/catalog"
        if manifest["metadata"]["file"]:
            manifest["metadata"]["file"] = "/products.csv"
        del manifest["sha256"]
        digest = hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
        path.write_text(json.dumps({**manifest, "sha256": digest}, indent=2) + "\n")


def answers(directory: Path, scratch: Path) -> dict[str, Any]:
    """What an index answers: to an image that it has, and to one that it has not."""
    from imgsearch import Index

    found = {}
    with Index.open(directory) as index:
        for number in (2, 99):
            (scratch / "photo.bmp").write_bytes(drawn(number))
            found[str(number)] = [
                {
                    "path": hit.path,
                    "score": hit.score,
                    "product": hit.product,
                    "metadata": hit.metadata,
                    "probability": hit.probability,
                    "box": hit.box and [hit.box.x, hit.box.y, hit.box.width, hit.box.height],
                }
                for hit in index.search(scratch / "photo.bmp", k=5)
            ]
    return found


def main(folder: Path, models: Path, *names: str) -> None:
    """Make the indexes and their answers."""
    with tempfile.TemporaryDirectory() as place:
        scratch = Path(place)
        lay_out(scratch / "catalog", folder / "damaged.jpg")
        (scratch / "products.csv").write_text(PRODUCTS)
        (scratch / "shop.csv").write_text(SHOP)
        (scratch / "titles.csv").write_text(TITLES)
        found = {}
        for name in names or GOLDEN:
            make(name, folder / name, scratch, models)
            found[name] = answers(folder / name, scratch)
            if name in WITHOUT_ENCODER:
                shutil.rmtree(folder / name / "encoders")
        (folder / "answers.json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:3]), *sys.argv[3:])
