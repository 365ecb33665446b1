"""An index that Faiss searches by codes, with vectors in float16: what a memory budget chooses."""

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from imgsearch import build_index, check, info, rollback
from imgsearch.cli import main
from imgsearch.errors import DamagedIndexError, MissingComponentError, UsageError
from imgsearch.search.backends import BACKENDS
from imgsearch.search.backends.faiss import FaissBackend, lists_for
from imgsearch.search.backends.faiss_codes import FaissCodesBackend
from imgsearch.search.filtered import FilteredCandidates
from imgsearch.search.recall import measure, sampled
from imgsearch.search.tuning import PROGRAM_BYTES, chosen_backend, make_search, take_over, tune
from imgsearch.store import generations, integrity, publishing
from imgsearch.store.arrays import open_array, write_array
from imgsearch.store.calibration import Calibration, Curve
from imgsearch.store.manifest import Manifest
from imgsearch.store.search_settings import BackendSettings, SearchOptions

COUNT, DIMS = 2000, 32
CODES = FaissCodesBackend.name


def stored(folder: Path, vectors: np.ndarray, numbers="float16"):
    folder.mkdir(exist_ok=True)
    write_array(folder / generations.VECTORS, *vectors.shape, [vectors], numbers)
    return open_array(folder / generations.VECTORS, *vectors.shape, numbers)


@pytest.fixture(scope="module")
def vectors(unit):
    """Vectors around sixty centers, as catalogs have them."""
    random = np.random.default_rng(0)
    return unit(random.normal(size=(60, DIMS))[random.integers(60, size=COUNT)] + random.normal(0, 0.7, (COUNT, DIMS)))


@pytest.fixture(scope="module")
def coded(tmp_path_factory, built) -> Path:
    """An index of codes of forty painted images. Not to be changed: copy it."""
    index = Path(shutil.copytree(built / "exact", tmp_path_factory.mktemp("coded") / "index"))
    build_index(built / "catalog", index, backend=CODES)
    return index


@pytest.fixture
def directory(coded, tmp_path) -> Path:
    """The index of codes, to be changed."""
    return Path(shutil.copytree(coded, tmp_path / "index"))


# --- codes


@pytest.mark.parametrize("target", [0.9, 0.99])
def test_tuning_reaches_the_target_by_codes_with_vectors_of_half_the_size(tmp_path, vectors, target):
    halves = stored(tmp_path, vectors)

    settings, measured = tune(tmp_path, halves, SearchOptions(CODES, target_recall=target))

    assert (settings.name, settings.lists) == (CODES, lists_for(COUNT))
    assert measured.recall >= target
    sample = sampled(halves, np.arange(0, COUNT, 7), [10])
    recall, _ = measure(make_search(FaissCodesBackend().open(tmp_path, halves, settings), halves), sample, 10)
    assert recall.mean() >= target - 0.01
    # A bit for each number, two factors and a row; and the centers.
    assert (tmp_path / FaissCodesBackend.file).stat().st_size < COUNT * 20 + 4 * DIMS * 45 + 3000
    assert (tmp_path / generations.VECTORS).stat().st_size < vectors.nbytes / 2 + 200


def test_the_same_seed_gives_the_same_codes_byte_for_byte_and_another_seed_others(tmp_path, vectors):
    files = []
    for number, seed in enumerate([7, 7, 8]):
        halves = stored(tmp_path / str(number), vectors)
        FaissCodesBackend().build(tmp_path / str(number), halves, BackendSettings(CODES, 0, seed, 0, 45, 1))
        files.append((tmp_path / str(number) / FaissCodesBackend.file).read_bytes())

    assert files[0] == files[1] != files[2]


@pytest.mark.parametrize("odd", ["all alike", "one"])
def test_vectors_without_anything_to_tell_them_apart_are_found_all_the_same(tmp_path, vectors, odd):
    given = np.repeat(vectors[:1], 300 if odd == "all alike" else 1, axis=0)
    halves = stored(tmp_path, given)

    settings, _ = tune(tmp_path, halves, SearchOptions(CODES))

    assert len(FaissCodesBackend().open(tmp_path, halves, settings).candidates(vectors[0], 10)) >= min(10, len(given))


def test_conditions_are_kept_by_codes_as_by_all_vectors(tmp_path, vectors):
    halves = stored(tmp_path, vectors)
    settings, _ = tune(tmp_path, halves, SearchOptions(CODES))
    codes = FaissCodesBackend().open(tmp_path, halves, settings)
    even = FilteredCandidates(codes, COUNT, lambda rows: rows[rows % 2 == 0], pytest.fail)

    for row in range(0, COUNT, 100):
        found = even.candidates(halves[row], 5)
        best = np.sort(halves[found] @ halves[row])[-5:]
        np.testing.assert_allclose(best, np.sort(halves[np.arange(0, COUNT, 2)] @ halves[row])[-5:], atol=1e-6)


