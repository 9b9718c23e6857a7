"""The relay as asyncio's selector, its clock, its list of cancel keys, and its histograms."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import random
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pooler import stats, wire
from pooler.relay import engine
from pooler.relay.engine import Relay
from pooler.relay.events import ClientLost, Event, ServerLost, WantServer
from tests.fixtures.waiting import DEADLINE
from tests.unit.backend import Backend
from tests.unit.stage import DEFAULTS, TRACKED, Stage, stage

ASK = wire.query("SELECT 1")
READ, WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE


# ---- the face of a selector, beside that of the standard library's


@pytest.fixture(params=[Relay, selectors.DefaultSelector])
def selector(request: pytest.FixtureRequest) -> Iterator[selectors.BaseSelector]:
    made = request.param()
    yield made
    made.close()


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    one, two = socket.socketpair()
    one.setblocking(False)
    two.setblocking(False)
    with one, two:
        yield one, two


Pair = tuple[socket.socket, socket.socket]


def test_ready_is_what_was_asked_for(selector: selectors.BaseSelector, pair: Pair) -> None:
    one, two = pair
    key = selector.register(one, READ, "data")
    assert key == (one, one.fileno(), READ, "data")
    assert selector.select(0) == []
    two.send(b"x")
    assert selector.select(0) == [(key, READ)]
    assert selector.select(None) == [(key, READ)]
    both = selector.modify(one, READ | WRITE, "other")
    assert selector.select(1) == [(both, READ | WRITE)]
    one.recv(10)
    assert selector.select(1) == [(both, WRITE)]
    assert selector.unregister(one) == both
    assert selector.select(0) == []


def test_a_closed_peer_makes_both_ready(selector: selectors.BaseSelector, pair: Pair) -> None:
    one, two = pair
    key = selector.register(one, READ)
    two.close()
    assert selector.select(1) == [(key, READ)]


def test_what_is_registered_is_found(selector: selectors.BaseSelector, pair: Pair) -> None:
    one, two = pair
    key = selector.register(one, READ)
    assert selector.get_key(one) == selector.get_key(one.fileno()) == key
    assert dict(selector.get_map()) in ({one: key}, {one.fileno(): key})
    with pytest.raises(KeyError):
        selector.get_key(two)
    with pytest.raises(KeyError):
        selector.unregister(two)
    with pytest.raises(KeyError):
        selector.modify(two, READ)
    with pytest.raises(KeyError):
        selector.register(one, WRITE)
    with pytest.raises(ValueError, match="nvalid file"):
        selector.register(-1, READ)


def test_what_was_closed_can_be_unregistered_by_its_number(selector: selectors.BaseSelector, pair: Pair) -> None:
    one, _ = pair
    number = one.fileno()
    selector.register(number, READ)
    one.close()
    assert selector.unregister(number).fd == number


def test_a_closed_selector_has_no_map() -> None:
    with Relay() as relay:
        assert relay.get_map() == {}
    assert relay.get_map() is None
    relay.close()


def test_timeouts(selector: selectors.BaseSelector) -> None:
    for timeout in (0, -1, 0.0001, 0.001):
        assert selector.select(timeout) == []


# ---- under asyncio


def run_in_loop(main: Callable[[Relay], Any]) -> Any:
    relay = Relay(TRACKED)

    async def bounded() -> Any:
        async with asyncio.timeout(DEADLINE):
            return await main(relay)

    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(relay)) as runner:
        return runner.run(bounded())


def test_timers_threads_sockets_and_processes() -> None:
    async def main(relay: Relay) -> None:
        loop = asyncio.get_running_loop()
        await asyncio.sleep(0.001)
        woken = asyncio.Event()
        threading.Timer(0.01, loop.call_soon_threadsafe, [woken.set]).start()
        await woken.wait()
        one, two = socket.socketpair()
        with one, two:
            one.setblocking(False)
            two.setblocking(False)
            big = os.urandom(3_000_000)
            sending = asyncio.create_task(loop.sock_sendall(one, big))
            received = b""
            while len(received) < len(big):
                received += await loop.sock_recv(two, 1 << 16)
            await sending
            assert received == big
        process = await asyncio.create_subprocess_exec(sys.executable, "-c", "print(6 * 7)", stdout=subprocess.PIPE)
        assert (await process.communicate())[0] == b"42\n"

    run_in_loop(main)


def test_signals_are_handled_while_it_waits() -> None:
    async def main(relay: Relay) -> None:
        loop, got = asyncio.get_running_loop(), asyncio.Event()
        loop.add_signal_handler(signal.SIGUSR1, got.set)
        threading.Timer(0.02, os.kill, [os.getpid(), signal.SIGUSR1]).start()
        await got.wait()
        loop.remove_signal_handler(signal.SIGUSR1)

    run_in_loop(main)


@pytest.mark.slow
def test_a_python_signal_handler_runs_without_asyncio() -> None:
    got: list[int] = []
    old = signal.signal(signal.SIGUSR1, lambda number, frame: got.append(number))
    try:
        with Relay() as relay:
            timer = threading.Timer(0.02, os.kill, [os.getpid(), signal.SIGUSR1])
            timer.start()
            while not got:
                relay.select(0.5)
            timer.join()
    finally:
        signal.signal(signal.SIGUSR1, old)


def ping_pong(relay: Relay, stop: threading.Event) -> tuple[list[threading.Thread], engine.Pool]:
    """A client and a server in threads of their own that never rest until `stop`."""
    pool = engine.Pool(relay, "db", "user")
    pool.mode = engine.TRANSACTION
    near_client, client = socket.socketpair()
    near_server, server = socket.socketpair()
    for sock in (near_client, near_server):
        sock.setblocking(False)
    relay.adopt_server(pool, 1, near_server.detach(), None, b"", DEFAULTS, None, 1, b"12345678")
    relay.adopt_client(pool, 2, near_client.detach(), None, b"", DEFAULTS, None, b"12345678")
    answer = Backend().feed(ASK)

    def ask() -> None:
        with client:
            while not stop.is_set():
                client.sendall(ASK)
                left = len(answer)
                while left:
                    left -= len(client.recv(left)) or left

    def serve() -> None:
        with server, contextlib.suppress(OSError):
            while data := server.recv(len(ASK)):
                server.sendall(answer[: len(data) * len(answer)])

    threads = [threading.Thread(target=ask), threading.Thread(target=serve)]
    for thread in threads:
        thread.start()
    return threads, pool


def test_under_saturation_timers_and_threads_still_get_their_turn() -> None:
    async def main(relay: Relay) -> None:
        stop = threading.Event()
        threads, pool = ping_pong(relay, stop)
        for _ in range(20):
            before = pool.counted()[2]
            await asyncio.sleep(0.001)
            while pool.counted()[2] == before:
                await asyncio.sleep(0)
        stop.set()
        while pool.clients():
            await asyncio.sleep(0)
        for server in pool.servers():
            relay.drop(server, "test over")
        for event in relay.events:
            if isinstance(event, ClientLost | ServerLost):
                event[0].finish(b"")
        relay.events = []
        for thread in threads:
            thread.join()

    run_in_loop(main)


def test_events_wake_the_loop_and_come_in_order() -> None:
    async def main(relay: Relay) -> None:
        seen: list[tuple[type[Event], Any]] = []
        done = asyncio.Event()

        def handle() -> None:
            events, relay.events = relay.events, []
            seen.extend((type(event), event[0]) for event in events)
            if len(seen) == 3:
                done.set()

        relay.on_events(lambda: asyncio.get_running_loop().call_soon(handle))
        pool = engine.Pool(relay, "db", "user")
        near, far = socket.socketpair()
        near.setblocking(False)
        with far:
            client = relay.adopt_client(pool, 1, near.detach(), None, b"", DEFAULTS, None, b"12345678")
            far.send(ASK + wire.terminate())
            while len(seen) < 1:
                await asyncio.sleep(0)
            relay.drop(client, "because")
            pool.full = False
            pool.resume()
            other_near, other_far = socket.socketpair()
            other_near.setblocking(False)
            with other_far:
                other = relay.adopt_client(pool, 2, other_near.detach(), None, b"", DEFAULTS, None, b"12345679")
                other_far.send(wire.terminate())
                await done.wait()
                client.finish(b"")
                other.finish(b"")
            assert seen == [(WantServer, pool), (ClientLost, client), (ClientLost, other)]

    run_in_loop(main)


def test_breath_is_taken_in_the_middle_of_long_work() -> None:
    """Bytes move without asyncio's turn; what Python has to hear of waits for it."""
    with stage() as s:
        server, client = s.server(), s.client()
        waiting = s.client()
        client.send(ASK)
        s.relay.breathe()
        server.pull()
        assert server.take() == ASK
        waiting.send(ASK)
        answer = wire.command_complete("SELECT 1") + wire.ready_for_query()
        server.send(answer)
        s.relay.breathe()
        client.pull()
        assert client.take() == answer
        client.close()
        s.relay.breathe()
        s.relay.breathe()
        assert s.lost == []
        s.settle()
        assert s.reasons == ["client unexpected eof"]
        assert server.take() == ASK


