"""The page of `imgsearch serve` in a real browser, by mouse, by touch and by keyboard alone."""

import contextlib
import json
import shutil
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import cv2
import numpy as np
import pytest

from imgsearch.personal.feedback import FeedbackStore
from imgsearch.service.app import make_app
from imgsearch.service.settings import Settings

pytestmark = pytest.mark.browser

CHROMIUM = "/usr/bin/chromium"
SWITCHES = [
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-quic",
]
SCRIPT = "<img src=x onerror=alert(1)>.png"


@pytest.fixture(scope="module")
def served(shop, running, tmp_path_factory):
    """A server of an index that takes feedback: its address, the index, and the bodies that it is sent."""
    index = Path(shutil.copytree(shop / "index", tmp_path_factory.mktemp("served") / "index"))
    bodies = []
    with running(recording(make_app(Settings(index)), bodies)) as client:
        yield Served(f"http://127.0.0.1:{client.port}/", index, bodies)


class Served(NamedTuple):
    address: str
    index: Path
    bodies: list[bytes]


def recording(app, bodies: list[bytes]):
    """Keep the bodies of POST: Chromium does not tell of those that hold files."""

    async def record(scope, receive, send):
        body = []

        async def receive_and_keep():
            message = await receive()
            if message["type"] == "http.request":
                body.append(message.get("body", b""))
                if not message.get("more_body"):
                    bodies.append(b"".join(body))
            return message

        await app(scope, receive_and_keep if scope.get("method") == "POST" else receive, send)

    return record


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=CHROMIUM, args=SWITCHES)
        yield launched
        launched.close()


@pytest.fixture
def visit(served, browser):
    """Open the page as a visitor: visit(locale="zh-CN"). Nothing may be asked elsewhere, nor the console complain.

    With `fails=True` requests may fail, which the console names, too.
    """
    contexts, complaints, addresses = [], [], []

    def complain(text: str, *, fails: bool) -> None:
        if not (fails and text.startswith("Failed to load resource")):
            complaints.append(text)

    def visit(*, fails=False, **options):
        context = browser.new_context(**{"locale": "en-US", "viewport": {"width": 1280, "height": 900}, **options})
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: complain(message.text, fails=fails))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: addresses.append(request.url))
        page.goto(served.address)
        page.wait_for_selector("#main:not([hidden])")
        page.bodies = served.bodies
        return page

    yield visit
    for context in contexts:
        context.close()
    home = urlsplit(served.address).netloc
    assert [address for address in addresses if urlsplit(address).netloc != home] == []
    assert complaints == []


@pytest.fixture
def page(visit):
    return visit()


@pytest.fixture(scope="session")
def photo(shop, tmp_path_factory) -> Path:
    """A photo of two products side by side, larger than what is uploaded."""
    pixels = np.full((900, 1600, 3), 235, np.uint8)
    files = sorted((shop / "catalog").rglob("*.png"))
    for left, file in ((200, files[0]), (1000, files[-1])):
        pixels[250:650, left : left + 400] = cv2.resize(pixels_of(file), (400, 400))
    file = tmp_path_factory.mktemp("photo") / "photo.jpg"
    cv2.imwrite(str(file), pixels)
    return file


@pytest.fixture(scope="session")
def product(shop) -> Path:
    """A file of the catalog."""
    return min((shop / "catalog").rglob("*.png"))


def pixels_of(file: Path) -> np.ndarray:
    return cv2.imdecode(np.fromfile(file, np.uint8), cv2.IMREAD_COLOR)


def ask(page, action, method="POST", path="search"):
    """Do what makes the page ask the server, and wait for the answer: what was sent, and the answer."""
    before = len(page.bodies)
    with page.expect_response(lambda each: each.request.method == method and f"/{path}" in each.url) as caught:
        action()
    page.wait_for_selector("#answer:not([aria-busy=true])")
    return b"".join(page.bodies[before : before + 1]), caught.value


def choose(page, file):
    """Choose a file, and wait until the items in it are found, too."""
    found = ask(page, lambda: page.set_input_files("#pick", file))
    page.wait_for_load_state("networkidle")
    return found


def hits(page) -> list[str]:
    return page.locator("#hits h3").all_text_contents()


def fields(body: bytes) -> dict[str, str]:
    """The fields of a form that was sent, without its image."""
    return {name: value.decode() for name, value in parts(body).items() if name != "image"}


def uploaded(body: bytes) -> np.ndarray:
    """The image that was sent in a form."""
    return cv2.imdecode(np.frombuffer(parts(body)["image"], np.uint8), cv2.IMREAD_COLOR)


