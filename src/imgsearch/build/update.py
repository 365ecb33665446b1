"""Bring an index, or a directory of embeddings, up to date with a folder: scan, embed what is new, publish."""

import datetime as dt
import logging
import os
import sqlite3
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

from imgsearch.progress import Progress
from imgsearch.encoders.adaptation import AdaptationGain
from imgsearch.encoders.projection import Projection
from imgsearch.encoders.runtime import GRAPH_FILE, Embeddings, open_encoder
from imgsearch.errors import UsageError
from imgsearch.images.scan import Reject
from imgsearch.images.scan import FoundFile, Scan
from imgsearch.images.steps import Steps
from imgsearch.store import generations, integrity
from imgsearch.store.publishing import link_embeddings, new_generation, sweep
from imgsearch.build.adapt import adapt, item_embedder
from imgsearch.store.arrays import BLOCK_ROWS, open_array, write_array
from imgsearch.files import sync
from imgsearch.build.encoder_source import EncoderSource
from imgsearch.build.generation import Adapter, complete_generation
from imgsearch.store.locking import writer_lock
from imgsearch.store.manifest import Manifest
from imgsearch.build.pipeline import EmbedCounts, embed_pending
from imgsearch.build.metadata import read_products
from imgsearch.build.report import BuildReport, Stopwatch, peak_memory
from imgsearch.build.options import (
    RunOptions,
    BuildOptions,
    guard_against_shrinking,
    guard_against_skipping,
    check_resources,
    resolve_adaptation,
    resolve_detector,
    resolve_encoder,
    resolve_metadata,
    resolve_policy,
    resolve_search,
)
from imgsearch.build.vocabulary import vocabularies_of, with_vocabulary
from imgsearch.build.journal import Changes, WorkFile
from imgsearch.regions.detector import Detector

logger = logging.getLogger(__name__)


def update(
    catalog: Path, directory: Path, options: BuildOptions, run: RunOptions, progress: Progress, *, searchable: bool
) -> BuildReport:
    """Bring a directory up to date with a folder of images.

    Args:
        catalog: The folder.
        directory: An index, or embeddings; it may not exist yet.
        wishes: Of the user.
        conduct: Of this build.
        progress: Told (stage, done, total).
        searchable: Whether it is to be an index; otherwise embeddings only.

    Raises:
        ImgsearchError: One of its kinds; nothing was published.
    """
    watch = Stopwatch()
    _require_folder(catalog, directory)
    with writer_lock(directory, run.wait_lock):
        previous = generations.published(directory)
        if previous and previous.backend and not searchable:
            raise UsageError(f"{directory} holds an index; choose another directory for embeddings")
        with watch.stage("encoder"):
            draft, files, adapted = _settled(
                catalog, directory, options, run, previous, progress, searchable=searchable
            )
        spec = draft.encoder
        sources = [EncoderSource(directory, each, files, previous) for each in (spec, draft.detector) if each]
        prepared = sources[0]
        with watch.stage("encoder"):
            for source in sources:
                source.find_new()  # one that cannot be had is better known before a million files are read
        with _work_file(directory, previous, draft) as work:
            found = Scan(os.fspath(catalog), leave_out=generations.is_index, follow_links=draft.policy.follow_links)
            with watch.stage("scan"):
                changes = _compare(work, found, draft.metadata_file, progress)
            guard_against_skipping(changes.rejected, run)
            if not run.force:
                guard_against_shrinking(changes.seen - changes.rejected, previous)
            counts = EmbedCounts()

            def is_up_to_date() -> bool:
                with watch.stage("check"):
                    return (
                        not run.relearn
                        and (previous is not None and adapted == (previous.adaptation is not None))
                        and _nothing_changed(changes, counts, work, draft, previous, directory)
                    )

            unchanged = is_up_to_date()
            if not unchanged:
                missing = None if os.path.isdir(directory / draft.encoder_folder) else prepared.find()
                check_resources(directory, draft, changes.seen - changes.rejected, work.pending_count(), missing)
                with watch.stage("embed"):
                    counts = embed_pending(
                        work,
                        os.fspath(catalog),
                        draft.policy,
                        spec,
                        prepared.open,
                        progress,
                        tolerant=run.force,
                    )
                # A file tried once more that failed once more is no news.
                unchanged = bool(counts.rejected) and is_up_to_date()
            if previous and unchanged:
                sweep(directory, previous, None)
                link_embeddings(directory, previous)
                return _report(previous, changes, counts, work, found.left_out, watch, published=False)
            left = work.item_count()
            guard_against_skipping(changes.rejected + counts.rejected, run)
            if not run.force:
                guard_against_shrinking(left, previous)
            draft = replace(draft, count=left, rejected=changes.rejected + counts.rejected, damaged=work.damaged_count())
            for source in sources:
                source.install()
            with watch.stage("index"), new_generation(directory, draft.generation) as folder:
                _write_truth(work, directory, folder, draft, previous)
                adapter: Adapter | None = None
                if adapted:
                    adapter = partial(_adapt, folder, sources, progress, options)
                manifest = complete_generation(
                    directory, draft, previous, progress, relearn=run.relearn, adapted=adapted, adapter=adapter
                )
            return _report(manifest, changes, counts, work, found.left_out, watch, published=True)


