"""Named statements through the relay: what servers are told, what clients see, and that the two never disagree.

Servers here are `Backend`s, which refuse what PostgreSQL would: a name prepared twice, a name that is not there.
"""

from __future__ import annotations

import gc

import pytest

from pooler import wire
from pooler.relay import engine
from tests.unit.backend import Backend, plain
from tests.unit.stage import Peer, Stage, linked, stage

READY = wire.ready_for_query()


def use(name: str, value: str = "v") -> bytes:
    return wire.bind("", name, [value]) + wire.execute("") + wire.sync()


def prepare(name: str, sql: str) -> bytes:
    return wire.parse(name, sql) + wire.sync()


def answer(s: Stage, client: Peer, data: bytes) -> bytes:
    client.send(data)
    s.settle()
    return client.take()


def kinds(data: bytes) -> str:
    """Types of the messages."""
    found = ""
    while data:
        found += chr(data[0])
        data = data[1 + int.from_bytes(data[1:5], "big") :]
    return found


def names(server: Peer) -> dict[str, str]:
    assert server.backend is not None
    return server.backend.statements


def test_a_statement_is_parsed_on_each_server_once_and_called_by_the_same_name_there() -> None:
    with stage() as s:
        one, client, other = s.server(Backend()), s.client(), s.client()
        answer(s, client, prepare("mine", "SHARED"))
        answer(s, other, wire.query("BEGIN"))
        assert linked(other) is one.conn
        two = s.server(Backend())
        for _ in range(3):
            assert kinds(answer(s, client, use("mine"))) == "2DCZ"
        answer(s, other, wire.query("COMMIT"))
        assert linked(other) is None
        assert kinds(answer(s, client, use("mine"))) == "2DCZ"
        assert names(one) == names(two) == {"PGBOUNCER_1": "SHARED"}
        assert s.pool.counted()[8:11] == (1, 2, 4)
        assert s.pool.counted()[12:] == (3, 2)


def test_clients_share_a_statement_and_keep_their_own_names() -> None:
    with stage() as s:
        server = s.server(Backend())
        one, two = s.client(), s.client()
        assert kinds(answer(s, one, prepare("a", "SHARED one"))) == "1Z"
        assert kinds(answer(s, two, prepare("b", "SHARED one"))) == "1Z"
        assert kinds(answer(s, two, prepare("a", "SHARED two"))) == "1Z"
        assert b"SHARED one" in answer(s, one, use("a"))
        assert b"SHARED two" in answer(s, two, use("a"))
        assert b"SHARED one" in answer(s, two, use("b"))
        assert names(server) == {"PGBOUNCER_1": "SHARED one", "PGBOUNCER_2": "SHARED two"}
        assert s.pool.counted()[8:10] == (3, 2)


def test_the_types_of_parameters_belong_to_the_text() -> None:
    with stage() as s:
        server, client = s.server(Backend()), s.client()
        answer(s, client, wire.parse("a", "SHARED", [25]) + wire.parse("b", "SHARED", [23]) + wire.sync())
        assert len(names(server)) == 2


def test_a_statement_outlives_the_client_that_brought_it() -> None:
    """Clients that come and go with the same text do not have it parsed again."""
    with stage() as s:
        s.server(Backend())
        for _ in range(3):
            client = s.client()
            answer(s, client, prepare("a", "SHARED") + use("a"))
            answer(s, client, wire.terminate())
        assert s.pool.counted()[8:10] == (3, 1)
        assert s.relay.statement_count == 1


@pytest.mark.slow
def test_a_statement_that_nobody_has_is_forgotten() -> None:
    with stage(max_prepared=1) as s:
        server, client = s.server(Backend()), s.client()
        for i in range(50):
            answer(s, client, prepare("a", f"TEXT {i}") + use("a") + wire.close(b"S", "a") + wire.sync())
        assert s.relay.statement_count == 1
        assert len(names(server)) == 1
        server.close()
        client.close()
        s.settle()
        del server, client
        s.lost.clear()
        s.peers.clear()
        gc.collect()
        assert s.relay.statement_count == 0


def test_the_least_recently_used_goes_first() -> None:
    with stage(max_prepared=2) as s:
        server, client = s.server(Backend()), s.client()
        for name in "abc":
            answer(s, client, prepare(name, f"TEXT {name}"))
            if name == "b":
                answer(s, client, use("a"))
        assert sorted(names(server).values()) == ["TEXT a", "TEXT c"]
        assert b"TEXT b" in answer(s, client, use("b"))
        assert sorted(names(server).values()) == ["TEXT b", "TEXT c"]


