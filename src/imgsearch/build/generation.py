"""Complete a generation: add the derived files to the truth, describe every file, publish."""

import contextlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from imgsearch.build.adapt import Adapter
from imgsearch.build.learned import keep_learned
from imgsearch.build.options import BuildOptions, Engine
from imgsearch.build.report import Stopwatch
from imgsearch.build.words import write_text_vectors
from imgsearch.encoders.projection import LARGEST_SAMPLE, SMALLEST_CATALOG, AdaptationGain, Projection, learn_projection
from imgsearch.encoders.runtime import Embeddings
from imgsearch.encoders.vectors import Vectors
from imgsearch.errors import DamagedIndexError, NoIndexError
from imgsearch.files import sync
from imgsearch.progress import Progress
from imgsearch.search.backends import backend_files, generation_files, sweep_servers
from imgsearch.search.backends.protocol import Rows
from imgsearch.search.backends.server import collection_of
from imgsearch.search.tuning import chosen_backend, take_over, tune
from imgsearch.store import generations, integrity
from imgsearch.store.arrays import BLOCK_ROWS, blocks_of, open_array, stored_rows, write_array
from imgsearch.store.items import Items
from imgsearch.store.manifest import Manifest
from imgsearch.store.publishing import have_same_space, inherited_calibration, inherited_words_calibration, publish
from imgsearch.store.search_settings import BackendSettings, Measured, SearchOptions

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Job:
    """What the steps of one build share."""

    catalog: Path  # the folder of images, a list of URLs, or what `embed` wrote
    directory: Path  # the index, or the embeddings
    options: BuildOptions
    progress: Progress
    searchable: bool = True  # whether it is to be an index, not embeddings only
    engine: Engine = "local"
    scheduler: str | None = None  # of the engine dask
    watch: Stopwatch = field(default_factory=Stopwatch)


@dataclass(frozen=True, slots=True)
class LearnedProjection:
    """A projection, how many items there were when it was learned, and what an adaptation gained."""

    projection: Projection | None
    count: int
    adaptation: AdaptationGain | None


def complete_generation(
    job: Job,
    draft: Manifest,
    previous: Manifest | None,
    rows: Rows | None = None,
    *,
    adapt: bool | None,
    adapter: Adapter | None = None,
) -> tuple[Manifest, int]:
    """Derive what is searched, and publish; `adapt` the projection with `adapter` (None: as it was).

    `rows` has of each item the row of `previous` whose embedding it has, or -1. Returns what was published, and how
    many texts were encoded for it.
    """
    directory, encoded = job.directory, 0
    if draft.search is None:
        draft = replace(draft, dims=0, projection_count=0)
    else:
        job.progress("index", 0, draft.count)
        learned = _projection(job, draft, previous, adapt, adapter)
        draft = _derive(job, draft, draft.search, learned, previous, rows)
        draft, encoded = write_text_vectors(directory, draft, previous, job.progress)
        if previous is not None:
            draft = keep_learned(directory, draft, previous)
        job.progress("index", draft.count, draft.count)
    files = integrity.file_records(directory, generation_files(draft))
    manifest = replace(draft, files=files)
    if previous is not None:
        manifest = _with_calibrations(manifest, previous)
    gone = None
    if previous is not None:
        with contextlib.suppress(NoIndexError, DamagedIndexError):
            gone = generations.read_generation(directory, previous.generation - 1)
    publish(directory, manifest, previous)
    sweep_servers(directory, [each for each in (manifest, previous) if each], gone)
    return manifest, encoded


def _with_calibrations(manifest: Manifest, previous: Manifest) -> Manifest:
    """Take over what scores mean, as far as that has not changed; say what is lost."""
    kept = inherited_calibration(manifest, previous), inherited_words_calibration(manifest, previous)
    if manifest.backend is not None:
        if previous.calibration is not None and kept[0] is None:
            logger.warning("scores mean something else now: run imgsearch evaluate --calibrate again")
        if previous.words_calibration is not None and kept[1] is None:
            logger.warning(
                "scores of words mean something else now: run imgsearch evaluate --text-columns COLUMN --calibrate"
            )
    return replace(manifest, calibration=kept[0], words_calibration=kept[1])


