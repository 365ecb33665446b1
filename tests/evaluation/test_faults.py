"""An index that got worse is caught by a gate or by a comparison; one that did not raises no alarm.

Every fault is signed as a bug of ours would have signed it: sizes and checksums are right, `imgsearch check` finds
nothing (but where it looks into a forest), and every query is answered.
"""

import functools
import json
import re
import shutil
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from drawn_catalog import draw_catalog
from imgsearch.build import generation
from imgsearch.cli import main
from imgsearch.encoders import projection
from imgsearch.encoders.projection import Projection, learn_projection
from imgsearch.encoders.runtime import GRAPH_FILE, import_openvino
from imgsearch.encoders.spec import DEFAULT_BACKBONE
from imgsearch.encoders.table import TABLE
from imgsearch.images.decode import decode_rgba
from imgsearch.search.backends.annoy import AnnoyBackend
from imgsearch.store import generations
from imgsearch.store.database import connect
from imgsearch.store.search_settings import BackendSettings
from imgsearch.synthetic.augment import screenshot_like


def build_annoy(folder, vectors, trees, seed):
    AnnoyBackend().build(folder, vectors, BackendSettings("annoy", trees, seed, 2000))


@dataclass(frozen=True)
class Size:
    """Of a shop: how many products of each of the 12 categories it has, photos of them, and dimensions of vectors.

    `hit_rate` is a gate that it passes.
    """

    per_kind: int
    photos: int
    dims: int
    hit_rate: float

    @property
    def count(self) -> int:
        return 12 * self.per_kind

    @property
    def numbers(self) -> dict[str, object]:
        """What gates and messages are written with."""
        eighth = f"{100 * len(range(0, self.count, 8)) / self.count:.0f}"
        return {"count": self.count, "half": self.count // 2, "eighth": eighth, "hit_rate": self.hit_rate}


# In the large one a projection is learned by the usual limit (512 images), in the small one by a lower one.
SIZES = {"small": Size(16, 64, 64, 0.9), "large": Size(43, 129, 256, 0.95)}
RUNS = {
    # Other items of the same category, by the vectors alone.
    "labels": ("--labels", "category"),
    # What the search finds of what the vectors hold.
    "recall": ("--recall", "--sample", "60"),
    # Images cut out of a screen: decoder, encoder, projection and vectors together. As a whole: regions are more
    # chances, which hide two of the faults.
    "photos": ("--queries", "PHOTOS", "--truth", "TRUTH", "--regions", "whole"),
}


@dataclass(frozen=True)
class Shop:
    """A catalog, its index, what was measured of it, and a way to measure again."""

    folder: Path
    size: Size
    evaluate: Callable[..., int]

    @property
    def catalog(self) -> Path:
        return self.folder / "catalog"

    @property
    def index(self) -> Path:
        return self.folder / "index"

    def baseline(self, run: str) -> Path:
        return self.folder / f"{run}.json"


@pytest.fixture(scope="module")
def shops(tmp_path_factory, write_csv) -> Callable[[str], Shop]:
    """Make a shop, once: shops("small"). Not to be changed."""
    return functools.cache(lambda size: make_shop(SIZES[size], tmp_path_factory.mktemp(size), write_csv))


@pytest.fixture
def healthy(size, shops, monkeypatch) -> Shop:
    """The shop of the size that a test is for. Not to be changed."""
    monkeypatch.setattr(projection, "DIMS", SIZES[size].dims)
    monkeypatch.setattr(generation, "SMALLEST_CATALOG", min(SIZES[size].count, projection.SMALLEST_CATALOG))
    return shops(size)


def make_shop(size: Size, folder: Path, write_csv: Callable[..., Path]) -> Shop:
    """Draw products, index them by the default encoder in an Annoy forest, and evaluate that.

    They are not trimmed: to cut pages off screenshots makes more of them right, and what a fault does harder to see.
    """
    files = draw_catalog(folder / "catalog", per_kind=size.per_kind)
    options = ["--index", str(folder / "index"), "--trees", "10", "--no-trim", "-q"]
    assert main(["build-index", str(folder / "catalog"), *options]) == 0
    (folder / "photos").mkdir()
    truth = []
    for number, file in enumerate(files[:: len(files) // size.photos]):
        photo = screenshot_like(decode_rgba(file.read_bytes()), np.random.default_rng(number))
        (folder / "photos" / f"{number:03d}.jpg").write_bytes(photo)
        truth.append((f"{number:03d}.jpg", file.relative_to(folder / "catalog").as_posix()))
    write_csv(folder / "truth.csv", ("query", "path"), truth)
    places = {"PHOTOS": str(folder / "photos"), "TRUTH": str(folder / "truth.csv")}

    def evaluate(index: Path, run: str, *options: object) -> int:
        words = [places.get(word, word) for word in RUNS[run]]
        return main(["evaluate", "--index", str(index), *words, *map(str, options)])

    shop = Shop(folder, size, evaluate)
    for run in RUNS:
        assert evaluate(shop.index, run, "--json", shop.baseline(run)) == 0
    return shop


# --- what can be wrong with an index: each function takes a copy of it, and the shop


def random():
    return np.random.default_rng(5)


def of(index: Path, name: str) -> Path:
    return index / generations.read_manifest(index).folder / name


def vectors_changed(change):
    """Change vectors.npy, and let the forest be one of the vectors that are there now."""

    def fault(index, shop):
        path = of(index, generations.VECTORS)
        vectors = np.asarray(change(np.load(path)), np.float32)
        np.save(path, vectors)
        build_annoy(path.parent, vectors, 10, 0)

    return fault


def vectors_alone_changed(change):
    """Change vectors.npy under a forest that stays."""

    def fault(index, shop):
        path = of(index, generations.VECTORS)
        np.save(path, np.asarray(change(np.load(path)), np.float32))

    return fault


def unit(vectors):
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.where(lengths > 0, lengths, 1)


def shuffled(vectors):
    return random().permutation(vectors)


def shifted(vectors):
    return np.roll(vectors, 1, axis=0)


def backwards(vectors):
    return vectors[::-1]


def negated(vectors):
    return -vectors


def partly_equal(vectors):
    vectors[::3] = vectors[0]
    return vectors


def partly_nothing(vectors):
    vectors[::4] = 0
    return vectors


def doubled(vectors):
    vectors[::2] = vectors[1::2]
    return vectors


def signs(vectors):
    return unit(np.sign(vectors))


def noisy(vectors):
    return unit(vectors + random().normal(0, 1.0 / np.sqrt(vectors.shape[1]), vectors.shape))


def few_dims(vectors):
    return unit(vectors * (np.arange(vectors.shape[1]) < 6))


def all_but_first_dims(vectors):
    return unit(vectors * (np.arange(vectors.shape[1]) >= 32))


def of_any_length(vectors):
    return vectors * random().uniform(0.5, 1.0, (len(vectors), 1))


def byte_order(vectors):
    """Half of each vector is in the place of the other half: a stride read wrongly."""
    vectors[1::2] = np.roll(vectors[1::2], vectors.shape[1] // 2, axis=1)
    return vectors


def projection_changed(change):
    """Change projection.npz, that of the queries, while the vectors are those of the old one."""

    def fault(index, shop):
        path = of(index, generations.PROJECTION)
        healthy = Projection.load(str(path), TABLE[DEFAULT_BACKBONE].spec.dims, shop.size.dims)
        with path.open("wb") as file:
            change(healthy, np.load(of(index, generations.EMBEDDINGS))).save(file)

    return fault


def random_projection(healthy, embeddings):
    directions = np.linalg.qr(random().normal(size=healthy.components.T.shape))[0].T
    return Projection(healthy.mean, np.ascontiguousarray(directions, np.float32))


def projection_without_mean(healthy, embeddings):
    return Projection(np.zeros_like(healthy.mean), healthy.components)


def projection_of_half_the_catalog(healthy, embeddings):
    return learn_projection(embeddings[::2])


def projection_in_another_order(healthy, embeddings):
    return Projection(healthy.mean, np.ascontiguousarray(healthy.components[::-1]))


def another_forest(index, shop):
    path = of(index, generations.VECTORS)
    build_annoy(path.parent, shuffled(np.load(path)), 10, 0)


def rows_of_items_permuted(index, shop):
    with closing(connect(of(index, generations.ITEMS))) as connection:
        (count,) = connection.execute("SELECT count(*) FROM items").fetchone()
        rows = random().permutation(count).tolist()
        connection.execute("BEGIN")
        connection.execute("UPDATE items SET row = row + 1000000")
        connection.executemany(
            "UPDATE items SET row = ? WHERE row = ?", [(new, old + 1_000_000) for old, new in enumerate(rows)]
        )
        connection.execute("COMMIT")


def other_steps(steps):
    """Queries are seen otherwise than the catalog was."""

    def fault(index, shop):
        return {"encoder": replace(generations.read_manifest(index).encoder, steps=steps)}

    return fault


def network_changed(change):
    """Change the encoder that queries are seen by."""

    def fault(index, shop):
        openvino = import_openvino()
        path = index / generations.read_manifest(index).encoder_folder / GRAPH_FILE
        model = openvino.Core().read_model(path.read_bytes(), path.with_suffix(".bin").read_bytes())
        model = change(openvino, model)
        openvino.save_model(model, path, compress_to_fp16=False)

    return fault


def channels_swapped(openvino, model):
    steps = openvino.preprocess.PrePostProcessor(model)
    steps.input().tensor().set_layout(openvino.Layout("NHWC"))
    steps.input().preprocess().reverse_channels()
    return steps.build()


def other_weights(openvino, model):
    for node in model.get_ordered_ops():
        if node.get_type_name() == "Constant" and len(node.shape) == 4 and np.prod(node.shape) > 1000:
            values = random().permutation(node.data.ravel()).reshape(node.data.shape)
            other = openvino.opset13.constant(values)
            node.output(0).replace(other.output(0))
    return model


def rebuilt(index, catalog, *options):
    """Let the real program make it worse."""
    code = main(["build-index", str(catalog), "--index", str(index), "-q", *options])
    assert code == 0
    return {}


def of_the_catalog(index, shop, keep):
    """Copy a part of the catalog; the times stay, so that nothing is embedded again."""
    kept = [file for number, file in enumerate(sorted(shop.catalog.rglob("*.png"))) if keep(number, file)]
    folder = index.parent / "catalog"
    for file in kept:
        copy = folder / file.relative_to(shop.catalog)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(file, copy)
    return folder


def half_missing(index, shop):
    return rebuilt(index, of_the_catalog(index, shop, lambda number, _: number % 2), "--force")


def an_eighth_missing(index, shop):
    return rebuilt(index, of_the_catalog(index, shop, lambda number, _: number % 8))


def a_category_missing(index, shop):
    return rebuilt(index, of_the_catalog(index, shop, lambda _, file: file.parent.name != "stars"))


def a_worse_encoder(index, shop):
    return rebuilt(index, shop.catalog, "--backbone", "handcrafted:color", "--trees", "10")


def images_changed(change):
    """Every eighth file holds another image of the same name, and a nightly build has taken it in."""

    def fault(index, shop):
        catalog = of_the_catalog(index, shop, lambda *_: True)
        for file in sorted(catalog.rglob("*.png"))[::8]:
            pixels = cv2.imdecode(np.frombuffer(file.read_bytes(), np.uint8), cv2.IMREAD_UNCHANGED)
            file.write_bytes(cv2.imencode(".png", change(pixels))[1].tobytes())
        return rebuilt(index, catalog)

    return fault


def upside_down(pixels):
    return np.ascontiguousarray(pixels[::-1])


def blurred(pixels):
    return cv2.GaussianBlur(pixels, (0, 0), 12)


def categories_of_others(index, shop):
    """A CSV file sorted by one column only."""
    paths = [file.relative_to(shop.catalog).as_posix() for file in sorted(shop.catalog.rglob("*.png"))]
    categories = random().permutation([path.partition("/")[0] for path in paths])
    lines = ["path,category", *(f"{path},{category}" for path, category in zip(paths, categories, strict=True))]
    file = index.parent / "products.csv"
    file.write_text("\n".join(lines))
    return rebuilt(index, shop.catalog, "--metadata", str(file))


# Each fault, what is to catch it, and what must be said.
FAULTS = {
    "vectors shuffled": (vectors_changed(shuffled), "labels", "map is"),
    "vectors shifted by one row": (vectors_changed(shifted), "photos", "hit_rate@1 is"),
    "vectors backwards": (vectors_changed(backwards), "photos", "hit_rate@1 is"),
    "vectors negated": (vectors_changed(negated), "photos", "hit_rate@1 is"),
    "a third of the vectors equal": (vectors_changed(partly_equal), "labels", "hit_rate@1 is"),
    "a quarter of the vectors nothing": (vectors_changed(partly_nothing), "labels", "hit_rate@1 is"),
    "every other vector that of its neighbor": (vectors_changed(doubled), "photos", "map is"),
    "vectors brought to their signs": (vectors_changed(signs), "labels", "map is"),
    "vectors with noise": (vectors_changed(noisy), "labels", "map is"),
    "six dimensions left": (vectors_changed(few_dims), "labels", "hit_rate@1 is"),
    "the strongest dimensions lost": (vectors_changed(all_but_first_dims), "labels", "map is"),
    "vectors of any length": (vectors_changed(of_any_length), "labels", "map is"),
    "halves of every other vector swapped": (vectors_changed(byte_order), "labels", "map is"),
    "vectors shuffled under a forest": (vectors_alone_changed(shuffled), "recall", "index_recall@10 is"),
    "a forest of other vectors": (another_forest, "recall", "index_recall@10 is"),
    "a random projection": (projection_changed(random_projection), "photos", "hit_rate@1 is"),
    "a projection without its mean": (projection_changed(projection_without_mean), "photos", "map is"),
    "a projection of half the catalog": (projection_changed(projection_of_half_the_catalog), "photos", "map is"),
    "a projection in another order": (projection_changed(projection_in_another_order), "photos", "hit_rate@1 is"),
    "rows of items permuted": (rows_of_items_permuted, "labels", "hit_rate@1 is"),
    "queries binarized": (other_steps("binarize=otsu"), "photos", "hit_rate@1 is"),
    "queries without colors": (other_steps("grayscale"), "photos", "map is"),
    "the encoder's channels swapped": (network_changed(channels_swapped), "photos", "map is"),
    "the encoder's weights of another": (network_changed(other_weights), "photos", "hit_rate@1 is"),
    "a worse encoder": (a_worse_encoder, "labels", "hit_rate@1 is"),
    "half the catalog missing": (half_missing, "labels", "items where it held {count}: 50 % less"),
    "an eighth of the catalog missing": (an_eighth_missing, "recall", "items where it held {count}: {eighth} % less"),
    "a category missing": (a_category_missing, "photos", "map is"),
    "images upside down": (images_changed(upside_down), "photos", "map is"),
    "images blurred": (images_changed(blurred), "photos", "map is"),
    "categories of others": (categories_of_others, "labels", "hit_rate@1 is"),
}


@pytest.fixture
def copied(healthy, tmp_path) -> Path:
    return Path(shutil.copytree(healthy.index, tmp_path / "index"))


# What a gate says of them.
GATES = {
    "half the catalog missing": ("count={count}", "count is {half}, {half} below {count}"),
    "vectors shuffled": ("hit_rate@1={hit_rate}", "below {hit_rate}"),
    "a forest of other vectors": ("index_recall@10=0.99", "below 0.99"),
    "rows of items permuted": ("map=0.75", "below 0.75"),
}
# Much like another.
RARE = {
    "vectors of half the precision",
    *("vectors shifted by one row", "vectors backwards", "vectors brought to their signs", "vectors of any length"),
    *("halves of every other vector swapped", "a projection in another order", "queries without colors"),
    *("every other vector that of its neighbor", "images blurred", "vectors negated", "a category missing"),
    *("a quarter of the vectors nothing", "the strongest dimensions lost", "a worse encoder", "categories of others"),
    *("a projection of half the catalog", "another seed of the forest", "a few images gone"),
}
# Too little harm to be seen in a small shop, or in the precision of another processor; or, in one, no longer harmless.
SUBTLE = {
    *("six dimensions left", "the encoder's channels swapped", "images upside down", "a projection without its mean"),
    "labels of a few images gone",
}


def in_each_shop(names):
    """Sizes and names: those that matter in the small shop, and slowly all in the large one."""
    small = [pytest.param("small", name) for name in names if name not in RARE | SUBTLE]
    return small + [pytest.param("large", name, marks=pytest.mark.slow) for name in names]


@pytest.mark.parametrize(("size", "name"), in_each_shop(FAULTS))
def test_a_fault_is_caught_against_the_evaluation_of_before_and_by_a_gate(name, healthy, copied, sign, capsys):
    inject, run, said = FAULTS[name]
    said, gate, said_by_gate = (
        text.format(**healthy.size.numbers) for text in (said, *GATES.get(name, ("count=1", "")))
    )
    sign(copied, **(inject(copied, healthy) or {}))
    capsys.readouterr()

    code = healthy.evaluate(copied, run, "--against", healthy.baseline(run), "--min", gate)

    told = capsys.readouterr().err
    assert code == 10, told
    assert said in told
    assert said_by_gate in told


# The vectors of a few hundred images are too few for a forest to be bad at.
POOR = {
    "a small search_k": {"search_k": 1},
    "a small search_k in a forest of one tree": {"trees": 1, "search_k": 1},
}


@pytest.fixture(scope="module")
def forest(tmp_path_factory, store_index, unit) -> Path:
    """An index of 4,000 vectors in a good forest, and what was measured of it."""
    folder = tmp_path_factory.mktemp("forest")
    vectors = unit(np.random.default_rng(0).normal(size=(4000, 48)))
    store_index(folder / "index", vectors, backend=BackendSettings("annoy", 20, 0, 4000))
    assert measured(folder / "index", "--json", folder / "recall.json") == 0
    return folder


def measured(index, *options):
    return main(["evaluate", "--recall", "--sample", "60", "--index", str(index), *map(str, options)])


@pytest.mark.parametrize(
    "name", ["a small search_k", pytest.param("a small search_k in a forest of one tree", marks=pytest.mark.slow)]
)
def test_a_poor_forest_is_caught_by_a_gate_and_by_a_comparison(name, forest, tmp_path, sign, capsys):
    copied = Path(shutil.copytree(forest / "index", tmp_path / "index"))
    path = of(copied, generations.VECTORS)
    backend = replace(generations.read_manifest(copied).backend, **POOR[name])
    build_annoy(path.parent, np.load(path), backend.trees, backend.seed)
    sign(copied, backend=backend)
    capsys.readouterr()

    assert measured(copied, "--against", forest / "recall.json") == 10
    assert re.search(r"index_recall@10 is 0\.\d+ where it was 0\.9\d+ on the same 60 queries", capsys.readouterr().err)

    assert measured(copied, "--min", "index_recall@10=0.99") == 10
    assert re.search(r"index_recall@10 is 0\.\d+, 0\.\d+ below 0\.99", capsys.readouterr().err)


# --- what is no fault


@pytest.mark.parametrize(("size", "run"), in_each_shop(RUNS))
def test_evaluating_the_same_index_again_raises_no_alarm(run, healthy, tmp_path, capsys):
    gates = [
        f"--min={gate.format(**healthy.size.numbers)}" for name, (gate, _) in GATES.items() if FAULTS[name][1] == run
    ]
    capsys.readouterr()
    options = ("--against", healthy.baseline(run), "--json", tmp_path / "now", *gates)
    assert healthy.evaluate(healthy.index, run, *options) == 0
    assert capsys.readouterr().err == ""
    steady = []
    for file in (healthy.baseline(run), tmp_path / "now"):
        figures = json.loads(file.read_text())
        steady.append({name: value for name, value in figures.items() if not name.startswith(("latency", "queries_"))})
    assert steady[0] == steady[1]


def float16(vectors):
    return vectors.astype(np.float16)


def another_seed(index, shop):
    return rebuilt(index, shop.catalog, "--seed", "7", "--trees", "10")


def fewer_trees(index, shop):
    return rebuilt(index, shop.catalog, "--trees", "5")


def a_few_images_gone(index, shop):
    return rebuilt(index, of_the_catalog(index, shop, lambda number, _: number % 50 != 1))


def a_few_images_more(index, shop):
    catalog = of_the_catalog(index, shop, lambda *_: True)
    for file in draw_catalog(index.parent / "new", per_kind=1, seed=1):
        shutil.move(file, catalog / file.parent.name / f"new-{file.name}")
    return rebuilt(index, catalog)


HARMLESS = {
    "vectors of half the precision": (vectors_changed(float16), ("labels", "recall", "photos")),
    "another seed of the forest": (another_seed, ("recall",)),
    "fewer trees": (fewer_trees, ("recall",)),
    "a few images gone": (a_few_images_gone, ("recall", "photos")),
    "labels of a few images gone": (a_few_images_gone, ("labels",)),
    "a few images more": (a_few_images_more, ("labels", "recall", "photos")),
}


@pytest.mark.parametrize(("size", "name"), in_each_shop(HARMLESS))
def test_what_is_no_fault_raises_no_alarm(name, healthy, copied, sign, capsys):
    change, runs = HARMLESS[name]
    sign(copied, **(change(copied, healthy) or {}))

    for run in runs:
        code = healthy.evaluate(copied, run, "--against", healthy.baseline(run))
        assert code == 0, capsys.readouterr().err
