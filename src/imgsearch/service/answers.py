"""From requests to answers: the fields of `imgsearch query --format json`, found by the same search."""

import json
import time
from collections.abc import Iterable, Sequence
from hashlib import sha256
from os import fsencode
from typing import Any
from urllib.parse import quote_from_bytes

from imgsearch.encoders.class_probability import ClassProbability
from imgsearch.encoders.classifier import Classifier
from imgsearch.errors import UsageError
from imgsearch.images.workers.query_decoders import QueryDecoders
from imgsearch.personal.feedback import Shown, space_of
from imgsearch.personal.rocchio import nearest_view
from imgsearch.search.facts import facts_of_answer
from imgsearch.search.hits import Filter, Hit, ObjectHits, rerank_state, vote
from imgsearch.search.index import Index, Order, Refine
from imgsearch.search.views import Indexed, QueryImage, View
from imgsearch.service.opened import Answer, Generation, Seen
from imgsearch.service.requests import RecognizeRequest, SearchRequest
from imgsearch.service.stages import Stages

# Answers to uploads are called by this: a file's name is of no concern to the service.
_UPLOAD = "image"


def url_of(path: str) -> str:
    """Return the relative address of an item."""
    return f"items/{quote_from_bytes(fsencode(path))}"


def classes_to_json(classes: Iterable[ClassProbability]) -> list[dict[str, Any]]:
    """Return classes as JSON has them."""
    return [{"rank": found.rank, "class": found.label, "probability": round(found.probability, 6)} for found in classes]


def answer(
    generation: Generation, request: SearchRequest, query: QueryImage | None, stages: Stages, refine: Refine | None
) -> Answer:
    """Answer a search; `refine` brings feedback in."""
    index = generation.index
    filter_ = request.filter
    started = time.perf_counter()
    views: list[View] = []

    def see(found: Sequence[View]) -> Sequence[View]:
        if query:
            stages.end_encode()
        views.extend(found)
        return refine(found) if refine else found

    found, more = _found(index, request, query, see, generation.order() if request.rank else None)
    seconds = time.perf_counter() - started
    stages.end_search()
    shown = [hit.path for each in found for hit in (each.hits if isinstance(each, ObjectHits) else [each])]
    plan = index.plan(filter=filter_, exact=request.exact or bool(request.text))
    facts = {
        "query": _UPLOAD if query else request.item or " + ".join(request.text),
        **facts_of_answer(index, filter_, plan),
        "seconds": round(seconds, 6),
        **more,
        "objects" if request.objects else "hits": [_with_urls(each.to_json()) for each in found],
    }
    manifest = index.manifest
    seen = Seen(manifest.generation, space_of(manifest), tuple(views), tuple(shown)) if views else None
    return Answer(json.dumps(facts).encode(), seen)


def _found(
    index: Index, request: SearchRequest, query: QueryImage | None, see: Refine, order: Order | None
) -> tuple[Sequence[Hit] | Sequence[ObjectHits], dict[str, Any]]:
    """Search as the request says; returns what was found, and what else JSON says of it."""
    limits = {**request.limits, "refine": see, "order": order}
    if query is None or request.text:
        asked = [query] if query else [_indexed(index, request.item)] if request.item else []
        hits = index.search_together(
            asked, request.k, text=request.text, text_weight=request.weight, regions=request.parts, **limits
        )
        return hits, {"text": list(request.text)} if request.text else {}
    is_reranked = request.rerank is not None
    compared: list[Hit] = []
    limits |= {"rerank": is_reranked, "compared": compared.extend}
    found: Sequence[Hit] | Sequence[ObjectHits] = (
        index.search_objects(query, request.k, **limits)
        if request.objects
        else index.search(query, request.k, regions=request.parts, box=request.limited_to, **limits)
    )
    return found, {"rerank": rerank_state(compared)} if is_reranked else {}


def _indexed(index: Index, name: str) -> Indexed:
    """Name what is in the index, and nothing else: a search would look for files of this machine, too."""
    if not index.nearest.has_named(name):
        raise UsageError(f"the index has no image and no product {name!r}")
    return Indexed(name)


def _with_urls(found: dict[str, Any]) -> dict[str, Any]:
    """Add the address of its item to a hit, and to those of an object."""
    if "hits" in found:
        return {**found, "hits": [_with_urls(hit) for hit in found["hits"]]}
    return {**found, "url": url_of(found["path"])}


def key_of(index: Index, request: SearchRequest, query: QueryImage | None) -> bytes | None:
    """Return what an answer may be kept under; None for one that may be another the next time."""
    filter_ = request.filter
    is_constant = not filter_.has_conditions or index.items.selector.is_constant(filter_.conditions)
    if request.feedback or request.rerank or not is_constant:
        return None
    # Of a fixed size, however long the request is.
    return sha256(repr((request, query and query.sha256)).encode("utf-8", "surrogatepass")).digest()


def with_id(answer: Answer, name: str) -> bytes:
    """Return the JSON of an answer with the id that feedback to it needs."""
    return b'{"id": %s, %s' % (json.dumps(name).encode(), answer.json.removeprefix(b"{"))


def shown_of(seen: Seen, name: str, index: Index, path: str) -> Shown:
    """Return what feedback keeps of an answer: of its vectors that nearest to the item which is judged."""
    if path not in seen.paths:
        raise UsageError("expected an item that this answer showed, found another one")
    row = index.nearest.row_of_path(path)
    view = seen.views[0]
    if row is not None and seen.space == space_of(index.manifest):
        view = nearest_view(index, seen.views, row)
    return Shown(name, seen.generation, seen.space, view.vector, seen.paths)


class Model:
    """A trained model that names classes, for many threads."""

    def __init__(self, classifier: Classifier, decoders: QueryDecoders) -> None:
        self._classifier = classifier
        self._decoders = decoders

    def classes(self, data: bytes, k: int) -> list[ClassProbability]:
        """Name the most probable classes of an image file."""
        return self._classifier.classify_square(self._decoders.square(data), k)

    def close(self) -> None:
        """End the decoders."""
        self._decoders.close()


def recognize(
    generation: Generation, request: RecognizeRequest, query: QueryImage | None, model: Model | None
) -> dict[str, Any]:
    """Name product and category: by the model, or by a vote of the nearest items."""
    started = time.perf_counter()
    index = generation.index
    if model is not None:
        if query is None or request.box:
            raise UsageError("a model names what a whole image shows", hint="send an image, and no box")
        found = {"by": "model", "categories": classes_to_json(model.classes(query.data, request.k)), "products": []}
    else:
        hits = (
            index.search(query, request.k, box=request.limited_to)
            if query
            else index.search_together([_indexed(index, request.item)], request.k)
        )
        found = {
            "by": "neighbors",
            "categories": classes_to_json(vote(hits)),
            "products": classes_to_json(vote(hits, lambda hit: hit.product)),
        }
    facts = facts_of_answer(index, Filter(), "")
    return {
        "query": _UPLOAD if query else request.item,
        "seconds": round(time.perf_counter() - started, 6),
        "index": facts["index"],
        **found,
    }
