"""`pooler console` as people and scripts meet it: a real terminal, our pooler and Debian's PgBouncer."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from admin.repl import main
from tests.fixtures.bouncer import version
from tests.fixtures.cluster import Cluster
from tests.fixtures.process import Bouncer, StartBouncer
from tests.fixtures.terminal import Terminal, environment, pooler_command
from tests.fixtures.waiting import until

Open = Callable[..., Terminal]
PROMPT = r"^127\.0\.0\.1:\d+ >"


@pytest.fixture
def open_terminal(tmp_path: Path) -> Iterator[Open]:
    """open_terminal(argument, ..., columns=, lines=, env=) -> a Terminal with `pooler console` in it."""
    opened: list[Terminal] = []

    def start(*arguments: str, **options: object) -> Terminal:
        opened.append(Terminal(pooler_command("console", *arguments), tmp_path, **options))  # type: ignore[arg-type]
        return opened[-1]

    yield start
    for terminal in opened:
        terminal.close()


@pytest.fixture(params=["pooler", pytest.param("pgbouncer", marks=pytest.mark.slow)])
def bouncer(request: pytest.FixtureRequest) -> Bouncer:
    """A running console: ours; as a slow test PgBouncer's."""
    start: StartBouncer = request.getfixturevalue(f"start_{request.param}")
    return start()


@pytest.fixture
def pgbouncer(start_pgbouncer: StartBouncer) -> Bouncer:
    return start_pgbouncer()


def url(bouncer: Bouncer, user: str = "postgres", password: str = "") -> str:
    secret = f":{password}" if password else ""
    return f"postgresql://{user}{secret}@127.0.0.1:{bouncer.port}/pgbouncer"


@dataclass(frozen=True)
class Done:
    """A finished `pooler console`."""

    returncode: int
    stdout: str
    stderr: str


def run(home: Path, *arguments: str, input: str = "", **variables: str) -> Done:
    """`pooler console` as a script, in this process: the start of an interpreter for each would take minutes."""
    out, err = io.StringIO(), io.StringIO()
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        patch.setattr(sys, "stdin", io.StringIO(input))
        for name in set(os.environ) - set(environment(home)):
            patch.delenv(name)
        for name, value in environment(home, **variables).items():
            patch.setenv(name, value)
        try:
            status = main(arguments)
        except SystemExit as ended:
            status = int(ended.code or 0)
    return Done(status, out.getvalue(), err.getvalue())


# ---- scripts


@pytest.mark.slow
def test_scripts(bouncer: Bouncer, tmp_path: Path) -> None:
    here = url(bouncer)
    done = run(tmp_path, here, "-c", "SHOW DATABASES", "-c", "RELOAD", "--format", "json")
    assert (done.returncode, done.stderr) == (0, "")
    databases, reload = done.stdout.rstrip().rsplit("\n", 1)
    assert {row["name"] for row in json.loads(databases)} == {"app", "other", "pgbouncer"}
    assert json.loads(reload) == {"command": "RELOAD"}

    query = "SELECT name, port, pool_size * 2 AS twice\nFROM databases -- all\nWHERE name = 'app' OR name = 'other';\n"
    done = run(tmp_path, here, "--format", "csv", input=query + "show version\n")
    assert (done.returncode, done.stderr) == (0, "")
    first, version = done.stdout.split("version\n")
    rows = list(csv.DictReader(io.StringIO(first)))
    assert [(row["name"], row["twice"]) for row in rows] == [("app", "40"), ("other", "40")]
    assert version.startswith("PgBouncer 1.")

    done = run(tmp_path, here, "-c", "SHOW LISTS WHERE list = 'databases'", "-f", "markdown")
    assert done.stdout.splitlines()[-1].split() == ["|", "databases", "|", "3", "|"]
    several = here.replace("127.0.0.1:", "127.0.0.1:1,127.0.0.1:")
    assert run(tmp_path, several, "-c", "SHOW VERSION").stdout.splitlines()[0] == " version", "the second host answers"
    done = run(tmp_path, here, "-x", "-c", "SHOW VERSION")
    assert done.stdout.splitlines()[0].startswith("-[ RECORD 1 ]")


