"""Build an index, or bring one up to date."""

import os
from pathlib import Path

from imgsearch.progress import Progress, no_progress
from imgsearch.encoders.spec import Precision
from imgsearch.store import generations
from imgsearch.build.from_embeddings import index_embeddings
from imgsearch.build.report import BuildReport
from imgsearch.build.options import RunOptions, Damaged, Location, BuildOptions
from imgsearch.build.update import update


def build_index(
    catalog: Location,
    index: Location = ".imgsearch",
    *,
    backbone: str | None = None,
    detector: Location | None = None,
    weights: Location | None = None,
    precision: Precision | None = None,
    backend: str | None = None,
    trees: int | None = None,
    seed: int | None = None,
    target_recall: float | None = None,
    metadata: Location | None = None,
    max_bytes: int | None = None,
    max_pixels: int | None = None,
    damaged: Damaged | None = None,
    follow_links: bool | None = None,
    preprocess: str | None = None,
    trim: bool | None = None,
    adapt: bool | None = None,
    relearn: bool = False,
    force: bool = False,
    max_skipped: int | None = None,
    wait_lock: float = 0,
    progress: Progress = no_progress,
) -> BuildReport:
    """Create an index, or bring it up to date.

    Whatever is None stays as the index has it, or is the default for a new one.

    Args:
        catalog: Folder of images, or a directory that `embed` wrote.
        index: The index directory.
        backbone: Name of the encoder, a `.keras` file, or several joined by `+`: see `encoders.choice.choose_encoder`.
        detector: A `.keras` file that `train --objective detect` wrote for this encoder; `none` for none.
        weights: Weights of the encoder, if it is one of keras.applications.
        precision: `f32` or `bf16`; by default what is fastest on this processor.
        backend: `annoy`, `exact`, `faiss`, or `auto`: whichever of the first two is faster.
        trees: Trees of the Annoy forest; otherwise as many as are worth it.
        seed: Of the Annoy forest, and of the sample that the search is tuned on.
        target_recall: Share of the ten nearest that searches are to find at least, above 0, at most 1.
        metadata: CSV file with a column `path` and the shop's data; columns `product` and `category` replace
            those made from the path. It is read again by every later build.
        max_bytes: Larger files are rejected without being read.
        max_pixels: Larger images are rejected without being decoded.
        damaged: Whether to `skip` a damaged JPEG, or to `keep` and flag what can be decoded of it.
        follow_links: Whether to follow links to files and folders, also out of the catalog.
        preprocess: What is done to every image, and to every query, before it is embedded: `grayscale,binarize=otsu`.
        trim: Whether even borders are cut off around the item first, unless the encoder is a model of its own.
        adapt: Let the catalog teach the projection, from photo-like variants of its images, if that helps. None for
            as the index does, or if a detector is new to it.
        relearn: Learn the projection, and a vocabulary of visual words, anew.
        force: Go on though most of the catalog has vanished, or the decoder dies again and again.
        max_skipped: Refuse to publish when more files than this cannot be used.
        wait_lock: For how many seconds to wait for another build to end.
        progress: Told (stage, done, total); stages are `scan` (total 0: not known), `embed` and `index`.

    Returns:
        What was done.

    Raises:
        ImgsearchError: One of its kinds; nothing was published.
    """
    options = BuildOptions(
        *(backbone, detector, weights, precision, backend, trees, seed, target_recall, metadata),
        *(max_bytes, max_pixels, damaged, follow_links, preprocess, trim, adapt),
    )
    run = RunOptions(relearn, force, max_skipped, wait_lock)
    if generations.is_index(os.fspath(catalog)):
        return index_embeddings(Path(catalog), Path(index), options, run, progress)
    return update(Path(catalog), Path(index), options, run, progress, searchable=True)


def embed(
    catalog: Location,
    output: Location,
    *,
    backbone: str | None = None,
    weights: Location | None = None,
    precision: Precision | None = None,
    metadata: Location | None = None,
    max_bytes: int | None = None,
    max_pixels: int | None = None,
    damaged: Damaged | None = None,
    follow_links: bool | None = None,
    preprocess: str | None = None,
    trim: bool | None = None,
    force: bool = False,
    max_skipped: int | None = None,
    wait_lock: float = 0,
    progress: Progress = no_progress,
) -> BuildReport:
    """Do the embedding stage alone: `embeddings.npy`, and `items.sqlite` that says what its rows are.

    Args:
        catalog: Folder of images.
        output: Directory to write, of the same format as an index; `build_index` takes it as a catalog.
        backbone: As for `build_index`.
        weights: As for `build_index`.
        precision: As for `build_index`.
        metadata: As for `build_index`.
        max_bytes: As for `build_index`.
        max_pixels: As for `build_index`.
        damaged: As for `build_index`.
        follow_links: As for `build_index`.
        preprocess: As for `build_index`.
        trim: As for `build_index`.
        force: As for `build_index`.
        max_skipped: As for `build_index`.
        wait_lock: As for `build_index`.
        progress: As for `build_index`.

    Returns:
        What was done.

    Raises:
        ImgsearchError: One of its kinds; nothing was published.
    """
    options = BuildOptions(
        backbone=backbone,
        weights=weights,
        precision=precision,
        metadata=metadata,
        max_bytes=max_bytes,
        max_pixels=max_pixels,
        damaged=damaged,
        follow_links=follow_links,
        preprocess=preprocess,
        trim=trim,
    )
    run = RunOptions(force=force, max_skipped=max_skipped, wait_lock=wait_lock)
    return update(Path(catalog), Path(output), options, run, progress, searchable=False)
