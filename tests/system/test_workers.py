"""Several workers, one service: limits, the console, cancel requests, and processes that die or hang."""

from __future__ import annotations

import os
import selectors
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.fixtures import stream
from tests.fixtures.cluster import SUPERUSER, Cluster
from tests.fixtures.process import Bouncer, StartBouncer
from tests.fixtures.stream import Stream
from tests.fixtures.waiting import until

pytestmark = pytest.mark.usefixtures("cleared")
TWO = {"pooler": {"workers": 2}}
THREE = {"pooler": {"workers": 3}}


def client(bouncer: Bouncer, **more: str) -> Stream:
    return Stream((bouncer.address, bouncer.port)).login(**more)


def workers(bouncer: Bouncer) -> list[dict[str, Any]]:
    return bouncer.admin("SHOW WORKERS")


def attempt(bouncer: Bouncer) -> psycopg.Connection[Any] | None:
    """A console that has just left may still count."""
    try:
        return bouncer.connect()
    except psycopg.OperationalError:
        return None


def child_pids(bouncer: Bouncer) -> list[int]:
    """By the system: the desk's children."""
    return sorted(int(pid) for pid in Path(f"/proc/{bouncer.pid}/task/{bouncer.pid}/children").read_text().split())


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.slow
def test_clients_are_spread_and_the_console_is_of_all(start_pooler: StartBouncer) -> None:
    bouncer = start_pooler(sections=THREE, default_pool_size=5, max_client_conn=100)
    with ExitStack() as stack:
        for number in range(12):
            one = stack.enter_context(client(bouncer))
            assert one.rows(f"SELECT {number}") == [[str(number).encode()]]
        rows = workers(bouncer)
        assert sorted(row["pid"] for row in rows) == child_pids(bouncer)
        # The console is a client of one of them as well.
        assert sorted(row["clients"] for row in rows) == [4, 4, 5]
        assert bouncer.pool()["cl_active"] == 12
        shown = bouncer.admin("SHOW CLIENTS")
        assert len({row["id"] for row in shown}) == len({row["ptr"] for row in shown}) == 13
        stats = {row["database"]: row for row in bouncer.admin("SHOW STATS")}
        assert stats["app"]["total_xact_count"] == 12


@pytest.mark.parametrize("limit", [{"default_pool_size": 3}, {"max_db_connections": 3}, {"max_user_connections": 3}])
def test_no_more_servers_than_allowed_by_all(
    start_pooler: StartBouncer, cluster: Cluster, limit: dict[str, int]
) -> None:
    """Whatever the workers want at the same time; and nobody waits who could be served."""
    bouncer = start_pooler(sections=THREE, max_client_conn=200, **limit)
    most, stop = [0], threading.Event()

    def watch() -> None:
        while not stop.is_set():
            most[0] = max(most[0], len(cluster.backends("app")))

    def work(number: int) -> int:
        done = 0
        with bouncer.connect() as one:
            for turn in range(40):
                one.execute("SELECT pg_sleep(0.002)" if turn % 3 else "SELECT 1")
                if turn % 10 == number % 10:
                    time.sleep(0.02)
                done += 1
        return done

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        with ThreadPoolExecutor(12) as pool:
            assert sum(pool.map(work, range(24))) == 24 * 40
    finally:
        stop.set()
        watcher.join()
    assert 1 <= most[0] <= 3
    assert bouncer.pool()["cl_waiting"] == 0


@pytest.mark.slow
def test_a_server_goes_where_it_is_wanted(start_pooler: StartBouncer, cluster: Cluster) -> None:
    """The only server stands idle in one worker, and a client of the other one asks."""
    bouncer = start_pooler(sections=TWO, default_pool_size=1)
    with client(bouncer) as one, client(bouncer) as two:
        for turn in range(10):
            for who in (one, two):
                began = time.monotonic()
                assert who.rows(f"SELECT {turn}") == [[str(turn).encode()]]
                assert time.monotonic() - began < 2
        assert len(cluster.backends("app")) == 1


