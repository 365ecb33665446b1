"""What a build would lose of what is published: images, and what the shop said of them."""

import logging
import os
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass, field

from imgsearch.build.options import BuildOptions
from imgsearch.errors import RefusedError
from imgsearch.images.scan import hint_for_unused, unused_in_words
from imgsearch.store.items import default_names
from imgsearch.store.manifest import Manifest

logger = logging.getLogger(__name__)

# Compares the published items with those to be, in the table `coming`. Until a file is read its content is not known;
# with another size it has other content.
_KEPT = """
CREATE TEMP VIEW kept AS
SELECT * FROM old.items WHERE sha256 IN (SELECT sha256 FROM coming WHERE sha256 IS NOT NULL)
OR ({} AND path IN (SELECT path FROM coming)) OR size IN (SELECT size FROM coming WHERE sha256 IS NULL)
"""
_WITH_DATA = """
SELECT count(*) FROM {} WHERE EXISTS (SELECT 1 FROM json_each(metadata) WHERE type != 'null')
OR has_given_names(CAST(path AS BLOB), CAST(product AS BLOB), CAST(category AS BLOB))
"""
_VALUES = "SELECT key, count(*) FROM {}, json_each(metadata) WHERE type != 'null' GROUP BY key"


@dataclass(frozen=True, slots=True)
class Found:
    """What there is in a catalog."""

    usable: int  # images
    rejected: int
    kept: int  # of the published items, those whose image is still there
    left_out: Mapping[str, int] = field(default_factory=dict)  # as `Scan` counts
    causes: Mapping[str, int] = field(default_factory=dict)  # of what was rejected


@dataclass(frozen=True, slots=True)
class ShopData:
    """How much the shop says of a catalog."""

    items: int  # of which it says anything
    values: Mapping[str, int]  # how many items have one, by column


def compare_items(connection: sqlite3.Connection, *, same_root: bool) -> None:
    """Make a view `kept` of the published items whose image is still there, in the same root by its path, too."""
    connection.execute(_KEPT.format(int(same_root)))


def shop_data(connection: sqlite3.Connection, table: str) -> ShopData:
    """Count what the shop says of the items in a table."""
    connection.create_function("has_given_names", 3, _has_given_names, deterministic=True)
    (items,) = connection.execute(_WITH_DATA.format(table)).fetchone()
    return ShopData(items, dict(connection.execute(_VALUES.format(table))))


def _has_given_names(*names: bytes) -> bool:
    path, *given = map(os.fsdecode, names)
    return tuple(given) != default_names(path)


def guard_against_loss(found: Found, previous: Manifest | None, options: BuildOptions) -> None:
    """Refuse a catalog that is empty, lost more than half of its images, is another, or has too many bad files."""
    limit = options.get("max_skipped")
    if limit is not None and found.rejected > limit:
        raise RefusedError(
            f"{found.rejected} files cannot be used, more than --max-skipped {limit}; nothing was changed",
            hint="run it without --max-skipped, then imgsearch info --rejected names them",
        )
    if options.get("force"):
        return
    unused = unused_in_words(found.left_out, found.causes)
    if previous is None and not found.usable:
        raise RefusedError(
            f"the catalog has no image that can be used{unused}",
            hint=f"{hint_for_unused(found.left_out, found.causes)} (To publish an empty index, pass --force.)",
        )
    if previous is not None and found.usable < previous.count / 2:
        raise RefusedError(
            f"the catalog has {found.usable} usable images, the index has {previous.count}; nothing was changed"
            + unused,
            hint="is the disk mounted? If the images are really gone, pass --force",
        )
    if previous is not None and found.kept < previous.count / 2:
        raise RefusedError(
            f"the catalog has {found.kept} of the {previous.count} images of the index, and"
            f" {found.usable - found.kept} others; nothing was changed",
            hint=f"is it the right folder? The index is of {previous.catalog}. To index another, choose another index"
            " with --index; to replace all images, pass --force",
        )


def guard_against_data_loss(before: ShopData, after: ShopData, source: str, options: BuildOptions) -> None:
    """Refuse shop's data for less than half of the items that had some and are still there; warn of lost columns."""
    if after.items < before.items / 2 and not options.get("force"):
        raise RefusedError(
            f"{source} has data for {after.items} images, the index has them for {before.items}; nothing was changed",
            hint="was it written to its end? If the data are really gone, pass --force",
        )
    for column, count in before.values.items():
        if after.values.get(column, 0) < count / 2:
            logger.warning(
                "column %s of %s has values for %d images, the index has them for %d",
                *(column, source, after.values.get(column, 0), count),
            )
