"""LISTEN through a transaction pool that follows: one listening server for all clients of a database. Each client is
told what a direct connection is told, in its order, nothing twice, and nobody is told what is not theirs.
"""

from __future__ import annotations

import asyncio
import resource
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import asyncpg
import psycopg
import pytest

from tests.fixtures import stream
from tests.fixtures.cluster import Cluster
from tests.fixtures.process import Bouncer, StartBouncer
from tests.fixtures.stream import Stream
from tests.fixtures.waiting import DEADLINE, until
from tests.system.test_without_room import limited

pytestmark = pytest.mark.usefixtures("cleared")

KEEP: dict[str, Any] = {"pool_mode": "transaction", "sections": {"pooler": {"session_state": "keep"}}}
LISTENING = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'pooler: LISTEN'"


@pytest.fixture(params=[15, pytest.param(18, marks=pytest.mark.slow)])
def server(request: pytest.FixtureRequest) -> Cluster:
    """Debian's PostgreSQL, and the newest."""
    found: Cluster = request.getfixturevalue("cluster" if request.param == 15 else "newest_cluster")
    return found


@contextmanager
def client(port: int, **more: Any) -> Iterator[psycopg.Connection[Any]]:
    known: dict[str, Any] = {"host": "127.0.0.1", "port": port, "user": "postgres", "dbname": "app", "autocommit": True}
    with psycopg.connect(**(known | more)) as one:
        yield one


def told(one: psycopg.Connection[Any], last: str | None, seconds: float = DEADLINE) -> list[tuple[str, str, int]]:
    """(channel, payload, process id) of all notifications up to the payload `last`, or for so long."""
    found: list[tuple[str, str, int]] = []
    for notify in one.notifies(timeout=seconds):
        found.append((notify.channel, notify.payload, notify.pid))
        if notify.payload == last:
            return found
    assert last is None, f"{last!r} has not come: {found[-5:]}"
    return found


def payloads(one: psycopg.Connection[Any], last: str | None, seconds: float = DEADLINE) -> list[str]:
    return [payload for _, payload, _ in told(one, last, seconds)]


def follows(bouncer: Bouncer, clients: int = 1) -> None:
    """Until no server is kept for a client that listens."""
    until(lambda: bouncer.pool()["sv_active"] == 0, "the servers to be free")
    rows = [row for row in bouncer.admin("SHOW SESSION_STATE") if row["kind"] == "listen"]
    assert len(rows) == clients
    assert {row["fate"] for row in rows} <= {"follows"}
    assert all(row["pinned_us"] is None for row in rows)


@pytest.mark.parametrize("size", [1, 4])
def test_who_listens_is_told_and_keeps_no_server(start_pooler: StartBouncer, server: Cluster, size: int) -> None:
    bouncer = start_pooler(server=server, default_pool_size=size, **KEEP)
    with client(bouncer.port) as one, client(bouncer.port) as other, client(server.port) as direct:
        one.execute("LISTEN foo")
        follows(bouncer)
        (row,) = [row for row in bouncer.admin("SHOW SERVERS") if row["state"] == "listening"]
        ((pid,),) = server.sql("SELECT pid FROM pg_stat_activity WHERE application_name = 'pooler: LISTEN'")
        assert row["remote_pid"] == pid
        other.execute("NOTIFY foo, 'a'")
        direct.execute("NOTIFY foo, 'b'")
        direct.execute("NOTIFY bar, 'c'")
        one.execute("NOTIFY foo, 'd'")
        found = told(one, "d")
        assert [payload for _, payload, _ in found] == ["a", "b", "d"]
        pids = [pid for _, _, pid in found]
        assert pids == [other.info.backend_pid, direct.info.backend_pid, one.info.backend_pid]
        assert payloads(other, None, 0.1) == []
        one.execute("UNLISTEN foo")
        direct.execute("NOTIFY foo, 'e'")
        assert payloads(one, None, 0.1) == []


