"""Queries in words: own words that were withheld, columns of the shop's data, one word beside a picture."""

import json
from contextlib import closing
from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from imgsearch import Filter, Index
from imgsearch.cli import main
from imgsearch.encoders.spec import EncoderSpec
from imgsearch.errors import MissingComponentError, UsageError
from imgsearch.evaluation import words
from imgsearch.evaluation.evaluate import evaluate
from imgsearch.search.views import Indexed
from imgsearch.search.words import WordSearch
from imgsearch.store import generations, integrity, publishing
from imgsearch.store.arrays import write_array
from imgsearch.store.calibration import Calibration, Curve
from imgsearch.store.columns import Column
from imgsearch.store.database import connect
from imgsearch.store.manifest import FileRecord
from imgsearch.store.publishing import inherited_words_calibration
from imgsearch.store.words import write_words
from imgsearch.text import sentences

COLORS = ("red", "blue", "green", "black", "white")
THINGS = ("shoe", "boot", "dress", "shirt", "lamp", "chair")
TEXTS = [f"{color} {thing}" for color, thing in product(COLORS, THINGS)]
GERMAN_WORDS = ("rot", "blau", "grün", "schwarz", "weiß", "schuh", "stiefel", "kleid", "hemd", "lampe", "stuhl")
GERMAN = dict(zip((*COLORS, *THINGS), GERMAN_WORDS, strict=True))
AXES = {word: axis for axis, word in enumerate((*COLORS, *THINGS))}
AXES |= {GERMAN[word]: axis for word, axis in AXES.items()}
EACH = 2  # items of a text


# A vector for each word: its axis, and a little of all others.
NOISE = np.random.default_rng(1).normal(scale=0.002, size=(len(COLORS) + len(THINGS), sentences.DIMS))
WORDS = {word: np.eye(*NOISE.shape)[axis] + NOISE[axis] for word, axis in AXES.items()}


class PlantedEncoder:
    """Knows the words of `AXES`, in both languages, and no other."""

    def encode(self, texts):
        found = [
            sum((WORDS[word] for word in text.split() if word in WORDS), np.zeros(sentences.DIMS)) for text in texts
        ]
        return (np.array(found) / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1)).astype(np.float32)


class Perfect:
    """Predicts from a picture, whose numbers are those of its text, that text."""

    def predict(self, vectors):
        found = np.zeros((len(vectors), sentences.DIMS), np.float32)
        found[:, : vectors.shape[1]] = vectors
        return found


@pytest.fixture(autouse=True)
def planted(monkeypatch):
    monkeypatch.setattr(sentences, "is_installed", lambda: True)
    monkeypatch.setattr(sentences, "open_sentence_encoder", PlantedEncoder)


@pytest.fixture
def learn(monkeypatch):
    """Have predictions learned by a function of the rows that they are learned from."""

    def learning(by):
        monkeypatch.setattr(words, "learn_prediction", lambda vectors, rows, texts, seed: (by(rows), None))

    return learning


def with_words(directory, titles, encoder=sentences.IDENTITY):
    """Give an index own words, those in its column `title`, and their vectors."""
    manifest = generations.read_manifest(directory)
    folder = directory / manifest.folder
    with closing(connect(folder / generations.ITEMS)) as connection:
        connection.execute("BEGIN")
        facts = write_words(connection, "main", (), {"title": Column("title", "text")})
        connection.execute("COMMIT")
    files = [generations.ITEMS]
    if encoder:
        vectors = PlantedEncoder().encode([title or "" for title in titles])
        write_array(folder / generations.TEXT, len(titles), sentences.DIMS, [vectors])
        files.append(generations.TEXT)
    records = {f"{folder.name}/{name}": integrity.file_record(folder / name) for name in files}
    words = replace(facts, encoder=encoder)
    publishing.amend(directory, replace(manifest, words=words, files={**manifest.files, **records}))
    return directory


