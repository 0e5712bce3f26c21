"""Prometheus metrics. Every label set exists from the start: dashboards never see a gap."""

from collections.abc import Iterable
from typing import Literal, get_args

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.metrics_core import CounterMetricFamily
from prometheus_client.registry import Collector

from service.batching import DropReason
from service.telemetry.logs import dropped_lines

CONTENT_TYPE = CONTENT_TYPE_LATEST

LoadOutcome = Literal["loaded", "failed", "refused"]
"""Outcomes of a load; ``refused`` means that the memory budget had no room."""

ClosedConnection = Literal["slow-request", "slow-reader", "large-head", "too-many", "idle"]

ProcessEnd = Literal["time", "memory", "crashed", "broken", "cancelled"]
"""Why a picture process ended. The server kills it for the time or memory of a picture, for an
answer that is none (``broken``), and for a request that was cancelled; it crashes by itself."""

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_SHARES = tuple(step / 20 for step in range(1, 20))
_STAGES = ("decode", "text", "forward", "backward", "measure", "render")
_STATUSES = (
    "200", "202", "304", "400", "401", "403", "404", "405", "406", "408", "413", "414", "415",
    "422", "429", "499", "500", "502", "503", "504", "507",
)  # fmt: skip

TRACES = "traces"
UNMATCHED_ROUTE = "unmatched"


