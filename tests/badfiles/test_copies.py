"""Hard links and exact duplicates."""

import os

import pytest

from imgsearch import Index

pytestmark = pytest.mark.usefixtures("quick_builds")


@pytest.mark.parametrize("count", [200, pytest.param(20_000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("backend", ["annoy", "exact"])
def test_every_copy_is_indexed_and_finds_itself(make, run, report, tmp_path, count, backend):
    folder = tmp_path / "catalog"
    folder.mkdir()
    image = make.jpeg()
    (folder / "first.jpg").write_bytes(image)
    for number in range(count):
        name = folder / f"{number % 10}/{number:05d}.jpg"
        name.parent.mkdir(exist_ok=True)
        if number % 2:
            os.link(folder / "first.jpg", name)
        else:
            name.write_bytes(image)
    for number in range(1, 6):
        (folder / f"other-{number}.jpg").write_bytes(make.jpeg(number))

    done = run(
        *("build-index", "catalog", "--index", "idx", "--backbone", "handcrafted", "--backend", backend),
        *("--report", "report.json"),
        cwd=tmp_path,
    )

    counts = report(tmp_path / "report.json")["counts"]
    assert (done.code, counts["embedded"] + counts["renamed"]) == (0, count + 6)
    path = f"7/{count - 3:05d}.jpg"
    with Index.open(tmp_path / "idx") as index:
        best = index.search(folder / path, 5)
        everything = index.search(folder / path, count + 6)
        other = index.search(folder / "other-3.jpg", 2)
    assert min(hit.score for hit in best) == pytest.approx(1)
    assert len(everything) == count + 6
    assert path in [hit.path for hit in everything if hit.score == pytest.approx(1)]
    assert (other[0].path, other[0].score) == ("other-3.jpg", pytest.approx(1))
    assert other[1].score < 0.99
