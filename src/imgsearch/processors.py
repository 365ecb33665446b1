"""How many processors this process may keep busy: a container limits the time on them without hiding any."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

_MAX_TEXT = 100_000  # of a file of the kernel's; these have a few lines


def processor_count(root: Path = Path("/")) -> int:
    """Count the processors that this process may use, at least 1.

    That is as many as it may run on (`taskset`, cpusets), no more than the CPU quotas of its control group and of those
    around it, and no more than `OMP_NUM_THREADS`.

    Args:
        root: Where `proc` and `sys` are.
    """
    try:
        count = len(os.sched_getaffinity(0))
    except OSError:  # a sandbox may not let us ask
        count = os.cpu_count() or 1
    return min([count, *_quotas(root), *_asked_for()])


def limit_libraries() -> None:
    """Let libraries that are imported later start no more threads than that, unless the user has told them."""
    count = str(processor_count())
    # OpenBLAS, which NumPy brings, starts its threads when it is imported; scikit-learn and PyTorch read the same.
    for name in ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"):
        os.environ.setdefault(name, count)


def _asked_for() -> Iterator[int]:
    # A list has the number for each level of nested threads.
    text = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    if text.isascii() and text.isdecimal() and len(text) < 10 and int(text) > 0:
        yield int(text)


def _quotas(root: Path) -> Iterator[int]:
    """Yield the quotas, in whole processors, of the control groups that this process is in."""
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, name = rest.partition(":")
        mounted = root / "sys/fs/cgroup"
        if not controllers:  # version 2; beside version 1 it is mounted deeper
            for base in (mounted, mounted / "unified"):
                for folder in _groups(base, name):
                    yield from _quota(_text(folder / "cpu.max").split())
        elif "cpu" in controllers.split(","):
            for base in (mounted / "cpu", mounted / controllers):
                for folder in _groups(base, name):
                    yield from _quota([_text(folder / "cpu.cfs_quota_us"), _text(folder / "cpu.cfs_period_us")])


def _groups(base: Path, name: str) -> Iterator[Path]:
    """Yield the folders of a control group and of those around it.

    In a container the name may be that of the host's tree, of which only the root is to be seen here.
    """
    path = PurePosixPath(name.strip("/"))
    if ".." in path.parts:  # a group outside of the namespace that is to be seen here
        yield base
    else:
        yield from (base / each for each in (path, *path.parents))


def _quota(numbers: list[str]) -> Iterator[int]:
    """Yield time over period, rounded up, unless there is no limit: `max`, -1, or no file that says one."""
    with contextlib.suppress(ValueError):
        time, period = map(int, numbers)
        if time > 0 and period > 0:
            yield -(-time // period)


def _text(file: Path) -> str:
    try:
        with file.open("rb") as opened:
            return opened.read(_MAX_TEXT).decode("utf-8", "surrogateescape")
    except (OSError, ValueError):  # a name with a zero byte is a ValueError
        return ""
