"""Try what an index is searched with before the program relies on it."""

from pathlib import Path


def require_backend(index: Path, *, exact: bool = False) -> None:
    """Try the backend of an index; before threads are started, which do not go with a fork.

    Raises `MissingComponentError` if it does not run here, or is not installed.
    """
    from imgsearch.search.backends import backend_of
    from imgsearch.store.generations import read_manifest

    backend = read_manifest(index).backend
    if backend is not None and not exact:
        backend_of(backend).require(by_fork=True)
