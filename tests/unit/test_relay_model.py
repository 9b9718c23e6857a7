"""Random plays on the relay's stage: clients that send, stall, pipeline, fail, copy and vanish, servers that die.

Each client has an oracle of its own, a private `Backend` fed with the client's own bytes: what the client reads has to
be a prefix of what the oracle says, whatever the others do and wherever the bytes are cut. Every query carries a token,
so an answer that reached the wrong client cannot go unnoticed.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from pooler import wire
from pooler.relay import engine
from tests.unit.backend import PARAMETERS, Backend
from tests.unit.stage import DEFAULTS, Peer, Stage, farewell

NAMES = ("n0", "n1", "n2")
TEXTS = ("SHARED one", "SHARED two", "SHARED three")
"""What clients prepare: few, so that servers share them and evict them."""
MODES = (engine.TRANSACTION, engine.SESSION, engine.STATEMENT)
ZONES = ("UTC", "Asia/Tokyo", "Europe/Berlin")

ALLOWED = {
    "server conn crashed?",
    "client unexpected eof",
    "client close request",
    "client disconnected with query in progress",
    "client disconnected with queries in progress",
    "client disconnect while server was not ready",
    "client disconnect before everything was sent to the server",
    "transaction blocks not allowed in statement pooling mode",
    "obsolete connection",
    "close_needed",
}


def whole_messages(data: bytes) -> bool:
    while data:
        if len(data) < 5 or len(data) < 1 + int.from_bytes(data[1:5], "big"):
            return False
        data = data[1 + int.from_bytes(data[1:5], "big") :]
    return True


class Actor:
    """A client, what it has still to send, and what it has to see."""

    def __init__(self, peer: Peer, zone: str) -> None:
        self.peer = peer
        self.oracle = Backend()
        self.oracle.parameters["TimeZone"] = zone
        self.late = bytearray()
        self.expected = bytearray()
        self.view: set[str] = set()
        self.unsure = False
        self.barred = False
        self.must_settle = False
        self.unsynced = False

    def say(self, message: bytes) -> None:
        """Send a message. A Query behind extended messages without a Sync is what no driver sends: it gets one."""
        if message[:1] in b"PBDEC":
            self.unsynced = True
        elif message[:1] in b"QFS":
            if self.unsynced and message[:1] != b"S":
                self.say(wire.sync())
            self.unsynced = False
            self.barred = self.unsure
        self.late += message
        self.expected += self.oracle.feed(message)

    @property
    def caught_up(self) -> bool:
        return not self.late and not self.peer.unsent and bytes(self.peer.inbox) == bytes(self.expected)

    def look(self) -> None:
        """Once all is answered there is no doubt left about what is prepared."""
        if self.caught_up:
            self.view = {name for name in self.oracle.statements if name}
            self.unsure = self.barred = self.must_settle = False

    @property
    def may_name(self) -> bool:
        """Not behind the Sync of what was skipped, before that is known."""
        return not self.barred

    def parse(self, name: str, text: str) -> None:
        failed = self.oracle.status == "E" and not self.oracle.skipping
        if not self.may_name or failed or name in self.view:
            return
        self.unsure |= self.oracle.skipping
        self.say(wire.parse(name, text))
        self.unsure |= self.oracle.skipping
        self.view.add(name)

    def close(self, name: str) -> None:
        if self.may_name:
            self.unsure |= self.oracle.skipping
            self.say(wire.close(b"S", name))
            self.view.discard(name)

    def bind(self, name: str, value: str) -> None:
        if self.may_use(name):
            self.say(wire.bind("", name, [value]))
            self.say(wire.execute(""))

    def may_use(self, name: str) -> bool:
        """What a failed transaction or an error ahead skips may be missing on the server behind the next Sync."""
        found = self.may_name and name in self.view
        self.unsure |= found and (self.oracle.skipping or self.oracle.status == "E")
        return found


class Plays(RuleBasedStateMachine):
    """See the module."""

    stage: Stage

    def __init__(self) -> None:
        super().__init__()
        self.actors: list[Actor] = []
        self.servers: list[Peer] = []
        self.ended: list[Actor] = []
        self.tokens = itertools.count(1)
        self.said: set[str] = set()

    @initialize(mode=st.sampled_from(MODES), prepared=st.integers(1, 3), turns=st.booleans(), ring=st.booleans())
    def open(self, mode: int, prepared: int, turns: bool, ring: bool) -> None:
        reset = b"DISCARD ALL" if mode == engine.SESSION else b""
        self.stage = Stage(
            mode, prepared, io_uring=ring, reset_query=reset, check_query=b"SELECT 7", round_robin=turns
        )
        self.new_server()
        self.new_client("UTC")

    # ---- who comes and goes

    @precondition(lambda self: len(self.actors) < 5)
    @rule(zone=st.sampled_from(ZONES))
    def new_client(self, zone: str) -> None:
        params = [DEFAULTS[i] if name != "TimeZone" else zone.encode() for i, name in enumerate(PARAMETERS)]
        self.actors.append(Actor(self.stage.client(params), zone))

    @precondition(lambda self: len(self.servers) < 3)
    @rule()
    def new_server(self) -> None:
        self.servers.append(self.stage.server(Backend()))

    @precondition(lambda self: self.servers)
    @rule(data=st.data())
    def server_dies(self, data: st.DataObject) -> None:
        self.servers.pop(data.draw(st.integers(0, len(self.servers) - 1))).sock.close()

    @precondition(lambda self: self.actors)
    @rule(data=st.data(), politely=st.booleans())
    def client_leaves(self, data: st.DataObject, politely: bool) -> None:
        actor = self.actors.pop(data.draw(st.integers(0, len(self.actors) - 1)))
        if politely and not actor.late:
            actor.peer.send(wire.terminate())
        actor.peer.sock.close()

    # ---- what clients say

    def actor(self, data: st.DataObject) -> Actor | None:
        free = [actor for actor in self.actors if not actor.must_settle]
        return data.draw(st.sampled_from(free)) if free else None

    def token(self, word: str) -> str:
        return f"{word} t{next(self.tokens)}"

    @rule(data=st.data(), count=st.integers(1, 4))
    def talk(self, data: st.DataObject, count: int) -> None:
        actor = self.actor(data)
        if actor is None:
            return
        for _ in range(count):
            data.draw(st.sampled_from(PHRASES))(self, actor, data)
        self.deliver(actor, data)

    def deliver(self, actor: Actor, data: st.DataObject) -> None:
        size = len(actor.late)
        cut = data.draw(st.one_of(st.just(size), st.integers(0, size)))
        actor.peer.send(bytes(actor.late[:cut]))
        del actor.late[:cut]

    def simple(self, actor: Actor, data: st.DataObject) -> None:
        word = data.draw(st.sampled_from(["SELECT", "SELECT", "ERROR", "NOTICE", "COPY OUT", "BIG 300", "BIG 200000"]))
        again = data.draw(st.booleans())
        sql = self.token(word) + (f";{self.token('SELECT')}" if again else "")
        actor.say(wire.query(sql))

    def transaction(self, actor: Actor, data: st.DataObject) -> None:
        actor.say(wire.query(data.draw(st.sampled_from(["BEGIN", "COMMIT", "ROLLBACK"]))))

    def parameter(self, actor: Actor, data: st.DataObject) -> None:
        zone = data.draw(st.sampled_from([*ZONES, "nonsense"]))
        actor.say(wire.query(data.draw(st.sampled_from([f"SET TimeZone='{zone}'", "SHOW TimeZone"]))))

    def unnamed(self, actor: Actor, data: st.DataObject) -> None:
        actor.say(wire.parse("", self.token(data.draw(st.sampled_from(["SELECT", "ERROR", "BROKEN"])))))
        actor.say(wire.bind("", "", [data.draw(st.sampled_from(["v", "bad", "long" * 20]))]))
        actor.say(wire.describe(b"P", ""))
        actor.say(wire.execute(""))

    def named(self, actor: Actor, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(NAMES))
        what = data.draw(st.sampled_from(["parse", "broken", "bind", "bind", "bad", "describe", "close"]))
        if what == "parse":
            actor.parse(name, data.draw(st.sampled_from(TEXTS)))
        elif what == "broken":
            actor.parse(name, self.token("BROKEN"))
        elif what == "describe":
            if actor.may_use(name):
                actor.say(wire.describe(b"S", name))
        elif what == "close":
            actor.close(name)
        else:
            actor.bind(name, "bad" if what == "bad" else self.token("v"))

    def sync(self, actor: Actor, data: st.DataObject) -> None:
        actor.say(wire.sync())

    def copy_in(self, actor: Actor, data: st.DataObject) -> None:
        ahead = data.draw(st.sampled_from(["simple", "sync", "flush"]))
        if actor.oracle.skipping or actor.oracle.status == "E":
            return
        sql = self.token("COPY IN")
        if ahead == "simple":
            actor.say(wire.query(sql))
        else:
            actor.say(wire.parse("", sql) + wire.bind("", "", []) + wire.execute(""))
            actor.say(wire.sync() if ahead == "sync" else wire.flush())
        rows = data.draw(st.lists(st.sampled_from([b"row", b"bad", b"x" * 3000]), max_size=4))
        for row in rows:
            actor.say(wire.message(b"d", row))
        actor.say(data.draw(st.sampled_from([wire.message(b"c"), wire.message(b"f", b"no\0")])))
        if ahead != "simple":
            actor.say(wire.sync())

    def function_call(self, actor: Actor, data: st.DataObject) -> None:
        actor.say(wire.message(b"F", b"\0\0\0\1\0\0\0\0\0\0"))

    def deallocate(self, actor: Actor, data: st.DataObject) -> None:
        """Alone, as drivers do: what is prepared behind it before it is answered is not for sure."""
        if actor.caught_up and actor.oracle.status == "I":
            actor.say(wire.query(data.draw(st.sampled_from(["DEALLOCATE ALL", "DISCARD ALL"]))))
            actor.must_settle = True

    @rule(data=st.data())
    def send_more(self, data: st.DataObject) -> None:
        late = [actor for actor in self.actors if actor.late]
        if late:
            self.deliver(data.draw(st.sampled_from(late)), data)

    @precondition(lambda self: self.actors or self.servers)
    @rule(data=st.data())
    def somebody_stalls_or_goes_on(self, data: st.DataObject) -> None:
        peer = data.draw(st.sampled_from([*(actor.peer for actor in self.actors), *self.servers]))
        peer.reading = not peer.reading

    @rule()
    def the_pool_pauses_or_goes_on(self) -> None:
        pool = self.stage.pool
        pool.paused = not pool.paused
        if not pool.paused:
            pool.resume()

    @precondition(lambda self: self.servers)
    @rule(data=st.data())
    def a_server_becomes_obsolete(self, data: st.DataObject) -> None:
        data.draw(st.sampled_from(self.servers)).conn.close_needed = True

    @precondition(lambda self: self.servers)
    @rule(data=st.data())
    def a_cancel_request_comes_or_is_done(self, data: st.DataObject) -> None:
        server = data.draw(st.sampled_from(self.servers)).conn
        assert isinstance(server, engine.Server)
        if server.cancels:
            server.cancel_ends()
        else:
            server.cancel_begins()

    @rule()
    def servers_age(self) -> None:
        self.stage.pool.age_idle()

    @rule()
    def a_new_process_takes_over(self) -> None:
        if not any(isinstance(server.conn, engine.Server) and server.conn.cancels for server in self.servers):
            self.stage.restart()

    # ---- time

    @rule()
    def turn(self) -> None:
        self.stage.turn()
        for peer in self.stage.peers:
            peer.push()
            peer.pull(100_000)

    @rule()
    def settle(self) -> None:
        self.stage.settle()
        for actor in self.actors:
            actor.look()

    # ---- what must hold

    @invariant()
    def everybody_sees_only_what_is_theirs(self) -> None:
        for actor in self.actors:
            seen, due = bytes(actor.peer.inbox), bytes(actor.expected)
            if due.startswith(seen):
                continue
            bye = next((f for r in ALLOWED if seen.endswith(f := farewell(r))), b"")
            rest = seen[: len(seen) - len(bye)]
            assert bye, (seen[-300:], due[-300:])
            assert due.startswith(rest), (rest[-300:], due[-300:])
            assert whole_messages(rest)

    @invariant()
    def connections_end_only_for_reasons_given_here(self) -> None:
        assert set(self.stage.reasons) <= ALLOWED
        gone = {id(conn) for conn, _, _ in self.stage.lost}
        self.actors = [actor for actor in self.actors if id(actor.peer.conn) not in gone]
        self.servers = [server for server in self.servers if id(server.conn) not in gone]

    @invariant()
    def nobody_waits_for_what_is_free_and_what_is_free_is_clean(self) -> None:
        pool = self.stage.pool
        assert pool.paused or not (pool.waiting_clients.count and pool.idle_servers.count)
        for server in self.stage.peers:
            if server.backend is not None and server.conn.state_name == "idle" and not server.conn.is_lost:
                # The end of what is of no use any more (CopyData behind an error) may be on its way; nothing else may.
                ran = len(server.backend.log)
                server.pull()
                assert len(server.backend.log) == ran
                assert server.backend.at_rest or not server.reading
                assert not server.unsent
        for conn_list in (pool.active_clients, pool.waiting_clients, pool.idle_servers, pool.active_servers):
            assert len(conn_list.all()) == conn_list.count

    def teardown(self) -> None:
        """Everybody finishes: then all that was due has come, and all servers are free."""
        if hasattr(self, "stage"):
            try:
                self.all_is_due()
            finally:
                self.stage.close()

    def all_is_due(self) -> None:
        self.stage.pool.paused = False
        self.stage.pool.resume()
        for server in self.servers:
            assert isinstance(server.conn, engine.Server)
            while server.conn.cancels:
                server.conn.cancel_ends()
        for peer in self.stage.peers:
            peer.reading = True
        self.settle()
        self.connections_end_only_for_reasons_given_here()
        self.finish_all()
        for actor in self.actors:
            assert bytes(actor.peer.inbox) == bytes(actor.expected)
        pool = self.stage.pool
        assert pool.waiting_clients.count == 0
        if pool.mode != engine.SESSION:
            assert pool.active_servers.count == 0

    def finish_all(self) -> None:
        for actor in self.actors:
            if actor.oracle.copying is not None:
                actor.say(wire.message(b"c"))
            actor.say(wire.sync())
            actor.say(wire.query("ROLLBACK"))
            actor.peer.send(bytes(actor.late))
            actor.late.clear()
        left = list(self.actors)
        self.stage.settle()
        while left:
            if self.stage.pool.server_count == 0:
                self.servers.append(self.stage.server(Backend()))
            self.stage.settle()
            self.everybody_sees_only_what_is_theirs()
            self.connections_end_only_for_reasons_given_here()
            done = [actor for actor in left if actor.caught_up or actor not in self.actors]
            if not self.stage.pool.server_count:
                continue
            assert done, [(a.peer.conn.state_name, len(a.peer.inbox), len(a.expected)) for a in left]
            left = [actor for actor in left if actor not in done]
            if self.stage.pool.mode == engine.SESSION:
                for actor in done:
                    actor.peer.send(wire.terminate())


Phrase = Callable[[Plays, Actor, st.DataObject], None]
PHRASES: list[Phrase] = [
    Plays.simple,
    Plays.transaction,
    Plays.parameter,
    Plays.unnamed,
    Plays.named,
    Plays.named,
    Plays.sync,
    Plays.sync,
    Plays.copy_in,
    Plays.function_call,
    Plays.deallocate,
]
QUICK = settings(max_examples=60, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck))
LONG = settings(QUICK, max_examples=3000)


class TestPlays(Plays.TestCase):  # type: ignore[misc, valid-type]
    settings = QUICK


@pytest.mark.slow
class TestManyPlays(Plays.TestCase):  # type: ignore[misc, valid-type]
    settings = LONG
