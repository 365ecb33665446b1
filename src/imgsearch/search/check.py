"""Look whether an index is whole, without changing anything."""

import contextlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from imgsearch.encoders.projection import Projection
from imgsearch.encoders.runtime import GRAPH_FILE, open_encoder
from imgsearch.errors import DamagedIndexError, NoIndexError
from imgsearch.files import as_path, check_database, reading
from imgsearch.search.backends import backend_files, backend_of, generation_files
from imgsearch.store import generations, integrity
from imgsearch.store.arrays import BLOCK_ROWS, open_array
from imgsearch.store.database import connect
from imgsearch.store.manifest import Manifest, WordsFacts, generation_folder
from imgsearch.store.search_settings import Numbers
from imgsearch.store.words import problem_of_words
from imgsearch.text.sentences import DIMS

# A vector is computed from its embedding in float32, on whatever processor there was; then it may be rounded.
_TOLERANCE: Mapping[Numbers, float] = {"float32": 1e-4, "float16": 6e-4}

_NO_WAY_BACK = "the index answers; only rollback needs this file"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong with an index.

    Attributes:
        file: Path below the index directory.
        problem: What was expected and what was found.
        remedy: What to do about it.
    """

    file: str
    problem: str
    remedy: str


def check(index: str | os.PathLike[str], *, deep: bool = False) -> list[Finding]:
    """Look whether an index is whole.

    Every file is read and compared with its size and sha256 in the manifest. Annoy's forest is opened by another
    process, Faiss' lists by this one. A build that publishes in the meantime does no harm.

    Args:
        index: The index directory.
        deep: Also look whether the files agree with one another: rows, lengths, vectors made from the embeddings; open
            the encoder; and read the generation before, to which `rollback` would return.

    Returns:
        What is wrong; empty for a whole index.

    Raises:
        NoIndexError: There is none.
        MissingComponentError: This machine cannot run Annoy or the encoder, or Faiss is not installed.
        ResourceError: The system does not let a file be read, or has too little memory: nothing is known of the index.
    """
    directory = as_path(index)
    attempts = 3  # two builds may sweep the generation that is being read
    while True:
        attempts -= 1
        try:
            manifest = generations.read_manifest(directory)
        except DamagedIndexError as error:
            return [Finding(generations.MANIFEST, error.message, error.hint)]
        try:
            findings = list(_findings(directory, manifest, deep=deep))
        except (FileNotFoundError, DamagedIndexError) as error:  # swept while it was read, or not what it should be
            findings = [Finding(manifest.folder, str(error), integrity.repair_hint(generations.ITEMS))]
        if not findings or not attempts or _is_published(directory, manifest):
            return findings


def _is_published(directory: Path, manifest: Manifest) -> bool:
    with contextlib.suppress(DamagedIndexError, NoIndexError):
        return generations.read_manifest(directory) == manifest
    return False


def _findings(directory: Path, manifest: Manifest, *, deep: bool) -> Iterator[Finding]:
    damaged = list(_damaged_files(directory, manifest))
    yield from damaged
    if problem := generations.find_copy_problem(directory, manifest):
        name = f"{manifest.folder}/{generations.MANIFEST}"
        yield Finding(name, problem, integrity.repair_hint(name))
    if not damaged:
        yield from _backend_problem(directory, manifest)
        if deep:
            yield from _disagreements(directory, manifest)
    if deep:
        yield from _generation_before(directory, manifest)


def _damaged_files(directory: Path, manifest: Manifest) -> Iterator[Finding]:
    for name in sorted(generation_files(manifest) - set(manifest.files)):
        yield Finding(name, f"{generations.MANIFEST} does not say what it must be", integrity.repair_hint(name))
    for name, record in sorted(manifest.files.items()):
        found = integrity.try_record(directory / name)
        if found == record:
            continue
        if isinstance(found, str):
            problem = found
        elif found.size != record.size:
            problem = f"{found.size} bytes, expected {record.size}"
        else:
            problem = f"its content has changed: sha256 {found.sha256[:16]}…, expected {record.sha256[:16]}…"
        yield Finding(name, problem, integrity.repair_hint(name))


def _backend_problem(directory: Path, manifest: Manifest) -> Iterator[Finding]:
    folder = directory / manifest.folder
    for file in backend_files(manifest.backend, manifest.count):
        assert manifest.backend is not None
        vectors = open_array(folder / generations.VECTORS, manifest.count, manifest.dims, manifest.numbers)
        try:
            backend_of(manifest.backend).check(folder, vectors, manifest.backend)
        except DamagedIndexError as error:
            yield Finding(f"{manifest.folder}/{file}", error.message, integrity.repair_hint(file))


def _disagreements(directory: Path, manifest: Manifest) -> Iterator[Finding]:
    """Look whether files that are what was published belong together: a fault of ours, or of memory then."""
    folder = directory / manifest.folder
    embeddings_name = f"{manifest.folder}/{generations.EMBEDDINGS}"
    items_name = f"{manifest.folder}/{generations.ITEMS}"
    if problem := _problem_of_items(folder / generations.ITEMS, manifest):
        yield Finding(items_name, problem, integrity.repair_hint(items_name))
    try:
        embeddings = open_array(folder / generations.EMBEDDINGS, manifest.count, manifest.encoder.dims)
        vectors = projection = None
        if manifest.backend is not None:
            vectors = open_array(folder / generations.VECTORS, manifest.count, manifest.dims, manifest.numbers)
        if manifest.projection_count:
            projection = Projection.load(str(folder / generations.PROJECTION), manifest.encoder.dims, manifest.dims)
    except DamagedIndexError as error:
        yield Finding(manifest.folder, error.message, integrity.repair_hint(items_name))
        return
    try:
        open_encoder(manifest.encoder, directory / manifest.encoder_folder)
    except DamagedIndexError as error:
        name = f"{manifest.encoder_folder}/{GRAPH_FILE}"
        yield Finding(name, error.message, error.hint or integrity.repair_hint(name))
    if manifest.words and manifest.words.encoder and (problem := _problem_of_texts(folder, manifest, manifest.words)):
        name = f"{manifest.folder}/{generations.TEXT}"
        yield Finding(name, problem, integrity.repair_hint(name))
    for start in range(0, manifest.count, BLOCK_ROWS):
        block = embeddings[start : start + BLOCK_ROWS]
        if not np.allclose(np.linalg.norm(block, axis=1), 1, atol=1e-3):
            yield Finding(
                embeddings_name, f"rows from {start} on are not of unit length", integrity.repair_hint(embeddings_name)
            )
            return
        derived = projection.apply(block) if projection else block
        stored = derived if vectors is None else vectors[start : start + BLOCK_ROWS]
        if not np.allclose(derived, stored, atol=_TOLERANCE[manifest.numbers]):
            name = f"{manifest.folder}/{generations.VECTORS}"
            yield Finding(name, f"rows from {start} on are not made from the embeddings", integrity.repair_hint(name))
            return


def _problem_of_items(path: Path, manifest: Manifest) -> str:
    try:
        with reading(path, ""), contextlib.closing(connect(path, read_only=True)) as connection:
            check_database(connection)
            facts = connection.execute("SELECT count(*), coalesce(min(row), 0), coalesce(max(row), -1) FROM items")
            count, first, last = facts.fetchone()
            (rejected,) = connection.execute("SELECT count(*) FROM rejected").fetchone()
            problem = problem_of_words(connection, manifest.count, manifest.words) if manifest.words else ""
    except DamagedIndexError as error:
        return error.message
    if (count, first, last) != (manifest.count, 0, manifest.count - 1):
        return f"{count} items in rows {first} to {last}, expected {manifest.count} from 0 on"
    if rejected != manifest.rejected:
        return f"{rejected} rejected files, expected {manifest.rejected}"
    return problem


def _problem_of_texts(folder: Path, manifest: Manifest, words: WordsFacts) -> str:
    """Return what is wrong with the vectors of texts: each is of unit length, or zero for want of words."""
    try:
        texts = open_array(folder / generations.TEXT, manifest.count, DIMS)
    except DamagedIndexError as error:
        return error.message
    used = 0
    for start in range(0, manifest.count, BLOCK_ROWS):
        lengths = np.linalg.norm(texts[start : start + BLOCK_ROWS], axis=1)
        if not np.isclose(lengths[lengths != 0], 1, atol=1e-3).all():
            return f"rows from {start} on are neither of unit length nor zero"
        used += int(np.count_nonzero(lengths))
    most = words.own + words.predicted
    return "" if used <= most else f"{used} items have the vector of a text, expected at most {most}"


def _generation_before(directory: Path, manifest: Manifest) -> Iterator[Finding]:
    try:
        before = generations.read_generation(directory, manifest.generation - 1)
    except NoIndexError:
        return
    except DamagedIndexError as error:
        name = f"{generation_folder(manifest.generation - 1)}/{generations.MANIFEST}"
        yield Finding(name, error.message, _NO_WAY_BACK)
        return
    for finding in _damaged_files(directory, before):
        if finding.file not in manifest.files:
            yield Finding(finding.file, finding.problem, _NO_WAY_BACK)