def parts(body: bytes) -> dict[str, bytes]:
    boundary = body.partition(b"\r\n")[0]
    found = {}
    for part in body.split(boundary)[1:-1]:
        head, _, value = part.partition(b"\r\n\r\n")
        found[head.partition(b'name="')[2].partition(b'"')[0].decode()] = value.removesuffix(b"\r\n")
    return found


def violations(page) -> list[str]:
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(page).response["violations"]
    return [f"{each['id']}: {each['nodes'][0]['html']}" for each in found]


def test_a_picture_that_is_chosen_is_scaled_down_and_its_hits_show_what_the_index_has(page, photo):
    sent, answer = choose(page, photo)

    assert max(uploaded(sent).shape) == 1024
    found = answer.json()["hits"]
    for title, hit in zip(hits(page), found, strict=True):
        assert title == hit["metadata"].get("title", title)
    first = page.locator("#hits li").first
    assert f"Score {found[0]['score']:.2f}" in first.inner_text()
    assert str(found[0]["metadata"]["price"]) in first.inner_text()
    assert first.locator("img").evaluate("image => image.complete && image.naturalWidth > 0")


def test_a_picture_that_is_small_is_sent_as_it_is(page, product):
    sent, _ = choose(page, product)

    assert parts(sent)["image"] == product.read_bytes()


@pytest.mark.parametrize("event", ["paste", "drop"])
def test_a_picture_can_be_pasted_and_dropped(page, product, event):
    script = """async ([event, bytes]) => {
        const data = new DataTransfer();
        data.items.add(new File([new Uint8Array(bytes)], "photo.png", { type: "image/png" }));
        const options = { bubbles: true, clipboardData: data, dataTransfer: data };
        const Kind = event === "drop" ? DragEvent : ClipboardEvent;
        document.body.dispatchEvent(new Kind(event, options));
    }"""

    sent, _ = ask(page, lambda: page.evaluate(script, [event, list(product.read_bytes())]))

    assert parts(sent)["image"] == product.read_bytes()
    assert hits(page)


def test_a_picture_that_the_browser_cannot_read_is_sent_as_it_is(page, product, tmp_path):
    file = tmp_path / "photo.tif"
    cv2.imwrite(str(file), pixels_of(product))

    sent, _ = choose(page, file)

    assert parts(sent)["image"] == file.read_bytes()
    assert page.locator("#undrawn").is_visible()
    assert page.locator("#stage").is_hidden()
    assert hits(page)


def test_what_is_not_a_picture_is_refused_in_the_words_of_the_server(visit, tmp_path):
    page = visit(fails=True)
    file = tmp_path / "photo.jpg"
    file.write_bytes(b"no picture")

    _, answer = choose(page, file)

    assert answer.status == 422
    assert answer.json()["detail"] in page.get_by_role("alert").inner_text()
    assert hits(page) == []


def test_items_that_are_found_in_a_picture_can_be_searched_one_by_one(page, photo):
    choose(page, photo)
    items = page.locator(".found")
    items.first.wait_for()
    assert items.count() >= 1

    sent, _ = ask(page, items.first.click)

    x, y, width, height = map(int, fields(sent)["box"].split(","))
    assert x + width <= 1024
    assert y + height <= 576
    assert page.locator("#box").is_visible()
    assert page.evaluate("document.activeElement.id") == "box"


def test_a_box_is_drawn_moved_and_resized_by_mouse(page, photo):
    choose(page, photo)
    frame = page.locator("#stage").bounding_box()

    def at(x, y):
        return frame["x"] + x * frame["width"], frame["y"] + y * frame["height"]

    def drag(start, end, steps=4):
        page.mouse.move(*at(*start))
        page.mouse.down()
        page.mouse.move(*at(*end), steps=steps)
        page.mouse.up()

    drawn = box_of(ask(page, lambda: drag((0.1, 0.25), (0.4, 0.75)))[0])
    moved = box_of(ask(page, lambda: drag((0.25, 0.5), (0.35, 0.5)))[0])
    corner = ((moved[0] + moved[2] - 2) / 1024, (moved[1] + moved[3] - 2) / 576)
    resized = box_of(ask(page, lambda: drag(corner, (0.9, 0.9)))[0])
    ask(page, page.locator("#whole").click)
    fast = box_of(ask(page, lambda: drag((0.5, 0.5), (0.7, 1.5), steps=1))[0])

    assert drawn == pytest.approx([102, 144, 307, 288], abs=6)
    assert moved == pytest.approx([205, 144, 307, 288], abs=6)
    assert resized == pytest.approx([205, 144, 717, 374], abs=8)
    assert fast == pytest.approx([512, 288, 205, 288], abs=6)


