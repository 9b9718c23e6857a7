"""Bytes through the relay: every message both ways, whole, byte by byte, with trailing bytes, and cut anywhere.

The rule under test: how a stream is cut into reads changes nothing, neither what arrives nor what is counted.
"""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pooler import wire
from pooler.relay import engine
from tests.unit.backend import Backend, plain
from tests.unit.stage import Peer, Stage, linked, stage

READY = wire.ready_for_query()
DONE = wire.command_complete("SELECT 0") + READY
ASK = wire.query("SELECT 1")

FRONTEND = {
    "Query": ASK,
    "FunctionCall": wire.message(b"F", b"\0\0\0\1\0\0\0\0\0\0"),
    "Parse": wire.parse("", "SELECT 1", [25, 16]),
    "Bind": wire.bind("portal", "", ["a", None, "b" * 300]),
    "Describe statement": wire.describe(b"S", ""),
    "Describe portal": wire.describe(b"P", "portal"),
    "Execute": wire.execute("portal", 10),
    "Close statement": wire.close(b"S", ""),
    "Close portal": wire.close(b"P", "portal"),
    "Sync": wire.sync(),
}
"""Messages a client may begin with; they are forwarded as they are."""
AHEAD = dict.fromkeys(("Bind", "Describe statement"), wire.close(b"S", ""))
"""Goes ahead of them: who has no unnamed statement is not to find another's."""
LINKED = {"Flush": wire.flush(), "CopyData": wire.message(b"d", b"row" * 9), "CopyFail": wire.message(b"f", b"why\0")}
"""Those that only mean something once there is a server."""

BIND, EXECUTE = wire.bind("", "", []), wire.execute("")
DESCRIBE, CLOSE = wire.describe(b"S", ""), wire.close(b"P", "")

ASKED = {
    "BindComplete": BIND,
    "CloseComplete": CLOSE,
    "NoData": DESCRIBE,
    "ParameterDescription": DESCRIBE,
    "ParseComplete": wire.parse("", "SELECT 1"),
    "PortalSuspended": EXECUTE,
    "FunctionCallResponse": wire.message(b"F", b"\0\0\0\1\0\0\0\0\0\0"),
    "ReadyForQuery T": wire.sync(),
    "ReadyForQuery E": wire.sync(),
}
"""What a server is asked that answers so; the others come in a Query."""
EATEN = dict.fromkeys(("BindComplete", "NoData", "ParameterDescription"), wire.close_complete())
"""What it answers first, to the Close that goes ahead of a statement without a name that nobody has parsed."""

BACKEND = {
    "BindComplete": wire.bind_complete(),
    "CloseComplete": wire.close_complete(),
    "CommandComplete": wire.command_complete("SELECT 1"),
    "CommandComplete as long as DISCARD ALL": wire.command_complete("SELECT 1234"),
    "CommandComplete as long as DEALLOCATE ALL": wire.command_complete("SELECT 1234567"),
    "CopyData": wire.message(b"d", b"row" * 100),
    "CopyDone": wire.message(b"c"),
    "CopyOutResponse": wire.message(b"H", b"\0\0\1\0\0"),
    "CopyInResponse": wire.message(b"G", b"\0\0\1\0\0"),
    "CopyBothResponse": wire.message(b"W", b"\0\0\1\0\0"),
    "DataRow": wire.data_row(["a", None, "b" * 1000]),
    "empty DataRow": wire.data_row([]),
    "EmptyQueryResponse": wire.empty_query_response(),
    "ErrorResponse": wire.error_response("ERROR", "42601", "syntax error"),
    "FunctionCallResponse": wire.message(b"V", b"\xff\xff\xff\xff"),
    "NoData": wire.no_data(),
    "NoticeResponse": wire.notice_response("NOTICE", "00000", "hello"),
    "NotificationResponse": wire.message(b"A", b"\0\0\0\1channel\0payload\0"),
    "ParameterDescription": wire.parameter_description([25]),
    "ParameterStatus": wire.parameter_status("server_version", "15.0"),
    "tracked ParameterStatus": wire.parameter_status("TimeZone", "Europe/Berlin"),
    "ParseComplete": wire.parse_complete(),
    "PortalSuspended": wire.portal_suspended(),
    "RowDescription": wire.row_description([("a", 25), ("b", 16)]),
    "ReadyForQuery T": wire.ready_for_query(b"T"),
    "ReadyForQuery E": wire.ready_for_query(b"E"),
}


