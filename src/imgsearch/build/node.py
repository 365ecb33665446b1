"""What a worker of a cluster does: it hashes or embeds a shard of the catalog, and returns plain records.

Nothing here imports Dask but to ask who we are: its workers call these functions by name. Each process keeps the
encoder and the decoders of a run, or two, until it is told to let go of them.
"""

import contextlib
import os
import signal
import traceback
from collections import OrderedDict, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from hashlib import sha256
from pathlib import Path
from threading import Lock

from imgsearch._version import __version__
from imgsearch.build.journal import PendingFile
from imgsearch.build.pipeline import Content, decode_content, encoded, read_content
from imgsearch.cache import cached_folder
from imgsearch.encoders.runtime import Encoder, best_precision, open_encoder
from imgsearch.encoders.spec import EncoderSpec
from imgsearch.errors import ImgsearchError, MissingComponentError, ServerError
from imgsearch.images.policy import FilePolicy
from imgsearch.images.steps import Steps
from imgsearch.images.stores import is_url, store_of
from imgsearch.images.workers.decoders import DecodeWorker
from imgsearch.images.workers.pool import bounded_map
from imgsearch.images.workers.threads import Threads
from imgsearch.system import refusal_of

# Files that one task reads ahead: a disk in the network answers late, but answers many at once.
_READERS = 4
_MOST_NODES = 2  # runs at once that one process keeps an encoder for


@dataclass(frozen=True, slots=True)
class Setup:
    """What all tasks of a run share."""

    version: str  # of imgsearch
    root: str
    policy: FilePolicy
    spec: EncoderSpec
    files: tuple[tuple[str, str], ...]  # names of the files that the encoder is run from, and their sha256


@dataclass(frozen=True, slots=True)
class Shard:
    """What a worker found out about some files, and the worker's address."""

    worker: str
    contents: list[Content]  # neither bytes nor pixels
    lacks_encoder: bool = False  # then there are none: the worker is to be given the files of the encoder first


class _LackingError(Exception):
    """The files of the encoder are not in this machine's cache."""


@dataclass(frozen=True, slots=True)
class _Node:
    """An open encoder, and the decoders that no task is using."""

    setup: Setup
    encoder: Encoder
    decoders: deque[DecodeWorker] = field(default_factory=deque)

    @contextlib.contextmanager
    def decoder(self) -> Iterator[DecodeWorker]:
        try:
            decoder = self.decoders.pop()
        except IndexError:
            spec = self.setup.spec
            steps = Steps.parse(spec.steps)
            decoder = DecodeWorker(spec.size, spec.fit, self.setup.policy, steps=steps, colors=True)
        try:
            yield decoder
        finally:
            self.decoders.append(decoder)

    def close(self) -> None:
        while self.decoders:
            self.decoders.pop().close()


_NODES: OrderedDict[Setup, _Node] = OrderedDict()
_RECEIVED: dict[Setup, Mapping[str, bytes]] = {}
_OPENING = Lock()


def dask_setup(_: object) -> None:
    """Leave what is sent to all processes to the program that started this worker; Dask calls this at its start."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)


def hash_shard(setup: Setup, files: Sequence[PendingFile]) -> Shard:
    """Read and hash files, so that those whose content is known are embedded by nobody."""
    with _naming_worker() as worker:
        _require_fit(setup)
        with Threads(_READERS) as threads:
            return Shard(worker, [replace(content, data=b"") for content in _read(setup, files, threads)])


def embed_shard(setup: Setup, files: Sequence[PendingFile]) -> Shard:
    """Read, hash, decode and encode files."""
    with _naming_worker() as worker:
        try:
            node = _node(setup)
        except _LackingError:
            return Shard(worker, [], lacks_encoder=True)
        unusable: list[Content] = []
        with node.decoder() as decoder, Threads(_READERS) as threads:

            def usable() -> Iterator[Content]:
                for content in _read(setup, files, threads):
                    decoded = decode_content(decoder, content)
                    if decoded.error is None:
                        yield decoded
                    else:
                        unusable.append(decoded)

            embedded = list(encoded(usable(), lambda: node.encoder))
        contents = {content.file.id: content for content in (*embedded, *unusable)}
        return Shard(worker, [contents[file.id] for file in files])  # in the catalog's order


def receive_encoder(setup: Setup, files: Mapping[str, bytes]) -> None:
    """Take the files of an encoder, which the next task puts into this machine's cache: this thread must not wait."""
    _RECEIVED[setup] = files


