"""Answers as one HTML page to look at: the images are in it, so that it opens anywhere and loads nothing."""

import base64
import hashlib
import os
from functools import lru_cache
from html import escape
from typing import TYPE_CHECKING
from urllib.parse import quote_from_bytes

import cv2

from imgsearch.cli.answers import Picture
from imgsearch.cli.output import printable
from imgsearch.cli.thumbnails import file_thumbnail, query_thumbnail, thumbnail
from imgsearch.images.decode import Pixels

if TYPE_CHECKING:
    from imgsearch.cli.answers import Entry, Section

_SIDE = 160
# Of hits that are kept, of some 10 kB each.
_MAX_TILES = 2000

# Text on either background has a contrast of at least 4.5 to 1 (WCAG 2, level AA).
COLORS = (
    ":root{color-scheme:light dark;--back:#fff;--text:#222;--soft:#595959;--line:#bbb;--edge:#ddd;--empty:#eee;"
    "--focus:#0b57d0;--right:#006b40;--wrong:#b02413}"
    "@media screen and (prefers-color-scheme:dark){:root{--back:#17191c;--text:#e8e8e8;--soft:#b0b0b0;--line:#555;"
    "--edge:#555;--empty:#2b2e33;--focus:#8ab4f8;--right:#5fd3a0;--wrong:#ff9585}}"
    "@media print{:root{color-scheme:light}}"
)
_STYLE = (
    f"{COLORS}:root{{--side:{_SIDE}px;scroll-padding-top:64px}}"
    "*{box-sizing:border-box}[hidden]{display:none!important}"
    "body{font:14px/1.4 system-ui,sans-serif;margin:12px;color:var(--text);background:var(--back)}"
    "a{color:inherit}:focus-visible{outline:3px solid var(--focus);outline-offset:1px}"
    ".skip{position:absolute;left:-9999px;padding:8px;background:var(--back);z-index:2}.skip:focus{left:12px;top:4px}"
    "h1{font-size:20px;margin:0}h2{font:inherit;margin:0}"
    "[role=search]{display:flex;flex-wrap:wrap;align-items:center;gap:8px 24px;padding:8px 0;background:var(--back)}"
    "@media (min-height:500px){[role=search]{position:sticky;top:0;z-index:1}}"
    "label{display:flex;align-items:center;gap:8px}input{font:inherit;accent-color:var(--focus)}"
    "input[type=search]{width:16em;max-width:100%;padding:4px}::placeholder{color:var(--soft);opacity:1}"
    "section{display:flex;flex-wrap:wrap;gap:10px;border-top:1px solid var(--line);padding:12px 0}"
    "figure{margin:0;width:var(--side);max-width:100%;overflow-wrap:anywhere}"
    "figure.query{margin-right:16px}figure.query img{border-color:#d60}"
    "figure.wide{width:calc(2*var(--side))}"
    "img,.none{display:block;width:100%;aspect-ratio:1;border:2px solid var(--edge);background:#fff;object-fit:contain}"
    ".none{background:var(--empty)}.wide img{aspect-ratio:2}.words span{display:block;color:var(--soft)}"
    "section p{margin:0}"
    "@media print{:root{--side:104px}.skip,[role=search]{display:none}body{margin:0}section,figure{break-inside:avoid}"
    "a{text-decoration:none}}"
)

# Data is only read as text, and shown or hidden: none of it becomes markup.
_SCRIPT = """"use strict";
const [controls, search, size, found] = ["controls", "search", "size", "found"].map((id) =>
  document.getElementById(id),
);
const plain = (text) => text.normalize("NFKD").replace(/\\p{M}/gu, "").toUpperCase();
const wordsIn = (element) => plain(element.querySelector(".words").textContent);
const sections = Array.from(document.querySelectorAll("section"), (section) => ({
  section,
  name: wordsIn(section.querySelector(".query")),
  hits: Array.from(section.querySelectorAll(".hit"), (hit) => ({ hit, words: wordsIn(hit) })),
}));
search.addEventListener("input", () => {
  const sought = plain(search.value).split(/\\s+/).filter(Boolean);
  let count = 0;
  for (const { section, name, hits } of sections) {
    const isNamed = sought.every((word) => name.includes(word));
    let isShown = isNamed;
    for (const { hit, words } of hits) {
      hit.hidden = !isNamed && !sought.every((word) => words.includes(word));
      isShown ||= !hit.hidden;
      count += !hit.hidden;
    }
    section.hidden = !isShown;
  }
  found.textContent = sought.length ? `${count} found` : "";
});
size.addEventListener("input", () => document.documentElement.style.setProperty("--side", `${size.value}px`));
controls.hidden = false;
"""
_CONTROLS = (
    '<div id="controls" role="search" hidden>\n'
    '<label>Search <input id="search" type="search" autocomplete="off" spellcheck="false"'
    ' placeholder="title, category, path"></label>\n'
    f'<label>Image size <input id="size" type="range" min="80" max="320" step="10" value="{_SIDE}"'
    ' autocomplete="off"></label>\n'
    '<output id="found" for="search"></output>\n</div>\n'
)


