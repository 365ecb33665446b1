"""The vectors of texts, `text.npy`: each text is encoded once, and stays known from generation to generation."""

import contextlib
import itertools
import logging
import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from imgsearch.encoders.runtime import Embeddings
from imgsearch.encoders.vectors import Vectors
from imgsearch.errors import DamagedIndexError
from imgsearch.files import sync
from imgsearch.progress import Progress
from imgsearch.store import generations, integrity
from imgsearch.store.arrays import BLOCK_ROWS, open_array, write_array
from imgsearch.store.database import connect, database_uri
from imgsearch.store.manifest import Manifest, WordsFacts
from imgsearch.store.words import NO_COLUMNS
from imgsearch.text import sentences
from imgsearch.text.lexical import has_full_text
from imgsearch.text.prediction import LARGEST_SAMPLE, Prediction, PredictionGain, learn_prediction

logger = logging.getLogger(__name__)

# Texts that are encoded at a time.
_BATCH = 64

# Of each different text its first row, the text, and its row in the generation before, if it was there.
_DIFFERENT_TEXTS = """
SELECT t.row, t.text, (SELECT min(o.row) FROM old.texts o WHERE o.sha256 = t.sha256) AS known
FROM texts t WHERE t.row = (SELECT min(f.row) FROM texts f WHERE f.sha256 = t.sha256) ORDER BY t.row
"""
# Of each row the first that has the same text.
_FIRST_ROWS = "SELECT row, (SELECT min(f.row) FROM texts f WHERE f.sha256 = t.sha256) FROM texts t ORDER BY row"


def encoder_of_texts(draft: Manifest) -> str:
    """Return the identity of what encodes the texts of an index; empty where they are not to be encoded."""
    # Images by a joint model are compared with texts themselves.
    is_wanted = draft.search is not None and draft.text != NO_COLUMNS and not draft.encoder.has_text_tower
    return sentences.IDENTITY if is_wanted and sentences.is_installed() else ""


def has_all_words(draft: Manifest, previous: Manifest) -> bool:
    """Return whether what is published has the words that a build of today would give it."""
    if previous.words is None:
        return draft.text == NO_COLUMNS or not has_full_text()
    return not lacks_text_vectors(draft, previous)


def lacks_text_vectors(draft: Manifest, previous: Manifest) -> bool:
    """Return whether texts of what is published were not encoded as they would be today."""
    encoder = encoder_of_texts(draft)
    return previous.words is not None and previous.words.own > 0 and encoder not in ("", previous.words.encoder)


def warn_without_full_text(draft: Manifest) -> None:
    """Say where items will have no words, though none were declined."""
    if draft.text != NO_COLUMNS and not has_full_text():
        logger.warning(
            "items have no words, for SQLite %s of this Python has no FTS5; --text none says that none are wanted",
            sqlite3.sqlite_version,
        )


@cache
def _encoder() -> sentences.SentenceEncoder:
    return sentences.open_sentence_encoder()


def write_text_vectors(
    directory: Path, draft: Manifest, previous: Manifest | None, progress: Progress
) -> tuple[Manifest, int]:
    """Write `text.npy` if there is anything to be in it; return the completed draft and how many texts were encoded."""
    words, encoder = draft.words, encoder_of_texts(draft)
    if words is None or not words.own:
        return draft, 0
    words = WordsFacts(words.columns, encoder, words.own)  # embeddings that were indexed in place had vectors, too
    if not encoder:
        if previous and previous.words and previous.words.encoder and not sentences.is_installed():
            logger.warning(
                "texts are no longer compared by their meaning, for the extra `text` is not installed: %s",
                sentences.INSTALL,
            )
        return replace(draft, words=words), 0
    folder = directory / draft.folder
    path = folder / generations.TEXT
    known = _known(directory, encoder, previous)
    with _items(folder, directory / previous.folder if previous and known is not None else None) as connection:
        query = f"SELECT count(*) FROM ({_DIFFERENT_TEXTS}) WHERE known IS NULL"  # noqa: S608
        (pending,) = connection.execute(query).fetchone()
        blocks = _first_of_each(connection, draft.count, known, pending, progress)
        write_array(path, draft.count, sentences.DIMS, blocks)
        rows = itertools.chain.from_iterable(connection.execute(_FIRST_ROWS))
        owners = np.fromiter(rows, np.int64).reshape(-1, 2)
    vectors = open_array(folder / generations.VECTORS, draft.count, draft.dims, draft.numbers)
    texts = open_array(path, draft.count, sentences.DIMS)
    seed = draft.search.seed if draft.search else 0
    prediction, gain = _learn(vectors, texts, owners, seed) if words.own < draft.count else (None, None)
    _complete(path, texts, vectors, owners, prediction)
    predicted = draft.count - words.own if prediction else 0
    return replace(draft, words=replace(words, predicted=predicted, prediction=gain)), pending


