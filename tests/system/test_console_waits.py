"""The console's commands on real clients and servers: what waits for what, who is let through, who is dropped. Held to
Debian's PgBouncer where that knows the command.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import closing
from typing import Any

import psycopg
import pytest

from tests.fixtures.cluster import SUPERUSER, Cluster
from tests.fixtures.process import ADMIN, Bouncer, StartBouncer
from tests.fixtures.waiting import free_port, until

Rows = list[tuple[Any, ...]]


class Asked:
    """Something that runs in a thread of its own, and what came of it."""

    def __init__(self, work: Callable[[], Any]) -> None:
        self.result: Any = None
        self.error: Exception | None = None
        self._work = work
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            self.result = self._work()
        except psycopg.Error as error:
            self.error = error

    @property
    def pending(self) -> bool:
        return self._thread.is_alive()

    def outcome(self) -> Any:
        self._thread.join(20)
        assert not self.pending
        if self.error is not None:
            raise self.error
        return self.result


def ask(client: psycopg.Connection[Any], query: str = "SELECT 1") -> Asked:
    return Asked(lambda: client.execute(query.encode()).fetchall())


def command(bouncer: Bouncer, text: str) -> Asked:
    return Asked(lambda: bouncer.admin(text))


def servers(bouncer: Bouncer, database: str = "app") -> int:
    return sum(row["database"] == database for row in bouncer.admin("SHOW SERVERS"))


def backend(client: psycopg.Connection[Any]) -> int:
    row = client.execute("SELECT pg_backend_pid()").fetchone()
    assert row
    return int(row[0])


def paused(bouncer: Bouncer, database: str = "app") -> bool:
    return any(row["name"] == database and row["paused"] for row in bouncer.admin("SHOW DATABASES"))


# ---- PAUSE, RESUME


@pytest.mark.parametrize("name", ["app", ""])
def test_pause_waits_for_transactions_and_resume_goes_on(start_either: StartBouncer, name: str) -> None:
    bouncer = start_either()
    with bouncer.connect() as busy, bouncer.connect() as idle:
        busy.execute("BEGIN")
        idle.execute("SELECT 1")
        pause = command(bouncer, f"PAUSE {name}".strip())
        until(lambda: servers(bouncer) == 1, "the idle server to be closed")
        queued = ask(idle)
        until(lambda: bouncer.pool()["cl_waiting"] == 1)
        assert pause.pending
        assert busy.execute("SELECT 2").fetchone() == (2,)
        busy.execute("COMMIT")
        pause.outcome()
        assert servers(bouncer) == 0
        assert queued.pending
        bouncer.admin(f"RESUME {name}".strip())
        assert queued.outcome() == [(1,)]


def test_pause_of_one_database_leaves_the_others(start_either: StartBouncer) -> None:
    bouncer = start_either()
    bouncer.sql("SELECT 1")
    bouncer.admin("PAUSE app")
    assert paused(bouncer)
    assert bouncer.sql("SELECT 1", dbname="other") == [(1,)]
    newcomer = Asked(lambda: bouncer.sql("SELECT 4"))
    until(lambda: bouncer.pool()["cl_waiting"] == 1)
    bouncer.admin("RESUME app")
    assert newcomer.outcome() == [(4,)]


def test_a_session_holds_a_pause_up_until_it_ends(start_either: StartBouncer) -> None:
    bouncer = start_either(pool_mode="session")
    with bouncer.connect() as session:
        session.execute("SELECT 1")
        pause = command(bouncer, "PAUSE")
        bouncer.wait_log("PAUSE command issued")
        assert session.execute("SELECT 2").fetchone() == (2,)
        assert pause.pending
    pause.outcome()
    bouncer.admin("RESUME")


# ---- SUSPEND, which PgBouncer had until 1.26


def test_a_paused_database_cannot_be_suspended(start_suspendable: StartBouncer) -> None:
    bouncer = start_suspendable()
    bouncer.admin("PAUSE app")
    with pytest.raises(psycopg.Error, match="cannot suspend with paused databases"):
        bouncer.admin("SUSPEND")


def test_suspend_holds_everything_and_resume_lets_go(start_suspendable: StartBouncer) -> None:
    bouncer = start_suspendable()
    with bouncer.connect() as client, bouncer.connect(ADMIN, cursor_factory=psycopg.ClientCursor) as console:
        client.execute("BEGIN")
        console.execute(b"SUSPEND")
        waiting = ask(client)
        for word in (b"SUSPEND", b"PAUSE"):
            with pytest.raises(psycopg.Error, match="already suspended"):
                console.execute(word)
        assert waiting.pending
        console.execute(b"RESUME")
        assert waiting.outcome() == [(1,)]
        client.execute("COMMIT")


def test_an_admin_who_is_gone_suspends_nothing(start_suspendable: StartBouncer) -> None:
    bouncer = start_suspendable()
    with bouncer.connect() as client:
        with closing(bouncer.connect(ADMIN, cursor_factory=psycopg.ClientCursor)) as console:
            console.execute(b"SUSPEND")
            waiting = ask(client)
        assert waiting.outcome() == [(1,)]
    bouncer.wait_log("admin disappeared when suspended, doing RESUME")


# ---- KILL


@pytest.mark.parametrize("name", ["app", ""])
def test_kill_drops_all_and_the_database_waits_for_resume(start_pooler: StartBouncer, name: str) -> None:
    bouncer = start_pooler()
    with closing(bouncer.connect()) as busy, closing(bouncer.connect()) as idle, bouncer.connect("other") as other:
        busy.execute("BEGIN")
        other.execute("SELECT 1")
        bouncer.admin(f"KILL {name}".strip())
        for client in (busy, idle):
            with pytest.raises(psycopg.Error, match="database removed"):
                client.execute("SELECT 1")
        assert servers(bouncer) == 0
        if name:
            assert other.execute("SELECT 1").fetchone() == (1,)
        newcomer = Asked(lambda: bouncer.sql("SELECT 4"))
        until(lambda: bouncer.pool()["cl_waiting"] == 1)
        bouncer.admin("RESUME app")
        assert newcomer.outcome() == [(4,)]


def test_kill_client(start_pooler: StartBouncer) -> None:
    pooler = start_pooler(default_pool_size=1)
    with closing(pooler.connect(application_name="holder")) as holder, pooler.connect() as queued:
        holder.execute("BEGIN")
        waiting = ask(queued)
        until(lambda: pooler.pool()["cl_waiting"] == 1)
        number = next(r["id"] for r in pooler.admin("SHOW CLIENTS") if r["application_name"] == "holder")
        pooler.admin(f"KILL_CLIENT {number}")
        with pytest.raises(psycopg.Error, match="admin forced disconnect"):
            holder.execute("SELECT 1")
        assert waiting.outcome() == [(1,)]
        with pytest.raises(psycopg.Error, match="client not found"):
            pooler.admin(f"KILL_CLIENT {number}")
        with pytest.raises(psycopg.Error, match="invalid client pointer supplied"):
            pooler.admin("KILL_CLIENT nobody")


# ---- DISABLE, ENABLE


def test_disable_refuses_only_new_clients(start_either: StartBouncer) -> None:
    bouncer = start_either()
    with bouncer.connect() as client:
        client.execute("SELECT 1")
        bouncer.admin("DISABLE app")
        with pytest.raises(psycopg.OperationalError, match=r"does not allow connections|is disabled"):
            bouncer.sql("SELECT 1")
        assert client.execute("SELECT 2").fetchone() == (2,)
        bouncer.admin("ENABLE app")
        assert bouncer.sql("SELECT 3") == [(3,)]


# ---- RECONNECT, WAIT_CLOSE


@pytest.mark.parametrize("name", ["app", ""])
def test_reconnect_and_wait_close(start_either: StartBouncer, name: str) -> None:
    bouncer = start_either()
    with bouncer.connect() as busy, bouncer.connect() as idle:
        busy.execute("BEGIN")
        first, second = backend(busy), backend(idle)
        bouncer.admin(f"RECONNECT {name}".strip())
        wait = command(bouncer, f"WAIT_CLOSE {name}".strip())
        assert backend(idle) != second
        assert backend(busy) == first
        assert wait.pending
        busy.execute("COMMIT")
        wait.outcome()
        assert backend(busy) != first


# ---- RELOAD, SET


def test_reload_meets_databases_and_users(start_either: StartBouncer, cluster: Cluster) -> None:
    bouncer = start_either()
    place = f"host={cluster.host} port={cluster.port}"
    with bouncer.connect() as moved, closing(bouncer.connect("other")) as removed:
        moved.execute("SELECT 1")
        removed.execute("SELECT 1")
        bouncer.databases = {"app": f"{place} dbname=other", "fresh": f"{place} dbname=app"}
        bouncer.settings["max_client_conn"] = 44
        bouncer.write()
        bouncer.admin("RELOAD")
        until(lambda: moved.execute("SELECT current_database()").fetchone() == ("other",))
        assert bouncer.sql("SELECT current_database()", dbname="fresh") == [("app",)]
        with pytest.raises(psycopg.Error):
            until(lambda: removed.execute("SELECT 1").fetchone() is None)
        with pytest.raises(psycopg.OperationalError, match=r"no such database: other|does not exist"):
            bouncer.sql("SELECT 1", dbname="other")
    assert {"key": "max_client_conn", "value": "44"}.items() <= next(
        row for row in bouncer.admin("SHOW CONFIG") if row["key"] == "max_client_conn"
    ).items()


def test_a_transaction_outlives_the_change_of_its_database(start_either: StartBouncer, cluster: Cluster) -> None:
    bouncer = start_either()
    with bouncer.connect() as client:
        client.execute("BEGIN")
        first = backend(client)
        bouncer.databases["app"] = f"host={cluster.host} port={cluster.port} dbname=other"
        bouncer.write()
        bouncer.admin("RELOAD")
        assert backend(client) == first
        client.execute("COMMIT")
        assert client.execute("SELECT current_database()").fetchone() == ("other",)


def test_reload_takes_limits_and_secrets(start_pooler: StartBouncer) -> None:
    bouncer = start_pooler(default_pool_size=1, auth_type="md5", users={SUPERUSER: "one"})
    with bouncer.connect(password="one") as holder, bouncer.connect(password="one") as other:
        holder.execute("BEGIN")
        waiting = ask(other)
        until(lambda: "new connection to server" in bouncer.log.read_text() and waiting.pending)
        bouncer.settings["default_pool_size"] = 2
        bouncer.users[SUPERUSER] = "two"
        bouncer.write()
        with bouncer.connect(ADMIN, password="one", cursor_factory=psycopg.ClientCursor) as console:
            console.execute(b"RELOAD")
        assert waiting.outcome() == [(1,)]
        with pytest.raises(psycopg.OperationalError, match=r"password authentication failed|SASL"):
            bouncer.connect(password="one")
        bouncer.connect(password="two").close()


BROKEN = {
    "setting": lambda b: b.settings.update(pool_mode="nothing"),
    "database": lambda b: b.databases.update(app="host=127.0.0.1 nothing=1"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_file_changes_nothing(start_pooler: StartBouncer, what: str) -> None:
    bouncer = start_pooler()
    with bouncer.connect() as client:
        first = backend(client)
        bouncer.settings["max_client_conn"] = 55
        BROKEN[what](bouncer)
        bouncer.write()
        with pytest.raises(psycopg.Error, match="RELOAD failed, see logs for additional details") as caught:
            bouncer.admin("RELOAD")
        assert caught.value.sqlstate == "F0000"
        shown = {row["key"]: row["value"] for row in bouncer.admin("SHOW CONFIG")}
        assert (shown["max_client_conn"], shown["pool_mode"]) == ("100", "transaction")
        assert backend(client) == first


def test_set_counts_at_once(start_either: StartBouncer) -> None:
    bouncer = start_either(default_pool_size=1)
    with bouncer.connect() as holder, bouncer.connect() as other:
        holder.execute("BEGIN")
        waiting = ask(other)
        until(lambda: bouncer.pool()["cl_waiting"] == 1)
        bouncer.admin("SET default_pool_size = 2")
        assert waiting.outcome() == [(1,)]
        bouncer.admin("SET query_wait_timeout = '17'")
        assert any(r["key"] == "query_wait_timeout" and r["value"] == "17" for r in bouncer.admin("SHOW CONFIG"))


# ---- databases by `*`


def wild(cluster: Cluster) -> dict[str, str]:
    where = f"host={cluster.host} port={cluster.port}"
    return {"app": f"{where} dbname=app", "*": where}


@pytest.mark.parametrize("again", [False, True])
def test_clients_of_databases_by_the_star_are_let_end_when_it_goes(
    start_either: StartBouncer, cluster: Cluster, again: bool
) -> None:
    bouncer = start_either(databases=wild(cluster), default_pool_size=1)
    with bouncer.connect("other") as busy, bouncer.connect("other") as queued, bouncer.connect("other") as idle:
        busy.execute("BEGIN")
        waiting = ask(queued)
        until(lambda: bouncer.pool("other")["cl_waiting"] == 1)
        star = bouncer.databases.pop("*")
        bouncer.write()
        bouncer.admin("RELOAD")
        if again:
            bouncer.databases["*"] = star
            bouncer.write()
            bouncer.admin("RELOAD")
        assert busy.execute("SELECT 2").fetchone() == (2,)
        busy.execute("COMMIT")
        assert waiting.outcome() == [(1,)]
        assert idle.execute("SELECT 3").fetchone() == (3,)
        assert bouncer.sql("SELECT 4", dbname="other") == [(4,)]


def test_no_database_is_made_by_a_star_that_has_gone(start_pooler: StartBouncer, cluster: Cluster) -> None:
    """PgBouncer goes on making them."""
    bouncer = start_pooler(databases=wild(cluster))
    del bouncer.databases["*"]
    bouncer.write()
    bouncer.admin("RELOAD")
    with pytest.raises(psycopg.OperationalError, match="no such database: other"):
        bouncer.sql("SELECT 1", dbname="other")


# ---- what has never been used


@pytest.mark.slow
@pytest.mark.parametrize("command", ["PAUSE", "DISABLE", "KILL"])
def test_a_word_about_a_database_that_nobody_has_used_holds(
    start_pooler: StartBouncer, cluster: Cluster, command: str
) -> None:
    """PgBouncer forgets it within a second."""
    bouncer = start_pooler(databases=wild(cluster), autodb_idle_timeout=1)
    bouncer.admin(f"{command} other")
    bouncer.admin("RECONNECT postgres")
    assert state(bouncer, "postgres") == (False, False)
    until(lambda: state(bouncer, "postgres") is None, "the other one to be forgotten")
    assert state(bouncer, "other") == (command != "DISABLE", command == "DISABLE")
    bouncer.admin(f"{'ENABLE' if command == 'DISABLE' else 'RESUME'} other")
    assert bouncer.sql("SELECT 1", dbname="other") == [(1,)]


def state(bouncer: Bouncer, database: str) -> tuple[bool, bool] | None:
    """(paused, disabled); None when it is not known."""
    rows = [row for row in bouncer.admin("SHOW DATABASES") if row["name"] == database]
    return (bool(rows[0]["paused"]), bool(rows[0]["disabled"])) if rows else None


@pytest.mark.slow
def test_a_pool_that_nobody_has_used_is_not_cleaned_up_at_once(start_pooler: StartBouncer, cluster: Cluster) -> None:
    """Nor, over and over, one that its database keeps for its user although no server can be had."""
    nowhere = f"host=127.0.0.1 port={free_port()} dbname=app user=postgres min_pool_size=1"
    bouncer = start_pooler(databases={"kept": nowhere}, pool_idle_timeout=1, server_login_retry=1)
    bouncer.wait_log("(?s)closing because: connect failed.*closing because: connect failed")
    assert "cleaning up idle pool" not in bouncer.log_text()
