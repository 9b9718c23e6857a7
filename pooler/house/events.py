"""The relay's events: what it tells of connections becomes log lines, farewells and new servers.

One handler per event, in a table. The rule: a connection's end is logged before its peer is told, and an event that
cannot be dealt with ends what it is about and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pooler import relay, wire
from pooler.house.sessions import Sessions
from pooler.house.survey import Survey
from pooler.log import DEBUG, ERROR, WARNING
from pooler.pools.connection import ClientFacts, QuestionFacts, client_label, server_label
from pooler.pools.reasons import BY_SENTENCE, LEAVING, Kind, Reason
from pooler.pools.registry import PoolState
from pooler.pools.running import Running
from pooler.pools.verdict import Standing, standing_of
from pooler.relay import events as relays
from pooler.relay.events import Event
from pooler.servers.hubs import Hubs
from pooler.servers.opener import Opener
from pooler.sessions import Row
from pooler.touches import Touch

DISCONNECT = Kind.DISCONNECT


class Events:
    """Deals with them in order, once in a turn of the loop; with ordinary ends the relay does by itself (`exits`)."""

    def __init__(self, running: Running, opener: Opener, hubs: Hubs, sessions: Sessions, survey: Survey) -> None:
        self._running = running
        self._opener = opener
        self.hubs = hubs
        self._sessions = sessions
        self._survey = survey
        self.exits = relay.Exits(
            running.registry,
            running.tallies,
            {why.value: why for why in LEAVING},
            DISCONNECT,
            ClientFacts,
            sessions.noted,
            running.changed,
            self._deal,
            self._not_dealt,
        )

    def handle(self) -> None:
        """Everything the relay has posted since the last turn."""
        running = self._running
        events, running.relay.events = running.relay.events, []
        self.exits.take(events)

    def _deal(self, event: Event) -> None:
        try:
            HANDLERS[type(event)](self, *event)
        except Exception as error:
            self._not_dealt(event, error)

    def _not_dealt(self, event: Event, error: Exception) -> None:
        self._running.rounds.attempt("event_failed", self._failed, HANDLERS[type(event)].__name__, event[0], error)

    async def until(self, condition: Callable[[], bool]) -> None:
        """Return when `condition` holds; it is looked at after every end of a connection."""
        self.handle()
        while not condition():
            self._running.changed.clear()
            await self._running.changed.wait()

    def _failed(self, event: str, subject: relay.Pool | relay.Socket, error: Exception) -> None:
        """A bug of ours, or no memory: what the event was about ends, and the others go on."""
        running = self._running
        pool = subject.pool if isinstance(subject, relay.Conn) else subject
        running.tally(Kind.ERROR, pool.database if isinstance(pool, relay.Pool) else "", Reason.EVENT)
        running.say(ERROR, f"fault in {event}: {type(error).__name__}: {error}")
        if isinstance(subject, relay.Client | relay.Server):
            if subject.is_lost:
                subject.finish(b"")
            else:
                running.drop(subject, Reason.FAILURE)
        # Who waits for an end or for room may have missed it.
        running.changed.set()

    def wants_server(self, pool: relay.Pool) -> None:
        # Whoever was turned away does not wait, but has asked for another attempt.
        self._opener.consider(pool.owner, needed=pool.failing is not None)

    def client_lost(self, client: relay.Client, reason: str, tell: bool, sqlstate: str | None) -> None:
        """`sqlstate`: what is said to it, if not that the protocol was violated. For those of whom nothing is said
        `Exits` does the same (pooler/relay/counted.pxi)."""
        about = client.about
        if isinstance(about, QuestionFacts):
            about.lost = reason
            return client.finish(b"")
        self._sessions.gone(client)
        running, database = self._running, client.pool.owner.database
        registry = running.registry
        registry.count_out(database, registry.users.get(about.user) or registry.user(about.user))
        why = BY_SENTENCE.get(reason) or Reason.of(reason) or (Reason.SERVER_FAILED if sqlstate else Reason.OTHER)
        ours = why not in LEAVING
        label = ""
        if ours or registry.config.settings.log_disconnections:
            label = client_label(client.about)
            running.say_closing(label, reason, client.connect_us)
        running.tally(DISCONNECT, database.config.name, why)
        if ours:
            # Also where it cannot be sent any more, in the middle of a row, or was said by the server already.
            running.say_error(label, reason)
        client.finish(running.farewell(reason, sqlstate) if tell else b"")
        running.changed.set()

    def server_lost(self, server: relay.Server, reason: str, tell: bool) -> None:
        running, pool = self._running, server.pool.owner
        running.say_closing(self._label(server), reason, server.connect_us)
        running.tally(Kind.CLOSE, pool.database.name, Reason.of(reason) or Reason.OTHER)
        server.finish(wire.terminate())
        self._opener.server_gone(pool)
        running.changed.set()

    def server_ready(self, server: relay.Server) -> None:
        """A server came free in a pool that is paused, or whose neighbours wait."""
        if not server.pool.paused:
            self._opener.share(server.pool.owner)
        elif not server.is_lost and Standing.SPARE in standing_of(server):
            self._running.drop(server, Reason.PAUSED)

    def server_fact(self, server: relay.Server, name: bytes, value: bytes) -> None:
        """A server has another fact to tell than at its login: so it is told to who comes in."""
        pool: PoolState = server.pool.owner
        if pool.welcome is not None and not server.close_needed:
            pool.greet_with(pool.welcome.renewed(wire.decode(name), wire.decode(value)))

    def server_said(self, server: relay.Server, text: str) -> None:
        self._running.say(WARNING, f"{self._label(server)} {text}")

    def server_set(self, server: relay.Server, sql: bytes) -> None:
        self._running.say(DEBUG, f"{self._label(server)} varcache_apply: {sql.decode('utf-8', 'replace')}")

    def client_set(self, client: relay.Client, name: bytes, wanted: bytes, value: bytes) -> None:
        spelled = " -> ".join(text.decode("utf-8", "replace") for text in (wanted, value))
        said = f"varcache_set_canonical: setting {name.decode()} to its canonical version {spelled}"
        self._running.say(DEBUG, f"{client_label(client.about)} {said}")

    def client_said(self, client: relay.Client, text: str) -> None:
        self._running.say(ERROR, f"{client_label(client.about)} {text}")

    def client_touched(self, client: relay.Client, touch: Touch) -> None:
        # Also of one that has left meanwhile, whose end is the next event.
        self._sessions.touched(client, touch)

    def server_pinned(self, server: relay.Server, client: relay.Client, pins: int) -> None:
        self._sessions.pinned(server, client, pins)

    def code_made(self, pool: relay.Pool) -> None:
        self._survey.made(pool.owner, self._running.now())

    def texts_changed(self, pool: relay.Pool) -> None:
        colleagues = self._running.colleagues
        if colleagues is not None:
            colleagues.texts_changed()

    def server_answered(
        self, server: relay.Server, question: bytes | None, rows: list[Row], error: str | None
    ) -> None:
        self._survey.answered(server.pool.owner, question, rows, error)

    def want_channels(self, server: relay.Server, channels: tuple[bytes, ...]) -> None:
        self.hubs.want(server)

    def channels_left(self, hub: relay.Hub) -> None:
        hub.owner.look()

    def fault(self, connection: relay.Client | relay.Server | relay.Newcomer, error: Exception) -> None:
        self._running.fault(connection, error)

    def _label(self, server: relay.Server) -> str:
        return server_label(server.pool.owner.name, server.about.peer, server.id)


HANDLERS: dict[type[Event], Callable[..., Any]] = {
    relays.WantServer: Events.wants_server,
    relays.ClientLost: Events.client_lost,
    relays.ServerLost: Events.server_lost,
    relays.ServerReady: Events.server_ready,
    relays.ServerSaid: Events.server_said,
    relays.ServerSet: Events.server_set,
    relays.ClientSet: Events.client_set,
    relays.ClientSaid: Events.client_said,
    relays.ClientTouched: Events.client_touched,
    relays.ServerPinned: Events.server_pinned,
    relays.CodeMade: Events.code_made,
    relays.TextsChanged: Events.texts_changed,
    relays.ServerAnswered: Events.server_answered,
    relays.WantChannels: Events.want_channels,
    relays.ChannelsLeft: Events.channels_left,
    relays.Fault: Events.fault,
    relays.ServerFact: Events.server_fact,
}
