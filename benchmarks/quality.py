"""Hit rates of photo-like queries: python benchmarks/quality.py FOLDER.

Choices (pooling, padding, whitening) were made on the stamps with seeds 0 to 2. The figures that count are of
seeds 3 and 4, and of the drawn catalog, which no choice has seen.
"""

import sys
from pathlib import Path

from catalogs import stamps
from demo import ask, make_queries, rank_of
from drawn_catalog import draw_catalog
from imgsearch import build_index
from imgsearch.encoders.spec import DEFAULT_BACKBONE, Precision
from imgsearch.evaluation.metrics import hit_rate

SEEDS = (0, 1, 2, 3, 4)
ENCODERS: tuple[tuple[str, Precision | None], ...] = (
    (DEFAULT_BACKBONE, None),
    (DEFAULT_BACKBONE, "f32"),
    ("handcrafted", None),
)


def main(folder: Path) -> None:
    catalogs = []
    if stamps(folder / "stamps"):
        catalogs.append(folder / "stamps")
    draw_catalog(folder / "drawn")
    catalogs.append(folder / "drawn")
    for catalog in catalogs:
        for backbone, precision in ENCODERS:
            index = folder / f"{catalog.name}-{backbone}-{precision}.imgsearch"
            report = build_index(catalog, index, backbone=backbone, precision=precision)
            for seed in SEEDS:
                queries = make_queries(catalog, folder / f"{catalog.name}-queries-{seed}", seed)
                ranks = [rank_of(name, hits) for name, hits in ask(index, queries).items()]
                rates = "  ".join(f"@{k} {hit_rate(ranks, k):.3f}" for k in (1, 5, 10))
                label = f"{catalog.name} ({report.count}), {backbone}, {precision or 'auto'}, seed {seed}"
                print(f"  {label:<60} hit rate {rates}", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
