"""How good are the answers to words: python benchmarks/text.py FOLDER.

Two catalogs with titles in sixteen languages: the stamps, and emoji, which Unicode's CLDR names (npm packages
cldr-annotations-full and cldr-annotations-derived-full). Their English titles are indexed, and nothing else: images
have numbers in place of names, for those are searched, too. docs/benchmarks.md says which figures constants were
chosen by.

- titles in another language, asked for among English ones;
- keywords: one word, of folders or of CLDR, and every image that has it is right;
- article numbers, which sentence vectors know nothing of;
- titles of images that have none, by what the other images' titles teach;
- a picture and a word: the same in blue.
"""

import csv
import itertools
import json
import re
import shutil
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from answers import CATALOG_VENDOR, emoji_files, is_tuned_on
from catalogs import LANGUAGES, stamps, stamps_with_titles, title_column
from imgsearch import Index, Indexed, build_index
from imgsearch.images.decode import decode_rgba
from imgsearch.search.ranking import Ranking, Scores
from imgsearch.synthetic.augment import photo_like
from npm import unpack_package

CLDR_VERSION = "48.2.0"
# CLDR's names of languages, where they are not the stamps'.
CLDR_NAMES = {"": "en", "zh_CN": "zh", "zh_TW": "zh-Hant"}

