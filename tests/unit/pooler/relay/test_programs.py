"""Random programs of the protocol by the ten thousand: one or two clients at one or two servers, all in one process.

What `test_model` plays with everything else that can happen, and `tests/system/test_differential.py` with PostgreSQL
itself, is played here with nothing but messages, so often that what goes wrong once in many thousand programs is met:
COPYs that fail with Syncs in their data, statements that are skipped, make room for one another, come back, and servers
that answer late. Each client has an oracle of its own, a `Backend` fed with the client's bytes.

The rule: what a client sees is what its oracle says, message by message, and in the end no server is anybody's, and the
relay's books of the statements that servers and clients have are those of the backends and the oracles. What may differ
is a `Difference`: it is counted, and may not come oftener than `MOST` says. All about a run follows from its seed.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator
from enum import Enum
from fractions import Fraction

import pytest

from pooler import wire
from pooler.relay import engine
from pooler.relay.records import StatementTable
from tests.fixtures.programs import shown
from tests.unit.backend import Backend, plain
from tests.unit.stage import Peer, Stage, farewell

NAMES = ("n0", "n1", "n2")
TEXTS = ("SHARED one", "SHARED two", "COPY IN shared", "SELECT shared", "COMMIT")
"""What clients prepare under these names: few, so that servers share them and evict them."""
BEGIN = "BEGIN"
PREPARED = (1, 1, 2, 3, 200)


class Difference(Enum):
    """In what a client may see something else than on a connection of its own."""

    UNTOLD = "it cannot be told which statements there are"
    """Its connection ends so: it has sent, ahead of the answers, what follows a COPY that failed with a Sync in its
    data, and means a statement that is there or not by how many of the Syncs the COPY has read (see MACHINES.md)."""

    AHEAD = "25P02"
    """In a failed transaction: the error is that of a Parse that the relay has sent ahead, and not the one that the
    client's own message would have met with."""

    UNDECIDED = "several guesses"
    """It keeps its server, though it has everything: there are several guesses at what that server does, and no
    question can tell them apart."""

    UNPLACED = "bad packet"
    """Its connection ends so: by one guess an answer is the client's, by another it is that to a message of ours."""

    KEPT = "kept by one guess"
    """A client keeps a name that a DISCARD ALL has taken away, as by one guess its Parse is behind that."""


MOST = {
    Difference.UNTOLD: Fraction(10, 1000),
    Difference.AHEAD: Fraction(3, 1000),
    Difference.UNDECIDED: Fraction(3, 1000),
    Difference.UNPLACED: Fraction(1, 5000),
    Difference.KEPT: Fraction(1, 5000),
}
"""Of all programs; these are as spiteful as they can be."""

ENDS = (Difference.UNTOLD.value, Difference.UNPLACED.value)
CRASHED = "server conn crashed?"


class Actor:
    """A client, what it has still to send, and what it has to see."""

    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        self.oracle = Backend()
        self.late = bytearray()
        self.expected = bytearray()
        self.said: list[bytes] = []
        self.names: tuple[str, ...] = NAMES
        """Statements that it uses. What a DISCARD ALL takes away is not used before that is answered: the relay may
        have prepared it anew by then, not having heard that it is gone."""

    def say(self, *messages: bytes) -> None:
        for message in messages:
            self.said.append(message)
            self.late += message
            self.expected += self.oracle.feed(message)

    def look(self) -> None:
        if self.names != NAMES and not self.late and plain(bytes(self.peer.inbox)) == self.expected:
            self.names = NAMES

    def send(self, size: int) -> None:
        self.peer.send(bytes(self.late[:size]))
        del self.late[:size]


