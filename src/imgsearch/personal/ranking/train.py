"""Learn from answers with clicks in which order hits should be; kept only if later clicks say that it is better."""

import contextlib
import logging
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from imgsearch.bootstrap import LEVEL, Interval, mean_interval
from imgsearch.errors import GateError, UsageError
from imgsearch.files import as_path
from imgsearch.personal.event_files import ImportReport, import_events
from imgsearch.personal.event_store import EVENTS_FILE, EventStore
from imgsearch.personal.events import DEFAULT_WEIGHTS, NO_EVENTS, ClickedAnswer, EventArrays, Kind
from imgsearch.personal.feedback import FEEDBACK_FILE, FeedbackStore, Judgment, space_of
from imgsearch.personal.ranking.clicks import Answer, learn_eta, newest_answers
from imgsearch.personal.ranking.features import FEATURES, quantiles_of
from imgsearch.personal.ranking.fitting import fit, require_learner
from imgsearch.personal.ranking.groups import Groups, gains_at_10, groups_of
from imgsearch.personal.ranking.model import Learner, RankingModel
from imgsearch.personal.ranking.past import Past
from imgsearch.personal.recommend.recommender import half_life_of
from imgsearch.progress import Progress, no_progress
from imgsearch.search.index import Index
from imgsearch.search.ranking import Scores
from imgsearch.store import generations
from imgsearch.store.learned import RankingFacts
from imgsearch.store.locking import require_writable
from imgsearch.store.publishing import publish_learned

logger = logging.getLogger(__name__)

Location = str | os.PathLike[str]

# Of fewer, a fifth is too few to tell a gain from chance.
FEWEST_ANSWERS = 100

_TRAINING_SHARE = 0.8  # of the answers; the gain is measured on those after them


@dataclass(frozen=True, slots=True, eq=False)
class LearnedRanking:
    """What was learned of the order of hits.

    Attributes:
        model: The arrays of `ranking.npz`.
        facts: What the manifest says of them.
        before: nDCG@10 of the order of scores, on the held-out answers.
        gain: By how much that of the learned order is higher, with its interval.
        has_places: Whether it was known where enough of the clicks were, so that they are weighed by their places.
    """

    model: RankingModel
    facts: RankingFacts
    before: float
    gain: Interval
    has_places: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class RankingReport:
    """What a training did.

    Attributes:
        generation: The one that was published.
        facts: What is learned, and from how much.
        before: nDCG@10 of the order of scores, on the held-out answers.
        gain: By how much that of the learned order is higher, with its interval.
        has_places: Whether clicks were weighed by their places.
        imported: What is new in the events, if a log was given.
        seconds: Wall time of all.
    """

    generation: int
    facts: RankingFacts
    before: float
    gain: Interval
    has_places: bool
    imported: ImportReport | None
    seconds: float


def train_ranking(
    directory: Location,
    events_file: Location | None = None,
    *,
    learner: Learner = "lambdamart",
    seed: int = 0,
    wait_lock: float = 0,
    progress: Progress = no_progress,
) -> RankingReport:
    """Learn from the clicks of an index how to order hits, and publish that as its next generation.

    Args:
        directory: The index.
        events_file: A log that is imported first.
        learner: As for `fitting.fit`.
        seed: As for `learn_ranking`.
        wait_lock: Seconds to wait for another writer to end.
        progress: As for `learn_ranking`.

    Raises:
        NoIndexError: There is no index.
        UsageError, GateError, MissingComponentError: As for `learn_ranking`; nothing was published.
        RefusedError: Another generation was published meanwhile.
        LockedError: Another writer holds the index.
        DamagedIndexError: The events, the feedback or the index are damaged.
        OutputError: The index cannot be written.
    """
    started = time.monotonic()
    path = as_path(directory)
    require_learner(learner)  # before all that takes minutes
    require_writable(path, wait_lock)
    imported = None if events_file is None else import_events(path, as_path(events_file))
    with Index.open(path) as index:
        with contextlib.ExitStack() as opened_files:
            clicked: Iterable[ClickedAnswer] = ()
            judgments: Iterable[Judgment] = ()
            events, weights = NO_EVENTS, DEFAULT_WEIGHTS
            if (path / EVENTS_FILE).exists():
                store = opened_files.enter_context(EventStore(path, read_only=True))
                clicked, events, weights = store.answers(), store.arrays(), store.weights()
            if (path / FEEDBACK_FILE).exists():
                judgments = opened_files.enter_context(FeedbackStore(path, read_only=True)).judgments()
            answers = newest_answers(clicked, judgments, space_of(index.manifest))
        learned = learn_ranking(index, answers, events, weights, learner=learner, seed=seed, progress=progress)
        opened = index.manifest
    files = {generations.RANKING: learned.model.save}
    published = publish_learned(path, opened, files, wait_lock=wait_lock, ranking=learned.facts)
    return RankingReport(
        generation=published.generation,
        facts=learned.facts,
        before=learned.before,
        gain=learned.gain,
        has_places=learned.has_places,
        imported=imported,
        seconds=time.monotonic() - started,
    )


