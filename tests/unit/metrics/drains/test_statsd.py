"""StatsD: gauges and what was gained, in datagrams that fit."""

from __future__ import annotations

import asyncio
import re
import socket
from typing import Any

import pytest

from metrics.drains.sink import DrainError, Pusher
from metrics.drains.statsd import PACKET_BYTES, packets
from metrics.drains.urls import open_sink
from metrics.heroku import LogLine
from metrics.period import Reporter
from pooler.stats import Counters, Snapshot
from tests.fixtures.figures import soon
from tests.fixtures.waiting import free_port
from tests.unit.metrics.drains.moments import at


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


@pytest.mark.slow
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
