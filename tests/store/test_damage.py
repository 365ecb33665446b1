"""The damage matrix: every published file, damaged in every way, before the real commands."""

import hashlib
import json
import os
import shlex
import shutil
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest

from imgsearch import Filter, Index, build_index, check
from imgsearch.build import generation
from imgsearch.encoders import projection
from imgsearch.errors import DamagedIndexError
from imgsearch.search.backends.annoy import AnnoyBackend
from imgsearch.store import generations, integrity
from imgsearch.store.manifest import FileRecord, Manifest

IMAGES = 26
COPY = "gen-000002/manifest.json"
DERIVED = ("vectors.npy", "annoy.ann", "projection.npz", "text.npy")
TRUTH = ("embeddings.npy", "items.sqlite")

# Runs the program in one child after another. A child is a fork, so it starts fast and dies alone; an alarm ends what
# hangs. A few images have a projection here. What children have in common is done before.
RUNS = """
import json, os, signal, sys
import annoy, numpy
from here_decoder import HereDecoder
from imgsearch.cli import answers, build_report, loop, main, output
from imgsearch.build import generation, pipeline, update
from imgsearch.encoders import projection
from imgsearch.search import check, index
from remembered import describe_images, descriptions_remembered
generation.SMALLEST_CATALOG, projection.DIMS = 10, 8
projection.learn_projection(numpy.eye(12, 16, dtype=numpy.float32))
pipeline.DecodeWorker = HereDecoder
for line in sys.stdin:
    task = json.loads(line)
    with descriptions_remembered():
        describe_images(task["arguments"])
    child = os.fork()
    if child == 0:
        signal.alarm(30)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        for descriptor, file in ((1, task["stdout"]), (2, task["stderr"])):
            os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), descriptor)
        code = 99
        try:
            with descriptions_remembered():
                code = main(task["arguments"])
            sys.stdout.flush()
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    print(os.waitstatus_to_exitcode(status), flush=True)
"""


@dataclass(frozen=True)
class Done:
    """What a command did; a negative code is the signal that it died of."""

    code: int
    stdout: str
    stderr: str


