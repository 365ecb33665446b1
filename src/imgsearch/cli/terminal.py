"""Images in a terminal: by the graphics protocol of Kitty, as Sixels, or as half blocks in color."""

import array
import base64
import contextlib
import fcntl
import io
import math
import os
import re
import select
import sys
import termios
import time
import tty
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import cv2
import numpy as np

from imgsearch.cli.answers import Picture
from imgsearch.cli.output import printable
from imgsearch.cli.thumbnails import file_thumbnail, query_thumbnail
from imgsearch.errors import UsageError
from imgsearch.images.decode import Pixels
from imgsearch.images.transform import fit

if TYPE_CHECKING:
    from imgsearch.cli.answers import Section

Graphics = Literal["kitty", "sixel", "blocks"]
# And width and height of a cell in pixels, where a terminal says that.
Shown = tuple[Graphics, tuple[int, int] | None]

# Of an image, in cells, and between two.
_WIDTH, _GAP = 24, 2
# Where a terminal does not say how large its cells are. Smaller than most, so that no image covers the next.
_CELL = (7, 14)
_MAX_CELL = 100  # pixels; more is an error, and would be large images
_NOTHING = 128  # the gray of what cannot be shown

# How long a terminal may take to answer, which all do: it is a round trip, also over ssh.
_SECONDS = 1.0
# May Kitty's protocol be used? What the few terminals leave that take this for text is erased. How large are your
# cells? Then, as the last thing, for all terminals answer it: what are you (primary device attributes)?
_ASKED = b"\x1b7\x1b_Gi=1,s=1,v=1,a=q,t=d,f=24;AAAA\x1b\\\x1b8\x1b[K" + b"\x1b[16t" + b"\x1b[c"
_CELL_SIZE = re.compile(rb"\x1b\[6;(\d{1,4});(\d{1,4})t")  # height and width in pixels
_ATTRIBUTES = re.compile(rb"\x1b\[\?([\d;]*)c")
_SIXEL = b"4"  # among the attributes

_PALETTE = 255
_CHUNK = 4096  # bytes of base64 in one of Kitty's commands


@dataclass(frozen=True, slots=True)
class Terminal:
    """What there is to draw on."""

    graphics: Graphics
    columns: int = 80
    cell: tuple[int, int] = _CELL  # width and height in pixels


_IN_PAGE = "--format html -o answers.html makes a page with the images in it"


def require_preview(format_name: str, output_file: Path | None) -> None:
    """Raise `UsageError` unless a table goes to a terminal that shows colors: then `section` can show images."""
    if format_name != "table":
        raise UsageError(f"--preview needs --format table, got {format_name}", hint=_IN_PAGE)
    if output_file is not None:
        raise UsageError("--preview and --output cannot be combined", hint=_IN_PAGE)
    require_colors(_IN_PAGE)


def require_colors(hint: str) -> None:
    """Raise `UsageError` unless standard output is a terminal that shows colors."""
    if not sys.stdout.isatty() or os.environ.get("TERM") in ("dumb", "unknown"):
        raise UsageError("--preview needs a terminal that shows colors as standard output", hint=hint)


@lru_cache(1)
def this_terminal() -> Terminal:
    """Find out what standard output, a terminal, can show; it is asked once."""
    descriptor = sys.stdout.fileno()
    size = array.array("H", [0, 0, 0, 0])  # rows, columns, width and height in pixels
    fcntl.ioctl(descriptor, termios.TIOCGWINSZ, size)
    rows, columns, width, height = size
    graphics, cell = shown_by(descriptor)
    if rows and columns and width and height:
        cell = width // columns, height // rows
    is_likely = cell is not None and all(0 < side < _MAX_CELL for side in cell)
    return Terminal(graphics, columns or 80, cell if cell and is_likely else _CELL)


def shown_by(descriptor: int) -> Shown:
    """Ask the terminal of a descriptor what it shows; the environment tells of one that cannot be asked."""
    name = os.environ.get("TERM", "")
    if "TMUX" in os.environ or name.startswith(("screen", "tmux")):
        # What tmux answers is not what the terminal around it shows, and it takes Kitty's question for a title.
        return "blocks", None
    if answered := _asked(descriptor):
        return answered
    is_kitty = name in ("xterm-kitty", "xterm-ghostty") or "KITTY_WINDOW_ID" in os.environ
    return "kitty" if is_kitty else "blocks", None


