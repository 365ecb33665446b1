"""build-index --adapt: the catalog teaches its own projection."""

import itertools
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from here_variants import HereVariants, made_variants
from imgsearch import Index, build_index, check, embed
from imgsearch.build import adapt as adapt_module
from imgsearch.cli import main
from imgsearch.encoders import adaptation
from imgsearch.encoders.projection import AdaptationGain
from imgsearch.errors import UsageError
from imgsearch.images.decode import decode_rgba
from imgsearch.store import generations
from imgsearch.store.generations import read_manifest
from imgsearch.synthetic import variant_worker
from imgsearch.synthetic.augment import photo_like

COLOR = {"backbone": "handcrafted:color", "backend": "exact"}


class Told:
    """Remembers what a build says of its progress, and may do something at a stage of it."""

    def __init__(self, at: str = "", do=lambda: None) -> None:
        self.stages: list[str] = []
        self._at, self._do = at, do

    def __call__(self, stage: str, done: int, total: int) -> None:
        self.stages.append(stage)
        if stage == self._at:
            self._do()


@pytest.fixture(scope="module", autouse=True)
def few_variants():
    """To make variants takes longer than everything else here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(adaptation, "VARIANTS", 2)
        patch.setattr(adaptation, "VariantWorker", HereVariants)
        yield
    made_variants.cache_clear()


@pytest.fixture(scope="module")
def adapted(tmp_path_factory, drawn, few_variants) -> Path:
    """The drawn catalog and an adapted index of it. Not to be changed: copy it."""
    folder = tmp_path_factory.mktemp("adapted")
    shutil.copytree(drawn, folder / "catalog")
    build_index(folder / "catalog", folder / "index", adapt=True, **COLOR)
    return folder


@pytest.fixture
def shop(adapted, tmp_path) -> Path:
    """The adapted catalog and its index, to be changed."""
    shutil.copytree(adapted, tmp_path / "shop", copy_function=shutil.copy2)
    build_index(tmp_path / "shop/catalog", tmp_path / "shop/index")  # it has moved
    return tmp_path / "shop"


def projection_of(index: Path) -> bytes | None:
    file = index / read_manifest(index).folder / generations.PROJECTION
    return file.read_bytes() if file.exists() else None


def new_image(shop: Path, painted, seed: int = 1) -> None:
    (shop / "catalog" / f"new-{seed}.png").write_bytes(painted(seed))


def said(text: str, name: str) -> str:
    """What `info` says of a name."""
    (line,) = [line for line in text.splitlines() if line.startswith(name + " ")]
    return line.removeprefix(name).strip()


def photographed(catalog: Path, folder: Path) -> dict[Path, str]:
    """Photo-like queries, of other chance than the adaptation's, and the image that each is of."""
    photos = {}
    for number, file in enumerate(sorted(catalog.rglob("*.png"))):
        item = decode_rgba(file.read_bytes())
        for view in range(2):
            photo = folder / f"{number}-{view}.jpg"
            photo.write_bytes(photo_like(item, np.random.default_rng([number, view])))
            photos[photo] = file.relative_to(catalog).as_posix()
    return photos


def found_first(index: Path, photos: dict[Path, str]) -> int:
    """Count the queries whose own image is found first."""
    with Index.open(index) as opened:
        return sum(opened.search(photo, k=1)[0].path == path for photo, path in photos.items())


def test_an_adapted_index_says_what_it_gained_and_is_whole(adapted):
    manifest = read_manifest(adapted / "index")

    assert manifest.adaptation.images == 24
    assert manifest.adaptation.helps
    assert (manifest.projection_count, manifest.dims) == (24, 360)
    assert check(adapted / "index", deep=True) == []
    stored = json.loads((adapted / "index/manifest.json").read_text())["adaptation"]
    assert AdaptationGain(*stored.values()) == manifest.adaptation
    assert list(stored) == ["pictures", "before", "after", "drawings_before", "drawings_after"]


def test_an_adapted_index_finds_more_photos_it_has_not_seen(shop, tmp_path):
    photos = photographed(shop / "catalog", tmp_path)
    after = found_first(shop / "index", photos)
    build_index(shop / "catalog", shop / "index", adapt=False)

    assert after > found_first(shop / "index", photos)


def test_a_catalog_image_still_finds_itself(shop):
    with Index.open(shop / "index") as index:
        for file in sorted((shop / "catalog").rglob("*.png"))[::6]:
            (shop / "same.png").write_bytes(file.read_bytes() + b"\0")  # other bytes, the same image
            best = index.search(shop / "same.png", k=1)[0]
            assert (best.path, best.score) == (str(file.relative_to(shop / "catalog")), pytest.approx(1, abs=1e-5))


