"""How long results are read: what the gauge finds by trying, and that nothing is lost, late or left behind by it."""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable, Iterator

import pytest

from pooler import wire
from pooler.relay import NARROW, engine
from tests.unit.stage import Stage, linked, stage

ASK = wire.query("SELECT 1")
READY = wire.ready_for_query()
DONE = wire.command_complete("SELECT 1") + READY
ROW = wire.data_row(["r" * 1000])
MILLISECOND = 1000
PROMPT, LAZY, PULLED = 0, 1, 2
LIMIT_US = 20_000_000


# ---- the gauge


def measure(gauge: engine.Gauge, speed: Callable[[int], int], milliseconds: int, start: int = 0) -> list[int]:
    """How it reads in each millisecond from `start` on, when so many bytes come in one that is read so."""
    manners, read_mode = [], LAZY
    for tick in range(1, milliseconds + 1):
        gauge.gain(speed(read_mode))
        read_mode = gauge.look((start + tick) * MILLISECOND)
        manners.append(read_mode)
    return manners


def faster(read_mode: int) -> Callable[[int], int]:
    return lambda tried: 600_000 if tried == read_mode else 400_000


def test_pulling_is_kept_where_it_is_faster() -> None:
    manners = measure(engine.Gauge(0, True), faster(PULLED), 2000)
    assert manners.count(PULLED) > 1800
    assert LAZY in manners[1000:]


def test_pulling_is_tried_and_left_where_it_is_slower() -> None:
    manners = measure(engine.Gauge(0, True), faster(LAZY), 2000)
    assert manners.count(LAZY) > 1800
    assert PULLED in manners[1000:]


def test_as_fast_is_not_faster() -> None:
    assert measure(engine.Gauge(0, True), lambda _: 500_000, 2000).count(LAZY) > 1800


def test_a_result_that_becomes_another_is_read_otherwise() -> None:
    gauge = engine.Gauge(0, True)
    assert measure(gauge, faster(PULLED), 1000)[-1] == PULLED
    assert measure(gauge, faster(LAZY), 1000, start=1000).count(LAZY) > 700


def test_a_wide_socket_is_never_pulled() -> None:
    assert set(measure(engine.Gauge(0, False), faster(PULLED), 2000)) == {LAZY}


def test_little_is_read_promptly() -> None:
    assert measure(engine.Gauge(0, True), lambda _: 2000, 10)[-1] == PROMPT
    assert measure(engine.Gauge(0, True), lambda _: 0, 10)[-1] == PROMPT


def test_what_another_way_has_left_does_not_count() -> None:
    """Before the first look, and between a change and the next look, anything may have piled up."""
    gauge = engine.Gauge(0, True)
    gauge.gain(1 << 40)
    manners, read_mode = [], LAZY
    for tick in range(1, 200):
        before, read_mode = read_mode, gauge.look(tick * MILLISECOND)
        gauge.gain(1 << 40 if read_mode != before else 600_000 if read_mode == PULLED else 400_000)
        manners.append(read_mode)
    assert manners.count(PULLED) > 150


# ---- the relay


@pytest.fixture
def s() -> Iterator[Stage]:
    with stage(tcp=True, narrow=True) as made:
        yield made


