"""Find a catalog to show imgsearch on: photographs and drawings from a Debian package, or drawn ones.

The package is tuxpaint-stamps-default (GPL-2): 638 images of fruit, animals, tools, clothes and more. It is
fetched by its name with apt-get, and unpacked without root. Nothing of it stands in this repository.

What the images show is said in many languages by the package; a CSV file beside the catalog, for
`build-index --metadata`, has it in those that the sentence encoder knows.
"""

import csv
import shutil
import tempfile
from pathlib import Path

from debian import unpack_package
from drawn_catalog import draw_catalog

PACKAGE = "tuxpaint-stamps-default"

# Languages of the titles besides English, by the package's names: those that the sentence encoder knows.
LANGUAGES = ("ar", "de", "es", "fr", "it", "ja", "ko", "nl", "pl", "pt", "ru", "th", "tr", "zh_CN", "zh_TW")


def stamps(folder: Path) -> int:
    """Fill a folder with the package's images, the alphabets left out.

    Args:
        folder: Made if it is missing; nothing is fetched if it is there.

    Returns:
        How many images there are; 0 if the package cannot be had.
    """
    if not folder.is_dir():
        _fetch(folder)
    return sum(1 for _ in folder.rglob("*.png"))


def stamps_with_titles(folder: Path) -> Path | None:
    """Fill a folder with the package's images, and write what they show beside it: `products_of(folder)`.

    Args:
        folder: Made if it is missing; nothing is fetched if it and the file are there.

    Returns:
        The file, a row for each image; None if the package cannot be had.
    """
    products = products_of(folder)
    if not folder.is_dir() or not products.exists():
        _fetch(folder)
    return products if products.exists() else None


def title_column(language: str) -> str:
    """Return the column of titles in a language; English is "", and has the plain name."""
    return f"title_{language.lower()}" if language else "title"


def products_of(catalog: Path) -> Path:
    """Return where the table of a catalog lies: beside it, for what lies in it is a catalog's."""
    return catalog.with_name(catalog.name + ".csv")


def _fetch(folder: Path) -> None:
    """Unpack the package's images, unless the folder is there, and write its table; nothing if it cannot be had."""
    with tempfile.TemporaryDirectory() as scratch:
        if not unpack_package(PACKAGE, Path(scratch)):
            return
        unpacked = Path(scratch) / "usr/share/tuxpaint/stamps"
        images = [image for image in sorted(unpacked.rglob("*.png")) if "alphabets" not in image.parts]
        folder.parent.mkdir(parents=True, exist_ok=True)
        _write_table(unpacked, images, products_of(folder))
        if not folder.is_dir():
            _copy(unpacked, images, folder)


def _write_table(unpacked: Path, images: list[Path], table: Path) -> None:
    draft = table.with_name(table.name + ".tmp")
    with draft.open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["path", *(title_column(language) for language in ("", *LANGUAGES))])
        for image in images:
            titles = titles_of(image)
            rows.writerow([image.relative_to(unpacked), *(titles.get(language, "") for language in ("", *LANGUAGES))])
    draft.rename(table)


def _copy(unpacked: Path, images: list[Path], folder: Path) -> None:
    draft = folder.with_name(folder.name + ".tmp")
    shutil.rmtree(draft, ignore_errors=True)
    for image in images:
        path = image.relative_to(unpacked)
        (draft / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(image, draft / path)
    draft.rename(folder)


def titles_of(image: Path) -> dict[str, str]:
    """Read what the text beside an image says, by language; a mirrored image has that of the other."""
    stem = image.stem.removesuffix("_mirror").removesuffix("_flip")
    texts = [image.with_suffix(".txt"), image.with_name(f"{stem}.txt")]
    text = next((each for each in texts if each.exists()), None)
    if text is None:
        return {}
    first, *others = text.read_text(encoding="utf-8", errors="replace").splitlines() or [""]
    titles = {"": first.strip()}
    for line in others:
        language, _, title = line.partition(".utf8=")
        titles.setdefault(language, title.strip())
    return titles


def stamps_or_drawn(folder: Path) -> tuple[Path, str]:
    """Find a catalog for a demo.

    Args:
        folder: Where catalogs are kept; each is made once, and its titles beside it (`products_of`).

    Returns:
        The catalog, and a line that says what it is.
    """
    if stamps_with_titles(folder / "stamps"):
        return folder / "stamps", f"{stamps(folder / 'stamps')} images of the Debian package {PACKAGE} (GPL-2)"
    drawn = folder / "drawn"
    files = draw_catalog(drawn, products=products_of(drawn))
    return drawn, f"{len(files)} drawn images ({PACKAGE} cannot be had here)"
