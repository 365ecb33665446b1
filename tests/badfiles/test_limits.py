"""What --damaged, --max-bytes and --max-pixels let in, and what happens when they change."""

import contextlib
import json
import re
import sqlite3
from pathlib import Path

import pytest

pytestmark = pytest.mark.usefixtures("quick_builds")


BUILD = ("build-index", "catalog", "--index", "idx", "--report", "report.json")
NEW = ("--backbone", "handcrafted", "--backend", "exact")


@pytest.fixture
def catalog(make, tmp_path) -> Path:
    """Ten good images, a truncated JPEG, one with a gap, a truncated PNG, and no image at all."""
    folder = tmp_path / "catalog"
    folder.mkdir()
    for number in range(10):
        (folder / f"{number}.jpg").write_bytes(make.jpeg(number))
    whole = make.encoded(".jpg", make.grained(11))
    (folder / "cut.jpg").write_bytes(make.truncated(whole, 0.6))
    (folder / "gap.jpg").write_bytes(make.with_a_gap(whole))
    (folder / "cut.png").write_bytes(make.truncated(make.encoded(".png", make.grained(11)), 0.6))
    (folder / "text.jpg").write_bytes(b"no image")
    (folder / "head.jpg").write_bytes(whole[:100])
    return folder


GOOD = {f"{number}.jpg": "indexed" for number in range(10)}
BAD = {"cut.png": "corrupt", "text.jpg": "not_an_image", "head.jpg": "corrupt"}
SKIPPED = GOOD | BAD | {"cut.jpg": "corrupt", "gap.jpg": "corrupt"}
KEPT = GOOD | BAD | {"cut.jpg": "indexed", "gap.jpg": "indexed"}
EARLY = "premature end of data segment"
DAMAGED = [("cut.jpg", EARLY), ("gap.jpg", EARLY)]


def flagged(index: Path) -> list[tuple[str, str]]:
    """What the index itself says is damaged."""
    manifest = json.loads((index / "manifest.json").read_bytes())
    items = index / f"gen-{manifest['generation']:06d}" / "items.sqlite"
    with contextlib.closing(sqlite3.connect(f"file:{items}?mode=ro", uri=True)) as connection:
        query = "SELECT path, message FROM damaged JOIN items USING (sha256) ORDER BY path"
        return connection.execute(query).fetchall()


def test_damaged_jpegs_are_rejected_unless_they_are_to_be_kept(catalog, run, report, outcomes, tmp_path):
    done = run(*BUILD, *NEW, cwd=tmp_path)

    facts = report(tmp_path / "report.json")
    assert (done.code, outcomes(tmp_path / "idx")) == (3, SKIPPED)
    assert (facts["counts"]["damaged"], facts["damaged"], flagged(tmp_path / "idx")) == (0, [], [])


def test_damaged_jpegs_that_are_kept_are_flagged_everywhere(catalog, run, report, outcomes, tmp_path):
    done = run(*BUILD, *NEW, "--damaged", "keep", cwd=tmp_path)
    told = run("info", "--index", "idx", cwd=tmp_path)

    facts = report(tmp_path / "report.json")
    assert (done.code, outcomes(tmp_path / "idx")) == (3, KEPT)
    assert facts["counts"]["damaged"] == 2
    assert [(one["path"], one["message"]) for one in facts["damaged"]] == flagged(tmp_path / "idx") == DAMAGED
    assert b"2 damaged but kept" in done.out
    assert re.search(rb"^damaged .*\b2\b", told.out, re.MULTILINE)


def test_an_index_remembers_that_damaged_jpegs_are_kept(catalog, run, report, outcomes, make, tmp_path):
    run(*BUILD, *NEW, "--damaged", "keep", cwd=tmp_path)
    again = run(*BUILD, cwd=tmp_path)
    unchanged = report(tmp_path / "report.json")
    (catalog / "more.jpg").write_bytes(make.truncated(make.encoded(".jpg", make.grained(12)), 0.7))
    more = run(*BUILD, cwd=tmp_path)

    assert (again.code, unchanged["published"], unchanged["counts"]["damaged"]) == (0, False, 2)
    assert (more.code, outcomes(tmp_path / "idx")) == (0, KEPT | {"more.jpg": "indexed"})
    assert flagged(tmp_path / "idx") == [*DAMAGED, ("more.jpg", EARLY)]


def test_damaged_jpegs_leave_an_index_that_keeps_them_no_more_and_come_back(catalog, run, report, outcomes, tmp_path):
    run(*BUILD, *NEW, "--damaged", "keep", cwd=tmp_path)

    skipping = run(*BUILD, "--damaged", "skip", cwd=tmp_path)
    skipped = (skipping.code, outcomes(tmp_path / "idx"), flagged(tmp_path / "idx"))
    counts = report(tmp_path / "report.json")["counts"]
    keeping = run(*BUILD, "--damaged", "keep", cwd=tmp_path)

    assert skipped == (3, SKIPPED, [])
    assert (counts["unchanged"], counts["rejected_new"], counts["damaged"]) == (10, 2, 0)
    assert (keeping.code, outcomes(tmp_path / "idx"), flagged(tmp_path / "idx")) == (0, KEPT, DAMAGED)


