"""OpenTelemetry push: `otlp+http://HOST[:4318]` or `otlp+https://...` among the drains, off unless named.

Needs the extra `pooler[otlp]`. The catalog's figures become OTLP metrics once a period; the official SDK's exporter
encodes and sends them, on a thread of its own, since it waits. A period that comes while one is still being sent is
given up and counted: the next has all of it, for the counters are cumulative.
"""

from __future__ import annotations

import asyncio
import base64
import logging
import threading
import time
from collections.abc import Sequence
from typing import Any
from urllib.parse import SplitResult, unquote

from metrics.buckets import BOUNDARIES, Folded
from metrics.cardinality import printable
from metrics.catalog import CATALOG, STATS_ALIASES, Figure
from metrics.drains.delivery import target
from metrics.drains.sink import DrainError
from metrics.heroku import LogLine
from pooler.rounds import Rounds, described
from pooler.stats import DrainStat, Snapshot

PORT = 4318
PATH = "/v1/metrics"
EXPORT_SECONDS = 5
UNITS = {"_seconds": "s", "_bytes": "By"}
FIGURES = tuple(figure for figure in CATALOG if figure not in STATS_ALIASES)


class OtlpPush:
    """A sink of figures, not of lines."""

    def __init__(self, url: SplitResult, rounds: Rounds) -> None:
        self._rounds = rounds
        self._target = target(url)
        self._kind = url.scheme
        self._said = _LastWords()
        self._exporter = _exporter(url, self._said)
        self._wake = threading.Condition()
        self._pending: Snapshot | None = None
        self._thread: threading.Thread | None = None
        self._closing = False
        self._delivered = self._dropped = 0
        self._last_error = ""

    def push(self, snapshot: Snapshot) -> None:
        with self._wake:
            self._dropped += self._pending is not None
            self._pending = snapshot
            self._start()
            self._wake.notify()

    def _start(self) -> None:
        """There may be no thread to be had now; the next push asks again."""
        if self._thread is None:
            thread = threading.Thread(target=self._run, name="otlp push", daemon=True)
            try:
                thread.start()
            except RuntimeError as error:
                self._last_error = str(error)
                self._rounds.failed("otlp", error)
            else:
                self._thread = thread

    def _run(self) -> None:
        while True:
            with self._wake:
                while self._pending is None and not self._closing:
                    self._wake.wait()
                snapshot, self._pending = self._pending, None
            if snapshot is None:
                return
            try:
                self._export(snapshot)
            except Exception as error:
                self._rounds.failed("otlp", error)
                with self._wake:
                    self._dropped, self._last_error = self._dropped + 1, described(error)

    def _export(self, snapshot: Snapshot) -> None:
        from opentelemetry.sdk.metrics.export import MetricExportResult

        result = self._exporter.export(metrics_data(snapshot, rounds=self._rounds))
        with self._wake:
            if result is MetricExportResult.SUCCESS:
                self._delivered, self._last_error = self._delivered + 1, ""
            else:
                self._dropped, self._last_error = self._dropped + 1, self._said.words or "not delivered"

    def emit(self, lines: Sequence[LogLine]) -> None:
        """Lines are for others."""

    def reopen(self) -> None:
        """Nothing to rotate."""

    def stats(self) -> DrainStat:
        with self._wake:
            state = "closed" if self._closing else "waiting" if self._last_error else "connected"
            queued = int(self._pending is not None)
            return DrainStat(
                self._kind, self._target, state, queued, self._delivered, self._dropped, 0, self._last_error
            )

    async def close(self, timeout: float = 1.0) -> None:
        with self._wake:
            self._closing = True
            self._wake.notify()
        until = time.monotonic() + timeout
        while self._thread is not None and self._thread.is_alive() and time.monotonic() < until:
            await asyncio.sleep(0.005)
        self._exporter.shutdown()