def head(title: str, style: str, script: str = "") -> str:
    """Open a page, to its body; a policy forbids what escaping prevents: only `script` runs, and nothing is loaded."""
    allowed = f" script-src '{_sha256(script)}';" if script else ""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:;'
        f" style-src '{_sha256(style)}';{allowed} base-uri 'none'; form-action 'none'\">\n"
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{shown(title)}</title>\n<style>{style}</style>\n</head>\n<body>\n"
    )


def _sha256(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def opening(title: str) -> str:
    """Open a page of sections, with its controls; those show where the script runs."""
    return (
        f'{head(title, _STYLE, _SCRIPT)}<a class="skip" href="#found-images">Skip to the images</a>\n'
        f'<header>\n<h1>{shown(title)}</h1>\n</header>\n{_CONTROLS}<main id="found-images" tabindex="-1">\n'
    )


TAIL = "</body>\n</html>\n"
CLOSING = f"</main>\n<script>{_SCRIPT}</script>\n{TAIL}"


def section(path: str, part: "Section") -> str:
    """Show what was asked with, an image with boxes drawn into it, and beside it what was found, or why nothing was."""
    notes = "".join(f" <span>{shown(note)}</span>" for note in (part.asked.notes if part.asked else ()))
    heading = f'<h2 class="words">{shown(path)}{notes}</h2>'
    pictures = part.asked.pictures() if part.asked else [Picture(path, path, part.image)]
    captions = [heading, *(shown(picture.caption) for picture in pictures[1:])]
    asked = "".join(
        _figure(
            picture.file, caption, "query", _image(_source(query_thumbnail(picture, part.boxes, _SIDE)), picture.file)
        )
        for picture, caption in zip(pictures, captions, strict=False)
    )
    asked = asked or f'<figure class="query"><figcaption>{heading}</figcaption></figure>\n'  # of words alone
    entries = "".join(map(_entry, part.entries))
    message = f"<p>{shown(part.message)}</p>\n" if part.message else ""
    return f"<section>\n{asked}{entries}{message}</section>\n"


def _entry(entry: "Entry") -> str:
    rank = "" if entry.rank is None else f"{entry.rank}. "
    details = "".join(f" <span>{shown(detail)}</span>" for detail in entry.details)
    words = f'<span class="words">{shown(entry.text)}{details}</span>'
    caption = f"{rank}<b>{shown(entry.score)}</b> {shown(entry.note)}{words}"
    if not entry.file:
        return f'<p class="hit">{caption}</p>\n'
    alt = ", ".join([entry.text, *entry.details])
    if entry.drawing is None:
        return _figure(entry.file, caption, "hit", _image(_hit_source(entry.file), alt))
    return _figure(entry.file, caption, "hit wide", _image(_source(entry.drawing), alt))


@lru_cache(_MAX_TILES)
def _hit_source(path: str) -> str | None:
    """Return the address of a file's tile; of many queries the same images are hits again and again."""
    return _source(file_thumbnail(path, _SIDE))


def shown(text: str) -> str:
    """Make any text, a file name most of all, fit to stand in HTML, between tags or in an attribute."""
    return escape(printable(text), quote=True)


def tile(data: bytes | None, alt: str) -> str:
    """Show the bytes of an image, small; an empty tile for what cannot be shown."""
    return _image(_source(thumbnail(data, _SIDE)), alt)


def file_tile(path: str, alt: str) -> str:
    """Show a file as `tile` does."""
    return _image(_source(file_thumbnail(path, _SIDE)), alt)


def _source(pixels: Pixels | None) -> str | None:
    """Return an address that holds all of the pixels."""
    if pixels is None:
        return None
    _, encoded = cv2.imencode(".jpg", pixels[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 85])
    return f"data:image/jpeg;base64,{base64.b64encode(encoded.tobytes()).decode()}"


def _image(source: str | None, alt: str) -> str:
    if source is None:
        return f'<span class="none" role="img" aria-label="{shown(alt)}, cannot be shown"></span>'
    return f'<img src="{source}" alt="{shown(alt)}">'


def _figure(path: str, caption: str, kind: str, image: str) -> str:
    link = "file://" + quote_from_bytes(os.fsencode(os.path.abspath(path)))  # noqa: PTH100  # names that are not UTF-8
    return f'<figure class="{kind}"><a href="{link}">{image}</a><figcaption>{caption}</figcaption></figure>\n'
