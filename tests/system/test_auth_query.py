"""auth_user and auth_query: who is asked, what an answer may be, and what strangers learn of it."""

from __future__ import annotations

import re
from typing import Any

import psycopg
import pytest

from tests.fixtures import stream
from tests.fixtures.cluster import PASSWORDS, Cluster
from tests.fixtures.process import Bouncer, StartBouncer
from tests.fixtures.stream import Stream
from tests.fixtures.waiting import until

BY_NAME = "SELECT usename, passwd FROM pg_catalog.pg_shadow WHERE usename = $1"
HBA = "host all postgres 127.0.0.1/32 trust\nhost all all 127.0.0.1/32 scram-sha-256\n"
"""The administrator and asker comes in as it is, the others have to prove themselves."""


def asking(start: StartBouncer, *, method: str = "scram-sha-256", **settings: Any) -> Bouncer:
    """A pooler that knows no user but postgres by itself."""
    known = {"auth_type": "hba", "auth_user": "postgres", "users": {"postgres": ""}}
    bouncer = start(run=False, **known | settings)
    hba = bouncer.directory / "hba.conf"
    hba.write_text(HBA.replace("scram-sha-256", method))
    bouncer.settings["auth_hba_file"] = hba
    return bouncer.start()


def refusal(bouncer: Bouncer, dbname: str = "app", user: str = "scram_user", **more: str) -> str:
    """The message with which a login fails."""
    with pytest.raises(psycopg.OperationalError) as caught:
        bouncer.connect(dbname, user, **more)
    return re.sub(r"(?s).*failed: (FATAL:  )?", "", str(caught.value)).strip()


def who(bouncer: Bouncer, dbname: str = "app", user: str = "scram_user", **more: str) -> str:
    rows = bouncer.sql("SELECT current_user", dbname=dbname, user=user, **more)
    return str(rows[0][0])


@pytest.mark.one_process("each worker asks by a server of its own")
def test_a_user_who_is_not_in_auth_file(start_either: StartBouncer) -> None:
    bouncer = asking(start_either, auth_query=BY_NAME)
    assert who(bouncer) == "scram_user"
    assert refusal(bouncer, password="wrong") == "SASL authentication failed"
    asked = bouncer.pool("app", "postgres")
    assert (asked["sv_idle"] + asked["sv_used"], asked["cl_active"], asked["cl_waiting"]) == (1, 0, 0)


def test_the_default_query(start_pooler: StartBouncer) -> None:
    assert who(asking(start_pooler)) == "scram_user"


def test_passwords_rotate(start_either: StartBouncer, cluster: Cluster) -> None:
    bouncer = asking(start_either, auth_query=BY_NAME)
    cluster.sql("DROP ROLE IF EXISTS rotating; CREATE ROLE rotating LOGIN PASSWORD 'one'")
    assert who(bouncer, user="rotating", password="one") == "rotating"
    cluster.sql("ALTER ROLE rotating PASSWORD 'two'")
    assert refusal(bouncer, user="rotating", password="one") == "SASL authentication failed"
    assert who(bouncer, user="rotating", password="two") == "rotating"
    cluster.sql("ALTER ROLE rotating PASSWORD NULL")
    assert refusal(bouncer, user="rotating", password="two") == "SASL authentication failed"


@pytest.mark.parametrize(
    ("query", "reason", "detail"),
    [
        (BY_NAME.replace(" FROM", ", 1 FROM"), "expected 2 columns from auth_query, not 3", ""),
        ("UPDATE pg_class SET relname = $1 WHERE false", "unexpected response from auth_query", ""),
        (
            "SELECT no_such_column FROM pg_shadow WHERE usename = $1",
            "error response from auth_query",
            'error in auth_query: ERROR: column "no_such_column" does not exist',
        ),
        (
            "SELECT usename, (1/0)::text FROM pg_shadow WHERE usename = $1",
            "error response from auth_query",
            "error in auth_query: ERROR: division by zero",
        ),
        (
            "SELECT usename, passwd FROM pg_shadow",
            "error response from auth_query",
            "error in auth_query: ERROR: bind message supplies 1 parameters",
        ),
    ],
)
def test_answers_that_are_none(start_either: StartBouncer, query: str, reason: str, detail: str) -> None:
    """What is wrong is none of a stranger's business: it stands in the log."""
    bouncer = asking(start_either, auth_query=query)
    for user in ("scram_user", "nobody"):
        assert refusal(bouncer, user=user, password="x") == "bouncer config error"
    bouncer.wait_log(rf"S-\w+: app/postgres@\S+ closing because: {reason} \(age=")
    bouncer.wait_log(r"C-\w+: app/\S+@\S+ closing because: bouncer config error \(age=")
    bouncer.wait_log(re.escape(detail))
    assert bouncer.pool("app", "postgres")["sv_idle"] == 0


