"""Three images a product, found by product, against one image each: python benchmarks/products.py FOLDER.

The catalog is the demo's; each product gets two more images, drawn by `preprocess --augment`. Queries are photo-like
variants of the first image, which decide nothing anywhere: seeds 5 and, harder, those of hard_set.py.
"""

import csv
import re
import sys
from collections.abc import Mapping
from pathlib import Path

from catalogs import stamps
from demo import make_queries
from hard_set import backgrounds, hard_set
from imgsearch import Index, build_index, preprocess
from imgsearch.evaluation.metrics import hit_rate

K = 10
SEED = 5


def main(folder: Path) -> None:
    catalog = folder / "stamps"
    if not stamps(catalog):
        return
    hard = hard_set(catalog, backgrounds(folder / "backgrounds"), folder / f"products-hard-{SEED}", SEED)
    queries = {
        "easy photos": make_queries(catalog, folder / f"products-easy-{SEED}", SEED),
        "hard photos": {query.name: query.photo for query in hard},
    }
    several = folder / "products-3"
    preprocess(catalog, several, augment=2, seed=SEED)
    table = folder / "products-3.csv"
    count = write_products(several, table)
    build_index(catalog, folder / "products-1.imgsearch")
    build_index(several, folder / "products-3.imgsearch", metadata=table)
    with Index.open(folder / "products-1.imgsearch") as one, Index.open(folder / "products-3.imgsearch") as three:
        print(f"  {len(one)} products, {len(three)} images of {count}")
        for kind, files in queries.items():
            for name, index, distinct in (
                ("one image each", one, ""),
                ("three, by product", three, "product"),
                ("three, by image", three, ""),
            ):
                print(f"  {kind}: {name:<18} {rates(index, files, distinct)}", flush=True)


def rates(index: Index, files: Mapping[str, Path], distinct: str) -> str:
    """Ask for every query, and count where its product is, and how many products an answer has."""
    ranks, counts = [], set()
    for name, query in files.items():
        found = [product_of(hit.path) for hit in index.search(query, K, distinct=distinct)]
        ranks.append(found.index(product_of(name)) + 1 if product_of(name) in found else None)
        counts.add(len(set(found)))
    hits = ", ".join(f"{hit_rate(ranks, k):.3f} at {k}" for k in (1, 5, 10))
    return f"hit rate {hits}; {min(counts)} to {max(counts)} products in an answer of {K}"


def product_of(path: str) -> str:
    """Return the path of an image, or of that which it is a copy of, without its ending."""
    return re.sub(r"(\.augmented-\d+)?\.png$", "", path)


def write_products(catalog: Path, table: Path) -> int:
    """Say which product each image shows: that of the image without the number of its copy."""
    products = set()
    with table.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["path", "product"])
        for path in sorted(catalog.rglob("*.png")):
            name = path.relative_to(catalog).as_posix()
            product = product_of(name)
            products.add(product)
            rows.writerow([name, product])
    return len(products)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
