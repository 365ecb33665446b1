import hashlib
import json
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from imgsearch import Finding, Index, build_index, check, embed, rollback
from imgsearch.build import generation
from imgsearch.encoders import projection, runtime
from imgsearch.errors import NoIndexError
from imgsearch.search.backends.annoy import AnnoyBackend
from imgsearch.store import generations, integrity
from imgsearch.store.generations import read_manifest
from imgsearch.store.locking import writer_lock
from imgsearch.store.manifest import FileRecord
from imgsearch.store.search_settings import BackendSettings


def build_annoy(folder, vectors, trees, seed):
    AnnoyBackend().build(folder, vectors, BackendSettings("annoy", trees, seed, 2000))


GOLDEN = Path(__file__).parents[1] / "store" / "golden" / "v1"


def tree(directory: Path) -> dict[str, tuple[int, ...]]:
    return {
        str(path.relative_to(directory)): (
            status.st_mtime_ns,
            status.st_ctime_ns,
            int(hashlib.sha256(path.read_bytes()).hexdigest(), 16) if path.is_file() else 0,
        )
        for path in directory.rglob("*")
        for status in [path.lstat()]
    }


def agree(directory: Path) -> None:
    """Let the manifest say of every file what it is now: what a fault of ours would have published."""
    manifest = read_manifest(directory)
    files = {name: integrity.file_record(directory / name) for name in manifest.files}
    text = json.dumps(replace(manifest, files=files).to_json())
    for file in (directory / generations.MANIFEST, directory / manifest.folder / generations.MANIFEST):
        file.write_text(text)


def files_of(findings: list[Finding]) -> list[str]:
    return [finding.file for finding in findings]


# --- whole indexes


def annoy(folder, catalog):
    build_index(catalog, folder, backbone="handcrafted", trees=3)


def exact(folder, catalog):
    build_index(catalog, folder, backbone="handcrafted", backend="exact")


def embeddings_only(folder, catalog):
    embed(catalog, folder, backbone="handcrafted")


def with_damaged_images(folder, catalog):
    (catalog / "empty.jpg").touch()
    build_index(catalog, folder, backbone="handcrafted", backend="exact")


def empty(folder, catalog):
    for file in catalog.rglob("*.png"):
        file.unlink()
    build_index(catalog, folder, backbone="handcrafted", force=True)


def emptied(folder, catalog):
    annoy(folder, catalog)
    empty(folder, catalog)


def rolled_back(folder, catalog):
    annoy(folder, catalog)
    (catalog / "a" / "0000.png").unlink()
    build_index(catalog, folder)
    rollback(folder)


def interrupted(folder, catalog):
    """What a build leaves that was killed: a work file, a half generation, half an encoder."""
    annoy(folder, catalog)
    (folder / generations.PARTIAL).write_bytes(b"SQLite format 3\0 and no more")
    (folder / f"{generations.PARTIAL}-journal").write_bytes(b"\0" * 512)
    (folder / f"{generations.MANIFEST}.tmp").write_text('{"format": "imgs')
    (folder / "gen-000002").mkdir()
    (folder / "gen-000002" / generations.EMBEDDINGS).write_bytes(b"\x93NUMPY")
    (folder / "encoders" / ("e" * 16 + ".tmp")).mkdir()


def golden_annoy(folder, _):
    shutil.copytree(GOLDEN / "annoy", folder)


def golden_exact(folder, _):
    shutil.copytree(GOLDEN / "exact", folder)


MAKERS = [
    *(annoy, exact, embeddings_only, with_damaged_images, empty, emptied),
    *(rolled_back, interrupted, golden_annoy, golden_exact),
]


@pytest.mark.parametrize("make", MAKERS)
def test_check_says_nothing_of_a_whole_index_and_changes_nothing(imgsearch, tmp_path, small, make):
    make(tmp_path / "index", small)
    before = tree(tmp_path / "index")

    for options in ([], ["--deep"]):
        done = imgsearch("check", "--index", tmp_path / "index", *options)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")

    assert tree(tmp_path / "index") == before


def test_check_says_nothing_of_an_index_with_a_projection(tmp_path, small, monkeypatch):
    catalog = small
    monkeypatch.setattr(generation, "SMALLEST_CATALOG", 12)
    monkeypatch.setattr(projection, "DIMS", 8)
    build_index(catalog, tmp_path / "index", backbone="handcrafted", backend="exact")
    assert read_manifest(tmp_path / "index").projection_count == 12

    assert check(tmp_path / "index", deep=True) == []

    (catalog / "a" / "0000.png").unlink()
    build_index(catalog, tmp_path / "index")  # which keeps the projection of others
    assert check(tmp_path / "index", deep=True) == []


