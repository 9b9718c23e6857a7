"""The HTTP front: /metrics, /healthz, /readyz, /logs, /events and the live page at /, whose tabs are under /page.

A starlette application over a Source and a Reporter; it counts nothing itself. Other applications (the
platform's API) get every path that is not ours. Heavy imports happen in `build_app`, which is called after
the pooler already listens. No answer is kept in memory whole when it can be long, and no reader can make us
wait: see metrics.web.listener.
"""

from __future__ import annotations

import gc
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator
from typing import TYPE_CHECKING, Any

from metrics.catalog import CATALOG, Figure
from metrics.heroku import LogLine
from metrics.period import Reporter
from metrics.source import Source, Unavailable, take
from metrics.web.details import Details, Table, Told, chunks
from metrics.web.feed import TICK_SECONDS, Feed, no_pace, sse
from metrics.web.guard import guarded, inside
from metrics.web.listener import HttpError, HttpServer, serve_http
from metrics.web.recent import ALL
from metrics.web.stream import Streams, beating
from pooler.rounds import Rounds, in_the_log_of
from pooler.stirring import Stirring

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

    from metrics.prometheus import Exposition
    from pooler.stats import Snapshot

__all__ = ["HttpError", "HttpServer", "build_app", "serve_http"]

ASGIApp = Callable[[Any, Any, Any], Awaitable[None]]
Addons = Callable[[str], Collection[str] | None]
"""An app's name to the databases its lines are about; None for an app that does not exist."""

DEFAULT_LINES = 100
SCRAPE_SECONDS = 60.0
BEAT_SECONDS = 10.0
MAX_FORMATS = 4
MAX_STREAMS = 128
"""Live pages and log tails at once; more are told to come back later."""


class Front:
    """The handlers, over what they read."""

    def __init__(
        self,
        source: Source,
        reporter: Reporter | None,
        told: Told,
        feed: Feed,
        addons: Addons | None,
        catalog: tuple[Figure, ...],
        rounds: Rounds,
    ) -> None:
        self.rounds = rounds
        self.source = source
        self.reporter = reporter
        self.told = told
        self.addons = addons
        self.catalog = catalog
        self.expositions: dict[str, Exposition] = {}
        """By content type: versions and escaping schemes that a scraper may ask for make some."""
        self.feed = feed
        self.details = Details(source, feed, told)
        self.streams = Streams(MAX_STREAMS)

    async def metrics(self, request: Request) -> Response:
        from metrics.prometheus import Exposition, negotiate

        encoder, content_type = negotiate(request.headers.get("accept", ""))
        exposition = self.expositions.get(content_type)
        if exposition is None:
            if len(self.expositions) >= MAX_FORMATS:
                self.expositions.clear()
            exposition = self.expositions[content_type] = Exposition(encoder, self.catalog, self.rounds)
            gc.freeze()  # prometheus-client stays: no collection need look at it again
        try:
            snapshot = await take(self.source, clients=True, histograms=True)
        except Unavailable:
            snapshot = None
        return self.streams.bounded(_scraped(exposition.render(snapshot), snapshot), content_type, SCRAPE_SECONDS)

    async def healthz(self, request: Request) -> Response:
        """The process is alive and its loop turns."""
        return _text("ok\n")

    async def readyz(self, request: Request) -> Response:
        """Clients can be served: 503 with the reason when not."""
        try:
            snapshot = await take(self.source)
        except Unavailable as reason:
            return _text(f"not ready: {reason}\n", 503)
        halts = (snapshot.suspended, "suspended"), (snapshot.paused, "paused"), (not snapshot.active, "shutting down")
        for halted, word in halts:
            if halted:
                return _text(f"not ready: {word}\n", 503)
        return _text("ready\n")

    async def page(self, request: Request) -> Response:
        from starlette.responses import Response as Plain

        from metrics.web.page import page_headers, page_html

        return Plain(page_html(), headers=page_headers(), media_type="text/html")

    async def events(self, request: Request) -> Response:
        headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
        return self.streams.endless(self._events(), "text/event-stream; charset=utf-8", headers)

    async def _events(self) -> AsyncIterator[bytes]:
        yield sse("hello", {"where": self.told.where, "log": self.told.log is not None})
        async with self.feed.viewer() as queue:
            for part in chunks(self.details.past(ALL).rows):
                yield sse("past", part)
            times, trends = self.feed.recent.trends()
            yield sse("trends", {"times": times, "rows": trends})
            while True:
                yield await queue.get()

    async def past(self, request: Request) -> Response:
        """Of one pool, or of all."""
        query = request.query_params
        return self._table(self.details.past((query.get("database", ""), query.get("user", ""))))

    async def happened(self, request: Request) -> Response:
        return self._table(self.details.events())

    async def detail(self, request: Request) -> Response:
        """A table of what the console tells, by its name."""
        after = request.query_params.get("after", "")
        try:
            table = await self.details.named(
                request.path_params["name"], int(after) if after.isdecimal() and len(after) < 16 else 0
            )
        except Unavailable as reason:
            return _text(f"no figures: {reason}\n", 503)
        return _text("there is nothing of this name here\n", 404) if table is None else self._table(table)

    def _table(self, table: Table) -> Response:
        pieces = _scraped(table.pieces(), table.snapshot)
        return self.streams.bounded(pieces, "application/json", SCRAPE_SECONDS, {"cache-control": "no-store"})

    async def logs(self, request: Request) -> Response:
        if self.reporter is None:
            return _text("this pooler keeps no log lines\n", 404)
        query = request.query_params
        count = _count(query.get("n", ""))
        if count is None:
            return _text("n is the number of lines to begin with\n", 400)
        wanted = self._filter(query.get("source", ""), query.get("app", ""))
        if wanted is None:
            return _text(f"app {query['app']!r} is not known here\n", 404)
        write = as_json if _truth(query.get("json")) else as_text
        kind = "application/x-ndjson" if write is as_json else "text/plain; charset=utf-8"
        past = [line for line in self.reporter.tail(10**9) if wanted(line)][-count:] if count else []
        if not _truth(query.get("tail")):
            return self.streams.bounded(_pieces(map(write, past)), kind, SCRAPE_SECONDS)
        lines = follow(self.reporter, past, wanted, write)
        if write is as_json:
            lines = beating(lines, BEAT_SECONDS, b"\n")
        return self.streams.endless(lines, kind, {"cache-control": "no-store", "x-accel-buffering": "no"})

    def _filter(self, source: str, app: str) -> Callable[[LogLine], bool] | None:
        """What `--source` and `-a` let through; None for an unknown app."""
        addons = None
        if app and self.addons is not None:
            addons = self.addons(app)
            if addons is None:
                return None
        elif app:
            addons = (app,)
        return lambda line: (not source or line.is_from(source)) and (addons is None or line.addon in addons)


