"""Compare words with all items: by meaning, where there are vectors of words, and as they are spelled."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Protocol

import numpy as np

from imgsearch.encoders.runtime import TEXT_FILES, Embeddings
from imgsearch.search.backends.protocol import Rows
from imgsearch.search.nearest import Nearest
from imgsearch.search.once import Once
from imgsearch.search.ranking import Part, Ranking, Scores, all_scores
from imgsearch.store import integrity
from imgsearch.store.lifetime import Lifetime
from imgsearch.text import sentences
from imgsearch.text.lexical import match_expression

logger = logging.getLogger(__name__)

# How much predicted words count beside own ones, and the spelling beside the meaning; how much it counts that the words
# with a digit in them are there: more than all else, for sentence encoders know nothing of numbers, but short ones may
# be a price or a size; and how much of unwanted words is taken away (docs/benchmarks.md has the figures).
_MEANING_WEIGHTS = {"title": 1.0, "predicted": 0.9, "text": 1.0}
_SPELLING_WEIGHT = 0.5
_NUMBER_WEIGHT = 2.5
_SHORTEST_NUMBER = 4  # letters and digits
_UNWANTED_WEIGHT = 0.5

_MOST_NUMBERS = 16  # that are looked for one by one; of a list of a thousand that would take minutes

_Find = Callable[[str], tuple[Rows, Scores]]


class TextEncoder(Protocol):
    """Turns words into vectors."""

    def encode(self, texts: Sequence[str]) -> Embeddings:
        """Encode texts to rows of unit length, or zeros, float32 (n, d)."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class HeldOut:
    """What words must not find items by, for an evaluation: any but own words, and those of some items."""

    rows: Rows  # of items that are to have no own words
    vectors: Embeddings  # (rows, 512): what is predicted in their place, unit rows or zeros


