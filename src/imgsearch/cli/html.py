"""Answers as one HTML page to look at: the images are in it, so that it opens anywhere and loads nothing."""

import base64
import hashlib
import os
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from html import escape
from typing import TYPE_CHECKING
from urllib.parse import quote_from_bytes

import cv2

from imgsearch.cli.output import printable
from imgsearch.errors import ImageError
from imgsearch.images.decode import Pixels, read_file
from imgsearch.images.photo import drawn, open_photo
from imgsearch.images.policy import FilePolicy
from imgsearch.images.transform import fit, reduce
from imgsearch.images.workers.decoders import decode_and_fit_guarded

if TYPE_CHECKING:
    from imgsearch.cli.answers import Entry, Section
    from imgsearch.images.boxes import Box

_SIDE = 160
# Boxes are drawn into an image so many times as large.
_SHARP = 2
# Of hits that are kept, of some 10 kB each.
_MAX_TILES = 2000
_STYLE = (
    "body{font:14px sans-serif;margin:24px;color:#222}"
    "section{display:flex;flex-wrap:wrap;gap:12px;border-top:1px solid #bbb;padding:12px 0}"
    f"figure{{margin:0;width:{_SIDE}px;overflow-wrap:anywhere}}"
    "figure.query{margin-right:24px}figure.query img{border-color:#d60}"
    f"figure.wide,figure.wide img{{width:{2 * _SIDE}px}}"
    f"img,.none{{display:block;width:{_SIDE}px;height:{_SIDE}px;border:2px solid #ddd;background:#fff}}"
)


def head(title: str, style: str) -> str:
    """Open a page, to its body; a policy forbids what escaping prevents: nothing of it runs, and nothing is loaded."""
    style_hash = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:;'
        f" style-src 'sha256-{style_hash}'; base-uri 'none'; form-action 'none'\">\n"
        f"<title>{title}</title>\n<style>{style}</style>\n</head>\n<body>\n"
    )


HEAD = head("imgsearch", _STYLE)
TAIL = "</body>\n</html>\n"


def section(path: str, part: "Section") -> str:
    """Show an image with boxes drawn into it, and beside it what was found in it, or why nothing was."""
    try:
        photo = part.image.photo if part.image else None
    except ImageError:  # an image of the index, of which a part is damaged
        photo = None
    if photo:
        photo = replace(photo, pixels=reduce(photo.pixels, _SHARP * _SIDE))
    found = (
        jpeg(fit(drawn(photo, part.boxes), _SIDE, background=photo.background))
        if photo
        else file_tile(path, part.boxes)
    )
    message = f"<p>{shown(part.message)}</p>\n" if part.message else ""
    entries = "".join(map(_entry, part.entries))
    return f"<section>\n{_figure(path, shown(path), 'query', found)}{entries}{message}</section>\n"


def _entry(entry: "Entry") -> str:
    rank = "" if entry.rank is None else f"{entry.rank}. "
    caption = f"{rank}<b>{entry.score}</b> {shown(entry.note)}{shown(entry.text)}"
    if not entry.file:
        return f"<p>{caption}</p>\n"
    if entry.drawing is None:
        return _figure(entry.file, caption, "hit", _hit_tile(entry.file))
    return _figure(entry.file, caption, "hit wide", jpeg(entry.drawing))


@lru_cache(_MAX_TILES)
def _hit_tile(path: str) -> str:
    """Show a file as `tile` does; of many queries the same images are hits again and again."""
    return file_tile(path)


def shown(text: str) -> str:
    """Make any text, a file name most of all, fit to stand in HTML, between tags or in an attribute."""
    return escape(printable(text), quote=True)


def tile(data: bytes | None, boxes: Sequence["Box"] = ()) -> str:
    """Show the bytes of an image, small, with boxes in its own pixels; an empty tile for what cannot be shown."""
    try:
        pixels = None if data is None else _square(data, boxes)
    except ImageError:
        pixels = None
    return '<span class="none"></span>' if pixels is None else jpeg(pixels)


def jpeg(pixels: Pixels) -> str:
    """Show pixels: HTML that holds all of them."""
    _, encoded = cv2.imencode(".jpg", pixels[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 85])
    return f'<img src="data:image/jpeg;base64,{base64.b64encode(encoded.tobytes()).decode()}" alt="">'


def _square(data: bytes, boxes: Sequence["Box"]) -> Pixels:
    photo = open_photo(data, FilePolicy(), _SHARP * _SIDE) if boxes else None
    if photo is None:
        return decode_and_fit_guarded(data, _SIDE, "pad", FilePolicy())
    return fit(drawn(photo, boxes), _SIDE, background=photo.background)


def file_tile(path: str, boxes: Sequence["Box"] = ()) -> str:
    """Show a file as `tile` does."""
    try:
        return tile(read_file(path)[0], boxes)
    except ImageError:
        return tile(None)


def _figure(path: str, caption: str, kind: str, image: str) -> str:
    link = "file://" + quote_from_bytes(os.fsencode(os.path.abspath(path)))  # noqa: PTH100  # names that are not UTF-8
    return f'<figure class="{kind}"><a href="{link}">{image}</a><figcaption>{caption}</figcaption></figure>\n'
