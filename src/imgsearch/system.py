"""What the operating system refuses, told apart from what is wrong with a file.

A file that may not be read, or a process that may open no more files, says nothing of the index: whoever took it for
damage might delete a good one.
"""

import errno
import mmap
from pathlib import Path

from imgsearch.errors import ResourceError

_MEMORY_HINT = "free memory, or raise its limit (ulimit -v, or that of the container)"
_FILES_HINT = "raise the limit of open files (ulimit -n)"
_PROCESSES_HINT = "raise the limit of processes and threads (ulimit -u, or that of the container)"
_NETWORK_HINT = "is the disk connected, and its server up? Then try again"

# Of these the process or the machine has too little: whatever it does next may fail likewise.
_LIMIT_HINTS = {
    errno.EMFILE: _FILES_HINT,
    errno.ENFILE: "the whole machine has too many open files (sysctl fs.file-max)",
    errno.ENOMEM: _MEMORY_HINT,
    errno.EAGAIN: _PROCESSES_HINT,
}
_HINTS = {
    **_LIMIT_HINTS,
    errno.EACCES: "run it as a user who may read the index, or give this one the right (ls -l shows who has it)",
    errno.EPERM: "run it as a user who may read the index, or outside of what forbids it here",
    errno.EIO: "its disk fails: see the system's log (dmesg), and copy the index to a good disk while it can be read",
    errno.ENODEV: "this file system cannot map files into memory: copy the index to another disk",
    **dict.fromkeys((errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN, errno.EHOSTDOWN, errno.EREMOTEIO), _NETWORK_HINT),
}
_DEFAULT_HINT = "mend what the system says, and try again: nothing is known to be wrong with the file"

# What native libraries say where Python would raise MemoryError or OSError.
_WORDS = {
    "memoryerror": _MEMORY_HINT,
    "bad_alloc": _MEMORY_HINT,
    "bad allocation": _MEMORY_HINT,
    "failed to map segment": _MEMORY_HINT,
    "cannot allocate memory": _MEMORY_HINT,
    "failed to allocate": _MEMORY_HINT,
    "can't alloc": _MEMORY_HINT,
    "can't start new thread": _PROCESSES_HINT,
    "resource temporarily unavailable": _PROCESSES_HINT,
    "too many open files": _FILES_HINT,
}


def unreadable(path: Path, reason: Exception) -> ResourceError:
    """Say that the system does not let a file be read, and what to do about it."""
    hint = _HINTS.get(getattr(reason, "errno", None) or 0, _DEFAULT_HINT)
    return ResourceError(f"{path} cannot be read: {words_of(reason)}", hint=hint)


def words_of(error: Exception) -> str:
    """Return an error in words, without the number and the path that Python adds."""
    return getattr(error, "strerror", None) or str(error)


def refusal_of(error: BaseException) -> ResourceError | None:
    """Return what the process has too little of if that is what an error says, also one of a native library."""
    if isinstance(error, MemoryError):
        return ResourceError("there is not enough memory", hint=_MEMORY_HINT)
    if isinstance(error, OSError) and error.errno in _LIMIT_HINTS:
        return ResourceError(f"the system refuses: {words_of(error)}", hint=_LIMIT_HINTS[error.errno])
    if isinstance(error, ImportError | RuntimeError | OSError):
        said = str(error).lower()
        for words, hint in _WORDS.items():
            if words in said:
                return ResourceError(f"the system refuses: {words}", hint=hint)
    return None


def require_address_space(needed: int, user: str) -> None:
    """Raise `ResourceError` where so many bytes cannot be mapped: libraries that cannot have them end the process."""
    try:
        mmap.mmap(-1, needed, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, prot=mmap.PROT_READ).close()
    except OSError as error:
        raise ResourceError(
            f"{user} needs {needed / 1e6:,.0f} MB of address space, and the system does not grant them",
            hint=_MEMORY_HINT,
        ) from error
