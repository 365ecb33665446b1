"""Fitting what orders candidates as people clicked them: trees by LightGBM, or a weighted sum."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from imgsearch.errors import require_installed
from imgsearch.personal.ranking.groups import Groups
from imgsearch.personal.ranking.model import Learner, Linear, Trees
from imgsearch.search.ranking import Scores

_MOST_TREES = 300
_PATIENCE = 60  # trees without a gain, after which no more are made
_INNER_SHARE = 0.8  # of the answers; by the later ones it is known how many trees are enough

# Small trees: a ranking of a dozen features has few ways to be right, and clicks are noisy.
_SETTINGS: Mapping[str, Any] = {
    "objective": "lambdarank",
    "metric": "ndcg",
    "eval_at": [10],
    "learning_rate": 0.05,
    "num_leaves": 7,
    "max_depth": 3,
    "min_data_in_leaf": 50,
    # Else all answers count alike, whatever their clicks weigh.
    "lambdarank_norm": False,
    "lambdarank_truncation_level": 50,
    "deterministic": True,
    "force_row_wise": True,
    "num_threads": 1,  # more make a small training slower where others work, too
    "verbose": -1,
}

_PENALTY = 1e-3  # on squares of weights, against the mean loss of a click
_NO_SPREAD = 1e-9  # a feature that varies less says nothing
_MOST_STEPS, _LEAST_STEP, _PRECISION = 50, 1e-4, 1e-10


def fit(groups: Groups, learner: Learner, seed: int) -> Trees | Linear:
    """Learn to order candidates: more wanted ones first.

    Args:
        groups: With gains at least in one.
        learner: `lambdamart`: Burges: From RankNet to LambdaRank to LambdaMART, 2010. `linear`: listwise softmax, Cao
            et al.: Learning to Rank: From Pairwise to Listwise Approach, ICML 2007 (ListNet of the first place).
        seed: Of what is drawn at random.

    Raises:
        MissingComponentError: `lightgbm` is not installed.
    """
    require_learner(learner)
    return _fit_linear(groups) if learner == "linear" else _fit_trees(groups, seed)


def require_learner(learner: Learner) -> None:
    """Raise `MissingComponentError` unless what a learner needs is installed."""
    if learner == "lambdamart":
        require_installed("lightgbm", "--learner lambdamart", "'imgsearch-toolkit[personal]'; or take --learner linear")


def _fit_trees(groups: Groups, seed: int) -> Trees:
    import lightgbm

    cut = max(1, int(_INNER_SHARE * len(groups)))
    settings = {**_SETTINGS, "seed": seed}
    inner = _dataset(groups.taken(0, cut))
    stopping = lightgbm.early_stopping(_PATIENCE, verbose=False)
    judged = _dataset(groups.taken(cut, len(groups)), inner)
    tried = lightgbm.train(settings, inner, _MOST_TREES, valid_sets=[judged], callbacks=[stopping])
    # Then with the later ones, too, whose number is enough.
    return trees_of(lightgbm.train(settings, _dataset(groups), max(1, tried.best_iteration)))


def _dataset(groups: Groups, reference: Any = None) -> Any:
    """Make a group of each click: it is before all that were not clicked, and counts as much as its place says.

    All clicks of an answer in one group would count by the shares of its gains, and not by what each of them says.
    """
    import lightgbm

    rows, sizes, labels, weights = [], [], [], []
    for start, end in zip(groups.starts[:-1].tolist(), groups.starts[1:].tolist(), strict=True):
        gains = groups.gains[start:end]
        (others,) = np.nonzero(gains == 0)
        for click in np.flatnonzero(gains).tolist():
            rows.append(np.append(others, click) + start)
            sizes.append(len(others) + 1)
            labels.append(np.append(np.zeros(len(others)), 1))
            weights.append(np.full(len(others) + 1, gains[click]))
    return lightgbm.Dataset(
        groups.features[np.concatenate(rows)],
        np.concatenate(labels),
        group=sizes,
        weight=np.concatenate(weights),
        reference=reference,
        free_raw_data=False,
    )


def trees_of(booster: Any) -> Trees:
    """Read the trees of a model of LightGBM that has no categories, and was not trained with zeros as unknown."""
    nodes: list[list[float]] = []  # feature, threshold, goes left, left, right, value

    def add(node: Mapping[str, Any]) -> tuple[int, float, float]:
        """Add a node and those below it; return its number, its mean value, and how much came there."""
        number = len(nodes)
        nodes.append([-1, 0.0, 0, number, number, node.get("leaf_value", 0.0)])
        if "split_feature" not in node:
            return number, node["leaf_value"], node.get("leaf_count", 1)
        assert (node["decision_type"], node["missing_type"]) in (("<=", "NaN"), ("<=", "None")), node
        left, left_value, left_count = add(node["left_child"])
        right, right_value, right_count = add(node["right_child"])
        count = left_count + right_count
        value = (left_value * left_count + right_value * right_count) / count
        # A feature of which all was known in training is compared as 0 where it is not.
        goes_left = node["default_left"] if node["missing_type"] == "NaN" else node["threshold"] >= 0
        nodes[number] = [node["split_feature"], node["threshold"], goes_left, left, right, value]
        return number, value, count

    roots = [add(tree["tree_structure"])[0] for tree in booster.dump_model()["tree_info"]]
    feature, threshold, goes_left, left, right, value = np.array(nodes, np.float64).T
    return Trees(
        np.array(roots, np.int32),
        feature.astype(np.int32),
        np.ascontiguousarray(threshold),
        goes_left.astype(np.int8),
        left.astype(np.int32),
        right.astype(np.int32),
        np.ascontiguousarray(value),
    )


def _fit_linear(groups: Groups) -> Linear:
    """Maximize the likelihood of the clicks, as weighed, if people choose by a softmax of the scores of all shown."""
    known = groups.features.astype(np.float64)
    is_known = np.isfinite(known)
    counts = np.maximum(is_known.sum(axis=0), 1)
    means = np.where(is_known, known, 0).sum(axis=0) / counts
    apart = np.where(is_known, known - means, 0)
    spreads = np.sqrt((apart**2).sum(axis=0) / counts)
    spreads[spreads < _NO_SPREAD] = 1.0
    return Linear(means, spreads, _softmax_weights(groups, apart / spreads))


def _softmax_weights(groups: Groups, x: Scores) -> Scores:
    """Find the weights of (rows, F) by Newton's method, with halved steps where a whole one goes too far."""
    starts, sizes = groups.starts[:-1], np.diff(groups.starts)
    gains, total = np.add.reduceat(groups.gains, starts), groups.gains.sum()

    def loss(weights: Scores) -> tuple[float, Scores]:
        """Return the loss, and how the gains of each answer are shared among its candidates."""
        scores = x @ weights
        scores -= np.repeat(np.maximum.reduceat(scores, starts), sizes)
        shares = np.exp(scores)
        sums = np.add.reduceat(shares, starts)
        value = (gains @ np.log(sums) - groups.gains @ scores) / total + _PENALTY * weights @ weights
        return float(value), shares * np.repeat(gains / sums, sizes)

    weights = np.zeros(x.shape[1])
    value, shares = loss(weights)
    for _ in range(_MOST_STEPS):
        means = np.add.reduceat(x * shares[:, None], starts)  # of each answer, times its gain
        slope = x.T @ (shares - groups.gains) / total + 2 * _PENALTY * weights
        curvature = (x.T @ (x * shares[:, None]) - means.T @ (means / gains[:, None])) / total
        step = np.linalg.solve(curvature + 2 * _PENALTY * np.eye(len(weights)), slope)
        size = 1.0
        while size > _LEAST_STEP and loss(weights - size * step)[0] > value:
            size /= 2
        if slope @ step < _PRECISION or size <= _LEAST_STEP:
            break
        weights = weights - size * step
        value, shares = loss(weights)
    return weights
