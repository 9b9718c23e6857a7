"""PAUSE, RESUME, KILL and RECONNECT as scripts rely on them: which pause holds what, and what clients are told."""

from __future__ import annotations

import re
import threading
from contextlib import closing

import psycopg
import pytest

from tests.fixtures.cluster import Cluster
from tests.fixtures.process import ADMIN, Bouncer, StartBouncer
from tests.fixtures.waiting import DEADLINE, until


def at(cluster: Cluster) -> str:
    return f"host={cluster.host} port={cluster.port} dbname=app"


def paused(bouncer: Bouncer) -> set[str]:
    return {row["name"] for row in bouncer.admin("SHOW DATABASES") if row["paused"]}


def refusal(bouncer: Bouncer, command: str) -> str | None:
    with pytest.raises(psycopg.errors.ProtocolViolation) as caught:
        bouncer.admin(command)
    return caught.value.diag.message_primary


def test_a_pause_of_everything_is_no_pause_of_each(start_same: StartBouncer) -> None:
    bouncer = start_same()
    bouncer.sql("SELECT 1")
    bouncer.admin("PAUSE app")
    assert paused(bouncer) == {"app"}
    bouncer.admin("PAUSE")
    assert paused(bouncer) == {"app"}
    assert refusal(bouncer, "RESUME other") == "database other is not paused"
    assert refusal(bouncer, "PAUSE other") == "already paused"
    assert refusal(bouncer, "KILL other") == "already paused"
    bouncer.admin("RESUME")
    assert paused(bouncer) == {"app"}
    assert bouncer.sql("SELECT 1", dbname="other") == [(1,)]
    bouncer.admin("RESUME app")
    assert bouncer.sql("SELECT 1") == [(1,)]


def test_a_database_resumed_in_a_standstill_waits_for_its_end(start_either: StartBouncer) -> None:
    bouncer = start_either()
    with bouncer.connect() as client:
        client.execute("SELECT 1")
        bouncer.admin("PAUSE app")
        bouncer.admin("PAUSE")
        bouncer.admin("RESUME app")
        waiting = threading.Thread(target=lambda: client.execute("SELECT 1"))
        waiting.start()
        until(lambda: bouncer.pool()["cl_waiting"] == 1, "a client that waits")
        bouncer.admin("RESUME")
        waiting.join(DEADLINE)
        assert client.execute("SELECT 2").fetchone() == (2,)


def test_a_database_that_names_the_console_is_never_paused(start_either: StartBouncer) -> None:
    bouncer = start_either()
    assert refusal(bouncer, f"RESUME {ADMIN}") == f"database {ADMIN} is not paused"
    assert refusal(bouncer, "RESUME nowhere") == "no such database: nowhere"


def test_what_a_refused_command_leaves_in_the_log(start_either: StartBouncer) -> None:
    bouncer = start_either()
    for command, answer in (("RESUME app", "database app is not paused"), ("SET nowhere = 1", "SET failed")):
        assert refusal(bouncer, command) == answer
        label = r"C-0x[0-9a-f]+: pgbouncer/postgres@127\.0\.0\.1:\d+"
        assert re.search(rf" ERROR {answer}\n.* WARNING {label} pooler error: {answer}\n", bouncer.log_text())
    assert " ERROR unknown parameter: pgbouncer/nowhere\n" in bouncer.log_text()


def test_what_kill_tells(start_either: StartBouncer) -> None:
    bouncer = start_either()
    with closing(bouncer.connect()) as client:
        client.execute("BEGIN")
        bouncer.admin("KILL app")
        with pytest.raises(psycopg.OperationalError, match="database removed"):
            client.execute("SELECT 1")
    assert paused(bouncer) == {"app"}
    bouncer.admin("RESUME app")
    assert bouncer.sql("SELECT 1") == [(1,)]


def test_a_database_that_leaves_the_configuration(start_either: StartBouncer) -> None:
    bouncer = start_either()
    with closing(bouncer.connect("other")) as client:
        client.execute("SELECT 1")
        del bouncer.databases["other"]
        bouncer.write()
        bouncer.admin("RELOAD")
        with pytest.raises(psycopg.OperationalError, match="database removed"):
            client.execute("SELECT 1")
    said = "WARNING dropping database 'other' as it does not exist anymore or inactive auto-database"
    assert said in bouncer.log_text()


