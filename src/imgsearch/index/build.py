"""Build an index, or bring one up to date: scan, embed what is new, publish."""

import datetime as dt
import logging
import os
import shutil
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from imgsearch.encoders.export import exported_encoder, exported_files
from imgsearch.encoders.runtime import Embeddings, Encoder, open_encoder
from imgsearch.encoders.spec import EncoderSpec, Precision
from imgsearch.errors import DamagedIndexError, NoIndexError, ShrinkError, UsageError
from imgsearch.images.scan import FoundFile, scan
from imgsearch.index import store
from imgsearch.index.arrays import BLOCK_ROWS, open_array, write_array
from imgsearch.index.generation import complete_generation
from imgsearch.index.pipeline import Progress, Tally, embed_pending
from imgsearch.index.products import read_products
from imgsearch.index.settings import Location, Wishes, settle_backend, settle_encoder, settle_metadata
from imgsearch.index.store import BackendSettings, Manifest
from imgsearch.index.work import Changes, WorkFile

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class NewReject:
    """A file that this build rejected and the one before did not: path, cause in one word, message for people."""

    path: str
    cause: str
    message: str


@dataclass(frozen=True, slots=True)
class BuildReport:
    """What a build did. seen = unchanged + renamed + embedded + rejected.

    Attributes:
        generation: What is published now.
        published: Whether this build published it; False if nothing had changed.
        seen: Files with a picture's name.
        unchanged: Of these, published before with the same size and time.
        renamed: Known content under another name (renamed or copied files).
        embedded: New or changed pictures.
        rejected: Files that cannot be used.
        removed: Published before, gone now.
        new_rejects: The rejected files that were not rejected before.
        encoder: Name of the encoder.
        seconds: Wall time.
    """

    generation: int
    published: bool
    seen: int
    unchanged: int
    renamed: int
    embedded: int
    rejected: int
    removed: int
    new_rejects: tuple[NewReject, ...]
    encoder: str
    seconds: float

    @property
    def count(self) -> int:
        """Items in the published generation."""
        return self.seen - self.rejected


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
        return _index_embeddings(Path(catalogue), Path(index), wishes, progress, relearn=relearn)
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
    if not os.access(catalogue, os.R_OK | os.X_OK):
        raise UsageError(f"expected a folder that may be read, found one that may not: {catalogue}")
    with store.writer_lock(directory), store.writing(directory):
        previous = _previous(directory)
        if previous and previous.backend and not searchable:
            raise UsageError(f"{directory} holds an index; choose another directory for embeddings")
        spec = settle_encoder(wishes, previous)
        backend = settle_backend(wishes, previous) if searchable else None
        metadata = settle_metadata(wishes, previous)
        draft = _draft(catalogue, spec, backend, metadata, previous)
        prepared = _EncoderSource(directory, spec, Path(wishes.weights) if wishes.weights else None, previous)
        if not previous or previous.fingerprint != spec.fingerprint:
            prepared.find()  # an encoder that cannot be had is better known before a million files are read
        with _work_file(directory, previous, spec) as work:
            changes = _compare(work, catalogue, metadata, progress)
            if previous and not force:
                _guard_against_shrinking(changes, previous)
            if previous and not relearn and _nothing_changed(changes, draft, previous, directory):
                store.sweep(directory, previous, None)
                return _report(previous, changes, Tally(), work, started, published=False)
            tally = embed_pending(work, os.fspath(catalogue), spec, prepared.open, progress)
            if not work.item_count():
                raise ShrinkError(
                    f"none of the {changes.seen} files in {catalogue} is a picture that can be used",
                    hint="is it the right folder, and is its disk mounted?",
                )
            draft = replace(draft, count=work.item_count(), rejected=changes.rejected + tally.rejected)
            prepared.install()
            _write_truth(work, directory, draft, previous)
            manifest = complete_generation(directory, draft, previous, progress, relearn=relearn)
            _link_embeddings(directory, manifest)
            return _report(manifest, changes, tally, work, started, published=True)