def test_breath_with_everything_lost_and_freed_in_between() -> None:
    with stage() as s:
        for _ in range(50):
            server, client = s.server(), s.client()
            client.send(ASK)
            s.relay.breathe()
            server.close()
            client.close()
            s.relay.breathe()
            s.peers.clear()
            del server, client
        s.turn()
        assert len(s.lost) == 100
        assert s.states == "0a 0w / 0a 0i 0u 0t 0c"


def compute(seconds: float) -> None:
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


def test_the_longest_turn_is_told_for_two_periods() -> None:
    with Relay() as relay:
        assert relay.longest_turn == (0, 0)
        relay.select(0)
        compute(0.05)
        relay.select(0)
        longest, computed = relay.longest_turn
        assert 50_000 <= computed <= longest
        relay.end_period()
        assert relay.longest_turn == (longest, computed)
        relay.end_period()
        assert max(relay.longest_turn) < 50_000


def test_a_breath_ends_a_turn_and_waiting_for_events_is_none() -> None:
    with Relay() as relay:
        relay.select(0)
        for _ in range(10):
            compute(0.01)
            relay.pace()
        relay.select(0.2)
        assert 10_000 <= relay.longest_turn[1] < 50_000


# ---- the list of cancel keys


def test_every_client_is_found_by_its_key_and_no_other() -> None:
    draw = random.Random(1)
    with stage() as s:
        peers = {draw.randbytes(8): None for _ in range(300)}
        clients: dict[bytes, engine.Client] = {}
        for number, key in enumerate(peers):
            near, far = s.pair()
            conn = s.relay.adopt_client(s.pool, number, near.detach(), None, b"", DEFAULTS, None, key)
            s.joined(far, conn)
            clients[key] = conn
        keys = list(clients)
        draw.shuffle(keys)
        for i, key in enumerate(keys):
            assert s.relay.find(key) is clients[key]
            assert clients[key].key == int.from_bytes(key, "big")
            s.relay.drop(clients[key], "gone")
            assert s.relay.find(key) is None
            if i % 50 == 0:
                assert all(s.relay.find(other) is clients[other] for other in keys[i + 1 :])
        assert s.relay.find(bytes(8)) is None


