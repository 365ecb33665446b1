"""Learn from events what to recommend: which products the same people want, what is popular, and how both count."""

import logging
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import BinaryIO, Literal

import numpy as np
from numpy.typing import NDArray

from imgsearch.errors import UsageError
from imgsearch.files import as_path
from imgsearch.personal.event_files import ImportReport, import_events
from imgsearch.personal.event_store import EVENTS_FILE, EventStore
from imgsearch.personal.events import EventArrays, Kind
from imgsearch.personal.recommend.choice import Candidates, Choice, choose, held_out_from, people_of
from imgsearch.personal.recommend.collaborative import Similar, learn_similar
from imgsearch.personal.recommend.model import RecommendModel
from imgsearch.personal.recommend.wants import EVER, Deeds, deeds_of, popularity_of, wants_of
from imgsearch.progress import Progress, no_progress
from imgsearch.search.index import Index
from imgsearch.store import generations
from imgsearch.store.learned import RecommendFacts
from imgsearch.store.learned_products import rows_of_products, write_rows
from imgsearch.store.locking import require_writable
from imgsearch.store.publishing import publish_learned

logger = logging.getLogger(__name__)

Location = str | os.PathLike[str]


@dataclass(frozen=True, slots=True, eq=False)
class Learned:
    """What was learned from events: the arrays of `recommend.npz`, and what the manifest says of them."""

    model: RecommendModel
    facts: RecommendFacts
    ndcg: float  # of the blend, in the held-out week


@dataclass(frozen=True, slots=True, kw_only=True)
class RecommendReport:
    """What a training did.

    Attributes:
        generation: The one that was published.
        facts: What is learned, and from how much.
        ndcg: nDCG@10 of the blend in the held-out week; 0 if too few people came back in it.
        imported: What is new in the events, if a log was given.
        seconds: Wall time of all.
    """

    generation: int
    facts: RecommendFacts
    ndcg: float
    imported: ImportReport | None
    seconds: float


