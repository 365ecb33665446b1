"""The index directory: manifest, generations, publishing. docs/format.md is its specification.

Files are written once and never changed. `manifest.json` names those that count, with size and sha256, and
replacing it is the only commit: a reader sees the whole old generation or the whole new one.
"""

import contextlib
import json
import logging
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from shlex import quote

from imgsearch.errors import DamagedIndexError, NoIndexError, UsageError
from imgsearch.files import open_regular, sync
from imgsearch.store.manifest import FORMAT, VERSION, Manifest, generation_folder

logger = logging.getLogger(__name__)

MANIFEST = "manifest.json"
LOCK = "lock"
PARTIAL = "partial.sqlite"
DESCRIPTORS = "descriptors.sqlite"
EMBEDDINGS = "embeddings.npy"
ITEMS = "items.sqlite"
PROJECTION = "projection.npz"
VECTORS = "vectors.npy"
ANNOY = "annoy.ann"
LISTS = "lists.faiss"
# What a backend searches; `exact` has the vectors.
BACKEND_FILES = {"annoy": ANNOY, "faiss": LISTS}

ANEW = "rebuild it: move the directory away and run imgsearch build-index"


def is_index(directory: str) -> bool:
    """Say whether a folder is an imgsearch index (or what is left of a build), so that scans leave it out."""
    path = Path(directory)
    try:
        if (path / PARTIAL).exists():
            return True
        with open_regular(path / MANIFEST) as file:
            return b'"format": "imgsearch"' in file.read(4096)
    except OSError:
        return False


def read_manifest(directory: Path) -> Manifest:
    """Read the manifest.

    Args:
        directory: The index.

    Raises:
        NoIndexError: There is none.
        DamagedIndexError: It cannot be understood, or is of a newer format.
    """
    return _read_manifest(directory, directory / MANIFEST)


def read_generation(directory: Path, generation: int) -> Manifest:
    """Read what the manifest said when a generation was published; each keeps a copy.

    Args:
        directory: The index.
        generation: Its number.

    Raises:
        NoIndexError: The generation is not there.
        DamagedIndexError: As `read_manifest`.
    """
    path = directory / generation_folder(generation) / MANIFEST
    if not os.path.lexists(path):
        raise NoIndexError(f"{directory} has no generation {generation} to return to")
    manifest = _read_manifest(directory, path)
    if manifest.generation != generation:
        raise DamagedIndexError(f"{path} is damaged: of generation {manifest.generation}, expected {generation}")
    return manifest


def problem_of_copy(directory: Path, manifest: Manifest) -> str:
    """Say what is wrong with a generation's copy of its manifest; one that is missing only bars the way back to it."""
    try:
        copy = read_generation(directory, manifest.generation)
    except NoIndexError:
        return ""
    except DamagedIndexError as error:
        return error.message
    path = directory / manifest.folder / MANIFEST
    # Only what scores mean may have been learned since.
    is_same = replace(copy, calibration=None) == replace(manifest, calibration=None)
    return "" if is_same else f"{path} is damaged: it differs from {MANIFEST}"


def _read_manifest(directory: Path, path: Path) -> Manifest:
    try:
        with open_regular(path) as file:
            text = file.read()
    except (FileNotFoundError, NotADirectoryError):
        # Generation 1 alone may be of a first build that was killed before it published anything.
        if path == directory / MANIFEST and (way_back := _way_back(directory, 2)):
            raise DamagedIndexError(f"{path} is missing", hint=way_back) from None
        raise NoIndexError(
            f"no index in {directory}", hint="make one: imgsearch build-index FOLDER_OF_IMAGES"
        ) from None
    except OSError as error:
        raise DamagedIndexError(f"{path} cannot be read: {error.strerror}", hint=_mended(directory)) from error
    try:
        data = json.loads(text)
        version = data["version"] if data["format"] == FORMAT else None
    except (ValueError, KeyError, TypeError, RecursionError):
        raise DamagedIndexError(f"{path} is damaged: not the manifest of an index", hint=_mended(directory)) from None
    if isinstance(version, int) and version > VERSION:
        raise DamagedIndexError(
            f"{directory} is an index of format {version}, this imgsearch reads up to {VERSION}",
            hint="update imgsearch",
        )
    if version != VERSION:
        raise DamagedIndexError(
            f"{path} is damaged: expected version {VERSION}, found {version!r}", hint=_mended(directory)
        )
    try:
        return Manifest.from_json(data)
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError, UsageError) as error:
        raise DamagedIndexError(f"{path} is damaged: {error}", hint=_mended(directory)) from error


def _mended(directory: Path) -> str:
    return _way_back(directory, 1) or ANEW


def _way_back(directory: Path, least: int) -> str:
    """Say how a lost or damaged manifest is brought back from its newest copy; empty where none is to be found."""
    try:
        numbers = [int(folder.name[4:]) for folder in directory.glob("gen-*") if folder.name[4:].isdecimal()]
    except OSError:
        return ""
    for number in sorted(numbers, reverse=True):
        copy = directory / generation_folder(number) / MANIFEST
        if number >= least and os.path.isfile(copy):
            return f"bring it back: cp {quote(str(copy))} {quote(str(directory / MANIFEST))}"
    return ""


