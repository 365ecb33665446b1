"""Do probabilities mean what they say on queries they were not learned from: python benchmarks/calibration.py FOLDER.

Probabilities are learned from the self-test of the stamps, and compared with what is right among the first ten hits of
photo-like queries with two other seeds, and of crops and screenshots, a kind that they were not learned from.
"""

import sys
from pathlib import Path

import numpy as np

from adaptation import KINDS, make_queries
from catalogs import stamps
from demo import ask
from imgsearch import Hit, build_index
from imgsearch.evaluation.calibrate import expected_calibration_error, keep_calibration
from imgsearch.evaluation.evaluate import evaluate

ASKED = (("photo", 3), ("photo", 4), ("screenshot", 3))


def main(folder: Path) -> None:
    catalog = folder / "stamps"
    if not stamps(catalog):
        sys.exit("the stamps cannot be had here")
    index = folder / "calibration.imgsearch"
    build_index(catalog, index)
    evaluation = evaluate(index, calibrate=True)
    keep_calibration(index, evaluation)
    learned = evaluation.reliability
    assert learned is not None
    queries = learned.calibration.queries
    print(f"  learned from {queries} queries; cross-validated {learned.error:.4f}, first hits {learned.error_at_1:.4f}")
    images = sorted(catalog.rglob("*.png"))
    for kind, seed in ASKED:
        asked = make_queries(images, catalog, folder / f"adaptation-{kind}-{seed}", KINDS[kind], seed)
        answers = ask(index, asked)
        all_hits = [(hit, hit.path == name) for name, hits in answers.items() for hit in hits]
        first = [(hit, right) for hit, right in all_hits if hit.rank == 1]
        mean = np.mean([hit.probability for hit, _ in first])
        rate = np.mean([right for _, right in first])
        print(
            f"  {kind}, seed {seed}: expected calibration error {error(all_hits):.4f}, first hits {error(first):.4f}"
            f" (mean probability {mean:.3f}, right {rate:.3f})",
            flush=True,
        )


def error(hits: list[tuple[Hit, bool]]) -> float:
    probabilities = np.array([hit.probability for hit, _ in hits], np.float64)
    return expected_calibration_error(probabilities, np.array([right for _, right in hits]))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