@pytest.mark.slow
def test_who_waits_elsewhere_has_the_next_that_comes_free(start_pooler: StartBouncer) -> None:
    bouncer = start_pooler(sections=TWO, default_pool_size=1)
    with client(bouncer) as one, client(bouncer) as two:
        one.query("BEGIN")
        two.send(stream.query("SELECT 2"))
        until(lambda: bouncer.pool()["cl_waiting"] == 1)
        one.query("COMMIT")
        assert [m.values for m in two.until() if m.type == "D"] == [[b"2"]]


@pytest.mark.slow
@pytest.mark.parametrize("size", [1, 2])
def test_nobody_starves_beside_the_clients_of_another_worker(start_pooler: StartBouncer, size: int) -> None:
    """Ten clients of one worker and one of the other, with fewer servers, and nobody ever pauses. How often others are
    served while one waits is counted: time says nothing on a machine that has other work."""
    bouncer = start_pooler(sections=TWO, default_pool_size=size)
    sql = stream.query("SELECT pg_sleep(0.01)")
    with ExitStack() as stack, selectors.DefaultSelector() as answers:
        everybody = [stack.enter_context(client(bouncer)) for _ in range(20)]
        # They were handed out in turn.
        crowd, lone = everybody[::2], everybody[1]
        for one in everybody[3::2]:
            one.send(stream.terminate())
        until(lambda: sorted(row["clients"] for row in workers(bouncer)) in ([1, 11], [2, 10]))
        served, passed = dict.fromkeys((*crowd, lone), 0), dict.fromkeys((*crowd, lone), 0)
        for one in served:
            answers.register(one.socket, selectors.EVENT_READ, one)
            one.send(sql)
        while served[lone] < 8 or min(served.values()) < 3:
            for key, _ in answers.select(20):
                one = key.data
                assert one.until("Z")[-2].tag == "SELECT 1"
                passed = {other: count + 1 for other, count in passed.items()} | {one: 0}
                served[one] += 1
                one.send(sql)
            # In one process it is ten. Elsewhere it is what 0.2 s come to, and a worker may stand still meanwhile.
            assert max(passed.values()) < 300, "somebody starves"


@pytest.mark.slow
def test_as_many_are_kept_ready_by_all_as_by_one(start_pooler: StartBouncer, cluster: Cluster) -> None:
    bouncer = start_pooler(sections=TWO, min_pool_size=3)
    with client(bouncer) as one, client(bouncer) as two:
        one.query("SELECT 1")
        two.query("SELECT 1")
        until(lambda: bouncer.pool()["sv_idle"] == 3, "three")
        assert len(cluster.backends("app")) == 3


@pytest.mark.slow
def test_as_many_are_kept_ready_where_one_worker_alone_has_a_client(start_pooler: StartBouncer) -> None:
    """What others have counts, also when they have nobody any more; more than that are kept by nobody."""
    bouncer = start_pooler(sections=TWO, min_pool_size=3, server_idle_timeout=0.5)
    with client(bouncer):
        until(lambda: bouncer.pool()["sv_idle"] == 3, "three")
        with ExitStack() as stack:
            for one in [stack.enter_context(client(bouncer)) for _ in range(7)]:
                one.query("BEGIN")
            assert bouncer.pool()["sv_active"] == 7
            assert min(row["servers"] for row in workers(bouncer)) > 2
        until(lambda: bouncer.pool()["sv_idle"] == 3, "three again")


@pytest.mark.slow
def test_where_the_user_is_fixed_they_are_ready_before_anybody_comes(
    start_pooler: StartBouncer, cluster: Cluster
) -> None:
    """And the desk, which serves nobody, has none."""
    app = f"host={cluster.host} port={cluster.port} dbname=app user={SUPERUSER}"
    bouncer = start_pooler(sections=TWO, databases={"app": app}, min_pool_size=3)
    until(lambda: sum(row["servers"] for row in workers(bouncer)) == 3, "three")
    assert len(bouncer.admin("SHOW SERVERS")) == len(cluster.backends("app")) == 3


@pytest.mark.slow
def test_what_a_server_that_goes_elsewhere_was_asked_by_us_is_asked_again(start_pooler: StartBouncer) -> None:
    """For the database's own code, by the only server that there may be."""
    bouncer = start_pooler(sections={"pooler": {"workers": 2, "session_state": "keep"}}, default_pool_size=1)
    with client(bouncer) as one, client(bouncer) as two:
        one.query("SELECT 1")
        bouncer.wait_log(r"\d+ names? of its own may leave")
        assert two.rows("SELECT 2") == [[b"2"]]


