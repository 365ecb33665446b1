"""How good are the answers to words: python benchmarks/text.py FOLDER.

Two catalogs with titles in sixteen languages: the stamps, and emoji, which Unicode's CLDR names (npm packages
cldr-annotations-full and cldr-annotations-derived-full). Constants were chosen by the figures of emoji, those of a
picture with a word by one half of them, told apart as in answers.py; docs/benchmarks.md says which was not.

- titles in another language, asked for among English ones;
- keywords: one word, of folders or of CLDR, and every image that has it is right;
- article numbers, which sentence vectors know nothing of;
- titles of images that have none, by what the other images' titles teach;
- a picture and a word: the same in blue.
"""

import csv
import hashlib
import json
import re
import sqlite3
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from answers import CATALOG_VENDOR, emoji_files, is_tuned_on
from catalogs import LANGUAGES, stamps, stamps_with_titles, title_column
from imgsearch import Index, build_index
from imgsearch.encoders.runtime import Embeddings
from imgsearch.images.decode import decode_rgba
from imgsearch.synthetic.augment import photo_like
from imgsearch.text.lexical import TOKENIZER, match_expression, searchable
from imgsearch.text.prediction import learn_prediction
from imgsearch.text.sentences import SentenceEncoder, open_sentence_encoder
from npm import unpack_package

Scores = NDArray[np.float64]

CLDR_VERSION = "48.2.0"
# CLDR's names of languages, where they are not the stamps'.
CLDR_NAMES = {"": "en", "zh_CN": "zh", "zh_TW": "zh-Hant"}

# What was chosen.
SPELLING_WEIGHT = 0.3
NUMBER_WEIGHT = 2.5
TEXT_WEIGHT = 0.5
UNWANTED_WEIGHT = 0.5

SPELLING_WEIGHTS = (0.0, 0.1, 0.2, 0.3, 0.5, 1.0)
TEXT_WEIGHTS = (0.1, 0.2, 0.3, 0.35, 0.4, 0.5, 0.6, 0.7, 0.8)
UNWANTED_WEIGHTS = (0.0, 0.25, 0.5, 0.75, 1.0)
PREDICTED_WEIGHTS = (0.0, 0.7, 0.8, 0.9, 1.0)
FOLDS, SEEDS = 5, 3
NUMBERS = 200
PHOTO_SEED, PHOTOS = 3, 250

# What products of a kind come in: words that say which, not what.
COLORS = "black white gray grey red orange yellow green blue purple pink brown golden silver"
PEOPLE = "man woman person men women people boy girl male female king queen prince princess"
SIZES = "big small large medium little old young tall short long light dark open closed"
ATTRIBUTES = frozenset(f"{COLORS} {PEOPLE} {SIZES}".split())
_STOP_WORDS = frozenset(("a", "an", "the", "of", "and", "or", "with", "in", "on", "at", "to", "for", "from", "by"))


@dataclass(frozen=True, slots=True)
class Catalog:
    """Images with titles.

    Attributes:
        kind: What the tables call it.
        paths: Of the images, by row.
        titles: By column, "" where there is none.
        kinds: Of each image, what it belongs to: its folder, or its subcategory.
        keywords: Of each image.
        index: Of the images.
        pictures: Their vectors.
        encode: From texts to vectors, kept in a file.
    """

    kind: str
    paths: Sequence[str]
    titles: Mapping[str, Sequence[str]]
    kinds: Sequence[str]
    keywords: Sequence[frozenset[str]]
    index: Path
    pictures: Embeddings
    encode: Callable[[Sequence[str]], Embeddings]

    @property
    def title(self) -> Sequence[str]:
        """Return the English titles, which are what is searched."""
        return self.titles["title"]

    @property
    def labels(self) -> NDArray[np.int64]:
        """Number the distinct English titles."""
        return np.unique(self.title, return_inverse=True)[1]


def main(folder: Path) -> None:
    """Print all tables."""
    encoder = open_sentence_encoder()
    catalogs = [catalog for catalog in (emoji(folder, encoder), titled_stamps(folder, encoder)) if catalog]
    for catalog in catalogs:
        print(f"  {catalog.kind}: {len(catalog.paths)} images, {len(set(catalog.title))} titles", flush=True)
    for each in (languages, keywords, article_numbers, predicted, together, mixed):
        for catalog in catalogs:
            each(catalog)
    for catalog in catalogs:
        if catalog.kind == "stamps":
            photographed(catalog, folder)


