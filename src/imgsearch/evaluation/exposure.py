"""Which groups of products people are shown, against which they want: exposure and relevance, by a column of the shop.

Singh and Joachims: Fairness of Exposure in Rankings, KDD 2018; Diaz, Mitra, Ekstrand, Biega and Carterette: Evaluating
Stochastic Rankings with Expected Exposure, CIKM 2020.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from imgsearch.bootstrap import Interval, quantile_interval, resampled_sums
from imgsearch.evaluation.queries import Labels

MOST_GROUPS = 20

Products = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class GroupExposure:
    """How much of what people are shown is of one group of products, and of what they want.

    Attributes:
        products: How many products of the catalog are of the group.
        relevance: Share of what all people wanted in the held-out week.
        exposure: Of each method, the share of what it shows all people, hits counting less the later they come.
        ratio: Of each method, exposure over relevance; None where so few people wanted something of the group that
            no interval can be told.
    """

    products: int
    relevance: Interval
    exposure: Mapping[str, Interval]
    ratio: Mapping[str, Interval | None]


@dataclass(frozen=True, slots=True)
class Exposure:
    """Exposure of the groups that a column makes.

    Attributes:
        column: Of the shop's data, or `category` or `product`.
        groups: By its value in the column, empty for products without one; those with most products first.
        rest: All further groups together; None if there are none.
        others: How many these are.
    """

    column: str
    groups: Mapping[str, GroupExposure]
    rest: GroupExposure | None
    others: int


def exposure_of(
    labels: Labels, shown: Mapping[str, Sequence[Products]], wanted: Sequence[Products], *, most: int = MOST_GROUPS
) -> Exposure:
    """Compare what people are shown with what they want.

    Args:
        labels: The group of each product.
        shown: Of each method and person, the products that were recommended, best first; at least one.
        wanted: Of each person, the products that were right; at least one.
        most: How many groups stand alone.
    """
    groups, sizes, chosen = _groups(labels, most)
    relevance = np.array([np.bincount(groups[products], minlength=len(sizes)) for products in wanted], np.float64)
    exposures = {
        method: np.array([_exposure(groups, products, len(sizes)) for products in of_people])
        for method, of_people in shown.items()
    }
    of_relevance, shares = _shares(relevance)
    of_methods = {method: _shares(exposure) for method, exposure in exposures.items()}

    def group(number: int) -> GroupExposure:
        wanted_share, drawn = float(of_relevance[number]), shares[:, number]
        exposure, ratio = {}, {}
        for method, (means, resampled) in of_methods.items():
            exposure[method] = quantile_interval(float(means[number]), resampled[:, number])
            ratio[method] = _ratio(float(means[number]), wanted_share, resampled[:, number], drawn)
        return GroupExposure(int(sizes[number]), quantile_interval(wanted_share, drawn), exposure, ratio)

    alone = {name: group(number) for number, name in enumerate(chosen)}
    others = len(np.unique(labels.codes)) - len(chosen)
    return Exposure(labels.column, alone, group(len(chosen)) if others else None, others)


def _groups(labels: Labels, most: int) -> tuple[NDArray[np.int64], NDArray[np.int64], list[str]]:
    """Number the largest groups, and after them all others as one; return that of each product, sizes, and names."""
    codes, of_product, counts = np.unique(labels.codes, return_inverse=True, return_counts=True)
    names = [labels.names[code] if code >= 0 else "" for code in codes.tolist()]
    order = sorted(range(len(codes)), key=lambda place: (-counts[place], names[place]))
    number = np.empty(len(codes), np.int64)
    number[order] = np.minimum(np.arange(len(codes)), most)
    groups = number[of_product]
    return groups, np.bincount(groups), [names[place] for place in order[:most]]


def _exposure(groups: NDArray[np.int64], products: Products, count: int) -> NDArray[np.float64]:
    """Return how much of the attention that one person's hits get goes to each group."""
    attention = 1 / np.log2(np.arange(2, len(products) + 2))
    return np.bincount(groups[products], attention, count).astype(np.float64)


def _shares(values: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the share of each group in the sum over people, and the same of people drawn again, each time alike."""
    sums, resampled = values.sum(axis=0), resampled_sums(values)
    return sums / sums.sum(), resampled / resampled.sum(axis=1, keepdims=True)


def _ratio(
    shown: float, wanted: float, drawn_shown: NDArray[np.float64], drawn_wanted: NDArray[np.float64]
) -> Interval | None:
    if not wanted or not drawn_wanted.all():
        return None
    return quantile_interval(shown / wanted, drawn_shown / drawn_wanted)