@pytest.mark.slow
def test_a_thousand_listen_on_one_connection(start_pooler: StartBouncer, cluster: Cluster) -> None:
    bouncer = start_pooler(default_pool_size=4, max_client_conn=2000, **KEEP)
    with ExitStack() as stack, client(cluster.port) as direct:
        everybody = [stack.enter_context(Stream(("127.0.0.1", bouncer.port)).login()) for _ in range(1000)]
        for number, one in enumerate(everybody):
            one.query(f"LISTEN everybody; LISTEN c{number}")
        until(lambda: bouncer.pool()["sv_active"] == 0, "the servers to be free")
        assert cluster.sql(LISTENING) == [(1,)]
        assert len(cluster.backends()) <= 4 + 1 + 1
        direct.execute("NOTIFY everybody, 'x'")
        direct.execute("NOTIFY c7, 'y'")
        for number, one in enumerate(everybody):
            assert one.read().body[4:] == b"everybody\0x\0"
            if number == 7:
                assert one.read().body[4:] == b"c7\0y\0"
        (row,) = [row for row in bouncer.admin("SHOW DATABASES") if row["name"] == "app"]
        assert row["current_connections"] <= 5


@pytest.mark.slow
def test_a_listening_server_for_which_there_was_no_descriptor_is_there_soon(
    start_pooler: StartBouncer, cluster: Cluster
) -> None:
    """Nobody listens meanwhile: server_login_retry is for servers that refuse."""
    bouncer = start_pooler(server_login_retry=600, **KEEP)
    with client(bouncer.port) as one, client(cluster.port) as direct:
        one.execute("LISTEN foo")
        follows(bouncer)
        with limited(bouncer, resource.RLIMIT_NOFILE, lambda _: 0):
            cluster.sql(LISTENING.replace("count(*)", "pg_terminate_backend(pid)"))
            bouncer.wait_log("Too many open files")
        until(lambda: cluster.sql(LISTENING) == [(1,)], "somebody to listen again")
        direct.execute("NOTIFY foo, 'again'")
        assert payloads(one, "again") == ["again"]


@pytest.mark.parametrize("said", ["UNLISTEN foo", "UNLISTEN *", "DISCARD ALL"])
def test_what_ends_it_and_is_not_carried_out_ends_nothing(
    start_pooler: StartBouncer, cluster: Cluster, said: str
) -> None:
    """It is parsed and described, as drivers do ahead of the first use."""
    bouncer = start_pooler(default_pool_size=1, **KEEP)
    with Stream(("127.0.0.1", bouncer.port), timeout=DEADLINE).login() as one, client(cluster.port) as direct:
        one.query("LISTEN foo")
        follows(bouncer)
        one.send(stream.parse(said), stream.describe("S"), stream.sync())
        one.until()
        direct.execute("NOTIFY foo, 'a'")
        assert one.read().body[4:] == b"foo\0a\0"
        one.send(stream.bind(), stream.execute(), stream.sync())
        one.until()
        direct.execute("NOTIFY foo, 'b'")
        assert [message.type for message in one.query("SELECT 1")] == ["T", "D", "C", "Z"]


class Writer:
    """Notifies 1, 2, 3, ... on a direct connection, without a pause, until it is stopped."""

    def __init__(self, port: int, channel: str) -> None:
        self.last = 0
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(port, channel))

    def _run(self, port: int, channel: str) -> None:
        with client(port) as one:
            while not self._end.is_set():
                self.last += 1
                one.execute(f"NOTIFY {channel}, '{self.last}'")

    def __enter__(self) -> Writer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> str:
        """The last payload."""
        self._end.set()
        self._thread.join()
        return str(self.last)


