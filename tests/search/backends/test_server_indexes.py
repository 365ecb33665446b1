"""What holds for an index whose candidates are in a server, from the command line down to real servers."""

import json
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from imgsearch import Index, build_index, rollback
from imgsearch.errors import ServerError
from imgsearch.search import filtered, nearest
from imgsearch.search.backends import SERVERS
from imgsearch.search.backends.pushed import Comparison
from imgsearch.search.backends.server import ServerCandidates
from imgsearch.search.hits import Filter
from imgsearch.store import generations

pytestmark = [pytest.mark.servers, pytest.mark.usefixtures("quick_builds")]

K = 8


@pytest.fixture(scope="module")
def made(server, shared, lay_out) -> Path:
    """A catalog of sixty images with data of the shop, and an index of it in the server. Not to be changed."""

    def fill(folder: Path) -> None:
        lay_out(folder / "catalog", 60)
        rows = [f"{'abc'[n % 3]}/{n:04d}.png,{n},{['red', 'a%b', 'x'][n % 3]},{n % 7 / 2}" for n in range(60)]
        (folder / "shop.csv").write_text("\n".join(["path,price,color,size", *rows]))
        build(folder, server)

    return shared(f"server-{server.port}", fill)


@pytest.fixture
def work(made, server, tmp_path) -> Path:
    """The same, to be changed: an index that has moved has a collection of its own."""
    folder = Path(shutil.copytree(made, tmp_path / "work"))
    build(folder, server)
    return folder


def build(folder: Path, server, **options: object) -> None:
    options = {"backbone": "handcrafted", "backend": server.address, "metadata": folder / "shop.csv"} | options
    build_index(folder / "catalog", folder / "index", **options)


def change(folder: Path, lay_out, number: int) -> None:
    """Two images more, one less, and one that has moved."""
    lay_out(folder / "catalog", 2, first=1000 + 2 * number)
    files = sorted((folder / "catalog/a").iterdir())
    files[0].unlink()
    files[1].rename(files[1].with_name(f"moved-{number}.png"))


def ids_in(server, index: Path) -> set[int]:
    settings = generations.read_manifest(index).backend
    one = server.backend.open_server(server.address, settings.collection, generations.read_manifest(index).dims)
    try:
        return set(one.ids().tolist())
    finally:
        one.close()


def vectors_of(index: Path) -> np.ndarray:
    manifest = generations.read_manifest(index)
    return np.load(index / manifest.folder / generations.VECTORS)


def answer(opened: Index, vector: np.ndarray, k: int = K, **options: object) -> list[tuple[str, float]]:
    return [(hit.path, hit.score) for hit in opened.search_vector(vector, k, **options)]


@pytest.fixture
def asked(monkeypatch) -> list[tuple[Comparison, ...]]:
    """What the server is asked for, which is so also where few items satisfy conditions, and in a small catalog."""
    monkeypatch.setattr(nearest, "FEW_BESIDE_SERVER", -1)
    monkeypatch.setattr(filtered, "_LARGEST_PART", 1)
    monkeypatch.setattr(filtered, "_PLAIN_QUESTIONS", 0)
    found: list[tuple[Comparison, ...]] = []
    candidates = ServerCandidates.candidates

    def ask(self: ServerCandidates, vector: np.ndarray, k: int) -> np.ndarray:
        found.append(self.where)
        return candidates(self, vector, k)

    monkeypatch.setattr(ServerCandidates, "candidates", ask)
    return found


@pytest.fixture
def puts(server, monkeypatch) -> list[int]:
    """How many vectors were put each time."""
    counts: list[int] = []
    backend = SERVERS[type(server).__name__.removesuffix("Server").lower()]
    open_server = backend._open_server

    def open_and_count(*arguments: object) -> object:
        opened = open_server(*arguments)
        put = opened.put
        opened.put = lambda ids, vectors, fields: counts.append(len(ids)) or put(ids, vectors, fields)
        return opened

    monkeypatch.setattr(backend, "_open_server", open_and_count)
    return counts


def hits_of(done) -> list[object]:
    assert done.returncode == 0, done.stderr
    return [[(hit["path"], hit["score"]) for hit in json.loads(line)["hits"]] for line in done.stdout.splitlines()]


