"""Several poolers in one `pooler console` and one `pooler logs`: ours and PgBouncer together, one that has stopped
answering, one that is gone."""

from __future__ import annotations

import csv
import io
import signal
import time
from pathlib import Path

import pytest

from tests.fixtures.process import Bouncer, StartBouncer
from tests.fixtures.terminal import Terminal, pooler_command
from tests.fixtures.waiting import until
from tests.system.test_repl import run, url


@pytest.fixture
def several(start_pooler: StartBouncer, start_pgbouncer: StartBouncer) -> list[Bouncer]:
    return [start_pooler(), start_pooler(), start_pgbouncer()]


def names(bouncers: list[Bouncer]) -> list[str]:
    return [f"127.0.0.1:{bouncer.port}" for bouncer in bouncers]


def table(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


@pytest.mark.slow
def test_views_verbs_and_select(several: list[Bouncer], tmp_path: Path) -> None:
    urls = [url(bouncer) for bouncer in several]
    with several[1].connect(), several[2].connect(), several[2].connect():
        done = run(tmp_path, *urls, "-c", "SHOW POOLS", "-f", "csv")
        assert (done.returncode, done.stderr) == (0, "")
        rows = table(done.stdout)
        assert {row["pooler"] for row in rows} == set(names(several))
        assert list(rows[0])[:3] == ["pooler", "database", "user"]
        query = (
            "SELECT pooler, sum(cl_active) AS clients FROM pools JOIN databases d USING (pooler)"
            " WHERE pools.database = 'app' AND d.name = 'app' GROUP BY 1 ORDER BY 2"
        )
        done = run(tmp_path, *urls, "-c", query, "-f", "csv")
        assert (done.returncode, done.stderr) == (0, "")
        assert [(row["pooler"], row["clients"]) for row in table(done.stdout)] == [
            (names(several)[1], "1"),
            (names(several)[2], "2"),
        ]
    done = run(tmp_path, *urls, "-c", "PAUSE app", "-f", "csv")
    assert [(row["pooler"], row["answer"]) for row in table(done.stdout)] == [(n, "PAUSE") for n in names(several)]
    assert all(row["paused"] for bouncer in several for row in bouncer.admin("SHOW DATABASES") if row["name"] == "app")
    assert run(tmp_path, *urls, "-c", "RESUME app").returncode == 0
    done = run(tmp_path, *urls, "-c", "RESUME nowhere")
    assert (done.returncode, done.stdout) == (1, "")
    assert "nowhere" in done.stderr


@pytest.mark.slow
def test_one_that_stalls_is_named_and_one_that_is_gone(several: list[Bouncer], tmp_path: Path) -> None:
    urls, (first, second, third) = [url(bouncer) for bouncer in several], names(several)
    terminal = Terminal(pooler_command("console", *urls), tmp_path, columns=200, env={"PAGER": ""})
    try:
        terminal.wait(r"^3 poolers >")
        several[1].signal(signal.SIGSTOP)
        began = time.monotonic()
        terminal.enter("RELOAD")
        terminal.wait(rf"^{second}: no answer")
        assert time.monotonic() - began < 30
        terminal.wait(rf"^ {third} +\| RELOAD")
        several[1].signal(signal.SIGCONT)
        several[2].stop()
        until(lambda: not several[2].process or several[2].process.poll() is not None)
        done = run(tmp_path, *urls, "-c", "SHOW VERSION", "-f", "csv")
        assert done.returncode == 3
        assert [row["pooler"] for row in table(done.stdout)] == [first, second]
        assert [line.split(": ")[0] for line in done.stderr.splitlines()] == [f"cannot connect to {third}", third]
        terminal.enter("SHOW VERSION")
        terminal.wait(rf"^ {second} +\| PgBouncer 1\.26")
    finally:
        several[1].signal(signal.SIGCONT)
        terminal.close()


@pytest.mark.slow
def test_a_verb_that_waits_is_waited_for(start_pooler: StartBouncer, tmp_path: Path) -> None:
    """For longer than a pooler is given for an answer: it lives, as others hear of it."""
    both = [start_pooler(), start_pooler()]
    terminal = Terminal(pooler_command("console", *map(url, both)), tmp_path, columns=200, env={"PAGER": ""})
    try:
        terminal.wait(r"^2 poolers >")
        with both[0].connect(autocommit=False) as client:
            client.execute("SELECT 1")
            terminal.enter("PAUSE app")
            until(lambda: both[1].admin("SHOW DATABASES")[0]["paused"] == 1)
            # Twice the patience: each time a look at whether it lives.
            until(lambda: both[0].log_text().count("login attempt: db=pgbouncer") >= 2 * 3, deadline=30)
            client.commit()
            terminal.wait(rf"^ {names(both)[0]} +\| PAUSE")
        terminal.enter("RESUME app")
        terminal.wait(rf"^ {names(both)[1]} +\| RESUME")
    finally:
        terminal.close()
