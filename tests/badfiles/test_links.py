"""Links, and folders that cannot be walked."""

import contextlib
import json
import os
from pathlib import Path

import pytest

pytestmark = pytest.mark.usefixtures("quick_builds")


BUILD = ("build-index", "root", "--index", "idx", "--report", "report.json")
NEW = ("--backbone", "handcrafted", "--backend", "exact")


@pytest.fixture
def linked(make, tmp_path) -> Path:
    """A root with a file in it and one below, and links of every kind; beside it a folder outside."""
    files = ("root/a.jpg", "root/sub/b.jpg", "outside/c.jpg", "outside/deep/d.jpg", "outside/alone/e.jpg")
    for number, name in enumerate(files):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(make.jpeg(number))
    os.mkfifo(tmp_path / "outside/fifo")
    links = {
        "root/sub/up": "..",
        "root/sub/self": ".",
        "root/one": "two",
        "root/two": "one",
        "root/loop.jpg": "loop.jpg",
        "root/gone.jpg": "nowhere.jpg",
        "root/gone": "nowhere",
        "root/out": "../outside",
        "root/out-again": "../outside",
        "root/alone": "../outside/alone",
        "root/photo.jpg": "../outside/c.jpg",
        "root/copy.jpg": "a.jpg",
        "root/zero.jpg": "/dev/zero",
        "root/fifo.jpg": "../outside/fifo",
        "root/notes": "/etc/hosts",
        "outside/back": "../root",
        "outside/deep/up": "../..",
    }
    for name, target in links.items():
        (tmp_path / name).symlink_to(target)
    return tmp_path


INSIDE = {"a.jpg": "indexed", "sub/b.jpg": "indexed"}
# Below `out/deep/up` lies the folder that holds the root, the folder outside and whatever else the test has made there:
# all of it seen already, but for that folder itself.
FOLLOWED = INSIDE | {
    "out/c.jpg": "indexed",
    "out/deep/d.jpg": "indexed",
    "alone/e.jpg": "indexed",
    "photo.jpg": "indexed",
    "copy.jpg": "indexed",
    "loop.jpg": "unreadable",
    "gone.jpg": "vanished",
    "zero.jpg": "not_regular_file",
    "fifo.jpg": "not_regular_file",
}


def test_links_are_not_followed_but_counted(linked, run, report, outcomes):
    done = run(*BUILD, *NEW, cwd=linked)

    assert done.code == 0
    assert outcomes(linked / "idx") == INSIDE
    assert report(linked / "report.json")["counts"]["left_out"] == {"link": 15}


def test_links_are_followed_on_request_and_each_folder_is_walked_once(linked, run, report, outcomes):
    done = run(*BUILD, *NEW, "--follow-links", cwd=linked)

    assert done.code == 3
    assert outcomes(linked / "idx") == FOLLOWED
    assert report(linked / "report.json")["counts"]["seen"] == len(FOLLOWED)


def test_an_index_remembers_whether_links_are_followed(linked, run, report, outcomes):
    run(*BUILD, *NEW, "--follow-links", cwd=linked)

    again = run(*BUILD, cwd=linked)
    remembered = outcomes(linked / "idx")
    refused = run(*BUILD, "--no-follow-links", cwd=linked)
    forced = run(*BUILD, "--no-follow-links", "--force", cwd=linked)

    assert (again.code, remembered) == (0, FOLLOWED)
    assert (refused.code, json.loads((linked / "report.json").read_bytes())["exit_code"]) == (9, 0)
    assert (forced.code, outcomes(linked / "idx")) == (0, INSIDE)


def test_a_link_as_the_root_is_the_folder_it_leads_to(linked, run, outcomes):
    (linked / "way").symlink_to("outside/alone")

    done = run("build-index", "way", "--index", "idx", *NEW, cwd=linked)

    assert (done.code, outcomes(linked / "idx")) == (0, {"e.jpg": "indexed"})


def test_a_missing_root_is_a_usage_error_that_names_it(run, tmp_path):
    done = run(*BUILD, *NEW, cwd=tmp_path)

    assert (done.code, done.out) == (2, b"")
    assert done.err == b"imgsearch: expected a folder of images, found nothing: root\n"
    assert not (tmp_path / "idx").exists()


