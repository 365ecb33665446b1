"""Where the images of a build are: a folder, or a list of URLs."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from imgsearch.errors import UsageError
from imgsearch.files import require_image_folder
from imgsearch.images.listed import ListedScan, UrlList
from imgsearch.images.policy import FilePolicy
from imgsearch.images.scan import Scan
from imgsearch.store import generations

ImageSource = Path | UrlList


@contextlib.contextmanager
def opened_source(catalog: Path, directory: Path) -> Iterator[ImageSource]:
    """Give what a catalog is, if it may be read and its root is not the directory of the index."""
    if os.path.isfile(catalog):
        with contextlib.closing(UrlList(catalog)) as urls:
            _refuse_index(urls, directory)
            yield urls
        return
    require_image_folder(catalog)
    _refuse_index(catalog, directory)
    if not os.access(catalog, os.R_OK | os.X_OK):
        raise UsageError(f"expected a folder that may be read, found one that may not: {catalog}")
    yield catalog


def root_of(source: ImageSource) -> str:
    """Return what paths are below: an absolute path, or a URL."""
    return source.root if isinstance(source, UrlList) else os.path.realpath(source)


def scan_of(source: ImageSource, policy: FilePolicy) -> Scan | ListedScan:
    """Begin a scan."""
    if isinstance(source, UrlList):
        return ListedScan(source, follow_links=policy.follow_links)
    return Scan(os.fspath(source), leave_out=generations.is_index, follow_links=policy.follow_links)


def _refuse_index(source: ImageSource, directory: Path) -> None:
    if root_of(source) == os.path.realpath(directory):
        raise UsageError(f"the index cannot be the folder of images itself: {directory}")
