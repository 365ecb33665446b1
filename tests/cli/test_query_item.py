"""`query` with what is indexed, with several at once, and with hits that are not all alike."""

import csv
import io
import json

import pytest

CUP = "cups/cups-00.png"


def asked(imgsearch, index, *options, **settings):
    done = imgsearch("query", *options, "--index", index, "--format", "json", **settings)
    return done, json.loads(done.stdout) if done.stdout else None


def paths(answer):
    return [hit["path"] for hit in answer["hits"]]


def test_each_item_has_its_answer_named_as_it_was_given(imgsearch, small, drawn):
    done, answers = asked(imgsearch, small, "--item", f"./{CUP}", "--item", "rings/rings-01", "-k", 24)

    assert (done.returncode, done.stderr) == (0, "")
    assert [answer["query"] for answer in answers] == [f"./{CUP}", "rings/rings-01"]
    assert list(answers[0]) == ["query", "plan", "seconds", "index", "hits"]
    assert [len(answer["hits"]) for answer in answers] == [23, 23]
    assert CUP not in paths(answers[0])

    rows = list(csv.reader(io.StringIO(imgsearch("query", "--item", CUP, "--index", small, "--format", "csv").stdout)))
    assert [row[0] for row in rows] == ["query", *[CUP] * 5]


def test_an_item_looks_as_it_did(imgsearch, small, snapshot):
    done = imgsearch("query", "--item", CUP, "--diverse", "0.5", "--index", small)

    assert (done.returncode, done.stderr) == (0, "")
    snapshot("query-item.table.txt", done.stdout)


def test_an_item_that_is_not_there_exits_2_and_names_the_nearest(imgsearch, small):
    done = imgsearch("query", "--item", "cups/cup-00.png", "--index", small)

    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "imgsearch: the index has no image and no product 'cups/cup-00.png'\n  hint: did you mean 'cups/cups-00.png'?\n"
    )


def test_several_are_answered_once_and_named(imgsearch, small, drawn):
    cups, ring = [drawn / "cups/cups-00.png", drawn / "cups/cups-01.png"], "rings/rings-00"
    options = ("--item", ring, "--fuse", "mean", "--not", drawn / "balls/balls-00.png")
    done, (answer,) = asked(imgsearch, small, *cups, *options)

    assert (done.returncode, done.stderr) == (0, "")
    names = [*map(str, cups), ring]
    assert answer["query"] == " + ".join(names)
    assert (answer["queries"], answer["not"]) == (names, [str(drawn / "balls/balls-00.png")])
    assert list(answer) == ["query", "plan", "seconds", "index", "queries", "not", "hits"]
    assert not {"rings/rings-00.png", "balls/balls-00.png"} & set(paths(answer))


def test_names_on_standard_input_are_answered_once_too(imgsearch, small, drawn):
    listed = f"{drawn / CUP}\n{drawn / 'cups/cups-01.png'}\n"
    _, (answer,) = asked(imgsearch, small, "-", "--fuse", "max", input=listed)

    assert answer["queries"] == listed.split()
    assert set(paths(answer)[:2]) == {CUP, "cups/cups-01.png"}
    assert asked(imgsearch, small, "-", "--fuse", "max", input="")[1] == []


def test_each_image_loses_what_is_taken_away(imgsearch, small, drawn):
    files = [drawn / CUP, drawn / "rings/rings-00.png"]
    _, answers = asked(imgsearch, small, *files, "--not", "cups/cups-01.png", "-k", 24)

    assert [answer["query"] for answer in answers] == [*map(str, files)]
    assert all(answer["not"] == ["cups/cups-01.png"] for answer in answers)
    assert not any("cups/cups-01.png" in paths(answer) for answer in answers)


def test_one_bad_image_of_several_leaves_no_answer(imgsearch, small, drawn, tmp_path):
    (tmp_path / "text.jpg").write_text("not an image")
    for bad in ("missing.jpg", "text.jpg"):
        done, (answer,) = asked(imgsearch, small, drawn / CUP, bad, "--fuse", "mean")
        assert done.returncode == 4
        assert answer["error"]["code"] == 4
        assert answer["error"]["message"].startswith(f"{bad}: ")
        assert "hits" not in answer

    done = imgsearch("query", drawn / CUP, "--not", "text.jpg", "--index", small)
    assert (done.returncode, done.stdout) == (4, "")
    assert done.stderr.startswith("imgsearch: text.jpg: ")


def test_a_page_shows_all_that_was_asked_with(imgsearch, small, drawn):
    options = ("--fuse", "max", "--item", "cups/cups-01", "--not", "balls/balls-00", "--format", "html")
    done = imgsearch("query", drawn / CUP, *options, "--index", small)

    assert done.stdout.count('<figure class="query">') == 3
    assert "<figcaption>not balls/balls-00.png</figcaption>" in done.stdout
    assert done.stdout.count("data:image/jpeg") == 3 + 5
    assert '<span class="none">' not in done.stdout


def test_items_vote(imgsearch, small):
    _, (answer,) = asked(imgsearch, small, "--item", CUP, "--vote")

    assert answer["classes"][0]["rank"] == 1
    assert len(answer["hits"]) == 5


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("a.png", "--item", CUP),
        ("--item", CUP, "--box", "0,0,5,5"),
        ("--item", CUP, "--regions", "whole"),
        ("--item", CUP, "--objects"),
        ("--item", CUP, "--rerank", "geometric"),
        ("a.png", "--fuse", "mean", "--objects"),
        ("a.png", "--fuse", "mean", "--rerank", "geometric"),
        ("a.png", "--not", CUP, "--box", "0,0,5,5"),
        ("a.png", "--diverse", "--rerank", "geometric"),
        ("a.png", "--diverse", "1.5"),
        ("a.png", "--fuse", "median"),
    ],
)
def test_what_does_not_go_together_exits_2(imgsearch, small, options):
    done = imgsearch("query", *options, "--index", small)

    assert (done.returncode, done.stdout) == (2, "")
    assert "Traceback" not in done.stderr


def test_what_is_taken_away_is_not_replaced_by_the_output(imgsearch, small, drawn, tmp_path):
    file = tmp_path / "unwanted.png"
    file.write_bytes((drawn / CUP).read_bytes())
    done = imgsearch("query", drawn / CUP, "--not", file, "-o", file, "--index", small)

    assert done.returncode == 2
    assert file.read_bytes() == (drawn / CUP).read_bytes()


def test_the_value_of_diverse_may_be_left_out(imgsearch, small, drawn):
    def answer(*options):
        return imgsearch("query", "--index", small, "--format", "paths", "-k", 12, *options).stdout

    file = drawn / CUP
    usual = answer(file, "--diverse", "0.5")

    assert usual != answer(file)
    assert answer("--diverse", file) == answer(file, "--diverse") == answer("--diverse", "--", file) == usual
    assert answer(file, "--diverse", "1") == answer(file, "--diverse=1.0") == answer(file)