@pytest.mark.slow
def test_exit_status(bouncer: Bouncer, tmp_path: Path) -> None:
    here = url(bouncer)
    done = run(tmp_path, here, "-c", "SHOW NONSENSE", "-c", "SHOW VERSION")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "ERROR:  invalid command 'SHOW NONSENSE', use SHOW HELP;\n"
    assert run(tmp_path, here, input="SELECT nothing_such FROM pools;").returncode == 1
    assert run(tmp_path, "--nonsense").returncode == 2
    assert run(tmp_path, "nonsense").returncode == 2
    done = run(tmp_path, url(bouncer).replace("/pgbouncer", "/app"), "-c", "SHOW POOLS")
    assert done.returncode == 3
    assert '"app" is a database of PostgreSQL' in done.stderr
    bouncer.stop()
    process = subprocess.run(
        pooler_command("console", here, "-c", "SHOW POOLS"),
        capture_output=True, text=True, check=False, timeout=60, env=environment(tmp_path),
    )  # fmt: skip
    assert (process.returncode, process.stdout) == (3, "")
    assert "Connection refused" in process.stderr
    assert "Traceback" not in process.stderr


@pytest.mark.slow
def test_a_reader_that_leaves_early_is_no_error_to_complain_of(pgbouncer: Bouncer, tmp_path: Path) -> None:
    command = pooler_command("console", url(pgbouncer), *["-c", "SHOW CONFIG"] * 60)
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(tmp_path)
    ) as process:
        assert process.stdout
        assert process.stderr
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 1


def test_scripts_are_asked_nothing(bouncer: Bouncer, tmp_path: Path) -> None:
    done = run(tmp_path, url(bouncer), "-c", "DISABLE app", "-c", "KILL app", "-c", "SHOW DATABASES", "-f", "json")
    assert done.returncode == 0, done.stderr
    app = next(row for row in json.loads(done.stdout.split("\n", 2)[2]) if row["name"] == "app")
    assert (app["paused"], app["disabled"]) == (1, 1)
    done = run(tmp_path, url(bouncer), "-c", "SHUTDOWN")
    assert (done.returncode, done.stderr) == (0, "")
    assert bouncer.wait() in (0, 1)


def test_variables_and_passfile(start_pgbouncer: StartBouncer, tmp_path: Path) -> None:
    bouncer = start_pgbouncer(auth_type="md5", users={"postgres": "s3cret"})
    passfile = tmp_path / "pgpass"
    passfile.write_text(f"127.0.0.1:{bouncer.port}:pgbouncer:postgres:s3cret\n")
    passfile.chmod(0o600)
    known = {"PGHOST": "127.0.0.1", "PGPORT": str(bouncer.port), "PGUSER": "postgres", "PGOPTIONS": "-c x=y"}
    for more in ({"PGPASSFILE": str(passfile)}, {"PGPASSWORD": "s3cret"}):
        done = run(tmp_path, "-c", "SHOW VERSION", "-f", "csv", **known, **more)
        assert done.returncode == 0, done.stderr
    done = run(tmp_path, "-c", "SHOW VERSION", **known, PGPASSWORD="wrong")
    assert done.returncode == 3
    assert "s3cret" not in done.stderr


# ---- people


