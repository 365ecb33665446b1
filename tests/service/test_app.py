"""What the service answers: as the program does, only what the index names, and what feedback keeps."""

import hashlib
import json
import os
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import quote_from_bytes

import cv2
import numpy as np
import pytest

from imgsearch import build_index
from imgsearch.personal.feedback import FeedbackStore
from imgsearch.search.views import View
from imgsearch.service import answers
from imgsearch.service.app import make_app
from imgsearch.service.opened import Answer, Seen
from imgsearch.service.settings import Settings

SESSION = "5" * 32


def search(client, image=None, **fields):
    """Ask with an image as a form, or without one in JSON."""
    if image is None:
        return client.post("/search", json=fields)
    return client.post("/search", data=fields, files={"image": ("photo.jpg", image, "image/jpeg")})


def address(path: str) -> str:
    return "/items/" + quote_from_bytes(os.fsencode(path))


def without(answer: dict, *names: str) -> dict:
    """An answer as the program gives it: without what only the service says."""
    hits = [{name: value for name, value in hit.items() if name != "url"} for hit in answer.get("hits", ())]
    return {**{name: value for name, value in answer.items() if name not in ("id", "seconds", *names)}, "hits": hits}


@pytest.mark.parametrize(
    ("options", "fields"),
    [
        ((), {}),
        (("--top-k", "3", "--where", "price < 20"), {"k": 3, "where": "price < 20"}),
        (("--by", "product", "--min-score", "0.2"), {"by": "product", "min_score": 0.2}),
        (("--category", "odd", "--exact"), {"category": "odd", "exact": True}),
        (("--range", "price=12..15"), {"range": "price=12..15"}),
        (("--box", "2,2,40,40"), {"box": "2,2,40,40"}),
        (("--rerank", "geometric"), {"rerank": "geometric"}),
        (("--diverse", "0.5"), {"diverse": 0.5}),
    ],
)
def test_an_image_is_answered_as_the_program_answers_it(shop, client, jpeg, imgsearch, tmp_path, options, fields):
    (tmp_path / "photo.jpg").write_bytes(jpeg)
    program = imgsearch("query", "photo.jpg", "--index", shop / "index", "--format", "json", *options)

    answer = search(client, jpeg, **fields)

    assert answer.status_code == 200, answer.text
    assert without(answer.json(), "query") == without(json.loads(program.stdout)[0], "query")


def test_objects_of_an_image_are_answered_as_the_program_answers_them(shop, client, jpeg, imgsearch, tmp_path):
    (tmp_path / "photo.jpg").write_bytes(jpeg)
    program = imgsearch("query", "photo.jpg", "--objects", "--index", shop / "index", "--format", "json")

    answer = search(client, jpeg, objects=True).json()

    expected = json.loads(program.stdout)[0]["objects"]
    assert [each["box"] for each in answer["objects"]] == [each["box"] for each in expected]
    assert [[hit["path"] for hit in each["hits"]] for each in answer["objects"]] == [
        [hit["path"] for hit in each["hits"]] for each in expected
    ]


def test_words_are_answered_where_the_index_has_them(shop, client, imgsearch):
    program = imgsearch("query", "--text", "hostile", "--index", shop / "index", "--format", "json")

    answer = search(client, text=["hostile"])

    assert without(answer.json()) == without(json.loads(program.stdout)[0])
    assert answer.json()["hits"][0]["path"] == f"odd/{'<img src=x onerror=alert(1)>.png'}"


def test_an_item_is_answered_alike_by_search_and_by_its_address(client):
    path = client.post("/search", json={"text": ["hostile"]}).json()["hits"][0]["path"]

    by_search, by_address = search(client, item=path, k=4), client.get(f"/similar/{address(path)[7:]}?k=4")

    assert without(by_search.json()) == without(by_address.json())
    assert len(by_address.json()["hits"]) == 4


def test_a_second_question_of_the_same_kind_is_answered_from_memory_with_an_id_of_its_own(client, jpeg):
    first, second = (search(client, jpeg, k=7) for _ in range(2))
    other = search(client, jpeg, k=8)

    states = [answer.headers["cache-status"] for answer in (first, second, other)]
    assert states == ["imgsearch; fwd=miss", "imgsearch; hit", "imgsearch; fwd=miss"]
    assert {**first.json(), "id": ""} == {**second.json(), "id": ""}
    assert first.json()["id"] != second.json()["id"]


def test_a_condition_that_is_not_constant_is_asked_anew(client):
    path = "a"
    for _ in range(2):
        answer = search(client, text=["hostile"], where=f"random() <> 1 and path <> '{path}'")
        assert answer.headers["cache-status"] == "imgsearch; fwd=miss"


