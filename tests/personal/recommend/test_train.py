"""Learning from events what to recommend: what is chosen on the last week, what is learned, and what is refused."""

import io
import shutil
from collections.abc import Iterator
from dataclasses import astuple
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imgsearch import Index, check
from imgsearch.cli import main
from imgsearch.errors import LockedError, RefusedError, UsageError
from imgsearch.evaluation.metrics import measures
from imgsearch.personal.event_store import EVENTS_FILE, EventStore
from imgsearch.personal.events import DEFAULT_WEIGHTS, KINDS, Event, EventArrays
from imgsearch.personal.recommend import choice
from imgsearch.personal.recommend import train as learn_recommend
from imgsearch.personal.recommend.choice import DEFAULT_BLEND, held_out_from, ndcg, people_of
from imgsearch.personal.recommend.history import DAY, history_of
from imgsearch.personal.recommend.recommender import DEFAULT_HALF_LIFE, Recommender, blended, personal_scores
from imgsearch.personal.recommend.train import train_recommend
from imgsearch.personal.recommend.wants import Deeds, deeds_of, popularity_of, wants_of
from imgsearch.personal.user_names import hashed, key_path, read_key
from imgsearch.store import generations
from imgsearch.store.locking import writer_lock

PRODUCTS, GROUPS, PEOPLE = 120, 6, 60
START = 1_700_000_000_000_000

# Day, user, kind, product.
Log = list[tuple[float, str, str, str]]


def product(number: int) -> str:
    return f"{number:05d}"


def arrays_of(log: Log) -> EventArrays:
    users = {user: place for place, user in enumerate(dict.fromkeys(user for _, user, _, _ in log))}
    names = {name: place for place, name in enumerate(dict.fromkeys(name for _, _, _, name in log))}
    rows = sorted(
        (START + int(day * DAY), users[user], names[name], KINDS.index(kind)) for day, user, kind, name in log
    )
    columns = np.array(rows, np.int64).reshape(-1, 4).T
    return EventArrays(
        columns[0],
        *(column.astype(np.int32) for column in columns[1:3]),
        columns[3].astype(np.int8),
        np.zeros(len(rows), np.int32),
        tuple(names),
    )


def store_log(directory: Path, log: Log) -> None:
    with EventStore(directory) as store:
        store.add((user, Event(START + int(day * DAY), kind, name)) for day, user, kind, name in log)