@pytest.mark.slow
def test_the_same_catalog_teaches_the_same_elsewhere_and_at_another_time(adapted, tmp_path, drawn, monkeypatch):
    monkeypatch.setattr(adaptation, "VariantWorker", variant_worker.VariantWorker)  # in processes of their own
    shutil.copytree(drawn, tmp_path / "other name")

    build_index(tmp_path / "other name", tmp_path / "index", adapt=True, **COLOR)

    assert projection_of(tmp_path / "index") == projection_of(adapted / "index")


def test_an_adaptation_is_kept_from_night_to_night(shop, painted):
    before = projection_of(shop / "index")
    gain = read_manifest(shop / "index").adaptation
    new_image(shop, painted)
    told = Told()

    report = build_index(shop / "catalog", shop / "index", progress=told)

    assert (report.embedded, report.published, report.adaptation) == (1, True, gain)
    assert projection_of(shop / "index") == before
    assert "adapt" not in told.stages
    assert read_manifest(shop / "index").adaptation == gain


def test_a_night_with_nothing_new_publishes_nothing(shop):
    for wish in (None, True):
        report = build_index(shop / "catalog", shop / "index", adapt=wish)
        assert not report.published
        assert report.adaptation is not None


def test_an_adaptation_is_taken_back_and_learned_again(shop, contents):
    before = contents(shop / "index")

    plain = build_index(shop / "catalog", shop / "index", adapt=False)

    assert (plain.published, plain.embedded, plain.adaptation) == (True, 0, None)
    manifest = read_manifest(shop / "index")
    assert (manifest.adaptation, manifest.projection_count) == (None, 0)
    assert all(embedding == vector for embedding, vector in contents(shop / "index").values())
    assert not build_index(shop / "catalog", shop / "index").published  # which sticks, too
    again = build_index(shop / "catalog", shop / "index", adapt=True)
    assert (again.published, again.embedded) == (True, 0)
    assert contents(shop / "index") == before


@pytest.mark.parametrize("why", ["relearn", "doubled", "another encoder"])
def test_an_adaptation_is_learned_anew_for_a_reason(shop, lay_out, why):
    before = projection_of(shop / "index")
    if why == "doubled":
        lay_out(shop / "catalog", 24)
    told = Told()

    build_index(
        shop / "catalog",
        shop / "index",
        relearn=why == "relearn",
        backbone="handcrafted:texture" if why == "another encoder" else None,
        progress=told,
    )

    assert "adapt" in told.stages
    assert read_manifest(shop / "index").adaptation is not None
    assert (projection_of(shop / "index") == before) == (why == "relearn")


def test_a_lost_projection_is_learned_again(shop, caplog):
    before = projection_of(shop / "index")
    manifest = read_manifest(shop / "index")
    (shop / "index" / manifest.folder / generations.PROJECTION).unlink()

    build_index(shop / "catalog", shop / "index")

    assert projection_of(shop / "index") == before
    assert check(shop / "index") == []


# --- refused


@pytest.fixture
def helpless(monkeypatch):
    """An adaptation that has learned the wrong thing."""

    def measured(*arguments):
        return AdaptationGain(24, 0.9, 0.95, 0.6, 0.5)

    monkeypatch.setattr(adapt_module, "measure_gain", measured)


def test_an_adaptation_that_does_not_help_is_not_used_and_a_warning_says_so(
    helpless, catalog, tmp_path, painted, contents, caplog
):
    report = build_index(catalog, tmp_path / "index", adapt=True, **COLOR)

    assert "the adaptation does not help and is not used: of held-out variants of 24 images 0.950" in caplog.text
    assert "redrawn 0.500, 0.600 without" in caplog.text
    manifest = read_manifest(tmp_path / "index")
    assert report.adaptation == manifest.adaptation == AdaptationGain(24, 0.9, 0.95, 0.6, 0.5)
    assert (manifest.projection_count, manifest.dims) == (0, 360)
    assert all(embedding == vector for embedding, vector in contents(tmp_path / "index").values())
    assert not build_index(catalog, tmp_path / "index").published
    assert check(tmp_path / "index", deep=True) == []
    new_image(tmp_path, painted)
    told = Told()
    assert build_index(catalog, tmp_path / "index", progress=told).published
    assert "adapt" not in told.stages  # it is not tried again every night


def test_where_it_does_not_help_the_plain_projection_is_used(helpless, drawn, tmp_path, monkeypatch):
    monkeypatch.setattr("imgsearch.build.generation.SMALLEST_CATALOG", 12)
    monkeypatch.setattr("imgsearch.encoders.projection.DIMS", 8)
    build_index(drawn, tmp_path / "plain", **COLOR)

    build_index(drawn, tmp_path / "adapted", adapt=True, **COLOR)

    assert projection_of(tmp_path / "adapted") == projection_of(tmp_path / "plain")
    assert read_manifest(tmp_path / "adapted").projection_count == 24


