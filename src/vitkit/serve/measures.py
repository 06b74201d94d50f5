"""What the server counts, for Prometheus."""

from collections.abc import Callable

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128)


class Measures:
    """Counters of one server; they are not shared with others in the process."""

    content_type = CONTENT_TYPE_LATEST

    def __init__(self, queued: Callable[[], float]) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "vitkit_requests", "Requests by route and status.", ["route", "status"],
            registry=self._registry,
        )  # fmt: skip
        self._seconds = Histogram(
            "vitkit_request_seconds", "Time until a request is answered.", ["route"],
            buckets=SECONDS, registry=self._registry,
        )  # fmt: skip
        self._sizes = Histogram(
            "vitkit_batch_size", "Images of a batch.", buckets=SIZES, registry=self._registry
        )
        self._batches = Histogram(
            "vitkit_batch_seconds", "Time that the model takes for a batch.",
            buckets=SECONDS, registry=self._registry,
        )  # fmt: skip
        waiting = Gauge("vitkit_waiting", "Requests that wait.", registry=self._registry)
        waiting.set_function(queued)

    def request(self, route: str, status: int, seconds: float) -> None:
        """Count a request; `route` is the pattern, never what a client wrote."""
        self._requests.labels(route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def batch(self, size: int, seconds: float) -> None:
        """Count a batch."""
        self._sizes.observe(size)
        self._batches.observe(seconds)

    def text(self) -> bytes:
        """All of it, in the format that Prometheus reads."""
        return generate_latest(self._registry)
