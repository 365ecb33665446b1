"""What the same people want: weights between products, learned from what was done with them, for new products too.

What somebody wants is the sum of what each product of their history says of the others. A product's weights are those
of the linear model that best gives back what each person did, from all else that they did: in closed form (EASE:
Steck, WWW 2019), or, of more products, by way of factors (ALS: Hu, Koren and Volinsky, ICDM 2008). Of a product without
events, its vector says what its weights would be: a linear map that is learned from those that have some.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from imgsearch.encoders.runtime import Embeddings
from imgsearch.encoders.vectors import Vectors
from imgsearch.errors import require_installed

if TYPE_CHECKING:
    import scipy.sparse

Scores = NDArray[np.float64]
Places = NDArray[np.intp]

# What takes the cube of their number to calculate is calculated of so many products, the most wanted: of 4,000, a core
# of a quarter was no worse than all (docs/benchmarks.md).
CORE = 5_000
# Of more products, what the core says of them takes more than 1 GB.
LARGEST_CLOSED_FORM = 40_000
# Weights that are kept of each product, the largest; docs/benchmarks.md has the figures for these numbers.
KEPT = 100
# Weights count as this power: a product that was looked at a hundred times is wanted more than another, not so much.
_POWER = 0.25
# Of what somebody did with more products than this, the strongest count: a program that walks through the shop does
# not rule, and does not take hours.
_MOST_OF_USER = 1_000
# Penalty of large weights, as a multiple of how often the mean product was wanted.
_PENALTY = 6.0
_FACTORS = 64
# Of the vectors' map, as multiples of their mean variance: the best on products that are held out is taken.
_PENALTIES_OF_MAP = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
_MOST_HELD_OUT = 1_000
_FEWEST_HELD_OUT = 5
_MOST_STRETCH = 3.0
_BLOCK = 512


@dataclass(frozen=True, slots=True, eq=False)
class Similar:
    """Of P products that there were events of: what those who want it want, too.

    Attributes:
        others: int32 (P, N), products; -1 where there are fewer than N.
        weights: (P, N), how much each of them.
        translation: (P, d); what a product says of one without events is its row times the vector of that one.
    """

    others: NDArray[np.int32]
    weights: NDArray[np.floating]
    translation: NDArray[np.floating]

    def __len__(self) -> int:
        return len(self.others)


class _Learned(Protocol):
    """The (P, P) weights: row i is what product i says of each other one; zero for itself."""

    def rows(self, products: Places) -> NDArray[np.float32]:
        """Return some of their rows."""

    def columns(self, products: Places) -> NDArray[np.float32]:
        """Return some of their columns."""

    def times(self, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the product of all with (P, d)."""


def learn_similar(
    users: NDArray[np.integer],
    products: NDArray[np.integer],
    weights: NDArray[np.floating],
    vectors: NDArray[np.floating],
    *,
    seed: int = 0,
) -> tuple[Similar, Literal["ease", "als"]]:
    """Learn from pairs of a person and a product what to recommend.

    The same seed learns the same on the same machine; on another, sums may be rounded otherwise.

    Args:
        users: (n,), any numbers; each pair of user and product is there once.
        products: (n,), below P.
        weights: (n,), above 0: how much the person wants the product.
        vectors: (P, d), of the products.
        seed: Of what is drawn at random.

    Returns:
        What was learned, and how.

    Raises:
        MissingComponentError: SciPy is not installed, or there are more than `LARGEST_CLOSED_FORM` products and
            `implicit` is not.
    """
    require_installed("scipy", "train --objective recommend", "scipy")
    count = len(vectors)
    if not count:
        return Similar(
            np.empty((0, 0), np.int32), np.empty((0, 0), np.float32), np.empty(vectors.shape, np.float32)
        ), "ease"
    matrix = _matrix(users, products, weights, count)
    learned: _Learned
    if count <= LARGEST_CLOSED_FORM:
        learner: Literal["ease", "als"] = "ease"
        learned = _closed_form(matrix)
    else:
        learner = "als"
        learned = _factored(matrix, seed)
    others, kept = _strongest(learned, count)
    translation = _translation(learned, np.asarray(vectors, np.float32), seed)
    return Similar(others, kept, translation), learner