def titled_stamps(folder: Path, encoder: SentenceEncoder) -> Catalog | None:
    """Read the stamps."""
    table = stamps_with_titles(folder / "stamps")
    if table is None or not stamps(folder / "stamps"):
        return None
    with table.open(encoding="utf-8", newline="") as file:
        rows = {row["path"]: row for row in csv.DictReader(file)}
    words = {path: frozenset(path.split("/")[:-1]) for path in rows}
    return _catalog("stamps", folder, rows, {path: path.rpartition("/")[0] for path in rows}, words, encoder)


def emoji(folder: Path, encoder: SentenceEncoder) -> Catalog | None:
    """Read the emoji, and what CLDR calls them."""
    packages = {
        "annotations": "cldr-annotations-full",
        "annotationsDerived": "cldr-annotations-derived-full",
    }
    for name, package in packages.items():
        if not unpack_package(package, CLDR_VERSION, folder / f"cldr-{name}"):
            return None
    if not (drawn := emoji_files(folder)):
        return None
    files = {file.name: _characters(file.stem) for file in sorted(drawn[0].iterdir())}
    rows: dict[str, dict[str, str]] = {name: {} for name in files}
    words: dict[str, frozenset[str]] = {}
    for language in ("", *LANGUAGES):
        named: dict[str, dict[str, list[str]]] = {}
        for name in packages:
            place = folder / f"cldr-{name}" / "package" / name / CLDR_NAMES.get(language, language)
            found = json.loads((place / "annotations.json").read_text(encoding="utf-8"))[name]["annotations"]
            named |= {characters.replace("\ufe0f", ""): names for characters, names in found.items()}
        for file, characters in files.items():
            names = named.get(characters, {})
            rows[file][title_column(language)] = names.get("tts", [""])[0]
            if not language:
                words[file] = frozenset(names.get("default", ()))
    data = json.loads((folder / f"emoji-{CATALOG_VENDOR}" / "package" / "emoji.json").read_text(encoding="utf-8"))
    return _catalog("emoji", folder, rows, {each["image"]: each["subcategory"] for each in data}, words, encoder)


def _characters(code_points: str) -> str:
    return "".join(chr(int(point, 16)) for point in code_points.split("-")).replace("\ufe0f", "")


def _catalog(
    kind: str,
    folder: Path,
    rows: Mapping[str, Mapping[str, str]],
    kinds: Mapping[str, str],
    words: Mapping[str, frozenset[str]],
    encoder: SentenceEncoder,
) -> Catalog:
    directory = folder / f"text-{kind}.imgsearch"
    build_index(folder / kind, directory)
    with Index.open(directory) as index:
        paths = [item.path for item in index.items.fetch(range(len(index)))]
        pictures = np.array(index.nearest.vectors)
    columns = [title_column(language) for language in ("", *LANGUAGES)]
    titles = {column: [rows[path].get(column, "") for path in paths] for column in columns}

    def encode(texts: Sequence[str]) -> Embeddings:
        name = hashlib.sha256("\0".join(texts).encode()).hexdigest()[:16]
        kept = folder / "text-vectors" / f"{name}.npy"
        if not kept.exists():
            kept.parent.mkdir(exist_ok=True)
            np.save(kept, encoder.encode(texts))
        return np.asarray(np.load(kept), np.float32)

    of_items = [kinds[path] for path in paths], [words[path] for path in paths]
    return Catalog(kind, paths, titles, *of_items, directory, pictures, encode)


