"""What names of files and folders say in words."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imgsearch.text.names import words_of_path


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("Shoes/redLeather_Boot-02.jpg", "Shoes red Leather Boot"),
        ("fruit/fruit apple.png", "fruit apple"),
        ("images/shoe01.jpg", "shoe"),
        ("photos/red photo.jpg", "red photo"),
        ("HTMLPage.old.png", "HTML Page old"),
        ("连衣裙/红色.jpg", "连衣裙 红色"),
        ("Größe-Ärmel.jpg", "Größe Ärmel"),
        ("2024/dress.jpg", "dress"),
        ("facade", "facade"),
        (".hidden", "hidden"),
    ],
)
def test_words_are_set_apart_and_come_once(path, words):
    assert words_of_path(path) == words


@pytest.mark.parametrize(
    "path",
    [
        *("IMG_1234.JPG", "DSC01234.jpg", "P1010001.jpg", "PXL_20240102_101112.jpg", "image (1).jpg"),
        *("WhatsApp Image 2024-01-02 at 10.11.12.jpg", "Screenshot 2024-01-01.png", "AB-1234.jpg", "a/0003.png"),
        *("3f2a9c1e-4b5d-4a6e-9c8b-abcdefabcdef.jpg", "d41d8cd98f00b204e9800998ecf8427e.png", "deadbeef12/x1.png"),
        *("", "4006381333931.jpg", "\udce9.bmp"),
    ],
)
def test_numbers_cameras_and_hashes_say_nothing(path):
    assert words_of_path(path) == ""


@settings(max_examples=100, deadline=None)
@given(st.text(st.characters(codec=None) | st.sampled_from("/._-aZ9\udce9"), max_size=80))
def test_words_of_any_name_are_text(path):
    words = words_of_path(path)

    assert words.encode().decode() == words
    assert words == " ".join(words.split())
    assert not any(map(str.isdecimal, words))


def test_a_long_name_takes_no_time():
    assert words_of_path("a" * 100_000 + "g-") == "a" * 100_000 + "g"
    assert words_of_path("0a" * 50_000 + "z") == ""