def published(directory: Path) -> Manifest | None:
    """Read the manifest; None if there is none.

    Raises:
        DamagedIndexError: As `read_manifest`.
    """
    try:
        return read_manifest(directory)
    except NoIndexError:
        return None


@contextlib.contextmanager
def new_generation(directory: Path, generation: int) -> Iterator[Path]:
    """Make the empty folder of a generation, and remove it again if the block ends before it is published.

    Args:
        directory: The index; its lock is held.
        generation: Its number. What a build that was killed left under it is removed.
    """
    folder = directory / generation_folder(generation)
    if folder.exists():
        shutil.rmtree(folder)
    try:
        folder.mkdir()
        yield folder
    except BaseException:
        if not _may_be_published(directory, generation):
            shutil.rmtree(folder, ignore_errors=True)
            with contextlib.suppress(OSError):
                (directory / (MANIFEST + ".tmp")).unlink(missing_ok=True)
        raise


def _may_be_published(directory: Path, generation: int) -> bool:
    try:
        manifest = published(directory)
    except DamagedIndexError:
        return True
    return manifest is not None and manifest.generation == generation


def install_encoder(directory: Path, fingerprint: str, source: Path, names: tuple[str, ...]) -> None:
    """Copy an exported encoder into the index.

    Args:
        directory: The index; its lock is held.
        fingerprint: Of the encoder.
        source: Folder with its files.
        names: Those files.
    """
    target = directory / "encoders" / fingerprint
    staging = target.with_name(f"{target.name}.tmp")
    if staging.exists():
        shutil.rmtree(staging)
    staging.mkdir(parents=True)
    try:
        for name in names:
            shutil.copyfile(source / name, staging / name)
            sync(staging / name)
        sync(staging)
        if target.is_dir():  # file by file, so that at no moment one is missing that a generation may need
            for name in names:
                if (target / name).is_dir() and not (target / name).is_symlink():
                    shutil.rmtree(target / name)
                (staging / name).replace(target / name)
            sync(target)
        else:
            target.unlink(missing_ok=True)
            staging.rename(target)
        sync(target.parent)
        sync(directory)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def publish(directory: Path, manifest: Manifest, previous: Manifest | None) -> None:
    """Make a generation the current one, then remove what neither it nor the one before needs.

    Args:
        directory: The index; its lock is held. The generation's files are written and synced.
        manifest: Describes the new generation.
        previous: The manifest it replaces.
    """
    amend(directory, manifest)
    try_sweep(directory, manifest, previous)


def amend(directory: Path, manifest: Manifest) -> None:
    """Replace what the manifest says, and the copy that its generation keeps.

    Args:
        directory: The index; its lock is held.
        manifest: Of a new generation, or of the current one with another calibration.
    """
    # The copy first: between the two, it may only know better what scores mean.
    _replace_manifest(directory / manifest.folder, manifest)
    sync(directory)
    _replace_manifest(directory, manifest)


def _replace_manifest(folder: Path, manifest: Manifest) -> None:
    draft = folder / (MANIFEST + ".tmp")
    try:
        _write_manifest(draft, manifest)
        draft.replace(folder / MANIFEST)
    except BaseException:
        with contextlib.suppress(OSError):
            draft.unlink(missing_ok=True)
        raise
    sync(folder)


def _write_manifest(path: Path, manifest: Manifest) -> None:
    with path.open("w", encoding="ascii") as file:
        json.dump(manifest.to_json(), file, indent=2)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())


def try_sweep(directory: Path, current: Manifest, previous: Manifest | None) -> None:
    """Do `sweep`; what cannot be removed is left to the next build, since what is published is whole."""
    try:
        sweep(directory, current, previous)
    except OSError as error:
        logger.warning("cannot remove old generations: %s", error)


def sweep(directory: Path, current: Manifest, previous: Manifest | None) -> None:
    """Remove generations but the last two, encoders they do not use, and what interrupted builds left.

    Args:
        directory: The index; its lock is held.
        current: What is published.
        previous: What was published before, if that is known.
    """
    kept = {generation_folder(current.generation), generation_folder(current.generation - 1)}
    for folder in directory.glob("gen-*"):
        if re.fullmatch(r"gen-\d{6,}", folder.name) and folder.name not in kept:
            shutil.rmtree(folder)
    for folder in (directory / "encoders").glob("*.tmp"):
        shutil.rmtree(folder)
    for draft in (directory / (MANIFEST + ".tmp"), directory / current.folder / (MANIFEST + ".tmp")):
        draft.unlink(missing_ok=True)
    if previous is None:
        return  # the generation before may need an encoder that we do not know
    for folder in (directory / "encoders").glob("*"):
        ours = re.fullmatch(r"[0-9a-f]{16}", folder.name)
        if ours and folder.name not in current.fingerprints | previous.fingerprints:
            shutil.rmtree(folder)
