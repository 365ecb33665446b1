import base64
import fcntl
import os
import pty
import re
import shutil
import struct
import sys
import termios
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Self

import cv2
import numpy as np
import pytest

from imgsearch import build_index
from imgsearch.cli import terminal
from imgsearch.cli.answers import Entry, Section
from imgsearch.cli.terminal import Terminal
from remembered import building_here

COLORS = {"red": (255, 0, 0), "green": (0, 160, 0), "blue": (0, 0, 255), "yellow": (255, 255, 0)}
CELL = re.compile("\x1b\\[38;2;(\\d+);(\\d+);(\\d+);48;2;(\\d+);(\\d+);(\\d+)m\N{UPPER HALF BLOCK}\x1b\\[0m")


@pytest.fixture(autouse=True)
def true_color(monkeypatch):
    for name in ("TMUX", "KITTY_WINDOW_ID", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLORTERM", "truecolor")


@pytest.fixture
def quarters(tmp_path):
    """An image of four colors, one in each corner."""
    pixels = np.array([*COLORS.values()], np.uint8).reshape(2, 2, 3).repeat(48, axis=0).repeat(48, axis=1)
    cv2.imwrite(str(tmp_path / "quarters.png"), pixels[:, :, ::-1])
    return tmp_path / "quarters.png", pixels


def hits(file: object, count: int = 1) -> Section:
    return Section(
        entries=[Entry("0.930", f"shop/{rank}.png", rank, "(88 %) ", str(file)) for rank in range(1, count + 1)]
    )


def half_blocks(text: str) -> list[np.ndarray]:
    """Return the pixels of the images in each row that is drawn in half blocks, side by side."""
    lines = [[list(map(int, cell)) for cell in CELL.findall(line)] for line in text.splitlines()]
    rows, row = [], []
    for line in [*lines, []]:
        if line:
            row += [[cell[:3] for cell in line], [cell[3:] for cell in line]]
        elif row:
            rows.append(np.array(row))
            row = []
    return rows


def test_half_blocks_have_the_colors_of_the_image(quarters, monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")  # is about text

    text = terminal.section(str(quarters[0]), hits(quarters[0]), Terminal("blocks", 80))

    (row,) = half_blocks(text)
    assert row.shape == (24, 2 * 24, 3)
    for image in (row[:, :24], row[:, 24:]):
        corners = (image[2, 2], image[2, -3], image[-3, 2], image[-3, -3])
        assert dict(zip(COLORS, map(tuple, corners), strict=True)) == COLORS


def test_images_come_in_rows_as_wide_as_the_terminal_with_captions_below(quarters):
    for columns, a_row in ((10, 1), (24, 1), (49, 1), (50, 2), (80, 3), (300, 6)):
        text = terminal.section(str(quarters[0]), hits(quarters[0], 5), Terminal("blocks", columns))

        width = min(columns, 24)
        assert {row.shape[1] for row in half_blocks(text)} <= {a_row * width, 6 % (a_row or 1) * width or width}
        lines = [re.sub("\x1b\\[[\\d;]*m", "", line) for line in text.splitlines()]
        assert max(map(len, lines)) <= columns
        assert lines[width // 2].startswith("query")

    assert "query                     1. 0.930 (88 %)           2. 0.930 (88 %)" in text
    assert re.search(r"…[^ ]+quarters\.png {2}shop/1\.png {16}shop/2\.png", text)


def kitty_commands(text: str) -> list[tuple[dict[str, str], str]]:
    found = re.findall("\x1b_G([^;]*);([A-Za-z0-9+/=]*)\x1b\\\\", text)
    return [(dict(pair.split("=") for pair in keys.split(",")), data) for keys, data in found]


def test_kitty_is_sent_a_png_in_chunks():
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)

    commands = kitty_commands(terminal.kitty(pixels, 24, 12))

    assert commands[0][0] == {"a": "T", "f": "100", "q": "2", "C": "1", "c": "24", "r": "12", "m": "1"}
    assert [keys for keys, _ in commands[1:]] == [{"m": "1"}] * (len(commands) - 2) + [{"m": "0"}]
    assert {len(data) for _, data in commands[:-1]} == {4096}
    png = base64.b64decode("".join(data for _, data in commands))
    assert (cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR)[:, :, ::-1] == pixels).all()


def unsixel(text: str) -> np.ndarray:
    head, width, height, body = re.fullmatch('\x1bP0;1q("1;1;(\\d+);(\\d+))(.*)\x1b\\\\', text, re.DOTALL).groups()
    palette, color, x, top = {}, 0, 0, 0
    pixels = np.full((int(height) + 5, int(width), 3), 77, np.uint8)
    part = r"#(\d+);2;(\d+);(\d+);(\d+)|#(\d+)|(?:!(\d+))?([?-~])|(\$)|(-)"
    assert re.fullmatch(f"(?:{part})*", body)
    for name, *levels, chosen, times, bits, start, down in re.findall(part, body):
        if name:
            palette[name] = [round(int(level) * 2.55) for level in levels]
        elif chosen:
            color = chosen
        elif bits:
            for line in range(6):
                if (ord(bits) - 63) >> line & 1:
                    pixels[top + line, x : x + int(times or 1)] = palette[color]
            x += int(times or 1)
        else:
            assert start or down
            x, top = 0, top + 6 * bool(down)
    assert head
    return pixels[: int(height)]


@pytest.mark.parametrize("shape", [(64, 64), (61, 40), (1, 1)], ids=str)
def test_sixels_show_the_image(shape):
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    pixels = np.stack([4 * rows, 4 * columns, 2 * (rows + columns)], axis=2).astype(np.uint8)

    shown = unsixel(terminal.sixel(pixels))

    assert shown.shape == pixels.shape
    assert np.abs(shown.astype(int) - pixels).max() <= 20  # of 255 colors, in percent


@pytest.mark.parametrize("graphics", ["kitty", "sixel"])
def test_images_by_a_protocol_stand_side_by_side_in_room_that_was_made_for_them(quarters, graphics):
    here = Terminal(graphics, 80, (10, 21))

    text = terminal.section(str(quarters[0]), hits(quarters[0]), here)

    assert text.startswith("\n" * 12 + "\x1b[12A\x1b7")  # 240 pixels in lines of 21
    assert text.count("\x1b7") == text.count("\x1b8") == 2
    assert "\x1b8\x1b7\x1b[26C" in text
    images, captions = text.split("\x1b8\x1b[12B")
    assert captions.startswith("query ")
    if graphics == "kitty":
        assert [(keys["c"], keys["r"]) for keys, _ in kitty_commands(images) if "a" in keys] == [("24", "12")] * 2
    else:
        assert [unsixel(each).shape for each in re.findall("\x1bP.*?\x1b\\\\", images)] == [(240, 240, 3)] * 2


def test_what_cannot_be_shown_is_an_empty_tile_and_no_name_reaches_the_terminal(tmp_path):
    (tmp_path / "broken.png").write_text("no image")
    entries = [
        Entry("1.000", "a\x1b[2J\n\u202e.png", 1, "", str(tmp_path / "broken.png")),
        Entry("1.000", "\udcff.png", 2, "", str(tmp_path / "none.png"), drawing=np.zeros((8, 16, 3), np.uint8)),
        Entry("1.000", "a line of text alone"),
    ]

    text = terminal.section("\x1b]0;title\x07.png", Section(entries=entries), Terminal("blocks", 80))

    (row,) = half_blocks(text)
    assert (row[:, : 2 * 24] == 128).all()
    assert (row[12, 2 * 24 :] == 0).all()
    assert re.search("[\x00-\x09\x0b-\x1f\u202e\udcff]", re.sub("\x1b\\[[\\d;]*m", "", text)) is None
    assert "text alone" not in text


def test_names_in_wide_characters_are_cut_by_their_width():
    assert terminal._cut("\u5e10\u7bf7" * 9, 7, keep_end=True) == "…\u7bf7\u5e10\u7bf7"
    assert terminal._cut("\u5e10\u7bf7" * 9, 8, keep_end=True) == "…\u7bf7\u5e10\u7bf7 "
    assert terminal._cut("1. 0.930 (100 %)", 8, keep_end=False) == "1. 0.93…"


class Screen:
    """A terminal that answers, or does not."""

    def __init__(self, answer: bytes | None) -> None:
        self.ours, self.theirs = pty.openpty()
        self.got = b""
        self.thread = threading.Thread(target=self._answer, args=(answer,))

    def _answer(self, answer: bytes | None) -> None:
        while not self.got.endswith(b"\x1b[c"):
            self.got += os.read(self.ours, 1024)
        if answer is not None:
            os.write(self.ours, answer)

    def __enter__(self) -> Self:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.thread.join()
        os.close(self.ours)
        os.close(self.theirs)


@pytest.mark.parametrize(
    ("answer", "shown"),
    [
        (b"\x1b_Gi=1;OK\x1b\\\x1b[6;21;10t\x1b[?62;c", ("kitty", (10, 21))),
        (b"\x1b_Gi=1;ENOTSUPPORTED:no\x1b\\\x1b[?62;4;22c", ("sixel", None)),
        (b"\x1b[6;16;8t\x1b[?62;4c", ("sixel", (8, 16))),
        (b"\x1b[?4;6c", ("blocks", None)),  # the first says what it is, not what it can
        (b"\x1b[?1;2c", ("blocks", None)),
        (b"\x1b[?6c", ("blocks", None)),
        (None, None),
    ],
    ids=range(7),
)
def test_a_terminal_is_asked_what_it_shows(answer, shown):
    with Screen(answer) as screen:
        before = termios.tcgetattr(screen.theirs)

        assert terminal.ask(screen.theirs, 5 if answer else 0.05) == shown

        assert termios.tcgetattr(screen.theirs) == before


def test_a_terminal_gets_its_settings_back_whatever_happens(monkeypatch):
    def interrupted(descriptor: int, when: int) -> None:
        set_cbreak(descriptor, when)
        raise KeyboardInterrupt

    set_cbreak = terminal.tty.setcbreak
    monkeypatch.setattr(terminal.tty, "setcbreak", interrupted)
    ours, theirs = pty.openpty()
    before = termios.tcgetattr(theirs)

    with pytest.raises(KeyboardInterrupt):
        terminal.ask(theirs)

    assert termios.tcgetattr(theirs) == before
    os.close(ours)
    os.close(theirs)


def test_what_was_typed_ahead_is_left_for_the_shell():
    ours, theirs = pty.openpty()
    os.write(ours, b"ls\n")

    assert terminal.ask(theirs) is None

    assert os.read(theirs, 10) == b"ls\n"
    os.close(ours)
    os.close(theirs)


@pytest.mark.parametrize(
    ("variables", "graphics"),
    [
        ({}, "blocks"),
        ({"TERM": "xterm-kitty"}, "kitty"),
        ({"KITTY_WINDOW_ID": "1"}, "kitty"),
        ({"TERM": "tmux-256color", "KITTY_WINDOW_ID": "1"}, "blocks"),
        ({"TMUX": "/tmp/tmux", "TERM": "xterm-kitty"}, "blocks"),
    ],
    ids=str,
)
def test_the_environment_tells_of_a_terminal_that_cannot_be_asked(monkeypatch, variables, graphics):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    reader, writer = os.pipe()

    assert terminal.shown_by(writer) == (graphics, None)

    os.close(reader)
    os.close(writer)


@pytest.mark.parametrize(
    ("size", "cell"),
    [((40, 60, 600, 800), (10, 20)), ((40, 60, 0, 0), (7, 14)), ((1, 1, 9999, 9999), (7, 14)), ((0, 0, 0, 0), (7, 14))],
    ids=str,
)
def test_cells_are_as_large_as_a_terminal_says_if_that_is_likely(monkeypatch, size, cell):
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", *size))
    monkeypatch.setattr(sys, "stdout", SimpleNamespace(fileno=lambda: theirs))
    terminal.this_terminal.cache_clear()

    assert terminal.this_terminal() == Terminal("blocks", size[1] or 80, cell)

    terminal.this_terminal.cache_clear()
    os.close(ours)
    os.close(theirs)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ((), "--preview needs a terminal that shows colors as standard output"),
        (("--format", "html"), "--preview needs --format table, got html"),
        (("-o", "answers.txt"), "--preview and --output cannot be combined"),
    ],
    ids=str,
)
def test_a_preview_is_refused_where_nobody_would_see_it(imgsearch, tmp_path, options, said):
    done = imgsearch("query", "photo.jpg", "--preview", *options)

    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
    assert "--format html" in done.stderr
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (("duplicates",), "--preview needs a terminal that shows colors"),
        (("duplicates", "--format", "csv"), "--preview needs --format table, got csv"),
        (("duplicates", "-o", "found.txt"), "--preview and --output cannot be combined"),
        (("neighbors", "-o", "n.csv"), "--preview needs a terminal that shows colors"),
        (("neighbors", "-o", "n.csv", "--by", "product"), "--preview and --by product cannot be combined"),
    ],
    ids=str,
)
def test_a_preview_of_duplicates_and_neighbors_is_refused_where_nobody_would_see_it(imgsearch, tmp_path, command, said):
    done = imgsearch(*command, "--preview")

    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
    assert not any(tmp_path.iterdir())


