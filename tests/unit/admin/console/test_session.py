"""The console's session over a socketpair: welcome, simple and extended protocol, waiting, leaving,
canceling."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from admin import commands
from admin.console import session as console
from pooler import wire
from pooler.net.channel import ConnectionClosed
from pooler.verbs import CommandError, Verb
from tests.fixtures.console import (
    FakeHouse,
    ask,
    calling,
    columns,
    connection,
    errors,
    kinds,
    rows,
    snapshot,
    tags,
)

pytestmark = pytest.mark.filterwarnings("error")


def run(scenario: object) -> None:
    asyncio.run(scenario)  # type: ignore[arg-type]


# ---- welcome


def test_the_welcome_is_pgbouncers() -> None:
    async def scenario() -> None:
        async with calling(welcome=False) as caller:
            welcome = await caller.until()
            assert [wire.read_parameter_status(body) for kind, body in welcome if kind == b"S"] == [
                ("pgbouncer.version", "1.26.1"),
                ("server_version", "1.26.1/bouncer"),
                ("client_encoding", "UTF8"),
                ("server_encoding", "UTF8"),
                ("DateStyle", "ISO"),
                ("TimeZone", "GMT"),
                ("standard_conforming_strings", "on"),
                ("is_superuser", "on"),
            ]
            assert welcome[-2:] == [(b"K", caller.session.cancel_key), (b"Z", b"I")]

    run(scenario())


# ---- simple protocol


def test_show_answers_rows_and_the_tag_show() -> None:
    async def scenario() -> None:
        async with calling() as caller:
            answer = await caller.query("SHOW LISTS;")
            assert kinds(answer) == "T" + "D" * 14 + "CZ"
            assert columns(answer) == [("list", 25), ("items", 23)]
            assert rows(answer)[:2] == [["databases", "0"], ["users", "1"]]
            assert tags(answer) == ["SHOW"]

    run(scenario())


@pytest.mark.parametrize("query", ["", ";", " ; ;", "-- ping", "/* nothing /* at all */ */", "-- ping\n;"])
def test_an_empty_query_is_fine(query: str) -> None:
    async def scenario() -> None:
        async with calling() as caller:
            assert kinds(await caller.query(query)) == "IZ"

    run(scenario())


def test_comments_and_several_statements() -> None:
    async def scenario() -> None:
        async with calling() as caller:
            answer = await caller.query("/* who */ show version; -- and\nshow state;")
            assert kinds(answer) == "TDCTDDCZ"

    run(scenario())


def test_nothing_is_done_when_one_statement_is_wrong() -> None:
    async def scenario() -> None:
        house = FakeHouse()
        async with calling(house) as caller:
            answer = await caller.query("reload; fly")
            assert errors(answer) == [("08P01", "invalid command 'fly', use SHOW HELP;")]
            assert not house.performed

    run(scenario())


def test_help_is_a_notice_without_rows() -> None:
    async def scenario() -> None:
        async with calling() as caller:
            answer = await caller.query("show help")
            assert kinds(answer) == "NCZ"
            notice = wire.error_fields(answer[0][1])
            assert (notice["S"], notice["C"], notice["M"]) == ("NOTICE", "00000", "Console usage")
            assert "SHOW HELP" in notice["D"]
            assert tags(answer) == ["SHOW"]

    run(scenario())


@pytest.mark.parametrize(
    "query",
    ["foo", "foo;", "show foo", "show pools extra", "shutdown soon", "reload x", "set", "show 'x",
    "sélect 1", "\N{PILE OF POO}",
     "insert into pools values (1)", "copy pools from stdin", "set max_client_conn = 5 6"],
)  # fmt: skip
def test_an_unknown_command_is_quoted_and_survived(query: str) -> None:
    async def scenario() -> None:
        async with calling() as caller:
            answer = await caller.query(query)
            assert errors(answer) == [("08P01", f"invalid command '{query}', use SHOW HELP;")]
            assert kinds(answer) == "EZ"
            assert tags(await caller.query("show version")) == ["SHOW"]

    run(scenario())


@pytest.mark.parametrize(
    ("query", "verb", "tag"),
    [
        ("reload", Verb("RELOAD"), "RELOAD"),
        ("PAUSE", Verb("PAUSE"), "PAUSE"),
        ("pause shop", Verb("PAUSE", "shop"), "PAUSE"),
        ('disable "my db"', Verb("DISABLE", "my db"), "DISABLE"),
        ("kill_client 5", Verb("KILL_CLIENT", "5"), "KILL_CLIENT"),
        ("wait_close", Verb("WAIT_CLOSE"), "WAIT_CLOSE"),
        ("shutdown wait_for_servers", Verb("SHUTDOWN", "WAIT_FOR_SERVERS"), "SHUTDOWN"),
        ("set default_pool_size = 7", Verb("SET", "default_pool_size", "7"), "SET default_pool_size=7"),
        ("set server_check_query='{}'", Verb("SET", "server_check_query", "{}"), "SET server_check_query={}"),
    ],
)
def test_a_verb_reaches_the_house(query: str, verb: Verb, tag: str) -> None:
    async def scenario() -> None:
        house = FakeHouse()
        async with calling(house) as caller:
            assert tags(await caller.query(query)) == [tag]
            assert house.performed == [verb]

    run(scenario())


def test_a_refusal_carries_its_sqlstate() -> None:
    async def scenario() -> None:
        message = "RELOAD failed, see logs for additional details"
        house = FakeHouse(refuses={"RELOAD": CommandError(message, "F0000")})
        async with calling(house) as caller:
            assert errors(await caller.query("RELOAD")) == [("F0000", message)]

    run(scenario())


def test_shutdown_at_once_says_nothing_more() -> None:
    async def scenario() -> None:
        async with calling() as caller:
            await caller.send(wire.query("shutdown"))
            with pytest.raises(ConnectionClosed):
                await caller.read()

    run(scenario())


VERBS = [
    "set max_client_conn = 1", "reload", "pause", "pause shop", "resume", "disable shop", "enable shop",
    "reconnect",
    "wait_close", "kill", "kill shop", "kill_client 1", "suspend", "shutdown", "shutdown wait_for_clients",
    "show fds",
    "select fds", "select * from fds", "show fds where fd > 0", "set no_such_setting = 1",
]  # fmt: skip


@pytest.mark.parametrize("query", VERBS)
@pytest.mark.parametrize("extended", [False, True], ids=["simple", "extended"])
def test_a_stats_user_changes_nothing_by_either_protocol(query: str, extended: bool) -> None:
    async def scenario() -> None:
        house = FakeHouse()
        async with calling(house, "stats") as caller:
            answer = await (ask(caller, query) if extended else caller.query(query))
            assert errors(answer) == [("08P01", "admin access needed")]
            assert not house.performed
            assert tags(await caller.query("show version")) == ["SHOW"]

    run(scenario())


def test_the_verbs_above_are_all_there_are() -> None:
    tried = {query.split()[0].upper() for query in VERBS}
    assert {command.name for command in commands.COMMANDS if not command.view} <= tried


@pytest.mark.parametrize(
    ("query", "tag"),
    [
        ("BEGIN", "BEGIN"),
        ("start transaction isolation level serializable", "START TRANSACTION"),
        ("commit", "COMMIT"),
        ("rollback", "ROLLBACK"),
        ("savepoint a", "SAVEPOINT"),
        ("discard all", "DISCARD ALL"),
        ("deallocate all", "DEALLOCATE ALL"),
        ("DEALLOCATE PREPARE ALL", "DEALLOCATE ALL"),
        ("reset all", "RESET"),
        ("reset search_path", "RESET"),
        ("unlisten *", "UNLISTEN"),
        ("close all", "CLOSE CURSOR ALL"),
        ("SET extra_float_digits = 3", "SET"),
        ("SET application_name TO 'x y'", "SET"),
        ("set search_path to a, b", "SET"),
        ("set local statement_timeout = '5s'", "SET"),
        ("set session characteristics as transaction read only", "SET"),
        ("set time zone 'UTC'", "SET"),
        ("set names 'UTF8'", "SET"),
        ("set my.own = 'thing'", "SET"),
        ("set DateStyle = 'ISO, MDY'", "SET"),
    ],
)
@pytest.mark.parametrize("rights", ["admin", "stats"])
def test_what_drivers_say_to_everybody_is_accepted(query: str, tag: str, rights: str) -> None:
    async def scenario() -> None:
        house = FakeHouse()
        async with calling(house, rights) as caller:  # type: ignore[arg-type]
            answer = await caller.query(query)
            assert tags(answer) == [tag], errors(answer)
            assert not house.performed

    run(scenario())


def test_setting_a_fake_parameter_says_so() -> None:
    async def scenario() -> None:
        async with calling() as caller:
            answer = await caller.query("SET client_encoding = 'LATIN1'")
            assert kinds(answer) == "NCZ"
            assert wire.error_fields(answer[0][1])["M"] == "SET ignored"

    run(scenario())


def test_a_mistyped_setting_is_no_session_parameter() -> None:
    async def scenario() -> None:
        async with calling() as caller:
            assert errors(await caller.query("set defualt_pool_size = 5")) == [("08P01", "SET failed")]
            assert errors(await caller.query("set application_nmae to x, y")) != []

    run(scenario())


@pytest.mark.parametrize(
    ("query", "value"),
    [
        ("show client_encoding", "UTF-8"),
        ("show timezone", "GMT"),
        ("show time zone", "GMT"),
        ("SHOW default_transaction_isolation", "read committed"),
        ("SHOW TRANSACTION ISOLATION LEVEL", "read committed"),
        ("show transaction_isolation", "read committed"),
        ("show server_version", "1.26.1/bouncer"),
        ("show server_version_num", "12601"),
        ("show application_name", "probe"),
        ("show standard_conforming_strings", "on"),
        ("show search_path", '"$user", public'),
    ],
)
def test_session_parameters_have_values(query: str, value: str) -> None:
    async def scenario() -> None:
        async with calling(application_name="probe") as caller:
            answer = await caller.query(query)
            assert rows(answer) == [[value]]
            assert tags(answer) == ["SHOW"]

    run(scenario())


def test_show_all_lists_parameters_and_settings() -> None:
    async def scenario() -> None:
        async with calling() as caller:
            names = [row[0] for row in rows(await caller.query("show all"))]
            assert "server_version" in names
            assert "default_pool_size" in names

    run(scenario())


def test_transaction_status_is_what_was_said() -> None:
    async def scenario() -> None:
        async with calling() as caller:
            said = [(await caller.query(query))[-1][1] for query in ("begin", "fly", "show state", "rollback")]
            assert said == [b"T", b"T", b"T", b"I"]

    run(scenario())


# ---- waiting, leaving, canceling


async def until(condition: object, *args: object) -> None:
    async with asyncio.timeout(10):
        while not condition(*args):  # type: ignore[operator]
            await asyncio.sleep(0.001)


def test_an_answer_waits_for_the_house_and_a_client_that_leaves_ends_the_waiting() -> None:
    async def scenario() -> None:
        house = FakeHouse(waits={"PAUSE"})
        async with calling(house) as caller:
            await caller.send(wire.query("PAUSE shop"))
            await until(lambda: house.performed)
            assert not house.interrupted
            await caller.channel.close()
            await until(lambda: house.interrupted)
        assert house.interrupted == [Verb("PAUSE", "shop")]

    run(scenario())


def test_what_needs_no_waiting_is_done_even_for_one_who_has_left() -> None:
    async def scenario() -> None:
        house = FakeHouse()
        async with calling(house) as caller:
            await caller.send(wire.query("reload"), wire.terminate())
            await caller.channel.close()
            await caller.task
        assert house.performed == [Verb("RELOAD")]

    run(scenario())


@pytest.mark.parametrize(
    ("query", "after"),
    [("pause shop", [Verb("RESUME", "shop")]), ("wait_close", []), ("suspend", [Verb("RESUME")])],
)
def test_a_cancel_request_ends_the_waiting(query: str, after: list[Verb]) -> None:
    async def scenario() -> None:
        house = FakeHouse(waits={"PAUSE", "WAIT_CLOSE", "SUSPEND"})
        async with calling(house) as caller:
            await caller.send(wire.query(query))
            await until(lambda: house.performed)
            caller.session.canceled.set()
            answer = await caller.until()
            assert errors(answer) == [("57014", "canceling statement due to user request")]
            assert house.performed[1:] == after
            assert tags(await caller.query("show version")) == ["SHOW"]

    run(scenario())


def test_queries_sent_meanwhile_are_answered_later() -> None:
    async def scenario() -> None:
        house = FakeHouse(waits={"WAIT_CLOSE"})
        async with calling(house) as caller:
            await caller.send(wire.query("wait_close"), wire.query("show version"))
            await until(lambda: house.performed)
            caller.session.canceled.set()
            assert errors(await caller.until()) != []
            assert tags(await caller.until()) == ["SHOW"]

    run(scenario())


def test_a_polite_goodbye_ends_the_session() -> None:
    async def scenario() -> None:
        async with calling() as caller:
            await caller.send(wire.terminate())
            await caller.task

    run(scenario())


# ---- bad messages


@pytest.mark.parametrize(
    ("message", "text"),
    [
        (wire.message(b"Q", b"no end"), "incomplete query"),
        (wire.message(b"Q", b"show\0more\0"), "incomplete query"),
        (wire.message(b"d", b"x"), "unsupported packet type for admin console: 100"),
        (wire.message(b"P", b"\0"), "broken Parse packet"),
        (wire.message(b"B", b""), "broken Bind packet"),
        (wire.message(b"D", b"X\0"), "broken Describe packet"),
        (b"Q\0\0\0\1", "bad packet header: '5100000001'"),
        (b"Q\x7f\0\0\0", "bad packet header: '517f000000'"),
    ],
)
def test_a_message_that_is_none_ends_the_session_with_a_reason(message: bytes, text: str) -> None:
    async def scenario() -> None:
        async with calling() as caller:
            await caller.send(message)
            kind, body = await caller.read()
            fields = wire.error_fields(body)
            assert (kind, fields["S"], fields["C"], fields["M"]) == (b"E", "FATAL", "08P01", text)
            with pytest.raises(ConnectionClosed):
                await caller.read()

    run(scenario())


def test_function_calls_are_refused_politely() -> None:
    async def scenario() -> None:
        async with calling() as caller:
            await caller.send(wire.message(b"F", b"\0\0\0\1"))
            assert kinds(await caller.until()) == "EZ"

    run(scenario())


# ---- large views


def test_ten_thousand_clients_come_in_turns_of_the_loop() -> None:
    async def scenario() -> None:
        house = FakeHouse(snapshot(clients=tuple(connection("C", id) for id in range(10_000))))
        async with calling(house) as caller:
            turns = 0

            async def count() -> None:
                nonlocal turns
                while True:
                    await asyncio.sleep(0)
                    turns += 1

            counting = asyncio.create_task(count())
            answer = await caller.query("show clients")
            counting.cancel()
            assert len(rows(answer)) == 10_000
            assert turns > 20

    run(scenario())


@pytest.mark.slow
def test_a_client_that_does_not_read_stops_its_own_answer() -> None:
    async def scenario() -> None:
        house = FakeHouse(snapshot(clients=tuple(connection("C", id) for id in range(20_000))))
        async with calling(house) as caller, calling(house) as other:
            await caller.send(wire.query("show clients"))
            assert tags(await other.query("show version")) == ["SHOW"]
            assert len(rows(await caller.until())) == 20_000

    run(scenario())


# ---- whatever comes


WORDS = """
    show select pools from where begin set = 'x' " ' ; ( ) , * $1 -- /* */ pause kill_client 5
    max_client_conn to order by limit group count with recursive as union all values null :: cast int text
    like in between case when join on clients servers fds config pg_class pg_catalog . \\ $$ E'\\ 1e5 \udcff
