"""The backends, one a module; a new one is a module beside them and a line in the table."""

from pathlib import Path

from imgsearch.errors import DamagedIndexError, MissingComponentError
from imgsearch.search.backends.annoy import AnnoyBackend
from imgsearch.search.backends.exact import ExactBackend
from imgsearch.search.backends.faiss import FaissBackend
from imgsearch.search.backends.faiss_codes import FaissCodesBackend
from imgsearch.search.backends.protocol import Backend
from imgsearch.store import generations
from imgsearch.store.manifest import Manifest
from imgsearch.store.search_settings import BackendSettings

_ALL: tuple[Backend, ...] = (AnnoyBackend(), FaissBackend(), FaissCodesBackend(), ExactBackend())
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


def require_backend(index: Path, *, exact: bool = False) -> None:
    """Raise an error if the backend of an index does not run here; call it before threads start, since it may fork."""
    settings = generations.read_manifest(index).backend
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
    encoder = {f"{manifest.encoder_folder}/{name}" for name in exported_files(manifest.encoder)}
    if manifest.detector:
        encoder |= {f"{manifest.detector_folder}/{name}" for name in exported_files(manifest.detector)}
    return encoder | {f"{manifest.folder}/{name}" for name in names}
