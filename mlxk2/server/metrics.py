"""Counts and times for Prometheus, in a registry of the application's own."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from mlxk2.server.host_types import READY, HostLike, HostSnapshot
from mlxk2.server.protocol import Status
from mlxk2.server.record import RequestRecord

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_TTFT_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
_GAP_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.035, 0.05, 0.075, 0.1, 0.25, 0.5, 1, 2.5)
_DURATION_BUCKETS = (0.005, 0.025, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)


class Metrics:
    """What is counted of requests, and what the host says of itself when it is asked."""

    def __init__(self, host: HostLike) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_HostMetrics(host))
        labels = {"registry": self._registry}
        self._requests = Counter(
            "mlxk2_requests", "Requests by route and status.", ("route", "method", "status"), **labels
        )
        self._refused = Counter(
            "mlxk2_connections_refused", "Connections that were too many, and were answered 429.", **labels
        )
        self._in_progress = Gauge("mlxk2_requests_in_progress", "Requests that are being answered.", **labels)
        self._tokens = Counter(
            "mlxk2_tokens", "Tokens: prompt, cached (of the prompt) and completion.", ("kind",), **labels
        )
        self._ttft = Histogram(
            "mlxk2_time_to_first_token_seconds", "From the request to the first piece.", buckets=_TTFT_BUCKETS, **labels
        )
        self._gaps = Histogram(
            "mlxk2_inter_token_seconds", "Between two tokens of an answer.", buckets=_GAP_BUCKETS, **labels
        )
        self._durations = Histogram(
            "mlxk2_request_duration_seconds", "Whole requests.", ("route",), buckets=_DURATION_BUCKETS, **labels
        )
        for kind in ("prompt", "cached", "completion"):
            self._tokens.labels(kind)

    def refuse_connection(self) -> None:
        """A connection was one too many."""
        self._refused.inc()

    def begin(self, record: RequestRecord) -> None:
        """A request has come."""
        self._in_progress.inc()
        record.on_gaps = self._note_gaps

    def end(self, record: RequestRecord, method: str, status: int, duration_s: float) -> None:
        """A request is over."""
        self._in_progress.dec()
        known = method if method in ("GET", "POST", "HEAD", "OPTIONS") else "other"
        self._requests.labels(record.route, known, str(status)).inc()
        self._durations.labels(record.route).observe(duration_s)
        self._tokens.labels("prompt").inc(record.prompt_tokens)
        self._tokens.labels("cached").inc(record.cached_tokens)
        self._tokens.labels("completion").inc(record.completion_tokens)
        if record.ttft_s is not None:
            self._ttft.observe(record.ttft_s)

    def _note_gaps(self, seconds: float, tokens: int) -> None:
        for _ in range(tokens):
            self._gaps.observe(seconds)

    def text(self) -> bytes:
        """Return everything in Prometheus's text form."""
        return bytes(generate_latest(self._registry))


class _HostMetrics(Collector):
    def __init__(self, host: HostLike) -> None:
        self._host = host

    def collect(self) -> Iterator[Metric]:
        """Yield what the host says now."""
        snapshot = self._host.snapshot()
        yield _gauge("mlxk2_engine_ready", "Whether a model is loaded and answers.", float(snapshot.state == READY))
        yield _gauge("mlxk2_queue_length", "Requests that wait for their turn.", snapshot.waiting)
        yield _gauge("mlxk2_queue_limit", "Requests that may wait.", snapshot.max_queue)
        yield _gauge("mlxk2_requests_running", "Requests that are being answered.", snapshot.running)
        restarts = CounterMetricFamily("mlxk2_engine_restarts", "Engines that were lost.")
        restarts.add_metric([], snapshot.restarts)
        yield restarts
        status = _status(snapshot)
        yield _gauge("mlxk2_batch_size", "Answers that are computed side by side.", status.running)
        memory = GaugeMetricFamily("mlxk2_memory_bytes", "MLX's memory, by kind.", labels=("kind",))
        for kind in ("active", "peak", "cached", "prefix"):
            memory.add_metric([kind], getattr(status, f"{kind}_bytes"))
        yield memory
        lookups = CounterMetricFamily(
            "mlxk2_prefix_cache_lookups", "Prompts looked up in the prefix cache.", labels=("result",)
        )
        lookups.add_metric(["hit"], status.prefix_hits)
        lookups.add_metric(["miss"], status.prefix_misses)
        yield lookups


def _gauge(name: str, words: str, value: float) -> Metric:
    return GaugeMetricFamily(name, words, value=value)


def _status(snapshot: HostSnapshot) -> Status:
    return snapshot.status or Status(0, 0, 0, 0, 0, 0, 0, 0, 0)
