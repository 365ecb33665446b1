"""CLIP's tokenizer: text to numbers of byte pairs (Sennrich et al., 2016), as a `tokenizer.json` describes it.

The library that writes these files brings a client of a model hub with it; what CLIP's files need of it is here.
"""

import heapq
import itertools
import json
import re
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from reprlib import repr as shortened
from typing import Any

from imgsearch.errors import MissingComponentError, UsageError
from imgsearch.files import open_regular
from imgsearch.system import words_of

# CLIP's has 49,408 tokens in up to four megabytes. What is longer is cut, and then no JSON.
_MOST_BYTES = 64_000_000
_MOST_TOKENS = 1_000_000
# What CLIP's text towers take, and what a tokenizer that does not say otherwise cuts its texts to.
_CLIP_LENGTH = 77
_MOST_LENGTH = 4096
SHORTEST = 3  # one token between those of start and end

_END_OF_WORD = "</w>"
_CONTRACTION = re.compile("'(?:s|t|re|ve|m|ll|d)")
# How text is split into words, in the two ways in which files spell it; the second names the marks of start and end,
# which mean nothing in a text of a user's.
_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
_SPELLINGS = (_WORDS, rf"<\|startoftext\|>|<\|endoftext\|>|{_WORDS}")


def _letters() -> Iterator[str]:
    """Yield the characters that stand for the bytes 0 to 255: those that can be seen stand for themselves."""
    spare = itertools.count(256)
    for byte in range(256):
        is_seen = 0x21 <= byte <= 0x7E or (byte >= 0xA1 and byte != 0xAD)
        yield chr(byte if is_seen else next(spare))


_LETTERS = tuple(_letters())


@dataclass(frozen=True, slots=True)
class BytePairTokenizer:
    """Turns text into token ids."""

    vocabulary: Mapping[str, int]  # id of each token; a byte stands as the character of `_LETTERS`
    ranks: Mapping[str, int]  # two tokens that become one, a space between them -> which merge comes first
    start: int  # id before a text
    end: int  # id after it
    padding: int  # id that fills a text up where a network takes texts of one length
    length: int  # ids of a text at most, start and end included
    composes: bool  # whether text is brought to Unicode's NFC first
    lowers: bool  # whether text is brought to lower case first

    @property
    def largest(self) -> int:
        """The largest id there is."""
        return max(self.start, self.end, self.padding, *self.vocabulary.values())

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text between those of start and end; what is beyond `length` is cut off."""
        if self.composes:
            text = unicodedata.normalize("NFC", text)
        if self.lowers:
            text = "".join(map(str.lower, text))  # one by one: the form of a letter does not depend on its neighbors
        ids: list[int] = []
        for word in _words(text):
            ids += map(self.vocabulary.__getitem__, self._merged(word))
            if len(ids) >= self.length - 2:
                break
        return [self.start, *ids[: self.length - 2], self.end]

    def _merged(self, word: str) -> list[str]:
        """Merge pairs of a word's tokens by their ranks, the left one of two equal pairs first, until none is left."""
        # Half a surrogate pair becomes a question mark.
        tokens = [_LETTERS[byte] for byte in word.encode("utf-8", "replace")]
        tokens[-1] += _END_OF_WORD
        # A list linked both ways and a heap: a word may be as long as the text.
        count = len(tokens)
        after, before = list(range(1, count + 1)), list(range(-1, count - 1))
        heap: list[tuple[int, int, str]] = []

        def propose(place: int) -> None:
            if place >= 0 and after[place] < count:
                pair = f"{tokens[place]} {tokens[after[place]]}"
                if pair in self.ranks:
                    heapq.heappush(heap, (self.ranks[pair], place, pair))

        for place in range(count):
            propose(place)
        while heap:
            _, place, pair = heapq.heappop(heap)
            gone = after[place]
            if gone == count or f"{tokens[place]} {tokens[gone]}" != pair:  # one of the two was merged in the meantime
                continue
            tokens[place], tokens[gone] = tokens[place] + tokens[gone], ""
            after[place] = after[gone]
            if after[gone] < count:
                before[after[gone]] = place
            propose(before[place])
            propose(place)
        return list(filter(None, tokens))


