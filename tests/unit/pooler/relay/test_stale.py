"""Batches that are run again, since a statement in them has become stale: however the answer comes, and whatever
happens in the middle, a client is told once, and all of it.
"""

from __future__ import annotations

import pytest

from pooler import wire
from tests.unit.backend import Backend, Failure
from tests.unit.pooler.relay.test_prepared import answer, kinds, prepare
from tests.unit.stage import Peer, Stage, linked, stage

TEXT = "SHARED text"
RUN = wire.bind("", "a", ["v"]) + wire.describe(b"P", "") + wire.execute("")
CHANGED = "cached plan must not change result type"


class Changing(Backend):
    """Statements of whose names `stale` has some are of other types now. What it says is `kept` back from there on."""

    def __init__(self) -> None:
        super().__init__()
        self.stale: set[str] = set()

    def known(self, names: dict[str, str], name: str) -> str:
        if names is self.statements and name in self.stale:
            raise Failure("0A000", CHANGED)
        return super().known(names, name)

    def failed(self, error: Failure) -> bytes:
        if error.args[0] != "0A000":
            return super().failed(error)
        said = super().failed(error)[5:-1] + b"RRevalidateCachedQuery\0\0"
        return wire.message(b"E", said)


def staled(s: Stage) -> tuple[Peer, Peer, Changing]:
    """A server with a statement that is stale, and its client, who has used it."""
    backend = Changing()
    server, client = s.server(backend), s.client()
    assert kinds(answer(s, client, prepare("a", TEXT) + RUN + wire.sync())) == "1Z2TDCZ"
    backend.stale |= set(backend.statements)
    return server, client, backend


@pytest.mark.parametrize("end", [wire.sync(), wire.flush()])
def test_it_is_run_again_with_a_statement_of_its_own(end: bytes) -> None:
    with stage() as s:
        _, client, backend = staled(s)
        ran = len(backend.log)
        assert kinds(answer(s, client, RUN + end)) == "2TDC" + "Z" * (end == wire.sync())
        assert len(backend.log) == ran + 1
        assert kinds(answer(s, client, RUN + wire.sync())) == "2TDCZ"
        assert s.states == "1a 0w / 0a 1i 0u 0t 0c"


BATCHES = (RUN + wire.sync(), wire.parse("b", "SHARED") + RUN + wire.sync(), RUN + wire.flush())


@pytest.mark.parametrize("batch", BATCHES)
def test_it_does_not_matter_in_which_pieces_the_answer_comes(batch: bytes) -> None:
    with stage() as s:
        server, client, backend = staled(s)
        server.backend = None
        server.take()
        client.send(batch)
        s.settle()
        said = backend.feed(server.take())
        assert kinds(said) in ("EZ", "1tTEZ", "E")
        for at in range(len(said)):
            server.send(said[at : at + 1])
            s.settle()
        for _ in range(3):
            server.send(backend.feed(server.take()))
            s.settle()
        wanted = "1" * batch.startswith(b"P") + "2TDC" + "Z" * batch.endswith(wire.sync())
        assert kinds(client.take()) == wanted


@pytest.mark.parametrize("batch", [RUN + wire.sync(), RUN + wire.flush()])
@pytest.mark.parametrize("cut", [0, 1, 6, -1])
def test_who_leaves_in_the_middle_leaves_nothing_behind(batch: bytes, cut: int) -> None:
    with stage() as s:
        server, client, backend = staled(s)
        server.backend = None
        server.take()
        client.send(batch)
        s.settle()
        server.send(backend.feed(server.take())[: cut or None])
        s.settle()
        client.close()
        s.settle()
        assert not [conn for conn, _, _ in s.lost if conn is not client.conn and conn is not server.conn]
        other, fresh = s.client(), s.server(Backend())
        assert kinds(answer(s, other, wire.query("SELECT 1"))) == "TDCZ"
        assert linked(other) is None
        assert not fresh.conn.pending[0]


def asked(s: Stage) -> tuple[Peer, Peer, Backend]:
    """The client has run its stale statement; what its server has heard of it is for the test to answer."""
    server, client, backend = staled(s)
    server.backend = None
    server.take()
    client.send(RUN + wire.sync())
    s.settle()
    return server, client, backend


@pytest.mark.parametrize("cut", [1, 20, -6, -1, 0])
def test_a_process_that_takes_over_in_the_middle_tells_it_or_runs_it_again(cut: int) -> None:
    with stage() as s:
        server, client, backend = asked(s)
        said = backend.feed(server.take())
        server.send(said[: cut or None])
        s.settle()
        s.restart()
        server.send(said[cut or len(said) :])
        for _ in range(3):
            s.settle()
            server.send(backend.feed(server.take()))
        s.settle()
        assert kinds(client.take()) in ("2TDCZ", "EZ")


def test_what_was_sent_behind_its_sync_is_carried_out_once() -> None:
    with stage() as s:
        _, client, backend = staled(s)
        ran = len(backend.log)
        assert kinds(answer(s, client, RUN + wire.sync() + wire.query("SELECT 2"))) == "EZTDCZ"
        assert backend.log[ran:] == ["SELECT 2"]


def test_what_comes_behind_it_meanwhile_comes_behind_it() -> None:
    with stage() as s:
        server, client, backend = asked(s)
        server.send(backend.feed(server.take()))
        client.send(wire.query("SELECT 2"))
        for _ in range(4):
            s.settle()
            server.send(backend.feed(server.take()))
        s.settle()
        assert kinds(client.take()) in ("2TDCZTDCZ", "EZTDCZ")


def test_it_is_run_again_once() -> None:
    """Where it is stale again, by whatever, its client is told."""
    with stage() as s:
        _, client, backend = staled(s)
        backend.stale = {f"PGBOUNCER_{number}" for number in range(1, 50)}
        assert kinds(answer(s, client, RUN + wire.sync())) == "EZ"
        assert backend.status == "I"


@pytest.mark.parametrize("error", ["0A000", "42883"])
def test_another_error_is_told(error: str) -> None:
    with stage() as s:
        server, client, backend = staled(s)
        server.backend = None
        client.send(RUN + wire.sync())
        s.settle()
        server.send(wire.error_response("ERROR", error, "no") + wire.ready_for_query())
        s.settle()
        assert kinds(client.take()) == "EZ"
        assert backend.stale
