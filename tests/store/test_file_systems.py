"""File systems that can do less than ext4: network disks, FUSE, exFAT. What a disk cannot, an index does without."""

import contextlib
import errno
import fcntl
import itertools
import logging
import os
import shutil
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from imgsearch import build_index, check, embed, info
from imgsearch.errors import LockedError, OutputError
from imgsearch.locks import exclusive_lock
from imgsearch.store import generations
from imgsearch.store.locking import writer_lock

FAST = {"backbone": "handcrafted:color", "backend": "exact"}


def fail(number):
    raise OSError(number, os.strerror(number))


# --- folders that cannot be synced


@pytest.fixture
def failing_sync(monkeypatch):
    """Let the sync of a folder, or of a file, fail."""
    real = os.fsync

    def arrange(number, is_kind):
        def fsync(descriptor):
            return fail(number) if is_kind(os.fstat(descriptor).st_mode) else real(descriptor)

        monkeypatch.setattr(os, "fsync", fsync)

    return arrange


@pytest.mark.parametrize("number", [errno.EINVAL, errno.EBADF, errno.EOPNOTSUPP, errno.ENOSYS, errno.EACCES])
def test_a_folder_that_cannot_be_synced_does_not_keep_an_index_from_being_built(failing_sync, small, tmp_path, number):
    failing_sync(number, stat.S_ISDIR)

    build_index(small, tmp_path / "a" / "b" / "index", **FAST)

    assert check(tmp_path / "a" / "b" / "index") == []


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.EDQUOT])
def test_a_folder_whose_sync_fails_for_another_reason_is_a_write_error(failing_sync, small, tmp_path, number):
    failing_sync(number, stat.S_ISDIR)

    with pytest.raises(OutputError):
        build_index(small, tmp_path / "index", **FAST)


@pytest.mark.parametrize("number", [errno.EINVAL, errno.EBADF, errno.EOPNOTSUPP, errno.ENOSYS, errno.EIO])
def test_a_file_that_cannot_be_synced_is_a_write_error(failing_sync, small, tmp_path, number):
    failing_sync(number, stat.S_ISREG)

    with pytest.raises(OutputError):
        build_index(small, tmp_path / "index", **FAST)
    assert not (tmp_path / "index" / generations.MANIFEST).exists()


# --- no locks


@pytest.fixture
def without_locks(monkeypatch):
    """Take the kernel's locks away, and give them back."""
    real = fcntl.flock

    def switch(number=errno.ENOLCK):
        monkeypatch.setattr(fcntl, "flock", (lambda *_: fail(number)) if number else real)

    return switch


def elsewhere(record: str) -> str:
    return record.replace(f" on {socket.gethostname()} ", " on elsewhere ")


def after_a_reboot(record: str) -> str:
    return record.replace("(boot ", "(boot 0")


def of_a_number_used_again(record: str) -> str:
    return record.replace("started ", "started 9")


def of_a_dead_process(record: str) -> str:
    with subprocess.Popen(["true"]) as process:
        process.wait()
    return record.replace(f"pid {os.getpid()} ", f"pid {process.pid} ")


def in_another_container(record: str) -> str:
    return of_a_dead_process(record).replace("pid:[", "pid:[9")


def cut_short(record: str) -> str:
    return record[:20]


def not_ours(_: str) -> str:
    return "held by hand\n"


@pytest.fixture
def record(tmp_path, without_locks):
    """What this process writes into a lock file."""
    without_locks()
    with writer_lock(tmp_path / "scratch"):
        text = (tmp_path / "scratch" / "lock.held").read_text()
    without_locks(0)
    return text


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_without_locks_a_file_stands_for_one_with_one_warning_and_is_gone_afterwards(
    without_locks, small, tmp_path, caplog, leftovers, number
):
    without_locks(number)

    with caplog.at_level(logging.WARNING):
        build_index(small, tmp_path / "index", **FAST)

    (said,) = caplog.messages
    assert said.startswith(f"this file system has no locks ({os.strerror(number)}): ")
    assert leftovers(tmp_path / "index") == []
    assert check(tmp_path / "index") == []


def test_a_lock_that_cannot_be_had_for_another_reason_is_a_write_error(without_locks, small, tmp_path):
    without_locks(errno.EIO)

    with pytest.raises(OutputError):
        build_index(small, tmp_path / "index", **FAST)