def grouped_log(seed: int = 0) -> Log:
    """People of a group want products of the group, eight of them before the last week and two in it."""
    generator = np.random.default_rng(seed)
    log: Log = []
    for person in range(PEOPLE):
        chosen = person % GROUPS + GROUPS * generator.choice(PRODUCTS // GROUPS, 10, replace=False)
        days = np.append(generator.uniform(0, 50, 8), generator.uniform(54, 60, 2))
        log += [(day, f"u{person}", "buy", product(number)) for day, number in zip(days, chosen, strict=True)]
    return [*log, (0, "u0", "view", product(0)), (60, "u0", "view", product(0))]


def few_people() -> Log:
    return [each for each in grouped_log() if int(each[1][1:]) < 40]


@pytest.fixture(scope="module", autouse=True)
def _key(tmp_path_factory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("IMGSEARCH_EVENTS_KEY", str(tmp_path_factory.mktemp("key") / "events.key"))
        yield


@pytest.fixture(scope="module")
def groups(store_index, unit, tmp_path_factory) -> Path:
    """An index whose vectors say nothing of what people want. Not to be changed."""
    vectors = unit(np.random.default_rng(1).normal(size=(PRODUCTS, 8)))
    return store_index(tmp_path_factory.mktemp("groups") / "index", vectors)


@pytest.fixture(scope="module")
def looks(store_index, unit, tmp_path_factory) -> Path:
    """An index whose products of a group look alike. Not to be changed."""
    centers = np.random.default_rng(1).normal(size=(GROUPS, 8))
    noise = np.random.default_rng(2).normal(0, 0.1, (PRODUCTS, 8))
    vectors = unit(centers[np.arange(PRODUCTS) % GROUPS] + noise)
    return store_index(tmp_path_factory.mktemp("looks") / "index", vectors)


def learned_from(directory: Path, log: Log, **options):
    with Index.open(directory) as index:
        return learn_recommend.learn_recommend(index, arrays_of(log), DEFAULT_WEIGHTS, **options)


def saved(learned) -> bytes:
    file = io.BytesIO()
    learned.model.save(file)
    return file.getvalue()


@pytest.fixture(scope="module")
def of_groups(groups):
    return learned_from(groups, grouped_log())


def test_what_the_same_people_want_counts_most_where_looks_say_nothing(of_groups):
    facts = of_groups.facts

    assert facts.blend.collaborative > max(facts.blend.content, facts.blend.popular)
    assert facts.gain > 0.1
    assert (facts.queries, facts.users, facts.products, facts.learner) == (PEOPLE, PEOPLE, PRODUCTS, "ease")
    assert (facts.events, facts.newest) == (10 * PEOPLE + 2, START + 60 * DAY)


def test_what_products_look_like_counts_where_no_two_people_want_the_same(looks):
    log: Log = []
    for person in range(60):  # two products each, both of one group, that nobody else has
        first = person % GROUPS + GROUPS * 2 * (person // GROUPS)
        log += [(person % 40, f"u{person}", "buy", product(first)), (58, f"u{person}", "buy", product(first + GROUPS))]

    facts = learned_from(looks, [*log, (60, "u0", "view", product(0))]).facts

    assert facts.queries == 60
    assert facts.blend.content > 0
    assert facts.blend.popular < DEFAULT_BLEND.popular
    assert facts.gain > 0.1


def test_popular_alone_is_taken_if_it_is_best_but_not_where_new_products_suffer():
    overall = np.zeros((60, len(choice._BLENDS)))
    overall[:, choice._BLENDS.index(choice._POPULAR)] = 0.5
    of_new = np.zeros((49, len(choice._BLENDS)))
    of_new[:, choice._BLENDS.index(choice._CONTENT)] = 0.2

    best, mean = choice._best(overall, of_new)
    other, _ = choice._best(overall, np.concatenate([of_new, of_new]))
    of_equals, _ = choice._best(overall[:, :-1] * 0, of_new)

    assert (choice._BLENDS[best], mean) == (choice._POPULAR, 0.5)
    assert choice._BLENDS[other] == choice._CONTENT
    assert choice._BLENDS[of_equals] == DEFAULT_BLEND


def test_the_last_week_is_held_out_and_of_a_short_log_the_last_quarter():
    def deeds(*days: float) -> Deeds:
        times = np.array([START + int(day * DAY) for day in days], np.int64)
        return Deeds(times, times * 0, times * 0, times * 1.0, np.array([0]))

    assert held_out_from(deeds(0, 30, 60)) == START + 53 * DAY
    assert held_out_from(deeds(0, 20)) == START + 15 * DAY
    assert held_out_from(deeds(3)) == START + 3 * DAY


def test_the_choice_is_by_people_who_came_back_and_wanted_something_else(groups):
    log = grouped_log()
    log += [(59, "u1", "buy", name) for day, user, _, name in log if user == "u1" and day < 50]  # nothing new
    log += [(59, "u2", "return", name) for day, user, _, name in log if user == "u2" and day > 53]  # wanted no more
    log += [(58, "late", "buy", product(3))]  # nothing before
    with Index.open(groups) as index:
        deeds = deeds_of(index.items, arrays_of(log), DEFAULT_WEIGHTS)
    start = held_out_from(deeds)

    people = people_of(deeds.taken(deeds.times <= start), deeds.taken(deeds.times > start), PRODUCTS, 0)

    assert len(people) == PEOPLE - 1  # without u2 and the late one
    for person in people:
        assert person.before.times.max() <= start
        assert len(person.wanted) == 2
        assert not set(person.wanted) & set(person.had)


def test_with_too_few_people_nothing_is_chosen(groups):
    facts = learned_from(groups, few_people()).facts

    assert (facts.blend, facts.half_life) == (DEFAULT_BLEND, DEFAULT_HALF_LIFE)
    assert (facts.queries, facts.gain, facts.users) == (0, 0, 40)


def test_the_same_seed_learns_the_same_and_progress_is_told(groups, of_groups):
    told = []
    again = learned_from(groups, grouped_log(), progress=lambda *each: told.append(each))

    assert again.facts == of_groups.facts
    assert saved(again) == saved(of_groups)
    assert {stage for stage, _, _ in told} == {"recommend"}
    assert [done for _, done, _ in told] == list(range(told[0][2]))


def test_new_products_find_no_less_than_content_alone(looks, monkeypatch):
    """What is new in the held-out week is wanted by its looks; of the others, those of people with another taste."""
    monkeypatch.setattr(choice, "_LEAST_PEOPLE", 20)
    log = [each for each in grouped_log() if int(each[3]) < 90 or each[0] > 53]
    log += [
        (56, f"u{person}", "buy", product(90 + person % GROUPS + GROUPS * (person % 5))) for person in range(PEOPLE)
    ]
    seen = []
    best = choice._best
    monkeypatch.setattr(choice, "_best", lambda *found: seen.append(found) or best(*found))

    facts = learned_from(looks, log).facts

    _, of_new = seen[-1]
    assert len(of_new) >= 20
    means = dict(zip(choice._BLENDS, of_new.mean(axis=0), strict=True))
    assert means[facts.blend] >= means[choice._CONTENT] > 0


def test_impressions_and_products_that_are_not_there_count_nothing(groups):
    log: Log = [(0, "a", "buy", product(1)), (1, "b", "view", product(2)), (2, "b", "click", "gone")]
    log += [(3, "c", "dislike", product(1)), (3, "d", "buy", f"{product(1)}.png")]
    events = arrays_of(log)
    events.positions[1] = 4

    with Index.open(groups) as index:
        deeds = deeds_of(index.items, events, DEFAULT_WEIGHTS)
        free = deeds_of(index.items, events, {**DEFAULT_WEIGHTS, "dislike": 0.0})

    assert (deeds.users.tolist(), deeds.rows.tolist()) == ([0, 1, 2], [1])
    assert deeds.weights.tolist() == [8, -4, 8]
    assert len(free) == 2


def test_weights_are_halved_with_age_never_raised_and_popularity_is_not_below_0():
    times = np.array([0, 10, 20, 20]) * DAY
    deeds = Deeds(times, np.array([0, 0, 0, 1]), np.array([0, 0, 1, 1]), np.array([8.0, 4, 1, -3]), np.array([4, 7]))

    wants = wants_of(deeds, 10, 10 * DAY)

    assert (wants.users.tolist(), wants.products.tolist()) == ([0, 0, 1], [0, 1, 1])
    assert wants.weights.tolist() == [8, 1, -3]
    assert popularity_of(wants, 2).tolist() == [8, 0]
    assert wants_of(deeds, 0.01, 10**6 * DAY).weights[0] > 0


@pytest.mark.parametrize(
    ("log", "message"),
    [
        ([], "there are no events to learn from"),
        ([(0, "a", "buy", "a"), (0, "a", "buy", "b")], "none of the 2 products of the log is in the catalog: the log"),
        ([(0, "a", "return", product(0))], "nobody wants any of the 1 products"),
    ],
)
def test_what_nothing_can_be_learned_from_is_refused_in_words(groups, log, message):
    with pytest.raises(UsageError, match=message):
        learned_from(groups, log)


def test_impressions_alone_are_refused_in_words(groups):
    events = arrays_of([(0, "a", "view", product(0))])
    events.positions[:] = 1

    with Index.open(groups) as index, pytest.raises(UsageError, match="products were shown"):
        learn_recommend.learn_recommend(index, events, DEFAULT_WEIGHTS)


def test_one_person_and_one_product_are_enough(store_index, unit, tmp_path, capsys):
    directory = store_index(tmp_path / "index", unit(np.ones((1, 4))))
    store_log(directory, [(0, "a", "buy", product(0))])

    report = train_recommend(directory)

    assert (report.facts.users, report.facts.products, report.generation) == (1, 1, 2)
    with Index.open(directory) as index:
        assert Recommender(index).recommend(k=3)[0].product == product(0)


@pytest.mark.slow
def test_a_person_with_very_many_events_is_learned_from_and_answered(store_index, unit, tmp_path):
    """In the order of a clock that runs backwards, with events of products that have left the catalog."""
    vectors = unit(np.random.default_rng(1).normal(size=(PRODUCTS, 8)))
    directory = store_index(tmp_path / "index", vectors)
    store_log(directory, grouped_log())
    many = ((59 - number / 100_000, "robot", "view", product(number % 200)) for number in range(100_000))
    store_log(directory, [*many, (59.5, "robot", "buy", product(7))])

    report = train_recommend(directory)

    assert (report.facts.users, report.facts.products, report.facts.learner) == (PEOPLE + 1, PRODUCTS, "ease")
    with Index.open(directory) as index, EventStore(directory) as store:
        events = store.of_user("robot")
        history = history_of(events, index.items, store.weights(), report.facts.half_life, report.facts.newest)
        found = Recommender(index).recommend(history, 3, method="content")
    assert len(events) == 1000
    assert history.rows[history.weights.argmax()] == 7
    assert len({hit.product for hit in found}) == 3


def test_who_is_forgotten_leaves_no_byte_in_what_is_learned_next(groups, tmp_path):
    """Others come after them, and products that only they had."""
    log = [each for each in few_people() if int(each[3]) < 100]
    theirs = [(day, "u3", "buy", product(100 + number)) for number, day in enumerate(np.linspace(0, 59, 15))]
    both = []
    for name, events in (("never", log), ("forgotten", [*log[:200], *theirs, *log[200:]])):
        (tmp_path / name).mkdir()
        store_log(tmp_path / name, [each for each in events if each[1] != "u3" or name == "forgotten"])
        with EventStore(tmp_path / name) as store, Index.open(groups) as index:
            store.forget(user="u3")
            both.append(learn_recommend.learn_recommend(index, store.arrays(), store.weights()))

    assert both[0].facts == both[1].facts
    assert saved(both[0]) == saved(both[1])


@pytest.fixture(scope="module")
def trained(store_index, unit, tmp_path_factory) -> tuple[Path, str]:
    """An index of two images a product after `train events.csv`, and what the program said. Not to be changed."""
    folder = tmp_path_factory.mktemp("trained")
    vectors = unit(np.random.default_rng(1).normal(size=(2 * PRODUCTS, 8)))
    products = [product(row % PRODUCTS) for row in range(2 * PRODUCTS)]
    directory = store_index(folder / "index", vectors, products=products)
    lines = [f"{(START + int(day * DAY)) / 1e6:.6f},{user},{kind},{name}" for day, user, kind, name in grouped_log()]
    lines.append("yesterday,u1,buy,00001")
    (folder / "events.csv").write_text("\n".join(["time,user,event,product", *lines]) + "\n")
    output = folder / "output"
    with pytest.MonkeyPatch.context() as patch, output.open("w") as file:
        patch.setattr("sys.stdout", file)
        code = main(["train", str(folder / "events.csv"), "--objective", "recommend", "--index", str(directory)])
    assert code == 3  # a row was no event
    return directory, output.read_text()


def test_a_training_publishes_the_next_generation_and_says_what_it_is_worth(trained, capsys):
    directory, printed = trained
    manifest = generations.read_manifest(directory)

    assert manifest.generation == 2
    assert printed.startswith(f"{directory}: learned from 602 events of 60 people: nDCG@10 0.")
    assert ", popular 0." in printed
    assert {finding.file.split("/")[0] for finding in check(directory, deep=True)} == {"encoders"}  # there is none
    assert main(["info", "--index", str(directory)]) == 0
    said = capsys.readouterr().out
    assert "recommendations" in said
    assert "learned from 602 events of 60 people until 2024-01-13 about 120 products; nDCG@10 +0." in said


def test_answers_are_scored_as_they_were_when_the_blend_was_chosen(trained):
    directory, _ = trained
    with Index.open(directory) as index, EventStore(directory) as store:
        facts = index.manifest.recommend
        history = history_of(store.of_user("u5"), index.items, store.weights(), facts.half_life, facts.newest)
        recommender = Recommender(index)
        parts = recommender.parts(history)
        model, of_row = recommender.learned.model, recommender.learned.of_row
        first = np.arange(PRODUCTS)

        found = personal_scores(history, index.nearest.vectors[first], of_row[first], model.similar)

    for name, scores in found.items():
        np.testing.assert_allclose(
            blended({"content": scores}, DEFAULT_BLEND),
            blended({"content": parts[name][first]}, DEFAULT_BLEND),
            atol=1e-4,
            err_msg=name,
        )


def test_who_is_forgotten_is_in_no_file_of_the_index_and_unknown_to_the_next_training(trained, tmp_path, capsys):
    directory = Path(shutil.copytree(trained[0], tmp_path / "index"))
    name = hashed(read_key(key_path(directory)), "user", "u7")

    def kept() -> list[Path]:
        files = [path for path in directory.rglob("*") if path.is_file()]
        return [path for path in files if any(each in path.read_bytes() for each in (name, name.hex().encode()))]

    assert [path.name for path in kept()] == [EVENTS_FILE]
    assert main(["events", "forget", "u7", "--index", str(directory)]) == 0
    assert kept() == []
    assert main(["train", "--objective", "recommend", "--index", str(directory)]) == 0

    assert f"from {10 * (PEOPLE - 1) + 2} events of {PEOPLE - 1} people" in capsys.readouterr().out
    assert kept() == []


def test_what_was_rebuilt_meanwhile_is_refused(store_index, unit, tmp_path, monkeypatch):
    directory = store_index(tmp_path / "index", unit(np.ones((2, 4))))
    store_log(directory, [(0, "a", "buy", product(0))])
    learn = learn_recommend.learn_recommend

    def learn_slowly(*arguments, **options):
        monkeypatch.setattr(learn_recommend, "learn_recommend", learn)
        train_recommend(directory)
        return learn(*arguments, **options)

    monkeypatch.setattr(learn_recommend, "learn_recommend", learn_slowly)
    with pytest.raises(RefusedError, match=r"generation 1 .* was learned for, but it was rebuilt .* generation 2 now"):
        train_recommend(directory)
    with writer_lock(directory), pytest.raises(LockedError):
        train_recommend(directory)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 8), st.booleans()), min_size=1, max_size=30), st.integers(0, 3))
def test_ndcg_is_that_of_evaluations(items, elsewhere):
    scores, wanted = np.array([[float(score) for score, _ in items]]), np.array([wanted for _, wanted in items])
    count = int(wanted.sum()) + elsewhere
    if count:
        order = np.argsort(-scores[0], kind="stable")
        ranks = np.flatnonzero(wanted[order]) + 1

        assert ndcg(scores, wanted, count)[0] == pytest.approx(measures(ranks, count)["ndcg@10"])


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 400))
def test_what_is_out_of_reach_is_in_no_blends_first_ten(seed, count):
    generator = np.random.default_rng(seed)
    standard = (generator.normal(size=(3, count)) ** 3).astype(np.float32)
    wanted = generator.random(count) < 0.1
    wanted[0] = True

    found = choice._of_all_blends(standard, wanted)

    np.testing.assert_array_equal(found, ndcg(choice._SHARES @ standard, wanted, int(wanted.sum())))
    assert np.allclose([sum(astuple(blend)) for blend in choice._BLENDS], 1)
