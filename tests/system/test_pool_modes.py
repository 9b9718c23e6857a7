"""Who has which server and for how long: transaction, session and statement pooling, queueing, release.

Each test runs against PgBouncer too. A server is told from another by pg_backend_pid().
"""

from __future__ import annotations

import threading
from contextlib import ExitStack

import psycopg
import pytest

from tests.fixtures import stream
from tests.fixtures.cluster import Cluster
from tests.fixtures.process import Bouncer, StartBouncer
from tests.fixtures.stream import Message, Stream
from tests.fixtures.waiting import until

PID = "SELECT pg_backend_pid()"


def client(bouncer: Bouncer, **parameters: str) -> Stream:
    return Stream(("127.0.0.1", bouncer.port)).login(**parameters)


def errors(answer: list[Message]) -> list[tuple[str, str]]:
    return [(m.error["C"], m.error["M"]) for m in answer if m.type == "E"]


@pytest.mark.one_process("a server that another worker wants is closed and opened anew")
def test_one_server_serves_many_clients_between_transactions(start_either: StartBouncer) -> None:
    bouncer = start_either(default_pool_size=1)
    with ExitStack() as stack:
        clients = [stack.enter_context(client(bouncer)) for _ in range(10)]
        pids = {c.rows(PID)[0][0] for _ in range(3) for c in clients}
    assert len(pids) == 1


def test_a_transaction_keeps_its_server(start_either: StartBouncer) -> None:
    bouncer = start_either(default_pool_size=2)
    with client(bouncer) as one, client(bouncer) as other:
        one.query("BEGIN")
        pid = one.rows(PID)
        assert {str(other.rows(PID)) for _ in range(5)} != {str(pid)}
        assert one.rows(PID) == pid
        one.query("COMMIT")
        assert bouncer.pool()["sv_active"] == 0


def test_a_failed_transaction_keeps_its_server_until_it_is_rolled_back(start_either: StartBouncer) -> None:
    bouncer = start_either(default_pool_size=1)
    with client(bouncer) as one, client(bouncer) as other:
        one.query("BEGIN")
        assert errors(one.query("SELECT 1/0")) == [("22012", "division by zero")]
        assert one.query("SELECT 1")[-1].body == b"E"
        other.send(stream.query(PID))
        until(lambda: bouncer.pool()["cl_waiting"] == 1)
        assert one.query("ROLLBACK")[-1].body == b"I"
        assert len(other.until()) == 4


def test_savepoints_and_statements_of_one_query(start_either: StartBouncer) -> None:
    bouncer = start_either(default_pool_size=1)
    with client(bouncer) as one:
        one.query("BEGIN; CREATE TEMP TABLE t (n int) ON COMMIT DROP; SAVEPOINT s; INSERT INTO t VALUES (1)")
        errors_seen = errors(one.query("INSERT INTO t VALUES (1/0)"))
        assert errors_seen == [("22012", "division by zero")]
        one.query("ROLLBACK TO s")
        assert one.rows("SELECT count(*) FROM t") == [[b"0"]]
        answer = one.query("COMMIT; SELECT 1; SELECT 2")
        assert [m.tag for m in answer if m.type == "C"] == ["COMMIT", "SELECT 1", "SELECT 1"]


@pytest.mark.one_process("who has come first is known within a worker")
def test_waiting_clients_are_served_in_the_order_they_came(start_either: StartBouncer) -> None:
    bouncer = start_either(default_pool_size=1)
    with ExitStack() as stack:
        holder = stack.enter_context(client(bouncer))
        holder.query("CREATE TABLE IF NOT EXISTS came (n serial, who int); TRUNCATE came")
        holder.query("BEGIN")
        waiting = [stack.enter_context(client(bouncer)) for _ in range(5)]
        for number, one in enumerate(waiting):
            one.send(stream.query(f"INSERT INTO came (who) VALUES ({number})"))
            until(lambda number=number: bouncer.pool()["cl_waiting"] == number + 1)  # type: ignore[misc]
        holder.query("COMMIT")
        for one in waiting:
            one.until()
        assert holder.rows("SELECT who FROM came ORDER BY n") == [[str(n).encode()] for n in range(5)]


