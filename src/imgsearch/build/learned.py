"""What was learned from events for the generation before, in the next one: it is about products, whose rows change."""

import contextlib
import logging
import shutil
from dataclasses import replace
from pathlib import Path

from imgsearch.errors import DamagedIndexError
from imgsearch.files import sync
from imgsearch.store import generations, integrity
from imgsearch.store.items import Items
from imgsearch.store.learned_products import product_names, rows_of_products, write_rows
from imgsearch.store.manifest import Manifest
from imgsearch.store.publishing import have_same_space

logger = logging.getLogger(__name__)


def keep_learned(directory: Path, draft: Manifest, previous: Manifest) -> Manifest:
    """Copy what was learned into the folder of a draft, whose vectors are written; what is of no use now is dropped."""
    if previous.recommend is not None and _copied(directory, draft, previous, generations.RECOMMEND, "recommend"):
        folder = directory / draft.folder
        names = product_names(folder / generations.RECOMMEND)
        with (
            contextlib.closing(Items(folder / generations.ITEMS)) as items,
            (folder / generations.RECOMMEND_ROWS).open("wb") as file,
        ):
            write_rows(file, rows_of_products(items, names, draft.count))
        sync(folder / generations.RECOMMEND_ROWS)
        draft = replace(draft, recommend=previous.recommend)
    if previous.ranking is not None and _copied(directory, draft, previous, generations.RANKING, "rank"):
        draft = replace(draft, ranking=previous.ranking)
    return draft


def _copied(directory: Path, draft: Manifest, previous: Manifest, name: str, objective: str) -> bool:
    """Copy a file if it is whole and the vectors mean the same as before; else say how to learn it again."""
    source, again = directory / previous.folder / name, f"run imgsearch train --objective {objective} again"
    if not have_same_space(draft, previous):
        logger.warning("what was learned from events is dropped, since vectors mean something else now: %s", again)
        return False
    try:
        integrity.check_content(directory, previous, f"{previous.folder}/{name}")
        if name == generations.RECOMMEND:
            product_names(source)
    except FileNotFoundError as error:
        logger.warning("%s is missing, and left out: %s", error.filename, again)
        return False
    except DamagedIndexError as error:
        logger.warning("%s; it is left out: %s", error, again)
        return False
    copy = directory / draft.folder / name
    shutil.copyfile(source, copy)
    sync(copy)
    return True
