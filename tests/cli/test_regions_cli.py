"""`imgsearch query` for photos: where to look, what is drawn, and what is refused."""

import base64
import csv
import io
import json
import re
import shutil

import cv2
import numpy as np
import pytest

from imgsearch.images.boxes import Box, overlaps
from imgsearch.images.decode import decode_rgba
from imgsearch.synthetic.compose import Style, compose

ITEM = "cups/cups-00.png"


@pytest.fixture(scope="module")
def made(drawn):
    """A photo of 480 x 640 pixels with an item on an uneven background."""
    coarse = np.random.default_rng(3).integers((90, 90, 60), (190, 200, 150), (9, 9, 3)).astype(np.uint8)
    background = cv2.resize(coarse, (640, 480), interpolation=cv2.INTER_CUBIC)
    item = decode_rgba((drawn / ITEM).read_bytes())
    return compose(background, [item], Style(sides=(0.45, 0.5), covered=0), np.random.default_rng(5))


@pytest.fixture
def photo(made, tmp_path):
    write(tmp_path / "photo.png", made.photo)
    return "photo.png"


def write(file, rgb):
    pixels = rgb[:, :, ::-1] if rgb.ndim == 3 and rgb.shape[2] == 3 else rgb
    file.write_bytes(cv2.imencode(file.suffix, pixels)[1].tobytes())


def sheet(done):
    return list(csv.DictReader(io.StringIO(done.stdout)))


@pytest.mark.parametrize("how", ["table", "csv", "paths"])
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("objects", ("--objects",)),
        ("box", ("--box", "290,90,160,200")),
        ("geometric", ("--rerank", "geometric")),
        ("objects-geometric", ("--objects", "--rerank", "geometric")),
    ],
    ids=str,
)
def test_answers_look_as_they_did(imgsearch, small, photo, snapshot, how, name, options):
    # By the hand-crafted encoder, which gives every processor the same numbers.
    done = imgsearch("query", photo, "-k", 3, "--index", small, "--format", how, *options)

    assert (done.returncode, done.stderr) == (0, "")
    snapshot(f"regions.{name}.{how}.txt", done.stdout)


@pytest.mark.parametrize("how", ["json", "jsonl"])
def test_hits_in_json_carry_the_box_that_matched(imgsearch, network, photo, made, how):
    done = imgsearch("query", photo, "-k", 4, "--index", network, "--format", how)

    answer = json.loads(done.stdout)[0] if how == "json" else json.loads(done.stdout)
    first = answer["hits"][0]
    assert list(answer) == ["query", "plan", "seconds", "index", "hits"]
    assert first["path"] == ITEM
    assert overlaps([Box(*first["box"])], made.boxes).max() > 0.5
    assert "inliers" not in first


def test_whole_has_no_boxes(imgsearch, network, photo):
    done = imgsearch("query", photo, "--index", network, "--format", "json", "--regions", "whole")

    assert not any("box" in hit for hit in json.loads(done.stdout)[0]["hits"])


@pytest.mark.parametrize("how", ["json", "jsonl"])
def test_objects_in_json_are_a_list_with_a_box_and_hits_each(imgsearch, network, photo, how):
    done = imgsearch("query", photo, "-k", 2, "--index", network, "--format", how, "--objects")

    answer = json.loads(done.stdout)[0] if how == "json" else json.loads(done.stdout)
    assert list(answer) == ["query", "plan", "seconds", "index", "objects"]
    assert answer["objects"]
    for found in answer["objects"]:
        assert list(found) == ["box", "hits"]
        assert all(isinstance(number, int) for number in found["box"])
        assert [hit["rank"] for hit in found["hits"]] == [1, 2]


def test_reranked_hits_say_their_inliers(imgsearch, network, photo):
    done = imgsearch("query", photo, "-k", 3, "--index", network, "--format", "json", "--rerank", "geometric")

    hits = json.loads(done.stdout)[0]["hits"]
    assert hits[0]["path"] == ITEM
    assert hits[0]["inliers"] > 5
    assert len(hits) == 3


def test_csv_has_a_column_of_boxes_with_objects_alone(imgsearch, network, photo):
    plain = sheet(imgsearch("query", photo, "--index", network, "--format", "csv"))
    objects = sheet(imgsearch("query", photo, "--index", network, "--format", "csv", "--objects"))

    assert "box" not in plain[0]
    assert list(objects[0]) == [*plain[0], "box"]
    assert all(re.fullmatch(r"\d+ \d+ \d+ \d+", row["box"]) for row in objects)


