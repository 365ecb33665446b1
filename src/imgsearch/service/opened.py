"""The generation that requests are answered from: opened, warmed, and exchanged when a newer one is published."""

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from imgsearch._version import __version__
from imgsearch.colors import NAMES
from imgsearch.errors import ImageError, ImgsearchError
from imgsearch.images.steps import Steps
from imgsearch.images.workers.query_decoders import QueryDecoders
from imgsearch.personal.feedback import FeedbackStore
from imgsearch.personal.ranking.order import learned_order
from imgsearch.personal.rocchio import refine_views
from imgsearch.search.index import Fallback, Index, Order, Refine
from imgsearch.search.views import QueryImage, View
from imgsearch.service.bounded import Bounded
from imgsearch.store.columns import NUMERIC
from imgsearch.store.generations import MANIFEST

logger = logging.getLogger(__name__)

# For each generation.
_ANSWERS_BYTES = 64_000_000

# Of an object with what it is kept under, beside what it holds.
_OBJECT = 250

# Categories that a page lets people choose from.
_MOST_CATEGORIES = 200


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """What feedback needs to know of an answer: the vectors that were compared, and the items that were shown."""

    generation: int
    space: str
    views: tuple[View, ...]
    paths: tuple[str, ...]

    @property
    def bytes(self) -> int:
        """How much memory it takes, about."""
        held = sum(view.vector.nbytes for view in self.views) + sum(map(len, self.paths))
        return held + _OBJECT * (1 + len(self.views) + len(self.paths))


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """What is sent, in JSON without its `id`, and what feedback to it needs; None where there is no vector."""

    json: bytes
    seen: Seen | None

    @property
    def bytes(self) -> int:
        """How much memory it takes, about."""
        return _OBJECT + len(self.json) + (self.seen.bytes if self.seen else 0)


class Generation:
    """One open generation, with what belongs to it alone.

    Attributes:
        index: It.
        decoders: Decode what strangers send.
        answers: Those given so far, by what was asked.
    """

    def __init__(self, directory: Path, decoders: int, fallback: Fallback | None) -> None:
        self.index = Index.open(directory, for_many=True, fallback=fallback)
        self.index.items.selector.distrust()
        manifest = self.index.manifest
        spec = manifest.encoder
        self.decoders = QueryDecoders(decoders, manifest.policy, spec.size, spec.fit, Steps.parse(spec.steps))
        self.answers: Bounded[bytes, Answer] = Bounded(_ANSWERS_BYTES, lambda answer: answer.bytes)
        self._refine: Refine | None = None
        self._order: Order | None = None
        self._facts: dict[str, Any] | None = None
        self._users = 0
        self._is_retired = False
        self._lock = threading.Lock()

    def warm(self) -> None:
        """Answer once, so that the first request need not wait for the encoder and the backend."""
        noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
        _, encoded = cv2.imencode(".png", noise)
        with contextlib.suppress(ImageError):  # an encoder may find nothing in it
            self.index.search(QueryImage(encoded.tobytes(), self.index.manifest.policy, decoders=self.decoders), 1)

    def refine(self, store: FeedbackStore) -> Refine:
        """Return what moves queries by feedback: it reads what was judged again only where that has changed."""
        with self._lock:
            if self._refine is None:
                self._refine = refine_views(self.index, store)
            return self._refine

    def order(self) -> Order:
        """Return what orders hits as was learned; it reads that when it is first asked for.

        Raises:
            UsageError: Nothing was learned.
            DamagedIndexError: A file of it is damaged.
        """
        with self._lock:
            if self._order is None:
                self._order = learned_order(self.index)
            return self._order

    def take(self) -> None:
        """Keep it open until `release`."""
        with self._lock:
            self._users += 1

    def release(self) -> None:
        """Close it after the last user, if it is retired."""
        with self._lock:
            self._users -= 1
            is_over = self._is_retired and not self._users
        if is_over:
            self._close()

    def retire(self) -> None:
        """Close it once nobody uses it."""
        with self._lock:
            self._is_retired = True
            is_over = not self._users
        if is_over:
            self._close()

    def _close(self) -> None:
        self.decoders.close()
        self.index.close()

    def facts(self) -> dict[str, Any]:
        """Return what a page needs to know of the index."""
        if self._facts is None:
            self._facts = self._find_facts()
        return self._facts

    def _find_facts(self) -> dict[str, Any]:
        manifest = self.index.manifest
        columns = [
            {"name": column.name, "kind": column.kind}
            for column in self.index.items.selector.columns().values()
            if column.kind in (*NUMERIC, "date")
        ]
        categories = self.index.items.categories(_MOST_CATEGORIES)
        return {
            "generation": manifest.generation,
            "count": manifest.count,
            "encoder": manifest.encoder.name,
            "version": __version__,
            "has_words": manifest.words is not None or manifest.encoder.has_text_tower,
            "is_calibrated": manifest.calibration is not None,
            "categories": [{"name": name, "count": count} for name, count in categories],
            "columns": columns,
            "colors": list(NAMES),
        }


class Published:
    """What is published in an index directory, kept open; `refresh` looks whether that is a newer generation."""

    def __init__(
        self, directory: Path, decoders: int, fallback: Fallback | None, on_open: Callable[[Generation], None]
    ) -> None:
        self._open = partial(Generation, directory, decoders, fallback)
        self._directory = directory
        self._on_open = on_open
        self._lock = threading.Lock()
        self._state = self._read_state()
        self._current = self._open()
        self._told = ""
        on_open(self._current)

    @contextlib.contextmanager
    def current(self) -> Iterator[Generation]:
        """Use the newest generation that is open; it stays so for as long as it is used."""
        with self._lock:
            generation = self._current
            generation.take()
        try:
            yield generation
        finally:
            generation.release()

    def refresh(self) -> bool:
        """Open what has been published since, and return whether anything; what fails is logged, and tried again."""
        state = self._read_state()
        if state == self._state:
            return False
        try:
            newer = self._open_warm()
        except ImgsearchError as error:
            self._tell("the index as it is now cannot be opened, the one before answers", error)
            return False
        self._state, self._told = state, ""
        with self._lock:
            older, self._current = self._current, newer
        self._on_open(newer)
        older.retire()
        return True

    def _tell(self, what: str, error: ImgsearchError) -> None:
        if str(error) != self._told:
            self._told = str(error)
            logger.warning("%s: %s", what, error)

    def _open_warm(self) -> Generation:
        newer = self._open()
        with contextlib.ExitStack() as on_error:
            on_error.callback(newer.retire)
            newer.warm()
            on_error.pop_all()
        return newer

    def warm(self) -> bool:
        """Make the current generation ready, and return whether it is; why not is logged."""
        try:
            with self.current() as generation:
                generation.warm()
        except ImgsearchError as error:
            self._tell("the index is not ready", error)
            return False
        return True

    def close(self) -> None:
        """Close what is open once nobody uses it."""
        self._current.retire()

    def _read_state(self) -> tuple[int, int, int] | None:
        try:
            status = (self._directory / MANIFEST).stat()
        except OSError:
            return None
        return status.st_ino, status.st_mtime_ns, status.st_size