@pytest.mark.parametrize(("before", "after"), [(10, 4), (10, 1), (2000, 3)])
def test_a_limit_that_was_lowered_holds_from_the_next_statement_on(before: int, after: int) -> None:
    with stage(max_prepared=before) as s:
        server, client = s.server(Backend()), s.client()
        for i in range(before):
            client.send(prepare(f"n{i}", f"TEXT {i}"))
        s.settle()
        client.take()
        assert len(names(server)) == before
        s.pool.max_prepared = after
        answer(s, client, prepare("one more", "TEXT"))
        assert len(names(server)) == server.conn.prepared_count == after
        assert b"TEXT 3" in answer(s, client, use("n3"))


def test_many_evictions_in_one_batch() -> None:
    with stage(max_prepared=1) as s:
        s.server(Backend())
        client = s.client()
        for i in range(5):
            answer(s, client, prepare(f"n{i}", f"TEXT {i}"))
        batch = b"".join(wire.bind("", f"n{i % 5}", [str(i)]) + wire.execute("") for i in range(500)) + wire.sync()
        seen = answer(s, client, batch)
        assert kinds(seen) == "2DC" * 500 + "Z"
        assert seen.index(b"TEXT 4|4") < seen.index(b"TEXT 0|5") < seen.index(b"TEXT 4|4991"[:9])


def test_close_gives_the_name_free() -> None:
    with stage() as s:
        server, client = s.server(Backend()), s.client()
        answer(s, client, prepare("a", "SHARED one"))
        assert kinds(answer(s, client, wire.close(b"S", "a") + wire.sync())) == "3Z"
        assert kinds(answer(s, client, prepare("a", "SHARED two"))) == "1Z"
        assert b"SHARED two" in answer(s, client, use("a"))
        assert len(names(server)) == 2
        assert client.conn.prepared_count == 1


@pytest.mark.parametrize("name", ["never", "x" * 5000])
def test_close_of_an_unknown_name_is_no_error(name: str) -> None:
    with stage() as s:
        s.server(Backend())
        client = s.client()
        assert kinds(answer(s, client, wire.close(b"S", name) + wire.sync())) == "3Z"


@pytest.mark.parametrize("message", [wire.bind("", "nope", []), wire.describe(b"S", "nope")])
@pytest.mark.parametrize("ahead", [b"", wire.query("SELECT 1"), wire.bind("", "", []) + wire.sync()])
def test_an_unknown_name_is_an_error_of_the_server(message: bytes, ahead: bytes) -> None:
    with stage() as s:
        s.server(Backend())
        client = s.client()
        said = answer(s, client, ahead + message + wire.sync() + wire.query("SELECT 2"))
        assert plain(said) == Backend().feed(ahead + message + wire.sync() + wire.query("SELECT 2"))
        assert b"The prepared statement did not exist for this client." in said
        assert s.said == ["prepared statement did not exist: 'nope' not found"]
        assert s.states == "1a 0w / 0a 1i 0u 0t 0c"


@pytest.mark.parametrize("text", ["SHARED one", "SHARED two", "BROKEN"])
@pytest.mark.parametrize("there", [True, False])
def test_a_name_in_use_is_an_error_of_the_server(text: str, there: bool) -> None:
    with stage() as s:
        server, client = s.server(Backend()), s.client()
        answer(s, client, prepare("a", "SHARED one"))
        if not there:
            server.close()
            s.lost.clear()
            s.settle()
            s.server(Backend())
        said = answer(s, client, prepare("a", text) + use("a"))
        assert plain(said) == Backend().feed(prepare("a", "SHARED one") + prepare("a", text) + use("a"))[11:]
        assert (s.said == ["prepared statement 'a' was already prepared"]) == (text != "BROKEN")


def test_what_a_failed_batch_has_not_prepared_is_waited_for() -> None:
    """Behind its Sync, and before the server has said that it failed."""
    with stage() as s:
        s.server(Backend())
        client = s.client()
        failing = wire.bind("", "", ["x"]) + wire.parse("a", "SHARED one") + wire.sync()
        program = failing + use("a") + prepare("a", "SHARED two") + use("a")
        assert plain(answer(s, client, program)) == Backend().feed(program)


