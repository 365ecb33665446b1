"""Build an index from what `embed` wrote: the same truth, with the derived files added."""

import contextlib
import os
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import cast

from imgsearch.build.encoder_source import EncoderSource
from imgsearch.build.generation import Job, complete_generation
from imgsearch.build.journal import Changes
from imgsearch.build.loss import Found, compare_items, guard_against_data_loss, guard_against_loss, shop_data
from imgsearch.build.options import (
    BuildOptions,
    ImageOptions,
    check_resources,
    option_names,
    resolve_detector,
    resolve_encoder,
    resolve_metadata,
    resolve_metadata_encoding,
    resolve_policy,
    resolve_search,
    resolve_text,
)
from imgsearch.build.pipeline import EmbedCounts
from imgsearch.build.report import BuildReport, report_of
from imgsearch.build.words import lacks_text_vectors
from imgsearch.encoders.export import exported_files
from imgsearch.errors import NoIndexError, UsageError
from imgsearch.files import sync
from imgsearch.search.backends import is_whole
from imgsearch.store import generations, integrity
from imgsearch.store.database import connect, database_uri
from imgsearch.store.items import Items
from imgsearch.store.locking import writer_lock
from imgsearch.store.manifest import Manifest
from imgsearch.store.publishing import install_encoder, new_generation, sweep


def index_embeddings(job: Job) -> BuildReport:
    """Create or update an index of what `embed` wrote, `job.catalog`, without reading an image."""
    source, directory = job.catalog, job.directory
    if generations.published(source) is None:
        raise NoIndexError(f"{source} is not complete: embed was interrupted", hint=f"run embed -o {source} again")
    with writer_lock(directory, job.options.get("wait_lock", 0)):
        given = generations.read_manifest(source)
        previous = generations.published(directory)
        _refuse_late_options(job, given, previous)
        detector = resolve_detector(job.options, previous, given.encoder)
        draft = replace(
            given,
            generation=previous.generation + 1 if previous else 1,
            detector=detector.spec if detector else None,
            detector_fingerprint=detector.spec.fingerprint if detector else "",
            search=resolve_search(job.options, previous),
            backend=None,
            measured=None,
            calibration=None,
            words_calibration=None,
        )
        if previous and _is_unchanged(job, draft, given, previous):
            sweep(directory, previous, None)
            return _report(job, previous, published=False)
        encoder_files = exported_files(given.encoder)
        for name in (*_truth(given), *(f"{given.encoder_folder}/{name}" for name in encoder_files)):
            integrity.check_truth(source, given, name)
        _guard(job, given, previous)
        new_encoder = None if directory == source else source / given.encoder_folder
        check_resources(directory, draft, given.count, 0, new_encoder)
        with job.watch.stage("index"), new_generation(directory, draft.generation) as folder:
            for name in _truth(given):
                copy = folder / Path(name).name
                shutil.copyfile(source / name, copy)
                sync(copy)
            if os.path.realpath(directory) != os.path.realpath(source):
                install_encoder(directory, given.fingerprint, source / given.encoder_folder, encoder_files)
            if detector:
                EncoderSource(directory, detector.spec, detector.files, previous).install()
            manifest, encoded = complete_generation(job, draft, previous, adapt=_adapt(job))
        return _report(job, manifest, published=True, texts_encoded=encoded)


def _refuse_late_options(job: Job, given: Manifest, previous: Manifest | None) -> None:
    """Refuse options that are other than what the embeddings were made with."""
    late = {name: job.options.get(name) for name in ImageOptions.__annotations__ if name in job.options}
    late = {name: value for name, value in late.items() if _has_effect(name, value, given)}
    if late:
        names = ", ".join(option_names(late))
        raise UsageError(f"{job.catalog} holds embeddings already, made otherwise; give {names} to embed")
    if job.options.get("adapt") and (previous is None or previous.adaptation is None):
        raise UsageError(f"{job.catalog} holds embeddings; --adapt needs a build from the folder of images")


def _has_effect(name: str, value: object, given: Manifest) -> bool:
    alone = cast("BuildOptions", {name: value, "keep_pixels": True})
    if name == "metadata_encoding":
        file = Path(given.metadata_file) if given.metadata_file else None
        return resolve_metadata_encoding(alone, file, given) != given.metadata_encoding
    if name == "metadata":
        metadata = resolve_metadata(alone, given)
        return (os.fspath(metadata) if metadata else "") != given.metadata_file
    if name == "text":
        return resolve_text(alone, given) != given.text
    return resolve_encoder(alone, given).spec != given.encoder or resolve_policy(alone, given) != given.policy


def _guard(job: Job, given: Manifest, previous: Manifest | None) -> None:
    """Refuse embeddings of another catalog, or of one that lost much."""
    if previous is None:
        guard_against_loss(Found(given.count, given.rejected, 0), None, job.options)
        return
    items, old = (at / of.folder / generations.ITEMS for at, of in ((job.catalog, given), (job.directory, previous)))
    integrity.check_truth(job.directory, previous, f"{previous.folder}/{generations.ITEMS}")
    with contextlib.closing(connect(items, read_only=True)) as connection:
        connection.execute("ATTACH ? AS old", (database_uri(old),))
        connection.execute("CREATE TEMP VIEW coming AS SELECT * FROM main.items")
        compare_items(connection, same_root=given.catalog == previous.catalog)
        (kept,) = connection.execute("SELECT count(*) FROM kept").fetchone()
        guard_against_loss(Found(given.count, given.rejected, kept), previous, job.options)
        if previous.metadata_file:
            before, after = shop_data(connection, "kept"), shop_data(connection, "coming")
            guard_against_data_loss(before, after, os.fspath(job.catalog), job.options)


def _adapt(job: Job) -> bool | None:
    """Return False where an adaptation is no longer wanted, else None: without the images none can be learned."""
    return False if job.options.get("adapt") is False else None


def _truth(manifest: Manifest) -> tuple[str, str]:
    """Name the files that cannot be derived from others."""
    return f"{manifest.folder}/{generations.EMBEDDINGS}", f"{manifest.folder}/{generations.ITEMS}"


def _is_unchanged(job: Job, draft: Manifest, given: Manifest, previous: Manifest) -> bool:
    same_truth = [given.files.get(name) for name in _truth(given)] == [
        previous.files.get(name) for name in _truth(previous)
    ]
    return (
        not job.options.get("relearn")
        and not (_adapt(job) is False and previous.adaptation)
        and same_truth
        and draft.has_settings_of(previous)
        and not lacks_text_vectors(draft, previous)
        and is_whole(job.directory, previous)
    )


def _report(job: Job, manifest: Manifest, *, published: bool, texts_encoded: int = 0) -> BuildReport:
    """Report that nothing was scanned or embedded."""
    with contextlib.closing(Items(job.directory / manifest.folder / generations.ITEMS)) as items:
        causes = Counter(reject.cause for reject in items.rejected())
        unmatched = items.unmatched_counts()
    seen = manifest.count + manifest.rejected
    changes = Changes(seen=seen, unchanged=manifest.count, rejected=manifest.rejected)
    return report_of(
        manifest,
        job.watch,
        changes,
        EmbedCounts(),
        published=published,
        causes=causes,
        unmatched=unmatched,
        texts_encoded=texts_encoded,
    )
