"""Images of the catalog for a browser: only what the index names, and only as it was indexed."""

import contextlib
import hashlib
import io
import os
import stat
from typing import BinaryIO

from imgsearch.errors import ImageError
from imgsearch.images.headers import image_format
from imgsearch.images.reading import read_file
from imgsearch.images.stores import is_url
from imgsearch.search.index import Index
from imgsearch.service.problems import HttpError
from imgsearch.store.items import Item
from imgsearch.system import refusal_of

_HEAD = 4096


def item_at(index: Index, path: str) -> tuple[Item, bytes]:
    """Return the item at just this path, and the sha256 of its image; `HttpError` 404 if there is none."""
    row = index.nearest.row_of_path(path)
    if row is None:
        raise HttpError(404, "the index has no image at this path")
    (item,) = index.items.fetch([row])
    return item, index.items.sha256_by_path([item.path])[item.path]


def open_image(index: Index, item: Item, sha256: bytes) -> tuple[BinaryIO, int, str]:
    """Open an item's image: the file, to be closed, its size in bytes and its media type."""
    name = os.path.join(index.manifest.catalog, item.path)
    if is_url(name):
        data = read_image(index, item, sha256)
        return io.BytesIO(data), len(data), f"image/{image_format(data)}"
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
    if not index.manifest.policy.follow_links:
        flags |= os.O_NOFOLLOW
    try:
        with contextlib.ExitStack() as opened:
            file = opened.enter_context(open(name, "rb", opener=lambda path, _: os.open(path, flags)))
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode) or hashlib.file_digest(file, "sha256").digest() != sha256:
                raise _gone()
            file.seek(0)
            kind = image_format(file.read(_HEAD))
            file.seek(0)
            opened.pop_all()
            return file, status.st_size, f"image/{kind}"
    except OSError as error:
        if refusal := refusal_of(error):
            raise refusal from error
        raise _gone() from error


def read_image(index: Index, item: Item, sha256: bytes) -> bytes:
    """Read an item's image."""
    policy = index.manifest.policy
    try:
        data, _ = read_file(
            os.path.join(index.manifest.catalog, item.path),
            follow_links=policy.follow_links,
            max_bytes=policy.max_bytes,
        )
    except ImageError as error:
        raise _gone() from error
    if hashlib.sha256(data).digest() != sha256:
        raise _gone()
    return data


def _gone() -> HttpError:
    return HttpError(404, "the image is not in the catalog as it was indexed", hint="build-index brings the index up")
