"""Figures pushed to StatsD and to an OpenTelemetry collector, both played by sockets of the test."""

from __future__ import annotations

import asyncio
import re
import socket
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from metrics.drains import open_sink
from metrics.heroku import LogLine
from metrics.period import Reporter
from metrics.sink import DrainError, Pusher
from metrics.statsd import PACKET_BYTES, packets
from pooler.stats import Counters, Snapshot
from tests.fixtures.figures import counters, database, distributions, pool, snapshot, soon
from tests.fixtures.waiting import free_port


def at(now: float, more: Counters | None = None, samples: list[int] | None = None) -> Snapshot:
    gained = counters(100) + (more or Counters())
    return snapshot(
        now=now,
        databases=(database("my app", counters=gained), database("pgbouncer")),
        pools=(pool("my app", distributions=distributions(samples or [])),),
    )


def received(sock: socket.socket) -> list[str]:
    found: list[str] = []
    while True:
        try:
            found += sock.recv(65536).decode().split("\n")
        except BlockingIOError:
            return found


@pytest.mark.parametrize(
    ("query", "gauge", "count"),
    [
        ("", "pooler.my_app.client_active:56|g", "pooler.my_app.queries:7|c"),
        ("?prefix=pg", "pg.my_app.client_active:56|g", "pg.my_app.queries:7|c"),
        ("?format=dogstatsd", "pooler.client_active:56|g|#database:my_app", "pooler.queries:7|c|#database:my_app"),
    ],
)
def test_statsd_gets_gauges_and_what_was_gained(query: str, gauge: str, count: str) -> None:
    async def scene() -> None:
        with socket.socket(type=socket.SOCK_DGRAM) as there:
            there.bind(("127.0.0.1", 0))
            there.setblocking(False)
            sink: Any = open_sink(f"statsd://127.0.0.1:{there.getsockname()[1]}{query}")
            sink.push(at(1.0))
            sink.emit([LogLine(1.0, "a line")])
            first = await soon(lambda: received(there), "the first push")
            assert gauge in first
            assert not [line for line in first if line.endswith("|c") or "|c|" in line]
            await soon(lambda: sink._task.done(), "the task")
            sink.push(at(2.0, Counters(query_count=7), [900] * 100))
            second = await soon(lambda: received(there), "the second push")
            assert count in second
            assert gauge.replace("client_active:56", "p99_query:903") in second
            assert all(re.fullmatch(r"[\w.]+:\d+\|[gc](\|#database:\w+)?", line) for line in second)
            await sink.close()
            assert sink.stats().delivered == len(first) + len(second)

    asyncio.run(scene())


def test_statsd_that_is_not_there_is_noticed_and_harmless() -> None:
    async def scene() -> None:
        sink: Any = open_sink(f"statsd://127.0.0.1:{free_port()}")
        for now in range(5):
            sink.push(at(float(now)))
            await soon(lambda: sink._task.done(), "the task")
        await soon(lambda: sink.stats().last_error == "Connection refused", "the refusal")
        await sink.close()
        sink.push(at(9.0))
        assert sink.stats().dropped > 0

    asyncio.run(scene())


def test_packets_are_filled_and_never_too_large() -> None:
    lines = [f"pooler.db.key{n}:{n}|g" for n in range(500)]
    cut = list(packets(lines))
    assert max(map(len, cut)) <= PACKET_BYTES
    assert b"\n".join(cut).decode().split("\n") == lines
    assert len(cut) < 12
    assert list(packets([])) == []


def test_an_unknown_statsd_format_is_refused() -> None:
    with pytest.raises(DrainError, match="format 'x' is unknown"):
        open_sink("statsd://host?format=x")


def test_the_reporter_pushes_to_those_who_want_figures() -> None:
    async def scene() -> None:
        asked: list[bool] = []

        def source(*, clients: bool = False, servers: bool = False, histograms: bool = False) -> Snapshot:
            asked.append(histograms)
            return at(1.0)

        with socket.socket(type=socket.SOCK_DGRAM) as there:
            there.bind(("127.0.0.1", 0))
            there.setblocking(False)
            sink = open_sink(f"statsd://127.0.0.1:{there.getsockname()[1]}")
            assert isinstance(sink, Pusher)
            reporter = Reporter(source, [sink])
            running = asyncio.create_task(reporter.run())
            await soon(lambda: received(there), "a push")
            running.cancel()
            await reporter.close()
            assert asked[0] is True

    asyncio.run(scene())


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
