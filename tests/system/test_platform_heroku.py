"""The unmodified Heroku CLI from npm against our API and a real PostgreSQL: the article's commands, their exact
lines.

The CLI is installed once into the user's cache directory, outside the tree (some 395 MB), by these tests
themselves.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from admin.platform.api import build
from admin.platform.plane import environment_lines
from tests.fixtures.cluster import PASSWORDS, Cluster
from tests.fixtures.platform import World
from tests.fixtures.waiting import accepts, free_port, until
from tests.unit.admin.platform.test_api import Line, Lines

pytestmark = pytest.mark.slow

CLI = "heroku@11.10.0"
INSTALL_SECONDS = 600
LINE = "2026-11-22T07:46:00.000000+00:00 app[heroku-pgbouncer]: source=pgbouncer addon=postgresql-octagonal-12345"


@pytest.fixture(scope="session")
def heroku() -> Path:
    """The CLI's program. Installed into a directory of its own that appears whole or not at all."""
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("needs npm, to install the Heroku CLI")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pooler-tests"
    place = cache / CLI.replace("@", "-")
    if not place.exists():
        making = cache / f".{place.name}.{os.getpid()}"
        making.mkdir(parents=True)
        done = subprocess.run(
            [npm, "install", "--no-audit", "--no-fund", "--loglevel=error", "--prefix", str(making), CLI],
            capture_output=True,
            text=True,
            timeout=INSTALL_SECONDS,
        )
        assert done.returncode == 0, done.stderr
        try:
            making.rename(place)
        except OSError:
            shutil.rmtree(making)
    return place / "node_modules" / ".bin" / "heroku"


@contextmanager
def served(application: Any) -> Iterator[str]:
    """The application on HTTP; its URL."""
    port = free_port()
    server = uvicorn.Server(
        uvicorn.Config(application, host="127.0.0.1", port=port, log_level="warning", lifespan="off")
    )
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        until(lambda: server.started, "the API to listen")
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join()


@dataclass
class Ran:
    status: int
    out: str
    err: str


@dataclass
class Heroku:
    """The CLI on one API with one token; `world` is what lies behind."""

    program: Path
    environment: dict[str, str]
    world: World

    def __call__(self, *words: str, **environment: str) -> Ran:
        done = subprocess.run(
            [str(self.program), *words],
            env=self.environment | environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
        )
        err = "".join(line for line in done.stderr.splitlines(keepends=True) if "terms" not in line)
        return Ran(done.returncode, done.stdout, err)

    def good(self, *words: str, **environment: str) -> Ran:
        ran = self(*words, **environment)
        assert ran.status == 0, ran.err
        return ran


def cli_environment(url: str, token: str, home: Path) -> dict[str, str]:
    """What `pooler serve` tells people to set, and a home of the test's own."""
    lines = [line.removeprefix("export ") for line in environment_lines(url, token)]
    told = dict(pair.split("=", 1) for line in lines for pair in line.split(" "))
    own = {"HOME": str(home), "GIT_CONFIG_GLOBAL": str(home / "gitconfig"), "NO_PROXY": "*"}
    return {"PATH": os.environ["PATH"], **told, **own}


@pytest.fixture(scope="module")
def cli(heroku: Path, cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Heroku]:
    home = tmp_path_factory.mktemp("home")
    world = World(home / "state.db")
    application = build(world.state, Lines(Line(LINE, "postgresql-octagonal-12345"), Line("foreign", "postgresql-x-1")))
    with served(application) as url:
        environment = cli_environment(url, world.token(), home)
        made = Heroku(heroku, environment, world)
        made("version")
        yield made
    world.state.close()


@pytest.fixture
def example(cli: Heroku, cluster: Cluster) -> Iterator[Heroku]:
    """example-app with a leader and another database, other-app with nothing."""
    from admin.platform.operations.apps import destroy_app
    from tests.fixtures.platform import ROOT

    world = cli.world
    for name in ("example-app", "other-app"):
        world.app(name)
    for dbname, plan, name, attachment in (
        ("app", "standard-0", "postgresql-octagonal-12345", "DATABASE"),
        ("other", "standard-4", "postgresql-flat-54321", "HEROKU_POSTGRESQL_SILVER"),
    ):
        secret = PASSWORDS["scram_user"].replace(" ", "%20")
        place = f"postgres://scram_user:{secret}@127.0.0.1:{cluster.port}/{dbname}"
        world.database("example-app", name, place, plan=plan, attachment=attachment, connection_limit=400)
    yield cli
    with world.state.write() as store:
        for attached in store.attachments():
            if attached.app_name != "example-app":
                store.remove_attachment(attached)
        for app in store.apps():
            destroy_app(store, ROOT, app.name, app.name)


