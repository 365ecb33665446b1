"""Indexes of given vectors to recommend from, and what is learned of their products by hand."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from imgsearch import Index
from imgsearch.personal.recommend.collaborative import Similar
from imgsearch.personal.recommend.model import RecommendModel
from imgsearch.store import generations, integrity, publishing
from imgsearch.store.learned import Blend, RecommendFacts
from imgsearch.store.learned_products import rows_of_products, write_rows
from vector_indexes import store_index, unit

if TYPE_CHECKING:
    from collections.abc import Callable

DAY = 86_400_000_000
NOW = 20_000 * DAY

# Ten products of each of three kinds, the more alike the nearer their numbers, and at the end a second image of shoe0.
KINDS = ("shoe", "lamp", "vase")
NAMES = [f"{kind}{number}" for kind in KINDS for number in range(10)]
PRODUCTS = [*NAMES, "shoe0"]
PATHS = [*(f"{name}.png" for name in NAMES), "shoe0-back.png"]
_AXES = np.eye(2 * len(KINDS))
VECTORS = unit(
    np.array(
        [_AXES[KINDS.index(name[:4])] + 0.1 * int(name[4:]) * _AXES[KINDS.index(name[:4]) + 3] for name in PRODUCTS]
    )
)

FACTS = RecommendFacts(
    learner="ease",
    blend=Blend(0.5, 0.4, 0.1),
    half_life=10.0,
    newest=NOW,
    events=100,
    users=10,
    products=4,
    queries=5,
    gain=0.1,
)


def shop(directory: Path) -> Path:
    """Publish the index."""
    categories = [f"{name[:4]}s" for name in PRODUCTS]
    prices = [{"price": 10 * int(name[4:])} for name in PRODUCTS]
    return store_index(directory, VECTORS, paths=PATHS, products=PRODUCTS, categories=categories, metadata=prices)


def learn(directory: Path, facts: RecommendFacts = FACTS) -> Path:
    """Publish what was learned: who wants shoe0 wants lamp9, too; vase0 is wanted most, then vase1; no other events."""
    names = ("shoe0", "lamp9", "vase0", "vase1")
    weights = np.zeros((4, 4), np.float32)
    weights[0, 1] = weights[1, 0] = 0.5
    vectors = VECTORS[[PRODUCTS.index(name) for name in names]]
    similar = Similar(np.tile(np.arange(4, dtype=np.int32), (4, 1)), weights, weights @ vectors)
    popularity = np.array([3, 2, 100, 10], np.float32)
    return keep(directory, RecommendModel(names, similar, popularity), facts)


def keep(directory: Path, model: RecommendModel, facts: RecommendFacts = FACTS) -> Path:
    """Publish a model, as a training does."""
    with Index.open(directory) as index:
        rows = rows_of_products(index.items, model.names, len(index))
    files: dict[str, Callable[[BinaryIO], object]] = {
        generations.RECOMMEND: model.save,
        generations.RECOMMEND_ROWS: partial(write_rows, rows=rows),
    }
    publishing.publish_learned(directory, generations.read_manifest(directory), files, recommend=facts)
    return directory


def record(directory: Path, name: str) -> None:
    """Have the manifest expect a file of the generation as it is now."""
    manifest = generations.read_manifest(directory)
    changed = {f"{manifest.folder}/{name}": integrity.file_record(directory / manifest.folder / name)}
    publishing.amend(directory, replace(manifest, files={**manifest.files, **changed}))