@pytest.mark.slow
def test_check_says_nothing_of_an_index_of_the_default_encoder_and_sees_that_it_does_not_open(tmp_path, small):
    build_index(small, tmp_path / "index", precision="f32")
    assert check(tmp_path / "index", deep=True) == []
    manifest = read_manifest(tmp_path / "index")
    graph = tmp_path / "index" / manifest.encoder_folder / runtime.GRAPH_FILE
    graph.write_text(graph.read_text().replace("</layers>", "", 1))
    agree(tmp_path / "index")

    assert check(tmp_path / "index") == []
    (found,) = check(tmp_path / "index", deep=True)
    assert found.file == f"{manifest.encoder_folder}/{runtime.GRAPH_FILE}"


def test_check_of_a_whole_index_in_json_is_an_empty_list(imgsearch, built):
    done = imgsearch("check", "--index", built / "annoy", "--deep", "--format", "json")

    assert (done.returncode, json.loads(done.stdout), done.stderr) == (0, [], "")


# --- no index


@pytest.mark.parametrize("kind", ["nothing", "an empty folder", "other things", "a file", "a build that was killed"])
def test_where_there_is_no_index_check_says_so(imgsearch, tmp_path, kind):
    index = tmp_path / "index"
    match kind:
        case "an empty folder":
            index.mkdir()
        case "other things":
            index.mkdir()
            (index / "holiday.jpg").touch()
        case "a file":
            index.touch()
        case "a build that was killed":
            (index / "gen-000001").mkdir(parents=True)
            (index / generations.PARTIAL).touch()
            (index / generations.LOCK).touch()

    done = imgsearch("check", "--index", index)

    assert (done.returncode, done.stdout) == (5, "")
    assert done.stderr.startswith(f"imgsearch: no index in {index}\n")


# --- damage: test_damage.py has the matrix of files and ways


def test_check_names_every_damaged_file_and_says_how_to_mend_each(imgsearch, copied):
    index = copied("annoy")
    encoder = f"{read_manifest(index).encoder_folder}/spec.json"
    (index / "gen-000001" / generations.EMBEDDINGS).write_bytes(b"x")
    (index / "gen-000001" / generations.VECTORS).unlink()
    (index / encoder).write_text("{}")

    table = imgsearch("check", "--index", index)
    listed = imgsearch("check", "--index", index, "--format", "json")

    assert (table.returncode, table.stderr, listed.returncode, listed.stderr) == (6, "", 6, "")
    findings = json.loads(listed.stdout)
    assert [list(finding) for finding in findings] == [["file", "problem", "remedy"]] * 3
    assert [finding["file"] for finding in findings] == [
        *(encoder, "gen-000001/embeddings.npy", "gen-000001/vectors.npy"),
    ]
    assert table.stdout == "".join(f"{found['file']}: {found['problem']}\n  {found['remedy']}\n" for found in findings)
    again = "run imgsearch build-index again: it makes this file anew"
    rebuild = "run imgsearch rollback; or rebuild it: move the directory away and run imgsearch build-index"
    assert [finding["remedy"] for finding in findings] == [again, rebuild, again]


def test_check_of_an_index_whose_generation_is_gone_names_all_its_files(copied):
    index = copied("annoy")
    shutil.rmtree(index / "gen-000001")

    findings = check(index)

    names = ("annoy.ann", "embeddings.npy", "items.sqlite", "vectors.npy")
    assert files_of(findings) == [f"gen-000001/{name}" for name in names]
    assert {finding.problem for finding in findings} == {"it is missing"}


def test_check_sees_a_manifest_that_names_another_generation_than_its_files_are_of(copied):
    index = copied("exact")
    manifest = index / generations.MANIFEST
    manifest.write_text(manifest.read_text().replace('"generation": 1', '"generation": 3'))

    assert files_of(check(index)) != []