"""
PIECES = st.sampled_from(WORDS.split())
TEXTS = st.text(max_size=60) | st.lists(PIECES, max_size=12).map(" ".join)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(TEXTS, min_size=1, max_size=5), st.booleans())
def test_any_query_gives_rows_a_tag_or_an_error(texts: list[str], extended: bool) -> None:
    async def scenario() -> None:
        async with calling(rights="stats") as caller:
            for text in texts:
                answer = await (ask(caller, text) if extended else caller.query(text))
                assert set(kinds(answer)) <= set("TDCINEZ12n")
                assert "XX000" not in [state for state, _ in errors(answer)]

    run(scenario())


MESSAGES = (
    wire.query("show version; fly")
    + wire.parse("s", "select database from pools where cl_waiting > $1")
    + wire.describe(b"S", "s")
    + wire.bind("p", "s", ["1"])
    + wire.describe(b"P", "p")
    + wire.execute("p", 1)
    + wire.close(b"P", "p")
    + wire.flush()
    + wire.sync()
    + wire.query("set timezone = 'UTC'; show timezone")
)


async def transcript(cuts: list[int]) -> list[tuple[bytes, bytes]]:
    async with calling() as caller:
        at = 0
        for cut in [*sorted(cuts), len(MESSAGES)]:
            await caller.send(MESSAGES[at:cut])
            at = cut
            await asyncio.sleep(0)
        return [*await caller.until(), *await caller.until(), *await caller.until()]


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, len(MESSAGES)), max_size=6))
def test_the_bytes_may_come_in_any_pieces(cuts: list[int]) -> None:
    assert asyncio.run(transcript(cuts)) == whole()


def test_the_bytes_may_come_one_by_one() -> None:
    assert asyncio.run(transcript(list(range(len(MESSAGES))))) == whole()


def whole() -> list[tuple[bytes, bytes]]:
    answer = asyncio.run(transcript([]))
    assert kinds(answer) == "TDCEZ"[0:0] + kinds(answer)
    return answer


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(b"QPBDECSHFXdpz"), st.binary(max_size=20)), max_size=8))
def test_any_messages_are_answered_or_end_the_session(messages: list[tuple[int, bytes]]) -> None:
    async def scenario() -> None:
        async with calling(rights="stats") as caller:
            await caller.send(*(wire.message(bytes([kind]), body) for kind, body in messages), wire.sync())
            try:
                while (await caller.read())[0] != b"Z":
                    pass
            except ConnectionClosed:
                return

    run(scenario())


def test_a_bug_of_ours_is_an_error_and_a_log_line(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        house = FakeHouse()
        async with calling(house) as caller:
            house.snap = replace(house.snap, pools=None)  # type: ignore[arg-type]
            assert errors(await caller.query("show pools"))[0][0] == "XX000"
            house.snap = snapshot()
            assert tags(await caller.query("show pools")) == ["SHOW"]

    run(scenario())
    assert any(record.name == console.log.name for record in caplog.records)


@pytest.mark.parametrize(
    ("query", "message", "hint"),
    [
        ("SHOW POOL", "invalid command 'SHOW POOL', use SHOW HELP;", 'Perhaps you meant "SHOW POOLS".'),
        ("shwo pools", "invalid command 'shwo pools', use SHOW HELP;", 'Perhaps you meant "SHOW".'),
        ("paus", "invalid command 'paus', use SHOW HELP;", 'Perhaps you meant "PAUSE".'),
        ("xyzzy", "invalid command 'xyzzy', use SHOW HELP;", ""),
        ("set default_pool_sise = 3", "SET failed", 'Perhaps you meant "default_pool_size".'),
        ("select * from client", 'relation "client" does not exist', 'Perhaps you meant "clients".'),
        ("select * from nothing_like_it", 'relation "nothing_like_it" does not exist', ""),
    ],
)
def test_an_error_says_what_may_have_been_meant(query: str, message: str, hint: str) -> None:
    async def scenario() -> None:
        async with calling() as caller:
            (fields,) = [wire.error_fields(body) for kind, body in await caller.query(query) if kind == b"E"]
            assert (fields["M"], fields.get("H", "")) == (message, hint)
            assert query[:3] != "set" or fields["D"] == 'There is no setting "default_pool_sise".'

    asyncio.run(scenario())


def test_show_of_a_setting_is_its_value() -> None:
    async def scenario() -> None:
        async with calling(rights="stats") as caller:
            answer = await caller.query("SHOW max_client_conn")
            assert (columns(answer), rows(answer), tags(answer)) == ([("max_client_conn", 25)], [["100"]], ["SHOW"])
            assert rows(await caller.query("show users"))  # a view, whatever settings there are

    asyncio.run(scenario())
