"""Bring an index, or a directory of embeddings, up to date with images: a folder, or a list of URLs."""

import datetime as dt
import logging
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from imgsearch.build.adapt import Adapter
from imgsearch.build.cluster import embed_on_cluster
from imgsearch.build.encoder_source import EncoderSource
from imgsearch.build.generation import Job, complete_generation
from imgsearch.build.journal import Changes, Journal
from imgsearch.build.location import ImageSource, opened_source, root_of, scan_of
from imgsearch.build.loss import Found, guard_against_data_loss, guard_against_loss
from imgsearch.build.metadata import read_products
from imgsearch.build.options import (
    check_resources,
    resolve_adaptation,
    resolve_detector,
    resolve_encoder,
    resolve_metadata,
    resolve_metadata_encoding,
    resolve_policy,
    resolve_search,
    resolve_text,
)
from imgsearch.build.pipeline import EmbedCounts, embed_pending, find_colors
from imgsearch.build.products import ProductCounts
from imgsearch.build.quantization import quantized_of, with_quantization
from imgsearch.build.report import BuildReport, report_of
from imgsearch.build.vocabulary import vocabularies_of, with_vocabulary
from imgsearch.build.words import has_all_words, warn_without_full_text
from imgsearch.encoders.runtime import Embeddings
from imgsearch.errors import RefusedError, UsageError
from imgsearch.files import sync
from imgsearch.images.workers.threads import Threads
from imgsearch.progress import Progress, counted
from imgsearch.search.backends import is_whole
from imgsearch.search.backends.protocol import Rows
from imgsearch.store import generations, integrity
from imgsearch.store.arrays import BLOCK_ROWS, open_array, write_array
from imgsearch.store.locking import writer_lock
from imgsearch.store.manifest import Manifest, WordsFacts
from imgsearch.store.publishing import link_embeddings, new_generation, sweep

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class BuildPlan:
    """The published manifest and the draft of the next one, before the catalog is scanned."""

    images: ImageSource
    previous: Manifest | None
    draft: Manifest
    files: Mapping[str, Path]  # of encoder and detector, by the sha256 that their specs name
    adapt: bool


def update(job: Job) -> BuildReport:
    """Bring a directory up to date with a folder of images, or a list of URLs."""
    with (
        opened_source(job.catalog, job.directory) as images,
        writer_lock(job.directory, job.options.get("wait_lock", 0)),
    ):
        with job.watch.stage("encoder"):
            plan = _plan(job, images, generations.published(job.directory))
            specs = [spec for spec in (plan.draft.encoder, plan.draft.detector) if spec]
            sources = [EncoderSource(job.directory, spec, plan.files, plan.previous) for spec in specs]
            for source in sources:
                source.find_new()  # before a million files are read
        with _open_journal(job, plan) as journal:
            with job.watch.stage("scan"):
                changes = _scan(job, plan, journal)
            _guard(job, plan, journal, changes, changes.rejected)
            products = _check_products(job, plan, journal, changes)
            counts, texts_encoded = EmbedCounts(), 0
            unchanged = is_unchanged(job, plan, journal, changes, counts)
            if not unchanged:
                counts = _embed(job, plan, journal, changes, sources[0])
                # A file that was tried again and failed again is no news.
                unchanged = counts.rejected > 0 and is_unchanged(job, plan, journal, changes, counts)
            if plan.previous and unchanged:
                manifest = plan.previous
                sweep(job.directory, manifest, None)  # what an earlier build may have left
                link_embeddings(job.directory, manifest)
            else:
                count, rejected = journal.item_count(), changes.rejected + counts.rejected
                _guard(job, plan, journal, changes, rejected)
                _find_colors(job, plan, journal)
                remarks = journal.remark_counts()
                draft = replace(
                    plan.draft,
                    count=count,
                    rejected=rejected,
                    damaged=journal.damaged_count(),
                    blank=remarks.get("blank", 0),
                    ignored_profiles=remarks.get("ignored_profile", 0),
                )
                manifest, texts_encoded = _publish(job, replace(plan, draft=draft), journal, sources)
                products = journal.products.counts()  # some images may have been rejected
            return report_of(
                manifest,
                job.watch,
                changes,
                counts,
                published=not unchanged,
                causes=journal.causes(),
                unmatched=(products.rows_without_image, products.images_without_row),
                texts_encoded=texts_encoded,
                new_rejects=journal.new_rejects(),
            )


