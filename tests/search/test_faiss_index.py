"""An index that Faiss searches: built, asked, changed, damaged, and without Faiss."""

import shutil
import sys
from dataclasses import replace
from pathlib import Path

import faiss
import numpy as np
import pytest

from imgsearch import Filter, Index, build_index, check, rollback
from imgsearch.cli import main
from imgsearch.errors import DamagedIndexError, MissingComponentError
from imgsearch.evaluation.index_recall import index_recall
from imgsearch.records import read
from imgsearch.search.backends import BACKENDS
from imgsearch.search.backends import faiss as faiss_lists
from imgsearch.search.backends.annoy import AnnoyBackend
from imgsearch.search.backends.faiss import FaissBackend, FaissCandidates, least_probes, lists_for, one_thread
from imgsearch.search.recall import measure, sampled
from imgsearch.search.tuning import make_search, tune
from imgsearch.store import generations, integrity, publishing
from imgsearch.store.manifest import Manifest
from imgsearch.store.search_settings import BackendSettings, SearchOptions


def build_faiss(folder, vectors, lists, seed):
    FaissBackend().build(folder, vectors, BackendSettings("faiss", 0, seed, 0, lists, 1))


def units(count, dims, seed=0):
    vectors = np.random.default_rng(seed).normal(size=(count, dims))
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)


@pytest.fixture(scope="module")
def listed(tmp_path_factory, lay_out) -> Path:
    """A catalog of forty painted images with an index of lists beside it. Not to be changed: copy it."""
    folder = tmp_path_factory.mktemp("listed")
    build_index(lay_out(folder / "catalog", 40), folder / "index", backbone="handcrafted", backend="faiss")
    return folder


@pytest.fixture
def directory(listed, tmp_path) -> Path:
    """The index of lists, to be changed."""
    return Path(shutil.copytree(listed / "index", tmp_path / "index"))


@pytest.fixture
def without_faiss(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)


def lists_of(directory) -> Path:
    return directory / generations.read_manifest(directory).folder / FaissBackend.file


# --- the file


# Taught by a sample of the vectors, and by all of them.
@pytest.mark.parametrize("lists", [25, 71])
def test_the_same_seed_gives_the_same_lists_byte_for_byte_and_another_seed_others(tmp_path, lists):
    vectors = units(5000, 16)
    files = []
    for number, seed in enumerate([7, 7, 8]):
        folder = tmp_path / str(number)
        folder.mkdir()
        build_faiss(folder, vectors, lists, seed)
        files.append((folder / FaissBackend.file).read_bytes())

    assert files[0] == files[1] != files[2]


def test_the_number_of_threads_is_what_it_was_and_changes_no_byte(tmp_path):
    vectors, files = units(3000, 16), []
    before = faiss.omp_get_max_threads()
    try:
        for threads in (1, 2):
            faiss.omp_set_num_threads(threads)
            build_faiss(tmp_path, vectors, 25, 0)
            FaissCandidates(tmp_path / FaissBackend.file, *vectors.shape, 3).candidates(vectors[0], 5)
            assert faiss.omp_get_max_threads() == threads
            files.append((tmp_path / FaissBackend.file).read_bytes())
    finally:
        faiss.omp_set_num_threads(before)

    assert files[0] == files[1]


def test_an_error_does_not_leave_one_thread_behind():
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(2)
    try:
        with pytest.raises(KeyError), one_thread(faiss):
            raise KeyError
        assert faiss.omp_get_max_threads() == 2
    finally:
        faiss.omp_set_num_threads(before)


def test_the_file_is_hardly_larger_than_the_vectors(tmp_path):
    vectors = units(4000, 64)

    build_faiss(tmp_path, vectors, lists_for(4000), 0)

    # Each vector has a number of eight bytes, each list a center.
    assert vectors.nbytes < (tmp_path / FaissBackend.file).stat().st_size < 1.06 * vectors.nbytes


@pytest.mark.parametrize(("count", "lists"), [(1, 1), (2, 1), (3, 2), (10_000, 100), (1_000_000, 1000)])
def test_there_are_as_many_lists_as_the_root_of_the_vectors(count, lists):
    assert lists_for(count) == lists


def test_a_full_disk_is_an_error_of_the_disk_and_not_of_faiss(tmp_path):
    (tmp_path / FaissBackend.file).symlink_to("/dev/full")

    with pytest.raises(OSError, match="No space left on device"):
        build_faiss(tmp_path, units(50, 8), 7, 0)