def test_a_statement_that_a_discard_takes_away_is_prepared_behind_it() -> None:
    """Sent at once, as Npgsql does."""
    with stage() as s:
        s.server(Backend())
        first, second = s.client(), s.client()
        answer(s, first, prepare("a", "SHARED one"))
        program = wire.query("DISCARD ALL") + prepare("b", "SHARED one") + use("b")
        assert answer(s, second, program) == Backend().feed(program)


# ---- errors


def test_an_error_in_parse_leaves_nothing_on_either_side() -> None:
    with stage() as s:
        server, client = s.server(Backend()), s.client()
        assert kinds(answer(s, client, prepare("a", "BROKEN"))) == "EZ"
        assert client.conn.prepared_count == 0
        assert server.conn.prepared_count == 0
        assert kinds(answer(s, client, prepare("a", "SHARED"))) == "1Z"
        assert kinds(answer(s, client, use("a"))) == "2DCZ"


def test_an_error_ahead_undoes_what_was_skipped_and_no_more() -> None:
    with stage() as s:
        server, client = s.server(Backend()), s.client()
        answer(s, client, prepare("kept", "SHARED one") + prepare("closed", "SHARED two"))
        skipped = wire.close(b"S", "closed") + wire.parse("new", "SHARED three") + wire.parse("again", "SHARED one")
        assert kinds(answer(s, client, wire.bind("", "kept", ["bad"]) + skipped + wire.sync())) == "EZ"
        assert client.conn.prepared_count == 2
        assert sorted(names(server).values()) == ["SHARED one", "SHARED two"]
        assert kinds(answer(s, client, prepare("new", "SHARED four") + use("new") + use("closed"))) == "1Z2DCZ2DCZ"


def test_a_name_closed_and_taken_again_behind_an_error_is_what_it_was() -> None:
    with stage() as s:
        s.server(Backend())
        client = s.client()
        answer(s, client, prepare("a", "SHARED one"))
        skipped = wire.close(b"S", "a") + wire.parse("a", "SHARED two") + wire.close(b"S", "a") + wire.parse("a", "X")
        answer(s, client, wire.bind("", "a", ["bad"]) + skipped + wire.sync())
        assert b"SHARED one" in answer(s, client, use("a"))


def test_an_eviction_that_was_skipped_did_not_happen() -> None:
    with stage(max_prepared=1) as s:
        server, client = s.server(Backend()), s.client()
        answer(s, client, prepare("a", "SHARED one") + prepare("b", "SHARED two"))
        assert list(names(server).values()) == ["SHARED two"]
        around = wire.bind("", "a", []) + wire.bind("", "b", []) + wire.bind("", "a", [])
        answer(s, client, wire.bind("", "b", ["bad"]) + around + wire.sync())
        assert list(names(server).values()) == ["SHARED two"]
        assert kinds(answer(s, client, use("b") + use("a") + use("b"))) == "2DCZ" * 3


@pytest.mark.parametrize("again", [1, 2, 3])
def test_an_eviction_behind_a_batch_that_was_skipped_stands(again: int) -> None:
    """Whether the statement was there before, and is parsed again in the skipped batch, or never was: the Close that
    made room is behind that, and did."""
    with stage(max_prepared=1) as s:
        server, client = s.server(Backend()), s.client()
        answer(s, client, prepare("n0", "SHARED one"))
        client.send(
            wire.parse("", "BROKEN")
            + wire.query("SELECT")
            + b"".join(wire.parse(f"again{number}", "SHARED one") for number in range(again))
            + wire.sync()
            + wire.parse("n2", "SHARED two")
            + wire.sync()
        )
        s.settle()
        assert kinds(client.take()) == "EZ1Z"
        # Two of one text in one batch are two statements: one more than may be is there when both were skipped.
        assert list(names(server).values()) == ["SHARED one"] * (again > 1) + ["SHARED two"]
        assert server.conn.prepared_count == len(names(server))
        for name in ("n0", "n2", "n0"):
            assert kinds(answer(s, client, use(name))) == "2DCZ"