# ---- histograms


EDGES = sorted({max(0, 2**e + d) for e in range(63) for d in (-1, 0, 1)} | {-1, -(2**40)})


def test_the_buckets_are_those_of_stats() -> None:
    assert [engine.bucket_index(v) for v in EDGES] == [stats.bucket_of(v) for v in EDGES]
    assert engine.bucket_index(2**62) == stats.BUCKETS - 1


@given(value=st.integers(-(2**63), 2**63 - 1))
def test_any_value_has_the_bucket_of_stats(value: int) -> None:
    assert engine.bucket_index(value) == stats.bucket_of(value)


@pytest.mark.slow
def test_quantiles_of_a_million_samples_are_within_two_per_cent() -> None:
    draw = random.Random(7)
    samples = [int(draw.lognormvariate(9, 2)) + 32 for _ in range(1_000_000)]
    with stage() as s:
        for sample in samples:
            s.pool.login_took(sample)
        counts, total = s.pool.histograms()[3]
        assert s.pool.counted()[11] == 1_000_000
    samples.sort()
    histogram = stats.Histogram(counts, total)
    assert histogram.count == 1_000_000
    assert total == sum(samples)
    shares = (0.01, 0.5, 0.9, 0.95, 0.99, 0.999, 1.0)
    for share, found in zip(shares, histogram.quantiles(shares), strict=True):
        exact = samples[max(0, int(share * 1_000_000) - 1)]
        assert abs(found - exact) <= 0.02 * exact, share


def test_every_wait_query_and_transaction_is_in_its_histogram() -> None:
    with stage() as s:
        s.server(Backend())
        clients = [s.client() for _ in range(5)]
        for client in itertools.chain(clients, clients):
            client.send(ASK)
        s.settle()
        clients[0].send(wire.query("BEGIN"))
        s.settle()
        clients[0].send(wire.query("COMMIT"))
        s.settle()
        assignments, xacts, queries = s.pool.counted()[:3]
        waits, in_queries, in_xacts, logins = (stats.Histogram(*each) for each in s.pool.histograms())
        assert (waits.count, in_queries.count, in_xacts.count, logins.count) == (assignments, queries, xacts, 0)
        times = s.pool.counted()[5:8]
        assert times == (in_xacts.total_us, in_queries.total_us, waits.total_us)


def test_stamps_go_forward_and_ages_are_told_from_them() -> None:
    with stage() as s:
        server, client = s.server(), s.client()
        start = s.relay.stamp()
        assert client.conn.connect_us <= start <= engine.clock()
        while s.relay.stamp() < start + 2000:
            pass
        assert isinstance(server.conn, engine.Server)
        assert server.conn.idle_us >= 2000
        assert s.pool.idle_clients(1000) == [client.conn]
        assert s.pool.idle_clients(10**9) == []
        blocked = waiter(s)
        begun = s.relay.stamp()
        while s.relay.stamp() < begun + 2000:
            pass
        assert blocked.wait_us >= 2000
        assert s.pool.oldest_wait == blocked.wait_us


def waiter(s: Stage) -> engine.Client:
    """A client that waits: another one has the server."""
    first, second = s.client(), s.client()
    for client in (first, second):
        client.send(ASK)
        s.settle()
    assert isinstance(second.conn, engine.Client)
    assert second.conn.state_name == "waiting"
    return second.conn
