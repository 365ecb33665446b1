"""Fetch Debian packages of images: by name, with apt-get, and without root."""

import subprocess
from pathlib import Path


def unpack_package(package: str, folder: Path) -> bool:
    """Download and unpack a package with Debian's own tools, if this machine has them.

    Args:
        package: Its name.
        folder: Where its files go; an empty folder.

    Returns:
        Whether the package could be had.
    """
    # _apt, the user that apt downloads as, may not enter a private folder; ours needs no such protection.
    download = ["apt-get", "-q", "-o", "APT::Sandbox::User=", "download", package]
    lists = folder / "lists"
    (lists / "partial").mkdir(parents=True)
    own_lists = ["-o", f"Dir::State::lists={lists}", "-o", f"Dir::Cache={folder / 'cache'}"]
    attempts = (
        [download],
        # A machine whose package lists are empty: read them into a folder of our own, which needs no root.
        [["apt-get", "-q", *own_lists, "-o", "APT::Sandbox::User=", "update"], [*download, *own_lists]],
    )
    try:
        if not any(all(_runs(command, folder) for command in attempt) for attempt in attempts):
            return False
        (archive,) = folder.glob(f"{package}_*.deb")
        return _runs(["dpkg-deb", "-x", str(archive), str(folder)], folder)
    except FileNotFoundError:  # not a Debian
        return False


def _runs(command: list[str], folder: Path) -> bool:
    done = subprocess.run(command, cwd=folder, capture_output=True, check=False)
    return done.returncode == 0