@pytest.mark.slow
def test_the_reserve_is_of_all(start_pooler: StartBouncer, cluster: Cluster) -> None:
    """Also where the pool's servers are another worker's."""
    bouncer = start_pooler(sections=TWO, default_pool_size=1, reserve_pool_size=1, reserve_pool_timeout=0.3)
    with client(bouncer) as one, client(bouncer) as two:
        one.query("BEGIN")
        assert two.rows("SELECT 'by the reserve'") == [[b"by the reserve"]]
        assert len(cluster.backends("app")) == 2
        bouncer.wait_log(r"WARNING C-\S+ \S+ taking connection from reserve_pool")
    assert bouncer.log.read_text().count("from reserve_pool") == 1


@pytest.mark.slow
def test_client_limits_are_of_all(start_pooler: StartBouncer) -> None:
    bouncer = start_pooler(sections=THREE, max_client_conn=4)
    with ExitStack() as stack:
        inside = [stack.enter_context(bouncer.connect()) for _ in range(4)]
        for _ in range(6):
            with pytest.raises(psycopg.OperationalError, match=r"no more connections allowed \(max_client_conn\)"):
                bouncer.connect()
        inside[0].close()
        until(lambda: bouncer.pool()["cl_active"] == 3)
        stack.enter_context(until(lambda: attempt(bouncer)))


@pytest.mark.slow
def test_clients_that_come_all_at_once_have_the_limit_too(start_pooler: StartBouncer) -> None:
    bouncer = start_pooler(sections=THREE, max_user_client_connections=3, max_client_conn=100)
    bouncer.signal(signal.SIGSTOP)
    with ExitStack() as stack:
        try:
            several = [stack.enter_context(Stream((bouncer.address, bouncer.port))) for _ in range(9)]
            for one in several:
                one.send(stream.startup({"user": SUPERUSER, "database": "app"}))
        finally:
            bouncer.signal(signal.SIGCONT)
        assert sorted(one.until("Z", "E")[-1].type for one in several) == ["E"] * 6 + ["Z"] * 3


@pytest.mark.slow
def test_a_cancel_request_finds_its_query(start_pooler: StartBouncer, cluster: Cluster) -> None:
    """The request comes to any worker."""
    bouncer = start_pooler(sections=THREE)
    sleeping = "SELECT 1 FROM pg_stat_activity WHERE state = 'active' AND query = 'SELECT pg_sleep(600)'"
    with ExitStack() as stack:
        for one in [stack.enter_context(client(bouncer)) for _ in range(3)]:
            for _ in range(3):
                one.send(stream.query("SELECT pg_sleep(600)"))
                until(lambda: cluster.sql(sleeping))
                stream.cancel((bouncer.address, bouncer.port), one.pid, one.key)
                assert [m.error["C"] for m in one.until() if m.type == "E"] == ["57014"]


@pytest.mark.slow
def test_commands_are_of_all(start_pooler: StartBouncer) -> None:
    bouncer = start_pooler(sections=TWO, default_pool_size=4)
    with client(bouncer) as one, client(bouncer) as two:
        for who in (one, two):
            who.query("SELECT 1")
        bouncer.admin("PAUSE app")
        assert bouncer.pool()["sv_idle"] == 0
        for who in (one, two):
            who.send(stream.query("SELECT 2"))
        until(lambda: bouncer.pool()["cl_waiting"] == 2)
        bouncer.admin("RESUME app")
        for who in (one, two):
            assert [m.values for m in who.until() if m.type == "D"] == [[b"2"]]
        with pytest.raises(psycopg.Error, match="database app is not paused"):
            bouncer.admin("RESUME app")
        numbers = sorted(row["id"] for row in bouncer.admin("SHOW CLIENTS") if row["database"] == "app")
        bouncer.admin(f"KILL_CLIENT {numbers[1]}")
        until(lambda: bouncer.pool()["cl_active"] == 1)
        with pytest.raises(psycopg.Error, match="client not found"):
            bouncer.admin(f"KILL_CLIENT {numbers[1]}")


