"""One open index for many threads: the answers of one thread, an end at any moment, and none after a fork."""

import contextlib
import functools
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from imgsearch import Classifier, Index, build_index, detect
from imgsearch.errors import ImgsearchError, UsageError
from imgsearch.images import decode
from imgsearch.images import photo as photos
from imgsearch.images.boxes import Box
from imgsearch.images.policy import FilePolicy
from imgsearch.images.steps import NO_STEPS
from imgsearch.images.workers.query_decoders import QueryDecoders
from imgsearch.search.hits import Filter, vote
from imgsearch.search.views import QueryImage
from imgsearch.store.generations import read_manifest

THREADS = 4


@pytest.fixture(scope="module")
def shop(tiny_models, lay_out, painted, tmp_path_factory) -> Path:
    """A catalog, an index of it with a detector, and files to ask with. Not to be changed: copy it."""
    folder = tmp_path_factory.mktemp("shop")
    lay_out(folder / "catalog", 24)
    models = {"backbone": str(tiny_models / "metric.keras"), "detector": tiny_models / "detector.keras"}
    build_index(folder / "catalog", folder / "index", precision="f32", backend="annoy", trees=4, adapt=False, **models)
    scene = np.random.default_rng(0).integers(150, 256, (200, 400, 3), np.uint8)
    scene[0:100, 300:400] = 5
    scene[100:200, 100:200] = 20
    jpeg = cv2.imencode(".jpg", scene)[1].tobytes()
    files = {"scene.jpg": jpeg, "cut.jpg": jpeg[:9000], "photo.png": painted(777), "text.png": b"not an image"}
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder


Question = Callable[[Index], object]


@pytest.fixture(scope="module")
def questions(shop) -> list[Question]:
    """All that an index with a detector can be asked, and what it refuses."""
    known, scene, photo = (str(shop / name) for name in ("catalog/b/0004.png", "scene.jpg", "photo.png"))
    return [
        lambda index: index.search(known),
        lambda index: index.search(scene),
        lambda index: index.search(photo, 30, regions=4),
        lambda index: index.search(photo, regions="whole", exact=True),
        lambda index: index.search(scene, filter=Filter(where="category = 'b'")),
        lambda index: index.search(known, filter=Filter(where="category != 'b'", min_score=-1)),
        lambda index: index.search(photo, rerank=True),
        lambda index: index.search_objects(scene, 3, rerank=True),
        lambda index: index.search_vector(np.array(index.nearest.vectors[7])),
        lambda index: detect(index, scene),
        lambda index: vote(index.search(photo, 10)),
        lambda index: index.search(str(shop / "text.png")),
        lambda index: index.search(str(shop / "cut.jpg")),
        lambda index: index.search(known, filter=Filter(where="(SELECT count(*) FROM rejected) = 0")),
        lambda index: (index.items.sample(9), list(index.items.shuffled()), list(index.items.damaged())),
        lambda index: (list(index.items.column("category")), index.items.duplicates_of(3)),
    ]


def outcome(question: Question, index: Index) -> object:
    """The answer, or the error that was raised on purpose."""
    try:
        return question(index)
    except ImgsearchError as error:
        return type(error), error.message