def let_go() -> None:
    """Close encoders and decoders; tasks under way, of another run maybe, keep theirs until they are done."""
    with _OPENING:
        nodes = list(_NODES.values())
        _NODES.clear()
    for node in nodes:
        node.close()


def _read(setup: Setup, files: Sequence[PendingFile], threads: Threads) -> Iterator[Content]:
    read = partial(read_content, setup.root, setup.policy)
    return bounded_map(threads, read, files, 2 * _READERS, lambda file: file.size)


def _node(setup: Setup) -> _Node:
    with _OPENING:  # by one of the tasks that come at once
        node = _NODES.get(setup)
        if node is None:
            _require_fit(setup)
            node = _NODES[setup] = _Node(setup, _opened(setup))
            _RECEIVED.pop(setup, None)
            if len(_NODES) > _MOST_NODES:
                _NODES.popitem(last=False)[1].close()
        _NODES.move_to_end(setup)
        return node


def _require_fit(setup: Setup) -> None:
    """Raise an error unless this worker can do what the client does itself."""
    if setup.version != __version__:
        raise MissingComponentError(
            f"expected imgsearch {setup.version}, found {__version__}",
            hint="install the same version on all machines, and start the workers again",
        )
    if is_url(setup.root):
        store_of(setup.root.partition("://")[0])
    elif not os.path.isdir(setup.root):
        raise ServerError(
            f"expected to find the catalog {setup.root}, found nothing",
            hint="all machines must see the same folder at the same place; is it mounted there?",
        )


def _opened(setup: Setup) -> Encoder:
    import distributed

    # A worker is meant to keep as many processors busy as it has threads, and does so by one stream of the encoder and
    # one decoder for each. Dask starts workers with 1 here, for libraries that would start threads for each task.
    os.environ["OMP_NUM_THREADS"] = str(distributed.get_worker().state.nthreads)
    spec = setup.spec
    if spec.uses_openvino and spec.precision == "bf16" and best_precision() != "bf16":
        raise MissingComponentError(
            "its processor does not compute in bf16, as the embeddings are to be",
            hint="embed --precision f32 runs everywhere; or start workers only where bf16 is",
        )
    content = sha256(repr(setup.files).encode()).hexdigest()[:16]
    names = [name for name, _ in setup.files]
    folder = cached_folder("encoders", f"{spec.fingerprint}-{content}", names, partial(_write, setup))
    return open_encoder(spec, folder)


def _write(setup: Setup, folder: Path) -> None:
    files = _RECEIVED.get(setup)
    if files is None:
        raise _LackingError
    for name, sum_of_it in setup.files:
        if sha256(files[name]).hexdigest() != sum_of_it:
            raise ServerError(f"{name} of the encoder {setup.spec.name} did not arrive as it was sent")
        (folder / name).write_bytes(files[name])


@contextlib.contextmanager
def _naming_worker() -> Iterator[str]:
    """Give the address of this worker, and say in errors which it was."""
    import distributed

    worker: str = distributed.get_worker().address
    try:
        yield worker
    except ImgsearchError as error:
        raise type(error)(f"worker {worker}: {error.message}", hint=error.hint) from error
    except Exception as error:  # noqa: BLE001
        # In words: not each exception comes through with its traceback, and the client would wait for it for ever.
        raise refusal_of(error) or RuntimeError(f"worker {worker}:\n{traceback.format_exc(limit=-8)}") from None
