"""`pooler metrics --from URL`: log lines, /metrics and the live page for a PgBouncer that is not ours.

The same fronts as the pooler's own, over another Source. It stays when the PgBouncer goes, says so, and
goes on when it is back: a PgBouncer that is down is what monitoring is for.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
from contextlib import suppress
from dataclasses import replace
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Protocol

from metrics.catalog import FOREIGN
from metrics.drains.sink import DrainError, Sink
from metrics.drains.urls import open_sink
from metrics.foreign.inquiry import BadUrl, Inquiry, console_conninfo
from metrics.period import PERIOD, Reporter
from metrics.source import Unavailable
from pooler.ending import Ending, loop_without_ties
from pooler.outlet import STDERR, announce
from pooler.rounds import Rounds
from pooler.stats import HistorySample, Snapshot

if TYPE_CHECKING:
    from collections.abc import Iterable

URL_VARIABLE = "PGBOUNCER_URL"
SHIPPED = {"dashboard": ("metrics.grafana", "dashboard.json"), "alerts": ("metrics.alerts", "pooler.yml")}
RECORD_SECONDS = 10.0
HTTP = "127.0.0.1:9127"
PORT = 6432
"""PgBouncer's."""


class Ring(Protocol):
    """The last hour, as the pooler itself keeps it (pooler.history)."""

    def record(self, snapshot: Snapshot) -> None: ...
    def everything(self) -> Iterable[HistorySample]: ...


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="pooler metrics",
        description="Log lines, /metrics and the live page for a PgBouncer that is not ours.",
    )
    made.add_argument(
        "--from", dest="url", metavar="URL", default=os.environ.get(URL_VARIABLE),
        help=f"postgres://user@host:port/pgbouncer; default ${URL_VARIABLE}, which keeps a password off "
        "the command "
             "line, as PGPASSWORD and a passfile do",
    )  # fmt: skip
    made.add_argument(
        "--http", metavar="HOST:PORT", default=HTTP,
        help="where /metrics and the page are served; `off` for nowhere (default %(default)s)",
    )  # fmt: skip
    made.add_argument(
        "--metrics-period", type=float, default=PERIOD, metavar="SECONDS",
        help="between log lines (default %(default)s)",
    )  # fmt: skip
    made.add_argument(
        "--drain", action="append", metavar="URL",
        help="where log lines go, several times if wanted: stdout (default), a file, syslog://, "
        "syslog+tls://, https://",
    )  # fmt: skip
    made.add_argument(
        "--print", choices=tuple(SHIPPED), dest="shipped",
        help="write the Grafana dashboard or the Prometheus alert rules to stdout, and do nothing else",
    )  # fmt: skip
    return made


def main(argv: list[str], ring: Ring | None = None) -> int:
    """Exit status: 0 stopped, 1 cannot serve, 2 wrong usage. `ring` keeps the page's last hour."""
    arguments = parser().parse_args(argv)
    if arguments.shipped:
        package, name = SHIPPED[arguments.shipped]
        print(files(package).joinpath(name).read_text(encoding="utf-8"), end="")
        return 0
    if not arguments.url:
        return _usage(f"give --from postgres://user@host:port/pgbouncer or set {URL_VARIABLE}")
    if arguments.metrics_period <= 0:
        return _usage("--metrics-period must be more than 0 seconds")
    from metrics.web.listener import HttpError, address_of

    try:
        address = None if arguments.http == "off" else address_of(arguments.http)
        conninfo = console_conninfo(arguments.url)
    except (BadUrl, HttpError) as error:
        return _usage(str(error))
    try:
        rounds = Rounds(_say)
        sinks = [open_sink(url, rounds) for url in arguments.drain or ["stdout"]]
        with asyncio.Runner(loop_factory=loop_without_ties) as runner:
            runner.run(_serve(conninfo, address, arguments.metrics_period, sinks, ring, rounds))
    except (DrainError, HttpError) as error:
        _say(str(error))
        return 1
    return 0


def _usage(message: str) -> int:
    _say(message)
    return 2


def _say(message: str) -> None:
    announce(f"pooler metrics: {message}\n", STDERR)


async def _serve(
    conninfo: dict[str, Any],
    address: tuple[str, int] | None,
    period: float,
    sinks: list[Sink],
    ring: Ring | None,
    rounds: Rounds,
) -> None:
    rounds.watch_over(asyncio.get_running_loop())
    inquiry = Inquiry(conninfo)
    reporter = Reporter(inquiry, sinks, period=period, warn=_say, rounds=rounds)
    stop = _on_signals(reporter)
    source = _with_drains(inquiry, reporter)
    memory = _Memory(ring) if ring is not None else None
    tasks = [asyncio.create_task(reporter.run())]
    if memory is not None:
        tasks.append(asyncio.create_task(memory.run(inquiry, rounds)))
    server = None
    try:
        if address is not None:
            from metrics.web.details import Told
            from metrics.web.http import build_app, serve_http

            told = Told(
                f"{conninfo.get('host') or 'localhost'}:{conninfo.get('port') or PORT}",
                memory.samples if memory is not None else None,
                inquiry.settings,
            )
            app = build_app(source, reporter, told=told, unwatched=RECORD_SECONDS, catalog=FOREIGN, rounds=rounds)
            server = await serve_http(app, *address, warn=_say, rounds=rounds)
            _say(f"the live page is at {server.url}, for Prometheus {server.url}/metrics")
        await stop.wait()
    finally:
        for task in tasks:
            task.cancel()
        if server is not None:
            await rounds.once("http", server.close())
        await rounds.once("metrics", reporter.close())
        await rounds.once("console", inquiry.close())


def _on_signals(reporter: Reporter) -> asyncio.Event:
    """INT and TERM stop, at once when they come again; HUP opens the log files anew."""
    loop, stop, ending = asyncio.get_running_loop(), asyncio.Event(), Ending()

    def end() -> None:
        if stop.is_set():
            ending.hurry()
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, end)
    loop.add_signal_handler(signal.SIGHUP, reporter.reopen)
    return stop


class _Memory:
    """The last hour of a PgBouncer. What it had counted before we came is no sample of ours."""

    def __init__(self, ring: Ring) -> None:
        self._ring = ring
        self._began: float | None = None

    async def run(self, inquiry: Inquiry, rounds: Rounds) -> None:
        async def look() -> None:
            with suppress(Unavailable):
                snapshot = await inquiry()
                self._ring.record(snapshot)
                self._began = self._began or snapshot.now

        await rounds.once("history", look())
        await rounds.forever("history", lambda: asyncio.sleep(RECORD_SECONDS), look)

    def samples(self) -> list[HistorySample]:
        began = self._began
        return [sample for sample in self._ring.everything() if began is not None and sample.time > began]


def _with_drains(inquiry: Inquiry, reporter: Reporter) -> Any:
    """The foreign figures, and those of our own drains."""

    async def source(**wanted: bool) -> Snapshot:
        return replace(await inquiry(**wanted), drains=reporter.stats())

    return source
