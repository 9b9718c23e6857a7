"""What a console costs a pooler with ten thousand clients: processor time of a poll, gaps in traffic by large views.

The idle clients are bare sockets in this process; load, probe and questions come from elsewhere, and answers are
read without being looked at, so that this process takes little from the pooler's machine. Processor time is the
scheduler's, in nanoseconds: a poll is a matter of milliseconds. The rule: what is compared alternates.
"""

from __future__ import annotations

import multiprocessing
import resource
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection

from tests.fixtures import stream
from tests.fixtures.process import ADMIN, Bouncer
from tests.fixtures.stream import Stream

from .measure import median, percentile
from .pgbench import MODES, Cell, run
from .servers import Contestant
from .table import Table

CLIENTS = 10_000
SPARE = 500
"""Descriptors for everything but the idle clients."""
LOAD = 16
"""pgbench's clients."""
TOOLBAR = ("SHOW POOLS", "SHOW STATS", "SHOW DATABASES", "SHOW STATE")
TOP = ("SHOW POOLS", "SHOW STATS")
SELDOM = ("SHOW DATABASES", "SHOW POOL_LATENCY", "SHOW STATE")
"""What `pooler top` asks beside, every fifth second."""
SELDOM_EVERY = 5
LARGE = (
    "SHOW CLIENTS",
    "SELECT count(*) FROM clients",
    "SHOW SOCKETS",
    "SELECT * FROM clients c LEFT JOIN servers s ON s.link = c.ptr ORDER BY c.port",
)
CPUCLOCK_SCHED = 2
PAUSE = 0.001
"""Seconds between two queries of the probe."""
READY = b"Z\0\0\0\x05I"
LIMIT_SHARE, LIMIT_GAP = 1.0, 20.0
"""What is asked of us: per cent, milliseconds."""

COST_TITLE = "Processor time of a console that polls each second"
COST_COLUMNS = ("console", "ms a second", "us/xact without", "us/xact with", "measured, %", "of load, %")
GAP_TITLE = "Gaps in traffic while views of all clients are made"
GAP_COLUMNS = (
    *("asked, over and over", "answers", "ms each", "CPU ms"),
    *("p99.9 gap, ms", "largest, ms", "over 20 ms", "turn, ms"),
)

Say = Callable[[str], None]


def computed(pid: int) -> float:
    """Seconds that all threads of a process have run so far: its clock, by Linux's way to name that of another."""
    return time.clock_gettime(~pid << 3 | CPUCLOCK_SCHED)


def affordable(wanted: int, say: Say) -> int:
    """As many clients as descriptors allow, in this process and in the pooler."""
    room = resource.getrlimit(resource.RLIMIT_NOFILE)[0] - SPARE
    if room < wanted:
        say(f"!!! ONLY {room:,} OF {wanted:,} CLIENTS: the hard limit of open files (ulimit -Hn) forbids more")
    return min(wanted, room)


class Question:
    """A console that asks, and reads each answer to its end."""

    def __init__(self, port: int) -> None:
        self._stream = Stream(("127.0.0.1", port)).login(dbname=ADMIN)

    def ask(self, sql: str) -> None:
        self._stream.send(stream.query(sql))
        end = b""
        while not end.endswith(READY):
            end = (end + self._stream.socket.recv(1 << 20))[-len(READY) :]

    def close(self) -> None:
        self._stream.socket.close()


@contextmanager
def crowd(bouncer: Bouncer, count: int) -> Iterator[None]:
    """That many clients, each of which has run a query and is idle since."""
    with ExitStack() as held:
        for _ in range(count):
            client = held.enter_context(Stream(("127.0.0.1", bouncer.port)))
            client.login(application_name="idle")
            client.query("SELECT 1")
        yield


# ---- processor time


@dataclass(frozen=True, slots=True)
class Poll:
    """What a program asks once a second."""

    label: str
    statements: tuple[str, ...]
    seldom: tuple[str, ...] = ()

    def of(self, second: int) -> tuple[str, ...]:
        return self.statements + (self.seldom if second % SELDOM_EVERY == 0 else ())


POLLS = (Poll("toolbar", TOOLBAR), Poll("top", TOP, SELDOM), Poll("toolbar and top", TOOLBAR + TOP, SELDOM))