def images_of(page):
    texts = re.findall(r"base64,([A-Za-z0-9+/=]+)", page)
    return [cv2.imdecode(np.frombuffer(base64.b64decode(text), np.uint8), cv2.IMREAD_COLOR) for text in texts]


def orange(bgr):
    """How many pixels are of the color that boxes are drawn in."""
    hsv = cv2.cvtColor(bgr, cv2.COLOR_BGR2HSV).astype(int)
    return int(((abs(hsv[..., 0] - 16) < 6) & (hsv[..., 1] > 150) & (hsv[..., 2] > 100)).sum())


@pytest.mark.parametrize("options", [(), ("--box", "290,90,160,200"), ("--objects",)], ids=str)
def test_html_draws_the_box_into_the_query(imgsearch, network, photo, options):
    drawn_ = imgsearch("query", photo, "-k", 2, "--index", network, "--format", "html", *options).stdout
    whole = imgsearch("query", photo, "-k", 2, "--index", network, "--format", "html", "--regions", "whole").stdout

    assert orange(images_of(drawn_)[0]) > 40 + orange(images_of(whole)[0])


def test_html_draws_what_proves_a_hit(imgsearch, network, photo):
    page = imgsearch("query", photo, "-k", 2, "--index", network, "--format", "html", "--rerank", "geometric").stdout

    assert "inliers" in page
    assert 'class="hit wide"' in page
    assert images_of(page)[1].shape != (160, 160, 3)


def test_a_page_of_no_objects_says_so(imgsearch, small, tmp_path):
    write(tmp_path / "even.png", np.full((100, 100, 3), 90, np.uint8))

    page = imgsearch("query", "even.png", "--index", small, "--format", "html", "--objects").stdout
    table = imgsearch("query", "even.png", "--index", small, "--objects").stdout

    assert "no item stands out" in page
    assert "no item stands out" in table
    assert (
        json.loads(imgsearch("query", "even.png", "--index", small, "--format", "json", "--objects").stdout)[0][
            "objects"
        ]
        == []
    )


def test_a_photo_of_one_color_has_no_objects_for_a_network_either(imgsearch, network, tmp_path):
    write(tmp_path / "even.png", np.full((200, 300, 3), 90, np.uint8))

    done = imgsearch("query", "even.png", "--index", network, "--format", "json", "--objects")

    assert done.returncode == 0
    assert json.loads(done.stdout)[0]["objects"] == []


@pytest.mark.parametrize(
    "options",
    [
        ("--objects", "--box", "1,2,3,4"),
        ("--objects", "--regions", "8"),
        ("--box", "1,2,3,4", "--regions", "whole"),
        ("--objects", "--vote"),
        ("--rerank", "visual"),
    ],
    ids=str,
)
def test_what_contradicts_is_refused(imgsearch, small, photo, options):
    done = imgsearch("query", photo, "--index", small, *options)

    assert (done.returncode, done.stdout) == (2, "")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "box",
    [
        "",
        "1,2,3",
        "1,2,3,4,5",
        "a,b,c,d",
        "-1,0,5,5",
        "0,0,0,5",
        "0,0,5,0",
        "1.5,0,5,5",
        "1e3,0,5,5",
        "99999999999999999999,0,5,5",
        "0,0,999999999,999999999",
        "0,0,99999999999,1",
        "\u0660,\u0660,\u0665,\u0665",
        "²,0,5,5",
        "0;0;5;5",
        "0x1,0,5,5",
        "640,0,1,1",
        "0,0,641,480",
    ],
)
def test_a_box_that_makes_no_sense_is_refused(imgsearch, small, photo, box):
    done = imgsearch("query", photo, "--index", small, f"--box={box}")

    assert (done.returncode, done.stdout) == (2, "")
    assert re.search("must be|does not lie in the image|expected a value for --box", done.stderr)
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("regions", ["", "0", "201", "-1", "x", "8.0", "1e1", "\u0668", "99999999999999999999", "Auto"])
def test_regions_that_make_no_sense_are_refused(imgsearch, small, photo, regions):
    done = imgsearch("query", photo, "--index", small, f"--regions={regions}", "--format", "json")

    assert (done.returncode, done.stdout) == (2, "")
    assert json.loads(done.stderr)["error"]["code"] == 2