def test_too_few_images_to_adapt_to_are_a_usage_error_and_publish_nothing(small, tmp_path):
    with pytest.raises(UsageError, match=r"at least 20 different images.*found 12"):
        build_index(small, tmp_path / "index", adapt=True, **COLOR)

    assert generations.published(tmp_path / "index") is None
    build_index(small, tmp_path / "index", **COLOR)
    assert read_manifest(tmp_path / "index").adaptation is None


def test_copies_of_an_image_count_once(small, tmp_path):
    for number, file in itertools.product(range(3), sorted(small.rglob("*.png"))):
        shutil.copy(file, file.with_name(f"{number}-{file.name}"))

    with pytest.raises(UsageError, match="found 12"):
        build_index(small, tmp_path / "index", adapt=True, **COLOR)


def test_embeddings_cannot_be_adapted_to_but_an_adaptation_can_be_given_up(shop):
    embed(shop / "catalog", shop / "embeddings", backbone="handcrafted:color")

    with pytest.raises(UsageError, match="--adapt needs a build from the folder of images"):
        build_index(shop / "embeddings", shop / "new", adapt=True)
    assert build_index(shop / "embeddings", shop / "new", adapt=False).published
    assert not build_index(shop / "embeddings", shop / "index", adapt=True).published  # it is adapted
    assert build_index(shop / "embeddings", shop / "index", adapt=False).published
    assert read_manifest(shop / "index").adaptation is None
    assert not build_index(shop / "embeddings", shop / "index", adapt=False).published


def test_an_adaptation_is_kept_where_an_index_is_given_embeddings(shop, painted):
    before = projection_of(shop / "index")
    embed(shop / "catalog", shop / "embeddings", backbone="handcrafted:color")
    build_index(shop / "embeddings", shop / "index")
    assert projection_of(shop / "index") == before
    new_image(shop, painted)
    embed(shop / "catalog", shop / "embeddings")

    build_index(shop / "embeddings", shop / "index")

    assert projection_of(shop / "index") == before


# --- things that go wrong


@pytest.mark.parametrize(("at", "how"), [("index", SystemExit), ("adapt", KeyboardInterrupt)])
def test_an_interruption_publishes_nothing_and_embeds_nothing_again(drawn, tmp_path, at, how, unpublished):
    def stop():
        raise how

    with pytest.raises(how):
        build_index(drawn, tmp_path / "index", adapt=True, progress=Told(at, stop), **COLOR)
    assert generations.published(tmp_path / "index") is None
    assert unpublished(tmp_path / "index") == []

    report = build_index(drawn, tmp_path / "index", adapt=True, **COLOR)

    assert (report.embedded, report.resumed) == (24, 24)
    assert read_manifest(tmp_path / "index").adaptation.helps


def test_an_image_that_is_lost_or_broken_meanwhile_is_not_learned_from_but_one_of_any_name_is(drawn, tmp_path):
    shutil.copytree(drawn, tmp_path / "catalog")
    file = tmp_path / "catalog/cups/cups-01.png"
    file.rename(file.with_name("caf\udce9 \n.png"))

    def spoil():
        (tmp_path / "catalog/cups/cups-00.png").unlink(missing_ok=True)
        (tmp_path / "catalog/fish/fish-01.png").write_bytes(b"no image")

    report = build_index(tmp_path / "catalog", tmp_path / "index", adapt=True, progress=Told("index", spoil), **COLOR)

    assert report.adaptation.images == 22
    assert read_manifest(tmp_path / "index").count == 24


def test_only_a_sample_of_a_large_catalog_is_looked_at(drawn, tmp_path, monkeypatch):
    monkeypatch.setattr(adapt_module, "MAX_IMAGES", 21)

    report = build_index(drawn, tmp_path / "index", adapt=True, **COLOR)

    assert report.adaptation.images == 21


@pytest.mark.slow
def test_preprocessed_images_are_adapted_to_as_they_are_preprocessed(drawn, tmp_path):
    report = build_index(drawn, tmp_path / "index", adapt=True, preprocess="grayscale", **COLOR)

    assert report.adaptation.images == 24
    assert check(tmp_path / "index", deep=True) == []


# --- through the program


def test_the_program_adapts_tells_what_it_gained_and_keeps_quiet_under_cron(drawn, tmp_path, capsys):
    index, report = ["--index", str(tmp_path / "idx")], tmp_path / "report.json"
    build = ["build-index", str(drawn), *index]

    assert main([*build, "--backbone", "handcrafted:color", "--adapt", "--report", str(report)]) == 0
    assert "adapted: of held-out variants of 24 images " in capsys.readouterr().out
    gained = json.loads(report.read_text())["adaptation"]
    assert gained["pictures"] == 24
    assert 0 <= gained["drawings_before"] <= gained["drawings_after"] <= 1
    assert main(build) == 0
    assert capsys.readouterr().err == ""
    assert main(["info", *index]) == 0
    told = capsys.readouterr().out
    assert said(told, "adaptation").startswith("of held-out variants of 24 images")
    assert said(told, "projection") == "to 360, learned on 24 images"
