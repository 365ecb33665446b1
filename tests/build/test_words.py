"""Builds know the words of items: which columns have them, and what was encoded stays known."""

import contextlib
import hashlib
import json
import sqlite3
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from imgsearch import build_index, check, embed, rollback
from imgsearch.build import words
from imgsearch.cli import main
from imgsearch.errors import MissingComponentError, UsageError
from imgsearch.store import generations, integrity
from imgsearch.store.generations import read_manifest
from imgsearch.store.items import Items
from imgsearch.store.manifest import WordsFacts
from imgsearch.text import lexical, sentences

TITLES = {"a/0000.png": "Red dress", "b/0001.png": "Blue shoe", "a/0003.png": "Red dress"}


@pytest.fixture(scope="module", autouse=True)
def quickly(quick_builds):
    """In all tests of this file."""


class FakeEncoder:
    """Remembers what it was given; a text's vector is drawn from it."""

    def __init__(self):
        self.texts = []

    def encode(self, texts):
        self.texts += texts
        return np.stack([self.vector(text) for text in texts])

    @staticmethod
    def vector(text):
        drawn = np.random.default_rng([*hashlib.sha256(text.encode()).digest()]).normal(size=sentences.DIMS)
        return np.asarray(drawn / np.linalg.norm(drawn), np.float32)


@pytest.fixture
def encoder(monkeypatch):
    """An encoder of sentences, installed."""
    fake = FakeEncoder()
    monkeypatch.setattr(sentences, "is_installed", lambda: True)
    monkeypatch.setattr(words, "_encoder", lambda: fake)
    return fake


@pytest.fixture
def uninstall(monkeypatch):
    """The extra is not installed from now on."""
    return lambda: monkeypatch.setattr(sentences, "is_installed", lambda: False)


@pytest.fixture
def titled(tmp_path):
    """Write the shop's data: titled(path=title, ...)."""

    def write(titles=TITLES, column="title"):
        rows = [f"{path},{title},5\n" for path, title in titles.items()]
        file = tmp_path / "titles.csv"
        file.write_text("".join([f"path,{column},price\n", *rows]))
        return file

    return write


def vectors_of(directory):
    """Path -> row of text.npy, read by NumPy and SQLite alone."""
    manifest = read_manifest(directory)
    folder = directory / manifest.folder
    with contextlib.closing(sqlite3.connect(folder / generations.ITEMS)) as connection:
        rows = dict(connection.execute("SELECT path, row FROM items"))
    texts = np.load(folder / generations.TEXT)
    assert (texts.shape, texts.dtype) == ((manifest.count, sentences.DIMS), np.float32)
    return {path: texts[row] for path, row in rows.items()}


def found(directory, question):
    with contextlib.closing(Items(directory / read_manifest(directory).folder / generations.ITEMS)) as items:
        rows = items.matches(lexical.match_expression(question))[0].tolist()
        return [item.path for item in items.fetch(rows)]


def test_each_text_is_encoded_once_and_a_changed_title_costs_one_text(build, index, titled, encoder, no_encoder):
    report = build(metadata=titled())

    assert (report.embedded, report.texts_encoded) == (12, 2)
    assert sorted(encoder.texts) == ["Blue shoe", "Red dress"]
    no_encoder()
    encoder.texts.clear()
    titled({**TITLES, "b/0001.png": "Green shoe", "c/0002.png": "Red dress"})
    report = build()
    assert (report.embedded, report.texts_encoded, encoder.texts) == (0, 1, ["Green shoe"])
    vectors = vectors_of(index)
    for path, title in {**TITLES, "b/0001.png": "Green shoe", "c/0002.png": "Red dress"}.items():
        assert np.array_equal(vectors.pop(path), FakeEncoder.vector(title))
    assert len(vectors) == 8
    assert not any(vector.any() for vector in vectors.values())  # too few to learn from
    assert read_manifest(index).words == WordsFacts(("title",), sentences.IDENTITY, 4, 0, None)
    assert not build().published
    assert check(index, deep=True) == []
    assert found(index, "shoe") == ["b/0001.png"]


