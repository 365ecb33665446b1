"""Build an index from what `embed` wrote: the same truth, with the derived files added."""

import contextlib
import os
import shutil
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path

from imgsearch.progress import Progress
from imgsearch.encoders.export import exported_files
from imgsearch.errors import NoIndexError, UsageError
from imgsearch.store import generations, integrity
from imgsearch.store.publishing import install_encoder, new_generation, sweep
from imgsearch.files import sync
from imgsearch.build.encoder_source import EncoderSource
from imgsearch.build.generation import complete_generation
from imgsearch.store.items import Items
from imgsearch.store.locking import writer_lock
from imgsearch.store.manifest import Manifest
from imgsearch.build.report import BuildReport, Stopwatch, peak_memory
from imgsearch.build.options import (
    RunOptions,
    BuildOptions,
    guard_against_shrinking,
    guard_against_skipping,
    check_resources,
    resolve_detector,
    resolve_search,
)


def index_embeddings(
    source: Path, directory: Path, options: BuildOptions, run: RunOptions, progress: Progress
) -> BuildReport:
    """Create or update an index without a look at images.

    Args:
        source: What `embed` wrote.
        directory: The index; it may be the same directory.
        wishes: Of the user; those for the encoder have come too late.
        conduct: Of this build.
        progress: Told (stage, done, total).

    Raises:
        ImgsearchError: One of its kinds; nothing was published.
    """
    watch = Stopwatch()
    late = [
        "--" + name.replace("_", "-")
        for name, value in asdict(options).items()
        if value is not None and name not in ("detector", "backend", "trees", "seed", "target_recall")
    ]
    if late:
        given_to = "a build from the folder of images" if late == ["--adapt"] else "embed"
        raise UsageError(f"{source} holds embeddings already; {', '.join(late)} must be given to {given_to}")
    given = generations.published(source)
    if given is None:
        raise NoIndexError(f"{source} is not complete: embed was interrupted", hint=f"run embed -o {source} again")
    with writer_lock(directory, run.wait_lock):
        given = generations.read_manifest(source)  # again: while we waited for the lock, embed may have published
        previous = generations.published(directory)
        detector = resolve_detector(options, previous, given.encoder)
        draft = replace(
            given,
            generation=previous.generation + 1 if previous else 1,
            detector=detector.spec if detector else None,
            detector_fingerprint=detector.spec.fingerprint if detector else "",
            search=resolve_search(options, previous),
            backend=None,
            measured=None,
            calibration=None,
        )
        if (
            previous
            and not run.relearn
            and _is_up_to_date(draft, given, previous)
            and integrity.is_whole(directory, previous)
        ):
            sweep(directory, previous, None)
            return _report(previous, directory, watch, published=False)
        guard_against_skipping(given.rejected, run)
        if not run.force:
            guard_against_shrinking(given.count, previous)
        encoder_files = exported_files(given.encoder)
        for name in (*_truth(given), *(f"{given.encoder_folder}/{name}" for name in encoder_files)):
            integrity.check_truth(source, given, name)
        check_resources(directory, draft, given.count, 0, None if directory == source else source / given.encoder_folder)
        with watch.stage("index"), new_generation(directory, draft.generation) as folder:
            for name in _truth(given):
                copy = folder / Path(name).name
                shutil.copyfile(source / name, copy)
                sync(copy)
            if os.path.realpath(directory) != os.path.realpath(source):
                install_encoder(directory, given.fingerprint, source / given.encoder_folder, encoder_files)
            if detector:
                EncoderSource(directory, detector.spec, detector.files, previous).install()
            manifest = complete_generation(directory, draft, previous, progress, relearn=run.relearn)
        return _report(manifest, directory, watch, published=True)


def _truth(manifest: Manifest) -> tuple[str, str]:
    """Name the files that cannot be derived from others."""
    return f"{manifest.folder}/{generations.EMBEDDINGS}", f"{manifest.folder}/{generations.ITEMS}"


def _is_up_to_date(draft: Manifest, given: Manifest, previous: Manifest) -> bool:
    same_truth = [given.files.get(name) for name in _truth(given)] == [
        previous.files.get(name) for name in _truth(previous)
    ]
    return same_truth and draft.has_settings_of(previous) and previous.is_tuned


def _causes(directory: Path, manifest: Manifest) -> Counter[str]:
    with contextlib.closing(Items(directory / manifest.folder / generations.ITEMS)) as items:
        return Counter(reject.cause for reject in items.rejected())


def _report(manifest: Manifest, directory: Path, watch: Stopwatch, *, published: bool) -> BuildReport:
    """Report that nothing was scanned or embedded."""
    return BuildReport(
        generation=manifest.generation,
        published=published,
        seen=manifest.count + manifest.rejected,
        unchanged=manifest.count,
        renamed=0,
        embedded=0,
        resumed=0,
        forgotten=0,
        damaged=manifest.damaged,
        rejected=manifest.rejected,
        removed=0,
        causes=_causes(directory, manifest),
        left_out={},
        new_rejects=(),
        adaptation=manifest.adaptation,
        encoder=manifest.encoder.name,
        plan=manifest.backend.name if manifest.backend else "none",
        seconds=watch.all(),
        peak_rss_bytes=peak_memory(),
    )