@pytest.mark.one_process("each worker has servers of its own")
def test_the_server_released_last_is_used_first(start_either: StartBouncer) -> None:
    bouncer = start_either(default_pool_size=3)
    with client(bouncer) as one, client(bouncer) as two, client(bouncer) as three:
        for each in (one, two, three):
            each.query("BEGIN")
        last = three.rows(PID)
        for each in (one, two, three):
            each.query("COMMIT")
        assert [each.rows(PID) for each in (one, two, one)] == [last] * 3


@pytest.mark.one_process("each worker has servers of its own")
def test_server_round_robin_uses_all_in_turn(start_either: StartBouncer) -> None:
    bouncer = start_either(default_pool_size=3, server_round_robin=1)
    with client(bouncer) as one, client(bouncer) as two, client(bouncer) as three:
        for each in (one, two, three):
            each.query("BEGIN")
        for each in (one, two, three):
            each.query("COMMIT")
        assert len({str(one.rows(PID)) for _ in range(3)}) == 3


def test_a_session_keeps_its_server_and_what_it_set(start_either: StartBouncer) -> None:
    bouncer = start_either(pool_mode="session", default_pool_size=1)
    with client(bouncer) as one:
        one.query("SET work_mem = '7MB'")
        one.query("CREATE TEMP TABLE mine AS SELECT 1")
        with client(bouncer) as other:
            other.send(stream.query("SHOW work_mem"))
            until(lambda: bouncer.pool()["cl_waiting"] == 1)
            assert one.rows("SHOW work_mem") == [[b"7MB"]]
            one.send(stream.terminate())
            reset = [m.values for m in other.until() if m.type == "D"]
            assert reset != [[b"7MB"]], "server_reset_query was not run"
            assert errors(other.query("SELECT * FROM mine")) == [("42P01", 'relation "mine" does not exist')]


def test_statement_mode_refuses_transactions(start_either: StartBouncer) -> None:
    bouncer = start_either(pool_mode="statement", default_pool_size=1)
    with client(bouncer) as one:
        assert one.rows("SELECT 1") == [[b"1"]]
        one.send(stream.query("BEGIN; SELECT 1"))
        (refused,) = one.rest()
        assert refused.error["M"] == "transaction blocks not allowed in statement pooling mode"


def test_a_pipeline_of_syncs_is_answered_whole_by_one_client(start_either: StartBouncer) -> None:
    """A ReadyForQuery in the middle of what a client sent must not give its server away."""
    bouncer = start_either(default_pool_size=1)
    with client(bouncer) as one, client(bouncer) as other:
        request = stream.parse("SELECT $1::text"), stream.bind(["x"]), stream.execute(), stream.sync()
        one.send(*request * 50)
        other.send(*request * 50)
        for each in (one, other):
            for _ in range(50):
                assert [m.type for m in each.until()] == ["1", "2", "D", "C", "Z"]


def test_queries_sent_together_are_answered_in_order(start_either: StartBouncer) -> None:
    bouncer = start_either(default_pool_size=1)
    with client(bouncer) as one:
        one.send(*(stream.query(f"SELECT {n}") for n in range(100)))
        got = [m.values[0] for _ in range(100) for m in one.until() if m.type == "D"]
    assert got == [str(n).encode() for n in range(100)]


def test_an_error_in_a_pipeline_skips_to_sync(start_either: StartBouncer) -> None:
    bouncer = start_either(default_pool_size=1)
    with client(bouncer) as one:
        one.send(
            *(stream.parse("SELECT 1/0"), stream.bind(), stream.execute()),
            *(stream.parse("SELECT 2"), stream.bind(), stream.execute(), stream.sync()),
            *(stream.parse("SELECT 3"), stream.bind(), stream.execute(), stream.sync()),
        )
        assert errors(one.until()) == [("22012", "division by zero")]
        assert [m.values for m in one.until() if m.type == "D"] == [[b"3"]]


