"""Index a catalog, take photo-like images of its products, and see whether they are found; then ask in words.

make demo, or: python examples/demo.py [FOLDER]
"""

import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np

from catalogs import products_of, stamps_or_drawn
from contact_sheet import contact_sheet
from imgsearch import Hit, Index
from imgsearch.evaluation.metrics import hit_rate
from imgsearch.images.decode import decode_rgba
from imgsearch.synthetic.augment import photo_like

SEED = 0
SHOWN = 6

# What is asked in words, by catalog and language. All titles that are searched by their meaning are English.
WORDS = {
    "stamps": {"German": "Feuerwehr", "Chinese": "乐器", "English": "sea creatures"},
    "drawn": {"German": "eine blaue Tasse mit Streifen", "Chinese": "紫色的鱼", "English": "a green fish with dots"},
}


def main(folder: Path) -> None:
    """Run the demo in a folder, which keeps its catalog, index and queries."""
    catalog, about = stamps_or_drawn(folder)
    index = folder / f"{catalog.name}.imgsearch"
    print(f"catalog: {about}\n")
    _run("build-index", catalog, "--index", index, "--metadata", products_of(catalog))

    queries = make_queries(catalog, folder / f"{catalog.name}-queries")
    names = list(queries)
    shown = names[len(names) // (2 * SHOWN) :: len(names) // SHOWN][:SHOWN]
    _run("query", *(queries[name] for name in shown), "--index", index)

    answers = ask(index, queries)
    ranks = [rank_of(name, hits) for name, hits in answers.items()]
    rates = ", ".join(f"{hit_rate(ranks, k):.3f} at {k}" for k in (1, 5, 10))
    print(f"hit rate of {len(ranks)} photo-like queries: {rates}")

    sheet = folder / f"{catalog.name}-contact-sheet.png"
    sheet.write_bytes(contact_sheet([(queries[name], answers[name][:5]) for name in shown], catalog))
    print(f"contact sheet: {sheet}\n")

    words = WORDS[catalog.name]
    for text in words.values():
        _run("query", "--text", text, "--index", index)
    found = ask_in_words(index, list(words.values()))
    sheet = folder / f"{catalog.name}-words-contact-sheet.png"
    rows = [(f"in {language}", found[text]) for language, text in words.items()]
    sheet.write_bytes(contact_sheet(rows, catalog))
    print(f"contact sheet: {sheet}\n")

    program = Path(sys.executable).with_name("imgsearch")
    print(f"a page to search it: {shlex.join([str(program), 'serve', '--index', str(index)])}")
    print("then open http://127.0.0.1:8000 in a browser")


def make_queries(catalog: Path, folder: Path, seed: int = SEED) -> dict[str, Path]:
    """Take one photo-like image of each product; returns its file by the product's path."""
    folder.mkdir(parents=True, exist_ok=True)
    queries = {}
    for number, image in enumerate(sorted(catalog.rglob("*.png"))):
        photo = folder / f"{number:04d}.jpg"
        item = decode_rgba(image.read_bytes())
        photo.write_bytes(photo_like(item, np.random.default_rng([seed, number])))
        queries[image.relative_to(catalog).as_posix()] = photo
    return queries


def ask(directory: Path, queries: dict[str, Path], k: int = 10) -> dict[str, list[Hit]]:
    """Ask the index for every query, through the library; returns hits by the product's path."""
    with Index.open(directory) as index:
        return {name: index.search(query, k) for name, query in queries.items()}


def ask_in_words(directory: Path, texts: list[str], k: int = 5) -> dict[str, list[Hit]]:
    """Ask the index in words, through the library; returns hits by the words."""
    with Index.open(directory) as index:
        return {text: index.search_together(k=k, text=[text]) for text in texts}


def rank_of(name: str, hits: list[Hit]) -> int | None:
    """Place of a product among hits, from 1."""
    return next((hit.rank for hit in hits if hit.path == name), None)


def _run(*arguments: object) -> None:
    command = ["imgsearch", *map(str, arguments)]
    print(f"$ {shlex.join(command)}", flush=True)
    subprocess.run([sys.executable, "-m", *command], check=True)
    print(flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path("demo"))
