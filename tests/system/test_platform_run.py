"""`pooler run`: config vars in the environment, restarts by releases, graceful and not; and the private pooler
beside it."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.fixtures.cluster import Cluster
from tests.fixtures.platform import Commands
from tests.fixtures.understudy import Understudy
from tests.fixtures.waiting import until

APP = """
import os, signal, sys, time
def end(number, frame):
    print("ended", os.environ.get("COLOUR"), flush=True)
    sys.exit(7)
signal.signal(signal.SIGTERM, end if len(sys.argv) < 2 else signal.SIG_IGN)
print("up", os.environ.get("COLOUR"), os.getpid(), flush=True)
while True:
    time.sleep(60)
"""


@pytest.fixture
def pooler(tmp_path: Path) -> Commands:
    made = Commands(str(tmp_path / "state.db"), TMPDIR=str(tmp_path))
    assert made("apps:create", "example-app").status == 0
    return made


Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start(pooler: Commands, tmp_path: Path) -> Iterator[Start]:
    """Start `pooler run` with its output in a file; whatever still runs at the end is killed."""
    running: list[subprocess.Popen[str]] = []

    def begin(*words: str, **environment: str) -> subprocess.Popen[str]:
        pooler.environment |= environment
        with (tmp_path / "output").open("a") as output:
            running.append(pooler.start("run", *words, stdout=output, stderr=output))
        return running[-1]

    yield begin
    for process in running:
        if process.poll() is None:
            process.kill()
        process.wait()


def output(tmp_path: Path) -> str:
    return (tmp_path / "output").read_text()


def said(tmp_path: Path, text: str) -> None:
    until(lambda: text in output(tmp_path), f"{text!r} in {output(tmp_path)!r}")


def python(*arguments: str) -> tuple[str, ...]:
    import sys

    return ("--", sys.executable, "-c", APP, *arguments)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.slow
def test_the_commands_status_is_ours(pooler: Commands) -> None:
    pooler("config:set", "A=1", "-a", "example-app")
    done = pooler.process("run", "-a", "example-app", "--", "sh", "-c", 'echo "A is $A"; exit 3')
    assert (done.out, done.status) == ("A is 1\n", 3)
    assert pooler.process("run", "-a", "example-app", "--", "sh", "-c", "kill -9 $$").status == 137
    missing = pooler.process("run", "-a", "example-app", "--", "no-such-program")
    assert missing.status == 1
    assert "no-such-program: command not found" in missing.err
    assert pooler.process("run", "-a", "example-app").status == 2
    assert "Couldn't find that app." in pooler.process("run", "-a", "no-app", "--", "true").err


@pytest.mark.slow
def test_a_release_restarts_it(pooler: Commands, start: Start, tmp_path: Path) -> None:
    process = start("-a", "example-app", *python())
    said(tmp_path, "up None")
    pooler("config:set", "COLOUR=red", "-a", "example-app")
    said(tmp_path, "up red")
    assert "ended None" in output(tmp_path)
    assert "v2 changed the config vars; restarting" in output(tmp_path)
    pooler("config:unset", "COLOUR", "-a", "example-app")
    said(tmp_path, "ended red")
    until(lambda: output(tmp_path).count("up None") == 2)
    process.terminate()
    assert process.wait(30) == 7
    assert output(tmp_path).endswith(" \nended None\n") or output(tmp_path).endswith("ended None\n")


@pytest.mark.slow
def test_one_that_does_not_listen_is_killed(pooler: Commands, start: Start, tmp_path: Path) -> None:
    process = start("-a", "example-app", "--grace", "0.2", *python("deaf"))
    said(tmp_path, "up None")
    pooler("config:set", "COLOUR=red", "-a", "example-app")
    said(tmp_path, "up red")
    process.terminate()
    assert process.wait(30) == 137
    for line in output(tmp_path).splitlines():
        if line.startswith("up "):
            assert not alive(int(line.split()[2]))


@pytest.mark.slow
def test_what_the_command_left_running_ends_with_it(pooler: Commands, start: Start, tmp_path: Path) -> None:
    process = start("-a", "example-app", "--", "sh", "-c", "sleep 1000 & echo child $!; exit 0")
    assert process.wait(30) == 0
    child = int(output(tmp_path).split()[1])
    until(lambda: not alive(child), "the child to end")


@pytest.mark.slow
def test_a_release_without_change_restarts_nothing(pooler: Commands, start: Start, tmp_path: Path) -> None:
    """A database's other name is no change of another app; nor is a value set again."""
    process = start("-a", "example-app", *python())
    said(tmp_path, "up None")
    pooler("apps:create", "other-app")
    pooler("config:set", "COLOUR=red", "-a", "other-app")
    pooler("config:set", "COLOUR=blue", "-a", "example-app")
    said(tmp_path, "up blue")
    assert output(tmp_path).count("up ") == 2
    process.terminate()
    process.wait(30)


