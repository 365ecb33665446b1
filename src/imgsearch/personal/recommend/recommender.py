"""Recommendations for one person: by what the products look like, by what others want, by what most want, and by all.

Nothing of a person is kept: what is learned is about products, and a history is an argument.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Self, get_args

import numpy as np
from numpy.typing import NDArray

from imgsearch.encoders.vectors import Vectors
from imgsearch.errors import DamagedIndexError, HistoryError, UsageError, require_between
from imgsearch.personal.recommend.collaborative import Similar, collaborative_scores
from imgsearch.personal.recommend.history import NO_HISTORY, History, history_of_items, history_of_user
from imgsearch.personal.recommend.model import RecommendModel, load_model
from imgsearch.personal.recommend.profile import content_scores
from imgsearch.search.hits import NO_FILTER, Filter, Hit
from imgsearch.search.index import Index
from imgsearch.search.nearest import OpenedFiles
from imgsearch.search.once import Once
from imgsearch.search.ranking import Part, Ranking, Scores, standard
from imgsearch.search.search import Search
from imgsearch.store import generations
from imgsearch.store.conditions import NO_CONDITIONS
from imgsearch.store.integrity import repair_hint
from imgsearch.store.learned import Blend
from imgsearch.store.learned_products import read_rows
from imgsearch.store.lifetime import Lifetime
from imgsearch.store.manifest import Manifest

Way = Literal["content", "collaborative", "popular"]

# How items are scored: by one way, or by all that can be had; and what may be asked for.
Method = Literal["hybrid", "content", "collaborative", "popular"]
AskedMethod = Literal["auto", "hybrid", "content", "collaborative", "popular"]

# Days after which an event counts half, where nothing was learned that says it.
DEFAULT_HALF_LIFE = 30.0

_TRAIN_HINT = "imgsearch train --objective recommend learns from the events of all"


@dataclass(frozen=True, slots=True, eq=False)
class LearnedFiles:
    """What was learned from events, and which of its products each row of the index shows.

    Attributes:
        model: What was learned of products.
        of_row: (count,), places in the model; -1 for a product without events.
        popularity: (count,), what `Recommender.parts` has as `popular`.
    """

    model: RecommendModel
    of_row: NDArray[np.int32]
    popularity: Scores


class Recommender:
    """Recommends items of an open index, with what was learned from events, if anything was.

    Threads share it. Close it, or let it go, before the index is closed.

    Args:
        index: Which stays open.

    Raises:
        DamagedIndexError: A file of what was learned is missing.
    """

    def __init__(self, index: Index) -> None:
        self._index = index
        self._lifetime = Lifetime("Recommender")
        self._files: OpenedFiles | None = None
        manifest = index.manifest
        if manifest.recommend is not None:
            names = (generations.RECOMMEND, generations.RECOMMEND_ROWS)
            try:
                self._files = OpenedFiles(index.directory, manifest, names, self._lifetime)
            except FileNotFoundError as error:
                raise _missing(error) from error
        self._learned = Once(self._lifetime, self._load)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the files, once what other threads load is loaded."""
        if self._lifetime.end():
            self._learned.wait()
            if self._files is not None:
                self._files.close()

    @property
    def half_life(self) -> float:
        """Days after which an event counts half."""
        return half_life_of(self._index.manifest)

    @property
    def learned(self) -> LearnedFiles | None:
        """What was learned; None if nothing was. Raises `DamagedIndexError`."""
        return None if self._files is None else self._learned.result()

    def history_of_user(self, user: str) -> History:
        """Return what a user did, by the events of the index; empty for one that is unknown.

        Raises:
            UsageError: The key that names are hashed with is not there, or is another one.
            DamagedIndexError: The events are damaged.
        """
        from imgsearch.personal.event_store import EVENTS_FILE, EventStore

        if not (self._index.directory / EVENTS_FILE).exists():
            return NO_HISTORY
        with EventStore(self._index.directory, read_only=True) as store:
            return history_of_user(store, user, self._index.items, self.half_life)

    def history_of_items(self, names: Sequence[str]) -> History:
        """Return the history of somebody who likes some products, or images, of the index, and each as much.

        Raises:
            UsageError: One is not in the index; the hint has the name most like it.
        """
        return history_of_items(names, self._index.nearest)

    def parts(self, history: History) -> dict[str, Scores]:
        """Score all items in each way that can be had, (count,); NaN for items that a way says nothing about.

        `content`: how much they are like what the person likes, -1 to 1. `collaborative`: how much those want them who
        want the same, as a share of the highest. `popular`: the logarithm of how much they are wanted by all, likewise.
        """
        return self._parts(history, get_args(Way))

    def _parts(self, history: History, wanted: Collection[str]) -> dict[str, Scores]:
        learned = None if [*wanted] == ["content"] else self.learned
        vectors = self._index.nearest.vectors if {*wanted} != {"popular"} else np.empty((0, 0), np.float32)
        of_row, similar = (None, None) if learned is None else (learned.of_row, learned.model.similar)
        found = personal_scores(history, vectors, of_row, similar, wanted)
        if learned is not None and "popular" in wanted:
            found["popular"] = learned.popularity
        return found

    def method_for(self, history: History, method: AskedMethod = "auto") -> Method:
        """Return the way that `recommend` takes: what is asked for, or `popular` if it can say nothing of a history.

        Raises:
            HistoryError: Nothing is known of the person, and nothing was learned from events.
            UsageError: The method needs what is learned from events, and nothing was.
        """
        if method not in get_args(AskedMethod):
            raise UsageError(f"method must be one of {', '.join(get_args(AskedMethod))}, got {method!r}")
        if self._files is None and method in ("hybrid", "collaborative", "popular"):
            raise UsageError(f"method {method} needs what was learned from events, and nothing was", hint=_TRAIN_HINT)
        is_liked = history.weights > 0
        if self._files is None and not is_liked.any():
            raise HistoryError("nothing says what they like", hint=_TRAIN_HINT)
        if method == "collaborative" and (learned := self.learned) is not None:
            is_liked &= learned.of_row[history.rows] >= 0
        if not is_liked.any():
            return "popular"
        return method if method != "auto" else "content" if self._files is None else "hybrid"

    def _ranking(self, history: History, method: AskedMethod = "auto") -> Ranking:
        """Score all items: a cosine for `content`, else as a share of the best item."""
        chosen = self.method_for(history, method)
        parts = self._parts(history, get_args(Way) if chosen == "hybrid" else (chosen,))
        if chosen != "hybrid":
            # Items that nothing is known of come last: few are left by a filter, and they are asked for.
            scores = np.nan_to_num(parts[chosen])
            return Ranking(scores, [Part(chosen, parts[chosen])])
        facts = self._index.manifest.recommend
        assert facts is not None
        return Ranking(_share(blended(parts, facts.blend)), [Part(name, part) for name, part in parts.items()])

    def recommend(
        self,
        history: History = NO_HISTORY,
        k: int = 10,
        *,
        method: AskedMethod = "auto",
        filter: Filter = NO_FILTER,  # noqa: A002  # the field's word
        distinct: str = "",
        diverse: float | None = None,
        exclude_seen: bool = False,
    ) -> list[Hit]:
        """Recommend items; what the person disliked or gave back is never among them.

        Args:
            history: What the person did.
            k: How many hits at most; at least 1.
            method: `hybrid`, all ways weighed together; `content`, by what items look like; `collaborative`, by what
                those want who want the same; `popular`. `auto`: hybrid, or content where nothing was learned from
                events. Without a history: popular.
            filter: What hits must satisfy.
            distinct: Name of a column, such as `product`: only the best hit for each of its values.
            diverse: Choose hits that are not like one another: how much the score counts, 0 to 1.
            exclude_seen: Leave out all images of the products of the history.

        Returns:
            Hits, best first; `matched` says what each way gives them.

        Raises:
            HistoryError: Nothing is known of the person, and nothing was learned from events.
            UsageError: An argument makes no sense, or the method needs what was learned from events, and nothing was.
            DamagedIndexError: A file of the index is damaged.
        """
        if k < 1:
            raise UsageError(f"k must be at least 1, got {k}")
        if diverse is not None:
            require_between("diverse", diverse, 0, 1)
        nearest = self._index.nearest
        self.begin(method)
        ranking = self._ranking(history, method)
        left_out = nearest.of_same_products(history.rows if exclude_seen else history.refused)
        search = Search(
            nearest, k, filter, exact=True, distinct=distinct, diverse=diverse, left_out=frozenset(left_out.tolist())
        )
        return search.hits(ranking)

    def begin(self, method: AskedMethod = "auto") -> None:
        """Begin to read what a method needs, in threads, before somebody waits for it."""
        self._index.nearest.begin_checks(NO_CONDITIONS, exact=True, pictures=method != "popular")
        if self._files is not None and method != "content":
            self._learned.begin()

    def _load(self) -> LearnedFiles:
        index, files = self._index, self._files
        assert files is not None
        files.require_whole(generations.RECOMMEND, generations.RECOMMEND_ROWS)
        folder = index.directory / index.manifest.folder
        try:
            model = load_model(folder / generations.RECOMMEND, index.manifest.dims)
            of_row = read_rows(folder / generations.RECOMMEND_ROWS, index.manifest.count, len(model.popularity))
        except FileNotFoundError as error:
            raise _missing(error) from error
        popularity = _share(np.log1p(model.popularity.astype(np.float64)))
        of_items = np.append(popularity, np.nan)[of_row]  # -1 is the last
        return LearnedFiles(model, of_row, of_items)


