"""Build an index, or bring one up to date: scan, embed what is new, publish."""

import datetime as dt
import logging
import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from imgsearch.encoders.runtime import Embeddings
from imgsearch.encoders.spec import EncoderSpec, Precision
from imgsearch.errors import ShrinkError, UsageError
from imgsearch.images.scan import FoundFile, scan
from imgsearch.index import store
from imgsearch.index.arrays import BLOCK_ROWS, open_array, write_array
from imgsearch.index.disk import sync, writing
from imgsearch.index.encoder_source import EncoderSource
from imgsearch.index.from_embeddings import index_embeddings
from imgsearch.index.generation import complete_generation
from imgsearch.index.manifest import BackendSettings, Manifest
from imgsearch.index.pipeline import Progress, Tally, embed_pending
from imgsearch.index.products import read_products
from imgsearch.index.report import BuildReport, NewReject
from imgsearch.index.settings import (
    Location,
    Wishes,
    guard_against_shrinking,
    settle_backend,
    settle_encoder,
    settle_metadata,
)
from imgsearch.index.work import Changes, WorkFile

logger = logging.getLogger(__name__)


def _silent(_stage: str, _done: int, _total: int) -> None:
    """Tell nobody."""


def build_index(
    catalogue: Location,
    index: Location = ".imgsearch",
    *,
    backbone: str | None = None,
    weights: Location | None = None,
    precision: Precision | None = None,
    backend: str | None = None,
    trees: int | None = None,
    seed: int | None = None,
    metadata: Location | None = None,
    relearn: bool = False,
    force: bool = False,
    progress: Progress = _silent,
) -> BuildReport:
    """Create an index, or bring it up to date.

    Whatever is None stays as the index has it, or is the default for a new one.

    Args:
        catalogue: Folder of pictures, or a directory that `embed` wrote.
        index: The index directory.
        backbone: Name of the encoder.
        weights: Its weights, for encoders of keras.applications.
        precision: `f32` or `bf16`; by default what is fastest on this processor.
        backend: `annoy` or `exact`.
        trees: Trees of the Annoy forest.
        seed: Seed of the Annoy forest.
        metadata: CSV file with a column `path` and the shop's data; columns `product` and `category` replace
            those made from the path. It is read again by every later build.
        relearn: Learn the projection anew.
        force: Go on though most of the catalogue has vanished.
        progress: Told (stage, done, total); stages are `scan` (total 0: not known), `embed` and `index`.

    Returns:
        What was done.

    Raises:
        ImgsearchError: One of its kinds; nothing was published.
    """
    wishes = Wishes(backbone, weights, precision, backend, trees, seed, metadata)
    if store.is_index(os.fspath(catalogue)):
        return index_embeddings(Path(catalogue), Path(index), wishes, progress, relearn=relearn, force=force)
    return _update(Path(catalogue), Path(index), wishes, progress, searchable=True, relearn=relearn, force=force)


def embed(
    catalogue: Location,
    output: Location,
    *,
    backbone: str | None = None,
    weights: Location | None = None,
    precision: Precision | None = None,
    metadata: Location | None = None,
    force: bool = False,
    progress: Progress = _silent,
) -> BuildReport:
    """Do the embedding stage alone: `embeddings.npy`, and `items.sqlite` that says what its rows are.

    Args:
        catalogue: Folder of pictures.
        output: Directory to write, of the same format as an index; `build_index` takes it as a catalogue.
        backbone: As for `build_index`.
        weights: As for `build_index`.
        precision: As for `build_index`.
        metadata: As for `build_index`.
        force: As for `build_index`.
        progress: As for `build_index`.

    Returns:
        What was done.

    Raises:
        ImgsearchError: One of its kinds; nothing was published.
    """
    wishes = Wishes(backbone, weights, precision, metadata=metadata)
    return _update(Path(catalogue), Path(output), wishes, progress, searchable=False, force=force)


def _update(
    catalogue: Path,
    directory: Path,
    wishes: Wishes,
    progress: Progress,
    *,
    searchable: bool,
    relearn: bool = False,
    force: bool = False,
) -> BuildReport:
    started = time.monotonic()
    if not catalogue.is_dir():
        found = "a file" if catalogue.exists() else "nothing"
        raise UsageError(f"expected a folder of pictures, found {found}: {catalogue}")
    if catalogue.resolve() == directory.resolve():
        raise UsageError(f"the index cannot be the folder of pictures itself: {directory}")
    if not os.access(catalogue, os.R_OK | os.X_OK):
        raise UsageError(f"expected a folder that may be read, found one that may not: {catalogue}")
    with store.writer_lock(directory), writing(directory):
        previous = store.published(directory)
        if previous and previous.backend and not searchable:
            raise UsageError(f"{directory} holds an index; choose another directory for embeddings")
        spec = settle_encoder(wishes, previous)
        backend = settle_backend(wishes, previous) if searchable else None
        metadata = settle_metadata(wishes, previous)
        draft = _draft(catalogue, spec, backend, metadata, previous)
        prepared = EncoderSource(directory, spec, Path(wishes.weights) if wishes.weights else None, previous)
        if not previous or previous.fingerprint != spec.fingerprint:
            prepared.find()  # an encoder that cannot be had is better known before a million files are read
        with _work_file(directory, previous, draft) as work:
            changes = _compare(work, catalogue, metadata, progress)
            if previous and not force:
                guard_against_shrinking(changes.seen - changes.rejected, previous)
            tally = Tally()
            unchanged = not relearn and _nothing_changed(changes, tally, work, draft, previous, directory)
            if not unchanged:
                tally = embed_pending(work, os.fspath(catalogue), spec, prepared.open, progress)
                if tally.rejected and not relearn:  # a file tried once more that failed once more is no news
                    unchanged = _nothing_changed(changes, tally, work, draft, previous, directory)
            if previous and unchanged:
                store.sweep(directory, previous, None)
                return _report(previous, changes, tally, work, started, published=False)
            left = work.item_count()
            if not left:
                raise ShrinkError(
                    f"none of the {changes.seen} files in {catalogue} is a picture that can be used",
                    hint="is it the right folder, and is its disk mounted?",
                )
            if previous and not force:
                guard_against_shrinking(left, previous)
            draft = replace(draft, count=left, rejected=changes.rejected + tally.rejected)
            prepared.install()
            _write_truth(work, directory, draft, previous)
            manifest = complete_generation(directory, draft, previous, progress, relearn=relearn)
            return _report(manifest, changes, tally, work, started, published=True)