def _index_embeddings(
    source: Path, directory: Path, wishes: Wishes, progress: Progress, *, relearn: bool
) -> BuildReport:
    """Make an index of what `embed` wrote: the same truth, with the derived files added."""
    started = time.monotonic()
    if wishes.backbone or wishes.weights or wishes.precision or wishes.metadata:
        raise UsageError(
            f"{source} holds embeddings already; --backbone, --weights, --precision and --metadata are for embed"
        )
    with store.writer_lock(directory), store.writing(directory):
        given = store.read_manifest(source)
        previous = _previous(directory)
        draft = replace(
            given,
            generation=previous.generation + 1 if previous else 1,
            backend=settle_backend(wishes, previous),
        )
        changed = relearn or previous is None or not _same_truth(given, previous)
        if previous and not changed and previous.backend == draft.backend and _sizes_hold(directory, previous):
            return _whole_report(previous, started, published=False)
        for name in (*_truth(given), *(f"{given.encoder_folder}/{name}" for name in exported_files(given.encoder))):
            _check_truth(source, given, name)
        folder = store.new_generation(directory, draft.generation)
        for name in (store.ITEMS, store.EMBEDDINGS):
            shutil.copyfile(source / given.folder / name, folder / name)
            store.sync(folder / name)
        if not (directory / given.encoder_folder).is_dir():
            names = exported_files(given.encoder)
            store.install_encoder(directory, given.fingerprint, source / given.encoder_folder, names)
        manifest = complete_generation(directory, draft, previous, progress, relearn=relearn)
        _link_embeddings(directory, manifest)
        return _whole_report(manifest, started, published=True)


def _previous(directory: Path) -> Manifest | None:
    try:
        return store.read_manifest(directory)
    except NoIndexError:
        return None


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
        catalogue=os.fspath(catalogue.absolute()),
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
def _work_file(directory: Path, previous: Manifest | None, spec: EncoderSpec) -> Iterator[WorkFile]:
    """Open the work file; it is kept if the build does not come to its end, and goes on from it the next time."""
    items = None
    if previous:
        name = f"{previous.folder}/{store.ITEMS}"
        _check_truth(directory, previous, name)
        items = directory / name
    same_encoder = previous is not None and previous.fingerprint == spec.fingerprint
    work = WorkFile(directory / store.PARTIAL, spec.fingerprint, spec.dims, previous=items, same_encoder=same_encoder)
    done = False
    try:
        yield work
        done = True
    finally:
        work.close(discard=done)


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


def _guard_against_shrinking(changes: Changes, previous: Manifest) -> None:
    """Refuse a catalogue that lost more than half of its pictures: more likely its disk is not mounted."""
    left = changes.seen - changes.rejected
    if left < previous.count / 2:
        raise ShrinkError(
            f"the catalogue has {left} pictures, the index has {previous.count}; nothing was changed",
            hint="is the disk mounted? If the pictures are really gone, pass --force",
        )


def _nothing_changed(changes: Changes, draft: Manifest, previous: Manifest, directory: Path) -> bool:
    same_files = (
        changes.unchanged + changes.rejected == changes.seen
        and not changes.removed
        and not changes.rejected_new
        and not changes.unrejected
    )
    same_settings = (
        draft.fingerprint == previous.fingerprint
        and draft.backend == previous.backend
        and draft.catalogue == previous.catalogue
        and draft.metadata_file == previous.metadata_file
        and draft.metadata_sha256 == previous.metadata_sha256
    )
    return same_files and same_settings and _sizes_hold(directory, previous)


def _sizes_hold(directory: Path, manifest: Manifest) -> bool:
    """Say whether all files are there; if a derived one is not, this build makes it anew from the truth."""
    try:
        store.check_sizes(directory, manifest)
    except (DamagedIndexError, FileNotFoundError) as error:
        logger.warning("%s; building it anew", error)
        return False
    return True


