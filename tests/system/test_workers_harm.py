"""What happens to one worker, or to the desk, and to nobody else: no descriptors, a full disk, a process that hangs."""

from __future__ import annotations

import itertools
import os
import resource
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.fixtures.cluster import SUPERUSER
from tests.fixtures.disk import Disk
from tests.fixtures.process import Bouncer, StartBouncer
from tests.fixtures.stream import Ended, Stream, query, startup
from tests.fixtures.waiting import until
from tests.system.test_workers import TWO, alive, workers

pytestmark = pytest.mark.usefixtures("cleared")
ROOM = "no descriptors are left"


@contextmanager
def without_descriptors(pid: int) -> Iterator[None]:
    """This process has as many as it needs for what it has, and no more."""
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    used = {int(name) for name in os.listdir(f"/proc/{pid}/fd")}
    free = next(number for number in itertools.count() if number not in used)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (free, before[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)


def goes_on(*connections: psycopg.Connection[Any]) -> None:
    for number in range(20):
        for one in connections:
            assert one.execute(f"SELECT {number}").fetchone() == (number,)


def come_in(bouncer: Bouncer, stack: ExitStack, times: int, **more: str) -> list[psycopg.Connection[Any]]:
    return [stack.enter_context(bouncer.connect(**more)) for _ in range(times)]


def comes_in(bouncer: Bouncer, stack: ExitStack) -> psycopg.Connection[Any] | None:
    try:
        return stack.enter_context(bouncer.connect())
    except psycopg.OperationalError:
        return None


@pytest.mark.slow
def test_who_finds_no_descriptor_in_one_worker_is_served_by_another(start_pooler: StartBouncer) -> None:
    bouncer = start_pooler(sections=TWO, default_pool_size=4)
    with ExitStack() as stack:
        before = come_in(bouncer, stack, 4)
        goes_on(*before)
        full = workers(bouncer)[0]["pid"]
        with without_descriptors(full):
            later = come_in(bouncer, stack, 10)
            goes_on(*before, *later)
        # And by both again when there are some.
        until(lambda: comes_in(bouncer, stack) and workers(bouncer)[0]["clients"] > 6, "its part of the clients")


@pytest.mark.slow
def test_a_server_that_cannot_be_sent_for_want_of_a_descriptor_goes_all_the_same(start_pooler: StartBouncer) -> None:
    """It is closed where it is, and another opened where it is wanted: who waited did so until its time was over."""
    bouncer = start_pooler(sections=TWO, default_pool_size=1, server_tls_sslmode="disable")
    with ExitStack() as stack:
        both = come_in(bouncer, stack, 2)
        goes_on(*both)
        for who in both:
            (owner,) = (row["pid"] for row in workers(bouncer) if row["servers"])
            with without_descriptors(owner):
                goes_on(who)
        goes_on(*both)


@pytest.mark.slow
def test_without_descriptors_in_all_of_them_who_comes_is_told(start_pooler: StartBouncer) -> None:
    bouncer = start_pooler(sections=TWO, default_pool_size=4)
    with ExitStack() as stack:
        before = come_in(bouncer, stack, 4)
        goes_on(*before)
        with ExitStack() as all_of_them:
            for row in workers(bouncer):
                all_of_them.enter_context(without_descriptors(row["pid"]))
            with pytest.raises(psycopg.OperationalError, match=ROOM):
                come_in(bouncer, stack, 20, sslmode="disable")
            goes_on(*before)
        until(lambda: comes_in(bouncer, stack), "room")


@pytest.mark.slow
def test_a_desk_without_descriptors_lets_nobody_in_and_ends_nobody(start_pooler: StartBouncer) -> None:
    bouncer = start_pooler(sections=TWO, default_pool_size=4)
    with ExitStack() as stack:
        before = come_in(bouncer, stack, 4)
        goes_on(*before)
        with without_descriptors(bouncer.pid):
            with pytest.raises(psycopg.OperationalError):
                come_in(bouncer, stack, 20)
            goes_on(*before)
        goes_on(until(lambda: comes_in(bouncer, stack), "room"), *before)
        assert [row["state"] for row in workers(bouncer)] == ["serving"] * 2


@pytest.mark.slow
def test_a_full_disk_of_the_log_holds_up_no_worker(
    start_pooler: StartBouncer, small_disk: Callable[[int], Disk]
) -> None:
    disk = small_disk(64)
    bouncer = start_pooler(logfile=disk.path / "log", sections=TWO, default_pool_size=4)
    bouncer.log = disk.path / "log"
    with ExitStack() as stack:
        before = come_in(bouncer, stack, 2)
        disk.fill()
        for _ in range(60):
            bouncer.connect().close()
        goes_on(*before)
        said = bouncer.log.read_text().count("login attempt: db=app")
        assert said < 60
        disk.room()
        bouncer.connect().close()
        # What found no room was kept.
        until(lambda: bouncer.log.read_text().count("login attempt: db=app") == 2 + 60 + 1, "all lines")


def worker_of(bouncer: Bouncer, connection: psycopg.Connection[Any]) -> int:
    """The number of the worker that has this client, which its id tells: each has those of one remainder."""
    with socket.socket(fileno=os.dup(connection.pgconn.socket)) as one:
        port = one.getsockname()[1]
    (number,) = (row["id"] for row in bouncer.admin("SHOW CLIENTS") if row["port"] == port)
    return int(number) % (len(workers(bouncer)) + 1) - 1


@pytest.mark.slow
def test_a_worker_that_hangs_is_noticed_by_its_clients_alone(start_pooler: StartBouncer) -> None:
    bouncer = start_pooler(sections={"pooler": {"workers": 2, "session_state": "keep"}}, default_pool_size=4)
    with ExitStack() as stack:
        several = come_in(bouncer, stack, 4)
        goes_on(*several)
        first = workers(bouncer)[0]["pid"]
        mine = [one for one in several if worker_of(bouncer, one) == 1]
        assert len(mine) == 2
        mine[0].execute("LISTEN here")
        os.kill(first, signal.SIGSTOP)
        bouncer.wait_log("worker 0 does not answer")
        goes_on(*mine)
        mine[1].execute("NOTIFY here, 'x'")
        found = [(told.payload, told.pid) for told in mine[0].notifies(timeout=20, stop_after=1)]
        assert found == [("x", mine[1].info.backend_pid)]
        assert bouncer.admin("SHOW POOLS")
        goes_on(stack.enter_context(bouncer.connect()), *mine)
        until(lambda: not alive(first), "it to be ended", deadline=40)
        goes_on(*mine)


def taken_in(one: Stream) -> tuple[int, int]:
    """Of the other end of this connection: the number of its socket, 0 until it is accepted, and the bytes that nobody
    has read."""
    ends = [f"0100007F:{name[1]:04X}" for name in (one.socket.getpeername(), one.socket.getsockname())]
    rows = (row.split() for row in Path("/proc/net/tcp").read_text().splitlines()[1:])
    ((queues, inode),) = ((row[4], row[9]) for row in rows if row[1:3] == ends)
    return int(inode), int(queues.split(":")[1], 16)


def ended(pid: int) -> bool:
    return not alive(pid)


def sleeps(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "S"


@pytest.mark.slow
def test_who_was_taken_by_a_worker_that_ends_is_handed_to_nobody_else(start_pooler: StartBouncer) -> None:
    """What it had said is read there, and would be awaited again: it was told nothing until client_login_timeout, where
    the desk had something to say to that worker before it had heard all that it had said."""
    bouncer = start_pooler(sections=TWO, default_pool_size=4)
    address = bouncer.address, bouncer.port
    with ExitStack() as stack:
        pids = [row["pid"] for row in workers(bouncer)]
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        several = [stack.enter_context(Stream(address)) for _ in range(6)]
        for one in several:
            one.send(startup({"user": SUPERUSER, "database": "app"}))
        until(lambda: all(taken_in(one)[0] for one in several) and sleeps(bouncer.pid), "the desk to hand them on")
        bouncer.signal(signal.SIGSTOP)
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
        until(lambda: not any(taken_in(one)[1] for one in several), "the workers to take them")
        os.kill(pids[0], signal.SIGKILL)
        until(partial(ended, pids[0]), "its end")
        for _ in range(6):
            stack.enter_context(Stream(address))
        bouncer.signal(signal.SIGCONT)
        ends = []
        for one in several:
            try:
                ends.append(one.until("Z")[-1].type)
            except Ended:
                ends.append("gone")
        assert set(ends) == {"Z", "gone"}


@pytest.mark.slow
def test_who_comes_while_all_workers_have_ended_waits_for_the_next(start_pooler: StartBouncer) -> None:
    """Young ones are started again after half a second: who came meanwhile found the end of its connection."""
    bouncer = start_pooler(sections=TWO, default_pool_size=4)
    with ExitStack() as stack:
        for pid in [row["pid"] for row in workers(bouncer)]:
            os.kill(pid, signal.SIGKILL)
            until(partial(ended, pid), "its end")
        goes_on(*come_in(bouncer, stack, 6))


@pytest.mark.slow
def test_what_is_commanded_while_a_worker_hangs_holds_there_as_well(start_pooler: StartBouncer) -> None:
    """It was told nothing: it went on with the configuration of before, and with what was disabled."""
    bouncer = start_pooler(sections=TWO, default_pool_size=4)
    with ExitStack() as stack:
        goes_on(*come_in(bouncer, stack, 2))
        first = workers(bouncer)[0]["pid"]
        os.kill(first, signal.SIGSTOP)
        bouncer.wait_log("worker 0 does not answer")
        bouncer.settings["max_user_client_connections"] = 3
        bouncer.write()
        bouncer.admin("RELOAD")
        bouncer.admin("DISABLE other")
        os.kill(first, signal.SIGCONT)
        bouncer.wait_log("worker 0 answers again")
        for _ in range(6):
            with pytest.raises(psycopg.OperationalError, match='database "other" is disabled'):
                bouncer.connect("other")
        assert [comes_in(bouncer, stack) is None for _ in range(6)] == [False, *[True] * 5]


@pytest.mark.slow
def test_a_resume_behind_a_pause_is_behind_it_everywhere(start_pooler: StartBouncer) -> None:
    """The desk waited for its own listening server before the workers heard of the PAUSE: the RESUME came first there,
    and they were paused for ever while the service was not."""
    bouncer = start_pooler(sections={"pooler": {"workers": 2, "session_state": "keep"}}, default_pool_size=4)
    address = bouncer.address, bouncer.port
    with ExitStack() as stack:
        several = [stack.enter_context(Stream(address)).login() for _ in range(4)]
        several[0].query("LISTEN here")
        pausing, resuming = (stack.enter_context(Stream(address)).login("pgbouncer") for _ in range(2))

        def resumed() -> bool:
            if any(message.type == "E" for message in resuming.until()):
                # It was there first.
                resuming.send(query("RESUME"))
                return False
            return True

        for number in range(30):
            bouncer.signal(signal.SIGSTOP)
            pausing.send(query("PAUSE"))
            resuming.send(query("RESUME"))
            bouncer.signal(signal.SIGCONT)
            until(resumed, "the RESUME")
            pausing.until()
            for one in several:
                assert one.rows(f"SELECT {number}") == [[str(number).encode()]]


@pytest.mark.slow
def test_those_who_wait_for_a_worker_leave_descriptors_for_one_to_begin(start_pooler: StartBouncer) -> None:
    """However many come while none serves: the desk needs some to start another."""
    bouncer = start_pooler(sections=TWO, default_pool_size=4)
    address = bouncer.address, bouncer.port
    with ExitStack() as stack:
        _, hard = resource.prlimit(bouncer.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(bouncer.pid, resource.RLIMIT_NOFILE, (100, hard))
        for pid in [row["pid"] for row in workers(bouncer)]:
            os.kill(pid, signal.SIGKILL)
        for number in range(2):
            bouncer.wait_log(f"worker {number} .* has ended")
        for _ in range(600):
            stack.enter_context(Stream(address))
        goes_on(until(lambda: comes_in(bouncer, stack), "another worker"))
