"""Find similar products in a folder of images, offline.

>>> from imgsearch import Index, build_index
>>> build_index("catalog")                                     # doctest: +SKIP
>>> with Index.open(".imgsearch") as index:                    # doctest: +SKIP
...     for hit in index.search("photo.jpg", k=5):
...         print(hit.rank, f"{hit.score:.3f}", hit.path)
"""

from typing import TYPE_CHECKING, Any

from imgsearch._version import __version__
from imgsearch.errors import (
    BoxError,
    DamagedIndexError,
    GateError,
    HistoryError,
    ImageError,
    ImgsearchError,
    LockedError,
    MissingComponentError,
    NoIndexError,
    OutputError,
    RefusedError,
    ResourceError,
    ServerError,
    UsageError,
)

if TYPE_CHECKING:
    from imgsearch.build.build import build_index, embed
    from imgsearch.build.options import BuildOptions, EmbedOptions
    from imgsearch.build.report import BuildReport
    from imgsearch.catalog.changes import ChangedItem, ChangedNeighbor, Changes, changes
    from imgsearch.catalog.duplicates import Duplicate, DuplicateGroup, Duplicates, duplicates
    from imgsearch.catalog.neighbors import Neighbor, Neighbors, neighbors
    from imgsearch.catalog.outliers import Outlier, Outliers, outliers
    from imgsearch.encoders.available import AvailableEncoder, models
    from imgsearch.encoders.class_probability import ClassProbability
    from imgsearch.encoders.classifier import Classifier, classify
    from imgsearch.encoders.model_file import ModelCard, save_model
    from imgsearch.evaluation.calibrate import keep_calibration
    from imgsearch.evaluation.evaluate import EvaluateOptions, evaluate
    from imgsearch.evaluation.results import Evaluation
    from imgsearch.images.boxes import Box
    from imgsearch.images.steps import Steps
    from imgsearch.personal.ranking.train import RankingReport, train_ranking
    from imgsearch.personal.recommend.history import History
    from imgsearch.personal.recommend.recommender import Recommender
    from imgsearch.personal.recommend.train import RecommendReport, train_recommend
    from imgsearch.preprocessing.preprocess import PreprocessOptions, PreprocessReport, preprocess
    from imgsearch.regions.detections import Detection
    from imgsearch.search.check import Finding, check
    from imgsearch.search.detect import detect
    from imgsearch.search.hits import Filter, Hit, ObjectHits
    from imgsearch.search.index import Index
    from imgsearch.search.views import Indexed
    from imgsearch.store.info import IndexInfo, info
    from imgsearch.store.rollback import rollback
    from imgsearch.training.options import TrainOptions
    from imgsearch.training.report import AdaptReport, DetectReport, LabeledReport, TrainReport, TunedReport
    from imgsearch.training.train import train

__all__ = [
    "AdaptReport",
    "AvailableEncoder",
    "Box",
    "BoxError",
    "BuildOptions",
    "BuildReport",
    "ChangedItem",
    "ChangedNeighbor",
    "Changes",
    "ClassProbability",
    "Classifier",
    "DamagedIndexError",
    "DetectReport",
    "Detection",
    "Duplicate",
    "DuplicateGroup",
    "Duplicates",
    "EmbedOptions",
    "EvaluateOptions",
    "Evaluation",
    "Filter",
    "Finding",
    "GateError",
    "History",
    "HistoryError",
    "Hit",
    "ImageError",
    "ImgsearchError",
    "Index",
    "IndexInfo",
    "Indexed",
    "LabeledReport",
    "LockedError",
    "MissingComponentError",
    "ModelCard",
    "Neighbor",
    "Neighbors",
    "NoIndexError",
    "ObjectHits",
    "Outlier",
    "Outliers",
    "OutputError",
    "PreprocessOptions",
    "PreprocessReport",
    "RankingReport",
    "RecommendReport",
    "Recommender",
    "RefusedError",
    "ResourceError",
    "ServerError",
    "Steps",
    "TrainOptions",
    "TrainReport",
    "TunedReport",
    "UsageError",
    "__version__",
    "build_index",
    "changes",
    "check",
    "classify",
    "detect",
    "duplicates",
    "embed",
    "evaluate",
    "info",
    "keep_calibration",
    "models",
    "neighbors",
    "outliers",
    "preprocess",
    "rollback",
    "save_model",
    "train",
    "train_ranking",
    "train_recommend",
]

# Where each name is at home: the rooms, and the names in them.
_HOMES = {
    "build.build": ("build_index", "embed"),
    "build.options": ("BuildOptions", "EmbedOptions"),
    "build.report": ("BuildReport",),
    "catalog.changes": ("ChangedItem", "ChangedNeighbor", "Changes", "changes"),
    "catalog.duplicates": ("Duplicate", "DuplicateGroup", "Duplicates", "duplicates"),
    "catalog.neighbors": ("Neighbor", "Neighbors", "neighbors"),
    "catalog.outliers": ("Outlier", "Outliers", "outliers"),
    "encoders.available": ("AvailableEncoder", "models"),
    "encoders.class_probability": ("ClassProbability",),
    "encoders.classifier": ("Classifier", "classify"),
    "encoders.model_file": ("ModelCard", "save_model"),
    "evaluation.calibrate": ("keep_calibration",),
    "evaluation.evaluate": ("EvaluateOptions", "evaluate"),
    "evaluation.results": ("Evaluation",),
    "images.boxes": ("Box",),
    "images.steps": ("Steps",),
    "personal.ranking.train": ("RankingReport", "train_ranking"),
    "personal.recommend.history": ("History",),
    "personal.recommend.train": ("RecommendReport", "train_recommend"),
    "personal.recommend.recommender": ("Recommender",),
    "preprocessing.preprocess": ("PreprocessOptions", "PreprocessReport", "preprocess"),
    "regions.detections": ("Detection",),
    "search.check": ("Finding", "check"),
    "search.detect": ("detect",),
    "search.hits": ("Filter", "Hit", "ObjectHits"),
    "search.index": ("Index",),
    "search.views": ("Indexed",),
    "store.info": ("IndexInfo", "info"),
    "store.rollback": ("rollback",),
    "training.options": ("TrainOptions",),
    "training.report": ("AdaptReport", "DetectReport", "LabeledReport", "TrainReport", "TunedReport"),
    "training.train": ("train",),
}


def __getattr__(name: str) -> Any:
    # Names are imported when they are first used: `imgsearch --help` and the decoder processes need none of them.
    import importlib

    for module, names in _HOMES.items():
        if name in names:
            return getattr(importlib.import_module(f"imgsearch.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
