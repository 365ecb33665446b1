"""The embedding pipeline: read and hash (in threads), decode (in processes), encode (in OpenVINO's requests), write.

Stages are generators with bounded queues, run by the caller's thread, which is the only one that touches the journal.
`cluster.py` puts its own stages in place of all but the first and the last.
"""

import contextlib
import hashlib
import itertools
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np

from imgsearch.build.journal import Journal, PendingFile
from imgsearch.encoders.runtime import Embeddings, Encoder
from imgsearch.errors import ImageError
from imgsearch.images.decode import Pixels, Remarks
from imgsearch.images.headers import checked_size, image_format
from imgsearch.images.main_colors import MainColor
from imgsearch.images.policy import FilePolicy
from imgsearch.images.reading import read_file
from imgsearch.images.steps import Steps
from imgsearch.images.stores import READERS, end_if_unreachable, is_url
from imgsearch.images.workers.decoders import DecodeWorker
from imgsearch.images.workers.pool import bounded_map, map_with_workers, while_decoder_works
from imgsearch.images.workers.threads import Threads
from imgsearch.processors import processor_count
from imgsearch.progress import Progress
from imgsearch.store.manifest import Manifest

# Images between two commits of the journal: at most these are embedded again after an interruption.
COMMIT_IMAGES = 64
# Starting a decoder takes a quarter of a second, in which another decodes this many: a few images need only one.
_IMAGES_A_DECODER = 16

# An image that is decoded for its colors alone keeps about so many pixels of its longer side, as for most encoders.
_COLORS_SIDE = 224


@dataclass
class EmbedCounts:
    """What the pipeline did with the files it was given."""

    embedded: int = 0  # files whose image was embedded, now or by an interrupted build before
    resumed: int = 0  # of these, by the build before
    renamed: int = 0  # files whose content was known under another name
    rejected: int = 0  # files that cannot be used

    @property
    def done(self) -> int:
        """All files that are done with."""
        return self.embedded + self.renamed + self.rejected


@dataclass(frozen=True, slots=True)
class Content:
    """A file that was read: its bytes (then its pixels, then its embedding), or why there are none."""

    file: PendingFile
    sha256: bytes = b""
    size: int = 0
    mtime_ns: int = 0
    data: bytes = b""
    pixels: Pixels | None = None
    embedding: Embeddings | None = None
    remarks: Remarks = field(default_factory=dict)
    colors: list[MainColor] = field(default_factory=list)
    error: ImageError | None = None