def test_a_terminal_without_colors_is_refused(monkeypatch):
    monkeypatch.setattr(sys, "stdout", SimpleNamespace(isatty=lambda: True))
    terminal.require_preview("table", None)
    monkeypatch.setenv("TERM", "dumb")

    with pytest.raises(terminal.UsageError, match="shows colors"):
        terminal.require_preview("table", None)


def on_screen(folder: Path, *arguments: object) -> tuple[int, str, str]:
    """Run the program in a terminal that knows Kitty's protocol: exit code, what came before it was asked, and after.

    The last is what the terminal was asked, too, up to its end.
    """
    process, screen = pty.fork()  # a terminal of its own
    if process == 0:
        os.chdir(folder)
        # The terminal is made this large before the program sees it.
        fcntl.ioctl(1, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 60, 600, 800))
        os.execv(sys.executable, [sys.executable, "-m", "imgsearch", *map(str, arguments)])
    text = b""
    is_answered = False
    while part := _read(screen):
        text += part
        if not is_answered and b"\x1b[c" in text:
            os.write(screen, b"\x1b_Gi=1;OK\x1b\\\x1b[?62;c")
            is_answered = True
    os.close(screen)
    before, _, shown = text.decode().partition("\x1b[c")
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), before, shown


def images_in(shown: str) -> int:
    return sum(keys.get("a") == "T" for keys, _ in kitty_commands(shown))


