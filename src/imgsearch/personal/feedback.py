"""What people say of answers, in `feedback.sqlite` beside the generations; builds and rollbacks leave it alone."""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, cast, get_args

import numpy as np
from numpy.typing import NDArray

from imgsearch.encoders.runtime import Embeddings
from imgsearch.errors import UsageError
from imgsearch.personal.live_database import EPOCH, MICROSECOND, Content, LiveDatabase, microseconds
from imgsearch.store import generations
from imgsearch.store.manifest import Manifest

FEEDBACK_FILE = generations.FEEDBACK

Verdict = Literal["chosen", "rejected"]

# Which tables there are; a change of them is another version.
_VERSION = 1

# `answer`, `session`: as `Shown.id` and `FeedbackStore.judge` say. Paths are the bytes of file names, `shown` all of an
# answer, with NUL between them. `vector`: of the query, float32, little-endian. `time`: microseconds since 1970, UTC.
_SCHEMA = f"""
CREATE TABLE judgments (
    id INTEGER PRIMARY KEY,
    answer TEXT NOT NULL,
    session TEXT NOT NULL,
    path BLOB NOT NULL,
    verdict TEXT NOT NULL,
    time INTEGER NOT NULL,
    generation INTEGER NOT NULL,
    space TEXT NOT NULL,
    vector BLOB NOT NULL,
    shown BLOB NOT NULL,
    UNIQUE (answer, session, path)
);
CREATE INDEX judgments_space ON judgments (space, id);
CREATE INDEX judgments_session ON judgments (session);
PRAGMA user_version = {_VERSION};
"""

_CONTENT = Content(FEEDBACK_FILE, "feedback", _SCHEMA, _VERSION, is_checked=True)
_COLUMNS = "answer, session, path, verdict, time, generation, space, vector, shown"

_BATCH = 500


