"""What the name of an image's file, and those of its folders, say in words."""

import re
from functools import lru_cache

# What cameras, telephones and programs call their files, and people their folders.
_NO_WORDS = frozenset(
    (
        "at",
        "burst",
        "cimg",
        "copy",
        "dcim",
        "default",
        "download",
        "downloads",
        "dsc",
        "dscf",
        "dscn",
        "file",
        "files",
        "final",
        "gopr",
        "image",
        "images",
        "img",
        "imgp",
        "jpeg",
        "jpg",
        "large",
        "main",
        "med",
        "medium",
        "mov",
        "mvi",
        "new",
        "old",
        "original",
        "originals",
        "pano",
        "photo",
        "photos",
        "pic",
        "pics",
        "picture",
        "pictures",
        "png",
        "pxl",
        "sam",
        "scan",
        "screen",
        "screenshot",
        "shot",
        "small",
        "temp",
        "thumb",
        "thumbnail",
        "tmp",
        "untitled",
        "vid",
        "video",
        "webp",
        "whatsapp",
    )
)
_HEXADECIMAL = re.compile(r"(?=.{8})(?=\D*\d)[0-9a-f]{4,}([-_][0-9a-f]{4,})*", re.IGNORECASE)
_SEPARATORS = re.compile(r"[\W_]+")
_HUMPS = re.compile(r"(?<=[^\W\d_A-Z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_NUMBERED = re.compile(r"\A([^\W\d_]{3,})\d{1,2}\Z")
_CODE = re.compile("[A-Z]{1,3}")  # in a name with digits: `AB-1234`
_SURROGATES = re.compile("[\ud800-\udfff]")


def words_of_path(path: str) -> str:
    """Return the words in the names of a file, whose ending is none, and of its folders, each once, or nothing.

    `Shoes/redLeather_Boot-02.jpg` says "Shoes red Leather Boot"; article numbers, hashes and `IMG_1234` say nothing.
    """
    *folders, name = path.split("/")
    stem, dot, ending = name.rpartition(".")
    words: dict[str, str] = {}
    for part in (*folders, stem if dot and stem else ending):
        for word in _words(part):
            words.setdefault(word.casefold(), word)
    return " ".join(words.values())


@lru_cache(1000)  # folders come again and again
def _words(name: str) -> tuple[str, ...]:
    if name.isdecimal() or _HEXADECIMAL.fullmatch(name):
        return ()
    parts = [part for part in _SEPARATORS.split(_SURROGATES.sub(" ", name)) if part]
    has_digits = any(map(_has_digits, parts))
    parts = [_NUMBERED.sub(r"\1", part) for part in parts if not (has_digits and _CODE.fullmatch(part))]
    parts = [part for part in parts if not _has_digits(part)]
    if all(part.casefold() in _NO_WORDS for part in parts):
        return ()
    return tuple(word for part in parts for word in _HUMPS.split(part) if len(word) > 1 or not word.isascii())


def _has_digits(part: str) -> bool:
    return any(map(str.isdecimal, part))