def _known(directory: Path, encoder: str, previous: Manifest | None) -> Embeddings | None:
    """Return the vectors of texts of the generation before, if they are whole and of the same encoder."""
    if previous is None or previous.words is None or previous.words.encoder != encoder:
        return None
    name = f"{previous.folder}/{generations.TEXT}"
    try:
        integrity.check_content(directory, previous, name)
        return open_array(directory / name, previous.count, sentences.DIMS)
    except (DamagedIndexError, FileNotFoundError) as error:
        logger.warning("%s; all texts are encoded again", error)
        return None


@contextlib.contextmanager
def _items(folder: Path, before: Path | None) -> Iterator[sqlite3.Connection]:
    """Open the items of a generation, and as `old` those of the one before."""
    with contextlib.closing(connect(folder / generations.ITEMS, read_only=True)) as connection:
        if before is None:
            connection.execute("ATTACH ':memory:' AS old")
            connection.execute("CREATE TABLE old.texts (row, sha256)")
        else:
            connection.execute("ATTACH ? AS old", (database_uri(before / generations.ITEMS),))
        yield connection


def _first_of_each(
    connection: sqlite3.Connection, count: int, known: Embeddings | None, pending: int, progress: Progress
) -> Iterator[Embeddings]:
    """Yield blocks of all rows: the vector of each different text in its first row, else zeros."""
    found = connection.execute(_DIFFERENT_TEXTS)
    done, after = 0, found.fetchone()
    for start in range(0, count, BLOCK_ROWS):
        block = np.zeros((min(BLOCK_ROWS, count - start), sentences.DIMS), np.float32)
        new: list[tuple[int, str]] = []
        while after is not None and after[0] < start + len(block):
            row, text, known_row = after
            if known is not None and known_row is not None:
                block[row - start] = known[known_row]
            else:
                new.append((row - start, text))
            after = found.fetchone()
        for first in range(0, len(new), _BATCH):
            progress("words", done, pending)
            batch = new[first : first + _BATCH]
            block[[row for row, _ in batch]] = _encoder().encode([text for _, text in batch])
            done += len(batch)
        yield block
    if pending:
        progress("words", pending, pending)


def _learn(
    vectors: Vectors, texts: Embeddings, owners: NDArray[np.int64], seed: int
) -> tuple[Prediction | None, PredictionGain | None]:
    """Learn to predict texts from images, of a sample of the items that have both."""
    if len(owners) > LARGEST_SAMPLE:  # the texts of more would be in memory, only to be drawn from
        chosen = np.random.default_rng(seed).choice(len(owners), LARGEST_SAMPLE, replace=False)
        owners = owners[np.sort(chosen)]
    return learn_prediction(vectors, owners[:, 0], texts[owners[:, 1]], seed)


def _complete(
    path: Path, texts: Embeddings, vectors: Vectors, owners: NDArray[np.int64], prediction: Prediction | None
) -> None:
    """Give each row with own words the vector of its text, and the others predicted ones."""
    first_rows = np.full(len(texts), -1, np.int64)
    first_rows[owners[:, 0]] = owners[:, 1]
    with path.open("r+b") as file:
        header = path.stat().st_size - texts.nbytes
        for start in range(0, len(texts), BLOCK_ROWS):
            first = first_rows[start : start + BLOCK_ROWS]
            block = texts[np.where(first >= 0, first, np.arange(start, start + len(first)))]
            if prediction and (first < 0).any():
                block[first < 0] = prediction.predict(vectors[start : start + BLOCK_ROWS][first < 0])
            file.seek(header + start * texts.itemsize * texts.shape[1])
            file.write(np.ascontiguousarray(block, "<f4").data)
    sync(path)