@pytest.mark.parametrize("wrong", ["of whole vectors", "of another number of items", "cut"])
def test_another_file_of_faiss_is_damaged(tmp_path, vectors, wrong):
    halves = stored(tmp_path, vectors[:300])
    settings = BackendSettings(CODES, 0, 0, 0, 17, 1)
    file = tmp_path / FaissCodesBackend.file
    if wrong == "of whole vectors":
        FaissBackend().build(tmp_path, halves, settings)
        (tmp_path / FaissBackend.file).rename(file)
    else:
        FaissCodesBackend().build(tmp_path, halves if wrong == "cut" else vectors[:299], settings)
    if wrong == "cut":
        file.write_bytes(file.read_bytes()[:100])

    with pytest.raises(DamagedIndexError, match="damaged"):
        FaissCodesBackend().open(tmp_path, halves, settings)


# --- the generation before


@pytest.mark.parametrize("name", ["faiss", CODES])
def test_what_was_built_is_taken_over_when_few_vectors_change(tmp_path, vectors, unit, name):
    numbers = BACKENDS[name].numbers
    before = stored(tmp_path / "before", vectors, numbers)
    settings, _ = tune(tmp_path / "before", before, SearchOptions(name))
    # Every fiftieth goes, thirty come, all over the catalog.
    new = unit(np.random.default_rng(1).normal(size=(30, DIMS)))
    gone = np.arange(COUNT) % 50 == 0
    order = np.random.default_rng(2).permutation(COUNT - gone.sum() + len(new))
    places = np.sort(order[: COUNT - gone.sum()])
    new_rows = np.full(COUNT, -1)
    new_rows[~gone] = places
    now = np.empty((len(order), DIMS), np.float32)
    now[places], now[np.sort(order[len(places) :])] = vectors[~gone], new
    after = stored(tmp_path / "after", now, numbers)

    taken = take_over(tmp_path / "after", after, settings, tmp_path / "before", new_rows)

    assert taken == replace(settings, changed=40 + 30)
    sample = sampled(after, np.arange(len(after)), [10])
    recall, _ = measure(make_search(BACKENDS[name].open(tmp_path / "after", after, taken), after), sample, 10)
    assert recall.mean() >= 0.985
    # What has changed adds up; then all is learned and tuned anew.
    assert take_over(tmp_path / "after", after, taken, tmp_path / "before", new_rows) is None
    assert take_over(tmp_path / "after", after, settings, tmp_path / "before", np.full(COUNT, -1)) is None


def test_a_forest_is_planted_anew_and_where_all_is_compared_there_is_nothing_to_take(tmp_path, vectors):
    same = np.arange(COUNT)

    for settings, files in (
        (BackendSettings("exact", 0, 0, 0), []),
        (BackendSettings("annoy", 10, 0, 2000), [tmp_path / "annoy.ann"]),
    ):
        assert take_over(tmp_path, vectors, settings, tmp_path, same) == settings
        assert list(tmp_path.iterdir()) == files


# --- an index


def test_an_index_of_codes_says_so_and_answers_as_an_exact_one_does(coded, built, photo, answers, capsys):
    index = coded
    published = generations.read_manifest(index)

    assert (published.numbers, published.backend.name, published.version) == ("float16", CODES, 2)
    assert np.load(index / published.folder / generations.VECTORS).dtype == np.float16
    assert answers(index, photo, k=40) == answers(index, photo, k=40, exact=True)
    for path, score in answers(index, photo, k=40):
        assert score == pytest.approx(dict(answers(built / "exact", photo, k=40))[path], abs=1e-3)
    assert answers(index, built / "catalog/a/0003.png")[0] == ("a/0003.png", pytest.approx(1, abs=1e-6))
    assert check(index) == check(index, deep=True) == []
    assert main(["info", "--index", str(index)]) == 0
    assert "faiss-codes, 6 lists, probes " in capsys.readouterr().out


@pytest.mark.parametrize(
    "command",
    [
        *("evaluate --recall", "evaluate", "duplicates", "neighbors -o OUT.jsonl", "outliers"),
        *("query --item a/0003.png --exact", "query --item a/0003.png --where category='a' --diverse 0.5"),
    ],
)
def test_commands_that_read_vectors_read_those_of_float16(coded, tmp_path, monkeypatch, capsys, command):
    monkeypatch.chdir(tmp_path)
    name, *options = command.split()

    assert main([name, "--index", str(coded), *options]) == 0

    assert capsys.readouterr().out


def test_a_program_of_before_refuses_such_an_index_and_reads_all_others(directory, built, monkeypatch):
    monkeypatch.setattr(generations, "VERSION", 1)

    with pytest.raises(DamagedIndexError, match="an index of format 2, this imgsearch reads up to 1"):
        generations.read_manifest(directory)
    assert json.loads((built / "annoy/manifest.json").read_text())["version"] == 1


