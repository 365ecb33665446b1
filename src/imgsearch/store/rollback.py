"""Return to the generation before."""

import os
from dataclasses import replace

from imgsearch.errors import DamagedIndexError, NoIndexError
from imgsearch.files import as_path
from imgsearch.store import generations, integrity
from imgsearch.store.locking import writer_lock
from imgsearch.store.manifest import Manifest
from imgsearch.store.publishing import (
    copy_generation,
    inherited_calibration,
    inherited_words_calibration,
    new_generation,
    publish,
)


def rollback(index: str | os.PathLike[str], *, wait_lock: float = 0) -> Manifest:
    """Publish the generation before once more, under a new number.

    A number is never used twice, since a reader that has read one manifest must not find another generation's files.
    So the files are copied, and rolling back twice ends where it began.

    Args:
        index: The index directory.
        wait_lock: For how many seconds to wait for a build to end.

    Returns:
        What is published now.

    Raises:
        NoIndexError: There is no index, or no generation before that can be searched.
        DamagedIndexError: The generation before is damaged; nothing was changed.
        LockedError: A build holds the index.
        OutputError: It cannot be written.
        ResourceError: The system does not let it be read; nothing was changed.
    """
    directory = as_path(index)
    generations.read_manifest(directory)  # before a lock is left where no index is
    with writer_lock(directory, wait_lock):
        current = generations.read_manifest(directory)
        if current.generation == 1:
            raise NoIndexError("nothing to roll back to: this is the first generation")
        before = generations.read_generation(directory, current.generation - 1)
        if before.backend is None and current.backend is not None:
            raise NoIndexError(
                f"generation {before.generation} of {directory} holds embeddings only, nothing to search"
            )
        try:
            for name in before.files:
                integrity.check_truth(directory, before, name)
        except DamagedIndexError as error:
            raise DamagedIndexError(
                f"generation {before.generation} cannot be rolled back to: {error.message}",
                hint="nothing was changed: the index answers as before",
            ) from error
        number = current.generation + 1
        with new_generation(directory, number) as folder:
            files = copy_generation(directory, before, folder)
            manifest = replace(before, generation=number, files=files)
            if manifest.calibration is None:  # it may have been learned after that generation was published
                manifest = replace(manifest, calibration=inherited_calibration(manifest, current))
            if manifest.words_calibration is None:
                manifest = replace(manifest, words_calibration=inherited_words_calibration(manifest, current))
            publish(directory, manifest, current)
        return manifest
