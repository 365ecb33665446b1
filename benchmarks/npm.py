"""Fetch npm packages of images: by name and version, with npm; nothing in them is run."""

import subprocess
import tarfile
import tempfile
from pathlib import Path


def unpack_package(package: str, version: str, folder: Path) -> bool:
    """Download and unpack a package, if this machine has npm.

    Args:
        package: Its name.
        version: Exactly.
        folder: Where its files go, below `package/`; made if it is missing, and nothing is fetched if it is there.

    Returns:
        Whether the package could be had.
    """
    if folder.is_dir():
        return True
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        command = ["npm", "pack", "--silent", f"{package}@{version}"]
        try:
            done = subprocess.run(command, cwd=scratch, capture_output=True, check=False)
        except FileNotFoundError:
            return False
        if done.returncode:
            return False
        (archive,) = Path(scratch).glob("*.tgz")
        draft = Path(scratch) / "unpacked"
        with tarfile.open(archive) as tar:
            tar.extractall(draft, filter="data")
        draft.rename(folder)
    return True