def _asked(output: int) -> Shown | None:
    """Ask a terminal that is ours alone; None if it is not, or does not answer."""
    try:
        descriptor = os.open(os.ttyname(output), os.O_RDWR | os.O_NOCTTY)
    except OSError:  # of another container, say
        return None
    try:
        # A terminal stops processes in the background that change its settings.
        if os.tcgetpgrp(descriptor) != os.getpgrp():
            return None
        return ask(descriptor)
    except (OSError, termios.error):  # not the one that controls us, or it has gone
        return None
    finally:
        os.close(descriptor)


def ask(descriptor: int, seconds: float = _SECONDS) -> Shown | None:
    """Ask a terminal, open for reading and writing, what it shows; None if it does not say so in time."""
    answer = b""
    with _unechoed(descriptor):
        if _has_input(descriptor, 0):  # what is typed ahead is the shell's
            return None
        os.write(descriptor, _ASKED)
        end = time.monotonic() + seconds
        while not (attributes := _ATTRIBUTES.search(answer)):
            if not _has_input(descriptor, end - time.monotonic()):
                return None
            part = os.read(descriptor, 1024)
            if not part:
                return None
            answer += part
    size = _CELL_SIZE.search(answer)
    cell = (int(size[2]), int(size[1])) if size else None
    if b"\x1b_Gi=1;OK" in answer:
        return "kitty", cell
    return "sixel" if _SIXEL in attributes[1].split(b";")[1:] else "blocks", cell


@contextlib.contextmanager
def _unechoed(descriptor: int) -> Iterator[None]:
    """Let answers of a terminal be read as they come, and not be shown."""
    before = termios.tcgetattr(descriptor)
    try:
        tty.setcbreak(descriptor, termios.TCSANOW)
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSANOW, before)


def _has_input(descriptor: int, seconds: float) -> bool:
    return bool(select.select([descriptor], [], [], max(0, seconds))[0])