@pytest.mark.slow
def test_a_reload_is_of_all(start_pooler: StartBouncer) -> None:
    bouncer = start_pooler(sections=TWO)
    bouncer.admin("SET query_wait_timeout = 7")
    bouncer.databases["more"] = bouncer.databases["app"]
    bouncer.settings["default_pool_size"] = 1
    bouncer.write()
    bouncer.admin("RELOAD")
    with client(bouncer, database="more") as one, client(bouncer, database="more") as two:
        assert one.rows("SELECT 1") == two.rows("SELECT 1") == [[b"1"]]
        one.query("BEGIN")
        two.send(stream.query("SELECT 2"))
        until(lambda: bouncer.pool("more")["cl_waiting"] == 1)
        one.query("COMMIT")
        two.until()


def test_a_worker_that_is_killed_takes_its_clients_and_nothing_else(
    start_pooler: StartBouncer, cluster: Cluster
) -> None:
    bouncer = start_pooler(sections=TWO, default_pool_size=2)
    with ExitStack() as stack:
        several = [stack.enter_context(client(bouncer)) for _ in range(6)]
        for one in several:
            one.query("SELECT 1")
        # What it counted is known once it was looked at.
        until(lambda: sum(row["xact_count"] for row in workers(bouncer)) >= 6)
        killed = workers(bouncer)[0]["pid"]
        os.kill(killed, signal.SIGKILL)
        until(lambda: bouncer.pool()["cl_active"] == 3, "its clients to be gone")
        served = 0
        for one in several:
            try:
                served += one.rows("SELECT 2") == [[b"2"]]
            except (OSError, stream.Ended):
                continue
        assert served == 3
        until(lambda: [row["state"] for row in workers(bouncer)] == ["serving"] * 2, "another worker")
        assert killed not in child_pids(bouncer)
        for _ in range(4):
            assert stack.enter_context(client(bouncer)).rows("SELECT 3") == [[b"3"]]
        assert len(cluster.backends("app")) <= 2
        (totals,) = (row for row in bouncer.admin("SHOW STATS") if row["database"] == "app")
        assert totals["total_xact_count"] == 6 + served + 4
    bouncer.wait_log(rf"worker 0 \(pid {killed}\) has ended")


@pytest.mark.slow
def test_a_worker_that_hangs_is_given_nobody_and_ended(start_pooler: StartBouncer) -> None:
    bouncer = start_pooler(sections=TWO, default_pool_size=2)
    hanging = workers(bouncer)[0]["pid"]
    os.kill(hanging, signal.SIGSTOP)
    bouncer.wait_log("worker 0 does not answer")
    for _ in range(4):
        with client(bouncer) as one:
            assert one.rows("SELECT 1") == [[b"1"]]
    until(lambda: not alive(hanging), "it to be ended", deadline=40)
    until(lambda: [row["state"] for row in workers(bouncer)] == ["serving"] * 2, "another worker")


@pytest.mark.slow
def test_the_desks_death_is_everybodys(start_pooler: StartBouncer) -> None:
    bouncer = start_pooler(sections=TWO)
    pids = child_pids(bouncer)
    with client(bouncer) as one:
        one.query("SELECT 1")
        os.kill(bouncer.pid, signal.SIGKILL)
        bouncer.wait()
        assert one.ended()
    until(lambda: not any(map(alive, pids)), "the workers to end")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT])
def test_an_end_is_everybodys(start_pooler: StartBouncer, number: signal.Signals) -> None:
    bouncer = start_pooler(sections=TWO)
    pids = child_pids(bouncer)
    with client(bouncer) as one:
        one.query("BEGIN")
        bouncer.signal(number)
        if number is not signal.SIGQUIT:
            bouncer.wait_log(f"got {number.name}, shutting down")
            assert one.rows("SELECT 1") == [[b"1"]]
            one.query("COMMIT")
    assert bouncer.wait() == 0
    until(lambda: not any(map(alive, pids)), "the workers to end")


@pytest.mark.slow
def test_a_signal_to_the_group_ends_no_worker(start_pooler: StartBouncer) -> None:
    """As a terminal's Ctrl-C or a service manager sends it: the desk says what is to be done."""
    bouncer = start_pooler(sections=TWO)
    with client(bouncer) as one:
        one.query("SELECT 1")
        for pid in child_pids(bouncer):
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                os.kill(pid, number)
        assert one.rows("SELECT 2") == [[b"2"]]
        assert [row["state"] for row in workers(bouncer)] == ["serving"] * 2


