"""The extended query protocol at the console: steps, errors, portals that stay, cursors named in SQL, binary."""

from __future__ import annotations

import asyncio
import struct

import pytest

from pooler import wire
from pooler.verbs import Verb
from tests.fixtures.console import FakeHouse, ask, calling, errors, kinds, rows, tags


def run(scenario: object) -> None:
    asyncio.run(scenario)  # type: ignore[arg-type]


def test_parse_bind_describe_execute_sync() -> None:
    async def scenario() -> None:
        async with calling() as caller:
            answer = await ask(caller, "SHOW STATE")
            assert kinds(answer) == "12TDDCZ"
            assert rows(answer)[0] == ["active", "yes"]
            assert tags(answer) == ["SHOW"]

    run(scenario())


@pytest.mark.parametrize(
    ("sql", "expected"),
    [("reload", "12nCZ"), ("show help", "12nNCZ"), ("", "12nIZ"), ("-- x", "12nIZ"), ("begin", "12nCZ"),
    ("fly", "EZ"),
     ("show version; show version", "EZ"), ("show fds", "12TDDCZ")],
)  # fmt: skip
def test_everything_goes_by_the_extended_protocol_too(sql: str, expected: str) -> None:
    async def scenario() -> None:
        async with calling() as caller:
            assert kinds(await ask(caller, sql)) == expected

    run(scenario())


def test_describing_a_statement_tells_parameters_and_columns_without_doing_it() -> None:
    async def scenario() -> None:
        house = FakeHouse()
        async with calling(house) as caller:
            await caller.send(wire.parse("s", "reload"), wire.describe(b"S", "s"), wire.sync())
            assert kinds(await caller.until()) == "1tnZ"
            assert not house.performed
            await caller.send(wire.bind("", "s", []), wire.execute(""), wire.sync())
            assert kinds(await caller.until()) == "2CZ"
            assert house.performed == [Verb("RELOAD")]

    run(scenario())


def test_after_an_error_everything_is_skipped_until_sync() -> None:
    async def scenario() -> None:
        house = FakeHouse()
        async with calling(house) as caller:
            await caller.send(
                wire.parse("", "fly"), wire.parse("", "reload"), wire.bind("", "", []), wire.execute(""),
                wire.query("reload"), wire.flush(), wire.sync(),
            )  # fmt: skip
            assert kinds(await caller.until()) == "EZ"
            assert not house.performed
            assert kinds(await ask(caller, "show version")) == "12TDCZ"

    run(scenario())


def test_an_error_is_told_before_sync() -> None:
    async def scenario() -> None:
        async with calling() as caller:
            await caller.send(wire.parse("", "fly"), wire.flush())
            assert (await caller.read())[0] == b"E"

    run(scenario())


def test_flush_shows_what_there_is_before_sync() -> None:
    async def scenario() -> None:
        async with calling() as caller:
            await caller.send(wire.parse("", "show version"), wire.flush())
            assert (await caller.read())[0] == b"1"

    run(scenario())


def test_a_row_limit_suspends_the_portal() -> None:
    async def scenario() -> None:
        async with calling() as caller:
            await caller.send(
                wire.parse("", "show lists"), wire.bind("", "", []),
                wire.execute("", 5), wire.execute("", 5), wire.execute("", 5), wire.execute("", 5),
                wire.sync(),
            )  # fmt: skip
            answer = await caller.until()
            assert kinds(answer) == "12DDDDDsDDDDDsDDDDCCZ"
            assert len({row[0] for row in rows(answer)}) == 14

    run(scenario())


def test_portals_live_as_long_as_the_transaction() -> None:
    async def scenario() -> None:
        async with calling() as caller:
            await caller.query("begin")
            await caller.send(wire.parse("", "show lists"), wire.bind("p", "", []), wire.execute("p", 2), wire.sync())
            assert kinds(await caller.until()) == "12DDsZ"
            await caller.send(wire.execute("p", 0), wire.sync())
            assert kinds(await caller.until()) == "D" * 12 + "CZ"
            await caller.query("commit")
            await caller.send(wire.sync())
            await caller.until()
            await caller.send(wire.execute("p", 0), wire.sync())
            assert errors(await caller.until()) == [("34000", 'portal "p" does not exist')]

    run(scenario())


@pytest.mark.parametrize(
    ("messages", "error"),
    [
        ([wire.bind("", "x", [])], ("26000", 'prepared statement "x" does not exist')),
        ([wire.execute("x")], ("34000", 'portal "x" does not exist')),
        ([wire.describe(b"S", "x")], ("26000", 'prepared statement "x" does not exist')),
        ([wire.parse("s", "show version"), wire.parse("s", "show version")],
         ("42P05", 'prepared statement "s" already exists')),
        ([wire.parse("", "show version"), wire.bind("", "", ["1"])],
         ("08P01", 'bind message supplies 1 parameters, but prepared statement "" requires 0')),
        ([wire.parse("", "reload"), wire.bind("", "", []), wire.execute(""), wire.execute("")],
         ("55000", 'portal "" cannot be run')),
    ],
)  # fmt: skip
def test_errors_of_the_extended_protocol_are_postgresqls(messages: list[bytes], error: tuple[str, str]) -> None:
    async def scenario() -> None:
        async with calling() as caller:
            await caller.send(*messages, wire.sync())
            assert errors(await caller.until()) == [error]

    run(scenario())


