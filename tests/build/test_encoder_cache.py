"""What the cache of exported encoders survives, and what of it an index keeps."""

import os
import shutil

import pytest

from imgsearch import build_index, check
from imgsearch.build import encoder_source
from imgsearch.encoders.runtime import GRAPH_FILE
from imgsearch.store.generations import read_manifest

DAMAGES = {
    "cut": lambda data: data[: len(data) // 2],
    "zeroed": lambda data: bytes(len(data)),
    "one bit flipped": lambda data: data[:-1000] + bytes([data[-1000] ^ 1]) + data[-999:],
}


@pytest.mark.slow
def test_an_exported_network_that_is_damaged_in_the_cache_is_exported_again(imgsearch, drawn, tmp_path):
    environment = {"env": os.environ | {"IMGSEARCH_CACHE": str(tmp_path / "cache")}}
    build = ("build-index", drawn, "--backend", "exact", "--index")
    ask = ("query", tmp_path / "photo.png", "-k", 24, "--format", "csv", "--index")
    image = next(drawn.rglob("*.png")).read_bytes()
    (tmp_path / "photo.png").write_bytes(image + b" ")  # other bytes, so that the encoder is asked
    assert imgsearch(*build, "idx", **environment).returncode == 0
    (fingerprint,) = (path.name for path in (tmp_path / "idx/encoders").iterdir())
    (weights,) = (tmp_path / "cache/encoders").glob(f"{fingerprint}-*/encoder.bin")  # beside the one it is a copy of
    exports = sorted(weights.parent.parent.iterdir())
    good, expected = weights.read_bytes(), imgsearch(*ask, "idx").stdout
    assert expected.count("\n") == 25

    for number, (name, damage) in enumerate(DAMAGES.items()):
        weights.write_bytes(damage(good))
        done = imgsearch(*build, f"idx{number}", **environment)

        assert (done.returncode, "is damaged" in done.stderr) == (0, True), name
        assert weights.read_bytes() == good, name
        assert imgsearch(*ask, f"idx{number}").stdout == expected, name
        assert imgsearch("check", "--deep", "--index", f"idx{number}").stdout == ""
        assert sorted(weights.parent.parent.iterdir()) == exports


def test_an_index_keeps_the_encoder_it_has_where_an_export_would_now_be_another(
    small, index, painted, tmp_path, monkeypatch
):
    export, earlier = encoder_source.exported_encoder, tmp_path / "export of an earlier version"

    def export_as_before(*arguments):
        shutil.copytree(export(*arguments), earlier)
        with (earlier / GRAPH_FILE).open("a") as file:
            file.write("<!-- as an earlier version wrote it -->")
        return earlier

    monkeypatch.setattr(encoder_source, "exported_encoder", export_as_before)
    build_index(small, index, precision="f32", backend="exact")
    encoder = index / read_manifest(index).encoder_folder
    (small / "new.png").write_bytes(painted(50))
    monkeypatch.setattr(encoder_source, "exported_encoder", lambda *_: pytest.fail("it was exported again"))

    report = build_index(small, index)

    assert report.embedded == 1
    assert (encoder / GRAPH_FILE).read_bytes() == (earlier / GRAPH_FILE).read_bytes()
    assert index / read_manifest(index).encoder_folder == encoder
    assert check(index, deep=True) == []
