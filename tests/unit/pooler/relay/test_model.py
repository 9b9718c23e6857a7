"""Random plays on the relay's stage: clients that send, stall, pipeline, fail, copy and vanish, servers that die, speak
unasked and stop in the middle of a word.

Each client has an oracle of its own, a private `Backend` fed with the client's own bytes: what the client reads has to
be a prefix of what the oracle says, whatever the others do and wherever the bytes are cut, and whatever messages it
sends, sensible or not. Every query carries a token, so an answer that reached the wrong client cannot go unnoticed.
After every step nobody may be left who would never be read again (pooler/relay/MACHINES.md, Reading).
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from pooler import wire
from pooler.relay import engine
from tests.unit.backend import PARAMETERS, Backend, plain
from tests.unit.pairs import Contexts
from tests.unit.stage import DEFAULTS, Peer, Stage, farewell
from tests.unit.tls_stage import TlsStage

NAMES = ("n0", "n1", "n2")
TEXTS = ("SHARED one", "SHARED two", "SHARED three", "COPY IN shared")
"""What clients prepare: few, so that servers share them and evict them."""
MODES = (engine.TRANSACTION, engine.SESSION, engine.STATEMENT)
ZONES = ("UTC", "Asia/Tokyo", "Europe/Berlin")
NOTIFICATION = b"A"

ALLOWED = {
    "server conn crashed?",
    "client unexpected eof",
    "client close request",
    "client disconnected with query in progress",
    "client disconnect while server was not ready",
    "client disconnect before everything was sent to the server",
    "transaction blocks not allowed in statement pooling mode",
    "obsolete connection",
    "close_needed",
}


@cache
def contexts() -> Contexts:
    return Contexts(Path(tempfile.mkdtemp()))


def heard(data: bytes) -> tuple[bytes, bytes]:
    """(the whole messages of what a client has read, the part of one behind them), without notifications."""
    at, kept = 0, bytearray()
    while len(data) - at >= 5:
        end = at + 1 + int.from_bytes(data[at + 1 : at + 5], "big")
        if end > len(data):
            break
        if data[at : at + 1] != NOTIFICATION:
            kept += data[at:end]
        at = end
    rest = data[at:]
    return plain(bytes(kept)), b"" if rest[:1] == NOTIFICATION else rest


class Actor:
    """A client, what it has still to send, and what it has to see."""

    def __init__(self, peer: Peer, zone: str) -> None:
        self.peer = peer
        self.oracle = Backend()
        self.oracle.parameters["TimeZone"] = zone
        self.late = bytearray()
        self.expected = bytearray()
        self.must_settle = False
        self.synced_in_copy = False
        self.queries = 0

    def say(self, message: bytes) -> None:
        """Send a message, after all that it has said before."""
        self.late += message
        self.synced_in_copy |= self.oracle.copying is not None and message == wire.sync()
        self.queries += message[:1] == b"Q"
        if not self.oracle.ended:
            self.expected += self.oracle.feed(message)

    @property
    def caught_up(self) -> bool:
        seen, rest = heard(bytes(self.peer.inbox))
        return not self.late and not self.peer.unsent and not rest and seen == bytes(self.expected)

    def look(self) -> None:
        if self.caught_up:
            self.must_settle = False


class Plays(RuleBasedStateMachine):
    """The steps of a play, and what has to hold after each."""

    stage: Stage
    over_tcp = False

    def __init__(self) -> None:
        super().__init__()
        self.actors: list[Actor] = []
        self.servers: list[Peer] = []
        self.tokens = itertools.count(1)

    @initialize(
        mode=st.sampled_from(MODES),
        prepared=st.integers(1, 3),
        turns=st.booleans(),
        ring=st.booleans(),
        direct=st.booleans(),
    )
    def open(self, mode: int, prepared: int, turns: bool, ring: bool, direct: bool) -> None:
        reset = b"DISCARD ALL" if mode == engine.SESSION else b""
        self.stage = Stage(
            mode,
            prepared,
            tcp=self.over_tcp,
            narrow=self.over_tcp,
            io_uring=ring,
            reset_query=reset,
            check_query=b"SELECT 7",
            round_robin=turns,
        )
        self.stage.relay.tls_direct = direct
        self.tls = TlsStage(self.stage, contexts())
        self.new_server(tls=False)
        self.new_client("UTC", tls=False)

    # ---- who comes and goes

    @precondition(lambda self: len(self.actors) < 5)
    @rule(zone=st.sampled_from(ZONES), tls=st.booleans())
    def new_client(self, zone: str, tls: bool) -> None:
        params = tuple(DEFAULTS[i] if name != "TimeZone" else zone.encode() for i, name in enumerate(PARAMETERS))
        peer = self.tls.client(params=params) if tls else self.stage.client(params)
        self.actors.append(Actor(peer, zone))

    @precondition(lambda self: len(self.servers) < 3)
    @rule(tls=st.booleans())
    def new_server(self, tls: bool) -> None:
        self.servers.append(self.tls.server(Backend()) if tls else self.stage.server(Backend()))

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
        words = ["SELECT", "SELECT", "ERROR", "NOTICE", "COPY OUT", "COPY IN", "COPY IN NONE", "BIG 300", "BIG 200000"]
        again = data.draw(st.booleans())
        sql = self.token(data.draw(st.sampled_from(words))) + (f";{self.token('SELECT')}" if again else "")
        actor.say(wire.query(sql))

    def long_result(self, actor: Actor, data: st.DataObject) -> None:
        actor.say(wire.query(self.token(data.draw(st.sampled_from(["BIG 300", "BIG 6000000"])))))

    def transaction(self, actor: Actor, data: st.DataObject) -> None:
        actor.say(wire.query(data.draw(st.sampled_from(["BEGIN", "COMMIT", "ROLLBACK"]))))

    def parameter(self, actor: Actor, data: st.DataObject) -> None:
        zone = data.draw(st.sampled_from([*ZONES, "nonsense"]))
        actor.say(wire.query(data.draw(st.sampled_from([f"SET TimeZone='{zone}'", "SHOW TimeZone"]))))

    def unnamed(self, actor: Actor, data: st.DataObject) -> None:
        actor.say(wire.parse("", self.token(data.draw(st.sampled_from(["SELECT", "ERROR", "BROKEN", "COPY IN NONE"])))))
        self.bound(actor, data, "")

    def bound(self, actor: Actor, data: st.DataObject, name: str) -> None:
        value = data.draw(st.sampled_from(["v", "bad", "long" * 20, self.token("v")]))
        actor.say(wire.bind("", name, [value]))
        if data.draw(st.booleans()):
            actor.say(wire.describe(b"P", ""))
        actor.say(wire.execute(""))

    def named(self, actor: Actor, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(NAMES))
        what = data.draw(st.sampled_from(["parse", "broken", "bind", "bind", "describe", "close", "unnamed"]))
        if what == "parse":
            actor.say(wire.parse(name, data.draw(st.sampled_from(TEXTS))))
        elif what == "broken":
            actor.say(wire.parse(name, self.token("BROKEN")))
        elif what == "unnamed":
            actor.say(data.draw(st.sampled_from([wire.describe(b"S", ""), wire.close(b"S", "")])))
        elif what == "describe":
            actor.say(wire.describe(b"S", name))
        elif what == "close":
            actor.say(wire.close(b"S", name))
        else:
            self.bound(actor, data, data.draw(st.sampled_from((*NAMES, ""))))

    def sync(self, actor: Actor, data: st.DataObject) -> None:
        actor.say(wire.sync())

    def flush(self, actor: Actor, data: st.DataObject) -> None:
        actor.say(wire.flush())

    def rows(self, actor: Actor, data: st.DataObject) -> None:
        """Of a COPY, if there is one."""
        for _ in range(data.draw(st.integers(0, 3))):
            row = data.draw(st.sampled_from([b"row", b"bad", b"x" * 3000, None, None]))
            actor.say(wire.message(b"d", row) if row else data.draw(st.sampled_from([wire.sync(), wire.flush()])))

    def copy_end(self, actor: Actor, data: st.DataObject) -> None:
        actor.say(data.draw(st.sampled_from([wire.message(b"c"), wire.message(b"f", b"no\0")])))

    def copy_in(self, actor: Actor, data: st.DataObject) -> None:
        """As it is done, by every protocol."""
        ahead = data.draw(st.sampled_from(["simple", "sync", "flush"]))
        sql = self.token(data.draw(st.sampled_from(["COPY IN", "COPY IN", "COPY IN NONE"])))
        if ahead == "simple":
            actor.say(wire.query(sql))
        else:
            for message in (wire.parse("", sql), wire.bind("", "", []), wire.execute("")):
                actor.say(message)
            actor.say(wire.sync() if ahead == "sync" else wire.flush())
        self.rows(actor, data)
        self.copy_end(actor, data)
        if ahead != "simple":
            actor.say(wire.sync())

    def function_call(self, actor: Actor, data: st.DataObject) -> None:
        actor.say(wire.message(b"F", b"\0\0\0\1\0\0\0\0\0\0"))

    def deallocate(self, actor: Actor, data: st.DataObject) -> None:
        """Alone, and waited for: what is prepared behind it before it is answered is not for sure."""
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

    # ---- what servers and the pool do

    @precondition(lambda self: self.servers)
    @rule(data=st.data(), size=st.sampled_from([1, 100, 8000, 70000]), share=st.floats(0, 1))
    def a_server_speaks_unasked_and_stops(self, data: st.DataObject, size: int, share: float) -> None:
        server = data.draw(st.sampled_from(self.servers))
        message = wire.message(NOTIFICATION, b"\0\0\0\1channel\0" + b"x" * size + b"\0")
        if not server.half:
            server.begin(message, max(1, int(share * len(message))))

    @precondition(lambda self: any(server.half for server in self.servers))
    @rule(data=st.data())
    def a_server_speaks_on(self, data: st.DataObject) -> None:
        data.draw(st.sampled_from([server for server in self.servers if server.half])).finish()

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
    def python_has_a_question(self) -> None:
        self.stage.pool.ask(b"SELECT 8")

    @rule()
    def servers_age(self) -> None:
        self.stage.pool.age_idle()

    @rule()
    def a_new_process_takes_over(self) -> None:
        """TLS cannot be handed over, nor a server that is being cancelled."""
        if any(peer.conn.has_tls for peer in self.stage.peers if not peer.conn.is_lost):
            return
        if not any(isinstance(server.conn, engine.Server) and server.conn.cancels for server in self.servers):
            self.stage.restart()
            self.tls = TlsStage(self.stage, contexts())

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
        self.nothing_lies_unread()

    # ---- what must hold

    @invariant()
    def everybody_sees_only_what_is_theirs(self) -> None:
        for actor in self.actors:
            seen, rest = heard(bytes(actor.peer.inbox))
            due = bytes(actor.expected)
            bye = next((f for r in ALLOWED if seen.endswith(f := farewell(r))), b"")
            seen = seen[: len(seen) - len(bye)]
            assert due.startswith(seen), (seen[-300:], due[-300:])
            # An error may have a DETAIL of ours that is not here yet: only its first bytes are compared then.
            rest = rest[:5] if rest[:1] == b"E" else rest
            following = due[len(seen) :]
            assert bye or rest[:1] == b"E" or following.startswith(rest), (rest[:300], following[:300])

    @invariant()
    def connections_end_only_for_reasons_given_here(self) -> None:
        assert set(self.stage.reasons) <= ALLOWED
        gone = {id(conn) for conn, _, _ in self.stage.lost}
        self.actors = [actor for actor in self.actors if id(actor.peer.conn) not in gone]
        self.servers = [server for server in self.servers if id(server.conn) not in gone]

    @invariant()
    def everybody_is_in_somebodys_hand(self) -> None:
        for peer in self.stage.peers:
            assert not peer.conn.unattended, (type(peer.conn).__name__, peer.conn.unattended)

    def nothing_lies_unread(self) -> None:
        """The kernel says so, of all who may read."""
        for peer in self.stage.peers:
            if not peer.conn.is_lost and not peer.conn.is_deaf:
                assert peer.conn.unread == 0

    @invariant()
    def nobody_waits_for_what_is_free_and_what_is_free_is_clean(self) -> None:
        pool = self.stage.pool
        idle = [server for server in pool.idle_servers.all() if not server.pending[0] and not server.pending[1]]
        assert pool.paused or not (pool.waiting_clients.count and idle)
        for server in self.stage.peers:
            if server.backend is not None and server.conn.state_name == "idle" and not server.conn.is_lost:
                # The end of what is of no use any more (CopyData behind an error) may be on its way; nothing else may.
                ran = len(server.backend.log)
                server.pull()
                assert len(server.backend.log) == ran
                assert server.backend.at_rest or not server.reading
                assert not server.unsent or server.spoke_unasked
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
            server.finish()
            while server.conn.cancels:
                server.conn.cancel_ends()
        for peer in self.stage.peers:
            peer.reading = True
        self.settle()
        self.connections_end_only_for_reasons_given_here()
        self.finish_all()
        for actor in self.actors:
            assert heard(bytes(actor.peer.inbox)) == (bytes(actor.expected), b"")
        pool = self.stage.pool
        assert pool.waiting_clients.count == 0
        if pool.mode != engine.SESSION:
            self.who_is_not_told_apart_goes_on()
            assert pool.active_servers.count == 0

    def who_is_not_told_apart_goes_on(self) -> None:
        """A Sync in the middle of a COPY that fails may or may not be answered. Where that is still open when all has
        been, since as many queries were skipped by one guess as were answered by the other, the server stays with its
        client until one more is answered than were skipped."""
        for actor in self.actors:
            for _ in range(actor.queries if actor.synced_in_copy else 0):
                if actor.peer.conn.state_name == "active":
                    actor.say(wire.query(self.token("SELECT")))
                    actor.peer.send(bytes(actor.late))
                    actor.late.clear()
                    self.stage.settle()

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
            self.nothing_lies_unread()
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
    Plays.simple,
    Plays.transaction,
    Plays.parameter,
    Plays.unnamed,
    Plays.named,
    Plays.named,
    Plays.named,
    Plays.sync,
    Plays.sync,
    Plays.flush,
    Plays.copy_in,
    Plays.copy_in,
    Plays.rows,
    Plays.copy_end,
    Plays.function_call,
    Plays.deallocate,
]
QUICK = settings(max_examples=60, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck))


class LongResults(Plays):
    """Over TCP, and with results that are read in every read_mode."""

    over_tcp = True

    @rule(data=st.data())
    def a_long_result(self, data: st.DataObject) -> None:
        actor = self.actor(data)
        if actor is not None:
            self.long_result(actor, data)
            self.deliver(actor, data)


class TestPlays(Plays.TestCase):  # type: ignore[misc, valid-type]
    settings = QUICK


class TestLongResults(LongResults.TestCase):  # type: ignore[misc, valid-type]
    settings = settings(QUICK, max_examples=8)


# In parts, each far below the time after which a test is taken for one that hangs.
@pytest.mark.slow
@pytest.mark.parametrize("part", range(10))
def test_many_plays(part: int) -> None:
    run_state_machine_as_test(Plays, settings=settings(QUICK, max_examples=300))


@pytest.mark.slow
@pytest.mark.parametrize("part", range(5))
def test_many_long_results(part: int) -> None:
    run_state_machine_as_test(LongResults, settings=settings(QUICK, max_examples=60))
