"""How many processors there are to use, of a kernel's files made for the purpose."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from imgsearch.processors import limit_libraries, processor_count


@pytest.fixture(autouse=True)
def sixty_four(monkeypatch):
    """A large host."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)


def kernel(root: Path, cgroup: str, files: dict[str, str]) -> Path:
    """Write what the kernel would say."""
    for name, text in {"proc/self/cgroup": cgroup, **{f"sys/fs/cgroup/{name}": files[name] for name in files}}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def v1(group: str, quota: int, period: int = 100_000, mounted: str = "cpu") -> dict[str, str]:
    return {
        f"{mounted}{group}/cpu.cfs_quota_us": f"{quota}\n",
        f"{mounted}{group}/cpu.cfs_period_us": f"{period}\n",
    }


V2, V1, HYBRID = "0::/a/b\n", "12:memory:/a\n4:cpu,cpuacct:/a/b\n", "4:cpu,cpuacct:/\n0::/a/b\n"


@pytest.mark.parametrize(
    ("cgroup", "files", "count"),
    [
        # version 2
        (V2, {"a/b/cpu.max": "200000 100000\n"}, 2),
        (V2, {"a/b/cpu.max": "150000 100000\n"}, 2),
        (V2, {"a/b/cpu.max": "5000 100000\n"}, 1),
        (V2, {"a/b/cpu.max": "max 100000\n"}, 64),
        (V2, {"a/b/cpu.max": "9900000 100000\n"}, 64),
        (V2, {"a/b/cpu.max": "max 100000\n", "a/cpu.max": "300000 100000\n"}, 3),
        (V2, {"a/b/cpu.max": "800000 100000\n", "a/cpu.max": "300000 100000\n", "cpu.max": "400000 100000"}, 3),
        (V2, {"cpu.max": "400000 100000\n"}, 4),  # of a container, whose name is that of the host's tree
        ("0::/\n", {"cpu.max": "400000 100000\n"}, 4),
        ("0::/../../other\n", {"cpu.max": "400000 100000\n", "other/cpu.max": "100000 100000"}, 4),
        (V2, {"a/c/cpu.max": "100000 100000\n"}, 64),  # a group that we are not in
        # version 1
        (V1, v1("/a/b", 200_000, mounted="cpu,cpuacct"), 2),
        (V1, v1("/a/b", 200_000), 2),
        (V1, v1("/a", 250_000) | v1("/a/b", -1), 3),
        (V1, v1("", 200_000), 2),
        (V1, v1("/a/b", -1), 64),
        (V1, v1("/a/b", 5_000, 10_000), 1),
        ("4:cpuset:/a\n3:cpuacct:/a\n", v1("/a", 200_000), 64),
        ("1:cpu:/a:b\n", v1("/a:b", 200_000), 2),
        # both
        (HYBRID, v1("", 500_000) | {"unified/a/cpu.max": "300000 100000"}, 3),
        # none
        ("", {}, 64),
    ],
)
def test_quotas_of_the_group_and_of_those_around_it_count(tmp_path, cgroup, files, count):
    assert processor_count(kernel(tmp_path, cgroup, files)) == count


@pytest.mark.parametrize(
    ("asked", "count"),
    [
        *(("2", 2), ("8", 4), (" 3 ", 3), ("2,1", 2)),
        *((text, 4) for text in ("", "0", "-1", "all", "1.5", "\u0663", "9" * 5000, ",2", "\udcff")),
    ],
)
def test_the_user_may_ask_for_fewer(tmp_path, monkeypatch, asked, count):
    root = kernel(tmp_path, V2, {"a/cpu.max": "400000 100000"})
    monkeypatch.setenv("OMP_NUM_THREADS", asked)

    assert processor_count(root) == count


def test_where_nobody_may_ask_all_processors_count(tmp_path, monkeypatch):
    def refuse(_):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "sched_getaffinity", refuse)
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert processor_count(tmp_path) == 6
    assert processor_count(kernel(tmp_path, V2, {"a/cpu.max": "400000 100000"})) == 4

    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert processor_count(tmp_path) == 1


HOSTILE = st.text() | st.sampled_from(
    ["max", "max 100000", "-1 -1", "0 0", "1 0", "100000", "1 2 3", "9" * 5000 + " 1", "1e5 1e5", "nan inf", "\0" * 99]
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(cgroup=HOSTILE, limit=HOSTILE, quota=HOSTILE, period=HOSTILE)
def test_whatever_the_files_say_there_is_a_number_of_processors(tmp_path, cgroup, limit, quota, period):
    files = {"cpu.max": limit, "cpu/cpu.cfs_quota_us": quota, "cpu/cpu.cfs_period_us": period}
    root = kernel(tmp_path, f"{cgroup}\n0::/x\n1:cpu:/x\n", files)

    assert 1 <= processor_count(root) <= 64


def test_what_cannot_be_read_is_no_limit(tmp_path):
    kernel(tmp_path, f"0::/{'deep/' * 1000}\n1:cpu:/\0\n0::/folder\n", {"folder/cpu.max/file": ""})

    assert processor_count(tmp_path) == 64


def test_libraries_are_told_unless_the_user_has_told_them(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    monkeypatch.setenv("TF_NUM_INTRAOP_THREADS", "5")
    monkeypatch.delenv("TF_NUM_INTEROP_THREADS", raising=False)

    limit_libraries()

    found = [os.environ[name] for name in ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS")]
    assert found == ["2", "5", "2"]
    monkeypatch.delenv("TF_NUM_INTEROP_THREADS")


def test_a_program_of_one_thread_has_one_decoder_one_stream_and_no_threads_of_libraries(tmp_path, lay_out):
    """All in a process of its own: libraries start their threads when they are imported."""
    lay_out(tmp_path / "catalog", 40)
    script = """
import os, sys
os.sched_getaffinity = lambda _: set(range(64))
from imgsearch.cli import run
from imgsearch.images.workers import process
started = []
start = process.WorkerProcess._start
process.WorkerProcess._start = lambda self: started.append(self) or start(self)
sys.argv = ["imgsearch", "build-index", "catalog", "--index", "idx", "--backbone", "handcrafted", "--backend", "exact"]
try:
    run()
finally:
    import cv2
    print(len(started), cv2.getNumThreads(), os.environ["OMP_NUM_THREADS"], file=sys.stderr)
"""
    environment = {name: value for name, value in os.environ.items() if name != "OPENCV_FOR_THREADS_NUM"}
    environment["OMP_NUM_THREADS"] = "1"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )

    assert (done.returncode, done.stderr) == (0, "1 1 1\n")