def is_unchanged(job: Job, plan: BuildPlan, journal: Journal, changes: Changes, counts: EmbedCounts) -> bool:
    """Return whether what is published is what this build would publish: the same files, options and content."""
    previous = plan.previous
    with job.watch.stage("check"):
        return (
            previous is not None
            and not job.options.get("relearn")
            and plan.adapt == (previous.adaptation is not None)
            and changes.unchanged + changes.rejected + counts.rejected == changes.seen
            and not changes.removed
            and not changes.rejected_gone
            and not journal.rejects_changed()
            and not journal.lacks_tables()
            and not journal.lacks_colors()
            and plan.draft.has_settings_of(previous)
            and has_all_words(plan.draft, previous)
            and is_whole(job.directory, previous)
        )


def _guard(job: Job, plan: BuildPlan, journal: Journal, changes: Changes, rejected: int) -> None:
    # Unchanged files are kept items: where they are many, which is nearly every night, the others need no search.
    is_enough = plan.previous is None or changes.unchanged >= plan.previous.count / 2
    kept = changes.unchanged if is_enough else journal.count_kept()
    found = Found(changes.seen - rejected, rejected, kept, changes.left_out, journal.causes())
    guard_against_loss(found, plan.previous, job.options)


def _plan(job: Job, images: ImageSource, previous: Manifest | None) -> BuildPlan:
    """Resolve all options; a vocabulary, or a graph in int8, that the encoder lacks is made here."""
    options = job.options
    if previous and previous.backend and not job.searchable:
        raise UsageError(f"{job.directory} holds an index; choose another directory for embeddings")
    choice = resolve_encoder(options, previous)
    search = resolve_search(options, previous) if job.searchable else None
    metadata = resolve_metadata(options, previous)
    policy = resolve_policy(options, previous)
    if previous:
        learned = vocabularies_of(job.directory, previous) | quantized_of(job.directory, previous)
        choice = replace(choice, files={**learned, **choice.files})
    relearn = options.get("relearn", False)
    choice = with_vocabulary(choice, images, policy, job.progress, relearn=relearn)
    detector = resolve_detector(options, previous, choice.spec) if job.searchable else None
    choice, loss = with_quantization(choice, images, policy, job.directory, previous, job.progress, relearn=relearn)
    draft = Manifest(
        generation=previous.generation + 1 if previous else 1,
        catalog=root_of(images),
        policy=policy,
        encoder=choice.spec,
        fingerprint=choice.spec.fingerprint,
        detector=detector.spec if detector else None,
        detector_fingerprint=detector.spec.fingerprint if detector else "",
        int8=loss,
        search=search,
        metadata_file=os.fspath(metadata) if metadata else "",
        metadata_sha256=_digest(metadata) if metadata else "",
        metadata_encoding=resolve_metadata_encoding(options, metadata, previous),
        text=resolve_text(options, previous),
    )
    files = {**choice.files, **(detector.files if detector else {})}
    adapt = resolve_adaptation(options, previous, draft)
    return BuildPlan(images, previous, draft, files, job.searchable and adapt)


def _digest(metadata: Path) -> str:
    try:
        return integrity.file_record(metadata).sha256
    except OSError as error:
        raise UsageError(f"{metadata} cannot be read: {error.strerror}") from error


@contextmanager
def _open_journal(job: Job, plan: BuildPlan) -> Iterator[Journal]:
    """Open the journal; if the build does not come to its end, the next one goes on from the vectors in it."""
    items = None
    if previous := plan.previous:
        name = f"{previous.folder}/{generations.ITEMS}"
        integrity.check_truth(job.directory, previous, name)
        items = job.directory / name
    journal = Journal(job.directory / generations.PARTIAL, plan.draft, previous, items)
    done = False
    try:
        yield journal
        done = True
    finally:
        journal.close(done=done)


def _scan(job: Job, plan: BuildPlan, journal: Journal) -> Changes:
    """Read the names of all files, and the shop's data, into the journal; compare with what is published."""
    metadata = plan.draft.metadata_file
    found = scan_of(plan.images, plan.draft.policy)
    with journal.transaction():
        journal.add_files(counted(found, job.progress))
        changes = journal.compare(found.left_out)
        if metadata:
            roots = (plan.draft.catalog, os.fspath(job.catalog.absolute()))
            journal.products.add(read_products(Path(metadata), plan.draft.metadata_encoding), metadata, roots)
        journal.require_text_columns(plan.draft.text, remembered="text" not in job.options)
    if resumed := journal.resumed_count():
        logger.info("going on with %d embeddings of an interrupted build", resumed)
    return changes


