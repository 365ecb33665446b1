import base64
import hashlib
import re
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
    tile = html.tile
    monkeypatch.setattr(html, "tile", lambda data, boxes=(): decoded.append(data) or tile(data, boxes))
    html._hit_tile.cache_clear()

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


def test_a_page_loads_and_runs_nothing(page_of, drawn):
    page = page_of(drawn / "cups/cups-00.png")

    (policy,) = page.attributes("meta", "content")
    style = re.search(r"<style>(.*)</style>", page.source, re.DOTALL)[1]
    assert "default-src 'none'" in policy
    assert base64.b64encode(hashlib.sha256(style.encode()).digest()).decode() in policy
    assert {source.partition(",")[0] for source in page.attributes("img", "src")} == {"data:image/jpeg;base64"}
    assert {tag for tag, _ in page.elements} <= {
        *("html", "head", "meta", "title", "style", "body", "section", "figure", "a", "img", "figcaption", "b"),
    }


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
    assert {tag for tag, _ in page.elements if tag in ("script", "iframe")} == set()
    assert len(page.attributes("img", "src")) == 2
    assert all(set(attributes) <= {"src", "alt"} for tag, attributes in page.elements if tag == "img")
    assert {link[:8] for link in page.attributes("a", "href")} == {"file:///"}
    assert re.search(r"[\x00-\x08\x0b-\x1f\x7f\u202e]", done.stdout) is None
    assert all(re.fullmatch(r"[A-Za-z0-9/._~:%-]+", link) for link in page.attributes("a", "href"))
