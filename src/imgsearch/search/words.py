"""Compare words with all items: by meaning, where there are vectors of words, and as they are spelled."""

import logging
from collections.abc import Sequence
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
# with a digit in them are there: more than all else, for sentence encoders know nothing of numbers; and how much of
# unwanted words is taken away (docs/benchmarks.md has the figures).
_MEANING_WEIGHTS = {"title": 1.0, "predicted": 0.9, "text": 1.0}
_SPELLING_WEIGHT = 0.3
_NUMBER_WEIGHT = 2.5
_UNWANTED_WEIGHT = 0.5

_INSTALL = "pip install 'imgsearch-toolkit[text]'"


class TextEncoder(Protocol):
    """Turns words into vectors."""

    def encode(self, texts: Sequence[str]) -> Embeddings:
        """Encode texts to rows of unit length, or zeros, float32 (n, d)."""
        ...


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

    def ranking(self, wanted: Sequence[str], unwanted: Sequence[str] = ()) -> Ranking:
        """Score all items by the mean of some texts, less half the mean of others, if there are both.

        Hits are the items whose words, or what stands for these, can be compared by meaning, or are spelled alike.
        """
        texts = [*wanted, *unwanted]
        away = _UNWANTED_WEIGHT if wanted else 1.0
        weights = [1 / max(1, len(wanted))] * len(wanted) + [-away / max(1, len(unwanted))] * len(unwanted)
        spelled, numbered = self._spelled(texts, weights), self._numbered(wanted)
        meant = self._meant(texts, weights)
        parts = [*meant, Part("words", np.where(spelled == 0, np.nan, spelled))]
        if meant:
            meaning = np.nansum([_MEANING_WEIGHTS[part.name] * part.scores for part in meant], axis=0)
            is_hit = np.any([~np.isnan(part.scores) for part in parts], axis=0)
            scores, most = meaning + _SPELLING_WEIGHT * spelled, 1 + _SPELLING_WEIGHT
        else:
            scores, most, is_hit = spelled, 1.0, spelled != 0
        if numbered.any():
            scores, most = scores + _NUMBER_WEIGHT * numbered, most + _NUMBER_WEIGHT
        most *= 1 + away * bool(wanted and unwanted)
        otherwise = np.nan if meant else 0.0
        return Ranking(np.where(is_hit, scores / most, -np.inf), parts, otherwise=otherwise)

    def _spelled(self, texts: Sequence[str], weights: Sequence[float]) -> Scores:
        """Search for the texts as they are spelled: BM25, of the best item 1; 0 of items without any of the words."""
        scores = np.zeros(self._nearest.manifest.count)
        for text, weight in zip(texts, weights, strict=True):
            rows, found = self._matches(text)
            scores[rows] += weight * found / found.max(initial=1e-9)
        return scores

    def _numbered(self, texts: Sequence[str]) -> Scores:
        """Return 1 of items with the words that have a digit in them, of as many as one item has; 0 of others."""
        words = [word for text in texts for word in text.split() if any(map(str.isdigit, word))]
        found = np.empty(0, np.int64)
        for rows in sorted((self._matches(word)[0] for word in words), key=len):  # the rarest first
            both = rows[np.isin(rows, found)]
            found = both if len(both) else found if len(found) else rows
        scores = np.zeros(self._nearest.manifest.count)
        scores[found] = 1
        return scores

    def _matches(self, text: str) -> tuple[Rows, Scores]:
        expression = match_expression(text)
        return self._nearest.matches(expression) if expression else (np.empty(0, np.int64), np.empty(0))

    def _meant(self, texts: Sequence[str], weights: Sequence[float]) -> list[Part]:
        """Compare vectors of the texts with those of the items' words; empty where there are none to compare."""
        if self._nearest.manifest.encoder.has_text_tower:
            return [Part("text", all_scores(self._nearest.vectors, self._vector(texts, weights)))]
        words = self._nearest.manifest.words
        if words is None or not words.own:
            return []
        if not sentences.is_installed():
            self._warn(f"words are searched as they are spelled; with the extra text also by meaning: {_INSTALL}")
            return []
        if words.encoder != sentences.IDENTITY:
            self._warn("words are searched as they are spelled: by meaning once imgsearch build-index has run again")
            return []
        scores = all_scores(self._nearest.text, self._vector(texts, weights))
        scores[scores == 0] = np.nan  # of a row of zeros: nothing is known of that item's words
        has_own = np.zeros(len(scores), bool)
        has_own[self._nearest.own_words()] = True
        parts = [Part("title", np.where(has_own, scores, np.nan))]
        return [*parts, Part("predicted", np.where(has_own, np.nan, scores))] if words.predicted else parts

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
