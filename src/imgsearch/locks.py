"""A lock that one process at a time holds: the kernel's, or a file of our own where the file system has none.

The kernel frees its lock when the process dies. A file stays, so it says whose it is, and what a dead process of the
same host has left is taken over. Each kind looks for the other, since two processes may not see a disk alike.
"""

import contextlib
import errno
import fcntl
import logging
import os
import re
import socket
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from imgsearch.errors import LockedError
from imgsearch.files import open_regular
from imgsearch.system import words_of

logger = logging.getLogger(__name__)

# What a file system says that has no locks, or whose server is not there to grant them.
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP}
_RECORD = re.compile(r"pid (\d+) on (.+) \(boot (\S*), pid:\[(\d*)\], started (\d*)\)\n")
_RECORD_BYTES = 500


class _HeldError(Exception):
    """Another has the lock; its argument is what that has written."""


@contextlib.contextmanager
def exclusive_lock(path: Path, refusal: str, wait: float = 0, hint: str = "wait until it is done") -> Iterator[None]:
    """Hold a lock, a file that is made if it is missing; LockedError that begins with `refusal` if another has it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        release = _wait_for_lock(descriptor, path, refusal, wait, hint)
        try:
            yield
        finally:
            with contextlib.suppress(OSError):  # what is left says that we are dead
                release()
    finally:
        os.close(descriptor)


def _wait_for_lock(descriptor: int, path: Path, refusal: str, wait: float, hint: str) -> Callable[[], None]:
    """Take the lock, and return what lets go of it."""
    lock_file = path.with_name(f"{path.name}.held")
    deadline = time.monotonic() + wait
    while True:
        try:
            return _lock(descriptor, lock_file)
        except _HeldError as held:
            holder = str(held)
        if time.monotonic() >= deadline:
            raise LockedError(
                f"{refusal} {path} ({holder.strip() or 'unknown'})",
                hint=hint + _way_out(holder, lock_file),
            )
        time.sleep(min(0.1, wait))


def _lock(descriptor: int, lock_file: Path) -> Callable[[], None]:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise _HeldError(_record_in(descriptor)) from None
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        return _make_lock_file(lock_file, descriptor, words_of(error))
    # First say that we are here, then look: of two that do so at once, at least one sees the other.
    os.truncate(descriptor, 0)
    os.pwrite(descriptor, _own_record().encode(), 0)
    release = partial(os.truncate, descriptor, 0)
    try:
        _refuse_living(lock_file)
    except BaseException:
        release()
        fcntl.flock(descriptor, fcntl.LOCK_UN)
        raise
    return release


def _make_lock_file(lock_file: Path, descriptor: int, reason: str) -> Callable[[], None]:
    _refuse_living(lock_file)
    try:
        made = os.open(lock_file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    except FileExistsError:
        raise _HeldError from None
    try:
        with open(made, "w", encoding="utf-8") as file:
            file.write(_own_record())
        _refuse_holder_by_kernel(descriptor)
    except BaseException:
        lock_file.unlink()
        raise
    logger.warning(
        "this file system has no locks (%s): %s stands for one, which a process that is killed leaves behind",
        *(reason, lock_file),
    )

    def release() -> None:
        if _content(lock_file) == _own_record():  # somebody may have deleted it by hand, and another made it anew
            lock_file.unlink()

    return release


def _refuse_holder_by_kernel(descriptor: int) -> None:
    """Raise `_HeldError` if a process, for which the kernel's lock works, has it."""
    record = _record_in(descriptor)
    if _RECORD.fullmatch(record) and _may_live(record):
        raise _HeldError(record)


def _refuse_living(lock_file: Path) -> None:
    """Raise `_HeldError` if the process that has made a lock file may be alive; remove one of a dead process."""
    record = _content(lock_file)
    if record is None:
        return
    if _may_live(record):
        raise _HeldError(record)
    # Renamed first, to see whether it is still what was read: another may have removed it and made its own meanwhile.
    aside = lock_file.with_name(f"{lock_file.name}.{os.getpid()}")
    with contextlib.suppress(FileNotFoundError):
        lock_file.rename(aside)
        if _content(aside) != record:
            aside.rename(lock_file)
            raise _HeldError
        aside.unlink()


def _may_live(record: str) -> bool:
    """Return whether the process that wrote a record may be alive, as one of another host always may."""
    found = _RECORD.fullmatch(record)
    if not found:
        return True
    pid, host, boot, namespace, started = found.groups()
    if host != socket.gethostname():
        return True
    if boot != _boot():
        return False
    return namespace != _namespace() or _is_running(int(pid), started)


def _is_running(pid: int, started: str) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # of another user
        pass
    return _start_of(pid) in (started, "")


def _own_record() -> str:
    pid = os.getpid()
    return f"pid {pid} on {socket.gethostname()} (boot {_boot()}, pid:[{_namespace()}], started {_start_of(pid)})\n"


def _boot() -> str:
    with contextlib.suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return ""


def _namespace() -> str:
    """Return in which namespace numbers of processes are meant: that of a container is not ours."""
    with contextlib.suppress(OSError):
        return re.sub(r"\D", "", str(Path("/proc/self/ns/pid").readlink()))
    return ""


def _start_of(pid: int) -> str:
    """Return when a process was started, in ticks since the boot; empty where the system does not say."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[19].decode("ascii")
    return ""


def _record_in(descriptor: int) -> str:
    return os.pread(descriptor, _RECORD_BYTES, 0).decode("utf-8", "replace")


def _content(file: Path) -> str | None:
    try:
        with open_regular(file) as opened:
            return opened.read(_RECORD_BYTES).decode("utf-8", "replace")
    except FileNotFoundError:
        return None


def _way_out(holder: str, lock_file: Path) -> str:
    """Say what to do about a lock file that may be left by a process of which nothing can be seen from here."""
    found = _RECORD.fullmatch(holder)
    is_seen = found is not None and (found[2], found[4]) == (socket.gethostname(), _namespace())
    if is_seen or not lock_file.exists():
        return ""
    return f"; if it runs no more{f' on {found[2]}' if found else ''}, delete {lock_file}"