class WordSearch:
    """Scores all images for words: cosines of sentence vectors, and how the words are spelled."""

    def __init__(self, catalog: Catalog, texts: Sequence[str]) -> None:
        self._catalog = catalog
        self._vectors = catalog.encode(texts)
        self._spelled = sqlite3.connect(":memory:")
        self._spelled.execute(f"CREATE VIRTUAL TABLE words USING fts5(text, tokenize='{TOKENIZER}')")
        rows = ((row, searchable(text)) for row, text in enumerate(texts))
        self._spelled.executemany("INSERT INTO words (rowid, text) VALUES (?, ?)", rows)

    def meaning(self, asked: Sequence[str]) -> Scores:
        """Return cosines, (len(asked), count)."""
        return np.asarray(self._catalog.encode(asked) @ self._vectors.T, np.float64)

    def spelling(self, asked: Sequence[str]) -> Scores:
        """Return BM25 of any of the words, that of the best image 1."""
        found = np.zeros((len(asked), len(self._vectors)))
        for scores, text in zip(found, asked, strict=True):
            for row, score in self._matches(match_expression(text)):
                scores[row] = score
        return np.asarray(found / np.maximum(found.max(axis=1, keepdims=True), 1e-9))

    def numbers(self, asked: Sequence[str]) -> Scores:
        """Return 1 for images that have the words with a digit in them: as many as one can have, the rarest first."""
        found = np.zeros((len(asked), len(self._vectors)))
        for scores, text in zip(found, asked, strict=True):
            words = [word for word in text.split() if has_digit(word)]
            having = sorted(({row for row, _ in self._matches(match_expression(word))} for word in words), key=len)
            chosen: set[int] = set()
            for rows in having:
                chosen = chosen & rows or chosen or rows
            scores[list(chosen)] = 1
        return found

    def scores(self, asked: Sequence[str]) -> Scores:
        """Return all of it together."""
        meant, spelled, numbered = self.meaning(asked), self.spelling(asked), self.numbers(asked)
        return np.asarray(meant + SPELLING_WEIGHT * spelled + NUMBER_WEIGHT * numbered)

    def _matches(self, expression: str) -> Iterator[tuple[int, float]]:
        if expression:
            yield from self._spelled.execute("SELECT rowid, -bm25(words) FROM words WHERE words MATCH ?", (expression,))


def languages(catalog: Catalog) -> None:
    """Ask for English titles in other languages."""
    print(
        f"  {catalog.kind}, other languages' titles among English ones: hit rate at 1 by meaning; with spelling @1 @10"
    )
    search = WordSearch(catalog, catalog.title)
    for language in LANGUAGES:
        titles = catalog.titles[title_column(language)]
        pairs = {(title, label): None for title, label in zip(titles, catalog.labels, strict=True) if title}
        asked, wanted = [title for title, _ in pairs], np.array([label for _, label in pairs])
        meaning, spelling = search.meaning(asked), search.spelling(asked)
        alone, both = (
            _is_right(scores, catalog.labels, wanted) for scores in (meaning, meaning + SPELLING_WEIGHT * spelling)
        )
        rates = alone[:, 0].mean(), both[:, 0].mean(), both.any(axis=1).mean()
        print(f"    {language:<6} {len(asked):>5} queries  {'  '.join(f'{rate:.3f}' for rate in rates)}", flush=True)


def keywords(catalog: Catalog) -> None:
    """Ask for one word that fits several images: a keyword, or one that stands in titles."""
    search = WordSearch(catalog, catalog.title)
    in_titles = [frozenset(map(_singular, words_of(title))) for title in catalog.title]
    for about, of_items, least in (("keywords", catalog.keywords, 3), ("words of titles", in_titles, 2)):
        right: dict[str, set[int]] = defaultdict(set)
        for row, words in enumerate(of_items):
            for word in filter(re.compile("[a-z]{3,}").fullmatch, words):
                right[word].add(row)
        asked = sorted(
            word
            for word, rows in right.items()
            if len({catalog.title[row] for row in rows}) >= least and len(rows) < len(catalog.paths) / 2
        )
        meaning, spelling = search.meaning(asked), search.spelling(asked)
        print(f"  {catalog.kind}, {len(asked)} {about}: mean average precision by weight of the spelling")
        found = {f"{weight:g}": meaning + weight * spelling for weight in SPELLING_WEIGHTS} | {"alone": spelling}
        precisions = {
            name: np.mean([_precision(row, right[word]) for word, row in zip(asked, scores, strict=True)])
            for name, scores in found.items()
        }
        print("    " + "  ".join(f"{name} {precision:.3f}" for name, precision in precisions.items()), flush=True)