def section(path: str, part: "Section", terminal: Terminal) -> str:
    """Show what was asked with, boxes drawn into it, and what was found, in rows that fit the terminal."""
    width = min(_WIDTH, terminal.columns)
    side = width * (terminal.cell[0] if terminal.graphics != "blocks" else 1)
    pictures = part.asked.pictures() if part.asked else [Picture(path, path, part.image)]
    shown: list[tuple[Pixels | None, str, str]] = [
        (query_thumbnail(picture, part.boxes, side), part.role, picture.caption) for picture in pictures
    ]
    for entry in part.entries:
        if entry.file:
            rank = "" if entry.rank is None else f"{entry.rank}. "
            pixels = file_thumbnail(entry.file, side) if entry.drawing is None else fit(entry.drawing, side)
            shown.append((pixels, f"{rank}{entry.score} {entry.note}", entry.text))
    a_row = max(1, (terminal.columns + _GAP) // (width + _GAP))
    rows = (shown[start : start + a_row] for start in range(0, len(shown), a_row))
    return "".join(_row(row, width, side, terminal) + "\n" for row in rows)


def _row(shown: Sequence[tuple[Pixels | None, str, str]], width: int, side: int, terminal: Terminal) -> str:
    pixels = [np.full((side, side, 3), _NOTHING, np.uint8) if each is None else each for each, _, _ in shown]
    images = _blocks(pixels) if terminal.graphics == "blocks" else _graphics(pixels, width, terminal)
    return images + "".join(
        (" " * _GAP).join(_cut(printable(text), width, keep_end=keep_end) for text in texts).rstrip() + "\n"
        for texts, keep_end in (([first for _, first, _ in shown], False), ([second for *_, second in shown], True))
    )


def _cut(text: str, width: int, *, keep_end: bool) -> str:
    """Bring a text to so many cells; the end of a path says more than its beginning."""
    from rich.cells import cell_len, set_cell_size

    if cell_len(text) <= width:
        return set_cell_size(text, width)
    if not keep_end:
        return set_cell_size(text, width - 1) + "\N{HORIZONTAL ELLIPSIS}"
    while cell_len(text) > width - 1:
        text = text[1:]
    return set_cell_size("\N{HORIZONTAL ELLIPSIS}" + text, width)


def _blocks(images: Sequence[Pixels]) -> str:
    """Draw two pixels in each cell: the upper in the color of a half block, the lower in that of its background."""
    from rich.color import Color
    from rich.console import Console
    from rich.style import Style
    from rich.text import Text

    # Rich knows how many colors there are. `NO_COLOR` is about text: images were asked for.
    width = len(images) * (len(images[0]) + _GAP)
    console = Console(file=io.StringIO(), force_terminal=True, no_color=False, width=width)
    with console.capture() as captured:
        for y in range(0, len(images[0]) - 1, 2):
            line = Text()
            for place, pixels in enumerate(images):
                line.append(" " * _GAP if place else "")
                for upper, lower in zip(pixels[y].tolist(), pixels[y + 1].tolist(), strict=True):
                    colors = Color.from_rgb(*upper), Color.from_rgb(*lower)
                    line.append("\N{UPPER HALF BLOCK}", Style.from_color(*colors))
            console.print(line)
    return captured.get()


def _graphics(images: Sequence[Pixels], width: int, terminal: Terminal) -> str:
    """Draw images side by side, above where the cursor then is."""
    height = math.ceil(len(images[0]) / terminal.cell[1])
    # Room is made first: nothing scrolls while images are drawn, so that the cursor finds back.
    drawn = ["\n" * height + f"\x1b[{height}A"]
    for place, pixels in enumerate(images):
        image = kitty(pixels, width, height) if terminal.graphics == "kitty" else sixel(pixels)
        right = place * (width + _GAP)
        drawn.append("\x1b7" + (f"\x1b[{right}C" if right else "") + image + "\x1b8")
    return "".join(drawn) + f"\x1b[{height}B"


def kitty(pixels: Pixels, columns: int, rows: int) -> str:
    """Write an image as commands of Kitty's graphics protocol: PNG, over so many cells; the terminal answers none."""
    _, png = cv2.imencode(".png", pixels[:, :, ::-1])
    data = base64.b64encode(png.tobytes()).decode()
    chunks = [data[start : start + _CHUNK] for start in range(0, len(data), _CHUNK)]
    heads = [f"a=T,f=100,q=2,C=1,c={columns},r={rows},", *[""] * (len(chunks) - 1)]
    return "".join(
        f"\x1b_G{head}m={int(number < len(chunks))};{chunk}\x1b\\"
        for number, (head, chunk) in enumerate(zip(heads, chunks, strict=True), start=1)
    )


def sixel(pixels: Pixels) -> str:
    """Write an image as Sixels: bands of six lines, in each band a line of characters for each of its colors."""
    from PIL import Image

    quantized = Image.fromarray(pixels).quantize(_PALETTE)
    palette = np.array(quantized.getpalette(), int).reshape(-1, 3) * 100 // 255
    numbers = np.asarray(quantized)
    parts = [f'\x1bP0;1q"1;1;{pixels.shape[1]};{pixels.shape[0]}']
    parts += [f"#{number};2;{red};{green};{blue}" for number, (red, green, blue) in enumerate(palette)]
    bands = []
    for top in range(0, len(numbers), 6):
        band = numbers[top : top + 6]
        colors = np.unique(band)
        bits = 1 << np.arange(len(band), dtype=np.uint8)[:, None]
        lines = ((band == colors[:, None, None]) * bits).sum(axis=1, dtype=np.uint8) + 63
        drawn = (f"#{color}{_shortened(line.tobytes().decode())}" for color, line in zip(colors, lines, strict=True))
        bands.append("$".join(drawn))
    return "".join([*parts, "-".join(bands), "\x1b\\"])


def _shortened(line: str) -> str:
    return re.sub(r"(.)\1{3,}", lambda run: f"!{len(run[0])}{run[1]}", line)
