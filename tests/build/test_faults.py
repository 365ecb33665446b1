"""A disk that fails at any call, once or for ever: the index answers as before or after, the next build mends all."""

import errno
import itertools
import shutil

import pytest

from imgsearch.errors import OutputError, ResourceError
from imgsearch.store import generations

pytestmark = pytest.mark.usefixtures("annoy_here")

FAULTS = [(number, for_ever) for number in (errno.ENOSPC, errno.EIO, errno.EINTR) for for_ever in (False, True)]
SCENES = ("first build", "update", "embed", "index of embeddings", "rollback", "mending")


@pytest.fixture
def tried(scene, disturbed, look, leftovers, unpublished, memory_disk):
    """Do what is done in a scene, let one call fail, and say whether one did and what is wrong then."""

    def problems(act, done, home, *, for_ever):
        name, path = done.get("failed") or ("", "")
        reading = name in ("open", "read", "scandir")
        if "error" in done:
            permitted = {OutputError}
            if for_ever or reading:
                permitted.add(ResourceError)
            if done["error"] not in {kind.__name__ for kind in permitted}:
                yield done["traceback"]
        expected, final = [act.before, act.after], act.final
        found = look(home / "index")
        if reading and path.endswith(generations.PROJECTION) and not found[0] and found not in expected:
            # One that cannot be read is learned anew, and other scores are as good; the embeddings are the same.
            found, *expected = map(embeddings_of, (found, act.after))
            final = look(home / "index")
        # What was damaged before may be so still.
        if found not in expected and not (found[0] and set(found[0]) <= set(act.before[0])):
            yield f"afterwards: {found}"
        if not for_ever and (home / "index").exists() and (left := unpublished(home / "index")):
            yield f"left behind: {left}"
        mended = disturbed(act.again[0], home, *act.again[1:], options=act.options)
        if "error" in mended:
            yield f"the next build: {mended['traceback']}"
            return
        if (found := look(home / "index")) != final:
            yield f"after the next build: {found}"
        if left := leftovers(home / "index"):
            yield f"litter: {left}"

    def try_one(name, at, number, for_ever):
        act, home = scene(name), memory_disk / "home"
        shutil.rmtree(home, ignore_errors=True)
        shutil.copytree(act.start, home, symlinks=True)
        done = disturbed(act.do[0], home, *act.do[1:], options=act.options, at=at, number=number, for_ever=for_ever)
        assert done["code"] == 0, (at, number, for_ever)
        case = (at, errno.errorcode[number], "for ever" if for_ever else "once", done["failed"])
        return done["struck"], [(*case, problem) for problem in problems(act, done, home, for_ever=for_ever)]

    return try_one


def embeddings_of(found):
    """Leave out of what `look` says what depends on the projection."""
    findings, answer, held = found
    return findings, answer and sorted(path for path, _ in answer), {path: item[0] for path, item in held.items()}


@pytest.mark.parametrize("name", SCENES)
@pytest.mark.parametrize("stride", [67, pytest.param(1, marks=pytest.mark.slow)])
def test_whatever_call_fails_the_index_answers_as_before_or_after_and_the_next_build_mends_it(
    tried, figure, name, stride
):
    struck, wrong = 0, []
    for number, at in enumerate(itertools.count(1, stride)):
        faults = FAULTS if stride == 1 and name == "update" else [FAULTS[number % len(FAULTS)]]
        results = [tried(name, at, *fault) for fault in faults]
        struck += sum(hit for hit, _ in results)
        wrong += [problem for _, problems in results for problem in problems]
        if not any(hit for hit, _ in results):
            break

    figure("faults", struck)
    assert wrong == []
    assert at > 40


# --- what SQLite and Annoy write, in C


