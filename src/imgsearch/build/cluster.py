"""Embed on many machines: workers of Dask do what lies between the scan and the journal, a shard at a time.

This process alone writes. What a worker returns is recorded as it comes and committed as on one machine, so a worker
that dies costs the shards that it was at, which another does again, with the same result.
"""

import contextlib
import importlib.util
import itertools
import logging
import pkgutil
import re
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from imgsearch._version import __version__
from imgsearch.build.encoder_source import EncoderSource
from imgsearch.build.journal import Journal, PendingFile
from imgsearch.build.node import Setup, Shard, embed_shard, hash_shard, let_go, receive_encoder
from imgsearch.build.pipeline import COMMIT_IMAGES, Content, EmbedCounts, read_content, record_embedded, skip_known
from imgsearch.encoders.runtime import files_of
from imgsearch.errors import ImgsearchError, MissingComponentError, ServerError, UsageError
from imgsearch.files import sha256_of
from imgsearch.images.workers.pool import while_decoder_works
from imgsearch.images.workers.threads import Threads
from imgsearch.processors import processor_count
from imgsearch.progress import Progress
from imgsearch.store.manifest import Manifest

logger = logging.getLogger(__name__)

# Shards under way for each thread of the workers: one it is at, and one that waits, so that none is idle.
_SHARDS_A_THREAD = 2
_CONNECT_SECONDS = 15.0
# A worker that was killed, and its machine, may take so long to come back.
_WORKERLESS_SECONDS = 60.0
_LOOK_SECONDS = 5.0  # between two looks at how many workers there are
_CLOSE_SECONDS = 5.0
_MOST_SENDINGS = 3  # of an encoder to one worker

# Times of a file as two machines see it differ by this much at most: some file systems round to two seconds.
_TIME_NS = 2_000_000_000
# What a worker may say of files that are there, if it sees another folder than we do, or has fewer rights.
_OF_ANOTHER_VIEW = ("vanished", "unreadable", "not_regular_file")

_ADDRESS = re.compile(r"(tcp|tls)://([\w.-]+|\[[0-9a-fA-F:.]+\]):\d{1,5}", re.ASCII)


def require_dask(scheduler: str | None) -> None:
    """Raise an error unless Dask is installed, and the address of a scheduler, if any, is one."""
    if scheduler is not None and not _ADDRESS.fullmatch(scheduler):
        raise UsageError(f"expected tcp://HOST:PORT or tls://HOST:PORT for --scheduler, found {scheduler!r}")
    if importlib.util.find_spec("distributed") is None:
        raise MissingComponentError(
            "--engine dask needs the library distributed, which is not installed",
            hint="pip install 'imgsearch-toolkit[dask]'; or go without: --engine local",
        )


def embed_on_cluster(
    journal: Journal,
    draft: Manifest,
    source: EncoderSource,
    progress: Progress,
    *,
    scheduler: str | None = None,
    tolerant: bool = False,
) -> EmbedCounts:
    """Do what `embed_pending` does, with the same result, on the workers of a Dask scheduler.

    Args:
        journal: Has the files.
        draft: Says which encoder, catalog and limits there are.
        source: Has the encoder.
        progress: Called with stage, done, total.
        scheduler: Its address; None for a worker of our own on this machine.
        tolerant: Go on though decoders keep dying.

    Raises:
        ServerError: There is no scheduler, it was lost, it has no workers, they keep dying, or one does not see the
            catalog.
        MissingComponentError: A worker has another imgsearch, or cannot run the encoder.
        RefusedError: Decoders keep dying.
    """
    total = journal.pending_count()
    counts = EmbedCounts()
    if not total:
        progress("embed", 0, 0)
        return counts
    folder = source.install()
    names = files_of(draft.encoder)
    sums = tuple((name, sha256_of(folder / name)) for name in names)
    setup = Setup(__version__, draft.catalog, draft.policy, draft.encoder, sums)
    with _connected(scheduler) as client, journal.transaction():
        cluster = _Cluster(client, setup, folder)
        cluster.require_same_version()
        files: Iterable[PendingFile] = journal.pending()
        if journal.may_know_contents():
            # Read twice by workers, but never encoded twice.
            hashed = cluster.map(hash_shard, files)
            files = (content.file for content in skip_known(hashed, journal, counts))
        with contextlib.closing(cluster.map(embed_shard, files)) as contents:
            watched = contents if tolerant else while_decoder_works(contents, lambda content: content.error)
            # Once more: two files with the same new content may be in two shards.
            record_embedded(skip_known(watched, journal, counts), journal, counts, progress, total)
        cluster.let_go()
    return counts