Run = Callable[..., Done]


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Iterator[Run]:
    """Run the program, each time in a process of its own."""
    folder = tmp_path_factory.mktemp("runs")
    files = {name: str(folder / name) for name in ("stdout", "stderr")}
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    with subprocess.Popen(
        [sys.executable, "-c", RUNS], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as runner:

        def run_one(*arguments: object) -> Done:
            task = {"arguments": [str(argument) for argument in arguments], **files}
            runner.stdin.write(json.dumps(task) + "\n")
            runner.stdin.flush()
            code = int(runner.stdout.readline())
            return Done(code, *(Path(file).read_text() for file in files.values()))

        yield run_one


@dataclass(frozen=True)
class Whole:
    """An index in its second generation, one of other images, and images to ask for."""

    catalog: Path
    directory: Path
    other: Path
    images: tuple[Path, Path]

    @property
    def files(self) -> list[str]:
        """Every published file."""
        return [generations.MANIFEST, COPY, *sorted(generations.read_manifest(self.directory).files)]


def make_whole(folder: Path, backbone: str, lay_out: Callable[..., Path], photo: Path) -> Whole:
    with small_projections():
        for name, first in (("one", 0), ("other", IMAGES)):
            catalog = lay_out(folder / f"catalog-{name}", IMAGES, first=first)
            titles = folder / f"{name}.csv"
            titles.write_text(f"path,title\n{next(catalog.rglob('*.png')).relative_to(catalog)},{name}\n")
            build_index(catalog, folder / name, backbone=backbone, trees=3, metadata=titles)
            build_index(catalog, folder / name, trees=4)
    known = folder / "catalog-one" / "a" / "0003.png"
    return Whole(folder / "catalog-one", folder / "one", folder / "other", (known, photo))


@contextmanager
def small_projections() -> Iterator[None]:
    """Let a few images have a projection."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(generation, "SMALLEST_CATALOG", 10)
        patch.setattr(projection, "DIMS", 8)
        yield


# --- ways to damage a file

Damage = Callable[[Path], object]


def ways(data: bytes, other: bytes, *, node: int, flips: int) -> dict[str, Damage]:
    """All ways to damage a file that holds `data`; each is given a path where nothing is."""
    size = len(data)
    generator = np.random.default_rng(7)
    contents = {
        "of another index": other,
        "empty": b"",
        "random": generator.bytes(size),
        "zero": bytes(size),
        "its first half zero": bytes(size // 2) + data[size // 2 :],
        "its second half zero": data[: size // 2] + bytes(size - size // 2),
        "with garbage at its end": data + b"garbage",
    }
    # Annoy takes every file that ends where a node does for whole; a manifest's last byte is a line break.
    cuts = [node, 5 * node, 10 * node, 11 * node, 50 * node, size // 2 // node * node, 5] if node else []
    cuts = cuts or [2, 8, size // 4, size // 2, size - 128, size - 16, size - 1]
    contents |= {f"cut by {cut}": data[: size - cut] for cut in cuts if 0 < cut < size}
    for place in [0, size - 1, *generator.integers(0, size, flips).tolist()]:
        bit = int(generator.integers(8))
        flipped = bytes([data[place] ^ 1 << bit])
        contents[f"bit {bit} of byte {place} flipped"] = data[:place] + flipped + data[place + 1 :]
    written: dict[str, Damage] = {
        way: lambda path, damaged=damaged: path.write_bytes(damaged)
        for way, damaged in contents.items()
        if damaged != data  # one encoder is like another
    }
    return written | {
        "deleted": lambda _: None,
        "a FIFO": os.mkfifo,
        "a folder": Path.mkdir,
        "a folder with a file": lambda path: (path.mkdir(), (path / path.name).write_bytes(data)),
        "a link to /dev/zero": lambda path: path.symlink_to("/dev/zero"),
        "a link to nothing": lambda path: path.symlink_to("nothing"),
    }


def tree(directory: Path) -> dict[str, tuple[object, ...]]:
    """All there is to know of what is in a directory, without following a link or opening a FIFO."""
    found = {}
    for path in [directory, *directory.rglob("*")]:
        status = path.lstat()
        content = hashlib.sha256(path.read_bytes()).hexdigest() if stat.S_ISREG(status.st_mode) else ""
        link = path.readlink() if path.is_symlink() else ""
        facts = (status.st_mode, status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)
        found[str(path.relative_to(directory))] = (*facts, content, link)
    return found


# --- what comes of it

QUESTIONS = {"annoy": [], "exact": ["--exact"], "where": ["--where", "category = 'a'"]}


def ask(run: Run, index: Path, images: tuple[Path, ...]) -> dict[str, tuple[Done, list[list[tuple[str, float]]]]]:
    """Query in each way: what the command did, and paths and scores for each image."""
    answers = {}
    for question, options in QUESTIONS.items():
        done = run("query", *images, "--index", index, "--format", "jsonl", *options)
        lines = [json.loads(line) for line in done.stdout.splitlines()]
        hits = [[(hit["path"], hit["score"]) for hit in line.get("hits", [])] for line in lines]
        answers[question] = (done, hits)
    return answers


@dataclass
class Outcome:
    """What came of one damage."""

    queries: dict[str, str] = field(default_factory=dict)
    checks: dict[str, str] = field(default_factory=dict)
    changed_by_check: list[str] = field(default_factory=list)
    build: Done | None = None
    after_build: list[str] = field(default_factory=list)


def in_a_word(done: Done, hits: object, expected: object) -> str:
    if done.code:
        return f"{done.code} {done.stderr}"
    return "as before" if hits == expected else "other answers"


def of_check(run: Run, index: Path, *options: str) -> tuple[int, list[str], str]:
    done = run("check", "--index", index, "--format", "json", *options)
    names = [finding["file"] for finding in json.loads(done.stdout)] if done.stdout else []
    return done.code, names, done.stderr


def try_one(run: Run, whole: Whole, index: Path, name: str, expected: object, *, build: bool) -> Outcome:
    """See what the commands make of an index of which one file is damaged."""
    outcome = Outcome()
    for question, (done, hits) in ask(run, index, whole.images).items():
        outcome.queries[question] = in_a_word(done, hits, expected[question])
    before = tree(index)
    for depth, options in (("check", []), ("check --deep", ["--deep"])):
        code, names, stderr = of_check(run, index, *options)
        # Of two manifests that differ nobody can say which is the damaged one.
        named = name in names or (name == generations.MANIFEST and COPY in names)
        outcome.checks[depth] = "named" if (code, named, stderr) == (6, True, "") else f"{code} {names} {stderr}"
    after = tree(index)
    outcome.changed_by_check = [path for path in before | after if before.get(path) != after.get(path)]
    if build:
        outcome.build = run("build-index", whole.catalog, "--index", index)
        if outcome.build.code == 0:
            answers = ask(run, index, whole.images)
            outcome.after_build = [in_a_word(done, hits, expected[way]) for way, (done, hits) in answers.items()]
            outcome.after_build.append(str(of_check(run, index)))
    return outcome


@dataclass(frozen=True)
class Extent:
    """How much of the matrix is tried: ways a file, of them flipped bits, and builds; all if None."""

    backbone: str = "handcrafted"
    ways: int | None = None
    flips: int = 12
    builds: int | None = None


EXTENTS = [
    pytest.param(Extent(ways=3, flips=2, builds=1), id="sample"),
    pytest.param(Extent(), id="all", marks=pytest.mark.slow),
    pytest.param(Extent("efficientnet-lite0", ways=8, flips=6, builds=3), id="network", marks=pytest.mark.slow),
]

Outcomes = dict[tuple[str, str], Outcome]


@pytest.fixture(scope="module", params=EXTENTS)
def outcomes(request, run, tmp_path_factory, lay_out, photo) -> Outcomes:
    """What came of each (file, way)."""
    extent = request.param
    folder = tmp_path_factory.mktemp("matrix")
    whole = make_whole(folder, extent.backbone, lay_out, photo)
    index = folder / "index"
    shutil.copytree(whole.directory, index)
    expected = {}
    for question, (done, hits) in ask(run, index, whole.images).items():
        assert (done.code, done.stderr, [len(best) for best in hits]) == (0, "", [5, 5])
        expected[question] = hits
    node = 12 + 4 * generations.read_manifest(index).dims
    generator = np.random.default_rng(1)
    found: Outcomes = {}
    for name in whole.files:
        data, other = ((directory / name).read_bytes() for directory in (whole.directory, whole.other))
        all_ways = ways(
            data,
            other,
            node=node if name.endswith(AnnoyBackend.file) else 0,
            flips=0 if name in (generations.MANIFEST, COPY) else extent.flips,
        )
        first, *rest = all_ways
        chosen = [first, *generator.permutation(rest).tolist()][: extent.ways]
        built = chosen if extent.builds is None else chosen[-extent.builds :]
        for way in chosen:
            (index / name).unlink()
            all_ways[way](index / name)
            found[name, way] = try_one(run, whole, index, name, expected, build=way in built)
            shutil.rmtree(index)
            shutil.copytree(whole.directory, index)
    return found


KINDS = (generations.MANIFEST, "its copy", *TRUTH, *DERIVED, "encoder")
EACH_KIND = pytest.mark.parametrize("kind", KINDS)


def kind_of(name: str) -> str:
    if name.startswith("encoders/"):
        return "encoder"
    return "its copy" if name == COPY else name.rpartition("/")[2]


def test_every_published_file_is_damaged_in_many_ways(outcomes):
    assert {kind_of(name) for name, _ in outcomes} == set(KINDS)
    assert len({way for _, way in outcomes}) > 10


def is_refusal(word: str, name: str) -> bool:
    """Say whether a query ended with one error that names the file."""
    if not word.startswith('6 {"error": {"code": 6, '):
        return False
    error = json.loads(word.removeprefix("6 "))["error"]
    # Of a manifest that is another's it is the first file that does not fit that is named.
    return name in error["message"] or name == generations.MANIFEST


@EACH_KIND
def test_a_query_of_a_damaged_index_is_refused_or_answered_as_before(outcomes, kind):
    wrong = {}
    for (name, way), outcome in outcomes.items():
        for question, word in outcome.queries.items():
            if kind_of(name) == kind and word != "as before" and not is_refusal(word, name):
                wrong[name, way, question] = word

    assert wrong == {}


# The first indexes of this format have no copies of their manifests.
NO_DAMAGE = {(COPY, "deleted"), (COPY, "a link to nothing")}


@EACH_KIND
def test_check_names_the_damaged_file(outcomes, kind):
    wrong = {
        (name, way): outcome.checks
        for (name, way), outcome in outcomes.items()
        if kind_of(name) == kind and set(outcome.checks.values()) != {"named"} and (name, way) not in NO_DAMAGE
    }

    assert wrong == {}


def test_check_changes_nothing(outcomes):
    assert {case: outcome.changed_by_check for case, outcome in outcomes.items() if outcome.changed_by_check} == {}


@EACH_KIND
def test_the_next_build_makes_anew_what_is_derived_and_says_of_lost_truth_how_to_rebuild(outcomes, kind):
    wrong = {}
    for (name, way), outcome in outcomes.items():
        done = outcome.build
        if done is None or kind_of(name) != kind:
            continue
        mended = done.code == 0 and outcome.after_build == ["as before"] * len(QUESTIONS) + ["(0, [], '')"]
        hint = done.stderr.partition("\n  hint: ")[2]
        advised = done.code == 6 and ("move the directory away" in hint or hint.startswith("restore it: cp "))
        if not (advised if kind in (*TRUTH, generations.MANIFEST) else mended):
            wrong[name, way] = (done, outcome.after_build)

    assert wrong == {}


# --- the manifest


@pytest.mark.parametrize("step", [41, pytest.param(1, marks=pytest.mark.slow)])
def test_no_flipped_bit_of_the_manifest_gives_other_answers_or_is_missed_by_check(copied, photo, answers, step):
    directory = copied("exact")
    file = directory / generations.MANIFEST
    data = file.read_bytes()
    expected = answers(directory, photo)
    wrong = []
    for place in range(0, 8 * len(data), step):
        byte, bit = divmod(place, 8)
        file.write_bytes(data[:byte] + bytes([data[byte] ^ 1 << bit]) + data[byte + 1 :])
        try:
            answer = answers(directory, photo)
        except DamagedIndexError:
            answer = expected
        if answer != expected or not check(directory):
            wrong.append((byte, bit))

    assert wrong == []


def lose(file: Path) -> None:
    file.unlink()


def spoil(file: Path) -> None:
    file.write_text("{}")


@pytest.mark.parametrize(
    ("damage", "killed"),
    [
        (lose, False),
        (lose, True),
        (spoil, False),
        (spoil, True),
    ],
    ids=["lost", "lost after a build was killed", "damaged", "damaged after a build was killed"],
)
def test_a_manifest_is_brought_back_by_what_the_message_says(imgsearch, copied, built, photo, answers, damage, killed):
    directory = copied("exact")
    build_index(built / "catalog", directory, seed=1)
    before = answers(directory, photo)
    damage(directory / generations.MANIFEST)
    if killed:
        (directory / "gen-000003").mkdir()
        (directory / "gen-000003" / generations.EMBEDDINGS).write_bytes(b"half")

    done = imgsearch("query", photo, "--index", directory)
    _, hint = done.stderr.splitlines()
    assert (done.returncode, hint[:23]) == (6, "  hint: restore it: cp ")
    subprocess.run(shlex.split(hint)[3:], check=True)

    assert answers(directory, photo) == before
    assert check(directory, deep=True) == []


# --- what an index is made of, as a whole


@pytest.fixture(scope="module")
def projected(tmp_path_factory, lay_out) -> Path:
    """A small index that has every kind of file. Not to be changed: copy it."""
    folder = tmp_path_factory.mktemp("projected")
    with small_projections():
        build_index(lay_out(folder / "catalog", 12), folder / "index", backbone="handcrafted", trees=2)
    return folder / "index"


def test_a_generation_folder_that_is_a_file_is_damage(copied):
    directory = copied("exact")
    shutil.rmtree(directory / "gen-000001")
    (directory / "gen-000001").write_text("")

    with pytest.raises(DamagedIndexError):
        Index.open(directory)
    assert {finding.file for finding in check(directory)} > {f"gen-000001/{name}" for name in TRUTH}


def test_a_manifest_that_names_a_file_no_disk_can_hold_is_damage(copied):
    directory = copied("exact")
    rewrite(directory, lambda manifest: replace(manifest, files={**manifest.files, "x" * 300: FileRecord(1, "")}))

    with pytest.raises(DamagedIndexError):
        Index.open(directory)
    assert "x" * 300 in [finding.file for finding in check(directory)]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("generation", 0), ("generation", 3), ("generation", 10**300)),
        ("count", 0),
    ],
    ids=["no generation", "another generation", "a generation too large for a name", "no items"],
)
def test_a_manifest_that_does_not_fit_its_files_is_damage(copied, photo, key, value):
    directory = copied("exact")
    rewrite(directory, lambda manifest: replace(manifest, **{key: value}))

    with pytest.raises(DamagedIndexError), Index.open(directory) as index:
        index.search(photo)
    for deep in (False, True):
        assert check(directory, deep=deep)


@pytest.mark.parametrize("name", [generations.VECTORS, generations.ITEMS, generations.PROJECTION, AnnoyBackend.file])
def test_a_query_of_a_damaged_index_says_what_to_do(projected, photo, tmp_path, name):
    directory = Path(shutil.copytree(projected, tmp_path / "index"))
    file = directory / "gen-000001" / name
    data = file.read_bytes()
    for damage in (
        lambda: None,
        lambda: file.write_bytes(bytes(64) + data[64:]),
        lambda: file.write_bytes(data[:-64] + bytes(byte ^ 0xFF for byte in data[-64:])),
        file.touch,
        file.mkdir,  # last, as it is not unlinked
    ):
        file.unlink()
        damage()
        with pytest.raises(DamagedIndexError, match=f"{name} ") as refused, Index.open(directory) as index:
            index.search(photo)
        assert refused.value.hint == integrity.repair_hint(name)
        if not file.exists():
            file.touch()


# --- files that are what was published, and yet wrong: a fault of ours, or of the memory they were written from


def rewrite(directory: Path, change: Callable[[Manifest], Manifest]) -> None:
    manifest = change(generations.read_manifest(directory))
    (directory / generations.MANIFEST).write_text(json.dumps(manifest.to_json()))


def agree(directory: Path) -> None:
    """Let the manifest say of every file what it is by now."""
    rewrite(
        directory,
        lambda manifest: replace(
            manifest, files={name: integrity.file_record(directory / name) for name in manifest.files}
        ),
    )


def test_items_with_rows_the_arrays_do_not_have_are_damage(copied, photo, built):
    directory = copied("exact")
    with closing(sqlite3.connect(directory / "gen-000001" / generations.ITEMS)) as connection, connection:
        connection.execute("UPDATE items SET row = -100 WHERE row = 0")
        connection.execute("UPDATE items SET row = 100 WHERE row = 1")
    agree(directory)

    with Index.open(directory) as index:
        with pytest.raises(DamagedIndexError):
            index.search(photo, filter=Filter("1"))
        with pytest.raises(DamagedIndexError):
            index.search(photo, k=40)
        with pytest.raises(DamagedIndexError):
            index.search(built / "catalog" / "a" / "0000.png")


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_vector_that_is_not_finite_is_damage(copied, photo, value):
    directory = copied("exact")
    file = directory / "gen-000001" / generations.VECTORS
    vectors = np.load(file)
    vectors[:] = value
    np.save(file, vectors)
    agree(directory)

    with Index.open(directory) as index, pytest.raises(DamagedIndexError, match=r"vectors\.npy"):
        index.search(photo)
