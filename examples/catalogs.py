"""Find a catalog to show imgsearch on: photographs and drawings from a Debian package, or drawn ones.

The package is tuxpaint-stamps-default (GPL-2): 638 images of fruit, animals, tools, clothes and more. It is
fetched by its name with apt-get, and unpacked without root. Nothing of it stands in this repository.
"""

import shutil
import tempfile
from pathlib import Path

from debian import unpack_package
from drawn_catalog import draw_catalog

PACKAGE = "tuxpaint-stamps-default"


def stamps(folder: Path) -> int:
    """Fill a folder with the package's images, the alphabets left out.

    Args:
        folder: Made if it is missing; nothing is fetched if it is there.

    Returns:
        How many images there are; 0 if the package cannot be had.
    """
    if not folder.is_dir():
        with tempfile.TemporaryDirectory() as scratch:
            if not unpack_package(PACKAGE, Path(scratch)):
                return 0
            unpacked = Path(scratch) / "usr/share/tuxpaint/stamps"
            draft = folder.with_name(folder.name + ".tmp")
            shutil.rmtree(draft, ignore_errors=True)
            for image in sorted(unpacked.rglob("*.png")):
                path = image.relative_to(unpacked)
                if "alphabets" not in path.parts:
                    (draft / path).parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(image, draft / path)
            draft.rename(folder)
    return sum(1 for _ in folder.rglob("*.png"))


def stamps_or_drawn(folder: Path) -> tuple[Path, str]:
    """Find a catalog for a demo.

    Args:
        folder: Where catalogs are kept; each is made once.

    Returns:
        The catalog, and a line that says what it is.
    """
    if count := stamps(folder / "stamps"):
        return folder / "stamps", f"{count} images of the Debian package {PACKAGE} (GPL-2)"
    drawn = folder / "drawn"
    files = draw_catalog(drawn)
    return drawn, f"{len(files)} drawn images ({PACKAGE} cannot be had here)"
