"""What a visitor's statement may take: its length, its time, what it holds; and that it ends for certain."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from admin.console import crew, inbox, interpreter, portals, queries
from admin.console.crew import CREW
from admin.console.seats import Seats
from admin.sql.server import Server, Unavailable
from pooler import wire
from pooler.verbs import CommandError
from tests.fixtures.console import (
    Caller,
    FakeHouse,
    Message,
    ask,
    calling,
    connection,
    errors,
    kinds,
    rows,
    snapshot,
    tags,
)
from tests.fixtures.process import imports
from tests.fixtures.waiting import until

TIMEOUT = ("57014", "canceling statement due to statement timeout")
CANCELED = ("57014", "canceling statement due to user request")
NEVER = {
    "long steps": "select count(sqrt(repeat('7', 130000)::numeric + n)) from generate_series(1, 1000) n",
    "steps without end": "with recursive c(n) as (select 1 union all select n + 1 from c) select count(*) from c",
    "a join without end": "select count(*) from config a, config b, config c, config d, config e",
    "memory without end": "with recursive c(n) as (select 1 union all select n + 1 from c) "
    "select string_agg(repeat('x', 9000), '') from c",
    "files without end": "select n from generate_series(1, 1000000000) n order by md5(n::text) limit 1",
}
"""Each would take minutes or years, or meets a limit first: what keeps nothing, the join, alone meets none of them."""


def run(scenario: object) -> None:
    asyncio.run(scenario)  # type: ignore[arg-type]


def hurry(monkeypatch: pytest.MonkeyPatch, seconds: float = 0.3) -> None:
    monkeypatch.setattr(queries, "SECONDS", seconds)
    monkeypatch.setattr(crew, "GRACE", 0.3)


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    yield
    assert not CREW.seats.taken
    assert not interpreter.SHOWING.taken


def lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):  # the latter: it ended between open and read
        return False


async def gone(pid: int) -> bool:
    """Whether it ends within some seconds: a signal takes its time, with two cores for many."""
    async with asyncio.timeout(10):
        while lives(pid):
            await asyncio.sleep(0.001)
    return True


async def warm(caller: Caller) -> int:
    """The id of the process that will answer next."""
    assert tags(await caller.query("select 1")) == ["SELECT 1"]
    return CREW.idle[-1].pid


# ---- its time


@pytest.mark.slow
@pytest.mark.parametrize("sql", NEVER.values(), ids=list(NEVER))
def test_a_statement_that_does_not_end_is_ended_and_the_next_is_answered(
    sql: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        async with calling(rights="stats") as caller:
            await warm(caller)
            hurry(monkeypatch)
            (found,) = errors(await caller.query(sql))
            assert found == TIMEOUT or found[0] in ("53200", "53400", "54000"), found
            monkeypatch.undo()
            assert rows(await caller.query("select 1")) == [["1"]]

    run(scenario())


@pytest.mark.slow
def test_who_does_not_end_when_told_is_ended_with_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that is stopped hears of no signal but one."""
    monkeypatch.setattr(crew, "STUBBORN", 0.3)

    async def scenario() -> None:
        async with calling() as caller:
            pid = await warm(caller)
            hurry(monkeypatch)
            await caller.send(wire.query(NEVER["a join without end"]))
            while CREW.idle:
                await asyncio.sleep(0.001)
            os.kill(pid, signal.SIGSTOP)
            assert errors(await caller.until()) == [TIMEOUT]
            assert await gone(pid)
            assert rows(await caller.query("select 1")) == [["1"]]

    run(scenario())


@pytest.mark.slow
def test_a_polite_end_keeps_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        async with calling() as caller:
            pid = await warm(caller)
            monkeypatch.setattr(queries, "SECONDS", 0.1)
            assert errors(await caller.query(NEVER["a join without end"])) == [TIMEOUT]
            assert await warm(caller) == pid

    run(scenario())


@pytest.mark.slow
@pytest.mark.parametrize("what", ["long steps", "a join without end"])
def test_a_cancel_request_ends_it_at_once_whatever_it_does(what: str) -> None:
    async def scenario() -> None:
        async with calling() as caller:
            pid = await warm(caller)
            await caller.send(wire.query(NEVER[what]))
            while CREW.idle:
                await asyncio.sleep(0.001)
            began = asyncio.get_running_loop().time()
            while CREW.seats.taken:
                caller.session.canceled.set()
                await asyncio.sleep(0.001)
            assert errors(await caller.until()) == [CANCELED]
            assert asyncio.get_running_loop().time() - began < queries.SECONDS
            assert await gone(pid)

    run(scenario())


