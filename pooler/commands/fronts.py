"""The fronts of a running pooler: metrics lines, the HTTP listener, the control plane."""

from __future__ import annotations

import asyncio
import ssl
from typing import TYPE_CHECKING, Any

from metrics.drains import open_sink
from metrics.period import Reporter
from metrics.sink import DrainError, Sink
from pooler import __version__
from pooler.bouncer import Bouncer
from pooler.commands.flags import Flags
from pooler.config import Changes
from pooler.log import ERROR, LOG, WARNING
from pooler.service import Service
from pooler.stats import Snapshot

if TYPE_CHECKING:
    from admin.platform.plane import Plane
    from metrics.listener import HttpServer

DEFAULT_HTTP = "127.0.0.1", 9127


class Fronts:
    """See the module. `open_sinks` before the start, `run` as a task, `close` at the end."""

    def __init__(self, bouncer: Bouncer, service: Service, flags: Flags, plane: Plane | None = None) -> None:
        self.bouncer = bouncer
        self.service = service
        self.flags = flags
        self.plane = plane
        self.reporter: Reporter | None = None
        self.sinks: list[Sink] = []
        self.closing: asyncio.Task[None] | None = None
        self.http: HttpServer | None = None
        service.on_hangup.append(self._hang_up)
        bouncer.on_change.append(self._changed)

    def open_sinks(self) -> None:
        """Raises DrainError for a drain that can never work."""
        if not self.period():
            return
        self.sinks = [open_sink(url) for url in self.outputs()]
        self.reporter = Reporter(
            self._source,
            self.sinks,
            period=self.period(),
            extra=self.extra(),
            warn=lambda text: self.bouncer.say(WARNING, text),
        )
        self.bouncer.drains = self.reporter.stats

    def outputs(self) -> tuple[str, ...]:
        """Where lines go. A daemon has no standard output."""
        urls = self.flags.drains or self.bouncer.config.own.metrics
        return tuple(url for url in urls if not (self.flags.daemon and url in ("-", "stdout")))

    def extra(self) -> bool:
        return self.flags.metrics_extra or self.bouncer.config.own.metrics_extra

    def period(self) -> float:
        given = self.flags.metrics_period
        return self.bouncer.config.own.metrics_period if given is None else given

    def _source(self, *, clients: bool = False, servers: bool = False, histograms: bool = False) -> Snapshot:
        return self.bouncer.snapshot(clients=clients, servers=servers, histograms=histograms)

    def http_address(self) -> tuple[str, int] | None:
        """Where to serve HTTP; None: nowhere."""
        if isinstance(self.flags.http, tuple):
            return self.flags.http
        if self.flags.http == "off":
            return None
        own = self.bouncer.config.own.http
        return own or (None if self.flags.ini and self.plane is None else DEFAULT_HTTP)

    async def run(self) -> None:
        """Start what has to be loaded first, then report until cancelled."""
        async with asyncio.TaskGroup() as group:
            if self.plane is not None:
                group.create_task(self._follow(self.plane))
            group.create_task(self._report())

    async def _follow(self, plane: Plane) -> None:
        """Serve what the state's attachments ask for."""
        from pooler.commands.plane import PlaneBouncer, apply_forever

        assert isinstance(self.bouncer, PlaneBouncer)
        await apply_forever(plane, self.bouncer, self.service)

    async def _report(self) -> None:
        address = self.http_address()
        if address is not None:
            await self._serve_http(*address)
        if self.reporter is not None:
            await self.reporter.run()

    async def _serve_http(self, host: str, port: int) -> None:
        from metrics.http import build_app
        from metrics.listener import HttpError, serve_http

        plane: dict[str, Any] = {}
        if self.plane is not None:
            plane = {"addons": self.plane.addons, "fallback": self.plane.application(__version__, self.reporter)}
        app: Any = build_app(self._source, self.reporter, history=self.bouncer.history.everything, **plane)
        try:
            context = https(self.flags)
            self.http = await serve_http(
                app, host, port, tls=context, warn=lambda text: self.bouncer.say(WARNING, text)
            )
        except HttpError as error:
            asked = self.flags.http or self.flags.http_cert or self.bouncer.config.own.http
            self.bouncer.say(ERROR if asked else WARNING, f"{error}")
            if asked:
                self.service.fail()
            return
        url = self.http.url if context is None else self.http.url.replace("http://", "https://", 1)
        self.bouncer.say(LOG, f"serving metrics and the live page on {url}")
        if self.plane is not None:
            environment = self.plane.environment(url, authority=self.flags.http_cert)
            lines = "\n".join(f"  {line}" for line in environment)
            print(f"The Heroku CLI works on this pooler's apps with:\n\n{lines}\n", flush=True)

    def _hang_up(self) -> None:
        if self.reporter is not None:
            self.reporter.reopen()

    def _changed(self, found: Changes) -> None:
        reporter = self.reporter
        if reporter is None:
            return
        if "metrics_period" in found.own and self.period():
            reporter.set_period(self.period())
        reporter.set_extra(self.extra())
        if "metrics" in found.own and not self.flags.drains:
            self._change_sinks(reporter)

    def _change_sinks(self, reporter: Reporter) -> None:
        """Old sinks are closed when they have sent what they hold; a new one that cannot be opened changes nothing."""
        try:
            sinks = [open_sink(url) for url in self.outputs()]
        except DrainError as error:
            self.bouncer.say(ERROR, f"metrics lines go where they went: {error}")
            return
        old, self.sinks = self.sinks, sinks
        reporter.set_sinks(sinks)
        self.closing = self.bouncer.loop.create_task(close_all(old))

    async def close(self) -> None:
        if self.http is not None:
            await self.http.close()
        if self.reporter is not None:
            async with asyncio.timeout(5):
                await self.reporter.close()
        if self.plane is not None:
            self.plane.close()


def https(flags: Flags) -> ssl.SSLContext | None:
    """What --http-cert asks for. Raises HttpError."""
    if flags.http_cert is None:
        return None
    from metrics.listener import HttpError

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(flags.http_cert, flags.http_key)
    except (OSError, ssl.SSLError) as error:
        reason = error.strerror or error.__class__.__name__
        raise HttpError(f"cannot serve HTTPS with {flags.http_cert}: {reason}") from None
    return context


async def close_all(sinks: list[Sink]) -> None:
    await asyncio.gather(*(sink.close() for sink in sinks))