def test_probabilities_and_the_way_back_outlive_a_change_of_numbers(directory, built, photo, answers):
    line = Curve("platt", (0.0, 1.0), (0.1, 0.9))
    published = generations.read_manifest(directory)
    publishing.amend(directory, replace(published, calibration=Calibration("product", 10, 0.1, line, line)))
    by_codes = answers(directory, photo, k=40)

    report = build_index(built / "catalog", directory, backend="annoy")

    changed = generations.read_manifest(directory)
    assert (report.embedded, changed.numbers, changed.version) == (0, "float32", 1)
    assert changed.calibration is not None
    assert answers(directory, photo, k=40) == answers(built / "exact", photo, k=40)
    back = rollback(directory)
    assert (back.numbers, back.version, back.calibration is None) == ("float16", 2, False)
    assert answers(directory, photo, k=40) == by_codes
    assert check(directory, deep=True) == []


def test_vectors_that_are_not_of_the_embeddings_are_found_by_a_deep_check(directory):
    published = generations.read_manifest(directory)
    file = directory / published.folder / generations.VECTORS
    file.write_bytes(file.read_bytes()[:-2] + np.float16(0.1).tobytes())
    record = integrity.file_record(file)
    files = {**published.files, f"{published.folder}/{generations.VECTORS}": record}
    publishing.amend(directory, replace(published, files=files))  # as if they had been published so

    assert "not made from the embeddings" in str(check(directory, deep=True))


def test_float16_is_damage_where_float32_is_announced(directory):
    published = generations.read_manifest(directory)

    with pytest.raises(DamagedIndexError, match=r"float16 \(40, .*expected float32 \(40, "):
        open_array(directory / published.folder / generations.VECTORS, 40, published.dims)
    assert Manifest.from_json(published.to_json()) == published


# --- the budget


@pytest.mark.parametrize(
    ("backend", "count", "spare", "name"),
    [
        *(("auto", 1_000_000, 2900, "annoy"), ("auto", 1_000_000, 600, CODES), ("auto", 1000, 1.1, "exact")),
        *(("faiss", 1_000_000, 2100, "faiss"), ("faiss", 1_000_000, 600, CODES), ("exact", 1_000_000, 1100, "exact")),
        *(("auto", 1000, 1, CODES), ("auto", 0, 0, "exact"), (CODES, 1_000_000, 600, CODES)),
    ],
)
def test_codes_are_chosen_where_whole_vectors_do_not_fit(backend, count, spare, name):
    options = SearchOptions(backend, memory_budget=PROGRAM_BYTES + round(1e6 * spare))

    assert chosen_backend(options, count, 256).name == name
    assert chosen_backend(replace(options, memory_budget=None), count, 256).name != (backend == "auto" and CODES)


@pytest.mark.parametrize(
    ("backend", "needed"),
    [("auto", "faiss-codes, need 812 MB"), ("exact", "need 1,274 MB"), ("annoy", "need 3,098 MB")],
)
def test_a_budget_that_nothing_fits_says_what_would(backend, needed):
    with pytest.raises(UsageError, match=needed):
        chosen_backend(SearchOptions(backend, memory_budget=300_000_000), 1_000_000, 256)


def test_a_budget_is_kept_from_build_to_build_and_taken_back(built, tmp_path, capfd):
    index = Path(shutil.copytree(built / "exact", tmp_path / "index"))
    published = info(index).manifest
    whole = published.files[f"{published.folder}/{generations.VECTORS}"].size

    for options, names in (
        (["--backend", "faiss", "--memory-budget", "1GB"], ("faiss", "float32")),
        (["--memory-budget", f"{(PROGRAM_BYTES + whole + 30_000) / 1e6:.3f} mb"], (CODES, "float16")),
        (["--seed", "3"], (CODES, "float16")),
        (["--memory-budget", "none"], ("faiss", "float32")),
    ):
        assert main(["build-index", str(built / "catalog"), "--index", str(index), *options]) == 0
        published = info(index).manifest
        assert (published.backend.name, published.numbers) == names
    capfd.readouterr()

    assert main(["build-index", str(built / "catalog"), "--index", str(index), "--memory-budget", "200MB"]) == 2

    assert "the memory budget of 200 MB is too small: 40 vectors" in capfd.readouterr().err


@pytest.mark.parametrize("wrong", ["much", "-1GB", "0", "0GB", "1TB", "1e9", "", "1..5GB", "9" * 30 + "GB"])
def test_what_is_no_size_is_a_usage_error(tmp_path, lay_out, wrong):
    with pytest.raises(UsageError, match=r"memory_budget must be a size|expected a value"):
        build_index(tmp_path, tmp_path / "index", memory_budget=wrong)


def test_a_budget_for_codes_without_faiss_names_what_is_missing(built, directory, monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)

    with pytest.raises(MissingComponentError, match="faiss"):
        build_index(built / "catalog", directory, seed=4)
