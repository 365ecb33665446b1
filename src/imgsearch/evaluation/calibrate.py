"""Learn what a score means: the probability that a hit is right, given its score."""

import dataclasses
import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from imgsearch.errors import RefusedError, UsageError
from imgsearch.evaluation.results import Evaluation, Reliability, Retrieval, Values
from imgsearch.store import generations
from imgsearch.store.calibration import Calibration, Curve
from imgsearch.store.locking import writer_lock
from imgsearch.store.publishing import amend

# Fewer say next to nothing.
FEWEST_QUERIES = 20
# Isotonic regression follows chance where there is little to follow: Niculescu-Mizil and Caruana (Predicting Good
# Probabilities With Supervised Learning, 2005) found Platt's two parameters to do better below about a thousand cases.
_ISOTONIC_FROM = 1000
_FOLDS = 5
# Bins of equal width, as many as in Guo, Pleiss, Sun and Weinberger (On Calibration of Modern Neural Networks, 2017).
_BINS = 15
# Knots that stand for Platt's curve.
_PLATT_KNOTS = 201

Rights = NDArray[np.bool_]


def calibrate(retrieval: Retrieval) -> Reliability:
    """Fit probabilities to the scores of the first ten hits of each query.

    How good they are is found by cross-validation: queries in five parts, each judged by what was fitted on the others.

    Args:
        retrieval: Queries, their hits, and which are right.

    Raises:
        UsageError: There are too few queries, or all hits are right, or none is.
    """
    judged = retrieval.judged
    if len(judged) < FEWEST_QUERIES:
        raise UsageError(f"expected at least {FEWEST_QUERIES} queries to learn probabilities from, found {len(judged)}")
    scores = np.array([hit.score for one in judged for hit in one.hits])
    right = np.array([hit.right for one in judged for hit in one.hits])
    first = np.concatenate([np.arange(len(one.hits)) == 0 for one in judged])
    part = np.repeat(np.arange(len(judged)) % _FOLDS, [len(one.hits) for one in judged])
    if right.all() or not right.any():
        kind = "right" if right.all() else "wrong"
        raise UsageError(f"expected right hits and wrong ones to tell apart by their scores, found all of them {kind}")
    unseen = np.empty(len(scores))
    curves = []
    for place in (first, ~first):
        curves.append(_fit(scores[place], right[place]))
        for fold in range(_FOLDS):
            curve = _fit(scores[place & (part != fold)], right[place & (part != fold)])
            held_out = place & (part == fold)
            unseen[held_out] = np.interp(scores[held_out], curve.scores, curve.probabilities)
    for hits_of_query in np.split(unseen, np.flatnonzero(first)[1:]):  # as in an answer: none more than one before it
        hits_of_query[:] = np.minimum.accumulate(hits_of_query)
    error, mean, share, hits = _compared(unseen, right)
    calibration = Calibration(retrieval.label, len(judged), round(error, 6), *curves)
    return Reliability(calibration, mean, share, hits, error, expected_calibration_error(unseen[first], right[first]))


def require_writable(index: str | os.PathLike[str], wait_lock: float = 0) -> None:
    """Find out that nothing could be stored in an index before everything is measured for it.

    Args:
        index: The index directory.
        wait_lock: For how many seconds to wait for a build to end.

    Raises:
        LockedError: A build holds the index.
        OutputError: It cannot be written.
    """
    generations.read_manifest(Path(index))  # before a lock is left where no index is
    with writer_lock(Path(index), wait_lock):
        pass


