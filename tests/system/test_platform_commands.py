"""Heroku's commands on a real PostgreSQL: the article's walk with its exact lines, credentials, sharing, psql,
bad input, and a state in PostgreSQL; passwords in no argument list and no error.
"""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import psycopg
import pytest

from tests.fixtures.cluster import Cluster
from tests.fixtures.platform import Commands, Done
from tests.fixtures.waiting import free_port

PASSWORD = "p@ss/w:rd#1%?'\" \u00e4"
OWNER = "platform_owner"


@pytest.fixture(scope="module")
def server(cluster: Cluster) -> Iterator[Cluster]:
    """The session's cluster with an owner of two databases who is asked for a password full of special
    characters."""
    hba = cluster.data / "pg_hba.conf"
    before = hba.read_text()
    hba.write_text(f"host all {OWNER},readonly 127.0.0.1/32 scram-sha-256\n{before}")
    cluster.reload()
    cluster.sql(f"CREATE ROLE {OWNER} LOGIN CREATEROLE PASSWORD '{PASSWORD.replace(chr(39), chr(39) * 2)}'")
    for name in ("leader", "follower", "state"):
        cluster.sql(f"CREATE DATABASE {name} OWNER {OWNER}")
    yield cluster
    for name in ("leader", "follower", "state"):
        cluster.sql(f"DROP DATABASE {name} WITH (FORCE)")
    hba.write_text(before)
    cluster.reload()
    cluster.sql(f"DROP ROLE IF EXISTS readonly; DROP ROLE {OWNER}")


def url(server: Cluster, dbname: str) -> str:
    return f"postgres://{OWNER}:{quote(PASSWORD, safe='')}@127.0.0.1:{server.port}/{dbname}"


@pytest.fixture
def pooler(tmp_path: Path) -> Commands:
    return Commands(str(tmp_path / "state.db"))


@pytest.fixture
def example(pooler: Commands, server: Cluster) -> Commands:
    """example-app with two databases."""
    succeeded(pooler("apps:create", "example-app"))
    for dbname, plan, name, attachment in (
        ("leader", "standard-0", "postgresql-octagonal-12345", "DATABASE"),
        ("follower", "standard-4", "postgresql-flat-54321", "HEROKU_POSTGRESQL_SILVER"),
    ):
        words = ("--plan", plan, "--name", name, "--as", attachment, "--connection-limit", "400", "-a", "example-app")
        succeeded(pooler("db:register", "-", *words, stdin=url(server, dbname) + "\n"))
    return pooler


def succeeded(done: Done) -> Done:
    assert done.status == 0, done.err
    return done


def error(done: Done) -> str:
    """The message of a refused command, in Heroku's form; and that it does not tell the password."""
    assert done.status in (1, 2)
    assert PASSWORD not in done.err + done.out
    assert quote(PASSWORD, safe="") not in done.err + done.out
    line = next(line for line in done.err.splitlines() if "Error: " in line)
    return line.partition("Error: ")[2]


def test_the_articles_walk(example: Commands, server: Cluster) -> None:
    done = succeeded(
        example("pg:connection-pooling:attach", "DATABASE_URL", "--as", "DATABASE_CONNECTION_POOL", "-a", "example-app")
    )
    assert done.out == ""
    assert done.err == (
        "Enabling Connection Pooling on postgresql-octagonal-12345 to example-app... done\n"
        "Setting DATABASE_CONNECTION_POOL config vars and restarting example-app... done, v4\n"
    )
    pooled = succeeded(example("config:get", "DATABASE_CONNECTION_POOL_URL", "-a", "example-app")).out.strip()
    assert pooled == url(server, "leader").replace(f":{server.port}/", f":{server.port + 1}/")
    server.sql("CREATE TABLE one (); CREATE TABLE two ()", dbname="leader")
    info = succeeded(example("pg:info", "-a", "example-app")).out
    header, _, rows = info.partition("\n\n")
    assert header == "=== DATABASE_URL, DATABASE_CONNECTION_POOL_URL"
    assert "Plan:                  Standard 0\nStatus:                Available\n" in rows
    assert "\nTables:                2\n" in rows
    assert "\nConnections:           0/400\n" in rows
    assert "\nConnection Pooling:    Unavailable\n" in rows
    with psycopg.connect(url(server, "leader")):
        assert "\nConnections:           1/400\n" in succeeded(example("pg:info", "DATABASE", "-a", "example-app")).out
    assert "=== HEROKU_POSTGRESQL_SILVER_URL\n" in info
    done = succeeded(example("addons:detach", "DATABASE_CONNECTION_POOL", "--app", "example-app"))
    assert done.err == (
        "Detaching DATABASE_CONNECTION_POOL to postgresql-octagonal-12345 from example-app... done\n"
        "Unsetting DATABASE_CONNECTION_POOL config vars and restarting example-app... done, v5\n"
    )
    assert succeeded(example("config:get", "DATABASE_CONNECTION_POOL_URL", "-a", "example-app")).out == "\n"