def test_close_and_discard_forget_statements() -> None:
    async def scenario() -> None:
        async with calling() as caller:
            for forget in (
                wire.close(b"S", "s") + wire.sync(),
                wire.query("discard all"),
                wire.query("deallocate s"),
            ):
                await caller.send(wire.parse("s", "show version"), wire.sync())
                assert kinds(await caller.until()) == "1Z"
                await caller.send(forget)
                await caller.until()
            await caller.send(wire.parse("s", "show version"), wire.sync())
            assert kinds(await caller.until()) == "1Z"
            assert errors(await caller.query("deallocate nobody")) == [
                ("26000", 'prepared statement "nobody" does not exist')
            ]

    run(scenario())


def bind_binary(formats: tuple[int, ...] = (1,)) -> bytes:
    codes = struct.pack(f"!h{len(formats)}h", len(formats), *formats)
    return wire.message(b"B", b"\0\0" + struct.pack("!hh", 0, 0) + codes)


def test_results_come_in_binary_when_asked() -> None:
    async def scenario() -> None:
        async with calling() as caller:
            await caller.send(wire.parse("", "show pools"), bind_binary(), wire.execute(""), wire.sync())
            answer = await caller.until()
            first = wire.read_data_row(next(body for kind, body in answer if kind == b"D"))
            assert first[:3] == [b"blog", b"amy", struct.pack("!i", 3)]
            await caller.send(wire.parse("", "show lists"), bind_binary((0, 1)), wire.execute(""), wire.sync())
            answer = await caller.until()
            assert wire.read_data_row(answer[2][1]) == [b"databases", struct.pack("!i", 0)]
            await caller.send(wire.parse("", "show lists"), bind_binary((0, 1, 1)), wire.execute(""), wire.sync())
            assert errors(await caller.until())[0][0] == "08P01"

    run(scenario())


# ---- cursors


def test_a_cursor_is_fetched_moved_and_closed() -> None:
    async def scenario() -> None:
        async with calling() as caller:
            await caller.query("begin; declare c cursor for select list from lists order by items")
            answer = await caller.query("fetch 2 from c; move 3 in c; fetch forward all from c; fetch c")
            assert tags(answer) == ["FETCH 2", "MOVE 3", "FETCH 9", "FETCH 0"]
            assert rows(answer)[0] == ["databases"]
            assert tags(await caller.query("close c; declare d scroll cursor for show state; fetch next d")) == [
                "CLOSE CURSOR", "DECLARE CURSOR", "FETCH 1",
            ]  # fmt: skip
            await caller.query("commit")
            assert errors(await caller.query("fetch d")) == [("34000", 'cursor "d" does not exist')]

    run(scenario())


def test_a_cursor_with_hold_outlives_its_transaction() -> None:
    async def scenario() -> None:
        async with calling() as caller:
            await caller.query('declare "My Own" no scroll cursor with hold for show lists')
            assert tags(await caller.query('fetch 3 "My Own"')) == ["FETCH 3"]
            assert tags(await caller.query('fetch all from "My Own"; close all')) == ["FETCH 11", "CLOSE CURSOR ALL"]

    run(scenario())


@pytest.mark.parametrize(
    ("sql", "error"),
    [
        ("declare c cursor for show lists", ("25P01", "DECLARE CURSOR can only be used in transaction blocks")),
        ("begin; declare c cursor for reload", ("42P11", "a cursor can only be for rows of a view")),
        ("begin; declare c cursor for fly", ("08P01", "invalid command 'declare c cursor for fly', use SHOW HELP;")),
        ("begin; declare c cursor for show state; declare c cursor for show state",
         ("42P03", 'cursor "c" already exists')),
        ("fetch backward 1 from c", ("55000", "cursor can only scan forward")),
        ("fetch 1 from nobody", ("34000", 'cursor "nobody" does not exist')),
        ("close nobody", ("34000", 'cursor "nobody" does not exist')),
        ("declare c cursor", ("08P01", "invalid command 'declare c cursor', use SHOW HELP;")),
    ],
)  # fmt: skip
def test_cursors_fail_as_postgresqls_do(sql: str, error: tuple[str, str]) -> None:
    async def scenario() -> None:
        async with calling() as caller:
            sqlstate, message = errors(await caller.query(sql))[0]
            assert sqlstate == error[0]
            assert message == error[1] or "fly" in sql

    run(scenario())


def test_a_cursor_by_the_extended_protocol_is_described() -> None:
    async def scenario() -> None:
        async with calling() as caller:
            await caller.query("begin")
            sql = "declare c cursor for select key from state where value = $1"
            await caller.send(wire.parse("", sql), wire.describe(b"S", ""), wire.bind("", "", ["no"]))
            await caller.send(wire.execute(""), wire.describe(b"P", "c"), wire.sync())
            assert kinds(await caller.until()) == "1tn2CTZ"
            answer = await ask(caller, "fetch all from c")
            assert kinds(answer) == "12TDCZ"
            assert rows(answer) == [["paused"]]

    run(scenario())


def test_a_cursor_nobody_finished_lets_go_of_its_rows() -> None:
    """A warning of an unclosed database would fail this test."""

    async def scenario() -> None:
        async with calling() as caller:
            await caller.query("begin; declare c cursor for select * from lists; fetch 1 c; rollback")
            await caller.query("declare h cursor with hold for select * from lists; fetch 1 h")

    run(scenario())
