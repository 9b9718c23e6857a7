"""The fronts of a running pooler: metrics lines, the HTTP listener, the control plane."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from metrics.drains.sink import DrainError, Sink
from metrics.period import Reporter
from metrics.source import Source
from pooler import __version__
from pooler.commands.flags import Flags
from pooler.config.whole import Changes, every_row
from pooler.history import History
from pooler.log import ERROR, LOG, WARNING
from pooler.outlet import announce
from pooler.pools.running import Running
from pooler.process.service import Service
from pooler.stats import DrainStat, SessionStat

if TYPE_CHECKING:
    from admin.platform.desired import Drain
    from admin.platform.plane import Plane
    from metrics.drains.only import Only
    from metrics.web.details import Told
    from metrics.web.listener import HttpServer
    from pooler.process.takeover import Inheritance

DEFAULT_HTTP = "127.0.0.1", 9127
CLOSE_SECONDS, HURRY_SECONDS = 1.0, 0.2
"""For the drains to be flushed, and requests to be answered."""
CLOSE_MOST, HURRY_MOST = 5.0, 0.3
"""For what does not keep to that."""


class Fronts:
    """All of them. `open_sinks` before the start, `run` beside the pools, `close` at the end. `follow`: serve what the
    state of the `plane` asks for, for ever."""

    def __init__(
        self,
        running: Running,
        source: Source,
        history: History,
        service: Service,
        flags: Flags,
        plane: Plane | None = None,
    ) -> None:
        self.running = running
        self.source = source
        self.history = history
        self.service = service
        self.flags = flags
        self.plane = plane
        self.follow: Callable[[], Coroutine[Any, Any, None]] | None = None
        self.sessions: Callable[[], Iterable[SessionStat]] = tuple
        """What clients have left in their sessions."""
        self.reporter: Reporter | None = None
        self.sinks: list[Sink] = []
        self._outputs: tuple[str, ...] = ()
        """Where those lead to."""
        self.of_apps: dict[tuple[str, str], Only] = {}
        """By app and URL: where the state sends an app's lines."""
        self.closing: set[asyncio.Task[None]] = set()
        """Sinks that were replaced, until they have sent what they hold."""
        self.http: HttpServer | None = None
        service.on_hangup.append(self._hang_up)

    def open_sinks(self) -> None:
        """Raises DrainError for a drain that can never work."""
        self._outputs = self.outputs()
        self.sinks = self._open(self._outputs)
        self.reporter = Reporter(
            self.source,
            self.sinks,
            period=self.period(),
            extra=self.extra(),
            warn=lambda text: self.running.say(WARNING, text),
            rounds=self.running.rounds,
            stirring=self.running.stirring,
        )

    def _open(self, urls: tuple[str, ...]) -> list[Sink]:
        """Raises DrainError. Without any nothing of them is loaded."""
        if not urls:
            return []
        from metrics.drains.urls import open_sink

        return [open_sink(url, self.running.rounds) for url in urls]

    def outputs(self) -> tuple[str, ...]:
        """Where lines go: with an ini nowhere until it or a flag asks, and with a period of 0 there are none. A daemon
        has no standard output."""
        if not self.period():
            return ()
        asked = self.flags.metrics_extra or self.flags.metrics_period is not None
        urls = self.flags.drains or self.running.config.own.metrics or (("stdout",) if asked else ())
        return tuple(url for url in urls if not (self.flags.daemon and url in ("-", "stdout")))

    def extra(self) -> bool:
        return self.flags.metrics_extra or self.running.config.own.metrics_extra

    def period(self) -> float:
        given = self.flags.metrics_period
        return self.running.config.own.metrics_period if given is None else given

    def drains(self) -> tuple[DrainStat, ...]:
        """What they have to say, for SHOW DRAINS."""
        return self.reporter.stats() if self.reporter is not None else ()

    def http_address(self) -> tuple[str, int] | None:
        """Where to serve HTTP; None: nowhere."""
        if isinstance(self.flags.http, tuple):
            return self.flags.http
        if self.flags.http == "off":
            return None
        own = self.running.config.own.http
        return own or (None if self.flags.ini and self.plane is None else DEFAULT_HTTP)

    async def run(self, heir: Inheritance | None = None) -> None:
        """All of them, each by itself: what fails of one ends none of the others. An old process, whose heir we are,
        has its HTTP port until it ends."""
        rounds = self.running.rounds
        if heir is not None:
            await rounds.once("taking over", heir.old_process_gone(self.running.loop))
        parts = [rounds.once("http", self._serve_http(required=heir is None))]
        if self.reporter is not None:
            parts.append(self.reporter.run())
        if self.follow is not None:
            parts.append(self.follow())
        await asyncio.gather(*parts)

    async def _serve_http(self, *, required: bool) -> None:
        """`required`: what was asked for and cannot be had is a reason not to start."""
        address = self.http_address()
        if address is None:
            return
        from metrics.web.http import build_app
        from metrics.web.listener import HttpError, serve_http

        plane: dict[str, Any] = {}
        if self.plane is not None:
            plane = {"addons": self.plane.addons, "fallback": self.plane.application(__version__, self.reporter)}
        rounds = self.running.rounds
        app: Any = build_app(
            self.source, self.reporter, told=self._told(), rounds=rounds, pace=self.running.relay.pace,
            stirring=self.running.stirring, **plane,
        )  # fmt: skip
        try:
            context = https(self.flags)
            self.http = await serve_http(
                app, *address, tls=context, warn=lambda text: self.running.say(WARNING, text), rounds=rounds,
                pace=self.running.relay.pace, kept=lambda descriptor: descriptor >= self.service.strangers.mark,
            )  # fmt: skip
        except HttpError as error:
            asked = self.flags.http or self.flags.http_cert or self.running.config.own.http
            self.running.say(ERROR if asked else WARNING, f"{error}")
            if asked and required:
                self.service.fail()
            return
        url = self.http.url if context is None else self.http.url.replace("http://", "https://", 1)
        self.running.say(LOG, f"serving metrics and the live page on {url}")
        if self.plane is not None:
            environment = self.plane.environment(url, authority=self.flags.http_cert)
            lines = "\n".join(f"  {line}" for line in environment)
            announce(f"The Heroku CLI works on this pooler's apps with:\n\n{lines}\n\n")

    def _told(self) -> Told:
        """What the page is told beside the figures."""
        from metrics.web.details import SESSION, Told

        running = self.running
        port = running.config.settings.listen_port
        return Told(
            f"{socket.gethostname()}:{port}" if port else socket.gethostname(),
            self.history.everything,
            lambda: ((section, *row) for section, row in every_row(running.config)),
            lambda after: running.log_file.recent(after),
            lambda: running.config.own.http_details,
            lambda: map(attrgetter(*SESSION), self.sessions()),
        )

    def _hang_up(self) -> None:
        if self.reporter is not None:
            self.reporter.reopen()

    def changed(self, found: Changes) -> None:
        """There is another configuration."""
        reporter = self.reporter
        if reporter is None:
            return
        if "metrics_period" in found.own:
            reporter.set_period(self.period())
        reporter.set_extra(self.extra())
        outputs = self.outputs()
        if outputs != self._outputs:
            self._change_sinks(reporter, outputs)

    def _change_sinks(self, reporter: Reporter, outputs: tuple[str, ...]) -> None:
        """Old sinks are closed when they have sent what they hold; a new one that cannot be opened changes nothing."""
        try:
            sinks = self._open(outputs)
        except DrainError as error:
            self.running.say(ERROR, f"metrics lines go where they went: {error}")
            return
        old, self.sinks, self._outputs = self.sinks, sinks, outputs
        self._hand_over(reporter, old)

    def drain_apps(self, wanted: Iterable[Drain]) -> None:
        """The state's drains, as they are now: those that stay keep what they hold."""
        from metrics.drains.only import Only
        from metrics.drains.urls import open_sink

        reporter = self.reporter
        if reporter is None:
            return
        before, self.of_apps = self.of_apps, {}
        for drain in wanted:
            key = drain.app, drain.url
            kept = before.pop(key, None)
            try:
                kept = kept or Only(open_sink(drain.url, self.running.rounds), drain.databases)
            except DrainError as error:
                self.running.say(ERROR, f"a log drain of {drain.app} cannot be served: {error}")
                continue
            kept.databases = drain.databases
            self.of_apps[key] = kept
        self._hand_over(reporter, list(before.values()))

    def _hand_over(self, reporter: Reporter, old: Sequence[Sink]) -> None:
        reporter.set_sinks([*self.sinks, *self.of_apps.values()])
        if old:
            closing = self.running.loop.create_task(self._close_all(old))
            self.closing.add(closing)
            closing.add_done_callback(self.closing.discard)

    async def _close_all(self, sinks: Sequence[Sink]) -> None:
        await asyncio.gather(*(self.running.rounds.once("drain", sink.close()) for sink in sinks))

    async def close(self, *, hurry: bool = False) -> None:
        """What is under way is flushed, in a `hurry` as far as there is time."""
        rounds, seconds = self.running.rounds, HURRY_SECONDS if hurry else CLOSE_SECONDS
        closing = [asyncio.ensure_future(rounds.once(name, front)) for name, front in self._closing(seconds)]
        if closing:
            await asyncio.wait(closing, timeout=HURRY_MOST if hurry else CLOSE_MOST)
            for front in closing:
                front.cancel()
            await asyncio.wait(closing, timeout=HURRY_MOST - HURRY_SECONDS)
        if self.plane is not None:
            rounds.attempt("control plane", self.plane.close)

    def _closing(self, seconds: float) -> Iterator[tuple[str, Coroutine[Any, Any, None]]]:
        if self.http is not None:
            yield "http", self.http.close(seconds)
        if self.reporter is not None:
            yield "metrics", self.reporter.close(seconds)


def https(flags: Flags) -> ssl.SSLContext | None:
    """What --http-cert asks for. Raises HttpError."""
    if flags.http_cert is None:
        return None
    from metrics.web.listener import HttpError

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(flags.http_cert, flags.http_key)
    except (OSError, ssl.SSLError) as error:
        reason = error.strerror or error.__class__.__name__
        raise HttpError(f"cannot serve HTTPS with {flags.http_cert}: {reason}") from None
    return context