class _LastWords(logging.Handler):
    """What the SDK's exporter logs of its failures, for our own view instead of stderr."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.words = ""

    def emit(self, record: logging.LogRecord) -> None:
        self.words = " ".join(record.getMessage().split())[:300]


def _exporter(url: SplitResult, said: _LastWords) -> Any:
    try:
        from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
    except ImportError as error:
        raise DrainError("OpenTelemetry needs an extra: pip install 'pooler[otlp]'") from error
    for name in ("opentelemetry.exporter.otlp.proto.http.metric_exporter", "opentelemetry.exporter.otlp"):
        log = logging.getLogger(name)
        log.handlers, log.propagate = [said], False
    host = f"[{url.hostname}]" if ":" in (url.hostname or "") else url.hostname
    path = url.path if url.path.strip("/") else PATH
    endpoint = f"{url.scheme.removeprefix('otlp+')}://{host}:{url.port or PORT}{path}"
    return OTLPMetricExporter(endpoint=endpoint, headers=_headers(url), timeout=EXPORT_SECONDS)


def _headers(url: SplitResult) -> dict[str, str]:
    if url.username is None and url.password is None:
        return {}
    pair = f"{unquote(url.username or '')}:{unquote(url.password or '')}"
    return {"Authorization": "Basic " + base64.b64encode(pair.encode("utf-8", "surrogateescape")).decode()}


def metrics_data(snapshot: Snapshot, figures: Sequence[Figure] = FIGURES, *, rounds: Rounds) -> Any:
    """The catalog over one Snapshot as the SDK's plain data. A figure that cannot be had is left out."""
    from opentelemetry.sdk.metrics.export import MetricsData, ResourceMetrics, ScopeMetrics
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.util.instrumentation import InstrumentationScope

    process = snapshot.process
    resource = Resource.create(
        {"service.name": process.name, "service.version": process.version, "process.pid": process.pid}
    )
    scope = InstrumentationScope(process.name, process.version)
    made = (rounds.attempt("otlp", _metric, snapshot, figure) for figure in figures)
    metrics = [metric for metric in made if metric is not None]
    return MetricsData([ResourceMetrics(resource, [ScopeMetrics(scope, metrics, "")], "")])


def _metric(snapshot: Snapshot, figure: Figure) -> Any:
    """None for a figure without a sample."""
    from opentelemetry.sdk.metrics.export import AggregationTemporality, Gauge, Histogram, Metric, Sum

    cumulative = AggregationTemporality.CUMULATIVE
    began, now = int(snapshot.process.start_time * 1e9), int(snapshot.now * 1e9)
    unit = next((unit for end, unit in UNITS.items() if figure.name.endswith(end)), "")
    if figure.kind == "histogram":
        spread = [_spread(figure, values, folded, began, now) for values, folded in figure.fold(snapshot)]
        data: Any = Histogram(spread, cumulative)
    else:
        points = [_point(figure, values, value, began, now) for values, value in figure.read(snapshot)]
        data = Gauge(points) if figure.kind == "gauge" else Sum(points, cumulative, is_monotonic=True)
    return Metric(figure.name, figure.help, unit, data) if data.data_points else None


def _attributes(figure: Figure, values: tuple[str, ...]) -> dict[str, str]:
    return {name: printable(value) for name, value in zip(figure.labels, values, strict=True)}


def _point(figure: Figure, values: tuple[str, ...], value: float, began: int, now: int) -> Any:
    from opentelemetry.sdk.metrics.export import NumberDataPoint

    number = int(value) if isinstance(value, bool) else value
    return NumberDataPoint(_attributes(figure, values), began, now, number)


def _spread(figure: Figure, values: tuple[str, ...], folded: Folded, began: int, now: int) -> Any:
    from opentelemetry.sdk.metrics.export import HistogramDataPoint

    counts = [here - before for here, before in zip(folded.counts, (0, *folded.counts), strict=False)]
    bounds = [boundary / 1_000_000 for boundary in BOUNDARIES]
    extremes: dict[str, Any] = {"min": None, "max": None}
    return HistogramDataPoint(
        _attributes(figure, values), began, now, folded.counts[-1], folded.sum_seconds, counts, bounds, **extremes
    )