def _projection(
    job: Job, draft: Manifest, previous: Manifest | None, adapt: bool | None, adapter: Adapter | None
) -> LearnedProjection:
    """Keep the projection, or learn one from a sample that fits into memory."""
    if draft.encoder.has_text_tower:
        # Texts lie in the model's own space, and apart from images there: a projection that centers and whitens what
        # images are like would move them by an offset, and along directions, that nobody measured on texts.
        return LearnedProjection(None, 0, None)
    kept = None if job.options.get("relearn") else _kept(job.directory, draft, previous, adapt=adapt)
    if kept is not None:
        return kept
    if previous is not None and previous.adaptation is not None and adapt is None:
        logger.warning("the adaptation is dropped: to learn it again takes the images")
    rows = _one_of_each_product(job, draft)
    if len(rows) > LARGEST_SAMPLE:
        generator = np.random.default_rng(draft.search.seed if draft.search else 0)
        rows = np.sort(generator.choice(rows, LARGEST_SAMPLE, replace=False))
    sample = _embeddings(job, draft)[rows]
    plain = learn_projection(sample) if draft.count >= SMALLEST_CATALOG else None
    projection, gain = adapter.learn(draft, sample, plain) if adapter else (plain, None)
    return LearnedProjection(projection, draft.count if projection else 0, gain)


def _one_of_each_product(job: Job, draft: Manifest) -> Rows:
    """Return a row of each product, or all rows of a catalog that has too few products to learn from.

    How images of one product differ must not be learned: whitening would make more of it (docs/benchmarks.md).
    """
    with contextlib.closing(Items(job.directory / draft.folder / generations.ITEMS)) as items:
        rows = np.fromiter(items.first_of_products(), np.int64)
    return rows if len(rows) >= SMALLEST_CATALOG else np.arange(draft.count)


def _derive(
    job: Job,
    draft: Manifest,
    search: SearchOptions,
    learned: LearnedProjection,
    previous: Manifest | None,
    rows: Rows | None,
) -> Manifest:
    """Write projection, vectors and what the backend searches; complete the draft."""
    projection, folder = learned.projection, job.directory / draft.folder
    dims = len(projection.components) if projection else draft.encoder.dims
    draft = replace(
        draft,
        dims=dims,
        numbers=chosen_backend(search, draft.count, dims).numbers,
        projection_count=learned.count,
        adaptation=learned.adaptation,
    )
    if projection:
        with (folder / generations.PROJECTION).open("wb") as file:
            projection.save(file)
        sync(folder / generations.PROJECTION)
        name = f"{draft.folder}/{generations.PROJECTION}"
        draft = replace(draft, files={name: integrity.file_record(job.directory / name)})
    known = None if previous is None or rows is None else _known_vectors(job, draft, previous)
    blocks = _projected(_embeddings(job, draft), projection, known, rows)
    write_array(folder / generations.VECTORS, draft.count, draft.dims, blocks, draft.numbers)
    vectors = open_array(folder / generations.VECTORS, draft.count, draft.dims, draft.numbers)
    taken = None
    if previous is not None and rows is not None and known is not None:
        taken = _take_over(job, draft, previous, vectors, rows)
    if taken is None:
        is_same_space = previous is not None and have_same_space(draft, previous)
        collection, place = collection_of(job.directory, draft, previous if is_same_space else None)
        taken = tune(folder, vectors, search, collection, place)
    backend, measured = taken
    return replace(draft, backend=backend, measured=measured)