def in_pieces(s: Stage, peer: Peer, data: bytes, cuts: list[int]) -> None:
    """Send so that the relay reads exactly these pieces."""
    places = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    for start, end in itertools.pairwise(places):
        peer.send(data[start:end])
        s.settle()


@pytest.mark.parametrize("piece", [1000, 1, 3, 5, 6])
@pytest.mark.parametrize("name", FRONTEND)
def test_frontend_messages_arrive_as_they_were_sent(name: str, piece: int) -> None:
    data = FRONTEND[name]
    with stage() as s:
        server, client = s.server(), s.client()
        in_pieces(s, client, data, list(range(0, len(data), piece)))
        assert server.take() == AHEAD.get(name, b"") + data
        assert s.pool.counted()[2:4] == (1, len(data))


@pytest.mark.parametrize("piece", [1000, 1, 3, 5, 6])
@pytest.mark.parametrize("name", LINKED)
def test_frontend_messages_of_a_linked_client_arrive_too(name: str, piece: int) -> None:
    data = LINKED[name]
    with stage() as s:
        server, client = s.server(), s.client()
        client.send(wire.query("COPY t FROM STDIN"))
        s.settle()
        server.send(wire.message(b"G", b"\0\0\0"))
        s.settle()
        server.take()
        in_pieces(s, client, data, list(range(0, len(data), piece)))
        assert server.take() == data


@pytest.mark.parametrize("name", [*LINKED, "CopyDone"])
def test_without_a_server_messages_of_a_copy_that_is_over_are_dropped(name: str) -> None:
    data = LINKED.get(name, wire.message(b"c"))
    with stage() as s:
        client = s.client()
        in_pieces(s, client, data * 2, list(range(len(data) * 2)))
        assert s.states == "1a 0w / 0a 0i 0u 0t 0c"
        server = s.server()
        in_pieces(s, client, data + ASK, list(range(len(data) + 3)))
        assert server.take() == ASK
        assert s.pool.counted()[2:4] == (1, len(ASK))


@pytest.mark.parametrize("piece", [5000, 1, 3, 5, 6])
@pytest.mark.parametrize("name", BACKEND)
def test_backend_messages_arrive_as_they_were_sent(name: str, piece: int) -> None:
    data = BACKEND[name]
    with stage() as s:
        server, client = s.server(), s.client()
        client.send(ASKED.get(name, ASK))
        s.settle()
        server.send(EATEN.get(name, b""))
        s.settle()
        in_pieces(s, server, data, list(range(0, len(data), piece)))
        assert client.take() == data
        assert linked(client) is server.conn
        assert s.pool.counted()[4] == len(data)


@pytest.mark.parametrize("name", [name for name in BACKEND if name not in ("ParameterDescription", "CopyInResponse")])
def test_backend_messages_with_bytes_behind_them(name: str) -> None:
    """The part of a next message comes as soon as it is not needed whole, and is never lost or doubled."""
    data = BACKEND[name]
    # What may come behind it: the answer to a Sync in the extended protocol, the rest of a Query's in the simple one.
    rest = (wire.command_complete("SELECT 1234"), wire.data_row(["x" * 50]))
    for behind in (READY,) if name in ASKED else (*rest, READY) if "Parameter" not in name else rest:
        for cut in range(len(behind)):
            with stage() as s:
                server, client = s.server(), s.client()
                client.send(ASKED[name] + wire.sync() if name in ASKED else ASK)
                s.settle()
                server.send(wire.command_complete("SET") if name not in ASKED else EATEN.get(name, b""))
                s.settle()
                client.take()
                server.send(data + behind[:cut])
                s.settle()
                assert (data + behind).startswith(client.inbox)
                assert len(client.inbox) >= len(data)
                server.send(behind[cut:])
                s.settle()
                assert client.take() == data + behind