def read_tokenizer(path: Path) -> BytePairTokenizer:
    """Read a `tokenizer.json`.

    Args:
        path: The file: `model` of type BPE with `vocab`, a token's id by its text, in which each byte stands as a
            printable character, and with `merges`, pairs of tokens as lists or with a space between; `normalizer`,
            `pre_tokenizer` and `post_processor` as CLIP has them; `truncation` and `padding`, which may be null.

    Raises:
        MissingComponentError: There is no such file, or it cannot be read.
        UsageError: It is no tokenizer, or none like CLIP's.
    """
    try:
        with open_regular(path) as file:
            content = file.read(_MOST_BYTES)
    except OSError as error:
        raise MissingComponentError(f"{path} cannot be read: {words_of(error)}") from error
    try:
        return _tokenizer(json.loads(content))
    except (ValueError, RecursionError) as error:
        raise UsageError(
            f"expected a tokenizer like CLIP's, found another or a damaged one: {path}: {error}",
            hint="byte-level BPE as in CLIP's tokenizer.json is read; Unigram (SigLIP) and WordPiece are not",
        ) from error


def _tokenizer(data: Any) -> BytePairTokenizer:
    model = _object(_object(data, "the file").get("model"), "model")
    for name, expected in (("type", "BPE"), ("end_of_word_suffix", _END_OF_WORD)):
        _require(model.get(name) == expected, f"model.{name}", expected, model.get(name))
    for name in ("dropout", "ignore_merges", "continuing_subword_prefix"):
        _require(not model.get(name), f"model.{name}", "nothing", model.get(name))
    _check_words(data.get("pre_tokenizer"))
    steps = _normalizer_steps(data.get("normalizer"))
    marks = _object(data.get("post_processor"), "post_processor")
    _require(marks.get("type") == "RobertaProcessing", "post_processor.type", "RobertaProcessing", marks.get("type"))
    start, end = (_mark(marks.get(name), f"post_processor.{name}") for name in ("cls", "sep"))
    truncation, padding = (_object(data.get(name) or {}, name) for name in ("truncation", "padding"))
    for name, settings in (("truncation", truncation), ("padding", padding)):
        direction = settings.get("direction", "Right")
        _require(direction == "Right", f"{name}.direction", "Right", direction)
    length = truncation.get("max_length", _CLIP_LENGTH)
    is_usable = type(length) is int and SHORTEST <= length <= _MOST_LENGTH
    _require(is_usable, "truncation.max_length", f"{SHORTEST} to {_MOST_LENGTH}", length)
    vocabulary = _vocabulary(model.get("vocab"))
    return BytePairTokenizer(
        vocabulary=vocabulary,
        ranks=_ranks(model.get("merges"), vocabulary),
        start=start,
        end=end,
        padding=_id(padding.get("pad_id", end), "padding.pad_id"),
        length=length,
        composes="NFC" in steps,
        lowers="Lowercase" in steps,
    )


def _vocabulary(data: Any) -> Mapping[str, int]:
    """Check that ids are ids, and that all bytes have one, so that there is no text without tokens."""
    vocabulary = _object(data, "model.vocab")
    wrong = next((number for number in vocabulary.values() if not _is_id(number)), None)
    _require(wrong is None, "an id in model.vocab", f"below {_MOST_TOKENS:,}", wrong)
    missing = [letter + end for letter in _LETTERS for end in ("", _END_OF_WORD) if letter + end not in vocabulary]
    _require(not missing, "model.vocab", "one of all bytes", f"none of {missing[:1]}")
    return vocabulary