def test_items_without_words_get_predicted_ones_where_that_works(build, index, titled, encoder, monkeypatch):
    gain = words.PredictionGain(2, 1, 1, 0.5, 0.1)
    given = {}

    class Constant:
        def predict(self, vectors):
            return np.tile(FakeEncoder.vector("predicted"), (len(vectors), 1))

    def learn(vectors, rows, texts, seed):
        given.update(vectors=vectors.shape, rows=rows.tolist(), texts=texts)
        return Constant(), gain

    monkeypatch.setattr(words, "learn_prediction", learn)
    monkeypatch.setattr(words, "BLOCK_ROWS", 5)
    build(metadata=titled())

    assert given["rows"] == [0, 1, 4]  # a/0000, a/0003, b/0001
    assert np.array_equal(given["texts"][0], given["texts"][1])
    assert given["vectors"] == (12, read_manifest(index).dims)
    for path, vector in vectors_of(index).items():
        assert np.array_equal(vector, FakeEncoder.vector(TITLES.get(path, "predicted")))
    assert read_manifest(index).words == WordsFacts(("title",), sentences.IDENTITY, 3, 9, gain)
    assert check(index, deep=True) == []


def test_nothing_is_predicted_where_all_have_words_or_a_prediction_fails(
    build, index, titled, encoder, monkeypatch, capsys
):
    gain = words.PredictionGain(2, 1, 1, 0.1, 0.1)
    monkeypatch.setattr(words, "learn_prediction", lambda *_: (None, gain))
    build(metadata=titled())
    assert read_manifest(index).words == WordsFacts(("title",), sentences.IDENTITY, 3, 0, gain)
    assert main(["info", "--index", str(index)]) == 0
    assert "from columns title, none predicted; compared by meaning; of 1 held-out texts" in capsys.readouterr().out

    monkeypatch.setattr(words, "learn_prediction", None)  # never called
    titled({f"{'abc'[number % 3]}/{number:04d}.png": f"Title {number}" for number in range(12)})
    build()
    assert read_manifest(index).words == WordsFacts(("title",), sentences.IDENTITY, 12, 0, None)


def test_the_columns_are_remembered_and_another_choice_publishes_without_an_image(
    build, index, titled, encoder, no_encoder
):
    build(metadata=titled(column="name"), text=" name , price")
    no_encoder()
    assert read_manifest(index).words.columns == ("name", "price")
    assert "Red dress. 5" in encoder.texts
    assert not build().published

    titled({**TITLES, "b/0001.png": "Green shoe"}, column="name")
    assert build().texts_encoded == 1
    assert build(text="name").published
    assert "Red dress" in encoder.texts
    assert build(text="none").published
    assert read_manifest(index).words is None
    with pytest.raises(UsageError, match="knows no words"):
        found(index, "dress")
    assert not (index / read_manifest(index).folder / generations.TEXT).exists()
    assert not build().published
    assert build(text="auto").published
    assert read_manifest(index).words == WordsFacts((), "", 0, 0, None)  # there is no title, and names say nothing


def test_an_unknown_column_is_refused_before_anything_is_embedded(build, index, titled, monkeypatch):
    monkeypatch.setattr("imgsearch.build.update.embed_pending", None)
    with pytest.raises(UsageError, match="no column is called 'titel'") as caught:
        build(metadata=titled(), text="titel")
    assert caught.value.hint == "did you mean title"
    with pytest.raises(UsageError, match="no column is called 'title'"):
        build(text="title")
    with pytest.raises(UsageError, match="expected names of columns between commas for --text, found 'a,,b'"):
        build(metadata=titled(), text="a,,b")
    assert not (index / "manifest.json").exists()


def test_a_remembered_column_that_is_gone_is_a_warning_and_may_come_back(build, index, titled, encoder, caplog):
    build(metadata=titled(column="name"), text="name,price")
    titled(column="title")

    build()
    assert "no column is called 'name' any more, so images have no words of it" in caplog.text
    assert read_manifest(index).words == WordsFacts(("name", "price"), sentences.IDENTITY, 3, 0, None)
    with pytest.raises(UsageError, match="no column is called 'name'"):
        build(text="name,price")
    build(metadata="none")
    assert read_manifest(index).words == WordsFacts(("name", "price"))
    build(metadata=titled(column="name"))
    assert found(index, "dress") == ["a/0000.png", "a/0003.png"]


def test_a_column_that_no_image_has_gives_no_words(build, index, titled, encoder):
    build(metadata=titled({"gone.png": "Gone"}), text="title", force=True)

    assert read_manifest(index).words == WordsFacts(("title",), "", 0, 0, None)


def test_without_titles_names_say_what_items_are(build, index, lay_out, tmp_path, encoder):
    catalog = lay_out(tmp_path / "catalog", 4)
    (catalog / "a" / "0000.png").rename(catalog / "a" / "redDress.png")
    build(catalog)

    assert encoder.texts == ["red Dress"]
    assert read_manifest(index).words == WordsFacts((), sentences.IDENTITY, 1, 0, None)
    assert found(index, "dress") == ["a/redDress.png"]
    assert found(index, "0001") == ["b/0001.png"]


