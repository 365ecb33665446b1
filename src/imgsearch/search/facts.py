"""What each answer says of the index and of the way it was found."""

from typing import Any

from imgsearch.search.hits import Filter
from imgsearch.search.index import Index


def facts_of_answer(index: Index, conditions: Filter, plan: str) -> dict[str, Any]:
    """Return, for JSON, how answers are found and where; also how many images satisfy the conditions, if known."""
    matching = index.nearest.matching(conditions.conditions) if conditions.has_conditions else None
    how = {"plan": plan} if matching is None else {"plan": plan, "matching": matching}
    manifest = index.manifest
    where = {"generation": manifest.generation, "count": manifest.count, "encoder": manifest.encoder.name}
    return {**how, "seconds": 0, "index": where}
