"""How long a request takes, stage by stage."""

import time

from imgsearch.images.decode import Pixels
from imgsearch.images.photo import Photo
from imgsearch.images.workers.query_decoders import QueryDecoders
from imgsearch.service.metrics import Metrics, Stage


class Stages:
    """Times one request: decodes its image, as `search.views.Decoders`, then is told of its vectors and of its hits."""

    def __init__(self, decoders: QueryDecoders, metrics: Metrics) -> None:
        self._decoders = decoders
        self._metrics = metrics
        self._since = time.perf_counter()

    def photo(self, data: bytes) -> Photo | None:
        """Do what `QueryDecoders.photo` does."""
        found = self._decoders.photo(data)
        self._end("decode")
        return found

    def square(self, data: bytes) -> Pixels:
        """Do what `QueryDecoders.square` does."""
        found = self._decoders.square(data)
        self._end("decode")
        return found

    def end_encode(self) -> None:
        """Note that there are vectors."""
        self._end("encode")

    def end_search(self) -> None:
        """Note that there are hits."""
        self._end("search")

    def _end(self, stage: Stage) -> None:
        now = time.perf_counter()
        self._metrics.observe(stage, now - self._since)
        self._since = now
