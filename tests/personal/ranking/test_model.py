"""Ranking models: what NumPy computes of the trees of LightGBM, and of files that are damaged or hostile."""

import contextlib
import io
import zipfile
from pathlib import Path

import numpy as np
import pytest

from imgsearch.errors import DamagedIndexError
from imgsearch.personal.ranking.features import Quantiles
from imgsearch.personal.ranking.model import Linear, RankingModel, Trees, load_model

FEATURES = ("whole", "price")
PRICE = Quantiles(("shoes",), np.array([np.arange(101.0), np.full(101, np.nan)]))


def trees(**changes: object) -> Trees:
    """One tree: `whole` at most 0.5 or unknown goes to -1, the rest by `price` to 1 or 3."""
    parts = {
        "roots": np.array([0], np.int32),
        "feature": np.array([0, -1, 1, -1, -1], np.int32),
        "threshold": np.array([0.5, 0, 10, 0, 0]),
        "goes_left": np.array([1, 0, 0, 0, 0], np.int8),
        "left": np.array([1, 1, 3, 3, 4], np.int32),
        "right": np.array([2, 1, 4, 3, 4], np.int32),
        "value": np.array([0.5, -1, 2, 1, 3.0]),
    }
    return Trees(**{**parts, **changes})


def model(scorer: Trees | Linear) -> RankingModel:
    return RankingModel(FEATURES, scorer, PRICE, Quantiles((), np.zeros((1, 101))))


def saved(path: Path, scorer: Trees | Linear) -> Path:
    with path.open("wb") as file:
        model(scorer).save(file)
    return path


X = np.array([[0.2, 5], [0.9, 5], [0.9, 20], [np.nan, 5], [0.9, np.nan]], np.float32)


def test_a_tree_sends_each_row_to_its_leaf_and_unknown_values_where_they_belong():
    assert trees().scores(X).tolist() == [-1, 1, 3, -1, 3]


def test_each_change_of_the_expected_score_is_put_down_to_the_feature_compared():
    moved = trees().contributions(X)

    assert moved[2].tolist() == [1.5, 1.0]
    assert np.allclose(moved.sum(axis=1), trees().scores(X) - 0.5)


def test_a_weighted_sum_takes_the_mean_for_what_is_unknown():
    linear = Linear(np.array([1.0, 10]), np.array([2.0, 5]), np.array([1.0, -1]))

    assert linear.scores(np.array([[3, 10], [np.nan, 5]], np.float32)).tolist() == [1, 1]


@pytest.mark.parametrize("scorer", [trees(), Linear(np.zeros(2), np.ones(2), np.array([1.0, 2]))])
def test_a_model_is_read_as_it_was_saved(tmp_path, scorer):
    read = load_model(saved(tmp_path / "ranking.npz", scorer), FEATURES)

    assert read.scores(X).tolist() == scorer.scores(X).tolist()
    assert read.price.categories == ("shoes",)
    assert np.array_equal(read.price.values, PRICE.values, equal_nan=True)


def test_a_model_of_other_features_is_refused_with_what_to_do(tmp_path):
    with pytest.raises(DamagedIndexError, match=r"other features than this imgsearch: color") as caught:
        load_model(saved(tmp_path / "ranking.npz", trees()), (*FEATURES, "color"))

    assert "train" in caught.value.hint


@pytest.mark.parametrize(
    "changes",
    [
        {"left": np.array([0, 1, 3, 3, 4], np.int32)},  # a circle
        {"right": np.array([2, 1, 9, 3, 4], np.int32)},
        {"left": np.array([1, 2, 3, 3, 4], np.int32)},  # a leaf with a child
        {"feature": np.array([0, -1, 2, -1, -1], np.int32)},
        {"threshold": np.array([np.nan, 0, 10, 0, 0])},
        {"value": np.array([0.5, -1, 2, np.inf, 3.0])},
        {"roots": np.array([0, 5], np.int32)},
        {"roots": np.array([], np.int32)},
        {"goes_left": np.array([2, 0, 0, 0, 0], np.int8)},
        {"threshold": np.zeros(4)},
        {"feature": np.array([0, -1, 1, -1, -1], np.int64)},
    ],
)
def test_trees_that_are_none_are_refused(tmp_path, changes):
    with pytest.raises(DamagedIndexError):
        load_model(saved(tmp_path / "ranking.npz", trees(**changes)), FEATURES)


def test_a_file_cut_short_or_changed_is_refused_or_is_a_model(tmp_path):
    content = saved(tmp_path / "ranking.npz", trees()).read_bytes()
    random = np.random.default_rng(0)
    path = tmp_path / "changed.npz"

    for place in random.integers(len(content), size=60):
        path.write_bytes(content[:place])
        with pytest.raises(DamagedIndexError):
            load_model(path, FEATURES)
        path.write_bytes(content[:place] + bytes([int(random.integers(256))]) + content[place + 1 :])
        with contextlib.suppress(DamagedIndexError):
            load_model(path, FEATURES).scores(X)


def test_a_compressed_file_is_refused_before_it_fills_the_memory(tmp_path):
    path = tmp_path / "ranking.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("description.npy", b"\0" * 1_000_000)

    with pytest.raises(DamagedIndexError, match="compressed") as raised:
        load_model(path, FEATURES)
    assert "train --objective rank" in str(raised.value.hint)


def test_an_array_that_claims_to_be_enormous_is_refused(tmp_path):
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": (1 << 60,)})
    path = tmp_path / "ranking.npz"
    with zipfile.ZipFile(path, "w") as packed:
        packed.writestr("description.npy", header.getvalue())

    with pytest.raises(DamagedIndexError):
        load_model(path, FEATURES)