@pytest.mark.parametrize("kind", ["", "/image", "/thumbnail"])
def test_every_item_has_an_address_whatever_its_name(shop, client, kind):
    for file in sorted((shop / "catalog/odd").iterdir()):
        answer = client.get(address(f"odd/{os.fsdecode(os.fsencode(file.name))}") + kind)

        assert answer.status_code == 200, file
        if kind == "/image":
            assert answer.content == file.read_bytes()
            assert answer.headers["etag"] == f'"{hashlib.sha256(file.read_bytes()).hexdigest()}"'
            assert answer.headers["content-type"] == "image/png"
        elif kind == "/thumbnail":
            assert cv2.imdecode(np.frombuffer(answer.content, np.uint8), 1) is not None
        else:
            assert client.get("/" + answer.json()["url"]).json() == answer.json()


@pytest.mark.parametrize("kind", ["image", "thumbnail"])
def test_a_picture_that_is_known_is_not_sent_again(shop, client, kind):
    url = f"{address('odd/100% #1?.png')}/{kind}"
    tag = client.get(url).headers["etag"]

    again = client.get(url, headers={"If-None-Match": tag})

    assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)


@pytest.mark.parametrize(
    "path",
    [
        *("../products.csv", "..%2Fproducts.csv", "%2e%2e/products.csv", "odd/../../products.csv", "/etc/passwd"),
        *("%2Fetc%2Fpasswd", "odd", "", "%00", "odd/%00.png", "nothing.png", "image", "odd/image", "..", "%"),
    ],
)
@pytest.mark.parametrize("kind", ["", "/image", "/thumbnail"])
def test_nothing_but_what_the_index_names_is_sent(shop, client, path, kind):
    for name in (path, path.replace("products.csv", "index/manifest.json"), str(shop / "products.csv")):
        answer = client.get(f"/items/{name}{kind}")

        assert answer.status_code in (400, 404), answer.text
        assert answer.headers.get("content-type") in ("application/problem+json", None)


def test_an_image_that_has_changed_since_is_not_sent(own_shop, serve, tmp_path):
    outside = tmp_path / "outside.png"
    outside.write_bytes(b"\x89PNG\r\n\x1a\n secret")
    first, second = sorted((own_shop / "catalog").rglob("*.png"))[:2]
    client = serve(own_shop)
    first.write_bytes(outside.read_bytes())
    second.unlink()
    second.symlink_to(outside)

    for file in (first, second):
        for kind in ("image", "thumbnail"):
            answer = client.get(address(file.relative_to(own_shop / "catalog").as_posix()) + "/" + kind)
            assert answer.status_code == 404
            assert "secret" not in answer.text


def test_a_new_generation_answers_once_it_is_published(own_shop, serve, jpeg):
    client = serve(own_shop)
    before = search(client, jpeg).json()
    shutil.copy(min((own_shop / "catalog").rglob("*.png")), own_shop / "catalog/new.png")
    build_index(own_shop / "catalog", own_shop / "index", metadata=own_shop / "products.csv")

    def newer() -> dict | None:
        answer = search(client, jpeg).json()
        return answer if answer["index"]["generation"] > before["index"]["generation"] else None

    after = next(filter(None, iter(newer, 0)))

    assert after["index"]["count"] == before["index"]["count"] + 1
    assert "new.png" in [hit["path"] for hit in after["hits"]]


def test_an_index_that_is_gone_or_damaged_goes_on_to_answer_as_before(own_shop, serve, jpeg, caplog):
    client = serve(own_shop)
    before = search(client, jpeg).json()
    (own_shop / "index/manifest.json").write_text("{}")

    while not caplog.records:
        assert search(client, jpeg).json()["hits"] == before["hits"]

    assert "the one before answers" in caplog.text


def test_neighbors_name_category_and_product(client, jpeg):
    answer = client.post("/recognize", files={"image": ("x", jpeg)}, data={"k": "3"}).json()

    assert answer["by"] == "neighbors"
    for kind in ("categories", "products"):
        assert sum(each["probability"] for each in answer[kind]) == pytest.approx(1, abs=1e-5)
    assert answer["categories"][0]["class"] == min(each["class"] for each in answer["categories"][:1])


def test_feedback_is_kept_changed_and_forgotten(own_shop, serve, jpeg, imgsearch):
    client = serve(own_shop)
    answer = search(client, jpeg).json()
    first, second = (hit["path"] for hit in answer["hits"][:2])

    def judge(path, verdict):
        body = {"answer": answer["id"], "path": path, "verdict": verdict}
        return client.post("/feedback", json=body, headers={"Imgsearch-Session": SESSION}).status_code

    def kept():
        listed = imgsearch("feedback", "list", "--index", own_shop / "index", "--format", "json")
        return [(each["path"], each["verdict"]) for each in json.loads(listed.stdout)]

    assert [judge(first, "chosen"), judge(second, "chosen"), judge(second, "rejected")] == [204] * 3
    assert sorted(kept()) == sorted([(first, "chosen"), (second, "rejected")])
    assert judge(first, None) == 204
    assert kept() == [(second, "rejected")]
    assert client.delete("/feedback/session", headers={"Imgsearch-Session": "6" * 32}).json() == {"forgotten": 0}
    assert client.delete("/feedback/session", headers={"Imgsearch-Session": SESSION}).json() == {"forgotten": 1}
    assert kept() == []