def article_numbers(catalog: Catalog) -> None:
    """Give titles article numbers, and ask for these alone, and beside a title of another image."""
    generator = np.random.default_rng(0)
    rows = np.sort(generator.choice(len(catalog.paths), NUMBERS, replace=False))
    formats = "AB-{0:05d}", "{0:04d}-{1:03d}", "40{0:05d}{1:05d}", "x{0}.{1}"
    texts, numbers = list(catalog.title), []
    for place, row in enumerate(rows):
        numbers.append(formats[place % 4].format(1000 + 7 * place, 8 + place))
        texts[row] = f"{texts[row]} {numbers[-1]}"
    search = WordSearch(catalog, texts)
    others = []
    for row, number in zip(np.roll(rows, 1).tolist(), numbers, strict=True):
        # Some titles have a number of their own, as rare as an article's.
        words = [word for word in catalog.title[row].split() if not has_digit(word)]
        others.append(" ".join([*words, number]))
    print(f"  {catalog.kind}, {NUMBERS} article numbers: hit rate at 1 by meaning, with spelling, with numbers first")
    for about, asked in (("alone", numbers), ("beside the title of another", others)):
        meaning, spelling = search.meaning(asked), search.spelling(asked)
        ways = meaning, meaning + SPELLING_WEIGHT * spelling, search.scores(asked)
        rates = [np.mean(scores.argmax(axis=1) == rows) for scores in ways]
        print(f"    {about:<28} {'  '.join(f'{rate:.3f}' for rate in rates)}", flush=True)


def predicted(catalog: Catalog) -> None:
    """Predict the titles of a fold by those of the others: of titles held out, and of whole kinds."""
    texts, labels = catalog.encode(catalog.title), catalog.labels
    kinds = np.unique(catalog.kinds, return_inverse=True)[1]
    print(f"  {catalog.kind}, titles that were not learned: hit rate at 1, at 10, mAP, chance at 10; {FOLDS} folds")
    for about, groups in (("titles", labels), ("whole kinds", kinds)):
        figures = []
        for seed in range(SEEDS):
            folds = np.random.default_rng(seed).permutation(groups.max() + 1) % FOLDS
            for fold in range(FOLDS):
                is_held_out = folds[groups] == fold
                figures.append(_foretold(catalog.pictures, texts, labels, is_held_out, seed))
        mean = np.mean(figures, axis=0)
        print(f"    {about:<12} {'  '.join(f'{figure:.3f}' for figure in mean)}", flush=True)


def _foretold(
    pictures: Embeddings, texts: Embeddings, labels: NDArray[np.int64], is_held_out: NDArray[np.bool_], seed: int
) -> list[float]:
    rows = np.flatnonzero(~is_held_out)
    prediction, _ = learn_prediction(pictures, rows, texts[rows], seed)
    assert prediction is not None
    held_out = np.flatnonzero(is_held_out)
    asked, first = np.unique(labels[held_out], return_index=True)
    scores = np.asarray(texts[held_out[first]] @ prediction.predict(pictures[held_out]).T, np.float64)
    right = _is_right(scores, labels[held_out], asked)
    of_each = [set(np.flatnonzero(labels[held_out] == label).tolist()) for label in asked]
    precisions = [_precision(row, wanted) for row, wanted in zip(scores, of_each, strict=True)]
    return [right[:, 0].mean(), right.any(axis=1).mean(), float(np.mean(precisions)), 10 / len(held_out)]


def mixed(catalog: Catalog) -> None:
    """Ask in German where half of the images have titles, and the others predicted ones that count less."""
    texts, labels, german = catalog.encode(catalog.title), catalog.labels, catalog.encode(catalog.titles["title_de"])
    print(f"  {catalog.kind}, half of the titles predicted, German queries, by the weight of predicted ones")
    print("    of images with a title @1 @10; of those without @1 @10")
    for weight in PREDICTED_WEIGHTS:
        figures = []
        for half in range(2):
            has_none = np.random.default_rng(0).permutation(labels.max() + 1)[labels] % 2 == half
            rows = np.flatnonzero(~has_none)
            prediction, _ = learn_prediction(catalog.pictures, rows, texts[rows], 0)
            assert prediction is not None
            known = np.where(has_none[:, None], weight * prediction.predict(catalog.pictures), texts)
            right = _is_right(np.asarray(german @ known.T, np.float64), labels, labels)
            parts = right[~has_none], right[has_none]
            figures.append([rate for part in parts for rate in (part[:, 0].mean(), part.any(axis=1).mean())])
        print(f"    {weight:<4} {'  '.join(f'{figure:.3f}' for figure in np.mean(figures, axis=0))}", flush=True)