SPELLING_WEIGHTS = (0.0, 0.1, 0.2, 0.3, 0.5, 1.0)
TEXT_WEIGHTS = (0.2, 0.35, 0.5, 0.6, 0.7)
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
        folder: Its images, which have their rows for names.
        names: Of the images, as they were.
        titles: By column, "" where there is none.
        kinds: Of each image, what it belongs to: its folder, or its subcategory.
        keywords: Of each image.
    """

    kind: str
    folder: Path
    names: Sequence[str]
    titles: Mapping[str, Sequence[str]]
    kinds: Sequence[str]
    keywords: Sequence[frozenset[str]]

    @property
    def title(self) -> Sequence[str]:
        """Return the English titles, which are what is searched."""
        return self.titles["title"]

    @property
    def labels(self) -> NDArray[np.int64]:
        """Number the distinct English titles."""
        return np.unique(self.title, return_inverse=True)[1]

    def indexed(self, titles: Sequence[str]) -> Index:
        """Index the images with titles; "" for those that have none."""
        table, index = self.folder.with_suffix(".csv"), self.folder.with_suffix(".imgsearch")
        with table.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([("path", "title"), *((_name(row), title) for row, title in enumerate(titles))])
        build_index(self.folder, index, metadata=table, text="title")
        return Index.open(index)


def _name(row: int) -> str:
    return f"{row:04d}.png"


def main(folder: Path) -> None:
    """Print all tables."""
    catalogs = [catalog for catalog in (titled_stamps(folder), emoji(folder)) if catalog]
    for catalog in catalogs:
        for each in (article_numbers, predicted, mixed):
            each(catalog)
        with catalog.indexed(catalog.title) as index:
            print(f"  {catalog.kind}: {len(index)} images, {len(set(catalog.title))} titles", flush=True)
            for measure in (languages, keywords, together):
                measure(catalog, index)
            if catalog.kind == "stamps":
                photographed(catalog, index, folder / "text-photos")


def titled_stamps(folder: Path) -> Catalog | None:
    """Read the stamps."""
    table = stamps_with_titles(folder / "stamps")
    if table is None or not stamps(folder / "stamps"):
        return None
    with table.open(encoding="utf-8", newline="") as file:
        rows = {row["path"]: row for row in csv.DictReader(file)}
    words = {path: frozenset(path.split("/")[:-1]) for path in rows}
    return _catalog("stamps", folder, rows, {path: path.rpartition("/")[0] for path in rows}, words)


def emoji(folder: Path) -> Catalog | None:
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
    return _catalog("emoji", folder, rows, {each["image"]: each["subcategory"] for each in data}, words)


def _characters(code_points: str) -> str:
    return "".join(chr(int(point, 16)) for point in code_points.split("-")).replace("\ufe0f", "")


def _catalog(
    kind: str,
    folder: Path,
    rows: Mapping[str, Mapping[str, str]],
    kinds: Mapping[str, str],
    words: Mapping[str, frozenset[str]],
) -> Catalog:
    names = sorted(rows)
    images = folder / f"text-{kind}"
    images.mkdir(exist_ok=True)
    for row, name in enumerate(names):
        shutil.copy2(folder / kind / name, images / _name(row))
    columns = [title_column(language) for language in ("", *LANGUAGES)]
    titles = {column: [rows[name].get(column, "") for name in names] for column in columns}
    return Catalog(kind, images, names, titles, [kinds[name] for name in names], [words[name] for name in names])


def meaning(ranking: Ranking) -> Scores:
    """Return the scores by meaning alone."""
    return _part(ranking, "title")


def _part(ranking: Ranking, name: str) -> Scores:
    return next((np.nan_to_num(part.scores) for part in ranking.parts if part.name == name), np.zeros(1))


def languages(catalog: Catalog, index: Index) -> None:
    """Ask for English titles in other languages."""
    print(f"  {catalog.kind}, titles of other languages among English ones: hit rate at 1 by meaning; at 1 and at 10")
    for language in LANGUAGES:
        titles = catalog.titles[title_column(language)]
        pairs = dict.fromkeys((title, label) for title, label in zip(titles, catalog.labels, strict=True) if title)
        figures = []
        for title, label in pairs:
            ranking = index.words.ranking([title])
            right = catalog.labels[ranking.best(10)] == label
            figures.append((catalog.labels[meaning(ranking).argmax()] == label, right[:1].any(), right.any()))
        print(f"    {language:<6} {len(pairs):>5} queries  {_line(np.mean(figures, axis=0))}", flush=True)


def keywords(catalog: Catalog, index: Index) -> None:
    """Ask for one word that fits several images: a keyword, or one that stands in titles."""
    in_titles = [frozenset(map(_singular, words_of(title))) for title in catalog.title]
    for about, of_items, least in (("keywords", catalog.keywords, 3), ("words of titles", in_titles, 2)):
        right: dict[str, set[int]] = defaultdict(set)
        for row, words in enumerate(of_items):
            for word in filter(re.compile("[a-z]{3,}").fullmatch, words):
                right[word].add(row)
        asked = sorted(
            word
            for word, rows in right.items()
            if len({catalog.title[row] for row in rows}) >= least and len(rows) < len(catalog.names) / 2
        )
        figures = []
        for word in asked:
            ranking = index.words.ranking([word])
            meant, spelled = meaning(ranking), _part(ranking, "words")
            by_weight = [meant + weight * spelled for weight in SPELLING_WEIGHTS]
            figures.append([_precision(scores, right[word]) for scores in (*by_weight, spelled, ranking.scores)])
        print(f"  {catalog.kind}, {len(asked)} {about}: mean average precision by weight of the spelling")
        names = *(f"{weight:g}" for weight in SPELLING_WEIGHTS), "alone", "as it is"
        print(f"    {_line(np.mean(figures, axis=0), names)}", flush=True)


def article_numbers(catalog: Catalog) -> None:
    """Give titles article numbers, and ask for these alone, and beside a title of another image."""
    generator = np.random.default_rng(0)
    rows = np.sort(generator.choice(len(catalog.names), NUMBERS, replace=False))
    formats = "AB-{0:05d}", "{0:04d}-{1:03d}", "40{0:05d}{1:05d}", "x{0}.{1}"
    texts, numbers = list(catalog.title), []
    for place, row in enumerate(rows):
        numbers.append(formats[place % 4].format(1000 + 7 * place, 8 + place))
        texts[row] = f"{texts[row]} {numbers[-1]}"
    others = []
    for row, number in zip(np.roll(rows, 1).tolist(), numbers, strict=True):
        # Some titles have a number of their own, as rare as an article's.
        words = [word for word in catalog.title[row].split() if not any(map(str.isdigit, word))]
        others.append(" ".join([*words, number]))
    print(f"  {catalog.kind}, {NUMBERS} article numbers: hit rate at 1 by meaning, and as it is")
    with catalog.indexed(texts) as index:
        for about, asked in (("alone", numbers), ("after the title of another", others)):
            rankings = [index.words.ranking([text]) for text in asked]
            found = [(meaning(ranking).argmax(), ranking.best(1)[0]) for ranking in rankings]
            print(f"    {about:<28} {_line(np.mean(np.array(found) == rows[:, None], axis=0))}", flush=True)


def predicted(catalog: Catalog) -> None:
    """Predict the titles of a fold by those of the others: of titles held out, and of whole kinds."""
    labels, kinds = catalog.labels, np.unique(catalog.kinds, return_inverse=True)[1]
    rows_of = {label: row for row, label in enumerate(labels.tolist())}
    print(f"  {catalog.kind}, titles that were not learned: hit rate at 1, at 10, mAP, chance at 10; {FOLDS} folds")
    for about, groups in (("titles", labels), ("whole kinds", kinds)):
        figures = []
        for seed, fold in itertools.product(range(SEEDS), range(FOLDS)):
            folds = (np.random.default_rng(seed).permutation(groups.max() + 1) % FOLDS)[groups]
            held_out = np.flatnonzero(folds == fold)
            with catalog.indexed(_without(catalog.title, folds == fold)) as index:
                assert index.manifest.words
                assert index.manifest.words.predicted == len(held_out)
                of_fold = [
                    _rates(index.words.ranking([catalog.title[rows_of[label]]]), held_out, labels == label)
                    for label in set(labels[held_out].tolist())
                ]
            figures.append([*np.mean(of_fold, axis=0), 10 / len(held_out)])
        print(f"    {about:<12} {_line(np.mean(figures, axis=0))}", flush=True)


def _rates(ranking: Ranking, among: NDArray[np.int64], is_right: NDArray[np.bool_]) -> list[float]:
    """Return whether the first, and one of the first ten, of some rows is right, and the average precision."""
    right = is_right[ranking.best(10, among)]
    return [
        float(right[:1].any()),
        float(right.any()),
        _precision(ranking.scores[among], set(np.flatnonzero(is_right[among]))),
    ]


def mixed(catalog: Catalog) -> None:
    """Ask in German where half of the images have titles, and the others predicted ones that count less."""
    labels, german = catalog.labels, catalog.titles["title_de"]
    figures: dict[float, list[list[float]]] = {weight: [] for weight in PREDICTED_WEIGHTS}
    for half in range(2):
        has_none = np.random.default_rng(0).permutation(labels.max() + 1)[labels] % 2 == half
        with catalog.indexed(_without(catalog.title, has_none)) as index:
            rankings = [index.words.ranking([text]) for text in german]
        for weight, found in figures.items():
            scores = [_part(each, "title") + weight * _part(each, "predicted") for each in rankings]
            best = np.array([np.argsort(-each, kind="stable")[:10] for each in scores])
            right = labels[best] == labels[:, None]
            parts = right[~has_none], right[has_none]
            found.append([rate for part in parts for rate in (part[:, 0].mean(), part.any(axis=1).mean())])
    print(f"  {catalog.kind}, half of the titles predicted, German queries, by the weight of predicted ones")
    print("    of images with a title @1 @10; of those without @1 @10")
    for weight, found in figures.items():
        print(f"    {weight:<4} {_line(np.mean(found, axis=0))}", flush=True)


def _without(titles: Sequence[str], is_left_out: NDArray[np.bool_]) -> list[str]:
    return ["" if left_out else title for title, left_out in zip(titles, is_left_out, strict=True)]


@dataclass(frozen=True, slots=True)
class Pair:
    """A query of an image and a word: another has a title that differs in that word alone."""

    row: int  # of the image asked with
    wanted: str  # the word that the other has in its place
    unwanted: str  # the word of the image itself
    right: frozenset[str]  # the words of all right images

    def is_of(self, words: frozenset[str]) -> bool:
        """Return whether both are among some words."""
        return {self.wanted, self.unwanted} <= words


def pairs_of(catalog: Catalog) -> list[Pair]:
    """Find all queries of a catalog: titles that share words, and of which one word differs."""
    by_rest: dict[frozenset[str], list[tuple[int, str]]] = defaultdict(list)
    for row, title in enumerate(catalog.title):
        words = words_of(title)
        for word in words:
            by_rest[words - {word}].append((row, word))
    found = {
        (row, wanted): Pair(row, wanted, unwanted, rest | {wanted})
        for rest, members in by_rest.items()
        if rest
        for row, unwanted in members
        for _, wanted in members
        if wanted != unwanted
    }
    return list(found.values())


def together(catalog: Catalog, index: Index) -> None:
    """Ask with an image and a word that another has in place of one of its own."""
    pairs = pairs_of(catalog)
    counts = Counter(word for words in set(map(words_of, catalog.title)) for word in words)
    twice = frozenset(word for word, count in counts.items() if count >= 2)
    for about, words in (("an attribute", ATTRIBUTES), ("any word of two titles", twice)):
        asked = [pair for pair in pairs if pair.is_of(words)]
        halves = {"": asked}
        if catalog.kind == "emoji":
            tuned = [pair for pair in asked if is_tuned_on(catalog.names[pair.row])]
            halves = {
                ", tuning half": tuned,
                ", half that decides nothing": [each for each in asked if each not in tuned],
            }
        for half, part in halves.items():
            print(f"  {catalog.kind}, a picture and {about}{half}: {len(part)} queries, hit rate at 1")
            _ask(catalog, index, part, [Indexed(_name(pair.row)) for pair in part])


def _ask(catalog: Catalog, index: Index, pairs: Sequence[Pair], asked: Sequence[Indexed | Path]) -> None:
    """Ask with images and words in several ways, and leave out the images."""
    figures: dict[str, list[bool]] = defaultdict(list)
    for pair, image in zip(pairs, asked, strict=True):
        word, other = [pair.wanted], [pair.unwanted]
        found = {"picture": index.search_together([image], 2), "word": index.search_together(k=2, text=word)}
        for weight in TEXT_WEIGHTS:
            found[f"{weight:g}"] = index.search_together([image], 2, text=word, text_weight=weight)
        found["less the other word"] = index.search_together([image], 2, text=word, without_text=other)
        for way, hits in found.items():
            others = [hit.path for hit in hits if hit.path != _name(pair.row)]
            figures[way].append(words_of(_title(catalog, others)) == pair.right)
    print(f"    {_line([float(np.mean(right)) for right in figures.values()], tuple(figures))}", flush=True)


def _title(catalog: Catalog, paths: Sequence[str]) -> str:
    """Return the title of the first of some images; "" if there is none."""
    return catalog.title[int(paths[0].removesuffix(".png"))] if paths else ""


def photographed(catalog: Catalog, index: Index, folder: Path) -> None:
    """Ask with photos in place of the images: for another, and for what is shown, with words that tell more or less."""
    pairs = [pair for pair in pairs_of(catalog) if pair.is_of(ATTRIBUTES)]
    print(f"  {catalog.kind}, a photo and an attribute: {len(pairs)} queries, hit rate at 1")
    _ask(catalog, index, pairs, _photos(catalog, folder / "pairs", [pair.row for pair in pairs]))

    rows = np.random.default_rng(PHOTO_SEED).choice(len(catalog.names), PHOTOS, replace=False).tolist()
    texts: dict[str, list[list[str]]] = {
        "none": [[]] * PHOTOS,
        "German title": [[catalog.titles["title_de"][row]] for row in rows],
        "Japanese title": [[catalog.titles["title_ja"][row]] for row in rows],
        "folder": [[catalog.kinds[row].rpartition("/")[2]] for row in rows],
        "nonsense": [["qwertz"]] * PHOTOS,
    }
    print(f"  {catalog.kind}, {PHOTOS} photos and words about what they show: hit rate at 1")
    photos = _photos(catalog, folder / "titles", rows)
    for about, asked in texts.items():
        found = [index.search_together([photo], 1, text=text) for photo, text in zip(photos, asked, strict=True)]
        is_right = [
            _title(catalog, [hit.path for hit in hits]) == catalog.title[row]
            for hits, row in zip(found, rows, strict=True)
        ]
        print(f"    {about:<14} {np.mean(is_right):.3f}", flush=True)


def _photos(catalog: Catalog, folder: Path, rows: Sequence[int]) -> list[Path]:
    """Make photo-like variants of images."""
    folder.mkdir(parents=True, exist_ok=True)
    photos = [folder / f"{place}.jpg" for place in range(len(rows))]
    for place, (photo, row) in enumerate(zip(photos, rows, strict=True)):
        item = decode_rgba((catalog.folder / _name(row)).read_bytes())
        photo.write_bytes(photo_like(item, np.random.default_rng([PHOTO_SEED, place])))
    return photos


def words_of(title: str) -> frozenset[str]:
    """Return the words of a title that say something."""
    return frozenset(re.findall(r"\w+", title.lower())) - _STOP_WORDS


def _singular(word: str) -> str:
    if word.endswith("ies"):
        return word[:-3] + "y"
    return word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word


def _precision(scores: Scores, right: set[int]) -> float:
    """Return the average precision of a ranking."""
    places = np.flatnonzero(np.isin(np.argsort(-scores, kind="stable"), list(right))) + 1
    return float(np.mean(np.arange(1, len(places) + 1) / places))


def _line(figures: Iterable[float], names: Sequence[str] = ()) -> str:
    return "  ".join(
        f"{name} {figure:.3f}".strip() for name, figure in itertools.zip_longest(names, figures, fillvalue="")
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