class Program:
    """One run: see the module."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        choose = self.random.choice
        self.prepared = choose(PREPARED)
        self.mode = choose((engine.TRANSACTION, engine.TRANSACTION, engine.STATEMENT))
        self.stage = Stage(self.mode, self.prepared, io_uring=False, check_query=b"SELECT 7", reset_query=b"")
        self.servers = [self.stage.server(Backend()) for _ in range(choose((1, 1, 2)))]
        self.actors = [Actor(self.stage.client()) for _ in range(choose((1, 2)))]
        self.tokens = 0
        self.has_discarded = False
        self.differences: Counter[Difference] = Counter()

    def run(self) -> None:
        for _ in range(self.random.randint(3, 12)):
            actor = self.random.choice(self.actors)
            actor.look()
            for _ in range(self.random.randint(1, 6)):
                self.random.choice(PHRASES)(self, actor)
            actor.send(len(actor.late) if self.random.random() < 0.6 else self.random.randrange(len(actor.late) + 1))
            for server in self.servers:
                self.answer_late(server)
            if self.random.random() < 0.6:
                self.stage.settle()
            else:
                self.stage.turn()
        self.end()

    def answer_late(self, server: Peer) -> None:
        server.reading = True
        if self.random.random() < 0.3:
            server.pull(self.random.randint(1, 60))
        server.reading = self.random.random() < 0.5

    # ---- what clients say

    def token(self, word: str) -> str:
        self.tokens += 1
        return f"{word} t{self.tokens}"

    def control(self) -> str:
        """In statement mode a transaction block ends the connection: nobody opens one."""
        words = ("COMMIT", "ROLLBACK") if self.mode == engine.STATEMENT else (BEGIN, "COMMIT", "ROLLBACK")
        return self.random.choice(words)

    def simple(self, actor: Actor) -> None:
        sql = self.token(self.random.choice(("SELECT", "ERROR", "COPY IN", "COPY IN NONE", "COPY OUT")))
        actor.say(wire.query(sql + (f";{self.token('SELECT')}" if self.random.random() < 0.3 else "")))

    def transaction(self, actor: Actor) -> None:
        actor.say(wire.query(self.control()))

    def sync(self, actor: Actor) -> None:
        actor.say(wire.sync())

    def execute(self, actor: Actor) -> None:
        actor.say(wire.execute(""))

    def unnamed(self, actor: Actor) -> None:
        words = ("SELECT", "ERROR", "BROKEN", "COPY IN", "COPY IN NONE")
        actor.say(wire.parse("", self.token(self.random.choice(words))))
        if self.random.random() < 0.6:
            self.bound(actor, "")

    def unnamed_again(self, actor: Actor) -> None:
        """Whatever there is by now."""
        self.bound(actor, "")

    def unnamed_ends(self, actor: Actor) -> None:
        actor.say(wire.close(b"S", ""))

    def parse(self, actor: Actor) -> None:
        texts = TEXTS if self.mode == engine.STATEMENT else (*TEXTS, BEGIN)
        name = self.random.choice(NAMES)
        actor.names = tuple(sorted({*actor.names, name}))
        actor.say(wire.parse(name, self.random.choice(texts)))

    def discard(self, actor: Actor) -> None:
        actor.names, self.has_discarded = (), True
        sql = self.random.choice(("DISCARD ALL", "DEALLOCATE ALL", f"DEALLOCATE ALL;{self.token('ERROR')}"))
        if ";" in sql or self.random.random() < 0.5:
            actor.say(wire.query(sql))
        else:
            # By a portal that nothing else executes: that would take away what is used again already.
            actor.say(wire.parse("", sql), wire.bind("discarding", "", []), wire.execute("discarding"))

    def named(self, actor: Actor) -> None:
        name = self.random.choice(actor.names or ("none",))
        what = self.random.choice(("bind", "bind", "describe", "close", "broken"))
        if what == "broken":
            actor.say(wire.parse(self.random.choice(NAMES), self.token("BROKEN")))
        elif what == "describe":
            actor.say(wire.describe(b"S", name))
        elif what == "close":
            actor.say(wire.close(b"S", name))
        else:
            self.bound(actor, name)

    def bound(self, actor: Actor, name: str) -> None:
        actor.say(wire.bind("", name, [self.random.choice(("v", "v", "bad"))]))
        if self.random.random() < 0.5:
            actor.say(wire.describe(b"P", ""))
        actor.say(wire.execute(""))

    def rows(self, actor: Actor) -> None:
        """Of a COPY, if there is one; Syncs and Flushes among them."""
        rows = (wire.message(b"d", b"row"), wire.message(b"d", b"bad"), wire.sync(), wire.flush())
        for _ in range(self.random.randint(0, 3)):
            actor.say(self.random.choice(rows))

    def copy_end(self, actor: Actor) -> None:
        actor.say(self.random.choice((wire.message(b"c"), wire.message(b"f", b"no\0"))))

    def copy_in(self, actor: Actor) -> None:
        """As it is done, by every protocol."""
        ahead, sql = self.random.choice(("simple", "sync", "flush")), self.token("COPY IN")
        if ahead == "simple":
            actor.say(wire.query(sql))
        else:
            actor.say(wire.parse("", sql), wire.bind("", "", []), wire.execute(""))
            actor.say(wire.sync() if ahead == "sync" else wire.flush())
        self.rows(actor)
        self.copy_end(actor)
        if ahead != "simple":
            actor.say(wire.sync())

    # ---- the end

    def end(self) -> None:
        """All is said and answered; whoever still waits then gets a server."""
        for actor in self.actors:
            actor.say(wire.message(b"f", b"the end\0"), wire.sync(), wire.query("ROLLBACK"))
            actor.send(len(actor.late))
            assert actor.oracle.ended or actor.oracle.at_rest
        for server in self.servers:
            server.reading = True
        self.stage.settle()
        self.leave_no_server_undecided()
        for actor in self.actors:
            self.compare(actor)
        for _, reason, _ in self.stage.lost:
            assert self.explains(reason), self.stage.lost
        pool = self.stage.pool
        assert (pool.active_servers.count, pool.waiting_clients.count) == (0, 0), self.stage.states
        self.compare_books()

    def leave_no_server_undecided(self) -> None:
        """A client that has all, and a server with several guesses: it leaves, and another server comes."""
        pool = self.stage.pool
        while True:
            kept = [server for server in pool.active_servers.all() if guesses(server) > 1]
            if not kept and pool.server_count:
                return
            for server in kept:
                self.differences[Difference.UNDECIDED] += 1
                actor = next(actor for actor in self.actors if actor.peer.conn is server.linked)
                assert all_of(actor.peer.inbox) == all_of(actor.expected)
                actor.peer.close()
            self.servers.append(self.stage.server(Backend()))
            self.stage.settle()
            assert not [server for server in kept if not server.is_lost]

    def explains(self, reason: str) -> bool:
        """Whether a connection may have ended so, after what has happened."""
        by_us = any(difference.value in ENDS for difference in self.differences)
        if reason in ENDS:
            return by_us
        if reason == CRASHED:
            return any(actor.oracle.ended for actor in self.actors)
        return reason in LEFT and (by_us or Difference.UNDECIDED in self.differences)

    def compare(self, actor: Actor) -> None:
        """What the client has seen, with what it has to see."""
        seen, due = all_of(actor.peer.inbox), all_of(actor.expected)
        ended = [(reason, tell) for conn, reason, tell in self.stage.lost if conn is actor.peer.conn and reason in ENDS]
        for reason, tell in ended:
            self.differences[Difference(reason)] += 1
            assert not tell or seen.pop() == farewell(reason)
            due = due[: len(seen)]
        for place, (one, other) in enumerate(zip(seen, due, strict=False)):
            if one != other and one[:1] == other[:1] == b"E" and b"\0C25P02\0" in one:
                self.differences[Difference.AHEAD] += 1
            elif one != other:
                raise AssertionError(f"answer {place}: {seen[place : place + 3]} instead of {due[place : place + 3]}")
        assert len(seen) == len(due), f"{seen[-3:]}; to come: {due[len(seen) :][:3]}; too much: {seen[len(due) :][:3]}"

    def compare_books(self) -> None:
        """Which statements servers and clients have, by the relay's books and in truth. An `unsure` server was heard
        to miss one that a DISCARD ALL had taken: its books begin anew, and each Parse goes there behind a Close."""
        for peer in self.stage.peers:
            if peer.conn.is_lost or peer.backend is None:
                continue
            if engine.record(peer.conn, {})["unsure"]:
                assert self.has_discarded
            else:
                found, due = books(peer.conn), {n: sql for n, sql in peer.backend.statements.items() if n}
                assert found == due, f"a server has {due}, by the books {found}"
        for actor in self.actors:
            if not actor.peer.conn.is_lost:
                found, due = books(actor.peer.conn), {n: sql for n, sql in actor.oracle.statements.items() if n}
                kept = self.has_discarded and found.keys() > due.keys()
                assert found == due or kept, f"a client has {due}, by the books {found}"
                self.differences[Difference.KEPT] += kept

    def __str__(self) -> str:
        head = f"mode {self.mode}, max_prepared {self.prepared}, {len(self.servers)} servers; lost: {self.stage.lost}"
        return "\n".join([head, *(f"client {place}:\n{shown(actor.said)}" for place, actor in enumerate(self.actors))])


Phrase = Callable[[Program, Actor], None]
PHRASES: tuple[Phrase, ...] = (
    Program.simple,
    Program.simple,
    Program.transaction,
    Program.parse,
    Program.parse,
    Program.named,
    Program.named,
    Program.named,
    Program.sync,
    Program.sync,
    Program.unnamed,
    Program.unnamed,
    Program.unnamed_again,
    Program.unnamed_ends,
    Program.copy_in,
    Program.copy_in,
    Program.discard,
    Program.rows,
    Program.copy_end,
    Program.execute,
)

LEFT = {
    "client unexpected eof",
    "client disconnected with query in progress",
    "client disconnect while server was not ready",
    "client disconnect before everything was sent to the server",
}
"""How a server, or a client, ends when the client goes."""


def all_of(data: bytes | bytearray) -> list[bytes]:
    """Its messages, as the server has given them."""
    return list(messages(plain(bytes(data))))


def messages(data: bytes) -> Iterator[bytes]:
    at = 0
    while at < len(data):
        end = at + 1 + int.from_bytes(data[at + 1 : at + 5], "big")
        yield data[at:end]
        at = end


def guesses(server: engine.Server) -> int:
    return len(engine.record(server, {})["ledger"]["guesses"])


def books(conn: engine.Conn) -> dict[str, str]:
    """By the relay, {name: text} of the statements that a client has, or a server."""
    table: StatementTable = {}
    noted = engine.record(conn, table)["statements"]
    texts = {number: body.split(b"\0")[0].decode() for number, (body, *_) in table.items()}
    if isinstance(conn, engine.Client):
        return {name.decode(): texts[number] for name, number in noted}
    return {f"PGBOUNCER_{number}": texts[number] for number in noted}


def play(first: int, count: int) -> Counter[Difference]:
    """As many seeds from `first` on, and how they differed."""
    differences: Counter[Difference] = Counter()
    for seed in range(first, first + count):
        program = Program(seed)
        try:
            program.run()
        except Exception as error:
            error.add_note(f"seed {seed}, {program}")
            raise
        finally:
            program.stage.close()
        differences += program.differences
    for difference, most in MOST.items():
        assert differences[difference] <= 2 + int(most * count), differences
    return differences


def test_programs_are_answered_as_by_a_server_of_ones_own() -> None:
    play(0, 3000)


@pytest.mark.slow
@pytest.mark.parametrize("first", range(10_000, 50_000, 10_000))
def test_forty_thousand_programs(first: int) -> None:
    """Each of the differences is met there: what never comes needs no permission."""
    differences = play(first, 10_000)
    assert {Difference.UNTOLD, Difference.AHEAD, Difference.UNDECIDED} <= set(differences)