@pytest.mark.one_process("each worker asks by a server of its own")
@pytest.mark.parametrize(
    "query",
    [
        "SELECT NULL::text, passwd FROM pg_shadow WHERE usename = $1",
        "SELECT NULL::text, NULL::text WHERE $1 <> ''",
        "SELECT '', 'x' WHERE $1 <> ''",
        "SELECT usename, NULL::text FROM pg_shadow WHERE usename = $1",
        "SELECT usename, repeat('x', 65536) FROM pg_shadow WHERE usename = $1",
    ],
)
def test_a_row_without_a_user_is_none(start_pooler: StartBouncer, query: str) -> None:
    """One of NULLs is what a function gives that has found nobody. Nobody learns whether there was a row, and the
    server stays."""
    bouncer = asking(start_pooler, auth_query=query)
    for _ in range(3):
        for user in ("scram_user", "nobody"):
            assert refusal(bouncer, user=user, password="x") == "SASL authentication failed"
    assert bouncer.log.read_text().count(" new connection to server") == 1
    assert bouncer.pool("app", "postgres")["sv_idle"] == 1


def test_a_null_user_is_none_with_pgbouncer_as_well(start_either: StartBouncer) -> None:
    bouncer = asking(start_either, auth_query="SELECT NULL::text, NULL::text WHERE $1 <> ''")
    told = refusal(bouncer, user="nobody", password="x")
    assert told == ("no such user" if bouncer.name == "pgbouncer" else "SASL authentication failed")


def test_the_answers_name_counts(start_either: StartBouncer) -> None:
    """As with PgBouncer the login goes on under the name that the query gives."""
    query = "SELECT 'scram_user', (SELECT passwd FROM pg_shadow WHERE usename = 'scram_user') WHERE $1 <> ''"
    bouncer = asking(start_either, auth_query=query)
    assert who(bouncer, user="somebody", password=PASSWORDS["scram_user"]) == "scram_user"


def test_a_function_that_may_look_it_up(start_pooler: StartBouncer, cluster: Cluster) -> None:
    """As PgBouncer's manual advises: an auth_user without rights, with a secret in auth_file."""
    cluster.sql(
        "CREATE OR REPLACE FUNCTION look_up(who text, OUT name text, OUT secret text) LANGUAGE sql SECURITY DEFINER"
        " AS $$SELECT usename::text, passwd FROM pg_catalog.pg_shadow WHERE usename = who$$",
        dbname="app",
    )
    users = {"postgres": "", "md5_user": PASSWORDS["md5_user"]}
    query = "SELECT name, secret FROM public.look_up($1)"
    bouncer = asking(start_pooler, auth_user="md5_user", auth_query=query, users=users)
    assert who(bouncer) == "scram_user"
    assert bouncer.pool("app", "md5_user")["sv_idle"] == 1


def test_where_and_as_whom_is_asked(start_pooler: StartBouncer, cluster: Cluster) -> None:
    at = f"host={cluster.host} port={cluster.port}"
    bouncer = asking(
        start_pooler,
        auth_query=BY_NAME,
        auth_dbname="other",
        databases={
            "app": f"{at} dbname=app",
            "other": f"{at} dbname=other",
            "own": f"{at} dbname=app auth_user=tls_user auth_dbname=app auth_query='SELECT usename, ''plain'' AS p"
            " FROM pg_user WHERE usename = $1'",
            "forced": f"{at} dbname=app user=postgres",
        },
    )
    assert who(bouncer) == "scram_user"
    assert bouncer.pool("other", "postgres")["sv_idle"] == 1
    assert bouncer.pool("app", "postgres")["sv_idle"] == 0
    assert refusal(bouncer, "own") == "SASL authentication failed"
    assert who(bouncer, "forced") == "postgres"
    assert bouncer.sql("SELECT 1", dbname="own", user="trusty", password="plain") == [(1,)]


def test_an_auth_dbname_that_cannot_be_asked(start_pooler: StartBouncer, cluster: Cluster) -> None:
    at = f"host={cluster.host} port={cluster.port}"
    bouncer = asking(
        start_pooler, databases={"app": at, "other": at, "lost": f"{at} auth_dbname=nowhere"}, auth_dbname="other"
    )
    bouncer.admin("DISABLE other")
    assert refusal(bouncer) == 'authentication database "other" is disabled'
    assert refusal(bouncer, "lost") == "bouncer config error"
    bouncer.wait_log('authentication database "nowhere" is not configured')