def test_a_person(bouncer: Bouncer, open_terminal: Open) -> None:
    bouncer.sql("SELECT 1")
    terminal = open_terminal(url(bouncer), columns=260, env={"PAGER": ""})
    terminal.wait(r"^Connected to 127\.0\.0\.1:\d+/pgbouncer as \"postgres\", version 1\.")
    terminal.wait(r"^ ● 127\.0\.0\.1:\d+/pgbouncer 1\.\d+\.\d │ 1 pool │ waiting 0 │ max wait 0 │ [\d…]+ tps")
    terminal.type("sho")
    terminal.wait(r"show +one of the views")
    terminal.type("w stats_t")
    terminal.wait(r"stats_totals +counts since start")
    terminal.press("Tab", "Enter")
    terminal.wait(r"^ app +\|.*\n[\s\S]*^\(\d rows\)")
    terminal.enter("SELECT database, cl_active")
    terminal.wait(r"; or an empty line runs it$")
    terminal.wait(r"^ +; runs it \.\.\.$")
    terminal.enter("FROM pools WHERE database = 'app';")
    terminal.wait(r"^ app +\| +0$")
    terminal.enter("SHOW POLS")
    terminal.wait(r"^ERROR:  invalid command 'SHOW POLS', use SHOW HELP;\nHINT: .* you mean\w? \"?SHOW POOLS")
    terminal.enter("SELECT max(maxwait) AS longest")
    terminal.enter("FROM pools")
    terminal.enter("")
    terminal.wait(r"^ +longest$")
    terminal.type("SHOW P")
    terminal.wait(r"^ +POOLS +clients and servers of each pool")
    terminal.press("C-u")
    terminal.enter("\\h pause")
    terminal.wait(r"^ PAUSE \[<db>\] +\| wait for running work")
    terminal.enter("PAUSE")
    terminal.wait(r"^PAUSE: holds back all work of every database until RESUME\. Really\? \[y/N\]")
    terminal.enter("")
    terminal.wait(r"^not done$")
    terminal.enter("PAUSE app")
    terminal.wait(r"^PAUSE$")
    terminal.wait(r"1 pool, paused: app")
    terminal.enter("kill app")
    terminal.wait(r"kill app: drops clients and servers at once.*\[y/N\]")
    terminal.enter("n")
    terminal.wait(r"^not done$")
    terminal.enter("RESUME app")
    terminal.wait(r"^RESUME$")
    terminal.type("this line is dropped")
    terminal.press("C-c")
    terminal.enter("\\conninfo")
    terminal.wait(r"^Connected to .* version 1\.\d+\.\d\.\n127\.0\.0\.1:\d+ >$")
    terminal.press("C-d")
    assert terminal.status() == 0


@pytest.mark.slow
def test_wide_and_narrow(pgbouncer: Bouncer, open_terminal: Open) -> None:
    pgbouncer.sql("SELECT 1")
    terminal = open_terminal(url(pgbouncer), columns=200, lines=20, env={"PAGER": ""})
    terminal.wait(PROMPT)
    terminal.enter("SHOW DATABASES")
    terminal.wait(r"^ name +\| host +\| +port \|.*\| +disabled$")
    terminal.resize(60, 20)
    terminal.press("C-l")
    terminal.enter("SHOW POOLS")
    terminal.wait(r"^pool_mode +\| statement$")
    terminal.press("C-l")
    terminal.enter("SHOW VERSION")
    terminal.wait(r"^ version *$")
    assert max(map(len, terminal.lines)) <= 60
    terminal.wait(rf"^ ● 127\.0\.0\.1:\d+/pgbouncer {re.escape(version().split()[1])} │ 1 pool")


@pytest.mark.slow
def test_waiting_clients_stand_out(pgbouncer: Bouncer, open_terminal: Open) -> None:
    terminal = open_terminal(url(pgbouncer), columns=230, env={"PAGER": ""})
    with pgbouncer.connect() as client:
        pgbouncer.admin("PAUSE app")
        client.pgconn.send_query(b"SELECT 1")
        terminal.wait(r"waiting 1 ")
        terminal.enter("SHOW POOLS")
        terminal.wait("\x1b\\[[0-9;]*1[0-9;]*m(\x1b\\[33m)?1\x1b", colours=True)
        terminal.enter("SHOW DATABASES")
        terminal.wait("\x1b\\[[0-9;]*1[0-9;]*m(\x1b\\[35m)?app", colours=True)
        pgbouncer.admin("RESUME app")
        terminal.wait(r"waiting 0 ")
        while client.pgconn.get_result():
            pass


@pytest.mark.slow
@pytest.mark.parametrize(("env", "term"), [({"NO_COLOR": "1"}, "screen-256color"), ({"TERM": "dumb"}, "dumb")])
def test_no_colours(pgbouncer: Bouncer, open_terminal: Open, env: dict[str, str], term: str) -> None:
    terminal = open_terminal(url(pgbouncer), env=env | {"PAGER": ""}, term=term)
    terminal.wait(r"^Connected to")
    terminal.enter("SHOW VERSION")
    terminal.wait("^ " + re.escape(version()))
    assert not re.search("\x1b\\[[0-9;]*3[1-7]", terminal.screen(colours=True))


