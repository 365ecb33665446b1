"""Find similar products in a folder of pictures, offline.

>>> from imgsearch import Index, build_index
>>> build_index("catalog")                                     # doctest: +SKIP
>>> with Index.open(".imgsearch") as index:                    # doctest: +SKIP
...     for hit in index.search("photo.jpg", k=5):
...         print(hit.rank, f"{hit.score:.3f}", hit.path)
"""

from typing import TYPE_CHECKING, Any

from imgsearch.errors import (
    DamagedIndexError,
    GateError,
    ImgsearchError,
    LockedError,
    MissingComponentError,
    NoIndexError,
    OutputError,
    PictureError,
    RefusedError,
    UsageError,
)

if TYPE_CHECKING:
    from imgsearch.evaluation.calibrate import keep_calibration
    from imgsearch.evaluation.evaluate import evaluate
    from imgsearch.evaluation.results import Evaluation
    from imgsearch.images.boxes import Box
    from imgsearch.images.preprocess import preprocess
    from imgsearch.index.build import build_index, embed
    from imgsearch.index.check import Finding, check
    from imgsearch.index.hits import Hit
    from imgsearch.index.report import BuildReport
    from imgsearch.index.rollback import rollback
    from imgsearch.index.search import Index
    from imgsearch.training.train import train

__version__ = "0.1.0"

__all__ = [
    "Box",
    "BuildReport",
    "DamagedIndexError",
    "Evaluation",
    "Finding",
    "GateError",
    "Hit",
    "ImgsearchError",
    "Index",
    "LockedError",
    "MissingComponentError",
    "NoIndexError",
    "OutputError",
    "PictureError",
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
    "BuildReport": "imgsearch.index.report",
    "build_index": "imgsearch.index.build",
    "check": "imgsearch.index.check",
    "Finding": "imgsearch.index.check",
    "rollback": "imgsearch.index.rollback",
    "embed": "imgsearch.index.build",
    "evaluate": "imgsearch.evaluation.evaluate",
    "Evaluation": "imgsearch.evaluation.results",
    "keep_calibration": "imgsearch.evaluation.calibrate",
    "preprocess": "imgsearch.images.preprocess",
    "train": "imgsearch.training.train",
    "Hit": "imgsearch.index.hits",
    "Index": "imgsearch.index.search",
}


def __getattr__(name: str) -> Any:
    # Names are imported when they are first used: `imgsearch --help` and the decoder processes need none of them.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOMES[name]), name)
