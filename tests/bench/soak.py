"""`python -m tests.bench.soak`: clients that verify every answer, for as long as one likes, while all goes wrong.

Each worker does one thing after another on a connection of its own: queries, transactions, statements prepared and
shared, COPY both ways, long results read slowly, cancel requests of its own, departures in the middle of anything.
Meanwhile servers are killed, the pooler is reloaded, paused, told to reconnect, and replaced by another process. Every
answer carries its worker's token. At the end nothing may be wrong or hung, no server may be left over, and memory must
not have grown.
"""

from __future__ import annotations

import argparse
import itertools
import random
import shutil
import ssl
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from pooler.commands import certificate
from tests.fixtures import stream
from tests.fixtures.cluster import Cluster, scratch
from tests.fixtures.process import Bouncer
from tests.fixtures.stream import Ended, Message, Stream
from tests.fixtures.waiting import until

PATIENCE = 30.0
"""Seconds after which an answer counts as never coming."""
TEXTS = tuple(f"SELECT $1::text || ' shared {number}'" for number in range(20))
TABLE = "CREATE UNLOGGED TABLE IF NOT EXISTS soaked (worker int, what text)"
LOST = ("08P01", "57P01", "57P03", "08006", "08003", "53300")
"""SQLSTATEs by which a connection may end when servers are killed."""


class Wrong(Exception):
    """An answer that is not what was asked for."""


@dataclass
class Score:
    """What all workers together have done and seen."""

    done: Counter[str] = field(default_factory=Counter)
    lost: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    hung: list[str] = field(default_factory=list)
    cancelled: int = 0

    def line(self) -> str:
        return (
            f"{sum(self.done.values()):,} done, {sum(self.lost.values()):,} connections lost to what was done to them, "
            f"{self.cancelled:,} cancelled, {len(self.wrong)} wrong, {len(self.hung)} hung"
        )