@pytest.mark.parametrize("end", [wire.message(b"d", b"bad"), wire.message(b"f", b"no\0")])
@pytest.mark.parametrize("text", ["SHARED one", "SHARED three"])
def test_an_eviction_that_is_known_to_stand_with_what_was_skipped_ahead_of_it_stands(end: bytes, text: str) -> None:
    """A COPY fails behind a Sync that it has read, or not: that is known when all behind it has been answered."""
    with stage(max_prepared=1) as s:
        server, client, other = s.server(Backend()), s.client(), s.client()
        answer(s, other, prepare("n", "SHARED one"))
        copy = wire.parse("", "COPY IN") + wire.bind("", "", []) + wire.execute("") + wire.sync() + end
        skipped = wire.parse("a", text) + wire.sync()
        assert kinds(answer(s, client, copy + skipped + prepare("b", "SHARED two"))) == "12GEZ1Z"
        there = [sql for name, sql in names(server).items() if name]
        assert there == (["SHARED two"] if text == "SHARED one" else ["SHARED one", "SHARED two"])
        assert server.conn.prepared_count == len(there)
        assert kinds(answer(s, other, use("n"))) == "2DCZ"
        assert kinds(answer(s, client, use("b"))) == "2DCZ"
        assert kinds(answer(s, client, use("a"))) == "EZ"


def test_an_error_of_one_pipelined_sync_spares_the_next() -> None:
    with stage() as s:
        s.server(Backend())
        client = s.client()
        first = wire.parse("a", "BROKEN") + wire.bind("", "a", []) + wire.execute("") + wire.sync()
        second = wire.parse("b", "SHARED") + wire.bind("", "b", []) + wire.execute("") + wire.sync()
        third = wire.bind("", "b", ["bad"]) + wire.parse("c", "OTHER") + wire.sync()
        fourth = wire.parse("d", "SHARED") + wire.sync() + wire.bind("", "b", []) + wire.execute("") + wire.sync()
        assert kinds(answer(s, client, first + second + third + fourth)) == "EZ12DCZEZ1Z2DCZ"
        assert client.conn.prepared_count == 2


def test_what_comes_behind_an_error_is_skipped_though_it_names_what_is_not_there() -> None:
    """The error may be back before the rest of the batch has come: the client is not to blame."""
    with stage() as s:
        s.server(Backend())
        client = s.client()
        assert kinds(answer(s, client, wire.parse("a", "BROKEN"))) == "E"
        late = wire.bind("", "a", []) + wire.describe(b"S", "a") + wire.close(b"S", "a") + wire.parse("b", "SHARED")
        assert kinds(answer(s, client, late + wire.query("SELECT 1"))) == ""
        assert kinds(answer(s, client, wire.sync())) == "Z"
        assert client.conn.prepared_count == 0
        assert s.states == "1a 0w / 0a 1i 0u 0t 0c"


# ---- all gone at once


def test_unnamed_statements_and_portals_pass_as_they_are() -> None:
    unnamed = (
        wire.parse("", "SELECT 1") + wire.bind("portal", "", ["x"]) + wire.describe(b"S", "")
        + wire.describe(b"P", "portal") + wire.execute("portal") + wire.close(b"P", "portal")
        + wire.close(b"S", "") + wire.sync()
    )  # fmt: skip
    with stage() as s:
        server, client = s.server(Backend()), s.client()
        answer(s, client, unnamed)
        assert server.take() == unnamed
        assert s.pool.counted()[8:11] == (0, 0, 0)


@pytest.mark.parametrize(("mode", "max_prepared"), [(engine.SESSION, 200), (engine.TRANSACTION, 0)])
def test_without_tracking_names_pass_as_they_are(mode: int, max_prepared: int) -> None:
    with stage(mode, max_prepared=max_prepared) as s:
        server, client = s.server(Backend()), s.client()
        data = prepare("a", "SHARED") + use("a") + wire.close(b"S", "a") + wire.sync()
        answer(s, client, data)
        assert server.take() == data


@pytest.mark.parametrize("size", [65_000, 65_536, 70_000, 300_000, 5_000_000])
@pytest.mark.parametrize("piece", [10_000_000, 100_000, 65_536])
def test_a_long_bind_streams_and_a_long_parse_is_collected(size: int, piece: int) -> None:
    with stage() as s:
        server, client = s.server(Backend()), s.client()
        data = prepare("a", "SHARED " + "x" * size) + use("a", "y" * size)
        for at in range(0, len(data), piece):
            client.send(data[at : at + piece])
            s.settle()
        assert kinds(client.take()) == "1Z2DCZ"
        assert names(server) == {"PGBOUNCER_1": "SHARED " + "x" * size}
        assert client.conn.pending == (0, 0, 0)
        assert s.pool.counted()[3] == len(data)