@pytest.fixture
def make(tmp_path, store_index, unit):
    """Publish an index of two items for each text, whose pictures show what it says; `silent` texts are not theirs."""

    def made(texts=TEXTS, silent=(), **options):
        shown = [text for text in texts for _ in range(EACH)]
        titles = [None if text in silent else text for text in shown]
        vectors = PlantedEncoder().encode(shown)[:, : len(COLORS) + len(THINGS)]
        german = [" ".join(GERMAN[word] for word in text.split()) for text in shown]
        index = store_index(
            tmp_path / "index",
            unit(vectors + np.random.default_rng(0).normal(scale=0.01, size=vectors.shape)),
            products=[text.replace(" ", "-") for text in shown],
            metadata=[
                {"title": title, "title_de": of_title, "sku": f"AB{row}"}
                for row, (title, of_title) in enumerate(zip(titles, german, strict=True))
            ],
        )
        return with_words(index, titles, **options)

    return made


@pytest.fixture
def run(capsys):
    """Run a command in this process; gives exit code, standard output and standard error."""

    def ran(command, index, *options):
        capsys.readouterr()
        code = main([command, "--index", str(index), *map(str, options)])
        told = capsys.readouterr()
        return code, told.out, told.err

    return ran


# --- own words, withheld


def test_items_without_words_are_found_by_what_is_predicted(make, learn):
    learn(lambda rows: Perfect())

    found = evaluate(make(), text=True)

    assert found.setup["kind"] == "text"
    assert found.figures["queries"].mean == len(TEXTS)
    assert found.figures["hit_rate@1"].mean == found.figures["map"].mean == 1
    assert {query.query for query in found.retrieval.results} == set(TEXTS)
    assert {query.relevant_count for query in found.retrieval.results} == {EACH}