def test_check_needs_no_right_to_write(built, tmp_path):
    index = shutil.copytree(built / "exact", tmp_path / "index")
    for path in (index, *index.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)
    # The temporary folder is for its owner only, so whoever gives up root's rights must be let through.
    for folder in (tmp_path, *tmp_path.parents):
        if folder == tmp_path or folder.name.startswith(("pytest-", "popen-")):
            folder.chmod(0o755)
    # The first check imports everything, while it still may: the interpreter may lie where only root is let through.
    code = (
        "import os, sys; from imgsearch.cli import main;"
        "main(['check', '--deep', '--index', sys.argv[1]]);"
        "os.geteuid() == 0 and os.setuid(65534);"
        "assert not os.access(sys.argv[2], os.W_OK);"
        "sys.exit(main(['check', '--deep', '--index', sys.argv[2]]))"
    )

    def run():
        command = [sys.executable, "-c", code, built / "exact", index]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    try:
        whole = run()
        (index / "gen-000001").chmod(0o755)
        (index / "gen-000001" / generations.VECTORS).chmod(0)
        (index / "gen-000001").chmod(0o555)
        unreadable = run()
    finally:
        for path in (index, *index.rglob("*")):
            path.chmod(0o755)

    assert (whole.returncode, whole.stdout, whole.stderr) == (0, "", "")
    assert (unreadable.returncode, unreadable.stdout) == (13, "")
    assert "gen-000001/vectors.npy cannot be read: Permission denied\n" in unreadable.stderr


# --- what only a deep check finds: files that are what was published, and yet wrong


def swapped_vectors(folder: Path) -> None:
    vectors = np.load(folder / generations.VECTORS)
    np.save(folder / generations.VECTORS, vectors[::-1])


def other_numbers_in_vectors(folder: Path) -> None:
    vectors = np.load(folder / generations.VECTORS)
    vectors[7] = -vectors[7]
    np.save(folder / generations.VECTORS, vectors)


def not_a_number_in_vectors(folder: Path) -> None:
    vectors = np.load(folder / generations.VECTORS)
    vectors[-1, 3] = np.nan
    np.save(folder / generations.VECTORS, vectors)


def long_row(folder: Path) -> None:
    for name in (generations.EMBEDDINGS, generations.VECTORS):
        rows = np.load(folder / name)
        rows[11] *= 1.5
        np.save(folder / name, rows)


def zero_row(folder: Path) -> None:
    for name in (generations.EMBEDDINGS, generations.VECTORS):
        rows = np.load(folder / name)
        rows[39] = 0
        np.save(folder / name, rows)


def infinite_row(folder: Path) -> None:
    for name in (generations.EMBEDDINGS, generations.VECTORS):
        rows = np.load(folder / name)
        rows[0] = np.inf
        np.save(folder / name, rows)


def sql(statement: str) -> Callable[[Path], None]:
    def run(folder: Path) -> None:
        with closing(sqlite3.connect(folder / generations.ITEMS)) as connection, connection:
            connection.execute(statement)

    return run


def missing_page(folder: Path) -> None:
    data = (folder / generations.ITEMS).read_bytes()
    (folder / generations.ITEMS).write_bytes(data[:-4096])


def no_table(folder: Path) -> None:
    (folder / generations.ITEMS).unlink()
    sql("CREATE TABLE things (x)")(folder)