def test_a_query_shows_its_hits_in_a_terminal(built, tmp_path):
    image = next((built / "catalog").rglob("*.png"))
    command = ("query", image, "-k", "1", "--preview", "--index", built / "exact")

    code, before, shown = on_screen(tmp_path, *command)

    assert code == 0
    assert before == "\x1b7\x1b_Gi=1,s=1,v=1,a=q,t=d,f=24;AAAA\x1b\\\x1b8\x1b[K\x1b[16t"
    assert "1.000" in shown.splitlines()[3]
    assert ";OK" not in shown  # the answer is not echoed
    assert images_in(shown) == 2
    assert "1. 1.000" in shown


@pytest.fixture(scope="module")
def twice(drawn, tmp_path_factory):
    """An index of one image under two names, one of which would color a terminal."""
    folder = tmp_path_factory.mktemp("twice")
    (folder / "catalog").mkdir()
    for name in ("a.png", "\x1b[31mb.png"):
        shutil.copy(drawn / "cups" / "cups-00.png", folder / "catalog" / name)
    with building_here():
        build_index(folder / "catalog", folder / "index", backbone="handcrafted:color", backend="exact")
    return folder / "index"


def test_duplicates_show_their_images_in_a_terminal(twice, tmp_path):
    code, before, shown = on_screen(tmp_path, "duplicates", "--index", twice, "--preview", "--quiet")

    assert code == 0
    assert "group 1  (products differ)" in before
    assert images_in(shown) == 2
    assert re.search(r"Bkept +equal 256 x 256", shown)
    assert "1 duplicates in 1 groups, 1 of them of several products" in shown
    assert "\\x1b[31mb.png" in before + shown
    assert "\x1b[31m" not in before + shown


def test_neighbors_show_the_first_lists_in_a_terminal(twice, tmp_path):
    command = ("neighbors", "-o", "n.csv", "--index", twice, "--preview", "--quiet")

    code, before, shown = on_screen(tmp_path, *command)

    assert code == 0
    assert images_in(shown) == 4
    assert len(re.findall(r"Bitem +1\. 1\.000", shown)) == 2
    assert "\x1b[31m" not in before + shown
    assert [path.name for path in tmp_path.iterdir()] == ["n.csv"]
    assert len((tmp_path / "n.csv").read_text().splitlines()) == 3


def _read(screen: int) -> bytes:
    try:
        return os.read(screen, 1 << 16)
    except OSError:  # the program has ended
        return b""
