"""What the page says, in each of its languages."""

import json
import re
from importlib import resources

import pytest

# By names of colors, and by statuses of answers; a language has those for which the program's words do not do.
MAPS = {"colors", "errors"}
PAGE = resources.files("imgsearch.service") / "page"


def words(language):
    return json.loads((PAGE / f"{language}.json").read_text(encoding="utf-8"))


def gaps(text):
    return sorted(re.findall(r"\{\w+\}", text if isinstance(text, str) else text["other"]))


def test_chinese_says_all_that_english_says_with_the_same_gaps():
    english, chinese = words("en"), words("zh")

    assert list(chinese) == list(english)
    for name in english.keys() - MAPS:
        assert gaps(chinese[name]) == gaps(english[name]), name


@pytest.mark.parametrize("language", ["en", "zh"])
def test_what_the_page_asks_for_is_there_and_nothing_else(language):
    markup, script = ((PAGE / name).read_text(encoding="utf-8") for name in ("index.html", "page.js"))
    computed = {"chosen", "rejected", "judged_chosen", "judged_rejected", "judged_null"} | MAPS
    asked = set(re.findall(r'data-(?:text|label|hint)="(\w+)"', markup)) | set(re.findall(r'say\("(\w+)"', script))
    asked |= set(re.findall(r'[?:] "(\w+)"', script)) & words("en").keys()

    assert asked | computed == words(language).keys()


def test_no_script_style_or_address_elsewhere_is_in_the_markup():
    markup = (PAGE / "index.html").read_text(encoding="utf-8")

    assert re.findall(r"<script(?! type=\"module\" src=\"page/)|<style|\sstyle=|\son\w+=|https?:", markup) == []
