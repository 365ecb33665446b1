"""The sections of an evaluation as one HTML page: charts and images are in it, so that it opens anywhere."""

import base64
import os
import re
from collections.abc import Callable, Iterator, Sequence

from imgsearch.cli.evaluation_sections import Block, Chart, Gallery, Note, Section, Table
from imgsearch.cli.html import COLORS, TAIL, file_tile, head, shown, tile
from imgsearch.evaluation.results import QueryResult, RankedHit

_HITS_SHOWN = 6
_MAX_LENGTH = 200

_STYLE = (
    f"{COLORS}body{{font:15px/1.5 system-ui,sans-serif;max-width:1080px;margin:32px auto;padding:0 24px;"
    "color:var(--text);background:var(--back)}"
    "h1{font-size:26px;margin:0 0 8px}"
    "h2{font-size:20px;margin:40px 0 8px;padding-top:16px;border-top:1px solid var(--line)}"
    "h3{font-size:16px;margin:24px 0 4px}p{max-width:76ch;margin:8px 0}"
    "table{display:inline-table;border-collapse:collapse;margin:12px 24px 12px 0;font-size:14px;"
    "vertical-align:top}caption{text-align:left;white-space:nowrap;color:var(--soft)}"
    "th,td{text-align:left;vertical-align:top;padding:4px 20px 4px 0;border-bottom:1px solid var(--edge);"
    "overflow-wrap:anywhere}th{font-weight:600;overflow-wrap:normal}"
    ".number{text-align:right;white-space:nowrap;font-variant-numeric:tabular-nums}"
    "h1~p{font-size:18px}"
    "img.chart{display:block;max-width:100%;height:auto;margin:12px 0}"
    ".query{display:grid;grid-template-columns:repeat(7,minmax(0,1fr));gap:12px;padding:12px 0;"
    "border-top:1px solid var(--edge);break-inside:avoid}"
    "figure{margin:0;font-size:12px;line-height:1.35;overflow-wrap:anywhere}"
    "figure img,.none{display:block;box-sizing:border-box;width:100%;aspect-ratio:1;border:3px solid #999;"
    "background:#fff;margin-bottom:4px}.none{background:var(--empty)}"
    "figure.right img,figure.right .none{border-color:var(--right)}"
    "figure.wrong img,figure.wrong .none{border-color:var(--wrong);border-style:dashed}"
    "figure b{display:block}figure.right b{color:var(--right)}figure.wrong b{color:var(--wrong)}"
    "@media (max-width:640px){body{margin:16px auto;padding:0 12px}"
    ".query{grid-template-columns:repeat(3,minmax(0,1fr))}caption,th.number{white-space:normal}"
    "th,td{font-size:12px;padding-right:8px}th{overflow-wrap:anywhere}}"
    "@media print{body{margin:0;max-width:none;font-size:12px}h2,h3{break-after:avoid}table,img{break-inside:avoid}}"
)

# Gives the image of a query as a file, JPEG or PNG; None for an empty tile.
QueryImage = Callable[[QueryResult], bytes | None]


def evaluation_page(sections: Sequence[Section], catalog: str, query_image: QueryImage) -> Iterator[str]:
    """Render sections, piece by piece: no more images than those of one query are held at once."""
    yield head("imgsearch: evaluation", _STYLE) + "<main>\n"
    for section in sections:
        yield f"<section>\n<h{section.level}>{shown(section.heading)}</h{section.level}>\n"
        for block in section.blocks:
            if block.only == "text":
                continue
            if isinstance(block, Gallery):
                yield from (_worst(query, catalog, query_image) for query in block.results)
            else:
                yield _block(block)
        yield "</section>\n"
    yield "</main>\n" + TAIL


def _block(block: Block) -> str:
    if isinstance(block, Note):
        lines = "<br>".join(map(shown, block.text.split("\n")))
        return f"<p>{lines}</p>\n"
    if isinstance(block, Chart):
        data = base64.b64encode(block.draw()).decode()
        return f'<img class="chart" src="data:image/svg+xml;base64,{data}" alt="{shown(block.alt)}">\n'
    assert isinstance(block, Table)
    return _table(block) if block.rows else ""


def _table(block: Table) -> str:
    # A column of numbers is known by its first.
    numbers = [bool(block.heads) and re.fullmatch(r"[\d.,]+( ms)?", cell) is not None for cell in block.rows[0]]
    caption = f"<caption>{shown(block.title)}</caption>\n" if block.title else ""
    heads = _row("th", block.heads, numbers) if block.heads else ""
    return f"<table>\n{caption}{heads}{''.join(_row('td', row, numbers) for row in block.rows)}</table>\n"


def _row(tag: str, cells: Sequence[str], numbers: Sequence[bool]) -> str:
    classes = (' class="number"' if number else "" for number in numbers)
    filled = (f"<{tag}{kind}>{_brief(cell)}</{tag}>" for kind, cell in zip(classes, cells, strict=True))
    return f"<tr>{''.join(filled)}</tr>\n"


def _worst(query: QueryResult, catalog: str, query_image: QueryImage) -> str:
    about = f"<b>query</b>{_brief(query.label)}<br>{_brief(query.query)}"
    first = f"<figure>{tile(query_image(query), _cut(query.query))}<figcaption>{about}</figcaption></figure>\n"
    hits = "".join(_hit(rank, hit, catalog) for rank, hit in enumerate(query.hits[:_HITS_SHOWN], 1))
    return f'<div class="query">\n{first}{hits}</div>\n'


def _hit(rank: int, hit: RankedHit, catalog: str) -> str:
    kind, mark = ("right", "\u2713") if hit.relevant else ("wrong", "\u2717")
    about = f"<b>{rank}. {hit.score:.3f} {mark} {kind}</b>{_brief(hit.label)}<br>{_brief(hit.path)}"
    image = file_tile(os.path.join(catalog, hit.path), _cut(hit.path))
    return f'<figure class="{kind}">{image}<figcaption>{about}</figcaption></figure>\n'


def _brief(text: str) -> str:
    return shown(_cut(text))


def _cut(text: str) -> str:
    return text if len(text) <= _MAX_LENGTH else f"{text[: _MAX_LENGTH - 3]}..."