def test_a_copy_of_a_damaged_jpeg_is_flagged_too(catalog, run, outcomes, tmp_path):
    run(*BUILD, *NEW, "--damaged", "keep", cwd=tmp_path)
    (catalog / "copy.jpg").write_bytes((catalog / "cut.jpg").read_bytes())
    run(*BUILD, cwd=tmp_path)
    kept = flagged(tmp_path / "idx")
    (catalog / "cut.jpg").unlink()
    run(*BUILD, cwd=tmp_path)

    assert kept == [("copy.jpg", EARLY), *DAMAGED]
    assert flagged(tmp_path / "idx") == [("copy.jpg", EARLY), DAMAGED[1]]


def test_a_damaged_jpeg_that_was_mended_is_flagged_no_more(catalog, run, make, tmp_path):
    run(*BUILD, *NEW, "--damaged", "keep", cwd=tmp_path)
    (catalog / "cut.jpg").write_bytes(make.encoded(".jpg", make.grained(11)))

    assert run(*BUILD, cwd=tmp_path).code == 0
    assert flagged(tmp_path / "idx") == DAMAGED[1:]


def test_larger_files_are_rejected_and_tried_again_under_another_limit(catalog, run, report, outcomes, tmp_path):
    sizes = {path.name: path.stat().st_size for path in catalog.iterdir()}
    limit = sorted(sizes[name] for name in GOOD)[6]
    expected = {path: "too_many_bytes" if sizes[path] > limit else fate for path, fate in SKIPPED.items()}
    assert list(expected.values()).count("indexed") == 7

    limited = run(*BUILD, *NEW, "--max-bytes", limit, cwd=tmp_path)
    found = (limited.code, outcomes(tmp_path / "idx"))
    remembered = (run(*BUILD, cwd=tmp_path).code, outcomes(tmp_path / "idx"))
    lifted = run(*BUILD, "--max-bytes", 1_000_000, cwd=tmp_path)

    assert found == (3, expected)
    assert remembered == (0, expected)
    assert (lifted.code, outcomes(tmp_path / "idx")) == (0, SKIPPED)
    assert report(tmp_path / "report.json")["counts"]["unchanged"] == 7


def test_larger_images_are_rejected_and_tried_again_under_another_limit(make, run, report, outcomes, tmp_path):
    (tmp_path / "catalog").mkdir()
    for suffix in (".jpg", ".png", ".webp", ".bmp", ".tif", ".avif"):
        for side in (40, 41, 42):
            data = make.encoded(suffix, make.painted(side, side, side))
            (tmp_path / f"catalog/{side}{suffix}").write_bytes(data)
    every = {path.name: "indexed" for path in (tmp_path / "catalog").iterdir()}
    limited = {name: "too_large" if name.startswith("42") else fate for name, fate in every.items()}

    first = run(*BUILD, *NEW, "--max-pixels", 41 * 41, cwd=tmp_path)
    found = (first.code, outcomes(tmp_path / "idx"))
    remembered = (run(*BUILD, cwd=tmp_path).code, outcomes(tmp_path / "idx"))
    lifted = run(*BUILD, "--max-pixels", 42 * 42, cwd=tmp_path)

    assert found == (3, limited)
    assert remembered == (0, limited)
    assert (lifted.code, outcomes(tmp_path / "idx")) == (0, every)
    assert report(tmp_path / "report.json")["counts"]["embedded"] == 6


@pytest.mark.parametrize(("option", "cause"), [("--max-bytes", "too_many_bytes"), ("--max-pixels", "too_large")])
def test_a_lower_limit_rejects_what_was_indexed_before(make, run, outcomes, tmp_path, option, cause):
    (tmp_path / "catalog").mkdir()
    for side in (40, 41, 42, 43):
        (tmp_path / f"catalog/{side}.bmp").write_bytes(make.encoded(".bmp", make.painted(side, side, side)))
    run(*BUILD, *NEW, cwd=tmp_path)
    limit = 42 * 42 if option == "--max-pixels" else (tmp_path / "catalog/42.bmp").stat().st_size

    done = run(*BUILD, option, limit, cwd=tmp_path)

    expected = {"40.bmp": "indexed", "41.bmp": "indexed", "42.bmp": "indexed", "43.bmp": cause}
    assert (done.code, outcomes(tmp_path / "idx")) == (3, expected)


@pytest.mark.parametrize("option", ["--max-bytes", "--max-pixels"])
@pytest.mark.parametrize("value", ["0", "-1", "x", str(2**40)])
def test_a_limit_that_makes_no_sense_is_a_usage_error(catalog, run, tmp_path, option, value):
    done = run(*BUILD, *NEW, option, value, cwd=tmp_path)

    assert done.code == 2
    assert b"Traceback" not in done.err


def test_more_bad_files_than_max_skipped_are_refused(catalog, run, tmp_path):
    refused = run(*BUILD, *NEW, "--max-skipped", 4, cwd=tmp_path)
    published = (tmp_path / "idx/manifest.json").exists()
    accepted = run(*BUILD, *NEW, "--max-skipped", 5, cwd=tmp_path)

    assert (refused.code, published, accepted.code) == (9, False, 3)