@pytest.mark.parametrize("kinds", list(itertools.product([0, errno.ENOLCK], repeat=2)))
def test_two_writers_never_have_the_lock_at_once_whatever_kind_each_has(without_locks, tmp_path, kinds):
    without_locks(kinds[0])
    with writer_lock(tmp_path):
        without_locks(kinds[1])
        for _ in range(2):
            with pytest.raises(LockedError, match=f"another build holds .*pid {os.getpid()} on"), writer_lock(tmp_path):
                pass
        without_locks(kinds[0])
    without_locks(kinds[1])

    with writer_lock(tmp_path):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["lock"]


@pytest.mark.parametrize("kinds", list(itertools.product([0, errno.ENOLCK], repeat=2)))
def test_of_two_processes_the_second_waits_for_the_first(without_locks, tmp_path, kinds):
    code = (
        "import errno, fcntl, os, sys\n"
        "from imgsearch.store.locking import writer_lock\nfrom pathlib import Path\n"
        "def flock(*_): raise OSError(errno.ENOLCK, 'no locks')\n"
        "if sys.argv[2] != '0': fcntl.flock = flock\n"
        "with writer_lock(Path(sys.argv[1])):\n    print('held', flush=True)\n    sys.stdin.readline()\n"
    )
    command = [sys.executable, "-c", code, tmp_path, str(kinds[0])]
    without_locks(kinds[1])

    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(LockedError, match=f"pid {holder.pid} on"), writer_lock(tmp_path):
            pass
        holder.kill()
        holder.wait()
    with writer_lock(tmp_path):  # taken over, for the process is dead
        pass


@pytest.mark.parametrize("kind", [0, errno.ENOLCK])
@pytest.mark.parametrize("change", [of_a_dead_process, of_a_number_used_again, after_a_reboot])
def test_what_a_dead_process_of_this_host_has_left_is_taken_over(without_locks, record, tmp_path, change, kind):
    (tmp_path / "lock").touch()
    (tmp_path / "lock.held").write_text(change(record))
    without_locks(kind)

    with writer_lock(tmp_path):
        pass

    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["lock"]


@pytest.mark.parametrize("kind", [0, errno.ENOLCK])
@pytest.mark.parametrize("change", [str, elsewhere, in_another_container, cut_short, not_ours])
def test_what_may_be_of_a_living_process_is_respected_and_the_error_says_what_to_delete(
    without_locks, record, tmp_path, change, kind
):
    written = change(record)
    (tmp_path / "lock").touch()
    (tmp_path / "lock.held").write_text(written)
    without_locks(kind)

    with pytest.raises(LockedError) as refused, writer_lock(tmp_path):
        pass

    assert (tmp_path / "lock.held").read_text() == written
    assert (f"delete {tmp_path / 'lock.held'}" in refused.value.hint) == (change is not str)


def test_what_a_killed_process_of_an_earlier_version_has_written_into_the_lock_is_no_holder(without_locks, tmp_path):
    (tmp_path / "lock").write_text(f"pid 1 on {socket.gethostname()}\n")
    without_locks()

    with writer_lock(tmp_path):
        pass


def test_a_lock_file_that_another_has_taken_over_in_the_meantime_is_theirs(
    without_locks, record, tmp_path, monkeypatch
):
    (tmp_path / "lock").touch()
    file = tmp_path / "lock.held"
    file.write_text(of_a_dead_process(record))
    real = Path.rename

    def rename(path, target):
        if path == file and path.read_text() != record:
            path.write_text(record)  # just before we take it away
        return real(path, target)

    monkeypatch.setattr(Path, "rename", rename)
    without_locks()

    with pytest.raises(LockedError), writer_lock(tmp_path):
        pass
    assert file.read_text() == record


def test_a_lock_file_that_cannot_be_written_whole_is_removed(without_locks, monkeypatch, tmp_path):
    without_locks()
    monkeypatch.setattr("imgsearch.locks._own_record", lambda: fail(errno.ENOSPC))

    with pytest.raises(OSError, match="No space"), exclusive_lock(tmp_path / "lock", "held by"):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["lock"]


def test_a_lock_is_let_go_of_after_an_error_under_it(without_locks, tmp_path):
    without_locks()
    for _ in range(2):
        with contextlib.suppress(ZeroDivisionError), exclusive_lock(tmp_path / "lock", "held by"):
            1 / 0  # noqa: B018
    assert not (tmp_path / "lock.held").exists()


# --- no links, no modes