@dataclass(frozen=True, slots=True)
class Pairs:
    """Queries of an image and a word: another has a title that differs in that word alone.

    Attributes:
        rows: Of the images asked with.
        wanted: The word that the other has in its place.
        unwanted: The word of the image itself.
        right: Number of the words of the right images, all of which are right.
        words: That of each image.
    """

    rows: NDArray[np.int64]
    wanted: Sequence[str]
    unwanted: Sequence[str]
    right: NDArray[np.int64]
    words: NDArray[np.int64]

    def where(self, is_kept: Sequence[bool]) -> "Pairs":
        """Return some of them."""
        kept = np.flatnonzero(is_kept).tolist()
        words = [self.wanted[place] for place in kept], [self.unwanted[place] for place in kept]
        return Pairs(self.rows[kept], *words, self.right[kept], self.words)


def pairs_of(catalog: Catalog) -> Pairs:
    """Find all queries of a catalog: titles that share words, and of which one word differs."""
    bags = [words_of(title) for title in catalog.title]
    numbers = {words: number for number, words in enumerate(dict.fromkeys(bags))}
    by_rest: dict[frozenset[str], list[tuple[int, str]]] = defaultdict(list)
    for row, words in enumerate(bags):
        for word in words:
            by_rest[words - {word}].append((row, word))
    found = {
        (row, wanted): (unwanted, rest | {wanted})
        for rest, members in by_rest.items()
        if rest
        for row, unwanted in members
        for _, wanted in members
        if wanted != unwanted
    }
    rows, right = [row for row, _ in found], [numbers[words] for _, words in found.values()]
    wanted, unwanted = [word for _, word in found], [word for word, _ in found.values()]
    of_images = [numbers[bag] for bag in bags]
    return Pairs(np.array(rows), wanted, unwanted, np.array(right), np.array(of_images))


def together(catalog: Catalog) -> None:
    """Ask with an image and a word that another has in place of one of its own."""
    pairs = pairs_of(catalog)
    counts = Counter(word for words in set(map(words_of, catalog.title)) for word in words)
    both = zip(pairs.wanted, pairs.unwanted, strict=True)
    of_any = pairs.where([min(counts[word] for word in words) >= 2 for words in both])
    for about, asked in (("an attribute", _of_attributes(pairs)), ("any word of two titles", of_any)):
        halves = {"": asked}
        if catalog.kind == "emoji":
            tuned = [is_tuned_on(catalog.paths[row]) for row in asked.rows]
            halves = {
                ", tuning half": asked.where(tuned),
                ", half that decides nothing": asked.where([not is_one for is_one in tuned]),
            }
        for half, part in halves.items():
            print(f"  {catalog.kind}, a picture and {about}{half}: {len(part.rows)} queries, hit rate at 1")
            _fuse(catalog, part, catalog.pictures[part.rows])


def photographed(catalog: Catalog, folder: Path) -> None:
    """Ask with photos in place of the images: for another, and for what is shown, with words that tell more or less."""
    pairs = _of_attributes(pairs_of(catalog))
    print(f"  {catalog.kind}, a photo and an attribute: {len(pairs.rows)} queries, hit rate at 1")
    _fuse(catalog, pairs, _photos(catalog, folder, pairs.rows.tolist()))

    rows = np.random.default_rng(PHOTO_SEED).choice(len(catalog.paths), PHOTOS, replace=False)
    pictures = np.asarray(_photos(catalog, folder, rows.tolist()) @ catalog.pictures.T, np.float64)
    search = WordSearch(catalog, catalog.title)
    print(f"  {catalog.kind}, {PHOTOS} photos and words about what they show: hit rate at 1 by weight of the words")
    asked = {
        "German title": [catalog.titles["title_de"][row] for row in rows],
        "Japanese title": [catalog.titles["title_ja"][row] for row in rows],
        "folder": [catalog.kinds[row].rpartition("/")[2] for row in rows],
        "nonsense": ["qwertz"] * PHOTOS,
    }
    for about, texts in asked.items():
        words = search.scores(texts)
        found = {
            f"{weight:g}": _is_right(fused(pictures, words, weight), catalog.labels, catalog.labels[rows])[:, 0].mean()
            for weight in (0.0, *TEXT_WEIGHTS)
        }
        print(f"    {about:<14} " + "  ".join(f"{weight} {rate:.3f}" for weight, rate in found.items()), flush=True)


