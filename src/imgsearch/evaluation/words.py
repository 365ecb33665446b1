"""Queries in words: items' own words, withheld; columns of the shop's data; one word beside another item's picture."""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

import numpy as np

from imgsearch.errors import UsageError
from imgsearch.evaluation.queries import LabeledQuery, Labels, QuerySet, labels_of
from imgsearch.evaluation.results import PictureAndWord, Values
from imgsearch.evaluation.retrieval import OF_CATEGORIES, rank_all
from imgsearch.progress import Progress
from imgsearch.search.backends.protocol import Rows
from imgsearch.search.index import Index
from imgsearch.search.ranking import Ranking, by_both, by_pictures
from imgsearch.search.words import HeldOut
from imgsearch.text import sentences
from imgsearch.text.prediction import LARGEST_SAMPLE, Prediction, learn_prediction
from imgsearch.text.sentences import DIMS

# As many as calibration has, and as the prediction of a build is judged by.
_FOLDS = 5

# Fewer queries say nothing.
MIN_PAIRS = 20

# Words of a text that another text may have all but one of. Longer ones describe, and differ in more.
_MOST_WORDS = 20

_WORD = re.compile(r"\w+")
_NOTHING = HeldOut(np.empty(0, np.int64), np.empty((0, DIMS), np.float32))


def own_words(index: Index) -> Labels:
    """Return the own words of items as labels."""
    places: dict[str, int] = {}
    codes = np.full(len(index), -1, np.int32)
    rows = index.nearest.own_words()
    for start in range(0, len(rows), 1000):
        found = index.items.texts(rows[start : start + 1000].tolist())
        for row, text in sorted(found.items()):
            codes[row] = places.setdefault(text, len(places))
    return Labels("words", tuple(places), codes)


def from_own_words(index: Index, own: Labels, categories: Labels, sample: int, progress: Progress) -> QuerySet:
    """Ask with the own words of items, whose words are predicted from their images by what others teach.

    Of `sample` different texts at most, a fifth at a time is withheld: their items have predicted words, learned from
    all other items, and are looked for among all items, which keep their own words, or their predicted ones. A joint
    model compares texts with the images themselves; nothing is predicted then.
    """
    require_meaning(index)
    _require_words(own)
    codes = list(dict.fromkeys(int(own.codes[row]) for row, _ in index.items.shuffled() if own.codes[row] >= 0))
    codes = codes[:sample]
    queries: list[LabeledQuery] = []
    sees_images = index.manifest.encoder.has_text_tower
    has_learned = sees_images
    for fold in range(_FOLDS):
        progress("learn", fold + 1, _FOLDS)
        of_fold = codes[fold::_FOLDS]
        is_withheld = np.isin(own.codes, of_fold)
        rows = np.flatnonzero(is_withheld)
        predicted = np.zeros((len(rows), DIMS), np.float32)
        if not sees_images and (prediction := _learn(index, np.flatnonzero(~is_withheld & (own.codes >= 0)))):
            predicted, has_learned = prediction.predict(index.nearest.vectors[rows]), True
        held_out = HeldOut(rows, predicted)
        for code in of_fold:
            relevant = own.rows(code)
            text, category = own.names[code], categories.of(int(relevant[0]))
            ranking = partial(index.words.ranking, [text], held_out=held_out)
            queries.append(LabeledQuery(text, text, category, None, relevant, len(relevant), ranking=ranking))
    if not has_learned:
        raise UsageError(
            "words cannot be predicted from the images of this index, so nothing finds an item without its own",
            hint="--text-columns COLUMN asks for items by other words than their own",
        )
    return QuerySet(tuple(queries))


def require_meaning(index: Index) -> None:
    """Refuse an index whose items' words cannot be compared by meaning.

    Raises:
        MissingComponentError: The encoder of words is not installed.
        UsageError: The index has no vectors of words, or those of another encoder.
    """
    if index.words.is_by_meaning:
        return
    _require_words(own_words(index))
    sentences.open_sentence_encoder()  # which says what is not installed
    raise UsageError(
        f"the words in {index.directory} are not prepared to be compared by meaning",
        hint="run imgsearch build-index again",
    )


def _require_words(own: Labels) -> None:
    if not own.names:
        raise UsageError(
            "no item of the index has words of its own", hint="run imgsearch build-index --text COLUMN[,COLUMN]"
        )


def _learn(index: Index, rows: Rows) -> Prediction | None:
    """Learn to predict words from images, as a build does, from items with words of their own."""
    seed = index.manifest.search.seed if index.manifest.search else 0
    if len(rows) > LARGEST_SAMPLE:
        rows = np.sort(np.random.default_rng(seed).choice(rows, LARGEST_SAMPLE, replace=False))
    return learn_prediction(index.nearest.vectors, rows, index.nearest.text[rows], seed)[0]