class WordSearch:
    """Ranks the items of an index by words; for any number of threads."""

    def __init__(self, directory: Path, nearest: Nearest) -> None:
        self._directory = directory
        self._nearest = nearest
        self._lifetime = Lifetime()
        self._encoder: Once[TextEncoder] = Once(self._lifetime, self._open_encoder)
        self._has_warned = False

    def close(self) -> None:
        """Wait for what is being opened."""
        if self._lifetime.end():
            self._encoder.wait()

    @property
    def is_by_meaning(self) -> bool:
        """Whether words are compared by meaning: what encodes them is there, and the vectors that it is for."""
        if self._nearest.manifest.encoder.has_text_tower:
            return True
        words = self._nearest.manifest.words
        is_there = words is not None and words.own > 0 and words.encoder == sentences.IDENTITY
        return is_there and sentences.is_installed()

    def ranking(self, wanted: Sequence[str], unwanted: Sequence[str] = (), held_out: HeldOut | None = None) -> Ranking:
        """Score all items by the mean of some texts, less half the mean of others, if there are both.

        Hits are the items whose words, or what stands for these, can be compared by meaning, or are spelled alike.
        """
        texts = [*wanted, *unwanted]
        away = _UNWANTED_WEIGHT if wanted else 1.0
        weights = [1 / max(1, len(wanted))] * len(wanted) + [-away / max(1, len(unwanted))] * len(unwanted)
        # An article number alone is both looked for as the words are, and as a number.
        find = cache(partial(self._matches, held_out=held_out))
        found = self._spelled(wanted, weights[: len(wanted)], find)
        spelled = found + self._spelled(unwanted, weights[len(wanted) :], find)
        numbered = self._numbered(wanted, find)
        meant = self._meant(texts, weights, held_out)
        is_hit = (found if wanted else spelled) != 0  # what has unwanted words alone is no hit
        parts = [*meant, Part("words", np.where(spelled != 0, spelled, np.nan))]
        scores, most = (_SPELLING_WEIGHT * spelled, 1 + _SPELLING_WEIGHT) if meant else (spelled, 1.0)
        for part in meant:
            is_known = ~np.isnan(part.scores)
            scores = np.where(is_known, scores + _MEANING_WEIGHTS[part.name] * part.scores, scores)
            is_hit |= is_known
        if numbered.any():
            scores, most = scores + _NUMBER_WEIGHT * numbered, most + _NUMBER_WEIGHT
        most *= 1 + away * bool(wanted and unwanted)
        otherwise = np.nan if meant else 0.0
        is_of_one_text = bool(meant) and len(texts) == len(wanted) == 1
        scores = np.where(is_hit, scores / most, -np.inf)
        return Ranking(scores, parts, otherwise=otherwise, is_of_one_text=is_of_one_text)

    def _spelled(self, texts: Sequence[str], weights: Sequence[float], find: _Find) -> Scores:
        """Search for the texts as they are spelled: what share of the words items have, the rare ones counting more."""
        scores = np.zeros(self._nearest.manifest.count)
        for text, weight in zip(texts, weights, strict=True):
            rows, found = find(text)
            scores[rows] += weight * found
        return scores

    def _numbered(self, texts: Sequence[str], find: _Find) -> Scores:
        """Return 1 of items with the words that look like numbers, of as many as one item has; 0 of others."""
        numbers = dict.fromkeys(word for text in texts for word in text.split() if _is_number(word, text))
        words = [*numbers][:_MOST_NUMBERS]
        found = np.empty(0, np.int64)
        for rows in sorted((find(word)[0] for word in words), key=len):  # the rarest first
            both = rows[np.isin(rows, found)]
            found = both if len(both) else found if len(found) else rows
        scores = np.zeros(self._nearest.manifest.count)
        scores[found] = 1
        return scores

    def _matches(self, text: str, held_out: HeldOut | None) -> tuple[Rows, Scores]:
        """Return the items with words of a text as they are spelled, and which share of the words each has."""
        expression, manifest = match_expression(text), self._nearest.manifest
        # A joint model compares words with the pictures themselves: its items need none.
        has_words = bool(manifest.count) and not (manifest.words is None and manifest.encoder.has_text_tower)
        if not (expression and has_words):
            return np.empty(0, np.int64), np.empty(0)
        if held_out is None:
            return self._nearest.matches(expression)
        rows, scores = self._nearest.matches(expression, own_only=True)
        is_there = ~np.isin(rows, held_out.rows)
        return rows[is_there], scores[is_there]

    def _meant(self, texts: Sequence[str], weights: Sequence[float], held_out: HeldOut | None) -> list[Part]:
        """Compare vectors of the texts with those of the items' words; empty where there are none to compare."""
        if self._nearest.manifest.encoder.has_text_tower:
            return [Part("text", all_scores(self._nearest.vectors, self._vector(texts, weights)))]
        words = self._nearest.manifest.words
        if words is None or not words.own:
            return []
        if not self.is_by_meaning:
            how = "by meaning once imgsearch build-index has run again"
            if not sentences.is_installed():
                how = f"with the extra text also by meaning: {sentences.INSTALL}"
            self._warn(f"words are searched as they are spelled; {how}")
            return []
        vector = self._vector(texts, weights)
        scores = all_scores(self._nearest.text, vector)
        has_own = np.zeros(len(scores), bool)
        has_own[self._nearest.own_words()] = True
        if held_out:
            scores[held_out.rows] = held_out.vectors @ vector
            has_own[held_out.rows] = False
        scores[scores == 0] = np.nan  # of a row of zeros: nothing is known of that item's words
        parts = [Part("title", np.where(has_own, scores, np.nan))]
        has_predicted = words.predicted > 0 or held_out is not None
        return [*parts, Part("predicted", np.where(has_own, np.nan, scores))] if has_predicted else parts

    def _vector(self, texts: Sequence[str], weights: Sequence[float]) -> Embeddings:
        return np.asarray(weights, np.float32) @ self._encoder.result().encode(texts)

    def _open_encoder(self) -> TextEncoder:
        manifest = self._nearest.manifest
        if not manifest.encoder.has_text_tower:
            return sentences.open_sentence_encoder()
        from imgsearch.text.tower import open_text_tower

        for name in TEXT_FILES:
            integrity.check_truth(self._directory, manifest, f"{manifest.encoder_folder}/{name}")
        return open_text_tower(manifest.encoder, self._directory / manifest.encoder_folder)

    def _warn(self, message: str) -> None:
        """Say something once."""
        if not self._has_warned:
            self._has_warned = True
            logger.warning("%s", message)


def _is_number(word: str, text: str) -> bool:
    """Return whether a word of a text looks like an article number: a price or a size beside words does not."""
    is_long = sum(map(str.isalnum, word)) >= _SHORTEST_NUMBER
    return any(map(str.isdigit, word)) and (is_long or word == text.strip())