def test_lists_in_a_folder_whose_name_is_not_utf8_are_built_and_opened(tmp_path):
    folder = tmp_path / "caf\udce9"
    folder.mkdir()
    vectors = units(20, 8)

    build_faiss(folder, vectors, 4, 0)

    assert 3 in FaissCandidates(folder / FaissBackend.file, 20, 8, 1).candidates(vectors[3], 1)


@pytest.mark.parametrize("k", [1, 30, 200, 400])
def test_there_are_enough_candidates_though_the_nearest_lists_are_empty(tmp_path, k):
    centers = faiss.IndexFlatIP(20)
    centers.add(np.eye(20, dtype=np.float32))
    lists = faiss.IndexIVFFlat(centers, 20, 20, faiss.METRIC_INNER_PRODUCT)
    lists.is_trained = True
    lists.add(np.repeat(np.eye(20, dtype=np.float32)[:1], 400, axis=0))
    faiss.write_index(lists, str(tmp_path / FaissBackend.file))
    backend = FaissCandidates(tmp_path / FaissBackend.file, 400, 20, 1)
    query = np.ones(20, np.float32)
    query[0] = -1  # away from the only list that holds anything

    assert len(set(backend.candidates(query, k).tolist())) >= k


def test_whoever_wants_more_results_has_more_lists_looked_into(tmp_path):
    vectors = units(5000, 8)
    build_faiss(tmp_path, vectors, 71, 0)
    backend = FaissCandidates(tmp_path / FaissBackend.file, 5000, 8, 1)
    sample = sampled(vectors, np.arange(50), [500])

    recall, _ = measure(make_search(backend, vectors), sample, 500)

    assert recall.mean() > 0.95


@pytest.mark.parametrize("content", [b"", b"x" * 5, b"x" * 1000, b"IwFl" + bytes(1000)])
def test_what_is_no_file_of_faiss_is_damaged(tmp_path, content):
    (tmp_path / FaissBackend.file).write_bytes(content)

    with pytest.raises(DamagedIndexError, match=r"lists\.faiss is damaged"):
        FaissCandidates(tmp_path / FaissBackend.file, 5, 4, 1)


def test_another_kind_of_faiss_index_is_damaged(tmp_path):
    flat = faiss.IndexFlatIP(4)
    flat.add(units(5, 4))
    faiss.write_index(flat, str(tmp_path / FaissBackend.file))

    with pytest.raises(DamagedIndexError, match="IndexFlatIP, expected IndexIVFFlat"):
        FaissCandidates(tmp_path / FaissBackend.file, 5, 4, 1)


def test_another_metric_is_damaged(tmp_path):
    lists = faiss.IndexIVFFlat(faiss.IndexFlatL2(4), 4, 1, faiss.METRIC_L2)
    lists.cp.min_points_per_centroid = 1
    lists.train(units(5, 4))
    lists.add(units(5, 4))
    faiss.write_index(lists, str(tmp_path / FaissBackend.file))

    with pytest.raises(DamagedIndexError, match="metric 1, expected 5 of 4, metric 0"):
        FaissCandidates(tmp_path / FaissBackend.file, 5, 4, 1)


@pytest.mark.parametrize(("count", "dims"), [(21, 8), (20, 9)])
def test_lists_of_another_number_of_items_or_dimensions_are_damaged(tmp_path, count, dims):
    build_faiss(tmp_path, units(20, 8), 4, 0)

    with pytest.raises(DamagedIndexError, match="20 items of 8 dimensions"):
        FaissCandidates(tmp_path / FaissBackend.file, count, dims, 1)


# --- looked at before it is published


def test_lists_of_other_vectors_are_found_out(tmp_path):
    vectors = units(300, 16)
    settings = BackendSettings("faiss", 0, 0, 0, 17, 1)
    build_faiss(tmp_path, vectors, 17, 0)
    FaissBackend().check(tmp_path, vectors, settings)

    with pytest.raises(DamagedIndexError, match="does not find 20 of 20 items by themselves"):
        FaissBackend().check(tmp_path, units(300, 16, seed=1), settings)
    with pytest.raises(DamagedIndexError, match="17 lists, expected 18"):
        FaissBackend().check(tmp_path, vectors, BackendSettings("faiss", 0, 0, 0, 18, 1))


def test_images_that_are_all_alike_are_found_by_one_another(tmp_path):
    vectors = np.repeat(units(1, 16), 300, axis=0)
    build_faiss(tmp_path, vectors, 17, 0)

    FaissBackend().check(tmp_path, vectors, BackendSettings("faiss", 0, 0, 0, 17, 1))


