"""One question to an index: from what is asked with to hits, filtered, distinct, diverse."""

import math
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from imgsearch.colors import parse_color
from imgsearch.errors import UsageError
from imgsearch.images.boxes import Box
from imgsearch.search.backends.exact import ExactCandidates
from imgsearch.search.backends.protocol import Candidates, Rows
from imgsearch.search.diversity import POOL, diverse_order
from imgsearch.search.hits import NO_FILTER, Filter, Hit
from imgsearch.search.nearest import Nearest, Scored
from imgsearch.search.ranking import Ranking
from imgsearch.search.views import QueryImage, Regions, View, require_regions
from imgsearch.store.calibration import Calibration

if TYPE_CHECKING:
    from imgsearch.search.viewer import Viewer

# Of items that are to be distinct, so many are looked at first for each hit, and then so many times more.
_IMAGES_OF_EACH = 4

# How far the best item must be ahead of the second, as a difference of cosines, for a further view of the photo to be
# spared: after the whole, which its background may have fooled, and after a part of it (docs/benchmarks.md).
_MIN_MARGIN_WHOLE = 0.3
_MIN_MARGIN_PART = 0.1


# Views of pictures, or a ranking of all items.
Asked = Sequence[View] | Ranking


class Search:
    """One question to an index: its backend, or `backend`, is opened once, and each view is compared once.

    With `distinct`, the name of a column, there is one hit for each of its values: the best. With `diverse` the order
    is that of `diverse_order`, in which scores and probabilities may rise. Rows that are `left_out` are no hits.
    """

    def __init__(
        self,
        nearest: Nearest,
        k: int,
        filter: Filter = NO_FILTER,  # noqa: A002  # as `Index.search` calls it
        *,
        exact: bool = False,
        distinct: str = "",
        backend: Candidates | None = None,
        diverse: float | None = None,
        left_out: Collection[int] = (),
    ) -> None:
        self._nearest = nearest
        self._k = k
        self._filter = filter
        self._conditions = filter.conditions
        self._is_exact = exact
        self._distinct = distinct
        self._backend = backend
        self._diverse = diverse
        self._left_out = left_out
        self._candidates: dict[tuple[View, int], Rows] = {}

    def views_of(
        self,
        query: QueryImage,
        open_viewer: "Callable[[], Viewer]",
        regions: Regions = "auto",
        box: Box | None = None,
    ) -> list[View]:
        """Make vectors of a query, at least one; an image of the index needs no viewer, for its vector is there."""
        require_regions(regions)
        row = self._nearest.row_of(query.sha256, query.path) if box is None else None
        if row is not None and isinstance(regions, str):
            return self._nearest.views_at([row])
        views = open_viewer().views(query, regions, box, self.is_settled)
        return views if row is None else [replace(views[0], row=row), *views[1:]]

    def is_settled(self, views: Sequence[View]) -> bool:
        """Whether one item is so far ahead that a further view would hardly bring another before it."""
        if self._filter.has_limits:  # the best score counts that any view gives
            return False
        scores = [each.score for each in self.scored(views)[:2]]
        margin = scores[0] - scores[1] if len(scores) > 1 else 0.0
        return margin >= (_MIN_MARGIN_PART if any(view.box for view in views) else _MIN_MARGIN_WHOLE)

    def best_view(self, views: Sequence[View]) -> View:
        """Return the one of several views that finds the nearest item."""

        def best_score(view: View) -> float:
            return max((each.score for each in self.scored([view])[:1]), default=-1.0)

        return max(views, key=best_score) if len(views) > 1 else views[0]

    def hits(self, asked: Asked) -> list[Hit]:
        """Find the items nearest to any of the views, or ranked best; equal scores in the order of their paths."""
        found = self._found(asked)
        apart = self._differences_of([each.row for each, _ in found])
        # A hundredth of a difference counts as much as one of the score.
        worth = {each.row: each.score - apart.get(each.row, 0.0) / 100 for each, _ in found}
        if apart:
            found.sort(key=lambda pair: -worth[pair[0].row])
        if self._diverse is not None:
            vectors = self._nearest.vectors[[each.row for each, _ in found]]
            order = diverse_order([worth[each.row] for each, _ in found], vectors, self._k, self._diverse)
            found = [found[place] for place in order]
        found = found[: self._k]
        rows = [each.row for each, _ in found]
        others = self._others_of(rows) if self._distinct else {}
        return [
            Hit(
                rank,
                item.path,
                max(-1.0, min(1.0, each.score)),
                each.distance,
                item.product,
                item.category,
                item.metadata,
                probability,
                each.box,
                others=others.get(item.row),
                color_difference=apart.get(item.row),
                matched=each.matched,
            )
            for rank, (item, (each, probability)) in enumerate(
                zip(self._nearest.items.fetch(rows), found, strict=True), start=1
            )
        ]

    def _found(self, asked: Asked) -> list[tuple[Scored, float | None]]:
        """Return what may be hits, best first, each with its probability."""
        scored = (self._distinct_of(asked) if self._distinct else self.scored(asked))[: self._pool]
        least = self._filter.min_score
        scored = [each for each in scored if least is None or each.score >= least]
        calibration = self._calibration(asked)
        probabilities: Sequence[float | None] = [None] * len(scored)
        if calibration is not None and scored:
            is_first = not self._conditions.has_conditions or scored[0].score >= self._best_score_of_all(asked)
            probabilities = calibration.of_answer([each.score for each in scored], is_first=is_first)
        least = self._filter.min_probability
        return [each for each in zip(scored, probabilities, strict=True) if least is None or (each[1] or 0.0) >= least]

    @property
    def _pool(self) -> int:
        """How many of the nearest are looked at."""
        return self._k if self._diverse is None and not self._conditions.color else POOL * self._k

    def scored(self, asked: Asked) -> list[Scored]:
        """Score what the backend proposes for each view, best first; at least `k` items, where there are as many."""
        return self._scored(asked, max(2, self._pool))  # `is_settled` compares two

    def _scored(self, asked: Asked, wanted: int) -> list[Scored]:
        wanted += len(self._left_out)
        if self._backend is None:
            self._backend = self._nearest.backend(self._conditions, exact=self._is_exact)
        scored = self._ranked(asked, wanted) if isinstance(asked, Ranking) else self._compared(asked, wanted)
        return [each for each in scored if each.row not in self._left_out]

    def _ranked(self, ranking: Ranking, wanted: int) -> list[Scored]:
        assert isinstance(self._backend, ExactCandidates)  # who ranks all items asks with `exact`
        return [
            # Of unit vectors with this cosine. Beyond -1 and 1 scores still tell which item comes first.
            Scored(row, score, math.sqrt(2 - 2 * max(-1.0, min(1.0, score))), ranking.box(row), ranking.matched(row))
            for row in ranking.best(wanted, self._backend.rows).tolist()
            for score in [float(ranking.scores[row])]
        ]

    def _compared(self, views: Sequence[View], wanted: int) -> list[Scored]:
        assert self._backend is not None
        for view in views:
            if (view, wanted) not in self._candidates:
                self._candidates[view, wanted] = self._nearest.candidates(
                    self._backend, view, wanted, is_filtered=self._conditions.has_conditions
                )
        return self._nearest.best_of(views, [self._candidates[view, wanted] for view in views])

    def _distinct_of(self, asked: Asked) -> list[Scored]:
        """Find the best item of each value of the column, as many as are wanted; one without a value stands alone."""
        wanted = max(2, _IMAGES_OF_EACH * self._pool)
        while True:
            scored = self._scored(asked, wanted)
            values = self._nearest.items.selector.values(self._distinct, [each.row for each in scored])
            best: dict[object, Scored] = {}
            for each in scored:
                value = values[each.row]
                best.setdefault((each.row,) if value is None else value, each)
            rows = self._backend.rows if isinstance(self._backend, ExactCandidates) else None
            if len(best) >= self._pool or wanted >= (self._nearest.manifest.count if rows is None else len(rows)):
                return list(best.values())
            wanted *= _IMAGES_OF_EACH

    def _differences_of(self, rows: Sequence[int]) -> dict[int, float]:
        """Return how far items' colors are from the one that was asked for; none for a name, which they have."""
        if not self._conditions.color or parse_color(self._conditions.color).name:
            return {}
        colored, differences = self._nearest.items.colored(self._conditions.color)
        return dict(zip(rows, differences[np.searchsorted(colored, rows)].tolist(), strict=True))

    def _others_of(self, rows: Sequence[int]) -> dict[int, int]:
        """Count the other items that have the same value and satisfy the conditions, but for those left out."""
        selector = self._nearest.items.selector
        values = selector.values(self._distinct, rows)
        known = [value for value in values.values() if value is not None]
        counts = selector.counts(self._conditions, self._distinct, known)
        left_out = selector.among(self._conditions, self._left_out) if self._left_out else []
        counted = Counter(selector.values(self._distinct, left_out).values())
        return {row: 0 if value is None else counts.get(value, 1) - counted[value] - 1 for row, value in values.items()}

    def _best_score_of_all(self, asked: Asked) -> float:
        # Compared with everything: a filtered query needs no library, and must not come to need one.
        return Search(self._nearest, 1, exact=True, left_out=self._left_out).scored(asked)[0].score

    def _calibration(self, asked: Asked) -> Calibration | None:
        """Return what scores mean: those of words are others than those of pictures."""
        manifest = self._nearest.manifest
        is_known = not isinstance(asked, Ranking) or asked.is_of_one_text
        found = manifest.words_calibration if isinstance(asked, Ranking) else manifest.calibration
        if self._filter.min_probability is None:
            return found if is_known else None
        if not is_known:
            raise UsageError(
                "probabilities are known for images, and for one text that is compared by its meaning, not for this",
                hint="use --min-score",
            )
        if found is None:
            command = (
                "evaluate --text-columns COLUMN --calibrate" if isinstance(asked, Ranking) else "evaluate --calibrate"
            )
            raise UsageError("the index is not calibrated", hint=f"run imgsearch {command}, or use --min-score")
        return found