@pytest.mark.parametrize("size", [1, 4])
def test_nothing_is_lost_or_told_twice_while_channels_go_over(
    start_pooler: StartBouncer, server: Cluster, size: int
) -> None:
    # Without TLS a server may go to another worker while a mark that it has set is on its way.
    bouncer = start_pooler(server=server, default_pool_size=size, server_tls_sslmode="disable", **KEEP)
    with ExitStack() as stack, Writer(server.port, "foo") as writer:
        direct = stack.enter_context(client(server.port))
        direct.execute("LISTEN foo")
        clients = []
        for _ in range(8):
            one = stack.enter_context(client(bouncer.port))
            one.execute("LISTEN foo")
            clients.append(one)
        until(lambda: bouncer.pool()["sv_active"] == 0, "the servers to be free")
        clients[1].execute("LISTEN foo")
        clients[2].execute("LISTEN bar")
        clients[0].execute("BEGIN")
        time.sleep(0.2)
        clients[0].execute("COMMIT")
        last = writer.stop()
        everything = payloads(direct, last)
        assert everything == [str(number) for number in range(int(everything[0]), int(last) + 1)]
        for one in clients:
            found = payloads(one, last)
            assert found == everything[-len(found) :]
            assert len(found) > 1


def test_what_is_rolled_back_has_not_happened(start_pooler: StartBouncer, server: Cluster) -> None:
    bouncer = start_pooler(server=server, default_pool_size=1, **KEEP)
    with client(bouncer.port) as one, client(server.port) as direct:
        steps = {
            "BEGIN; LISTEN foo; ROLLBACK": [],
            "BEGIN; LISTEN foo; COMMIT": ["foo"],
            "BEGIN; UNLISTEN foo; ROLLBACK": ["foo"],
            "BEGIN; SAVEPOINT a; LISTEN bar; ROLLBACK TO a; LISTEN baz; COMMIT": ["baz", "foo"],
            "LISTEN foo; UNLISTEN baz": ["foo"],
            "UNLISTEN foo; LISTEN foo": ["foo"],
            'LISTEN "Foo; x"; UNLISTEN FOO': ["Foo; x"],
            "DO $$ BEGIN EXECUTE 'LISTEN bar'; END $$": ["Foo; x", "bar"],
            "UNLISTEN *": [],
            "LISTEN foo; LISTEN bar; UNLISTEN foo": ["bar"],
            "DISCARD ALL": [],
        }
        for number, (step, wanted) in enumerate(steps.items()):
            for statement in (step,) if "$$" in step else step.split("; ") if "BEGIN" in step else (step,):
                one.execute(statement)
            for channel in ("foo", "bar", "baz", "Foo; x"):
                direct.execute(f"NOTIFY \"{channel}\", '{number}'")
            direct.execute(f"NOTIFY other, '{number}'")
            one.execute("LISTEN other")
            direct.execute("NOTIFY other, 'end'")
            found = sorted(channel for channel, payload, _ in told(one, "end") if payload == str(number))
            assert found == wanted, step
            one.execute("UNLISTEN other")


@pytest.mark.slow
def test_who_is_in_a_transaction_is_told_behind_it(start_pooler: StartBouncer, server: Cluster) -> None:
    """Ahead of the ReadyForQuery where it is known that no code of the database's own may have said UNLISTEN."""
    bouncer = start_pooler(server=server, default_pool_size=2, **KEEP)
    with Stream(("127.0.0.1", bouncer.port)).login() as one, client(server.port) as direct:
        one.query("LISTEN foo")
        bouncer.wait_log("names of its own may leave")
        until(lambda: bouncer.pool()["sv_active"] == 0, "the servers to be free")
        one.query("BEGIN")
        direct.execute("NOTIFY foo, '1'")
        assert [message.type for message in one.query("SELECT pg_sleep(0.2)")] == ["T", "D", "C", "Z"]
        assert [message.type for message in one.query("COMMIT")] == ["C", "A", "Z"]
        one.send(b"")
        sleeping = threading.Timer(0.1, lambda: direct.execute("NOTIFY foo, '2'"))
        sleeping.start()
        answer = one.query("SELECT generate_series(1, 1000), pg_sleep(0.0003)")
        sleeping.join()
        if answer[-2].type != "A":
            answer.append(one.read())
        types = "".join(message.type for message in answer if message.type != "D")
        assert types in ("TCAZ", "TCZA")