def learn_ranking(
    index: Index,
    answers: Sequence[Answer],
    events: EventArrays,
    weights: Mapping[Kind, float],
    *,
    learner: Learner = "lambdamart",
    seed: int = 0,
    progress: Progress = no_progress,
) -> LearnedRanking:
    """Learn how to order hits, from all answers, once the last fifth has shown that it helps.

    Args:
        index: What is searched.
        answers: With clicks, the oldest first.
        events: Of all people: how popular products were, and what a person had done before each answer.
        weights: How much an event of each kind says.
        learner: As for `fitting.fit`.
        seed: Of what is drawn at random.
        progress: Called with ("rank", done, total), of the answers.

    Raises:
        UsageError: There are fewer than 100 answers with clicks to learn from.
        GateError: The learned order is not better than that of the scores, or it cannot be told.
        MissingComponentError: `lightgbm` is needed, and not installed.
    """
    _require_enough(len(answers), "")
    eta = learn_eta(answers)
    past = Past(index.items, events, weights, half_life_of(index.manifest))
    quantiles = quantiles_of(index)
    groups = groups_of(index, answers, past, quantiles, eta or 0.0, progress=progress)
    _require_enough(len(groups), f" of {len(answers):,} whose clicked products are found by what was asked")
    cut = int(_TRAINING_SHARE * len(groups))
    held_out = groups.taken(cut, len(groups)).judged_by(eta or 0.0)
    tried = fit(groups.taken(0, cut), learner, seed)
    before, gain = gain_of(held_out, tried.scores(held_out.features), seed)
    if gain.low <= 0:
        raise GateError(
            f"the learned order does not help: nDCG@10 of {len(held_out):,} held-out answers is"
            f" {before + gain.mean:.3f}, {before:.3f} by scores, a change from {gain.low:+.3f} to {gain.high:+.3f}",
            hint="answers stay as they are; train again once there are more clicks",
        )
    model = RankingModel(FEATURES, fit(groups, learner, seed), *quantiles)
    newest = int(groups.times[-1])
    learned = RankingFacts(learner, newest, len(groups), len(held_out), round(gain.mean, 6), eta or 0.0)
    return LearnedRanking(model, learned, before, gain, eta is not None)


def _require_enough(count: int, which: str) -> None:
    if count < FEWEST_ANSWERS:
        raise UsageError(
            f"expected at least {FEWEST_ANSWERS} answers with clicks to learn from, found {count:,}{which}",
            hint="import events that have a query (docs/ranking.md says which), or collect feedback",
        )


def gain_of(groups: Groups, scores: Scores, seed: int = 0) -> tuple[float, Interval]:
    """Return nDCG@10 of the order of the hits, and by how much that of an order by scores is higher (95 %)."""
    old, ideal = gains_at_10(groups, groups.hit_order())
    new, _ = gains_at_10(groups, scores)
    change = mean_interval((new - old) / ideal.mean(), seed, level=LEVEL)
    return float(old.sum() / ideal.sum()), change
