"""Writing to an index, whose lock the caller holds: new generations, the commit, the sweep of what is old."""

import contextlib
import errno
import json
import logging
import os
import re
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

from imgsearch.errors import DamagedIndexError, ResourceError
from imgsearch.files import replaced, replaced_file, sync, sync_folder
from imgsearch.store.calibration import Calibration
from imgsearch.store.generations import EMBEDDINGS, ITEMS, MANIFEST, PROJECTION, published, require_published
from imgsearch.store.integrity import check_truth, file_record
from imgsearch.store.locking import writer_lock
from imgsearch.store.manifest import FileRecord, Manifest, generation_folder

logger = logging.getLogger(__name__)

GENERATIONS_KEPT = 2  # the current one, and the one to roll back to
_DRAFT = MANIFEST + ".tmp"


# What a file system says that has no symbolic links, such as exFAT.
_NO_LINKS = {errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP}


@contextlib.contextmanager
def new_generation(directory: Path, generation: int) -> Iterator[Path]:
    """Make the empty folder of a generation, and remove it again if the block ends before it is published."""
    folder = directory / generation_folder(generation)
    if folder.exists():  # left by a build that was killed
        shutil.rmtree(folder)
    try:
        folder.mkdir()
        yield folder
    except BaseException:
        if not _may_be_published(directory, generation):
            shutil.rmtree(folder, ignore_errors=True)
            with contextlib.suppress(OSError):
                (directory / _DRAFT).unlink(missing_ok=True)
        raise


def _may_be_published(directory: Path, generation: int) -> bool:
    try:
        manifest = published(directory)
    except (DamagedIndexError, ResourceError):
        return True
    return manifest is not None and manifest.generation == generation


def install_encoder(directory: Path, fingerprint: str, source: Path, names: tuple[str, ...]) -> None:
    """Copy the files of an exported encoder into the index."""
    target = directory / "encoders" / fingerprint
    staging = target.with_name(f"{target.name}.tmp")
    if staging.exists():
        shutil.rmtree(staging)
    staging.mkdir(parents=True)
    try:
        for name in names:
            shutil.copyfile(source / name, staging / name)
            sync(staging / name)
        sync_folder(staging)
        if target.is_dir():  # file by file, so that at no moment one is missing that a generation may need
            for name in names:
                if (target / name).is_dir() and not (target / name).is_symlink():
                    shutil.rmtree(target / name)
                (staging / name).replace(target / name)
            sync_folder(target)
        else:
            target.unlink(missing_ok=True)
            staging.rename(target)
        sync_folder(target.parent)
        sync_folder(directory)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def inherited_calibration(manifest: Manifest, other: Manifest) -> Calibration | None:
    """Return another generation's calibration if scores mean the same in both."""
    return other.calibration if manifest.backend is not None and have_same_space(manifest, other) else None


def inherited_words_calibration(manifest: Manifest, other: Manifest) -> Calibration | None:
    """Return another generation's calibration of words if scores mean the same in both.

    They do with the same columns and the same encoder of words; where words are compared with images, or predicted from
    them, with the same space of images, too. What is predicted may change a little with every image, as what is found.
    """
    mine, its = (
        (one.columns, one.encoder, one.predicted > 0) if (one := each.words) else None for each in (manifest, other)
    )
    needs_images = manifest.encoder.has_text_tower or other.encoder.has_text_tower or (mine is not None and mine[2])
    is_same = mine == its and (not needs_images or have_same_space(manifest, other))
    return other.words_calibration if is_same and manifest.backend is not None else None


def have_same_space(manifest: Manifest, other: Manifest) -> bool:
    """Return whether an image has the same searched vector in both generations."""
    projections = [one.files.get(f"{one.folder}/{PROJECTION}") for one in (manifest, other)]
    return manifest.fingerprint == other.fingerprint and projections[0] == projections[1]


