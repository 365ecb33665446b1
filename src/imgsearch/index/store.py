"""The index directory: manifest, generations, lock, publishing. docs/format.md is its specification.

Files are written once and never changed. `manifest.json` names those that count, with size and sha256, and
replacing it is the only commit: a reader sees the whole old generation or the whole new one.
"""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
import socket
import sqlite3
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from imgsearch import __version__
from imgsearch.encoders.spec import EncoderSpec
from imgsearch.errors import DamagedIndexError, LockedError, NoIndexError, OutputError

FORMAT = "imgsearch"
VERSION = 1

MANIFEST = "manifest.json"
LOCK = "lock"
PARTIAL = "partial.sqlite"
EMBEDDINGS = "embeddings.npy"
ITEMS = "items.sqlite"
PROJECTION = "projection.npz"
VECTORS = "vectors.npy"
ANNOY = "annoy.ann"

_REBUILD = "rebuild it: move the directory away and run imgsearch build-index"


@dataclass(frozen=True, slots=True)
class FileRecord:
    """What a published file must be: its size in bytes, and the sha256 of its content in hex."""

    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class BackendSettings:
    """How candidates are found.

    Attributes:
        name: `annoy` or `exact`.
        trees: Trees of the Annoy forest.
        seed: Seed of the Annoy forest.
    """

    name: str = "annoy"
    trees: int = 50
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Manifest:
    """What `manifest.json` says.

    Attributes:
        generation: Counts published states, from 1.
        count: Items, which are the rows of the arrays.
        rejected: Files that could not be used.
        catalogue: Absolute path of the folder of pictures.
        encoder: What made the embeddings.
        fingerprint: Of that encoder, as it was computed then: a later imgsearch may see pictures otherwise.
        dims: Length of a searched vector; 0 if there are embeddings only.
        projection_count: How many items there were when the projection was learnt; 0 for none.
        backend: How candidates are found; None if there are embeddings only (`imgsearch embed`).
        metadata_file: Absolute path of the CSV file with products' data, or empty.
        metadata_sha256: Of that file when it was read, or empty.
        files: Every file that counts, by its path below the index directory.
    """

    generation: int
    count: int
    rejected: int
    catalogue: str
    encoder: EncoderSpec
    fingerprint: str
    dims: int
    projection_count: int
    backend: BackendSettings | None
    metadata_file: str
    metadata_sha256: str
    files: Mapping[str, FileRecord]

    @property
    def folder(self) -> str:
        """Name of the generation's folder."""
        return generation_folder(self.generation)

    @property
    def encoder_folder(self) -> str:
        """Folder of the exported encoder, below the index directory."""
        return f"encoders/{self.fingerprint}"

    def to_json(self) -> dict[str, Any]:
        """Return the manifest as the JSON object that is stored."""
        return {
            "format": FORMAT,
            "version": VERSION,
            "tool": __version__,
            "metric": "cosine",
            "generation": self.generation,
            "count": self.count,
            "rejected": self.rejected,
            "catalogue": self.catalogue,
            "encoder": {**self.encoder.to_json(), "fingerprint": self.fingerprint},
            "dims": self.dims,
            "projection_count": self.projection_count,
            "backend": asdict(self.backend) if self.backend else None,
            "metadata": {"file": self.metadata_file, "sha256": self.metadata_sha256},
            "files": {name: asdict(record) for name, record in sorted(self.files.items())},
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Manifest":
        """Read what `to_json` wrote; keys it does not know are ignored.

        Raises:
            KeyError, TypeError, ValueError, AttributeError: Something is missing or of the wrong kind.
        """
        backend = data["backend"]
        return cls(
            generation=_count(data["generation"]),
            count=_count(data["count"]),
            rejected=_count(data["rejected"]),
            catalogue=str(data["catalogue"]),
            encoder=EncoderSpec.from_json(data["encoder"]),
            fingerprint=_fingerprint(data["encoder"]["fingerprint"]),
            dims=_count(data["dims"]),
            projection_count=_count(data["projection_count"]),
            backend=BackendSettings(str(backend["name"]), _count(backend["trees"]), int(backend["seed"]))
            if backend
            else None,
            metadata_file=str(data["metadata"]["file"]),
            metadata_sha256=str(data["metadata"]["sha256"]),
            files={
                _plain_path(name): FileRecord(_count(record["size"]), str(record["sha256"]))
                for name, record in data["files"].items()
            },
        )


def generation_folder(generation: int) -> str:
    """Name the folder of a generation."""
    return f"gen-{generation:06d}"


def is_index(directory: str) -> bool:
    """Say whether a folder is an imgsearch index (or what is left of a build), so that scans leave it out."""
    path = Path(directory)
    if (path / PARTIAL).exists():
        return True
    try:
        with (path / MANIFEST).open("rb") as file:
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
    path = directory / MANIFEST
    try:
        with path.open("rb") as file:
            text = file.read()
    except (FileNotFoundError, NotADirectoryError):
        raise NoIndexError(
            f"no index in {directory}", hint="make one: imgsearch build-index FOLDER_OF_PICTURES"
        ) from None
    except OSError as error:
        raise DamagedIndexError(f"{path} cannot be read: {error.strerror}") from error
    try:
        data = json.loads(text)
        version = data["version"] if data["format"] == FORMAT else None
    except (ValueError, KeyError, TypeError, RecursionError):
        raise DamagedIndexError(f"{path} is damaged: not the manifest of an index", hint=_REBUILD) from None
    if isinstance(version, int) and version > VERSION:
        raise DamagedIndexError(
            f"{directory} is an index of format {version}, this imgsearch reads up to {VERSION}",
            hint="update imgsearch",
        )
    if version != VERSION:
        raise DamagedIndexError(f"{path} is damaged: expected version {VERSION}, found {version!r}", hint=_REBUILD)
    try:
        return Manifest.from_json(data)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DamagedIndexError(f"{path} is damaged: {error}", hint=_REBUILD) from error


def check_sizes(directory: Path, manifest: Manifest) -> None:
    """Look whether every file is there with the size it should have. Cheap: no file is read.

    Raises:
        FileNotFoundError: A file is missing: the generation may have been swept while it was opened.
        DamagedIndexError: A file has another size.
    """
    for name, record in manifest.files.items():
        size = (directory / name).stat().st_size
        if size != record.size:
            raise DamagedIndexError(
                f"{directory / name} is damaged: {size} bytes, expected {record.size}", hint=_REBUILD
            )


def check_content(directory: Path, manifest: Manifest, name: str) -> None:
    """Read a file and compare its sha256 with the manifest.

    Raises:
        FileNotFoundError: It is missing.
        DamagedIndexError: It is not the file that was published.
    """
    expected = manifest.files.get(name)
    if expected is None or file_record(directory / name) != expected:
        raise DamagedIndexError(f"{directory / name} is damaged: its content has changed", hint=_REBUILD)


def file_record(path: Path) -> FileRecord:
    """Take size and sha256 of a file."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return FileRecord(file.tell(), digest)


@contextlib.contextmanager
def writing(directory: Path) -> Iterator[None]:
    """Turn write errors below a directory, SQLite's too, into `OutputError`.

    Raises:
        OutputError: Such an error reached this point.
    """
    try:
        yield
    except (OSError, sqlite3.OperationalError) as error:
        reason = (isinstance(error, OSError) and error.strerror) or str(error)
        lacks_space = "full" in reason or getattr(error, "errno", 0) in (errno.ENOSPC, errno.EDQUOT)
        raise OutputError(
            f"cannot write to {directory}: {reason}; nothing was published",
            hint="free some space and run it again" if lacks_space else "is it a folder you may write to?",
        ) from error


@contextlib.contextmanager
def writer_lock(directory: Path) -> Iterator[None]:
    """Hold the lock of an index directory, made if it is missing. The kernel frees it when the process dies.

    Raises:
        LockedError: Another process holds it.
        OutputError: The directory cannot be written.
    """
    with writing(directory):
        directory.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(directory / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(descriptor, 200).decode("utf-8", "replace").strip()
            raise LockedError(
                f"another build holds {directory / LOCK} ({holder or 'unknown'})",
                hint="wait until it is done",
            ) from None
        with writing(directory):
            os.truncate(descriptor, 0)
            os.write(descriptor, f"pid {os.getpid()} on {socket.gethostname()}\n".encode())
        yield
    finally:
        os.close(descriptor)


def new_generation(directory: Path, generation: int) -> Path:
    """Make the empty folder of a generation that is not published yet.

    Args:
        directory: The index; its lock is held.
        generation: Its number. What an interrupted build left under it is removed.
    """
    folder = directory / generation_folder(generation)
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir()
    return folder


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
    for name in names:
        shutil.copyfile(source / name, staging / name)
        sync(staging / name)
    sync(staging)
    if target.exists():
        shutil.rmtree(target)
    staging.rename(target)
    sync(target.parent)
    sync(directory)


def publish(directory: Path, manifest: Manifest, previous: Manifest | None) -> None:
    """Make a generation the current one, then remove what neither it nor the one before needs.

    Args:
        directory: The index; its lock is held. The generation's files are written and synced.
        manifest: Describes the new generation.
        previous: The manifest it replaces.
    """
    sync(directory / manifest.folder)
    sync(directory)
    draft = directory / (MANIFEST + ".tmp")
    with draft.open("w", encoding="ascii") as file:
        json.dump(manifest.to_json(), file, indent=2)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    draft.replace(directory / MANIFEST)
    sync(directory)
    sweep(directory, manifest, previous)


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
    if previous is None:
        return  # the generation before may need an encoder that we do not know
    for folder in (directory / "encoders").glob("*"):
        if folder.name not in (current.fingerprint, previous.fingerprint):
            shutil.rmtree(folder)


def sync(path: Path) -> None:
    """Make a file's content, or a folder's list of names, survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _count(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(f"expected a count, found {value!r}")
    return value


def _fingerprint(value: object) -> str:
    """Refuse what would not do as the name of a folder."""
    if not isinstance(value, str) or not re.fullmatch(r"[0-9a-f]{16}", value):
        raise ValueError(f"expected a fingerprint of 16 hex digits, found {value!r}")
    return value


def _plain_path(name: str) -> str:
    """Refuse a path that would lead out of the index directory."""
    if not re.fullmatch(r"[A-Za-z0-9_.-]+(/[A-Za-z0-9_.-]+)*", name) or ".." in name.split("/"):
        raise ValueError(f"not the path of a file of an index: {name!r}")
    return name