def test_without_the_extra_words_are_found_and_with_it_later_they_are_encoded(
    build, index, titled, encoder, no_encoder, uninstall, monkeypatch, caplog
):
    with monkeypatch.context() as before:
        before.setattr(sentences, "is_installed", lambda: False)
        build(metadata=titled())
        assert (read_manifest(index).words.encoder, encoder.texts) == ("", [])
        assert found(index, "dress") == ["a/0000.png", "a/0003.png"]
        assert not build().published
    no_encoder()
    report = build()
    assert (report.published, report.embedded, report.texts_encoded) == (True, 0, 2)
    assert check(index, deep=True) == []
    assert caplog.messages == []

    uninstall()
    assert not build().published
    build(seed=5)
    build(seed=6)
    assert read_manifest(index).words.encoder == ""
    assert [message for message in caplog.messages if "imgsearch-toolkit[text]" in message] == caplog.messages
    assert len(caplog.messages) == 1


def test_another_encoder_of_sentences_encodes_all_anew(build, index, titled, encoder, monkeypatch):
    build(metadata=titled())
    monkeypatch.setattr(sentences, "IDENTITY", "0" * 16)

    assert build().texts_encoded == 2
    assert read_manifest(index).words.encoder == "0" * 16


@pytest.mark.parametrize("damage", [lambda file: file.unlink(), lambda file: file.write_bytes(bytes(100))])
def test_lost_vectors_of_texts_are_made_anew(build, index, titled, encoder, no_encoder, damage):
    build(metadata=titled())
    before = vectors_of(index)
    no_encoder()
    damage(index / "gen-000001" / generations.TEXT)
    assert [finding.file for finding in check(index)] == ["gen-000001/text.npy"]

    report = build()

    assert (report.published, report.texts_encoded) == (True, 2)
    assert {path: vector.tobytes() for path, vector in vectors_of(index).items()} == {
        path: vector.tobytes() for path, vector in before.items()
    }
    assert check(index) == []


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda texts: texts.__setitem__((0, 0), np.nan), "neither of unit length nor zero"),
        (lambda texts: texts.__setitem__(0, 0.5), "neither of unit length nor zero"),
        (lambda texts: texts.__setitem__(slice(None), np.eye(12, 512)), "12 items have the vector of a text"),
        (lambda texts: texts[1:], "float32 (11, 512), expected float32 (12, 512)"),
    ],
)
def test_vectors_of_texts_that_cannot_be_are_found_by_a_deep_check(build, index, titled, encoder, spoil, said):
    build(metadata=titled())
    file = index / "gen-000001" / generations.TEXT
    texts = np.load(file)
    other = spoil(texts)
    np.save(file, texts if other is None else other)
    publish_as_is(index, generations.TEXT)

    assert check(index) == []
    (finding,) = check(index, deep=True)
    assert finding.file == "gen-000001/text.npy"
    assert said in finding.problem


def publish_as_is(directory, *names):
    """Let the manifest say that files are what they should be."""
    manifest = read_manifest(directory)
    records = {f"{manifest.folder}/{name}": integrity.file_record(directory / manifest.folder / name) for name in names}
    text = json.dumps(replace(manifest, files={**manifest.files, **records}).to_json())
    for copy in (directory / generations.MANIFEST, directory / manifest.folder / generations.MANIFEST):
        copy.write_text(text)


def test_rollback_brings_words_back_and_old_vectors_are_swept(build, index, titled, encoder):
    build(metadata=titled())
    before = vectors_of(index)
    titled({**TITLES, "b/0001.png": "Green shoe"})
    build()
    rollback(index)

    assert (found(index, "blue"), found(index, "green")) == (["b/0001.png"], [])
    after = vectors_of(index)
    assert all(np.array_equal(after[path], before[path]) for path in before)
    assert check(index, deep=True) == []
    encoder.texts.clear()
    assert build().texts_encoded == 1
    assert sorted(path.parent.name for path in index.rglob(generations.TEXT)) == ["gen-000003", "gen-000004"]


