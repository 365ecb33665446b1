"""Find products in scenes where they stand on busy backgrounds, and show where each was found.

python examples/find_in_photos.py [FOLDER]
"""

import sys
from pathlib import Path

import cv2
import numpy as np

from contact_sheet import contact_sheet
from drawn_catalog import draw_catalog
from imgsearch import Index, build_index
from imgsearch.images.decode import decode_rgba
from imgsearch.synthetic.backgrounds import draw_background
from imgsearch.synthetic.compose import Style, compose

SEED = 5
SCENES = 5
FRAME = (360, 480)
STYLE = Style(sides=(0.55, 0.85))


def main(folder: Path) -> None:
    """Draw a catalog and scenes, ask for what stands in them, and lay out the answers."""
    catalog = folder / "drawn"
    products = draw_catalog(catalog)
    index = folder / "drawn.imgsearch"
    build_index(catalog, index)
    queries = make_scenes(products, folder / "scenes")
    with Index.open(index) as opened:
        answers = {name: opened.search(query, 5, rerank=True) for name, query in queries.items()}
    sheet = folder / "find-in-photos.png"
    sheet.write_bytes(contact_sheet([(queries[name], hits) for name, hits in answers.items()], catalog))
    print(f"contact sheet: {sheet}")


def make_scenes(products: list[Path], folder: Path) -> dict[str, Path]:
    """Put one product into each of some scenes; returns the file of each by the product's name."""
    folder.mkdir(parents=True, exist_ok=True)
    scenes = {}
    for number in range(SCENES):
        generator = np.random.default_rng([SEED, number])
        product = products[int(generator.integers(len(products)))]
        background = draw_background(FRAME, generator)
        scene = compose(background, [decode_rgba(product.read_bytes())], STYLE, generator)
        scenes[product.stem] = folder / f"{number}.png"
        scenes[product.stem].write_bytes(cv2.imencode(".png", scene.photo[:, :, ::-1])[1].tobytes())
    return scenes


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path("demo"))