def test_own_words_are_withheld_from_the_search_and_from_what_is_learned(make, learn):
    taught = []

    class SameForAll:
        def predict(self, vectors):
            return np.repeat(PlantedEncoder().encode(["red shoe"]), len(vectors), axis=0)

    def learned(rows):
        taught.append(set(rows.tolist()))
        return SameForAll()

    learn(learned)
    found = evaluate(make(), text=True)

    # Items are predicted to be red shoes, whatever they are: no other text finds its own.
    right = {query.query for query in found.retrieval.results if query.hits[0].relevant}
    assert right == {"red shoe"}
    withheld = [set(range(len(TEXTS) * EACH)) - rows for rows in taught]
    assert [len(rows) for rows in withheld] == [len(TEXTS) * EACH // 5] * 5
    assert set.union(*withheld) == set(range(len(TEXTS) * EACH))


def test_own_words_of_others_and_items_without_any_compete(make, learn):
    """Every picture is predicted to say "red shoe", and two items say so themselves."""

    class RedShoe:
        def predict(self, vectors):
            return np.repeat(PlantedEncoder().encode(["red shoe"]), len(vectors), axis=0)

    learn(lambda rows: RedShoe())
    silent = TEXTS[1::3]

    found = evaluate(make(silent=silent), text=True)

    assert {query.query for query in found.retrieval.results} == set(TEXTS) - set(silent)
    # Nothing is known of silent items: they are no hits of any question.
    assert not {hit.label for query in found.retrieval.results for hit in query.hits} & {"", *silent}
    dresses = next(query for query in found.retrieval.results if query.query == "blue dress")
    assert dresses.hits[0].label != "blue dress"
    assert set(dresses.hits[0].label.split()) & {"blue", "dress"}


def test_where_nothing_can_be_learned_nothing_is_found_and_where_it_never_can_that_is_said(make, learn):
    index, calls = make(), []
    learn(lambda rows: calls.append(rows) or (None if len(calls) == 1 else Perfect()))

    found = evaluate(index, text=True)
    assert found.figures["hit_rate@1"].mean == pytest.approx(0.8)

    learn(lambda rows: None)
    with pytest.raises(UsageError, match="cannot be predicted"):
        evaluate(index, text=True)


def test_a_sample_limits_the_texts(make, learn):
    learn(lambda rows: Perfect())

    found = evaluate(make(), text=True, sample=7)

    assert found.figures["queries"].mean == 7


# --- columns


def test_a_column_finds_items_by_its_words_in_another_language(make):
    found = evaluate(make(), text_columns="title_de")

    assert found.figures["queries"].mean == len(TEXTS)
    assert found.figures["hit_rate@1"].mean == found.figures["map"].mean == 1
    assert {query.relevant_count for query in found.retrieval.results} == {EACH}
    assert found.retrieval.label == "product"


def test_each_column_has_figures_of_its_own(make, run):
    index = make()

    found = evaluate(index, text_columns="title_de,sku")
    assert {name: figures["hit_rate@1"].mean for name, figures in found.columns.items()} == {"title_de": 1, "sku": 0}
    assert found.columns["sku"]["queries"].mean == len(TEXTS) * EACH

    code, out, _ = run("evaluate", index, "--text-columns", "title_de,sku")
    assert code == 0
    assert "by column" in out
    data = json.loads(run("evaluate", index, "--text-columns", "title_de", "--format", "json")[1])
    assert data["per_column"]["title_de"]["hit_rate@1"] == 1
    assert data["setup.text_columns"] == "title_de"


def test_an_item_is_not_found_by_the_column_itself(make):
    """`sku` means nothing to the encoder, and a search by these words finds their item."""
    index = make()
    with Index.open(index) as opened:
        assert opened.search_together(text=["AB17"])[0].path == "00017.png"

    found = evaluate(index, text_columns="sku")

    assert found.figures["hit_rate@10"].mean == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"text_columns": "title"}, "own words, which find themselves"),
        ({"text_columns": "title_fr"}, "no item has a column 'title_fr'"),
        ({"text_columns": "title_de,"}, "names of columns between commas"),
        ({"text": True, "labels": "product"}, "--text cannot be combined"),
        ({"text": True, "self_test": True}, "--text cannot be combined"),
        ({"text": True, "calibrate": True}, "--text withholds them"),
        ({"text": True, "by": "product"}, "--by product ranks products"),
    ],
)
def test_what_makes_no_sense_is_refused(make, options, message):
    with pytest.raises(UsageError, match=message):
        evaluate(make(), **options)


def test_products_are_ranked_by_their_best_item(make):
    found = evaluate(make(), text_columns="title_de", by="product")

    assert {query.relevant_count for query in found.retrieval.results} == {1}
    assert found.figures["hit_rate@1"].mean == 1


# --- without the extra, and without words


def test_an_index_without_vectors_of_words_is_asked_as_they_are_spelled(make, run):
    index = make(encoder="")
    found = evaluate(index, text_columns="title_de")

    assert found.figures["hit_rate@10"].mean == 0
    assert run("evaluate", index, "--text")[0] == 2


def test_without_the_extra_own_words_cannot_be_predicted(make, run, monkeypatch):
    def lacking():
        raise MissingComponentError("sentences cannot be compared")

    monkeypatch.setattr(sentences, "is_installed", lambda: False)
    monkeypatch.setattr(sentences, "open_sentence_encoder", lacking)

    assert run("evaluate", make(), "--text")[0] == 8


def test_an_index_without_words_says_so(tmp_path, store_index, unit):
    index = store_index(tmp_path / "index", unit(np.random.default_rng(0).normal(size=(20, 5))))

    with pytest.raises(UsageError, match="no item of the index has words of its own"):
        evaluate(index, text=True)


# --- a picture and a word


def test_words_that_differ_in_one_are_paired_in_both_directions():
    titles = ["Red shoe", "blue shoe", "green shoe.", "red SHOE!", "red", "long blue", "the green one", "the lamp", "a"]

    assert words._changes(titles) == {
        0: [("blue", [1])],
        3: [("blue", [1])],
        1: [("green", [2])],
        2: [("red", [0, 3])],
    }