def _known_vectors(job: Job, draft: Manifest, previous: Manifest) -> Vectors | None:
    """Return the searched vectors of the generation before, if they are whole and mean the same."""
    if (
        job.options.get("relearn")
        or previous.backend is None
        or not have_same_space(draft, previous)
        or (draft.dims, draft.numbers) != (previous.dims, previous.numbers)
    ):
        return None
    name = f"{previous.folder}/{generations.VECTORS}"
    if not _is_whole(job, previous, name):
        return None
    return open_array(job.directory / name, previous.count, previous.dims, previous.numbers)


def _is_whole(job: Job, previous: Manifest, name: str) -> bool:
    """Return whether a derived file of the generation before is as it was published; log it if not."""
    try:
        integrity.check_content(job.directory, previous, name)
    except (DamagedIndexError, FileNotFoundError) as error:
        logger.warning("%s; it is not used", error)
        return False
    return True


def _projected(
    embeddings: Embeddings, projection: Projection | None, known: Vectors | None, rows: Rows | None
) -> Iterator[Embeddings]:
    """Yield searched vectors in blocks: of each item the `known` one in its row there, or for -1 its projection."""
    for number, block in enumerate(blocks_of(embeddings)):
        if projection is None:
            yield block
        elif known is None or rows is None:
            yield projection.apply(block)
        else:
            part = rows[number * BLOCK_ROWS :][: len(block)]
            projected = stored_rows(known, part[part >= 0])
            if len(projected) < len(block):
                copied, projected = projected, np.empty((len(block), known.shape[1]), np.float32)
                projected[part >= 0] = copied
                projected[part < 0] = projection.apply(block[part < 0])
            yield projected


def _take_over(
    job: Job, draft: Manifest, previous: Manifest, vectors: Vectors, rows: Rows
) -> tuple[BackendSettings, Measured | None] | None:
    """Search as the generation before was, if few vectors have changed since that was tuned; else None."""
    if previous.backend is None or previous.measured is None or previous.search != draft.search:
        return None
    files = backend_files(previous.backend, previous.count)
    if not all(_is_whole(job, previous, f"{previous.folder}/{file}") for file in files):
        return None
    new_rows = np.full(previous.count, -1)
    kept = np.flatnonzero(rows >= 0)
    new_rows[rows[kept]] = kept
    before = job.directory / previous.folder
    settings = take_over(job.directory / draft.folder, vectors, previous.backend, before, new_rows)
    return None if settings is None else (settings, previous.measured)


def _embeddings(job: Job, draft: Manifest) -> Embeddings:
    return open_array(job.directory / draft.folder / generations.EMBEDDINGS, draft.count, draft.encoder.dims)


def _kept(
    directory: Path, draft: Manifest, previous: Manifest | None, *, adapt: bool | None
) -> LearnedProjection | None:
    """Keep the projection while the encoder is the same, so that scores do not drift from night to night."""
    # It is given up, too, when the catalog has doubled since it was learned, or is to be adapted, or no longer to be,
    # or was adapted to what another detector sees.
    if previous is None or replace(previous.encoder, pixels=draft.encoder.pixels) != draft.encoder:
        return None
    gain = previous.adaptation
    sees_otherwise = draft.detector is not None and draft.detector_fingerprint != previous.detector_fingerprint
    if (adapt and sees_otherwise) or (adapt is not None and adapt != (gain is not None)):
        return None
    if not previous.projection_count:
        # An adaptation of a small catalog that did not help is not tried again every night.
        is_settled = gain is not None and draft.count < max(SMALLEST_CATALOG, 2 * gain.images)
        return LearnedProjection(None, 0, gain) if is_settled else None
    if draft.count >= 2 * previous.projection_count:
        return None
    name = f"{previous.folder}/{generations.PROJECTION}"
    try:
        integrity.check_content(directory, previous, name)
    except (DamagedIndexError, FileNotFoundError) as error:
        logger.warning("%s; the projection is learned again", error)
        return None
    projection = Projection.load(str(directory / name), draft.encoder.dims, previous.dims)
    return LearnedProjection(projection, previous.projection_count, gain)