def box_of(body) -> list[int]:
    return [int(each) for each in fields(body)["box"].split(",")]


def test_a_box_is_marked_moved_and_resized_by_keyboard_and_taken_away(page, photo):
    choose(page, photo)

    page.locator("#mark").focus()
    marked = box_of(ask(page, lambda: page.keyboard.press("Enter"))[0])
    moved = box_of(ask(page, lambda: page.keyboard.press("ArrowRight"))[0])
    resized = box_of(ask(page, lambda: page.keyboard.press("Shift+ArrowUp"))[0])
    whole, _ = ask(page, lambda: page.keyboard.press("Escape"))

    assert marked == [256, 144, 512, 288]
    assert moved == [276, 144, 512, 288]
    assert resized == [276, 144, 512, 268]
    assert "box" not in fields(whole)
    assert page.evaluate("document.activeElement.id") == "mark"


def test_filters_narrow_the_hits_until_they_are_cleared(page, photo):
    choose(page, photo)
    before = hits(page)

    ask(page, lambda: page.select_option("#category", "balls"))
    assert {name.split()[0] for name in hits(page)} == {"balls"}
    ask(page, lambda: page.select_option("#color", "black"))
    ask(page, page.locator("#reset").click)
    assert hits(page) == before
    page.fill("#high", "12")
    _, answer = ask(page, lambda: page.keyboard.press("Tab"))
    assert {hit["metadata"]["price"] for hit in answer.json()["hits"]} == {10, 11, 12}


def test_words_are_searched_alone_and_beside_a_part_of_a_picture(page, photo):
    page.locator("#use-feedback").check()
    page.fill("#text", "balls")
    sent, _ = ask(page, lambda: page.keyboard.press("Enter"))
    assert json.loads(sent)["text"] == ["balls"]
    assert hits(page)[0].startswith("balls")
    assert page.locator("#hits .verdict").first.is_hidden()  # feedback is about pictures

    choose(page, photo)
    sent, answer = ask(page, page.locator("#mark").click)
    assert answer.status == 200
    assert fields(sent)["text"] == "balls"
    assert uploaded(sent).shape == (288, 512, 3)


def test_a_picture_is_removed_to_ask_in_words_alone(page, photo):
    choose(page, photo)
    page.locator("#remove").click()
    assert hits(page) == []
    assert page.locator("#stage").is_hidden()
    assert page.locator("#drop-hint").is_visible()
    assert page.evaluate("document.activeElement.id") == "text"

    page.fill("#text", "balls")
    sent, _ = ask(page, lambda: page.keyboard.press("Enter"))
    assert json.loads(sent)["text"] == ["balls"]


def test_an_answer_that_comes_late_does_not_take_the_place_of_a_newer_one(visit, photo, product):
    page = visit(fails=True)
    held = []
    page.route("**/search", lambda route: route.continue_() if held else held.append(route))
    page.set_input_files("#pick", photo)
    page.locator("#answer[aria-busy=true]").wait_for()

    _, answer = choose(page, product)
    held[0].fulfill(json={**answer.json(), "hits": []})
    page.evaluate("fetch('index').then(response => response.json())")  # which ends after it

    assert len(hits(page)) == len(answer.json()["hits"]) > 0


def test_more_like_a_hit_is_asked_by_its_address_and_the_reader_is_led_to_the_hits(page, photo):
    choose(page, photo)
    first = hits(page)[0]

    _, answer = ask(page, page.locator("#hits .more").first.click, "GET", "similar")

    assert first not in hits(page)
    assert len(hits(page)) == len(answer.json()["hits"])
    assert first in page.locator("#status").inner_text()
    page.wait_for_function("document.activeElement.id === 'hits-heading'")


def test_feedback_is_kept_taken_back_used_and_deleted(page, served, photo):
    from playwright.sync_api import expect

    choose(page, photo)
    good, bad = (page.locator("#hits .verdict").nth(number) for number in (0, 3))

    for each in (good, bad):
        ask(page, each.click, path="feedback")
        expect(each).to_have_attribute("aria-pressed", "true")
    assert sorted(judged(served.index)) == ["chosen", "rejected"]
    ask(page, bad.click, path="feedback")
    expect(bad).to_have_attribute("aria-pressed", "false")
    assert judged(served.index) == ["chosen"]
    sent, answer = ask(page, page.locator("#use-feedback").check)
    assert answer.status == 200
    assert fields(sent)["feedback"] == "true"
    page.once("dialog", lambda dialog: dialog.accept())
    ask(page, page.locator("#forget").click, "DELETE", "feedback/session")
    assert judged(served.index) == []
    expect(page.locator("#status")).to_contain_text("1 judgment deleted")


