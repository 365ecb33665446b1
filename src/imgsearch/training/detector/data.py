"""What a detector learns from: items cut out of catalog images, and backgrounds, all small, in mapped files."""

import functools
import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from imgsearch.errors import ImageError, UsageError
from imgsearch.images.decode import Pixels
from imgsearch.images.policy import FilePolicy
from imgsearch.images.scan import Reject, Scan, sampled
from imgsearch.images.workers.decoders import DecodeWorker
from imgsearch.images.workers.pool import decoded_files
from imgsearch.progress import Progress
from imgsearch.synthetic.item_worker import LONGEST, NO_ITEM, ItemWorker
from imgsearch.synthetic.scenes import Stock
from imgsearch.training.workspace import Workspace

# More would not better it, but take a gigabyte of disk for every 4,000.
MAX_ITEMS = 4000
MAX_BACKGROUNDS = 1000
MIN_ITEMS = 10

# Side of the square center of a background that is used.
_BACKGROUND_SIDE = 448


@dataclass(frozen=True, slots=True)
class DetectorData:
    """Items and backgrounds; images that cannot be used; how many images show no item that is large enough."""

    stock: Stock
    rejected: tuple[Reject, ...]
    skipped: int

    def fingerprint(self) -> str:
        """Return sixteen hex digits that stand for the pixels."""
        digest = hashlib.sha256()
        for array in (self.stock.sides, self.stock.items, self.stock.backgrounds):
            digest.update(repr(array.shape).encode())
            for row in array:
                digest.update(np.ascontiguousarray(row).data)
        return digest.hexdigest()[:16]


def load_stock(
    folder: Path, backgrounds: Path | None, workspace: Workspace, policy: FilePolicy, progress: Progress
) -> DetectorData:
    """Cut out items and decode backgrounds; of a large folder, those of a sample."""
    paths, background_paths = _sample(folder, MAX_ITEMS, policy), _sample(backgrounds, MAX_BACKGROUNDS, policy)
    total = len(paths) + len(background_paths)
    rejected: list[Reject] = []
    sides: list[tuple[int, int]] = []

    def usable(
        root: Path, paths: Sequence[str], results: Iterable[Pixels | ImageError], before: int
    ) -> Iterator[Pixels]:
        for done, (path, result) in enumerate(zip(paths, results, strict=True), before + 1):
            progress("decode", done, total)
            if isinstance(result, ImageError):
                # Backgrounds are named with their folder, items as they are in the catalog.
                name = path if root == folder else os.path.join(root, path)
                rejected.append(Reject(name, result.cause, result.message))
            else:
                yield result

    def padded_items() -> Iterator[Pixels]:
        results = decoded_files(
            os.fspath(folder), paths, policy, functools.partial(ItemWorker, policy), ItemWorker.item
        )
        for item in usable(folder, paths, results, 0):
            height, width = item.shape[:2]
            sides.append((height, width))
            yield np.pad(item, ((0, LONGEST - height), (0, LONGEST - width), (0, 0)))

    def background_images() -> Iterator[Pixels]:
        if backgrounds is not None:
            make = functools.partial(DecodeWorker, _BACKGROUND_SIDE, "crop", policy)
            results = decoded_files(
                os.fspath(backgrounds), background_paths, policy, make, lambda worker, data: worker.decode(data)[0]
            )
            yield from usable(backgrounds, background_paths, results, len(paths))

    items = workspace.store(padded_items(), len(paths), (LONGEST, LONGEST, 4), np.uint8)
    if len(items) < MIN_ITEMS:
        raise UsageError(f"a detector needs at least {MIN_ITEMS} images with an item, got {len(items)} in {folder}")
    square = (_BACKGROUND_SIDE, _BACKGROUND_SIDE, 3)
    decoded = workspace.store(background_images(), len(background_paths), square, np.uint8)
    if backgrounds is not None and not len(decoded):
        raise UsageError(f"no image in --backgrounds {backgrounds} can be used")
    stock = Stock(items, np.array(sides, np.int64), decoded, np.arange(len(items)), np.arange(len(decoded)))
    without_item = [reject for reject in rejected if reject.cause == NO_ITEM]
    return DetectorData(stock, tuple(reject for reject in rejected if reject.cause != NO_ITEM), len(without_item))


def _sample(folder: Path | None, most: int, policy: FilePolicy) -> Sequence[str]:
    if folder is None:
        return ()
    if not folder.is_dir():
        raise UsageError(f"expected a folder of images, got {folder}")
    return sampled(Scan(os.fspath(folder), follow_links=policy.follow_links), most)