@pytest.mark.parametrize("status", [b"I", b"T"])
def test_many_answers_in_one_write(status: bytes) -> None:
    said = (data for name, data in BACKEND.items() if name not in (*ASKED, "CopyInResponse"))
    answer = b"".join(said) + wire.ready_for_query(status)
    with stage() as s:
        server, client = s.server(), s.client()
        client.send(ASK * 200)
        s.settle()
        server.send(answer * 200)
        s.settle()
        assert client.take() == answer * 200
        assert (linked(client) is None) == (status == b"I")


@pytest.mark.parametrize("length", [0, 1, 65530, 65531, 65532, 65536, 65537, 131072, 1_000_000])
def test_long_messages_both_ways(length: int) -> None:
    row, sql = wire.data_row(["x" * length]), wire.query("q" * length)
    with stage() as s:
        server, client = s.server(), s.client()
        client.send(sql)
        s.settle()
        assert server.take() == sql
        server.send(row + wire.command_complete("SELECT 1") + READY)
        s.settle()
        assert client.take() == row + wire.command_complete("SELECT 1") + READY
        assert linked(client) is None


# ---- cut anywhere


def conversation() -> bytes:
    """All that changes the relay's state, on one connection."""
    unit = wire.bind("", "s", ["value"]) + wire.execute("")
    return b"".join(
        [
            wire.query("SELECT 1"),
            wire.query("BEGIN"),
            wire.parse("", "SELECT 2", [25]) + wire.bind("", "", ["a"]) + wire.describe(b"P", "") + wire.execute(""),
            wire.sync(),
            wire.query("COMMIT"),
            wire.parse("s", "SHARED one", [25]) + wire.describe(b"S", "s") + wire.sync(),
            unit + wire.sync() + unit + wire.sync(),
            wire.parse("t", "SHARED two") + wire.bind("", "t", []) + wire.execute("") + wire.sync(),
            unit + wire.close(b"S", "s") + wire.close(b"S", "t") + wire.flush() + wire.sync(),
            wire.parse("s", "SHARED one", [25]) + unit + wire.sync(),
            wire.query("SET TimeZone='Asia/Tokyo'") + wire.query("ERROR 1") + wire.query("SELECT 1;SELECT 2"),
            wire.query("COPY IN 1") + wire.message(b"d", b"rows" * 5) + wire.message(b"c"),
            wire.parse("", "COPY IN 2") + wire.bind("", "", []) + wire.execute("") + wire.sync(),
            wire.message(b"d", b"row") + wire.message(b"f", b"no\0") + wire.sync(),
            wire.message(b"F", b"\0\0\0\1\0\0\0\0\0\0"),
            wire.query("COPY OUT 1"),
            wire.query(""),
        ]
    )


CONVERSATION = conversation()
Result = tuple[bytes, bytes, tuple[int, ...], str]


def play(cuts: list[int], max_prepared: int = 200, answer_cuts: int = 0) -> Result:
    """(what the server got, what the client got, counts without times, states at the end)."""
    with stage(max_prepared=max_prepared) as s:
        server = s.server(None if answer_cuts else Backend())
        client = s.client()
        if answer_cuts:
            slow_play(s, server, client, answer_cuts)
        else:
            in_pieces(s, client, CONVERSATION, cuts)
        counts = s.pool.counted()
        return server.take(), client.take(), counts[:5] + counts[8:], s.states


def slow_play(s: Stage, server: Peer, client: Peer, piece: int) -> None:
    """The server's answers come in pieces."""
    backend, read = Backend(), 0
    client.send(CONVERSATION)
    s.settle()
    while len(server.inbox) > read:
        answer = backend.feed(bytes(server.inbox[read:]))
        read = len(server.inbox)
        in_pieces(s, server, answer, list(range(0, len(answer), piece)))