class Worker(threading.Thread):
    """One client after another, each of which does some things and goes."""

    def __init__(self, number: int, arena: Arena, score: Score, over: threading.Event) -> None:
        super().__init__(name=f"worker {number}", daemon=True)
        self.number, self.arena, self.score, self.over = number, arena, score, over
        self.random = random.Random(number)
        self.tokens = itertools.count(1)
        self.names: dict[str, str] = {}
        self.deed = "login"

    def token(self) -> str:
        return f"worker {self.number} token {next(self.tokens)}"

    def run(self) -> None:
        while not self.over.is_set():
            self.names.clear()
            try:
                self.deed = "login"
                with self.connected() as client:
                    for _ in range(self.random.choice((1, 20, 200))):
                        if self.over.is_set():
                            break
                        deed = self.random.choices(DEEDS, WEIGHTS)[0]
                        self.deed = deed.__name__
                        deed(self, client)
                        self.score.done[self.deed] += 1
            except (Ended, ConnectionError, ssl.SSLEOFError) as error:
                self.score.lost[f"{self.deed}: {type(error).__name__}"] += 1
            except TimeoutError:
                self.score.hung.append(f"{time.strftime('%H:%M:%S')} {self.name} {self.deed}")
            except Wrong as error:
                self.score.wrong.append(f"{time.strftime('%H:%M:%S')} {self.name} {self.deed}: {error}")

    @contextmanager
    def connected(self) -> Iterator[Stream]:
        with Stream(("127.0.0.1", self.arena.bouncer.port), timeout=PATIENCE) as client:
            if self.arena.tls:
                client.start_tls()
            try:
                client.login()
            except AssertionError as error:
                raise Ended(str(error)) from None
            yield client

    # ---- answers

    def answer(self, client: Stream) -> list[Message]:
        """Up to ReadyForQuery; an ErrorResponse by which the connection ends is that end."""
        got: list[Message] = []
        while not got or got[-1].type != "Z":
            message = client.read()
            if message.type == "E" and message.error["V"] == "FATAL":
                if message.error["C"] not in LOST:
                    raise Wrong(str(message.error))
                raise Ended(message.error["M"])
            if message.type not in "NAS":
                got.append(message)
        return got

    def check(self, got: list[Message], kinds: str, *values: str) -> None:
        seen = "".join(message.type for message in got)
        rows = [message.values[0] for message in got if message.type == "D"]
        if seen != kinds or rows != [value.encode() for value in values]:
            shown = [message.error if message.type == "E" else message for message in got][:6]
            raise Wrong(f"wanted {kinds} {values}, got {seen}: {str(shown)[:600]}")

    # ---- deeds

    def query(self, client: Stream) -> None:
        token = self.token()
        client.send(stream.query(f"SELECT '{token}'"))
        self.check(self.answer(client), "TDCZ", token)

    def pipelined(self, client: Stream) -> None:
        tokens = [self.token() for _ in range(10)]
        client.send(*(stream.query(f"SELECT '{token}'") for token in tokens))
        for token in tokens:
            self.check(self.answer(client), "TDCZ", token)

    def transaction(self, client: Stream) -> None:
        client.send(stream.query("BEGIN"))
        self.check(self.answer(client), "CZ")
        for _ in range(self.random.randint(1, 4)):
            self.query(client)
        client.send(stream.query("COMMIT"))
        self.check(self.answer(client), "CZ")

    def failure(self, client: Stream) -> None:
        """In the extended protocol, with more behind it that is skipped."""
        token = self.token()
        client.send(stream.parse("SELECT 1/0"), stream.bind(), stream.execute(), stream.query("SELECT 'skipped'"))
        client.send(stream.sync(), stream.query(f"SELECT '{token}'"))
        self.check(self.answer(client), "1EZ")
        self.check(self.answer(client), "TDCZ", token)

    def prepared(self, client: Stream) -> None:
        text, token = self.random.choice(TEXTS), self.token()
        name = self.names.get(text)
        said, kinds = b"", "2TDCZ"
        if name is None:
            name = self.names[text] = f"s{len(self.names)}"
            said, kinds = stream.parse(text, name), "12TDCZ"
        use = stream.bind([token], name) + stream.describe("P") + stream.execute()
        client.send(said + use + stream.sync())
        self.check(self.answer(client), kinds, token + text[len("SELECT $1::text || '") : -1])

    def copy_in(self, client: Stream) -> None:
        rows = self.random.choice((1, 50, 2000))
        client.send(stream.query("COPY soaked FROM STDIN"))
        data = f"{self.number}\t{'x' * 200}\n".encode() * rows
        client.send(*(stream.copy_data(data[at : at + 8000]) for at in range(0, len(data), 8000)), stream.copy_done())
        got = self.answer(client)
        self.check(got, "GCZ")
        if got[1].tag != f"COPY {rows}":
            raise Wrong(got[1].tag)

    def copy_in_that_fails(self, client: Stream) -> None:
        """As libpq does it: a Sync ahead, one behind."""
        token = self.token()
        client.send(stream.parse("COPY soaked FROM STDIN"), stream.bind(), stream.execute(), stream.sync())
        client.send(stream.copy_data(b"no number\tx\n"), stream.copy_done(), stream.sync())
        client.send(stream.query(f"SELECT '{token}'"))
        self.check(self.answer(client), "12GEZ")
        self.check(self.answer(client), "TDCZ", token)

    def long_result(self, client: Stream) -> None:
        token, count = self.token(), self.random.choice((1000, 20_000))
        client.send(stream.query(f"SELECT '{token}', repeat('x', 400) FROM generate_series(1, {count})"))
        if self.random.random() < 0.3:
            time.sleep(self.random.random() * 0.1)
        got = self.answer(client)
        if any(message.values[0] != token.encode() for message in got if message.type == "D"):
            raise Wrong("another's row")
        if sum(message.type == "D" for message in got) != count:
            raise Wrong(f"{sum(message.type == 'D' for message in got)} rows of {count}: {got[-2:]}")

    def cancelled(self, client: Stream) -> None:
        client.send(stream.query("SELECT pg_sleep(20)"))
        time.sleep(self.random.choice((0, 0.002, 0.02)))
        address = ("127.0.0.1", self.arena.bouncer.port)
        while True:
            # It may come before the query has a server, and then asks for nothing.
            stream.cancel(address, client.pid, client.key)
            client.socket.settimeout(1)
            try:
                got = self.answer(client)
                break
            except TimeoutError:
                continue
            finally:
                client.socket.settimeout(PATIENCE)
        if not (got[0].type == "E" and got[0].error["C"] == "57014") and got[1].type != "E":
            raise Wrong(f"not cancelled: {got[:3]}")
        self.score.cancelled += 1
        # Whatever is late of it must not hit anybody, us included: PostgreSQL itself is asked to be through with it.
        self.query_but_for_late_cancels(client)

    def query_but_for_late_cancels(self, client: Stream) -> None:
        token = self.token()
        client.send(stream.query(f"SELECT '{token}'"))
        got = self.answer(client)
        if not (got[0].type == "E" and got[0].error["C"] == "57014"):
            self.check(got, "TDCZ", token)

    def departure(self, client: Stream) -> None:
        """In the middle of something."""
        whole = self.random.choice(
            (
                stream.query("SELECT repeat('x', 100000) FROM generate_series(1, 100)"),
                stream.query("BEGIN") + stream.query("SELECT 1"),
                stream.query("COPY soaked FROM STDIN") + stream.copy_data(b"1\tx\n") * 100,
                stream.parse("SELECT 1") + stream.bind() + stream.execute(),
            )
        )
        client.send(whole[: self.random.randrange(1, len(whole) + 1)])
        raise Ended("gone")