def test_a_session_that_is_cancelled_leaves_no_busy_process_behind() -> None:
    async def scenario() -> None:
        async with calling() as caller:
            pid = await warm(caller)
            await caller.send(wire.query(NEVER["long steps"]))
            while CREW.idle:
                await asyncio.sleep(0.001)
            caller.task.cancel()
            await asyncio.wait((caller.task,))
            assert not CREW.seats.taken
            assert await gone(pid)

    with pytest.raises(asyncio.CancelledError):
        run(scenario())


@pytest.mark.slow
@pytest.mark.parametrize(
    "number", [signal.SIGKILL, *(pytest.param(n, marks=pytest.mark.slow) for n in (signal.SIGSEGV, signal.SIGTERM))]
)
def test_a_process_that_ends_by_itself_is_an_error_and_replaced(number: signal.Signals) -> None:
    async def scenario() -> None:
        async with calling() as caller:
            pid = await warm(caller)
            await caller.send(wire.query(NEVER["a join without end"]))
            while CREW.idle:
                await asyncio.sleep(0.001)
            os.kill(pid, number)
            assert errors(await caller.until())[0][0] in ("58000", "57P01")
            pid = await warm(caller)
            os.kill(pid, signal.SIGKILL)
            assert await gone(pid)
            assert await warm(caller) != pid

    run(scenario())


@pytest.mark.slow
def test_a_server_that_has_ended_is_replaced() -> None:
    async def scenario() -> None:
        async with calling() as caller:
            pid = await warm(caller)
            assert CREW.server is not None
            place = Path(CREW.server.place)
            os.kill(CREW.server.pid, signal.SIGKILL)
            assert await gone(pid)
            assert await warm(caller) != pid
            assert not place.exists()

    run(scenario())


# ---- its processes


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


@pytest.mark.slow
def test_a_server_has_nothing_of_the_poolers_and_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgres://app:secret@db/app")
    CREW.close()

    async def scenario() -> tuple[int, Path]:
        async with calling() as caller:
            pid = await warm(caller)
            for each in (pid, parent_of(pid), parent_of(parent_of(pid))):
                place = Path(f"/proc/{each}")
                assert b"secret" not in (place / "environ").read_bytes()
                assert os.getpgid(each) != os.getpgid(0)
                assert os.getpriority(os.PRIO_PROCESS, each) > os.getpriority(os.PRIO_PROCESS, 0)
                limits = {
                    line[:25].strip(): line[25:].split()[0] for line in (place / "limits").read_text().splitlines()
                }
                assert int(limits["Max address space"]) < 1 << 30
                assert int(limits["Max file size"]) <= 128 << 20
                assert limits["Max core file size"] == "0"
            status = Path(f"/proc/{pid}/status").read_text()
            assert "Uid:\t0\t" not in status
            assert CREW.server is not None
            home = Path(CREW.server.place)
            assert home.stat().st_mode & 0o077 == 0
            listening = Path(f"/proc/{parent_of(pid)}/net/unix").read_text()
            assert str(home) in listening
            return pid, home

    pid, home = asyncio.run(scenario())
    CREW.close()
    assert not home.exists()
    assert not lives(pid)


@pytest.mark.slow
def test_a_server_ends_with_its_owner() -> None:
    """However that ends."""
    program = (
        "import asyncio, os, signal; from admin.sql.server import Server; s = Server(); asyncio.run(s.ready());"
        "print(s.pid, s.place, flush=True); os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", program],
        env={**os.environ, **imports()}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == -signal.SIGKILL, done.stderr
    pid, place = done.stdout.split()
    asyncio.run(gone(int(pid)))
    until(lambda: not Path(place).exists(), "its place to be cleared")


@pytest.mark.slow
def test_a_server_that_is_given_up_while_it_is_made_is_made_no_further(monkeypatch: pytest.MonkeyPatch) -> None:
    """Thirty that nobody wanted any more took the processor from the one that somebody waited for: forty seconds."""
    with tempfile.TemporaryDirectory() as top:
        os.chmod(top, 0o755)
        monkeypatch.setenv("TMPDIR", top)
        server = Server()
        until(lambda: list(Path(top).glob("*/data/*")), "initdb to be at work")
        server.end()
        until(lambda: not server.lives(), "its end")
        assert server._process.returncode == 0
        until(lambda: group_gone(server.pid), "the end of its programs")
        assert not os.listdir(top)


def group_gone(pid: int) -> bool:
    try:
        os.killpg(pid, 0)
    except ProcessLookupError:
        return True
    return False