@pytest.mark.slow
def test_the_pooler_is_seen_when_it_listens(example: Commands, server: Cluster) -> None:
    port = free_port()
    words = ("--name", "postgresql-near-1", "--pool-port", str(port), "--as", "NEAR", "-a", "example-app")
    server.sql("CREATE DATABASE near")
    succeeded(example("db:register", f"postgres://trusty@127.0.0.1:{server.port}/near", *words))
    succeeded(example("pg:connection-pooling:attach", "NEAR", "-a", "example-app"))
    assert "Connection Pooling:    Unavailable" in succeeded(example("pg:info", "NEAR", "-a", "example-app")).out
    with socket.create_server(("127.0.0.1", port)):
        assert "Connection Pooling:    Available" in succeeded(example("pg:info", "NEAR", "-a", "example-app")).out
    server.sql("DROP DATABASE near WITH (FORCE)")


def test_promotion(example: Commands) -> None:
    succeeded(example("pg:connection-pooling:attach", "DATABASE", "-a", "example-app"))
    done = succeeded(example("pg:promote", "HEROKU_POSTGRESQL_SILVER", "-a", "example-app"))
    first, *rest = done.err.splitlines()
    assert first.startswith("Ensuring an alternate alias for existing DATABASE_URL... HEROKU_POSTGRESQL_")
    assert rest == [
        "Promoting postgresql-flat-54321 to DATABASE_URL on example-app... done",
        "Reattaching pooler to new leader... done",
    ]
    assert succeeded(example("config:get", "DATABASE_CONNECTION_POOL_URL", "-a", "example-app")).out.endswith(
        "/follower\n"
    )
    again = example("pg:promote", "HEROKU_POSTGRESQL_SILVER", "-a", "example-app")
    assert error(again) == "postgresql-flat-54321 is already promoted on example-app"


@pytest.mark.slow
def test_psql_with_a_password_full_of_special_characters(example: Commands) -> None:
    done = succeeded(
        example.process(
            "pg:psql", "-c", "SELECT 'as ' || current_user || ' on ' || current_database()", "-a", "example-app"
        )
    )
    assert f"as {OWNER} on leader" in done.out
    assert done.err == "--> Connecting to postgresql-octagonal-12345\n"
    assert example.process("pg:psql", "-c", "nonsense", "-a", "example-app").status == 1


def test_sharing(example: Commands) -> None:
    succeeded(example("apps:create", "other-app"))
    done = succeeded(example("addons:attach", "example-app::DATABASE", "--as", "SHARED", "-a", "other-app"))
    assert done.err.startswith("Attaching postgresql-octagonal-12345 as SHARED to other-app... done\n")
    succeeded(example("pg:connection-pooling:attach", "example-app::DATABASE", "-a", "other-app"))
    names = succeeded(example("config", "--shell", "-a", "other-app")).out
    assert [line.partition("=")[0] for line in names.splitlines()] == ["DATABASE_CONNECTION_POOL_URL", "SHARED_URL"]
    assert "Billing App:           example-app\n" in succeeded(example("pg:info", "SHARED", "-a", "other-app")).out
    listed = succeeded(example("addons", "-a", "other-app")).out
    assert "(billed to example-app app)" in listed
    assert "as DATABASE on example-app app" in listed