@contextlib.contextmanager
def _connected(scheduler: str | None) -> Iterator[Any]:
    """Connect to a scheduler, or to one that is started for this run."""
    import distributed
    from distributed.utils import silence_logging_cmgr

    with contextlib.ExitStack() as stack:
        # What it has to say of connections is said by our errors.
        stack.enter_context(silence_logging_cmgr(logging.CRITICAL))
        address: Any = scheduler
        if scheduler is None:
            with Threads(1) as threads:  # an interruption, too, waits until there is something that can be closed
                address = threads.submit(partial(_started, stack))()
        try:
            client = distributed.Client(address, timeout=_CONNECT_SECONDS, set_as_default=False, name="imgsearch")
        except (OSError, ValueError) as error:
            raise ServerError(
                f"expected a Dask scheduler at {scheduler}, found none: {error}",
                hint="is it running? dask scheduler starts one; docs/cluster.md says how. The embeddings made so far"
                " are kept; --engine local goes on without a cluster",
            ) from error
        stack.callback(client.close, timeout=_CLOSE_SECONDS)
        yield client


def _started(stack: contextlib.ExitStack) -> Any:
    """Start a scheduler and a worker, in reach of this machine alone, which end with a stack."""
    import distributed

    cluster = distributed.LocalCluster(
        n_workers=1,
        threads_per_worker=processor_count(),
        host="127.0.0.1",
        # There is a server for HTTP in any case; without an address it would listen to all of the network.
        dashboard_address="127.0.0.1:0",
        worker_dashboard_address="127.0.0.1:0",
        memory_limit=None,
        preload=["imgsearch.build.node"],
        silence_logs=logging.CRITICAL,
    )
    stack.callback(cluster.close, timeout=_CLOSE_SECONDS)
    return cluster