@pytest.mark.parametrize("fast", [0, 1])
def test_a_session_whose_server_is_condemned(start_either: StartBouncer, fast: int) -> None:
    bouncer = start_either(pool_mode="session", server_fast_close=fast)
    with closing(bouncer.connect()) as client, closing(bouncer.connect()) as busy:
        client.execute("SELECT 1")
        busy.execute("BEGIN")
        bouncer.admin("RECONNECT app")
        if not fast:
            assert client.execute("SELECT 1").fetchone() == (1,)
            return
        bouncer.wait_log("S-.*closing because: database configuration changed")
        with pytest.raises(psycopg.OperationalError, match="database configuration changed"):
            client.execute("SELECT 1")
        assert busy.execute("SELECT 1").fetchone() == (1,)
        busy.execute("COMMIT")
        # libpq may have read the farewell with the answer to COMMIT; then it says only that the end has come.
        with pytest.raises(psycopg.OperationalError):
            until(lambda: busy.execute("SELECT 1") is None, "the end of the session")


def test_a_reload_that_cannot_be(pooler: Bouncer) -> None:
    whole = pooler.ini.read_text()
    for line, said in (
        ("nowhere = 1", r"unknown parameter: pgbouncer/nowhere \(.*\.ini:2\)"),
        ("verbose = many", r'invalid value "many" for parameter verbose in configuration \(.*\.ini:2\): .*'),
        ("what is this", r"syntax error in configuration \(.*\.ini:2\), stopping loading"),
    ):
        pooler.ini.write_text(whole.replace("[pgbouncer]\n", f"[pgbouncer]\n{line}\n"))
        with pytest.raises(psycopg.errors.ConfigFileError, match="RELOAD failed, see logs for additional details"):
            pooler.admin("RELOAD")
        assert re.search(rf" ERROR {said}\n", pooler.log.read_text())
    assert pooler.log.read_text().count(" WARNING config file loading failed\n") == 3


def test_a_reload_of_tls_that_cannot_be_locks_nobody_out(start_either: StartBouncer) -> None:
    bouncer = start_either()
    bouncer.settings["client_tls_sslmode"] = "require"
    bouncer.write()
    with pytest.raises(psycopg.errors.ConfigFileError, match="RELOAD failed, see logs for additional details"):
        bouncer.admin("RELOAD")
    bouncer.wait_log("TLS configuration could not be reloaded, keeping old configuration")
    assert bouncer.sql("SELECT 1") == [(1,)]
    assert bouncer.admin("SHOW VERSION")


# ---- what a RELOAD takes away


def test_what_was_made_of_the_fallback_outlives_it(start_same: StartBouncer, cluster: Cluster) -> None:
    """Clients in the middle of a transaction, too, and newcomers, until nobody has used it for autodb_idle_timeout."""
    bouncer = start_same(databases={"*": f"host={cluster.host} port={cluster.port}", "other": at(cluster)})
    with bouncer.connect() as busy, bouncer.connect() as idle:
        idle.execute("SELECT 1")
        busy.execute("BEGIN")
        del bouncer.databases["*"]
        bouncer.write()
        bouncer.admin("RELOAD")
        assert busy.execute("SELECT 1").fetchone() == (1,)
        busy.execute("COMMIT")
        assert idle.execute("SELECT 2").fetchone() == (2,)
        assert bouncer.sql("SELECT 3") == [(3,)]
    if bouncer.name == "pooler":  # PgBouncer 1.26 goes by a `*` that is gone until it is started anew
        with pytest.raises(psycopg.OperationalError, match="no such database: template1"):
            bouncer.connect("template1")


def test_an_entry_of_its_own_takes_over_what_was_made_of_the_fallback(
    start_same: StartBouncer, cluster: Cluster
) -> None:
    bouncer = start_same(databases={"*": f"host={cluster.host} port={cluster.port}"})
    with bouncer.connect() as client:
        assert client.execute("SELECT current_database()").fetchone() == ("app",)
        bouncer.databases["app"] = at(cluster).replace("dbname=app", "dbname=other")
        bouncer.write()
        bouncer.admin("RELOAD")
        assert client.execute("SELECT current_database()").fetchone() == ("other",)


def test_a_kill_of_everything_is_one_of_each(start_same: StartBouncer) -> None:
    """Each database that has been in use is held until RESUME names it; one that has not is not."""
    bouncer = start_same()
    bouncer.sql("SELECT 1")
    bouncer.admin("KILL")
    assert paused(bouncer) == {"app"}
    assert [row["value"] for row in bouncer.admin("SHOW STATE")] == ["yes", "no"]
    assert refusal(bouncer, "RESUME") == "pooler is not paused"
    assert refusal(bouncer, "RESUME other") == "database other is not paused"
    assert bouncer.sql("SELECT 2", dbname="other") == [(2,)]
    bouncer.admin("RESUME app")
    assert bouncer.sql("SELECT 3") == [(3,)]