def test_a_long_bind_does_not_wait_for_its_end() -> None:
    with stage() as s:
        server, client = s.server(Backend()), s.client()
        answer(s, client, prepare("a", "SHARED"))
        server.take()
        long = wire.bind("", "a", ["y" * 1_000_000])
        client.send(long[:500_000])
        s.settle()
        assert len(server.inbox) > 400_000
        assert sum(client.conn.pending[::2]) < 100_000


def test_names_of_any_bytes_and_lengths() -> None:
    with stage() as s:
        s.server(Backend())
        client = s.client()
        for name in ("ä", "x" * 10_000, "PGBOUNCER_1", "PGBOUNCER_0"):
            assert kinds(answer(s, client, prepare(name, "SHARED") + use(name))) == "1Z2DCZ"
            assert kinds(answer(s, client, wire.describe(b"S", name) + wire.close(b"S", name) + wire.sync())) == "tT3Z"


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        (wire.message(b"P", b""), "broken Parse packet"),
        (wire.message(b"P", b"name"), "broken Parse packet"),
        (wire.message(b"P", b"name\0"), "broken Parse packet"),
        (wire.message(b"P", b"name\0q"), "broken Parse packet"),
        (wire.message(b"B", b""), "broken Bind packet"),
        (wire.message(b"B", b"portal"), "broken Bind packet"),
        (wire.message(b"B", b"portal\0"), "broken Bind packet"),
        (wire.message(b"B", b"portal\0name"), "broken Bind packet"),
        (wire.message(b"D", b""), "broken Describe packet"),
        (wire.message(b"D", b"S"), "broken Describe packet"),
        (wire.message(b"D", b"Sname"), "broken Describe packet"),
        (wire.message(b"C", b""), "broken Close packet"),
        (wire.message(b"C", b"Sname"), "broken Close packet"),
        (wire.message(b"D", b"S" + b"n" * 70_000), "broken Describe packet"),
        (wire.message(b"C", b"S" + b"n" * 70_000), "broken Close packet"),
        (wire.message(b"B", b"p" * 100_000), "broken Bind packet"),
        (wire.message(b"B", b"\0" + b"n" * 100_000), "broken Bind packet"),
        (b"B\x40\0\0\0" + b"p" * 70_000, "broken Bind packet"),
        (b"D\x40\0\0\0S", "broken Describe packet"),
    ],
)
@pytest.mark.parametrize("known", [True, False])
def test_broken_messages_end_their_client_only(broken: bytes, reason: str, known: bool) -> None:
    with stage() as s:
        s.server(Backend())
        client, other = s.client(), s.client()
        if known:
            answer(s, client, wire.query("SELECT 1"))
        assert reason.encode() in answer(s, client, broken)
        assert s.reasons == [reason]
        assert kinds(answer(s, other, wire.query("SELECT 1"))) == "TDCZ"


# ---- what a client may take


def test_what_the_statements_of_one_client_take_is_bounded() -> None:
    with stage() as s:
        s.relay.max_statement_bytes = 10_000
        s.server(Backend())
        client, other = s.client(), s.client()
        for number in range(10):
            assert kinds(answer(s, client, prepare(f"n{number}", f"SHARED {number}" + "x" * 400))) == "1Z"
        assert b"prepared statements need too much memory" in answer(s, client, prepare("more", "SHARED" + "x" * 400))
        assert s.reasons == ["prepared statements need too much memory"]
        assert kinds(answer(s, other, prepare("n", "SHARED") + use("n"))) == "1Z2DCZ"


def test_statements_that_are_closed_make_room() -> None:
    with stage() as s:
        s.relay.max_statement_bytes = 10_000
        server, client = s.server(Backend()), s.client()
        for number in range(100):
            data = prepare("n", f"SHARED {number}") + wire.close(b"S", "n") + wire.sync()
            assert kinds(answer(s, client, data)) == "1Z3Z"
        for _ in range(100):
            assert kinds(answer(s, client, prepare("n", "BROKEN"))) == "EZ"
        for number in range(100):
            assert kinds(answer(s, client, prepare("n", f"SHARED {number}") + wire.query("DEALLOCATE ALL"))) == "1ZCZ"
        assert client.conn.prepared_count == server.conn.prepared_count == 0
        for number in range(15):
            assert kinds(answer(s, client, prepare(f"n{number}", "SHARED"))) == "1Z"
        s.restart()
        s.relay.max_statement_bytes = 10_000
        for number in range(15, 30):
            answer(s, client, prepare(f"n{number}", "SHARED"))
        assert s.reasons == ["prepared statements need too much memory"]


