"""Build an index from what `embed` wrote: the same truth, with the derived files added."""

import shutil
import time
from dataclasses import replace
from pathlib import Path

from imgsearch.encoders.export import exported_files
from imgsearch.errors import NoIndexError, UsageError
from imgsearch.index import store
from imgsearch.index.disk import sync, writing
from imgsearch.index.generation import complete_generation
from imgsearch.index.manifest import Manifest
from imgsearch.index.pipeline import Progress
from imgsearch.index.report import BuildReport
from imgsearch.index.settings import Wishes, guard_against_shrinking, settle_backend


def index_embeddings(
    source: Path, directory: Path, wishes: Wishes, progress: Progress, *, relearn: bool, force: bool
) -> BuildReport:
    """Create or update an index without a look at pictures.

    Args:
        source: What `embed` wrote.
        directory: The index; it may be the same directory.
        wishes: Of the user; those for the encoder have come too late.
        progress: Told (stage, done, total).
        relearn: Learn the projection anew.
        force: Go on though most of the pictures have vanished.

    Raises:
        ImgsearchError: One of its kinds; nothing was published.
    """
    started = time.monotonic()
    if wishes.backbone or wishes.weights or wishes.precision or wishes.metadata:
        raise UsageError(
            f"{source} holds embeddings already; --backbone, --weights, --precision and --metadata are for embed"
        )
    given = store.published(source)
    if given is None:
        raise NoIndexError(f"{source} is not complete: embed was interrupted", hint=f"run embed -o {source} again")
    with store.writer_lock(directory), writing(directory):
        previous = store.published(directory)
        draft = replace(
            given,
            generation=previous.generation + 1 if previous else 1,
            backend=settle_backend(wishes, previous),
        )
        if previous and not relearn and _is_up_to_date(draft, given, previous) and store.is_whole(directory, previous):
            return _report(previous, started, published=False)
        if previous and not force:
            guard_against_shrinking(given.count, previous)
        encoder_files = exported_files(given.encoder)
        for name in (*_truth(given), *(f"{given.encoder_folder}/{name}" for name in encoder_files)):
            store.check_truth(source, given, name)
        folder = store.new_generation(directory, draft.generation)
        for name in _truth(given):
            copy = folder / Path(name).name
            shutil.copyfile(source / name, copy)
            sync(copy)
        if directory.resolve() != source.resolve():
            store.install_encoder(directory, given.fingerprint, source / given.encoder_folder, encoder_files)
        manifest = complete_generation(directory, draft, previous, progress, relearn=relearn)
        return _report(manifest, started, published=True)


def _truth(manifest: Manifest) -> tuple[str, str]:
    """Name the files that cannot be derived from others."""
    return f"{manifest.folder}/{store.EMBEDDINGS}", f"{manifest.folder}/{store.ITEMS}"


def _is_up_to_date(draft: Manifest, given: Manifest, previous: Manifest) -> bool:
    same_truth = [given.files.get(name) for name in _truth(given)] == [
        previous.files.get(name) for name in _truth(previous)
    ]
    return same_truth and draft.has_settings_of(previous)


def _report(manifest: Manifest, started: float, *, published: bool) -> BuildReport:
    """Report that nothing was scanned or embedded."""
    return BuildReport(
        generation=manifest.generation,
        published=published,
        seen=manifest.count + manifest.rejected,
        unchanged=manifest.count,
        renamed=0,
        embedded=0,
        rejected=manifest.rejected,
        removed=0,
        new_rejects=(),
        encoder=manifest.encoder.name,
        seconds=time.monotonic() - started,
    )