def test_embeddings_hand_words_on_and_an_index_of_them_encodes_them(build, index, small, titled, encoder, tmp_path):
    report = embed(small, tmp_path / "made", backbone="handcrafted", metadata=titled(), text="title")
    assert (report.texts_encoded, read_manifest(tmp_path / "made").words) == (0, WordsFacts(("title",), own=3))
    assert list((tmp_path / "made").rglob(generations.TEXT)) == []

    assert build_index(tmp_path / "made", index, backend="exact").texts_encoded == 2
    assert found(index, "dress") == ["a/0000.png", "a/0003.png"]
    assert not build_index(tmp_path / "made", index, text="title").published
    with pytest.raises(UsageError, match="give --text to embed"):
        build_index(tmp_path / "made", index, text="price")


def test_embeddings_that_are_indexed_in_place_lose_vectors_of_texts_without_the_extra(
    small, titled, encoder, uninstall, monkeypatch, tmp_path
):
    gain = words.PredictionGain(2, 1, 1, 0.5, 0.1)
    prediction = SimpleNamespace(predict=lambda vectors: np.tile(FakeEncoder.vector("predicted"), (len(vectors), 1)))
    monkeypatch.setattr(words, "learn_prediction", lambda *_: (prediction, gain))
    made = tmp_path / "made"
    embed(small, made, backbone="handcrafted", metadata=titled())
    build_index(made, made, backend="exact")
    assert read_manifest(made).words == WordsFacts(("title",), sentences.IDENTITY, 3, 9, gain)

    uninstall()
    build_index(made, made, seed=5)
    assert read_manifest(made).words == WordsFacts(("title",), "", 3, 0, None)
    assert check(made, deep=True) == []


def test_an_index_of_before_words_gains_them_without_an_image(build, index, titled, encoder, no_encoder):
    build(metadata=titled(), text="none")
    make_older(index)
    no_encoder()

    report = build()

    assert (report.published, report.embedded, report.texts_encoded) == (True, 0, 2)
    assert not build().published


def make_older(directory):
    """Let an index be as the imgsearch before words would have written it."""
    manifest = read_manifest(directory)
    with contextlib.closing(sqlite3.connect(directory / manifest.folder / generations.ITEMS)) as connection:
        connection.execute("PRAGMA user_version = 1")
        connection.commit()
    publish_as_is(directory, generations.ITEMS)
    data = read_manifest(directory).to_json()
    del data["text"], data["words"], data["sha256"]
    digest = hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()
    for copy in (directory / generations.MANIFEST, directory / manifest.folder / generations.MANIFEST):
        copy.write_text(json.dumps({**data, "sha256": digest}))


def test_a_python_without_full_text_search_builds_without_words_and_says_so(
    build, index, titled, encoder, monkeypatch, caplog
):
    with monkeypatch.context() as without:
        for module in (lexical, words):
            without.setattr(module, "has_full_text", lambda: False)
        without.setattr("imgsearch.build.journal.has_full_text", lambda: False)
        build(metadata=titled())
        assert read_manifest(index).words is None
        assert "has no FTS5" in caplog.text
        assert not build().published
        with pytest.raises(MissingComponentError, match="FTS5"):
            build(text="title")

    assert build().texts_encoded == 2


def test_info_and_reports_say_what_there_is_of_words(build, index, small, titled, encoder, tmp_path, capsys):
    options = ["--index", str(index), "--report", str(tmp_path / "report.json")]
    assert main(["build-index", str(small), *options, "--backbone", "handcrafted", "--metadata", str(titled())]) == 0
    assert ", 2 texts encoded (" in capsys.readouterr().out
    assert json.loads((tmp_path / "report.json").read_text())["counts"]["texts_encoded"] == 2

    assert main(["info", "--index", str(index)]) == 0
    assert "words           3 of 12 images, from columns title; compared by meaning\n" in capsys.readouterr().out
    assert main(["info", "--index", str(index), "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["words"] == {
        "columns": ["title"],
        "encoder": sentences.IDENTITY,
        "own": 3,
        "predicted": 0,
        "prediction": None,
    }


def test_room_for_vectors_of_texts_is_asked_for_where_they_will_be_made(build, index, encoder, uninstall, monkeypatch):
    needed = []
    monkeypatch.setattr("imgsearch.build.options.require_space", lambda _, size: needed.append(size))
    build(text="none")
    build(text="auto")
    uninstall()
    build(seed=5)

    _, with_vectors, without = needed
    assert with_vectors - without == 12 * 4 * sentences.DIMS


def test_progress_names_the_texts(build, titled, encoder, monkeypatch):
    monkeypatch.setattr(words, "_BATCH", 1)
    calls = []
    build(metadata=titled(), progress=lambda *call: calls.append(call))

    assert [call for call in calls if call[0] == "words"] == [("words", 0, 2), ("words", 1, 2), ("words", 2, 2)]