DEEDS, WEIGHTS = zip(
    (Worker.query, 20), (Worker.pipelined, 5), (Worker.transaction, 10), (Worker.failure, 5), (Worker.prepared, 20),
    (Worker.copy_in, 4), (Worker.copy_in_that_fails, 4), (Worker.long_result, 3), (Worker.cancelled, 2),
    (Worker.departure, 1), strict=True,
)  # fmt: skip


class Arena:
    """A cluster, a pooler in front of it, and what is done to both."""

    def __init__(self, cluster: Cluster, pool_size: int, tls: bool, ring: bool) -> None:
        self.cluster, self.pool_size, self.tls = cluster, pool_size, tls
        self.name = f"pool of {pool_size}, {'TLS' if tls else 'plain'}, {'io_uring' if ring else 'no io_uring'}"
        settings: dict[str, object] = {
            "default_pool_size": pool_size,
            "max_client_conn": 500,
            "server_tls_sslmode": "require" if tls else "disable",
            "server_login_retry": 0.2,
            "query_wait_timeout": 0,
            "log_connections": 0,
            "log_disconnections": 0,
        }
        self.directory = scratch()
        if tls:
            cert, key = certificate.ensure(scratch())
            settings |= {"client_tls_sslmode": "require", "client_tls_cert_file": cert, "client_tls_key_file": key}
        self.bouncer = Bouncer(
            self.directory,
            databases={"app": f"host=127.0.0.1 port={cluster.port} dbname=app"},
            settings=settings,
            sections={"pooler": {"io_uring": "yes" if ring else "no"}},
        )
        self.bouncer.start()
        self.random = random.Random(pool_size)

    def servers(self) -> int:
        left = self.bouncer.pool()
        return sum(left[state] for state in ("sv_active", "sv_idle", "sv_used", "sv_tested"))

    def torment(self, deeds: tuple[str, ...]) -> None:
        """One of the things that go wrong."""
        deed = self.random.choice(deeds)
        if deed == "kill":
            self.cluster.sql(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'app' ORDER BY random() LIMIT 1"
            )
        elif deed == "pause":
            self.bouncer.admin("PAUSE app")
            self.bouncer.admin("RESUME app")
        elif deed == "restart":
            self.restart()
        else:
            self.bouncer.admin(deed)

    def restart(self) -> None:
        """Another process takes over (-R)."""
        old = self.bouncer.process
        assert old is not None
        self.bouncer.launch("-R")
        old.wait(PATIENCE)


def soak(arena: Arena, seconds: float, workers: int, say: Callable[[str], None]) -> bool:
    """Whether all was well."""
    score, over, cluster = Score(), threading.Event(), arena.cluster
    crew = [Worker(number, arena, score, over) for number in range(workers)]
    # TLS cannot be handed over to another process.
    deeds = ("kill", "RELOAD", "RECONNECT app", "pause", *(() if arena.tls else ("restart",)))
    begun, memory, healthy = time.monotonic(), 0, True
    try:
        for worker in crew:
            worker.start()
        while time.monotonic() < begun + seconds:
            time.sleep(1)
            arena.torment(deeds)
            if not memory and time.monotonic() > begun + seconds / 4:
                memory = arena.bouncer.resident()
        over.set()
        for worker in crew:
            worker.join(PATIENCE * 2)
            healthy &= not worker.is_alive()
        until(lambda: arena.bouncer.pool()["sv_active"] == 0, "all servers to be free")
        until(lambda: arena.servers() == len(cluster.backends("app")), "as many backends as servers")
        grown = arena.bouncer.resident() - memory
        healthy &= not score.wrong and not score.hung and arena.servers() <= arena.pool_size
        say(f"{arena.name}: {score.line()}; {arena.servers()} servers; memory {memory:,} {grown:+,} B")
        for line in (*score.wrong[:5], *score.hung[:5]):
            say(f"  {line}")
    finally:
        over.set()
        arena.bouncer.stop()
        shutil.rmtree(arena.directory, ignore_errors=True)
    return healthy


def tell(line: str) -> None:
    print(time.strftime("%H:%M:%S"), line, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30, help="in all (default 30)")
    parser.add_argument("--workers", type=int, default=12, help="clients at a time (default 12)")
    given = parser.parse_args()
    arenas = list(itertools.product((1, 2, 20), (False, True), (True, False)))
    cluster = Cluster(scratch())
    cluster.create()
    cluster.sql(TABLE, dbname="app")
    try:
        each = given.minutes * 60 / len(arenas)
        well = [soak(Arena(cluster, *kind), each, given.workers, tell) for kind in arenas]
    finally:
        cluster.stop()
        shutil.rmtree(cluster.directory, ignore_errors=True)
    return 0 if all(well) else 1


if __name__ == "__main__":
    sys.exit(main())
