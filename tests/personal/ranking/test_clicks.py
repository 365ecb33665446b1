"""Answers with clicks, of logs and of the service, and what is learned of how people look at places."""

from datetime import UTC, datetime

import numpy as np
import pytest

from imgsearch.personal.events import ClickedAnswer
from imgsearch.personal.feedback import Judgment, Shown
from imgsearch.personal.ranking.clicks import MOST_WEIGHT, Answer, click_weights, learn_eta, newest_answers

VECTOR = np.array([1, 0], np.float32)


def answers(eta: float, count: int = 3000, *, most_clicks: int = 10) -> list[Answer]:
    """Ten products in any order for one of 20 questions; only answers with clicks are known."""
    random = np.random.default_rng(0)
    relevance = random.uniform(0.1, 0.9, (20, 10))
    found = []
    for number in range(count):
        question, order = number % 20, random.permutation(10)
        places = np.arange(1.0, 11.0)
        clicked = random.random(10) < relevance[question, order] * places**-eta
        names = [str(product) for product in order]
        gains = dict.fromkeys([name for name, click in zip(names, clicked, strict=True) if click][:most_clicks], 1.0)
        if gains:
            found.append(Answer(number, f"q{question}", 0, dict(zip(names, range(1, 11), strict=True)), gains))
    return found


@pytest.mark.parametrize("eta", [0.0, 0.6, 1.2])
def test_how_people_look_is_learned_from_the_same_products_at_several_places(eta):
    assert learn_eta(answers(eta)) == pytest.approx(eta, abs=0.15)


def test_nothing_is_learned_of_how_people_look_where_clicks_do_not_tell():
    one_click_each = answers(1, 500, most_clicks=1)
    without_places = [Answer(0, "q", 0, {"a": 0, "b": 0}, {"a": 1.0, "b": 1.0})] * 200
    always_the_same = [Answer(0, "q", 0, {"a": 1, "b": 2}, {"a": 1.0, "b": 1.0})] * 200

    assert [learn_eta(each) for each in ([], one_click_each, without_places, always_the_same)] == [None] * 4


def test_a_click_counts_more_where_people_look_less_but_not_without_a_limit():
    assert click_weights(np.array([0, 1, 4, 1000]), 1.0).tolist() == [1, 1, 4, MOST_WEIGHT]
    assert click_weights(np.array([0, 1, 4, 1000]), 0.0).tolist() == [1, 1, 1, 1]


def test_a_log_without_impressions_does_not_say_what_was_shown():
    shown = ClickedAnswer(1, "lamp", 0, (("a", 1), ("b", 2)), {"b": "buy"})
    clicks_alone = ClickedAnswer(2, "lamp", 0, (("a", 1),), {"a": "click"})

    found = newest_answers([shown, clicks_alone], [], "space")

    assert [answer.shown for answer in found] == [{"a": 1, "b": 2}, {}]
    assert [answer.gains for answer in found] == [{"b": 3.0}, {"a": 1.0}]


def judgment(path: str, verdict: str, space: str = "space", second: int = 3, answer: str = "1") -> Judgment:
    shown = Shown(answer * 32, 1, space, VECTOR, ("a.png", "b.png"))
    return Judgment(shown, path, verdict, "", datetime.fromtimestamp(second, UTC))


def test_hits_chosen_in_the_service_are_clicks_and_those_rejected_are_not():
    log = ClickedAnswer(9_000_000, "lamp", 0, (("a", 1), ("b", 2)), {"b": "click"})
    judgments = [
        judgment("b.png", "rejected"),
        judgment("a.png", "chosen"),
        judgment("a.png", "chosen", second=10, answer="2"),
        judgment("b.png", "chosen", second=11, answer="2"),
        judgment("a.png", "chosen", space="of another encoder", answer="3"),
        judgment("a.png", "rejected", answer="4"),
    ]

    found = newest_answers([log], judgments, "space")

    assert [answer.time for answer in found] == [3_000_000, 9_000_000, 11_000_000]
    assert [answer.gains for answer in found] == [{"a.png": 1}, {"b": 1}, {"a.png": 1, "b.png": 1}]
    assert found[0].shown == {"a.png": 1, "b.png": 2}
    assert (found[0].asked is not None, found[0].user) == (True, None)
