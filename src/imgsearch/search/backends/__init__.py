"""The backends, one a module; a new one is a module beside them and a line in the table."""

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from imgsearch.errors import DamagedIndexError, ImgsearchError, MissingComponentError, UsageError
from imgsearch.search.backends import milvus, postgresql
from imgsearch.search.backends.annoy import AnnoyBackend
from imgsearch.search.backends.exact import ExactBackend
from imgsearch.search.backends.faiss import FaissBackend
from imgsearch.search.backends.faiss_codes import FaissCodesBackend
from imgsearch.search.backends.protocol import Backend
from imgsearch.search.backends.server import ServerBackend, needed_ids, place_of
from imgsearch.store import generations, integrity
from imgsearch.store.manifest import Manifest
from imgsearch.store.search_settings import BackendSettings

logger = logging.getLogger(__name__)

# Those whose candidates are in a server; `build-index --backend` takes its address.
SERVERS: dict[str, ServerBackend] = {
    each.name: each
    for each in (
        ServerBackend("milvus", "pymilvus", "milvus", milvus.open_server, milvus.EFFORTS),
        ServerBackend("postgresql", "psycopg", "postgres", postgresql.open_server, postgresql.EFFORTS),
    )
}
_ALL: tuple[Backend, ...] = (AnnoyBackend(), FaissBackend(), FaissCodesBackend(), ExactBackend(), *SERVERS.values())
BACKENDS = {each.name: each for each in _ALL}


def backend_of(settings: BackendSettings) -> Backend:
    """Return the backend that an index names; raise `DamagedIndexError` if there is no such."""
    if settings.name not in BACKENDS:
        raise DamagedIndexError(f"the backend {settings.name!r} of the index is not known", hint="update imgsearch")
    return BACKENDS[settings.name]


def backend_files(settings: BackendSettings | None, count: int) -> tuple[str, ...]:
    """Return the names of the files that a backend writes for so many vectors; none for an empty index."""
    file = backend_of(settings).file if settings is not None and count else ""
    return (file,) if file else ()


def require_fallback(settings: BackendSettings | None, *, falls_back: bool) -> None:
    """Raise `UsageError` where something is to answer in place of a server, and there is none."""
    if falls_back and not (settings and settings.server):
        raise UsageError("--fallback has no effect: the index keeps its candidates in no server")


def require_backend(index: Path, *, exact: bool = False, fallback: bool = False) -> None:
    """Raise an error if the backend of an index does not run here; call it before threads start, since it may fork."""
    settings = generations.read_manifest(index).backend
    require_fallback(settings, falls_back=fallback)
    if settings is not None and not exact:
        backend_of(settings).ensure_available(by_fork=True)


def runs_backend(index: Path) -> bool:
    """Return whether the backend of an index runs here; as for `require_backend`."""
    try:
        require_backend(index)
    except MissingComponentError:
        return False
    return True


def generation_files(manifest: Manifest) -> set[str]:
    """Name the files that a generation cannot do without, below the index directory."""
    from imgsearch.encoders.export import exported_files  # with much that a query does not need

    names = [generations.EMBEDDINGS, generations.ITEMS]
    if manifest.backend is not None:
        names += [generations.VECTORS, *backend_files(manifest.backend, manifest.count)]
    if manifest.projection_count:
        names.append(generations.PROJECTION)
    if manifest.words and manifest.words.encoder:
        names.append(generations.TEXT)
    if manifest.recommend is not None:
        names += [generations.RECOMMEND, generations.RECOMMEND_ROWS]
    if manifest.ranking is not None:
        names.append(generations.RANKING)
    encoder = {f"{manifest.encoder_folder}/{name}" for name in exported_files(manifest.encoder)}
    if manifest.detector:
        encoder |= {f"{manifest.detector_folder}/{name}" for name in exported_files(manifest.detector)}
    return encoder | {f"{manifest.folder}/{name}" for name in names}


def is_whole(directory: Path, manifest: Manifest) -> bool:
    """Do `integrity.is_whole`, and return whether the server of an index, if it has one, holds all that it needs."""
    settings = manifest.backend
    if not integrity.is_whole(directory, manifest):
        return False
    if settings is None or not settings.server or not manifest.count:
        return True
    return SERVERS[backend_of(settings).name].is_whole(directory / manifest.folder, manifest)


def sweep_servers(directory: Path, kept: Sequence[Manifest], gone: Manifest | None) -> None:
    """Delete from servers what none of the generations needs that are kept; `gone` is the one that was swept last."""
    place = place_of(directory)
    for manifest in {each.backend.collection: each for each in (gone, *kept) if each and each.backend}.values():
        settings = manifest.backend
        assert settings is not None
        if not settings.server or settings.place != place:
            continue
        try:
            is_needed = any(each.backend and each.backend.collection == settings.collection for each in kept)
            needed = np.concatenate([needed_ids(directory, each, settings.collection) for each in kept])
            SERVERS[backend_of(settings).name].sweep(settings, manifest.dims, needed if is_needed else None)
        except (ImgsearchError, FileNotFoundError) as error:  # left to the next build
            logger.warning("old vectors are left in %s: %s", settings.collection, error)