def test_a_file_a_fifo_or_a_dangling_link_as_the_root_is_a_usage_error(make, run, tmp_path):
    (tmp_path / "file").write_bytes(make.jpeg())
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "gone").symlink_to("nowhere")

    for name in ("file", "fifo", "gone"):
        done = run("build-index", name, "--index", "idx", *NEW, cwd=tmp_path)
        assert (name, done.code, len(done.err.splitlines())) == (name, 2, 1)


@pytest.mark.parametrize("mode", [pytest.param(0o000, marks=pytest.mark.slow), 0o444, 0o111])
@pytest.mark.parametrize("who", ["another user", "root without its rights"], indirect=True)
def test_an_unreadable_root_is_a_usage_error_that_names_it(make, run, who, mode, open_folder):
    place = open_folder / f"root-{who.name}-{mode:o}"
    (place / "closed").mkdir(parents=True)
    (place / "closed/a.jpg").write_bytes(make.jpeg())
    (place / "closed").chmod(mode)
    if "user" in who.options:
        os.chown(place, who.options["user"], who.options["group"])
        os.chown(place / "closed", who.options["user"], who.options["group"])

    done = run("build-index", "closed", "--index", "idx", *NEW, cwd=place, who=who)

    assert done.code == 2
    assert b"closed" in done.err.splitlines()[-1]
    assert b"Traceback" not in done.err


@pytest.mark.parametrize("who", ["another user", "root without its rights"], indirect=True)
def test_a_root_that_becomes_unreadable_leaves_the_index_as_it_is(make, run, who, open_folder):
    place = open_folder / f"later-{who.name}"
    (place / "closed").mkdir(parents=True)
    for number in range(4):
        (place / f"closed/{number}.jpg").write_bytes(make.jpeg(number))
    for path in (place, place / "closed"):
        if "user" in who.options:
            os.chown(path, who.options["user"], who.options["group"])
    run("build-index", "closed", "--index", "idx", *NEW, cwd=place, who=who)
    before = (place / "idx/manifest.json").read_bytes()
    (place / "closed").chmod(0)

    done = run("build-index", "closed", "--index", "idx", cwd=place, who=who)

    assert done.code == 2
    assert (place / "idx/manifest.json").read_bytes() == before


DEEP = "d" * 200
SOMEBODY = ("whoever runs the tests", "another user", "root without its rights")
LONGEST_PATH = os.pathconf("/", "PC_PATH_MAX")


@pytest.mark.parametrize(
    ("name", "who"),
    [
        *(("closed", somebody) for somebody in SOMEBODY),
        ("deep", SOMEBODY[0]),
        *(pytest.param("deep", somebody, marks=pytest.mark.slow) for somebody in SOMEBODY[1:]),
    ],
    indirect=["who"],
)
def test_a_folder_that_cannot_be_listed_is_named_and_the_rest_is_indexed(
    make, run, report, outcomes, who, open_folder, name
):
    place = open_folder / f"{name}-{who.name}"
    (place / "root/last").mkdir(parents=True)
    for number, path in enumerate(("first.jpg", "last/last.jpg")):
        (place / "root" / path).write_bytes(make.jpeg(number))
    if name == "closed":
        (place / "root/closed").mkdir()
        (place / "root/closed/inside.jpg").write_bytes(make.jpeg(2))
        (place / "root/closed").chmod(0)
        fate = {"closed": "unreadable"} if who.bound else {"closed/inside.jpg": "indexed"}
    else:
        with contextlib.chdir(place / "root"):
            for _ in range(25):
                Path(DEEP).mkdir()
                os.chdir(DEEP)
            Path("lost.jpg").write_bytes(make.jpeg(2))
        paths = ("/".join([DEEP] * depth) for depth in range(1, 26))
        fate = {next(path for path in paths if len(f"root/{path}") >= LONGEST_PATH): "path_too_long"}
    if "user" in who.options:
        os.chown(place, who.options["user"], who.options["group"])

    done = run(*BUILD, *NEW, cwd=place, who=who)
    found = outcomes(place / "idx")
    again = run(*BUILD, cwd=place, who=who)
    listed = run("info", "--index", "idx", "--rejected", cwd=place, who=who)

    assert found == {"first.jpg": "indexed", "last/last.jpg": "indexed"} | fate
    assert (done.code, again.code) == (0 if "indexed" in fate.values() else 3, 0)
    assert report(place / "report.json")["published"] is False
    assert len(listed.out.splitlines()) == ("indexed" not in fate.values())