def test_of_two_judgments_in_a_row_the_last_one_counts(page, served, photo):
    from playwright.sync_api import expect

    choose(page, photo)
    held = []
    page.route("**/feedback", lambda route: route.continue_() if held else held.append(route))
    good, bad = (page.locator("#hits .verdict").nth(number) for number in (0, 1))
    with page.expect_request("**/feedback"):
        good.click()
    bad.click()
    held[0].continue_()

    expect(bad).to_have_attribute("aria-pressed", "true")
    expect(good).to_have_attribute("aria-pressed", "false")
    assert judged(served.index) == ["rejected"]
    ask(page, bad.click, path="feedback")


def judged(index) -> list[str]:
    with FeedbackStore(index) as store:
        return [each.verdict for each in store.judgments()]


def test_hits_are_compared_side_by_side(page, photo):
    choose(page, photo)
    for number in (0, 2):
        page.locator("#hits .pick").nth(number).check()
    titles = [hits(page)[number] for number in (0, 2)]

    page.locator("#compare").click()

    dialog = page.get_by_role("dialog")
    assert dialog.get_by_role("columnheader").all_text_contents() == titles
    assert dialog.get_by_role("img").count() == 2
    assert {"Score", "Price", "File"} <= set(dialog.get_by_role("rowheader").all_text_contents())
    page.set_viewport_size({"width": 375, "height": 740})
    second = dialog.get_by_role("columnheader").last.bounding_box()
    assert second["x"] + second["width"] <= 375  # beside the first one on a phone, too
    page.keyboard.press("Escape")
    assert page.evaluate("document.activeElement.id") == "compare"
    page.locator("#unpick").click()
    assert page.locator("#picked").is_hidden()


def test_hostile_names_and_words_are_shown_as_they_are(page):
    page.on("dialog", lambda dialog: pytest.fail(dialog.message))
    words = "hostile <img src=x onerror=alert(2)>"
    page.fill("#text", words)
    ask(page, lambda: page.keyboard.press("Enter"))
    assert hits(page)[0] == "<b>hostile</b> & co"

    page.locator("#hits .pick").first.check()
    page.locator("#compare").click()

    assert SCRIPT in page.get_by_role("dialog").inner_text()
    page.keyboard.press("Escape")
    ask(page, page.locator("#hits .more").first.click, "GET", "similar")
    assert page.locator("b, img[src=x], [onerror]").count() == 0


def test_items_with_odd_names_are_shown_judged_and_asked_with(page, photo):
    choose(page, photo)
    ask(page, lambda: page.select_option("#category", "odd"))
    page.wait_for_load_state("networkidle")
    for image in page.locator("#hits img").all():
        image.scroll_into_view_if_needed()
        assert image.evaluate("async image => { await image.decode(); return image.naturalWidth > 0; }")
    for number, count in enumerate([len(hits(page))] * len(hits(page))):
        _, answer = ask(page, page.locator("#hits .verdict[value=chosen]").nth(number).click, path="feedback")
        assert answer.status == 204
        _, answer = ask(page, page.locator("#hits .more").nth(number).click, "GET", "similar")
        assert answer.status == 200
        ask(page, lambda: page.set_input_files("#pick", photo))
        assert len(hits(page)) == count


