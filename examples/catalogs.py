"""Find a catalogue to show imgsearch on: photographs and drawings from a Debian package, or drawn ones.

The package is tuxpaint-stamps-default (GPL-2): 638 pictures of fruit, animals, tools, clothes and more. It is
fetched by its name with apt-get, and unpacked without root. Nothing of it stands in this repository.
"""

import shutil
import subprocess
import tempfile
from pathlib import Path

from drawn_catalog import draw_catalog

PACKAGE = "tuxpaint-stamps-default"


def stamps(folder: Path) -> int:
    """Fill a folder with the package's pictures, the alphabets left out.

    Args:
        folder: Made if it is missing; nothing is fetched if it is there.

    Returns:
        How many pictures there are; 0 if the package cannot be had.
    """
    if not folder.is_dir():
        with tempfile.TemporaryDirectory() as scratch:
            if not _fetched(Path(scratch)):
                return 0
            unpacked = Path(scratch) / "usr/share/tuxpaint/stamps"
            draft = folder.with_name(folder.name + ".tmp")
            shutil.rmtree(draft, ignore_errors=True)
            for picture in sorted(unpacked.rglob("*.png")):
                path = picture.relative_to(unpacked)
                if "alphabets" not in path.parts:
                    (draft / path).parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(picture, draft / path)
            draft.rename(folder)
    return sum(1 for _ in folder.rglob("*.png"))


def stamps_or_drawn(folder: Path) -> tuple[Path, str]:
    """Find a catalogue for a demo.

    Args:
        folder: Where catalogues are kept; each is made once.

    Returns:
        The catalogue, and a line that says what it is.
    """
    if count := stamps(folder / "stamps"):
        return folder / "stamps", f"{count} pictures of the Debian package {PACKAGE} (GPL-2)"
    drawn = folder / "drawn"
    files = draw_catalog(drawn)
    return drawn, f"{len(files)} drawn pictures ({PACKAGE} cannot be had here)"


def _fetched(scratch: Path) -> bool:
    """Download and unpack the package with Debian's own tools, if this machine has them."""
    # _apt, the user that apt downloads as, may not enter a private folder; ours needs no such protection.
    download = ["apt-get", "-q", "-o", "APT::Sandbox::User=", "download", PACKAGE]
    lists = scratch / "lists"
    (lists / "partial").mkdir(parents=True)
    own_lists = ["-o", f"Dir::State::lists={lists}", "-o", f"Dir::Cache={scratch / 'cache'}"]
    attempts = (
        [download],
        # A machine whose package lists are empty: read them into a folder of our own, which needs no root.
        [["apt-get", "-q", *own_lists, "-o", "APT::Sandbox::User=", "update"], [*download, *own_lists]],
    )
    try:
        if not any(all(_runs(command, scratch) for command in attempt) for attempt in attempts):
            return False
        (archive,) = scratch.glob(f"{PACKAGE}_*.deb")
        return _runs(["dpkg-deb", "-x", str(archive), str(scratch)], scratch)
    except FileNotFoundError:  # not a Debian
        return False


def _runs(command: list[str], folder: Path) -> bool:
    done = subprocess.run(command, cwd=folder, capture_output=True, check=False)
    return done.returncode == 0