def collaborative_scores(
    similar: Similar,
    of_row: NDArray[np.int32],
    vectors: Vectors,
    products: NDArray[np.integer],
    weights: NDArray[np.floating],
) -> Scores:
    """Return how much somebody wants each item; only the order means something, and 0 is no news.

    Args:
        similar: What was learned.
        of_row: (count,), of each item its product's place in `similar`; -1 if there were no events of it.
        vectors: (count, d), of the items.
        products: (m,), what the person did something with: places in `similar`.
        weights: (m,), how much they want each; below 0 for what they do not want.
    """
    strengths = _damped(np.asarray(weights, np.float64))
    others = similar.others[products]
    shares = strengths[:, None] * similar.weights[products]
    are_there = others >= 0
    known = np.bincount(others[are_there], shares[are_there], minlength=len(similar))
    scores = np.zeros(len(of_row))
    have_events = of_row >= 0
    scores[have_events] = known[of_row[have_events]]
    toward = (strengths @ similar.translation[products].astype(np.float64)).astype(np.float32)
    new = np.flatnonzero(~have_events)
    for start in range(0, len(new), _BLOCK):
        rows = new[start : start + _BLOCK]
        scores[rows] = np.asarray(vectors[rows], np.float32) @ toward
    return scores


def _damped(weights: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.copysign(np.abs(weights) ** _POWER, weights)


def _matrix(
    users: NDArray[np.integer], products: NDArray[np.integer], weights: NDArray[np.floating], count: int
) -> "scipy.sparse.csr_matrix":
    """Return (users, P): how much each wants each product, the strongest `_MOST_OF_USER` of each user."""
    import scipy.sparse

    order = np.lexsort((products, -np.asarray(weights, np.float64), users))
    _, starts, codes = np.unique(users[order], return_index=True, return_inverse=True)
    order, codes = (each[np.arange(len(order)) - starts[codes] < _MOST_OF_USER] for each in (order, codes))
    wanted = _damped(np.asarray(weights, np.float64)[order]).astype(np.float32)
    return scipy.sparse.csr_matrix((wanted, (codes, products[order])), (len(starts), count))


@dataclass(frozen=True, slots=True, eq=False)
class _ClosedForm:
    """EASE: weights of the most wanted products, M, and between them and R others, which say nothing of each other.

    EASE divides the columns of the inverse of a matrix by its diagonal. Of what is left of that matrix for the others
    once the core is taken out of it (its Schur complement), only the diagonal is kept.
    """

    place: Places  # (P,), of each product: below M in the core, then the others
    inverse: NDArray[np.float32]  # (M, M), symmetric
    others: NDArray[np.float32]  # (R, M), how much each of the core says of each other one
    left: NDArray[np.float32]  # (R,), the diagonal of what is left

    def rows(self, products: Places) -> NDArray[np.float32]:
        core, found, are_core, of_core, of_others = self._parts(products)
        found[are_core, :core] = self.inverse[of_core] / -np.diagonal(self.inverse)
        found[are_core, core:] = self.others[:, of_core].T
        found[~are_core, :core] = self.others[of_others] / (self.left[of_others, None] * np.diagonal(self.inverse))
        found[np.arange(len(products)), self.place[products]] = 0
        return found[:, self.place]

    def columns(self, products: Places) -> NDArray[np.float32]:
        core, found, are_core, of_core, of_others = self._parts(products)
        own = np.diagonal(self.inverse)[of_core, None]
        found[are_core, :core] = self.inverse[of_core] / -own
        found[are_core, core:] = self.others[:, of_core].T / (self.left * own)
        found[~are_core, :core] = self.others[of_others]
        found[np.arange(len(products)), self.place[products]] = 0
        return found[:, self.place].T

    def _parts(self, products: Places) -> tuple[int, Embeddings, NDArray[np.bool_], Places, Places]:
        """Return M, (n, P) zeros, which of some products are in the core, and the places of these and of the others."""
        core, places = len(self.inverse), self.place[products]
        are_core = places < core
        zeros = np.zeros((len(products), len(self.place)), np.float32)
        return core, zeros, are_core, places[are_core], places[~are_core] - core

    def times(self, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        core = len(self.inverse)
        ordered = np.empty_like(vectors)
        ordered[self.place] = vectors
        scaled = ordered[:core] / np.diagonal(self.inverse)[:, None]
        of_core = ordered[:core] - self.inverse @ scaled + self.others.T @ ordered[core:]
        of_others = (self.others @ scaled) / self.left[:, None]
        return np.concatenate([of_core, of_others])[self.place]


def _closed_form(matrix: "scipy.sparse.csr_matrix") -> _ClosedForm:
    """Solve for the weights with the least squared error, large ones penalized."""
    from scipy.linalg import lapack

    squares = np.asarray(matrix.multiply(matrix).sum(axis=0), np.float64).ravel()
    penalty = _PENALTY * squares.mean() or 1.0
    order = np.argsort(-squares, kind="stable")
    core, count = min(CORE, len(order)), len(order)
    wanted = matrix[:, order[:core]]
    transposed = matrix.T.tocsr()[order]
    gram = np.empty((core, core), np.float32)
    for start in range(0, core, _BLOCK):
        gram[start : start + _BLOCK] = (transposed[start : min(start + _BLOCK, core)] @ wanted).toarray()
    np.einsum("ii->i", gram)[:] += penalty
    # In place: its transpose is the same matrix, in the order that LAPACK takes without a copy.
    lapack.spotrf(gram.T, lower=1, overwrite_a=1, clean=0)
    others = np.empty((count - core, core), np.float32)
    left = squares[order[core:]] + penalty
    for start in range(0, count - core, _BLOCK):
        block = (transposed[core + start : core + start + _BLOCK] @ wanted).toarray()
        others[start : start + _BLOCK] = lapack.spotrs(gram.T, block.T, lower=1)[0].T
        left[start : start + _BLOCK] -= np.einsum("ij,ij->i", block, others[start : start + _BLOCK])
    lapack.spotri(gram.T, lower=1, overwrite_c=1)
    for start in range(0, core, _BLOCK):  # only one triangle was written
        stop = min(start + _BLOCK, core)
        block = gram[start:stop, start:stop]
        block[:] = np.triu(block) + np.triu(block, 1).T
        gram[stop:, start:stop] = gram[start:stop, stop:].T
    return _ClosedForm(np.argsort(order), gram, others, np.maximum(left, penalty).astype(np.float32))


@dataclass(frozen=True, slots=True, eq=False)
class _Factored:
    """left @ factors.T without its diagonal; it is symmetric."""

    left: NDArray[np.float32]  # (P, f)
    factors: NDArray[np.float32]  # (P, f)

    def rows(self, products: Places) -> NDArray[np.float32]:
        found = self.left[products] @ self.factors.T
        found[np.arange(len(products)), products] = 0
        return found

    def columns(self, products: Places) -> NDArray[np.float32]:
        return self.rows(products).T

    def times(self, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        own = np.einsum("ij,ij->i", self.left, self.factors)
        return np.asarray(self.left @ (self.factors.T @ vectors) - own[:, None] * vectors, np.float32)


def _factored(matrix: "scipy.sparse.csr_matrix", seed: int) -> _Factored:
    """Learn factors of products (ALS); weights are what somebody's are who did something with one product only."""
    require_installed(
        "implicit", f"learning from events of more than {LARGEST_CLOSED_FORM:,} products", "imgsearch-toolkit[personal]"
    )
    import threadpoolctl
    from implicit.cpu.als import AlternatingLeastSquares

    with threadpoolctl.threadpool_limits(1, "blas"):  # it has threads of its own
        model = AlternatingLeastSquares(_FACTORS, random_state=seed)
        model.fit(matrix, show_progress=False)
    factors = np.asarray(model.item_factors, np.float32)
    gram = factors.T.astype(np.float64) @ factors + 0.1 * np.eye(factors.shape[1])
    return _Factored(factors @ np.linalg.inv(gram).astype(np.float32), factors)


def _strongest(learned: _Learned, count: int) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Return the largest weights of each row, (P, N), and where they are."""
    kept = min(KEPT, count - 1)
    others = np.full((count, kept), -1, np.int32)
    weights = np.zeros((count, kept), np.float32)
    for start in range(0, count if kept else 0, _BLOCK):
        rows = learned.rows(np.arange(start, min(start + _BLOCK, count)))
        # Largest first: where many are zero, NumPy takes ten times as long to find them at the end.
        places = np.argpartition(-np.abs(rows), kept - 1, axis=1)[:, :kept]
        found = np.take_along_axis(rows, places, axis=1)
        others[start : start + _BLOCK] = np.where(found, places, -1)
        weights[start : start + _BLOCK] = found
    return others, weights


def _translation(learned: _Learned, vectors: Embeddings, seed: int) -> NDArray[np.float32]:
    """Learn (P, d), whose product with a product's vector is like its column of the weights (ridge).

    How strong its penalty is shows on products that are held out; so does how much smaller than the weights of those
    with events what it says is. It is stretched by that, or new products could not compete.
    """
    count = len(vectors)
    products = learned.times(vectors)
    gram = vectors.T @ vectors
    penalty, stretch = 1.0, 1.0
    held_out = np.random.default_rng(seed).permutation(count)[: min(count // 10, _MOST_HELD_OUT)]
    if len(held_out) >= _FEWEST_HELD_OUT:
        of_held, columns = vectors[held_out], learned.columns(held_out)
        solved = _Solved(products - columns @ of_held, gram - of_held.T @ of_held, count - len(held_out))
        predicted = (solved.map(each) @ of_held.T for each in _PENALTIES_OF_MAP)
        likeness = [_likeness(each, columns) for each in predicted]
        penalty = _PENALTIES_OF_MAP[max(range(len(likeness)), key=lambda place: likeness[place][0])]
        stretch = likeness[_PENALTIES_OF_MAP.index(penalty)][1]
    return _Solved(products, gram, count).map(penalty) * np.float32(stretch)


class _Solved:
    """The maps that solve for `products` = map @ gram, of several penalties."""

    def __init__(self, products: NDArray[np.float32], gram: NDArray[np.float32], count: int) -> None:
        variances, self._directions = np.linalg.eigh(gram.astype(np.float64))
        self._variances = np.maximum(variances, 0)
        self._unit = count / len(gram)
        self._products = products @ self._directions.astype(np.float32)

    def map(self, penalty: float) -> NDArray[np.float32]:
        shares = self._directions / (self._variances + penalty * self._unit)
        return np.asarray(self._products @ shares.T.astype(np.float32), np.float32)


def _likeness(predicted: NDArray[np.float32], known: NDArray[np.float32]) -> tuple[float, float]:
    """Return the correlation of what a map says with what is known, and what it is to be multiplied by."""
    together, of_predicted, of_known = (
        float(np.vdot(one, other)) for one, other in ((predicted, known), (predicted, predicted), (known, known))
    )
    if together <= 0 or not of_predicted:
        return 0.0, 0.0
    cosine = together / (of_predicted * of_known) ** 0.5
    return cosine, together / of_predicted * min(1 / cosine, _MOST_STRETCH)
