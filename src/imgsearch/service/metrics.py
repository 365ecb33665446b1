"""What Prometheus is told: requests, how long each stage took, generation, cache, and the process itself."""

from typing import Literal

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)

Stage = Literal["read", "queue", "decode", "encode", "search", "total"]

# Seconds: from an answer of the cache to the limit of a request.
_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Metrics:
    """The metrics of one service, in a registry of its own; threads share it."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series beside each, of no use here
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self._requests = Counter(
            "imgsearch_requests", "Requests answered.", ("method", "route", "status"), registry=self._registry
        )
        self._seconds = Histogram(
            "imgsearch_stage_seconds",
            "How long each stage of requests took.",
            ("stage",),
            buckets=_BUCKETS,
            registry=self._registry,
        )
        self._cache = Counter(
            "imgsearch_cache", "Answers looked up in the cache.", ("result",), registry=self._registry
        )
        self._generation = Gauge("imgsearch_generation", "The generation that answers.", registry=self._registry)
        for result in ("hit", "miss"):
            self._cache.labels(result)

    def request(self, method: str, route: str, status: int) -> None:
        """Count a request. Labels have few values: each takes memory until the process ends.

        Args:
            method: One of the usual, or `other`.
            route: The template, such as `/items/{path}`; never a path.
            status: Of the answer; 0 if there was none.
        """
        self._requests.labels(method, route, str(status)).inc()

    def observe(self, stage: Stage, seconds: float) -> None:
        """Note how long a stage of a request took."""
        self._seconds.labels(stage).observe(seconds)

    def cache(self, hit: bool) -> None:
        """Count an answer that was looked up in the cache."""
        self._cache.labels("hit" if hit else "miss").inc()

    def generation(self, number: int) -> None:
        """Note which generation answers."""
        self._generation.set(number)

    def text(self) -> bytes:
        """Return all metrics in the text format of Prometheus."""
        return generate_latest(self._registry)