def test_a_query_has_the_hits_and_scores_of_exact_search(made, photo, imgsearch):
    images = [photo, *sorted((made / "catalog").rglob("*.png"))[:10]]
    common = ("query", *images, "--index", made / "index", "-k", K, "--format", "jsonl")
    done = imgsearch(*common)

    assert hits_of(done) == hits_of(imgsearch(*common, "--exact"))
    plans = {json.loads(line)["plan"] for line in done.stdout.splitlines()}
    assert plans == {generations.read_manifest(made / "index").backend.name}


@pytest.mark.parametrize(
    "where",
    [
        *("price < 30", "price >= 7 AND size = 1.5", "color = 'a%b'", "color = 'red' AND price > 10", "color = 'none'"),
        *("price < 30 AND path LIKE 'a/%'", "price < 10 OR price > 50", "category = 'b' AND size > 0", "1 <= size"),
        *("color = '''; DROP TABLE items; --'", "color = 'a_b'", "price = 12.0", "product = 'b/0001'"),
    ],
)
def test_a_query_with_a_condition_has_the_hits_of_exact_search(made, asked, where):
    with Index.open(made / "index") as opened:
        for vector in vectors_of(made / "index")[::20]:
            filter_ = Filter(where)
            assert answer(opened, vector, 2, filter=filter_) == answer(opened, vector, 2, filter=filter_, exact=True)
    assert asked


def test_a_category_with_those_below_it_is_asked_of_the_server(made, asked):
    with Index.open(made / "index") as opened:
        vector = vectors_of(made / "index")[0]
        found = answer(opened, vector, filter=Filter(category="b"))

        assert found == answer(opened, vector, filter=Filter(category="b"), exact=True)
        assert {path[0] for path, _ in found} == {"b"}
    assert asked == [(Comparison("category", "below", "b"),)]  # once, and found enough


def test_a_build_puts_only_what_changed_and_deletes_what_two_generations_do_not_need(work, server, puts, lay_out):
    before = ids_in(server, work / "index")
    assert len(before) == 60

    build(work, server)
    assert puts == []

    change(work, lay_out, 1)
    build(work, server)
    assert sum(puts) == 3
    assert len(ids_in(server, work / "index")) == 63
    assert before <= ids_in(server, work / "index")

    change(work, lay_out, 2)
    build(work, server)
    assert sum(puts) == 6
    assert len(before - ids_in(server, work / "index")) == 2


def test_a_change_of_the_shops_data_is_a_change(work, server, puts):
    text = (work / "shop.csv").read_text()
    (work / "shop.csv").write_text(text.replace("0003.png,3,", "0003.png,3000,"))
    build(work, server)

    assert puts == [1]
    vector = vectors_of(work / "index")[0]
    settings = generations.read_manifest(work / "index").backend
    one = server.backend.open_server(server.address, settings.collection, len(vector))
    assert len(one.nearest(vector, K, 100, [Comparison("price", ">", 100)])) == 1
    one.close()


def test_every_answer_is_that_of_one_generation_while_others_are_published(work, server, lay_out):
    vector = np.asarray(vectors_of(work / "index")[5])
    expected: dict[int, object] = {}
    ended, failures = threading.Event(), []

    def note() -> None:
        with Index.open(work / "index") as opened:
            expected[opened.manifest.generation] = answer(opened, vector, exact=True)

    def read(number: int) -> list[tuple[int, object]]:
        found = []
        kept = Index.open(work / "index") if number % 2 else None
        while not ended.wait(0.02) or not found:
            if kept is not None:
                found.append((kept.manifest.generation, answer(kept, vector)))
                continue
            with Index.open(work / "index") as opened:
                found.append((opened.manifest.generation, answer(opened, vector)))
        if kept is not None:
            kept.close()
        return found

    note()
    with ThreadPoolExecutor(8) as threads:
        reading = [threads.submit(read, number) for number in range(8)]
        try:
            for number in range(3):
                change(work, lay_out, number)
                build(work, server)
                note()
        finally:
            ended.set()
        answers = [each for future in reading for each in future.result()]

    failures = [(generation, found) for generation, found in answers if found != expected[generation]]
    assert failures == []
    assert len({generation for generation, _ in answers}) > 1
    assert len({str(found) for found in expected.values()}) > 1


