"""How well a ranking that is learned from clicks orders answers, compared with the order of scores."""

import logging
from collections.abc import Mapping

import numpy as np

from imgsearch.bootstrap import Interval, exact_result, ratio_interval
from imgsearch.errors import require_installed
from imgsearch.evaluation.results import JudgedOrder
from imgsearch.personal.event_store import EventStore
from imgsearch.personal.events import EventArrays, Kind
from imgsearch.personal.ranking.clicks import learn_eta, newest_answers
from imgsearch.personal.ranking.features import quantiles_of
from imgsearch.personal.ranking.fitting import fit
from imgsearch.personal.ranking.groups import gains_at_10, groups_of
from imgsearch.personal.ranking.past import Past
from imgsearch.personal.ranking.train import FEWEST_ANSWERS, gain_of
from imgsearch.personal.recommend.recommender import half_life_of
from imgsearch.progress import Progress
from imgsearch.search.index import Index

logger = logging.getLogger(__name__)

NAMES = ("answers", "learned_ndcg@10", "scores_ndcg@10", "learned_over_scores_ndcg@10")

# Of fewer answers in the held-out week, an interval says nothing.
_LEAST_HELD_OUT = 20


def judged_order(
    index: Index,
    store: EventStore,
    events: EventArrays,
    weights: Mapping[Kind, float],
    since: int,
    *,
    progress: Progress,
    seed: int = 0,
) -> JudgedOrder | None:
    """Learn how to order hits from the clicks until a time, and order the answers after it.

    An answer's candidates are known by what was before it, those of the held-out week by more than was learned from.

    Args:
        index: What is searched; its own learned ranking plays no part, for it may have seen these clicks.
        store: With the answers.
        events: Of the same store.
        weights: How much an event of each kind says.
        since: When the held-out week begins.
        progress: Told ("rank", done, total), of answers.
        seed: Of what learning draws.

    Returns:
        None if there are too few answers with clicks, before or after.

    Raises:
        MissingComponentError: `lightgbm` is needed, and not installed.
    """
    answers = newest_answers(store.answers(), (), "")
    before = [answer for answer in answers if answer.time <= since]
    if len(before) < FEWEST_ANSWERS or len(answers) - len(before) < _LEAST_HELD_OUT:
        return None
    learner = index.manifest.ranking.learner if index.manifest.ranking is not None else "lambdamart"
    if learner == "lambdamart":  # before all that takes minutes
        require_installed("lightgbm", "--events FILE with clicks", "'imgsearch-toolkit[personal]'")
    eta = learn_eta(before)
    past = Past(index.items, events, weights, half_life_of(index.manifest))
    groups = groups_of(index, answers, past, quantiles_of(index), eta or 0.0, progress=progress)
    cut = int(np.searchsorted(groups.times, since, side="right"))
    known, held_out = groups.taken(0, cut), groups.taken(cut, len(groups)).judged_by(eta or 0.0)
    if len(known) < FEWEST_ANSWERS or len(held_out) < _LEAST_HELD_OUT:
        logger.info("of %d answers with clicks too few can be learned from or judged: %d", len(answers), len(groups))
        return None
    scores = fit(known, learner, seed).scores(held_out.features)
    learned, best = gains_at_10(held_out, scores)
    by_scores, _ = gains_at_10(held_out, held_out.hit_order())
    return JudgedOrder(
        learner=learner,
        eta=eta,
        answers=len(known),
        held_out=len(held_out),
        learned=ratio_interval(learned, best),
        scores=ratio_interval(by_scores, best),
        gain=gain_of(held_out, scores, seed)[1],
    )


def order_figures(found: JudgedOrder) -> dict[str, Interval]:
    """Return the measures by their flat names."""
    return dict(zip(NAMES, (exact_result(found.held_out), found.learned, found.scores, found.gain), strict=True))