def test_a_box_is_refused_for_the_image_that_is_smaller_and_both_sizes_are_said(imgsearch, small, photo):
    done = imgsearch("query", photo, "--index", small, "--box", "600,400,41,80")

    assert done.returncode == 2
    assert "640 x 480" in done.stderr
    assert "600,400,41,80" in done.stderr


@pytest.fixture
def tiny(tmp_path):
    """An image of 30 x 20 pixels."""
    write(tmp_path / "tiny.png", np.random.default_rng(6).integers(0, 256, (20, 30, 3), np.uint8))
    return "tiny.png"


@pytest.mark.parametrize("options", [(), ("--vote",), ("--rerank", "geometric")], ids=str)
def test_where_a_box_lies_out_of_one_of_several_images_the_others_are_answered(imgsearch, small, photo, tiny, options):
    asked = (tiny, photo, tiny, photo)

    done = imgsearch("query", *asked, "--index", small, "--box", "290,90,160,200", "--format", "json", *options)

    assert (done.returncode, done.stderr) == (2, "")
    answers = json.loads(done.stdout)
    assert [answer["query"] for answer in answers] == [*asked]
    for refused in answers[::2]:
        assert refused["error"]["code"] == 2
        assert "30 x 20" in refused["error"]["message"]
        assert "290,90,160,200" in refused["error"]["message"]
    for answered in answers[1::2]:
        assert answered["hits" if options != ("--vote",) else "classes"]


@pytest.mark.parametrize("how", ["table", "csv", "paths", "html", "jsonl"])
def test_a_box_out_of_one_of_several_images_is_reported_in_every_format(imgsearch, small, photo, tiny, how):
    both, alone = (
        imgsearch("query", *asked, "--index", small, "--box", "290,90,160,200", "--format", how)
        for asked in ((photo, tiny), (photo,))
    )

    assert (both.returncode, alone.returncode) == (2, 0)
    if how == "jsonl":
        answered, refused = map(json.loads, both.stdout.splitlines())
        assert answered["hits"] == json.loads(alone.stdout)["hits"]
        assert (refused["query"], refused["error"]["code"]) == (tiny, 2)
        assert both.stderr == ""
        return
    assert both.stderr.startswith(
        "imgsearch: tiny.png: the box 290,90,160,200 does not lie in the image, which has 30 x 20 pixels"
    )
    assert len(both.stderr.splitlines()) == 1
    if how == "html":
        assert both.stdout.endswith("</html>\n")
        assert both.stdout.count("<section>") == 2
    else:
        times = re.compile(r"\d+ ms")
        assert times.sub("", both.stdout) == times.sub("", alone.stdout)


@pytest.mark.parametrize("first", ["missing.png", "tiny.png"])
def test_a_missing_image_says_the_exit_code_before_and_after_one_that_the_box_does_not_lie_in(
    imgsearch, small, photo, tiny, first
):
    last = tiny if first == "missing.png" else "missing.png"

    done = imgsearch("query", first, photo, last, "--index", small, "--box", "290,90,160,200", "--format", "json")

    assert done.returncode == 4
    codes = [answer.get("error", {}).get("code") for answer in json.loads(done.stdout)]
    assert codes == ([4, None, 2] if first == "missing.png" else [2, None, 4])


def test_a_box_out_of_the_only_image_is_an_answer_in_json_too(imgsearch, small, tiny):
    done = imgsearch("query", tiny, "--index", small, "--box", "0,0,31,20", "--format", "json")

    assert (done.returncode, done.stderr) == (2, "")
    (refused,) = json.loads(done.stdout)
    assert refused["error"]["code"] == 2
    assert "30 x 20" in refused["error"]["message"]


def test_what_is_wrong_with_the_whole_call_ends_it_with_a_box_too(imgsearch, small, photo):
    done = imgsearch(
        "query", photo, photo, "--index", small, "--box", "0,0,9,9", "--where", "nonsense", "--format", "json"
    )

    assert (done.returncode, done.stdout) == (2, "")
    assert "nonsense" in json.loads(done.stderr)["error"]["message"]