def test_a_word_of_one_text_and_texts_that_share_what_most_have_make_no_pair():
    assert words._changes(["red shoe", "suede shoe", "red lamp", "a", "a b", "c"]) == {}
    assert words._changes(["a red", "a blue", "a red lamp", "a blue chair"]) == {}
    assert words._changes(["red " * 25, "red " * 24 + "blue", "blue", "x", "y"]) == {}


def test_a_picture_and_a_word_find_what_neither_finds_alone(make):
    found = evaluate(make(), text_columns="title_de")

    measures = found.picture_and_word.measures
    assert len(found.picture_and_word.queries) == 2 * len(TEXTS) * EACH
    assert {name: values.shape for name, values in measures.items()}.keys() == {
        f"{way}_{name}"
        for way in ("picture_and_word", "picture_alone", "word_alone")
        for name in ("hit_rate@1", "hit_rate@10", "map")
    }
    assert measures["picture_alone_hit_rate@1"].mean() == 0  # the other item of the same text is nearest
    assert found.figures["picture_and_word_map"].mean > found.figures["picture_alone_map"].mean
    assert found.figures["picture_and_word_map"].mean > found.figures["word_alone_map"].mean


def test_too_few_pairs_are_not_measured_and_that_is_said(make, run):
    index = make(["red shoe", "red boot", "blue lamp", "green chair"])

    found = evaluate(index, text_columns="title_de")
    assert found.picture_and_word.measures == {}
    assert not any(name.startswith("picture") for name in found.figures)
    code, out, _ = run("evaluate", index, "--text-columns", "title_de")
    assert code == 0
    assert "picture and word: not measured, for that takes 20" in out
    code, _, err = run("evaluate", index, "--text-columns", "title_de", "--min", "picture_and_word_map=0.5")
    assert code == 2
    assert "20 items whose words differ in one" in err


# --- files and gates


def test_words_go_through_gates_files_and_reports(make, run, learn, tmp_path):
    learn(lambda rows: Perfect())
    index, good = make(), tmp_path / "good.json"

    code, out, err = run("evaluate", index, "--text", "--json", good, "--report", tmp_path / "report")
    assert (code, err) == (0, "")
    assert "texts of items, asked for as if these had no words; right: the same words" in out
    assert "picture and word" in out
    assert run("evaluate", index, "--text", "--against", good, "--min", "picture_and_word_map=0.1")[0] == 0
    assert run("evaluate", index, "--text", "--min", "word_alone_map=1")[0] == 10
    code, _, err = run("evaluate", index, "--text-columns", "title_de", "--against", good)
    assert code == 2
    assert "differ in kind" in err
    code, _, err = run("evaluate", index, "--recall", "--min", "word_alone_map=1")
    assert code == 2
    assert "--text, with 20 items whose words differ in one, measures it" in err


# --- calibration


@pytest.fixture
def calibrated(make, run):
    index = make()
    before = generations.read_manifest(index)
    code, out, err = run("evaluate", index, "--text-columns", "title_de", "--calibrate")
    assert (code, err) == (0, "")
    assert "probability of the same product" in out
    after = generations.read_manifest(index)
    assert replace(after, words_calibration=None) == before
    assert after.words_calibration.queries == len(TEXTS)
    assert generations.find_copy_problem(index, after) == ""
    return index