def build_app(
    source: Source,
    reporter: Reporter | None = None,
    *,
    told: Told | None = None,
    unwatched: float = TICK_SECONDS,
    pace: Callable[[], None] = no_pace,
    addons: Addons | None = None,
    fallback: ASGIApp | None = None,
    catalog: tuple[Figure, ...] = CATALOG,
    rounds: Rounds | None = None,
    stirring: Stirring | None = None,
) -> Starlette:
    """The application. `fallback` gets the requests for all paths but ours, `/` included when it is not a GET;
    `unwatched` is the time between two looks at the figures while nobody has the page open, and `pace` is called
    between steps of making values of them. While nothing is `stirring` nothing is looked at."""
    from starlette.applications import Starlette
    from starlette.routing import Mount, Route

    heard = rounds or in_the_log_of("metrics.web.http")
    feed = Feed(source, unwatched=unwatched, rounds=heard, pace=pace, stirring=stirring)
    front = Front(source, reporter, told or Told(), feed, addons, catalog, heard)
    routes: list[Any] = [
        Route("/", guarded(front.page)),
        Route("/metrics", guarded(front.metrics)),
        Route("/healthz", front.healthz),
        Route("/readyz", front.readyz),
        Route("/events", guarded(front.events)),
        Route("/logs", guarded(front.logs)),
        Route("/page/past", guarded(front.past)),
        Route("/page/events", guarded(front.happened)),
        Route("/page/{name}", guarded(inside(front.detail, (told or Told()).everywhere))),
    ]
    if fallback is not None:
        routes.append(Mount("/", app=fallback))
    app = Starlette(routes=routes)
    app.state.streams, app.state.beside = front.streams, feed.run
    return app


async def follow(
    reporter: Reporter,
    past: list[LogLine],
    wanted: Callable[[LogLine], bool],
    write: Callable[[LogLine], bytes],
) -> AsyncIterator[bytes]:
    """The lines of the past, then those to come; a reader that fell behind is told how many it missed."""
    with reporter.follow() as follower:
        yield b"".join(map(write, past))
        told = 0
        async for line in follower:
            if follower.missed > told:
                text = f"{follower.missed - told} lines were missed: they came faster than they were read"
                yield write(LogLine(time.time(), text, process="pooler"))
                told = follower.missed
            if wanted(line):
                yield write(line)


def as_text(line: LogLine) -> bytes:
    return (line.text + "\n").encode("utf-8", "backslashreplace")


def as_json(line: LogLine) -> bytes:
    value = {
        "time": line.when,
        "source": line.source,
        "process": line.process,
        "addon": line.addon,
        "message": line.body,
        "line": line.text,
    }
    return (json.dumps(value) + "\n").encode()


async def _pieces(parts: Any) -> AsyncIterator[bytes]:
    """A sync iterator as an async one; the loop turns between its items."""
    import asyncio

    for part in parts:
        yield part
        await asyncio.sleep(0)


async def _scraped(parts: Iterator[bytes], snapshot: Snapshot | None) -> AsyncIterator[bytes]:
    async for part in _pieces(parts):
        yield part
    if snapshot is not None:
        await snapshot.release()


def _text(text: str, status: int = 200) -> Response:
    from starlette.responses import PlainTextResponse

    return PlainTextResponse(text, status)


def _count(text: str) -> int | None:
    if not text:
        return DEFAULT_LINES
    return int(text) if text.isdecimal() and len(text) < 8 else None


def _truth(text: str | None) -> bool:
    return text is not None and text.lower() in ("", "1", "true", "yes", "on")