def train_recommend(
    directory: Location,
    events_file: Location | None = None,
    *,
    seed: int = 0,
    wait_lock: float = 0,
    progress: Progress = no_progress,
) -> RecommendReport:
    """Learn from the events of an index what to recommend, and publish that as its next generation.

    Args:
        directory: The index.
        events_file: A log that is imported first.
        seed: As for `learn_recommend`.
        wait_lock: Seconds to wait for another writer to end.
        progress: As for `learn_recommend`.

    Raises:
        NoIndexError: There is no index.
        UsageError: There are no events, or nobody wants any product of the index.
        RefusedError: Another generation was published meanwhile.
        LockedError: Another writer holds the index.
        MissingComponentError: As for `learn_recommend`.
        DamagedIndexError: The events or the index are damaged.
        OutputError: The index cannot be written.
    """
    started = time.monotonic()
    path = as_path(directory)
    require_writable(path, wait_lock)
    imported = None if events_file is None else import_events(path, as_path(events_file))
    if not (path / EVENTS_FILE).exists():
        raise _no_events()
    with EventStore(path, read_only=True) as store:
        events, weights = store.arrays(), store.weights()
    with Index.open(path) as index:
        learned = learn_recommend(index, events, weights, seed=seed, progress=progress)
        rows = rows_of_products(index.items, learned.model.names, len(index))
        opened = index.manifest
    files: dict[str, Callable[[BinaryIO], object]] = {
        generations.RECOMMEND: learned.model.save,
        generations.RECOMMEND_ROWS: partial(write_rows, rows=rows),
    }
    published = publish_learned(path, opened, files, wait_lock=wait_lock, recommend=learned.facts)
    return RecommendReport(
        generation=published.generation,
        facts=learned.facts,
        ndcg=learned.ndcg,
        imported=imported,
        seconds=time.monotonic() - started,
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Wanted:
    """Products that somebody wants, and what was learned of them."""

    products: NDArray[np.int64]  # (P,), places in `Deeds.rows`
    similar: Similar
    learner: Literal["ease", "als"]


def learn_recommend(
    index: Index,
    events: EventArrays,
    weights: Mapping[Kind, float],
    *,
    seed: int = 0,
    progress: Progress = no_progress,
) -> Learned:
    """Learn from all events; how they are used is chosen by the last week, which is held out for that.

    Args:
        index: What is recommended from.
        events: Of all people. What is not in the index, and views of answers (those with a position), count nothing.
        weights: How much an event of each kind says.
        seed: Of whom the choice is made by, and of what is drawn at random.
        progress: Called with ("recommend", done, total), of the people that the choice is made by.

    Returns:
        What to recommend, and how good that was in the held-out week.

    Raises:
        UsageError: Nobody wants any product of the index.
        MissingComponentError: There are so many products that `implicit` is needed, and it is not installed.
    """
    deeds = deeds_of(index.items, events, weights)
    if not (wants_of(deeds, EVER, 0).weights > 0).any():
        raise _nothing_to_learn(index, events, deeds)
    choice = _choice(index, deeds, seed, progress)
    newest = int(events.times[-1])
    wanted = _learn(index, deeds, seed)
    popularity = popularity_of(wants_of(deeds, choice.half_life, newest), len(deeds.rows))[wanted.products]
    names = tuple(item.product for item in index.items.fetch(deeds.rows[wanted.products].tolist()))
    facts = RecommendFacts(
        learner=wanted.learner,
        blend=choice.blend,
        half_life=choice.half_life,
        newest=newest,
        events=len(deeds),
        users=len(np.unique(deeds.users)),
        products=len(names),
        queries=choice.people,
        gain=round(choice.gain, 6) + 0.0,  # no -0.0
    )
    return Learned(RecommendModel(names, wanted.similar, popularity), facts, round(choice.ndcg, 6))


def _choice(index: Index, deeds: Deeds, seed: int, progress: Progress) -> Choice:
    """Choose by the last week, from what would have been learned before it."""
    start = held_out_from(deeds)
    before, after = deeds.taken(deeds.times <= start), deeds.taken(deeds.times > start)
    rows = np.fromiter(index.items.first_of_products(), np.int64)
    people = people_of(before, after, len(rows), seed)
    if not people:
        logger.info("too few people came back in the held-out week to choose a blend by: the usual one is taken")
        return Choice()
    wanted = _learn(index, before, seed)
    of_product = np.searchsorted(rows, deeds.rows)
    places = np.full(len(rows), -1, np.int32)
    places[of_product[wanted.products]] = np.arange(len(wanted.products))
    vectors = index.nearest.vectors if len(rows) == len(index) else np.asarray(index.nearest.vectors[rows])
    return choose(Candidates(vectors, of_product, places, wanted.similar), before, people, progress)


def _learn(index: Index, deeds: Deeds, seed: int) -> _Wanted:
    """Learn what the same people want, from all they did alike, however long ago.

    What somebody likes changes; which products the same people want, hardly.
    """
    wants = wants_of(deeds, EVER, 0)
    are_wanted = wants.weights > 0
    products, places = np.unique(wants.products[are_wanted], return_inverse=True)
    vectors = np.asarray(index.nearest.vectors[deeds.rows[products]])
    similar, learner = learn_similar(wants.users[are_wanted], places, wants.weights[are_wanted], vectors, seed=seed)
    return _Wanted(products, similar, learner)


def _no_events() -> UsageError:
    """Return what is raised where nothing was imported."""
    return UsageError("there are no events to learn from", hint="import some: imgsearch events import FILE")


def _nothing_to_learn(index: Index, events: EventArrays, deeds: Deeds) -> UsageError:
    if not len(events.times):
        return _no_events()
    if len(deeds):
        return UsageError(
            f"nobody wants any of the {len(deeds.rows):,} products of the log that are in the catalog:"
            f" of {len(deeds):,} events of {len(np.unique(deeds.users)):,} people no sum of weights is above 0",
            hint="see the weights: imgsearch events weights",
        )
    names = {events.names[place] for place in np.unique(events.products).tolist()}
    if index.items.first_rows_named(names):
        return UsageError("none of the events says what people want: products were shown, or events weigh nothing")
    example = index.items.fetch([0])[0].product
    return UsageError(
        f"none of the {len(names):,} products of the log is in the catalog: the log has {min(names)!r},"
        f" the catalog {example!r}",
        hint="events name products as imgsearch info and query do, or paths below the catalog's root",
    )