@dataclass(slots=True)
class _Cluster:
    """The workers of a scheduler, and what they need to know."""

    client: Any
    setup: Setup
    encoder: Path
    submitted: int = 0  # tasks
    sent: dict[str, tuple[int, int]] = field(default_factory=dict)  # to each worker: how often, after how many tasks
    threads: int = 0  # of all workers, at the last look
    look_next: float = 0.0

    def require_same_version(self) -> None:
        """Raise an error unless there is a worker, and all machines have our version: code goes there by name."""
        import distributed

        with _while_connected():
            try:
                self.client.wait_for_workers(1, timeout=_WORKERLESS_SECONDS)
            except distributed.TimeoutError:
                raise _no_workers(self.client) from None
            ask = (pkgutil.resolve_name, "imgsearch._version:__version__")
            found = self.client.run(*ask, on_error="return")
            try:
                found["the scheduler"] = self.client.run_on_scheduler(*ask)
            except ImportError as error:
                found["the scheduler"] = error
        for machine, version in found.items():
            if isinstance(version, OSError):  # it has gone meanwhile
                continue
            if version != __version__:
                raise MissingComponentError(
                    f"expected imgsearch {__version__} on {machine}, found {version}",
                    hint="install the same version on all machines, the scheduler's too, and start them again",
                )

    def map(
        self, work: Callable[[Setup, Sequence[PendingFile]], Shard], files: Iterable[PendingFile]
    ) -> Generator[Content]:
        """Yield what workers found out about files, in no order; bounded by how many threads they have."""
        running: dict[Any, tuple[int, Sequence[PendingFile]]] = {}
        done: SimpleQueue[Any] = SimpleQueue()
        left = iter(files)

        def submit(shard: Sequence[PendingFile]) -> None:
            future = self.client.submit(work, self.setup, shard, pure=False)
            self.submitted += 1
            running[future] = (self.submitted, shard)
            future.add_done_callback(done.put)

        try:
            while True:
                # What is done is taken first: to find the next files may take a while.
                room = len(running) < max(1, _SHARDS_A_THREAD * self._threads()) and done.empty()
                if room and (shard := tuple(itertools.islice(left, COMMIT_IMAGES))):
                    submit(shard)
                elif running:
                    future = self._next(done)
                    number, files_of_it = running.pop(future)
                    found = self._result(future, files_of_it)
                    if found.lacks_encoder:
                        self._send_encoder(found.worker, number)
                        submit(files_of_it)
                    for content in found.contents:
                        yield self._as_seen_here(content, found.worker)
                else:
                    return
        finally:
            with contextlib.suppress(OSError):
                self.client.cancel(list(running))

    def let_go(self) -> None:
        """Let workers close what they keep for a run."""
        with _while_connected():
            self.client.run(let_go, on_error="ignore")

    def _threads(self) -> int:
        """Return how many threads take tasks, which those of a worker that is short of memory do not; now and then."""
        now = time.monotonic()
        if now >= self.look_next:
            with _while_connected():
                workers = self.client.scheduler_info(n_workers=-1)["workers"].values()
            self.threads = sum(each["nthreads"] for each in workers if each["status"] == "running")
            self.look_next = now + _LOOK_SECONDS
        return self.threads

    def _next(self, done: "SimpleQueue[Any]") -> Any:
        """Wait for a task; not for ever, if there is nobody to do it."""
        seen = time.monotonic()
        while True:
            try:
                return done.get(timeout=_LOOK_SECONDS)
            except Empty:
                if self._threads():
                    seen = time.monotonic()
                elif time.monotonic() - seen >= _WORKERLESS_SECONDS:
                    raise _no_workers(self.client) from None

    def _result(self, future: Any, files: Sequence[PendingFile]) -> Shard:
        from distributed import KilledWorker

        try:
            with _while_connected():
                found: Shard = future.result()
        except ImgsearchError:
            raise
        except KilledWorker as error:
            raise ServerError(
                f"{error.allowed_failures + 1} workers died one after another of {len(files)} files, from"
                f" {files[0].path!r} to {files[-1].path!r}; the last was {error.last_worker.address}",
                hint="what do their logs say, and have they enough memory? The embeddings made so far are kept",
            ) from error
        except Exception:
            self.require_same_version()  # a worker may have come later, whose imgsearch does not have what is asked for
            raise
        return found

    def _send_encoder(self, worker: str, number: int) -> None:
        """Send the encoder to a worker that lacked it in a task, unless that was an earlier one than it was sent."""
        times, after = self.sent.get(worker, (0, 0))
        if number <= after:
            return
        if times == _MOST_SENDINGS:
            raise ServerError(
                f"worker {worker} has not kept the encoder, though it was sent {times} times",
                hint="what does its log say, and has it enough memory?",
            )
        self.sent[worker] = (times + 1, self.submitted)
        logger.info("sending the encoder to %s", worker)
        files: Mapping[str, bytes] = {name: (self.encoder / name).read_bytes() for name, _ in self.setup.files}
        with _while_connected():  # one that has died meanwhile is none to send to
            self.client.run(receive_encoder, self.setup, files, workers=[worker], on_error="ignore")

    def _as_seen_here(self, content: Content, worker: str) -> Content:
        """Compare what a worker says of a file with what is here."""
        file = content.file
        if content.error is not None and content.error.cause in _OF_ANOTHER_VIEW:
            here = read_content(self.setup.root, self.setup.policy, file)
            if here.error is None:
                raise ServerError(
                    f"worker {worker} finds that {file.path!r} is {content.error.cause}, which can be read here",
                    hint=f"all machines must see the same {self.setup.root}, and workers have the right to read it",
                )
            return here
        if content.size == file.size and abs(content.mtime_ns - file.mtime_ns) < _TIME_NS:
            # The next scan is made here and compares with the time that we see.
            return replace(content, mtime_ns=file.mtime_ns)
        return content


@contextlib.contextmanager
def _while_connected() -> Iterator[None]:
    """Raise `ServerError` where Dask says in its own way that the scheduler cannot be reached any more."""
    from concurrent.futures import CancelledError

    try:
        yield
    except (OSError, CancelledError) as error:
        raise ServerError(
            f"the Dask scheduler was lost: {error}",
            hint="is it running, and in reach? The embeddings made so far are kept: run embed again",
        ) from error


def _no_workers(client: Any) -> ServerError:
    return ServerError(
        f"the Dask scheduler at {client.scheduler.address} has no workers that take tasks, and none came in"
        f" {_WORKERLESS_SECONDS:g} s",
        hint="dask worker starts one; one that has paused, as its log says, needs more memory (--memory-limit);"
        " docs/cluster.md says how. The embeddings made so far are kept",
    )
