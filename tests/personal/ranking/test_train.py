"""Learning an order from clicks: what is learned, when it is published, and what is refused."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from imgsearch import Index
from imgsearch.cli import main
from imgsearch.errors import GateError, UsageError
from imgsearch.personal.event_store import EventStore
from imgsearch.personal.events import DEFAULT_WEIGHTS, Event
from imgsearch.personal.feedback import FeedbackStore, Shown, space_of
from imgsearch.personal.ranking.order import learned_order
from imgsearch.personal.ranking.past import Past
from imgsearch.personal.ranking.train import train_ranking
from imgsearch.personal.recommend.history import history_of
from imgsearch.search.views import Indexed
from imgsearch.store import generations

PRODUCTS = 60
DAY = 86_400_000_000
START = 1_700_000_000_000_000


def product(number: int) -> str:
    return f"{number:05d}"


@pytest.fixture(scope="module", autouse=True)
def _key(tmp_path_factory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("IMGSEARCH_EVENTS_KEY", str(tmp_path_factory.mktemp("key") / "events.key"))
        yield


@pytest.fixture
def shop(store_index, unit, tmp_path) -> Path:
    """An index whose products have prices that have nothing to do with how they look."""
    vectors = unit(np.random.default_rng(1).normal(size=(PRODUCTS, 8)))
    return store_index(tmp_path / "shop", vectors, metadata=[{"price": number} for number in range(PRODUCTS)])


def log_of_answers(directory: Path, count: int, *, likes_cheap: bool = True, seed: int = 0) -> list[tuple[str, Event]]:
    """People look at the first places most, and click what is cheap; or anything."""
    random = np.random.default_rng(seed)
    log = []
    with Index.open(directory) as index:
        for number in range(count):
            query, time = product(int(random.integers(6))), START + number * DAY // 10
            hits = index.search_item(query, 10)
            for place, hit in enumerate([hits[shown] for shown in random.permutation(10)], start=1):
                details = {"query": query, "position": place, "session": str(number)}
                log.append((f"u{number % 7}", Event(time, "view", hit.product, **details)))
                relevance = 0.9 * (int(hit.product) < PRODUCTS / 3) if likes_cheap else 0.3
                if random.random() < relevance / place**0.5:
                    log.append((f"u{number % 7}", Event(time + place, "click", hit.product, **details)))
    return log


def keep(directory: Path, log: list[tuple[str, Event]]) -> None:
    with EventStore(directory) as store:
        store.add(log)


def test_what_people_click_comes_first_once_it_was_learned(shop, capsys):
    keep(shop, log_of_answers(shop, 220))

    code = main(["train", "--objective", "rank", "--learner", "linear", "--index", str(shop), "-q"])

    assert (code, capsys.readouterr().err) == (0, "")
    with Index.open(shop) as index:
        facts = index.manifest.ranking
        hits = index.search_item(product(5), 20)
        ordered = learned_order(index)(hits, index.views(Indexed("00005")))
        prices = [int(hit.product) for hit in ordered]
    assert facts is not None
    assert (facts.learner, facts.gain > 0) == ("linear", True)
    assert facts.eta == pytest.approx(0.5, abs=0.3)
    assert np.mean(prices[:5]) < np.mean(prices[5:])
    assert max(prices[:3]) < PRODUCTS / 3


def test_an_order_that_does_not_help_is_not_published(shop):
    keep(shop, log_of_answers(shop, 150, likes_cheap=False))

    with pytest.raises(GateError, match="does not help"):
        train_ranking(shop, learner="linear")

    assert generations.read_manifest(shop).generation == 1


def test_too_few_answers_with_clicks_are_refused_with_their_number(shop):
    keep(shop, [(user, event) for user, event in log_of_answers(shop, 30) if int(event.session or 0) < 20])

    with pytest.raises(UsageError, match=r"at least 100 answers with clicks to learn from, found (1\d|20)$"):
        train_ranking(shop, learner="linear")


def test_answers_about_what_is_not_in_the_catalog_do_not_count(shop):
    log = [
        (user, Event(event.time, event.kind, event.product, f"gone-{event.query}", event.position, event.session))
        for user, event in log_of_answers(shop, 160)
    ]
    keep(shop, log)

    with pytest.raises(UsageError, match="found 0 of 1"):
        train_ranking(shop, learner="linear")


def test_hits_chosen_in_the_service_teach_as_clicks_do(shop):
    random = np.random.default_rng(0)
    with Index.open(shop) as index, FeedbackStore(shop) as store:
        for number in range(130):
            vector = index.nearest.vectors[int(random.integers(PRODUCTS))]
            hits = index.search_vector(vector, 10)
            shown = Shown(f"{number:032x}", 1, space_of(index.manifest), vector, tuple(hit.path for hit in hits))
            for hit in [hit for hit in hits if int(hit.product) < PRODUCTS / 3][:1]:
                store.judge(shown, hit.path, "chosen")

    report = train_ranking(shop, learner="linear")

    assert (report.facts.answers > 100, report.gain.low > 0) == (True, True)
    assert not report.has_places  # every question was asked once: nothing was at several places
    assert report.generation == 2


def test_options_of_other_objectives_are_refused(shop, capsys):
    assert main(["train", "--objective", "rank", "--index", str(shop), "--epochs", "3"]) == 2
    assert "--epochs has no effect on --objective rank" in capsys.readouterr().err
    assert main(["train", "--objective", "recommend", "--index", str(shop), "--learner", "linear"]) == 2
    assert "--learner has no effect on --objective recommend" in capsys.readouterr().err
    assert main(["train", "photos", "-o", "m.keras", "--learner", "linear"]) == 2
    assert capsys.readouterr().err.endswith("hint: it is for rank\n")


def test_the_past_of_a_time_knows_nothing_later(shop):
    log = [
        ("anna", Event(START, "buy", "00001")),
        ("anna", Event(START + DAY, "view", "00002", "lamp", 3)),  # an impression
        ("bert", Event(START + 10 * DAY, "click", "00001.png")),
        ("anna", Event(START + 20 * DAY, "return", "00003")),
    ]
    keep(shop, log)
    with Index.open(shop) as index, EventStore(shop) as store:
        events = store.arrays()
        past = Past(index.items, events, DEFAULT_WEIGHTS, 10.0)
        anna = int(events.users[0])
        rows = np.array([1, 2, 3])
        time = START + 10 * DAY
        history = past.history(anna, START + 30 * DAY)
        expected = history_of(store.of_user("anna"), index.items, DEFAULT_WEIGHTS, 10.0, START + 30 * DAY)

        assert past.popularity(rows, START).tolist() == [0, 0, 0]
        assert past.popularity(rows, time) == pytest.approx([4, 0, 0])
        assert past.popularity(rows, time + 10 * DAY) == pytest.approx([3, 0, 0])
        assert past.popularity(rows, time + 20 * DAY) == pytest.approx([1.5, 0, 0])  # never below 0
    assert len(past.history(anna, START)) == len(past.history(None, time)) == 0
    assert history.rows.tolist() == expected.rows.tolist() == [1, 3]
    assert history.weights == pytest.approx(expected.weights)
