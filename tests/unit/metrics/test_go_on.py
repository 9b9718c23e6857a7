"""Lines and figures on their way, the page and the listener: what is broken is told, and the next round comes."""

from __future__ import annotations

import asyncio
import functools
import os
import socket
import threading
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from metrics import period
from metrics.catalog import CATALOG, Figure, one
from metrics.drains import files
from metrics.drains.delivery import Drain
from metrics.drains.files import file_sink
from metrics.drains.statsd import StatsdPush
from metrics.drains.urls import open_sink
from metrics.foreign.command import _Memory
from metrics.heroku import LogLine
from metrics.period import Reporter
from metrics.prometheus import Exposition, negotiate
from metrics.source import Unavailable
from metrics.web.feed import Feed
from metrics.web.http import build_app
from metrics.web.listener import serve_http
from pooler import rounds
from pooler.history import History
from pooler.stats import Snapshot
from tests.fixtures.figures import snapshot as made_snapshot
from tests.fixtures.figures import soon
from tests.fixtures.waiting import DEADLINE, until
from tests.unit.faults import EMFILE, Bug, Heard, Sink, cannot_start, fails


@pytest.fixture(autouse=True)
def _no_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounds, "REST", 0.001)


def has(sink: Any, **counts: int) -> bool:
    """Whether the drain's counts are these."""
    return all(getattr(sink.stats(), name) == count for name, count in counts.items())


def test_a_figure_that_fails_is_absent_from_a_scrape() -> None:
    heard = Heard()
    catalog = (one("first", "", lambda _: 1), Figure("broken", "gauge", "", (), fails), one("last", "", lambda _: 2))
    exposition = Exposition(negotiate("")[0], catalog, heard.rounds)
    for _ in range(2):
        text = b"".join(exposition.render(made_snapshot())).decode()
        assert "\nfirst 1.0\n" in text
        assert "\nlast 2.0\n" in text
        assert "broken" not in text
    assert heard.counts() == {"figure": 2}
    assert len(heard.said) == 1


# ---- lines and figures on their way


def test_a_sink_that_fails_costs_the_others_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(period, "LOOK_SECONDS", 0.001)
    heard, bad, good = Heard(), Sink(broken=True), Sink(broken=False)

    async def scene() -> None:
        reporter = Reporter(lambda **_: made_snapshot(), [bad, good], period=0.005, rounds=heard.rounds)
        running = asyncio.create_task(reporter.run())
        await soon(lambda: good.lines >= 3 and good.pushed >= 3, "three reports")
        assert not running.done()
        reporter.reopen()
        running.cancel()
        await reporter.close()

    asyncio.run(scene())
    assert (good.reopened, good.closed) == (bad.reopened, bad.closed) == (1, 1)
    assert bad.lines == good.lines
    assert heard.counts()["drain"] == bad.lines + 2
    assert len(heard.said) == 2