@pytest.mark.parametrize(
    ("body", "session", "status"),
    [
        ({"answer": "0" * 32, "path": "a", "verdict": "chosen"}, SESSION, 410),
        ({"answer": "0" * 32, "path": "a", "verdict": "loved"}, SESSION, 400),
        ({"answer": "0" * 32, "path": "a", "verdict": "chosen"}, "me", 400),
    ],
)
def test_feedback_that_cannot_be_kept_is_refused(client, shop, body, session, status):
    answer = client.post("/feedback", json=body, headers={"Imgsearch-Session": session})

    assert answer.status_code == status
    assert not (shop / "index/feedback.sqlite").exists()


def test_an_order_that_was_never_learned_is_refused_with_what_to_do(client):
    for answer in (
        client.post("/search", json={"item": "cups/cups-00.png", "rank": "learned"}),
        client.get("/similar/cups/cups-00.png?rank=learned"),
    ):
        assert (answer.status_code, answer.json()["code"]) == (400, 2)
        assert "imgsearch train --objective rank" in answer.json()["hint"]


def test_feedback_to_an_item_that_was_not_shown_is_refused(client, shop, jpeg):
    body = {"answer": search(client, jpeg).json()["id"], "path": "nothing.png", "verdict": "chosen"}

    assert client.post("/feedback", json=body, headers={"Imgsearch-Session": SESSION}).status_code == 400
    assert not (shop / "index/feedback.sqlite").exists()


@pytest.mark.parametrize(
    ("image", "status", "cause"),
    [
        (b"", 422, "empty"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", 422, "unsupported_format"),
        (b"GIF89a" + b"\xff" * 40, 422, None),
        (b"%PDF-1.7 \xff\xd8\xff", 422, "not_an_image"),
        (b"PK\x03\x04" + bytes(100), 422, "not_an_image"),
    ],
)
def test_what_is_no_image_is_a_problem_with_the_cause_of_the_program(client, image, status, cause):
    answer = search(client, image)

    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")
    assert answer.json()["code"] == 4
    assert cause in (None, answer.json()["cause"])


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"k": "0"},
        {"k": "201"},
        {"where": "nonsense ="},
        {"color": "no color"},
        {"surprise": "1"},
        {"item": "nothing.png"},
        {"text": ["a"], "objects": True},
        {"box": [0, 0, 0, 0]},
    ],
)
def test_a_request_that_makes_no_sense_is_a_problem(client, fields):
    answer = search(client, **fields)

    assert (answer.status_code, answer.json()["code"]) == (400, 2)
    assert answer.json()["detail"]


def test_a_page_learns_what_it_can_ask_for(client):
    facts = client.get("/index").json()

    assert facts["count"] == sum(each["count"] for each in facts["categories"])
    assert {"name": "price", "kind": "integer"} in facts["columns"]
    assert (facts["has_words"], facts["model"], "blue" in facts["colors"]) == (True, False, True)


def test_metrics_count_answers_and_name_the_generation(client, jpeg):
    search(client, jpeg)

    text = client.get("/metrics").text

    assert "imgsearch_generation 1.0" in text
    assert "odd" not in text


def test_the_log_has_what_a_damaged_index_is_and_the_answer_no_file_of_this_machine(own_shop, serve, caplog):
    client = serve(own_shop)
    (own_shop / "index/feedback.sqlite").write_bytes(b"no database" * 500)

    answer = search(client, item=client.post("/search", json={"text": ["hostile"]}).json()["hits"][0]["path"])
    judged = client.delete("/feedback/session", headers={"Imgsearch-Session": SESSION})

    assert answer.status_code == 200  # which asks for no feedback
    assert (judged.status_code, judged.json()["code"]) == (503, 6)
    assert str(own_shop) not in judged.text
    assert f"request {judged.headers['x-request-id']}: {own_shop / 'index/feedback.sqlite'} is damaged" in caplog.text


def test_too_little_memory_is_no_bug(client, monkeypatch, caplog):
    def fail(*_):
        raise MemoryError

    monkeypatch.setattr("imgsearch.service.answers.answer", fail)

    assert search(client, text=["anything else"]).status_code == 503
    assert "memory" in caplog.text
    assert "bug" not in caplog.text


