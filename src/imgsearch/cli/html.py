"""Answers as one HTML page to look at: the images are in it, so that it opens anywhere and loads nothing."""

import base64
import hashlib
import os
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING
from urllib.parse import quote_from_bytes

import cv2

from imgsearch.cli.render import box_text
from imgsearch.cli.terminal import printable
from imgsearch.errors import ImageError
from imgsearch.images.decode import Pixels, read_file
from imgsearch.images.photo import drawn, open_photo
from imgsearch.images.policy import FilePolicy
from imgsearch.images.transform import fit
from imgsearch.images.workers.decoders import decode_and_fit_guarded

if TYPE_CHECKING:
    from imgsearch.cli.boxes import BoxAnswer
    from imgsearch.cli.classes import ClassAnswer
    from imgsearch.cli.render import Answer
    from imgsearch.images.boxes import Box
    from imgsearch.search.hits import Hit

_SIDE = 160
# Boxes are drawn into an image so many times as large.
_SHARP = 2
_STYLE = (
    "body{font:14px sans-serif;margin:24px;color:#222}"
    "section{display:flex;flex-wrap:wrap;gap:12px;border-top:1px solid #bbb;padding:12px 0}"
    f"figure{{margin:0;width:{_SIDE}px;overflow-wrap:anywhere}}"
    "figure.query{margin-right:24px}figure.query img{border-color:#d60}"
    f"figure.wide,figure.wide img{{width:{2 * _SIDE}px}}"
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


def section(answer: "Answer", catalog: str) -> str:
    """Show a query and its hits, or why it has none.

    Args:
        answer: Of one query.
        catalog: Folder of the images; one that is not there any more is shown by its name alone.

    Returns:
        HTML.
    """
    if answer.objects:
        parts = [_section(answer, [found.box], found.hits, catalog) for found in answer.objects]
        return "".join(parts)
    if answer.error is not None or answer.objects is not None:
        reason = answer.error.message if answer.error is not None else "no item stands out"
        return f"<section>\n{_query(answer.query, ())}<p>{shown(reason)}</p>\n</section>\n"
    boxes = [answer.hits[0].box] if answer.hits and answer.hits[0].box else []
    return _section(answer, boxes, answer.hits, catalog)


def _section(answer: "Answer", boxes: Sequence["Box"], hits: Sequence["Hit"], catalog: str) -> str:
    figures = [
        _figure(
            os.path.join(catalog, hit.path),
            shown(hit.path),
            f"{hit.rank}. <b>{hit.score:.3f}</b> {_sure(hit)}",
            "hit",
            image=jpeg(answer.matches[hit.path, hit.box]) if (hit.path, hit.box) in answer.matches else "",
        )
        for hit in hits
    ]
    nothing = "" if hits else "<p>no image fits</p>\n"
    return f"<section>\n{_query(answer.query, boxes)}{''.join(figures)}{nothing}</section>\n"


def _query(path: str, boxes: Sequence["Box"]) -> str:
    """Show a query, with the parts of it that were found."""
    return _figure(path, shown(path), "", "query", image=file_tile(path, boxes))


def _sure(hit: "Hit") -> str:
    probability = "" if hit.probability is None else f"({100 * hit.probability:.0f} %) "
    return probability + (f"{hit.inliers} inliers " if hit.inliers else "")


def class_section(answer: "ClassAnswer") -> str:
    """Show an image and its classes, or why it has none.

    Args:
        answer: Of one image.

    Returns:
        HTML.
    """
    parts = [_figure(answer.query, shown(answer.query), "", "query")]
    if answer.error is not None:
        parts.append(f"<p>{shown(answer.error.message)}</p>\n")
    parts += [f"<p><b>{found.probability:.3f}</b> {shown(found.label)}</p>\n" for found in answer.classes]
    return f"<section>\n{''.join(parts)}</section>\n"


def box_section(answer: "BoxAnswer") -> str:
    """Show an image with the items that were found in it, or why there are none.

    Args:
        answer: Of one image.

    Returns:
        HTML.
    """
    boxes = [found.box for found in answer.boxes]
    parts = [_query(answer.query, boxes)]
    if answer.error is not None:
        parts.append(f"<p>{shown(answer.error.message)}</p>\n")
    elif not boxes:
        parts.append("<p>no item is in it</p>\n")
    parts += [
        f"<p>{rank}. <b>{found.score:.3f}</b> {box_text(found.box)}</p>\n"
        for rank, found in enumerate(answer.boxes, start=1)
    ]
    return f"<section>\n{''.join(parts)}</section>\n"


def shown(text: str) -> str:
    """Make any text, a file name most of all, fit to stand in HTML, between tags or in an attribute."""
    return escape(printable(text), quote=True)


def tile(data: bytes | None, boxes: Sequence["Box"] = ()) -> str:
    """Show an image, small.

    Args:
        data: The file; None if it cannot be had.
        boxes: Drawn into it, in its own pixels.

    Returns:
        HTML; an empty tile for what cannot be shown.
    """
    try:
        pixels = None if data is None else _square(data, boxes)
    except ImageError:
        pixels = None
    if pixels is None:
        return '<span class="none"></span>'
    return jpeg(pixels)


def jpeg(pixels: Pixels) -> str:
    """Show pixels: HTML that holds all of them."""
    _, encoded = cv2.imencode(".jpg", pixels[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 85])
    return f'<img src="data:image/jpeg;base64,{base64.b64encode(encoded.tobytes()).decode()}" alt="">'


def _square(data: bytes, boxes: Sequence["Box"]) -> Pixels:
    photo = open_photo(data, FilePolicy(), _SHARP * _SIDE) if boxes else None
    if photo is None:
        return decode_and_fit_guarded(data, _SIDE, "pad", FilePolicy())
    return fit(drawn(photo, boxes), _SIDE)


def file_tile(path: str, boxes: Sequence["Box"] = ()) -> str:
    """Do `tile` for a file."""
    try:
        return tile(read_file(path)[0], boxes)
    except ImageError:
        return tile(None)


def _figure(path: str, name: str, mark: str, kind: str, image: str = "") -> str:
    link = "file://" + quote_from_bytes(os.fsencode(os.path.abspath(path)))  # noqa: PTH100  # names that are not UTF-8
    shows = f"{kind} wide" if image and kind == "hit" else kind
    return (
        f'<figure class="{shows}"><a href="{link}">{image or file_tile(path)}</a>'
        f"<figcaption>{mark}{name}</figcaption></figure>\n"
    )
