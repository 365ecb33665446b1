import cv2
import numpy as np
import pytest

from imgsearch.encoders.choice import choose_encoder
from imgsearch.encoders.export import exported_encoder
from imgsearch.encoders.runtime import encode, open_encoder
from imgsearch.errors import ImageError, RefusedError
from imgsearch.images.policy import FilePolicy
from imgsearch.images.workers.decoders import DecodeWorker, decode_and_fit
from imgsearch.training.images import decoded, encoded_views


def nothing(_stage: str, _done: int, _total: int) -> None:
    """Tell nobody."""


def test_images_come_in_order_as_the_decoder_gives_them(shapes):
    paths = sorted(str(path.relative_to(shapes)) for path in shapes.rglob("*.png"))

    found = list(decoded(str(shapes), paths, 24, "pad", FilePolicy(), nothing))

    assert len(found) == 60
    for path, pixels in zip(paths, found, strict=True):
        assert np.array_equal(pixels, decode_and_fit((shapes / path).read_bytes(), 24, "pad"))


def test_bad_images_are_errors_among_the_others(own_shapes):
    (own_shapes / "a.png").write_bytes(b"no image at all")
    (own_shapes / "empty.png").touch()
    paths = ["a.png", "balls/balls-00.png", "missing.png", "empty.png", "stars"]

    found = list(decoded(str(own_shapes), paths, 24, "pad", FilePolicy(), nothing))

    causes = [result.cause if isinstance(result, ImageError) else "" for result in found]
    assert causes == ["not_an_image", "", "vanished", "empty", "not_regular_file"]


def test_limits_hold_here_too(shapes):
    paths = ["balls/balls-00.png"]

    (large,) = decoded(str(shapes), paths, 24, "pad", FilePolicy(max_bytes=100), nothing)
    (wide,) = decoded(str(shapes), paths, 24, "pad", FilePolicy(max_pixels=100), nothing)

    assert (large.cause, wide.cause) == ("too_many_bytes", "too_large")


def test_progress_is_told_for_each_image(shapes):
    told = []
    paths = [f"balls/balls-{number:02}.png" for number in range(6)]

    list(decoded(str(shapes), paths, 24, "pad", FilePolicy(), lambda *facts: told.append(facts)))

    assert told == [("decode", number, 6) for number in range(1, 7)]


def test_a_decoder_that_dies_of_one_file_after_another_is_at_fault_itself(shapes, monkeypatch):
    def crash(*_):
        raise ImageError("decoder_crashed", "the decoder crashed on this file")

    monkeypatch.setattr(DecodeWorker, "decode", crash)
    paths = [f"balls/balls-{number:02}.png" for number in range(10)]

    with pytest.raises(RefusedError, match="5 files in a row"):
        list(decoded(str(shapes), paths, 24, "pad", FilePolicy(), nothing))


def test_a_backbone_is_asked_about_each_image_and_its_mirror_image(shapes):
    spec = choose_encoder("handcrafted").spec
    encoder = open_encoder(spec, exported_encoder(spec))
    squares = [
        decode_and_fit((shapes / f"tents/tents-{number:02}.png").read_bytes(), spec.size, "pad") for number in range(3)
    ]

    views = list(encoded_views(encoder, squares))

    for square, pair in zip(squares, views, strict=True):
        mirrored = np.asarray(cv2.flip(square, 1))
        assert np.array_equal(pair, encode(encoder, np.stack([square, mirrored])))


def test_a_image_that_a_backbone_can_do_nothing_with_has_features_of_zero():
    class Blind:
        def encode_stream(self, batches):
            for batch in batches:
                yield np.full((len(batch), 4), np.nan, np.float32)

    (views,) = encoded_views(Blind(), [np.zeros((8, 8, 3), np.uint8)])

    assert views.tolist() == [[0.0] * 4] * 2