def half_life_of(manifest: Manifest) -> float:
    """Return after how many days an event counts half."""
    return DEFAULT_HALF_LIFE if manifest.recommend is None else manifest.recommend.half_life


def personal_scores(
    history: History,
    vectors: Vectors,
    of_row: NDArray[np.int32] | None,
    similar: Similar | None,
    wanted: Collection[str] = get_args(Way),
) -> dict[str, Scores]:
    """Score all items in the ways that depend on a person, as far as these can be had; see `Recommender.parts`.

    Args:
        history: What the person did.
        vectors: Of the items: (count, d), unit rows.
        of_row: (count,), of each item its product's place in `similar`, or -1; None if nothing was learned.
        similar: What was learned, likewise.
        wanted: Which of the ways.
    """
    found: dict[str, Scores] = {}
    is_liked = history.weights > 0
    if not is_liked.any():
        return found
    # Of a person who was last here long ago all weights are small, and say no less.
    weights = history.weights / history.weights.max()
    if "content" in wanted:
        found["content"] = content_scores(vectors, np.asarray(vectors[history.rows]), weights)
    if "collaborative" in wanted and of_row is not None and similar is not None:
        products = of_row[history.rows]
        counted = is_liked & (products >= 0)
        if counted.any():
            scores = collaborative_scores(similar, of_row, vectors, products[counted], weights[counted])
            found["collaborative"] = _share(scores)
    return found


def blended(parts: Mapping[str, Scores], blend: Blend) -> Scores:
    """Weigh parts together, each less its mean and by its standard deviation over all items; NaN counts as the mean.

    Args:
        parts: Those of `Recommender.parts` that can be had, at least one.
        blend: How much each counts; of those that are there in proportion, and alike if all of these count nothing.

    Returns:
        (count,).
    """
    weights = np.array([getattr(blend, name) for name in parts], np.float64)
    if not weights.any():
        weights[:] = 1
    weights /= weights.sum()
    return np.asarray(
        sum(
            weight * np.nan_to_num(standard(scores))
            for weight, scores in zip(weights.tolist(), parts.values(), strict=True)
        )
    )


def _share(scores: Scores) -> Scores:
    """Return scores as shares of the highest; as they are where none is above 0."""
    highest = float(np.nanmax(scores, initial=0.0))
    return scores / highest if highest > 0 else scores


def _missing(error: FileNotFoundError) -> DamagedIndexError:
    return DamagedIndexError(f"{error.filename} is missing", hint=repair_hint(str(error.filename)))