@pytest.mark.slow
def test_without_descriptors_the_statement_is_refused_and_later_answered() -> None:
    CREW.close()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)

    async def scenario() -> None:
        async with calling() as caller:
            resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")), hard))
            try:
                answer = await caller.query("select 1")
                assert rows(await caller.query("show version"))
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            why = "cannot start PostgreSQL for the statement: Too many open files"
            assert errors(answer) == [("53000", why)]
            assert rows(await caller.query("select 1")) == [["1"]]

    run(scenario())


@pytest.mark.slow
def test_without_a_place_for_files_the_statement_is_refused_and_shows_are_not(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path / "nowhere"))
    monkeypatch.setattr("admin.sql.throwaway.tempfile.tempdir", None)
    CREW.close()

    async def scenario() -> None:
        async with calling() as caller:
            monkeypatch.setattr(crew, "Server", NoPlace)
            (found,) = errors(await caller.query("select 1"))
            assert found == ("58000", "PostgreSQL for the statement does not start: no place for it")
            assert rows(await caller.query("show version"))
            monkeypatch.undo()
            assert rows(await caller.query("select 1")) == [["1"]]

    run(scenario())


class NoPlace(Server):
    async def ready(self) -> None:
        raise Unavailable("no place for it")


def test_nothing_of_a_statement_is_left_for_the_next() -> None:
    async def scenario() -> None:
        async with calling() as caller:
            await warm(caller)
            for sql in ("select 1/(id - 2) from clients", "select * from clients", "select nosuch from clients"):
                await caller.query(sql)
                assert rows(await caller.query("select count(*) from clients")) == [["3"]]
                assert rows(await caller.query("select pg_relation_size('pg_temp.clients')")) == [["0"]]

    run(scenario())


def test_shows_and_verbs_need_no_process() -> None:
    CREW.close()

    async def scenario() -> None:
        async with calling() as caller:
            for sql in ("show pools", "show clients", "reload", "begin", "set timezone = 'UTC'", "show all", "fly"):
                await caller.query(sql)
                await ask(caller, sql)
            assert not CREW.running

    run(scenario())


@pytest.mark.slow
def test_a_process_that_is_not_needed_is_ended_but_for_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crew, "IDLE_SECONDS", 0.05)
    CREW.close()

    async def scenario() -> None:
        async with calling() as one, calling() as two:
            await asyncio.gather(one.query("select 1"), two.query("select 2"))
            async with asyncio.timeout(10):
                while len(CREW.idle) != 1:
                    await asyncio.sleep(0.01)
            assert rows(await one.query("select 3")) == [["3"]]

    run(scenario())


# ---- its length


@pytest.mark.parametrize(
    ("sql", "error"),
    [
        ("select 1 -- " + "x" * inbox.LONGEST, ("54000", "message is too long: 65549 bytes, at most 65536")),
        ("select 1;" * 20_000, ("54000", "message is too long: 180001 bytes, at most 65536")),
        ("select " + "+".join("1" * 20_000), ("54001", "statement is too complex: more than 10000 words and signs")),
        ("select " + "+" * 60_000, ("54001", "statement is too complex: more than 10000 words and signs")),
        ("show version;" * 4_000, ("54001", "statement is too complex: more than 10000 words and signs")),
        ("show version;" * 300, ("54000", "too many statements in one query: at most 200")),
        (";a" * 400, ("54000", "too many statements in one query: at most 200")),
    ],
    ids=lambda value: str(value)[:20],
)
@pytest.mark.parametrize("extended", [False, True], ids=["simple", "extended"])
def test_a_statement_is_bounded_before_it_is_read(sql: str, error: tuple[str, str], extended: bool) -> None:
    async def scenario() -> None:
        async with calling(rights="stats") as caller:
            answer = await (ask(caller, sql) if extended else caller.query(sql))
            (found,) = errors(answer)
            if extended and found[1].startswith("message is too long"):
                assert found[0] == error[0]  # Parse has a name and types beside the text
            else:
                assert found == error
            assert tags(await caller.query("show version")) == ["SHOW"]

    run(scenario())


def test_a_message_that_is_too_long_is_not_collected() -> None:
    async def scenario() -> None:
        async with calling(rights="stats") as caller:
            size = 40 << 20
            await caller.send(b"Q" + (size + 4).to_bytes(4, "big"))
            before = resident()
            for _ in range(size >> 16):
                await caller.send(bytes(1 << 16))
            assert errors(await caller.until()) == [("54000", f"message is too long: {size} bytes, at most 65536")]
            assert resident() - before < size // 4
            assert tags(await caller.query("show version")) == ["SHOW"]

    run(scenario())


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.slow
def test_a_bind_that_is_too_long_is_skipped_until_sync() -> None:
    async def scenario() -> None:
        async with calling() as caller:
            await caller.send(
                wire.parse("", "select $1"), wire.bind("", "", ["x" * inbox.LONGEST]), wire.execute(""), wire.sync()
            )
            answer = await caller.until()
            assert kinds(answer) == "1EZ"
            assert errors(answer)[0][0] == "54000"

    run(scenario())


