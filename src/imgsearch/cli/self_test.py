"""Try Annoy in a child process before the program relies on it."""

import os

from imgsearch.errors import ImgsearchError


def require_annoy() -> None:
    """Try Annoy: compiled for another processor, it dies of SIGILL, which no program can catch in itself.

    A fork takes a millisecond, where a new process would take a tenth of a query. It is only done in the program,
    while there is one thread.

    Raises:
        MissingComponentError: This processor cannot run it, or it is not installed.
    """
    child = os.fork()
    if child == 0:
        try:
            from imgsearch.index.annoy_child import answer

            answer({})
            os._exit(0)
        finally:
            os._exit(ImgsearchError.exit_code)
    _, status = os.waitpid(child, 0)
    if status:
        from imgsearch.index.annoy_process import unusable_annoy

        raise unusable_annoy(os.waitstatus_to_exitcode(status))