def test_the_articles_walk(example: Heroku, cluster: Cluster) -> None:
    done = example.good(
        "pg:connection-pooling:attach", "DATABASE_URL", "--as", "DATABASE_CONNECTION_POOL", "-a", "example-app"
    )
    assert done.err == (
        "Enabling Connection Pooling on postgresql-octagonal-12345 to example-app... done\n"
        "Setting DATABASE_CONNECTION_POOL config vars and restarting example-app... done, v4\n"
    )
    done = example.good("pg:info", "-a", "example-app")
    assert done.out.startswith("=== DATABASE_URL, DATABASE_CONNECTION_POOL_URL\n\nPlan:                  Standard 0\n")
    assert re.search(r"^Connections:           \d+/400$", done.out, re.M)
    assert re.search(r"^Connection Pooling:    Unavailable$", done.out, re.M)
    assert "=== HEROKU_POSTGRESQL_SILVER_URL\n" in done.out
    done = example.good("pg:info", "DATABASE_URL", "-a", "example-app")
    assert done.out.startswith("=== DATABASE_URL\n")
    done = example.good("addons:detach", "DATABASE_CONNECTION_POOL", "--app", "example-app")
    assert done.err == (
        "Detaching DATABASE_CONNECTION_POOL to postgresql-octagonal-12345 from example-app... done\n"
        "Unsetting DATABASE_CONNECTION_POOL config vars and restarting example-app... done, v5\n"
    )
    gone = example("addons:detach", "DATABASE_CONNECTION_POOL", "--app", "example-app")
    assert gone.status == 2
    assert "Couldn't find that add on attachment." in gone.err
    assert "Error ID: not_found" in gone.err


def test_symbols_where_the_terminal_has_them(example: Heroku) -> None:
    done = example.good("pg:connection-pooling:attach", "DATABASE", "-a", "example-app", FORCE_COLOR="2")
    plain = re.sub(r"\x1b\[[0-9;]*m", "", done.err)
    assert plain == (
        "Enabling Connection Pooling on \u26c1 postgresql-octagonal-12345 to \u2b22 example-app... done\n"
        "Setting DATABASE_CONNECTION_POOL config vars and restarting \u2b22 example-app... done, v4\n"
    )


def test_promotion(example: Heroku) -> None:
    example.good("pg:connection-pooling:attach", "DATABASE_URL", "-a", "example-app")
    example.good("pg:connection-pooling:attach", "DATABASE_URL", "--as", "SECOND_POOL", "-a", "example-app")
    done = example.good("pg:promote", "HEROKU_POSTGRESQL_SILVER", "-a", "example-app")
    first, *rest = done.err.splitlines()
    assert first.startswith("Ensuring an alternate alias for existing DATABASE_URL... HEROKU_POSTGRESQL_")
    assert rest == [
        "Promoting postgresql-flat-54321 to DATABASE_URL on example-app... done",
        "Reattaching pooler to new leader... done",
    ]
    found = example.world.config("example-app")
    assert found["DATABASE_URL"].endswith("/other")
    assert found["DATABASE_CONNECTION_POOL_URL"].endswith("/other")
    assert found["SECOND_POOL_URL"].endswith("/app")
    again = example("pg:promote", "HEROKU_POSTGRESQL_SILVER", "-a", "example-app")
    assert "postgresql-flat-54321 is already promoted on example-app" in again.err


def test_sharing_and_credentials(example: Heroku, cluster: Cluster) -> None:
    done = example.good("addons:attach", "example-app::DATABASE", "--as", "SHARED", "-a", "other-app")
    assert done.err.splitlines()[0] == "Attaching postgresql-octagonal-12345 as SHARED to other-app... done"
    example.good("pg:connection-pooling:attach", "example-app::DATABASE", "-a", "other-app")
    assert set(example.world.config("other-app")) == {"SHARED_URL", "DATABASE_CONNECTION_POOL_URL"}
    taken = example(
        "addons:attach", "postgresql-flat-54321", "--as", "SHARED", "-a", "other-app", "--confirm", "other-app"
    )
    assert taken.status == 0
    assert example.world.config("other-app")["SHARED_URL"].endswith("/other")
    cluster.sql("ALTER ROLE scram_user CREATEROLE")
    try:
        done = example.good("pg:credentials:create", "DATABASE", "--name", "readonly", "-a", "example-app")
        assert "Creating credential readonly... done" in done.err
        words = ("postgresql-octagonal-12345", "--credential", "readonly", "--as", "RO", "-a", "other-app")
        assert (
            "Attaching readonly of postgresql-octagonal-12345 as RO to other-app... done"
            in example.good("addons:attach", *words).err
        )
        listed = example.good("pg:credentials", "DATABASE", "-a", "example-app").out
        assert re.search(r"readonly +active\n +└─ as RO on other-app app", listed)
        url = example.good("pg:credentials:url", "DATABASE", "-a", "example-app").out
        assert f"port={cluster.port} user=scram_user password=scram secret" in url
        example.good("addons:detach", "RO", "-a", "other-app")
        example.good(
            "pg:credentials:destroy", "DATABASE", "--name", "readonly", "-a", "example-app", "--confirm", "example-app"
        )
    finally:
        cluster.sql("DROP ROLE IF EXISTS readonly; ALTER ROLE scram_user NOCREATEROLE")