def keep_calibration(index: str | os.PathLike[str], evaluation: Evaluation, wait_lock: float = 0) -> None:
    """Store in an index what its scores mean.

    Args:
        index: The index directory.
        evaluation: Of that index, with `calibrate`.
        wait_lock: For how many seconds to wait for a build to end.

    Raises:
        RefusedError: Something else is published now.
        LockedError: A build holds the index.
        OutputError: It cannot be written.
    """
    assert evaluation.reliability is not None
    directory, evaluated = Path(index), evaluation.facts
    with writer_lock(directory, wait_lock):
        current = generations.read_manifest(directory)
        if (current.generation, current.fingerprint) != (evaluated["generation"], evaluated["fingerprint"]):
            raise RefusedError(
                f"expected generation {evaluated['generation']} of {directory}, which was evaluated,"
                f" found generation {current.generation}: it was rebuilt meanwhile",
                hint="evaluate again",
            )
        amend(directory, dataclasses.replace(current, calibration=evaluation.reliability.calibration))


def _fit(scores: Values, right: Rights) -> Curve:
    """Fit a function that does not fall."""
    if len(scores) >= _ISOTONIC_FROM:
        from sklearn.isotonic import IsotonicRegression

        isotonic = IsotonicRegression(out_of_bounds="clip").fit(scores, right)
        fitted = isotonic.predict(scores)
        # Laplace's rule, of those that were all wrong, and of those that were all right: nothing is certain because it
        # always was so.
        wrong, sure = np.count_nonzero(fitted == 0), np.count_nonzero(fitted == 1)
        least, most = 1 / (wrong + 2) if wrong else 0.0, 1 - 1 / (sure + 2) if sure else 1.0
        probabilities = np.clip(isotonic.y_thresholds_, min(least, most), max(least, most))
        return Curve("isotonic", _rounded(isotonic.X_thresholds_), _rounded(probabilities))
    floor = 1 / (len(scores) + 2)
    slope, offset = _platt(scores, right)
    # Knots where the curve rises, up to where it is as certain as it may be: all scores may lie within 0.01.
    most = np.log((1 - floor) / floor)
    knots = np.clip((np.linspace(-most, most, _PLATT_KNOTS) - offset) / slope, -1, 1) if slope else np.zeros(1)
    # A logistic curve, by a function that cannot overflow.
    probabilities = (1 + np.tanh((slope * knots + offset) / 2)) / 2
    return Curve("platt", _rounded(knots), _rounded(np.clip(probabilities, floor, 1 - floor)))


def _platt(scores: Values, right: Rights) -> tuple[float, float]:
    """Fit a logistic curve; where that would fall with the score, or there is nothing to tell apart, a flat one."""
    if right.any() and not right.all() and scores.std() > 0:
        from sklearn.linear_model import LogisticRegression

        # Brought to one scale: the solver stops early where scores lie close together.
        middle, spread = float(scores.mean()), float(scores.std())
        fitted = LogisticRegression(C=1e4).fit((scores[:, None] - middle) / spread, right)
        slope = float(fitted.coef_[0, 0]) / spread
        if slope > 0:
            return slope, float(fitted.intercept_[0]) - slope * middle
    return 0.0, float(np.log((right.sum() + 1) / ((~right).sum() + 1)))


def _rounded(values: Values) -> tuple[float, ...]:
    return tuple(np.asarray(values, np.float64).round(6).tolist())


def expected_calibration_error(probabilities: Values, right: Rights) -> float:
    """Take the mean distance between probability and what was right, over bins, weighted by the hits in each.

    Args:
        probabilities: (hits,), 0 to 1.
        right: (hits,), bool.

    Returns:
        0 to 1.
    """
    return _compared(probabilities, right)[0]


def _compared(probabilities: Values, right: Rights) -> tuple[float, Values, Values, NDArray[np.int64]]:
    """Compare probabilities with what was right.

    Returns:
        The expected calibration error; for each bin the mean probability, the share that was right, how many hits.
    """
    bins = np.minimum((probabilities * _BINS).astype(int), _BINS - 1)
    hits = np.bincount(bins, minlength=_BINS)
    weights = np.maximum(hits, 1)
    mean = np.bincount(bins, probabilities, _BINS) / weights
    share = np.bincount(bins, right, _BINS) / weights
    return float(np.sum(hits * np.abs(mean - share)) / len(right)), mean, share, hits