DEEP = {
    "vectors in another order": (swapped_vectors, generations.VECTORS),
    "a vector that is another": (other_numbers_in_vectors, generations.VECTORS),
    "a vector that is no number": (not_a_number_in_vectors, generations.VECTORS),
    "an embedding that is too long": (long_row, generations.EMBEDDINGS),
    "an embedding that is zero": (zero_row, generations.EMBEDDINGS),
    "an embedding that is infinite": (infinite_row, generations.EMBEDDINGS),
    "an item less": (sql("DELETE FROM items WHERE row = 39"), generations.ITEMS),
    "an item less in the middle": (sql("DELETE FROM items WHERE row = 5"), generations.ITEMS),
    "an item more": (
        sql("INSERT INTO items SELECT 40, 'x', size, mtime_ns, sha256, '', '', '{}' FROM items WHERE row = 0"),
        generations.ITEMS,
    ),
    "rows that are not there": (sql("UPDATE items SET row = -1 WHERE row = 0"), generations.ITEMS),
    "a rejected file more": (sql("INSERT INTO rejected VALUES ('x', 0, 0, 'empty', '', '')"), generations.ITEMS),
    "a page less": (missing_page, generations.ITEMS),
    "no table": (no_table, generations.ITEMS),
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(("spoil", "name"), DEEP.values(), ids=DEEP)
def test_a_deep_check_finds_what_no_hash_can(copied, spoil, name):
    index = copied("exact")
    spoil(index / "gen-000001")
    agree(index)

    assert check(index) == []
    assert files_of(check(index, deep=True)) == [f"gen-000001/{name}"]


def test_a_forest_of_other_vectors_is_found(copied):
    index = copied("annoy")
    manifest = read_manifest(index)
    others = np.random.default_rng(1).normal(size=(manifest.count, manifest.dims)).astype(np.float32)
    build_annoy(index / "gen-000001", others, 8, 0)
    agree(index)

    assert files_of(check(index, deep=True)) == ["gen-000001/annoy.ann"]


def test_a_forest_of_fewer_trees_or_items_is_found(copied):
    for count, trees in ((40, 2), (39, 8)):
        index = copied("annoy")
        vectors = np.load(index / "gen-000001" / generations.VECTORS)
        build_annoy(index / "gen-000001", vectors[:count], trees, 0)
        agree(index)

        assert files_of(check(index, deep=True)) == ["gen-000001/annoy.ann"]
        shutil.rmtree(index)


@pytest.fixture(scope="module")
def built_twice(tmp_path_factory, lay_out) -> Path:
    """A catalog with an index in its second generation. Not to be changed: copy it."""
    folder = tmp_path_factory.mktemp("second")
    lay_out(folder / "catalog", 12)
    build_index(folder / "catalog", folder / "index", backbone="handcrafted", trees=3)
    (folder / "catalog" / "a" / "0000.png").unlink()
    build_index(folder / "catalog", folder / "index")
    return folder


@pytest.fixture
def second(built_twice, tmp_path) -> Path:
    """An index in its second generation."""
    return Path(shutil.copytree(built_twice / "index", tmp_path / "second"))


@pytest.mark.parametrize(
    "name", [generations.MANIFEST, generations.EMBEDDINGS, generations.ITEMS, generations.VECTORS, AnnoyBackend.file]
)
def test_a_deep_check_finds_a_damaged_file_of_the_generation_before(second, name):
    (second / "gen-000001" / name).write_bytes(b"x")

    assert check(second) == []
    (found,) = check(second, deep=True)
    assert found.file == f"gen-000001/{name}"
    assert "only rollback" in found.remedy


def test_a_deep_check_finds_a_damaged_encoder_that_only_the_generation_before_uses(second):
    before = read_manifest(second)
    name = "encoders/" + "0" * 16 + "/spec.json"
    (second / name).parent.mkdir()
    (second / name).write_text("{}")
    old = generations.read_generation(second, before.generation - 1)
    files = dict(old.files) | {name: FileRecord(2, "0" * 64)}
    (second / "gen-000001" / generations.MANIFEST).write_text(json.dumps(replace(old, files=files).to_json()))

    assert check(second) == []
    assert files_of(check(second, deep=True)) == [name]


# --- with builds under way


def test_check_during_two_builds_waits_for_a_generation_that_stays(second, small, painted, monkeypatch):
    real, calls = integrity.try_record, []

    def swept_before(path):
        calls.append(path)
        if len(calls) == 1:
            for number in (1, 2):
                (small / f"new-{number}.png").write_bytes(painted(7000 + number))
                build_index(small, second)
        return real(path)

    monkeypatch.setattr(integrity, "try_record", swept_before)

    assert check(second, deep=True) == []
    assert read_manifest(second).generation == 4
    assert any("gen-000002" in str(path) for path in calls)


def test_check_takes_no_lock_and_waits_for_none(imgsearch, second):
    with writer_lock(second):
        assert imgsearch("check", "--index", second, timeout=20).returncode == 0


# --- an empty index


def test_an_empty_index_answers_with_nothing_and_the_next_build_fills_it(imgsearch, tmp_path, small, photo):
    empty_folder = tmp_path / "nothing"
    empty_folder.mkdir()
    index = tmp_path / "index"
    refused = imgsearch("build-index", empty_folder, "--index", index, "--backbone", "handcrafted")
    assert refused.returncode == 9
    with pytest.raises(NoIndexError):
        Index.open(index)

    done = imgsearch("build-index", empty_folder, "--index", index, "--backbone", "handcrafted", "--force")
    assert (done.returncode, done.stderr) == (0, "")

    for options in ([], ["--exact"], ["--where", "1"]):
        done = imgsearch("query", photo, "--index", index, "--format", "json", *options)
        assert (done.returncode, json.loads(done.stdout)[0]["hits"], done.stderr) == (0, [], "")
    done = imgsearch("info", "--index", index, "--format", "json")
    assert (done.returncode, json.loads(done.stdout)["count"]) == (0, 0)
    assert imgsearch("info", "--index", index, "--rejected").returncode == 0
    assert check(index, deep=True) == []

    done = imgsearch("build-index", small, "--index", index)
    assert (done.returncode, done.stderr) == (0, "")
    assert check(index, deep=True) == []
    with Index.open(index) as opened:
        assert len(opened.search(photo, k=99)) == len(opened) == 12
