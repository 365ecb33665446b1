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
    DamagedIndexError,
    GateError,
    ImageError,
    ImgsearchError,
    LockedError,
    MissingComponentError,
    NoIndexError,
    OutputError,
    RefusedError,
    UsageError,
)

if TYPE_CHECKING:
    from imgsearch.build.build import build_index, embed
    from imgsearch.build.report import BuildReport
    from imgsearch.evaluation.calibrate import keep_calibration
    from imgsearch.evaluation.evaluate import evaluate
    from imgsearch.evaluation.results import Evaluation
    from imgsearch.images.boxes import Box
    from imgsearch.preprocessing.preprocess import preprocess
    from imgsearch.search.check import Finding, check
    from imgsearch.search.hits import Hit
    from imgsearch.search.index import Index
    from imgsearch.store.rollback import rollback
    from imgsearch.training.train import train

__all__ = [
    "Box",
    "BuildReport",
    "DamagedIndexError",
    "Evaluation",
    "Finding",
    "GateError",
    "Hit",
    "ImageError",
    "ImgsearchError",
    "Index",
    "LockedError",
    "MissingComponentError",
    "NoIndexError",
    "OutputError",
    "RefusedError",
    "UsageError",
    "__version__",
    "build_index",
    "check",
    "embed",
    "evaluate",
    "keep_calibration",
    "preprocess",
    "rollback",
    "train",
]

_HOMES = {
    "Box": "imgsearch.images.boxes",
    "BuildReport": "imgsearch.build.report",
    "build_index": "imgsearch.build.build",
    "check": "imgsearch.search.check",
    "Finding": "imgsearch.search.check",
    "rollback": "imgsearch.store.rollback",
    "embed": "imgsearch.build.build",
    "evaluate": "imgsearch.evaluation.evaluate",
    "Evaluation": "imgsearch.evaluation.results",
    "keep_calibration": "imgsearch.evaluation.calibrate",
    "preprocess": "imgsearch.preprocessing.preprocess",
    "train": "imgsearch.training.train",
    "Hit": "imgsearch.search.hits",
    "Index": "imgsearch.search.index",
}


def __getattr__(name: str) -> Any:
    # Names are imported when they are first used: `imgsearch --help` and the decoder processes need none of them.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOMES[name]), name)
