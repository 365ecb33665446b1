"""The program where cron, systemd and odd shells leave it: without a home, a locale, or the standard streams."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from imgsearch import check

# Without it, threads of OpenBLAS wait in a loop, beside other tests. `run_bare` alone has no environment at all.
ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1"}
FAST = ("--backbone", "handcrafted", "--backend", "exact")

# Stopped by permissions as others are: root gives up the capabilities that let it pass them by.
NO_PRIVILEGES = ("setpriv", "--bounding-set=-dac_override,-dac_read_search") if os.geteuid() == 0 else ()

ENVIRONMENTS = [
    pytest.param({}, id="nothing", marks=pytest.mark.slow),  # as in test_cron.py
    pytest.param({"LC_ALL": "POSIX"}, id="POSIX", marks=pytest.mark.slow),
    pytest.param({"PYTHONIOENCODING": "ascii:strict", "LANG": "C"}, id="ascii"),
    pytest.param({"LANG": "C"}, id="C", marks=pytest.mark.slow),
    pytest.param(
        {"LC_ALL": "xx_YY.UTF-8", "TERM": "dumb", "COLUMNS": "1"}, id="no such locale", marks=pytest.mark.slow
    ),
]


def run_bare(cwd, *arguments, shell: str = "", prefix=(), **options: object) -> subprocess.CompletedProcess[bytes]:
    """Run the program without an environment; `shell` is how its streams are redirected."""
    # -B: nothing is written beside the sources.
    command = [*prefix, sys.executable, "-B", "-m", "imgsearch", *(os.fspath(one) for one in arguments)]
    settings = {"capture_output": True, "timeout": 120, "env": {}, **options}
    return subprocess.run(["/bin/sh", "-c", f'exec "$@" {shell}', "sh", *command], cwd=cwd, check=False, **settings)


@pytest.fixture
def bare(tmp_path):
    """Run the program with no environment but a cache, in `tmp_path`."""

    def run(*arguments, **options: object) -> subprocess.CompletedProcess[bytes]:
        cache = {"IMGSEARCH_CACHE": str(tmp_path / "cache"), "PATH": "/usr/bin:/bin", **ONE_THREAD}
        return run_bare(tmp_path, *arguments, **{"env": cache, **options})

    return run


@pytest.fixture(scope="module")
def named(drawn, tmp_path_factory) -> Path:
    """Images with names in UTF-8 and not, and two files that are none."""
    folder = tmp_path_factory.mktemp("named")
    names = ("plain.png", "caf\u00e9.png", "\u6f22\u5b57.png", "latin-\udce9.png", "sub/\u00fc/x.png")
    for name, image in zip(names, sorted(drawn.rglob("*.png")), strict=False):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(image.read_bytes())
    (folder / "\u00e9mpty.png").touch()
    (folder / "t\u00e9xt-\udcff.jpg").write_text("no image")
    return folder


def conversation(named: Path, folder: Path, environment: dict[str, str]) -> list[tuple[int, bytes]]:
    """Build, ask, look: exit codes and what was printed, without figures that change."""
    environment = {"IMGSEARCH_CACHE": str(folder / "cache"), **ONE_THREAD, **environment}
    calls = (
        ("build-index", named, "-q", *FAST),
        ("query", named / "caf\u00e9.png", named / "latin-\udce9.png", "--format", "csv"),
        ("query", named / "latin-\udce9.png", "--format", "paths", "-0"),
        ("query", named / "caf\u00e9.png", "--where", "path = 'caf\u00e9.png'"),
        ("info", "--rejected"),
        ("check", "--deep"),
    )
    texts = json.dumps([[os.fspath(argument) for argument in call] for call in calls])
    command = [sys.executable, "-B", "-c", CONVERSATION, texts]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, timeout=300, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    *answers, codes = done.stdout.split(END.encode())
    return [
        (code, re.sub(rb"\d+ ms|\S+\+00:00", b"", answer))
        for code, answer in zip(json.loads(codes), answers, strict=True)
    ]


END = "-- end of an answer --"
# What `run` does before and after `main`, with several calls of it in one process.
CONVERSATION = f"""
import json, sys
from imgsearch import cli
cli._insist_on_utf8()
cli._open_standard_streams()
codes = []
for call in json.loads(sys.argv[1]):
    codes.append(cli.main(call))
    sys.stdout.write({END!r})
    sys.stdout.flush()
