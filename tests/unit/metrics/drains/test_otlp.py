"""OpenTelemetry: a collector gets the catalog, and one that does not take it is told of."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from metrics.drains.sink import DrainError
from metrics.drains.urls import open_sink
from tests.fixtures.figures import soon
from tests.unit.metrics.drains.moments import at


class Collector(HTTPServer):
    """An OTLP/HTTP collector that keeps what it is sent."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests: list[tuple[str, Any, bytes]] = []
        self.status = 200


class Handler(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.server.requests.append((self.path, self.headers, body))
        self.send_response(self.server.status)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_an_opentelemetry_collector_gets_the_catalog(collector: Collector) -> None:
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http", reason="the extra `otlp` is not installed")
    from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

    async def scene() -> None:
        sink: Any = open_sink(f"otlp+http://me:s%40crt@127.0.0.1:{collector.server_port}")
        sink.push(at(1_795_333_560.0, samples=[10, 100, 10**9]))
        await soon(lambda: sink.stats().delivered == 1, "the push")
        await sink.close()

    asyncio.run(scene())
    [(path, headers, body)] = collector.requests
    assert (path, headers["authorization"]) == ("/v1/metrics", "Basic bWU6c0BjcnQ=")
    request = ExportMetricsServiceRequest.FromString(body)
    [resource] = request.resource_metrics
    attributes = {item.key: item.value.string_value for item in resource.resource.attributes}
    assert (attributes["service.name"], attributes["service.version"]) == ("pooler", "0.1.0")
    found = {metric.name: metric for metric in resource.scope_metrics[0].metrics}
    assert "pgbouncer_stats_queries_pooled" not in found
    queries = found["pgbouncer_stats_totals_queries_pooled"].sum
    assert queries.is_monotonic
    assert [(p.attributes[0].value.string_value, p.as_int) for p in queries.data_points] == [
        ("my app", 103), ("pgbouncer", 103),
    ]  # fmt: skip
    [waits] = found["pooler_client_wait_seconds"].histogram.data_points
    assert (waits.count, sum(waits.bucket_counts), waits.sum) == (3, 3, 1000.00011)
    assert len(waits.bucket_counts) == len(waits.explicit_bounds) + 1
    assert (waits.bucket_counts[0], waits.bucket_counts[1], waits.bucket_counts[-1]) == (1, 1, 1)
    assert found["pooler_client_wait_seconds"].unit == "s"
    assert waits.time_unix_nano == 1_795_333_560 * 10**9


def test_a_collector_that_refuses_is_told_in_the_view(collector: Collector, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http", reason="the extra `otlp` is not installed")
    collector.status = 400

    async def scene() -> None:
        sink: Any = open_sink(f"otlp+http://127.0.0.1:{collector.server_port}")
        sink.push(at(1.0))
        await soon(lambda: sink.stats().dropped == 1, "the refusal")
        assert "400" in sink.stats().last_error
        await sink.close()
        assert sink.stats().state == "closed"

    asyncio.run(scene())
    assert capsys.readouterr().err == ""


def test_without_the_extra_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.metric_exporter", None)
    with pytest.raises(DrainError, match=r"pip install 'pooler\[otlp\]'"):
        open_sink("otlp+http://127.0.0.1")