def test_a_statement_too_long_to_keep_is_not_collected() -> None:
    with stage() as s:
        s.relay.max_statement_bytes = 1_000_000
        s.server(Backend())
        client, other = s.client(), s.client()
        client.send(b"P" + (500_000_000).to_bytes(4, "big") + b"name\0" + b"x" * 1000)
        s.settle()
        assert b"prepared statements need too much memory" in client.take()
        unnamed = wire.parse("", "SHARED " + "x" * 3_000_000) + wire.bind("", "", []) + wire.execute("") + wire.sync()
        assert kinds(answer(s, other, unnamed)) == "12DCZ"


def test_what_the_statements_of_one_server_take_is_bounded() -> None:
    with stage() as s:
        s.relay.max_statement_bytes = 1_000_000
        server, client = s.server(Backend()), s.client()
        for number in range(200):
            data = prepare("n", f"SHARED {number}") + wire.close(b"S", "n") + wire.sync()
            assert kinds(answer(s, client, data)) == "1Z3Z"
        for number in range(20):
            data = prepare("n", f"SHARED {number}" + "x" * 600_000) + use("n") + wire.close(b"S", "n") + wire.sync()
            assert kinds(answer(s, client, data)) == "1Z2DCZ3Z"
        assert sum(map(len, names(server).values())) < 2_000_000
        assert server.conn.prepared_count == len(names(server)) > 150


# ---- PREPARE and DEALLOCATE in SQL, with names of ours


@pytest.mark.parametrize("ask", [use("a"), wire.describe(b"S", "a") + wire.sync()])
def test_a_statement_that_somebody_has_deallocated_is_prepared_anew(ask: bytes) -> None:
    with stage() as s:
        server, client, other = s.server(Backend()), s.client(), s.client()
        answer(s, client, prepare("a", "SHARED one") + prepare("b", "SHARED two"))
        names(server).clear()
        assert kinds(answer(s, client, ask)) == "EZ"
        assert kinds(answer(s, client, ask)) in ("2DCZ", "tTZ")
        assert b"SHARED two" in answer(s, client, use("b"))
        assert kinds(answer(s, other, prepare("c", "SHARED one") + use("c"))) == "1Z2DCZ"
        assert len(names(server)) == server.conn.prepared_count == 2
        assert not s.lost


def test_a_name_that_somebody_has_taken_is_taken_back() -> None:
    with stage() as s:
        server, client = s.server(Backend()), s.client()
        names(server)["PGBOUNCER_1"] = names(server)["PGBOUNCER_2"] = "SOMETHING else"
        assert kinds(answer(s, client, prepare("a", "SHARED"))) == "EZ"
        for _ in range(2):
            assert kinds(answer(s, client, prepare("a", "SHARED") + use("a"))) == "1Z2DCZ"
            assert b"SHARED" in answer(s, client, use("a") + wire.close(b"S", "a") + wire.sync())
        s.restart()
        names(server)["PGBOUNCER_3"] = "SOMETHING else"
        assert kinds(answer(s, client, prepare("b", "SHARED three") + use("b"))) == "1Z2DCZ"
        assert not s.lost


def test_an_error_in_the_middle_of_a_pipeline_heals_too() -> None:
    with stage() as s:
        server, client = s.server(Backend()), s.client()
        answer(s, client, prepare("a", "SHARED one") + prepare("b", "SHARED two"))
        names(server).clear()
        first = wire.bind("", "a", ["v"]) + wire.execute("") + wire.parse("c", "SHARED three")
        assert kinds(answer(s, client, first + wire.sync() + prepare("d", "SHARED four") + use("b"))) == "EZ1ZEZ"
        for name in "abd":
            assert kinds(answer(s, client, use(name))) == "2DCZ"
        assert kinds(answer(s, client, prepare("c", "SHARED three") + use("c"))) == "1Z2DCZ"
        assert not s.lost


def test_an_error_about_another_statement_changes_nothing() -> None:
    with stage() as s:
        server, client = s.server(Backend()), s.client()
        answer(s, client, prepare("a", "SHARED one"))
        server.backend = None
        for text in ('prepared statement "mine" does not exist', 'relation "PGBOUNCER_1" does not exist'):
            answer(s, client, wire.query("x"))
            server.send(wire.error_response("ERROR", "26000" if "mine" in text else "42P01", text) + READY)
            s.settle()
            assert server.conn.prepared_count == 1