def test_everything_can_be_done_by_keyboard_alone(page, photo):
    page.on("filechooser", lambda _: None)  # which is told to the browser long before the key is pressed

    def tab_to(selector):
        for _ in range(200):
            page.keyboard.press("Tab")
            if page.evaluate("selector => document.activeElement.matches(selector)", selector):
                return
        pytest.fail(f"no way to {selector}")

    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    tab_to("#pick")
    with page.expect_file_chooser() as chooser:
        page.keyboard.press("Enter")
    ask(page, lambda: chooser.value.set_files(photo))
    tab_to("#category")
    ask(page, lambda: page.keyboard.press("ArrowDown"))
    tab_to("#hits .pick")
    page.keyboard.press("Space")
    tab_to("#compare")
    page.keyboard.press("Enter")
    assert page.get_by_role("dialog").is_visible()
    page.keyboard.press("Escape")
    page.locator("#answer").evaluate("element => element.querySelector('h2').focus()")
    tab_to("#hits .verdict")
    ask(page, lambda: page.keyboard.press("Space"), path="feedback")
    page.locator("#answer").evaluate("element => element.querySelector('h2').focus()")
    tab_to("#hits .more")
    ask(page, lambda: page.keyboard.press("Enter"), "GET", "similar")
    assert hits(page)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"color_scheme": "dark"},
        {"viewport": {"width": 360, "height": 740}, "has_touch": True, "is_mobile": True},
        {"locale": "zh-CN", "forced_colors": "active"},
    ],
    ids=["light", "dark", "phone", "chinese"],
)
def test_axe_finds_no_violation_and_nothing_is_wider_than_the_window(visit, photo, tmp_path, options):
    page = visit(**options)
    found = {"start": violations(page)}
    page.locator("#filters").evaluate("element => { element.open = true; }")
    choose(page, photo)
    page.locator(".found").first.wait_for()
    found["hits"] = violations(page)
    ask(page, page.locator("#mark").click)
    page.locator("#hits .pick").first.check()
    ask(page, page.locator("#hits .verdict").first.click, path="feedback")
    found["judged"] = violations(page)
    wide = page.evaluate("document.documentElement.scrollWidth > window.innerWidth")
    page.locator("#compare").click()
    found["side by side"] = violations(page)
    page.keyboard.press("Escape")
    (tmp_path / "no.txt").write_text("no picture")
    page.set_input_files("#pick", tmp_path / "no.txt")
    page.get_by_role("alert").wait_for()
    found["error"] = violations(page)

    assert found == {state: [] for state in found}
    assert not wide


def test_the_page_follows_dark_mode_and_reduced_motion(visit):
    def look(page):
        script = """() => [getComputedStyle(document.body).backgroundColor,
            getComputedStyle(document.querySelector("button")).transitionDuration]"""
        return page.evaluate(script)

    light, dark = look(visit()), look(visit(color_scheme="dark", reduced_motion="reduce"))

    assert light[0] == "rgb(255, 255, 255)"
    assert dark == ["rgb(23, 25, 28)", "0s"]


def test_a_phone_is_offered_its_camera(visit):
    page = visit(viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True)

    assert page.get_by_text("Take a photo").is_visible()
    assert page.locator("#photograph").get_attribute("capture") == "environment"


def test_the_page_speaks_the_first_language_of_the_browser_that_it_knows(visit):
    chinese, french = visit(locale="zh-CN"), visit(locale="fr-FR")

    assert chinese.evaluate("document.documentElement.lang") == "zh-Hans"
    assert chinese.get_by_text("选择图片").is_visible()
    assert french.evaluate("document.documentElement.lang") == "en"
    assert french.get_by_text("Choose a picture").is_visible()


@pytest.mark.parametrize(
    ("locale", "status", "problem", "words"),
    [
        ("en-US", 422, '{"detail": "SVG is not supported", "hint": "save it as PNG"}', "SVG is not supported (save it"),
        ("en-US", 413, "<h1>from a proxy</h1>", "This picture is too large"),
        ("en-US", 502, "<h1>from a proxy</h1>", "The server refused this (status 502)."),
        ("en-US", 200, "<h1>Log in</h1>", "The server does not answer. Is it running?"),
        ("zh-CN", 422, '{"detail": "SVG is not supported"}', "无法使用此图片"),
    ],
    ids=["hint", "too large", "of a proxy", "no answer", "chinese"],
)
def test_what_the_server_refuses_is_said_where_it_is_seen(visit, photo, locale, status, problem, words):
    page = visit(fails=True, locale=locale, viewport={"width": 360, "height": 500})
    page.route("**/search", lambda route: route.fulfill(status=status, body=problem))

    page.set_input_files("#pick", photo)

    page.get_by_role("alert").wait_for()
    assert words in page.get_by_role("alert").inner_text()
    below = page.evaluate("document.querySelector('#error').getBoundingClientRect().bottom - innerHeight")
    assert below < 1


def test_a_page_that_did_not_load_as_a_whole_says_so(browser, served):
    with contextlib.closing(browser.new_page(locale="en-US")) as page:
        page.route("**/page/en.json", lambda route: route.fulfill(status=429, body='{"status": 429}'))
        with page.expect_event("pageerror"):
            page.goto(served.address)
        page.evaluate("document.getAnimations().forEach(each => each.finish())")

        assert page.get_by_text("Load it again").is_visible()


def test_a_server_that_is_gone_is_named(visit, photo):
    page = visit(fails=True)
    page.route("**/search", lambda route: route.abort())

    page.set_input_files("#pick", photo)

    page.get_by_text("The server does not answer. Is it running?").wait_for()
