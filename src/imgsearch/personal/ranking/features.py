"""What a learned order knows of each hit of an answer: numbers, and NaN for what is not known.

| feature | is |
|---|---|
| score | the score of the hit |
| whole | its cosine with the first view of the query, which is the whole image |
| region | its highest cosine with the other views: regions of a photo, other images of a product |
| title, predicted, text, words | what these parts of a question give it (`Hit.matched`) |
| inliers | how many points it has in common with the query, if it was re-ranked |
| probability | that it is right, in a calibrated index |
| agreement | which share of the first 20 hits has its category, the nearer counting more (`search.hits.vote`) |
| popularity | log(1 + p), p the decayed weights of all events of its product: 0 for one without events |
| price | which share of its category is cheaper, 0 to 1; by the column `price` |
| recency | which share of its category is older, 0 to 1; by a column `added` or `date`, or else by its file |
| color | how far a color of the query is from its nearest one, in CIEDE2000 (see `_color_differences`) |
| profile | how well it fits what the person liked before (`profile.content_scores`) |

Dates of the shop go before those of files, which copies, restored backups and new photos of an old product change. Of
columns `added` goes before `date`, which may be the date of anything.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from imgsearch.colors import differences, lab_of
from imgsearch.encoders.runtime import Embeddings
from imgsearch.personal.recommend.history import History
from imgsearch.search.backends.protocol import Rows, scores_of
from imgsearch.search.hits import CANDIDATES, Hit, vote
from imgsearch.search.index import Index
from imgsearch.search.views import View

_OF_WORDS = ("title", "predicted", "text", "words")
FEATURES = (
    *("score", "whole", "region", *_OF_WORDS, "inliers", "probability", "agreement"),
    *("popularity", "price", "recency", "color", "profile"),
)

# Of the values in a category those are kept that so much of it is below.
_SHARES = np.linspace(0, 1, 101)
# A category with fewer values says little of what is cheap or old in it; of more categories than that, the largest.
_LEAST_VALUES = 20
_MOST_CATEGORIES = 1000

_BLOCK = 10_000  # rows that are read at once

_DATE_COLUMNS = ("added", "date")

Values = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Quantiles:
    """What is much and what is little in each category: of prices, or of times.

    Attributes:
        categories: Those that have enough values.
        values: float64 (categories + 1, 101), the quantiles of each, ascending; the last row is of all items, which
            stands for other categories, and is NaN where no value is known.
    """

    categories: tuple[str, ...]
    values: Values

    def shares_below(self, categories: Sequence[str], values: Values) -> Values:
        """Return which share of its category is below each of (n,) values, equal ones counting half; NaN for NaN."""
        places = {category: place for place, category in enumerate(self.categories)}
        rows = self.values[[places.get(category, -1) for category in categories]]
        shares = ((rows < values[:, None]).mean(axis=1) + (rows <= values[:, None]).mean(axis=1)) / 2
        return np.where(np.isnan(values) | np.isnan(rows[:, 0]), np.nan, shares)


@dataclass(frozen=True, slots=True, eq=False)
class FeatureContext:
    """What features need beside an answer.

    Attributes:
        price: What is cheap in each category.
        recency: What is new in each category.
        popularity: (count,), of each row the decayed weights of all events of its product, 0 or more; None where
            nothing was learned from events.
        history: What the person did who asks; None for nobody.
    """

    price: Quantiles
    recency: Quantiles
    popularity: NDArray[np.floating] | None = None
    history: History | None = None


def features(
    index: Index,
    hits: Sequence[Hit],
    views: Sequence[View],
    context: FeatureContext,
) -> NDArray[np.float32]:
    """Return what is known of each hit of one answer.

    Args:
        index: What was searched.
        hits: Best first, as it gave them.
        views: What was asked with; none for words alone.
        context: What is known beside the answer.

    Returns:
        (n, F) float32, columns as `FEATURES`, NaN for what is not known.
    """
    if not hits:
        return np.empty((0, len(FEATURES)), np.float32)
    by_path = index.items.rows_of_paths([hit.path for hit in hits])
    rows = np.array([by_path[hit.path] for hit in hits], np.int64)
    categories = [hit.category for hit in hits]
    vectors = index.nearest.vectors[rows]
    cosines = np.array([scores_of(vectors, view.vector) for view in views]).reshape(len(views), len(rows))
    metadata = [hit.metadata for hit in hits]
    matched = [hit.matched or {} for hit in hits]
    votes = {each.label: each.probability for each in vote(hits[:CANDIDATES])}
    known: dict[str, ArrayLike] = {
        "score": [hit.score for hit in hits],
        "whole": cosines[0] if len(views) else np.nan,
        "region": cosines[1:].max(axis=0) if len(views) > 1 else np.nan,
        **{part: [each.get(part, np.nan) for each in matched] for part in _OF_WORDS},
        "inliers": [_or_nan(hit.inliers) for hit in hits],
        "probability": [_or_nan(hit.probability) for hit in hits],
        "agreement": [votes.get(category, 0.0) for category in categories],
        "price": context.price.shares_below(categories, np.array(_prices(index, metadata))),
        "recency": context.recency.shares_below(categories, np.array(_times(index, metadata, rows.tolist()))),
        "color": _color_differences(index, hits, rows, views),
    }
    found = np.full((len(hits), len(FEATURES)), np.nan, np.float32)
    for name, values in known.items():
        found[:, FEATURES.index(name)] = values
    return renewed(found, index, rows, context)


def renewed(found: NDArray[np.float32], index: Index, rows: Rows, context: FeatureContext) -> NDArray[np.float32]:
    """Return features for another person or time: those that depend on these computed anew, all others as they are.

    Args:
        found: What `features` returned, or some rows of it.
        index: What was searched.
        rows: Of the hits in the index.
        context: What is known of the person, and at the time.
    """
    found = found.copy()
    popularity = np.nan if context.popularity is None else np.log1p(context.popularity[rows])
    found[:, FEATURES.index("popularity")] = popularity
    found[:, FEATURES.index("profile")] = _profile(index, index.nearest.vectors[rows], context.history)
    return found


def quantiles_of(index: Index) -> tuple[Quantiles, Quantiles]:
    """Find what is cheap and what is new in each category of an index: prices and times, for `FeatureContext`."""
    count = index.manifest.count
    categories: list[str] = []
    prices, times = np.empty(count), np.empty(count)
    for start in range(0, count, _BLOCK):
        rows = list(range(start, min(start + _BLOCK, count)))
        items = index.items.fetch(rows)
        categories += [item.category for item in items]
        metadata = [item.metadata for item in items]
        prices[start : start + len(rows)] = _prices(index, metadata)
        times[start : start + len(rows)] = _times(index, metadata, rows)
    return _quantiles(categories, prices), _quantiles(categories, times)


def _quantiles(categories: Sequence[str], values: Values) -> Quantiles:
    (known,) = np.nonzero(~np.isnan(values))
    members: dict[str, list[int]] = {}
    for place in known.tolist():
        members.setdefault(categories[place], []).append(place)
    largest = sorted(members, key=lambda name: (-len(members[name]), name))[:_MOST_CATEGORIES]
    kept = [name for name in largest if len(members[name]) >= _LEAST_VALUES]
    of_all = np.quantile(values[known], _SHARES) if len(known) else np.full(len(_SHARES), np.nan)
    rows = [*(np.quantile(values[members[name]], _SHARES) for name in kept), of_all]
    # Rounding between two equal numbers must not make them fall.
    return Quantiles(tuple(kept), np.maximum.accumulate(rows, axis=1))


def _or_nan(value: float | None) -> float:
    return np.nan if value is None else value


def _prices(index: Index, metadata: Sequence[Mapping[str, Any]]) -> list[float]:
    """Return the prices that items have; NaN for none, and for what is no number."""
    column = index.items.selector.columns().get("price")
    found = [None if column is None else data.get(column.name) for data in metadata]
    return [value if isinstance(value, int | float) and math.isfinite(value) else np.nan for value in found]


def _times(index: Index, metadata: Sequence[Mapping[str, Any]], rows: Sequence[int]) -> list[float]:
    """Return when items came into the catalog, in seconds since 1970."""
    columns = index.items.selector.columns()
    for name in _DATE_COLUMNS:
        if name in columns and columns[name].kind == "date":
            return [_seconds(data.get(columns[name].name)) for data in metadata]
    times = index.items.file_times(rows)
    return [times[row] / 1e9 for row in rows]


def _seconds(date: object) -> float:
    """Return the seconds since 1970 of a date, in UTC where it does not say otherwise; NaN for what is none."""
    try:
        time = datetime.fromisoformat(str(date))
    except ValueError:  # such as February 30
        return np.nan
    return (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()


def _color_differences(index: Index, hits: Sequence[Hit], rows: Rows, views: Sequence[View]) -> Values:
    """Return how far a color of the query is from the nearest main color of each hit, in CIEDE2000.

    That is `Hit.color_difference` where a certain color was asked for; else it is the largest main color of the item
    that is asked with. The first hit stands for a photo, whose pixels are not at hand, and whose background would
    count. Words alone have no color: NaN.
    """
    if any(hit.color_difference is not None for hit in hits):
        return np.array([_or_nan(hit.color_difference) for hit in hits])
    nothing = np.full(len(rows), np.nan)
    if not views:
        return nothing
    asked = int(rows[0]) if views[0].row is None else views[0].row
    owners, rgb = index.items.main_colors([asked, *rows.tolist()])
    if asked not in owners:
        return nothing
    lab = lab_of(rgb)
    # Not by `np.unique`, for which NumPy imports what takes longer than all else here.
    starts = np.flatnonzero(np.diff(owners, prepend=-1))
    nearest = np.minimum.reduceat(differences(lab, lab[np.searchsorted(owners, asked)]), starts)
    by_row = dict(zip(owners[starts].tolist(), nearest.tolist(), strict=True))
    return np.array([by_row.get(row, np.nan) for row in rows.tolist()])


def _profile(index: Index, vectors: Embeddings, history: History | None) -> Values | float:
    if history is None or not (history.weights > 0).any():
        return np.nan
    from imgsearch.personal.recommend.profile import content_scores  # where nobody is known, nothing of it is needed

    return content_scores(vectors, index.nearest.vectors[history.rows], history.weights)
