"""Learn the probability that a hit is relevant, given its score."""

import dataclasses
import os

import numpy as np
from numpy.typing import NDArray

from imgsearch.errors import UsageError
from imgsearch.evaluation.results import IN_WORDS, Evaluation, Reliability, Retrieval, Values
from imgsearch.files import as_path
from imgsearch.store import generations
from imgsearch.store.calibration import Calibration, Curve
from imgsearch.store.locking import writer_lock
from imgsearch.store.publishing import amend

MIN_QUERIES = 20
# Isotonic regression overfits where there is little to fit: Niculescu-Mizil and Caruana (Predicting Good
# Probabilities With Supervised Learning, 2005) found Platt's two parameters to do better below about a thousand cases.
_ISOTONIC_FROM = 1000
_FOLDS = 5
# Bins of equal width, as many as in Guo, Pleiss, Sun and Weinberger (On Calibration of Modern Neural Networks, 2017).
_BINS = 15
# Knots that stand for Platt's curve.
_PLATT_KNOTS = 201

Relevance = NDArray[np.bool_]


def calibrate(retrieval: Retrieval) -> Reliability:
    """Fit probabilities to the scores of hits; how good they are is found by cross-validation over folds of queries."""
    results = retrieval.results
    if len(results) < MIN_QUERIES:
        raise UsageError(f"probabilities are learned from at least {MIN_QUERIES} queries, got {len(results)}")
    scores = np.array([hit.score for result in results for hit in result.hits])
    relevant = np.array([hit.relevant for result in results for hit in result.hits])
    first = np.concatenate([np.arange(len(result.hits)) == 0 for result in results])
    fold_of = np.repeat(np.arange(len(results)) % _FOLDS, [len(result.hits) for result in results])
    if relevant.all() or not relevant.any():
        kind = "right" if relevant.all() else "wrong"
        raise UsageError(f"probabilities are learned from right hits and wrong ones, but all hits are {kind}")
    unseen = np.empty(len(scores))
    curves = []
    for at_rank in (first, ~first):
        curves.append(_fit(scores[at_rank], relevant[at_rank]))
        for fold in range(_FOLDS):
            train, held_out = at_rank & (fold_of != fold), at_rank & (fold_of == fold)
            curve = _fit(scores[train], relevant[train])
            unseen[held_out] = np.interp(scores[held_out], curve.scores, curve.probabilities)
    for hits_of_query in np.split(unseen, np.flatnonzero(first)[1:]):  # as in an answer: none more than one before it
        hits_of_query[:] = np.minimum.accumulate(hits_of_query)
    error, mean, accuracy, hits = _compared(unseen, relevant)
    calibration = Calibration(retrieval.label, len(results), round(error, 6), *curves)
    return Reliability(
        calibration, mean, accuracy, hits, error, expected_calibration_error(unseen[first], relevant[first])
    )


def keep_calibration(index: str | os.PathLike[str], evaluation: Evaluation, wait_lock: float = 0) -> None:
    """Store in an index which probability belongs to which score.

    Args:
        index: The index directory.
        evaluation: Of that index, with `calibrate`; of queries in words it says what scores of words mean.
        wait_lock: Seconds to wait for a build to end.

    Raises:
        RefusedError: Another generation is published now.
        LockedError: A build holds the index.
        OutputError: It cannot be written.
    """
    assert evaluation.reliability is not None
    directory, evaluated = as_path(index), evaluation.facts
    with writer_lock(directory, wait_lock):
        current = generations.require_published(
            directory, evaluated["generation"], evaluated["fingerprint"], "evaluated", "evaluate again"
        )
        learned = evaluation.reliability.calibration
        if evaluation.setup["kind"] in IN_WORDS:
            amend(directory, dataclasses.replace(current, words_calibration=learned))
        else:
            amend(directory, dataclasses.replace(current, calibration=learned))


def _fit(scores: Values, relevant: Relevance) -> Curve:
    if len(scores) >= _ISOTONIC_FROM:
        from sklearn.isotonic import IsotonicRegression

        isotonic = IsotonicRegression(out_of_bounds="clip").fit(scores, relevant)
        fitted = isotonic.predict(scores)
        # Laplace's rule, of those that were all wrong, and of those that were all right: nothing is certain because it
        # always was so.
        wrong, right = np.count_nonzero(fitted == 0), np.count_nonzero(fitted == 1)
        lowest, highest = 1 / (wrong + 2) if wrong else 0.0, 1 - 1 / (right + 2) if right else 1.0
        probabilities = np.clip(isotonic.y_thresholds_, min(lowest, highest), max(lowest, highest))
        return Curve("isotonic", _rounded(isotonic.X_thresholds_), _rounded(probabilities))
    floor = 1 / (len(scores) + 2)
    slope, offset = _platt(scores, relevant)
    # Knots where the curve rises, up to where it is as certain as it may be: all scores may lie within 0.01.
    limit = np.log((1 - floor) / floor)
    knots = np.clip((np.linspace(-limit, limit, _PLATT_KNOTS) - offset) / slope, -1, 1) if slope else np.zeros(1)
    # A logistic curve, by a function that cannot overflow.
    probabilities = (1 + np.tanh((slope * knots + offset) / 2)) / 2
    return Curve("platt", _rounded(knots), _rounded(np.clip(probabilities, floor, 1 - floor)))


def _platt(scores: Values, relevant: Relevance) -> tuple[float, float]:
    """Fit a logistic curve; where that would fall with the score, or there is nothing to tell apart, a flat one."""
    if relevant.any() and not relevant.all() and scores.std() > 0:
        from sklearn.linear_model import LogisticRegression

        # Brought to one scale: the solver stops early where scores lie close together.
        middle, spread = float(scores.mean()), float(scores.std())
        fitted = LogisticRegression(C=1e4).fit((scores[:, None] - middle) / spread, relevant)
        slope = float(fitted.coef_[0, 0]) / spread
        if slope > 0:
            return slope, float(fitted.intercept_[0]) - slope * middle
    return 0.0, float(np.log((relevant.sum() + 1) / ((~relevant).sum() + 1)))


def _rounded(values: Values) -> tuple[float, ...]:
    return tuple(np.asarray(values, np.float64).round(6).tolist())


def expected_calibration_error(probabilities: Values, relevant: Relevance) -> float:
    """Return the mean distance, 0 to 1, of (hits,) probabilities and the share of relevant hits, over weighted bins."""
    return _compared(probabilities, relevant)[0]


def _compared(probabilities: Values, relevant: Relevance) -> tuple[float, Values, Values, NDArray[np.int64]]:
    """Return the error; for each bin the mean probability, the share of relevant hits, and how many hits it has."""
    bins = np.minimum((probabilities * _BINS).astype(int), _BINS - 1)
    hits = np.bincount(bins, minlength=_BINS)
    weights = np.maximum(hits, 1)
    mean = np.bincount(bins, probabilities, _BINS) / weights
    accuracy = np.bincount(bins, relevant, _BINS) / weights
    return float(np.sum(hits * np.abs(mean - accuracy)) / len(relevant)), mean, accuracy, hits
