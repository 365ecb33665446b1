"""A process that ends at any call, and a machine whose power fails then: what was not synced may be anything.

The power cut is Lucene's and SQLite's: a file that was not synced is at random zeroed, halved, emptied, left, or has
a bit flipped; a name that was made, replaced or removed in a folder that has not been synced since is at random as
before or as after. Files that no manifest refers to are damaged in the same ways, or deleted.
"""

import itertools
import json
import random
import shutil
from pathlib import Path

import pytest

from imgsearch.store import generations

pytestmark = pytest.mark.usefixtures("annoy_here")

DIED = 77
QUICK = ("first build", "update", "embed", "rollback", "mending")
SCENES = ("first build", "update", "embed", "index of embeddings", "rollback", "mending")


def spoiled(data: bytes, chance: random.Random) -> bytes:
    """What may be left of a file that was not synced."""
    flipped = bytearray(data or b"\0")
    flipped[chance.randrange(len(flipped))] ^= 1 << chance.randrange(8)
    return chance.choice([bytes(len(data)), data[: len(data) // 2], data, bytes(flipped), b""])


def names_in(folder: Path) -> dict[str, list]:
    """Name -> kind, inode and target, as `faulty.Memory` notes them."""
    found = {}
    for path in folder.iterdir():
        kind = "link" if path.is_symlink() else "folder" if path.is_dir() else "file"
        found[path.name] = [kind, path.lstat().st_ino, str(path.readlink()) if kind == "link" else ""]
    return found


def cut_power(done: dict, home: Path, memory: Path, survives: Path, chance: random.Random) -> None:
    """Make what a power cut may leave of a folder when a build has just died in it."""

    def restore(now: Path | None, inode: int, target: Path) -> None:
        target.mkdir()
        current, durable = names_in(now) if now else {}, done["durable"].get(str(inode), {})
        for name in sorted(current.keys() | durable.keys()):
            entry = chance.choice([current.get(name), durable.get(name)])
            if entry is None:
                continue
            kind, number, link = entry
            path = now / name if now and entry == current.get(name) else None
            if kind == "folder":
                restore(path, number, target / name)
            elif kind == "link":
                (target / name).symlink_to(link)
            else:
                file = path or memory / str(number)
                status = file.stat()
                data = file.read_bytes()
                if done["synced"].get(str(number)) != [status.st_size, status.st_mtime_ns]:
                    data = spoiled(data, chance)
                (target / name).write_bytes(data)

    restore(home, home.stat().st_ino, survives)


def spoil_what_is_not_published(directory: Path, chance: random.Random) -> None:
    """Damage every file that neither the manifest nor that of the generation before refers to."""
    kept = {generations.LOCK}
    if manifest := generations.published(directory):
        kept |= {generations.MANIFEST, f"{manifest.folder}/{generations.MANIFEST}", *manifest.files}
        before = directory / f"gen-{manifest.generation - 1:06d}" / generations.MANIFEST
        if before.exists():
            kept |= {str(before.relative_to(directory)), *json.loads(before.read_text())["files"]}
    for path in [path for path in directory.rglob("*") if path.is_file() and not path.is_symlink()]:
        if str(path.relative_to(directory)) not in kept:
            data = path.read_bytes()
            path.unlink()
            if chance.randrange(6):
                path.write_bytes(spoiled(data, chance))


@pytest.fixture
def survived(scene, disturbed, look, leftovers, memory_disk):
    """Let a process die in a scene, then the power fail; say whether it died, how often that failed, what is wrong."""

    def emptied(name):
        shutil.rmtree(memory_disk / name, ignore_errors=True)
        return memory_disk / name

    def crash(act, do, home, at):
        memory = emptied(f"memory of {home.name}")
        memory.mkdir()
        return disturbed(do[0], home, *do[1:], options=act.options, at=at, number=0, memory=str(memory))

    def after_power_cut(done, home, chance, name):
        survives = emptied(name)
        cut_power(done, home, memory_disk / f"memory of {home.name}", survives, chance)
        if (survives / "index").exists():
            spoil_what_is_not_published(survives / "index", chance)
        return survives

    def problems(act, home, when, *, done):
        found = look(home / "index")
        permitted = [act.after] if done else [act.before, act.after]
        if found in permitted or (found[0] and set(found[0]) <= set(act.before[0])):
            return []
        return [f"{when}: {found[:2]}"]

    def try_one(name, at, times):
        act, home = scene(name), emptied("home")
        shutil.copytree(act.start, home, symlinks=True)
        died = crash(act, act.do, home, at)
        assert died["code"] in (0, DIED), died
        wrong = problems(act, home, "after the crash", done=not died["struck"])
        # Most depends on what is there just before, at and after the commit.
        commit = not died["struck"] or died["failed"][1].endswith(("/index", "/index/manifest.json"))
        cuts = 4 * times if commit else times
        for number in range(cuts):
            chance = random.Random(f"{name} {at} {number}")
            left = after_power_cut(died, home, chance, "left")
            wrong += problems(act, left, "after a power cut", done=not died["struck"])
            if chance.random() < 0.5:  # it fails once more while the next build mends what is left
                second = crash(act, act.again, left, chance.randrange(1, 100))
                wrong += [f"next: {second['traceback']}"] if "error" in second else []
                left = after_power_cut(second, left, chance, "left again")
                wrong += problems(act, left, "after two power cuts", done=False)
            mended = disturbed(act.again[0], left, *act.again[1:], options=act.options)
            if "error" in mended:
                wrong.append(f"next: {mended['traceback']}")
                continue
            if (found := look(left / "index")) != act.final:
                wrong.append(f"after the next build: {found[:2]}")
            if litter := leftovers(left / "index"):
                wrong.append(f"litter: {litter}")
        return died["struck"], cuts, [(at, died["failed"], what) for what in wrong]

    return try_one


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in SCENES]
)
@pytest.mark.parametrize(("stride", "times"), [(127, 1), pytest.param(1, 2, marks=pytest.mark.slow)])
def test_after_a_crash_or_a_power_cut_at_any_call_it_answers_as_before_or_after_and_the_next_build_mends_it(
    survived, figure, name, stride, times
):
    crashes = power_cuts = 0
    wrong = []
    for at in itertools.count(1, stride):
        died, cuts, problems = survived(name, at, times)
        crashes += died
        power_cuts += cuts
        wrong += problems
        if not died:
            break

    figure("crashes", crashes)
    figure("power cuts", power_cuts)
    assert wrong == []
    assert at > 40
