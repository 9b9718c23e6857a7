"""The admin database of a running pooler: its answers are PgBouncer's, its counts are those of counted traffic, and
SQL, history and latency tell of real clients. Where Debian's PgBouncer can be asked the same, it is.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import asyncpg
import psycopg
import pytest

from tests.fixtures import stream
from tests.fixtures.cluster import SUPERUSER, Cluster
from tests.fixtures.process import ADMIN, Bouncer, StartBouncer
from tests.fixtures.stream import Stream
from tests.fixtures.waiting import until


def refusal(bouncer: Bouncer, command: str, **options: Any) -> tuple[str, str]:
    """(SQLSTATE, message) of a console command that must fail."""
    with pytest.raises(psycopg.Error) as caught:
        bouncer.admin(command, **options)
    assert caught.value.diag.sqlstate
    return caught.value.diag.sqlstate, caught.value.diag.message_primary or ""


# ---- the same as PgBouncer


REFUSALS = {
    "frobnicate": "invalid command 'frobnicate', use SHOW HELP;",
    "SHOW NOTHING;": "invalid command 'SHOW NOTHING;', use SHOW HELP;",
    "RESUME": "pooler is not paused",
    "RESUME app": "database app is not paused",
    "PAUSE nowhere": "no such database: nowhere",
    "PAUSE pgbouncer": "cannot pause admin db: pgbouncer",
    "KILL pgbouncer": "cannot kill admin db: pgbouncer",
    "DISABLE": "a database is required",
    "DISABLE pgbouncer": "cannot disable admin db: pgbouncer",
    "RECONNECT pgbouncer": "cannot reconnect admin db: pgbouncer",
    "WAIT_CLOSE pgbouncer": "cannot wait in admin db: pgbouncer",
    "SET nothing = 1": "SET failed",
    "SET pool_mode = 'nothing'": "SET failed",
}


@pytest.mark.slow
def test_refusals_are_in_pgbouncers_words(start_same: StartBouncer) -> None:
    bouncer = start_same()
    answers = {command: refusal(bouncer, command) for command in REFUSALS}
    assert answers == {command: ("08P01", message) for command, message in REFUSALS.items()}


@pytest.mark.slow
def test_a_stats_user_may_only_look(start_either: StartBouncer) -> None:
    bouncer = start_either(stats_users="app_user", users={"app_user": "", "nobody": "", SUPERUSER: ""})
    assert bouncer.admin("SHOW POOLS", user="app_user") == bouncer.admin("SHOW POOLS", user="app_user")
    for command in ("RELOAD", "PAUSE", "KILL app", "SHUTDOWN", "SET max_client_conn = 5"):
        assert refusal(bouncer, command, user="app_user") == ("08P01", "admin access needed")
    with pytest.raises(psycopg.OperationalError, match="not allowed"):
        bouncer.admin("SHOW POOLS", user="nobody")


TAGS = {
    "SHOW POOLS": "SHOW",
    "SHOW client_encoding": "SHOW",
    "SHOW HELP": "SHOW",
    "RELOAD": "RELOAD",
    "SET max_client_conn = 77": "SET max_client_conn=77",
    "SET client_encoding = 'UTF8'": "SET",
    "RECONNECT": "RECONNECT",
    "WAIT_CLOSE": "WAIT_CLOSE",
    "DISABLE app": "DISABLE",
    "PAUSE": "PAUSE",
    "RESUME": "RESUME",
}


@pytest.mark.slow
def test_tags(start_either: StartBouncer) -> None:
    with start_either().connect(ADMIN, cursor_factory=psycopg.ClientCursor) as connection:
        assert {command: connection.execute(command.encode()).statusmessage for command in TAGS} == TAGS


SHARED = ("POOLS", "DATABASES", "CLIENTS", "SERVERS", "STATS_TOTALS", "LISTS", "CONFIG", "USERS", "MEM")


@pytest.mark.slow
def test_what_stood_in_the_views_in_1_18_stands_there_in_the_same_order(
    start_pooler: StartBouncer, start_pgbouncer: StartBouncer
) -> None:
    ours, theirs = start_pooler(), start_pgbouncer()
    for bouncer in (ours, theirs):
        bouncer.sql("SELECT 1")
    for view in SHARED:
        with ours.connect(ADMIN, cursor_factory=psycopg.ClientCursor) as one:
            mine = [(c.name, c.type_code) for c in one.execute(f"SHOW {view}".encode()).description or ()]
        with theirs.connect(ADMIN, cursor_factory=psycopg.ClientCursor) as other:
            old = [(c.name, c.type_code) for c in other.execute(f"SHOW {view}".encode()).description or ()]
        renamed = {"reserve_pool": "reserve_pool_size"}
        known = [(renamed.get(name, name), oid) for name, oid in old]
        assert [column for column in mine if column in known] == known, view


def open_sockets(bouncer: Bouncer) -> list[dict[str, Any]]:
    return sorted(bouncer.admin("SHOW FDS"), key=lambda row: (row["task"], row["addr"], row["fd"]))


@pytest.mark.one_process("each worker has a server of its own")
def test_fds_are_the_open_sockets_of_pools_and_listeners(start_suspendable: StartBouncer) -> None:
    bouncer = start_suspendable(server_tls_sslmode="disable")
    with bouncer.connect() as busy, bouncer.connect() as idle:
        idle.execute("SELECT 1")
        busy.execute("SET client_encoding = 'LATIN1'")
        busy.execute("BEGIN")
        found = open_sockets(bouncer)
        held = {int(name) for name in os.listdir(f"/proc/{bouncer.pid}/fd")}
    assert {row["fd"] for row in found} <= held
    by_task = {task: [row for row in found if row["task"] == task] for task in ("pooler", "client", "server")}
    assert [(row["addr"], row["port"]) for row in by_task["pooler"]] == [
        ("127.0.0.1", bouncer.port),
        ("unix", bouncer.port),
    ]
    assert all(row["user"] is row["database"] is row["client_encoding"] is None for row in by_task["pooler"])
    assert len(by_task["client"]) == 2
    assert {(row["user"], row["database"], row["std_strings"]) for row in by_task["client"]} == {
        (SUPERUSER, "app", "on")
    }
    (server,) = by_task["server"]
    linked = [row for row in by_task["client"] if row["link"]]
    assert [(row["link"], row["fd"], row["client_encoding"]) for row in linked] == [
        (server["fd"], server["link"], server["client_encoding"])
    ]
    assert server["client_encoding"] == "LATIN1"


def test_fds_never_show_what_is_secret(start_pooler: StartBouncer, cluster: Cluster) -> None:
    pair = cluster.server_pair
    bouncer = start_pooler(
        auth_type="plain",
        admin_users="scram_user",
        client_tls_sslmode="allow",
        client_tls_cert_file=pair.cert,
        client_tls_key_file=pair.key,
        server_tls_sslmode="disable",
    )
    with bouncer.connect(user="scram_user", sslmode="disable"), bouncer.connect(user="scram_user", sslmode="require"):
        found = bouncer.admin("SHOW FDS", user="scram_user")
    assert len([row for row in found if row["task"] == "client"]) == 1, "what has TLS is not listed, as in PgBouncer"
    secret = ("password", "scram_client_key", "scram_server_key", "cancel")
    assert {tuple(row[name] for name in secret) for row in found} == {(None, None, None, 0)}


@pytest.mark.one_process("each worker counts what it has itself")
def test_mem_counts_the_objects_there_are(start_pooler: StartBouncer) -> None:
    bouncer = start_pooler()
    with bouncer.connect(prepare_threshold=0) as client:
        client.execute("SELECT 1")
        rows = {row["name"]: row for row in bouncer.admin("SHOW MEM")}
    counted = {name: row["used"] for name, row in rows.items()}
    assert counted["client_cache"] == 2  # with the console that asks
    assert counted["server_cache"] == counted["pool_cache"] == 1
    assert counted["prepared_statement_cache"] == counted["server_prepared_statement_cache"] == 1
    assert (counted["db_cache"], counted["user_cache"], counted["peer_cache"]) == (1, 1, 0)
    assert (counted["outstanding_request_cache"], counted["iobuf_cache"], counted["credentials_cache"]) == (0, 0, 0)
    assert counted["var_list_cache"] >= 1
    for name, row in rows.items():
        assert row["size"] > 0 or name == "iobuf_cache"
        assert row["memtotal"] == row["size"] * (row["used"] + row["free"])


def test_mem_counts_what_is_under_way(start_pooler: StartBouncer) -> None:
    """A query that is not answered, and the beginning of a message of which the rest is to come."""
    bouncer = start_pooler()
    address = ("127.0.0.1", bouncer.port)
    with Stream(address).login() as one, Stream(address).login() as other:
        one.send(stream.query("SELECT pg_sleep(30)"))
        other.send(stream.query("SELECT 1")[:3])

        def counted() -> tuple[int, int]:
            used = {row["name"]: row["used"] for row in bouncer.admin("SHOW MEM")}
            return used["outstanding_request_cache"], used["iobuf_cache"]

        until(lambda: counted() == (1, 1), "both to be counted")


def test_mem_has_the_names_of_pgbouncer(start_pooler: StartBouncer, start_newest_pgbouncer: StartBouncer) -> None:
    both = (start_pooler(), start_newest_pgbouncer())
    ours, theirs = ([row["name"] for row in bouncer.admin("SHOW MEM")] for bouncer in both)
    assert [name for name in ours if name != "prepared_statement_cache"] == theirs


# ---- counted traffic


def totals(bouncer: Bouncer) -> dict[str, int]:
    row = next(row for row in bouncer.admin("SHOW STATS_TOTALS") if row["database"] == "app")
    return {name: int(value) for name, value in row.items() if name != "database"}


def gained(bouncer: Bouncer, before: dict[str, int]) -> dict[str, int]:
    return {name: value - before[name] for name, value in totals(bouncer).items()}


def test_queries_and_transactions_are_counted(start_either: StartBouncer) -> None:
    bouncer = start_either()
    with bouncer.connect(cursor_factory=psycopg.ClientCursor) as connection:
        connection.execute("SELECT 1")
        before = totals(bouncer)
        for _ in range(5):
            connection.execute("SELECT 1")
        connection.execute("BEGIN")
        for _ in range(3):
            connection.execute("SELECT 1")
        connection.execute("COMMIT")
        after = gained(bouncer, before)
    assert (after["query_count"], after["xact_count"]) == (10, 6)
    assert after["bytes_received"] > 0
    assert after["bytes_sent"] > after["bytes_received"]


@pytest.mark.slow
def test_every_front_shows_the_same_counts(pooler: Bouncer) -> None:
    for _ in range(4):
        pooler.sql("SELECT 1")
    with pooler.connect(ADMIN, row_factory=psycopg.rows.dict_row) as console:
        stats = console.execute("SELECT * FROM stats WHERE database = 'app'").fetchone()
        assert stats is not None
        sums = console.execute("SELECT name, value FROM totals").fetchall()
        whole = {row["name"]: row["value"] for row in sums}
        databases = console.execute("SELECT sum(total_query_count)::int AS n FROM stats").fetchone()
        assert databases == {"n": whole["total_query_count"]}
        assert totals(pooler)["query_count"] == stats["total_query_count"] == 4


def test_how_long_the_loop_was_busy_stands_in_a_view(start_pooler: StartBouncer) -> None:
    pooler = start_pooler(stats_period=1)
    (row,) = pooler.admin("SHOW LOOP")
    assert 0 < row["longest_turn_cpu_us"] < 60_000_000
    assert 0 < row["longest_turn_us"] < 60_000_000


def test_io_uring_can_be_switched_off(start_pooler: StartBouncer) -> None:
    pooler = start_pooler(sections={"pooler": {"io_uring": "no"}})
    about = {row["key"]: row["value"] for row in pooler.admin("SHOW ABOUT")}
    assert about["io_uring"] == "no (switched off)"
    assert pooler.sql("SELECT 7") == [(7,)]


# ---- SQL over what is


@contextmanager
def waiting_clients(bouncer: Bouncer, count: int) -> Iterator[None]:
    """One client holds the only server, `count` others queue for it, one after the other."""
    with ExitStack() as stack:
        holder = stack.enter_context(bouncer.connect())
        holder.execute("BEGIN")
        others = [stack.enter_context(bouncer.connect(application_name=f"queue{n}")) for n in range(count)]
        threads = [threading.Thread(target=one.execute, args=("SELECT 1",)) for one in others]

        def queue(length: int) -> None:
            until(lambda: bouncer.pool()["cl_waiting"] == length)

        for number, thread in enumerate(threads, 1):
            thread.start()
            queue(number)
        try:
            yield
        finally:
            holder.execute("ROLLBACK")
            for thread in threads:
                thread.join()


@pytest.mark.slow
def test_sql_finds_who_waits_and_for_whom(start_pooler: StartBouncer) -> None:
    pooler = start_pooler(default_pool_size=1)
    with waiting_clients(pooler, 3), pooler.connect(ADMIN) as console:
        queued = console.execute("SELECT application_name FROM waiting ORDER BY since, id").fetchall()
        assert [name for (name,) in queued] == ["queue0", "queue1", "queue2"]
        assert console.execute(
            "SELECT database, sum(cl_waiting) FROM pools GROUP BY database HAVING sum(cl_waiting) > %s", (1,)
        ).fetchall() == [("app", 3)]
        linked = "SELECT count(*) FROM clients c JOIN servers s ON c.link = s.ptr AND s.link = c.ptr"
        assert console.execute(linked).fetchone() == (1,)
        shown = console.execute("SHOW POOLS WHERE cl_waiting > 0").fetchall()
        assert [row[0] for row in shown] == ["app"]


@pytest.mark.slow
def test_sql_reckons_with_times_and_an_unknown_name_has_a_hint(start_pooler: StartBouncer) -> None:
    pooler = start_pooler()
    with pooler.connect("app") as client, pooler.connect(ADMIN) as console:
        client.execute("SELECT 1")
        aged = "SELECT now() - connect_time, connect_time > now() - interval '1 hour' FROM clients"
        ((age, young),) = console.execute(f"{aged} WHERE database = 'app'").fetchall()
        assert (0 <= age.total_seconds() < 3600, young) == (True, True)
        for command, hint in (("PAUSE ap", 'Perhaps you meant "app".'), ("RESUME xyzzy", None)):
            with pytest.raises(psycopg.Error, match="no such database") as refused:
                console.execute(command)
            assert refused.value.diag.message_hint == hint


@pytest.mark.slow
def test_killing_the_client_that_sql_found(start_pooler: StartBouncer) -> None:
    pooler = start_pooler(default_pool_size=1)
    with pooler.connect(application_name="victim") as victim, pooler.connect(ADMIN) as console:
        victim.execute("BEGIN")
        found = console.execute("SELECT id FROM clients WHERE application_name = %s", ("victim",)).fetchone()
        assert found
        console.execute(f"KILL_CLIENT {found[0]}".encode())
        with pytest.raises(psycopg.OperationalError):
            victim.execute("SELECT 1")
        until(lambda: console.execute("SELECT count(*) FROM clients WHERE database = 'app'").fetchone() == (0,))


@pytest.mark.slow
def test_history_and_latency_tell_of_the_last_periods(start_pooler: StartBouncer) -> None:
    pooler = start_pooler(stats_period=1)
    with pooler.connect() as connection, pooler.connect(ADMIN) as console:

        def busy_periods() -> int:
            connection.execute("SELECT pg_sleep(0.02)")
            row = console.execute("SELECT count(*) FROM history WHERE database = 'app' AND tps > 0").fetchone()
            return row[0] if row else 0

        until(lambda: busy_periods() >= 2)
        latency = console.execute(
            "SELECT query_count, query_p50, query_p99, query_max FROM latency WHERE database = 'app'"
        ).fetchone()
        assert latency
        count, median, most, longest = latency
        assert count > 0
        assert 20_000 <= median <= most <= longest
        time, average = console.execute(
            "SELECT max(time), max(avg_query_time) FROM history WHERE database = 'app'"
        ).fetchone() or (None, 0)
        assert time is not None
        assert average >= 10_000  # a query may be counted in one period and its time in the next


# ---- waiting commands


def test_pause_waits_and_a_cancel_request_resumes(start_pooler: StartBouncer) -> None:
    pooler = start_pooler()
    with pooler.connect() as holder, pooler.connect(ADMIN) as console:
        holder.execute("BEGIN")
        outcome: list[BaseException | str] = []

        def pause() -> None:
            try:
                outcome.append(console.execute("PAUSE").statusmessage or "")
            except psycopg.Error as error:
                outcome.append(error)

        thread = threading.Thread(target=pause)
        thread.start()
        until(lambda: pooler.admin("SHOW STATE")[1] == {"key": "paused", "value": "yes"})
        console.cancel_safe()
        thread.join(20)
        assert isinstance(outcome[0], psycopg.errors.QueryCanceled)
        assert pooler.admin("SHOW STATE")[0] == {"key": "active", "value": "yes"}
        holder.execute("COMMIT")
        assert pooler.sql("SELECT 1") == [(1,)]


def test_an_admin_who_leaves_while_waiting_is_noticed(start_pooler: StartBouncer) -> None:
    pooler = start_pooler()
    with pooler.connect() as holder:
        holder.execute("BEGIN")
        console = pooler.connect(ADMIN)
        console.pgconn.send_query(b"WAIT_CLOSE app; PAUSE app")
        until(lambda: any(row["paused"] for row in pooler.admin("SHOW DATABASES")))
        before = len([row for row in pooler.admin("SHOW POOLS") if row["database"] == ADMIN])
        console.close()
        assert before
        until(lambda: "closing because: client" in pooler.log_text())
        assert pooler.admin("SHOW VERSION") == [{"version": "PgBouncer 1.26.1"}]


# ---- other ways in


@pytest.mark.slow
def test_asyncpg_and_psql_at_the_real_console(pooler: Bouncer) -> None:
    async def scenario() -> list[str]:
        url = f"postgresql://postgres@127.0.0.1:{pooler.port}/{ADMIN}"
        connection = await asyncpg.connect(url, ssl=False)
        try:
            rows = await connection.fetch("SELECT name FROM databases WHERE name <> $1 ORDER BY 1", ADMIN)
            return [row["name"] for row in rows]
        finally:
            await connection.close()

    assert asyncio.run(scenario()) == ["app", "other"]
    listed = pooler.psql("-c", r"\d", dbname=ADMIN)
    assert "public|pools|view|postgres" in listed
    assert pooler.psql("-c", "SHOW VERSION", dbname=ADMIN).strip() == "PgBouncer 1.26.1"


def test_startup_parameters_of_any_driver_are_taken(pooler: Bouncer) -> None:
    options = "-c extra_float_digits=2 -c search_path=x -c statement_timeout=5000"
    with pooler.connect(ADMIN, options=options, application_name="probe") as console:
        assert console.execute("SHOW application_name").fetchone() == ("probe",)


def test_a_session_that_asks_is_one_query_of_the_admin_database(start_same: StartBouncer) -> None:
    """However much it asks, as with PgBouncer; it stands in the totals too."""
    bouncer = start_same()
    bouncer.sql("SELECT 1")
    bouncer.admin("SHOW VERSION")
    address = ("127.0.0.1", bouncer.port)
    with Stream(address).login(ADMIN) as silent, Stream(address).login(ADMIN) as session:
        for _ in range(3):
            assert [b"total_query_count", b"3"] in session.rows("SHOW TOTALS")
        silent.query("SHOW VERSION")
    (row,) = [row for row in bouncer.admin("SHOW STATS") if row["database"] == ADMIN]
    assert (row["total_query_count"], row["total_xact_count"], row["total_query_time"]) == (4, 4, 0)