def _check_products(job: Job, plan: BuildPlan, journal: Journal, changes: Changes) -> ProductCounts:
    """Refuse shop's data that fit no image, or far fewer than before; count how they fit."""
    metadata = plan.draft.metadata_file
    found = journal.products.counts()
    if not metadata:
        return found
    if found.count and found.stray == found.count and not job.options.get("force"):
        product, image = journal.products.find_similar()
        raise RefusedError(
            f"none of the {found.count} paths in {metadata} is that of an image: it has {product!r}, the catalog"
            f" {image!r}; nothing was changed",
            hint=f"paths are those below {plan.draft.catalog}. To go on without these data, pass --force",
        )
    previous = plan.previous
    # The same data of the same images are as many as they were.
    is_same = previous is not None and plan.draft.has_metadata_of(previous) and changes.unchanged == changes.seen
    if previous and previous.metadata_file and not is_same:
        guard_against_data_loss(*journal.products.compare(), metadata, job.options)
    if found.stray:
        logger.warning(
            "%d of %d products of %s have no image in the catalog, such as %r (imgsearch info --unmatched names them)",
            *(found.stray, found.count, metadata, found.example),
        )
    elif not found.count:
        logger.warning("%s names no image", metadata)
    return found


def _embed(job: Job, plan: BuildPlan, journal: Journal, changes: Changes, source: EncoderSource) -> EmbedCounts:
    draft = plan.draft
    missing = None if os.path.isdir(job.directory / draft.encoder_folder) else source.find()
    check_resources(job.directory, draft, changes.seen - changes.rejected, journal.pending_count(), missing)
    warn_without_full_text(draft)
    progress = job.progress
    if plan.previous and plan.previous.count and draft.encoder.is_fed_otherwise_than(plan.previous.encoder):
        progress = _announcing(
            progress,
            "this imgsearch reads the colors of some images otherwise than the one that built the index: all %d are"
            " embedded again, which takes %s; --keep-pixels puts that off",
        )
    tolerant = job.options.get("force", False)
    with job.watch.stage("embed"):
        if job.engine == "dask":
            return embed_on_cluster(journal, draft, source, progress, scheduler=job.scheduler, tolerant=tolerant)
        open_encoder = partial(source.open, job.options.get("device") or "cpu", journal.pending_count())
        return embed_pending(journal, draft, open_encoder, progress, tolerant=tolerant)


def _find_colors(job: Job, plan: BuildPlan, journal: Journal) -> None:
    """Find the colors of items of an index from before there were any."""
    if not (count := journal.list_colorless()):
        return
    message = "the index gains the main colors of its items: %d images are decoded once, which takes %s"
    progress = _announcing(job.progress, message)
    with job.watch.stage("colors"):
        find_colors(journal, plan.draft, count, progress, tolerant=job.options.get("force", False))


def _announcing(progress: Progress, message: str) -> Progress:
    """Say once, as soon as the speed is known, of how many images something is done again, and how long that takes."""
    calls: list[tuple[float, int]] = []

    def announce(stage: str, done: int, total: int) -> None:
        calls.append((time.monotonic(), done))
        if len(calls) == 2 or (len(calls) == 1 and done == total):
            seconds = (calls[-1][0] - calls[0][0]) / max(1, done - calls[0][1]) * (total - done)
            takes = "about a minute" if seconds < 90 else f"about {seconds / 60:.0f} minutes"
            logger.warning(message, total, takes)
        progress(stage, done, total)

    return announce


def _publish(job: Job, plan: BuildPlan, journal: Journal, sources: Sequence[EncoderSource]) -> tuple[Manifest, int]:
    for source in sources:
        source.install()
    with job.watch.stage("index"), new_generation(job.directory, plan.draft.generation) as folder:
        words, rows = _write_truth(job, plan, journal, folder)
        adapter = Adapter(folder, sources, job.progress, bool(job.options.get("adapt"))) if plan.adapt else None
        draft = replace(plan.draft, words=words)
        return complete_generation(job, draft, plan.previous, rows, adapt=plan.adapt, adapter=adapter)


def _write_truth(job: Job, plan: BuildPlan, journal: Journal, folder: Path) -> tuple[WordsFacts | None, Rows]:
    """Write items and embeddings; return of each the row of the generation before that it was copied from, or -1."""
    previous, draft = plan.previous, plan.draft
    checked = None
    published: Embeddings = np.empty((0, draft.encoder.dims), np.float32)
    now = dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
    with Threads(1) as threads:  # reads gigabytes while words are written, which takes another processor
        if previous and previous.fingerprint == draft.fingerprint:
            name = f"{previous.folder}/{generations.EMBEDDINGS}"
            checked = threads.submit(partial(integrity.check_truth, job.directory, previous, name))
        rows = journal.published_rows()
        words = journal.write_items(folder / generations.ITEMS, now, rows, draft.text)
        sync(folder / generations.ITEMS)
        if previous and checked:
            checked()
            published = open_array(job.directory / name, previous.count, previous.encoder.dims)
        else:
            rows = np.full(draft.count, -1)
    blocks = journal.embeddings(published, rows, BLOCK_ROWS)
    write_array(folder / generations.EMBEDDINGS, draft.count, draft.encoder.dims, blocks)
    return words, rows