def test_what_is_read_ahead_is_bounded_in_bytes() -> None:
    async def scenario() -> None:
        house = FakeHouse(waits={"PAUSE"})
        async with calling(house) as caller:
            await caller.send(wire.query("PAUSE"))
            flood = asyncio.create_task(caller.send(*(wire.query("show version -- " + "x" * 60_000),) * 64))
            async with asyncio.timeout(10):
                while not house.performed:
                    await asyncio.sleep(0.001)
            await asyncio.wait((flood,), timeout=0.1)
            assert not flood.done()
            caller.session.canceled.set()
            for _ in range(65):
                await caller.until()
            await flood

    run(scenario())


@pytest.mark.parametrize(
    "sql", ["/* {} */ show version", "show /* {} */ version -- {}", "/* {} */ reload; -- {}", "/*{}*/ begin; commit"]
)
def test_a_command_between_long_comments_is_a_command(sql: str) -> None:
    async def scenario() -> None:
        house = FakeHouse()
        async with calling(house) as caller:
            answer = await caller.query(sql.replace("{}", "tag " * 1000))
            assert not errors(answer)
            assert len(house.performed) == ("reload" in sql)

    run(scenario())


@pytest.mark.slow
def test_long_statements_are_what_short_ones_are() -> None:
    padding = "/* " + "x" * 2000 + " */"

    async def scenario() -> None:
        async with calling() as caller:
            assert rows(await caller.query(f"select key {padding} from state where value = 'yes'")) == [["active"]]
            assert rows(await caller.query(f"show pools where user = 'amy' {padding}"))
            both = await caller.query(f"show version; select 1 {padding}; begin")
            assert tags(both) == ["SHOW", "SELECT 1", "BEGIN"]
            assert tags(await caller.query(f"set search_path to {', '.join(['a'] * 3000)}")) == ["SET"]
            assert tags(await caller.query(f"SET application_name = '{'x' * 5000}'; select 1")) == ["SET", "SELECT 1"]
            many = ", ".join(["list"] * 400)
            await caller.query(f"declare c cursor for select {many} from lists")
            assert tags(await caller.query("fetch 2 c")) == ["FETCH 2"]
            for wrong in (f"fly {padding}", f"show 'x {padding}", f"insert into pools {padding}"):
                state, message = errors(await caller.query(wrong))[0]
                assert state == "08P01"
                assert message.startswith(f"invalid command '{wrong[:50]}")
                assert len(message) < 1100

    run(scenario())


# ---- what it holds


async def prepared(caller: Caller, count: int, size: int) -> list[Message]:
    for number in range(count):
        await caller.send(wire.parse(f"s{number}", "show version -- " + "x" * size), wire.sync())
        answer = await caller.until()
        if errors(answer):
            break
    return answer


def test_prepared_statements_are_bounded_together() -> None:
    async def scenario() -> None:
        async with calling() as caller:
            assert errors(await prepared(caller, 100, 50_000)) == [("53400", "too many prepared statements")]
            await caller.query("deallocate all")
            assert not errors(await prepared(caller, 500, 100))

    run(scenario())


def test_portals_that_hold_rows_are_few() -> None:
    async def scenario() -> None:
        async with calling() as caller:
            await caller.query("begin")
            await caller.send(wire.parse("s", "show lists"), wire.sync())
            await caller.until()
            for number in range(portals.MOST_OPEN + 1):
                await caller.send(wire.bind(f"p{number}", "s", []), wire.execute(f"p{number}", 1), wire.sync())
                answer = await caller.until()
            assert errors(answer) == [("53400", "too many open portals: at most 8 may hold rows")]
            await caller.send(wire.close(b"P", "p0"), wire.execute("p8", 1), wire.sync())
            assert kinds(await caller.until()) == "3DsZ"

    run(scenario())


def large(count: int = 20_000) -> FakeHouse:
    return FakeHouse(snapshot(clients=tuple(connection("C", id) for id in range(count))))


