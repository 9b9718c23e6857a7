"""Random programs by clients of two workers, whose few servers go to and fro between these: each is answered as on a
connection of its own, and nothing of it reaches another. Also while workers are killed, stopped, out of descriptors,
and servers recalled: whoever is still answered is answered rightly, and behind it everything is there again.
"""

from __future__ import annotations

import itertools
import os
import random
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress

import pytest

from tests.fixtures.cluster import Cluster
from tests.fixtures.moving import MADE, Author, Step, Told, carried_out
from tests.fixtures.process import Bouncer, StartBouncer
from tests.fixtures.stream import Ended, Stream
from tests.fixtures.waiting import until
from tests.system.test_workers import workers
from tests.system.test_workers_harm import without_descriptors

pytestmark = pytest.mark.usefixtures("cleared")
POOLER = {"workers": 2, "session_state": "keep", "max_pinned": 100}
STEPS = 15
Heard = list[list[Told]]


def begun(start: StartBouncer, cluster: Cluster, size: int) -> Bouncer:
    """On "other" is what they compare with."""
    for database in ("app", "other"):
        cluster.sql(MADE, dbname=database)
    return start(sections={"pooler": POOLER}, default_pool_size=size, server_tls_sslmode="disable")


def carry_out(port: int, database: str, program: list[Step], count: int) -> tuple[Heard, list[Told]]:
    """What each step is answered, and what was notified, of which there are so many."""
    found, notified = [], []
    with Stream(("127.0.0.1", port)).login(database) as client:
        for step in program:
            answer, more = carried_out(client, step)
            found.append(answer)
            notified += more
        while len(notified) < count:
            (message,) = client.until("A")[-1:]
            notified.append(("A", message.body))
    return found, [(kind, body[4:]) for kind, body in notified if isinstance(body, bytes)]


def play(bouncer: Bouncer, cluster: Cluster, seed: int, clients: int) -> None:
    authors = [Author(seed, number) for number in range(clients)]
    programs = [author.program(STEPS) for author in authors]
    counts = [author.notifies for author in authors]
    with ThreadPoolExecutor(clients) as pool:
        direct, pooled = (
            list(pool.map(carry_out, itertools.repeat(port), itertools.repeat(database), programs, counts))
            for port, database in ((cluster.port, "other"), (bouncer.port, "app"))
        )
    for author, program, wanted, got in zip(authors, programs, direct, pooled, strict=True):
        for step, right, answer in zip(program, wanted[0], got[0], strict=True):
            compare(author, authors, step, right, answer)
        assert got[1] == wanted[1], f"notified: seed {seed}, {author.mark}"


def compare(author: Author, authors: list[Author], step: Step, right: list[Told], answer: list[Told]) -> None:
    crossed = [other.mark for other in authors if other is not author and other.mark in repr(answer)]
    assert not crossed, f"bytes crossed from {crossed} to {author.mark}: {answer}"
    assert answer == right, f"{author.mark} at {step}"


@pytest.mark.parametrize("size", [1, 2])
def test_who_is_served_by_servers_that_move_is_answered_as_on_a_connection_of_its_own(
    start_pooler: StartBouncer, cluster: Cluster, size: int
) -> None:
    bouncer = begun(start_pooler, cluster, size)
    for seed in range(6):
        play(bouncer, cluster, seed, 2 + seed % 3)
    until(lambda: bouncer.pool()["sv_active"] == 0, "all servers to be free")


@pytest.mark.slow
@pytest.mark.parametrize("size", [1, 2])
def test_three_hundred_programs(start_pooler: StartBouncer, cluster: Cluster, size: int) -> None:
    bouncer = begun(start_pooler, cluster, size)
    for seed in range(1000, 1100):
        play(bouncer, cluster, seed, 2 + seed % 3)
    until(lambda: bouncer.pool()["sv_active"] == 0, "all servers to be free")


# ---- with harm in the middle


def reload(bouncer: Bouncer, chance: random.Random) -> None:
    """Servers are made otherwise from now on."""
    query = chance.choice(("select 1", "select 2"))
    bouncer.databases["app"] = bouncer.databases["other"].replace("other", "app") + f" connect_query='{query}'"
    bouncer.write()
    bouncer.admin("RELOAD")


def reconnect(bouncer: Bouncer, chance: random.Random) -> None:
    bouncer.admin(chance.choice(("RECONNECT", "RECONNECT app")))


def pause(bouncer: Bouncer, chance: random.Random) -> None:
    of = chance.choice(("", " app"))
    bouncer.admin("PAUSE" + of)
    bouncer.admin("RESUME" + of)


def kill_all(bouncer: Bouncer, chance: random.Random) -> None:
    bouncer.admin("KILL app")
    bouncer.admin("RESUME app")


def worker(bouncer: Bouncer, chance: random.Random) -> int:
    return int(chance.choice(workers(bouncer))["pid"])


def stop(bouncer: Bouncer, chance: random.Random) -> None:
    pid = worker(bouncer, chance)
    os.kill(pid, signal.SIGSTOP)
    threading.Event().wait(chance.choice((0.02, 0.1, 0.5)))
    os.kill(pid, signal.SIGCONT)