def test_listings_are_those_of_our_own_command(example: Heroku, monkeypatch: pytest.MonkeyPatch) -> None:
    """Byte for byte but for trailing blanks."""
    from tests.fixtures.platform import Commands

    example.good("pg:connection-pooling:attach", "DATABASE", "-a", "example-app")
    example.good("addons:attach", "postgresql-octagonal-12345", "--as", "SHARED", "-a", "other-app")
    ours = Commands(str(example.world.place))
    for words in (
        ("addons", "-a", "example-app"),
        ("addons", "-a", "other-app"),
        ("addons:info", "DATABASE", "-a", "example-app"),
        ("config", "-a", "example-app"),
        ("config:get", "DATABASE_URL", "NOPE", "-a", "example-app"),
        ("pg:credentials", "DATABASE", "-a", "example-app"),
        ("pg:info", "-a", "example-app"),
    ):
        theirs = example.good(*words, TZ="UTC")
        assert lines(ours(*words).out) == lines(theirs.out), words
    told, oracle = (
        [re.sub(r" \(~.*", "", line) for line in lines(ran.out)]
        for ran in (ours("releases", "-a", "example-app"), example.good("releases", "-a", "example-app"))
    )
    assert told[4:] == oracle[4:]


def lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.rstrip().splitlines()]


def test_config(example: Heroku) -> None:
    done = example.good("config:set", "FOO=bar", "BAZ=a b", "-a", "example-app")
    assert done.err == "Setting FOO, BAZ and restarting example-app... done, v4\n"
    assert done.out == "BAZ: a b\nFOO: bar\n"
    assert example.good("config:get", "FOO", "NOPE", "-a", "example-app").out == "bar\n\n"
    assert (
        example.good("config:unset", "FOO", "-a", "example-app").err
        == "Unsetting FOO and restarting example-app... done, v5\n"
    )
    refused = example("config:set", "DATABASE_URL=x", "-a", "example-app")
    assert "Cannot overwrite attachment values DATABASE_URL." in refused.err
    assert "Error ID: invalid_params" in refused.err


def test_psql_and_wait(example: Heroku) -> None:
    assert example.good("pg:wait", "-a", "example-app").out == ""
    # The CLI hands psql the password as it stands in the URL, escapes and all; so one without any.
    place = f"postgres://trusty:any@127.0.0.1:{example.world.config('example-app')['DATABASE_URL'].split(':')[-1].split('/')[0]}/app"
    with example.world.state.write() as store:
        addon = store.addon("postgresql-octagonal-12345")
        assert addon is not None
        (credential,) = store.credentials(addon.id)
        store.remove_credential(credential)
        store.add_credential(type(credential)(addon.id, "default", "trusty", "any", 0))
    assert example.world.config("example-app")["DATABASE_URL"] == place
    done = example.good(
        "pg:psql", "DATABASE", "-a", "example-app", "-c", "SELECT 'as ' || current_user", PGSSLMODE="prefer"
    )
    assert "as trusty" in done.out


def test_logs(example: Heroku) -> None:
    done = example.good("logs", "-p", "heroku-pgbouncer", "-a", "example-app")
    assert done.out == f"{LINE}\n"


def test_what_an_app_is(example: Heroku) -> None:
    done = example.good("apps:info", "-a", "example-app")
    assert done.out.startswith("=== example-app\n")
    assert re.search(r"^Repo Size: +0 B$", done.out, re.M)
    assert "addons=" in example.good("apps:info", "--shell", "-a", "example-app").out
    assert example.good("ps", "-a", "example-app").out == "No dynos on example-app\n"


def test_drains(example: Heroku) -> None:
    url = "https://me:sesame@logs.example/in?a=b"
    assert example.good("drains", "-a", "example-app").out == ""
    added = example.good("drains:add", url, "-a", "example-app")
    assert added.out == f"Successfully added drain {url}\n"
    listed = example.good("drains", "-a", "example-app").out
    assert re.fullmatch(rf"=== Drains\n\n{re.escape(url)} \(d\.[0-9a-f-]+\)\n", listed)
    refused = example("drains:add", "file:///etc/passwd", "-a", "example-app")
    assert "Url is invalid" in refused.err
    assert example.good("drains:remove", url, "-a", "example-app").out == f"Successfully removed drain {url}\n"
    assert example.good("drains", "-a", "example-app").out == ""