# --- tuned


@pytest.mark.parametrize("target", [0.5, 0.9, 0.99, 1.0])
def test_tuning_takes_the_least_probes_that_reach_the_target(tmp_path, target):
    vectors = units(3000, 16)

    chosen, measured = tune(tmp_path, vectors, SearchOptions("faiss", target_recall=target))

    assert (chosen.name, chosen.trees, chosen.search_k, chosen.lists) == ("faiss", 0, 0, 55)
    assert measured.recall >= target
    sample = sampled(vectors, np.random.default_rng(0).permutation(3000)[:500], [10])
    assert chosen.probes in (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 55)
    if chosen.probes > 1:
        less = FaissCandidates(tmp_path / FaissBackend.file, *vectors.shape, chosen.probes // 2)
        recall, _ = measure(make_search(less, vectors), sample, 10)
        assert recall.mean() - 2 * recall.std() / np.sqrt(500) < target


@pytest.mark.parametrize("count", [1, 2, 3, 20])
def test_even_the_smallest_catalog_gets_lists_if_they_are_wished_for(tmp_path, count):
    chosen, measured = tune(tmp_path, units(count, 8), SearchOptions("faiss"))

    assert (chosen.name, chosen.lists) == ("faiss", lists_for(count))
    assert (measured is None) == (count == 1)
    assert (tmp_path / FaissBackend.file).is_file()


def test_nobody_gets_lists_who_did_not_wish_for_them(tmp_path, without_faiss):
    chosen, _ = tune(tmp_path, units(5000, 8), SearchOptions("auto"))

    assert chosen.name in ("annoy", "exact")
    assert not (tmp_path / FaissBackend.file).exists()


# --- an index


def test_an_index_of_lists_says_so_and_answers_as_an_exact_one_does(listed, photo, answers):
    manifest = generations.read_manifest(listed / "index")

    assert manifest.search.backend == manifest.backend.name == "faiss"
    assert manifest.backend.lists == lists_for(40)
    assert 1 <= manifest.backend.probes <= manifest.backend.lists
    assert manifest.measured.recall >= 0.99
    assert f"{manifest.folder}/{FaissBackend.file}" in manifest.files
    assert f"{manifest.folder}/{AnnoyBackend.file}" not in manifest.files
    with Index.open(listed / "index") as index:
        assert (index.plan(), index.plan(exact=True), index.plan(filter=Filter("row = 1"))) == (
            "faiss",
            "exact",
            "exact",
        )
    for image in (photo, listed / "catalog/a/0003.png"):
        assert answers(listed / "index", image)[0] == answers(listed / "index", image, exact=True)[0]
    assert answers(listed / "index", photo, k=40) == answers(listed / "index", photo, k=40, exact=True)
    assert check(listed / "index") == check(listed / "index", deep=True) == []


def test_the_manifest_keeps_lists_and_probes_and_an_older_one_has_neither(listed):
    manifest = generations.read_manifest(listed / "index")

    assert Manifest.from_json(manifest.to_json()) == manifest
    older = read(BackendSettings, {"name": "annoy", "trees": 10, "seed": 0, "search_k": 2000})
    assert (older.lists, older.probes) == (0, 0)


@pytest.mark.parametrize(("lists", "probes"), [(0, 1), (6, 0), (6, 7), (6, -1)])
def test_a_manifest_with_impossible_probes_is_refused(lists, probes):
    with pytest.raises(ValueError, match="expected"):
        read(BackendSettings, {"name": "faiss", "trees": 0, "seed": 0, "search_k": 0, "lists": lists, "probes": probes})


def test_settings_without_lists_are_refused_when_they_are_opened(listed):
    manifest = generations.read_manifest(listed / "index")
    vectors = units(manifest.count, manifest.dims)

    with pytest.raises(DamagedIndexError, match="0 lists"):
        FaissBackend().open(listed / "index" / manifest.folder, vectors, BackendSettings("faiss", 0, 0, 0))


def test_an_update_and_a_rollback_keep_the_lists_right(listed, lay_out, tmp_path, photo, answers):
    catalog = Path(shutil.copytree(listed / "catalog", tmp_path / "catalog"))
    directory = tmp_path / "index"
    build_index(catalog, directory, backbone="handcrafted", backend="faiss")
    first = answers(directory, photo, k=40)
    lay_out(catalog, 9, first=100)
    (catalog / "a/0000.png").unlink()

    build_index(catalog, directory)

    manifest = generations.read_manifest(directory)
    assert (manifest.count, manifest.backend.name, manifest.backend.lists) == (48, "faiss", 7)
    assert answers(directory, catalog / "b/0100.png")[0][0] == "b/0100.png"
    rollback(directory)
    assert answers(directory, photo, k=40) == first
    assert check(directory, deep=True) == []


def test_a_backend_is_changed_there_and_back_without_embedding(listed, directory, photo, answers, contents):
    before, answered = contents(directory), answers(directory, photo, k=40)

    for backend in ("annoy", "faiss", "exact", "faiss"):
        report = build_index(listed / "catalog", directory, backend=backend)
        manifest = generations.read_manifest(directory)
        assert (report.embedded, manifest.backend.name) == (0, backend)
        there = {Path(name).name for name in manifest.files} & {"annoy.ann", "lists.faiss"}
        assert there == ({BACKENDS[backend].file} - {""})
        assert contents(directory) == before
        assert answers(directory, photo, k=40) == answered


def test_a_reader_answers_though_its_lists_were_swept(listed, directory, photo, lay_out, tmp_path):
    with Index.open(directory) as index:
        lists_of(directory).unlink()
        hits = index.search(photo)

    assert len(hits) == 5


DAMAGES = {
    "cut": lambda data, _: data[:-16],
    "a bit flipped": lambda data, _: data[:5000] + bytes([data[5000] ^ 4]) + data[5001:],
    "of another index": lambda _, other: other,
    "empty": lambda *_: b"",
}


@pytest.mark.parametrize("way", DAMAGES)
def test_a_damaged_file_is_found_out_and_mended_by_the_next_build(listed, directory, photo, answers, tmp_path, way):
    answered, whole = answers(directory, photo), lists_of(directory).read_bytes()
    with Index.open(directory) as index:
        build_faiss(tmp_path, units(*index.nearest.vectors.shape), lists_for(len(index)), 0)
    damaged = DAMAGES[way](whole, (tmp_path / FaissBackend.file).read_bytes())
    assert damaged != whole
    lists_of(directory).write_bytes(damaged)

    with pytest.raises(DamagedIndexError, match=r"lists\.faiss is damaged") as caught:
        answers(directory, photo)
    assert "build-index again" in caught.value.hint
    assert [Path(finding.file).name for finding in check(directory)] == [FaissBackend.file]
    build_index(listed / "catalog", directory)

    assert answers(directory, photo) == answered
    assert check(directory) == []


@pytest.mark.parametrize("way", DAMAGES)
def test_a_damaged_file_is_found_out_before_faiss_gets_to_see_it(without_faiss, directory, photo, answers, way):
    whole = lists_of(directory).read_bytes()
    lists_of(directory).write_bytes(DAMAGES[way](whole, whole[::-1]))

    # It crashes on some of them.
    with pytest.raises(DamagedIndexError, match=r"lists\.faiss is damaged"):
        answers(directory, photo)
    if len(lists_of(directory).read_bytes()) == len(whole):
        with Index.open(directory) as index, pytest.raises(DamagedIndexError, match="content has changed"):
            index.nearest.backend_with_effort(1)


def test_a_missing_file_is_mended_by_the_next_build(listed, directory, photo, answers):
    answered = answers(directory, photo)
    lists_of(directory).unlink()

    with pytest.raises(DamagedIndexError, match=r"lists\.faiss is missing"):
        answers(directory, photo)
    assert "it is missing" in [finding.problem for finding in check(directory)]
    build_index(listed / "catalog", directory)

    assert answers(directory, photo) == answered


def test_check_looks_whether_lists_find_the_items_by_themselves(directory):
    manifest = generations.read_manifest(directory)
    build_faiss(directory / manifest.folder, units(manifest.count, manifest.dims), manifest.backend.lists, 0)
    record = integrity.file_record(lists_of(directory))
    files = {**manifest.files, f"{manifest.folder}/{FaissBackend.file}": record}
    publishing.amend(directory, replace(manifest, files=files))  # as if they had been published so

    problems = {Path(finding.file).name: finding.problem for finding in check(directory)}

    assert "items by themselves" in problems[FaissBackend.file]


def test_the_lists_of_a_build_that_miss_items_are_not_published(listed, directory, monkeypatch):
    before = (directory / generations.MANIFEST).read_bytes()
    right = faiss_lists.blocks_of
    monkeypatch.setattr(faiss_lists, "blocks_of", lambda vectors: (-block for block in right(vectors)))

    with pytest.raises(DamagedIndexError, match="by themselves"):
        build_index(listed / "catalog", directory, seed=5)

    assert (directory / generations.MANIFEST).read_bytes() == before


# --- evaluated


def test_the_curve_is_over_probes_each_only_once(listed):
    with Index.open(listed / "index") as index:
        found = index_recall(index, 20, lambda *_: None)
        settings = index.manifest.backend

    tried = [point.effort for point in found.curve]
    assert found.plan == "faiss"
    assert tried == sorted(set(tried))
    # What is looked at in any case, and no more than there is.
    assert max(settings.probes, least_probes(11, settings.lists, 40)) in tried
    assert tried[-1] <= settings.lists
    assert found.recall[10].mean() == 1


def test_the_table_of_the_curve_is_headed_by_probes(listed, capsys):
    assert main(["evaluate", "--recall", "--index", str(listed / "index")]) == 0

    said = capsys.readouterr().out
    assert " probes   recall" in said
    assert "search_k" not in said
    assert "had the index a forest" not in said


# --- the program


def test_info_names_lists_probes_and_seed(listed, capsys):
    assert main(["info", "--index", str(listed / "index")]) == 0

    backend = generations.read_manifest(listed / "index").backend
    assert f"faiss, 6 lists, probes {backend.probes}, seed 0" in capsys.readouterr().out


def assert_that_it_names_what_is_missing(said: str) -> None:
    line, hint = said.splitlines()
    assert line.startswith("imgsearch: the backend faiss needs a library that cannot be imported: ")
    assert "pip install 'imgsearch-toolkit[faiss]'" in hint
    assert "--backend annoy" in hint
    assert "--exact" in hint


def test_without_faiss_a_build_fails_before_anything_is_embedded(without_faiss, small, tmp_path, capfd):
    options = ["--index", str(tmp_path / "idx"), "--backbone", "handcrafted", "--backend", "faiss"]

    assert main(["build-index", str(small), *options, "-q"]) == 8

    assert_that_it_names_what_is_missing(capfd.readouterr().err)
    assert {path.name for path in (tmp_path / "idx").iterdir()} <= {generations.LOCK}


def test_without_faiss_a_query_says_so_before_the_encoder_starts(without_faiss, directory, photo, capfd):
    graphs = directory / generations.read_manifest(directory).encoder_folder
    shutil.rmtree(graphs)  # who looked for the encoder would say that it is damaged

    assert main(["query", str(photo), "--index", str(directory)]) == 8

    assert_that_it_names_what_is_missing(capfd.readouterr().err)


@pytest.mark.parametrize("option", [["--exact"], ["--where", "category = 'a'"]])
def test_without_faiss_an_exact_query_is_answered(without_faiss, listed, capfd, option):
    image = str(listed / "catalog/a/0003.png")

    code = main(["query", image, "--index", str(listed / "index"), "--format", "paths", "-k", "1", *option])

    assert (code, capfd.readouterr().out) == (0, "a/0003.png\n")


def test_without_faiss_an_index_of_lists_is_turned_to_annoy(without_faiss, listed, directory, photo, answers):
    with pytest.raises(MissingComponentError):
        answers(directory, photo)

    build_index(listed / "catalog", directory, backend="annoy")

    assert len(answers(directory, photo)) == 5


def test_a_real_query_beside_openvino_is_answered_by_lists(drawn, tmp_path, imgsearch):
    built = imgsearch("build-index", drawn, "--backend", "faiss", "--precision", "f32")
    photos = []
    for number, image in enumerate(sorted(drawn.rglob("*.png"))[:6]):
        photos.append(tmp_path / f"{number}.png")
        photos[-1].write_bytes(image.read_bytes() + b"\0")  # other bytes, the same image

    asked = imgsearch("query", *photos, "--format", "jsonl", "-k", 1)

    assert (built.returncode, asked.returncode, asked.stderr) == (0, 0, "")
    assert asked.stdout.count('"plan": "faiss"') == 6
    assert [Path(line.split('"path": "')[1].split('"')[0]) for line in asked.stdout.splitlines()] == [
        image.relative_to(drawn) for image in sorted(drawn.rglob("*.png"))[:6]
    ]


def test_neither_help_nor_an_index_without_lists_imports_faiss(built, photo):
    import subprocess

    program = (
        "import sys\nfrom imgsearch.cli import main\ncode = main(sys.argv[1:])\n"
        "print('faiss' in sys.modules, file=sys.stderr)\nsys.exit(code)"
    )
    for arguments in (["--help"], ["query", photo, "--index", built / "annoy"]):
        command = [sys.executable, "-c", program, *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "False\n")
