"""An encoder is one row of the table: here is one that nobody has foreseen."""

import shutil

import numpy as np

from imgsearch import Index, build_index
from imgsearch.encoders.spec import EncoderSpec
from imgsearch.encoders.table import TABLE, TableRow


def describe(image: np.ndarray) -> np.ndarray:
    """Sixteen fields of an image, each by its mean color."""
    fields = image.reshape(4, 16, 4, 16, 3).mean(axis=(1, 3)).ravel() - 128
    return (fields / max(1, np.linalg.norm(fields))).astype(np.float32)


def test_a_row_of_the_table_is_all_that_a_new_encoder_takes(drawn, tmp_path, monkeypatch):
    spec = EncoderSpec("toy", "handcrafted", 64, "pad", 48, "")
    monkeypatch.setitem(TABLE, "toy", TableRow(spec, "sixteen fields", describe=f"{__name__}:describe"))
    photo = shutil.copy(drawn / "cups/cups-00.png", tmp_path / "photo.png")
    with open(photo, "ab") as file:
        file.write(b"\0")  # so that its sha256 is not in the index, and it is encoded

    build_index(drawn, tmp_path / "index", backbone="toy=2+handcrafted:color")
    report = build_index(drawn, tmp_path / "index", backbone="toy")

    assert report.embedded == 24
    with Index.open(tmp_path / "index") as index:
        hits = index.search(photo, k=3)
    assert [hits[0].path, len(hits)] == ["cups/cups-00.png", 3]
    assert hits[0].score > 0.999