@dataclass(frozen=True, slots=True, eq=False)
class Shown:
    """One answer that people judge.

    Attributes:
        id: 32 hex digits.
        generation: Of the index that answered.
        space: As `space_of` says: vectors of other spaces cannot be compared.
        vector: Of the query: unit float32 (d,). Of several, the one nearest to what is judged.
        paths: The hits, best first.
    """

    id: str
    generation: int
    space: str
    vector: Embeddings
    paths: tuple[str, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Judgment:
    """What one person said of one hit.

    Attributes:
        shown: The answer.
        path: Of the hit, below the catalog.
        verdict: What was said.
        session: Whose it is: a random token, or empty.
        time: When it was said, UTC.
    """

    shown: Shown
    path: str
    verdict: Verdict
    session: str
    time: datetime


class FeedbackStore(LiveDatabase):
    """The judgments of an index.

    Args:
        directory: The index; the file is made unless it is there.
        read_only: Open it on a disk that cannot be written to as well, if it is there.

    Raises:
        DamagedIndexError: The file is damaged, or written by a newer imgsearch.
        OutputError: It cannot be written.
        ResourceError: The system has too little memory or open files.
    """

    def __init__(self, directory: Path, *, read_only: bool = False) -> None:
        super().__init__(directory, _CONTENT, read_only=read_only)

    def judge(self, shown: Shown, path: str, verdict: Verdict | None, session: str = "") -> None:
        """Keep what somebody says of a hit, in place of what they said before; None takes it back.

        Args:
            shown: The answer.
            path: Of one of its hits.
            verdict: What is said.
            session: Whose it is; what one session says of an answer, another does not change.

        Raises:
            UsageError: `path` was not shown, or `shown`, `verdict` or `session` is not what it should be.
            DamagedIndexError, OutputError, ResourceError: As for the class; nothing was kept.
        """
        vector = _required(shown, path, verdict, session)
        name = os.fsencode(path)
        values = (
            *(shown.id, session, name, verdict, microseconds(datetime.now(UTC)), shown.generation, shown.space),
            *(vector.astype("<f4").tobytes(), b"\0".join(map(os.fsencode, shown.paths))),
        )
        with self._writing():
            self._connection.execute(
                "DELETE FROM judgments WHERE answer = ? AND session = ? AND path = ?", (shown.id, session, name)
            )
            if verdict is not None:
                self._connection.execute(
                    f"INSERT INTO judgments ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",  # noqa: S608  # constants
                    values,
                )

    def judgments(self) -> Iterator[Judgment]:
        """Yield all judgments, the oldest first, while others may write.

        Raises:
            DamagedIndexError, OutputError, ResourceError: As for the class.
        """
        last = 0
        while rows := self._rows(
            f"SELECT id, {_COLUMNS} FROM judgments WHERE id > ? ORDER BY id LIMIT ?",  # noqa: S608  # constants
            (last, _BATCH),
        ):
            yield from (self._judgment(columns) for _, *columns in rows)
            last = rows[-1][0]

    def judged(self, space: str, most: int) -> tuple[Embeddings, list[str], NDArray[np.bool_]]:
        """Return the last `most` judgments of a space: vectors of the queries (n, d), paths, and which were chosen.

        Raises:
            DamagedIndexError, OutputError, ResourceError: As for the class.
        """
        rows = self._rows(
            "SELECT vector, path, verdict FROM judgments WHERE space = ? ORDER BY id DESC LIMIT ?", (space, most)
        )
        if not rows:
            return np.empty((0, 0), np.float32), [], np.empty(0, bool)
        lengths = {len(data) if isinstance(data, bytes) else 0 for data, _, _ in rows}
        if len(lengths) > 1 or 0 in lengths or min(lengths) % 4:
            raise self._damaged("the vectors of a space have several lengths, or none")
        vectors = np.frombuffer(b"".join(data for data, _, _ in rows), "<f4").reshape(len(rows), -1)
        if not _are_unit(vectors):
            raise self._damaged("the vector of a query is not of unit length")
        paths = [self._name(data) for _, data, _ in rows]
        return vectors.astype(np.float32), paths, np.array([verdict == "chosen" for _, _, verdict in rows], bool)

    def forget(self, *, session: str | None = None, before: datetime | None = None, everything: bool = False) -> int:
        """Remove judgments: those of a session, those older than a time, or all; exactly one of these is given.

        Returns:
            How many there were.

        Raises:
            UsageError: Not exactly one is given.
            DamagedIndexError, OutputError, ResourceError: As for the class.
        """
        if (session is not None) + (before is not None) + everything != 1:
            raise UsageError("expected a session, a time or everything to forget, exactly one of them")
        condition: str
        values: tuple[object, ...]
        condition, values = ("1", ()) if before is None else ("time < ?", (microseconds(before),))
        if session is not None:
            condition, values = "session = ?", (session,)
        with self._writing():
            done = self._connection.execute(f"DELETE FROM judgments WHERE {condition}", values)  # noqa: S608  # constants
        self._truncate_log()  # overwritten in the file, and gone from its log, too
        return done.rowcount

    def version(self) -> int:
        """Return a number that changes with every write, by any process.

        Raises:
            DamagedIndexError, OutputError, ResourceError: As for the class.
        """
        ((of_others,),) = self._rows("PRAGMA data_version")
        return int(of_others) + self._written  # neither ever falls

    def _judgment(self, columns: list[Any]) -> Judgment:
        answer, session, path, verdict, when, generation, space, vector, shown = columns
        texts, numbers = (answer, session, space), (when, generation)
        if not all(isinstance(text, str) for text in texts) or not all(isinstance(number, int) for number in numbers):
            raise self._damaged("a judgment has values of another kind")
        if verdict not in get_args(Verdict):
            raise self._damaged("a verdict is neither chosen nor rejected")
        try:
            said = EPOCH + when * MICROSECOND
        except OverflowError:
            raise self._damaged("a time is none") from None
        names = tuple(map(self._name, shown.split(b"\0"))) if isinstance(shown, bytes) else ()
        answered = Shown(answer, generation, space, self._vector(vector), names)
        return Judgment(answered, self._name(path), cast("Verdict", verdict), session, said)

    def _name(self, data: object) -> str:
        if not isinstance(data, bytes):
            raise self._damaged("a path is none")
        return os.fsdecode(data)

    def _vector(self, data: object) -> Embeddings:
        if not isinstance(data, bytes) or not data or len(data) % 4:
            raise self._damaged("the vector of a query is none")
        vector = np.frombuffer(data, "<f4").astype(np.float32)
        if not _are_unit(vector):
            raise self._damaged("the vector of a query is not of unit length")
        return vector


def space_of(manifest: Manifest) -> str:
    """Name the space of a generation's vectors: that of its encoder, or of what it is projected to."""
    projection = manifest.files.get(f"{manifest.folder}/{generations.PROJECTION}")
    return manifest.fingerprint + (f"-{projection.sha256[:16]}" if projection else "")


def _required(shown: Shown, path: str, verdict: Verdict | None, session: str) -> Embeddings:
    """Return the vector of a query; `UsageError` for what the file should not hold."""
    if not re.fullmatch(r"[0-9a-f]{32}", shown.id):
        raise UsageError(f"expected the id of an answer, 32 hex digits, found {shown.id!r}")
    if path not in shown.paths:
        raise UsageError(f"expected one of the hits of this answer, found {path!r}")
    if verdict is not None and verdict not in get_args(Verdict):
        raise UsageError(f"expected chosen or rejected, found {verdict!r}")
    if not re.fullmatch(r"[A-Za-z0-9_-]{0,64}", session):
        raise UsageError(
            "expected a session of at most 64 letters, digits, - and _, found another text",
            hint="a random token will do, such as that of: openssl rand -hex 16",
        )
    vector = np.asarray(shown.vector, np.float32)
    if vector.ndim != 1 or not _are_unit(vector):
        raise UsageError("expected the vector of a query, of unit length, found another array")
    return vector


def _are_unit(vectors: Embeddings) -> bool:
    return bool(np.all(np.abs(np.linalg.norm(vectors, axis=-1) - 1) < 1e-3))  # False for what is not a number, too