def test_flush_answers_without_giving_the_server_away(start_either: StartBouncer) -> None:
    bouncer = start_either(default_pool_size=1)
    with client(bouncer) as one, client(bouncer) as other:
        one.send(stream.parse("SELECT 'flushed'"), stream.bind(), stream.execute(), stream.flush())
        assert [m.type for m in one.until("C")] == ["1", "2", "D", "C"]
        other.send(stream.query("SELECT 'later'"))
        until(lambda: bouncer.pool()["cl_waiting"] == 1)
        one.send(stream.sync())
        assert one.read().type == "Z"
        assert [m.values for m in other.until() if m.type == "D"] == [[b"later"]]


@pytest.mark.parametrize("piece", [1, 3])
def test_messages_cut_anywhere(start_either: StartBouncer, piece: int) -> None:
    bouncer = start_either(default_pool_size=1)
    with client(bouncer) as one:
        one.piece = piece  # not before: PgBouncer wants a login's messages whole
        for text in ("short", "long " * 300):
            one.send(stream.parse("SELECT $1::text"), stream.describe(), stream.bind([text]))
            one.send(stream.execute(), stream.sync())
            assert [m.values for m in one.until() if m.type == "D"] == [[text.encode()]]
            assert one.rows(f"SELECT '{text}'") == [[text.encode()]]


@pytest.mark.slow
def test_large_values_pass_in_both_directions(start_either: StartBouncer) -> None:
    bouncer = start_either(default_pool_size=1)
    large = b"0123456789abcdef" * (1 << 20)
    with client(bouncer) as one:
        sender = threading.Thread(
            target=one.send,
            args=(
                stream.parse("SELECT $1::bytea"),
                stream.bind([b"\\x" + large]),
                stream.execute(),
                stream.sync(),
            ),
        )
        sender.start()
        answer = one.until()
        sender.join()
        assert [m.values for m in answer if m.type == "D"] == [[b"\\x" + large]]
        assert one.rows("SELECT 1") == [[b"1"]]


def test_copy_out_in_and_failed(start_either: StartBouncer, cluster: Cluster) -> None:
    bouncer = start_either(default_pool_size=1)
    cluster.sql("DROP TABLE IF EXISTS copied; CREATE TABLE copied (n int)", dbname="app")
    with bouncer.connect() as connection:
        with connection.cursor().copy("COPY copied FROM STDIN") as copy:
            for number in range(50_000):
                copy.write_row((number,))
        with connection.cursor().copy("COPY copied TO STDOUT") as copy:
            assert sum(int(row[0]) for row in copy.rows()) == sum(range(50_000))
    with client(bouncer) as one:
        one.send(stream.query("COPY copied FROM STDIN"))
        assert one.read().type == "G"
        one.send(stream.copy_data(b"1\n2\n"), stream.copy_fail("changed my mind"))
        assert [code for code, _ in errors(one.until())] == ["57014"]
        assert one.rows("SELECT count(*) FROM copied") == [[b"50000"]]


def test_copy_keeps_its_server(start_either: StartBouncer) -> None:
    bouncer = start_either(default_pool_size=1)
    with client(bouncer) as one, client(bouncer) as other:
        one.query("CREATE TABLE IF NOT EXISTS slow_copy (n int)")
        one.send(stream.query("COPY slow_copy FROM STDIN"))
        assert one.read().type == "G"
        other.send(stream.query("SELECT 'after'"))
        until(lambda: bouncer.pool()["cl_waiting"] == 1)
        one.send(stream.copy_data(b"1\n"), stream.copy_done())
        assert [m.tag for m in one.until() if m.type == "C"] == ["COPY 1"]
        assert [m.values for m in other.until() if m.type == "D"] == [[b"after"]]


