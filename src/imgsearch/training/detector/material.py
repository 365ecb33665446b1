"""What a detector learns from: items cut out of catalog images, and backgrounds, all small, in mapped files."""

import functools
import hashlib
import os
from collections.abc import Iterator, Sequence
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
from imgsearch.training.workplace import Workplace

# More would not better it, but take a gigabyte of disk for every 4,000.
MOST_ITEMS = 4000
MOST_BACKGROUNDS = 1000
FEWEST_ITEMS = 10

# Side of the square middle that is kept of a background.
_BACKGROUND_SIDE = 448


@dataclass(frozen=True, slots=True)
class DetectorMaterial:
    """What a detector learns from.

    Attributes:
        stock: Items and backgrounds.
        rejected: Images that cannot be used, those of backgrounds with their folder.
        skipped: How many images show nothing that is large enough to be an item.
    """

    stock: Stock
    rejected: tuple[Reject, ...]
    skipped: int

    def fingerprint(self) -> str:
        """Sixteen hex digits that stand for the pixels."""
        digest = hashlib.sha256()
        for array in (self.stock.sides, self.stock.items, self.stock.backgrounds):
            digest.update(repr(array.shape).encode())
            for row in array:
                digest.update(np.ascontiguousarray(row).data)
        return digest.hexdigest()[:16]


def gather_items(
    folder: Path, backgrounds: Path | None, workplace: Workplace, policy: FilePolicy, progress: Progress
) -> DetectorMaterial:
    """Cut out items and decode backgrounds; of a large folder, those of a sample.

    Args:
        folder: The catalog.
        backgrounds: Images without items; None for none.
        workplace: Where the files are.
        policy: Which images are let in.
        progress: Told ("decode", done, total).

    Raises:
        OutputError: The files cannot be written.
        RefusedError: The decoder died of one image after another.
        UsageError: There are too few items, or no backgrounds where a folder of them was given.
    """
    rejected: list[Reject] = []
    sides: list[tuple[int, int]] = []
    skipped = 0
    paths, background_paths = _sample(folder, MOST_ITEMS, policy), _sample(backgrounds, MOST_BACKGROUNDS, policy)
    total = len(paths) + len(background_paths)

    def items() -> Iterator[Pixels]:
        nonlocal skipped
        make = functools.partial(ItemWorker, policy)
        results = decoded_files(os.fspath(folder), paths, policy, make, ItemWorker.item)
        for done, (path, result) in enumerate(zip(paths, results, strict=True), 1):
            progress("decode", done, total)
            if not isinstance(result, ImageError):
                height, width = result.shape[:2]
                sides.append((height, width))
                yield np.pad(result, ((0, LONGEST - height), (0, LONGEST - width), (0, 0)))
            elif result.cause == NO_ITEM:
                skipped += 1
            else:
                rejected.append(Reject(path, result.cause, result.message))

    def background_images() -> Iterator[Pixels]:
        make = functools.partial(DecodeWorker, _BACKGROUND_SIDE, "crop", policy)
        results = decoded_files(
            os.fspath(backgrounds or ""), background_paths, policy, make, lambda worker, data: worker.decode(data)[0]
        )
        for done, (path, result) in enumerate(zip(background_paths, results, strict=True), 1):
            progress("decode", len(paths) + done, total)
            if not isinstance(result, ImageError):
                yield result
            else:
                rejected.append(Reject(os.path.join(str(backgrounds), path), result.cause, result.message))

    kept = workplace.store(items(), len(paths), (LONGEST, LONGEST, 4), np.uint8)
    if len(kept) < FEWEST_ITEMS:
        raise UsageError(f"expected at least {FEWEST_ITEMS} images with an item, found {len(kept)} in {folder}")
    decoded = workplace.store(
        background_images(), len(background_paths), (_BACKGROUND_SIDE, _BACKGROUND_SIDE, 3), np.uint8
    )
    if backgrounds is not None and not len(decoded):
        raise UsageError(f"expected images in --backgrounds {backgrounds}, found none that can be used")
    stock = Stock(kept, np.array(sides, np.int64), decoded, np.arange(len(kept)), np.arange(len(decoded)))
    return DetectorMaterial(stock, tuple(rejected), skipped)


def _sample(folder: Path | None, most: int, policy: FilePolicy) -> Sequence[str]:
    if folder is None:
        return ()
    if not folder.is_dir():
        raise UsageError(f"expected a folder of images, found {folder}")
    return sampled(Scan(os.fspath(folder), follow_links=policy.follow_links), most)