def _check_truth(directory: Path, manifest: Manifest, name: str) -> None:
    """Check a file that cannot be derived before anything is taken from it."""
    try:
        store.check_content(directory, manifest, name)
    except FileNotFoundError as error:
        raise DamagedIndexError(
            f"{error.filename} is missing", hint="move the index away and build it again from the catalogue"
        ) from error


class _EncoderSource:
    """Finds the encoder in the index, else in the cache or by export; once, and only when it is needed."""

    def __init__(self, directory: Path, spec: EncoderSpec, weights: Path | None, previous: Manifest | None) -> None:
        self._directory = directory
        self._spec = spec
        self._weights = weights
        self._previous = previous
        self._found: Path | None = None

    def find(self) -> Path:
        """Return a folder with the exported encoder."""
        if self._found is None:
            self._found = self._published() or exported_encoder(self._spec, self._weights)
        return self._found

    def install(self) -> Path:
        """Put the encoder into the index unless it is there, and return its folder."""
        target = self._directory / "encoders" / self._spec.fingerprint
        if self.find() != target:
            store.install_encoder(self._directory, self._spec.fingerprint, self.find(), exported_files(self._spec))
            self._found = target
        return target

    def open(self) -> Encoder:
        """Open the encoder."""
        return open_encoder(self._spec, self.install())

    def _published(self) -> Path | None:
        """Return the folder in the index, if it holds this encoder undamaged."""
        if self._previous is None or self._previous.fingerprint != self._spec.fingerprint:
            return None
        folder = self._previous.encoder_folder
        try:
            for name in exported_files(self._spec):
                store.check_content(self._directory, self._previous, f"{folder}/{name}")
        except (DamagedIndexError, FileNotFoundError) as error:
            logger.warning("%s; taking the encoder from the cache, or exporting it again", error)
            return None
        return self._directory / folder


def _write_truth(work: WorkFile, directory: Path, draft: Manifest, previous: Manifest | None) -> None:
    """Write items and embeddings of a new generation."""
    published: Embeddings | None = None
    if previous and previous.fingerprint == draft.fingerprint:
        name = f"{previous.folder}/{store.EMBEDDINGS}"
        _check_truth(directory, previous, name)
        published = open_array(directory / name, previous.count, previous.encoder.dims)
    folder = store.new_generation(directory, draft.generation)
    now = dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
    work.write_items(folder / store.ITEMS, now)
    store.sync(folder / store.ITEMS)
    rows = work.embeddings(published, BLOCK_ROWS)
    write_array(folder / store.EMBEDDINGS, draft.count, draft.encoder.dims, rows)


def _link_embeddings(directory: Path, manifest: Manifest) -> None:
    """Where there are embeddings only, let `embeddings.npy` and `items.sqlite` be found by name.

    The links are for people and their scripts; imgsearch itself goes by the manifest.
    """
    for name in (store.EMBEDDINGS, store.ITEMS):
        link = directory / name
        if manifest.backend is None:
            draft = link.with_name(name + ".tmp")
            draft.unlink(missing_ok=True)
            draft.symlink_to(f"{manifest.folder}/{name}")
            draft.replace(link)
        elif link.is_symlink():
            link.unlink()


def _truth(manifest: Manifest) -> tuple[str, str]:
    """Name the files that cannot be derived from others."""
    return f"{manifest.folder}/{store.EMBEDDINGS}", f"{manifest.folder}/{store.ITEMS}"


def _same_truth(one: Manifest, other: Manifest) -> bool:
    return [one.files.get(name) for name in _truth(one)] == [other.files.get(name) for name in _truth(other)]


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


def _whole_report(manifest: Manifest, started: float, *, published: bool) -> BuildReport:
    """Report an index made of embeddings: nothing was scanned or embedded."""
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
