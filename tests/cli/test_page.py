import base64
import hashlib
import re
import shutil
from html.parser import HTMLParser

import cv2
import numpy as np
import pytest

from imgsearch.cli import html


class Page(HTMLParser):
    """What a browser would make of a page: its elements with their attributes, and its text."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.elements, self.text = [], ""
        self.feed(source)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.text += data

    def attributes(self, tag: str, name: str) -> list[str]:
        return [attributes[name] for found, attributes in self.elements if found == tag and name in attributes]


@pytest.fixture
def page_of(imgsearch, small):
    def ask(*arguments: object) -> Page:
        done = imgsearch("query", "--index", small, "--format", "html", *arguments)
        page = Page(done.stdout)
        page.source, page.exit_code = done.stdout, done.returncode
        return page

    return ask


def test_a_page_shows_each_query_and_its_hits_with_their_images(page_of, drawn):
    page = page_of("--top-k", 3, drawn / "cups/cups-00.png", drawn / "fish/fish-01.png")

    images = page.attributes("img", "src")
    assert page.exit_code == 0
    assert len(images) == 2 * 4
    assert "cups/cups-00.png" in page.text
    assert "1.000" in page.text
    shown = cv2.imdecode(np.frombuffer(base64.b64decode(images[0].partition(",")[2]), np.uint8), cv2.IMREAD_COLOR)
    assert shown.shape == (160, 160, 3)


def test_an_image_that_is_found_for_many_queries_is_decoded_once(page_of, drawn, monkeypatch):
    decoded = []
    shown = html.file_thumbnail
    monkeypatch.setattr(html, "file_thumbnail", lambda path, side: decoded.append(path) or shown(path, side))
    html._hit_source.cache_clear()

    page = page_of("--top-k", 24, *sorted(drawn.rglob("*.png"))[:3])

    assert len(page.attributes("img", "src")) == 3 * 25
    assert len(decoded) == 24  # each image of the catalog; the queries were decoded for the search


def test_a_page_says_what_cannot_be_shown(page_of, drawn, tmp_path):
    (tmp_path / "broken.jpg").write_text("no image")

    page = page_of("--top-k", 2, tmp_path / "broken.jpg", tmp_path / "none.jpg", drawn / "cups/cups-00.png")

    assert page.exit_code == 4
    assert "the content is not an image" in page.text
    assert "no such file" in page.text
    assert len(page.attributes("img", "src")) == 1 + 2


def test_a_page_loads_nothing_and_runs_only_its_own_script(page_of, drawn):
    page = page_of(drawn / "cups/cups-00.png")

    policy, _ = page.attributes("meta", "content")
    style, script = (re.findall(f"<{tag}>(.*?)</{tag}>", page.source, re.DOTALL) for tag in ("style", "script"))
    hashes = ["sha256-" + base64.b64encode(hashlib.sha256(each.encode()).digest()).decode() for each in style + script]
    assert policy == (
        f"default-src 'none'; img-src data:; style-src '{hashes[0]}'; script-src '{hashes[1]}';"
        " base-uri 'none'; form-action 'none'"
    )
    assert {source.partition(",")[0] for source in page.attributes("img", "src")} == {"data:image/jpeg;base64"}
    assert re.search(r"https?:|//[a-z]+\.", re.sub(r"base64,[^\"]*", "", page.source)) is None
    assert re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|eval|Function|import", script[0]) is None
    assert re.search(r"@import|url\(", style[0]) is None
    assert not {name for _, attributes in page.elements for name in attributes if name.startswith("on")}


SKELETON = """
html head meta meta meta title style body a.skip header h1 div#controls label input#search label input#size
output#found main#found-images
section figure.query a img figcaption h2.words figure.hit a img figcaption b span.words script
"""


def test_a_page_has_landmarks_headings_and_labels_in_the_order_of_the_keyboard(page_of, drawn):
    page = page_of("--top-k", 1, drawn / "cups/cups-00.png")

    def named(tag: str, attributes: dict[str, str]) -> str:
        mark = f"#{attributes['id']}" if "id" in attributes else f".{attributes.get('class')}"
        return tag + (mark if attributes.keys() & {"id", "class"} else "")

    assert [named(*element) for element in page.elements] == SKELETON.split()
    assert page.attributes("html", "lang") == ["en"]
    assert re.search("<title>(.*)</title>", page.source)[1] == "imgsearch query"
    assert page.attributes("a", "href")[0] == "#found-images"
    assert "hidden" in dict(page.elements)["div"]  # without the script, which shows them, they would do nothing
    assert page.attributes("img", "alt") == [str(drawn / "cups/cups-00.png"), "cups/cups-00.png"]


def test_a_page_is_searched_for_what_stands_below_its_images(imgsearch, drawn, tmp_path):
    shutil.copytree(drawn / "cups", tmp_path / "catalog/cups")
    table = 'path,product,category,title\ncups/cups-00.png,P-1,Kitchen > Cups,Tasse "<Süß>"\n'
    (tmp_path / "shop.csv").write_text(table)
    imgsearch("build-index", "catalog", "--backbone", "handcrafted", "--backend", "exact", "--metadata", "shop.csv")

    page = Page(imgsearch("query", "--format", "html", "-k", 1, "catalog/cups/cups-00.png").stdout)
    plain = imgsearch("query", "--format", "html", "-k", 1, "catalog/cups/cups-01.png").stdout

    assert 'cups/cups-00.png Tasse "<Süß>" P-1 Kitchen > Cups' in page.text
    assert page.attributes("img", "alt")[1] == 'cups/cups-00.png, Tasse "<Süß>", P-1, Kitchen > Cups'
    assert '<span class="words">cups/cups-01.png</span>' in plain  # the defaults say no more than the path


def test_an_image_that_cannot_be_shown_says_so_to_who_cannot_see(page_of, tmp_path):
    (tmp_path / 'broken " onload=x.jpg').write_text("no image")

    page = page_of(tmp_path / 'broken " onload=x.jpg')

    ((_, empty),) = [element for element in page.elements if element[1].get("class") == "none"]
    assert empty["aria-label"] == f'{tmp_path}/broken " onload=x.jpg, cannot be shown'
    assert set(empty) == {"class", "role", "aria-label"}


def luminance(color: str) -> float:
    digits = color[1:] if len(color) == 7 else "".join(2 * digit for digit in color[1:])
    parts = [int(digits[at : at + 2], 16) / 255 for at in (0, 2, 4)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_text_has_the_contrast_that_wcag_asks_for(scheme):
    parts = re.findall(r":root{([^}]*--back[^}]*)}", html.COLORS)
    colors = dict(re.findall(r"--(\w+):(#\w+)", parts[scheme]))

    back = luminance(colors["back"]) + 0.05
    for name in ("text", "soft", "focus", "right", "wrong"):
        other = luminance(colors[name]) + 0.05
        assert max(back, other) / min(back, other) >= 4.5, name


NAMES = (
    "<img src=x onerror=alert(1)>.png",
    "\"'><script>alert(1)</script>.png".replace("/", "\u2215"),
    "javascript:alert(1).png",
    "{{7*7}}.png",
    "line\nbreak\x1b[31m\u202e.png",
    "caf\udce9?#%41.png",
)


@pytest.mark.parametrize("name", NAMES, ids=range(len(NAMES)))
def test_no_name_becomes_markup(imgsearch, drawn, tmp_path, name):
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / name).write_bytes((drawn / "cups/cups-00.png").read_bytes())
    imgsearch("build-index", "odd", "--backbone", "handcrafted", "--backend", "exact")

    done = imgsearch("query", "--format", "html", "--", f"odd/{name}")

    page = Page(done.stdout)
    assert done.returncode == 0
    assert [tag for tag, _ in page.elements if tag in ("script", "iframe")] == ["script"]
    assert len(page.attributes("img", "src")) == 2
    assert all(set(attributes) <= {"src", "alt"} for tag, attributes in page.elements if tag == "img")
    links = page.attributes("a", "href")[1:]
    assert {link[:8] for link in links} == {"file:///"}
    assert re.search(r"[\x00-\x08\x0b-\x1f\x7f\u202e]", done.stdout) is None
    assert all(re.fullmatch(r"[A-Za-z0-9/._~:%-]+", link) for link in links)