@pytest.mark.slow
def test_watch(bouncer: Bouncer, open_terminal: Open) -> None:
    terminal = open_terminal(url(bouncer), columns=200)
    terminal.wait(PROMPT)
    terminal.enter("SELECT database, total_xact_count FROM stats WHERE database = 'app' \\watch 0.2 delta")
    terminal.wait(r"^\d\d:\d\d:\d\d  every 0\.2 s, changes: SELECT database")
    with bouncer.connect() as client:
        client.execute("SELECT 1")
        for _ in range(3):
            terminal.wait(r"^ database +\| +total_xact_count/s")
            client.execute("SELECT 1")
        terminal.wait(r"^ app +\| +\d")
    terminal.press("C-c")
    terminal.wait(r"127\.0\.0\.1:\d+ > *$")
    terminal.enter("SHOW VERSION \\watch 5")
    terminal.wait(r"every 5 s: SHOW VERSION")
    terminal.type("q")
    terminal.wait(r"127\.0\.0\.1:\d+ > *$")
    terminal.enter("\\q")
    assert terminal.status() == 0


@pytest.mark.slow
def test_a_wrong_password_asks_again(start_pgbouncer: StartBouncer, open_terminal: Open) -> None:
    bouncer = start_pgbouncer(auth_type="md5", users={"postgres": "s3cret"})
    terminal = open_terminal(url(bouncer, password="first"))
    terminal.wait(r"password authentication failed")
    assert terminal.screen().count("authentication failed") == 1
    terminal.wait(r'^Password for "postgres" at 127\.0\.0\.1:\d+:')
    assert "postgres:" in terminal.arguments()
    assert "first" not in terminal.arguments()
    terminal.enter("wrong")
    terminal.wait(r"authentication failed[\s\S]*Password for[\s\S]*authentication failed[\s\S]*Password for")
    terminal.enter("s3cret")
    terminal.wait(r"^Connected to[\s\S]* tps\b")
    assert "s3cret" not in terminal.screen()
    terminal.press("C-d")
    assert terminal.status() == 0


@pytest.mark.slow
def test_watching_pools_is_one_line_a_pool(pgbouncer: Bouncer, open_terminal: Open) -> None:
    pgbouncer.sql("SELECT 1")
    pgbouncer.sql("SELECT 1", dbname="other")
    terminal = open_terminal(url(pgbouncer), columns=80, lines=24)
    terminal.wait(PROMPT)
    terminal.enter("SHOW POOLS \\watch 0.3")
    terminal.wait(r"^ app +\| postgres +\|.*\n other +\| postgres ")
    terminal.wait(r"^\(3 rows; \d+ columns are empty or 0\)$")
    terminal.press("C-c")
    terminal.wait(r"127\.0\.0\.1:\d+ > *$")


@pytest.mark.slow
def test_a_wrong_password_of_the_environment_is_told_and_tried_once(
    start_pooler: StartBouncer, open_terminal: Open, cluster: Cluster
) -> None:
    """Over TLS too, where libpq by itself would say it again without."""
    bouncer = start_pooler(
        auth_type="md5",
        users={"postgres": "s3cret"},
        client_tls_sslmode="allow",
        client_tls_cert_file=cluster.server_pair.cert,
        client_tls_key_file=cluster.server_pair.key,
    )
    known = {"PGHOST": "127.0.0.1", "PGPORT": str(bouncer.port), "PGUSER": "postgres", "PGPASSWORD": "wrong"}
    terminal = open_terminal(env=known)
    terminal.wait(r'^the password for "postgres" was refused: .* failed\nPassword for "postgres" at 127\.0\.0\.1:')
    attempts = {line for line in bouncer.log_text().splitlines() if "login attempt: db=pgbouncer" in line}
    assert len(attempts) == 1, attempts
    assert "tls=TLS" in attempts.pop()
    terminal.enter("s3cret")
    terminal.wait(r"^Connected to")