print(json.dumps(codes))
"""


@pytest.fixture(scope="module")
def usual_conversation(named, tmp_path_factory) -> list[tuple[int, bytes]]:
    return conversation(named, tmp_path_factory.mktemp("usual"), {"LC_ALL": "C.UTF-8"})


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_the_answers_are_the_same_to_the_byte_in_every_environment(usual_conversation, named, tmp_path, environment):
    found = conversation(named, tmp_path, environment)

    assert found == usual_conversation
    assert [code for code, _ in found] == [3, 0, 0, 0, 0, 0]
    assert set(found[2][1].split(b"\0")) == {os.fsencode(path.relative_to(named)) for path in named.rglob("*.png")} - {
        "\u00e9mpty.png".encode()
    } | {b""}


@pytest.mark.slow
def test_the_answers_are_the_same_to_the_byte_under_a_locale_that_is_not_utf_8(usual_conversation, named, tmp_path):
    localedef = shutil.which("localedef")
    command = [localedef, "-i", "de_DE", "-f", "ISO-8859-1", tmp_path / "de_DE.ISO-8859-1"]
    if not localedef or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("no such locale can be made here")

    latin = {"LC_ALL": "de_DE.ISO-8859-1", "LOCPATH": str(tmp_path)}

    assert conversation(named, tmp_path, latin) == usual_conversation


NO_HOMES = ("/dev/null", "relative")


@pytest.fixture
def read_only_home(tmp_path):
    home = tmp_path / "home"
    home.mkdir(mode=0o500)
    yield home
    home.chmod(0o700)


@pytest.mark.slow
@pytest.mark.parametrize("home", ["read-only", *NO_HOMES])
def test_without_a_home_to_write_to_a_build_leaves_nothing_behind(bare, drawn, tmp_path, read_only_home, home):
    (tmp_path / "tmp").mkdir()
    home = str(read_only_home) if home == "read-only" else home
    environment = {"PATH": "/usr/bin:/bin", "TMPDIR": str(tmp_path / "tmp"), "HOME": home}

    done = bare("build-index", drawn, "--index", "idx", *FAST, env=environment, prefix=NO_PRIVILEGES)
    asked = bare("query", drawn / "cups/cups-00.png", "--index", "idx", env=environment, prefix=NO_PRIVILEGES)

    assert (done.returncode, done.stderr) == (0, b"")
    assert (asked.returncode, asked.stderr) == (0, b"")
    assert list((tmp_path / "tmp").iterdir()) == list(read_only_home.iterdir()) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["home", "idx", "tmp"]


@pytest.fixture(scope="module")
def homeless(drawn, tmp_path_factory):
    """Two builds with the default encoder, without home or cache; and the folder they had for passing things."""
    folder = tmp_path_factory.mktemp("homeless")
    for name in ("tmp", "few"):
        (folder / name).mkdir()
    for name in ("cups-00", "cups-01"):
        shutil.copy(drawn / "cups" / f"{name}.png", folder / "few")
    environment = {"HOME": "/dev/null", "TMPDIR": str(folder / "tmp")}
    builds = [run_bare(folder, "build-index", "few", "--index", "idx", env=environment) for _ in "12"]
    return builds, folder / "tmp"


@pytest.mark.slow
def test_a_user_without_home_or_cache_builds_with_the_default_encoder(homeless):
    (first, again), passing = homeless

    assert (first.returncode, first.stderr) == (0, b"")
    assert b"2 embedded" in first.stdout
    assert (again.returncode, again.stderr) == (0, b"")
    assert b"nothing changed" in again.stdout
    assert list(passing.iterdir()) == []


def test_a_catalog_that_may_only_be_read_is_indexed_elsewhere_and_left_as_it_was(bare, catalog):
    everything = [catalog, *catalog.rglob("*")]
    for path in everything:
        path.chmod(0o555 if path.is_dir() else 0o444)
    before = {path: path.stat().st_mtime_ns for path in everything}

    done = bare("build-index", catalog, "--index", "idx", *FAST, prefix=NO_PRIVILEGES)
    inside = bare("build-index", catalog, "--index", catalog / "idx", *FAST, prefix=NO_PRIVILEGES)

    after = {path: path.stat().st_mtime_ns for path in [catalog, *catalog.rglob("*")]}
    for path in everything:
        path.chmod(0o755)
    assert (done.returncode, done.stderr) == (0, b"")
    assert (inside.returncode, b"cannot write" in inside.stderr) == (11, True)
    assert after == before


def test_who_may_only_read_an_index_may_ask_and_check_it_but_not_build(bare, small, drawn, tmp_path):
    index = Path(shutil.copytree(small, tmp_path / "idx"))
    everything = [index, *index.rglob("*")]
    for path in everything:
        path.chmod(0o555 if path.is_dir() else 0o444)

    codes = [
        bare(*call, "--index", index, prefix=NO_PRIVILEGES).returncode
        for call in (
            ("query", drawn / "cups/cups-00.png"),
            ("info", "--rejected"),
            ("check", "--deep"),
            ("build-index", drawn),
            ("rollback",),
        )
    ]

    for path in everything:
        path.chmod(0o755)
    assert codes == [0, 0, 0, 11, 11]
    assert sorted(index.rglob("*")) == sorted(everything[1:])


# What the tests of standard streams ask for; idx is an index of two generations.
CALLS = {
    "build": ("build-index", "few", "--index", "new", "--backbone", "handcrafted", "--trees", "3"),
    "query": ("query", "few/0.png", "--index", "idx"),
    "info": ("info", "--index", "idx"),
    "check": ("check", "--index", "idx"),
    "models": ("models",),
    "rollback": ("rollback", "--index", "idx"),
}
WRITERS = ("build", "rollback")
EACH = [pytest.param(name, marks=[] if name in ("build", "query") else [pytest.mark.slow]) for name in CALLS]
# Where `build` has nothing of its own that another test does not show.
EACH_READER = [pytest.param(name, marks=[] if name == "query" else [pytest.mark.slow]) for name in CALLS]


@pytest.fixture(scope="module")
def two_generations(small, drawn, tmp_path_factory) -> Path:
    """A folder with an index of two generations and four images."""
    folder = tmp_path_factory.mktemp("two")
    shutil.copytree(small, folder / "idx")
    (folder / "few").mkdir()
    for number, image in enumerate(sorted(drawn.rglob("*.png"))[:4]):
        shutil.copy(image, folder / "few" / f"{number}.png")
    assert run_bare(folder, "build-index", drawn, "--index", "idx", "--trees", "4").returncode == 0
    return folder


@pytest.fixture
def call(bare, two_generations, tmp_path):
    """Run one of `CALLS` with its streams redirected; look afterwards whether no index has come to harm."""
    shutil.copytree(two_generations, tmp_path, dirs_exist_ok=True)

    def run(name: str, shell: str, *more: str, **options: object) -> subprocess.CompletedProcess[bytes]:
        done = bare(*CALLS[name], *more, shell=shell, **options)
        if name in WRITERS:
            assert check(tmp_path / ("new" if name == "build" else "idx")) == []
        return done

    return run


@pytest.mark.parametrize("name", EACH)
def test_closed_standard_input_is_no_obstacle(call, name):
    done = call(name, "<&-")

    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize("name", EACH_READER)
def test_an_answer_that_a_closed_standard_output_loses_is_no_success(call, name):
    done = call(name, ">&-")

    assert done.returncode == 11
    assert done.stderr == b"imgsearch: cannot write to standard output: it is closed\n"


@pytest.mark.parametrize("name", EACH_READER)
def test_closed_standard_error_is_no_obstacle(call, name):
    done = call(name, "2>&-")

    assert done.returncode == 0
    assert (done.stdout == b"") == (name == "check")


@pytest.mark.parametrize("name", EACH_READER)
def test_with_all_streams_closed_an_answer_is_lost_and_the_index_unharmed(call, name):
    assert call(name, "<&- >&- 2>&-").returncode == 11


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize(
    "shell",
    ["<&- >&- 2>&-", pytest.param(">&-", marks=pytest.mark.slow), pytest.param(">/dev/full", marks=pytest.mark.slow)],
)
def test_who_asks_for_no_answer_needs_no_standard_output(call, name, shell):
    assert call(name, shell, "-q").returncode == 0


@pytest.mark.parametrize("name", [name for name in EACH_READER if name.values != ("check",)])
def test_an_answer_that_a_full_disk_loses_is_no_success(call, name):
    done = call(name, ">/dev/full")

    assert done.returncode == 11
    assert done.stderr == b"imgsearch: cannot write to standard output: No space left on device\n"


def test_findings_that_are_lost_are_not_taken_for_silence(call, tmp_path):
    for forest in (tmp_path / "idx").rglob("annoy.ann"):
        forest.write_bytes(b"")

    assert [call("check", shell).returncode for shell in ("", ">&-", ">/dev/full")] == [6, 11, 11]


@pytest.mark.parametrize("shell", ["2>/dev/full", pytest.param("2>&-", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("arguments", "code"),
    [(["query", "missing.png", "--index", "idx"], 4), (["info"], 5), (["nonsense"], 2)],
)
def test_an_error_that_cannot_be_said_keeps_its_exit_code(two_generations, shell, arguments, code):
    assert run_bare(two_generations, *arguments, shell=shell).returncode == code


@pytest.mark.parametrize("name", EACH_READER)
def test_a_reader_that_has_gone_is_no_error(call, name):
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = call(name, "", capture_output=False, stdout=writing, stderr=subprocess.PIPE)
    finally:
        os.close(writing)

    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize("how", ["jsonl", pytest.param("table", marks=pytest.mark.slow)])
def test_a_reader_that_has_seen_enough_ends_a_long_query_quietly(two_generations, tmp_path, how):
    ask = [sys.executable, "-B", "-m", "imgsearch", "query", *["few/0.png"] * 2000, "--format", how, "--index", "idx"]

    done = subprocess.run(
        ["/bin/sh", "-c", f'{{ "$@"; echo $? >"{tmp_path}/code"; }} | head -n 1', "sh", *ask],
        cwd=two_generations,
        env={},
        capture_output=True,
        check=False,
    )

    assert (done.stdout.count(b"\n"), done.stderr, (tmp_path / "code").read_text()) == (1, b"", "0\n")