@pytest.mark.parametrize("size", [1, 4])
def test_a_listening_server_that_is_lost_is_there_again_and_that_is_told(
    start_pooler: StartBouncer, server: Cluster, size: int
) -> None:
    bouncer = start_pooler(server=server, default_pool_size=size, **KEEP)
    with client(bouncer.port) as one, client(bouncer.port) as two, client(server.port) as direct:
        one.execute("LISTEN foo")
        two.execute("LISTEN bar")
        follows(bouncer, 2)
        killed = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'pooler: LISTEN'"
        server.sql(killed)
        bouncer.wait_log("WARNING listening server of app at 127.0.0.1 lost .*: 2 clients miss what is notified now")
        bouncer.wait_log("LOG listening server of app at 127.0.0.1 is there again after .* s")
        direct.execute("NOTIFY foo, 'a'")
        direct.execute("NOTIFY bar, 'b'")
        assert payloads(one, "a") == ["a"]
        assert payloads(two, "b") == ["b"]
        (event,) = [row for row in bouncer.admin("SHOW EVENTS") if row["kind"] == "notification"]
        assert (event["database"], event["reason"]) == ("app", "lost")
        assert server.sql(LISTENING) == [(1,)]


def test_asyncpg_listens(start_pooler: StartBouncer, server: Cluster) -> None:
    bouncer = start_pooler(server=server, default_pool_size=1, **KEEP)

    async def run() -> list[tuple[int, str, str]]:
        found: asyncio.Queue[tuple[int, str, str]] = asyncio.Queue()
        place: dict[str, Any] = {"host": "127.0.0.1", "user": "postgres", "database": "app"}
        one = await asyncpg.connect(port=bouncer.port, **place)
        other = await asyncpg.connect(port=bouncer.port, **place)
        try:
            await one.add_listener("foo", lambda _, pid, channel, payload: found.put_nowait((pid, channel, payload)))
            async with other.transaction():
                await other.execute("SELECT pg_notify('foo', 'a')")
            first = await asyncio.wait_for(found.get(), 10)
            assert first == (other.get_server_pid(), "foo", "a")
            await one.execute("NOTIFY foo, 'b'")
            second = await asyncio.wait_for(found.get(), 10)
            assert second == (one.get_server_pid(), "foo", "b")
        finally:
            await one.close()
            await other.close()
        return [first, second]

    assert len(asyncio.run(run())) == 2


@pytest.mark.slow
def test_a_pause_ends_the_listening_server_and_resume_brings_it_back(
    start_pooler: StartBouncer, cluster: Cluster
) -> None:
    bouncer = start_pooler(default_pool_size=1, **KEEP)
    with client(bouncer.port) as one, client(cluster.port) as direct:
        one.execute("LISTEN foo")
        follows(bouncer)
        bouncer.admin("PAUSE app")
        assert cluster.sql(LISTENING) == [(0,)]
        bouncer.admin("RESUME app")
        bouncer.wait_log("listening server of app at 127.0.0.1 is there again")
        direct.execute("NOTIFY foo, 'a'")
        assert payloads(one, "a") == ["a"]


PID = "SELECT min(pid), count(*) FROM pg_stat_activity WHERE application_name = 'pooler: LISTEN'"


def has_changed(server: Cluster, before: list[Any]) -> bool:
    (now,) = server.sql(PID)
    return bool(now[0] != before[0][0] and now[1] == 1)