def publish_learned(
    directory: Path,
    opened: Manifest,
    files: Mapping[str, Callable[[BinaryIO], object]],
    *,
    wait_lock: float = 0,
    **facts: Any,
) -> Manifest:
    """Publish the current generation once more, with what was learned for it.

    Args:
        directory: The index.
        opened: The generation that it was learned for.
        files: What writes each of the files that are added, or are in place of those of the same name.
        wait_lock: Seconds to wait for another writer to end.
        **facts: Fields of the manifest that say what was learned.

    Raises:
        RefusedError: Another generation was published meanwhile.
        LockedError: Another writer holds the index.
        DamagedIndexError: A file of the current generation is damaged; nothing was changed.
        OutputError: The index cannot be written.
    """
    with writer_lock(directory, wait_lock):
        current = require_published(directory, opened.generation, opened.fingerprint, "learned for", "train again")
        for name in current.files:  # else the sweep would take the last whole generation
            check_truth(directory, current, name)
        with new_generation(directory, current.generation + 1) as folder:
            records = copy_generation(directory, current, folder, leave_out=files.keys())
            for name, write in files.items():
                with (folder / name).open("wb") as file:
                    write(file)
                sync(folder / name)
                records[f"{folder.name}/{name}"] = file_record(folder / name)
            manifest = replace(current, generation=current.generation + 1, files=records, **facts)
            publish(directory, manifest, current)
        return manifest


def copy_generation(
    directory: Path, source: Manifest, folder: Path, *, leave_out: Collection[str] = ()
) -> dict[str, FileRecord]:
    """Copy the files of a generation into the folder of a new one; return what all files of that must be."""
    records = {}
    for name, record in source.files.items():
        copy = folder / Path(name).name
        if not name.startswith(f"{source.folder}/"):
            records[name] = record
        elif copy.name not in leave_out:
            shutil.copyfile(directory / name, copy)
            sync(copy)
            records[f"{folder.name}/{copy.name}"] = record
    return records


def publish(directory: Path, manifest: Manifest, previous: Manifest | None) -> None:
    """Make a generation, whose files are written and synced, the current one, and sweep."""
    amend(directory, manifest)
    sweep(directory, manifest, previous)
    link_embeddings(directory, manifest)


def amend(directory: Path, manifest: Manifest) -> None:
    """Replace the manifest and its generation's copy: of a new generation, or of the current one calibrated anew."""
    # The copy first: between the two, it may only know better what scores mean.
    _replace_manifest(directory / manifest.folder, manifest)
    sync_folder(directory)
    _replace_manifest(directory, manifest)


def _replace_manifest(folder: Path, manifest: Manifest) -> None:
    with replaced_file(folder / MANIFEST, folder / _DRAFT) as file:
        file.write(json.dumps(manifest.to_json(), indent=2).encode("ascii") + b"\n")


def sweep(directory: Path, current: Manifest, previous: Manifest | None) -> None:
    """Remove old generations, encoders that those kept do not use, and what interrupted builds left."""
    # Encoders only where the previous manifest is known: the generation before may need one that this does not.
    numbers = range(current.generation, current.generation - GENERATIONS_KEPT, -1)
    generations = {generation_folder(number) for number in numbers}
    encoders = current.fingerprints | previous.fingerprints if previous else None
    try:
        for folder in directory.glob("gen-*"):
            if re.fullmatch(r"gen-\d{6,}", folder.name) and folder.name not in generations:
                shutil.rmtree(folder)
        for folder in (directory / "encoders").glob("*"):
            is_old = encoders is not None and re.fullmatch(r"[0-9a-f]{16}", folder.name) and folder.name not in encoders
            if is_old or folder.suffix == ".tmp":
                shutil.rmtree(folder)
        for draft in (directory / _DRAFT, directory / current.folder / _DRAFT):
            draft.unlink(missing_ok=True)
    except OSError as error:  # left to the next build: what is published is whole
        logger.warning("cannot remove old generations: %s", error)


def link_embeddings(directory: Path, manifest: Manifest) -> None:
    """Where there are embeddings only, link `embeddings.npy` and `items.sqlite`, for people and their scripts."""
    try:
        for name in (EMBEDDINGS, ITEMS):
            link, target = directory / name, f"{manifest.folder}/{name}"
            if manifest.backend is not None and link.is_symlink():
                link.unlink()
            elif manifest.backend is None and _is_missing_or_another(link, target):
                with replaced(link, link.with_name(name + ".tmp")) as draft:
                    draft.symlink_to(target)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        logger.warning(
            "this file system has no symbolic links: %s and %s are in %s only", EMBEDDINGS, ITEMS, manifest.folder
        )


def _is_missing_or_another(link: Path, target: str) -> bool:
    return str(link.readlink()) != target if link.is_symlink() else not os.path.lexists(link)