def no_descriptors(bouncer: Bouncer, chance: random.Random) -> None:
    with without_descriptors(chance.choice((worker(bouncer, chance), bouncer.pid))):
        threading.Event().wait(chance.choice((0.02, 0.1, 0.3)))


def kill_worker(bouncer: Bouncer, chance: random.Random) -> None:
    os.kill(worker(bouncer, chance), signal.SIGKILL)
    until(lambda: len(workers(bouncer)) == 2 and all(row["state"] == "serving" for row in workers(bouncer)))


HARM: tuple[Callable[[Bouncer, random.Random], None], ...] = (
    *(reload, reconnect, pause, kill_all, stop, no_descriptors, kill_worker),
)


class Client(threading.Thread):
    """Asks on until it is told to stop; who loses its connection comes anew."""

    def __init__(self, bouncer: Bouncer, cluster: Cluster, number: int) -> None:
        super().__init__()
        self.bouncer, self.cluster, self.number = bouncer, cluster, number
        self.over = threading.Event()
        self.failure: BaseException | None = None
        self.done = 0

    def run(self) -> None:
        try:
            while not self.over.is_set():
                self.session()
        except BaseException as error:
            self.failure = error

    def session(self) -> None:
        authors = [Author(self.done, number, cancels=False) for number in range(4)]
        author = authors[self.number]
        program = author.program(STEPS)
        wanted, _ = carry_out(self.cluster.port, "other", program, author.notifies)
        with suppress(Ended, ConnectionError), Stream(("127.0.0.1", self.bouncer.port)) as client:
            try:
                client.login()
            except AssertionError:
                # Turned away: while there are no descriptors, or a worker has just ended.
                self.over.wait(0.05)
                return
            for step, right in zip(program, wanted, strict=True):
                answer, _ = carried_out(client, step)
                compare(author, authors, step, right, answer)
                self.done += 1


@contextmanager
def asking(bouncer: Bouncer, cluster: Cluster) -> Iterator[list[Client]]:
    clients = [Client(bouncer, cluster, number) for number in range(4)]
    for one in clients:
        one.start()
    try:
        yield clients
    finally:
        for one in clients:
            one.over.set()
        for one in clients:
            one.join()
    for one in clients:
        if one.failure is not None:
            raise one.failure


def descriptors(bouncer: Bouncer) -> list[int]:
    """How many the desk has, and how many each worker."""
    return [len(os.listdir(f"/proc/{pid}/fd")) for pid in bouncer.pids]


def whole(bouncer: Bouncer, cluster: Cluster, size: int) -> None:
    """All servers can be had in either worker, none is beside them, and no figure is absurd."""
    for turn in range(2):
        with ExitStack() as stack:
            several = [stack.enter_context(Stream((bouncer.address, bouncer.port)).login()) for _ in range(2 * size)]
            for one in several[turn::2]:
                one.query("BEGIN")
            listening = "application_name = 'pooler: LISTEN'"
            beside = (
                f"SELECT 1 FROM pg_stat_activity WHERE datname = 'app' AND pid <> pg_backend_pid() AND NOT {listening}"
            )
            until(lambda sql=beside: len(cluster.sql(sql)) == size, "as many servers as there may be")  # type: ignore[misc]
    for shown in ("POOLS", "LISTS", "DATABASES", "USERS", "STATS", "TOTALS", "WORKERS"):
        for row in bouncer.admin(f"SHOW {shown}"):
            assert not [key for key, value in row.items() if isinstance(value, int) and value < 0], (shown, row)


def harmed(
    bouncer: Bouncer, cluster: Cluster, size: int, harm: Iterator[Callable[[Bouncer, random.Random], None]]
) -> None:
    chance = random.Random(size)
    bouncer.expects_faults = True
    bouncer.admin("SHOW VERSION")
    before = max(descriptors(bouncer)[1:])
    with asking(bouncer, cluster) as clients:
        for act in harm:
            done = [one.done for one in clients]
            act(bouncer, chance)
            until(lambda d=done: all(one.done > was or one.failure for one, was in zip(clients, d, strict=True)))  # type: ignore[misc]
    whole(bouncer, cluster, size)
    kill_all(bouncer, chance)
    until(lambda: max(descriptors(bouncer)[1:]) <= before, "no descriptors of before")


@pytest.mark.slow
@pytest.mark.parametrize("size", [1, 2])
def test_whatever_happens_to_workers_and_servers_everything_is_there_behind_it(
    start_pooler: StartBouncer, cluster: Cluster, size: int
) -> None:
    harmed(begun(start_pooler, cluster, size), cluster, size, iter(HARM))


@pytest.mark.slow
@pytest.mark.parametrize("seed", [7, 8])
@pytest.mark.parametrize("size", [1, 2])
def test_eighty_times(start_pooler: StartBouncer, cluster: Cluster, size: int, seed: int) -> None:
    chance = random.Random(seed)
    harmed(begun(start_pooler, cluster, size), cluster, size, (chance.choice(HARM) for _ in range(80)))