def _draft(
    catalogue: Path,
    spec: EncoderSpec,
    backend: BackendSettings | None,
    metadata: Path | None,
    previous: Manifest | None,
) -> Manifest:
    """Describe the generation to come, as far as it is known before the catalogue is scanned."""
    return Manifest(
        generation=previous.generation + 1 if previous else 1,
        count=0,
        rejected=0,
        catalogue=os.path.realpath(catalogue),
        encoder=spec,
        fingerprint=spec.fingerprint,
        dims=0,
        projection_count=0,
        backend=backend,
        metadata_file=os.fspath(metadata) if metadata else "",
        metadata_sha256=_digest(metadata) if metadata else "",
        files={},
    )


def _digest(metadata: Path) -> str:
    try:
        return store.file_record(metadata).sha256
    except OSError as error:
        raise UsageError(f"{metadata} cannot be read: {error.strerror}") from error


@contextmanager
def _work_file(directory: Path, previous: Manifest | None, draft: Manifest) -> Iterator[WorkFile]:
    """Open the work file; if the build does not come to its end, the next one goes on from the vectors in it."""
    spec = draft.encoder
    items = None
    if previous:
        name = f"{previous.folder}/{store.ITEMS}"
        store.check_truth(directory, previous, name)
        items = directory / name
    same_encoder = previous is not None and previous.fingerprint == spec.fingerprint
    same_root = previous is not None and previous.catalogue == draft.catalogue
    work = WorkFile(
        directory / store.PARTIAL,
        spec.fingerprint,
        spec.dims,
        previous=items,
        same_encoder=same_encoder,
        same_root=same_root,
    )
    done = False
    try:
        yield work
        done = True
    finally:
        work.close(done=done)


def _compare(work: WorkFile, catalogue: Path, metadata: Path | None, progress: Progress) -> Changes:
    """Take in the catalogue and the shop's data, and find out what has changed."""

    def counted() -> Iterator[FoundFile]:
        for number, file in enumerate(scan(os.fspath(catalogue), leave_out=store.is_index), start=1):
            if number % 1000 == 0:
                progress("scan", number, 0)
            yield file

    with work.transaction():
        work.add_files(counted())
        changes = work.compare()
        if metadata:
            try:
                work.add_products(read_products(metadata))
            except sqlite3.IntegrityError as error:
                raise UsageError(f"a path comes twice in {metadata}") from error
    if metadata and (missing := work.products_without_file()):
        logger.warning("%d products of %s have no picture in the catalogue", missing, metadata)
    if resumed := work.resumed_count():
        logger.info("going on with %d embeddings of an interrupted build", resumed)
    return changes


def _nothing_changed(
    changes: Changes, tally: Tally, work: WorkFile, draft: Manifest, previous: Manifest | None, directory: Path
) -> bool:
    return (
        previous is not None
        and changes.unchanged + changes.rejected + tally.rejected == changes.seen
        and not changes.removed
        and not changes.unrejected
        and next(work.new_rejects(), None) is None
        and draft.has_settings_of(previous)
        and store.is_whole(directory, previous)
    )


def _write_truth(work: WorkFile, directory: Path, draft: Manifest, previous: Manifest | None) -> None:
    """Write items and embeddings of a new generation."""
    published: Embeddings | None = None
    if previous and previous.fingerprint == draft.fingerprint:
        name = f"{previous.folder}/{store.EMBEDDINGS}"
        store.check_truth(directory, previous, name)
        published = open_array(directory / name, previous.count, previous.encoder.dims)
    folder = store.new_generation(directory, draft.generation)
    now = dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
    work.write_items(folder / store.ITEMS, now)
    sync(folder / store.ITEMS)
    rows = work.embeddings(published, BLOCK_ROWS)
    write_array(folder / store.EMBEDDINGS, draft.count, draft.encoder.dims, rows)


def _report(
    manifest: Manifest, changes: Changes, tally: Tally, work: WorkFile, started: float, *, published: bool
) -> BuildReport:
    return BuildReport(
        generation=manifest.generation,
        published=published,
        seen=changes.seen,
        unchanged=changes.unchanged,
        renamed=tally.renamed,
        embedded=tally.embedded,
        rejected=changes.rejected + tally.rejected,
        removed=changes.removed,
        new_rejects=tuple(NewReject(*row) for row in work.new_rejects()),
        encoder=manifest.encoder.name,
        seconds=time.monotonic() - started,
    )