def from_columns(index: Index, columns: Sequence[str], products: Labels, categories: Labels, sample: int) -> QuerySet:
    """Ask with what columns of the shop's data say of `sample` items at most, each different text of a column once.

    Right are the items of which the column says so, those of the same products, and those with the same own words.
    Items are found by their own words, or predicted ones, and not by other columns: the text itself stands there.
    """
    own = own_words(index)
    if not index.words.is_by_meaning:
        _require_words(own)
    words = index.manifest.words
    if words is not None and (own_columns := sorted(set(columns) & set(words.columns))):
        raise UsageError(
            f"--text-columns {own_columns[0]}: that column has the items' own words, which find themselves",
            hint="--text asks with these, for items that have none then",
        )
    by_column = [labels_of(index.items, column, len(index)) for column in columns]
    asked: set[tuple[str, int]] = set()
    queries: list[LabeledQuery] = []
    chosen = 0
    for row, _ in index.items.shuffled():
        new = [each for each in by_column if each.codes[row] >= 0 and (each.column, each.codes[row]) not in asked]
        if not new:
            continue
        for each in new:
            code = int(each.codes[row])
            asked.add((each.column, code))
            same = each.rows(code)
            is_right = each.codes == code
            for labels in (products, own):
                is_right |= np.isin(labels.codes, labels.codes[same][labels.codes[same] >= 0])
            relevant = np.flatnonzero(is_right)
            text, label, category = each.names[code], products.of(row), categories.of(row)
            queries.append(
                LabeledQuery(
                    *(f"{each.column}: {text}", label, category, None, relevant, len(relevant)),
                    ranking=partial(index.words.ranking, [text], held_out=_NOTHING),
                    column=each.column,
                )
            )
        chosen += 1
        if chosen == sample:
            break
    return QuerySet(tuple(queries))


def picture_and_word(index: Index, categories: Labels, sample: int, progress: Progress) -> PictureAndWord:
    """Ask with an item's picture and the one word in which another item's own words differ from its own.

    Right are the items with those words; the item itself is no hit. The same is asked with the picture alone, and with
    the word alone. At most `sample` queries, and each item asks once for each of its words that others have not.
    """
    own = own_words(index)
    changes = _changes(own.names)
    asked: dict[str, tuple[int, Rows, str]] = {}
    for row, path in index.items.shuffled():
        for word, others in changes.get(int(own.codes[row]), ()):
            asked[f"{path} + {word}"] = row, np.flatnonzero(np.isin(own.codes, others)), word
        if len(asked) >= sample:
            break
    queries = list(asked.items())[:sample]
    if len(queries) < MIN_PAIRS:
        return PictureAndWord(tuple(name for name, _ in queries), {})

    def picture(row: int) -> Ranking:
        return by_pictures(index.nearest.vectors, index.nearest.views_at([row]))

    ways: Mapping[str, Callable[[int, str], Ranking]] = {
        "picture_and_word": lambda row, word: by_both(picture(row), index.words.ranking([word])),
        "picture_alone": lambda row, _: picture(row),
        "word_alone": lambda _, word: index.words.ranking([word]),
    }
    measured: dict[str, Values] = {}
    for way, ranking in ways.items():
        labeled = [
            LabeledQuery(
                *(name, word, categories.of(row), None, relevant, len(relevant)),
                own_row=row,
                ranking=partial(ranking, row, word),
            )
            for name, (row, relevant, word) in queries
        ]
        found = rank_all(index, QuerySet(tuple(labeled)), "text", own, progress)
        measured |= {f"{way}_{name}": found.measures[name] for name in OF_CATEGORIES}
    return PictureAndWord(tuple(name for name, _ in queries), measured)


def _changes(texts: Sequence[str]) -> Mapping[int, Sequence[tuple[str, Sequence[int]]]]:
    """Find, for each text, words that other texts have in place of one of its own, and the places of these texts.

    Both words are in further texts, too: a name that there is once needs no picture beside it. What the texts share
    has a word that at most half of all texts have: those that share "a" alone are about anything. Of several that have
    another word in one place the next in the order of the alphabet counts.
    """
    words = [_WORD.findall(text.casefold()) for text in texts]
    counts = Counter(word for of_text in words for word in set(of_text))
    frequent = {word for word, count in counts.items() if count > len(texts) / 2}
    seen: set[int] = set()
    repeated: set[int] = set()
    for of_text in words:
        for _, rest in _rests(of_text):
            (repeated if hash(rest) in seen else seen).add(hash(rest))
    groups: dict[tuple[str, ...], dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for code, of_text in enumerate(words):
        for word, rest in _rests(of_text):
            if hash(rest) in repeated:  # few are: all of them would take much memory
                groups[rest][word].append(code)
    found: dict[int, list[tuple[str, Sequence[int]]]] = defaultdict(list)
    for rest, group in groups.items():
        ordered = sorted(word for word, codes in group.items() if counts[word] > len(codes))
        if frequent.issuperset({*rest} - {""}):
            continue
        for word, other in zip(ordered, [*ordered[1:], *ordered[:1]], strict=True):
            for code in group[word] if word != other else ():
                if other not in words[code]:
                    found[code].append((other, group[other]))
    return found


def _rests(words: list[str]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield each word of a short text, and the text with a gap in its place."""
    if 2 <= len(words) <= _MOST_WORDS:
        for place, word in enumerate(words):
            yield word, (*words[:place], "", *words[place + 1 :])