@pytest.mark.slow
def test_the_question_waits_like_any_client(start_either: StartBouncer) -> None:
    bouncer = asking(start_either, auth_query=BY_NAME, default_pool_size=1, query_wait_timeout=1)
    with bouncer.connect() as busy, busy.transaction():
        busy.execute("SELECT 1")
        with Stream(("127.0.0.1", bouncer.port)) as client:
            client.send(stream.startup({"user": "scram_user", "database": "app"}))
            until(lambda: bouncer.pool("app", "postgres")["cl_waiting"] == 1)
            assert client.read().error["M"] == "query_wait_timeout"
    assert who(bouncer) == "scram_user"


def test_one_who_leaves_while_asking(start_pooler: StartBouncer) -> None:
    bouncer = asking(start_pooler, auth_query=BY_NAME, default_pool_size=1)
    with bouncer.connect() as busy, busy.transaction():
        busy.execute("SELECT 1")
        with Stream(("127.0.0.1", bouncer.port)) as client:
            client.send(stream.startup({"user": "scram_user", "database": "app"}))
            until(lambda: bouncer.pool("app", "postgres")["cl_waiting"] == 1)
        until(lambda: bouncer.pool("app", "postgres")["cl_waiting"] == 0)


def test_a_server_that_refuses_the_auth_user(start_pooler: StartBouncer) -> None:
    bouncer = asking(start_pooler, auth_query=BY_NAME, auth_user="ghost")
    assert refusal(bouncer) == 'role "ghost" does not exist'
    bouncer.wait_log(r"closing because: .*role \"ghost\" does not exist")


def test_unknown_users_answer_like_known_ones(start_pooler: StartBouncer) -> None:
    bouncer = asking(start_pooler)
    assert refusal(bouncer, user="nobody", password="x") == "SASL authentication failed"
    bouncer.wait_log("app/nobody@.* no such user: nobody")


def test_secrets_of_every_kind(start_pooler: StartBouncer) -> None:
    """Each passes on to the server; one who does not exist is asked like those who do."""
    bouncer = asking(start_pooler, method="md5")
    assert refusal(bouncer, user="nobody", password="x") == "password authentication failed"
    for user, words in (("md5_user", "password"), ("scram_user", "SASL"), ("md5_user", "password")):
        assert who(bouncer, user=user) == user
        for name in (user, "nobody"):
            assert refusal(bouncer, user=name, password="wrong") == f"{words} authentication failed"


def test_unknown_databases_answer_like_known_ones(start_pooler: StartBouncer) -> None:
    bouncer = asking(start_pooler, auth_query=BY_NAME, auth_dbname="other")
    assert refusal(bouncer, "ghost_town", password="wrong") == "SASL authentication failed"
    assert refusal(bouncer, "ghost_town", "nobody", password="x") == "SASL authentication failed"
    assert refusal(bouncer, "ghost_town") == "no such database: ghost_town"


@pytest.mark.slow
def test_strangers_leave_no_databases_behind(start_pooler: StartBouncer, cluster: Cluster) -> None:
    """With `*` everybody can name a database; they do not learn whether PostgreSQL has it, and nothing remains."""
    databases = {"*": f"host={cluster.host} port={cluster.port}"}
    bouncer = asking(start_pooler, databases=databases, autodb_idle_timeout=1)
    for number in range(3):
        assert refusal(bouncer, f"ghost_town_{number // 2}") == "SASL authentication failed"
        bouncer.wait_log(f'server login failed: FATAL database "ghost_town_{number // 2}" does not exist')
    assert who(bouncer) == "scram_user"
    known = {"app", "pgbouncer"}
    until(lambda: {row["name"] for row in bouncer.admin("SHOW DATABASES")} == known)


def test_many_at_once(start_either: StartBouncer) -> None:
    bouncer = asking(start_either, auth_query=BY_NAME, default_pool_size=2, pool_mode="session")
    clients = [Stream(("127.0.0.1", bouncer.port)) for _ in range(12)]
    try:
        for client in clients:
            client.send(stream.startup({"user": "md5_user", "database": "app"}))
        for client in clients:
            assert client.read().type == "R"
    finally:
        for client in clients:
            client.socket.close()
    until(lambda: bouncer.pool("app", "postgres")["cl_waiting"] == 0)
    assert bouncer.pool("app", "postgres")["sv_active"] == 0