def _photos(catalog: Catalog, folder: Path, rows: Sequence[int]) -> Embeddings:
    """Embed photo-like variants of images."""
    vectors = []
    with Index.open(catalog.index) as index:
        for place, row in enumerate(rows):
            item = decode_rgba((folder / catalog.kind / catalog.paths[row]).read_bytes())
            photo = photo_like(item, np.random.default_rng([PHOTO_SEED, place]))
            vectors.append(index.viewer.whole(photo).vector)
    return np.asarray(vectors, np.float32)


def _of_attributes(pairs: Pairs) -> Pairs:
    both = zip(pairs.wanted, pairs.unwanted, strict=True)
    return pairs.where([{*words} <= ATTRIBUTES for words in both])


def _fuse(catalog: Catalog, pairs: Pairs, vectors: Embeddings) -> None:
    search = WordSearch(catalog, catalog.title)
    pictures = np.asarray(vectors @ catalog.pictures.T, np.float64)
    wanted, unwanted = (_of_each(search, words) for words in (pairs.wanted, pairs.unwanted))

    def rate(scores: Scores) -> float:
        others = scores.copy()
        others[np.arange(len(others)), pairs.rows] = -np.inf
        return float(np.mean(pairs.words[others.argmax(axis=1)] == pairs.right))

    by_rank = [1 / (60 + np.argsort(np.argsort(-scores, axis=1), axis=1)) for scores in (pictures, wanted)]
    ways = {"picture": pictures, "word": wanted, "reciprocal ranks": by_rank[0] + by_rank[1]}
    print("    " + "  ".join(f"{name} {rate(scores):.3f}" for name, scores in ways.items()))
    by_weight = {weight: rate(fused(pictures, wanted, weight)) for weight in TEXT_WEIGHTS}
    print("    weight of the word: " + "  ".join(f"{weight:g} {found:.3f}" for weight, found in by_weight.items()))
    less = {weight: rate(fused(pictures, wanted - weight * unwanted, TEXT_WEIGHT)) for weight in UNWANTED_WEIGHTS}
    print(
        "    less what it is now: " + "  ".join(f"{weight:g} {found:.3f}" for weight, found in less.items()), flush=True
    )


def _of_each(search: WordSearch, words: Sequence[str]) -> Scores:
    distinct = sorted(set(words))
    scores = dict(zip(distinct, search.scores(distinct), strict=True))
    return np.stack([scores[word] for word in words])


def fused(pictures: Scores, words: Scores, weight: float) -> Scores:
    """Add both, each as standard scores over all images."""
    return (1 - weight) * _standard(pictures) + weight * _standard(words)


def _standard(scores: Scores) -> Scores:
    spread = scores.std(axis=1, keepdims=True)
    return np.asarray((scores - scores.mean(axis=1, keepdims=True)) / np.where(spread > 0, spread, 1))


def words_of(title: str) -> frozenset[str]:
    """Return the words of a title that say something."""
    return frozenset(re.findall(r"\w+", title.lower())) - _STOP_WORDS


def has_digit(word: str) -> bool:
    """Return whether a word may be a number of some kind."""
    return any(map(str.isdigit, word))


def _singular(word: str) -> str:
    if word.endswith("ies"):
        return word[:-3] + "y"
    return word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word


def _is_right(scores: Scores, labels: NDArray[np.int64], wanted: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return which of the first ten have the wanted label: (queries, 10)."""
    return np.asarray(labels[np.argsort(-scores, axis=1, kind="stable")[:, :10]] == wanted[:, None])


def _precision(scores: Scores, right: set[int]) -> float:
    """Return the average precision of a ranking."""
    places = np.flatnonzero(np.isin(np.argsort(-scores, kind="stable"), list(right))) + 1
    return float(np.mean(np.arange(1, len(places) + 1) / places))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