def test_what_is_wrong_with_the_whole_call_leaves_output_that_can_be_parsed_after_an_answer(
    imgsearch, small, photo, tiny, tmp_path
):
    index = tmp_path / "damaged"
    shutil.copytree(small, index)
    vectors = next(index.glob("gen-*/vectors.npy"))
    vectors.write_bytes(vectors.read_bytes()[:-1] + b"\xff")
    asked = (tiny, "missing.png", photo, photo)
    options = ("--index", index, "--box", "290,90,160,200")

    as_json = imgsearch("query", *asked, *options, "--format", "json")
    page = imgsearch("query", *asked, *options, "--format", "html")

    assert as_json.returncode == page.returncode == 6
    assert [answer["error"]["code"] for answer in json.loads(as_json.stdout)] == [2, 4]
    assert "vectors.npy is damaged" in json.loads(as_json.stderr)["error"]["message"]
    assert page.stdout.endswith("</html>\n")


def test_a_missing_image_is_reported_and_the_others_are_answered(imgsearch, small, photo):
    for options in (("--objects",), ("--box", "0,0,50,50"), ("--rerank", "geometric"), ("--regions", "4")):
        done = imgsearch("query", "missing.png", photo, "--index", small, "--format", "json", *options)
        missing, answered = json.loads(done.stdout)
        assert done.returncode == 4
        assert missing["error"]["code"] == 4
        assert answered.get("hits") or answered.get("objects")


def test_two_objects_that_are_like_the_same_image_are_drawn_each_with_its_own_proof(
    imgsearch, network, drawn, tmp_path
):
    """The same item twice in a photo, once whole and once with too little of it to prove anything."""
    item = decode_rgba((drawn / ITEM).read_bytes())[:, :, [2, 1, 0, 3]]
    coarse = np.random.default_rng(3).integers((60, 90, 90), (150, 200, 190), (9, 18, 3)).astype(np.uint8)
    background = cv2.resize(coarse, (1000, 400), interpolation=cv2.INTER_CUBIC).astype(np.float32)
    blurred = cv2.GaussianBlur(item, (0, 0), 6)
    for left, layer in ((100, item), (640, blurred)):
        share = layer[:, :, 3:].astype(np.float32) / 255
        place = background[70:326, left : left + 256]
        place[...] = place * (1 - share) + layer[:, :, :3] * share
    write(tmp_path / "two.png", background.astype(np.uint8)[:, :, ::-1])
    options = ("--objects", "--rerank", "geometric", "-k", 12, "--index", network)

    objects = json.loads(imgsearch("query", "two.png", "--format", "json", *options).stdout)[0]["objects"]
    page = imgsearch("query", "two.png", "--format", "html", *options).stdout

    sections = page.split("<section>")[1:]
    assert len(sections) == len(objects)
    for found, section in zip(objects, sections, strict=True):
        proved = sum(1 for hit in found["hits"] if hit.get("inliers"))
        assert section.count('class="hit wide"') == proved


ODD = {
    "dot.png": np.full((1, 1, 3), 77, np.uint8),
    "wide.png": np.random.default_rng(0).integers(0, 256, (40, 800, 3), np.uint8),
    "tall.jpg": np.random.default_rng(1).integers(0, 256, (800, 40, 3), np.uint8),
    "even.png": np.full((100, 150, 3), 90, np.uint8),
    "noise.jpg": np.random.default_rng(2).integers(0, 256, (200, 300, 3), np.uint8),
    "gray.png": np.random.default_rng(3).integers(0, 256, (200, 300), np.uint8),
    "alpha.png": np.random.default_rng(4).integers(0, 256, (200, 300, 4), np.uint8),
    "deep.png": np.random.default_rng(5).integers(0, 65536, (200, 300, 3), np.uint16),
}


@pytest.mark.parametrize(
    "options",
    [
        *((), ("--objects",), ("--box", "0,0,1,1"), ("--rerank", "geometric")),
        *(pytest.param(("--regions", count), marks=pytest.mark.slow) for count in ("8", "200")),
    ],
    ids=str,
)
@pytest.mark.parametrize("encoder", ["small", "network"])
def test_odd_images_are_answered_or_refused_one_by_one(imgsearch, request, tmp_path, encoder, options):
    for name, pixels in ODD.items():
        write(tmp_path / name, pixels)

    done = imgsearch("query", *ODD, "--index", request.getfixturevalue(encoder), "--format", "json", *options)

    assert done.returncode in (0, 4)
    assert done.stderr == ""
    answers = json.loads(done.stdout)
    assert [answer["query"] for answer in answers] == [*ODD]
    for answer in answers:
        if "error" in answer:
            assert answer["error"]["code"] == 4
            assert answer["query"] in ("dot.png", "even.png") or "--box" in options
        else:
            assert len(answer.get("hits", [1] * 5)) == 5