def test_words_are_calibrated_apart_from_images(calibrated, run):
    with Index.open(calibrated) as index:
        asked = index.search_together(text=["rot schuh"])
        assert asked[0].probability > 0.5
        assert asked[0].product == "red-shoe"
        assert len(index.search_together(text=["rot schuh"], filter=Filter(min_probability=0.5))) == EACH
        assert index.search_item("00000.png")[0].probability is None
        assert index.search_together([Indexed("00000.png")], text=["blau"])[0].probability is None
        for question in ({"text": ["rot", "schuh"]}, {"text": ["rot"], "without_text": ["schuh"]}):
            assert index.search_together(**question)[0].probability is None

    code, out, _ = run("query", calibrated, "--text", "rot schuh", "--format", "csv")
    assert code == 0
    assert out.splitlines()[0].split(",")[7] == "probability"
    assert "probability" in run("query", calibrated, "--text", "rot schuh")[1]
    code, out, _ = run("query", calibrated, "--item", "00000.png", "--text", "blau", "--format", "csv")
    assert code == 0
    assert "probability" not in out
    assert "probabilities of words" in run("info", calibrated)[1]


def test_a_probability_that_nothing_was_learned_about_is_refused(calibrated, make):
    limit = Filter(min_probability=0.5)
    with Index.open(calibrated) as index:
        with pytest.raises(UsageError, match="known for images, and for one text"):
            index.search_together([Indexed("00000.png")], text=["blau"], filter=limit)
        with pytest.raises(UsageError, match="the index is not calibrated") as caught:
            index.search_item("00000.png", filter=limit)
        assert "--text-columns" not in caught.value.hint


def test_words_that_are_not_calibrated_say_how(make):
    with Index.open(make()) as index, pytest.raises(UsageError, match="not calibrated") as caught:
        index.search_together(text=["rot schuh"], filter=Filter(min_probability=0.5))

    assert "--text-columns COLUMN --calibrate" in caught.value.hint


def test_what_words_mean_is_kept_while_columns_encoder_and_predictions_are_the_same(calibrated):
    published = generations.read_manifest(calibrated)
    learned, facts = published.words_calibration, published.words

    def kept(images="", **changes):
        new = replace(published, words=replace(facts, **changes), words_calibration=None)
        old = replace(published, words=replace(facts, predicted=changes.get("predicted", 0)))
        return inherited_words_calibration(replace(new, fingerprint=images or new.fingerprint), old)

    assert kept() == learned
    assert kept(own=3) == learned
    assert kept(columns=("name",)) is None
    assert kept(encoder="0" * 16) is None
    assert kept(images="f" * 16) == learned
    assert kept(predicted=5) == learned
    assert kept(images="f" * 16, predicted=5) is None
    assert inherited_words_calibration(replace(published, words=None), published) is None
    projection = {f"{published.folder}/{generations.PROJECTION}": FileRecord(1, "0")}
    other = replace(published, words=replace(facts, predicted=1))
    assert inherited_words_calibration(replace(other, files=projection), other) is None


def test_spelling_alone_is_not_calibrated(make):
    curve = Curve("platt", (0.0, 1.0), (0.1, 0.9))
    index = make(encoder="")
    manifest = generations.read_manifest(index)
    publishing.amend(index, replace(manifest, words_calibration=Calibration("product", 50, 0.1, curve, curve)))

    with Index.open(index) as opened:
        assert opened.search_together(text=["red shoe"])[0].probability is None
    with pytest.raises(UsageError, match="not prepared to be compared by meaning"):
        evaluate(index, text_columns="title_de", calibrate=True)


# --- a joint model


def test_a_joint_model_compares_withheld_words_with_images_and_learns_nothing(make, learn, unit, monkeypatch):
    class PlantedTower:
        def encode(self, texts):
            return unit(PlantedEncoder().encode(texts)[:, : len(COLORS) + len(THINGS)])

    index = make(encoder="")
    learn(lambda rows: pytest.fail("a prediction was learned"))
    monkeypatch.setattr(EncoderSpec, "has_text_tower", True)
    monkeypatch.setattr(WordSearch, "_open_encoder", lambda search: PlantedTower())

    found = evaluate(index, text=True)
    # Others that share a word with the text have it in their own words, too, but do not look like it.
    assert found.figures["hit_rate@1"].mean == 1
    found = evaluate(index, text_columns="title_de", calibrate=True)
    assert found.figures["hit_rate@1"].mean == 1
