"""Indexes of given vectors, which no encoder made: for tests of what is searched and how it is judged."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from imgsearch.encoders.table import TABLE
from imgsearch.images.policy import FilePolicy
from imgsearch.personal.ranking.features import FEATURES, Quantiles
from imgsearch.personal.ranking.model import Linear, RankingModel
from imgsearch.search.backends.annoy import AnnoyBackend
from imgsearch.store import generations, integrity, publishing
from imgsearch.store.arrays import write_array
from imgsearch.store.columns import write_columns
from imgsearch.store.database import connect
from imgsearch.store.items import SCHEMA
from imgsearch.store.learned import RankingFacts
from imgsearch.store.manifest import Manifest, generation_folder
from imgsearch.store.search_settings import BackendSettings, SearchOptions


def build_annoy(folder, vectors, trees, seed):
    AnnoyBackend().build(folder, vectors, BackendSettings("annoy", trees, seed, 2000))


EXACT = BackendSettings("exact", 0, 0, 0)


def unit(vectors: np.ndarray) -> np.ndarray:
    return np.asarray(vectors / np.linalg.norm(vectors, axis=-1, keepdims=True), np.float32)


def store_index(
    directory: Path,
    vectors: np.ndarray,
    *,
    paths: Sequence[str] | None = None,
    products: Sequence[str] | None = None,
    categories: Sequence[str] | None = None,
    metadata: Sequence[Mapping[str, object]] | None = None,
    contents: Sequence[str] | None = None,
    backend: BackendSettings = EXACT,
) -> Path:
    """Publish an index of vectors that no encoder made; `contents` stand for the bytes of the images."""
    count, dims = vectors.shape
    names = paths or [f"{row:05d}.png" for row in range(count)]
    folder = directory / generation_folder(1)
    folder.mkdir(parents=True)
    for name in (generations.EMBEDDINGS, generations.VECTORS):
        write_array(folder / name, count, dims, [np.asarray(vectors, np.float32)])
    with closing(connect(folder / generations.ITEMS)) as connection:
        connection.executescript(SCHEMA)
        connection.execute("BEGIN")
        connection.executemany(
            "INSERT INTO items VALUES (?, ?, 1, 1, ?, ?, ?, ?)",
            (
                (
                    row,
                    names[row],
                    hashlib.sha256((contents or names)[row].encode()).digest(),
                    products[row] if products else names[row].removesuffix(".png"),
                    categories[row] if categories else "",
                    json.dumps(metadata[row] if metadata else {}),
                )
                for row in range(count)
            ),
        )
        write_columns(connection, "main", "main")
        connection.execute("COMMIT")
    files = [generations.EMBEDDINGS, generations.ITEMS, generations.VECTORS]
    if backend.name == "annoy":
        build_annoy(folder, np.asarray(vectors, np.float32), backend.trees, backend.seed)
        files.append(AnnoyBackend.file)
    spec = TABLE["handcrafted"].spec
    manifest = Manifest(
        generation=1,
        count=count,
        rejected=0,
        damaged=0,
        catalog="/nowhere",
        policy=FilePolicy(),
        encoder=spec,
        fingerprint=spec.fingerprint,
        detector=None,
        detector_fingerprint="",
        dims=dims,
        projection_count=0,
        adaptation=None,
        search=SearchOptions(backend.name),
        backend=backend,
        measured=None,
        calibration=None,
        metadata_file="",
        metadata_sha256="",
        files={f"{folder.name}/{name}": integrity.file_record(folder / name) for name in files},
    )
    publishing.publish(directory, manifest, None)
    return directory


def learn_order(directory: Path, model: RankingModel) -> None:
    """Let an index have learned an order, and publish what else was changed in its files."""
    manifest = generations.read_manifest(directory)
    folder = directory / manifest.folder
    with (folder / generations.RANKING).open("wb") as file:
        model.save(file)
    names = [*manifest.files, f"{folder.name}/{generations.RANKING}"]
    files = {name: integrity.file_record(directory / name) for name in names}
    facts = RankingFacts("linear", newest=0, answers=1, queries=1, gain=0.0, eta=1.0)
    publishing.publish(directory, replace(manifest, files=files, ranking=facts), None)


def linear(**weights: float) -> RankingModel:
    """An order by the weighted sum of some features."""
    count = len(FEATURES)
    of_each = np.array([weights.get(name, 0.0) for name in FEATURES])
    nothing = Quantiles((), np.full((1, 101), np.nan))
    return RankingModel(FEATURES, Linear(np.zeros(count), np.ones(count), of_each), nothing, nothing)


@pytest.fixture(scope="session", name="unit")
def unit_fixture() -> Callable[[np.ndarray], np.ndarray]:
    """Bring rows to unit length."""
    return unit


@pytest.fixture(scope="session", name="store_index")
def store_index_fixture() -> Callable[..., Path]:
    """Publish an index of given vectors: store_index(directory, vectors, products=[...])."""
    return store_index


# How many items `ranked` has.
RANKED = 30


@pytest.fixture(scope="session")
def ranked(tmp_path_factory) -> Path:
    """An index of items at growing angles and prices that has learned that the dear ones are liked; two a product."""
    angles = np.linspace(0, 1.5, RANKED)
    directory = store_index(
        tmp_path_factory.mktemp("ranked") / "index",
        unit(np.stack([np.cos(angles), np.sin(angles)], axis=1)),
        products=[f"product {row // 2}" for row in range(RANKED)],
        metadata=[{"price": row} for row in range(RANKED)],
    )
    prices = Quantiles((), np.linspace(0, RANKED, 101)[None])
    learn_order(directory, replace(linear(price=2.0, score=0.5), price=prices))
    return directory