@pytest.mark.parametrize("number", [errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS])
def test_without_symbolic_links_embed_leaves_its_two_out_and_says_so(monkeypatch, small, tmp_path, caplog, number):
    monkeypatch.setattr(os, "symlink", lambda *_, **__: fail(number))

    with caplog.at_level(logging.WARNING):
        embed(small, tmp_path / "embeddings", backbone="handcrafted:color")
    (said,) = caplog.messages
    assert "embeddings.npy and items.sqlite are in gen-000001 only" in said
    assert sorted(path.name for path in (tmp_path / "embeddings").iterdir()) == [
        *("encoders", "gen-000001", "lock", "manifest.json")
    ]

    build_index(tmp_path / "embeddings", tmp_path / "index", backend="exact")
    assert check(tmp_path / "embeddings", deep=True) == check(tmp_path / "index", deep=True) == []


def test_a_link_that_cannot_be_made_for_want_of_space_is_a_write_error(monkeypatch, small, tmp_path):
    monkeypatch.setattr(os, "symlink", lambda *_, **__: fail(errno.ENOSPC))

    with pytest.raises(OutputError):
        embed(small, tmp_path / "embeddings", backbone="handcrafted:color")


def test_a_cache_that_knows_no_modes_is_used_all_the_same(monkeypatch, small, tmp_path):
    monkeypatch.setenv("IMGSEARCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(os, "chmod", lambda *_, **__: fail(errno.EPERM))

    build_index(small, tmp_path / "index", **FAST)

    assert [path for path in (tmp_path / "cache" / "encoders").iterdir() if path.is_dir()] != []


# --- all of it, below the libraries

SHIM = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <sys/stat.h>
#include <sys/types.h>

#define REFUSE(number) do { errno = (number); return -1; } while (0)

int fsync(int file) {
    struct stat status;
    int (*real)(int) = dlsym(RTLD_NEXT, "fsync");
    if (!fstat(file, &status) && S_ISDIR(status.st_mode)) REFUSE(EINVAL);
    return real(file);
}
int flock(int file, int operation) { REFUSE(ENOLCK); }
int symlink(const char *target, const char *path) { REFUSE(EPERM); }
int symlinkat(const char *target, int folder, const char *path) { REFUSE(EPERM); }
int link(const char *from, const char *to) { REFUSE(EPERM); }
int chmod(const char *path, mode_t mode) { REFUSE(EPERM); }
int fchmod(int file, mode_t mode) { REFUSE(EPERM); }
int memfd_create(const char *name, unsigned flags) { REFUSE(ENOSYS); }
int posix_fallocate(int file, off_t offset, off_t length) { return EOPNOTSUPP; }
int posix_fallocate64(int file, off64_t offset, off64_t length) { return EOPNOTSUPP; }

static int control(const char *name, int file, int command, void *argument) {
    int (*real)(int, int, ...) = dlsym(RTLD_NEXT, name);
    if (command == F_SETLK || command == F_SETLKW) REFUSE(ENOLCK);
    return real(file, command, argument);
}
int fcntl(int file, int command, ...) {
    va_list rest; va_start(rest, command); void *argument = va_arg(rest, void *); va_end(rest);
    return control("fcntl", file, command, argument);
}
int fcntl64(int file, int command, ...) {
    va_list rest; va_start(rest, command); void *argument = va_arg(rest, void *); va_end(rest);
    return control("fcntl64", file, command, argument);
}
"""


@pytest.fixture(scope="module")
def poor_file_system(tmp_path_factory) -> dict[str, str]:
    """An environment in which the C library fails as it does on poor file systems."""
    if not shutil.which("gcc"):
        pytest.skip("gcc is not here")
    folder = tmp_path_factory.mktemp("shim")
    (folder / "shim.c").write_text(SHIM)
    command = ["gcc", "-w", "-shared", "-fPIC", "-o", folder / "shim.so", folder / "shim.c", "-ldl"]
    subprocess.run(command, check=True)
    return os.environ | {"LD_PRELOAD": str(folder / "shim.so")}


def test_on_a_disk_without_locks_links_modes_and_folder_syncs_everything_works(
    imgsearch, poor_file_system, small, photo, tmp_path, leftovers
):
    environment = poor_file_system | {"IMGSEARCH_INDEX": "index"}
    for command in (
        ("build-index", small, "--backbone", "handcrafted:color", "--backend", "annoy", "--trees", 2),
        ("build-index", small, "--relearn"),
        ("rollback",),
        ("query", photo, "--rerank", "geometric"),
        ("check", "--deep"),
        ("embed", small, "-o", "embeddings", "--backbone", "handcrafted:color"),
        ("preprocess", small, "smaller", "--size", 16),
    ):
        done = imgsearch(*command, env=environment)
        assert done.returncode == 0, done.stderr

    assert info(tmp_path / "index").manifest.generation == 3
    assert info(tmp_path / "embeddings").manifest.count == 12
    assert leftovers(tmp_path / "index") == leftovers(tmp_path / "embeddings") == []