@contextmanager
def polled(bouncer: Bouncer, poll: Poll | None) -> Iterator[None]:
    """The poll, each second, as long as the block lasts."""
    if poll is None:
        yield
        return
    done, console = threading.Event(), Question(bouncer.port)

    def ask() -> None:
        second = 0
        while not done.wait(1.0):
            for sql in poll.of(second):
                console.ask(sql)
            second += 1

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        yield
    finally:
        done.set()
        asking.join()
        console.close()


def poll_cost(bouncer: Bouncer, poll: Poll, times: int = 50) -> float:
    """Seconds of processor for one second's poll, without load: many polls, less what as much silence takes."""
    console = Question(bouncer.port)
    for second in range(SELDOM_EVERY):
        for sql in poll.of(second):
            console.ask(sql)
    before, began = computed(bouncer.pid), time.monotonic()
    for second in range(times):
        for sql in poll.of(second):
            console.ask(sql)
    spent, lasted = computed(bouncer.pid) - before, time.monotonic() - began
    console.close()
    before = computed(bouncer.pid)
    time.sleep(lasted)
    return (spent - (computed(bouncer.pid) - before)) / times


def loaded(ours: Contestant, bouncer: Bouncer, poll: Poll | None, seconds: float) -> tuple[float, float]:
    """Seconds of processor per transaction, and per second, under pgbench's load."""
    before, began = computed(bouncer.pid), time.monotonic()
    with polled(bouncer, poll):
        result = run(ours, bouncer, Cell(MODES[0], LOAD, tls=False), seconds)
    spent, lasted = computed(bouncer.pid) - before, time.monotonic() - began
    return spent / max(result.tps * seconds, 1), spent / lasted


def cost_rows(ours: Contestant, bouncer: Bouncer, rounds: int, seconds: float) -> Iterator[tuple[str, ...]]:
    for poll in POLLS:
        alone: list[float] = []
        watched: list[float] = []
        busy: list[float] = []
        for turn in range(rounds):
            for wanted in (None, poll) if turn % 2 == 0 else (poll, None):
                cost, share = loaded(ours, bouncer, wanted, seconds)
                (alone if wanted is None else watched).append(cost)
                if wanted is None:
                    busy.append(share)
        each = poll_cost(bouncer, poll)
        measured = median(b / a - 1 for a, b in zip(alone, watched, strict=True))
        yield (
            poll.label,
            f"{each * 1e3:.2f}",
            f"{median(alone) * 1e6:.1f}",
            f"{median(watched) * 1e6:.1f}",
            f"{measured * 100:+.1f}",
            f"{each / median(busy) * 100:.2f}",
        )


# ---- gaps


def probe(port: int, told: Connection) -> None:
    """In a process of its own: a query after the other until told to stop, with a pause after each, so that what is
    measured is not how many processes want the machine's cores; how long each answer took, in seconds."""
    with Stream(("127.0.0.1", port)).login(application_name="probe") as client:
        client.query("SELECT 1")
        told.send(True)
        question, gaps = stream.query("SELECT 1"), []
        while not told.poll(PAUSE):
            last = time.perf_counter()
            client.socket.sendall(question)
            end = b""
            while not end.endswith(READY):
                end = (end + client.socket.recv(65536))[-len(READY) :]
            gaps.append(time.perf_counter() - last)
        told.send(gaps)


@dataclass(frozen=True, slots=True)
class Gaps:
    """Of one run: the probe's gaps, how many answers the console gave, the pooler's processor time meanwhile, and its
    own longest turn in microseconds of that."""

    gaps: list[float]
    answers: int
    seconds: float
    computed: float
    turn: int


def gaps(bouncer: Bouncer, sql: str | None, seconds: float) -> Gaps:
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=probe, args=(bouncer.port, there))
    process.start()
    here.recv()
    console, answers = Question(bouncer.port), 0
    if sql:
        console.ask(sql)
    before, began = computed(bouncer.pid), time.monotonic()
    while time.monotonic() - began < seconds:
        if sql is None:
            time.sleep(seconds)
        else:
            console.ask(sql)
            answers += 1
    lasted, spent = time.monotonic() - began, computed(bouncer.pid) - before
    here.send(True)
    found = here.recv()
    process.join()
    console.close()
    return Gaps(found, answers, lasted, spent, bouncer.admin("SHOW LOOP")[0]["longest_turn_cpu_us"])