@pytest.mark.slow
def test_what_is_shown_after_a_restart_during_watch_is_of_now(bouncer: Bouncer, open_terminal: Open) -> None:
    terminal = open_terminal(url(bouncer), columns=200)
    terminal.wait(r" tps\b")
    terminal.enter("SHOW VERSION \\watch 0.5")
    terminal.wait(r"every 0\.5 s: SHOW VERSION")
    bouncer.stop()
    bouncer.start()
    # It is there again, and a round behind that: what stands on the screen may be of before.
    until(lambda: bouncer.log_text().rpartition("process up")[2].count("login attempt") >= 1)
    header = re.compile(r"\d\d:\d\d:\d\d(?=  every 0\.5 s: SHOW VERSION)")
    before = header.findall(terminal.screen())
    until(lambda: header.findall(terminal.screen()) not in ([], before))
    terminal.type("q")
    seen = []
    while not re.search(r"● .* tps\b", shown := terminal.screen()):
        seen.append(shown)
    assert not [screen for screen in seen if "not connected" in screen]


@pytest.mark.slow
def test_a_lost_connection_comes_back(bouncer: Bouncer, open_terminal: Open) -> None:
    terminal = open_terminal(url(bouncer), columns=260, env={"PAGER": ""})
    terminal.wait(r" tps\b")
    bouncer.stop()
    terminal.wait(r"✗ .* not connected, trying")
    bouncer.start()
    terminal.wait(r"● .* tps\b")
    terminal.enter("SHOW VERSION")
    terminal.wait(r"^connection to 127\.0\.0\.1:\d+/pgbouncer lost: ")
    terminal.wait(r"^connected to 127\.0\.0\.1:\d+/pgbouncer again$")
    terminal.wait(r"^ PgBouncer 1\.")


@pytest.mark.slow
def test_ctrl_c_gives_up_a_command_that_waits(bouncer: Bouncer, open_terminal: Open) -> None:
    terminal = open_terminal(url(bouncer), columns=260, env={"PAGER": ""})
    terminal.wait(PROMPT)
    with bouncer.connect() as client, client.transaction():
        client.execute("SELECT 1")
        terminal.enter("PAUSE app")
        terminal.wait(r"^PAUSE waits; Ctrl-C gives up$")
        terminal.press("C-c")
        terminal.wait(r"^stopped$")
    terminal.enter("SHOW VERSION")
    terminal.wait(r"^ PgBouncer 1\.")


@pytest.mark.slow
def test_history_lasts_and_is_private(pgbouncer: Bouncer, open_terminal: Open, tmp_path: Path) -> None:
    first = open_terminal(url(pgbouncer), env={"PAGER": ""})
    first.wait(PROMPT)
    first.enter("SHOW VERSION")
    first.wait(r"^ PgBouncer")
    first.enter("\\c postgresql://postgres:s3cret@127.0.0.1:1/")
    first.wait(r"Previous connection kept.\n127\.0\.0\.1:\d+ >$")
    first.press("C-d")
    assert first.status() == 0
    history = tmp_path / "state" / "pooler" / "console_history"
    assert history.stat().st_mode & 0o777 == 0o600
    assert "s3cret" not in history.read_text()
    second = open_terminal(url(pgbouncer), env={"PAGER": ""})
    second.wait(PROMPT)
    second.press("C-r")
    second.type("VERS")
    second.wait(r"SHOW VERSION")
    second.press("Enter")
    second.press("Enter")
    second.wait("^ " + re.escape(version()))


@pytest.mark.slow
def test_long_output_is_paged(pgbouncer: Bouncer, open_terminal: Open) -> None:
    terminal = open_terminal(url(pgbouncer), lines=15, env={"PAGER": "sed 's/^/paged:/'"})
    terminal.wait(PROMPT)
    terminal.enter("SHOW CONFIG")
    terminal.wait(r"^paged:default +\|")
    terminal.enter("\\pager off")
    terminal.enter("SHOW LISTS")
    terminal.wait(r"^\(\d\d rows\)")


def test_the_pooler_of_this_machine_is_the_default(tmp_path: Path) -> None:
    done = run(tmp_path, "-c", "SHOW VERSION", PGCONNECT_TIMEOUT="2", PGPORT="1")
    assert done.returncode == 3
    assert "cannot connect" in done.stderr
