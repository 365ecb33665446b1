"""The sections of an evaluation as text for a terminal."""

from collections.abc import Sequence

from imgsearch.cli.evaluation_sections import Block, Note, Section, Table
from imgsearch.cli.terminal import draw_table, printable


def evaluation_text(sections: Sequence[Section]) -> str:
    """Render notes and tables, one below the other."""
    return "".join(_text(block) for section in sections for block in section.blocks if block.only != "page")


def _text(block: Block) -> str:
    if isinstance(block, Note):
        return "\n".join(map(printable, block.text.split("\n"))) + "\n\n"
    if isinstance(block, Table) and block.rows:
        return draw_table(printable(block.title), block.heads, block.rows, block.heads[:1])
    return ""
