"""auth_query: whom to ask, what is asked, and what an answer may be."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pooler import wire
from pooler.clients.lookup import NoAnswer, Question, ask, question
from pooler.config.databases import DatabaseConfig
from pooler.config.users import Secret
from pooler.config.whole import compose
from pooler.net.channel import Channel, ConnectionClosed
from pooler.pools.refusal import LoginError
from tests.unit.pairs import channels, run

QUERY = "SELECT usename, passwd FROM pg_shadow WHERE usename = $1"
COLUMNS = wire.row_description([("usename", 19), ("passwd", 25)])
HEAD = wire.parse_complete() + wire.bind_complete() + COLUMNS
TAIL = wire.command_complete("SELECT 1") + wire.ready_for_query()
FOUND = HEAD + wire.data_row(["bob", "md5abc"]) + TAIL


async def read_question(channel: Channel) -> list[tuple[bytes, bytes]]:
    messages = [await channel.read_message()]
    while messages[-1][0] != b"H":
        messages.append(await channel.read_message())
    return messages


def asked(answer: bytes) -> Secret | None:
    async def main() -> Secret | None:
        mine, theirs = channels()
        await theirs.send(answer)
        theirs_closing = asyncio.create_task(read_question(theirs))
        try:
            return await ask(mine, QUERY, "bob")
        finally:
            await theirs_closing
            theirs.abort()
            mine.abort()

    return run(main())


def test_the_user_travels_as_a_parameter() -> None:
    async def main() -> list[tuple[bytes, bytes]]:
        mine, theirs = channels()
        await theirs.send(FOUND)
        await ask(mine, QUERY, "bob'; DROP TABLE x; --")
        messages = await read_question(theirs)
        mine.abort()
        theirs.abort()
        return messages

    messages = dict(run(main()))
    assert wire.read_parse(messages[b"P"]) == wire.Parse("", QUERY, ())
    assert wire.read_bind(messages[b"B"]).parameters == (b"bob'; DROP TABLE x; --",)


def test_answers() -> None:
    assert asked(FOUND) == Secret("bob", "md5abc")
    assert asked(HEAD + TAIL) is None
    expired = asked(HEAD + wire.data_row(["bob", None]) + TAIL)
    assert expired is not None
    assert expired.text == ""
    for nobody in ([None, None], [None, "x"], ["", "x"], ["x" * 128, "x"]):
        assert asked(HEAD + wire.data_row(nobody) + TAIL) is None
    long = asked(HEAD + wire.data_row(["bob", "x" * 65_535]) + TAIL)
    assert long is not None
    assert long.text == "x" * 65_535
    noisy = wire.notice_response("NOTICE", "00000", "hi") + wire.parameter_status("a", "b") + FOUND
    assert asked(noisy) == Secret("bob", "md5abc")


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (wire.row_description([("a", 25)]), "expected 2 columns from auth_query, not 1"),
        (wire.error_response("ERROR", "42P01", "no table"), "error response from auth_query"),
        (wire.no_data(), "unexpected response from auth_query"),
        (b"D\0\0\0\5x", "unexpected response from auth_query"),
        (b"D\xff\xff\xff\xff", "unexpected response from auth_query"),
    ],
)
def test_answers_that_are_none(answer: bytes, message: str) -> None:
    with pytest.raises(NoAnswer) as caught:
        asked(answer)
    assert caught.value.reason == message


@settings(max_examples=40, deadline=None)
@given(st.binary(max_size=80))
def test_any_bytes_are_a_secret_or_an_error(data: bytes) -> None:
    async def main() -> None:
        mine, theirs = channels()
        await theirs.send(HEAD + data)
        theirs.abort()
        try:
            await ask(mine, QUERY, "bob")
        except (NoAnswer, ConnectionClosed):
            return
        finally:
            mine.abort()

    run(main())


APP = DatabaseConfig("app")
OWN = DatabaseConfig("own", auth_user="eve", auth_query="SELECT 1", auth_dbname="app")


@pytest.mark.parametrize(
    ("texts", "database", "asked"),
    [
        ({}, APP, None),
        ({"auth_user": "bob", "auth_query": "Q"}, APP, Question(APP, "bob", "Q")),
        ({"auth_user": "bob", "auth_query": "Q"}, None, None),
        ({"auth_user": "bob", "auth_query": "Q", "auth_dbname": "app"}, None, Question(APP, "bob", "Q")),
        ({"auth_user": "bob", "auth_query": "Q"}, OWN, Question(APP, "eve", "SELECT 1")),
        ({}, OWN, Question(APP, "eve", "SELECT 1")),
    ],
)
def test_whom_to_ask(texts: dict[str, str], database: DatabaseConfig | None, asked: Question | None) -> None:
    assert question(compose(texts).settings, database, {"app": APP}.get) == asked


def test_an_auth_dbname_that_leads_nowhere() -> None:
    settings = compose({"auth_user": "bob", "auth_dbname": "nowhere"}).settings
    with pytest.raises(LoginError, match="bouncer config error") as caught:
        question(settings, APP, {"app": APP}.get)
    assert caught.value.log == 'authentication database "nowhere" is not configured.'


def test_the_admin_database_cannot_be_asked() -> None:
    settings = replace(compose({"auth_user": "bob"}).settings, auth_dbname="pgbouncer")
    with pytest.raises(LoginError, match="bouncer config error") as caught:
        question(settings, APP, {"app": APP}.get)
    assert caught.value.log == 'cannot use the reserved "pgbouncer" database as an auth_dbname'
