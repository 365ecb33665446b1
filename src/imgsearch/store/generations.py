"""The index directory, specified by docs/index-format.md: files are written once and never changed.

Replacing `manifest.json` is the only commit: a reader sees the whole old generation or the whole new one.
"""

import json
import os
from dataclasses import replace
from pathlib import Path
from shlex import quote

from imgsearch.errors import DamagedIndexError, NoIndexError, RefusedError, UsageError
from imgsearch.files import open_regular, read_error
from imgsearch.store.manifest import FORMAT, VERSION, Manifest, generation_folder
from imgsearch.system import refusal_of

MANIFEST = "manifest.json"
LOCK = "lock"
FEEDBACK = "feedback.sqlite"  # see `personal.feedback`; no build reads or writes it
EVENTS = "events.sqlite"  # see `personal.event_store`; likewise
PARTIAL = "partial.sqlite"
EMBEDDINGS = "embeddings.npy"
ITEMS = "items.sqlite"
PROJECTION = "projection.npz"
VECTORS = "vectors.npy"
TEXT = "text.npy"
RECOMMEND = "recommend.npz"  # see `personal.recommend.model`
RECOMMEND_ROWS = "recommend-rows.npy"
RANKING = "ranking.npz"  # see `personal.ranking.model`

REBUILD_HINT = "rebuild it: move the directory away and run imgsearch build-index"


def is_index(directory: str) -> bool:
    """Return whether a folder is an index or the rest of a build, which scans leave out."""
    path = Path(directory)
    try:
        if (path / PARTIAL).exists():
            return True
        with open_regular(path / MANIFEST) as file:
            return b'"format": "imgsearch"' in file.read(4096)
    except OSError as error:
        if refusal := refusal_of(error):
            raise refusal from error
        return False


def read_manifest(directory: Path) -> Manifest:
    """Read the manifest; DamagedIndexError also for a newer format."""
    return _read_manifest(directory, directory / MANIFEST)


def read_generation(directory: Path, generation: int) -> Manifest:
    """Read a generation's copy of the manifest; NoIndexError if that generation is not there."""
    path = directory / generation_folder(generation) / MANIFEST
    if not os.path.lexists(path):
        raise NoIndexError(f"{directory} has no generation {generation}")
    manifest = _read_manifest(directory, path)
    if manifest.generation != generation:
        raise DamagedIndexError(f"{path} is damaged: expected generation {generation}, found {manifest.generation}")
    return manifest


def find_copy_problem(directory: Path, manifest: Manifest) -> str:
    """Return what is wrong with a generation's copy of its manifest; without one, only rollback suffers."""
    try:
        copy = read_generation(directory, manifest.generation)
    except NoIndexError:
        return ""
    except DamagedIndexError as error:
        return error.message
    path = directory / manifest.folder / MANIFEST
    # Only what scores mean may have been learned since.
    copy = replace(copy, calibration=manifest.calibration, words_calibration=manifest.words_calibration)
    return "" if copy == manifest else f"{path} is damaged: it differs from {MANIFEST}"


def _read_manifest(directory: Path, path: Path) -> Manifest:
    try:
        with open_regular(path) as file:
            text = file.read()
    except (FileNotFoundError, NotADirectoryError):
        # Generation 1 alone may be of a first build that was killed before it published anything.
        if path == directory / MANIFEST and (hint := _restore_hint(directory, 2)):
            raise DamagedIndexError(f"{path} is missing", hint=hint) from None
        raise NoIndexError(
            f"no index in {directory}", hint="make one: imgsearch build-index FOLDER_OF_IMAGES"
        ) from None
    except OSError as error:
        raise read_error(error, path, _repair_hint(directory)) from error
    try:
        data = json.loads(text)
        version = data["version"] if data["format"] == FORMAT else None
    except (ValueError, KeyError, TypeError, RecursionError):
        raise DamagedIndexError(
            f"{path} is damaged: not the manifest of an index", hint=_repair_hint(directory)
        ) from None
    if isinstance(version, int) and version > VERSION:
        raise DamagedIndexError(
            f"{directory} is an index of format {version}, this imgsearch reads up to {VERSION}",
            hint="update imgsearch",
        )
    if version not in range(1, VERSION + 1):
        raise DamagedIndexError(
            f"{path} is damaged: expected version 1 to {VERSION}, found {version!r}", hint=_repair_hint(directory)
        )
    try:
        return Manifest.from_json(data)
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError, UsageError) as error:
        raise DamagedIndexError(f"{path} is damaged: {error}", hint=_repair_hint(directory)) from error


def _repair_hint(directory: Path) -> str:
    return _restore_hint(directory, 1) or REBUILD_HINT


def _restore_hint(directory: Path, least: int) -> str:
    """Return how to restore a lost or damaged manifest from the newest copy, or empty if there is none."""
    try:
        numbers = [int(folder.name[4:]) for folder in directory.glob("gen-*") if folder.name[4:].isdecimal()]
    except OSError:
        return ""
    for number in sorted(numbers, reverse=True):
        copy = directory / generation_folder(number) / MANIFEST
        if number >= least and os.path.isfile(copy):
            return f"restore it: cp {quote(str(copy))} {quote(str(directory / MANIFEST))}"
    return ""


def require_published(directory: Path, generation: int, fingerprint: str, done: str, hint: str) -> Manifest:
    """Read the manifest of a generation that something was `done` with; RefusedError if another is published now."""
    current = read_manifest(directory)
    if (current.generation, current.fingerprint) != (generation, fingerprint):
        raise RefusedError(
            f"generation {generation} of {directory} was {done},"
            f" but it was rebuilt meanwhile and is generation {current.generation} now",
            hint=hint,
        )
    return current


def published(directory: Path) -> Manifest | None:
    """Read the manifest; None if there is none."""
    try:
        return read_manifest(directory)
    except NoIndexError:
        return None
