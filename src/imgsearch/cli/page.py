"""Answers as one HTML page to look at: the pictures are in it, so that it opens anywhere and loads nothing."""

import base64
import hashlib
import os
from html import escape
from typing import TYPE_CHECKING
from urllib.parse import quote_from_bytes

import cv2

from imgsearch.cli.terminal import printable
from imgsearch.errors import PictureError
from imgsearch.images.decode import read_file
from imgsearch.images.policy import FilePolicy
from imgsearch.images.workers import decode_and_fit_guarded

if TYPE_CHECKING:
    from imgsearch.cli.classes import ClassAnswer
    from imgsearch.cli.render import Answer
    from imgsearch.index.search import Hit

_SIDE = 160
_STYLE = (
    "body{font:14px sans-serif;margin:24px;color:#222}"
    "section{display:flex;flex-wrap:wrap;gap:12px;border-top:1px solid #bbb;padding:12px 0}"
    f"figure{{margin:0;width:{_SIDE}px;overflow-wrap:anywhere}}"
    "figure.query{margin-right:24px}figure.query img{border-color:#d60}"
    f"img,.none{{display:block;width:{_SIDE}px;height:{_SIDE}px;border:2px solid #ddd;background:#fff}}"
)


def head(title: str, style: str) -> str:
    """Open a page. Nothing of it runs, and nothing is loaded, whatever a file is called.

    The policy forbids what escaping prevents.

    Args:
        title: In our own words.
        style: CSS, the only one that counts.

    Returns:
        HTML, to the beginning of the body.
    """
    style_hash = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:;'
        f" style-src 'sha256-{style_hash}'; base-uri 'none'; form-action 'none'\">\n"
        f"<title>{title}</title>\n<style>{style}</style>\n</head>\n<body>\n"
    )


HEAD = head("imgsearch", _STYLE)
TAIL = "</body>\n</html>\n"


def section(answer: "Answer", catalogue: str) -> str:
    """Show a query and its hits, or why it has none.

    Args:
        answer: Of one query.
        catalogue: Folder of the pictures; one that is not there any more is shown by its name alone.

    Returns:
        HTML.
    """
    figures = [_figure(answer.query, shown(answer.query), "", "query")]
    figures += [
        _figure(
            os.path.join(catalogue, hit.path),
            shown(hit.path),
            f"{hit.rank}. <b>{hit.score:.3f}</b> {_sure(hit)}",
            "hit",
        )
        for hit in answer.hits
    ]
    if answer.error is not None:
        figures.append(f"<p>{shown(answer.error.message)}</p>\n")
    elif not answer.hits:
        figures.append("<p>no picture fits</p>\n")
    return f"<section>\n{''.join(figures)}</section>\n"


def _sure(hit: "Hit") -> str:
    return "" if hit.probability is None else f"({100 * hit.probability:.0f} %) "


def class_section(answer: "ClassAnswer") -> str:
    """Show a picture and its classes, or why it has none.

    Args:
        answer: Of one picture.

    Returns:
        HTML.
    """
    parts = [_figure(answer.query, shown(answer.query), "", "query")]
    if answer.error is not None:
        parts.append(f"<p>{shown(answer.error.message)}</p>\n")
    parts += [f"<p><b>{found.probability:.3f}</b> {shown(found.label)}</p>\n" for found in answer.classes]
    return f"<section>\n{''.join(parts)}</section>\n"


def shown(text: str) -> str:
    """Make any text, a file name most of all, fit to stand in HTML, between tags or in an attribute."""
    return escape(printable(text), quote=True)


def tile(data: bytes | None) -> str:
    """Show a picture, small.

    Args:
        data: The file; None if it cannot be had.

    Returns:
        HTML; an empty tile for what cannot be shown.
    """
    try:
        pixels = None if data is None else decode_and_fit_guarded(data, _SIDE, "pad", FilePolicy())
    except PictureError:
        pixels = None
    if pixels is None:
        return '<span class="none"></span>'
    _, encoded = cv2.imencode(".jpg", pixels[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 85])
    return f'<img src="data:image/jpeg;base64,{base64.b64encode(encoded.tobytes()).decode()}" alt="">'


def file_tile(path: str) -> str:
    """Do `tile` for a file."""
    try:
        return tile(read_file(path)[0])
    except PictureError:
        return tile(None)


def _figure(path: str, name: str, mark: str, kind: str) -> str:
    link = "file://" + quote_from_bytes(os.fsencode(os.path.abspath(path)))  # noqa: PTH100  # names that are not UTF-8
    return (
        f'<figure class="{kind}"><a href="{link}">{file_tile(path)}</a><figcaption>{mark}{name}</figcaption></figure>\n'
    )