def _adapt(
    folder: Path,
    sources: Sequence[EncoderSource],
    progress: Progress,
    options: BuildOptions,
    draft: Manifest,
    sample: Embeddings,
    plain: Projection | None,
) -> tuple[Projection | None, AdaptationGain | None]:
    embed_item = None
    # Of photos that are turned first, regions are not looked at; see `views`.
    if draft.detector and not Steps.parse(draft.encoder.steps).moves:
        detector = Detector(draft.detector, sources[1].install() / GRAPH_FILE)
        embed_item = item_embedder(detector, open_encoder(draft.encoder, sources[0].install(), for_one=True))
    try:
        return adapt(folder, draft, sample, plain, sources[0].open(), embed_item, progress)
    except UsageError as error:
        if options.adapt:
            raise
        logger.warning("the catalog does not teach the projection: %s", error)
        return plain, None


def _require_folder(catalog: Path, directory: Path) -> None:
    if not os.path.isdir(catalog):
        found = "a file" if os.path.exists(catalog) else "nothing"
        raise UsageError(f"expected a folder of images, found {found}: {catalog}")
    if os.path.realpath(catalog) == os.path.realpath(directory):
        raise UsageError(f"the index cannot be the folder of images itself: {directory}")
    if not os.access(catalog, os.R_OK | os.X_OK):
        raise UsageError(f"expected a folder that may be read, found one that may not: {catalog}")


def _settled(
    catalog: Path,
    directory: Path,
    options: BuildOptions,
    run: RunOptions,
    previous: Manifest | None,
    progress: Progress,
    *,
    searchable: bool,
) -> tuple[Manifest, Mapping[str, Path], bool]:
    """Describe the generation to come, as far as it is known before the catalog is scanned.

    Returns:
        The draft, where the files of encoder and detector are, and whether the catalog is to teach the projection.
    """
    choice = resolve_encoder(options, previous)
    search = resolve_search(options, previous) if searchable else None
    metadata = resolve_metadata(options, previous)
    policy = resolve_policy(options, previous)
    if previous:
        choice = replace(choice, files={**vocabularies_of(directory, previous), **choice.files})
    choice = with_vocabulary(choice, catalog, policy, progress, relearn=run.relearn)
    detector = resolve_detector(options, previous, choice.spec) if searchable else None
    draft = Manifest(
        generation=previous.generation + 1 if previous else 1,
        count=0,
        rejected=0,
        damaged=0,
        catalog=os.path.realpath(catalog),
        policy=policy,
        encoder=choice.spec,
        fingerprint=choice.spec.fingerprint,
        detector=detector.spec if detector else None,
        detector_fingerprint=detector.spec.fingerprint if detector else "",
        dims=0,
        projection_count=0,
        adaptation=None,
        search=search,
        backend=None,
        measured=None,
        calibration=None,
        metadata_file=os.fspath(metadata) if metadata else "",
        metadata_sha256=_digest(metadata) if metadata else "",
        files={},
    )
    files = {**choice.files, **(detector.files if detector else {})}
    return draft, files, searchable and resolve_adaptation(options, previous, draft.detector)