LISTENING = "SELECT pid FROM pg_stat_activity WHERE application_name = 'pooler: LISTEN'"


def told(one: psycopg.Connection[Any], last: str) -> list[tuple[str, int]]:
    """(payload, process id) of what comes, up to this payload."""
    found: list[tuple[str, int]] = []
    for notify in one.notifies(timeout=20):
        found.append((notify.payload, notify.pid))
        if notify.payload == last:
            break
    return found


def free(bouncer: Bouncer) -> bool:
    return bool(bouncer.pool()["sv_active"] == 0)


@pytest.mark.slow
def test_one_server_listens_for_all_and_who_notifies_is_known(start_pooler: StartBouncer, cluster: Cluster) -> None:
    """Whichever worker they are in; the limits have one connection more to hold."""
    keep = {"pooler": {"workers": 3, "session_state": "keep"}}
    bouncer = start_pooler(sections=keep, default_pool_size=3, max_db_connections=4)
    with ExitStack() as stack:
        everybody = [stack.enter_context(bouncer.connect()) for _ in range(6)]
        for number, one in enumerate(everybody):
            one.execute(f"LISTEN here; LISTEN c{number}")
        until(lambda: free(bouncer), "nobody to keep a server")
        (row,) = [row for row in bouncer.admin("SHOW SERVERS") if row["state"] == "listening"]
        assert cluster.sql(LISTENING) == [(row["remote_pid"],)]
        assert len({row["id"] for row in bouncer.admin("SHOW SERVERS")}) == len(bouncer.admin("SHOW SERVERS"))
        ids = {one.info.backend_pid for one in everybody}
        assert len(ids) == 6
        for turn, one in enumerate(everybody):
            one.execute(f"SELECT pg_notify('here', '{turn}')")
            assert len(cluster.backends("app")) <= 4
        cluster.sql("NOTIFY c2, 'own'; NOTIFY here, 'last'", dbname="app")
        for number, one in enumerate(everybody):
            found = told(one, "last")
            assert found[:6] == [(str(turn), who.info.backend_pid) for turn, who in enumerate(everybody)]
            assert [payload for payload, _ in found[6:]] == (["own", "last"] if number == 2 else ["last"])
            assert found[-1][1] not in ids


@pytest.mark.slow
def test_who_listens_in_another_worker_does_not_notice_that_one_is_killed(
    start_pooler: StartBouncer, cluster: Cluster
) -> None:
    bouncer = start_pooler(sections={"pooler": {"workers": 2, "session_state": "keep"}}, default_pool_size=4)
    with ExitStack() as stack:
        everybody = [stack.enter_context(bouncer.connect()) for _ in range(4)]
        for one in everybody:
            one.execute("LISTEN here")
        until(lambda: free(bouncer), "nobody to keep a server")
        before = cluster.sql(LISTENING)
        os.kill(workers(bouncer)[0]["pid"], signal.SIGKILL)
        until(lambda: bouncer.pool()["cl_active"] == 2, "its clients to be gone")
        until(lambda: [row["state"] for row in workers(bouncer)] == ["serving"] * 2, "another worker")
        late = [stack.enter_context(bouncer.connect()) for _ in range(2)]
        for number, one in enumerate(late):
            one.execute(f"LISTEN here; LISTEN late{number}")
        until(lambda: free(bouncer), "nobody to keep a server")
        late[0].execute("NOTIFY here, 'x'")
        heard = 0
        for one in (*everybody, *late):
            try:
                heard += told(one, "x") == [("x", late[0].info.backend_pid)]
            except psycopg.OperationalError:
                continue
        assert heard == 4
        assert cluster.sql(LISTENING) == before
    assert "miss what is notified" not in bouncer.log_text()


def test_one_worker_is_one_process(start_pooler: StartBouncer) -> None:
    bouncer = start_pooler(sections={"pooler": {"workers": 1}})
    assert child_pids(bouncer) == []
    (row,) = workers(bouncer)
    assert (row["worker"], row["pid"], row["state"]) == (0, bouncer.pid, "serving")