def test_notices_go_to_the_client_that_caused_them(start_either: StartBouncer) -> None:
    bouncer = start_either(default_pool_size=1)
    with client(bouncer) as one:
        answer = one.query("DO $$ BEGIN RAISE NOTICE 'heard'; END $$")
        assert [m.error["M"] for m in answer if m.type == "N"] == ["heard"]


def test_function_call(start_either: StartBouncer, cluster: Cluster) -> None:
    bouncer = start_either(default_pool_size=1)
    oid = cluster.sql("SELECT 'pg_backend_pid'::regproc::oid")[0][0]
    with client(bouncer) as one:
        pid = one.rows(PID)[0][0]
        one.send(stream.message("F", oid.to_bytes(4, "big") + bytes(6)))
        answer = one.until()
        assert [m.type for m in answer] == ["V", "Z"]
        assert answer[0].body[4:] == pid


def test_what_a_client_leaves_behind_a_transaction_is_not_reused(start_either: StartBouncer) -> None:
    bouncer = start_either(default_pool_size=1)
    with client(bouncer) as one:
        one.query("BEGIN")
        pid = one.rows(PID)
    until(lambda: bouncer.pool()["sv_active"] == 0)
    with client(bouncer) as other:
        answer = other.query(PID)
        assert answer[-1].body == b"I"
        assert [m.values for m in answer if m.type == "D"] != pid


@pytest.mark.parametrize("sent", [5, 12], ids=["inside a header", "inside a body"])
def test_a_client_that_vanishes_in_the_middle_of_a_message(start_either: StartBouncer, sent: int) -> None:
    bouncer = start_either(default_pool_size=1)
    with client(bouncer) as one:
        one.query("BEGIN")
        one.socket.sendall(stream.query("SELECT 'never whole'")[: sent - 2 if sent == 5 else sent])
    with client(bouncer) as other:
        assert other.rows("SELECT 'whole'") == [[b"whole"]]


def test_terminate_in_the_middle_of_a_pipeline_is_clean(start_either: StartBouncer) -> None:
    bouncer = start_either(default_pool_size=1)
    with client(bouncer) as one:
        one.send(stream.query("SELECT 1"), stream.terminate())
        one.rest()
    with client(bouncer) as other:
        assert other.rows("SELECT 2") == [[b"2"]]


def test_an_unknown_message_type_ends_that_client_only(start_either: StartBouncer) -> None:
    bouncer = start_either(default_pool_size=1)
    with client(bouncer) as bystander:
        with client(bouncer) as one:
            one.send(stream.message("!", b"?"))
            one.rest()
        assert bystander.rows("SELECT 1") == [[b"1"]]


def test_disconnect_and_login_of_many_clients_at_once(start_either: StartBouncer) -> None:
    bouncer = start_either(default_pool_size=4)
    seen: list[int] = []

    def work(number: int) -> None:
        with bouncer.connect() as connection:
            for _ in range(5):
                row = connection.execute("SELECT %s::int", (number,)).fetchone()
                assert row
                seen.append(row[0])

    threads = [threading.Thread(target=work, args=(number,)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(seen) == sorted(list(range(20)) * 5)


def test_autocommit_off_with_psycopg(start_either: StartBouncer) -> None:
    bouncer = start_either(default_pool_size=1)
    with bouncer.connect(autocommit=False) as one:
        one.execute("CREATE TEMP TABLE scratch (n int) ON COMMIT DROP")
        one.execute("INSERT INTO scratch VALUES (1)")
        with pytest.raises(psycopg.errors.DivisionByZero), one.transaction():
            one.execute("INSERT INTO scratch VALUES (1/0)")
        row = one.execute("SELECT count(*) FROM scratch").fetchone()
        assert row == (1,)
        one.rollback()
