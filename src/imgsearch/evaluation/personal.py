"""How good what is learned from a log of events is: learned from all but its last week, and judged by that week."""

import contextlib
import logging
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from imgsearch.bootstrap import Interval
from imgsearch.cache import folder_for_this_run
from imgsearch.errors import UsageError
from imgsearch.evaluation.order import judged_order, order_figures
from imgsearch.evaluation.recommendations import recommendation_figures, recommendations
from imgsearch.evaluation.results import Personal
from imgsearch.personal.event_files import import_into
from imgsearch.personal.event_store import EVENTS_FILE, EventStore
from imgsearch.personal.events import DEFAULT_WEIGHTS, EventArrays, Kind
from imgsearch.personal.recommend.choice import held_out_from
from imgsearch.personal.recommend.wants import deeds_of
from imgsearch.personal.user_names import KEY_BYTES
from imgsearch.progress import Progress
from imgsearch.search.index import Index

logger = logging.getLogger(__name__)

# What `--events` says in place of a file: the events of the index.
STORED = Path("stored")


def personalized(index: Index, log: Path, *, sample: int, exposure: str | None, progress: Progress) -> Personal:
    """Measure recommendations to the people of a log, and a learned order of the answers that they clicked.

    Args:
        index: What is recommended from; its own learned files play no part.
        log: A file as `import_events` reads it, or `STORED`.
        sample: As for `recommendations`.
        exposure: As for `recommendations`.
        progress: As for `recommendations`.

    Raises:
        UsageError: It is no such file, or too little is in it; there is no such column.
        MissingComponentError, DamagedIndexError, OutputError, ResourceError: As for `import_events`.
    """
    weights = _weights(index.directory)
    with _opened(index.directory, log) as store:
        events = store.arrays()
        deeds = deeds_of(index.items, events, weights)
        if not len(deeds):
            raise UsageError(
                "no event of the log says that somebody wants a product of the index",
                hint="events name products as imgsearch query does, or paths below the catalog's root",
            )
        since = held_out_from(deeds)
        before, after = deeds.taken(deeds.times <= since), deeds.taken(deeds.times > since)
        order = judged_order(index, store, events, weights, since, progress=progress)
        known = _until(events, since)
        recommended = recommendations(
            index, known, weights, before, after, sample=sample, exposure=exposure, progress=progress
        )
    if recommended is None and order is None:
        raise UsageError(
            "too few people came back in the last week of the log and wanted something that they had not had before",
            hint="measures need 50 of them, or answers with clicks: 100 before that week, and 20 in it",
        )
    return Personal(since, int(events.times[-1]), len(before), len(after), recommended, order)


def figures_of(found: Personal | None) -> dict[str, Interval]:
    """Return all measures by their flat names."""
    figures: dict[str, Interval] = {}
    if found is not None and found.recommendations is not None:
        figures |= recommendation_figures(found.recommendations)
    if found is not None and found.order is not None:
        figures |= order_figures(found.order)
    return figures


def _weights(index: Path) -> Mapping[Kind, float]:
    """Return how much events say, as the user of the index may have chosen."""
    if not (index / EVENTS_FILE).exists():
        return DEFAULT_WEIGHTS
    with EventStore(index, read_only=True) as store:
        return store.weights()


@contextlib.contextmanager
def _opened(index: Path, log: Path) -> Iterator[EventStore]:
    """Read a log into a store of its own, which is removed with its key in the end; or open the events of the index."""
    if log == STORED:
        if not (index / EVENTS_FILE).exists():
            raise UsageError(f"{index} has no events", hint="imgsearch events import FILE brings some")
        with EventStore(index, read_only=True) as store:
            yield store
        return
    with contextlib.ExitStack() as opened:
        folders = [folder_for_this_run() for _ in range(2)]  # a key does not lie beside what it is for
        for folder in folders:
            opened.callback(shutil.rmtree, folder, ignore_errors=True)
        # One that is always the same: the same people of a log are then drawn, and have the same numbers.
        key = folders[1] / "key"
        key.touch(mode=0o600)
        key.write_bytes(bytes(KEY_BYTES))
        store = opened.enter_context(EventStore(folders[0], key=key))
        report = import_into(store, log)
        if refused := sum(report.refused.values()):
            causes = ", ".join(f"{count:,} for their {cause}" for cause, count in report.refused.items())
            logger.warning("%d rows of %s are no events and are left out: %s", refused, log, causes)
        yield store


def _until(events: EventArrays, time: int) -> EventArrays:
    """Return the events until a time; they are the oldest first."""
    end = int(np.searchsorted(events.times, time, side="right"))
    return EventArrays(
        events.times[:end],
        events.users[:end],
        events.products[:end],
        events.kinds[:end],
        events.positions[:end],
        events.names,
    )