class Result:
    """A long result on its way from a server to a client, of as many rows as it takes."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.server, self.client = stage.server(), stage.client()
        self.rows = 0
        self.client.send(ASK)
        stage.settle()
        assert self.server.take() == ASK

    def flow(self, until: Callable[[], bool]) -> None:
        """More and more rows, until it is so."""
        self._move(until, 100)

    def wait(self, until: Callable[[], bool]) -> None:
        self._move(until, 0)

    def _move(self, until: Callable[[], bool], rows: int) -> None:
        stop = self.stage.relay.stamp() + LIMIT_US
        while not until():
            assert self.stage.relay.stamp() < stop, self.read_mode
            if not self.server.unsent:
                self.rows += rows
                self.server.send(ROW * rows)
            self.stage.turn()
            for peer in self.stage.peers:
                peer.push()
                peer.pull()

    def is_pulled(self) -> bool:
        return self.read_mode == "pulled"

    def came(self) -> bool:
        return len(self.client.inbox) >= len(ROW) * self.rows

    @property
    def read_mode(self) -> str:
        conn = self.server.conn
        assert isinstance(conn, engine.Server)
        return conn.read_mode_name

    def end(self) -> None:
        """Everything has come, and the server is read as before."""
        self.server.send(DONE)
        self.wait(lambda: linked(self.client) is None)
        self.stage.settle()
        assert self.client.take() == ROW * self.rows + DONE
        assert self.read_mode == "prompt"
        assert self.stage.states == "1a 0w / 0a 1i 0u 0t 0c"


@pytest.fixture
def result(s: Stage) -> Result:
    """One that is pulled just now."""
    made = Result(s)
    assert made.read_mode == "prompt"
    made.flow(made.is_pulled)
    return made


def test_a_result_that_is_not_long_does_not_wait_for_its_end(s: Stage) -> None:
    """As many of them as there may be."""
    made = Result(s)
    for _ in range(3):
        made.flow(lambda: made.rows >= 3000)
        made.wait(made.came)
        assert made.read_mode == "prompt"
        made.end()
        made.rows = 0
        made.client.send(ASK)
        s.settle()


def test_pages_that_are_asked_for_are_not_one_long_result(s: Stage) -> None:
    """Execute and Flush, as a cursor of a driver reads on: no ReadyForQuery comes in between."""
    made = Result(s)
    more = wire.message(b"E", b"\0" + struct.pack("!I", 12)) + wire.message(b"H")
    for _ in range(800):
        made.rows += 12
        made.server.send(ROW * 12)
        made.wait(made.came)
        assert made.read_mode == "prompt"
        made.client.send(more)
        made.wait(lambda: made.server.inbox.endswith(more))
        made.server.take()
    assert made.client.take() == ROW * made.rows
    assert made.rows * len(ROW) > 8 << 20


def test_one_look_takes_all_that_the_server_has_had_to_wait_with(s: Stage, result: Result) -> None:
    """Not one window: what stands behind it comes as soon as there is room. Few looks, so that it is no other tick that
    fetches it; tried again, as the machine may take a break."""
    came, tries = 0, 0
    while came <= 4 * NARROW:
        tries += 1
        assert tries < 20
        result.flow(lambda: result.is_pulled() and result.came())
        before = len(result.client.inbox)
        result.rows += 600
        result.server.send(ROW * 600)
        stop = s.relay.stamp() + MILLISECOND
        while s.relay.stamp() < stop:
            pass
        for _ in range(20):
            s.turn()
            result.client.pull()
        came = len(result.client.inbox) - before
    result.wait(result.came)
    result.end()


def test_asyncio_is_left_alone_meanwhile(s: Stage, result: Result) -> None:
    result.wait(result.came)
    result.rows += 200
    result.server.send(ROW * 200)
    start = s.relay.stamp()
    assert s.relay.select(0.05) == []
    assert s.relay.stamp() - start >= 50_000
    result.wait(result.came)
    result.end()


@pytest.mark.slow
def test_it_comes_whole_however_it_is_read(s: Stage, result: Result) -> None:
    seen: list[str] = []

    def often_changed() -> bool:
        if seen[-1:] != [result.read_mode]:
            seen.append(result.read_mode)
        return len(seen) > 6

    result.flow(often_changed)
    assert set(seen) >= {"lazy", "pulled"}
    result.end()


def test_the_next_answer_of_the_same_server_is_waited_for(s: Stage, result: Result) -> None:
    result.end()
    result.client.send(ASK)
    s.settle()
    result.server.send(DONE)
    s.settle()
    assert result.client.take() == DONE


def test_the_end_comes_though_nobody_is_woken_by_it(result: Result) -> None:
    """While it is pulled its socket makes no event: time does."""
    result.flow(lambda: result.is_pulled() and result.came())
    result.server.send(DONE)
    result.wait(lambda: result.client.inbox.endswith(READY))
    assert result.client.take() == ROW * result.rows + DONE


def test_long_work_in_python_does_not_stop_it(s: Stage, result: Result) -> None:
    result.flow(lambda: result.is_pulled() and result.came())
    result.rows += 10
    result.server.send(ROW * 10)
    stop = s.relay.stamp() + LIMIT_US
    while not result.came():
        assert s.relay.stamp() < stop
        s.relay.breathe()
        result.client.pull()
    result.end()


def test_a_pause_ends_it(result: Result) -> None:
    result.wait(lambda: result.came() and result.read_mode == "prompt")
    result.rows += 1
    result.server.send(ROW)
    result.wait(result.came)
    result.end()


def test_a_client_that_stops_reading_stops_it(s: Stage, result: Result) -> None:
    result.client.reading = False
    result.flow(lambda: result.client.conn.pending[2] > 0)
    result.rows += 30_000
    result.server.send(ROW * 30_000)
    s.settle()
    assert len(result.server.unsent) > 10_000_000
    assert result.client.conn.pending[2] < 200_000
    assert result.server.conn.pending[0] < 200_000
    result.client.reading = True
    result.wait(result.came)
    result.end()


@pytest.mark.parametrize("how", ["close", "reset"])
def test_a_server_that_goes_in_the_middle_is_noticed(s: Stage, result: Result, how: str) -> None:
    result.flow(lambda: result.is_pulled() and result.came())
    if how == "reset":
        result.server.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    result.server.sock.close()
    result.wait(lambda: result.client.ended)
    assert s.reasons == ["server conn crashed?"] * 2
    assert result.client.take().startswith(ROW * result.rows + wire.error_response("FATAL", "08P01", "")[:1])


def test_a_client_that_goes_in_the_middle_takes_the_server_along(s: Stage, result: Result) -> None:
    result.client.sock.close()
    s.settle()
    assert sorted(s.reasons) == ["client disconnect while server was not ready", "client unexpected eof"]


def test_another_process_goes_on_with_it(s: Stage, result: Result) -> None:
    assert result.is_pulled()
    s.restart()
    assert result.read_mode == "prompt"
    result.wait(result.came)
    result.rows += 1
    result.server.send(ROW)
    result.wait(result.came)
    result.flow(result.is_pulled)
    result.wait(result.came)
    result.end()


def test_a_wide_socket_is_not_pulled() -> None:
    with stage(tcp=True) as s:
        made = Result(s)
        seen: set[str] = set()

        def enough() -> bool:
            seen.add(made.read_mode)
            return made.rows > 40_000

        made.flow(enough)
        assert seen == {"prompt", "lazy"}
        made.wait(made.came)
        made.end()