def _digest(metadata: Path) -> str:
    try:
        return integrity.file_record(metadata).sha256
    except OSError as error:
        raise UsageError(f"{metadata} cannot be read: {error.strerror}") from error


@contextmanager
def _work_file(directory: Path, previous: Manifest | None, draft: Manifest) -> Iterator[WorkFile]:
    """Open the work file; if the build does not come to its end, the next one goes on from the vectors in it."""
    spec = draft.encoder
    items = None
    if previous:
        name = f"{previous.folder}/{generations.ITEMS}"
        integrity.check_truth(directory, previous, name)
        items = directory / name
    same_encoder = previous is not None and previous.fingerprint == spec.fingerprint
    same_root = previous is not None and previous.catalog == draft.catalog
    work = WorkFile(
        directory / generations.PARTIAL,
        spec.fingerprint,
        spec.dims,
        draft.policy,
        previous=items,
        previous_policy=previous.policy if previous else None,
        same_encoder=same_encoder,
        same_root=same_root,
    )
    done = False
    try:
        yield work
        done = True
    finally:
        work.close(done=done)


def _compare(work: WorkFile, found: Scan, metadata: str, progress: Progress) -> Changes:
    """Take in the catalog and the shop's data, and find out what has changed."""

    def counted() -> Iterator[FoundFile]:
        for number, file in enumerate(found, start=1):
            if number % 1000 == 0:
                progress("scan", number, 0)
            yield file

    with work.transaction():
        work.add_files(counted())
        changes = work.compare()
        if metadata:
            try:
                work.add_products(read_products(Path(metadata)))
            except sqlite3.IntegrityError as error:
                raise UsageError(f"a path comes twice in {metadata}") from error
    if metadata and (missing := work.products_without_file()):
        logger.warning("%d products of %s have no image in the catalog", missing, metadata)
    if resumed := work.resumed_count():
        logger.info("going on with %d embeddings of an interrupted build", resumed)
    return changes


def _nothing_changed(
    changes: Changes, counts: EmbedCounts, work: WorkFile, draft: Manifest, previous: Manifest | None, directory: Path
) -> bool:
    return (
        previous is not None
        and changes.unchanged + changes.rejected + counts.rejected == changes.seen
        and not changes.removed
        and not changes.rejected_gone
        and not work.has_other_rejects()
        and draft.has_settings_of(previous)
        and previous.is_tuned
        and integrity.is_whole(directory, previous)
    )


def _write_truth(work: WorkFile, directory: Path, folder: Path, draft: Manifest, previous: Manifest | None) -> None:
    """Write items and embeddings of a new generation."""
    published: Embeddings | None = None
    if previous and previous.fingerprint == draft.fingerprint:
        name = f"{previous.folder}/{generations.EMBEDDINGS}"
        integrity.check_truth(directory, previous, name)
        published = open_array(directory / name, previous.count, previous.encoder.dims)
    now = dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
    work.write_items(folder / generations.ITEMS, now)
    sync(folder / generations.ITEMS)
    rows = work.embeddings(published, BLOCK_ROWS)
    write_array(folder / generations.EMBEDDINGS, draft.count, draft.encoder.dims, rows)


def _report(
    manifest: Manifest,
    changes: Changes,
    counts: EmbedCounts,
    work: WorkFile,
    left_out: Counter[str],
    watch: Stopwatch,
    *,
    published: bool,
) -> BuildReport:
    return BuildReport(
        generation=manifest.generation,
        published=published,
        seen=changes.seen,
        unchanged=changes.unchanged,
        renamed=counts.renamed,
        embedded=counts.embedded,
        resumed=counts.resumed,
        forgotten=work.forgotten,
        damaged=manifest.damaged,
        rejected=changes.rejected + counts.rejected,
        removed=changes.removed,
        causes=work.causes(),
        left_out=dict(left_out),
        new_rejects=tuple(Reject(*row) for row in work.new_rejects()),
        adaptation=manifest.adaptation,
        encoder=manifest.encoder.name,
        plan=manifest.backend.name if manifest.backend else "none",
        seconds=watch.all(),
        peak_rss_bytes=peak_memory(),
    )