def _ranks(data: Any, vocabulary: Mapping[str, int]) -> Mapping[str, int]:
    _require(isinstance(data, list), "model.merges", "a list", data)
    ranks = {}
    for rank, merge in enumerate(data):
        try:
            pair = merge if isinstance(merge, str) else " ".join(merge)
        except TypeError as error:
            raise ValueError(f"expected a merge of two tokens, found {shortened(merge)}") from error
        if pair.count(" ") != 1 or pair.replace(" ", "") not in vocabulary:
            raise ValueError(
                f"expected a merge of two tokens that make one of the vocabulary, found {shortened(merge)}"
            )
        ranks[pair] = rank
    return ranks


def _normalizer_steps(data: Any) -> set[Any]:
    """Return which of CLIP's steps a normalizer takes, in whatever order: together they do the same."""
    found = set()
    for step in _steps(data, "normalizer") if data else []:
        kind = step.get("type")
        if kind == "Replace":  # white space is not looked at but as what lies between words
            is_known = step.get("pattern") == {"Regex": r"\s+"} and step.get("content") == " "
        else:
            is_known = kind in ("NFC", "Lowercase")
        _require(is_known, "normalizer", "NFC, Replace of white space, Lowercase", step)
        found.add(kind)
    return found


def _check_words(data: Any) -> None:
    """Require that text is split into words as `_words` does."""
    split, *rest = _steps(data, "pre_tokenizer") or [{}]
    patterns = [{"Regex": spelling} for spelling in _SPELLINGS]
    is_split = (split.get("type"), split.get("behavior"), split.get("invert")) == ("Split", "Removed", True)
    is_bytes = [each.get("type") for each in rest] == ["ByteLevel"] and not rest[0].get("add_prefix_space")
    is_known = is_split and is_bytes and split.get("pattern") in patterns
    _require(is_known, "pre_tokenizer", "CLIP's Split and ByteLevel", data)


def _steps(data: Any, name: str) -> list[Mapping[str, Any]]:
    """Return the steps of a sequence; a step that stands by itself is one of one."""
    steps = _object(data, name)
    inner = steps.get(f"{name.replace('_', '')}s") if steps.get("type") == "Sequence" else [steps]
    _require(isinstance(inner, list), name, "a list", inner)
    return [_object(step, name) for step in inner or []]


def _mark(data: Any, name: str) -> int:
    """Return the id of what stands before or after a text, which comes as `["<|endoftext|>", 49407]`."""
    _require(isinstance(data, list) and len(data) == 2, name, "a token and its id", data)
    return _id(data[1], name)


def _id(value: Any, name: str) -> int:
    _require(_is_id(value), name, f"an id below {_MOST_TOKENS:,}", value)
    return value  # type: ignore[no-any-return]


def _is_id(value: Any) -> bool:
    return type(value) is int and 0 <= value < _MOST_TOKENS


def _object(value: Any, name: str) -> Mapping[str, Any]:
    _require(isinstance(value, dict), name, "an object", value)
    return value  # type: ignore[no-any-return]


def _require(is_right: bool, name: str, words: str, value: object) -> None:
    if not is_right:
        raise ValueError(f"expected {name} to be {words}, found {shortened(value)}")


def _words(text: str) -> Iterator[str]:
    """Split text into contractions, runs of letters, single digits and runs of what else is not white space."""
    place = 0
    while place < len(text):
        kind, end = _kind(text[place]), place + 1
        if found := _CONTRACTION.match(text, place):
            end = found.end()
        elif kind != "number":
            while end < len(text) and _kind(text[end]) == kind:
                end += 1
        if kind != "space":
            yield text[place:end]
        place = end


def _kind(character: str) -> str:
    if character.isspace() and not "\x1c" <= character <= "\x1f":  # which Unicode does not call white space
        return "space"
    return {"L": "letter", "N": "number"}.get(unicodedata.category(character)[0], "other")