@pytest.mark.parametrize("stride", [24_000, pytest.param(1000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", ["first build", "update"])
def test_a_file_that_may_not_grow_beyond_any_size_is_an_output_error_and_the_index_answers_as_before(
    scene, disturbed, look, leftovers, memory_disk, figure, name, stride
):
    act, home = scene(name), memory_disk / "home"
    for largest in range(0, 1_000_000, stride):
        shutil.rmtree(home, ignore_errors=True)
        shutil.copytree(act.start, home, symlinks=True)
        done = disturbed(act.do[0], home, *act.do[1:], options=act.options, largest=largest)
        if "error" not in done:
            break
        assert (done["code"], done["exit_code"]) == (0, 11), (largest, done)
        assert look(home / "index") == act.before, largest
        assert "error" not in disturbed(act.again[0], home, *act.again[1:], options=act.options)
        assert (look(home / "index"), leftovers(home / "index")) == (act.final, []), largest

    figure("faults", largest // stride)
    assert look(home / "index") == act.after
    assert largest >= 36_000


@pytest.fixture
def on_small_disk(scene, small_disk, tmp_path):
    """Do what is done in a scene on a small disk; gives what came of it, and a copy of the folder as it is then."""

    def act(name, room, how="rw", **task):
        act = scene(name)
        small_disk.resize(64 << 20)
        for folder in (small_disk.outside / "home", tmp_path / "copy"):
            shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(act.start, small_disk.outside / "home", symlinks=True)
        small_disk.resize(shutil.disk_usage(small_disk.outside).used + room, how)
        done = small_disk.disturbed(act.do[0], small_disk.inside / "home", *act.do[1:], options=act.options, **task)
        assert done["code"] == 0, done
        return done, shutil.copytree(small_disk.outside / "home", tmp_path / "copy", symlinks=True)

    return act


@pytest.mark.parametrize("stride", [97, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", ["first build", "update", "embed", "index of embeddings", "rollback"])
def test_a_disk_that_is_full_after_any_page_leaves_an_index_that_answers_and_goes_on_when_there_is_room(
    scene, on_small_disk, disturbed, look, leftovers, unpublished, figure, name, stride
):
    act = scene(name)
    for pages in range(0, 1000, stride):
        done, home = on_small_disk(name, 4096 * (1 + pages), sudden=True)  # of size 0 it is endless
        found = look(home / "index")
        if "error" not in done:
            break
        assert done["exit_code"] == 11, done
        assert found == act.before, (pages, done)
        assert not (home / "index").exists() or unpublished(home / "index") == []
        assert "error" not in disturbed(act.again[0], home, *act.again[1:], options=act.options)
        assert (look(home / "index"), leftovers(home / "index")) == (act.final, []), pages

    figure("faults", pages // stride)
    assert found == act.after
    assert pages > 16


def test_a_disk_without_room_is_found_out_before_anything_is_written(scene, on_small_disk, look):
    act = scene("update")

    done, home = on_small_disk("update", 1 << 20)

    assert done["exit_code"] == 11
    assert "MB free, a build may need" in done["message"]
    assert look(home / "index") == act.before
    assert {path.name for path in (home / "index").iterdir()} == {path.name for path in (act.start / "index").iterdir()}


@pytest.mark.parametrize("name", ["first build", "update", "rollback"])
def test_a_disk_that_is_read_only_is_an_output_error_and_the_index_answers(scene, on_small_disk, look, name):
    done, home = on_small_disk(name, 1 << 20, "ro")

    assert done["exit_code"] == 11
    assert "Read-only file system" in done["message"]
    assert look(home / "index") == scene(name).before


# --- readers


@pytest.mark.parametrize("stride", [3, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("backend", ["annoy", "exact"])
def test_a_read_that_fails_is_an_error_of_the_query_or_a_finding_of_the_check_and_never_another_answer(
    scene, disturbed, photo, figure, backend, stride
):
    act = scene("rollback" if backend == "annoy" else "index of embeddings")
    answer = disturbed("faulty:ask", act.start, "index", photo)["result"]
    faults = 0
    for what in ("ask", "findings"):
        for number, at in enumerate(itertools.count(1, stride)):
            error, for_ever = FAULTS[number % len(FAULTS)]
            done = disturbed(
                *(f"faulty:{what}", act.start, "index", *([photo] if what == "ask" else [])),
                at=at,
                number=error,
                for_ever=for_ever,
            )
            case = (what, at, errno.errorcode[error], for_ever, done)
            assert done["code"] == 0, case
            if not done["struck"]:
                break
            faults += 1
            if "error" in done:
                assert done["error"] == ResourceError.__name__, case
            elif what == "ask":
                assert done["result"] == answer, case
        assert number > 3
        assert done["result"] == (answer if what == "ask" else [])
    figure("faults", faults)