def embed_pending(
    journal: Journal,
    draft: Manifest,
    open_encoder: Callable[[], Encoder],
    progress: Progress,
    *,
    tolerant: bool = False,
) -> EmbedCounts:
    """Embed every pending file of a journal, or reject it; RefusedError if decoders keep dying, unless `tolerant`."""
    root, policy, spec = draft.catalog, draft.policy, draft.encoder
    total = journal.pending_count()
    counts = EmbedCounts()
    count = max(1, min(processor_count(), -(-total // _IMAGES_A_DECODER)))
    steps = Steps.parse(spec.steps)
    workers = [DecodeWorker(spec.size, spec.fit, policy, steps=steps, colors=True) for _ in range(count)]
    readers = max(count, READERS) if is_url(root) else count
    with journal.transaction(), Threads(readers + 1) as threads, contextlib.ExitStack() as at_the_end:
        read = partial(read_content, root, policy)
        contents = bounded_map(threads, read, journal.pending(), 2 * readers, lambda file: file.size)
        unknown = skip_known(contents, journal, counts)
        first = next(unknown, None)
        if first is None:
            progress("embed", counts.done, total)
            return counts
        opened = threads.submit(open_encoder)  # for new content only, while the first images are decoded
        unknown = itertools.chain([first], unknown)
        decoded = map_with_workers(decode_content, unknown, workers, lambda content: len(content.data))
        at_the_end.callback(decoded.close)  # first of all: an interruption must not wait for what is under way
        watched = decoded if tolerant else while_decoder_works(decoded, lambda content: content.error)
        usable = _reject_unusable(watched, journal, counts)
        record_embedded(encoded(usable, opened), journal, counts, progress, total)
    return counts


def record_embedded(
    embedded: Iterable[Content], journal: Journal, counts: EmbedCounts, progress: Progress, total: int
) -> None:
    """Hand embedded images over to the journal, and commit each batch of them; an interruption, too, keeps the last."""
    batch: list[Content] = []
    try:
        for content in embedded:
            batch.append(content)
            if len(batch) == COMMIT_IMAGES:
                full, batch = batch, []
                _record(full, journal, counts)
                journal.commit()
                progress("embed", counts.done, total)
    finally:
        _record(batch, journal, counts)
    progress("embed", counts.done, total)


def find_colors(journal: Journal, draft: Manifest, total: int, progress: Progress, *, tolerant: bool = False) -> None:
    """Find the main colors of all `total` images that a journal has listed as colorless: one decode each.

    One that cannot be read now, or is another by now, has none. RefusedError as of `embed_pending`.
    """
    root, policy = draft.catalog, draft.policy
    count = max(1, min(processor_count(), -(-total // _IMAGES_A_DECODER)))
    workers = [DecodeWorker(_COLORS_SIDE, "pad", policy, colors=True) for _ in range(count)]

    def read(file: PendingFile, sha256: bytes) -> Content:
        content = read_content(root, policy, file)
        if content.error is None and content.sha256 != sha256:
            content = replace(content, data=b"", error=ImageError("changed", "changed since it was embedded"))
        return replace(content, sha256=sha256)

    progress("colors", 0, total)
    with journal.transaction(), Threads(count + 1) as threads, contextlib.ExitStack() as at_the_end:
        listed = journal.colorless()
        contents = bounded_map(threads, lambda each: read(*each), listed, 2 * count, lambda each: each[0].size)
        decoded = map_with_workers(decode_content, contents, workers, lambda content: len(content.data))
        at_the_end.callback(decoded.close)
        watched = decoded if tolerant else while_decoder_works(decoded, lambda content: content.error)
        done = 0
        while batch := list(itertools.islice(watched, COMMIT_IMAGES)):
            journal.add_colors((content.sha256, content.colors) for content in batch)
            journal.commit()
            done += len(batch)
            progress("colors", done, total)


def decode_content(worker: DecodeWorker, content: Content) -> Content:
    """Turn the bytes of a file that was read into pixels, or find out why there are none."""
    if content.error is not None:
        return content
    try:
        pixels, remarks, colors = worker.decode_with_colors(content.data)
    except ImageError as error:
        return replace(content, data=b"", error=error)
    return replace(content, data=b"", pixels=pixels, remarks=remarks, colors=colors)


def read_content(root: str, policy: FilePolicy, file: PendingFile) -> Content:
    """Read and hash a file of the catalog, and check what its header says."""
    path = os.path.join(root, file.path)
    size, mtime_ns = file.size, file.mtime_ns
    try:
        data, status = read_file(path, follow_links=policy.follow_links, max_bytes=policy.max_bytes)
        size, mtime_ns = status
        # Here and not only in the decoder: what is known by its content is not decoded.
        checked_size(data, image_format(data), policy.max_pixels)
    except ImageError as error:
        end_if_unreachable(error)
        if (error.cause == "empty" and file.size) or (
            error.cause == "too_many_bytes" and file.size <= policy.max_bytes
        ):
            # It is being written: what is found now must not be remembered as what it is.
            error = ImageError("changed", "changed while the catalog was read")
        return Content(file, size=size, mtime_ns=mtime_ns, error=error)
    return Content(file, hashlib.sha256(data).digest(), size, mtime_ns, data)


def skip_known(contents: Iterator[Content], journal: Journal, counts: EmbedCounts) -> Iterator[Content]:
    """Record files whose content has a vector already, and pass the others on."""
    for content in _reject_unusable(contents, journal, counts):
        known = journal.vector_source(content.sha256)
        if not known:
            yield content
            continue
        journal.set_content(content.file, content.sha256, content.size, content.mtime_ns)
        if known == "resumed":
            counts.embedded += 1
            counts.resumed += 1
        else:
            counts.renamed += 1


def _record(embedded: list[Content], journal: Journal, counts: EmbedCounts) -> None:
    """Hand embeddings over to the journal, and reject images that the encoder could do nothing with."""
    usable = [
        (content, content.embedding)
        for content in embedded
        if content.embedding is not None and np.isfinite(content.embedding).all()
    ]
    journal.add_vectors((content.sha256, embedding, content.remarks) for content, embedding in usable)
    journal.add_colors((content.sha256, content.colors) for content, _ in usable)
    for content, _ in usable:
        journal.set_content(content.file, content.sha256, content.size, content.mtime_ns)
    used = {content.file.id for content, _ in usable}
    for content in embedded:
        if content.file.id not in used:
            message = "the encoder found nothing in this image"
            journal.reject(content.file, "bad_embedding", message, content.size, content.mtime_ns)
    counts.embedded += len(usable)
    counts.rejected += len(embedded) - len(usable)


def _reject_unusable(contents: Iterator[Content], journal: Journal, counts: EmbedCounts) -> Iterator[Content]:
    for content in contents:
        if content.error is None:
            yield content
        else:
            journal.reject(content.file, content.error.cause, content.error.message, content.size, content.mtime_ns)
            counts.rejected += 1


def encoded(contents: Iterator[Content], opened: Callable[[], Encoder]) -> Iterator[Content]:
    """Encode decoded images in batches: their embeddings take the place of their pixels."""
    encoder = opened()
    under_way: deque[Content] = deque()

    def batches() -> Iterator[Pixels]:
        while batch := list(itertools.islice(contents, encoder.batch_size)):
            under_way.extend(replace(content, pixels=None) for content in batch)
            yield np.stack([content.pixels for content in batch if content.pixels is not None])

    for embeddings in encoder.encode_stream(batches()):
        for embedding in embeddings:
            yield replace(under_way.popleft(), embedding=embedding)