def test_credentials(example: Commands, server: Cluster) -> None:
    done = succeeded(example("pg:credentials:create", "DATABASE", "--name", "readonly", "-a", "example-app"))
    assert done.err == "Creating credential readonly... done\n"
    succeeded(
        example(
            "addons:attach", "postgresql-octagonal-12345", "--credential", "readonly", "--as", "RO", "-a", "example-app"
        )
    )
    found = succeeded(example("config:get", "RO_URL", "RO_CONNECTION_POOL_URL", "-a", "example-app")).out.splitlines()
    with psycopg.connect(found[0]) as connection:
        assert connection.execute("SELECT current_user").fetchone() == ("readonly",)
    assert found[1] == found[0].replace(f":{server.port}/", f":{server.port + 1}/")
    assert "  readonly" in succeeded(example("pg:credentials", "-a", "example-app")).out
    again = example("pg:credentials:create", "DATABASE", "--name", "readonly", "-a", "example-app")
    assert error(again) == "Name readonly is already taken"
    attached = example(
        "pg:credentials:destroy", "DATABASE", "--name", "readonly", "--confirm", "example-app", "-a", "example-app"
    )
    assert error(attached) == "Credential readonly is still attached to example-app; detach it there first."
    succeeded(example("addons:detach", "RO", "-a", "example-app"))
    succeeded(
        example(
            "pg:credentials:destroy", "DATABASE", "--name", "readonly", "--confirm", "example-app", "-a", "example-app"
        )
    )
    assert server.sql("SELECT FROM pg_roles WHERE rolname = 'readonly'") == []


def test_a_database_that_is_down(example: Commands) -> None:
    """Registered with a warning, listed as what it is, refused a pool; the state as before."""
    place = f"postgres://u:{quote(PASSWORD, safe='')}@127.0.0.1:{free_port()}/d"
    done = succeeded(
        example("db:register", "-", "--name", "postgresql-down-1", "--as", "DOWN", "-a", "example-app", stdin=place)
    )
    assert "Warning: postgresql-down-1 does not answer yet: 127.0.0.1:" in done.err
    assert "Status:             Unavailable\n" in succeeded(example("pg:info", "DOWN", "-a", "example-app")).out
    before = succeeded(example("releases", "--json", "-a", "example-app")).out
    refused = example("pg:connection-pooling:attach", "DOWN", "-a", "example-app")
    assert error(refused).startswith("postgresql-down-1 cannot be reached: 127.0.0.1:")
    assert "... !\n" in refused.err
    assert "Error ID: service_unavailable" in refused.err
    assert error(example("pg:promote", "DOWN", "-a", "example-app")).startswith(
        "Database cannot be promoted while in state: unavailable"
    )
    assert succeeded(example("releases", "--json", "-a", "example-app")).out == before


def test_waiting_is_silent_when_there_is_nothing_to_wait_for(example: Commands, server: Cluster) -> None:
    done = succeeded(example("pg:wait", "-a", "example-app"))
    assert (done.out, done.err) == ("", "")
    bad = f"postgres://{OWNER}:wrong@127.0.0.1:{server.port}/state"
    succeeded(example("db:register", bad, "--name", "postgresql-bad-1", "--as", "BAD", "-a", "example-app"))
    assert "password authentication failed" in error(example("pg:wait", "BAD", "-a", "example-app"))


@pytest.mark.slow
def test_two_attaches_at_once(example: Commands) -> None:
    """Of one name for two databases, one gets it and the other hears so; of one name for one database, both
    agree."""
    words = ("pg:connection-pooling:attach", "--as", "POOL", "-a", "example-app")
    started = [example.start(*words, name, stderr=subprocess.PIPE) for name in ("DATABASE", "HEROKU_POSTGRESQL_SILVER")]
    errors = [process.communicate(timeout=60)[1] for process in started]
    assert sorted(process.returncode for process in started) == [0, 2]
    assert sum("Name POOL is already taken on example-app" in text for text in errors) == 1
    started = [example.start(*words[:1], "DATABASE", *words[3:], stderr=subprocess.PIPE) for _ in range(2)]
    assert [process.communicate(timeout=60)[1].count("done, v5") for process in started] == [1, 1]


@pytest.mark.parametrize(
    ("words", "message", "status"),
    [
        (("config", "-a", "no-app"), "Couldn't find that app.", 2),
        (("apps:create", "example-app"), "Name example-app is already taken", 2),
        (
            ("config:set", "BAD-NAME=1", "-a", "example-app"),
            "Config var names must start with a letter or underscore",
            2,
        ),
        (("config:set", "NOVALUE", "-a", "example-app"), "NOVALUE is invalid. Must be in the format FOO=bar.", 1),
        (("config:set", "DATABASE_URL=x", "-a", "example-app"), "Cannot overwrite attachment values DATABASE_URL.", 2),
        (("addons:detach", "NOPE", "-a", "example-app"), "Couldn't find that add on attachment.", 2),
        (("addons:info", "nope"), "Couldn't find that add-on.", 2),
        (
            ("pg:promote", "NOPE", "-a", "example-app"),
            "Unknown database: NOPE. Valid options are: DATABASE, HEROKU_",
            1,
        ),
        (("db:register", "nonsense", "-a", "example-app"), "That is not a database URL.", 2),
        (("db:register", "postgres://u:p@h/d", "--plan", "gold", "-a", "example-app"), "Couldn't find that plan.", 2),
        (("pg:info",), "Missing required flag:", 2),
        (("pg:info", "--nonsense=secret", "-a", "example-app"), "unknown flag --nonsense", 2),
        (("pg:connection-pooling:attach", "--as", "lower", "-a", "example-app"), "Name must start with a letter", 2),
    ],
)
def test_bad_input(example: Commands, words: tuple[str, ...], message: str, status: int) -> None:
    done = example(*words)
    assert error(done).startswith(message)
    assert done.status == status
    assert "secret" not in done.err