@pytest.mark.slow
def test_reconnect_changes_the_listening_server_without_a_gap(start_pooler: StartBouncer, server: Cluster) -> None:
    bouncer = start_pooler(server=server, default_pool_size=4, **KEEP)
    with ExitStack() as stack, Writer(server.port, "foo") as writer:
        direct = stack.enter_context(client(server.port))
        direct.execute("LISTEN foo")
        one, late = stack.enter_context(client(bouncer.port)), stack.enter_context(client(bouncer.port))
        one.execute("LISTEN foo")
        follows(bouncer)
        for round_ in range(5):
            before = server.sql(PID)
            bouncer.admin("RECONNECT app")
            late.execute(f"LISTEN foo{round_}")
            until(partial(has_changed, server, before), "another")
        follows(bouncer, 2)
        last = writer.stop()
        everything, found = payloads(direct, last), payloads(one, last)
        assert found == everything[-len(found) :]
        assert int(found[0]) < 1000 or len(found) > 100
        server.sql("NOTIFY foo4, 'late'", dbname="app")
        assert payloads(late, "late") == ["late"]
    assert "miss what is notified" not in bouncer.log.read_text()


@pytest.mark.slow
def test_where_there_is_room_for_one_only_reconnect_tells_of_the_gap(
    start_pooler: StartBouncer, cluster: Cluster
) -> None:
    bouncer = start_pooler(default_pool_size=2, max_db_connections=1, server_login_retry="0.1", **KEEP)
    with client(bouncer.port) as one, client(cluster.port) as direct:
        one.execute("LISTEN foo")
        bouncer.admin("SET max_db_connections = 2")
        follows(bouncer)
        bouncer.admin("SET max_db_connections = 1")
        bouncer.admin("RECONNECT app")
        bouncer.wait_log("clients miss what is notified now")
        bouncer.admin("SET max_db_connections = 2")
        bouncer.wait_log("is there again")
        direct.execute("NOTIFY foo, 'b'")
        assert payloads(one, "b") == ["b"]


def test_where_there_is_no_room_for_it_a_listener_keeps_its_server(
    start_pooler: StartBouncer, cluster: Cluster
) -> None:
    bouncer = start_pooler(default_pool_size=2, max_db_connections=1, server_login_retry="0.1", **KEEP)
    with client(bouncer.port) as one, client(cluster.port) as direct:
        one.execute("LISTEN foo")
        bouncer.wait_log("WARNING listening server of app at 127.0.0.1 no room for it: who listens keeps a server each")
        (row,) = bouncer.admin("SHOW SESSION_STATE")
        assert (row["kind"], row["fate"]) == ("listen", "pins")
        assert row["pinned_us"] > 0
        direct.execute("NOTIFY foo, 'a'")
        one.execute("NOTIFY foo, 'b'")
        assert told(one, "b") == [("foo", "a", direct.info.backend_pid), ("foo", "b", one.info.backend_pid)]
        bouncer.admin("SET max_db_connections = 2")
        follows(bouncer)
        direct.execute("NOTIFY foo, 'c'")
        assert payloads(one, "c") == ["c"]