def answer_cost(bouncer: Bouncer, sql: str, times: int = 5) -> float:
    """Seconds of processor for one answer, without other traffic."""
    console = Question(bouncer.port)
    console.ask(sql)
    before = computed(bouncer.pid)
    for _ in range(times):
        console.ask(sql)
    spent = computed(bouncer.pid) - before
    console.close()
    return spent / times


def gap_rows(bouncer: Bouncer, rounds: int, seconds: float) -> Iterator[tuple[str, ...]]:
    asked: tuple[str | None, ...] = (None, *LARGE)
    found: dict[str | None, list[Gaps]] = {sql: [] for sql in asked}
    for turn in range(rounds):
        for sql in asked if turn % 2 == 0 else reversed(asked):
            found[sql].append(gaps(bouncer, sql, seconds))
    for sql, runs in found.items():
        answers = sum(run.answers for run in runs)
        lasted = sum(run.seconds for run in runs)
        together = [gap * 1e3 for run in runs for gap in run.gaps]
        yield (
            sql or "nothing",
            str(answers),
            f"{lasted / answers * 1e3:.0f}" if answers else "",
            f"{answer_cost(bouncer, sql) * 1e3:.0f}" if sql else "",
            f"{percentile(together, 0.999):.1f}",
            f"{median(max(run.gaps) for run in runs) * 1e3:.1f} ({max(together):.1f})",
            f"{sum(gap > LIMIT_GAP for gap in together)} of {len(together):,}",
            f"{median(run.turn for run in runs) / 1e3:.1f} ({max(run.turn for run in runs) / 1e3:.1f})",
        )


# ---- the two tables


def tables(ours: Contestant, rounds: int, seconds: float, count: int, only: str, say: Say) -> Iterator[Table]:
    """Both with the same idle clients connected."""
    cost, gap = only in "console cost", only in "console gaps"
    if not (cost or gap):
        return
    count = affordable(count, say)
    bouncer = ours.process(max_client_conn=count + SPARE, client_idle_timeout=0, stats_period=1)
    say(f"{count:,} idle clients log in")
    with crowd(bouncer, count):
        if cost:
            note = (
                f"{count:,} idle clients, {LOAD} of pgbench -S. ms a second: processor time of one second's poll,"
                " alone; of load: its share of what the pooler computes under load; measured: median of"
                f" {rounds} alternating rounds of {seconds:g} s. At most {LIMIT_SHARE:g} % is wanted."
            )
            yield Table(COST_TITLE, note, COST_COLUMNS, _said(cost_rows(ours, bouncer, rounds, seconds), say))
        if gap:
            note = (
                f"{count:,} idle clients; a probe runs SELECT 1, a millisecond's pause, and again. Largest: median"
                f" of {rounds} rounds of {seconds:g} s (of all). Turn: the same of the processor time the pooler takes"
                f" between two looks at its connections. No gap over {LIMIT_GAP:g} ms"
                " is wanted; the first row is the machine's own."
            )
            yield Table(GAP_TITLE, note, GAP_COLUMNS, _said(gap_rows(bouncer, rounds, seconds), say))


def _said(rows: Iterator[tuple[str, ...]], say: Say) -> tuple[tuple[str, ...], ...]:
    told: list[tuple[str, ...]] = []
    for row in rows:
        say("  ".join(row))
        told.append(row)
    return tuple(told)


def main() -> int:
    """By itself: `python -m tests.bench.console [ROUNDS [SECONDS [CLIENTS [TEXT]]]]`."""
    from .servers import arena

    given: Sequence[str] = sys.argv[1:]
    rounds, seconds, count, only = (*given, *("3", "3", str(CLIENTS), "")[len(given) :])
    with arena() as (ours, _):
        for table in tables(ours, int(rounds), float(seconds), int(count), only, lambda line: print(line, flush=True)):
            print(table.text(markdown=False))
    return 0


if __name__ == "__main__":
    sys.exit(main())
