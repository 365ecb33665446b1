import cv2
import numpy as np
import pytest

from imgsearch.encoders.choice import choose_encoder
from imgsearch.encoders.export import exported_encoder
from imgsearch.encoders.runtime import encode, open_encoder
from imgsearch.errors import ImageError, RefusedError
from imgsearch.images.policy import FilePolicy
from imgsearch.images.workers.decoders import DecodeWorker, decode_and_fit
from imgsearch.progress import no_progress
from imgsearch.training.data import decode_images, encode_views


def test_images_come_in_order_as_the_decoder_gives_them(shapes):
    paths = sorted(str(path.relative_to(shapes)) for path in shapes.rglob("*.png"))

    told = []

    found = list(decode_images(str(shapes), paths, 24, FilePolicy(), lambda *facts: told.append(facts)))

    assert told == [("decode", number, 60) for number in range(1, 61)]
    for path, pixels in zip(paths, found, strict=True):
        assert np.array_equal(pixels, decode_and_fit((shapes / path).read_bytes(), 24, "pad"))


def test_bad_images_are_errors_among_the_others(own_shapes):
    (own_shapes / "a.png").write_bytes(b"no image at all")
    (own_shapes / "empty.png").touch()
    paths = ["a.png", "balls/balls-00.png", "missing.png", "empty.png", "stars"]

    found = list(decode_images(str(own_shapes), paths, 24, FilePolicy(), no_progress))

    causes = [result.cause if isinstance(result, ImageError) else "" for result in found]
    assert causes == ["not_an_image", "", "vanished", "empty", "not_regular_file"]


def test_limits_hold_here_too(shapes):
    paths = ["balls/balls-00.png"]

    (large,) = decode_images(str(shapes), paths, 24, FilePolicy(max_bytes=100), no_progress)
    (wide,) = decode_images(str(shapes), paths, 24, FilePolicy(max_pixels=100), no_progress)

    assert (large.cause, wide.cause) == ("too_many_bytes", "too_large")


def test_a_decoder_that_dies_of_one_file_after_another_is_at_fault_itself(shapes, monkeypatch):
    def crash(*_):
        raise ImageError("decoder_crashed", "the decoder crashed on this file")

    monkeypatch.setattr(DecodeWorker, "decode", crash)
    paths = [f"balls/balls-{number:02}.png" for number in range(10)]

    with pytest.raises(RefusedError, match="5 files in a row"):
        list(decode_images(str(shapes), paths, 24, FilePolicy(), no_progress))


def test_a_backbone_is_asked_about_each_image_and_its_mirror_image(shapes):
    spec = choose_encoder("handcrafted").spec
    encoder = open_encoder(spec, exported_encoder(spec))
    squares = [
        decode_and_fit((shapes / f"tents/tents-{number:02}.png").read_bytes(), spec.size, "pad") for number in range(3)
    ]

    views = list(encode_views(encoder, squares))

    for square, pair in zip(squares, views, strict=True):
        mirrored = np.asarray(cv2.flip(square, 1))
        assert np.array_equal(pair, encode(encoder, np.stack([square, mirrored])))


def test_an_image_that_a_backbone_can_do_nothing_with_has_features_of_zero():
    class Blind:
        def encode_stream(self, batches):
            for batch in batches:
                yield np.full((len(batch), 4), np.nan, np.float32)

    (views,) = encode_views(Blind(), [np.zeros((8, 8, 3), np.uint8)])

    assert views.tolist() == [[0.0] * 4] * 2
