"""RELOAD reads its files beside the traffic: however large they are, and though their disk does not answer."""

from __future__ import annotations

import itertools
import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import psycopg
import pytest

from tests.fixtures.process import ADMIN, Bouncer, StartBouncer
from tests.fixtures.waiting import DEADLINE, until


def replaced_by_a_pipe(place: Path) -> None:
    """Whoever opens the file from now on waits for somebody who writes."""
    place.unlink()
    os.mkfifo(place)


def written(place: Path, text: str) -> None:
    with place.open("w") as pipe:
        pipe.write(text)


@pytest.fixture
def slow(start_pooler: StartBouncer) -> Bouncer:
    """One whose auth_file does not answer."""
    bouncer = start_pooler()
    replaced_by_a_pipe(bouncer.auth_file)
    return bouncer


def test_a_disk_that_does_not_answer_stops_nobody(slow: Bouncer) -> None:
    with slow.connect() as client, closing(slow.connect(ADMIN, cursor_factory=psycopg.ClientCursor)) as console:
        asking = threading.Thread(target=console.execute, args=(b"RELOAD",))
        asking.start()
        slow.wait_log("RELOAD command issued")
        assert client.execute("SELECT 1").fetchone() == (1,)
        assert slow.sql("SELECT 2") == [(2,)]
        assert asking.is_alive()
        written(slow.auth_file, '"postgres" ""\n"fresh" ""\n')
        asking.join(DEADLINE)
        assert "fresh" in {row["name"] for row in slow.admin("SHOW USERS")}


def test_a_reload_by_signal_waits_for_its_turn_and_comes(slow: Bouncer) -> None:
    slow.signal(signal.SIGHUP)
    slow.wait_log("got SIGHUP, re-reading config")
    assert slow.sql("SELECT 1") == [(1,)]
    slow.signal(signal.SIGHUP)
    for name in ("one", "two"):
        written(slow.auth_file, f'"postgres" ""\n"{name}" ""\n')

        def known(name: str = name) -> bool:
            return name in {row["name"] for row in slow.admin("SHOW USERS")}

        until(known)


def test_a_setting_that_is_set_meanwhile_waits_for_the_files(slow: Bouncer) -> None:
    with closing(slow.connect(ADMIN, cursor_factory=psycopg.ClientCursor)) as console:
        reloading = threading.Thread(target=console.execute, args=(b"RELOAD",))
        reloading.start()
        slow.wait_log("RELOAD command issued")
        setting = threading.Thread(target=slow.admin, args=("SET query_wait_timeout = 17",))
        setting.start()
        written(slow.auth_file, '"postgres" ""\n')
        reloading.join(DEADLINE)
        setting.join(DEADLINE)
        assert any(r["key"] == "query_wait_timeout" and r["value"] == "17" for r in slow.admin("SHOW CONFIG"))


def test_whoever_asked_may_leave(slow: Bouncer) -> None:
    console = slow.connect(ADMIN, cursor_factory=psycopg.ClientCursor)
    console.pgconn.send_query(b"RELOAD")
    slow.wait_log("RELOAD command issued")
    console.close()
    written(slow.auth_file, '"postgres" ""\n"late" ""\n')
    until(lambda: "late" in {row["name"] for row in slow.admin("SHOW USERS")})


def test_a_reload_that_hangs_does_not_keep_the_process(slow: Bouncer) -> None:
    slow.signal(signal.SIGHUP)
    slow.wait_log("got SIGHUP, re-reading config")
    slow.signal(signal.SIGTERM)
    assert slow.wait() == 0


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_a_large_file_is_read_while_queries_go_through(start_pooler: StartBouncer, workers: int) -> None:
    bouncer = start_pooler(sections={"pooler": {"workers": workers}})
    users = "".join(f'"user{number}" "md5{"0" * 32}"\n' for number in range(60_000))
    bouncer.auth_file.write_text('"postgres" ""\n' + users)
    gaps: list[float] = []
    with bouncer.connect() as client:
        reloading = threading.Thread(target=bouncer.admin, args=("RELOAD",))
        reloading.start()
        while reloading.is_alive():
            began = time.monotonic()
            client.execute("SELECT 1")
            gaps.append(time.monotonic() - began)
        reloading.join()
    lasted = sum(gaps)
    assert max(gaps) < lasted / 4 + 0.05
    assert any(row["items"] > 60_000 for row in bouncer.admin("SHOW LISTS") if row["list"] == "users")


@pytest.mark.slow
def test_who_logs_in_while_an_entry_changes_is_let_in(start_pooler: StartBouncer) -> None:
    """As with one process: it was told that its database is gone, which had another connect_query."""
    bouncer = start_pooler(sections={"pooler": {"workers": 2}}, default_pool_size=4)
    over = threading.Event()

    def come() -> int:
        """Again and again, and how often."""
        for count in itertools.count():
            if over.is_set():
                return count
            bouncer.connect().close()
        raise AssertionError

    with ThreadPoolExecutor(3) as pool:
        coming = [pool.submit(come) for _ in range(3)]
        try:
            for number in range(10):
                bouncer.databases["app"] = bouncer.databases["other"].replace(
                    "other", f"app connect_query='SELECT {number}'"
                )
                bouncer.write()
                bouncer.admin("RELOAD")
        finally:
            over.set()
        assert all(one.result() for one in coming)