class Metrics:
    """All metrics of one application, in its own registry."""

    def __init__(
        self, models: Iterable[str], routes: Iterable[str], workers: Iterable[str]
    ) -> None:
        """Create every metric, with every label set for these model ids, routes and workers."""
        # The creation time of a counter adds nothing to the start time of the process.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        self.requests = self._counter("requests", "Requests answered.", "route", "status")
        self.request_duration = self._histogram(
            "request_duration_seconds", "Time to answer a request.", _SECONDS, "route"
        )
        self.requests_in_progress = self._gauge(
            "requests_in_progress", "Explanations accepted and not yet answered in full."
        )
        self.body_bytes_in_progress = self._gauge(
            "body_bytes_in_progress", "Bytes received of the bodies of requests in progress."
        )
        self.connections_closed = self._counter(
            "connections_closed", "Connections that the server closed early.", "reason"
        )
        self.queue_wait = self._histogram(
            "queue_wait_seconds", "Time an image waited in the queue.", _SECONDS, "model"
        )
        self.batch_size = self._histogram(
            "batch_size",
            "Images in a batch.",
            (1, 2, 4, 8, 12, 16, 24, 32, 64, 128, 256),
            "model",
            "device",
        )
        self.compute = self._histogram(
            "compute_seconds",
            "Time of each stage: per image for decode and render, per batch for the others.",
            _SECONDS,
            "model",
            "stage",
        )
        self.rejected = self._counter("rejected", "Explanations refused or failed.", "reason")
        self.dropped = self._counter(
            "dropped", "Images dropped before a result.", "model", "reason"
        )
        self.cache_hits = self._counter("cache_hits", "Lookups that found an entry.", "cache")
        self.cache_misses = self._counter("cache_misses", "Lookups that found no entry.", "cache")
        self.cache_bytes = self._gauge("cache_bytes", "Size of the cached entries.", "cache")
        self.cache_entries = self._gauge("cache_entries", "Cached entries.", "cache")
        self.cache_evictions = self._counter(
            "cache_evictions", "Entries evicted to make room.", "cache"
        )
        self.model_loaded = self._gauge(
            "model_loaded", "Whether the model is ready on the device.", "model", "device"
        )
        self.model_bytes = self._gauge("model_bytes", "Size of the model's weights.", "model")
        self.model_loads = self._counter(
            "model_loads", "Attempts to load the model.", "model", "outcome"
        )
        self.model_evictions = self._counter(
            "model_evictions", "Times the model was unloaded to make room for another.", "model"
        )
        self.worker_restarts = self._counter(
            "worker_restarts", "Workers that died or hung and were replaced.", "model", "device"
        )
        self.worker_stalls = self._counter(
            "worker_stalls", "Workers that hung and were abandoned.", "model", "device"
        )
        self.picture_processes = self._gauge(
            "picture_processes", "Processes that decode and draw pictures and are running."
        )
        self.picture_process_ends = self._counter(
            "picture_process_ends", "Picture processes that ended and were replaced.", "reason"
        )
        self.url_fetch = self._histogram(
            "url_fetch_seconds", "Time to fetch an image by URL, failures included.", _SECONDS
        )
        self.url_fetches = self._counter("url_fetches", "Fetches of images by URL.", "outcome")
        self.key_file_broken = self._gauge(
            "key_file_broken", "Whether the present file of API keys cannot be used."
        )
        self.similarity = self._histogram(
            "similarity",
            "Cosine between image and prompt.",
            tuple(step / 20 for step in range(-10, 20)),
            "model",
        )
        self.heatmap_entropy = self._histogram(
            "heatmap_entropy", "Normalised entropy of a heatmap, 0 to 1.", _SHARES, "model"
        )
        self.heatmap_border_mass = self._histogram(
            "heatmap_border_mass", "Share of a heatmap in the outermost patches.", _SHARES, "model"
        )
        self.registry.register(_DroppedLogLines())
        self._create_label_sets(list(models), list(routes), list(workers))

    def exposition(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return generate_latest(self.registry)

    def _create_label_sets(self, models: list[str], routes: list[str], devices: list[str]) -> None:
        for route in (*routes, UNMATCHED_ROUTE):
            self.request_duration.labels(route)
            for status in _STATUSES:
                self.requests.labels(route, status)
        for closed in get_args(ClosedConnection):
            self.connections_closed.labels(closed)
        for reason in REJECTION_REASONS:
            self.rejected.labels(reason)
        for end in get_args(ProcessEnd):
            self.picture_process_ends.labels(end)
        for outcome in URL_OUTCOMES:
            self.url_fetches.labels(outcome)
        for cache in ("prompts", TRACES):
            self.cache_hits.labels(cache)
            self.cache_misses.labels(cache)
        self.cache_bytes.labels(TRACES)
        self.cache_entries.labels(TRACES)
        self.cache_evictions.labels(TRACES)
        for model in models:
            for metric in (
                self.queue_wait,
                self.model_bytes,
                self.model_evictions,
                self.similarity,
                self.heatmap_entropy,
                self.heatmap_border_mass,
            ):
                metric.labels(model)
            for device in devices:
                self.model_loaded.labels(model, device)
                self.batch_size.labels(model, device)
                self.worker_restarts.labels(model, device)
                self.worker_stalls.labels(model, device)
            for stage in _STAGES:
                self.compute.labels(model, stage)
            for outcome in get_args(LoadOutcome):
                self.model_loads.labels(model, outcome)
            for drop_reason in DropReason:
                self.dropped.labels(model, drop_reason.value)

    def _counter(self, name: str, description: str, *labels: str) -> Counter:
        return Counter(f"legrad_{name}", description, labels, registry=self.registry)

    def _gauge(self, name: str, description: str, *labels: str) -> Gauge:
        return Gauge(f"legrad_{name}", description, labels, registry=self.registry)

    def _histogram(
        self, name: str, description: str, buckets: tuple[float, ...], *labels: str
    ) -> Histogram:
        return Histogram(
            f"legrad_{name}", description, labels, buckets=buckets, registry=self.registry
        )


REJECTION_REASONS = (
    "queue-full",
    "too-many-requests",
    "too-much-work",
    "limit-exceeded",
    "deadline-exceeded",
    "slow-body",
    "body-too-large",
    "image-too-large",
    "picture-timeout",
    "picture-memory",
    "picture-crash",
    "picture-process-ended",
    "out-of-memory",
    "not-ready",
    "no-room",
    "model-too-large",
    "not-finite",
    "internal-error",
    "url-unreachable",
    "url-timeout",
    "worker-died",
    "worker-stalled",
    "worker-unavailable",
    "shutting-down",
    "client-left",
    "key-concurrency",
    "key-cost",
    "key-rate",
)


URL_OUTCOMES = (
    "fetched",
    "cancelled",
    "url-not-allowed",
    "url-refused",
    "url-too-large",
    "url-unreachable",
    "url-timeout",
)


class TraceCacheMetrics:
    """Metrics of the trace cache. See :class:`service.pool.trace_cache.CacheObserver`."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def cache_changed(self, entries: int, nbytes: int) -> None:
        """Set the gauges."""
        self._metrics.cache_entries.labels(TRACES).set(entries)
        self._metrics.cache_bytes.labels(TRACES).set(nbytes)

    def entries_evicted(self, count: int) -> None:
        """Count evicted entries."""
        self._metrics.cache_evictions.labels(TRACES).inc(count)


class PictureMetrics:
    """Metrics of the pictures that one model explains.

    Attributes:
        decode: seconds of decoding a picture.
        render: seconds of drawing a picture.
        similarity: cosine between a picture and a target.
        entropy: normalised entropy of a heatmap.
        border_mass: share of a heatmap in the outermost patches.
    """

    def __init__(self, metrics: Metrics, model: str) -> None:
        # Looked up once: each lookup takes a lock.
        self.decode = metrics.compute.labels(model, "decode")
        self.render = metrics.compute.labels(model, "render")
        self.similarity = metrics.similarity.labels(model)
        self.entropy = metrics.heatmap_entropy.labels(model)
        self.border_mass = metrics.heatmap_border_mass.labels(model)


class BatchMetrics:
    """Metrics of one model's batcher. See :class:`service.batching.BatchObserver`."""

    def __init__(self, metrics: Metrics, model: str) -> None:
        self._metrics = metrics
        self._model = model
        # Looked up once: each lookup takes a lock.
        self._wait = metrics.queue_wait.labels(model)

    def queue_waited(self, seconds: float) -> None:
        """Observe the wait of one image."""
        self._wait.observe(seconds)

    def batch_finished(
        self,
        worker: str,
        size: int,
        cost: float,  # noqa: ARG002
        seconds: float,  # noqa: ARG002
    ) -> None:
        """Observe the size of one batch; its stages are timed where they run."""
        self._metrics.batch_size.labels(self._model, worker).observe(size)

    def item_dropped(self, reason: DropReason) -> None:
        """Count one dropped image."""
        self._metrics.dropped.labels(self._model, reason.value).inc()

    def worker_restarted(self, worker: str) -> None:
        """Count one restart."""
        self._metrics.worker_restarts.labels(self._model, worker).inc()

    def worker_stalled(self, worker: str) -> None:
        """Count one hung worker."""
        self._metrics.worker_stalls.labels(self._model, worker).inc()


class _DroppedLogLines(Collector):
    """The log belongs to the process, not to one application."""

    def collect(self) -> Iterable[CounterMetricFamily]:
        yield CounterMetricFamily(
            "legrad_log_lines_dropped",
            "Log lines dropped because they could not be written in time.",
            value=dropped_lines(),
        )
