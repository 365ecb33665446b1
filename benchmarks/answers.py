"""How good are the answers, and what do they cost: python benchmarks/answers.py FOLDER [ENCODER]...

Three kinds of queries, so that nobody tunes to one of them:

- photos of the stamps: hard ones (hard_set.py), easy ones (`photo_like`), and the catalog's images saved once more;
- other drawings: the emoji of one vendor, asked for with those of another (npm packages emoji-datasource-twitter and
  emoji-datasource-facebook), matched by their code points;
- products over time: Fashion-MNIST, test images asked for in a part of the training images; an answer of the same
  class is right.

Each has two halves, told apart by a hash of the name. Choices are made on the tuning half, and photos with seed 0;
the other half, and other seeds, decide nothing: `--half deciding-nothing`, once, at the end.
"""

import argparse
import hashlib
import json
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from catalogs import stamps
from demo import make_queries, rank_of
from encoders import row_of
from fashion_mnist import average_precisions, fill
from hard_set import backgrounds, hard_set
from imgsearch import Index, build_index
from imgsearch.bootstrap import mean_interval
from imgsearch.encoders.choice import choose_encoder
from imgsearch.encoders.spec import DEFAULT_BACKBONE
from npm import unpack_package
from regions import saved_again

Half = Literal["tuning", "deciding-nothing"]

# Of the photos.
SEEDS: Mapping[Half, tuple[int, int]] = {"tuning": (0, 0), "deciding-nothing": (1, 3)}
EMOJI_VERSION = "16.0.0"
CATALOG_VENDOR, QUERY_VENDOR = "twitter", "facebook"
# Images of each class of Fashion-MNIST that are indexed and asked for.
INDEXED, ASKED = 500, 100


@dataclass(frozen=True, slots=True)
class Questions:
    """Queries of one kind.

    Attributes:
        kind: What the table calls them.
        catalog: The folder that is indexed.
        files: The query by its name, which is the path of the right answer, or begins with its class.
        by_class: Whether any image of the class is right.
    """

    kind: str
    catalog: Path
    files: Mapping[str, Path]
    by_class: bool = False


def main(folder: Path, encoders: list[str], half: Half, *, adapt: bool) -> None:
    """Print a row for each kind of queries and encoder."""
    asked = list(questions(folder, half))
    print(f"  {half} half; hit rates with 95 % intervals")
    for encoder in encoders:
        built: dict[Path, tuple[Path, str]] = {}
        for each in asked:
            if each.catalog not in built:
                index = folder / f"answers-{each.catalog.name}-{name_of(encoder, adapt=adapt)}.imgsearch"
                report = build_index(each.catalog, index, backbone=encoder, adapt=adapt or None)
                built[each.catalog] = index, row_of(index, report)
            index, costs = built[each.catalog]
            print(f"  {encoder:<42} {each.kind:<24} {answers(index, each)}   {costs}", flush=True)


def name_of(encoder: str, *, adapt: bool) -> str:
    """Return a name for an index of these options; an index would keep the encoder that it was built with once."""
    return choose_encoder(encoder).spec.identity + ("-adapted" if adapt else "")


def questions(folder: Path, half: Half) -> Iterator[Questions]:
    """Make the queries of a half."""
    hard_seed, easy_seed = SEEDS[half]
    catalog = folder / "stamps"
    if stamps(catalog):
        hard = hard_set(catalog, backgrounds(folder / "backgrounds"), folder / f"hard-{hard_seed}", hard_seed)
        kinds = {
            "hard photos": {query.name: query.photo for query in hard},
            "easy photos": make_queries(catalog, folder / f"stamps-queries-{easy_seed}", easy_seed),
            "catalog images": saved_again(catalog, folder / "regions-sure"),
        }
        for kind, files in kinds.items():
            yield Questions(kind, catalog, in_half(files, half))
    if emoji := emoji_files(folder):
        drawn, asked = emoji
        yield Questions("other drawings", drawn, in_half(asked, half))
    fashion = folder / f"fashion-{INDEXED}"
    fill(fashion, INDEXED)
    tested = {
        image.relative_to(fashion / "test").as_posix(): image
        for of_class in sorted((fashion / "test").iterdir())
        for image in sorted(of_class.iterdir())[: 2 * ASKED]
    }
    yield Questions("products over time", fashion / "train", in_half(tested, half), by_class=True)


def in_half(files: Mapping[str, Path], half: Half) -> dict[str, Path]:
    """Keep the queries of a half."""
    return {name: file for name, file in files.items() if is_tuned_on(name) == (half == "tuning")}


def is_tuned_on(name: str) -> bool:
    """Return whether choices may be made on a query of this name."""
    return hashlib.sha256(name.encode()).digest()[0] % 2 == 0


def emoji_files(folder: Path) -> tuple[Path, dict[str, Path]] | None:
    """Return a catalog of one vendor's emoji, and another's by the path of the right answer; None without npm."""
    vendors = {}
    for vendor in (CATALOG_VENDOR, QUERY_VENDOR):
        place = folder / f"emoji-{vendor}"
        if not unpack_package(f"emoji-datasource-{vendor}", EMOJI_VERSION, place):
            return None
        vendors[vendor] = place / "package" / "img" / vendor / "64"
    data = json.loads((folder / f"emoji-{CATALOG_VENDOR}" / "package" / "emoji.json").read_text())
    # One a code point: that of other skin colors would be as right.
    both = [each["image"] for each in data if all(each[f"has_img_{vendor}"] for vendor in vendors)]
    catalog = folder / "emoji"
    catalog.mkdir(exist_ok=True)
    for name in both:
        if not (catalog / name).exists():
            os.link(vendors[CATALOG_VENDOR] / name, catalog / name)
    return catalog, {name: vendors[QUERY_VENDOR] / name for name in sorted(both)}


def answers(directory: Path, asked: Questions) -> str:
    """Ask for all, and show hit rates at 1, 5 and 10, the mean average precision of classes, and milliseconds."""
    ranks, seconds, views = [], [], []
    with Index.open(directory) as index:
        for name, file in asked.files.items():
            started = time.perf_counter()
            hits = index.search(file, 10)
            seconds.append(time.perf_counter() - started)
            wanted = name.partition("/")[0]
            first = next((hit.rank for hit in hits if hit.category == wanted), None)
            ranks.append(first if asked.by_class else rank_of(name, hits))
            if asked.by_class:
                views.append(index.viewer.whole(file.read_bytes()).vector)
        shown = " ".join(rate(ranks, k) for k in (1, 5, 10))
        precision = "     "
        if asked.by_class:
            classes = [item.category for item in index.nearest.items.fetch(range(index.manifest.count))]
            of_queries = [name.partition("/")[0] for name in asked.files]
            found = average_precisions(np.stack(views), of_queries, index.nearest.vectors[:], classes)
            precision = f"{found.mean():.3f}"
        return f"{shown}  mAP {precision}  {1000 * float(np.median(seconds)):5.1f} ms  {index.manifest.dims:>5} dims"


def rate(ranks: list[int | None], k: int) -> str:
    """Show a hit rate with its interval."""
    interval = mean_interval([rank is not None and rank <= k for rank in ranks])
    return f"{interval.mean:.3f} ({interval.low:.3f}-{interval.high:.3f})"


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("encoders", nargs="*", default=[DEFAULT_BACKBONE], metavar="ENCODER")
    parser.add_argument("--half", choices=("tuning", "deciding-nothing"), default="tuning")
    parser.add_argument("--adapt", action="store_true", help="build with --adapt")
    given = parser.parse_args()
    main(given.folder, given.encoders, given.half, adapt=given.adapt)