def test_settings_of_a_database(example: Heroku, cluster: Cluster) -> None:
    done = example.good("pg:settings", "DATABASE", "-a", "example-app")
    assert done.out.startswith("=== postgresql-octagonal-12345\n")
    found = dict(line.split(":", 1) for line in done.out.splitlines() if ":" in line)
    ((said,),) = cluster.sql("SHOW log_statement", dbname="app")
    assert found["log-statement"].strip() == said
    assert {"log-lock-waits", "log-min-duration-statement", "track-functions"} <= set(found)


def test_errors(example: Heroku) -> None:
    unknown = example("pg:info", "-a", "no-app")
    assert "Couldn't find that app." in unknown.err
    assert "Unknown database: NOPE. Valid options are: DATABASE, HEROKU_POSTGRESQL_SILVER" in " ".join(
        example("pg:promote", "NOPE", "-a", "example-app").err.split()
    )
    refused = example("config", "-a", "example-app", HEROKU_API_KEY="wrong")
    assert "The token provided to HEROKU_API_KEY is invalid" in " ".join(refused.err.replace("\u203a", " ").split())
    scoped = example.world.token("other-app")
    foreign = example("config", "-a", "example-app", HEROKU_API_KEY=scoped)
    assert "You do not have access to the app example-app." in foreign.err
    example.world.database("example-app", "postgresql-small-1", plan="essential-0", attachment="SMALL")
    small = example("pg:connection-pooling:attach", "SMALL", "-a", "example-app")
    assert "You can't perform this operation on Essential-tier databases." in small.err
    example.world.database("example-app", "postgresql-down-1", "postgres://u:p@127.0.0.1:9/d", attachment="DOWN")
    down = example("pg:connection-pooling:attach", "DOWN", "-a", "example-app")
    assert "Enabling Connection Pooling on postgresql-down-1 to example-app... !" in down.err
    assert "Error ID: service_unavailable" in down.err


def test_on_a_running_pooler(heroku: Path, cluster: Cluster, tmp_path: Path) -> None:
    """The whole way, over HTTPS: attach by the CLI, query the attached URL through the pooler, watch its line
    with `logs --tail`, detach."""
    import psycopg

    from tests.fixtures.platform import Commands
    from tests.system.test_platform_serve import Serving

    commands = Commands(str(tmp_path / "state.db"))
    serving = Serving(commands, tmp_path, cluster)
    (tmp_path / "log").touch()
    assert commands("apps:create", "example-app").status == 0
    token = commands("authorizations:create", "--short").out.strip()
    place = f"postgres://scram_user:scram%20secret@127.0.0.1:{cluster.port}/app"
    words = ("--port", str(free_port()), "--data-dir", str(tmp_path), "--metrics-period", "1")
    certificate = ("--http-cert", str(cluster.server_pair.cert), "--http-key", str(cluster.server_pair.key))
    http = free_port()
    serving.start("--database-url", place, *words, "--http", f"127.0.0.1:{http}", *certificate)
    try:
        serving.says("export NODE_EXTRA_CA_CERTS=")
        cli = Heroku(
            heroku, cli_environment(f"https://127.0.0.1:{http}", token, tmp_path), World(tmp_path / "state.db")
        )
        cli.environment["NODE_EXTRA_CA_CERTS"] = str(cluster.authority.root)
        port = serving.register("other", "postgresql-octagonal-12345", "DATABASE")
        cli.good("pg:connection-pooling:attach", "DATABASE_URL", "-a", "example-app")
        serving.opened(port)
        with psycopg.connect(serving.url("DATABASE_CONNECTION_POOL"), sslmode="require") as client:
            assert client.execute("SELECT current_database()").fetchone() == ("other",)
        assert "Connection Pooling:    Available" in cli.good("pg:info", "-a", "example-app").out
        tail = subprocess.Popen(
            [str(heroku), "logs", "--tail", "-p", "heroku-pgbouncer", "-a", "example-app"],
            env=cli.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert tail.stdout is not None
        seen = [tail.stdout.readline() for _ in range(3)]
        tail.kill()
        tail.communicate()
        expected = (
            r"\S+ app\[heroku-pgbouncer\]: source=pgbouncer addon=postgresql-octagonal-12345"
            r" sample#client_active=\d+ .*\n"
        )
        assert all(re.fullmatch(expected, line) for line in seen), seen
        cli.good("addons:detach", "DATABASE_CONNECTION_POOL", "-a", "example-app")
        until(lambda: not accepts(port), "the pool to close")
        cli.world.state.close()
    finally:
        serving.stop()