def in_threads(work: Callable[[int], object], count: int = THREADS) -> list[object]:
    """What `work(number)` returned in each of some threads, which begin at once; raises what one of them raised."""
    start = threading.Barrier(count)
    returned: list[object] = [None] * count
    raised: list[BaseException] = []

    def run(number: int) -> None:
        try:
            start.wait()
            returned[number] = work(number)
        except BaseException as error:  # noqa: BLE001  # raised below
            raised.append(error)

    threads = [threading.Thread(target=run, args=(number,), daemon=True) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
        assert not thread.is_alive(), "it hangs"
    if raised:
        raise raised[0]
    return returned


def alone(directory: Path, questions: list[Question]) -> list[object]:
    """What each question is answered in one thread."""
    with Index.open(directory) as index:
        return [outcome(question, index) for question in questions]


@pytest.mark.parametrize("for_many", [False, True])
def test_threads_get_the_answers_of_one_thread(shop, questions, for_many):
    expected = alone(shop / "index", questions)

    def ask_all(number: int) -> None:
        for turn in range(len(questions)):
            place = (turn + 3 * number) % len(questions)
            assert outcome(questions[place], index) == expected[place], place

    with Index.open(shop / "index", for_many=for_many) as index:  # several open at once what is opened late
        in_threads(ask_all)


def test_with_decoders_nothing_that_was_asked_with_is_decoded_in_this_process(shop, monkeypatch):
    index_of = functools.partial(Index.open, shop / "index")
    asked = {name: (shop / name).read_bytes() for name in ("scene.jpg", "photo.png", "text.png", "cut.jpg")}
    asked["scans.jpg"] = asked["scene.jpg"][:-2] + b"\xff\xda\0\0" * 1000 + b"\xff\xd9"
    asked["known.png"] = (shop / "catalog/b/0004.png").read_bytes()
    questions = [
        lambda index, image: index.search(image),
        lambda index, image: index.search(image, regions="whole"),
        lambda index, image: index.search(image, regions=4, rerank=True),
        lambda index, image: index.search(image, box=Box(3, 4, 20, 20), diverse=0.5),
        lambda index, image: index.search_objects(image, 3, rerank=True),
        lambda index, image: index.search_together([image, image], fuse="mean"),
        lambda index, image: index.viewer.detections(image, 0.1),
    ]

    def answers(index: Index, decoders: QueryDecoders | None) -> list[object]:
        return [
            outcome(lambda index: question(index, QueryImage(data, index.manifest.policy, decoders=decoders)), index)  # noqa: B023
            for data in asked.values()
            for question in questions
        ]

    decoded_here: list[bytes] = []
    decode_native = decode._decode_native
    monkeypatch.setattr(
        decode, "_decode_native", lambda data, *rest: decoded_here.append(data) or decode_native(data, *rest)
    )
    with index_of() as index:
        expected = answers(index, None)
    assert set(asked.values()) & set(decoded_here)
    decoded_here.clear()
    spec, policy = index.manifest.encoder, index.manifest.policy
    with (
        index_of(for_many=True) as index,
        contextlib.closing(QueryDecoders(2, policy, spec.size, spec.fit, NO_STEPS)) as decoders,
    ):
        assert answers(index, decoders) == expected

    assert decoded_here == []


@pytest.mark.parametrize("backend", ["annoy", "faiss", "exact"])
def test_each_backend_answers_threads_as_it_answers_one(built, photo, tmp_path, backend):
    directory = built / backend
    if backend == "faiss":
        directory = tmp_path / "index"
        build_index(built / "catalog", directory, backbone="handcrafted", backend=backend)
    asked = [photo, *sorted((built / "catalog").rglob("*.png"))[:7]]
    questions = [lambda index, image=image: index.search(image, 7) for image in asked]
    expected = alone(directory, questions)
    with Index.open(directory) as index:
        for found in in_threads(lambda _: [outcome(question, index) for question in questions]):
            assert found == expected


def test_threads_are_answered_by_their_generation_while_others_are_published_and_it_is_swept(
    shop, questions, painted, tmp_path
):
    directory = shutil.copytree(shop / "index", tmp_path / "index")
    catalog = shutil.copytree(shop / "catalog", tmp_path / "catalog")
    expected = alone(directory, questions)
    is_published = threading.Event()

    def work(number: int) -> int:
        rounds = 0
        while number and not (is_published.is_set() and rounds):
            for place, question in enumerate(questions):
                assert outcome(question, index) == expected[place], place
            rounds += 1
        if not number:
            try:
                for new in range(2):
                    (catalog / f"new{new}.png").write_bytes(painted(500 + new))
                    build_index(catalog, directory)
            finally:
                is_published.set()
        return rounds

    with Index.open(directory) as index, Index.open(directory) as late:
        folder = directory / index.manifest.folder
        in_threads(work, 3)
        assert read_manifest(directory).generation == index.manifest.generation + 2
        assert not folder.exists()
        # What an index opens late has been removed by now; answers are the same, compared with every vector.
        in_threads(lambda _: [outcome(question, late) for question in questions] == expected or pytest.fail("other"))


def test_an_index_whose_encoder_was_swept_before_it_was_needed_says_to_open_it_anew(shop, painted, tmp_path):
    directory = shutil.copytree(shop / "index", tmp_path / "index")
    catalog = shutil.copytree(shop / "catalog", tmp_path / "catalog")
    with Index.open(directory) as index:
        for new in range(2):
            (catalog / f"new{new}.png").write_bytes(painted(600 + new))
            build_index(catalog, directory, backbone="handcrafted", detector="none")
        with pytest.raises(UsageError, match="was rebuilt with another encoder: open it anew"):
            index.search(shop / "photo.png")
        assert index.search(catalog / "b/0004.png")[0].path == "b/0004.png"


def test_a_classifier_may_be_used_by_threads(tiny_models, shop):
    classifier = Classifier.open(tiny_models / "classes.keras")
    images = sorted((shop / "catalog").rglob("*.png"))
    expected = [classifier.classify(image) for image in images]
    for found in in_threads(lambda _: [classifier.classify(image) for image in images]):
        assert found == expected


CLOSED = (UsageError, "this Index is closed: open it anew")


def test_whoever_searches_while_an_index_is_closed_gets_the_answer_or_is_told_so(shop, questions):
    expected = alone(shop / "index", questions)
    for wait in range(5):  # at various moments, the first before anything is open
        index = Index.open(shop / "index")

        def work(number: int, wait: int = wait, index: Index = index) -> None:
            if number == 0:
                for question in questions[:wait]:
                    outcome(question, index)
                index.close()
                return
            is_open = True
            while is_open:
                for place, question in enumerate(questions):
                    found = outcome(question, index)
                    assert found in (expected[place], CLOSED), place
                    is_open = is_open and found != CLOSED

        in_threads(work)


def test_a_closed_index_says_so(shop, questions):
    with Index.open(shop / "index") as used:
        for question in questions:
            outcome(question, used)
    unused = Index.open(shop / "index")
    unused.close()
    unused.close()
    for index in (used, unused):
        assert {outcome(question, index) for question in questions} == {CLOSED}
        assert outcome(lambda each: each.viewer.whole((shop / "photo.png").read_bytes()), index) == CLOSED
        assert outcome(lambda each: each.nearest.backend(), index) == CLOSED
        assert len(index) == 24


def test_what_iterates_over_items_ends_with_the_index(built, monkeypatch):
    monkeypatch.setattr("imgsearch.store.database._BATCH", 2)
    index = Index.open(built / "exact")
    rows = index.items.shuffled()
    first = [next(rows), next(rows)]
    index.close()
    assert len(set(first)) == 2
    with pytest.raises(UsageError, match="closed"):
        next(rows)


def test_nothing_is_left_of_a_closed_index(shop, questions):
    def left() -> tuple[set[str], set[threading.Thread], str]:
        files = set()
        for descriptor in Path("/proc/self/fd").iterdir():
            with contextlib.suppress(OSError):  # that of the listing itself
                files.add(str(descriptor.readlink()))
        children = "".join(path.read_text() for path in Path("/proc/self/task").glob("*/children"))
        return {file for file in files if str(shop) in file}, set(threading.enumerate()), children

    before = left()
    with Index.open(shop / "index") as index:
        in_threads(lambda number: [outcome(each, index) for each in questions[number::THREADS]])
        assert left() != before
    index = None  # with the last reference the maps go
    assert left() == before


def test_images_are_decoded_by_several_threads_at_once(painted, monkeypatch):
    meeting = threading.Barrier(2, timeout=60)
    open_photo = photos.open_photo
    monkeypatch.setattr(photos, "open_photo", lambda *given: (meeting.wait(), open_photo(*given))[1])
    queries = [QueryImage(painted(seed), FilePolicy()) for seed in range(2)]
    decoded = in_threads(lambda number: queries[number].photo.pixels.shape, 2)
    assert decoded == [(32, 32, 3)] * 2


# Eight threads that encode before anything was: OpenVINO's Python has to be set up by one of them.
FIRST_USE = r"""
import sys, threading
from imgsearch import Index
directory, photo = sys.argv[1:]
start = threading.Barrier(8)
def work():
    start.wait()
    with Index.open(directory) as index:
        sys.stdout.write(index.search(photo)[0].path + "\n")
threads = [threading.Thread(target=work) for _ in range(8)]
for thread in threads:
    thread.start()
"""


def test_the_first_images_of_a_process_may_be_encoded_by_many_threads(shop):
    command = [sys.executable, "-c", FIRST_USE, shop / "index", shop / "photo.png"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert len(done.stdout.split()) == 8
    assert len(set(done.stdout.split())) == 1


# The children of a process in which threads search all the while: each ends by itself, in the usual way, or by a clock.
FORK = """
import os, signal, sys, threading
from imgsearch import Index
from imgsearch.errors import ImgsearchError
directory, known, photo = sys.argv[1:]

def told(work, *given):
    try:
        return work(*given)[0].path
    except ImgsearchError as error:
        return error.message

index = Index.open(directory)
expected = told(index.search, photo)
is_over = threading.Event()
def work():
    while not is_over.is_set():
        for image in (photo, known):
            index.search(image)
threads = [threading.Thread(target=work) for _ in range(3)]
for thread in threads:
    thread.start()
codes = []
for _ in range(4):
    child = os.fork()
    if not child:
        is_over.set()
        signal.alarm(60)
        calls = (index.search, photo), (index.search_objects, photo), (index.items.sample, 1), (lambda: index.viewer,)
        print({told(*call) for call in calls} or "", flush=True)
        index.close()
        with Index.open(directory) as own:
            print(told(own.search, known), "|", told(own.search, photo), flush=True)
        sys.exit(7)
    codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
is_over.set()
for thread in threads:
    thread.join()
print(codes, told(index.search, photo) == expected)
"""


def test_a_fork_of_a_process_that_searches_is_told_so_and_ends(shop):
    known = shop / "catalog/b/0004.png"
    command = [sys.executable, "-c", FORK, shop / "index", known, shop / "photo.png"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        said = process.communicate(timeout=300)[0].splitlines()
    refusal = str({f"this Index was opened in another process (pid {process.pid}): open it anew"})
    started = f"OpenVINO was started in another process (pid {process.pid}) and does not run in a fork of it"
    assert said == [refusal, f"b/0004.png | {started}"] * 4 + ["[7, 7, 7, 7] True"]