@pytest.mark.slow
def test_the_private_pooler(pooler: Commands, cluster: Cluster, tmp_path: Path) -> None:
    """A query through it; no trace of it afterwards."""
    place = f"postgres://scram_user:scram%20secret@127.0.0.1:{cluster.port}/app?sslmode=disable"
    pooler.environment["DATABASE_URL"] = place
    query = "SELECT current_user || ' at ' || inet_server_port()"
    script = f'echo "$DATABASE_URL"; ls "$TMPDIR"; psql "$DATABASE_URL" -Atc "{query}"; exit 5'
    done = pooler.process("run", "--pool", "--", "sh", "-c", script)
    first, *_, last = done.out.splitlines()
    assert first.startswith("postgres://scram_user:scram%20secret@127.0.0.1:")
    assert first.endswith("/db1")
    assert "pooler-run-" in done.out
    assert last == f"scram_user at {cluster.port}"
    assert done.status == 5
    assert not list(tmp_path.glob("pooler-run-*"))
    assert "scram secret" not in done.err
    assert done.err.rstrip().endswith("exiting")


@pytest.mark.slow
def test_without_the_pooler_there_is_none(pooler: Commands) -> None:
    pooler.environment |= {"DATABASE_URL": "postgres://u:p@127.0.0.1:1/d", "PGBOUNCER_ENABLED": "0"}
    done = pooler.process("run", "--pool", "--", "sh", "-c", "echo $DATABASE_URL")
    assert done.out == "postgres://u:p@127.0.0.1:1/d\n"
    pooler.environment["PGBOUNCER_ENABLED"] = "1"
    del pooler.environment["DATABASE_URL"]
    assert "DATABASE_URL is empty. Exiting..." in pooler.process("run", "--pool", "--", "true").err


@pytest.mark.slow
@pytest.mark.parametrize("told", ["", "?sslmode=verify-full"])
def test_a_database_without_tls_is_told_at_once(pooler: Commands, told: str) -> None:
    """Where the buildpack's pooler would turn away every login, a minute later."""
    with Understudy() as server:
        pooler.environment["DATABASE_URL"] = f"postgres://u:p@127.0.0.1:{server.port}/d{told}"
        done = pooler.process("run", "--pool", "--", "echo", "ran")
        assert (done.status, done.out) == (2, "")
        told_ = " ".join(done.err.replace("\u203a", " ").split())
        assert f"The database at 127.0.0.1:{server.port} has no TLS" in told_
        assert "PGBOUNCER_SERVER_TLS_SSLMODE=prefer" in told_
        pooler.environment["PGBOUNCER_SERVER_TLS_SSLMODE"] = "prefer"
        assert pooler.process("run", "--pool", "--", "echo", "ran").out == "ran\n"


def private_pooler(parent: int) -> int | None:
    """The pid of our child that serves."""
    for child in Path(f"/proc/{parent}/task/{parent}/children").read_text().split():
        if b"serve" in Path(f"/proc/{child}/cmdline").read_bytes():
            return int(child)
    return None


@pytest.mark.slow
def test_the_app_goes_first_and_the_pooler_last(start: Start, tmp_path: Path) -> None:
    process = start("--pool", *python(), DATABASE_URL="postgres://u:p@127.0.0.1:1/d")
    said(tmp_path, "up None")
    pid = private_pooler(process.pid)
    assert pid is not None
    process.terminate()
    assert process.wait(30) == 7
    text = output(tmp_path)
    assert text.index("ended None") < text.index("got SIGINT")
    assert not alive(pid)


@pytest.mark.slow
def test_the_poolers_end_is_the_apps(start: Start, tmp_path: Path) -> None:
    process = start("--pool", *python(), DATABASE_URL="postgres://u:p@127.0.0.1:1/d")
    said(tmp_path, "up None")
    pid = private_pooler(process.pid)
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    assert process.wait(30) == 137
    assert "the private pooler ended with status 137; stopping the command" in output(tmp_path)
    assert "ended None" in output(tmp_path)
    assert not list(tmp_path.glob("pooler-run-*"))