FAILURES = (
    wire.parse("u", "BROKEN") + wire.bind("", "u", []) + wire.execute("") + wire.close(b"S", "u") + wire.sync(),
    wire.parse("u", "SHARED") + wire.sync() + wire.query("BEGIN"),
    wire.bind("", "u", ["bad"]) + wire.close(b"S", "u") + wire.parse("u", "OTHER") + wire.describe(b"S", "u")
    + wire.flush() + wire.bind("", "u", []) + wire.execute("") + wire.sync(),
    wire.query("ROLLBACK") + wire.bind("", "u", []) + wire.execute("") + wire.sync(),
    wire.parse("", "COPY IN 3") + wire.bind("", "", []) + wire.execute("") + wire.sync()
    + wire.message(b"d", b"bad") + wire.message(b"d", b"more") + wire.message(b"c") + wire.sync(),
    wire.query("SELECT 1"),
)  # fmt: skip
"""What is skipped may be on the way, held back, or not yet sent when the error comes: to the client it is the same."""


@pytest.mark.parametrize("step", range(len(FAILURES)))
def test_errors_cut_once(step: int) -> None:
    for cut in range(1, len(FAILURES[step])):
        with stage() as s:
            s.server(Backend())
            client = s.client()
            for part in FAILURES[:step]:
                in_pieces(s, client, part, [])
            in_pieces(s, client, FAILURES[step], [cut])
            assert plain(client.take()) == Backend().feed(b"".join(FAILURES[: step + 1]))


@settings(max_examples=50, deadline=None)
@given(cuts=st.lists(st.integers(0, 300), max_size=30), max_prepared=st.integers(1, 3))
def test_errors_cut_anywhere(cuts: list[int], max_prepared: int) -> None:
    with stage(max_prepared=max_prepared) as s:
        s.server(Backend())
        client = s.client()
        for part in FAILURES:
            in_pieces(s, client, part, cuts)
        assert plain(client.take()) == Backend().feed(b"".join(FAILURES))
        assert s.states == "1a 0w / 0a 1i 0u 0t 0c"


def test_the_conversation_is_what_an_oracle_says() -> None:
    _, seen, counts, states = play([])
    assert seen == Backend().feed(CONVERSATION)
    assert states == "1a 0w / 0a 1i 0u 0t 0c"
    assert counts[3] == len(CONVERSATION)
    assert counts[4] == len(seen)


def test_byte_by_byte() -> None:
    """What the server is sent depends on how much is unanswered: a Parse of what it has is a Close, if that is sure. Of
    the counts those of queries and transactions do: the protocol has no other sign of where a pipelined one begins."""
    _, seen, counts, states = play([])
    one_by_one = play(list(range(len(CONVERSATION))))
    assert one_by_one[1] == seen
    assert one_by_one[3] == states
    assert one_by_one[2][3:] == counts[3:]


@pytest.mark.parametrize("piece", [1, 2, 3, 7])
def test_answers_byte_by_byte(piece: int) -> None:
    whole = play([])
    assert play([], answer_cuts=piece)[1] == whole[1]


def test_cut_once() -> None:
    whole = play([])
    for cut in range(1, len(CONVERSATION)):
        assert play([cut])[1] == whole[1], cut


@settings(max_examples=100, deadline=None)
@given(cuts=st.lists(st.integers(0, len(CONVERSATION)), max_size=30), max_prepared=st.integers(1, 3))
def test_cut_anywhere(cuts: list[int], max_prepared: int) -> None:
    whole, pieces = play([], max_prepared), play(cuts, max_prepared)
    assert pieces[1] == whole[1]
    assert pieces[2][3:] == whole[2][3:]
    assert pieces[3] == whole[3]


@settings(max_examples=50, deadline=None)
@given(data=st.data())
def test_random_bodies_cut_anywhere_pass_unchanged(data: st.DataObject) -> None:
    kinds = st.sampled_from([b"D", b"T", b"N", b"d", b"A", b"V", b"H", b"c"])
    bodies = st.one_of(st.binary(max_size=300), st.integers(0, 200_000).map(lambda n: b"y" * n))
    answer = b"".join(wire.message(k, b) for k, b in data.draw(st.lists(st.tuples(kinds, bodies), max_size=8)))
    cuts = data.draw(st.lists(st.integers(0, max(len(answer), 1)), max_size=10))
    with stage(data.draw(st.sampled_from([engine.TRANSACTION, engine.SESSION]))) as s:
        server, client = s.server(), s.client()
        client.send(ASK)
        s.settle()
        in_pieces(s, server, answer + DONE, cuts)
        assert client.take() == answer + DONE