@pytest.mark.slow
@pytest.mark.parametrize("tls", [False, True])
def test_an_online_restart_takes_the_listeners_along(start_pooler: StartBouncer, cluster: Cluster, tls: bool) -> None:
    """With TLS the connection cannot be handed over, which is told."""
    sslmode = "prefer" if tls and cluster.tls else "disable"
    bouncer = start_pooler(default_pool_size=2, server_tls_sslmode=sslmode, **KEEP)
    with client(bouncer.port) as one, client(bouncer.port) as two, Writer(cluster.port, "foo") as writer:
        one.execute("LISTEN foo")
        two.execute("LISTEN foo")
        follows(bouncer, 2)
        if sslmode == "disable":
            two.execute("BEGIN")
        first = bouncer.process
        assert first is not None
        bouncer.launch("-R")
        assert first.wait(DEADLINE) == 0
        if sslmode == "prefer":
            bouncer.wait_log("is there again after")
            writer.stop()
            return
        two.execute("COMMIT")
        last = writer.stop()
        for listener in (one, two):
            found = payloads(listener, last)
            assert found == [str(number) for number in range(int(found[0]), int(last) + 1)]
        assert "is there again" not in bouncer.log_text()
        one.execute("UNLISTEN *")
        two.execute("NOTIFY foo, 'mine'")
        assert told(two, "mine")[-1][2] == two.info.backend_pid
        assert payloads(one, None, 0.1) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("policy", "mode"), [("leak", "transaction"), ("keep listen:refuse", "transaction"), ("keep", "session")]
)
def test_other_fates(start_pooler: StartBouncer, cluster: Cluster, policy: str, mode: str) -> None:
    bouncer = start_pooler(default_pool_size=1, pool_mode=mode, sections={"pooler": {"session_state": policy}})
    with client(bouncer.port) as one, client(cluster.port) as direct:
        if "refuse" in policy:
            with pytest.raises(psycopg.errors.FeatureNotSupported, match="session state is refused"):
                one.execute("LISTEN foo")
            one.execute("UNLISTEN foo")
        else:
            one.execute("LISTEN foo")
        direct.execute("NOTIFY foo, 'a'")
        assert payloads(one, "a" if mode == "session" else None, 0.2) == (["a"] if mode == "session" else [])
        assert cluster.sql(LISTENING) == [(0,)]
        fates = {"transaction": "is refused" if "refuse" in policy else "leaks", "session": "stays in its session"}
        (row,) = bouncer.admin("SHOW SESSION_STATE")
        assert row["fate"] == fates[mode]


@pytest.mark.slow
def test_a_standby_says_that_it_cannot(start_pooler: StartBouncer, standby: Cluster) -> None:
    bouncer = start_pooler(server=standby, default_pool_size=1, **KEEP)
    with client(bouncer.port) as one:
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction, match="cannot execute LISTEN during recovery"):
            one.execute("LISTEN foo")
        assert one.execute("SELECT 1").fetchone() == (1,)
    assert bouncer.pool()["sv_idle"] == 1


@pytest.mark.parametrize("command", ["KILL app", "SHUTDOWN WAIT_FOR_SERVERS"])
def test_it_ends_with_all_the_others(start_pooler: StartBouncer, cluster: Cluster, command: str) -> None:
    bouncer = start_pooler(default_pool_size=1, **KEEP)
    one = bouncer.connect()
    try:
        one.execute("LISTEN foo")
        follows(bouncer)
        bouncer.admin(command)
        until(lambda: cluster.sql(LISTENING) == [(0,)], "it to be gone", deadline=5)
        if command.startswith("SHUTDOWN"):
            assert bouncer.wait() == 0
        else:
            with pytest.raises(psycopg.OperationalError):
                one.execute("SELECT 1")
            bouncer.admin("RESUME app")
            assert bouncer.sql("SELECT 1") == [(1,)]
            assert cluster.sql(LISTENING) == [(0,)]
    finally:
        one.close()


@pytest.mark.parametrize("size", [1, 4])
def test_a_listen_holds_from_its_commit_on(start_pooler: StartBouncer, server: Cluster, size: int) -> None:
    """As PostgreSQL says of it. To who has listened to something before, it tells more: what was notified since that
    one's transaction began, be it ahead of the LISTEN. Nobody may count on it, and here it is not told."""
    bouncer = start_pooler(server=server, default_pool_size=size, **KEEP)
    for port, more in ((server.port, ["b", "c"]), (bouncer.port, [])):
        with client(port) as one, client(server.port) as direct:
            for channel, early in (("foo", []), ("bar", more)):
                with one.transaction():
                    one.execute("SELECT 1")
                    direct.execute(f"NOTIFY {channel}, 'b'")
                    one.execute(f"LISTEN {channel}")
                    direct.execute(f"NOTIFY {channel}, 'c'")
                direct.execute(f"NOTIFY {channel}, 'last'")
                assert payloads(one, "last") == [*early, "last"]
                if port == bouncer.port:
                    follows(bouncer)