@pytest.mark.parametrize("address", ["/search", "/recognize"])
def test_items_are_not_asked_with_by_the_names_of_files_of_this_machine(shop, client, address):
    path = client.post("/search", json={"text": ["hostile"]}).json()["hits"][0]["path"]
    assert client.post(address, json={"item": path}).status_code == 200

    for name in (str(shop / "catalog" / path), f"./{path}", f"odd/../{path}"):
        answer = client.post(address, json={"item": name})
        assert (answer.status_code, answer.json()["code"]) == (400, 2), name


@pytest.mark.parametrize(
    "where",
    [
        "instr(hex(zeroblob(49000)) || path, hex(zeroblob(24000)) || '1') > 0",
        "rtrim(path, path || 'a') = ''",
        "length(replace(path, 'a', path)) > 0",
        "(select count(*) from items a, items b, items c) > 5",
        "exists(SELECT 1)",
    ],
)
def test_conditions_of_strangers_have_no_functions_that_take_long(client, where):
    answer = search(client, text=["hostile"], where=where)

    assert (answer.status_code, answer.json()["code"]) == (400, 2)


def test_conditions_may_have_usual_functions_and_speak_of_select(client):
    where = "lower(title) like '%select%' or instr(title, 'hostile') > 0 and has(price, price) and round(price) > 0"

    assert len(search(client, text=["hostile"], where=where).json()["hits"]) == 1


@pytest.mark.parametrize("way", ["where", "image"])
def test_what_takes_long_keeps_nobody_waiting_but_others_of_its_kind(shop, serve, jpeg, monkeypatch, way):
    client = serve(shop)
    has_begun, may_end = threading.Event(), threading.Event()
    found = answers.answer

    def slow(generation, asked, query, *more):
        if asked.where or query:
            has_begun.set()
            may_end.wait()
        return found(generation, asked, query, *more)

    monkeypatch.setattr(answers, "answer", slow)
    with ThreadPoolExecutor(8) as clients:
        given = {"text": ["hostile"], "where": "price > 0"} if way == "where" else {"image": jpeg}
        waiting = [clients.submit(search, client, **given, k=k) for k in range(1, 9)]
        has_begun.wait()
        others = [search(client, text=["hostile"], category="odd", k=k).status_code for k in range(1, 4)]
        may_end.set()

    assert others == [200] * 3
    assert [each.result().status_code for each in waiting] == [200] * 8


def test_memory_of_answers_counts_their_vectors_too():
    views = tuple(View(np.zeros(1000, np.float32)) for _ in range(200))

    assert Seen(1, "space", views, ("a.png",)).bytes > 200 * 4000
    assert Answer(b"{}", Seen(1, "space", views, ())).bytes > 200 * 4000


def test_a_request_in_json_is_small(client):
    answer = client.post("/search", json=[{}] * 400_000)

    assert (answer.status_code, answer.json()["detail"]) == (413, "a request in JSON may have 1,000,000 bytes")


def test_a_field_with_a_long_name_is_refused_in_few_words(client):
    assert len(client.post("/search", json={"x" * 500_000: 1}).content) < 1000


def test_an_image_that_is_no_file_is_refused_with_what_to_do(client):
    answer = client.request("POST", "/search", files={}, data={"image": "data"})

    assert answer.json()["detail"] == "expected image to be a file with a name"


def test_judgments_are_read_once_for_many_queries(own_shop, serve, jpeg, monkeypatch):
    client = serve(own_shop)
    answer = search(client, jpeg).json()
    body = {"answer": answer["id"], "path": answer["hits"][0]["path"], "verdict": "chosen"}
    client.post("/feedback", json=body, headers={"Imgsearch-Session": SESSION})
    read, judged = [], FeedbackStore.judged
    monkeypatch.setattr(FeedbackStore, "judged", lambda *given: read.append(1) or judged(*given))

    for _ in range(3):
        assert search(client, jpeg, feedback=True).status_code == 200

    assert read == [1]


def test_an_index_that_is_damaged_at_the_start_answers_once_a_whole_one_is_published(own_shop, running, caplog):
    vectors, manifest = next((own_shop / "index").glob("gen-*/vectors.npy")), own_shop / "index/manifest.json"
    whole = vectors.read_bytes()
    vectors.write_bytes(whole[:-400] + bytes(400))

    def publish() -> None:
        while "the index is not ready" not in caplog.text:
            pass
        vectors.write_bytes(whole)
        shutil.copy(manifest, own_shop / "manifest.json").rename(manifest)

    with ThreadPoolExecutor(1) as publisher:
        published = publisher.submit(publish)
        with running(make_app(Settings(own_shop / "index"))) as client:  # which waits until it is ready
            published.result()
            assert client.post("/search", json={"text": ["hostile"]}).status_code == 200
