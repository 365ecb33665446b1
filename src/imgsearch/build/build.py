"""Build an index, or bring one up to date."""

import os
from typing import Unpack

from imgsearch.build.cluster import require_dask
from imgsearch.build.from_embeddings import index_embeddings
from imgsearch.build.generation import Job
from imgsearch.build.options import BuildOptions, EmbedOptions, Location, check_options
from imgsearch.build.report import BuildReport
from imgsearch.build.update import update
from imgsearch.errors import UsageError
from imgsearch.files import as_path
from imgsearch.progress import Progress, no_progress
from imgsearch.store import generations


def build_index(
    catalog: Location,
    index: Location = ".imgsearch",
    *,
    progress: Progress = no_progress,
    **options: Unpack[BuildOptions],
) -> BuildReport:
    """Create an index, or bring it up to date.

    Args:
        catalog: Folder of images, a file with one `s3://`, `gs://` or `file://` URL a line, or a directory that `embed`
            wrote.
        index: The index directory.
        progress: Called with (stage, done, total); stages are `scan` (total 0: not known), `embed`, `index`, and
            `words` where texts are encoded.
        options: See `BuildOptions`. What is None or missing stays as the index has it, or is the default for a new one.

    Returns:
        What was done.

    Raises:
        ImgsearchError: One of its kinds; nothing was published.
    """
    given = check_options("build_index", BuildOptions, options)
    job = Job(as_path(catalog), as_path(index), given, progress)
    return index_embeddings(job) if generations.is_index(os.fspath(catalog)) else update(job)


def embed(
    catalog: Location, output: Location, *, progress: Progress = no_progress, **options: Unpack[EmbedOptions]
) -> BuildReport:
    """Do the embedding stage alone: `embeddings.npy`, and `items.sqlite` that says what its rows are.

    Args:
        catalog: Folder of images, or a file with one `s3://`, `gs://` or `file://` URL a line.
        output: Directory to write, of the same format as an index; `build_index` takes it as a catalog.
        progress: As for `build_index`.
        options: See `EmbedOptions`.

    Returns:
        What was done.

    Raises:
        ImgsearchError: One of its kinds; nothing was published.
    """
    given = check_options("embed", EmbedOptions, options)
    engine, scheduler = options.get("engine", "local"), options.get("scheduler")
    if engine == "dask":
        if options.get("device") == "gpu":
            raise UsageError("--device gpu and --engine dask cannot be combined: workers compute on their processors")
        require_dask(scheduler)
    elif scheduler is not None:
        raise UsageError("--scheduler has no effect without --engine dask")
    where = (as_path(catalog), as_path(output))
    return update(Job(*where, given, progress, searchable=False, engine=engine, scheduler=scheduler))