def test_essential_plans_are_refused_a_pool(example: Commands) -> None:
    words = ("--plan", "essential-0", "--name", "postgresql-small-1", "--as", "SMALL", "-a", "example-app")
    succeeded(example("db:register", "postgres://u:p@127.0.0.1:1/d", *words))
    done = example("pg:connection-pooling:attach", "SMALL", "-a", "example-app")
    assert error(done) == "You can't perform this operation on Essential-tier databases."


@pytest.mark.slow
def test_a_url_given_as_an_argument_is_blotted_out(pooler: Commands) -> None:
    """While the command waits for a database that never answers, its argument list holds no password."""
    succeeded(pooler("apps:create", "example-app"))
    with socket.create_server(("127.0.0.1", 0)) as silent:
        place = f"postgres://u:sesame@127.0.0.1:{silent.getsockname()[1]}/d"
        process = pooler.start("db:register", place, "-a", "example-app", stderr=subprocess.PIPE)
        connection, _ = silent.accept()
        arguments = Path(f"/proc/{process.pid}/cmdline").read_bytes()
        assert b"db:register" in arguments
        assert b"sesame" not in arguments
        connection.close()
        process.communicate(timeout=60)
    assert process.returncode == 0
    assert "sesame" in succeeded(pooler("config:get", "DATABASE_URL", "-a", "example-app")).out


@pytest.mark.slow
def test_a_state_in_postgresql(server: Cluster, tmp_path: Path) -> None:
    """The same commands, several at once on an empty database, and nothing in it that is not named pooler_*."""
    pooler = Commands(url(server, "state"))
    started = [pooler.start("apps:create", f"app-{number}", stderr=subprocess.PIPE) for number in range(3)]
    for process in started:
        assert process.communicate(timeout=60)[1].endswith("done\n")
    words = ("--name", "postgresql-octagonal-12345", "-a", "app-1")
    succeeded(pooler("db:register", "-", *words, stdin=url(server, "leader")))
    assert succeeded(pooler("pg:connection-pooling:attach", "-a", "app-1")).err.endswith("done, v3\n")
    tables = server.sql("SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace", dbname="state")
    assert tables
    assert all(name.startswith(("pooler_", "pk_pooler_", "uq_pooler_", "ix_pooler_")) for (name,) in tables)
    wrong = Commands(url(server, "state").replace("127.0.0.1", "localhost").replace("/state", "/nowhere"))
    assert error(wrong("apps")).startswith("The state cannot be used: ")
    server.sql("DROP SCHEMA public CASCADE; CREATE SCHEMA public AUTHORIZATION " + OWNER, dbname="state")


def test_tokens(example: Commands) -> None:
    token = succeeded(example("authorizations:create", "--short", "-a", "example-app")).out.strip()
    assert token.startswith("HRKU-")
    listed = succeeded(example("authorizations")).out
    assert token not in listed
    assert "example-app" in listed
    identity = listed.splitlines()[2].split()[3]
    succeeded(example("authorizations:revoke", identity))
    assert succeeded(example("authorizations")).out == "No OAuth authorizations.\n"


@pytest.mark.slow
def test_waiting_for_a_database_to_come(own_cluster: Cluster, pooler: Commands) -> None:
    succeeded(pooler("apps:create", "example-app"))
    own_cluster.stop()
    succeeded(pooler("db:register", f"postgres://trusty@127.0.0.1:{own_cluster.port}/app", "-a", "example-app"))
    process = pooler.start("pg:wait", "--wait-interval", "0.1", "-a", "example-app", stderr=subprocess.PIPE)
    assert process.stderr is not None
    begun = process.stderr.read(len("Waiting for database"))
    own_cluster.start()
    said = begun + process.stderr.read()
    assert said.startswith("Waiting for database postgresql-")
    assert said.endswith("... available\n")
    process.communicate(timeout=60)
    assert process.returncode == 0