def test_after_a_rollback_the_generation_before_answers_and_the_next_build_goes_on(work, server, lay_out):
    with Index.open(work / "index") as opened:
        vector = vectors_of(work / "index")[5]
        before = answer(opened, vector)
    for number in range(2):
        change(work, lay_out, number)
        build(work, server)
        if number == 0:
            with Index.open(work / "index") as opened:
                first = answer(opened, vector)
    rollback(work / "index")

    with Index.open(work / "index") as opened:
        assert answer(opened, vector) == first == answer(opened, vector, exact=True)
    build(work, server)
    with Index.open(work / "index") as opened:
        assert answer(opened, vector) == answer(opened, vector, exact=True) != before


def test_a_server_that_was_killed_and_started_again_answers_as_before(made, server):
    vectors = vectors_of(made / "index")
    with Index.open(made / "index") as opened:
        before = [answer(opened, vector) for vector in vectors]

        server.kill()
        server.start()

        assert [answer(opened, vector) for vector in vectors] == before


def test_while_the_server_is_down_queries_fail_or_compare_every_image(work, server, photo, imgsearch, lay_out):
    asked = ("query", photo, "--index", work / "index", "--format", "jsonl")
    exact = hits_of(imgsearch(*asked, "--exact"))
    manifest = (work / "index/manifest.json").read_bytes()
    server.stop()
    try:
        refused = imgsearch(*asked)
        answered = imgsearch(*asked, "--fallback", "exact")
        change(work, lay_out, 1)
        built = imgsearch("build-index", work / "catalog", "--index", work / "index")
    finally:
        server.start()

    assert refused.returncode == 12
    assert str(server.port) in refused.stderr
    assert "--fallback exact" in refused.stderr
    assert hits_of(answered) == exact
    assert "every image is compared" in answered.stderr
    assert built.returncode == 12
    assert (work / "index/manifest.json").read_bytes() == manifest
    build(work, server)
    assert hits_of(imgsearch(*asked)) == hits_of(imgsearch(*asked, "--exact"))


def test_what_the_server_has_lost_is_found_out_and_put_again(work, server, imgsearch):
    settings = generations.read_manifest(work / "index").backend
    one = server.backend.open_server(server.address, settings.collection, vectors_of(work / "index").shape[1])
    one.drop()
    vector = vectors_of(work / "index")[5]
    with Index.open(work / "index") as opened:
        with pytest.raises(ServerError):
            answer(opened, vector)
        expected = answer(opened, vector, exact=True)
    assert imgsearch("check", "--index", work / "index").returncode != 0

    build(work, server)

    assert len(one.ids()) == 60
    one.close()
    with Index.open(work / "index") as opened:
        assert answer(opened, vector) == expected
    assert imgsearch("check", "--index", work / "index").returncode == 0


def test_info_names_the_server_and_the_collection_and_no_secret(made, server, imgsearch):
    done = imgsearch("info", "--index", made / "index")

    assert done.returncode == 0
    shown = "".join(done.stdout.split())
    assert server.address in shown
    assert generations.read_manifest(made / "index").backend.collection in shown
    assert "open sesame" not in done.stdout + (made / "index/manifest.json").read_text()


def test_an_index_that_leaves_the_server_takes_its_collection_away(work, server):
    settings = generations.read_manifest(work / "index").backend
    one = server.backend.open_server(server.address, settings.collection, vectors_of(work / "index").shape[1])
    assert len(one.ids()) == 60

    build(work, server, backend="exact")
    assert len(one.ids()) == 60  # for a rollback
    (work / "catalog/a/0000.png").unlink()
    build(work, server, backend="exact")

    assert len(one.ids()) == 0
    one.close()


def test_a_copy_of_an_index_does_not_change_what_the_original_has(made, work, server, lay_out):
    before = ids_in(server, made / "index")
    change(work, lay_out, 1)
    build(work, server)

    manifests = [generations.read_manifest(each / "index").backend.collection for each in (made, work)]
    assert manifests[0] != manifests[1]
    assert ids_in(server, made / "index") == before
