"""Try what an index is searched with before the program relies on it."""

import os
from pathlib import Path

from imgsearch.errors import ImgsearchError


def require_backend(index: Path, *, exact: bool = False) -> None:
    """Try what an index is searched with; before threads are started, which do not go with a fork.

    Args:
        index: The index directory.
        exact: Whether everything is to be compared, whatever the index has.

    Raises:
        MissingComponentError: It does not run here, or is not installed.
        NoIndexError, DamagedIndexError: As for `Index.open`.
    """
    from imgsearch.store.generations import read_manifest

    backend = read_manifest(index).backend
    if backend is not None and backend.name == "annoy" and not exact:
        _require_annoy()
    if backend is not None and backend.name == "faiss" and not exact:
        from imgsearch.search.backends.backends import import_faiss

        import_faiss()


def _require_annoy() -> None:
    """Try Annoy: compiled for another processor, it dies of SIGILL, which no program can catch in itself.

    A fork takes a millisecond, where a new process would take a tenth of a query. It is only done in the program,
    while there is one thread.

    Raises:
        MissingComponentError: This processor cannot run it, or it is not installed.
    """
    child = os.fork()
    if child == 0:
        try:
            from imgsearch.search.backends.annoy_child import answer

            answer({})
            os._exit(0)
        finally:
            os._exit(ImgsearchError.exit_code)
    _, status = os.waitpid(child, 0)
    if status:
        from imgsearch.search.backends.annoy_process import unusable_annoy

        raise unusable_annoy(os.waitstatus_to_exitcode(status))