@pytest.mark.slow
@pytest.mark.parametrize("sql", ["select * from clients", "show clients"])
def test_who_takes_nothing_gets_up_when_others_wait(sql: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for place, name in ((CREW, "seats"), (interpreter, "SHOWING")):
        monkeypatch.setattr(place, name, Seats(1, patience=0.2, wait=10))

    async def scenario() -> None:
        house = large()
        async with calling(house) as idle, calling(house) as other:
            await idle.query("begin")
            await idle.send(wire.parse("", sql), wire.bind("", "", []), wire.execute("", 1), wire.sync())
            assert kinds(await idle.until()) == "12DsZ"
            answer = await other.query(sql)
            assert len(rows(answer)) == 20_000
            await idle.send(wire.execute("", 0), wire.sync())
            why = "canceling statement: its rows were not taken while others waited"
            assert errors(await idle.until()) == [("57014", why)]

    run(scenario())


@pytest.mark.slow
def test_who_does_not_read_gets_up_when_others_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interpreter, "SHOWING", Seats(1, patience=0.2, wait=10))

    async def scenario() -> None:
        house = large()
        async with calling(house) as deaf, calling(house) as other:
            await deaf.send(wire.query("show clients"))
            assert len(rows(await other.query("show clients"))) == 20_000
            answer = await deaf.until()
            assert [state for state, _ in errors(answer)] == ["57014"]
            assert len(rows(answer)) < 20_000
            assert tags(await deaf.query("show version")) == ["SHOW"]

    run(scenario())


@pytest.mark.slow
def test_administrators_are_seated_first_and_nobody_waits_for_ever() -> None:
    async def scenario() -> None:
        seats = Seats(1, patience=60, wait=0.3)
        seat = await seats.take(first=False)
        order: list[str] = []

        async def take(name: str, first: bool) -> None:
            own = await seats.take(first=first)
            order.append(name)
            own.leave()

        names = ("a", "b", "admin 1", "admin 2")
        waiting = [asyncio.create_task(take(name, name.startswith("admin"))) for name in names]
        await asyncio.sleep(0)
        waiting[0].cancel()
        await asyncio.sleep(0)
        seat.leave()
        await asyncio.wait(waiting)
        assert order == ["admin 1", "admin 2", "b"]
        seat = await seats.take(first=False)
        with pytest.raises(CommandError, match="too many statements at once") as refused:
            await seats.take(first=True)
        assert refused.value.sqlstate == "53000"
        seat.leave()
        assert not seats.taken

    run(scenario())


def test_a_turn_that_comes_when_nobody_wants_it_any_more_goes_on() -> None:
    async def scenario() -> None:
        seats = Seats(1, patience=60, wait=10)
        seat = await seats.take(first=False)
        waiting = [asyncio.create_task(seats.take(first=False)) for _ in range(2)]
        await asyncio.sleep(0)
        seat.leave()
        waiting[0].cancel()  # its seat is there, and it does not know yet
        (await waiting[1]).leave()
        assert waiting[0].cancelled() or waiting[0].done()
        if not waiting[0].cancelled():
            waiting[0].result().leave()
        assert not seats.taken

    run(scenario())


@pytest.mark.slow
def test_many_consoles_at_once_are_all_answered() -> None:
    async def scenario() -> None:
        house = large(2_000)

        async def visit(number: int) -> None:
            async with calling(house, "stats") as caller:
                answer = await caller.query(f"select count(*), {number} from clients")
                assert rows(answer) == [["2000", str(number)]]
                assert len(rows(await caller.query("show clients"))) == 2_000

        await asyncio.gather(*map(visit, range(30)))
        assert len(CREW.idle) <= crew.MOST

    run(scenario())


@pytest.mark.parametrize("turns", range(40))
def test_a_session_may_be_cancelled_at_any_time(turns: int) -> None:
    """In whichever turn of the loop it happens: no seat is left taken."""

    async def scenario() -> None:
        async with calling(large(10)) as caller:
            await caller.send(wire.query("select * from clients; show clients"))
            for _ in range(turns):
                await asyncio.sleep(0)
            caller.task.cancel()
            await asyncio.wait((caller.task,))

    with contextlib.suppress(asyncio.CancelledError):
        run(scenario())


@pytest.mark.parametrize("first", range(0, 60, 10))
def test_a_cancel_request_may_come_at_any_time(first: int) -> None:
    async def scenario() -> None:
        async with calling(large(10)) as caller:
            for turns in range(first, first + 10):
                await caller.send(wire.query("select * from clients; show clients"))
                for _ in range(turns):
                    await asyncio.sleep(0)
                caller.session.canceled.set()
                states = [state for state, _ in errors(await caller.until())]
                assert states in ([], ["57014"])
                assert not CREW.seats.taken

    run(scenario())