@pytest.mark.parametrize("error", [Bug(), EMFILE, MemoryError(), Unavailable("away")])
def test_metrics_go_on_when_there_were_no_figures(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    monkeypatch.setattr(period, "LOOK_SECONDS", 0.001)
    heard, kept, asked = Heard(), Sink(broken=False), 0
    warned: list[str] = []

    def source(**_: bool) -> Snapshot:
        nonlocal asked
        asked += 1
        if asked <= 3:
            raise error
        return made_snapshot()

    async def scene() -> None:
        reporter = Reporter(source, [kept], period=0.005, warn=warned.append, rounds=heard.rounds)
        running = asyncio.create_task(reporter.run())
        await soon(lambda: kept.lines >= 2, "two reports")
        running.cancel()

    asyncio.run(scene())
    assert len(warned) + len(heard.said) == 1
    assert heard.counts() == ({} if isinstance(error, Unavailable) else {"metrics": 3})


def test_the_page_goes_on_after_a_tick_that_failed() -> None:
    heard, asked = Heard(), 0

    def source(**_: bool) -> Snapshot:
        nonlocal asked
        asked += 1
        if asked == 1:
            raise Bug("s3cret")
        return made_snapshot()

    async def scene() -> None:
        feed = Feed(source, tick=0.001, rounds=heard.rounds)
        async with asyncio.timeout(DEADLINE), feed.viewer() as queue:
            running = asyncio.create_task(feed.run())
            first, second = await queue.get(), await queue.get()
            running.cancel()
            assert first.startswith(b"event: down\n")
            assert b"s3cret" not in first
            assert second.startswith(b"event: tick\n")

    asyncio.run(scene())
    assert heard.counts() == {"live page": 1}


LINES = [LogLine(float(number), f"line {number}") for number in range(3)]


@pytest.mark.parametrize("scheme", ["syslog", "http"])
def test_a_drain_goes_on_after_a_fault_and_counts_what_it_cost(monkeypatch: pytest.MonkeyPatch, scheme: str) -> None:
    """Of a library's, in an encoding, with the certificates: what a drain does not know to deal with."""
    heard, got = Heard(), bytearray()

    async def collect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(4096):
            got.extend(data)
            if scheme == "http" and b"\r\n\r\n" in data:
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
        writer.close()

    async def scene() -> None:
        connect, tried = Drain._connect, 0

        async def broken(drain: Drain, tls: bool) -> Any:
            nonlocal tried
            tried += 1
            if tried <= 2:
                raise Bug("a bug")
            return await connect(drain, tls)

        monkeypatch.setattr(Drain, "_connect", broken)
        server = await asyncio.start_server(collect, "127.0.0.1", 0)
        sink = open_sink(f"{scheme}://127.0.0.1:{server.sockets[0].getsockname()[1]}", heard.rounds)
        for number in range(2):
            sink.emit(LINES)
            await soon(partial(has, sink, dropped=3 * (number + 1)), "the loss")
            assert sink.stats().last_error == "Bug: a bug"
        sink.emit(LINES)
        await soon(lambda: sink.stats().delivered == 3, "what came afterwards")
        assert b"6 messages dropped since" in got
        await sink.close()
        server.close()
        await server.wait_closed()

    asyncio.run(scene())
    assert heard.counts() == {"drain": 2}
    assert len(heard.said) == 1


def test_a_syslog_connection_whose_watch_fails_is_made_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    from metrics.drains import syslog

    connections = 0

    async def collect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        await reader.read()
        writer.close()

    async def scene() -> None:
        monkeypatch.setattr(syslog, "_until_closed", functools.partial(asyncio.sleep, 0))
        server = await asyncio.start_server(collect, "127.0.0.1", 0)
        sink = open_sink(f"syslog://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        for number in range(1, 3):
            sink.emit(LINES[:1])
            await soon(partial(has, sink, delivered=number), "the line")
            await asyncio.sleep(0.01)
        await sink.close()
        server.close()
        await server.wait_closed()

    asyncio.run(scene())
    assert connections == 2


def test_a_file_of_lines_goes_on_after_a_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    heard, path, failed = Heard(), tmp_path / "lines", threading.Event()
    write = os.write

    def broken(fd: int, data: Any) -> int:
        if not failed.is_set():
            failed.set()
            raise Bug("a bug")
        return write(fd, data)

    monkeypatch.setattr("metrics.drains.files.os.write", broken)
    monkeypatch.setattr(files, "RETRY_SECONDS", 0.001)
    sink = file_sink(str(path), heard.rounds)
    sink.emit(LINES)
    until(lambda: sink.stats().dropped == 3, "the loss")
    sink.emit([LogLine(9.0, "afterwards")])
    until(lambda: "afterwards" in path.read_text(), "the next line")
    assert "3 messages dropped since" in path.read_text()
    asyncio.run(sink.close())
    assert heard.counts() == {"log lines": 1}


def test_without_a_thread_lines_wait_for_the_next_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    heard, path = Heard(), tmp_path / "lines"
    sink = file_sink(str(path), heard.rounds)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", cannot_start)
        sink.emit(LINES[:1])
        assert (sink.stats().queued, sink.stats().last_error) == (1, "can't start new thread")
    sink.emit(LINES[1:])
    until(lambda: sink.stats().delivered == 3, "all lines")
    asyncio.run(sink.close())
    assert heard.counts() == {"log lines": 1}


def test_a_push_to_statsd_that_fails_costs_its_lines_only(monkeypatch: pytest.MonkeyPatch) -> None:
    heard = Heard()

    async def scene() -> None:
        with socket.socket(type=socket.SOCK_DGRAM) as there:
            there.bind(("127.0.0.1", 0))
            there.settimeout(DEADLINE)
            sink = StatsdPush(urlsplit(f"statsd://127.0.0.1:{there.getsockname()[1]}"), heard.rounds)
            with monkeypatch.context() as patch:
                patch.setattr("metrics.drains.statsd.packets", fails)
                sink.push(made_snapshot())
                await soon(lambda: sink.stats().dropped, "the failure")
            dropped = sink.stats().dropped
            assert sink._transport is not None
            sink._transport.abort()
            await soon(lambda: sink._transport is None, "the socket to be gone")
            sink.push(made_snapshot())
            await soon(lambda: sink.stats().delivered, "the next push")
            assert sink.stats().dropped == dropped
            assert await asyncio.to_thread(there.recv, 65536)
            await sink.close()

    asyncio.run(scene())
    assert heard.counts() == {"statsd": 1}


def test_a_push_of_opentelemetry_that_fails_costs_itself_only(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http", reason="the extra `otlp` is not installed")
    from opentelemetry.sdk.metrics.export import MetricExportResult

    from metrics.drains import otlp

    heard, exported = Heard(), []

    class Exporter:
        def export(self, data: Any) -> Any:
            exported.append(data)
            if len(exported) == 1:
                raise Bug("a bug")
            return MetricExportResult.SUCCESS

        def shutdown(self) -> None:
            pass

    monkeypatch.setattr(otlp, "_exporter", lambda url, said: Exporter())
    broken = Figure("pooler_broken", "gauge", "", (), fails)
    monkeypatch.setattr(otlp.metrics_data, "__defaults__", ((broken, *CATALOG[:3]),))

    async def scene() -> None:
        sink: Any = open_sink("otlp+http://127.0.0.1:1", heard.rounds)
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", cannot_start)
            sink.push(made_snapshot())
            assert sink.stats().last_error == "can't start new thread"
        sink.push(made_snapshot())
        await soon(lambda: sink.stats().dropped == 2, "the failure")
        sink.push(made_snapshot())
        await soon(lambda: sink.stats().delivered == 1, "the push")
        await sink.close()

    asyncio.run(scene())
    assert heard.counts() == {"otlp": 4}
    names = {metric.name for metric in exported[-1].resource_metrics[0].scope_metrics[0].metrics}
    assert "pgbouncer_version_info" in names
    assert "pooler_broken" not in names


def test_the_http_listener_goes_on_after_a_turn_that_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    heard = Heard()

    async def scene() -> None:
        monkeypatch.setattr("metrics.web.listener.Patience.weary", fails)
        app = build_app(lambda **_: made_snapshot(), rounds=heard.rounds)
        server = await serve_http(app, "127.0.0.1", 0, warn=heard.said.append, rounds=heard.rounds)
        await soon(lambda: heard.counts().get("http", 0) >= 2, "two failures")
        reader, writer = await asyncio.open_connection(*server.address)
        writer.write(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
        assert b"200 OK" in await reader.read()
        writer.close()
        await server.close()

    asyncio.run(scene())
    assert heard.said == ["fault in http: Bug: a bug"]


def test_the_memory_of_another_pgbouncer_goes_on() -> None:
    heard, asked = Heard(), 0

    async def inquiry(**_: bool) -> Snapshot:
        nonlocal asked
        asked += 1
        if asked == 1:
            raise Bug("a bug")
        return made_snapshot(now=float(asked))

    async def scene() -> None:
        memory = _Memory(History(0.0))
        running = asyncio.create_task(memory.run(inquiry, heard.rounds))  # type: ignore[arg-type]
        await soon(lambda: len(memory.samples()) > 0, "a sample")
        running.cancel()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("metrics.foreign.command.RECORD_SECONDS", 0.001)
        asyncio.run(scene())
    assert heard.counts() == {"history": 1}


def test_the_fixtures_make_what_they_say() -> None:
    """A figure that is left out above is one that is there otherwise."""
    text = b"".join(Exposition(negotiate("")[0]).render(made_snapshot())).decode()
    assert "pooler_process_resident_memory_bytes 5e+07" in text
